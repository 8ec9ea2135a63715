"""A folder of images, decoded once."""

import copy
import hashlib
import os
import warnings
from collections import defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from sfumato.core.errors import UserError
from sfumato.data.header import LOST, WHOLE
from sfumato.data.listing import list_pictures, said, stem_of
from sfumato.data.preparation import Preparation
from sfumato.data.resize import Resize, to_float

CACHE_BYTES = 2 * 10**9
BROKEN = "that cannot be used"


class Images:
    """Images of one size, by index.

    Every file is decoded once at the start, so that training never meets a broken one. The
    samples are kept in memory (8 bits, or 16 for 16-bit files) if all fit into 2 GB; otherwise
    they are decoded again when asked for.

    Attributes:
        preparation: How pictures are brought to their size.
        paths: Files, in natural order.
        names: The same relative to `root`.
        sizes: (height, width) of the upright pictures before they were prepared.
        skipped: {name: reason} of the files that are broken, or of an unfit size.
        left_out: {reason: names} of all that is not read, or not whole; it is said once.

    Args:
        paths: A folder, searched with its subfolders, or a list of files.
        size: Side in pixels, or (height, width).
        channels: 1 or 3.
        resize: "crop", "stretch" or "none"; see `fit_image`.
        upscale: Allow images to be enlarged.
        strict: Refuse what would be left out, instead of saying so.
        side: Take only the "left" or "right" half of each picture.

    Raises:
        UserError: no image can be used, or under `strict` any cannot.
    """

    def __init__(
        self,
        paths: str | Path | Sequence[str | Path],
        size: int | tuple[int, int],
        channels: int = 3,
        resize: Resize = "crop",
        upscale: bool = False,
        strict: bool = False,
        side: Literal["left", "right"] | None = None,
    ) -> None:
        left: dict[str, list[str]] = defaultdict(list)
        unasked: dict[str, list[str]] = {}  # what strictness refuses before any file is decoded
        if isinstance(paths, str | Path):
            listing = list_pictures(paths)
            self.root, files = listing.root, listing.files
            left |= listing.left_out
            unasked = listing.pictures_left_out
        else:
            files = [Path(p) for p in paths]
            self.root = Path(os.path.commonpath([p.parent for p in files]) if files else ".")
        self.size = (size, size) if isinstance(size, int) else size
        self.preparation = Preparation(self.size, resize, upscale, channels, side or "whole")
        self.channels, self.resize, self.upscale, self.side = channels, resize, upscale, side
        self.paths: list[Path] = []
        self.sizes: list[tuple[int, int]] = []
        self.skipped: dict[str, str] = {}
        self._hashes: list[str] = []
        self._cache: list[NDArray[Any]] | None = []
        for path, decoded in zip(files, self._decode_all(files), strict=True):
            name = path.relative_to(self.root).as_posix()
            if isinstance(decoded, str):
                self.skipped[name] = decoded
                continue
            hashed, samples, size_, lost = decoded
            self.paths.append(path)
            self.sizes.append(size_)
            self._hashes.append(hashed)
            for kind, detail in lost.items():
                left[f"that {LOST[kind]}"].append(f"{name}: {detail}" if detail else name)
            if self._cache is not None:
                self._cache.append(samples)
                if samples.nbytes * len(self.paths) > CACHE_BYTES:
                    self._cache = None
        why = "; ".join(list(self.skipped.values())[:3])
        why += f"; and {more:,} more" if (more := len(self.skipped) - 3) > 0 else ""
        if not self.paths:
            raise UserError(f"no image could be read in {self.root}: {why or 'the list is empty'}")
        if strict and self.skipped:
            raise UserError(
                f"{len(self.skipped)} of {len(files)} images cannot be used: {why}: mend or delete them"
            )
        if self.skipped:
            left[BROKEN] = list(self.skipped.values())
        self.left_out = dict(left)
        refused = {
            why: names
            for why, names in left.items()
            if why in unasked or (why[:5] == "that " and why[5:] not in map(LOST.get, WHOLE))
        }
        if strict and refused:
            raise UserError(f"{said(self.root, refused)}; without --strict the rest is read")
        if left:
            warnings.warn(said(self.root, left), stacklevel=2)

    def _decode_all(self, files: list[Path]) -> Iterator[Any]:
        def decode(path: Path) -> Any:
            try:
                raw, lost = self.preparation.samples(path)
                fitted = self.preparation.fit(raw, path)
            except UserError as error:
                return str(error)
            return hashlib.sha256(path.read_bytes()).hexdigest(), fitted, raw.shape[1:], lost

        with ThreadPoolExecutor(os.cpu_count()) as pool:
            yield from pool.map(decode, files)

    def get(self, indices: Sequence[int] | NDArray[np.int64]) -> Float[Tensor, "b c h w"]:
        """The images at `indices`, float32 in [-1,1]."""
        if self._cache is not None:
            samples = [self._cache[i] for i in indices]
        else:
            files = [self.paths[i] for i in indices]
            read, fit = self.preparation.samples, self.preparation.fit
            samples = [fit(read(path)[0], path) for path in files]
        out = np.empty((len(samples), self.channels, *self.size), np.float32)
        for row, image in zip(out, samples, strict=True):
            row[:] = to_float(image)
        return torch.from_numpy(out)

    def subset(self, indices: Sequence[int]) -> Self:
        """The images at `indices` as a set of its own; decoded samples are shared."""
        other = copy.copy(self)
        other.paths = [self.paths[i] for i in indices]
        other.sizes = [self.sizes[i] for i in indices]
        other._hashes = [self._hashes[i] for i in indices]
        other._cache = None if self._cache is None else [self._cache[i] for i in indices]
        return other

    def only(self, stems: Sequence[str]) -> Self:
        """The images with these stems, in this order."""
        at = {stem: i for i, stem in enumerate(self.stems)}
        return self.subset([at[stem] for stem in stems])

    @property
    def names(self) -> list[str]:
        """File names relative to `root`, with forward slashes."""
        return [path.relative_to(self.root).as_posix() for path in self.paths]

    @property
    def stems(self) -> list[str]:
        """Names without their suffix: what pairs are matched by."""
        return [stem_of(name) for name in self.names]

    @property
    def digest(self) -> str:
        """sha256 over the names, the side taken and the contents of the files."""
        files = zip(self.names, self._hashes, strict=True)
        lines = (f"{name} {self.side} {contents}\n" for name, contents in files)
        return hashlib.sha256(os.fsencode("".join(lines))).hexdigest()

    def __len__(self) -> int:
        return len(self.paths)
