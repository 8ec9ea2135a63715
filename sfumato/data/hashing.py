"""Hashes of files: pictures and weights are the same if these are."""

from __future__ import annotations

import hashlib
from functools import lru_cache
from pathlib import Path


def sha256(*files: Path) -> str:
    """Hash of the files' contents, one after the other."""
    total = hashlib.sha256()
    for file in files:
        total.update(file.read_bytes())
    return total.hexdigest()


def hash_of(file: Path) -> str:
    """sha256 of a file, read once in a process as long as its size and its time stay."""
    now = file.stat()
    return _hash_of(file, now.st_size, now.st_mtime_ns, now.st_ino)


@lru_cache(maxsize=2**18)
def _hash_of(file: Path, *version: int) -> str:
    return sha256(file)
