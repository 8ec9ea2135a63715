"""Every command that `doctor` prints works: its training reads the pictures, whatever their number."""

import shlex

import numpy as np
import pytest
from PIL import Image
from test_doctor import fields, write

from sfumato.checkup import doctor
from sfumato.cli import main as cli
from sfumato.core.errors import UserError
from sfumato.training import train as training

READ = "these pictures are read"


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    """Trainings end when their pictures are read."""
    monkeypatch.chdir(tmp_path)
    real = training.read_pictures

    def read(asked):
        real(asked)
        raise UserError(READ)

    monkeypatch.setattr(training, "read_pictures", read)


def works(command, capsys):
    """A training reads its pictures; of another command the words are understood."""
    name, *words = shlex.split(command)
    if "--model" in words:  # which the command before made
        words[words.index("--model") + 1] = "sfumato/earth_pairs"
    if "--from" in words:
        del words[(at := words.index("--from")) : at + 2]
    assert name == "sfumato"
    if words[0] == "train":
        with pytest.raises(SystemExit):
            cli.main(words)
        assert READ in (said := capsys.readouterr().err), (command, said)
        return
    app = cli.make_app(words)
    app.parse_args(words, print_error=False, exit_on_error=False)


def folder(place, n, side=24, first=0, seed=0):
    place.mkdir(parents=True, exist_ok=True)
    for i, one in enumerate(fields(n, side, side, seed)):
        Image.fromarray(one).save(place / f"{first + i}.png")
    return place


SIDES = [24, pytest.param(128, id="photographs")]


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("n", [1, 2])
def test_of_one_domain(n, side, tmp_path, capsys):
    report = doctor(folder(tmp_path / "a", n, side), measure=False)
    assert any("train diffusion" in one for one in report.plan.commands)
    for command in report.plan.commands:
        works(command, capsys)


@pytest.mark.parametrize(
    ("n", "m", "first", "side"),
    [
        (1, 1, 0, 24),
        (2, 2, 1, 24),
        (2, 2, 100, 24),
        (3, 1, 0, 24),
        (3, 3, 1, 24),
        (1, 2, 0, 128),
        (2, 2, 9, 128),
    ],
)
def test_of_two_domains(n, m, first, side, tmp_path, capsys):
    a, b = folder(tmp_path / "a", n, side), folder(tmp_path / "b", m, side, first, seed=1)
    report = doctor(a, b, measure=False)
    assert report.plan.commands
    for command in report.plan.commands:
        works(command, capsys)


@pytest.mark.parametrize("n", [1, 3])
def test_of_pairs_and_of_three_domains(n, tmp_path, capsys):
    for place in ("pairs/trainA", "pairs/trainB", "three/x", "three/y", "three/z"):
        folder(tmp_path / place, n, seed=2)
    write(tmp_path / "halves", [np.concatenate([one, 255 - one], 1) for one in fields(n, 24, 24)])
    for name in ("pairs", "three", "halves"):
        for command in doctor(tmp_path / name, measure=False).plan.commands:
            works(command, capsys)


@pytest.mark.parametrize("n", [1])
def test_with_tests_sizes_and_lists(n, tmp_path, capsys):
    a, b = folder(tmp_path / "a/train", n).parent, folder(tmp_path / "b/train", n, seed=1).parent
    folder(a / "test", 1, seed=3), folder(b / "test", 1, seed=4)
    small = folder(tmp_path / "small", n, 14)
    lone = folder(tmp_path / "lone", 1)
    (lone / "again.png").write_bytes((lone / "0.png").read_bytes())
    reports = [
        doctor(a, b, measure=False), doctor(a, measure=False), doctor(small, size=24, measure=False),
        doctor(lone, write_list=tmp_path / "list.txt", measure=False),
    ]  # fmt: skip
    for report in reports:
        assert report.plan.commands
        for command in report.plan.commands:
            works(command, capsys)
    assert "--held-out 0" in reports[-1].plan.commands[0]
    assert "--held-out 0" not in reports[0].plan.commands[0]


def test_pictures_that_can_be_held_out_are(tmp_path):
    plan = doctor(folder(tmp_path / "a", 2), folder(tmp_path / "b", 2, first=9, seed=1), measure=False).plan
    assert "--held-out" not in " ".join(plan.commands)
