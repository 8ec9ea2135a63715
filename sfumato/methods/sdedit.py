"""SDEdit (Meng et al. 2022, https://arxiv.org/abs/2108.01073): noise the guide up to `strength`, denoise.

    x_M = alpha_M x + sigma_M z,  then the target domain's reverse SDE down to clean   (alg. 1)

Strength trades faithfulness (0: the guide itself) for realism (1: the guide is forgotten).  With a mask
the kept pixels are the guide's at every noise level, that of the step just taken, so that they come
out as they went in (alg. 2).

@inproceedings{meng2022sdedit,
  title = {{SDEdit}: Guided Image Synthesis and Editing with Stochastic Differential Equations},
  author = {Meng, Chenlin and He, Yutong and Song, Yang and Song, Jiaming and Wu, Jiajun and
            Zhu, Jun-Yan and Ermon, Stefano},
  booktitle = {International Conference on Learning Representations},
  year = {2022},
  url = {https://arxiv.org/abs/2108.01073}
}
"""

from __future__ import annotations

import torch
from torch import Tensor

from sfumato.core.arguments import Seed
from sfumato.core.errors import UserError
from sfumato.core.ranges import Count, NotNegative, Share, Steps
from sfumato.diffusion.denoiser import Denoises
from sfumato.diffusion.guidance import away_from_any
from sfumato.diffusion.integrate import Solver
from sfumato.diffusion.noise import Noise
from sfumato.diffusion.noise_and_denoise import edit, times_of
from sfumato.diffusion.time_grids import Spacing, chain_time
from sfumato.diffusion.watch import Watch
from sfumato.module import Part


class SDEdit(Part):
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
        strength: Share = 0.5,
        steps: Steps = 20,
        repeats: Count = 1,
        mask: Tensor | None = None,
        classifier_free: NotNegative = 0.0,
        solver: Solver = "ancestral",
        spacing: Spacing = "karras",
    ) -> Tensor:
        """Source images (B, C, H, W) in [-1, 1] to the target domain.

        Args:
            source: guide images in [-1, 1].
            seed: seed of the noise; the same image and seed give the same result in any batch.
            watch: see `integrate`.
            strength: how far to noise, M/T of the paper: to the noise level of that share
                of the DDPM chain, whatever the model's process. 0 returns the guide.
            steps: solver steps for each repeat.
            repeats: K of the paper: each repeat starts from the last result.
            mask: 1 where pixels are kept, 0 where they are edited; broadcasts against source.
            classifier_free: weight w of guidance away from any domain, (1 + w) F - w F_any, for
                models trained with any_domain above 0; elsewhere often a guidance scale of 1 + w. 0 is
                none; above 0 a step costs two evaluations.
            solver: what takes the steps.
            spacing: spacing of the solver's times: karras, log_snr, time or chain.
        """
        if mask is not None:
            _check_mask(mask, source)
        process, f = self.target.process, away_from_any(self.target, classifier_free)
        if chain_time(process, strength) == 0:
            return source
        times = times_of(process, strength, steps, spacing)
        noise = Noise.of(source, seed)
        fresh = noise.stream("mask")

        def keep(x: Tensor, s: Tensor) -> Tensor:
            if mask is None:
                return x
            kept = process.perturb(source, s, fresh(source)) if s > 0 else source
            return torch.where(mask.to(x) > 0.5, kept, x)

        return edit(
            f, source, times, start=noise, noise=noise.stream("steps"), repeats=repeats,
            solver=solver, after=keep, watch=watch,
        )  # fmt: skip


def _check_mask(mask: Tensor, source: Tensor) -> None:
    """Sees that a mask has a number in [0, 1] for each pixel.

    Raises:
        UserError: it has not.
    """
    fits = mask.ndim <= source.ndim and all(
        m in (1, n) for m, n in zip(mask.shape[::-1], source.shape[::-1], strict=False)
    )
    if not fits or not ((mask >= 0) & (mask <= 1)).all():
        raise UserError(
            f"a mask of shape {tuple(mask.shape)}: expected numbers in [0, 1] that broadcast against "
            f"pictures of shape {tuple(source.shape)}"
        )
