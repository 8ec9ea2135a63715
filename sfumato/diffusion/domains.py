"""Domains of a model: names, no two the same, and labels, which index them."""

from __future__ import annotations

import torch
from torch import Tensor

from sfumato.core.errors import UserError, choose


def distinct(domains: tuple[str, ...]) -> tuple[str, ...]:
    """Names of domains, no two the same.

    Raises:
        UserError: two of them are.
    """
    if len(set(domains)) < len(domains):
        raise UserError(f"domains must have different names, not {', '.join(map(str, domains))}")
    return domains


def domain_index(domain: str, domains: tuple[str, ...]) -> int:
    """The label of a named domain.

    Raises:
        UserError: naming the nearest and all known domains.
    """
    return domains.index(choose("domain", domain, domains))


def checked_labels(labels: Tensor, n: int, domains: int) -> Tensor:
    """Labels (n,) of that many domains; those on a device are not looked at, which it would wait for.

    Raises:
        UserError: they are none.
    """
    if labels.dtype not in (torch.uint8, torch.int32, torch.int64) or labels.shape != (n,):
        raise UserError(
            f"domain= must be a name or whole numbers of shape ({n},), one an image, not a tensor of "
            f"{labels.dtype} of shape {tuple(labels.shape)}"
        )
    if labels.device.type == "cpu" and not ((labels >= 0) & (labels <= domains)).all():
        raise UserError(f"labels must be in [0, {domains}], {domains} for any domain, not {labels.tolist()}")
    return labels.long()
