"""Processes that train together: what one of them meets, all act on, at the same step.

With one process nothing here costs anything.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from sfumato.core.errors import UserError
from sfumato.methods.registry import Diverged

if TYPE_CHECKING:
    from accelerate import Accelerator


def mean(value: float | Tensor, accelerator: Accelerator) -> float:
    """The mean of a number over all processes, each of which waits for the others; one NaN makes it NaN."""
    if accelerator.num_processes > 1:
        value = torch.as_tensor(value, dtype=torch.float32, device=accelerator.device)
        value = accelerator.reduce(value, "mean")
    return float(value)


@contextmanager
def together(accelerator: Accelerator) -> Iterator[None]:
    """What fails inside on one process fails on all: none goes on to wait for one that has ended.

    Raises:
        Diverged: on the others, if it is that.
        UserError: on the others, if it is anything else.
    """
    if accelerator.num_processes == 1:
        yield
        return
    try:
        yield
    except BaseException as error:
        mean(math.nan if isinstance(error, Diverged) else 1.0, accelerator)
        raise
    if failed := mean(0.0, accelerator):
        kind = Diverged if math.isnan(failed) else UserError
        raise kind("another process of this training has failed, and says why")
