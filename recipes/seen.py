"""What the models that ship have seen: `seen.safetensors` beside each, from the pictures of its recipe.

    python recipes/seen.py

A minute on one core, with the extras "data" and "evaluate".  Tiles of the Earth must be those that a model's
card names by their hash; digits are drawn by torch, whose last bits are a machine's own, and are counted.
The classifier has no such file: nothing is translated from what it knows.
"""

from pathlib import Path

from earth import DOMAINS
from ship import MODELS

from sfumato.checkpoints.model_folder import describe_folder
from sfumato.checkpoints.seen import remember
from sfumato.data import WRITERS
from sfumato.data.open_data import open_data
from sfumato.training.pictures import Pictures

EARTH = {name: f"data/earth/train/{name}" for name in DOMAINS}
SEEN = {
    "digits": ("domains", {d: f"data/digits/train/{d}" for d in "0123456789"}),
    "earth": ("domains", EARTH),
    "earth_pairs": ("pairs", [EARTH["satellite"], EARTH["relief"]]),
}

if __name__ == "__main__":
    for name in "digits", "earth":
        if not Path(f"data/{name}").exists():
            WRITERS[name](f"data/{name}")
    for name, (kind, folders) in SEEN.items():
        info = describe_folder(MODELS / name)["info"]
        data = open_data(kind, folders, size=32, resize=info["data"]["resize"])
        what, was = "count" if name == "digits" else "digest", info["data"]
        if data.describe(was["digest"])[what] != was[what]:
            raise SystemExit(f"{folders} are not the pictures of {MODELS / name}")
        remember(MODELS / name, Pictures(data, data, None).sources)
        print(f"{MODELS / name / 'seen.safetensors'} is written")
