"""The one reader of folders: nothing vanishes without a word, nothing is read twice, layouts are known."""

import os
import unicodedata
import warnings

import numpy as np
import pytest
from PIL import Image

import sfumato
from sfumato.core.errors import UserError
from sfumato.core.terminal import count
from sfumato.data import find_images, layout, list_pictures, open_data, open_images, open_pairs
from sfumato.data.listing import HIDDEN, IN_PART, natural, said
from sfumato.training.train import train
from sfumato.translation import plan, results
from sfumato.translation.pictures import translate

QUICK = {
    "steps": 1,
    "batch": 2,
    "held_out": 0.0,
    "quiet": True,
    "preview_every": 0,
    "device": "cpu",
}
NEW = {"options": {"net": "tiny"}, "size": 16}
BACK = {"method": "sdedit", "options": {"strength": 0.0}}


def paint(path, value=0, size=(16, 16), **how):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(value).integers(0, 256, (*size, 3), np.uint8)
    Image.fromarray(pixels).save(path, **how)
    return path


def names(folder):
    return [p.relative_to(folder).as_posix() for p in find_images(folder)]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    root = tmp_path_factory.mktemp("listing")
    sfumato.save(
        sfumato.find("diffusion")(net="tiny", domains=("a",)), root / "m", info={"size": 16}
    )
    return f"{root}/m:a"


# ---- what is left out is counted and named -------------------------------------------------------


def untidy(root):
    """A folder with everything that people have in folders of pictures."""
    for name in ("1.png", "2.JPG", "3.jfif", "4.gif", "sub/5.webp"):
        paint(root / name, format={".jfif": "JPEG"}.get(os.path.splitext(name)[1]))
    for name in (
        "6.heic",
        "7.tga",
        "._8.jpg",
        "notes.txt",
        ".hidden/9.png",
        ".DS_Store",
        "sub/10.txt",
    ):
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_bytes(b"x")
    (root / "11.png").symlink_to(root / "nowhere.png")
    (root / "sub/loop").symlink_to(root, target_is_directory=True)
    paint(root / "results/12.png")
    (root / "results/run.json").write_text("{}")
    return root


def test_everything_left_out_is_counted_and_named(tmp_path):
    found = list_pictures(untidy(tmp_path))
    assert [p.name for p in found.files] == ["1.png", "2.JPG", "3.jfif", "4.gif", "5.webp"]
    assert found.left_out == {
        "of a kind that is not read": ["6.heic", "7.tga"],
        "hidden": ["._8.jpg", ".hidden/"],
        "links to nowhere, or to what is read already": ["11.png", "sub/loop/"],
        "folders made by sfumato": ["results/"],
        "other files": ["notes.txt", "sub/10.txt"],
    }
    assert said(found.root, found.left_out).startswith(f"{tmp_path}: left out ")
    for words in (
        "2 of a kind that is not read (6.heic, 7.tga)",
        "2 other files (.txt 2)",
        "sub/loop/",
    ):
        assert words in said(found.root, found.left_out)


def test_one_is_said_as_one():
    reasons = ("links to nowhere", "folders made by sfumato", "folders without pictures", "hidden")
    left = {why: ["x"] for why in reasons} | {"other files": ["a.txt"]}
    assert said("", left) == (
        "left out 1 link to nowhere (x); 1 folder made by sfumato (x); 1 folder without pictures (x); "
        "1 hidden (x); 1 other file (.txt 1)"
    )
    assert count(1, "step") == count(1.0, "step") == "1 step"
    assert (count(0.5, "minute"), count(2500, "step")) == ("0.5 minutes", "2,500 steps")


def test_what_is_read_in_part_is_not_said_to_be_left_out():
    left = {IN_PART["colour"]: ["a.png"], "hidden": [".b"], IN_PART["range"]: ["c.tif: 2% below 0"]}
    assert said("p", left) == (
        "p: left out 1 hidden (.b); not read whole: 1 that are in colour, which a model of one channel does "
        "not see (a.png); 1 that hold values outside of the stated range, which become its ends "
        "(c.tif: 2% below 0)"
    )
    assert said("", {IN_PART["colour"]: ["a.png"]}).startswith("not read whole: 1 that are in colour")


@pytest.mark.parametrize("act", ["train", "translate", "encode"])
def test_every_command_says_what_it_leaves_out(tmp_path, act, model):
    from sfumato.explore.encode_pictures import encode_pictures

    root = untidy(tmp_path / "in")
    acts = {
        "train": lambda: train("diffusion", {"a": root}, tmp_path / "run", **NEW, **QUICK),
        "translate": lambda: translate(root, tmp_path / "out", target=model, **BACK),
        "encode": lambda: encode_pictures(root, model, steps=1),
    }  # fmt: skip
    with pytest.warns(UserWarning, match=r"in: left out .*6\.heic"):
        done = acts[act]()
    if act != "train":
        assert len(done.names if act == "encode" else list((tmp_path / "out").rglob("*.png"))) == 5


@pytest.mark.parametrize("act", ["train", "translate"])
def test_strict_refuses_what_would_be_left_out(tmp_path, act, model):
    paint(tmp_path / "in/1.png")
    (tmp_path / "in/notes.txt").write_text("no picture")

    def run(out):
        if act == "translate":
            return translate(tmp_path / "in", tmp_path / out, target=model, strict=True, **BACK)
        how = QUICK | {"strict": True}
        return train(
            "diffusion",
            {"a": tmp_path / "in"},
            tmp_path / out,
            options={"net": "tiny"},
            size=16,
            **how,
        )

    with pytest.warns(UserWarning, match="other file"):
        run("fine")
    (tmp_path / "in/2.heic").write_bytes(b"x")
    with pytest.raises(UserError, match=r"left out 1 of a kind that is not read \(2\.heic\)"):
        run("refused")
    assert not (tmp_path / "refused").exists()


def test_pictures_that_are_not_read_whole_are_named(tmp_path, model):
    frames = [Image.new("RGB", (16, 16), c) for c in ("red", "green", "blue")]
    (tmp_path / "in").mkdir()
    frames[0].save(tmp_path / "in/film.gif", save_all=True, append_images=frames[1:])
    frames[0].save(tmp_path / "in/pages.tif", save_all=True, append_images=frames[1:])
    done = translate(tmp_path / "in", tmp_path / "out", target=model, **BACK)
    assert done.written == 2
    ((why, some),) = done.lost.items()
    assert why == "that hold several pictures, of which the first is read"
    assert all("3 pictures" in one for one in some)
    with pytest.warns(UserWarning, match=r"2 that hold several pictures.*film\.gif: 3 pictures"):
        open_images(tmp_path / "in", 16)
    with pytest.raises(UserError, match="hold several pictures"):
        open_images(tmp_path / "in", 16, strict=True)


def test_a_list_of_nothing_but_other_kinds_says_so(tmp_path):
    (tmp_path / "a.heic").write_bytes(b"x")
    with pytest.raises(UserError, match=r"holds no images: .*left out 1 of a kind .*a\.heic"):
        find_images(tmp_path)


# ---- links, names --------------------------------------------------------------------------------


def test_linked_folders_are_read_and_loops_end(tmp_path):
    paint(tmp_path / "far/1.png")
    paint(tmp_path / "in/b/2.png")
    (tmp_path / "in/a").symlink_to(tmp_path / "far", target_is_directory=True)
    (tmp_path / "in/b/up").symlink_to(tmp_path / "in", target_is_directory=True)
    (tmp_path / "in/0_again").symlink_to(tmp_path / "in/b", target_is_directory=True)
    assert names(tmp_path / "in") == ["a/1.png", "b/2.png"]  # each by its own name, once


def test_names_of_any_bytes_are_translated(tmp_path, model):
    folder = tmp_path / "in"
    paint(folder / "x.png")
    name = os.fsdecode(b"caf\xe9.png")  # Latin-1, no UTF-8
    (folder / "x.png").rename(folder / name)
    paint(folder / ("n" * 248 + ".png"))  # 252 characters
    paint(folder / "a\x1b[31m\nb.png")
    done = translate(folder, tmp_path / "out", target=model, **BACK)
    assert (done.written, done.skipped) == (3, {})
    assert sorted(os.listdir(folder)) == sorted(set(os.listdir(tmp_path / "out")) - {"run.json"})
    assert translate(folder, tmp_path / "out", target=model, **BACK).kept == 3
    train("diffusion", {"a": folder}, tmp_path / "run", options={"net": "tiny"}, size=16, **QUICK)


def test_pairs_match_however_accents_are_stored(tmp_path):
    for folder, form in (("a", "NFC"), ("b", "NFD")):
        paint(tmp_path / folder / (unicodedata.normalize(form, "é1") + ".png"))
    assert len(open_pairs(tmp_path / "a", tmp_path / "b", 16).source) == 1


# ---- layouts -------------------------------------------------------------------------------------

LAYOUTS = {
    "trainA": ["trainA", "trainB", "testA", "testB"],
    "train/A": ["train/A", "train/B", "test/A", "test/B"],
    "A/train": ["A/train", "B/train", "A/test", "B/test"],
    "A": ["A", "B"],
}


@pytest.mark.parametrize("name", LAYOUTS)
@pytest.mark.parametrize("kind", ["domains", "unpaired", "pairs"])
def test_test_pictures_never_train(tmp_path, name, kind):
    for i, part in enumerate(LAYOUTS[name]):
        for n in range(2 + i):
            paint(tmp_path / part / f"{n}.png", 10 * i + n)
    if kind == "pairs":
        for part in LAYOUTS[name][1::2]:  # as many as on the other side
            (tmp_path / part / f"{len(os.listdir(tmp_path / part)) - 1}.png").unlink()
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        data = open_data(kind, tmp_path, size=16)
    roots = [part.folder.relative_to(tmp_path).as_posix() for part in data.parts.values()]
    assert roots == LAYOUTS[name][:2]
    if kind == "domains":
        assert list(data.parts) == ["A", "B"]
    told = [str(w.message) for w in said if "not on" in str(w.message)]
    assert len(told) == (0 if name == "A" else 2)


@pytest.mark.parametrize(
    "places", [["testA", "testB"], ["val", "test"], ["test/a", "test/b"], ["a/test", "b/test"]]
)
def test_test_pictures_alone_never_train_unless_they_are_named(tmp_path, places):
    for place in places:
        paint(tmp_path / place / "1.png")
    for kind in ("domains", "unpaired"):
        with pytest.raises(UserError, match="holds test pictures and there are none to train on"):
            open_data(kind, tmp_path, size=16)
    assert list(open_data("domains", {"a": tmp_path / places[0]}, size=16).parts) == ["a"]


def test_splits_inside_a_named_domain_are_known(tmp_path):
    for place in ("cat/train/1.png", "cat/test/2.png", "dog/3.png"):
        paint(tmp_path / place)
    with pytest.warns(UserWarning, match="cat: trained on .*cat/train; not on .*cat/test"):
        data = open_data("domains", {"cat": tmp_path / "cat", "dog": tmp_path / "dog"}, size=16)
    assert [part.file_names for part in data.parts.values()] == [["1.png"], ["3.png"]]


@pytest.mark.parametrize("name", ["trainA", "A/train"])
def test_a_named_domain_of_several_domains_is_refused(tmp_path, name):
    """Test pictures would be among its pictures."""
    for place in (*LAYOUTS[name], "../other"):
        paint(tmp_path / "cg" / place / "1.png")
    first = tmp_path / "cg" / LAYOUTS[name][0]
    data = {"a": tmp_path / "cg", "b": tmp_path / "other"}
    for given in (data, list(data.values())):
        with pytest.raises(UserError, match=f"cg is not one domain, .* such as {first}$"):
            open_data("domains", given, size=16)
    assert list(open_data("domains", data | {"a": first}, size=16).parts) == ["a", "b"]


def test_a_named_domain_without_its_folder_is_one_line(tmp_path):
    paint(tmp_path / "b/1.png")
    with pytest.raises(UserError, match="a does not exist: expected a folder of pictures"):
        open_data("domains", {"a": tmp_path / "a", "b": tmp_path / "b"}, size=16)


def test_a_domain_of_plain_subfolders_is_one(tmp_path):
    for place in ("cat/persian/1.png", "cat/siamese/1.png", "dog/1.png"):
        paint(tmp_path / place)
    data = open_data("domains", {"cat": tmp_path / "cat", "dog": tmp_path / "dog"}, size=16)
    assert data.parts["cat"].file_names == ["persian/1.png", "siamese/1.png"]


def test_folders_that_are_no_domains_are_named(tmp_path):
    for place in ("planes/1.png", "trains/1.png", ".old/1.png", "__MACOSX/1.png", "run/1.png"):
        paint(tmp_path / place)
    (tmp_path / "run/model.json").write_text("{}")
    (tmp_path / "empty").mkdir()
    with pytest.warns(UserWarning, match="left out") as said:
        data = open_data("domains", tmp_path, size=16)
    assert list(data.parts) == ["planes", "trains"]
    (line,) = [str(w.message) for w in said]
    for part in ("2 hidden (.old/, __MACOSX/)", "without pictures (empty/)", "made by sfumato (run/)"):
        assert part in line


def test_folders_beside_splits_are_named(tmp_path):
    for place in ("trainA/1.png", "trainB/1.png", "more/1.png"):
        paint(tmp_path / place)
    with pytest.warns(UserWarning, match=r"left out 1 of no domain \(more/\)"):
        open_data("domains", tmp_path, size=16)


def test_folders_of_systems_are_hidden_ones_and_their_files_nothing(tmp_path):
    for place in ("1.png", "__MACOSX/1.png", "a/__macosx/b/1.png", "@eaDir/1.png"):
        paint(tmp_path / place)
    for name in (".DS_Store", "Thumbs.db", "a/desktop.ini"):
        (tmp_path / name).touch()
    listing = list_pictures(tmp_path)
    assert listing.files == [tmp_path / "1.png"]
    assert listing.left_out == {HIDDEN: ["@eaDir/", "__MACOSX/", "a/__macosx/"]}


def test_dicoms_without_endings_are_to_be_named(tmp_path):
    (tmp_path / "IM0001").write_bytes(bytes(128) + b"DICM")
    with pytest.raises(UserError, match=r"no images: .*; DICOMs without endings are read where"):
        list_pictures(tmp_path)


def test_pictures_that_hold_no_pair_are_counted(tmp_path):
    for n in range(9):
        paint(tmp_path / f"{n}.png")
    with pytest.raises(UserError, match="not two pictures side by side.*; and 6 more") as error:
        open_data("pairs", tmp_path, side_by_side=True, size=16)
    assert "sfumato train without --side-by-side" in str(error.value)


def test_pictures_beside_folders_of_pictures_are_not_dropped(tmp_path):
    for place in ("cat/1.png", "dog/2.png", "3.png"):
        paint(tmp_path / place)
    with pytest.raises(
        UserError, match="holds pictures beside the folders cat, dog: name the domains"
    ):
        layout(tmp_path)


def test_a_run_never_learns_what_sfumato_made(tmp_path):
    for place in ("cat/1.png", "dog/2.png", "runs/pets/previews/3.png"):
        paint(tmp_path / place)
    (tmp_path / "runs/pets/model.json").write_text("{}")
    assert list(layout(tmp_path)) == ["cat", "dog"]


def test_a_run_inside_of_its_data_is_refused(tmp_path):
    paint(tmp_path / "cat/1.png")
    paint(tmp_path / "dog/1.png")
    for data in (tmp_path, {"cat": tmp_path / "cat"}, [tmp_path / "dog"]):
        out = (tmp_path / "dog" if isinstance(data, list) else tmp_path / "cat") / "runs/x"
        with pytest.raises(UserError, match="lies inside .*: choose another --out"):
            train("diffusion", data, out, options={"net": "tiny"}, size=16, **QUICK)
        assert not out.exists()


def test_folders_in_each_other_are_no_two_domains(tmp_path):
    paint(tmp_path / "a/1.png")
    paint(tmp_path / "a/b/2.png")
    with pytest.raises(UserError, match="lies in"):
        layout(tmp_path / "a", tmp_path / "a/b")


def test_a_folder_may_be_named_as_a_picture_without_its_number(tmp_path):
    for name in ("IMG1.png", "IMG/1.png", "IMG/IMG.png", "IMG/IMG1.png"):
        paint(tmp_path / name)
    (tmp_path / "IMG2.txt").write_text("x")
    read = [file.relative_to(tmp_path).as_posix() for file in list_pictures(tmp_path).files]
    assert read == ["IMG/1.png", "IMG/IMG1.png", "IMG/IMG.png", "IMG1.png"]
    assert sorted(["a1", "a", "A", "a10", "a2b"], key=natural) == ["A", "a", "a1", "a2b", "a10"]


# ---- one bad picture among many ------------------------------------------------------------------


def test_one_bad_picture_never_ends_a_run(tmp_path, model):
    for i in range(5):
        paint(tmp_path / f"in/{i}.png", i)
    paint(tmp_path / "in/odd.png", 0, (12, 22))
    (tmp_path / "in/broken.png").write_bytes(b"x")
    how = {
        "method": "sdedit",
        "options": {"steps": 1},
        "size": 16,
        "target": model,
        "batch": 3,
    }
    done = translate(tmp_path / "in", tmp_path / "out", **how)
    assert done.written == 5
    assert {os.path.basename(name): why for name, why in done.skipped.items()}.keys() == {
        "odd.png",
        "broken.png",
    }
    assert "smaller than" in next(why for name, why in done.skipped.items() if "odd" in name)
    again = translate(tmp_path / "in", tmp_path / "out", **how)
    assert (again.kept, len(again.skipped)) == (5, 2)


def test_pipes_and_devices_are_not_waited_for(tmp_path, model):
    os.mkfifo(tmp_path / "x.png")
    for path in (tmp_path / "x.png", "/dev/zero"):
        with pytest.raises(UserError, match="is not a file"):
            translate(path, tmp_path / "out", target=model, **BACK)
    paint(tmp_path / "in/0.png")
    masked = BACK | {"options": {"steps": 1, "mask": str(tmp_path / "x.png")}}
    with pytest.raises(UserError, match="is not a file"):
        translate(tmp_path / "in", tmp_path / "out", target=model, **masked)


def test_a_result_without_numbers_or_without_a_file_is_named(tmp_path, model, monkeypatch):
    for i in range(4):
        paint(tmp_path / f"in/{i}.png", i)
    real = plan.run_translator

    def spoilt(part, x, **how):
        y, nfe = real(part, x, **how)
        y[1:2] = float("nan")
        return y, nfe

    write = results.write_samples

    def refusing(path, *given, **how):
        if path.name == "2.png":
            raise OSError(36, "File name too long", str(path))
        write(path, *given, **how)

    monkeypatch.setattr(plan, "run_translator", spoilt)
    monkeypatch.setattr(results, "write_samples", refusing)
    done = translate(tmp_path / "in", tmp_path / "out", target=model, **BACK)
    assert done.written == 2
    whys = {os.path.basename(name): why for name, why in done.skipped.items()}
    assert "not numbers" in whys["1.png"]
    assert "too long" in whys["2.png"]


def test_a_folder_whose_files_may_not_be_reached_is_named_and_the_rest_read(tmp_path, monkeypatch):
    paint(tmp_path / "a.png")
    paint(tmp_path / "closed" / "b.png")
    real = os.stat

    def refusing(path, *args, **how):
        if isinstance(path, (str, os.PathLike)) and os.path.dirname(path) == str(tmp_path / "closed"):
            raise PermissionError(13, "Permission denied", str(path))
        return real(path, *args, **how)

    monkeypatch.setattr(os, "stat", refusing)
    found = list_pictures(tmp_path)
    assert names(tmp_path) == ["a.png"]
    assert found.left_out == {"that may not be opened": ["closed/b.png"]}


@pytest.mark.parametrize("mark", ["model.json", "training.safetensors"])
def test_the_folder_of_a_training_is_no_folder_of_pictures(tmp_path, mark):
    """Its loss.png and its previews would be data."""
    Image.new("RGB", (8, 8)).save(tmp_path / "loss.png")
    (tmp_path / mark).touch()
    with pytest.raises(UserError, match="is the folder of a training or a model, and no folder of pictures"):
        list_pictures(tmp_path)
