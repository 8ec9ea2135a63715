"""Ground truth for the tests: closed forms, and exact moments of samplers without Monte-Carlo."""

import math

import torch
from torch import nn

from sfumato.diffusion.denoiser import Denoiser
from sfumato.diffusion.exact import Gaussian
from sfumato.diffusion.integrate import integrate
from sfumato.diffusion.noise import Noise
from sfumato.nets.sizes import make_net


class Affine:
    """What an affine sampler does: y = A x + b + sum_k G_k z_k with independent z_k ~ N(0, I)."""

    def __init__(self, out, dim):
        out = out.flatten(1)
        self.b, rest = out[0], (out[1:] - out[0]).reshape(-1, dim, out.shape[1]).mT
        self.A, self.G = rest[0], rest[1:]
        self.noise_covariance = (self.G @ self.G.mT).sum(0)

    def moments(self, mean, covariance):
        """Mean and covariance of y for x of these moments."""
        return self.A @ mean + self.b, self.A @ covariance @ self.A.T + self.noise_covariance


class Impulses(Noise):
    """A noise source that reads off an affine sampler: in one row a draw, each draw has one 1.

    Run the sampler on `start()`; `Affine(result, dim)` is then exact. Stands in for `Noise`, too.
    """

    def __init__(self, dim, draws):
        super().__init__([])
        self.dim, self.draws, self.calls = dim, draws, 0

    def start(self, origin=None):
        x = torch.zeros(1 + self.dim * (1 + self.draws), self.dim, dtype=torch.float64)
        x[1 : 1 + self.dim] = torch.eye(self.dim)
        return x if origin is None else x + origin

    def __call__(self, like):
        assert self.calls < self.draws, "more draws than rows were reserved for"
        z = torch.zeros(len(like), self.dim, dtype=like.dtype)
        first = 1 + self.dim * (1 + self.calls)
        z[first : first + self.dim] = torch.eye(self.dim).to(z)
        self.calls += 1
        return z.reshape(like.shape)

    def of(self, images, seed):
        return self

    def stream(self, name):
        return self


def affine(step, denoiser, times, dim):
    """The affine map of `integrate` with a Gaussian denoiser, exactly."""
    noise = Impulses(dim, len(times) - 1)
    return Affine(integrate(step, denoiser, noise.start(), times, noise=noise), dim)


def f64(numbers):
    """A float64 tensor; torch.tensor(0.1).double() would be rounded to float32 first."""
    return torch.tensor(numbers, dtype=torch.float64)


def gaussian(mean, covariance, process):
    """A float64 Gaussian denoiser from lists; covariance may be variances."""
    return Gaussian(f64(mean), f64(covariance), process)


def sqrtm(s):
    """The symmetric square root."""
    values, vectors = torch.linalg.eigh(s)
    return vectors @ values.sqrt().diag() @ vectors.T


def rotation(angle):
    c, s = math.cos(angle), math.sin(angle)
    return torch.tensor([[c, -s], [s, c]], dtype=torch.float64)


def slope(ns, errors):
    """Minus the slope of log(error) over log(n): the order of convergence."""
    x = torch.tensor([float(n) for n in ns], dtype=torch.float64).log()
    y = torch.tensor([float(e) for e in errors], dtype=torch.float64).log()
    x, y = x - x.mean(), y - y.mean()
    return -((x * y).sum() / (x * x).sum()).item()


def lively(module, seed=0):
    """The same module with random numbers where it was initialised to zero, so that it does something."""
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in module.parameters():
            p.copy_(p + 0.1 * torch.randn(p.shape, generator=g))
    return module.eval()


def tiny_denoiser(domains=("a", "b"), channels=3, seed=0, **options):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = make_net("tiny", channels=channels, labels=len(domains))
    return Denoiser(net=lively(net, seed), domains=tuple(domains), **options).eval()


class Linear(nn.Module):
    """The net w x + b, for losses whose minimum is known."""

    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.zeros((), dtype=torch.float64))
        self.b = nn.Parameter(torch.zeros((), dtype=torch.float64))

    def forward(self, x, log_sigma, label=None):
        return self.w * x + self.b


def normal(*shape, seed=0):
    """Reproducible standard normal numbers, float64."""
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
