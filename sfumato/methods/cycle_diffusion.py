"""CycleDiffusion (Wu & De la Torre 2023, https://arxiv.org/abs/2210.05559): a stochastic DDIB.

The source's path x_T .. x_0 is drawn from the forward posteriors q(x_s | x_t, x_0); the noise that the source
domain's own chain would have needed for it is the latent, and the target's chain meets the same:

    z_s = (x_s - mu_A(x_t)) / sigma_s,     y_s = mu_B(y_t) + sigma_s z_s = x_s + mu_B(y_t) - mu_A(x_t).

Nothing is trained, and the same domain gives the source back, whatever the number of steps.

@inproceedings{wu2023latent,
  title = {A Latent Space of Stochastic Diffusion Models for Zero-Shot Image Editing and Guidance},
  author = {Wu, Chen Henry and De la Torre, Fernando},
  booktitle = {International Conference on Computer Vision},
  year = {2023},
  url = {https://arxiv.org/abs/2210.05559}
}
"""

from __future__ import annotations

import torch
from torch import Tensor

from sfumato.core.arguments import Seed
from sfumato.core.errors import UserError
from sfumato.core.ranges import Share, Steps
from sfumato.diffusion.denoiser import Denoises, process_of
from sfumato.diffusion.integrate import Counted, Draw, Point, ddim, integrate
from sfumato.diffusion.noise import Noise
from sfumato.diffusion.noise_and_denoise import times_of
from sfumato.diffusion.time_grids import Spacing, chain_time
from sfumato.diffusion.watch import Watch
from sfumato.module import Part


class Replay:
    """The target's `ddim` step, with the noise that the source's chain needs for the source's path.

    Args:
        f: denoiser of the source's domain.
        source: images x_0 (B, ...).
        x: where their path begins, x_t.
        eta: 1 is the ancestral chain, 0 a path without fresh noise.
    """

    def __init__(self, f: Denoises, source: Tensor, x: Tensor, eta: float) -> None:
        self.f, self.source, self.x, self.eta = Counted(f), source, x, eta

    def __call__(self, f: Counted, past: list[Point], s: Tensor, noise: Draw | None = None) -> Tensor:
        now = self.f(self.x, past[-1].t)
        f.trace.nfe += 1
        self.x = ddim(f, [now._replace(mean=self.source)], s, noise, self.eta)  # q(x_s | x_t, x_0)
        mu_a, mu_b = (ddim(f, p, s, torch.zeros_like, self.eta) for p in ([now], past))
        return self.x + (mu_b - mu_a)


class CycleDiffusion(Part):
    """Two denoisers, or two domains of one, of one process, joined by the noise of their chains.

    Args:
        source: denoiser of the source domain (FOLDER:DOMAIN).
        target: denoiser of the target domain (FOLDER:DOMAIN).
    """

    source: Denoises
    target: Denoises

    @torch.no_grad()
    def translate(
        self,
        source: Tensor,
        *,
        seed: Seed = 0,
        watch: Watch | None = None,
        strength: Share = 1.0,
        steps: Steps = 25,
        eta: Share = 1.0,
        spacing: Spacing = "karras",
    ) -> Tensor:
        """Source images (B, C, H, W) in [-1, 1] to the target domain.

        Args:
            source: images in [-1, 1].
            seed: seed of the noise; other seeds give other results.
            watch: see `integrate`; it is handed the target's chain.
            strength: how far to noise, M/T of the papers' chain. 0 returns the source.
            steps: solver steps, of two evaluations each.
            eta: share of the chain's noise that is drawn anew at each step.
            spacing: spacing of the solver's times: karras, log_snr, time or chain.
        """
        process, other = process_of(self.target), process_of(self.source)
        if process != other:
            raise UserError(f"both domains need one process, and they have {other} and {process}: try ddib")
        if chain_time(process, strength) == 0:
            return source
        times = times_of(process, strength, steps, spacing)
        noise = Noise.of(source, seed)
        x = process.perturb(source, times[0], noise(source))
        step = Replay(self.source, source, x, eta)
        return integrate(step, self.target, x, times, noise=noise.stream("steps"), watch=watch)
