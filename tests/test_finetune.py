"""Trainings that begin with the weights of a model: names, channels, options, records, resuming."""

import dataclasses
import json
import shutil

import numpy as np
import pytest
import torch
from test_train import TINY, folders, pictures  # noqa: F401

from sfumato.checkpoints.model_folder import load, save
from sfumato.cli.main import main
from sfumato.core.errors import UserError
from sfumato.data.write import write_samples
from sfumato.methods.registry import find, info, names
from sfumato.nets.resnet_generator import ResNet
from sfumato.nets.sizes import UNet
from sfumato.training.session import Session
from sfumato.training.time_budget import _phases
from sfumato.training.train import recorded, train

HOW = {k: v for k, v in TINY.items() if k != "options"} | {"held_out": 0, "steps": 1}
T = torch.tensor(0.4)


def learnt(folder, method="diffusion", **options):
    """A model of which every weight has learnt something, in a folder."""
    torch.manual_seed(3)
    part = find(method)(**{"net": "tiny"} | options)
    with torch.no_grad():
        for value in part.state_dict(keep_vars=True).values():
            if value.is_floating_point():
                value.add_((torch.rand_like(value) - 0.5) / 5)
    save(part, folder, info={"size": 16})
    return part.eval()


@pytest.fixture
def begun(monkeypatch, tmp_path):
    """The model with which a training would begin."""
    monkeypatch.setattr(Session, "learn", lambda self: None)
    runs = iter(range(9))
    return lambda method, data, model, **how: train(
        method, data, tmp_path / f"run{next(runs)}", start=model, **HOW | how
    )


def seen(part, x, domain):
    return part.denoiser(x, T, domain=domain)


def test_domains_are_matched_by_name(folders, tmp_path, begun):  # noqa: F811
    old = learnt(tmp_path / "m", domains=("blue", "green", "red"))
    x = torch.randn(2, 3, 16, 16)
    new = begun("diffusion", folders | {"maps": pictures(tmp_path / "p", 3, 1)}, tmp_path / "m")
    assert new.domains == ("red", "green", "maps")
    for name in ("red", "green", None):
        assert torch.equal(seen(new, x, name), seen(old, x, name))
    assert not any(torch.allclose(seen(new, x, "maps"), seen(old, x, d)) for d in old.domains)
    again = begun("diffusion", folders | {"maps": tmp_path / "p"}, tmp_path / "m", seed=1)
    assert not torch.equal(seen(new, x, "maps"), seen(again, x, "maps"))  # as the seed makes it


def test_heads_of_a_classifier_are_matched_by_name(folders, tmp_path, begun):  # noqa: F811
    old = learnt(tmp_path / "m", "domain_classifier", domains=("green", "blue", "red"))
    x = torch.randn(2, 3, 16, 16)
    new = begun("domain_classifier", folders, tmp_path / "m")
    assert torch.allclose(new(x, T), old(x, T)[:, [2, 0]], atol=1e-6)


@pytest.mark.parametrize("method", [n for n in names() if info(n).trains_on])
def test_every_method_begins_with_all_of_a_model(method, folders, tmp_path, begun):  # noqa: F811
    own = {"domains": tuple(folders), "side": 16}
    old = learnt(tmp_path / "m", method, **{k: v for k, v in own.items() if has(method, k)})
    data = folders if info(method).trains_on == "domains" else list(folders.values())
    new = begun(method, data, tmp_path / "m", size=32, upscale=True)
    assert new.state_dict().keys() == old.state_dict().keys()
    assert all(torch.equal(new.state_dict()[k], v) for k, v in old.state_dict().items())


def has(method, field):
    return field in find(method).__dataclass_fields__


@pytest.mark.parametrize("patch", [1, 2])
def test_a_gray_picture_gives_what_its_copy_in_colours_gave(patch, folders, tmp_path, begun):  # noqa: F811
    net = UNet(labels=2, width=8, multipliers=(1, 2), blocks=1, patch=patch) if patch == 1 else "tiny"
    old = learnt(tmp_path / "rgb", domains=("red", "green"), net=net)
    x = torch.randn(2, 1, 16, 16)
    colours = x.expand(-1, 3, -1, -1)
    gray = begun("diffusion", folders, tmp_path / "rgb", options={"channels": 1})
    wanted = seen(old, colours, "green").mean(1, keepdim=True)
    assert torch.allclose(seen(gray, x, "green"), wanted, atol=1e-5)
    save(gray, tmp_path / "gray", info={"size": 16})
    assert begun("diffusion", folders, tmp_path / "gray").channels == 1
    back = begun("diffusion", folders, tmp_path / "gray", options={"channels": 3})
    assert torch.allclose(seen(back, colours, "red"), seen(gray, x, "red").expand(-1, 3, -1, -1), atol=1e-5)


def test_channels_of_pairs_and_classifiers_are_adapted(folders, tmp_path, begun):  # noqa: F811
    x, y = torch.randn(2, 2, 1, 16, 16).unbind()
    colours = [v.expand(-1, 3, -1, -1) for v in (x, y)]
    old = learnt(tmp_path / "pairs", "paired_sde")
    new = begun("paired_sde", list(folders.values()), tmp_path / "pairs", options={"channels": 1})
    for side in ("target", "source"):
        made = old.denoisers[side](colours[0], T, image=colours[1]).mean(1, keepdim=True)
        assert torch.allclose(new.denoisers[side](x, T, image=y), made, atol=1e-5)
    old = learnt(tmp_path / "c", "domain_classifier", domains=tuple(folders))
    new = begun("domain_classifier", folders, tmp_path / "c", options={"channels": 1})
    assert torch.allclose(new(x, T), old(colours[0], T), atol=1e-5)


def test_a_network_of_its_own_learns_other_domains(folders, tmp_path, begun):  # noqa: F811
    net = find("diffusion")(net="tiny", domains=("green",)).denoiser.net
    old, x = learnt(tmp_path / "m", domains=("green",), net=net), torch.randn(2, 3, 16, 16)
    new = begun("diffusion", folders, tmp_path / "m")
    assert torch.equal(seen(new, x, "green"), seen(old, x, "green"))
    generator = ResNet(ngf=8, n_blocks=1, downs=1)
    learnt(tmp_path / "g", "cyclegan", net=generator, side=16)
    made = begun("cyclegan", list(folders.values()), tmp_path / "g").translate(x.clamp(-1, 1))
    assert made.shape == x.shape


@pytest.mark.parametrize(
    ("method", "options", "start", "message"),
    [
        ("paired_sde", {}, "m", r"m is a diffusion model, .* sfumato train diffusion DATA... --from .*m$"),
        ("diffusion", {}, "m:red", "m:red is one domain: .* --from .*m$"),
        ("diffusion", {}, "none", "there is no model folder"),
        ("diffusion", {"net": "small"}, "m", "--net small is not for .* with --net tiny: leave --net out"),
        ("diffusion", {"prediction": "eps"}, "m", "--prediction eps .* --prediction v: leave"),
        ("diffusion", {"nets": "tiny"}, "m", "did you mean 'net'"),
        ("diffusion", {"domains": ("red",)}, "m", "unknown option"),
        ("cut", {"channels": 1}, "cut", "a cut model keeps its 3 channels: leave out --channels"),
        ("unpaired_sde", {"channels": 1}, "unpaired", "an? unpaired_sde model keeps its 3 channels"),
        ("entropic_ot", {"channels": 1}, "ot", "an entropic_ot model keeps its 3 channels: leave"),
        ("cut", {"net": "small"}, "cut", "--net small is not for .* with --net tiny: leave --net out"),
        ("cut", {"nce_layers": (99,)}, "cut", "the encoder has layers 0 to 13, not 99"),
        ("pix2pix", {"to_channels": 1}, "pix", "keeps its 3 channels and the 3 of its targets: leave out"),
        ("paired_sde", {"channels": 1, "to_channels": 3}, "paired", "keeps its 3 channels and the 3 of"),
        ("paired_sde", {"channels": 1}, "bands", "keeps its 4 channels and the 1 of its targets: leave out"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_one_line_and_writes_nothing(
    method, options, start, message, folders, tmp_path  # noqa: F811
):  # fmt: skip
    learnt(tmp_path / "m", domains=("red", "green"))
    learnt(tmp_path / "cut", "cut", side=16)
    learnt(tmp_path / "unpaired", "unpaired_sde")
    learnt(tmp_path / "ot", "entropic_ot", side=16)
    learnt(tmp_path / "pix", "pix2pix", side=16)
    learnt(tmp_path / "paired", "paired_sde")
    learnt(tmp_path / "bands", "paired_sde", channels=4, to_channels=1)
    data = folders if method == "diffusion" else list(folders.values())
    with pytest.raises(UserError, match=message):
        train(method, data, tmp_path / "run", start=tmp_path / start, options=options, **HOW)
    assert not (tmp_path / "run").exists()


def test_a_model_itself_has_no_other_start(folders, tmp_path):  # noqa: F811
    part = learnt(tmp_path / "m", domains=tuple(folders))
    with pytest.raises(UserError, match="a model has its own weights"):
        train(part, folders, tmp_path / "run", start=tmp_path / "m", **HOW)


def test_how_it_learns_may_change(folders, tmp_path, begun):  # noqa: F811
    learnt(tmp_path / "m", domains=("red", "green"), any_domain=0.3)
    assert begun("diffusion", folders, tmp_path / "m").any_domain == 0.3
    assert begun("diffusion", folders, tmp_path / "m", options={"any_domain": 0.0}).any_domain == 0.0
    assert begun("diffusion", folders, tmp_path / "m", options={"times": "uniform"}).times == "uniform"


@pytest.mark.parametrize("method", ["paired_sde", "pix2pix"])
def test_pictures_are_read_as_the_model_s_were(method, tmp_path, monkeypatch):
    """Channels, ranges and the colour under transparent pictures; typed ones are other."""
    for name, value in (("four", 4000), ("index", 0.5)):
        (tmp_path / name).mkdir()
        for i in range(3):
            x = np.full((4, 16, 16) if name == "four" else (1, 16, 16), value * i / 2, np.float32)
            write_samples(tmp_path / name / f"{i}.tif", x)
    data, how = [tmp_path / "four", tmp_path / "index"], HOW | {"flip": False}
    given = {"range": [-9000, 9000], "to_range": [-1, 1], "alpha": "red"}
    given |= {"options": {"net": "tiny", "channels": 4, "to_channels": 1}}
    was = train(method, data, tmp_path / "m", **how | given)
    how["start"] = tmp_path / "m"
    new = train(method, data, tmp_path / "new", **how)
    assert new.preparation == was.preparation
    assert (new.channels, new.to_channels) == (4, 1)
    train(method, data, tmp_path / "new", **how | {"steps": 2, "resume": True})
    how |= {"range": [0, 9000], "alpha": "white"}
    other = train(method, data, tmp_path / "other", **how)
    assert other.preparation == dataclasses.replace(was.preparation, range=(0, 9000), alpha="white")
    train(method, data, tmp_path / "other", **how | {"steps": 2, "resume": True})


def test_domains_are_read_as_the_model_s_were(folders, tmp_path):  # noqa: F811
    how = HOW | {"options": {"net": "tiny"}}
    was = train("diffusion", folders, tmp_path / "m", range=[0, 200], **how)
    new = train("diffusion", folders, tmp_path / "new", start=tmp_path / "m", **HOW)
    assert new.preparation == was.preparation
    assert new.preparation.range == (0, 200)


def test_it_is_said_and_recorded_and_the_rate_is_a_tenth(folders, tmp_path, capsys):  # noqa: F811
    model, out = tmp_path / "m", tmp_path / "run"
    learnt(model, domains=("red", "blue"))
    data = [f"{k}={v}" for k, v in folders.items()]
    words = ["--from", str(model), "--size", "32", "--upscale", "--steps", "1", "--batch", "2"]
    with pytest.raises(SystemExit) as end:
        main(["train", "diffusion", *data, *words, "--out", str(out)])
    said = capsys.readouterr().err
    assert not end.value.code
    assert f"begins with the weights of {model}; domains taken on: red; new: green; dropped: blue" in said
    assert "it learnt from pictures cropped to 16x16, not cropped to 32x32" in said
    run, card = json.loads((out / "run.json").read_text()), (out / "README.md").read_text()
    assert run["settings"]["lr"] == 1e-4
    assert run["start"]["model"] == str(model)
    assert len(run["start"]["sha256"]) == 64
    assert json.loads((out / "model.json").read_text())["info"]["start"] == run["start"]
    assert str(model) in card and run["start"]["sha256"][:16] in card  # noqa: PT018
    assert recorded(out)["start"] == str(model)


def test_a_rate_that_is_given_is_that(folders, tmp_path):  # noqa: F811
    learnt(tmp_path / "m", domains=tuple(folders))
    train("diffusion", folders, tmp_path / "run", start=tmp_path / "m", lr=5e-4, **HOW)
    assert json.loads((tmp_path / "run/run.json").read_text())["settings"]["lr"] == 5e-4


@pytest.mark.parametrize("how", [{}, {"options": {"channels": 1}}])
def test_it_resumes_without_the_model(how, folders, tmp_path, capsys, monkeypatch):  # noqa: F811
    """With the bits of a run that was not stopped, by its folder alone or by the same call."""
    monkeypatch.chdir(tmp_path)
    learnt(tmp_path / "m", domains=("green", "blue"))
    same = HOW | {"schedule": "constant", "warmup": 0, "start": "m"} | how
    runs = [tmp_path / name for name in ("straight", "typed", "called")]
    for out, steps in zip(runs, (4, 2, 2), strict=True):
        train("diffusion", folders, out, **same | {"steps": steps})
    record = json.loads((runs[0] / "run.json").read_text())
    assert record["start"]["model"] == str(tmp_path / "m")
    shutil.rmtree(tmp_path / "m")
    with pytest.raises(SystemExit) as end:
        main(["train", "--resume", "--out", str(runs[1]), "--steps", "4"])
    assert not end.value.code, capsys.readouterr().err
    train("diffusion", folders, runs[2], **same | {"steps": 4, "resume": True})
    for out in runs[1:]:
        assert (out / "training.safetensors").read_bytes() == (runs[0] / "training.safetensors").read_bytes()
        assert json.loads((out / "run.json").read_text()) == record
    assert load(runs[1]).channels == how.get("options", {}).get("channels", 3)


def test_a_network_made_for_another_side_goes_on_with_it(folders, tmp_path, capsys):  # noqa: F811
    learnt(tmp_path / "m", "pix2pix", side=16)
    out, data = tmp_path / "run", list(folders.values())
    train("pix2pix", data, out, start=tmp_path / "m", **HOW | {"size": 32, "upscale": True})
    shutil.rmtree(tmp_path / "m")
    with pytest.raises(SystemExit) as end:
        main(["train", "--resume", "--out", str(out), "--steps", "2"])
    assert not end.value.code, capsys.readouterr().err
    assert load(out).side == 16


def test_a_run_goes_on_with_the_model_that_it_began_with(folders, tmp_path):  # noqa: F811
    for name in "mn":
        learnt(tmp_path / name, domains=tuple(folders))
    out, how = tmp_path / "run", HOW | {"resume": True, "options": {"net": "tiny"}}
    train("diffusion", folders, out, start=tmp_path / "m", **HOW)
    for start, said in ((tmp_path / "n", "n"), (None, "new weights")):
        with pytest.raises(UserError, match=f"run began with .*m, not with .*{said}: .*--resume"):
            train("diffusion", folders, out, start=start, **how)


def test_a_training_that_left_nothing_begins_with_the_model_again(folders, tmp_path, monkeypatch):  # noqa: F811
    learnt(tmp_path / "m", domains=("green", "blue"))
    same = HOW | {"start": tmp_path / "m", "options": {"channels": 1}}
    straight, out = tmp_path / "straight", tmp_path / "run"
    train("diffusion", folders, straight, **same)
    train("diffusion", folders, out, **same)
    for file in out.iterdir():
        if file.name not in ("run.json", "split.json"):
            file.unlink()
    with pytest.raises(SystemExit) as end:
        main(["train", "diffusion", "--resume", "--out", str(out)])
    assert not end.value.code
    assert (out / "weights.safetensors").read_bytes() == (straight / "weights.safetensors").read_bytes()


def test_phases_that_a_model_is_beyond_are_not_planned():
    part = find("unpaired_sde")(net="tiny", warmup_batches=10, distil_batches=20)
    found = []
    for seen_batches in (0, 12, 50):
        part.seen.fill_(seen_batches)
        found.append(_phases(part))
    assert found == [[0, 10, 30], [12, 30], [50]]
