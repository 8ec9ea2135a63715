"""Folders of diffusers' autoencoders: config.json, diffusion_pytorch_model.safetensors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sfumato.checkpoints.diffusers_weights import config_of, filled, weights_of
from sfumato.core.arguments import check_value
from sfumato.core.errors import UserError
from sfumato.core.ranges import TrainingSide
from sfumato.core.terminal import an, count
from sfumato.methods.registry import find
from sfumato.module import Part
from sfumato.nets.diffusers_autoencoders import KINDS, DiffusersCodec

CONFIG = "config.json"


def holds_autoencoder(folder: Path) -> bool:
    """Whether the folder is one of an autoencoder, as `vae` in that of a pipeline is."""
    return (folder / CONFIG).is_file() and config_of(folder, CONFIG)[1].get("_class_name") in KINDS


def read_codec(folder: Path) -> tuple[DiffusersCodec, list[str]]:
    """The codec of a folder, and what of it is left out.

    It has no memory before all names and shapes are known to be its own.

    Raises:
        UserError: it holds anything else.
    """
    file, config = config_of(folder, CONFIG)
    if (kind := config.get("_class_name")) not in KINDS:
        raise UserError(f"{file} is of {an(str(kind))}: expected {' or '.join(KINDS)}")
    make = lambda kept: DiffusersCodec(kind=kind, config=kept)
    return filled(make, kind, file, config, *weights_of(folder))


def read_autoencoder(folder: Path, size: int | None) -> tuple[Part, str, dict[str, Any]]:
    """The autoencoder of a folder, what it was found to be, and its pictures' size, if that is known."""
    codec, left = read_codec(folder)
    part = find("autoencoder")(net=codec, critic=0.0, code="vq" if codec.kind == "VQModel" else "kl")
    words = (
        f"{codec.factor}x{codec.factor} pixels are one latent of {count(codec.latent_channels, 'channel')}"
    )
    side = size or codec.config.get("sample_size")
    if side is not None:
        check_value("sample_size", side, TrainingSide)
    about = {} if side is None else {"size": side}
    return part.eval(), "; ".join([f"diffusers' {codec.kind}: {words}", *left]), about
