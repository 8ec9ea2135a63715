"""CycleDiffusion: the source back in its own domain, Gaussians exactly, and its published update rule."""

import math
from itertools import pairwise

import pytest
import torch
from truth import Affine, Impulses, f64, gaussian, normal, slope

from sfumato.core.errors import UserError
from sfumato.diffusion.integrate import integrate
from sfumato.diffusion.process import DDPM, VP, Cosine
from sfumato.diffusion.time_grids import grid
from sfumato.methods.cycle_diffusion import CycleDiffusion, Replay

pytestmark = pytest.mark.usefixtures("shapes_unchecked")

BETAS = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
BARS = torch.cat([f64([1.0]), (1 - BETAS).cumprod(0)])
M, N = gaussian([0.3], [0.5], DDPM()), gaussian([-0.6], [1.1], DDPM())


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("process", [DDPM(), Cosine()], ids=str)
def test_its_own_domain_gives_the_source_back(process, eta, report):
    f, x = gaussian([1.0, -0.5], [[0.5, 0.2], [0.2, 0.9]], process), normal(6, 2)
    worst = 0.0
    for strength, steps in ((1.0, 7), (0.4, 3)):
        y = CycleDiffusion(source=f, target=f).translate(x, steps=steps, strength=strength, eta=eta)
        worst = max(worst, (y - x).abs().max().item())
    report(f"CycleDiffusion in its own domain, eta {eta:g}: error", worst)
    assert worst < 1e-10


def law(steps):
    """Mean, variance and correlation with the source between the two Gaussians, exactly."""
    noise, times = Impulses(1, steps + 1), grid(DDPM(), steps, "chain", clean=True)
    source = noise.start()
    x = DDPM().perturb(source, times[0], noise(source))
    a = Affine(integrate(Replay(M, source, x, 1.0), N, x, times, noise=noise), 1)
    mean, var = a.moments(f64([0.3]), f64([[0.5]]))
    return mean.item(), var.item(), (a.A * 0.5 / (0.5 * var).sqrt()).item()


def coefficients(steps):
    """The same from the chain's formulas (Ho et al. 2020, eqs. 6-7): y as its coefficients of x_0, 1, z."""
    levels = [1000, *(grid(DDPM(), steps, "chain", clean=True)[1:] * 1000).round().long().tolist()]

    def mu(x, x0, now, then):  # linear in vectors of coefficients
        ab, before = BARS[now], BARS[then]
        beta = 1 - ab / before
        return (before.sqrt() * beta * x0 + (ab / before).sqrt() * (1 - before) * x) / (1 - ab)

    def mean(x, now, m, v):
        ab = BARS[now]
        one = torch.zeros_like(x).index_fill(0, torch.tensor(1), 1.0)
        return m * one + ab.sqrt() * v / (ab * v + 1 - ab) * (x - ab.sqrt() * m * one)

    e = torch.eye(steps + 2, dtype=torch.float64)  # x_0, 1, z_T, z_.. of the path
    x = y = BARS[1000].sqrt() * e[0] + (1 - BARS[1000]).sqrt() * e[2]
    for k, (now, then) in enumerate(pairwise(levels)):
        var = (1 - BARS[now] / BARS[then]) * (1 - BARS[then]) / (1 - BARS[now])
        path = mu(x, e[0], now, then) + (var.sqrt() * e[3 + k] if then else 0)
        if then:
            z = (path - mu(x, mean(x, now, 0.3, 0.5), now, then)) / var.sqrt()
            y = mu(y, mean(y, now, -0.6, 1.1), now, then) + var.sqrt() * z
        else:  # no noise is left: the rest is the difference of the means
            y = path + mean(y, now, -0.6, 1.1) - mean(x, now, 0.3, 0.5)
        x = path
    var = 0.5 * y[0] ** 2 + (y[2:] ** 2).sum()
    return (0.3 * y[0] + y[1]).item(), var.item(), (y[0] * 0.5 / (0.5 * var).sqrt()).item()


def test_between_gaussians(report):
    """N(.3, .5) to N(-.6, 1.1): means at once, the variance by order 1; nearly a monotone map."""
    found = {n: law(n) for n in (25, 50, 100)}
    for n, numbers in found.items():
        report(f"CycleDiffusion between Gaussians, {n} steps: mean, variance, correlation", *numbers)
    assert found[50] == pytest.approx(coefficients(50), abs=1e-9)
    assert found[50] == pytest.approx((-0.600, 1.0656, 0.9738), abs=1e-3)
    assert slope(found, [1.1 - var for _, var, _ in found.values()]) == pytest.approx(1, abs=0.15)


def toy(x, t, shift):
    """A network that predicts noise, of nothing in particular."""
    return torch.tanh(0.7 * x + shift * t) + 0.1 * x.roll(1, -1)


@pytest.mark.parametrize("eta", [0.1, 1.0])
def test_published_update_rule(eta, report):
    """Algorithm 1 of the paper with DDIM's steps (Song et al. 2021, eq. 12), down to where noise is left."""
    levels, x0 = [800, 600, 450, 300, 100, 20], normal(3, 2)
    draws = [normal(3, 2, seed=5 + k) for k in range(len(levels))]

    def denoiser(shift):
        def f(x, t):
            alpha, sigma = DDPM()(t)
            return (x - sigma * toy(x, t, shift)) / alpha

        f.process = DDPM()
        return f

    def ddim_mean(x, eps, now, then, std):
        clean = (x - (1 - BARS[now]).sqrt() * eps) / BARS[now].sqrt()
        return BARS[then].sqrt() * clean + (1 - BARS[then] - std**2).sqrt() * eps

    x = y = BARS[800].sqrt() * x0 + (1 - BARS[800]).sqrt() * draws[0]
    seen, noise, theirs = [], iter(draws[1:]), [y]
    times = f64(levels) / 1000
    watch = lambda t, y_t, mean, extras: seen.append((y_t, extras["nfe"]))
    step = Replay(denoiser(0.5), x0, x, eta)
    last = integrate(step, denoiser(-1.0), x, times, noise=lambda like: next(noise), watch=watch)
    for (now, then), fresh in zip(pairwise(levels), draws[1:], strict=True):
        std = eta * math.sqrt((1 - BARS[then]) / (1 - BARS[now])) * (1 - BARS[now] / BARS[then]).sqrt()
        true = (x - BARS[now].sqrt() * x0) / (1 - BARS[now]).sqrt()
        below = ddim_mean(x, true, now, then, std) + std * fresh  # q(x_s | x_t, x_0)
        z = (below - ddim_mean(x, toy(x, now / 1000, 0.5), now, then, std)) / std
        y = ddim_mean(y, toy(y, now / 1000, -1.0), now, then, std) + std * z
        x = below
        theirs.append(y)
    ours = [*(y for y, _ in seen), last]
    worst = max((a - b).abs().max().item() for a, b in zip(ours, theirs, strict=True))
    report(f"CycleDiffusion's published rule, eta {eta:g}: difference", worst)
    assert worst < 1e-10
    assert [nfe for _, nfe in seen] == [2] * 5


def test_strength_and_one_process():
    x, f = normal(2, 1), CycleDiffusion(source=M, target=N)
    assert f.translate(x, strength=0.0) is x
    near, far = ((f.translate(x, strength=s, steps=5) - x).abs().max() for s in (0.2, 1.0))
    assert near < far
    other = CycleDiffusion(source=gaussian([0.0], [1.0], VP()), target=N)
    with pytest.raises(UserError, match=r"both domains need one process, and they have VP\(.*DDPM\(.*ddib"):
        other.translate(x)
