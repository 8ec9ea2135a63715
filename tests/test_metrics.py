"""Every metric against an independent computation, and the laws it must obey."""

import math
import re

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.linalg import sqrtm
from scipy.stats import ortho_group

from sfumato.evaluation import intervals, metrics, set_distances
from sfumato.evaluation.features import Lite0
from sfumato.evaluation.measures import measures

pytest.importorskip("torchmetrics")
seeds = st.integers(0, 2**32 - 1)


def normal(seed, *shape):
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape))


def pictures(seed, b=5, c=3, h=24, w=19):
    return (normal(seed, b, c, h, w) / 2).clamp(-1, 1).float()


@pytest.fixture
def pair():
    a = pictures(0)
    return a, (a + pictures(1) / 3).clamp(-1, 1)


def by_hand(a, b):
    """All pixel metrics of one pair (C,H,W), in numpy."""
    u, v = ((x.double().numpy() + 1) / 2 for x in (a, b))
    mse = ((u - v) ** 2).mean()
    taps = np.exp(-0.5 * (np.arange(-5, 6) / 1.5) ** 2)
    window = np.outer(taps, taps) / taps.sum() ** 2

    def mean(x):  # windows wholly inside
        return (np.lib.stride_tricks.sliding_window_view(x, (11, 11), (1, 2)) * window).sum((3, 4))

    mu, mv = mean(u), mean(v)
    su, sv, suv = mean(u * u) - mu**2, mean(v * v) - mv**2, mean(u * v) - mu * mv
    c1, c2 = 0.01**2, 0.03**2
    ssim = (2 * mu * mv + c1) * (2 * suv + c2) / ((mu**2 + mv**2 + c1) * (su + sv + c2))
    return {
        "mse": mse,
        "l2": np.sqrt(((u - v) ** 2).sum()),
        "psnr": 10 * np.log10(1 / (mse + 1e-10)),
        "ssim": ssim.mean(),
        "colour": np.linalg.norm(u.mean((1, 2)) - v.mean((1, 2))),
    }


@pytest.mark.parametrize("name", ["mse", "l2", "psnr", "ssim", "colour"])
def test_pixels_by_hand(name, pair, report):
    found = getattr(metrics, name)(*pair)
    expected = [by_hand(a, b)[name] for a, b in zip(*pair, strict=True)]
    error = np.abs(found.numpy() - expected).max()
    report(f"{name}: largest difference from numpy", error)
    assert error < 1e-6
    order = torch.randperm(5)
    shuffled = getattr(metrics, name)(pair[0][order], pair[1][order])
    torch.testing.assert_close(shuffled, found[order], rtol=0, atol=1e-12)


def test_pixels_of_equal_pictures(pair):
    a = pair[0]
    assert (metrics.l2(a, a) == 0).all()
    assert (metrics.psnr(a, a) == 100).all()
    assert (metrics.ssim(a, a) - 1).abs().max() < 1e-12


def test_ssim_is_that_of_torchmetrics(pair, report):
    from torchmetrics.functional.image import structural_similarity_index_measure

    a, b = pair
    u, v = ((x.double() + 1) / 2 for x in (a, b))
    _, full = structural_similarity_index_measure(
        u, v, data_range=1.0, reduction="none", return_full_image=True
    )
    inside = full[:, :, 5:-5, 5:-5].mean((1, 2, 3))  # it pads by reflection: cut that off
    error = (metrics.ssim(a, b) - inside).abs().max().item()
    report("SSIM: difference from torchmetrics", error)
    assert error < 1e-12


def test_ssim_is_the_same_in_any_batch():
    a, b = pictures(0, 40, h=11, w=11), pictures(1, 40, h=11, w=11)
    torch.testing.assert_close(metrics.ssim(a, b)[35:], metrics.ssim(a[35:], b[35:]))


def flat(*rgb):
    return torch.tensor(rgb, dtype=torch.float32)[None, :, None, None].expand(1, 3, 4, 4) * 2 - 1


@pytest.mark.parametrize(
    ("a", "b", "degrees"),
    [
        ((1, 0, 0), (0, 1, 0), 120), ((1, 0, 0), (0.4, 0.1, 0.1), 0), ((1, 0, 0), (1, 1, 0), 60),
        ((0, 0, 1), (1, 1, 0), 180), ((0.5,) * 3, (1, 0, 0), 90), ((0.5,) * 3, (0, 0, 0), 0),
    ],
)  # fmt: skip
def test_hue(a, b, degrees):
    assert metrics.hue(flat(*a), flat(*b)).item() == pytest.approx(degrees, abs=1e-5)
    assert metrics.hue(flat(*b), flat(*a)).item() == pytest.approx(degrees, abs=1e-5)


def test_diversity_by_hand():
    samples = torch.stack([pictures(k) for k in range(3)])
    u = (samples.double() + 1) / 2
    pairs = [(u[i] - u[j]).square().mean((1, 2, 3)).sqrt() for i, j in ((0, 1), (0, 2), (1, 2))]
    torch.testing.assert_close(metrics.diversity(samples), sum(pairs) / 3)
    assert (metrics.diversity(samples[:1].expand(4, -1, -1, -1, -1)) == 0).all()


@pytest.mark.parametrize("key", measures("KID", "FD"))
def test_the_unit_that_the_table_states_is_the_one_measured(key):
    """Of black and white, the two that differ most: what is said in [0, 1] is 1 a number."""
    about, black, white = measures("KID", "FD")[key].about, flat(0, 0, 0), flat(1, 1, 1)
    stated = re.findall(r"in \[(-?\d), (\d)\]", about)
    named = {"cycle": "l2"}.get(key, key.split("/")[-1])
    most = {"l2": (3 * 4 * 4) ** 0.5, "psnr": 0.0, "colour": 3**0.5, "diversity": 1.0}
    assert bool(stated) == (named in most)
    for low, high in stated:
        width = int(high) - int(low)
        found = (
            metrics.diversity(torch.stack([black, white]))
            if named == "diversity"
            else getattr(metrics, named)(black, white)
        )
        assert found.item() == pytest.approx(width * most[named], abs=1e-9)


def test_the_agreement_of_labels_by_hand():
    a = torch.tensor([[[0, 0, 1, 1]], [[0, 2, 2, 1]]])
    b = torch.tensor([[[0, 1, 1, 1]], [[0, 2, 1, 1]]])
    parts = metrics.label_parts(a, b)
    assert metrics.mean_iou(parts.sum(0)) == pytest.approx((2 / 3 + 3 / 5 + 1 / 2) / 3)
    assert metrics.mean_iou(metrics.label_parts(a, a).sum(0)) == 1
    assert parts.shape == (2, 2, 3)
    assert metrics.mean_iou(parts)[0] == pytest.approx((1 / 2 + 2 / 3) / 2)  # no 2 in the first
    found = intervals.bootstrap_sums(parts, metrics.mean_iou)
    assert found.value == pytest.approx(metrics.mean_iou(parts.sum(0)).item())
    assert found.low <= found.value <= found.high


# ---- features -----------------------------------------------------------------------------------


def closed_form(x, y):
    """By scipy's matrix square root of the covariances."""
    x, y = x.numpy(), y.numpy()
    cx, cy = np.cov(x, rowvar=False), np.cov(y, rowvar=False)
    cross = sqrtm(cx @ cy).real
    return ((x.mean(0) - y.mean(0)) ** 2).sum() + np.trace(cx + cy - 2 * cross)


def test_frechet_of_gaussians(report):
    mean, a, b = normal(0, 6), normal(1, 6, 6), normal(2, 6, 6)
    x, y = normal(3, 40_000, 6) @ a.T, normal(4, 30_000, 6) @ b.T + mean
    found = set_distances.frechet(x, y)
    expected = closed_form(x, y)
    report("frechet: relative difference from scipy's sqrtm", abs(found / expected - 1))
    assert found == pytest.approx(expected, rel=1e-6)
    ca, cb = (m @ m.T for m in (a, b))
    cross = np.trace(sqrtm((ca @ cb).numpy()).real)
    population = (mean.square().sum() + ca.trace() + cb.trace() - 2 * cross).item()
    report("frechet: relative difference from the population's", abs(found / population - 1))
    assert found == pytest.approx(population, rel=0.03)


@pytest.mark.parametrize(("n", "m"), [(10, 7), (10, 60), (60, 10), (20, 20)])
def test_frechet_of_fewer_images_than_dimensions(n, m):
    x, y = normal(0, n, 20), normal(1, m, 20) * 2 + 1
    cx, cy = np.cov(x.numpy().T), np.cov(y.numpy().T)
    roots = np.sqrt(np.linalg.eigvals(cx @ cy).real.clip(0)).sum()
    means = (x.mean(0) - y.mean(0)).square().sum().item()
    expected = means + np.trace(cx) + np.trace(cy) - 2 * roots
    assert set_distances.frechet(x, y) == pytest.approx(expected, rel=1e-6)


def test_frechet_is_that_of_torchmetrics(report):
    from torchmetrics.image.fid import FrechetInceptionDistance

    class Identity(torch.nn.Module):
        num_features = 12

        def forward(self, x):
            return x.flatten(1)

    x, y = normal(0, 200, 12), normal(1, 150, 12) * 1.5 + 0.3
    theirs = FrechetInceptionDistance(Identity(), normalize=True).set_dtype(torch.float64)
    theirs.update(x.view(200, 3, 2, 2), real=True)
    theirs.update(y.view(150, 3, 2, 2), real=False)
    expected = theirs.compute().item()
    found = set_distances.frechet(x, y)
    report("frechet: relative difference from torchmetrics", abs(found / expected - 1))
    assert found == pytest.approx(expected, rel=1e-6)


def kernel(x, y):
    return (float(x @ y) / len(x) + 1) ** 3


def kid_by_definition(x, y, same=lambda i, j: i == j):
    """Double loops; `same` pairs within a set are left out."""

    def mean(a, b, keep):
        pairs = [kernel(p, q) for i, p in enumerate(a) for j, q in enumerate(b) if keep(i, j)]
        return sum(pairs) / len(pairs)

    inside = [mean(a, a, lambda i, j: not same(i, j)) for a in (x, y)]
    return sum(inside) - 2 * mean(x, y, lambda i, j: True)


def test_kid_by_its_definition(report):
    x, y = normal(0, 13, 5), normal(1, 9, 5) + 0.5
    found, expected = set_distances.kid(x, y, block=4), kid_by_definition(x.numpy(), y.numpy())
    report("kid: difference from its double loop", abs(found - expected))
    assert found == pytest.approx(expected, abs=1e-9)
    from torchmetrics.image.kid import poly_mmd

    assert set_distances.kid(x[:9], y) == pytest.approx(poly_mmd(x[:9], y).item(), abs=1e-9)


@given(seeds, st.integers(2, 12), st.integers(2, 12), st.integers(1, 6))
def test_laws_of_distances_of_sets(seed, n, m, d):
    x, y = normal(seed, n, d), normal(seed + 1, m, d) * 2
    value = set_distances.frechet(x, y)
    scale = 1e-9 * (x.square().sum() + y.square().sum()).item()
    assert value >= 0
    assert set_distances.frechet(y, x) == pytest.approx(value, abs=scale)
    assert set_distances.frechet(x, x) == pytest.approx(0, abs=scale)
    order = torch.from_numpy(np.random.default_rng(seed).permutation(n))
    assert set_distances.frechet(x[order], y) == pytest.approx(value, abs=scale)
    kid = set_distances.kid(x, y)
    assert set_distances.kid(y, x[order]) == pytest.approx(kid, abs=1e-9 * (1 + abs(kid)))
    if d > 1:
        turn = torch.from_numpy(ortho_group.rvs(d, random_state=seed % 2**31))
        assert set_distances.frechet(x @ turn, y @ turn) == pytest.approx(value, abs=scale)
        assert set_distances.kid(x @ turn, y @ turn) == pytest.approx(kid, rel=1e-6, abs=1e-9)


# ---- intervals ----------------------------------------------------------------------------------


def covered(found, truth):
    return sum(i.low <= truth <= i.high for i in found) / len(found)


def test_intervals_cover_the_mean(report):
    found = [intervals.bootstrap_mean(normal(k, 60) + 2, resamples=400) for k in range(300)]
    share = covered(found, 2)
    report("95 % intervals of a mean that cover it", share)
    assert 0.91 < share < 0.98


def test_intervals_cover_distances(report):
    d, n = 4, 120
    sets = [(normal([k, 0], n, d), normal([k, 1], n, d) * 1.3 + 0.3) for k in range(60)]
    found = [intervals.bootstrap_frechet(x, y, resamples=60) for x, y in sets]
    share = covered(found, np.mean([i.value for i in found]))  # of the mean at this n
    report("95 % intervals of a Frechet distance that cover it", share)
    assert 0.88 < share < 0.99
    found = [intervals.bootstrap_kid(x, y, resamples=200) for x, y in sets]
    share = covered(found, np.mean([i.value for i in found]))
    report("95 % intervals of KID that cover it", share)
    assert 0.88 < share < 1
    same = [intervals.bootstrap_kid(x, y / 1.3 - 0.3 / 1.3, resamples=200) for x, y in sets]
    share = covered(same, 0)
    report("95 % intervals of KID that cover 0, sets alike", share)
    assert share > 0.93


def test_copies_are_no_evidence(report):
    values, groups = normal(0, 50), list(range(50))
    once = intervals.bootstrap_mean(values, groups)
    twice, fooled = (
        intervals.bootstrap_mean(values.repeat(4), g) for g in (groups * 4, None)
    )  # fmt: skip
    assert twice == pytest.approx(once)
    report(
        "width of an interval, copies taken for new", (fooled[2] - fooled[1]) / (once[2] - once[1])
    )
    assert fooled.high - fooled.low < 0.6 * (once.high - once.low)
    x, y = normal(1, 60, 3).repeat(4, 1), normal(2, 80, 3).repeat(4, 1) * 1.5
    for of in (intervals.bootstrap_frechet, intervals.bootstrap_kid):
        wide, narrow = of(x, y, list(range(60)) * 4, list(range(80)) * 4), of(x, y)
        assert wide.value == pytest.approx(narrow.value, rel=1e-9)
        assert wide.high - wide.low > 1.2 * (narrow.high - narrow.low)


def test_kid_by_weights_is_brute_force():
    x, y = normal(0, 7, 4), normal(1, 6, 4) + 0.3
    w, v = intervals.draws(7, None, 5, 0), intervals.draws(6, list("aabbcc"), 5, 1)
    for i in range(5):
        drawn = [np.repeat(np.arange(len(u[i])), u[i].int()) for u in (w, v)]
        mine = set_distances.weighted_kid(x, y, w[i : i + 1], v[i : i + 1], block=3).item()

        def mean(a, b, s, t, inside):
            pairs = [kernel(a[i], b[j]) for i in s for j in t if not (inside and i == j)]
            return sum(pairs) / len(pairs)

        s, t, p, q = *drawn, x.numpy(), y.numpy()
        brute = mean(p, p, s, s, 1) + mean(q, q, t, t, 1) - 2 * mean(p, q, s, t, 0)
        assert mine == pytest.approx(brute, abs=1e-9)
        fits = (set_distances.mean_and_root(*z) for z in ((x, w[i]), (y, v[i])))
        again = set_distances.frechet_of(*fits)
        assert again == pytest.approx(set_distances.frechet(x[s], y[t]), abs=1e-9)


GOLDEN = {
    "every image its own": (0.13114577868558897, 0.04900572130501743, 0.24153603674096524),
    "groups of both": (0.13114577868558897, 0.04886003658504088, 0.2302521789925716),
    "groups of one": (0.13114577868558897, 0.04787506021043601, 0.23619203895990615),
    "one group": (0.13114577868558897, math.nan, math.nan),
}


@pytest.mark.parametrize("which", GOLDEN)
def test_the_bootstrap_of_kid_keeps_its_numbers(which):
    """Written down from the sum over all pairs of images, 1,000 draws; more images than one block."""
    x, y = normal(3, 700, 6).abs(), normal(4, 600, 6).abs() + 0.1
    own, other = [i // 5 for i in range(700)], [i % 90 for i in range(600)]
    groups = {
        "every image its own": (None, None), "groups of both": (own, other), "groups of one": (own, None),
        "one group": (["a"] * 700, other),
    }[which]  # fmt: skip
    found = intervals.bootstrap_kid(x, y, *groups)
    assert tuple(found) == pytest.approx(GOLDEN[which], rel=1e-11, nan_ok=True)
    assert found.value == pytest.approx(set_distances.kid(x, y), rel=1e-12)


def test_one_bootstrap_table_serves_every_measure(monkeypatch):
    """Drawing it costs more than a mean over it; new groups, draws or seeds are a new table."""
    made, real, values = [], np.random.default_rng, [normal(k, 60) for k in range(5)]
    monkeypatch.setattr(np.random, "default_rng", lambda seed: (made.append(seed), real(seed))[1])
    groups = [f"{i // 2} of this test" for i in range(60)]
    for value in values:
        found = intervals.bootstrap_mean(value, groups)
    assert made == [0]
    again = intervals.bootstrap_mean(values[4], [g + "." for g in groups])
    assert again == found  # of groups that are the same but for their names
    intervals.bootstrap_mean(values[0], groups, resamples=999)
    intervals.bootstrap_mean(values[0], groups, seed=7)
    assert len(made) == 4


def test_intervals_are_seeded():
    values = normal(0, 20)
    assert intervals.bootstrap_mean(values, seed=1) == intervals.bootstrap_mean(values, seed=1)
    assert intervals.bootstrap_mean(values, seed=1) != intervals.bootstrap_mean(values, seed=2)
    wide, narrow = (intervals.bootstrap_mean(values, level=q) for q in (0.99, 0.5))
    assert wide.low < narrow.low < narrow.value < narrow.high < wide.high


def test_one_image_has_no_interval():
    one = intervals.bootstrap_mean(torch.tensor([3.0]))
    assert one.value == 3
    assert math.isnan(one.low)
    assert math.isnan(one.high)
    x, y = normal(0, 4, 2), normal(1, 5, 2)
    assert math.isnan(intervals.bootstrap_kid(x, y, groups_x="aaaa").low)
    assert math.isnan(intervals.bootstrap_frechet(x, y, groups_y="bbbbb").low)
    assert math.isfinite(intervals.bootstrap_kid(x[:2], y[:2]).low)


# ---- what cannot be measured --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda a: metrics.ssim(a[..., :10], a[..., :10]), "10x24 pixels: its window needs 11"),
        (lambda a: metrics.l2(a, a[:2]), r"expected the same shape"),
        (lambda a: metrics.psnr(a, a * math.nan), "not numbers"),
        (lambda a: metrics.diversity(a[None]), "expected two or more"),
        (lambda a: metrics.label_parts(a[:, 0], a[:, 0]), "whole numbers"),
        (lambda a: set_distances.frechet(a[0, 0], a[0, 0, :, :3]), "of one network"),
        (lambda a: set_distances.frechet(a[0, 0, :1], a[0, 0]), "two or more each"),
        (lambda a: set_distances.kid(a[0, 0] * math.nan, a[0, 0]), "not numbers"),
        (lambda a: intervals.bootstrap_mean([]), "a mean of 0 values"),
        (lambda a: intervals.bootstrap_mean([1.0, math.nan]), "not numbers"),
        (lambda a: intervals.bootstrap_mean([1.0, 2.0], groups="a"), "1 group for 2 images"),
    ],
)
def test_one_line_says_what_is_wrong(call, said):
    with pytest.raises(ValueError, match=said) as caught:
        call(pictures(0))
    assert "\n" not in str(caught.value)


def test_the_package_is_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "efficientnet_lite_pytorch", None)
    named = r'efficientnet-lite-pytorch: type pip install -e "\.\[evaluate\]"'
    with pytest.raises(ValueError, match=named):
        Lite0()
