"""The mistakes that benchmarks/mutants.py makes on purpose are mistakes in today's code."""

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture
def mutants(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    yield __import__("mutants")
    sys.modules.pop("mutants")


def test_each_mistake_can_be_made(mutants):
    """Its old text stands in its file exactly once, the new one is Python, and its tests are there."""
    assert mutants.stale(ROOT) == []
    assert len({(m.file, m.old, m.new) for m in mutants.mutants()}) >= 70


def test_it_stands_in_the_copy_while_it_is_tested(mutants, tmp_path):
    (tmp_path / "sfumato").mkdir()
    file = tmp_path / "sfumato/x.py"
    file.write_text("a = b + c\n")
    before = file.stat().st_mtime_ns
    mutant = mutants.Mutant("x.py:1", "sfumato/x.py", "b + c", "b - c", ())
    with mutants.made(mutant, tmp_path):
        assert file.read_text() == "a = b - c\n"
    assert (file.read_text(), file.stat().st_mtime_ns) == ("a = b + c\n", before)
    file.write_text("a = b + c * (b + c)\n")
    with pytest.raises(SystemExit, match="x.py:1: its old text stands 2 times"):
        with mutants.made(mutant, tmp_path):
            pass
