"""Solvers and grids: orders, exact moments, published step formulas, counts and refusals.

With a Gaussian denoiser every step is affine, so moments are propagated exactly (`truth.affine`);
nothing here is a Monte-Carlo estimate.
"""

import itertools
import re
from functools import partial
from pathlib import Path

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from truth import Affine, Impulses, affine, f64, gaussian, normal, slope

from sfumato.core.errors import UserError
from sfumato.diffusion import encode_decode as bridge
from sfumato.diffusion.exact import Mixture
from sfumato.diffusion.integrate import ODE, SDE, STEPS, Counted, ddim, euler_maruyama, integrate
from sfumato.diffusion.noise import Noise
from sfumato.diffusion.noise_and_denoise import times_of
from sfumato.diffusion.process import DDPM, PROCESSES, VP, Cosine, Flow
from sfumato.diffusion.sampler_gradients import integrate_flat
from sfumato.diffusion.time_grids import chain_time, grid

pytestmark = pytest.mark.usefixtures("shapes_unchecked")

ORDERS = {"ddim": 1, "heun": 2, "dpm2m": 2, "ab2": 2, "ab3": 3}
NS, FEW = (32, 64, 128, 256), (48, 96)
ONE, ZERO = torch.eye(1, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)


# ---- orders of the deterministic steps ----------------------------------------------------------


def test_every_deterministic_step_has_an_order_here():
    assert ORDERS.keys() == ODE.keys() - {"dopri5"}  # whose order is that of its tolerance


@pytest.mark.parametrize("up", [False, True], ids=["down", "up"])
@pytest.mark.parametrize("process", [VP(), Cosine(), Flow()], ids=str)
def test_orders_on_a_gaussian(process, up, report):
    f = gaussian([1.0, -2.0, 0.5], [0.3, 2.0, 1.0], process)
    x, ends = normal(8, 3), (0.1, 0.9) if up else (0.9, 0.1)
    want, found = f.flow(x, *ends), {}
    for name, order in ORDERS.items():
        times = [grid(process, n, start=ends[0], stop=ends[1]) for n in NS]
        errors = [(integrate(name, f, x, t) - want).abs().max() for t in times]
        found[name] = slope(NS, errors)
        assert errors[-1] < {1: 0.03, 2: 1e-3, 3: 3e-6}[order]
    report(
        f"error slopes, {'up' if up else 'down'}, {type(process).__name__}",
        *(f"{k} {v:.2f}" for k, v in found.items()),
    )
    for name, order in ORDERS.items():
        assert found[name] == pytest.approx(order, abs=0.15), name


@pytest.mark.parametrize("up", [False, True], ids=["down", "up"])
def test_orders_on_a_mixture(up, report):
    """A curved trajectory: against ab3 with 1024 steps, whose error is far below 96 steps'."""
    f = Mixture(
        f64([[1.0, 0.0], [-1.0, 0.5], [0.0, -1.5]]),
        f64([[0.3, 0.2], [0.2, 0.3], [0.4, 0.1]]).diag_embed(),
        f64([0.5, 0.2, 0.3]),
    )  # fmt: skip
    process, x = f.process, normal(16, 2)
    ends = (0.15, 0.8) if up else (0.8, 0.15)
    want = integrate("ab3", f, x, grid(process, 1024, start=ends[0], stop=ends[1]))
    check = integrate("heun", f, x, grid(process, 1024, start=ends[0], stop=ends[1]))
    assert (want - check).abs().max() < 4e-5  # two solvers agree on the reference
    found = {}
    for name in ORDERS:
        times = [grid(process, n, start=ends[0], stop=ends[1]) for n in FEW]
        errors = [(integrate(name, f, x, t) - want).abs().max() for t in times]
        found[name] = slope(FEW, errors)
    report(
        f"error slopes, {'up' if up else 'down'}, a mixture",
        *(f"{k} {v:.2f}" for k, v in found.items()),
    )
    for name, order in ORDERS.items():
        assert found[name] == pytest.approx(order, abs=0.25), name


@pytest.mark.parametrize("name", ORDERS)
def test_down_to_clean_is_the_denoised_end(name):
    """A last step to t = 0 is E[x | x_t] for every deterministic solver."""
    f = gaussian([1.0], [0.3], Cosine())
    x = normal(5, 1)
    above = integrate(name, f, x, grid(f.process, 6, stop=f.process.t_min))
    clean = integrate(name, f, x, torch.cat([grid(f.process, 6), ZERO]))
    torch.testing.assert_close(clean, f(above, f.process.t_min), rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", ORDERS)
def test_up_from_clean(name):
    """Encoding may start at t = 0, where there is no noise level to ask the denoiser at."""
    f = gaussian([1.0], [0.3], Cosine())
    x, times = normal(5, 1), torch.cat([ZERO, grid(f.process, 200).flip(0)])
    error = (integrate(name, f, x, times) - f.flow(x, 0.0, f.process.t_max)).abs().max()
    assert error < (0.1 if name == "ddim" else 0.01)


# ---- Euler-Maruyama -----------------------------------------------------------------------------


def test_euler_maruyama_weak_order(report):
    f = gaussian([0.5], [0.25], VP())
    a, s = f.process(f64(f.process.t_min))
    table = {}
    for n in (100, 200, 400, 800):
        mean, var = affine("euler_maruyama", f, grid(f.process, n, "time"), 1).moments(ZERO, ONE)
        table[n] = (mean.item() - 0.5 * a.item(), var.item() - (0.25 * a**2 + s**2).item())
        report(f"Euler-Maruyama N={n}: error of mean, variance", *table[n])
    known = {
        100: (2.95e-3, 6.4e-4), 200: (1.48e-3, 7.5e-4), 400: (7.4e-4, 4.9e-4), 800: (3.7e-4, 2.7e-4),
    }  # fmt: skip
    for n, errors in known.items():
        assert table[n] == pytest.approx(errors, rel=0.03)
    means = slope(table, [m for m, _ in table.values()])
    variances = slope([400, 800], [table[n][1] for n in (400, 800)])
    report("Euler-Maruyama weak order: mean (N >= 100), variance (N >= 400)", means, variances)
    assert means == pytest.approx(1, abs=0.1)
    assert variances == pytest.approx(1, abs=0.2)


def test_the_grid_that_overshoots(report):
    """N points from 1 to t_min and a step at each, the last one to below t_min, amplifies noise."""
    f, reference = gaussian([0.5], [1e-4], VP()), VP(t_min=5e-4)  # noise in all steps but the last
    known = {
        10: (51, 0.566), 50: (1.41, 0.079), 100: (0.295, 0.0245), 500: (0.0029, 0.0093),
    }  # fmt: skip
    for n, (theirs, ours) in known.items():
        _, var = affine("euler_maruyama", f, grid(f.process, n, "time"), 1).moments(ZERO, ONE)
        times = torch.linspace(1, 1e-3, n, dtype=torch.float64)
        over = torch.cat([times, times[-1:] - (1 - 1e-3) / (n - 1)])
        with pytest.raises(ValueError, match="t_min"):
            integrate("euler_maruyama", f, torch.zeros(1, 1), over, noise=Noise([0]))
        noise, counted = Impulses(1, n), Counted(gaussian([0.5], [1e-4], reference))
        x = noise.start()
        for t, s in itertools.pairwise(over):
            x = euler_maruyama(counted, [counted(x, t)], s, noise)
        _, bad = Affine(x, 1).moments(ZERO, ONE)
        report(
            f"std of data of std 0.01, N={n}: overshooting, ours",
            bad.sqrt().item(),
            var.sqrt().item(),
        )
        assert bad.sqrt().item() == pytest.approx(theirs, rel=0.02)
        assert var.sqrt().item() == pytest.approx(ours, rel=0.012)


def test_euler_maruyama_is_its_formula():
    f, x, z = gaussian([0.5], [0.25], VP()), normal(4, 1), normal(4, 1, seed=1)
    t, s = f64([0.6, 0.55])
    a, sig = f.process(t)
    score = -(x - a * 0.5) / (0.25 * a**2 + sig**2)
    h, beta = 0.05, 0.1 + 0.6 * 19.9
    want = x + h * (beta * x / 2 + beta * score) + (beta * h) ** 0.5 * z
    got = integrate("euler_maruyama", f, x, torch.stack([t, s]), noise=lambda like: z)
    torch.testing.assert_close(got, want, rtol=1e-9, atol=0)


@pytest.mark.parametrize("name", [n for n in SDE if n != "predictor_corrector"])
def test_the_last_step_adds_no_noise(name):
    f = gaussian([0.5], [0.25], VP())
    times = grid(f.process, 7, clean=name != "euler_maruyama")
    law = affine(name, f, times, 1)
    assert law.G[-1] == 0
    assert (law.G[:-2].abs() > 0).all()


# ---- ancestral steps and DDIM -------------------------------------------------------------------


CHAIN = f64([1000, 999, 750, 500, 499, 250, 100, 99, 2, 1])


def drawn_step(name, now, then, mean):
    """One step of a chain's denoiser that answers `mean`, and the noise used."""
    f = lambda x, t: mean
    f.process = DDPM()
    x, z = normal(6, 2), normal(6, 2, seed=1)
    times = torch.stack([now, then]) / 1000
    return integrate(name, f, x, times, noise=lambda like: z), x, z


@pytest.mark.parametrize("variance", ["small", "large"])
def test_ancestral_is_the_ddpm_posterior(variance):
    """mean (y - beta/sqrt(1-ab) eps)/sqrt(1-beta), variance beta (1-ab')/(1-ab) or beta."""
    bars = torch.cat(
        [ONE[0], (1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)).cumprod(0)]
    )
    mean = normal(6, 2, seed=2)
    for now, then in itertools.pairwise(CHAIN):
        name = "ancestral" if variance == "small" else "ancestral_large"
        got, y, z = drawn_step(name, now, then, mean)
        ab, before = bars[int(now)], bars[int(then)]
        beta = 1 - ab / before
        eps = (y - ab.sqrt() * mean) / (1 - ab).sqrt()
        var = beta * (1 - before) / (1 - ab) if variance == "small" else beta
        want = (y - beta / (1 - ab).sqrt() * eps) / (1 - beta).sqrt() + var.sqrt() * z
        torch.testing.assert_close(got, want, rtol=0, atol=1e-10)


@pytest.mark.parametrize("eta", [0.0, 0.3, 1.0])
def test_ddim_is_its_formula(eta):
    bars = torch.cat(
        [ONE[0], (1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)).cumprod(0)]
    )
    mean = normal(6, 2, seed=2)
    for now, then in itertools.pairwise(CHAIN):
        got, x, z = drawn_step(partial(ddim, eta=eta), now, then, mean)
        ab, b = bars[int(now)], bars[int(then)]
        eps = (x - ab.sqrt() * mean) / (1 - ab).sqrt()
        sigma = eta * ((1 - b) / (1 - ab)).sqrt() * (1 - ab / b).sqrt()
        want = b.sqrt() * mean + (1 - b - sigma**2).sqrt() * eps + sigma * z
        torch.testing.assert_close(got, want, rtol=0, atol=1e-10)


@pytest.mark.parametrize("process", [VP(), Cosine(), Flow()], ids=str)
def test_ddim_with_eta_one_is_ancestral(process):
    f, times = gaussian([0.5, 1.0], [0.2, 2.0], process), grid(process, 9, clean=True)
    one, two = (affine(step, f, times, 2) for step in (partial(ddim, eta=1.0), "ancestral"))
    torch.testing.assert_close(one.A, two.A)
    torch.testing.assert_close(one.G, two.G)
    torch.testing.assert_close(one.b, two.b)


@pytest.mark.parametrize("process", [VP(), DDPM(), Cosine(), Flow()], ids=str)
def test_ancestral_small_is_exact_for_one_point(process, report):
    """All of x_s's moments are right at every step count, when the data is a single point."""
    f = gaussian([0.7], [0.0], process)
    (a0, s0), (a1, s1) = (process(f64(t)) for t in (process.t_max, process.t_min))
    worst = 0.0
    for n in (1, 4, 32):
        mean, var = affine("ancestral", f, grid(process, n), 1).moments(0.7 * a0[None], s0**2 * ONE)
        worst = max(worst, (mean - 0.7 * a1).abs().item(), (var - s1**2).abs().item())
    report(f"ancestral small on one point, {type(process).__name__}: error of moments", worst)
    assert worst < 1e-10


@pytest.mark.parametrize("process", [VP(), DDPM(), Cosine()], ids=str)
def test_ancestral_large_is_exact_for_unit_normal_data(process, report):
    f = gaussian([0.0], [1.0], process)
    mean, var = affine("ancestral_large", f, grid(process, 16), 1).moments(ZERO, ONE)
    report(
        f"ancestral large on N(0, 1), {type(process).__name__}: error of variance",
        (var - 1).abs().item(),
    )
    assert mean.abs().item() < 1e-12
    assert var.item() == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize("name", ["ancestral", "sde_dpm2m", "ancestral_large"])
def test_stochastic_moments_converge(name, report):
    process = Cosine()
    f = gaussian([1.0, -0.5], [0.25, 2.0], process)
    (a0, s0), (a1, s1) = (process(f64(t)) for t in (0.9, 0.05))
    m, S = f64([1.0, -0.5]), f64([0.25, 2.0]).diag()
    I = torch.eye(2).double()
    errors = []
    for n in NS:
        times = grid(process, n, start=0.9, stop=0.05)
        mean, cov = affine(name, f, times, 2).moments(a0 * m, a0**2 * S + s0**2 * I)
        errors.append(max((mean - a1 * m).abs().max(), (cov - a1**2 * S - s1**2 * I).abs().max()))
    order = slope(NS, errors)
    report(f"{name}: error of moments at N=256, weak order", errors[-1].item(), order)
    assert order == pytest.approx(2 if name == "sde_dpm2m" else 1, abs=0.15)
    assert errors[-1] < (1e-3 if name == "sde_dpm2m" else 0.04)


def test_first_sde_dpm2m_step_is_ancestral():
    """The first-order form, sigma_s/sigma_t e^-h x + a_s (1 - e^-2h) D + sigma_s sqrt(1 - e^-2h) z."""
    f, x = gaussian([1.0], [0.25], VP()), normal(5, 1)
    times, z = f64([0.5, 0.4]), normal(5, 1, seed=1)
    one, two = (
        integrate(name, f, x, times, noise=lambda like: z) for name in ("sde_dpm2m", "ancestral")
    )
    (a, b), (sig, tau) = f.process(times)
    h = (b / tau).log() - (a / sig).log()
    want = (
        tau / sig * (-h).exp() * x
        + b * (1 - (-2 * h).exp()) * f(x, times[0])
        + tau * (1 - (-2 * h).exp()).sqrt() * z
    )
    torch.testing.assert_close(one, want, rtol=0, atol=1e-12)
    torch.testing.assert_close(one, two, rtol=0, atol=1e-12)


# ---- the loop -----------------------------------------------------------------------------------


@pytest.mark.parametrize("clean", [False, True], ids=["t_min", "clean"])
@pytest.mark.parametrize("name", STEPS)
def test_evaluations_are_counted(name, clean):
    f, n = gaussian([0.0], [1.0], Cosine()), 5
    asked, told = [], []
    denoiser = lambda x, t: (asked.append(torch.as_tensor(t).min()), f(x, t))[1]
    denoiser.process = f.process
    integrate(
        name, denoiser, torch.zeros(2, 1), grid(f.process, n, clean=clean), noise=Noise([0, 1]),
        watch=lambda t, x, mean, extras: told.append((t, x, mean, extras["nfe"])),
    )  # fmt: skip
    twice = 2 * n - clean
    want = {"heun": twice, "sde_heun": twice, "predictor_corrector": twice - 1, "ab3": n + 1}
    assert len(asked) == sum(nfe for *_, nfe in told)
    assert len(asked) == want.get(name, n) or name == "dopri5"
    assert [t for t, *_ in told] == grid(f.process, n, clean=clean)[:-1].tolist()
    for t, x, mean, _ in told:
        torch.testing.assert_close(mean, f(x, t))
    assert min(asked) >= f.process.t_min


PAGE = Path(__file__).parent.parent / "docs/explanation/mathematics.md"
ROWS = re.findall(r"^\| (`.*?) \|.*?\| (.*?) \| (.*?) \|[^|]*\|$", PAGE.read_text(), flags=re.M)
NFE = {
    name: counts
    for names, *counts in ROWS
    for name in re.findall(r"`(\w+)`", names)
    if name in STEPS
}


@pytest.mark.parametrize("n", [2, 3, 7])
@pytest.mark.parametrize("name", STEPS)
def test_the_documents_table_counts_evaluations_as_they_are(name, n):
    f, nfe = gaussian([0.0], [1.0], Cosine()), []
    for clean in (False, True):
        told, times = [], grid(f.process, n, clean=clean)
        watch = lambda t, x, mean, extras, told=told: told.append(extras["nfe"])
        integrate(name, f, torch.zeros(2, 1), times, noise=Noise([0, 1]), watch=watch)
        nfe.append(sum(told))
    if name == "dopri5":
        assert NFE[name] == ["as needed"] * 2
    else:
        assert nfe == [eval(said.replace("2N", "2 * N"), {"N": n}) for said in NFE[name]]


def test_after_replaces_the_state_and_hears_the_time():
    f, heard = gaussian([0.0], [1.0], Cosine()), []
    times = grid(f.process, 4, clean=True)

    def after(x, s):
        heard.append(s.item())
        return torch.full_like(x, 3.0)

    y = integrate("ab3", f, torch.zeros(2, 1), times, after=after)
    assert torch.equal(y, torch.full((2, 1), 3.0))
    assert heard == times[1:].tolist()


def test_the_state_is_not_written_to():
    f, x = gaussian([0.0], [1.0], Cosine()), normal(2, 1)
    before = x.clone()
    for name in STEPS:
        integrate(name, f, x, grid(f.process, 3), noise=Noise([0, 1]))
        assert torch.equal(x, before)


@pytest.mark.parametrize("name", SDE)
def test_stochastic_steps_refuse_to_encode_or_go_without_noise(name):
    f, x = gaussian([0.0], [1.0], Cosine()), torch.zeros(1, 1)
    with pytest.raises(ValueError, match="needs noise="):
        integrate(name, f, x, grid(f.process, 3))
    with pytest.raises(ValueError, match="cannot encode"):
        integrate(name, f, x, grid(f.process, 3).flip(0), noise=Noise([0]))


@pytest.mark.parametrize(
    "times", [[0.5], [0.5, 0.5], [0.5, 0.6, 0.4], [0.5, 1e-4], [0.5, -0.1], [1.1, 0.5]], ids=str
)
def test_bad_times_are_refused(times):
    f = gaussian([0.0], [1.0], Cosine())
    with pytest.raises(ValueError, match="times must be"):
        integrate("ddim", f, torch.zeros(1, 1), torch.tensor(times))


@pytest.mark.parametrize("process", [cls() for cls in PROCESSES.values()], ids=str)
@pytest.mark.parametrize("sampler", [integrate, integrate_flat], ids=lambda f: f.__name__)
def test_hand_made_times_beyond_the_process_are_refused_with_its_range(process, sampler):
    """Beyond t_max flow and cosine have no picture left: alpha is 0, and u = x / alpha infinite."""
    f, x, (low, high) = (
        gaussian([0.3], [1.0], process),
        normal(3, 1),
        (process.t_min, process.t_max),
    )
    x = x.requires_grad_(sampler is integrate_flat)  # or it would hand on to `integrate`
    said = rf"times must be 0 or within \[t_min, t_max\] = \[{low:g}, {high:g}\], not "
    for times in ([high + 1e-3, 0.5], [0.5, high + 1e-3], [0.5, low / 2], [1e-9, 0.5], [-0.1, 0.5],
                  [float("nan"), 0.5]):  # fmt: skip
        for step in ("ddim", "heun", "ab3", "dopri5", "ancestral"):
            with pytest.raises(UserError, match=said):
                sampler(step, f, x, f64(times), noise=Noise([0, 1, 2]))
    for times in ([high, low, 0.0], [low, high]):  # the ends themselves are times, in float32, too
        want = sampler("ab3", f, x, f64(times))
        assert want.isfinite().all()
        torch.testing.assert_close(sampler("ab3", f, x, torch.tensor(times)), want)


@pytest.mark.parametrize("process", [Flow(), Cosine()], ids=str)
@pytest.mark.parametrize("solver", ODE)
def test_bridges_and_the_full_strength_stay_within_the_process(process, solver):
    f, x = gaussian([0.3], [1.0], process), normal(3, 1)
    z = bridge.encode(f, x, steps=8, solver=solver)
    back = bridge.decode(f, z, steps=8, solver=solver)
    assert z.abs().max() < 10
    assert (back - x).abs().max() < 2
    assert times_of(process, 1.0, 5, "karras")[0] == process.t_max


def test_unknown_solver_is_refused():
    f = gaussian([0.0], [1.0], Cosine())
    with pytest.raises(ValueError, match="unknown solver 'euler': did you mean"):
        integrate("euler", f, torch.zeros(1, 1), grid(f.process, 3))


# ---- grids --------------------------------------------------------------------------------------

processes = st.sampled_from([cls() for cls in PROCESSES.values()])
spacings = st.sampled_from(["time", "log_snr", "karras"])


@given(
    processes, spacings, st.integers(1, 60), st.booleans(), st.floats(0, 0.45), st.floats(0.55, 1)
)
def test_grids(process, spacing, n, clean, low, high):
    span = process.t_max - process.t_min
    lo, hi = process.t_min + low * span, process.t_min + high * span
    times = grid(process, n, spacing, start=hi, stop=lo, clean=clean)
    assert times.dtype == torch.float64
    assert len(times) == n + 1
    assert (times.diff() < 0).all()
    assert times[0] == hi
    assert times[-1] == (0 if clean else lo)
    assert times[times > 0].min() >= process.t_min
    if not clean:
        up = grid(process, n, spacing, start=lo, stop=hi)
        torch.testing.assert_close(up, times.flip(0), rtol=0, atol=1e-9)


@pytest.mark.parametrize("process", [cls() for cls in PROCESSES.values()], ids=str)
def test_spacings_are_uniform_in_their_coordinate(process):
    uniform = {
        "time": lambda t: t,
        "log_snr": process.log_snr,
        "karras": lambda t: (-process.log_snr(t) / 14).exp(),
    }
    for spacing, coordinate in uniform.items():
        steps = coordinate(grid(process, 12, spacing)).diff()
        torch.testing.assert_close(steps, steps.mean().expand(12), rtol=1e-6, atol=0)


@given(st.integers(1, 1000))
@example(1000)
def test_a_respaced_chain_has_true_levels(n):
    if n == 1000:
        with pytest.raises(ValueError, match="room for 999 steps there, not for 1000"):
            grid(DDPM(), n, "chain")
    else:
        levels = grid(DDPM(), n, "chain") * 1000
        torch.testing.assert_close(levels, levels.round(), rtol=0, atol=1e-9)
        assert levels[0] == pytest.approx(1000)
        assert levels[-1] == pytest.approx(1)
        assert (levels.diff() < 0).all()


@pytest.mark.parametrize("process", [VP(), Cosine(), Flow()], ids=str)
def test_a_chain_in_another_process_has_its_noise_levels(process):
    chain = DDPM()
    levels = chain.time(process.log_snr(grid(process, 20, "chain"))) * 1000
    inner = levels[1:-1]  # the ends may lie beyond the process' own
    torch.testing.assert_close(inner, inner.round(), rtol=0, atol=1e-8)


def test_bad_grids_are_refused():
    p = VP()
    with pytest.raises(ValueError, match="steps must be at least 1, not 0"):
        grid(p, 0)
    with pytest.raises(ValueError, match=r"must lie in \[t_min, t_max\] = \[0.001, 1\], not 0"):
        grid(p, 5, stop=0.0)
    with pytest.raises(ValueError, match="not 1.5"):
        grid(p, 5, start=1.5)
    with pytest.raises(ValueError, match="unknown spacing 'quadratic'"):
        grid(p, 5, "quadratic")


@pytest.mark.parametrize("n", [3, 7, 50, 333])
def test_levels_of_a_chain_are_the_nearest(n):
    levels = grid(DDPM(), n, "chain") * 1000
    even = torch.linspace(1000, 1, n + 1, dtype=torch.float64)
    assert (levels - even).abs().max() <= 0.5 + 1e-6


@pytest.mark.parametrize("process", [cls() for cls in PROCESSES.values()], ids=str)
def test_all_of_the_chains_noise_is_no_more_than_the_process_has(process):
    assert chain_time(process, 1.0) <= process.t_max
    inner = chain_time(process, 0.4)
    torch.testing.assert_close(process.log_snr(f64(inner)), DDPM().log_snr(f64(0.4)))


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ({"rho": 0.0}, "rho must be above 0"),
        ({"rho": -1.0}, "rho must be above 0"),
        ({"rho": 1e-9}, "rho=1e-09: expected"),
        ({"start": 0.5, "stop": 0.5}, "no strictly monotone 4 times lead from start=0.5 to stop=0.5"),
        ({"start": 0.5, "stop": 0.5, "spacing": "time"}, "no strictly monotone 4 times"),
        ({"start": 0.1, "stop": 0.5, "clean": True}, "then 0 .*: expected start above stop, and"),
    ],
)  # fmt: skip
def test_a_grid_has_no_times_that_integrate_refuses(how, says):
    with pytest.raises(ValueError, match=says):
        grid(Cosine(), 3, **how)


def test_a_grid_of_one_step_may_end_where_it_starts_but_for_zero():
    t_min = Cosine().t_min
    assert grid(Cosine(), 1, start=t_min, clean=True).tolist() == [t_min, 0]
