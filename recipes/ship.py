"""Copies a trained run into the package: weights in float16, the card, the log and the loss plot."""

import json
import shutil
import sys
from pathlib import Path

import torch

from sfumato.checkpoints.hub import SEEN
from sfumato.checkpoints.model_folder import describe_folder, load, save

MODELS = Path(__file__).parent.parent / "sfumato" / "models"


def ship(run: str, name: str) -> None:
    part, info = load(run), describe_folder(run)["info"]
    lines = [json.loads(line) for line in (Path(run) / "log.jsonl").read_text().splitlines()]
    seconds = sum(
        (line["step"] - before) * info["settings"]["batch"] / line["images_per_s"]
        for before, line in zip([0, *(line["step"] for line in lines)], lines, strict=False)
    )
    info["command"] = f"python recipes/{Path(sys.argv[0]).name}"
    info["training_minutes"] = round(seconds / 60, 1)
    save(part, MODELS / name, info=info, dtype=torch.float16)
    for file in ("log.jsonl", "loss.png", SEEN):
        if (Path(run) / file).exists():
            shutil.copy(Path(run) / file, MODELS / name / file)
    print(f"shipped {MODELS / name}")
