"""What it takes to score ten thousand pictures: memory above the feature network, and time.

    python benchmarks/evaluate.py [--count 10000] [--threads 2]

Pictures are the training digits (32 pixels); "results" are the same mirrored, which is no translation
but costs what one costs.  Everything runs in this process; memory is the resident set of it.
"""

import argparse
import os
import tempfile
import time
from pathlib import Path

import torch
from measure import images, write_result

from sfumato.data import write_png
from sfumato.data.image_folder import ImageFolder
from sfumato.evaluation.judge import Judge
from sfumato.evaluation.learned import named_features
from sfumato.evaluation.memory import peak_memory


def resident() -> float:
    """Memory that this process holds now, MB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    p.add_argument("--count", type=int, default=10_000)
    p.add_argument("--threads", type=int, default=torch.get_num_threads())
    p.add_argument("--data", default="data/digits/train")
    args = p.parse_args()
    torch.set_num_threads(args.threads)
    with tempfile.TemporaryDirectory() as folder:
        source, results = Path(folder, "source"), Path(folder, "results")
        found, written = sorted(Path(args.data).iterdir()), 0
        for digit in found:
            x, names = images(digit)
            for image, name in list(zip(x, names, strict=True))[: args.count - written]:
                write_png(source / name, image)
                write_png(results / name, image.flip(2))
                written += 1
            del x
        os.environ["SFUMATO_CACHE"] = folder
        eyes = named_features("lite0")
        eyes(torch.zeros(8, 3, 32, 32))
        network = resident()
        with peak_memory() as peak:
            start = time.perf_counter()
            pictures = ImageFolder.to_compare(results)
            Judge(source, source, pictures).scores([pictures])
            spent = time.perf_counter() - start
            most = peak()
    rows = [{
        "pictures": written, "seconds": spent, "ms / picture": 1000 * spent / written,
        "MB above the network": most - network if most else None,
    }]  # fmt: skip
    write_result(
        "evaluate",
        "Scoring many pictures",
        f"Memory of a process that holds the feature network: {network:.0f} MB. All measures of the "
        f"standard protocol, the cross-fitted probe and the bootstraps of FD and KID included, "
        f"{args.threads} thread(s).",
        rows,
    )


if __name__ == "__main__":
    main()
