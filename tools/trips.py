"""How often a call climbs: from a function to one of a higher floor, as the program runs.

    python tools/trips.py            train a method, translate a folder, evaluate results: all tiny

A climb is a call, however often it is made, from one function to another whose room lies higher in FLOORS
of tests/test_layers.py: a method that is called by the part it extends, or a function that was handed down.
What lies in core/, and what decorates a function, passes calls on and is looked through; a return is no call.
"""

from __future__ import annotations

import functools
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

from house import room, rows

TREE = Path(__file__).parents[1]
FLOOR = {r: i for i, names in enumerate(rows(TREE)) for r in names}


DECORATORS = ("in_single.<locals>", "of_any_kind.<locals>", "__init_subclass__")


def place(frame: FrameType | None) -> tuple[str, str] | None:
    """Module and function of a frame, if it is one of sfumato that does more than pass calls on."""
    return named(frame.f_globals.get("__name__", ""), frame.f_code) if frame else None


@functools.cache
def named(module: str, code: CodeType) -> tuple[str, str] | None:
    """Of a module and a function's code, the same."""
    if not module.startswith("sfumato") or room(module) == "core":
        return None
    name = code.co_qualname
    return None if name.startswith(("<module>", *DECORATORS, "Part.__init_sub")) else (module, name)


def climbs(trip: Callable[[], Any]) -> list[str]:
    """The functions of a higher floor that a trip calls, and a function that does: "CALLER -> CALLED"."""
    found: dict[str, str] = {}

    def look(frame: FrameType, event: str, _: Any) -> None:
        if event != "call" or (to := place(frame)) is None:
            return
        caller = frame.f_back
        while caller is not None and place(caller) is None:
            caller = caller.f_back
        if caller is not None and (before := place(caller)) is not None:
            if FLOOR[room(to[0])] > FLOOR[room(before[0])]:
                found.setdefault(".".join(to), ".".join(before))

    sys.settrace(look)  # None for each call: its lines are not looked at
    try:
        trip()
    finally:
        sys.settrace(None)
    return [f"{before} -> {to}" for to, before in found.items()]


def main() -> None:
    """Makes the three trips and prints their climbs."""
    import accelerate  # noqa: F401  # outside of the trips: what is imported calls very much
    import matplotlib.figure  # noqa: F401
    import torch

    import sfumato

    with tempfile.TemporaryDirectory() as name:
        here = Path(name)
        data = {domain: here / domain for domain in "23"}
        for folder in data.values():
            for i in range(6):
                sfumato.write(torch.rand(3, 16, 16) * 2 - 1, folder / f"{i}.png")
        small = {"size": 16, "steps": 2, "batch": 2, "quiet": True, "options": {"net": "tiny"}}

        def train() -> None:
            sfumato.train("diffusion", data, here / "run", **small)

        def translate() -> None:
            ends = {"source": f"{here}/run:2", "target": f"{here}/run:3"}
            sfumato.translate(here / "2", here / "out", method="ddib", **ends)

        def evaluate() -> None:
            sfumato.evaluate(here / "out", here / "2", target=here / "3")

        for trip in (train, translate, evaluate):
            found = climbs(trip)
            print(f"{trip.__name__}: {len(found)} climbs", *found, sep="\n    ")


if __name__ == "__main__":
    main()
