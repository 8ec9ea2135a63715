"""Figures 7 and 8 of the thesis, its numbers beside ours: SSIM, time and memory against N.

    python recipes/thesis_figures.py ssim       needs the model of recipes/maps.py
    python recipes/thesis_figures.py time       a minute on one core
    python recipes/thesis_figures.py memory

Writes docs/pictures/thesis_NAME.png and .json. `ssim` draws what benchmarks/maps_paired.py measured and
`memory` what benchmarks/flat_memory.py did; they run those first where the results are not there.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "benchmarks"))
from measure import environment  # noqa: E402

from sfumato.diffusion.denoiser import Denoiser  # noqa: E402
from sfumato.diffusion.guidance import Conditioned  # noqa: E402
from sfumato.diffusion.integrate import integrate  # noqa: E402
from sfumato.diffusion.noise import Noise  # noqa: E402
from sfumato.diffusion.process import VP  # noqa: E402
from sfumato.diffusion.time_grids import grid  # noqa: E402
from sfumato.nets.sizes import make_net  # noqa: E402

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Row = dict[str, Any]
COUNTS = (10, 25, 50, 100, 250)
TEXT: dict[str, dict[int, float]] = {  # by N: what the thesis' section 4.3 says
    "SSIM": {250: 0.94, 500: 0.98, 1500: 0.98},  # and "negative" at N = 10
    "memory (MB)": {50: 800},  # a 64 x 64 image, gradient tracking on
}
NOTEBOOK: dict[str, dict[int, float]] = {  # what the notebooks of its published code print
    "SSIM": {10: -0.0868, 100: 0.676, 250: 0.9436, 500: 0.9854, 1000: 0.9819, 1500: 0.9775},
    "memory (MB)": {10: 1611, 50: 8061},
}
# an epoch of 128 pairs, one at a time, takes 5.5 minutes; an iteration runs 4 samplers of N = 10
ITERATION = {4 * 10: 5.5 * 60 / 128}


def ssim() -> tuple["Figure", list[Row]]:
    """SSIM against N, training and held-out pairs apart."""
    em, few = measured("maps_paired")
    figure, (axes,) = panels(1)
    n = [row["steps"] for row in em]
    for part, colour in (("training", "C0"), ("held out", "C1")):
        low, high = zip(*(row[f"{part} 95 %"] for row in em), strict=True)
        axes.fill_between(n, low, high, color=colour, alpha=0.15, lw=0)
        axes.plot(n, [row[f"SSIM {part}"] for row in em], "o-", color=colour,
                  label=f"Euler-Maruyama, {part} pairs, 95 %")  # fmt: skip
    for solver, marker in zip(dict.fromkeys(row["solver"] for row in few), "s^Dv", strict=False):
        rows = [row for row in few if row["solver"] == solver]
        axes.plot([row["steps"] for row in rows], [row["SSIM held out"] for row in rows],
                  marker + ":", color="C2", alpha=0.8, label=f"{solver}, held out")  # fmt: skip
    beside(axes, "SSIM", "training pictures, not clamped")
    axes.annotate("negative,\nsays the thesis", (10, -0.0868), (15, -0.12), color="C3", fontsize=8)
    axes.axhline(0, color="grey", lw=0.5)
    axes.set(xscale="log", ylabel="SSIM, satellite to map, 64 x 64", ylim=(-0.16, 1.05))
    return figure, [*em, *few]


def timing() -> tuple["Figure", list[Row]]:
    """CPU seconds a picture against N for each image side."""
    cases = [("small", 32, 3, COUNTS), ("small", 64, 3, COUNTS), ("small", 128, 1, COUNTS)]
    cases += [("thesis", 64, 1, (10, 25))]
    rows, (figure, (axes,)) = [], panels(1)
    for net, side, rounds, counts in cases:
        sample = sampler(net, side)
        sample(2)  # warms up
        spent: dict[int, list[float]] = {n: [] for n in counts}
        for _ in range(rounds):
            for n in counts:
                start = time.process_time()
                sample(n)
                spent[n].append(time.process_time() - start)
        medians = [statistics.median(spent[n]) for n in counts]
        rows += [{"network": net, "side": side, "N": n, "rounds": rounds, "CPU s/image": s}
                 for n, s in zip(counts, medians, strict=True)]  # fmt: skip
        name = {"small": "small network", "thesis": "the thesis' network (58 M)"}[net]
        style = "o-" if net == "small" else "sC4--"
        axes.plot(counts, medians, style, label=f"{name}, {side} x {side}")
    axes.plot(ITERATION.keys(), ITERATION.values(), "*", color="C3", ms=13,
              label="thesis: 5.5 minutes an epoch is this an iteration, 4 N = 40\n"
              "steps with gradients, 58 M, 64 x 64, on a GPU")  # fmt: skip
    axes.set(xscale="log", yscale="log", ylabel="seconds a picture, one CPU thread")
    return figure, rows


def memory() -> tuple["Figure", list[Row]]:
    """Peak memory against N: gradient tracking off, and on by each way to the gradients."""
    rows, (figure, both) = list(measured("flat_memory")[0]), panels(2)
    for net, n in [*(("small", n) for n in (10, 50, 250, 1000)), ("thesis", 10), ("thesis", 50)]:
        command = [sys.executable, __file__, "memory", "--off", net, str(n)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        rows.append({"network": net, "batch": 1, "way": "off", "N": n,
                     "peak (MiB)": round(float(done.stdout))})  # fmt: skip
    names = {"naive": "tracked: plain backpropagation", "states": "tracked: integrate_flat, states",
             "segments": "tracked: integrate_flat, segments", "off": "no gradients"}  # fmt: skip
    ways = list(dict.fromkeys(row["way"] for row in rows))
    for axes, net in zip(both, ("small", "thesis"), strict=True):
        for k, way in enumerate(ways):
            if points := [r for r in rows if r["way"] == way and r["network"] == net]:
                axes.plot([r["N"] for r in points], [r["peak (MiB)"] for r in points], "o-",
                          color=f"C{k + (k > 2)}",
                          label=names.get(way, f"tracked: {way} steps only"))  # fmt: skip
    beside(both[1], "memory (MB)", "its GPU")
    for n, mb in [*TEXT["memory (MB)"].items(), *NOTEBOOK["memory (MB)"].items()]:
        both[1].annotate(f"{mb} MB", (n, mb), (9, -3), textcoords="offset points", fontsize=8)
    for axes, title in zip(both, ("small network", "the thesis' network (58 M)"), strict=True):
        axes.set(xscale="log", yscale="log", title=title, xlim=(8, 1250), ylim=(10, 20000))
    both[0].set(ylabel="peak MiB of one 64 x 64 picture")
    return figure, rows


# ---- what they share ----------------------------------------------------------------------------


def measured(name: str) -> list[list[Row]]:
    """The tables of a benchmark, which runs if it has not yet."""
    file = ROOT / f"benchmarks/results/{name}.json"
    if not file.exists():
        subprocess.run([sys.executable, ROOT / f"benchmarks/{name}.py"], check=True, cwd=ROOT)
    if not file.exists():  # it said why
        sys.exit(1)
    return json.loads(file.read_text())["tables"]


def sampler(net: str, side: int) -> Callable[[int], object]:
    """N -> one picture by N Euler-Maruyama steps as in the thesis, from a network of random weights."""
    torch.manual_seed(0)
    denoiser = Denoiser(net=make_net(net, conditioning=3).eval(), process=VP(), prediction="eps")
    x, image = (torch.randn(1, 3, side, side) for _ in range(2))
    on = Conditioned(denoiser=denoiser).on(image)

    def run(n: int) -> object:
        with torch.no_grad():
            times = grid(denoiser.process, n, "time")
            return integrate("euler_maruyama", on, x, times, noise=Noise(range(1)))

    return run


def off(net: str, n: int) -> float:
    """Peak MiB above what the process held; in one of its own, as in benchmarks/flat_memory.py."""
    from flat_memory import resident

    sampler("tiny", 16)(2)
    run = sampler(net, 64)
    before = resident()
    run(n)
    status = Path("/proc/self/status").read_text()  # ru_maxrss would count the parent's peak, too
    return int(status.split("VmHWM:")[1].split()[0]) / 1024 - before


def panels(count: int) -> tuple["Figure", list["Axes"]]:
    """A figure of panels side by side, with one scale upwards."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7 if count == 1 else 10, 4.5), layout="constrained")
    return figure, list(figure.subplots(1, count, sharey=True, squeeze=False)[0])


def beside(axes: "Axes", what: str, note: str) -> None:
    """The thesis' own numbers, those of its text apart from those of its notebooks."""
    code, text = NOTEBOOK[what], TEXT[what]
    axes.plot(code.keys(), code.values(), "x--", color="C3", lw=0.8, alpha=0.7,
              label=f"thesis' notebooks ({note})")  # fmt: skip
    axes.plot(text.keys(), text.values(), "*", color="C3", ms=13, label="thesis' text")


FIGURES = {"ssim": ssim, "time": timing, "memory": memory}


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    p.add_argument("figure", choices=FIGURES)
    p.add_argument("--off", nargs=2, help=argparse.SUPPRESS)
    args = p.parse_args()
    torch.set_num_threads(1)
    if args.off:
        net, n = args.off
        print(off(net, int(n)))
        return
    figure, rows = FIGURES[args.figure]()
    for axes in figure.axes:
        axes.set_xlabel("steps N")
        axes.grid(alpha=0.3)
        axes.legend(fontsize=7)
    name = ROOT / f"docs/pictures/thesis_{args.figure}"
    figure.savefig(name.with_suffix(".png"), dpi=100)
    here = environment() | {"command": f"python recipes/thesis_figures.py {args.figure}"}
    what = {"ssim": "SSIM", "memory": "memory (MB)"}.get(args.figure, "")
    theirs = {"text": TEXT.get(what, {}), "notebooks": NOTEBOOK.get(what, {})}
    if args.figure == "time":
        theirs = {"seconds an iteration, from 5.5 minutes an epoch": ITERATION}
    content = {"environment": here, "ours": rows, "thesis": theirs}
    name.with_suffix(".json").write_text(json.dumps(content, indent=1) + "\n")
    print(name.with_suffix(".png"))


if __name__ == "__main__":
    main()
