"""The bridge between jointly Gaussian pictures: its results have the conditional law, in both directions."""

from functools import partial

import pytest
import torch
from test_paired_sde import MX, MY, SXX, SXY, SYY
from torch import nn
from truth import Affine, Impulses, f64, lively

from sfumato.core.errors import UserError
from sfumato.diffusion.bridges import BRIDGES
from sfumato.diffusion.exact import Gaussian
from sfumato.methods.bridge import Bridge


class Exact(nn.Module):
    """The denoiser E[y | x_t, x] of jointly Gaussian one-pixel pictures, x with noise of its own."""

    def __init__(self, process, mx, my, sxx, syy, sxy, noise):
        super().__init__()
        self.process, self.mx, self.my = process, mx, my
        self.gain = sxy.T @ (sxx + noise**2 * torch.eye(2)).inverse()
        self.V = syy - self.gain @ sxy

    def given(self, x):
        return self.my + (x - self.mx) @ self.gain.T

    def forward(self, x_t, t, image):
        x = image[..., 0, 0]
        a, *_ = self.process.coefficients(t)
        y, m, (b, _) = x_t[..., 0, 0] - a * x, self.given(x), self.process(t)
        mean = m + Gaussian(0 * self.my, self.V, self.process)(y - b * m, t)
        return mean[..., None, None]


@pytest.mark.parametrize("direction", ["source-to-target", "target-to-source"])
@pytest.mark.parametrize(
    ("family", "solver", "noise", "tolerance"),
    [("brownian", "sde_dpm2m", 0.0, 5e-3), ("i2sb", "ancestral", 0.0, 0.07),
     ("ddbm-vp", "sde_dpm2m", 0.4, 5e-3)],
)  # fmt: skip
def test_results_have_the_conditional_law(
    monkeypatch, float64, direction, family, solver, noise, tolerance, report
):
    model, steps = Bridge(net="tiny", family=family, channels=2, source_noise=noise), 60
    process = BRIDGES[family]()
    model.denoisers["target"] = Exact(process, MX, MY, SXX, SYY, SXY, noise)
    model.denoisers["source"] = Exact(process, MY, MX, SYY, SXX, SXY.T, noise)
    monkeypatch.setattr(Bridge, "_denoiser", lambda self, which: self.denoisers[which])
    draws = Impulses(2, steps + 2)
    monkeypatch.setattr("sfumato.methods.bridge.Noise", draws)
    source, rows = f64([0.9, -0.7]), len(draws.start())
    made = model.translate(
        source.reshape(1, 2, 1, 1).expand(rows, 2, 1, 1), as_is=True, direction=direction,
        solver=solver, steps=steps, spacing="log_snr",
    )  # fmt: skip
    law, exact = Affine(made, 2), model.denoisers["target" if direction == "source-to-target" else "source"]
    want = exact.V + noise**2 * exact.gain @ exact.gain.T  # the source's noise is drawn, too
    errors = [(law.b - exact.given(source)).abs().max(), (law.noise_covariance - want).abs().max()]
    report(f"bridge, {family}, {solver}, {direction}: error of mean, covariance", *(e.item() for e in errors))
    assert max(errors) < tolerance


def batches(n=4):
    g = torch.Generator().manual_seed(0)
    while True:
        yield torch.randn(n, 3, 4, 4, generator=g), torch.randn(n, 3, 4, 4, generator=g)


@pytest.mark.parametrize("markov", [False, True])
def test_the_two_directions_are_one_bridge_with_its_ends_swapped(markov):
    model, asked = Bridge(net="tiny", markov=markov, source_noise=0.3), {}

    def spy(*given, image, which):
        asked[which] = (*given, image)
        return torch.tensor(0.0)

    for which, f in model.denoisers.items():
        f.loss = partial(spy, which=which)
    terms = dict(model.objectives(batches(), torch.Generator().manual_seed(0)))
    assert list(terms) == ["denoisers.target", "denoisers.source"]
    (y, from_x, t, z, x_shown), (x, from_y, t2, z2, y_shown) = asked["target"], asked["source"]
    a, b = next(batches())
    assert torch.equal(x, a) & torch.equal(y, b) & torch.equal(t, t2) & torch.equal(z, z2)
    assert (from_x - a).std().item() == pytest.approx(0.3, abs=0.05)
    torch.testing.assert_close(from_x - a, from_y - b)
    if markov:
        assert x_shown is y_shown is None
        assert model.denoisers["target"].net.conditioning == 0
    else:
        assert x_shown is from_x
        assert y_shown is from_y


def test_who_watches_sees_states_that_begin_at_the_source():
    model, seen = lively(Bridge(net="tiny", family="i2sb")), []
    x = torch.rand(2, 3, 8, 8) * 2 - 1
    model.translate(x, steps=4, watch=lambda t, x_t, mean, extras: seen.append((x_t, extras)))
    assert (seen[0][0] - x).abs().max() < 0.1
    assert all(extras.keys() == {"nfe", "score"} for _, extras in seen)  # levels would be those of y
    assert model.translate(x, steps=3, clip=True, as_is=True).abs().max() <= 1


def test_without_the_source_beside_it_a_solver_must_draw_noise():
    model, x = lively(Bridge(net="tiny", markov=True)), torch.rand(2, 3, 8, 8) * 2 - 1
    with pytest.raises(UserError, match="solver .ab3. draws no noise.*trained with --markov .*sde_dpm2m"):
        model.translate(x, solver="ab3")
    with pytest.raises(UserError, match="gamma must be in"):
        Bridge(gamma=0)
    with pytest.raises(UserError, match="unknown family 'browian': did you mean 'brownian'"):
        Bridge(family="browian")
