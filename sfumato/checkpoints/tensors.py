"""Files of tensors: safetensors, with the hash of their contents and what they were made by."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_bytes
from torch import Tensor, nn

from sfumato.core.errors import UserError, check_numbers
from sfumato.data.folders import parse_json, regular, replacing
from sfumato.data.in_memory import check_tensor

FLOATS = ("F16", "BF16", "F32", "F64")
DTYPES = (*FLOATS, "I8", "I16", "I32", "I64", "U8", "BOOL")
"""What a safetensors file of ours may hold."""


def _digest(stored: Mapping[str, Tensor]) -> str:
    """sha256 over names and bytes of the tensors."""
    digest = hashlib.sha256()
    for key in sorted(stored):
        digest.update(key.encode())
        digest.update(stored[key].view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def read_tensors(file: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file (see `read_protocol` for the errors)."""
    return read_protocol(file)[0]


def read_protocol(file: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors of a safetensors file, and the protocol they were written with, or {}.

    Raises:
        UserError: if it is missing, truncated, or its contents do not have the hash they were written with.
    """
    with open_tensors(file) as opened:
        return read_opened(opened, file)


@contextlib.contextmanager
def open_tensors(file: Path) -> Iterator[Any]:
    """A safetensors file, of which nothing but names, shapes and types is read so far."""
    if not file.is_file():
        raise UserError(f"{file.parent} has no {file.name}")
    try:
        if not os.access(file, os.R_OK):  # safetensors would say that there is none
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        with safe_open(regular(file), framework="pt") as opened:
            for key in opened.keys():
                if (dtype := opened.get_slice(key).get_dtype()) not in DTYPES:
                    raise UserError(f"{file}: {key} is {dtype}, expected {', '.join(DTYPES)}")
            yield opened
    except OSError as error:
        raise UserError(f"{file} cannot be read: {error.strerror or error}") from None
    except SafetensorError as error:
        raise UserError(
            f"{file} is damaged or truncated, or not a safetensors file ({error}); copy it again"
        ) from None


def read_opened(opened: Any, file: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and protocol of an opened file."""
    metadata = opened.metadata() or {}
    # copies: what is mapped keeps its place on the disk, and changes with the file
    stored = {key: opened.get_tensor(key).clone() for key in opened.keys()}
    try:
        protocol = parse_json(metadata.get("protocol", "{}"))
        wanted = protocol.pop("tensors", metadata.get("sha256"))
    except (ValueError, TypeError, AttributeError):
        raise UserError(f"{file} has a protocol that was not written by sfumato") from None
    if wanted is not None and wanted != _digest(stored):
        raise UserError(f"{file} is damaged: its contents do not have their hash; copy it again")
    return stored, protocol


def unique_state(part: nn.Module) -> dict[str, Tensor]:
    """The state_dict, each tensor once even if the part holds it under several names."""
    seen: set[int] = set()
    state: dict[str, Tensor] = {}
    for key, value in part.state_dict(keep_vars=True).items():
        if id(value) not in seen:
            seen.add(id(value))
            state[key] = value.detach()
    return state


def to_store(
    state: Mapping[str, Tensor], weights: Mapping[str, Tensor], dtype: torch.dtype
) -> dict[str, Tensor]:
    """A state_dict with other values for some of its names, its floats of this type.

    Raises:
        UserError: a value is of another name, shape or kind, or no number, or too large for the type.
    """
    for key, value in weights.items():
        if (own := state.get(key)) is None:
            raise UserError(f"weights: the model has no {key!r}; expected names of its state_dict")
        if (value.shape, value.is_floating_point()) != (own.shape, own.is_floating_point()):
            was, wanted = ((tuple(v.shape), v.dtype) for v in (value, own))
            raise UserError("weights: {} is {} of {}, expected {} of {}".format(key, *was, *wanted))
    given = {**state, **weights}
    for key, value in given.items():
        check_tensor(value, key)
    stored = {k: v.to(dtype) if v.is_floating_point() else v for k, v in given.items()}
    if wrong := [k for k, v in stored.items() if not v.isfinite().all()]:
        large = given[wrong[0]].isfinite().all()
        why = f"values too large for {dtype}" if large else "values that are not numbers"
        raise UserError(f"{wrong[0]} has {why}; nothing is written")
    return stored


def check_tensors(part: nn.Module, opened: Any, file: Path) -> None:
    """Sees that a file has the names, shapes and types of the part's tensors, and no more."""
    wanted, other = unique_state(part), f"{file} does not belong to its model.json"
    found = {key: opened.get_slice(key) for key in opened.keys()}
    for key, value in wanted.items():
        shape, of = tuple(value.shape), value.is_floating_point()
        was = tuple(found[key].get_shape()) if key in found else "missing"
        if was != shape:
            raise UserError(f"{other}: {key} is {was}, expected {shape}")
        if (found[key].get_dtype() in FLOATS) != of:
            kind = "floating-point" if of else "whole"
            raise UserError(f"{other}: {key} is {found[key].get_dtype()}, expected {kind} numbers")
    if extra := found.keys() - wanted.keys():
        raise UserError(f"{other}: unexpected {min(extra)}")


def full_state(part: nn.Module, stored: dict[str, Tensor], file: Path) -> dict[str, Tensor]:
    """The tensors of its file as a state_dict of the part, which may be on the meta device."""
    check_numbers({f"{file}: {key}": value for key, value in stored.items()}, "; train it again")
    aliases, full = dict[int, str](), {}
    for key, value in part.state_dict(keep_vars=True).items():
        tensor = stored[source := aliases.setdefault(id(value), key)]
        full[key] = stored[source] = tensor.float() if tensor.is_floating_point() else tensor  # shared
    return full


def write_tensors(
    file: Path, tensors: Mapping[str, Tensor], protocol: Mapping[str, Any] | None = None
) -> None:
    """Writes a safetensors file atomically, with the hash of its contents.

    The hash, or a protocol that holds it as "tensors", is the only metadata: safetensors writes
    several in any order, and equal runs shall give equal files.
    """
    stored = {k: v.detach().cpu().contiguous() for k, v in tensors.items()}
    # the hash travels in the file it is the hash of: a kill between two writes cannot part them
    with replacing(file) as temporary:
        said = {"sha256": _digest(stored)}
        if protocol is not None:
            said = {"protocol": json.dumps({**protocol, "tensors": said["sha256"]})}
        temporary.write_bytes(to_bytes(stored, said))
