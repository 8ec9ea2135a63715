"""Unpaired score-SDE translation (Srivastava 2022, algs. 3 and 4), after https://arxiv.org/abs/2011.13456.

Two conditional denoisers learn from each other's translations y' of x and x' of y:

    L = l(F_x; x | y') + l(F_y; y | x') + [l(F_x; x' | y) + l(F_y; y' | x)]       (3.5), one t and z
        + lambda (|x_r - x|^2 + |y_r - y|^2),    x_r = EM_x(y'), y_r = EM_y(x').

The thesis makes y' and x' in the loop, with gradients through the sampler (pairing "exact"): from noise
that learns noise, and a strong cycle term copies.  Here each side first learns alone, which makes a first
coupling; frozen networks hand it on (distil), and slow copies refine it: back-translation, real images the
only targets.  Networks see cat(noisy, image), always.

@mastersthesis{srivastava2022investigating,
  title = {Investigating Novel Methods to Perform Image-to-Image Translation},
  author = {Srivastava, Ishan},
  school = {Durham University},
  year = {2022}
}
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from sfumato.core.arguments import Seed
from sfumato.core.ranges import BelowOne, Count, NotNegative, OneOf, Share, Steps, Whole
from sfumato.diffusion.denoiser import Prediction, TimeLaw
from sfumato.diffusion.guidance import needs_hidden
from sfumato.diffusion.integrate import Step
from sfumato.diffusion.low_pass import Content
from sfumato.diffusion.noise import Noise
from sfumato.diffusion.process import Process, named_process
from sfumato.diffusion.time_grids import Spacing
from sfumato.diffusion.watch import Watch
from sfumato.methods._shared.memory import Colours
from sfumato.methods._shared.unpaired import OTHER, Norm, Pairs, Rough, Sides, frozen, round_trip, swapped
from sfumato.methods.registry import Direction, end
from sfumato.module import Part

Pairing = Literal["buffer", "exact", "detached", "one_step", "auxiliary"]
First = Literal["coarse", "unconditional"]
Pseudo = Literal["none", "detached", "attached"]

OFFERED = OneOf(("euler_maruyama", "ancestral", "sde_dpm2m", "ddim", "heun", "dpm2m", "ab3"), others=True)


class UnpairedSDE(Part):
    """Both directions of an unpaired translation.

    Args:
        pairing: how pairs are made after `warmup_batches` and `distil_batches`. buffer: by a slow copy of
            the networks, every `refresh` batches; exact: for each batch, with gradients through the
            sampler; detached: without; one_step: denoised means of images with noise of a random t;
            auxiliary: by feed-forward translators that learn beside.
        net: size of each network: tiny, small (1 M parameters), medium, large, thesis (58 M).
        process: noising process: cosine, vp (the thesis'), ddpm, iddpm, ve or flow.
        prediction: what the networks predict: v, eps (the thesis'), x0 or edm.
        times: law of the training times: lognormal, wide, uniform (the thesis'), log_uniform or palette.
        channels: 3 for colour, 1 for gray, or as many as the files have bands.
        shared: one network that is told the direction, instead of two.
        loop_steps: solver steps N that make a pair.
        loop_solver: solver that makes pairs; euler_maruyama is the thesis'.
        loop_spacing: spacing of its times: karras, log_snr, time (the thesis') or chain.
        warmup_batches: batches at the start in which each side learns from its own images (the thesis: 0).
        distil_batches: batches after it whose pairs are the first coupling's (the thesis: 0).
        first: first coupling: coarse (a side refines coarse images of its own, then the other's) or
            unconditional (DDIB).
        coarse_cells: a coarse image is this many patches wide.
        content: content of coarse images: colour, or chroma, for domains that differ in brightness.
        coarse_noise: standard deviation of the noise on coarse images.
        drop_condition: share of conditioning images that are hidden.
        buffer: pairs kept for each direction.
        refresh: batches between new pairs.
        pairs_ema: decay a batch of the slow copy that makes pairs.
        pseudo: made images as targets, too: none, detached or attached (the thesis').
        cycle: weight lambda of the cycle term; the papers' is 10.
        cycle_norm: l2 (the thesis') or l1.
        normalise: give both domains the same mean and spread of each channel, inside.
    """

    data: ClassVar[str] = "unpaired"
    settings: ClassVar[dict[str, Any]] = {"batch": 16, "lr": 2e-3}
    steady: ClassVar[bool] = False
    only_with: ClassVar[dict[str, tuple[str, str]]] = dict.fromkeys(
        ("coarse_cells", "coarse_noise", "content"), ("first", "coarse")
    )
    phases: ClassVar[tuple[str, ...]] = ("warmup_batches", "distil_batches")
    pairing: Pairing = "buffer"
    net: str | nn.Module = "small"
    process: str | Process = "cosine"
    prediction: Prediction = "v"
    times: TimeLaw = "lognormal"
    channels: Count = 3
    shared: bool = True
    loop_steps: Count = 10
    loop_solver: str = "dpm2m"
    loop_spacing: Spacing = "karras"
    warmup_batches: Whole = 1500
    distil_batches: Whole = 1500
    first: First = "coarse"
    coarse_cells: Count = 3
    content: Content = "colour"
    coarse_noise: NotNegative = 0.5
    drop_condition: Share = 0.15
    buffer: Count = 1024
    refresh: Count = 16
    pairs_ema: BelowOne = 0.999
    pseudo: Pseudo = "none"
    cycle: NotNegative = 0.0
    cycle_norm: Norm = "l2"
    normalise: bool = False

    def __post_init__(self) -> None:
        self.denoisers = Sides(
            self.net, self.channels, self.shared, process=named_process(self.process),
            prediction=self.prediction, times=self.times,
        )  # fmt: skip
        rough = Rough(self.coarse_cells, self.coarse_noise, self.content) if self.first == "coarse" else None
        loop = {k: getattr(self, f"loop_{k}") for k in ("steps", "solver", "spacing")}
        self.pairs = Pairs(self.pairing, rough, loop, self.buffer, self.refresh)
        if self.pairing == "auxiliary":
            self.pairs.add_translators(self.net, self.channels)
        self.colours = Colours(self.channels, OTHER)
        self.register_buffer("seen", torch.zeros((), dtype=torch.long))
        self.seen: Tensor  # batches it has learnt from

    def objectives(
        self, batches: Iterator[tuple[Tensor, Tensor]], rng: torch.Generator
    ) -> Iterator[tuple[str, Tensor]]:
        f, pairs, n = self.denoisers, self.pairs, int(self.seen)
        real = dict(zip(("source", "target"), next(batches), strict=True))
        if self.training:
            if self.normalise and n < max(self.warmup_batches, 200):
                self.colours.learn(real, n)
            pairs.follow(f, min(self.pairs_ema, (1 + n) / (10 + n)), n == self.warmup_batches)
            self.seen += 1
        real = {s: self.colours.normal(x, s) for s, x in real.items()}
        if n < self.warmup_batches:
            null = self.drop_condition if pairs.rough else 1.0
            yield "denoisers", f.loss(real, pairs.roughened(real, rng), rng, "rough", null)
            return
        first = n < self.warmup_batches + self.distil_batches
        real, made = pairs(f, real, rng, first, n)
        pseudo = "none" if first else self.pseudo
        loss = f.loss(real, swapped(made), rng, null=self.drop_condition, pseudo=pseudo)
        if self.cycle and not first and self.pairing != "auxiliary":
            back = {s: pairs.sample(f, s, made[o], rng, exact=True) for s, o in OTHER.items()}
            loss = loss + self.cycle * round_trip(real, back, self.cycle_norm)
        yield "denoisers", loss
        if self.pairing != "auxiliary":
            return
        if first:  # the translators learn the first coupling, too
            loss = round_trip(made, pairs.translators(real), self.cycle_norm)
        else:
            with frozen(f):
                made = pairs.translators(real)
                loss = f.loss(real, swapped(made), rng, pseudo="attached")
            loss = loss + self.cycle * round_trip(real, pairs.translators(made), self.cycle_norm)
        yield "pairs.translators", loss

    @torch.no_grad()
    def translate(
        self,
        source: Tensor,
        *,
        seed: Seed = 0,
        watch: Watch | None = None,
        direction: Direction = "source-to-target",
        steps: Steps = 18,
        solver: Annotated[str | Step, OFFERED] = "ancestral",
        spacing: Spacing = "karras",
        clip: bool = False,
        classifier_free: NotNegative = 0.0,
    ) -> Tensor:
        """Images (B, C, H, W) in [-1, 1] to the other domain; in the first phase by the first coupling.

        Args:
            source: images in [-1, 1].
            seed: seed of the noise; other seeds give other samples of the same posterior.
            watch: see `integrate`.
            direction: source-to-target, or back.
            steps: solver steps.
            solver: what takes the steps; those that draw noise undo small errors of the pairs. The
                thesis' is euler_maruyama, with spacing time.
            spacing: spacing of the solver's times: karras, log_snr, time or chain.
            clip: clip E[x | x_t] to [-1, 1] at every step; the first coupling is never clipped.
            classifier_free: weight w of guidance by the source, (1 + w) F - w F_0 with F_0 the
                denoiser of a hidden one, for models trained with null above 0. 0 is none; above 0 a
                step costs two evaluations.
        """
        needs_hidden(classifier_free, self.drop_condition)
        side = end(direction)
        image, noise = self.colours.normal(source, OTHER[side]), Noise.of(source, seed)
        how: dict[str, Any] = {"steps": steps, "solver": solver, "spacing": spacing, "watch": watch}
        if int(self.seen) < self.warmup_batches:
            result = self.denoisers.couple(side, image, noise, self.pairs.rough, **how)
        else:
            result = self.denoisers.sample(
                side, image, noise, clip=clip, classifier_free=classifier_free, **how
            )
        return self.colours.restore(result, side)
