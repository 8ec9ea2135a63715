"""What of run.json a save is bound to: with another model, pictures or seed it is another run."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from sfumato.module import short
from sfumato.training.options import FIXED


def bound(run: Mapping[str, Any]) -> dict[str, Any]:
    """The model, the pictures and the settings that a resumed run keeps."""
    settings = {key: run["settings"][key] for key in FIXED}
    return {"model": run["model"], "data": run["data"], "settings": settings}


def changed(made: Mapping[str, Any], run: Mapping[str, Any]) -> str:
    """What a run says otherwise than what a save was made by, in words; older saves say nothing of some."""
    was = dict(made) | short({key: made[key] for key in ("model",) if key in made})
    now = _shared(json.loads(json.dumps(bound(run))), was)
    return "; ".join(list(differences(was, now))[:3])


def _shared(now: Mapping[str, Any], before: Mapping[str, Any]) -> dict[str, Any]:
    """What of a description the one before says, too."""
    return {
        k: _shared(v, before[k]) if isinstance(v, dict) and isinstance(before[k], dict) else v
        for k, v in now.items()
        if k in before
    }


def differences(before: Mapping[str, Any], now: Mapping[str, Any], path: str = "") -> Iterator[str]:
    """What differs between two descriptions, each in a few words."""
    if "is" in before and before["is"] != now.get("is"):
        names = [str(d.get("is")) for d in (before, now)]
        yield f"{path}{names[0]}, not {names[1]}"
        return
    for key in dict.fromkeys((*before, *now)):
        was, value = before.get(key), now.get(key)
        if isinstance(was, dict) and isinstance(value, dict):
            yield from differences(was, value, f"{path}{key} ")
        elif was != value and path == "digest ":
            yield f"other pictures of {key}" if was and value else f"{key} is new"
        elif was != value:
            yield f"{path}{key} {was}, not {value}"
