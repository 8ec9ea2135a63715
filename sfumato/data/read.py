"""Picture files to samples, and to what they say of themselves."""

from __future__ import annotations

import stat
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import ImageColor

from sfumato.core.errors import UserError
from sfumato.data.decode import decode, inspect, plain
from sfumato.data.hashing import version_of
from sfumato.data.header import LIMITS, Header, Refused

WHITE = 255, 255, 255
DARK = 2**14
"""16-bit samples that all lie below it are of 10, 12 or 14 bits: they come out dark, with few levels."""


def header_of(file: Path) -> Header:
    """What a file says of itself, read once.

    Raises:
        UserError: it is none that can be read.
    """
    try:
        return _header_of(*version_of(file))
    except (Refused, OSError) as error:
        raise UserError(f"{file} {error}") from None


@lru_cache(maxsize=2**18)
def _header_of(file: Path, *version: int) -> Header:
    return inspect(file.read_bytes())


def colour_of(name: str) -> tuple[int, int, int]:
    """The red, green and blue of a colour, of 255.

    Raises:
        UserError: it is none.
    """
    try:
        r, g, b = ImageColor.getrgb(name)[:3]
    except ValueError:
        raise UserError(f"alpha {name!r}: expected a colour such as white, black or #ff8800") from None
    return r, g, b


def read_samples(
    path: str | Path, channels: int = 3, colour: tuple[int, int, int] = WHITE
) -> tuple[NDArray[Any], dict[str, str]]:
    """Upright samples (channels, H, W) of a file, uint8 or uint16, and what of it is lost.

    Transparent ones are laid on a colour.

    Raises:
        UserError: the file is missing, empty, broken, no image, or of a kind that is not read.
    """
    if channels not in (1, 3):
        raise UserError(f"channels {channels}: expected 1 or 3")
    samples, lost = read_file(Path(path))
    if samples.dtype == np.uint16 and (top := int(samples[..., :3].max())) < DARK:
        lost = lost | {"depth": f"up to {top:,} of 65,535"}
    if channels == 1 and samples.shape[2] > 2 and _colourful(samples):
        lost = lost | {"colour": ""}
    return np.ascontiguousarray(plain(samples, channels, colour).transpose(2, 0, 1)), lost


def read_file(path: Path) -> tuple[NDArray[Any], dict[str, str]]:
    """Upright samples (H, W, 1 to 4) of a file, with alpha, and what of it is lost.

    Raises:
        UserError: as `read_samples`.
    """
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):  # a pipe or device may never end
            raise Refused("is not a file")
        if status.st_size > LIMITS.file:
            raise Refused(f"has {status.st_size:,} bytes: expected at most {LIMITS.file:,}")
        samples, _, lost = decode(path.read_bytes())
        return samples, lost
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None
    except ValueError:
        raise UserError(f"cannot read {str(path)!r}: no file can have that name") from None
    except Refused as error:
        raise UserError(f"{path} {error}") from None


def _colourful(samples: NDArray[Any]) -> bool:
    some = samples[:: max(1, len(samples) // 64), :: max(1, samples.shape[1] // 64), :3].astype(int)
    return bool((some.max(2) - some.min(2)).max() > np.iinfo(samples.dtype).max // 20)
