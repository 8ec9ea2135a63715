"""DDIB between Gaussians is an affine map in closed form; it is optimal transport only sometimes."""

import numpy as np
import ot
import pytest
import torch
from truth import Affine, f64, gaussian, normal, rotation, slope, sqrtm, tiny_denoiser

from sfumato.diffusion.exact import Mixture
from sfumato.diffusion.guidance import Conditioned
from sfumato.diffusion.integrate import integrate
from sfumato.diffusion.process import DDPM, VP, Cosine, Flow
from sfumato.diffusion.time_grids import grid
from sfumato.methods.ddib import DDIB

pytestmark = pytest.mark.usefixtures("shapes_unchecked")

S, T = torch.diag(f64([4.0, 0.25])), rotation(0.7) @ torch.diag(f64([2.0, 0.5])) @ rotation(0.7).T
m, n = f64([1.0, -2.0]), f64([-1.0, 0.5])


def bridge(process, source=(m, S), target=(n, T)):
    return DDIB(
        source=gaussian(source[0].tolist(), source[1].tolist(), process),
        target=gaussian(target[0].tolist(), target[1].tolist(), process),
    )


def closed_form(process, x, source=(m, S), target=(n, T)):
    """z = a m + (a^2 S + s^2)^{1/2} S^{-1/2} (x - m), then y = m' + S'^{1/2} (..)^{-1/2} (z - a m')."""
    (m, S), (n, T) = source, target
    a, s = process(f64(process.t_max))
    noised = lambda C: sqrtm(a**2 * C + s**2 * torch.eye(len(C), dtype=torch.float64))
    z = a * m + (x - m) @ (noised(S) @ sqrtm(S).inverse()).T
    return n + (z - a * n) @ (sqrtm(T) @ noised(T).inverse()).T


def monge(S, T):
    """The optimal map's matrix, S^{-1/2} (S^{1/2} T S^{1/2})^{1/2} S^{-1/2}."""
    root = sqrtm(S)
    return root.inverse() @ sqrtm(root @ T @ root) @ root.inverse()


def cost(A, S):
    """E |x - A x|^2 for x ~ N(0, S)."""
    D = torch.eye(len(S), dtype=torch.float64) - A
    return (D @ S @ D.T).trace().item()


def matrix(ddib, **options):
    """The linear part of `translate`, exactly."""
    x = torch.cat([torch.zeros(1, 2), torch.eye(2)]).double()
    return Affine(ddib.translate(x, **options), 2).A


@pytest.mark.parametrize("process", [Cosine(), VP(), DDPM(), Flow()], ids=str)
def test_equals_the_affine_map(process, report):
    x = m + normal(64, 2) @ sqrtm(S).T
    errors = [
        (bridge(process).translate(x, steps=k) - closed_form(process, x)).abs().max().item()
        for k in (22, 250)
    ]
    report(f"DDIB vs affine map, {type(process).__name__}: ab3 22, 250 steps", *errors)
    assert errors[1] < 1e-3
    assert errors[0] < 0.15


def test_encoding_is_half_of_it(report):
    process = Cosine()
    x, f = m + normal(64, 2) @ sqrtm(S).T, bridge(process)
    a, s = process(f64(process.t_max))
    want = a * m + (x - m) @ (sqrtm(a**2 * S + s**2 * torch.eye(2).double()) @ sqrtm(S).inverse()).T
    assert (f.encode(x, steps=100) - want).abs().max() < 1e-3
    assert torch.equal(f.decode(f.encode(x)), f.translate(x))
    report(
        "DDIB latent of the Gaussian: |mean|, std", want.mean(0).norm().item(), want.std().item()
    )


def test_optimal_transport_where_covariances_commute(report):
    """Against the closed-form Monge map, and against POT's exact solver on samples."""
    process, D = Flow(), torch.diag(f64([0.5, 2.0]))
    found = matrix(bridge(process, target=(n, D)), steps=250)
    error = (found - monge(S, D)).abs().max().item()
    report("DDIB vs optimal transport, commuting: error of the map", error)
    assert error < 0.02  # t_max of a process is not pure noise: alpha_T = 0.024
    x = m + normal(100, 2) @ sqrtm(S).T
    y = bridge(process, target=(n, D)).translate(x, steps=250)
    weights = np.full(100, 0.01)
    plan = ot.emd(weights, weights, ot.dist(x.numpy(), y.numpy()))
    assert (plan.diagonal() > 0.009).all()  # the bridge's pairing is the optimal one


def test_not_optimal_transport_where_they_do_not(report):
    optimal = cost(monge(S, T), S)
    limit = cost(sqrtm(T) @ sqrtm(S).inverse(), S)
    ours = cost(matrix(bridge(VP()), steps=250), S)
    report("transport cost, not commuting: optimal, DDIB's limit, DDIB", optimal, limit, ours)
    assert optimal == pytest.approx(1.1677, abs=1e-4)
    assert optimal == pytest.approx(
        ot.gaussian.bures_wasserstein_distance(0 * m, 0 * m, S, T).item() ** 2
    )
    assert limit == pytest.approx(1.2664, abs=1e-4)
    assert ours == pytest.approx(limit, abs=2e-3)
    assert ours > optimal + 0.09
    assert (matrix(bridge(VP()), steps=250) - monge(S, T)).abs().max() > 0.1


def test_convergence_table_of_ddim(report):
    """Uniform levels of the chain, the clean one included; first order, and Heun four times."""
    chain, x = DDPM(), torch.linspace(-1, 3, 9, dtype=torch.float64)[:, None]
    f, g = gaussian([1.0], [0.25], chain), gaussian([-0.7], [2.0], chain)
    want = closed_form(chain, x, (f64([1.0]), f64([[0.25]])), (f64([-0.7]), f64([[2.0]])))
    known = {
        10: (2.24, 1.27), 25: (0.957, 0.620), 50: (0.490, 0.332), 100: (0.249, 0.172),
        250: (0.101, 0.0708),
    }  # fmt: skip
    errors = {}
    for steps, numbers in known.items():
        down = grid(chain, steps, "chain", clean=True)
        y = integrate("ddim", g, integrate("ddim", f, x, down.flip(0)), down)
        back = integrate("ddim", f, integrate("ddim", g, y, down.flip(0)), down)
        errors[steps] = (y - want).abs().max().item()
        cycle = (back - x).abs().max().item()
        report(f"DDIB by ddim, {steps} levels: translation, cycle error", errors[steps], cycle)
        assert (errors[steps], cycle) == pytest.approx(numbers, rel=6e-3)
    assert slope([50, 100, 250], [errors[k] for k in (50, 100, 250)]) == pytest.approx(1, abs=0.05)


def test_heun_is_four_times_better_per_doubling(report):
    process, x = Cosine(), m + normal(32, 2) @ sqrtm(S).T
    f = bridge(process)
    limit = f.translate(x, steps=1000, solver="ab3")
    errors = [
        (f.translate(x, steps=k, solver="heun") - limit).abs().max().item() for k in (80, 160, 320)
    ]
    ratios = [errors[0] / errors[1], errors[1] / errors[2]]
    report("DDIB by heun: error ratio per doubling of the steps", *ratios)
    assert ratios == pytest.approx([4, 4], rel=0.1)


@pytest.mark.parametrize("solver", ["ddim", "heun", "dpm2m", "ab2", "ab3"])
def test_same_model_both_sides_is_the_identity(solver):
    x, same = normal(8, 2), bridge(Cosine(), target=(m, S))
    errors = [
        (same.translate(x, steps=k, solver=solver) - x).abs().max().item() for k in (32, 128, 512)
    ]
    assert errors[0] > errors[1] > errors[2]
    assert errors[2] < (0.1 if solver == "ddim" else 1e-3)


def test_latent_of_unit_normal_data_is_itself():
    """eps = sigma x there, and y = x the whole way in a variance-preserving process."""
    x, I = normal(8, 2), torch.eye(2).double()
    latent = bridge(VP(), source=(0 * m, I)).encode(x, steps=100)
    torch.testing.assert_close(latent, x, rtol=0, atol=1e-3)


def test_round_trip(report):
    x, f = m + normal(16, 2) @ sqrtm(S).T, bridge(Cosine())
    errors = [(f.round_trip(x, steps=k) - x).abs().max().item() for k in (22, 44, 176)]
    report("DDIB round trip error, ab3 with 22, 44, 176 steps", *errors)
    assert errors[0] > 4 * errors[1] > 16 * errors[2]
    assert errors[2] < 1e-3


def test_a_round_trip_may_leave_the_range_on_its_way():
    """Of a network that knows nothing the results are anywhere."""
    f = tiny_denoiser()
    one = DDIB(source=Conditioned(denoiser=f, domain="a"),
               target=Conditioned(denoiser=f, domain="b"))  # fmt: skip
    x = normal(2, 3, 8, 8).float().clamp(-1, 1)
    assert one.translate(x, steps=2, as_is=True).abs().max() > 2  # more than `take` would believe
    assert one.round_trip(x, steps=2).abs().max() <= 1 < one.round_trip(x, steps=2, as_is=True).max()


def test_nothing_is_clipped():
    f, x = bridge(Cosine()), f64([[-6.0, 3.0], [5.0, -4.0]])
    y = f.translate(x, steps=250)
    assert y.abs().max() > 3
    torch.testing.assert_close(y, closed_form(Cosine(), x), rtol=0, atol=5e-3)
    torch.testing.assert_close(f.round_trip(x, steps=250), x, rtol=0, atol=5e-3)


def test_one_model_with_two_domains():
    both = Mixture(torch.stack([m, n]), torch.stack([S, T]), domains=("cats", "dogs"))
    one = DDIB(
        source=Conditioned(denoiser=both, domain="cats"),
        target=Conditioned(denoiser=both, domain="dogs"),
    )
    x = normal(8, 2)
    torch.testing.assert_close(one.translate(x), bridge(Cosine()).translate(x))


def test_evaluations(report):
    f, seen = bridge(Cosine()), []
    f.translate(normal(2, 2), watch=lambda t, x, mean, extras: seen.append(extras["nfe"]))
    report("DDIB evaluations by default", str(sum(seen)))
    assert sum(seen) <= 24
    times = []
    f.translate(normal(2, 2), steps=5, watch=lambda t, x, mean, extras: times.append(t))
    assert times[:3] == sorted(times[:3])  # up, then down
    assert times[3:] == sorted(times[3:], reverse=True)
    assert min(times) >= f.source.process.t_min
    with pytest.raises(ValueError, match="at least 2"):
        f.translate(normal(2, 2), steps=1)


def test_recentring_takes_the_means_out_of_the_latent(float64):
    """With equal isotropic covariances the bridge is a shift by m' - m; recentred it is so even
    where the noise ends early."""
    process = Cosine(t_max=0.9)
    m0, m1, S = f64([1.0, -2.0, 0.5]), f64([-1.0, 0.0, 3.0]), f64([0.04] * 3)
    ddib = DDIB(source=gaussian(m0, S, process), target=gaussian(m1, S, process))
    x = (m0 + 0.2 * normal(16, 3))[..., None, None]  # images of one pixel
    want = x + (m1 - m0)[:, None, None]
    plain = (ddib.translate(x, steps=120) - want).abs().max()
    shifted = (ddib.translate(x, steps=120, recentre_means=True) - want).abs().max()
    assert shifted < 1e-3
    assert plain > 10 * shifted
