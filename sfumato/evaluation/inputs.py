"""The pictures of a comparison: which are meant, how they are brought to the results' size, what is wrong.

What is wrong is said before anything is translated.  Sources, truths, references and training pictures are
prepared as the results' own sources were.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

from sfumato.checkpoints.model_folder import ModelFolder, preparation_in
from sfumato.core.errors import UserError
from sfumato.core.terminal import count, verb
from sfumato.data.folders import replacing
from sfumato.data.image_folder import ImageFolder
from sfumato.data.joined import check_folders
from sfumato.data.layout import layout
from sfumato.data.pictures import ImageSet, matched
from sfumato.data.preparation import Preparation, Side
from sfumato.data.read import bands_of
from sfumato.data.resize import UNCUT, ToOneSize, said_size
from sfumato.data.show import evenly
from sfumato.data.stacks import joined
from sfumato.evaluation.entries import Entry
from sfumato.evaluation.protocol import Protocol
from sfumato.translation.run_file import prepared_in, read_run
from sfumato.translation.translator import assembled, options_of

# ---- which pictures -----------------------------------------------------------------------------


def part_of(folder: str | Path, split: str, notes: list[str], entries: Sequence[Entry] = ()) -> Path:
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


def sources_of(folder: Path, limit: int | None, out: Path) -> Path:
    """The folder of sources; of a part of them, copies."""
    pictures = ImageFolder(folder)
    if limit is None or limit >= len(pictures):
        return folder
    some = [pictures.names[i] for i in evenly(len(pictures), limit)]
    there = out / "cells" / f"sources-{pictures.only(some).digest[:8]}"
    for file in pictures.only(some).paths:
        copy = there / file.relative_to(folder)
        if not copy.exists():
            with replacing(copy) as temporary:
                shutil.copyfile(file, temporary)
    return there


def same(sets: Mapping[str, ImageSet]) -> list[str]:
    """A line if some of these sets, by their roles, are the same files: their distance says nothing."""
    read = {role: s for role, s in sets.items() if isinstance(s, ImageFolder)}
    files = {role: set(s.hashes) for role, s in read.items()}
    alike = [
        f"{a} and {b}" for a, b in combinations(files, 2) if files[a] <= files[b] or files[b] <= files[a]
    ]
    said = f"{', '.join(alike)} are the same files: a distance between them says nothing"
    return [said] if alike else []


def sources_in(
    folder: str | Path, beside: Sequence[str | Path], how: Preparation | None = None
) -> ImageFolder:
    """Sources as they are compared, of one folder or with the channels of further ones.

    Raises:
        UserError: as `ImageFolder.to_compare`; or they were prepared of other folders.
    """
    if how is not None:
        check_folders(len(beside), how.layers, "results were made of")
    return joined(ImageFolder.to_compare(folder, how), [ImageFolder([one]) for one in beside])


class Ready(NamedTuple):
    """What is there before anything is translated."""

    pictures: dict[str, list[ImageSet]]
    """By label the results that are there."""
    prepare: Preparation | None
    """How everybody's sources are prepared; None if nothing says it."""
    size: tuple[int, int]
    """The (height, width) at which results are compared."""
    several: bool
    """Whether results have other sizes, too: of these the middle is compared."""

    def compared(self, results: list[ImageSet]) -> list[ImageSet]:
        """Results as they are compared."""
        if not self.several:
            return results
        return [r.fitted(self.size) if isinstance(r, ImageFolder) else r for r in results]


def ready(
    entries: Sequence[Entry], source: Path, beside: Sequence[Path], rules: Protocol,
    prepared: Mapping[str, Any], some: bool, loaded: dict[Path, ModelFolder], notes: list[str],
) -> Ready:  # fmt: skip
    """Sees that all can be translated and compared.

    Args:
        entries: what is compared.
        source: folder of the sources.
        beside: folders of their further channels.
        rules: the protocol.
        prepared: size, resize and side, where they are other than in the models' training.
        some: the sources are a part of those that folders of results are of.
        loaded: gets the models, by their folders.
        notes: gets a line, where results have several sizes.

    Raises:
        UserError: for what is wrong with an entry; a source that it cannot take; results of several
            sizes, or of sources prepared in several ways.
    """
    pictures: dict[str, list[ImageSet]] = {}
    made: dict[str, Preparation | None] = {}
    sizes: dict[tuple[int, int], str] = {}
    files = sources_in(source, beside)
    for e in entries:
        found: list[tuple[int, ...]] = []
        if e.folder is not None:
            there = results_in(e.folder)
            there = there.only(files.names, "result", "sources") if some else there
            pictures[e.label] = [matched(there, files.names)]
            made[e.label], found = made_by(Path(e.folder)), [*there.sizes()]
        elif e.scores is None:
            made_of = assembled(e.method, **dict[str, Any](e.roles), loaded=loaded)
            options = options_of(made_of.part, e.options)
            how, _ = made_of.preparation(
                direction=options.get("direction"), beside=len(beside), **as_trained(e, prepared)
            )
            if how not in made.values():  # each picture once in each way
                read = (how.read(files.picture(i)) for i in range(len(files)))
                found = [tuple(one.image.shape[1:]) for one in read]
            made[e.label] = how
        for h, w in found:
            sizes.setdefault((h, w), e.label)
    size = next(iter(sizes), None) or files.sizes()[0]
    if rules.size is None and len(sizes) > 1:
        shown = ", ".join(f"{label} {said_size(at)}" for at, label in [*sizes.items()][:3])
        least, whole = min(map(min, sizes)), all(p and p.resize == "buckets" for p in made.values())
        size = (least, least)
        if {*map(min, sizes)} != {least} and not whole:  # more than pictures of several proportions
            raise UserError(
                f"results have several sizes ({shown}): bring them to one, those that are translated by "
                f"--size, or choose a protocol with a size"
            )
        notes.append(f"results have several sizes ({shown}): their middle is compared, {said_size(size)}")
    all_prepared = shared(made, prepared["resize"], prepared["side"])
    return Ready(pictures, all_prepared, size, rules.size is None and len(sizes) > 1)


# ---- how they are prepared ----------------------------------------------------------------------

WHOLE: Side = "whole"


def run_of(results: Path) -> dict[str, Any] | None:
    """What the run.json of translated pictures, or of a folder around them, says; None without one.

    Raises:
        UserError: their own run.json is damaged, or none of a translation.
    """
    if (results / "run.json").exists():
        return dict(read_run(results)["run"])
    for around in results.absolute().parents:
        if (around / "run.json").exists():
            with contextlib.suppress(UserError):  # of a training, say
                return dict(read_run(around)["run"])
            return None
    return None


def made_by(results: Path) -> Preparation | None:
    """How the sources of translated pictures were prepared; None for pictures from elsewhere."""
    if (run := run_of(results)) is None:
        return None
    return prepared_in(run)


def results_in(folder: str | Path) -> ImageFolder:
    """Translated pictures as they are compared, in the range and channels that they were written in."""
    if (made := made_by(Path(folder))) is None:
        return ImageFolder.to_compare(folder)
    own = made.to_channels or made.channels
    bands: dict[str, Any] = {"channels": own, "to_channels": made.channels} if bands_of(own) else {}
    return ImageFolder.to_compare(folder, Preparation(range=made.to_range, **bands))


def as_trained(e: Entry, prepared: Mapping[str, Any]) -> dict[str, Any]:
    """What is said of the pictures of an entry's models, which are cut as in training if nothing is."""
    first = next(e.roles[role] for role in ("model", "source", "target", "classifier") if role in e.roles)
    return {**prepared, "resize": prepared["resize"] or preparation_in(first).at(whole=False).resize}


def shared(
    made: Mapping[str, Preparation | None], resize: ToOneSize | None = None, side: Side | None = None
) -> Preparation | None:
    """The one way in which the sources of all results were prepared; None if nothing says it.

    Args:
        made: by the results' labels; None for pictures from elsewhere, which are taken as the others are.
        resize: what the user says of them.
        side: the same.

    Raises:
        UserError: they were prepared in several ways, or otherwise than the user says.
    """
    told = {
        label: replace(p, resize="crop") if p.resize in UNCUT else p
        for label, p in made.items() if p is not None
    }  # fmt: skip
    ways = ["alpha", "range", "to_range"]
    if any(bands_of(p.channels) or bands_of(p.to_channels or 1) or p.beside for p in told.values()):
        ways += ["channels", "to_channels", "beside"]
    rest = ((key, None) for key in ways)
    for key, given in (("resize", resize), ("side", side), *rest):
        known = {label: str(getattr(p, key)) for label, p in told.items()}
        known = {label: how for label, how in known.items() if (key, how) != ("resize", "none")}
        if given not in (None, "none"):
            known = {f"--{key} {given}": str(given)} | known
        for label, how in known.items():
            first, other = next(iter(known.items()))
            if how != other:
                raise UserError(
                    f"{first} and {label} differ in how sources were prepared ({key} {other} and {how}): "
                    f"compare what was made of the same pictures"
                )
    hows = {p.resize for p in told.values()} | {resize or "none"}
    if not told and resize is None and side is None:
        return None
    one = next(iter(told.values()), Preparation())
    sides: list[Side] = [p.side for p in told.values()]
    return Preparation(
        resize="stretch" if "stretch" in hows else "crop",  # "none" had the size already
        channels=max((p.channels for p in told.values()), default=3),
        side=side or [*sides, WHOLE][0],
        alpha=one.alpha,
        range=one.range,
        to_range=one.to_range,
        to_channels=one.to_channels,
        beside=one.beside,
    )


def partners(folder: str | Path, source: ImageFolder) -> ImageFolder:
    """Truths, references or training pictures, prepared as the sources were.

    Of two pictures side by side the partner is the other half; a folder of partners alone has pictures
    of other proportions, half as wide.
    """
    others, own = ImageFolder.to_compare(folder), source.preparation.other_side
    if own.side != "whole":
        (h, w), (a, b) = (s.sizes()[0] for s in (ImageFolder(source.folder), others))
        own = own if abs(b * h / (a * w) - 1) < 0.25 else replace(own, side="whole")
    return others.prepared(own)


def banded(source: ImageFolder) -> list[str]:
    """How pictures of other bands than 1 or 3 are compared, in words."""
    how = source.preparation
    if not source.to_rgb:
        return [f"{how.channels} bands: pixels are compared in each, features see their mean"]
    if bands_of(how.channels) or bands_of(how.to_channels or 1):
        numbers = f"sources have {count(how.channels, 'band')} and results {how.to_channels}"
        return [f"{numbers}: the mean of their bands is compared"]
    return []


def enlarged(sets: Mapping[str, ImageFolder], size: tuple[int, int]) -> list[str]:
    """What of the pictures is smaller than the (height, width) they are compared at, in words."""
    said = []
    for role, images in sets.items():
        sizes = dict(zip(images.names, images.sizes(), strict=True))
        if small := [name for name, (h, w) in sizes.items() if h < size[0] or w < size[1]]:
            more = ", ..." if len(small) > 3 else ""
            said.append(
                f"{len(small)} of {len(sizes)} {role} pictures {verb(len(small), 'are')} smaller than "
                f"{said_size(size)} and "
                f"{verb(len(small), 'are')} enlarged ({', '.join(small[:3])}{more}): their blur counts"
            )
    return said
