"""Low-pass filters phi = up o down: what an image looks like at 1/N of its resolution.

With the interpolation weights U (n, n/N) of a kernel k of width N, rows of which sum to 1,

    phi = U U^T / N         along each axis; images are mirrored at their borders.

Where N does not divide n, the small image has round(n / N) pixels, and phi = U diag(1 / U^T 1) U^T, which
is the same where it does.  Down-scaling is antialiased with the kernel that scales up again.  phi is
symmetric and keeps constant images.  It is a projection for "box" only: elsewhere phi phi is not phi, and
a low-pass that was replaced (ILVR) is not quite the one that is then measured.

The chroma alone, colour without brightness, is kept by one more projection, x - (mean over channels of x).
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from sfumato.core.arguments import checked
from sfumato.core.errors import UserError
from sfumato.core.ranges import Count

Kernel = Literal["box", "linear", "cubic"]
Content = Literal["colour", "chroma"]


class LowPass:
    """phi of one factor and kernel, for images of every size from the factor on.

    Args:
        factor: N; 1 keeps everything.
        kernel: box (means of NxN squares), linear (EGSDE's) or cubic (ILVR's; Keys, a = -1/2).
        content: colour, or chroma: the mean over channels, the brightness, does not pass.
    """

    @checked
    def __init__(self, factor: Count, kernel: Kernel = "cubic", content: Content = "colour") -> None:
        self.factor, self.kernel, self.content = factor, kernel, content

    def matrix(self, n: int) -> Float[Tensor, "n n"]:
        """Phi along an axis of n pixels, float64.

        Raises:
            UserError: if the factor is larger than n.
        """
        return _matrix(n, self.factor, self.kernel)

    def __call__(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Phi x for images (B, C, H, W)."""
        h, w = (self.matrix(n).to(x) for n in x.shape[-2:])
        return passed(h @ x @ w, self.content)

    def relax(self, x: Float[Tensor, "b c h w"], rate: float) -> Float[Tensor, "b c h w"]:
        """(1 - exp(-rate phi^2)) x: what x loses when it flows down the energy |phi x|^2 / 2.

        The flow dx = -phi^2 x is solved exactly in phi's eigenbasis, for any rate >= 0.
        """
        (h, u), (w, v) = ((t.to(x) for t in _spectrum(n, self.factor, self.kernel))
                          for n in x.shape[-2:])  # fmt: skip
        lost = -torch.expm1(-rate * (h[:, None] * w) ** 2)
        return passed(u @ (lost * (u.mT @ x @ v)) @ v.mT, self.content)


def passed(x: Float[Tensor, "b c h w"], content: Content) -> Float[Tensor, "b c h w"]:
    """What of x is kept: all colour, or chroma, x - (mean over channels of x).

    Raises:
        UserError: for the chroma of gray images.
    """
    if content == "colour":
        return x
    if x.shape[1] == 1:
        raise UserError("gray images have no chroma: take content colour")
    return x - x.mean(1, keepdim=True)


def eighth(h: int, w: int) -> int:
    """The largest factor up to an eighth of the shorter side that divides both sides; at least 1."""
    both = math.gcd(h, w)
    return max(n for n in range(1, max(8, min(h, w)) // 8 + 1) if both % n == 0)


def _kernel(x: Tensor, kernel: Kernel) -> Tensor:
    """k(x), x in pixels of the small image; its translates by whole pixels sum to 1."""
    if kernel == "box":
        return ((x >= -0.5) & (x < 0.5)).to(x)
    x = x.abs()
    if kernel == "linear":
        return (1 - x).clamp(min=0)
    near = (1.5 * x - 2.5) * x**2 + 1
    far = ((-0.5 * x + 2.5) * x - 4) * x + 2
    return torch.where(x <= 1, near, torch.where(x < 2, far, torch.zeros_like(x)))


@lru_cache(maxsize=32)
def _matrix(n: int, factor: int, kernel: Kernel) -> Tensor:
    if factor > n:
        raise UserError(f"factor {factor} is larger than the images' side of {n}: choose at most {n}")
    small = round(n / factor)
    i = (torch.arange(n, dtype=torch.float64)[:, None] + 0.5) * small / n - 0.5
    u = torch.zeros(n, small, dtype=torch.float64)
    for j in range(-2, small + 2):  # beyond the border the small image is mirrored, too
        k = j % (2 * small)
        u[:, min(k, 2 * small - 1 - k)] += _kernel(i - j, kernel)[:, 0]
    return u @ u.T / factor if n % factor == 0 else (u / u.sum(0)) @ u.T


@lru_cache(maxsize=32)
def _spectrum(n: int, factor: int, kernel: Kernel) -> tuple[Tensor, Tensor]:
    values, vectors = torch.linalg.eigh(_matrix(n, factor, kernel))
    return values, vectors
