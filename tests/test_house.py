"""tools/house.py counts what it says it counts."""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def told(tree):
    """{what: its number and what follows} of the first table."""
    done = subprocess.run(
        [sys.executable, "-I", "tools/house.py", str(tree)],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.split("\n\n")[0].splitlines()
    return {line[:20].strip(): line[20:].strip() for line in lines}, done.stdout


def test_the_plan_of_this_house_is_told_without_importing_it():
    numbers, text = told(ROOT)
    assert numbers["circular arrows"] == numbers["upward arrows"] == "0"
    assert int(numbers["lines"].replace(",", "")) == sum(
        len(p.read_text(encoding="utf-8").splitlines()) for p in ROOT.glob("sfumato/**/*.py")
    )
    assert "the 15 longest functions" in text


def test_rooms_arrows_floors_and_what_is_hidden(tmp_path):
    files = {
        "sfumato/__init__.py": "from sfumato.top import f",
        "sfumato/base.py": "class Base: ...",
        "sfumato/data/__init__.py": "",
        "sfumato/data/read.py": "from ..base import Base\nfrom sfumato.data import write",
        "sfumato/data/write.py": "def g():\n    from sfumato.base import Base\n    raise ValueError",
        "sfumato/methods/ddib.py": "import sfumato.data.read",
        "sfumato/one.py": "from sfumato import two\nfrom sfumato.data.read import h",
        "sfumato/two.py": "def g():\n    import sfumato.one",
        "sfumato/top.py": "from sfumato.one import f\nm.find('ddib'), 'text'.find('@')",
        "tests/test_layers.py": "FLOORS = [('base', 'one'), ('data', 'two'), ('top',)]",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    numbers, text = told(tmp_path)
    assert numbers["rooms"] == "7"
    assert numbers["arrows"] == "7"  # to base from data, once, though two files import it
    assert numbers["floors"] == "4"  # base, data, the circle, top
    assert numbers["raise statements"] == "1"
    assert numbers["circular arrows"] == "2  one -> two, two -> one"
    assert numbers["upward arrows"] == "2  one -> data, one -> two"
    assert numbers["hidden arrows"] == "1  sfumato.top:2 find('ddib')"
    assert "methods 1, one 2, two 2" in text  # a circle shares its floor


def test_trips_climb_no_more_than_they_must():
    """train, translate, evaluate: what is called from a floor below, as tools/trips.py sees it."""
    done = subprocess.run([sys.executable, "tools/trips.py"], cwd=ROOT, capture_output=True, text=True)
    climbs = dict(re.findall(r"^(\w+): (\d+) climbs$", done.stdout, re.M))
    assert climbs.keys() == {"train", "translate", "evaluate"}, done.stderr
    assert all(int(climbs[trip]) <= most for trip, most in (("train", 3), ("translate", 1), ("evaluate", 4)))
