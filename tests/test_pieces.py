"""Pieces of large pictures: where they lie, pairs of them, and what models make that learned from them."""

import itertools
import json

import numpy as np
import pytest
import torch
from PIL import Image

import sfumato
from sfumato.core.errors import UserError
from sfumato.data.open_data import open_data
from sfumato.data.pieces import Cut, cuts, piece
from sfumato.data.resize import fit_image, to_float
from sfumato.training.train import train

RNG = np.random.default_rng(0)


def paint(folder, name, size, seed=0):
    folder.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(folder / f"{name}.png")
    return folder


def batches(data, count, **how):
    return [*itertools.islice(data.batches(**{"size": 6, "seed": 3} | how), count)]


def test_a_piece_is_a_part_of_the_picture():
    samples = RNG.integers(0, 256, (3, 20, 30), dtype=np.uint8)
    assert (piece(samples, (8, 8)) == to_float(samples[:, 6:14, 11:19])).all()  # the middle of the room
    assert (piece(samples, (8, 8), Cut(0, 0.999)) == to_float(samples[:, :8, 22:])).all()
    half = fit_image(to_float(samples[:, 4:20, :16]), 8, "stretch")
    assert (piece(samples, (8, 8), Cut(0.999, 0, 0.5)) == half).all()
    whole = fit_image(to_float(samples[:, :, 5:25]), 8, "stretch")
    assert (piece(samples, (8, 8), Cut(0, 0.5, 0.1)) == whole).all()  # as much as there is


def test_cuts_are_drawn_over_all_places_and_scales():
    many = np.array([cut for n in range(40) for half in cuts(1, n, 50, 0.25) for cut in half])
    assert abs(np.quantile(many[:, :2], [0.1, 0.5, 0.9], axis=0).T - [0.1, 0.5, 0.9]).max() < 0.03
    assert abs(np.quantile(np.log2(many[:, 2]), [0.1, 0.5, 0.9]) - [-1.8, -1, -0.2]).max() < 0.06
    assert cuts(1, 2, 3, 0.5) == cuts(1, 2, 3, 0.5)
    assert cuts(1, 2, 3, 0.5)[0] != cuts(1, 3, 3, 0.5)[0]
    assert {cut.scale for cut in cuts(1, 2, 3, 1.0)[0]} == {1.0}


@pytest.mark.parametrize("kind", ["domains", "unpaired", "pairs"])
def test_batches_of_pieces_are_a_function_of_seed_and_number(kind, tmp_path):
    for i in range(5):
        for side in "ab":
            paint(tmp_path / side, i, (24, 20), i)  # both sides have the same pictures
    given = {"a": tmp_path / "a", "b": tmp_path / "b"}
    data = open_data(kind, given, size=8, resize="pieces")
    all_at_once, later = batches(data, 4, scale=0.5), batches(data, 1, start=3, scale=0.5)
    assert all(map(torch.equal, all_at_once[3], later[0]))
    shares = [batches(data, 1, start=3, scale=0.5, rank=r, world=2)[0] for r in (0, 1)]
    for parts, whole in zip(zip(*shares, strict=True), later[0], strict=True):
        assert torch.equal(torch.cat(parts), whole)
    first, second = all_at_once[0][0], all_at_once[1][0]
    assert first.shape == (6, 3, 8, 8)
    assert not torch.equal(first, second)
    if kind == "pairs":
        assert all(torch.equal(a, b) for a, b in all_at_once)
    if kind == "unpaired":
        assert not torch.equal(*all_at_once[0])
    middle = to_float(np.asarray(Image.open(tmp_path / "a/0.png")).transpose(2, 0, 1)[:, 6:14, 8:16])
    assert np.array_equal(data.first(2)[0][0].numpy(), middle)  # previews are of the middle


def test_what_is_too_small_or_no_pair_is_said(tmp_path):
    paint(tmp_path / "a", 0, (24, 20))
    paint(tmp_path / "a", 1, (24, 6))
    with pytest.warns(UserWarning, match="1.png is 24x6 pixels, smaller than the 8x8 asked for"):
        data = open_data("domains", {"a": tmp_path / "a"}, size=8, resize="pieces")
    assert len(data) == 1
    data = open_data("domains", {"a": tmp_path / "a"}, size=8, resize="pieces", upscale=True)
    assert batches(data, 1)[0][0].shape == (6, 3, 8, 8)
    paint(tmp_path / "b", 0, (48, 40))
    paint(tmp_path / "c", 0, (24, 20))
    with pytest.raises(UserError, match=r"1 of 1 pairs has pictures of other sizes.*0 \(24x20, 48x40\)"):
        open_data("pairs", [tmp_path / "c", tmp_path / "b"], size=8, resize="pieces")
    with pytest.raises(UserError, match="--scale 0.5 is of pieces: add --resize pieces"):
        train("diffusion", {"c": tmp_path / "c"}, tmp_path / "run", scale=0.5, steps=1, quiet=True)


def test_what_learned_from_pieces_makes_results_of_the_sources_size(tmp_path):
    for i in range(3):
        paint(tmp_path / "a", i, (40, 33), i)
        paint(tmp_path / "b", i, (40, 33), 9 + i)
    how = {"options": {"net": "tiny"}, "size": 16, "resize": "pieces", "scale": 0.5, "steps": 2, "batch": 2}
    train("pix2pix", [tmp_path / "a", tmp_path / "b"], tmp_path / "run", held_out=0, quiet=True, **how)
    saved = json.loads((tmp_path / "run/run.json").read_text())
    assert (saved["preparation"]["resize"], saved["settings"]["scale"]) == ("pieces", 0.5)
    done = sfumato.translate(tmp_path / "a", tmp_path / "out", model=tmp_path / "run")
    assert (done.written, done.by_windows, done.resized()) == (3, 3, [])
    assert Image.open(tmp_path / "out/0.png").size == (40, 33)
    assert sfumato.load(tmp_path / "run").translate(Image.open(tmp_path / "a/0.png")).size == (40, 33)
    made = sfumato.translate(tmp_path / "a", tmp_path / "cut", model=tmp_path / "run", resize="crop")
    assert made.written == 3
    assert Image.open(tmp_path / "cut/0.png").size == (16, 16)
