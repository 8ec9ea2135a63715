"""run.json: what a folder of translated pictures is, compared when the run is restarted.

It has three parts: "run" is all that defines the pictures, "from" what else is needed to do the run
again, "result" counts, NFE and seconds, null until the run is complete.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sfumato.data.folders import write_text
from sfumato.errors import UserError
from sfumato.terminal import say


def write_run(out: Path, run: Any, origin: Any, result: Any) -> None:
    """Writes run.json, atomically."""
    parts = {"run": run, "from": origin, "result": result}
    write_text(out / "run.json", json.dumps(parts, indent=2) + "\n")


def read_run(folder: Path, name: str = "run.json") -> dict[str, Any]:
    """The three parts of a run.json.

    Raises:
        UserError: if there is none, or not one of a translation.
    """
    try:
        saved = json.loads((folder / name).read_text(encoding="utf-8"))
        return {key: saved[key] for key in ("run", "from", "result")}
    except (OSError, ValueError, KeyError, TypeError):
        raise UserError(
            f"{folder} holds no translation, or its {name} is damaged: choose another folder"
        ) from None


def check(out: Path, run: dict[str, Any], expect: Mapping[str, Any] | None) -> None:
    """Sees that `out` is new, empty, or holds this very run; removes what a kill left there.

    Raises:
        UserError: if it holds anything else, or if `run` is not the expected one.
    """

    def differences(other: Mapping[str, Any]) -> list[str]:
        old, new = ({**r, **r.get("options", {})} for r in (other, run))
        return [k for k in new if k not in ("options", "translator") and old.get(k) != new[k]] or [
            k for k in ("options", "translator") if other.get(k) != run[k]
        ]

    changed = differences(expect) if expect is not None else []
    if expect is not None and changed == ["versions"]:
        say(f"repeated with {run['versions']}, made with {expect['versions']}", file=sys.stderr)
    elif changed:
        raise UserError(f"the run cannot be repeated: {', '.join(changed)} changed since")
    if out.exists() and not out.is_dir():
        raise UserError(f"{out} is a file: choose another --out")
    left = list(out.rglob(".*.tmp"))  # of a killed run
    if not out.is_dir() or not set(out.iterdir()) - set(left):
        return
    if changed := differences(read_run(out)["run"]):
        raise UserError(
            f"{out} holds another run ({', '.join(changed)} differ): choose another --out "
            f"or delete it"
        )
    for file in left:
        file.unlink()


def sha256(*files: Path) -> str:
    """Hash of the files' contents, one after the other."""
    total = hashlib.sha256()
    for file in files:
        total.update(file.read_bytes())
    return total.hexdigest()


def digest(files: Mapping[Path, Path]) -> str:
    """Hash of the results' names and the pictures' contents."""
    total = hashlib.sha256()
    for name, file in files.items():
        with contextlib.suppress(PermissionError):  # reading it says so
            total.update(f"{name.as_posix()} {sha256(file)}\n".encode())
    return total.hexdigest()
