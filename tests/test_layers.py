"""The house of floors: a room uses only rooms on its own floor or below, without circles."""

import ast
import graphlib
import importlib.util
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1] / "sfumato"
FILES = {
    ".".join(("sfumato", *p.relative_to(ROOT).with_suffix("").parts)).removesuffix(".__init__"): p
    for p in sorted(ROOT.rglob("*.py"))
}
FLOORS = [
    ("core", "data", "module", "windows"),
    ("diffusion", "nets"),
    ("methods",),
    ("checkpoints",),
    ("translation", "training"),
    ("explore", "evaluation", "checkup"),
    ("studio",),
    ("cli", "__init__", "__main__"),  # what is typed: in a terminal, and in Python
]
LOOKED_UP = {  # argued for
    # a description names a kind, wherever its file lies: the rooms that hold such are looked through
    "sfumato.module": {"sfumato.nets", "sfumato.diffusion", "sfumato.methods"},
}
PAPERS = {p.stem for p in (ROOT / "methods").glob("*.py")} - {"__init__", "registry", "outline"}
NAMED = {  # argued for: whose published files it reads
    "sfumato.checkpoints.edm": {"diffusion"},
    "sfumato.checkpoints.foreign": {"pix2pix", "cut", "cyclegan"},
    "sfumato.checkpoints.diffusers_autoencoders": {"autoencoder"},
    "sfumato.checkpoints.diffusers_folders": {"diffusion"},
    "sfumato.checkpoints.ddim": {"diffusion"},
    "sfumato.checkpoints.guided_diffusion": {"diffusion", "domain_classifier"},
}
PRIVATE = {  # argued for
    # holds device and precision for the whole process, and has no public way to let them go
    ("sfumato.training.fit", "_reset_state"),
    # a pickle's index of four bytes can claim all memory of the public one, which is not Python code
    ("sfumato.checkpoints.pickles", "_Unpickler"),
}
PICKLES = {"sfumato.checkpoints.pickles": {"pickle"}}  # argued for: it makes nothing of what they name
READ = {  # argued for: the package's own files and the system's, and bytes
    (
        "sfumato.checkpoints.pickles",
        "torch.load(opened, map_location='cpu', weights_only=True)",
    ),
    ("sfumato.core.versions", "(Path(__file__).parents[2] / 'pyproject.toml').read_text('utf-8')"),
    ("sfumato.methods.outline", "file.read_text(encoding='utf-8')"),
    ("sfumato.data.earth", "_file('lsmask_2.5min_f.bin').read_bytes()"),
    ("sfumato.evaluation.memory", "Path('/proc/self/status').read_text()"),
    ("sfumato.checkup.cost", "status.read_text()"),
    ("sfumato.checkup.cost", "(group / 'memory.stat').read_text()"),
    ("sfumato.checkup.cost", "(group / 'memory.current').read_text()"),
    ("sfumato.checkup.cost", "(group / 'memory.max').read_text()"),
}
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
    """The modules that a file imports anywhere, those under TYPE_CHECKING, in functions and in texts too."""
    for node in ast.walk(ast.parse(FILES[module].read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (a.name for a in node.names)
        elif isinstance(node, ast.ImportFrom):
            here = module if FILES[module].name == "__init__.py" else module.rpartition(".")[0]
            base = here.rsplit(".", node.level - 1)[0] if node.level else ""
            source = ".".join(filter(None, (base, node.module)))
            for a in node.names:
                yield f"{source}.{a.name}" if f"{source}.{a.name}" in FILES else source
        elif isinstance(node, ast.Constant) and node.value in FILES and node.value != "sfumato":
            yield node.value  # as for importlib


ARROWS = {m: {i for i in imported(m) if i.split(".")[0] == "sfumato" and i != m} for m in FILES}
modules = pytest.mark.parametrize("module", FILES)


@modules
def test_no_arrow_runs_up(module):
    for other in ARROWS[module] - LOOKED_UP.get(module, set()):
        assert floor(other) <= floor(module), f"{module} must not use {other}"


def test_no_circles():
    # a package's __init__ may gather its own rooms
    graph = {
        m: {o for o in others if not m.startswith(o + ".")} - LOOKED_UP.get(m, set())
        for m, others in ARROWS.items()
    }
    graphlib.TopologicalSorter(graph).prepare()


@modules
def test_methods_are_found_not_named(module):
    for other in ARROWS[module]:
        paper = re.match(r"sfumato\.methods\.(?!_|registry$|outline$)", other)
        assert not paper, f"{module} names the method {other}"


def hidden(tree):
    """Methods that a call gets by a text, or a variable that is one: no import shows them."""
    texts = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign | ast.AnnAssign | ast.NamedExpr | ast.For | ast.comprehension):
            target = node.targets[0] if isinstance(node, ast.Assign) else node.target
            value = node.iter if isinstance(node, ast.For | ast.comprehension) else node.value
            some = [n.value for n in ast.walk(value) if isinstance(n, ast.Constant)] if value else []
            texts.setdefault(ast.unparse(target), []).extend(some)
    for node in ast.walk(tree):
        called = ast.unparse(node.func).split(".")[-1] if isinstance(node, ast.Call) else ""
        if called in ("find", "import_module", "__import__"):
            for one in [*node.args, *(k.value for k in node.keywords)]:
                given = [n.value for n in ast.walk(one) if isinstance(n, ast.Constant)]
                for v in given + texts.get(ast.unparse(one), []):
                    if str(v).removeprefix("sfumato.methods.") in PAPERS:
                        yield v


@modules
def test_no_method_is_called_by_its_name(module):
    found = set(hidden(ast.parse(FILES[module].read_text(encoding="utf-8"))))
    assert not found - NAMED.get(module, set())


@pytest.mark.parametrize(
    "text",
    [
        "find('ddib')", "registry.find('ddib')(1)", "find(name='ddib')", "x = 'ddib'\nfind(x)",
        "for x in 'ddib', 'sdedit': find(x)", "[find(x) for x in ('ddib',)]", "find(x := 'ddib')",
        "import_module('sfumato.methods.ddib')", "x: str = 'sfumato.methods.ddib'\nimport_module(x)",
    ],
)  # fmt: skip
def test_what_calls_a_method_by_its_name(text):
    assert "ddib" in str(list(hidden(ast.parse(text))))


@pytest.mark.parametrize("text", ["find(name)", "'ddib'.find('@')", "x = 'ddib'\nsay(x)"])
def test_what_does_not(text):
    assert not list(hidden(ast.parse(text)))


def private(tree):
    """Names that begin with one underscore, of another file's or a library's."""
    hides = lambda name: re.match(r"_[^_]", name) and name not in ("_asdict", "_replace", "_fields")
    own = {n.name for n in ast.walk(tree) if isinstance(n, ast.FunctionDef | ast.ClassDef)}
    for n in ast.walk(tree):
        if isinstance(n, ast.Name | ast.Attribute) and isinstance(n.ctx, ast.Store):
            own.add(ast.unparse(n).removeprefix("self."))
    for n in ast.walk(tree):
        if isinstance(n, ast.Import | ast.ImportFrom):
            names = [part for a in n.names for part in a.name.split(".")]
            names += (getattr(n, "module", None) or "").split(".")
            yield from (name for name in names if hides(name) and name != "_shared")
        elif isinstance(n, ast.Attribute) and n.attr not in own and hides(n.attr):
            yield n.attr
        elif isinstance(n, ast.Call) and ast.unparse(n.func) in ("getattr", "hasattr", "setattr"):
            name = getattr(n.args[1], "value", "")
            if name not in own and hides(str(name)):
                yield name


@modules
def test_no_private_name_of_another_file(module):
    found = private(ast.parse(FILES[module].read_text(encoding="utf-8")))
    assert not {(module, name) for name in found} - PRIVATE


@pytest.mark.parametrize(
    "text",
    [
        "from a import _x", "import a._x", "from a._x import y", "a._x", "a.b()._x(1)", "self._x",
        "a._x = 1", "getattr(a, '_x')", "class B(A):\n    def f(self):\n        return super()._x()",
    ],
)  # fmt: skip
def test_what_is_private(text):
    assert list(private(ast.parse(text))) == ["_x"]


@modules
def test_forbidden_packages(module):
    foreign = {i.split(".")[0] for i in imported(module)} - PICKLES.get(module, set())
    assert not foreign & {"torchvision", "lightning", "pytorch_lightning", "hydra", "pickle"}


def unguarded(tree):
    """What reads a file without `regular`, which sees that it is one."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call) or "regular(" in ast.unparse(node.func):
            continue
        reader = ast.unparse(node.func).split(".")[-1]
        given = ast.unparse(node)
        if reader in ("read_bytes", "read_text") and isinstance(node.func, ast.Attribute):
            yield given
        elif reader in ("load_file", "safe_open") and "(regular(" not in given:
            yield given
        elif reader in ("open", "load") and re.search(
            r"torch\.load\((?!regular)|open\((?:'r[bt]?')?\)", given
        ):
            yield given


@modules
def test_every_file_that_is_read_is_seen_to_be_one(module):
    found = set(unguarded(ast.parse(FILES[module].read_text(encoding="utf-8"))))
    assert not {(module, call) for call in found} - READ


@pytest.mark.parametrize(
    "text",
    ["p.read_bytes()", "p().read_text('utf-8')", "safe_open(p)", "torch.load(p)", "p.open('rb')"],
)
def test_what_reads_a_file_that_may_be_none(text):
    assert list(unguarded(ast.parse(text))) == [text]
    guarded = re.sub(r"(?<=open\()p|(?<=load\()p|^p(\(\))?(?=\.)", "regular(p)", text)
    assert not list(unguarded(ast.parse(guarded)))


@modules
def test_length(module):
    path = FILES[module]
    limit = 150 if path.parent.name == "methods" else 300
    text = path.read_text(encoding="utf-8")
    imports = [n for n in ast.walk(ast.parse(text)) if isinstance(n, ast.Import | ast.ImportFrom)]
    lines = len(text.splitlines()) - sum(n.end_lineno - n.lineno + 1 for n in imports)
    assert lines <= limit + 50 * (path.name in LONG), f"{path.name} has {lines} lines"


@pytest.mark.parametrize("room", ["recipes", "benchmarks", "examples", "tools"])
def test_scripts_name_what_there_is(room):
    """What scripts import of the package exists; they are run by hand, and seldom."""
    for file in (ROOT.parent / room).rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "sfumato":
                module = importlib.import_module(node.module)
                for one in node.names:
                    inner = f"{node.module}.{one.name}"
                    assert hasattr(module, one.name) or importlib.util.find_spec(inner), f"{file}: {inner}"
