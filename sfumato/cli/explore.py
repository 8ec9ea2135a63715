"""The commands of the laboratory of latents; see `sfumato.cli.main`."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from inspect import Parameter
from typing import Any

from cyclopts import App

from sfumato.cli.flags import command, flag, flags, method_flags
from sfumato.core.terminal import count, escaped, say

EXPLORE = "Look inside: latents, operations on them, trajectories, and what a result depends on."
ENCODE = "Encode pictures by a model's ODE into a file of latents."
DECODE = "Decode a file of latents by a model's ODE into pictures."
REPORT = "Compare every latent of a file with N(0, I)."
APPLY = 'Apply a chain of operations to latents: "rotate angle=60, blur sigma=2".'
TRAJECTORY = "Translate a picture and show every step: film strip, animation, curves."
SENSITIVITY = "Show which pixels of a result change with the seed, and on which of the source it depends."
LATENTS = "a file of latents, made by `sfumato explore encode`."

SHOWN = 20
"""Latents that `report` has a line for."""


def explore(chosen: str, words: Sequence[str]) -> App:
    """`sfumato explore COMMAND`, with the flags of the chosen one and of the method that `words` name."""
    app = App(help=EXPLORE)
    for name, (make, text) in COMMANDS.items():
        app.command(make(words) if name == chosen else command(lambda: None, text, []), name=name)
    return app


def encode(words: Sequence[str]) -> Callable[..., None]:
    """`sfumato explore encode PICTURES... --model FOLDER:DOMAIN --out FILE`."""
    from sfumato.explore import encode_pictures
    from sfumato.explore.latents import new_file

    def run(*paths: str, model: str, out: str, **given: Any) -> None:
        new_file(out)
        latents = encode_pictures(paths, model, **given)
        latents.save(out)
        nfe = latents.protocol["encoded"]["nfe"]
        say(f"{count(len(latents.names), 'latent')} written to {out} ({nfe} NFE each)")

    paths = flag("paths", str, Parameter.VAR_POSITIONAL, "pictures, or folders of them.")
    out = flag("out", str, Parameter.KEYWORD_ONLY, "a new file, NAME.safetensors.")
    own = flags(encode_pictures, skip=("paths",), keyword=("model",))
    return command(run, ENCODE, [paths, out, *own])


def decode(words: Sequence[str]) -> Callable[..., None]:
    """`sfumato explore decode FILE --model FOLDER:DOMAIN --out FOLDER`."""
    from sfumato.explore import Latents, decode_latents

    def run(latents: str, *, model: str, out: str, **given: Any) -> None:
        images = decode_latents(Latents.load(latents), model, out, **given)
        say(f"{count(len(images), 'picture')} written to {out}")

    own = flags(decode_latents, skip=("latents",), keyword=("model", "out"))
    return command(run, DECODE, [_file("latents"), *own])


def report(words: Sequence[str]) -> Callable[..., None]:
    """`sfumato explore report FILE`."""
    import json

    from sfumato.data.folders import for_new_file
    from sfumato.explore import Latents, qq_plot
    from sfumato.explore import report as judge

    def run(
        latents: str, *, qq: str | None = None, json: bool = False, full: bool = False, **given: Any
    ) -> None:
        if qq is not None:
            for_new_file(qq, "--qq", ".png")
        loaded = Latents.load(latents)
        judged = [judge(z, **given) for z in loaded.latents]
        reports = dict(zip(loaded.names, judged, strict=True))
        if qq is not None:
            qq_plot(loaded.latents, qq)
        say(_json(reports) if json else _text(reports, full), lines=True)

    def _json(reports: Mapping[str, Any]) -> str:
        numbers = {name: r.to_json() for name, r in reports.items()}
        return json.dumps(_known(numbers), indent=2)

    def _known(value: Any) -> Any:
        """JSON has no NaN, which latents without variance have: null."""
        if isinstance(value, Mapping):
            return {key: _known(one) for key, one in value.items()}
        if isinstance(value, list):
            return [*map(_known, value)]
        return None if isinstance(value, float) and not math.isfinite(value) else value

    def _text(reports: Mapping[str, Any], full: bool) -> str:
        lines = [f"{escaped(name)}: {r.verdict()}" for name, r in reports.items()]
        if full or len(reports) == 1:
            lines = [f"{escaped(name)}\n{r.text()}\n" for name, r in reports.items()]
        elif len(lines) > SHOWN:
            lines = [*lines[:SHOWN], f"... and {len(lines) - SHOWN} more: --full or --json has them all"]
        accepted = sum(r.accepts for r in reports.values())
        return "\n".join([*lines, f"{accepted} of {len(reports)} may be N(0, I)"])

    places = [
        _file("latents"), *flags(judge, skip=("latent",), keyword=("alpha",)),
        flag("full", bool, Parameter.KEYWORD_ONLY, "print all statistics of every latent.", False),
        flag("qq", str | None, Parameter.KEYWORD_ONLY, "a new PNG: quantiles over those of N(0, 1).", None),
        flag("json", bool, Parameter.KEYWORD_ONLY, "print JSON instead of text.", False),
    ]  # fmt: skip
    return command(run, REPORT, places)


def apply(words: Sequence[str]) -> Callable[..., None]:
    """`sfumato explore apply FILE CHAIN --out FILE`."""
    from sfumato.explore import Latents
    from sfumato.explore.chain import apply, outline
    from sfumato.explore.latents import new_file

    def run(latents: str, chain: str, *, out: str, seed: int = 0) -> None:
        new_file(out)
        z = Latents.load(latents)
        z.latents, log = apply(chain, z.latents, z.images, seed)
        z.protocol["operations"] = [*z.protocol["operations"], *log]
        z.save(out)
        for entry in log:
            say(entry["operation"])
            for name, after in entry["after"].items():
                say(f"  {name:16}{entry['before'][name]:10.4g} -> {after:.4g}")
        say(f"{count(len(z.names), 'latent')} written to {out}")

    places = [
        _file("latents"),
        flag("chain", str, Parameter.POSITIONAL_OR_KEYWORD, "operations, separated by commas."),
        flag("out", str, Parameter.KEYWORD_ONLY, "a new file, NAME.safetensors."),
        flag("seed", int, Parameter.KEYWORD_ONLY, "seed of the fixed noise.", 0),
    ]
    return command(run, f"{APPLY}\n\nThe operations, with their defaults:\n\n{outline()}", places)


def trajectory(words: Sequence[str]) -> Callable[..., None]:
    """`sfumato explore trajectory PICTURE --out FOLDER`, with the translator's flags."""
    from sfumato.explore.trajectory import Trajectory
    from sfumato.explore.trajectory import show_trajectory as run

    def said(found: Trajectory, out: str) -> str:
        nfe = int(found.curves["nfe"][-1, 0])
        return f"{count(len(found.times), 'step')} ({nfe} NFE) shown in {out}: {', '.join(found.curves)}"

    return _of_a_picture(run, words, "trajectory", TRAJECTORY, said)


def sensitivity(words: Sequence[str]) -> Callable[..., None]:
    """`sfumato explore sensitivity PICTURE --out FOLDER`, with the translator's flags."""
    from sfumato.explore.sensitivity import Sensitivity
    from sfumato.explore.sensitivity import show_sensitivity as run

    def said(found: Sensitivity, out: str) -> str:
        spread, most = found.spread.max().item(), found.depends.max().item()
        place = divmod(int(found.depends.argmax()), found.depends.shape[1])
        return (
            f"{out}: deviation over seeds up to {spread:.3g}, change by a covered cell up to {most:.3g} "
            f"(row {place[0]}, column {place[1]}), in units of [-1, 1]"
        )

    return _of_a_picture(run, words, "sensitivity", SENSITIVITY, said)


def _of_a_picture(
    look: Callable[..., Any], words: Sequence[str], name: str, text: str, said: Callable[..., str]
) -> Callable[..., None]:
    """A command that translates one picture, to look at how; `said` makes its line."""
    from sfumato.translation.one_picture import OnePicture

    own, more = method_flags(words, f"explore {name}", {"mask": (None, "")})
    reading = flags(OnePicture.read, skip=("path", "options"))
    looking = flags(look, skip=("given",), keyword=("out",))

    def run(path: str, *, out: str, **given: Any) -> None:
        options, read, rest = (
            {p.name: given[p.name] for p in some if p.name in given} for some in (own, reading, looking)
        )
        say(said(look(OnePicture.read(path, options=options, **read), out, **rest), out))

    path = flag("path", str, Parameter.POSITIONAL_OR_KEYWORD, "the picture.")
    return command(run, text + more, [path, *looking, *reading, *own])


def _file(name: str) -> Parameter:
    return flag(name, str, Parameter.POSITIONAL_OR_KEYWORD, LATENTS)


COMMANDS = {
    "encode": (encode, ENCODE), "decode": (decode, DECODE),
    "report": (report, REPORT), "apply": (apply, APPLY),
    "trajectory": (trajectory, TRAJECTORY), "sensitivity": (sensitivity, SENSITIVITY),
}  # fmt: skip
