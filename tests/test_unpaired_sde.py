"""The unpaired score-SDE: exact conditional networks, the phases of training, and what is remembered."""

import json
from itertools import count

import pytest
import torch
from torch.nn.utils import parameters_to_vector
from truth import f64, lively, normal

from sfumato.checkpoints.model_folder import load, save
from sfumato.data import write_png
from sfumato.diffusion.denoiser import PALETTE, Denoiser
from sfumato.diffusion.integrate import integrate
from sfumato.diffusion.process import Cosine
from sfumato.methods._shared.memory import Colours, Replay, SlowCopy
from sfumato.methods._shared.unpaired import OTHER, Sides, swapped
from sfumato.methods.registry import Diverged
from sfumato.methods.unpaired_sde import UnpairedSDE
from sfumato.training.fit import State, fit
from sfumato.training.train import train

R = 0.8
SHORT = {"net": "tiny", "warmup_batches": 1, "distil_batches": 2, "refresh": 2, "buffer": 6, "loop_steps": 2}


class Given(torch.nn.Module):
    """E[y | y_t, x] of y = R x + N(0, 1 - R^2) in one pixel; keeps what it is asked."""

    def forward(self, both, log_sigma, label=None):
        self.asked, self.label = both.detach(), label
        noisy, x = both.chunk(2, 1)
        rel, V = log_sigma.exp()[:, None, None, None], 1 - R**2
        y_t = noisy * (1 + rel**2).sqrt()
        return R * x + V / (V + rel**2) * (y_t - R * x)


def exact(**options):
    given = {"warmup_batches": 0, "distil_batches": 0, "prediction": "x0", "channels": 1} | options
    return UnpairedSDE(net=Given(), **given)


def tiny(**options):
    torch.manual_seed(0)
    return UnpairedSDE(**SHORT | options)


def batches(start=0, n=2):
    for i in count(start):
        g = torch.Generator().manual_seed(i)
        yield tuple(torch.rand(n, 3, 8, 8, generator=g) * 2 - 1 for _ in range(2))


def rng():
    return torch.Generator().manual_seed(0)


@pytest.mark.parametrize(
    ("pairing", "solver", "steps"),
    [("exact", "dpm2m", 20), ("detached", "dpm2m", 20), ("buffer", "dpm2m", 20), ("exact", "sde_dpm2m", 30)],
)
def test_pairs_have_the_conditional_law(pairing, solver, steps, report):
    """E[y | x] = R x and Var[y | x] = 1 - R^2."""
    model = exact(pairing=pairing, loop_solver=solver, loop_steps=steps).eval()
    real = {"source": normal(2500, 1, 1, 1), "target": normal(2500, 1, 1, 1, seed=1)}
    same, made = model.pairs(model.denoisers, real, rng(), False, 0)
    assert same is real
    for side, other in OTHER.items():
        x, y = real[other], made[side]
        gain = ((x * y).sum() / (x * x).sum()).item()
        variance = (y - gain * x).var().item()
        report(f"{pairing} pairs, {solver}: gain (0.8), variance (0.36)", gain, variance)
        assert gain == pytest.approx(R, abs=0.03)
        assert variance == pytest.approx(1 - R**2, rel=0.08)


def test_one_step_is_the_denoised_mean():
    model, n = exact(pairing="one_step").eval(), 5
    x = normal(n, 1, 1, 1)
    _, made = model.pairs(model.denoisers, {"source": x, "target": x}, rng(), False, 0)
    g = rng()  # the target is made first
    t = model.denoisers.target.draw_times(n, g)
    alpha, sigma = Cosine().at(t, x)
    z = torch.randn(x.shape, generator=g).to(x)
    V, rel = 1 - R**2, sigma / alpha
    want = R * x + V / (V + rel**2) * (x + rel * z - R * x)
    torch.testing.assert_close(made["target"], want)


def test_the_net_sees_noisy_then_image_in_training_and_in_sampling():
    model = exact(drop_condition=0.0).double()
    net, image = model.denoisers.target.net, normal(3, 1, 1, 1)
    model.translate(image, as_is=True, steps=2)
    assert torch.equal(net.asked[:, 1:], image)
    target = normal(3, 1, 1, 1, seed=1)
    model.denoisers.loss({s: target for s in OTHER}, {s: image for s in OTHER}, rng())
    assert torch.equal(net.asked[:, 1:], image)
    assert not torch.equal(net.asked[:, :1], image)


def test_gradients_through_the_sampler_are_those_of_plain_backpropagation(monkeypatch, report):
    found = []
    for plain in (False, True):
        if plain:
            monkeypatch.setattr("sfumato.methods._shared.unpaired.integrate_flat", integrate)
        model = tiny(
            pairing="exact", warmup_batches=0, distil_batches=0, pseudo="attached", cycle=10.0, net="tiny"
        )
        g = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for p in model.parameters():
                p += 0.1 * torch.randn(p.shape, generator=g)
        model.double()
        ((_, loss),) = model.objectives(((a.double(), b.double()) for a, b in batches()), rng())
        parameters = list(model.denoisers.parameters())
        found.append(torch.cat([v.flatten() for v in torch.autograd.grad(loss, parameters)]))
    error = ((found[0] - found[1]).norm() / found[1].norm()).item()
    report("unpaired_sde exact: gradient against plain backpropagation", error)
    assert error < 1e-10


def pictures(folder, *counts):
    """A folder of random 8x8 pictures for each count."""
    folders = [folder / f"domain{i}" for i in range(len(counts))]
    for place, n in zip(folders, counts, strict=True):
        place.mkdir()
        for i in range(n):
            write_png(place / f"{i}.png", normal(3, 8, 8, seed=i).clamp(-1, 1))
    return folders


def test_phases():
    """Alone: rough or hidden images of its own; distil: made by the frozen copy; then by the slow one."""
    model, stream, kinds = tiny().train(), batches(), []
    for f in {id(f): f for f in (model.denoisers.target, model.denoisers.source)}.values():
        loss = f.loss

        def spy(x, t, z, domain=None, image=None, f=f, loss=loss):
            kinds[-1].update(f.domains[i].split()[1] for i in domain.tolist())
            return loss(x, t, z, domain=domain, image=image)

        f.loss = spy
    copies = []
    for _ in range(5):
        kinds.append(set())
        for _ in model.objectives(stream, rng()):
            with torch.no_grad():
                for p in model.parameters():
                    p += 0.01
        copies.append((model.pairs.frozen.vector, model.pairs.slow.vector.clone()))
    assert kinds[0] <= {"rough", "none"}
    assert set().union(*kinds[1:]) <= {"clean", "none"}
    assert "rough" in kinds[0]
    assert "clean" in set().union(*kinds[1:])
    assert copies[0][0] is None
    assert torch.equal(copies[1][0], copies[1][1])
    assert torch.equal(copies[4][0], copies[1][0])
    assert not torch.equal(copies[4][1], copies[1][1])
    assert model.pairs.memory.images.shape == (6, 4, 3, 8, 8)


@pytest.mark.parametrize("pairing", ["buffer", "exact", "detached", "one_step", "auxiliary"])
def test_a_run_that_was_stopped_goes_on_with_the_same_bits(pairing):
    make = lambda: State(tiny(pairing=pairing, normalise=True))
    straight, first, second = make(), make(), make()
    players = [list(u.losses) for u in fit(straight, batches(), steps=5, schedule="constant")]
    assert players[0] == ["denoisers"]
    two = ["denoisers", "pairs.translators"][: 1 + (pairing == "auxiliary")]
    assert players[1:] == [two] * 4
    list(fit(first, batches(), steps=3, schedule="constant"))
    second.restore({k: v.clone() for k, v in first.tensors().items()}, 3)
    list(fit(second, batches(3), steps=5, schedule="constant"))
    a, b = straight.tensors(), second.tensors()
    assert a.keys() == b.keys() >= {"memory/pairs.slow.vector", "memory/pairs.memory.images"}
    assert all(torch.equal(a[k], b[k]) for k in a)


def test_the_model_folder_holds_no_pictures_and_no_copies(tmp_path):
    state = State(tiny())
    list(fit(state, batches(), steps=2))
    save(state.method, tmp_path / "m")
    part = load(tmp_path / "m")
    assert part.pairs.memory.images is None
    assert int(part.seen) == 2
    kept = set(part.state_dict()) - {k for k in part.state_dict() if k.startswith("denoisers.")}
    assert kept == {"seen", "colours.target", "colours.source"}


def test_the_channel_order_is_the_one_that_there_is(tmp_path):
    """Earlier models name it; one of another order is none of ours."""
    save(tiny(), tmp_path / "m")
    file = tmp_path / "m" / "model.json"
    info = json.loads(file.read_text())
    info["model"]["channel_order"] = "noisy, image"
    file.write_text(json.dumps(info))
    load(tmp_path / "m")
    info["model"]["channel_order"] = "image, noisy"
    file.write_text(json.dumps(info))
    with pytest.raises(ValueError, match="has no field 'channel_order'"):
        load(tmp_path / "m")


def test_pairs_that_are_not_finite_stop_the_training():
    state = State(tiny(warmup_batches=0, distil_batches=0))
    list(fit(state, batches(), steps=1))
    before = {k: v.clone() for k, v in state.method.state_dict().items() if k != "seen"}
    state.method.pairs.memory.images = None
    state.method.pairs.sample = lambda f, side, image, rng: image * float("inf")
    with pytest.raises(Diverged, match=r"2 steps of dpm2m make are not finite: take more --loop-"):
        list(fit(state, batches(1), steps=2))
    assert all(torch.equal(state.method.state_dict()[k], v) for k, v in before.items())


def test_auxiliary_translators_first_learn_the_first_coupling():
    """Images of a side are compared with what the translator to it makes of what they were made of."""
    model, pairs = lively(tiny(pairing="auxiliary", warmup_batches=0)).train(), []
    model.pairs.register_forward_hook(lambda *call: pairs.append(call[-1]))
    losses = dict(model.objectives(batches(n=6), rng()))
    ((real, made),) = pairs
    errors = [(model.pairs.translators[s](real[o]) - made[s]).square() for s, o in OTHER.items()]
    torch.testing.assert_close(losses["pairs.translators"], sum(e.mean() for e in errors))


def test_domains_of_unequal_sizes_are_learnt_from(tmp_path):
    folders = pictures(tmp_path, 3, 7)
    part = train("unpaired_sde", folders, tmp_path / "run", options=SHORT, size=8, steps=3, batch=4,
                 held_out=0, preview_every=0, quiet=True)  # fmt: skip
    counts = json.loads((tmp_path / "run" / "run.json").read_text())["data"]["count"]
    assert (int(part.seen), counts) == (3, {"source": 3, "target": 7})


def test_a_training_that_diverges_keeps_its_last_good_save(tmp_path, monkeypatch):
    """One line of advice; the folder holds the save before, and nothing else."""
    sample, calls = Sides.sample, count()
    broken = lambda *a, **k: sample(*a, **k) / (next(calls) < 6)
    monkeypatch.setattr(Sides, "sample", broken)
    folders = pictures(tmp_path, 4, 4)
    out, how = tmp_path / "run", {"size": 8, "batch": 4, "held_out": 0, "preview_every": 0}
    options = SHORT | {"warmup_batches": 0, "distil_batches": 0, "pairing": "detached"}
    with pytest.raises(ValueError, match=r"not finite: .*last good save\. Lower --lr .*--resume"):
        train("unpaired_sde", folders, out, options=options, steps=9, save_every=2,
              quiet=True, **how)  # fmt: skip
    kept = load(out)
    assert int(kept.seen) == 2
    assert all(v.isfinite().all() for v in kept.state_dict().values())
    monkeypatch.setattr(Sides, "sample", sample)
    more = train("unpaired_sde", folders, out, options=options, steps=4,
                 save_every=2, quiet=True, resume=True, **how)  # fmt: skip
    assert int(more.seen) == 4


def test_colours_of_a_domain_become_common_and_come_back():
    colours = Colours(3, ("a", "b")).double()
    x = normal(4, 3, 5, 5) * torch.tensor([0.1, 0.3, 0.2])[:, None, None] + 0.4
    assert torch.equal(colours.normal(x, "a"), x)  # nothing learnt, nothing changed
    for n, half in enumerate(x.split(2)):
        colours.learn({"a": half}, n)
    u = colours.normal(x, "a")
    assert u.mean((0, 2, 3)).abs().max() < 1e-12
    torch.testing.assert_close(u.square().mean((0, 2, 3)), torch.full((3,), 0.25).double())
    torch.testing.assert_close(colours.restore(u, "a"), x)


def test_palettes_law_of_noise_levels():
    """As many draws between any two neighbouring levels, and gamma uniform between them."""
    n = 8 * (PALETTE.steps - 1)
    f = Denoiser(net=Given(), times="palette", process=Cosine(t_min=1e-6, t_max=1 - 1e-6))
    alpha, _ = f.process(f.draw_times(n, rng()))
    levels = torch.arange(1, PALETTE.steps + 1, dtype=torch.float64) / PALETTE.steps
    gamma = PALETTE(levels)[0].square().flip(0)
    where = torch.searchsorted(gamma, alpha.square().sort().values)
    assert torch.equal(where.bincount()[1:], torch.full((PALETTE.steps - 1,), 8))


def test_bad_options():
    for wrong, message in {
        "loop_steps=0": "loop_steps must be at least 1, not 0",
        "pairing=exakt": "did you mean 'exact'",
        "first=corse": "did you mean 'coarse'",
        "pseudo=attach": "did you mean 'attached'",
    }.items():
        name, value = wrong.split("=")
        with pytest.raises(ValueError, match=message):
            tiny(**{name: int(value) if value.isdigit() else value})
    with pytest.raises(ValueError, match="direction"):
        tiny().translate(torch.zeros(1, 3, 8, 8), direction="backwards")
    with pytest.raises(ValueError, match="steps must be in"):
        tiny(warmup_batches=0).translate(torch.zeros(1, 3, 8, 8), steps=0)
    assert swapped({"target": 1, "source": 2}) == {"target": 2, "source": 1}


@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_a_training_saved_on_the_batch_after_alone_resumes_bit_for_bit(tmp_path, precision):
    """There the frozen copy is the slow one, in one tensor."""
    folders = pictures(tmp_path, 4, 4)
    how = {"options": SHORT | {"warmup_batches": 1, "distil_batches": 2},
           "size": 8, "batch": 4, "held_out": 0,
           "preview_every": 0, "quiet": True, "schedule": "constant", "precision": precision}  # fmt: skip
    train("unpaired_sde", folders, tmp_path / "straight", steps=4, **how)
    train("unpaired_sde", folders, tmp_path / "stopped", steps=2, **how)
    train("unpaired_sde", folders, tmp_path / "stopped", steps=4, **how, resume=True)
    ends = [(tmp_path / n / "training.safetensors").read_bytes() for n in ("straight", "stopped")]
    assert ends[0] == ends[1]


class Copying(torch.nn.Module):
    """E[x | x_t] is the image that is given."""

    def forward(self, both, log_sigma, label=None):
        return both.chunk(2, 1)[1]


class Ends(torch.nn.Module):
    """E[x | x_t] of one pixel: N(1/2, 0.09) in the target's domain, N(-1/2, 0.04) in the source's."""

    def forward(self, both, log_sigma, label):
        target = (label < 3)[:, None, None, None]
        mean, V = torch.where(target, 0.5, -0.5), torch.where(target, 0.09, 0.04)
        rel = log_sigma.exp()[:, None, None, None]
        return mean + V / (V + rel**2) * (both[:, :1] * (1 + rel**2).sqrt() - mean)


@pytest.mark.parametrize("null", [0.0, 0.5, 1.0])
def test_what_is_hidden_is_blank_and_called_none(null):
    model = exact()
    images = {s: normal(200, 1, 1, 1) for s in OTHER}
    model.double().denoisers.loss(images, images, rng(), null=null)
    net, names = model.denoisers.source.net, model.denoisers.source.domains
    called = torch.tensor([names[i] == "source none" for i in net.label.tolist()])
    assert torch.equal(net.asked[:, 1:].flatten() == 0, called)
    assert called.double().mean().item() == pytest.approx(null, abs=0.1)


@pytest.mark.parametrize("alone", [0, 1])
@pytest.mark.parametrize("null", [0.0, 1.0])
def test_images_are_hidden_in_every_phase(null, alone):
    model = exact(drop_condition=null, warmup_batches=alone, pairing="one_step").train()
    model.pairs.follow = lambda *_: None  # there is no weight to copy
    stream = ((normal(6, 1, 1, 1).float(), normal(6, 1, 1, 1, seed=1).float()) for _ in count())
    for _ in range(alone + 1):
        list(model.objectives(stream, rng()))
    names = {model.denoisers.source.domains[i] for i in model.denoisers.source.net.label.tolist()}
    assert names == {"source none" if null else "source clean"}


def test_the_first_coupling_without_coarse_images_is_the_bridge_to_the_side():
    """Between Gaussians DDIB is y = m' + s' / s (x - m); it takes twice the steps of a sampler."""
    model = UnpairedSDE(net=Ends(), warmup_batches=1, first="unconditional", prediction="x0", channels=1)
    model, x, visited = model.double().eval(), 0.2 * normal(5, 1, 1, 1) - 0.5, []
    watch = lambda t, *rest: visited.append(t)
    y = model.translate(x, steps=15, solver="ab3", watch=watch)
    torch.testing.assert_close(y, 0.5 + 1.5 * (x + 0.5), rtol=0, atol=0.02)
    assert len(visited) == 30
    back = model.translate(y, steps=15, solver="ab3", direction="target-to-source")
    torch.testing.assert_close(back, x, rtol=0, atol=0.02)


def test_of_coarse_images_only_the_content_asked_for_is_kept():
    """Chroma has no brightness: its mean over the channels is 0; what is left is the coarse chroma."""
    real = {s: normal(2, 3, 6, 6, seed=i) for i, s in enumerate(OTHER)}
    for content in ("colour", "chroma"):
        model = tiny(content=content, coarse_noise=0.0, coarse_cells=2)
        for s, rough in model.pairs.roughened(real, rng()).items():
            means = real[s].unflatten(2, (2, 3)).unflatten(4, (2, 3)).mean((3, 5))
            want = means if content == "colour" else means - means.mean(1, keepdim=True)
            torch.testing.assert_close(rough[..., ::3, ::3], want)
            torch.testing.assert_close(
                rough, rough[..., ::3, ::3].repeat_interleave(3, 2).repeat_interleave(3, 3)
            )


def test_new_pairs_are_made_once_in_so_many_batches():
    model, kept = tiny(refresh=3, buffer=100, pairing="buffer").train(), []
    for n in range(7):
        real = dict(zip(("source", "target"), next(batches(n)), strict=True))
        model.pairs(model.denoisers, real, rng(), False, n)
        kept.append(len(model.pairs.memory.images))
    assert kept == [2, 2, 2, 4, 4, 4, 6]


def test_clip_bounds_what_the_denoiser_says():
    model, x = exact().eval(), torch.full((3, 1, 1, 1), 5.0)
    assert model.translate(x, as_is=True, steps=4).min() > 2
    assert model.translate(x, as_is=True, steps=4, clip=True).max() <= 1


def test_colours_are_those_of_the_side_translated_to():
    """x of mean m and spread s becomes m' + s' (x - m) / s where the networks change nothing."""
    model = UnpairedSDE(net=Copying(), warmup_batches=0, prediction="x0", normalise=True).double().eval()
    moments = {"source": (0.5, 0.1), "target": (-0.25, 0.3)}
    for side, (mean, std) in moments.items():
        second = mean**2 + std**2
        model.colours.get_buffer(side).copy_(f64([[mean], [second]]).expand(2, 3))
    x = normal(2, 3, 4, 4)
    for direction, (a, b) in {
        "source-to-target": ("source", "target"), "target-to-source": ("target", "source"),
    }.items():  # fmt: skip
        (m0, s0), (m1, s1) = moments[a], moments[b]
        y = model.translate(x, as_is=True, steps=3, direction=direction)
        torch.testing.assert_close(y, m1 + s1 * (x - m0) / s0)


def test_ddib_is_prepared_without_any_image():
    model = exact(warmup_batches=1, first="unconditional", drop_condition=0.0).train()
    model.pairs.follow = lambda *_: None
    x = normal(6, 1, 1, 1).float()
    list(model.objectives(iter([(x, x)]), rng()))
    net, names = model.denoisers.source.net, model.denoisers.source.domains
    assert {names[i] for i in net.label.tolist()} == {"source none"}


def test_colours_are_learnt_from_the_first_batches_alone():
    """So that what the networks have learnt keeps its meaning."""
    for seen, learns in ((199, True), (200, False)):
        model = tiny(warmup_batches=0, distil_batches=0, pairing="one_step", normalise=True).train()
        model.seen.fill_(seen)
        before = model.colours.source.clone()
        list(model.objectives(batches(), rng()))
        assert torch.equal(model.colours.source, before) != learns


def test_the_cycle_term_has_its_weight():
    """The loss is affine in lambda."""
    how = {"warmup_batches": 0, "distil_batches": 0, "pairing": "detached"}
    zero, one, ten = (
        dict(lively(tiny(cycle=c, **how)).train().objectives(batches(), rng()))
        for c in (0.0, 1.0, 10.0)
    )
    term = (one["denoisers"] - zero["denoisers"]).item()
    assert term > 1e-3
    assert (ten["denoisers"] - zero["denoisers"]).item() == pytest.approx(10 * term, rel=1e-3)


@pytest.mark.parametrize("pseudo", ["none", "detached", "attached"])
def test_made_images_learn_as_targets_only_if_attached(pseudo):
    """The network copies the noisy image, so that targets are all that a gradient can reach."""

    class Noisy(torch.nn.Module):
        def forward(self, both, log_sigma, label=None):
            return both.chunk(2, 1)[0].detach()

    f = Sides(Noisy(), 1, prediction="x0")
    real = {s: normal(4, 1, 2, 2, seed=i) for i, s in enumerate(OTHER)}
    made = {s: normal(4, 1, 2, 2, seed=i + 5).requires_grad_() for i, s in enumerate(OTHER)}
    loss = f.loss(real, made, rng(), pseudo=pseudo)
    assert loss.requires_grad == (pseudo == "attached")
    if pseudo == "attached":
        assert all(g.abs().min() > 0 for g in torch.autograd.grad(loss, list(made.values())))


def test_the_first_coupling_is_the_frozen_copys_and_the_others_are_the_slow_ones(monkeypatch):
    model, acted = tiny(pairing="detached"), {}

    def seen(name):
        def spy(self, side, image, noise, *_, **__):
            acted[name] = parameters_to_vector(self.parameters()).detach()
            return image

        return spy

    monkeypatch.setattr(Sides, "couple", seen("couple"))
    monkeypatch.setattr(Sides, "sample", seen("sample"))
    own = parameters_to_vector(model.denoisers.parameters()).detach()
    model.pairs.frozen.vector, model.pairs.slow.vector = own + 1, own + 2
    real = dict(zip(("source", "target"), next(batches()), strict=True))
    for first in (True, False):
        model.eval().pairs(model.denoisers, real, rng(), first, 0)
    assert torch.equal(acted["couple"], own + 1)
    assert torch.equal(acted["sample"], own + 2)
    assert torch.equal(parameters_to_vector(model.denoisers.parameters()), own)


def test_memory_keeps_the_latest():
    memory = Replay(3)
    for k in range(4):
        memory.add(torch.full((2, 1, 1, 1), 2.0 * k), torch.full((2, 1, 1, 1), 2.0 * k + 1))
    assert memory.images[:, 0].flatten().tolist() == [4, 6, 6]
    first, second = memory.draw(torch.empty(50, 1, 1, 1), rng())
    assert torch.equal(second, first + 1)  # tuples stay together
    assert set(first.flatten().tolist()) == {4, 6}


def test_a_copy_follows_slowly_and_acts_in_evaluation_mode():
    net, copy = torch.nn.Linear(1, 1, bias=False), SlowCopy()
    for value in (1.0, 2.0, 4.0):
        torch.nn.init.constant_(net.weight, value)
        copy.follow(net, 0.75)
    assert copy.vector.item() == pytest.approx(0.75 * 1.25 + 0.25 * 4)
    for training in (True, False):
        net.train(training)
        with copy.acting_in(net):
            assert net.weight.item() == copy.vector.item()
            assert not net.training
        assert (net.weight.item(), net.training) == (4, training)
