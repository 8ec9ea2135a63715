"""A translator and the picture that it is asked about."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from sfumato.checkpoints.model_folder import resolve
from sfumato.core.errors import UserError
from sfumato.core.versions import version
from sfumato.data.hashing import digest, sha256
from sfumato.methods.registry import name_of
from sfumato.module import channels_of
from sfumato.translation.translator import device_of, options_of, preparation_of, translator


class Subject(NamedTuple):
    """A translator, one image (1, C, H, W) in [-1, 1], the options, and facts for a protocol."""

    part: Any
    image: Tensor
    options: dict[str, Any]
    facts: dict[str, Any]

    @classmethod
    def read(
        cls, path: str | Path, *, size: int | None, upscale: bool, device: str,
        options: Mapping[str, Any], method: str | None = None, **roles: str | Path | None,
    ) -> Subject:  # fmt: skip
        """From what is given on a command line; see `sfumato.translation.pictures.translate`.

        Raises:
            UserError: for anything wrong with picture, models or options, in one line.
        """
        if not (file := Path(path)).is_file():
            raise UserError(f"{path} is no picture: expected one file")
        part, where = translator(method, **roles), device_of(device)
        chosen = options_of(part, options)
        folders = {role: resolve(name)[0] for role, name in roles.items() if name is not None}
        prepare, notes = preparation_of(
            folders, channels=channels_of(part), size=size, upscale=upscale,
            direction=chosen.get("direction"),
        )  # fmt: skip
        for text in notes:
            warnings.warn(text, stacklevel=3)
        image = prepare.read(file).image[None].to(where)
        facts = {
            "method": name_of(part), "options": {k: str(v) if isinstance(v, Path) else v
                                                 for k, v in chosen.items()},
            "models": {role: str(name) for role, name in roles.items() if name is not None},
            "weights": {role: sha256(f / "weights.safetensors") for role, f in folders.items()},
            "picture": digest({Path(file.name): file}), "preparation": prepare.to_json(),
            "versions": {name: version(name) for name in ("sfumato", "torch")},
        }  # fmt: skip
        return cls(part.to(where), image, chosen, facts)
