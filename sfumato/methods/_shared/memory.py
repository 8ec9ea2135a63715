"""What a method remembers while it learns from what it makes: images, slow copies of itself, colours.

Images and copies live in non-persistent buffers, which `sfumato train` saves with the training and not
with the model: a run that was killed goes on with the same bits, and a model's folder holds no pictures.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils import parameters_to_vector

from sfumato.core.arguments import checked
from sfumato.core.ranges import Whole


class Replay(nn.Module):
    """What was made lately, to be seen again: tuples of images to `add` and `draw`, or images to exchange.

    Args:
        size: tuples or images kept, of each size of images in pixels.
    """

    @checked
    def __init__(self, size: Whole) -> None:
        super().__init__()
        self.size = size
        self.register_buffer("images", None, persistent=False)
        self.images: Tensor | None

    def of(self, like: Tensor) -> Tensor | None:
        """What is remembered of the size of these images."""
        return getattr(self, self._place(like), None)

    def _place(self, like: Tensor) -> str:
        """The buffer of images of this size; the first size's is as old as `sfumato` is."""
        first, (h, w) = self.images, like.shape[-2:]
        return "images" if first is None or first.shape[-2:] == (h, w) else f"images_{w}x{h}"

    def _keep(self, images: Tensor) -> None:
        self.register_buffer(self._place(images), images, persistent=False)

    def add(self, *images: Float[Tensor, "b c h w"]) -> None:
        """Remembers image i of all of these as one tuple, in float16; the oldest are forgotten."""
        new = torch.stack(images, 1).half()
        old = new[:0] if (kept := self.of(new)) is None else kept
        with torch.autocast(new.device.type, enabled=False):  # that of a CPU joins no float16
            self._keep(torch.cat([old, new])[-self.size :])

    def forget(self, like: Tensor) -> None:
        """Remembers nothing more of the size of these images."""
        if (kept := self.of(like)) is not None:
            self._keep(kept[:0])

    def draw(self, like: Tensor, rng: torch.Generator) -> tuple[Tensor, ...]:
        """As many tuples at random, and of the size, as these images: a tensor for each place of a tuple."""
        kept = self.of(like)
        assert kept is not None
        chosen = torch.randint(len(kept), (len(like),), generator=rng)
        return kept[chosen.to(kept.device)].float().unbind(1)

    def forward(self, images: Float[Tensor, "b c h w"], rng: torch.Generator) -> Tensor:
        """As many images, newer or older (https://arxiv.org/abs/1612.07828, sec. 2.3).

        The first `size` are remembered and given back; afterwards each is, with probability 1/2,
        exchanged for one of those.  In evaluation, and with size 0, these themselves.
        """
        if not self.size or not self.training:
            return images
        pool, out = images[:0] if (kept := self.of(images)) is None else kept, []
        for image in images:
            if len(pool) < self.size:
                pool = torch.cat([pool, image[None]])
            elif torch.rand((), generator=rng) < 0.5:
                i = int(torch.randint(self.size, (), generator=rng))
                image, pool = pool[i], torch.cat([pool[:i], image[None], pool[i + 1 :]])
            out.append(image)
        self._keep(pool)
        return torch.stack(out)


class SlowCopy(nn.Module):
    """A copy of another module's parameters that can act in their place."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("vector", None, persistent=False)
        self.vector: Tensor | None

    def follow(self, module: nn.Module, decay: float) -> None:
        """Copy <- decay copy + (1 - decay) module, and the module itself the first time."""
        now = parameters_to_vector(module.parameters()).detach()
        self.vector = now if self.vector is None else self.vector.lerp(now, 1 - decay)

    @contextmanager
    def acting_in(self, module: nn.Module) -> Iterator[None]:
        """The module with the copy's parameters, in evaluation mode; its own if there is no copy."""
        own: list[Tensor] = list(module.parameters())
        values = own
        if self.vector is not None:
            parts = torch.split(self.vector, [p.numel() for p in own])
            values = [v.view_as(p) for v, p in zip(parts, own, strict=True)]
        with acting(module, own, values):
            yield


@contextmanager
def acting(module: nn.Module, own: Iterable[Tensor], values: Iterable[Tensor]) -> Iterator[None]:
    """The module in evaluation mode, with these values in place of some tensors of its own."""
    own, training = list(own), module.training
    before = [tensor.data for tensor in own]
    for tensor, value in zip(own, values, strict=True):
        tensor.data = value.data
    module.eval()
    try:
        yield
    finally:
        for tensor, value in zip(own, before, strict=True):
            tensor.data = value
        module.train(training)


class Colours(nn.Module):
    """Means and spreads of each domain's channels: images to a common scale of mean 0, spread 1/2.

    Args:
        channels: channels of the images.
        domains: their names.
    """

    def __init__(self, channels: int, domains: Iterable[str]) -> None:
        super().__init__()
        for name in domains:  # E x and E x^2 of what is at that scale already
            start = torch.stack([torch.zeros(channels), torch.full((channels,), 0.25)])
            self.register_buffer(name, start)

    def learn(self, batch: Mapping[str, Tensor], n: int) -> None:
        """Takes in the n-th batch (from 0) of each domain; the moments are the means over all."""
        for name, x in batch.items():
            now = torch.stack([x.mean((0, 2, 3)), x.square().mean((0, 2, 3))])
            self.get_buffer(name).lerp_(now, 1 / (n + 1))

    def normal(self, x: Float[Tensor, "b c h w"], domain: str) -> Float[Tensor, "b c h w"]:
        """Images of a domain to the common scale."""
        mean, std = self._of(domain)
        return (x - mean) / (2 * std)

    def restore(self, u: Float[Tensor, "b c h w"], domain: str) -> Float[Tensor, "b c h w"]:
        """And back."""
        mean, std = self._of(domain)
        return u * (2 * std) + mean

    def _of(self, domain: str) -> tuple[Tensor, Tensor]:
        mean, second = self.get_buffer(domain)[:, :, None, None]
        return mean, (second - mean**2).clamp(min=1e-6).sqrt()
