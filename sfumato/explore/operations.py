"""Operations on latents, by name.

An operation is a function (z, given, its parameters) -> z of latents (N, C, H, W); `given` holds the
images that the latents are of and the seed.  Its parameters' names, types, defaults and help are those of
the function.  A coefficient, weight, angle, shift or sigma of 0 changes nothing, to the last bit.

The fixed noise is one draw of N(0, I) for a seed: the same for all latents, coefficients and operations.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample

from sfumato.core.arguments import checked
from sfumato.core.errors import UserError
from sfumato.core.ranges import Count, NotNegative, Share
from sfumato.diffusion.low_pass import Kernel, LowPass
from sfumato.diffusion.noise import Noise


class Given(NamedTuple):
    """What operations may use besides the latents: images (N, C, H, W) in [-1, 1], and the seed."""

    images: Tensor | None
    seed: int

    def image(self, z: Tensor) -> Tensor:
        """The images, one or as many as these latents, and of their shape.

        Raises:
            UserError: if there are none, or others.
        """
        if self.images is None:
            raise UserError("there are no images to mix with here: take noise, or latents of images")
        return _alike(self.images, z, "images")

    def fixed(self, z: Tensor) -> Tensor:
        """The fixed noise (1, C, H, W)."""
        return Noise([self.seed], "fixed")(z[:1])


def normalise(z: Tensor, given: Given, *, mode: Literal["zscore", "minmax", "l2"] = "zscore") -> Tensor:
    """Each latent to mean 0 and std 1 (zscore), to [-1, 1] (minmax), or to norm 1 (l2).

    Args:
        mode: zscore, minmax or l2.
    """
    dims = (1, 2, 3)
    if mode == "zscore":
        centred = z - z.mean(dims, keepdim=True)
        return centred / _positive(z.std(dims, keepdim=True), mode)
    if mode == "l2":
        return z / _positive(z.square().sum(dims, keepdim=True).sqrt(), mode)
    low, high = z.amin(dims, keepdim=True), z.amax(dims, keepdim=True)
    return 2 * (z - low) / _positive(high - low, mode) - 1


def scale(z: Tensor, given: Given, *, c: float = 1.0) -> Tensor:
    """Each number times c.

    Args:
        c: the factor.
    """
    return c * z


def add(
    z: Tensor, given: Given, *, c: float = 0.1, form: Literal["sum", "product"] = "sum",
    preserve_variance: bool = False,
) -> Tensor:  # fmt: skip
    """z + c noise, or z + c noise z, with the fixed noise; Var z = 1 becomes 1 + c^2, or is kept.

    Args:
        c: the noise's coefficient.
        form: sum, or product with z itself.
        preserve_variance: divide by sqrt(1 + c^2).
    """
    noise = given.fixed(z) * (z if form == "product" else 1)
    return (z + c * noise) / (math.sqrt(1 + c**2) if preserve_variance else 1)


@checked
def blend(z: Tensor, given: Given, *, w: Share = 0.5, preserve_variance: bool = False) -> Tensor:
    """w image + (1-w) z, of variance w^2 Var(x) + (1-w)^2; or with the weights' square roots.

    Args:
        w: weight of the image.
        preserve_variance: take the square roots of both weights.
    """
    one, other = (math.sqrt(w), math.sqrt(1 - w)) if preserve_variance else (w, 1 - w)
    return one * given.image(z) + other * z


@checked
def checkerboard(
    z: Tensor, given: Given, *, cell: Count = 1, other: Literal["image", "noise"] = "image"
) -> Tensor:
    """The image, or the fixed noise, where (i//cell + j//cell) is odd; z elsewhere.

    Args:
        cell: side of a cell in pixels.
        other: what the other cells are from: image, or the fixed noise.
    """
    i, j = (torch.arange(n, device=z.device) // cell for n in z.shape[-2:])
    odd = (i[:, None] + j) % 2 == 1
    return torch.where(odd, given.image(z) if other == "image" else given.fixed(z), z)


@checked
def blur(z: Tensor, given: Given, *, sigma: NotNegative = 2.0, renormalise: bool = False) -> Tensor:
    """Gaussian blur of sigma pixels, mirrored at the borders.

    White noise then has std 1 / (2 sqrt(pi) sigma), 0.141 for sigma 2, more at the borders;
    renormalise divides by it.

    Args:
        sigma: standard deviation of the blur in pixels.
        renormalise: give white noise its std back.
    """
    if sigma > (side := min(z.shape[-2:])):
        raise UserError(f"sigma must be at most the side, {side} pixels, not {sigma:g}")
    if sigma == 0:
        return z
    rows, columns = (_gaussian(n, sigma).to(z) for n in z.shape[-2:])
    blurred = rows @ z @ columns.mT
    return blurred / torch.outer(rows.norm(dim=1), columns.norm(dim=1)) if renormalise else blurred


def rotate(
    z: Tensor, given: Given, *, angle: float = 60.0,
    interpolation: Literal["nearest", "bilinear"] = "nearest", fill: float = 0.0,
) -> Tensor:  # fmt: skip
    """Rotation by degrees, counter-clockwise; the corners that come in are `fill`, -1 is black.

    Nearest keeps white noise white inside, bilinear lowers its variance.

    Args:
        angle: degrees, counter-clockwise.
        interpolation: nearest or bilinear.
        fill: value of the corners that come in.
    """
    if angle % 360 == 0:
        return z
    h, w = z.shape[-2:]
    c, s = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    back = torch.tensor([[c, -s * h / w, 0], [s * w / h, c, 0]]).to(z).expand(len(z), 2, 3)
    places = affine_grid(back, list(z.shape), align_corners=False)
    return fill + grid_sample(z - fill, places, interpolation, "zeros", align_corners=False)


def translate(
    z: Tensor, given: Given, *, right: int = 0, down: int = 0, wrap: bool = True, fill: float = 0.0
) -> Tensor:
    """Shift by whole pixels; what leaves comes in at the other side, or `fill` does.

    Args:
        right: pixels to the right; negative: to the left.
        down: pixels down; negative: up.
        wrap: what leaves comes in at the other side.
        fill: value that comes in without wrap.
    """
    moved = z.roll((down, right), (-2, -1))
    if wrap:
        return moved
    i, j = (torch.arange(n, device=z.device) - by
            for n, by in zip(z.shape[-2:], (down, right), strict=True))  # fmt: skip
    stayed = ((i >= 0) & (i < len(i)))[:, None] & (j >= 0) & (j < len(j))
    return torch.where(stayed, moved, fill)


def slerp(z: Tensor, given: Given, *, other: Tensor, t: float = 0.5) -> Tensor:
    """From z (t = 0) to other latents (t = 1) along the great circle, which keeps the norm.

    sin((1-t) a)/sin(a) z + sin(t a)/sin(a) other,  a the angle between them (Shoemake 1985).

    Args:
        other: latents, one or as many.
        t: how far on the circle; 0 is z, 1 the other.
    """
    other = _alike(other, z)
    cosine = torch.cosine_similarity(z.flatten(1).double(), other.flatten(1).double())
    a = cosine.clamp(-1, 1).acos()[:, None, None, None]
    near = a.sin() < 1e-6  # the circle is a point, or none in particular
    a = torch.where(near, torch.ones_like(a), a)
    one = torch.where(near, 1 - t, ((1 - t) * a).sin() / a.sin()).to(z)
    two = torch.where(near, t, (t * a).sin() / a.sin()).to(z)
    return one * z + two * other


@checked
def swap(z: Tensor, given: Given, *, other: Tensor, factor: Count = 4, kernel: Kernel = "box") -> Tensor:
    """Low frequencies of other latents, high ones of these: z + phi(other - z), phi a low-pass.

    phi keeps what an image has at 1/factor of its resolution. With kernel box it is a projection,
    so that N(0, I) stays N(0, I).

    Args:
        other: latents whose low frequencies are taken, one or as many.
        factor: from where frequencies are low: 1/factor of the resolution.
        kernel: kernel of the low-pass: box, linear or cubic.
    """
    return z + LowPass(factor, kernel)(_alike(other, z) - z)


def attribute(z: Tensor, given: Given, *, towards: Tensor, away: Tensor, weight: float = 1.0) -> Tensor:
    """z + weight direction, the difference between the means of two groups of latents.

    Args:
        towards: one group (N, C, H, W).
        away: the other group.
        weight: how far; negative: the other way.
    """
    return z + weight * _alike(direction(towards, away)[None], z)


def direction(towards: Tensor, away: Tensor) -> Tensor:
    """Mean of one group of latents (N, C, H, W) minus that of another: (C, H, W)."""
    if towards.shape[1:] != away.shape[1:]:
        raise UserError(
            f"two groups of latents, of shapes {tuple(towards.shape)} and {tuple(away.shape)}: "
            f"expected images of one size"
        )
    return towards.mean(0) - away.mean(0)


OPERATIONS: dict[str, Callable[..., Tensor]] = {
    f.__name__: f for f in (normalise, scale, add, blend, checkerboard, blur, rotate, translate,
                            slerp, swap, attribute)
}  # fmt: skip


def _positive(divisor: Tensor, mode: str) -> Tensor:
    if not (divisor > 0).all():
        raise UserError(f"normalise mode={mode}: a latent is constant; there is nothing to normalise")
    return divisor


def _alike(other: Tensor, z: Tensor, what: str = "other latents") -> Tensor:
    """Other latents or images, one or as many as these."""
    if other.shape[1:] != z.shape[1:] or len(other) not in (1, len(z)):
        raise UserError(
            f"the {what} have shape {tuple(other.shape)}: expected {tuple(z.shape)}, or one of them"
        )
    return other.to(z)


@lru_cache(maxsize=32)
def _gaussian(n: int, sigma: float) -> Tensor:
    """The blur along an axis of n pixels, (n, n), float64; rows sum to 1."""
    reach = math.ceil(8 * sigma)
    d = torch.arange(-reach, reach + 1)
    weight = (-0.5 * (d / sigma).double() ** 2).exp()
    place = (torch.arange(n)[:, None] + d) % (2 * n)  # the mirror images repeat every 2 n pixels
    place = torch.minimum(place, 2 * n - 1 - place)
    kernel = torch.zeros(n, n, dtype=torch.float64)
    return kernel.scatter_add_(1, place, (weight / weight.sum()).expand(n, -1))
