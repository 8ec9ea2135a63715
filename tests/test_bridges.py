"""Bridges: published coefficients and update rules, Gaussian pairs in closed form, the network's moments."""

import itertools
import math
from functools import partial

import pytest
import torch
from test_integrate import ORDERS
from torch import nn
from truth import Affine, Impulses, affine, f64, normal, slope

from sfumato.core.errors import UserError
from sfumato.diffusion.bridge_denoiser import BridgeDenoiser
from sfumato.diffusion.bridges import BRIDGES, DDBMVE, DDBMVP, I2SB, Bridged, Brownian
from sfumato.diffusion.exact import Gaussian
from sfumato.diffusion.guidance import Guided
from sfumato.diffusion.integrate import ddim, integrate
from sfumato.diffusion.process import VP, Cosine
from sfumato.diffusion.time_grids import grid

pytestmark = pytest.mark.usefixtures("shapes_unchecked")

FAMILIES = Brownian(), I2SB(), DDBMVP(), DDBMVE()
every = pytest.mark.parametrize("p", FAMILIES, ids=str)


def gathered(t):
    """The variance that I2SB gathers up to t, by Simpson's rule, exact for its beta on both sides of 1/2."""
    rate = lambda at: (0.1**0.5 + (0.3**0.5 - 0.1**0.5) * torch.minimum(at, 1 - at)) ** 2
    half = t.clamp(max=0.5)
    parts = (0 * t, half), (half, t)
    return sum((b - a) / 6 * (rate(a) + 4 * rate((a + b) / 2) + rate(b)) for a, b in parts)


def base(p, t):
    """(alpha, sigma) of the process that a family is, pinned to its end."""
    if isinstance(p, DDBMVP):
        return VP(beta_min=0.1, beta_max=2.1)(t)
    sigma = {Brownian: torch.sqrt, I2SB: lambda t: gathered(t).sqrt(), DDBMVE: lambda t: 80 * t}
    return torch.ones_like(t), sigma[type(p)](t)


def test_every_family_is_tested():
    assert {type(p) for p in FAMILIES} == set(BRIDGES.values())


@every
def test_coefficients_are_those_of_the_pinned_process(p):
    """A = (alpha_t/alpha_T) SNR_T/SNR_t, b = alpha_t (1 - SNR_T/SNR_t), c^2 = sigma_t^2 (1 - SNR_T/SNR_t)."""
    t = f64([0.0, 0.05, 0.3, 0.5, 0.8, 1.0])
    (alpha, sigma), (end, most) = base(p, t), base(p, f64(1.0))
    ratio = (end / most * sigma / alpha) ** 2
    want = alpha / end * ratio, alpha * (1 - ratio), sigma * (1 - ratio).clamp(min=0).sqrt()
    torch.testing.assert_close(p.coefficients(t), want, rtol=1e-7, atol=1e-7)
    torch.testing.assert_close([*p.coefficients(f64(1.0))], [*f64([1.0, 0.0, 0.0])], rtol=0, atol=0)


def test_coefficients_as_published():
    t = f64([0.1, 0.4, 0.9])
    r2 = gathered(t)
    q2 = gathered(f64(1.0)) - r2
    want = r2 / (r2 + q2), q2 / (r2 + q2), (r2 * q2 / (r2 + q2)).sqrt()
    torch.testing.assert_close(I2SB().coefficients(t), want, rtol=1e-7, atol=0)
    s = 1.0  # BBDM's
    want = t, 1 - t, (2 * s * (t - t**2)).sqrt()
    torch.testing.assert_close(Brownian(gamma=math.sqrt(2 * s)).coefficients(t), want)
    a, b, c = DDBMVE().coefficients(t)
    torch.testing.assert_close((a, b, c), (t**2, 1 - t**2, 80 * t * (1 - t**2).sqrt()))
    assert DDBMVE(gamma=0.5).coefficients(t)[2].equal(c / 2)


def toy(x_t, t):
    """A network of x_t and t alone, nothing in particular."""
    return torch.tanh(1.3 * x_t + t) - 0.4 * x_t.roll(1, -1)


def bridged(p, source, net=toy):
    f = lambda x_t, t: net(x_t, t)
    f.process = p
    return Bridged(f, source)


def ends(p, high=5.0, low=0.05):
    """Times at which c/b is this: families run at their own pace between them."""
    return [p.time(-2 * math.log(noise)).item() for noise in (high, low)]


def dbim(p, x_t, x_T, t, s, eta, z):
    """Zheng et al. 2024, eq. 12, with rho = eta sigma_s sqrt(1 - SNR_t/SNR_s) of the base process."""
    mean = toy(x_t, t)
    (a, b, c), (a_s, b_s, c_s) = p.coefficients(t), p.coefficients(s)
    (alpha_t, sigma_t), (alpha_s, sigma_s) = base(p, t), base(p, s)
    rho = eta * sigma_s * (1 - (alpha_t / sigma_t * sigma_s / alpha_s) ** 2).sqrt()
    eps = (x_t - a * x_T - b * mean) / c
    return a_s * x_T + b_s * mean + (c_s**2 - rho**2).sqrt() * eps + rho * z, rho


def i2sb(p, x_t, x_T, t, s, eta, z):
    """Liu et al. 2023, eq. 4: the product of the Gaussians around x_0 and x_t; the source is not in it."""
    before, step = gathered(s), gathered(t) - gathered(s)
    both = before + step
    mean = step / both * toy(x_t, t) + before / both * x_t
    return mean + (before * step / both).sqrt() * z, None


def bbdm(p, x_t, x_T, t, s, eta, z):
    """Li et al. 2023, algorithm 2: the network predicts x_t - x_0."""
    predicted = x_t - toy(x_t, t)
    delta, before = 2 * (t - t**2) * p.gamma**2 / 2, 2 * (s - s**2) * p.gamma**2 / 2
    step = delta - before * (1 - t) ** 2 / (1 - s) ** 2
    c_x = before / delta * (1 - t) / (1 - s) + step / delta * (1 - s)
    c_y = s - t * (1 - t) / (1 - s) * before / delta
    c_e = (1 - s) * step / delta
    return c_x * x_t + c_y * x_T - c_e * predicted + (step * before / delta).sqrt() * z, None


TRACES = [
    *((dbim, p, eta) for p in FAMILIES for eta in (0.0, 0.4, 1.0)),
    (i2sb, I2SB(), 1.0), (bbdm, Brownian(gamma=math.sqrt(2)), 1.0), (bbdm, Brownian(gamma=0.3), 1.0),
]  # fmt: skip


@pytest.mark.parametrize(("rule", "p", "eta"), TRACES, ids=lambda v: getattr(v, "__name__", repr(v)))
def test_published_update_rules(rule, p, eta, report):
    """Step by step from one state, with one network and one noise."""
    start, stop = ends(p)
    times, x_T = grid(p, 7, "time", start=start, stop=stop), normal(3, 2, seed=1)
    draws = [normal(3, 2, seed=10 + k) for k in range(7)]
    a, b, c = p.coefficients(times[0])
    x = a * x_T + b * normal(3, 2, seed=2) + c * normal(3, 2, seed=3)
    f, seen, noise = bridged(p, x_T), [], iter(draws)
    watch = f.shown(lambda t, x_t, mean, extras: seen.append(x_t))
    step = partial(ddim, eta=eta)
    y = integrate(step, f, x - a * x_T, times, noise=lambda like: next(noise), watch=watch)
    worst = 0.0
    seen = [*seen[1:], f.state(y, times[-1])]
    for (t, s), z, ours in zip(itertools.pairwise(times), draws, seen, strict=True):
        x, _ = rule(p, x, x_T, t, s, eta, z)
        worst = max(worst, (x - ours).abs().max().item())
    report(f"{rule.__name__}, eta {eta:g}, and ddim on (b, c) of {p}: difference", worst)
    assert worst < 1e-10


def test_the_deviation_of_a_step(report):
    p, x = DDBMVP(), normal(2, 2)
    (t, s), z = f64([0.9, 0.7]), torch.ones(2, 2).double()
    f = bridged(p, 0 * x)
    free, noisy = (
        integrate(partial(ddim, eta=1.0), f, x, torch.stack([t, s]), noise=lambda like, z=z: z)
        for z in (0 * z, z)
    )
    ours = (noisy - free)[0, 0].item()
    _, theirs = dbim(p, x, x, t, s, 1.0, x)
    report("deviation of a DBIM step, VP .9 to .7: ours, theirs", f"{ours:.11f}", f"{theirs.item():.11f}")
    assert ours == pytest.approx(0.45635968602, abs=1e-10)
    assert ours == pytest.approx(theirs.item(), abs=1e-12)


@every
def test_the_source_drops_out_of_a_markov_step(p, report):
    """x_s as a function of x_T, with x_t and what the network says held: its coefficient."""
    (t, s), x_t, found = ends(p, 2.0, 0.3), normal(4, 2), {}
    for eta in (0.0, 1.0):
        made = []
        for x_T in (torch.zeros(4, 2).double(), torch.ones(4, 2).double()):
            f, a = bridged(p, x_T, lambda x_t, t: 0 * x_t), p.coefficients(t)[0]
            y = integrate(partial(ddim, eta=eta), f, x_t - a * x_T, f64([t, s]), noise=torch.zeros_like)
            made.append(f.state(y, s))
        found[eta] = (made[1] - made[0]).abs().max().item()
    report(f"coefficient of x_T in a step of {p}: eta 0, 1", *found.values())
    assert found[1.0] < 1e-12
    assert found[0.0] > 1e-5


# ---- Gaussian pairs -----------------------------------------------------------------------------


MEAN, SPREAD = f64([0.4, -0.3]), f64([[0.6, 0.2], [0.2, 0.3]])
"""Of the target given its source, to which all pairs come down if the network sees the source."""
NS = (20, 40)


@every
def test_orders_on_gaussian_pairs(p, report):
    """The target given its source is Gaussian, so y's ODE has a closed form, for every family."""
    f, (start, stop) = Gaussian(MEAN, SPREAD, p), ends(p, 1.5, 0.3)
    x, found = p.perturb(normal(8, 2), start, normal(8, 2, seed=1)), {}
    want, times = f.flow(x, start, stop), [grid(p, n, "time", start=start, stop=stop) for n in NS]
    errors = {k: [(integrate(k, f, x, t) - want).abs().max() / p(stop)[0] for t in times] for k in ORDERS}
    found = {k: slope(NS, errors[k]) for k in ORDERS}
    report(f"error slopes on pairs, {p}", *(f"{k} {v:.2f}" for k, v in found.items()))
    for name in ORDERS.keys() - {"ab3"}:
        assert found[name] == pytest.approx(ORDERS[name], abs=0.3), name
    assert errors["ab3"][-1] < errors["ab2"][-1] / 5  # its last slope comes later


@every
@pytest.mark.parametrize("name", ["ancestral", "sde_dpm2m"])
def test_conditional_moments_converge(p, name, report):
    f, (start, stop), I, errors = Gaussian(MEAN, SPREAD, p), ends(p, 1.5, 0.3), torch.eye(2).double(), []
    (b0, c0), (b1, c1) = p(start), p(stop)
    for n in NS:
        times = grid(p, n, "time", start=start, stop=stop)
        mean, cov = affine(name, f, times, 2).moments(b0 * MEAN, b0**2 * SPREAD + c0**2 * I)
        errors.append(max((mean - b1 * MEAN).abs().max(), (cov - b1**2 * SPREAD - c1**2 * I).abs().max()))
    order = slope(NS, errors)
    report(f"{name} on pairs, {p}: error at N=40, weak order", errors[-1].item(), order)
    assert order == pytest.approx(2 if name == "sde_dpm2m" else 1, abs=0.15)


@pytest.mark.parametrize("name", ["ancestral", "ab3"])
def test_on_one_grid_of_log_snr_every_process_takes_the_same_steps(name):
    found = []
    for p in (Cosine(), *FAMILIES):
        times = p.time(torch.linspace(-4, 6, 7, dtype=torch.float64))
        (b, c), (end, _) = p(times[0]), p(times[-1])
        f, start = Gaussian(MEAN, SPREAD, p), b * MEAN + c * normal(3, 2)
        y = integrate(name, f, start, times, noise=lambda like: normal(3, 2, seed=1))
        found.append(y / end)
    for y in found[1:]:
        torch.testing.assert_close(y, found[0], rtol=0, atol=1e-9)


def test_the_first_figures(report):
    """The variance of the target given its source, 1 - .6^2/.8, after N even steps of DBIM."""
    p, known = DDBMVP(), {5: 0.256, 10: 0.160, 20: 0.093, 40: 0.052, 80: 0.028}
    f = Gaussian(f64([0.3]), f64([1 - 0.6**2 / 0.8]), p)
    for n, error in known.items():
        times = torch.linspace(1, 0, n + 1, dtype=torch.float64).clamp(max=p.t_max)
        start = p(p.t_max)[1].square()[None, None]
        mean, var = affine(partial(ddim, eta=1.0), f, times, 1).moments(f64([0.0]), start)
        report(f"DBIM eta 1, N={n}: error of mean, variance", (mean - 0.3).item(), (0.55 - var).item())
        assert (0.55 - var).item() == pytest.approx(error, abs=5e-4)
        assert mean.item() == pytest.approx(0.3, abs=2e-4)


def markov(p, n, s0, s1, joint):
    """The affine law of the Markov variant from N(0, s1) to N(0, s0), by the exact E[x_0 | x_t]."""

    def net(x_t, t):
        a, b, c = p.coefficients(t)
        return (a * joint + b * s0) / (a**2 * s1 + b**2 * s0 + 2 * a * b * joint + c**2) * x_t

    times, noise = grid(p, n, "log_snr", clean=True), Impulses(1, n)
    source = noise.start()
    start = p(times[0])[1] * noise(source)
    return Affine(integrate("ancestral", bridged(p, source, net), start, times, noise=noise), 1)


@pytest.mark.parametrize(
    ("s0", "s1", "gamma2", "want"), [(1, 16, 1, 3.334), (1, 4, 0.2, 1.8534), (1, 16, 10, 1.2599)]
)
def test_the_markov_variant_of_an_independent_coupling(s0, s1, gamma2, want, report):
    """It keeps the ends' laws and makes the coupling of one Markov projection, DSBM's first."""
    p, found = Brownian(gamma=math.sqrt(gamma2)), {}
    for n in (48, 96, 192):
        law = markov(p, n, s0, s1, 0)
        (_, var), cov = law.moments(f64([0.0]), f64([[s1]])), law.A.item() * s1
        found[n] = (var.item() - s0, cov)
    late = 2 * found[192][1] - found[96][1]  # Richardson's, of order 1
    report(f"Markov bridge, noise {gamma2}: covariance, wanted, error of variance", late, want, found[192][0])
    assert late == pytest.approx(want, rel=3e-3)
    assert slope(found, [abs(v) for v, _ in found.values()]) == pytest.approx(1, abs=0.2)


@every
def test_the_markov_variant_of_coupled_pairs_keeps_the_target(p):
    """With less noise than ddbm-ve's, in which the source is lost."""
    p = type(p)(gamma=0.02) if isinstance(p, DDBMVE) else p
    _, var = markov(p, 200, 0.8, 1.0, 0.6).moments(f64([0.0]), f64([[1.0]]))
    assert var.item() == pytest.approx(0.8, abs=0.05)


def test_guidance_works_on_bridges():
    """A quadratic energy on the target makes a product of Gaussians, by the mean of y's denoiser."""
    p = Brownian()
    f = Gaussian(f64([0.4]), f64([0.5]), p)
    t, (b, c) = 0.5, p(0.5)
    push = lambda y, t: (y / b).square().flatten(1).sum(1)
    y = normal(4, 1)
    torch.testing.assert_close(Guided(f, push)(y, t), f(y, t) - c**2 / b * 2 * y / b**2)


# ---- the network --------------------------------------------------------------------------------


class Says(nn.Module):
    """Answers always this."""

    def __init__(self, answer):
        super().__init__()
        self.answer = answer

    def forward(self, x, log_noise, label):
        return self.answer


class Ask(nn.Module):
    """Keeps what it is asked, and answers 0."""

    def forward(self, x, log_noise, label):
        self.x, self.noise = x, log_noise
        return 0 * x[:, :1]


@every
def test_what_the_network_takes_and_learns_has_unit_variance(p, report):
    f, n, r = BridgeDenoiser(net=Ask(), process=p), 40_000, 0.5
    x, z = normal(n, 1, 1, 1) / 2, normal(n, 1, 1, 1, seed=1)
    source = r * x + math.sqrt(1 - r**2) / 2 * normal(n, 1, 1, 1, seed=2)
    for t in (p.t_min, *ends(p, 3.0, 0.1), p.t_max):
        learned = f.loss(x, source, f64([t]).expand(n), z, image=source)
        report(f"{p} at {t:.2g}: variance in, out", f.net.x[:, 0].var().item(), learned.item())
        assert f.net.x[:, 0].var().item() == pytest.approx(1, abs=0.04)
        assert torch.equal(f.net.x[:, 1:], source)
        assert learned.item() == pytest.approx(1, abs=0.04)
        torch.testing.assert_close(f.net.noise[0], -p.log_snr(t) / 2, rtol=0, atol=1e-6)


def test_loss_and_answer_are_one_denoiser():
    """A network that answered the target of its loss would make x."""
    t, p, (x, source, z) = 0.3, DDBMVP(), (normal(4, 1, 1, 1, seed=k) for k in range(3))
    a, b, c = p.coefficients(t)
    x_t = a * source + b * x + c * z
    zero, one = (BridgeDenoiser(net=Says(v), process=p)(x_t, t) for v in (0 * x, torch.ones_like(x)))
    f = BridgeDenoiser(net=Says((x - zero) / (one - zero)), process=p)
    torch.testing.assert_close(f(x_t, t), x)
    assert f.loss(x, source, f64([t]).expand(4), z).item() < 1e-20


@pytest.mark.parametrize(
    ("run", "says"),
    [
        (lambda: Brownian(gamma=0.0), r"gamma must be in \[0.001, 1000\], not 0"),
        (lambda: bridged(VP(), normal(2, 2)), "process must be a BridgeProcess, not"),
        (lambda: bridged(Brownian(), normal(2, 2))(normal(3, 2), 0.5), r"source of a bridge is .*\(3, 2\)"),
    ],
)  # fmt: skip
def test_refusals(run, says):
    with pytest.raises(UserError, match=says):
        run()
