"""Energies against closed forms: gradients, expectations, products of experts, and what is refused."""

import itertools

import pytest
import torch
from torch.distributions import MultivariateNormal, Normal
from truth import f64, gaussian, normal, rotation

from sfumato.core.errors import UserError
from sfumato.diffusion.denoiser import Trace, score_of
from sfumato.diffusion.energies import (
    ENERGIES,
    STEEPEST,
    Pulled,
    Reference,
    Terms,
    against,
    domain_surprise,
    edges,
    low_pass_distance,
    masked,
    named,
    similarity,
    strong_weight,
    surprise,
)
from sfumato.diffusion.exact import Mixture
from sfumato.diffusion.guidance import ClassifierFree, Clipped, Energy, Guided, zero_mean
from sfumato.diffusion.integrate import STEPS, integrate
from sfumato.diffusion.low_pass import LowPass
from sfumato.diffusion.noise import Noise
from sfumato.diffusion.process import DDPM, VE, VP, Cosine, Flow
from sfumato.diffusion.stability import spent, stable_weight
from sfumato.diffusion.time_grids import grid

PROCESSES = pytest.mark.parametrize("process", [VP(), DDPM(), Cosine(), VE(), Flow()], ids=str)
SHAPE = (4, 3, 8, 8)


def gradient(energy, y, t):
    y = y.clone().requires_grad_()
    return torch.autograd.grad(energy(y, t).sum(), y)[0]


def reference(process, seed=0, source=None):
    source = normal(*SHAPE, seed=7) if source is None else source
    return Reference(process, source, Noise.of(source, seed))


# ---- the noised source --------------------------------------------------------------------------


def test_one_draw_for_each_level():
    x = reference(Cosine())
    once = x(f64(0.5))
    assert torch.equal(x(0.5), once)  # all terms of a step see the same
    other = x(0.4)
    assert torch.equal(other, reference_draws(0.5, 0.4)[1])
    assert not torch.equal(x(0.5), once)


def test_a_time_for_each_image_keeps_the_draw():
    """An adaptive solver asks so within a step, where nothing may jump."""
    x, t = reference(Cosine()), f64([0.5, 0.4, 0.3, 0.2])
    once = x(f64(0.5))
    z = x.noise(f64(0.5))
    got = x(t)
    torch.testing.assert_close(got, Cosine().perturb(x.source, t, z), rtol=0, atol=0)
    assert torch.equal(got[0], once[0])
    assert torch.equal(x(f64(0.5)), once)


def reference_draws(*levels):
    x = reference(Cosine())
    return [x(t) for t in levels]


def test_shared_noise_is_that_of_the_start():
    source, process = normal(*SHAPE, seed=7), Cosine()
    x, draw = reference(process), Noise.of(source, 3)
    start = x.shared(draw)
    for _ in range(2):  # each repeat has its own
        z = start(source)
        assert torch.equal(x(0.5), process.perturb(source, 0.5, z))
        assert torch.equal(x(0.2), process.perturb(source, 0.2, z))


# ---- low-pass distance --------------------------------------------------------------------------


@PROCESSES
@pytest.mark.parametrize("kernel", ["box", "linear", "cubic"])
def test_gradient_of_the_low_pass_distance(process, kernel):
    """2 phi^T phi (y - x_t), in variance-preserving coordinates."""
    phi, x, y, t = LowPass(4, kernel), reference(process), normal(*SHAPE, seed=1), f64(0.6)
    got = gradient(against(low_pass_distance(phi, process), x), y, t)
    matrix = torch.kron(phi.matrix(8), phi.matrix(8))
    alpha, sigma = process.at(t, y)
    want = 2 * (y - x(t)).flatten(2) @ matrix.T @ matrix / (alpha**2 + sigma**2)
    torch.testing.assert_close(got.flatten(2), want, rtol=1e-10, atol=1e-12)


def test_it_is_a_sum_over_channels_and_pixels():
    distance = low_pass_distance(LowPass(1), Cosine())
    ones = torch.ones(2, 3, 8, 8).double()
    assert distance(ones, 0 * ones, f64(0.5)).tolist() == pytest.approx([192, 192])


@pytest.mark.parametrize("kernel", ["box", "linear", "cubic"])
def test_one_draw_of_its_gradient_is_unbiased(kernel, report):
    """E grad |phi(y - x_t)|^2 is the gradient of |phi(y - alpha x_0)|^2 + sigma^2 |phi|^2."""
    phi, y, source, t = LowPass(4, kernel), normal(1, 3, 8, 8, seed=1), normal(1, 3, 8, 8), f64(0.4)
    process = VP()
    distance, (alpha, sigma) = low_pass_distance(phi, process), process.at(t, y)
    z = normal(1, 3, 8, 8, seed=2)
    # it is linear in z, so the mean over z and -z is the mean over all z
    one, two = (gradient(against(distance, Reference(process, source, lambda _, w=w: w)), y, t)
                for w in (z, -z))  # fmt: skip
    exact = gradient(Energy(lambda v, t: phi(v - alpha * source).square().flatten(1).sum(1)), y, t)
    torch.testing.assert_close((one + two) / 2, exact, rtol=1e-10, atol=1e-12)
    assert (one - exact).norm() > 0.1
    # and the energy itself is biased by sigma^2 |phi|^2 times 3 channels, which has no gradient
    matrix = torch.kron(phi.matrix(8), phi.matrix(8))
    many = Noise(range(4000))(torch.zeros(4000, 3, 8, 8).double())
    x_t = process.perturb(source.expand_as(many), t, many)
    mean = distance(y.expand_as(x_t), x_t, t).mean()
    want = phi(y - alpha * source).square().sum() + 3 * sigma**2 * matrix.square().sum()
    assert mean.item() == pytest.approx(want.item(), rel=0.02)
    report(
        f"one draw of grad E_i against its mean, relative, {kernel}",
        float((one - exact).norm() / exact.norm()),
    )


@PROCESSES
def test_spent_is_the_integral_of_beta(process):
    t = grid(process, 5, "log_snr", clean=True)
    alpha, sigma = process(t)
    torch.testing.assert_close(spent(process, t), ((alpha**2 + sigma**2) / alpha**2).log())
    assert spent(process, t)[-1] == 0


@PROCESSES
@pytest.mark.parametrize("steps", [1, 5, 20])
def test_beyond_the_stable_weight_an_explicit_step_overshoots(process, steps):
    """Unit-variance data, one ancestral step: d is multiplied by -1 at the bound, by less beyond."""
    times = grid(
        process, steps, "karras", start=process.time(DDPM().log_snr(f64(0.6))).item(), clean=True
    )
    f = gaussian([0.0] * 64, [1.0] * 64, process)
    most = stable_weight(process, times)
    none = lambda like: torch.zeros_like(like)
    factors = []
    flat = lambda y: y.reshape(1, 1, 8, 8)
    for t, s in itertools.pairwise(times):
        # the source is 0 and draws no noise, so d = y; in variance-preserving coordinates
        x = Reference(process, torch.zeros(1, 1, 8, 8).double(), none)
        energy = most * against(low_pass_distance(LowPass(4, "box"), process), x)
        guided = Guided(f, lambda y, t, e=energy: e(flat(y), t))
        y = torch.ones(1, 64).double()
        y = integrate("ancestral", guided, y, torch.stack([t, s]), noise=none)
        norms = [(a**2 + b**2).sqrt() for a, b in map(process, (t, s))]
        factors.append((y.mean() * norms[0] / norms[1]).item())
    assert min(factors) == pytest.approx(-1, abs=1e-6)


def test_stable_weight_of_the_papers_chain():
    """systems of 1000 steps: 2 lambda beta / sqrt(1 - beta) < 2 within beta, lambda < 50."""
    assert stable_weight(DDPM(), grid(DDPM(), 1000, "chain", clean=True)) == pytest.approx(
        50, rel=0.02
    )


def test_the_exact_step_is_the_limit_of_many_explicit_ones():
    """Without a model: d(t_0) .. d(0) by `Pulled` against the gradient in 20,000 small steps."""
    phi, process, weight = LowPass(4, "linear"), Cosine(), 0.7
    source, y = torch.zeros(1, 1, 8, 8).double(), normal(1, 1, 8, 8)
    times = grid(process, 7, start=0.5, clean=True)
    x = Reference(process, source, lambda like: torch.zeros_like(like))
    pull = Pulled(phi, weight, x, times)
    got = pull(y, times[0])
    assert torch.equal(got, y)  # nothing at the start
    for s in times[1:]:
        got = pull(got, s)
    total = spent(process, times[0]).item()
    d, n = y, 20000
    for _ in range(n):
        d = d - total / n * weight * 2 * phi(phi(d))
    torch.testing.assert_close(got, d, rtol=0, atol=2e-4)
    assert (got - y).abs().max() > 0.1
    for huge in (1e3, 1e30):
        again = Pulled(phi, huge, x, times)(y, times[3])
        assert again.isfinite().all()
        assert phi(again).norm() < phi(y).norm()


# ---- similarity ---------------------------------------------------------------------------------


def conv(seed=0):
    w = normal(5, 3, 3, 3, seed=seed)
    return lambda x, t: torch.nn.functional.conv2d(x, w.to(x), stride=2).sin()


def test_similarity():
    cosine, y, x = similarity(conv()), normal(*SHAPE), normal(*SHAPE, seed=1)
    value = cosine(y, x, f64(0.5))
    u, v = conv()(y, 0.5), conv()(x, 0.5)
    want = torch.nn.functional.cosine_similarity(u, v, dim=1).mean((1, 2))
    torch.testing.assert_close(value, want, rtol=1e-12, atol=1e-12)
    assert (value.abs() <= 1).all()
    torch.testing.assert_close(cosine(y, y, 0.5), torch.ones(4).double())
    assert torch.equal(gradient(Energy(lambda y, t: cosine(y, x, t)), x, 0.5), torch.zeros_like(x))
    scale = 0.1 + normal(4, 1, 3, 3).abs()  # each position by its own number
    scaled = similarity(lambda z, t: conv()(z, t) * (scale if z is not x else 1))
    torch.testing.assert_close(scaled(y, x.clone(), 0.5), value)


# ---- classifiers and regressors -----------------------------------------------------------------


class Exact:
    """The classifier of a mixture's components."""

    def __init__(self, f):
        self.f, self.process, self.domains = f, f.process, f.domains

    def __call__(self, x, t):
        return self.f.weights.log() + self.f.log_densities(x, t)


@PROCESSES
def test_guidance_at_scale_one_is_the_component(process, report):
    means = 2 * normal(3, 4)
    covs = torch.stack([a @ a.mT / 4 + torch.eye(4) / 9 for a in normal(3, 4, 4, seed=1)])
    f = Mixture(means, covs, f64([0.5, 0.2, 0.3]), process, ("a", "b", "c"))
    x, worst = 2 * normal(50, 4, seed=2), 0.0
    for share in (0.05, 0.2, 0.5, 0.8):
        t = process.time(DDPM().log_snr(f64(share)))
        alpha, sigma = process.at(t, x)
        x_t = (alpha**2 + sigma**2).sqrt() * x
        for c, name in enumerate(f.domains):
            g = Guided(f, domain_surprise(Exact(f), c))
            got, want = (
                score_of(m, x_t, alpha, sigma) for m in (g(x_t, t), f(x_t, t, domain=name))
            )
            worst = max(worst, ((got - want).abs().max() / want.abs().max()).item())
    report(f"classifier guidance at scale 1 against the component's score, {process}", worst)
    assert worst < 1e-10
    # and the classes' gradients cancel on average
    p = f.responsibilities(x_t, t)
    sums = sum(p[:, [c]] * gradient(domain_surprise(Exact(f), c), x_t, t) for c in range(3))
    assert sums.abs().max() < 1e-10


@PROCESSES
def test_controllable_generation_of_joint_gaussians(process, report):
    """Eq. 4.1: score(x_t) + grad log p_t(y | x_t) = score(x_t | y), x and y jointly Gaussian."""
    a = normal(5, 5, seed=3)
    joint = a @ a.mT + 0.3 * torch.eye(5).double()
    m, (xx, xy, yy) = normal(5, seed=4), (joint[:3, :3], joint[:3, 3:], joint[3:, 3:])
    y, x = normal(20, 2, seed=5), normal(20, 3, seed=6)
    f = Mixture(m[None, :3], xx[None], process=process)

    def regress(x_t, t):
        alpha, sigma = process.at(t, x_t)
        gain = alpha * xy.mT @ torch.linalg.inv(alpha**2 * xx + sigma**2 * torch.eye(3).double())
        return MultivariateNormal(m[3:] + (x_t - alpha * m[:3]) @ gain.mT, yy - alpha * gain @ xy)

    worst = 0.0
    for share in (0.05, 0.3, 0.6, 0.9):
        t = process.time(DDPM().log_snr(f64(share)))
        alpha, sigma = process.at(t, x)
        got = score_of(Guided(f, surprise(regress, y))(x, t), x, alpha, sigma)
        # x given y is Gaussian, too
        gain = xy @ torch.linalg.inv(yy)
        mean, cov = m[:3] + (y - m[3:]) @ gain.mT, xx - gain @ xy.mT
        precision = torch.linalg.inv(alpha**2 * cov + sigma**2 * torch.eye(3).double())
        want = -(x - alpha * mean) @ precision
        worst = max(worst, ((got - want).abs().max() / want.abs().max()).item())
    report(f"eq. 4.1 against the conditional score, {process}", worst)
    assert worst < 1e-10


def test_surprise_sums_over_an_image():
    mean, y = normal(*SHAPE), normal(*SHAPE, seed=1)
    energy = surprise(lambda x, t: Normal(mean, 2.0), y)
    want = -Normal(mean, 2.0).log_prob(y).sum((1, 2, 3))
    torch.testing.assert_close(energy(y, 0.5), want)


# ---- one's own ----------------------------------------------------------------------------------


def test_edges_and_masks():
    y, t = normal(*SHAPE), f64(0.5)
    lighter = y + 0.3
    assert edges(Cosine())(lighter, y, t).abs().max() < 1e-20
    assert (edges(Cosine())(1.1 * y, y, t) > 0.1).all()
    half = torch.zeros(8, 8)
    half[:, 4:] = 1
    distance = masked(low_pass_distance(LowPass(1), Cosine()), half)
    moved = y.clone()
    moved[..., :4] += 1
    assert torch.equal(distance(moved, y, t), torch.zeros(4).double())
    g = gradient(Energy(lambda v, t: distance(v, torch.zeros_like(v), t)), y, t)
    assert torch.equal(g[..., :4], torch.zeros_like(g[..., :4]))
    torch.testing.assert_close(g[..., 4:], 2 * y[..., 4:])


def test_product_of_experts_in_one_dimension(report):
    """score - grad E is the score of p_t exp(-E), numerically, for a mixture and a wavy energy."""
    f = Mixture(f64([[-1.0], [1.5]]), f64([[[0.05]], [[0.2]]]), f64([0.3, 0.7]), Cosine())
    energy = lambda x, t: (3 * x).sin().sum(-1) + 0.5 * (x**2).sum(-1) * t
    x, h, worst = torch.linspace(-3, 3, 601).double()[:, None], 1e-5, 0.0
    for t in (0.1, 0.4, 0.8):
        log_p = lambda v, t=t: (
            (f.weights.log() + f.log_densities(v, t)).logsumexp(-1) - energy(v, t)
        )
        numeric = (log_p(x + h) - log_p(x - h)) / (2 * h)
        alpha, sigma = Cosine().at(t, x)
        got = score_of(Guided(f, energy)(x, t), x, alpha, sigma)[:, 0]
        worst = max(worst, ((got - numeric).abs() / (1 + numeric.abs())).max().item())
    report("score - grad E against the slope of log p exp(-E), 1-D", worst)
    assert worst < 1e-8


# ---- projections and cost -----------------------------------------------------------------------


def test_projected_guidance_of_points_in_the_plane():
    """An energy of distances: equivariant, and after the projection the centre stays where it was."""
    anchor = f64([1.0, 0.0])

    def shape(x, t):  # of pairwise distances, and of distances to the first point
        apart = (x[:, :, None] - x[:, None]).square().sum(-1)
        return (apart - 1).square().sum((1, 2)) + x.square().sum((1, 2)) * t

    x, r = normal(3, 5, 2), rotation(0.7)
    g = gradient(Energy(shape), x, 0.5)
    torch.testing.assert_close(gradient(Energy(shape), x @ r.mT, 0.5), g @ r.mT)
    assert g.mean(1).abs().max() > 0.01
    p = zero_mean(g)
    assert p.mean(1).abs().max() < 1e-14
    torch.testing.assert_close(zero_mean(p), p)
    torch.testing.assert_close(zero_mean(g @ r.mT), p @ r.mT)

    def free(x_t, t):
        return x_t

    free.process = Cosine()
    guided = Guided(free, shape, project=zero_mean)
    torch.testing.assert_close(guided(x, 0.5).mean(1), x.mean(1))
    assert (guided(x, 0.5) - x).abs().max() > 0.1
    moved = (x + anchor) @ r.mT  # equivariant as a whole, for what only knows distances
    only = Guided(free, lambda v, t: shape(v, 0 * t), project=zero_mean)
    torch.testing.assert_close(only(moved, 0.5), (only(x, 0.5) + anchor) @ r.mT)


@pytest.mark.parametrize("every", [1, 2, 3, 5])
def test_guidance_every_kth_step_keeps_the_gradient(every):
    asked = []

    def energy(x, t):
        asked.append(float(t))
        return x.square().sum(-1)

    f, seen = gaussian([0.0] * 3, [1.0] * 3, Cosine()), []
    guided, times = Guided(f, energy, every=every), grid(f.process, 10, clean=True)
    watch = lambda t, x, mean, extras: seen.append(extras["push/energy"])
    integrate("ddim", guided, normal(2, 3), times, watch=watch)
    assert asked == times[:-1:every].tolist()
    assert len(seen) == 10


@pytest.mark.parametrize("every", [1, 2, 3, 4])
def test_heun_is_guided_at_the_levels_of_ddim(every):
    """Not at every so many of its evaluations, which are two a step; and so in each repeat."""
    f, times = gaussian([0.0] * 3, [1.0] * 3, Cosine()), grid(Cosine(), 9, clean=True)
    levels = {}
    for solver in ("ddim", "heun"):
        asked = []
        energy = lambda x, t, asked=asked: (asked.append(float(t)), x.square().sum(-1))[1]
        guided = Guided(f, energy, every=every)
        for _ in range(2):
            integrate(solver, guided, normal(2, 3), times)
        half = len(asked) // 2
        assert asked[:half] == asked[half:]
        levels[solver] = sorted(set(asked), reverse=True)
    assert levels["heun"] == levels["ddim"] == times[:-1:every].tolist()


def test_what_guidance_did_is_told_to_the_trace_alone():
    f, x = gaussian([0.0] * 3, [1.0] * 3, Cosine()), normal(4, 3)
    one = Guided(f, lambda v, t: v.square().sum(-1), name="one")
    both = Clipped(Guided(ClassifierFree(one, f, 0.5), lambda v, t: v.sum(-1), name="two"))
    before = {k: dict(vars(m)) for k, m in both.named_modules()}
    y = both(x, 0.5, trace := Trace())
    assert {k: dict(vars(m)) for k, m in both.named_modules()} == before
    names = {"energy/one", "push/one", "push/classifier_free", "energy/two", "push/two"}
    assert trace.told.keys() == names
    assert torch.equal(trace.told["energy/one"], x.square().sum(-1))
    assert torch.equal(both(x, 0.5), y)


@pytest.mark.parametrize("every", [1, 2, 3])
@pytest.mark.parametrize("clean", [True, False], ids=["clean", "t_min"])
@pytest.mark.parametrize("solver", sorted(STEPS.keys() - {"dopri5"}))
def test_every_counts_steps_whatever_a_step_asks(solver, clean, every):
    """Levels of the grid, one for each step: heun and the corrector ask twice at each of them."""
    asked, evaluated, f = [], [], gaussian([0.0] * 3, [1.0] * 3, Cosine())
    energy = lambda x, t: (asked.append(float(t)), x.square().sum(-1))[1]
    denoiser = lambda x, t: (evaluated.append(float(t)), f(x, t))[1]
    denoiser.process, times = f.process, grid(f.process, 6, clean=clean)
    guided = Guided(denoiser, energy, every=every)
    integrate(solver, guided, normal(2, 3), times, noise=Noise([0, 1]))
    levels = sorted(set(evaluated), reverse=True)
    assert levels[:6] == times[:6].tolist()
    assert asked == [t for t in evaluated if levels.index(t) % every == 0]


def test_an_adaptive_solver_keeps_no_gradient():
    """It tells steps from tries by the gradient's change: a kept one would be an error that it sees."""
    f, x = gaussian([0.0] * 3, [1.0] * 3, Cosine()), normal(2, 3)
    times, energy = grid(f.process, 1, start=0.9), lambda x, t: x.square().sum(-1) / 2
    want = integrate("dopri5", Guided(f, energy), x, times)
    assert torch.equal(integrate("dopri5", Guided(f, energy, every=4), x, times), want)


def test_every_kth_counts_from_the_start_of_each_repeat():
    asked = []

    def energy(x, t):
        asked.append(float(t))
        return x.square().sum(-1)

    f, x = gaussian([0.0] * 3, [1.0] * 3, Cosine()), normal(2, 3)
    guided = Guided(f, energy, every=3)
    times = grid(
        f.process, 5, clean=True
    )  # five are no multiple of three: the count must begin anew
    for _ in range(2):
        integrate("ddim", guided, x, times)
    assert asked == 2 * times[[0, 3]].tolist()


def test_the_weight_of_an_energy_without_a_push_has_no_bound():
    f, x = gaussian([0.0] * 3, [1.0] * 3, Cosine()), normal(4, 3)
    assert strong_weight(Energy(lambda v, t: 0 * v.sum(-1)), f, x, f64(0.5)) == float("inf")
    sigma = Cosine()(f64(0.5))[1].item()
    got = strong_weight(Energy(lambda v, t: 3 * v.sum(-1)), f, x, f64(0.5))
    assert got == pytest.approx(1 / (3 * sigma))


def test_pushes_are_the_moves_of_eps():
    f, x = gaussian([0.0] * 3, [1.0] * 3, Cosine()), normal(4, 3)
    Guided(f, lambda v, t: 3 * v.sum(-1))(x, 0.5, trace := Trace())
    _, sigma = Cosine().at(0.5, x)
    torch.testing.assert_close(trace.told["push/energy"], (3 * sigma).expand(4))


def test_what_is_no_energy():
    f, x = gaussian([0.0] * 3, [1.0] * 3, Cosine()), normal(4, 3)
    for energy, message in (
        (lambda x, t: x.sum(), r"one number an image.* answered a Tensor of shape \(\)"),
        (lambda x, t: x, r"shape \(4, 3\) of torch.float64: expected a tensor of floats of shape \(4\)"),
        (lambda x, t: x.detach().sum(-1), "has lost its gradient"),
        (lambda x, t: torch.zeros(4, requires_grad=True) * 1, "has lost its gradient"),
    ):
        with pytest.raises(ValueError, match=message):
            Guided(f, energy)(x, 0.5)
    with pytest.raises(ValueError, match="every must be at least 1, not 0"):
        Guided(f, lambda x, t: x.sum(-1), every=0)


def test_a_bound_is_in_the_units_of_its_option():
    """Weight 6 is what the user calls 2: a strong weight of 1 / (3 sigma) is 1 / (9 sigma) to the user."""
    f, x = gaussian([0.0] * 3, [1.0] * 3, Cosine()), normal(4, 3)
    terms = Terms(realism=(2.0, 6.0, Energy(lambda v, t: 3 * v.sum(-1)), "sample"))
    value, bound = terms.bounds(f, x, f64(0.5))["realism"]
    assert (value, bound) == (2.0, pytest.approx(1 / (9 * Cosine()(f64(0.5))[1].item())))


def test_edges_are_counted_in_both_directions():
    """A ramp down the rows and one along the columns cost the same; a lone pixel has four edges."""
    flat, ramp = torch.zeros(1, 1, 4, 4).double(), torch.arange(4).double().expand(1, 1, 4, 4)
    for image in (ramp, ramp.mT):
        assert edges(Cosine())(flat + 2 * image, flat, f64(0.5)).item() == pytest.approx(4 * 3 * 2**2)
    flat[..., 1, 2] = 3.0
    assert edges(Cosine())(flat, 0 * flat, f64(0.5)).item() == pytest.approx(4 * 3**2)


@pytest.mark.parametrize("odd", [None, 1.0, [1.0] * 4, torch.zeros(3, 3), torch.zeros(4, 3).int()])
def test_odd_answers_of_ones_own_functions_are_named(odd):
    f, x = gaussian([0.0] * 3, [1.0] * 3, Cosine()), normal(4, 3)
    times = grid(f.process, 2)
    with pytest.raises(UserError, match="^after= answered .*: expected a tensor of floats of shape"):
        integrate("ddim", f, x, times, after=lambda x, s: odd)

    class Odd:
        process, domains = f.process, ("A", "B", "C")

        def __call__(self, x, t):
            return odd

        features = __call__

    with pytest.raises(UserError, match="^the denoiser answered "):
        integrate("ddim", Odd(), x, times)
    with pytest.raises(UserError, match="^the classifier answered "):
        Guided(f, domain_surprise(Odd(), 1))(x, 0.5)
    with pytest.raises(UserError, match="^features answered "):
        Guided(f, against(similarity(Odd().features), Reference(f.process, x, torch.randn_like)))(x, 0.5)
    with pytest.raises(UserError, match="^the energy .* answered "):
        Guided(f, lambda y, t: odd)(x, 0.5)
    with pytest.raises(UserError, match="^project= answered "):
        Guided(f, lambda y, t: y.sum(1), project=lambda g: odd)(x, 0.5)
    with pytest.raises(UserError, match="^the solver answered "):
        integrate(lambda f, past, s, noise: odd, f, x, times)
    with pytest.raises(UserError, match="^noise= answered "):
        integrate("ancestral", f, x, times, noise=lambda like: odd)


@pytest.mark.parametrize("kernel", ["box", "linear", "cubic"])
@pytest.mark.parametrize("name", ENERGIES)
def test_the_steepest_change_of_an_energy_is_what_its_row_says(name, kernel):
    """By power iteration: the gradient of |A d|^2 is 2 A^T A d."""
    function, d = named(name, LowPass(4, kernel), Cosine()), normal(1, 1, 16, 16)
    for _ in range(200):
        d = (d / d.norm()).requires_grad_()
        (d,) = torch.autograd.grad(function(d, torch.zeros_like(d), f64(0.5)).sum() / 2, d)
    assert 0.95 * STEEPEST[name] < d.norm().item() < 1.01 * STEEPEST[name]
