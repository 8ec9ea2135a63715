"""The recipes of published weights, on random weights of their architecture, and few small pictures."""

import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from test_published import LITTLE, encoder, weights, written

sys.path.insert(0, str(Path(__file__).parents[1] / "recipes"))
import ddib_imagenet
import egsde_afhq

from sfumato.checkpoints.model_folder import load
from sfumato.core.devices import without_values
from sfumato.core.errors import UserError
from sfumato.nets.adm import ADM

SIZE, NET = 16, LITTLE | {"head_channels": 64}


def denoiser(file, labels=0):
    """As a file of guided-diffusion's: with its variance, and a head that says little."""
    with without_values():
        net = ADM(**NET, labels=labels)
    state = weights(net, learned=True)
    written(file, state, **{"out.2.weight": state["out.2.weight"] / 10})


def classifier(file, classes, head):
    shapes, g = encoder(NET, SIZE, classes)[1], torch.Generator().manual_seed(0)
    state = {k: torch.randn(v.shape, generator=g) / max(1, v[0].numel()) ** 0.5 for k, v in shapes.items()}
    written(file, {head + k.removeprefix("out") if k.startswith("out.") else k: v for k, v in state.items()})


def pictures(folder, n):
    folder.mkdir(parents=True)
    for i in range(n):
        g = torch.Generator().manual_seed(i)
        x = torch.randint(256, (SIZE, SIZE + 8, 3), dtype=torch.uint8, generator=g)
        Image.fromarray(x.numpy()).save(folder / f"{i}.png")


@pytest.fixture(autouse=True)
def _any_network(monkeypatch):
    """Files with published names may hold small networks."""
    monkeypatch.setattr("sfumato.checkpoints.guided_diffusion.NETWORKS", {})


def test_egsdes_table(tmp_path, capsys):
    pytest.importorskip("efficientnet_lite_pytorch")
    (files := tmp_path / "files").mkdir()
    denoiser(files / "afhq_dog_4m.pt")
    classifier(files / "cat2dog_dse.pt", 2, "I2Iout")
    pictures(tmp_path / "afhq/val/cat", 4)
    pictures(tmp_path / "afhq/val/dog", 4)
    words = [str(files), str(tmp_path / "afhq"), "--out", str(tmp_path / "out"), "--size", str(SIZE)]
    made = egsde_afhq.main([*words, "--shorter", "200"])
    rows = {row.label: row for row in made.rows}
    for label in egsde_afhq.SETTINGS:
        assert {"source/l2", "source/psnr", "source/ssim", "fd"} <= rows[label].numbers.keys()
    assert rows["SDEdit"].cost["nfe"] == 2
    assert rows["EGSDE-dagger"].cost["nfe"] == 3
    said = capsys.readouterr().out
    assert "74.17" not in said  # of Lite0's distance it is no measure
    for figure in ("(FID)", "47.88", "19.31", "0.361", "17.77"):
        assert figure in said
    with pytest.raises(UserError, match="afhq_dog_4m.pt does not exist: expected the file of that name"):
        egsde_afhq.main([str(tmp_path), *words[1:3], str(tmp_path / "other")])


def test_bridges_of_imagenet(tmp_path, capsys):
    (files := tmp_path / "files").mkdir()
    denoiser(files / "256x256_diffusion.pt", labels=285)
    classifier(files / "256x256_classifier.pt", 285, "out")
    for label in (260, 261, 282):
        pictures(tmp_path / "val" / str(label), 1)
    pictures(tmp_path / "val/n02123394", 2)
    words = [str(files), str(tmp_path / "val"), "--out", str(tmp_path / "out"), "--size", str(SIZE)]
    made = ddib_imagenet.main([*words, "--steps", "3"])
    assert [f.parent.name for f in made] == ["260-261", "261-262", "282-283", "283-284", "283-284"]
    assert all(f.exists() for f in made)
    assert "(Persian cat) -> " in capsys.readouterr().out
    assert ddib_imagenet.main([*words, "--steps", "3"]) == made
    assert not capsys.readouterr().out  # what is there is kept
    folders = {name: tmp_path / "out" / name for name in ddib_imagenet.FILES}
    x = torch.rand(1, 3, SIZE, SIZE) * 2 - 1
    how = {"steps": 3, "solver": "ddim", "spacing": "chain"}
    plain, guided = (ddib_imagenet.bridge(folders, 260, 261, s).translate(x, **how) for s in (0.0, 1.0))
    assert (plain - guided).abs().max() > 1e-6
    assert load(f"{folders['diffusion']}:284").process.steps == 1000
