"""Which pixels of a result change with the seed, and which pixels of the source it depends on.

The first is the standard deviation over samples of several seeds.  The second is an occlusion map (Zeiler &
Fergus 2014, https://arxiv.org/abs/1311.2901): cells of the source are covered one after the other, and the
result's change is measured, with the same noise as without the cover.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
from torch import Tensor

from sfumato.checkpoints.tensors import write_tensors
from sfumato.core.arguments import checked
from sfumato.core.devices import with_torch_defaults
from sfumato.core.errors import UserError
from sfumato.core.ranges import Count, Interval, Several
from sfumato.data.folders import new_folder
from sfumato.data.images import write_png
from sfumato.data.resize import as_many
from sfumato.data.show import enlarged, heat, shown, tile
from sfumato.diffusion.integrate import rms
from sfumato.diffusion.noise import Noise
from sfumato.module import raw
from sfumato.translation.one_picture import OnePicture

BATCH = 64
Level = Annotated[float, Interval(-1, 1)]


@dataclass(frozen=True)
class Sensitivity:
    """What one picture's result depends on.

    Attributes:
        source: (C, H, W) in [-1, 1].
        result: (C, H, W), of the first seed.
        mean: (C, H, W), over seeds.
        spread: (H, W), deviation over seeds, in units of [-1, 1].
        depends: (rows, columns), root mean square of the result's change where a cell is covered.
        cell: side of a cell in pixels; those at the right and lower edge may be smaller.
    """

    source: Tensor
    result: Tensor
    mean: Tensor
    spread: Tensor
    depends: Tensor
    cell: int

    def sheet(self) -> Tensor:
        """Source, result, mean, spread and dependence side by side (3, H, W'), maps up to their largest."""
        h, w = self.source.shape[1:]
        large = self.depends.repeat_interleave(self.cell, 0).repeat_interleave(self.cell, 1)[:h, :w]
        maps = [heat((m / m.max().clamp(min=1e-6))[None])[0] for m in (self.spread, large)]
        pictures = [as_many(shown(x), 3).clamp(-1, 1) for x in (self.source, self.result, self.mean)]
        return tile(torch.stack([*pictures, *maps]), 5)


def mean_and_spread(samples: Tensor) -> tuple[Tensor, Tensor]:
    """Mean (B,C,H,W) and standard deviation (B,H,W) of samples (K,B,C,H,W).

    The deviation is the root of the unbiased variance averaged over channels, in the units of [-1,1].

    Raises:
        UserError: fewer than two samples.
    """
    if samples.ndim != 5 or len(samples) < 2:
        raise UserError(
            f"samples of shape {tuple(samples.shape)}: expected (K,B,C,H,W) with K at least 2; "
            f"translate with more seeds"
        )
    return samples.mean(0), samples.var(0).mean(1).sqrt()


@checked
@with_torch_defaults
def samples(
    part: Any, source: Tensor, seeds: Count, *, seed: int = 0, options: Mapping[str, Any] | None = None
) -> Tensor:
    """Results (K, B, C, H, W) of images (B, C, H, W) for K seeds, `seed` the first."""
    given = dict(options or {})
    return torch.stack([raw(part)(source, seed=seed + k, **given) for k in range(seeds)])


@checked
@with_torch_defaults
def occlusion(
    part: Any,
    source: Tensor,
    *,
    cell: Count = 4,
    fill: Level | None = None,
    seed: int = 0,
    options: Mapping[str, Any] | None = None,
    of: Tensor | None = None,
) -> Tensor:
    """How much the result of one image changes where a cell of the image is covered: (rows, columns).

    Args:
        part: a translator.
        source: an image (1, C, H, W) in [-1, 1].
        cell: side of the cells in pixels; those at the far borders may be smaller.
        fill: what covers; -1 is black, 1 white; by default the image's mean colour.
        seed: seed of the noise, the same for all covers.
        options: options of its `translate`.
        of: weights (H, W) of the result's pixels, to ask what a part of it depends on; by default all
            weigh the same.

    Returns:
        Root mean squares of the change, in units of [-1, 1].
    """
    h, w = source.shape[2:]
    cover = source.mean((2, 3), keepdim=True) if fill is None else source.new_full((1, 1, 1, 1), fill)
    i, j = (torch.arange(n, device=source.device) // cell for n in (h, w))
    index = i[:, None] * (int(j[-1]) + 1) + j
    cells = torch.arange(int(index.max()) + 1, device=source.device)
    weight = torch.ones(h, w) if of is None else of
    weight = (weight / weight.sum()).to(source)
    given, change = dict(options or {}), []
    seeds = Noise.of(source, seed).seeds
    plain = raw(part)(source, seed=seeds, **given)
    for some in torch.split(cells, BATCH):
        covered = torch.where((index == some[:, None, None])[:, None], cover, source)
        result = raw(part)(covered, seed=seeds * len(some), **given)
        change.append(((result - plain).square().mean(1) * weight).sum((1, 2)).sqrt())
    return torch.cat(change).reshape(int(i[-1]) + 1, int(j[-1]) + 1)


@checked
@with_torch_defaults
def show_sensitivity(
    given: OnePicture,
    out: str | Path,
    *,
    seeds: Several = 8,
    cell: Count = 4,
    fill: Level | None = None,
    seed: int = 0,
) -> Sensitivity:
    """Writes what one picture's result depends on: sensitivity.png, maps.safetensors, sensitivity.json.

    Args:
        given: translator and picture, see `OnePicture.read`.
        out: a new or empty folder.
        seeds: samples for the deviation.
        cell: side of the covered cells in pixels.
        fill: what covers; -1 is black, 1 white; by default the picture's mean colour.
        seed: the first seed, and that of the covered pictures.

    Raises:
        UserError: for numbers out of range, or a folder that is not empty.
    """
    part, x, chosen = given.part, given.image, given.options
    with new_folder(out) as folder:
        drawn = samples(part, x, seeds, seed=seed, options=chosen)
        mean, spread = mean_and_spread(drawn)
        depends = occlusion(part, x, cell=cell, fill=fill, seed=seed, options=chosen)
        seen = (x[0].cpu(), drawn[0, 0].cpu(), mean[0].cpu(), spread[0].cpu(), depends.cpu())
        found = Sensitivity(*seen, cell)
        facts = given.facts | {"seed": seed, "seeds": seeds, "cell": cell, "fill": fill}
        largest = {"spread": found.spread.max().item(), "depends": found.depends.max().item()}
        overall = {"spread": rms(spread).item(), "largest": largest, "run": facts}
        (folder / "sensitivity.json").write_text(json.dumps(overall, indent=1) + "\n", encoding="utf-8")
        tensors = {k: getattr(found, k) for k in ("mean", "spread", "depends")}
        write_tensors(folder / "maps.safetensors", tensors, {"maps": 1, "run": facts})
        write_png(folder / "sensitivity.png", enlarged(found.sheet(), 5 * 160))
    return found
