"""The house of floors: a room uses only rooms on its own floor or below, without circles."""

import ast
import graphlib
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1] / "sfumato"
FILES = {
    ".".join(("sfumato", *p.relative_to(ROOT).with_suffix("").parts)).removesuffix(".__init__"): p
    for p in sorted(ROOT.rglob("*.py"))
}
FLOORS = [
    ("core", "data", "module"),
    ("diffusion", "nets"),
    ("methods",),
    ("checkpoints",),
    ("translation", "training"),
    ("explore", "evaluation", "checkup"),
    ("__init__",),  # the public interface
    ("studio",),
    ("cli", "__main__"),
]
LONG = {  # argued for
    "unit_ddpm.py": "two players in training, two coupled chains in translation",
    "unpaired_sde.py": "five ways of making pairs, and an option for each choice of the thesis",
    "train.py": "one call with many options, each documented",
}


def room(module):
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else "__init__"


def floor(module):
    found = [i for i, rooms in enumerate(FLOORS) if room(module) in rooms]
    assert found, f"{module} has no floor yet: give it one in tests/test_layers.py"
    return found[0]


def imported(module):
    """The modules that a file imports anywhere, those under TYPE_CHECKING and in functions too."""
    for node in ast.walk(ast.parse(FILES[module].read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (a.name for a in node.names)
        elif isinstance(node, ast.ImportFrom):
            here = module if FILES[module].name == "__init__.py" else module.rpartition(".")[0]
            base = here.rsplit(".", node.level - 1)[0] if node.level else ""
            source = ".".join(filter(None, (base, node.module)))
            for a in node.names:
                yield f"{source}.{a.name}" if f"{source}.{a.name}" in FILES else source


ARROWS = {m: {i for i in imported(m) if i.split(".")[0] == "sfumato" and i != m} for m in FILES}
modules = pytest.mark.parametrize("module", FILES)


@modules
def test_no_arrow_runs_up(module):
    for other in ARROWS[module]:
        assert floor(other) <= floor(module), f"{module} must not use {other}"


def test_no_circles():
    # a package's __init__ may gather its own rooms
    graph = {m: {o for o in others if not m.startswith(o + ".")} for m, others in ARROWS.items()}
    graphlib.TopologicalSorter(graph).prepare()


@modules
def test_methods_are_found_not_named(module):
    for other in ARROWS[module]:
        paper = re.match(r"sfumato\.methods\.(?!_|registry$|outline$)", other)
        assert not paper, f"{module} names the method {other}"


@modules
def test_forbidden_packages(module):
    foreign = {i.split(".")[0] for i in imported(module)}
    assert not foreign & {"torchvision", "lightning", "pytorch_lightning", "hydra", "pickle"}


@modules
def test_length(module):
    path = FILES[module]
    limit = 150 if path.parent.name == "methods" else 300
    text = path.read_text(encoding="utf-8")
    imports = [n for n in ast.walk(ast.parse(text)) if isinstance(n, ast.Import | ast.ImportFrom)]
    lines = len(text.splitlines()) - sum(n.end_lineno - n.lineno + 1 for n in imports)
    assert lines <= limit + 50 * (path.name in LONG), f"{path.name} has {lines} lines"
