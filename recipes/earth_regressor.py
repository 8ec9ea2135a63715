"""The baseline of benchmarks/earth_paired.py: the paired model's network as a plain regressor.

    python recipes/earth_regressor.py [--paired sfumato/models/earth_pairs]

The same U-Net with a blank image for the noisy one and one constant noise level, trained by mean
squared error with the optimiser, batch, average and number of steps of the paired model's run. That
run trains two networks a step, so this takes about half its time. Resumes if it was stopped.
"""

import argparse
from collections.abc import Iterator
from typing import ClassVar

import torch
from torch import Tensor

from sfumato.checkpoints.model_folder import describe_folder
from sfumato.module import Part
from sfumato.nets.sizes import make_net
from sfumato.training.train import train


class Regressor(Part):
    """Source images to E[target | source].

    Args:
        net: size of the network.
    """

    data: ClassVar[str] = "pairs"

    net: str = "small"

    def __post_init__(self) -> None:
        self.unet = make_net(self.net, conditioning=3)

    def objectives(
        self, batches: Iterator[tuple[Tensor, Tensor]], rng: torch.Generator
    ) -> Iterator[tuple[str, Tensor]]:
        x, y = next(batches)
        yield "unet", (self.translate(x) - y).square().mean()

    def translate(self, source: Tensor, *, seed: int = 0, watch: object = None) -> Tensor:
        """Images (B, 3, H, W) to their regressions."""
        blank, level = torch.zeros_like(source), source.new_zeros(len(source))
        return self.unet(torch.cat([blank, source], 1), level)


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    p.add_argument("--paired", default="sfumato/models/earth_pairs")
    p.add_argument("--out", default="runs/earth_regressor")
    p.add_argument("--steps", type=int, help="instead of the paired run's")
    args = p.parse_args()
    info = describe_folder(args.paired)
    settings = info["info"].get("settings", {})
    same = ("batch", "lr", "schedule", "warmup", "optimiser", "weight_decay", "clip", "ema", "flip")
    net = info["model"]["net"]
    torch.manual_seed(0)  # the initial weights
    train(
        Regressor(net=net),
        ["data/earth/train/satellite", "data/earth/train/relief"], args.out,
        validation=["data/earth/test/satellite", "data/earth/test/relief"],
        steps=args.steps or settings["steps"], size=32, seed=0, resume=True,
        **{key: settings[key] for key in same if key in settings},
    )  # fmt: skip


if __name__ == "__main__":
    from earth_regressor import main as run  # so that the model folder names an importable module

    run()
