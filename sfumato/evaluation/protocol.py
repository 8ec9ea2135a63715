"""Protocols as data: everything about a score that is not the pictures.

Two numbers may stand in one column only if they were taken under one protocol, on one set of files.
The published ones follow the authors' evaluation code, its oddities included; a protocol of one's own
is a JSON file with the same fields.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from sfumato.checkpoints.hub import pinned
from sfumato.checkpoints.model_folder import resolve
from sfumato.core.arguments import Checked
from sfumato.core.errors import UserError, choose
from sfumato.core.ranges import Count
from sfumato.data.folders import parse_json, read_text
from sfumato.data.image_folder import ImageFolder
from sfumato.data.pictures import Derived, ImageSet
from sfumato.data.resize import as_many
from sfumato.evaluation.metrics import METRICS

Filter = Literal["bilinear", "bicubic", "lanczos"]
FILTERS = ("bilinear", "bicubic", "lanczos")


def check_features(name: str) -> str:
    """The name, if it is lite0, inception or a model folder; of the Hub's, with its commit.

    Raises:
        UserError: if it is none of them.
    """
    path = resolve(name)[0] if name else Path()
    if name and (path / "model.json").is_file():
        return pinned(name)
    if len(path.parts) > 1:
        raise UserError(
            f"there is no model folder {name!r}: expected lite0, inception, or a folder made by "
            f"`sfumato train domain_classifier`"
        )
    return choose("features", name, ("lite0", "inception"))


@dataclass(frozen=True)
class Protocol(Checked):
    """How scores are taken.

    Args:
        name: printed with every score.
        about: what it is and where it comes from.
        size: side in pixels at which pixels are compared; None: that of the results, to which
            sources, truths and reference are brought as `sfumato translate` brings its sources.
        filter: Pillow's filter for that size.
        metrics: the measures against source and truth, of `METRICS`.
        features: the network of Frechet distance and KID: "lite0", "inception", or the folder of a
            domain classifier of one's own.
        feature_size: side in pixels that pictures get before the network's own resize, or None.
        feature_filter: Pillow's filter for that size.
        feature_resize: how Inception's 299 pixels are reached: "bilinear" (pytorch-fid: in the
            network, without antialiasing) or "clean" (clean-fid: Pillow's bicubic on floats).
        imagenet: normalise by ImageNet's mean and deviation before the network's own scaling.
        reference: what the target folder must be: "test" or "train" pictures of the target domain.
        checkpoint: which weights of a training are to be scored; stated with the numbers, and not acted on.
    """

    name: str
    about: str
    size: Count | None = None
    filter: Filter = "bicubic"
    metrics: tuple[str, ...] = ("l2", "psnr", "ssim", "perceptual", "colour", "hue")
    features: str = "lite0"
    feature_size: Count | None = None
    feature_filter: Filter = "bicubic"
    feature_resize: Literal["bilinear", "clean"] = "bilinear"
    imagenet: bool = False
    reference: Literal["test", "train"] = "test"
    checkpoint: str = "last"

    def __post_init__(self) -> None:
        for name in self.metrics:
            choose("metric", name, METRICS)
        object.__setattr__(self, "features", check_features(self.features))

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"metrics": list(self.metrics)}

    @classmethod
    def read(cls, file: str | Path) -> Self:
        """A protocol of one's own.

        Raises:
            UserError: no JSON object, or one with fields that are missing, unknown or wrong.
        """
        text = read_text(file)
        try:
            given = parse_json(text)
        except ValueError as error:
            raise UserError(f"{file} is not a readable protocol (JSON): {error}") from None
        known = {f.name: f for f in fields(cls)}
        if not isinstance(given, dict) or not {"name", "about"} <= given.keys():
            raise UserError(f"{file} is no protocol: expected an object with name, about, ...")
        for key in given:
            choose(f"field of {file}", key, known)
        try:
            return cls(**given | {"metrics": tuple(given.get("metrics", cls.metrics))})
        except TypeError as error:
            raise UserError(f"{file} is no protocol: {error}") from None


PROTOCOLS = {
    p.name: p
    for p in (
        Protocol("standard", "sfumato's own: at the results' size, with features that need no download."),
        Protocol(
            "egsde",
            "EGSDE (arXiv:2207.06635), AFHQ rows: bicubic to 256, Frobenius L2 in [0, 1], 11-tap Gaussian "
            "SSIM per channel; FID of pytorch-fid against the val pictures at their own size.",
            size=256, metrics=("l2", "psnr", "ssim"), features="inception",
        ),
        Protocol(
            "egsde_m2f",
            "EGSDE, male-to-female row: as egsde, but FID against the TRAINING pictures, resized to 256, "
            "and normalised twice (ImageNet's, then the network's own): comparable with nothing else.",
            size=256, metrics=("l2", "psnr", "ssim"), features="inception", feature_size=256,
            feature_filter="bilinear", imagenet=True, reference="train",
        ),
        Protocol(
            "cyclediffusion",
            "CycleDiffusion (arXiv:2210.05559): pictures and test reference resized to 256 and kept as 8 "
            "bits, clean-fid's resize to 299; PSNR, SSIM and L2 against the source.",
            size=256, metrics=("l2", "psnr", "ssim"), features="inception", feature_size=256,
            feature_resize="clean",
        ),
    )
}  # fmt: skip


def named_protocol(name: Protocol | str | Path, features: str | None = None) -> Protocol:
    """A protocol, or one by name or JSON file; with other features it is another one, and says so."""
    if isinstance(name, Protocol):
        protocol = name
    elif str(name).endswith(".json"):
        protocol = Protocol.read(name)
    else:
        protocol = PROTOCOLS[choose("protocol", str(name), [*PROTOCOLS])]
    if features is None or pinned(features) == protocol.features:
        return protocol
    return replace(protocol, name=f"{protocol.name}+{Path(features).name}", features=features)


def stretched(images: Tensor, side: int | None, filter: Filter) -> Tensor:
    """Images (B, C, H, W) in [-1, 1] at side x side, not cut, by 8 bits and Pillow as the papers' code.

    Pictures that have the size already, and a side of None, pass unchanged.
    """
    if side is None or images.shape[-2:] == (side, side):
        return images
    how = Image.Resampling[filter.upper()]
    whole = images.isfinite().flatten(1).all(1)
    samples = ((images.nan_to_num().clamp(-1, 1) + 1) * 127.5).round().byte()
    bands = samples.flatten(0, 1).numpy()
    out = np.stack([np.asarray(Image.fromarray(band).resize((side, side), how)) for band in bands])
    small = torch.from_numpy(out).reshape(*samples.shape[:2], side, side).float() / 127.5 - 1
    small[~whole] = torch.nan  # 8 bits would hide it
    return small


@dataclass(frozen=True)
class Views:
    """Pictures as they are compared.

    Args:
        protocol: the sizes, and the filters to them.
        size: (height, width) of the results.
        known: how their sources were prepared is known; then a protocol with a size of its own begins
            with pictures that are cut as the sources were. Otherwise with whole ones, as the papers'.
        bands: they are of other bands than 1 or 3, of which a network of features sees the mean.
    """

    protocol: Protocol
    size: tuple[int, int]
    known: bool
    bands: bool = False

    @property
    def shown(self) -> tuple[int, int]:
        """(height, width) at which pixels are compared."""
        side = self.protocol.size
        return self.size if side is None else (side, side)

    def pixels(self, images: ImageSet) -> ImageSet:
        """What is compared pixel by pixel."""
        p = self.protocol
        if p.size is None:
            return images.fitted(self.size) if isinstance(images, ImageFolder) else images
        return Derived(self._cut(images), lambda x: stretched(x, p.size, p.filter), f"{p.size} {p.filter}")

    def featured(self, images: ImageSet) -> ImageSet:
        """What the network of the features is shown."""
        view = self._featured(images)
        return Derived(view, lambda x: as_many(x, 3), "mean of bands") if self.bands else view

    def _featured(self, images: ImageSet) -> ImageSet:
        p = self.protocol
        if (side := p.feature_size) is not None:
            what = f"{side} {p.feature_filter}"
            return Derived(self._cut(images), lambda x: stretched(x, side, p.feature_filter), what)
        if p.size is None and isinstance(images, ImageFolder):
            return images.fitted(self.size)
        return self._cut(images)

    def _cut(self, images: ImageSet) -> ImageSet:
        if self.known and isinstance(images, ImageFolder):
            return images.framed(self.size)
        return images
