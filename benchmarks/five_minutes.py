"""Five minutes of training on digits, from scratch, and what DDIB then makes of a 2.

    python benchmarks/five_minutes.py [--steps 3400] [--threads 2]

The steps are fixed, for the learning rate has to know where it ends; the clock is what is reported, reading
the pictures included. Everything else is the default.
"""

import argparse
import tempfile
import time

import torch
from measure import colour_error, digit_sources, images, interval, load_classifier, some, write_result

from sfumato.checkpoints.model_folder import denoiser_of
from sfumato.data import tile, write_png
from sfumato.methods.ddib import DDIB
from sfumato.training.train import train


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    p.add_argument("--steps", type=int, default=3400)
    p.add_argument("--threads", type=int, default=torch.get_num_threads())
    p.add_argument("--data", default="data/digits")
    args = p.parse_args()
    torch.set_num_threads(args.threads)
    judge = load_classifier()

    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        model = train(
            "diffusion", f"{args.data}/train", f"{folder}/model", validation=f"{args.data}/test",
            size=32, steps=args.steps, seed=0, save_every=args.steps, preview_every=0, quiet=True,
        )  # fmt: skip
        spent = time.perf_counter() - start
    rows, pictures = [], []
    for a, b in ((2, 3), (3, 2), (1, 7), (9, 4)):
        x, names = images(f"{args.data}/test/{a}")
        groups = digit_sources(names)
        ddib = DDIB(source=denoiser_of(model, str(a)), target=denoiser_of(model, str(b)))
        y = ddib.translate(x, as_is=True)
        correct, (hue, rgb) = (judge.says(y) == b).float(), colour_error(x, y)
        rows.append({
            "direction": f"{a} -> {b}", "pictures": len(x), "accuracy": correct.mean().item(),
            "95 %": interval(lambda i: correct[i].mean().item(), groups),  # noqa: B023
            "copy's accuracy": (judge.says(x) == b).float().mean().item(),
            "hue error": hue.median().item(), "RGB error": rgb.mean().item(),
        })  # fmt: skip
        chosen = some(len(x), 12)
        pictures += [x[chosen], y[chosen]]
    sheet = tile(torch.cat(pictures).clamp(-1, 1), 12)
    write_png("benchmarks/results/five_minutes.png", sheet)
    write_result(
        "five_minutes",
        "Five minutes of training on coloured digits",
        f"{args.steps:,} steps of batch 32 in {spent / 60:.2f} minutes with {args.threads} thread(s), "
        f"reading the pictures included; then DDIB at its defaults on held-out pictures. Columns as in "
        f"ddib_nfe.md.",
        rows,
        "![sources and results](five_minutes.png)\n\nSources and results, the directions in turn.",
    )


if __name__ == "__main__":
    main()
