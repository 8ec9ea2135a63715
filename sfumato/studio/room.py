"""Where uploads and results are while the studio runs, and what removes them, however it ends."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOM = "sfumato-studio-"
"""How the folders' names begin."""


class Room(tempfile.TemporaryDirectory):  # type: ignore[type-arg]
    """A folder for what is made while the studio runs; those of studios that were killed are removed.

    A studio keeps its folder locked, and the system unlocks it however the studio ends.
    """

    def __init__(self) -> None:
        for left in Path(tempfile.gettempdir()).glob(f"{ROOM}*"):
            if (lock := _locked(left)) is not None:
                shutil.rmtree(left, ignore_errors=True)
                os.close(lock)
        super().__init__(prefix=ROOM, ignore_cleanup_errors=True)
        self.lock = _locked(Path(self.name))

    def cleanup(self) -> None:
        super().cleanup()
        if self.lock is not None:
            os.close(self.lock)
            self.lock = None


def _locked(folder: Path) -> int | None:
    """A lock on a folder of ours that none has, until it is closed or this process ends."""
    try:
        import fcntl
    except ImportError:  # Windows, where old folders stay
        return None
    try:
        held = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError:  # another user's, a file, or a link
        return None
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(held)
        return None
    return held


@contextlib.contextmanager
def ended_by_signals() -> Iterator[None]:
    """SIGTERM and SIGHUP end what runs inside as an exception does, so that it cleans up."""

    def end(number: int, frame: Any) -> None:
        raise SystemExit(128 + number)

    if threading.current_thread() is not threading.main_thread():  # others cannot set handlers
        yield
        return
    kinds = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
    before = {kind: signal.signal(kind, end) for kind in kinds}
    try:
        yield
    finally:
        for kind, handler in before.items():
            signal.signal(kind, handler)
