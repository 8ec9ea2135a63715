"""Latents: pictures carried to noise by a model's ODE, kept with all that is needed to repeat it.

A file of latents is a safetensors file with two tensors, `latents` (N, C, H, W) and the `images` in
[-1, 1] that they are of, and one JSON text, the protocol: model and hash of its weights, domain,
solver, steps, names and hash of the pictures, and every operation done since.  Reading it runs no code.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sfumato.checkpoints.tensors import read_protocol, write_tensors
from sfumato.core.errors import UserError
from sfumato.data.folders import for_new_file, no_picture
from sfumato.data.listing import SUFFIXES, suffix_of
from sfumato.diffusion.denoiser import Denoises
from sfumato.diffusion.encode_decode import decode, encode

FORMAT = 1
"""Raised when a newer version writes files that older ones cannot read."""


@dataclass
class Latents:
    """Latents, the images they are of, and how they were made.

    Args:
        latents: (N, C, H, W), float32.
        images: (N, C, H, W) in [-1, 1]; of a model with a codec larger than what was carried to noise.
        names: names of the N pictures, relative paths that end in .png.
        protocol: JSON-able facts.
    """

    latents: Tensor
    images: Tensor
    names: list[str]
    protocol: dict[str, Any] = field(default_factory=dict)

    def save(self, file: str | Path) -> None:
        """Writes one safetensors file, whole or not at all."""
        tensors = {"latents": self.latents.float(), "images": self.images.float()}
        protocol = {"latents": FORMAT, "names": self.names, **self.protocol}
        write_tensors(no_picture(file, "a file of latents", ".safetensors"), tensors, protocol)

    @classmethod
    def load(cls, file: str | Path) -> Latents:
        """The latents of a file.

        Raises:
            UserError: if it is missing, damaged, no file of latents, or of a future format.
        """
        file = Path(file)
        picture = suffix_of(file) in SUFFIXES and "is a picture"
        other = "is a folder" if file.is_dir() else "is not a file" if file.exists() else "does not exist"
        if what := picture if file.is_file() else other:
            raise UserError(f"{file} {what}: expected latents, made by `sfumato explore encode`")
        tensors, protocol = read_protocol(file)
        form, names = protocol.pop("latents", None), protocol.pop("names", None)
        wrong = UserError(f"{file} holds no latents: make some by `sfumato explore encode`")
        if not isinstance(form, int) or not isinstance(names, list) or form < 1:
            raise wrong
        if form > FORMAT:
            raise UserError(
                f"{file} has format {form}, this sfumato reads up to {FORMAT}: update its source (git pull)"
            )
        if tensors.keys() != {"latents", "images"} or len({len(t) for t in tensors.values()}) > 1:
            raise wrong
        if any(t.ndim != 4 or t.dtype != torch.float32 for t in tensors.values()):
            raise wrong
        if len(names) != len(tensors["latents"]) or not all(map(_inside, names)):
            raise wrong
        if len(set(names)) < len(names):
            raise UserError(f"{file} names two pictures alike: its results would be one file")
        if not isinstance(protocol.setdefault("operations", []), list):
            raise wrong
        return cls(tensors["latents"], tensors["images"], names, protocol)


def new_file(out: str | Path) -> Path:
    """The place of a file of latents that is going to be written; see `for_new_file` for the errors."""
    return for_new_file(no_picture(out, "a file of latents", ".safetensors"), "--out", ".safetensors")


def _inside(name: Any) -> bool:
    """Whether a name of a file that others wrote stays below the folder it is put into."""
    return isinstance(name, str) and bool(name) and not Path(name).anchor and ".." not in Path(name).parts


def round_trip(f: Denoises, images: Tensor, *, steps: int = 12, **options: Any) -> Tensor:
    """Images to latents and back by one denoiser: the images, up to the solver's error."""
    return decode(f, encode(f, images, steps=steps, **options), steps=steps, **options)
