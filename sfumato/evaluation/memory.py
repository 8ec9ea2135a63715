"""The memory that a piece of work takes."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import torch


@contextlib.contextmanager
def peak_memory(besides: int = 0) -> Iterator[Callable[[], float | None]]:
    """Yields a function: the most memory since then, in MB, or None where it cannot be known.

    On a GPU what torch allocated there, else all that the process held (Linux only).

    Args:
        besides: bytes of what it holds for other work, not counted.
    """
    gpu = torch.cuda.is_available()
    if gpu:
        torch.cuda.reset_peak_memory_stats()
    else:
        with contextlib.suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM

    def peak() -> float | None:
        if gpu:
            return torch.cuda.max_memory_allocated() / 1e6
        try:
            found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
        except OSError:
            return None
        return (int(found[1]) * 1024 - besides) / 1e6 if found else None

    yield peak
