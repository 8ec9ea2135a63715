"""Pictures whose channels lie in files of several folders, those of the first folder first."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sfumato.core.errors import UserError
from sfumato.core.terminal import count
from sfumato.data.read import (
    Joined,
    Readable,
    Unfiled,
    bands_of,
    header_of,
    pages_of,
    read_file,
    read_samples,
)
from sfumato.data.resize import said_size, to_float
from sfumato.data.value_range import ValueRange

Beside = str | Path | Sequence[str | Path] | None
"""Folders beside that of the sources."""


def listed(beside: Beside) -> list[str | Path]:
    """These folders."""
    return [beside] if isinstance(beside, (str, Path)) else [*(beside or ())]


class Layer(NamedTuple):
    """What the files of a folder give of each picture."""

    channels: int
    """3, 1, or as many as the files have bands."""
    range: ValueRange | None = None
    """The values that become -1 and 1."""


def layers_said(layers: Sequence[Layer]) -> str:
    """As in "2 folders (3 and 1 channels)"."""
    return f"{count(len(layers), 'folder')} ({' and '.join(str(n.channels) for n in layers)} channels)"


def check_folders(given: int, layers: Sequence[Layer], what: str = "the model learnt from") -> None:
    """Sees that sources are read from as many folders as they were.

    Args:
        given: folders beside the first.
        layers: of all.
        what: the beginning of an error.

    Raises:
        UserError: they are not; says what to type.
    """
    if given == len(layers) - 1:
        return
    if len(layers) < 2:
        raise UserError(f"{what} sources of one folder: leave out --beside")
    raise UserError(
        f"{what} sources of {layers_said(layers)}, not of {given + 1}: name each further one by "
        f"--beside FOLDER, which sfumato translate, evaluate, compare and sweep take"
    )


def apart(file: Readable, layers: Sequence[Layer]) -> list[Readable]:
    """What is read for each layer.

    Raises:
        UserError: it is one file, or has not as many channels.
    """
    sums = sum(layer.channels for layer in layers)
    if isinstance(file, Unfiled):
        if (n := file.samples.shape[2]) != sums:
            raise UserError(f"{file} has {count(n, 'channel')}: expected {sums}, of {layers_said(layers)}")
        ends = itertools.accumulate(layer.channels for layer in layers[:-1])
        return [Unfiled(file.name, part) for part in np.split(file.samples, [*ends], axis=2)]
    files = file.files if isinstance(file, Joined) else (file,)
    if len(files) != len(layers):
        raise UserError(
            f"{file} is one file, and a source is of {layers_said(layers)}: sfumato translate reads them all "
            f"by --beside FOLDER"
        )
    return list(files)


def read_joined(
    file: Readable, layers: Sequence[Layer], colour: tuple[int, int, int], page: int | None = None
) -> tuple[NDArray[Any], dict[str, str]]:
    """Samples (channels, H, W) of all layers, and what is lost; see `read_samples`.

    Layers of several types become float32 in [-1, 1].

    Raises:
        UserError: as `read_samples`; or the files have several sizes, or numbers of pages.
    """
    lost, read, files = dict[str, str](), list[NDArray[Any]](), apart(file, layers)
    for one, layer in zip(files, layers, strict=True):
        samples, of_it = read_samples(one, layer.channels, colour, layer.range, page)
        if read and samples.shape[1:] != read[0].shape[1:]:
            a, b = (said_size((x.shape[1], x.shape[2])) for x in (samples, read[0]))
            raise UserError(f"{one} is {a} pixels, and {files[0]} {b}: expected one size")
        if page is not None and (n := pages_of(one)) != (first := pages_of(files[0])):
            raise UserError(f"{one} has {count(n, 'page')}, and {files[0]} {first:,}: expected as many")
        read.append(samples)
        for kind, detail in of_it.items():
            own = detail if one is files[0] else f"{one}: {detail}".removesuffix(": ")
            lost[kind] = "; ".join(filter(None, (lost.get(kind), own)))
    if len({samples.dtype for samples in read}) > 1:
        read = [to_float(samples) for samples in read]
    return np.concatenate(read), lost


def layers_of(folders: Sequence[Sequence[Readable]], channels: int | None, names: Sequence[Any]) -> list[int]:
    """How many channels the files of each folder give: 3 of colours, 1 of gray, or their bands.

    Transparency is a channel, too, where `channels` counts it.

    Args:
        folders: files of each, of which the first that can be read tells.
        channels: how many there are to be in all, if that is said.
        names: what an error calls the folders.

    Raises:
        UserError: there are more or fewer.
    """
    ways = [_channels(files) for files in folders]
    if channels is None:
        return [opaque for opaque, _ in ways]
    fit = [way for way in itertools.product(*(sorted({*one}) for one in ways)) if sum(way) == channels]
    if len(fit) != 1:
        has = ", ".join(
            f"{name} has {' or '.join(map(str, sorted({*one})))}"
            for name, one in zip(names, ways, strict=True)
        )
        sums = sum(opaque for opaque, _ in ways)
        raise UserError(f"--channels {channels}: {has}: expected --channels {sums}, or leave it out")
    return list(fit[0])


def check_targets(files: Sequence[Readable], channels: int, name: Any, pairs: bool) -> None:
    """Sees that targets have as many channels as sources, if nothing else is said.

    Raises:
        UserError: they have not; says what to type.
    """
    own = _channels(files)
    if bands_of(channels) and channels not in own:
        how = f"add --to-channels {own[0]}" if pairs else "expected as many, or a method of pairs, as pix2pix"
        raise UserError(f"targets in {name} have {count(own[0], 'channel')}, and sources {channels}: {how}")


def _channels(files: Sequence[Readable]) -> tuple[int, int]:
    """Channels of the first of these files that can be read, without transparency and with it."""
    wrong: list[UserError] = []
    for file in files:
        try:
            bands = header_of(file).bands
            try:
                read = read_file(file, ranged=True)[0].shape[2]
            except UserError:  # bands that are no colours
                if not bands_of(bands):
                    raise
                return (read_file(file, ranged=True, bands=bands)[0].shape[2],) * 2
            return read - (read in (2, 4)), max(bands, read)
        except UserError as error:
            wrong.append(error)
    raise wrong[0]
