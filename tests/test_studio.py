"""The studio without a browser: controls, limits, folders, what HTTP reaches, and work that is stopped."""

import inspect
import io
import json
import logging
import os
import re
import signal
import socket
import struct
import threading
import time
import zipfile
import zlib
from pathlib import Path
from types import SimpleNamespace

import httpx
import numpy as np
import pytest
from PIL import Image

pytest.importorskip("gradio", reason='the studio needs gradio: pip install -e ".[studio]"')

from kills import program, saying, started
from visitor import Visitor, gallery

import sfumato
from sfumato.core.arguments import hints_of
from sfumato.core.errors import UserError
from sfumato.core.options import args_of
from sfumato.core.ranges import with_range
from sfumato.diffusion.energies import ENERGIES
from sfumato.diffusion.integrate import ODE, STEPS
from sfumato.diffusion.latents import InLatents
from sfumato.methods.outline import names
from sfumato.methods.registry import find
from sfumato.nets.autoencoder import ConvCodec
from sfumato.studio import app as serve
from sfumato.studio import choices as rooms
from sfumato.studio import data_tab as data
from sfumato.studio import jobs, limits, methods, page
from sfumato.studio import latents_tab as latents
from sfumato.studio import translate_tab as translating
from sfumato.studio import uploads as intake
from sfumato.studio.controls import NONE, controls
from sfumato.studio.guard import check_sites


def png(size=(32, 32), **how):
    buffer = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(buffer, "PNG", **how)
    return buffer.getvalue()


def chunk(kind, body):
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def claimed(width, height, body, bits=8):
    """A PNG whose header says width x height, whatever its body holds."""
    header = struct.pack(">IIBBBBB", width, height, bits, 2, 0, 0, 0)
    parts = [chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(body)), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def zipped():
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("a.py", "print('a picture')")
    return buffer.getvalue()


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    outside = tmp_path_factory.mktemp("outside") / "secret.png"
    outside.write_bytes(png())
    for name in ("5/a.png", "5/b.png", "7/c.png"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(png())
    (folder / "5" / "link.png").symlink_to(outside)
    return rooms.gather([folder])


# ---- controls -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [n for n in names() if hasattr(find(n), "translate")])
def test_every_option_of_every_method_has_a_control_with_the_help_of_the_docstring(name):
    translate = find(name).translate
    texts = args_of(translate.__doc__)
    made = {c.name: c for c in methods.options(name)}
    own = inspect.signature(translate).parameters.keys() - {"self", "source", "seed", "watch"}
    if name != "diffusion":
        assert made.keys() == own
    for control in made.values():
        assert control.text
        assert control.text == with_range(texts[control.name], hints_of(translate)[control.name])
        part = control.component()
        assert control.text in (part.label if control.kind == "picture" else part.info)


def test_defaults_go_through_the_controls_unchanged():
    for name in names():
        if hasattr(find(name), "translate"):
            known = inspect.signature(find(name).translate).parameters
            for c in methods.options(name):
                shown = c.component()
                assert c.value(shown.value) == known[c.name].default, (name, c.name)


def test_ranges_and_choices_come_from_types_and_docstrings():
    made = {c.name: c for c in methods.options("egsde")}
    strength = made["strength"]  # in (0, 1]
    assert (strength.kind, strength.low, strength.high) == ("slider", 0.01, 1)
    assert (made["steps"].low, made["steps"].high, made["steps"].whole) == (1, limits.STEPS, True)
    assert made["kernel"].choices == ("box", "linear", "cubic")
    assert made["realism"].low == 0
    assert made["factor"].optional
    assert made["energy"].choices == tuple(ENERGIES)
    assert made["solver"].choices == tuple(STEPS)
    assert {c.name: c for c in methods.options("ddib")}["solver"].choices == tuple(ODE)
    assert {c.name for c in methods.run_options()} == {"seed", "size", "resize", "upscale", "side"}
    assert "none" not in {c.name: c for c in methods.run_options()}["resize"].choices


def test_an_empty_number_is_one_line():
    def f(n: int = 3, m: int | None = None) -> None:
        """Nothing.

        Args:
            n: a number, at least 1.
            m: another.
        """

    n, m = controls(f)
    assert m.value(0) is None
    assert n.value(4.0) == 4
    with pytest.raises(ValueError, match="n is empty: expected a number, such as 3"):
        n.value(None)


def test_no_control_of_the_page_is_without_help(tmp_path, monkeypatch):
    monkeypatch.setattr(serve, "_warm", lambda: None)
    blocks = serve.build([], tmp_path)
    asked = [b for b in blocks.blocks.values() if "info" in inspect.signature(type(b)).parameters]
    assert len(asked) > 60
    missing = [b.label for b in asked if not b.info]
    assert not missing


def test_all_methods_that_can_translate_are_offered(given):
    offered = methods.available(given)
    assert {
        "ddib",
        "sdedit",
        "ilvr",
        "egsde",
        "classifier_guidance",
        "paired_sde",
    } <= set(offered)
    assert not {"cut", "pix2pix"} & set(offered)  # of which no model is given


# ---- pictures from outside ------------------------------------------------------------------------

REFUSED = {
    "bomb.png": (claimed(60_000, 60_000, b"\0" * 1000), "too many pixels"),
    "long.png": (claimed(100_000, 1, b"\0" * 300_001), "has 100000x1 pixels: expected at most"),
    "drawing.svg": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "is of a kind that is not read"),
    "drawing.png": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "is not an image, or its header"),
    "archive.png": (png() + zipped(), "holds more than a picture"),
    "page.png": (png().replace(b"IEND", b"IEND") + b"<script>alert(1)</script>", "more than a pic"),
    "truncated.png": (png()[:900], "truncated.png"),
    "empty.png": (b"", "empty.png"),
    "animation.gif": (b"GIF89a", "is not an image, or its header"),
    "hidden.png": (b"GIF89a" + png(), "is not an image"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_bad_pictures_are_refused_in_one_line(name, tmp_path):
    content, said = REFUSED[name]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=said) as error:
        intake.admit(tmp_path / name)
    assert "\n" not in str(error.value)
    assert str(tmp_path) not in str(error.value)


def test_limits_of_bytes_frames_and_number(tmp_path, monkeypatch):
    good = tmp_path / "good.png"
    good.write_bytes(png())
    intake.admit(good)
    frames = [Image.new("RGB", (8, 8), (i, i, i)) for i in range(0, 240, 2)]
    frames[0].save(tmp_path / "many.tif", save_all=True, append_images=frames[1:])
    with pytest.raises(ValueError, match="expected at most 100"):
        intake.admit(tmp_path / "many.tif")
    frames[0].save(tmp_path / "many.png", save_all=True, append_images=frames[1:])
    with pytest.raises(ValueError, match="expected at most 100"):
        intake.admit(tmp_path / "many.png")
    monkeypatch.setattr(limits, "BYTES", 100)
    with pytest.raises(ValueError, match="bytes: expected at most 100"):
        intake.admit(good)
    with pytest.raises(ValueError, match="17 pictures given: expected at most 16"):
        intake.place([good] * 17, tmp_path / "in")
    with pytest.raises(ValueError, match="no picture given"):
        intake.place([], tmp_path / "in")


def test_a_deep_png_unpacks_no_more_than_its_header_says(tmp_path):
    """64 MB of zeros behind a 16-bit header of 8x8."""
    import tracemalloc

    bomb = tmp_path / "deep.png"
    bomb.write_bytes(claimed(8, 8, b"\0" * 2**26, bits=16))
    tracemalloc.start()
    try:
        intake.admit(bomb)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 8e6


def test_names_cannot_leave_the_folder(tmp_path):
    bad = tmp_path / "..  ..%2f;rm -rf.png"
    bad.write_bytes(png())
    (placed,) = intake.place([bad], tmp_path / "in")
    assert placed.parent == tmp_path / "in"
    assert set(placed.name) <= set("abcdefghijklmnopqrstuvwxyz_2%-.".replace("%", ""))
    placed = intake.place([bad, bad], tmp_path / "in2")
    assert len({p.stem for p in placed}) == 2


# ---- folders ------------------------------------------------------------------------------------


def test_only_folders_given_at_the_start_are_read(given, tmp_path):
    own = [name for name in given.folders if not name.startswith("examples")]
    assert len(own) == 1
    files = given.pictures(own[0])
    assert {f.name for f in files} == {"a.png", "b.png", "c.png"}  # the link leads out
    for name in ("/etc", "..", f"{own[0]}/..", "sfumato/digits", ""):
        with pytest.raises(ValueError, match="unknown folder"):
            given.pictures(name)
    import gradio as gr

    with gr.Blocks():
        picker = page.Picker(given, jobs.Shelf(tmp_path), "pictures", own[0])
    copy, domain = picker.pick(own[0], 0)
    assert copy.is_relative_to(tmp_path)
    assert domain == "sfumato/digits:5"
    for index in (-1, 3, "../a.png"):
        with pytest.raises(ValueError, match="pick one that is shown"):
            picker.pick(own[0], index)


def test_folders_are_models_or_pictures(tmp_path):
    part = sfumato.find("diffusion")(domains=("cat", "dog"), net="tiny")
    sfumato.save(part, tmp_path / "runs" / "pets", info={"size": 16})
    found = rooms.gather([tmp_path / "runs"])
    assert f"{tmp_path}/runs/pets:dog" in found.denoisers()
    assert found.other("sfumato/earth:topographic") == "sfumato/earth:satellite"
    part = sfumato.find("diffusion")(domains=("day:1", "1"), net="tiny")  # colons in either
    sfumato.save(part, tmp_path / "run:2", info={"size": 16})
    found = rooms.gather([tmp_path / "run:2"])
    assert found.other(f"{tmp_path}/run:2:day:1") == f"{tmp_path}/run:2:1"
    assert found.domain_of(Path("x/day:1/a.png")) == f"{tmp_path}/run:2:day:1"
    with pytest.raises(ValueError, match="does not exist: expected a model folder"):
        rooms.gather([tmp_path / "nothing"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="holds neither a model nor pictures"):
        rooms.gather([tmp_path / "empty"])


def test_what_was_named_comes_first(tmp_path):
    saved(tmp_path / "runs" / "pets", "cat", "dog")
    for name in ("bird", "dog"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.png").write_bytes(png())
    found = rooms.gather([tmp_path / "bird", tmp_path / "dog", tmp_path / "runs"])
    assert list(found.models)[:2] == [f"{tmp_path}/runs/pets", "sfumato/digits"]
    assert list(found.folders)[:3] == [f"{tmp_path}/bird", f"{tmp_path}/dog", "examples: digits"]
    assert found.denoisers()[:2] == [f"{tmp_path}/runs/pets:cat", f"{tmp_path}/runs/pets:dog"]


@pytest.mark.parametrize("named", [False, True])
def test_the_choices_at_first_belong_together(named, tmp_path, monkeypatch):
    """A folder of pictures, its domain, another of the same model, a classifier of both or none."""
    monkeypatch.setattr(serve, "_warm", lambda: None)
    dog = tmp_path / "photos" / "dog"
    dog.mkdir(parents=True)
    (dog / "a.png").write_bytes(png())
    saved(tmp_path / "pets", "cat", "dog")
    blocks = serve.build([tmp_path / "pets", dog] if named else [], tmp_path)
    shown = [b for b in blocks.blocks.values() if hasattr(b, "choices")]
    values = lambda label: {b.value for b in shown if b.label == label}
    model = f"{tmp_path}/pets" if named else "sfumato/digits"
    assert values("source") == {f"{model}:dog" if named else f"{model}:0"}
    assert values("target") == {f"{model}:cat" if named else f"{model}:1"}
    assert values("folder") == {str(dog) if named else "examples: digits"}
    assert values("classifier") == {NONE if named else "sfumato/digits_classifier"}
    (ticked,) = (b.value for b in shown if b.label == "methods")
    assert ("egsde" in ticked) == (not named)  # which needs a classifier
    assert {"ddib", "sdedit"} <= set(ticked)


def test_a_broken_picture_of_a_folder_is_no_end(tmp_path):
    (tmp_path / "a.png").write_bytes(png()[:500])
    (tmp_path / "b.png").write_bytes(png())
    found = rooms.gather([tmp_path])
    assert [page.thumbnail(f).size for f in found.pictures(str(tmp_path))] == [(128, 128), (32, 32)]


def test_a_model_that_is_trained_further_is_loaded_anew(tmp_path):
    part = saved(tmp_path, "cat", "dog")
    before = latents._model(f"{tmp_path}:cat").denoiser
    for weight in part.parameters():
        weight.data.zero_()
    sfumato.save(part, tmp_path, info={"size": 16})
    os.utime(tmp_path / "weights.safetensors", (1, 1))
    after = latents._model(f"{tmp_path}:cat").denoiser
    assert any(w.abs().sum() > 0 for w in before.parameters())
    assert all(w.abs().sum() == 0 for w in after.parameters())


def test_models_in_latents_show_their_codes_and_pictures(tmp_path):
    method = sfumato.find("diffusion")(domains=("cat", "dog"), net="tiny", channels=4)
    codec = ConvCodec(width=8, latent_channels=4, factor=4)
    part = InLatents(codec=codec, method=method, means=(0.0,) * 4, deviations=(2.0,) * 4)
    for name, one in {"one": part, "other": InLatents(codec=codec, method=method)}.items():
        sfumato.save(one, tmp_path / name, info={"size": 32})
    (tmp_path / "a.png").write_bytes(png())
    made, held = latents._encoded(tmp_path / "a.png", f"{tmp_path / 'one'}:cat", 2), {"blend.w": 0.5}
    assert (made.latent.shape, made.code.shape) == ((1, 4, 8, 8), (1, 4, 8, 8))
    held["blend.preserve_variance"] = False
    changed = latents.change(made, "blend", held, "", f"{tmp_path / 'one'}:dog", "")
    assert [one.size for one in changed.pictures] == [(32, 32)] * 4
    code = np.asarray(changed.pictures[3])
    assert (code[:4, :4] == code[0, 0]).all()  # a square for each latent
    assert code.std() > 1
    with pytest.raises(ValueError, match="other are not of the same codec and scale: train both with one"):
        latents.change(made, "blend", held, "", f"{tmp_path / 'other'}:dog", "")
    ddib = sfumato.translator("ddib", source=f"{tmp_path / 'one'}:cat", target=f"{tmp_path / 'one'}:dog")
    *seen, done = jobs.run(lambda watch: ddib.translate(made.image, as_is=True, steps=3, watch=watch))
    assert {f.noisy.size for f in done.frames} == {f.mean.size for f in done.frames} == {(32, 32)}
    assert {one.shown.size for one in seen} <= {(32, 32)}


def test_photographs_of_24_megapixels_are_taken(tmp_path):
    Image.new("L", (6016, 4016)).save(tmp_path / "photo.png")
    intake.admit(tmp_path / "photo.png")


def test_the_doctor_speaks_of_commands_apart(given):
    asked = {"a": "examples: digits", "b": NONE, "size": 0, "measure": False}
    here, _, typed = data.examine(given, asked).partition("On the command line:")
    assert "MEND  0 has 1 picture " in here
    assert "In the studio: pick pictures" in here
    for word in (" --", "sfumato train", "sfumato translate", "`", "rm "):
        assert word not in here + data.NOTHING, word
    assert "sfumato train diffusion" in typed
    assert "rm " not in typed


def test_small_pictures_in_huge_tiles_and_endless_jpegs(tmp_path):
    import tifffile

    small = np.zeros((64, 64, 3), np.uint8)
    tifffile.imwrite(tmp_path / "tiles.tif", small, tile=(8192, 8192), compression="deflate")
    with pytest.raises(ValueError, match="tiles.tif has tiles of 8192x8192 pixels"):
        intake.admit(tmp_path / "tiles.tif")
    Image.fromarray(small).save(tmp_path / "a.jpg", progressive=True)
    data = (tmp_path / "a.jpg").read_bytes()
    scan = data[data.rfind(b"\xff\xda") : -2]
    (tmp_path / "endless.jpg").write_bytes(data[:-2] + scan * 100 + data[-2:])
    with pytest.raises(ValueError, match="drawn over more than 64 times"):
        intake.admit(tmp_path / "endless.jpg")


def test_pictures_are_brought_to_a_model_as_in_its_training(tmp_path):
    """By `stretch`, which the results' sources and the words about them follow."""
    prepared = sfumato.data.preparation.Preparation((16, 16), "stretch").to_json()
    counts = {"data": {"count": {"cat": 100, "dog": 200}}}
    saved(tmp_path / "pets", "cat", "dog", preparation=prepared, **counts)
    found = rooms.gather([tmp_path / "pets"])
    half = np.zeros((30, 90, 3), np.uint8)
    half[:, :30] = 255
    Image.fromarray(half).save(tmp_path / "wide.png")
    ends = {"source": f"{tmp_path}/pets:cat", "target": f"{tmp_path}/pets:dog", "ddib.steps": 2}
    said = methods.told(found, "ddib", ends, [str(tmp_path / "wide.png")])
    assert "pets was trained on 300 pictures of cat, dog." in said
    assert "wide.png is 90x30: stretched to 16x16." in said
    asked = methods.ask(found, "ddib", ends)
    *_, done = jobs.run(
        lambda watch: methods.make(asked, [str(tmp_path / "wide.png")], tmp_path / "1", watch)
    )
    assert translating.sizes_said(done.value) == "; 90x30 -> 16x16"
    ((before, _),) = translating.before_and_after(tmp_path / "1")
    assert np.asarray(Image.open(before))[8, :4].min() > 200  # the white third, not cut off


def test_a_second_end_does_not_hide_what_follows_a_png(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    data = (tmp_path / "a.png").read_bytes()
    (tmp_path / "b.png").write_bytes(data + b"echo payload" + data[-12:])
    intake.admit(tmp_path / "a.png")
    with pytest.raises(ValueError, match="more than a picture"):
        intake.admit(tmp_path / "b.png")


def test_no_address_is_fetched(tmp_path, monkeypatch):
    from gradio import processing_utils

    async def fetch(url, cache_dir):
        pytest.fail(f"{url} would be fetched")

    monkeypatch.setattr(processing_utils, "async_ssrf_protected_download", fetch)
    serve.build([], tmp_path)
    with pytest.raises(ValueError, match="addresses are not read"):
        processing_utils.ssrf_protected_download("http://example.com/x.png", str(tmp_path))


def test_picks_take_no_results_place(given, tmp_path):
    import gradio as gr

    shelf = jobs.Shelf(tmp_path, keep=2)
    result = shelf.new()
    result.mkdir()
    with gr.Blocks():
        pickers = [page.Picker(given, shelf, label, "examples: digits") for label in ("one", "two")]
    copies = [picker.pick("examples: digits", i)[0] for i in range(3) for picker in pickers]
    assert result.exists()
    assert len(set(copies)) == 6
    assert all(copy.exists() for copy in copies)


def test_chains_of_operations_read_no_files():
    for chain in ("slerp other=/etc/passwd", "attribute towards=a away=b", "swap other=x"):
        with pytest.raises(ValueError, match="mixes in another latent"):
            latents._chain(chain)
    with pytest.raises(ValueError, match="at most 8"):
        latents._chain(", ".join(["scale"] * 9))
    assert [str(o) for o in latents._chain("rotate angle=60, blur")] == [
        "rotate angle=60.0",
        "blur",
    ]


# ---- work ---------------------------------------------------------------------------------------


def test_a_translation_is_that_of_the_package_and_can_be_repeated(given, tmp_path):
    picture = given.pictures("examples: digits")[2]
    asked = methods.ask(given, "ddib", {
        "source": "sfumato/digits:2", "target": "sfumato/digits:3", "seed": 3.0, "ddib.steps": 4,
        "classifier": NONE,
    })  # fmt: skip
    events = list(
        jobs.run(lambda watch: methods.make(asked, [str(picture)], tmp_path / "1", watch))
    )
    done = events[-1]
    assert isinstance(done, jobs.Done)
    assert [f.step for f in done.frames] == [1, 2, 3, 4]
    assert done.frames[-1].nfe == done.value.nfe == 6
    run = json.loads((tmp_path / "1/out/run.json").read_text())
    assert run["run"]["options"]["steps"] == 4
    sfumato.translate(
        picture, tmp_path / "2", method="ddib", source="sfumato/digits:2", target="sfumato/digits:3",
        seed=3, options={"steps": 4},
    )  # fmt: skip
    name = f"{picture.stem}.png"
    assert (tmp_path / "1/out" / name).read_bytes() == (tmp_path / "2" / name).read_bytes()
    sfumato.repeat(tmp_path / "1/out", tmp_path / "3")
    assert (tmp_path / "1/out" / name).read_bytes() == (tmp_path / "3" / name).read_bytes()


def test_the_way_of_a_guided_translation_has_its_energies(given, tmp_path):
    picture = given.pictures("examples: digits")[2]
    asked = methods.ask(given, "egsde", {
        "target": "sfumato/digits:3", "classifier": "sfumato/digits_classifier", "egsde.domain": "3",
        "egsde.steps": 4, "source": NONE,
    })  # fmt: skip
    *_, done = jobs.run(lambda watch: methods.make(asked, [str(picture)], tmp_path / "1", watch))
    for frame in done.frames[:-1]:
        assert {name: set(of) for name, of in frame.curves.items()} == {
            "std": {"x_t", "E[x | x_t]"}, "autocorrelation": {"x_t", "E[x | x_t]"}, "score": {"x_t"},
            "energy": {"realism", "faithful"}, "push": {"realism"},
        }  # fmt: skip


def test_work_is_stopped_when_its_visitor_leaves_or_its_time_is_over():
    import torch

    ended = threading.Event()
    x = torch.zeros(1, 3, 8, 8)

    def work(watch):
        try:
            for step in range(10**6):
                time.sleep(0.002)
                watch(0.5, x, x, {"nfe": step})
        finally:
            ended.set()

    events = jobs.run(work)
    next(events)
    events.close()
    assert ended.wait(5)
    with pytest.raises(ValueError, match="stopped after 0.3 seconds: take fewer"):
        list(jobs.run(work, seconds=0.3))


def test_long_ways_keep_few_frames():
    import torch

    x = torch.zeros(1, 3, 300, 300)

    def work(watch):
        for _ in range(500):
            watch(0.5, x, x, {"nfe": 1})

    *_, done = jobs.run(work)
    assert len(done.frames) <= limits.FRAMES_KEPT
    assert done.frames[-1].mean.size == (limits.FRAME_SIDE, limits.FRAME_SIDE)


def test_results_that_nobody_fetches_go(tmp_path):
    shelf = jobs.Shelf(tmp_path, keep=2)
    for _ in range(4):
        shelf.new().mkdir()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["000003", "000004"]


def test_words_of_visitors_are_no_markup():
    assert "<img" not in page.alert("<img src=x>")
    assert "<b>" not in page.plain("</pre><b>") + page.table([["<b>"]], ["<b>"]) + page.said("<b>")


# ---- over HTTP ----------------------------------------------------------------------------------


def saved(folder, *domains, **info):
    part = sfumato.find("diffusion")(domains=domains, net="tiny")
    sfumato.save(part, folder, info={"size": 16, **info})
    return part


@pytest.fixture(scope="module")
def studio(tmp_path_factory):
    folder, runs = tmp_path_factory.mktemp("given"), tmp_path_factory.mktemp("runs")
    saved(runs / "first", "cat", "dog")
    (folder / "a.png").write_bytes(png())
    (folder / "private.txt").write_text("secret")
    with pytest.MonkeyPatch.context() as patch:
        for name in ("GRADIO_TEMP_DIR", "GRADIO_ANALYTICS_ENABLED", "HF_HUB_OFFLINE"):
            patch.setenv(name, "")  # the studio sets them for its process; restore after
        opened = sfumato.studio.studio([folder, runs], port=0, wait=False)
        opened.runs = runs
        yield opened, folder
        opened.close()
        opened.room.cleanup()


@pytest.mark.parametrize("route", ["/gradio_api/file=", "/gradio_api/file/", "/file=", "/static/"])
def test_http_reads_no_file_but_what_was_shown(studio, route):
    opened, folder = studio
    visitor = Visitor(opened.local_url)
    here = [folder / "a.png", folder / "private.txt", "/etc/passwd", "pyproject.toml", "README.md"]
    for file in [
        *here,
        "../../../../etc/passwd",
        "..%2f..%2fetc/passwd",
        "%2e%2e/%2e%2e/etc/passwd",
    ]:
        answer = visitor.http.get(f"{route}{file}")
        assert answer.status_code in (403, 404, 405), (file, answer.status_code)
        assert b"secret" not in answer.content


def test_paths_in_requests_and_names_of_uploads_stay_inside(studio):
    opened, folder = studio
    visitor = Visitor(opened.local_url)
    for path in ("/etc/passwd", folder / "a.png", "../../etc/passwd"):
        visitor.press("translate", {"pictures to translate": gallery(path)})
        last = list(visitor.answers())[-1]
        assert not last.get("success", False) or "alert" in json.dumps(last), last
        assert "root:" not in json.dumps(last)
    placed = visitor.upload("../../../../tmp/evil.png", png())
    assert placed.startswith(f"{opened.room.name}/cache/")
    assert ".." not in placed
    big = visitor.http.post(
        "/gradio_api/upload", files={"files": ("b.png", b"\0" * (limits.BYTES + 1))}
    )
    assert big.status_code == 413


@pytest.mark.parametrize("data", [[], [None] * 200, [{"path": 3}] * 200], ids=["none", "empty", "files"])
def test_requests_that_the_page_does_not_send_are_one_line(studio, data, capfd):
    visitor = Visitor(studio[0].local_url)
    handlers = [d for d in visitor.config["dependencies"] if d["backend_fn"]]
    for n, handler in enumerate([*handlers, {"id": 10**9, "inputs": []}]):
        how = {"fn_index": handler["id"], "session_hash": f"unfit{n}"}
        own = data and data[: len(handler["inputs"])]
        answer = visitor.http.post("/gradio_api/queue/join", json=how | {"data": own})
        assert answer.status_code in (200, 400, 422), answer.text
        if answer.status_code == 200:
            visitor.http.get("/gradio_api/queue/data", params={"session_hash": how["session_hash"]})
    said = capfd.readouterr().err
    assert "refused a request: KeyError: 1000000000" in said
    assert "Traceback" not in said


def test_a_folder_that_was_not_given_is_refused_over_http(studio):
    opened, _ = studio
    visitor = Visitor(opened.local_url)
    for value in ("/etc", "..", "/"):
        visitor.press("examine", {"a": value})
        last = list(visitor.answers())[-1]
        assert not last["success"], last


def test_models_saved_after_the_start_appear(studio):
    opened, _ = studio
    visitor = Visitor(opened.local_url)
    second = f"{opened.runs}/second"
    assert second not in json.dumps(visitor.config)
    saved(opened.runs / "second", "cat", "dog")
    visitor.press("refresh", {})
    assert f"{second}:dog" in json.dumps(list(visitor.answers())[-1])
    changes = {"source": f"{second}:cat", "target": f"{second}:dog", "steps": 2}
    picture = gallery(visitor.upload("a.png", png()))
    visitor.press("translate", {"pictures to translate": picture, **changes})
    last = list(visitor.answers())[-1]
    assert last["success"], last
    assert "1 translated by ddib" in json.dumps(last), last["output"]["data"][0]


def test_pictures_that_are_unlike_a_models_are_told_as_an_alert(studio):
    pytest.importorskip("efficientnet_lite_pytorch")
    visitor, digit = Visitor(studio[0].local_url), next((rooms.HERE / "digits/2").glob("*.png"))
    changes = {"source": "sfumato/digits:2", "target": "sfumato/digits:3", "steps": 2}
    for content, unlike in ((png((48, 32)), True), (digit.read_bytes(), False)):
        picture = gallery(visitor.upload("a.png", content))
        visitor.press("translate", {"pictures to translate": picture, **changes})
        said = json.dumps([*visitor.answers()][-1])
        assert "1 translated by ddib" in said
        alert = "the picture, as a, is unlike all that sfumato/digits was trained on: expect results that"
        assert (alert in said) == ("role=\\\"alert" in said) == unlike


def test_the_command_passes_its_flags_on_and_says_what_is_wrong(monkeypatch, capsys, tmp_path):
    from sfumato.cli import main as cli

    with pytest.raises(SystemExit) as end:
        cli.main(["studio", str(tmp_path / "nothing")])
    assert end.value.code == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "does not exist: expected a model folder or a folder of pictures" in said
    called = []
    blank = SimpleNamespace(local_url="here", block_thread=lambda: None, close=lambda verbose: None)
    monkeypatch.setattr(serve, "build", lambda folders, room: called.append(folders) or blank)
    monkeypatch.setattr(serve, "_launch", lambda *given: called.append(given[1:]))
    for name in ("GRADIO_TEMP_DIR", "GRADIO_ANALYTICS_ENABLED", "HF_HUB_OFFLINE"):
        monkeypatch.setenv(name, "")
    wide = [
        "--host",
        "0.0.0.0",
        "--password",
        "x",
        "--names",
        "me.example",
        "--names",
        "you.example",
    ]
    for words in ([], ["a", "b", "--port", "0", *wide]):
        with pytest.raises(SystemExit) as end:
            cli.main(["studio", *words])
        assert end.value.code == 0
    guarded, named = called[1][3], called[3][3]
    assert (called[0], called[1][:3]) == ((), ("127.0.0.1", 7860, None))
    assert (called[2], called[3][:3]) == (("a", "b"), ("0.0.0.0", 0, "x"))
    assert (guarded["names"], named["names"]) == ([], ["me.example", "you.example"])


def test_the_studio_listens_to_this_machine_alone():
    known = inspect.signature(sfumato.studio.studio).parameters
    assert known["host"].default == "127.0.0.1"
    assert "share" not in known


# ---- who may ask ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:{port}", "10.0.0.1:{port}", "[::1", ""]
)
def test_another_name_is_not_answered(studio, host):
    """A site whose name is made to point to this machine could read everything."""
    opened, _ = studio
    visitor = Visitor(opened.local_url)
    host = host.format(port=opened.server_port)
    for path in ("/", "/config", "/gradio_api/info", "/gradio_api/startup-events"):
        answer = visitor.http.get(path, headers={"Host": host})
        assert answer.status_code == 403, (path, answer.status_code)
        assert "not an address of the studio" in answer.text
    for own in ("127.0.0.1", "localhost", "LOCALHOST:8000"):  # as through a tunnel
        assert visitor.http.get("/config", headers={"Host": own}).status_code == 200


def test_other_sites_send_nothing(studio):
    opened, _ = studio
    visitor = Visitor(opened.local_url)
    count = len(list(Path(opened.room.name, "cache").rglob("*.png")))
    foreign = [
        {"Origin": "https://evil.example"}, {"Origin": "null"}, {"Origin": "http://localhost:9"},
        {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors"},
    ]  # fmt: skip
    for headers in foreign:
        sent = visitor.http.post(
            "/gradio_api/upload", files={"files": ("x.png", png())}, headers=headers
        )
        assert sent.status_code == 403, headers
        joined = visitor.http.post("/gradio_api/queue/join", json={"data": []}, headers=headers)
        assert joined.status_code == 403, headers
    assert len(list(Path(opened.room.name, "cache").rglob("*.png"))) == count
    own = {
        "Origin": opened.local_url.rstrip("/"),
        "Sec-Fetch-Site": "same-origin",
        "Sec-Fetch-Mode": "cors",
    }
    sent = visitor.http.post("/gradio_api/upload", files={"files": ("x.png", png())}, headers=own)
    assert sent.status_code == 200
    link = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}
    assert visitor.http.get("/", headers=link).status_code == 200  # which a link to it sends


def test_uploads_have_a_limit_in_all(studio, monkeypatch):
    opened, _ = studio
    visitor = Visitor(opened.local_url)
    held = sum(f.stat().st_size for f in Path(opened.room.name, "cache").rglob("*") if f.is_file())
    monkeypatch.setattr(limits, "UPLOADS", held + 6000)

    def send(seed):
        noise = np.random.default_rng(seed).bytes(3000)
        return visitor.http.post("/gradio_api/upload", files={"files": ("a.png", noise)})

    answers = [send(seed) for seed in range(3)]
    assert [a.status_code for a in answers] == [200, 413, 413]
    assert "wait until they are removed" in answers[1].text
    monkeypatch.setattr(limits, "UPLOAD", 2000)
    assert "bytes at once: expected at most 2,000" in send(9).text
    big = visitor.http.post("/gradio_api/queue/join", content=b" " * (limits.REQUEST + 1))
    assert big.status_code == 413
    unknown = visitor.http.post("/gradio_api/upload", content=iter([b"a"]))
    assert unknown.status_code == 411


def test_no_other_site_shows_it_in_a_frame(studio):
    opened, _ = studio
    visitor = Visitor(opened.local_url)
    for answer in (visitor.http.get("/"), visitor.http.get("/config", headers={"Host": "evil"})):
        assert answer.headers["x-frame-options"] == "DENY"
        assert "frame-ancestors 'none'" in answer.headers["content-security-policy"]


def test_at_an_open_address_names_are_known_and_numbers_harmless(tmp_path):
    from sfumato.studio.guard import Guard

    shut = Guard(None, "127.0.0.1", [], [], tmp_path)
    wide = Guard(None, "0.0.0.0", ["me.hf.space"], ["https://huggingface.co"], tmp_path)
    assert not shut.open
    assert wide.open
    assert [n for n in ("192.168.1.7", "me.hf.space", "evil.example") if shut.known(n)] == []
    assert [n for n in ("192.168.1.7", "me.hf.space", "evil.example") if wide.known(n)] == [
        "192.168.1.7", "me.hf.space",
    ]  # fmt: skip
    proxied = {"host": "me.hf.space", "origin": "https://me.hf.space"}
    assert wide.foreign(proxied) is None
    assert wide.foreign(proxied | {"origin": "https://you.hf.space"})
    assert wide.headers == [(b"content-security-policy", b"frame-ancestors https://huggingface.co")]


def test_a_password_is_asked_for(tmp_path, monkeypatch):
    for name in ("GRADIO_TEMP_DIR", "GRADIO_ANALYTICS_ENABLED", "HF_HUB_OFFLINE"):
        monkeypatch.setenv(name, "")
    monkeypatch.setattr(serve, "_warm", lambda: None)
    monkeypatch.setattr(serve, "WRONG", 0.01)
    monkeypatch.setenv("SFUMATO_STUDIO_PASSWORD", "")
    with pytest.raises(ValueError, match="the password is empty"):
        sfumato.studio.studio(port=0, wait=False)
    opened = sfumato.studio.studio(port=0, wait=False, password="tell me")
    try:
        with httpx.Client(base_url=opened.local_url, trust_env=False) as http:
            assert http.get("/config").status_code == 401
            upload = lambda: http.post("/gradio_api/upload", files={"files": ("x.png", png())})
            assert upload().status_code == 401
            wrong = http.post("/login", data={"username": "a", "password": "tell you"})
            assert wrong.status_code == 400
            right = http.post("/login", data={"username": "anybody", "password": "tell me"})
            assert right.status_code == 200
            assert http.get("/config").status_code == 200
            assert upload().status_code == 200
    finally:
        opened.close()
        opened.room.cleanup()


def unlaunched(monkeypatch):
    for name in ("GRADIO_TEMP_DIR", "GRADIO_ANALYTICS_ENABLED", "HF_HUB_OFFLINE"):
        monkeypatch.setenv(name, "")
    launch = lambda **_: pytest.fail("launched")
    page = SimpleNamespace(launch=launch, close=lambda verbose: None)
    monkeypatch.setattr(serve, "build", lambda folders, room: page)


@pytest.mark.parametrize(
    ("where", "says"),
    [
        ({"port": -1}, "there is no port -1: expected --port 1 to 65535"),
        ({"port": 65536}, "there is no port 65536"),
        ({"host": "no such name"}, "there is no address 'no such name'"),
        ({"host": "a..b"}, "there is no address 'a..b'"),
        ({"host": "192.0.2.1"}, "192.0.2.1 is not an address of this machine"),
    ],
)
def test_where_it_cannot_listen_is_said_at_once(where, says, monkeypatch):
    unlaunched(monkeypatch)
    with pytest.raises(UserError, match=re.escape(says)):
        sfumato.studio.studio(**where)


@pytest.mark.parametrize(
    "site",
    ["https://a\r\nX: y", "https://a\n", "javascript:alert(1)", "https://a; script-src *", "https://a b",
     "a.org", "https://a/b", "https://a:b", "*", "'self'", "https://", "https://a,b", "ftp://a", ""],
)  # fmt: skip
def test_what_is_no_site_frames_nothing(site, monkeypatch):
    unlaunched(monkeypatch)
    with pytest.raises(UserError, match="--framed-by .* is no site: expected its scheme and host"):
        sfumato.studio.studio(framed_by=[site])
    with pytest.raises(UserError, match="--names .* is no name of a host"):
        sfumato.studio.studio(names=["https://a.org"])


@pytest.mark.parametrize("site", ["https://huggingface.co", "http://127.0.0.1:8000", "http://[::1]:80"])
def test_sites_are_schemes_hosts_and_ports(site):
    check_sites(["studio.example.org", "localhost", "10.0.0.1", "::1"], [site])


def test_a_port_that_is_taken_is_said_with_another(monkeypatch):
    unlaunched(monkeypatch)
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        held.listen()
        port = held.getsockname()[1]
        with pytest.raises(UserError, match=rf"port {port} of .* such as --port {port + 1}"):
            sfumato.studio.studio(port=port)
    serve._free("127.0.0.1", port)


@pytest.mark.parametrize(
    ("host", "password", "warned"),
    [
        ("0.0.0.0", None, True),
        ("0.0.0.0", "x", False),
        ("127.0.0.1", None, False),
        ("::1", None, False),
    ],
)
def test_an_open_address_without_a_password_is_warned_of(
    host, password, warned, monkeypatch, capsys
):
    for name in ("GRADIO_TEMP_DIR", "GRADIO_ANALYTICS_ENABLED", "HF_HUB_OFFLINE"):
        monkeypatch.setenv(name, "")
    blank = SimpleNamespace(local_url="here", block_thread=lambda: None, close=lambda verbose: None)
    monkeypatch.setattr(serve, "build", lambda folders, room: blank)
    monkeypatch.setattr(serve, "_launch", lambda *given: None)
    sfumato.studio.studio(host=host, password=password)
    said = capsys.readouterr().err
    assert ("warning: whoever can reach 0.0.0.0" in said) == warned
    assert said.count("\n") == warned


# ---- how it ends ----------------------------------------------------------------------------------

SERVES = """
import os, tempfile, time
from sfumato.studio import app as serve

tempfile.tempdir = None  # the server's, as this is
os.environ.pop("TORCHINDUCTOR_CACHE_DIR", None)

class Page:
    local_url = "here"
    def block_thread(self):
        time.sleep(60)
    def close(self, verbose=True):
        pass

def build(folders, room):
    from torch._inductor.runtime.cache_dir_utils import cache_dir
    cache_dir()  # as imports of torch do
    (room / "cache").mkdir(exist_ok=True)
    (room / "cache" / "upload.png").write_bytes(b"x")
    return Page()

serve.build, serve._launch = build, lambda *given: None
serve.studio()
"""


def opened_in(folder):
    """A process that has opened a studio, whose temporary files go into `folder`."""
    said = folder.with_name(f"{folder.name}.said{len(uploads(folder))}")
    said.unlink(missing_ok=True)
    process = started(saying, said, program, SERVES, {"TMPDIR": str(folder)})
    while not said.exists() or "is open" not in said.read_text():
        assert process.is_alive(), said.read_text()
        time.sleep(0.02)
    assert "starting" in said.read_text()
    return process


def uploads(folder):
    return sorted(folder.glob("sfumato-studio-*/cache/upload.png"))


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP", "SIGINT"])
def test_uploads_go_when_it_is_ended(name, tmp_path):
    process = opened_in(tmp_path)
    assert len(uploads(tmp_path)) == 1
    os.kill(process.pid, getattr(signal, name))
    process.join(60)
    assert not process.is_alive()
    assert list(tmp_path.iterdir()) == []


def test_streams_that_are_open_at_the_end_are_no_errors(monkeypatch, caplog):
    log = logging.getLogger("uvicorn.error")
    monkeypatch.setattr(log, "level", logging.WARNING)
    monkeypatch.setattr(log, "propagate", True)
    log.error("while it runs")
    page = SimpleNamespace(close=lambda **_: log.error("Exception in ASGI application"))
    serve._close(page, SimpleNamespace(cleanup=lambda: None))
    assert caplog.messages == ["while it runs"]


def test_uploads_of_a_killed_studio_go_at_the_next_start(tmp_path):
    (tmp_path / "another").mkdir()
    (tmp_path / "another" / "kept.png").write_bytes(b"x")
    (tmp_path / "sfumato-studio-link").symlink_to(tmp_path / "another")
    (killed, running), left = (opened_in(tmp_path), opened_in(tmp_path)), set(uploads(tmp_path))
    assert len(left) == 2
    killed.kill()
    killed.join(60)
    following = opened_in(tmp_path)
    try:
        assert len(left & set(uploads(tmp_path))) == 1  # of the one that runs
        assert (tmp_path / "another" / "kept.png").exists()
    finally:
        for process in (running, following):
            process.terminate()
            process.join(60)
    assert uploads(tmp_path) == []


def test_a_card_that_is_a_link_out_of_its_model_is_not_shown(tmp_path):
    part = sfumato.find("diffusion")(domains=("cat", "dog"), net="tiny")
    sfumato.save(part, tmp_path / "pets", info={"size": 16})
    secret = tmp_path / "secret.txt"
    secret.write_text("the secret")
    (tmp_path / "pets" / "README.md").unlink()
    (tmp_path / "pets" / "README.md").symlink_to(secret)
    (model,) = (m for m in rooms.gather([tmp_path / "pets"]).models.values() if "pets" in m.name)
    assert "secret" not in model.card()
    assert "link" in model.card()
