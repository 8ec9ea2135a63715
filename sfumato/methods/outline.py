"""What files and docstrings say of methods, without anything being imported."""

from __future__ import annotations

import ast
import functools
from dataclasses import dataclass
from pathlib import Path

METHODS = Path(__file__).parent
NO_METHODS = {"outline", "registry"}
"""Files there that are no methods."""


ROLES = "source", "target", "classifier"
"""Fields of methods that are models of others: denoisers of the domains, a classifier of them."""


@dataclass(frozen=True)
class Outline:
    """What a method's file says about it without being run.

    Attributes:
        summary: what it is.
        trains_on: what its batches are: domains, pairs or unpaired; None if it is not trained itself.
        translates: can it translate by itself?
        needs: the roles that are filled with other models, and whether each must be.
    """

    summary: str
    trains_on: str | None
    translates: bool
    needs: dict[str, bool]


def names() -> list[str]:
    """The names of all methods, sorted, without importing them."""
    return sorted({file.stem for file in METHODS.glob("[!_]*.py")} - NO_METHODS)


@functools.cache
def outlines() -> dict[str, Outline]:
    """Every method by name."""
    shared = {c.name: c for file in METHODS.glob("_shared/*.py") for c in _classes(_parsed(file))}
    found = {}
    for file in (METHODS / f"{name}.py" for name in names()):
        module = _parsed(file)
        part = next(c for c in _classes(module) if c.name.lower() == file.stem.replace("_", ""))
        bases = [shared[b.id] for b in part.bases if isinstance(b, ast.Name) and b.id in shared]
        body = [statement for c in (*bases, part) for statement in c.body]
        fields = {a.target.id: a.value for a in body
                  if isinstance(a, ast.AnnAssign) and isinstance(a.target, ast.Name)}  # fmt: skip
        data = fields.get("data")
        found[file.stem] = Outline(
            summary=summary(ast.get_docstring(module)),
            trains_on=str(data.value) if isinstance(data, ast.Constant) else None,
            translates=any(isinstance(f, ast.FunctionDef) and f.name == "translate" for f in body),
            needs={name: fields[name] is None for name in fields if name in ROLES},
        )
    return found


def summary(doc: str | None) -> str:
    """The first paragraph of a docstring, in one line."""
    return (doc or "").split("\n\n")[0].replace("\n", " ")


def _parsed(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"))


def _classes(module: ast.Module) -> list[ast.ClassDef]:
    return [c for c in module.body if isinstance(c, ast.ClassDef)]
