"""Messages that say what to type, and say it in English."""

import re
import shutil

import pytest
from test_docs import ROOT
from test_train import TINY, folders  # noqa: F401

from sfumato.cli import main as cli
from sfumato.core.errors import UserError
from sfumato.core.terminal import an
from sfumato.methods.registry import names
from sfumato.training.train import train


def said(capsys, *words):
    with pytest.raises(SystemExit) as end:
        cli.main([str(word) for word in words])
    assert end.value.code == 2
    return capsys.readouterr().err


# ---- folders to score a training on ----------------------------------------------------------


def test_what_to_type_for_folders_to_score_a_training_on(folders, tmp_path, capsys):  # noqa: F811
    a, b = (str(folder) for folder in dict(folders).values())
    own = ["--out", tmp_path / "run", "--steps", 1, "--size", 16]
    pair = ["train", "cyclegan", a, b, *own]
    text = said(capsys, *pair, "--validation", a)
    assert f"--validation names 1 folder ({a})" in text
    assert "--validation SOURCE --validation TARGET" in text
    third = shutil.copytree(b, tmp_path / "third")
    assert "--validation is typed before each of its folders" in said(capsys, *pair, "--validation", a, third)
    domains = ["train", "diffusion", f"x={a}", f"y={b}", *own]
    text = said(capsys, *domains, "--validation", a, "--validation", b)
    assert "--validation x=FOLDER --validation y=FOLDER" in text
    text = said(capsys, *domains, "--validation", f"x={a}", "--validation", b)
    assert f"--validation {b}: every domain needs" in text
    assert "--validation NAME=FOLDER" in text
    assert "--validation is typed before each" in said(capsys, *domains, "--validation", f"x={a}", f"y={b}")


# ---- articles -----------------------------------------------------------------------------------


def test_a_noun_has_its_article():
    wanted = {
        "autoencoder": "an", "Autoencoder": "an", "egsde": "an", "ilvr": "an", "entropic_ot": "an",
        "unpaired_sde": "an", "unit_ddpm": "a", "UNet2DModel": "a", "U-Net": "a", "uint8": "a", "int": "an",
        "cyclegan": "a", "ndarray": "a", "DDPMPipeline": "a", "universal": "a",
    }  # fmt: skip
    assert {noun: an(noun).split()[0] for noun in wanted} == wanted
    assert {an(name) for name in names()} >= {"a cyclegan", "an autoencoder", "an unpaired_sde"}


def test_no_message_writes_an_article_before_a_name_that_it_computes():
    """`an(name)` does, since a name may begin with a vowel."""
    for file in (ROOT / "sfumato").rglob("*.py"):
        text = re.sub(r'"\s*\n\s*f?"', "", file.read_text())  # strings that go on in the next line
        found = re.findall(r"""(?<![\w.])[aA]n? \{(?!['"]).{0,40}""", text)
        assert not found, (file, found)


def test_a_model_of_another_kind_is_named_with_its_article(folders, tmp_path):  # noqa: F811
    with pytest.raises(UserError, match="is an autoencoder model|an autoencoder"):
        train("autoencoder", folders, tmp_path / "run", start="sfumato/earth_pairs", **TINY)
