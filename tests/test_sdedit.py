"""SDEdit: its limits to the bit, its masks to the bit, and its moments as a function of strength."""

import itertools

import pytest
import torch
from truth import Affine, Impulses, f64, gaussian, normal, tiny_denoiser

from sfumato.checkpoints.model_folder import denoiser_of
from sfumato.core.errors import UserError
from sfumato.diffusion.guidance import Conditioned
from sfumato.diffusion.integrate import integrate
from sfumato.diffusion.noise_and_denoise import check_finite, edit, times_of
from sfumato.diffusion.process import DDPM, VE, VP, Cosine, Flow
from sfumato.diffusion.time_grids import chain_time, grid
from sfumato.methods.registry import find
from sfumato.methods.sdedit import SDEdit

PICTURES = torch.rand(3, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1


def tiny():
    return SDEdit(target=Conditioned(denoiser=tiny_denoiser(), domain="b"))


def law(monkeypatch, f, draws, **options):
    """The affine law of `translate`, exactly: its noise is replaced by impulses."""
    noise = Impulses(1, draws)
    monkeypatch.setattr("sfumato.methods.sdedit.Noise", noise)
    result = SDEdit(target=f).translate(noise.start(), **options)
    assert noise.calls == draws
    return Affine(result, 1)


def recursion(strength, steps, m, S, repeats=1):
    """Mean offset, gain Cov(y0, x0)/Var(x0) and own variance by the DDPM formulas, scalar by scalar."""
    betas = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
    bars = torch.cat([f64([1.0]), (1 - betas).cumprod(0)])
    levels = (grid(DDPM(), steps, "chain", start=strength, clean=True) * 1000).round().long()
    offset, gain, var = 0.0, 1.0, 0.0
    for _ in range(repeats):
        ab = bars[levels[0]]
        offset, gain, var = ab.sqrt() * offset, ab.sqrt() * gain, ab * var + 1 - ab
        for now, then in itertools.pairwise(levels):
            ab, before = bars[now], bars[then]
            beta = 1 - ab / before
            # eps = s (y - a m) / (a^2 S + s^2) of Gaussian data
            c = beta / (ab * S + 1 - ab)
            a = (1 - c) / (1 - beta).sqrt()
            offset = a * offset + c * ab.sqrt() * m / (1 - beta).sqrt()
            gain, var = a * gain, a**2 * var + beta * (1 - before) / (1 - ab)
    return offset.item(), gain.item(), var.item()


@pytest.mark.parametrize("strength", [0.05, 0.2, 0.5, 0.8, 1.0])
@pytest.mark.parametrize("repeats", [1, 3])
def test_moments(monkeypatch, strength, repeats, report):
    m, S, steps = 0.7, 0.3, 20
    f = gaussian([m], [S], DDPM())
    options = {"strength": strength, "steps": steps, "spacing": "chain", "repeats": repeats}
    y = law(monkeypatch, f, steps * repeats, **options)
    got = y.b.item(), y.A.item(), y.noise_covariance.item()
    report(f"SDEdit strength {strength} K={repeats}: mean from 0, gain, variance", *got)
    assert got == pytest.approx(recursion(strength, steps, m, S, repeats), abs=1e-9)


@pytest.mark.parametrize("solver", ["ancestral", "sde_dpm2m", "ancestral_large"])
def test_strength_trades_faithfulness_for_realism(monkeypatch, solver, report):
    """The gain on the guide x falls from 1 to 0, the moments go to those of the target.

    With x_M = a x + s z an exact solver gives E[y | x] = E[E[x0 | x_M] | x], whose gain is
    a^2 S / (a^2 S + s^2); ancestral steps have this mean at every number of steps.
    """
    S, process, gains, variances = 0.3, Cosine(), [], []
    strengths = (0.01, 0.1, 0.2, 0.35, 0.5, 0.7)
    for strength in strengths:
        with monkeypatch.context() as patch:
            y = law(
                patch, gaussian([0.7], [S], process), 60, strength=strength, steps=60, solver=solver
            )
        a, s = DDPM()(f64(strength))  # strength is a level of the chain for every process
        k = S / (a**2 * S + s**2)
        gains.append(y.A.item())
        variances.append(y.noise_covariance.item())
        assert gains[-1] == pytest.approx(
            (a**2 * k).item(), abs=1e-3 if solver == "sde_dpm2m" else 1e-9
        )
        exact = (s**2 * k + (a * k * s) ** 2).item()  # Var[x0 | x_M] + what z brings
        assert variances[-1] == pytest.approx(exact, rel=0.06 if solver == "sde_dpm2m" else 0.25)
    report(f"SDEdit gain at strengths 0.01, 0.1 .. 0.7, {solver}", *gains)
    report(f"SDEdit variance at these (target's 0.3), {solver}", *variances)
    assert all(one > two > 0 for one, two in itertools.pairwise(gains))
    assert all(one < two for one, two in itertools.pairwise(variances[:4]))
    assert y.b.item() == pytest.approx(0.7, abs=0.01)


def test_repeats_forget_more(monkeypatch):
    gains = []
    for repeats in (1, 2, 3):
        with monkeypatch.context() as patch:
            y = law(patch, gaussian([0.7], [0.3], VP()), 10 * repeats, steps=10, repeats=repeats)
            gains.append(y.A.item())
    assert gains == pytest.approx([gains[0], gains[0] ** 2, gains[0] ** 3])
    assert gains[0] < 0.9


@pytest.mark.parametrize("solver", ["ancestral", "heun", "dopri5", "euler_maruyama"])
@pytest.mark.parametrize(
    "process", [VP(), DDPM(), DDPM(steps=100), Cosine(), VE(), Flow()], ids=str
)
def test_one_level_of_the_chain_is_a_little_noise_and_not_none(process, solver):
    """M = 1, the least strength there is: x_1 = alpha x + sigma z, then one step to clean."""
    part, seen = SDEdit(target=gaussian([0.0], [1.0], process)), []
    x = normal(4, 1)
    y = part.translate(
        x, strength=1 / 1000, solver=solver, watch=lambda t, *_: seen.append(t), steps=20
    )
    if process == DDPM():
        assert seen == [process.t_min]
    assert process.t_min <= seen[0] == chain_time(process, 1 / 1000)
    assert 0 < (y - x).abs().max() < 6 * process.perturb(f64([0.0]), seen[0], f64([1.0])).item()
    assert times_of(process, 0.4 / 1000 if process == Cosine() else 1 / 1000, 1, "chain")[-1] == 0


@pytest.mark.parametrize("strength", [0.0, 0.0001, 0.0002])
def test_no_strength_returns_the_guide_to_the_bit(strength):
    assert torch.equal(tiny().translate(PICTURES, strength=strength), PICTURES)


def test_a_little_strength_changes_it():
    y = tiny().translate(PICTURES, strength=0.1, steps=2)
    assert not torch.equal(y, PICTURES)
    assert (y - PICTURES).abs().max() < 2


@pytest.mark.parametrize("solver", ["ancestral", "ddim", "heun", "sde_dpm2m", "euler_maruyama"])
@pytest.mark.parametrize("repeats", [1, 2])
def test_masked_pixels_come_out_to_the_bit(solver, repeats):
    mask = torch.zeros(8, 8)
    mask[2:5, :] = 1
    options = {"strength": 0.7, "steps": 3, "solver": solver, "repeats": repeats}
    y = tiny().translate(PICTURES, mask=mask, **options)
    assert torch.equal(y[..., 2:5, :], PICTURES[..., 2:5, :])
    assert (y != PICTURES)[..., :2, :].float().mean() > 0.9
    assert torch.equal(tiny().translate(PICTURES, mask=torch.ones(1, 1, 8, 8), **options), PICTURES)
    free = tiny().translate(PICTURES, **options)
    assert torch.equal(tiny().translate(PICTURES, mask=torch.zeros(8, 8), **options), free)


def test_kept_pixels_have_the_noise_level_of_the_step_just_taken():
    """A flat guide: the kept half of the state that the denoiser sees is N(alpha x, sigma^2) at t."""
    process, seen = Cosine(), []

    class Zero(torch.nn.Module):
        def forward(self, x, t):
            alpha, sigma = process(t)
            z = (x[..., :64] - 0.5 * alpha) / sigma
            seen.append((z.mean() * z.numel() ** 0.5, z.std()))
            return torch.zeros_like(x)

    f = Zero()
    f.process = process
    mask = torch.zeros(64, 128)
    mask[:, :64] = 1
    SDEdit(target=f).translate(torch.full((1, 3, 64, 128), 0.5), mask=mask, steps=8, strength=0.8)
    assert len(seen) == 8
    for z, std in seen:
        assert abs(z) < 5
        assert std == pytest.approx(1, abs=0.03)


def test_seed_and_neighbours():
    y = tiny().translate(PICTURES, steps=3, seed=4)
    assert torch.equal(y, tiny().translate(PICTURES, steps=3, seed=4))
    assert not torch.equal(y, tiny().translate(PICTURES, steps=3, seed=5))


def test_evaluations():
    seen = []
    SDEdit(target=gaussian([0.0], [1.0], VP())).translate(
        normal(2, 1),
        steps=5,
        repeats=3,
        watch=lambda t, x, mean, extras: seen.append(extras["nfe"]),
    )
    assert sum(seen) == 15


def test_bad_options():
    for strength in (-0.1, 1.1):
        with pytest.raises(ValueError, match=r"strength must be in \[0, 1\]"):
            tiny().translate(PICTURES, strength=strength)
    with pytest.raises(ValueError, match="repeats must be at least 1, not 0"):
        tiny().translate(PICTURES, repeats=0)
    with pytest.raises(ValueError, match="steps must be in"):
        tiny().translate(PICTURES, steps=0)
    with pytest.raises(ValueError, match="unknown solver"):
        tiny().translate(PICTURES, solver="euler")


def test_the_weight_that_is_furthest_beyond_its_bound_is_named():
    bad = torch.full((1,), torch.nan)
    bounds = {"near": (2.0, 1.0), "far": (9.0, 3.0), "below": (1.0, 1e6)}
    with pytest.raises(ValueError, match="far 9 is too large: .*up to about 3 is stable"):
        check_finite(bad, lambda: bounds)
    with pytest.raises(ValueError, match="the energy is too large, or the model untrained"):
        check_finite(bad, lambda: {"below": (1.0, 2.0)})
    assert check_finite(PICTURES, lambda: bounds) is PICTURES


def test_what_comes_after_a_step_comes_after_the_first_noise_too():
    f, source = gaussian([0.3], [0.5], VP()), normal(6, 1)
    times, noise = grid(f.process, 4, start=0.5, clean=True), torch.randn_like

    def after(x, s):
        return torch.zeros_like(x) if s == times[0] else x

    got = edit(f, source, times, start=noise, noise=noise, solver="ddim", after=after)
    torch.testing.assert_close(got, integrate("ddim", f, torch.zeros_like(source), times))


@pytest.mark.parametrize(
    "mask",
    [torch.ones(3, 1, 8, 8), torch.ones(5), torch.full((8, 8), torch.nan), -torch.ones(8, 8)],
    ids=["count", "width", "nan", "below"],
)
def test_a_mask_that_is_none_is_refused(mask):
    one = SDEdit(target=Conditioned(denoiser=tiny_denoiser(), domain="a"))
    pictures = torch.zeros(2, 3, 8, 8)
    with pytest.raises(UserError, match=r"a mask of shape \(.*expected numbers in \[0, 1\] that broadcast"):
        one.translate(pictures, steps=2, mask=mask)
    one.translate(pictures, steps=2, mask=torch.ones(1, 8, 8))


@pytest.mark.parametrize("name", ["sdedit", "ilvr", "egsde"])
def test_a_model_that_never_hid_a_domain_does_not_guide_away_from_any(name):
    part = find("diffusion")(net="tiny", domains=("a", "b"), any_domain=0.0)
    translator = find(name)(target=denoiser_of(part, "a"))
    how = {"steps": 2} | ({"realism": 0.0} if name == "egsde" else {})
    with pytest.raises(UserError, match="does not know any domain, only each: train it with --any-domain"):
        translator.translate(PICTURES, classifier_free=2.0, **how)
    translator.translate(PICTURES, **how)
