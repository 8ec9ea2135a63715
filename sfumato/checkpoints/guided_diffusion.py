"""Denoisers of the public improved- and guided-diffusion code, and of what was made with it: `.pt` files.

The network follows from the names and shapes of its weights (`read_network`).  Neither its attention heads
and the order of queries, keys and values, nor the noise schedule, nor the size of the pictures do, and a
wrong one gives pictures that look almost right.  `KNOWN` has them by the published files' names; of other
files they are asked for.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from sfumato.checkpoints.torch_files import check_shapes
from sfumato.core.devices import without_values
from sfumato.core.errors import UserError, check_numbers
from sfumato.core.ranges import AttentionOrder, Count, Schedule, TrainingSide
from sfumato.core.terminal import count
from sfumato.diffusion.domains import distinct
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


@dataclass(frozen=True)
class Trained:
    """What a network was trained with and its weights do not tell; None is what is not known.

    Args:
        size: side in pixels of the pictures that it was trained on.
        schedule: of the betas: linear or cosine.
        chain_steps: number T of betas.
        attention_order: of queries, keys and values: new (`use_new_attention_order`) or old.
        heads: number of attention heads; or:
        head_channels: channels of each.
        rescale_timesteps: it was told the number of a step times 1000/T; asked for where T is not 1000.
        domains: names of its classes, in their order; by default their numbers.  One for a network
            without classes, by default the file's name.
    """

    size: TrainingSide | None = None
    schedule: Schedule | None = None
    chain_steps: Count | None = None
    attention_order: AttentionOrder | None = None
    heads: Count | None = None
    head_channels: Count | None = None
    rescale_timesteps: bool | None = None
    domains: tuple[str, ...] = ()

    def given(self) -> dict[str, Any]:
        """What is known."""
        return {f.name: v for f in fields(self) if (v := getattr(self, f.name)) not in (None, ())}

    def missing(self) -> list[str]:
        """Flags of what is not known."""
        asked = "size", "schedule", "chain_steps", "attention_order"
        flags = {"schedule": "linear|cosine", "attention_order": "new|old"}
        wanted = [(n, flags.get(n, "N")) for n in asked if getattr(self, n) is None]
        words = [f"--{name.replace('_', '-')} {value}" for name, value in wanted]
        if self.heads is None and self.head_channels is None:
            words.append("--head-channels N (or --heads N)")
        if self.chain_steps not in (None, 1000) and self.rescale_timesteps is None:
            words.append("--rescale-timesteps (or --no-rescale-timesteps)")
        return words


BIG = Trained(256, "linear", 1000, "old", head_channels=64)
IMPROVED = Trained(64, "cosine", 4000, "old", heads=4, rescale_timesteps=True)
KNOWN = {
    "afhq_dog_4m": replace(BIG, domains=("dog",)),
    "ffhq_10m": replace(BIG, domains=("face",)),
    "lsun_bedroom": replace(BIG, domains=("bedroom",)),
    "lsun_cat": replace(BIG, domains=("cat",)),
    "lsun_horse": replace(BIG, domains=("horse",)),
    "64x64_diffusion": replace(BIG, size=64, schedule="cosine", attention_order="new"),
    "128x128_diffusion": replace(BIG, size=128, heads=4, head_channels=None),
    "256x256_diffusion": BIG,
    "256x256_diffusion_uncond": replace(BIG, domains=("imagenet",)),
    "512x512_diffusion": replace(BIG, size=512),
    "cifar10_uncond": replace(IMPROVED, size=32, domains=("cifar10",)),
    "imagenet64_uncond": replace(IMPROVED, domains=("imagenet",)),
    "imagenet64_cond_270m": replace(IMPROVED, rescale_timesteps=False),
    "lsun_uncond_100m": replace(BIG, heads=1, head_channels=None, domains=("bedroom",)),
}
"""The published files by the beginning of their names."""


def holds_denoiser(state: Mapping[str, Tensor]) -> bool:
    """Whether these are weights of such a network."""
    return any(key.endswith(FIRST) for key in state)


def read_denoiser(file: str | Path, state: Mapping[str, Tensor], given: Trained) -> tuple[Part, str, int]:
    """A diffusion model with the weights of a file, what it was found to be, and the size of its pictures.

    Args:
        file: its name says what it was trained with, if it is a published one.
        state: what it holds.
        given: what is known of it besides; it overrules what its name says.

    Raises:
        UserError: it holds anything else; or what it was trained with is not known.
    """
    file = Path(file)
    state, left = _own(state)
    how, name = _trained(file, given)
    if missing := how.missing():
        raise UserError(
            f"{file} is a denoiser that does not tell what it was trained with, and by its name none of "
            f"{', '.join(KNOWN)}: add {' '.join(missing)}"
        )
    heads = {"heads": how.heads} if how.heads else {"heads": 0, "head_channels": how.head_channels}
    net, classes, extra = _network(file, state, heads | {"attention_order": how.attention_order})
    domains = distinct(how.domains or (tuple(map(str, range(classes))) if classes else (file.stem,)))
    if len(domains) != net.labels:
        raise UserError(
            f"{file} has {classes or 'no'} classes: expected {count(net.labels, 'domain')}, not "
            f"{len(domains)} ({_short(domains)})"
        )
    chain = CHAINS[how.schedule or "linear"](steps=how.chain_steps or 0)
    indexed = Indexed(net=net, chain=chain, rescaled=bool(how.rescale_timesteps))
    part = find("diffusion")(
        domains=domains, net=indexed, process=chain, prediction="eps", times="uniform",
        channels=net.channels, any_domain=0.0,
    )  # fmt: skip
    said = [
        f"a diffusion model of {_short(domains)}: a U-Net of {', '.join(map(str, net.widths))} channels",
        f"trained on {how.size} pixels", f"{how.schedule} schedule of {how.chain_steps} steps",
        *(["rescaled time steps"] if how.rescale_timesteps else []),
        count(how.heads, "head") if how.heads else f"heads of {how.head_channels} channels",
        f"{how.attention_order} attention order",
    ]  # fmt: skip
    known = f", all else as published of {name}" if given.given() else f", as published of {name}"
    known = known if name else ""
    return part.eval(), ", ".join(said) + known + "".join(f"; {one}" for one in extra + left), how.size or 0


def _own(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """The network's weights by their own names, and what is left out: averages win over weights."""
    found = [key.removesuffix(FIRST) for key in state if key.endswith(FIRST)]
    inside = next((p for p in found if "ema" in p), found[0])
    own = {key.removeprefix(inside): v for key, v in state.items() if key.startswith(inside)}
    other = len(state) - len(own)
    return own, [f"{count(other, 'tensor')} beside {inside}* left out"] if other else []


def _trained(file: Path, given: Trained) -> tuple[Trained, str | None]:
    """What the file was trained with, by its name and by what is given, and the name."""
    name = max((n for n in KNOWN if file.name.lower().startswith(n)), key=len, default=None)
    known = KNOWN[name] if name else Trained()
    if given.heads and given.head_channels:
        raise UserError("--heads and --head-channels say the same: give one of them")
    if given.heads or given.head_channels:
        known = replace(known, heads=None, head_channels=None)
    return replace(known, **given.given()), name


def _network(file: Path, state: dict[str, Tensor], heads: Mapping[str, Any]) -> tuple[ADM, int, list[str]]:
    """The network with the file's weights, its classes, and what of them is left out.

    One without classes has a label of its domain that changes nothing, for a training to go on with more.
    """
    try:
        said = read_network(state)
        classes = said["labels"]
        with without_values():
            net = ADM(**said | {"labels": classes or 1}, **heads)
    except UserError as error:
        raise UserError(f"{file}: {error}") from None
    except (IndexError, KeyError, ValueError, RuntimeError):  # shapes of no convolution, or no block
        raise UserError(
            f"{file} is not a U-Net of guided-diffusion, though it holds {FIRST}: expected the weights of "
            f"its UNetModel"
        ) from None
    expected = {key: tuple(value.shape) for key, value in net.state_dict().items()}
    rows, width = expected.pop("label_emb.weight")
    if classes:
        expected["label_emb.weight"] = classes, width
    n, left = net.channels, []
    for key in ("out.2.weight", "out.2.bias"):
        if key in state and len(state[key]) == 2 * n:  # the noise, then its variance
            state[key], left = state[key][:n], ["its learned variance left out"]
    check_shapes(file, state, expected, "its U-Net")
    full = {key: value.float() for key, value in state.items()}
    check_numbers({f"{file}: {key}": value for key, value in full.items()})
    known = full.get("label_emb.weight", torch.zeros(0, width))
    full["label_emb.weight"] = F.pad(known, (0, 0, 0, rows - classes))  # any domain is none of them
    net.load_state_dict(full, assign=True)
    return net, classes, left


def _short(domains: tuple[str, ...]) -> str:
    return ", ".join(domains) if len(domains) < 6 else f"{domains[0]}, {domains[1]}, .. {domains[-1]}"


def _stages(state: Mapping[str, Tensor], way: str) -> dict[int, set[str]]:
    """What its stages on one way hold, by their numbers."""
    found: dict[int, set[str]] = {}
    for key in state:
        if m := re.fullmatch(rf"{way}_blocks\.(\d{{1,4}})\.(.*)", key):
            found.setdefault(int(m[1]), set()).add(m[2])
    return found


def read_network(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """The fields of an ADM that the names and shapes of its weights tell: all but those of its heads.

    On the way up the last stage of a level has a layer that doubles the size: the blocks of a level follow
    from its place, and whether it is a convolution or a residual block.

    Raises:
        KeyError: they are of another network; or another error of what has not the shape that was expected.
    """
    down, up = _stages(state, "input"), _stages(state, "output")
    if not 2 <= len(down) <= MOST or len(up) != len(down):
        raise KeyError("input_blocks")
    doubling = re.compile(r"[12]\.(conv|in_layers\.0)\.weight")
    enlarging = {j: kind for j, names in up.items() for n in names if (kind := doubling.fullmatch(n))}
    blocks = min(enlarging, default=len(up) - 1)
    levels = [(blocks + 1) * i + 1 for i in range(len(down) // (blocks + 1))]
    middle = {k: state[f"middle_block.0.{k}"] for k in ("out_layers.0.weight", "emb_layers.1.weight")}
    labels = state.get("label_emb.weight")
    return {
        "channels": state[FIRST].shape[1],
        "labels": 0 if labels is None else len(labels),
        "widths": tuple(len(state[f"input_blocks.{i}.0.out_layers.0.weight"]) for i in levels),
        "blocks": blocks,
        "attention": tuple(n for n, i in enumerate(levels) if "1.qkv.weight" in down[i]),
        "embedding": state["time_embed.0.weight"].shape[1],
        "updown": not any(kind[1] == "conv" for kind in enlarging.values()),
        "scale_shift": len(middle["emb_layers.1.weight"]) == 2 * len(middle["out_layers.0.weight"]),
    }  # fmt: skip
