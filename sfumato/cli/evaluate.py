"""The commands that score, compare and look at pictures; see `sfumato.cli.main`."""

from __future__ import annotations

from collections.abc import Callable
from inspect import Parameter
from typing import Any

from sfumato.cli.flags import command, flag, flags
from sfumato.core.errors import UserError
from sfumato.core.terminal import count, say

EVALUATE = "Score a folder of results: a table, JSON and a page, with intervals and controls."
COMPARE = "Translate the same pictures by several methods and write one page that compares them."
ENTRIES = """

Put each entry in quotes: "ddib source=FOLDER:A target=FOLDER:B", "sdedit target=FOLDER:B strength=0.3,0.5"
(two entries, one curve), "model=FOLDER", "label=CUT folder=RESULTS" or "scores=FILE". After a stop, the
same command goes on and reuses what is there.
"""
SWEEP = "Compare every combination of a method's options on the realism-faithfulness plane."
DOCTOR = "Check pictures before a training: faults, leaks, what to type, and how long it takes."
STUDY = "Ask people which of two methods is better: make a blinded page, then count the answers."


def evaluate() -> Callable[..., None]:
    """`sfumato evaluate RESULTS --source A --target B`."""
    from sfumato.evaluation.compare import evaluate

    def run(results: str, **given: Any) -> None:
        _print(evaluate(results, **given))

    return command(run, EVALUATE, flags(evaluate, keyword=("source",)))


def compare() -> Callable[..., None]:
    """`sfumato compare ENTRY ... --source A --target B --out PAGE`."""
    from sfumato.evaluation.compare import compare

    def run(*entries: str, source: str, out: str, **given: Any) -> None:
        _print(compare(source, out, entries, **given))

    entries = flag("entries", str, Parameter.VAR_POSITIONAL, "what to compare, see above.")
    own = flags(compare, skip=("entries",), keyword=("source", "out"))
    return command(run, COMPARE + ENTRIES, [entries, *own])


def sweep() -> Callable[..., None]:
    """`sfumato sweep METHOD --option NAME=VALUE,VALUE`: a comparison of one method's options."""
    from sfumato.evaluation.compare import compare, swept

    roles = {
        "model": "folder of a trained translator.",
        "source_model": "model of the source domain, FOLDER:DOMAIN.",
        "target_model": "model of the target domain, FOLDER:DOMAIN.",
        "classifier": "folder of a domain classifier.",
    }

    def run(method: str, *, option: list[str], source: str, out: str, **given: Any) -> None:
        models = {name.removesuffix("_model"): given.pop(name, None) for name in roles}
        _print(compare(source, out, swept(method, models, option), **given))

    places = [
        flag("method", str, Parameter.POSITIONAL_OR_KEYWORD, "a method, see `sfumato methods`."),
        flag(
            "option",
            list[str],
            Parameter.KEYWORD_ONLY,
            "NAME=VALUE,VALUE,...; repeat the flag for more options.",
        ),
        *(flag(n, str | None, Parameter.KEYWORD_ONLY, text, None) for n, text in roles.items()),
    ]
    own = flags(compare, skip=("entries",), keyword=("source", "out"))
    return command(run, SWEEP, [*places, *own])


def _print(comparison: Any) -> None:
    from sfumato.evaluation.page import table

    table(comparison)
    say(f"{comparison.folder / 'index.html'} shows them")


def doctor() -> Callable[..., None]:
    """`sfumato doctor A [B]`."""
    import json
    import sys
    from functools import partial

    from sfumato.checkup import doctor

    def run(*places: str, **given: Any) -> None:
        as_json = given.pop("json", False)
        given["progress"] = partial(say, file=sys.stderr)
        if not as_json:
            given["watch"] = partial(say, lines=True)  # each part as soon as it is known
        found = doctor(*places, **given)
        if as_json:
            say(json.dumps(found.to_json(), indent=2), lines=True)

    shown = flag("json", bool, Parameter.KEYWORD_ONLY, "print JSON instead of text.", False)
    return command(run, DOCTOR, [*flags(doctor), shown])


def study() -> Callable[..., None]:
    """`sfumato study SOURCE OURS THEIRS --out PAGE`, then `sfumato study --score KEY ANSWERS ...`."""
    from sfumato.evaluation.preference_study import score, study

    def run(*paths: str, out: str | None = None, score_key: str | None = None, **given: Any) -> None:
        if score_key is not None:
            for name in ["out"] * (out is not None) + list(given):
                raise UserError(f"--score counts answers and has no use for --{name}; leave it out")
            say(score(paths, score_key).text)
            return
        if len(paths) != 3 or out is None:
            raise UserError(
                f"a study needs --out and the folders SOURCE OURS THEIRS, not {count(len(paths), 'path')}; "
                f"its answers are counted by `sfumato study --score study_key.json ANSWERS.json ...`"
            )
        page = study(*paths, out, **given)
        say(f"{page} is for the raters; do not show them study_key.json, which lies beside it")

    places = [
        flag(
            "paths",
            str,
            Parameter.VAR_POSITIONAL,
            "three folders, SOURCE OURS THEIRS; with --score, files of answers.",
        ),
        flag("out", str | None, Parameter.KEYWORD_ONLY, "folder for the page and its key.", None),
        flag(
            "score_key",
            str | None,
            Parameter.KEYWORD_ONLY,
            "the study_key.json whose answers are to be counted.",
            None,
        ),
    ]
    own = flags(study, skip=("source", "ours", "theirs", "out"))
    return command(run, STUDY, [*places, *own])


COMMANDS = {
    "evaluate": (evaluate, EVALUATE), "compare": (compare, COMPARE), "sweep": (sweep, SWEEP),
    "doctor": (doctor, DOCTOR), "study": (study, STUDY),
}  # fmt: skip
