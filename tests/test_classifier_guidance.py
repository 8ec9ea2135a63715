"""Classifier guidance of a mixture: at scale 1 the samples are those of the component."""

import itertools

import pytest
import torch
from truth import f64, lively, normal, tiny_denoiser

from sfumato.diffusion.exact import Mixture
from sfumato.diffusion.guidance import Conditioned
from sfumato.diffusion.process import DDPM, VP, Cosine
from sfumato.methods.classifier_guidance import ClassifierGuidance
from sfumato.methods.domain_classifier import DomainClassifier
from sfumato.methods.sdedit import SDEdit

PICTURES = torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1


class Exact(torch.nn.Module):
    """The classifier of a mixture's components."""

    def __init__(self, f):
        super().__init__()
        self.f, self.process, self.domains = f, f.process, f.domains

    def forward(self, x, t):
        return self.f.weights.log() + self.f.log_densities(x, t)

    features = forward


def mixture():
    means, covs = f64([[-1.0, 0.0], [1.0, 0.5]]), torch.eye(2).double().expand(2, 2, 2) * 0.02
    return Mixture(means, covs, f64([0.7, 0.3]), Cosine(), ("a", "b"))


def guided(domain="b"):
    f = mixture()
    return ClassifierGuidance(target=Conditioned(denoiser=f, domain=domain), classifier=Exact(f))


@pytest.mark.parametrize("domain", ["a", "b"])
@pytest.mark.parametrize("solver", ["ancestral", "dpm2m", "ddim"])
def test_at_scale_one_it_is_the_component_itself(domain, solver):
    part, x = guided(domain), normal(50, 2)
    how = {"strength": 0.6, "steps": 10, "solver": solver, "seed": 3}
    y = part.translate(x, as_is=True, guidance_scale=1, **how)
    torch.testing.assert_close(
        y, SDEdit(target=part.target).translate(x, as_is=True, **how), rtol=0, atol=1e-9
    )


def test_scales(report):
    """At 1 more than 99 % are of the component, at 0 its share, and samples draw closer beyond."""
    part, x = guided(), normal(4000, 2)
    f, how = part.classifier, {"strength": 1.0, "steps": 20}
    shares, spreads = [], []
    for scale in (0, 1, 3):
        y = part.translate(x, as_is=True, guidance_scale=scale, **how)
        mine = f(y, 0.01).argmax(1) == 1
        shares.append(mine.double().mean().item())
        spreads.append(y[mine].var(0).sum().item())
    report("share of component b (0.3) at scale 0, 1, 3", *shares)
    assert shares[0] == pytest.approx(0.3, abs=0.03)
    assert min(shares[1:]) > 0.99
    assert spreads[2] <= spreads[1] * 1.05


def tiny():
    with torch.random.fork_rng():
        torch.manual_seed(1)
        c = lively(DomainClassifier(domains=("a", "b"), net="tiny"))
    target = Conditioned(denoiser=tiny_denoiser(), domain="b")
    return ClassifierGuidance(target=target, classifier=c)


def test_without_scale_it_is_sdedit_of_the_prior():
    part, how = tiny(), {"strength": 0.5, "steps": 3}
    any_domain = Conditioned(denoiser=part.target.denoiser)
    for prior, f in (("any", any_domain), ("domain", part.target)):
        want = SDEdit(target=f).translate(PICTURES, as_is=True, **how)
        assert torch.equal(part.translate(PICTURES, as_is=True, guidance_scale=0, prior=prior, **how), want)


def test_more_scale_more_of_the_domain():
    part = tiny()
    sure = []
    for scale in (0, 5, 30):
        y = part.translate(PICTURES, as_is=True, guidance_scale=scale, steps=10)
        sure.append(part.classifier(y, 0.05).softmax(1)[:, 1].mean().item())
    assert all(one < two for one, two in itertools.pairwise(sure))


def test_the_papers_weight_is_the_same_with_many_steps(report):
    """A step's variance against beta / sqrt(1 - beta): apart in few steps, alike in many."""
    part, apart = tiny(), []
    for steps in (5, 60):
        how = {"guidance_scale": 5, "steps": steps, "spacing": "time"}
        score, variance = (
            part.translate(PICTURES, as_is=True, weight=w, **how) for w in ("score", "variance")
        )
        apart.append((score - variance).abs().mean().item())
    report("classifier guidance, weights score and variance apart in 5, 60 steps", *apart)
    assert apart[1] < apart[0] / 4


@pytest.mark.parametrize("weight", ["score", "variance"])
@pytest.mark.parametrize("process", [DDPM(), VP(), Cosine()], ids=str)
def test_one_level_of_the_chain_is_guided(process, weight):
    target = Conditioned(denoiser=tiny_denoiser(process=process), domain="b")
    part = ClassifierGuidance(
        target=target,
        classifier=lively(DomainClassifier(domains=("a", "b"), net="tiny", process=process)),
    )
    how = {"strength": 1 / 1000, "prior": "domain", "weight": weight}
    y = part.translate(PICTURES, as_is=True, **how)
    assert y.isfinite().all()
    assert (
        not torch.equal(y, part.translate(PICTURES, as_is=True, **how | {"guidance_scale": 0}))
        or weight == "variance"
    )


def test_bad_options():
    part = tiny()
    for options, message in (
        ({"strength": 0}, r"strength must be in \(0, 1\]"),
        ({"guidance_scale": -1.0}, "scale must be at least 0, not -1"),
        ({"guidance_scale": 1e38}, r"scale 1e\+38 is too large: the result is not finite; up to about"),
        ({"weight": "sigma"}, "unknown weight 'sigma'"),
        ({"weight": "variance", "solver": "ddim"}, "that of solver ancestral's steps, not of ddim"),
        ({"prior": "none"}, "unknown prior 'none'"),
    ):
        with pytest.raises(ValueError, match=message):
            part.translate(PICTURES, as_is=True, **{"steps": 3} | options)
    f = tiny_denoiser()
    with pytest.raises(ValueError, match="needs a domain to guide to"):
        ClassifierGuidance(target=Conditioned(denoiser=f), classifier=part.classifier)
    with pytest.raises(ValueError, match="knows a, b, not the target's domain 'c'"):
        ClassifierGuidance(
            target=Conditioned(denoiser=tiny_denoiser(("a", "c")), domain="c"),
            classifier=part.classifier,
        )


def test_the_classifier_is_asked_at_every_so_many_steps():
    part, asked = guided(), []
    part.classifier.register_forward_hook(lambda *_: asked.append(1))
    for every, count in ((1, 6), (3, 2), (10, 1)):
        asked.clear()
        part.translate(normal(2, 2), steps=6, every=every)
        assert len(asked) == count
