"""Folders of pictures to what a method trains on."""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sfumato.core.errors import UserError
from sfumato.data.cached import Images
from sfumato.data.layout import layout, left_over, named, tests_by_name
from sfumato.data.listing import said
from sfumato.data.sets import Dataset, Domains, Pairs, Unpaired

Folder = str | Path
Given = Folder | Sequence[Folder] | Mapping[str, Folder]


def open_data(kind: str, given: Given, *, side_by_side: bool = False, **options: Any) -> Dataset:
    """The pictures a method learns from; test pictures of a data set are left out, and that is said.

    Args:
        kind: "domains", "pairs" or "unpaired", as the method's `data` says.
        given: {name: folder}, a folder for each domain (source first), or one folder of them in one of
            the layouts of `sfumato.data.layout.layout`.
        side_by_side: one folder, whose pictures hold a source in their left half, its target in the right.
        options: of `Images`: size, channels, resize, upscale, strict.

    Raises:
        UserError: a folder is missing, holds no readable image, or there are more or fewer than two
            domains for a method of two.
    """
    folders = [given] if isinstance(given, str | Path) else given
    if not folders:
        raise UserError("no folders given: name the folders of the pictures to train on")
    found = named(folders) if isinstance(folders, Mapping) else layout(*folders)
    for name in found:
        if (
            not isinstance(name, str)
            or not name.strip()
            or re.search(r"[\x00-\x1f\x7f-\x9f/]", name)
        ):
            raise UserError(
                f"{name!r} cannot name a domain: expected NAME=FOLDER, a name without / and line breaks"
            )
    for given_ in map(Path, folders.values() if isinstance(folders, Mapping) else folders):
        if beside := left_over(given_, found):
            warnings.warn(said(given_, beside), stacklevel=2)
    for name, splits in found.items():
        if tests := [str(folder) for split, folder in splits.items() if split != "train"]:
            warnings.warn(
                f"{name}: trained on {splits['train']}; not on {', '.join(tests)}", stacklevel=2
            )
    roots = {name: splits["train"] for name, splits in found.items()}
    said_to_train = set(map(Path, folders.values() if isinstance(folders, Mapping) else folders))
    for root in roots.values():
        inside = [p for p in root.iterdir() if p.is_dir() and not p.name.startswith(".")]
        if (root not in said_to_train and tests_by_name(root)) or (
            inside and all(map(tests_by_name, inside))
        ):
            raise UserError(
                f"{root} holds test pictures and there are none to train on: name the folder itself if "
                f"they are meant"
            )
    if kind == "domains":
        return Domains({name: Images(folder, **options) for name, folder in roots.items()})
    if side_by_side and len(roots) == 1:
        (folder,) = roots.values()
        left, right = (Images(folder, side=side, **options) for side in ("left", "right"))
    elif len(roots) == 2:
        left, right = (Images(folder, **options) for folder in roots.values())
    else:
        raise UserError(
            f"this method learns from two folders, source and target, not {len(roots)} "
            f"({', '.join(map(str, roots.values()))}); for pairs side by side in one folder say "
            f"--side-by-side"
        )
    return (Pairs if kind == "pairs" else Unpaired)(left, right)


def outside(out: Path, given: Given) -> None:
    """Sees that what a training writes is not among the pictures that it reads.

    Raises:
        UserError: `out` lies in one of the folders.
    """
    folders = [given] if isinstance(given, str | Path) else given
    for folder in folders.values() if isinstance(folders, Mapping) else folders:
        if out.resolve().is_relative_to(Path(folder).resolve()):
            raise UserError(
                f"{out} lies inside {folder}, which it is made of: choose another --out"
            )


def open_domains(spec: Given, size: int | tuple[int, int], **options: Any) -> Domains:
    """Domains from {name: folder}, or from one folder of them; see `open_data`."""
    return Domains(open_data("domains", spec, size=size, **options).parts)


def open_pairs(
    source: Folder, target: Folder, size: int | tuple[int, int], **options: Any
) -> Pairs:
    """Pairs from two folders whose files have equal names."""
    return Pairs(Images(source, size, **options), Images(target, size, **options))


def open_side_by_side(folder: Folder, size: int | tuple[int, int], **options: Any) -> Pairs:
    """Pairs from one folder of pictures whose left half is the source and right half the target."""
    left, right = (Images(folder, size, side=side, **options) for side in ("left", "right"))
    return Pairs(left, right)


def open_unpaired(
    source: Folder, target: Folder, size: int | tuple[int, int], **options: Any
) -> Unpaired:
    """Two folders that need not correspond."""
    return Unpaired(Images(source, size, **options), Images(target, size, **options))
