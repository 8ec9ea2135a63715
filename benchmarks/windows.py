"""A picture larger than the training's, by separate tiles, by windows and whole: seams, error, time, memory.

    python benchmarks/windows.py [--height 480] [--width 288] [--steps 18] [--place 111 50] [--name windows]

`sfumato/earth_pairs`, trained on tiles of 32 pixels, makes relief of satellite pictures of the held-out
region (110 to 150 E), or of a larger one around it; beyond its edges the map begins anew.  Seams: squared
difference across the lines between tiles, over that elsewhere; 1 is none.  Each way runs in a process of its
own, whose memory beyond that of loading is reported.
"""

import argparse
import multiprocessing
import time
from pathlib import Path

import numpy as np
import torch
from measure import write_result
from torch import Tensor

import sfumato
from sfumato.core.terminal import say
from sfumato.data import write_png
from sfumato.data.earth import world_map
from sfumato.windows import windowed

WORLD, SIDE = 2700, 32
"""The world's width and a tile's side in pixels."""
WAYS = ("separate tiles", "windows", "windows, half overlapping", "whole")


def scene(name: str, height: int, width: int, place: tuple[float, float]) -> Tensor:
    """The picture (1, 3, H, W) of one of the maps whose upper left corner lies at (degrees E, degrees N)."""
    row, column = round((90 - place[1]) * WORLD / 360), round((place[0] + 180) * WORLD / 360)
    lines = np.take(world_map(name, WORLD), range(row, row + height), axis=0, mode="wrap")
    cut = np.take(lines, range(column, column + width), axis=1, mode="wrap")
    return torch.from_numpy(cut).permute(2, 0, 1)[None].float() / 127.5 - 1


def tiles(x: Tensor) -> Tensor:
    """(1, 3, H, W) as its tiles (N, 3, 32, 32)."""
    cut = x.unfold(2, SIDE, SIDE).unfold(3, SIDE, SIDE)
    return cut.permute(0, 2, 3, 1, 4, 5).reshape(-1, 3, SIDE, SIDE)


def untiled(cut: Tensor, height: int, width: int) -> Tensor:
    """The picture of these tiles."""
    rows = cut.reshape(1, height // SIDE, width // SIDE, 3, SIDE, SIDE)
    return rows.permute(0, 3, 1, 4, 2, 5).reshape(1, 3, height, width)


def peak() -> float:
    """The most memory that this process has had, in MB."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


def translate(
    way: str, height: int, width: int, place: tuple[float, float], steps: int, threads: int
) -> tuple[Tensor, float, float]:
    """The relief, CPU seconds, and memory in MB beyond that before."""
    torch.set_num_threads(threads)
    model, x = sfumato.load("sfumato/earth_pairs"), scene("satellite", height, width, place)
    Path("/proc/self/clear_refs").write_text("5")  # the peak so far is forgotten
    before, began = peak(), time.process_time()
    if way == "separate tiles":
        y = untiled(torch.cat([model.translate(t, steps=steps) for t in tiles(x).split(64)]), height, width)
    elif way == "whole":
        y = model.translate(x, steps=steps, as_is=True).clamp(-1, 1)
    else:
        overlap = 0.5 if "half" in way else 0.25
        y = windowed(model, overlap=overlap).translate(x, steps=steps)
    return y, time.process_time() - began, peak() - before


def seams(y: Tensor) -> float:
    """Squared difference across tiles' lines over that elsewhere, both ways."""
    on, off = [], []
    for v in (y, y.mT):
        d = v.diff(dim=-1).square().mean((0, 1, 2))
        line = (torch.arange(len(d)) + 1) % SIDE == 0
        on, off = [*on, d[line].mean()], [*off, d[~line].mean()]
    return float(sum(on) / sum(off))


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    for name, default in (("height", 480), ("width", 288), ("steps", 18), ("threads", 1)):
        p.add_argument(f"--{name}", type=int, default=default)
    p.add_argument("--place", type=float, nargs=2, default=(111.0, 50.0))
    p.add_argument("--ways", nargs="+", default=WAYS, choices=WAYS)
    p.add_argument("--name", default="windows")
    given = vars(p.parse_args())
    ways, name = given.pop("ways"), given.pop("name")
    height, width, place = given["height"], given["width"], given["place"]
    truth = scene("relief", height, width, place)
    rows, shown = [{"way": "truth", "seams": seams(truth)}], [scene("satellite", height, width, place), truth]
    for way in ways:
        with multiprocessing.get_context("spawn").Pool(1) as own:
            y, seconds, megabytes = own.apply(translate, (way,), given)
        shown.append(y)
        rows.append({
            "way": way, "seams": seams(y), "RMSE to the truth": (y - truth).square().mean().sqrt().item(),
            "CPU s / Mpixel": seconds / (height * width) * 1e6, "MB": megabytes,
        })  # fmt: skip
        say(rows[-1])
        write_png(Path("out") / f"{name} {way}.png", y[0])
    gap = torch.ones(1, 3, height, 4)
    strip = torch.cat([piece for one in shown for piece in (one, gap)][:-1], dim=3)
    write_png(Path("out") / f"{name}.png", strip[0])
    about = f"{width}x{height} pixels, {given['steps']} steps."
    write_result(name, "A large picture by windows", about, rows,
                 f"From the left in out/{name}.png: source, truth, and the ways in this order.")  # fmt: skip


if __name__ == "__main__":
    main()
