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

from sfumato.core.errors import UserError, check_numbers
from sfumato.diffusion.checks import as_times, floats
from sfumato.diffusion.domains import distinct, domain_index
from sfumato.diffusion.process import Cosine, Process, named_process


class Mixture(nn.Module):
    """Denoiser of the mixture sum_k w_k N(m_k, S_k) of vectors (or of images, flattened).

    Args:
        means: (K, D).
        covariances: (K, D, D), symmetric, without negative eigenvalues.
        weights: (K,), positive; normalised here. Equal by default.
        process: the noising process, or its name.
        domains: names of the components; `domain="name"` denoises that component alone.

    Raises:
        UserError: one of them is of another kind, shape or range.
    """

    def __init__(
        self,
        means: Tensor,
        covariances: Tensor,
        weights: Tensor | None = None,
        process: Process | str = Cosine(),  # noqa: B008
        domains: tuple[str, ...] = (),
    ) -> None:
        super().__init__()
        self.process, self.domains = named_process(process), distinct(domains)
        k, d = floats(means, (None, None), "means are").shape
        floats(covariances, (k, d, d), "covariances are")
        weights = torch.ones(k).to(means) if weights is None else floats(weights, (k,), "weights are")
        check_numbers({"means": means, "covariances": covariances, "weights": weights})
        # S = Q diag(l) Q^T makes alpha^2 S + sigma^2 I diagonal at every t
        eigenvalues, vectors = torch.linalg.eigh(covariances)
        least, size = eigenvalues.min(), eigenvalues.abs().max()
        if not torch.allclose(covariances, covariances.mT) or least < -1e-5 * size:
            raise UserError(
                f"covariances must be symmetric, with variances (eigenvalues) from 0 on, such as A @ A.T: "
                f"the least is {least:g}"
            )
        if not (weights > 0).all():
            raise UserError(f"weights must be above 0, not {weights.tolist()}")
        self.register_buffer("means", means)
        self.register_buffer("eigenvalues", eigenvalues.clamp(min=0))
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
        if domain is not None or len(self.weights) == 1:
            mean = means[:, 0 if domain is None else domain_index(domain, self.domains)]
        else:
            mean = (self.responsibilities(x_t, t)[..., None] * means).sum(1)
        return mean.reshape(x_t.shape).to(x_t.dtype)

    def responsibilities(self, x_t: Float[Tensor, "b ..."], t: Tensor | float) -> Float[Tensor, "b k"]:
        """p_t(component | x_t)."""
        return (self.weights.log() + self.log_densities(x_t, t)).softmax(-1)

    def log_densities(self, x_t: Float[Tensor, "b ..."], t: Tensor | float) -> Float[Tensor, "b k"]:
        """Log p_t(x_t | component), normalised."""
        _, _, y, var = self._rotated(x_t, t)
        return -0.5 * (y**2 / var + (2 * torch.pi * var).log()).sum(-1)

    def _rotated(self, x_t: Tensor, t: Tensor | float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """alpha, sigma, and per component x_t - alpha m in S's eigenbasis with its variances."""
        d = self.means.shape[1]
        if x_t.ndim < 2 or x_t.shape[1:].numel() != d:
            raise UserError(f"this model takes a batch (B, {d}) of vectors, not a tensor {tuple(x_t.shape)}")
        x = x_t.flatten(1)[:, None].to(self.means.dtype)  # a state may have another type
        t = as_times(t, "cpu").clamp(min=self.process.t_min)  # clean points have no widths
        alpha, sigma = self.process.at(t, x)
        y = torch.einsum("kde,bkd->bke", self.vectors, x - alpha * self.means)
        return alpha, sigma, y, alpha**2 * self.eigenvalues + sigma**2


class Gaussian(Mixture):
    """Denoiser of N(mean, covariance): mean (D,), covariance (D, D) or variances (D,); see `Mixture`."""

    def __init__(
        self,
        mean: Tensor,
        covariance: Tensor,
        process: Process | str = Cosine(),  # noqa: B008
    ) -> None:
        d = len(floats(mean, (None,), "mean is"))
        variances = isinstance(covariance, Tensor) and covariance.ndim == 1
        floats(covariance, (d,) if variances else (d, d), "covariance is")
        covariance = torch.diag(covariance) if variances else covariance
        super().__init__(mean[None], covariance[None], process=process)

    def flow(self, x: Float[Tensor, "b d"], t: float, s: float) -> Float[Tensor, "b d"]:
        """The probability-flow ODE from t to s in closed form.

        x_s = alpha_s m + R_s R_t^{-1} (x_t - alpha_t m),  R_t = (alpha_t^2 S + sigma_t^2 I)^{1/2}
        """
        _, _, y, var_t = self._rotated(x, t)
        alpha, sigma = self.process.at(s, y)
        y = y * ((alpha**2 * self.eigenvalues + sigma**2) / var_t).sqrt()
        return alpha * self.means[0] + torch.einsum("kde,bke->bkd", self.vectors, y)[:, 0].to(x.dtype)
