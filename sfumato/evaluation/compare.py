"""Methods side by side: the same sources, the same seeds, one protocol, one page.

Every entry and seed has a folder of its own, translated as `sfumato
translate` does it and scored once; a comparison that was stopped, or got one more entry, does only
what is missing.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import shlex
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from torch import Tensor

from sfumato.checkpoints.model_folder import ModelFolder
from sfumato.core.arguments import checked
from sfumato.core.errors import UserError
from sfumato.core.ranges import Count, Several
from sfumato.data.folders import for_folder, write_text
from sfumato.data.pictures import ImageSet
from sfumato.data.preparation import Side, decoding_once
from sfumato.data.resize import Resize
from sfumato.evaluation.comparison import Comparison, add_extras, withhold
from sfumato.evaluation.entries import TAKEN, Entry, distinct, entries_of
from sfumato.evaluation.equal_faithfulness import at_equal_l2
from sfumato.evaluation.inputs import part_of, ready, same, sources_of
from sfumato.evaluation.judge import Judge
from sfumato.evaluation.measures import Task
from sfumato.evaluation.page import render
from sfumato.evaluation.protocol import Protocol, named_protocol
from sfumato.evaluation.result_folders import ResultFolders, progress
from sfumato.evaluation.scores import Scores
from sfumato.module import in_single


@checked
@in_single
@decoding_once()
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
    seeds: Count = 1,
    limit: Several | None = None,
    size: Count | None = None,
    resize: Resize | None = None,
    side: Side | None = None,
    batch: Count | None = None,
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
        device: auto, cpu, cuda or cuda:N; of translations and scores.

    Raises:
        UserError: for anything wrong with the entries or pictures, in one line.
    """
    chosen = distinct([
        one for e in entries for one in ([e] if isinstance(e, Entry) else entries_of([e]))
    ])  # fmt: skip
    rules = protocol if isinstance(protocol, Protocol) else named_protocol(protocol, features)
    if not chosen:
        raise UserError(
            "nothing to compare: name at least one entry, such as 'sdedit target=FOLDER:DOMAIN' or "
            "'label=NAME folder=RESULTS'"
        )
    out, notes = _place(out), list[str]()
    source, target = part_of(source, "test", notes, chosen), part_of(target, "test", notes)
    truth, train = truth and part_of(truth, "test", notes), train and part_of(train, "train", notes)
    source = sources_of(source, limit, out)
    # what is wrong is said before hours of translation
    prepared, loaded = {"size": size, "resize": resize, "side": side}, dict[Path, ModelFolder]()
    there, prepare, seen = ready(chosen, source, rules, prepared, limit is not None, loaded)
    folders = ResultFolders(source, out, prepared, loaded, batch=batch, device=device)
    judge = Judge(
        source, target, seen, truth=truth, train=train, protocol=rules, weights=inception, groups=groups,
        task=task, classifier=classifier, prepare=prepare, device=device,
    )  # fmt: skip
    known = [Scores.elsewhere(e.scores, judge.record) if e.scores else [] for e in chosen]
    given = {e.label: p for e in chosen for p in there.get(e.label, [])}
    notes += judge.said() + same({"source": judge.source, "target": judge.target} | given)
    judge.embed(judge.target, judge.features)  # kept for the scores

    rows: list[Scores] = []
    for e, others in zip(chosen, known, strict=True):
        row = Scores(e.label, e.family, results=there.get(e.label, []))
        if e.translates:
            row.results, row.cost = folders.translated(e, range(seed, seed + seeds))
            row.back = folders.back(e, seed) if round_trip else None
        rows += others if e.scores else [row]
    loaded.clear()
    rows += judge.controls()
    comparison = Comparison(rows, judge, notes, seed, out)
    _score(comparison)
    if said := comparison.write():
        progress(said)
    write_text(out / "index.html", render(comparison))
    return comparison


def _place(out: str | Path) -> Path:
    """The folder of a comparison, which may be there.

    Raises:
        UserError: something else is there.
    """
    out = for_folder(out)
    names = {p.name for p in out.iterdir()} if out.exists() else set()
    if names and not names & {"cells", "scores"}:
        raise UserError(f"{out} holds something else than a comparison: choose another --out")
    return out


def _score(c: Comparison) -> None:
    """Scores every row that has pictures, and says how the rows lie to each other."""
    judge, rows = c.judge, [row for row in c.rows if row.results]
    progress(f"scoring {len(rows)} rows")
    sets = [
        (results, row.back if n == 0 else None)
        for row in rows
        for n, results in enumerate(row.results)
    ]
    found = iter(_kept(judge, sets, c.folder / "scores"))
    for row in rows:
        row.average([next(found) for _ in row.results])
        if row.kind == "method":  # a control is flat on purpose
            c.notes += [n for n in row.notes if n not in c.notes]
            add_extras(row, judge)
    c.notes += withhold(c.rows, judge.classifier is not None)
    equal = at_equal_l2(c.rows, judge)
    for row in c.rows:
        row.at_equal_l2 = equal.get(row.label, {})
    if floor := judge.real():
        c.rows.append(Scores("real, training", "real, training", "control", floor))


def _kept(
    judge: Judge, sets: Sequence[tuple[ImageSet, ImageSet | None]], folder: Path
) -> list[Scores]:
    """Scores of results, and their translations back, kept under a name made of all that they depend on."""
    own = judge.classifier is not None or (judge.task is not None and judge.task_name is None)
    files = []
    for results, back in sets:
        what = [judge.record, results.key, back.key if back else None]
        key = hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:16]
        files.append(folder / f"{key}.json")
    found: list[Scores | None] = [None] * len(files)
    for i, file in enumerate(files):
        with contextlib.suppress(UserError):  # a function of one's own may have changed since
            found[i] = None if own else Scores.read(file)
    missing = [i for i, scores in enumerate(found) if scores is None]
    fresh = judge.scores(*zip(*(sets[i] for i in missing), strict=True)) if missing else []
    for i, scores in zip(missing, fresh, strict=True):
        write_text(files[i], json.dumps(scores.to_json()))
    return [scores or Scores.read(file) for scores, file in zip(found, files, strict=True)]


@checked
@in_single
@decoding_once()
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
    device: str = "auto",
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
        device: auto, cpu, cuda or cuda:N.

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
        device=device,
    )  # fmt: skip


def swept(method: str, roles: Mapping[str, str | None], options: Sequence[str]) -> list[Entry]:
    """One entry for every combination of the options' values, such as strength=0.3,0.5."""
    words = [f"{k}={v}" for k, v in roles.items() if v is not None]
    return entries_of([shlex.join([method, *words, *options])])
