"""Does the memorisation audit find a model that copies, and leave those alone that do not?

    OMP_NUM_THREADS=1 python benchmarks/memorisation.py

One model learns 16 handwritten 3s of 16 sources, with the network and options of the shipped digits model
and 50 times its epochs. The shipped models are audited on held-out sources, and so is one half of the
held-out pictures, as if a model had made it.
"""

import argparse
import tempfile
import time
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
import torch
from measure import digit_sources, neighbourhoods, some, write_result
from torch import Tensor

from sfumato.checkpoints.model_folder import denoiser_of
from sfumato.data import tile, write_png
from sfumato.data.image_folder import ImageFolder
from sfumato.evaluation.features import Lite0, extract
from sfumato.evaluation.memorisation import Audit, audit
from sfumato.methods.sdedit import SDEdit
from sfumato.training.train import train
from sfumato.translation.translator import run_translator, translator

EPOCHS = 41  # of the shipped digits model: 13,000 steps of 32 in both stages, 10,066 pictures
TIMES = 50


class Made:
    """Results in memory, at the 8 bits that files would have."""

    key = ""

    def __init__(self, images: Tensor) -> None:
        self.images = ((images.clamp(-1, 1) + 1) * 127.5).round() / 127.5 - 1
        self.names = [str(i) for i in range(len(images))]

    def __len__(self) -> int:
        return len(self.images)

    def get(self, indices: Sequence[int]) -> Tensor:
        return self.images[torch.as_tensor(list(indices))]


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    p.add_argument("--data", type=Path, default=Path("data"))
    args = p.parse_args()
    torch.set_num_threads(1)
    network = Lite0()
    features = cache(lambda images: extract(network, images))
    digits, earth = args.data / "digits", args.data / "earth"
    rows = []

    def add(name: str, found: Audit, expected: bool) -> None:
        for c in found.spaces:
            rows.append({
                "results": name, "pictures": len(found.names), "space": c.space,
                "near": c.share, "expected": c.expected, "p": c.p,
                "median ratio": float(np.median(c.results.ratio)),
                "held-out median": float(np.median(c.held_out.ratio)),
                "copied": "yes" if c.copied else "no",
            })  # fmt: skip
        print(name, found.text, "" if found.copied is expected else "NOT AS EXPECTED", flush=True)

    # 16 pictures of 16 sources, far too long
    threes, held = ImageFolder.to_compare(digits / "train/3"), ImageFolder.to_compare(digits / "test/3")
    sources = digit_sources([f"{n}.png" for n in threes.names], digits / "digits.csv", "train")
    first = sorted({s: i for i, s in reversed(list(enumerate(sources)))}.values())[:16]
    few = threes.only([threes.names[i] for i in first], "picture", "pictures")
    twos = ImageFolder.to_compare(digits / "test/2")
    x = twos.get(range(len(twos)))
    begin = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        for name in few.names:
            write_png(f"{folder}/data/3/{name}.png", few.get([few.names.index(name)])[0])
        model = train(
            "diffusion", f"{folder}/data", f"{folder}/model", options={"times": "uniform"},
            steps=EPOCHS * TIMES, batch=16, held_out=0, seed=0, preview_every=0, save_every=10**6,
            quiet=True,
        )  # fmt: skip
    minutes = (time.perf_counter() - begin) / 60
    part = SDEdit(target=denoiser_of(model, "3"))
    groups = digit_sources([f"{n}.png" for n in twos.names], digits / "digits.csv")
    held_groups = digit_sources([f"{n}.png" for n in held.names], digits / "digits.csv")
    either = {"groups": groups, "held_out_groups": held_groups}
    pictures = []
    for strength in (0.7, 1.0):
        y = part.translate(x, as_is=True, strength=strength)
        found = audit(Made(y), few, held, features, **either)
        add(f"16 pictures, {TIMES} times the epochs, SDEdit at {strength}", found, True)
        chosen = some(len(x), 12)
        nearest = few.get(found.spaces[0].results.index[chosen])
        pictures += [x[chosen], y[chosen], nearest]
    write_png("benchmarks/results/memorisation.png", tile(torch.cat(pictures).clamp(-1, 1), 12))

    # the shipped models
    ends = {"source": "sfumato/digits:2", "target": "sfumato/digits:3"}
    y, _ = run_translator(translator("ddib", **ends), x)
    add("sfumato/digits, DDIB 2 -> 3", audit(Made(y), threes, held, features, **either), False)
    real, relief = (ImageFolder.to_compare(earth / s / "relief") for s in ("train", "test"))
    satellite = ImageFolder.to_compare(earth / "test/satellite")
    chosen = some(len(satellite), 320)
    places = neighbourhoods([satellite.names[i] for i in chosen])
    either = {"groups": places, "held_out_groups": neighbourhoods(relief.names)}
    x = satellite.get(chosen)
    ends = {"source": "sfumato/earth:satellite", "target": "sfumato/earth:relief"}
    for name, part in (
        ("sfumato/earth, DDIB satellite -> relief", translator("ddib", **ends)),
        ("sfumato/earth_pairs", translator(model="sfumato/earth_pairs")),
    ):
        y = torch.cat([run_translator(part, part_x)[0] for part_x in x.split(64)])
        add(name, audit(Made(y), real, relief, features, **either), False)

    # real pictures, as if a model had made them
    order = np.random.default_rng(0).permutation(len(relief))
    one, two = ([relief.names[i] for i in half] for half in np.array_split(order, 2))
    halves = relief.only(one, "", ""), relief.only(two, "", "")
    found = audit(halves[0], real, halves[1], features)
    add("half of the held-out relief against the other half", found, False)
    copies = real.only([real.names[i] for i in some(len(real), 16)] + real.names[:0], "", "")
    mixed = Made(torch.cat([copies.get(range(16)), halves[0].get(range(144))]))
    add("the same, 16 of 160 copied", audit(mixed, real, halves[1], features), True)

    write_result(
        "memorisation",
        "Memorisation audit",
        "Near: results whose nearest training picture is nearer, against the mean of the 50 nearest, than "
        "that of 99 % of the held-out pictures (of the nearest held-out one, if there are fewer than 100); "
        "one result of each source, or of each 64-pixel square of the world. Expected: the share of "
        "near results of an honest model; p: the probability of so many. Copied: p < 0.0005 and 5 times as "
        f"many as expected. The first model saw 16 pictures {EPOCHS * TIMES:,} "
        f"times each ({minutes:.1f} minutes of training), {TIMES} times the {EPOCHS} epochs of "
        "sfumato/digits, with its network and options; all translations are of held-out pictures.",
        rows,
        "![sources, results, nearest training pictures](memorisation.png)\n\nThe first model: held-out 2s, "
        "results of SDEdit and the nearest of the 16 training pictures, at strength 0.7, then 1.",
    )


if __name__ == "__main__":
    main()
