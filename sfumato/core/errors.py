"""What a user did wrong, said in one line; and the one answer to a name that is not known."""

from __future__ import annotations

import contextlib
import difflib
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from sfumato.core.terminal import escaped, one_line, verb

ADDRESS = re.compile(r"(?:^|=)(?:https?|s?ftps?|file|s3|gs):/", re.IGNORECASE)
"""What no path begins with; a `Path` holds one of its two slashes."""


class UserError(ValueError):
    """A mistake of the user's: one line that says what was given, what was expected, what to type.

    The command line shows it and exits with 2.  Any other exception is a bug of ours and shows its
    traceback.  Names in it may hold anything: it is plain text, in one line, all the same.
    """

    def __init__(self, text: str) -> None:
        super().__init__(one_line(escaped(text.strip())))


class ContentError(UserError):
    """What folders hold is refused, and not what was asked for: it may be mended while it is waited for."""


class Stopped(KeyboardInterrupt):
    """Work that a signal ended where it can go on; the command line shows the text, exits with 128 + number.

    Args:
        text: what is saved, and what to type.
        number: of the signal.
    """

    def __init__(self, text: str, number: int) -> None:
        super().__init__(text)
        self.number = number


def not_installed(package: str, extra: str) -> UserError:
    """What to type for a package that comes with an extra; sfumato is installed from its source."""
    return UserError(f'this needs {package}: type pip install -e ".[{extra}]" in sfumato\'s source')


def out_of_memory(error: BaseException | str) -> bool:
    """Whether an error, or its line in a traceback, says that the memory of the machine or GPU is full."""
    said = f"{type(error).__name__}: {error}"
    return any(w in said for w in ("MemoryError", "allocate memory", "not enough memory"))


@contextlib.contextmanager
def enough_memory(advice: str) -> Iterator[None]:
    """Says what to do if the memory of the machine or its GPU is too small for what is done inside.

    Raises:
        UserError: it is.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not out_of_memory(error):
            raise
        raise UserError(f"this takes more memory than there is: {advice}") from None


def no_address(name: str, value: object) -> None:
    """Sees that a path, or NAME=PATH, is none of the web.

    Raises:
        UserError: it is.
    """
    if ADDRESS.search(str(value)):
        raise UserError(
            f"{name} must be a path, not the address {str(value)!r}: download it first, then name the file "
            f"or folder; models of the Hugging Face Hub are hf://OWNER/NAME"
        )


def existing(path: str | Path, expected: str) -> Path:
    """The path of what is there.

    Raises:
        UserError: nothing is: "expected EXPECTED".
    """
    if not os.path.exists(path):  # nor is there one whose name is too long
        raise UserError(f"{path} does not exist: expected {expected}")
    return Path(path)


def existing_folder(path: str | Path, expected: str = "a folder of pictures") -> Path:
    """The path of a folder that is there.

    Raises:
        UserError: nothing is, or a file: "expected EXPECTED".
    """
    if not existing(path, expected).is_dir():
        raise UserError(f"{path} is a file: expected {expected}")
    return Path(path)


RENAMED = {
    "alone": "warmup_batches", "distil": "distil_batches", "cells": "coarse_cells",
    "roughness": "coarse_noise", "pool": "buffer", "average": "pairs_ema", "null": "drop_condition",
    "begin": "translators_start_as", "until": "keep_down_to", "release": "release_steps",
    "recentre": "recentre_means", "carried": "at-256", "scale": "guidance_scale",
}  # fmt: skip
"""What options and a value were called: refused with today's name, and read in files."""


def choose(kind: str, name: str, known: Iterable[str], more: str = "") -> str:
    """`name`, if it is known; the nearest one is looked for in small and capital letters alike.

    `more` ends what is said of others.

    Raises:
        UserError: "unknown KIND NAME: did you mean NEAREST? known: ...".
    """
    known = list(known)
    if name in known:
        return name
    if (now := RENAMED.get(str(name))) in known:
        raise UserError(f"{kind} {name!r} is called {now!r} now")
    folded = {k.casefold(): k for k in known}
    near = difflib.get_close_matches(str(name).casefold(), folded, n=1, cutoff=0.4)
    hint = f"did you mean {folded[near[0]]!r}? " if near else ""
    raise UserError(f"unknown {kind} {name!r}: {hint}known: {', '.join(known)}{more}")


def check_numbers(arrays: Mapping[str, Any], hint: str = "") -> None:
    """Refuses tensors and arrays that hold NaN or infinities.

    Args:
        arrays: by what they are called.
        hint: what to do about it, with its comma or colon.

    Raises:
        UserError: naming the first five.
    """
    import numpy as np

    wrong = []
    for name, x in arrays.items():
        if not (x.isfinite() if hasattr(x, "isfinite") else np.isfinite(x)).all():
            wrong.append(name)
    if wrong:
        raise UserError(
            f"{', '.join(wrong[:5])} {verb(len(wrong), 'have')} values that are not numbers{hint}"
        )
