"""Generators trained elsewhere: the `.pth` files of the public CycleGAN, pix2pix and CUT repositories.

A file is read as tensors only (`weights_only=True`), and no network is allocated before all shapes in it
are known to be those of one.  What it is follows from its keys and shapes:

    model.model.0.weight, model.model.1.model. ...    a U-Net          pix2pix
    model.1.weight, blocks of model.10 on             strided ResNet   cyclegan
    model.1.weight, blocks of model.12 on             blurred ResNet   cut

with batch norm where a norm has running averages, instance norm where it has no weights, and else
instance norm with weights of its own ("affine").  Blocks may be called `block`, too.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sfumato.checkpoints.torch_files import COUNTER, check_shapes, tensors_of
from sfumato.core.devices import without_values
from sfumato.core.errors import UserError, check_numbers
from sfumato.core.terminal import an, count
from sfumato.methods.registry import find
from sfumato.module import Part, build, describe
from sfumato.nets.resnet_generator import ResNet
from sfumato.nets.unet_generator import UNetGenerator

Names = dict[str, str]
"""Our keys and theirs, in the order of the layers."""

LEFT_OUT = ("running_mean", "running_var", "num_batches_tracked", "filt")
"""What files may hold besides: statistics of instance norms that are not used, blurs that are constant."""

DEEPEST = 64
"""Blocks or levels that a generator may have; the papers' have 9."""


def read_generator(
    file: str | Path, back: str | Path | None = None, state: Mapping[str, Tensor] | None = None
) -> tuple[Part, str]:
    """A method that translates with the generator of a file, and what the file was found to hold.

    Args:
        file: latest_net_G.pth or the like.
        back: of a CycleGAN, the generator of the way back.
        state: what the file holds, if it was read.

    Raises:
        UserError: if a file holds anything but such a generator; it names the first difference.
    """
    net, said = _read(Path(file), tensors_of(file) if state is None else state)
    method = "pix2pix" if isinstance(net, UNetGenerator) else "cut" if net.antialias else "cyclegan"
    options: dict[str, Any] = {"net": net, "channels": net.channels, "norm": net.norm}
    if back is None and method == "cyclegan":
        options["directions"] = "source-to-target"
    part: Any = find(method)(**options)
    if back is not None:
        if method != "cyclegan":
            raise UserError(f"{file} is {an(method)} generator, which has no way back")
        other, other_said = _read(Path(back), tensors_of(back))
        if other_said != said:
            raise UserError(f"{file} is {an(said)}, {back} {an(other_said)}: they are not a pair")
        if all(map(torch.equal, net.state_dict().values(), other.state_dict().values())):
            raise UserError(f"{file} and {back} hold the same generator: expected one for each way")
        part.generators["source"].load_state_dict(other.state_dict())
    return part.eval(), f"{an(method)} generator, {an(said)}"


def _read(file: Path, state: Mapping[str, Tensor]) -> tuple[ResNet | UNetGenerator, str]:
    """The generator of a file, and a description of it."""
    state, names = {_named(key): value for key, value in state.items()}, Names()
    net: ResNet | UNetGenerator | None = None
    try:
        with without_values():
            if "model.model.0.weight" in state:
                names = dict(_unet_names(net := _unet(state)))
            elif "model.1.weight" in state:
                names = _resnet_names(net := _resnet(state), state)
    except (IndexError, KeyError, ValueError, RuntimeError):  # shapes of no convolution, or no block
        pass
    if net is None:
        raise UserError(
            f"{file} is not a generator of a ResNet (model.1.weight, model.10.conv_block. ...) or of a "
            f"U-Net (model.model.0.weight, ...): it begins with {next(iter(state), 'nothing')}"
        )
    if net.channels not in (1, 3):
        raise UserError(f"{file} is for pictures of {count(net.channels, 'channel')}: expected 1 or 3")
    ours = net.state_dict()
    old = [t for t in names.values() if t.endswith(COUNTER) and t not in state]
    state |= dict.fromkeys(old, torch.tensor(0))  # older files do not count batches
    expected = {theirs: ours[mine].shape for mine, theirs in names.items()}
    check_shapes(file, state, expected, an(_said(net)), LEFT_OUT)
    full = {mine: state[theirs].to(ours[mine].dtype) for mine, theirs in names.items()}
    check_numbers({f"{file}: {names[mine]}": value for mine, value in full.items()})
    net = build(describe(net))
    net.load_state_dict(full)
    return net, _said(net)


def _named(key: str) -> str:
    """The name of a tensor, as networks on one GPU and with today's blocks have it."""
    return re.sub(r"^(model\.\d+)\.block\.", r"\1.conv_block.", key.removeprefix("module."))


def _said(net: ResNet | UNetGenerator) -> str:
    if isinstance(net, ResNet):
        how = "blurred" if net.antialias else "strided"
        return f"ResNet-{net.n_blocks} of {net.ngf} channels, {net.norm} norm, {how} sampling"
    return f"U-Net of {net.downs} levels and {net.ngf} channels, {net.norm} norm"


def _norm(state: Mapping[str, Tensor], layer: str) -> str:
    if f"{layer}.weight" not in state:
        return "instance"
    return "batch" if f"{layer}.running_mean" in state else "affine"


def _resnet(state: Mapping[str, Tensor]) -> ResNet:
    blocks = {int(m[1]) for key in state if (m := re.match(r"model\.(\d+)\.conv_block\.", key))}
    ngf, channels = state["model.1.weight"].shape[:2]
    if not 0 < len(blocks) <= DEEPEST:
        raise KeyError("conv_block")
    return ResNet(
        channels=channels, ngf=ngf, n_blocks=len(blocks), antialias=min(blocks) >= 12,
        norm=_norm(state, "model.2"),
    )  # fmt: skip


def _resnet_names(net: ResNet, state: Mapping[str, Tensor]) -> Names:
    """Ours are theirs, but for blocks with dropout, which counts as a layer in them."""
    first = 12 if net.antialias else 10
    dropped = f"model.{first}.conv_block.6.weight" in state and (
        state[f"model.{first}.conv_block.6.weight"].ndim == 4
    )
    later = {"5": "6", "6": "7"} if dropped else {}
    return {
        key: re.sub(r"(conv_block)\.([56])\.", lambda m: f"{m[1]}.{later.get(m[2], m[2])}.", key)
        for key in net.state_dict()
    }


def _unet(state: Mapping[str, Tensor]) -> UNetGenerator:
    ngf, channels = state["model.model.0.weight"].shape[:2]
    depth = 0
    while depth <= DEEPEST and any(key.startswith(_level(depth)) for key in state):
        depth += 1
    if depth > DEEPEST:
        raise KeyError(depth)
    return UNetGenerator(
        channels=channels, ngf=ngf, downs=depth, dropouts=max(0, depth - 5),
        norm=_norm(state, f"{_level(depth - 1)}4"),
    )  # fmt: skip


def _level(k: int) -> str:
    """What their keys of level k begin with: each level holds the next one."""
    return "model.model." + "1.model." * (k > 0) + "3.model." * (k - 1)


def _unet_names(net: UNetGenerator) -> Iterator[tuple[str, str]]:
    last = net.downs - 1
    for key in net.state_dict():
        way, number, kind, leaf = key.split(".")
        k = int(number) if way == "down" else last - int(number)
        places = {"conv": 1, "norm": 2} if way == "down" else {"conv": 5, "norm": 6}
        if k == last and way == "up":
            places = {"conv": 3, "norm": 4}
        elif k == 0:
            places = {"conv": 0} if way == "down" else {"conv": 3}
        yield key, f"{_level(k)}{places[kind]}.{leaf}"
