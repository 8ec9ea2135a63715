"""Networks of the public improved- and guided-diffusion code, and of what was made with it: `.pt` files.

A network follows from the names and shapes of its weights (`read_network`).  Neither its attention heads
and the order of queries, keys and values, nor the noise schedule, nor the size of the pictures do, and a
wrong one gives pictures that look almost right: see `sfumato.checkpoints.known_files`.

    output_blocks. ...                    a denoiser      diffusion
    none, and out.2.qkv_proj.weight       a classifier    domain_classifier
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from sfumato.checkpoints.known_files import Trained, class_names, in_short, trained_with
from sfumato.checkpoints.known_networks import NETWORKS, others
from sfumato.checkpoints.torch_files import check_shapes
from sfumato.core.devices import without_values
from sfumato.core.errors import UserError, check_numbers
from sfumato.core.ranges import Schedule
from sfumato.core.terminal import count
from sfumato.diffusion.process import DDPM, IDDPM, Chain
from sfumato.methods.registry import find
from sfumato.module import Part
from sfumato.nets.adm import ADM
from sfumato.nets.indexed import Indexed

FIRST = "input_blocks.0.0.weight"
"""The first convolution, by which such a network is known."""

CHAINS: Mapping[Schedule, type[Chain]] = {"linear": DDPM, "cosine": IDDPM}

MOST = 256
"""Stages that a network may have on its way down; published ones have up to 21."""


OURS = {
    "net.net.": "",
    "denoiser.net.net.": "",
    "classifier.encoder.net.": "",
    "classifier.pool.": "out.",
    "classifier.head.1.": "out.2.c_proj.",
}
"""What our names of weights begin with, and theirs."""


def holds_network(state: Mapping[str, Tensor]) -> bool:
    """Whether these are weights of such a network."""
    return any(key.endswith(FIRST) for key in state)


def read_model(file: str | Path, state: Mapping[str, Tensor], given: Trained) -> tuple[Part, str, int]:
    """A model with the weights of a file, what it was found to be, and the size of its pictures.

    Args:
        file: its name says what it was trained with, if it is a published one.
        state: what it holds.
        given: what is known of it besides; it overrules what its name says.

    Raises:
        UserError: it holds anything else; or what it was trained with is not known.
    """
    file = Path(file)
    if any(key.startswith("first_stage_model.") for key in state):
        raise UserError(
            f"{file} is a model of latents in one file, which is not imported: expected its folder of "
            f"diffusers"
        )
    state, left = _own(state)
    how, name = trained_with(file, given)
    try:
        network = read_network(state, how.size)
        if name and (other := others(network | {"classes": _classes(state)}, NETWORKS.get(name))):
            how, name = trained_with(file, given, other=other)
        domains = _domains(state, how, file.stem)
        with without_values():
            part = _part(network, how, domains)
        left = [*_adapt(state, network, len(domains)), *left]
    except UserError as error:
        raise UserError(f"{file}: {error}") from None
    except (IndexError, KeyError, ValueError, RuntimeError):  # shapes of no convolution, or no block
        raise UserError(
            f"{file} is not a U-Net of guided-diffusion, though it holds {FIRST}: expected the weights of "
            f"its UNetModel, or of its EncoderUNetModel with attention pooling"
        ) from None
    ours = part.state_dict()
    names = {
        mine: theirs + mine.removeprefix(own)
        for mine in ours
        for own, theirs in OURS.items()
        if mine.startswith(own)
    }
    check_shapes(file, state, {names[mine]: value.shape for mine, value in ours.items()}, "its U-Net")
    full = {mine: state[theirs].float() for mine, theirs in names.items()}
    check_numbers({f"{file}: {names[mine]}": value for mine, value in full.items()})
    part.load_state_dict(full, assign=True)
    said = [
        f"a {'diffusion model' if network['decoder'] else 'classifier'} of {in_short(domains)}: a U-Net of "
        f"{', '.join(map(str, network['widths']))} channels",
        f"trained on {how.size} pixels", f"{how.schedule} schedule of {how.chain_steps} steps",
        *(["rescaled time steps"] if how.rescale_timesteps else []),
        count(how.heads, "head") if how.heads else f"heads of {how.head_channels} channels",
        f"{how.attention_order} attention order",
        *([f"{'all else ' if given.given() else ''}as published of {name}"] if name else []),
    ]  # fmt: skip
    return part.eval(), "; ".join([", ".join(said), *left]), how.size or 0


def _part(network: Mapping[str, Any], how: Trained, domains: tuple[str, ...]) -> Part:
    """The model of a network."""
    heads = {"heads": how.heads} if how.heads else {"heads": 0, "head_channels": how.head_channels}
    labels = len(domains) if network["decoder"] else 0
    net = ADM(**{**network, **heads, "labels": labels, "attention_order": how.attention_order})
    chain = CHAINS[how.schedule or "linear"](steps=how.chain_steps or 0)
    common: dict[str, Any] = {
        "net": Indexed(net=net, chain=chain, rescaled=bool(how.rescale_timesteps)),
        "process": chain, "domains": domains, "channels": net.channels,
    }  # fmt: skip
    if network["decoder"]:
        return find("diffusion")(**common, prediction="eps", times="uniform", any_domain=0.0)
    return find("domain_classifier")(**common)


def _domains(state: Mapping[str, Tensor], how: Trained, stem: str) -> tuple[str, ...]:
    """The classes' names or numbers; of a network without classes one name."""
    return class_names(how.domains, _classes(state), stem)


def _classes(state: Mapping[str, Tensor]) -> int:
    return next((len(state[k]) for k in ("label_emb.weight", "out.2.c_proj.weight") if k in state), 0)


def _adapt(state: dict[str, Tensor], network: Mapping[str, Any], domains: int) -> list[str]:
    """Makes the weights those of our model; tells what is left out.

    A network without classes has a label that changes nothing, for a training to go on with more domains.
    """
    if not network["decoder"]:
        state["out.2.c_proj.weight"] = state["out.2.c_proj.weight"].squeeze(2)  # of one place it is linear
        return []
    rows = state.get("label_emb.weight", torch.zeros(0, 4 * network["embedding"]))
    state["label_emb.weight"] = F.pad(rows, (0, 0, 0, domains + 1 - len(rows)))  # any domain is none of them
    n, left = network["channels"], []
    for key in ("out.2.weight", "out.2.bias"):
        if len(state[key]) == 2 * n:  # the noise, then its variance
            state[key], left = state[key][:n], ["its learned variance left out"]
    return left


def _own(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """The network's weights by their own names, and what is left out: averages win over weights."""
    found = [key.removesuffix(FIRST) for key in state if key.endswith(FIRST)]
    inside = next((p for p in found if "ema" in p), found[0])
    own = {key.removeprefix(inside): v for key, v in state.items() if key.startswith(inside)}
    own = {re.sub(r"^I2Iout\.", "out.", key): v for key, v in own.items()}  # EGSDE's extractors
    other = len(state) - len(own)
    return own, [f"{count(other, 'tensor')} beside {inside}* left out"] if other else []


def _stages(state: Mapping[str, Tensor], way: str) -> dict[int, set[str]]:
    """What its stages on one way hold, by their numbers."""
    found: dict[int, set[str]] = {}
    for key in state:
        if m := re.fullmatch(rf"{way}_blocks\.(\d{{1,4}})\.(.*)", key):
            found.setdefault(int(m[1]), set()).add(m[2])
    return found


def read_network(state: Mapping[str, Tensor], size: int | None = None) -> dict[str, Any]:
    """The fields of an ADM that the names and shapes of its weights tell: all but those of its heads.

    On the way up the last stage of a level has a layer that doubles the size: from its place the blocks of a
    level follow.  An encoder knows the side of its features, and so how often pictures of a size are halved.

    Raises:
        UserError: it is for pictures of other channels than 1 or 3.
        KeyError: they are of another network; or another error of what has not the shape that was expected.
    """
    down, up = _stages(state, "input"), _stages(state, "output")
    if not 2 <= len(down) <= MOST or (up and len(up) != len(down)):
        raise KeyError("input_blocks")
    if (channels := state[FIRST].shape[1]) not in (1, 3):
        raise UserError(f"it is for {channels} channels: expected 1 or 3, and no upsampler")
    doubling = re.compile(r"[12]\.(conv|in_layers\.0)\.weight")
    side = 0 if up else math.isqrt(state["out.2.positional_embedding"].shape[1] - 1)
    blocks = min((j for j, names in up.items() if any(map(doubling.fullmatch, names))), default=len(up) - 1)
    if not up:
        blocks = len(down) // ((size or side) // side).bit_length() - 1
    levels = [(blocks + 1) * i + 1 for i in range(len(down) // (blocks + 1))]
    middle = {k: state[f"middle_block.0.{k}"] for k in ("out_layers.0.weight", "emb_layers.1.weight")}
    return {
        "channels": channels,
        "labels": len(state["label_emb.weight"]) if "label_emb.weight" in state else 0,
        "widths": tuple(len(state[f"input_blocks.{i}.0.out_layers.0.weight"]) for i in levels),
        "blocks": blocks,
        "attention": tuple(n for n, i in enumerate(levels) if "1.qkv.weight" in down[i]),
        "embedding": state["time_embed.0.weight"].shape[1],
        "updown": not any("0.op.weight" in names for names in down.values()),
        "scale_shift": len(middle["emb_layers.1.weight"]) == 2 * len(middle["out_layers.0.weight"]),
        "decoder": bool(up),
        "pool": side,
    }  # fmt: skip
