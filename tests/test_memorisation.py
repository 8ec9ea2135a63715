"""Copies are found, honest outputs are not, in a broad domain and in a narrow one."""

import itertools
import json
from functools import partial
from importlib import import_module

import numpy as np
import pytest
import torch

from sfumato.core.errors import UserError
from sfumato.diffusion.exact import Gaussian, Mixture
from sfumato.evaluation.memorisation import _p, audit
from sfumato.evaluation.nearest import Vectors, nearest
from sfumato.methods.sdedit import SDEdit


class Made:
    """A set of images (N,C,H,W) in memory."""

    key = "made"

    def __init__(self, images):
        self.images = images
        self.names = [f"{i:04d}" for i in range(len(images))]

    def __len__(self):
        return len(self.images)

    def get(self, indices):
        return self.images[torch.as_tensor(list(indices))]


def domain(n, seed, narrow=False, side=16):
    """Smooth random pictures (n,3,side,side); of a narrow domain hardly different from one another."""
    g = torch.Generator().manual_seed(seed)
    coarse = torch.randn(n, 3, 4, 4, generator=g) * (0.01 if narrow else 0.4)
    x = torch.nn.functional.interpolate(coarse, side, mode="bicubic")
    return (x + 0.02 * torch.randn(n, 3, side, side, generator=g)).clamp(-1, 1)


def noisy(x, sd, seed=9):
    return (x + sd * torch.randn(x.shape, generator=torch.Generator().manual_seed(seed))).clamp(
        -1, 1
    )


def pooled(images):
    """Stand-in for a feature network."""
    return torch.nn.functional.avg_pool2d(images.get(range(len(images))), 4).flatten(1)


@pytest.mark.parametrize("narrow", [False, True], ids=["broad", "narrow"])
@pytest.mark.parametrize("features", [None, pooled], ids=["pixels", "features"])
def test_honest_outputs_are_not_flagged(narrow, features, report):
    train, held = Made(domain(400, 0, narrow)), Made(domain(150, 1, narrow))
    found = audit(Made(domain(150, 2, narrow)), train, held, features)
    assert not found.copied, found.text
    assert "No sign" in found.text
    report(f"audit, honest, {'narrow' if narrow else 'broad'}: share near", found.spaces[0].share)


@pytest.mark.parametrize("share", [0.1, 1.0])
@pytest.mark.parametrize("features", [None, pooled], ids=["pixels", "features"])
def test_copies_are_flagged(share, features, report):
    train, held, results = domain(400, 0), domain(150, 1), domain(150, 2)
    n = int(share * len(results))
    results[:n] = noisy(train[100 : 100 + n], 0.05)
    found = audit(Made(results), Made(train), Made(held), features)
    assert found.copied, found.text
    assert found.text.startswith("This model copies")
    assert (found.spaces[0].results.index[:n] == np.arange(100, 100 + n)).all()
    assert {i for i, _ in found.closest(n)} == set(range(n))
    assert all(j == i + 100 for i, j in found.closest(n))
    assert found.spaces[0].share == pytest.approx(share, abs=0.02)
    report(f"audit, {share:.0%} copies: p", found.spaces[0].p)


@pytest.mark.parametrize("space", ["pixels", "features"])
def test_changed_copies_are_found_in_pixels_or_features(space, lite0, report):
    changed = (lambda x: noisy(x, 0.05)) if space == "pixels" else (lambda x: x.flip(3))
    train, held = domain(60, 0, side=32), Made(domain(40, 1, side=32))
    found = audit(Made(changed(train[:12])), Made(train), held, lite0)
    assert [c.space for c in found.spaces if c.copied] == [space], found.text
    said = "noisy" if space == "pixels" else "mirrored"
    ratios = [float(np.median(c.results.ratio)) for c in found.spaces]
    report(f"audit, {said} copies: median ratio in pixels, features", *ratios)


@pytest.fixture(scope="module")
def lite0():
    pytest.importorskip("efficientnet_lite_pytorch")
    from sfumato.evaluation.features import Lite0, extract

    return partial(extract, Lite0())


def test_smooth_outputs_are_nearer_but_no_copies():
    train, held = domain(400, 0), domain(150, 1)
    blurred = torch.nn.functional.avg_pool2d(domain(150, 2), 5, 1, 2, count_include_pad=False)
    found = audit(Made(blurred), Made(train), Made(held))
    pixels = found.spaces[0]
    assert np.median(pixels.results.distance) < 0.95 * np.median(pixels.held_out.distance)
    assert not found.copied, found.text


def test_false_alarms_are_rare(report):
    """Chance alone, with the multiple of the expected share left out: at most the level."""
    rng = np.random.default_rng(0)
    below = lambda n, m, r: int((rng.random(n) < np.sort(rng.random(m))[r - 1]).sum())
    for n, m, r in ((66, 80, 1), (300, 400, 4)):
        p = np.array([_p(below(n, m, r), n, m, r) for _ in range(2000)])
        for level in (0.01, 0.1):
            assert (p < level).mean() < level + 3 * (level / 2000) ** 0.5
        report(f"precedence test, n {n}, m {m}: share of p < 0.1", float((p < 0.1).mean()))


def test_p_by_counting():
    """All orders of n = 3 outputs and m = 4 held-out ones: at least x before the 2nd held-out one."""
    orders = set(itertools.permutations("ooohhhh"))
    for x in range(4):
        hits = 0
        for order in orders:
            second = [i for i, c in enumerate(order) if c == "h"][1]
            hits += order[:second].count("o") >= x
        assert _p(x, 3, 4, 2) == pytest.approx(hits / len(orders))


def test_a_model_trained_for_ever_is_flagged(report):
    """The minimum of the training loss is known: the exact denoiser of the training pictures."""
    train, held = domain(16, 0, side=8), domain(60, 1, side=8)
    means = train.flatten(1)
    by_heart = Mixture(means, 1e-4 * torch.eye(means.shape[1]).expand(16, -1, -1))
    honest = Gaussian(means.mean(0), torch.cov(domain(2000, 5, side=8).flatten(1).T))
    for strength in (0.9, 1.0):
        found = audit(
            Made(SDEdit(target=by_heart).translate(held, strength=strength)),
            Made(train),
            Made(held),
        )
        assert found.copied, found.text
        report(
            f"audit, by heart, strength {strength}: median ratio",
            float(np.median(found.spaces[0].results.ratio)),
        )
        results = SDEdit(target=honest).translate(held, strength=strength)
        assert not audit(Made(results), Made(train), Made(domain(60, 3, side=8))).copied


def test_nearest_by_hand_and_in_blocks(monkeypatch):
    g = torch.Generator().manual_seed(0)
    q, t = torch.rand(70, 12, generator=g), torch.rand(90, 12, generator=g)
    t[7] = q[3]
    got = lambda x: Vectors(len(x), lambda rows: x[torch.as_tensor(list(rows))])
    d = torch.cdist(q.double(), t.double()).sort(dim=1)
    for size in (100 * 2**20, 4096):
        monkeypatch.setattr(import_module("sfumato.evaluation.nearest"), "BYTES", size)
        found = nearest(got(q), got(t), k=5)
        assert (found.index == d.indices[:, 0].numpy()).all()
        np.testing.assert_allclose(found.distance, d.values[:, 0], atol=1e-6)
        np.testing.assert_allclose(
            found.ratio, d.values[:, 0] / d.values[:, :5].mean(1), rtol=1e-4, atol=1e-6
        )
    assert found.distance[3] == 0 == found.ratio[3]
    same = torch.ones(60, 4)
    assert (
        nearest(got(same[:3]), got(same)).ratio == 1
    ).all()  # a flat domain: no one is singled out


def test_distance_is_the_rmse_of_pixels_in_0_1():
    a, b = domain(3, 0), domain(5, 1)
    found = audit(Made(a), Made(b), Made(a)).spaces[0].results
    rmse = ((a[0] - b[found.index[0]]) / 2).square().mean().sqrt().item()
    assert found.distance[0] == pytest.approx(rmse, rel=1e-5)


def test_groups_count_once():
    train, held, results = domain(200, 0), domain(80, 1), domain(40, 2)
    results[0] = train[0]
    results = torch.cat([results, results[:1].expand(20, -1, -1, -1)])
    groups = [*range(40), *[0] * 20]
    assert audit(Made(results), Made(train), Made(held)).copied
    found = audit(Made(results), Made(train), Made(held), groups=groups)
    assert not found.copied
    assert (found.spaces[0].counted, found.spaces[0].near) == (40, 1)


def test_what_weakens_it_is_said():
    train = domain(100, 0)
    found = audit(Made(domain(20, 2)), Made(train), Made(torch.cat([train[:7], domain(50, 1)])))
    assert found.leaks == 7
    assert "7 held-out pictures found in training, too" in found.text
    found = audit(Made(domain(2, 2)), Made(train), Made(domain(4, 1)))
    assert "Too few pictures to tell" in found.text


def test_json():
    found = audit(Made(domain(5, 2)), Made(domain(20, 0)), Made(domain(9, 1)), pooled)
    said = json.loads(json.dumps(found.describe()))
    assert list(said["spaces"]) == ["pixels", "features"]
    assert len(said["names"]) == len(said["spaces"]["pixels"]["nearest"]) == 5
    assert said["copied"] is found.copied


def test_errors():
    a, b = Made(domain(5, 0)), Made(domain(5, 1))
    with pytest.raises(ValueError, match="5 results, 1 training and 5 held-out"):
        audit(a, Made(domain(1, 1)), b)
    with pytest.raises(ValueError, match="are not of one size"):
        audit(a, b, Made(torch.zeros(4, 3, 8, 8)))
    with pytest.raises(ValueError, match="not numbers"):
        audit(Made(torch.full((2, 3, 16, 16), torch.nan)), a, b)
    with pytest.raises(ValueError, match="3 groups for 5 pictures"):
        audit(a, b, b, groups=[1, 2, 3])


@pytest.mark.parametrize("odd", [None, torch.zeros(3), torch.zeros(2, 4), [0.0] * 3])
def test_odd_features_of_ones_own_are_named(odd):
    with pytest.raises(UserError, match=r"^features= answered .* of shape .3, any."):
        audit(*(Made(domain(3, seed)) for seed in range(3)), lambda images: odd)
