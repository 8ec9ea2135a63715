import itertools
import json

import numpy as np
import pytest
import torch
from PIL import Image

from sfumato.core.errors import UserError
from sfumato.data import (
    Domains,
    Pairs,
    Unpaired,
    find_images,
    image_folder,
    open_domains,
    open_images,
    open_pairs,
    open_side_by_side,
    open_unpaired,
)
from sfumato.data.augment import jittered
from sfumato.data.open_data import open_data


def paint(folder, values, size=(4, 4), suffix="png"):
    """One image per value: value in the left half of channel 0, black in the right."""
    folder.mkdir(parents=True, exist_ok=True)
    for i, value in enumerate(values):
        pixels = np.zeros((*size, 3), np.uint8)
        pixels[:, : size[1] // 2, 0] = value
        Image.fromarray(pixels).save(folder / f"{i}.{suffix}")
    return folder


def values(images):
    """The value of each image, from whichever side it is on."""
    return ((images[:, 0].amax((1, 2)) + 1) * 127.5).round().int().tolist()


def mirrored(images):
    return (images[:, 0, 0, 0] < images[:, 0, 0, -1]).tolist()


@pytest.fixture
def folders(tmp_path):
    return (
        paint(tmp_path / "a", range(10, 20)),
        paint(tmp_path / "b", range(110, 120)),
        paint(tmp_path / "c", range(210, 217)),
    )


@pytest.fixture
def every(folders):
    a, b, c = folders
    return [
        open_domains({"a": a, "c": c}, 4),
        open_pairs(a, b, 4),
        open_unpaired(a, c, 4),
    ]


def same(one, other):
    return all(torch.equal(x, y) for x, y in zip(one, other, strict=True))


def test_batches_are_pure_functions_of_their_number(every):
    for data in every:
        run = list(itertools.islice(data.batches(4, seed=3, flip=True), 12))
        for n in (0, 5, 11):
            assert same(next(data.batches(4, seed=3, start=n, flip=True)), run[n])
        assert not same(next(data.batches(4, seed=4)), next(data.batches(4, seed=3)))
        images = run[0][0]
        assert images.dtype == torch.float32
        assert images.shape == (4, 3, 4, 4)


def test_ranks_share_the_same_batch(every):
    for data in every:
        for n in (0, 3):
            whole = next(data.batches(6, seed=1, start=n, flip=True))
            parts = [
                next(data.batches(6, seed=1, start=n, rank=r, world=3, flip=True)) for r in range(3)
            ]
            assert same(whole, [torch.cat(half) for half in zip(*parts, strict=True)])
        with pytest.raises(ValueError, match="multiple of the 4"):
            next(data.batches(6, seed=1, world=4))


def test_an_epoch_shows_every_image_once(folders):
    data = open_pairs(folders[0], folders[1], 4)
    batches = itertools.islice(data.batches(4, seed=0), 5)  # 20 items: two epochs of 10
    seen = [v for source, _ in batches for v in values(source)]
    assert sorted(seen[:10]) == sorted(seen[10:]) == list(range(10, 20))
    assert seen[:10] != seen[10:]
    large = next(data.batches(32, seed=0))[0]  # larger than the set
    assert values(large)[:20] == seen


def test_pairs_stay_together_and_flip_together(folders):
    data = open_pairs(folders[0], folders[1], 4)
    flips = []
    for source, target in itertools.islice(data.batches(5, seed=0, flip=True), 8):
        assert [v + 100 for v in values(source)] == values(target)
        assert mirrored(source) == mirrored(target)
        flips += mirrored(source)
    assert 8 < sum(flips) < 32
    assert not any(mirrored(next(data.batches(5, seed=0))[0]))


def test_unpaired_halves_are_independent(folders):
    data = open_unpaired(folders[0], folders[1], 4)
    batches = list(itertools.islice(data.batches(10, seed=0, flip=True), 4))
    assert any([v + 100 for v in values(a)] != values(b) for a, b in batches)
    assert any(mirrored(a) != mirrored(b) for a, b in batches)
    assert all(sorted(values(b)) == list(range(110, 120)) for _, b in batches)


def test_domains_are_balanced(folders):
    data = open_domains({"a": folders[0], "c": folders[2]}, 4)
    for images, labels in itertools.islice(data.batches(6, seed=0), 5):
        assert labels.dtype == torch.int64
        assert labels.bincount().tolist() == [3, 3]
        assert all((v >= 200) == bool(k) for v, k in zip(values(images), labels, strict=True))
    images, labels = data.first(3)
    assert values(images) == [10, 210, 11]
    assert labels.tolist() == [0, 1, 0]
    assert len(data.first(99)[0]) == len(data) == 17


def test_a_batch_may_be_smaller_than_the_number_of_domains(folders):
    data = open_domains(dict(zip("abc", folders, strict=True)), 4)
    labels = [next(data.batches(2, seed=0, start=n))[1].tolist() for n in range(3)]
    assert labels == [[0, 1], [2, 0], [1, 2]]
    whole = next(data.batches(6, seed=0))[0]
    assert torch.equal(whole[:2], next(data.batches(2, seed=0))[0])


def test_split_is_disjoint_stable_and_keeps_twins_together(every):
    for data in every:
        train, held = data.split(0.3, seed=5)
        again = data.split(0.3, seed=5)
        assert type(train) is type(data)
        assert json.loads(json.dumps(held.names())) == again[1].names()
        for part, names in data.names().items():
            kept, out = train.names()[part], held.names()[part]
            assert sorted(kept + out) == sorted(names)
            assert not set(kept) & set(out)
            assert 2 <= len(out) <= 4
        names = [set(part) for part in held.names().values()]
        assert all(n in names[0] or int(n[:-4]) >= 7 for n in names[1])  # twins
        assert data.split(0.3, seed=6)[1].names() != held.names()
    source, target = every[1].split(0.3)[1].first(9)
    assert [v + 100 for v in values(source)] == values(target)
    with pytest.raises(ValueError, match="fraction must be in"):
        every[0].split(1.0)
    with pytest.raises(ValueError, match="leaves no training images"):
        every[0].split(0.99)


def test_split_holds_out_of_every_domain(tmp_path, folders):
    for i, path in enumerate(find_images(folders[2])):
        path.rename(path.with_stem(f"other{i}"))  # no name in common
    train, held = open_domains({"a": folders[0], "c": folders[2]}, 4).split(0.3)
    assert [len(part) for part in held.parts.values()] == [3, 2]
    assert [len(part) for part in train.parts.values()] == [7, 5]


def test_describe_and_digest(folders, every):
    record = json.loads(json.dumps(every[0].describe()))
    assert record["kind"] == "domains"
    assert record["count"] == {"a": 10, "c": 7}
    assert record["size"] == [4, 4]
    first = open_images(folders[0], 4)
    assert first.digest == open_images(folders[0], 2).digest == record["digest"]["a"]
    assert first.digest != first.subset(range(9)).digest
    paint(folders[0], [77])
    assert open_images(folders[0], 4).digest != first.digest


def test_decoding_on_demand_gives_the_same(folders, monkeypatch):
    cached_images = open_images(folders[0], 3)
    monkeypatch.setattr(image_folder, "CACHE_BYTES", 100)
    late = open_images(folders[0], 3)
    held = lambda images: sum(one.samples.nbytes for one in images._kept)
    assert held(late) <= 100 < held(cached_images)
    assert torch.equal(late.get([3, 1]), cached_images.get([3, 1]))
    assert torch.equal(late.subset([3]).get([0]), cached_images.get([3]))


def test_deep_files_keep_their_levels_in_memory(tmp_path):
    deep = np.arange(16, dtype=np.uint16).reshape(4, 4) + 30000
    Image.fromarray(deep).save(tmp_path / "x.png")
    image = open_images(tmp_path, 4, channels=1).get([0])
    assert image.unique().numel() == 16


def test_broken_files_are_skipped_or_refused(folders):
    a, b, _ = folders
    (a / "3.png").write_bytes(b"broken")
    (b / "5.png").write_bytes(b"")
    with pytest.warns(UserWarning, match=r"left out 1 that cannot be used \(.*3\.png"):
        images = open_images(a, 4)
    assert len(images) == 9
    assert list(images.skipped) == ["3.png"]
    with pytest.raises(ValueError, match=r"3\.png"):
        open_images(a, 4, strict=True)
    with pytest.warns(UserWarning, match="left out 1"):
        pairs = open_pairs(a, b, 4)
    assert len(pairs.source) == len(pairs.target) == 8
    source, target = pairs.first(8)
    assert [v + 100 for v in values(source)] == values(target)
    for path in find_images(a):
        path.write_bytes(b"x")
    with pytest.raises(ValueError, match="no image could be read"):
        open_images(a, 4)


def test_small_images_are_named_and_need_upscale(folders):
    with pytest.raises(ValueError, match=r"0\.png is 4x4 .*upscale"):
        open_images(folders[0], 8)
    assert open_images(folders[0], 8, upscale=True).get([0]).shape == (1, 3, 8, 8)


def test_pairs_name_what_is_missing(folders, tmp_path):
    a, b, c = folders
    with pytest.raises(ValueError, match="c lacks 7, 8, 9; rename") as caught:
        open_pairs(a, c, 4)
    assert "\n" not in str(caught.value)
    jpegs = paint(tmp_path / "j", range(110, 120), suffix="jpg")
    assert len(open_pairs(a, jpegs, 4).source) == 10  # suffixes may differ
    paint(b, [1], suffix="bmp")
    with pytest.raises(ValueError, match="several files named 0"):
        open_pairs(a, b, 4)
    empty = paint(tmp_path / "many", range(30))
    with pytest.raises(ValueError, match="10, 11, 12, 13, 14 and 15 more"):
        open_pairs(a, empty, 4)


@pytest.mark.parametrize("kind", ["pairs", "unpaired"])
def test_two_folders_are_not_halved(kind, folders):
    with pytest.raises(UserError, match="--side-by-side is for one folder.*, not for 2: leave it out"):
        open_data(kind, list(folders[:2]), size=4, side_by_side=True)


def test_side_by_side(tmp_path):
    for i in range(3):
        pixels = np.zeros((4, 8, 3), np.uint8)
        pixels[:, :4, 0], pixels[:, 4:, 0] = 10 + i, 110 + i
        (tmp_path / "m").mkdir(exist_ok=True)
        Image.fromarray(pixels).save(tmp_path / "m" / f"{i}.png")
    source, target = open_side_by_side(tmp_path / "m", 4).first(3)
    assert values(source) == [10, 11, 12]
    assert values(target) == [110, 111, 112]


def test_domains_from_one_folder(tmp_path):
    for name in ("10", "9", ".hidden"):
        paint(tmp_path / "d" / name, [1, 2])
    assert list(open_domains(tmp_path / "d", 4).parts) == ["9", "10"]
    assert list(open_domains(tmp_path / "d" / "9", 4).parts) == ["9"]  # a domain by itself
    with pytest.raises(ValueError, match="one size"):
        Domains({"a": open_images(tmp_path / "d" / "9", 4), "b": open_images(tmp_path / "d" / "9", 2)})


def test_a_list_of_files(folders):
    files = find_images(folders[0])[:3] + find_images(folders[1])[3:5]
    images = open_images(files, 4)
    assert images.file_names == [f"{i}.png" for i in range(5)]
    assert [root.name for root in images.roots] == ["a"] * 3 + ["b"] * 2
    assert isinstance(Pairs(images, images), Unpaired)


def test_jitter_reaches_every_corner():
    """Places (0, 0) and (1 -, 1 -) are the first and the last crop; the first number is the row's."""
    images, (near, far) = torch.rand(4, 1, 6, 4) * 2 - 1, (0.0, 1 - 1e-9)
    places = np.array([[near, near, far, far], [near, far, near, far]])
    large = torch.nn.functional.interpolate(
        images, (9, 6), mode="bicubic", align_corners=False
    ).clamp(-1, 1)
    got = jittered(images, 0.5, places)
    for i, (top, left) in enumerate(((0, 0), (0, 2), (3, 0), (3, 2))):
        assert torch.equal(got[i], large[i, :, top : top + 6, left : left + 4])


def test_the_middle_column_of_an_odd_width_is_in_neither_half(tmp_path):
    columns = np.arange(9, dtype=np.uint8)[None, :, None].repeat(4, 0).repeat(3, 2)
    Image.fromarray(columns).save(tmp_path / "x.png")
    source, target = open_side_by_side(tmp_path, 4).first(1)
    for half, wanted in ((source, [0, 1, 2, 3]), (target, [5, 6, 7, 8])):
        assert ((half[0, 0, 0] + 1) * 127.5).round().int().tolist() == wanted


def test_a_choice_of_names_is_in_the_order_asked_for(folders):
    assert open_images(folders[0], 4).only(["7", "2", "5"]).file_names == ["7.png", "2.png", "5.png"]
