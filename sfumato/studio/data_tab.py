"""The tab that looks at folders of pictures before any training."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from sfumato.checkup import Report
from sfumato.checkup.report import cost_said, doctor
from sfumato.core.errors import UserError
from sfumato.core.terminal import count, escaped
from sfumato.studio.choices import Given
from sfumato.studio.controls import NONE, controls
from sfumato.studio.page import Form, alert, bar, choice, helps, message, plain, said

NOTHING = "These are examples. Folders of your own are here if they were named when the studio was started."
NAMED = 20
"""Files that are named of a finding."""
MARKS = {"error": "MEND", "warning": "LOOK", "note": "note"}
NEXT = """In the studio: pick pictures of these folders in the tab Translate, to see what the models that are
here make of them. Models are trained on the command line; one that is saved in a folder which the
studio was started with is in its lists after Refresh."""


def examine(given: Given, held: dict[str, Any]) -> str:
    """The doctor's report on folders that were given, as plain text: what is typed stands by itself.

    Raises:
        UserError: for other folders, and see `doctor`.
    """
    from sfumato.core.errors import UserError, choose

    folders: list[Path | None] = []
    for name in (held["a"], held["b"]):
        none = name in (None, NONE)
        folders.append(None if none else given.folders[choose("folder", name, given.folders)])
    a, b = folders
    if a is None:
        raise UserError("no folder chosen: choose one")
    text = told(doctor(a, b, size=held["size"] or None, measure=bool(held["measure"])))
    for name, folder in given.folders.items():  # visitors know folders by their names
        text = text.replace(str(folder), name)
    return text


def told(report: Report) -> str:
    """What was found, what to do here, and by itself what to type on a command line."""
    lines = []
    for one in report.findings:
        lines.append(f"{MARKS[one.severity]}  {one.text}")
        lines += [f"        {escaped(name)}" for name in one.named[:NAMED]]
        more = len(one.named) - NAMED
        lines += [f"        and {more:,} more"] if more > 0 else []
    if all(one.severity == "note" for one in report.findings):
        lines.append("No fault found in these pictures.")
    lines.append("")
    for name, splits in report.domains.items():
        lines += [f"{escaped(name)} ({split}): {_facts(facts)}" for split, facts in splits.items()]
    lines += [one.text for one in report.pairs]
    fixes = dict.fromkeys(one.fix for one in report.findings if one.fix)
    typed = [*fixes, report.plan.reason, *(f"  {line}" for line in report.plan.commands)]
    typed += map(cost_said, report.estimates)
    return "\n".join([*lines, "", NEXT, "", "On the command line:", *typed]) + "\n"


def _facts(facts: Mapping[str, Any]) -> str:
    if not facts["count"]:
        return "no picture can be read"
    (w, _, widest), (h, _, highest) = facts["width"], facts["height"]
    size = f"{w}x{h}" if (w, h) == (widest, highest) else f"{w}x{h} to {widest}x{highest}"
    return f"{count(facts['count'], 'picture')} of {size} pixels"


def build(given: Given) -> None:
    """The tab."""
    import gradio as gr

    form, texts, own = Form(), helps(doctor), given.own()
    with gr.Row():
        with gr.Column(scale=2, min_width=300):
            first = next(iter(given.folders))
            form.add("a", choice(
                given, lambda: list(given.folders), value=first, label="a", info=texts["a"]
            ))  # fmt: skip
            form.add("b", choice(
                given, lambda: [NONE, *given.folders], value=NONE, label="b", info=texts["b"]
            ))  # fmt: skip
            for control in controls(doctor):
                if control.name in ("size", "measure"):  # others name files
                    form.add(control.name, replace(control, default=None).component())
        with gr.Column(scale=3, min_width=300):
            go, _, status = bar("Examine", "examine", False, "" if own else NOTHING)
            found = message("text")

    def run(values: dict[Any, Any]) -> Any:
        yield {status: said("looking at the pictures; nothing is changed")}
        try:
            yield {found: plain(examine(given, form.read(values))), status: said("Done.")}
        except (UserError, OSError) as error:
            yield {status: alert(error)}

    go.click(
        run, form.inputs(), [status, found], concurrency_id="doctor", concurrency_limit=1,
        show_progress="hidden", api_visibility="private",
    )  # fmt: skip
