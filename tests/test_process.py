"""Processes: alpha and sigma against their formulas and tables, the inverse, and the SDE."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from truth import f64

from sfumato.core.errors import UserError
from sfumato.diffusion.bridges import BRIDGES, BridgeProcess
from sfumato.diffusion.checks import as_times
from sfumato.diffusion.process import DDPM, IDDPM, PROCESSES, VE, VP, Chain, Cosine, Flow

OTHERS = DDPM(steps=250), IDDPM(steps=4000), VP(beta_min=0.5, beta_max=8.0)
ALL = [*(cls() for cls in (*PROCESSES.values(), *BRIDGES.values())), *OTHERS]
ids = [str(p) for p in ALL]
every = pytest.mark.parametrize("p", ALL, ids=ids)
share = st.floats(0, 1)


def times(p, n=200):
    return torch.linspace(p.t_min, p.t_max, n, dtype=torch.float64)


def test_vp_values(report):
    p = VP()
    (a1, _), (_, s_min) = p(f64(1.0)), p(f64(1e-3))
    report("VP a(1), s(1e-3)", a1.item(), s_min.item())
    assert a1.item() == pytest.approx(0.0065716, rel=1e-5)
    assert s_min.item() == pytest.approx(0.010485, rel=5e-5)
    assert p(f64(1e-5))[1].item() == pytest.approx(0.0010005, rel=5e-5)


def test_vp_beta_integrates_numerically():
    p, t = VP(), torch.linspace(0, 0.7, 100_001, dtype=torch.float64)
    beta = p.beta_min + t * (p.beta_max - p.beta_min)
    assert -2 * p(t[-1])[0].log().item() == pytest.approx(torch.trapezoid(beta, t).item(), rel=1e-9)


def test_ddpm_table(report):
    """Level k holds the 0-based entry k - 1 of the table of alpha-bars; level 0 is clean."""
    p = DDPM()
    levels = f64([1, 500, 600, 1000])
    bars = p(levels / 1000)[0].square()
    report("DDPM ab_0, ab_499, ab_599, ab_999", *bars.tolist())
    torch.testing.assert_close(
        bars, f64([0.9999, 0.078587, 0.025879, 4.0358e-5]), rtol=2e-5, atol=0
    )
    betas = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
    every = p(torch.arange(1, 1001, dtype=torch.float64) / 1000)[0].square()
    torch.testing.assert_close(every, (1 - betas).cumprod(0), rtol=1e-11, atol=0)


def test_ddpm_betas_scale_with_the_number_of_levels():
    bars = DDPM(steps=4000)(torch.arange(1, 4001, dtype=torch.float64) / 4000)[0].square()
    betas = torch.linspace(0.25e-4, 0.25 * 0.02, 4000, dtype=torch.float64)
    torch.testing.assert_close(bars, (1 - betas).cumprod(0), rtol=1e-10, atol=0)


def test_iddpm_table(report):
    """alpha^2 is the squared cosine until betas are cut at 0.999."""
    for T in (1000, 4000):
        k = torch.arange(T + 1, dtype=torch.float64)
        squares = ((k / T + 0.008) / 1.008 * torch.pi / 2).cos() ** 2
        bars = IDDPM(steps=T)(k / T)[0].square()
        uncut = squares / squares[0]
        torch.testing.assert_close(bars[:-2], uncut[:-2], rtol=1e-9, atol=0)
        assert bars[-1].item() == pytest.approx(0.001 * bars[-2].item(), rel=1e-9)
        p = IDDPM(steps=T)
        ends = (-p.log_snr(f64([p.t_min, p.t_max])) / 2).exp()
        report(f"IDDPM({T}) sigma/alpha at t_min, t_max", *ends.tolist())


def test_others_are_their_formulas():
    t = f64([0.1, 0.25, 0.5])
    torch.testing.assert_close(Cosine()(t)[0], (torch.pi * t / 2).cos())
    torch.testing.assert_close(Flow()(t), (1 - t, t))
    torch.testing.assert_close(VE()(f64([0.5, 1.0]))[1], f64([(0.005 * 80) ** 0.5, 80]))


@every
def test_level_zero_is_clean_and_noise_grows(p):
    alpha, sigma = p(f64(0.0))
    assert alpha == 1
    assert sigma == 0
    assert (p.log_snr(times(p)).diff() < 0).all()
    assert (p(times(p))[1].diff() > 0).all() or isinstance(p, VP | Chain | BridgeProcess)  # VP's saturates


@pytest.mark.parametrize("p", [p for p in ALL if isinstance(p, VP | Chain | Cosine)], ids=str)
def test_variance_preserving(p):
    alpha, sigma = p(torch.linspace(0, 1, 1001, dtype=torch.float64))
    torch.testing.assert_close(alpha**2 + sigma**2, torch.ones_like(alpha), rtol=0, atol=1e-14)


@every
@given(u=share)
def test_time_inverts_log_snr(p, u):
    t = f64(p.t_min + u * (p.t_max - p.t_min))
    assert p.time(p.log_snr(t)).item() == pytest.approx(t.item(), abs=1e-9)


@every
@given(u=share, v=share)
def test_log_snr_inverts_time_and_is_monotone(p, u, v):
    low, high = p.log_snr(f64([p.t_max, p.t_min]))
    l = low + (high - low) * f64([u, v])
    t = p.time(l)
    torch.testing.assert_close(p.log_snr(t), l, rtol=0, atol=1e-7)
    assert (l[0] < l[1] - 1e-9) <= (t[0] > t[1])  # but for rounding


def test_sde_of_vp_is_beta():
    p, t = VP(), times(VP())
    f, g2 = p.sde(t)
    beta = p.beta_min + t * (p.beta_max - p.beta_min)
    torch.testing.assert_close(f, -beta / 2, rtol=1e-10, atol=0)
    torch.testing.assert_close(g2, beta, rtol=1e-8, atol=0)


@every
def test_sde_carries_the_marginals(p):
    """d alpha/dt = f alpha and d sigma^2/dt = 2 f sigma^2 + g^2, by central differences."""
    t, h = times(p, 41)[1:-1] + 1e-5 / 3, 1e-6  # off the knots of the DDPM table
    f, g2 = p.sde(t)
    (a0, s0), (a, s), (a1, s1) = p(t - h), p(t), p(t + h)
    torch.testing.assert_close((a1 - a0) / (2 * h), f * a, rtol=1e-5, atol=1e-7)
    torch.testing.assert_close((s1**2 - s0**2) / (2 * h), 2 * f * s**2 + g2, rtol=1e-5, atol=1e-7)


def test_one_time_or_one_per_image():
    p, x = Flow(), torch.ones(2, 3, 4, 4)
    z = torch.full_like(x, 2.0)
    assert torch.equal(p.perturb(x, 0.25, z), torch.full_like(x, 1.25))
    both = p.perturb(x, f64([0.25, 0.5]), z)
    assert both.dtype == torch.float32
    assert torch.equal(both[:, 0, 0, 0], torch.tensor([1.25, 1.5]))


@pytest.mark.parametrize("t", [-0.1, 1.1, float("nan"), float("inf"), "a", None, [0.5, 2.0]], ids=str)
def test_times_that_are_none_are_refused(t):
    with pytest.raises(UserError, match=r"times must be (in \[0, 1\]|numbers)"):
        as_times(t)


@every
def test_every_door_of_a_process_sees_its_times(p):
    x = torch.ones(2, 3)
    assert p(0.5)[0] == p(f64(0.5))[0]
    assert 0 <= p(f64(1 + 1e-7))[0] < 1.1  # beyond by the rounding of float32
    perturb, at, seen = (lambda t: p.perturb(x, t, x)), (lambda t: p.at(t, x)), (lambda t: p.seen(t, x))
    for ask in (p, p.log_snr, p.sde, perturb, at, seen):
        with pytest.raises(UserError, match=r"times must be in \[0, 1\].* not 2"):
            ask(f64(2.0))


@pytest.mark.parametrize(
    ("kind", "fields", "says"),
    [
        (DDPM, {"steps": 10}, r"betas of a chain of 10 reach 2.*grid\(DDPM\(\), 10\)"),
        (DDPM, {"steps": 0}, "steps must be at least 1, not 0"),
        (DDPM, {"beta_end": 2.0}, "betas of a chain of 1000 reach 2"),
        (VE, {"sigma_min": 0.0}, "sigma_min must be above 0"),
        (VE, {"sigma_min": 100.0}, "sigma_min must be below sigma_max"),
        (VP, {"t_min": 0.0}, r"t_min must be in \(0, 1\]"),
        (Cosine, {"t_min": 0.9, "t_max": 0.1}, "t_min must be below t_max, not 0.9 and 0.1"),
        (Flow, {"t_max": 1.0}, r"t_max must be in \[0, 1\)"),
    ],
)  # fmt: skip
def test_a_process_whose_noise_does_not_grow_is_refused(kind, fields, says):
    with pytest.raises(UserError, match=says):
        kind(**fields)


def test_what_a_process_perturbs_is_a_batch_and_noise_of_its_shape():
    p, x = Cosine(), torch.ones(2, 3)
    for z in (torch.ones(1), torch.ones(2, 3).int()):
        with pytest.raises(UserError, match=r"z, the noise of x, is .*expected a tensor of floats of shape"):
            p.perturb(x, 0.5, z)
    with pytest.raises(UserError, match="one for each of 2, not 3"):
        p.perturb(x, f64([0.1, 0.2, 0.3]), x)
    with pytest.raises(UserError, match=r"of floats, not a Tensor of shape \(2, 3\) of torch.int64: x.float"):
        p.at(0.5, x.long())
