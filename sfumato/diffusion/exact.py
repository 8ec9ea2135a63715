"""Exact denoisers of Gaussians and Gaussian mixtures: the ground truth of tests and docs.

For data N(m, S):  x_t ~ N(alpha m, alpha^2 S + sigma^2 I), and
E[x | x_t] = m + alpha S (alpha^2 S + sigma^2 I)^{-1} (x_t - alpha m).
A mixture weighs its components by their responsibilities given x_t.
Both have the call signature of a trained denoiser and can stand wherever one is asked for.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sfumato.diffusion.denoiser import domain_index
from sfumato.diffusion.process import Cosine, Process


class Mixture(nn.Module):
    """Denoiser of the mixture sum_k w_k N(m_k, S_k) of vectors (or of images, flattened).

    Args:
        means: (K, D).
        covariances: (K, D, D), symmetric positive definite.
        weights: (K,), positive; normalised here. Equal by default.
        process: the noising process.
        domains: names of the components; `domain="name"` denoises that component alone.
    """

    def __init__(
        self,
        means: Float[Tensor, "k d"],
        covariances: Float[Tensor, "k d d"],
        weights: Float[Tensor, " k"] | None = None,
        process: Process = Cosine(),  # noqa: B008
        domains: tuple[str, ...] = (),
    ) -> None:
        super().__init__()
        self.process, self.domains = process, domains
        weights = torch.ones(len(means)).to(means) if weights is None else weights
        # S = Q diag(l) Q^T makes alpha^2 S + sigma^2 I diagonal at every t
        eigenvalues, vectors = torch.linalg.eigh(covariances)
        self.register_buffer("means", means)
        self.register_buffer("eigenvalues", eigenvalues)
        self.register_buffer("vectors", vectors)
        self.register_buffer("weights", weights / weights.sum())
        self.means: Tensor
        self.eigenvalues: Tensor
        self.vectors: Tensor
        self.weights: Tensor

    def forward(
        self, x_t: Float[Tensor, "b ..."], t: Tensor | float, domain: str | None = None
    ) -> Float[Tensor, "b ..."]:
        """E[x | x_t], exactly."""
        alpha, _, y, var = self._rotated(x_t, t)
        means = self.means + torch.einsum("kde,bke->bkd", self.vectors, alpha * self.eigenvalues / var * y)
        if domain is not None:
            mean = means[:, domain_index(domain, self.domains)]
        else:
            mean = (self.responsibilities(x_t, t)[..., None] * means).sum(1)
        return mean.reshape(x_t.shape)

    def responsibilities(self, x_t: Float[Tensor, "b ..."], t: Tensor | float) -> Float[Tensor, "b k"]:
        """p_t(component | x_t)."""
        return (self.weights.log() + self.log_densities(x_t, t)).softmax(-1)

    def log_densities(self, x_t: Float[Tensor, "b ..."], t: Tensor | float) -> Float[Tensor, "b k"]:
        """Log p_t(x_t | component), normalised."""
        _, _, y, var = self._rotated(x_t, t)
        return -0.5 * (y**2 / var + (2 * torch.pi * var).log()).sum(-1)

    def _rotated(self, x_t: Tensor, t: Tensor | float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """alpha, sigma, and per component x_t - alpha m in S's eigenbasis with its variances."""
        x = x_t.flatten(1)[:, None]
        alpha, sigma = self.process.at(t, x)
        y = torch.einsum("kde,bkd->bke", self.vectors, x - alpha * self.means)
        return alpha, sigma, y, alpha**2 * self.eigenvalues + sigma**2


class Gaussian(Mixture):
    """Denoiser of N(mean, covariance): mean (D,), covariance (D, D) or variances (D,)."""

    def __init__(
        self,
        mean: Float[Tensor, " d"],
        covariance: Tensor,
        process: Process = Cosine(),  # noqa: B008
    ) -> None:
        covariance = torch.diag(covariance) if covariance.ndim == 1 else covariance
        super().__init__(mean[None], covariance[None], process=process)

    def flow(self, x: Float[Tensor, "b d"], t: float, s: float) -> Float[Tensor, "b d"]:
        """The probability-flow ODE from t to s in closed form.

        x_s = alpha_s m + R_s R_t^{-1} (x_t - alpha_t m),  R_t = (alpha_t^2 S + sigma_t^2 I)^{1/2}
        """
        _, _, y, var_t = self._rotated(x, t)
        alpha, sigma = self.process.at(s, x)
        y = y * ((alpha**2 * self.eigenvalues + sigma**2) / var_t).sqrt()
        return alpha * self.means[0] + torch.einsum("kde,bke->bkd", self.vectors, y)[:, 0]
