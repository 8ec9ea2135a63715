"""What is wrong with a comparison, said before any of it is translated."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

from sfumato.core.errors import UserError
from sfumato.data.image_folder import ImageFolder
from sfumato.data.layout import layout
from sfumato.data.pictures import ImageSet, matched
from sfumato.data.preparation import Preparation, said_size
from sfumato.evaluation.entries import Entry
from sfumato.evaluation.prepared import made_by, shared
from sfumato.evaluation.protocol import Protocol
from sfumato.translation.translator import assembled, options_of


def part_of(
    folder: str | Path, split: str, notes: list[str], entries: Sequence[Entry] = ()
) -> Path:
    """What of a data set's folder is meant: its test pictures (or val), or those that it trains on.

    Args:
        folder: folder of pictures, or of a data set.
        split: test or train.
        notes: gets a line, where a part is meant.
        entries: with the folders of results; if these are of all pictures, all are meant.

    Raises:
        UserError: it holds several domains, each with such pictures.
    """
    folder = Path(folder)
    try:
        domains = layout(folder)
    except UserError:  # pictures beside folders, a file, nothing: its reader says so
        return folder
    if len(domains) > 1:
        if some := next((s[split] for s in domains.values() if len(s) > 1 and split in s), None):
            raise UserError(
                f"{folder} holds the domains {', '.join([*domains][:5])}: name one, such as {some}"
            )
        return folder
    (splits,) = domains.values()
    inside = splits.get(split) or splits.get("val" if split == "test" else split) or splits["train"]
    if inside == folder:
        return folder
    known = set(ImageFolder(folder).names)
    if any(e.folder and known.issuperset(ImageFolder(e.folder).names) for e in entries):
        return folder
    notes.append(f"of {folder} the pictures in {inside} are taken")
    return inside


def same(sets: Mapping[str, ImageSet]) -> list[str]:
    """A line if some of these sets, by their roles, are the same files: their distance says nothing."""
    read = {role: s for role, s in sets.items() if isinstance(s, ImageFolder)}
    files = {role: set(s.hashes) for role, s in read.items()}
    alike = [
        f"{a} and {b}"
        for a, b in combinations(files, 2)
        if files[a] <= files[b] or files[b] <= files[a]
    ]
    said = f"{', '.join(alike)} are the same files: a distance between them says nothing"
    return [said] if alike else []


def ready(
    entries: Sequence[Entry], source: Path, rules: Protocol, given: Mapping[str, Any], some: bool
) -> tuple[dict[str, list[ImageSet]], Preparation | None, tuple[int, int]]:
    """Sees that all can be translated and compared.

    Args:
        entries: what is compared.
        source: folder of the sources.
        rules: the protocol.
        given: size, resize and side, where they are other than in the models' training.
        some: the sources are a part of those that folders of results are of.

    Returns:
        By label the results that are there; how everybody's sources are prepared, None if nothing says
        it; and the results' (height, width).

    Raises:
        UserError: for what is wrong with an entry; a source that it cannot take; results of several
            sizes, or of sources prepared in several ways.
    """
    pictures: dict[str, list[ImageSet]] = {}
    made: dict[str, Preparation | None] = {}
    sizes: dict[tuple[int, int], str] = {}
    files = ImageFolder.to_compare(source)
    for e in entries:
        found: list[tuple[int, ...]] = []
        if e.folder is not None:
            there = ImageFolder.to_compare(e.folder)
            there = there.only(files.names, "result", "sources") if some else there
            pictures[e.label] = [matched(there, files.names)]
            made[e.label], found = made_by(Path(e.folder)), [*there.sizes().values()]
        elif e.scores is None:
            made_of = assembled(e.method, **dict[str, Any](e.roles))
            options = options_of(made_of.part, e.options)
            how, _ = made_of.preparation(direction=options.get("direction"), **given)
            if how not in made.values():  # each picture once in each way
                found = [tuple(how.read(f).image.shape[1:]) for f in files.paths]
            made[e.label] = how
        for h, w in found:
            sizes.setdefault((h, w), e.label)
    if rules.size is None and len(sizes) > 1:
        shown = ", ".join(f"{label} {said_size(at)}" for at, label in [*sizes.items()][:3])
        raise UserError(
            f"results have several sizes ({shown}): bring them to one, those that are translated by "
            f"--size, or choose a protocol with a size"
        )
    size = next(iter(sizes), None) or next(iter(files.sizes().values()))
    return pictures, shared(made, given["resize"], given["side"]), size
