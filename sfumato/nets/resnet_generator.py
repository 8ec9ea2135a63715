"""Residual generator (https://arxiv.org/abs/1603.08155) as in CycleGAN and CUT.

c7s1-64, two downsamplings, n residual blocks, two upsamplings, c7s1-3, tanh.  The layers are numbered as
in the papers' code, for CUT's features: with antialiasing 0 is the padded image, 4 and 8 the two
downsampling convolutions, 12 and on the residual blocks.  ReLUs work in place, as there: what a norm
gives as a feature has been through its ReLU.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from sfumato.core.errors import UserError
from sfumato.core.padding import mirrored
from sfumato.core.ranges import Count
from sfumato.module import Part
from sfumato.nets.layers import BlurDown, BlurUp, make_norm


class ResNet(Part):
    """(B, channels, H, W) to the same shape, in (-1, 1) if it is bounded.

    Args:
        channels: channels of the images.
        ngf: channels of the first layer; four times as many in the residual blocks.
        n_blocks: residual blocks: 9 for 256 pixels and more, 6 for 128.
        downs: levels that halve the size: 2 in the papers; 1 keeps more of a small picture's detail.
        norm: instance, batch, or affine.
        antialias: blur before down- and after upsampling (CUT), or strided and transposed
            convolutions (CycleGAN).
        bounded: whether a tanh comes last; results that are no colours have no bounds.
    """

    channels: Count = 3
    ngf: int = 64
    n_blocks: int = 9
    downs: int = 2
    norm: str = "instance"
    antialias: bool = False
    bounded: bool = True

    def __post_init__(self) -> None:
        c, bias, stride = self.ngf, self.norm != "batch", 1 if self.antialias else 2

        def normed(conv: nn.Conv2d | nn.ConvTranspose2d) -> list[nn.Module]:
            return [conv, make_norm(self.norm, conv.out_channels), nn.ReLU(inplace=True)]

        layers = [nn.ReflectionPad2d(3), *normed(nn.Conv2d(self.channels, c, 7, bias=bias))]
        for _ in range(self.downs):
            layers += normed(nn.Conv2d(c, 2 * c, 3, stride=stride, padding=1, bias=bias))
            layers += [BlurDown()] if self.antialias else []
            c *= 2
        self.first_block = len(layers)
        layers += [ResNetBlock(channels=c, norm=self.norm) for _ in range(self.n_blocks)]
        self.encoder = len(layers)
        for _ in range(self.downs):
            if self.antialias:
                layers += [BlurUp(), *normed(nn.Conv2d(c, c // 2, 3, padding=1, bias=bias))]
            else:
                layers += normed(nn.ConvTranspose2d(c, c // 2, 3, 2, 1, output_padding=1, bias=bias))  # fmt: skip  # noqa: E501
            c //= 2
        layers += [nn.ReflectionPad2d(3), nn.Conv2d(c, self.channels, 7)]
        layers += [nn.Tanh()] if self.bounded else []
        self.model = nn.Sequential(*layers)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        h, w = x.shape[2:]
        return self.model(mirrored(x, *self.sides))[..., :h, :w]

    def with_features(
        self, x: Float[Tensor, "b c h w"], layers: Sequence[int]
    ) -> tuple[Float[Tensor, "b c h w"], list[Tensor]]:
        """The result, and what comes out of these layers of the encoder on the way, in ascending order."""
        h, w = x.shape[2:]
        found = self.features(x, [*layers, self.encoder - 1])
        return self.model[self.encoder :](found[-1])[..., :h, :w], found[: len(set(layers))]

    @property
    def sides(self) -> tuple[int, int]:
        """What sides must be multiples of, and the least: reflection needs two features."""
        return 2**self.downs, 2 * 2**self.downs

    def features(self, x: Float[Tensor, "b c h w"], layers: Sequence[int]) -> list[Tensor]:
        """What comes out of these layers of the encoder, in ascending order."""
        found, x = [], mirrored(x, *self.sides)
        for i, layer in enumerate(list(self.model)[: max(layers) + 1]):
            x = layer(x)
            found += [x] if i in layers else []
        return found

    def paper_layers(self) -> tuple[int, ...]:
        """Those that CUT compares: the padded image, what halves the size, the first and middle block."""
        halve = [i for i in range(1, self.first_block) if isinstance(self.model[i], nn.Conv2d)][1:]
        middle = self.first_block + self.n_blocks // 2
        return tuple(sorted({0, *halve, self.first_block, middle}))

    def widths(self, layers: Sequence[int]) -> tuple[int, ...]:
        """Channels of these features.

        Raises:
            UserError: for a layer that the encoder does not have.
        """
        for layer in layers:
            if not 0 <= layer < self.encoder:
                raise UserError(f"nce_layers: the encoder has layers 0 to {self.encoder - 1}, not {layer}")
        widths: list[Any] = [self.channels]  # padding, norms and the like keep what they are given
        for module in list(self.model)[: self.encoder]:
            convolves = isinstance(module, nn.Conv2d)
            widths.append(module.out_channels if convolves else widths[-1])
        return tuple(widths[layer + 1] for layer in sorted(layers))


class ResNetBlock(Part):
    """x + two 3x3 convolutions, reflected at the edges."""

    channels: Count
    norm: str = "instance"

    def __post_init__(self) -> None:
        def conv() -> list[nn.Module]:
            plain = nn.Conv2d(self.channels, self.channels, 3, bias=self.norm != "batch")
            return [nn.ReflectionPad2d(1), plain, make_norm(self.norm, self.channels)]

        self.conv_block = nn.Sequential(*conv(), nn.ReLU(inplace=True), *conv())

    def forward(self, x: Tensor) -> Tensor:
        return self.conv_block(x).add_(x)
