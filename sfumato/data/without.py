"""Pictures that a list leaves out of a training."""

import sys
from collections.abc import Mapping
from pathlib import Path

from sfumato.core.errors import UserError
from sfumato.core.terminal import count, say
from sfumato.data.folders import read_text
from sfumato.data.image_folder import ImageFolder
from sfumato.data.listing import file_of


def leave_out(
    given: Mapping[str, ImageFolder], file: str | Path, pairs: bool = False
) -> dict[str, ImageFolder]:
    """The parts of a training without the pictures that a text file lists; says how many.

    Args:
        given: the parts.
        file: in every line a picture: its path, or its name below its part's folder, as split.json
            has it. A stack's name is that of all its pages. Of pairs both pictures go. Empty lines count
            for nothing.
        pairs: whether pictures of equal names are pairs.

    Raises:
        UserError: the file cannot be read, or names a picture that is not there, or in several parts.
    """
    lines = read_text(file).splitlines()
    places: dict[str, list[tuple[str, str]]] = {}  # what can be listed: (part, stem) of each
    for part, images in given.items():
        for name, path, stem in zip(images.file_names, images.paths, images.names, strict=True):
            page = name.removeprefix(own := file_of(name))
            for whole in {own, str(path), str(path.absolute()), str(path.resolve())}:
                for key in {whole, whole + page}:
                    places.setdefault(key, []).append((part, stem))
    broken = {
        key for images in given.values() for name in images.skipped for own in (name, file_of(name))
        for key in (own, str((images.folder / own).resolve()))
    }  # fmt: skip
    gone: set[tuple[str, str]] = set()
    for line in filter(None, map(str.strip, lines)):
        real = str(Path(line).resolve())
        found = places.get(line) or places.get(real, [])
        if not found and not {line, real} & broken:
            ends = [name for images in given.values() for name in images.file_names if _ends(name, line)]
            so = f": expected its path below its folder, such as {ends[0]}" if ends else ""
            raise UserError(f"{file} lists {line!r}, and there is no such picture in the training{so}")
        if len(parts := {part: None for part, _ in found}) > 1 and not pairs:
            both = " and ".join(parts)
            raise UserError(f"{file} lists {line!r}, which is in {both}: give its path")
        gone.update(found)
    if pairs:
        gone = {(part, stem) for _, stem in gone for part in given}
    kept, gone_now = {}, 0
    for part, images in given.items():
        rows = [i for i, stem in enumerate(images.names) if (part, stem) not in gone]
        if not rows:
            raise UserError(f"{file} leaves no picture of {part}")
        gone_now += len(images) - len(rows)
        kept[part] = images.subset(rows)
    say(f"left out {count(gone_now, 'picture')}, as {file} says", file=sys.stderr)
    return kept


def _ends(name: str, line: str) -> bool:
    return bool(line) and f"/{name}".endswith(f"/{line}")
