"""Ruff and mypy find nothing, where they are installed."""

import ast
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("command", [("ruff", "check", "."), ("mypy",)], ids=lambda c: c[0])
def test_clean(command):
    tool = Path(sys.executable).with_name(command[0])
    if not tool.exists() and not (tool := shutil.which(command[0])):
        pytest.skip(f"{command[0]} is not installed")
    done = subprocess.run([tool, *command[1:]], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_no_result_of_a_benchmark_names_a_path_of_its_machine():
    results = [f for f in (ROOT / "benchmarks/results").iterdir() if f.suffix in (".json", ".md")]
    assert results
    path = re.compile(r"(?<![\w.)/])/(?:home|root|tmp|work|Users)/\S*")
    named = {f.name: path.findall(f.read_text()) for f in results}
    assert not {name: paths for name, paths in named.items() if paths}


BEYOND_A_LIMIT = "data/items.py", "studio/latents_tab.py", "studio/page.py", "studio/uploads.py"
"""What refuses a number that is larger than one."""


def test_a_number_of_things_is_said_by_count():
    """`{len(x)} pictures` says "1 pictures" of one; "2 of 1 pictures" is for all there are."""
    found = []
    for file in sorted((ROOT / "sfumato").rglob("*.py")):
        name = file.relative_to(ROOT / "sfumato").as_posix()
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            parts = node.values if isinstance(node, ast.JoinedStr) else []
            for before, number, after in zip([None, *parts], parts, parts[1:], strict=False):
                said = [getattr(part, "value", "") for part in (before, after)]
                if (
                    isinstance(number, ast.FormattedValue)
                    and "len(" in ast.unparse(number.value)[:4]
                    and re.match(r" \w+s\b", str(said[1]))
                    and not str(said[0]).endswith((" of ", " and "))
                    and not str(said[1]).startswith(" has ")
                ):
                    found.append((name, ast.unparse(number) + str(said[1])))
    assert not [one for one in found if one[0] not in BEYOND_A_LIMIT]


SEVERAL_ALWAYS = (
    ("checkup/findings.py", "' and '.join(one.domains)"),
    ("checkup/pairs.py", "len(there)"),
    ("evaluation/inputs.py", "', '.join(alike)"),
    ("evaluation/measures.py", "count(m, 'reference picture')"),
    ("translation/translator.py", "' and '.join(made)"),
)


def test_a_verb_after_a_number_or_a_list_goes_with_one_too():
    """`{len(x)} have` says "1 have" of one, and `{', '.join(x)} differ` "seed differ": `verb` knows."""
    found = []
    for file in sorted((ROOT / "sfumato").rglob("*.py")):
        name = file.relative_to(ROOT / "sfumato").as_posix()
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            parts = node.values if isinstance(node, ast.JoinedStr) else []
            several = False
            for part in parts:
                if isinstance(part, ast.FormattedValue):
                    value = ast.unparse(part.value)
                    several = several or bool(re.match(r"(len|count)\(|'[^']*'\.join\(", value))
                    last = value
                elif several:
                    if re.match(r"(?: [\w-]+){0,3} (?:have|are|were|differ|lie|do)\b", str(part.value)):
                        found.append((name, last))
                    several = str(part.value) in (" of ", " results in ", " pictures of ")
    assert not [one for one in found if one not in SEVERAL_ALWAYS]


def test_one_differs_and_two_differ():
    from sfumato.core.terminal import verb

    words = [verb(n, many) for many in ("differ", "have", "are", "were", "do") for n in (1, 2, 0)]
    assert words == "differs differ differ has have have is are are was were were does do do".split()
