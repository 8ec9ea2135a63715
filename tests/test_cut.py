"""CUT and FastCUT: the contrast in closed form, flips, terms and weights, the papers' options."""

import copy
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from test_pix2pix import Same
from torch import nn

from sfumato.methods._shared.contrastive import layers_nce, patch_nce
from sfumato.methods.cut import CUT
from sfumato.methods.fastcut import FastCUT
from sfumato.nets.resnet_generator import ResNet
from sfumato.training.options import defaults

TAU = 0.07
A = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
B = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(1)) * 2 - 1


def tiny(cls=CUT, **options):
    torch.manual_seed(0)
    return cls(net="tiny", side=16, init_gain=1.0, **options)


def losses(part, a=A, b=B, seed=0):
    rounds = part.objectives(iter([(a, b)]), torch.Generator().manual_seed(seed))
    return {player: loss.item() for player, loss in rounds}


@given(n=st.integers(2, 40), tau=st.floats(0.05, 2))
def test_orthogonal_keys(n, tau):
    """Log(1 + (n-1) e^(-1/tau) + e^((-10-1)/tau)): the patch, the others, and its own place at -10."""
    q = torch.eye(n, dtype=torch.float64)[None]
    want = math.log1p((n - 1) * math.exp(-1 / tau) + math.exp(-11 / tau))
    assert patch_nce(q, q, tau).item() == pytest.approx(want, rel=1e-10)


@given(n=st.integers(2, 300))
def test_features_that_are_all_equal(n):
    """Nothing tells the patches apart: log n, the diagonal's e^(-11/tau) being nothing."""
    q = torch.ones(3, n, 4, dtype=torch.float64) / 2
    assert patch_nce(q, q, TAU).item() == pytest.approx(math.log(n), rel=1e-12)


def test_the_right_order_is_the_best_and_other_pictures_do_not_matter():
    g = torch.Generator().manual_seed(0)
    q = nn.functional.normalize(torch.randn(2, 8, 64, dtype=torch.float64, generator=g), dim=2)
    right = patch_nce(q, q, TAU)
    for _ in range(5):
        order = torch.randperm(8, generator=g)
        if not torch.equal(order, torch.arange(8)):
            assert patch_nce(q, q[:, order], TAU) > right
    alone = (patch_nce(q[:1], q[:1], TAU) + patch_nce(q[1:], q[1:], TAU)) / 2
    torch.testing.assert_close(right, alone)  # negatives come from the same picture
    twice = layers_nce([q, q[:, :4]], [q, q[:, :4]], TAU)
    torch.testing.assert_close(twice, (right + patch_nce(q[:, :4], q[:, :4], TAU)) / 2)


def test_without_the_contrast_it_is_a_gan():
    part = tiny(lambda_nce=0.0)
    part.discriminator = Same(0)
    assert losses(part) == pytest.approx({"discriminator": 0.5, "generator": 1.0})
    part = tiny(lambda_nce=0.0, lambda_gan=3.0, gan_mode="vanilla")
    part.discriminator = Same(0)
    assert losses(part)["generator"] == pytest.approx(3 * math.log(2))


def test_identity_halves_the_contrast_of_source_and_target():
    """CUT: 1/2 [NCE(x) + NCE(y)]; on x = y that is FastCUT's one term with the same weight."""
    both, one = tiny(), tiny(nce_idt=False)
    for part in (both, one):
        part.discriminator = Same(1)  # fools the generator's loss away
    with torch.no_grad():
        rng = torch.Generator().manual_seed(0)
        nce = lambda made, keys: both._nce(keys, made, False, rng)
        x, y = nce(*both._generate(A, False)), nce(*both._generate(B, False))
    assert losses(both)["generator"] == pytest.approx(((x + y) / 2).item(), rel=1e-5)
    assert losses(one)["generator"] == pytest.approx(x.item(), rel=1e-5)
    ten = tiny(FastCUT, flip_equivariance=False)
    ten.discriminator = Same(1)
    assert losses(ten)["generator"] == pytest.approx(10 * x.item(), rel=1e-5)


def test_flips_are_undone_before_patches_are_compared():
    """The padded image's features of a mirrored result, mirrored back, are those of the result."""
    part = tiny(FastCUT, nce_layers=(0,))
    keys = part._net.features(A, (0,))
    nce = lambda made, flipped: part._nce(keys, made, flipped, torch.Generator().manual_seed(3))
    straight = nce(A, False)
    torch.testing.assert_close(nce(A.flip(3), True), straight, rtol=0, atol=0)
    assert nce(A.flip(3), False) > straight + 0.1
    assert nce(A, True) > straight + 0.1


def test_keys_are_of_the_source_as_it_is():
    part = tiny(FastCUT)
    with torch.no_grad():
        for flipped in (False, True):
            made, keys = part._generate(A, flipped)
            assert torch.equal(made, part.generator["net"](A.flip(3) if flipped else A))
            for key, feature in zip(keys, part._net.features(A, part.nce_layers), strict=True):
                assert torch.equal(key, feature)


@pytest.mark.parametrize("cls", [CUT, FastCUT])
def test_running_averages_are_of_sources_alone(cls):
    part = tiny(cls, norm="batch", flip_equivariance=False)
    alone = copy.deepcopy(part.generator["net"])
    losses(part)
    alone(A)
    for name, there in alone.named_buffers():
        assert torch.equal(part.generator["net"].get_buffer(name), there) or "tracked" in name


def test_half_of_fastcuts_steps_are_mirrored():
    part, seen = tiny(FastCUT, lambda_nce=0.0), []
    net = part.generator["net"]
    plain = net.with_features
    net.with_features = lambda x, layers: seen.append(torch.equal(x, A)) or plain(x, layers)
    for seed in range(60):
        losses(part, seed=seed)
    assert 15 < sum(seen) < 45  # four standard deviations
    part.flip_equivariance = False
    seen.clear()
    losses(part)
    assert seen == [True]


def test_partial_batches_and_few_patches():
    part = tiny(num_patches=3)
    for n in (2, 1):
        assert all(math.isfinite(v) for v in losses(part, A[:n], B[:n]).values())


def test_gradients_reach_generator_and_heads_but_not_the_keys():
    part = tiny(lambda_gan=0.0)
    rounds = part.objectives(iter([(A, B)]), torch.Generator().manual_seed(0))
    (_, _), (player, loss) = rounds
    assert player == "generator"
    loss.backward()
    for name, p in part.generator.named_parameters():
        biased = name.endswith("bias") and "net." in name  # what an instance norm takes away
        assert p.grad is not None or biased, name
    assert all(p.grad is None or p.grad.abs().sum() == 0 for p in part.discriminator.parameters())


def test_the_papers_options():
    cut, fast = tiny(), tiny(FastCUT)
    assert (cut.lambda_gan, cut.lambda_nce, cut.nce_idt, cut.flip_equivariance) == (
        1,
        1,
        True,
        False,
    )
    assert (fast.lambda_gan, fast.lambda_nce, fast.nce_idt, fast.flip_equivariance) == (
        1, 10, False, True,
    )  # fmt: skip
    for part in (cut, fast):
        assert part.nce_layers == (0, 4, 8, 12, 14)  # of five blocks
        assert (part.nce_t, part.num_patches, part.antialias) == (0.07, 256, True)
        assert part.generator["heads"].mlps[0][2].out_features == 256
    assert (defaults(CUT)["hold"], defaults(FastCUT)["hold"]) == (0.5, 0.75)  # 200+200, 150+50


def test_measures():
    part = tiny()
    part.discriminator = Same(0.5)
    measured = part.measures(A, B, torch.Generator().manual_seed(0))
    assert (measured["real score"], measured["fake score"]) == (0.5, 0.5)
    assert 0 < measured["nce"] < 2 * math.log(484)  # the padded image has 22^2 places


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"nce_layers": (0, 40)}, "layers 0 to 16, not 40"),
        ({"nce_t": 0.0}, "nce_t must be above 0"),
        ({"num_patches": 0}, "num_patches"),
        ({"n_layers_d": 0}, "n_layers_d must be at least 1"),
    ],
)
@pytest.mark.parametrize("cls", [CUT, FastCUT])
def test_bad_options(cls, options, message):
    with pytest.raises(ValueError, match=message):
        cls(net="tiny", side=16, **options)


def test_a_network_of_ones_own_is_a_resnet():
    part = CUT(net=ResNet(ngf=4, n_blocks=5, antialias=True), side=16)
    assert part.translate(A, as_is=True).shape == A.shape
    with pytest.raises(TypeError, match="inside a ResNet, not an Identity"):
        CUT(net=nn.Identity(), side=16)


def test_the_keys_are_numbers(monkeypatch):
    """The contrast moves the result towards the source's patches, never the other way."""
    part, seen = tiny(), []
    keep = lambda queries, keys, tau: seen.append((queries, keys)) or layers_nce(queries, keys, tau)
    monkeypatch.setattr("sfumato.methods._shared.contrastive.layers_nce", keep)
    list(part.objectives(iter([(A, B)]), torch.Generator().manual_seed(0)))
    assert len(seen) == 2  # of the source and, for identity, of the target
    for queries, keys in seen:
        assert all(q.requires_grad for q in queries)
        assert not any(k.requires_grad for k in keys)
