"""Exact denoisers against independent derivations: autograd of the log density, linear regression."""

import pytest
import torch
from truth import f64, gaussian, normal, rotation

from sfumato.core.errors import UserError
from sfumato.diffusion.denoiser import score_of
from sfumato.diffusion.exact import Gaussian, Mixture
from sfumato.diffusion.process import VP, Cosine, Flow

MEANS = f64([[1.0, 0.0], [-1.0, 0.5], [0.0, -1.5]])
R = rotation(0.7)
COVARIANCES = torch.stack(
    [torch.diag(f64([0.3, 0.2])), R @ torch.diag(f64([2.0, 0.1])) @ R.T, torch.eye(2, dtype=torch.float64)]
)  # fmt: skip
WEIGHTS = f64([3.0, 1.0, 2.0])  # normalised by the mixture
every = pytest.mark.parametrize("process", [VP(), Cosine(), Flow()], ids=str)


def mixture(process):
    return Mixture(MEANS, COVARIANCES, WEIGHTS, process, ("a", "b", "c"))


def log_density(process, x, t, k):
    """log p_t(x | k), by torch.distributions."""
    alpha, sigma = process(f64(t))
    cov = alpha**2 * COVARIANCES[k] + sigma**2 * torch.eye(2, dtype=torch.float64)
    return torch.distributions.MultivariateNormal(alpha * MEANS[k], cov).log_prob(x)


@every
def test_mixture_score_is_the_gradient_of_its_log_density(process):
    x, t = normal(7, 2).requires_grad_(), 0.4
    logs = torch.stack([log_density(process, x, t, k) for k in range(3)], 1) + (WEIGHTS / 6).log()
    (want,) = torch.autograd.grad(logs.logsumexp(1).sum(), x)
    got = score_of(mixture(process)(x.detach(), t), x.detach(), *process.at(t, x.detach()))
    torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-10)
    want = logs.softmax(1)
    torch.testing.assert_close(mixture(process).responsibilities(x, t), want, rtol=1e-9, atol=1e-12)


@every
def test_a_domain_is_its_component_alone(process):
    x, t = normal(7, 2).requires_grad_(), 0.4
    for k, domain in enumerate("abc"):
        (want,) = torch.autograd.grad(log_density(process, x, t, k).sum(), x)
        got = score_of(
            mixture(process)(x.detach(), t, domain=domain), x.detach(), *process.at(t, x.detach())
        )
        torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-10)
        alone = Gaussian(MEANS[k], COVARIANCES[k], process)(x.detach(), t)
        torch.testing.assert_close(alone, mixture(process)(x.detach(), t, domain=domain))


def test_unknown_domain():
    with pytest.raises(ValueError, match="unknown domain 'd'.*a, b, c"):
        mixture(VP())(normal(2, 2), 0.5, domain="d")


def test_log_densities_are_normalised():
    x = normal(5, 2)
    got = mixture(Cosine()).log_densities(x, 0.3)
    want = torch.stack([log_density(Cosine(), x, 0.3, k) for k in range(3)], 1)
    torch.testing.assert_close(got, want)


@every
def test_gaussian_is_the_regression_of_x_on_x_t(process):
    """On four points with the moments of N(m, S) x N(0, 1) least squares finds the same line."""
    f = gaussian([0.3], [0.49], process)
    x = 0.3 + 0.7 * f64([-1.0, -1.0, 1.0, 1.0])
    z = f64([-1.0, 1.0, -1.0, 1.0])
    for t in (0.02, 0.3, 0.9):
        x_t = process.perturb(x[:, None], t, z[:, None])
        design = torch.cat([x_t, torch.ones_like(x_t)], 1)
        line = torch.linalg.lstsq(design, x[:, None]).solution
        probe = f64([[-2.0], [0.1], [3.0]])
        want = torch.cat([probe, torch.ones_like(probe)], 1) @ line
        torch.testing.assert_close(f(probe, t), want, rtol=1e-8, atol=1e-10)


@every
def test_gaussian_flow_is_the_ode(process):
    """dx/dt = f x - g^2 score / 2 by central differences, and there and back again."""
    f = Gaussian(MEANS[1], COVARIANCES[1], process)
    x, t, h = normal(5, 2), 0.4, 1e-5
    drift, g2 = process.sde(f64(t))
    score = score_of(f(x, t), x, *process.at(t, x))
    slope = (f.flow(x, t, t + h) - f.flow(x, t, t - h)) / (2 * h)
    torch.testing.assert_close(slope, drift * x - g2 * score / 2, rtol=1e-7, atol=1e-8)
    torch.testing.assert_close(f.flow(f.flow(x, t, 0.9), 0.9, t), x)


def test_one_time_per_image_and_images():
    f = mixture(Cosine())
    x, t = normal(3, 2), f64([0.1, 0.5, 0.9])
    want = torch.cat([f(x[i : i + 1], t[i].item()) for i in range(3)])
    torch.testing.assert_close(f(x, t), want)
    torch.testing.assert_close(f(x.reshape(3, 2, 1, 1), t), want.reshape(3, 2, 1, 1))


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"covariances": COVARIANCES.triu()}, "covariances must be symmetric"),
        ({"covariances": -COVARIANCES}, r"variances \(eigenvalues\) from 0 on.* the least is -2"),
        ({"covariances": COVARIANCES * float("nan")}, "covariances has values that are not numbers"),
        ({"covariances": COVARIANCES[:2]}, r"covariances are .*expected a tensor of floats .*\(3, 2, 2\)"),
        ({"means": MEANS.long()}, "means are .*of torch.int64: expected a tensor of floats"),
        ({"weights": f64([-1.0, 1.0, 2.0])}, "weights must be above 0, not"),
        ({"weights": f64([0.0, 0.0, 0.0])}, "weights must be above 0, not"),
        ({"weights": f64([1.0, 1.0])}, r"weights are .*expected a tensor of floats of shape \(3\)"),
        ({"domains": ("a", "b", "a")}, "domains must have different names"),
        ({"process": "cosin"}, "unknown process 'cosin': did you mean 'cosine'"),
    ],
)
def test_what_is_no_mixture_is_refused(given, says):
    with pytest.raises(UserError, match=says):
        Mixture(**{"means": MEANS, "covariances": COVARIANCES} | given)


def test_a_gaussian_has_as_many_variances_as_means():
    for covariance in (torch.ones(3), torch.eye(3)):
        with pytest.raises(UserError, match="covariance is .*expected a tensor of floats of shape"):
            Gaussian(torch.zeros(4), covariance)


@every
def test_clean_points_are_points_of_the_least_noise(process):
    for f in (gaussian([0.3, 0.0], [0.5, 0.0], process), mixture(process)):  # one without width
        x = normal(3, 2)
        assert torch.equal(f(x, 0.0), f(x, process.t_min))
        assert f(x, 0.0).isfinite().all()


def test_states_of_another_type_and_of_another_size():
    f, x = Gaussian(torch.zeros(2), torch.ones(2)), normal(3, 2)
    assert f(x, 0.5).dtype == f.flow(x, 0.5, 0.1).dtype == torch.float64
    torch.testing.assert_close(f(x, 0.5).float(), f(x.float(), 0.5))
    for y in (normal(3, 5), normal(2)):
        with pytest.raises(UserError, match=r"takes a batch \(B, 2\)"):
            f(y, 0.5)
