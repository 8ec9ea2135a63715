"""The training loop: players, accumulation, averages, divergence."""

import itertools
import math
from itertools import pairwise

import pytest
import torch
from torch import nn

from sfumato.checkpoints.tensors import read_tensors, write_tensors
from sfumato.module import Part
from sfumato.training.fit import Diverged, State, fit, learning_rate, machine
from sfumato.training.validation import held_out_loss, look


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
    list(fit(state, iter([(x, y)]), steps=1, clip=0.5))
    means = [v["exp_avg"] for v in state.optimiser("net").state.values()]  # .1 of the first gradient
    assert torch.cat([m.flatten() for m in means]).norm() == pytest.approx(0.1 * 0.5, rel=1e-3)


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


@pytest.mark.parametrize("bad", [math.nan, math.inf, -1.0])
@pytest.mark.parametrize("name", ["lr", "clip", "warmup", "ema", "hold", "accumulate", "seed"])
def test_a_number_that_makes_no_sense_is_refused_before_a_step(name, bad):
    state = made(Line)
    before = state.method.net.weight.detach().clone()
    with pytest.raises(ValueError, match=rf"^{name} must .*not {bad}"):
        list(fit(state, pairs(dim=3), steps=1, **{name: bad}))
    assert torch.equal(state.method.net.weight, before)


class Copies(Line):
    """Remembers its weights twice, in one tensor."""

    def __post_init__(self):
        super().__post_init__()
        self.register_buffer("slow", None, persistent=False)
        self.register_buffer("frozen", None, persistent=False)
        self.slow = self.frozen = torch.arange(3.0)


def test_buffers_that_share_a_tensor_are_both_restored(tmp_path):
    write_tensors(
        tmp_path / "x.safetensors", made(Copies).tensors()
    )  # a file holds no tensor twice
    saved, second = read_tensors(tmp_path / "x.safetensors"), made(Copies)
    second.method.slow = second.method.frozen = None
    second.restore(saved, 0)
    assert torch.equal(second.method.slow, torch.arange(3.0))
    assert torch.equal(second.method.frozen, torch.arange(3.0))


def test_a_restored_state_keeps_no_tensor_that_it_was_given():
    first, second = made(Copies), made(Copies)
    list(fit(first, pairs(dim=3), steps=2))
    saved = first.tensors()
    theirs = {v.data_ptr() for v in saved.values()}
    second.restore(saved, 2)
    moments = [v for s in second.optimiser("net").state.values() for v in s.values()]
    ours = [
        *second.method.state_dict().values(),
        second.method.slow,
        *second.ema.values(),
        *moments,
    ]
    assert not {v.data_ptr() for v in ours} & theirs


class Rounded(Duel):
    """Says what its generator makes in bf16 before and after its step, and what types are around."""

    def objectives(self, batches, rng):
        x, y = next(batches)
        fake = self.generator(x)
        yield "generator", -self.critic(fake).mean()
        now = nn.functional.linear(x, self.generator.weight.clone(), self.generator.bias.clone())
        self.shown, self.made, self.dtype = self.generator(x), now, fake.dtype
        yield "critic", (self.critic(self.shown.detach()) - self.critic(y)).float().mean()


def test_in_bf16_a_player_is_shown_the_other_after_its_step():
    """Autocast keeps rounded weights until it is left."""
    state = made(Rounded)
    list(fit(state, pairs(), steps=2, lr=0.5, warmup=0, accelerator=machine("cpu", "bf16")))
    assert state.method.dtype == torch.bfloat16
    assert all(p.dtype == torch.float32 for p in state.method.parameters())
    assert torch.equal(state.method.shown, state.method.made)


def test_backward_runs_outside_autocast(monkeypatch):
    seen, backward = [], torch.Tensor.backward

    def spy(self, *args, **kwargs):
        seen.append(torch.is_autocast_enabled("cpu"))
        return backward(self, *args, **kwargs)

    monkeypatch.setattr(torch.Tensor, "backward", spy)
    list(fit(made(Line), pairs(dim=3), steps=1, accelerator=machine("cpu", "bf16")))
    assert seen == [False]


def test_bf16_learns_what_fp32_learns():
    x, ends = torch.randn(64, 3, generator=torch.Generator().manual_seed(0)), []
    y = x @ torch.tensor([[1.0], [-2.0], [0.5]]) + 0.25
    for precision in ("no", "bf16"):
        state = made(Line)
        how = {"steps": 300, "lr": 0.05, "accelerator": machine("cpu", precision)}
        list(fit(state, iter(lambda: (x, y), None), **how))
        ends.append(state.method.net.weight.detach())
    torch.testing.assert_close(ends[0], ends[1], rtol=0, atol=0.02)
    assert not torch.equal(ends[0], ends[1])


def test_a_second_training_in_a_process_has_its_own_precision():
    assert machine("cpu", "no").mixed_precision == "no"
    assert machine("cpu", "bf16").mixed_precision == "bf16"


@pytest.mark.parametrize("device", ["auto", "cpu"])
def test_several_processes_on_a_cpu_are_refused(monkeypatch, device):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    with pytest.raises(ValueError, match="one process.*without torchrun"):
        machine(device)


@pytest.mark.parametrize("optimiser", ["adam", "adamw"])
def test_steps_are_those_of_torchs_optimiser(optimiser):
    """With its betas and its weight decay."""
    how = {"betas": (0.5, 0.9), "weight_decay": 0.1}
    torch.manual_seed(0)
    state, plain = State(Line(), optimiser, **how), made(Line).method
    list(fit(state, pairs(dim=3), steps=3, lr=0.1, schedule="constant", warmup=0, clip=0.0))
    steps = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[optimiser](
        plain.parameters(), lr=0.1, **how
    )
    for batch in itertools.islice(pairs(dim=3), 3):
        ((_, loss),) = plain.objectives(iter([batch]), None)
        steps.zero_grad()
        loss.backward()
        steps.step()
    for a, b in zip(state.method.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(a, b)


class Held:
    """A data set of one batch after another."""

    def batches(self, size, *, seed):
        return pairs(size, dim=3, start=seed)


def test_the_averaged_weights_are_scored():
    """Their mean loss over four batches, and neither the raw weights' nor a sum."""
    state = made(Line)
    state.ema["net.weight"] += 1
    weight, bias = state.ema["net.weight"], state.ema["net.bias"]
    losses = [
        (x @ weight.T + bias - y).square().mean() for x, y in itertools.islice(pairs(dim=3), 4)
    ]
    found = held_out_loss(state, Held(), 8, torch.device("cpu"))
    assert found == {"net": pytest.approx(torch.stack(losses).mean().item(), rel=1e-5)}


def test_every_batch_has_noise_of_its_own():
    """By the step and the micro-batch, from the seed alone; dropout's, too."""

    class Drawing(Line):
        def objectives(self, batches, rng):
            drawn.append((torch.rand((), generator=rng).item(), torch.rand(()).item()))
            yield from super().objectives(batches, rng)

    runs = []
    for seed in (0, 0, 1):
        drawn = []
        list(fit(State(Drawing()), pairs(dim=3), steps=3, accumulate=2, seed=seed))
        runs.append(drawn)
    assert runs[0] == runs[1]
    for numbers in zip(*(one for run in (runs[0], runs[2]) for one in run), strict=True):
        assert len(set(numbers)) == 12


def test_the_rate_is_held_for_its_share_of_the_steps_then_falls_to_the_end():
    rates = [learning_rate(i, 110, "linear", 10, 0.6) for i in range(111)]
    assert rates[10:71] == [1.0] * 61
    assert rates[90] == pytest.approx(0.5)
    assert rates[110] == pytest.approx(0.0)


def test_previews_are_source_result_and_target():
    class Negative(Line):
        def translate(self, x):
            return -x

    class Pictures:
        kind = "pairs"
        groups = property(lambda self: [self])
        of_size = lambda self, group: group

        def first(self, n):
            return torch.full((n, 3, 4, 4), 0.2), torch.full((n, 3, 4, 4), 0.6)

    seen = look(State(Negative()), Pictures(), Pictures(), torch.device("cpu"), n=2)
    assert list(seen.rows) == ["source", "result", "target"]
    for row, value in zip(seen.rows.values(), (0.2, -0.2, 0.6), strict=True):
        assert torch.equal(row, torch.full((2, 3, 4, 4), value))
