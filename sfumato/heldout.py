"""What a training looks at besides its loss: held-out losses, a method's own measures, previews."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import torch

from sfumato.data import sets, tile, write_png
from sfumato.fit import State
from sfumato.method import Trainable


def scores(state: State, data: sets.Dataset, batch: int, device: torch.device) -> dict[str, Any]:
    """Losses ("held_out"), the method's "measures" if it has any, and its "warning" of them."""
    out: dict[str, Any] = {"held_out": held_out_loss(state, data, batch, device)}
    method = cast("Any", state.method)
    if hasattr(method, "measures"):
        out["measures"] = measures(state, data, batch, device)
        if hasattr(method, "warning") and (text := method.warning(out["measures"])):
            out["warning"] = text
    return out


def held_out_loss(
    state: State, data: sets.Dataset, batch: int, device: torch.device, batches: int = 4
) -> dict[str, float]:
    """Mean held-out loss of each player with the averaged weights; the same noise every time."""
    total: dict[str, float] = {}
    with state.averaged() as part, torch.no_grad():
        stream = ((a.to(device), b.to(device)) for a, b in data.batches(batch, seed=0))
        method: Trainable = part  # type: ignore[assignment]
        for i in range(batches):
            for player, loss in method.objectives(stream, torch.Generator().manual_seed(i)):
                total[player] = total.get(player, 0.0) + loss.item() / batches
    return total


def measures(
    state: State, data: sets.Dataset, batch: int, device: torch.device, batches: int = 16
) -> dict[str, float]:
    """What the method itself measures on held-out data (accuracies, ...), mean over batches."""
    total: dict[str, float] = {}
    stream, part = data.batches(batch, seed=0), cast("Any", state.method)
    with state.averaged():
        for i in range(batches):
            a, b = next(stream)
            found = part.measures(a.to(device), b.to(device), torch.Generator().manual_seed(i))
            total = {k: total.get(k, 0.0) + v / batches for k, v in found.items()}
    return {k: round(v, 4) for k, v in total.items()}


def preview(
    state: State, data: sets.Dataset, folder: Path, device: torch.device, n: int = 8
) -> None:
    """Writes previews/step_NNNNNN.png: source, result and target of held-out images, or samples."""
    a, b = data.first(n)
    a, b = a.to(device), b.to(device)
    part: Any
    with state.averaged() as part:
        if hasattr(part, "translate"):
            rows = [a, part.translate(a), b]
        elif hasattr(part, "preview"):
            rows = part.preview(a)
        else:
            return
    picture = torch.cat([r.float().cpu().clamp(-1, 1) for r in rows])
    write_png(folder / f"step_{state.step:06d}.png", tile(picture, len(rows[0])))
