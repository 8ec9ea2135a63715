"""Folders that grow: pictures are translated as they come."""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from sfumato.core.errors import ContentError, UserError
from sfumato.core.options import told_by
from sfumato.core.ranges import Positive
from sfumato.data.hashing import version_of
from sfumato.data.listing import list_pictures
from sfumato.data.value_range import two_ends
from sfumato.translation.options import TranslateOptions
from sfumato.translation.pictures import translate
from sfumato.translation.run_file import NothingTranslated, Summary


@dataclass(frozen=True, eq=False)
class WatchOptions(TranslateOptions):
    """What `watch_folder` is told.

    Args:
        every: seconds between two looks; a picture is taken when it did not change between them.
    """

    every: Positive = 2.0


@told_by(WatchOptions)
def watch_folder(asked: WatchOptions) -> Iterator[Summary]:
    """Translates folders of pictures, and goes on with what comes into them or changes, without end.

    Models are loaded once. A picture that cannot be read is tried again when it changes, and one whose name
    another has that came before is skipped until one of them is renamed. What else folders hold that is
    refused, such as a picture without its mask, is said once, in a warning, and looked at again.

    Yields:
        What was done, each time that anything was: see `translate`.

    Raises:
        UserError: for anything wrong with the models or options, in one line.
    """
    if files := [path for path in asked.given if not Path(path).is_dir()]:
        raise UserError(f"{files[0]} is no folder: expected folders, which pictures come into")
    if asked.further:
        raise UserError("--beside is for folders that are there: leave out --watch-folder, and type it again")
    two_ends(asked.range, "range", "pictures that are to come")
    return _goes_on(replace(asked, loaded={} if asked.loaded is None else asked.loaded, one_of_each=True))


def _goes_on(asked: WatchOptions) -> Iterator[Summary]:
    told: dict[str, Any] = {f.name: getattr(asked, f.name) for f in fields(TranslateOptions)}
    masks = [mask] if (mask := (asked.options or {}).get("mask")) and Path(mask).is_dir() else []
    before: set[Any] | None = None
    done: set[Any] = set()
    refused = missed = ""
    while True:
        gone = ", ".join(str(folder) for folder in asked.given if not Path(folder).is_dir())
        if gone and gone != missed:
            warnings.warn(f"{gone}: not there any more; waiting for it", stacklevel=2)
        missed = gone
        now = {version for folder in asked.given for version in _versions(folder)}
        now |= {version for folder in masks if now for version in _versions(folder)}
        if now and now == before and now != done:  # nobody is writing any more
            with warnings.catch_warnings(record=bool(refused)) as heard:  # said already
                summary, why = _look(told, bool(done))
            if why != refused:
                for text in [*(one.message for one in heard or ()), *([why] if why else ())]:
                    warnings.warn(text, stacklevel=2)
            refused = why
            if summary is not None:
                if summary.written or summary.skipped or not done:
                    yield summary
                done = now
        before = now
        time.sleep(asked.every)


def _look(told: dict[str, Any], begun: bool) -> tuple[Summary | None, str]:
    """What was done; or why nothing was, which a later look may find mended.

    Raises:
        UserError: what was asked for is wrong, which has worked if it was `begun`.
    """
    try:
        return translate(**told), ""
    except NothingTranslated as error:
        return error.summary, ""
    except UserError as error:
        if not (begun or isinstance(error, ContentError)):
            raise
        return None, str(error)


def _versions(folder: str | Path) -> list[Any]:
    """What is known of the pictures of a folder; nothing, as long as there are none."""
    found = list[Any]()
    with suppress(UserError):
        for file in list_pictures(folder).files:
            with suppress(OSError):  # it went meanwhile
                found.append(version_of(file))
    return found
