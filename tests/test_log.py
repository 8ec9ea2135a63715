"""What a training says: its lines and pictures by the clock, minutes in place of steps, the verdict."""

import json
import re
import time
from typing import ClassVar

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from sfumato.checkpoints.model_folder import load
from sfumato.core.errors import UserError
from sfumato.data import open_domains
from sfumato.methods.registry import find
from sfumato.module import Part
from sfumato.training import log as journal
from sfumato.training import session as learn
from sfumato.training import time_budget as pace
from sfumato.training import validation as heldout
from sfumato.training.fit import State, machine
from sfumato.training.log import Progress
from sfumato.training.train import train
from sfumato.training.verdict import distance, sampled, translated, verdict
from tests.test_train import TINY, folders  # noqa: F401

LOUD = TINY | {"quiet": False, "held_out": 0.25}


class Clock:
    """Stands in for time.perf_counter, and goes on only when told to."""

    def __init__(self, monkeypatch):
        self.now = 0.0
        monkeypatch.setattr(time, "perf_counter", lambda: self.now)


def said_by(progress, clock, steps, seconds):
    """What is said at each step, with the time, of steps that take so many seconds."""
    progress.steps = steps
    for step in range(1, steps + 1):
        clock.now += seconds
        progress.show({"step": step, "loss": {"f": 0.5}, "images_per_s": 9.0})


# ---- lines --------------------------------------------------------------------------------------


def test_a_training_in_a_pipe_speaks_from_the_first_moment(folders, tmp_path, capsys):  # noqa: F811
    out = tmp_path / "run"
    train("diffusion", folders, out, **LOUD, steps=12)
    first, *lines = capsys.readouterr().err.splitlines()
    for said in ("9 red", "9 green", "16x16", "3 red, 3 green held out", "12 steps", "4 pictures a",
                 str(out)):  # fmt: skip
        assert said in first
    assert [s.split()[1] for s in lines[:-1]] == ["1/12", "2/12", "5/12", "10/12", "12/12"]
    assert all("loss 0." in s or "loss 1." in s for s in lines[:-1])
    assert "left" in lines[1]
    assert "held out" in lines[-2]


def test_lines_come_every_half_minute_and_never_by_thousands(monkeypatch, capsys):
    clock = Clock(monkeypatch)
    said_by(Progress(), clock, steps=60, seconds=12)
    at = [12 * int(s.split()[1].partition("/")[0]) for s in capsys.readouterr().err.splitlines()]
    assert max(np.diff([0, *at])) <= 36
    said_by(Progress(), clock, steps=86_400, seconds=1)
    lines = capsys.readouterr().err.splitlines()
    assert 100 < len(lines) < 500
    assert "step 50000/86400  loss 0.5000  9 images/s  10.1 h left" in lines


def test_a_notebook_gets_lines_and_not_on_its_error_stream(monkeypatch, capsys):
    monkeypatch.setattr("rich.console._is_jupyter", lambda: True)
    with Progress(steps=2) as told:
        assert told.bar is None
        told.show({"step": 1, "loss": {"f": 0.5}, "images_per_s": 9.0})
    written = capsys.readouterr()
    assert written.out.startswith("step 1/2  loss 0.5")
    assert written.err == ""


def test_a_terminal_has_a_bar_and_text_above_it(monkeypatch, capsys):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    with Progress(steps=2) as told:
        assert told.bar is not None
        told.say("[above] the bar")
        told.show({"step": 2, "loss": {"f": 0.5}, "images_per_s": 9.0})
    written = capsys.readouterr().err
    assert "[above] the bar" in written
    assert "2/2" in written
    assert "step 2/2" not in written


def test_slow_reading_is_said_and_quick_reading_is_not(capsys):
    told = Progress()
    with told.waiting("quick", seconds=5):
        pass
    with told.waiting("slow", seconds=0.01):
        time.sleep(0.1)
    assert capsys.readouterr().err == "slow\n"


def test_log_has_the_first_steps(folders, tmp_path):  # noqa: F811
    train("diffusion", folders, tmp_path / "run", **TINY, steps=7, held_out=0)
    lines = (tmp_path / "run" / "log.jsonl").read_text().splitlines()
    assert [json.loads(s)["step"] for s in lines] == [1, 2, 5, 7]


# ---- previews -----------------------------------------------------------------------------------


def test_previews_come_by_the_clock_and_their_folder_is_said_once(
    folders, tmp_path, monkeypatch, capsys  # noqa: F811
):  # fmt: skip
    clock = Clock(monkeypatch)
    add = journal.Journal.add

    def slow(self, update):
        clock.now += 20.0
        return add(self, update)

    monkeypatch.setattr(journal.Journal, "add", slow)
    how = LOUD | {"preview_every": 1000, "options": {"net": "tiny"}}
    train("diffusion", folders, tmp_path / "run", **how, steps=14)
    made = sorted(p.name for p in (tmp_path / "run" / "previews").iterdir())
    assert made == [f"step_{n:06d}.png" for n in (3, 6, 12, 14)]  # after 1, 2, 4 minutes, and last
    assert capsys.readouterr().err.count("previews are in") == 1


def test_a_preview_names_its_rows(tmp_path):
    rows = {
        "source": torch.zeros(3, 3, 32, 32),
        "a domain with a name that is far too long": -torch.ones(3, 3, 32, 32),
    }
    page = np.asarray(heldout.labelled(rows, "step 7"))
    high, wide, _ = page.shape
    assert high == 24 + 2 * 66
    left = wide - 3 * 66 + 2  # three pictures of 64, gaps of 2
    for top, bottom in ((0, 24), (24, 90), (90, 156)):
        assert (page[top:bottom, : left - 2] < 128).any()  # there is text
    assert (page[30:80, left : left + 64] == 128).all()
    assert (page[100:150, left : left + 64] == 0).all()
    assert (page[:, left - 4 : left] == 255).all()  # names are cut before they reach the pictures


# ---- minutes ------------------------------------------------------------------------------------


class Slow(Part):
    """Its steps take two seconds, after the first `alone` batches seven."""

    phases: ClassVar[tuple[str, ...]] = ("alone",)

    alone: int = 0

    def __post_init__(self):
        self.line = nn.Linear(1, 1)
        self.register_buffer("seen", torch.zeros((), dtype=torch.long))

    def objectives(self, batches, rng):
        next(batches)(2 if self.seen < self.alone or not self.alone else 7)
        self.seen += 1
        yield "line", self.line(torch.ones(1, 1)).sum() * 0


@pytest.mark.parametrize(
    ("minutes", "alone"), [(5, 0), (60, 0), (60, 500), (600, 2000), (10, 2000)]
)
def test_steps_and_all_beside_them_fill_the_minutes(minutes, alone, monkeypatch):
    clock, state = Clock(monkeypatch), State(Slow(alone=alone))

    def spend(seconds):
        clock.now += seconds

    def batches():
        while True:
            yield spend

    before = {k: v.clone() for k, v in state.tensors().items()}
    spend(7)  # since the start
    steps = pace.steps_for(
        minutes, state, batches(), lambda _: spend(20.0), lambda _: spend(6.0), save_every=250,
        preview_every=1000, began=0.0, accelerator=machine("cpu"),
    )  # fmt: skip
    assert all(torch.equal(v, before[k]) for k, v in state.tensors().items())
    scores = steps // pace.scored_every(steps, 250)
    doublings = int(np.log2(minutes)) + 1
    late = max(0, steps - alone) if alone else 0
    total = (
        clock.now
        + 2 * (steps - late)
        + 7 * late
        + 6 * scores
        + 20 * (steps // 1000 + doublings + 1)
    )
    assert 0.93 * 60 * minutes < total <= 60 * minutes + 6


def test_a_training_of_minutes_is_that_of_its_recorded_steps(folders, tmp_path, monkeypatch):  # noqa: F811
    found, real = [], learn.steps_for

    def measured(minutes, *args, **kwargs):
        found.append(real(minutes, *args, **kwargs))
        return 12

    monkeypatch.setattr(pace, "MEASURED", (0.0, 0.0))
    monkeypatch.setattr(learn, "steps_for", measured)
    how = TINY | {"held_out": 0.25, "save_every": 4}
    train("diffusion", folders, tmp_path / "minutes", **how, minutes=30)
    run = json.loads((tmp_path / "minutes" / "run.json").read_text())
    assert found[0] > 12
    assert (run["minutes"], run["settings"]["steps"]) == (30, 12)
    train("diffusion", folders, tmp_path / "steps", **how, steps=run["settings"]["steps"])

    def killed(self, update):
        if update.step == 10:
            raise InterruptedError
        return observe(self, update)

    observe = heldout.Observer.__call__
    monkeypatch.setattr(heldout.Observer, "__call__", killed)
    with pytest.raises(InterruptedError):
        train("diffusion", folders, tmp_path / "killed", **how, minutes=30)
    monkeypatch.setattr(heldout.Observer, "__call__", observe)
    monkeypatch.setattr(learn, "steps_for", None)  # nothing is measured again
    train("diffusion", folders, tmp_path / "killed", **how, minutes=30, resume=True)
    for name in ("training.safetensors", "weights.safetensors", "model.json", "README.md"):
        wanted = (tmp_path / "steps" / name).read_bytes()
        assert (tmp_path / "minutes" / name).read_bytes() == wanted, name
        assert (tmp_path / "killed" / name).read_bytes() == wanted, name


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"steps": 9, "minutes": 2.0}, "--steps 9 or --minutes 2, not both"),
        ({"minutes": 0.0}, "minutes must be above 0"),
        ({"minutes": float("nan")}, "minutes must be a finite number"),
        ({"minutes": 1e-9}, "not one step fits into 1e-09 minutes"),
    ],
)
def test_minutes_that_make_no_sense_are_refused(folders, tmp_path, given, message):  # noqa: F811
    with pytest.raises(UserError, match=message):
        train("diffusion", folders, tmp_path / "run", **TINY, **given)
    assert not (tmp_path / "run").exists()


def test_minutes_do_not_cut_short_a_run_that_goes_on(folders, tmp_path):  # noqa: F811
    train("diffusion", folders, tmp_path / "run", **TINY, steps=2, device="cpu")
    before = (tmp_path / "run" / "run.json").read_text()
    with pytest.raises(UserError, match=r"was planned as 2 steps: .* takes --steps"):
        train("diffusion", folders, tmp_path / "run", **TINY, minutes=1, resume=True, device="cpu")
    assert (tmp_path / "run" / "run.json").read_text() == before


# ---- the verdict --------------------------------------------------------------------------------


def log(*losses, **pictures):
    lines = [{"step": 100 * i, "held_out": {"f": v}} for i, v in enumerate(losses, 1)]
    return [*lines[:-1], lines[-1] | {"pictures": pictures}] if pictures else lines


@pytest.mark.parametrize(
    ("entries", "said"),
    [
        (
            log(1.0, 0.8, 0.7, 0.6),
            "Still learning: .* by 14% over the last quarter; .* --steps 800",
        ),
        (log(1.0, 0.6, 0.502, 0.5), "levelled off: it fell by 0.4% over the last quarter"),
        (log(1.0, 0.5, 0.52, 0.6), "memorises .* 20% above its lowest, at step 200"),
        (log(1.0), "too young"),
        ([{"step": 9, "loss": {"f": 1.0}}], "No pictures were held out"),
    ],
)
def test_the_verdict_reads_the_held_out_loss(entries, said):
    assert re.search(said, verdict(entries))
    assert "look at the previews" in verdict(entries, steady=False)


def test_a_training_that_is_stopped_is_told_no_more_than_is_known():
    young = [{"step": 9, "loss": {"f": 1.0}}]
    assert "before its held-out pictures were scored" in verdict(young, held=True)
    falling = log(1.0, 0.8, 0.7, 0.6)
    assert "go on with --resume." in verdict(
        falling, planned=5000
    )  # and not with fewer steps than planned
    assert "--steps 800" in verdict(falling, planned=400)


def test_pairs_that_follow_their_sources_are_no_fog_and_blotches_come_not_near():
    pairs = {
        "distance": 1.7,
        "error": 0.67,
        "error of a copy": 0.93,
        "error of one flat colour": 0.64,
    }
    text = verdict(log(1.0, **pairs, **{"error to other targets": 0.82}))
    assert "follow their sources" in text
    assert "fog" not in text
    assert "not like the targets yet" in verdict(log(1.0, distance=0.9))


def test_a_player_that_joins_late_is_no_rise_of_the_loss():
    lines = log(1.0, 0.9, 0.8, 0.7)
    for line in lines[1:]:
        line["held_out"]["g"] = 5.0
    assert "the held-out loss has levelled off: it fell by 1.7%" in verdict(lines).lower()


@pytest.fixture(scope="module")
def digits(digits_folder):
    """Images of the digits 3 and 5, and their labels."""
    return open_domains({k: digits_folder / "train" / k for k in ("3", "5")}, 32).first(128)


def test_nobody_takes_sand_or_fog_for_pictures_nor_digits_for_sand(digits, report):
    images, labels = digits
    like = images[:8]
    untrained = find("diffusion")(domains=("3", "5"), net="tiny")
    trained = load("sfumato/digits")
    far = {
        "a trained model": sampled([trained.sample(k, like) for k in ("3", "5")], images, labels),
        "an untrained model": sampled(untrained.preview(like), images, labels),
        "fog": sampled([images.mean((2, 3), keepdim=True)[:8].expand_as(like)] * 2, images, labels),
        "sand on digits": sampled([like + 0.5 * torch.randn_like(like)] * 2, images, labels),
        "digits": sampled([images[labels == 0][8:16], images[labels == 1][8:16]], images, labels),
    }
    for name, numbers in far.items():
        report(f"colours and detail: {name}", numbers["distance"])
        text = verdict(log(1.0, **numbers))
        good = name in ("a trained model", "digits")
        assert ("no pictures like the targets yet, but noise or fog" in text) is not good, name
        assert ("have the colours and the detail of the targets" in text) is good, name


def test_pairs_are_held_against_a_copy_and_one_colour(digits):
    images, labels = digits
    truths, sources = images[labels == 0], images[labels == 0].flip(3)
    rng = torch.Generator().manual_seed(0)

    def said(made):
        a, b = sources[:8], truths[:8]
        return verdict(log(1.0, **translated(a, made, b, sources, truths, paired=True)))

    assert "nearer to their targets than a copy" in said(truths[:8] * 0.9)
    assert "no nearer to their targets than" in said(truths[20:28])  # good digits, the wrong ones
    assert "noise or fog" in said(torch.randn(truths[:8].shape, generator=rng) * 0.5)
    assert "noise or fog" in said(truths.mean((0, 2, 3), keepdim=True).expand_as(truths[:8]))


def test_an_unpaired_method_that_changes_nothing_is_told_so():
    x = torch.rand(8, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    found = translated(x, x + 0.01, x, x, x, paired=False)
    assert "copies of their sources" in verdict(log(1.0, **found))
    assert "no nearer to the targets than copies" in verdict(
        log(1.0, **{"distance": 0.9, "distance of a copy": 0.8, "change": 0.5})
    )


def test_distances_do_not_grow_with_few_pictures(report):
    """Eight of the same pictures lie at about 0; twice the contrast does not."""
    rng = torch.Generator().manual_seed(0)
    x = torch.rand(500, 3, 16, 16, generator=rng) * torch.rand(500, 1, 1, 1, generator=rng)
    near = [distance(x[i : i + 8], x[100:]) for i in range(0, 80, 8)]
    report("distance of 8 of the same pictures", max(near))
    assert np.mean(near) < 0.25
    assert distance(x[:8] * 3, x[100:]) > 1


def test_a_run_folder_says_where_it_stands(folders, tmp_path, capsys):  # noqa: F811
    how = LOUD | {"preview_every": 1000}
    train("diffusion", folders, tmp_path / "run", **how, steps=4)
    text = json.loads((tmp_path / "run" / "model.json").read_text())["info"]["verdict"]
    assert "too young" in text
    assert "noise or fog" in text
    assert text in capsys.readouterr().err
    assert text in (tmp_path / "run" / "README.md").read_text()
    Image.open(tmp_path / "run" / "previews" / "step_000004.png").verify()


def test_a_loss_of_players_says_whose_it_is(capsys):
    told = Progress(steps=1)
    told.show({"step": 1, "loss": {"f": 1.0, "nets.g": 2.0}, "images_per_s": 1.0})
    assert "loss f 1.0000 g 2.0000" in capsys.readouterr().err


# ---- watched by the caller ------------------------------------------------------------------------


def test_a_callback_gets_the_lines_of_the_log_as_they_are_written(folders, tmp_path):  # noqa: F811
    seen = []

    def watch(line):
        seen.append(dict(line))
        line["loss"].clear()  # of its own copy

    train("diffusion", folders, tmp_path / "run", **TINY, steps=5, held_out=0.25, watch=watch)
    written = [json.loads(s) for s in (tmp_path / "run/log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in seen] == [1, 2, 5]
    assert [line | {"loss": {}} for line in written] == seen
    assert all(line["loss"] for line in written)
    assert {"lr", "images_per_s", "held_out"} <= set(seen[-1])


@pytest.mark.parametrize("kind", [ZeroDivisionError, SystemExit, KeyboardInterrupt])
def test_what_a_callback_raises_ends_the_training_which_is_saved(kind, folders, tmp_path):  # noqa: F811
    def watch(line):
        if line["step"] == 2:
            raise kind("of the caller's own")

    how = TINY | {"steps": 5, "held_out": 0.25}
    with pytest.raises(kind, match="the caller's own") as caught:
        train("diffusion", folders, tmp_path / "run", **how, watch=watch)
    assert caught.traceback[-1].name == "watch"
    assert json.loads((tmp_path / "run/model.json").read_text())["info"]["step"] == 2
    train("diffusion", folders, tmp_path / "run", **how, resume=True)
    train("diffusion", folders, tmp_path / "straight", **how)
    for name in ("training.safetensors", "weights.safetensors"):
        assert (tmp_path / "run" / name).read_bytes() == (tmp_path / "straight" / name).read_bytes()
    both = [(tmp_path / one / "log.jsonl").read_text().splitlines() for one in ("run", "straight")]
    assert [json.loads(s)["step"] for s in both[0]] == [json.loads(s)["step"] for s in both[1]]


def test_a_run_that_stopped_before_its_first_save_goes_on_as_it_was_begun(folders, tmp_path, monkeypatch):  # noqa: F811
    def killed(self, last=True):
        raise SystemExit

    out, how = tmp_path / "run", TINY | {"options": TINY["options"] | {"times": "wide"}}
    with monkeypatch.context() as patch:
        patch.setattr(learn.Session, "store", killed)
        with pytest.raises(SystemExit):
            train("diffusion", folders, out, **how, steps=2)
    assert not (out / "training.safetensors").exists()
    train("diffusion", folders, out, resume=True, lr=0.002, quiet=True)
    run = json.loads((out / "run.json").read_text())
    assert (run["model"]["net"], run["model"]["times"]) == (TINY["options"]["net"], "wide")
    assert (run["settings"]["steps"], run["settings"]["lr"]) == (2, 0.002)


def test_a_callback_is_a_function(folders, tmp_path):  # noqa: F811
    with pytest.raises(UserError, match="watch must be a function or None"):
        train("diffusion", folders, tmp_path / "run", **TINY, watch="wandb")
