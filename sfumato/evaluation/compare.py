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
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from sfumato.checkpoints.model_folder import ModelFolder
from sfumato.core.arguments import checked
from sfumato.core.devices import with_torch_defaults
from sfumato.core.errors import UserError
from sfumato.core.options import told_by
from sfumato.core.terminal import count
from sfumato.data.folders import for_folder_of, regular, write_text
from sfumato.data.image_folder import ImageFolder
from sfumato.data.joined import listed
from sfumato.data.kept import decoding_once
from sfumato.data.pictures import ImageSet
from sfumato.evaluation.comparison import Comparison, add_extras, withhold
from sfumato.evaluation.entries import TAKEN, Entry, distinct, entries_of
from sfumato.evaluation.equal_faithfulness import at_equal_l2
from sfumato.evaluation.inputs import part_of, ready, same, sources_of
from sfumato.evaluation.judge import Judge
from sfumato.evaluation.options import CompareOptions, EvaluateOptions
from sfumato.evaluation.page import render
from sfumato.evaluation.result_folders import ResultFolders, progress
from sfumato.evaluation.scores import Scores


@checked
@told_by(CompareOptions)
@with_torch_defaults
@decoding_once()
def compare(told: CompareOptions) -> Comparison:
    """Translates the same pictures by several methods, scores them, and writes OUT/index.html.

    Raises:
        UserError: for anything wrong with the entries or pictures, in one line.
    """
    chosen = distinct([
        one for e in told.entries for one in ([e] if isinstance(e, Entry) else entries_of([e]))
    ])  # fmt: skip
    rules, seed = told.rules, told.seed
    if not chosen:
        raise UserError(
            "nothing to compare: name at least one entry, such as 'sdedit target=FOLDER:DOMAIN' or "
            "'label=NAME folder=RESULTS'"
        )
    out, notes = for_folder_of("a comparison", told.out, ("cells", "scores")), list[str]()
    source, target = (part_of(told.source, "test", notes, chosen), part_of(told.target, "test", notes))
    truth = told.truth and part_of(told.truth, "test", notes)
    train = told.train and part_of(told.train, "train", notes)
    beside = [part_of(folder, "test", notes, chosen) for folder in listed(told.beside)]
    source = sources_of(source, told.limit, out)
    # what is wrong is said before hours of translation
    prepared = {"size": told.size, "resize": told.resize, "side": told.side}
    loaded = dict[Path, ModelFolder]()
    there = ready(chosen, source, beside, rules, prepared, told.limit is not None, loaded, notes)
    how = {"batch": told.batch, "device": told.device, "beside": beside}
    folders = ResultFolders(source, out, prepared, loaded, **how)
    own = {"target": target, "truth": truth, "train": train, "protocol": rules, "beside": beside}
    judge = Judge(source, like=there.size, prepare=there.prepare, **told.scoring() | own)
    known = _elsewhere(chosen, judge)
    given = {e.label: p for e in chosen for p in there.pictures.get(e.label, [])}
    judge.embed(judge.target, judge.features)  # kept for the scores

    rows: list[Scores] = []
    for e, others in zip(chosen, known, strict=True):
        row = Scores(e.label, e.family, results=there.pictures.get(e.label, []))
        if e.translates:
            row.results, row.cost = folders.translated(e, range(seed, seed + told.seeds))
            row.back = folders.back(e, seed) if told.round_trip else None
        row.results = there.compared(row.results)
        rows += others if e.scores else [row]
    loaded.clear()
    translated = {e.label for e in chosen if e.translates}
    lone = [row.label for row in rows if row.label in translated and row.back is None]
    if told.round_trip and lone:
        notes.append(f"No round trip of {', '.join(lone)}: they translate one way alone.")
    rows += judge.controls()
    comparison = Comparison(rows, judge, notes, seed, out)
    _score(comparison)
    made = [one for row in rows for one in row.results if isinstance(one, ImageFolder)]
    left = [*judge.said(), *(line for one in made for line in one.said(others=False))]
    ends = {"source": judge.source, "target": judge.target} | given
    true = {"source": judge.source, "truth": judge.truth} if judge.truth else {}
    notes += dict.fromkeys([*left, *same(ends), *same(true)])
    if said := comparison.write():
        progress(said)
    write_text(out / "index.html", render(comparison))
    return comparison


def _elsewhere(chosen: Sequence[Entry], judge: Judge) -> list[list[Scores]]:
    """The rows of every entry's scores of another evaluation, under its label if it has one of its own.

    Raises:
        UserError: scores that do not fit, or two rows of one label.
    """
    known = [Scores.elsewhere(e.scores, judge.record) if e.scores else [] for e in chosen]
    for e, rows in zip(chosen, known, strict=True):
        for row in rows if e.scores and e.label != Path(e.scores).name else ():
            row.label = e.label if len(rows) == 1 else f"{e.label} {row.label}"
    labels = Counter(
        [row.label for rows in known for row in rows] + [e.label for e in chosen if not e.scores]
    )
    if twice := [label for label, n in labels.items() if n > 1]:
        raise UserError(f"{labels[twice[0]]} rows are called {twice[0]!r}: give each a label=NAME")
    return known


def _score(c: Comparison) -> None:
    """Scores every row that has pictures, and says how the rows lie to each other."""
    judge, rows = c.judge, [row for row in c.rows if row.results]
    progress(f"scoring {count(len(rows), 'row')}")
    sets = [(results, row.back if n == 0 else None) for row in rows for n, results in enumerate(row.results)]
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


def _kept(judge: Judge, sets: Sequence[tuple[ImageSet, ImageSet | None]], folder: Path) -> list[Scores]:
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
            found[i] = None if own or not _intact(file) else Scores.read(file)
    missing = [i for i, scores in enumerate(found) if scores is None]
    fresh = judge.scores(*zip(*(sets[i] for i in missing), strict=True)) if missing else []
    for i, scores in zip(missing, fresh, strict=True):
        text = json.dumps(scores.to_json())
        write_text(files[i], text[:-1] + f', "sha256": "{hashlib.sha256(text.encode()).hexdigest()}"}}')
    return [scores or Scores.read(file) for scores, file in zip(found, files, strict=True)]


def _intact(file: Path) -> bool:
    """Whether kept scores are as they were written."""
    with contextlib.suppress(OSError, ValueError):
        body, _, rest = regular(file).read_text(encoding="utf-8").rpartition(', "sha256": "')
        return rest == hashlib.sha256(f"{body}}}".encode()).hexdigest() + '"}'
    return False


@checked
@told_by(EvaluateOptions)
def evaluate(told: EvaluateOptions) -> Comparison:
    """Scores one folder of results, beside the trivial controls: table, JSON and a page.

    Raises:
        UserError: names that do not match, pictures that cannot be read, an unknown protocol.
    """
    results = Path(told.results)
    label = f"{results.name} results" if results.name in TAKEN else results.name
    out = results.with_name(f"{results.name}-scores") if told.out is None else told.out
    entry = Entry(label, label, folder=str(results))
    return compare(told.source, out, [entry], **told.scoring())


def swept(method: str, roles: Mapping[str, str | None], options: Sequence[str]) -> list[Entry]:
    """One entry for every combination of the options' values, such as strength=0.3,0.5."""
    words = [f"{k}={v}" for k, v in roles.items() if v is not None]
    return entries_of([shlex.join([method, *words, *options])])
