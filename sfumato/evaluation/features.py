"""The features under FID, KID and the perceptual distance, kept; see `sfumato.checkpoints.features`."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from sfumato.checkpoints.features import Features, Lite0, needed, resized, rgb, weights_in
from sfumato.core.devices import without_values
from sfumato.core.errors import UserError, choose
from sfumato.core.terminal import tracked
from sfumato.data.folders import regular, replacing
from sfumato.data.hashing import hash_of
from sfumato.data.pictures import ImageSet
from sfumato.evaluation.inception import InceptionV3

__all__ = ["INCEPTION", "Features", "Inception", "Lite0", "cache_folder", "extract", "needed", "rgb"]

INCEPTION = "pt_inception-2015-12-05-6726825d.pth"


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
        state = weights_in(file, INCEPTION)
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
        x = resized(rgb(images), 299, mode)
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


def _cached(path: Path, shape: Sequence[int]) -> Tensor | None:
    try:
        found = load_file(regular(path))["features"]
    except (OSError, SafetensorError, KeyError):
        return None
    return found if found.shape == tuple(shape) and found.isfinite().all() else None
