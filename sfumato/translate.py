"""Pictures to pictures: what `sfumato translate` does.

Results keep the sources' names and tree, beside a run.json from which the run can be repeated (see
`sfumato.record`).  Pictures are written one by one and whole.  A run that was stopped goes on where
it was, with the batches it would have had: a picture's last bits depend on its batch.
"""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sfumato.data.gather import gather, reader
from sfumato.data.images import Resize, fit_image, read_image, write_png
from sfumato.errors import UserError
from sfumato.folder import resolve
from sfumato.method import name_of
from sfumato.part import describe
from sfumato.record import check, digest, read_run, sha256, write_run
from sfumato.solve import Watch
from sfumato.terminal import screen
from sfumato.translator import channels_of, device_of, options_of, size_of, translator
from sfumato.versions import version

__all__ = ["Summary", "repeat", "run_translator", "translate", "translator"]

Paths = str | Path | Sequence[str | Path]


@dataclass
class Summary:
    """What a run did: pictures written, found already there, and skipped (name: why)."""

    written: int = 0
    kept: int = 0
    skipped: dict[str, str] = field(default_factory=dict)
    nfe: float = 0.0
    seconds: float = 0.0

    def add(self, images: int, nfe: int, seconds: float) -> None:
        """Counts images that were translated with `nfe` network evaluations each."""
        self.nfe = (self.nfe * self.written + nfe * images) / (self.written + images)
        self.written, self.seconds = self.written + images, self.seconds + seconds


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
    resize: Resize = "crop",
    upscale: bool = False,
    strict: bool = False,
    device: str = "auto",
    options: Mapping[str, Any] | None = None,
    expect: Mapping[str, Any] | None = None,
    watch: Watch | None = None,
) -> Summary:
    """Translates pictures and folders of pictures into a folder of PNGs.

    Args:
        paths: pictures, or folders whose trees and names are kept.
        out: the folder for the results; the same command again goes on with a stopped run.
        method: how to translate, see `sfumato methods`; not needed with model.
        model: folder of a trained translator.
        source: model of the source domain, FOLDER:DOMAIN.
        target: model of the target domain, FOLDER:DOMAIN.
        classifier: folder of a domain classifier, for methods that are guided by one.
        seed: of the noise; a picture's result depends on it and on the picture alone.
        batch: pictures at a time, at least 1; by default as many as should fit into memory.
        size: side of the pictures in pixels; by default that of the model's training.
        resize: how pictures get that size: crop (scale the short side, cut the middle), stretch,
            none (without a size: take every picture as it is).
        upscale: accept pictures smaller than size.
        strict: refuse to begin if a picture cannot be read, instead of skipping it.
        device: auto (a GPU if there is one), cpu, cuda or cuda:N.
        options: the method's own options.
        expect: refuse to begin unless run.json's "run" is this one; used by `repeat`.
        watch: called for each step of each batch, see `integrate`; what it raises ends the run.

    Raises:
        UserError: for anything wrong with the pictures, models or options, in one line.
    """
    out, given = Path(out), [paths] if isinstance(paths, (str, Path)) else list(paths)
    files = gather(given, out)
    part = translator(method, model, source, target, classifier)
    where = device_of(device)
    roles = {"model": model, "source": source, "target": target, "classifier": classifier}
    models = {role: resolve(name) for role, name in roles.items() if name is not None}
    if size is None and resize != "none":
        size = size_of([folder for folder, _ in models.values()])
    if min(1 if size is None else size, 1 if batch is None else batch) < 1:
        raise UserError(f"size and batch must be at least 1, not {size} and {batch}")
    chosen = options_of(part, options or {})
    mask = chosen.get("mask")
    run = {
        "method": name_of(part), "translator": describe(part), "seed": seed,
        "size": size, "resize": resize, "upscale": upscale,
        "options": chosen | ({"mask": sha256(Path(mask))} if mask else {}),
        "weights": {r: sha256(f / "weights.safetensors") for r, (f, _) in models.items()},
        "pictures": {"count": len(files), "sha256": digest(files)},
        "versions": {name: version(name) for name in ("sfumato", "torch")},
    }  # fmt: skip
    check(out, run := json.loads(json.dumps(run)), expect)

    read = reader(channels_of(part), size, resize, upscale)
    if strict:
        for file in files.values():
            read(file)
    batch = batch or max(1, min(64, 2**18 // (size or 128) ** 2))
    origin = {
        "sources": [str(Path(p).absolute()) for p in given], "method": method,
        "models": {r: f"{f.absolute()}:{d or ''}".rstrip(":") for r, (f, d) in models.items()},
        "mask": str(Path(mask).absolute()) if mask else None, "batch": batch, "device": str(where),
    }  # fmt: skip

    part.to(where)
    done = Summary()
    with _progress(len(files)) as advance:
        for names, images in _batches(files, out, batch, read, done.skipped, advance):
            x, began = images.to(where), time.perf_counter()
            now = chosen | ({"mask": _mask(Path(mask), x)} if mask else {})
            y, nfe = run_translator(part, x, seed=seed, options=now, watch=watch)
            if not y.isfinite().all():
                raise UserError(f"{name_of(part)} gave values that are no numbers; train it again")
            missing = [i for i, name in enumerate(names) if not (out / name).exists()]
            done.add(len(missing), nfe, time.perf_counter() - began)
            if not (out / "run.json").exists():  # not before it is known to work
                write_run(out, run, origin, None)
            for i in missing:
                write_png(out / names[i], y[i].cpu())
    done.kept = len(files) - done.written - len(done.skipped)
    if len(done.skipped) == len(files):
        why = next(iter(done.skipped.values()))
        raise UserError(why if len(files) == 1 else f"none of {len(files)} can be read: {why}")
    if done.written or read_run(out)["result"] is None:
        write_run(out, run, origin, {
            "pictures": done.written + done.kept, "skipped": done.skipped,
            "nfe_per_picture": done.nfe if done.written else None,
            "seconds_per_picture": done.seconds / done.written if done.written else None,
        })  # fmt: skip
    return done


def repeat(run: str | Path, out: str | Path, *, device: str | None = None) -> Summary:
    """Does a recorded run again, into another folder; the same machine gives the same bytes.

    Args:
        run: a translation's run.json, or the folder that holds it.
        out: the folder for the results.
        device: instead of the recorded one.

    Raises:
        UserError: if its pictures or models are no longer what they were.
    """
    run = Path(run)
    saved = read_run(run if run.is_dir() else run.parent, "run.json" if run.is_dir() else run.name)
    what, origin = saved["run"], saved["from"]
    options = what["options"] | ({"mask": origin["mask"]} if origin["mask"] else {})
    return translate(
        origin["sources"], out, method=origin["method"], **origin["models"], options=options,
        **{k: what[k] for k in ("seed", "size", "resize", "upscale")}, expect=what,
        batch=origin["batch"], device=device or origin["device"],
    )  # fmt: skip


def _batches(
    files: Mapping[Path, Path],
    out: Path,
    batch: int,
    read: Callable[[Path], Tensor],
    skipped: dict[str, str],
    advance: Callable[[int], None],
) -> Iterator[tuple[list[Path], Tensor]]:
    """Batches of one image size, cut the same way every time; those that are done are left out."""
    names = list(files)
    for start in range(0, len(names), batch):
        chunk = names[start : start + batch]
        groups: dict[torch.Size, dict[Path, Tensor]] = defaultdict(dict)
        for name in chunk if not all((out / n).exists() for n in chunk) else []:
            try:
                image = read(files[name])
                groups[image.shape][name] = image
            except UserError as error:
                skipped[str(files[name])] = str(error)
        for group in groups.values():
            if not all((out / n).exists() for n in group):
                yield list(group), torch.stack(list(group.values()))
        advance(len(chunk))


def run_translator(
    part: Any, x: Tensor, *, seed: int = 0, options: Mapping[str, Any] | None = None,
    watch: Watch | None = None,
) -> tuple[Tensor, int]:  # fmt: skip
    """Results for images (B, C, H, W) in [-1, 1], and the network evaluations each took.

    Works in halves where there is too little memory for all at once; `watch` (see `integrate`) is called
    for each.
    """
    nfe = 0

    def count(t: float, x_t: Tensor, mean: Tensor, extras: dict[str, Any]) -> None:
        nonlocal nfe
        nfe += extras["nfe"]
        if watch is not None:
            watch(t, x_t, mean, extras)

    try:
        with torch.no_grad():  # no inference_mode: guidance differentiates
            return part.translate(x, seed=seed, watch=count, **(options or {})), nfe
    except (MemoryError, RuntimeError) as error:
        full = isinstance(error, (MemoryError, torch.OutOfMemoryError))
        if not full and "allocate memory" not in str(error):
            raise
    if len(x) == 1:
        h, w = x.shape[-2:]
        raise UserError(f"one picture of {w}x{h} is too much for the memory: use a smaller --size")
    cut = len(x) // 2
    one, nfe = run_translator(part, x[:cut], seed=seed, options=options, watch=watch)
    two, _ = run_translator(part, x[cut:], seed=seed, options=options, watch=watch)
    return torch.cat([one, two]), nfe


def _mask(file: Path, like: Tensor) -> Tensor:
    """1 where the picture `file` is white, else 0; of the size of images (B, C, H, W)."""
    h, w = like.shape[-2:]
    image = fit_image(read_image(file, 1), (h, w), "stretch", upscale=True, name=file)
    return torch.from_numpy(image > 0).to(like)[None]


@contextlib.contextmanager
def _progress(total: int) -> Iterator[Callable[[int], None]]:
    """A progress bar on the terminal, if standard error is one."""
    if not sys.stderr.isatty():
        yield lambda n: None
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

    columns = (BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=screen(stderr=True)) as bar:
        task = bar.add_task("translate", total=total)
        yield lambda n: bar.advance(task, n)
