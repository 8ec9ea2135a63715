"""Speed and memory of every network size, and of a diffusers U-Net of the same FLOPs.

    python benchmarks/train.py [--threads 2] [--batch 32] [--fast]

Each cell runs in a process of its own, so that its peak memory is its own. Cells that would take more
than a minute are left out and named.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

import torch
from measure import write_result
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from sfumato.diffusion.denoiser import Denoiser
from sfumato.nets.sizes import SIZES, make_net

CELLS = [(size, side) for size in SIZES for side in (32, 64)]
MINUTE = 60.0


class Diffusers(nn.Module):
    """diffusers' UNet2DModel with our call signature, on pixels or (patch 2) on 2x2 patches."""

    def __init__(self, width: int, patch: int) -> None:
        super().__init__()
        from diffusers import UNet2DModel

        self.patch = patch
        self.model = UNet2DModel(
            in_channels=3 * patch**2, out_channels=3 * patch**2, layers_per_block=1,
            block_out_channels=(width, 2 * width, 2 * width), norm_num_groups=8,
            resnet_time_scale_shift="scale_shift", attention_head_dim=8,
            down_block_types=("DownBlock2D", "DownBlock2D", "AttnDownBlock2D"),
            up_block_types=("AttnUpBlock2D", "UpBlock2D", "UpBlock2D"),
        )  # fmt: skip

    def forward(self, x: Tensor, log_sigma: Tensor, label: Tensor | None = None) -> Tensor:
        y = self.model(F.pixel_unshuffle(x, self.patch), log_sigma).sample
        return F.pixel_shuffle(y, self.patch)


def work(net: nn.Module, side: int, batch: int) -> tuple[Callable[[], None], Callable[[], None]]:
    """(one training step, one forward pass) on random pictures."""
    denoiser = Denoiser(net=net)
    optimiser = torch.optim.AdamW(net.parameters(), lr=1e-3)
    rng = torch.Generator().manual_seed(0)
    x, z = (torch.randn(batch, 3, side, side, generator=rng) for _ in range(2))
    times = denoiser.draw_times(batch, rng)

    def train() -> None:
        denoiser.loss(x, times, z).backward()
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimiser.step()
        optimiser.zero_grad()

    def forward() -> None:
        with torch.no_grad():
            denoiser(x, 0.5)

    return train, forward


def flops(net: nn.Module, side: int) -> tuple[float, float]:
    """(training step, forward) FLOPs an image; a multiply-add is two."""
    found = []
    for f in work(net, side, 1):
        with FlopCounterMode(display=False) as counter:
            f()
        found.append(float(counter.get_total_flops()))
    return found[0], found[1]


def seconds(f: Callable[[], None], repeats: int = 7, limit: float = 25.0) -> float:
    """Median seconds after a warm-up; fewer repeats when they would pass the limit."""
    f()
    times: list[float] = []
    while len(times) < repeats and sum(times) < limit:
        start = time.perf_counter()
        f()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def peaks() -> dict[str, float]:
    """The machine's measured best, in FLOP/s: matrix products, and 3x3 convolutions."""
    best = {"matmul": 0.0, "conv 3x3": 0.0}
    for n in (512, 1024, 2048):
        a, b = torch.randn(n, n), torch.randn(n, n)
        for _ in range(5):
            start = time.perf_counter()
            a @ b
            best["matmul"] = max(best["matmul"], 2 * n**3 / (time.perf_counter() - start))
    for c in (64, 128, 256):
        conv, x = nn.Conv2d(c, c, 3, padding=1), torch.randn(32, c, 16, 16)
        with torch.no_grad():
            for _ in range(5):
                start = time.perf_counter()
                conv(x)
                rate = 2 * 32 * 256 * 9 * c * c / (time.perf_counter() - start)
                best["conv 3x3"] = max(best["conv 3x3"], rate)
    return best


def cell(size: str, side: int, batch: int) -> dict[str, object]:
    """One row; in a process of its own."""
    base = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    net = make_net(size)
    trained, passed = flops(net, side)
    row: dict[str, object] = {
        "size": size, "pixels": side, "batch": batch,
        "parameters (M)": round(sum(p.numel() for p in net.parameters()) / 1e6, 2),
        "forward GFLOP/image": passed / 1e9,
    }  # fmt: skip
    one, _ = work(net, side, 1)
    one()
    start = time.perf_counter()
    one()
    if (time.perf_counter() - start) * batch * 3 > MINUTE:
        return row | {"left out": "over a minute"}
    train, forward = work(net, side, batch)
    t, f = seconds(train), seconds(forward)
    peak = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - base) / 1024
    return row | {
        "train images/s": batch / t, "forward images/s": batch / f, "peak memory (MiB)": round(peak),
        "train FLOP/s": trained * batch / t, "forward FLOP/s": passed * batch / f,
    }  # fmt: skip


def versus(side: int, batch: int, rounds: int) -> list[dict[str, object]]:
    """Ours and diffusers' in turns, so that all meet the same neighbours on the machine."""
    nets = {"sfumato small": make_net("small")}
    want = flops(nets["sfumato small"], side)[1]
    for patch, what in ((1, "pixels"), (2, "2x2 patches")):
        widths = {w: flops(Diffusers(w, patch), side)[1] for w in range(8, 57, 8)}
        width = min(widths, key=lambda w: abs(widths[w] / want - 1))
        nets[f"diffusers on {what}, width {width}"] = Diffusers(width, patch)
    jobs = {name: work(net, side, batch) for name, net in nets.items()}
    spent: dict[str, tuple[list[float], list[float]]] = {name: ([], []) for name in nets}
    for r in range(rounds + 1):
        for name, pair in jobs.items():
            for k, f in enumerate(pair):
                start = time.perf_counter()
                f()
                if r:  # the first round warms up
                    spent[name][k].append(time.perf_counter() - start)
    rows = []
    for name, net in nets.items():
        t, f = (statistics.median(s) for s in spent[name])
        speed_ups = [
            statistics.median(b / a for a, b in zip(ours, theirs, strict=True))
            for ours, theirs in zip(spent["sfumato small"], spent[name], strict=True)
        ]
        rows.append({
            "network": name, "pixels": side, "batch": batch,
            "parameters (M)": round(sum(p.numel() for p in net.parameters()) / 1e6, 2),
            "forward GFLOP/image": flops(net, side)[1] / 1e9,
            "train images/s": batch / t, "forward images/s": batch / f,
            "ours : it, train": speed_ups[0], "ours : it, forward": speed_ups[1],
        })  # fmt: skip
    return rows


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    p.add_argument("--threads", type=int, default=torch.get_num_threads())
    p.add_argument("--batch", type=int, default=32)
    p.add_argument("--rounds", type=int, default=15, help="of the comparison with diffusers")
    p.add_argument("--fast", action="store_true", help="two sizes, few rounds: a rehearsal")
    p.add_argument("--cell", nargs=2, help=argparse.SUPPRESS)
    args = p.parse_args()
    torch.set_num_threads(args.threads)
    if args.cell:
        batch = 4 if args.cell[0] == "thesis" else args.batch
        print(json.dumps(cell(args.cell[0], int(args.cell[1]), batch)))
        return
    best = peaks()
    rows = []
    for size, side in CELLS[:3] if args.fast else CELLS:
        command = [sys.executable, __file__, "--cell", size, str(side)]
        command += ["--threads", str(args.threads), "--batch", str(args.batch)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        row = json.loads(done.stdout)
        for what in ("train", "forward"):
            rate = row.pop(f"{what} FLOP/s", None)
            row[f"{what}, of matmul peak"] = None if rate is None else rate / best["matmul"]
        rows.append(row)
        print(row, file=sys.stderr, flush=True)
    best = {name: max(rate, peaks()[name]) for name, rate in best.items()}
    rounds = 3 if args.fast else args.rounds
    against = [row for side in (32, 64) for row in versus(side, args.batch, rounds)]
    write_result(
        "train" if not args.fast else "rehearsal_train",
        "Training speed and memory",
        f"Measured peaks of this machine with {args.threads} thread(s), float32: "
        + ", ".join(f"{name} {rate / 1e9:.0f} GFLOP/s" for name, rate in best.items())
        + ".",
        "Images/s: medians, float32. Training: loss, backward pass, clipping, AdamW. Peak memory: "
        "resident memory of a fresh process above what it holds after its imports. FLOPs are counted, "
        "two for a multiply-add; training's include the backward pass.",
        rows,
        "Against diffusers' UNet2DModel of the width (a multiple of 8) whose forward FLOPs are nearest "
        "to ours, in turns in one process; on pixels as it comes, and behind the 2x2 patches that ours "
        "has built in. Ratios are medians over the turns; above 1, ours is faster:",
        against,
    )


if __name__ == "__main__":
    main()
