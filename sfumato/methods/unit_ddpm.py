"""UNIT-DDPM, unpaired translation by two coupled chains (Sasaki et al. 2021, https://arxiv.org/abs/2104.05358).

Two denoisers (theta), each given the other domain's image with noise of the same t, and two translators
(phi), which make the missing images in training only:

    L_theta = |eps_A - F_A(x_t^A, x_t(g_B(x^A)), t)|^2 + the same with A and B exchanged            (11)
    L_phi = (11) + |eps_A - F_A(x_t(g_A(x^B)), x_t^B, t)|^2 + exchanged                             (12)
            + lambda (|g_A(g_B(x^A)) - x^A|_1 + exchanged)                                      (13, 14)

g_A makes images of A.  Every image has noise of its own, and the target of a term is the noise of the
image it denoises; (12) is printed with x_t and g in the wrong order, (16) with B's noise for A.
Translation denoises both chains together: A's is the source with fresh noise until the release time t_r,
and is denoised, too, from there on (15-17).

No term asks for what a user wants kept, so the translators' beginning decides.  As the identity they stay
it, from gray (the paper's) they copy shapes and turn hues.  Here g = coarse image + network, the network
0 at first, and for `warmup_batches` only the denoisers learn: what the domains share is then what
is coarse.

@misc{sasaki2021unit,
  title = {{UNIT-DDPM}: {UN}paired Image Translation with Denoising Diffusion Probabilistic Models},
  author = {Sasaki, Hiroshi and Willcocks, Chris G. and Breckon, Toby P.},
  year = {2021},
  eprint = {2104.05358},
  archivePrefix = {arXiv},
  url = {https://arxiv.org/abs/2104.05358}
}
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, ClassVar

import torch
from torch import Tensor, nn

from sfumato.core.arguments import Seed, checked
from sfumato.core.errors import UserError
from sfumato.core.ranges import Count, NotNegative, OneOf, Steps, Whole
from sfumato.diffusion.denoiser import Denoiser, Prediction, TimeLaw
from sfumato.diffusion.integrate import Step
from sfumato.diffusion.noise import Noise
from sfumato.diffusion.process import Process, named_process
from sfumato.diffusion.time_grids import Spacing, grid
from sfumato.diffusion.watch import Watch
from sfumato.methods._shared.coupled_chains import Chains
from sfumato.methods._shared.unpaired import (
    OTHER,
    Begin,
    Images,
    Translators,
    drawn,
    frozen,
    round_trip,
    swapped,
)
from sfumato.methods.registry import Direction, end
from sfumato.module import Part
from sfumato.nets.sizes import make_net


class UnitDDPM(Part):
    """Denoisers and translators of both domains.

    Args:
        net: size of each network: tiny, small (1 M parameters), medium, large.
        process: noising process: ddpm (the paper's), cosine, vp or flow.
        prediction: what the denoisers predict: eps (the paper's), v, x0 or edm.
        times: law of the training times: uniform (the paper's), lognormal, wide, log_uniform or palette.
        channels: 3 for colour, 1 for gray, or as many as the files have bands.
        cycle: weight lambda of the translators' cycle term.
        translators_start_as: what translators start as: coarse, image (the identity) or gray (the paper's).
        coarse_cells: a coarse image is this many patches wide.
        warmup_batches: batches at the start in which the translators do not learn (the paper: 0).
    """

    data: ClassVar[str] = "unpaired"
    settings: ClassVar[dict[str, Any]] = {"batch": 16, "lr": 2e-3}
    steady: ClassVar[bool] = False
    only_with: ClassVar[dict[str, tuple[str, str]]] = {"coarse_cells": ("translators_start_as", "coarse")}
    phases: ClassVar[tuple[str, ...]] = ("warmup_batches",)
    net: str | nn.Module = "small"
    process: str | Process = "ddpm"
    prediction: Prediction = "eps"
    times: TimeLaw = "uniform"
    channels: Count = 3
    cycle: NotNegative = 10.0
    translators_start_as: Begin = "coarse"
    coarse_cells: Count = 3
    warmup_batches: Whole = 2000

    def __post_init__(self) -> None:
        process = named_process(self.process)

        def denoiser() -> Denoiser:
            c = self.channels
            net = make_net(self.net, conditioning=c, channels=c, copied=True)  # one network each
            return Denoiser(net=net, process=process, prediction=self.prediction, times=self.times)

        self.denoisers = nn.ModuleDict({side: denoiser() for side in OTHER})
        self.translators = Translators(self.net, self.channels, self.translators_start_as, self.coarse_cells)
        self.register_buffer("seen", torch.zeros((), dtype=torch.long))
        self.seen: Tensor  # batches it has learnt from

    def objectives(
        self, batches: Iterator[tuple[Tensor, Tensor]], rng: torch.Generator
    ) -> Iterator[tuple[str, Tensor]]:
        real = dict(zip(("source", "target"), next(batches), strict=True))
        t = self._denoiser("target").draw_times(len(real["target"]), rng)
        z = {side: drawn(x, rng) for side, x in real.items()}
        with torch.no_grad():
            made = self.translators(real)
        yield "denoisers", self._score(real, swapped(made), t, z)
        learnt = int(self.seen)
        self.seen += self.training
        if learnt < self.warmup_batches:
            return
        with frozen(self.denoisers):
            made = self.translators(real)
            loss = self._score(real, swapped(made), t, z) + self._score(made, swapped(real), t, z)
            back = self.translators(made)
        yield "translators", loss + self.cycle * round_trip(real, back, "l1")

    @torch.no_grad()
    def translate(
        self,
        source: Tensor,
        *,
        seed: Seed = 0,
        watch: Watch | None = None,
        direction: Direction = "source-to-target",
        steps: Steps = 50,
        release_steps: Whole = 1,
        solver: Annotated[str | Step, OneOf(("ancestral", "sde_dpm2m"), others=True)] = "ancestral",
        spacing: Spacing = "chain",
    ) -> Tensor:
        """Images (B, C, H, W) in [-1, 1] to one sample of the other domain each; NFE steps + release_steps.

        Args:
            source: images in [-1, 1].
            seed: seed of the noise; other seeds give other samples.
            watch: see `integrate`.
            direction: source-to-target, or back.
            steps: solver steps T; the paper's is 1000.
            release_steps: how many of the last steps denoise the source, too.
            solver: any but dopri5; the paper's is ancestral.
            spacing: spacing of the solver's times: chain, karras, log_snr or time.
        """
        chains = self.chains(
            source, seed=seed, direction=direction, steps=steps, release_steps=release_steps, spacing=spacing
        )

        def seen(t: float, both: Tensor, mean: Tensor, extras: dict[str, Any]) -> None:
            if watch is not None:
                told = {k: extras[k] for k in ("alpha", "sigma", "nfe")}
                watch(t, both.chunk(2, 1)[0], mean.chunk(2, 1)[0], told)

        return chains.run(chains.start, chains.times, solver, seen).chunk(2, 1)[0]

    @checked
    def chains(
        self, source: Tensor, *, seed: Seed = 0, direction: Direction = "source-to-target",
        steps: Steps = 50, release_steps: Whole = 1, spacing: Spacing = "chain",
    ) -> Chains:  # fmt: skip
        """Both chains, at their beginning; see `translate`.  Half way they can be looked at and changed."""
        if release_steps > steps:
            raise UserError(f"release_steps must be at most steps = {steps}, not {release_steps}")
        side = end(direction)
        f_b, f_a = self._denoiser(side), self._denoiser(OTHER[side])
        times = grid(f_b.process, steps, spacing, clean=True)
        return Chains(f_b, f_a, source, times, steps - release_steps, Noise.of(source, seed))

    def _score(self, x: Images, given: Images, t: Tensor, z: Images) -> Tensor:
        """sum_s |eps_s - F_s(x_t(x_s), x_t(given_s), t)|^2; given_s is of the other side, as is its noise."""
        losses = []
        for s, o in OTHER.items():
            f = self._denoiser(s)
            losses.append(f.loss(x[s], t, z[s], image=f.process.perturb(given[s], t, z[o])))
        return torch.stack(losses).sum()

    def _denoiser(self, side: str) -> Denoiser:
        denoiser = self.denoisers[side]
        assert isinstance(denoiser, Denoiser)
        return denoiser
