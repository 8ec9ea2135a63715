"""The U-Net of diffusers (https://github.com/huggingface/diffusers), by its config.

The network is that package's, which is imported when one is made.  A config is data: numbers, and names of
layers that the package knows.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sfumato.core.errors import not_installed
from sfumato.core.ranges import Whole
from sfumato.module import Part
from sfumato.nets.layers import mirrored


def library() -> Any:
    """The package.

    Raises:
        UserError: it is not installed.
    """
    try:
        import diffusers
    except ModuleNotFoundError:
        raise not_installed("diffusers", "diffusers") from None
    return diffusers


class UNet2D(Part):
    """diffusers' UNet2DModel: (x (B,C,H,W), noise levels (B,), labels (B,) or None) -> (B,C,H,W).

    Noise levels are as it was told them in training: numbers of a chain's levels, or sigma.  What it learned
    of a variance besides is left out.

    Args:
        config: arguments of its constructor, but for num_class_embeds.
        labels: number of domains; one label more, the last, means "any domain". 0: no labels.
    """

    by_domain: ClassVar[tuple[str, ...]] = ("model.class_embedding.weight",)

    config: dict[str, Any]
    labels: Whole = 0

    def __post_init__(self) -> None:
        rows = self.labels + 1 if self.labels else None
        self.model = library().UNet2DModel(**{**self.config, "num_class_embeds": rows})
        self.channels: int = self.model.config.in_channels
        if self.labels:
            embedding = self.model.class_embedding
            nn.init.zeros_(embedding.weight)  # a new domain begins as "any"
            embedding.requires_grad_(self.labels > 1)  # one domain needs no row of its own

    def forward(
        self, x: Float[Tensor, "b c h w"], level: Float[Tensor, " b"], label: Tensor | None = None
    ) -> Float[Tensor, "b c h w"]:
        config, (height, width) = self.model.config, x.shape[2:]
        if self.labels and label is None:
            label = torch.full((len(x),), self.labels, device=x.device)
        if config.time_embedding_type == "learned":  # a table
            level = level.round().long()
        padded = mirrored(x, 2 ** (len(config.block_out_channels) - 1))
        answer = self.model(padded, level, label if self.labels else None, return_dict=False)[0]
        return answer[:, : self.channels, :height, :width]
