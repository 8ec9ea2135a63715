"""Neural optimal transport: the costs, the turns, and the maps between Gaussians that it must find."""

import itertools
import json

import numpy as np
import ot
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from truth import f64, rotation, sqrtm

from sfumato.checkpoints.model_folder import load, save
from sfumato.methods._shared.transport import Turns, beyond, potential_loss
from sfumato.methods.entropic_ot import EntropicOT
from sfumato.methods.neural_ot import NeuralOT, weak_cost
from sfumato.module import build, describe
from sfumato.nets.potential import Potential
from sfumato.nets.transport_unet import SIZES, TransportUNet
from sfumato.training.fit import State, fit
from sfumato.training.options import defaults
from sfumato.training.train import recorded

S0 = rotation(0.3) @ torch.diag(f64([1.0, 0.4])) @ rotation(0.3).T
S1 = rotation(1.2) @ torch.diag(f64([1.5, 0.4])) @ rotation(1.2).T
M0, M1 = f64([0.2, -0.3]), f64([-0.3, 0.5])


class Quadratic(nn.Module):
    """f(y) = y' A y + b' y."""

    def __init__(self, dim):
        super().__init__()
        self.A = nn.Parameter(torch.zeros(dim, dim))
        self.b = nn.Parameter(torch.zeros(dim))

    def forward(self, y):
        return ((y @ self.A) * y).sum(1) + y @ self.b


def monge(s0, s1):
    """The matrix of the Monge map between centred Gaussians."""
    root = sqrtm(s0)
    return torch.linalg.solve(root, sqrtm(root @ s1 @ root)) @ root.inverse()


def exact_sample(n, mean, covariance):
    """n points with exactly this mean and covariance (biased estimate)."""
    z = torch.randn(n, len(mean), dtype=torch.float64, generator=torch.Generator().manual_seed(n))
    z = z - z.mean(0)
    z = z @ torch.linalg.inv(torch.linalg.cholesky(z.T @ z / n)).T
    return mean + z @ torch.linalg.cholesky(covariance).T


def normals(n, mean, covariance, x_mean, x_covariance):
    """Batches of n sources and targets."""
    roots = [torch.linalg.cholesky(s).float() for s in (x_covariance, covariance)]
    g = torch.Generator().manual_seed(0)
    while True:
        x, y = (torch.randn(n, len(mean), generator=g) @ r.T for r in roots)
        yield x + x_mean.float(), y + mean.float()


def play(part, batches, *, steps, lr, ema):
    """Trained by `fit`, without the momentum that keeps two players circling."""
    state = State(part, "adam", (0.5, 0.999))
    for _ in fit(state, batches, steps=steps, lr=lr, warmup=0, clip=0, ema=ema):
        pass
    return state


@settings(max_examples=10)
@given(st.floats(0, 3), st.floats(0, 3))
def test_a_potential_says_how_far_its_images_have_come(shift, reach):
    y = torch.randn(4, 2, 3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    f = lambda at: (
        (at - (y - shift)).square().flatten(1).mean(1, keepdim=True)
    )  # y came from y - shift
    expected = max(0.0, shift - reach) ** 2
    assert beyond(f, y, reach).item() == pytest.approx(expected, abs=1e-12)


def test_a_steep_potential_is_made_less_steep():
    g = torch.Generator().manual_seed(0)
    x, y, f = torch.randn(64, 2, generator=g), torch.randn(64, 2, generator=g) + 1, nn.Linear(2, 1)
    with torch.no_grad():
        f.weight.fill_(10)
    optimiser = torch.optim.Adam(f.parameters(), 0.1)
    for _ in range(1000):
        optimiser.zero_grad()
        potential_loss(f, x, y, reach=1.0).backward()
        optimiser.step()
    s = f.weight.norm().item() / 2**0.5  # sqrt(D) |grad f| / 2
    # of -|E y - E x| |w| + max(0, s - 1)^2, with |w| = sqrt(2) s
    assert s == pytest.approx(1 + (y.mean(0) - x.mean(0)).norm().item() / 2**0.5, rel=1e-3)


@pytest.mark.parametrize("cls", [NeuralOT, EntropicOT])
def test_the_limit_is_part_of_the_potentials_loss(cls):
    torch.manual_seed(0)
    part, x = cls(net="tiny", side=16).eval(), torch.rand(4, 3, 16, 16)
    part.epsilon = 0.0  # without noise the limit is `reach`

    def loss(reach):
        part.reach = reach
        players = part.objectives(iter([(x, x.flip(0))]), torch.Generator().manual_seed(0))
        return dict(players)["potential"].item()

    assert part.reach == 2  # images in [-1, 1]
    assert loss(1e-6) > loss(0) + 1e-9


@settings(max_examples=10)
@given(
    st.lists(st.floats(-3, 3), min_size=2, max_size=3), st.floats(-2, 2), st.integers(2, 4),
    st.floats(0, 1),
)  # fmt: skip
def test_the_weak_cost_is_unbiased(values, x, z, gamma):
    # T takes each of the values with the same probability: all ways to draw Z of them
    t = f64(values)
    made = f64(list(itertools.product(values, repeat=z)))[:, :, None]
    # a batch of all of them: its mean is the expectation
    cost = weak_cost(torch.full((len(made), 1), x, dtype=torch.float64), made, gamma)
    want = (x - t).square().mean() - gamma * t.var(correction=0)
    torch.testing.assert_close(cost, want, rtol=1e-9, atol=1e-9)
    other = (x - t.mean()) ** 2 + (1 - gamma) * t.var(correction=0)
    torch.testing.assert_close(want, other, rtol=1e-9, atol=1e-9)


def test_strong_is_weak_without_gamma_and_noise():
    x, y = torch.randn(2, 5, 3, 8, 8).unbind()
    twice = torch.stack([y, y], 1)
    torch.testing.assert_close(weak_cost(x, twice, 0.3), (x - y).square().mean())


def test_the_monge_map_and_its_potential_are_a_saddle(float64):
    """Grad f*(y) = (2/D) (y - T^{-1}(y)): there no player can gain."""
    t = monge(S0, S1)
    net, critic = nn.Linear(2, 2), Quadratic(2)
    with torch.no_grad():
        net.weight.copy_(t)
        net.bias.copy_(M1 - t @ M0)
        inverse = t.inverse()  # T^{-1}(y) = M0 + inverse (y - M1)
        critic.A.copy_((torch.eye(2) - inverse) / 2)  # its gradient is 2 A y + b
        critic.b.copy_(inverse @ M1 - M0)
    x, y = exact_sample(200, M0, S0), exact_sample(300, M1, S1)
    part = NeuralOT(net=net, critic=critic, reach=0).eval()
    losses = dict(part.objectives(iter([(x, y)]), torch.Generator()))
    for player, loss in losses.items():
        for g in torch.autograd.grad(loss, list(part.get_submodule(player).parameters())):
            torch.testing.assert_close(g, torch.zeros_like(g), rtol=0, atol=1e-12)
    moved = (x - part.translate(x, as_is=True)).square().sum(1).mean()
    best = ot.gaussian.bures_wasserstein_distance(*(v.numpy() for v in (M0, M1, S0, S1))) ** 2
    assert moved.item() == pytest.approx(best, rel=1e-10)


def test_the_potential_rises_on_real_images():
    part = NeuralOT(net=nn.Identity(), critic=Quadratic(2), reach=0, k_t=1)
    part.eval()
    with torch.no_grad():
        part.potential.b.copy_(torch.tensor([1.0, 0.0]))
    x, y = torch.zeros(4, 2), torch.tensor([[3.0, 5.0]]).expand(4, 2)
    losses = dict(part.objectives(iter([(x, y)]), torch.Generator()))
    assert losses["potential"].item() == -3.0
    assert losses["transport"].item() == 0.0


def test_training_finds_the_monge_map(report):
    part = NeuralOT(net=nn.Linear(2, 2), critic=Quadratic(2), reach=0, k_t=3)
    state = play(part, normals(128, M1, S1, M0, S0), steps=800, lr=3e-2, ema=0.98)
    x = exact_sample(500, M0, S0)
    with state.averaged() as part:
        found = part.translate(x.float(), as_is=True).double()
    want = M1 + (x - M0) @ monge(S0, S1).T
    unexplained = 100 * (found - want).square().sum(1).mean() / S1.trace()
    report("NOT, strong, Gaussians in 2-D: L2-UVP in percent", unexplained.item())
    assert unexplained < 2


@pytest.mark.parametrize(
    ("s1", "slope", "variance"), [(2.0, 1 / 0.66, 4 - 0.66**-2), (1.2, 1.2, 0.0)]
)
def test_the_weak_map_of_gaussians(s1, slope, variance, report):
    """Stochastic where s1/s0 > 1/gamma, with the slope 1/gamma; else the strong map."""
    how = {"cost": "weak", "gamma": 0.66, "gamma_warmup": 20, "z_std": 1.0, "k_t": 1}
    net = nn.Linear(2, 1)
    with torch.no_grad():
        net.weight.copy_(torch.tensor([[0.3, 0.4]]))
    part = NeuralOT(net=net, critic=Quadratic(1), reach=0, **how)
    batches = normals(128, f64([1.0]), f64([[s1**2]]), f64([0.0]), f64([[1.0]]))
    state = play(part, batches, steps=1400, lr=2e-2, ema=0.995)
    with state.averaged() as part:
        a, b = part.transport.weight[0].tolist()
    report(f"NOT, weak, s1/s0 = {s1}: slope, variance, wanted", a, b * b, slope, variance)
    assert a == pytest.approx(slope, abs=0.05)
    assert b * b == pytest.approx(variance, abs=0.12)


def played(accumulate):
    """The players whose weights changed in each step of `fit`, and the part."""
    part, names = NeuralOT(net=nn.Linear(2, 2), critic=Quadratic(2), reach=0, k_t=3), []
    before = {k: v.clone() for k, v in part.named_parameters()}
    batches = normals(8, M1, S1, M0, S0)
    for _ in fit(State(part), batches, steps=8, warmup=0, accumulate=accumulate):
        moved = [k for k, v in part.named_parameters() if not torch.equal(v, before[k])]
        names.append({"net": "transport", "critic": "potential"}[k.split(".")[0]] for k in moved)
        before = {k: v.clone() for k, v in part.named_parameters()}
    return [set(n) for n in names], part


@pytest.mark.parametrize("accumulate", [1, 3])
def test_k_steps_of_the_map_then_one_of_the_potential(accumulate):
    rounds = [{"transport"}] * 3 + [{"potential"}]
    steps, part = played(accumulate)
    assert steps == rounds * 2
    assert int(part.turns.seen) == 8


def test_warm_up():
    turns = Turns("a", "b", 4)
    shares = []
    for _ in range(20):
        turns.seen += 1
        shares.append(turns.ramp(3))
    assert shares == pytest.approx([1 / 3] * 5 + [2 / 3] * 5 + [1.0] * 10)
    assert Turns("a", "b", 4).ramp(0) == 1.0


def test_samples_and_their_noise(tmp_path):
    class Noisy(nn.Module):
        def forward(self, xz):
            return xz[:, :-1] + xz[:, -1:]

    part = NeuralOT(
        net=Noisy(), critic=Quadratic(1), reach=0, cost="weak", z_std=0.1, z_size=6
    ).eval()
    x = torch.linspace(-1, 1, 4000)[:, None, None, None].expand(4000, 1, 1, 1)
    noise = part.translate(x, as_is=True) - x
    assert noise.std().item() == pytest.approx(0.1, rel=0.05)
    assert not torch.equal(part.translate(x, as_is=True, seed=1) - x, noise)
    # in training the samples of one image stand together
    made = part._samples(x[:5], torch.Generator().manual_seed(0))
    assert made.shape == (5, 6, 1, 1, 1)
    assert (made.mean(1) - x[:5]).abs().max() < 0.2 < (x[4] - x[0]).abs() + 0.2
    strong = NeuralOT(net="tiny").eval()
    pictures = torch.rand(2, 3, 16, 16) * 2 - 1
    assert torch.equal(strong.translate(pictures, seed=1), strong.translate(pictures))
    strong.turns.seen += 7
    save(strong, tmp_path / "m")
    assert int(load(tmp_path / "m").turns.seen) == 7


def test_networks():
    x = torch.rand(2, 4, 32, 32)
    net = TransportUNet(noise=1, base=4, levels=3, residual=True).eval()
    torch.testing.assert_close(net(x) - net.out.bias[:, None, None], x[:, :3])
    assert TransportUNet(noise=1, base=4).eval()(x).shape == (2, 3, 32, 32)
    # without normalisation an image's potential is its own
    f = Potential(width=4, side=32)
    assert sum(isinstance(m, nn.AvgPool2d) for m in f.modules()) == 3  # 32 to 4
    torch.testing.assert_close(f(x[:, :3])[:1], f(x[:1, :3]))
    assert f(torch.rand(1, 3, 48, 48)).shape == (1, 1)
    n = sum(p.numel() for p in TransportUNet().parameters())
    assert n == 9_712_515  # base 48, four levels


def published_map(net, x):
    """src/unet.py of the published code with these weights; batch norm takes its biases out again."""
    pair = lambda layers, h: [h := layer(h) for layer in layers][-1]
    skips = [pair(net.first, x)]
    for level in net.down:
        skips.append(pair(level, nn.MaxPool2d(2)(skips[-1])))
    h = skips.pop()
    for level in net.up:
        h = nn.functional.interpolate(h, scale_factor=2, mode="bilinear", align_corners=True)
        h = pair(level, torch.cat([skips.pop(), h], 1))
    return nn.functional.conv2d(h, net.out.weight, net.out.bias)


def published_potential(f, x):
    """src/resnet2.py of the published code with these weights: relu(shortcut + 0.1 conv relu conv)."""
    relu = nn.LeakyReLU(0.2)
    h = relu(f.body[0](x))
    for layer in f.body[1:]:
        if isinstance(layer, nn.AvgPool2d):
            h = nn.functional.avg_pool2d(h, 3, stride=2, padding=1)
        else:
            h = relu(layer.skip(h) + 0.1 * layer.conv2(relu(layer.conv1(h))))
    return f.out(h.flatten(1))


def test_size_paper_is_the_published_networks(float64):
    torch.manual_seed(0)
    x, part = torch.randn(2, 3, 16, 16), NeuralOT(net="paper", side=16)
    for m in (part.transport, part.potential):
        m.eval()
    with torch.no_grad():
        torch.testing.assert_close(part.transport(x), published_map(part.transport, x))
        torch.testing.assert_close(part.potential(x), published_potential(part.potential, x))
    for m in part.potential.modules():
        if isinstance(m, nn.Conv2d) and m.weight.numel() > 10_000:  # fan out, of leaky ReLU
            fan = m.out_channels * m.kernel_size[0] ** 2
            assert m.weight.std().item() == pytest.approx((2 / fan) ** 0.5, rel=0.05)


def test_a_model_of_before_is_the_network_it_was(tmp_path):
    """Its description does not say `published`, its weights have the same names."""
    with torch.device("meta"):
        new, old = NeuralOT(net="paper"), NeuralOT(net="paper", published=False)
        description = describe(new)
        assert description.pop("published")
        found = build(description)
    assert not found.published
    assert found.transport.corners is found.potential.after is False
    assert describe(found) == describe(old)
    assert found.state_dict().keys() == new.state_dict().keys()
    assert describe(NeuralOT(net="tiny", side=8))["published"] is False  # no word of it elsewhere
    run = {"settings": {}, "data": {}, "method": "neural_ot", "options": {"net": "paper"},
           "model": description}  # fmt: skip
    (tmp_path / "run.json").write_text(json.dumps(run))
    assert recorded(tmp_path)["options"] == {"net": "paper", "published": False}


@pytest.mark.parametrize("published", [True, False])
def test_the_published_map_rests_while_the_potential_learns(published, monkeypatch):
    """In evaluation mode, as the published `freeze` puts it: its running averages are T's own."""
    monkeypatch.setitem(SIZES, "paper", {"base": 4, "levels": 2})
    part, modes = NeuralOT(net="paper", side=8, k_t=1, reach=0, published=published).train(), {}
    part.transport.register_forward_pre_hook(lambda net, x: modes.update(now=net.training))
    seen = part.transport.first[1].num_batches_tracked
    for _ in range(2):
        modes.clear()
        x = torch.rand(4, 3, 8, 8)
        before = int(seen)
        part.begin_step()
        for player, _loss in part.objectives(iter([(x, x)]), torch.Generator()):
            rests = published and player == "potential"
            assert modes == {"now": not rests}
            assert int(seen) == before + (not rests)


def test_a_potential_counts_all_pixels_alike():
    """Over many first weights, the gradient of even and of odd columns is of one size."""

    def even_over_odd(pool):
        torch.manual_seed(0)
        total = torch.zeros(32)
        for _ in range(8):
            x = torch.randn(4, 3, 32, 32, requires_grad=True)
            Potential(width=4, side=32, pool=pool)(x).sum().backward()
            total += x.grad.abs().mean((0, 1, 2))
        return (total[8:24:2].sum() / total[9:24:2].sum()).item()

    assert abs(even_over_odd(2) - 1) < 0.04 < abs(even_over_odd(3) - 1)
    assert NeuralOT(side=32).potential.pool == 2


def test_wrong_options():
    for wrong, message in (
        ({"cost": "week"}, "unknown cost 'week': did you mean 'weak'"),
        ({"cost": "weak", "gamma": 1.5}, r"gamma must be in \[0, 1\], not 1.5"),
        ({"cost": "weak", "z_std": 0.0}, "z_std must be above 0, not 0.0"),
        ({"cost": "weak", "z_size": 1}, "z_size must be at least 2, not 1"),
        ({"k_t": 0}, "k_t must be at least 1, not 0"),
        ({"gamma_warmup": -1}, "gamma_warmup must be at least 0, not -1"),
        ({"net": "smal"}, "unknown net 'smal': did you mean 'small'"),
        ({"critic": "smal"}, "unknown critic 'smal': did you mean 'small'"),
        ({"net": nn.Identity()}, "a network as `net` needs a network as `critic`, too"),
    ):
        with pytest.raises(ValueError, match=message):
            NeuralOT(**wrong)
    alone = iter([(torch.zeros(1, 3, 4, 4),) * 2])
    with pytest.raises(ValueError, match="batch norm has nothing to average over a batch of one"):
        next(NeuralOT(net="tiny").objectives(alone, torch.Generator()))


def test_how_it_is_trained():
    assert {"batch": 64, "lr": 1e-4, "optimiser": "adam"}.items() <= defaults(NeuralOT).items()
    assert np.isclose(NeuralOT(net="tiny").gamma, 0.66)


def test_a_small_map_cannot_know_where_the_edge_is():
    """A picture of one colour comes out in one colour; with zeros around it, it has a frame."""
    torch.manual_seed(0)
    flat = torch.full((1, 3, 32, 32), 0.3)

    def spread(edge):
        net = TransportUNet(base=4, levels=2, edge=edge).eval()
        return net(flat).std((2, 3)).max().item()

    assert spread("replicate") < 1e-6 < 1e-4 < spread("zeros")
    assert NeuralOT(net="tiny").transport.edge == "replicate"


@pytest.mark.parametrize("sign", [1, -1])
def test_the_limit_is_of_made_and_of_real_images(sign):
    """f = c max(0, +-y) is steep on one half: s = c D / 2 there, and a half of (s - reach)^2."""
    c, made, real = 3.0, -torch.ones(4, 2).double(), torch.ones(4, 2).double()
    f = lambda y: c * (sign * y).relu().sum(1)
    loss = potential_loss(f, made, real, reach=1.0) - potential_loss(f, made, real)
    assert loss.item() == pytest.approx((c - 1) ** 2 / 2)


def test_in_training_the_samples_of_one_image_stand_together():
    class Keep(nn.Module):
        def forward(self, xz):
            return xz[:, :-1]

    part = NeuralOT(net=Keep(), critic=Quadratic(1), reach=0, cost="weak", z_size=3)
    x = torch.arange(4.0)[:, None]
    made = part._samples(x, torch.Generator().manual_seed(0))
    assert torch.equal(made, x[:, None].expand(4, 3, 1))
