"""Training in buckets: whole pictures of several proportions, of which a batch has one size."""

import itertools
import json
import math
from collections import Counter

import numpy as np
import pytest
import torch
from PIL import Image

import sfumato
from sfumato.checkup import advice
from sfumato.core.errors import UserError
from sfumato.data.buckets import OFTEN, Buckets, shared
from sfumato.data.open_data import open_data
from sfumato.data.preparation import Preparation
from sfumato.data.proportions import USUAL, buckets, cut_off, nearest
from sfumato.data.resize import covering, fit_image, to_float
from sfumato.methods._shared.memory import Replay
from sfumato.methods.registry import info
from sfumato.training.train import train
from sfumato.training.validation import on_white

SQUARE = (16, 16)
EVERY = buckets(SQUARE)
SHAPES = (48, 32), (32, 48), (40, 40), (36, 48), (64, 36), (45, 30)  # width x height
TRAINED = [name for name in sfumato.names() if info(name).trains_on]
SHORT = {
    "unpaired_sde": {"warmup_batches": 1, "distil_batches": 2, "refresh": 2, "buffer": 4, "loop_steps": 2},
    "unit_ddpm": {"warmup_batches": 1},
    "neural_ot": {"k_t": 1},
    "entropic_ot": {"k_t": 1, "n_steps": 2},
    "cyclegan": {"pool_size": 3},
}


def paint(folder, shapes, value=0):
    """A picture of each (width, height), whose red says which it is."""
    folder.mkdir(parents=True)
    for i, (w, h) in enumerate(shapes):
        pixels = np.random.default_rng(i).integers(0, 256, (h, w, 3), dtype=np.uint8)
        pixels[..., 0] = value + i
        Image.fromarray(pixels).save(folder / f"{i:03d}.png")
    return folder


def which(images):
    """The pictures of a batch, by their red."""
    return ((images[:, 0].mean((1, 2)) + 1) * 127.5).round().int().tolist()


def batches(data, count, **how):
    return [*itertools.islice(data.batches(**{"size": 4, "seed": 3} | how), count)]


def opened(tmp_path, kind, *shapes, **how):
    given = [paint(tmp_path / "abc"[k], own, 100 * (k % 2)) for k, own in enumerate(shapes)]
    given = dict(zip("abc", given, strict=False)) if kind == "domains" else given
    return open_data(kind, given, **{"size": SQUARE, "resize": "buckets"} | how)


# ---- sizes --------------------------------------------------------------------------------------


@pytest.mark.parametrize("side", [8, 16, 31, 32, 48, 64, 73, 96, 100, 128, 256, 1024])
def test_buckets_have_one_area_and_the_usual_proportions(side):
    found, step = buckets((side, side)), {8: 1, 16: 2, 31: 2, 32: 4, 48: 4}.get(side, 8)
    assert found[3] == (side, side)
    assert found == tuple((w, h) for h, w in reversed(found))  # upright and lying alike
    for (h, w), p in zip(found[4:], USUAL, strict=True):
        assert h % step == w % step == 0
        assert abs(math.log(h * w / side**2)) < 0.18
        assert abs(math.log(w / h / p)) < 0.05


def test_a_picture_is_of_the_bucket_of_the_nearest_proportions():
    assert [nearest(size, EVERY) for size in ((10, 10), (30, 40), (400, 300), (1, 9), (20, 21))] == [
        EVERY[3], EVERY[4], EVERY[2], EVERY[6], EVERY[3],
    ]  # fmt: skip
    assert nearest((100, 113), EVERY) == SQUARE  # 1.286 is nearer than 1 from sqrt(1.286) = 1.134 on
    assert nearest((100, 114), EVERY) == (14, 18)
    assert cut_off((100, 200), (10, 10)) == pytest.approx(0.5)
    assert cut_off((200, 100), (10, 10)) == pytest.approx(0.5)


def test_no_rectangle_has_buckets(tmp_path):
    with pytest.raises(UserError, match="size 96x64: buckets have the area of a square.* such as 78"):
        Preparation((64, 96), "buckets")
    with pytest.raises(UserError, match="expected one side"):
        train("diffusion", {"a": paint(tmp_path / "a", SHAPES)}, tmp_path / "r", size="96x64",
              resize="buckets")  # fmt: skip
    with pytest.raises(UserError, match="--scale 0.5 is of pieces"):
        train("diffusion", {"a": tmp_path / "a"}, tmp_path / "r", size=16, resize="buckets", scale=0.5)


# ---- which buckets folders share ----------------------------------------------------------------

LYING, UPRIGHT, PHONE = (100, 150), (150, 100), (90, 120)


def test_one_folder_has_all_its_buckets_however_few_their_pictures():
    assert shared([[LYING] * 500 + [UPRIGHT]], EVERY) == [EVERY[1], EVERY[5]]


def test_folders_share_the_buckets_that_they_have_in_like_shares():
    both = [[LYING] * 30 + [UPRIGHT] * 10, [LYING] * 10 + [UPRIGHT] * 30]
    assert shared(both, EVERY) == [EVERY[1], EVERY[5]]
    odd = [[LYING] * 30 + [UPRIGHT] * 10, [LYING] * 30]  # where one lacks it, it is given up
    assert shared(odd, EVERY) == [EVERY[5]]
    few = [[LYING] * 90 + [UPRIGHT] * 10, [LYING] * 999 + [UPRIGHT]]
    assert shared(few, EVERY) == [EVERY[5]]


def test_neighbours_meet_in_one_bucket_and_strangers_in_the_middle():
    cameras = [[LYING] * 30 + [UPRIGHT] * 10, [PHONE] * 30 + [PHONE[::-1]] * 10]  # 3:2 and 4:3
    found = shared(cameras, EVERY)
    assert len(found) == 2
    assert {h > w for h, w in found} == {True, False}
    assert shared([[LYING] * 5, [UPRIGHT] * 5], EVERY) == [SQUARE]
    assert shared([[LYING] * 500 + [UPRIGHT] * 4, [LYING] * 4 + [UPRIGHT] * 500], EVERY) == [SQUARE]


def test_what_is_shared_is_never_drawn_too_often():
    rng = np.random.default_rng(0)
    for _ in range(30):
        parts = [[tuple(rng.integers(10, 60, 2)) for _ in range(rng.integers(1, 80))] for _ in range(3)]
        kept = shared(parts, EVERY)
        counts = [Counter(nearest(size, kept) for size in own) for own in parts]
        shares = np.array([[c[b] / c.total() for b in kept] for c in counts])
        assert (shares.mean(0) <= OFTEN * shares.min(0)).all()
        assert shares.min() > 0


# ---- batches ------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["domains", "unpaired", "pairs"])
def test_batches_are_a_function_of_seed_and_number(kind, tmp_path):
    data = opened(tmp_path, kind, SHAPES * 2, SHAPES * 2)
    run = batches(data, 30, flip=True, jitter=0.2)
    sizes = {x.shape[2:] for x, _ in run}
    assert len(sizes) > 3
    assert sizes <= set(map(torch.Size, EVERY))
    for n in (0, 7, 29):
        again = batches(data, 1, start=n, flip=True, jitter=0.2)[0]
        assert all(map(torch.equal, again, run[n]))
        ranks = [batches(data, 1, start=n, flip=True, jitter=0.2, rank=r, world=2)[0] for r in (0, 1)]
        for shares, whole in zip(zip(*ranks, strict=True), run[n], strict=True):
            assert torch.equal(torch.cat(shares), whole)
    assert [x.shape for x, _ in batches(data, 30, seed=4)] != [x.shape for x, _ in run]
    if kind == "pairs":
        assert all([i + 100 for i in which(x)] == which(y) for x, y in batches(data, 30))
    if kind != "domains":
        assert all(x.shape == y.shape for x, y in run)


def test_every_picture_is_seen_equally_often_and_scaled_until_it_just_covers(tmp_path):
    data = opened(tmp_path, "domains", [*SHAPES, (48, 32), (33, 50), (60, 41)])
    seen = Counter(i for x, _ in batches(data, 9, size=4) for i in which(x))
    assert seen == dict.fromkeys(range(9), 4)  # a round of 9 batches: 4 epochs
    for x, _ in batches(data, 9):
        for image, i in zip(x, which(x), strict=True):
            samples = np.asarray(Image.open(data.parts["a"].paths[i])).transpose(2, 0, 1)
            h, w = nearest(samples.shape[1:], EVERY)
            fitted = fit_image(to_float(samples), (h, w), "crop")
            assert image.shape[1:] == (h, w)
            assert np.abs(image.numpy() - fitted).max() < 1 / 127
            assert cut_off(samples.shape[1:], (h, w)) < 0.06


def test_batches_of_a_bucket_are_numbered_without_gaps_in_rounds_of_other_orders():
    found = Buckets({EVERY[1]: {"a": [0] * 5}, EVERY[5]: {"a": [0] * 3}})
    run = [found.turn(1, n) for n in range(32)]
    for k, many in ((0, 20), (1, 12)):
        assert [turn for which, turn in run if which == k] == [*range(many)]
    rounds = [[which for which, _ in run[n : n + 8]] for n in range(0, 32, 8)]
    assert all(one.count(1) == 3 for one in rounds)
    assert len({*map(tuple, rounds)}) > 1


def test_shares_of_folders_are_averaged_and_nothing_is_left_out(tmp_path):
    data = opened(tmp_path, "unpaired", [(48, 32)] * 6 + [(32, 48)] * 2, [(48, 32)] * 4 + [(32, 48)] * 4)
    run = batches(data, 8)
    assert sorted(x.shape[2] > x.shape[3] for x, _ in run) == [False] * 5 + [True] * 3
    assert {i for x, _ in run for i in which(x)} == set(range(8))
    assert {i for _, y in run for i in which(y)} == set(range(100, 108))


def test_pictures_of_a_bucket_that_another_folder_lacks_go_to_the_nearest_and_that_is_said(tmp_path):
    data = opened(tmp_path, "unpaired", [(48, 32)] * 6 + [(32, 48)] * 2, [(48, 32)] * 4)
    assert {x.shape[2:] for x, _ in batches(data, 20)} == {EVERY[5]}
    assert {i for x, _ in batches(data, 20) for i in which(x)} == set(range(8))
    one, other = data.buckets.said()
    assert one == (
        "source: 8 of 20x14 pixels; 17% of a picture is cut off on average, 53% at most; 2 pictures "
        "(2 of 14x20) went to the nearest size that all folders have in like shares"
    )
    assert other == "target: 4 of 20x14 pixels; 5% of a picture is cut off on average, 5% at most"
    moved = next(x[which(x).index(7)] for x, _ in batches(data, 20) if 7 in which(x))
    samples = np.asarray(Image.open(tmp_path / "a/007.png")).transpose(2, 0, 1)
    assert np.abs(moved.numpy() - fit_image(to_float(samples), EVERY[5], "crop")).max() < 1 / 127


def test_batches_are_the_same_where_the_memory_holds_no_pictures(tmp_path, monkeypatch):
    shapes = [(48, 32)] * 6 + [(32, 48)] * 2, [(48, 32)] * 4
    known = batches(opened(tmp_path / "1", "unpaired", *shapes), 8)
    monkeypatch.setattr("sfumato.data.image_folder.CACHE_BYTES", 0)
    anew = batches(opened(tmp_path / "2", "unpaired", *shapes), 8)
    assert all(torch.equal(x, y) for a, b in zip(known, anew, strict=True) for x, y in zip(a, b, strict=True))


def test_what_is_held_out_is_of_the_trainings_sizes(tmp_path):
    data = opened(tmp_path, "unpaired", SHAPES * 4, SHAPES * 4)
    training, rest = data.split(0.1)
    assert set(rest.buckets.rows) <= set(training.buckets.rows)
    assert {x.shape[2:] for x, _ in batches(rest, 9)} == {*map(torch.Size, rest.buckets.rows)}
    alone = opened(tmp_path / "other", "unpaired", [(48, 48)], [(48, 48)])
    alone.like = opened(tmp_path / "lying", "unpaired", [(48, 32)], [(48, 32)])
    assert [*alone.buckets.rows] == [EVERY[5]]


def test_pairs_stay_together_at_the_border_between_two_buckets(tmp_path):
    shapes = [(114, 100), (113, 100)], [(113, 100), (114, 100)]
    data = opened(tmp_path, "pairs", *shapes)
    assert nearest((100, 114), EVERY) != nearest((100, 113), EVERY)
    assert all([i + 100 for i in which(x)] == which(y) for x, y in batches(data, 8))
    with pytest.raises(UserError, match="1 of 1 pairs has pictures of other proportions"):
        opened(tmp_path / "apart", "pairs", [(48, 32)], [(48, 48)])


def test_what_is_too_small_for_its_bucket_is_said(tmp_path):
    with pytest.warns(UserWarning, match="000.png is 19x14 pixels, smaller than the 20x14 asked for"):
        data = opened(tmp_path, "domains", [(19, 14), (48, 48)])
    assert len(data) == 1
    with pytest.raises(UserError, match="000.png is 22x14 pixels, smaller than the 16x16 asked for"):
        _ = opened(tmp_path / "moved", "unpaired", [(22, 14)], [(32, 48)]).groups
    assert opened(tmp_path / "up", "unpaired", [(22, 14)], [(32, 48)], upscale=True).groups


# ---- training -----------------------------------------------------------------------------------


def data_of(method, tmp_path):
    for name in "ab":
        if not (tmp_path / name).exists():
            paint(tmp_path / name, SHAPES * 2)
    given = {name: tmp_path / name for name in "ab"}
    return given if info(method).trains_on == "domains" else [*given.values()]


@pytest.mark.parametrize("method", TRAINED)
def test_every_method_learns_in_buckets_and_resumes_to_the_bit(method, tmp_path):
    data, options = data_of(method, tmp_path), {"net": "tiny"} | SHORT.get(method, {})
    how = {"options": options, "size": 24, "resize": "buckets", "batch": 2, "held_out": 0.2, "warmup": 0}
    how |= {"schedule": "constant", "upscale": True, "quiet": True}
    made = info(method).translates and method != "unit_ddpm"  # whose previews take a thousand evaluations
    train(method, data, tmp_path / "straight", steps=4, preview_every=4 * made, **how)
    train(method, data, tmp_path / "resumed", steps=2, preview_every=0, **how)
    train(method, data, tmp_path / "resumed", steps=4, preview_every=0, resume=True, **how)
    files = [tmp_path / run / "training.safetensors" for run in ("straight", "resumed")]
    assert files[0].read_bytes() == files[1].read_bytes()
    lines = [json.loads(line) for line in (tmp_path / "straight/log.jsonl").read_text().splitlines()]
    assert lines[-1]["held_out"]
    if made:
        assert Image.open(tmp_path / "straight/previews/step_000004.png").width > 100
        how = {"model": tmp_path / "straight", "upscale": True}
        done = sfumato.translate(tmp_path / "a", tmp_path / "out", **how)
        assert (done.written, done.by_windows) == (12, 0)
        sizes = [Image.open(tmp_path / f"out/{i:03d}.png").size for i in range(6)]
        assert sizes == [(30, 20), (20, 30), (24, 24), (20, 27), (32, 18), (30, 20)]


def test_pictures_of_python_and_of_two_in_one(tmp_path):
    arrays = [np.asarray(Image.open(f)) for f in sorted(paint(tmp_path / "a", SHAPES * 2).iterdir())]
    how = {"options": {"net": "tiny"}, "size": 16, "resize": "buckets", "batch": 2, "quiet": True}
    how |= {"schedule": "constant"}
    train("diffusion", {"a": arrays}, tmp_path / "python", steps=3, held_out=0, **how)
    train("diffusion", {"a": tmp_path / "a"}, tmp_path / "files", steps=3, held_out=0, **how)
    files = [tmp_path / run / "weights.safetensors" for run in ("python", "files")]
    assert files[0].read_bytes() == files[1].read_bytes()
    paint(tmp_path / "pairs", [(2 * w, h) for w, h in SHAPES])
    made = train("paired_sde", tmp_path / "pairs", tmp_path / "halves", side_by_side=True, steps=2,
                 held_out=0.2, **how)  # fmt: skip
    assert made.preparation == Preparation(SQUARE, "buckets", side="left")
    lines = (tmp_path / "halves/log.jsonl").read_text()
    assert '"held_out"' in lines


def test_a_training_says_its_buckets_and_previews_show_some_of_each(tmp_path, capsys):
    paint(tmp_path / "a", [(48, 32)] * 9 + [(32, 48)] * 4 + [(64, 36)] * 2)
    paint(tmp_path / "b", [(48, 32)] * 9 + [(32, 48)] * 4)
    how = {"options": {"net": "tiny"}, "size": 16, "resize": "buckets", "batch": 2, "held_out": 0}
    train("cut", [tmp_path / "a", tmp_path / "b"], tmp_path / "run", steps=1, **how)
    said = capsys.readouterr().err
    assert "15 source, 13 target pictures of about 16x16 pixels" in said
    assert "source: 11 of 20x14, 4 of 14x20 pixels; " in said
    assert "; 2 pictures (2 of 22x12) went to the nearest size that all folders have in like shares" in said
    assert "target: 9 of 20x14, 4 of 14x20 pixels; 5% of a picture is cut off" in said
    page = Image.open(tmp_path / "run/previews/step_000001.png")
    assert page.width > 10 * 20 * (64 // 20)  # eight that lie, two upright


def test_what_learned_in_buckets_makes_results_of_the_trainings_scale(tmp_path):
    paint(tmp_path / "a", SHAPES)
    how = {"options": {"net": "tiny"}, "size": 16, "resize": "buckets", "steps": 1, "batch": 2}
    paint(tmp_path / "b", SHAPES)
    train("pix2pix", [tmp_path / "a", tmp_path / "b"], tmp_path / "run", held_out=0, quiet=True, **how)
    paint(tmp_path / "new", [(3000, 1500), (100, 150), (120, 12)])
    made = sfumato.translate(tmp_path / "new", tmp_path / "out", model=tmp_path / "run")
    assert [line.split(": ")[1] for line in made.resized()] == [
        "3000x1500 -> 24x12", "100x150 -> 14x21",
    ]  # fmt: skip
    assert made.by_windows == 1  # the panorama
    again = sfumato.repeat(tmp_path / "out", tmp_path / "again")
    assert again.written == 3
    for file in (tmp_path / "out").glob("*.png"):
        assert file.read_bytes() == (tmp_path / "again" / file.name).read_bytes()
    part = sfumato.load(tmp_path / "run")
    assert part.translate(Image.open(tmp_path / "new/001.png")).size == (14, 21)
    assert part.preparation.at(whole=False) == Preparation(SQUARE, "crop")
    assert part.preparation.at(32) == Preparation((32, 32), "short")
    streamed = next(iter(sfumato.stream([Image.open(tmp_path / "new/001.png")], model=tmp_path / "run")))
    assert np.array_equal(np.asarray(streamed), np.asarray(Image.open(tmp_path / "out/001.png")))
    sfumato.translate(tmp_path / "new", tmp_path / "large", model=tmp_path / "run", size=32, resize="buckets")
    assert Image.open(tmp_path / "large/001.png").size == (28, 42)
    h, w = covering((1500, 3000), EVERY[6])
    assert (w, h) == (24, 12)


@pytest.mark.parametrize(
    ("shapes", "said"),
    [
        ([(96, 64)] * 9 + [(64, 96)] * 3, "Proportions are mixed (75% lying, 25% upright): --resize buckets"),
        ([(96, 64)] * 19 + [(64, 96)], ""),
        ([(64, 64)] * 3, ""),
    ],
)
def test_the_doctor_names_them_where_proportions_are_mixed(shapes, said, tmp_path):
    for name in "ab":
        paint(tmp_path / name, shapes)
    plan = sfumato.doctor(tmp_path / "a", tmp_path / "b", size=32, measure=False).plan
    assert ("--resize buckets" in plan.commands[0]) == bool(said)
    assert said in plan.reason
    assert ("mixed" in plan.reason) == bool(said)
    assert not advice.mixed([(64, 64)])


def test_images_of_several_sizes_lie_in_the_middle_of_white():
    sheets = [torch.zeros(2, 3, 4, 8), torch.full((1, 3, 8, 4), 0.5)]
    page = on_white(sheets)
    assert page.shape == (3, 3, 8, 8)
    assert (page[:2, :, 2:6] == 0).all()
    assert (page[2, :, :, 2:6] == 0.5).all()
    assert (page[:2, :, [0, 1, 6, 7]] == 1).all()
    assert (page[2, :, :, [0, 1, 6, 7]] == 1).all()


def test_a_memory_keeps_each_size_of_images_by_itself_and_as_many_of_each():
    memory, rng = Replay(3), torch.Generator().manual_seed(0)
    wide, high = torch.zeros(2, 1, 2, 4), torch.ones(2, 1, 4, 2)
    for k in range(3):
        memory.add(wide + k, wide + k)
        memory.add(high + 10 * k, high + 10 * k)
    assert {name: len(x) for name, x in memory.named_buffers()} == {"images": 3, "images_2x4": 3}
    assert {int(x) for x in memory.draw(wide, rng)[0].flatten()} <= {1, 2}
    assert {int(x) for x in memory.draw(high, rng)[1].flatten()} <= {11, 21}
    assert memory.of(torch.zeros(1, 1, 3, 3)) is None
    pool = Replay(2)
    for k in range(20):
        assert pool(wide + k, rng).shape == wide.shape
        assert (pool(high + k, rng) >= 1).all()
