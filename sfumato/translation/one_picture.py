"""One picture and the translator that is looked into by it."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from sfumato.core.devices import device_of
from sfumato.core.errors import UserError
from sfumato.core.versions import version
from sfumato.data.image_folder import ImageFolder
from sfumato.methods.registry import name_of
from sfumato.translation.translator import assembled, options_of


class OnePicture(NamedTuple):
    """A translator, one image (1, C, H, W) in [-1, 1], the options, and facts for a protocol."""

    part: Any
    image: Tensor
    options: dict[str, Any]
    facts: dict[str, Any]

    @classmethod
    def read(
        cls,
        path: str | Path,
        *,
        method: str | None = None,
        model: str | Path | None = None,
        source: str | Path | None = None,
        target: str | Path | None = None,
        classifier: str | Path | None = None,
        size: int | None = None,
        upscale: bool = False,
        device: str = "auto",
        options: Mapping[str, Any] | None = None,
    ) -> OnePicture:
        """From what is given on a command line.

        Args:
            path: the picture.
            method: the method to translate by, see `sfumato methods`; not needed with model.
            model: folder of a trained translator.
            source: model of the source domain, FOLDER:DOMAIN.
            target: model of the target domain, FOLDER:DOMAIN.
            classifier: folder of a domain classifier, for methods that are guided by one.
            size: side of the picture in pixels; by default that of the model's training.
            upscale: enlarge a picture that is smaller than size, instead of refusing it.
            device: auto (a GPU if there is one), cpu, cuda, cuda:N or mps.
            options: the method's own options.

        Raises:
            UserError: for anything wrong with picture, models or options, in one line.
        """
        roles = {"model": model, "source": source, "target": target, "classifier": classifier}
        if not (file := Path(path)).is_file():
            raise UserError(f"{path} is not a picture: expected one file")
        made, where = assembled(method, model, source, target, classifier), device_of(device)
        chosen, picture = options_of(made.part, options or {}), ImageFolder([file])
        picture.preparation, notes = made.preparation(
            size=size, upscale=upscale, direction=chosen.get("direction")
        )
        image = picture.get([0])
        for text in [*notes, *made.notes(chosen), *picture.said()]:
            warnings.warn(text, stacklevel=3)
        facts = {
            "method": name_of(made.part), "options": {k: str(v) if isinstance(v, Path) else v
                                                      for k, v in chosen.items()},
            "models": {role: str(name) for role, name in roles.items() if name is not None},
            "weights": made.weights,
            "picture": picture.digest, "preparation": picture.preparation.to_json(),
            "versions": {name: version(name) for name in ("sfumato", "torch")},
        }  # fmt: skip
        return cls(made.part.to(where), image.to(where), chosen, facts)
