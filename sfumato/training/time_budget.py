"""The clock of a training: when something is to be said or shown, and how many steps fit into minutes.

Nothing here touches what is learnt: what hangs on the clock is only shown, or is fixed and recorded before
the first step.
"""

from __future__ import annotations

import bisect
import copy
import math
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import accumulate, count, pairwise
from pathlib import Path
from typing import Any, cast

from torch import Tensor

from sfumato.checkpoints.tensors import write_tensors
from sfumato.core.errors import UserError
from sfumato.methods.registry import info
from sfumato.module import Part
from sfumato.training.fit import State, Update, fit

LINE = 30.0
"""Seconds between two lines of a young training, at most."""
PREVIEW = 60.0
"""Seconds until the first preview."""
MEASURED = 0.05, 20.0
"""Steps are measured for this share of the minutes, and for so many seconds at most."""
CYCLE = 16
"""Every so many steps all kinds of steps have come: players take turns, pairs are made anew."""
SCORES = 10
"""Times that a short training is scored on what was held out."""


def round_number(step: int) -> bool:
    """Is it 1, 2, 5, 10, 20, 50, 100, ...?"""
    return str(step).rstrip("0") in ("1", "2", "5")


def gap(elapsed: float) -> float:
    """Seconds until the next line: half a minute, later a fiftieth of the time, at most five minutes."""
    return min(max(LINE, elapsed / 50), 300.0)


def scored_every(steps: int, save_every: int) -> int:
    """Steps between two scores: about `SCORES` of them, or one a save, but none within 50 steps."""
    return max(50, min(save_every, steps // SCORES))


def spoken(seconds: float) -> str:
    """A time as people say it: 40 s, 12 min, 3.5 h."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


class Doubling:
    """When previews are due by the clock: after a minute, and whenever the time has doubled.

    Args:
        began: `time.perf_counter` of the start.
    """

    def __init__(self, began: float) -> None:
        self.began, self.next = began, PREVIEW

    def due(self) -> bool:
        """Is it time for a preview?"""
        return time.perf_counter() - self.began >= self.next

    def done(self) -> None:
        """A preview was made; however long that took, as much time goes by until the next."""
        self.next = max(PREVIEW, 2 * (time.perf_counter() - self.began))


def steps_for(
    minutes: float,
    state: State,
    batches: Iterator[tuple[Tensor, Tensor]],
    look: Callable[[State], object],
    score: Callable[[State], object],
    *,
    save_every: int,
    preview_every: int,
    keep: int = 0,
    began: float | None = None,
    **how: Any,
) -> int:
    """How many steps of a training fit into these minutes, with its scores, saves and previews.

    They are measured on a copy that is thrown away, so that the training itself is the one that its number
    of steps makes, learning rate and bits alike: its record repeats it.

    Args:
        minutes: for everything from `began` on.
        state: state of the training; not touched.
        batches: real ones, of an iterator of their own.
        look: makes the pictures of a preview.
        score: scores the training on what was held out.
        save_every: steps between saves.
        preview_every: steps between previews; 0 makes none.
        keep: how many models are kept, which are written with saves and scores; 0 writes none.
        began: `time.perf_counter` of the start; now by default.
        how: of `fit`, its accelerator among them.

    Raises:
        UserError: for several processes, which would not measure the same.
    """
    if how["accelerator"].num_processes > 1:
        raise UserError("--minutes measures the steps of one process: give several processes --steps")
    began = time.perf_counter() if began is None else began
    budget = 60 * minutes
    trial = State(copy.deepcopy(state.method))
    updates = fit(trial, batches, **(how | {"steps": 10**9}))
    first, each = _phases(trial.method), []
    for batch in first:
        if batch:
            cast("Any", trial.method).seen.fill_(batch)
        each.append(_measured(updates, budget / len(first)))
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "training.safetensors"
        saving = _seconds(lambda: write_tensors(file, trial.tensors()))
    model = saving / 4  # the average alone, without weights and two moments
    scoring = _seconds(lambda: score(trial)) + (model if keep else 0.0)
    looking = _seconds(lambda: look(trial)) if preview_every else 0.0
    looks = 2 + math.log2(max(1.0, minutes))  # by `Doubling`, and the last one
    beside = (saving + (2 if keep else 1) * model) / save_every + looking / (preview_every or 1)
    ends = [(n - first[0]) / how.get("accumulate", 1) for n in (*first[1:], math.inf)]
    left = budget - (time.perf_counter() - began) - looks * looking

    def cost(steps: int) -> float:
        """Seconds of so many: those of each phase up to its end, and all that comes between."""
        at = [min(steps, end) for end in (0, *ends)]
        learning = sum(t * (b - a) for t, (a, b) in zip(each, pairwise(at), strict=True))
        scores = math.ceil(steps / scored_every(steps, save_every))
        return learning + steps * beside + scores * scoring

    steps = bisect.bisect_right(range(1, 10**9), left, key=cost)
    if not steps:
        raise UserError(
            f"not one step fits into {minutes:g} minutes: a step takes {each[0]:.1g} s, a preview "
            f"{spoken(looking)}; give more --minutes, or --preview-every 0"
        )
    return steps


def _phases(method: Part) -> list[int]:
    """The batches at which a method's phases begin, whose steps take their own times each.

    A model that learnt before is beyond some of them.
    """
    lengths = [int(getattr(method, name)) for name in info(method).phases]
    seen = int(cast("Any", method).seen) if lengths else 0
    return list(dict.fromkeys(max(n, seen) for n in accumulate([0, *lengths])))


def _measured(updates: Iterator[Update], budget: float) -> float:
    """Seconds of a step, of some that take a share of so many seconds."""
    next(updates)  # makes the optimiser's buffers, and is not counted
    began, enough = time.perf_counter(), min(MEASURED[0] * budget, MEASURED[1])
    for n in count(1):
        next(updates)
        seconds = time.perf_counter() - began
        most = min(max(2 * enough, budget / 10), 2 * MEASURED[1])
        if (seconds >= enough and n % CYCLE == 0) or seconds >= most:
            break
    return seconds / n


def _seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began
