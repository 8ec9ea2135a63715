"""Denoisers: conversions, four parametrisations of one answer, losses with known minima, laws of t."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from torch import nn
from truth import Linear, f64, gaussian, normal, tiny_denoiser

from sfumato.core.errors import UserError
from sfumato.diffusion import denoiser as convert
from sfumato.diffusion.denoiser import Denoiser
from sfumato.diffusion.integrate import integrate
from sfumato.diffusion.process import DDPM, VE, VP, Cosine, Flow
from sfumato.diffusion.time_grids import grid

PREDICTIONS = ["eps", "x0", "v", "edm"]
PROCESSES = [VP(), DDPM(), Cosine(), VE(), Flow()]
levels = st.floats(0.01, 2.0)
numbers = st.floats(-10, 10)


@given(numbers, numbers, levels, levels)
def test_conversions_invert(mean, x_t, alpha, sigma):
    mean, x_t, alpha, sigma = (f64(v) for v in (mean, x_t, alpha, sigma))
    eps = convert.eps_of(mean, x_t, alpha, sigma)
    got = convert.mean_of_eps(eps, x_t, alpha, sigma)
    torch.testing.assert_close(got, mean, rtol=1e-9, atol=1e-9)


@given(numbers, numbers, levels, levels)
def test_conversions_know_x_and_z(x, z, alpha, sigma):
    """When x and z are known, eps is z, v is alpha z - sigma x, and the score is -z / sigma."""
    x, z, alpha, sigma = (f64(v) for v in (x, z, alpha, sigma))
    x_t = alpha * x + sigma * z
    close = lambda a, b: torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-8)
    close(convert.eps_of(x, x_t, alpha, sigma), z)
    close(convert.mean_of_v(alpha * z - sigma * x, x_t, alpha, sigma), x)
    close(sigma * convert.score_of(x, x_t, alpha, sigma), -z)


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("process", PROCESSES, ids=lambda p: type(p).__name__)
def test_the_loss_has_its_minimum_at_the_exact_denoiser(process, prediction):
    """Data +-0.7 and noise +-1 have the second moments of N(0.3, 0.49) and N(0, 1).

    The loss of the net w x + b is quadratic; its minimum, by one Newton step, is the Gaussian's
    denoiser, whatever is predicted.
    """
    x = 0.3 + 0.7 * f64([[-1.0], [-1.0], [1.0], [1.0]])
    z = f64([[-1.0], [1.0], [-1.0], [1.0]])
    exact, probe = gaussian([0.3], [0.49], process), f64([[-2.0], [0.1], [3.0]])
    for u in (0.05, 0.3, 0.9):
        t = process.t_min + u * (process.t_max - process.t_min)
        f = Denoiser(net=Linear(), process=process, prediction=prediction)

        def gradient(w, b, f=f, t=t):
            with torch.no_grad():
                f.net.w.fill_(w), f.net.b.fill_(b)
            loss = f.loss(x, torch.full((4,), t, dtype=torch.float64), z)
            return torch.stack(torch.autograd.grad(loss, [f.net.w, f.net.b]))

        g0, g1, g2 = gradient(0, 0), gradient(1, 0), gradient(0, 1)  # g(w) = g0 + H w
        best = -torch.linalg.solve(torch.stack([g1 - g0, g2 - g0], 1), g0)
        torch.testing.assert_close(
            gradient(*best.tolist()), torch.zeros_like(g0), rtol=0, atol=1e-9
        )
        torch.testing.assert_close(f(probe, t).detach(), exact(probe, t), rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("process", PROCESSES, ids=lambda p: type(p).__name__)
def test_forward_inverts_what_the_loss_asks_for(process, prediction):
    """A net that predicts the loss' target perfectly gives loss 0 and E[x | x_t] = x."""
    x, z = normal(4, 3), normal(4, 3, seed=1)
    t = process.t_min + f64([0.1, 0.3, 0.6, 0.95]) * (process.t_max - process.t_min)
    alpha, sigma = process.at(t, x)
    norm, d = (alpha**2 + sigma**2).sqrt(), 0.5
    rel = sigma / alpha
    target = {
        "eps": z,
        "x0": x,
        "v": (alpha * z - sigma * x) / norm,
        "edm": (x - d**2 / (d**2 + rel**2) * (x + rel * z)) * (d**2 + rel**2).sqrt() / (rel * d),
    }[prediction]

    class Oracle(nn.Module):
        def forward(self, y, log_sigma, label):
            torch.testing.assert_close(log_sigma, rel.log().flatten())
            scale = alpha * (rel**2 + d**2).sqrt() if prediction == "edm" else norm
            torch.testing.assert_close(y * scale, alpha * x + sigma * z)
            return target

    f = Denoiser(net=Oracle(), process=process, prediction=prediction, sigma_data=d)
    assert f.loss(x, t, z).item() == pytest.approx(0, abs=1e-20)
    got = f(process.perturb(x, t, z), t)
    torch.testing.assert_close(got, x, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_the_process_may_change_after_training(prediction):
    """At equal log-SNR two processes ask the network the same question."""
    f = tiny_denoiser(prediction=prediction)
    x, z = (
        torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0)).double(),
        normal(2, 3, 8, 8),
    )
    f, t = f.double(), f64([0.2, 0.8])
    want = f(f.process.perturb(x, t, z), t, domain="a")
    for process in (VP(), DDPM(), VE(), Flow()):
        s = process.time(f.process.log_snr(t))
        f2 = Denoiser(net=f.net, process=process, prediction=prediction, domains=f.domains)
        torch.testing.assert_close(
            f2(process.perturb(x, s, z), s, domain="a"), want, rtol=1e-6, atol=1e-7
        )


def test_a_zero_net_has_loss_one(report):
    """For eps: E z^2 = 1 at every t; the loss is the mean squared error of eps exactly."""
    f = Denoiser(net=Linear(), process=VP(), prediction="eps")
    x, z = normal(4000, 4), normal(4000, 4, seed=1)
    losses = [f.loss(x, torch.full((4000,), t).double(), z).item() for t in (1e-3, 0.1, 0.5, 1.0)]
    report("loss of a zero net at t = 0.001, 0.1, 0.5, 1", *losses)
    assert losses == pytest.approx([z.square().mean().item()] * 4, rel=1e-12)
    assert losses[0] == pytest.approx(1, abs=4 * (2 / 16000) ** 0.5)
    with torch.no_grad():
        f.net.w.fill_(0.7)
    t = torch.full((4000,), 0.3).double()
    eps = 0.7 * f.process.perturb(x, t, z)
    assert f.loss(x, t, z).item() == pytest.approx((eps - z).square().mean().item(), rel=1e-12)


def test_labels():
    seen = []

    class Net(nn.Module):
        def forward(self, x, log_sigma, label):
            seen.append(label)
            return x

    f, x = Denoiser(net=Net(), domains=("cat", "dog")), torch.zeros(3, 3, 4, 4)
    for domain in ("cat", "dog", None, torch.tensor([1, 0, 2])):
        f(x, 0.5, domain=domain)
    assert [label.tolist() for label in seen] == [[0] * 3, [1] * 3, [2] * 3, [1, 0, 2]]
    with pytest.raises(ValueError, match="unknown domain 'dgo': did you mean 'dog'.*cat, dog"):
        f(x, 0.5, domain="dgo")
    f = Denoiser(net=Net())
    f(x, 0.5)
    assert seen[-1] is None
    with pytest.raises(ValueError, match="the model has no domains, 'cat' was asked for"):
        f(x, 0.5, domain="cat")


def test_the_conditioning_comes_behind_the_noisy_image():
    class First(nn.Module):
        def forward(self, x, log_sigma, label):
            assert x.shape[1] == 6
            return x[:, :3]

    f = Denoiser(net=First(), prediction="x0", process=VP())
    x, image = torch.randn(2, 3, 4, 4), torch.randn(2, 3, 4, 4)
    torch.testing.assert_close(f(x, 0.5, image=image), x)


@pytest.mark.parametrize("process", [Cosine(), VP(), Flow()], ids=str)
def test_times_follow_their_law(process):
    rng = torch.Generator().manual_seed(0)
    f = Denoiser(net=nn.Identity(), process=process, lognormal_mean=-0.3, lognormal_std=1.1)
    t = f.draw_times(4000, rng)
    assert t.dtype == torch.float64
    log_sigma = -process.log_snr(t) / 2
    inside = (t > process.t_min) & (t < process.t_max)
    assert inside.float().mean() > 0.99
    assert stats.kstest(log_sigma.numpy(), "norm", (-0.3, 1.1)).statistic < 2e-3  # stratified
    f = Denoiser(net=nn.Identity(), process=process, times="wide", lognormal_mean=3.0)
    log_sigma = -process.log_snr(f.draw_times(4000, rng)) / 2
    quartiles = np.quantile(log_sigma.numpy(), [0.25, 0.5, 0.75])  # the law is cut at the process's ends
    np.testing.assert_allclose(quartiles, stats.norm(-1, 2).ppf([0.25, 0.5, 0.75]), atol=0.02)
    f = Denoiser(net=nn.Identity(), process=process, times="uniform")
    t = f.draw_times(4000, rng)
    law = stats.uniform(process.t_min, process.t_max - process.t_min)
    assert stats.kstest(t.numpy(), law.cdf).statistic < 2e-3
    one_each = (law.cdf(t.numpy()) * 4000).astype(int)
    assert (np.sort(one_each) == np.arange(4000)).mean() > 0.999
    assert abs(np.corrcoef(one_each, np.arange(4000))[0, 1]) < 0.05  # in any order
    f = Denoiser(net=nn.Identity(), process=process, times="log_uniform")
    log_snr = process.log_snr(f.draw_times(4000, rng))
    ends = process.log_snr(torch.tensor([process.t_max, process.t_min], dtype=torch.float64))
    law = stats.uniform(ends[0], ends[1] - ends[0])
    assert stats.kstest(log_snr.numpy(), law.cdf).statistic < 2e-3


def test_times_are_drawn_anew_and_reproducibly():
    f = Denoiser(net=nn.Identity())
    rng = torch.Generator().manual_seed(0)
    a, b = f.draw_times(5, rng), f.draw_times(5, rng)
    assert not torch.equal(a, b)
    assert torch.equal(a, f.draw_times(5, torch.Generator().manual_seed(0)))


@pytest.mark.parametrize(
    "options", [{"prediction": "noise"}, {"times": "normal"}, {"lognormal_std": 0.0}], ids=str
)
def test_bad_fields_are_refused(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        Denoiser(net=nn.Identity(), **options)


def test_a_network_and_a_state_may_have_different_types():
    f, x = tiny_denoiser(), normal(1, 3, 8, 8)
    times, states = grid(f.process, 2), {}
    for net in (torch.float32, torch.float64):
        for state in (torch.float32, torch.float64):
            y = integrate("ddim", f.to(net), x.to(state), times)
            assert y.dtype == state
            states[net, state] = y.double()
    for y in states.values():
        torch.testing.assert_close(y, states[torch.float64, torch.float64], rtol=0, atol=1e-4)


@pytest.mark.parametrize("shape", [(3, 8, 8), (8, 8)])
def test_what_is_no_batch_is_said_to_be_none(shape):
    f = tiny_denoiser()
    with pytest.raises(UserError, match=r"a batch \(B, 3, H, W\), not a tensor of shape"):
        integrate("ddim", f, torch.zeros(shape), grid(f.process, 2))


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("process", PROCESSES, ids=lambda p: type(p).__name__)
def test_beyond_the_trained_times_the_answer_is_that_at_the_nearest(process, prediction):
    f, x = Denoiser(net=Linear(), process=process, prediction=prediction), normal(2, 3)
    for t, end in ((0.0, process.t_min), (1.0, process.t_max)):
        assert torch.equal(f(x, t), f(x, end))
        assert f(x, t).isfinite().all()
        assert f.loss(x, f64([t, t]), x).isfinite()


@pytest.mark.parametrize("t", [-1.0, 2.0, float("nan"), "a", None], ids=str)
def test_a_denoiser_refuses_what_is_no_time(t):
    with pytest.raises(Exception, match=r"times must be|Type-check error.*seen"):  # the latter of beartype
        tiny_denoiser()(torch.zeros(1, 3, 8, 8), t)


@pytest.mark.parametrize(
    ("labels", "says"),
    [
        ([0, 9], r"labels must be in \[0, 2\], 2 for any domain, not \[0, 9\]"),
        ([-1, 0], r"labels must be in \[0, 2\]"),
        ([0.0, 1.0], r"a name or whole numbers of shape \(2,\), one an image, not a tensor of torch.float32"),
        ([0, 1, 1], r"whole numbers of shape \(2,\)"),
    ],
)
def test_labels_of_no_domain_are_refused(labels, says):
    with pytest.raises(UserError, match=says):
        tiny_denoiser()(torch.zeros(2, 3, 8, 8), 0.5, torch.tensor(labels))


def test_what_no_denoiser_is_made_of_or_learns_from():
    for fields, says in (
        ({"domains": ("a", "a")}, "domains must have different names, not a, a"),
        ({"process": Cosine}, r"not its class: type Cosine\(\)"),
        ({"sigma_data": 0.0}, "sigma_data must be above 0"),
    ):
        with pytest.raises(UserError, match=says):
            Denoiser(net=nn.Identity(), **fields)
    f, x = tiny_denoiser(), torch.zeros(2, 3, 8, 8)
    for z in (None, x[:1]):
        with pytest.raises(UserError, match="z, the noise of x, is"):
            f.loss(x, f64([0.5, 0.5]), z)
    with pytest.raises(UserError, match=r"the network is on cpu, x_t on meta: .*\.to\("):
        f(x.to("meta"), 0.5)
