"""What is compared: a method with its options, a folder of results, or scores taken elsewhere.

ddib source=runs/pets:cat target=runs/pets:dog
sdedit target=runs/pets:dog strength=0.3,0.5,0.7        (three entries, one curve)
label=CUT folder=results/cut
scores=other/scores.json
"""

from __future__ import annotations

import itertools
import json
import re
import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from inspect import signature
from pathlib import Path
from typing import Any

from sfumato.core.errors import UserError, choose
from sfumato.methods.outline import names
from sfumato.methods.registry import find, info

ROLES = ("model", "source", "target", "classifier")
TAKEN = ("source", "truth", "copy", "mean colour", "moments", "real, training")
"""Labels that every page has."""


@dataclass(frozen=True)
class Entry:
    """One column of a comparison.

    Args:
        label: its name on the page.
        family: entries of one family are the points of one curve.
        method: how to translate; None with model, folder or scores.
        roles: model, source, target, classifier as `sfumato translate` takes them.
        options: options of the method.
        folder: results that are there already.
        scores: a scores.json of another evaluation.
    """

    label: str
    family: str = ""
    method: str | None = None
    roles: Mapping[str, str] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
    folder: str | None = None
    scores: str | None = None

    @property
    def translates(self) -> bool:
        """Whether its results are to be made."""
        return self.folder is None and self.scores is None

    @property
    def slug(self) -> str:
        """The label as a file name."""
        return re.sub(r"[^A-Za-z0-9.=]+", "-", self.label).strip("-.") or "entry"


def entries_of(texts: Sequence[str]) -> list[Entry]:
    """Entries as they are typed; an option with several values, comma between, is swept.

    Raises:
        UserError: an unknown method, a word that is no KEY=VALUE, or labels as in `distinct`.
    """
    return distinct([entry for text in texts for entry in _parse(text)])


def distinct(entries: Sequence[Entry]) -> list[Entry]:
    """The same entries.

    Raises:
        UserError: two entries of one label, or one that the page itself has.
    """
    for label, count in Counter(e.label for e in entries if e.scores is None).items():
        if count > 1:
            raise UserError(f"{count} entries are called {label!r}: give each a label=NAME")
        if label in TAKEN:
            raise UserError(f"an entry cannot be called {label!r}, as the page's own: give a label=NAME")
    return list(entries)


def _parse(text: str) -> list[Entry]:
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise UserError(f"entry {text!r}: {error}") from None
    method = words.pop(0) if words and "=" not in words[0] else None
    if method is not None:
        choose("method", method, names())
    if bare := [w for w in words if "=" not in w]:
        raise UserError(f"{bare[0]!r} in {text!r}: expected METHOD KEY=VALUE ..., see --help")
    given = dict(w.split("=", 1) for w in words)
    if empty := [key for key, value in given.items() if not value]:
        raise UserError(f"{empty[0]}= is empty in {text!r}: type a value after it")
    if len(given) < len(words):
        key, _ = Counter(w.split("=", 1)[0] for w in words).most_common(1)[0]
        raise UserError(f"{text!r} has {key!r} twice: several values are KEY=VALUE,VALUE")
    label, folder, scores = (given.pop(k, None) for k in ("label", "folder", "scores"))
    if method is not None and not (folder or scores):
        _check(method, given)
    roles = {k: given.pop(k) for k in ROLES if k in given}
    if (folder or scores) and (method or roles or given):
        raise UserError(f"{text!r}: pictures that are there already take no method and no options")
    if folder and scores:
        raise UserError(f"{text!r}: expected folder= or scores=, not both")
    if not (method or "model" in roles or folder or scores):
        raise UserError(f"{text!r} says neither a METHOD nor model=, folder= or scores=")
    name = label or method or Path(folder or scores or roles["model"]).name
    swept = {k: [_value(v) for v in values.split(",")] for k, values in given.items()}
    for key, values in swept.items():
        if "" in values:
            raise UserError(f"{key} has an empty value in {text!r}: expected KEY=VALUE,VALUE")
        if twice := [v for v, n in Counter(values).items() if n > 1]:
            raise UserError(f"{key} is {twice[0]} twice in {text!r}: expected each value once")
    several = [k for k, values in swept.items() if len(values) > 1]
    out = []
    for combination in itertools.product(*swept.values()):
        options = dict(zip(swept, combination, strict=True))
        tail = " ".join(f"{k}={options[k]}" for k in several)
        out.append(Entry(f"{name} {tail}".strip(), name, method, roles, options, folder, scores))
    return out


def _check(method: str, given: Mapping[str, str]) -> None:
    """Sees that a method knows all that is given, and has the models it needs.

    Raises:
        UserError: an unknown key, naming the nearest, or a missing model.
    """
    if not info(method).translates:
        return  # what says so knows another method to use
    part: Any = find(method)
    needed = info(method).needs or {"model": True}
    options = signature(part.translate).parameters.keys() - {"self", "source", "seed", "watch"}
    for key in given:
        choose(f"key of {method}", key, (*needed, *sorted(options), "label", "model"))
    for role, must in needed.items():
        if must and role not in given and "model" not in given:
            what = f"{role}=FOLDER" + ("" if role in ("model", "classifier") else ":DOMAIN")
            raise UserError(f"{method} needs {what}, as in '{method} {what} ...'")


def _value(text: str) -> Any:
    """A number or truth value if it reads as one, else the text."""
    try:
        value = json.loads(text.lower() if text.lower() in ("true", "false") else text)
    except ValueError:
        return text
    return value if isinstance(value, (int, float, bool)) else text
