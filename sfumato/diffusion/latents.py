"""Latents: pictures made small by a codec, and any method at work on them.

    z = (encode(x) - mean) / deviation,    x = decode(mean + deviation z)        a mean, a deviation a channel

so that z has unit deviation, which noising processes expect.  Mean and deviation are the codec's, measured
at the end of its training, and recorded in model.json: models that were trained apart in its latents go
together.  A method does not know that its images are latents, nor does the codec know of the method: this
file alone knows both.
"""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from sfumato.core.arguments import Seed
from sfumato.core.errors import UserError
from sfumato.core.padding import mirrored
from sfumato.core.ranges import Positive
from sfumato.core.terminal import an, count
from sfumato.diffusion.noise import BLOCK, Noise, stable_hash
from sfumato.diffusion.watch import Watch
from sfumato.module import Part, describe

AT_ONCE = 2**18
"""Pixels that a codec sees at a time, or one picture: 64 of 64x64."""
KEPT = 2**28
"""Bytes of latents that a training keeps, so that no picture is encoded twice."""
OF_PICTURES: Mapping[str, Any] = {"clip": False, "content": "colour"}
"""Options that speak of colours in [-1, 1], and what they are where there are none."""

ONE_CODEC = (
    "train both with one --codec whose folder records the scale of its latents, or one of both domains"
)
"""What makes two models work in the same latents."""


@runtime_checkable
class Codec(Protocol):
    """Pictures (B, channels, H, W) to latents (B, latent_channels, H/factor, W/factor), and back."""

    channels: int
    latent_channels: int
    factor: int

    def encode(self, x: Tensor, /) -> Tensor:
        """Latents of pictures whose sides are multiples of the factor; the same in every call."""

    def decode(self, z: Tensor, /) -> Tensor:
        """Pictures of latents."""


def codec_of(part: Any, name: str = "the model") -> Any:
    """The codec that a model is or has.

    Raises:
        UserError: it has none.
    """
    found = getattr(part, "codec", part)
    if not isinstance(found, nn.Module) or not isinstance(found, Codec):
        raise UserError(
            f"{name} has no codec: expected a model of `sfumato train autoencoder`, or an autoencoder that "
            f"was imported"
        )
    return found


class InLatents(Part):
    """A method at work in the latents of a codec, on pictures.

    Whatever it is asked for besides is the method's: its domains, its denoiser, its players.

    Args:
        codec: pictures to latents and back; it never learns.
        method: on images of as many channels as the latents have.
        means: of each channel of the latents; none for latents as they are.
        deviations: of each channel about its mean.
    """

    to_channels: ClassVar[int] = 0

    codec: nn.Module
    method: Part
    means: tuple[float, ...] = ()
    deviations: tuple[Positive, ...] = ()

    def __post_init__(self) -> None:
        codec: Any = codec_of(self.codec, "the codec")
        if hasattr(self.method, "codec"):
            raise UserError(
                f"{an(type(self.method).__name__)} has a codec of its own: use it without another"
            )
        self.channels, self.factor = codec.channels, codec.factor
        if any(getattr(m, "bounded", False) for m in self.method.modules()):
            raise UserError(
                f"a generator of this {type(self.method).__name__} answers in [-1, 1], beyond which latents "
                f"lie: make it with bounded=False"
            )
        for name in ("means", "deviations"):
            if len(getattr(self, name)) not in (0, codec.latent_channels):
                raise UserError(f"{name} must be {codec.latent_channels} numbers, one for each channel")
        self.codec.requires_grad_(False).eval()
        self._known: dict[int, Tensor] = {}

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("method"), name)

    def train(self, mode: bool = True) -> InLatents:
        super().train(mode)
        self.codec.eval()
        return self

    @torch.no_grad()
    def encode(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b latents height width"]:
        """Latents of pictures in [-1, 1]; sides that are no multiples of the factor are mirrored beyond."""
        if x.ndim != 4 or x.shape[1] != self.channels:
            raise UserError(
                f"the codec takes pictures (B, {self.channels}, H, W), not a tensor of {tuple(x.shape)}"
            )
        own: Any = self.codec
        with torch.autocast(x.device.type, enabled=False):
            z = _in_pieces(own.encode, mirrored(x, self.factor), AT_ONCE)
        return (z - self._of(self.means, z)) / self._of(self.deviations, z) if self.means else z

    @torch.no_grad()
    def decode(self, z: Float[Tensor, "b c h w"]) -> Float[Tensor, "b channels height width"]:
        """Pictures of latents."""
        own: Any = self.codec
        with torch.autocast(z.device.type, enabled=False):
            z = self._of(self.means, z) + self._of(self.deviations, z) * z if self.means else z
            return _in_pieces(own.decode, z, AT_ONCE // self.factor**2)

    def translate(
        self, source: Tensor, *, seed: Seed = 0, watch: Watch | None = None, **options: Any
    ) -> Tensor:
        """Images (B, C, H, W) in [-1, 1] to images, by the method's own options.

        A picture's noise is seeded by its pixels: the last bits of latents depend on the batch.

        Args:
            source: images in [-1, 1].
            seed: seed of the noise.
            watch: see `integrate`; it sees latents, and is told how they are shown, see `as_shown`.
            options: of the method; a mask, and the factor of a low-pass, are of pixels.
        """
        own, mask = self.options(options, options), options.get("mask")
        own |= {"factor": self._in_latents(options["factor"])} if options.get("factor") else {}
        if isinstance(mask, Tensor):  # a latent is kept if all of its pixels are
            whole = mirrored(mask.to(source).expand(len(mask), -1, *source.shape[2:]), self.factor)
            own["mask"] = -F.max_pool2d(-whole, self.factor)
        seeds = Noise.of(source, seed, BLOCK * self.factor).seeds
        watch = self._showing(watch, source) if watch else None
        z = self.method.translate(self.encode(source), as_is=True, seed=seeds, watch=watch, **own)
        y = self.decode(z)[..., : source.shape[2], : source.shape[3]]
        return torch.where(mask.to(y) > 0.5, source, y) if isinstance(mask, Tensor) else y

    def _showing(self, watch: Watch, source: Tensor) -> Watch:
        h, w = source.shape[2:]
        show = lambda z, mean: (squares(z, self.factor)[..., :h, :w], self.decode(mean)[..., :h, :w])
        return lambda t, x_t, mean, extras: watch(t, x_t, mean, extras | {"show": show})

    def options(self, known: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
        """Options of the method, as they are for latents, of which some are `given`; see `OF_PICTURES`.

        Raises:
            UserError: one speaks of colours.
        """
        takes = inspect.signature(self.method.translate).parameters
        fixed = {k: v for k, v in OF_PICTURES.items() if k in takes}
        for name, value in fixed.items():
            if given.get(name, value) != value:
                raise UserError(
                    f"{name} {given[name]} is of colours in [-1, 1], and latents have none: leave it out"
                )
        return {**known, **fixed}

    def objectives(
        self, batches: Iterator[tuple[Tensor, Tensor]], rng: torch.Generator
    ) -> Iterator[tuple[str, Tensor]]:
        """The method's, on the latents of pictures; labels stay as they are."""
        return self.method.objectives(self._latents(batches), rng)

    @property
    def measures(self) -> Any:
        """What the method itself measures, if it does."""
        own = self.method.measures
        return lambda a, b, rng: own(*next(self._latents([(a, b)])), rng)

    @property
    def preview(self) -> Any:
        """Pictures of the method's preview, if it has one."""
        own = self.method.preview
        return lambda like: [self.decode(row) for row in own(self.encode(like))]

    @property
    def side(self) -> int:
        """Side of the training's pictures in pixels, if the method asks for it."""
        return int(self.method.side) * self.factor

    def sample(self, domain: str, like: Tensor, **how: Any) -> Tensor:
        """New pictures of a domain, as many and of the size of `like`; see the method's own `sample`."""
        return self.decode(self.method.sample(domain, self.encode(like), **how))

    def around(self, method: Part) -> InLatents:
        """Another method in the same latents."""
        inner = InLatents(codec=self.codec, method=method, means=self.means, deviations=self.deviations)
        inner.preparation = self.preparation
        return inner.train(method.training)

    def same_latents(self, other: Part) -> bool:
        """Whether another model works in these latents."""
        if not isinstance(other, InLatents):
            return False
        scales = {(m.means, m.deviations) for m in (self, other)}
        return len(scales) == 1 and self.same_codec(other)

    def same_codec(self, other: InLatents) -> bool:
        """Whether another model has this codec, however its latents are scaled."""
        own, theirs = self.codec.state_dict(), other.codec.state_dict()
        return (describe(self.codec), own.keys()) == (describe(other.codec), theirs.keys()) and all(
            torch.equal(v, theirs[k]) for k, v in own.items()
        )  # fmt: skip

    @property
    def mark(self) -> str:
        """What tells these latents from those of other codecs, and of other scales."""
        found = hashlib.sha256(repr((describe(self.codec), self.means, self.deviations)).encode())
        for name, value in self.codec.state_dict().items():
            found.update(name.encode() + value.detach().cpu().numpy().tobytes())
        return found.hexdigest()[:16]

    def _latents(self, batches: Iterable[tuple[Tensor, Tensor]]) -> Iterator[tuple[Tensor, Tensor]]:
        for a, b in batches:
            yield self._latent(a), self._latent(b)

    def _latent(self, x: Tensor) -> Tensor:
        """Latents of pictures as training shows them, mirrored and jittered: each is encoded once.

        Whole batches are encoded, or none of them: so bits do not depend on what was seen before.
        """
        if x.ndim < 4:
            return x
        names = [stable_hash(one.numpy().tobytes()) for one in x.detach().cpu()]
        if not all(name in self._known for name in names):
            z = self.encode(x)
            if len(self._known) * z[0].numel() * z.element_size() < KEPT:
                self._known |= zip(names, z.unbind(), strict=True)
            return z
        return torch.stack([self._known[name] for name in names])

    def low_pass(self, options: Mapping[str, Any]) -> str | None:
        """What a low-pass of these options means here, in words, if there is one."""
        if "factor" not in options:
            return None
        kept = self._in_latents(options["factor"]) if options["factor"] else None
        each = f" of {count(kept, 'latent')} a side ({options['factor']} pixels)" if kept else ""
        return f"the low-pass{each} is of latents, not of pixels: layout is kept, and colours only about"

    def _in_latents(self, pixels: int) -> int:
        if pixels % self.factor:
            raise UserError(
                f"factor {pixels} is in pixels, of which {self.factor} a side are one latent: expected a "
                f"multiple of {self.factor}"
            )
        return pixels // self.factor

    @staticmethod
    def _of(numbers: Sequence[float], z: Tensor) -> Tensor:
        return z.new_tensor(numbers)[:, None, None]


def _in_pieces(run: Callable[[Tensor], Tensor], x: Tensor, most: int) -> Tensor:
    """run(x) for equal parts of a batch, of so many places at most: bits depend on how many run together."""
    n, places = len(x), x.shape[2] * x.shape[3]
    many = max(k for k in range(1, n + 1) if n % k == 0 and (k == 1 or k * places <= most))
    return run(x) if many == n else torch.cat([run(part) for part in torch.split(x, many)])


def squares(z: Float[Tensor, "b c h w"], factor: int) -> Float[Tensor, "b c y x"]:
    """Latents to be looked at: each a square of its pixels."""
    return z.repeat_interleave(factor, 2).repeat_interleave(factor, 3)


def moments(latents: Iterable[Tensor]) -> dict[str, tuple[float, ...]]:
    """Mean and deviation of each channel of latents (B, C, H, W), to four digits: a record to be read."""
    each = torch.cat([z.transpose(0, 1).flatten(1).cpu() for z in latents], 1).double()
    found = {"means": each.mean(1), "deviations": each.std(1, correction=0).clamp(min=1e-6)}
    return {name: tuple(float(f"{v:.4g}") for v in values) for name, values in found.items()}
