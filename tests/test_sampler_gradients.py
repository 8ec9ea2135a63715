"""Gradients through a sampler: equal to plain backpropagation, and what is kept for them."""

import pytest
import torch
from torch import nn
from truth import f64, gaussian, lively, normal

from sfumato.diffusion.denoiser import Denoiser
from sfumato.diffusion.exact import Mixture
from sfumato.diffusion.guidance import Conditioned
from sfumato.diffusion.integrate import ODE, STEPS, integrate
from sfumato.diffusion.noise import Noise
from sfumato.diffusion.process import Cosine
from sfumato.diffusion.sampler_gradients import integrate_flat
from sfumato.diffusion.time_grids import grid
from sfumato.nets.sizes import make_net

FIXED = sorted(ODE.keys() - {"dopri5"})  # which chooses its own steps


@pytest.fixture(scope="module")
def denoiser():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = make_net("tiny", conditioning=3)
    return Denoiser(net=lively(net)).double()


def gradients(sampler, solver, denoiser, times):
    """The result, and the loss' gradients to start, condition (by way of a product) and parameters."""
    x, image = (normal(2, 3, 4, 4, seed=k).requires_grad_() for k in (1, 2))
    on = Conditioned(denoiser=denoiser).on(1.5 * image)
    y = sampler(solver, on, x, times, noise=Noise([3, 4]))
    loss = (y * normal(2, 3, 4, 4, seed=5)).sum()
    wanted = [x, image, *denoiser.parameters()]
    return [y, *torch.autograd.grad(loss, wanted, allow_unused=True)]


def distance(got, want):
    """The largest relative difference of any tensor; what is unused is zero or None."""
    far = 0.0
    for a, b in zip(got, want, strict=True):
        if b is None or b.norm() == 0:
            assert a is None or a.norm() == 0
        else:
            far = max(far, ((a - b).norm() / b.norm()).item())
    return far


# ---- the same as plain backpropagation ----------------------------------------------------------


@pytest.mark.parametrize("solver", STEPS)
def test_gradients_are_plain_backpropagation(solver, denoiser, report):
    times = grid(denoiser.process, 7, clean=True)
    want = gradients(integrate, solver, denoiser, times)
    assert all(g.norm() > 0 for g in want[:3])
    far = distance(gradients(integrate_flat, solver, denoiser, times), want)
    report(f"flat, {solver}: gradients against plain backpropagation", far)
    assert far < 1e-10


@pytest.mark.parametrize("solver", FIXED)
def test_gradients_of_encoding_from_the_clean_image(solver, denoiser):
    """t = 0 and t_min are asked alike: a point is forgotten on the way."""
    times = grid(denoiser.process, 6, clean=True).flip(0)
    want = gradients(integrate, solver, denoiser, times)
    assert distance(gradients(integrate_flat, solver, denoiser, times), want) < 1e-10


@pytest.mark.parametrize("solver", FIXED)
def test_gradient_of_a_gaussian_is_closed_form(solver, report):
    """dy/dx = R_s R_t^{-1}, R = (alpha^2 S + sigma^2)^{1/2}."""
    f = gaussian([1.0, -2.0], [0.3, 2.0], Cosine())
    x = normal(4, 2).requires_grad_()
    times = grid(f.process, 50, start=0.9, stop=0.1)
    (got,) = torch.autograd.grad(integrate_flat(solver, f, x, times).sum(), x)
    (a, s), (b, r) = f.process(f64(0.9)), f.process(f64(0.1))
    S = f64([0.3, 2.0])
    want = ((b**2 * S + r**2) / (a**2 * S + s**2)).sqrt()
    error = (got / want - 1).abs().max().item()
    report(f"flat, {solver}, 50 steps: gradient against the closed form", error)
    assert error < (0.03 if solver == "ddim" else 1e-3)


def test_gradients_by_finite_differences():
    f = Mixture(f64([[1.0, 0.0], [-1.0, 0.5]]), f64([[0.3, 0.2], [0.2, 0.3]]).diag_embed())
    times = grid(f.process, 5, start=0.8, stop=0.1)
    run = lambda x: integrate_flat("ab3", f, x, times)
    assert torch.autograd.gradcheck(run, normal(1, 2).requires_grad_())


def test_cycle_of_two_samplers(denoiser):
    """The second is conditioned on the result of the first, and both have the same parameters."""
    times = grid(denoiser.process, 4, clean=True)
    start = normal(2, 3, 4, 4, seed=1).requires_grad_()
    on, wanted = Conditioned(denoiser=denoiser).on, [start, *denoiser.parameters()]
    x = y = source = normal(2, 3, 4, 4)
    for k in range(2):
        x = integrate("sde_dpm2m", on(x), start, times, noise=Noise([k, k + 2]))
        y = integrate_flat("sde_dpm2m", on(y), start, times, noise=Noise([k, k + 2]))
    got, want = (torch.autograd.grad((v - source).square().mean(), wanted) for v in (y, x))
    assert distance(got, want) < 1e-10


def test_dropout_is_drawn_again_as_it_was():
    net = nn.Sequential(nn.Conv2d(3, 8, 1), nn.Dropout(0.5), nn.Conv2d(8, 3, 1)).double()

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = net

        def forward(self, x, log_sigma, label=None):
            return self.body(x)

    denoiser, found = Denoiser(net=Net()).train(), []
    times = grid(denoiser.process, 6, clean=True)
    for sampler in (integrate, integrate_flat):
        torch.manual_seed(0)
        y = sampler("dpm2m", denoiser, normal(2, 3, 4, 4), times)
        before = torch.get_rng_state()
        found.append([y, *torch.autograd.grad(y.square().sum(), list(net.parameters()))])
        assert torch.equal(torch.get_rng_state(), before)
    assert distance(*found) < 1e-10


def test_the_condition_of_a_plain_function():
    f, w = gaussian([0.0], [1.0], Cosine()), f64([0.5]).requires_grad_()

    def scaled(w):
        g = lambda x, t: w * f(x, t)
        g.process = f.process
        return g

    x, times = normal(4, 1), grid(f.process, 9)
    got = torch.autograd.grad(integrate_flat("ab2", scaled(w), x, times).sum(), w)
    want = torch.autograd.grad(integrate("ab2", scaled(w), x, times).sum(), w)
    assert distance(got, want) < 1e-12


# ---- what is kept, and what it costs ------------------------------------------------------------


def test_evaluations():
    """N forwards, and N with a graph."""
    f, asked = gaussian([0.0], [1.0], Cosine()), []
    g = lambda x, t: (asked.append(t), f(x, t))[1]
    g.process = f.process
    y = integrate_flat("dpm2m", g, normal(2, 1).requires_grad_(), grid(f.process, 50))
    assert len(asked) == 50
    y.sum().backward()
    assert len(asked) == 100


def test_the_graph_does_not_grow_with_the_steps(denoiser):
    """Of each step its state and what was said there are saved: a small part of the network's work."""

    def saved(sampler, n):
        sizes = []
        with torch.autograd.graph.saved_tensors_hooks(
            lambda v: (sizes.append(v.numel()), v)[1], lambda v: v
        ):
            f = Conditioned(denoiser=denoiser).on(normal(1, 3, 4, 4))
            sampler("ancestral", f, normal(1, 3, 4, 4), grid(denoiser.process, n), noise=Noise([0]))
        return sum(sizes)

    few, many = saved(integrate_flat, 3), saved(integrate_flat, 30)
    assert many == 10 * few
    assert few < saved(integrate, 3) / 100
    assert saved(integrate, 30) == pytest.approx(10 * saved(integrate, 3), rel=0.05)


def test_noise_is_left_where_integrate_leaves_it(denoiser):
    draws = []
    for sampler in (integrate, integrate_flat):
        noise = Noise([1, 2])
        x = normal(2, 3, 4, 4).requires_grad_()
        f = Conditioned(denoiser=denoiser).on(normal(2, 3, 4, 4))
        y = sampler("ancestral", f, x, grid(f.process, 3), noise=noise)
        y.sum().backward()
        draws.append(noise(x))
    assert torch.equal(*draws)


def test_without_gradients_it_is_integrate():
    f = gaussian([0.0], [1.0], Cosine())
    x, times = normal(2, 1), grid(f.process, 3)
    want = integrate("ab3", f, x, times)
    assert torch.equal(integrate_flat("ab3", f, x, times), want)
    with torch.no_grad():
        assert torch.equal(integrate_flat("ab3", f, x.requires_grad_(), times), want)


# ---- faults -------------------------------------------------------------------------------------


def test_bad_options_are_refused():
    f = gaussian([0.0], [1.0], Cosine())
    x, times = normal(2, 1).requires_grad_(), grid(f.process, 3)
    with pytest.raises(ValueError, match="times must be"):
        integrate_flat("ddim", f, x, times.flip(0)[[1, 0, 2]])
    with pytest.raises(ValueError, match="needs noise="):
        integrate_flat("ancestral", f, x, times)
