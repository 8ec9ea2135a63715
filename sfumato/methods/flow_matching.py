"""Flow matching between two domains (https://arxiv.org/abs/2302.00482, https://arxiv.org/abs/2209.03003).

    x_t = (1 - t) x_0 + t x_1,     L = E |v(x_t, t) - (x_1 - x_0)|^2,     dx = v dt from the source x_1 to x_0

which is a bridge without noise.  The ODE keeps the laws of both ends, whatever pairs (x_0, x_1) it learns
from; the pairs decide what of a source is kept.  They are assigned by optimal transport between many
pictures of both domains (OT-CFM, Tong et al. 2023), drawn at random, given by the files' names, or made by
an earlier flow, whose ways then become straighter (rectified flow, Liu et al. 2022).  One network leads
both ways.

@article{tong2024improving,
  title = {Improving and Generalizing Flow-Based Generative Models with Minibatch Optimal Transport},
  author = {Tong, Alexander and Fatras, Kilian and Malkin, Nikolay and Huguet, Guillaume and Zhang, Yanlei and
            Rector-Brooks, Jarrid and Wolf, Guy and Bengio, Yoshua},
  journal = {Transactions on Machine Learning Research},
  year = {2024},
  url = {https://arxiv.org/abs/2302.00482}
}
@inproceedings{liu2023flow,
  title = {Flow Straight and Fast: Learning to Generate and Transfer Data with Rectified Flow},
  author = {Liu, Xingchao and Gong, Chengyue and Liu, Qiang},
  booktitle = {International Conference on Learning Representations},
  year = {2023},
  url = {https://arxiv.org/abs/2209.03003}
}
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from sfumato.core.arguments import Seed
from sfumato.core.errors import UserError
from sfumato.core.ranges import Count, Steps
from sfumato.diffusion.flow import FlowDenoiser
from sfumato.diffusion.integrate import OdeSolver
from sfumato.diffusion.watch import Watch
from sfumato.methods._shared.couplings import COSTS, Transport
from sfumato.methods._shared.unpaired import Pairs
from sfumato.methods.registry import Direction, end
from sfumato.module import Part
from sfumato.nets.sizes import make_net

Coupling = Literal["optimal", "independent", "given", "reflow"]


class FlowMatching(Part):
    """Both directions of a translation: one flow, forwards and backwards.

    Args:
        net: size of the network: tiny, small (1 M parameters, for CPUs), medium, large, thesis (58 M).
        coupling: which pictures it learns to lead to each other. optimal: by optimal transport between
            `pool_size` pictures of each side; independent: any; given: those of equal names in both folders;
            reflow: each with what the flow that is begun with (--from) makes of it.
        cost: what optimal transport keeps near: pixels, low_pass (colours of an eighth of the resolution), or
            the folder of a domain_classifier, whose features are compared.
        pool_size: pictures of each side that are assigned at once.
        loop_steps: steps of ab2 that make a pair of a reflow.
        buffer: pairs of a reflow that are kept for each direction.
        refresh: batches between new pairs of a reflow.
        channels: 3 for colour, 1 for gray, or as many as the files have bands.
    """

    data: ClassVar[str] = "unpaired"
    pairs_with: ClassVar[tuple[str, str]] = ("coupling", "given")
    """Then its folders hold pairs."""
    folders: ClassVar[dict[str, tuple[str, ...]]] = {"cost": COSTS}
    """Fields that are one of these names or a model, whose folder a training is told."""
    settings: ClassVar[dict[str, Any]] = {"batch": 16, "lr": 2e-3}
    only_with: ClassVar[dict[str, tuple[str, str]]] = dict.fromkeys(
        ("cost", "pool_size"), ("coupling", "optimal")
    ) | dict.fromkeys(("loop_steps", "buffer", "refresh"), ("coupling", "reflow"))

    net: str | nn.Module = "small"
    coupling: Coupling = "optimal"
    cost: str | nn.Module = "pixels"
    pool_size: Count = 1024
    loop_steps: Count = 18
    buffer: Count = 1024
    refresh: Count = 16
    channels: Count = 3

    def __post_init__(self) -> None:
        self.denoiser = FlowDenoiser(net=make_net(self.net, channels=self.channels, copied=True))
        self.transport = Transport(self.cost, self.pool_size)
        if isinstance(self.cost, nn.Module):
            if (seen := getattr(self.cost, "channels", self.channels)) != self.channels:
                raise UserError(f"cost sees pictures of {seen} channels, and the flow has {self.channels}")
            self.cost.requires_grad_(False)
        loop = {"steps": self.loop_steps, "solver": "ab2"}
        self.made = Pairs("buffer", None, loop, self.buffer, self.refresh)
        self.register_buffer("seen", torch.zeros((), dtype=torch.long))
        self.seen: Tensor  # batches it has learnt from

    def objectives(
        self, batches: Iterator[tuple[Tensor, Tensor]], rng: torch.Generator
    ) -> Iterator[tuple[str, Tensor]]:
        x, y = next(batches)
        if self.coupling == "optimal":
            x, y = self.transport(x, y, rng)
        if self.coupling == "reflow":
            x, y = self._reflow(x, y, rng)
        self.seen += int(self.training)
        yield "denoiser", self.denoiser.loss(y, x, self.denoiser.draw_times(len(x), rng))

    def _reflow(self, x: Tensor, y: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """Sources and targets of twice as many pairs: to each of these, what the flow before makes of it."""
        if not self.seen and self.made.slow.vector is None:
            raise UserError("coupling reflow learns from what a trained flow makes: add --from MODEL")
        self.made.follow(self.denoiser, 1.0, False)  # stays what it was at the first batch
        real, made = self.made(self.denoiser, {"source": x, "target": y}, rng, False, int(self.seen))
        sources, targets = [real["source"], made["source"]], [made["target"], real["target"]]
        return torch.cat(sources), torch.cat(targets)

    @torch.no_grad()
    def translate(
        self,
        source: Tensor,
        *,
        seed: Seed = 0,
        watch: Watch | None = None,
        direction: Direction = "source-to-target",
        steps: Steps = 18,
        solver: OdeSolver = "ab2",
    ) -> Tensor:
        """Images (B, C, H, W) in [-1, 1] to the other domain.

        Args:
            source: images in [-1, 1].
            seed: not used; the method is deterministic.
            watch: see `integrate`; its times are 1 at the source, whatever the direction.
            direction: source-to-target, or back along the same ways.
            steps: solver steps.
            solver: a deterministic one.
        """
        return self.denoiser.sample(end(direction), source, steps=steps, solver=solver, watch=watch)
