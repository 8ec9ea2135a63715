"""The projection of patches' features in CUT (https://arxiv.org/abs/2007.15651, sec. 3)."""

from __future__ import annotations

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor, nn

from sfumato.module import Part


class PatchHead(Part):
    """For each layer's features an MLP of two layers, and unit length.

    Args:
        widths: channels of each layer's features.
        nc: channels of the projection.
    """

    widths: tuple[int, ...]
    nc: int = 256

    def __post_init__(self) -> None:
        self.mlps = nn.ModuleList(
            nn.Sequential(nn.Linear(w, self.nc), nn.ReLU(), nn.Linear(self.nc, self.nc)) for w in self.widths
        )

    def forward(self, features: Sequence[Tensor], places: Sequence[Tensor]) -> list[Float[Tensor, "b n nc"]]:
        """Projections at these places (n,) of the flattened features (B, C, h, w)."""
        out = []
        for mlp, f, place in zip(self.mlps, features, places, strict=True):
            v = mlp(f.flatten(2)[:, :, place].mT)
            out.append(v / (v.norm(dim=2, keepdim=True) + 1e-7))
        return out
