"""Training from folders: run folders, exact resume, kills, bad input."""

import contextlib
import io
import itertools
import json
import math
import os
import random
import re
import shlex
import shutil
import signal
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from kills import die, ended, moments, saying
from PIL import Image
from torch.nn.utils import parameters_to_vector

import sfumato
from sfumato.checkpoints.model_folder import load
from sfumato.checkpoints.tensors import read_protocol, read_tensors, write_tensors
from sfumato.cli.main import main
from sfumato.core.errors import UserError
from sfumato.data.folders import locked
from sfumato.data.open_data import open_data
from sfumato.methods.outline import names, outlines
from sfumato.methods.registry import find
from sfumato.module import build, fields
from sfumato.training.fit import Update
from sfumato.training.log import Journal, Progress
from sfumato.training.run_folder import RunFolder, read_run
from sfumato.training.train import train

TINY = {"options": {"net": "tiny"}, "size": 16, "batch": 4, "quiet": True, "preview_every": 0}


def pictures(folder: Path, n: int, tint: int, side: int = 16) -> Path:
    folder.mkdir(parents=True)
    rng = np.random.default_rng(tint)
    for i in range(n):
        coarse = rng.integers(0, 128, (2, 2, 3), dtype=np.uint8)
        pixels = np.array(Image.fromarray(coarse).resize((side, side)))
        pixels[..., tint % 3] += 100
        Image.fromarray(pixels).save(folder / f"{i}.png")
    return folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("pictures")
    return {name: str(pictures(root / name, 12, i)) for i, name in enumerate(("red", "green"))}


def test_a_run_folder_holds_a_model_a_log_and_what_was_held_out(folders, tmp_path):
    out = tmp_path / "run"
    how = TINY | {"preview_every": 60, "held_out": 0.25, "save_every": 50, "steps": 60}
    part = train("diffusion", folders, out, **how)
    loaded = load(out)
    x, t = torch.randn(2, 3, 16, 16), torch.tensor(0.4)
    assert torch.equal(loaded.denoiser(x, t, domain="red"), part.denoiser(x, t, domain="red"))
    split = json.loads((out / "split.json").read_text())
    for name in folders:
        assert len(split["held_out"][name]) == 3
        assert not set(split["held_out"][name]) & set(split["training"][name])
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    assert [e["step"] for e in lines] == [1, 2, 5, 10, 20, 50, 60]
    assert all({"loss", "lr", "images_per_s"} <= e.keys() for e in lines)
    assert [e["step"] for e in lines if "held_out" in e] == [50, 60]
    for picture in ("loss.png", "previews/step_000060.png"):
        Image.open(out / picture).verify()
    assert "diffusion" in (out / "README.md").read_text()


def test_training_lowers_the_loss_and_pairs_train_both_directions(folders, tmp_path):
    data = [folders["red"], folders["green"]]
    how = TINY | {"lr": 3e-3, "warmup": 0, "schedule": "constant"}
    part = train("paired_sde", data, tmp_path / "run", **how, steps=100, held_out=0)
    log = [json.loads(s) for s in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    for player in ("denoisers.target", "denoisers.source"):
        assert log[-1]["loss"][player] < 0.85 * log[0]["loss"][player]
    assert part.translate(torch.zeros(1, 3, 16, 16), steps=2).shape == (1, 3, 16, 16)


def test_a_validation_folder_takes_the_place_of_the_split(folders, tmp_path):
    train("diffusion", folders, tmp_path / "r", validation=folders, **TINY, steps=50, save_every=50)
    split = json.loads((tmp_path / "r" / "split.json").read_text())
    assert len(split["training"]["red"]) == len(split["held_out"]["red"]) == 12


def _train(data: dict, out: str, steps: int, moment: tuple[int, float] | None = None) -> None:
    torch.set_num_threads(1)
    if moment:
        die(*moment)
    train("diffusion", data, out, **TINY, steps=steps, save_every=2, resume=True, held_out=0)


def test_killed_at_twelve_moments_resumes_bit_identically(folders, tmp_path, report):
    """SIGKILL, 12 times in one run, from before its first file on; each process saves a few times."""
    steps, straight, killed = 40, tmp_path / "straight", tmp_path / "killed"
    run = lambda out, moment=None: ended(_train, folders, str(out), steps, moment)
    assert run(straight) == 0
    codes = []
    for moment in moments(random.Random(0), 12, files=12):
        codes.append(run(killed, moment))
        assert codes[-1] in (0, -signal.SIGKILL)
        if (killed / "model.json").exists():
            load(killed)  # whatever is under a final name is whole
    assert run(killed) == 0
    for name in ("training.safetensors", "weights.safetensors", "model.json"):
        assert (straight / name).read_bytes() == (killed / name).read_bytes(), name
    for out in (straight, killed):
        logged = [json.loads(s)["step"] for s in (out / "log.jsonl").open()]
        assert logged == sorted(set(logged))
        assert logged[-1] == steps
        assert not list(out.rglob("*.tmp"))  # what a kill left half written goes at the next start
    kills = sum(code != 0 for code in codes)
    assert kills > 9
    report("kill test", f"{kills} of 12 processes killed, then bit-identical")


def test_ctrl_c_saves_and_says_how_to_go_on(folders, tmp_path, monkeypatch):
    out, add = tmp_path / "run", Journal.add

    def press(self, update):
        if update.step == 3:
            os.kill(os.getpid(), signal.SIGINT)
        return add(self, update)

    monkeypatch.setattr(Journal, "add", press)
    with pytest.raises(KeyboardInterrupt, match=r"stopped at step \d, saved in .*run.*--resume"):
        train("diffusion", folders, out, **TINY, steps=100_000, save_every=50_000)
    load(out)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.parametrize(
    ("step", "good"), [(1, "there is no save$"), (3, "holds step 2, the last good save$")]
)
def test_a_second_ctrl_c_says_which_save_is_good(step, good, folders, tmp_path, monkeypatch):
    add = Journal.add

    def press(self, update):
        for _ in range(2 * (update.step == step)):
            os.kill(os.getpid(), signal.SIGINT)
        return add(self, update)

    monkeypatch.setattr(Journal, "add", press)
    with pytest.raises(KeyboardInterrupt, match=f"^stopped at once; .*{good}"):
        train("diffusion", folders, tmp_path / "run", **TINY, steps=9, save_every=1)


def test_of_two_damaged_saves_none_is_advised(folders, tmp_path):
    out, how = tmp_path / "run", TINY | {"held_out": 0, "steps": 1}
    train("diffusion", folders, out, **how)
    whole = (out / "training.safetensors").read_bytes()
    advised = {whole: "without it the run goes on from", whole[:-9]: "is damaged, too: nothing"}
    for before, advice in advised.items():
        (out / "training.safetensors").write_bytes(whole[:-9])
        (out / "training.before.safetensors").write_bytes(before)
        with pytest.raises(UserError, match=rf"training.safetensors is damaged .*; .*{advice}"):
            train("diffusion", folders, out, **how | {"steps": 2}, resume=True)
    (out / "training.safetensors").unlink()
    with pytest.raises(UserError, match="training.before.safetensors is damaged .*copy it again$"):
        train("diffusion", folders, out, **how | {"steps": 2}, resume=True)


def test_resuming_says_that_pictures_changed_moved_or_are_of_another_method(
    folders, tmp_path, capsys
):
    def said(*words):
        with pytest.raises(SystemExit) as end:
            main(["train", *map(str, words)])
        assert end.value.code == 2
        err = capsys.readouterr().err
        assert err.count("\n") == 1, err
        return err

    out, red = tmp_path / "run", tmp_path / "red"
    shutil.copytree(folders["red"], red)
    named = {"red": str(red), "green": folders["green"]}
    train("diffusion", named, out, **TINY | {"steps": 2, "held_out": 0})
    capsys.readouterr()
    assert "run is a training of diffusion, not of cyclegan" in said(
        "cyclegan", "--resume", "--out", out
    )
    Image.new("RGB", (16, 16)).save(red / "0.png")
    text = said("--resume", "--out", out, "--steps", 4)
    assert "have changed since it was trained (other pictures of red)" in text
    assert "new --out" in text and "goes on as before" not in text  # noqa: PT018
    red.rename(tmp_path / "moved")
    text = said("--resume", "--out", out, "--steps", 4)
    assert f"{red}, of the pictures of {out}, is no longer there" in text
    assert f"sfumato train --resume --out {out} red=FOLDER green=FOLDER" in text


def test_resuming_refuses_other_data_and_says_changed_settings(folders, tmp_path, capsys):
    out, how = tmp_path / "run", TINY | {"steps": 4, "save_every": 2, "held_out": 0}
    train("diffusion", folders, out, **how)
    with pytest.raises(ValueError, match=r"not empty; .*--resume"):
        train("diffusion", folders, out, **how)
    with pytest.raises(ValueError, match=r"trained with batch 4, not 8"):
        train("diffusion", folders, out, **how | {"batch": 8}, resume=True)
    other = {"red": folders["green"], "green": folders["red"]}
    with pytest.raises(ValueError, match="other data"):
        train("diffusion", other, out, **how, resume=True)
    with pytest.raises(ValueError, match="another model"):
        train("diffusion", folders, out, **how | {"options": {"net": "small"}}, resume=True)
    train("diffusion", folders, out, **how | {"steps": 6, "lr": 1e-4}, resume=True)
    said = capsys.readouterr().err
    assert "steps 6 (it was 4)" in said
    assert "lr 0.0001 (it was 0.001)" in said


@pytest.mark.parametrize("wrong", [{"steps": 1}, {"lr": 1e-4, "batch": 8, "flip": True}])
def test_a_training_that_is_refused_does_not_say_that_it_resumes(wrong, folders, tmp_path, capsys):
    out, how = tmp_path / "run", TINY | {"steps": 2, "held_out": 0}
    train("diffusion", folders, out, **how)
    capsys.readouterr()
    with pytest.raises(UserError, match="give more --steps|trained with"):
        train("diffusion", folders, out, **how | wrong | {"quiet": False}, resume=True)
    assert "resum" not in capsys.readouterr().err


def test_divergence_names_the_last_good_save_and_what_to_do(folders, tmp_path, monkeypatch):
    out, how = tmp_path / "run", TINY | {"save_every": 2, "held_out": 0, "steps": 4}
    train("diffusion", folders, out, **how)
    before = (out / "weights.safetensors").read_bytes()
    monkeypatch.setattr(sys.modules["sfumato.training.fit"], "learning_rate", lambda *a: float("inf"))
    with pytest.raises(ValueError, match=r"last good save\. Lower --lr .*--resume"):
        train("diffusion", folders, out, **how | {"steps": 9, "save_every": 100}, resume=True)
    assert (out / "weights.safetensors").read_bytes() == before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"method": "difusion"}, "did you mean 'diffusion'"),
        ({"method": "ddib"}, "ddib is not trained itself"),
        ({"method": "paired_sde", "data": ["one"]}, "one does not exist"),
        ({"data": "/nowhere"}, "/nowhere"),
        ({"size": 64}, "upscale"),
        ({"steps": 0}, "steps must be at least 1"),
        ({"lr": -1.0}, "lr must be in"),
        ({"held_out": 1.0}, "held_out"),
        ({"options": {"nett": "tiny"}}, "did you mean 'net'"),
        ({"options": {"net": "smal"}}, "did you mean 'small'"),
        ({"options": {"process": "vpp"}}, "vpp"),
        ({"lr": math.nan}, "lr must be a finite number, not nan"),
        ({"lr": math.inf}, "lr must be a finite number, not inf"),
        ({"clip": -1.0}, "clip must be at least 0, not -1"),
        ({"clip": math.nan}, "clip must be a finite number, not nan"),
        ({"warmup": -5}, "warmup must be at least 0, not -5"),
        ({"jitter": math.inf}, "jitter must be a finite number, not inf"),
        ({"weight_decay": -0.1}, "weight_decay must be at least 0"),
        ({"save_minutes": math.nan}, "save_minutes must be a finite number, not nan"),
        ({"preview_every": -1}, "preview_every must be at least 0"),
        ({"steps": 1.5}, "steps must be a whole number, not 1.5"),
        ({"batch": 10**9}, "batch must be in .1, 1000000., not 1000000000"),
        ({"size": 10**6}, "size must be in .1, 65535."),
        ({"lr": 1e38}, "lr must be in .0, 1000000."),
        ({"seed": 2**64}, "seed must be at most"),
        ({"batch": True}, "batch must be a whole number, not True"),
        ({"strict": "no"}, "strict must be true or false, not 'no'"),
        ({"clip": "no"}, "clip must be a finite number, not 'no'"),
        ({"quiet": 1}, "quiet must be true or false, not 1"),
        ({"schedule": "cosin"}, "did you mean 'cosine'"),
        ({"options": {"any_domain": math.nan}}, "any_domain must be a finite number, not nan"),
        ({"options": {"domains": ("a", "b")}}, "unknown option of diffusion 'domains'"),
    ],
)
def test_bad_input_is_one_line_and_writes_nothing(folders, tmp_path, change, message):
    how = (
        {"method": "diffusion", "data": folders, "out": tmp_path / "run", "steps": 3}
        | TINY
        | change
    )
    with pytest.raises(ValueError, match=message) as error:
        train(how.pop("method"), how.pop("data"), how.pop("out"), **how)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()


def test_the_mean_loss_of_a_player_is_over_its_own_steps(tmp_path):
    journal = Journal(tmp_path / "log.jsonl", images=4)
    for step, losses in enumerate([{"a": 1.0}, {"a": 3.0, "b": 5.0}, {"a": 2.0}], start=1):
        line = journal.add(Update(step, losses, 0.1))
    assert line["loss"] == {"a": 2.0, "b": 5.0}


def test_damaged_lines_of_a_log_are_counted_when_a_run_goes_on(tmp_path, capsys):
    log = tmp_path / "log.jsonl"
    good = json.dumps({"step": 1, "loss": {"a": 1.0}})
    log.write_text(f'{good}\n{{"step": 2, "lo\n\n[]\n{good.replace("1,", "2,")}\n')
    Journal(log, images=4, step=2)
    assert f"{log}: left out 2 damaged lines" in capsys.readouterr().err
    assert [json.loads(line)["step"] for line in log.read_text().splitlines()] == [1, 2]
    journal = Journal(log, images=4, step=1)
    (tmp_path / "loss.png").mkdir()
    assert not capsys.readouterr().err
    assert log.read_text() == f"{good}\n"
    journal.plot(tmp_path / "loss.png")
    assert "loss.png is not drawn: a folder has this name" in capsys.readouterr().err
    log.unlink()
    Journal(log, images=4, step=0)
    assert not capsys.readouterr().err
    Journal(log, images=4, step=2)
    assert f"{log} is missing: curves begin at step 2" in capsys.readouterr().err


def drawn(monkeypatch, journal, lines):
    """The figure that `plot` draws of these lines of log.jsonl."""
    from matplotlib.figure import Figure

    figures, save = [], Figure.savefig
    spy = lambda self, *a, **k: (figures.append(self), save(self, *a, **k))
    monkeypatch.setattr(Figure, "savefig", spy)
    for line in lines:
        journal.write(line)
    journal.plot(journal.path.with_name("loss.png"))
    return figures[0]


def test_every_player_is_drawn_where_it_has_a_loss(tmp_path, monkeypatch):
    """One rests in the last line, one joins late and one has negative losses."""
    lines = [
        {"step": 50, "loss": {"map": 1.0, "critic": -2.0}},
        {"step": 100, "loss": {"map": 2.0, "late": 3.0}, "held_out": {"late": 4.0}},
        {"step": 101, "loss": {"critic": -1.0}, "measures": {"gap": 0.5}},
    ]
    figure = drawn(monkeypatch, Journal(tmp_path / "log.jsonl", images=4), lines)
    curves = {c.get_label(): c.get_xydata().tolist() for a in figure.axes for c in a.lines}
    assert curves == {
        "map": [[50, 1], [100, 2]], "critic": [[50, -2], [101, -1]], "late": [[100, 3]],
        "late, held out": [[100, 4]], "gap": [[101, 0.5]],
    }  # fmt: skip
    assert figure.axes[0].get_yscale() == "linear"
    assert figure.axes[0].get_ylim()[0] < -2  # a logarithmic axis has no place for it


def test_losses_above_zero_have_a_logarithmic_axis(tmp_path, monkeypatch):
    lines = [{"step": n, "loss": {"map": 1 / n}} for n in (1, 10, 100)]
    figure = drawn(monkeypatch, Journal(tmp_path / "log.jsonl", images=4), lines)
    assert figure.axes[0].get_yscale() == "log"


def test_accumulated_batches_are_resumed_where_they_stopped(folders, tmp_path):
    how = TINY | {"accumulate": 2, "held_out": 0, "save_every": 2, "schedule": "constant"}
    train("diffusion", folders, tmp_path / "a", **how, steps=4)
    train("diffusion", folders, tmp_path / "b", **how, steps=2)
    train("diffusion", folders, tmp_path / "b", **how, steps=4, resume=True)
    one, two = ((tmp_path / name / "training.safetensors").read_bytes() for name in "ab")
    assert one == two


def test_flips_jitter_and_the_seed_reach_the_training(folders, tmp_path):
    """Of two steps; with a rate of nearly 0 what is left of the seed are the initial weights."""
    found = {}
    for name, change in {
        "plain": {}, "flip": {"flip": True}, "jitter": {"jitter": 0.5},
        "still": {"lr": 1e-12}, "other": {"lr": 1e-12, "seed": 1},
    }.items():  # fmt: skip
        part = train("diffusion", folders, tmp_path / name, **TINY | change, steps=2, held_out=0)
        found[name] = parameters_to_vector(part.parameters()).detach()
    assert not torch.equal(found["flip"], found["plain"])
    assert not torch.equal(found["jitter"], found["plain"])
    assert (found["other"] - found["still"]).abs().max() > 0.01


def say_no(*_):
    raise UserError("no")
    yield


def test_a_refused_training_leaves_nothing_behind(folders, tmp_path, monkeypatch):
    """What is refused only by its first step, too: the corrected command is not blocked."""
    out, how = tmp_path / "run", TINY | {"steps": 2}
    with monkeypatch.context() as patch:
        patch.setattr(find("diffusion"), "objectives", say_no)
        with pytest.raises(ValueError, match="no"):
            train("diffusion", folders, out, **how)
    assert not out.exists()
    train("diffusion", folders, out, **how)


def faulty(monkeypatch, steps):
    """After so many steps the learning rate is 1e30: losses become NaN in the step that follows."""
    rate = sys.modules["sfumato.training.fit"].learning_rate
    wrong = lambda step, *a: 1e33 if step == steps else rate(step, *a)
    monkeypatch.setattr(sys.modules["sfumato.training.fit"], "learning_rate", wrong)


def test_a_run_that_was_never_saved_blocks_nothing(folders, tmp_path, monkeypatch):
    out, how = tmp_path / "run", TINY | {"steps": 4}
    with monkeypatch.context() as patch:
        faulty(patch, 1)
        with pytest.raises(ValueError, match=r"no save\. Lower --lr .*--resume --out .* --lr"):
            train("diffusion", folders, out, **how)
    train("diffusion", folders, out, **how)
    assert load(out)


def test_a_save_counts_when_the_loss_after_it_was_finite(folders, tmp_path, monkeypatch):
    """Step 4 spoils the weights and is saved; the run goes back to step 2, and goes on from there."""
    out, how = tmp_path / "run", TINY | {"save_every": 2, "held_out": 0, "steps": 7}
    with monkeypatch.context() as patch:
        faulty(patch, 3)
        with pytest.raises(ValueError, match=r"at step 5; .*holds step 2, the last good save"):
            train("diffusion", folders, out, **how)
    assert json.loads((out / "model.json").read_text())["info"]["step"] == 2
    part = train("diffusion", folders, out, **how, lr=1e-4, resume=True)
    assert all(v.abs().max() < 100 for v in part.state_dict().values())


def test_a_last_step_that_spoils_the_weights_is_no_success(folders, tmp_path, monkeypatch):
    out, how = tmp_path / "run", TINY | {"save_every": 2, "held_out": 0, "steps": 4}
    faulty(monkeypatch, 3)
    with pytest.raises(
        ValueError, match=r"after the last step; .*holds step 2, the last good save"
    ):
        train("diffusion", folders, out, **how)


def test_a_run_goes_on_from_its_folder_alone(folders, tmp_path, monkeypatch, capsys):
    """From elsewhere, with the method's own options and folders that were named from where it began."""
    root = Path(folders["red"]).parent
    words = ["diffusion", "red=red", "green=green", "--net", "tiny", "--size", "16", "--batch", "4"]
    words += ["--flip", "--preview-every", "0", "--schedule", "constant"]
    monkeypatch.chdir(root)
    typed("train", *words, "--steps", "4", "--out", str(tmp_path / "straight"))
    typed("train", *words, "--steps", "2", "--out", str(tmp_path / "a run"))
    monkeypatch.chdir(tmp_path)
    typed("train", "diffusion", "--out", "a run", "--resume", "--steps", "3")
    typed("train", "--resume", "--out", "a run", "--steps", "4")
    assert "resuming with steps 4 (it was 3)" in capsys.readouterr().err
    ends = [(tmp_path / n / "training.safetensors").read_bytes() for n in ("straight", "a run")]
    assert ends[0] == ends[1]
    for wrong in (["--net", "small"], ["--batch", "8"]):
        with pytest.raises(SystemExit):
            main(["train", "--resume", "--out", "a run", *wrong])
        said = capsys.readouterr().err
        assert f"{wrong[0][2:]} {words[words.index(wrong[0]) + 1]}, not {wrong[1]}" in said
        go = said.partition(": sfumato ")[2].partition(" goes on")[0]
        typed(*shlex.split(go))  # what it advises can be typed
    assert "--flip True" not in (Path("a run") / "README.md").read_text()
    with pytest.raises(SystemExit):
        main(["train", "--resume"])
    assert "name its folder by --out" in capsys.readouterr().err


def typed(*words):
    with pytest.raises(SystemExit) as end:
        main(words)
    assert end.value.code == 0


def test_a_run_of_an_earlier_version_resumes(folders, tmp_path, capsys):
    """Its run.json says neither method, options nor folders, and lacks what is newer."""
    out, how = tmp_path / "run", TINY | {"held_out": 0, "steps": 2}
    train("diffusion", folders, out, **how)
    run = json.loads((out / "run.json").read_text())
    run = {k: run[k] for k in ("model", "data", "settings")}
    del run["model"]["any_domain"], run["settings"]["save_minutes"], run["settings"]["without"]
    (out / "run.json").write_text(json.dumps(run))
    with pytest.raises(SystemExit):
        main(["train", "--resume", "--out", str(out)])
    assert "type them once more, sfumato train diffusion FOLDERS" in capsys.readouterr().err
    data = [f"{k}={v}" for k, v in folders.items()]
    typed("train", "diffusion", *data, "--resume", "--out", str(out), "--steps", "3")


def test_a_model_learns_its_domains_by_their_names(folders, tmp_path, monkeypatch):
    cls, seen = find("diffusion"), []
    part = cls(net="tiny", domains=("green", "red"))
    objectives = cls.objectives

    def spy(self, batches, rng):
        x, labels = next(batches)
        seen.extend(zip(x.mean((2, 3)).argmax(1).tolist(), labels.tolist(), strict=True))
        yield from objectives(self, iter([(x, labels)]), rng)

    monkeypatch.setattr(cls, "objectives", spy)
    how = {k: v for k, v in TINY.items() if k != "options"} | {"held_out": 0, "steps": 1}
    train(part, folders, tmp_path / "run", **how)
    assert set(seen) == {(1, 0), (0, 1)}  # green pictures, the first domain; red ones, the second


@pytest.mark.parametrize(
    ("domains", "how", "message"),
    [
        (("red", "blue"), {}, "the model has the domains red, blue, .* red, green"),
        (("red",), {}, "the model has the domains red, .* red, green"),
        (("red", "green"), {"options": {"net": "small"}}, "options .net. are for a method's name"),
    ],
)
def test_what_does_not_fit_a_model_is_refused(folders, tmp_path, domains, how, message):
    part = find("diffusion")(net="tiny", domains=domains)
    with pytest.raises(ValueError, match=message):
        train(part, folders, tmp_path / "run", size=16, batch=4, steps=1, quiet=True, **how)
    assert not (tmp_path / "run").exists()


def test_a_model_of_gray_pictures_learns_gray_pictures(folders, tmp_path):
    data = {name: tmp_path / name for name in folders}
    for name, folder in data.items():
        folder.mkdir()
        for file in Path(folders[name]).iterdir():
            Image.open(file).convert("L").save(folder / file.name)
    part = find("diffusion")(net="tiny", domains=("red", "green"), channels=1)
    train(part, data, tmp_path / "run", size=16, batch=4, steps=1, quiet=True, preview_every=0)
    assert json.loads((tmp_path / "run" / "run.json").read_text())["data"]["channels"] == 1


def test_a_model_of_another_side_is_refused(folders, tmp_path):
    data = [folders["red"], folders["green"]]
    part = find("neural_ot")(net="tiny", side=32)
    with pytest.raises(ValueError, match="made for pictures of 32 pixels"):
        train(part, data, tmp_path / "run", size=16, batch=4, steps=1, quiet=True)


def test_validation_folders_are_those_of_the_domains(folders, tmp_path):
    other = {"red": folders["red"], "blue": folders["green"]}
    with pytest.raises(ValueError, match="the training has the domains red, green"):
        train("diffusion", folders, tmp_path / "run", **TINY, validation=other, steps=1)


@pytest.mark.parametrize("name", ["SIGHUP", "SIGTERM"])
def test_signals_save(folders, tmp_path, monkeypatch, name):
    number = getattr(signal, name)
    monkeypatch.setattr(find("diffusion"), "objectives", signalling(number))
    before = signal.signal(number, lambda *_: None)  # an old version would be ended by it
    try:
        with pytest.raises(KeyboardInterrupt, match="stopped at step 1, saved"):
            train("diffusion", folders, tmp_path / "run", **TINY, steps=3)
    finally:
        signal.signal(number, before)
    assert load(tmp_path / "run")


def signalling(number):
    objectives = find("diffusion").objectives

    def send(self, batches, rng):
        os.kill(os.getpid(), number)
        yield from objectives(self, batches, rng)

    return send


def test_a_stopped_run_is_saved_before_it_speaks(folders, tmp_path, monkeypatch):
    """A terminal that hangs up cannot be written to."""

    def gone(*_):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(Progress, "show", gone)
    monkeypatch.setattr(find("diffusion"), "objectives", signalling(signal.SIGTERM))
    with pytest.raises(OSError, match="Input/output"):
        train("diffusion", folders, tmp_path / "run", **TINY, steps=3)
    assert load(tmp_path / "run")


def test_a_hang_up_that_is_ignored_stays_ignored(folders, tmp_path, monkeypatch):
    """As under nohup."""
    monkeypatch.setattr(find("diffusion"), "objectives", signalling(signal.SIGHUP))
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        train("diffusion", folders, tmp_path / "run", **TINY, steps=2)
    finally:
        signal.signal(signal.SIGHUP, before)


def test_saves_come_by_time_too(folders, tmp_path, monkeypatch):
    kept, keep = [], RunFolder.keep
    spy = lambda self, state: (kept.append(state.step), keep(self, state))
    monkeypatch.setattr(RunFolder, "keep", spy)
    train("diffusion", folders, tmp_path / "a", **TINY, steps=3, save_minutes=1e-9)
    train("diffusion", folders, tmp_path / "b", **TINY, steps=3, save_minutes=0)
    assert kept == [1, 2, 3, 3]


FOLLOWING = "weights.safetensors", "model.json", "README.md", "loss.png", "previews/step_000004.png"


@pytest.mark.parametrize("damage", ["gone", "cut", "old"])
def test_what_follows_from_the_last_save_is_remade(folders, tmp_path, damage):
    """As after a kill inside the last save."""
    out = tmp_path / "run"
    how = TINY | {"save_every": 2, "preview_every": 2, "held_out": 0}
    train("diffusion", folders, out, **how | {"steps": 2})
    older = {name: (out / name).read_bytes() for name in FOLLOWING[:-1]}
    how["steps"] = 4
    train("diffusion", folders, out, **how, resume=True)
    want = {name: (out / name).read_bytes() for name in FOLLOWING}
    for name in FOLLOWING:
        if damage == "old" and name in older:
            (out / name).write_bytes(older[name])
        elif damage == "cut":
            (out / name).write_bytes(want[name][:20])
        else:
            (out / name).unlink()
    train("diffusion", folders, out, **how, resume=True)
    for name in FOLLOWING:
        assert (out / name).read_bytes() == want[name], name


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("run.json", b"{", "run.json is damaged"),
        ("run.json", b"\xff", "run.json is damaged"),
        ("run.json", b"[1]", "run.json is damaged"),
        ("run.json", b'{"model": {}, "data": 3, "settings": {}}', "run.json is damaged"),
        ("run.json", b"[" * 100_000, "run.json is damaged"),
        ("training.safetensors", b"x" * 100, "training.safetensors is damaged or truncated"),
    ],
)
def test_a_damaged_run_folder_is_one_line(folders, tmp_path, name, content, message):
    out, how = tmp_path / "run", TINY | {"held_out": 0, "steps": 1}
    train("diffusion", folders, out, **how)
    (out / name).write_bytes(content)
    with pytest.raises(UserError, match=message):
        train("diffusion", folders, out, **how, resume=True)


@pytest.mark.parametrize(
    ("edit", "says"),
    [
        ({"settings": {"seed": 3}}, r"run.json was changed since training.safetensors .*seed 0, not 3"),
        ({"settings": {"batch": 8}}, r"was changed .*batch 4, not 8"),
        ({"settings": {"flip": True}}, "was changed .*flip False, not True"),
        ({"settings": {"lr": -1}}, "run.json .*: lr must be in .0, 1000000., not -1"),
        ({"settings": {"sead": 3}}, "run.json .*: unknown setting 'sead': did you mean 'seed'"),
        ({"settings": {"schedule": "cosin"}}, "run.json .*did you mean 'cosine'"),
        ({k: {"prediction": "x0"} for k in ("options", "model")}, "was changed .*prediction v, not x0"),
        ({"options": {"any_domain": 7}}, "any_domain must be"),
        ({"options": {"predict": "v"}}, "did you mean .prediction."),
        ({"model": {"prediction": "x0"}}, "another model .prediction x0, not v"),
        ({"model": {"domains": ["green", "red"]}}, "another model"),
        ({"method": "difusion"}, "did you mean 'diffusion'"),
        ({"folders": {"data": {"red": "RED", "green": "RED"}}}, "name folders that are apart"),
    ],
)  # fmt: skip
def test_a_run_that_was_edited_is_not_believed(folders, tmp_path, edit, says):
    out, how = tmp_path / "run", TINY | {"held_out": 0, "steps": 1}
    train("diffusion", folders, out, **how)
    run = json.loads((out / "run.json").read_text())
    for key, change in edit.items():
        run[key] = run[key] | change if isinstance(change, dict) else change
    (out / "run.json").write_text(json.dumps(run).replace("RED", folders["red"]))
    with pytest.raises(SystemExit) as end, contextlib.redirect_stderr(io.StringIO()) as said:
        main(["train", "--resume", "--out", str(out), "--steps", "2"])
    assert end.value.code == 2, said.getvalue()
    assert re.search(says, said.getvalue()), said.getvalue()
    assert said.getvalue().count("\n") == 1


def test_a_save_of_before_says_nothing_of_what_is_newer(folders, tmp_path):
    out, how = tmp_path / "run", TINY | {"held_out": 0, "steps": 1}
    train("diffusion", folders, out, **how)
    file = out / "training.safetensors"
    tensors, made = read_protocol(file)
    del made["settings"]["scale"], made["model"]["any_domain"]
    for record in (made, None):
        write_tensors(file, tensors, record)
        train("diffusion", folders, out, **how | {"steps": 2}, resume=True)


def test_a_save_that_is_not_of_this_training_is_one_line(folders, tmp_path):
    out, how = tmp_path / "run", TINY | {"held_out": 0, "steps": 1}
    train("diffusion", folders, out, **how)
    file = out / "training.safetensors"
    kept = read_tensors(file)
    one = torch.zeros(7)
    for wrong in (
        {"step": torch.tensor(-5)}, {"step": torch.tensor(math.nan)}, {"memory/nothing.x": one},
        {"optimiser/denoiser/0/exp_avg": one}, {"optimiser/nobody/0/step": one}, {"optimiser/x": one},
        {"optimiser/denoiser/9999/step": one},
    ):  # fmt: skip
        write_tensors(file, kept | wrong)
        with pytest.raises(UserError, match=r"not a saved training|of another model"):
            train("diffusion", folders, out, **how | {"steps": 2}, resume=True)
    write_tensors(file, kept)
    train("diffusion", folders, out, **how | {"steps": 2}, resume=True)


def test_a_model_in_the_place_of_a_training_is_refused(folders, tmp_path):
    out, how = tmp_path / "run", TINY | {"held_out": 0, "steps": 1}
    train("diffusion", folders, out, **how)
    (out / "weights.safetensors").replace(out / "training.safetensors")
    with pytest.raises(UserError, match="is not a saved training"):
        train("diffusion", folders, out, **how, resume=True)


def test_damaged_lines_of_a_log_are_passed_over(folders, tmp_path):
    out, how = tmp_path / "run", TINY | {"held_out": 0}
    train("diffusion", folders, out, **how, steps=1)
    with (out / "log.jsonl").open("ab") as log:
        log.write(b'3\n{}\n{"step": "x"}\n{"step": 1, "loss": {"a": "b"}}\n\xff\n{"step": 1, "lo')
    train("diffusion", folders, out, **how, steps=2, resume=True)
    assert [json.loads(s)["step"] for s in (out / "log.jsonl").open()] == [1, 2]


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="Linux alone says what is mapped")
def test_a_resumed_run_does_not_hold_the_file_that_it_read(folders, tmp_path, monkeypatch):
    """A file that is still mapped keeps its place on the disk after it was replaced."""
    out, how = tmp_path / "run", TINY | {"held_out": 0}
    train("diffusion", folders, out, **how, steps=1)
    maps, objectives = [], find("diffusion").objectives

    def spy(self, batches, rng):
        maps.append(Path("/proc/self/maps").read_text())
        yield from objectives(self, batches, rng)

    monkeypatch.setattr(find("diffusion"), "objectives", spy)
    train("diffusion", folders, out, **how, steps=2, resume=True)
    assert "training.safetensors" not in maps[0]


def acting(act, at):
    """Objectives that do something in a step."""
    objectives, calls = find("diffusion").objectives, itertools.count(1)

    def spy(self, batches, rng):
        if next(calls) == at:
            act()
        yield from objectives(self, batches, rng)

    return spy


def test_a_run_folder_that_is_moved_away_is_written_anew_whole(
    folders, tmp_path, monkeypatch, capsys
):
    out, how = tmp_path / "run", TINY | {"held_out": 0, "save_every": 2, "steps": 4}
    move = lambda: out.rename(tmp_path / "moved")
    monkeypatch.setattr(find("diffusion"), "objectives", acting(move, 3))
    train("diffusion", folders, out, **how)
    assert "was moved away while it trained" in capsys.readouterr().err
    splits = [(f / "split.json").read_bytes() for f in (out, tmp_path / "moved")]
    assert splits[0] == splits[1]
    monkeypatch.undo()
    train("diffusion", folders, out, **how | {"steps": 5}, resume=True)
    train("diffusion", folders, tmp_path / "moved", **how | {"steps": 5}, resume=True)
    ends = [(f / "weights.safetensors").read_bytes() for f in (out, tmp_path / "moved")]
    assert ends[0] == ends[1]


def test_a_run_does_not_write_into_one_that_took_its_place(folders, tmp_path, monkeypatch):
    out, how = tmp_path / "run", TINY | {"held_out": 0, "save_every": 2, "steps": 4}

    def change_places():
        out.rename(tmp_path / "moved")
        out.mkdir()
        (out / "run.json").write_text("{}")

    monkeypatch.setattr(find("diffusion"), "objectives", acting(change_places, 3))
    with pytest.raises(UserError, match="another run began there"):
        train("diffusion", folders, out, **how)
    assert [p.name for p in out.iterdir()] == ["run.json"]


def test_listed_pictures_are_left_out_and_counted(folders, tmp_path, capsys):
    red, listed = Path(folders["red"]), tmp_path / "list"
    listed.write_text(f"{red / '3.png'}\n\n{red.parent / 'red/../red/4.png'}\n")
    how = TINY | {"held_out": 0, "steps": 1}
    train("diffusion", folders, tmp_path / "run", **how, without=listed)
    assert "left out 2 pictures, as " in capsys.readouterr().err
    names = json.loads((tmp_path / "run" / "split.json").read_text())["training"]
    assert len(names["red"]) == 10
    assert not {"3.png", "4.png"} & set(names["red"])
    assert len(names["green"]) == 12


def test_a_listed_picture_of_a_pair_takes_its_partner_along(folders, tmp_path):
    data, listed = [folders["red"], folders["green"]], tmp_path / "list"
    listed.write_text("3.png\n")
    how = TINY | {"held_out": 0, "steps": 1}
    train("paired_sde", data, tmp_path / "run", **how, without=listed)
    names = json.loads((tmp_path / "run" / "split.json").read_text())["training"]
    assert names["source"] == names["target"]
    assert len(names["source"]) == 11


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("99.png", "lists '99.png', and there is no such picture in the training$"),
        ("3.png", "lists '3.png', which is in red and green: give its path"),
        ("".join(f"RED/{i}.png\n" for i in range(12)), "leaves no picture of red"),
        (None, "cannot be read"),
    ],
)
def test_a_list_that_cannot_be_followed_is_refused(folders, tmp_path, text, message):
    listed = tmp_path / "list"
    if text:
        listed.write_text(text.replace("RED", folders["red"]))
    with pytest.raises(UserError, match=message):
        train("diffusion", folders, tmp_path / "run", **TINY, steps=1, without=listed)


def test_a_bare_name_of_a_picture_in_a_subfolder_is_answered_with_its_path(folders, tmp_path):
    shutil.copytree(folders["red"], tmp_path / "in/sub")
    (tmp_path / "list").write_text("3.png\n")
    told = {"data": {"red": tmp_path / "in"}, "size": 16, "without": tmp_path / "list"}
    with pytest.raises(UserError, match="expected its path below its folder, such as sub/3.png$"):
        open_data("domains", **told)
    (tmp_path / "list").write_text("sub/3.png\n")
    assert "3.png" not in map(os.path.basename, open_data("domains", **told).parts["red"].file_names)


def test_listed_pictures_are_judged_by_nobody(folders, tmp_path, capsys):
    """Pairs of other proportions, without a partner, broken, of another size, outside of the range."""
    sides = [Path(shutil.copytree(folders[name], tmp_path / name)) for name in ("red", "green")]
    Image.new("RGB", (60, 20)).save(sides[1] / "0.png")
    (sides[1] / "1.png").unlink()
    (sides[0] / "2.png").write_bytes(b"broken")
    Image.fromarray(np.full((20, 20, 3), 60_000, np.uint16)[..., 0]).save(sides[0] / "3.png")
    how = TINY | {"held_out": 0, "steps": 1, "strict": True, "range": "auto"}
    with pytest.raises(UserError):
        train("paired_sde", sides, tmp_path / "run", **how)
    (tmp_path / "list").write_text("".join(f"{sides[0]}/{i}.png\n" for i in range(4)))
    train("paired_sde", sides, tmp_path / "run", **how, without=tmp_path / "list")
    names = json.loads((tmp_path / "run" / "split.json").read_text())["training"]
    assert names["source"] == names["target"] == [f"{i}.png" for i in range(4, 12)]
    model = json.loads((tmp_path / "run" / "model.json").read_text())
    assert model["info"]["preparation"]["range"][1] < 256


ACTS = [(m, *row) for m in names() for row in getattr(find(m), "only_with", {}).items()]


@pytest.mark.parametrize(("method", "name", "needed"), ACTS)
def test_an_option_that_does_not_act_is_refused(method, name, needed, folders, tmp_path):
    default = {f.name: f.default for f in fields(find(method))}
    assert needed[0] in default
    data, other = [folders["red"], folders["green"]], {"cost": "strong", "first": "unconditional"}
    options = {name: default[name], needed[0]: other.get(needed[0], "image")}
    words = rf"^--{name.replace('_', '-')} .* acts only with --.* {needed[1]}, and {needed[0]} is "
    with pytest.raises(UserError, match=words):
        train(method, data, tmp_path / "run", **TINY | {"options": options}, steps=1)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("resume", [False, True])
def test_a_second_training_into_a_folder_is_refused(folders, tmp_path, monkeypatch, resume):
    """While the first runs, before its first save as after it."""
    out, how = tmp_path / "run", TINY | {"held_out": 0, "steps": 3, "save_every": 1 + resume}
    words = ["train", "diffusion", *(f"{k}={v}" for k, v in folders.items()), "--out", str(out)]
    words += ["--net", "tiny", "--size", "16", "--batch", "4", "--steps", "3", "--held-out", "0"]
    words += ["--resume"] if resume else []
    codes, second = [], lambda: codes.append(ended(saying, tmp_path / "said", main, words))

    monkeypatch.setattr(find("diffusion"), "objectives", acting(second, 1 + resume))
    train("diffusion", folders, out, **how)
    assert codes == [2]
    assert "is writing into" in (tmp_path / "said").read_text()


def test_the_new_folder_of_a_moved_run_is_locked(folders, tmp_path, monkeypatch):
    out, how = tmp_path / "run", TINY | {"held_out": 0, "save_every": 100, "steps": 4}
    objectives, calls, blocked = find("diffusion").objectives, itertools.count(1), []

    def spy(self, batches, rng):
        call = next(calls)
        if call == 2:
            out.rename(tmp_path / "moved")
        if call == 4:
            with locked(tmp_path / "moved"):  # that one is free
                pass
            with pytest.raises(UserError, match="is writing into") as error, locked(out):
                pass
            blocked.append(error)
        yield from objectives(self, batches, rng)

    monkeypatch.setattr(find("diffusion"), "objectives", spy)
    train("diffusion", folders, out, **how)
    assert blocked
    assert not (out / ".sfumato.lock").exists()


@pytest.mark.parametrize("late", [False, True])
def test_a_run_folder_that_is_moved_during_its_last_save_is_whole(
    folders, tmp_path, monkeypatch, late
):
    out, keep = tmp_path / "run", RunFolder.keep

    def moving(self, state):
        if late:
            keep(self, state)
        if state.step == 2 and not (tmp_path / "moved").exists():
            out.rename(tmp_path / "moved")
        if not late:
            keep(self, state)

    monkeypatch.setattr(RunFolder, "keep", moving)
    train("diffusion", folders, out, **TINY, held_out=0, save_every=1, steps=2)
    assert {"run.json", "split.json", "training.safetensors"} <= {p.name for p in out.iterdir()}


def test_resuming_what_is_not_there_says_that_it_begins(folders, tmp_path, capsys):
    how = TINY | {"held_out": 0, "quiet": False, "resume": True}
    train("diffusion", folders, tmp_path / "run", **how, steps=1)
    assert "run has nothing to resume: this training starts from the beginning" in capsys.readouterr().err
    train("diffusion", folders, tmp_path / "run", **how, steps=2)
    assert "nothing to resume" not in capsys.readouterr().err


def test_fewer_steps_than_were_trained_are_refused(folders, tmp_path):
    out, how = tmp_path / "run", TINY | {"held_out": 0}
    train("diffusion", folders, out, **how, steps=3)
    before = {p: p.read_bytes() for p in out.iterdir()}
    with pytest.raises(
        UserError, match="has trained 3 steps already, and 2 are asked for: give more"
    ):
        train("diffusion", folders, out, **how, steps=2, resume=True)
    assert {p: p.read_bytes() for p in out.iterdir()} == before


@pytest.mark.parametrize(
    "full", [MemoryError(), torch.OutOfMemoryError("CUDA"), RuntimeError("can't allocate memory")]
)
@pytest.mark.parametrize("where", ["objectives", "open_data"])
def test_too_little_memory_says_what_to_do(folders, tmp_path, monkeypatch, full, where):
    def fill(*_, **__):
        raise full

    owner = find("diffusion") if where == "objectives" else sys.modules["sfumato.training.pictures"]
    monkeypatch.setattr(owner, where, fill)
    with pytest.raises(
        UserError, match="more memory than there is: use a smaller --batch or --size"
    ):
        train("diffusion", folders, tmp_path / "run", **TINY, steps=1)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", ["", " ", "a\nb", "a\x1b[31mb", "a/b"])
def test_names_that_cannot_be_typed_name_no_domain(folders, tmp_path, capsys, name):
    data = {name: folders["red"], "B:b": folders["green"]}
    with pytest.raises(UserError, match="cannot name a domain"):
        train("diffusion", data, tmp_path / "run", **TINY, steps=1)
    words = [f"{key}={folder}" for key, folder in data.items()]
    with pytest.raises(SystemExit, match="2"):
        main(["train", "diffusion", *words, "--out", str(tmp_path / "run"), "--steps", "1"])
    assert capsys.readouterr().err.count("\n") == 1
    assert not (tmp_path / "run").exists()


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_a_list_that_is_a_pipe_is_not_waited_for(folders, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UserError, match="cannot be read .it is not a file"):
        train("diffusion", folders, tmp_path / "run", **TINY, steps=1, without=tmp_path / "pipe")


def test_a_part_that_is_the_same_as_nothing_is_refused():
    with pytest.raises(UserError, match="net is the same as 'x': there is none"):
        build({"net": {"same as": "x"}})


DAMAGES = {
    ("method",): 3, ("settings", "size"): [], ("settings", "steps"): [], ("settings", "flip"): "no",
    ("settings", "without"): 3, ("settings", "batch"): {}, ("folders", "data"): 5,
    ("folders", "validation"): [3], ("model", "is"): [], ("minutes",): "long",
    ("model",): "x", ("data",): [], ("settings",): 3, ("options",): [], ("folders",): "x",
}  # fmt: skip


@pytest.mark.parametrize("place", DAMAGES)
def test_wrong_types_in_a_run_are_damages(folders, tmp_path, place):
    run = {
        "model": {"is": "Diffusion"}, "data": {}, "settings": {}, "options": {},
        "method": "diffusion", "folders": {"data": folders, "validation": None},
    }  # fmt: skip
    file = tmp_path / "run.json"
    file.write_text(json.dumps(run))
    read_run(tmp_path)
    at = run
    for key in place[:-1]:
        at = at[key]
    at[place[-1]] = DAMAGES[place]
    file.write_text(json.dumps(run))
    with pytest.raises(UserError, match="run.json is damaged"):
        read_run(tmp_path)


def test_the_trainings_own_pictures_as_held_out_ones_are_said(folders, tmp_path):
    with pytest.warns(UserWarning, match="24 of 24 pictures of --validation are the training's own, as"):
        train("diffusion", folders, tmp_path / "run", validation=folders, **TINY, steps=1)


def test_a_few_of_the_trainings_pictures_under_other_names_are_said(folders, tmp_path):
    rest = {name: str(pictures(tmp_path / name, 3, 7 + i)) for i, name in enumerate(("red", "green"))}
    shutil.copy(f"{folders['red']}/5.png", tmp_path / "red" / "copy.png")
    with pytest.warns(UserWarning, match=r"1 of 7 pictures of --validation .* as .*red/copy.png"):
        train("diffusion", folders, tmp_path / "run", validation=rest, **TINY, steps=1)


def test_pairs_that_share_one_half_are_not_the_trainings_own(tmp_path):
    same = Image.new("RGB", (16, 16), "white")
    a, b, c, d = (pictures(tmp_path / name, 4, i) for i, name in enumerate("abcd"))
    for file in [*b.iterdir(), *d.iterdir()]:
        same.save(file)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*--validation")
        train("pix2pix", [a, b], tmp_path / "run", validation=[c, d], **TINY, steps=1)
    with pytest.warns(UserWarning, match="4 of 4 pictures of --validation are"):
        train("pix2pix", [a, b], tmp_path / "other", validation=[a, d], **TINY, steps=1)


def test_a_share_beside_validation_is_refused_and_old_runs_with_both_go_on(folders, tmp_path):
    out, rest = tmp_path / "run", {n: str(pictures(tmp_path / n, 3, 7 + len(n))) for n in folders}
    with pytest.raises(UserError, match=r"say --held-out 0.5 or --validation, not both"):
        train("diffusion", folders, out, validation=rest, held_out=0.5, **TINY, steps=1)
    train("diffusion", folders, out, validation=rest, **TINY, steps=1)
    run = json.loads((out / "run.json").read_text())
    assert run["settings"]["held_out"] == 0
    run["settings"]["held_out"] = 0.05  # as runs of before wrote it
    (out / "run.json").write_text(json.dumps(run))
    with pytest.raises(SystemExit, match="0"):
        main(["train", "--resume", "--out", str(out), "--steps", "2"])


def test_trainings_in_threads_are_those_of_their_seed(folders, tmp_path):
    data = [folders["red"], folders["green"]]

    def trained(name):
        part = train("cyclegan", data, tmp_path / name, **TINY, steps=2, held_out=0)
        return parameters_to_vector(part.parameters()).tolist()

    alone = trained("alone")
    with ThreadPoolExecutor(3) as pool:
        assert all(each == alone for each in pool.map(trained, "abc"))


@pytest.mark.parametrize("name", ["previews", "README.md", "model.json", "log.jsonl", "best"])
def test_what_stands_in_the_place_of_a_trainings_files_is_said_at_once(name, folders, tmp_path):
    out = tmp_path / "run"
    train("diffusion", folders, out, **TINY, steps=1)
    is_folder = name in ("previews", "best")
    if (out / name).exists():
        (out / name).rename(tmp_path / "away")
    (out / name).write_text("") if is_folder else (out / name).mkdir()
    is_one = "file" if is_folder else "folder"
    with pytest.raises(UserError, match=f"{name} is a {is_one}, where the training writes"):
        train("diffusion", folders, out, **TINY, steps=2, resume=True)


@pytest.mark.parametrize("method", sorted(name for name, one in outlines().items() if one.trains_on))
def test_every_method_learns_from_rectangles(method, folders, tmp_path):
    data = folders if outlines()[method].trains_on == "domains" else list(folders.values())
    drawn = method in ("diffusion", "cut", "pix2pix", "unpaired_sde")  # one of each kind of previews
    how = TINY | {"size": "24x16", "upscale": True, "steps": 2, "preview_every": 2 * drawn, "jitter": 0.2}
    part = train(method, data, tmp_path / "run", **how)
    assert str(part.preparation) == "cropped to 24x16"
    assert json.loads((tmp_path / "run/run.json").read_text())["settings"]["size"] == "24x16"
    train(method, data, tmp_path / "run", **how | {"steps": 3, "preview_every": 0}, resume=True)
    again = sfumato.load(tmp_path / "run")
    if outlines()[method].translates:
        photo = Image.open(f"{folders['red']}/0.png").resize((60, 40))
        assert again.translate(photo).size == (24, 16)


def test_sizes_of_a_training_are_typed_as_those_of_a_translation(folders, tmp_path):
    data = list(folders.values())
    for size, says in (("24x", "expected a number of pixels, or WIDTHxHEIGHT"), ("0x16", "size must be in"),
                       ("70000", "size must be in"), ("16x70000", "size must be in")):  # fmt: skip
        with pytest.raises(UserError, match=says):
            train("cyclegan", data, tmp_path / "run", **TINY | {"size": size}, steps=1)
    train("cyclegan", data, tmp_path / "run", **TINY | {"size": "16x16"}, steps=1)
    assert json.loads((tmp_path / "run/run.json").read_text())["settings"]["size"] == 16


@pytest.mark.parametrize("python", [False, True])
def test_what_a_resumed_call_leaves_out_is_as_it_was(python, folders, tmp_path):
    data = [folders["red"], folders["green"]]
    if python:
        data = [[Image.open(f) for f in sorted(Path(folder).iterdir())] for folder in data]
    begun = {"options": {"net": "tiny"}, "size": 16, "batch": 3, "lr": 1e-3, "seed": 4, "held_out": 0.25}
    how = begun | {"preview_every": 0, "quiet": True, "save_every": 2, "flip": True}
    train("cyclegan", data, tmp_path / "run", **how | {"schedule": "constant"}, steps=2)
    part = train("cyclegan", data, tmp_path / "run", steps=3, resume=True)
    want = train("cyclegan", data, tmp_path / "other", **how | {"schedule": "constant"}, steps=3)
    assert torch.equal(parameters_to_vector(part.parameters()), parameters_to_vector(want.parameters()))
    run = json.loads((tmp_path / "run/run.json").read_text())
    assert run["settings"] == json.loads((tmp_path / "other/run.json").read_text())["settings"]
    with pytest.raises(UserError, match="was trained with batch 3, not 5"):
        train("cyclegan", data, tmp_path / "run", steps=7, batch=5, resume=True)
