"""`sfumato demo`: held-out pictures translated by the shipped models, on one self-contained page."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sfumato.core.arguments import checked
from sfumato.core.errors import UserError
from sfumato.core.ranges import Count
from sfumato.core.terminal import say
from sfumato.core.versions import version
from sfumato.data import WRITERS, ImageFolder, base64_png, write_text
from sfumato.data.folders import for_folder
from sfumato.data.listing import JUNK
from sfumato.data.show import evenly, page
from sfumato.translation.translator import run_translator, translator

DATA = "digits", "earth"


@dataclass
class Row:
    """One row of pictures, with what it cost."""

    title: str
    images: list[str]
    note: str = ""


@dataclass
class Section:
    """One task: what it shows, its rows, and the command that does the same."""

    title: str
    text: str
    command: str
    rows: list[Row] = field(default_factory=list)


@checked
def main(out: str | Path = "out/demo", *, count: Count = 10, seed: int = 0) -> Path:
    """Translates `count` held-out pictures by each method that can, and writes out/index.html.

    Args:
        out: folder of the page; embedded data sets are written to its subfolder data/ once.
        count: pictures in a row.
        seed: seed of the noise.

    Returns:
        The page.

    Raises:
        UserError: `out` holds anything but an earlier demo.
    """
    began, out = time.perf_counter(), _for_demo(out)
    for name in DATA:
        if not (out / "data" / name).exists():
            _say(f"writing the {name} pictures to {out / 'data' / name}")
            WRITERS[name](out / "data" / name)
    sections = [_digits(out / "data/digits/test", count, seed), _earth(out / "data/earth/test", count, seed)]
    write_text(out / "index.html", _page(sections, count, seed, time.perf_counter() - began))
    _say(f"open {out / 'index.html'}")
    return out / "index.html"


def _for_demo(out: str | Path) -> Path:
    """The place of a demo: a new or empty folder, or one of an earlier demo, which may have been stopped."""
    out = for_folder(out)
    inside = [file for place in (out, out / "data") if place.is_dir() for file in place.iterdir()]
    names = {file.relative_to(out).as_posix() for file in inside if file.name.lower() not in JUNK}
    own = {"data", *(f"data/{name}" for name in DATA)} | ({"index.html"} if "data" in names else set())
    left = re.compile(r"data/(" + "|".join(DATA) + r")\..*\.partial|\..*\.tmp")  # by one that was killed
    if foreign := sorted(name for name in names - own if not left.fullmatch(name)):
        raise UserError(f"{out} holds what is not the demo's ({foreign[0]}): choose another --out")
    return out


def _digits(folder: Path, count: int, seed: int) -> Section:
    twos = _load(folder / "2", count)
    ends = {"source": "sfumato/digits:2", "target": "sfumato/digits:3"}
    section = Section(
        "2 into 3",
        "One model of ten classes of coloured digits, trained without pairs. DDIB carries each 2 to the "
        "latent it shares with a 3, and keeps its colour and slant; SDEdit noises it most of the way and "
        "lets a 3 re-emerge. ILVR draws a 3 from noise that keeps the coarse picture; EGSDE is SDEdit with "
        "two guides: a low-pass of the 2 that holds colour and place, and a classifier that leads to "
        "looking like a 3.",
        "sfumato translate DIGITS/2 --out threes --method ddib --source sfumato/digits:2 "
        "--target sfumato/digits:3",
    )
    section.rows = [
        _row("2, held out", twos),
        _translated("DDIB", twos, seed, method="ddib", **ends),
        _translated("SDEdit", twos, seed, method="sdedit", target=ends["target"], strength=0.6),
        _translated("ILVR", twos, seed, method="ilvr", target=ends["target"]),
        _translated(
            "EGSDE", twos, seed, method="egsde", target=ends["target"],
            classifier="sfumato/digits_classifier", similarity="logits", realism=128,
        ),
    ]  # fmt: skip
    return section


def _earth(folder: Path, count: int, seed: int) -> Section:
    satellite, relief = _load(folder / "satellite", count), _load(folder / "relief", count)
    section = Section(
        "Satellite into shaded relief",
        "Tiles of a region that training never saw. The paired score-SDE learned from pictures of the "
        "same places; DDIB uses a model of three domains that never saw a pair.",
        "sfumato translate EARTH/satellite --out relief --model sfumato/earth_pairs",
    )
    section.rows = [
        _row("satellite, held out", satellite),
        _translated("paired score-SDE", satellite, seed, model="sfumato/earth_pairs"),
        _translated(
            "DDIB, no pairs", satellite, seed,
            method="ddib", source="sfumato/earth:satellite", target="sfumato/earth:relief",
            recentre_means=True,
        ),
        _row("truth", relief),
    ]  # fmt: skip
    return section


def _translated(
    title: str, images: Tensor, seed: int, *, method: str | None = None, model: str | None = None,
    source: str | None = None, target: str | None = None, classifier: str | None = None, **options: Any,
) -> Row:  # fmt: skip
    _say(f"translating by {title}")
    part = translator(method, model=model, source=source, target=target, classifier=classifier)
    began = time.perf_counter()
    result, nfe = run_translator(part, images, seed=seed, options=options)
    seconds = (time.perf_counter() - began) / len(images)
    return _row(title, result, f"{nfe:g} NFE, {seconds:.2f} s a picture")


def _load(folder: Path, count: int) -> Tensor:
    """`count` pictures that lie evenly through a folder."""
    pictures = ImageFolder(folder)
    return pictures.get(evenly(len(pictures), count))


def _row(title: str, images: Tensor, note: str = "") -> Row:
    return Row(title, [base64_png(image) for image in images], note)


def _page(sections: Sequence[Section], count: int, seed: int, seconds: float) -> str:
    return page(
        "demo.html", sections=sections, count=count, seed=seed, seconds=round(seconds),
        version=version("sfumato"), torch_version=torch.__version__,
        threads=torch.get_num_threads(),
    )  # fmt: skip


def _say(text: str) -> None:
    say(text, file=sys.stderr)
