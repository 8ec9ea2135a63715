"""The studies of EGSDE as pages: choice of M, each expert alone, each weight swept; and experts in 1-D.

    python recipes/guided_studies.py digits sfumato/digits_classifier [--limit 66] [--seeds 1]
    python recipes/guided_studies.py earth runs/guided_classifier_earth --limit 48
    python recipes/guided_studies.py experts

The second word is the folder of a classifier that knows both domains; `recipes/domain_classifiers.py`
trains the digits' judge and `recipes/guided_earth.py` Earth's. Each study is a page of its own,
with its curve, runs/guided_studies/TASK_STUDY/index.html; the last one is a picture.
"""

import argparse
from pathlib import Path

import torch

from sfumato import compare

OUT = Path("runs/guided_studies")
TASKS = {
    "digits": ("sfumato/digits:3", "data/digits/test/2", "data/digits/test/3", "faithful=0.35",
               {"groups": "data/digits/digits.csv:source", "features": "runs/judge_digits"}),
    "earth": ("sfumato/earth:relief", "data/earth/test/satellite", "data/earth/test/relief",
              "faithful=1 content=chroma factor=2",
              {"truth": "data/earth/test/relief", "task": "land_water"}),
}  # fmt: skip


def studies(task: str, classifier: str, limit: int, seeds: int) -> None:
    """Realism is 640 where it is not swept; strength that of the table of the task."""
    model, source, real, faithful, more = TASKS[task]
    ours = f"egsde target={model} classifier={classifier} spacing=time"
    kept, strength = (
        faithful.partition(" ")[2],
        "strength=0.65" if task == "digits" else "strength=0.9",
    )
    pages = {
        "strength": [f"sdedit target={model} spacing=time strength=0.3,0.4,0.5,0.6,0.7",
                     f"{ours} {faithful} realism=640 strength=0.3,0.4,0.5,0.6,0.7"],
        "experts": [f"sdedit target={model} spacing=time {strength}",
                    f"{ours} {strength} label=realism realism=640 faithful=0",
                    f"{ours} {strength} label=faithful {faithful} realism=0",
                    f"{ours} {strength} label=both {faithful} realism=640"],
        "realism": [f"{ours} {strength} {faithful} realism=0,160,640,2560"],
        "faithful": [f"{ours} {strength} {kept} realism=640 faithful=0,0.1,0.35,1,2"],
    }  # fmt: skip
    for name, entries in pages.items():
        compare(
            source, OUT / f"{task}_{name}", entries, target=real, limit=limit, seeds=seeds, **more
        )


def experts(file: Path) -> None:
    """One dimension: p, exp(-E), their product, and the slope of its logarithm, score - dE/dx."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    from sfumato.diffusion.denoiser import score_of
    from sfumato.diffusion.exact import Mixture
    from sfumato.diffusion.guidance import Guided
    from sfumato.diffusion.process import Cosine

    f = Mixture(
        torch.tensor([[-1.0], [1.5]]).double(), torch.tensor([[[0.05]], [[0.2]]]).double(),
        torch.tensor([0.3, 0.7]).double(), Cosine(),
    )  # fmt: skip
    x, t = torch.linspace(-2.5, 3, 551).double()[:, None], 0.1
    energy = lambda v, t: 2 * (v - 0.2).square().sum(-1)
    log_p = (f.weights.log() + f.log_densities(x, t)).logsumexp(-1)
    product = log_p - energy(x, t)
    alpha, sigma = Cosine().at(t, x)
    slope = score_of(Guided(f, energy)(x, t), x, alpha, sigma)[:, 0]
    dx = (x[1] - x[0]).item()
    numeric = torch.gradient(product, spacing=dx)[0]
    print(f"largest error of the slope: {(slope - numeric)[1:-1].abs().max():.1e}")
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3), layout="constrained")
    for name, log_q in (("p", log_p), ("exp(-E)", -energy(x, t)), ("p exp(-E)", product)):
        q = log_q.exp()
        left.plot(x, q / (q.sum() * dx), label=name)
    left.legend()
    right.plot(x, numeric, label="slope of log p exp(-E)")
    right.plot(x, slope, "--", label="score - dE/dx, by Guided")
    right.legend()
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=150)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("task", choices=[*TASKS, "experts"])
    parser.add_argument("classifier", nargs="?", help="folder of a domain classifier")
    parser.add_argument("--limit", type=int, default=66, help="sources")
    parser.add_argument("--seeds", type=int, default=1)
    args = parser.parse_args()
    if args.task == "experts":
        experts(OUT / "experts.png")
    elif args.classifier:
        studies(args.task, args.classifier, args.limit, args.seeds)
    else:
        parser.error(f"{args.task} needs the folder of a classifier")
