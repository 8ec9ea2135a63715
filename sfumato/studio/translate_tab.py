"""The tab that translates."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from sfumato.core.errors import UserError
from sfumato.data import ImageFolder
from sfumato.data.images import picture
from sfumato.data.preparation import Preparation
from sfumato.data.resize import said_size
from sfumato.data.show import shown
from sfumato.methods.outline import names
from sfumato.methods.registry import info
from sfumato.studio import jobs
from sfumato.studio.choices import Given
from sfumato.studio.jobs import Done, Frame, Shelf
from sfumato.studio.methods import (
    ROLES,
    Roles,
    about,
    admitted,
    ask,
    available,
    make,
    options,
    preparation,
    run_options,
    steps_of,
    told,
    uses,
)  # fmt: skip
from sfumato.studio.page import (
    Form,
    Picker,
    alert,
    bar,
    cancels,
    choice,
    helps,
    message,
    paths,
    progress,
    said,
    shows,
    written,
)
from sfumato.translation.run_file import Summary, read_run

Pair = tuple[str, ...]
"""A picture before and after, as files."""


def before_and_after(folder: Path) -> list[Pair]:
    """The results in a job's folder, each beside its source as the model saw it."""
    sources = {file.stem: file for file in ImageFolder(folder / "in").paths}
    how, pairs = _preparation(folder), list[Pair]()
    results = ImageFolder(folder / "out", Preparation(range=how.to_range))
    for i, name in enumerate(results.names):
        both = how.read(sources[name]).image, results.read(i).image
        pairs.append(tuple(written([*map(picture, both)], folder, f"pair{i}_")))
    return pairs


def sizes_said(summary: Summary) -> str:
    """How pictures were brought to the model: "; 3000x2000 -> 32x32"."""
    pairs = {pair for counted in summary.sizes.values() for pair in counted}
    changed = [f"{said_size(a)} -> {said_size(b)}" for a, b in sorted(pairs) if a != b]
    return "; " + ", ".join(changed) if changed else ""


def choose_method(name: str) -> None:
    """The method's controls are shown.

    Args:
        name: how to translate; its options are below.
    """


def build(given: Given, shelf: Shelf) -> Any:
    """The tab; returns the state that holds the last translation's frames."""
    import gradio as gr

    methods = [name for name in names() if info(name).translates]
    first, form = "ddib", Form()
    frames, pairs = gr.State([]), gr.State([])
    with gr.Row():
        with gr.Column(scale=2, min_width=300):
            picker = Picker(given, shelf, "pictures to translate", given.start().folder)
            form.add("pictures", picker.pictures)
            hint = message("text")
            method = form.add("method", choice(
                given, lambda: available(given), value=first, label="method",
                info=helps(choose_method)["name"],
            ))  # fmt: skip
            what = gr.Markdown(about(first))
            Roles(given, form, shown=uses(first))
            with gr.Accordion("Options", open=False):
                boxes = {}
                for name in methods:
                    with gr.Column(visible=name == first) as boxes[name]:
                        for control in options(name):
                            form.add(f"{name}.{control.name}", control.component())
                for control in run_options():
                    form.add(control.name, control.component())
        with gr.Column(scale=3, min_width=300):
            go, cancel, status = bar("Translate", "translate", text="Pick a picture, and press Translate.")
            slider = gr.ImageSlider(
                label="before | after", format="png", interactive=False, max_height=420, height=420,
                elem_classes="sfumato-picture", elem_id="before-after",
            )  # fmt: skip
            results = gr.Gallery(
                label="results", columns=8, height=130, allow_preview=False, interactive=False,
                format="png", object_fit="contain", visible=False, buttons=[],
                elem_classes=["sfumato-picture", "sfumato-examples"],
            )  # fmt: skip
            files = gr.File(label="PNG and run.json, to download", interactive=False, visible=False)

    roles = [form.held[name] for name in ("model", "source", "target", "classifier")]
    picker.on_pick(form)

    def tell(values: dict[Any, Any]) -> str:
        held = form.read(values)
        try:
            return said(told(given, held["method"], held, paths(held["pictures"])))
        except (UserError, OSError) as error:
            return alert(error)

    asked_for = ("pictures", "method", *ROLES, "size", "resize", "side", "upscale")
    gr.on(
        [form.held[name].change for name in asked_for], tell, form.inputs(), hint,
        show_progress="hidden", api_visibility="private", trigger_mode="always_last",
        concurrency_id="intake", concurrency_limit=1,
    )  # fmt: skip

    def chosen(name: str) -> list[Any]:
        needed = uses(name)
        trained = given.trained(name)
        updates = [gr.update(visible=r in needed) for r in ("source", "target", "classifier")]
        model = gr.update(visible="model" in needed, **({"value": trained[0]} if trained else {}))
        return [about(name), model, *updates, *(gr.update(visible=n == name) for n in boxes)]

    method.change(
        chosen, method, [what, *roles, *boxes.values()], show_progress="hidden",
        api_visibility="private", queue=False,
    )  # fmt: skip

    def run(values: dict[Any, Any]) -> Iterator[dict[Any, Any]]:
        held = form.read(values)
        folder = shelf.new()
        try:
            pictures = paths(held["pictures"])
            asked = admitted(ask(given, held["method"], held), pictures)
            steps = steps_of(asked)
            yield {status: said("begun"), results: gr.update(visible=False), files: gr.update(visible=False)}
            source: Any = None
            for event in jobs.run(partial(make, asked, pictures, folder)):
                if isinstance(event, Done):
                    made, summary = before_and_after(folder), event.value
                    way = as_files(event.frames, folder)
                    yield {
                        status: said(
                            f"{summary.written} translated by {asked['method']}, seed {asked['seed']}, "
                            f"{summary.nfe:g} NFE and {summary.seconds:.2f} s each{sizes_said(summary)}"
                        ) + "".join(map(alert, summary.far)),
                        slider: made[0], pairs: made, frames: way,
                        results: gr.update(value=[after for _, after in made], visible=len(made) > 1),
                        files: gr.update(value=_downloads(folder), visible=True),
                    }  # fmt: skip
                else:
                    source = source or _first(folder, preparation(asked)[0])
                    yield {status: progress(event, steps), slider: (source, event.shown)}
        except (UserError, OSError) as error:
            yield {status: alert(error)}

    running = go.click(
        run, form.inputs(), [status, slider, results, files, pairs, frames], concurrency_id="work",
        concurrency_limit=1, show_progress="hidden", api_visibility="private",
    )  # fmt: skip
    cancels(cancel, running, status)
    shows(go, "before-after")

    def select(event: gr.SelectData, made: list[Pair]) -> Any:
        there = 0 <= event.index < len(made) and Path(made[event.index][0]).exists()
        return made[event.index] if there else gr.skip()

    select.__annotations__["event"] = gr.SelectData
    results.select(select, pairs, slider, show_progress="hidden", queue=False, api_visibility="private")
    return frames


def _first(folder: Path, prepare: Preparation) -> str | None:
    """The source beside the previews, as the model sees it; none if there are many."""
    pictures = ImageFolder(folder / "in", prepare)
    if len(pictures) > 1:
        return None
    return written([picture(shown(pictures.read(0).image))], folder, "before")[0]


def as_files(frames: list[Frame], folder: Path) -> list[Frame]:
    """Frames whose pictures are files."""
    noisy = written([f.noisy for f in frames], folder / "way", "noisy")
    mean = written([f.mean for f in frames], folder / "way", "mean")
    return [replace(f, noisy=x, mean=m) for f, x, m in zip(frames, noisy, mean, strict=True)]


def _preparation(folder: Path) -> Preparation:
    """How the model saw the pictures of a job's folder."""
    return Preparation.from_json(read_run(folder / "out")["run"]["preparation"])


def _downloads(folder: Path) -> list[str]:
    return [*map(str, ImageFolder(folder / "out").paths), str(folder / "out" / "run.json")]
