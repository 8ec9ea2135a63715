"""DDIB, Dual Diffusion Implicit Bridges (Su et al. 2023, https://arxiv.org/abs/2203.08382).

Encode with the source domain's probability-flow ODE, decode with the target's:

    z = ODESolve(source, x, t_min -> t_max),    y = ODESolve(target, z, t_max -> t_min)    (alg. 1)

Never needs pairs or joint training.  Nothing is clipped: clipping would break the bridge's
invertibility.  Between Gaussians the map is affine in closed form, and it is optimal transport
exactly when the covariances commute.  Guidance by a classifier
on the way down is no option here; the target may be any denoiser, a `guide.Guided` one among them.

@inproceedings{su2023dual,
  title = {Dual Diffusion Implicit Bridges for Image-to-Image Translation},
  author = {Su, Xuan and Song, Jiaming and Meng, Chenlin and Ermon, Stefano},
  booktitle = {International Conference on Learning Representations},
  year = {2023},
  url = {https://arxiv.org/abs/2203.08382}
}
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sfumato.core.arguments import Seed
from sfumato.core.ranges import Several
from sfumato.diffusion.denoiser import Denoises
from sfumato.diffusion.encode_decode import ENCODING, decode, encode
from sfumato.diffusion.integrate import OdeSolver
from sfumato.diffusion.time_grids import Spacing
from sfumato.diffusion.watch import Watch
from sfumato.module import Part, of_any_kind


class DDIB(Part):
    """Two denoisers, or two domains of one, joined by their common latent.

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
        steps: Several = 22,
        solver: OdeSolver = "ab3",
        spacing: Spacing = "karras",
        recentre_means: bool = False,
    ) -> Tensor:
        """Source images (B, C, H, W) in [-1, 1] to the target domain.

        Args:
            source: images in [-1, 1].
            seed: not used; the method is deterministic.
            watch: see `integrate`.
            steps: solver steps in all; 55 % of them encode.
            solver: a deterministic one.
            spacing: spacing of the solver's times: karras, log_snr, time or chain.
            recentre_means: move the latent by what the domains' means leave in it; for domains that
                differ in brightness or colour as a whole. Two evaluations more for each batch.
        """
        up = round(ENCODING * steps)
        latent = self.encode(source, steps=up, solver=solver, spacing=spacing, watch=watch)
        if recentre_means:
            latent = latent + self._shift(latent)
        return self.decode(latent, steps=steps - up, solver=solver, spacing=spacing, watch=watch)

    @torch.no_grad()
    def encode(
        self, source: Tensor, *, steps: int = 12, solver: OdeSolver = "ab3",
        spacing: Spacing = "karras", watch: Watch | None = None,
    ) -> Tensor:  # fmt: skip
        """Images to latents, nearly N(0, I) in VP processes, by the source's ODE."""
        return encode(self.source, source, steps=steps, solver=solver, spacing=spacing, watch=watch)

    @torch.no_grad()
    def decode(
        self, latent: Tensor, *, steps: int = 10, solver: OdeSolver = "ab3",
        spacing: Spacing = "karras", watch: Watch | None = None,
    ) -> Tensor:  # fmt: skip
        """Latents to images by the target's ODE."""
        return decode(self.target, latent, steps=steps, solver=solver, spacing=spacing, watch=watch)

    def _shift(self, latent: Tensor) -> Tensor:
        """alpha (m' - m), one number a channel.

        Beyond t_max E[x | x_t] is the domain's mean m, and the ODE carries x_t - alpha m to pure
        noise: the latent of one domain is that of the other up to this.
        """
        t, blank = self.source.process.t_max, torch.zeros_like(latent[:1])
        alpha, _ = self.source.process.at(t, latent)
        difference = self.target(blank, self.target.process.t_max) - self.source(blank, t)
        return alpha * difference.mean(dim=(2, 3), keepdim=True)

    @of_any_kind
    def round_trip(self, source: Tensor, **options: Any) -> Tensor:
        """Images (B, C, H, W) there and back again; equal to the source up to the solver's error."""
        there: Any = self
        back: Any = DDIB(source=self.target, target=self.source)
        return back.translate(there.translate(source, as_is=True, **options), as_is=True, **options)
