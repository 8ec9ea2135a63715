"""The tab that looks inside: the way of the last translation, and a latent that is changed by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from sfumato.core.errors import UserError
from sfumato.core.terminal import count
from sfumato.studio.choices import Given
from sfumato.studio.controls import Control
from sfumato.studio.jobs import CURVES, Frame, Shelf
from sfumato.studio.latents_tab import OTHERS, Encoded, change, encode, operation_controls, operations
from sfumato.studio.page import (
    Form,
    Picker,
    alert,
    bar,
    choice,
    helps,
    message,
    paths,
    said,
    shows,
    table,
    written,
)

VIEWS = "latent / 3", "decoded by target", "by source: the control", "the codec's code / 3"
"""What is shown of a latent; the last of models in latents."""


class Shown(NamedTuple):
    """A step of a translation, for the page."""

    noisy: Any
    mean: Any
    text: str


def show_step(frames: list[Frame], step: int) -> Shown:
    """A kept step of the last translation.

    Args:
        frames: the kept ones.
        step: which of the steps that were kept of the last translation, from its beginning.

    Raises:
        UserError: if there is none.
    """
    if not frames:
        raise UserError("nothing translated yet: translate a picture in the first tab")
    frame = frames[max(0, min(len(frames), int(step)) - 1)]
    if not Path(frame.noisy).exists():
        raise UserError("the way is no longer kept: translate the picture again")
    text = f"step {frame.step}, t = {frame.t:.3f}, {count(frame.nfe, 'network evaluation')} so far"
    return Shown(frame.noisy, frame.mean, text)


def build(given: Given, shelf: Shelf, frames: Any) -> list[Any]:
    """The tab; returns what to do when it is opened, as arguments of an event."""
    import gradio as gr

    with gr.Accordion("The way of the last translation", open=True):
        opened = _way(gr, frames)
    with gr.Accordion("A latent, changed by hand", open=True):
        _latent(gr, given, shelf)
    return opened


def _way(gr: Any, frames: Any) -> list[Any]:
    place = message("status", said("Translate a picture in the first tab; its way appears here."))
    with gr.Row():
        with gr.Column(scale=2, min_width=300):
            step = gr.Slider(
                1, 2, value=1, step=1, label="step", info=helps(show_step)["step"], elem_id="step"
            )
            with gr.Row():
                noisy, mean = (
                    gr.Image(label=label, format="png", interactive=False, height=220, buttons=[],
                             elem_classes="sfumato-picture", min_width=130)
                    for label in ("x_t", "E[x | x_t]")
                )  # fmt: skip
        with gr.Column(scale=3, min_width=300), gr.Row():
            plots = [
                gr.LinePlot(x="step", y="value", color="of", title=title, height=200, buttons=[],
                            min_width=280, visible=name in ("std", "autocorrelation"))
                for name, title in CURVES.items()
            ]  # fmt: skip

    def show(kept: list[Frame], number: int) -> list[Any]:
        try:
            shown = show_step(kept, number)
        except UserError as error:
            return [gr.skip(), gr.skip(), said(str(error))]
        return [shown.noisy, shown.mean, said(shown.text)]

    def opened(kept: list[Frame]) -> list[Any]:
        import pandas as pd

        if not kept:
            return [gr.skip()] * (4 + len(plots))
        drawn = []
        for curve in CURVES:
            rows = [(f.step, of, value) for f in kept for of, value in f.curves[curve].items()]
            lines = pd.DataFrame(rows, columns=["step", "of", "value"])
            drawn.append(gr.update(value=lines, visible=bool(rows)))
        many = max(2, len(kept))
        return [gr.update(maximum=many, value=len(kept)), *drawn, *show(kept, len(kept))]

    step.change(
        show, [frames, step], [noisy, mean, place], show_progress="hidden", trigger_mode="always_last",
        api_visibility="private", queue=False,
    )  # fmt: skip
    return [opened, frames, [step, *plots, noisy, mean, place]]


def _latent(gr: Any, given: Given, shelf: Shelf) -> None:
    live_shelf, encodings = Shelf(shelf.root / "live"), Shelf(shelf.root / "encoded")
    form, texts, encoded = Form(), helps(encode) | helps(change), gr.State(None)
    start = given.start()
    with gr.Row():
        with gr.Column(scale=2, min_width=300):
            picker = Picker(given, shelf, "picture to encode", start.folder)
            form.add("pictures", picker.pictures)
            for name, value in (("source", start.source), ("target", start.target)):
                form.add(name, choice(
                    given, given.denoisers, value=value, label=name, info=texts[name]
                ))  # fmt: skip
            steps = Control("steps", "number", 12, texts["steps"], (), 1, 200, True)
            form.add("steps", steps.component())
        with gr.Column(scale=3, min_width=300):
            go, _, status = bar("Encode", "encode", False, "Pick a picture, and press Encode.")
            with gr.Row():
                views = [
                    gr.Image(label=label, format="png", interactive=False, height=180, min_width=130,
                             buttons=[], elem_classes="sfumato-picture", elem_id=f"latent-{i}", visible=i < 3)
                    for i, label in enumerate(VIEWS)
                ]  # fmt: skip
            names = operations()
            operation = form.add("operation", gr.Dropdown(
                list(names), value="blur", label="operation", info=texts["operation"], elem_id="operation"
            ))  # fmt: skip
            boxes = {}
            for name, text in names.items():
                with gr.Column(visible=name == "blur") as boxes[name]:
                    gr.Markdown(text)
                    for control in operation_controls(name):
                        form.add(f"{name}.{control.name}", control.component())
            form.add("other", gr.Dropdown(
                list(OTHERS), value=next(iter(OTHERS)), label="other", info=texts["other"], visible=False
            ))  # fmt: skip
            form.add("first", gr.Textbox("", label="first", info=texts["first"], max_length=300))
            with gr.Row():
                keep = gr.Button("Keep this operation, add another", size="sm")
                clear = gr.Button("Start again", size="sm")
            facts = message("text")
    picker.on_pick(form)

    def encoding(values: dict[Any, Any]) -> dict[Any, Any]:
        held = form.read(values)
        try:
            made = encode(paths(held["pictures"]), held["source"], int(held["steps"] or 12), encodings)
        except (UserError, OSError) as error:
            return {status: alert(error)}
        return {encoded: made, **changed(held, made)}

    def changed(held: dict[str, Any], made: Encoded) -> dict[Any, Any]:
        try:
            result = change(made, held["operation"], held, held["first"], held["target"], held["other"])
        except (UserError, OSError) as error:
            return {status: alert(error)}
        files = written(result.pictures, live_shelf.new(), "view")
        return {
            status: said(result.verdict), facts: table(result.rows, ("", "before", "after")),
            **dict(zip(views[:3], files[:3], strict=True)),
            views[3]: gr.update(value=next(iter(files[3:]), None), visible=len(files) > 3),
        }  # fmt: skip

    def live(values: dict[Any, Any]) -> dict[Any, Any]:
        made = values[encoded]
        return changed(form.read(values), made) if made else {status: said("Press Encode first.")}

    def kept(values: dict[Any, Any]) -> Any:
        from sfumato.studio.latents_tab import spelled

        held = form.read(values)
        try:
            text = spelled(held["operation"], held)
        except UserError as error:
            return {status: alert(error)}
        return {form.held["first"]: ", ".join(filter(None, [held["first"].strip(), text])),
                operation: "scale"}  # fmt: skip

    outputs = [status, facts, *views]
    how: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
    go.click(encoding, form.inputs(), [encoded, *outputs], concurrency_id="work", concurrency_limit=1, **how)
    shows(go, "latent-0")
    clear.click(lambda: ("", "scale"), None, [form.held["first"], operation], queue=False, **how)
    keep.click(kept, form.inputs(), [status, form.held["first"], operation], queue=False, **how)

    def chosen(name: str) -> list[Any]:
        needs = any(kind is Tensor for kind in operations_kinds(name))
        return [gr.update(visible=needs), *(gr.update(visible=n == name) for n in boxes)]

    operation.change(chosen, operation, [form.held["other"], *boxes.values()], queue=False, **how)
    watched = [c for n, c in form.held.items() if n not in ("pictures", "source", "steps")]
    gr.on(
        [c.change for c in watched], live, {*form.inputs(), encoded}, outputs,
        trigger_mode="always_last", concurrency_id="latent", concurrency_limit=1, **how,
    )  # fmt: skip


def operations_kinds(name: str) -> list[Any]:
    """The types of an operation's parameters."""
    from sfumato.explore.chain import parameters

    return [kind for kind, _ in parameters(name).values()]
