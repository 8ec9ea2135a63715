"""The command of the studio; see `sfumato.cli.main`."""

from __future__ import annotations

from collections.abc import Callable
from inspect import Parameter
from typing import Any

from sfumato.cli.flags import command, flag, flags

STUDIO = "Translate, compare and look inside in a browser, on this machine alone."


def studio() -> Callable[..., None]:
    """`sfumato studio FOLDERS...`."""
    from sfumato.studio import studio as run

    def begin(*folders: str, **given: Any) -> None:
        run(folders, **given)

    what = "model folders, also hf://OWNER/NAME, folders of them, folders of pictures; nothing else is read."
    places = flag("folders", str, Parameter.VAR_POSITIONAL, what)
    return command(begin, STUDIO, [places, *flags(run, skip=("folders", "wait"))])
