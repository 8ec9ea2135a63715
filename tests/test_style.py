"""Ruff and mypy find nothing, where they are installed."""

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
