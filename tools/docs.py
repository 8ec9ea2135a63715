"""What the site adds to the pages of docs/; mkdocs calls the functions `on_...`, see mkdocs.yml.

A page says <!-- made: NAME --> where the text belongs that NAME of `MADE` makes from the code, so that
reference and code cannot differ.  Pages from beside docs/ that others link to become pages, too.
"""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Iterable, Iterator
from os.path import normpath, relpath
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin

ROOT = Path(__file__).parents[1]
BESIDE = [
    "CONTRIBUTING.md", "CHANGELOG.md", "benchmarks/README.md",
    *(str(f.relative_to(ROOT)) for f in sorted(ROOT.glob("benchmarks/results/*.[mp][dn]*"))),
]  # fmt: skip
"""Files that are pages of the site, or their pictures, in its folder project/."""


def on_files(files: Any, config: Any) -> Any:
    """Adds the files from beside docs/."""
    from mkdocs.structure.files import File

    for name in BESIDE:
        files.append(File.generated(config, f"project/{name}", abs_src_path=str(ROOT / name)))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """A page with its links as the site has them, and with what is made from the code."""
    here = page.file.src_uri
    made = re.sub(r"<!-- made: (\w+) -->", lambda m: "\n".join(MADE[m[1]]()), markdown)
    link = r"(!?)\[([^]]*)\]\(([^)#:\s]+)(#[^)]*)?\)"
    return re.sub(link, lambda m: _link(here, *m.groups()), made)


def _link(here: str, mark: str, text: str, target: str, anchor: str | None) -> str:
    """A link of the page `here`; one to a file that the site does not have is its text alone."""
    own = here.removeprefix("project/") if here.startswith("project/") else f"docs/{here}"
    file = normpath(Path(own).parent / target)
    if file in BESIDE:
        uri = f"project/{file}"
    elif file.startswith("docs/") or not (ROOT / file).exists():
        uri = file.removeprefix("docs/")
    else:
        return text
    return f"{mark}[{text}]({relpath(uri, Path(here).parent)}{anchor or ''})"


# ---- what is made from the code -----------------------------------------------------------------


def commands() -> Iterator[str]:
    """Every command with what it takes, as `sfumato COMMAND --help` says it."""
    from sfumato.cli.main import make_app

    for name in _named(make_app([])):
        if name == "train":  # what all methods have; the rest is on the methods' page
            text = "Train a method on folders of pictures. These are the flags that all methods have."
            app = make_app(["train", "diffusion"])["train"]["diffusion"]
            yield from _command("train METHOD", app, text, _common())
            continue
        app = make_app([name])[name]
        if not (below := _named(app)):
            yield from _command(name, app)
        for one in below:
            yield from _command(f"{name} {one}", make_app([name, one])[name][one])


def _named(app: Any) -> list[str]:
    return [name for name in app if name[0] != "-"]


def _common() -> set[str]:
    from sfumato.training.train import train

    return {*inspect.signature(train).parameters, "data"}


def _command(name: str, app: Any, text: str = "", only: Iterable[str] = ()) -> Iterator[str]:
    text = re.sub(r"^( +)(sfumato .*|-.*)$", r"\1`\2`", text or app.help.partition("Args:")[0], flags=re.M)
    yield from (f"## sfumato {name}", "", text, "")
    found = app.assemble_argument_collection(parse_docstring=True)
    rows = []
    for a in found:
        plain = a.names[0].strip("-").replace("-", "_")
        place = a.field_info.kind is not inspect.Parameter.KEYWORD_ONLY
        if not only or plain.lower() in only:
            shown = plain.upper() if place else a.names[0]
            rows.append((shown, a.hint, a.parameter.help, a.field_info.default))
    yield from _table(rows)


def _table(rows: Iterable[tuple[str, Any, str | None, Any]]) -> Iterator[str]:
    if rows := list(rows):
        yield from ("| name | takes | default | what it is |", "|---|---|---|---|")
    for name, hint, text, default in rows:
        said = "" if default is None or default is False else f"`{default}`"
        if default is inspect.Parameter.empty:
            said = "needed" if "..." not in _takes(hint) else ""
        words = " ".join((text or "").split()).replace("|", r"\|").replace("<", "&lt;")
        yield f"| `{name}` | {_takes(hint)} | {said} | {words} |"
    yield ""


def _takes(hint: Any) -> str:
    """A type as what is typed."""
    if get_origin(hint) is Literal:
        return ", ".join(f"`{choice}`" for choice in get_args(hint))
    if get_origin(hint) in (Union, UnionType):
        return " or ".join(
            dict.fromkeys(_takes(m) for m in get_args(hint) if m is not type(None))
        )
    if get_origin(hint) in (tuple, list):
        return f"{_takes(get_args(hint)[0])} ..."
    return {str: "text", int: "whole number", float: "number", bool: "nothing", Path: "path"}[hint]


def methods() -> Iterator[str]:
    """Every method: its file's docstring, what it is trained on, its fields, options and paper."""
    from sfumato.cli.flags import flags
    from sfumato.cli.train import DATA
    from sfumato.methods.outline import outlines
    from sfumato.methods.registry import cite, find
    from sfumato.training.options import DEFAULTS, defaults
    from sfumato.training.train import OF_DATA

    for name, outline in outlines().items():
        cls = find(name)
        doc = inspect.getdoc(importlib.import_module(cls.__module__)) or ""
        yield from (f"## {name}", "", doc.partition("\n@")[0].strip(), "")
        if outline.trains_on:
            own = {k: v for k, v in defaults(cls).items() if v != DEFAULTS[k]}
            said = ", ".join(f"`--{k.replace('_', '-')} {v}`" for k, v in own.items())
            yield f"**Training:** `sfumato train {name}`; it takes {DATA[outline.trains_on]}"
            yield f"Its own defaults: {said}." if own else ""
            yield ""
            yield from _flags(flags(cls, skip=("self", *OF_DATA)))
        if outline.translates:
            needs = " ".join(
                f"--{n} {'FOLDER' if n == 'classifier' else 'FOLDER:DOMAIN'}" for n in outline.needs
            )
            how = f"--method {name} {needs}" if needs else "--model FOLDER"
            yield from (f"**Translating:** `sfumato translate PICTURES --out OUT {how}`", "")
            mask = {"mask": (str | None, "a picture of black and white: white is kept.")}
            other = "self", "source", "seed", "watch"
            yield from _flags(flags(cls.translate, skip=other, kinds=mask))
        yield from ("```bibtex", cite(name), "```", "")


def _flags(parameters: Iterable[inspect.Parameter]) -> Iterator[str]:
    rows = []
    for p in parameters:
        shown = f"--{p.name.replace('_', '-')}"
        rows.append((shown, p.annotation.__origin__, p.annotation.__metadata__[0].help, p.default))
    yield from _table(rows)


MODULES = [
    "sfumato", "sfumato.explore", "sfumato.evaluation", "sfumato.data", "sfumato.diffusion.steps.ode",
    "sfumato.diffusion.steps.sde", "sfumato.diffusion.energies", "sfumato.diffusion.encode_decode",
    "sfumato.diffusion.sampler_gradients",
]  # fmt: skip
"""Modules whose public names are documented: those of `__all__`, or else all that they define."""


def api() -> Iterator[str]:
    """Every public name, for mkdocstrings to fill in."""
    for place in MODULES:
        module = importlib.import_module(place)
        public = getattr(module, "__all__", None)
        text = "" if place == "sfumato" else inspect.getdoc(module) or ""
        yield from (f"## {place}", "", text, "")
        for name in public or vars(module):
            thing = getattr(module, name)
            home = getattr(thing, "__module__", "")
            known = home.startswith("sfumato") if public else home == place and name[0] != "_"
            if known and callable(thing):
                yield from (f"::: {home}.{thing.__qualname__}", "")


MADE = {"commands": commands, "methods": methods, "api": api}
