"""Methods side by side: the same sources, the same seeds, one protocol, one page.

Every cell (an entry of the comparison and a seed) is a folder of its own, translated as `sfumato
translate` does it and scored once; a comparison that was stopped, or got one more entry, does only
what is missing.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import shlex
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from sfumato.core.arguments import checked
from sfumato.core.errors import UserError
from sfumato.data.folders import for_folder, write_text
from sfumato.data.pictures import ImageSet, controls
from sfumato.data.preparation import Side
from sfumato.data.resize import Resize
from sfumato.evaluation.cells import Cells, progress, sources_of
from sfumato.evaluation.entries import TAKEN, Entry, distinct, entries_of
from sfumato.evaluation.equal_faithfulness import at_equal_l2
from sfumato.evaluation.judge import Judge
from sfumato.evaluation.measures import Scores, Task
from sfumato.evaluation.page import render
from sfumato.evaluation.protocol import Protocol, named_protocol
from sfumato.evaluation.ready import part_of, ready, same
from sfumato.evaluation.rows import Comparison, Row, add_extras, elsewhere, withhold
from sfumato.module import in_single


@checked
@in_single
def compare(
    source: str | Path,
    out: str | Path,
    entries: Sequence[str | Entry],
    *,
    target: str | Path,
    truth: str | Path | None = None,
    train: str | Path | None = None,
    protocol: Protocol | str = "standard",
    features: str | None = None,
    inception: str | Path | None = None,
    groups: str | None = None,
    task: Task | str | None = None,
    classifier: Callable[[Tensor], Tensor] | None = None,
    seed: int = 0,
    seeds: int = 1,
    limit: int | None = None,
    size: int | None = None,
    resize: Resize | None = None,
    side: Side | None = None,
    batch: int | None = None,
    round_trip: bool = False,
    device: str = "auto",
) -> Comparison:
    """Translates the same pictures by several methods, scores them, and writes OUT/index.html.

    Args:
        source: folder of held-out pictures of the source domain.
        out: folder for the page, the scores and the results; the same command goes on there.
        entries: what to compare: "METHOD source=... target=... option=value,value", "model=FOLDER",
            "label=NAME folder=RESULTS" or "scores=FILE"; several values of an option are swept.
        target: folder of real pictures of the target domain on which no method was trained.
        truth: folder of the right answers, named like the sources.
        train: folder of the target pictures that the methods were trained on, to look for copies.
        protocol: standard, egsde, egsde_m2f, cyclediffusion, or a JSON file of your own.
        features: lite0, inception, or the folder of a domain classifier that guides none of the
            methods; in place of the protocol's features.
        inception: file of the FID network's weights, pt_inception-2015-12-05-6726825d.pth.
        groups: FILE.csv:COLUMN; pictures of one group do not count as independent evidence.
        task: labels that are compared with the truth's: land_water or relief_water.
        classifier: images (B, 3, H, W) -> (B,) 1 for the target domain; a linear probe by default.
        seed: first seed of the noise.
        seeds: how many seeds; 4 or more show how sure a method is.
        limit: translate only this many of the sources, spread evenly through the folder.
        size: side of the pictures in pixels; by default that of the models' training.
        resize: how pictures get that size, crop or stretch; by default as in the models' training, or as
            the run.json of a folder of results says; pictures from elsewhere are cropped.
        side: which half of a picture is read: left, right, or whole; the default is found in the same way.
        batch: pictures translated at a time.
        round_trip: translate back, too, where a method has both source and target.
        device: auto, cpu, cuda or cuda:N.

    Raises:
        UserError: for anything wrong with the entries or pictures, in one line.
    """
    out, parts = (
        for_folder(out),
        [[e] if isinstance(e, Entry) else entries_of([e]) for e in entries],
    )
    chosen = distinct([e for part in parts for e in part])
    rules = protocol if isinstance(protocol, Protocol) else named_protocol(protocol, features)
    if not chosen:
        raise UserError(
            "nothing to compare: name at least one entry, such as 'sdedit target=FOLDER:DOMAIN' or "
            "'label=NAME folder=RESULTS'"
        )
    if seeds < 1 or (limit is not None and limit < 2):
        raise UserError(f"{seeds} seeds, limit {limit}: expected at least 1 and 2")
    ours = {"cells", "scores"}
    if out.exists() and not (
        out.is_dir() and (not (had := set(out.iterdir())) or {p.name for p in had} & ours)
    ):
        raise UserError(f"{out} holds something else than a comparison: choose another --out")
    notes: list[str] = []
    source, target = part_of(source, "test", notes, chosen), part_of(target, "test", notes)
    truth, train = truth and part_of(truth, "test", notes), train and part_of(train, "train", notes)
    source = sources_of(source, limit, out)
    # what is wrong is said before hours of translation
    how = {"size": size, "resize": resize, "side": side}
    pictures, prepare, seen = ready(chosen, source, rules, how, limit is not None)
    judge = Judge(
        source, target, seen, truth=truth, train=train, protocol=rules, weights=inception,
        groups=groups, task=task, classifier=classifier, prepare=prepare,
    )  # fmt: skip
    others = [elsewhere(e, judge.record) if e.scores is not None else [] for e in chosen]
    results = {e.label: p for e in chosen for p in pictures.get(e.label, [])}
    notes += judge.said() + same({"source": judge.source, "target": judge.target} | results)
    judge.embed(judge.target, judge.features)  # kept for the scores

    work = Cells(source, out, how, batch, device)
    backs: dict[str, ImageSet] = {}
    costs: dict[str, dict[str, float]] = {}
    for e in chosen:
        if e.scores is not None or e.folder is not None:
            continue
        pictures[e.label], costs[e.label] = work.run(e, range(seed, seed + seeds))
        if round_trip and {"source", "target"} <= e.roles.keys():
            swapped = dict(e.roles) | {"source": e.roles["target"], "target": e.roles["source"]}
            back = replace(e, label=f"{e.label} back", roles=swapped)
            cell = work.folder(e, seed)
            whole = how | {"side": "whole"}
            backs[e.label] = Cells(cell, out, whole, batch, device).run(back, [seed])[0][0]
    rows: list[Row] = []
    todo: list[tuple[Row, list[ImageSet], list[ImageSet | None]]] = []
    for e, known in zip(chosen, others, strict=True):
        if e.scores is not None:
            rows += known
            continue
        rows.append(Row(e.label, e.family, "method", {}, cost=costs.get(e.label, {})))
        sets = pictures[e.label]
        todo.append((rows[-1], sets, [backs.get(e.label), *[None] * (len(sets) - 1)]))
    styles, shown = judge.train or judge.target, judge.source.fitted(judge.size)
    for name, made in controls(shown, styles.fitted(judge.size)).items():
        rows.append(Row(name, name, "control", {}, cost={"nfe": 0}))
        todo.append((rows[-1], [made], [None]))
    progress(f"scoring {len(todo)} rows")
    found = iter(
        _scored(judge, [s for _, sets, _ in todo for s in sets],
                [b for _, _, back in todo for b in back], out / "scores")
    )  # fmt: skip
    for row, sets, _ in todo:
        each = [next(found) for _ in sets]
        if row.kind == "method":  # a control is flat on purpose
            notes += [n for n in each[0].notes if n not in notes]
        row.fill(each, sets)
        if row.kind == "method":
            add_extras(row, judge)
    notes += withhold(rows, judge.classifier is not None)
    equal = at_equal_l2(rows, judge)
    for row in rows:
        row.at_equal_l2 = equal.get(row.label, {})
    if floor := judge.real():
        rows.append(Row("real, training", "real, training", "control", floor))
    comparison = Comparison(rows, judge, notes, seed, out)
    _write(comparison)
    return comparison


def _scored(
    judge: Judge, many: Sequence[ImageSet], backs: Sequence[ImageSet | None], folder: Path
) -> list[Scores]:
    """Scores of sets of results, kept under a name made of all that they depend on."""
    own = judge.classifier is not None or (judge.task is not None and judge.task_name is None)
    files = []
    for results, back in zip(many, backs, strict=True):
        what = [judge.record, results.key, back.key if back else None]
        key = hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:16]
        files.append(folder / f"{key}.json")
    # a function of one's own may have changed since
    missing = [i for i, file in enumerate(files) if own or not _whole(file)]
    fresh = judge.scores([many[i] for i in missing], [backs[i] for i in missing]) if missing else []
    for i, scores in zip(missing, fresh, strict=True):
        write_text(files[i], json.dumps(scores.to_json()))
    return [Scores.read(file) for file in files]


def _whole(file: Path) -> bool:
    """Whether scores are there that can be read."""
    with contextlib.suppress(UserError):
        return bool(Scores.read(file))
    return False


def _write(c: Comparison) -> None:
    out = c.folder
    scores = {"protocol": c.judge.record, "notes": c.notes, "names": c.judge.source.names,
              "rows": [row.to_json() for row in c.rows]}  # fmt: skip
    if said := _replaced(out / "scores.json", scores):
        progress(said)
    write_text(out / "protocol.json", json.dumps(c.protocol, indent=2) + "\n")
    write_text(out / "scores.json", json.dumps(scores, indent=1) + "\n")
    write_text(out / "index.html", render(c))


def _replaced(file: Path, now: Mapping[str, Any]) -> str:
    """In a line, which earlier scores go for these, and what is other; "" if none go.

    Args:
        file: scores.json as it was written before, if it was.
        now: what it is going to hold.
    """
    try:
        was = json.loads(file.read_text(encoding="utf-8"))
        before, after = (_facts(scores) for scores in (was, json.loads(json.dumps(now))))
        made = time.strftime("%Y-%m-%d %H:%M", time.localtime(file.stat().st_mtime))
    except FileNotFoundError:
        return ""
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return f"{file} is damaged, and replaced"
    other = [f"other {key}" for key in before if key in after and before[key] != after[key]]
    other += [key for key in before if key not in after]
    said = f"replaces the scores of {made} in {file.parent}, which had {', '.join(other)}"
    return said if other else ""


def _facts(scores: Mapping[str, Any]) -> dict[str, str]:
    """What scores were made with, and the numbers of their rows, by what they are called."""
    record = dict(scores["protocol"])
    facts = {"target" if role == "reference" else role: p["sha256"]
             for role, p in record.pop("pictures").items()}  # fmt: skip
    facts |= record | {f"numbers of {row['label']}": row["numbers"] for row in scores["rows"]}
    return {key: json.dumps(value, sort_keys=True) for key, value in facts.items()}


@checked
@in_single
def evaluate(
    results: str | Path,
    source: str | Path,
    *,
    target: str | Path,
    out: str | Path | None = None,
    truth: str | Path | None = None,
    train: str | Path | None = None,
    protocol: Protocol | str = "standard",
    features: str | None = None,
    inception: str | Path | None = None,
    groups: str | None = None,
    task: Task | str | None = None,
    classifier: Callable[[Tensor], Tensor] | None = None,
    resize: Resize | None = None,
    side: Side | None = None,
) -> Comparison:
    """Scores one folder of results, beside the trivial controls: table, JSON and a page.

    Args:
        results: folder of translated pictures, named like their sources.
        source: folder of the pictures that they were made of.
        target: folder of real pictures of the target domain on which no method was trained.
        out: folder for the page and the scores; by default beside the results.
        truth: folder of the right answers, named like the sources.
        train: folder of the target pictures that the method was trained on, to look for copies.
        protocol: standard, egsde, egsde_m2f, cyclediffusion, or a JSON file of your own.
        features: lite0, inception, or the folder of a domain classifier that guides none of the
            methods; in place of the protocol's features.
        inception: file of the FID network's weights, pt_inception-2015-12-05-6726825d.pth.
        groups: FILE.csv:COLUMN; pictures of one group do not count as independent evidence.
        task: labels that are compared with the truth's: land_water or relief_water.
        classifier: images (B, 3, H, W) -> (B,) 1 for the target domain; a linear probe by default.
        resize: how sources were brought to the results' size, crop or stretch; by default what the
            results' run.json says, and crop for pictures from elsewhere.
        side: which half of a source is read: left, right, or whole; the default is found in the same way.

    Raises:
        UserError: names that do not match, pictures that cannot be read, an unknown protocol.
    """
    results = Path(results)
    label = f"{results.name} results" if results.name in TAKEN else results.name
    out = results.with_name(f"{results.name}-scores") if out is None else out
    return compare(
        source, out, [Entry(label, label, folder=str(results))], target=target,
        truth=truth, train=train, protocol=protocol, features=features, inception=inception,
        groups=groups, task=task, classifier=classifier, resize=resize, side=side,
    )  # fmt: skip


def swept(method: str, roles: Mapping[str, str | None], options: Sequence[str]) -> list[Entry]:
    """One entry for every combination of the options' values, such as strength=0.3,0.5."""
    words = [f"{k}={v}" for k, v in roles.items() if v is not None]
    return entries_of([shlex.join([method, *words, *options])])
