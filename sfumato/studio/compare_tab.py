"""The tab that compares: one picture by many methods, with their default options."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

from sfumato.core.errors import UserError
from sfumato.methods.registry import info
from sfumato.studio import jobs
from sfumato.studio.choices import Given
from sfumato.studio.jobs import Done, Shelf
from sfumato.studio.methods import Roles, ask, available, make, steps_of
from sfumato.studio.page import (
    Form,
    Picker,
    alert,
    bar,
    cancels,
    helps,
    message,
    paths,
    progress,
    said,
    shows,
    table,
)
from sfumato.studio.translate_tab import before_and_after

AT_FIRST = ("ddib", "sdedit", "ilvr", "egsde")


def compared(methods: list[str], seed: int) -> None:
    """One picture by many methods.

    Args:
        methods: each translates the picture, with its default options.
        seed: seed of the noise; the same for all.
    """


def build(given: Given, shelf: Shelf) -> None:
    """The tab."""
    import gradio as gr

    form, texts, start = Form(), helps(compared), given.start()
    with gr.Row():
        with gr.Column(scale=2, min_width=300):
            picker = Picker(given, shelf, "picture to translate", start.folder)
            form.add("pictures", picker.pictures)
            names = available(given)
            first = [n for n in AT_FIRST if n in names
                     and (start.classifier or "classifier" not in info(n).needs)]  # fmt: skip
            ticked = form.add("methods", gr.CheckboxGroup(
                names, value=first, label="methods", info=texts["methods"]
            ))  # fmt: skip
            given.offered.append((ticked, lambda: {"choices": available(given)}))
            Roles(given, form)
            form.add("seed", gr.Number(0, label="seed", info=texts["seed"], precision=0))
        with gr.Column(scale=3, min_width=300):
            go, cancel, status = bar("Compare", "compare", text="Pick a picture, and press Compare.")
            shown = gr.Gallery(
                label="side by side", columns=3, height="auto", allow_preview=False, interactive=False,
                object_fit="contain", format="png", buttons=[],
                elem_classes=["sfumato-picture", "sfumato-side"], elem_id="compared",
            )  # fmt: skip
            facts = message("text")
    picker.on_pick(form)

    def run(values: dict[Any, Any]) -> Iterator[dict[Any, Any]]:
        held = form.read(values)
        pictures: list[tuple[Any, str]] = []
        rows: list[list[object]] = []
        if not held["methods"]:
            yield {status: alert("no method chosen: tick at least one")}
            return
        for method in held["methods"]:
            folder = shelf.new()
            try:
                trained = given.trained(method)
                if trained and held["model"] not in trained:
                    held["model"] = trained[0]
                asked = ask(given, method, held)
                work = partial(make, asked, paths(held["pictures"])[:1], folder)
                for event in jobs.run(work):
                    if isinstance(event, Done):
                        ((before, after),) = before_and_after(folder)
                        pictures = pictures or [(before, "before")]
                        pictures.append((after, method))
                        rows.append([method, f"{event.value.nfe:g}", f"{event.value.seconds:.2f}", ""])
                    else:
                        yield {status: progress(event, steps_of(asked))}
            except (UserError, OSError) as error:
                rows.append([method, "", "", " ".join(str(error).split())])
            wrong = any(row[-1] for row in rows)
            seen = rows if wrong else [row[:-1] for row in rows]
            head = ("method", "NFE", "seconds", "what is wrong")[: len(seen[0])]
            yield {shown: pictures, facts: table(seen, head)}
        done = len(pictures) - 1 if pictures else 0
        line = f"{done} of {len(held['methods'])} methods, seed {held['seed'] or 0}"
        yield {status: said(line) if done else alert(rows[-1][-1])}

    running = go.click(
        run, form.inputs(), [status, shown, facts], concurrency_id="work", concurrency_limit=1,
        show_progress="hidden", api_visibility="private",
    )  # fmt: skip
    cancels(cancel, running, status)
    shows(go, "compared")
