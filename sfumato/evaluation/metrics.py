"""What is measured, one number an image or one for two sets of features.

Images are (B,3,H,W) in [-1,1]; values outside are cut off, as they are when a picture is written.
The numbers are in the units of u = (x + 1) / 2 in [0,1]; they are computed where the images are, in
float64 on the CPU.  Images of different shapes, or with pixels that are not numbers, are a UserError.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sfumato.core.errors import UserError, check_numbers
from sfumato.evaluation.features import Features

GRAY = 1 / 255  # a mean colour nearer to gray than one 8-bit level has no hue


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
    if min(u.shape[2:]) < 11:
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

    return _by_parts(similarity, u, v)


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


@torch.no_grad()
def perceptual(
    features: Features, a: Float[Tensor, "b c h w"], b: Float[Tensor, "b c h w"]
) -> Float[Tensor, " b"]:
    """Distance of the features' maps, 0 for equal pictures, at most 4 a map.

    LPIPS (Zhang et al., 2018, https://arxiv.org/abs/1801.03924, eq. 1) without learned weights:
    each position's channels are scaled to length 1; their squared differences are averaged over
    positions and summed over maps.  Not comparable with LPIPS.
    """

    def distance(a: Tensor, b: Tensor) -> Tensor:
        return map_distance(features.maps(a), features.maps(b))

    _units(a[:0], b[:0])  # only the shapes: the features look at the values
    return _by_parts(distance, a.clamp(-1, 1), b.clamp(-1, 1))


def map_distance(a: Sequence[Tensor], b: Sequence[Tensor]) -> Float[Tensor, " b"]:
    """The distance of `perceptual` from the maps (B,C,h,w) of two batches."""

    def unit(x: Tensor) -> Tensor:
        return x / (x.norm(dim=1, keepdim=True) + 1e-10)

    parts = [
        precise(unit(x) - unit(y)).square().sum(1).mean((1, 2)) for x, y in zip(a, b, strict=True)
    ]
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
        torch.stack([((a == k) & (b == k)).sum((1, 2)), ((a == k) | (b == k)).sum((1, 2))], 1)
        for k in labels
    ]
    return torch.stack(parts, 2).double()


def mean_iou(parts: Float[Tensor, "*n 2 labels"]) -> Float[Tensor, "*n"]:
    """Mean over the labels present (union > 0) of summed `label_parts`."""
    intersection, union = parts.unbind(-2)
    return (intersection / union.clamp(min=1)).sum(-1) / (union > 0).sum(-1)


# ---- two sets of features -----------------------------------------------------------------------


def frechet(x: Float[Tensor, "n d"], y: Float[Tensor, "m d"]) -> float:
    """Squared Frechet distance of the Gaussians fitted to two sets; right for n < d too.

    Heusel et al., 2017 (https://arxiv.org/abs/1706.08500): |mu_x - mu_y|^2 + tr(C_x + C_y -
    2 (C_x C_y)^(1/2)).  With roots C = R^T R the trace of the last term is the sum of the singular
    values of R_x R_y^T, without the square root of a matrix.

    Raises:
        UserError: fewer than two images in a set, or features that do not match.
    """
    check_sets(x, y)
    return frechet_of(mean_and_root(x), mean_and_root(y))


def kid(x: Float[Tensor, "n d"], y: Float[Tensor, "m d"], block: int = 512) -> float:
    """Unbiased squared maximum mean discrepancy of the kernel (x.y / d + 1)^3.

    Binkowski et al., 2018 (https://arxiv.org/abs/1801.01401), over all images instead of subsets;
    below 0 by chance when the sets are alike.

    Raises:
        UserError: fewer than two images in a set, or features that do not match.
    """
    check_sets(x, y)
    ones = (torch.ones(1, len(x), dtype=torch.float64), torch.ones(1, len(y), dtype=torch.float64))
    return weighted_kid(x, y, *ones, block=block).item()


MeanAndRoot = tuple[Tensor, Tensor]  # mean (d), root R (r,d) of the covariance R^T R


def mean_and_root(
    x: Float[Tensor, "n d"], weights: Float[Tensor, " n"] | None = None
) -> MeanAndRoot:
    """The Gaussian of features that count `weights` times (once)."""
    x = x.double()
    weights = x.new_ones(len(x)) if weights is None else weights.to(x)
    x, weights = x[weights > 0], weights[weights > 0]
    mean = weights @ x / weights.sum()
    root = (weights / (weights.sum() - 1)).sqrt()[:, None] * (x - mean)
    return mean, torch.linalg.qr(root, "r").R if len(root) > root.shape[1] else root


def frechet_of(a: MeanAndRoot, b: MeanAndRoot) -> float:
    """Squared Frechet distance of two fitted Gaussians."""
    (mean_a, root_a), (mean_b, root_b) = a, b
    means = (mean_a - mean_b).square().sum()
    cross = torch.linalg.svdvals(root_a @ root_b.T).sum()
    traces = root_a.square().sum() + root_b.square().sum()
    return (means + (traces - 2 * cross).clamp(min=0)).item()


def weighted_kid(
    x: Float[Tensor, "n d"],
    y: Float[Tensor, "m d"],
    w: Float[Tensor, "r n"],
    v: Float[Tensor, "r m"],
    block: int = 512,
) -> Float[Tensor, " r"]:
    """KID (r) of features that count w and v times; pairs of an image with itself are left out."""

    def mean(x: Tensor, y: Tensor, w: Tensor, v: Tensor, same: bool) -> Tensor:
        total, pairs = torch.zeros(len(w)).double(), w.sum(1).double() * v.sum(1).double()
        pairs = pairs - (w * v).sum(1) if same else pairs
        v, group = torch.unique(v, dim=1, return_inverse=True)  # what counts alike costs as one
        group, order = group.sort(stable=True)
        y = y[order]
        x, w = (y, w[:, order]) if same else (x, w)
        for start in range(0, len(x), block):
            part, rest = slice(start, start + block), slice(start if same else 0, None)
            k = torch.addmm(x.new_ones(()), y[rest], x[part].T, alpha=1 / x.shape[1]).pow_(3)
            if same:
                k.fill_diagonal_(0)[block:] *= 2  # the pairs (i, j) and (j, i)
            g = group[rest] - group[rest][0]
            k = k.new_zeros(int(g[-1]) + 1, k.shape[1]).index_add_(0, g, k)
            for some in range(0, len(w), 100):  # draws at a time, for memory
                rows = slice(some, some + 100)
                total[rows] += (w[rows, part].double() * (v[rows, -len(k) :].double() @ k)).sum(1)
        return total / pairs

    x, y = x.double(), y.double()
    return mean(x, x, w, w, True) + mean(y, y, v, v, True) - 2 * mean(x, y, w, v, False)


def check_sets(x: Tensor, y: Tensor) -> None:
    """Two sets of features that can be compared.

    Raises:
        UserError: they cannot.
    """
    if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1]:
        shapes = f"{tuple(x.shape)} and {tuple(y.shape)}"
        raise UserError(f"features {shapes}: expected (N,d) and (M,d) of one network")
    if min(len(x), len(y)) < 2:
        raise UserError(f"{len(x)} and {len(y)} images: a distance of sets needs two or more each")
    check_numbers({"features": x, "the others'": y}, ": look at the images")


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


def _by_parts(f: Callable[[Tensor, Tensor], Tensor], a: Tensor, b: Tensor) -> Tensor:
    """f over 8 images at a time: on a CPU twice as fast as 64, whose maps leave the caches."""
    parts = zip(torch.split(a, 8), torch.split(b, 8), strict=True)
    return torch.cat([f(*part) for part in parts])
