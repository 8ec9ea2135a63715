"""Hashes of files: pictures and weights are the same if these are."""

from __future__ import annotations

import hashlib
from functools import lru_cache
from pathlib import Path

from sfumato.data.folders import regular


def sha256(*files: Path) -> str:
    """Hash of the files' contents, one after the other."""
    total = hashlib.sha256()
    for file in files:
        total.update(regular(file).read_bytes())
    return total.hexdigest()


def hash_of(file: Path) -> str:
    """sha256 of a file, read once in a process as long as its size and its time stay."""
    return _hash_of(*version_of(file))


@lru_cache(maxsize=2**18)
def _hash_of(file: Path, *version: int) -> str:
    return sha256(file)


def version_of(file: Path) -> tuple[Path, int, int, int]:
    """What stays the same as long as nobody writes into a file: a key of what is known of its contents."""
    now = file.stat()
    return file, now.st_size, now.st_mtime_ns, now.st_ino
