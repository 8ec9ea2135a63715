"""Which folders of a data set are its domains, and which of them train and which test."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from sfumato.core.errors import UserError, existing_folder
from sfumato.data.listing import HIDDEN, MADE, OURS, SUFFIXES, hidden, natural, suffix_of

Folders = dict[str, dict[str, Path]]
"""{domain: {split: folder}}; "train" is always there and first."""
SPLITS = {"train": "train", "training": "train", "test": "test", "testing": "test", "val": "val",
          "valid": "val", "validation": "val"}  # fmt: skip


def layout(*folders: str | Path) -> Folders:
    """The domains and splits of one folder, or of a folder for each domain.

    One folder may hold trainA/ and trainB/ (with testA/, testB/), train/DOMAIN/ (with test/DOMAIN/),
    DOMAIN/train/ (with DOMAIN/test/), or DOMAIN/; else it is one domain. Folders that sfumato made and
    those without pictures are none. In each of several folders train/ and test/ are its splits.

    Raises:
        UserError: a folder is missing, lies in another one, or holds pictures beside such folders; one of
            several holds domains with splits of their own.
    """
    given = [existing_folder(folder) for folder in folders]
    if len(given) == 1:
        out = _alone(given[0])
    else:
        out = {name: _domain(folder) for name, folder in zip(_names(given), given, strict=True)}
    apart([folder for splits in out.values() for folder in splits.values()])
    return out


def named(folders: Mapping[str, str | Path]) -> Folders:
    """The splits of the folders of named domains.

    Raises:
        UserError: a folder is missing, lies in another one, or holds domains with splits of their own.
    """
    out = {name: _domain(existing_folder(folder)) for name, folder in folders.items()}
    apart([folder for splits in out.values() for folder in splits.values()])
    return out


def apart(folders: Sequence[Path]) -> None:
    """Sees that no folder lies in another.

    Raises:
        UserError: one does.
    """
    for i, one in enumerate(folders):
        for other in folders[:i]:
            x, y = one.resolve(), other.resolve()
            if x.is_relative_to(y) or y.is_relative_to(x):
                raise UserError(f"{one} lies in {other} (or is the same): name folders that are apart")


def splits_of(folder: Path) -> dict[str, Path]:
    """train, and test and val if they are there, of one domain; the folder itself is train if not."""
    known = {SPLITS[p.name.lower()]: p for p in _subfolders(folder) if p.name.lower() in SPLITS}
    return _train_first(known) if "train" in known else {"train": folder}


def tests_by_name(folder: Path) -> bool:
    """Whether a folder is called as those of test pictures are: test, val, testA, test_b, ..."""
    tests = "|".join(name for name, split in SPLITS.items() if split != "train")
    return re.fullmatch(rf"(?i:{tests})(?:[_-][A-Za-z]|[A-Z])?", folder.name) is not None


def left_over(folder: Path, found: Folders) -> dict[str, list[str]]:
    """{reason: names} of the folders below `folder` that are in no split of a domain."""
    used = [root for splits in found.values() for root in splits.values()]
    left: dict[str, list[str]] = {}

    def look(at: Path) -> None:
        for sub in sorted((p for p in at.iterdir() if p.is_dir()), key=lambda p: natural(p.name)):
            if any(root.is_relative_to(sub) for root in used):
                look(sub) if sub not in used else None
            else:
                why = HIDDEN if hidden(sub.name) else _why_none(sub) or "of no domain"
                left.setdefault(why, []).append(f"{sub.relative_to(folder).as_posix()}/")

    if folder not in used:
        look(folder)
    return left


def _domain(folder: Path) -> dict[str, Path]:
    """The splits of a folder that is one domain.

    Raises:
        UserError: it holds domains with splits of their own: test pictures would be among its pictures.
    """
    splits = splits_of(folder)
    if splits == {"train": folder}:
        inside = _lettered(folder) or {sub.name: splits_of(sub) for sub in _subfolders(folder)}
        if parts := [p for found in inside.values() if len(found) > 1 for p in found.values()]:
            raise UserError(
                f"{folder} is not one domain, it holds {_some(parts, folder)}: name the folder that "
                f"is meant, such as {parts[0]}"
            )
    return splits


def _lettered(folder: Path) -> Folders:
    """The splits trainA, trainB, testA, test_b, ... by their letters."""
    found: Folders = {}
    for sub in _subfolders(folder):
        if known := re.fullmatch(rf"((?i:{'|'.join(SPLITS)}))(?:[_-]([A-Za-z])|([A-Z]))", sub.name):
            letter = (known[2] or known[3]).upper()  # trains is a name
            found.setdefault(letter, {})[SPLITS[known[1].lower()]] = sub
    return {letter: _train_first(found[letter]) for letter in sorted(found)}


def _alone(folder: Path) -> Folders:
    found = _lettered(folder)
    if found and all("train" in splits for splits in found.values()):
        return found
    found = {}
    splits = splits_of(folder)
    for split, root in splits.items():
        domains = _subfolders(root)
        if len(domains) > 1 and not _loose(root):
            for sub in domains:
                if split == "train" and root == folder:  # A/train beside B/train
                    found[sub.name] = splits_of(sub)
                else:
                    found.setdefault(sub.name, {})[split] = sub
        elif len(domains) > 1 and root == folder:
            raise UserError(
                f"{folder} holds pictures beside the folders {_some(domains)}: name the domains as "
                f"NAME=FOLDER, or move these pictures away"
            )
    if found and all("train" in parts for parts in found.values()):
        return found
    return {_names([folder])[0]: splits}


def _loose(folder: Path) -> bool:
    """Whether pictures lie in the folder itself."""
    return any(suffix_of(p) in SUFFIXES and not p.name.startswith(".") for p in folder.iterdir())


def _subfolders(folder: Path) -> list[Path]:
    """Folders with pictures somewhere below, in natural order; those that sfumato made are none."""
    inside = (p for p in folder.iterdir() if p.is_dir() and not hidden(p.name))
    return sorted((p for p in inside if _why_none(p) is None), key=lambda p: natural(p.name))


def _why_none(folder: Path) -> str | None:
    """Why a folder holds no pictures; None if it does."""
    why = "folders without pictures"
    for at, folders, names in os.walk(folder, followlinks=True):
        if made := any(name in OURS for name in names):
            why = MADE
        if made or len(Path(at).parts) > len(folder.parts) + 8:
            folders.clear()
            continue
        folders[:] = [f for f in folders if not hidden(f)]
        if any(n.lower().endswith(SUFFIXES) and not n.startswith(".") for n in names):
            return None
    return why


def _train_first(splits: Mapping[str, Path]) -> dict[str, Path]:
    return {split: splits[split] for split in ("train", "test", "val") if split in splits}


def _names(folders: Sequence[Path]) -> list[str]:
    """What the domains are called: as many last parts of the paths as tell them apart."""
    paths = [Path(os.path.abspath(folder)) for folder in folders]
    for parts in range(1, max(len(p.parts) for p in paths)):
        names = ["_".join(path.parts[-parts:]) for path in paths]
        if len(set(names)) == len(names):
            return names
    raise UserError(f"{folders[0]} is given twice: name two folders")


def _some(folders: Sequence[Path], root: Path | None = None) -> str:
    names = [p.relative_to(root).as_posix() if root else p.name for p in folders[:3]]
    return ", ".join(names) + (", ..." if len(folders) > 3 else "")
