"""The discriminator that judges overlapping patches (https://arxiv.org/abs/1611.07004, sec. 3.2.2)."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn

from sfumato.core.errors import UserError
from sfumato.core.ranges import Count
from sfumato.core.terminal import count
from sfumato.module import Part
from sfumato.nets.layers import BlurDown, make_norm


class PatchGAN(Part):
    """(B, channels, H, W) -> (B, 1, h, w): a score for each patch, high where it looks real.

    Args:
        channels: channels of the images, or of source and target together.
        ndf: channels of the first layer; they double from layer to layer up to eightfold.
        n_layers: layers that halve the size; with 0, 1, 2, 3 the patches have 7, 16, 34, 70 pixels.
        norm: instance, batch, or affine.
        antialias: blur instead of stride (CUT).
    """

    channels: Count = 3
    ndf: int = 64
    n_layers: int = 3
    norm: str = "instance"
    antialias: bool = False

    def __post_init__(self) -> None:
        layers: list[nn.Module] = []
        c = self.channels
        for i in range(self.n_layers + 1):  # the last of these keeps the size
            width, bias = self.ndf * min(2**i, 8), i == 0 or self.norm != "batch"
            halves = i < self.n_layers
            layers += [
                nn.Conv2d(c, width, 4, 2 if halves and not self.antialias else 1, 1, bias=bias),
                *([make_norm(self.norm, width)] if i else []),
                nn.LeakyReLU(0.2),
                *([BlurDown()] if halves and self.antialias else []),
            ]
            c = width
        self.model = nn.Sequential(*layers, nn.Conv2d(c, 1, 4, 1, 1))

    def features(self, x: Float[Tensor, "b c h w"]) -> list[Tensor]:
        """What each activated layer says of images, and the scores last."""
        self._check(x)
        found = []
        for layer in self.model:
            x = layer(x)
            found += [x] if isinstance(layer, nn.LeakyReLU) else []
        return [*found, x]

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b 1 y x"]:
        self._check(x)
        return self.model(x)

    def _check(self, x: Tensor) -> None:
        least = 3 * 2**self.n_layers  # two more 4x4 convolutions follow the halvings
        if min(x.shape[2:]) < least:
            raise UserError(
                f"images of {x.shape[2]}x{x.shape[3]} are too small for a discriminator of "
                f"{count(self.n_layers, 'layer')}, which needs {least}: use --n-layers-d 1, or a larger "
                f"--size"
            )


def patch_size(n_layers: int) -> int:
    """Side of the patches in pixels: 7, 16, 34, 70, ... for 0, 1, 2, 3, ... layers."""
    side = 7  # two 4x4 convolutions
    for _ in range(n_layers):
        side = 2 * side + 2  # a 4x4 convolution of stride 2 before them
    return side


def layers_for(side: int, most: int = 3) -> int:
    """As many layers as give patches no larger than the images, at most `most`.

    Raises:
        UserError: if the images are smaller than the smallest patch.
    """
    if side < patch_size(0):
        raise UserError(
            f"a discriminator needs images of {patch_size(0)} pixels or more, not {side}: use a larger --size"
        )
    return max(n for n in range(most + 1) if patch_size(n) <= side)
