"""Folders of results, one for each entry of a comparison and each seed."""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sfumato.checkpoints.model_folder import preparation_in, resolve
from sfumato.core.errors import UserError
from sfumato.core.terminal import say
from sfumato.data.folders import replacing, write_text
from sfumato.data.hashing import hash_of
from sfumato.data.image_folder import ImageFolder
from sfumato.data.pictures import ImageSet
from sfumato.evaluation.entries import Entry
from sfumato.evaluation.memory import peak_memory
from sfumato.translation.pictures import translate
from sfumato.translation.run_file import read_run


def sources_of(folder: Path, limit: int | None, out: Path) -> Path:
    """The folder of sources; of a part of them, copies."""
    pictures = ImageFolder(folder)
    if limit is None or limit >= len(pictures):
        return folder
    n = len(pictures)
    some = [pictures.names[int((i + 0.5) * n / limit)] for i in range(limit)]
    there = out / "cells" / f"sources-{pictures.only(some).digest[:8]}"
    for file in pictures.only(some).paths:
        copy = there / file.relative_to(folder)
        if not copy.exists():
            with replacing(copy) as temporary:
                shutil.copyfile(file, temporary)
    return there


class Cells:
    """Folders of results, one for each entry and seed, made when they are not there."""

    def __init__(
        self, source: Path, out: Path, given: Mapping[str, Any], batch: int | None, device: str
    ) -> None:
        """given: size, resize and side, where they are other than in the models' training."""
        self.source, self.out, self.given, self.batch, self.device = (
            source,
            out,
            given,
            batch,
            device,
        )

    def folder(self, e: Entry, seed: int) -> Path:
        """Where these results lie: named after contents, so that all of it can be moved."""
        weights = {
            role: (hash_of(resolve(name)[0] / "weights.safetensors"), resolve(name)[1])
            for role, name in e.roles.items()
        }
        options = {k: hash_of(Path(v)) if k == "mask" and v else v for k, v in e.options.items()}
        how = {role: preparation_in(name).to_json() for role, name in e.roles.items()}
        what = [
            ImageFolder(self.source).digest,
            e.method,
            weights,
            options,
            seed,
            how,
            dict(self.given),
        ]
        key = hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:8]
        return self.out / "cells" / f"{e.slug}-seed{seed}-{key}"

    def run(self, e: Entry, seeds: Sequence[int]) -> tuple[list[ImageSet], dict[str, float]]:
        """Results for every seed (one if they do not depend on it), and the cost of a picture."""
        roles: dict[str, Any] = dict(e.roles)
        found: list[ImageSet] = []
        costs: list[dict[str, float]] = []
        for seed in seeds:
            folder = self.folder(e, seed)
            progress(f"translating by {e.label}, seed {seed}")
            with peak_memory() as peak:
                done = translate(
                    self.source, folder, method=e.method, **roles, seed=seed, batch=self.batch,
                    **self.given, device=self.device, options=e.options,
                )  # fmt: skip
            for file, why in done.skipped.items():
                raise UserError(why if file in why else f"{file}: {why}")
            cost = folder.with_suffix(folder.suffix + ".json")
            if done.written and peak():
                write_text(cost, json.dumps({"megabytes": peak()}))
            result = read_run(folder)["result"]
            known = json.loads(cost.read_text()) if cost.exists() else {}
            known |= {"nfe": result["nfe_per_picture"], "seconds": result["seconds_per_picture"]}
            costs.append({k: v for k, v in known.items() if v is not None})
            found.append(ImageFolder.to_compare(folder))
            if len(found) == 2 and found[0].key == found[1].key:
                found = found[:1]
                break
        keys = ("nfe", "seconds", "megabytes")
        pooled = {k: sorted(c[k] for c in costs if k in c) for k in keys}
        return found, {k: v[len(v) // 2] for k, v in pooled.items() if v}


def progress(text: str) -> None:
    """Progress, on standard error."""
    say(text, file=sys.stderr)
