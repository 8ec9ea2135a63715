"""Pictures of folders: the one way to hold them, to train on, to translate, to compare, to look at."""

from __future__ import annotations

import copy
import hashlib
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from sfumato.core.errors import ContentError, UserError, existing
from sfumato.core.terminal import verb
from sfumato.data.hashing import hash_of
from sfumato.data.header import WHOLE
from sfumato.data.kept import Sample
from sfumato.data.listing import (
    IN_PART,
    OTHER,
    doubles,
    in_part,
    list_pictures,
    none_twice,
    said,
    stem_of,
)  # fmt: skip
from sfumato.data.pieces import Cut, piece
from sfumato.data.preparation import Preparation, Prepared
from sfumato.data.read import Readable
from sfumato.data.resize import as_many, centre, covered, to_float

CACHE_BYTES = 2 * 10**9
PICTURES = "a picture or a folder of pictures"
BROKEN = "that cannot be used"


class ImageFolder:
    """Pictures by index: files, names, and images that are decoded when they are asked for.

    Attributes:
        preparation: how images are made of them.
        paths: the files, each folder's in natural order.
        roots: of each the folder that was named, or that the file lies in.
        file_names: their places below these, with forward slashes.
        names: the same without the suffix: what pictures are matched by.
        left_out: {folder: {reason: names}} of all that is not read, or not whole.
        skipped: {file name: reason} of those that `decoded` could not use.

    Args:
        paths: a folder, searched with its subfolders, or a list of files and folders.
        preparation: size (None: every picture at its own), resize, upscale, channels, side.

    Raises:
        UserError: a path that does not exist, a folder without pictures, none at all, or one twice.
    """

    each: tuple[str, ...] = ("paths", "roots", "file_names", "names", "_kept", "_hashes")  # of a picture
    threads = os.cpu_count()  # that decode
    frame: tuple[int, int] | None = None
    to_rgb = False
    _kept: list[Sample] | None = None
    _hashes: list[str] | None = None

    def __init__(
        self,
        paths: str | Path | Sequence[str | Path],
        preparation: Preparation = Preparation(),  # noqa: B008
    ) -> None:
        self.preparation = preparation
        self.paths, self.roots, self.skipped = list[Path](), list[Path](), dict[str, str]()
        self.left_out: dict[Path, dict[str, list[str]]] = {}
        self.partial: dict[Path, dict[str, dict[str, None]]] = {}  # what was read so far
        given = [Path(paths)] if isinstance(paths, str | Path) else [Path(p) for p in paths]
        if not given:
            raise UserError("no pictures given: name some, or a folder of them")
        for path in given:
            files, root = [path], path.parent
            if isinstance(paths, str | Path) or path.is_dir():
                listing = list_pictures(path)
                files, root, self.left_out[path] = listing.files, path, listing.left_out
            elif not existing(path, PICTURES).is_file():  # a pipe or device may never end
                raise UserError(f"{path} is not a file: expected {PICTURES}")
            self.paths += files
            self.roots += [root] * len(files)
        none_twice(self.paths if len(given) > 1 else ())
        self.file_names = [*map(Path.as_posix, map(Path.relative_to, self.paths, self.roots))]
        self.names = [stem_of(name) for name in self.file_names]

    @property
    def folder(self) -> Path:
        """The first folder."""
        return self.roots[0]

    def __len__(self) -> int:
        return len(self.paths)

    # ---- which pictures --------------------------------------------------------------------------

    def by_name(self, advice: str = "rename one") -> dict[str, int]:
        """{name: index}.

        Raises:
            UserError: two of one name.
        """
        for why in doubles(self.paths, self.names, advice).values():
            raise ContentError(why)
        return {name: i for i, name in enumerate(self.names)}

    def subset(self, indices: Sequence[int]) -> Self:
        """The pictures at `indices`; what is decoded of them is shared."""
        other = copy.copy(self)
        for one in self.each:
            if (values := getattr(self, one)) is not None:
                setattr(other, one, [values[i] for i in indices])
        return other

    def only(self, names: Sequence[str], what: str = "picture", others: str = "names") -> Self:
        """The pictures of these names, in this order.

        Raises:
            UserError: some are missing here; says which. Pictures are never paired by order.
        """
        at = {name: i for i, name in enumerate(self.names)}
        if missing := [name for name in names if name not in at]:
            some = ", ".join(missing[:5]) + ", ..." * (len(missing) > 5)
            raise ContentError(
                f"{len(missing)} of {len(names)} {others} {verb(len(missing), 'have')} no {what} of "
                f"their name in {self.folder}: "
                f"{some}; pictures are paired by name"
            )
        return self.subset([at[name] for name in names])

    @property
    def hashes(self) -> list[str]:
        """sha256 of every file, taken once; "" of one that may not be read, which reading says."""
        if self._hashes is None:
            self._hashes = [self._hash(i) for i in range(len(self))]
        return self._hashes

    def _digest(self, names: Sequence[str], how: str = "") -> str:
        named = zip(names, self.hashes, strict=True)
        lines = "".join(f"{name} {hashed}\n" for name, hashed in named if hashed)
        return hashlib.sha256(os.fsencode(lines + how)).hexdigest()

    @property
    def digest(self) -> str:
        """sha256 over names and contents: equal wherever the pictures are the same."""
        return self._digest(self.names)

    @property
    def key(self) -> str:
        """The same over names, contents and how images are made of them, unless they are as they are."""
        p = self.preparation
        how = (p.size, self.frame, str(replace(p, size=None, upscale=False)))
        return self._digest(self.names, "" if how == (None, None, str(Preparation())) else str(how))

    def digest_as(self, saved: Any) -> str:
        """The digest; or the saved one, if it is of these very pictures, as in the time of format 1."""
        cut = None if self.preparation.side == "whole" else self.preparation.side
        trained = self._digest([f"{file} {cut}" for file in self.file_names])
        translated = self._digest([Path(f).with_suffix(".png").as_posix() for f in self.file_names])
        return saved if saved in (trained, translated) else self.digest

    # ---- what is left out ------------------------------------------------------------------------

    def said(self, others: bool = True) -> list[str]:
        """For every folder a line of what is left out, or not read whole so far; `others`: others, too."""
        lines = []
        for folder in self.left_out | self.partial:
            left = {w: names for w, names in self.left_out.get(folder, {}).items() if others or w != OTHER}
            lines.append(said(folder, left | {w: [*all] for w, all in self.partial.get(folder, {}).items()}))
        return [line for line in lines if line]

    def decoded(self, strict: bool = False) -> Self:
        """The same, every file decoded once now, so that nobody meets a broken one later.

        The samples are kept (8 bits, or 16 of 16-bit files) if all fit into 2 GB.  Files that are
        broken, or of an unfit size, are left out.

        Args:
            strict: refuse what would be left out, or is not read whole, instead of saying so.

        Raises:
            UserError: no picture can be used, or under `strict` any cannot.
        """

        def attempt(i: int) -> tuple[Sample | UserError, str]:
            picture = self.picture(i)
            try:
                return self.preparation.fitted(picture, self.frame), self._hash(i)  # of what was read
            except UserError as error:
                return error, ""

        if strict:
            self._check_whole()
        left = {folder: dict(reasons) for folder, reasons in self.left_out.items()}
        read, skipped, used = dict[int, tuple[Sample, str]](), dict[str, str](), 0
        with ThreadPoolExecutor(self.threads) as pool:
            for i, (found, hashed) in enumerate(pool.map(attempt, range(len(self)))):
                name, reasons = self.file_names[i], left.setdefault(self.roots[i], {})
                if isinstance(found, UserError):
                    skipped[name] = str(found)
                    reasons.setdefault(BROKEN, []).append(str(found))
                    continue
                for why, text in in_part(name, found.lost):
                    reasons.setdefault(why, []).append(text)
                used += found.samples.nbytes
                samples = found.samples if used <= CACHE_BYTES else found.samples[:0].copy()
                read[i] = found._replace(samples=samples), hashed
        n = len(skipped)
        why = "; ".join([*skipped.values()][:3] + [f"and {n - 3:,} more"] * (n > 3))
        if not read:
            raise ContentError(f"no image could be read in {self.folder}: {why}")
        if strict and skipped:
            raise ContentError(f"{n} of {len(self)} images cannot be used: {why}: mend or delete them")
        other = self.subset([*read])
        other.left_out, other.skipped = left, skipped
        other._kept, other._hashes = map(list, zip(*read.values(), strict=True))
        if strict:
            other._check_whole()
        return other

    def _check_whole(self) -> None:
        allowed = {OTHER, *map(IN_PART.get, WHOLE)}
        for folder, reasons in self.left_out.items():
            if some := {why: names for why, names in reasons.items() if why not in allowed}:
                raise ContentError(f"{said(folder, some)}; without --strict the rest is read")

    # ---- images ----------------------------------------------------------------------------------

    def picture(self, index: int) -> Readable:
        """What is read."""
        return self.paths[index]

    def _hash(self, index: int) -> str:
        with suppress(OSError):  # which reading says
            return hash_of(self.paths[index])
        return ""

    def read(self, index: int) -> Prepared:
        """A picture, and what it was.

        Raises:
            UserError: the file is missing, broken, of a kind that is not read, or of an unfit size.
        """
        samples, size, lost = self._samples(index)
        for why, text in in_part(self.file_names[index], lost):
            self.partial.setdefault(self.roots[index], {}).setdefault(why, {})[text] = None
        image = torch.from_numpy(self._image(samples))
        return Prepared(as_many(image, 3) if self.to_rgb else image, size, lost)

    def _samples(self, index: int) -> Sample:
        kept = self._kept and self._kept[index]
        if kept and kept.samples.size:
            return kept
        return self.preparation.fitted(self.picture(index), self.frame)

    def _image(self, samples: NDArray[Any], cut: Cut = Cut()) -> NDArray[Any]:  # noqa: B008
        how = self.preparation
        return piece(samples, how.size, cut) if how.size and how.resize == "pieces" else to_float(samples)

    def pieces(self, indices: Sequence[int] | NDArray[Any], cuts: Sequence[Cut]) -> Float[Tensor, "b c h w"]:
        """Pieces of the images at `indices`, float32 in [-1, 1]; see `sfumato.data.pieces`."""
        read = zip((self._samples(i).samples for i in indices), cuts, strict=True)
        return torch.stack([torch.from_numpy(self._image(samples, cut)) for samples, cut in read])

    def get(self, indices: Sequence[int] | NDArray[Any]) -> Float[Tensor, "b c h w"]:
        """The images at `indices`, float32 in [-1, 1].

        Raises:
            UserError: they have several sizes, or as in `read`.
        """
        images = [self.read(i).image for i in indices]
        if len(shapes := {x.shape[1:] for x in images}) > 1:
            (h, w), (h2, w2) = sorted(shapes)[:2]
            raise UserError(
                f"the pictures of {self.folder} have several sizes ({w}x{h}, {w2}x{h2}, ...): bring "
                f"them to one, or choose a size (or a protocol with one)"
            )
        return torch.stack(images)

    def sizes(self) -> list[tuple[int, int]]:
        """(height, width) of every picture before it is prepared, see `Preparation.size_of`."""
        every = map(self.picture, range(len(self)))
        return [one.size for one in self._kept or ()] or [*map(self.preparation.size_of, every)]

    # ---- the same pictures, prepared otherwise ---------------------------------------------------

    @classmethod
    def to_compare(cls, folder: str | Path, how: Preparation | None = None) -> Self:
        """The pictures of a folder as they are compared: at any size, in three channels, by name.

        `how` their sources were prepared may be given, but for size and upscale.

        Raises:
            UserError: no pictures, or two of one name.
        """
        (found := cls(folder)).by_name()
        return found.prepared(how or Preparation())

    def prepared(self, how: Preparation) -> Self:
        """The same, as `to_compare` prepares them; bands stay, where results have as many as sources."""
        return self._with(preparation=replace(how, size=None, upscale=True), to_rgb=not how.in_bands)

    def fitted(self, size: tuple[int, int] | None) -> Self:
        """The same pictures at another size (height, width)."""
        return self._with(preparation=replace(self.preparation, size=size))

    def in_bucket(self, rows: Sequence[int], size: tuple[int, int]) -> Self:
        """The pictures at `rows`, cut to a bucket; those that were scaled for another are decoded again."""
        other, square = self.subset(rows), self.preparation.size or size
        other.preparation = how = replace(self.preparation, size=size, resize="crop")
        for i, one in enumerate(kept := other._kept or []):
            cut, own = centre(one.samples, *size), covered(one.size, square, "buckets") == size
            kept[i] = one._replace(samples=cut) if own or not cut.size else how.fitted(other.picture(i))
        return other

    def framed(self, frame: tuple[int, int]) -> Self:
        """The same pictures at their own scale, cut as for that size (height, width)."""
        return self._with(frame=frame)

    def _with(self, **changed: Any) -> Self:
        other = copy.copy(self)
        vars(other).update(changed, _kept=None)  # what was decoded was prepared otherwise
        return other
