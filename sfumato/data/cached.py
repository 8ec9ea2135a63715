"""A folder of images, decoded once."""

import copy
import hashlib
import os
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from sfumato.errors import UserError

from .images import Resize, _read, find_images, fit_image, to_float, to_samples

CACHE_BYTES = 2 * 10**9


def stem_of(name: str) -> str:
    """A file name, with its folders, without its suffix."""
    return os.path.splitext(name)[0]


class Images:
    """Images of one size, by index.

    Every file is decoded once at the start, so that training never meets a broken one. The
    samples are kept in memory (8 bits, or 16 for 16-bit files) if all fit into 2 GB; otherwise
    they are decoded again when asked for.

    Attributes:
        paths: Files, in natural order.
        names: The same relative to `root`.
        skipped: {name: reason} of the broken files.

    Args:
        paths: A folder, searched with its subfolders, or a list of files.
        size: Side in pixels, or (height, width).
        channels: 1 or 3.
        resize: "crop", "stretch" or "none"; see `fit_image`.
        upscale: Allow images to be enlarged.
        strict: Refuse broken files instead of skipping them with a warning.
        side: Take only the "left" or "right" half of each picture.

    Raises:
        UserError: no image, a broken one under `strict`, or one smaller than `size`.
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
        if isinstance(paths, str | Path):
            self.root, files = Path(paths), find_images(paths)
        else:
            files = [Path(p) for p in paths]
            self.root = Path(os.path.commonpath([p.parent for p in files]) if files else ".")
        self.size = (size, size) if isinstance(size, int) else size
        self.channels, self.resize, self.upscale, self.side = channels, resize, upscale, side
        if min(self.size) < 1 or side not in (None, "left", "right"):
            raise UserError(f"size {size}, side {side}: expected pixels and left, right or nothing")
        self.paths: list[Path] = []
        self.skipped: dict[str, str] = {}
        self._hashes: list[str] = []
        self._cache: list[NDArray[Any]] | None = []
        for path, (hashed, samples) in zip(files, self._decode_all(files), strict=True):
            if isinstance(samples, str):
                self.skipped[path.relative_to(self.root).as_posix()] = samples
                continue
            self.paths.append(path)
            self._hashes.append(hashed)
            if self._cache is not None:
                self._cache.append(samples)
                if samples.nbytes * len(self.paths) > CACHE_BYTES:
                    self._cache = None
        why = "; ".join(list(self.skipped.values())[:5])
        if not self.paths:
            raise UserError(f"no image could be read in {self.root}: {why or 'the list is empty'}")
        if self.skipped:
            count = f"{len(self.skipped)} of {len(files)} images cannot be read: {why}"
            if strict:
                raise UserError(f"{count}: mend or delete them")
            warnings.warn(f"{count}; they are skipped", stacklevel=2)

    def _decode_all(self, files: list[Path]) -> Iterator[tuple[str, NDArray[Any] | str]]:
        def decode(path: Path) -> tuple[str, NDArray[Any] | str]:
            try:
                raw = _read(path, self.channels)
            except UserError as error:
                return "", str(error)
            return hashlib.sha256(path.read_bytes()).hexdigest(), self._fit(raw, path)

        with ThreadPoolExecutor(os.cpu_count()) as pool:
            yield from pool.map(decode, files)

    def _fit(self, samples: NDArray[Any], path: Path) -> NDArray[Any]:
        """Samples (C,h,w) of this set's size, in the file's own depth."""
        if self.side:
            half = samples.shape[2] // 2
            samples = samples[..., :half] if self.side == "left" else samples[..., -half:]
        if samples.shape[1:] == self.size:
            return np.ascontiguousarray(samples)
        image = fit_image(to_float(samples), self.size, self.resize, self.upscale, path)
        return to_samples(image, samples.dtype)

    def get(self, indices: Sequence[int] | NDArray[np.int64]) -> Float[Tensor, "b c h w"]:
        """The images at `indices`, float32 in [-1,1]."""
        if self._cache is not None:
            samples = [self._cache[i] for i in indices]
        else:
            files = [self.paths[i] for i in indices]
            samples = [self._fit(_read(path, self.channels), path) for path in files]
        out = np.empty((len(samples), self.channels, *self.size), np.float32)
        for row, image in zip(out, samples, strict=True):
            row[:] = to_float(image)
        return torch.from_numpy(out)

    def subset(self, indices: Sequence[int]) -> Self:
        """The images at `indices` as a set of its own; decoded samples are shared."""
        other = copy.copy(self)
        other.paths = [self.paths[i] for i in indices]
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
        return hashlib.sha256("".join(lines).encode()).hexdigest()

    def __len__(self) -> int:
        return len(self.paths)
