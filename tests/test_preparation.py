"""One preparation of pictures, from training to results.

SDEdit of strength 0 gives its guide back: what it writes is what a network would have been given.
"""

import functools
import json
import os
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import sfumato
from sfumato.checkpoints.model_folder import describe_folder
from sfumato.core.errors import UserError
from sfumato.data import fit_image, read_image
from sfumato.data.masks import check_mask, mask_for
from sfumato.data.preparation import Preparation
from sfumato.training.train import train
from sfumato.translation.pictures import repeat, translate

TINY = {"net": "tiny"}
FEW = {"steps": 1, "batch": 2, "held_out": 0.0, "quiet": True, "preview_every": 0, "device": "cpu"}
BACK = {"method": "sdedit", "options": {"strength": 0.0}}


def paint(path: Path, seed: int = 0, size: tuple[int, int] = (64, 32)) -> Path:
    """A smooth picture in colour, `size` is (width, height)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    coarse = np.random.default_rng(seed).integers(0, 256, (3, 3, 3), dtype=np.uint8)
    Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC).save(path)
    return path


def trained(out: Path, data: Path, kind: str = "diffusion", **how) -> Path:
    """A run folder, after one step."""
    options = TINY | {k: how.pop(k) for k in ("channels",) if k in how}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        train(kind, data, out, options=options, size=16, **FEW | how)
    return out


def shown(folder: Path, name: str = "x") -> np.ndarray:
    """A written result (3, h, w) in [-1, 1]."""
    return read_image(folder / f"{name}.png")


def close(a: np.ndarray, b: np.ndarray) -> bool:
    return a.shape == b.shape and float(np.abs(a - b).max()) < 1.5 / 127.5


def test_a_model_trained_by_stretch_is_given_stretched_pictures(tmp_path):
    for i in range(3):
        paint(tmp_path / f"data/a/{i}.png", i)
    picture = read_image(paint(tmp_path / "in/x.png", 7))
    for how in ("crop", "stretch"):
        model = trained(tmp_path / how, {"a": tmp_path / "data/a"}, resize=how)
        translate(tmp_path / "in", tmp_path / f"out_{how}", target=f"{model}:a", **BACK)
        whole = fit_image(picture, 16, {"crop": "short"}.get(how, how))
        assert close(shown(tmp_path / f"out_{how}"), whole), how
        assert whole.shape == {"crop": (3, 16, 32), "stretch": (3, 16, 16)}[how]
        translate(tmp_path / "in", tmp_path / f"asked_{how}", target=f"{model}:a", resize=how, **BACK)
        assert close(shown(tmp_path / f"asked_{how}"), fit_image(picture, 16, how)), how
    apart = np.abs(shown(tmp_path / "asked_crop") - shown(tmp_path / "asked_stretch")).max()
    assert apart > 0.05  # the picture tells the two apart


def test_small_pictures_are_enlarged_if_training_enlarged_them(tmp_path):
    for i in range(3):
        paint(tmp_path / f"data/a/{i}.png", i, (8, 8))
    model = trained(tmp_path / "run", {"a": tmp_path / "data/a"}, upscale=True)
    translate(tmp_path / "data/a", tmp_path / "out", target=f"{model}:a", **BACK)
    assert shown(tmp_path / "out", "0").shape == (3, 16, 16)


def test_after_side_by_side_training_the_source_half_is_read(tmp_path):
    for i in range(3):
        paint(tmp_path / f"ab/{i}.png", i)
    model = trained(tmp_path / "run", tmp_path / "ab", kind="pix2pix", side_by_side=True)
    seen = []
    part = sfumato.load(model)
    was = type(part).translate

    @functools.wraps(was)
    def spy(self, x, **options):
        seen.append(x.clone())
        return was(self, x, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(part), "translate", spy)
        with pytest.warns(UserWarning, match="left halves are read, as in training"):
            translate(tmp_path / "ab/0.png", tmp_path / "out", model=model)
        translate(tmp_path / "ab/0.png", tmp_path / "right", model=model, side="right")
        paint(tmp_path / "one/x.png", 5, (32, 32))
        translate(tmp_path / "one", tmp_path / "whole", model=model, side="whole")
        with pytest.raises(
            UserError, match="32x32 pixels, not two pictures side by side: .* by --side whole"
        ):
            translate(tmp_path / "one", tmp_path / "none", model=model)
    picture = read_image(tmp_path / "ab/0.png")
    halves = [fit_image(h, 16) for h in (picture[..., :32], picture[..., 32:])]
    wanted = [*halves, fit_image(read_image(tmp_path / "one/x.png"), 16)]
    for got, want in zip(seen[1::2], wanted, strict=True):  # each after its rehearsal
        assert close(got[0].numpy(), want)


def test_a_mask_is_brought_to_the_network_as_its_picture(tmp_path):
    for i in range(3):
        paint(tmp_path / f"data/a/{i}.png", i)
    model = trained(tmp_path / "run", {"a": tmp_path / "data/a"})
    mask = np.zeros((32, 64), np.uint8)
    mask[:, :32] = 255  # of the picture and of its crop the left half, if both are cropped alike
    mask[:, :16] = 0  # and outside of the crop nothing
    Image.fromarray(mask).save(tmp_path / "mask.png")
    how = {"method": "sdedit", "target": f"{model}:a", "resize": "crop"}  # 64x32 to 16x16
    edited = {"steps": 2, "mask": str(tmp_path / "mask.png")}
    translate(paint(tmp_path / "in/x.png", 9), tmp_path / "out", **how, options=edited)
    translate(tmp_path / "in", tmp_path / "same", **how, options={"strength": 0.0})
    kept = np.abs(shown(tmp_path / "out") - shown(tmp_path / "same")).max(0) < 1e-6
    assert kept[:, :8].all()
    assert not kept[:, 8:].all(0).any()
    Image.fromarray(mask[:, :32]).save(tmp_path / "odd.png")
    with pytest.raises(UserError, match=r"mask .*odd\.png is 32x32 pixels, a picture 64x32"):
        translate(
            tmp_path / "in",
            tmp_path / "no",
            **how,
            options=edited | {"mask": str(tmp_path / "odd.png")},
        )


def test_colour_pictures_suit_a_gray_model_as_in_its_training(tmp_path, capsys):
    for i in range(3):
        paint(tmp_path / f"data/a/{i}.png", i, (16, 16))
    with pytest.warns(
        UserWarning, match="3 that are in colour, which a model of one channel does not see"
    ):
        train(
            "diffusion",
            {"a": tmp_path / "data/a"},
            tmp_path / "run",
            options=TINY | {"channels": 1},
            size=16,
            **FEW,
        )
    done = translate(tmp_path / "data/a", tmp_path / "out", target=f"{tmp_path}/run:a", **BACK)
    assert done.written == 3
    assert [len(names) for names in done.lost.values()] == [3]
    luma = read_image(tmp_path / "data/a/0.png", 1)
    assert close(read_image(tmp_path / "out/0.png", 1), luma)


def test_partners_of_other_proportions_are_not_cropped_apart(tmp_path):
    for i in range(3):
        paint(tmp_path / f"a/{i}.png", i, (64, 32))
        paint(tmp_path / f"b/{i}.png", i, (32, 32))
    data = [tmp_path / "a", tmp_path / "b"]
    with pytest.raises(
        UserError, match=r"3 of 3 pairs .* 0 \(64x32, 32x32\).*use --resize stretch"
    ):
        trained(tmp_path / "run", data, kind="pix2pix")
    assert not (tmp_path / "run").exists()
    trained(tmp_path / "run", data, kind="pix2pix", resize="stretch")


def test_what_contradicts_the_training_is_said(tmp_path):
    paint(tmp_path / "data/a/0.png")
    model = trained(tmp_path / "run", {"a": tmp_path / "data/a"}, resize="stretch")
    for out, how, words in (
        (
            "a",
            {"resize": "crop"},
            "trained with resize stretch; pictures are taken with resize crop",
        ),
        ("b", {"size": 8}, "trained with size 16x16; pictures are taken with size 8x8"),
    ):
        with pytest.warns(UserWarning, match=words):
            translate(tmp_path / "data/a", tmp_path / out, target=f"{model}:a", **BACK, **how)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        translate(tmp_path / "data/a", tmp_path / "c", target=f"{model}:a", **BACK)


def test_a_result_of_another_size_is_said_per_folder_once(tmp_path):
    paint(tmp_path / "data/a/0.png", 0, (16, 16))
    model = trained(tmp_path / "run", {"a": tmp_path / "data/a"})
    for i, size in enumerate([(300, 200), (30, 20), (300, 200), (16, 16)]):
        paint(tmp_path / f"in/{i}.png", i, size)
    paint(tmp_path / "more/9.png", 0, (64, 32))
    done = translate(
        [tmp_path / "in", tmp_path / "more"], tmp_path / "out", target=f"{model}:a", **BACK
    )
    assert done.resized() == [
        f"{tmp_path}/in: 2 sizes from 30x20 to 300x200 -> 24x16",
        f"{tmp_path}/more: 64x32 -> 32x16",
    ]


def test_the_preparation_is_recorded_with_models_and_results(tmp_path):
    for i in range(3):
        paint(tmp_path / f"ab/{i}.png", i)
    model = trained(
        tmp_path / "run", tmp_path / "ab", kind="pix2pix", side_by_side=True, resize="stretch"
    )
    want = {"size": [16, 16], "resize": "stretch", "upscale": False, "channels": 3, "side": "left"}
    for found in (
        describe_folder(model)["info"]["preparation"],
        json.loads((model / "run.json").read_text())["preparation"],
    ):
        assert found.items() >= want.items()
    with pytest.warns(UserWarning, match="left halves"):
        translate(tmp_path / "ab", tmp_path / "out", model=model)
    found = json.loads((tmp_path / "out/run.json").read_text())["run"]["preparation"]
    assert found.items() >= (want | {"orientation": "upright", "colour": "sRGB"}).items()
    repeat(tmp_path / "out", tmp_path / "again")
    for name in ("0.png", "1.png", "2.png"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "again" / name).read_bytes()


def test_results_recorded_by_an_older_version_go_on_and_repeat(tmp_path):
    for i in range(3):
        paint(tmp_path / f"data/a/{i}.png", i)
    model = trained(tmp_path / "run", {"a": tmp_path / "data/a"})
    translate(tmp_path / "data/a", tmp_path / "out", target=f"{model}:a", **BACK)
    file = tmp_path / "out/run.json"
    saved = json.loads(file.read_text())
    del saved["run"]["preparation"]
    saved["run"] |= {"size": 16, "resize": "crop", "upscale": False}
    file.write_text(json.dumps(saved))
    (tmp_path / "out/1.png").unlink()
    done = translate(tmp_path / "data/a", tmp_path / "out", target=f"{model}:a", **BACK)
    assert (done.written, done.kept) == (1, 2)
    file.write_text(json.dumps(saved))
    assert repeat(tmp_path / "out", tmp_path / "again").written == 3
    with pytest.raises(UserError, match=r"holds another run \(it differs in size, resize\)"):
        translate(tmp_path / "data/a", tmp_path / "out", target=f"{model}:a", size=8, **BACK)


@pytest.mark.parametrize(
    ("info", "said"),
    [
        ({"size": 32}, "cropped to 32x32"),
        ({"size": 32, "resize": "stretch"}, "stretched to 32x32"),
        (
            {"size": 8, "data": {"size": [8, 16], "resize": "crop", "channels": 1}},
            "cropped to 16x8, in gray",
        ),
        ({"size": 8, "settings": {"side_by_side": True}}, "cropped to 8x8, left halves"),
        ({}, "at their own size"),
    ],
)
def test_models_of_older_versions_say_it_in_several_places(info, said):
    from sfumato.data import Preparation

    assert str(Preparation.of(info)) == said


@settings(derandomize=True, max_examples=40, deadline=None)
@given(st.data())
def test_a_preparation_survives_json_and_damage_is_said(data):
    from sfumato.data import Preparation

    sides = st.integers(1, 4096)
    how = Preparation(
        data.draw(st.none() | st.tuples(sides, sides)),
        data.draw(st.sampled_from(["crop", "stretch", "none"])),
        data.draw(st.booleans()), data.draw(st.sampled_from([1, 3])),
        data.draw(st.sampled_from(["left", "right", "whole"])),
    )  # fmt: skip
    saved = json.loads(json.dumps(how.to_json()))
    assert Preparation.from_json(saved) == how
    key = data.draw(st.sampled_from(sorted(saved)))
    broken = saved | {key: data.draw(st.sampled_from(["?", [], [1], 2.5, {"a": 1}]))}
    with pytest.raises(UserError):
        Preparation.from_json(broken)


def test_only_what_is_needed_of_a_strip_is_enlarged(monkeypatch):
    """Scaled until 2x6000 covers 256x256, the strip would have 768,000 columns, 256 of which are kept."""
    largest = []
    real = torch.nn.functional.interpolate

    def spy(x, size, **how):
        largest.append(size[0] * size[1])
        return real(x, size, **how)

    monkeypatch.setattr("sfumato.data.resize.interpolate", spy)
    strip = np.random.default_rng(0).uniform(-1, 1, (3, 2, 6000)).astype(np.float32)
    assert fit_image(strip, 256, upscale=True).shape == (3, 256, 256)
    assert max(largest) < 20 * 256 * 256
    middle = fit_image(strip[..., 2900:3100], 256, upscale=True)  # exact: the scale is 128 in both
    np.testing.assert_allclose(fit_image(strip, 256, upscale=True), middle, atol=2e-3)


def test_pictures_of_any_size_are_translated_as_they_are(tmp_path):
    """A law of the pixel-wise: what a method without a network's say gives back has its place and size."""
    paint(tmp_path / "data/a/0.png", 0, (16, 16))
    model = trained(tmp_path / "run", {"a": tmp_path / "data/a"})
    for i, size in enumerate([(34, 22), (15, 17), (1, 3), (50, 40)]):
        paint(tmp_path / f"in/{i}.png", i, size)
    done = translate(tmp_path / "in", tmp_path / "out", target=f"{model}:a", scale="native", **BACK)
    assert (done.written, done.resized()) == (4, [])
    for i in range(4):
        assert close(shown(tmp_path / "out", str(i)), read_image(tmp_path / f"in/{i}.png"))


@pytest.mark.parametrize(("trained_by", "size", "resize", "got"), [
    ("crop", None, None, (24, 16)), ("crop", None, "crop", (16, 16)), ("crop", 8, None, (12, 8)),
    ("crop", "10x12", None, (10, 12)), ("crop", None, "native", (60, 40)),
    ("stretch", None, None, (16, 16)), ("stretch", 8, None, (8, 8)), ("stretch", "12x10", None, (12, 10)),
    ("none", None, None, (60, 40)), ("none", 8, None, (12, 8)), ("none", "12x10", None, (12, 10)),
    ("none", None, "crop", (16, 16)),
])  # fmt: skip
def test_results_are_as_large_as_the_training_knows(tmp_path, trained_by, size, resize, got):
    paint(tmp_path / "data/a/0.png", 0, (16, 16))
    model = trained(tmp_path / "run", {"a": tmp_path / "data/a"}, resize=trained_by)
    paint(tmp_path / "in/0.png", 0, (60, 40))
    how = {"scale": "native"} if resize == "native" else {"resize": resize}
    ends = {"target": f"{model}:a", "size": size}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        translate(tmp_path / "in", tmp_path / "out", **ends, **how, **BACK)
    assert Image.open(tmp_path / "out/0.png").size == got
    repeat(tmp_path / "out", tmp_path / "again")
    assert (tmp_path / "again/0.png").read_bytes() == (tmp_path / "out/0.png").read_bytes()


def test_a_model_that_is_saved_again_remembers_how_pictures_are_prepared(tmp_path):
    for i in range(3):
        paint(tmp_path / f"data/a/{i}.png", i)
    train("diffusion", {"a": tmp_path / "data/a"}, tmp_path / "run", options=TINY, size=16, **FEW)
    made = train("diffusion", {"a": tmp_path / "data/a"}, tmp_path / "two", options=TINY, size=16, **FEW)
    for part in (made, sfumato.load(tmp_path / "run")):
        assert part.preparation == Preparation((16, 16))
        sfumato.save(part, tmp_path / "again")
        assert sfumato.load(tmp_path / "again").preparation == Preparation((16, 16))
    sfumato.save(made, tmp_path / "again", info={"size": 8})  # what is said goes before it
    assert sfumato.load(tmp_path / "again").preparation.size == (8, 8)


def test_results_are_brought_back_to_the_sources_size(tmp_path):
    paint(tmp_path / "data/a/0.png", 0, (16, 16))
    model = trained(tmp_path / "run", {"a": tmp_path / "data/a"})
    source = read_image(paint(tmp_path / "in/0.png", 0, (61, 40)))
    how = {"target": f"{model}:a", "resize_back": True} | BACK
    done = translate(tmp_path / "in", tmp_path / "out", **how)
    small = fit_image(source, 16, "short")
    assert close(shown(tmp_path / "out", "0"), fit_image(small, (40, 61), "stretch", upscale=True))
    assert done.resized() == [f"{tmp_path}/in: 61x40 -> 24x16, and back"]
    for cut in ({"resize": "crop"}, {"size": "24x16"}):
        with pytest.raises(UserError, match="--resize-back is for whole pictures, not cut ones: leave out"):
            translate(tmp_path / "in", tmp_path / "no", **how, **cut)
    for more in ("upscale", "resize_back"):
        given = {"target": f"{model}:a", "scale": "native", more: True} | BACK
        with pytest.raises(UserError, match="--scale native takes pictures as they are: leave out"):
            translate(tmp_path / "in", tmp_path / "no", **given)


def test_a_preparation_that_is_not_known_is_not_repeated(tmp_path):
    paint(tmp_path / "in/0.png", 0, (32, 32))
    how = {"source": "sfumato/digits:2", "target": "sfumato/digits:3"}
    translate(tmp_path / "in", tmp_path / "out", method="ddib", options={"steps": 2}, **how)
    file = tmp_path / "out/run.json"
    file.write_text(file.read_text().replace('"size"', '"sise"'))
    with pytest.raises(UserError, match="prepared in a way that is not known here"):
        repeat(file, tmp_path / "again")
    file.unlink()
    os.mkfifo(file)  # which never ends
    with pytest.raises(UserError, match="holds no translation: it has no run.json"):
        repeat(tmp_path / "out", tmp_path / "again")


@pytest.mark.parametrize(
    "key", ["from", "seed", "options", "preparation", "models", "device", "sources"]
)
def test_a_damaged_record_is_not_repeated(tmp_path, key):
    paint(tmp_path / "in/0.png", 0, (32, 32))
    how = {"source": "sfumato/digits:2", "target": "sfumato/digits:3"}
    translate(tmp_path / "in", tmp_path / "out", method="ddib", options={"steps": 2}, **how)
    file = tmp_path / "out/run.json"
    saved = json.loads(file.read_text())
    part = saved if key == "from" else saved["run"] if key in saved["run"] else saved["from"]
    part[key] = None
    file.write_text(json.dumps(saved))
    with pytest.raises(UserError, match="is damaged"):
        repeat(tmp_path / "out", tmp_path / "again")


def test_a_model_of_fog_is_said_before_it_translates(tmp_path):
    paint(tmp_path / "data/a/0.png", 0, (16, 16))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        how = FEW | {"preview_every": 1}
        train(
            "diffusion", {"a": tmp_path / "data/a"}, tmp_path / "run", options=TINY, size=16, **how
        )
    assert "noise or fog" in describe_folder(tmp_path / "run")["info"]["verdict"]
    with pytest.warns(UserWarning, match="run: .*noise or fog.*train longer before you translate"):
        translate(tmp_path / "data/a", tmp_path / "out", target=f"{tmp_path}/run:a", **BACK)


def test_a_mask_of_labels_0_and_1_is_refused(tmp_path):
    Image.fromarray(np.eye(16, dtype=np.uint8)).save(tmp_path / "mask.png")
    with pytest.raises(UserError, match="no level above 1 of 255.*multiply labels of 0 and 1 by 255"):
        check_mask(tmp_path / "mask.png")
    Image.fromarray(np.zeros((16, 16), np.uint8)).save(tmp_path / "black.png")
    check_mask(tmp_path / "black.png")  # keeps nothing, as it says


def test_further_pages_of_a_mask_are_said(tmp_path):
    page = Image.fromarray(np.full((16, 16), 255, np.uint8))
    page.save(tmp_path / "mask.tif", save_all=True, append_images=[page])
    with pytest.warns(UserWarning, match=r"the mask .*mask.tif is .* several pictures.*: 2 pict"):
        check_mask(tmp_path / "mask.tif")


def test_a_transparent_mask_is_said_to_keep_what_is_clear(tmp_path):
    mask = np.zeros((8, 8, 4), np.uint8)
    mask[:, 2:, 3] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    with pytest.warns(match=r"mask.png is transparent at 25.0% of its pixels: these are laid on white"):
        check_mask(tmp_path / "mask.png")



def test_a_mask_of_the_pictures_size_is_not_said_to_be_enlarged(tmp_path, recwarn):
    Image.fromarray(np.full((50, 100), 255, np.uint8)).save(tmp_path / "wide.png")
    how = Preparation(size=None, resize="none", channels=3)
    assert mask_for(tmp_path / "wide.png", how.read(tmp_path / "wide.png"), how).shape == (1, 1, 50, 100)
    assert not recwarn.list


LARGE = {"range": [0, 10**400], "channels": 10**400}


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("page", [0]), ("page", "x"), ("page", -1), ("page", 0.5), ("range", "auto"), ("size", [0, 16]),
        ("to_channels", 2.5), ("to_channels", True), ("size", [16, 16, 16]), ("size", "16"),
        ("transparency", "on "), ("upscale", "yes"), ("resize", "bogus"), ("side", 1),
        *(pytest.param(key, value, id=f"large {key}") for key, value in LARGE.items()),
    ],
)  # fmt: skip
def test_a_damaged_preparation_is_said_with_its_file(key, value, tmp_path):
    sfumato.save(sfumato.find("diffusion")(net="tiny", domains=("a",)), tmp_path, info={"size": 16})
    said = json.loads((tmp_path / "model.json").read_text())
    said["info"]["preparation"] = Preparation(size=(16, 16)).to_json() | {key: value}
    (tmp_path / "model.json").write_text(json.dumps(said))
    with pytest.raises(UserError, match=r"model.json is damaged .*pictures were prepared in a way"):
        sfumato.load(tmp_path)


def test_a_size_of_two_numbers_is_that_of_results_also_if_they_are_equal():
    how = Preparation((16, 16))
    assert (how.at("12x12").size, how.at("12x12").resize) == ((12, 12), "crop")
    assert (how.at("12x10").size, how.at("12x10").resize) == ((10, 12), "crop")
    assert (how.at(12).size, how.at("12").resize) == ((12, 12), "short")
