"""Training a method on folders of pictures: what `sfumato train` does.

A run folder is a model folder from its first save on.  Beside the model it holds

    training.safetensors   weights, EMA, optimisers and step, in one file that is replaced at once
    run.json               the options of the run
    log.jsonl, loss.png    losses, learning rate and images/s as training goes
    previews/              a picture of what the model does, every so often
    split.json             which images were held out
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from sfumato.data import sets
from sfumato.data.folders import write_text
from sfumato.errors import UserError, choose
from sfumato.fit import Diverged, State, fit, machine
from sfumato.folder import read_tensors, save, write_tensors
from sfumato.heldout import preview, scores
from sfumato.journal import Journal, interrupts, progress
from sfumato.method import find, name_of
from sfumato.part import Part, describe, fields
from sfumato.settings import DEFAULTS, check, check_options
from sfumato.settings import defaults as defaults
from sfumato.terminal import say

LOG_EVERY = 50
"""Steps between lines of log.jsonl."""


def train(
    method: str | Part,
    data: str | Path | Sequence[str | Path] | Mapping[str, str | Path],
    out: str | Path,
    *,
    options: Mapping[str, Any] | None = None,
    size: int = 32,
    resize: Literal["crop", "stretch", "none"] = "crop",
    upscale: bool = False,
    side_by_side: bool = False,
    strict: bool = False,
    held_out: float = 0.05,
    validation: str | Path | Sequence[str | Path] | Mapping[str, str | Path] | None = None,
    flip: bool = False,
    steps: int = 5000,
    jitter: float = 0.0,
    batch: int | None = None,
    lr: float | None = None,
    schedule: Literal["cosine", "linear", "constant"] | None = None,
    hold: float | None = None,
    warmup: int | None = None,
    optimiser: Literal["adamw", "adam"] | None = None,
    beta1: float | None = None,
    weight_decay: float = 0.0,
    clip: float | None = None,
    ema: float | None = None,
    accumulate: int = 1,
    precision: Literal["no", "bf16"] = "no",
    device: Literal["auto", "cpu"] = "auto",
    seed: int = 0,
    save_every: int = 250,
    preview_every: int = 1000,
    resume: bool = False,
    quiet: bool = False,
) -> Part:
    """Trains a method and returns it with its averaged weights, in evaluation mode.

    Args:
        method: a method's name, or a method.
        data: for models of domains {name: folder} or one folder with a folder for each domain; for
            pairs and unpaired methods two folders, or with side_by_side one.
        out: the run folder.
        options: the method's own fields.
        size: side of the images in pixels.
        resize: how images get that size: crop (scale the short side, cut the middle),
            stretch, none.
        upscale: accept images smaller than size.
        side_by_side: each image holds a pair: source in its left half, target in its right.
        strict: refuse folders with unreadable images instead of skipping those.
        held_out: share of the images, in [0, 1), kept out of training to score it.
        validation: other folders to score it on, given like data; held_out is then not used.
        flip: mirror images at random, both of a pair alike.
        jitter: enlarge images by this share and crop at random, both of a pair alike.
        steps: optimiser steps.
        batch: images a step, over all processes together (pairs, for methods of two folders).
            This and what follows, to `ema`, are by default as `defaults` says for the method.
        lr: highest learning rate, > 0.
        schedule: of the learning rate after the warm-up: cosine or linear to 0, or constant.
        hold: share of the steps after the warm-up, in [0, 1), before the learning rate falls.
        warmup: steps over which the learning rate rises from 0.
        optimiser: adamw or adam.
        beta1: decay of the optimiser's mean of the gradient, in [0, 1); GANs use 0.5.
        weight_decay: of the optimiser, >= 0.
        clip: largest norm of a player's gradient; 0 does not clip.
        ema: decay of the weights' moving average a step, in [0, 1).
        accumulate: batches a step, to train with large batches in little memory.
        precision: no (fp32, fastest on CPUs) or bf16.
        device: auto (a GPU if there is one) or cpu.
        seed: of the initial weights and everything random in training.
        save_every: steps between saves.
        preview_every: steps between previews; 0 makes none.
        resume: go on with the run in `out`.
        quiet: no progress bar.

    Raises:
        UserError: for anything wrong with the data, the options or the run folder, in one line.
    """
    out = Path(out)
    settings = {
        k: v
        for k, v in locals().items()
        if k not in ("method", "data", "out", "options", "validation")
    }
    for key in ("resume", "quiet", "device"):
        settings.pop(key)
    cls = find(method) if isinstance(method, str) else type(method)
    own = defaults(cls)
    settings |= {k: v for k, v in own.items() if settings[k] is None}
    check(settings | {"device": device})
    check_options(options or {})
    batch = int(settings["batch"])
    if not hasattr(cls, "objectives"):
        raise UserError(
            f"{name_of(cls)} is not trained itself: train `diffusion` on your folders, then "
            f"sfumato translate --method {name_of(cls)} --source RUN:A --target RUN:B ..."
        )
    previous = _previous(out, resume)
    how: dict[str, Any] = {
        "size": size, "resize": resize, "upscale": upscale, "strict": strict,
        "side_by_side": side_by_side, "channels": int((options or {}).get("channels", 3)),
    }  # fmt: skip
    everything = open_data(cls.data, data, **how)  # type: ignore[attr-defined]
    if validation is not None:
        training, rest = everything, open_data(cls.data, validation, **how)  # type: ignore[attr-defined]
    elif held_out:
        training, rest = everything.split(held_out, seed)
    else:
        training, rest = everything, None
    if isinstance(method, str):
        given = dict(options or {})
        if isinstance(everything, sets.Domains):
            given["domains"] = tuple(everything.parts)
        if "side" in [f.name for f in fields(cls)]:
            given["side"] = size
        with torch.random.fork_rng():
            torch.manual_seed(seed)  # the initial weights
            part: Part = _make(cls, given)
    else:
        part = method
    run = {"model": describe(part), "data": everything.describe(), "settings": settings}
    if previous is not None:
        _compare(previous["run"], run, out)

    accelerator = machine(device, precision)
    part.to(accelerator.device)
    betas = (float(settings["beta1"]), 0.999)
    state = State(part, settings["optimiser"], betas, weight_decay)
    if previous is not None:
        state.restore(previous["tensors"], previous["step"])
    main = accelerator.is_main_process
    for note in getattr(part, "notes", []) if main and not quiet else []:
        say(note, file=sys.stderr)
    if main:
        out.mkdir(parents=True, exist_ok=True)
        write_text(out / "run.json", json.dumps(run, indent=2) + "\n")
        names = {"training": training.names(), "held_out": rest.names() if rest else {}}
        write_text(out / "split.json", json.dumps(names) + "\n")

    log = Journal(out / "log.jsonl", images=batch * accumulate, step=state.step)

    def batches(start: int) -> Iterator[tuple[Tensor, Tensor]]:
        numbered = training.batches(
            batch, seed=seed, start=start, flip=flip, jitter=jitter,
            rank=accelerator.process_index, world=accelerator.num_processes,
        )  # fmt: skip
        for a, b in numbered:
            yield a.to(accelerator.device), b.to(accelerator.device)

    def keep() -> None:
        if not main:
            return
        now = state.tensors() | {"step": torch.tensor(state.step)}
        write_tensors(out / "training.safetensors", now)
        info = {
            "size": size, "resize": resize, "step": state.step, "data": everything.describe(),
            "settings": settings,
        }  # fmt: skip
        save(part, out, weights=state.ema, info=info)
        log.plot(out / "loss.png")

    updates = fit(
        state, batches(state.step * accumulate), steps=steps, seed=seed, accumulate=accumulate,
        accelerator=accelerator,
        **{k: settings[k] for k in ("lr", "schedule", "hold", "warmup", "clip", "ema")},
    )  # fmt: skip
    with progress(steps, state.step, quiet or not main) as show, interrupts() as interrupted:
        try:
            for update in updates:
                line = log.add(update)
                if update.step % LOG_EVERY == 0 or update.step == steps:
                    if rest and (update.step % save_every == 0 or update.step == steps):
                        line |= scores(state, rest, batch, accelerator.device)
                    if main:
                        log.write(line)
                show(line)
                last = update.step == steps or interrupted()
                if update.step % save_every == 0 or last:
                    keep()
                if main and preview_every and (update.step % preview_every == 0 or last):
                    preview(state, rest or training, out / "previews", accelerator.device)
                if interrupted():
                    raise KeyboardInterrupt(
                        f"stopped at step {update.step}, saved in {out}; the same command with "
                        f"--resume goes on"
                    )
        except Diverged as error:
            good = f"{out} holds the last good save" if (out / "model.json").exists() else "no save"
            raise UserError(
                f"{error}; {good}. Lower --lr (it was {settings['lr']:g}) or --clip (it was "
                f"{settings['clip']:g}), then go on with --resume"
            ) from None
    if state.step and not (out / "model.json").exists():
        keep()
    with torch.no_grad():
        state._put(state.ema)
    return part.eval()


def open_data(
    kind: str,
    data: str | Path | Sequence[str | Path] | Mapping[str, str | Path],
    *,
    side_by_side: bool = False,
    **how: Any,
) -> sets.Dataset:
    """The pictures a method learns from; `kind` is its `data`: domains, pairs or unpaired."""
    if isinstance(data, (str, Path)):
        data = [data]
    if kind == "domains":
        if isinstance(data, Mapping):
            return sets.open_domains(dict(data), **how)
        if len(data) == 1:
            return sets.open_domains(data[0], **how)
        return sets.open_domains({Path(d).name: d for d in data}, **how)
    folders = list(data.values()) if isinstance(data, Mapping) else list(data)
    if side_by_side and len(folders) == 1:
        return sets.open_side_by_side(folders[0], **how)
    if len(folders) != 2:
        raise UserError(
            f"this method learns from two folders, source and target, not {len(folders)}; for "
            f"pairs side by side in one folder say --side-by-side"
        )
    opener = sets.open_pairs if kind == "pairs" else sets.open_unpaired
    return opener(folders[0], folders[1], **how)


def _make(cls: type[Part], given: dict[str, Any]) -> Part:
    for name in given:
        choose(f"option of {name_of(cls)}", name, [f.name for f in fields(cls)])
    return cls(**given)


def _previous(out: Path, resume: bool) -> dict[str, Any] | None:
    """The state of the run in `out`, if it is to be resumed and there is one."""
    saved = out / "training.safetensors"
    if not resume:
        if out.exists() and any(out.iterdir()):
            raise UserError(
                f"{out} is not empty; go on with its run by --resume, or choose another --out"
            )
        return None
    if not saved.exists():
        if out.exists() and (out / "model.json").exists():
            raise UserError(f"{out} holds a model but no training to resume; choose another --out")
        return None  # killed before its first save: begin again
    if not (out / "run.json").exists():
        raise UserError(
            f"{out} has lost its run.json, without which nothing resumes: choose another --out"
        )
    tensors = read_tensors(saved)
    run = json.loads((out / "run.json").read_text())
    return {"tensors": tensors, "step": int(tensors.pop("step")), "run": run}


def _compare(before: dict[str, Any], now: dict[str, Any], out: Path) -> None:
    """Resuming needs the same model, data, batch, seed; other settings may change, and are said."""
    now = json.loads(json.dumps(now))
    for key in ("model", "data"):
        if before[key] != now[key]:
            raise UserError(f"{out} was trained with another {key}; choose another --out")
    for key, value in now["settings"].items():
        was = before["settings"].get(key, DEFAULTS.get(key, value))
        if was != value and key in (
            "batch",
            "seed",
            "held_out",
            "flip",
            "jitter",
            "accumulate",
            "optimiser",
        ):
            raise UserError(f"{out} was trained with {key} {was}, not {value}; --{key} {was}")
        if was != value:
            say(f"resuming with {key} {value} (it was {was})", file=sys.stderr)
