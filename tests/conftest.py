"""Shared by all tests: one thread, float64 ground truth, and a table of the measured numbers at the end."""

import os
import signal

import jaxtyping
import pytest
import tifffile
import torch
from hypothesis import settings
from PIL import Image

from sfumato.data.digits import write_digits

signal.signal(
    signal.SIGINT, signal.default_int_handler
)  # shells ignore it in what they start with &
torch.set_num_threads(1)
os.environ["OMP_NUM_THREADS"] = "1"  # of what tests start: on tiny tensors threads only wait for each other
settings.register_profile("laws", derandomize=True, deadline=None, max_examples=50, database=None)
settings.load_profile("laws")


@pytest.fixture
def report(record_property):
    """report(what, number, ...): a row of the table that is printed after the tests."""

    def row(what, *numbers):
        text = "  ".join(n if isinstance(n, str) else f"{n:.4g}" for n in numbers)
        record_property("measured", (what, text))

    return row


@pytest.fixture(scope="session")
def tiffs(tmp_path_factory):
    """tiffs(a=[samples, ...], ...): a folder that holds a folder of TIFFs for each name, bands first."""

    def write(**folders):
        root = tmp_path_factory.mktemp("tiffs")
        for name, pictures in folders.items():
            (root / name).mkdir()
            for i, x in enumerate(pictures):
                how = {"photometric": "minisblack", "planarconfig": "separate"} if x.ndim == 3 else {}
                tifffile.imwrite(root / name / f"{i}.tif", x, **how)
        return root

    return write


@pytest.fixture(scope="session")
def pngs(tmp_path_factory):
    """pngs(pictures): a folder 0.png, 1.png, ... of arrays."""

    def write(pictures):
        root = tmp_path_factory.mktemp("pngs") / "pictures"
        root.mkdir()
        for i, x in enumerate(pictures):
            Image.fromarray(x).save(root / f"{i}.png")
        return root

    return write


@pytest.fixture(scope="session")
def digits_folder(tmp_path_factory):
    """`sfumato data digits` of 32 pixels, one copy each: to be read only."""
    pytest.importorskip("sklearn")
    write_digits(folder := tmp_path_factory.mktemp("written") / "digits", copies=1)
    return folder


@pytest.fixture
def shapes_unchecked(monkeypatch):
    """Thousands of steps on tiny tensors: checked, they take four times as long.  Others check the shapes."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)


@pytest.fixture
def float64():
    """Real tensors are float64 by default in this test."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def pytest_terminal_summary(terminalreporter):
    done = terminalreporter.getreports("passed") + terminalreporter.getreports("failed")
    rows = [row for one in done for key, row in one.user_properties if key == "measured"]
    if rows:
        terminalreporter.section("measured")
        width = max(len(what) for what, _ in rows)
        for what, text in rows:
            terminalreporter.write_line(f"{what:<{width}}  {text}")
