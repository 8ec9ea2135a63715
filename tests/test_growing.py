"""Folders of results that grow with their pictures, masks beside them, and one picture into one file."""

import json
import warnings
from contextlib import suppress
from importlib import import_module

import numpy as np
import pytest
from PIL import Image
from test_translate import DDIB, contents, ends, picture, root  # noqa: F401

import sfumato
from sfumato.core.errors import UserError
from sfumato.data.hashing import sha256
from sfumato.translation.pictures import repeat, translate

module = import_module("sfumato.translation.plan")


def made_of(out):
    return json.loads((out / "run.json").read_text())["from"]["made_of"]


def test_a_folder_of_results_grows_with_its_pictures(root, ends, tmp_path, monkeypatch):  # noqa: F811
    for i in range(3):
        picture(tmp_path / f"in/{i}.png", i)
    translate(tmp_path / "in", tmp_path / "out", **DDIB, **ends)
    before = contents(tmp_path / "out")
    picture(tmp_path / "in/sub/9.png", 9)
    (tmp_path / "in/0.png").unlink()
    asked = []
    run = module.run_translator
    told = lambda part, x, **how: asked.append(len(x)) or run(part, x, **how)
    monkeypatch.setattr(module, "run_translator", told)
    done = translate(tmp_path / "in", tmp_path / "out", **DDIB, **ends, batch=1)
    assert (done.written, done.kept, asked[1:]) == (1, 2, [1])  # the first is the rehearsal
    after = contents(tmp_path / "out")
    assert after.items() > before.items()
    assert after.keys() - before.keys() == {"sub/9.png"}
    assert made_of(tmp_path / "out").keys() == {"0.png", "1.png", "2.png", "sub/9.png"}
    whole = translate(tmp_path / "in", tmp_path / "whole", **DDIB, **ends)
    assert whole.written == 3
    assert contents(tmp_path / "whole").items() < after.items()
    repeat(tmp_path / "out", tmp_path / "again")
    assert contents(tmp_path / "again") == contents(tmp_path / "whole")
    (tmp_path / "out/0.png").unlink()
    translate(tmp_path / "in", tmp_path / "out", **DDIB, **ends)
    assert made_of(tmp_path / "out").keys() == {"1.png", "2.png", "sub/9.png"}
    result = json.loads((tmp_path / "out/run.json").read_text())["result"]
    assert (result["pictures"], result["nfe_per_picture"]) == (3, done.nfe)


def test_a_picture_that_changed_is_translated_again_and_said(root, ends, tmp_path, monkeypatch):  # noqa: F811
    for i in range(3):
        picture(tmp_path / f"in/{i}.png", i)
    translate(tmp_path / "in", tmp_path / "out", **DDIB, **ends)
    before, old = contents(tmp_path / "out"), made_of(tmp_path / "out")
    picture(tmp_path / "in/1.png", 7)
    with monkeypatch.context() as m:  # as if it was killed before it was written
        m.setattr(module.Plan, "_write", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        said = "1 picture changed since the last time, and translated again: 1.png"
        with pytest.warns(UserWarning, match=said), pytest.raises(KeyboardInterrupt):
            translate(tmp_path / "in", tmp_path / "out", **DDIB, **ends)
    assert (contents(tmp_path / "out"), made_of(tmp_path / "out")) == (before, old)
    with pytest.warns(UserWarning, match="1 picture changed since the last time"):
        done = translate(tmp_path / "in", tmp_path / "out", **DDIB, **ends)
    assert (done.written, done.kept) == (1, 2)
    after = contents(tmp_path / "out")
    assert [k for k in after if after[k] != before[k]] == ["1.png"]
    assert made_of(tmp_path / "out")["1.png"] == sha256(tmp_path / "in/1.png")
    (tmp_path / "in/2.png").write_bytes(b"broken")
    with pytest.warns(UserWarning, match="2.png"):
        done = translate(tmp_path / "in", tmp_path / "out", **DDIB, **ends)
    assert len(done.skipped) == 1
    assert contents(tmp_path / "out") == after  # what was made of it before stays
    assert made_of(tmp_path / "out")["2.png"] == old["2.png"]


def test_another_file_of_the_same_name_is_another_picture(root, ends, tmp_path):  # noqa: F811
    picture(tmp_path / "in/0.png", 0)
    picture(tmp_path / "in/1.png", 1)
    translate(tmp_path / "in", tmp_path / "out", **DDIB, **ends)
    before = contents(tmp_path / "out")
    for i, other in ((0, 9), (1, 1)):
        picture(tmp_path / f"{i}.png", other)
        Image.open(tmp_path / f"{i}.png").save(tmp_path / f"in/{i}.tif")
        (tmp_path / f"in/{i}.png").unlink()
    with pytest.warns(match="2 pictures changed since the last time, and translated again: 0.tif, 1.tif"):
        done = translate(tmp_path / "in", tmp_path / "out", **DDIB, **ends)
    assert (done.written, done.kept) == (2, 0)
    after = contents(tmp_path / "out")
    assert after["0.png"] != before["0.png"]
    assert after["1.png"] == before["1.png"]
    assert made_of(tmp_path / "out") == {f"{i}.tif": sha256(tmp_path / f"in/{i}.tif") for i in (0, 1)}
    (tmp_path / "in/1.tif").rename(tmp_path / "in/1.tiff")  # the same picture by another name
    done = translate(tmp_path / "in", tmp_path / "out", **DDIB, **ends)
    assert (done.written, done.kept) == (0, 2)


def test_pictures_of_another_folder_are_another_run(root, ends, tmp_path):  # noqa: F811
    for place in ("one", "two"):
        picture(tmp_path / place / "0.png", len(place))
    picture(tmp_path / "two" / "0.png", 5)
    translate(tmp_path / "one", tmp_path / "out", **DDIB, **ends)
    with pytest.raises(UserError, match=r"holds another run \(it differs in pictures\)"):
        translate(tmp_path / "two", tmp_path / "out", **DDIB, **ends)


def test_each_picture_may_have_its_mask(root, ends, tmp_path):  # noqa: F811
    how = {"method": "sdedit", "target": ends["target"]}
    rng = np.random.default_rng(0)
    masks = {}
    for i, side in enumerate((16, 16, 24)):
        picture(tmp_path / f"in/a/{i}.png", i, side=side)
        masks[i] = (rng.random((side, side + 4)) < 0.5) * np.uint8(255)
        (tmp_path / "masks/a").mkdir(parents=True, exist_ok=True)
        Image.fromarray(masks[i]).save(tmp_path / f"masks/a/{i}.tif")
    options = {"steps": 2, "mask": str(tmp_path / "masks")}
    native = {"scale": "native", "windows": False}
    translate(tmp_path / "in", tmp_path / "out", **how, **native, options=options)
    for i, mask in masks.items():
        out, own = (np.asarray(Image.open(tmp_path / f"{f}/a/{i}.png")) for f in ("out", "in"))
        assert (out[mask > 0] == own[mask > 0]).all()
        assert (out[mask == 0] != own[mask == 0]).any()
    repeat(tmp_path / "out", tmp_path / "again")
    assert contents(tmp_path / "out") == contents(tmp_path / "again")
    Image.fromarray(255 - masks[1]).save(tmp_path / "masks/a/1.tif")
    with pytest.raises(UserError, match=r"cannot be repeated: 1 of 3 pictures changed since \(a/1.png\)$"):
        repeat(tmp_path / "out", tmp_path / "third")
    with pytest.warns(UserWarning, match=r"1 picture changed since .* again: a/1.png"):
        translate(tmp_path / "in", tmp_path / "out", **how, **native, options=options)
    Image.fromarray(masks[0][:, :9]).save(tmp_path / "masks/a/0.tif")
    with pytest.warns(UserWarning, match="a/0.png"):
        done = translate(tmp_path / "in", tmp_path / "out", **how, **native, options=options)
    assert list(done.skipped) == [str(tmp_path / "in/a/0.png")]  # the others are done
    (tmp_path / "masks/a/2.tif").unlink()
    with pytest.raises(UserError, match="1 of 3 pictures has no mask of their name in .*masks: a/2"):
        translate(tmp_path / "in", tmp_path / "out", **how, **native, options=options)


def test_one_picture_becomes_one_file(root, ends, tmp_path):  # noqa: F811
    file = picture(tmp_path / "in/a.png", 3)
    folder = tmp_path / "in"
    for name in ("new/b.png", "b.tif", "b.JPG", "b.webp"):
        done = translate(file, tmp_path / name, **DDIB, **ends)
        assert done.written == 1
        Image.open(tmp_path / name).load()
    translate(folder, tmp_path / "out", **DDIB, **ends)
    assert (tmp_path / "new/b.png").read_bytes() == (tmp_path / "out/a.png").read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["b.JPG", "b.tif", "b.webp", "in", "new", "out"]
    picture(folder / "c.png", 4)
    for asked, says in (
        ((file, "b.tif"), "b.tif exists already: give --out a new file"),
        ((folder, "x.png"), "x.png is the name of a picture, and 2 pictures of a folder"),
        ((file, "x.gif"), "x.gif: expected a name that ends in .png"),
    ):
        with pytest.raises(UserError, match=says):
            translate(asked[0], tmp_path / asked[1], **DDIB, **ends)
    with pytest.raises(UserError, match="x.png is no tiff: leave out --format"):
        translate(file, tmp_path / "x.png", **DDIB, **ends, format="tiff")
    (folder / "c.png").write_bytes(b"broken")
    with pytest.raises(UserError, match="c.png"):
        translate(folder / "c.png", tmp_path / "x.png", **DDIB, **ends)
    assert not (tmp_path / "x.png").exists()


def watched(monkeypatch, events, *folders, **how):
    """What a watch did, and what it said, while these things happened between its looks."""
    class Over(Exception):
        pass

    def sleep(_):
        for event in todo:
            return event and event()
        raise Over

    todo, done = iter([None, None, *(e for event in events for e in (event, None, None))]), []
    monkeypatch.setattr("sfumato.translation.watch_folder.time.sleep", sleep)
    with warnings.catch_warnings(record=True) as heard, suppress(Over):
        warnings.simplefilter("always")
        for one in sfumato.watch_folder(*folders, **how):
            done.append((one.written, one.kept, one.skipped))
    return done, [str(one.message) for one in heard]


def test_a_watch_skips_a_picture_whose_name_another_has_and_goes_on(root, ends, tmp_path, monkeypatch):  # noqa: F811
    inbox, out = tmp_path / "in", tmp_path / "out"
    picture(inbox / "a.png", 0)
    why = "{0}/a.png and {0}/a.jpg have one name: rename one, or translate them into two folders"
    double = {f"{inbox}/a.jpg": f"{inbox}/a.jpg, as {why.format(inbox)}"}
    events = [
        lambda: Image.open(inbox / "a.png").save(inbox / "a.jpg"),  # comes first in the order of names
        lambda: picture(inbox / "b.png", 1),
        lambda: picture(inbox / "a.png", 7),
        lambda: (inbox / "a.jpg").rename(inbox / "c.jpg"),
    ]
    done, said = watched(monkeypatch, events, inbox, out, **DDIB, **ends)
    assert done == [(1, 0, {}), (0, 1, double), (1, 1, double), (1, 1, double), (1, 2, {})]
    assert said == ["1 picture changed since the last time, and translated again: a.png"]
    assert made_of(out).keys() == {"a.png", "b.png", "c.jpg"}
    picture(inbox / "b.bmp", 1)
    (inbox / "b.png").write_bytes(b"broken")
    done, said = watched(monkeypatch, [], inbox, out, **DDIB, **ends)  # as if it was started again
    assert [(written, kept, sorted(skipped)) for written, kept, skipped in done] == [
        (0, 2, [f"{inbox}/b.bmp", f"{inbox}/b.png"])
    ]
    with pytest.raises(UserError, match="b.bmp and .*b.png have one name"):
        translate(inbox, out, **DDIB, **ends)


def test_a_watch_that_looks_again_repeats_no_warning(root, ends, tmp_path, monkeypatch):  # noqa: F811
    picture(tmp_path / "in/0.png", 0)
    (tmp_path / "in/1.png").write_bytes(b"broken")
    how = DDIB | ends | {"strict": True, "size": 20}
    events = [None, None, lambda: picture(tmp_path / "in/1.png", 1)]
    done, said = watched(monkeypatch, events, tmp_path / "in", tmp_path / "out", **how)
    note = "trained with size 16x16; pictures are taken with size 20x20"
    assert [text.partition(":")[0] for text in said] == [note, "1 of 2 images cannot be used", note]
    assert done == [(2, 0, {})]


def test_a_watch_says_once_what_folders_lack_and_looks_again(root, ends, tmp_path, monkeypatch):  # noqa: F811
    inbox, masks, out = tmp_path / "in", tmp_path / "masks", tmp_path / "out"
    for i in range(2):
        picture(inbox / f"{i}.png", i)

    def mask(name):
        masks.mkdir(exist_ok=True)
        Image.new("L", (24, 20), 255).save(masks / f"{name}.png")

    mask(0)
    how = {"method": "sdedit", "target": ends["target"], "options": {"steps": 2, "mask": str(masks)}}
    events = [
        None,
        None,  # looked at, and not said, again
        lambda: mask(1),
        lambda: picture(inbox / "2.png", 2),
        None,
        lambda: mask(2),
        lambda: out.rename(tmp_path / "elsewhere"),
        lambda: picture(inbox / "0.png", 5),
    ]
    done, said = watched(monkeypatch, events, inbox, out, **how)
    lacks = "{} has no mask of their name in {}: {}; pictures are paired by name"
    assert said == [lacks.format("1 of 2 pictures", masks, 1), lacks.format("1 of 3 pictures", masks, 2)]
    assert done == [(2, 0, {}), (1, 2, {}), (3, 0, {})]
    with pytest.raises(UserError, match="unknown option of sdedit 'stepz'"):
        watched(monkeypatch, [], inbox, out, **how | {"options": {"stepz": 2}})
    other = how | {"options": how["options"] | {"steps": 3}}
    with pytest.raises(UserError, match="holds another run"):
        watched(monkeypatch, [], inbox, out, **other)


def test_a_watch_says_once_that_its_folder_went_and_takes_it_up_again(root, ends, tmp_path, monkeypatch):  # noqa: F811
    inbox, away = tmp_path / "in", tmp_path / "away"
    picture(inbox / "0.png", 0)
    back = lambda: away.rename(inbox)
    events = [lambda: inbox.rename(away), None, back, lambda: picture(inbox / "1.png", 1)]
    done, said = watched(monkeypatch, events, inbox, tmp_path / "out", **DDIB, **ends)
    assert said == [f"{inbox}: not there any more; waiting for it"]
    assert done == [(1, 0, {}), (1, 1, {})]


def test_a_folder_that_is_watched_is_translated_as_it_grows(root, ends, tmp_path, monkeypatch):  # noqa: F811
    inbox, out = tmp_path / "in", tmp_path / "out"
    inbox.mkdir()
    events = iter([
        lambda: None,  # nothing there
        lambda: picture(inbox / "0.png", 0),
        lambda: None,
        lambda: (inbox / "1.png").write_bytes((inbox / "0.png").read_bytes()[:50]),  # still being written
        lambda: picture(inbox / "1.png", 1),
        lambda: None,
        lambda: (inbox / "2.png").write_bytes(b"broken"),
        lambda: None,
        lambda: None,
        lambda: picture(inbox / "0.png", 5),
        lambda: None,
    ])  # fmt: skip
    monkeypatch.setattr("sfumato.translation.watch_folder.time.sleep", lambda _: next(events)())
    opened = []
    load = import_module("sfumato.translation.translator").open_model
    monkeypatch.setattr(
        "sfumato.translation.translator.open_model", lambda *a: opened.append(a) or load(*a)
    )
    watched = sfumato.watch_folder(inbox, out, **DDIB, **ends)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        four = [next(watched) for _ in range(4)]
        found = [(done.written, done.kept, len(done.skipped)) for done in four]
    assert found == [(1, 0, 0), (1, 1, 0), (0, 2, 1), (1, 1, 1)]
    assert len(opened) == 1
    translate(inbox / "0.png", tmp_path / "0.png", **DDIB, **ends)
    assert (out / "0.png").read_bytes() == (tmp_path / "0.png").read_bytes()
    with pytest.raises(UserError, match="0.png is no folder: expected folders"):
        sfumato.watch_folder(inbox / "0.png", out, **DDIB, **ends)
    with pytest.raises(UserError, match="auto: pictures that are to come cannot be measured: expected"):
        sfumato.watch_folder(inbox, out, **DDIB, **ends, range="auto")


def test_a_repetition_says_which_pictures_and_whose_weights_changed(root, ends, tmp_path):  # noqa: F811
    for i in range(7):
        picture(tmp_path / f"in/{i}.png", i)
    translate(tmp_path / "in", tmp_path / "out", **DDIB, **ends)

    def said():
        with pytest.raises(UserError, match="the run cannot be repeated: ") as error:
            repeat(tmp_path / "out", tmp_path / "again")
        return str(error.value).removeprefix("the run cannot be repeated: ")

    picture(tmp_path / "in/2.png", 99)
    assert said() == "1 of 7 pictures changed since (2.png)"
    picture(tmp_path / "in/new.png", 98)
    assert said() == "1 of 8 pictures changed since (2.png); 1 of 8 pictures is new (new.png)"
    (tmp_path / "in/new.png").unlink()
    for i in range(6):
        picture(tmp_path / f"in/{i}.png", 90 + i)
    assert said() == "6 of 7 pictures changed since (0.png, 1.png, 2.png, 3.png, 4.png, ...)"
    for i in range(7):
        picture(tmp_path / f"in/{i}.png", i)
    (tmp_path / "in/3.png").unlink()
    with pytest.warns(UserWarning, match="3.png"):
        assert said() == "1 of 6 pictures is gone (3.png)"
    picture(tmp_path / "in/3.png", 3)
    run = json.loads((tmp_path / "out/run.json").read_text())
    run["run"]["weights"]["target"] = "0" * 64
    (tmp_path / "out/run.json").write_text(json.dumps(run))
    assert said() == f"the weights of {run['from']['models']['target']} changed since"
    del run["from"]["made_of"], run["run"]["weights"]["target"]
    run["run"]["pictures"]["sha256"] = "0" * 64
    (tmp_path / "out/run.json").write_text(json.dumps(run))
    assert "pictures" in said()  # of an earlier version, which did not record what it was made of
