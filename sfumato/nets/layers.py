"""What the adversarial networks are made of: norms that say what is wrong, blur-pool, initialisation."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sfumato.core.errors import UserError, choose

Norm = Literal["instance", "batch", "affine"]
Init = Literal["normal", "xavier"]


class BatchNorm(nn.BatchNorm2d):
    """Batch norm; in evaluation by the running averages, or by each image's own if `own` is set."""

    own = False

    def forward(self, x: Tensor) -> Tensor:
        if self.training and x.shape[0] * x.shape[2] * x.shape[3] == 1:
            raise UserError(
                "batch norm has nothing to average over a batch of one at 1x1 features: use "
                "--batch 2 or more, --norm instance, or a larger --size"
            )
        if self.own and not self.training:  # what batch norm is for a batch of one
            return F.instance_norm(x, weight=self.weight, bias=self.bias, eps=self.eps)
        return super().forward(x)


@contextmanager
def batch_norms(net: nn.Module, **how: Any) -> Iterator[None]:
    """Inside, the network's batch norms have these attributes: `own`, or `momentum`.

    With momentum 0 they average over the batch as in training, and leave their running averages as they are:
    those are for translation, which sees sources alone: no results, and no pictures of the target.
    """
    norms = [m for m in net.modules() if isinstance(m, BatchNorm)]
    before = [{k: getattr(m, k) for k in how} for m in norms]
    try:
        for m in norms:
            vars(m).update(how)
        yield
    finally:
        for m, values in zip(norms, before, strict=True):
            vars(m).update(values)


class InstanceNorm(nn.InstanceNorm2d):
    """Instance norm, as published without parameters."""

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[2] * x.shape[3] == 1:
            raise UserError("instance norm has nothing to average over 1x1 features: use a larger --size")
        return super().forward(x)


def make_norm(kind: str, channels: int) -> nn.Module:
    """The norm of this name; a convolution before it needs a bias if it is not batch norm.

    instance has no parameters, affine is instance norm with a scale and a shift a channel.
    """
    norms: dict[str, Callable[[int], nn.Module]] = {
        "instance": InstanceNorm,
        "batch": BatchNorm,
        "affine": partial(InstanceNorm, affine=True),
    }
    return norms[choose("norm", kind, norms)](channels)


class BlurDown(nn.Module):
    """Half the size through [1, 2, 1]/4 in both directions, reflected at the edges.

    Antialiased downsampling (https://arxiv.org/abs/1904.11486).
    """

    def forward(self, x: Tensor) -> Tensor:
        k = x.new_tensor([1.0, 2.0, 1.0]) / 4
        kernel = torch.outer(k, k).expand(x.shape[1], 1, 3, 3)  # faster than averaging twice
        x = F.pad(x, (1, 1, 1, 1), mode="reflect")
        return F.conv2d(x, kernel, stride=2, groups=x.shape[1])


class BlurUp(nn.Module):
    """Twice the size through [1, 3, 3, 1]/4 in both directions, which is bilinear interpolation."""

    def forward(self, x: Tensor) -> Tensor:
        k = x.new_tensor([1.0, 3.0, 3.0, 1.0]) / 4
        kernel = torch.outer(k, k).expand(x.shape[1], 1, 4, 4)  # twice as fast as F.interpolate
        x = F.pad(x, (1, 1, 1, 1), mode="replicate")
        return F.conv_transpose2d(x, kernel, stride=2, padding=3, groups=x.shape[1])


def initialise(net: nn.Module, kind: str, gain: float) -> nn.Module:
    """Weights N(0, gain^2) (normal) or Glorot's times gain (xavier), biases 0; changed in place."""
    draws: dict[str, Callable[..., Any]] = {
        "normal": partial(nn.init.normal_, std=gain),
        "xavier": partial(nn.init.xavier_normal_, gain=gain),
    }
    draw = draws[choose("init", kind, draws)]
    for m in net.modules():
        if isinstance(m, (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)):
            draw(m.weight)
            if m.bias is not None:
                nn.init.zeros_(m.bias)
        elif isinstance(m, (BatchNorm, InstanceNorm)) and m.weight is not None:
            nn.init.normal_(m.weight, 1, gain)
    return net


def drop(x: Tensor, p: float, z: Tensor) -> Tensor:
    """Dropout by standard normal numbers z of x' shape: 0 with probability p, else x / (1 - p)."""
    keep = z > torch.special.ndtri(torch.tensor(p, dtype=torch.float64)).to(z)
    return x * keep / (1 - p)
