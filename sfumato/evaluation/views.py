"""What a protocol looks at: pictures at the size of pixels, and at that of features."""

from __future__ import annotations

from dataclasses import dataclass

from sfumato.data.image_folder import ImageFolder
from sfumato.data.pictures import Derived, ImageSet
from sfumato.evaluation.protocol import Protocol, resized


@dataclass(frozen=True)
class Views:
    """Pictures as they are compared.

    Args:
        protocol: the sizes, and the filters to them.
        size: (height, width) of the results.
        known: how their sources were prepared is known; then a protocol with a size of its own begins
            with pictures that are cut as the sources were. Otherwise with whole ones, as the papers'.
    """

    protocol: Protocol
    size: tuple[int, int]
    known: bool

    @property
    def shown(self) -> tuple[int, int]:
        """(height, width) at which pixels are compared."""
        side = self.protocol.size
        return self.size if side is None else (side, side)

    def pixels(self, images: ImageSet) -> ImageSet:
        """What is compared pixel by pixel."""
        p = self.protocol
        if p.size is None:
            return images.fitted(self.size) if isinstance(images, ImageFolder) else images
        return Derived(
            self._cut(images), lambda x: resized(x, p.size, p.filter), f"{p.size} {p.filter}"
        )

    def featured(self, images: ImageSet) -> ImageSet:
        """What the network of the features is shown."""
        p = self.protocol
        if (side := p.feature_size) is not None:
            what = f"{side} {p.feature_filter}"
            return Derived(self._cut(images), lambda x: resized(x, side, p.feature_filter), what)
        if p.size is None and isinstance(images, ImageFolder):
            return images.fitted(self.size)
        return self._cut(images)

    def _cut(self, images: ImageSet) -> ImageSet:
        if self.known and isinstance(images, ImageFolder):
            return images.framed(self.size)
        return images
