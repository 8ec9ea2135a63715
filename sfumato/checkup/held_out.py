"""Which pictures are not trained on, and the flags that say so."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from sfumato.checkup.inspection import Inspected
from sfumato.data.sets import held_stems
from sfumato.training.options import DEFAULTS


def kept_aside(part: Mapping[str, Path]) -> Path:
    """The pictures to translate: a split that is not trained on, if there is one."""
    return part.get("test") or part.get("val") or part["train"]


def test_folders(parts: Sequence[Mapping[str, Path]]) -> list[Path]:
    """The folders of such a split, if all have one."""
    found = [kept_aside(part) for part in parts]
    return [] if any(f == part["train"] for f, part in zip(found, parts, strict=True)) else found


def validation(parts: Sequence[Mapping[str, Path]]) -> list[str | Path]:
    """Flags that score the training on them."""
    return [word for folder in test_folders(parts) for word in ("--validation", folder)]


def none_held_out(good: Sequence[Inspected], gone: Collection[str], paired: bool = False) -> list[str]:
    """The flag that holds no picture out, where training would refuse to: nothing would be left of a part."""
    parts: dict[str, list[str]] = {}
    for one in good:
        if one.split == "train" and str(one.path) not in gone:
            parts.setdefault(one.domain, []).append(one.of_file)
    names = [list(dict.fromkeys(part)) for part in parts.values()]
    if paired:  # of what has no partner nothing is trained on
        names = [[name for name in part if all(name in other for other in names)] for part in names]
    held = held_stems(names, DEFAULTS["held_out"])
    return ["--held-out 0"] * any(held.issuperset(part) for part in names)
