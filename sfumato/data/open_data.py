"""Folders of pictures to what a method trains on."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from sfumato.core.errors import UserError
from sfumato.core.terminal import count
from sfumato.data.image_folder import ImageFolder
from sfumato.data.joined import Layer, check_targets, layers_of
from sfumato.data.layout import apart, layout, left_over, named, tests_by_name
from sfumato.data.listing import file_of, list_pictures, said, stem_of
from sfumato.data.own import Own, OwnPictures, folders_of, in_python, parts_of
from sfumato.data.preparation import Preparation, Side
from sfumato.data.read import Readable, each_page
from sfumato.data.resize import Learnt
from sfumato.data.sets import Dataset, Domains, Pairs, Unpaired
from sfumato.data.stacks import Pages, joined
from sfumato.data.value_range import Stated, ValueRange, measured, rule_of
from sfumato.data.without import leave_out

Folder = str | Path
Folders = Folder | Sequence[Folder] | Mapping[str, Folder]
Ranges = tuple[ValueRange | None, ValueRange | None]
WHOLE: Side = "whole"


def open_images(
    paths: Folder | Sequence[Folder] | ImageFolder | Own,
    size: int | tuple[int, int],
    channels: int = 3,
    resize: Learnt = "crop",
    upscale: bool = False,
    strict: bool = False,
    side: Side = "whole",
    alpha: str = "white",
    ranges: Ranges = (None, None),
    to_channels: int | None = None,
    pages: str = "first",
    beside: Sequence[Folder] = (),
    layers: Sequence[Layer] = (),
) -> ImageFolder:
    """Pictures of one size, every file decoded; what is left out of them is said.

    Args:
        paths: a folder, searched with its subfolders, a list of files, pictures that are not yet read, or
            what is held in Python.
        size: side in pixels, or (height, width).
        channels: 3, 1, or as many as the files have bands.
        resize: crop, buckets, stretch, none or pieces, see `Preparation`.
        upscale: allow pictures to be enlarged.
        strict: refuse what would be left out, instead of saying so.
        side: take only the left or right half of each picture.
        alpha: the colour that transparent pictures are laid on.
        ranges: `range` and `to_range` of a `Preparation`.
        to_channels: channels of their partners, or of what is made of them.
        pages: first, or all of stacks, each a picture.
        beside: further folders, whose pictures of equal names give further channels.
        layers: of these, see `Preparation.beside`.

    Raises:
        UserError: no picture can be used, or under `strict` any cannot.
    """
    shape = (size, size) if isinstance(size, int) else size
    how = Preparation(shape, resize, upscale, channels, side, alpha, *ranges, to_channels)
    how, kind = replace(how, beside=tuple(layers)), Pages if pages == "all" else ImageFolder
    if isinstance(paths, ImageFolder):
        images = paths
        images.preparation = how
    else:
        images = OwnPictures(paths, how) if isinstance(paths, Own) else kind(paths, how)
    images = joined(images, [kind(folder) for folder in beside]).decoded(strict)
    for line in images.said():
        warnings.warn(line, stacklevel=2)
    return images


def open_data(
    kind: str,
    data: Folders | Any,
    *,
    side_by_side: bool = False,
    range: Stated | None = None,
    to_range: Stated | None = None,
    channels: int | None = 3,
    to_channels: int | None = None,
    pages: str = "first",
    beside: Sequence[Folder] = (),
    without: str | Path | None = None,
    whose: str = "data",
    **options: Any,
) -> Dataset:
    """The pictures a method learns from; test pictures of a data set are left out, and that is said.

    Args:
        kind: "domains", "pairs" or "unpaired", as the method's `data` says.
        data: {name: folder}, a folder for each domain (source first), or one folder of them in one of
            the layouts of `sfumato.data.layout.layout`; or what is held in Python, see `sfumato.data.own`.
        side_by_side: one folder, whose pictures hold a source in their left half, its target in the right.
        range: of the sources' values, see `Preparation`; stated, or measured in each folder of two, or in
            all domains together.
        to_range: of the targets' values; by default stated as `range` is, and measured in the targets.
        channels: of the sources: 3, 1, or as many as the files have bands; None with `beside`: of all
            folders together.
        to_channels: of the targets; by default as many.
        pages: first, or all of stacks, each a picture.
        beside: further folders of sources; `channels` are those of all, and ranges are measured in each.
        without: a text file of pictures of folders to leave out, before anything is judged, see `leave_out`.
        whose: what errors call the data.
        options: of `open_images`: size, resize, upscale, strict, alpha.

    Raises:
        UserError: a folder is missing, holds no readable image, or there are more or fewer than two
            domains for a method of two.
    """
    given = folders_of(data)
    if in_python(data):
        if pages == "all":
            raise UserError("pages='all' is of files: give each page of your stacks as a picture of its own")
        parts = parts_of(data, kind, side_by_side, whose)
        found = named({name: one for name, one in parts.items() if not isinstance(one, Own)})
    elif not given:
        raise UserError("no folders given: name the folders of the pictures to train on")
    else:
        found = named(data) if isinstance(data, Mapping) else layout(*given)
        parts = {name: splits["train"] for name, splits in found.items()}
    for name in parts:
        if not str(name).strip() or re.search(r"[\x00-\x1f\x7f-\x9f/]", str(name)):
            raise UserError(
                f"{name!r} cannot name a domain: expected NAME=FOLDER, a name without / and line breaks"
            )
    for folder in given:
        if left := left_over(folder, found):
            warnings.warn(said(folder, left), stacklevel=2)
    for name, splits in found.items():
        if tests := [str(folder) for split, folder in splits.items() if split != "train"]:
            warnings.warn(f"{name}: trained on {splits['train']}; not on {', '.join(tests)}", stacklevel=2)
    roots = {name: found[name]["train"] if name in found else one for name, one in parts.items()}
    for root in (splits["train"] for splits in found.values()):
        inside = [p for p in root.iterdir() if p.is_dir() and not p.name.startswith(".")]
        if (root not in given and tests_by_name(root)) or (inside and all(map(tests_by_name, inside))):
            raise UserError(
                f"{root} holds test pictures and there are none to train on: name the folder itself if "
                f"they are meant"
            )
    options, every = options | {"pages": pages}, pages == "all"
    if beside and (kind == "domains" or side_by_side):
        raise UserError(
            "--beside is for methods of two folders, sources and targets, not for domains, nor with "
            "--side-by-side: leave it out"
        )
    if side_by_side and len(roots) > 1:
        raise UserError(f"--side-by-side is for one folder of pairs, not for {len(roots)}: leave it out")
    if kind == "domains":
        if to_range is not None:
            raise UserError("--to-range is for methods of two folders: domains have one range, --range")
        kept = _without(roots, pages, without)
        files = ((one, WHOLE) for root in kept.values() for one in _pictures(root, channels or 3))
        own = measured_range(range, files, channels or 3, every=every)
        options |= {"ranges": (own, own), "channels": channels or 3}
        return Domains({name: open_images(folder, **options) for name, folder in kept.items()})
    if side_by_side:
        places: list[tuple[Any, Side]] = [(next(iter(roots.values())), side) for side in ("left", "right")]
    elif len(roots) == 2:
        places = [(folder, WHOLE) for folder in roots.values()]
    elif whose == "validation":
        raise UserError(
            f"--validation names {count(len(roots), 'folder')} ({', '.join(map(str, roots.values()))}), and "
            f"this method has a source and a target: --validation SOURCE --validation TARGET"
        )
    else:
        each = "; a flag such as --validation is typed before each of its folders" * (len(roots) > 2)
        raise UserError(
            f"this method learns from two folders, source and target, not {len(roots)} "
            f"({', '.join(map(str, roots.values()))}); for pairs side by side in one folder say "
            f"--side-by-side{each}"
        )
    two = dict(zip(("source", "target"), (folder for folder, _ in places), strict=True))
    kept = _without(two, pages, without, kind == "pairs" or side_by_side)
    further, layers = _further(beside, two["source"], kept["source"], channels, range, every)
    number = sum(layer.channels for layer in layers) if further else channels or 3
    if further and not to_channels:
        check_targets([*_pictures(kept["target"], number)], number, two["target"], kind == "pairs")
    places = [(folder, side) for folder, (_, side) in zip(kept.values(), places, strict=True)]
    stated = {"range": range, "to_range": range if to_range is None else to_range}
    both, known = (number, to_channels or number), [layer.range for layer in layers[:1]]
    ends = known + [
        measured_range(one, ((file, side) for file in _pictures(folder, n)), n, name, every)
        for (folder, side), n, (name, one) in [*zip(places, both, stated.items(), strict=True)][len(known) :]
    ]
    more: list[dict[str, Any]] = [{"beside": further, "layers": layers[1:]}, {}]
    source, target = (
        open_images(
            folder,
            side=side,
            channels=n,
            ranges=(ends[k], ends[1 - k]),
            to_channels=to_channels and both[1 - k],
            **options,
            **more[k],
        )
        for k, ((folder, side), n) in enumerate(zip(places, both, strict=True))
    )
    return (Pairs if kind == "pairs" else Unpaired)(source, target)


def _further(
    beside: Sequence[Folder], source: Any, kept: Any, channels: int | None, range: Stated | None, every: bool
) -> tuple[list[Path], list[Layer]]:
    """The folders beside that of the sources, and what each of all gives; nothing if there are none.

    Of the sources' folder and those beside only the files of the pictures that are `kept` tell.

    Raises:
        UserError: one is missing, lies in another one, or is given twice; or there are other channels.
    """
    if not beside:
        return [], []
    if isinstance(source, Own):
        raise UserError("beside is for folders: an array of a picture holds the channels of all")
    found = [named({str(folder): folder})[str(folder)]["train"] for folder in beside]
    apart([Path(source), *found])
    files = [[*_pictures(kept, 3)], *(_partners(folder, kept) for folder in found)]
    widths = layers_of(files, channels, [source, *found])
    sources = ([(file, WHOLE) for file in some] for some in files)
    ends = [measured_range(range, some, n, every=every) for some, n in zip(sources, widths, strict=True)]
    return found, [*map(Layer, widths, ends)]


def _partners(folder: Path, kept: Any) -> list[Readable]:
    """The files of a folder beside; if sources are left out, of the names of the others."""
    found = ImageFolder(folder)
    if not isinstance(kept, ImageFolder):
        return [*found.paths]
    names = {stem_of(file_of(name)) for name in kept.file_names}
    return [file for file, name in zip(found.paths, found.names, strict=True) if name in names]


def _without(
    roots: Mapping[str, Any], pages: str, file: str | Path | None, pairs: bool = False
) -> dict[str, Any]:
    """Folders as they are, or, if a text file lists some to leave out, their other pictures."""
    if file is None:
        return dict(roots)
    kind = Pages if pages == "all" else ImageFolder
    return dict(leave_out({name: kind(root) for name, root in roots.items()}, file, pairs))


def _pictures(root: Any, channels: int) -> Iterable[Readable]:
    if isinstance(root, ImageFolder):
        return map(root.picture, range(len(root)))
    return root.raw(channels) if isinstance(root, Own) else list_pictures(root).files


def measured_range(
    stated: Stated | None, pictures: Iterable[tuple[Readable, Side]], channels: int = 3, name: str = "range",
    every: bool = False,
) -> ValueRange | None:  # fmt: skip
    """The range that is stated for these files, of which a side is read; measured, if that is stated, in
    their first pages, or in every one.

    Raises:
        UserError: it is no range, or there is nothing to measure.
    """
    if stated is None:
        return None

    wrong: list[UserError] = []

    def values() -> Iterator[NDArray[Any]]:
        how = Preparation(channels=channels)
        for file, side in pictures:
            for one in each_page(file) if every else [file]:
                try:
                    yield replace(how, side=side).values(one)
                except UserError as error:  # said where it is read
                    wrong.append(error)

    try:
        return measured(rule_of(stated, name), values(), f"the pictures for {name}")
    except UserError as error:
        raise (wrong or [error])[0] from None


def outside(out: Path, data: Any) -> None:
    """Sees that what is written is not among the pictures that it is made of.

    Raises:
        UserError: `out` lies in one of the folders.
    """
    for folder in folders_of(data):
        if folder.is_dir() and out.resolve().is_relative_to(folder.resolve()):
            raise UserError(f"{out} lies inside {folder}, which it is made of: choose another --out")


def open_domains(folders: Folders, size: int | tuple[int, int], **options: Any) -> Domains:
    """Domains from {name: folder}, or from one folder of them; see `open_data`."""
    return Domains(open_data("domains", folders, size=size, **options).parts)


def open_pairs(source: Folder, target: Folder, size: int | tuple[int, int], **options: Any) -> Pairs:
    """Pairs from two folders whose files have equal names."""
    return Pairs(open_images(source, size, **options), open_images(target, size, **options))


def open_side_by_side(folder: Folder, size: int | tuple[int, int], **options: Any) -> Pairs:
    """Pairs from one folder of pictures whose left half is the source and right half the target."""
    left, right = (open_images(folder, size, side=side, **options) for side in ("left", "right"))
    return Pairs(left, right)


def open_unpaired(source: Folder, target: Folder, size: int | tuple[int, int], **options: Any) -> Unpaired:
    """Two folders that need not correspond."""
    return Unpaired(open_images(source, size, **options), open_images(target, size, **options))
