"""Noise as an argument: one seed per image, so that a result never depends on its neighbours.

An image's generators are seeded by the run's seed and the image's own content.  The same image
therefore meets the same noise whatever its batch, order, file name or device, and different images
meet independent noise.  Separate streams (start, steps, energy) keep, say, the start noise the same
when an energy that draws noise of its own is added.
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


class Noise:
    """Standard normal noise for a batch, one generator per image and stream.

    Args:
        seeds: one whole number per image.
        stream: the name of the stream; streams of the same seeds are independent.

    Raises:
        UserError: the seeds are no list, or one of them is no whole number.
    """

    def __init__(self, seeds: Sequence[int], stream: str = "start") -> None:
        if not isinstance(seeds, Iterable) or isinstance(seeds, TEXT):
            raise UserError(f"seeds must be a list, one for each image, not {described(seeds)}")
        self.seeds = list(map(_whole, seeds))
        self._generators = [
            torch.Generator().manual_seed(stable_hash(f"{seed}/{stream}".encode())) for seed in self.seeds
        ]

    @classmethod
    def of(cls, images: Tensor, seed: Seed) -> Noise:
        """Noise for `images` (B, ...): image i is seeded by (seed, content of image i), or by seed[i]."""
        if isinstance(seed, Sequence) and not isinstance(seed, TEXT):
            return cls(seed)
        content = (images.detach().float().cpu() + 0.0).contiguous().numpy()  # -0.0 is 0.0
        seed = _whole(seed)
        return cls([stable_hash(str(seed).encode() + image.tobytes()) for image in content])

    def stream(self, name: str) -> Noise:
        """An independent stream for the same images, from its beginning."""
        return Noise(self.seeds, name)

    def clone(self) -> Noise:
        """The same streams from where they stand now: it makes the draws that this one will make."""
        twin = Noise([])
        twin.seeds, twin._generators = self.seeds, [g.clone_state() for g in self._generators]
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
            raise UserError(f"noise for {count(len(self.seeds), 'image')} was asked for {len(like)}")
        draws = [torch.randn(like.shape[1:], generator=g, dtype=torch.float32) for g in self._generators]
        return torch.stack(draws).to(like)


def _whole(seed: Any) -> int:
    if not isinstance(seed, Integral) or isinstance(seed, bool):
        raise UserError(f"a seed must be a whole number, not {seed!r}")
    return int(seed)


def stable_hash(data: bytes) -> int:
    """A stable 63-bit number for some bytes."""
    return int.from_bytes(blake2b(data, digest_size=8).digest(), "big") >> 1
