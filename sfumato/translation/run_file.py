"""run.json: what a folder of translated pictures is, compared when the run is restarted.

It has three parts: "run" is all that defines the pictures, "from" what else is needed to do the run
again, and of which picture each result was made ("made_of": {picture: sha256}), so that a folder can grow;
"result" has counts, NFE and seconds, null until the run is complete.
"""

from __future__ import annotations

import json
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from sfumato.core.errors import UserError, existing
from sfumato.core.terminal import count, say, verb
from sfumato.data.folders import LOCK, parse_json, regular, write_text
from sfumato.data.hashing import version_of
from sfumato.data.preparation import ALWAYS, Preparation
from sfumato.data.resize import said_size
from sfumato.data.write import is_whole
from sfumato.module import short


@dataclass
class Summary:
    """What a translation did.

    Attributes:
        written, kept: pictures written, and found already there.
        skipped: {picture: why} of those that could not be read, translated or written.
        lost: {reason: pictures} of those that are read, but not whole, see `sfumato.data.header.LOST`.
        sizes: {folder: how many pictures of (height, width) became (height, width)}.
        back: whether results were brought to their sources' size again.
        by_windows: pictures that were too large for the network to see them whole.
        far: lines on pictures that are unlike all that the model has seen.
        nfe, seconds: a picture, on average.
    """

    written: int = 0
    kept: int = 0
    skipped: dict[str, str] = field(default_factory=dict)
    lost: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    sizes: dict[str, Counter[tuple[tuple[int, int], tuple[int, int]]]] = field(
        default_factory=lambda: defaultdict(Counter)
    )
    back: bool = False
    by_windows: int = 0
    far: list[str] = field(default_factory=list)
    nfe: float = 0.0
    seconds: float = 0.0

    def add(self, images: int, nfe: int, seconds: float) -> None:
        """Counts images that were translated with `nfe` network evaluations each, in `seconds` together."""
        if images:
            self.seconds = (self.seconds * self.written + seconds) / (self.written + images)
            self.nfe = (self.nfe * self.written + nfe * images) / (self.written + images)
            self.written += images

    def resized(self) -> list[str]:
        """For each folder whose results have other sizes than their sources: "photos: 3000x2000 -> 32x32"."""
        lines = []
        for folder, counts in self.sizes.items():
            changed = [(a, b) for a, b in counts if a != b]
            for to in sorted({b for _, b in changed}):
                of = sorted({a for a, b in changed if b == to}, key=lambda a: (a[0] * a[1], a))
                before = said_size(of[0])
                if len(of) > 1:
                    before = f"{count(len(of), 'size')} from {before} to {said_size(of[-1])}"
                lines.append(f"{folder}: {before} -> {said_size(to)}" + ", and back" * self.back)
        return lines


class NothingTranslated(UserError):
    """None of the pictures could be translated."""

    def __init__(self, summary: Summary) -> None:
        self.summary, why = summary, next(iter(summary.skipped.values()))
        many = len(summary.skipped)
        super().__init__(f"none of {many} can be translated: {why}" if many > 1 else why)


def write_run(out: Path, run: Any, origin: Any, result: Any) -> None:
    """Writes run.json, atomically."""
    parts = {"run": run, "from": origin, "result": result}
    write_text(out / "run.json", json.dumps(parts, indent=2) + "\n")


def read_run(folder: Path, name: str = "run.json") -> dict[str, Any]:
    """The three parts of a run.json, and whether it is "earlier" than what says how results are written.

    Raises:
        UserError: if there is none, or not one of a translation.
    """
    try:
        saved = parse_json(regular(folder / name).read_text(encoding="utf-8"))
        parts = {key: saved[key] for key in ("run", "from", "result")}
        run = _modern({"options": {}} | parts["run"])
        if not all(isinstance(run[key], dict) for key in ("options", "preparation")):
            raise TypeError
        return parts | {"run": run, "earlier": "format" not in parts["run"]}
    except OSError:
        raise UserError(f"{folder} holds no translation: it has no {name}; choose another folder") from None
    except (ValueError, KeyError, TypeError):
        raise UserError(
            f"{folder / name} is damaged, or not of a translation: choose another folder"
        ) from None


def prepared_in(run: Mapping[str, Any]) -> Preparation:
    """How a run's pictures were prepared.

    Raises:
        UserError: in a way that is not known here.
    """
    return Preparation.from_json({"channels": 3} | ALWAYS | run["preparation"])


def saved_digest(out: Path, expect: Mapping[str, Any] | None) -> Any:
    """What the run that is repeated, or that `out` holds, says of its pictures; None if nothing does."""
    run = expect or (read_run(out)["run"] if (out / "run.json").is_file() else {})
    return pictures.get("sha256") if isinstance(pictures := run.get("pictures"), dict) else None


def saved_depth(out: Path) -> Any:
    """The depth of the results in `out` where its run.json does not say it: earlier versions wrote 8 bits."""
    return 8 if (out / "run.json").is_file() and read_run(out)["earlier"] else None


def crops(out: Path) -> bool:
    """Whether the run that `out` holds cut its pictures, as all did that were not told otherwise once."""
    held = read_run(out)["run"] if (out / "run.json").is_file() else {}
    return isinstance(how := held.get("preparation"), dict) and how.get("resize") == "crop"


def there(result: Path) -> bool:
    """Whether a result is there, whole: where the power failed or a disk is bad, it may be cut or empty."""
    try:
        return _whole(*version_of(result))
    except OSError:
        return False


@lru_cache(maxsize=2**18)
def _whole(result: Path, *version: int) -> bool:
    return is_whole(result)


def damaged(out: Path, results: Iterable[Path]) -> str:
    """In a line, which of these results in `out` are not whole and are going to be made again."""
    broken = [name.as_posix() for name in results if (out / name).exists() and not there(out / name)]
    more = ", ..." if len(broken) > SHOWN else ""
    said = f"{count(len(broken), 'damaged result')} in {out} made again: "
    return said + ", ".join(broken[:SHOWN]) + more if broken else ""


SHOWN = 5
"""Results that are named."""


def to_repeat(run: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """What a translation's run.json, or the folder that holds it, says of the run, and where it came from.

    Raises:
        UserError: it is missing, or says not enough to do the run again.
    """
    existing(run, "a translation's run.json, or its folder")
    saved = read_run(run if run.is_dir() else run.parent, "run.json" if run.is_dir() else run.name)
    what, origin = saved["run"], saved["from"]
    kinds = ((what, "seed", int), (what, "options", dict), (what, "preparation", dict),
             (origin, "sources", list), (origin, "models", dict), (origin, "device", str))  # fmt: skip
    for part, key, kind in kinds:
        if not isinstance(part, dict) or not isinstance(part.get(key), kind):
            raise UserError(f"{run} is damaged: it lacks the {key} of its run; translate again")
    prepared_in(what)
    made_of = known if isinstance(known := origin.get("made_of"), dict) else {}
    others = {key: origin.get(key) for key in ("method", "mask", "batch", "beside")}
    return what, origin | others | {"made_of": made_of}


def check(
    out: Path, run: dict[str, Any], origin: Mapping[str, Any], expect: Mapping[str, Any] | None
) -> dict[str, str]:
    """Sees that the folder `out` is empty or holds this very run, of more or fewer pictures of its folders.

    Args:
        out: the folder.
        run: all that defines its results.
        origin: "roots" of the pictures, and "made_of", {picture: sha256} of them.
        expect: the run that this one must be, if it repeats one.

    Returns:
        {picture: sha256} of what its results were made of.

    Raises:
        UserError: if it holds anything else, or if `run` is not the expected one.
    """

    def differences(other: Mapping[str, Any]) -> list[str]:
        prepared = {k: v for k, v in run["preparation"].items() if k in other.get("preparation", run)}
        new = {**run, **prepared, **run["options"]}
        old = {**other, **other.get("preparation", {}), **other.get("options", {})}
        parts = ("options", "preparation", "translator")
        return [k for k in new if k not in parts and old.get(k) != new[k]] or [
            k for k in ("options", "translator") if other.get(k) != run[k]
        ]

    changed = differences(expect) if expect is not None else []
    if expect is not None and changed == ["versions"]:
        say(f"repeated with {run['versions']}, made with {expect.get('versions', 'others')}", file=sys.stderr)
    elif changed:
        raise UserError(
            f"the run cannot be repeated: {_changed(changed, run, expect or {}, origin['made_of'])}"
        )
    if set(out.iterdir()) <= {out / LOCK}:
        return {}
    held = read_run(out)
    before = held["from"] if isinstance(held["from"], dict) else {}
    made_of = before.get("made_of") if before.get("roots") == origin["roots"] else None
    grows = isinstance(made_of, dict) and all(isinstance(sha, str) for sha in made_of.values())
    if changed := [key for key in differences(held["run"]) if key != "pictures" or not grows]:
        raise UserError(
            f"{out} holds another run (it differs in {', '.join(changed)}): choose another --out or delete it"
        )
    return made_of if grows else {}  # type: ignore[return-value]


def _changed(
    keys: Sequence[str], run: Mapping[str, Any], before: Mapping[str, Any], now: Mapping[str, str]
) -> str:
    """What of a run changed since, in words: of pictures which, and of weights whose."""
    said = [", ".join(others) + " changed since"] if (others := [k for k in keys if k not in WHICH]) else []
    if "weights" in keys:
        old, new = before.get("weights"), run["weights"]
        roles = [r for r in new if not isinstance(old, dict) or old.get(r) != new[r]]
        named = before.get("models", {})  # which a user's `expect` may lack
        said.append(f"the weights of {', '.join(named.get(r, r) for r in roles)} changed since")
    if "pictures" in keys:
        made_of, many = before.get("made_of", {}), len(now)
        found = {
            "changed since": [name for name in now if made_of.get(name, now[name]) != now[name]],
            "new": [name for name in now if made_of and name not in made_of],
        }
        if not any(found.values()):
            found["gone"] = [name for name in made_of if name not in now]
        if not any(found.values()):  # of an earlier version, which did not record what it was made of
            said.append("pictures changed since")
        for what, names in found.items():
            if names:
                are = "" if what == "changed since" else f"{verb(len(names), 'are')} "
                said.append(f"{len(names):,} of {many:,} pictures {are}{what} ({_some(names)})")
    return "; ".join(said)


WHICH = "weights", "pictures"
"""Of these it is said which."""


def _some(names: Sequence[str]) -> str:
    """The first of these names."""
    return ", ".join(names[:SHOWN]) + ", ..." * (len(names) > SHOWN)


def _modern(run: dict[str, Any]) -> dict[str, Any]:
    """A run as it is recorded now; those of format 1's time say how in fields of their own."""
    run = (
        {"windows": None, "resize_back": False, "format": "png", "depth": 8, "alpha": False}
        | run
        | {key: short(run.get(key)) for key in ("translator", "options")}
    )
    if "preparation" in run:
        return run
    size, how = (run.get("size"), {"resize": run["resize"], "upscale": run["upscale"], "side": "whole"})
    rest = {k: v for k, v in run.items() if k not in ("size", *how)}
    return rest | {"preparation": how | {"size": size and [size, size]}}
