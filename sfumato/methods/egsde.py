"""EGSDE (Zhao et al. 2022, https://arxiv.org/abs/2207.06635): SDEdit guided by two energies.

    dy = [f - g^2 (score(y, t) - grad E(y, x_t, t))] dt + g dw,    y_M ~ q(. | x_0)         (alg. 1)
    E  = lambda_s S_s(y, x_t, t) + lambda_i |phi(y) - phi(x_t)|^2,   x_t ~ q(. | x_0) anew each step

S_s, the cosine of a domain classifier's features, makes y less like the source's domain; the low-pass
distance (summed over channels and pixels) keeps y faithful.  realism = lambda_s, faithful = lambda_i.
Where brightness is what tells the domains apart, content="chroma" leaves it out of the distance.

Units.  lambda_s weighs a mean over positions, so its push on a pixel falls with D = C H W:
units="at-256" counts it at the paper's D = 3x256x256 (640 at-256 is 10 at 32 pixels), "paper" as it
is.  lambda_i is a rate per pixel, the same at all sizes if size / factor is; the paper's is 8.

Steps.  An ancestral step adds beta / sqrt(1 - beta) times the gradient, until 2 lambda_i beta /
sqrt(1 - beta) nears 2 and the low-pass overshoots (of which low_pass="explicit" warns).  The default
solves it exactly, at any weight: with B the integral of beta, after a step from t to s

    y <- x_s + exp(-2 lambda_i (B(t) - B(s)) phi^2) (y - x_s);    lambda_i -> infinity is ILVR.

@inproceedings{zhao2022egsde,
  title = {{EGSDE}: Unpaired Image-to-Image Translation via Energy-Guided Stochastic Differential
           Equations},
  author = {Zhao, Min and Bao, Fan and Li, Chongxuan and Zhu, Jun},
  booktitle = {Advances in Neural Information Processing Systems},
  year = {2022},
  url = {https://arxiv.org/abs/2207.06635}
}
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from sfumato.core.arguments import Seed
from sfumato.core.errors import UserError
from sfumato.core.ranges import Count, NotNegative, Steps, Strength
from sfumato.diffusion import energies as en
from sfumato.diffusion import realism as real
from sfumato.diffusion.denoiser import Denoises
from sfumato.diffusion.guidance import Guided, On, away_from_any
from sfumato.diffusion.integrate import Solver
from sfumato.diffusion.low_pass import Content, Kernel, LowPass, eighth
from sfumato.diffusion.noise import Noise
from sfumato.diffusion.noise_and_denoise import check_finite, edit, times_of
from sfumato.diffusion.stability import stable_weight
from sfumato.diffusion.time_grids import Spacing
from sfumato.diffusion.watch import Watch
from sfumato.module import Part

Units = Literal["at-256", "paper"]
LowPassStep = Literal["exponential", "explicit"]
Draws = Literal["fresh", "shared"]


class EGSDE(Part):
    """The target's denoiser, and a classifier that knows source and target domain, among others.

    Args:
        target: denoiser of the target domain (FOLDER:DOMAIN).
        classifier: of noisy images, made by `sfumato train domain_classifier`; realism needs it.
    """

    target: Denoises
    classifier: en.Classifies | None = None

    def __post_init__(self) -> None:
        if self.classifier is not None:
            en.check_classifier(self.classifier, self.target)

    @torch.no_grad()
    def translate(
        self,
        source: Tensor,
        *,
        seed: Seed = 0,
        watch: Watch | None = None,
        strength: Strength = 0.65,
        realism: NotNegative = 640.0,
        faithful: NotNegative = 0.35,
        units: Units = "at-256",
        similarity: real.Similarity = "cosine",
        on: On = "sample",
        factor: Count | None = None,
        kernel: Kernel = "box",
        content: Content = "colour",
        low_pass: LowPassStep = "exponential",
        noise: Draws = "fresh",
        energy: en.EnergyName | en.Compares | None = None,
        energy_weight: NotNegative | None = None,
        every: Count = 1,
        steps: Steps = 20,
        repeats: Count = 1,
        classifier_free: NotNegative = 0.0,
        solver: Solver = "ancestral",
        spacing: Spacing = "karras",
    ) -> Tensor:
        """Source images (B, C, H, W) in [-1, 1] to the target domain.

        Args:
            source: images in [-1, 1].
            seed: seed of the noise; the same image and seed give the same result in any batch.
            watch: see `integrate`.
            strength: how far to noise, M/T of the paper, see `sdedit`.
            realism: lambda_s, leads away from the source's domain; 0 needs no classifier.
            faithful: lambda_i, leads towards the source's low-pass; both 0: SDEdit, to the bit.
            units: units of realism: at-256 (counted at 3x256x256, for all sizes) or paper.
            similarity: to the source: cosine of features, or logits, the target's log-odds alone.
            on: where the classifier looks: at the noisy sample, or at E[x | x_t] (mean).
            factor: N of the low-pass; by default a divisor of both sides, up to an eighth of the shorter.
            kernel: kernel of the low-pass: box, linear (the paper's) or cubic.
            content: what is faithful: colour, or chroma, which leaves brightness to the model.
            low_pass: exponential (exact, any weight) or explicit (the paper's, in the gradient).
            noise: noise of x_t: fresh at each step (alg. 1), or shared: that of the start (its code).
            energy: a third energy, by its name or your own function (y, x_t, t) -> (B,).
            energy_weight: weight of the third energy; by default half of what is stable for one by its
                name, at most 1, and 1 for your own.
            every: steps after which the guidance is computed anew; it then costs 1/every.
            steps: solver steps for each repeat.
            repeats: K: each repeat starts from the last result, x_0 stays.
            classifier_free: weight w of guidance away from any domain, (1 + w) F - w F_any, for
                models trained with any_domain above 0; elsewhere often a guidance scale of 1 + w. 0 is
                none; above 0 a step costs two evaluations.
            solver: what takes the steps.
            spacing: spacing of the solver's times: karras, log_snr, time or chain.
        """
        if energy is None and energy_weight not in (None, 1):  # 1 was the default
            raise UserError(
                f"energy_weight {energy_weight:g} is that of a third energy, and none is given: choose one "
                f"by --energy, such as {next(iter(en.ENERGIES))}, or leave it out"
            )
        process, draws = self.target.process, Noise.of(source, seed)
        times = times_of(process, strength, steps, spacing)
        reference = en.Reference(process, source, draws.stream("energy"))
        n = eighth(*source.shape[-2:]) if factor is None else factor
        f, after, terms = away_from_any(self.target, classifier_free), None, en.Terms()
        weight = realism * (source[0].numel() / (3 * 256**2) if units == "at-256" else 1.0)
        if weight:
            e = real.realism(self.classifier, self.target, reference, similarity, on)
            terms["realism"] = realism, weight, e, on
        if energy is not None and energy_weight != 0:
            e = en.against(en.named(energy, LowPass(n, kernel), process), reference)
            weight = en.weighed(energy, energy_weight, process, times)
            terms["energy_weight"] = weight, weight, e, "sample"
        f = terms.guide(f, every)
        phi = LowPass(n, kernel, content)
        if faithful and low_pass == "exponential":
            after = en.Pulled(phi, faithful, reference, times)
        elif faithful:
            f = Guided(f, en.pushed(phi, faithful, reference, times), None, every, name="faithful")
        y = edit(
            f, source, times, noise=draws.stream("steps"), repeats=repeats, solver=solver, after=after,
            start=draws if noise == "fresh" else reference.shared(draws), watch=watch,
        )  # fmt: skip

        def bounds() -> dict[str, tuple[float, float]]:
            x = process.perturb(source, times[0], draws(source))
            most = stable_weight(process, times) if low_pass == "explicit" else math.inf
            return {"faithful": (faithful, most), **terms.bounds(self.target, x, times[0])}

        return check_finite(y, bounds)
