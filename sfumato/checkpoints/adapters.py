"""Adapters of networks (LoRA, https://arxiv.org/abs/2106.09685): weights that are no network."""

from __future__ import annotations

import re
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from sfumato.core.errors import UserError
from sfumato.data.folders import regular

LORA = re.compile(r"(?:^|[._])lora(?:[._]|$)|\.(?:hada|lokr)_w\d", re.IGNORECASE)
"""In names of weights, as diffusers, PEFT, kohya and LyCORIS write them."""
CONFIG = "adapter_config.json"
"""By which a folder of PEFT is known."""


def no_adapter(place: Path, names: Iterable[str] = ()) -> None:
    """Sees that a file or folder holds no adapter.

    Args:
        place: the file or folder; of a folder the files in it are looked at, too.
        names: of weights that are known to be in it.

    Raises:
        UserError: it holds one; says what to make of it.
    """
    inside = sorted(place.glob("*.safetensors")) if place.is_dir() else [place]
    found = any(map(LORA.search, names)) or (place / CONFIG).is_file()
    if found or any(LORA.search(name) for file in inside for name in _names(file)):
        raise UserError(
            f"{place} is a LoRA, which changes a network and is none by itself: expected the folder "
            f"of diffusers that it changes, merged with it: pipeline.load_lora_weights({str(place)!r}), "
            f"pipeline.fuse_lora(), pipeline.unload_lora_weights(), pipeline.save_pretrained('merged'), "
            f"and import merged"
        )


def _names(file: Path) -> list[str]:
    """The names in a file of safetensors; none of another, or of one that is broken, which reading says."""
    if file.suffix != ".safetensors" or not file.is_file():
        return []
    from safetensors import safe_open

    with suppress(Exception), safe_open(regular(file), "np") as opened:
        return list(opened.keys())
    return []
