"""Work that is watched while it runs, and stopped when its visitor leaves or its time is over."""

from __future__ import annotations

import itertools
import math
import shutil
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from PIL import Image

from sfumato.core.errors import UserError
from sfumato.data import tile
from sfumato.data.images import picture
from sfumato.data.show import shown
from sfumato.diffusion.watch import Watch, as_shown
from sfumato.explore.normality import summary
from sfumato.explore.trajectory import told_of
from sfumato.studio import limits

T = TypeVar("T")
OFTEN = 0.12
"""Seconds between two previews, at least."""
CURVES = {
    "std": "std", "autocorrelation": "autocorrelation", "score": "score, root mean square",
    "energy": "energy, with its weight", "push": "push of guidance on eps",
}  # fmt: skip
"""Statistics that are kept of every frame."""

NAME = "sfumato-job"
"""Of the threads that work."""


class Stopped(Exception):
    """The work was stopped."""


@dataclass
class Frame:
    """A moment of a translation.

    Attributes:
        step: how many steps were done.
        t: time, 0 is clean.
        noisy: x_t of the first picture, of latents the squares of their pixels; a picture, later its file.
        mean: E[x | x_t] of it.
        nfe: network evaluations so far.
        curves: statistics of the first picture by name of `CURVES`, {statistic: {of what: value}}.
    """

    step: int
    t: float
    noisy: Any
    mean: Any
    nfe: int
    curves: dict[str, dict[str, float]]


@dataclass
class Done(Generic[T]):
    """The end of a job: what it returned, and a share of its frames."""

    value: T
    frames: list[Frame]


@dataclass
class Preview:
    """How far a job is: E[x | x_t] of all pictures of the batch, as one."""

    step: int
    t: float
    nfe: int
    shown: Image.Image


def run(work: Callable[[Watch], T], seconds: float | None = None) -> Iterator[Preview | Done[T]]:
    """Does `work(watch)` in a thread; yields previews, and what it returned at the end.

    Closing the iterator stops the work at its next step.

    Args:
        work: takes a `watch`, see `sfumato.integrate`.
        seconds: it is stopped after so many; None: as `limits` says.

    Raises:
        UserError: if it took too long; and whatever the work raises.
    """
    seconds = limits.SECONDS if seconds is None else seconds
    job = _Job(seconds)
    thread = threading.Thread(target=job.do, args=(work,), name=NAME, daemon=True)
    thread.start()
    try:
        while True:
            if not job.news.wait(max(0.0, job.deadline + 1 - time.monotonic())):
                raise _too_long(seconds)  # between two steps, which end it as soon as they can
            job.news.clear()
            ended, preview = job.ended, job.preview
            if preview is not None and not ended:
                job.preview = None
                yield preview
            if ended:
                break
        thread.join()
        if isinstance(job.error, Stopped):
            raise _too_long(seconds)
        if job.error is not None:
            raise job.error
        yield Done(job.value, job.frames)
    finally:
        job.stop.set()


def _too_long(seconds: float) -> UserError:
    return UserError(f"stopped after {seconds:g} seconds: take fewer steps or pictures")


class _Job:
    """What the thread of some work shares with its visitor."""

    def __init__(self, seconds: float) -> None:
        self.deadline = time.monotonic() + seconds
        self.stop, self.news, self.ended = threading.Event(), threading.Event(), False
        self.preview: Preview | None = None
        self.frames: list[Frame] = []
        self.error: BaseException | None = None
        self.value: Any = None
        self.step = self.nfe = 0
        self.every, self.last = 1, 0.0

    def do(self, work: Callable[[Watch], Any]) -> None:
        try:
            self.value = work(self.watch)
        except BaseException as error:
            self.error = error
        finally:
            self.ended = True
            self.news.set()

    def watch(self, t: float, x_t: Any, mean: Any, extras: dict[str, Any]) -> None:
        if self.stop.is_set() or time.monotonic() > self.deadline:
            raise Stopped
        self.step, self.nfe = self.step + 1, self.nfe + extras["nfe"]
        if self.step % self.every == 0:
            self.keep(t, x_t[:1], mean[:1], extras, told_of(x_t, mean, extras))
        if (now := time.monotonic()) - self.last >= OFTEN:
            self.last = now
            seen = shown(as_shown(x_t, mean, extras)[1])
            seen = seen[0] if len(mean) == 1 else tile(seen, min(4, len(mean)))
            self.preview = Preview(self.step, t, self.nfe, picture(seen))
            self.news.set()

    def keep(self, t: float, x_t: Any, mean: Any, extras: dict[str, Any], told: dict[str, Any]) -> None:
        """Keeps a frame; of long ways every second, fourth, eighth ... one."""
        noise, clean = summary(x_t), summary(mean)
        curves: dict[str, dict[str, float]] = {k: {} for k in CURVES}
        for k in ("std", "autocorrelation"):
            curves[k] = {"x_t": noise[k], "E[x | x_t]": clean[k]}
        for name, values in told.items():  # score, energy/realism, push/realism ...
            kind, _, of = name.partition("/")
            if kind in curves and math.isfinite(value := float(values[0])):
                curves[kind][of or "x_t"] = value
        small = [picture(shown(one[0])) for one in as_shown(x_t, mean, extras)]
        for one in small:
            one.thumbnail((limits.FRAME_SIDE, limits.FRAME_SIDE))
        self.frames.append(Frame(self.step, t, small[0], small[1], self.nfe, curves))
        if len(self.frames) > limits.FRAMES_KEPT:
            self.frames, self.every = self.frames[1::2], self.every * 2


class Shelf:
    """Folders for results below `root`; the oldest go when there are too many.

    Args:
        root: an existing folder.
        keep: how many stay.
    """

    def __init__(self, root: Path, keep: int = limits.JOBS_KEPT) -> None:
        self.root, self.keep = root, keep
        self._count, self._kept, self._lock = itertools.count(1), deque[Path](), threading.Lock()

    def new(self) -> Path:
        """A folder that is not there yet."""
        with self._lock:
            self._kept.append(self.root / f"{next(self._count):06d}")
            if len(self._kept) > self.keep:
                shutil.rmtree(self._kept.popleft(), ignore_errors=True)
            return self._kept[-1]
