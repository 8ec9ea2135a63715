"""128 pictures and a few minutes: a model of other pictures as the beginning, against new weights.

    python benchmarks/fine_tune.py [--data ../shared/data/maps/train] [--minutes 3.5]

Side-by-side pictures are cut into the domains `satellite`, which `sfumato/earth` knows (of another scale),
and `map`, which it does not.  New weights learn for so many minutes, the others for as many steps, on the
same pictures; the same are held out.
"""

import argparse
import json
import sys
from pathlib import Path

import torch
from measure import write_result
from PIL import Image

import sfumato
from sfumato.data import find_images, tile, write_png

RUNS = Path("runs/fine_tune")
WAYS = {
    "new weights": {},
    "--from sfumato/earth": {"start": "sfumato/earth"},
    "--from sfumato/earth --lr 0.001": {"start": "sfumato/earth", "lr": 1e-3},
}


def halves(data: Path) -> dict[str, Path]:
    """Left and right halves as two folders."""
    folders = {name: RUNS / "data" / name for name in ("satellite", "map")}
    for folder in folders.values():
        folder.mkdir(parents=True, exist_ok=True)
    for file in find_images(data):
        with Image.open(file) as opened:
            pair = opened.convert("RGB")
        middle, height = pair.width // 2, pair.height
        for i, folder in enumerate(folders.values()):
            pair.crop((i * middle, 0, (i + 1) * middle, height)).save(folder / f"{Path(file).stem}.png")
    return folders


def held_out(run: Path) -> dict[int, float]:
    """Held-out loss by step."""
    lines = map(json.loads, (run / "log.jsonl").read_text().splitlines())
    return {e["step"]: e["held_out"]["denoiser"] for e in lines if "held_out" in e}


def draw(curves: dict[str, dict[int, float]], out: Path) -> None:
    """The held-out losses, one line each."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 3.5), layout="constrained")
    axes = figure.subplots()
    for way, curve in curves.items():
        axes.plot(list(curve), list(curve.values()), ".-", label=way)
    axes.set(xlabel="step", ylabel="held-out loss", ylim=(0, None))
    axes.legend()
    axes.grid(alpha=0.3)
    figure.savefig(out, dpi=100)


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    p.add_argument("--data", default="../shared/data/maps/train")
    p.add_argument("--minutes", type=float, default=3.5)
    p.add_argument("--threads", type=int, default=torch.get_num_threads())
    args = p.parse_args()
    torch.set_num_threads(args.threads)
    if not Path(args.data).is_dir():
        sys.exit(f"skipped: {args.data} is not there")
    folders, long = halves(Path(args.data)), {"minutes": args.minutes}
    curves, rows, shown = {}, [], []
    for i, (way, how) in enumerate(WAYS.items()):
        run = RUNS / str(i)
        model = sfumato.train(
            "diffusion", folders, run, size=32, held_out=0.125, flip=True, preview_every=0, resume=True,
            **how, **long,
        )  # fmt: skip
        settings = json.loads((run / "run.json").read_text())["settings"]
        long = {"steps": settings["steps"]}
        curve = curves[way] = held_out(run)
        first = next(iter(curves.values()))
        reached = [step for step, loss in curve.items() if loss <= min(first.values())]
        rows.append({
            "weights": way, "lr": settings["lr"], "steps": settings["steps"],
            **{f"loss at {step}": loss for step, loss in list(curve.items())[:: max(1, len(curve) // 4)]},
            "loss at the end": list(curve.values())[-1],
            "as good as the first after steps": reached[0] if reached else "",
        })  # fmt: skip
        shown += [model.sample(domain, torch.zeros(12, 3, 32, 32)) for domain in folders]
    write_png(RUNS / "samples.png", tile(torch.cat(shown).clamp(-1, 1), 12))
    draw(curves, Path("docs/pictures/fine_tune_loss.png"))
    write_result(
        "fine_tune",
        "Fine-tuning against new weights",
        "128 satellite pictures and 128 maps of 32 pixels, 16 of each held out; averaged weights.",
        rows,
        "Pictures (not ours to ship): runs/fine_tune/samples.png, satellite and map of each row in turn.",
    )


if __name__ == "__main__":
    main()
