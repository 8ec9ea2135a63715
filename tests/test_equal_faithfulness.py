"""Frechet distances at equal L2: read off the curve, with an interval, and only where there is one."""

import math
from types import SimpleNamespace

import pytest
import torch

from sfumato.evaluation.equal_faithfulness import Track, _ratio, at_equal_l2
from sfumato.evaluation.scores import Scores
from sfumato.evaluation.set_distances import frechet

N, D = 120, 4
REAL = torch.randn(150, D, generator=torch.Generator().manual_seed(0))


def row(label, family, l2, shift, seed=1):
    """Results whose features lie `shift` from the real ones, at about this L2 to the source."""
    rng = torch.Generator().manual_seed(seed)
    x = torch.randn(N, D, generator=rng) + shift * torch.eye(D)[0]
    distances = l2 + 0.5 * torch.randn(N, generator=rng)
    return Scores(label, family, "method", {}, images={"source/l2": distances.tolist()}, results=[x])


def judge(groups=None):
    return SimpleNamespace(
        embed=lambda x, features: x, features=None, target=REAL, source=range(N), groups=groups,
        target_groups=None, resamples=1000,
    )  # fmt: skip


CURVE = [
    row(f"c{k}", "c", l2, shift) for k, (l2, shift) in enumerate([(4, 4.0), (8, 2.0), (12, 1.0)])
]


def mean(r):
    return torch.tensor(r.images["source/l2"], dtype=torch.float64).mean().item()


def test_a_point_of_the_curve_is_the_curve():
    same = Scores("same", "other", "method", {}, images=CURVE[1].images, results=CURVE[1].results)
    found = at_equal_l2([*CURVE, same], judge())
    assert list(found) == ["same"]
    ratio = found["same"]["c"]
    assert ratio == pytest.approx((1, 1, 1), abs=1e-9)


def test_between_two_points_the_logarithm_is_linear(report):
    better = row("better", "mine", 10, 0.7, seed=2)
    value, low, high = at_equal_l2([*CURVE, better], judge())["better"]["c"]
    a, b = CURVE[1:]
    share = (mean(better) - mean(a)) / (mean(b) - mean(a))
    logs = [math.log(frechet(r.results[0], REAL)) for r in (a, b)]
    there = math.exp(logs[0] + share * (logs[1] - logs[0]))
    report("FD at equal L2 over a curve's, with its interval", value, low, high)
    assert value == pytest.approx(frechet(better.results[0], REAL) / there, rel=1e-9)
    assert low < value < high < 1  # truth: .49 / 2, less the bias of few pictures
    assert low > 0.1


def test_points_of_the_curve_that_change_places_in_a_draw():
    """Neighbours at 8 and 8.1 whose order turns in the first draw: read off in that draw's order."""
    curve = [
        Track(torch.tensor(l2).double(), torch.tensor(fd).double())
        for l2, fd in (((4, 4, 4), (3, 3, 3)), ((8, 9, 8), (2, 2, 2)), ((8.1, 8, 8.1), (1, 1, 1)))
    ]
    one = Track(torch.tensor([6, 6, 6]).double(), torch.tensor([0, 0, 0]).double())
    value, low, high = _ratio(one, curve)
    # between (4, 3) and (8, 2), in the first draw (8, 1): logs -2.5, and draws -2 and -2.5
    assert math.log(value) == pytest.approx(-2.5)
    assert math.log(low) == pytest.approx(-2.75, abs=0.02)
    assert math.log(high) == pytest.approx(-2.25, abs=0.02)


def test_seeds_are_averaged():
    one, two = row("1", "m", 8, 1.0, seed=3), row("2", "m", 8, 3.0, seed=4)
    both = Scores("both", "m", "method", {}, images=one.images, results=[*one.results, *two.results])
    found = at_equal_l2([*CURVE, both], judge())["both"]["c"].value
    apart = [at_equal_l2([*CURVE, Scores("r", "m", "method", {}, images=one.images, results=r.results)],
                         judge())["r"]["c"].value for r in (one, two)]  # fmt: skip
    assert found == pytest.approx(sum(apart) / 2, rel=1e-9)


def test_groups_widen_the_interval():
    """Six pictures drawn twenty times each are six pictures."""
    copies = [k // 20 for k in range(N)]
    mine = row("mine", "m", 8, 1.0, seed=5)
    mine.results = [mine.results[0][::20][copies]]
    few, many = (
        (i := at_equal_l2([*CURVE, mine], judge(groups))["mine"]["c"]).high / i.low
        for groups in (copies, None)
    )
    assert few > 1.5 * many


def test_off_the_curve_and_without_one_nothing_is_said():
    off = [row("near", "m", 1, 1.0), row("far", "n", 20, 1.0)]
    assert at_equal_l2([*CURVE, *off], judge()) == {}
    assert at_equal_l2([CURVE[0], row("single", "m", 4, 1.0)], judge()) == {}
    assert at_equal_l2(CURVE, judge()) == {}
