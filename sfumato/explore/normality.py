"""Is a latent what a decoder expects, a draw of N(0, I)?

Each statistic stands beside the value that it has for a true N(0, I) and its standard error there.  Of n
independent normal numbers (moments of sample statistics: Fisher 1930, "The moments of the distribution for
normal samples of measures of departure from normality"):

    mean             0,            1 / sqrt(n)
    std              1 - 1/(4 n),  1 / sqrt(2 n)
    norm             sqrt(n - 1/2), 1 / sqrt(2)
    kurtosis         3 (n-1)/(n+1), sqrt(24 / n); judged by its cube root (Anscombe & Glynn 1983)
    autocorrelation  of neighbours, -1/(H W - 1), 1 / sqrt(pairs)
    slope            of log power over log frequency: in a ring of nu frequencies white noise has the power
                     chi^2_nu / nu, whose logarithm has mean psi(nu/2) - log(nu/2), variance psi'(nu/2)
    flatness         geometric by arithmetic mean of the power; exp(-gamma) = 0.561 for white noise
    channels         mean correlation between the channels, 0

K judgements at the level alpha / K each reject a true N(0, I) at most alpha of the time (Bonferroni).
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import torch
from torch import Tensor

from sfumato.core.arguments import checked
from sfumato.core.errors import UserError
from sfumato.core.ranges import Interval
from sfumato.data.folders import replacing

EULER = 0.5772156649015329
LEAST = 8
"""Least side in pixels: below, the standard errors do not hold."""


class Row(NamedTuple):
    """A statistic of one latent, or of one of its channels."""

    channel: int | None
    name: str
    value: float
    expected: float
    error: float
    z: float


@dataclass(frozen=True)
class Report:
    """What a latent is compared to N(0, I).

    Args:
        rows: a statistic each; z is its distance from the expected value in standard errors.
        alpha: share of true N(0, I) that are rejected, at most.
        limit: the |z| beyond which a statistic rejects.
    """

    rows: list[Row]
    alpha: float
    limit: float

    @property
    def rejecting(self) -> list[Row]:
        """The statistics that N(0, I) would hardly have, the worst first."""
        far = [row for row in self.rows if not abs(row.z) <= self.limit]
        return sorted(far, key=lambda row: -math.inf if math.isnan(row.z) else -abs(row.z))

    @property
    def accepts(self) -> bool:
        """Whether it may be a draw of N(0, I)."""
        return not self.rejecting

    def text(self) -> str:
        """A table, and the judgement in its last line."""
        lines = [f"{'':18}{'value':>11}{'N(0, I)':>11}{'error':>9}{'z':>9}"]
        for channel, name, *numbers, z in self.rows:
            where = name if channel is None else f"{name} [{channel}]"
            value, expected, error = numbers
            mark = "" if abs(z) <= self.limit else "  *"
            lines.append(f"{where:18}{value:11.4g}{expected:11.3g}{error:9.2g}{z:9.1f}{mark}")
        return "\n".join([*lines, self.verdict()])

    def verdict(self) -> str:
        """The judgement in one line."""
        if self.accepts:
            return f"may be N(0, I): no |z| above {self.limit:.2f} (error rate {self.alpha:g})"
        worst = self.rejecting[0]
        return (
            f"not N(0, I): {worst.name} is {worst.value:.4g}, expected {worst.expected:.4g} +- "
            f"{worst.error:.2g} (error rate {self.alpha:g})"
        )

    def to_json(self) -> dict[str, Any]:
        """The same as plain JSON."""
        rows = [row._asdict() for row in self.rows]
        return asdict(self) | {"rows": rows, "accepts": self.accepts}


@checked
def report(latent: Tensor, alpha: Annotated[float, Interval(0, 1, "()")] = 0.01) -> Report:
    """Compares one latent (C, H, W) with N(0, I).

    Args:
        latent: of 8 pixels a side or more.
        alpha: share of true N(0, I) that are rejected, at most.

    Raises:
        UserError: for another shape or fewer pixels.
    """
    if latent.ndim != 3 or min(latent.shape[1:]) < LEAST:
        raise UserError(
            f"a latent of shape {tuple(latent.shape)}: expected (C, H, W), {LEAST} pixels or more a side"
        )
    x = latent.detach().double().cpu()
    rows = _rows(x, None)
    if len(x) > 1:
        rows += [_channels(x), *(row for c in range(len(x)) for row in _rows(x[c : c + 1], c))]
    share = torch.tensor(alpha / len(rows) / 2, dtype=torch.float64)
    return Report(rows, alpha, -torch.special.ndtri(share).item())


def summary(latents: Tensor) -> dict[str, float]:
    """Mean, std, norm, kurtosis and autocorrelation of latents (N, C, H, W), averaged over them."""
    table = [_moments(x) | {"autocorrelation": _neighbours(x)[0]} for x in latents.double().cpu()]
    return {name: sum(row[name] for row in table) / len(table) for name in table[0]}


def qq_plot(latents: Tensor, file: str | Path) -> None:
    """Draws the quantiles of latents (N, C, H, W) over those of N(0, 1), a panel for each, as a PNG.

    A line for each channel; N(0, I) stays within the gray band at 95 % of the places.
    """
    from matplotlib.figure import Figure

    n, c, h, w = latents.shape
    columns = min(n, 4)
    rows = -(-n // columns)
    figure = Figure(figsize=(3 * columns, 3 * rows), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False).flat
    p = (torch.arange(h * w, dtype=torch.float64) + 0.5) / (h * w)
    q = torch.special.ndtri(p)
    # the asymptotic error of an order statistic, sqrt(p (1 - p) / n) / density
    band = 1.96 * (p * (1 - p) / (h * w)).sqrt() * math.sqrt(2 * math.pi) * (q**2 / 2).exp()
    for panel, latent in zip(panels, latents, strict=False):
        panel.fill_between(q, q - band, q + band, color="0.85")
        for i, channel in enumerate(latent.double().cpu().flatten(1).sort().values):
            panel.plot(q, channel, lw=1, color="rgb"[i] if c == 3 else None)
        panel.set(xlabel="N(0, 1)", ylabel="latent")
    for panel in list(figure.axes)[n:]:
        panel.remove()
    with replacing(file) as temporary:
        figure.savefig(temporary, dpi=100, format="png")


def _moments(x: Tensor) -> dict[str, float]:
    centred = x - x.mean()
    m2, m4 = centred.square().mean(), centred.pow(4).mean()
    return {"mean": x.mean().item(), "std": x.std().item(), "norm": x.norm().item(),
            "kurtosis": (m4 / m2**2).item()}  # fmt: skip


def _rows(x: Tensor, channel: int | None) -> list[Row]:
    """The statistics of (C, H, W) against n = C H W independent normal numbers."""
    from scipy.stats import kurtosistest

    n, of = x.numel(), _moments(x)
    expected = {
        "mean": (0.0, n**-0.5), "std": (1 - 1 / (4 * n), (2 * n) ** -0.5),
        "norm": (math.sqrt(n - 0.5), 0.5**0.5),
    }  # fmt: skip
    rows = [Row(channel, k, of[k], m, e, (of[k] - m) / e) for k, (m, e) in expected.items()]
    error = math.sqrt(24 * n * (n - 2) * (n - 3) / ((n + 1) ** 2 * (n + 3) * (n + 5)))
    z = float(kurtosistest(x.flatten().numpy()).statistic)
    rows.append(Row(channel, "kurtosis", of["kurtosis"], 3 * (n - 1) / (n + 1), error, z))
    found = {"autocorrelation": _neighbours(x), **_spectrum(x)}
    return [*rows, *(Row(channel, k, v, m, e, (v - m) / e) for k, (v, m, e) in found.items())]


def _channels(x: Tensor) -> Row:
    """The mean correlation between channels; its pairs are not correlated in N(0, I)."""
    c, n = len(x), x[0].numel()
    mean = x.flatten(1).corrcoef().triu(1).sum().item() / (c * (c - 1) / 2)
    error = 1 / math.sqrt((n - 1) * c * (c - 1) / 2)
    return Row(None, "channels", mean, 0.0, error, mean / error)


def _neighbours(x: Tensor) -> tuple[float, float, float]:
    """Correlation of pixels one apart, along both axes; its mean and error in N(0, I)."""
    x = x - x.mean((1, 2), keepdim=True)
    products = [x[:, 1:] * x[:, :-1], x[..., 1:] * x[..., :-1]]
    pairs = sum(p.numel() for p in products)
    value = sum(p.sum() for p in products) / pairs / x.square().mean()
    return float(value), -1 / (x[0].numel() - 1), pairs**-0.5


def _spectrum(x: Tensor) -> dict[str, tuple[float, float, float]]:
    """Slope and flatness of the power spectrum: value, mean and error in N(0, I)."""
    c, h, w = x.shape
    power = torch.fft.fft2(x).abs().square() / (h * w)
    fy, fx = torch.fft.fftfreq(h).double(), torch.fft.fftfreq(w).double()
    ring = ((fy[:, None] ** 2 + fx**2).sqrt() * min(h, w)).round().long()
    ring = ring.clamp(1, min(h, w) // 2 + 1)  # beyond the circle the corners are one ring
    ring[0, 0] = 0  # the mean is in none
    count = torch.bincount(ring.flatten())[1:].double()
    total = torch.bincount(ring.flatten(), weights=power.sum(0).flatten())[1:]
    nu = count * c
    half = nu / 2
    y = (total / nu).log() - (half.digamma() - half.log())
    weight = 1 / torch.polygamma(1, half)
    u = torch.arange(1, len(nu) + 1).double().log()
    u = u - (weight * u).sum() / weight.sum()
    info = (weight * u**2).sum()
    slope = ((weight * u * y).sum() / info).item(), 0.0, info.rsqrt().item()

    # each pair of conjugate frequencies once; those that are their own conjugates not at all
    i, j = torch.arange(h)[:, None], torch.arange(w)
    index, mirror = i * w + j, (-i % h) * w + (-j % w)
    once = power[:, index < mirror]
    m = torch.tensor(float(once.numel()), dtype=torch.float64)
    bias = (m.log() - m.digamma()).item()  # of the arithmetic mean's logarithm
    flatness = (once.log().mean() - once.mean().log()).exp().item()
    white = math.exp(bias - EULER)
    # var(log P) = pi^2/6, var(P) = 1, cov(log P, P) = 1
    return {"slope": slope,
            "flatness": (flatness, white, white * math.sqrt((math.pi**2 / 6 - 1) / m.item()))}  # fmt: skip
