"""Training from folders: run folders, exact resume, kills, bad input."""

import json
import multiprocessing
import os
import random
import signal
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from kills import die, moments
from PIL import Image
from torch.nn.utils import parameters_to_vector

from sfumato.fit import Update
from sfumato.folder import load
from sfumato.journal import Journal
from sfumato.train import train

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
    part = train("paired_sde", data, tmp_path / "run", **TINY, steps=250, held_out=0)
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
    train("diffusion", data, out, **TINY, steps=steps, save_every=3, resume=True, held_out=0)


def test_killed_at_twelve_moments_resumes_bit_identically(folders, tmp_path, report):
    """SIGKILL, 12 times in one run, from before its first file on; each process saves a few times."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["sfumato.train", "accelerate", "tests.test_train"])
    steps, straight, killed = 60, tmp_path / "straight", tmp_path / "killed"

    def run(out: Path, moment: tuple[int, float] | None = None) -> multiprocessing.Process:
        process = context.Process(target=_train, args=(folders, str(out), steps, moment))
        process.start()
        process.join()
        return process

    assert run(straight).exitcode == 0
    ended = []
    for moment in moments(random.Random(0), 12, files=12):
        ended.append(run(killed, moment))
        assert ended[-1].exitcode in (0, -signal.SIGKILL)
        if (killed / "model.json").exists():
            load(killed)  # whatever is under a final name is whole
    assert run(killed).exitcode == 0
    for name in ("training.safetensors", "weights.safetensors", "model.json"):
        assert (straight / name).read_bytes() == (killed / name).read_bytes(), name
    for out in (straight, killed):
        logged = [json.loads(s)["step"] for s in (out / "log.jsonl").open()]
        assert logged == sorted(set(logged))
        assert logged[-1] == steps
    assert not list(straight.rglob("*.tmp"))
    dead = {str(process.pid) for process in ended}  # only they may leave something half written
    assert {p.name.split(".")[-2] for p in killed.rglob("*.tmp")} <= dead
    kills = sum(process.exitcode != 0 for process in ended)
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


def test_divergence_names_the_last_good_save_and_what_to_do(folders, tmp_path, monkeypatch):
    out, how = tmp_path / "run", TINY | {"save_every": 2, "held_out": 0, "steps": 4}
    train("diffusion", folders, out, **how)
    before = (out / "weights.safetensors").read_bytes()
    monkeypatch.setattr(sys.modules["sfumato.fit"], "learning_rate", lambda *a: float("inf"))
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
        ({"lr": -1.0}, "lr must be above 0"),
        ({"held_out": 1.0}, "held_out"),
        ({"options": {"nett": "tiny"}}, "did you mean 'net'"),
        ({"options": {"net": "smal"}}, "did you mean 'small'"),
        ({"options": {"process": "vpp"}}, "vpp"),
    ],
)
def test_bad_input_is_one_line_and_writes_nothing(folders, tmp_path, change, message):
    how = {"method": "diffusion", "data": folders, "out": tmp_path / "run"} | TINY | change
    with pytest.raises(ValueError, match=message) as error:
        train(how.pop("method"), how.pop("data"), how.pop("out"), **how)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()


def test_the_mean_loss_of_a_player_is_over_its_own_steps(tmp_path):
    journal = Journal(tmp_path / "log.jsonl", images=4)
    for step, losses in enumerate([{"a": 1.0}, {"a": 3.0, "b": 5.0}, {"a": 2.0}], start=1):
        line = journal.add(Update(step, losses, 0.1))
    assert line["loss"] == {"a": 2.0, "b": 5.0}


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
