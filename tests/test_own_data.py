"""Pictures that are held in Python train as folders of the same files do."""

import itertools
import json
import shutil
import warnings

import numpy as np
import pytest
import torch
from PIL import Image

from sfumato.checkpoints.tensors import read_tensors
from sfumato.cli.main import main
from sfumato.core.errors import UserError
from sfumato.data import image_folder, items, open_data
from sfumato.training.train import train

TINY = {
    "options": {"net": "tiny"}, "size": 16, "batch": 4, "quiet": True, "preview_every": 0, "steps": 3,
    "upscale": True,
}  # fmt: skip
RNG = np.random.default_rng(0)
U8 = RNG.integers(0, 256, (6, 24, 20, 3), np.uint8)
HOW = {"size": 16, "channels": 3}


class Torch(torch.utils.data.Dataset):
    """A map-style data set."""

    def __init__(self, items, classes=None):
        self.items = items
        if classes:
            self.classes = classes

    def __len__(self):
        return len(self.items)

    def __getitem__(self, i):
        item = self.items[i]
        return item() if callable(item) else item


class Streamed(torch.utils.data.IterableDataset):
    def __init__(self, items):
        self.items = items

    def __len__(self):
        return len(self.items)

    def __iter__(self):
        return iter(self.items)


def kinds(root):
    """Files of every kind that Pillow has, one of each pixel type."""
    photo = Image.fromarray(U8[0]).resize((40, 30))
    deep = Image.fromarray(np.arange(1200, dtype=np.uint16).reshape(30, 40) * 50)
    made = {
        "0.png": photo, "1.jpg": photo, "2.png": photo.convert("L"), "3.png": photo.convert("P"),
        "4.png": photo.convert("RGBA"), "5.png": deep,
        "6.webp": photo, "7.png": photo.convert("LA"), "8.tif": photo.rotate(90, expand=True), "9.jpg": photo,
    }  # fmt: skip
    made["4.png"].putalpha(photo.convert("L"))
    root.mkdir()
    exif = Image.Exif()
    exif[0x0112] = 6
    for name, one in made.items():
        one.save(root / name, **({"exif": exif} if name == "9.jpg" else {}))
    return root


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return kinds(tmp_path_factory.mktemp("own") / "kinds")


def twin(folder):
    """The same files once more: a folder is not given twice."""
    other = folder.with_name(f"{folder.name}_again")
    return other if other.exists() else shutil.copytree(folder, other)


@pytest.fixture(scope="module")
def files(folder):
    return sorted(folder.iterdir())


def opened(files):
    return [Image.open(file) for file in files]


def batches(data, n=6, **how):
    return list(itertools.islice(data.batches(4, seed=1, **how), n))


def same(one, other):
    pairs = list(zip(one, other, strict=True))
    return all(torch.equal(a, c) and torch.equal(b, d) for (a, b), (c, d) in pairs)


WAYS = [
    {}, {"resize": "stretch"}, {"channels": 1}, {"alpha": "#ff8800"}, {"range": (0, 200)}, {"range": "auto"},
    {"range": "percentile 1 99", "to_range": "auto"}, {"resize": "pieces", "size": 12}, {"size": (12, 20)},
]  # fmt: skip


@pytest.mark.parametrize("way", WAYS, ids=str)
@pytest.mark.filterwarnings("ignore:.*left out|.*not read")
def test_pictures_are_prepared_as_their_files_are(folder, files, way):
    how = HOW | {"side_by_side": False} | way
    theirs = open_data("unpaired", [folder, twin(folder)], **how)
    own = open_data("unpaired", [opened(files), opened(files)], **how)
    assert own.preparation == theirs.preparation
    assert same(batches(own, flip=True), batches(theirs, flip=True))
    (_, held), (_, rest) = (data.split(0.2, 3) for data in (own, theirs))
    assert same(batches(held), batches(rest))


def test_a_training_has_the_bits_of_one_on_the_files(folder, files, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        how = TINY | {"held_out": 0.2, "preview_every": 2, "flip": True}
        train("cyclegan", [folder, twin(folder)], tmp_path / "files", **how)
        train("cyclegan", [opened(files), opened(files)], tmp_path / "own", **how)
        train("diffusion", {"a": folder}, tmp_path / "f", **how)
        train("diffusion", {"a": opened(files)}, tmp_path / "o", **how)
    for one, other in (("files", "own"), ("f", "o")):
        for name in ("weights.safetensors", "previews/step_000002.png"):
            assert (tmp_path / one / name).read_bytes() == (tmp_path / other / name).read_bytes()
        a, b = (read_tensors(tmp_path / run / "training.safetensors") for run in (one, other))
        assert a.keys() == b.keys()
        assert all(torch.equal(a[key], b[key]) for key in a)


FORMS = {
    "list": list(U8),
    "tuple": tuple(U8),
    "array": U8,
    "channels first": U8.transpose(0, 3, 1, 2).copy(),
    "tensor": torch.from_numpy(U8).permute(0, 3, 1, 2),
    "whole numbers": U8.astype(np.int64),
    "Pillow": list(map(Image.fromarray, U8)),
    "torch": Torch(list(map(Image.fromarray, U8))),
    "with labels": Torch([(x, 3) for x in U8]),
    "dicts": [{"image": x, "label": 3, "mask": x[..., 0]} for x in U8],
    "one picture in dicts": [{"pixels": x, "id": "x"} for x in U8],
    "iterable": Streamed(U8),
}  # fmt: skip


@pytest.fixture(scope="module")
def wanted(pngs):
    return pngs(U8)


@pytest.mark.parametrize("form", FORMS)
def test_every_form_holds_the_same_pictures(form, wanted):
    theirs = open_data("unpaired", [wanted, twin(wanted)], **HOW)
    own = open_data("unpaired", [FORMS[form], iter(FORMS[form])], **HOW)
    assert same(batches(own), batches(theirs))
    assert own.describe()["count"] == {"source": 6, "target": 6}
    mixed = open_data("unpaired", [wanted, FORMS[form]], **HOW)
    assert same(batches(mixed), batches(theirs))


def test_floats_and_deep_samples_keep_their_levels():
    x = torch.rand(5, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    deep = RNG.integers(0, 65536, (5, 16, 16)).astype(np.uint16)
    data = open_data("unpaired", [x, deep], **HOW)
    assert torch.equal(data.first(5)[0], x)
    np.testing.assert_allclose(data.first(5)[1][:, 0], deep / 32767.5 - 1, atol=1e-6)
    for given in (x.double().numpy(), x.half(), x.bfloat16(), list(x), x.numpy()):
        assert torch.allclose(open_data("unpaired", [given, deep], **HOW).first(5)[0], x, atol=4e-3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # rounding leaves the range, which is no loss
        open_data("unpaired", [x * 1.0005, deep], **HOW)
    unit = open_data("unpaired", [(x + 1) / 2, deep], range=(0, 1), to_range=(0, 65535), **HOW)
    assert torch.allclose(unit.first(5)[0], x, atol=1e-6)
    assert unit.preparation.range == (0, 1)
    thermal = open_data("unpaired", [[Image.fromarray(x[0, 0].numpy() * 40 + 10)], x], range="auto", **HOW)
    assert thermal.first(1)[0].min() == -1
    assert thermal.first(1)[0].max() == 1


def test_pairs_are_two_collections_or_one_of_pairs(wanted, tmp_path):
    targets = 255 - U8
    for i, x in enumerate(targets):
        Image.fromarray(x).save(tmp_path / f"{i}.png")
    theirs = open_data("pairs", [wanted, tmp_path], **HOW)
    pairs = list(zip(U8, targets, strict=True))
    for given in (
        [U8, targets], {"a": list(U8), "b": iter(targets)}, pairs, Torch(pairs), iter(pairs), tuple(pairs),
        [{"source": a, "target": b, "mask": a} for a, b in pairs],
        [{"x": a, "y": b, "n": 1} for a, b in pairs],
    ):  # fmt: skip
        own = open_data("pairs", given, **HOW)
        assert same(batches(own, flip=True), batches(theirs, flip=True))
    two = open_data("pairs", pairs[:2], **HOW)
    assert torch.allclose(two.first(2)[0], -two.first(2)[1], atol=0.02)
    beside = np.concatenate([U8, targets], 2)
    halves = open_data("pairs", beside, side_by_side=True, **HOW)
    assert same(batches(halves), batches(theirs))


def test_domains_are_named_or_come_by_labels(wanted, tmp_path):
    for name, rows in (("one", U8[:3]), ("two", U8[3:])):
        (tmp_path / name).mkdir()
        for i, x in enumerate(rows):
            Image.fromarray(x).save(tmp_path / name / f"{i}.png")
    theirs = open_data("domains", tmp_path, **HOW)
    numbered = [(x, i // 3) for i, x in enumerate(U8)]
    spoken = [(x, ("one", "two")[i]) for x, i in numbered]
    mixed = [numbered[i] for i in (3, 0, 4, 1, 5, 2)]

    class Features(dict):
        names = None

    hugging = Torch([{"image": x, "label": i} for x, i in numbered])
    label = type("ClassLabel", (), {"names": ["one", "two"]})()
    hugging.features = {"image": object(), "label": label}
    for given in (
        {"one": U8[:3], "two": list(U8[3:])}, {"one": tmp_path / "one", "two": U8[3:]}, spoken, iter(spoken),
        Torch(numbered, ["one", "two"]), Torch(mixed, ["one", "two"]), hugging,
        torch.utils.data.Subset(Torch(numbered, ["one", "two"]), range(6)),
        Torch([(x, torch.tensor(i)) for x, i in numbered], ["one", "two"]),
        Torch([(x, np.int64(i)) for x, i in numbered], ["one", "two"]),
    ):  # fmt: skip
        own = open_data("domains", given, **HOW)
        assert list(own.parts) == ["one", "two"]
        assert same(batches(own), batches(theirs))
    assert list(open_data("domains", numbered, **HOW).parts) == ["0", "1"]
    assert list(open_data("domains", Torch(numbered, ["zebra", "ape"]), **HOW).parts) == ["zebra", "ape"]
    assert list(open_data("domains", Torch(numbered[:3], ["x", "y"]), **HOW).parts) == ["x"]


def endless():
    while True:
        yield U8[0]


def broken(kind=RuntimeError):
    def item():
        raise kind("of the caller's own")

    return item


def noisy():
    return RNG.integers(0, 256, (24, 20, 3), np.uint8)


WRONG = [
    ("unpaired", [U8, None], "target must be a collection of pictures, not a NoneType"),
    ("unpaired", [U8, 3], "target must be .*, not an int"),
    ("unpaired", [U8, b"xy"], "target must be .*, not a bytes"),
    ("unpaired", [U8, Image.fromarray(U8[0])], "target must be .*, not an Image"),
    ("unpaired", [U8, []], "target is empty"),
    ("unpaired", [U8, iter([])], "target is empty"),
    ("unpaired", [U8, [*U8, None]], r"item 6 of target is a NoneType: expected one picture"),
    ("unpaired", [[*U8, "cat.jpg"], U8], r"item 6 of source is a str: .*Image.open, or name its folder"),
    ("unpaired", [[list(U8)], U8], r"item 0 of source is a list"),
    ("unpaired", [[{"label": 3}], U8], r"item 0 of source holds 0 pictures \(label\): expected one"),
    ("unpaired", [[{"a": U8[0], "b": U8[1]}], U8], r"item 0 of source holds 2 pictures \(a, b\)"),
    ("unpaired", [U8, [*U8, U8[0] / 127.5 - 1]], "item 6 of target: floats, where others have whole"),
    ("unpaired", [U8, U8 / 255], r"item 0 of target has values in \[0, 1\], as all have: .* range=\(0, 1\)"),
    ("unpaired", [U8, U8 / 1], r"item 0 of target: values in \[0, 255\]: expected \[-1, 1\], or their range"),
    ("unpaired", [U8, U8.astype(np.int64) - 1], r"item \d of target: integers from -1"),
    ("unpaired", [U8, U8.astype(np.float32) * np.nan], "item 0 of target: the picture has values"),
    ("unpaired", [U8, torch.zeros(2, 3, 16, 16, dtype=torch.bool)], "values of type torch.bool"),
    ("unpaired", [U8, torch.zeros(2, 5, 16, 16)], r"item 0 of target: a tensor of shape \(5, 16, 16\)"),
    ("unpaired", [U8, [U8[:2]]], r"item 0 of target: an array of shape \(2, 24, 20, 3\): expected one"),
    ("unpaired", [U8, [Image.new("RGB", (0, 0))]], "item 0 of target: the picture is empty"),
    ("unpaired", [U8, Torch([U8[0], broken()])], "item 1 of target cannot be read: RuntimeError: of"),
    ("unpaired", [U8, Torch([U8[0], broken(TypeError)])], "item 1 of target cannot be read: TypeError"),
    ("unpaired", [U8, (f() if callable(f) else f for f in (U8[0], broken()))], "item 1 of target cannot"),
    ("unpaired", [U8, Torch([noisy])], "item 0 of target is another picture each time it is read"),
    ("unpaired", [U8, endless()], "target has not ended after 348 pictures of 0.0005 GB"),
    ("unpaired", [U8, endless()], "target has not ended after 21 pictures"),
    ("unpaired", U8, r"data must be folders, or \[sources, targets\], not a ndarray"),
    ("unpaired", None, "data must be folders, or"),
    ("unpaired", [U8, U8, U8], "data must be folders, or .*, not a list"),
    ("unpaired", [U8, "https://example.org/x"], "example.org/x"),
    ("pairs", [U8, U8[:5]], "pairs of 6 and 5 pictures"),
    ("pairs", list(U8), "item 0 of data holds 1 picture: expected a source and its target"),
    ("pairs", [(x,) for x in U8], "item 0 of data holds 1 picture: expected a source"),
    ("pairs", [(x, 3) for x in U8], "item 0 of data is an int: expected a source and its target"),
    ("pairs", [{"a": x} for x in U8], r"item 0 of data holds 1 picture \(a\)"),
    ("pairs", Torch([(noisy(), noisy()), lambda: (noisy(), noisy())]), "item 1 of data is another"),
    ("domains", [U8, U8], "item 0 of data has no label: expected {name: pictures or folder}"),
    ("domains", U8, "item 0 of data has no label"),
    ("domains", {"a": U8, "b": {"c": U8}}, "b must be .*, not a dict"),
    ("domains", [(U8[0], 1.5)], "item 0 of data has no label"),
    ("domains", Torch([(U8[0], 0), (U8[1], 2)], ["x", "y"]), "item 1 of data has the label 2: expected"),
    ("domains", {"a/b": U8}, "cannot name a domain"),
    ("domains", {"a": U8, "b": [U8[0][:5]]}, "no image could be read in b: b.0. is 20x5 pixels, smaller"),
]  # fmt: skip


@pytest.mark.parametrize("given", [None, 3, b"x", "", object(), ["https://example.org/a", U8]])
@pytest.mark.parametrize("place", ["data", "validation"])
def test_what_cannot_hold_pictures_is_refused_before_anything_is_read(given, place, tmp_path):
    if place == "validation" and given is None:
        return
    told = {"data": ["nowhere", "here"]} | {place: given}
    with pytest.raises(UserError, match=f"^{place} must be .*, not "):
        train("cyclegan", out=tmp_path / "run", **told)


@pytest.mark.parametrize(("kind", "given", "says"), WRONG, ids=lambda x: x if isinstance(x, str) else "")
def test_what_is_wrong_is_one_line_that_names_the_item(kind, given, says, monkeypatch):
    if "ended" in says:
        monkeypatch.setattr("psutil.virtual_memory", lambda: type("", (), {"available": 10**6})())
    if "ended after 21" in says:
        monkeypatch.setattr(items, "MOST", 20)
    with pytest.raises(UserError, match=says) as caught:
        open_data(kind, given, **HOW)
    assert "\n" not in str(caught.value)


def test_a_folder_and_a_collection_are_no_pairs(wanted):
    with pytest.raises(UserError, match="pairs of a folder and a collection"):
        open_data("pairs", [wanted, U8], **HOW)


def test_splits_of_a_data_set_are_told_from_domains():
    splits = type("DatasetDict", (dict,), {"column_names": {}})(train=Torch(U8), test=Torch(U8))
    with pytest.raises(UserError, match=r"data has the splits train, test: choose one, as data\['train'\]"):
        open_data("domains", splits, **HOW)


def test_what_an_item_raises_is_shown_in_the_traceback():
    with pytest.raises(UserError) as caught:
        open_data("unpaired", [U8, Torch([broken()])], **HOW)
    assert isinstance(caught.value.__cause__, RuntimeError)


def test_small_pictures_are_left_out_and_said():
    given = [*U8, U8[0][:10]]
    with pytest.warns(UserWarning, match=r"source: left out 1 that cannot be used \(source.6. is 20x10"):
        data = open_data("unpaired", [given, U8], **HOW)
    assert len(data.parts["source"]) == 6
    pairs = [(x, U8[0]) for x in given]
    with pytest.warns(UserWarning, match="left out 1"):
        assert len(open_data("pairs", pairs, **HOW)) == 6


def test_large_collections_are_read_when_they_are_needed(monkeypatch):
    monkeypatch.setattr(image_folder, "CACHE_BYTES", 2000)
    read = []

    def item(i):
        return lambda: read.append(i) or U8[i]

    lazy = Torch([item(i) for i in range(6)])
    data = open_data("unpaired", [lazy, U8], **HOW)
    assert sorted(set(read)) == list(range(6))
    read.clear()
    first = batches(data, 3)
    assert set(read) == set(range(6)) - {0, 1}  # which are kept
    assert same(first, batches(open_data("unpaired", [U8, U8], **HOW), 3))
    lazy.items[4] = noisy
    with pytest.raises(UserError, match="item 4 of source is another picture each time"):
        batches(data, 3)
    with pytest.warns(UserWarning, match="left out 1"):
        data = open_data("unpaired", [[U8[0][:5], *U8], U8], **HOW)
    assert torch.equal(data.first(6)[0], data.first(6)[1])


def test_what_yields_one_buffer_again_and_again_is_copied():
    def reused():
        buffer = np.empty_like(U8[0])
        for x in U8:
            buffer[:] = x
            yield buffer

    data = open_data("unpaired", [reused(), U8], **HOW)
    assert torch.equal(data.first(6)[0], data.first(6)[1])


def test_a_run_says_what_it_was_given_and_goes_on_in_python_alone(tmp_path, capsys):
    out, pairs = tmp_path / "run", [(x, 255 - x) for x in U8]
    how = TINY | {"held_out": 0.2}
    train("pix2pix", pairs, out, **how | {"steps": 2})
    run = json.loads((out / "run.json").read_text())
    assert run["folders"] == {"data": "given in Python", "validation": None}
    assert run["data"]["count"] == {"source": 6, "target": 6}
    assert all(len(digest) == 64 for digest in run["data"]["digest"].values())
    assert json.loads((out / "split.json").read_text())["training"]["source"][0] in "012345"
    train("pix2pix", iter(pairs), out, **how, resume=True)
    train("pix2pix", [U8, 255 - U8], tmp_path / "straight", **how)
    for name in ("training.safetensors", "weights.safetensors"):
        assert (out / name).read_bytes() == (tmp_path / "straight" / name).read_bytes()
    with pytest.raises(UserError, match="have changed since it was trained.*other pictures of target"):
        train("pix2pix", [U8, 254 - U8], out, **how, resume=True)
    capsys.readouterr()
    with pytest.raises(SystemExit, match="2"):
        main(["train", "--resume", "--out", str(out), "--steps", "5"])
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "given in Python" in said
    assert f"sfumato.train(method, data, '{out}', resume=True)" in said


def test_domains_of_python_and_folders_go_on(wanted, tmp_path, capsys):
    out = tmp_path / "run"
    how = TINY | {"held_out": 0, "validation": {"b": wanted, "a": U8}}
    with pytest.warns(UserWarning, match=r"of --validation are the training's own, as a\[0\]:"):
        train("diffusion", {"a": U8, "b": wanted}, out, **how)
    run = json.loads((out / "run.json").read_text())
    assert run["folders"]["data"] == {"a": "given in Python", "b": str(wanted)}
    with pytest.raises(SystemExit, match="2"):
        main(["train", "--resume", "--out", str(out), "--steps", "5"])
    assert "given in Python" in capsys.readouterr().err


def test_huggingface_datasets_train(wanted):
    datasets = pytest.importorskip("datasets")
    features = {"image": datasets.Image(), "label": datasets.ClassLabel(names=["one", "two"])}
    rows = {"image": list(map(Image.fromarray, U8)), "label": [0, 0, 0, 1, 1, 1]}
    given = datasets.Dataset.from_dict(rows, features=datasets.Features(features))
    data = open_data("domains", given, **HOW)
    assert {name: len(part) for name, part in data.parts.items()} == {"one": 3, "two": 3}
    theirs = open_data("unpaired", [wanted, twin(wanted)], **HOW)
    for form in (given, given["image"], given.to_iterable_dataset()):
        assert same(batches(open_data("unpaired", [form, form], **HOW)), batches(theirs))
    with pytest.raises(UserError, match="splits train: choose one"):
        open_data("domains", datasets.DatasetDict(train=given), **HOW)


def test_further_pages_of_pictures_are_said_and_not_taken(tmp_path):
    pages = [Image.fromarray(x) for x in U8]
    pages[0].save(tmp_path / "a.tif", save_all=True, append_images=pages[1:])
    stacks = {name: [Image.open(tmp_path / "a.tif") for _ in range(4)] for name in "ab"}
    with pytest.warns(match=r"a: not read whole: 4 that hold several pictures.*0: 6 pictures"):
        train("diffusion", stacks, tmp_path / "run", **TINY)
    with pytest.raises(UserError, match="^pages='all' is of files: give each page .* of its own$"):
        train("diffusion", stacks, tmp_path / "all", **TINY, pages="all")
