"""UNIT-DDPM: identities between its losses, the release time, and independent domains."""

import pytest
import torch
from truth import affine, f64, gaussian, lively, normal

from sfumato.diffusion.process import DDPM
from sfumato.diffusion.time_grids import grid
from sfumato.methods.unit_ddpm import UnitDDPM

PICTURES = torch.rand(3, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1
OTHERS = torch.rand(3, 3, 8, 8, generator=torch.Generator().manual_seed(1)) * 2 - 1


def tiny(**options):
    torch.manual_seed(0)
    return lively(UnitDDPM(net="tiny", **{"warmup_batches": 0} | options)).train()


def losses(model):
    return model.objectives(iter([(PICTURES, OTHERS)]), torch.Generator().manual_seed(0))


@pytest.mark.parametrize("begin", ["coarse", "image", "gray"])
def test_eq_11_is_terms_2_and_4_of_eq_12(report, begin):
    """Each term by hand: its target is the noise of the image it denoises, the other has its own."""
    model = tiny(cycle=3.0, translators_start_as=begin)
    (_, theta), (_, phi) = losses(model)
    g = torch.Generator().manual_seed(0)
    f, perturb = model.denoisers, model.denoisers["target"].process.perturb
    t = f["target"].draw_times(3, g)
    z_a, z_b = torch.randn(PICTURES.shape, generator=g), torch.randn(PICTURES.shape, generator=g)
    to_a, to_b = (model.translators[s] for s in ("source", "target"))
    a, b = PICTURES, OTHERS

    def term(side, x, z, image, z_image):
        x_t, image_t = perturb(x, t, z), perturb(image, t, z_image)
        alpha, sigma = f[side].process.at(t, x)
        eps = (x_t - alpha * f[side](x_t, t, image=image_t)) / sigma
        return (eps - z).square().mean()

    with torch.no_grad():
        one, two = term("source", to_a(b), z_a, b, z_b), term("target", b, z_b, to_a(b), z_a)
        three, four = term("target", to_b(a), z_b, a, z_a), term("source", a, z_a, to_b(a), z_b)
        back = (to_a(to_b(a)) - a).abs().mean() + (to_b(to_a(b)) - b).abs().mean()
        report("unit_ddpm: (11), terms 2 + 4", theta.item(), (two + four).item())
        torch.testing.assert_close(theta, two + four, rtol=1e-4, atol=0)
        torch.testing.assert_close(phi, one + two + three + four + 3 * back, rtol=1e-4, atol=0)


def test_gradients_never_cross():
    model = tiny()
    for player, loss in losses(model):
        model.zero_grad(set_to_none=True)
        loss.backward()
        for name, p in model.named_parameters():
            assert (p.grad is not None) == name.startswith(player), name


def test_translators_begin_as_what_is_asked_for():
    images = {"source": PICTURES, "target": OTHERS}
    means = PICTURES.unflatten(-1, (2, 4)).unflatten(-3, (2, 4)).mean((-1, -3))
    expected = {
        "coarse": means.repeat_interleave(4, -1).repeat_interleave(4, -2),
        "image": PICTURES,
        "gray": torch.zeros_like(PICTURES),
    }
    for begin, first in expected.items():
        model = UnitDDPM(net="tiny", translators_start_as=begin, coarse_cells=2)
        torch.testing.assert_close(model.translators(images)["target"], first)
    with pytest.raises(ValueError, match="cells must be at least 1, not 0"):
        UnitDDPM(net="tiny", coarse_cells=0)


def test_translators_do_not_learn_while_the_denoisers_are_alone():
    model, players = tiny(warmup_batches=2), []
    for _ in range(3):
        players.append([name for name, _ in losses(model)])
    assert players == [["denoisers"], ["denoisers"], ["denoisers", "translators"]]


@pytest.mark.parametrize("direction", ["source-to-target", "target-to-source"])
@pytest.mark.parametrize("release", [0, 1, 3, 5])
def test_one_network_before_the_release_and_two_from_there_on(monkeypatch, direction, release):
    model, steps, calls, noised, nfe = tiny().eval(), 5, [], [], []
    for side, f in model.denoisers.items():
        f.register_forward_hook(lambda *_, side=side: calls.append(side))
    process = type(model.denoisers["target"].process)
    perturb = process.perturb
    spy = lambda self, x, t, z: noised.append(bool(x.any())) or perturb(self, x, t, z)
    monkeypatch.setattr(process, "perturb", spy)
    watch = lambda t, x, mean, extras: nfe.append(extras["nfe"])
    options = {"steps": steps, "release_steps": release, "watch": watch, "direction": direction}
    model.translate(PICTURES, as_is=True, **options)
    here, there = direction.split("-to-")
    assert calls.count(there) == steps
    assert calls.count(here) == release
    assert sum(nfe) == steps + release
    assert nfe == [1] * (steps - release) + [2] * release
    assert sum(noised) == 1 + steps - release  # the source, with fresh noise


def test_a_release_outside_the_chain_is_refused():
    for release, says in ((-1, "at least 0, not -1"), (6, "at most steps = 5, not 6")):
        with pytest.raises(ValueError, match=f"release_steps must be {says}"):
            tiny().translate(PICTURES, as_is=True, steps=5, release_steps=release)


def test_a_solver_that_chooses_its_times_is_refused():
    with pytest.raises(ValueError, match="dopri5 chooses its own: use heun"):
        tiny().translate(PICTURES, as_is=True, steps=5, solver="dopri5")


class Alone(torch.nn.Module):
    """E[x] of N(m, 0.25 I), whatever the other image is."""

    def __init__(self, m):
        super().__init__()
        self.m = m

    def forward(self, both, log_sigma, label=None):
        rel = log_sigma.exp()[:, None, None, None]
        x = both.chunk(2, 1)[0] * (1 + rel**2).sqrt()
        return self.m + 0.25 / (0.25 + rel**2) * (x - self.m)


def test_independent_domains_give_what_a_plain_chain_gives(report):
    """Mean and spread of the affine map that the target's chain alone is, started at N(0, sigma^2)."""
    model = UnitDDPM(net=Alone(0.0), prediction="x0", channels=1)
    model.denoisers["target"].net = Alone(0.5)
    x = normal(3000, 1, 1, 1)
    run = lambda x, release: model.translate(x, as_is=True, steps=40, release_steps=release)
    y = run(x, 0)
    for release in (10, 40):
        torch.testing.assert_close(run(x[:9], release), y[:9])
    process = DDPM()
    times = grid(process, 40, "chain", clean=True)
    chain = affine("ancestral", gaussian([0.5], [0.25], process), times, 1)
    _, sigma = process(times[0])
    mean, variance = chain.moments(f64([0.0]), sigma**2 * f64([[1.0]]))
    want = mean.item(), variance.sqrt().item()
    report("unit_ddpm: mean, std", y.mean().item(), y.std().item(), *want)
    assert y.mean().item() == pytest.approx(want[0], abs=0.02)
    assert y.std().item() == pytest.approx(want[1], rel=0.04)


def test_each_chain_is_denoised_given_the_other():
    """From the release on, both networks see both states, each its own first."""
    model, asked = tiny().eval(), {"source": [], "target": []}
    for side, f in model.denoisers.items():
        keep = lambda _, args, how, side=side: asked[side].append((args[0], how["image"]))
        f.register_forward_pre_hook(keep, with_kwargs=True)
    model.translate(PICTURES, as_is=True, steps=3, release_steps=3)
    assert len(asked["source"]) == len(asked["target"]) == 3
    for (a, given_a), (b, given_b) in zip(asked["source"], asked["target"], strict=True):
        assert torch.equal(given_a, b)
        assert torch.equal(given_b, a)
        assert not torch.equal(a, b)
