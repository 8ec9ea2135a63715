"""Where torch computes: the device that is asked for, and its defaults, whatever a notebook has set."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any, ParamSpec, TypeVar

import torch
from torch.overrides import TorchFunctionMode

from sfumato.core.errors import UserError

P = ParamSpec("P")
R = TypeVar("R")


def with_torch_defaults(function: Callable[P, R]) -> Callable[P, R]:
    """`function` with float32 and the CPU as torch's defaults, whatever a notebook has set."""

    @functools.wraps(function)
    def call(*args: P.args, **given: P.kwargs) -> R:
        before, moved = torch.get_default_dtype(), torch.get_default_device().type != "cpu"
        torch.set_default_dtype(torch.float32)
        try:
            with torch.device("cpu") if moved else contextlib.nullcontext():
                return function(*args, **given)
        finally:
            torch.set_default_dtype(before)

    return call


def device_of(name: str | torch.device) -> torch.device:
    """The device of this name; auto is a GPU if there is one, of whatever maker."""
    if name == "auto":
        found = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
        return torch.device(found or "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).item()  # the meta device has no values
        if device.type == "cpu" and device.index:  # torch takes any number
            raise RuntimeError
    except (RuntimeError, AssertionError):
        raise UserError(f"there is no device {name!r} here: use auto, cpu, cuda or mps") from None
    return device


@contextlib.contextmanager
def without_values() -> Iterator[None]:
    """Tensors are made on the meta device, and no initialiser is called: to fill nothing takes a second."""
    with torch.device("meta"), _Unfilled():
        yield


FILLING = {name for name in vars(torch.nn.init) if name.endswith("_") and not name.startswith("_")}


class _Unfilled(TorchFunctionMode):
    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(func, "__name__", "") in FILLING:
            return (*args, *(kwargs or {}).values())[0]
        return func(*args, **(kwargs or {}))
