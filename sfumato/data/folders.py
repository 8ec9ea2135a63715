"""Writing that is all or nothing: a reader never meets half a file or half a folder."""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from sfumato.errors import UserError


@contextlib.contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Yield a hidden name beside `path`; it becomes `path` if the block succeeds, else it goes.

    Raises:
        OSError: the disk is full or the folder cannot be written; says which file was not written.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        os.replace(temporary, path)
    except OSError as error:
        raise OSError(
            error.errno, f"{error.strerror or error}; nothing written", str(path)
        ) from error
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: str | Path, text: str) -> None:
    """Write `text` as UTF-8 to `path`, atomically (see `replacing` for the errors)."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


@contextlib.contextmanager
def new_folder(out: str | Path) -> Iterator[Path]:
    """Yield an empty folder beside `out`, renamed to `out` if the block succeeds, else removed.

    Raises:
        UserError: `out` exists and is not an empty folder.
    """
    out = Path(out)
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise UserError(f"{out} exists and is not an empty folder: name a new one or delete it")
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(dir=out.parent, prefix=f"{out.name}.", suffix=".partial"))
    try:
        partial.chmod(0o755)  # mkdtemp makes a private folder
        yield partial
        os.replace(partial, out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def save_pixels(path: str | Path, pixels: np.ndarray) -> None:
    """Save uint8 pixels (H,W) or (H,W,3) as PNG, not atomically: for use inside `new_folder`."""
    from PIL import Image

    Image.fromarray(pixels).save(path, format="PNG", compress_level=3)
