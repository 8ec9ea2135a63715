"""Energies of a classifier on the sample and on the mean, and the third energies, against closed forms."""

import pytest
import torch
from torch.nn import functional as F
from truth import f64, gaussian, normal

from sfumato.diffusion.energies import (
    ENERGIES,
    Reference,
    by_variance,
    edges,
    high_pass_distance,
    low_pass_distance,
    named,
    similarity,
)
from sfumato.diffusion.exact import Mixture
from sfumato.diffusion.guidance import Energy, Guided
from sfumato.diffusion.integrate import integrate
from sfumato.diffusion.low_pass import LowPass
from sfumato.diffusion.noise import Noise
from sfumato.diffusion.process import DDPM, VE, VP, Cosine, Flow
from sfumato.diffusion.realism import ON_MEAN, odds_against, on_mean, realism

PROCESSES = pytest.mark.parametrize("process", [VP(), DDPM(), Cosine(), VE(), Flow()], ids=str)
SHAPE = (4, 3, 8, 8)


def gradient(energy, y, t):
    y = y.clone().requires_grad_()
    return torch.autograd.grad(energy(y, t).sum(), y)[0]


def slopes(function, y, x, t, places, h=1e-6):
    """Central differences of function(y, x, t) of the first image, at some pixels."""
    out = []
    for place in places:
        step = torch.zeros_like(y)
        step[(0, *place)] = h
        out.append(((function(y + step, x, t) - function(y - step, x, t))[0] / (2 * h)).item())
    return out


@PROCESSES
def test_high_pass_distance(process):
    """Gradient 2 (1 - phi)^2 (y - x) in variance-preserving coordinates; with box, low + high = all."""
    x, y, t = normal(*SHAPE, seed=1), normal(*SHAPE), f64(0.6)
    alpha, sigma = process.at(t, y)
    phi, d = LowPass(4, "cubic"), (y - x) / (alpha**2 + sigma**2)
    got = gradient(lambda v, t: high_pass_distance(phi, process)(v, x, t), y, t)
    torch.testing.assert_close(got, 2 * (d - 2 * phi(d) + phi(phi(d))), rtol=1e-10, atol=1e-12)
    box = LowPass(4, "box")
    parts = [f(box, process)(y, x, t) for f in (low_pass_distance, high_pass_distance)]
    torch.testing.assert_close(sum(parts), ((y - x) * d).flatten(1).sum(1))


@pytest.mark.parametrize("name", ENERGIES)
def test_slopes_of_the_third_energies(name, report):
    function = named(name, LowPass(2, "linear"), Cosine())
    y, x, t = normal(*SHAPE), normal(*SHAPE, seed=1), f64(0.4)
    places = [(0, 0, 0), (1, 3, 7), (2, 7, 2)]
    got = gradient(lambda v, t: function(v, x, t), y, t)
    want = slopes(function, y, x, t, places)
    report(
        f"{name}: slopes, and by finite differences", *[got[(0, *p)].item() for p in places], *want
    )
    assert [got[(0, *p)].item() for p in places] == pytest.approx(want, rel=1e-6)


def test_names_of_energies():
    phi, y, x = LowPass(2), normal(*SHAPE), normal(*SHAPE, seed=1)
    for process in (Cosine(), VE(), Flow()):
        alpha, sigma = process.at(f64(0.6), y)
        got = named("edges", phi, process)(y, x, f64(0.6))
        torch.testing.assert_close(got, edges(VP())(y, x, f64(0.6)) / (alpha**2 + sigma**2))
    assert named(own := (lambda y, x, t: y), phi, Cosine()) is own
    with pytest.raises(ValueError, match="unknown energy 'edge': did you mean 'edges'"):
        named("edge", phi, Cosine())


class Two:
    """The exact classifier of N(-1, 1) against N(1, 1) at no noise: log-odds 2 x."""

    domains, process = ("low", "high"), Cosine()

    def __call__(self, x, t):
        m = x.flatten(1).sum(1)
        return torch.stack([-m, m], dim=1)

    def features(self, x, t):
        return x


def test_odds_do_not_fade_where_the_classifier_is_sure():
    x = f64([-30.0, 0.0, 2.0, 30.0]).reshape(4, 1, 1, 1)
    for domain, sign in ((0, 1), (1, -1)):
        energy = odds_against(Two(), domain)
        torch.testing.assert_close(energy(x, x, 0.5), sign * 2 * x.flatten())
        got = gradient(lambda v, t, e=energy: e(v, x, t), x, 0.5)
        torch.testing.assert_close(got, torch.full_like(x, 2.0 * sign))
    fading = gradient(lambda v, t: -F.log_softmax(Two()(v, t), 1)[:, 1], x, 0.5).flatten()
    assert fading[-1].abs() < 1e-20 < 1 < fading[0].abs()


def test_odds_among_many():
    logits = normal(5, 4)

    class Four:
        domains = tuple("ABCD")

        def __call__(self, x, t):
            return logits

    energy = odds_against(Four(), 2)
    p = logits.softmax(1)[:, 2]
    torch.testing.assert_close(energy(logits, logits, 0.5), ((1 - p) / p).log())


@PROCESSES
def test_guidance_on_the_mean(process):
    """E = |m - c|^2 of the mean m: m - sigma^2 / alpha 2 (m - c) / sqrt(alpha^2 + sigma^2)."""
    f, x, c = gaussian([0.3] * 3, [0.5] * 3, process), normal(4, 3), normal(3, seed=1)
    t = process.time(DDPM().log_snr(f64(0.4)))
    alpha, sigma = process.at(t, x)
    m = f(x, t)
    got = Guided(f, lambda v, t: (v - c).square().sum(1), on="mean")(x, t)
    want = m - sigma**2 / alpha * 2 * (m - c) / (alpha**2 + sigma**2).sqrt()
    torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-12)
    with pytest.raises(ValueError, match="unknown on 'means': did you mean 'mean'"):
        Guided(f, lambda v, t: v.sum(1), on="means")


def test_both_get_the_same_noise_of_one_level():
    seen = []

    def function(y, x, t):
        alpha, sigma = Cosine().at(t, y)
        seen.append((y - x, alpha, sigma / alpha))
        return (y - x).flatten(1).sum(1)

    source, mean = normal(*SHAPE), normal(*SHAPE, seed=1)
    energy = on_mean(function, Reference(Cosine(), source, Noise.of(source, 0)))
    energy(mean, f64(0.9))
    difference, alpha, level = seen[0]
    torch.testing.assert_close(difference, alpha * (mean - source))
    assert level.item() == pytest.approx(ON_MEAN, rel=1e-6)


def test_the_kinds_of_realism():
    source, y, t = normal(*SHAPE), normal(*SHAPE, seed=1), f64(0.5)
    reference, target = (
        Reference(Cosine(), source, Noise.of(source, 0)),
        gaussian([0.0], [1.0], Cosine()),
    )
    cosine = realism(Two(), target, reference)
    torch.testing.assert_close(cosine(y, t), similarity(Two().features)(y, reference(t), t))
    target.domain = "high"
    odds = realism(Two(), target, reference, "logits")
    torch.testing.assert_close(odds(y, t), -2 * y.flatten(1).sum(1))
    assert realism(Two(), target, reference, "logits", "mean")(y, t).shape == (4,)
    for options, message in (
        ((None, target, reference), "realism needs --classifier FOLDER"),
        ((Two(), target, reference, "logit"), "unknown similarity 'logit': did you mean 'logits'"),
        ((Two(), gaussian([0.0], [1.0], Cosine()), reference, "logits"), "needs a domain to go to"),
    ):
        with pytest.raises(ValueError, match=message):
            realism(*options)


@PROCESSES
def test_a_step_adds_its_variance_times_the_gradient(process, report):
    """Dhariwal & Nichol's weight: mean + Sigma grad log p, Sigma the posterior's variance."""
    f = Mixture(f64([[-1.0], [1.5]]), f64([[[0.05]], [[0.2]]]), f64([0.3, 0.7]), process)
    energy = Energy(lambda v, t: (3 * v).sin().sum(1))
    times = torch.stack([process.time(DDPM().log_snr(f64(m))) for m in (0.5, 0.3)])
    y, still = normal(6, 1), lambda like: torch.zeros_like(like)
    plain = integrate("ancestral", f, y, times, noise=still)
    weighted = by_variance(energy, process, times)
    got = integrate("ancestral", Guided(f, weighted), y, times, noise=still) - plain
    spread = integrate("ancestral", f, y, times, noise=lambda like: torch.ones_like(like)) - plain
    want = -(spread**2) * gradient(energy, y, times[0])
    worst = ((got - want).abs().max() / want.abs().max()).item()
    report(f"one step against variance times gradient, {process}", worst)
    assert worst < 1e-8
    last = torch.cat([times, f64([0.0])])
    assert by_variance(energy, process, last)(y, last[1]).abs().max() == 0  # to clean: none
