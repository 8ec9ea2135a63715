"""Predictor-corrector, stochastic Heun, and the adaptive Dormand-Prince pair."""

from functools import partial

import pytest
import torch
from truth import affine, f64, gaussian, normal, slope, tiny_denoiser

from sfumato.core.errors import UserError
from sfumato.diffusion.exact import Mixture
from sfumato.diffusion.guidance import Conditioned, Guided
from sfumato.diffusion.integrate import ancestral, dopri5, integrate, predictor_corrector
from sfumato.diffusion.process import DDPM, VE, VP, Cosine, Flow, named_process
from sfumato.diffusion.time_grids import grid
from sfumato.methods.registry import find

NEW = ["predictor_corrector", "sde_heun", "dopri5"]
PROCESSES = [VP(), Cosine(), Flow()]
processes = pytest.mark.parametrize("process", PROCESSES, ids=str)


# ---- stochastic Heun ----------------------------------------------------------------------------


@processes
def test_stochastic_heun_has_weak_order_two(process, report):
    """By the recursion of mean and covariance, which is exact: no Monte-Carlo."""
    m, S, I = f64([1.0, -0.5]), f64([0.25, 2.0]).diag(), torch.eye(2).double()
    f, ends, ns = gaussian([1.0, -0.5], [0.25, 2.0], process), (0.9, 0.05), (32, 64, 128, 256)
    (a0, s0), (a1, s1) = (process(f64(t)) for t in ends)
    orders, last = {}, {}
    for name in ("sde_heun", "ancestral"):
        errors = []
        for n in ns:
            times = grid(process, n, start=ends[0], stop=ends[1])
            mean, cov = affine(name, f, times, 2).moments(a0 * m, a0**2 * S + s0**2 * I)
            off = (mean - a1 * m).abs().max(), (cov - a1**2 * S - s1**2 * I).abs().max()
            errors.append(max(off).item())
        orders[name], last[name] = slope(ns, errors), errors[-1]
    report(f"weak order of stochastic Heun, {type(process).__name__}", *orders.values())
    report("   error of moments at N=256: stochastic Heun, ancestral", *last.values())
    assert orders["sde_heun"] == pytest.approx(2, abs=0.15)
    assert orders["ancestral"] == pytest.approx(1, abs=0.15)
    assert last["sde_heun"] < last["ancestral"] / 15


@processes
def test_stochastic_heun_is_exact_for_one_point(process):
    f = gaussian([0.7], [0.0], process)
    (a0, s0), (a1, s1) = (process(f64(t)) for t in (process.t_max, process.t_min))
    for n in (1, 4, 32):
        law = affine("sde_heun", f, grid(process, n), 1)
        mean, var = law.moments(0.7 * a0[None], (s0**2).reshape(1, 1))
        assert (mean - 0.7 * a1).abs().item() < 1e-10
        assert (var - s1**2).abs().item() < 1e-10


# ---- predictor and corrector --------------------------------------------------------------------


def test_corrector_is_algorithm_five():
    """e = 2 alpha_i (r |z| / |g|)^2 with alpha_i = 1 - beta_i of the chain, norms of each image."""
    f = gaussian([0.5, -1.0, 0.0], [0.25, 2.0, 1.0], DDPM())
    x, zs = normal(4, 3), [normal(4, 3, seed=k) for k in (1, 2, 3)]
    beta, r = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)[499], 0.2
    t, s = f64([0.5, 0.499])
    draws = iter(zs)
    step = partial(predictor_corrector, r=r, corrections=2)
    got = integrate(step, f, x, torch.stack([t, s]), noise=lambda like: next(draws))
    want = integrate(ancestral, f, x, torch.stack([t, s]), noise=lambda like: zs[0])
    a, sigma = f.process(s)
    for z in zs[1:]:
        score = -(want - a * f64([0.5, -1.0, 0.0])) / (a**2 * f64([0.25, 2.0, 1.0]) + sigma**2)
        norms = [v.square().sum(1, keepdim=True).sqrt() for v in (z, score)]
        e = 2 * (1 - beta) * (r * norms[0] / norms[1]) ** 2
        want = want + e * score + (2 * e).sqrt() * z
    torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("start", [0.5, 1.0, 3.0])
def test_corrector_contracts_towards_the_marginal(start, report):
    """In many dimensions |z|/|g| is a number: v' = v0 (1 - e/v)^2 + 2 e; at v0 = v: v (1 + 4 r^4)."""
    dim, r, process = 100_000, 0.4, VE()
    t, s = f64([0.6, 0.55])
    v = 1 + process(s)[1] ** 2
    v0 = start * v
    f = lambda x, t: x / (1 + process(t)[1] ** 2)
    f.process = process
    x, z = normal(2, dim), normal(2, dim, seed=1)
    step = partial(predictor_corrector, predictor=lambda f, past, s, noise: v0.sqrt() * x, r=r)
    y = integrate(step, f, x, torch.stack([t, s]), noise=lambda like: z)
    e = 2 * r**2 * v**2 / v0
    want = v0 * (1 - e / v) ** 2 + 2 * e
    report(
        f"Langevin: variance from {start} of the marginal's",
        (y.var() / v).item(),
        (want / v).item(),
    )
    assert y.var() / v == pytest.approx((want / v).item(), rel=0.02)
    assert want / v == pytest.approx(1 + 4 * r**4) or start != 1


# ---- the adaptive pair --------------------------------------------------------------------------


def mixture():
    return Mixture(
        f64([[1.0, 0.0], [-1.0, 0.5], [0.0, -1.5]]),
        f64([[0.3, 0.2], [0.2, 0.3], [0.4, 0.1]]).diag_embed(),
        f64([0.5, 0.2, 0.3]),
    )  # fmt: skip


def run(f, x, ends, tol):
    """The result, and the evaluations it took."""
    told = []
    step = partial(dopri5, rtol=tol, atol=tol)
    y = integrate(
        step, f, x, f64(ends), watch=lambda t, x, mean, extras: told.append(extras["nfe"])
    )
    return y, sum(told)


@pytest.mark.parametrize("up", [False, True], ids=["down", "up"])
@pytest.mark.parametrize("which", ["vp", "flow", "mixture"])
def test_dopri5_keeps_its_tolerance(which, up, report):
    """RMS over an image of the error in u: within rtol sigma/alpha, plus atol on the way down."""
    f = mixture() if which == "mixture" else gaussian([1.0, -2.0], [0.3, 2.0], named_process(which))
    process = f.process
    ends = (process.t_min, process.t_max) if up else (process.t_max, process.t_min)
    x = normal(8, 2) if up else process(f64(ends[0]))[1] * normal(8, 2)
    alpha, sigma = process(f64(ends[1]))
    want = run(f, x, ends, 1e-8)[0] if which == "mixture" else f.flow(x, *ends)
    found, evaluations = [], []
    for tol in (1e-2, 1e-3, 1e-5):
        y, nfe = run(f, x, ends, tol)
        worst = ((y - want) / alpha).square().mean(1).sqrt().max()
        found.append((worst / (tol * (sigma / alpha + (not up)))).item())
        evaluations.append(float(nfe))
    report(
        f"dopri5, {which}, {'up' if up else 'down'}: error/tolerance at 1e-2, 1e-3, 1e-5", *found
    )
    report("   evaluations", *evaluations)
    assert max(found) < 1
    assert evaluations == sorted(evaluations)
    assert evaluations[2] < 400


def test_dopri5_agrees_with_another_solver():
    f, x = mixture(), normal(16, 2)
    want = integrate("ab3", f, x, grid(f.process, 200, start=0.8, stop=0.15))
    assert (run(f, x, [0.8, 0.15], 1e-7)[0] - want).abs().max() < 1e-4


def test_dopri5_ends_clean_with_the_denoised_image():
    f, x = gaussian([1.0], [0.3], Cosine()), normal(5, 1)
    t = f.process.t_min
    above, nfe = run(f, x, [0.9, t], 1e-3)
    for times, more in (([0.9, 0.0], 1), ([0.9, t, 0.0], 1)):
        clean, evaluations = run(f, x, times, 1e-3)
        torch.testing.assert_close(clean, f(above, t), rtol=0, atol=1e-12)
        assert evaluations == nfe + more
    back, _ = run(f, clean, [0.0, t], 1e-3)  # nothing to do but to carry it to t_min
    assert torch.equal(back, f.process(f64(t))[0] * clean)


def test_dopri5_image_does_not_depend_on_its_batch():
    """To the bit in any order, to rounding in any size: each takes a number of steps of its own."""
    f, x, steps = mixture(), normal(8, 2), []
    y, nfe = run(f, x, [0.98, 0.01], 1e-3)
    for i in range(8):
        alone, own = run(f, x[i : i + 1], [0.98, 0.01], 1e-3)
        torch.testing.assert_close(alone, y[i : i + 1], rtol=0, atol=1e-12)
        steps.append(own)
    assert torch.equal(run(f, x.flip(0), [0.98, 0.01], 1e-3)[0], y.flip(0))
    assert len(set(steps)) > 1
    assert max(steps) == nfe


def test_dopri5_faults(monkeypatch):
    monkeypatch.setattr("sfumato.diffusion.steps.dopri5.MOST", 20)
    f, x = gaussian([0.0], [1.0], Cosine()), normal(2, 1)
    with pytest.raises(ValueError, match="cannot keep rtol=1e-30, atol=0 in 20 steps: raise them"):
        integrate(partial(dopri5, rtol=1e-30, atol=0.0), f, x, f64([0.9, 0.1]))
    g = lambda x, t: f(x, t) * float("nan")
    g.process = f.process
    with pytest.raises(ValueError, match="not finite"):
        integrate("dopri5", g, x, f64([0.9, 0.1]))


# ---- in methods ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NEW)
def test_methods_take_it_and_no_image_depends_on_its_batch(name, report):
    pictures = normal(3, 3, 8, 8).float().clamp(-1, 1)
    part = find("sdedit")(target=Conditioned(denoiser=tiny_denoiser(), domain="b"))
    how = {"solver": name, "steps": 2, "strength": 0.5}
    y = part.translate(pictures, **how)
    worst = max(
        (part.translate(pictures[[i]], **how) - y[[i]]).abs().max().item() for i in range(3)
    )
    report(f"SDEdit with {name}: an image in other batches", worst)
    assert y.isfinite().all()
    assert worst / y.abs().max() < 1e-5


def test_dopri5_in_ddib():
    """Between Gaussians, along u = x/alpha: one step up and one down are enough."""
    f, g = (gaussian([m], [v], Cosine()) for m, v in ((1.0, 0.3), (-2.0, 0.5)))
    x = normal(6, 1)
    (lo, hi), (a, _) = (f.process.t_min, f.process.t_max), f.process(f64(f.process.t_min))
    want = g.flow(f.flow(a * x, lo, hi), hi, lo) / a
    got = find("ddib")(source=f, target=g).translate(x, solver="dopri5", steps=2)
    assert (got - want).abs().max() < 0.01


def test_dopri5_of_a_guided_denoiser():
    """A quadratic energy at every time: the time of each image reaches wrappers, too."""
    f = gaussian([0.0], [1.0], Cosine())
    guided = Guided(f, lambda x, t: f.process.at(t, x)[0].flatten() * x.square().sum(1) / 2)
    x = normal(4, 1)
    want = integrate("heun", guided, x, grid(f.process, 200, start=0.9, stop=0.1))
    assert (run(guided, x, [0.9, 0.1], 1e-5)[0] - want).abs().max() < 1e-3


def test_what_is_no_state_and_what_is_no_denoiser_is_refused():
    f, x = gaussian([0.0], [1.0], VP()), normal(2, 1)
    times = grid(f.process, 3)
    with pytest.raises(UserError, match=r"states of torch.uint8: expected floating-point"):
        integrate("ddim", f, (x > 0).to(torch.uint8), times)
    for none in (x[:0], x.sum()):
        with pytest.raises(UserError, match=r"expected a batch \(B, ...\) of one or more"):
            integrate("ddim", f, none, times)
    for odd in (times[None], times[0]):
        with pytest.raises(UserError, match="times must be at least two in a row"):
            integrate("ddim", f, x, odd)
    with pytest.raises(UserError, match="times must be numbers"):
        integrate("ddim", f, x, times.to("meta"))
    f.process = "vp"  # as a model of several domains has it
    with pytest.raises(UserError, match=r"process is 'vp': .* load\('FOLDER:DOMAIN'\)"):
        integrate("ddim", f, x, times)
