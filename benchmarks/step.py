"""A training step before and after the optimiser was fused and clips as it steps, in turns.

    python benchmarks/step.py [--threads 2] [--rounds 21]

Before: a loop over the parameters that clips, and AdamW's loop over them.  After: what `fit` does.  The
network's part of a step, forward and backward, is the same in both.
"""

import argparse
import statistics
import time
from types import SimpleNamespace

import torch
from measure import write_result
from torch import nn

from sfumato.diffusion.denoiser import Denoiser
from sfumato.nets.sizes import make_net
from sfumato.training.fit import _step

CELLS = ("tiny", 32, 4), ("tiny", 64, 32), ("small", 32, 4), ("small", 32, 32), ("medium", 64, 4)
ALONE = SimpleNamespace(num_processes=1)


def cell(size: str, side: int, batch: int, rounds: int) -> dict[str, object]:
    """Milliseconds of a step and of its optimiser, medians, and their ratios with quartiles."""
    rng = torch.Generator().manual_seed(0)
    denoiser = Denoiser(net=make_net(size))
    parameters = list(denoiser.net.parameters())
    loop, fused = (torch.optim.AdamW(parameters, lr=1e-5, fused=fused) for fused in (False, True))
    x, z = (torch.randn(batch, 3, side, side, generator=rng) for _ in range(2))
    times = denoiser.draw_times(batch, rng)

    def before() -> None:
        nn.utils.clip_grad_norm_(parameters, 1.0)
        loop.step()
        loop.zero_grad()

    def after() -> None:
        _step(fused, parameters, 1e-5, 1.0, ALONE)

    spent: dict[str, list[tuple[float, float]]] = {"before": [], "after": []}
    for r in range(rounds + 1):
        for name, optimise in (("before", before), ("after", after)):
            began = time.perf_counter()
            denoiser.loss(x, times, z).backward()
            middle = time.perf_counter()
            optimise()
            if r:  # the first round warms up
                spent[name].append((time.perf_counter() - began, time.perf_counter() - middle))
    ratios = [a[0] / b[0] for a, b in zip(spent["before"], spent["after"], strict=True)]
    low, middle, high = statistics.quantiles(ratios, n=4)
    ms = {k: [1e3 * statistics.median(column) for column in zip(*v, strict=True)] for k, v in spent.items()}
    return {
        "size": size, "pixels": side, "batch": batch,
        "optimiser before (ms)": ms["before"][1], "after (ms)": ms["after"][1],
        "step before (ms)": ms["before"][0], "step after (ms)": ms["after"][0],
        "before : after": f"{middle:.2f} ({low:.2f} to {high:.2f})",
    }  # fmt: skip


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    p.add_argument("--threads", type=int, default=torch.get_num_threads())
    p.add_argument("--rounds", type=int, default=21)
    args = p.parse_args()
    torch.set_num_threads(args.threads)
    rows = [cell(*one, args.rounds) for one in CELLS]
    write_result(
        "step",
        "A training step, before and after its optimiser was fused",
        "Medians of steps taken in turns, float32; ratios of neighbours, with quartiles:",
        rows,
    )


if __name__ == "__main__":
    main()
