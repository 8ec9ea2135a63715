"""Models that are kept beside the one of a run: those of the last saves, and the best one.

    checkpoints/step-2000/    the averaged weights at that step
    best/                     those with the lowest held-out loss so far

Both are model folders.  A new one is made under another name and renamed when it is whole; in the place of
`best` each file is replaced at once, so that it can be loaded at any time.  Which steps are kept follows
from their numbers alone, never from a clock or a signal: a run that was killed and goes on keeps the same.
"""

from __future__ import annotations

import contextlib
import math
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sfumato.checkpoints.model_folder import describe_folder, write_model
from sfumato.core.errors import UserError
from sfumato.training.fit import State

FILES = {"model.json", "weights.safetensors", "README.md"}
"""What a model folder has; one with anything else in it has become the user's, and stays."""


class Checkpoints:
    """The kept models of a run.

    Args:
        out: the run folder.
        keep: how many of the last saves are kept.
        step: from which the run goes on; 0 if it is new.
    """

    def __init__(self, out: Path, keep: int, step: int) -> None:
        self.folder, self.best, self.keep = out / "checkpoints", out / "best", keep
        self.lowest = self._recorded() if step else math.inf

    def add(self, state: State, info: Mapping[str, Any]) -> None:
        """Keeps the model at this step; those that are too many go, and those of steps that are to come."""
        kept = self._own()
        if state.step not in kept:
            self._write(self.folder / f"step-{state.step}", state, info)
        past = sorted(step for step in kept if step < state.step)
        for step in {*kept} - {state.step, *past[max(0, len(past) + 1 - self.keep) :]}:
            self._remove(kept[step])

    def rank(self, state: State, info: Mapping[str, Any], loss: float) -> None:
        """Keeps the model in the place of the best one, if its held-out loss is lower."""
        if loss < self.lowest or (math.isfinite(loss) and not self.best.exists()):
            self._write(self.best, state, {**info, "held_out_loss": loss})
            self.lowest = loss

    def forget(self, step: int) -> None:
        """Removes those of later steps, which are made anew, and what a kill left half written."""
        for later, folder in self._own().items():
            if later > step:
                self._remove(folder)
        for left in (*self.folder.glob(".step-*.partial"), *self.best.parent.glob(".best.partial")):
            _clear(left)

    def _own(self) -> dict[int, Path]:
        """The kept ones by their steps."""
        found = {re.fullmatch(r"step-(\d+)", f.name): f for f in self.folder.glob("step-*") if f.is_dir()}
        return {int(m[1]): f for m, f in found.items() if m and {p.name for p in f.iterdir()} <= FILES}

    def _recorded(self) -> float:
        """The held-out loss of the best one; infinite if there is none, or it does not say."""
        with contextlib.suppress(UserError, TypeError, ValueError, OverflowError):
            return float(describe_folder(self.best)["info"].get("held_out_loss", math.inf))
        return math.inf

    @staticmethod
    def _write(folder: Path, state: State, info: Mapping[str, Any]) -> None:
        _no_file(folder)
        partial = folder if folder.exists() else _beside(folder)
        write_model(state.method, partial, weights=state.ema, info=info)
        if partial != folder:
            os.replace(partial, folder)

    @staticmethod
    def _remove(folder: Path) -> None:
        os.replace(folder, gone := _beside(folder))  # nobody meets half of it
        shutil.rmtree(gone)


def _beside(folder: Path) -> Path:
    """A hidden name for what is written or removed, which nothing has."""
    partial = folder.with_name(f".{folder.name}.partial")
    _clear(partial)
    return partial


def _no_file(place: Path) -> None:
    if place.exists() and not place.is_dir():
        raise UserError(f"{place} is a file, where kept models go: move it away")


def _clear(place: Path) -> None:
    if place.is_dir():
        shutil.rmtree(place, ignore_errors=True)
    else:
        place.unlink(missing_ok=True)
