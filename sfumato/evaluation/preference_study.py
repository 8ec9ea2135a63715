"""Which of two methods do people prefer?

`study` writes one page with pairs of results, blind and in random order, that a browser shows without
network or server, and `score` counts the answers it downloads.  As in EGSDE's study on Mechanical Turk
(Zhao et al. 2022, https://arxiv.org/abs/2207.06635, section 5), a rater sees a source and its translations
by two methods and says which is better, realism and faithfulness together; the result is how often the
first method was.  Some pairs come again with sides exchanged: whoever answers those otherwise is
guessing, or has a favourite side.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sfumato.core.arguments import checked
from sfumato.core.errors import UserError
from sfumato.core.ranges import Count, Whole
from sfumato.core.terminal import count
from sfumato.data import base64_png
from sfumato.data.folders import for_folder_of, parse_json, read_text, write_text
from sfumato.data.image_folder import ImageFolder
from sfumato.data.pictures import matched
from sfumato.data.preparation import Preparation
from sfumato.data.show import page
from sfumato.evaluation.inputs import made_by, results_in, shared, sources_in

FORMAT = 1
QUESTION = "Which translated image is better? It should look realistic and keep the structure of the source."


@checked
def study(
    source: str | Path,
    ours: str | Path,
    theirs: str | Path,
    out: str | Path,
    *,
    count: Count = 50,
    repeats: Whole = 5,
    seed: Whole = 0,
    question: str = QUESTION,
    names: tuple[str, str] = ("A", "B"),
) -> Path:
    """Writes out/study.html for the raters and out/study_key.json, which says what was where.

    The page holds its pictures, but neither the methods' names nor which side is whose.  The same
    call gives the same bytes.

    Args:
        source: folder of source pictures.
        ours: folder of results of the first method, named like their sources.
        theirs: folder of results of the second method, named alike.
        out: folder for the page and its key; do not show the key to the raters.
        count: pairs, drawn at random; all pairs, if there are fewer.
        repeats: pairs that are shown a second time with their sides exchanged.
        seed: seed of the pairs, their order and their sides.
        question: what raters are asked.
        names: names of the methods, which only the key and the score use.

    Returns:
        The page.

    Raises:
        UserError: names of results or sources differ, sizes differ, or `out` holds something else.
    """
    out = for_folder_of("a study", out, ("study.html", "study_key.json"))
    if len(set(names)) != 2:
        raise UserError(f"both methods are named {names[0]!r}: give them two names")
    made = {name: made_by(Path(folder)) for name, folder in zip(names, (ours, theirs), strict=True)}
    sets = [sources_in(source, (), shared(made) or Preparation()), *map(results_in, (ours, theirs))]
    for images in sets[1:]:
        matched(images, sets[0].names)
    if sets[1].hashes == sets[2].hashes:
        warnings.warn(f"{ours} and {theirs} hold the same pictures: there is nothing to prefer", stacklevel=3)
    key = _draw(sets, count, repeats, seed, question, names)
    path = out / "study_key.json"
    if path.exists() and _read(path).get("study") != key["study"]:
        raise UserError(f"{path} belongs to another study: choose another folder")
    if (out / "study.html").exists() and not path.exists():
        raise UserError(f"{out} holds a study.html without its {path.name}: choose another folder")
    write_text(path, json.dumps(key, indent=1) + "\n")
    write_text(out / "study.html", _page(sets, key))
    for text in [line for one in sets for line in one.said(others=False)]:
        warnings.warn(text, stacklevel=3)
    return out / "study.html"


@dataclass(frozen=True)
class Preference:
    """How often the first method was preferred.

    Attributes:
        rate: share of answers, in [0,1].
        low: lower end of its 95 % interval.
        high: upper end.
        n: answers, repeats left out.
        raters: answer files.
        consistency: share of repeated pairs answered alike both times; None without any.
        names: names of the methods.
    """

    rate: float
    low: float
    high: float
    n: int
    raters: int
    consistency: float | None
    names: tuple[str, str]

    @property
    def text(self) -> str:
        """The result in plain words."""
        said = (
            f"{self.names[0]} was preferred to {self.names[1]} in {self.rate:.1%} of "
            f"{count(self.n, 'answer')} by "
            f"{count(self.raters, 'rater')} (95 % interval {self.low:.1%} to {self.high:.1%})"
        )
        if self.low <= 0.5 <= self.high:
            said += ": no clear preference"
        if self.consistency is not None:
            said += f". Repeated pairs were answered alike in {self.consistency:.0%} of cases"
        return said + "."


@checked
def score(
    answers: Sequence[str | Path], key: str | Path, *, resamples: Count = 2000, seed: Whole = 0
) -> Preference:
    """Counts the answers that the page downloaded.

    The interval of one rater is Wilson's (1927): the pairs vary, the rater does not.  With several,
    raters and pairs are both resampled (Owen 2007, "The pigeonhole bootstrap", Annals of Applied
    Statistics 1), so that it speaks of other raters and other pairs; where all answers are equal,
    it is Wilson's with one answer a pair.

    Args:
        answers: files, one a rater; unfinished ones count as far as they go.
        key: the study's study_key.json.
        resamples: resamples of the bootstrap.
        seed: of it.

    Raises:
        UserError: a file that is damaged, of another study, or of a rater already counted.
    """
    key = Path(key)
    content = _read(key)
    try:
        study, names, items = content["study"], tuple(content["names"]), content["items"]
        (ours, theirs), sides = names, {item["item"]: item["left"] for item in items}
        if not {*sides.values()} <= {ours, theirs}:
            raise ValueError
        left = {item: name == ours for item, name in sides.items()}
        pair = {item["item"]: item["name"] for item in items}
        again = {item["item"] for item in items if item["repeat"]}
    except (KeyError, TypeError, ValueError):
        raise UserError(f"{key} is no key of a study: expected study_key.json") from None
    if not answers:
        raise UserError("no answers given: name the files that the page downloaded")
    raters: dict[str, Path] = {}
    columns = {name: i for i, name in enumerate(dict.fromkeys(pair.values()))}
    first = np.full((len(answers), len(columns)), np.nan)  # 1: ours, 0: theirs, nan: not answered
    second = first.copy()
    for row, file in enumerate(map(Path, answers)):
        rater, choices = _choices(file, study, set(left))
        if (other := raters.setdefault(rater, file)) != file or row != len(raters) - 1:
            raise UserError(f"{file} and {other} are answers of one rater: give one of them")
        if not choices:
            raise UserError(f"{file} holds no answers: leave it out")
        for item, choice in choices.items():
            table = second if item in again else first
            table[row, columns[pair[item]]] = (choice == "left") == left[item]
    n = int(np.isfinite(first).sum())
    if not n:
        raise UserError("the files hold no answers: answer the page's questions first")
    rate = float(np.nanmean(first))
    if len(answers) == 1 or rate in (0, 1):
        low, high = wilson(rate, int(np.isfinite(first).any(0).sum()))
    else:
        low, high = _pigeonhole(first, resamples, seed)
    both = np.isfinite(first) & np.isfinite(second)
    consistency = float((first == second)[both].mean()) if both.any() else None
    return Preference(rate, low, high, n, len(answers), consistency, names)


def wilson(rate: float, n: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a share `rate` of n independent answers."""
    z = 1.959964
    centre = (rate + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * (rate * (1 - rate) / n + z**2 / (4 * n**2)) ** 0.5
    return max(0.0, centre - half), min(1.0, centre + half)


def _pigeonhole(table: NDArray[np.float64], resamples: int, seed: int) -> tuple[float, float]:
    """95 % interval of the mean of a table (raters, pairs), nan where there is no answer."""
    rng = np.random.default_rng(seed)
    r, c = (rng.multinomial(n, np.full(n, 1 / n), size=resamples) for n in table.shape)
    total = np.einsum("br,rc,bc->b", r, np.nan_to_num(table), c)
    count = np.einsum("br,rc,bc->b", r, np.isfinite(table), c)
    low, high = np.quantile((total / count)[count > 0], [0.025, 0.975])
    return float(low), float(high)


def _draw(
    sets: Sequence[ImageFolder], count: int, repeats: int, seed: int, question: str, names: Sequence[str]
) -> dict[str, Any]:  # fmt: skip
    """The key: pairs in the order they are shown, and the method on the left."""
    rng = np.random.default_rng(seed)
    chosen = [sets[0].names[i] for i in rng.permutation(len(sets[0]))[:count]]
    sides = [names[i] for i in rng.integers(2, size=len(chosen))]
    order: list[dict[str, Any]] = [
        {"name": name, "left": side, "repeat": False} for name, side in zip(chosen, sides, strict=True)
    ]
    half = max(1, len(chosen) // 2)
    for i in rng.permutation(half)[:repeats]:  # of the first half, in the second
        other = names[1 - names.index(sides[i])]
        at = int(rng.integers(half, len(order) + 1))
        order.insert(at, {"name": chosen[i], "left": other, "repeat": True})
    parts = [FORMAT, [s.only(chosen).key for s in sets], order, question]
    return {
        "format": FORMAT,
        "study": hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16],
        "question": question, "names": list(names), "seed": seed,
        "items": [{"item": i} | item for i, item in enumerate(order)],
    }  # fmt: skip


def _page(sets: Sequence[ImageFolder], key: dict[str, Any]) -> str:
    source, *results = sets
    pictures: dict[str, list[str]] = {}
    for name in {item["name"]: None for item in key["items"]}:
        one, two = (s.get([s.names.index(name)])[0] for s in results)
        if one.shape != two.shape:
            (h, w), (h2, w2) = one.shape[1:], two.shape[1:]
            raise UserError(f"results for {name} are {w}x{h} and {w2}x{h2}: bring them to one size")
        h, w = one.shape[1:]
        guide = source.fitted((h, w)).get([source.names.index(name)])[0]
        pictures[name] = [base64_png(x) for x in (guide, one, two)]
    items = []
    for item in key["items"]:
        x, a, b = pictures[item["name"]]
        items.append([x, a, b] if item["left"] == key["names"][0] else [x, b, a])
    data = {"format": FORMAT, "study": key["study"], "items": items}
    return page("study.html", question=key["question"], data=data)


def _choices(file: Path, study: str, known: set[int]) -> tuple[str, dict[int, str]]:
    """Rater and {item: side} of an answer file."""
    content = _read(file)
    if content.get("study") != study:
        raise UserError(f"{file} holds no answers to this study: its key has another study's id")
    choices: dict[int, str] = {}
    try:
        for answer in content["answers"]:
            item, side = answer["item"], answer["choice"]
            odd = type(item) is not int or item not in known or item in choices
            if odd or side not in ("left", "right"):
                raise ValueError
            choices[item] = side
        if not isinstance(rater := content["rater"], str) or not rater:
            raise ValueError
        return rater, choices
    except (KeyError, TypeError, ValueError):
        raise UserError(f"{file} is damaged: download the answers from the page again") from None


def _read(file: Path) -> dict[str, Any]:
    text = read_text(file)
    try:
        content = parse_json(text)
    except ValueError:
        content = None
    if not isinstance(content, dict):
        raise UserError(f"{file} is damaged: expected the JSON that the page or `study` wrote")
    return content
