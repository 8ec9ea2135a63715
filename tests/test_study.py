"""The page is blind, seeded and self-contained; scores have intervals that cover."""

import json
import re
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from sfumato.core.errors import UserError
from sfumato.data import Preparation, write_png
from sfumato.evaluation.preference_study import score, study, wilson


@pytest.fixture
def folders(tmp_path):
    """source, ours (bright) and theirs (dark): 12 pictures of equal names, one in a subfolder."""
    rng = np.random.default_rng(0)
    for folder, level in (("source", 0), ("ours", 0.5), ("theirs", -0.5)):
        for i in range(12):
            name = f"sub/{i}.png" if i == 3 else f"{i}.png"
            noise = 0.1 * rng.normal(size=(3, 8, 8)).astype(np.float32)
            write_png(tmp_path / folder / name, torch.from_numpy(noise) + level)
    return [tmp_path / f for f in ("source", "ours", "theirs")]


@pytest.fixture
def made(folders, tmp_path):
    """The page, its key's path, and a writer of answer files."""
    page = study(*folders, tmp_path / "study", count=10, repeats=3, names=("new", "old"))
    path = tmp_path / "study/study_key.json"
    key = json.loads(path.read_text())

    def write(name, prefers, rater=None, first=None):
        """Answers of a rater that chooses by prefers(item of the key) -> "new" | "old"."""
        answers = [
            {
                "item": i["item"],
                "choice": "left" if i["left"] == prefers(i) else "right",
                "seconds": 1,
            }
            for i in key["items"][:first]
        ]
        content = {"format": 1, "study": key["study"], "rater": rater or name, "answers": answers}
        file = tmp_path / f"{name}.json"
        file.write_text(json.dumps(content))
        return file

    return page, path, write


def data_of(page):
    return json.loads(
        re.search(r'<script id="data"[^>]*>(.*?)</script>', page.read_text(), re.S)[1]
    )


def test_page_is_blind_and_self_contained(made):
    page, key, _ = made
    text, key = page.read_text(), json.loads(key.read_text())
    assert not re.search(r"""(src|href)=["']?(?!data:)[a-z/]""", text)
    assert "http" not in text
    data = data_of(page)
    assert set(data) == {"format", "study", "items"}
    shown = text[: text.index("<script")]
    for word in ("new", "old", "ours", "theirs"):
        assert not re.search(rf"\b{word}\b", shown)
    assert {i["left"] for i in key["items"]} == {"new", "old"}
    assert all(len(item) == 3 for item in data["items"])


def test_key_says_what_is_where(made, folders):
    from base64 import b64decode
    from io import BytesIO

    from PIL import Image

    page, key, _ = made
    items = data_of(page)["items"]
    for item in json.loads(key.read_text())["items"]:
        _, left, right = (
            np.asarray(Image.open(BytesIO(b64decode(x)))).mean() for x in items[item["item"]]
        )
        assert (left > right) == (item["left"] == "new")  # ours is bright


def test_repeats_are_mirrored_and_late(made):
    items = json.loads(made[1].read_text())["items"]
    assert len(items) == 13
    assert len({i["name"] for i in items}) == 10
    for again in (i for i in items if i["repeat"]):
        (before,) = (i for i in items if i["name"] == again["name"] and not i["repeat"])
        assert before["item"] < again["item"]
        assert before["left"] != again["left"]


def test_seeded(folders, tmp_path):
    pages = [
        study(*folders, tmp_path / n, seed=s).read_bytes()
        for n, s in zip("abc", (0, 0, 1), strict=True)
    ]
    assert pages[0] == pages[1] != pages[2]


def test_sides_are_even(folders, tmp_path):
    left = []
    for seed in range(12):
        study(*folders, tmp_path / str(seed), seed=seed, repeats=0)
        items = json.loads((tmp_path / str(seed) / "study_key.json").read_text())["items"]
        left += [i["left"] == "A" for i in items]
    assert 0.38 < np.mean(left) < 0.62


def test_a_study_is_not_overwritten(folders, tmp_path):
    study(*folders, tmp_path / "a")
    study(*folders, tmp_path / "a")  # the same one
    with pytest.raises(ValueError, match="another study"):
        study(*folders, tmp_path / "a", seed=1)


def test_results_are_matched_by_name(folders, tmp_path):
    (folders[1] / "0.png").rename(folders[1] / "zero.png")
    with pytest.raises(ValueError, match=r"1 of \d+ results in .*ours has no source of their name: zero"):
        study(*folders, tmp_path / "a")
    (folders[1] / "zero.png").unlink()
    with pytest.raises(ValueError, match=r"sources has no result of their name in .*ours: 0"):
        study(*folders, tmp_path / "a")
    assert not (tmp_path / "a").exists()


def test_bad_arguments(folders, tmp_path):
    with pytest.raises(ValueError, match="two names"):
        study(*folders, tmp_path / "a", names=("x", "x"))
    with pytest.raises(ValueError, match="at least 1"):
        study(*folders, tmp_path / "a", count=0)
    with pytest.warns(UserWarning, match="hold the same pictures: there is nothing to prefer"):
        study(folders[0], folders[1], folders[1], tmp_path / "b")
    write_png(folders[1] / "5.png", torch.zeros(3, 6, 6))
    with pytest.raises(ValueError, match=r"results for 5 are 6x6 and 8x8"):
        study(*folders, tmp_path / "a")


def test_score_of_one_rater(made):
    _, key, write = made
    found = score([write("always", lambda i: "new")], key)
    assert (found.rate, found.n, found.raters, found.consistency) == (1, 10, 1, 1)
    assert (found.low, found.high) == wilson(1, 10)
    assert found.text.startswith("new was preferred to old in 100.0% of 10 answers by 1 rater")
    sided = score([write("sided", lambda i: i["left"])], key)  # always the left side
    assert sided.consistency == 0
    assert "no clear preference" in sided.text
    part = score([write("part", lambda i: "old", first=4)], key)
    assert (part.rate, part.n) == (0, 4)


def test_wilson_by_its_definition():
    """Its ends are the shares whose own standard error just reaches the observed one."""
    for k, n in ((0, 7), (33, 50), (50, 50)):
        for p in wilson(k / n, n):
            assert abs(k / n - p) == pytest.approx(1.959964 * (p * (1 - p) / n) ** 0.5, abs=1e-7)


def test_intervals_of_several_raters_cover(report):
    """Raters and pairs both differ: pairs alone would give intervals that are too narrow."""
    from sfumato.evaluation.preference_study import _pigeonhole

    rng, raters, pairs = np.random.default_rng(0), 8, 40
    hits, naive = [], []
    for seed in range(150):
        p = 0.6 + 0.15 * rng.normal(size=(raters, 1)) + 0.2 * rng.normal(size=(1, pairs))
        table = (rng.random((raters, pairs)) < p).astype(float)
        table[rng.random(table.shape) < 0.1] = np.nan  # unfinished
        truth = np.mean(np.clip(0.6 + 0.25 * np.random.default_rng(1).normal(size=10**5), 0, 1))
        low, high = _pigeonhole(table, 400, seed)
        hits.append(low <= truth <= high)
        low, high = wilson(np.nanmean(table), int(np.isfinite(table).sum()))
        naive.append(low <= truth <= high)
    report(
        "study: 95 % intervals cover (as if all answers were independent)",
        np.mean(hits),
        np.mean(naive),
    )
    assert np.mean(hits) > 0.9
    assert np.mean(naive) < np.mean(hits)


def test_score_of_several(made):
    _, key, write = made
    files = [
        write(str(k), lambda i, k=k: "new" if (i["item"] + k) % 3 else "old") for k in range(4)
    ]
    found = score(files, key)
    assert (found.raters, found.n) == (4, 40)
    assert 0 < found.low < found.rate < found.high < 1
    assert score([write(f"all{k}", lambda i: "new", first=9 + k) for k in range(2)], key).low < 0.8


@pytest.mark.parametrize(
    ("spoil", "match"),
    [
        (lambda c: "{", "is damaged"),
        (lambda c: "[]", "is damaged"),
        (lambda c: json.dumps(c | {"study": "f00"}), "no answers to this study"),
        (lambda c: json.dumps(c | {"answers": c["answers"][:1] * 2}), "is damaged"),
        (lambda c: json.dumps(c | {"answers": [{"item": 99, "choice": "left"}]}), "is damaged"),
        (lambda c: json.dumps(c | {"answers": [{"item": 1, "choice": "up"}]}), "is damaged"),
        (lambda c: json.dumps(c | {"answers": None}), "is damaged"),
        (lambda c: json.dumps(c | {"answers": [{"item": True, "choice": "left"}]}), "is damaged"),
        (lambda c: json.dumps(c | {"answers": [{"item": 1.0, "choice": "left"}]}), "is damaged"),
        (lambda c: json.dumps(c | {"rater": None}), "is damaged"),
        (lambda c: json.dumps(c | {"answers": []}), "holds no answers: leave it out"),
    ],
)
def test_bad_answers(made, spoil, match):
    _, key, write = made
    file = write("x", lambda i: "new")
    file.write_text(spoil(json.loads(file.read_text())))
    with pytest.raises(ValueError, match=match) as error:
        score([file], key)
    assert "\n" not in str(error.value)


def test_bad_files(made, tmp_path):
    _, key, write = made
    one = write("one", lambda i: "new")
    with pytest.raises(ValueError, match="answers of one rater"):
        score([one, one], key)
    with pytest.raises(ValueError, match="answers of one rater"):
        score([one, write("later", lambda i: "old", rater="one")], key)
    with pytest.raises(ValueError, match="missing.json cannot be read"):
        score([tmp_path / "missing.json"], key)
    text, want = one.read_text(), score([one], key)
    for encoding in ("utf-8-sig", "utf-16"):  # as editors save
        one.write_text(text, encoding=encoding)
        assert score([one], key) == want
    with pytest.raises(ValueError, match="no key of a study"):
        score([one], one)
    told = json.loads(key.read_text())
    for damage in ({"names": ["A"]}, {"items": [told["items"][0] | {"left": "C"}, *told["items"][1:]]}):
        (tmp_path / "other.json").write_text(json.dumps(told | damage))
        with pytest.raises(ValueError, match="no key of a study"):
            score([one], tmp_path / "other.json")
    with pytest.raises(ValueError, match="no answers given"):
        score([], key)


def test_in_a_browser(made, tmp_path):
    """A rater clicks and types through the page, leaves, comes back, and sends the file."""
    api = pytest.importorskip("playwright.sync_api")
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("chromium is not installed")
    page_file, key, _ = made
    left = [i["left"] for i in json.loads(key.read_text())["items"]]
    with api.sync_playwright() as p:
        browser = p.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        context = browser.new_context(viewport={"width": 1100, "height": 700}, offline=True)
        page = context.new_page()
        wrong = []
        page.on("pageerror", lambda e: wrong.append(str(e)))
        page.on("console", lambda m: wrong.append(m.text) if m.type == "error" else None)
        page.goto(page_file.as_uri())
        page.fill("#name", "Ann")
        page.screenshot(path=tmp_path / "begin.png")
        page.keyboard.press("ArrowLeft")  # in the field: no answer
        page.click("#start")
        page.screenshot(path=tmp_path / "ask.png")
        at = lambda: page.text_content("#where")
        assert at() == "1 of 13"
        page.keyboard.press("ArrowRight" if left[0] == "new" else "ArrowLeft")  # a slip
        page.keyboard.press("Backspace")
        assert at() == "1 of 13"
        for side in left[:4]:
            page.keyboard.press("ArrowLeft" if side == "new" else "ArrowRight")
        assert at() == "5 of 13"
        page.reload()
        assert at() == "5 of 13"
        for side in left[4:]:
            page.click("#left" if side == "new" else "#right")
        page.screenshot(path=tmp_path / "end.png")
        with page.expect_download() as download:
            page.click("#end .save")
        download.value.save_as(tmp_path / "answers.json")
        browser.close()
    assert wrong == []
    found = score([tmp_path / "answers.json"], key)
    assert (found.rate, found.n, found.consistency) == (1, 10, 1)


def test_the_guide_is_prepared_as_the_results_were(tmp_path):
    """Two methods that both gave back their stretched sources: all three pictures are one."""
    rng, prepare = np.random.default_rng(0), Preparation((16, 16), "stretch")
    for i in range(3):
        (tmp_path / "s").mkdir(exist_ok=True)
        file = tmp_path / f"s/{i}.png"
        Image.fromarray(rng.integers(0, 256, (16, 32, 3), np.uint8)).save(file)
        for results in ("a", "b"):
            write_png(tmp_path / results / file.name, prepare.read(file).image)
    run = {"options": {}, "size": 16, "resize": "stretch", "upscale": False}
    for results in ("a", "b"):
        text = json.dumps({"run": run, "from": {}, "result": None})
        (tmp_path / results / "run.json").write_text(text)
    page = study(tmp_path / "s", tmp_path / "a", tmp_path / "b", tmp_path / "out")
    items = data_of(page)["items"]
    assert len(items) > 2
    assert all(len(set(shown)) == 1 for shown in items)


def test_a_seed_below_0_is_refused(folders, made, tmp_path):
    with pytest.raises(UserError, match="seed must be at least 0, not -1"):
        study(*folders, tmp_path / "no", seed=-1)
    _, key, write = made
    with pytest.raises(UserError, match="seed must be at least 0, not -1"):
        score([write("a", lambda i: "new")], key, seed=-1)
