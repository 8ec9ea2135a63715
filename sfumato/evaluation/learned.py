"""The feature networks by name, and a domain classifier of one's own as one of them."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor, nn

from sfumato.checkpoints.hub import home
from sfumato.checkpoints.model_folder import load, resolve
from sfumato.core.errors import UserError
from sfumato.data.hashing import hash_of
from sfumato.diffusion.energies import Classifies
from sfumato.diffusion.latents import InLatents
from sfumato.evaluation.features import INCEPTION, Features, Inception, Lite0, rgb
from sfumato.evaluation.protocol import check_features


@runtime_checkable
class Embeds(Classifies, Protocol):
    """A classifier that shows what its logits are linear in, `width` numbers an image."""

    width: int

    def embedding(self, x_t: Tensor, t: Tensor | float, /) -> Tensor:
        """(B, d)."""

    def logits(self, embedding: Tensor, /) -> Tensor:
        """(B, N)."""


class Learned(Features):
    """Features of a folder made by `sfumato train domain_classifier`: "FD-NAME".

    The feature is what the logits are linear in, of images as they are, at the least noise level.  A
    fair judge of guidance is another classifier than the one that guided.

    Args:
        folder: the model's.

    Raises:
        UserError: the folder holds something else.
    """

    def __init__(self, folder: str | Path) -> None:
        super().__init__()
        found, (path, _) = load(folder), resolve(folder)
        if not isinstance(found, Embeds):
            raise UserError(
                f"{folder} holds no domain classifier: expected lite0, inception, or a folder made by "
                f"`sfumato train domain_classifier`"
            )
        if isinstance(found, InLatents):
            raise UserError(f"{folder} sees latents: expected a classifier of pictures, or lite0")
        assert isinstance(found, nn.Module)
        if (channels := getattr(found, "channels", 3)) not in (1, 3):
            raise UserError(
                f"{folder} sees {channels} bands: expected a classifier of 1 or 3 channels, or lite0"
            )
        self.net = found.eval().requires_grad_(False)
        self.t = found.process.t_min
        self.gray = channels == 1
        at = home(path)
        kind = f"{at.repo.partition('/')[2] if at else path.name} ({', '.join(found.domains)})"
        self.name, self.kernel_name = f"FD-{kind}", f"KID-{kind}"
        self.preparation, self.prober = "[-1,1]", f"what {kind} sees most of the reference as"
        self.sha256, self.dim = hash_of(path / "weights.safetensors"), found.width

    def forward(self, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b dim"]:
        return self.net.embedding(self._seen(images), self.t)

    def maps(self, images: Float[Tensor, "b c h w"]) -> list[Tensor]:
        return [self.net.features(self._seen(images), self.t)]

    def _seen(self, images: Tensor) -> Tensor:
        x = rgb(images)
        if self.gray and (x.amax(1) - x.amin(1)).max() > 0.1:
            raise UserError(
                f"{self.name} is of gray pictures, an image is in colour: convert it to gray, or take "
                f"--features lite0"
            )
        return x[:, :1] if self.gray else x

    def says(self, features: Float[Tensor, "b dim"]) -> Tensor:
        """The domain (B,) that it sees, by its number."""
        there = next(self.net.parameters()).device
        return self.net.logits(features.to(there)).argmax(1).cpu()


def named_features(name: str = "lite0", weights: str | Path | None = None) -> Features:
    """The feature network of this name: "lite0", "inception" with its file of weights, or a folder's.

    Raises:
        UserError: the name is unknown, or weights are missing or were given in vain.
    """
    if name == "lite0":
        if weights is not None:
            raise UserError(f"lite0 brings its weights: use inception, or leave out {weights}")
        return Lite0()
    if check_features(name) != "inception":
        return Learned(name)
    if weights is None:
        raise UserError(
            f"inception needs its file of weights, {INCEPTION}: --inception FILE, or --features lite0"
        )
    return Inception(weights)
