"""ILVR (Choi et al. 2021, https://arxiv.org/abs/2108.02938): sample, and keep the low-pass of a reference.

After each step of the target's reverse SDE from noise, x' at level s takes the reference's low-pass,

    x_s = x' - phi(x') + phi(y_s),    y_s = alpha_s y + sigma_s z   with fresh z    (alg. 1)

at the level that was just reached, the last, clean one included (the published code noises y by one
step too much, and leaves the last step out).  A large factor keeps little of the reference; `keep_down_to`
above 0 leaves the last steps to the model.

@inproceedings{choi2021ilvr,
  title = {{ILVR}: Conditioning Method for Denoising Diffusion Probabilistic Models},
  author = {Choi, Jooyoung and Kim, Sungwon and Jeong, Yonghyun and Gwon, Youngjune and
            Yoon, Sungroh},
  booktitle = {International Conference on Computer Vision},
  year = {2021},
  url = {https://arxiv.org/abs/2108.02938}
}
"""

from __future__ import annotations

import torch
from torch import Tensor

from sfumato.core.arguments import Seed
from sfumato.core.ranges import Count, NotNegative, Share, Steps
from sfumato.diffusion.denoiser import Denoises
from sfumato.diffusion.guidance import Clipped, away_from_any
from sfumato.diffusion.integrate import Solver, sample
from sfumato.diffusion.low_pass import Content, Kernel, LowPass
from sfumato.diffusion.noise import Noise
from sfumato.diffusion.time_grids import Spacing, chain_time
from sfumato.diffusion.watch import Watch
from sfumato.module import Part


class ILVR(Part):
    """Only the target domain's denoiser is needed.

    Args:
        target: denoiser of the target domain (FOLDER:DOMAIN).
    """

    target: Denoises

    @torch.no_grad()
    def translate(
        self,
        source: Tensor,
        *,
        seed: Seed = 0,
        watch: Watch | None = None,
        factor: Count = 8,
        kernel: Kernel = "cubic",
        content: Content = "colour",
        keep_down_to: Share = 0.25,
        steps: Steps = 20,
        clip: bool = True,
        classifier_free: NotNegative = 0.0,
        solver: Solver = "ancestral",
        spacing: Spacing = "karras",
    ) -> Tensor:
        """Reference images (B, C, H, W) in [-1, 1] to the target domain.

        Args:
            source: reference images in [-1, 1].
            seed: seed of the noise; the same image and seed give the same result in any batch.
            watch: see `integrate`.
            factor: N of the low-pass, which keeps an N-th of the pixels a side. 1 returns the reference.
            kernel: kernel of the low-pass: cubic (the paper's), linear (EGSDE's) or box (a projection).
            content: what is kept of the reference: colour, or chroma, which leaves brightness to the model.
            keep_down_to: the noise level, as a share of the DDPM chain, down to which the
                reference's low-pass is kept: 0 keeps it to the end, 1 never.
            steps: solver steps.
            clip: clip E[x | x_t] to [-1, 1] at every step, as the paper does.
            classifier_free: weight w of guidance away from any domain, (1 + w) F - w F_any, for
                models trained with any_domain above 0; elsewhere often a guidance scale of 1 + w. 0 is
                none; above 0 a step costs two evaluations.
            solver: what takes the steps.
            spacing: spacing of the solver's times: karras, log_snr, time or chain.
        """
        process, phi = self.target.process, LowPass(factor, kernel, content)
        for n in source.shape[-2:]:
            phi.matrix(n)  # of a wrong factor it speaks even where no step is above `keep_down_to`
        last = chain_time(process, keep_down_to) if keep_down_to < 1 else process.t_max
        f = away_from_any(self.target, classifier_free)
        f = Clipped(f) if clip else f
        noise = Noise.of(source, seed)
        fresh = noise.stream("reference")

        def swap(x: Tensor, s: Tensor) -> Tensor:
            if s < last:
                return x
            return x - phi(x) + phi(process.perturb(source, s, fresh(source)))

        return sample(solver, f, source, noise, steps, spacing, after=swap, watch=watch)
