"""The training loop: players, accumulation, averages, divergence."""

import math
from itertools import pairwise

import pytest
import torch
from torch import nn

from sfumato.fit import Diverged, State, fit, learning_rate
from sfumato.part import Part


class Duel(Part):
    """A two-player toy whose draws come from `rng` only."""

    data = "pairs"

    def __post_init__(self):
        self.generator, self.critic = nn.Linear(1, 1), nn.Linear(1, 1)
        self.seen = []

    def objectives(self, batches, rng):
        x, y = next(batches)
        x = x + 0.1 * torch.randn(x.shape, generator=rng)
        self.seen.append({k: v.clone() for k, v in self.state_dict().items()})
        fake = self.generator(x)
        yield "generator", nn.functional.softplus(-self.critic(fake)).mean()
        self.seen.append({k: v.clone() for k, v in self.state_dict().items()})
        fake, real = self.critic(self.generator(x).detach()), self.critic(y)
        yield "critic", (nn.functional.softplus(fake) + nn.functional.softplus(-real)).mean()


class Line(Part):
    """Least squares: one player, no randomness."""

    data = "pairs"

    def __post_init__(self):
        self.net = nn.Linear(3, 1)

    def objectives(self, batches, rng):
        x, y = next(batches)
        yield "net", (self.net(x) - y).square().mean()


def pairs(n=8, dim=1, start=0):
    while True:
        g = torch.Generator().manual_seed(start)
        yield torch.randn(n, dim, generator=g), torch.randn(n, 1, generator=g) + 3
        start += 1


def made(cls):
    torch.manual_seed(0)
    return State(cls())


def test_each_loss_changes_only_its_player():
    state = made(Duel)
    updates = list(fit(state, pairs(), steps=3, warmup=0))
    assert [u.step for u in updates] == [1, 2, 3]
    assert set(updates[0].losses) == {"generator", "critic"}
    before, between, after = state.method.seen[0], state.method.seen[1], state.method.seen[2]
    for key in before:
        mine = key.startswith("generator")
        assert torch.equal(before[key], between[key]) != mine, key  # the generator's step
        assert torch.equal(between[key], after[key]) == mine, key  # the critic's


def test_accumulated_gradients_are_those_of_the_whole_batch():
    whole, parts = made(Line), made(Line)
    x, y = torch.randn(12, 3), torch.randn(12, 1)
    list(fit(whole, iter([(x, y)]), steps=1, clip=0, ema=0))
    list(fit(parts, iter(zip(x.split(4), y.split(4), strict=True)), steps=1, accumulate=3, clip=0))
    for a, b in zip(whole.method.parameters(), parts.method.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-7)


def test_fit_finds_the_least_squares_solution():
    state = made(Line)
    x = torch.randn(64, 3)
    y = x @ torch.tensor([[1.0], [-2.0], [0.5]]) + 0.25
    for update in fit(state, iter(lambda: (x, y), None), steps=800, lr=0.05, ema=0.9):
        last = update.losses["net"]
    assert last < 1e-4
    with state.averaged() as method:
        assert torch.allclose(method.net.weight[0], torch.tensor([1.0, -2.0, 0.5]), atol=0.02)


def test_average_warms_up_and_swapping_it_in_leaves_the_weights_alone():
    state = made(Line)
    first = state.method.net.weight.detach().clone()
    (update,) = fit(state, pairs(dim=3), steps=1, ema=0.999, warmup=0, lr=0.1)
    assert update.lr == 0.1
    now, decay = state.method.net.weight.detach().clone(), 2 / 11
    torch.testing.assert_close(state.ema["net.weight"], decay * first + (1 - decay) * now)
    with state.averaged() as method:
        assert torch.equal(method.net.weight, state.ema["net.weight"])
        assert not method.training
    assert torch.equal(state.method.net.weight, now)
    assert state.method.training


def test_clipping_bounds_the_norm_of_each_player():
    state = made(Line)
    x, y = torch.randn(4, 3) * 1e3, torch.randn(4, 1)
    norms = []
    step = torch.optim.AdamW.step

    def spy(self, *args, **kwargs):
        grads = [p.grad.norm() for g in self.param_groups for p in g["params"]]
        norms.append(torch.stack(grads).norm().item())
        return step(self, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.optim.AdamW, "step", spy)
        list(fit(state, iter([(x, y)]), steps=1, clip=0.5))
    assert norms[0] == pytest.approx(0.5, rel=1e-3)


def test_a_loss_that_is_not_finite_stops_before_the_weights_change():
    state = made(Line)
    good = list(fit(state, pairs(dim=3), steps=2))
    weights = state.method.net.weight.detach().clone()
    bad = (torch.full((4, 3), math.inf), torch.zeros(4, 1))
    with pytest.raises(Diverged, match=r"loss of net became (nan|inf) at step 3"):
        list(fit(state, iter([bad]), steps=3))
    assert torch.equal(state.method.net.weight, weights)
    assert state.step == len(good) == 2


def test_restored_state_goes_on_with_the_same_bits():
    straight = made(Duel)
    list(fit(straight, pairs(), steps=9))
    first = made(Duel)
    list(fit(first, pairs(), steps=4))  # the schedule differs: constant below
    straight, first = made(Duel), made(Duel)
    list(fit(straight, pairs(), steps=9, schedule="constant"))
    list(fit(first, pairs(), steps=4, schedule="constant"))
    second = State(Duel())
    second.restore({k: v.clone() for k, v in first.tensors().items()}, 4)
    list(fit(second, pairs(start=4), steps=9, schedule="constant"))
    a, b = straight.tensors(), second.tensors()
    assert a.keys() == b.keys()
    assert all(torch.equal(a[k], b[k]) for k in a)


def test_the_global_generator_is_left_alone():
    torch.manual_seed(5)
    want = torch.rand(3)
    torch.manual_seed(5)
    list(fit(State(Line()), pairs(dim=3), steps=2))
    torch.manual_seed(5)
    state = State(Line())
    after = torch.get_rng_state()
    list(fit(state, pairs(dim=3), steps=2))
    assert torch.equal(torch.get_rng_state(), after)
    torch.manual_seed(5)
    assert torch.equal(torch.rand(3), want)


@pytest.mark.parametrize("schedule", ["cosine", "linear", "constant"])
def test_learning_rate_rises_then_follows_its_schedule(schedule):
    rates = [learning_rate(i, 100, schedule, 10) for i in range(100)]
    assert rates[:10] == pytest.approx([(i + 1) / 10 for i in range(10)])
    assert rates[10] == 1
    end = {"cosine": 0.0, "linear": 0.0, "constant": 1.0}[schedule]
    assert learning_rate(100, 100, schedule, 10) == pytest.approx(end)
    assert all(a >= b for a, b in pairwise(rates[10:]))
