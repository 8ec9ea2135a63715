"""How the pictures of an evaluation are brought to the results' size: as the results' own sources were."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from sfumato.core.errors import UserError
from sfumato.data.image_folder import ImageFolder
from sfumato.data.preparation import ALWAYS, Preparation, Side, said_size
from sfumato.data.resize import Resize
from sfumato.translation.run_file import read_run

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
    run = run_of(results)
    return (
        None
        if run is None
        else Preparation.from_json({"channels": 3} | ALWAYS | run["preparation"])
    )


def shared(
    made: Mapping[str, Preparation | None], resize: Resize | None = None, side: Side | None = None
) -> Preparation | None:
    """The one way in which the sources of all results were prepared; None if nothing says it.

    Args:
        made: by the results' labels; None for pictures from elsewhere, which are taken as the others are.
        resize: what the user says of them.
        side: the same.

    Raises:
        UserError: they were prepared in several ways, or otherwise than the user says.
    """
    told = {label: p for label, p in made.items() if p is not None}
    for key, given in (("resize", resize), ("side", side)):
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
    sides: list[Side] = [p.side for p in told.values()]
    return Preparation(
        resize="stretch" if "stretch" in hows else "crop",  # "none" had the size already
        channels=max((p.channels for p in told.values()), default=3),
        side=side or [*sides, WHOLE][0],
    )


def partners(folder: str | Path, source: ImageFolder) -> ImageFolder:
    """Truths, references or training pictures, prepared as the sources were.

    Of two pictures side by side the partner is the other half; a folder of partners alone has pictures
    of other proportions, half as wide.
    """
    others, own = ImageFolder.to_compare(folder), source.preparation
    if own.side != "whole":
        (h, w), (a, b) = (
            next(iter(s.sizes().values())) for s in (ImageFolder(source.folder), others)
        )
        own = own.other_side if abs(b * h / (a * w) - 1) < 0.25 else replace(own, side="whole")
    return others.prepared(own)


def enlarged(sets: Mapping[str, ImageFolder], size: tuple[int, int]) -> list[str]:
    """What of the pictures is smaller than the (height, width) they are compared at, in words."""
    said = []
    for role, images in sets.items():
        sizes = images.sizes()
        small = [name for name, (h, w) in sizes.items() if h < size[0] or w < size[1]]
        if small:
            more = ", ..." if len(small) > 3 else ""
            said.append(
                f"{len(small)} of {len(sizes)} {role} pictures are smaller than {said_size(size)} and are "
                f"enlarged ({', '.join(small[:3])}{more}): their blur counts"
            )
    return said
