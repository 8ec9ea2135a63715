"""Networks of diffusers with the weights of a folder: built without values, compared, and then filled."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from inspect import signature
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from sfumato.checkpoints.adapters import no_adapter
from sfumato.checkpoints.model_folder import LARGEST
from sfumato.checkpoints.tensors import read_tensors
from sfumato.checkpoints.torch_files import check_shapes, tensors_of
from sfumato.core.arguments import check_value
from sfumato.core.devices import without_values
from sfumato.core.errors import UserError, check_numbers
from sfumato.core.ranges import Whole
from sfumato.core.terminal import an
from sfumato.data.folders import parse_json, regular
from sfumato.module import at_most
from sfumato.nets.diffusers import UNet2D, library

WEIGHTS = "diffusion_pytorch_model"
ATTENTION = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
"""Names of 2022, and today's."""
DECIDED = "num_class_embeds", "num_embeds_ada_norm"
"""Arguments of constructors that the number of domains decides."""

DERIVED = ("block_out_channels",)
"""What a config says besides, and follows from the rest of it."""


def filled(
    make: Callable[[dict[str, Any]], Any], theirs: str, file: Path, config: Mapping[str, Any],
    weights: Path, state: Mapping[str, Tensor],
) -> tuple[Any, list[str]]:  # fmt: skip
    """What `make` makes of a config, its `model` with these weights, and what of the config is left out.

    It has no memory before all names and shapes are known to be its own.

    Args:
        make: of arguments of the constructor of diffusers' class.
        theirs: the name of that class.
        file: of the config, as errors name it.
        config: what it says.
        weights: the file of the weights, as errors name it.
        state: what is in it.

    Raises:
        UserError: they do not belong together, or are none of such a network.
    """
    takes = [*signature(getattr(library(), theirs).__init__).parameters][1:]
    other = [k for k, v in config.items() if k not in (*takes, *DERIVED) and k[:1] != "_" and v]
    takes = [name for name in takes if name not in DECIDED]
    kept = {k: v for k, v in config.items() if k in takes}
    try:
        with without_values(), at_most(len(state), str(file)):
            part = make(kept)
    except UserError:
        raise
    except Exception as error:  # whatever a constructor says to values of the wrong kind
        reason = str(error).partition("\n")[0]
        raise UserError(f"{file} does not describe {an(theirs)} ({reason})") from None
    shapes = {k: v.shape for k, v in part.model.state_dict().items()}
    check_shapes(weights, state, shapes, f"its {theirs}")
    full = {k: v.float() for k, v in state.items()}
    check_numbers({f"{weights}: {k}": v for k, v in full.items()})
    part.model.load_state_dict(full, assign=True)
    if any(value.is_meta for value in part.model.buffers()):  # what a constructor computes
        part = make(kept)
        part.model.load_state_dict(full, assign=True)
    part.config = {k: part.model.config[k] for k in takes}  # with what it leaves to defaults
    return part, [f"its {name} left out" for name in other]


def filled_unet(
    file: Path, config: Mapping[str, Any], weights: Path, state: Mapping[str, Tensor]
) -> tuple[UNet2D, list[str]]:
    """A UNet2DModel with these weights, and what is left out; see `filled`."""
    classes, rows = classes_of(config, "num_class_embeds", 0), "class_embedding.weight"
    if config.get("class_embed_type") is not None:
        raise UserError(f"{file}: classes by {config['class_embed_type']!r} are not read: expected a table")
    state = dict(state)
    if classes and rows in state:  # any domain is none of them
        state[rows] = F.pad(state[rows], (0, 0, 0, 1))
    elif not classes:  # a label that changes nothing, for a training to go on with more domains
        state.setdefault(rows, torch.zeros(2, len(state.get("time_embedding.linear_2.bias", ()))))
    make = lambda kept: UNet2D(config=kept, labels=classes or 1)
    net, left = filled(make, "UNet2DModel", file, config, weights, state)
    return net, [*left, *answers(file, net)]


def answers(file: Path, net: Any) -> list[str]:
    """What a network answers besides, which is left out.

    Raises:
        UserError: it answers with neither a picture, nor with one and its variance.
    """
    channels, outputs = net.channels, net.model.config.out_channels
    if outputs not in (None, channels, 2 * channels):
        raise UserError(f"{file} is of {channels} channels and answers with {outputs}: expected as many")
    return ["its learned variance left out"] if outputs == 2 * channels else []


def classes_of(config: Mapping[str, Any], name: str, default: int) -> int:
    """Number of classes that a config says.

    Raises:
        UserError: it is none.
    """
    classes = config.get(name) or default
    check_value(name, classes, Whole)
    return int(classes)


def config_of(folder: Path, name: str) -> tuple[Path, dict[str, Any]]:
    """A file of JSON, in a folder of its own or in this one, and what it says.

    Raises:
        UserError: it is missing, or not what diffusers writes.
    """
    places = folder / name, folder / Path(name).name
    if (file := next(filter(Path.is_file, places), None)) is None:
        raise UserError(f"{folder} is no whole folder of diffusers: it has no {name}")
    try:
        if file.stat().st_size > LARGEST:
            raise ValueError(f"it has more than {LARGEST:,} bytes")
        said = parse_json(regular(file).read_text(encoding="utf-8"))
        if not isinstance(said, dict):
            raise ValueError("it holds no names")
    except ValueError as error:
        raise UserError(f"{file} is damaged, or no config of diffusers ({error})") from None
    return file, said


def weights_of(folder: Path) -> tuple[Path, dict[str, Tensor]]:
    """The file of a folder's weights, and what is in it, by today's names; safetensors win.

    Raises:
        UserError: there is none, or it holds other things.
    """
    shards = sorted(folder.glob(f"{WEIGHTS}-?????-of-?????.safetensors"))
    ways = [[folder / f"{WEIGHTS}{end}"] for end in (".safetensors", ".bin", ".fp16.safetensors")]
    files = next((files for files in (ways[0], shards, *ways[1:]) if files and files[0].is_file()), None)
    if files is None:
        raise UserError(f"{folder} has no {WEIGHTS}.safetensors, nor .bin: copy its weights, too")
    state: dict[str, Tensor] = {}
    for file in files:
        state |= read_tensors(file) if file.suffix == ".safetensors" else tensors_of(file)
    no_adapter(folder, state)
    if "time_proj.W" in state:  # of 2022: the same once more
        state = {"time_proj.weight": state.pop("time_proj.W"), **state}
    old = rf"\.({'|'.join(ATTENTION)})\.(?=weight$|bias$)"
    return files[0], {re.sub(old, lambda m: f".{ATTENTION[m[1]]}.", k): v for k, v in state.items()}
