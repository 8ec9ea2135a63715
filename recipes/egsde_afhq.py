"""EGSDE's table of cats to dogs, from the published weights: SDEdit, ILVR, EGSDE and EGSDE-dagger.

    python recipes/egsde_afhq.py CHECKPOINTS AFHQ [--out runs/egsde_afhq] [--limit 4] [--shorter 50]

CHECKPOINTS holds afhq_dog_4m.pt, cat2dog_dse.pt and, for FID, pt_inception-2015-12-05-6726825d.pth, as
their authors publish them; AFHQ is the data set's folder, with val/cat and val/dog.  Without Inception's
file the distance is FD-Lite0, which is no FID.  On one core of a CPU a step of SDEdit takes 7 s a picture
and 1.3 GB, one of EGSDE 14 s and 2.6 GB (two evaluations of the classifier, and its gradient): a picture
by EGSDE takes 2 hours, 500 want a GPU.  `--limit 4 --shorter 50` is a look.  What was stopped goes on with
the same command.

The settings are those of the authors' code: explicit low-pass, its linear kernel of 32, one noise for the
start and for all of x_t.  SDEdit and EGSDE take every step of the chain; ILVR 100.  The published figures are
those of Zhao et al. 2022 (https://arxiv.org/abs/2207.06635), table 1, means of five runs.
"""

import argparse
from pathlib import Path

from sfumato import compare, save
from sfumato.checkpoints.published import read_published
from sfumato.core.errors import existing
from sfumato.evaluation.comparison import Comparison
from sfumato.evaluation.entries import Entry

INCEPTION = "pt_inception-2015-12-05-6726825d.pth"
FILES = {"dog": ("afhq_dog_4m.pt", ("dog",)), "cat2dog": ("cat2dog_dse.pt", ("cat", "dog"))}
AUTHORS = {"low_pass": "explicit", "kernel": "linear", "noise": "shared", "factor": 32, "units": "paper"}
SETTINGS = {
    "SDEdit": ("sdedit", {"strength": 0.5, "steps": 500}),
    "ILVR": ("ilvr", {"factor": 32, "keep_down_to": 0.2, "steps": 100}),
    "EGSDE": ("egsde", AUTHORS | {"strength": 0.5, "steps": 500, "realism": 500.0, "faithful": 2.0}),
    "EGSDE-dagger": ("egsde", AUTHORS | {"strength": 0.6, "steps": 600, "realism": 700.0, "faithful": 0.5}),
}
COLUMNS = {"fd": 2, "source/l2": 2, "source/psnr": 2, "source/ssim": 3}
PUBLISHED = {
    "SDEdit": (74.17, 47.88, 19.19, 0.423), "ILVR": (74.37, 56.95, 17.77, 0.363),
    "EGSDE": (65.82, 47.22, 19.31, 0.415), "EGSDE-dagger": (51.04, 62.06, 17.17, 0.361),
}  # fmt: skip


def models(checkpoints: Path, out: Path, size: int) -> dict[str, Path]:
    """The model folders of the published files, made if they are not there."""
    folders = {}
    for name, (file, domains) in FILES.items():
        folders[name] = out / name
        if not (folders[name] / "model.json").exists():
            there = existing(checkpoints / file, "the file of that name that its authors publish")
            made = read_published(there, size=size, domains=domains)
            print(f"{folders[name]} holds {made.said}")
            save(made.part, folders[name], info=made.info)
    return folders


def entries(folders: dict[str, Path], shorter: int, size: int) -> list[Entry]:
    """The rows, each with every `shorter`-th of its steps."""
    found = []
    for label, (method, options) in SETTINGS.items():
        roles = {"target": f"{folders['dog']}:dog"}
        if method == "egsde":
            roles["classifier"] = str(folders["cat2dog"])
        short = {"spacing": "chain", "steps": max(1, options["steps"] // shorter)}
        if "factor" in options:
            short["factor"] = max(1, options["factor"] * size // 256)  # a share of the picture
        found.append(Entry(label, label, method, roles, options | short))
    return found


def table(made: Comparison) -> list[str]:
    """Their figures beside ours."""
    distance = made.judge.features.name
    names = [distance, "L2", "PSNR", "SSIM"]
    lines = [f"{'':14}" + "".join(f"{n:>12}{'published':>12}" for n in names)]
    for row in made.rows:
        if row.label in PUBLISHED:
            line = f"{row.label:14}"
            for (column, digits), theirs in zip(COLUMNS.items(), PUBLISHED[row.label], strict=True):
                number = f"{row.numbers[column][0]:.{digits}f}" if column in row.numbers else ""
                line += f"{number:>12}"
                line += f"{theirs if column != 'fd' or distance == 'FID' else '(FID)':>12}"
            lines.append(line)
    return [*lines, "published: means of five runs, Zhao et al. 2022, table 1, Cat -> Dog, 500 pictures"]


def main(words: list[str] | None = None) -> Comparison:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("checkpoints", type=Path)
    parser.add_argument("afhq", type=Path)
    parser.add_argument("--out", type=Path, default=Path("runs/egsde_afhq"))
    parser.add_argument("--limit", type=int, help="pictures, spread through all")
    parser.add_argument("--shorter", type=int, default=1, help="take every N-th step alone")
    parser.add_argument("--size", type=int, default=256, help="of other weights")
    args = parser.parse_args(words)
    folders = models(args.checkpoints, args.out, args.size)
    inception = args.checkpoints / INCEPTION
    how = {"inception": inception} if inception.exists() else {"features": "lite0"}
    made = compare(
        args.afhq / "val/cat", args.out / "table", entries(folders, args.shorter, args.size),
        target=args.afhq / "val/dog", protocol="egsde", limit=args.limit, **how,
    )  # fmt: skip
    print("\n".join(table(made)))
    return made


if __name__ == "__main__":
    main()
