"""Pictures from outside: looked at before they are decoded, and decoded within limits.

What is refused: other kinds of files, whatever their names; more bytes, pixels or frames than `limits`
says; files that hold more than a picture, which another program could read as something else.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Sequence
from pathlib import Path

from sfumato.core.errors import UserError
from sfumato.data.arrays import kind_of
from sfumato.data.decode import decode, inspect
from sfumato.data.folders import regular
from sfumato.data.header import Limits, Refused
from sfumato.data.listing import PHOTOS
from sfumato.studio import limits

FOREIGN = re.compile(rb"<script|<!doctype html|<html|<\?php|%PDF-1|%PDF-2", re.IGNORECASE)


def admit(file: Path) -> tuple[int, int]:
    """Sees that a file is a picture, sound and within the limits; (width, height) of it, upright.

    Raises:
        UserError: saying in one line what is wrong with it.
    """
    name = file.name
    if file.suffix.lower() not in PHOTOS:
        raise UserError(f"{name} is of a kind that is not read: expected {', '.join(PHOTOS)}")
    if (size := file.stat().st_size) > limits.BYTES:
        raise UserError(f"{name} has {size:,} bytes: expected at most {limits.BYTES:,}")
    data, within = regular(file).read_bytes(), Limits(limits.PIXELS, limits.SIDE, limits.SCANS)
    try:
        if kind := kind_of(data):
            raise Refused(f"is {kind} by its content: expected a picture as browsers show")
        if (pages := inspect(data, within).pages) > limits.FRAMES:
            raise Refused(f"holds {pages} pictures or more: expected at most {limits.FRAMES}")
        if _more_than_a_picture(data):
            raise Refused("holds more than a picture: save it anew as PNG")
        height, width = decode(data, within).samples.shape[:2]
    except Refused as error:
        raise UserError(f"{name} {error}") from None
    return width, height


def place(files: Sequence[str | Path], folder: Path) -> list[Path]:
    """Admitted copies of pictures in a new folder, under names of their own that keep theirs.

    Raises:
        UserError: for none or too many, and see `admit`.
    """
    if not files:
        raise UserError("no picture given: upload some, or pick an example")
    if len(files) > limits.PICTURES:
        raise UserError(f"{len(files)} pictures given: expected at most {limits.PICTURES} at once")
    folder.mkdir(parents=True)
    placed: dict[str, Path] = {}
    for file in map(Path, files):
        admit(file)
        stem = re.sub(r"[^\w.-]+", "_", file.stem).strip("._")[:60] or "picture"
        stem = f"{stem}_{len(placed) + 1}" if stem in placed else stem
        placed[stem] = folder / f"{stem}{file.suffix.lower()}"
        shutil.copyfile(file, placed[stem])
    return list(placed.values())


def _more_than_a_picture(data: bytes) -> bool:
    """Whether something follows the picture's end, or another kind of file hides in it."""
    if data[:4] == b"\x89PNG":
        follows = data[_png_end(data) :]
    elif data[:2] == b"\xff\xd8":
        follows = data[data.rfind(b"\xff\xd9") + 2 :].strip(b"\0")
    elif data[:4] == b"RIFF":
        follows = data[8 + int.from_bytes(data[4:8], "little") :].strip(b"\0")
    elif data[:2] == b"BM":
        follows = data[int.from_bytes(data[2:6], "little") or len(data) :].strip(b"\0")
    else:
        follows = b""
    return bool(follows) or _is_zip(data) or FOREIGN.search(data) is not None


def _png_end(data: bytes) -> int:
    """Where the first IEND chunk ends; chunks are length, name, content, checksum."""
    at = 8
    while at + 8 <= len(data) and data[at + 4 : at + 8] != b"IEND":
        at += int.from_bytes(data[at : at + 4], "big") + 12
    return at + 12


def _is_zip(data: bytes) -> bool:
    """Whether a ZIP ends where the file does: its last record says how long its comment is."""
    at = data.rfind(b"PK\x05\x06", -65_557)
    return at >= 0 and at + 22 + int.from_bytes(data[at + 20 : at + 22], "little") == len(data)
