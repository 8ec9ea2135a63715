"""Guidance: wrappers give the denoisers of the densities that they claim to give."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from truth import f64, gaussian, lively, normal, tiny_denoiser

from sfumato.core.errors import UserError
from sfumato.diffusion.denoiser import Denoiser, score_of
from sfumato.diffusion.exact import Mixture
from sfumato.diffusion.guidance import ClassifierFree, Clipped, Conditioned, Energy, Guided
from sfumato.diffusion.integrate import integrate
from sfumato.diffusion.process import DDPM, VP, Cosine, Flow
from sfumato.diffusion.time_grids import grid
from sfumato.methods.registry import find

M, C = [1.0, -2.0, 0.5], [0.3, 2.0, 1.0]


@pytest.mark.parametrize("process", [VP(), Cosine(), Flow()], ids=str)
def test_a_quadratic_energy_makes_a_product_of_experts(process):
    """p_t exp(-l/2 |x - b|^2) of a Gaussian p_t: scores add, and the product is Gaussian again."""
    f, weight, b = gaussian(M, C, process), 2.0, torch.ones(3).double()
    guided = Guided(f, lambda x, t: 0.5 * weight * (x - b).square().sum(-1))
    x = normal(5, 3)
    for t in (0.1, 0.4, f64([0.2, 0.4, 0.6, 0.8, 0.9])):
        alpha, sigma = process.at(t, x)
        mean, var = alpha * f64(M), alpha**2 * f64(C) + sigma**2
        precision = 1 / var + weight
        centre = (mean / var + weight * b) / precision
        got = score_of(guided(x, t), x, alpha, sigma)
        torch.testing.assert_close(got, -precision * (x - centre), rtol=1e-9, atol=1e-9)


def test_classifier_guidance_at_scale_one_is_the_class():
    """score + grad log p_t(c | x) is the score of class c."""
    means, covs = normal(2, 3), torch.eye(3).double().expand(2, 3, 3) * 0.3
    f = Mixture(means, covs, process=Cosine(), domains=("a", "b"))
    guided = Guided(f, lambda x, t: -f.responsibilities(x, t)[:, 1].log())
    x = normal(5, 3, seed=1)
    torch.testing.assert_close(guided(x, 0.5), f(x, 0.5, domain="b"), rtol=1e-8, atol=1e-9)


def test_the_weight_of_an_energy_in_one_ancestral_step():
    """On the DDPM chain x_s shifts by beta / sqrt(1 - beta) grad E, the published EGSDE weight."""
    chain, betas = DDPM(), torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
    f, x, gradient = gaussian(M, C, chain), normal(4, 3), normal(3, seed=2)
    guided = Guided(f, lambda y, t: y @ gradient)
    none = lambda like: torch.zeros_like(like)
    for level in (2, 3, 500, 999, 1000):
        times = f64([level, level - 1]) / 1000
        plain, moved = (integrate("ancestral", g, x, times, noise=none) for g in (f, guided))
        beta = betas[level - 1]
        want = (-beta / (1 - beta).sqrt() * gradient).expand(4, 3)
        torch.testing.assert_close(moved - plain, want, rtol=1e-7, atol=1e-10)


def test_guidance_leaves_no_graph_and_works_without_grad():
    f = gaussian(M, C, Cosine())
    guided = Guided(f, lambda x, t: x.square().sum(-1))
    with torch.no_grad():
        assert not guided(normal(2, 3), 0.5).requires_grad


@given(st.floats(-3, 3), st.floats(-3, 3))
def test_energies_add_and_scale(a, b):
    one, two = Energy(lambda x, t: x.sum(-1)), Energy(lambda x, t: t * x.square().sum(-1))
    x, t = normal(4, 3), f64(0.3)
    torch.testing.assert_close((a * one + b * two)(x, t), a * one(x, t) + b * two(x, t))
    f = gaussian(M, C, Cosine())
    shift = lambda e: Guided(f, e)(x, t) - f(x, t)
    want = a * shift(one) + b * shift(two)
    torch.testing.assert_close(shift(a * one + b * two), want, rtol=1e-7, atol=1e-8)


def test_classifier_free_extrapolates():
    f, g, x = gaussian(M, C, VP()), gaussian([0.0] * 3, [1.0] * 3, VP()), normal(4, 3)
    got = ClassifierFree(f, g, 1.5)(x, 0.3)
    torch.testing.assert_close(got, 2.5 * f(x, 0.3) - 1.5 * g(x, 0.3))
    assert torch.equal(ClassifierFree(f, g, 0.0)(x, 0.3), f(x, 0.3))


def test_clipped():
    f = Clipped(gaussian([3.0, 0.2, -3.0], [0.01] * 3, VP()))
    mean = f(normal(4, 3), 0.9)
    assert torch.equal(mean[:, 0], torch.ones(4).double())
    assert torch.equal(mean[:, 2], -torch.ones(4).double())
    assert (mean[:, 1].abs() < 1).all()
    assert f.process == VP()


def test_conditioned_binds_domain_and_image():
    class Asked(nn.Module):
        process = Cosine()

        def forward(self, x_t, t, **kwargs):
            self.kwargs = kwargs
            return x_t

    f, x, image = Asked(), normal(1, 3), normal(1, 3, seed=1)
    Conditioned(denoiser=f)(x, 0.5)
    assert f.kwargs == {}
    bound = Conditioned(denoiser=f, domain="a")
    bound.on(image)(x, 0.5)
    assert f.kwargs["domain"] == "a"
    assert f.kwargs["image"] is image
    bound(x, 0.5)
    assert f.kwargs == {"domain": "a"}  # `on` does not change what it was called on


def test_wrappers_serve_every_solver():
    """A trained model, a bound domain and guidance in one integration."""
    f = tiny_denoiser()
    free = ClassifierFree(Conditioned(denoiser=f, domain="a"), Conditioned(denoiser=f), 1.0)
    guided = Guided(Clipped(free), lambda x, t: x.square().flatten(1).sum(1))
    x = torch.zeros(2, 3, 8, 8)
    y = integrate("heun", guided, x, grid(f.process, 2, clean=True))
    assert y.shape == x.shape
    assert y.isfinite().all()


class Domains(nn.Module):
    """Exact denoisers of a domain, and of any."""

    process = VP()

    def __init__(self):
        super().__init__()
        self.a, self.any = (gaussian([m] * 192, [v] * 192, VP()) for m, v in ((0.4, 0.1), (0.0, 0.6)))

    def forward(self, x_t, t, domain=None):
        return (self.any if domain is None else self.a)(x_t, t)


class Mixed(nn.Module):
    """eps = (1 + w) eps(x_t, c) - w eps(x_t), eq. 6 of classifier-free guidance."""

    def __init__(self, conditional, unconditional, w):
        super().__init__()
        self.both, self.w, self.process = (conditional, unconditional), w, conditional.process

    def forward(self, x_t, t):
        alpha, sigma = self.process.at(t, x_t)
        eps_c, eps_0 = ((x_t - alpha * f(x_t, t)) / sigma for f in self.both)
        return (x_t - sigma * ((1 + self.w) * eps_c - self.w * eps_0)) / alpha


@pytest.mark.parametrize(
    ("name", "how"), [("sdedit", {}), ("ilvr", {"factor": 4}), ("egsde", {"realism": 0.0})]
)
def test_methods_are_guided_away_from_any_domain(name, how):
    cls, f, x = find(name), Domains(), normal(2, 3, 8, 8) / 2
    how = how | {"steps": 4, "as_is": True}
    for w in (0.0, 1.5):
        mixed = Mixed(Conditioned(denoiser=f, domain="a"), Conditioned(denoiser=f), w)
        want = cls(target=mixed).translate(x, **how)
        got = cls(target=Conditioned(denoiser=f, domain="a")).translate(
            x, classifier_free=w, **how
        )
        torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-9)
        target, nfe = Conditioned(denoiser=f, domain="a"), []
        watch = lambda *seen, nfe=nfe: nfe.append(seen[3]["nfe"])
        cls(target=target).translate(x, classifier_free=w, watch=watch, **how)
        assert set(nfe) == {2 if w else 1}  # evaluations a step
    for target in (Conditioned(denoiser=f), f.a):
        with pytest.raises(UserError, match="needs a domain to tell from any: give FOLDER:DOMAIN"):
            cls(target=target).translate(x, classifier_free=1.0, **how)


@pytest.mark.parametrize("name", ["paired_sde", "unpaired_sde"])
def test_models_of_pictures_are_guided_by_the_source(name, monkeypatch):
    """Away from what they make of a hidden one; and without weight nothing changes."""
    torch.manual_seed(0)
    own = {} if name == "paired_sde" else {"warmup_batches": 0, "shared": False}
    part = lively(find(name)(net="tiny", drop_condition=0.2, **own)).eval()
    x, how = normal(2, 3, 16, 16).float(), {"steps": 3, "as_is": True, "solver": "ddim"}
    plain = part.translate(x, **how)
    guided = part.translate(x, classifier_free=1.5, **how)
    assert torch.equal(part.translate(x, classifier_free=0.0, **how), plain)
    monkeypatch.setattr("sfumato.diffusion.guidance.ClassifierFree", Mixed)
    mixed = part.translate(x, classifier_free=1.5, **how)
    torch.testing.assert_close(guided, mixed, rtol=1e-3, atol=1e-4)
    assert (guided - plain).abs().max() > 1e-3
    part.drop_condition = 0.0
    with pytest.raises(UserError, match="classifier_free 1 needs .* train it with --drop-condition 0.1"):
        part.translate(x, classifier_free=1.0, **how)


def test_a_share_of_the_conditions_is_hidden_in_the_training_of_pairs(monkeypatch):
    part, shown = find("paired_sde")(net="tiny", drop_condition=0.25), []
    seen = lambda self, x, t, z, image: shown.append(image.flatten(1).any(1)) or x.sum()
    monkeypatch.setattr(Denoiser, "loss", seen)
    batch = torch.ones(2000, 3, 2, 2), torch.ones(2000, 3, 2, 2)
    list(part.objectives(iter([batch]), torch.Generator().manual_seed(0)))
    assert torch.equal(*shown)
    assert shown[0].float().mean().item() == pytest.approx(0.75, abs=0.03)


def test_energies_are_what_people_type():
    one, two = Energy(lambda x, t: x.sum(-1)), Energy(lambda x, t: t * x.square().sum(-1))
    x, t = normal(4, 3), 0.3
    a, b = one(x, t), two(x, t)
    for energy, want in (
        (sum([one, two]), a + b), (one * 2, 2 * a), (np.float64(2) * one, 2 * a), (-one, -a),
        (one - two, a - b), (one / 2, a / 2), (one + two.function, a + b), (two.function + one, a + b),
    ):  # fmt: skip
        assert isinstance(energy, Energy)
        torch.testing.assert_close(energy(x, t), want)
    for make in (
        lambda: Energy(3), lambda: one + 1, lambda: 1 + one, lambda: one - "a", lambda: "a" * one,
        lambda: float("nan") * one, lambda: np.ones(3) * one, lambda: one / "2",
    ):  # fmt: skip
        with pytest.raises(UserError, match="must be a (function|finite number)"):
            make()


def test_wrappers_take_denoisers_only():
    f = gaussian([0.0], [1.0], VP())
    for make, says in (
        (lambda: Clipped(None), "denoiser must be a Denoises, not None"),
        (lambda: ClassifierFree(f, None, 2.0), "unconditional must be a Denoises, not None"),
        (lambda: ClassifierFree(f, f, "2"), "scale must be a finite number, not '2'"),
        (lambda: ClassifierFree(f, f, float("nan")), "scale must be a finite number, not nan"),
    ):
        with pytest.raises(UserError, match=says):
            make()
    f.process = "vp"  # as a model of several domains has it
    for wrap in (Clipped, lambda f: ClassifierFree(f, f, 1.0), lambda f: Guided(f, lambda y, t: y.sum(1))):
        with pytest.raises(UserError, match=r"process is 'vp': .* load\('FOLDER:DOMAIN'\)"):
            wrap(f)
