"""The paired score-SDE between jointly Gaussian pictures: its conditional law is known exactly."""

import copy

import pytest
import torch
from torch import nn
from truth import Affine, Impulses, f64, lively, normal, sqrtm

from sfumato.diffusion.process import VP, Cosine
from sfumato.methods.paired_sde import PairedSDE

MX, MY = f64([0.3, -0.2]), f64([-0.5, 0.1])
SXX, SYY = f64([[0.5, 0.1], [0.1, 0.3]]), f64([[0.4, -0.1], [-0.1, 0.6]])
SXY = f64([[0.2, 0.1], [0.0, -0.2]])


class Exact(nn.Module):
    """The network that predicts E[y | y_t, x] of jointly Gaussian one-pixel pictures exactly."""

    def __init__(self, mx, my, sxx, syy, sxy):
        super().__init__()
        self.mx, self.my = mx, my
        self.gain = sxy.T @ sxx.inverse()
        self.V = syy - self.gain @ sxy

    def given(self, x):
        return self.my + (x - self.mx) @ self.gain.T

    def forward(self, both, log_sigma, label=None):
        noisy, x = both[:, :2, 0, 0], both[:, 2:, 0, 0]
        rel = log_sigma.exp()[:, None]
        y_t = noisy * (1 + rel**2).sqrt()  # at alpha = 1
        m = self.given(x)
        values, vectors = torch.linalg.eigh(self.V)
        shrink = values / (values + rel**2)
        return (m + ((y_t - m) @ vectors * shrink) @ vectors.T)[..., None, None]


def exact_pair(process=Cosine()):  # noqa: B008
    model = PairedSDE(net="tiny", process=process, prediction="x0", channels=2)
    model.denoisers["target"].net = Exact(MX, MY, SXX, SYY, SXY)
    model.denoisers["source"].net = Exact(MY, MX, SYY, SXX, SXY.T)
    return model


def law(monkeypatch, model, source, draws, **options):
    """Mean and covariance of `translate` given `source`, exactly."""
    noise = Impulses(2, draws + 1)
    noise.calls = 0
    monkeypatch.setattr("sfumato.methods.paired_sde.Noise", noise)
    rows = len(noise.start())
    out = model.translate(source.reshape(1, 2, 1, 1).expand(rows, 2, 1, 1), as_is=True, **options)
    a = Affine(out, 2)
    return a.b, a.noise_covariance


def test_the_exact_network_is_the_regression_on_both():
    """E[y | y_t, x] from the joint covariance of (y, y_t, x), for a middle t."""
    process, t = Cosine(), 0.4
    alpha, sigma = process(f64(t))
    x, y_t = normal(5, 2), normal(5, 2, seed=1)
    joint = torch.cat(
        [
            torch.cat([alpha**2 * SYY + sigma**2 * torch.eye(2).double(), alpha * SXY.T], 1),
            torch.cat([alpha * SXY, SXX], 1),
        ]
    )
    cross = torch.cat([alpha * SYY, SXY.T], 1)
    offset = torch.cat([y_t - alpha * MY, x - MX], 1)
    want = MY + offset @ (cross @ joint.inverse()).T
    f = exact_pair(process).denoisers["target"]
    got = f(y_t[..., None, None], t, image=x[..., None, None])[..., 0, 0]
    torch.testing.assert_close(got, want)


@pytest.mark.parametrize("direction", ["source-to-target", "target-to-source"])
@pytest.mark.parametrize(
    ("solver", "steps", "spacing", "tolerance"),
    [
        ("dpm2m", 100, "karras", 1e-3), ("heun", 50, "karras", 5e-3), ("ab3", 50, "karras", 1e-3),
        ("ancestral", 200, "log_snr", 2e-2), ("sde_dpm2m", 100, "log_snr", 2e-3),
        ("euler_maruyama", 200, "time", 4e-3),
    ],
)  # fmt: skip
def test_samples_have_the_conditional_law(
    monkeypatch, direction, solver, steps, spacing, tolerance, report
):
    """Stochastic solvers forget that they start at N(0, s^2) and not N(a m, ..); ODEs carry that on."""
    process = VP() if solver == "euler_maruyama" else Cosine()
    model, source = exact_pair(process), f64([0.9, -0.7])
    mean, cov = law(
        monkeypatch,
        model,
        source,
        steps,
        direction=direction,
        solver=solver,
        steps=steps,
        spacing=spacing,
    )
    exact = model.denoisers["target" if direction == "source-to-target" else "source"].net
    m, V = exact.given(source), exact.V
    if solver in ("dpm2m", "heun", "ab3"):
        a, s = process(f64(process.t_max))
        bias = (
            -a * sqrtm(V) @ sqrtm(a**2 * V + s**2 * torch.eye(2, dtype=torch.float64)).inverse() @ m
        )
        assert bias.abs().max() < 0.015
        m = m + bias
    errors = [(mean - m).abs().max().item(), (cov - V).abs().max().item()]
    report(f"paired_sde {solver} {steps}, {direction}: error of mean, covariance", *errors)
    assert max(errors) < tolerance


def zero(net):
    with torch.no_grad():
        for p in net.parameters():
            p.zero_()


def batches(n=512, size=4, seed=0):
    g = torch.Generator().manual_seed(seed)
    while True:
        yield torch.randn(n, 3, size, size, generator=g), torch.randn(n, 3, size, size, generator=g)


def test_zero_networks_have_loss_one_each_two_in_all(report):
    model = PairedSDE(net="tiny", process="vp", prediction="eps", times="uniform")
    zero(model)
    with torch.no_grad():
        terms = dict(model.objectives(batches(), torch.Generator().manual_seed(0)))
    report("paired_sde loss of zero nets: each term", *(v.item() for v in terms.values()))
    assert set(terms) == {"denoisers.target", "denoisers.source"}
    for value in terms.values():
        assert value.item() == pytest.approx(1, abs=0.05)
    assert sum(terms.values()).item() == pytest.approx(2, abs=0.1)


def recorded(model):
    """Everything the two denoisers' losses are asked, and the terms."""
    asked = {}
    for which, f in model.denoisers.items():
        loss = f.loss

        def spy(x, t, z, domain=None, image=None, which=which, loss=loss):
            asked[which] = (x, t, z, image)
            return loss(x, t, z, domain=domain, image=image)

        f.loss = spy
    terms = dict(model.objectives(batches(4), torch.Generator().manual_seed(0)))
    return asked, terms


def test_one_time_and_one_noise_for_both_terms():
    model = PairedSDE(net="tiny")
    asked, _ = recorded(model)
    (y, t, z, x), (x2, t2, z2, y2) = asked["target"], asked["source"]
    assert torch.equal(t, t2)
    assert torch.equal(z, z2)
    source, target = next(batches(4))
    assert torch.equal(x, source) & torch.equal(x2, source)
    assert torch.equal(y, target) & torch.equal(y2, target)


def test_each_term_reaches_only_its_own_denoiser():
    model = PairedSDE(net="tiny")
    lively(model).train()
    for player, loss in model.objectives(batches(2), torch.Generator().manual_seed(0)):
        model.zero_grad(set_to_none=True)
        loss.backward()
        for name, p in model.named_parameters():
            assert (p.grad is not None) == name.startswith(player), name


def test_a_network_of_ones_own_is_not_shared_by_the_two_directions():
    net = Exact(MX, MY, SXX, SYY, SXY)
    net.weight = nn.Parameter(torch.zeros(1))
    model = PairedSDE(net=net, channels=2)
    a, b = model.denoisers["target"].net, model.denoisers["source"].net
    assert isinstance(a, Exact)
    assert a.weight is not b.weight


def test_the_order_of_the_channels_matters():
    """A network trained with the conditioning in front would be noticed."""
    f = lively(PairedSDE(net="tiny")).denoisers["target"]
    x, image = torch.randn(1, 3, 8, 8), torch.randn(1, 3, 8, 8)
    swapped = copy.deepcopy(f)
    with torch.no_grad():
        w = swapped.net.stem.weight.unflatten(1, (2, 12))
        swapped.net.stem.weight.copy_(w.flip(1).flatten(1, 2))
        assert not torch.allclose(f(x, 0.5, image=image), swapped(x, 0.5, image=image))
        assert not torch.allclose(f(x, 0.5, image=image), f(x, 0.5, image=x))


def test_clip_and_bad_options():
    model = lively(PairedSDE(net="tiny"))
    x = torch.rand(2, 3, 8, 8) * 2 - 1
    assert model.translate(x, steps=3, clip=True).abs().max() <= 1
    with pytest.raises(ValueError, match="direction"):
        model.translate(x, direction="backwards")
