"""The two sides of a translation learnt without pairs: their denoisers, and where pairs come from."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal, NamedTuple, get_args

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from sfumato.core.errors import choose
from sfumato.diffusion.denoiser import Denoiser
from sfumato.diffusion.domains import domain_index
from sfumato.diffusion.encode_decode import ENCODING, decode, encode
from sfumato.diffusion.guidance import Conditioned, away_from_none, sampled
from sfumato.diffusion.integrate import Solver
from sfumato.diffusion.low_pass import Content, passed
from sfumato.diffusion.noise import Noise
from sfumato.diffusion.sampler_gradients import integrate_flat
from sfumato.diffusion.time_grids import Spacing
from sfumato.diffusion.watch import Watch
from sfumato.methods._shared.memory import Replay, SlowCopy
from sfumato.methods.registry import Diverged
from sfumato.nets.sizes import make_net

OTHER = {"target": "source", "source": "target"}
"""The two sides of a translation, each with the other."""
KINDS = "clean", "rough", "none"
"""A conditioning image is one of the other side, a coarse and noisy one, or absent."""


Norm = Literal["l2", "l1"]
Begin = Literal["coarse", "image", "gray"]
Images = dict[str, Tensor]
"""Images (B, C, H, W) of each side, both of one B."""


class Rough(NamedTuple):
    """Coarse images with noise: means over cells x cells equal patches, at the images' own size.

    Of `content` chroma they keep colour without brightness, see `LowPass`.
    """

    cells: int
    std: float
    content: Content = "colour"

    def __call__(self, x: Float[Tensor, "b c h w"], z: Float[Tensor, "b c h w"]) -> Tensor:
        """The coarse images of x, with standard normal z."""
        return passed(coarse(x, self.cells), self.content) + self.std * z


def coarse(x: Float[Tensor, "b c h w"], cells: int) -> Float[Tensor, "b c h w"]:
    """Means over cells x cells equal patches, at the images' own size."""
    return F.interpolate(F.adaptive_avg_pool2d(x, cells), x.shape[-2:])


class Sides(nn.Module):
    """Denoisers of both sides given an image: two, or one that is told the side.

    Args:
        net: size of each network, or a network.
        channels: channels of the images.
        shared: one for both sides.
        options: options of the denoisers: process, prediction, times.
    """

    def __init__(self, net: str | nn.Module, channels: int, shared: bool = False, **options: Any) -> None:
        super().__init__()
        names = tuple(f"{side} {kind}" for side in OTHER for kind in KINDS)

        def denoiser() -> Denoiser:
            how: dict[str, Any] = {"conditioning": channels, "channels": channels, "copied": True}
            made = make_net(net, labels=len(names), **how)
            return Denoiser(net=made, domains=names, any_domain=False, **options)

        self.target = denoiser()
        self.source = self.target if shared else denoiser()

    def of(self, side: str) -> Denoiser:
        """The denoiser of a side."""
        return self.target if side == "target" else self.source

    def given(self, side: str, kind: str = "clean") -> Conditioned:
        """The denoiser of a side, to be given images of this kind by `on`."""
        return Conditioned(denoiser=self.of(side), domain=f"{side} {kind}")

    def loss(
        self, real: Images, given: Images, rng: torch.Generator, kind: str = "clean",
        null: float = 0.0, pseudo: Literal["none", "detached", "attached"] = "none",
    ) -> Tensor:  # fmt: skip
        """sum_s l(F_s; x_s | given_s), one t and one z for all terms.

        Args:
            real: targets of each side.
            given: the images they are given.
            rng: of times, noise and what is hidden.
            kind: kind of the given images.
            null: share of the given images that are hidden.
            pseudo: the given images as targets, too, each given the other side's real ones.
        """
        x = real["target"]
        t, z = self.target.draw_times(len(x), rng), drawn(x, rng)
        terms = [(s, real[s], given[s]) for s in OTHER]
        if pseudo != "none":
            made = {s: given[o] if pseudo == "attached" else given[o].detach() for s, o in OTHER.items()}
            terms += [(s, made[s], real[o]) for s, o in OTHER.items()]
        losses = []
        for side, target, image in terms:
            f = self.of(side)
            hidden = (torch.rand(len(x), generator=rng) < null).to(x.device)
            label, none = (domain_index(f"{side} {k}", f.domains) for k in (kind, "none"))
            labels = torch.full_like(hidden, label, dtype=torch.long).masked_fill(hidden, none)
            image = image.masked_fill(hidden[:, None, None, None], 0)
            losses.append(f.loss(target, t, z, domain=labels, image=image))
        return torch.stack(losses).sum()

    def sample(
        self, side: str, image: Tensor, noise: Noise, kind: str = "clean", *, steps: int,
        solver: Solver, spacing: Spacing, clip: bool = False, exact: bool = False,
        classifier_free: float = 0.0, watch: Watch | None = None,
    ) -> Tensor:  # fmt: skip
        """Images of a side given these (B, C, H, W); `exact` keeps all gradients, in flat memory."""
        f = away_from_none(self.given(side, kind), image, self.given(side, "none"), classifier_free)
        how: dict[str, Any] = {"run": integrate_flat} if exact else {"watch": watch}
        return sampled(f, image, noise, steps=steps, solver=solver, spacing=spacing, clip=clip, **how)

    def couple(self, side: str, image: Tensor, noise: Noise, rough: Rough | None, **how: Any) -> Tensor:
        """The first coupling: by coarse images where there are such, else DDIB (in twice the steps)."""
        if rough is not None:
            image = rough(image, noise.stream("rough")(image))
            return self.sample(side, image, noise, "rough", **how)
        ends = {s: self.given(s, "none").on(torch.zeros_like(image)) for s in OTHER}
        steps, watch = 2 * how["steps"], how.get("watch")
        up = round(ENCODING * steps)
        with torch.no_grad():
            latent = encode(ends[OTHER[side]], image, steps=up, watch=watch)
            return decode(ends[side], latent, steps=steps - up, watch=watch)


class FeedForward(nn.Module):
    """An auxiliary translator: what it begins as, plus the same network at one noise level.

    Args:
        net: size of the network, or a network; its output is 0 at first.
        channels: channels of the images.
        begin: coarse images, images (the identity) or gray ones.
        cells: a coarse image is this many patches wide.
    """

    def __init__(self, net: str | nn.Module, channels: int, begin: Begin, cells: int) -> None:
        super().__init__()
        self.net = make_net(net, channels=channels, copied=True)
        self.begin, self.cells = choose("begin", begin, get_args(Begin)), cells

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        made = self.net(x, torch.zeros(len(x), device=x.device))
        if self.begin == "gray":
            return made
        return made + (coarse(x, self.cells) if self.begin == "coarse" else x)


class Translators(nn.ModuleDict):
    """An auxiliary translator to each side, see `FeedForward`; of images of both sides, to both."""

    def __init__(self, net: str | nn.Module, channels: int, begin: Begin = "gray", cells: int = 1) -> None:
        super().__init__({side: FeedForward(net, channels, begin, cells) for side in OTHER})

    def forward(self, images: Images) -> Images:
        """What is made of each side's images, under the name of the other."""
        return {s: self[s](images[o]) for s, o in OTHER.items()}


class Pairs(nn.Module):
    """Real images of each side, and the other side's made of them.

    Of denoisers other than `Sides`, f is any module with its `sample`; pairing is then buffer, and there is
    no first coupling.

    Args:
        pairing: buffer, exact, detached, one_step or auxiliary, see `unpaired_sde`.
        rough: of the first coupling; None for DDIB.
        loop: steps, solver and spacing of the sampler.
        pool: pairs kept.
        refresh: batches between new pairs.
    """

    translators: Translators

    def __init__(
        self, pairing: str, rough: Rough | None, loop: dict[str, Any], pool: int, refresh: int
    ) -> None:
        super().__init__()
        self.pairing, self.rough, self.loop, self.refresh = pairing, rough, loop, refresh
        self.slow, self.frozen, self.memory = SlowCopy(), SlowCopy(), Replay(pool)

    def add_translators(self, net: str | nn.Module, channels: int) -> None:
        """Auxiliary translators of this network."""
        self.translators = Translators(net, channels)

    def roughened(self, images: Images, rng: torch.Generator) -> Images:
        """What each side is given of its own images while it is alone; blank for DDIB."""
        if self.rough is None:
            return {s: torch.zeros_like(x) for s, x in images.items()}
        return {s: self.rough(x, drawn(x, rng)) for s, x in images.items()}

    def follow(self, f: nn.Module, decay: float, freeze: bool) -> None:
        """The slow copy takes in the denoisers; it is kept as it is for the first coupling."""
        self.slow.follow(f, decay)
        if freeze:
            self.frozen.vector = self.slow.vector

    def forward(
        self, f: Any, real: Images, rng: torch.Generator, first: bool, n: int
    ) -> tuple[Images, Images]:
        """Real images and what is made of them, now (n-th batch) or earlier; of each side.

        Raises:
            Diverged: if what is made is not finite.
        """
        stored = self.training and (first or self.pairing == "buffer")
        if not stored or n % self.refresh == 0 or self.memory.of(real["target"]) is None:
            made = {s: self._make(f, s, real[o], rng, first) for s, o in OTHER.items()}
            if not all(x.isfinite().all() for x in made.values()):
                raise Diverged(
                    f"the pairs that {self.loop['steps']} steps of {self.loop['solver']} make are "
                    f"not finite: take more --loop-steps, or --loop-solver dpm2m"
                )
            if not stored:
                return real, made
            self.memory.add(*(v[s] for v in (real, made) for s in OTHER))
        old = self.memory.draw(real["target"], rng)
        return dict(zip(OTHER, old[:2], strict=True)), dict(zip(OTHER, old[2:], strict=True))

    def sample(self, f: Any, side: str, image: Tensor, rng: torch.Generator, **how: Any) -> Tensor:
        """Samples of a side given images, by the sampler of the loop."""
        made: Tensor = f.sample(side, image, noise_for(image, rng), **self.loop, **how)
        return made

    def _make(self, f: Any, side: str, image: Tensor, rng: torch.Generator, first: bool) -> Tensor:
        if self.pairing == "exact" and not first:
            return self.sample(f, side, image, rng, exact=True)
        with torch.no_grad(), (self.frozen if first else self.slow).acting_in(f):
            if first:
                return f.couple(side, image, noise_for(image, rng), self.rough, **self.loop)
            if self.pairing == "auxiliary":
                return self.translators[side](image)
            if self.pairing == "one_step":
                t, given = f.of(side).draw_times(len(image), rng), f.given(side).on(image)
                return given(given.process.perturb(image, t, drawn(image, rng)), t)
            return self.sample(f, side, image, rng)


@contextmanager
def frozen(module: nn.Module) -> Iterator[nn.Module]:
    """Inside, graphs do not reach the module's parameters."""
    learning = [p for p in module.parameters() if p.requires_grad]
    module.requires_grad_(False)
    try:
        yield module
    finally:
        for p in learning:
            p.requires_grad_(True)


def drawn(like: Tensor, rng: torch.Generator) -> Tensor:
    """Standard normal numbers of this shape from training's generator."""
    return torch.randn(like.shape, generator=rng).to(like)


def noise_for(images: Tensor, rng: torch.Generator) -> Noise:
    """Noise for a sampler inside a training step, from its generator."""
    return Noise(torch.randint(2**62, (len(images),), generator=rng).tolist())


def swapped(images: Images) -> Images:
    """Each side's images under the other's name: what a side is given are those made of its own."""
    return {s: images[o] for s, o in OTHER.items()}


def round_trip(real: Images, back: Images, norm: Norm) -> Tensor:
    """The cycle term |x_r - x|^2 + |y_r - y|^2, mean over pixels, or |.| for l1."""
    far = F.mse_loss if norm == "l2" else F.l1_loss
    return far(back["source"], real["source"]) + far(back["target"], real["target"])
