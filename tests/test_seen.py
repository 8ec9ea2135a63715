"""Pictures that are unlike all that a model was trained on are told, where Lite0 is installed."""

import warnings

import pytest
import torch
from PIL import Image

from sfumato.checkpoints import seen
from sfumato.checkpoints.hub import SEEN
from sfumato.checkpoints.model_folder import MODELS
from sfumato.checkpoints.seen import remember, said_far
from sfumato.data.image_folder import ImageFolder
from sfumato.data.preparation import Preparation
from sfumato.studio.choices import HERE
from sfumato.training.train import train
from sfumato.translation.pictures import translate

pytest.importorskip("efficientnet_lite_pytorch")
G = torch.Generator().manual_seed(0)


class Images:
    """A set of pictures in memory."""

    def __init__(self, x):
        self.x, self.names, self.key = x, [str(i) for i in range(len(x))], "x"

    def __len__(self):
        return len(self.x)

    def get(self, indices):
        return self.x[list(indices)]


def smooth(n, side=32):
    """Coloured clouds."""
    x = torch.randn(n, 3, 5, 5, generator=G)
    return torch.nn.functional.interpolate(x, (side, side), mode="bicubic").clamp(-1, 1)


def test_what_is_far_is_told_and_nothing_else(tmp_path, monkeypatch):
    remember(tmp_path, [Images(smooth(48)), Images(smooth(48))])
    far = torch.cat([smooth(26), torch.rand(6, 3, 32, 32, generator=G) * 2 - 1])
    (line,) = said_far(tmp_path, "runs/a", Images(far))
    assert line.startswith("3 of 16 pictures, as 27, are unlike all that runs/a was trained on")
    assert not said_far(tmp_path, "a", Images(smooth(20)))
    assert said_far(tmp_path, "a", Images(far[-1:]))[0].startswith("the picture, as 0, is unlike")
    assert not said_far(tmp_path, "a", Images(torch.zeros(1, 3, 31, 64)))  # smaller than those
    assert said_far(tmp_path, "a", Images(torch.zeros(1, 3, 64, 48)))  # whose middle is as large
    around = torch.nn.functional.pad(smooth(1), (16, 16, 0, 0), value=-1.0)
    assert not said_far(tmp_path, "a", Images(around))
    assert not said_far(tmp_path / "other", "a", Images(far))
    monkeypatch.setattr(seen, "find_spec", lambda _: None)
    assert not said_far(tmp_path, "a", Images(far))
    remember(tmp_path / "other", [Images(smooth(96))])
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize(("model", "known", "other"), [
    ("digits", "digits", "earth/relief"), ("earth", "earth", "digits"),
    ("earth_pairs", "earth/satellite", "digits"),
])  # fmt: skip
def test_models_that_ship_know_what_they_have_seen(model, known, other):
    told = [ImageFolder([HERE / folder], Preparation(size=(32, 32))) for folder in (known, other)]
    assert not said_far(MODELS / model, model, told[0])
    assert said_far(MODELS / model, model, told[1])
    (flat,) = said_far(MODELS / model, model, Images(torch.ones(1, 3, 32, 32)))
    assert flat.startswith(f"the picture, as 0, is unlike all that {model} was trained on")


@pytest.mark.parametrize("x", [smooth(40), smooth(80, 16)])
def test_few_or_small_pictures_are_not_recorded(x, tmp_path):
    remember(tmp_path, [Images(x)])
    assert not (tmp_path / SEEN).exists()


def test_a_training_records_and_a_translation_tells(digits_folder, tmp_path, shapes_unchecked, monkeypatch):
    folders = {n: str(digits_folder / "train" / n) for n in "23"}
    monkeypatch.setattr(seen, "MOST", 64)
    how = {"steps": 1, "batch": 2, "options": {"net": "tiny"}, "size": 32, "quiet": True, "device": "cpu"}
    train("diffusion", folders, tmp_path / "run", held_out=0, preview_every=0, **how)
    assert (tmp_path / "run" / SEEN).exists()
    roles = {"source": f"{tmp_path / 'run'}:2", "target": f"{tmp_path / 'run'}:3"}
    ddib = {"method": "ddib", "options": {"steps": 2}, "device": "cpu", **roles}
    (tmp_path / "in").mkdir()
    noise = torch.randint(256, (32, 32, 3), dtype=torch.uint8, generator=G)
    Image.fromarray(noise.numpy()).save(tmp_path / "in/noise.png")
    with pytest.warns(UserWarning, match="the picture, as noise, is unlike all that .*run was trained on"):
        done = translate(tmp_path / "in", tmp_path / "out", **ddib)
    assert len(done.far) == 1
    with warnings.catch_warnings(record=True) as said:
        translate(tmp_path / "in", tmp_path / "out", **ddib)  # nothing is left to do
        translate(tmp_path / "in", tmp_path / "a", method="sdedit", target=roles["target"],
                  options={"steps": 1}, device="cpu")  # fmt: skip
    assert not [w for w in said if "unlike" in str(w.message)]
