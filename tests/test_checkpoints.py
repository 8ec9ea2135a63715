"""Models that are kept beside a run: the last ones and the best one, whole at any time."""

import json
import random
import signal

import pytest
import torch
from kills import die, ended, moments
from test_train import TINY, folders  # noqa: F401

from sfumato.checkpoints.model_folder import describe_folder, load
from sfumato.checkpoints.tensors import read_tensors
from sfumato.core.errors import UserError
from sfumato.training import session, validation
from sfumato.training.checkpoints import Checkpoints
from sfumato.training.fit import Diverged
from sfumato.training.train import train

HOW = TINY | {"held_out": 0.25, "schedule": "constant", "warmup": 0}


def kept(out):
    return sorted(f.name for f in (out / "checkpoints").iterdir())


@pytest.fixture
def scored(monkeypatch):
    """Held-out losses by step, instead of those that there are."""

    def losses(said):
        monkeypatch.setattr(validation, "scored_every", lambda *_: 2)
        told = lambda state, *_: {"held_out": {"a": said[state.step] / 2, "b": said[state.step] / 2}}
        monkeypatch.setattr(validation, "scores", told)

    return losses


def test_the_last_models_are_kept_and_are_those_of_their_steps(folders, tmp_path):  # noqa: F811
    out = tmp_path / "run"
    train("diffusion", folders, out, **HOW | {"steps": 9, "save_every": 2, "keep": 3})
    assert kept(out) == ["step-6", "step-8", "step-9"]
    for step in (6, 8, 9):
        train("diffusion", folders, tmp_path / str(step), **HOW | {"steps": step, "save_every": 2})
        model = f"{out}/checkpoints/step-{step}"
        assert describe_folder(model)["info"]["step"] == step
        here, there = (load(one).state_dict() for one in (model, tmp_path / str(step)))
        assert all(torch.equal(here[name], value) for name, value in there.items())


def test_nothing_is_kept_that_is_not_asked_for(folders, tmp_path):  # noqa: F811
    train("diffusion", folders, tmp_path / "run", **HOW | {"steps": 4, "save_every": 2})
    assert not {"best", "checkpoints"} & {f.name for f in (tmp_path / "run").iterdir()}


def test_the_best_is_the_one_with_the_lowest_loss(folders, tmp_path, scored):  # noqa: F811
    scored({2: 3.0, 4: 1.0, 6: float("nan"), 8: 2.0})
    out = tmp_path / "run"
    train("diffusion", folders, out, **HOW | {"steps": 8, "save_every": 8, "keep": 1})
    info = describe_folder(out / "best")["info"]
    assert (info["step"], info["held_out_loss"]) == (4, 1.0)
    train("diffusion", folders, tmp_path / "four", **HOW | {"steps": 4})
    best, wanted = (load(f).state_dict() for f in (out / "best", tmp_path / "four"))
    assert all(torch.equal(best[name], value) for name, value in wanted.items())
    assert "held out loss: 1.0" in (out / "best/README.md").read_text()


def test_a_run_that_goes_on_knows_what_was_the_best(folders, tmp_path, scored):  # noqa: F811
    scored({2: 3.0, 4: 1.0, 6: 2.0, 8: 0.5})
    out, how = tmp_path / "run", HOW | {"save_every": 2, "keep": 2}
    for steps, best in ((4, 4), (6, 4), (8, 8)):
        train("diffusion", folders, out, **how | {"steps": steps, "resume": True})
        assert describe_folder(out / "best")["info"]["step"] == best
    assert kept(out) == ["step-6", "step-8"]


def test_a_run_that_was_killed_after_its_best_knows_it(folders, tmp_path, scored):  # noqa: F811
    out, how = tmp_path / "run", HOW | {"steps": 8, "save_every": 5, "keep": 2}
    scored({2: 3.0, 4: 1.0})
    with pytest.raises(KeyError):  # ends between two saves
        train("diffusion", folders, out, **how)
    scored({6: 2.0, 8: 1.5})
    train("diffusion", folders, out, **how, resume=True)
    assert describe_folder(out / "best")["info"]["step"] == 4


def test_a_best_of_an_earlier_beginning_is_not_that_of_this_run(folders, tmp_path, scored):  # noqa: F811
    out, how = tmp_path / "run", HOW | {"save_every": 8, "keep": 2}
    scored({2: 0.1})
    with pytest.raises(KeyError):  # ends before its first save
        train("diffusion", folders, out, **how | {"steps": 8})
    scored({2: 3.0, 4: 1.0})
    train("diffusion", folders, out, **how | {"steps": 4, "seed": 1, "resume": True})
    assert describe_folder(out / "best")["info"]["held_out_loss"] == 1.0


@pytest.mark.parametrize(
    ("method", "how", "said"),
    [("cyclegan", {}, "that of players"), ("paired_sde", {"held_out": 0}, "none are held out")],
)
def test_without_a_loss_that_tells_there_is_no_best(method, how, said, folders, tmp_path, capsys):  # noqa: F811
    out, data = tmp_path / "run", list(folders.values())
    train(method, data, out, **HOW | {"steps": 2, "keep": 1, "quiet": False} | how)
    assert f"no best model is kept, for want of a held-out loss: {said}" in capsys.readouterr().err
    assert not (out / "best").exists()
    assert kept(out) == ["step-2"]


def test_only_its_own_go(folders, tmp_path):  # noqa: F811
    out, how = tmp_path / "run", HOW | {"save_every": 2, "keep": 1, "held_out": 0}
    train("diffusion", folders, out, **how | {"steps": 2})
    for name in ("mine", "step-1b", "step-1"):
        (out / "checkpoints" / name).mkdir()
        (out / "checkpoints" / name / "notes.txt").write_text("mine")
    (out / "checkpoints/step-5").write_text("a file")
    train("diffusion", folders, out, **how | {"steps": 6, "resume": True})
    assert kept(out) == ["mine", "step-1", "step-1b", "step-5", "step-6"]


def test_a_save_that_did_not_count_is_not_kept(folders, tmp_path, monkeypatch):  # noqa: F811
    fit = session.fit

    def diverges(state, *rest, **how):
        for update in fit(state, *rest, **how):
            yield update
            if update.step == 4:
                raise Diverged("the loss became nan")

    monkeypatch.setattr(session, "fit", diverges)
    out = tmp_path / "run"
    with pytest.raises(UserError, match="holds step 2"):
        train("diffusion", folders, out, **HOW | {"steps": 8, "save_every": 2, "keep": 3})
    assert kept(out) == ["step-2"]


def test_a_damaged_best_is_replaced(folders, tmp_path):  # noqa: F811
    train("diffusion", folders, tmp_path / "run", **HOW | {"steps": 2, "keep": 1})
    (tmp_path / "run/best/model.json").write_text("{")
    assert Checkpoints(tmp_path / "run", 1, 2).lowest == float("inf")


def _train(data: dict, out: str, moment: tuple[int, float] | None = None) -> None:
    torch.set_num_threads(1)
    validation.scored_every = lambda *_: 4
    if moment:
        die(*moment)
    train("diffusion", data, out, **HOW | {"steps": 30, "save_every": 3, "keep": 2, "resume": True})


def test_killed_at_ten_moments_keeps_what_an_undisturbed_run_keeps(folders, tmp_path, report):  # noqa: F811
    run = lambda out, moment=None: ended(_train, folders, str(out), moment)
    straight, killed, codes = tmp_path / "straight", tmp_path / "killed", []
    assert run(straight) == 0
    for moment in moments(random.Random(1), 10, files=24):
        codes.append(run(killed, moment))
        assert codes[-1] in (0, -signal.SIGKILL)
        for folder in (killed / "best", *killed.glob("checkpoints/step-*")):
            if folder.exists():
                load(folder)
    assert run(killed) == 0
    assert kept(straight) == ["step-27", "step-30"]
    for name in ("best", "checkpoints/step-27", "checkpoints/step-30"):
        for file in ("weights.safetensors", "model.json"):
            assert (killed / name / file).read_bytes() == (straight / name / file).read_bytes(), (name, file)
    left = {f.name for f in killed.rglob("*")} - {f.name for f in straight.rglob("*")}
    assert not left
    lines = [json.loads(line) for line in (killed / "log.jsonl").read_text().splitlines()]
    losses = {e["step"]: sum(e["held_out"].values()) for e in lines if "held_out" in e}
    info = describe_folder(killed / "best")["info"]
    assert info["held_out_loss"] == min(losses.values()) == losses[info["step"]]
    assert read_tensors(killed / "best/weights.safetensors")
    report("kill test of kept models", f"{sum(e != 0 for e in codes)} of 10 processes killed")


def test_models_of_steps_to_come_and_halves_go_when_a_run_goes_on(folders, tmp_path):  # noqa: F811
    out = tmp_path / "run"
    train("diffusion", folders, out, **HOW | {"steps": 6, "save_every": 2, "keep": 3})
    for half in (out / "checkpoints/.step-8.partial", out / ".best.partial"):
        half.mkdir()
        (half / "weights.safetensors").write_text("")
    Checkpoints(out, 3, 4).forget(4)
    assert kept(out) == ["step-2", "step-4"]
    assert (out / "best/model.json").exists()
    assert not (out / ".best.partial").exists()


@pytest.mark.parametrize("name", ["best", "checkpoints", "checkpoints/step-3"])
def test_a_file_where_kept_models_go_is_said(name, folders, tmp_path):  # noqa: F811
    out = tmp_path / "run"
    train("diffusion", folders, out, **HOW | {"steps": 2, "save_every": 1})
    (out / name).parent.mkdir(exist_ok=True)
    (out / name).write_text("mine")
    with pytest.raises(UserError, match=f"{name} is a file, where .*: move it away"):
        train("diffusion", folders, out, **HOW | {"steps": 3, "save_every": 1, "keep": 1, "resume": True})
    assert (out / name).read_text() == "mine"


def test_halves_that_are_files_go_too_and_a_loss_of_no_size_is_none(folders, tmp_path):  # noqa: F811
    out = tmp_path / "run"
    train("diffusion", folders, out, **HOW | {"steps": 2, "save_every": 2, "keep": 1})
    (out / ".best.partial").write_text("half")
    (out / "checkpoints/.step-3.partial").write_text("half")
    said = (out / "best/model.json").read_text()
    found = json.loads(said)
    found["info"]["held_out_loss"] = 10**400
    (out / "best/model.json").write_text(json.dumps(found))
    train("diffusion", folders, out, **HOW | {"steps": 3, "save_every": 1, "keep": 1, "resume": True})
    assert not [*out.rglob("*.partial")]
    assert json.loads((out / "best/model.json").read_text())["info"]["held_out_loss"] < 10**9
