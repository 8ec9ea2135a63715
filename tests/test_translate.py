"""Folders of pictures to folders of pictures: names, restarts, kills, repeats, bad input."""

import hashlib
import inspect
import io
import json
import math
import os
import random
import re
import resource
import shutil
import signal
import warnings
from collections import Counter
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import torch
from kills import die, ended, moments
from PIL import Image

import sfumato
from sfumato.checkpoints import tensors
from sfumato.checkpoints.model_folder import resolve
from sfumato.core.errors import UserError
from sfumato.data import ImageFolder, open_images
from sfumato.data.hashing import sha256
from sfumato.explore import encode_pictures
from sfumato.methods.outline import names
from sfumato.methods.registry import find
from sfumato.translation.pictures import repeat, translate
from sfumato.translation.translator import options_of, run_translator, translator

module = import_module("sfumato.translation.plan")
DDIB = {"method": "ddib", "options": {"steps": 4}}
PLACES = ["a/1.png", "a/deep/2.jpg", "a/deep/3.tif", "b/1.webp", "4.bmp", "10.png", "9.png"]


def picture(path: Path, seed: int, mode: str = "RGB", side: int = 20) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    coarse = np.random.default_rng(seed).integers(0, 256, (3, 3, 3), dtype=np.uint8)
    Image.fromarray(coarse).resize((side + 4, side)).convert(mode).save(path)
    return path


def model(folder: Path, channels: int = 3, size: int | None = 16, kind: str = "diffusion") -> Path:
    torch.manual_seed(0)
    own = {"domains": ("cat", "dog")} if kind == "diffusion" else {}
    part = sfumato.find(kind)(net="tiny", channels=channels, **own)
    with torch.no_grad():
        for p in part.parameters():  # new networks answer zero
            p += 0.03 * torch.randn_like(p)
    sfumato.save(part, folder, info={"size": size} if size else {})
    return folder


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("translate")
    model(root / "model")
    model(root / "gray", channels=1)
    model(root / "pairs", kind="paired_sde")
    for i, place in enumerate(PLACES):
        picture(root / "pictures" / place, i)
    return root


@pytest.fixture(scope="module")
def ends(root):
    return {"source": f"{root}/model:cat", "target": f"{root}/model:dog"}


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*.png"))}


def pixels(folder: Path) -> np.ndarray:
    files = sorted(folder.rglob("*.png"))
    return np.stack([np.asarray(Image.open(f)) for f in files]).astype(int)


def test_tree_and_names_are_kept(root, ends, tmp_path):
    summary = translate(root / "pictures", tmp_path / "out", **DDIB, **ends)
    wanted = sorted(str(Path(p).with_suffix(".png")) for p in PLACES)
    assert sorted(contents(tmp_path / "out")) == wanted
    assert pixels(tmp_path / "out").shape == (7, 16, 19, 3)  # of 24x20, whole
    assert (summary.written, summary.kept, summary.skipped) == (7, 0, {})


def test_run_json_says_what_was_done(root, ends, tmp_path):
    translate(root / "pictures", tmp_path, **DDIB, **ends, seed=3)
    saved = json.loads((tmp_path / "run.json").read_text())
    parameters = inspect.signature(sfumato.find("ddib").translate).parameters.values()
    own = {
        p.name: p.default for p in parameters if p.name not in ("self", "source", "seed", "watch")
    }
    assert saved["run"]["options"] == own | {"steps": 4}
    assert saved["run"]["seed"] == 3
    assert saved["run"]["weights"]["source"] == saved["run"]["weights"]["target"]
    assert saved["run"]["versions"]["torch"] == torch.__version__
    counted = 0

    def watch(t, x_t, mean, extras):
        nonlocal counted
        counted += extras["nfe"]

    translator("ddib", **ends).translate(torch.zeros(1, 3, 16, 16), steps=4, watch=watch)
    assert saved["result"]["nfe_per_picture"] == counted
    assert saved["result"]["pictures"] == 7


@pytest.mark.parametrize("method", ["ddib", "sdedit", "paired_sde"])
def test_a_picture_does_not_depend_on_its_neighbours(method, root, ends, tmp_path):
    how = {
        "ddib": {**DDIB, **ends},
        "sdedit": {"method": "sdedit", "target": ends["target"], "options": {"steps": 3}},
        "paired_sde": {"model": root / "pairs", "options": {"steps": 2}},
    }[method]
    translate(root / "pictures", tmp_path / "one", batch=1, **how)
    translate(root / "pictures", tmp_path / "five", batch=5, **how)
    assert abs(pixels(tmp_path / "one") - pixels(tmp_path / "five")).max() <= 1
    files = [root / "pictures" / "9.png"]
    translate(files, tmp_path / "alone", **how)
    alone = np.asarray(Image.open(tmp_path / "alone/9.png")).astype(int)
    assert abs(alone - np.asarray(Image.open(tmp_path / "five/9.png")).astype(int)).max() <= 1


@pytest.mark.parametrize("resize", ["crop", "none"])
@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"energy": "edgse"}, "did you mean 'edges'"), ({"solver": "ancestrl"}, "did you mean 'ancestral'"),
        ({"factor": 99}, "factor 99 is larger than"), ({"realism": 1.0}, "needs --classifier"),
    ],
)  # fmt: skip
def test_what_no_picture_causes_is_said_before_one_is_read(
    root, ends, tmp_path, options, says, resize, monkeypatch
):
    where, read = import_module("sfumato.data.read"), []
    real = where.decode
    monkeypatch.setattr(where, "decode", lambda data, **how: read.append(1) or real(data, **how))
    options = {"realism": 0.0, "steps": 2} | options
    how = {"method": "egsde", "target": ends["target"], "resize": resize, "options": options}
    with pytest.raises(UserError, match=says) as error:
        translate(root / "pictures", tmp_path / "out", **how)
    assert "can be translated" not in str(error.value)
    assert (len(read), (tmp_path / "out").exists()) == (0, False)


def test_a_picture_of_an_unfit_size_does_not_end_the_run(root, ends, tmp_path):
    for i, side in enumerate((22, 20, 18)):  # smaller than the size asked for, but for one
        picture(tmp_path / f"in/{i}.png", i, side=side)
    how = {"method": "sdedit", "target": ends["target"], "options": {"steps": 2}}
    done = translate(tmp_path / "in", tmp_path / "out", size=21, **how)
    assert done.written == 1
    assert sorted(Path(name).name for name in done.skipped) == ["1.png", "2.png"]


def test_a_restart_makes_only_what_is_missing(root, ends, tmp_path):
    translate(root / "pictures", tmp_path, **DDIB, **ends, batch=3)
    before = contents(tmp_path)
    times = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*.png")}
    for name in ("10.png", "a/1.png"):
        (tmp_path / name).unlink()
    (tmp_path / "a/.1.png.77.tmp").write_bytes(b"half")  # what a kill leaves
    summary = translate(root / "pictures", tmp_path, **DDIB, **ends, batch=3)
    assert (summary.written, summary.kept) == (2, 5)
    assert contents(tmp_path) == before
    assert not (tmp_path / "a/.1.png.77.tmp").exists()
    assert sum(p.stat().st_mtime_ns == times[p] for p in times) == 5
    assert translate(root / "pictures", tmp_path, **DDIB, **ends, batch=3).kept == 7


def test_repeat_gives_the_same_bytes(root, ends, tmp_path):
    how = {"method": "sdedit", "target": ends["target"], "options": {"steps": 3}, "seed": 5}
    translate(root / "pictures", tmp_path / "one", batch=2, **how)
    repeat(tmp_path / "one/run.json", tmp_path / "two")
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    translate(root / "pictures", tmp_path / "three", batch=2, **how | {"seed": 6})
    assert contents(tmp_path / "one") != contents(tmp_path / "three")


def test_a_folder_of_several_commands_is_repeated_as_the_last_one_which_is_said(ends, tmp_path):
    for name in ("1", "2"):
        picture(tmp_path / f"in/{name}.png", int(name))
        translate(tmp_path / f"in/{name}.png", tmp_path / "out", **DDIB, **ends)
    with pytest.warns(UserWarning, match=r"1 picture more, .*did not name.* \(1.png\): they are not"):
        repeat(tmp_path / "out", tmp_path / "again")
    assert contents(tmp_path / "again").keys() == {"2.png"}
    both = [tmp_path / "in/1.png", tmp_path / "in/2.png"]
    assert translate(both, tmp_path / "out", **DDIB, **ends).kept == 2
    repeat(tmp_path / "out", tmp_path / "both")
    assert contents(tmp_path / "both") == contents(tmp_path / "out")


def test_repeat_refuses_other_pictures_and_models(root, tmp_path):
    shutil.copytree(root / "pictures/b", tmp_path / "in")
    shutil.copytree(root / "pairs", tmp_path / "model")
    how = {"model": tmp_path / "model", "options": {"steps": 1}}
    translate(tmp_path / "in", tmp_path / "one", **how)
    picture(tmp_path / "in/1.webp", 99)
    with pytest.raises(ValueError, match=r"cannot be repeated: 1 of 1 pictures changed since \(1.webp\)"):
        repeat(tmp_path / "one", tmp_path / "two")
    shutil.copyfile(root / "pictures/b/1.webp", tmp_path / "in/1.webp")
    model(tmp_path / "model", size=8, kind="paired_sde")
    repeat(tmp_path / "one", tmp_path / "two")  # the same weights, whatever the card says
    torch.manual_seed(1)
    sfumato.save(sfumato.find("paired_sde")(net="tiny"), tmp_path / "model", info={"size": 16})
    with pytest.raises(ValueError, match="cannot be repeated: the weights of .* changed since"):
        repeat(tmp_path / "one", tmp_path / "three")
    assert not (tmp_path / "three").exists()


def test_one_folder_is_loaded_once(ends):
    part = translator("ddib", **ends)
    assert part.source.denoiser is part.target.denoiser
    assert (part.source.domain, part.target.domain) == ("cat", "dog")


def test_shipped_names_and_folders(root):
    assert resolve(f"{root}/model:cat") == (root / "model", "cat")
    assert resolve(root / "model") == (root / "model", None)
    with pytest.raises(ValueError, match="unknown shipped model 'sfumato/nothing'"):
        resolve("sfumato/nothing:cat")


def test_masked_pixels_are_kept(root, ends, tmp_path):
    size = 20
    mask = np.zeros((16, size), np.uint8)
    mask[:, : size // 2] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    picture(tmp_path / "in/x.png", 0, side=16)
    how = {"method": "sdedit", "target": ends["target"]}
    options = {"steps": 2, "mask": str(tmp_path / "mask.png")}
    translate(tmp_path / "in", tmp_path / "out", **how, options=options)
    translate(tmp_path / "in", tmp_path / "same", **how, options={"strength": 0.0})
    out, same = pixels(tmp_path / "out")[0], pixels(tmp_path / "same")[0]
    assert (out[:, : size // 2] == same[:, : size // 2]).all()
    assert (out[:, size // 2 :] != same[:, size // 2 :]).any()
    repeat(tmp_path / "out", tmp_path / "again")
    assert contents(tmp_path / "out") == contents(tmp_path / "again")


def test_a_mask_that_is_not_black_and_white_is_refused_or_said(root, ends, tmp_path):
    """A gray one is said once, whatever the number of batches; a coloured one is none."""
    for name in "ab":
        picture(tmp_path / f"in/{name}.png", 0, side=16)
    how = {"method": "sdedit", "target": ends["target"], "batch": 1}
    hard = np.zeros((16, 20, 3), np.uint8)
    hard[:, :10] = 255
    soft, coloured = hard.copy(), hard.copy()
    soft[:, 5:10] = 100
    coloured[0, 0] = (255, 0, 0)
    for name, mask in {"hard": hard, "soft": soft, "coloured": coloured}.items():
        Image.fromarray(mask).save(tmp_path / f"{name}.png")

    def masked(name):
        options = {"steps": 1, "mask": str(tmp_path / f"{name}.png")}
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            translate(tmp_path / "in", tmp_path / f"out {name}", **how, options=options)
        return [str(w.message) for w in told if "mask" in str(w.message)]

    assert masked("hard") == []
    (line,) = masked("soft")
    assert (
        "soft.png is gray at 25.0% of its pixels: those that are lighter than middle gray" in line
    )
    with pytest.raises(UserError, match=r"coloured.png is coloured: expected black and white"):
        masked("coloured")
    assert not (tmp_path / "out coloured").exists()
    Image.fromarray(np.zeros((8, 10), np.uint8) + 255).save(tmp_path / "small.png")
    assert "small.png is 10x8 pixels and is enlarged to 20x16" in masked("small")[0]


def test_pictures_keep_their_size_where_asked(root, ends, tmp_path):
    for i, side in enumerate((16, 20, 16)):
        picture(tmp_path / f"in/{i}.png", i, side=side)
    translate(tmp_path / "in", tmp_path / "out", **DDIB, **ends, resize="none")
    sizes = [Image.open(tmp_path / f"out/{i}.png").size for i in range(3)]
    assert sizes == [(20, 16), (24, 20), (20, 16)]


def test_too_little_memory_halves_the_batch(ends):
    part = translator("ddib", **ends)
    full, seen = type(part).translate, []

    class Small:
        def translate(self, x, **kwargs):
            seen.append(len(x))
            if len(x) > 2:
                raise torch.OutOfMemoryError("full")
            return full(part, x, as_is=True, **kwargs)

    x = torch.linspace(-1, 1, 5 * 3 * 16 * 16).reshape(5, 3, 16, 16)
    y, nfe = run_translator(Small(), x, options={"steps": 16})
    wanted, wanted_nfe = run_translator(part, x, options={"steps": 16})
    torch.testing.assert_close(y, wanted, atol=1e-5, rtol=0)
    assert nfe == wanted_nfe
    assert seen == [5, 2, 3, 1, 2]


# ---- bad input ----------------------------------------------------------------------------------


def test_broken_pictures_are_named_and_skipped(root, ends, tmp_path):
    for i in range(3):
        picture(tmp_path / f"in/{i}.png", i)
    whole = (tmp_path / "in/0.png").read_bytes()
    (tmp_path / "in/cut.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "in/empty.jpg").write_bytes(b"")
    (tmp_path / "in/text.png").write_text("no picture")
    picture(tmp_path / "in/small.png", 4, side=8)
    summary = translate(tmp_path / "in", tmp_path / "out", **DDIB, **ends)
    assert sorted(Path(p).name for p in summary.skipped) == [
        "cut.png", "empty.jpg", "small.png", "text.png",
    ]  # fmt: skip
    assert "smaller than the 16x16 asked for" in summary.skipped[str(tmp_path / "in/small.png")]
    assert sorted(contents(tmp_path / "out")) == ["0.png", "1.png", "2.png"]
    saved = json.loads((tmp_path / "out/run.json").read_text())
    assert len(saved["result"]["skipped"]) == 4
    with pytest.raises(ValueError, match=r"cut\.png"):
        translate(tmp_path / "in", tmp_path / "strict", **DDIB, **ends, strict=True)
    assert not (tmp_path / "strict").exists()


def test_a_folder_or_file_in_the_place_of_a_result_is_named(root, ends, tmp_path):
    for name in ("0", "1", "sub/2"):
        picture(tmp_path / f"in/{name}.png", len(name))
    translate(tmp_path / "in", out := tmp_path / "out", **DDIB, **ends)
    for file in (out / "1.png", out / "sub/2.png"):
        file.unlink()
    (out / "sub").rmdir()
    (out / "sub").touch()
    (out / "1.png").mkdir()
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        done = translate(tmp_path / "in", out, **DDIB, **ends)
    assert done.skipped == {
        str(tmp_path / "in/1.png"): f"{out}/1.png: a folder has this name; nothing written",
        str(tmp_path / "in/sub/2.png"): f"{out}/sub: this folder cannot be made (File exists)",
    }
    assert not any("made again" in str(one.message) for one in heard)


def bad_calls(root: Path, tmp: Path) -> dict[str, tuple[dict, str]]:
    """name: (arguments of translate, what the error says)"""
    cat, dog = f"{root}/model:cat", f"{root}/model:dog"
    good = {"paths": root / "pictures", "method": "ddib", "source": cat, "target": dog}
    (tmp / "empty").mkdir()
    (tmp / "note.txt").write_text("x")
    picture(tmp / "twice/x.png", 0)
    picture(tmp / "twice/x.jpg", 0)
    picture(tmp / "small/x.png", 0, side=8)
    (tmp / "broken").mkdir()
    (tmp / "broken/x.png").write_text("x")
    picture(tmp / "odd/x.png", 0, side=18)
    return {
        "missing": (good | {"paths": tmp / "none"}, "none does not exist"),
        "empty": (good | {"paths": tmp / "empty"}, "holds no images"),
        "no picture": (good | {"paths": tmp / "note.txt"}, "note.txt is not an image"),
        "nothing": (good | {"paths": []}, "no pictures given"),
        "twice": (good | {"paths": tmp / "twice"}, "have one name: rename one, or"),
        "small": (good | {"paths": tmp / "small"}, "smaller than the 16x16 asked for"),
        "broken": (good | {"paths": tmp / "broken"}, "x.png is not an image"),
        "method": (good | {"method": "ddbi"}, "did you mean 'ddib'"),
        "how": ({"paths": root / "pictures"}, "say how to translate"),
        "no target": (good | {"target": None}, "--target FOLDER:DOMAIN"),
        "no use": (good | {"method": "sdedit"}, "sdedit has no use for --source"),
        "domain": (good | {"source": f"{root}/model:cta"}, "did you mean 'cat'"),
        "which domain": (good | {"source": root / "model"}, "say which, as in"),
        "no folder": (good | {"source": f"{tmp}/none:cat"}, "there is no model folder"),
        "no model": (good | {"source": f"{root}/pictures:cat"}, "it has no model.json"),
        "diffusion": (good | {"method": "diffusion"}, "does not translate by itself"),
        "own": (good | {"method": "paired_sde"}, "--model FOLDER, made by"),
        "diffusion model": ({"paths": good["paths"], "model": root / "model"}, "--method ddib"),
        "other": ({"paths": good["paths"], "model": root / "pairs", "method": "ddib"}, "leave"),
        "both": (
            {"paths": good["paths"], "model": root / "pairs", "source": cat},
            "translates by itself",
        ),
        "option": (good | {"options": {"stps": 3}}, "did you mean 'steps'"),
        "solver": (good | {"options": {"solver": "ab33"}}, "unknown solver 'ab33'"),
        "steps": (good | {"options": {"steps": 0}}, "steps"),
        "size": (good | {"size": 0}, "size must be at least 1, not 0"),
        "device": (good | {"device": "toaster"}, "there is no device 'toaster'"),
        "mixed": (good | {"source": f"{root}/gray:cat"}, "differ in channels"),
    }


def test_bad_input_is_said_in_one_line_and_leaves_nothing(root, tmp_path):
    for name, (arguments, says) in bad_calls(root, tmp_path).items():
        with pytest.raises(ValueError) as error:  # noqa: PT011
            translate(out=tmp_path / "out", **arguments)
        assert says in str(error.value), name
        assert "\n" not in str(error.value), name
        assert not (tmp_path / "out").exists(), name


WRONG_OPTIONS = [
    ("ddib", {"steps": "abc"}, "steps must be a whole number, not 'abc'"),
    ("ddib", {"steps": math.nan}, "steps must be a whole number, not nan"),
    ("ddib", {"steps": 1.0}, "steps must be a whole number, not 1.0"),
    ("ddib", {"steps": "2"}, "steps must be a whole number, not '2'"),
    ("ddib", {"steps": None}, "steps must be a whole number, not None"),
    ("ddib", {"steps": True}, "steps must be a whole number, not True"),
    ("ddib", {"solver": None}, "solver must be a name or a function, not None"),
    ("ddib", {"solver": 3}, "solver must be a name or a function, not 3"),
    ("ddib", {"spacing": "karas"}, "unknown spacing 'karas': did you mean 'karras'"),
    ("ddib", {"spacing": None}, "spacing must be one of time, log_snr, karras, chain, not None"),
    ("ddib", {"recentre_means": "no"}, "recentre_means must be true or false, not 'no'"),
    ("ddib", {"recentre_means": 1}, "recentre_means must be true or false, not 1"),
    ("sdedit", {"strength": "abc"}, "strength must be a finite number, not 'abc'"),
    ("sdedit", {"strength": math.nan}, "strength must be a finite number, not nan"),
    ("sdedit", {"strength": -math.inf}, "strength must be a finite number, not -inf"),
    ("sdedit", {"strength": False}, "strength must be a finite number, not False"),
    ("sdedit", {"mask": 3}, "mask must be a path such as 'folder/name' or None, not 3"),
]


@pytest.mark.parametrize(("method", "options", "says"), WRONG_OPTIONS)
def test_an_option_of_another_type_is_refused(method, options, says, root, ends, tmp_path):
    roles = ends if method == "ddib" else {"target": ends["target"]}
    with pytest.raises(UserError, match=re.escape(says)):
        translate(root / "pictures", tmp_path / "out", method=method, options=options, **roles)
    assert not (tmp_path / "out").exists()


def test_an_option_may_be_what_its_type_holds(ends):
    part = translator("sdedit", target=ends["target"])
    given = {"strength": 1, "mask": Path("mask.png"), "spacing": "time", "solver": "ddim"}
    assert options_of(part, given) == options_of(part, {}) | given
    numpys = options_of(part, {"strength": np.float64(0.5)})
    assert numpys["strength"] == 0.5


@pytest.mark.parametrize("name", [n for n in names() if hasattr(find(n), "translate")])
def test_every_default_is_of_its_own_type(name):
    part = find(name)
    own = inspect.signature(part.translate).parameters
    kept = {k: p.default for k, p in own.items() if k not in ("self", "source", "seed", "watch")}
    assert options_of(part, kept).items() >= kept.items()


@pytest.mark.parametrize("left", [0, 8, 60, -1])
def test_a_damaged_result_is_made_again_and_said(root, ends, tmp_path, left):
    translate(root / "pictures", tmp_path, **DDIB, **ends, batch=3)
    before = contents(tmp_path)
    whole = (tmp_path / "10.png").read_bytes()
    (tmp_path / "10.png").write_bytes(whole[:left])  # as after a power failure
    with pytest.warns(UserWarning, match=r"1 damaged result in .* made again: 10.png$"):
        summary = translate(root / "pictures", tmp_path, **DDIB, **ends, batch=3)
    assert (summary.written, summary.kept) == (1, 6)
    assert contents(tmp_path) == before


def moved(out):
    out.rename(out.with_name("moved"))


def moved_for_another(out):
    moved(out)
    out.mkdir()


def emptied(out):
    for file in out.glob("*.png"):
        file.unlink()


@pytest.mark.parametrize(
    ("happens", "says"),
    [
        (moved, "was moved or deleted"), (moved_for_another, "was moved or deleted"),
        (shutil.rmtree, "was moved or deleted"), (emptied, "3 pictures of .* gone .*4.png"),
    ],
)  # fmt: skip
def test_results_that_are_gone_are_not_claimed(root, ends, tmp_path, happens, says, monkeypatch):
    """It happens while the second of three batches is translated."""
    out, calls = tmp_path / "out", []

    def translates(*given, **how):
        calls.append(out)
        if len(calls) == 3:  # after the rehearsal and the first batch
            happens(out)
        return run_translator(*given, **how)

    monkeypatch.setattr(module, "run_translator", translates)
    shutil.copytree(root / "pictures", tmp_path / "in")
    with pytest.raises(UserError, match=says):
        translate(tmp_path / "in", out, **DDIB, **ends, batch=3)
    assert happens is emptied or not list(out.rglob("*.*"))
    if happens is moved:
        (tmp_path / "moved").rename(out)
    translate(tmp_path / "in", out, **DDIB, **ends, batch=3)
    assert len(list(out.rglob("*.png"))) == len(PLACES)


def test_a_picture_that_may_not_be_read_is_named_and_skipped(root, ends, tmp_path, monkeypatch):
    for i in range(2):
        picture(tmp_path / f"in/{i}.png", i)
    read, access = Path.read_bytes, os.access

    def refuse(file):  # whoever runs the tests may read everything
        if file.name == "1.png":
            raise PermissionError(13, "Permission denied", str(file))
        return read(file)

    monkeypatch.setattr(Path, "read_bytes", refuse)
    monkeypatch.setattr(os, "access", lambda f, how: Path(f).name != "1.png" and access(f, how))
    summary = translate(tmp_path / "in", tmp_path / "out", **DDIB, **ends)
    file = tmp_path / "in/1.png"
    assert summary.skipped == {str(file): f"cannot read {file}: Permission denied"}
    assert summary.written == 1


def test_a_run_to_repeat_that_is_missing_is_said_to_be(tmp_path):
    for name in ("nosuch", "nosuch/run.json"):
        with pytest.raises(UserError, match=rf"{name} does not exist: expected .* run.json"):
            repeat(tmp_path / name, tmp_path / "out")


def test_an_empty_name_is_said_to_be_empty(ends, tmp_path):
    with pytest.raises(UserError, match="paths must be a path .*, not ''"):
        translate("", tmp_path / "out", **DDIB, **ends)


def test_gray_pictures_suit_gray_and_colour_models(root, ends, tmp_path):
    picture(tmp_path / "in/x.png", 0, mode="L")
    how = {"method": "sdedit", "options": {"steps": 2}}
    translate(tmp_path / "in", tmp_path / "gray", target=f"{root}/gray:dog", **how)
    translate(tmp_path / "in", tmp_path / "colour", target=ends["target"], **how)
    assert Image.open(tmp_path / "gray/x.png").mode == "L"
    assert Image.open(tmp_path / "colour/x.png").mode == "RGB"


def test_an_output_folder_that_holds_something_else_is_refused(root, ends, tmp_path):
    translate(root / "pictures", tmp_path / "out", **DDIB, **ends)
    before = contents(tmp_path / "out")
    for other, what in [
        ({"seed": 1}, "seed"), ({"size": 12}, "size"), ({"options": {"steps": 3}}, "steps"),
    ]:  # fmt: skip
        with pytest.raises(ValueError, match=rf"holds another run \(it differs in {what}\).*--out"):
            translate(root / "pictures", tmp_path / "out", **DDIB | ends | other)
    with pytest.raises(ValueError, match="differs in pictures"):
        translate(root / "pictures/a", tmp_path / "out", **DDIB, **ends)
    assert contents(tmp_path / "out") == before
    picture(tmp_path / "mine/x.png", 0)
    with pytest.raises(ValueError, match="holds no translation"):
        translate(root / "pictures", tmp_path / "mine", **DDIB, **ends)
    with pytest.raises(ValueError, match="lies inside .*, which it is made of"):
        translate(tmp_path / "mine", tmp_path / "mine/out", **DDIB, **ends)
    with pytest.raises(ValueError, match="x.png exists already: give --out a new file"):
        translate(root / "pictures", tmp_path / "mine/x.png", **DDIB, **ends)


# ---- kills and full disks, in processes of their own --------------------------------------------


def work(root: Path, out: Path, moment: tuple[int, float] | None = None) -> None:
    torch.set_num_threads(1)
    if moment:
        die(*moment)
    ends = {"source": f"{root}/model:cat", "target": f"{root}/model:dog"}
    translate(root / "many", out, method="ddib", batch=2, options={"steps": 2}, **ends)


def fill(root: Path, out: Path) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (300, 300))  # bytes; a full disk fails like this
    try:
        work(root, out)
    except OSError as error:
        (out.parent / "said").symlink_to(f"{error.strerror}: {Path(error.filename).name}")


def test_killed_at_ten_moments(root, tmp_path):
    for i in range(16):
        picture(root / f"many/{i % 3}/{i}.png", i)

    run = lambda out, moment=None: ended(work, root, out, moment)
    assert run(tmp_path / "whole") == 0
    whole = contents(tmp_path / "whole")
    assert len(whole) == 16
    for i, moment in enumerate(moments(random.Random(0), 10, files=16)):
        out = tmp_path / str(i)
        assert run(out, moment) in (0, -signal.SIGKILL)
        assert all(whole[name] == data for name, data in contents(out).items())
        assert run(out) == 0
        assert contents(out) == whole
        assert not list(out.rglob(".*"))


def test_a_full_disk_leaves_no_half_picture(root, tmp_path):
    picture(root / "many/0/0.png", 0)
    assert ended(fill, root, tmp_path / "out") == 0
    assert "nothing written" in str((tmp_path / "said").readlink())
    assert not list((tmp_path / "out").rglob("*.*"))


def counted(monkeypatch):
    """Counts how often each file of a model is read by Python, and mapped by safetensors."""
    seen, plain, mapped = Counter(), io.open, tensors.safe_open

    def reading(file, *args, **given):
        seen[str(file), "read"] += 1
        return plain(file, *args, **given)

    def mapping(file, *args, **given):
        seen[str(file), "mapped"] += 1
        return mapped(file, *args, **given)

    monkeypatch.setattr(io, "open", reading)
    monkeypatch.setattr(tensors, "safe_open", mapping)
    return lambda: {
        (Path(file).parent.name, Path(file).name, how): n for (file, how), n in seen.items()
        if Path(file).name in ("model.json", "weights.safetensors")
    }  # fmt: skip


def once(*names):
    """Descriptions are read, weights hashed and mapped, once each."""
    kinds = ("model.json", "read"), ("weights.safetensors", "read"), ("weights.safetensors", "mapped")
    return {(name, *kind): 1 for name in names for kind in kinds}


@pytest.mark.parametrize("method", ["ddib", "egsde"])
def test_each_file_of_each_model_is_read_once(root, tmp_path, monkeypatch, method):
    named = {"source": "cat", "target": "dog"} if method == "ddib" else {"target": "dog"}
    roles = {role: f"{model(tmp_path / role)}:{domain}" for role, domain in named.items()}
    if method == "egsde":
        part = find("domain_classifier")(domains=("cat", "dog"), net="tiny")
        sfumato.save(part, tmp_path / "classifier", info={"size": 16})
        roles["classifier"] = tmp_path / "classifier"
    seen, how = counted(monkeypatch), {"method": method, "options": {"steps": 2}, **roles}
    translate(root / "pictures/9.png", tmp_path / "out", **how)
    assert seen() == once(*roles)
    monkeypatch.undo()
    seen = counted(monkeypatch)
    repeat(tmp_path / "out", tmp_path / "again")
    assert {key: n for key, n in seen().items() if key[2] != "read" or key[1] == "model.json"} == {
        key: n for key, n in once(*roles).items() if key[2] != "read" or key[1] == "model.json"
    }  # a hash is kept as long as the file is the same


def test_each_file_of_a_model_is_encoded_with_once(root, tmp_path, monkeypatch):
    model(tmp_path / "own")
    seen = counted(monkeypatch)
    encode_pictures(root / "pictures/9.png", f"{tmp_path / 'own'}:cat", steps=2)
    assert seen() == once("own")


def test_pictures_have_one_digest_wherever_they_are_read(root, tmp_path):
    """In training, translating and comparing; what earlier versions wrote of them is known."""
    for i in range(3):
        picture(tmp_path / f"in/deep/{i}.png", i)
    trained = open_images(tmp_path / "in", 16)
    named = ImageFolder([tmp_path / "in"])
    compared = ImageFolder.to_compare(tmp_path / "in")
    assert trained.digest == named.digest == compared.digest == compared.key
    assert compared.fitted((8, 8)).key != compared.key == compared.fitted(None).key
    hashes = [sha256(file) for file in named.paths]
    earlier = "".join(f"deep/{i}.png None {h}\n" for i, h in enumerate(hashes)).encode()
    results = "".join(f"deep/{i}.png {h}\n" for i, h in enumerate(hashes)).encode()
    for old in (hashlib.sha256(text).hexdigest() for text in (earlier, results)):
        assert trained.digest_as(old) == named.digest_as(old) == old != named.digest
    assert named.digest_as("another") == named.digest_as(None) == named.digest


def test_large_pictures_are_translated_by_windows(root, ends, tmp_path):
    from sfumato.windows import Windowed

    picture(tmp_path / "in/a.png", 0, side=40)
    how = {"method": "ddib", **ends, "options": {"steps": 2}}
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)  # its size contradicts nothing
        translate(tmp_path / "in", tmp_path / "out", **how, scale="native")
    size = Image.open(tmp_path / "in/a.png").size
    assert Image.open(tmp_path / "out/a.png").size == size
    run = json.loads((tmp_path / "out/run.json").read_text())["run"]
    assert run["windows"] is None  # by default, as the picture is more than twice as large
    assert "Windowed" not in json.dumps(run)
    repeat(tmp_path / "out", tmp_path / "again")
    made = (tmp_path / "out/a.png").read_bytes()
    assert (tmp_path / "again/a.png").read_bytes() == made
    translate(tmp_path / "in", tmp_path / "whole", **how, scale="native", windows=False)
    assert (tmp_path / "whole/a.png").read_bytes() != made
    seen = []
    with pytest.MonkeyPatch.context() as patch:
        forward = Windowed.forward
        spy = lambda self, x, *given: seen.append(self.size) or forward(self, x, *given)
        patch.setattr(Windowed, "forward", spy)
        translate(tmp_path / "in", tmp_path / "sized", **how, windows=True, size=24)
    assert set(seen) == {16}
    assert Image.open(tmp_path / "sized/a.png").size == (26, 24)
    with pytest.raises(UserError, match="holds another run"):
        translate(tmp_path / "in", tmp_path / "out", **how, scale="native", windows=True)


@pytest.mark.parametrize(("key", "value"), [("preparation", None), ("preparation", []), ("options", None)])
def test_a_record_of_odd_kinds_is_damaged(key, value, root, ends, tmp_path):
    translate(root / "pictures", tmp_path / "out", **DDIB, **ends)
    file = tmp_path / "out/run.json"
    saved = json.loads(file.read_text())
    saved["run"][key] = value
    file.write_text(json.dumps(saved))
    with pytest.raises(UserError, match="run.json is damaged, or not of a translation"):
        translate(root / "pictures", tmp_path / "out", **DDIB, **ends)


def test_a_result_of_which_a_byte_changed_is_made_again(root, ends, tmp_path):
    translate(root / "pictures", tmp_path / "out", **DDIB, **ends)
    before = contents(tmp_path / "out")
    data = bytearray(before["10.png"])
    data[len(data) // 2] ^= 1
    (tmp_path / "out/10.png").write_bytes(bytes(data))
    with pytest.warns(UserWarning, match="1 damaged result in .* made again: 10.png"):
        translate(root / "pictures", tmp_path / "out", **DDIB, **ends)
    assert contents(tmp_path / "out") == before


@pytest.mark.parametrize("how", [{"side": "left"}, {"side": "right", "resize_back": True}])
def test_a_picture_that_has_no_halves_is_left_out(how, ends, tmp_path):
    picture(tmp_path / "in/a.png", 1, side=60)
    Image.new("RGB", (1, 40)).save(tmp_path / "in/thin.png")
    Image.new("RGB", (80, 40)).save(tmp_path / "in/wide.png")
    done = translate(tmp_path / "in", tmp_path / "out", method="sdedit", target=ends["target"], **how)
    assert [Path(name).name for name in done.skipped] == ["thin.png"]
    assert "is 1x40 pixels, not two pictures side by side" in next(iter(done.skipped.values()))
