"""`sfumato train`: its flags are those of the method that is named, or of the run that is resumed."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping, Sequence
from inspect import Parameter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cyclopts import App

from sfumato.cli.flags import RANGES, command, flag, flags, value_of
from sfumato.core.errors import UserError, choose
from sfumato.core.terminal import say
from sfumato.methods.outline import outlines

if TYPE_CHECKING:
    from sfumato.module import Part


def train(words: Sequence[str]) -> App:
    """`sfumato train METHOD DATA...`: flags are the method's fields and the options of `train`."""
    app = App(
        help="Train a method on folders of pictures. `sfumato train METHOD --help` shows its flags. "
        "`sfumato train --resume --out RUN` goes on with a run."
    )
    chosen, begun = words[1], _begun(words)
    if begun and chosen[:1] == "-":  # the run says the method
        chosen = begun["method"]
        app.default(_trainer(chosen, begun))
    elif chosen and chosen[0] != "-":
        choose("method", chosen, outlines())
        if begun and begun["method"] != chosen and isinstance(begun["method"], str):
            from sfumato.training.run_folder import typed_resume

            out = str(value_of(words, "--out"))
            raise UserError(
                f"{out} is a training of {begun['method']}, not of {chosen}: {typed_resume(out)} goes on "
                f"with it; for another training choose another --out"
            )
    for name, outline in outlines().items():
        if outline.trains_on is None:
            if name == chosen:
                raise UserError(
                    f"{name} is not trained itself: train `diffusion` on your folders, then "
                    f"`sfumato translate --method {name}`"
                )
            continue

        def nothing() -> None: ...

        same = begun if begun.get("method") == name else {}
        method = _trainer(name, same) if name == chosen else nothing
        app.command(method, name=name, help=outline.summary)
    return app


def _begun(words: Sequence[str]) -> dict[str, Any]:
    """How the run was begun that the words resume; nothing if they begin one."""
    out, asked = value_of(words, "--out"), any(w.split("=")[0] == "--resume" for w in words)
    named = words[1][:1] != "-"
    if asked and not (out or named or {"--help", "-h"} & set(words)):
        raise UserError("--resume goes on with a run: name its folder by --out")
    if not (asked and out) or (named and not Path(out, "run.json").exists()):
        return {}  # a run that was killed at once has left nothing: with its method it begins again
    from sfumato.training.train import recorded

    return recorded(Path(out))


DATA = {
    "domains": "NAME=FOLDER for each domain, or one folder that holds a folder for each domain.",
    "pairs": "two folders, source and target, whose pictures have equal names; or, with "
    "--side-by-side, one folder whose pictures hold a pair each.",
    "unpaired": "two folders, source and target.",
}


def _trainer(method: str | Part, begun: Mapping[str, Any]) -> Callable[..., None]:
    from sfumato.methods.registry import find, info, name_of
    from sfumato.training.options import defaults
    from sfumato.training.start import OF_DATA
    from sfumato.training.train import train as begin

    cls = find(method) if isinstance(method, str) else type(method)
    name, kind = name_of(cls), info(cls).trains_on or ""
    own = flags(cls, skip=("self", *OF_DATA))
    own = own if isinstance(method, str) else []
    common = flags(
        begin, skip=("method", "data", "out", "options", "quiet"),
        kinds={"validation": (list[str] | None, "another folder to score it on; repeat for more.")},
    )  # fmt: skip
    known = defaults(cls) | {
        k: _words(v) if k in RANGES else v for k, v in begun.items() if k not in ("validation", "beside")
    }
    common = [p.replace(default=known.get(p.name, p.default)) for p in common]
    options = begun.get("options", {})
    typed = {k: v for k, v in options.items() if isinstance(v, str | int | float | tuple | None)}
    own = [p.replace(default=typed.get(p.name, p.default)) for p in own]  # a network is no flag
    fields = {p.name for p in own}

    def run(*data: str, out: str, **given: Any) -> None:  # given: only what was typed
        from accelerate import PartialState

        chosen = dict(options) | {k: given.pop(k) for k in list(given) if k in fields}
        for key, paths in {"data": data, "validation": given.get("validation")}.items():
            before = "--validation " * (key == "validation")
            given[key] = _named(paths, kind, before) if paths else begun.get(key)
        if begun and not given["data"]:
            raise UserError(
                f"{out} is of an earlier version, which did not record its folders: type them once "
                f"more, sfumato train {name} FOLDERS --resume --out {out}"
            )
        _still_there(begun, given, out)
        if not given["data"]:
            raise UserError(f"no pictures to train on: expected {DATA[kind]}")
        begin(**{**begun, "method": method, "options": chosen, **given}, out=out)
        if PartialState().is_main_process:  # one of several processes speaks for all
            say(f"{out} holds the trained {name} model; `sfumato info {shlex.quote(str(out))}` describes it")

    places = [
        flag("data", str, Parameter.VAR_POSITIONAL, DATA[kind]),
        flag("out", str, Parameter.KEYWORD_ONLY, "the run folder, which then is a model folder."),
    ]
    summary = outlines()[name].summary if name in outlines() else name
    return command(run, summary, [*places, *own, *common])


def _words(stated: Any) -> list[str] | None:
    """A range as it is typed."""
    return None if stated is None else [str(w) for w in ([stated] if isinstance(stated, str) else stated)]


def _still_there(begun: Mapping[str, Any], given: Mapping[str, Any], out: str) -> None:
    """Sees that the folders that a run was begun with are where they were.

    Raises:
        UserError: one is not, and the words name no other.
    """
    from sfumato.data.own import GIVEN
    from sfumato.training.run_folder import typed_resume

    for key, before in (("data", ""), ("validation", "--validation "), ("beside", "--beside ")):
        folders = begun.get(key)
        if not folders or given.get(key, folders) != folders:
            continue
        named = folders if isinstance(folders, Mapping) else None
        paths = named.values() if named else [folders] if isinstance(folders, str) else folders
        if GIVEN in paths:
            raise UserError(
                f"{out} learns from pictures that were given in Python, where it goes on, too: "
                f"{typed_resume(out, {'folders': {key: folders}})}"
            )
        if gone := [path for path in paths if not Path(path).is_dir()]:
            again = [f"{before}{shlex.quote(name)}=FOLDER" for name in named or ()]
            words = " ".join(again or [f"{before}FOLDER"] * len(list(paths)))
            raise UserError(
                f"{gone[0]}, of the pictures of {out}, is no longer there: name where they are now, "
                f"{typed_resume(out)} {words}"
            )


def _named(data: Sequence[str], kind: str | None, flag: str = "") -> Sequence[str] | Mapping[str, str]:
    """NAME=FOLDER ..., each after a flag, as a mapping; anything else as it is."""
    pairs = [item.partition("=")[::2] for item in data if "=" in item and not Path(item).exists()]
    if kind != "domains" or not pairs:
        return data
    wrong = [item for item in data if not all(item.partition("=")[::2])]
    if wrong or len(dict(pairs)) < len(data):
        given = " ".join(f"{flag}{one}" for one in wrong or data)
        more = "" if flag else "; a flag such as --validation is typed before each of its folders"
        raise UserError(
            f"{given}: every domain needs a name of its own and one folder, {flag}NAME=FOLDER{more}"
        )
    return dict(pairs)
