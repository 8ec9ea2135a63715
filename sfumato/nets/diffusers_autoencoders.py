"""The autoencoders of diffusers (https://github.com/huggingface/diffusers), by their configs.

The networks are that package's, which is imported when one is made.  Latents are as its pipelines hand them
to a denoiser: (z - shift) scale, or (z - mean) / deviation of each channel times the scale.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from sfumato.core.errors import UserError, choose
from sfumato.module import Part
from sfumato.nets.diffusers import library

Kind = Literal["AutoencoderKL", "AutoencoderTiny", "VQModel"]
KINDS: tuple[str, ...] = ("AutoencoderKL", "AutoencoderTiny", "VQModel")


class DiffusersCodec(Part):
    """Pictures (B, channels, H, W) in [-1, 1] to latents (B, latent_channels, H/factor, W/factor), and back.

    Args:
        kind: AutoencoderKL, AutoencoderTiny or VQModel.
        config: arguments of its constructor.
    """

    scaled: ClassVar[bool] = True
    """Latents need no further scale."""

    kind: Kind
    config: dict[str, Any]

    def __post_init__(self) -> None:
        self.model = getattr(library(), choose("autoencoder", self.kind, KINDS))(**self.config)
        config = self.model.config
        tiny = self.kind == "AutoencoderTiny"
        widths = config.encoder_block_out_channels if tiny else config.block_out_channels
        self.factor = 2 ** (len(widths) - 1)
        self.channels = int(config.in_channels)
        self.latent_channels = int(getattr(config, "vq_embed_dim", None) or config.latent_channels)
        if config.out_channels != self.channels:
            raise UserError(f"it makes {config.out_channels} channels of {self.channels}: expected as many")
        self._mean = getattr(config, "latents_mean", None) or getattr(config, "shift_factor", None) or 0.0
        self._deviation = getattr(config, "latents_std", None) or 1.0

    def encode(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d y x"]:
        """Latents of pictures: of a KL code the mean."""
        made = self.model.encode(x)
        z = made.latent_dist.mode() if self.kind == "AutoencoderKL" else made.latents
        return (z - self._each(self._mean, z)) / self._each(self._deviation, z) * self._scale

    def decode(self, z: Float[Tensor, "b d y x"]) -> Float[Tensor, "b c h w"]:
        """Pictures of latents."""
        own = z / self._scale * self._each(self._deviation, z) + self._each(self._mean, z)
        return self.model.decode(own).sample

    def forward(
        self, x: Float[Tensor, "b c h w"], draw: Callable[[Tensor], Tensor]
    ) -> tuple[Float[Tensor, "b c h w"], Float[Tensor, ""]]:
        """Pictures as they come back in training, and what their code costs, see `ConvCodec`."""
        made = self.model.encode(x)
        if self.kind == "AutoencoderTiny":
            return self.model.decode(made.latents).sample, x.new_zeros(())
        if self.kind == "VQModel":
            back = self.model.decode(made.latents)
            return back.sample, torch.as_tensor(back.commit_loss).mean()
        d = made.latent_dist
        cost = (d.mean**2 + d.var - 1 - d.logvar).mean() / 2
        return self.model.decode(d.mean + d.std * draw(d.mean)).sample, cost

    @property
    def _scale(self) -> float:
        return float(self.model.config.scaling_factor or 1.0)

    @staticmethod
    def _each(value: Any, z: Tensor) -> Tensor:
        """A number, or one of each channel."""
        return z.new_tensor(value).reshape(-1, 1, 1)
