"""Files that torch.save wrote: read as tensors only, and compared with what a network expects."""

from __future__ import annotations

import warnings
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sfumato.checkpoints.pickles import load_tensors
from sfumato.core.errors import UserError
from sfumato.data.folders import regular
from sfumato.data.in_memory import FLOATS

COUNTER, COUNTS = "num_batches_tracked", (torch.int64,)

INSIDE = "ema", "model_ema", "ema_state_dict", "state_dict", "model_state_dict", "model"
"""What a checkpoint that is more than weights calls them; averages of a training before its last ones."""


def tensors_of(file: str | Path) -> dict[str, Tensor]:
    """The tensors of a file, dense floats all; nothing in it can run, or be more than it holds.

    Of a checkpoint that holds more than weights they are those under the first of the names `INSIDE`.

    Raises:
        UserError: it is missing, damaged, packed, or holds other things.
    """
    file = Path(file)
    if not file.is_file():
        raise UserError(f"there is no file {str(file)!r}; expected a .pth or .pt file of weights")
    if not (size := file.stat().st_size):
        raise UserError(f"{file} is empty; expected a .pth file of weights, or .pt: copy it again")
    try:
        if zipfile.is_zipfile(file):  # a few packed bytes may be gigabytes of zeros
            with zipfile.ZipFile(file) as packed:
                if sum(entry.file_size for entry in packed.infolist()) > size:
                    raise UserError(f"{file}: it is compressed; expected a file as torch.save writes it")
                if packed.testzip() is not None:
                    raise UserError(
                        f"{file} is damaged: its contents do not have their checksum; copy it again"
                    )
        with warnings.catch_warnings(action="ignore"):  # what is wrong, is said below
            with regular(file).open("rb") as opened:
                state = _inside(load_tensors(opened))
    except UserError:
        raise
    except Exception:  # whatever the unpickler says to what is not a state dict: torch advises to run it
        raise UserError(
            f"{file} is not a .pth or .pt file of PyTorch, holds other things than tensors, or is damaged: "
            f"expected a network's weights, such as latest_net_G.pth"
        ) from None
    if not isinstance(state, Mapping) or not all(isinstance(v, Tensor) for v in state.values()):
        raise UserError(f"{file} is not a state dict: expected names and tensors, as latest_net_G.pth has")
    check_tensors(file, state)
    return {str(key): value for key, value in state.items()}


def check_tensors(file: Path, state: Mapping[str, Tensor]) -> None:
    """Sees that what a file holds are dense floats, and no more of them than it has bytes.

    Raises:
        UserError: they are not.
    """
    for key, value in state.items():
        dense = (value.layout, value.device.type, value.is_nested) == (torch.strided, "cpu", False)
        if not dense or value.dtype not in (COUNTS if str(key).endswith(COUNTER) else FLOATS):
            raise UserError(
                f"{file}: {key} is {value.dtype}, {value.layout}, on {value.device.type}; expected "
                f"dense floating-point numbers"
            )
    if sum(v.numel() * v.element_size() for v in state.values()) > file.stat().st_size:
        raise UserError(f"{file} is damaged: its tensors claim to be larger than the file")


def check_shapes(
    file: str | Path,
    state: Mapping[str, Tensor],
    expected: Mapping[str, Sequence[int]],
    what: str,
    besides: tuple[str, ...] = (),
) -> None:
    """Sees that a file holds the tensors of a network, and nothing but them and the endings `besides`.

    Raises:
        UserError: naming the first difference.
    """
    for key, shape in expected.items():
        found = tuple(state[key].shape) if key in state else "missing"
        if found != tuple(shape):
            raise UserError(f"{file}: {key} is {found}, expected {tuple(shape)}")
    for key in state:
        if key not in expected and not key.endswith(besides):
            raise UserError(f"{file} holds {key}, which {what} does not have")


def _inside(loaded: Any) -> Any:
    """The weights of a checkpoint; of a list, as DDIM's code writes, the last, which are averages."""
    if isinstance(loaded, list | tuple):
        tensors = lambda one: isinstance(one, Mapping) and all(isinstance(v, Tensor) for v in one.values())
        return next(filter(tensors, reversed(loaded)), None)
    if isinstance(loaded, Mapping):
        for name in INSIDE:
            if isinstance(loaded.get(name), Mapping):
                return loaded[name]
    return loaded
