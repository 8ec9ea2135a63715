"""Networks of EDM (Karras et al. 2022): `.pkl` files, which hold objects and their source code.

They are read without running anything, see `sfumato.checkpoints.pickles`.  A network follows from what it
was made with, which a file records.  Their DhariwalUNet is the `ADM` under other names, its rows of
queries, keys and values in a third order.

    EDMPrecond      VE from 0.002 to 80        predicts edm
    VPPrecond       VP                         eps
    VEPrecond       VE from 0.02 to 100        eps
    iDDPMPrecond    IDDPM                      eps
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sfumato.checkpoints.known_files import Trained, class_names, in_short
from sfumato.checkpoints.pickles import Recorded, read_pickle, tensor_of
from sfumato.checkpoints.torch_files import check_shapes, check_tensors
from sfumato.core.arguments import check_value
from sfumato.core.devices import without_values
from sfumato.core.errors import UserError, check_numbers
from sfumato.core.ranges import TrainingSide
from sfumato.diffusion.process import IDDPM, VE, VP, Process
from sfumato.methods.registry import find
from sfumato.module import Part
from sfumato.nets.adm import ADM, Attention, Residual
from sfumato.nets.indexed import Indexed
from sfumato.nets.preconditioned import Preconditioned
from sfumato.nets.song_unet import SongUNet

OBJECT = "torch_utils.persistence._reconstruct_persistent_obj"
LICENCE = "CC BY-NC-SA 4.0 if NVIDIA published it: not for commercial use"

TAPS = (1, 1), (1, 3, 3, 1)
"""Filters by which its networks halve and double."""

MOST = 16
"""Levels, and blocks a level, that a network may have; published ones have 4 and 4."""

RESIDUAL = {
    "in_layers.0": "norm0", "in_layers.2": "conv0", "emb_layers.1": "affine", "out_layers.0": "norm1",
    "out_layers.3": "conv1", "skip_connection": "skip",
}  # fmt: skip
"""Layers of an ADM's blocks, and what theirs are called."""

ATTENTION = {"norm": "norm2", "qkv": "qkv", "proj_out": "proj"}


def read_edm(file: str | Path, given: Trained) -> tuple[Part, str, int]:
    """A model with the weights of a file, what it was found to be, and the size of its pictures.

    Args:
        file: a pickle of EDM's.
        given: names of its classes; all else it records.

    Raises:
        UserError: it holds anything else, or is given more.
    """
    file = Path(file)
    if other := sorted(given.given().keys() - {"domains"}):
        raise UserError(f"{file} records what it was trained with: leave out --{other[0].replace('_', '-')}")
    loaded = read_pickle(file)
    try:
        outer, how = _object(loaded["ema"])
        inner, made_with = _object(how["_modules"]["model"])
        config = made_with["_init_kwargs"]
        size, classes = int(config["img_resolution"]), int(config.get("label_dim") or 0)
        check_value("its img_resolution", size, TrainingSide)
        state = dict(_tensors(how["_modules"]["model"], "", {}, set()))
        check_tensors(file, state)
        domains = class_names(given.domains, classes, _pictures(file.stem))
        with without_values():
            net, names = NETWORKS[inner](config, len(domains))
            part = _part(outer, how, net, domains, float(config.get("label_dropout", 0)))
        left = _adapt(state, net, classes, tuple(config.get("resample_filter", TAPS[0])))
    except UserError as error:
        raise UserError(f"{file}: {str(error).removeprefix(f'{file}: ')}") from None
    except Exception:  # whatever is not as it is recorded
        raise UserError(
            f"{file} holds no network of EDM: expected its 'ema', a SongUNet or DhariwalUNet with what it "
            f"was made with, as edm-afhqv2-64x64-uncond-vp.pkl has"
        ) from None
    ours = net.state_dict()
    check_shapes(file, state, {names[mine]: value.shape for mine, value in ours.items()}, f"its {inner}")
    full = {mine: state[names[mine]].float() for mine in ours}
    check_numbers({f"{file}: {names[mine]}": value for mine, value in full.items()})
    net.load_state_dict(full, assign=True)
    said = [
        f"a diffusion model of {in_short(domains)}: EDM's {inner} of {', '.join(map(str, net.widths))} "
        f"channels, preconditioned by {outer}, trained on {size} pixels",
        *left,
        f"its licence is {LICENCE}",
    ]
    return part.eval(), "; ".join(said), size


def _object(value: Any) -> tuple[str, Mapping[str, Any]]:
    """Class and state of an object of EDM's, or of torch's."""
    meta = value.args[0] if value.made_by == OBJECT else {"class_name": value.made_by, "state": value.state}
    return meta["class_name"], meta["state"]


def _tensors(
    module: Any, prefix: str, storages: dict[int, Any], seen: set[int]
) -> Iterator[tuple[str, Tensor]]:
    """The parameters and buffers of a module, by their names; no module is twice in a network."""
    if id(module) in seen or len(prefix) > 999:
        raise ValueError(f"{prefix} is there twice")
    seen.add(id(module))
    state = _object(module)[1]
    for kind in ("_parameters", "_buffers"):
        for name, value in state.get(kind, {}).items():
            if value is not None:
                yield f"{prefix}{name}", tensor_of(value, storages)
    for name, value in state.get("_modules", {}).items():
        if isinstance(value, Recorded):
            yield from _tensors(value, f"{prefix}{name}.", storages, seen)


def _pictures(stem: str) -> str:
    """What a published file is of: edm-ffhq-64x64-uncond-vp of ffhq."""
    found = re.fullmatch(r"(?:edm|baseline)-([a-z0-9]+)-\d+x\d+-.*", stem)
    return found[1] if found else stem


def _stages(config: Mapping[str, Any], levels: int, blocks: int, residual: bool) -> Iterator[str]:
    """Their names of blocks, in the order of a network's way down and up."""
    if not (0 < levels <= MOST and 0 < blocks <= MOST):
        raise UserError(f"it has {levels} levels of {blocks} blocks: expected up to {MOST}")
    at = [f"{config['img_resolution'] >> level}" for level in range(levels)]
    for level, side in enumerate(f"enc.{n}x{n}" for n in at):
        yield f"{side}_down" if level else f"{side}_conv"
        yield from [f"{side}_aux_residual"] if level and residual else []
        yield from (f"{side}_block{i}" for i in range(blocks))
    for level, side in reversed(list(enumerate(f"dec.{n}x{n}" for n in at))):
        yield from [f"{side}_up"] if level < levels - 1 else [f"{side}_in0", f"{side}_in1"]
        yield from (f"{side}_block{i}" for i in range(blocks + 1))


def _levels(config: Mapping[str, Any], multiples: list[int], resolutions: list[int]) -> dict[str, Any]:
    """What both networks record: widths, and the levels with attention."""
    multiples = list(config.get("channel_mult", multiples))
    sides = [config["img_resolution"] >> level for level in range(len(multiples[: MOST + 1]))]
    wanted = config.get("attn_resolutions", resolutions)
    return {
        "channels": config["in_channels"],
        "widths": tuple(config.get("model_channels", 128) * m for m in multiples),
        "attention": tuple(n for n, side in enumerate(sides) if side in wanted),
        "dropout": float(config.get("dropout", 0.1)),
    }


def _song(config: Mapping[str, Any], labels: int) -> tuple[SongUNet, dict[str, str]]:
    """The network, and their names of its tensors."""
    ways = {"encoder_type": ("standard", "residual"), "decoder_type": ("standard",)}
    for name, known in {**ways, "embedding_type": ("positional", "fourier")}.items():
        if (kind := config.get(name, known[0])) not in known:
            raise UserError(f"its {name} is {kind!r}: expected {' or '.join(known)}")
    taps = tuple(config.get("resample_filter", TAPS[0]))
    if taps not in TAPS:
        raise UserError(f"its resample_filter is {list(taps)}: expected [1, 1] or [1, 3, 3, 1]")
    width, blocks = config.get("model_channels", 128), config.get("num_blocks", 4)
    residual, levels = config.get("encoder_type") == "residual", _levels(config, [1, 2, 2, 2], [16])
    stages = list(_stages(config, len(levels["widths"]), blocks, residual))
    net = SongUNet(
        **levels, labels=labels, first=width, blocks=blocks, taps=taps, residual=residual,
        embedding=width * config.get("channel_mult_noise", 1),
        hidden=width * config.get("channel_mult_emb", 4),
        fourier=config.get("embedding_type") == "fourier",
    )  # fmt: skip
    side = config["img_resolution"]
    down = len(net.enc)
    layers = {f"enc.{i}": name for i, name in enumerate(stages[:down])}
    layers |= {f"dec.{i}": name for i, name in enumerate(stages[down:])}
    layers |= {"out.0": f"dec.{side}x{side}_aux_norm", "out.2": f"dec.{side}x{side}_aux_conv"}
    return net, _named(net, layers) | ({"frequencies": "map_noise.freqs"} if net.fourier else {})


def _dhariwal(config: Mapping[str, Any], labels: int) -> tuple[ADM, dict[str, str]]:
    """The network, and their names of its tensors."""
    config = {"model_channels": 192, **config}
    levels, blocks = _levels(config, [1, 2, 3, 4], [32, 16, 8]), config.get("num_blocks", 3)
    if config.get("channel_mult_emb", 4) != 4 or min(levels["widths"]) < 128:
        raise UserError(
            "expected a DhariwalUNet of 128 channels or more, and an embedding of 4 times as many"
        )
    stages = _stages(config, len(levels["widths"]), blocks, False)
    net = ADM(**levels, labels=labels, blocks=blocks, embedding=config["model_channels"], heads=0)
    layers = {
        "time_embed.0": "map_layer0", "time_embed.2": "map_layer1", "label_emb": "map_label",
        "out.0": "out_norm", "out.2": "out_conv", "input_blocks.0.0": (stage := next(stages)),
    }  # fmt: skip
    for at, layer in net.named_modules():  # in their order
        if isinstance(layer, Residual):
            stage = next(stages)
            layers |= {f"{at}.{mine}": f"{stage}.{theirs}" for mine, theirs in RESIDUAL.items()}
        elif isinstance(layer, Attention):
            layers |= {f"{at}.{mine}": f"{stage}.{theirs}" for mine, theirs in ATTENTION.items()}
    return net, _named(net, layers)


Network = SongUNet | ADM
NETWORKS: Mapping[str, Callable[[Mapping[str, Any], int], tuple[Network, dict[str, str]]]] = {
    "SongUNet": _song, "DhariwalUNet": _dhariwal,
}  # fmt: skip


def _named(net: nn.Module, layers: Mapping[str, str]) -> dict[str, str]:
    """Their names of a network's tensors, by those of its layers; a name is the same if its layer's is."""
    names = {key: key for key in net.state_dict()}
    for mine, theirs in layers.items():
        names |= {k: theirs + k.removeprefix(mine) for k in names if k.startswith(f"{mine}.")}
    return names


def _adapt(state: dict[str, Tensor], net: Network, classes: int, taps: tuple[int, ...]) -> list[str]:
    """Makes the weights those of our network, under their names; tells what is left out.

    A network without classes has a label that changes nothing, for a training to go on with more domains.
    """
    left, song, n = [], isinstance(net, SongUNet), net.channels
    k = torch.tensor(taps, dtype=torch.float32) / sum(taps)
    for key in [key for key in state if key.endswith(".resample_filter")]:
        found = state.pop(key).float().squeeze()
        if found.shape != (len(k), len(k)) or not torch.allclose(found, torch.outer(k, k)):
            raise UserError(f"{key} is not that of {list(taps)}, as its resample_filter says")
    if state.pop("map_augment.weight", None) is not None:
        left.append("labels of its augmentation left out")
    wide = net.embedding if isinstance(net, SongUNet) else 4 * net.embedding
    bias = state.pop("map_label.bias", torch.zeros(wide))
    rows = state["map_label.weight"].T.float() if classes else torch.zeros(1, wide)
    rows = rows * math.sqrt(classes) if song else rows
    state["map_label.weight"] = F.pad(rows, (0, 0, 0, 1)) + bias  # any domain is none of them
    for key in [key for key in state if re.search(r"\.(qkv|proj)\.", key)]:
        value = state[key]
        if ".qkv." in key:  # theirs has the three in the rows of each channel
            heads = 1 if song else len(value) // 3 // net.head_channels
            value = value.reshape(heads, -1, 3, *value.shape[1:]).transpose(1, 2).reshape(value.shape)
        state[key] = value if song or value.ndim == 1 else value.squeeze(3)
    for key in ("out_conv.weight", "out_conv.bias"):
        if not song and len(state[key]) == 2 * n:  # the noise, then its variance
            state[key] = state[key][:n]
            left = [*left[:1], "its learned variance left out"]
    return left


def _part(outer: str, how: Mapping[str, Any], net: Network, domains: tuple[str, ...], hidden: float) -> Part:
    """The model of a network, preconditioned as the class `outer` does it with these attributes."""
    told: Part
    process: Process = VE(sigma_min=0.002, sigma_max=80.0)
    if outer == "iDDPMPrecond":
        process = chain = IDDPM(steps=int(how.get("M", 1000)))
        told = Indexed(net=net, chain=chain)
    elif outer == "VPPrecond":
        beta_min, slope = float(how.get("beta_min", 0.1)), float(how.get("beta_d", 19.9))
        process = vp = VP(beta_min=beta_min, beta_max=beta_min + slope)
        told = Preconditioned(net=net, kind="vp", process=vp, steps=int(how.get("M", 1000)))
    elif outer == "VEPrecond":
        process, told = VE(sigma_min=0.02, sigma_max=100.0), Preconditioned(net=net, kind="ve")
    elif outer == "EDMPrecond":
        if float(how.get("sigma_data", 0.5)) != 0.5:
            raise UserError(f"it is for data of deviation {how['sigma_data']}: expected 0.5")
        told = Preconditioned(net=net, kind="edm")
    else:
        raise ValueError(outer)
    prediction = "edm" if outer == "EDMPrecond" else "eps"
    return find("diffusion")(
        net=told, process=process, prediction=prediction, domains=domains, channels=net.channels,
        any_domain=hidden,
    )  # fmt: skip
