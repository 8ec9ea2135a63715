"""How many steps do guided methods need, and what share of the time is guidance?

    python benchmarks/guided_nfe.py [--threads 1] [--seeds 2]

Digits 2 -> 3 with the shipped model and classifier; `recipes/domain_classifiers.py` trains the judge,
another classifier in runs/judge_digits.  The reference is Euler-Maruyama in 500 steps, uniform in time.
"""

import argparse
import json
import statistics
import time

import torch
from measure import images, write_result

from sfumato import compare
from sfumato.translation.translator import translator

TARGET, CLASSIFIER = "sfumato/digits:3", "sfumato/digits_classifier"
METHODS = {
    "egsde": f"egsde target={TARGET} classifier={CLASSIFIER}",
    "ilvr": f"ilvr target={TARGET}",
    "sdedit": f"sdedit target={TARGET} strength=0.55",
}
SHOWN = {"fd": "FD", "kid": "KID", "domain": "threes", "source/l2": "L2"}


def entries() -> list[str]:
    made = []
    for name, text in METHODS.items():
        made.append(f"{text} label={name} steps=5,10,20,50")
        made.append(f"{text} label={name}-em steps=500 solver=euler_maruyama spacing=time")
    return made


def shares(threads: int, rounds: int) -> list[dict[str, object]]:
    """Seconds for 66 pictures, the ways taken in turn, medians over rounds."""
    torch.set_num_threads(threads)
    x, _ = images("data/digits/test/2")
    method = translator("egsde", target=TARGET, classifier=CLASSIFIER)
    ways: dict[str, dict[str, object]] = {
        "no energy (SDEdit)": {"realism": 0, "faithful": 0},
        "low-pass only": {"realism": 0},
        "both energies": {},
        "both, guided every 2nd step": {"every": 2},
        "both, guided every 4th step": {"every": 4},
    }
    taken: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(rounds):
        for way, options in ways.items():
            start = time.process_time()
            method.translate(x, **options)
            taken[way].append(time.process_time() - start)
    seconds = {way: statistics.median(t) for way, t in taken.items()}
    least = seconds["no energy (SDEdit)"]
    return [
        {
            "EGSDE, 20 steps": way,
            "CPU s": s,
            "of SDEdit's": s / least,
            "share in guidance": 1 - least / s,
        }
        for way, s in seconds.items()
    ]


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--threads", type=int, default=1)
    p.add_argument("--seeds", type=int, default=2)
    p.add_argument("--rounds", type=int, default=7)
    p.add_argument("--judge", default="runs/judge_digits")
    p.add_argument("--out", default="runs/guided_nfe")
    args = p.parse_args()
    torch.set_num_threads(args.threads)
    found = compare(
        "data/digits/test/2", args.out, entries(), target="data/digits/test/3",
        groups="data/digits/digits.csv:source", seeds=args.seeds, features=args.judge,
    )  # fmt: skip
    rows = []
    for row in found.rows:
        if row.kind == "method":
            numbers = {name: row.numbers[key] for key, name in SHOWN.items()}
            cells = {k: f"{n.value:.3g} ({n.low:.3g} - {n.high:.3g})" for k, n in numbers.items()}
            rows.append({"": row.label, "NFE": int(row.cost["nfe"]), **cells})
    time_shares = shares(args.threads, args.rounds)
    write_result(
        "guided_nfe",
        "Steps and cost of guidance",
        f"66 held-out twos of 33 handwritten digits, {args.seeds} seeds; intervals are 95 % bootstraps over "
        f"the handwritten digits. FD, KID and threes by {json.dumps(found.judge.features.name)}.",
        rows,
        "Time: the ways in turn, medians. Guidance takes the classifier twice forward and once back.",
        time_shares,
    )


if __name__ == "__main__":
    main()
