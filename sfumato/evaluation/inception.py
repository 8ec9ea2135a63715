"""The Inception-v3 of the Frechet inception distance, as a table.

Szegedy et al., 2016 (https://arxiv.org/abs/1512.00567), in the variant of the TensorFlow graph of
2015-12-05 that FID is defined on: average pools do not count the padding, the last block pools by
maximum, 1008 classes.  Names of the weights are those of the file
pt_inception-2015-12-05-6726825d.pth.
"""

from __future__ import annotations

import re

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

POOL = "branch_pool"


def _a(pool: int) -> str:
    return f"branch1x1 64 | branch5x5 48 64:5x5 | branch3x3dbl 64 96:3x3 96:3x3 | branch_pool avg {pool}"


def _c(c: int) -> str:
    return (
        f"branch1x1 192 | branch7x7 {c} {c}:1x7 192:7x1 |"
        f" branch7x7dbl {c} {c}:7x1 {c}:1x7 {c}:7x1 192:1x7 | branch_pool avg 192"
    )


def _e(pool: str) -> str:
    return (
        "branch1x1 320 | branch3x3 384 384:1x3+3x1 |"
        f" branch3x3dbl 448 384:3x3 384:1x3+3x1 | branch_pool {pool} 192"
    )


# A block's branches start at its input and are concatenated; C:HxW is a convolution to C channels
# (1x1 if no size is told), /2 its stride, 1x3+3x1 two convolutions side by side.
STEM = {
    "Conv2d_1a_3x3": (3, 32, 3, 2, 0), "Conv2d_2a_3x3": (32, 32, 3, 1, 0),
    "Conv2d_2b_3x3": (32, 64, 3, 1, 1), "Conv2d_3b_1x1": (64, 80, 1, 1, 0),
    "Conv2d_4a_3x3": (80, 192, 3, 1, 0),
}  # fmt: skip
BLOCKS = {
    "Mixed_5b": (192, _a(32)),
    "Mixed_5c": (256, _a(64)),
    "Mixed_5d": (288, _a(64)),
    "Mixed_6a": (288, "branch3x3 384:3x3/2 | branch3x3dbl 64 96:3x3 96:3x3/2 | branch_pool max"),
    "Mixed_6b": (768, _c(128)),
    "Mixed_6c": (768, _c(160)),
    "Mixed_6d": (768, _c(160)),
    "Mixed_6e": (768, _c(192)),
    "Mixed_7a": (
        768,
        "branch3x3 192 320:3x3/2 | branch7x7x3 192 192:1x7 192:7x1 192:3x3/2 | branch_pool max",
    ),
    "Mixed_7b": (1280, _e("avg")),
    "Mixed_7c": (2048, _e("max")),
}


class Convolution(nn.Module):
    """Convolution, batch normalisation, ReLU."""

    def __init__(
        self,
        c_in: int,
        c_out: int,
        kernel: int | tuple[int, int],
        stride: int = 1,
        padding: int | tuple[int, int] = 0,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(c_in, c_out, kernel, stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(c_out, eps=1e-3)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv(x)), inplace=True)


class Block(nn.Module):
    """Branches side by side, as the table says."""

    def __init__(self, c_in: int, table: str) -> None:
        super().__init__()
        self.branches: list[list[list[str]]] = []  # stages of names; a fork has two
        self.pool = ""
        for branch in table.split("|"):
            name, *stages = branch.split()
            if name == POOL:
                self.pool, *stages = stages
            c, names = c_in, []
            for i, stage in enumerate(stages, 1):
                c_out, kernels, stride = re.fullmatch(r"(\d+):?([\dx+]*)/?(\d*)", stage).groups()  # type: ignore[union-attr]
                stem = name if len(stages) == 1 else f"{name}_{i}"
                sizes = [tuple(map(int, k.split("x"))) for k in (kernels or "1x1").split("+")]
                forks = [stem] if len(sizes) == 1 else [stem + "a", stem + "b"]
                for fork, (h, w) in zip(forks, sizes, strict=True):
                    pad = (0, 0) if stride else (h // 2, w // 2)
                    self.add_module(fork, Convolution(c, int(c_out), (h, w), int(stride or 1), pad))
                names.append(forks)
                c = int(c_out)
            self.branches.append(names)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([y for names in self.branches for y in self._branch(x, names)], 1)

    def _branch(self, x: Tensor, names: list[list[str]]) -> list[Tensor]:
        if not names:
            return [F.max_pool2d(x, 3, 2)]
        if names[0][0] == POOL and self.pool == "max":
            x = F.max_pool2d(x, 3, 1, 1)
        elif names[0][0] == POOL:
            x = F.avg_pool2d(x, 3, 1, 1, count_include_pad=False)
        out = [x]
        for forks in names:
            out = [self.get_submodule(fork)(out[0]) for fork in forks]
        return out


class InceptionV3(nn.Module):
    """Images (B,3,299,299) in [-1,1] to the maps that end its stages.

    The maps have 64, 192, 288, 768 and 2048 channels, at 73, 35, 35, 17 and 8 pixels; the mean of
    the last over positions is FID's feature "pool3".
    """

    def __init__(self) -> None:
        super().__init__()
        for name, sizes in STEM.items():
            self.add_module(name, Convolution(*sizes))
        for name, (c_in, table) in BLOCKS.items():
            self.add_module(name, Block(c_in, table))
        self.fc = nn.Linear(2048, 1008)  # in the file, not used

    def forward(self, x: Float[Tensor, "b 3 h w"]) -> list[Tensor]:
        maps = []
        for name in (*STEM, *BLOCKS):
            x = self.get_submodule(name)(x)
            if name in ("Conv2d_2b_3x3", "Conv2d_4a_3x3"):
                x = F.max_pool2d(x, 3, 2)
            if name in ("Conv2d_2b_3x3", "Conv2d_4a_3x3", "Mixed_5d", "Mixed_6e", "Mixed_7c"):
                maps.append(x)
        return maps
