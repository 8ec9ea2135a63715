"""Flows between two domains: Gaussians in closed form, assignments, reflow, and both ways along one ODE."""

import itertools
import math

import pytest
import torch
from torch import nn
from torch.nn.utils import parameters_to_vector
from truth import f64, lively, normal, rotation, slope, sqrtm

from sfumato.core.errors import UserError
from sfumato.data import write_png
from sfumato.diffusion.bridge_denoiser import BridgeDenoiser
from sfumato.diffusion.bridges import Brownian
from sfumato.diffusion.flow import FlowDenoiser, Line
from sfumato.methods._shared.couplings import Transport, assigned
from sfumato.methods.flow_matching import FlowMatching
from sfumato.methods.registry import find
from sfumato.training.fit import State, fit
from sfumato.training.pictures import trains_on
from sfumato.training.train import train

M0, M1 = f64([0.3, -0.2]), f64([-0.4, 0.1])
TURN = rotation(0.6)
S0, S1 = (TURN @ torch.diag(f64(v)) @ TURN.T for v in ([0.2, 1.2], [0.9, 0.3]))
"""They commute."""
MONGE = sqrtm(S0) @ sqrtm(S1).inverse()


class Exact(FlowDenoiser):
    """v of jointly Gaussian ends; C = E x_0 x_1^T about the means, 0 if they are independent."""

    def __init__(self, C, **_):
        super().__init__(net=nn.Identity())
        self.C = C

    def velocity(self, x_t, t):
        t = torch.as_tensor(t, dtype=torch.float64).reshape(-1, 1, 1)
        V = (1 - t) ** 2 * S0 + t**2 * S1 + t * (1 - t) * (self.C + self.C.T)
        K = (1 - t) * self.C.T + t * S1 - (1 - t) * S0 - t * self.C  # Cov(x_1 - x_0, x_t)
        centred = x_t.flatten(1) - ((1 - t) * M0 + t * M1)[:, 0]
        return (M1 - M0 + (K @ torch.linalg.solve(V, centred[..., None]))[..., 0]).reshape(x_t.shape)

    def loss(self, x, source, t):
        self.pair = source, x
        x_t = x + t.reshape(-1, 1, 1, 1) * (source - x)
        return (self.velocity(x_t, t) - (source - x)).square().mean()

    def parameters(self, recurse=True):
        return iter([torch.zeros(1)])


INDEPENDENT, OPTIMAL = Exact(0 * S0), Exact(MONGE @ S1)


@pytest.mark.parametrize("side", ["target", "source"])
def test_a_flow_reaches_the_monge_map_at_the_solvers_order(side, report, float64):
    """Even of independent ends, where covariances commute."""
    mean, other, T = (M0, M1, MONGE) if side == "target" else (M1, M0, MONGE.inverse())
    x, found = normal(8, 2), {}
    want = mean + (x - other) @ T.T
    for name, order in {"ddim": 1, "heun": 2, "ab2": 2, "dpm2m": 2, "ab3": 2}.items():
        ns = (32, 64, 128)
        errors = [(INDEPENDENT.sample(side, x, steps=n, solver=name) - want).abs().max() for n in ns]
        found[name] = slope(ns, errors), errors[-1].item()
        assert found[name][0] == pytest.approx(order, abs=0.35), (name, errors)
    words = [f"{name} {order:.2f} {error:.1g}" for name, (order, error) in found.items()]
    report(f"flow to the {side}: order, error at 128 steps", *words)
    adaptive = INDEPENDENT.sample(side, x, steps=1, solver="dopri5")
    torch.testing.assert_close(adaptive, want, rtol=0, atol=0.02)


def test_with_optimal_pairs_ways_are_straight_and_one_step_is_exact(report, float64):
    x = normal(8, 2)
    want = M0 + (x - M1) @ MONGE.T
    error = (OPTIMAL.sample("target", x, steps=1, solver="ddim") - want).abs().max().item()
    report("flow of optimal pairs: error of the Monge map in one step of ddim", error)
    assert error < 1e-12
    assert (INDEPENDENT.sample("target", x, steps=1, solver="ddim") - want).abs().max() > 0.1


def test_back_is_the_same_way(float64):
    x = normal(4, 2)
    y = INDEPENDENT.sample("target", x, steps=64, solver="heun")
    torch.testing.assert_close(INDEPENDENT.sample("source", y, steps=64, solver="heun"), x, rtol=0, atol=2e-3)


def test_a_flow_is_the_bridge_whose_noise_goes_to_none(report, float64):
    """E[x_0 | x_t] of the Markov Brownian bridge tends to x_t - t v."""
    C, x, t = 0.5 * MONGE @ S1, normal(8, 2), 0.4
    want, errors = Exact(C)(x, t), []
    for gamma in (0.1, 0.01):
        a, b, c = Brownian(gamma=gamma).coefficients(t)
        V = b**2 * S0 + a**2 * S1 + a * b * (C + C.T) + c**2 * torch.eye(2)
        far = (x - b * M0 - a * M1) @ torch.linalg.solve(V, (b * S0 + a * C).T)
        errors.append((M0 + far - want).abs().max().item())
    report("bridge with noise .1, .01, and flow: difference of E[x_0 | x_t]", *errors)
    assert errors[1] < errors[0] / 50


class Says(nn.Module):
    """Answers always this, and keeps what it is asked."""

    def __init__(self, answer):
        super().__init__()
        self.answer = answer

    def forward(self, x, level, label):
        self.x, self.level = x, level
        return self.answer.expand(x.shape)


def test_a_network_is_asked_as_that_of_a_bridge_without_noise():
    x, t = normal(3, 1, 2, 2), 0.3
    net = Says(normal(1, 1, 2, 2, seed=1))
    flow = FlowDenoiser(net=net)(x, t)
    assert net.level[0] == pytest.approx(math.log(0.3 / 0.7))
    net.answer = -net.answer  # towards x_0, not away from it
    bridge = BridgeDenoiser(net=net, process=Brownian(gamma=1e-3))(x, t)
    torch.testing.assert_close(flow, bridge, rtol=0, atol=1e-4)


@pytest.mark.parametrize("t", [0.001, 0.3, 0.8, 0.999])
def test_what_the_network_takes_and_learns_has_unit_variance(t, report):
    f, n, r = FlowDenoiser(net=Says(torch.zeros(1).double())), 40_000, 0.5
    x = normal(n, 1, 1, 1) / 2
    source = r * x + math.sqrt(1 - r**2) / 2 * normal(n, 1, 1, 1, seed=2)
    learned = f.loss(x, source, f64([t]).expand(n)).item()
    report(f"flow at {t}: variance in, out", f.net.x.var().item(), learned)
    assert f.net.x.var().item() == pytest.approx(1, abs=0.04)
    assert learned == pytest.approx(1, abs=0.04)


def test_loss_and_velocity_are_one_denoiser():
    """A network that answered the target of its loss would say x_1 - x_0, and lead from end to end."""
    (x, source), t = (normal(4, 1, 1, 1, seed=k) for k in range(2)), 0.3
    x_t = x + t * (source - x)
    zero, one = (FlowDenoiser(net=Says(v)).velocity(x_t, t) for v in (0 * x, torch.ones_like(x)))
    f = FlowDenoiser(net=Says((source - x - zero) / (one - zero)))
    assert f.loss(x, source, f64([t]).expand(4)).item() < 1e-20
    torch.testing.assert_close(f(x_t, t), x)
    torch.testing.assert_close(x_t + 0.7 * f.velocity(x_t, t), source)
    assert Line().time(Line().log_snr(0.3)).item() == pytest.approx(0.3)


# ---- which pictures belong together ---------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
def test_the_assignment_is_the_best_of_all(seed):
    x, y = normal(6, 5, seed=seed), normal(6, 5, seed=seed + 9)
    cost = lambda p: (x - y[list(p)]).square().sum().item()
    best = min(itertools.permutations(range(6)), key=cost)
    assert tuple(assigned(x, y).tolist()) == best


class Brightness(nn.Module):
    """The features of a classifier that sees how bright a picture is."""

    def embedding(self, x, t):
        return x.mean((1, 2, 3), keepdim=True)


def test_costs_see_pixels_colours_of_large_parts_or_features():
    """A picture's shifted copy is near in colours; its inverse in brightness has none near in pixels."""
    g = torch.Generator().manual_seed(0)
    x = torch.randn(5, 3, 16, 16, generator=g)
    coarse = nn.functional.interpolate(torch.randn(5, 3, 2, 2, generator=g), scale_factor=8)
    order = torch.tensor([3, 0, 4, 1, 2])
    transport = lambda cost: Transport(cost, 8).eval()(x_, y_, g)[1]
    x_, y_ = x, (x + 0.1)[order]
    torch.testing.assert_close(transport("pixels"), x + 0.1)
    x_, y_ = coarse + x, (coarse - x)[order]
    torch.testing.assert_close(transport("low_pass"), coarse - x)
    bright = torch.linspace(-1, 1, 5)[:, None, None, None].expand(x.shape)
    x_, y_ = bright + x - x.mean((1, 2, 3), keepdim=True), bright[order]
    torch.testing.assert_close(transport(Brightness()), bright)
    with pytest.raises(UserError, match="cost is a model in Python, not its folder"):
        Transport("runs/which", 8)
    with pytest.raises(UserError, match="cost must be pixels, low_pass or a domain_classifier, not a"):
        Transport(nn.Identity(), 8)


def test_a_whole_pool_is_assigned_and_then_drawn_from():
    pool, g = Transport("pixels", 8).train(), torch.Generator().manual_seed(0)
    values = torch.linspace(-1, 1, 8).half().float()
    x, y = (values[torch.randperm(8, generator=g)].reshape(8, 1, 1, 1) for _ in range(2))
    a, b = pool(x[:4], y[:4], g)
    assert torch.equal(a, x[:4])
    assert sorted(b.flatten().tolist()) == sorted(y[:4].flatten().tolist())
    assert torch.equal(a.flatten().argsort(), b.flatten().argsort())  # the best on a line keeps the order
    a, b = pool(x[4:], y[4:], g)
    assert torch.equal(a, b)  # all eight were there
    other = torch.full((4, 1, 1, 1), 9.0)
    a, b = pool(other, other, g)
    assert torch.equal(a, b)
    assert a.max() <= 1  # of the pool before
    assert torch.equal(pool.eval()(other, other, g)[0], other)


# ---- reflow -----------------------------------------------------------------------------------------


def reflowing(denoiser, **options):
    part = FlowMatching(net="tiny", channels=2, coupling="reflow", **options).double().train()
    part.denoiser = denoiser
    part.seen += 1
    return part


def gaussian_batches(n=64):
    for k in itertools.count():
        yield tuple(
            (m + normal(n, 2, seed=2 * k + i) @ sqrtm(S))[..., None, None] for i, (m, S) in
            enumerate(((M1, S1), (M0, S0)))
        )  # fmt: skip


def test_the_reflow_of_a_straight_flow_is_itself(report, float64):
    """What it makes are pairs on which its own loss is 0: there is nothing to learn."""
    found = {}
    for name, C in (("optimal", MONGE @ S1), ("independent", 0 * S0)):
        part = reflowing(Exact(C), loop_steps=40)
        ((_, loss),) = part.objectives(gaussian_batches(), torch.Generator().manual_seed(0))
        found[name] = loss.item()
        x, y = (v.flatten(1) for v in part.denoiser.pair)
        assert (y - M0 - (x - M1) @ MONGE.T).abs().max() < (0.03 if name == "independent" else 0.01)
    report("loss of a flow on its own pairs: of optimal ones, of independent ones", *found.values())
    assert found["optimal"] < 1e-5  # pairs are remembered in float16
    assert found["independent"] > 0.01


def test_reflow_needs_a_flow_to_begin_with(tmp_path):
    part = FlowMatching(net="tiny", coupling="reflow").train()
    with pytest.raises(UserError, match=r"coupling reflow learns from .*: add --from MODEL"):
        list(part.objectives(pictures(), torch.Generator()))
    folders = paint(tmp_path)
    how = {"size": 8, "batch": 2, "held_out": 0, "preview_every": 0, "quiet": True}
    options = {"net": "tiny", "pool_size": 4}
    first = train("flow_matching", folders, tmp_path / "first", options=options, steps=2, **how)
    again = train(
        "flow_matching", folders, tmp_path / "again", start=tmp_path / "first", steps=2,
        options={"coupling": "reflow", "loop_steps": 2, "buffer": 4}, **how,
    )  # fmt: skip
    assert int(first.seen) == 2
    assert int(again.seen) == 4


# ---- training -----------------------------------------------------------------------------------------


def pictures(start=0, n=4):
    for k in itertools.count(start):
        yield tuple(normal(n, 3, 8, 8, seed=2 * k + i).float() for i in range(2))


def paint(folder, names=(("0", "1", "2"), ("0", "1", "2"))):
    folders = [folder / "a", folder / "b"]
    for k, (place, own) in enumerate(zip(folders, names, strict=True)):
        place.mkdir()
        for i, name in enumerate(own):
            write_png(place / f"{name}.png", torch.full((3, 8, 8), i / 4 - k / 8))
    return folders


@pytest.mark.parametrize("coupling", ["optimal", "reflow"])
def test_a_run_that_was_stopped_goes_on_with_the_same_bits(coupling):
    def make():
        with torch.random.fork_rng():
            torch.manual_seed(0)
            how = {"pool_size": 10, "buffer": 6, "refresh": 2, "loop_steps": 2}
            part = FlowMatching(net="tiny", coupling=coupling, **how)
        part.seen += coupling == "reflow"
        return State(part)

    straight, first, second = make(), make(), make()
    teacher = parameters_to_vector(straight.method.denoiser.parameters()).detach().clone()
    list(fit(straight, pictures(), steps=6, schedule="constant"))
    list(fit(first, pictures(), steps=4, schedule="constant"))
    second.restore({k: v.clone() for k, v in first.tensors().items()}, 4)
    list(fit(second, pictures(4), steps=6, schedule="constant"))
    a, b = straight.tensors(), second.tensors()
    kept = {"memory/made.slow.vector"} if coupling == "reflow" else {"memory/transport.pairs.images"}
    assert a.keys() == b.keys() >= kept
    assert all(torch.equal(a[k], b[k]) for k in a)
    if coupling == "reflow":  # pairs are those of the flow that it began with
        assert torch.equal(a["memory/made.slow.vector"], teacher)


def test_pairs_that_are_given_are_those_of_equal_names(tmp_path):
    """Batches hold the two pictures of a name; without, any."""
    assert trains_on("flow_matching", {"coupling": "given"}) == "pairs"
    assert trains_on("flow_matching", {}) == trains_on(find("flow_matching")(net="tiny")) == "unpaired"
    folders, seen = paint(tmp_path, (("0", "1", "2"), ("2", "1", "0"))), []
    how = {"size": 8, "batch": 3, "held_out": 0, "preview_every": 0, "quiet": True, "steps": 2}
    loss = FlowDenoiser.loss
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FlowDenoiser, "loss", lambda f, y, x, t: seen.append((x, y)) or loss(f, y, x, t))
        options = {"net": "tiny", "coupling": "given"}
        train("flow_matching", folders, tmp_path / "run", options=options, **how)
    for x, y in seen:  # 0 is darkest there and brightest here
        assert torch.equal(x.mean((1, 2, 3)).argsort(), y.mean((1, 2, 3)).argsort(descending=True))


def test_features_of_a_model_are_a_cost(tmp_path):
    folders = paint(tmp_path)
    how = {"size": 8, "batch": 2, "held_out": 0, "preview_every": 0, "quiet": True, "steps": 2}
    named = {"a": folders[0], "b": folders[1]}
    train("domain_classifier", named, tmp_path / "which", options={"net": "tiny"}, **how)
    options = {"net": "tiny", "cost": str(tmp_path / "which"), "pool_size": 4}
    part = train("flow_matching", folders, tmp_path / "run", options=options, **how)
    before = torch.cat([p.flatten() for p in part.cost.parameters()])
    how["steps"] = 4
    more = train("flow_matching", folders, tmp_path / "run", options=options, resume=True, **how)
    assert torch.equal(torch.cat([p.flatten() for p in more.cost.parameters()]), before)
    x = normal(2, 3, 8, 8).float().tanh()
    assert not torch.equal(more.translate(x), part.translate(x))
    options = {"coupling": "given", "pool_size": 3}
    with pytest.raises(UserError, match="--pool-size 3 acts only with --coupling optimal"):
        train("flow_matching", folders, tmp_path / "no", options=options, **how)


def test_results_are_the_same_for_every_seed_and_follow_the_direction():
    part, x = lively(FlowMatching(net="tiny")), normal(2, 3, 8, 8).float().tanh()
    y = part.translate(x, steps=3)
    assert torch.equal(y, part.translate(x, steps=3, seed=5))
    assert not torch.allclose(y, part.translate(x, steps=3, direction="target-to-source"), atol=1e-3)
    seen = []
    watch = lambda t, x_t, mean, extras: seen.append((t, x_t, extras["nfe"]))
    part.translate(x, as_is=True, steps=4, solver="ddim", watch=watch)
    assert [t for t, *_ in seen] == [1, 0.75, 0.5, 0.25]
    assert torch.equal(seen[0][1], x)
    assert all(nfe == 1 for *_, nfe in seen)
    with pytest.raises(UserError, match="solver .ancestral. draws noise: expected ddim, heun"):
        part.translate(x, solver="ancestral")
