"""Pictures from outside: looked at before they are decoded, and decoded within limits.

What is refused: other kinds of files, whatever their names; more bytes, pixels or frames than `limits`
says; files that hold more than a picture, which another program could read as something else.
"""

from __future__ import annotations

import io
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sfumato.data import read_image
from sfumato.data.images import SUFFIXES
from sfumato.errors import UserError

from . import limits

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF")
FOREIGN = re.compile(rb"<script|<!doctype html|<html|<\?php|%PDF-1|%PDF-2", re.IGNORECASE)


def admit(file: Path) -> None:
    """Sees that a file is a picture, sound and within the limits.

    Raises:
        UserError: saying in one line what is wrong with it.
    """
    name = file.name
    if file.suffix.lower() not in SUFFIXES:
        raise UserError(f"{name} is of a kind that is not read: expected {', '.join(SUFFIXES)}")
    if (size := file.stat().st_size) > limits.BYTES:
        raise UserError(f"{name} has {size:,} bytes: expected at most {limits.BYTES:,}")
    _check_header(name, data := file.read_bytes())
    if _more_than_a_picture(data):
        raise UserError(f"{name} holds more than a picture: save it anew as PNG")
    try:
        read_image(file)
    except UserError as error:
        raise UserError(str(error).replace(str(file), name)) from None


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


def _check_header(name: str, data: bytes) -> None:
    """Format, pixels and frames, before any pixel is decoded."""
    import tifffile
    from PIL import Image, UnidentifiedImageError

    try:
        if data[:2] in (b"II", b"MM"):
            with tifffile.TiffFile(io.BytesIO(data)) as tiff:
                page: Any = tiff.pages[0]
                (width, height), frames = (page.imagewidth, page.imagelength), _pages(tiff)
                if page.is_tiled:  # whole tiles are unpacked, however small the picture is
                    width, height = max(width, page.tilewidth), max(height, page.tilelength)
                if page.samplesperpixel > 4:
                    raise UserError(
                        f"{name} has {page.samplesperpixel} channels: expected at most 4"
                    )
                if page.bitspersample != 8 and page.compression != 1:  # unpacked without a bound
                    raise UserError(
                        f"{name} is a compressed 16-bit TIFF: save it as PNG, or uncompressed"
                    )
        else:
            with Image.open(io.BytesIO(data), formats=FORMATS) as image:
                (width, height), frames = image.size, getattr(image, "n_frames", 1)
    except Image.DecompressionBombError:
        raise UserError(f"{name} has too many pixels: {_expected()}") from None
    except UnidentifiedImageError:
        raise UserError(f"{name} is no image, or its header is broken") from None
    except UserError:
        raise
    except Exception as error:  # decoders raise almost anything on broken data
        raise UserError(f"{name} is broken ({' '.join(str(error).split())})") from None
    if width * height > limits.PIXELS or max(width, height) > limits.SIDE:
        raise UserError(f"{name} has {width}x{height} pixels: {_expected()}")
    if data[:2] == b"\xff\xd8" and data.count(b"\xff\xda") > limits.SCANS:
        raise UserError(f"{name} is drawn over more than {limits.SCANS} times: save it anew as PNG")
    if frames > limits.FRAMES:
        raise UserError(f"{name} holds {frames} pictures or more: expected at most {limits.FRAMES}")


def _pages(tiff: Any) -> int:
    """Pictures in a TIFF; no more than one beyond the limit are looked for."""
    count = 0
    while count <= limits.FRAMES:
        try:
            tiff.pages[count]
        except IndexError:
            break
        count += 1
    return count


def _expected() -> str:
    return f"expected at most {limits.PIXELS:,}, and {limits.SIDE:,} a side; make it smaller first"


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
