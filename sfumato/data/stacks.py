"""Stacks as folders of pictures: TIFFs, DICOMs and NIfTIs of which every page is a picture of its own."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from sfumato.core.errors import UserError
from sfumato.core.terminal import count
from sfumato.data.hashing import hash_of
from sfumato.data.image_folder import ImageFolder
from sfumato.data.listing import file_of, page_name, stem_of
from sfumato.data.preparation import Preparation
from sfumato.data.read import Joined, Page, Readable, each_page, files_in, header_of, pages_of
from sfumato.data.tiff import MANY


class Places(ImageFolder):
    """Pictures of folders that are read from other places than one file each."""

    each = (*ImageFolder.each, "places")
    places: list[Readable]

    def picture(self, index: int) -> Readable:
        return self.places[index]

    def _hash(self, index: int) -> str:
        with suppress(OSError):  # which reading says
            return " ".join(map(hash_of, files_in(self.places[index])))
        return ""


class Pages(Places):
    """The pages of the files of folders, by index; those of files that have several are called by both, as
    `brain.nii.gz[12]`, the first one `brain.nii.gz[1]`.

    Args:
        paths: see `ImageFolder`.
        preparation: how images are made of them.

    Raises:
        UserError: as `ImageFolder`; or a TIFF has more pages than are counted.
    """

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


def joined(first: ImageFolder, beside: Sequence[ImageFolder]) -> ImageFolder:
    """The same pictures, after whose channels come those of the pictures of equal names in further folders.

    Raises:
        UserError: a name is missing in one of them, or twice; or files have other numbers of pages.
    """
    if not beside:
        return first
    made, partners, known = Places.__new__(Places), list[ImageFolder](), set(first.names)
    vars(made).update(vars(first), left_out=dict(first.left_out))
    for one in beside:
        one.by_name()
        check_pages(first, one)
        partners.append(one.only(first.names, "partner", f"pictures of {first.folder}"))
        made.left_out |= one.left_out
        rest = [f for f, name in zip(one.file_names, one.names, strict=True) if name not in known]
        if rest and first.left_out:  # of single pictures others may stay without
            made.left_out[one.folder] = one.left_out.get(one.folder, {}) | {ALONE: rest}
    places = ([folder.picture(i) for folder in (first, *partners)] for i in range(len(first)))
    made.places = [Joined(tuple(files)) for files in places]
    return made


ALONE = "that have no picture of their name in the first folder"


def check_pages(one: ImageFolder, other: ImageFolder) -> None:
    """Sees that files of equal names have equally many pages, if all pages are pictures.

    Raises:
        UserError: they have not.
    """
    theirs = _pages(other)
    for file, pages in _pages(one).items():
        if (n := theirs.get(file, pages)) != pages:
            raise UserError(
                f"{file} has {count(pages, 'page')} in {one.folder} and {n:,} in {other.folder}: expected as "
                f"many, which are paired by their numbers"
            )


def _pages(part: ImageFolder) -> dict[str, int]:
    """{file name without its suffix: how many pages of it are pictures}."""
    named = zip(part.file_names, part.paths, strict=True)
    return {stem_of(file_of(name)): 1 if file_of(name) == name else pages_of(path) for name, path in named}
