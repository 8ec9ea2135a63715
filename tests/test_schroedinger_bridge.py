"""The Schroedinger bridge of Gaussians: Markov projections in closed form, by the sampler, and learned."""

import math

import pytest
import torch
from scipy.integrate import quad
from torch import nn
from truth import Affine, Impulses, f64, lively, normal, rotation, sqrtm

from sfumato.core.errors import UserError
from sfumato.diffusion.bridges import Brownian, crossed
from sfumato.methods.schroedinger_bridge import SchroedingerBridge
from sfumato.training.fit import State, fit

PUBLISHED = [
    ((1, 4), 1.0, (3.334, 3.5238, 3.5309), 3.5311),
    ((1, 2), 0.2, (1.8534, 1.9017), 1.9025),
    ((1, 4), 10.0, (1.2599, 1.3893, 1.4018), 1.4031),
]


def plan(s0, s1, eps):
    """E x_0 x_1^T of the entropic plan between N(0, s0) and N(0, s1): D = (4 s0' s1 s0' + eps^2)^(1/2)."""
    root, I = sqrtm(s0), torch.eye(len(s0)).to(s0)
    D = sqrtm(4 * root @ s1 @ root + eps**2 * I)
    return (root @ D @ root.inverse() - eps * I) / 2


def projected(s0, s1, eps, C):
    """The covariance after one Markov projection: s0 s1 exp(-eps/2 int dt / V), V the variance of x_t."""
    V = lambda t: (1 - t) ** 2 * s0**2 + t**2 * s1**2 + 2 * t * (1 - t) * C + eps * t * (1 - t)
    return s0 * s1 * math.exp(-eps / 2 * quad(lambda t: 1 / V(t), 0, 1, epsabs=1e-12)[0])


class Exact(nn.Module):
    """E[x_0 | x_t] of a bridge between ends of covariances s0 and s1, E x_0 x_1^T = C; zero means."""

    def __init__(self, process, s0, s1, C):
        super().__init__()
        self.process, self.s0, self.s1, self.C = process, s0, s1, C

    def forward(self, x_t, t):
        a, b, c = self.process.coefficients(t)
        V = b**2 * self.s0 + a**2 * self.s1 + a * b * (self.C + self.C.T) + c**2 * torch.eye(len(self.s0))
        return x_t @ torch.linalg.solve(V, (b * self.s0 + a * self.C).T)


def by_sampler(s0, s1, eps, C, steps, solver):
    """(E x_0 x_1^T, Cov x_0) of what the sampler makes of x_1 ~ N(0, s1), exactly."""
    noise, d = Impulses(len(s0), steps + 1), len(s0)
    x = noise.start()
    made = crossed(
        Exact(Brownian(gamma=math.sqrt(eps)), s0, s1, C), x, noise,
        steps=steps, solver=solver, spacing="karras",
    )  # fmt: skip
    law = Affine(made, d)
    return law.A @ s1, law.moments(torch.zeros(d).to(s1), s1)[1]


@pytest.mark.parametrize(("ends", "eps", "known", "fixed"), PUBLISHED)
def test_markov_projections_lead_to_the_entropic_plan(ends, eps, known, fixed, report, float64):
    C, found = 0.0, []
    for _ in range(12):
        found.append(C := projected(*ends, eps, C))
    s0, s1 = (f64([[s**2]]) for s in ends)
    limit = plan(s0, s1, eps).item()
    report(f"projections, deviations {ends}, epsilon {eps:g}", *found[:3], "->", limit)
    assert found[: len(known)] == pytest.approx(known, abs=1e-3)
    assert limit == pytest.approx(fixed, abs=1e-3)
    assert found[-1] == pytest.approx(limit, abs=1e-6)
    assert projected(*ends, eps, limit) == pytest.approx(limit, abs=1e-9)


@pytest.mark.parametrize(("ends", "eps"), [((1, 4), 1.0), ((1, 2), 0.2)])
def test_the_sampler_makes_the_projection(ends, eps, report, float64):
    """From the exact E[x_0 | x_t] of a coupling it makes the coupling of one projection, in order 2."""
    s0, s1 = (f64([[s**2]]) for s in ends)
    errors = {}
    for C in (0.0, projected(*ends, eps, 0.0)):
        want = projected(*ends, eps, C)
        for n in (32, 64, 128):
            cov, var = by_sampler(s0, s1, eps, f64([[C]]), n, "sde_dpm2m")
            errors[n] = abs(cov.item() - want) / want, abs(var.item() / s0.item() - 1)
        report(f"sampler, {ends}, from covariance {C:.3f}: error of covariance, variance", *errors[128])
        assert max(errors[128]) < 5e-3
        assert errors[64][0] > 2.5 * errors[128][0]


def test_the_entropic_plan_is_a_fixed_point_where_covariances_do_not_commute(report, float64):
    s0, turn = torch.diag(f64([1.0, 0.2])), rotation(0.6)
    s1 = turn @ torch.diag(f64([0.8, 2.0])) @ turn.T
    C = plan(s0, s1, 0.5)
    cov, var = by_sampler(s0, s1, 0.5, C, 200, "sde_dpm2m")
    report("fixed point in 2-D: difference", (cov - C).abs().max().item(), (var - s0).abs().max().item())
    torch.testing.assert_close(cov, C, rtol=0, atol=5e-3)
    torch.testing.assert_close(var, s0, rtol=0, atol=5e-3)


class Linear(nn.Module):
    """A(log c/b, end) x: what a Gaussian's denoiser is; A is a table, linear between its levels."""

    def __init__(self, d, levels=24):
        super().__init__()
        self.table = nn.Parameter(torch.zeros(2, levels, d, d))

    def forward(self, x, level, label):
        most = self.table.shape[1] - 1
        at = ((level.float() + 6) / 10 * most).clamp(0, most - 1e-3)
        k, share = at.long(), at.frac()[:, None, None]
        matrix = self.table[label, k].lerp(self.table[label, k + 1], share)
        return torch.einsum("bij,bjhw->bihw", matrix, x)


def learned(s0, s1, eps, steps=200):
    """E x_0 x_1^T of both directions of a small network, from pictures of independent pixels."""
    roots, d = {s: sqrtm(v).float() for s, v in (("source", s1), ("target", s0))}, len(s0)
    g = torch.Generator().manual_seed(0)

    def batches():
        while True:
            z = torch.randn(2, 16, d, 24, 24, generator=g)
            yield tuple(torch.einsum("ij,bjhw->bihw", r, x) for r, x in zip(roots.values(), z, strict=True))

    state = State(SchroedingerBridge(
        net=Linear(d), epsilon=eps, channels=d, warmup_batches=40, loop_steps=12, buffer=64, refresh=8,
        pairs_ema=0.8,
    ))  # fmt: skip
    list(fit(state, batches(), steps=steps, lr=0.05, ema=0.95, warmup=5))
    part, found = state.finish(), []
    for side, s in (("target", s1), ("source", s0)):
        noise = Impulses(d, 31)
        with torch.no_grad():
            made = part.denoiser.sample(
                side, noise.start()[..., None, None], noise, steps=30, solver="sde_dpm2m", spacing="log_snr"
            )
        C = Affine(made.double(), d).A @ s
        found.append(C if side == "target" else C.T)
    return found


TURN = rotation(0.6)


@pytest.mark.usefixtures("shapes_unchecked")
@pytest.mark.parametrize(
    ("s0", "s1", "eps"),
    [
        (f64([[0.25]]), f64([[0.64]]), 0.3),
        (torch.diag(f64([0.4, 0.1])), TURN @ torch.diag(f64([0.2, 0.5])) @ TURN.T, 0.2),
    ],
    ids=["1-D", "2-D"],
)
def test_a_small_network_learns_the_entropic_plan(s0, s1, eps, report):
    C = plan(s0, s1, eps)
    for way, found in zip(("to 0", "to 1"), learned(s0, s1, eps), strict=True):
        error = ((found - C).norm() / C.norm()).item()
        report(f"learned without pairs, {len(s0)}-D, {way}: relative error of the covariance", error)
        assert error < 0.03


def stream(start=0, n=4):
    k = start
    while True:
        yield normal(n, 3, 8, 8, seed=2 * k).float(), normal(n, 3, 8, 8, seed=2 * k + 1).float()
        k += 1


def tiny(**options):
    how = {"net": "tiny", "warmup_batches": 2, "loop_steps": 2, "buffer": 6, "refresh": 2}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return SchroedingerBridge(**how | options)


def test_real_ends_are_learned_from_random_and_then_from_made_ones():
    model, asked = lively(tiny(pairs_ema=0.5)).train(), []
    model.denoiser.loss = lambda x, source, t, z, domain: (
        asked.append((domain, x, source)) or torch.tensor(0.0)
    )
    made = []
    model.pairs.register_forward_hook(lambda *call: made.append(call[-1]))
    for n in range(3):
        list(model.objectives(stream(n), torch.Generator().manual_seed(n)))
    (_, y, x), (_, x2, y2) = asked[:2]
    assert [side for side, *_ in asked] == ["target", "source"] * 3
    a, b = next(stream())
    assert torch.equal(x, a) & torch.equal(y, b) & torch.equal(x2, a) & torch.equal(y2, b)
    ((real, of_real),) = made  # only the third is past the first stage
    for side, x, source in asked[4:]:
        other = {"target": "source", "source": "target"}[side]
        assert torch.equal(x, real[side])
        assert torch.equal(source, of_real[other])


def test_what_is_made_is_by_the_slow_copy():
    model = lively(tiny(warmup_batches=0, pairs_ema=0.0)).train()
    list(model.objectives(stream(), torch.Generator().manual_seed(0)))
    copy, before = model.pairs.slow.vector, model.pairs.memory.images
    with torch.no_grad():
        for p in model.parameters():
            p.zero_()
    model.pairs.memory.images = None
    model.pairs.follow = lambda *_: None
    list(model.objectives(stream(), torch.Generator().manual_seed(0)))
    assert torch.equal(model.pairs.slow.vector, copy)
    assert torch.equal(model.pairs.memory.images, before)


def test_a_run_that_was_stopped_goes_on_with_the_same_bits():
    straight, first, second = (State(tiny()) for _ in range(3))
    list(fit(straight, stream(), steps=6, schedule="constant"))
    list(fit(first, stream(), steps=4, schedule="constant"))
    second.restore({k: v.clone() for k, v in first.tensors().items()}, 4)
    list(fit(second, stream(4), steps=6, schedule="constant"))
    a, b = straight.tensors(), second.tensors()
    assert a.keys() == b.keys() >= {"memory/pairs.slow.vector", "memory/pairs.memory.images"}
    assert all(torch.equal(a[k], b[k]) for k in a)


def test_one_network_is_told_the_direction_and_not_the_source():
    model, x = lively(tiny()), normal(2, 3, 8, 8).float().tanh()
    there, back = (model.translate(x, direction=d, steps=3) for d in ("source-to-target", "target-to-source"))
    assert not torch.allclose(there, back, atol=1e-3)
    assert model.denoiser.net.conditioning == 0
    with pytest.raises(UserError, match=r"solver 'ab3' draws no noise, and a Schroedinger bridge does not"):
        model.translate(x, solver="ab3")
    with pytest.raises(UserError, match="loop_solver 'ddim': expected one of|solver 'ddim' draws no noise"):
        tiny(loop_solver="ddim")
    with pytest.raises(UserError, match="epsilon must be in"):
        tiny(epsilon=0)
