"""The one reader of folders: which files of a folder are its pictures, and what is left out and why."""

from __future__ import annotations

import os
import re
import stat
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sfumato.core.errors import ContentError, existing_folder
from sfumato.core.terminal import escaped
from sfumato.data.header import LOST

PHOTOS = (
    ".png", ".jpg", ".jpeg", ".jfif", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".avif",
)  # fmt: skip
"""Endings of the pictures that visitors of the studio may upload."""
SUFFIXES = (*PHOTOS, ".npy", ".dcm", ".nii", ".nii.gz")
"""Endings, in small letters, of the files that are taken for pictures."""
OTHER_PICTURES = (
    ".heic", ".heif", ".hif", ".jp2", ".j2k", ".jpx", ".jxl", ".jxr", ".jpe", ".apng", ".tga", ".exr",
    ".hdr", ".npz", ".mat", ".ppm", ".pgm", ".pbm", ".pnm", ".pcx", ".dds", ".psd", ".xcf", ".svg",
    ".raw", ".dng", ".cr2", ".cr3", ".crw", ".nef", ".nrw", ".arw", ".orf", ".raf", ".rw2", ".pef", ".srw",
    ".mp4", ".mov", ".avi", ".mkv", ".webm",
)  # fmt: skip
"""Endings of pictures that are not read."""
PAGES = ".pdf", ".ps", ".eps", ".ai", ".emf", ".wmf", ".ico", ".icns"
"""Endings of files that lie beside pictures, and are no part of a folder of them."""
TRAINED = ("model.json", "training.safetensors")
OURS = (*TRAINED, "run.json", "protocol.json")
"""What marks a folder as made by sfumato: its pictures are results, never data of another run."""
JUNK = (".ds_store", "thumbs.db", "desktop.ini")
"""Files that systems put beside pictures, in small letters; nobody needs to hear of them."""
COPIES = ("__macosx", "@eadir")
"""Folders in which systems put other files of the same names, in small letters."""
UNREAD, HIDDEN, LINK, CLOSED = (
    "of a kind that is not read",
    "hidden",
    "links to nowhere, or to what is read already",
    "that may not be opened",
)
MADE, OTHER = "folders made by sfumato", "other files"
IN_PART = {kind: f"that {why}" for kind, why in LOST.items()}
"""What is said of pictures that are read, and not whole."""


@dataclass(frozen=True)
class Listing:
    """The pictures of a folder.

    Attributes:
        root: the folder.
        files: its pictures, also those in subfolders, in natural order (1, 2, 10).
        left_out: {reason: names relative to `root`} of everything else.
    """

    root: Path
    files: list[Path]
    left_out: dict[str, list[str]] = field(default_factory=dict)


def list_pictures(folder: str | Path) -> Listing:
    """The pictures below a folder; links are followed, and end where they have been before.

    Raises:
        UserError: `folder` is missing, is a file, holds no pictures, or is that of a training or a model,
            whose loss and previews are no data.
    """
    root = existing_folder(folder)
    if any((root / name).is_file() for name in TRAINED):
        raise ContentError(f"{root} is the folder of a training or a model, and no folder of pictures")
    left: dict[str, list[str]] = defaultdict(list)
    files: list[Path] = []
    seen: set[tuple[int, int]] = set()

    def closed(error: OSError) -> None:
        left[CLOSED].append(f"{_relative(root, error.filename)}/")

    ways = [root]  # linked folders come last, so that each is known by its own name
    for way in ways:
        for at, folders, names in os.walk(way, onerror=closed):
            here = Path(at)
            place = (here.stat().st_dev, here.stat().st_ino)
            if place in seen or (here != root and any(name in OURS for name in names)):
                left[LINK if place in seen else MADE].append(f"{_relative(root, here)}/")
                folders.clear()
                continue
            seen.add(place)
            shown = [f for f in folders if not hidden(f)]
            left[HIDDEN] += [f"{_relative(root, here / f)}/" for f in folders if f not in shown]
            folders[:] = [f for f in shown if not os.path.islink(here / f)]
            ways += sorted(here / f for f in shown if f not in folders)
            for name in names:
                if name.lower() in JUNK or (here == root and name in OURS):
                    continue
                if (why := _why_not(here / name)) is None:
                    files.append(here / name)
                else:
                    left[why].append(_relative(root, here / name))
    left_out = {why: sorted(names, key=_key) for why, names in left.items() if names}
    if not files:
        raise ContentError(
            f"{root} holds no images: files are read that end in {', '.join(SUFFIXES)}"
            + (f"; {text}" if (text := said("", left_out)) else "")
            + ("; DICOMs without endings are read where each is named" if _dicoms(root, left_out) else "")
        )
    files.sort(key=lambda p: [natural(part) for part in p.relative_to(root).parts])
    return Listing(root, files, left_out)


def find_images(folder: str | Path) -> list[Path]:
    """The files of `list_pictures`."""
    return list_pictures(folder).files


def hidden(folder: str) -> bool:
    """Whether a folder of this name is not looked into."""
    return folder.startswith(".") or folder.lower() in COPIES


def none_twice(files: Sequence[Path]) -> None:
    """Sees that no file is among them twice, under whatever names.

    Raises:
        UserError: one is.
    """
    seen = set[Path]()
    for file in files:
        if (real := file.resolve()) in seen:
            raise ContentError(f"{file} is given twice: name it once")
        seen.add(real)


def said(root: str | Path, left_out: Mapping[str, Sequence[str]], named: int = 3) -> str:
    """One line: "photos: left out 2 of a kind that is not read (a.heic, b.heic)"; empty for nothing.

    What is read in part follows: "; not read whole: 1 that hold several pictures, of which ... (c.tif)".

    Args:
        root: whose they are.
        left_out: {reason: names}, also of those that are not read whole.
        named: how many are named for each reason.
    """
    parts: dict[str, list[str]] = {"left out ": [], "not read whole: ": []}
    for why, names in left_out.items():
        some = names
        if why == OTHER:  # captions beside each picture, say: their endings are enough
            kinds = Counter(Path(name).suffix.lower() or name for name in names)
            some = [
                f"{kind if kind == kind.strip() else repr(kind)} {count:,}"
                for kind, count in kinds.most_common()
            ]
        more = ", ..." if len(some) > named else ""
        what = re.sub(r"^(other file|folder|link)s", r"\1", why) if len(names) == 1 else why
        text = f"{len(names):,} {what} ({', '.join(map(escaped, some[:named]))}{more})"
        parts["not read whole: " if why in IN_PART.values() else "left out "].append(text)
    texts = [way + "; ".join(some) for way, some in parts.items() if some]
    return f"{escaped(root)}{': ' if root else ''}{'; '.join(texts)}" if texts else ""


def in_part(name: str | Path, lost: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Reasons and texts of what was not read of a picture, as `said` lists them."""
    for kind, detail in lost.items():
        yield IN_PART[kind], f"{name}: {detail}".removesuffix(": ")


def natural(name: str) -> tuple[list[Any], str]:
    """Sort key under which 2 comes before 10."""
    parts = re.split(r"([0-9]+)", name.lower())
    return [int(p) if i % 2 else p for i, p in enumerate(parts)], name


def suffix_of(name: str | Path) -> str:
    """The ending of a file's name, in small letters; that of `x.nii.gz` has two parts."""
    suffix = Path(name).suffix.lower()
    return ".nii.gz" if suffix == ".gz" and str(name).lower().endswith(".nii.gz") else suffix


def reads_as_picture(name: str | Path) -> bool:
    """Whether nobody calls a folder so: it has the ending of a picture, also of one that is not read."""
    return suffix_of(name) in (*SUFFIXES, *OTHER_PICTURES, *PAGES)


def page_name(file: str | Path, number: int) -> str:
    """What a page of a file is called, by its number from 0 on: the first one of `x.tif` is `x.tif[1]`."""
    return f"{file}[{number + 1}]"


def file_of(name: str) -> str:
    """The file that a page is called by; of what names no page the name."""
    file = re.sub(r"\[[0-9]+\]$", "", name)
    return file if suffix_of(file) in SUFFIXES else name


def bare(name: str) -> str:
    """A file name, with its folders, without its suffix; a page keeps its number."""
    file = file_of(name)
    return file[: len(file) - len(suffix_of(file))] + name[len(file) :]


def stem_of(name: str) -> str:
    """A file name, with its folders, without its suffix: what pairs are matched by.

    Names that look the same are the same, however their accents are stored (Unicode's form C).
    """
    return unicodedata.normalize("NFC", bare(name))


def told_apart(one: str | Path, other: str | Path) -> str:
    """Two names, "a and b", that differ as they are shown: in escapes where only Unicode's form differs."""
    a, b = map(str, (one, other))
    if unicodedata.normalize("NFC", a) != unicodedata.normalize("NFC", b):
        return f"{a} and {b}"
    return f"{a!a} and {b!a}, which differ only in how accents are stored (Unicode NFC, NFD),"


def doubles(
    files: Sequence[Path], names: Sequence[str], advice: str, order: Iterable[int] | None = None
) -> dict[int, str]:
    """{index: what is wrong} of files whose name, of `names`, another has that comes before, in `order`."""
    at: dict[str, int] = {}
    return {
        i: f"{told_apart(files[other], files[i])} have one name: {advice}"
        for i in (range(len(files)) if order is None else order)
        if (other := at.setdefault(names[i], i)) != i
    }


def _dicoms(root: Path, left_out: Mapping[str, Sequence[str]]) -> bool:
    """Whether the first of the files that were left out, which have no ending, is a DICOM."""
    for name in [name for name in left_out.get(OTHER, ()) if not Path(name).suffix][:3]:
        with suppress(OSError), open(root / name, "rb") as file:
            if file.read(132)[128:] == b"DICM":
                return True
    return False


def _why_not(file: Path) -> str | None:
    suffix, picture = file.suffix.lower(), suffix_of(file) in SUFFIXES
    try:
        regular = stat.S_ISREG(file.stat().st_mode)
    except PermissionError:
        return CLOSED
    except OSError:
        regular = False
    if not regular:
        return LINK if os.path.islink(file) else OTHER
    if file.name.startswith("."):
        return HIDDEN if picture or suffix in OTHER_PICTURES else OTHER
    if not picture:
        return UNREAD if suffix in OTHER_PICTURES else OTHER
    return None


def _relative(root: Path, path: str | Path) -> str:
    return Path(path).relative_to(root).as_posix()


def _key(name: str) -> list[Any]:
    return [natural(part) for part in name.split("/")]
