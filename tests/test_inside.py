"""The recipe of the slides' experiments: every setting is an operation, and the control is the identity."""

import re
import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "recipes"))
import inside
import inside_experiments as experiments
from inside_tasks import Task, shared

X = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1


@pytest.fixture(scope="module")
def found():
    """An encoder that is the identity, a decoder that is, and one that makes everything darker."""
    other, noise = X.roll(1, 0), torch.randn(X.shape, generator=torch.Generator().manual_seed(1))
    named = {
        "OWN": X,
        "OTHER": other,
        "NOISE": noise,
        "INK": X,
        "GROUND": X,
        "TOWARDS": X,
        "AWAY": X,
    }
    measure = lambda y: {"error": (y - X).abs().flatten(1).mean(1), "hue error to OTHER": y.mean((1, 2, 3)),
                         "hue from blue": y.mean((1, 2, 3))}  # fmt: skip
    task = Task("a", "digits", "title", X, lambda x: x, {"b": lambda z: z - 0.5, "a": lambda z: z}, named,
                measure, list("abcd"), "reference", experiments.SECTIONS)  # fmt: skip
    return inside.run(task)


def cells(found):
    return {(s["title"], c["label"]): c for s in found["sections"] for c in s["cells"]}


def test_every_setting_is_measured(found):
    assert len(cells(found)) == sum(
        len(s.settings) for s in experiments.SECTIONS if s.only != "earth"
    )
    for cell in cells(found).values():
        assert set(cell["pictures"]) == set(cell["numbers"]) == {"a", "b"}
        assert ("hue error to OTHER" in cell["numbers"]["a"]) == ("OTHER" in cell["chain"])
        assert ("hue from blue" in cell["numbers"]["a"]) == ("AWAY" in cell["chain"])


def test_the_control_is_the_identity(found):
    same = cells(found)["The latent as it is", "nothing"]["numbers"]
    assert same["a"]["error"] == [0, 0, 0]
    assert same["b"]["error"][0] > 0.2
    half = cells(found)["Checkerboard with fixed noise", "cell 1"]["numbers"]["a"]["error"]
    assert half[1] < half[0] < half[2]


def test_the_page_shows_every_setting(found):
    page = inside.page({"one": found | {"cpu minutes": 1.0}})
    assert page.count('scope="col"') == len(cells(found))
    assert all(page.count(f">{label}<") >= 2 for _, label in cells(found) if "/" not in label)
    assert not re.search(r'(?:src|href)="(?!data:|#)', page)  # nothing from elsewhere


def test_shared_ink():
    a, b = torch.zeros(2, 1, 4, dtype=torch.bool), torch.zeros(2, 1, 4, dtype=torch.bool)
    a[0, 0, :2], b[0, 0, 1:] = True, True
    assert shared(a, b).tolist() == [0.25, 0]
