"""Pictures to pictures: what `sfumato translate` does.

Results keep the sources' names and tree, beside a run.json from which the run can be repeated.
Pictures are written one by one and whole.  A run that was stopped goes on where
it was, with the batches it would have had: a picture's last bits depend on its batch.
"""

from __future__ import annotations

import errno
import json
import os
import time
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from sfumato.checkpoints.model_folder import describe_folder, resolve
from sfumato.core.arguments import checked
from sfumato.core.errors import UserError
from sfumato.core.terminal import bar, count
from sfumato.core.versions import version
from sfumato.data.folders import locked
from sfumato.data.gather import gather
from sfumato.data.hashing import digest, hash_of, sha256
from sfumato.data.header import LOST, WHOLE
from sfumato.data.images import write_png
from sfumato.data.listing import OTHER, said
from sfumato.data.masks import check_mask, mask_for
from sfumato.data.preparation import Preparation, Prepared, Side
from sfumato.data.resize import Resize
from sfumato.diffusion.integrate import Watch
from sfumato.methods.registry import name_of
from sfumato.module import channels_of, describe, in_single
from sfumato.training.verdict import FOG
from sfumato.translation.run_file import (
    Summary,
    check,
    damaged,
    read_run,
    there,
    to_repeat,
    write_run,
)
from sfumato.translation.translator import Ended, device_of, ending, options_of, preparation_of
from sfumato.translation.translator import run_translator as run_translator
from sfumato.translation.translator import translator as translator

Paths = str | Path | Sequence[str | Path]
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
"""Errors of writing that the next picture will meet, too."""


@checked
@in_single
def translate(
    paths: Paths,
    out: str | Path,
    *,
    method: str | None = None,
    model: str | Path | None = None,
    source: str | Path | None = None,
    target: str | Path | None = None,
    classifier: str | Path | None = None,
    seed: int = 0,
    batch: int | None = None,
    size: int | None = None,
    resize: Resize | None = None,
    upscale: bool = False,
    side: Side | None = None,
    strict: bool = False,
    device: str = "auto",
    options: Mapping[str, Any] | None = None,
    expect: Mapping[str, Any] | None = None,
    watch: Watch | None = None,
) -> Summary:
    """Translates pictures and folders of pictures into a folder of PNGs.

    Args:
        paths: pictures, or folders whose trees and names are kept.
        out: folder for the results; after a stop, the same command goes on.
        method: the method to translate by, see `sfumato methods`; not needed with model.
        model: folder of a trained translator.
        source: model of the source domain, FOLDER:DOMAIN.
        target: model of the target domain, FOLDER:DOMAIN.
        classifier: folder of a domain classifier, for methods that are guided by one.
        seed: seed of the noise; a picture's result depends on the seed and the picture alone.
        batch: pictures translated at a time, at least 1; by default as many as should fit into memory.
        size: side of the pictures in pixels; the defaults of this option and of the next three are those
            of the model's training.
        resize: how pictures get that size: crop (scale the short side, cut out the middle), stretch, or
            none (without a size: take every picture as it is).
        upscale: enlarge pictures that are smaller than size, instead of leaving them out.
        side: which half of a picture is read: left, right, or whole (it is one picture).
        strict: refuse to begin if the folders hold anything that cannot be read, or only in part.
        device: auto (a GPU if there is one), cpu, cuda or cuda:N.
        options: the method's own options.
        expect: refuse to begin unless run.json's "run" is this one; used by `repeat`.
        watch: called for each step of each batch, see `integrate`; what it raises ends the run.

    Raises:
        UserError: for anything wrong with the pictures, models or options, in one line.
    """
    given = [paths] if isinstance(paths, (str, Path)) else paths
    gathered = gather(given, out)
    out = Path(out)
    files = gathered.files
    part = translator(method, model, source, target, classifier)
    where = device_of(device)
    roles = {"model": model, "source": source, "target": target, "classifier": classifier}
    models = {role: resolve(name) for role, name in roles.items() if name is not None}
    if batch is not None and batch < 1:
        raise UserError(f"batch must be at least 1, not {batch}")
    chosen = options_of(part, options or {})
    prepare, notes = preparation_of(
        {role: folder for role, (folder, _) in models.items()}, channels=channels_of(part), size=size,
        resize=resize, upscale=upscale, side=side, direction=chosen.get("direction"),
    )  # fmt: skip
    if mask := chosen.get("mask"):
        check_mask(Path(mask))
    run = {
        "method": name_of(part), "translator": describe(part), "seed": seed,
        "preparation": prepare.to_json(),
        "options": chosen | ({"mask": sha256(Path(mask))} if mask else {}),
        "weights": {r: hash_of(f / "weights.safetensors") for r, (f, _) in models.items()},
        "pictures": {"count": len(files), "sha256": digest(files)},
        "versions": {name: version(name) for name in ("sfumato", "torch")},
    }  # fmt: skip
    run = json.loads(json.dumps(run))
    told = {
        folder: str(describe_folder(folder)["info"].get("verdict")) for folder, _ in models.values()
    }
    notes += [f"{folder}: {text}" for folder, text in told.items() if FOG in text]
    _say(notes, gathered.left_out, prepare, files.values() if strict else ())
    batch = batch or max(1, min(64, 2**18 // (prepare.size or (128, 128))[0] ** 2))
    origin = {
        "sources": [str(Path(p).absolute()) for p in given], "method": method,
        "models": {r: f"{f.absolute()}:{d or ''}".rstrip(":") for r, (f, d) in models.items()},
        "mask": str(Path(mask).absolute()) if mask else None, "batch": batch, "device": str(where),
    }  # fmt: skip

    part.to(where)
    done = Summary()
    with locked(out), bar("translate", len(files)) as advance:
        check(out, run, expect)
        here = out.stat()
        if broken := damaged(out, files):
            warnings.warn(broken, stacklevel=3)
        for names, pictures in _batches(files, out, batch, prepare, done, advance):
            began, x = time.perf_counter(), torch.stack([p.image for p in pictures]).to(where)
            try:
                now = chosen | ({"mask": mask_for(Path(mask), pictures, prepare)} if mask else {})
                y, nfe = run_translator(part, x, seed=seed, options=now, watch=ending(watch))
            except Ended as ended:
                raise ended.__cause__ or ended from None
            except UserError as error:  # these pictures cannot be translated; others may
                done.skipped |= {str(files[name]): str(error) for name in names}
                continue
            seconds, written = time.perf_counter() - began, 0
            _stands(out, here)
            if not (out / "run.json").exists():  # not before it is known to work
                write_run(out, run, origin, None)
            for name, picture, image in zip(names, pictures, y.cpu(), strict=True):
                if there(out / name):
                    continue
                _stands(out, here)
                try:
                    write_png(out / name, image)
                except (UserError, OSError) as error:  # no numbers, or a name that is too long
                    if isinstance(error, OSError) and error.errno in FULL:
                        raise
                    done.skipped[str(files[name])] = str(error)
                    continue
                written += 1
                done.sizes[str(gathered.folders[name])][picture.size, tuple(image.shape[-2:])] += 1
            done.add(written, nfe, seconds)
        _stands(out, here, [name for name, file in files.items() if str(file) not in done.skipped])
        done.kept = len(files) - done.written - len(done.skipped)
        if len(done.skipped) == len(files):
            why = next(iter(done.skipped.values()))
            raise UserError(
                why if len(files) == 1 else f"none of {len(files)} can be translated: {why}"
            )
        if done.written or read_run(out)["result"] is None:
            write_run(out, run, origin, {
                "pictures": done.written + done.kept, "skipped": done.skipped, "lost": done.lost,
                "sizes": done.resized(),
                "nfe_per_picture": done.nfe if done.written else None,
                "seconds_per_picture": done.seconds if done.written else None,
            })  # fmt: skip
    return done


def _say(
    notes: list[str], left_out: Mapping[Path, Mapping[str, list[str]]], prepare: Preparation,
    read: Any,
) -> None:  # fmt: skip
    """Says at once what is left out, and what contradicts the models' training.

    Raises:
        UserError: a picture of `read`, or of the folders, cannot be read whole.
    """
    for text in notes:
        warnings.warn(text, stacklevel=4)
    for folder, names in left_out.items():
        if (refused := {why: some for why, some in names.items() if why != OTHER}) and read:
            raise UserError(f"{said(folder, refused)}; without --strict the rest is translated")
        if names:
            warnings.warn(said(folder, names), stacklevel=4)
    for file in read:
        if lost := prepare.read(file).lost.keys() - WHOLE:
            kinds = " and ".join(LOST[kind] for kind in LOST if kind in lost)
            raise UserError(f"{file} is refused with pictures that {kinds}; leave --strict away")


def _stands(out: Path, here: os.stat_result, results: Sequence[Path] = ()) -> None:
    """Sees that `out` is the folder that it was, `here`, and holds these results, whole.

    Raises:
        UserError: it is not, or does not.
    """
    if not (out.exists() and os.path.samestat(here, out.stat())):
        raise UserError(
            f"{out} was moved or deleted while pictures were written into it: this run has stopped, "
            f"and goes on with what was moved, or begins anew, by the same command"
        )
    if gone := [name.as_posix() for name in results if not there(out / name)]:
        raise UserError(
            f"{count(len(gone), 'picture')} of {out} are gone that were written ({gone[0]}): the same "
            f"command makes them again"
        )


@checked
@in_single
def repeat(run: str | Path, out: str | Path, *, device: str | None = None) -> Summary:
    """Does a recorded run again, into another folder; the same machine gives the same bytes.

    Args:
        run: a translation's run.json, or the folder that holds it.
        out: the folder for the results.
        device: instead of the recorded one.

    Raises:
        UserError: if its pictures or models are no longer what they were.
    """
    what, origin = to_repeat(Path(run))
    options = what["options"] | ({"mask": origin["mask"]} if origin["mask"] else {})
    how = what["preparation"]
    return translate(
        origin["sources"], out, method=origin["method"], **origin["models"], options=options,
        seed=what["seed"], size=how["size"] and how["size"][0],
        **{k: how[k] for k in ("resize", "upscale", "side")}, expect=what,
        batch=origin["batch"], device=device or origin["device"],
    )  # fmt: skip


def _batches(
    files: Mapping[Path, Path],
    out: Path,
    batch: int,
    prepare: Preparation,
    done: Summary,
    advance: Callable[[int], None],
) -> Iterator[tuple[list[Path], list[Prepared]]]:
    """Batches of one image size, cut the same way every time; those that are done are left out."""
    names = list(files)
    for start in range(0, len(names), batch):
        chunk = names[start : start + batch]
        groups: dict[torch.Size, dict[Path, Prepared]] = defaultdict(dict)
        for name in chunk if not all(there(out / n) for n in chunk) else []:
            try:
                picture = prepare.read(files[name])
            except UserError as error:
                done.skipped[str(files[name])] = str(error)
                continue
            groups[picture.image.shape][name] = picture
            for kind, detail in picture.lost.items():
                done.lost[f"that {LOST[kind]}"].append(
                    f"{files[name]}: {detail}".removesuffix(": ")
                )
        for group in groups.values():
            if not all(there(out / n) for n in group):
                yield list(group), list(group.values())
        advance(len(chunk))
