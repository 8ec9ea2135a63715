"""Pictures and folders of pictures as they are named on a command line."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from sfumato.core.arguments import check_value
from sfumato.core.errors import UserError
from sfumato.data.folders import for_folder
from sfumato.data.listing import list_pictures


@dataclass
class Gathered:
    """Pictures that were named, one by one or by their folders.

    Attributes:
        files: {result's name, relative to the output folder: picture}.
        folders: {result's name: folder that was named, or that its picture lies in}.
        left_out: {folder: {reason: names}} of what its listing leaves out.
    """

    files: dict[Path, Path] = field(default_factory=dict)
    folders: dict[Path, Path] = field(default_factory=dict)
    left_out: dict[Path, dict[str, list[str]]] = field(default_factory=dict)


def gather(paths: Sequence[str | Path], out: str | Path | None = None) -> Gathered:
    """Results' names, relative to the output folder, and the pictures they are made of.

    Raises:
        UserError: for paths that do not exist, an `out` inside of one or that reads as a picture's name,
            a picture twice, or two results of one name.
    """
    check_value("paths", paths, Sequence[str | Path])
    check_value("out", out, str | Path | None)
    out, found, seen = None if out is None else for_folder(out), Gathered(), set[Path]()
    for path in map(Path, paths):
        if not os.path.exists(path):  # nor is there one whose name is too long
            raise UserError(f"{path} does not exist: expected a picture or a folder of pictures")
        if not (path.is_file() or path.is_dir()):  # a pipe or device may never end
            raise UserError(f"{path} is not a file: expected a picture or a folder of pictures")
        files, root = [path], path.parent
        if path.is_dir():
            if out and out.resolve().is_relative_to(path.resolve()):
                raise UserError(f"{out} lies inside the folder it is made of; choose another --out")
            listing = list_pictures(path)
            files, root = listing.files, path
            found.left_out[path] = listing.left_out
        for file in files:
            if (real := file.resolve()) in seen:
                raise UserError(f"{file} is given twice: name it once")
            seen.add(real)
            name = file.relative_to(root).with_suffix(".png")
            if (other := found.files.get(name)) is not None:
                raise UserError(
                    f"{other} and {file} would both become {(out or Path()) / name}: "
                    f"rename one, or translate them into two folders"
                )
            found.files[name], found.folders[name] = file, root
    if not found.files:
        raise UserError("no pictures given: name some, or a folder of them")
    return found
