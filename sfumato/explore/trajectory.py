"""Trajectories: where a diffusion method is at every step, and what drives it there.

Of each step: x_t (shown at unit size, x_t / sqrt(alpha^2 + sigma^2)), the denoised mean E[x | x_t], and

    score        root mean square of grad log p_t(x_t) = (alpha E[x | x_t] - x_t) / sigma^2
    change       root mean square by which the mean differs from that of the step before
    from source  root mean square of the mean's difference from the source
    energy/NAME  value of an energy with its weight, for methods that are guided by some
    push/NAME    by how much its gradient moved eps, which is of unit size itself (root mean square)
    moved        by how much the method changed x_s after the step (root mean square)
    nfe          network evaluations so far

All are taken from `watch`, so that a method of one's own has a trajectory, too.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sfumato.core.devices import with_torch_defaults
from sfumato.core.errors import UserError
from sfumato.data.folders import new_folder
from sfumato.data.images import picture, write_png
from sfumato.data.resize import as_many
from sfumato.data.show import enlarged, shown, tile
from sfumato.diffusion.denoiser import score_of
from sfumato.diffusion.integrate import rms
from sfumato.diffusion.watch import as_shown
from sfumato.methods.registry import name_of
from sfumato.module import raw
from sfumato.translation.one_picture import OnePicture

LEVELS = "alpha", "sigma"
COLUMNS, MILLISECONDS = 10, 120
"""Steps on a film strip, and the result after them; and how long a film shows each."""


@dataclass(frozen=True)
class Trajectory:
    """What was seen of S steps for B images.

    Attributes:
        times: (S) of the steps; they rise while a picture is encoded.
        states: (S, B, C, H, W), x_t at unit size; of a model with a codec each latent is a square of pixels.
        means: (S, B, C, H, W), E[x | x_t], as a picture.
        curves: by name (S, B); nan where a step tells nothing.
        source: (B, C, H, W) in [-1, 1].
        result: (B, C, H, W).
    """

    times: list[float]
    states: Tensor
    means: Tensor
    curves: dict[str, Tensor]
    source: Tensor
    result: Tensor

    def to_json(self) -> dict[str, Any]:
        """Times, and of each curve a list for every image; null where a step tells nothing."""
        curves = {
            name: [[x if x == x else None for x in one] for one in curve.T.tolist()]
            for name, curve in self.curves.items()
        }
        return {"t": self.times, "curves": curves}


@with_torch_defaults
def record(
    part: Any, source: Tensor, *, seed: int = 0, options: Mapping[str, Any] | None = None
) -> Trajectory:
    """Translates images and keeps every step.

    Args:
        part: a translator that takes steps.
        source: images (B, C, H, W) in [-1, 1].
        seed: seed of the noise.
        options: options of its `translate`.

    Raises:
        UserError: if it makes its results at once.
    """
    times: list[float] = []
    states, means, rows = list[Tensor](), list[Tensor](), list[dict[str, Tensor]]()

    def watch(t: float, x_t: Tensor, mean: Tensor, extras: dict[str, Any]) -> None:
        told = told_of(x_t, mean, extras)
        x_t, mean = as_shown(x_t, mean, extras)
        last = means[-1] if means else torch.full_like(mean, torch.nan)
        like = mean if mean.shape == source.shape else as_many(mean, source.shape[1])
        row = {"score": told.pop("score"), "change": rms(mean - last),
               "from source": rms(like - source), **told}  # fmt: skip
        nfe = rows[-1]["nfe"] if rows else torch.zeros(len(x_t))
        rows.append({k: v.detach().cpu() for k, v in row.items()} | {"nfe": nfe + extras["nfe"]})
        times.append(t)
        size = torch.stack(levels(extras)).norm().nan_to_num(1.0)
        states.append((x_t / size).detach().clone())
        means.append(mean.detach().clone())

    result = raw(part)(source, seed=seed, watch=watch, **(options or {}))
    if len(times) < 2:
        raise UserError(
            f"{name_of(part)} makes its result in {len(times)} step: there is no trajectory; choose a "
            f"diffusion method, or more steps"
        )
    nothing = torch.full((len(source),), torch.nan)
    names = dict.fromkeys(name for row in rows for name in row)
    curves = {name: torch.stack([row.get(name, nothing) for row in rows]) for name in names}
    curves = {k: v for k, v in curves.items() if not v.isnan().all()}
    seen = torch.stack(states).cpu(), torch.stack(means).cpu()
    return Trajectory(times, *seen, curves, source.cpu(), result.cpu())


def told_of(x_t: Tensor, mean: Tensor, extras: Mapping[str, Any]) -> dict[str, Tensor]:
    """The score's size and what guidance tells of one step, by name, (B,) each; nan where there is none."""
    told = {k: v for k, v in extras.items() if isinstance(v, Tensor) and v.shape == (len(x_t),)}
    return {"score": rms(score_of(mean, x_t, *levels(extras))), **told}


def levels(extras: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
    """alpha and sigma of a step; nan where the method has none."""
    alpha, sigma = (torch.tensor(extras.get(k, torch.nan), dtype=torch.float64) for k in LEVELS)
    return alpha, sigma


def show_trajectory(given: OnePicture, out: str | Path, *, seed: int = 0) -> Trajectory:
    """Translates one picture and writes strip.png, film.webp, curves.png, curves.json and result.png.

    Args:
        given: translator and picture, see `OnePicture.read`.
        out: a new or empty folder.
        seed: seed of the noise.

    Raises:
        UserError: for a folder that is not empty, and for methods of one step.
    """
    with new_folder(out) as folder:
        found = record(given.part, given.image, seed=seed, options=given.options)
        facts = {"run": given.facts | {"seed": seed}, **found.to_json()}
        (folder / "curves.json").write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
        write_png(folder / "result.png", shown(found.result[0]))
        strip(found, folder / "strip.png")
        film(found, folder / "film.webp")
        plot(found, folder / "curves.png")
    return found


def strip(found: Trajectory, file: str | Path) -> None:
    """The first image's x_t above its E[x | x_t], at steps spread evenly, then the result, as a PNG."""
    from matplotlib.figure import Figure

    n = len(found.times)
    steps = sorted({round(i * (n - 1) / max(1, COLUMNS - 1)) for i in range(COLUMNS)})
    figure = Figure(figsize=(1.05 * (len(steps) + 1), 2.5), layout="constrained")
    panels = figure.subplots(2, len(steps) + 1, squeeze=False)
    cells = [(found.states[i, 0], found.means[i, 0], f"t {found.times[i]:.2f}") for i in steps]
    cells.append((found.source[0], found.result[0], ""))
    for column, (above, below, title) in zip(panels.T, cells, strict=True):
        for panel, x in zip(column, (above, below), strict=True):
            panel.imshow(picture(shown(x).clamp(-1, 1)), cmap="gray", interpolation="nearest")
            panel.set(xticks=[], yticks=[], frame_on=False)
        column[0].set_title(title or "source", fontsize=8)
        if not title:
            column[1].set_title("result", fontsize=8)
    panels[0, 0].set_ylabel("x_t", fontsize=9)
    panels[1, 0].set_ylabel("E[x | x_t]", fontsize=9)
    figure.savefig(file, dpi=120, format="png")


def film(found: Trajectory, file: str | Path) -> None:
    """x_t beside E[x | x_t] of every image, a row each, step by step and then the result: animated WebP."""
    pairs = [*zip(found.states, found.means, strict=True), (found.source, found.result)]
    frames = []
    for left, right in pairs:
        seen = [as_many(shown(x), 3) for x in (left, right)]
        rows = torch.stack(seen, 1).flatten(0, 1).clamp(-1, 1)
        frames.append(picture(enlarged(tile(rows, 2))))
    lasting = [MILLISECONDS] * (len(frames) - 1) + [1500]
    first, *rest = frames
    first.save(file, "WEBP", save_all=True, append_images=rest, duration=lasting, loop=0, lossless=True)


def plot(found: Trajectory, file: str | Path) -> None:
    """The curves, a panel for each kind; over t, or over steps where t does not only fall."""
    from matplotlib.figure import Figure

    falling = all(t > s for t, s in pairwise(found.times))
    x = found.times if falling else list(range(len(found.times)))
    kinds: dict[str, list[str]] = {}
    for name in found.curves:
        kinds.setdefault(name.partition("/")[0], []).append(name)
    kinds.pop("nfe", None)
    rows = -(-len(kinds) // 3)
    figure = Figure(figsize=(3.4 * min(3, len(kinds)), 2.4 * rows), layout="constrained")
    figure.subplots(rows, min(3, len(kinds)))
    for panel, (kind, names) in zip(list(figure.axes), kinds.items(), strict=False):
        for i, name in enumerate(names):
            panel.plot(x, found.curves[name], color=f"C{i}", marker=".", ms=3, lw=1,
                       label=name.partition("/")[2] or None)  # fmt: skip
        panel.set_title(kind, fontsize=9)
        panel.set_xlabel("t" if falling else "step", fontsize=8)
        panel.tick_params(labelsize=7)
        positive = all((found.curves[name] > 0).all() for name in names)
        panel.set_yscale("log" if kind in ("score", "energy") and positive else "linear")
        if falling:
            panel.invert_xaxis()
        if len(names) > 1 or "/" in names[0]:
            panel.legend(fontsize=7)
    for panel in list(figure.axes)[len(kinds) :]:
        panel.remove()
    figure.savefig(file, dpi=110, format="png")
