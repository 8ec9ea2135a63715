"""Training on every page of stacks."""

import gzip
import json
import re
import time

import numpy as np
import pytest
import tifffile
from PIL import Image

import sfumato
from sfumato.checkup import doctor
from sfumato.core.errors import UserError
from sfumato.data import decode
from sfumato.data.listing import bare, file_of, page_name, stem_of
from sfumato.data.open_data import open_data
from sfumato.data.preparation import Preparation
from sfumato.data.stacks import Pages
from sfumato.data.tiff import read_tiff
from sfumato.evaluation.protocol import Protocol
from sfumato.explore.encode_pictures import encode_pictures
from sfumato.translation.one_picture import OnePicture
from sfumato.translation.pictures import translate

RNG = np.random.default_rng(0)
TINY = {"size": 16, "batch": 2, "steps": 2, "preview_every": 1, "quiet": True, "options": {"net": "tiny"}}


def stack(file, pages, dtype=np.uint8, least=0):
    """A stack of noise, every page of which is another one; its pages (N, 16, 16)."""
    file.parent.mkdir(exist_ok=True, parents=True)
    samples = RNG.integers(least, 200, (pages, 16, 16)).astype(dtype)
    if file.suffix == ".nii":
        header = bytearray(352)
        np.frombuffer(header, "<i2", 8, 40)[:] = [3, 16, 16, pages, 1, 1, 1, 1]
        np.frombuffer(header, "<i2", 2, 70)[:] = [2, 8]
        np.frombuffer(header, "<i4", 1, 0)[:] = 348
        np.frombuffer(header, "<f4", 2, 108)[:] = [352, 1]
        header[344:348] = b"n+1\0"
        file.with_suffix(".nii.gz").write_bytes(gzip.compress(bytes(header) + samples.tobytes()))
    elif pages == 1:
        Image.fromarray(samples[0]).save(file)
    else:
        tifffile.imwrite(file, samples, photometric="minisblack", metadata=None)
    return samples


def spoil(file, page):
    """Makes a page of a TIFF unreadable."""
    with tifffile.TiffFile(file, mode="r+b") as tiff:
        at = tiff.pages[page].tags["StripOffsets"].valueoffset
        tiff.filehandle.seek(at)
        tiff.filehandle.write(b"\xff\xff\xff\x7f")


@pytest.fixture
def pairs(tmp_path):
    """Two stacks and a picture, and their partners."""
    for side in "ab":
        for name, pages in {"one.tif": 3, "sub/two.tif": 12, "three.png": 1}.items():
            stack(tmp_path / side / name, pages)
    return [tmp_path / "a", tmp_path / "b"]


def test_pages_have_names_of_their_own():
    assert page_name("sub/brain.nii.gz", 11) == "sub/brain.nii.gz[12]"
    assert file_of("sub/brain.nii.gz[12]") == "sub/brain.nii.gz"
    assert (bare("brain.nii.gz[12]"), stem_of("x[3].tif[1]")) == ("brain[12]", "x[3][1]")
    for name in ("x[3].tif", "x[3]", "a.b[3]"):
        assert file_of(name) == name
    assert stem_of("x[3].tif") == "x[3]"


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_every_page_is_a_picture(dtype, tmp_path):
    pytest.importorskip("nibabel")
    samples = [stack(tmp_path / "in/x.tif", 30, dtype), stack(tmp_path / "in/y.nii", 12)]
    stack(tmp_path / "in/z.png", 1)
    found = Pages(tmp_path / "in", Preparation(channels=1))
    assert found.file_names == [
        *(f"x.tif[{i + 1}]" for i in range(30)),
        *(f"y.nii.gz[{i + 1}]" for i in range(12)),
        "z.png",
    ]
    assert found.names[0] == "x[1]"
    found = found.decoded()
    top = np.iinfo(dtype).max
    for i, page in enumerate(samples[0]):
        assert np.allclose((found.read(i).image[0] + 1) * top / 2, page, atol=0.01)
    assert np.allclose((found.read(35).image[0] + 1) * 127.5, samples[1][5], atol=0.01)
    assert found.subset([31]).file_names == ["y.nii.gz[2]"]
    assert len(set(found.hashes)) == 3
    assert found.digest != found.subset(range(1, 43)).digest


def test_threads_read_further_pages_one_after_the_other(tmp_path, monkeypatch):
    samples = stack(tmp_path / "x.tif", 12, np.uint16)
    inside, most = [], []

    def read(data, ranged, bands, page):
        inside.append(page)
        time.sleep(0.002)
        most.append(len([one for one in inside if one]))
        inside.remove(page)
        return read_tiff(data, ranged, bands, page)

    monkeypatch.setattr(decode, "read_tiff", read)
    monkeypatch.setattr(Pages, "threads", 4)
    images = Pages(tmp_path, Preparation(channels=1)).decoded().get(range(12))[:, 0].numpy()
    assert np.allclose((images + 1) * 65535 / 2, samples, atol=0.02)
    assert max(most) == 1  # they have one reader


def test_pages_are_paired_by_their_numbers(pairs):
    found = open_data("pairs", pairs, size=16, pages="all")
    assert len(found) == 16
    one, two = (part.file_names for part in found.parts.values())
    assert one == two
    assert (one[0], one[-1], one[-2]) == ("one.tif[1]", "three.png", "sub/two.tif[12]")
    page = Preparation(page=1).read(pairs[1] / "one.tif").image
    assert np.array_equal(found.target.read(one.index("one.tif[2]")).image, page)
    first = open_data("pairs", pairs, size=16)
    assert first.source.file_names == ["one.tif", "sub/two.tif", "three.png"]
    assert first.source.left_out[pairs[0]]["that hold several pictures, of which the first is read"]


def test_stacks_of_other_lengths_are_no_partners(pairs):
    stack(pairs[1] / "one.tif", 5)
    with pytest.raises(UserError, match=r"^one has 3 pages in .*a and 5 in .*b: expected as many") as said:
        open_data("pairs", pairs, size=16, pages="all")
    assert "\n" not in str(said.value)
    stack(pairs[1] / "one.tif", 1)
    with pytest.raises(UserError, match=r"^one has 3 pages in .*a and 1 in .*b"):
        open_data("pairs", pairs, size=16, pages="all")
    open_data("pairs", pairs, size=16)


def test_a_broken_page_is_left_out_with_its_partner(pairs, tmp_path):
    spoil(pairs[0] / "one.tif", 1)
    with pytest.warns(UserWarning, match=r"left out 1 that cannot be used \(.*one.tif\[2\] is broken"):
        found = open_data("pairs", pairs, size=16, pages="all")
    assert found.source.file_names == found.target.file_names
    assert found.source.file_names[:2] == ["one.tif[1]", "one.tif[3]"]
    found.split(0.4)  # which makes pairs of them once more
    with pytest.raises(UserError, match=r"1 of 16 images cannot be used: .*one.tif\[2\]"):
        open_data("pairs", pairs, size=16, pages="all", strict=True)
    (pairs[0] / "one.tif").write_bytes(b"II*\0")
    with pytest.warns(UserWarning, match=r"left out 1 that cannot be used \(.*one.tif is"):
        found = open_data("pairs", pairs, size=16, pages="all")
    assert found.target.file_names[0] == "sub/two.tif[1]"
    (tmp_path / "list").write_text("one.tif\n")  # of which nothing is left
    assert len(open_data("pairs", pairs, size=16, pages="all", strict=True, without=tmp_path / "list")) == 13


def test_a_name_without_a_partner_is_missed_still(tmp_path):
    stack(tmp_path / "a/x[3].png", 1)
    stack(tmp_path / "a/y.png", 1)
    stack(tmp_path / "b/y.png", 1)
    (tmp_path / "b/x.png").write_bytes(b"broken")
    with pytest.raises(UserError, match=r"b lacks x\[3\]"), pytest.warns(UserWarning, match="left out 1"):
        open_data("pairs", [tmp_path / "a", tmp_path / "b"], size=16, pages="all")


def test_files_are_held_out_whole(tmp_path):
    for side in "ab":
        for i in range(6):
            stack(tmp_path / side / f"{i}.tif", 2 + i)
    folders = [tmp_path / "a", tmp_path / "b"]
    for kind in ("pairs", "unpaired"):
        found = open_data(kind, folders, size=16, pages="all")
        for seed in range(5):
            train, held = (
                {file_of(name) for name in part.names()["source"]} for part in found.split(0.3, seed)
            )
            assert len(held) == 2
            assert not train & held
    (tmp_path / "a/0.tif").rename(tmp_path / "0.tif")
    (tmp_path / "list").write_text("".join(f"{i}.tif\n" for i in range(1, 6)))
    one = open_data("domains", {"x": tmp_path / "b"}, size=16, pages="all", without=tmp_path / "list")
    with pytest.raises(UserError, match=r"'x', which has 2 pages of 1 file, held out whole: use .* or 0$"):
        one.split(0.05)


@pytest.mark.parametrize("absolute", [False, True])
def test_lists_leave_out_stacks_and_pages(absolute, tmp_path):
    for side in "ab":
        stack(tmp_path / side / "x.tif", 3)
        stack(tmp_path / side / "y.tif", 3)
    folders = [tmp_path / "a", tmp_path / "b"]
    root, there = (f"{tmp_path}/a/" if absolute else ""), tmp_path / "list"
    told = {"size": 16, "pages": "all", "without": there}
    for kind in ("pairs", "unpaired") if absolute else ("pairs",):
        there.write_text(f"{root}x.tif\n{root}y.tif[2]\n")
        left = open_data(kind, folders, **told)
        assert left.parts["source"].file_names == ["y.tif[1]", "y.tif[3]"]
        assert len(left.parts["target"]) == (2 if kind == "pairs" else 6)
    there.write_text("y.tif[4]\n")
    with pytest.raises(UserError, match=r"lists 'y.tif\[4\]', and there is no such picture"):
        open_data("pairs", folders, **told)
    there.write_text("y.tif\n")
    with pytest.raises(UserError, match="which is in source and target: give its path"):
        open_data("unpaired", folders, **told)


def test_pages_that_are_left_out_are_not_measured(tmp_path):
    row = np.arange(20, dtype=np.int16)
    pages = np.stack([np.tile(row + value, (20, 1)) for value in (0, 900)])
    (tmp_path / "a").mkdir()
    tifffile.imwrite(tmp_path / "a/x.tif", pages, photometric="minisblack", metadata=None)
    (tmp_path / "list").write_text("x.tif[2]\n")
    told = {"size": 16, "pages": "all", "range": "auto", "channels": 1, "without": tmp_path / "list"}
    assert open_data("domains", {"a": tmp_path / "a"}, **told).preparation.range == (0, 19)


def test_ranges_are_those_of_all_pages(tmp_path):
    samples = stack(tmp_path / "a/x.tif", 4, np.int16, -50)
    stack(tmp_path / "b/x.tif", 4, np.int16)
    spoil(tmp_path / "a/x.tif", 1)
    folders, told = [tmp_path / "a", tmp_path / "b"], {"size": 16, "range": "auto", "channels": 1}
    with pytest.warns(UserWarning, match="left out 1"):
        how = open_data("pairs", folders, pages="all", **told).preparation
    sound = samples[[0, 2, 3]]
    assert how.range == (sound.min(), sound.max())
    with pytest.warns(UserWarning, match="the first is read"):
        how = open_data("pairs", folders, **told).preparation
    assert how.range == (samples[0].min(), samples[0].max())


@pytest.mark.parametrize("method", ["pix2pix", "diffusion"])
def test_a_training_on_pages(method, tmp_path):
    for side in "ab":
        for i in range(3):
            stack(tmp_path / side / f"{i}.tif", 4)
    folders, run = [tmp_path / "a", tmp_path / "b"], tmp_path / "run"
    if method == "diffusion":
        folders = dict(zip("xy", folders, strict=True))
    trained = sfumato.train(method, folders, run, pages="all", held_out=0.3, **TINY)
    assert trained.preparation.page is None
    split = json.loads((run / "split.json").read_text())
    for names in split["held_out"].values():
        assert [name[-3:] for name in names] == ["[1]", "[2]", "[3]", "[4]"]
        assert len({file_of(name) for name in names}) == 1
    said = json.loads((run / "run.json").read_text())
    assert said["settings"]["pages"] == "all"
    assert set(said["data"]["count"].values()) == {12}
    again = TINY | {"steps": 3, "resume": True}
    with pytest.raises(UserError, match="was trained with pages all, not first: sfumato train --resume"):
        sfumato.train(method, folders, run, pages="first", **again)
    sfumato.train(method, folders, run, **again)  # as it began
    assert json.loads((run / "split.json").read_text()) == split
    stack(tmp_path / "a/0.tif", 4)
    with pytest.raises(UserError, match="the pictures of .* have changed since"):
        sfumato.train(method, folders, run, **again)
    if method == "pix2pix":
        for pages, n in (("all", 4), ("first", 1)):
            translate(tmp_path / "a", tmp_path / pages, model=run, pages=pages, format="tiff")
            with tifffile.TiffFile(tmp_path / pages / "1.tif") as made:
                assert len(made.pages) == n


def test_a_run_of_before_is_of_first_pages(tmp_path):
    for side in "ab":
        stack(tmp_path / side / "0.tif", 4)
    folders, run = [tmp_path / "a", tmp_path / "b"], tmp_path / "run"
    with pytest.warns(UserWarning, match="the first is read"):
        sfumato.train("pix2pix", folders, run, held_out=0, **TINY)
    said = json.loads((run / "run.json").read_text())
    del said["settings"]["pages"]
    (run / "run.json").write_text(json.dumps(said))
    again = TINY | {"steps": 3, "resume": True}
    with pytest.raises(UserError, match="was trained with pages first, not all"):
        sfumato.train("pix2pix", folders, run, pages="all", **again)
    with pytest.warns(UserWarning, match="the first is read"):
        sfumato.train("pix2pix", folders, run, **again)


def test_more_pages_than_are_counted_are_refused(tmp_path):
    tifffile.imwrite(tmp_path / "x.tif", np.zeros((1001, 4, 4), np.uint8), photometric="minisblack")
    with pytest.raises(UserError, match=r"x.tif holds 1,000 pages or more: split it"):
        Pages([tmp_path / "x.tif"])


def test_the_doctor_looks_at_every_page(tmp_path):
    for side in "ab":
        for i in range(2):
            coarse = RNG.integers(0, 255, (12, 4, 4)).astype(np.uint8)
            pages = coarse.repeat(8, 1).repeat(8, 2)
            pages[1] = pages[0]  # neighbours that are alike
            pages[2] = np.minimum(pages[0], 254) + 1
            (tmp_path / side).mkdir(exist_ok=True)
            tifffile.imwrite(tmp_path / side / f"{i}.tif", pages, photometric="minisblack", metadata=None)
    found = doctor(tmp_path / "a", tmp_path / "b", pages="all", measure=False)
    assert [splits["train"]["count"] for splits in found.domains.values()] == [24, 24]
    assert "copies" not in {one.kind for one in found.findings}
    assert "--pages all" in found.plan.commands[0]
    listed = tmp_path / "list.txt"
    (tmp_path / "a/again.tif").write_bytes((tmp_path / "a/0.tif").read_bytes())
    found = doctor(tmp_path / "a", tmp_path / "b", pages="all", measure=False, write_list=listed)
    (copies,) = (one for one in found.findings if one.kind == "copies")
    assert "[12]" in copies.named[-1] + copies.named[-2]
    data = open_data("unpaired", [tmp_path / "a", tmp_path / "b"], size=16, pages="all", without=listed)
    assert len(data.parts["source"]) == 24
    assert "--pages" not in doctor(tmp_path / "a", tmp_path / "b", measure=False).plan.commands[0]


def test_what_is_read_in_part_is_said_by_every_command(tmp_path):
    """Stacks of which the first page is read: results that are scored, latents, what rates are asked of."""
    rng = np.random.default_rng(0)
    for folder in ("a", "b", "made"):
        (tmp_path / folder).mkdir()
        for i in range(2):
            pages = rng.integers(0, 255, (3, 16, 16, 3)).astype(np.uint8)
            tifffile.imwrite(tmp_path / folder / f"{i}.tif", pages, photometric="rgb")
    a, b, made = (str(tmp_path / n) for n in ("a", "b", "made"))
    first = r"not read whole: 2 that hold several pictures, of which the first is read \(0.tif: 3 pictures"
    l2 = Protocol("l2", "", metrics=("l2",))
    notes = sfumato.evaluate(made, a, target=b, out=tmp_path / "scores", protocol=l2).notes
    for folder in (a, b, made):
        assert sum(bool(re.search(f"{folder}: {first}", note)) for note in notes) == 1
    model = {"target": sfumato.find("diffusion")(net="tiny", domains=("x",))}
    sfumato.save(model["target"], tmp_path / "model", info={"size": 16})
    with pytest.warns(UserWarning, match=first):
        encode_pictures([a], f"{tmp_path}/model:x", steps=2)
    with pytest.warns(UserWarning, match="0.tif: 3 pictures"):
        OnePicture.read(f"{a}/0.tif", method="sdedit", target=f"{tmp_path}/model:x")
    with pytest.warns(UserWarning, match=first):
        sfumato.study(a, made, b, tmp_path / "study")
