"""Every Python block of the README and the docs runs, every example runs, and every link leads somewhere."""

import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

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
