"""What the tabs share: the picker of pictures, what is said to visitors, help, and how it all looks."""

from __future__ import annotations

import html
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from PIL import Image

from sfumato.core.arguments import hints_of
from sfumato.core.errors import UserError, choose
from sfumato.core.options import args_of
from sfumato.core.ranges import with_range
from sfumato.core.terminal import count
from sfumato.data import read_image
from sfumato.data.images import picture
from sfumato.data.listing import PHOTOS
from sfumato.studio import limits
from sfumato.studio.choices import Given
from sfumato.studio.controls import NONE
from sfumato.studio.jobs import Preview, Shelf
from sfumato.studio.uploads import admit, place


@dataclass
class Form:
    """Controls by name; a function gets what they hold as one mapping."""

    held: dict[str, Any] = field(default_factory=dict)

    def add(self, name: str, component: Any) -> Any:
        """The component, under a name."""
        self.held[name] = component
        return component

    def inputs(self) -> set[Any]:
        """All components, as an event's inputs."""
        return set(self.held.values())

    def read(self, values: Mapping[Any, Any]) -> dict[str, Any]:
        """What the components hold, by name."""
        return {name: values[component] for name, component in self.held.items()}


def helps(function: Callable[..., Any]) -> dict[str, str]:
    """The help texts of a function's parameters, with their ranges."""
    hints = hints_of(function)
    return {k: with_range(v, hints.get(k)) for k, v in args_of(function.__doc__ or "").items()}


def said(text: str) -> str:
    """A line for the visitor."""
    return f'<div role="status">{html.escape(text)}</div>'


def alert(error: object) -> str:
    """What is wrong, in one line."""
    return f'<div class="alert" role="alert">{html.escape(" ".join(str(error).split()))}</div>'


def progress(preview: Preview, steps: int | None) -> str:
    """How far a job is; `steps` in all, if that is known."""
    of = f" of {steps}" if steps else ""
    how = f' value="{min(preview.step, steps)}" max="{steps}"' if steps else ""
    words = f"step {preview.step}{of}, t = {preview.t:.2f}, {count(preview.nfe, 'network evaluation')}"
    return f'<div role="status"><progress aria-label="steps"{how}></progress> {words}</div>'


def table(rows: Sequence[Sequence[object]], head: Sequence[str]) -> str:
    """An HTML table; columns that begin with a number are aligned at the right."""
    kinds = [' class="number"' if _is_number(cell) else "" for cell in (rows or [head])[0]]

    def line(cells: Sequence[object], tag: str) -> str:
        shown = zip(kinds, cells, strict=True)
        return "".join(f"<{tag}{k}>{html.escape(str(c))}</{tag}>" for k, c in shown)

    body = "".join(f"<tr>{line(row, 'td')}</tr>" for row in rows)
    return f"<table><thead><tr>{line(head, 'th')}</tr></thead><tbody>{body}</tbody></table>"


def _is_number(cell: object) -> bool:
    try:
        float(str(cell))
    except ValueError:
        return False
    return True


def plain(text: str) -> str:
    """Text as it is: nothing in it is read as markup."""
    return f"<pre>{html.escape(text)}</pre>"


def message(kind: Literal["notes", "status", "text"] = "notes", value: str = "") -> Any:
    """A place for notes, for a line that is always there, or for texts and tables."""
    import gradio as gr

    classes = ["sfumato-text" if kind == "text" else "sfumato-said", f"sfumato-{kind}"]
    return gr.HTML(value, elem_classes=classes, container=False, padding=False)


def choice(given: Given, names: Callable[[], Sequence[str]], **shown: Any) -> Any:
    """A list to choose from that follows what is found in the folders that were named."""
    import gradio as gr

    made = gr.Dropdown(list(names()), **shown)
    given.offered.append((made, lambda: {"choices": list(names())}))
    return made


def thumbnail(file: Path) -> Image.Image:
    """A picture of at most 128 pixels a side; gray for a file that cannot be read."""
    return _thumbnail(file, file.stat().st_mtime_ns)


@lru_cache(maxsize=512)
def _thumbnail(file: Path, saved: int) -> Image.Image:
    try:
        shown = picture(read_image(file))
    except UserError:  # who picks it is told why
        return Image.new("RGB", (128, 128), "gray")
    shown.thumbnail((128, 128))
    return shown


def bar(go: str, name: str, cancel: bool = True, text: str = "") -> tuple[Any, Any, Any]:
    """A button to press, one that cancels, and what they say: in sight on a phone, too."""
    import gradio as gr

    with gr.Column(elem_classes="sfumato-bar"):
        with gr.Row():
            pressed = gr.Button(go, variant="primary", elem_id=name)
            stopped = gr.Button("Cancel", variant="stop", elem_id=f"{name}-cancel") if cancel else None
        return pressed, stopped, message("status", said(text))


def shows(button: Any, name: str) -> None:
    """A press brings the results into sight, where they are below it."""
    button.click(None, None, None, js=f"() => {{ document.getElementById('{name}')"
                 f"?.scrollIntoView({{behavior: 'smooth', block: 'nearest'}}) }}")  # fmt: skip


class Picker:
    """Pictures, uploaded or picked from a folder that was given.

    Args:
        given: what there is to choose from.
        shelf: where picked pictures are copied to.
        label: says what the pictures are for.
        first: the folder that is shown at first.
    """

    def __init__(self, given: Given, shelf: Shelf, label: str, first: str) -> None:
        import gradio as gr

        self.given = given
        # not among the results, which would lose their places to picks
        self.shelf = Shelf(shelf.root / label.replace(" ", "_"), limits.PICKS_KEPT)
        kinds = [k for s in PHOTOS for k in (s, s.upper())]
        self.pictures = gr.Gallery(
            label=label, type="filepath", file_types=kinds, columns=5, height=190, interactive=True,
            object_fit="contain", buttons=[],
            elem_classes=["sfumato-picture", "sfumato-examples", "sfumato-upload"],
            sources=["upload", "clipboard"], format="png", fit_columns=False,
        )  # fmt: skip
        self.folder = choice(
            given, lambda: list(given.folders), value=first, label="folder",
            info=helps(self.pick)["folder"],
        )  # fmt: skip
        self.shown = gr.Gallery(
            self.thumbnails(first), label="pick one of these", columns=5, height=150, format="png",
            allow_preview=False, interactive=False, object_fit="contain", buttons=[], show_label=False,
            elem_classes=["sfumato-picture", "sfumato-examples", "sfumato-unlabelled"],
        )  # fmt: skip
        self.notes = message()
        self.folder.change(
            self.thumbnails, self.folder, self.shown, show_progress="hidden", api_visibility="private"
        )
        self.pictures.upload(
            self.check, self.pictures, [self.pictures, self.notes], show_progress="hidden",
            api_visibility="private", concurrency_id="intake", concurrency_limit=1,
        )  # fmt: skip

    def thumbnails(self, folder: str) -> list[Image.Image]:
        """The pictures of a folder, small."""
        return [thumbnail(file) for file in self.given.pictures(folder)]

    def check(self, uploaded: Sequence[tuple[str, Any]] | None) -> tuple[Any, str]:
        """Keeps the uploads that are pictures within the limits, and says what is wrong with others."""
        good, wrong = [], []
        for path, _ in uploaded or ():
            try:
                admit(Path(path))
                good.append(path)
            except (UserError, OSError) as error:
                wrong.append(str(error))
        if len(good) > limits.PICTURES:
            wrong.append(f"{len(good)} pictures: only the first {limits.PICTURES} are kept")
        return good[: limits.PICTURES], alert("; ".join(wrong)) if wrong else ""

    def pick(self, folder: str, index: int) -> tuple[Path, str | None]:
        """A copy of a picture that was picked, and the domain it is of, if a model has one.

        Args:
            folder: pictures to pick from: examples that ship, and the folders named at the start.
            index: which of them.
        """
        files = self.given.pictures(choose("folder", folder, self.given.folders))
        if not isinstance(index, int) or not 0 <= index < len(files):
            raise UserError(f"picture {index} of {len(files)}: pick one that is shown")
        (copy,) = place([files[index]], self.shelf.new())
        return copy, self.given.domain_of(files[index])

    def on_pick(self, form: Form) -> None:
        """A picked picture replaces the pictures, its domain the source; the others follow it."""
        import gradio as gr

        roles = [n for n in ("source", "target", "classifier") if n in form.held]

        def picked(event: gr.SelectData, folder: str) -> list[Any]:
            try:
                copy, domain = self.pick(folder, event.index)
            except (UserError, OSError) as error:
                return [gr.skip(), alert(error), *(gr.skip() for _ in roles)]
            if domain is None:
                return [[str(copy)], "", *(gr.skip() for _ in roles)]
            target = self.given.other(domain)
            classifier = self.given.classifier_of(domain, target) or NONE
            return [[str(copy)], "", *[domain, target, classifier][: len(roles)]]

        # gradio finds the event by its annotation, which this file's are texts
        picked.__annotations__["event"] = gr.SelectData
        self.shown.select(
            picked, self.folder, [self.pictures, self.notes, *(form.held[n] for n in roles)],
            show_progress="hidden", api_visibility="private", concurrency_id="intake", concurrency_limit=1,
        )  # fmt: skip


def cancels(button: Any, running: Any, status: Any) -> None:
    """A button that stops an event, and says so when its last preview has come."""

    def stopped() -> str:
        time.sleep(0.5)  # what was on its way to the page arrives, and would be read as going on
        return said("Cancelled.")

    how: dict[str, Any] = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}
    stopping = button.click(lambda: said("stopping"), None, status, cancels=[running], **how)
    stopping.then(stopped, None, status, **how)


def written(pictures: Sequence[Image.Image], folder: Path, name: str) -> list[str]:
    """Pictures as files of a folder: gradio writes a picture anew each time it is shown, a file once."""
    folder.mkdir(parents=True, exist_ok=True)
    files = [folder / f"{name}{i}.png" for i in range(len(pictures))]
    for one, file in zip(pictures, files, strict=True):
        one.save(file)
    return list(map(str, files))


def paths(gallery: Sequence[tuple[str, Any]] | None) -> list[str]:
    """The files of a gallery of uploads."""
    return [path for path, _ in gallery or ()]
