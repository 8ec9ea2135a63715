"""Stacks as folders of pictures: TIFFs, DICOMs and NIfTIs of which every page is a picture of its own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from sfumato.core.errors import UserError
from sfumato.data.image_folder import ImageFolder
from sfumato.data.listing import page_name, stem_of
from sfumato.data.preparation import Preparation
from sfumato.data.read import Page, Readable, each_page, header_of
from sfumato.data.tiff import MANY


class Pages(ImageFolder):
    """The pages of the files of folders, by index; those of files that have several are called by both, as
    `brain.nii.gz[12]`, the first one `brain.nii.gz[1]`.

    Args:
        paths: see `ImageFolder`.
        preparation: how images are made of them.

    Raises:
        UserError: as `ImageFolder`; or a TIFF has more pages than are counted.
    """

    each = (*ImageFolder.each, "places")

    def __init__(
        self,
        paths: str | Path | Sequence[str | Path],
        preparation: Preparation = Preparation(),  # noqa: B008
    ) -> None:
        super().__init__(paths, preparation)
        self.places, rows = list[Readable](), list[int]()
        for i, file in enumerate(self.paths):
            pages = each_page(file)
            if len(pages) >= MANY and header_of(file).kind == "TIFF":
                raise UserError(f"{file} holds {MANY:,} pages or more: split it")
            self.places += pages
            rows += [i] * len(pages)
        self.paths, self.roots = [self.paths[i] for i in rows], [self.roots[i] for i in rows]
        named = zip((self.file_names[i] for i in rows), self.places, strict=True)
        self.file_names = [page_name(n, p.number) if isinstance(p, Page) else n for n, p in named]
        self.names = [stem_of(name) for name in self.file_names]

    def picture(self, index: int) -> Readable:
        return self.places[index]
