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

from sfumato.checkpoints.model_folder import ModelFolder
from sfumato.core.arguments import checked
from sfumato.core.errors import UserError
from sfumato.core.ranges import Count
from sfumato.core.terminal import bar, count
from sfumato.core.versions import version
from sfumato.data.folders import for_folder, locked
from sfumato.data.hashing import sha256
from sfumato.data.header import LOST
from sfumato.data.image_folder import ImageFolder
from sfumato.data.images import write_png
from sfumato.data.masks import check_mask, mask_for
from sfumato.data.open_data import outside
from sfumato.data.preparation import Prepared, Side
from sfumato.data.resize import Resize
from sfumato.diffusion.integrate import Watch
from sfumato.methods.registry import name_of
from sfumato.module import describe, device_of, in_single
from sfumato.training.verdict import FOG
from sfumato.translation.run_file import (
    Summary,
    check,
    damaged,
    read_run,
    saved_digest,
    there,
    to_repeat,
    write_run,
)
from sfumato.translation.translator import (
    Ended,
    assembled,
    ending,
    options_of,
    run_translator,
)

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
    batch: Count | None = None,
    size: Count | None = None,
    resize: Resize | None = None,
    upscale: bool = False,
    side: Side | None = None,
    strict: bool = False,
    device: str = "auto",
    options: Mapping[str, Any] | None = None,
    expect: Mapping[str, Any] | None = None,
    watch: Watch | None = None,
    loaded: dict[Path, ModelFolder] | None = None,
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
        batch: pictures translated at a time; by default as many as should fit into memory.
        size: side of the pictures in pixels; the defaults of this option and of the next three are those
            of the model's training.
        resize: how pictures get that size: crop (scale the short side, cut out the middle), stretch, or
            none (without a size: take every picture as it is).
        upscale: enlarge pictures that are smaller than size, instead of leaving them out.
        side: which half of a picture is read: left, right, or whole (it is one picture).
        strict: refuse to begin if the folders hold anything that cannot be read, or only in part.
        device: auto (a GPU if there is one), cpu, cuda, cuda:N or mps.
        options: the method's own options.
        expect: refuse to begin unless run.json's "run" is this one; used by `repeat`.
        watch: called for each step of each batch, see `integrate`; what it raises ends the run.
        loaded: models that are read already, see `assembled`.

    Raises:
        UserError: for anything wrong with the pictures, models or options, in one line.
    """
    given = [paths] if isinstance(paths, (str, Path)) else paths
    out, pictures = for_folder(out), ImageFolder(given)
    outside(out, given)
    pictures.by_name("rename one, or translate them into two folders")
    results = [Path(name).with_suffix(".png") for name in pictures.file_names]
    made = assembled(method, model, source, target, classifier, loaded)
    part, where = made.part, device_of(device)
    chosen = options_of(part, options or {})
    prepare, notes = made.preparation(
        size=size, resize=resize, upscale=upscale, side=side, direction=chosen.get("direction")
    )
    pictures.preparation = prepare
    if mask := chosen.get("mask"):
        check_mask(Path(mask))
    run = {
        "method": name_of(part), "translator": describe(part), "seed": seed,
        "preparation": prepare.to_json(),
        "options": chosen | ({"mask": sha256(Path(mask))} if mask else {}), "weights": made.weights,
        "pictures": {"count": len(pictures), "sha256": pictures.digest_as(saved_digest(out, expect))},
        "versions": {name: version(name) for name in ("sfumato", "torch")},
    }  # fmt: skip
    run = json.loads(json.dumps(run))
    told = {str(m.folder): str(m.info.get("verdict")) for m in made.models.values()}
    notes += [f"{folder}: {text}" for folder, text in told.items() if FOG in text]
    if strict:
        pictures = pictures.decoded(strict=True)
    for text in [*notes, *pictures.said()]:
        warnings.warn(text, stacklevel=3)
    batch = batch or max(1, min(64, 2**18 // (prepare.size or (128, 128))[0] ** 2))
    origin = {
        "sources": [str(Path(p).absolute()) for p in given], "method": method,
        "models": {r: f"{m.folder.absolute()}:{m.domain or ''}".rstrip(":") for r, m in made.models.items()},
        "mask": str(Path(mask).absolute()) if mask else None, "batch": batch, "device": str(where),
    }  # fmt: skip

    part.to(where)
    done = Summary()
    with locked(out), bar("translate", len(pictures)) as advance:
        check(out, run, expect)
        here = out.stat()
        if broken := damaged(out, results):
            warnings.warn(broken, stacklevel=3)
        for rows, read in _batches(
            pictures, [out / name for name in results], batch, done, advance
        ):
            began, x = time.perf_counter(), torch.stack([one.image for one in read]).to(where)
            try:
                now = chosen | ({"mask": mask_for(Path(mask), read, prepare)} if mask else {})
                y, nfe = run_translator(part, x, seed=seed, options=now, watch=ending(watch))
            except Ended as ended:
                raise ended.__cause__ or ended from None
            except UserError as error:  # these pictures cannot be translated; others may
                done.skipped |= {str(pictures.paths[i]): str(error) for i in rows}
                continue
            seconds, written = time.perf_counter() - began, 0
            _stands(out, here)
            if not (out / "run.json").exists():  # not before it is known to work
                write_run(out, run, origin, None)
            for i, one, image in zip(rows, read, y.cpu(), strict=True):
                if there(out / results[i]):
                    continue
                _stands(out, here)
                try:
                    write_png(out / results[i], image)
                except (UserError, OSError) as error:  # no numbers, or a name that is too long
                    if isinstance(error, OSError) and error.errno in FULL:
                        raise
                    done.skipped[str(pictures.paths[i])] = str(error)
                    continue
                written += 1
                done.sizes[str(pictures.roots[i])][one.size, tuple(image.shape[-2:])] += 1
            done.add(written, nfe, seconds)
        named = zip(results, pictures.paths, strict=True)
        _stands(out, here, [name for name, file in named if str(file) not in done.skipped])
        done.kept = len(pictures) - done.written - len(done.skipped)
        if len(done.skipped) == len(pictures):
            why = next(iter(done.skipped.values()))
            raise UserError(
                why if len(pictures) == 1 else f"none of {len(pictures)} can be translated: {why}"
            )
        if done.written or read_run(out)["result"] is None:
            write_run(out, run, origin, {
                "pictures": done.written + done.kept, "skipped": done.skipped, "lost": done.lost,
                "sizes": done.resized(),
                "nfe_per_picture": done.nfe if done.written else None,
                "seconds_per_picture": done.seconds if done.written else None,
            })  # fmt: skip
    return done


def _stands(out: Path, here: os.stat_result, results: Sequence[Path] = ()) -> None:
    """Sees that `out` is the folder that it was, `here`, and holds these results, whole.

    Raises:
        UserError: it is not, or does not.
    """
    if not (out.exists() and os.path.samestat(here, out.stat())):
        raise UserError(
            f"{out} was moved or deleted while pictures were written into it: this run has stopped, "
            f"and the same command goes on with what was moved, or starts again"
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
    pictures: ImageFolder,
    results: Sequence[Path],
    batch: int,
    done: Summary,
    advance: Callable[[int], None],
) -> Iterator[tuple[list[int], list[Prepared]]]:
    """Batches of one image size, cut the same way every time; those that are done are left out."""
    for start in range(0, len(pictures), batch):
        chunk = range(start, min(len(pictures), start + batch))
        groups: dict[torch.Size, dict[int, Prepared]] = defaultdict(dict)
        for i in chunk if not all(there(results[i]) for i in chunk) else []:
            file = str(pictures.paths[i])
            try:
                picture = pictures.read(i)
            except UserError as error:
                done.skipped[file] = str(error)
                continue
            groups[picture.image.shape][i] = picture
            for kind, detail in picture.lost.items():
                done.lost[f"that {LOST[kind]}"].append(f"{file}: {detail}".removesuffix(": "))
        for group in groups.values():
            if not all(there(results[i]) for i in group):
                yield list(group), list(group.values())
        advance(len(chunk))
