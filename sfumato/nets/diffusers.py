"""Networks of diffusers (https://github.com/huggingface/diffusers), by their configs.

They are that package's, which is imported when one is made.  A config is data: numbers, and names of layers
that the package knows.  Noise levels are as a network was told them in training: numbers of a chain's levels,
or sigma.  What it learned of a variance besides is left out.  Label `labels`, behind those of the domains,
means "any domain".
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sfumato.core.arguments import check_value
from sfumato.core.errors import not_installed
from sfumato.core.padding import mirrored
from sfumato.core.ranges import Count, Interval, Whole
from sfumato.module import Part

PatchedSide = Annotated[int, Interval(1, 256)]
"""Of a DiT's latents: its table of places has as many rows as they have patches."""


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

    Args:
        config: arguments of its constructor, but for num_class_embeds.
        labels: number of domains; 0: no labels.
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
        config = self.model.config
        if config.time_embedding_type == "learned":  # a table
            level = level.round().long()
        padded = mirrored(x, 2 ** (len(config.block_out_channels) - 1))
        label = labelled(label, x, self.labels) if self.labels else None
        return cut(self.model(padded, level, label, return_dict=False)[0], x)


class DiT(Part):
    """diffusers' DiTTransformer2DModel: (x (B,C,H,W), noise levels (B,), labels (B,) or None) -> (B,C,H,W).

    Peebles & Xie 2023 (https://arxiv.org/abs/2212.09748).

    Args:
        config: arguments of its constructor, but for num_embeds_ada_norm.
        labels: number of domains.
    """

    config: dict[str, Any]
    labels: Count = 1000

    def __post_init__(self) -> None:
        check_value("sample_size", self.config.get("sample_size", 32), PatchedSide)
        self.model = library().DiTTransformer2DModel(**{**self.config, "num_embeds_ada_norm": self.labels})
        self.channels: int = self.model.config.in_channels
        tables = [name for name, _ in self.named_parameters() if name.endswith("embedding_table.weight")]
        vars(self)["by_domain"] = tuple(tables)  # of each block

    def forward(
        self, x: Float[Tensor, "b c h w"], level: Float[Tensor, " b"], label: Tensor | None = None
    ) -> Float[Tensor, "b c h w"]:
        square = mirrored(x, self.model.config.patch_size, max(x.shape[2:]))  # it knows no others
        return cut(self.model(square, level, labelled(label, x, self.labels), return_dict=False)[0], x)


class Prompted(Part):
    """diffusers' UNet2DConditionModel: (x (B,C,H,W), noise levels (B,), labels (B,) or None) -> (B,C,H,W).

    A domain is a prompt, of which a table holds the embedding of each token: no text is read here.

    Args:
        config: arguments of its constructor.
        labels: number of domains.
        tokens: of a prompt.
    """

    by_domain: ClassVar[tuple[str, ...]] = ("prompts.weight",)

    config: dict[str, Any]
    labels: Count = 1
    tokens: Count = 77

    def __post_init__(self) -> None:
        self.model = library().UNet2DConditionModel(**self.config)
        self.channels: int = self.model.config.in_channels
        self.prompts = nn.Embedding(self.labels + 1, self.tokens * self.model.config.cross_attention_dim)
        nn.init.zeros_(self.prompts.weight)  # a new domain begins as no prompt that there is

    def forward(
        self, x: Float[Tensor, "b c h w"], level: Float[Tensor, " b"], label: Tensor | None = None
    ) -> Float[Tensor, "b c h w"]:
        padded = mirrored(x, 2 ** (len(self.model.config.block_out_channels) - 1))
        prompts = self.prompts(labelled(label, x, self.labels)).unflatten(1, (self.tokens, -1))
        return cut(self.model(padded, level, prompts, return_dict=False)[0], x)


def labelled(label: Tensor | None, x: Tensor, any_domain: int) -> Tensor:
    """Labels of a batch x, that of any domain if there are none."""
    return torch.full((len(x),), any_domain, device=x.device) if label is None else label


def cut(answer: Tensor, x: Tensor) -> Tensor:
    """What of an answer is of x' channels and size."""
    return answer[:, : x.shape[1], : x.shape[2], : x.shape[3]]
