"""Classifier of noisy images into domains, for guidance (https://arxiv.org/abs/2105.05233, sec. 4).

p_t(c | x_t), trained on x_t = alpha x + sigma z at all noise levels t:  L = -E log p_t(c | x_t).

It is the encoder of the denoisers' U-Net with a linear layer on its pooled middle block.  The middle
block before pooling is the domain-specific feature extractor of EGSDE; log p_t is the energy of
classifier guidance.  Like the denoisers it sees x_t / sqrt(alpha^2 + sigma^2) and log(sigma/alpha).

@inproceedings{dhariwal2021diffusion,
  title = {Diffusion Models Beat {GANs} on Image Synthesis},
  author = {Dhariwal, Prafulla and Nichol, Alexander},
  booktitle = {Advances in Neural Information Processing Systems},
  year = {2021},
  url = {https://arxiv.org/abs/2105.05233}
}
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from sfumato.core.errors import UserError
from sfumato.core.ranges import BelowOne, Count
from sfumato.diffusion.process import DDPM, Process, named_process
from sfumato.module import Part
from sfumato.nets.indexed import Pools
from sfumato.nets.sizes import make_net

LEVELS = tuple(k / 10 for k in range(1, 10))
"""Noise levels, as shares M/T of the DDPM chain, at which the accuracy is logged."""


class DomainClassifier(Part):
    """Logits and features of noisy images.

    Args:
        domains: names of the domains; given by the folders it is trained on.
        net: size of the network: tiny, small, medium, large; its encoder is used.
        process: noising process: cosine, vp, ddpm, iddpm, ve or flow; that of the model it guides.
        channels: 3 for colour, 1 for gray, or as many as the files have bands.
        dropout: dropout of the pooled features in training.
    """

    data: ClassVar[str] = "domains"
    by_domain: ClassVar[tuple[str, ...]] = "classifier.head.1.weight", "classifier.head.1.bias"

    domains: tuple[str, ...]
    net: str | nn.Module = "small"
    process: str | Process = "cosine"
    channels: Count = 3
    dropout: BelowOne = 0.0

    def __post_init__(self) -> None:
        if len(self.domains) < 2:
            raise UserError(f"a classifier needs two domains or more, not {list(self.domains)}")
        self.process = self._process = named_process(self.process)
        encoder = make_net(self.net, channels=self.channels, decoder=False)
        self.width: int = encoder.features  # type: ignore[assignment]
        pool = encoder.pooling() if isinstance(encoder, Pools) else None
        pool = pool or nn.Sequential(
            nn.GroupNorm(8, self.width), nn.SiLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
        )
        head = nn.Sequential(nn.Dropout(self.dropout), nn.Linear(self.width, len(self.domains)))
        self.classifier = nn.ModuleDict({"encoder": encoder, "pool": pool, "head": head})

    def forward(self, x_t: Float[Tensor, "b c h w"], t: Tensor | float) -> Float[Tensor, "b n"]:
        """Logits of the domains for images noised to t (a number or (B,))."""
        return self.logits(self.embedding(x_t, t))

    def logits(self, embedding: Float[Tensor, "b d"]) -> Float[Tensor, "b n"]:
        """The last, linear layer."""
        return self.classifier["head"](embedding)

    def embedding(self, x_t: Float[Tensor, "b c h w"], t: Tensor | float) -> Float[Tensor, "b d"]:
        """What the logits are linear in: the pooled middle block."""
        return self.classifier["pool"](self.features(x_t, t))

    def features(self, x_t: Float[Tensor, "b c h w"], t: Tensor | float) -> Float[Tensor, "b ..."]:
        """The middle block (B, C, h, w)."""
        alpha, sigma = self._process.seen(t, x_t)
        log_sigma = (sigma / alpha).log().flatten().expand(len(x_t))
        return self.classifier["encoder"](self._process.preserving(x_t, t), log_sigma)

    def objectives(
        self, batches: Iterator[tuple[Tensor, Tensor]], rng: torch.Generator
    ) -> Iterator[tuple[str, Tensor]]:
        x, label = next(batches)
        # uniform in the levels of the DDPM chain, as published: one in each n-th of it, in any
        # order, for batches hold the domains in turn and the level must not tell which comes next
        order = torch.randperm(len(x), generator=rng)
        share = (torch.rand(len(x), generator=rng) + order) / len(x)
        t, z = self._time(share).to(x.device), torch.randn(x.shape, generator=rng).to(x)
        yield "classifier", F.cross_entropy(self(self._process.perturb(x, t, z), t), label)

    @torch.no_grad()
    def measures(self, x: Tensor, label: Tensor, rng: torch.Generator) -> dict[str, float]:
        """Accuracy by noise level (M/T) on images (B, C, H, W) with labels (B,)."""
        out = {}
        for share in LEVELS:
            t, z = self._time(torch.tensor(share)), torch.randn(x.shape, generator=rng).to(x)
            right = self(self._process.perturb(x, t, z), t).argmax(1) == label
            out[f"accuracy at {share:g}"] = right.float().mean().item()
        return out

    def _time(self, share: Tensor) -> Tensor:
        """Times with the noise levels of these shares of the DDPM chain, float64."""
        times = self._process.time(DDPM().log_snr(share))
        return times.clamp(self._process.t_min, self._process.t_max)
