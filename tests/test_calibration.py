"""A toy translator whose posterior is known: y | x ~ N(0.4 x, 0.2^2), an image's pixels correlated."""

import tracemalloc

import numpy as np
import pytest
import torch
from scipy.integrate import quad
from scipy.stats import binom, norm

from sfumato.evaluation.calibration import calibration
from sfumato.explore.sensitivity import mean_and_spread

K, B = 9, 300


def draw(rng, shape, spread=0.2):
    """Noise N(0, spread^2) of images (B,C,H,W), half of its variance shared by an image's pixels."""
    own, shared = (torch.from_numpy(rng.normal(size=s)) for s in (shape, (*shape[:-3], 1, 1, 1)))
    return (spread * 0.5**0.5 * (own + shared)).float()


def toy(factor=1.0, seed=0, k=K, b=B):
    """Samples whose standard deviation is `factor` times that of the posterior, and the truth."""
    rng = np.random.default_rng(seed)
    mean = 0.4 * torch.from_numpy(rng.normal(size=(b, 3, 4, 4))).float()
    return mean + draw(rng, (k, b, 3, 4, 4), 0.2 * factor), mean + draw(rng, (b, 3, 4, 4))


def coverage(factor, k=K):
    """The curve of such a translator: the truth's rank is binomial, given where the truth lies."""

    def share(j):
        def f(y):
            below = norm.cdf(y / factor)
            return norm.pdf(y) * (binom.cdf(k - j, k, below) - binom.cdf(j - 1, k, below))

        return quad(f, -9, 9)[0]

    return np.array([share(j) for j in range(k // 2, 0, -1)])


def test_closed_form_of_the_closed_form():
    np.testing.assert_allclose(
        coverage(1), (K + 1 - 2 * np.arange(K // 2, 0, -1)) / (K + 1), atol=1e-8
    )


@pytest.mark.parametrize("factor", [0.5, 1, 2])
def test_curve_of_a_known_posterior(factor, report):
    c = calibration(*toy(factor))
    truth = coverage(factor)
    assert ((c.low < truth) & (truth < c.high)).all()
    np.testing.assert_allclose(c.covered, truth, atol=0.03)
    report(
        f"calibration, {factor} x the right spread: error", float(np.abs(c.covered - truth).max())
    )
    if factor < 1:
        assert (c.high < c.nominal).all()  # too narrow: the truth escapes
        assert c.ratio.high < 0.8
    elif factor > 1:
        assert (c.low > c.nominal).all()
        assert c.ratio.low > 1.5
    else:
        assert c.ratio.low < 1 < c.ratio.high
        assert c.spread == pytest.approx(0.2 * ((K + 1) / K) ** 0.5, rel=0.05)


def test_intervals_cover_as_often_as_they_say(report):
    inside, ratio = [], []
    for seed in range(100):
        c = calibration(*toy(seed=seed, b=60), resamples=300)
        inside.append((c.low <= c.nominal) & (c.nominal <= c.high))
        ratio.append(c.ratio.low <= 1 <= c.ratio.high)
    report("calibration: its 95 % intervals cover", np.mean(inside), np.mean(ratio))
    assert 0.88 < np.mean(inside) < 0.99
    assert 0.86 < np.mean(ratio) < 0.99


@pytest.mark.parametrize("k", [2, 3, 4, 16])
def test_nominal_is_exact_for_few_samples(k):
    c = calibration(*toy(seed=1, k=k, b=1000))
    assert len(c.nominal) == k // 2
    assert (np.diff(c.nominal) > 0).all()
    assert c.nominal[-1] == pytest.approx((k - 1) / (k + 1))
    assert ((c.low < c.nominal) & (c.nominal < c.high)).all()


def test_ties_of_black_pixels_do_not_bend_the_curve():
    samples, truth = (x.mul(4).round().div(4).clamp(min=0) for x in toy(seed=2))
    assert (samples == truth).float().mean() > 0.5
    c = calibration(samples, truth)
    assert ((c.low < c.nominal) & (c.nominal < c.high)).all()
    black = torch.zeros(200, 3, 4, 4)
    c = calibration(black.expand(K, *black.shape), black)  # nothing but ties
    np.testing.assert_allclose(c.covered, c.nominal, atol=0.02)
    assert np.isnan(c.ratio.value)


def test_a_closer_look_by_hand():
    truth = torch.tensor([0.1, 0.3, 0.5, 0.9]).reshape(4, 1, 1, 1)
    samples = torch.tensor([0.0, 0.2, 0.4, 0.6]).reshape(4, 1, 1, 1, 1).expand(4, 4, 1, 1, 1)
    c = calibration(samples, truth)  # ranks 1, 2, 3, 4
    assert c.nominal.tolist() == [0.2, 0.6]
    assert c.covered.tolist() == [0.25, 0.75]
    assert c.error == pytest.approx((((0.3 - truth) ** 2).mean() ** 0.5).item())
    mean, spread = mean_and_spread(samples)
    assert mean.flatten().tolist() == pytest.approx([0.3] * 4)
    assert spread.shape == (4, 1, 1)
    assert spread[0].item() == pytest.approx(np.std([0, 0.2, 0.4, 0.6], ddof=1))


def test_groups_widen_the_interval():
    samples, truth = toy(seed=3, b=40)
    copied = samples.repeat_interleave(5, 1), truth.repeat_interleave(5, 0)
    alone = calibration(samples, truth)
    naive, grouped = calibration(*copied), calibration(*copied, groups=np.arange(200) // 5)
    width = lambda c: (c.high - c.low).mean()
    assert width(naive) < 0.6 * width(alone)
    assert width(grouped) == pytest.approx(width(alone), rel=0.15)


class Streamed:
    """Images that are drawn when asked for: 12 kB each, 16 x 1000 of them 786 MB."""

    def __init__(self, seed, count, side=64):
        self.seed, self.count, self.side = seed, count, side

    def __len__(self):
        return self.count

    def get(self, indices):
        rng = np.random.default_rng([self.seed, indices[0]])
        return torch.from_numpy(rng.random((len(indices), 3, self.side, self.side), np.float32))


def test_sets_are_streamed():
    sets = [Streamed(seed, 70, 16) for seed in range(5)]
    one = calibration(sets[1:], sets[0])
    assert ((one.low < one.nominal) & (one.nominal < one.high)).all()
    assert calibration(sets[1:], sets[0]).covered.tolist() == one.covered.tolist()  # seeded
    tracemalloc.start()
    calibration([Streamed(seed, 32) for seed in range(16)], Streamed(99, 32))
    assert tracemalloc.get_traced_memory()[1] < 100e6  # of numpy's
    tracemalloc.stop()


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda s, y: (s[:1], y), "at least 2 seeds"),
        (lambda s, y: (s[:, :5], y), r"\[5\] images for 300 truths"),
        (lambda s, y: (s[..., :2], y), "samples .3, 4, 2. of truth .3, 4, 4."),
        (
            lambda s, y: (s, torch.full_like(y, torch.nan)),
            "values that are not numbers, of images 0 to 15",
        ),
    ],
)
def test_errors(change, match):
    with pytest.raises(ValueError, match=match):
        calibration(*change(*toy()))
    with pytest.raises(ValueError, match="2 groups for 300 images"):
        calibration(*toy(), groups=[0, 1])
    with pytest.raises(ValueError, match="K at least 2"):
        mean_and_spread(torch.zeros(1, 2, 3, 4, 4))
