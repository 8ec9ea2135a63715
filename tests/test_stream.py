"""Pictures that are held in Python are translated as their files are, as they come."""

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import sfumato
from sfumato.checkpoints.model_folder import save
from sfumato.core.errors import UserError
from sfumato.data import Preparation

RNG = np.random.default_rng(0)
SIZES = [(32, 32), (40, 32), (32, 32), (32, 48), (40, 32)]
U8 = [RNG.integers(0, 256, (*size, 3), np.uint8) for size in SIZES]
HOW = {"model": "sfumato/earth_pairs", "seed": 5, "batch": 3, "options": {"steps": 2}}


def read(folder):
    return [np.asarray(Image.open(folder / f"{i}.png")) for i in range(len(SIZES))]


@pytest.fixture(scope="module")
def folder(pngs):
    return pngs(U8)


@pytest.fixture(scope="module")
def wanted(folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("stream") / "results"
    sfumato.translate(folder, out, **HOW)
    return read(out)


FORMS = {
    "Pillow": lambda: [Image.fromarray(x) for x in U8],
    "generator": lambda: (Image.fromarray(x) for x in U8),
    "arrays": lambda: U8,
    "channels first": lambda: [x.transpose(2, 0, 1).copy() for x in U8],
    "tensors": lambda: [torch.from_numpy(x).permute(2, 0, 1) for x in U8],
    "whole numbers": lambda: [x.astype(np.int32) for x in U8],
    "with labels": lambda: [(x, 3) for x in U8],
    "dicts": lambda: [{"image": Image.fromarray(x), "label": 3} for x in U8],
    "a data set": lambda: torch.utils.data.StackDataset(U8),
}


@pytest.mark.parametrize("form", FORMS)
def test_results_are_those_of_the_files(form, wanted):
    given = FORMS[form]()
    for i, (result, want) in enumerate(zip(sfumato.stream(given, **HOW), wanted, strict=True)):
        if form in ("channels first", "tensors"):
            assert type(result) is type(given[i])
            result = np.asarray(result).transpose(1, 2, 0)
        if isinstance(given, list) and isinstance(given[0], np.ndarray):
            assert result.dtype == given[0].dtype
        np.testing.assert_array_equal(np.asarray(result), want)


@pytest.mark.parametrize(
    "way",
    [{"size": 24}, {"size": "48x24", "upscale": True}, {"size": 24, "resize": "stretch"}, {"windows": True}],
    ids=str,
)
@pytest.mark.filterwarnings("ignore:trained with")
def test_they_are_prepared_as_files_are(way, folder, tmp_path):
    sfumato.translate(folder, tmp_path / "out", **HOW | way)
    for result, want in zip(sfumato.stream(U8, **HOW | way), read(tmp_path / "out"), strict=True):
        np.testing.assert_array_equal(result, want)


def test_deep_samples_and_floats_keep_their_levels_and_kind(tmp_path):
    deep = RNG.integers(0, 65536, (3, 32, 32)).astype(np.uint16)
    for i, x in enumerate(deep):
        Image.fromarray(x).save(tmp_path / f"{i}.png")
    save(sfumato.find("pix2pix")(net="tiny", channels=1), tmp_path / "m", info={"size": 32, "channels": 1})
    sfumato.translate([tmp_path / f"{i}.png" for i in range(3)], tmp_path / "out", model=tmp_path / "m")
    want = [np.asarray(Image.open(tmp_path / "out" / f"{i}.png")) for i in range(3)]
    for result, one in zip(sfumato.stream(deep, model=tmp_path / "m"), want, strict=True):
        assert result.dtype == np.uint16
        np.testing.assert_array_equal(result, one)
    floats = torch.from_numpy(deep / 32767.5 - 1)[:, None]
    for kind in (torch.float32, torch.float64, torch.float16, torch.bfloat16):
        result = next(sfumato.stream(floats.to(kind), model=tmp_path / "m"))
        assert (result.dtype, result.shape) == (kind, (1, 32, 32))
        assert torch.allclose(result.float()[0], torch.from_numpy(want[0] / 32767.5 - 1).float(), atol=0.03)


def test_values_of_a_range_come_back_in_the_range_of_the_results(tmp_path):
    part = sfumato.find("pix2pix")(net="tiny", channels=1)
    how = Preparation((32, 32), channels=1, range=(0, 40), to_range=(-1000, 3000))
    save(part, tmp_path / "m", info={"preparation": how.to_json()})
    x = RNG.random((2, 32, 32)) * 40
    (a, b), mine = sfumato.stream(x, model=tmp_path / "m"), sfumato.load(tmp_path / "m")
    y = mine.translate(torch.from_numpy(x / 20 - 1).float()[:, None])[:, 0]
    np.testing.assert_allclose(np.stack([a, b]), y * 2000 + 1000, atol=0.01)
    assert next(sfumato.stream(x.astype(np.uint8), model=tmp_path / "m")).dtype == np.int16


def test_pictures_without_end_are_read_a_batch_at_a_time():
    read = []

    def endless():
        for i in itertools.count():
            read.append(i)
            yield U8[0]

    results = sfumato.stream(endless(), **HOW)
    assert read == []
    next(results)
    assert read == [0, 1, 2]
    assert len(list(itertools.islice(results, 2))) == 2
    assert len(read) == 3
    few = sfumato.stream(endless(), **HOW | {"batch": None})
    next(few)
    assert len(read) == 3 + 64


def test_a_mask_keeps_what_is_white(tmp_path):
    Image.fromarray(np.full((32, 32), 255, np.uint8)).save(tmp_path / "mask.png")
    how = {"method": "sdedit", "target": "sfumato/earth:relief", "options": {"steps": 2}}
    how["options"]["mask"] = tmp_path / "mask.png"
    np.testing.assert_array_equal(next(sfumato.stream(U8[:1], **how)), U8[0])


def test_torchs_defaults_do_not_matter(wanted):
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        np.testing.assert_array_equal(next(sfumato.stream(U8, **HOW)), wanted[0])
    finally:
        torch.set_default_dtype(before)


def broken():
    yield U8[0]
    raise RuntimeError("of the caller's own")


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ("photos", "pictures must be a collection of pictures, not a str: files and folders are for"),
        (Path("photos"), "pictures must be a collection"),
        (None, "not a NoneType"),
        ({"image": U8[0]}, "must be a collection of pictures, not a dict"),
        (Image.fromarray(U8[0]), "not an Image"),
        ([None], "item 0 of pictures is a NoneType: expected one picture"),
        ([U8[0], "x.png"], "item 1 of pictures is a str"),
        ([U8[0], U8[0] / 255 * 2], r"item 1 of pictures: values in \[0, 2\]: expected \[-1, 1\]"),
        ([U8[0] / 255], r"item 0 of pictures: values in \[0, 1\]: expected \[-1, 1\]; type 2"),
        ([np.stack(U8[:1] * 2)], r"item 0 of pictures: .*expected one picture"),
        ([{"a": U8[0], "b": U8[0]}], r"item 0 of pictures holds 2 pictures \(a, b\)"),
        (broken(), "item 1 of pictures cannot be read: RuntimeError: of the caller's own"),
    ],
    ids=lambda x: x if isinstance(x, str) else "",
)  # fmt: skip
def test_what_is_no_picture_is_refused_with_its_place(given, says):
    with pytest.raises(UserError, match=says) as caught:
        list(sfumato.stream(given, **HOW))
    assert "\n" not in str(caught.value)


@pytest.mark.filterwarnings("ignore:trained with")
def test_a_small_picture_is_refused_and_models_are_refused_at_once():
    results = sfumato.stream([U8[3], U8[0]], **HOW | {"size": "48x32"})
    assert next(results).shape == (32, 48, 3)
    with pytest.raises(UserError, match=r"pictures\[1\] is 32x32 pixels, smaller"):
        next(results)
    with pytest.raises(UserError, match="say how to translate"):
        sfumato.stream(U8)
    with pytest.raises(UserError, match="unknown option"):
        sfumato.stream(U8, model="sfumato/earth_pairs", options={"stepps": 2})


def test_bright_pictures_among_others_are_what_they_are():
    dark = U8[0] / 127.5 - 1
    assert len(list(sfumato.stream([dark, abs(dark)], **HOW))) == 2


@pytest.mark.parametrize("one", [U8[0], torch.zeros(3, 32, 32)], ids=["array", "tensor"])
def test_a_picture_alone_is_not_taken_for_its_rows_or_channels(one):
    many = 32 if isinstance(one, np.ndarray) else 3
    with pytest.raises(UserError, match=f"may be one picture or {many} gray ones: type x.None. for one"):
        sfumato.stream(one, **HOW)
    with pytest.raises(UserError, match=f"may be one picture or {many} gray ones"):
        sfumato.train("cut", [one, one], "nowhere", quiet=True)


def test_what_a_watch_raises_ends_the_stream():
    def watch(*_):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        next(sfumato.stream(U8, **HOW, watch=watch))


@pytest.mark.parametrize("batch", [1, 2, 8, None])
def test_results_before_a_broken_picture_are_handed_out(batch):
    def camera():
        yield from (Image.new("RGB", (32, 32), (60 * i, 0, 0)) for i in range(3))
        raise OSError("unplugged")

    made = []
    with pytest.raises(UserError, match="^item 3 of pictures cannot be read: OSError: unplugged$"):
        made.extend(sfumato.stream(camera(), **HOW | {"batch": batch}))
    assert len(made) == 3
    with pytest.raises(UserError, match="^item 0 of pictures"):
        list(sfumato.stream([None, Image.new("RGB", (32, 32))], **HOW))


def test_bright_floats_come_first_if_their_range_is_stated():
    bright, dark = torch.full((3, 32, 32), 0.5), torch.full((3, 32, 32), -0.5)
    with pytest.raises(UserError, match=r"values in \[0, 1\]: expected .* or range=\(-1, 1\)"):
        list(sfumato.stream([bright, dark], **HOW))
    made = list(sfumato.stream([bright, dark], **HOW, range=(-1, 1)))
    want = list(sfumato.stream([dark, bright], **HOW))
    assert made[0].dtype == torch.float32
    torch.testing.assert_close(made, want[::-1])
    with pytest.raises(UserError, match="auto: pictures that are to come cannot be measured: expected"):
        list(sfumato.stream([bright], **HOW, range="auto"))


def test_further_frames_are_said(tmp_path):
    frames = [Image.new("RGB", (32, 32), (50 * i, 0, 0)) for i in range(3)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    with pytest.warns(match=r"pictures\[0\] is of those that hold several pictures.*: 3 pictures"):
        list(sfumato.stream([Image.open(tmp_path / "a.gif")], **HOW))
