"""Noise as an argument: one seed per image, so that a result never depends on its neighbours.

An image's generators are seeded by the run's seed and the image's own content.  The same image
therefore meets the same noise whatever its batch, order, file name or device, and different images
meet independent noise.  Separate streams (start, steps, energy) keep, say, the start noise the same
when an energy that draws noise of its own is added.

Large images have a seed for each block of pixels: the noise of a region is a function of its content and
its place alone, so a map that grows to the right or below keeps the noise of what was there.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from hashlib import blake2b
from numbers import Integral
from typing import Any

import torch
from torch import Tensor

from sfumato.core.arguments import TEXT, Seed, described
from sfumato.core.errors import UserError
from sfumato.core.terminal import count

BLOCK = 64
"""Side in pixels of the regions that have a seed each."""
Seeds = int | tuple[tuple[int, ...], ...]
"""Of an image: of all of it, or of its blocks, row by row."""


class Noise:
    """Standard normal noise for a batch, one generator per block of each image and stream.

    Args:
        seeds: one whole number per image.
        stream: the name of the stream; streams of the same seeds are independent.

    Raises:
        UserError: the seeds are no list, or one of them is no whole number.
    """

    def __init__(self, seeds: Sequence[Seeds], stream: str = "start") -> None:
        if not isinstance(seeds, Iterable) or isinstance(seeds, TEXT):
            raise UserError(f"seeds must be a list, one for each image, not {described(seeds)}")
        self.seeds: list[Seeds] = [seed if isinstance(seed, tuple) else _whole(seed) for seed in seeds]
        self._name = stream
        self._generators: dict[tuple[int, int, int], torch.Generator] = {}

    @classmethod
    def of(cls, images: Tensor, seed: Seed, block: int = BLOCK) -> Noise:
        """Noise for `images` (B, ...): image i is seeded by (seed, content of image i), or by seed[i].

        Args:
            images: images.
            seed: see `Seed`.
            block: side of a block in their pixels; where each becomes less than one of what noise is for.
        """
        if isinstance(seed, Sequence) and not isinstance(seed, TEXT):
            return cls(seed)
        content = (images.detach().float().cpu() + 0.0).contiguous()  # -0.0 is 0.0
        start = str(_whole(seed)).encode()

        def of_block(pixels: Tensor) -> int:
            return stable_hash(start + pixels.numpy().tobytes())

        if images.ndim != 4 or max(images.shape[2:]) <= block:
            return cls([of_block(image) for image in content])
        rows = [[row.split(block, 2) for row in image.split(block, 1)] for image in content]
        return cls([tuple(tuple(map(of_block, row)) for row in image) for image in rows])

    def stream(self, name: str) -> Noise:
        """An independent stream for the same images, from its beginning."""
        return Noise(self.seeds, name)

    def clone(self) -> Noise:
        """The same streams from where they stand now: it makes the draws that this one will make."""
        twin = self.stream(self._name)
        twin._generators = {at: g.clone_state() for at, g in self._generators.items()}
        return twin

    def go_on_as(self, twin: Noise) -> None:
        """Stands where its twin stands."""
        self._generators = twin._generators

    def __call__(self, like: Tensor) -> Tensor:
        """The next standard normal draw of shape, type and device of `like` (B, ...).

        Raises:
            UserError: if the batch is not the one the noise was made for, or has no type of floats.
        """
        if not (isinstance(like, Tensor) and like.ndim and like.is_floating_point()):
            what = f"a tensor of {like.dtype}" if isinstance(like, Tensor) else described(like)
            raise UserError(f"noise is drawn like a batch (B, ...) of floats, not like {what}")
        if len(like) != len(self.seeds):
            raise UserError(f"noise (seeds) of {count(len(self.seeds), 'image')} was given for {len(like)}")
        z = torch.empty(like.shape, dtype=torch.float32)
        for i, image in enumerate(z):
            rows = [row.split(BLOCK, 2) for row in image.split(BLOCK, 1)] if image.ndim == 3 else [[image]]
            for r, row in enumerate(rows):
                for c, block in enumerate(row):
                    g = self._generator(i, r, c)
                    block.copy_(torch.randn(block.shape, generator=g, dtype=torch.float32))
        return z.to(like)

    def _generator(self, image: int, row: int, column: int) -> torch.Generator:
        if (at := (image, row, column)) not in self._generators:
            seed = _of_block(self.seeds[image], row, column)
            own = stable_hash(f"{seed}/{self._name}/{row}/{column}".removesuffix("/0/0").encode())
            self._generators[at] = torch.Generator().manual_seed(own)
        return self._generators[at]


def _of_block(seeds: Seeds, row: int, column: int) -> int:
    """The seed of a block, or of the first one where it has none of its own."""
    if isinstance(seeds, int):
        return seeds
    return seeds[row][column] if row < len(seeds) and column < len(seeds[0]) else seeds[0][0]


def _whole(seed: Any) -> int:
    if not isinstance(seed, Integral) or isinstance(seed, bool):
        raise UserError(f"a seed must be a whole number, not {seed!r}")
    return int(seed)


def stable_hash(data: bytes) -> int:
    """A stable 63-bit number for some bytes."""
    return int.from_bytes(blake2b(data, digest_size=8).digest(), "big") >> 1
