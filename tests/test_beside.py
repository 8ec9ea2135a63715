"""Sources whose channels lie in several folders."""

import json
import shutil

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image

import sfumato
from sfumato.core.errors import UserError
from sfumato.data.image_folder import ImageFolder
from sfumato.data.joined import Layer, read_joined
from sfumato.data.kept import decoding_once
from sfumato.data.open_data import open_data
from sfumato.data.preparation import Preparation
from sfumato.data.read import Joined, Unfiled
from sfumato.data.stacks import Pages, joined
from sfumato.data.without import leave_out
from sfumato.evaluation.compare import compare, evaluate
from sfumato.evaluation.preference_study import study
from sfumato.studio import methods
from sfumato.translation.one_picture import OnePicture
from sfumato.translation.pictures import repeat, translate
from sfumato.translation.watch_folder import watch_folder

RNG = np.random.default_rng(0)
TINY = {"size": 16, "batch": 2, "steps": 2, "held_out": 0, "preview_every": 1, "quiet": True}
NET = {"net": "tiny"}
THREE = {"net": "tiny", "to_channels": 3}


def write(file, samples):
    file.parent.mkdir(parents=True, exist_ok=True)
    if file.suffix == ".tif":
        tifffile.imwrite(file, samples, photometric="minisblack", metadata=None)
    else:
        Image.fromarray(samples).save(file)


def noise(*shape, top=255):
    return RNG.integers(0, top, shape).astype(np.uint8)


def bands(file, samples):
    file.parent.mkdir(parents=True, exist_ok=True)
    tifffile.imwrite(file, samples, photometric="minisblack", planarconfig="separate")


@pytest.fixture
def root(tmp_path):
    """Colours, infrared of another suffix, heights in metres, and targets in colours."""
    for i in range(4):
        write(tmp_path / f"rgb/{i}.png", noise(16, 16, 3))
        write(tmp_path / f"nir/{i}.bmp", noise(16, 16, top=200))
        write(tmp_path / f"dem/{i}.tif", RNG.normal(500, 200, (16, 16)).astype(np.float32))
        write(tmp_path / f"map/{i}.png", noise(16, 16, 3))
    return tmp_path


@pytest.fixture
def trained(root):
    folders = [root / "rgb", root / "map"]
    sfumato.train("pix2pix", folders, root / "run", beside=root / "nir", options=THREE, **TINY)
    return root / "run"


def the_same(one, other):
    files = [sorted(p.name for p in folder.iterdir() if p.name != "run.json") for folder in (one, other)]
    assert files[0] == files[1]
    return all((one / name).read_bytes() == (other / name).read_bytes() for name in files[0])


# ---- what is read ---------------------------------------------------------------------------------


def test_the_channels_of_all_files_follow_each_other(root):
    folders = [ImageFolder(root / name) for name in ("rgb", "nir", "dem")]
    beside = (Layer(1), Layer(1, (0.0, 1000.0)))
    found = joined(folders[0], folders[1:])
    found.preparation = Preparation(channels=5, beside=beside)
    how = Preparation(channels=1, range=(0.0, 1000.0))
    for i in range(4):
        image = found.read(i).image
        assert torch.equal(image[:3], Preparation().read(root / f"rgb/{i}.png").image)
        assert torch.allclose(image[3:4], Preparation(channels=1).read(root / f"nir/{i}.bmp").image)
        assert torch.equal(image[4:], how.read(root / f"dem/{i}.tif").image)
    some = found.decoded().subset([2])
    assert torch.equal(some.read(0).image, found.read(2).image)
    assert some.picture(0) == found.picture(2)
    with decoding_once():
        for swapped in (False, True):
            files = [root / "rgb/0.png", root / "nir/0.bmp", root / "nir/1.bmp"]
            files = [files[0], *files[1:][:: -1 if swapped else 1]]
            image = Preparation(channels=5, beside=(Layer(1), Layer(1))).read(Joined(tuple(files))).image
            own = Preparation(channels=1).read(files[1]).image
            assert torch.equal(image[3:4], own)
    samples = noise(16, 16, 5)
    how = Preparation(channels=5, range=(0, 100), beside=(Layer(1, (0, 200)), Layer(1, (0, 300))))
    image = how.read(Unfiled("x", samples)).image.numpy()
    for k, top in enumerate([100, 100, 100, 200, 300]):
        assert np.allclose(image[k], (samples[..., k] * (2 / top) - 1).clip(-1, 1), atol=1e-6)


def test_how_is_saved_and_said(root):
    how = Preparation(channels=4, range=(0.0, 9.0), beside=(Layer(1, (0.0, 5.0)),))
    assert Preparation.from_json(json.loads(json.dumps(how.to_json()))) == how
    assert "of 2 folders (3 and 1 channels), values from 0 to 9 and 0 to 5" in str(how)
    assert "beside" not in Preparation().to_json()
    assert how.other_side.beside == ()
    with pytest.raises(UserError, match="channels 1: expected more than those of the folders beside"):
        Preparation(channels=1, beside=(Layer(1),))
    with pytest.raises(UserError, match=r"0.png is one file, and a source is of 2 folders \(3 and 1 ch"):
        how.read(root / "rgb/0.png")


@pytest.mark.parametrize(
    ("channels", "own"), [(None, [3, 3, 2, 1]), (9, [3, 3, 2, 1]), (10, [3, 4, 2, 1]), (11, None), (8, None)]
)
def test_channels_are_those_of_the_files(channels, own, tmp_path):
    write(tmp_path / "rgb/0.png", noise(16, 16, 3))
    write(tmp_path / "rgba/0.png", noise(16, 16, 4))
    bands(tmp_path / "two/0.tif", noise(2, 16, 16))
    write(tmp_path / "gray/0.png", noise(16, 16))
    write(tmp_path / "map/0.png", noise(16, 16))
    folders, beside = [tmp_path / "rgb", tmp_path / "map"], [tmp_path / n for n in ("rgba", "two", "gray")]
    told = {"size": 16, "beside": beside, "channels": channels, "to_channels": 1}
    if own is None:
        with pytest.raises(UserError, match=rf"--channels {channels}: .*rgb has 3, .*rgba has 3 or 4, .*two"):
            open_data("pairs", folders, **told)
        return
    how = open_data("pairs", folders, **told).preparation
    assert [layer.channels for layer in how.layers] == own
    assert how.channels == sum(own)


def test_ranges_are_measured_in_each_folder(root):
    told = {"size": 16, "beside": [root / "dem", root / "nir"], "channels": None, "to_channels": 3}
    data = open_data("pairs", [root / "rgb", root / "map"], range="auto", **told)
    how = data.preparation
    heights = np.stack([tifffile.imread(root / f"dem/{i}.tif") for i in range(4)])
    assert how.beside[0].range == (heights.min(), heights.max())
    assert how.range[1] > how.beside[1].range[1]
    image = data.source.get(range(4))
    assert (image[:, 3].min(), image[:, 3].max()) == (-1, 1)
    how = open_data("pairs", [root / "rgb", root / "map"], range=(-100, 2000), **told).preparation
    assert [layer.range for layer in how.layers] == [(-100, 2000)] * 3
    with pytest.raises(UserError, match=r"dem.0.tif has float32 samples .* state it by --range"):
        open_data("pairs", [root / "rgb", root / "map"], **told)


def test_pictures_that_are_left_out_are_not_measured(root):
    high = np.full((16, 16), 9000, np.float32)
    write(root / "dem/3.tif", high)
    Image.fromarray(np.full((16, 16), 60_000, np.uint16)).save(root / "rgb/3.png")
    (root / "list").write_text("3.png\n")
    told = {"size": 16, "beside": [root / "dem"], "channels": 4, "to_channels": 3, "range": "auto"}
    how = open_data("pairs", [root / "rgb", root / "map"], without=root / "list", **told).preparation
    assert how.range[1] < 256
    assert how.beside[0].range[1] < 9000


# ---- what is wrong with folders -----------------------------------------------------------------


def test_partners_of_other_sizes_and_broken_ones_are_left_out_by_name(root):
    write(root / "nir/1.bmp", noise(8, 16))
    (root / "nir/2.bmp").write_bytes(b"broken")
    told = {"size": 16, "beside": [root / "nir"], "channels": 4, "to_channels": 3, "upscale": True}
    with pytest.warns(UserWarning, match="left out 2 that cannot be used") as said:
        data = open_data("pairs", [root / "rgb", root / "map"], **told)
    text = " ".join(str(one.message) for one in said)
    assert "nir/1.bmp is 16x8 pixels, and" in text
    assert "nir/2.bmp is not an image" in text
    assert data.source.file_names == data.target.file_names == ["0.png", "3.png"]
    with pytest.raises(UserError, match="2 of 4 images cannot be used"):
        open_data("pairs", [root / "rgb", root / "map"], strict=True, **told)
    (root / "list").write_text("3.png\n")
    assert len(leave_out(data.parts, root / "list", True)["source"].places) == 1


def test_names_without_a_partner_and_partners_without_a_name(root):
    told = {"size": 16, "beside": [root / "nir"], "channels": 4, "to_channels": 3}
    write(root / "nir/extra.png", noise(16, 16))
    with pytest.warns(UserWarning, match=r"nir: left out 1 that have no picture of their .*\(extra.png\)"):
        open_data("pairs", [root / "rgb", root / "map"], **told)
    (root / "nir/2.bmp").unlink()
    with pytest.raises(UserError, match=r"1 of 4 pictures of .*rgb has no partner of their name .*nir: 2;"):
        open_data("pairs", [root / "rgb", root / "map"], **told)
    write(root / "nir/2.png", noise(16, 16))
    write(root / "nir/2.bmp", noise(16, 16))
    with pytest.raises(UserError, match="have one name: rename one"):
        open_data("pairs", [root / "rgb", root / "map"], **told)


@pytest.mark.parametrize(
    ("method", "data", "beside", "more", "said"),
    [
        ("pix2pix", ("rgb", "map"), ["nir", "nir"], {}, "nir lies in .*nir .or is the same.: name folders"),
        ("pix2pix", ("rgb", "map"), ["rgb"], {}, "rgb lies in .*rgb .or is the same."),
        ("pix2pix", ("rgb", "map"), ["no"], {}, "no does not exist|no is missing|no is not"),
        ("pix2pix", ("rgb", "map"), ["nir"], {}, "map have 3 channels, and sources 4: add --to-channels 3"),
        ("cut", ("rgb", "map"), ["nir"], {}, "map have 3 channels, and sources 4: expected as many"),
        ("diffusion", ("rgb", "map"), ["nir"], {}, "--beside is for methods of two folders"),
        ("pix2pix", ("rgb",), ["nir"], {"side_by_side": True}, "--beside is for methods of two folders"),
        ("pix2pix", ("rgb", "map"), ["nir"], {"validation": ("rgb", "map")}, "--validation has no folders"),
        ("pix2pix", ("rgb", "map"), ["nir"], {"options": {"channels": 3}}, "rgb has 3, .*nir has 1"),
    ],
)
def test_what_training_refuses(method, data, beside, more, said, root):
    places = lambda names: [root / name for name in names]
    if "validation" in more:
        more = {"validation": places(more["validation"])}
    told = TINY | {"options": NET} | more
    if "validation" in more:
        del told["held_out"]
    with pytest.raises(UserError, match=said) as error:
        sfumato.train(method, places(data), root / "run", beside=places(beside), **told)
    assert "\n" not in str(error.value)


def test_arrays_have_all_channels_in_one(root):
    data, told = [torch.rand(2, 4, 16, 16) * 2 - 1] * 2, TINY | {"options": NET}
    with pytest.raises(UserError, match="beside is for folders: an array of a picture holds the channels"):
        sfumato.train("cyclegan", data, root / "run", beside=root / "nir", **told)


# ---- training and translating -------------------------------------------------------------------


def test_a_training_goes_on_and_notices_other_partners(root, trained):
    said = json.loads((trained / "run.json").read_text())
    assert said["options"]["channels"] == 4
    assert said["folders"]["beside"] == [str(root / "nir")]
    assert said["preparation"]["beside"] == [{"channels": 1, "range": None}]
    assert "--out RESULTS --beside FOLDER --model FOLDER" in (trained / "README.md").read_text()
    folders, more = [root / "rgb", root / "map"], TINY | {"steps": 3, "resume": True}
    whole = root / "whole"
    sfumato.train("pix2pix", folders, whole, beside=[root / "nir"], options=THREE, **TINY | {"steps": 3})
    sfumato.train("pix2pix", folders, trained, **more)  # as it began
    assert (whole / "weights.safetensors").read_bytes() == (trained / "weights.safetensors").read_bytes()
    write(root / "nir/0.bmp", noise(16, 16))
    with pytest.raises(UserError, match="the pictures of .* have changed since"):
        sfumato.train("pix2pix", folders, trained, **more)


def test_translating(root, trained):
    how = {"model": trained, "beside": root / "nir", "batch": 3}
    done = translate(root / "rgb", root / "out", **how)
    assert (done.written, done.skipped) == (4, {})
    assert translate(root / "rgb", root / "out", **how).kept == 4
    repeat(root / "out", root / "again")
    assert the_same(root / "out", root / "again")
    for name in ("1.png", "3.png"):  # as if it had been killed
        (root / "out" / name).unlink()
    assert translate(root / "rgb", root / "out", **how).written == 2
    assert the_same(root / "out", root / "again")
    write(root / "nir/2.bmp", noise(16, 16))
    with pytest.warns(UserWarning, match="1 picture changed since the last time.*2.png"):
        assert translate(root / "rgb", root / "out", **how).written == 1
    assert not the_same(root / "out", root / "again")
    shutil.copytree(root / "nir", root / "other")
    assert translate(root / "rgb", root / "out", **how | {"beside": root / "other"}).kept == 4
    write(root / "other/2.bmp", noise(16, 16))
    with pytest.raises(UserError, match="holds another run .it differs in pictures."):
        translate(root / "rgb", root / "out", **how | {"beside": [root / "other"]})
    with pytest.raises(UserError, match=r"cannot be repeated: 1 of 4 pictures changed since \(2.png\)"):
        repeat(root / "again", root / "no")


def test_one_picture_and_its_partner(root, trained):
    translate(root / "rgb", root / "out", model=trained, beside=root / "nir", batch=1)
    for i, beside in enumerate((root / "nir", root / "nir/1.bmp")):
        translate(root / "rgb/1.png", root / f"{i}.png", model=trained, beside=beside, batch=1)
        assert (root / f"{i}.png").read_bytes() == (root / "out/1.png").read_bytes()
    with pytest.raises(UserError, match="1 of 1 pictures of .* has no partner of their name"):
        translate(root / "rgb/1.png", root / "no.png", model=trained, beside=root / "nir/2.bmp")


def test_a_partner_that_cannot_be_used_is_skipped(root, trained):
    write(root / "nir/1.bmp", noise(8, 16))
    (root / "nir/2.bmp").write_bytes(b"broken")
    done = translate(root / "rgb", root / "out", model=trained, beside=root / "nir")
    assert done.written == 2
    assert "nir/1.bmp is 16x8 pixels" in done.skipped[str(root / "rgb/1.png")]
    assert "nir/2.bmp is not an image" in done.skipped[str(root / "rgb/2.png")]


def test_ranges_go_with_the_model_and_the_run(root):
    folders, beside = [root / "rgb", root / "map"], [root / "dem", root / "nir"]
    told = {"range": "auto", "to_range": (0, 255), "options": THREE}
    sfumato.train("pix2pix", folders, root / "run", beside=beside, **told, **TINY)
    saved = sfumato.load(root / "run").preparation
    for name, more in {"own": {}, "auto": {"range": "auto"}, "stated": {"range": (0, 300)}}.items():
        translate(root / "rgb", root / name, model=root / "run", beside=beside, **more)
        repeat(root / name, root / f"{name} again")
        assert the_same(root / name, root / f"{name} again")
        run = json.loads((root / name / "run.json").read_text())["run"]["preparation"]
        ends = [one["range"] for one in run["beside"]]
        if name == "stated":
            assert ends == [[0, 300]] * 2
        else:
            assert ends == [list(layer.range) for layer in saved.beside]
    assert not the_same(root / "own", root / "stated")


def test_a_training_begins_with_the_weights_of_another(root, trained):
    folders, beside = [root / "rgb", root / "map"], [root / "nir"]
    part = sfumato.train("pix2pix", folders, root / "on", beside=beside, start=trained, **TINY)
    assert (part.channels, part.to_channels) == (4, 3)
    assert [layer.channels for layer in part.preparation.layers] == [3, 1]
    told = {"range": "auto", "to_range": (0, 255), "options": THREE}
    sfumato.train("pix2pix", folders, root / "ranged", beside=beside, **told, **TINY)
    with pytest.raises(UserError, match="has a range for each folder .* add --range auto"):
        sfumato.train("pix2pix", folders, root / "no", beside=beside, start=root / "ranged", **TINY)
    more = TINY | {"beside": [*beside, root / "dem"], "range": "auto", "options": {"to_channels": 3}}
    with pytest.raises(UserError, match="keeps its 4 channels and the 3 of its targets: leave out --beside"):
        sfumato.train("pix2pix", folders, root / "no", start=trained, **more)


@pytest.mark.parametrize("pages", ["first", "all"])
def test_pages_of_several_folders(pages, tmp_path):
    for name in ("a", "b", "c"):
        for i in range(2):
            write(tmp_path / f"{name}/{i}.tif", noise(3, 16, 16))
    folders, told = [tmp_path / "a", tmp_path / "c"], {"options": {"net": "tiny", "to_channels": 1}}
    sfumato.train("pix2pix", folders, tmp_path / "run", beside=tmp_path / "b", pages=pages, **told, **TINY)
    data = open_data(
        "pairs", folders, size=16, channels=None, to_channels=1, beside=[tmp_path / "b"], pages=pages
    )
    assert len(data) == (6 if pages == "all" else 2)
    x, _ = data.first(2)
    assert torch.equal(x[-1, 1], Preparation(channels=1, page=int(pages == "all")).read(
        tmp_path / ("b/0.tif" if pages == "all" else "b/1.tif")).image[0])
    how = {"model": tmp_path / "run", "beside": tmp_path / "b", "pages": "all"}
    assert translate(tmp_path / "a", tmp_path / "out", **how).written == 2
    assert len(tifffile.TiffFile(tmp_path / "out/0.tif").pages) == 3
    write(tmp_path / "b/0.tif", noise(2, 16, 16))
    done = translate(tmp_path / "a", tmp_path / "few", **how)
    assert "b/0.tif has 2 pages, and" in done.skipped[str(tmp_path / "a/0.tif")]
    with pytest.raises(UserError, match=r"^0 has 3 pages in .*a and 2 in .*b: expected as many"):
        joined(Pages(tmp_path / "a"), [Pages(tmp_path / "b")])


def test_there_and_back(root):
    for i in range(4):
        bands(root / f"four/{i}.tif", noise(4, 16, 16))
    folders = [root / "rgb", root / "four"]
    sfumato.train("cyclegan", folders, root / "run", beside=root / "nir", options=NET, **TINY)
    translate(root / "rgb", root / "there", model=root / "run", beside=root / "nir")
    back = {"model": root / "run", "options": {"direction": "target-to-source"}}
    assert translate(root / "four", root / "back", **back).written == 4
    with pytest.raises(UserError, match="learnt from sources of one folder: leave out --beside"):
        translate(root / "four", root / "no", beside=root / "nir", **back)


def test_arrays_and_tensors_of_all_channels(root, trained):
    part = sfumato.load(trained)
    assert part.translate(torch.zeros(2, 4, 16, 16)).shape == (2, 3, 16, 16)
    pictures = np.stack([
        np.concatenate([np.asarray(Image.open(root / f"rgb/{i}.png")),
                        np.asarray(Image.open(root / f"nir/{i}.bmp"))[..., None]], 2) for i in range(4)
    ])  # fmt: skip
    translate(root / "rgb", root / "out", model=trained, beside=root / "nir")
    wanted = np.stack([np.asarray(Image.open(root / f"out/{i}.png")) for i in range(4)])
    assert np.array_equal(np.stack([*sfumato.stream(pictures, model=trained)]), wanted)
    assert np.abs(part.translate(pictures).astype(int) - wanted).max() <= 1


def test_whole_numbers_are_in_the_range_of_their_folder(root):
    folders = [root / "rgb", root / "map"]
    told = {"range": "auto", "to_range": (0, 255), "options": {"net": "tiny", "to_channels": 3}}
    sfumato.train("pix2pix", folders, root / "run", beside=root / "nir", **told, **TINY)
    part = sfumato.load(root / "run")
    how = part.preparation
    assert how.beside[0].range[1] < 200 < how.range[1]
    given = np.zeros((16, 16, 4), np.int32)
    given[..., :3], given[..., 3] = how.range[1], how.beside[0].range[1]
    assert np.array_equal(part.translate(given), np.array(part.translate(given)))
    made = part.translate(torch.ones(1, 4, 16, 16))[0].permute(1, 2, 0).numpy()
    assert np.allclose(part.translate(given), (made + 1) * 127.5, atol=0.51)
    (streamed,) = sfumato.stream([given], model=root / "run")
    assert np.allclose(streamed, (made + 1) * 127.5, atol=1.01)


def test_what_takes_no_further_folders_says_so(root, trained):
    text = r"sources of 2 folders \(3 and 1 channels\), not of 1: name each further one by --beside"
    for beside in (None, [root / "nir", root / "dem"]):
        said = text if beside is None else "2 folders .3 and 1 channels., not of 3"
        with pytest.raises(UserError, match=said):
            translate(root / "rgb", root / "out", model=trained, beside=beside)
    with pytest.raises(UserError, match=text):
        OnePicture.read(root / "rgb/0.png", model=trained)
    with pytest.raises(UserError, match="--beside is for folders that are there"):
        watch_folder(root / "rgb", root / "out", model=trained, beside=root / "nir")
    asked = {"model": trained, "options": {}, "size": None, "resize": None, "upscale": False, "side": None}
    with pytest.raises(UserError, match=text):
        methods.preparation(asked)
    with pytest.raises(UserError, match="0.png is one file, and a source is of 2 folders"):
        sfumato.read(root / "rgb/0.png", like=sfumato.load(trained))
    assert sfumato.read(root / "rgb/0.png", like=sfumato.load(trained), channels=3).shape == (3, 16, 16)
    sfumato.train("pix2pix", [root / "rgb", root / "map"], root / "plain", options=NET, **TINY)
    with pytest.raises(UserError, match="learnt from sources of one folder: leave out --beside"):
        translate(root / "rgb", root / "out", model=root / "plain", beside=root / "nir")
    with pytest.raises(UserError, match="nir.0.bmp is given twice: name it once"):
        translate(root / "rgb", root / "out", model=trained, beside=[root / "nir", root / "nir"])


def test_comparing(root, trained):
    translate(root / "rgb", root / "out", model=trained, beside=root / "nir", size=16, resize="crop")
    told = {"target": root / "map", "truth": root / "map"}
    found = evaluate(root / "out", root / "rgb", beside=root / "nir", **told)
    assert "sources have 4 bands and results 3: the mean of their bands is compared" in found.notes
    with pytest.raises(UserError, match="results were made of sources of 2 folders"):
        evaluate(root / "out", root / "rgb", **told)
    entries = [f"model={trained}", f"label=same folder={root / 'out'}"]
    found = compare(root / "rgb", root / "page", entries, beside=root / "nir", **told)
    rows = {row.label: row.numbers for row in found.rows}
    assert rows["run"]["source/l2"].value == pytest.approx(rows["same"]["source/l2"].value)
    apart = []
    for i in range(4):
        names = f"rgb/{i}.png", f"nir/{i}.bmp", f"out/{i}.png"
        rgb, nir, made = (np.asarray(Image.open(root / name)) for name in names)
        mean = np.concatenate([rgb, nir[..., None]], 2).mean(2, keepdims=True)
        apart.append(np.linalg.norm((mean - made) / 255))
    assert rows["same"]["source/l2"].value == pytest.approx(np.mean(apart), rel=1e-3)
    with pytest.raises(UserError, match="learnt from sources of 2 folders"):
        compare(root / "rgb", root / "page", entries[:1], **told)
    shutil.copytree(root / "out", root / "out2")
    write(root / "out2/0.png", noise(16, 16, 3))
    with pytest.raises(UserError, match="results were made of sources of 2 folders"):
        study(root / "rgb", root / "out", root / "out2", root / "study")


def test_a_file_beside_that_is_read_in_part_is_named_itself(root):
    files = root / "rgb/0.png", root / "nir/stack.tif"
    write(files[1], noise(3, 16, 16))
    lost = read_joined(Joined(files), [Layer(3, None), Layer(1, None)], (255, 255, 255))[1]
    assert lost == {"pages": f"{files[1]}: 3 pictures"}
