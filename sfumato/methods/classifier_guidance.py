"""Classifier guidance (Dhariwal & Nichol 2021, https://arxiv.org/abs/2105.05233, sec. 4.1), from a picture.

Noise the source up to `strength`, then denoise with the score of one domain made of that of all:

    score(x_t) + scale grad log p_t(domain | x_t),

which at scale 1 is the score of that domain, by Bayes' rule; above 1 it is sharper than the domain, at 0
nothing tells domains apart.  An ancestral step weighs the gradient by beta / sqrt(1 - beta), as the SDE
does; weight="variance" is the paper's: the variance of the step, the same in the limit of many steps.

@inproceedings{dhariwal2021diffusion,
  title = {Diffusion Models Beat {GANs} on Image Synthesis},
  author = {Dhariwal, Prafulla and Nichol, Alexander},
  booktitle = {Advances in Neural Information Processing Systems},
  year = {2021},
  url = {https://arxiv.org/abs/2105.05233}
}
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from sfumato.core.arguments import Seed
from sfumato.core.errors import UserError
from sfumato.core.ranges import Count, NotNegative, Steps, Strength
from sfumato.diffusion.denoiser import Denoises
from sfumato.diffusion.energies import (
    Classifies,
    by_variance,
    check_classifier,
    domain_surprise,
    strong_weight,
)
from sfumato.diffusion.guidance import Conditioned, Guided
from sfumato.diffusion.integrate import Solver
from sfumato.diffusion.noise import Noise
from sfumato.diffusion.noise_and_denoise import check_finite, edit, times_of
from sfumato.diffusion.time_grids import Spacing
from sfumato.diffusion.watch import Watch
from sfumato.module import Part

Prior = Literal["any", "domain"]
Weight = Literal["score", "variance"]


class ClassifierGuidance(Part):
    """A denoiser of several domains, and a classifier of the same.

    Args:
        target: denoiser of the target domain (FOLDER:DOMAIN).
        classifier: of noisy images, made by `sfumato train domain_classifier`.
    """

    target: Denoises
    classifier: Classifies

    def __post_init__(self) -> None:
        check_classifier(self.classifier, self.target)
        if getattr(self.target, "domain", None) is None:
            raise UserError("classifier_guidance needs a domain to guide to: FOLDER:DOMAIN")

    @torch.no_grad()
    def translate(
        self,
        source: Tensor,
        *,
        seed: Seed = 0,
        watch: Watch | None = None,
        strength: Strength = 0.6,
        guidance_scale: NotNegative = 1.0,
        prior: Prior = "any",
        weight: Weight = "score",
        every: Count = 1,
        steps: Steps = 20,
        repeats: Count = 1,
        solver: Solver = "ancestral",
        spacing: Spacing = "karras",
    ) -> Tensor:
        """Source images (B, C, H, W) in [-1, 1] to the target domain.

        Args:
            source: images in [-1, 1].
            seed: seed of the noise; the same image and seed give the same result in any batch.
            watch: see `integrate`.
            strength: how far to noise, M/T, see `sdedit`.
            guidance_scale: weight of the classifier.
            prior: what is guided: the denoiser of "any" domain, for models trained with
                any_domain above 0, or that of the target "domain", to sharpen it.
            weight: weight of the gradient in a step: that of the score, or the step's variance (the paper's;
                solver ancestral only).
            every: steps after which the gradient is computed anew; it is kept in between.
                A step costs the classifier once forward and once back, 1/every of that.
            steps: solver steps for each repeat.
            repeats: each repeat starts from the last result.
            solver: what takes the steps.
            spacing: spacing of the solver's times: karras, log_snr, time or chain.
        """
        if weight == "variance" and solver != "ancestral":
            raise UserError(f"weight variance is that of solver ancestral's steps, not of {solver}")
        target, classifier = self.target, self.classifier
        assert isinstance(target, Conditioned)
        process = target.process
        times = times_of(process, strength, steps, spacing)
        domain = classifier.domains.index(target.domain or "")
        f = Conditioned(denoiser=target.denoiser) if prior == "any" else target
        energy = domain_surprise(classifier, domain)
        energy = energy if weight == "score" else by_variance(energy, process, times)
        noise = Noise.of(source, seed)
        g: Denoises = (
            Guided(f, guidance_scale * energy, every=every, name="classifier") if guidance_scale else f
        )
        y = edit(
            g, source, times, start=noise, noise=noise.stream("steps"), repeats=repeats, solver=solver,
            watch=watch,
        )  # fmt: skip

        def bounds() -> dict[str, tuple[float, float]]:
            x = process.perturb(source, times[0], noise(source))
            return (
                {"guidance_scale": (guidance_scale, strong_weight(energy, f, x, times[0]))}
                if guidance_scale
                else {}
            )

        return check_finite(y, bounds)
