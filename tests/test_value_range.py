"""Ranges of values: stated, measured, recorded, and given back."""

import json

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image

import sfumato
from sfumato.cli import main as cli
from sfumato.core.errors import UserError
from sfumato.data.open_data import measured_range, open_data
from sfumato.data.preparation import Preparation
from sfumato.data.read import header_of
from sfumato.data.value_range import from_unit, measured, rule_of, to_type, to_unit, type_for
from sfumato.evaluation.compare import evaluate
from sfumato.evaluation.protocol import Protocol
from sfumato.translation.pictures import repeat, translate

RNG = np.random.default_rng(0)
SIDES = ("noisy", 4095), ("clean", 4000)
SMALL = {"size": 16, "batch": 2, "held_out": 0, "preview_every": 0, "quiet": True, "steps": 2}


def scene(i):
    """A smooth picture in [0, 1] of 16x16."""
    y, x = np.mgrid[:16, :16] / 15
    return (np.sin(3 * x + i) * np.cos(4 * y - i) + 1) / 2


@pytest.fixture(scope="module")
def microscopy(tiffs):
    """Pairs of 12 bits in files of 16: few photons on an offset, and the truth in other units."""
    scenes = np.stack([scene(i) for i in range(6)])
    noisy = (100 + RNG.poisson(200 * scenes) * 12).clip(0, 4095)
    return tiffs(noisy=noisy.astype(np.uint16), clean=(500 + 3000 * scenes).round().astype(np.uint16))


@pytest.fixture(scope="module")
def scanner(tiffs):
    """Signed 16-bit and float pictures of densities from -1000 to 3000."""
    values = np.stack([-1000 + 4000 * scene(i) for i in range(4)])
    return tiffs(signed=values.round().astype(np.int16), float=values.astype(np.float32))


@pytest.fixture(scope="module")
def identity(tmp_path_factory):
    """SDEdit of strength 0 gives every picture back."""
    folder = tmp_path_factory.mktemp("identity") / "model"
    torch.manual_seed(0)
    sfumato.save(sfumato.find("diffusion")(net="tiny", domains=("a", "b")), folder, info={"size": 16})
    return {"method": "sdedit", "target": f"{folder}:a", "options": {"strength": 0.0}}


# ---- what is stated -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "ends", "shares"),
    [
        ((-1000, 3000), (-1000, 3000), (0, 100)), ("-1000 3000", (-1000, 3000), (0, 100)),
        (["0", "4095"], (0, 4095), (0, 100)), ("auto", None, (0, 100)), (["auto"], None, (0, 100)),
        ("percentile 0.1 99.9", None, (0.1, 99.9)), (("percentile", 1, 99), None, (1, 99)),
    ],
)  # fmt: skip
def test_ranges_are_stated_in_words_or_numbers(given, ends, shares):
    assert rule_of(given) == (ends, shares)


@pytest.mark.parametrize(
    "given",
    [
        "", "autp", (3, 3), (5, 1), "0 nan", "0 inf", "percentile 5", "percentile 9 1", "percentile 0 101",
        (1, 2, 3), "auto A B",
    ],
)  # fmt: skip
def test_other_words_are_refused_and_what_to_type_is_said(given):
    with pytest.raises(UserError, match="expected its two ends such as -1000 3000, auto, or percentile"):
        rule_of(given)


@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint16", "float32"])
def test_values_come_back_within_rounding(dtype):
    low, high = (-1000, 3000) if np.dtype(dtype).kind in "if" and dtype != "uint8" else (10, 250)
    low, high = (10, 250) if dtype == "uint8" else (100, 4095) if dtype == "uint16" else (low, high)
    x = np.linspace(low, high, 5001).astype(dtype)
    unit, outside = to_unit(x, (low, high))
    assert (unit.dtype, unit.min(), unit.max(), outside) == (np.float32, -1, 1, "")
    back = from_unit(unit, (low, high), np.dtype(dtype))
    assert back.dtype == dtype
    assert abs(back.astype(float) - x).max() <= (2e-4 if dtype == "float32" else 0)
    unit, outside = to_unit(np.array([low - 5.0, low, high, high + 1, high + 2]), (low, high))
    assert unit.tolist() == [-1, -1, 1, 1, 1]
    assert outside == f"20.00% below {low}, 40.00% above {high}"


def test_results_have_a_type_that_holds_their_range():
    assert type_for((0, 4095), "uint16", None) == np.uint16
    assert type_for((-1000, 3000), "uint16", None) == np.int16
    assert type_for((-1000, 3000), "int16", None) == np.int16
    assert type_for((0, 1e6), "uint8", None) == np.float32
    assert type_for((0, 1), "float64", None) == np.float32
    assert type_for((0, 255), "uint16", 8) == np.uint8
    assert type_for((0, 100), "uint8", 8) == np.uint8  # as it is asked for
    for coarse in ((0, 1), (-1, 1), (0, 100)):
        assert type_for(coarse, "uint8", None) == np.float32
    assert type_for((-5, 255), "uint16", 16) == np.int16
    assert type_for((0, 1), "uint16", 32) == np.float32
    with pytest.raises(UserError, match="--depth 8 does not hold values from -1000 to 3000: --depth 32"):
        type_for((-1000, 3000), "int16", 8)
    for ends, depth, lie in (((0, 1), 16, 2), ((-0.5, 0.5), 8, 1), ((0, 14), 16, 15), ((0.2, 0.8), 8, 0)):
        with pytest.raises(UserError, match=f"--depth {depth} writes whole .* lie {lie}: .*--depth 32"):
            type_for(ends, "uint16", depth)


# ---- reading ------------------------------------------------------------------------------------


def test_signed_and_float_files_are_refused_until_their_range_is_stated(scanner):
    for kind in ("signed", "float"):
        file = scanner / f"{kind}/0.tif"
        with pytest.raises(UserError, match="whose range is not known: state it by --range LOW HIGH"):
            Preparation().read(file)
        image, _, lost = Preparation(range=(-1000, 3000)).read(file)
        assert image.shape == (3, 16, 16)
        assert lost == {}
        wanted = 2 * scene(0) - 1
        assert abs(image[0].numpy() - wanted).max() < 1.1 / 4000


def test_what_lies_outside_is_clipped_and_said(scanner):
    image, _, lost = Preparation(range=(0, 1000), channels=1).read(scanner / "float/0.tif")
    assert (image.min(), image.max()) == (-1, 1)
    assert "below 0" in lost["range"]
    assert "above 1000" in lost["range"]


def test_a_range_of_all_values_is_what_none_is(tmp_path):
    Image.fromarray(RNG.integers(0, 256, (16, 16, 4), np.uint8), "RGBA").save(tmp_path / "x.png")
    for channels in (1, 3):
        for colour in ("white", "#20ff80"):
            how = Preparation(channels=channels, alpha=colour)
            other = Preparation(channels=channels, alpha=colour, range=(0, 255))
            a, b = (one.read(tmp_path / "x.png") for one in (how, other))
            assert a.lost == b.lost
            assert (a.image - b.image).abs().max() < 0.008  # rounded to 8 bits


def test_files_that_hold_no_numbers_are_refused(tmp_path, scanner):
    values = np.zeros((16, 16), np.float32)
    values[3, 3] = np.nan
    tifffile.imwrite(tmp_path / "x.tif", values)
    with pytest.raises(UserError, match=r"x.tif: the picture has values that are not numbers: fill these"):
        Preparation(range=(0, 1)).read(tmp_path / "x.tif")


def test_ranges_are_recorded_and_read():
    how = Preparation(range=(-1000, 3000), to_range=(0, 1))
    assert json.loads(json.dumps(how.to_json()))["range"] == [-1000, 3000]
    assert Preparation.from_json(json.loads(json.dumps(how.to_json()))) == how
    assert "range" not in Preparation().to_json()
    assert how.other_side.range == (0, 1)
    with pytest.raises(UserError, match="range 3 1: expected its two ends"):
        Preparation(range=(3, 1))


def test_each_side_of_pairs_is_measured(microscopy):
    folders = [microscopy / "noisy", microscopy / "clean"]
    data = open_data("pairs", folders, size=16, channels=1, range="auto")
    source, target = data.source.preparation, data.target.preparation
    seen = [np.stack([tifffile.imread(f) for f in sorted(d.iterdir())]) for d in folders]
    assert source.range == target.to_range == (seen[0].min(), seen[0].max())
    assert target.range == source.to_range == (seen[1].min(), seen[1].max())
    x, y = data.first(6)
    assert (x.min(), x.max(), y.min(), y.max()) == (-1, 1, -1, 1)
    half = open_data("pairs", folders, size=16, range="percentile 5 95")
    assert half.source.preparation.range == tuple(np.percentile(seen[0], [5, 95]))
    one = open_data("domains", {d.name: d for d in folders}, size=16, range="auto")
    ends = (min(map(np.min, seen)), max(map(np.max, seen)))
    assert {p.preparation.range for p in one.parts.values()} == {ends}


# ---- training and translating -------------------------------------------------------------------


def test_microscopy_comes_back_in_the_truths_range(microscopy, tmp_path):
    folders = [microscopy / "noisy", microscopy / "clean"]
    how = SMALL | {"steps": 60, "options": {"net": "tiny", "channels": 1}, "range": "auto"}
    sfumato.train("pix2pix", folders, tmp_path / "run", **how)
    info = json.loads((tmp_path / "run/model.json").read_text())["info"]["preparation"]
    truth = np.stack([tifffile.imread(f) for f in sorted(folders[1].iterdir())])
    assert info["to_range"] == [truth.min(), truth.max()]
    translate(folders[0], tmp_path / "out", model=tmp_path / "run")
    made = np.stack([tifffile.imread(f) for f in sorted((tmp_path / "out").glob("*.tif"))])
    assert (made.dtype, made.shape) == (np.uint16, (6, 16, 16))
    assert truth.min() <= made.min() < made.max() <= truth.max()
    assert abs(made.astype(float) - truth).mean() < abs(truth - truth.mean()).mean()  # it learns
    repeat(tmp_path / "out", tmp_path / "again")
    for file in (tmp_path / "out").glob("*.tif"):
        assert file.read_bytes() == (tmp_path / "again" / file.name).read_bytes()


def test_a_training_in_a_range_goes_on_and_is_not_given_another(scanner, tmp_path):
    import pydantic  # noqa: F401  which cyclopts asks, where it is imported, as by the studio

    sfumato.train("diffusion", {"a": scanner / "signed", "b": scanner / "float"}, tmp_path / "run",
                  options={"net": "tiny"}, range="auto", **SMALL)  # fmt: skip
    words = ["train", "--resume", "--out", str(tmp_path / "run"), "--steps", "3", "--device", "cpu"]
    with pytest.raises(SystemExit) as end:
        cli.main(words)
    assert not end.value.code
    ends = json.loads((tmp_path / "run/model.json").read_text())["info"]["preparation"]["range"]
    assert np.allclose(ends, [-1000, 3000], atol=20)
    with pytest.raises(SystemExit) as end:
        cli.main([*words, "--range", "0", "100"])
    assert end.value.code == 2


@pytest.mark.parametrize(("kind", "dtype", "error"), [("signed", np.int16, 0), ("float", np.float32, 2e-3)])
def test_densities_come_back(kind, dtype, error, scanner, identity, tmp_path):
    translate(scanner / kind, tmp_path / "out", **identity, range=(-1000, 3000))
    for file in sorted((scanner / kind).iterdir()):
        made, source = tifffile.imread(tmp_path / "out" / file.name), tifffile.imread(file)
        assert made.dtype == dtype
        assert made.shape == (16, 16, 3)
        assert abs(made[..., 0].astype(float) - source).max() <= error
    repeat(tmp_path / "out", tmp_path / "again")
    assert (tmp_path / "out/0.tif").read_bytes() == (tmp_path / "again/0.tif").read_bytes()
    flat = {"range": "auto", "to_range": (0, 255), "depth": 8, "format": "png"}
    translate(scanner / kind, tmp_path / "eight", **identity, **flat)
    made = np.asarray(Image.open(tmp_path / "eight/1.png"))
    assert abs(made[..., 0] - 255 * scene(1)).max() < 3


def test_ranges_are_typed(scanner, identity, tmp_path, capsys):
    model = ["--method", "sdedit", "--target", identity["target"], "--strength", "0", "--device", "cpu"]
    out = str(tmp_path / "out")
    with pytest.raises(SystemExit) as end:
        cli.main(["translate", str(scanner / "signed"), "--range", "-1000", "3000", "--out", out, *model])
    assert end.value.code == 0
    assert header_of(tmp_path / "out/0.tif").dtype == "int16"
    assert json.loads((tmp_path / "out/run.json").read_text())["run"]["preparation"]["range"] == [-1000, 3000]
    for words, says in (
        (["--range", "1"], "range 1: expected its two ends"),
        (["--to-range", "auto"], "results cannot be measured: expected two ends"),
        (["--depth", "32"], "--depth 32 takes the range of the results"),
        (["--to-range", "0", "1", "--depth", "16", "--format", "tiff"], "from 0 to 1 lie 2: leave it out"),
    ):
        with pytest.raises(SystemExit) as end:
            cli.main(["translate", str(scanner / "signed"), *words, "--out", out + "2", *model])
        assert end.value.code == 2
        assert says in capsys.readouterr().err


def test_domains_have_one_range(scanner):
    with pytest.raises(UserError, match="--to-range is for methods of two folders"):
        open_data("domains", {"a": scanner / "signed"}, size=16, to_range=(0, 1))


def test_pictures_of_pillow_are_taken_in_the_models_range(identity):
    part = sfumato.load(identity["target"].rpartition(":")[0])
    part.preparation = Preparation((16, 16), range=(0, 100))
    image = Image.new("L", (16, 16), 50)
    from sfumato.data.in_memory import take

    assert take(image, 3, part.preparation).images.abs().max() < 1e-6


def test_results_in_a_range_are_scored_as_pictures(microscopy, identity, tmp_path):
    """Sources that are given back are as far from the truths as the files are, each in its own range."""
    translate(microscopy / "noisy", tmp_path / "out", **identity, range=(0, 4095), to_range=(0, 4000))
    clean, rules = microscopy / "clean", Protocol("l2", "differences", metrics=("l2",))
    scored = evaluate(
        tmp_path / "out", microscopy / "noisy", target=clean, truth=clean, protocol=rules
    )
    seen = [[tifffile.imread(f) / top for f in sorted((microscopy / d).iterdir())] for d, top in SIDES]
    wanted = np.mean([np.sqrt(3 * np.square(a - b).sum()) for a, b in zip(*seen, strict=True)])
    assert abs(scored.rows[0].numbers["truth/l2"].value - wanted) < 0.01 * wanted


def test_percentiles_of_many_pictures_take_few_values_of_each(monkeypatch):
    monkeypatch.setattr("sfumato.data.value_range.IN_ALL", 2000)
    pictures = (np.random.default_rng(i).uniform(0, 100, (16, 16)) for i in range(100))
    low, high = measured(rule_of("percentile 10 90"), pictures, "x")
    assert abs(low - 10) < 3
    assert abs(high - 90) < 3


def test_what_cannot_be_measured_says_the_files_own_mistake(tmp_path):
    tifffile.imwrite(tmp_path / "x.tif", np.zeros((8, 8), np.uint16))
    with pytest.raises(UserError, match="x.tif has 1 band, expected 4, as a model or --channels says"):
        measured_range("auto", [(tmp_path / "x.tif", "whole")], 4)


@pytest.mark.parametrize("kind", ["uint16", "int16", "int32"])
def test_arrays_are_numbers_of_the_models_range(kind, tmp_path):
    part = sfumato.find("diffusion")(net="tiny", domains=("a",))
    how = Preparation(size=(16, 16), range=(10, 4000), to_range=(0, 8000))
    sfumato.save(part, tmp_path, info={"size": 16, "preparation": how.to_json()})
    model = sfumato.find("sdedit")(target=sfumato.load(f"{tmp_path}:a"))
    model.preparation = how
    given = np.random.default_rng(0).integers(10, 4001, (16, 16, 3)).astype(kind)
    for one in (given, torch.from_numpy(given.transpose(2, 0, 1).copy())):
        made = model.translate(one, strength=0.0)
        assert made.dtype == one.dtype
        wanted = (np.asarray(one, dtype=float) - 10) / 3990 * 8000
        assert np.abs(np.asarray(made, dtype=float) - wanted).max() <= 1
    with pytest.raises(UserError, match=r"expected \[-1, 1\], or whole numbers in the model's range from 10"):
        model.translate(given.astype(np.float32), strength=0.0)
    with pytest.warns(UserWarning, match="values outside of the model's range become its ends"):
        model.translate(given + np.array(3000, kind), strength=0.0)


# ---- what is advised for values out of range -----------------------------------------------------


@pytest.mark.parametrize(
    ("low", "high", "advice"),
    [
        (0, 1, "2 * x - 1"),
        (0, 1.5, "2 * x.clip(0, 1) - 1, or x.clip(-1, 1) if black is -1"),
        (-0.02, 1.03, "2 * x.clip(0, 1) - 1, or x.clip(-1, 1) if black is -1"),
        (-1.2, 1.1, "x.clip(-1, 1)"),
        (-0.5, 1.9, "x.clip(-1, 1)"),
        (0, 255, "x / 127.5 - 1"),
        (0, 200, "x / 127.5 - 1"),
        (-4, 261, "x.clip(0, 255) / 127.5 - 1"),
        (0, 65535, "x / 32767.5 - 1"),
        (0, 4095, "x.clip(-1, 1) to cut them, or (x - 2047.5) / 2047.5 if these are the ends of their range"),
        (-1000, 3000, "x.clip(-1, 1) to cut them, or (x - 1000) / 2000 if these are the ends of their range"),
        (-3000, 1000, "x.clip(-1, 1) to cut them, or (x + 1000) / 2000 if these are the ends of their range"),
    ],
)
def test_what_is_advised_brings_values_into_range(low, high, advice):
    assert to_type(low, high) == advice
    x = np.linspace(low, high, 9)
    for code in advice.split(" if ")[0].replace(" to cut them", "").split(", or "):
        made = eval(code, {"x": x})
        assert made.min() >= -1
        assert made.max() <= 1


@pytest.mark.parametrize(("high", "advice"), [(1.5, r"2 \* x.clip\(0, 1\) - 1"), (255, r"x / 127.5 - 1")])
def test_all_who_refuse_values_advise_the_same(high, advice, tmp_path):
    x = (torch.linspace(0, high, 3 * 8 * 8)).reshape(1, 3, 8, 8)
    for given in (x, x[0].permute(1, 2, 0).numpy()):
        with pytest.raises(UserError, match=f"type {advice}") as error:
            sfumato.write(given, tmp_path / "x.png")
        assert "as_is" not in str(error.value)  # of `translate` alone
        with pytest.raises(UserError, match=f"type {advice}.*as_is=True"):
            sfumato.load("sfumato/earth_pairs").translate(given)
    wanted = {1.5: r"range=\(0, 1\)", 255: r"range=\(0, 255\)"}[high]
    with pytest.raises(UserError, match=wanted):
        list(sfumato.stream([x[0]], model="sfumato/earth_pairs"))
