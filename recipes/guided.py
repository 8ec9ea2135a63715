"""Guided methods on one target model, unpaired: a page for each task, with the trade-off curves.

    python recipes/guided.py digits|mnist|horse2zebra|directions [--seeds 2]

SDEdit's and ILVR's curves, the low-pass energy alone, EGSDE with both energies (and with log-odds
for the cosine), and DDIB as a control.
`recipes/domain_classifiers.py` trains the classifiers that guide and those that judge digits (horses and
zebras are judged by ImageNet's features), `recipes/mnist.py` and `recipes/horse2zebra.py` the models that
do not ship.  Earth: `recipes/guided_earth.py`.
"""

import argparse
from typing import Any

from sfumato import compare

DIGITS: dict[str, Any] = {
    "ends": ("2", "3"),
    "sdedit": "strength=0.4,0.45,0.5,0.55,0.6",
    "ilvr": ("factor=4 keep_down_to=0.25,0.4,0.55", "factor=8 keep_down_to=0.1,0.25,0.4"),
    "low-pass": "strength=0.65 faithful=0.15,0.25,0.35,0.5",
    "egsde": "strength=0.65 realism=640 faithful=0.25,0.35,0.5",
    "log-odds": "strength=0.65 realism=128 faithful=0.25,0.35,0.5",
}
TASKS: dict[str, dict[str, Any]] = {
    "digits": DIGITS
    | {
        "model": "sfumato/digits",
        "guide": "sfumato/digits_classifier",
        "how": {"groups": "data/digits/digits.csv:source", "features": "runs/judge_digits"},
    },
    "mnist": DIGITS
    | {
        "model": "runs/mnist",
        "guide": "runs/guide_mnist",
        "how": {"limit": 120, "features": "runs/judge_mnist"},
    },
    "horse2zebra": {
        "ends": ("horse", "zebra"),
        "model": "runs/horse2zebra",
        "guide": "runs/guide_horse2zebra",
        "sdedit": "strength=0.3,0.4,0.5,0.6,0.7",
        "ilvr": ("factor=8 keep_down_to=0.25,0.4,0.55", "factor=16 keep_down_to=0.1,0.25,0.4"),
        "low-pass": "strength=0.65 faithful=0.15,0.25,0.35,0.5",
        "egsde": "strength=0.65 realism=640 faithful=0.25,0.35,0.5",
        "log-odds": "strength=0.65 realism=128 faithful=0.25,0.35,0.5",
        "how": {},
    },
}


def guided(name: str, seeds: int) -> None:
    task = TASKS[name]
    a, b = task["ends"]
    source, target = (f"{task['model']}:{end}" for end in (a, b))
    entries = [f"sdedit target={target} {task['sdedit']}"]
    for swept in task["ilvr"]:
        entries.append(f"ilvr 'label=ilvr {swept.split()[0]}' target={target} {swept}")
    entries += [
        f"egsde label=low-pass target={target} realism=0 {task['low-pass']}",
        f"egsde target={target} classifier={task['guide']} {task['egsde']}",
        f"egsde 'label=egsde, log-odds' target={target} classifier={task['guide']} "
        f"similarity=logits {task['log-odds']}",
        f"ddib source={source} target={target}",
    ]
    compare(
        f"data/{name}/test/{a}", f"runs/guided_{name}", entries, target=f"data/{name}/test/{b}",
        train=f"data/{name}/train/{b}", seeds=seeds, **task["how"],
    )  # fmt: skip


def directions() -> None:
    """Other digits, on which no setting was chosen; everything at its default."""
    for a, b in ("32", "17", "58"):
        target, guide = f"target=sfumato/digits:{b}", "classifier=sfumato/digits_classifier"
        compare(
            f"data/digits/test/{a}", f"runs/guided_digits_{a}{b}",
            [f"sdedit {target} strength=0.4,0.5,0.6",
             f"egsde label=low-pass {target} realism=0",
             f"egsde {target} {guide}",
             f"egsde label=log-odds {target} {guide} similarity=logits realism=128",
             f"ddib source=sfumato/digits:{a} {target}"],
            target=f"data/digits/test/{b}", groups="data/digits/digits.csv:source",
            features="runs/judge_digits", limit=66,
        )  # fmt: skip


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("tasks", nargs="*", default=list(TASKS), metavar="TASK")
    parser.add_argument("--seeds", type=int, default=2)
    args = parser.parse_args()
    for name in args.tasks:
        directions() if name == "directions" else guided(name, args.seeds)
