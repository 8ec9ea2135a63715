"""Writing that is all or nothing: a reader never meets half a file or half a folder."""

import codecs
import contextlib
import errno
import hashlib
import json
import os
import shutil
import stat
import tempfile
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from sfumato.core.errors import UserError
from sfumato.data.listing import JUNK, hidden, reads_as_picture


@contextlib.contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Yield a hidden name beside `path`; it becomes `path` if the block succeeds, else it goes.

    What is there afterwards is on the disk, not only in memory, and stays whole if the power fails.

    Raises:
        OSError: the disk is full or the folder cannot be written; says which file was not written.
    """
    path = Path(path)
    if path.is_dir():
        raise _unwritten(OSError(errno.EISDIR, "a folder has this name"), path)
    # as short as can be: the name of `path` may be as long as names may be
    temporary = path.with_name(
        f".{hashlib.sha256(os.fsencode(path.name)).hexdigest()[:12]}.{os.getpid()}.tmp"
    )
    made(path.parent)
    try:
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise _unwritten(error, path) from error
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
    folder = made(for_folder(folder))
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
        try:
            file = path.open("a+")
        except OSError as error:
            raise _unwritten(error, folder) from error
        with file:
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


def regular(file: Path) -> Path:
    """A file that is going to be read: `regular(file).read_bytes()`.

    Raises:
        OSError: it is missing, or no file: a folder, or a pipe or device, which may never end.
        UserError: Git LFS has not fetched it yet.
    """
    about = file.stat()
    if not stat.S_ISREG(about.st_mode):
        raise OSError(errno.EINVAL, "it is not a file", str(file))
    if about.st_size < 200 and os.access(file, os.R_OK):
        with open(file, "rb") as small:
            if small.read(23) == b"version https://git-lfs":
                raise UserError(f"{file} is a pointer of Git LFS, not the file: git lfs pull fetches it")
    return file


def read_text(file: str | Path) -> str:
    """The text of a file that others wrote: UTF-8, or UTF-16 with its mark, as spreadsheets write it.

    Raises:
        UserError: it cannot be read, or is of another encoding.
    """
    try:
        content = regular(Path(file)).read_bytes()
    except OSError as error:
        raise UserError(f"{file} cannot be read ({error.strerror}): name a text file") from None
    marked = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        return content.decode("utf-16" if marked else "utf-8-sig")
    except UnicodeDecodeError:
        raise UserError(f"{file} is not text in UTF-8: save it as UTF-8 (CSV UTF-8 in Excel)") from None


DEEPEST = 64
"""Levels of what others wrote in JSON; what is read of it by steps into it never meets Python's limit."""


def parse_json(text: str) -> Any:
    """What a JSON text holds, which others wrote.

    Raises:
        ValueError: it is no JSON, nested too deep, or an object has a key twice, of which one would be lost.
    """

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key, value in pairs:
            if key in found:
                raise ValueError(f"{key!r} is there twice")
            found[key] = value
        return found

    try:
        found = json.loads(text, object_pairs_hook=once)
    except RecursionError:
        raise ValueError("it is nested too deep") from None
    if not _flat(found, DEEPEST):
        raise ValueError("it is nested too deep")
    return found


def _flat(value: Any, levels: int) -> bool:
    """Whether it is nested no deeper than that."""
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return levels > 0 and all(_flat(v, levels - 1) for v in inner)


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
    out = for_new_folder(out)
    made(out.parent)
    try:
        partial = Path(tempfile.mkdtemp(dir=out.parent, prefix=f"{out.name}.", suffix=".partial"))
    except OSError as error:
        raise _unwritten(error, out) from error
    try:
        partial.chmod(0o755)  # mkdtemp makes a private folder
        yield partial
        os.replace(partial, out)
    except OSError as error:
        raise _unwritten(error, error.filename or out) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def check_splits(counts: Mapping[str, int], given: str, advice: str) -> None:
    """Sees that a data set that is going to be written has pictures in both splits.

    Raises:
        UserError: it has not: what was `given`, and `advice`.
    """
    if not all(counts.values()):
        found = " and ".join(f"{n} to {split}" for split, n in counts.items())
        raise UserError(f"{given}: pictures would be {found}: expected some of both; {advice}")


def for_folder(out: str | Path) -> Path:
    """The place of a folder that is going to be written.

    Raises:
        UserError: a file is there, or it reads as a picture's name, or as one on the Hugging Face Hub.
    """
    out = Path(out)
    if out.parts[:1] == ("hf:",):
        raise UserError(f"{out} is no folder here: name one, and upload it by `sfumato push`")
    if out.is_symlink() and not out.exists():
        raise UserError(
            f"{out} is a link to {os.readlink(out)}, which is not there: make it, or name another"
        )
    if out.exists() and not out.is_dir():
        raise UserError(f"{out} is a file: choose another --out, which will be a folder")
    return out if out.is_dir() else no_picture(out, "a folder")


def for_folder_of(what: str, out: str | Path, marks: Collection[str]) -> Path:
    """The place of a folder that is new or empty, or that holds `what` already: one of these names is in it.

    Raises:
        UserError: something else is there, or as `for_folder`.
    """
    out = for_folder(out)
    inside = (f.name for f in out.iterdir()) if out.exists() else ()
    names = {name for name in inside if not hidden(name) and name.lower() not in JUNK}
    if names and names.isdisjoint(marks):
        raise UserError(f"{out} holds something else than {what} ({min(names)}): choose another --out")
    return out


def for_new_folder(out: str | Path) -> Path:
    """The place of a folder that is going to be written whole.

    Raises:
        UserError: something is there that is no empty folder, or it reads as a picture's name.
    """
    out = Path(out)
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise UserError(f"{out} exists and is not an empty folder: name a new one or delete it")
    return for_folder(out)


def for_new_file(file: str | Path, option: str, suffix: str | None = None) -> Path:
    """The place of a file that is going to be written, given by this option.

    Raises:
        UserError: something is there, or its name ends otherwise than in this suffix.
    """
    file = Path(file)
    if suffix is not None and file.suffix.lower() != suffix:
        better = file.with_suffix(suffix) if file.name else f"NAME{suffix}"
        raise UserError(f"{option} {file} does not end in {suffix}: expected a name such as {better}")
    if file.exists():
        raise UserError(f"{file} exists already: give {option} a new file")
    return file


def no_picture(out: str | Path, expected: str, suffix: str = "", option: str = "--out") -> Path:
    """The place of what is not a picture.

    Raises:
        UserError: it reads as a picture's name: "expected EXPECTED, such as --out NAME.SUFFIX".
    """
    out = Path(out)
    if reads_as_picture(out):
        raise UserError(
            f"{option} {out} reads as a picture; expected {expected}, such as {option} "
            f"{out.with_suffix(suffix)}"
        )
    return out


def made(folder: Path) -> Path:
    """The folder, which is there from then on.

    Raises:
        OSError: it cannot be made; says so, and which.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        why = f"this folder cannot be made ({error.strerror or error})"
        raise OSError(error.errno, why, str(folder)) from error
    return folder


def _unwritten(error: OSError, path: str | Path) -> OSError:
    return OSError(error.errno, f"{error.strerror or error}; nothing written", str(path))


def save_pixels(path: str | Path, pixels: np.ndarray) -> None:
    """Save uint8 pixels (H,W) or (H,W,3) as PNG, not atomically: for use inside `new_folder`."""
    from PIL import Image

    Image.fromarray(pixels).save(path, format="PNG", compress_level=3)
