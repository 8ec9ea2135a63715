"""What the adversarial methods have in common: networks by size, losses, health.

The losses of a discriminator's scores D against "real" (1) and "fake" (0) are

    vanilla   -log sigmoid(D)  or  -log(1 - sigmoid(D))     (https://arxiv.org/abs/1406.2661)
    lsgan     (D - 1)^2        or  D^2                      (https://arxiv.org/abs/1611.04076)

The generator's loss asks for "real" where the picture is fake.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sfumato.core.errors import choose
from sfumato.core.terminal import count
from sfumato.diffusion.watch import Watch
from sfumato.nets.layers import Init, Norm, initialise
from sfumato.nets.patch_discriminator import PatchGAN, layers_for, patch_size
from sfumato.nets.resnet_generator import ResNet
from sfumato.nets.unet_generator import UNetGenerator

GANMode = Literal["vanilla", "lsgan"]

SIZES: dict[str, dict[str, int]] = {
    "tiny": {
        "ngf": 8, "n_blocks": 5, "halvings": 2,
        "unet": 8, "downs": 3, "stem": 0,
        "ndf": 8, "n_layers": 1,
    },
    "small": {
        "ngf": 16, "n_blocks": 6, "halvings": 1,
        "unet": 32, "downs": 6, "stem": 16,
        "ndf": 32, "n_layers": 3,
    },
    "medium": {
        "ngf": 32, "n_blocks": 9, "halvings": 2,
        "unet": 48, "downs": 7, "stem": 0,
        "ndf": 48, "n_layers": 3,
    },
    "paper": {
        "ngf": 64, "n_blocks": 9, "halvings": 2,
        "unet": 64, "downs": 8, "stem": 0,
        "ndf": 64, "n_layers": 3,
    },
}  # fmt: skip
"""A row each for the ResNet, the U-Net and the discriminator: first channels, then how deep.

tiny: for tests; small: for pictures of 32 to 64 pixels on a CPU, with detail kept at full and half size;
paper: the published networks.
"""

SETTINGS: dict[str, Any] = {
    "batch": 16, "lr": 2e-4, "schedule": "linear", "hold": 0.5, "warmup": 0, "optimiser": "adam",
    "beta1": 0.5, "clip": 0.0, "ema": 0.0,
}  # fmt: skip
"""The papers' training, but for their batch of 1: Adam, a constant rate, then one that falls to 0."""


def make_resnet(
    net: str | nn.Module, channels: int, norm: Norm, antialias: bool, init: Init, gain: float,
    bounded: bool = True,
) -> nn.Module:  # fmt: skip
    """A residual generator by the name of its size; a network is returned as it is."""
    if isinstance(net, nn.Module):
        return net
    size = SIZES[choose("net", net, SIZES)]
    made = ResNet(
        channels=channels, ngf=size["ngf"], n_blocks=size["n_blocks"], downs=size["halvings"],
        norm=norm, antialias=antialias, bounded=bounded,
    )  # fmt: skip
    return initialise(made, init, gain)


def make_unet(
    net: str | nn.Module, channels: int, side: int, norm: Norm, init: Init, gain: float,
    to_channels: int = 0, bounded: bool = True,
) -> nn.Module:  # fmt: skip
    """A U-Net generator by the name of its size, with no more levels than halve `side`.

    As in the published code, the levels below the fourth have dropout, the lowest excepted: three of
    eight, none of five, which is what pictures of 32 pixels have.
    """
    if isinstance(net, nn.Module):
        return net
    size = SIZES[choose("net", net, SIZES)]
    downs = max([d for d in range(1, size["downs"] + 1) if side % 2**d == 0], default=0)
    made = UNetGenerator(
        channels=channels, ngf=size["unet"], downs=downs, norm=norm, dropouts=max(0, downs - 5),
        stem=size["stem"], to_channels=to_channels, bounded=bounded,
    )  # fmt: skip
    return initialise(made, init, gain)


def make_critic(
    net: str | nn.Module, channels: int, side: int, n_layers: int, norm: Norm, antialias: bool,
    init: Init, gain: float,
) -> PatchGAN:  # fmt: skip
    """A PatchGAN whose patches are no larger than the images."""
    size = SIZES["paper" if isinstance(net, nn.Module) else choose("net", net, SIZES)]
    made = PatchGAN(
        channels=channels, ndf=size["ndf"], n_layers=layers_for(side, min(n_layers, size["n_layers"])),
        norm=norm, antialias=antialias,
    )  # fmt: skip
    initialise(made, init, gain)
    return made


def notes(critic: PatchGAN, n_layers: int, side: int) -> list[str]:
    """What is to be said of a discriminator that is shallower than asked for."""
    if critic.n_layers == n_layers:
        return []
    return [
        f"the discriminator has {count(critic.n_layers, 'layer')}, not {n_layers}: for images of {side} "
        f"pixels it judges patches of {patch_size(critic.n_layers)}, not {patch_size(n_layers)}"
    ]


def gan_loss(scores: Tensor, real: bool, mode: GANMode) -> Tensor:
    """How far a discriminator's scores are from saying "real", or "fake"; a mean."""
    if mode == "lsgan":
        return (scores - float(real)).square().mean()
    choose("gan_mode", mode, ("vanilla", "lsgan"))
    return F.softplus(-scores if real else scores).mean()


def critic_loss(real: Tensor, fake: Tensor, mode: GANMode) -> Tensor:
    """The discriminator's loss for its scores of real and of generated pictures."""
    return (gan_loss(real, True, mode) + gan_loss(fake, False, mode)) / 2


def health(real: Tensor, fake: Tensor, mode: GANMode, which: str = "") -> dict[str, float]:
    """Mean scores of real and generated pictures as shares: 1 is "real", 0 "fake"; 0.5 a draw."""
    share = torch.sigmoid if mode == "vanilla" else torch.clone
    return {f"real score{which}": share(real).mean().item(), f"fake score{which}": share(fake).mean().item()}


def saturated(measured: Mapping[str, float]) -> str | None:
    """What to say if a discriminator is never wrong, for then the generator learns little."""
    for name, real in measured.items():
        fake = measured.get(name.replace("real", "fake", 1), 1.0)
        if name.startswith("real score") and real > 0.95 and fake < 0.05:
            return (
                f"the discriminator is saturated ({name} {real:.2f}, fake {fake:.2f}), the generator "
                f"learns little: try --jitter 0.12, --flip, more pictures, or --n-layers-d 1"
            )
    return None


def one_pass(net: Callable[[Tensor], Tensor], source: Tensor, watch: Watch | None) -> Tensor:
    """net(source), as one network evaluation that ends at the clean image."""
    y = net(source)
    if watch is not None:
        watch(0.0, y.clone(), y.clone(), {"nfe": 1})
    return y
