"""Memory and time of backpropagation through a sampler: plain, and by `sfumato.diffusion.sampler_gradients`.

    python benchmarks/flat_memory.py [--threads 1] [--batch 1] [--fast]

Each memory cell runs in a process of its own; times are taken in turns in one process.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from measure import write_result
from torch import Tensor

from sfumato.diffusion.denoiser import Denoiser
from sfumato.diffusion.guidance import Conditioned
from sfumato.diffusion.integrate import integrate
from sfumato.diffusion.noise import Noise
from sfumato.diffusion.process import VP
from sfumato.diffusion.sampler_gradients import integrate_flat
from sfumato.diffusion.time_grids import grid
from sfumato.nets.sizes import make_net

SOLVER = "euler_maruyama"
WAYS: dict[str, Callable[..., Tensor]] = {"naive": integrate, "flat": integrate_flat}
CELLS = [("small", way, n) for way in WAYS for n in (10, 50, 250, 1000)]
CELLS.remove(("small", "naive", 1000))  # four times the memory of 250
CELLS += [("thesis", "naive", 10), ("thesis", "flat", 10), ("thesis", "flat", 50)]


def gradients(
    net: str, batch: int, side: int = 64
) -> Callable[[str, int], tuple[float, list[Tensor]]]:
    """way, steps -> (loss, gradients to start, condition and parameters)."""
    torch.manual_seed(0)
    denoiser = Denoiser(net=make_net(net, conditioning=3).eval(), process=VP(), prediction="eps")
    x, image = (torch.randn(batch, 3, side, side) for _ in range(2))
    inputs = [x.requires_grad_(), image.requires_grad_(), *denoiser.parameters()]

    def run(way: str, n: int) -> tuple[float, list[Tensor]]:
        times, noise = grid(denoiser.process, n, "time"), Noise(range(batch))
        y = WAYS[way](SOLVER, Conditioned(denoiser=denoiser).on(image), x, times, noise=noise)
        loss = y.square().mean()
        return loss.item(), list(torch.autograd.grad(loss, inputs, allow_unused=True))

    return run


def resident() -> float:
    """MiB in memory now."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0]) / 1024


def cell(net: str, way: str, n: int, batch: int) -> dict[str, object]:
    """One row; in a process of its own, warm from a run on small pictures."""
    gradients("tiny", 1, side=16)(way, 2)
    run = gradients(net, batch)
    before = resident()
    run(way, n)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024 - before
    return {"network": net, "batch": batch, "way": way, "N": n, "peak (MiB)": round(peak)}


def turns(net: str, batch: int, n: int, rounds: int) -> list[dict[str, object]]:
    """Every way in turns, so that all meet the same neighbours on the machine."""
    run = gradients(net, batch)
    seconds: dict[str, list[float]] = {way: [] for way in WAYS}
    found: dict[str, list[Tensor]] = {}
    for way in WAYS:
        run(way, 2)  # warms up
    for _ in range(rounds):
        for way in WAYS:
            start = time.process_time()
            _, found[way] = run(way, n)
            seconds[way].append(time.process_time() - start)
    rows = []
    for way, spent in seconds.items():
        ratios = [a / b for a, b in zip(spent, seconds["naive"], strict=True)]
        pairs = [(a, b) for a, b in zip(found[way], found["naive"], strict=True) if a is not None]
        far = max(((a - b).norm() / b.norm()).item() for a, b in pairs if b.norm() > 0)
        rows.append({
            "way": way, "N": n, "median CPU seconds": statistics.median(spent),
            "time : naive": statistics.median(ratios), "gradients' largest relative difference": far,
        })  # fmt: skip
    return rows


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    p.add_argument("--threads", type=int, default=1)
    p.add_argument("--batch", type=int, default=1)
    p.add_argument("--rounds", type=int, default=5, help="of the times")
    p.add_argument("--fast", action="store_true", help="N = 10 only: a rehearsal")
    p.add_argument("--cell", nargs=3, help=argparse.SUPPRESS)
    args = p.parse_args()
    torch.set_num_threads(args.threads)
    if args.cell:
        net, way, n = args.cell
        print(json.dumps(cell(net, way, int(n), args.batch)))
        return
    rows = []
    for net, way, n in [c for c in CELLS if c[2] == 10] if args.fast else CELLS:
        command = [sys.executable, __file__, "--cell", net, way, str(n)]
        command += ["--threads", str(args.threads), "--batch", str(args.batch)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        rows.append(json.loads(done.stdout))
        print(rows[-1], file=sys.stderr, flush=True)
    write_result(
        "rehearsal_flat_memory" if args.fast else "flat_memory",
        "Backpropagation through a sampler in flat memory",
        f"Gradients of N steps of {SOLVER} at 64x64, conditioned on an image, to the start, the image and "
        "the parameters, float32. naive: plain backpropagation; flat: `integrate_flat`. Peak: memory above "
        "what the process held before, with its parameters. Naive at N = 1000 is not run: it is linear.",
        rows,
        "In turns in one process; medians over the turns, and the gradients against naive's:",
        turns("small", args.batch, 10 if args.fast else 50, 1 if args.fast else args.rounds),
    )


if __name__ == "__main__":
    main()
