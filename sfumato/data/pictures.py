"""Sets of named images, read when they are asked for; and the trivial controls.

Outside of `decoding_once` nothing stays in memory: ten thousand results cost no more of it than one batch.
"""

from __future__ import annotations

import csv
import hashlib
import io
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from sfumato.core.errors import UserError
from sfumato.core.terminal import count, verb
from sfumato.data.folders import read_text
from sfumato.data.image_folder import ImageFolder
from sfumato.data.listing import stem_of

BATCH = 8  # on a CPU twice as fast as 64, whose feature maps leave the caches


class ImageSet(Protocol):
    """Named pictures, read by index."""

    @property
    def names(self) -> list[str]: ...

    @property
    def key(self) -> str:
        """Of names and images: equal ones have been seen before."""

    def __len__(self) -> int: ...

    def get(self, indices: Sequence[int]) -> Tensor:
        """Images (b, 3, H, W) in [-1, 1]."""


class Derived:
    """A set made of another by a function of its images, such as a resize or a control."""

    def __init__(self, base: ImageSet, f: Callable[[Tensor], Tensor], what: str) -> None:
        self.base, self.f, self.what = base, f, what

    @property
    def names(self) -> list[str]:
        return self.base.names

    @property
    def key(self) -> str:
        return hashlib.sha256(f"{self.base.key} {self.what}".encode()).hexdigest()

    def __len__(self) -> int:
        return len(self.base)

    def get(self, indices: Sequence[int]) -> Tensor:
        return torch.cat([self.f(self.base.get([i])) for i in indices])  # of any sizes


def chunks(n: int, size: int = BATCH) -> Iterator[range]:
    """0..n-1 in runs of `size`."""
    for start in range(0, n, size):
        yield range(start, min(n, start + size))


def moments(images: ImageSet) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each channel over all pixels, (C, 1, 1) in [-1, 1] units."""
    total, squares, count = torch.zeros(1).double(), torch.zeros(1).double(), 0
    for indices in chunks(len(images)):
        x = images.get(indices).double()
        total = total + x.sum((0, 2, 3))
        squares = squares + x.square().sum((0, 2, 3))
        count += x[:, 0].numel()
    mean = total / count
    std = (squares / count - mean.square()).clamp(min=0).sqrt()
    return mean.float()[:, None, None], std.float()[:, None, None]


def controls(source: ImageSet, target: ImageSet) -> Mapping[str, ImageSet]:
    """What needs no method: any method worth its name beats these somewhere.

    copy: the source itself. mean colour: every pixel the target pictures' mean. moments: the source
    with its channels' means and deviations moved to the target pictures'.
    """
    (m0, s0), (m1, s1) = moments(source), moments(target)
    makers: dict[str, Callable[[Tensor], Tensor]] = {
        "copy": lambda x: x,
        "mean colour": lambda x: m1.expand_as(x).clone(),
        "moments": lambda x: ((x - m0) / s0.clamp(min=1e-6) * s1 + m1).clamp(-1, 1),
    }
    return {
        name: Derived(source, f, f"{name} {target.key if name != 'copy' else ''}")
        for name, f in makers.items()
    }


def matched(results: ImageSet, names: Sequence[str]) -> ImageSet:
    """Results in the order of the sources' names.

    Raises:
        UserError: a name is missing, or has no source.
    """
    if list(results.names) == list(names):
        return results
    if not isinstance(results, ImageFolder):
        raise UserError("results and sources have different names")
    if extra := [n for n in results.names if n not in set(names)]:
        raise UserError(
            f"{len(extra)} of {len(results)} results in {results.folder} {verb(len(extra), 'have')} no "
            f"source of their name: "
            f"{', '.join(extra[:5])}{', ...' if len(extra) > 5 else ''}; pictures are paired by name"
        )
    return results.only(names, "result", "sources")


def _tails(name: str, path: Path) -> Iterator[str]:
    """How a table may call a picture of this name: by all of its path or less, with or without an ending."""
    for first in range(len(path.parts) - name.count("/")):
        tail = Path(*path.parts[first:]).as_posix()
        yield from (tail, stem_of(tail))


def read_groups(
    table: str, names: Sequence[str], needed: bool = True, paths: Sequence[Path] = ()
) -> list[str]:
    """The group of every name, from FILE.csv:COLUMN; none, if they are not `needed` and it knows no name.

    The table's column `name` has names as they are in the pictures' folder, or more of their `paths`, as
    test/2/7.png, where several folders hold pictures of one name.

    Raises:
        UserError: no such file or column, a table that contradicts itself, or a name that is not in it.
    """
    file, _, column = table.rpartition(":")
    if Path(table).is_file():
        raise UserError(f"groups {table!r}: expected FILE.csv:COLUMN, such as {table}:NAME_OF_A_COLUMN")
    if not Path(file).is_file():
        raise UserError(f"groups {table!r}: expected FILE.csv:COLUMN, and {file!r} is not a file")
    text = read_text(file)
    delimiter = max(",;\t", key=text.partition("\n")[0].count)  # spreadsheets write any of them
    try:
        reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter)
        rows, header = list(reader), list(reader.fieldnames or ())
    except csv.Error as error:
        raise UserError(f"groups {table!r}: {file} is not a table ({error})") from None
    for key in ("name", column):
        if not rows or key not in rows[0]:
            raise UserError(f"{file} has no column {key!r}: it has {list(rows[0]) if rows else 'no rows'}")
        if header.count(key) > 1:
            raise UserError(f"{file} has {header.count(key)} columns {key!r}: keep one of them")
    exact, stems = defaultdict[str, set[str]](set), defaultdict[str, set[str]](set)
    for row in rows:
        name, group = row["name"] or "", row[column] or ""
        if [row[key] for key in header] == header:
            raise UserError(f"{file} has its header {delimiter.join(header)!r} twice: delete one")
        exact[name].add(group)
        stems[stem_of(name)].add(group)
    found = dict[str, set[str]]()
    for name, path in zip(names, paths or map(Path, names), strict=True):
        ways = (exact.get(tail) or stems.get(tail) for tail in _tails(name, path))
        found[name] = next(filter(None, ways), set())
    for name, several in [*exact.items(), *found.items()]:
        if len(several) > 1:
            groups = " and ".join(map(repr, sorted(several)))
            raise UserError(f"{file} has {name!r} in two groups, {column} {groups}: keep one row")
    if not needed and not any(found.values()):
        return []
    if missing := [n for n in names if not found[n]]:
        raise UserError(f"{file} has no row for {count(len(missing), 'picture')}: {', '.join(missing[:5])}")
    if empty := [n for n in names if found[n] == {""}]:
        raise UserError(f"{file} has no {column} for {count(len(empty), 'picture')}: {', '.join(empty[:5])}")
    own = [next(iter(found[n])) for n in names]
    if len(set(own)) == 1 < len(names):
        warnings.warn(
            f"{file}: all pictures are of one group, {column} {own[0]!r}: no interval can be given",
            stacklevel=2,
        )
    return own
