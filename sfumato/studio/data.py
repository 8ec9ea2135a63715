"""The tab that looks at folders of pictures before any training."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from sfumato import doctor

from .controls import NONE, controls
from .given import Given
from .page import Form, alert, helps, message, plain, said

SKIPPED = ("a", "b", "test_a", "test_b", "all_methods", "write_list")  # visitors write no files
NOTHING = "No folder of yours was named: start the studio as `sfumato studio FOLDER`. The examples will do."


def examine(given: Given, held: dict[str, Any]) -> str:
    """The doctor's report on folders that were given, as plain text.

    Raises:
        UserError: for other folders, and see `doctor`.
    """
    from sfumato.errors import UserError, choose

    folders: list[Path | None] = []
    for name in (held["a"], held["b"]):
        none = name in (None, NONE)
        folders.append(None if none else given.folders[choose("folder", name, given.folders)])
    a, b = folders
    if a is None:
        raise UserError("no folder chosen: choose one")
    text = doctor(a, b, size=held["size"] or None, measure=bool(held["measure"])).text()
    for name, folder in given.folders.items():  # visitors know folders by their names
        text = text.replace(str(folder), name)
    return text


def build(given: Given) -> None:
    """The tab."""
    import gradio as gr

    form, texts, names = Form(), helps(doctor), list(given.folders)
    own = [name for name in names if not name.startswith("examples: ")]
    with gr.Row():
        with gr.Column(scale=2, min_width=300):
            form.add("a", gr.Dropdown(names, value=(own or names)[0], label="a", info=texts["a"]))
            form.add("b", gr.Dropdown([NONE, *names], value=NONE, label="b", info=texts["b"]))
            for control in controls(doctor, skip=SKIPPED):
                form.add(control.name, replace(control, default=None).component())
            go = gr.Button("Examine", variant="primary", elem_id="examine")
        with gr.Column(scale=3, min_width=300):
            status = message("status", said("" if own else NOTHING))
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
