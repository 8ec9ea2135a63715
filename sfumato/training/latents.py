"""The codec of a training, in whose latents a method learns."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import torch

from sfumato.checkpoints.hub import recorded_name, spelled
from sfumato.checkpoints.model_folder import ModelFolder, open_model, resolve
from sfumato.core.errors import UserError
from sfumato.core.padding import mirrored
from sfumato.core.terminal import count
from sfumato.data.show import evenly
from sfumato.diffusion.latents import InLatents, codec_of, moments
from sfumato.module import Part, build, fields
from sfumato.training.options import TrainOptions
from sfumato.training.pictures import Pictures

MEASURED = 256
"""Pictures whose latents are measured, at least."""
SCALE = "means", "deviations"
"""What is measured of each channel of latents."""
LEAST = 8
"""Latents a side that networks of one size need."""


@dataclass(frozen=True)
class Latents:
    """A codec, and what is known of it.

    Args:
        name: what it is called in run.json.
        sha256: of its folder's weights.
        codec: pictures to latents and back.
        scale: means and deviations of its latents, if they are known; none of latents as they are.
    """

    name: str
    sha256: str
    codec: Any
    scale: Mapping[str, Any] | None = None

    @classmethod
    def of(
        cls, asked: TrainOptions, before: Mapping[str, Any] | None, start: ModelFolder | None
    ) -> Latents | None:
        """Those that are asked for, or those of the model that is begun with, if any.

        A run that goes on has the weights of its codec itself.

        Raises:
            UserError: the folder holds no codec, or the model was trained in other latents.
        """
        if start is not None and isinstance(start.part, InLatents):
            whole, name = start.part, asked.start if asked.codec is None else asked.codec
            other = None if asked.codec is None else open_model(*resolve(asked.codec))
            if other and not InLatents(codec=codec_of(other.part), method=whole.method).same_codec(whole):
                raise UserError(f"{asked.start} learned in the latents of another codec: leave out --codec")
            return cls(recorded_name(str(name)), start.sha256, whole.codec, _scale(whole))
        if asked.codec is None:
            return None
        if start is not None:
            raise UserError(f"{asked.start} learned from pictures, not from latents: leave out --codec")
        name = recorded_name(asked.codec)
        if before is not None and "codec" in before:
            model = before["model"]
            scale = {k: tuple(model[k]) for k in SCALE}
            return cls(name, before["codec"].get("sha256", ""), build(model["codec"]), scale)
        path, domain = resolve(asked.codec)
        if domain is not None:
            raise UserError(f"a codec has no domains: --codec {spelled(path)}, without :{domain}")
        found = open_model(path, None)
        codec = codec_of(found.part, found.name)
        return cls(name, found.sha256, codec, _recorded(found, codec))

    def told(self, asked: TrainOptions) -> TrainOptions:
        """The same; channels that are not stated are the codec's.

        Raises:
            UserError: what is stated is not for the codec.
        """
        factor = self.codec.factor
        if any(side % factor for side in asked.sides):
            raise UserError(
                f"{asked.codec} makes one latent of {factor}x{factor} pixels: expected a --size that is a "
                f"multiple of {factor}, not {asked.size}"
            )
        for flag, channels in (("channels", asked.stated_channels), ("to-channels", asked.to_channels)):
            self._check(channels, f"--{flag}", asked)
        stated = {} if asked.further else {"channels": self.codec.channels}
        return replace(asked, codec=self.name, options=stated | dict(asked.options or {}))

    def decided(self, cls: type[Part], given: Mapping[str, Any], pictures: Pictures) -> dict[str, Any]:
        """What a method is told of latents in place of pictures."""
        self._check(pictures.everything.preparation.channels, "--beside", None)
        now = {"channels": self.codec.latent_channels, "to_channels": 0, "bounded": False}
        if side := given.get("side"):
            now["side"] = side // self.codec.factor
            if now["side"] < LEAST:
                raise UserError(
                    f"{self.name} makes {now['side']} latents a side of {side} pixels, and {cls.__name__} "
                    f"needs {LEAST}: expected --size {LEAST * self.codec.factor} or more"
                )
        known = {f.name for f in fields(cls)}
        return {k: v for k, v in now.items() if k in known}

    def around(
        self, method: Part, asked: TrainOptions, pictures: Pictures, device: torch.device
    ) -> InLatents:
        """The method at work in latents; a scale that is not known is measured on the training's pictures."""
        scale = self.scale
        if scale is None:
            whole = InLatents(codec=self.codec, method=method).to(device)
            stream = pictures.training.batches(asked.batch, seed=asked.seed, scale=asked.scale)
            some = islice(stream, math.ceil(MEASURED / asked.batch))
            seen = (x.to(device) for batch in some for x in batch if x.ndim == 4)
            scale = moments(whole.encode(x) for x in seen)
        return InLatents(codec=self.codec, method=method, **scale)

    def facts(self) -> dict[str, str]:
        """What run.json and the model's card say of it."""
        return {"model": self.name, "sha256": self.sha256}

    def said(self, part: InLatents) -> str:
        """What the training works in, in words."""
        size = f"{self.codec.latent_channels} of {self.codec.factor}x{self.codec.factor} pixels"
        said = f"learns in the latents of {self.name}, {size}"
        if part.deviations:
            said += f", whose deviation of {', '.join(f'{d:g}' for d in part.deviations)} becomes 1"
        if self.scale is None:
            said += (
                f"; {self.name} does not record this scale, which is measured on these pictures: models of "
                f"other trainings will not go with this one"
            )
        return said

    def _check(self, channels: int | None, flag: str, asked: TrainOptions | None) -> None:
        if channels not in (None, own := self.codec.channels):
            raise UserError(
                f"{asked.codec if asked else self.name} is a codec of pictures of {count(own, 'channel')}, "
                f"not {channels}: leave out {flag}, or train a codec of such pictures"
            )


@torch.no_grad()
def measured(method: Part, pictures: Pictures, device: torch.device) -> dict[str, Any]:
    """What model.json says of a codec that has learnt: the scale of its latents of the pictures."""
    codec: Any = getattr(method, "codec", None)
    if codec is None or isinstance(method, InLatents):
        return {}
    sets = pictures.sources
    each = (one.get([i]) for one in sets for i in evenly(len(one), -(-MEASURED // len(sets))))
    return {"latents": moments(codec.encode(mirrored(x.to(device), codec.factor)) for x in each)}


def _recorded(found: ModelFolder, codec: Any) -> dict[str, Any] | None:
    """The scale that a codec's folder records; that of one that scales its latents itself is none."""
    said: Any = found.info.get("latents")
    if said is None:
        return {name: () for name in SCALE} if getattr(codec, "scaled", False) else None
    try:
        return {name: tuple(map(float, said[name])) for name in SCALE}
    except (KeyError, TypeError, ValueError):
        raise UserError(f"{found.name} is damaged: its scale of latents is {said!r}") from None


def _scale(whole: InLatents) -> dict[str, Any]:
    return {name: getattr(whole, name) for name in SCALE}
