"""Entropic neural optimal transport: paths in closed form, and the Gaussian plans that it must find."""

import math

import pytest
import torch
from torch import nn
from truth import Affine, Impulses, f64, rotation, sqrtm

from sfumato.methods.entropic_ot import EntropicOT
from sfumato.training.fit import State, fit

S0 = rotation(0.3) @ torch.diag(f64([1.0, 0.4])) @ rotation(0.3).T
S1 = rotation(1.2) @ torch.diag(f64([1.5, 0.4])) @ rotation(1.2).T


def plan(s0, s1, epsilon):
    """C = 1/2 (S0^1/2 D S0^-1/2 - eps I), D = (4 S0^1/2 S1 S0^1/2 + eps^2 I)^1/2."""
    root, eye = sqrtm(s0), torch.eye(len(s0)).to(s0)
    d = sqrtm(4 * root @ s1 @ root + epsilon**2 * eye)
    return (root @ d @ root.inverse() - epsilon * eye) / 2


def marginal(t, s0, s1, epsilon):
    """Covariance of the entropic interpolation at time t."""
    c, eye = plan(s0, s1, epsilon), torch.eye(len(s0)).to(s0)
    return (1 - t) ** 2 * s0 + t**2 * s1 + t * (1 - t) * (c + c.T + epsilon * eye)


class Exact(nn.Module):
    """The drift E[(x_1 - x_t) / (1 - t) | x_t] of the mixture of Brownian bridges."""

    def __init__(self, s0, s1, epsilon):
        super().__init__()
        self.of = s0, s1, epsilon

    def forward(self, x, time):
        s0, s1, epsilon = self.of
        t = (time[0].item() + 4) / 8
        cross = (1 - t) * plan(s0, s1, epsilon).T + t * s1  # E[x_1 x_t']
        a = cross @ marginal(t, s0, s1, epsilon).inverse() - torch.eye(len(s0)).to(s0)
        return x @ a.T / (1 - t)


class Steps(nn.Module):
    """A linear drift of its own at each of N times."""

    def __init__(self, n, dim):
        super().__init__()
        self.A, self.n = nn.Parameter(torch.zeros(n, dim, dim)), n

    def forward(self, x, time):
        return x @ self.A[round((time[0].item() + 4) / 8 * self.n)]


class Quadratic(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.A = nn.Parameter(torch.zeros(dim, dim))

    def forward(self, y):
        return ((y @ self.A) * y).sum(1)


def made(net, critic="tiny", **options):
    return EntropicOT(net=net, critic=critic, reach=0, epsilon_warmup=0, **options).eval()


def moments(part, s0):
    """Exact covariances (of x_1 with x_0, and of x_1), and those on the way, of a linear drift."""
    noise, seen = Impulses(len(s0), part.n_steps), []
    start = noise.start()
    end, _ = part.path(start, noise, lambda t, x, mean, extras: seen.append((1 - t, x.clone())))
    ways = [(t, Affine(x, len(s0)).moments(torch.zeros(2).to(s0), s0)[1]) for t, x in seen]
    last = Affine(end, len(s0))
    return s0 @ last.A.T, last.moments(torch.zeros(2).to(s0), s0)[1], ways


def test_paths():
    class Constant(nn.Module):
        def forward(self, x, time):
            assert -4 <= time[0] < 4
            return torch.full_like(x, 0.5)

    x, ones = torch.rand(3, 2, 4, 4), torch.ones_like
    end, energy = made(Constant(), epsilon=2.0, n_steps=8).path(x, ones)
    torch.testing.assert_close(end, x + 0.5 + 7 * math.sqrt(2 / 8))
    assert energy.item() == pytest.approx(0.25)
    end, _ = made(Constant(), epsilon=2.0, n_steps=8, noisy_end=True).path(x, ones)
    torch.testing.assert_close(end, x + 0.5 + 8 * math.sqrt(2 / 8))
    draw = lambda like: pytest.fail("no noise without epsilon")
    torch.testing.assert_close(made(Constant(), epsilon=0.0).path(x, draw)[0], x + 0.5)


@pytest.mark.parametrize("n", [1, 4])
def test_a_named_net_says_the_rest_of_the_way(n):
    """What always says where the end is ends there, whatever the noise, after equal steps without it."""
    x, end, on_the_way = torch.rand(2, 3, 8, 8), torch.rand(2, 3, 8, 8), []
    part = EntropicOT(net="tiny", epsilon=2.0, n_steps=n, epsilon_warmup=0).eval()
    part.drift.net.forward = lambda x, time: end - x
    torch.testing.assert_close(part.path(x, torch.ones_like)[0], end)
    part.epsilon = 0.0
    y, energy = part.path(
        x, torch.ones_like, lambda t, x, mean, extras: on_the_way.append((1 - t, x, mean))
    )
    for t, x_t, mean in on_the_way:
        torch.testing.assert_close(x_t, x + t * (end - x))
        torch.testing.assert_close(mean, end)
    assert len(on_the_way) == n
    torch.testing.assert_close(y, end)
    torch.testing.assert_close(energy, (end - x).square().mean())


@pytest.mark.parametrize("epsilon", [0.0, 1.0, 10.0])
def test_the_exact_drift_gives_the_plan_and_all_marginals(epsilon, report):
    """Errors are O(1/N); the time reaches the network in float32."""
    errors = {}
    for n in (50, 100):
        part = made(Exact(S0, S1, epsilon), epsilon=epsilon, n_steps=n, noisy_end=True)
        cross, end, ways = moments(part, S0)
        off = [cross - plan(S0, S1, epsilon), end - S1]
        off += [s - marginal(t, S0, S1, epsilon) for t, s in ways]
        errors[n] = max(e.norm().item() for e in off) / max(1, epsilon / 4)
    assert errors[50] < 0.1
    assert errors[50] / errors[100] == pytest.approx(2, abs=0.3) or errors[100] < 1e-4
    report(f"ENOT, exact drift, epsilon {epsilon:g}: error at N = 50, 100", *errors.values())


@pytest.mark.parametrize(("epsilon", "want"), [(0, 4), (1, 3.531129), (10, 1.403124)])
def test_the_plan_in_one_dimension(epsilon, want):
    assert plan(f64([[1.0]]), f64([[16.0]]), epsilon).item() == pytest.approx(want, abs=1e-6)


@pytest.mark.parametrize("epsilon", [0.0, 1.0])
def test_training_finds_the_plan(epsilon, report):
    torch.manual_seed(0)
    n, g = 8, torch.Generator().manual_seed(0)
    roots = [torch.linalg.cholesky(s).float() for s in (S0, S1)]
    batches = iter(lambda: tuple(torch.randn(128, 2, generator=g) @ r.T for r in roots), None)
    part = made(Steps(n, 2), Quadratic(2), epsilon=epsilon, n_steps=n, noisy_end=True, k_t=3)
    state = State(part, "adam", (0.5, 0.999))
    for _ in fit(state, batches, steps=700, lr=3e-2, warmup=0, clip=0, ema=0.98):
        pass
    with state.averaged():
        part.double()
        cross, end, _ = moments(part, S0)
        part.float()
    want = plan(S0, S1, epsilon)
    errors = [((cross - want).norm() / want.norm()).item(), ((end - S1).norm() / S1.norm()).item()]
    report(f"ENOT trained, epsilon {epsilon:g}: error of C, of S1", *errors)
    assert errors[0] < 0.06
    assert errors[1] < 0.06


@pytest.mark.parametrize("n", [2, 5, 10])
def test_the_limit_leaves_room_for_the_noise(n):
    """The drift from one point to another, 1 away in every number: its last step, against the limit."""

    class Bridge(nn.Module):
        def forward(self, x, time):
            last.append((1 - x) / (1 - (time[0] + 4) / 8))
            return last[-1]

    last: list[torch.Tensor] = []
    part = EntropicOT(net=Bridge(), critic=Quadratic(1), epsilon=0.5, n_steps=n, epsilon_warmup=0)
    g = torch.Generator().manual_seed(0)
    end, _ = part.eval().path(
        torch.zeros(200_000, 1), lambda like: torch.randn(like.shape, generator=g)
    )
    torch.testing.assert_close(end, torch.ones_like(end))
    noise = (last[-1] - 1).square().mean().sqrt().item()
    assert noise == pytest.approx(part.limit - part.reach, rel=0.01)
    part.reach = 0.0
    assert part.limit == 0


def test_noise_follows_the_warm_up():
    part = EntropicOT(net="tiny", epsilon=4.0, epsilon_warmup=2, k_t=1, n_steps=2)
    part.drift.forward = lambda x, time: torch.zeros_like(x)  # v itself
    x = torch.rand(1, 3, 16, 16)
    before = part.path(x, torch.ones_like)[0] - x
    part.turns.seen += 3
    after = part.path(x, torch.ones_like)[0] - x
    assert before.max().item() == pytest.approx(1.0, rel=1e-5)  # sqrt(2 / 2)
    assert after.max().item() == pytest.approx(math.sqrt(2), rel=1e-5)
    y = part.eval().translate(x, as_is=True)
    assert not torch.equal(y, part.translate(x, as_is=True, seed=1))
    part.epsilon = 0.0
    assert torch.equal(part.translate(x, as_is=True), part.translate(x, as_is=True, seed=1))


def test_wrong_options():
    for wrong, message in (
        ({"epsilon": -1.0}, "epsilon must be at least 0, not -1"),
        ({"epsilon": math.nan}, "epsilon must be a finite number, not nan"),
        ({"n_steps": 0}, "n_steps must be at least 1, not 0"),
        ({"k_t": 0}, "k_t must be at least 1, not 0"),
        ({"epsilon_warmup": -1}, "epsilon_warmup must be at least 0, not -1"),
        ({"net": "smal"}, "unknown net 'smal': did you mean 'small'"),
        ({"net": nn.Identity()}, "a network as `net` needs a network as `critic`, too"),
    ):
        with pytest.raises(ValueError, match=message):
            EntropicOT(**wrong)
