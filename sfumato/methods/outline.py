"""What files and docstrings say of methods, without anything being imported."""

from __future__ import annotations

import ast
import re
from inspect import cleandoc
from pathlib import Path
from typing import NamedTuple


def args_of(doc: str) -> dict[str, str]:
    """The `Args:` of a Google docstring: {name: text in one line}."""
    section = re.search(r"^Args:\n(.*?)(?=^\S|\Z)", cleandoc(doc), re.M | re.S)
    entries = re.findall(
        r"^    (\w+): (.*?)(?=^    \w|\Z)", section[1] if section else "", re.M | re.S
    )
    return {name: " ".join(text.split()) for name, text in entries}


METHODS = Path(__file__).parent
NO_METHODS = {"outline", "registry"}
"""Files there that are no methods."""


class Outline(NamedTuple):
    """What a method's file says about it without being run."""

    summary: str
    data: str | None
    translates: bool
    needs: list[str]


def names() -> list[str]:
    """The names of all methods, sorted, without importing them."""
    return sorted({file.stem for file in METHODS.glob("[!_]*.py")} - NO_METHODS)


def outlines() -> dict[str, Outline]:
    """Every method by name."""
    found = {}
    for file in (METHODS / f"{name}.py" for name in names()):
        module = ast.parse(file.read_text(encoding="utf-8"))
        classes = [c for c in module.body if isinstance(c, ast.ClassDef)]
        part = next(c for c in classes if c.name.lower() == file.stem.replace("_", ""))
        fields = {a.target.id: a.value for a in part.body
                  if isinstance(a, ast.AnnAssign) and isinstance(a.target, ast.Name)}  # fmt: skip
        data = fields.get("data")
        found[file.stem] = Outline(
            summary=(ast.get_docstring(module) or "").split("\n\n")[0].replace("\n", " "),
            data=str(data.value) if isinstance(data, ast.Constant) else None,
            translates=any(
                isinstance(f, ast.FunctionDef) and f.name == "translate" for f in part.body
            ),
            needs=[name for name in fields if name in ("source", "target", "classifier")],
        )
    return found
