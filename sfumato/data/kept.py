"""Pictures that are decoded once, however often they are read."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Any, NamedTuple

from numpy.typing import NDArray


class Sample(NamedTuple):
    """A picture's samples (C, H, W), prepared (none where all would fill the memory), and what it was."""

    samples: NDArray[Any]
    size: tuple[int, int]
    lost: dict[str, str]


class Kept(dict[Any, Sample]):
    """Pictures by all that decides their samples."""

    most, held = 10**9, 0
    """Bytes."""


KEPT: ContextVar[Kept | None] = ContextVar("kept", default=None)


@contextlib.contextmanager
def decoding_once() -> Iterator[Kept]:
    """Inside, a picture is decoded once for each way of preparing it, as long as a gigabyte suffices."""
    kept = Kept() if (outer := KEPT.get()) is None else outer
    token = KEPT.set(kept)
    try:
        yield kept
    finally:
        KEPT.reset(token)
