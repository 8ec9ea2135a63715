"""Folders of results, one for each entry of a comparison and each seed."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from inspect import signature
from pathlib import Path
from typing import Any

from sfumato.checkpoints.model_folder import ModelFolder, preparation_in, resolve
from sfumato.core.errors import UserError
from sfumato.core.terminal import say
from sfumato.data.folders import parse_json, regular, write_text
from sfumato.data.hashing import hash_of
from sfumato.data.kept import decoding_once
from sfumato.data.masks import mask_record
from sfumato.data.pictures import ImageSet
from sfumato.evaluation.entries import Entry
from sfumato.evaluation.inputs import as_trained, results_in, sources_in
from sfumato.evaluation.memory import peak_memory
from sfumato.translation.pictures import translate
from sfumato.translation.run_file import read_run


class ResultFolders:
    """Folders of results, one for each entry and seed, made when they are not there.

    Args:
        source: folder of the sources.
        out: folder of the comparison.
        prepared: size, resize and side, where not as in the models' training.
        loaded: the models, by their folders.
        how: batch, device and beside of `translate`.
    """

    def __init__(
        self, source: Path, out: Path, prepared: Mapping[str, Any], loaded: dict[Path, ModelFolder],
        **how: Any,
    ) -> None:  # fmt: skip
        self.source, self.out, self.prepared = source, out, prepared
        self.loaded, self.how = loaded, how

    def folder(self, e: Entry, seed: int) -> Path:
        """Where these results lie: named after contents, so that all of it can be moved."""
        models = {role: resolve(name) for role, name in e.roles.items()}
        weights = {r: (hash_of(f / "weights.safetensors"), d) for r, (f, d) in models.items()}
        options = {k: mask_record(Path(v)) if k == "mask" and v else v for k, v in e.options.items()}
        trained = {role: preparation_in(name).to_json() for role, name in e.roles.items()}
        sources = sources_in(self.source, self.how.get("beside") or ()).digest
        prepared = dict(self.prepared)
        what = [sources, e.method, weights, options, seed, trained, prepared]
        key = hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:8]
        return self.out / "cells" / f"{e.slug}-seed{seed}-{key}"

    def translated(self, e: Entry, seeds: Sequence[int]) -> tuple[list[ImageSet], dict[str, float]]:
        """Results for every seed (one if they do not depend on it), and the cost of a picture."""
        found: list[ImageSet] = []
        costs: list[dict[str, float]] = []
        for seed in seeds:
            folder = self.folder(e, seed)
            progress(f"translating by {e.label}, seed {seed}")
            with decoding_once() as kept, peak_memory(kept.held + self._others(e)) as peak:
                done = translate(
                    self.source, folder, method=e.method, seed=seed, options=e.options,
                    loaded=self.loaded, **dict[str, Any](e.roles), **as_trained(e, self.prepared), **self.how,
                )  # fmt: skip
            for file, why in done.skipped.items():
                raise UserError(why if file in why else f"{file}: {why}")
            cost = folder.with_suffix(folder.suffix + ".json")
            if done.written and peak():
                write_text(cost, json.dumps({"megabytes": peak()}))
            result = read_run(folder)["result"]
            known = _megabytes(cost)
            known |= {"nfe": result["nfe_per_picture"], "seconds": result["seconds_per_picture"]}
            costs.append({k: v for k, v in known.items() if v is not None})
            found.append(results_in(folder))
            if len(found) == 2 and found[0].key == found[1].key:
                found = found[:1]
                break
        for model in self.loaded.values():
            model.part.to("cpu")  # the next entry's may need all of a GPU
        pooled = {k: sorted(c[k] for c in costs if k in c) for k in ("nfe", "seconds", "megabytes")}
        return found, {k: v[len(v) // 2] for k, v in pooled.items() if v}

    def _others(self, e: Entry) -> int:
        """Bytes of the other entries' models."""
        own = {resolve(name)[0] for name in e.roles.values()}
        others = (model.part for folder, model in self.loaded.items() if folder not in own)
        return sum(x.nbytes for part in others for x in part.state_dict().values())

    def back(self, e: Entry, seed: int) -> ImageSet | None:
        """The results of a seed, translated back; None where the entry translates one way alone."""
        back = replace(e, label=f"{e.label} back")
        if {"source", "target"} <= e.roles.keys():
            swapped = {"source": e.roles["target"], "target": e.roles["source"]}
            back = replace(back, roles=dict(e.roles) | swapped)
        elif self._directed(e):
            back = replace(back, options=dict(e.options) | {"direction": "target-to-source"})
        else:
            return None
        prepared = {**self.prepared, "side": "whole"}
        how = self.how | {"beside": None}  # results hold all their channels
        there = ResultFolders(self.folder(e, seed), self.out, prepared, self.loaded, **how)
        return there.translated(back, [seed])[0][0]

    def _directed(self, e: Entry) -> bool:
        """Whether an entry's model translates in both directions, and is asked for the first."""
        part = self.loaded[resolve(e.roles["model"])[0]].part if "model" in e.roles else None
        both = part is not None and "direction" in signature(part.translate).parameters
        return both and e.options.get("direction", "source-to-target") == "source-to-target"


def _megabytes(file: Path) -> dict[str, float]:
    """What was measured when the results were made; nothing, if that is lost."""
    with suppress(OSError, ValueError, TypeError, LookupError):
        return {"megabytes": float(parse_json(regular(file).read_text())["megabytes"])}
    return {}


def progress(text: str) -> None:
    """Progress, on standard error."""
    say(text, file=sys.stderr)
