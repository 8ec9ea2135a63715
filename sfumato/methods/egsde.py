"""EGSDE (Zhao et al. 2022, https://arxiv.org/abs/2207.06635): SDEdit guided by two energies.

    dy = [f - g^2 (score(y, t) - grad E(y, x_t, t))] dt + g dw,    y_M ~ q(. | x_0)         (alg. 1)
    E  = lambda_s S_s(y, x_t, t) + lambda_i |phi(y) - phi(x_t)|^2,   x_t ~ q(. | x_0) anew each step

S_s, the cosine of a domain classifier's features, makes y less like the source's domain; the low-pass
distance (summed over channels and pixels) keeps y faithful.  The two weights are

    realism = lambda_s,  faithful = lambda_i.

Units.  lambda_s weighs a mean over positions, so its push on a pixel falls with the number D = C H W
of them: units="carried" counts it at the paper's D = 3x256x256 and multiplies by D / 196608 ("paper"
takes it as it is; 1280 carried is 20 at 32 pixels).  lambda_i is a rate per pixel, the same at all
sizes if size / factor is; the paper's is 8.

Steps.  An ancestral step adds beta / sqrt(1 - beta) times the gradient: many small steps and few large
ones push alike, until 2 lambda_i beta / sqrt(1 - beta) nears 2 and the low-pass overshoots (of which
low_pass="explicit" warns).  The default solves it exactly: with B the integral of beta, after a step

    y <- x_s + exp(-2 lambda_i (B(t) - B(s)) phi^2) (y - x_s),

from t to s: stable at any weight; lambda_i -> infinity is ILVR.

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

import operator
from functools import reduce
from typing import Literal, get_args

import torch
from torch import Tensor

from sfumato import energies as en
from sfumato.choose import choose
from sfumato.denoiser import Denoises
from sfumato.edit import check_finite, check_weights, edit, times_of
from sfumato.guide import Guided
from sfumato.lowpass import Kernel, LowPass
from sfumato.noise import Noise
from sfumato.part import Part
from sfumato.solve import Step, Watch
from sfumato.times import Spacing

Units = Literal["carried", "paper"]
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
        seed: int = 0,
        watch: Watch | None = None,
        strength: float = 0.6,
        realism: float = 1280.0,
        faithful: float = 0.35,
        units: Units = "carried",
        factor: int | None = None,
        kernel: Kernel = "box",
        low_pass: LowPassStep = "exponential",
        noise: Draws = "fresh",
        energy: en.Compares | None = None,
        every: int = 1,
        steps: int = 20,
        repeats: int = 1,
        solver: str | Step = "ancestral",
        spacing: Spacing = "karras",
    ) -> Tensor:
        """Source images (B, C, H, W) in [-1, 1] to the target domain.

        Args:
            source: images in [-1, 1].
            seed: of the noise; the same image and seed give the same result in any batch.
            watch: see `integrate`.
            strength: how far to noise, M/T of the paper in (0, 1], see `sdedit`.
            realism: lambda_s >= 0, away from the source's domain; 0 leaves the classifier out.
            faithful: lambda_i >= 0, towards the source's low-pass; both 0 is SDEdit to the bit.
            units: of realism: carried (counted at 3x256x256, for all sizes) or paper.
            factor: N of the low-pass, a divisor of the size; by default an eighth of the size.
            kernel: of the low-pass: box, linear (the paper's) or cubic.
            low_pass: exponential (exact, any weight) or explicit (the paper's, in the gradient).
            noise: of x_t: fresh at each step (alg. 1), or shared: that of the start (its code).
            energy: one's own, (y, x_t, t) -> (B,), added to the two; see `sfumato.energies`.
            every: guide anew at every so many steps, at least 1; the gradient is kept in between.
                A step costs a classifier twice forward and once back, 1/every of that.
            steps: solver steps for each repeat, at least 1.
            repeats: K: each repeat starts from the last result, x_0 stays, at least 1.
            solver: ancestral, sde_dpm2m, euler_maruyama, ancestral_large, or a deterministic one.
            spacing: of the times: karras, log_snr, time or chain.
        """
        choose("units", units, get_args(Units))
        choose("low_pass", low_pass, get_args(LowPassStep))
        choose("noise", noise, get_args(Draws))
        check_weights({"realism": realism, "faithful": faithful})
        process, draws = self.target.process, Noise.of(source, seed)
        times = times_of(process, strength, steps, spacing)
        reference = en.Reference(process, source, draws.stream("energy"))
        start = draws if noise == "fresh" else reference.shared(draws)
        phi = LowPass(factor or max(1, source.shape[-1] // 8), kernel)
        terms, after, bounds = [], None, {}
        weight = realism * (source[0].numel() / (3 * 256**2) if units == "carried" else 1.0)
        if weight:
            if self.classifier is None:
                raise ValueError(f"realism {realism:g} needs --classifier FOLDER, or be it 0")
            cosine = en.against(en.similarity(self.classifier.features), reference)
            terms.append(weight * cosine)
        if faithful and low_pass == "exponential":
            after = en.pulled(phi, faithful, reference, times)
        elif faithful:
            terms.append(en.pushed(phi, faithful, reference, times))
            bounds["faithful"] = faithful, en.stable_weight(process, times)
        if energy is not None:
            terms.append(en.against(energy, reference))
        f = Guided(self.target, reduce(operator.add, terms), every=every) if terms else self.target
        y = edit(
            f, source, times, start=start, noise=draws.stream("steps"), repeats=repeats,
            solver=solver, after=after, watch=watch,
        )  # fmt: skip
        if weight and not y.isfinite().all():
            x = process.perturb(source, times[0], draws(source))
            most = en.strong_weight(cosine, self.target, x, times[0])
            bounds["realism"] = realism, most * realism / weight
        return check_finite(y, bounds)
