"""A translation of pictures: planned before the first is decoded, and carried out batch by batch."""

from __future__ import annotations

import errno
import math
import os
import time
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sfumato.core.errors import UserError
from sfumato.core.terminal import bar, count, verb
from sfumato.data.folders import locked
from sfumato.data.hashing import hash_of
from sfumato.data.image_folder import ImageFolder
from sfumato.data.listing import in_part
from sfumato.data.masks import EACH, check_mask, mask_for
from sfumato.data.preparation import Prepared
from sfumato.data.read import pages_of
from sfumato.data.tiff import MANY
from sfumato.diffusion.watch import Ended, Watch, end, ending
from sfumato.translation.results import Made, Results
from sfumato.translation.run_file import (
    SHOWN,
    NothingTranslated,
    Summary,
    check,
    damaged,
    read_run,
    saved_digest,
    there,
    write_run,
)
from sfumato.translation.translator import run_translator

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
"""Errors of writing that the next picture will meet, too."""


@dataclass
class Plan:
    """Which pictures become which results, and how.

    Attributes:
        part: the translator, on its device.
        home: where pictures are brought for it.
        options: all of the method's; a mask is a path.
        pictures: the sources.
        out: folder of the results.
        run: all that defines the results, see `sfumato.translation.run_file`.
        origin: what else is needed to repeat the run.
        form: how results are written.
        masks: the mask of each picture, if there are any.
        whole_to: longer side in pixels up to which networks see pictures whole, and not by windows.
        watch: called for each step of each batch, see `integrate`; what it raises ends the run.
        done: what was done so far.
        apart: {picture: why} of those that are left out from the beginning.
    """

    part: Any
    home: torch.device
    options: dict[str, Any]
    pictures: ImageFolder
    out: Path
    run: dict[str, Any]
    origin: dict[str, Any]
    form: Results
    masks: list[Path] = field(default_factory=list)
    whole_to: float = math.inf
    watch: Watch | None = None
    done: Summary = field(default_factory=Summary)
    apart: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.done.back = self.form.resize_back
        self.held: dict[int, torch.Tensor] = {}
        self._hashes = self.pictures.hashes
        if self.masks and self.run["options"]["mask"] == EACH:
            self._hashes = [f"{own} {hash_of(m)}" for own, m in zip(self._hashes, self.masks, strict=True)]

    @property
    def results(self) -> list[Path]:
        """The file that each picture becomes."""
        return [self._result(i) for i in range(len(self.pictures))]

    def rehearse(self) -> None:
        """Translates a ramp up to its first step: so mistakes show that no picture causes.

        Where pictures have sizes of their own, it is enough if the method begins at one of these.

        Raises:
            UserError: it does not begin.
        """
        how, mistake = self.pictures.preparation, None
        for h, w in [how.size] if how.size else sorted(known_sizes(self.pictures), key=math.prod):
            ramp = torch.linspace(-1, 1, how.channels * h * w).view(1, how.channels, h, w)
            mask = {"mask": torch.ones(1, 1, h, w)} if self.masks else {}
            x, options = ramp.to(self.home), self.options | mask
            try:
                run_translator(self.part, x, options=options, watch=end)
                return
            except Ended:
                return
            except UserError as error:
                mistake = error
        if mistake is not None:
            raise mistake

    def carry_out(self, expect: Mapping[str, Any] | None = None) -> Summary:
        """Reads, translates and writes the pictures whose results are missing.

        Args:
            expect: refuse to begin unless `run` is this one.

        Raises:
            UserError: `out` holds another run or was moved, or no picture can be translated.
        """
        out, done, results = self.out, self.done, self.results
        with locked(out), bar("translate", len(results)) as advance:
            now = dict(zip(self.pictures.file_names, self._hashes, strict=True))
            self._grow(check(out, self.run, self.origin | {"made_of": now}, expect))
            here, spent, made = out.stat(), 0.0, defaultdict[int, list[Made]](list)
            if broken := damaged(out, [file.relative_to(out) for file in results if not file.is_dir()]):
                warnings.warn(broken, stacklevel=4)
            for rows, read in self._batches(results, advance):
                began = time.perf_counter()
                if made.keys() - set(rows):  # a file of which a page could not be read
                    made.clear()
                if (translated := self._translate(rows, read)) is None:
                    continue
                (y, nfe), seconds = translated, time.perf_counter() - began
                _stands(out, here)
                if not self.recorded:  # not before it is known to work
                    self._record(None)
                written, spent = 0, spent + seconds
                for i, one, image in zip(rows, read, y.cpu(), strict=True):
                    made[i].append((one, image))
                    if len(made[i]) < self._pages(i):
                        continue
                    pages = made.pop(i)
                    if not self._made(i):
                        _stands(out, here)
                        written += self._write(i, pages, results[i])
                if not made:  # no page waits for others of its file
                    done.add(written, nfe, spent)
                    spent = 0.0
            named = zip(results, self.pictures.paths, strict=True)
            _stands(out, here, [name for name, file in named if str(file) not in done.skipped])
            done.kept = len(results) - done.written - len(done.skipped)
            nothing, done.skipped = len(done.skipped) == len(results), done.skipped | self.apart
            if nothing:
                raise NothingTranslated(done)
            before = read_run(out)["result"]
            if done.written or not self.recorded or before is None:
                costs: dict[str, Any] = {"nfe_per_picture": done.nfe, "seconds_per_picture": done.seconds}
                costs = costs if done.written else {k: (before or {}).get(k) for k in costs}
                self._record({
                    "pictures": done.written + done.kept, "skipped": done.skipped, "lost": done.lost,
                    "sizes": done.resized(), **costs,
                })  # fmt: skip
        return done

    def _grow(self, known: Mapping[str, str]) -> None:
        """Finds what is to be done beside results that are there, made of {name: sha256}."""
        names, hashes, results = self.pictures.file_names, self._hashes, self.results
        places = {name: self.form.place(self.out, name) for name in known}
        made = {places[name]: known[name] for name in sorted(known, key=set(names).__contains__)}
        self.stale = {i for i, at in enumerate(results) if made.get(at, hashes[i]) != hashes[i] and there(at)}
        now = {at for i, at in enumerate(results) if i not in self.stale}
        gone = {name: known[name] for name, at in places.items() if at not in now and there(at)}
        self.former = {places[name]: name for name in gone.keys() - set(names)}
        self.made_of = gone | {names[i]: hashes[i] for i in range(len(names)) if i not in self.stale}
        same = saved_digest(self.out, None) == self.run["pictures"]["sha256"]
        self.recorded = same and known in ({}, self.made_of)
        if self.stale:
            some = [names[i] for i in sorted(self.stale)]
            warnings.warn(
                f"{count(len(some), 'picture')} changed since the last time, and translated again: "
                f"{', '.join(some[:SHOWN])}{', ...' * (len(some) > SHOWN)}",
                stacklevel=5,
            )

    def _record(self, result: Mapping[str, Any] | None) -> None:
        """Writes run.json."""
        write_run(self.out, self.run, self.origin | {"made_of": self.made_of}, result)
        self.recorded = True

    def _result(self, i: int) -> Path:
        """The file that a picture becomes."""
        return self.form.place(self.out, self.pictures.file_names[i])

    def _made(self, i: int) -> bool:
        """Whether the result of a picture, as it is now, is there."""
        return i not in self.stale and there(self._result(i))

    def _batches(
        self, results: list[Path], advance: Callable[[int], None]
    ) -> Iterator[tuple[list[int], list[Prepared]]]:
        """Batches of one image size, cut the same way every time; those that are done are left out."""
        batch = self.origin["batch"]
        for start in range(0, len(results), batch):
            chunk = range(start, min(len(results), start + batch))
            groups: dict[torch.Size, dict[int, Prepared]] = defaultdict(dict)
            for i in chunk if not all(map(self._made, chunk)) else []:
                if self._pages(i) > 1:
                    continue
                try:
                    picture = self.pictures.read(i)
                    self._hold(i, picture)
                except UserError as error:
                    self._skip([i], error)
                    continue
                groups[picture.image.shape][i] = picture
                self._lost(i, picture)
            for i in chunk:
                if self._pages(i) > 1 and not self._made(i):
                    yield from self._stack(i)
            for group in groups.values():
                if not all(map(self._made, group)):
                    yield list(group), list(group.values())
            advance(len(chunk))

    def _stack(self, i: int) -> Iterator[tuple[list[int], list[Prepared]]]:
        """Batches of the pages of a file; none of its pages, if one cannot be read."""
        how, batch, pages = self.pictures.preparation, self.origin["batch"], self._pages(i)
        file, first = self.pictures.paths[i], None
        for start in range(0, pages, batch):
            try:
                if pages >= MANY:
                    raise UserError(f"{file} holds {MANY:,} pages or more: split it")
                numbers = range(start, min(pages, start + batch))
                read = [replace(how, page=k).read(self.pictures.picture(i)) for k in numbers]
                first = first or read[0].image.shape
                if any(one.image.shape != first for one in read):
                    raise UserError(
                        f"{file} holds pages of several sizes: add --size with --resize crop or stretch"
                    )
                self._hold(i, read[0])
            except UserError as error:
                self._skip([i], error)
                return
            self._lost(i, *read)
            yield [i] * len(read), read

    def _hold(self, i: int, picture: Prepared) -> None:
        """Reads the mask of a picture, if there are any."""
        if self.masks:
            if self.run["options"]["mask"] == EACH:  # one for all was seen at the beginning
                check_mask(self.masks[i])
            self.held[i] = mask_for(self.masks[i], picture, self.pictures.preparation)

    def _pages(self, i: int) -> int:
        """Pages of a file that are translated."""
        if self.pictures.preparation.page is None:
            return 1
        with suppress(UserError):  # said where it is read
            return pages_of(self.pictures.paths[i])
        return 1

    def _lost(self, i: int, *read: Prepared) -> None:
        for why, text in in_part(self.pictures.paths[i], {k: v for one in read for k, v in one.lost.items()}):
            if text not in (known := self.done.lost[why]):
                known.append(text)

    def _translate(self, rows: list[int], read: list[Prepared]) -> tuple[Tensor, int] | None:
        """Results and network evaluations of each; None if these pictures cannot be translated."""
        x = torch.stack([one.image for one in read]).to(self.home)
        try:
            masks = {"mask": torch.cat([self.held[i] for i in rows])} if self.masks else {}
            options = self.options | masks
            how, watch = {"seed": self.run["seed"], "options": options}, ending(self.watch)
            return run_translator(self.part, x, **how, watch=watch)
        except Ended as ended:
            raise ended.__cause__ or ended from None
        except UserError as error:  # others may be
            self._skip(rows, error)
            return None

    def _write(self, i: int, made: list[Made], result: Path) -> bool:
        """Whether the result of a picture could be written."""
        try:
            self.form.write(result, made, self.pictures.paths[i], self.pictures.preparation)
        except (UserError, OSError) as error:  # no numbers, or a name that is too long
            if isinstance(error, OSError):
                if error.errno in FULL:
                    raise
                error = UserError(f"{error.filename or result}: {error.strerror or error}")
            self._skip([i], error)
            return False
        source, image = made[0]
        h, w = image.shape[-2:]
        self.done.sizes[str(self.pictures.roots[i])][source.size, (h, w)] += 1
        self.made_of.pop(self.former.get(result, ""), None)  # of a name that differs in its suffix
        self.stale.discard(i)
        self.held.pop(i, None)
        self.made_of[self.pictures.file_names[i]] = self._hashes[i]
        self.done.by_windows += max(h, w) > self.whole_to
        return True

    def _skip(self, rows: Iterable[int], why: Exception) -> None:
        self.done.skipped |= {str(self.pictures.paths[i]): str(why) for i in rows}


def known_sizes(pictures: ImageFolder) -> set[tuple[int, int]]:
    """The (height, width) of all pictures that can be read."""
    seen = set()
    for i in range(len(pictures)):
        with suppress(UserError):  # said where it is read
            seen.add(pictures.preparation.size_of(pictures.picture(i)))
    return seen


def _stands(out: Path, here: os.stat_result, results: Iterable[Path] = ()) -> None:
    """Sees that `out` is the folder that it was, `here`, and holds these results, whole.

    Raises:
        UserError: it is not, or does not.
    """
    if not (out.exists() and os.path.samestat(here, out.stat())):
        raise UserError(
            f"{out} was moved or deleted while pictures were written into it: this run has stopped, "
            f"and the same command goes on with what was moved, or starts again"
        )
    if gone := [file.relative_to(out).as_posix() for file in results if not there(file)]:
        raise UserError(
            f"{count(len(gone), 'picture')} of {out} {verb(len(gone), 'are')} gone that "
            f"{verb(len(gone), 'were')} written ({gone[0]}): the same "
            f"command makes them again"
        )
