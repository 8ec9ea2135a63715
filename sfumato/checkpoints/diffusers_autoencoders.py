"""Folders of diffusers' autoencoders: config.json, diffusion_pytorch_model.safetensors."""

from __future__ import annotations

from inspect import signature
from pathlib import Path
from typing import Any

from sfumato.checkpoints.diffusers_folders import built, config_of, weights_of
from sfumato.checkpoints.torch_files import check_shapes
from sfumato.core.arguments import check_value
from sfumato.core.errors import check_numbers
from sfumato.core.ranges import TrainingSide
from sfumato.core.terminal import count
from sfumato.methods.registry import find
from sfumato.module import Part
from sfumato.nets.diffusers import library
from sfumato.nets.diffusers_autoencoders import KINDS, DiffusersCodec

CONFIG = "config.json"
DERIVED = ("block_out_channels",)
"""What a config says besides, and follows from the rest of it."""


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
    kind: Any = config.get("_class_name")
    takes = [*signature(getattr(library(), kind).__init__).parameters][1:]
    weights, state = weights_of(folder)
    other = [k for k, v in config.items() if k not in (*takes, *DERIVED) and k[:1] != "_" and v is not None]
    left = [f"its {name} left out" for name in other]
    kept = {k: v for k, v in config.items() if k in takes}
    codec = built(lambda: DiffusersCodec(kind=kind, config=kept), file, kind, len(state))
    check_shapes(weights, state, {k: v.shape for k, v in codec.model.state_dict().items()}, f"its {kind}")
    full = {k: v.float() for k, v in state.items()}
    check_numbers({f"{weights}: {k}": v for k, v in full.items()})
    codec.model.load_state_dict(full, assign=True)
    codec.config = {k: codec.model.config[k] for k in takes}  # with what it leaves to defaults
    return codec, left


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
