"""Images a second of every method, trained and translating; generators against their original form.

    python benchmarks/methods.py [--threads 1] [--rounds 7] [--vintagify G_A2B_epoch33.pth] [--fast]

Networks are the "small" ones, pictures random, times medians of this process' CPU time.  `--vintagify` is
a file of the package of that name (0.1.2): a CycleGAN generator that somebody trained, imported as
`sfumato import` does, against a network built of the same layers as theirs.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from measure import write_result
from torch import Tensor, nn

from sfumato.checkpoints.foreign import read_generator
from sfumato.diffusion.denoiser import Denoiser
from sfumato.methods.registry import find
from sfumato.module import fields
from sfumato.nets.resnet_generator import ResNet
from sfumato.nets.sizes import make_net
from sfumato.nets.unet_generator import UNetGenerator
from sfumato.training.fit import State, fit
from sfumato.training.options import defaults

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

TRAINED = {
    "pix2pix": {}, "cyclegan": {}, "cut": {}, "fastcut": {}, "neural_ot": {}, "entropic_ot": {},
    "unit_ddpm": {}, "unpaired_sde": {}, "paired_sde": {}, "diffusion": {"domains": ("a", "b")},
}  # fmt: skip


def pictures(n: int, side: int) -> Tensor:
    return torch.rand(n, 3, side, side, generator=torch.Generator().manual_seed(0)) * 2 - 1


def batches(kind: str, x: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    while True:
        yield (x, torch.arange(len(x)) % 2) if kind == "domains" else (x, x.flip(0))


def training(name: str, side: int, batch: int, steps: int) -> float:
    """Images a second of CPU time of `fit`, without the first steps; a round of the players whole."""
    cls: Any = find(name)
    given: dict[str, Any] = dict(TRAINED[name])
    if "side" in [f.name for f in fields(cls)]:
        given["side"] = side
    part, how = cls(**given), defaults(cls)
    state = State(part, how["optimiser"], (how["beta1"], 0.999))
    updates = fit(
        state, batches(cls.data, pictures(batch, side)), steps=steps + 3, accelerator=Accelerator(cpu=True),
        **{k: how[k] for k in ("lr", "schedule", "hold", "warmup", "clip", "ema")},
    )  # fmt: skip
    times = [time.process_time() for _ in updates]
    return steps * batch / (times[-1] - times[2])


def translating(name: str, side: int, batch: int) -> tuple[float, int]:
    """Images a second of CPU time with the method's defaults, and network evaluations an image."""
    cls: Any = find(name)
    x, nfe = pictures(batch, side), 0

    def watch(t: float, x_t: Tensor, mean: Tensor, extras: Any) -> None:
        nonlocal nfe
        nfe += extras["nfe"]

    if name == "ddib":
        a, b = (Denoiser(net=make_net("small")).eval() for _ in range(2))
        part: Any = cls(source=a, target=b)
    else:
        given = {"side": side} if "side" in [f.name for f in fields(cls)] else {}
        part = cls(**given).eval()
    part.translate(x[:1])
    start = time.process_time()
    part.translate(x, watch=watch)
    return batch / (time.process_time() - start), nfe


def turns(
    nets: dict[str, Callable[[Tensor], Tensor]], x: Tensor, rounds: int
) -> dict[str, list[float]]:
    """CPU seconds of each, one after the other, begun by each in turn; the first round warms up."""
    spent: dict[str, list[float]] = {name: [] for name in nets}
    with torch.no_grad():
        for r in range(rounds + 1):
            for name, net in list(nets.items())[:: (-1) ** r]:
                start = time.process_time()
                net(x)
                if r:
                    spent[name].append(time.process_time() - start)
    return spent


def generators(rounds: int, vintagify: str | None) -> list[dict[str, object]]:
    """Ours and the original repositories' layers, with equal shapes, in turns."""
    from test_foreign import affine, resnet, unet

    cases: list[tuple[str, nn.Module, nn.Module, int]] = [
        ("CycleGAN, ResNet-9", ResNet(), resnet(64, 9), 128),
        ("CUT, ResNet-9, blurred", ResNet(antialias=True), resnet(64, 9, blur=True), 128),
        ("pix2pix, U-Net-256", UNetGenerator(), unet(64, 8), 256),
    ]
    if vintagify:
        part, _ = read_generator(vintagify)
        theirs = resnet(64, 9, norm=affine)
        state = torch.load(vintagify, map_location="cpu", weights_only=True)
        theirs.load_state_dict({k.replace(".block.", ".conv_block."): v for k, v in state.items()})
        cases.append(("vintagify's, ResNet-9", part.generators["target"], theirs, 256))  # type: ignore[index,union-attr]
    rows: list[dict[str, object]] = []
    for name, ours, original, side in cases:
        x = pictures(1, side)
        nets = {"ours": ours.eval(), "original": original.eval(), "its copy": deepcopy(original)}
        spent = turns(nets, x, rounds)
        row: dict[str, object] = {"generator": name, "pixels": side}
        for who in ("ours", "original"):
            row[f"{who}, images/s"] = 1 / statistics.median(spent[who])
        for who in ("ours", "its copy"):  # what a copy has is what chance does
            pairs = zip(spent["original"], spent[who], strict=True)
            row[f"{who} : original"] = statistics.median(b / a for b, a in pairs)
        if name.startswith("vintagify"):
            with torch.no_grad():
                row["largest difference"] = float((ours(x) - original(x)).abs().max())
        rows.append(row)
        print(row, file=sys.stderr, flush=True)
    return rows


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    p.add_argument("--threads", type=int, default=1)
    p.add_argument("--rounds", type=int, default=7)
    p.add_argument("--vintagify", help="G_A2B_epoch33.pth")
    p.add_argument("--fast", action="store_true", help="32 pixels, few rounds: a rehearsal")
    args = p.parse_args()
    torch.set_num_threads(args.threads)
    against = generators(2 if args.fast else args.rounds, args.vintagify)
    rows: list[dict[str, object]] = []
    for name in (*TRAINED, "ddib"):
        row: dict[str, object] = {"method": name}
        for side in (32,) if args.fast else (32, 64):
            if name != "ddib":
                row[f"trained at {side} px, images/s"] = training(
                    name, side, 8, 6 if args.fast else 22
                )
            if name != "diffusion":
                speed, row["NFE"] = translating(name, side, 16)
                row[f"translated at {side} px, images/s"] = speed
        rows.append(row)
        print(row, file=sys.stderr, flush=True)
    write_result(
        "methods" if not args.fast else "rehearsal_methods",
        "Images a second of every method",
        f"Small networks, {args.threads} thread(s), CPU time. Trained: batches of 8, from each domain, with "
        "the method's own options; optimal transport counts the pictures of both players' steps, and "
        "unpaired_sde those of its first phase, which is two thirds of a default training with the second "
        "one. Translated: batches of 16 with the defaults, whose network evaluations are NFE.",
        rows,
        "Generators, one picture a time, against the same layers as the original repositories have them, "
        "in turns; the ratio is the median of the turns, above 1 ours is faster, and a copy of the original "
        "shows what chance does:",
        against,
    )


if __name__ == "__main__":
    main()
