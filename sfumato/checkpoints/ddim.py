"""Denoisers of the code of DDIM and of pytorch_diffusion, as SDEdit's and EGSDE's of faces: `.ckpt` files.

The network of Ho et al. 2020 (https://arxiv.org/abs/2006.11239), which is a UNet2DModel of diffusers under
other names.  It follows from the names and shapes of its weights; the schedule and the size of its pictures
do not.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from sfumato.checkpoints.diffusers_weights import filled_unet
from sfumato.checkpoints.guided_diffusion import CHAINS, MOST
from sfumato.checkpoints.known_files import Trained, class_names, in_short, trained_with
from sfumato.checkpoints.known_networks import DDIM_32, DDIM_256, others
from sfumato.core.errors import UserError
from sfumato.methods.registry import find
from sfumato.module import Part
from sfumato.nets.indexed import Indexed

FIRST = "temb.dense.0.weight"
"""By which such a network is known."""

ONE_HEAD: dict[str, Any] = {"attention_order": "old", "heads": 1}
FACES = Trained(256, "linear", 1000, **ONE_HEAD, domains=("face",))
KNOWN = {
    "celeba_hq": FACES,
    "celebahq_female_ddpm": replace(FACES, domains=("female",)),
    "church_outdoor": replace(FACES, domains=("church",)),
    **{
        f"{ema}diffusion_{name}_model": replace(FACES, size=size, domains=(name.removeprefix("lsun_"),))
        for ema in ("", "ema_")
        for name, size in {"cifar10": 32, "lsun_bedroom": 256, "lsun_cat": 256, "lsun_church": 256}.items()
    },
}
"""The published files by the beginning of their names."""

NAMES = {
    r"^temb\.dense\.0\.": "time_embedding.linear_1.",
    r"^temb\.dense\.1\.": "time_embedding.linear_2.",
    r"^norm_out\.": "conv_norm_out.",
    r"^mid\.attn_1\.": "mid_block.attentions.0.",
    r"^mid\.block_1\.": "mid_block.resnets.0.",
    r"^mid\.block_2\.": "mid_block.resnets.1.",
    r"^(down|up)\.(\d+)\.block\.": r"\1_blocks.\2.resnets.",
    r"^(down|up)\.(\d+)\.attn\.": r"\1_blocks.\2.attentions.",
    r"^(down|up)\.(\d+)\.(down|up)sample\.": r"\1_blocks.\2.\3samplers.0.",
    r"\.temb_proj\.": ".time_emb_proj.",
    r"\.nin_shortcut\.": ".conv_shortcut.",
    r"(attentions\.\d+)\.norm\.": r"\1.group_norm.",
    r"(attentions\.\d+)\.([qkv])\.": r"\1.to_\2.",
    r"(attentions\.\d+)\.proj_out\.": r"\1.to_out.0.",
}
"""Their names, and diffusers'; levels on the way up are counted from the other end."""


def holds_ddim(state: Mapping[str, Tensor]) -> bool:
    """Whether these are weights of such a network."""
    return any(key.endswith(FIRST) for key in state)


def read_ddim(file: Path, state: Mapping[str, Tensor], given: Trained) -> tuple[Part, str, int]:
    """A model with the weights of a file, what it was found to be, and the size of its pictures.

    Args:
        file: its name says what it was trained with, if it is a published one.
        state: what it holds.
        given: what is known of it besides; it overrules what its name says.

    Raises:
        UserError: it holds anything else; or what it was trained with is not known.
    """
    how, name = trained_with(file, replace(given, **ONE_HEAD), KNOWN)
    state = {key.removeprefix("module."): value for key, value in state.items()}
    try:
        config = _config(state, how.size)
        if name and (other := others(_network(config), DDIM_32 if KNOWN[name].size == 32 else DDIM_256)):
            how, name = trained_with(file, replace(given, **ONE_HEAD), KNOWN, other)
        domains = class_names(how.domains, 0, file.stem)
    except UserError as error:
        raise UserError(f"{file}: {error}") from None
    except (IndexError, KeyError):
        raise UserError(f"{file} is not a U-Net of DDIM's code, though it holds {FIRST}") from None
    theirs = {_named(key, len(config["block_out_channels"])): key for key in state}
    squeezed = {mine: _linear(mine, state[key]) for mine, key in theirs.items()}
    net, left = filled_unet(file, config, file, squeezed)
    chain = CHAINS[how.schedule or "linear"](steps=how.chain_steps or 0)
    part = find("diffusion")(
        domains=domains, net=Indexed(net=net, chain=chain), process=chain, prediction="eps", times="uniform",
        channels=net.channels, any_domain=0.0,
    )  # fmt: skip
    widths = ", ".join(map(str, config["block_out_channels"]))
    said = [
        f"a diffusion model of {in_short(domains)}: a U-Net of {widths} channels",
        f"trained on {how.size} pixels", f"{how.schedule} schedule of {how.chain_steps} steps",
        *([f"{'all else ' if given.given() else ''}as published of {name}"] if name else []),
    ]  # fmt: skip
    return part.eval(), "; ".join([", ".join(said), *left]), how.size or 0


def _config(state: Mapping[str, Tensor], size: int | None) -> dict[str, Any]:
    """A UNet2DModel's."""
    levels = _counted(state, "down.{}.block.0.conv1.weight")
    attend = [f"down.{i}.attn.0.q.weight" in state for i in range(levels)]
    return {
        "sample_size": size,
        "in_channels": state["conv_in.weight"].shape[1],
        "out_channels": len(state["conv_out.weight"]),
        "block_out_channels": [len(state[f"down.{i}.block.0.conv1.weight"]) for i in range(levels)],
        "down_block_types": ["AttnDownBlock2D" if a else "DownBlock2D" for a in attend],
        "up_block_types": ["AttnUpBlock2D" if a else "UpBlock2D" for a in reversed(attend)],
        "layers_per_block": _counted(state, "down.0.block.{}.conv1.weight"),
        "time_embedding_dim": len(state[FIRST]),
        "flip_sin_to_cos": False, "freq_shift": 1, "downsample_padding": 0,
        "attention_head_dim": None, "norm_eps": 1e-6, "act_fn": "silu",
    }  # fmt: skip


def _network(config: Mapping[str, Any]) -> dict[str, Any]:
    """What of a config is compared with that of a published network."""
    attend = enumerate(config["down_block_types"])
    return {
        "widths": tuple(config["block_out_channels"]), "blocks": config["layers_per_block"],
        "attention": tuple(n for n, kind in attend if kind.startswith("Attn")),
    }  # fmt: skip


def _counted(state: Mapping[str, Tensor], name: str) -> int:
    """How many there are from 0 on."""
    return next(i for i in range(MOST + 1) if i == MOST or name.format(i) not in state)


def _named(key: str, levels: int) -> str:
    key = re.sub(r"^up\.(\d{1,4})\.", lambda m: f"up.{levels - 1 - int(m[1])}.", key)
    for theirs, ours in NAMES.items():
        key = re.sub(theirs, ours, key)
    return key


def _linear(name: str, value: Tensor) -> Tensor:
    """Queries, keys and values were convolutions of single pixels."""
    single = "attentions." in name and value.ndim == 4
    return value.flatten(1) if single and value.shape[2:] == (1, 1) else value
