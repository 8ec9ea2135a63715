"""What is measured of single pictures, one number an image; `METRICS` are the columns of a comparison.

Images are (B,3,H,W) in [-1,1]; values outside are cut off, as they are when a picture is written.
The numbers are in the units of u = (x + 1) / 2 in [0,1]; they are computed where the images are, in
float64 on the CPU.  Images of different shapes, or with pixels that are not numbers, are a UserError.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sfumato.core.errors import UserError, check_numbers

GRAY = 1 / 255  # a mean colour nearer to gray than one 8-bit level has no hue
WINDOW = 11  # pixels, of SSIM


# ---- two pictures -------------------------------------------------------------------------------


def mse(a: Float[Tensor, "b c h w"], b: Float[Tensor, "b c h w"]) -> Float[Tensor, " b"]:
    """Mean squared difference of channels and pixels."""
    u, v = _units(a, b)
    return (u - v).square().mean((1, 2, 3))


def l2(a: Float[Tensor, "b c h w"], b: Float[Tensor, "b c h w"]) -> Float[Tensor, " b"]:
    """Frobenius norm of the difference, not squared: it grows with the number of pixels.

    EGSDE's faithfulness (Zhao et al., 2022, https://arxiv.org/abs/2207.06635).
    """
    u, v = _units(a, b)
    return (u - v).square().sum((1, 2, 3)).sqrt()


def psnr(a: Float[Tensor, "b c h w"], b: Float[Tensor, "b c h w"]) -> Float[Tensor, " b"]:
    """Peak signal-to-noise ratio in dB, 10 log10(1 / (mse + 1e-10)): at most 100."""
    return -10 * (mse(a, b) + 1e-10).log10()


def ssim(a: Float[Tensor, "b c h w"], b: Float[Tensor, "b c h w"]) -> Float[Tensor, " b"]:
    """Structural similarity, at most 1, per channel and averaged.

    Wang et al., 2004 (https://doi.org/10.1109/TIP.2003.819861): 11-pixel Gaussian window of
    deviation 1.5, only windows inside the picture, K = (0.01, 0.03), data range 1.

    Raises:
        UserError: a side is under 11 pixels.
    """
    u, v = _units(a, b)
    if min(u.shape[2:]) < WINDOW:
        h, w = u.shape[2:]
        raise UserError(f"SSIM of {w}x{h} pixels: its window needs 11; use psnr, or larger images")
    rows, columns = (_windows(n).to(u) for n in u.shape[2:])

    def blur(x: Tensor) -> Tensor:  # torchmetrics' convolution takes twenty times as long
        return rows @ x @ columns.T

    def similarity(u: Tensor, v: Tensor) -> Tensor:
        mu, mv = blur(u), blur(v)
        su, sv, suv = blur(u * u) - mu * mu, blur(v * v) - mv * mv, blur(u * v) - mu * mv
        c1, c2 = 0.01**2, 0.03**2
        top = (2 * mu * mv + c1) * (2 * suv + c2)
        return (top / ((mu * mu + mv * mv + c1) * (su + sv + c2))).mean((1, 2, 3))

    # 8 images at a time: on a CPU twice as fast as 64, whose maps leave the caches
    parts = zip(torch.split(u, 8), torch.split(v, 8), strict=True)
    return torch.cat([similarity(*p) for p in parts])


def _windows(n: int) -> Float[Tensor, "m n"]:
    """The n - 10 windows of 11 pixels that lie inside n, as a matrix."""
    weights = torch.exp(-((torch.arange(11, dtype=torch.float64) - 5) ** 2) / (2 * 1.5**2))
    out = torch.zeros(n - 10, n, dtype=torch.float64)
    for i in range(n - 10):
        out[i, i : i + 11] = weights / weights.sum()
    return out


def colour(a: Float[Tensor, "b c h w"], b: Float[Tensor, "b c h w"]) -> Float[Tensor, " b"]:
    """Euclidean distance of the mean RGB, 0 to sqrt(3)."""
    u, v = _units(a, b)
    return (u - v).mean((2, 3)).norm(dim=1)


def hue(a: Float[Tensor, "b 3 h w"], b: Float[Tensor, "b 3 h w"]) -> Float[Tensor, " b"]:
    """Angle in degrees, 0 to 180, between the mean hues.

    A pixel's hue is the direction of (R - (G + B) / 2, sqrt(3)/2 (G - B)), its chroma the length;
    the sum of these vectors is the mean hue, weighted by chroma.  If only one of the pictures is
    gray (mean chroma under 1/255) the angle is unknown and counts 90; if both are, it counts 0.
    """
    u, v = _units(a, b)

    def mean(x: Tensor) -> Tensor:
        red, green, blue = x.mean((2, 3)).unbind(1)
        return torch.complex(red - (green + blue) / 2, 3**0.5 / 2 * (green - blue))

    p, q = mean(u), mean(v)
    angle = (p * q.conj()).angle().abs().rad2deg()
    grays = (p.abs() < GRAY).to(angle) + (q.abs() < GRAY).to(angle)
    return torch.where(grays == 0, angle, torch.where(grays == 1, 90.0, 0.0))


def perceptual(a: Sequence[Tensor], b: Sequence[Tensor]) -> Float[Tensor, " b"]:
    """Distance of the features' maps (B,C,h,w) of two batches, 0 for equal ones, at most 4 a map.

    LPIPS (Zhang et al., 2018, https://arxiv.org/abs/1801.03924, eq. 1) without learned weights:
    each position's channels are scaled to length 1; their squared differences are averaged over
    positions and summed over maps.  Not comparable with LPIPS.
    """

    def unit(x: Tensor) -> Tensor:
        return x / (x.norm(dim=1, keepdim=True) + 1e-10)

    parts = [precise(unit(x) - unit(y)).square().sum(1).mean((1, 2)) for x, y in zip(a, b, strict=True)]
    return torch.stack(parts).sum(0)


def diversity(samples: Float[Tensor, "k b c h w"]) -> Float[Tensor, " b"]:
    """Mean over pairs of the K samples of each image of their root mean squared difference.

    Raises:
        UserError: there are fewer than two samples.
    """
    k = len(samples)
    if k < 2:
        raise UserError(f"diversity of {k} sample: expected two or more, from as many seeds")
    pairs = [mse(samples[i], samples[j]).sqrt() for i in range(k) for j in range(i)]
    return torch.stack(pairs).mean(0)


# ---- label maps ---------------------------------------------------------------------------------


def label_parts(a: Int[Tensor, "b h w"], b: Int[Tensor, "b h w"]) -> Float[Tensor, "b 2 labels"]:
    """Pixels in intersection (0) and union (1) of each label of the whole set, for each image.

    Raises:
        UserError: the shapes differ, or labels are no whole numbers.
    """
    if a.shape != b.shape or a.ndim != 3 or a.is_floating_point() or b.is_floating_point():
        shapes = f"{tuple(a.shape)} {a.dtype} and {tuple(b.shape)} {b.dtype}"
        raise UserError(f"label maps {shapes}: expected two of whole numbers (B,H,W)")
    labels = torch.unique(torch.cat([torch.unique(a), torch.unique(b)]))
    parts = [
        torch.stack([((a == k) & (b == k)).sum((1, 2)), ((a == k) | (b == k)).sum((1, 2))], 1) for k in labels
    ]
    return torch.stack(parts, 2).double()


def mean_iou(parts: Float[Tensor, "*n 2 labels"]) -> Float[Tensor, "*n"]:
    """Mean over the labels present (union > 0) of summed `label_parts`."""
    intersection, union = parts.unbind(-2)
    return (intersection / union.clamp(min=1)).sum(-1) / (union > 0).sum(-1)


# ---- helpers ------------------------------------------------------------------------------------


def precise(x: Tensor) -> Tensor:
    """In float64 on the CPU; other devices are slow with it, or do not know it."""
    return x.double() if x.device.type == "cpu" else x.float()


def _units(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Both in [0,1], as `precise` has it."""
    if a.shape != b.shape or a.ndim != 4:
        shapes = f"{tuple(a.shape)} and {tuple(b.shape)}"
        raise UserError(f"images {shapes}: expected the same shape (B,3,H,W)")
    check_numbers({"an image": a, "its counterpart": b}, ": it cannot be measured")
    u, v = ((precise(x.detach()).clamp(-1, 1) + 1) / 2 for x in (a, b))
    return u, v


# ---- the table ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Metric:
    """How results are compared with their sources, and with their truths: a column for each.

    Args:
        function: of two batches (B,3,H,W) in [-1,1], results and the others: one number an image (B).
        label: the column's name.
        better: 1 if more is better, -1 if less is.
        about: what it is.
        least: side in pixels that it needs; the column of smaller pictures is left out.
        of_maps: the function is given what Lite0's `maps` makes of the batches.
        of_rgb: it is of red, green and blue; the column of pictures of other bands is left out.
    """

    function: Callable[[Any, Any], Tensor]
    label: str
    better: int
    about: str
    least: int = 1
    of_maps: bool = False
    of_rgb: bool = False


METRICS = {
    "l2": Metric(l2, "L2", -1, "Frobenius norm of the difference, images in [0, 1]"),
    "psnr": Metric(psnr, "PSNR", 1, "mean of 10 log10(1 / MSE), images in [0, 1], dB"),
    "ssim": Metric(
        ssim, "SSIM", 1, "11-tap Gaussian, valid windows, mean over RGB channels", least=WINDOW
    ),
    "perceptual": Metric(
        perceptual, "perceptual", -1, "LPIPS's form on Lite0 features, unweighted; not LPIPS",
        of_maps=True,
    ),
    "colour": Metric(colour, "colour", -1, "distance of mean RGB, channels in [0, 1]"),
    "hue": Metric(hue, "hue", -1, "difference of the chroma-weighted mean hue, degrees", of_rgb=True),
}  # fmt: skip
"""Every one that a protocol may name."""
