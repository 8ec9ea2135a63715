"""Trajectories of every method that takes steps: what is told is true, and what is written is whole."""

import inspect
import json

import numpy as np
import pytest
import torch
from PIL import Image
from test_methods import PICTURES, TRANSLATORS, options, tiny
from truth import f64, gaussian, normal

import sfumato
from sfumato.diffusion.encode_decode import decode
from sfumato.diffusion.guidance import ClassifierFree, Clipped, Guided
from sfumato.diffusion.integrate import integrate, rms
from sfumato.diffusion.process import Cosine
from sfumato.diffusion.time_grids import grid
from sfumato.explore import occlusion, record, show_trajectory
from sfumato.explore.sensitivity import samples
from sfumato.translation.one_picture import OnePicture

X = PICTURES[:3]
DIFFUSION = [n for n in TRANSLATORS if "steps" in inspect.signature(tiny(n).translate).parameters]
ENERGIES = {
    "egsde": {"realism", "faithful"}, "classifier_guidance": {"classifier"},
    "controllable": {"regression"},
}  # fmt: skip
AFTER = {"egsde", "ilvr"}


@pytest.mark.parametrize("name", DIFFUSION)
def test_of_every_diffusion_method(name):
    part = tiny(name)
    found = record(part, X, seed=3, options=options(part))
    assert torch.equal(found.result, part.translate(X, as_is=True, seed=3, **options(part)))
    steps = len(found.times)
    assert steps in (4, 8)  # unpaired_sde's first coupling goes up and down in four each
    assert found.states.shape == found.means.shape == (steps, *X.shape)
    assert all(curve.shape == (steps, len(X)) for curve in found.curves.values())
    assert {"score", "change", "from source", "nfe"} <= found.curves.keys()
    assert found.curves["score"].isfinite().all()
    assert (found.curves["nfe"].diff(dim=0) >= 0).all()
    named = {n.partition("/")[2] for n in found.curves if n.startswith("energy/")}
    assert named == ENERGIES.get(name, set())
    pushed = {n.partition("/")[2] for n in found.curves if n.startswith("push/")}
    assert pushed == named - {"faithful"}  # whose step is not a gradient's
    moved = found.curves.get("moved", torch.zeros(1))
    assert (moved > 0).any() == (name in AFTER)
    alone = record(part, X[1:2], seed=3, options=options(part))
    for curve, one in zip(found.curves.values(), alone.curves.values(), strict=True):
        torch.testing.assert_close(curve[:, 1:2], one, rtol=1e-3, atol=1e-4, equal_nan=True)


def test_methods_that_take_their_own_steps():
    found = record(tiny("entropic_ot"), X)
    assert len(found.times) == 10
    assert "score" not in found.curves  # it has none
    assert found.curves["from source"][0].isfinite().all()


@pytest.mark.parametrize("name", sorted({*TRANSLATORS} - {*DIFFUSION} - {"entropic_ot"}))
def test_of_one_step_there_is_none(name):
    with pytest.raises(ValueError, match=f"{name} makes its result in 1 step"):
        record(tiny(name), X)


class Ode:
    """A Gaussian's ODE as a translator."""

    def __init__(self):
        self.f = gaussian([1.0, -2.0], [0.5, 2.0], Cosine())

    def translate(self, source, *, seed=0, watch=None):
        return decode(self.f, source, steps=12, watch=watch)


def test_score_is_the_closed_form():
    """-(alpha^2 S + sigma^2)^-1 (x_t - alpha m)."""
    found, f = record(Ode(), normal(5, 2)), Ode().f
    for i, t in enumerate(found.times):
        a, s = f.process(f64(t))
        x = found.states[i] * (a**2 + s**2).sqrt()
        score = -(x - a * f64([1.0, -2.0])) / (a**2 * f64([0.5, 2.0]) + s**2)
        torch.testing.assert_close(found.curves["score"][i], rms(score), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(
        found.curves["change"][1:], (found.means.diff(dim=0)).square().mean(-1).sqrt()
    )


def test_energies_and_pushes_are_those_of_guidance():
    """Of wrapped wrappers all tell: E = |x - b|^2 has the gradient 2 (x - b)."""
    f, seen = gaussian([0.0], [1.0], Cosine()), []
    g = Guided(f, lambda x, t: (x - 3).square().sum(1), name="three")
    g = Guided(Clipped(g), lambda x, t: 5 * x.square().sum(1), name="zero")
    free = ClassifierFree(g, f, 0.5)
    integrate("heun", free, normal(4, 1), grid(f.process, 6),
              watch=lambda t, x, mean, extras: seen.append((x, extras)))  # fmt: skip
    for x, extras in seen:
        sigma = extras["sigma"]
        assert extras["nfe"] == 4  # both ends of a step, with and without the condition
        torch.testing.assert_close(extras["energy/three"], (x - 3).square().sum(1))
        torch.testing.assert_close(extras["push/three"], 2 * sigma * (x - 3).abs()[:, 0])
        torch.testing.assert_close(extras["energy/zero"], 5 * x.square().sum(1))
        torch.testing.assert_close(extras["push/zero"], 10 * sigma * x.abs()[:, 0])
        assert extras["push/classifier_free"].shape == (4,)
        assert "moved" not in extras


def test_what_is_moved_after_a_step():
    f, seen = gaussian([0.0], [1.0], Cosine()), []
    integrate("ddim", f, normal(4, 1), grid(f.process, 3), after=lambda x, s: x + 2,
              watch=lambda t, x, mean, extras: seen.append(extras["moved"]))  # fmt: skip
    torch.testing.assert_close(torch.stack(seen), torch.full((3, 4), 2.0, dtype=torch.float64))


def test_files(tmp_path):
    part = sfumato.find("diffusion")(domains=("cat", "dog"), net="tiny", any_domain=0.0)
    sfumato.save(part, tmp_path / "model", info={"size": 16})
    pixels = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "one.png")
    out, target = tmp_path / "out", f"{tmp_path}/model:dog"
    given = lambda path=tmp_path / "one.png", **options: OnePicture.read(
        path, method="sdedit", target=target, options=options
    )
    found = show_trajectory(given(steps=6, strength=0.5), out)
    names = ["curves.json", "curves.png", "film.webp", "result.png", "strip.png"]
    assert sorted(p.name for p in out.iterdir()) == names
    with Image.open(out / "film.webp") as film:
        assert (film.n_frames, film.size) == (6 + 1, (34 * 7, 16 * 7))
    facts = json.loads((out / "curves.json").read_text())
    assert facts["t"] == found.times
    assert facts["curves"]["change"][0][0] is None  # before the first mean there is none
    assert len(facts["curves"]["score"][0]) == 6
    assert facts["run"]["options"]["strength"] == 0.5
    with pytest.raises(ValueError, match="not an empty folder"):
        show_trajectory(given(), out)
    with pytest.raises(ValueError, match="makes its result in 1 step"):
        show_trajectory(given(steps=1), tmp_path / "two")
    with pytest.raises(ValueError, match="expected one file"):
        given(tmp_path)
    assert not (tmp_path / "two").exists()


def test_bright_pictures_are_explored_as_they_are_and_results_beyond_the_range_kept():
    """Files are checked where they are read: a picture of [0, 1] alone is a bright one."""
    part, bright = tiny("sdedit"), X.abs() / X.abs().max()
    few = options(part)
    wanted = part.translate(bright, as_is=True, **few)
    assert wanted.abs().max() > 1
    assert torch.equal(record(part, bright, options=few).result, wanted)
    assert torch.equal(samples(part, bright, 2, options=few)[0], wanted)
    assert occlusion(part, bright[:1], options=few).isfinite().all()


@pytest.mark.parametrize("name", ["ddib", "cut", "entropic_ot"])
def test_what_a_watch_does_to_what_it_sees_changes_nothing(name):
    x = normal(2, 3, 16, 16).float().clamp(-1, 1)
    if name == "ddib":
        part = sfumato.translator("ddib", source="sfumato/digits:2", target="sfumato/digits:3")
    else:
        torch.manual_seed(0)
        part = sfumato.find(name)(net="tiny").eval()
    spoil = lambda t, x, mean, extras: (x.zero_(), mean.add_(1))
    made = part.translate(x, watch=spoil)
    assert torch.equal(made, part.translate(x))
