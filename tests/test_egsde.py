"""EGSDE: SDEdit to the bit without weights, the published step with them, and stable at any weight."""

import itertools
import warnings

import pytest
import torch
from truth import Affine, Impulses, f64, gaussian, lively, normal, tiny_denoiser

from sfumato.checkpoints.model_folder import save
from sfumato.core.errors import UserError
from sfumato.data import write_png
from sfumato.diffusion import energies as en
from sfumato.diffusion.guidance import Conditioned
from sfumato.diffusion.low_pass import LowPass
from sfumato.diffusion.noise import Noise
from sfumato.diffusion.process import DDPM, VP, Cosine
from sfumato.diffusion.stability import spent, stable_weight
from sfumato.diffusion.time_grids import chain_time, grid
from sfumato.methods.diffusion import Diffusion
from sfumato.methods.domain_classifier import DomainClassifier
from sfumato.methods.egsde import EGSDE
from sfumato.methods.sdedit import SDEdit
from sfumato.translation.pictures import repeat, translate
from sfumato.translation.run_file import read_run
from sfumato.translation.translator import translator

PICTURES = torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1


def classifier(process="cosine", domains=("a", "b"), **options):
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return lively(DomainClassifier(domains=domains, net="tiny", process=process, **options))


def target(process=Cosine(), **options):  # noqa: B008
    return Conditioned(denoiser=tiny_denoiser(process=process, **options), domain="b")


def tiny(process=Cosine()):  # noqa: B008
    return EGSDE(target=target(process), classifier=classifier(process))


NONE = {"realism": 0, "faithful": 0}


@pytest.mark.parametrize("solver", ["ancestral", "sde_dpm2m", "euler_maruyama", "ddim", "ab3"])
@pytest.mark.parametrize("repeats", [1, 2])
@pytest.mark.parametrize("noise", ["fresh", "shared"])
def test_without_weights_it_is_sdedit_to_the_bit(solver, repeats, noise):
    how = {"strength": 0.5, "steps": 4, "solver": solver, "repeats": repeats, "seed": 3}
    part = tiny()
    want = SDEdit(target=part.target).translate(PICTURES, as_is=True, **how)
    assert torch.equal(part.translate(PICTURES, as_is=True, **NONE, noise=noise, **how), want)
    other = part.translate(PICTURES, as_is=True, realism=0, faithful=1e-3, noise=noise, **how)
    assert 0 < (other - want).abs().max() < 0.1  # the same noise, a little guidance


@pytest.mark.parametrize("weights", [(30.0, 0.0), (0.0, 0.4), (30.0, 0.4)])
def test_one_ancestral_step_carries_beta_over_root_alpha_times_the_gradient(weights, report):
    """From level 400 of the chain to clean in one step: beta = 1 - alpha^2."""
    realism, faithful = weights
    part, chain = tiny(DDPM()), DDPM()
    how = {"strength": 0.4, "steps": 1, "spacing": "chain"}
    got = part.translate(
        PICTURES, as_is=True, realism=realism, faithful=faithful, units="paper", low_pass="explicit", **how
    )
    plain = SDEdit(target=part.target).translate(PICTURES, as_is=True, **how)
    noise, t = Noise.of(PICTURES, 0), f64(0.4)
    y = chain.perturb(PICTURES, t, noise(PICTURES)).requires_grad_()
    x = chain.perturb(PICTURES, t, noise.stream("energy")(PICTURES))
    u, v = (part.classifier.features(z, t) for z in (y, x))
    cosine = torch.nn.functional.cosine_similarity(u, v, dim=1).mean((1, 2)).sum()
    distance = LowPass(2, "box")(y - x).square().sum()
    (gradient,) = torch.autograd.grad(realism * cosine + faithful * distance, y)
    beta = 1 - chain(t)[0].item() ** 2
    want = -beta / (1 - beta) ** 0.5 * gradient
    worst = ((got - plain - want).abs().max() / want.abs().max()).item()
    report(f"EGSDE, one step against beta/sqrt(alpha) grad E, weights {weights}", worst)
    assert worst < 1e-4


def test_shared_noise_makes_the_first_guidance_exactly_zero():
    part = tiny()
    how = {"strength": 0.5, "steps": 1}
    strong = {"realism": 1e6, "faithful": 5.0, "low_pass": "explicit"}
    want = SDEdit(target=part.target).translate(PICTURES, as_is=True, **how)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert torch.equal(
            part.translate(PICTURES, as_is=True, noise="shared", **strong, **how), want
        )
        assert not torch.equal(
            part.translate(PICTURES, as_is=True, noise="fresh", **strong, **how), want
        )


@pytest.mark.parametrize("faithful", [0.2, 3.0])
@pytest.mark.parametrize("repeats", [1, 2])
def test_moments_of_the_exponential_step(monkeypatch, faithful, repeats, report):
    """Gaussian data of one pixel: gain on the source and variance, scalar by scalar."""
    m, S, steps, process = 0.7, 0.3, 6, DDPM()
    noise = Impulses(1, 2 * steps * repeats)
    monkeypatch.setattr("sfumato.methods.egsde.Noise", noise)
    part = EGSDE(target=gaussian([m], [S], process), classifier=classifier(process, channels=1))
    y = Affine(part.translate(
        noise.start().reshape(-1, 1, 1, 1), strength=0.5, steps=steps, realism=0, faithful=faithful,
        factor=1, repeats=repeats, as_is=True,
    ), 1)  # fmt: skip
    assert noise.calls == noise.draws
    offset, gain, var = 0.0, 1.0, 0.0
    times = grid(process, steps, start=0.5, clean=True)
    for _ in range(repeats):
        a, s = process(times[0])
        offset, gain, var = a * offset, a * gain, a**2 * var + s**2
        for t, then in itertools.pairwise(times):
            (a, s), (b, r) = process(t), process(then)
            kept = (a * r / (b * s)) ** 2
            k = a * S / (a**2 * S + s**2)
            # y' = b E[x | y] + r sqrt(kept) eps + r sqrt(1 - kept) z
            c = kept.sqrt() * r / s + (b - kept.sqrt() * r * a / s) * k
            offset = c * offset + (b - kept.sqrt() * r * a / s) * (m - k * a * m)
            gain, var = c * gain, c**2 * var + r**2 * (1 - kept)
            e = (-2 * faithful * (spent(process, t) - spent(process, then))).exp()
            offset, gain = e * offset, e * gain + (1 - e) * b
            var = e**2 * var + (1 - e) ** 2 * r**2
    got = y.b.item(), y.A.item(), y.noise_covariance.item()
    report(f"EGSDE low-pass {faithful} K={repeats}: mean from 0, gain, variance", *got)
    assert got == pytest.approx((offset.item(), gain.item(), var.item()), abs=1e-9)


def test_more_weight_more_effect(report):
    part, phi = tiny(), LowPass(2, "box")
    how = {"strength": 0.6, "steps": 12}
    far = lambda y: (phi(y - PICTURES)).norm().item()
    got = [
        far(part.translate(PICTURES, as_is=True, realism=0, faithful=w, **how))
        for w in (0, 0.1, 0.5, 2, 1e30)
    ]
    report("EGSDE, distance of the low-pass at faithful 0, .1, .5, 2, 1e30", *got)
    assert all(one > two for one, two in itertools.pairwise(got))
    assert got[-1] < 1e-4

    def alike(y):
        u, v = (part.classifier.features(z, 0.05) for z in (y, PICTURES))
        return torch.nn.functional.cosine_similarity(u, v, dim=1).mean().item()

    got = [alike(part.translate(PICTURES, as_is=True, realism=w, units="paper", faithful=0, **how))
           for w in (0, 100, 1000)]  # fmt: skip
    report("EGSDE, cosine to the source at lambda_s 0, 100, 1000", *got)
    assert got[0] > got[1] > got[2]


def test_an_explicit_step_beyond_the_bound_is_unstable_and_warned_of(report):
    process, x = DDPM(), normal(4, 1, 8, 8).clamp(-1, 1)
    part = EGSDE(
        target=gaussian([0.0] * 64, [1.0] * 64, process), classifier=classifier(process, channels=1)
    )
    how = {"strength": 0.5, "steps": 20, "realism": 0, "factor": 4, "spacing": "time"}
    most = stable_weight(process, grid(process, 20, "time", start=0.5, clean=True))
    phi = LowPass(4, "box")
    far = lambda **options: phi(part.translate(x, as_is=True, **how, **options) - x).norm().item()
    free, gentle = far(faithful=0), far(faithful=most / 2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        within = far(faithful=most * 0.999, low_pass="explicit")
        exact = far(faithful=8 * most)
    with pytest.warns(UserWarning, match=f"unstable above {most:.3g} in 20 steps"):
        beyond = far(faithful=8 * most, low_pass="explicit")
    report(
        "low-pass distance: free, half and all of the bound, 8 times explicit, 8 times exact",
        free, gentle, within, beyond, exact,
    )  # fmt: skip
    assert max(gentle, within) < free < beyond / 10
    assert exact < within


@pytest.mark.parametrize(("on", "noise"), [("sample", "fresh"), ("mean", "shared")])
@pytest.mark.parametrize("low_pass", ["exponential", "explicit"])
@pytest.mark.filterwarnings("ignore:faithful")
def test_to_a_tolerance_by_an_adaptive_solver(on, noise, low_pass):
    part, how = tiny(), {"solver": "dopri5", "steps": 2, "on": on, "noise": noise, "realism": 300.0}
    y = part.translate(PICTURES, as_is=True, low_pass=low_pass, **how)
    alone = part.translate(PICTURES[[1]], as_is=True, low_pass=low_pass, **how)
    torch.testing.assert_close(y[[1]], alone, rtol=0, atol=1e-4)
    assert (
        y - part.translate(PICTURES, as_is=True, **how | {"realism": 0, "faithful": 0})
    ).abs().max() > 1e-3


@pytest.mark.parametrize("size", [(16, 24), (24, 16), (28, 28), (20, 12)])
def test_pictures_of_any_shape_by_default(size):
    x = torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(0)) * 2 - 1
    assert tiny().translate(x, as_is=True, steps=1).shape == x.shape


def test_units_carry_over():
    part, how = tiny(), {"strength": 0.5, "steps": 2, "faithful": 0}
    paper = part.translate(PICTURES, as_is=True, realism=10.0, units="paper", **how)
    carried = part.translate(PICTURES, as_is=True, realism=10.0 * 256**2 / 16**2, **how)
    torch.testing.assert_close(carried, paper, rtol=0, atol=1e-6)
    half = part.translate(
        PICTURES, as_is=True, factor=2, realism=0, faithful=0.5, strength=0.5, steps=2
    )
    assert torch.equal(
        half, part.translate(PICTURES, as_is=True, realism=0, faithful=0.5, strength=0.5, steps=2)
    )


def test_many_explicit_steps_agree_with_few_exact_ones():
    """Flat guides on unit-variance data without noise left: 40 exact steps, 400 explicit ones."""
    process = DDPM()
    part = EGSDE(
        target=gaussian([0.0] * 4, [1.0] * 4, process), classifier=classifier(process, channels=1)
    )
    x = torch.linspace(-1, 1, 100).double()[:, None, None, None].expand(-1, 1, 2, 2)
    ends = [
        part.translate(x, as_is=True, strength=0.5, steps=steps, realism=0, faithful=0.5, factor=2,
                       low_pass=low_pass, spacing="time")
        for steps, low_pass in ((40, "exponential"), (400, "explicit"))
    ]  # fmt: skip
    gains = [(y.mean((1, 2, 3)) * x[:, 0, 0, 0]).sum() / (x[:, 0, 0, 0] ** 2).sum() for y in ends]
    assert gains[0].item() == pytest.approx(gains[1].item(), abs=0.05)
    assert 0.3 < gains[0] < 1


def test_an_energy_of_ones_own():
    part, seen = tiny(), []

    def brightness(y, x, t):
        seen.append(t)
        return 200 * (y.mean((1, 2, 3)) - 1) ** 2

    how = {"strength": 0.5, "steps": 6, **NONE}
    y = part.translate(PICTURES, as_is=True, energy=brightness, **how)
    assert len(seen) == 6
    assert (
        y.mean((1, 2, 3)) > part.translate(PICTURES, as_is=True, **how).mean((1, 2, 3)) + 0.1
    ).all()
    seen.clear()
    part.translate(PICTURES, as_is=True, energy=brightness, every=3, **how)
    assert len(seen) == 2
    with pytest.raises(ValueError, match="lost its gradient"):
        part.translate(PICTURES, as_is=True, energy=lambda y, x, t: x.sum((1, 2, 3)), **how)
    with pytest.raises(ValueError, match="one number an image"):
        part.translate(PICTURES, as_is=True, energy=lambda y, x, t: y.sum(), **how)


def test_chroma_is_kept_and_brightness_free(report):
    part, how = tiny(), {"strength": 0.6, "steps": 4, "realism": 0, "factor": 1}
    chroma = LowPass(1, content="chroma")
    y = part.translate(PICTURES, as_is=True, faithful=1e30, content="chroma", **how)
    torch.testing.assert_close(chroma(y), chroma(PICTURES), rtol=0, atol=1e-6)
    brighter = (y - PICTURES).mean(1).abs().mean().item()
    report("EGSDE, chroma kept: mean change of brightness", brighter)
    assert brighter > 0.1
    assert torch.allclose(
        part.translate(PICTURES, as_is=True, faithful=1e30, **how), PICTURES, atol=1e-6
    )


def test_other_ways_to_look():
    """Logits and the mean make the classifier surer of the target, each with its own weight."""
    part, how = tiny(), {"strength": 0.6, "steps": 8, "faithful": 0, "units": "paper"}

    def odds(y):
        logits = part.classifier(y, 0.05)
        return (logits[:, 1] - logits[:, 0]).mean().item()

    plain = odds(part.translate(PICTURES, as_is=True, realism=0, **how))
    for on in ("sample", "mean"):
        y = part.translate(PICTURES, as_is=True, realism=30.0, similarity="logits", on=on, **how)
        assert odds(y) > plain + 1e-3
    sample, mean = (
        part.translate(PICTURES, as_is=True, realism=300.0, on=on, **how)
        for on in ("sample", "mean")
    )
    assert (sample - mean).abs().max() > 1e-4


def test_a_weight_of_no_energy_is_refused():
    part = EGSDE(target=target())
    with pytest.raises(UserError, match="energy_weight 5 is that of a third energy, and none.*--energy"):
        part.translate(PICTURES, as_is=True, realism=0, steps=2, energy_weight=5)
    part.translate(PICTURES, as_is=True, realism=0, steps=2, energy_weight=1.0)


def test_an_energy_by_its_name():
    part, how = tiny(), {"strength": 0.6, "steps": 8, **NONE}
    slope = lambda y: (y - PICTURES).diff(dim=-1).square().mean().item()
    free = slope(part.translate(PICTURES, as_is=True, **how))
    for name, weight in (("edges", 0.1), ("high_pass", 0.3)):
        held = part.translate(PICTURES, as_is=True, energy=name, energy_weight=weight, **how)
        assert slope(held) < free / 1.5
    by_hand = part.translate(
        PICTURES, as_is=True, energy=lambda y, x, t: 0.1 * en.edges(part.target.process)(y, x, t), **how
    )
    by_name = part.translate(PICTURES, as_is=True, energy="edges", energy_weight=0.1, **how)
    torch.testing.assert_close(by_hand, by_name, rtol=0, atol=1e-4)


def test_a_named_energy_is_stable_by_default_and_warned_of_beyond():
    """`gentle` is held, without the pictures' range being left; where the weight is 1, it is left."""
    process, x = DDPM(), normal(4, 1, 8, 8).clamp(-1, 1)
    part = EGSDE(target=gaussian([0.0] * 64, [1.0] * 64, process))
    how = {"strength": 0.5, "steps": 20, "spacing": "time", **NONE}
    most = stable_weight(process, grid(process, 20, "time", start=0.5, clean=True)) / 8
    slope = lambda **options: (
        (part.translate(x, as_is=True, **how, **options) - x).diff(dim=-1).norm().item()
    )
    free = slope()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        gentle, half = slope(energy="edges"), slope(energy="edges", energy_weight=most / 2)
    assert gentle == half < free / 2
    with pytest.warns(UserWarning, match=f"weight 3 of edges: .* above {most:.3g} in 20 steps; take a sm"):
        assert slope(energy="edges", energy_weight=3) > 10 * free
    with pytest.warns(UserWarning, match="of edges: .* unstable above"):
        slope(energy="edges", energy_weight=1.1 * most)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # the bound of one's own is not known
        own = slope(energy=lambda y, x, t: 0.1 * en.edges(process)(y, x, t))
    assert own < free


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"strength": 0.0}, r"strength must be in \(0, 1\]"),
        ({"strength": 1.2}, r"strength must be in \(0, 1\]"),
        ({"strength": float("nan")}, "strength must be a finite number, not nan"),
        ({"realism": -1.0}, "realism must be at least 0, not -1"),
        ({"faithful": float("inf")}, "faithful must be a finite number, not inf"),
        ({"faithful": -0.1}, "faithful must be at least 0"),
        ({"factor": 0}, "factor must be at least 1, not 0"),
        ({"factor": 17}, "factor 17 is larger than the images' side of 16"),
        ({"units": "papers"}, "unknown units 'papers': did you mean 'paper'"),
        ({"noise": "none"}, "unknown noise 'none'"),
        ({"low_pass": "exact"}, "unknown low_pass 'exact'"),
        ({"content": "hue"}, "unknown content 'hue'"),
        ({"on": "means"}, "unknown on 'means'"),
        ({"similarity": "logit"}, "unknown similarity 'logit'"),
        ({"energy": "edge"}, "unknown energy 'edge': did you mean 'edges'"),
        ({"energy": "edges", "energy_weight": -1.0}, "energy_weight must be at least 0"),
        ({"every": 0}, "every must be at least 1, not 0"),
        ({"repeats": 0}, "repeats must be at least 1, not 0"),
        (
            {"energy": "edges", "energy_weight": 1e30},
            r"energy_weight 1e\+30 is too large: .* stable",
        ),
        ({"realism": 1e38}, r"realism 1e\+38 is too large: .* up to about [\d.e+]+ is stable"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        tiny().translate(PICTURES, as_is=True, **{"steps": 3} | options)


@pytest.mark.filterwarnings("ignore:faithful")
def test_a_weight_that_is_too_large_is_named_with_one_that_is_not():
    with pytest.raises(ValueError, match=r"faithful 1e\+30 is too large: .* is stable") as error:
        tiny().translate(PICTURES, as_is=True, faithful=1e30, low_pass="explicit", steps=4)
    bound = float(str(error.value).split("up to about ")[1].split()[0])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        y = tiny().translate(
            PICTURES, as_is=True, faithful=0.99 * bound, low_pass="explicit", steps=4
        )
    assert y.isfinite().all()
    with pytest.raises(ValueError, match="realism") as error:
        tiny().translate(PICTURES, as_is=True, realism=1e38)
    bound = float(str(error.value).split("up to about ")[1].split()[0])
    assert 0 < bound < 1e10
    assert tiny().translate(PICTURES, as_is=True, realism=bound).isfinite().all()


def test_a_classifier_that_does_not_fit():
    with pytest.raises(ValueError, match=r"knows x, y, not the target's domain 'b'"):
        EGSDE(target=target(), classifier=classifier(domains=("x", "y")))
    with pytest.raises(
        ValueError, match=r"trained with VP.*, the target with Cosine.*--process cosine"
    ):
        EGSDE(target=target(), classifier=classifier("vp"))
    with pytest.raises(ValueError, match="a Conditioned does not classify noisy images"):
        EGSDE(target=target(), classifier=target())
    with pytest.raises(
        ValueError, match="classifier_guidance needs a classifier: --classifier FOL"
    ):
        translator("classifier_guidance", target="sfumato/digits:3")
    with pytest.raises(ValueError, match="realism needs --classifier FOLDER, or be it 0"):
        EGSDE(target=target()).translate(PICTURES, as_is=True)
    plain = EGSDE(target=target()).translate(PICTURES, as_is=True, realism=0, steps=2)
    assert torch.equal(plain, tiny().translate(PICTURES, as_is=True, realism=0, steps=2))
    with pytest.raises(ValueError, match="a Diffusion does not classify noisy images"):
        translator("egsde", target="sfumato/digits:3", classifier="sfumato/earth")
    with pytest.raises(ValueError, match="knows all its domains: --classifier .*, without :3"):
        translator("egsde", target="sfumato/digits:3", classifier="sfumato/digits_classifier:3")
    with pytest.raises(ValueError, match="sdedit has no use for --classifier"):
        translator("sdedit", target="sfumato/digits:3", classifier="sfumato/earth")


def test_strength_is_that_of_the_chain():
    seen = []
    tiny().translate(
        PICTURES, as_is=True, strength=0.4, steps=2, watch=lambda t, x, mean, extras: seen.append(t)
    )
    assert seen[0] == pytest.approx(chain_time(Cosine(), 0.4))


@pytest.mark.parametrize("process", [DDPM(), VP(), Cosine()], ids=str)
@pytest.mark.parametrize("low_pass", ["exponential", "explicit"])
@pytest.mark.parametrize("spacing", ["karras", "chain"])
def test_one_level_of_the_chain_is_guided(process, low_pass, spacing):
    seen, how = [], {"strength": 1 / 1000, "low_pass": low_pass, "spacing": spacing}
    how["steps"] = 1 if spacing == "chain" else 20
    y = tiny(process).translate(PICTURES, as_is=True, **how, watch=lambda t, *_: seen.append(t))
    assert seen == [process.t_min] or process == Cosine()  # level 1 is above its t_min
    assert y.isfinite().all()
    assert not torch.equal(y, tiny(process).translate(PICTURES, as_is=True, **how | NONE))


def test_folders_of_pictures(tmp_path):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = lively(Diffusion(domains=("a", "b"), net="tiny"))
    save(model, tmp_path / "model", info={"size": 16})
    save(classifier(), tmp_path / "which", info={"size": 16})
    save(classifier(), tmp_path / "larger", info={"size": 32})
    for i, picture in enumerate(PICTURES):
        write_png(tmp_path / "in" / f"{i}.png", picture)
    how = {"method": "egsde", "target": f"{tmp_path / 'model'}:b", "options": {"steps": 2}}
    out = tmp_path / "out"
    translate(tmp_path / "in", out, classifier=tmp_path / "which", **how)
    assert read_run(out)["run"]["weights"].keys() == {"target", "classifier"}
    repeat(out, tmp_path / "again")
    for name in ("0.png", "1.png", "2.png"):
        assert (out / name).read_bytes() == (tmp_path / "again" / name).read_bytes()
    with pytest.raises(ValueError, match=r"trained at sizes 16x16, 32x32"):
        translate(tmp_path / "in", tmp_path / "no", classifier=tmp_path / "larger", **how)
    with pytest.raises(ValueError, match="classifier_guidance needs a classifier"):
        translate(tmp_path / "in", tmp_path / "no", **how | {"method": "classifier_guidance"})
