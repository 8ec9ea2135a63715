"""The pictures of docs/experiments/inside.md, drawn from what `recipes/inside.py` measured on the digits.

python recipes/inside_figures.py [out/inside/digits.json] [docs/pictures]
"""

import base64
import io
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sfumato.data.folders import replacing

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Cell = dict[str, Any]
HEADS = (
    ("by 7", "C0", "decoded by the sevens' model"),
    ("by 5", "C1", "by the fives' own, the control"),
)
SLIDES = (
    ("The latent as it is", "nothing", "nothing"),
    ("Normalise", "norm 1", "normalised\n(norm 1)"),
    ("Normalise, then multiply", "norm 1, times 20", "normalised\ntimes 20"),
    ("Normalised noise + c fixed noise", "c = 0.3", "z-score +\n0.3 noise"),
    ("Source noise + c fixed noise", "c = 0.7", "latent +\n0.7 noise"),
    ("Blend the picture with its latent", "w = 0.5", "half the\npicture"),
    ("Checkerboard with the picture", "cell 1", "checkerboard,\npicture"),
    ("Checkerboard with fixed noise", "cell 1", "checkerboard,\nnoise"),
    ("Blur the picture, then encode", "sigma 2", "picture\nblurred"),
    ("Blur the latent, std restored", "sigma 2, / 0.6", "latent\nblurred"),
    ("Rotate", "latent by 60", "latent\nrotated"),
)
SWEPT = (
    ("Multiply the latent as it is", "times", "times c"),
    ("Source noise + c fixed noise, variance kept", "c =", "noise c, variance kept"),
    ("Blend the picture with its latent", "w =", "blend, weight of the picture"),
    ("Blur the latent", "sigma", "blur of the latent, sigma"),
    ("From one latent to another", "t =", "slerp to another five's latent"),
    ("Towards blue", "weight", "attribute blue, weight"),
)
SWAPPED = (
    ("Low frequencies of another, high ones of its own", "low from the other"),
    ("High frequencies of another, low ones of its own", "high from the other"),
)


def slides(figure: "Figure", sections: dict[str, dict[str, Cell]]) -> None:
    """The slides' experiments: four latents, decoded by two models and by one."""
    figure.set_size_inches(13, 4.1)
    panels = figure.subplots(3, len(SLIDES))
    for column, (section, label, title) in zip(panels.T, SLIDES, strict=True):
        cell = sections[section][label]
        column[0].set_title(title, fontsize=9)
        sheets = (cell["latent"], cell["pictures"]["by 7"], cell["pictures"]["by 5"])
        for panel, sheet in zip(column, sheets, strict=True):
            show(panel, sheet)
        for panel, (head, *_) in zip(column[1:], HEADS, strict=True):
            n = cell["numbers"][head]
            sevens, hue = n["share of 7s"][0], n["hue error"][0]
            panel.set_xlabel(f"{sevens:.0%} sevens, hue {hue:.0f}°", fontsize=7.5)
    names = "latent", "by the sevens'\nmodel", "by the fives'\nown"
    for panel, name in zip(panels[:, 0], names, strict=True):
        panel.set_ylabel(name, fontsize=9)


def numbers(figure: "Figure", sections: dict[str, dict[str, Cell]]) -> None:
    """Share of sevens and error of hue, over what is done."""
    figure.set_size_inches(13, 4.6)
    panels = figure.subplots(2, len(SWEPT), sharey="row", sharex="col")
    for column, (section, word, title) in zip(panels.T, SWEPT, strict=True):
        cells = {float(k.removeprefix(word)): v for k, v in sections[section].items()}
        cells[1.0 if word == "times" else 0.0] = sections["The latent as it is"]["nothing"]
        for panel, measure in zip(column, ("share of 7s", "hue error"), strict=True):
            for head, colour, said in HEADS:
                curve(panel, cells, head, measure, colour, said)
        column[1].set_xlabel(title, fontsize=9)
        if "blue" in section:
            bluer = {x: c for x, c in cells.items() if x}
            curve(column[1], bluer, "by 7", "hue from blue", "C3", "from blue")
            column[1].legend(handles=column[1].lines[-1:], fontsize=8)
    panels[0, 0].set_ylabel("share of sevens")
    panels[1, 0].set_ylabel("error of hue (degrees)")
    panels[0, 0].legend(fontsize=7, loc="lower left")


def frequencies(figure: "Figure", sections: dict[str, dict[str, Cell]]) -> None:
    """What follows the low frequencies of a latent, and what the high ones."""
    figure.set_size_inches(13, 4.4)
    left, right = figure.subfigures(1, 2, width_ratios=(1.15, 1))
    panels = left.subplots(1, 2)
    for panel, measure, other, name in (
        (panels[0], "hue error", "hue error to OTHER", "error of hue (degrees)"),
        (panels[1], "ink shared", "ink shared with OTHER", "ink shared (IoU)"),
    ):
        for (section, said), style in zip(SWAPPED, ("o-", "s--"), strict=True):
            cells = {float(k.removeprefix("factor")): v for k, v in sections[section].items()}
            for key, colour, whose in ((measure, "C1", "own"), (other, "C4", "the other's")):
                curve(panel, cells, "by 5", key, colour, f"{whose}, {said}", style)
        panel.set(
            xscale="log", xlabel="factor: low is below 1/factor of the resolution", ylabel=name
        )
        panel.set_xticks([2, 4, 8, 16, 32], ["2", "4", "8", "16", "32"])
        panel.minorticks_off()
    panels[0].legend(fontsize=7)
    rows = [(s, said, head) for s, said in SWAPPED for head in ("by 5", "by 7")]
    grid = right.subplots(4, 5)
    for i, (line, (section, said, head)) in enumerate(zip(grid, rows, strict=True)):
        for panel, factor in zip(line, (2, 4, 8, 16, 32), strict=True):
            show(panel, sections[section][f"factor {factor}"]["pictures"][head])
            if i == 0:
                panel.set_title(f"factor {factor}", fontsize=8)
        short = said.replace(" from", "\nfrom")
        line[0].set_ylabel(f"{short},\n{head}", fontsize=7)


def curve(
    panel: "Axes", cells: dict[float, Cell], head: str, measure: str, colour: str, said: str,
    style: str = "o-",
) -> None:  # fmt: skip
    """A measure over a parameter with its intervals."""
    x = sorted(cells)
    value, low, high = np.array([cells[v]["numbers"][head][measure] for v in x], float).T
    panel.fill_between(x, low, high, color=colour, alpha=0.15, lw=0)
    panel.plot(x, value, style, color=colour, ms=3.5, lw=1.2, label=said)


def show(panel: "Axes", sheet: str) -> None:
    """A base64 PNG."""
    from PIL import Image

    panel.imshow(Image.open(io.BytesIO(base64.b64decode(sheet))), interpolation="nearest")
    panel.set(xticks=[], yticks=[])
    for side in panel.spines.values():
        side.set_visible(False)


def main(file: str = "out/inside/digits.json", out: str = "docs/pictures") -> None:
    from matplotlib.figure import Figure
    from PIL import Image

    task = json.loads(Path(file).read_text())
    sections = {s["title"]: {c["label"]: c for c in s["cells"]} for s in task["sections"]}
    for draw in (slides, numbers, frequencies):
        figure = Figure(layout="constrained")
        draw(figure, sections)
        with replacing(Path(out) / f"inside_{draw.__name__}.png") as temporary:
            drawn = io.BytesIO()
            figure.savefig(drawn, dpi=100, format="png")
            Image.open(drawn).convert("RGB").quantize(256).save(temporary, "PNG", optimize=True)
        print(f"{out}/inside_{draw.__name__}.png")


if __name__ == "__main__":
    main(*sys.argv[1:])
