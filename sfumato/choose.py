"""The one answer to a name that is not known: the nearest one, and all that there are."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def choose(kind: str, name: str, known: Iterable[str]) -> str:
    """`name`, if it is known.

    Raises:
        ValueError: "unknown KIND NAME: did you mean NEAREST? known: ...".
    """
    known = list(known)
    if name in known:
        return name
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.4)
    hint = f"did you mean {near[0]!r}? " if near else ""
    raise ValueError(f"unknown {kind} {name!r}: {hint}known: {', '.join(known)}")
