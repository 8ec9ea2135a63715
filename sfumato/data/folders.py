"""Writing that is all or nothing: a reader never meets half a file or half a folder."""

import contextlib
import hashlib
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

    What is there afterwards is on the disk, not only in memory, and stays whole if the power fails.

    Raises:
        OSError: the disk is full or the folder cannot be written; says which file was not written.
    """
    path = Path(path)
    # as short as can be: the name of `path` may be as long as names may be
    temporary = path.with_name(
        f".{hashlib.sha256(os.fsencode(path.name)).hexdigest()[:12]}.{os.getpid()}.tmp"
    )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise OSError(
            error.errno, f"{error.strerror or error}; nothing written", str(path)
        ) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def locked(folder: str | Path) -> Iterator[None]:
    """Keeps others from writing into `folder`, which is made if need be, while the block runs.

    What a killed run left half written in it goes first. The lock ends with the process, however it ends.

    Raises:
        UserError: another process is writing into it.
    """
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is a file: choose another --out")
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / LOCK
    with _lock(path, folder):
        for left in folder.rglob(".*.tmp"):
            left.unlink(missing_ok=True)
        try:
            yield
        finally:
            path.unlink(missing_ok=True)
            with contextlib.suppress(OSError):  # nothing was written: leave nothing
                folder.rmdir()


LOCK = ".sfumato.lock"


@contextlib.contextmanager
def _lock(path: Path, folder: Path) -> Iterator[None]:
    try:
        import fcntl
    except ImportError:  # Windows: no file of this name can be opened twice for writing there
        yield
        return
    while True:
        with path.open("a+") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                file.seek(0)
                raise UserError(
                    f"another sfumato (process {file.read().strip() or 'unknown'}) is writing into {folder}: "
                    f"wait for it, or choose another --out"
                ) from None
            if not path.exists() or os.fstat(file.fileno()).st_ino != path.stat().st_ino:
                continue  # its last holder took it away meanwhile
            file.truncate(0)
            file.write(str(os.getpid()))
            file.flush()
            yield
            return


def write_text(path: str | Path, text: str) -> None:
    """Write `text` as UTF-8 to `path`, atomically (see `replacing` for the errors)."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


@contextlib.contextmanager
def new_folder(out: str | Path) -> Iterator[Path]:
    """Yield an empty folder beside `out`, renamed to `out` if the block succeeds, else removed.

    Raises:
        UserError: `out` exists and is not an empty folder.
        OSError: the disk is full or a file cannot be read or written; says which, or else `out`.
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
    except OSError as error:
        raise OSError(
            error.errno, f"{error.strerror or error}; nothing written", error.filename or str(out)
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def save_pixels(path: str | Path, pixels: np.ndarray) -> None:
    """Save uint8 pixels (H,W) or (H,W,3) as PNG, not atomically: for use inside `new_folder`."""
    from PIL import Image

    Image.fromarray(pixels).save(path, format="PNG", compress_level=3)
