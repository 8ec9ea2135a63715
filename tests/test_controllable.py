"""Controllable generation: what its two players learn, and the posterior of a pair of Gaussians."""

import pytest
import torch
from truth import Linear, lively, normal

from sfumato.diffusion.exact import Gaussian
from sfumato.diffusion.process import Cosine
from sfumato.methods.controllable import Controllable, Regressor
from sfumato.nets.sizes import make_net

PICTURES = torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1


def tiny():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return lively(Controllable(net="tiny"))


class Posterior(torch.nn.Module):
    """y given x_t, of x ~ N(0, 1) and y = r x + N(0, 1 - r^2) in every pixel."""

    def __init__(self, r):
        super().__init__()
        self.r = r

    def forward(self, x_t, t):
        alpha, sigma = Cosine().at(t, x_t)
        gain = self.r * alpha / (alpha**2 + sigma**2)
        std = (1 - self.r * alpha * gain).sqrt()
        return torch.distributions.Normal(gain * x_t, std.expand_as(x_t))


@pytest.mark.usefixtures("shapes_unchecked")
@pytest.mark.parametrize(("solver", "steps", "n"), [("sde_dpm2m", 40, 1500), ("dpm2m", 25, 3000)])
def test_samples_of_the_posterior(solver, steps, n, report):
    """E[x | y] = r y and Var[x | y] = 1 - r^2, with nothing trained."""
    r, part = 0.8, tiny()
    part.denoiser = Gaussian(torch.zeros(1).double(), torch.ones(1).double(), Cosine())
    part.regressor = Posterior(r)
    y = normal(n, 1, 1, 1)
    x = part.translate(y, as_is=True, steps=steps, solver=solver, guidance_scale=1)
    gain = ((x * y).sum() / (y * y).sum()).item()
    variance = (x - gain * y).var().item()
    report(f"controllable, {solver}: gain (0.8) and variance (0.36)", gain, variance)
    assert gain == pytest.approx(r, abs=0.03)
    assert variance == pytest.approx(1 - r**2, rel=0.1)
    free = part.translate(y[:1000], as_is=True, steps=steps, solver=solver, guidance_scale=0)
    assert (free * y[:1000]).mean().abs() < 0.08


def test_the_regressor_learns_mean_and_spread():
    """y = -x / 2 + N(0, 0.3^2) of nearly clean x: m = -x / 2, v = 0.09; and the two nets are two."""
    part = Controllable(net=Linear())
    assert part.regressor.net is not part.denoiser.net
    part.denoiser.lognormal_mean, part.denoiser.lognormal_std = -4.0, 0.1
    g = torch.Generator().manual_seed(0)

    def batches():
        while True:
            x = torch.rand(32, 3, 8, 8, generator=g) * 2 - 1
            yield -x / 2 + 0.3 * torch.randn(x.shape, generator=g), x

    optimiser, stream = torch.optim.Adam(part.regressor.parameters(), 1e-2), batches()
    for _ in range(500):
        for player, loss in part.objectives(stream, g):
            if player == "regressor":
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
    x = PICTURES[:, :, :8, :8]
    found = part.regressor(x, Cosine().time(torch.tensor(8.0)))
    torch.testing.assert_close(found.mean.float(), -x / 2, rtol=0, atol=0.02)
    assert found.stddev.mean().item() == pytest.approx(0.3, abs=0.02)


def test_shape_of_the_regressor():
    part = Regressor(net=make_net("tiny"), process=Cosine())
    found = part(PICTURES, 0.4)
    assert found.mean.shape == found.stddev.shape == PICTURES.shape
    assert (found.stddev[:, 0] == found.stddev[0, 0, 0, 0]).all()  # one number for each channel


def test_bad_options():
    with pytest.raises(ValueError, match="scale must be a finite number, not nan"):
        tiny().translate(PICTURES, as_is=True, guidance_scale=float("nan"))
    with pytest.raises(ValueError, match=r"scale 1e\+38 is too large: .* up to about .* is stable"):
        tiny().translate(PICTURES, as_is=True, guidance_scale=1e38, steps=3)


def test_the_spread_does_not_bend_the_mean():
    """m learns by |m - y|^2 alone: the likelihood's share of its gradient is 0."""
    part = tiny().train()
    part.denoiser.lognormal_mean, part.denoiser.lognormal_std = 0.0, 1e-6
    y = PICTURES.flip(0)
    losses = dict(part.objectives(iter([(y, PICTURES)]), torch.Generator().manual_seed(0)))
    g = torch.Generator().manual_seed(0)
    t = part.denoiser.draw_times(3, g)
    x_t = part.denoiser.process.perturb(PICTURES, t, torch.randn(PICTURES.shape, generator=g))
    plain = (part.regressor(x_t, t).mean - y).square().mean()
    weights = list(part.regressor.net.parameters())
    got, want = (
        torch.autograd.grad(loss, weights, allow_unused=True)
        for loss in (losses["regressor"], plain)
    )
    for a, b in zip(got, want, strict=True):
        torch.testing.assert_close(a, b)
