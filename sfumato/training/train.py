"""Training a method on folders of pictures: what `sfumato train` does.

A run folder is a model folder from its first save on.  Beside the model it holds

    training.safetensors, run.json, split.json    what is resumed, see `sfumato.training.run_folder`
    log.jsonl, loss.png    losses, learning rate and images/s as training goes
    previews/              a picture of what the model does, after a minute and every so often
    README.md, model.json  say where the training stands, see `sfumato.training.verdict`
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack, nullcontext
from inspect import signature
from pathlib import Path
from typing import Any, Literal

import torch

from sfumato.checkpoints.tensors import memory
from sfumato.core.arguments import checked
from sfumato.core.errors import UserError, choose
from sfumato.core.terminal import say, unheard
from sfumato.data import sets
from sfumato.data.folders import locked
from sfumato.data.open_data import open_data, outside
from sfumato.data.preparation import Preparation
from sfumato.data.without import leave_out
from sfumato.methods.registry import find, info, name_of, named
from sfumato.module import Part, build, describe, fields, in_single
from sfumato.training.fit import State, machine
from sfumato.training.log import Progress
from sfumato.training.options import check, check_options
from sfumato.training.options import defaults as defaults
from sfumato.training.processes import mean, together
from sfumato.training.run_folder import SAVES, RunFolder, absolute, compare, earlier, read_run
from sfumato.training.session import learn


@checked
@in_single
@memory("use a smaller --batch or --size")
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
    without: str | Path | None = None,
    flip: bool = False,
    steps: int | None = None,
    minutes: float | None = None,
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
    save_minutes: float = 10.0,
    preview_every: int = 1000,
    resume: bool = False,
    quiet: bool = False,
) -> Part:
    """Trains a method and returns it with its averaged weights, in evaluation mode.

    Args:
        method: a method's name, or a method.
        data: for models of domains {name: folder}, or one folder with a folder for each domain; for
            methods of pairs and of unpaired pictures two folders, or one with side_by_side.
        out: the run folder.
        options: the method's own fields; none if `method` is an instance.
        size: side of the images in pixels.
        resize: how images get that size: crop (scale the short side, cut out the middle),
            stretch, or none (refuse other sizes).
        upscale: enlarge images that are smaller than size, instead of leaving them out.
        side_by_side: each image holds a pair: the source in its left half, the target in its right half.
        strict: refuse folders with unreadable images, instead of skipping these images.
        held_out: share of the images, in [0, 1), that is kept out of training to score it.
        validation: other folders to score the training on, given like data, in place of held_out.
        without: a text file of pictures to leave out, one name or path a line; of a pair both are left out.
        flip: mirror images at random, both pictures of a pair alike.
        jitter: enlarge images by this share, in [0, 1], and crop at random, both pictures of a pair alike.
        steps: optimiser steps; 5000 if neither steps nor minutes are given.
        minutes: how long to train, above 0, in place of steps.  A few steps are measured and thrown away;
            then as many are made as fit, and run.json records their number.
        batch: images in a step, over all processes together (pairs, for methods of two folders).
            The defaults of this option and of the next ones, up to `ema`, are the method's own.
        lr: highest learning rate, > 0.
        schedule: how the learning rate goes on after the warm-up: cosine or linear to 0, or constant.
        hold: share of the steps after the warm-up, in [0, 1), before the learning rate falls.
        warmup: steps over which the learning rate rises from 0.
        optimiser: adamw or adam.
        beta1: decay of the optimiser's mean of the gradient, in [0, 1); GANs use 0.5.
        weight_decay: weight decay of the optimiser, >= 0.
        clip: largest norm of a player's gradient; 0 does not clip.
        ema: decay of the weights' moving average in a step, in [0, 1).
        accumulate: batches in a step, to train with many images a step in little memory.
        precision: no (fp32, fastest on CPUs) or bf16.
        device: auto (a GPU if there is one) or cpu.
        seed: seed of the initial weights and of everything random in training.
        save_every: steps between saves.
        save_minutes: minutes after which it saves at the latest; 0 waits for save_every.
        preview_every: steps between previews; 0 makes none.
        resume: go on with the run in `out`.
        quiet: say nothing.

    Raises:
        UserError: for anything wrong with the data, the options or the run folder, in one line.
    """
    out = Path(out)
    settings = {
        k: v
        for k, v in locals().items()
        if k not in ("method", "data", "out", "options", "validation")
    }
    asked = {key: settings.pop(key) for key in ("resume", "quiet", "device", "minutes")}
    if minutes is None:
        asked.pop("minutes")
    if without is not None:
        settings["without"] = str(Path(without).absolute())
    cls = find(method) if isinstance(method, str) else type(method)
    settings |= {k: v for k, v in defaults(cls).items() if settings[k] is None}
    check(settings | asked)
    check_options(options or {})
    if (kind := info(cls).trains_on) is None:
        raise UserError(
            f"{name_of(cls)} is not trained itself: train `diffusion` on your folders, then "
            f"sfumato translate --method {name_of(cls)} --source RUN:A --target RUN:B ..."
        )
    if isinstance(method, Part):
        _check_part(method, size, options)
    accelerator = machine(device, precision)
    main = accelerator.is_main_process
    with nullcontext() if main else unheard():
        before, told = earlier(out, resume), Progress(quiet=quiet or not main)
        if minutes is not None and steps not in (None, before and before["settings"].get("steps")):
            raise UserError(f"say --steps {steps} or --minutes {minutes:g}, not both")
        channels = getattr(method, "channels", (options or {}).get("channels", 3))
        how: dict[str, Any] = {
            "size": size, "resize": resize, "upscale": upscale, "strict": strict,
            "side_by_side": side_by_side, "channels": int(channels),
        }  # fmt: skip
        outside(out, data)
        with told.waiting("reading the pictures"):
            everything = open_data(kind, data, **how)
        if isinstance(method, Part):
            everything = in_order(everything, getattr(method, "domains", ()), "the model")
        if without is not None:
            everything = leave_out(everything, without)
        if validation is not None:
            rest = open_data(kind, validation, **how)
            _others(everything, rest)
            training, rest = everything, in_order(rest, everything.parts, "the training")
        elif held_out:
            training, rest = everything.split(held_out, seed)
        else:
            training, rest = everything, None
        if isinstance(method, Part):
            part: Part = method
        else:
            part = _make(cls, options or {}, everything, size, seed)
        saved = before and before["data"].get("digest")
        run = {
            "model": describe(part), "data": everything.describe(saved), "settings": settings,
            "method": method if isinstance(method, str) else None, "options": describe(dict(options or {})),
            "folders": {"data": absolute(data), "validation": absolute(validation)},
            "preparation": Preparation(
                (size, size), resize, upscale, how["channels"], "left" if side_by_side else "whole"
            ).to_json(),
        }  # fmt: skip
        if minutes is not None:
            run["minutes"] = minutes
            if before is not None and before.get("minutes") != minutes:
                raise UserError(
                    f"{out} was planned as {before['settings'].get('steps')} steps: a run that goes on takes "
                    f"--steps, all in all; --minutes is for a new one"
                )
            if before is not None:  # as many minutes are as many steps
                settings["steps"], minutes = before["settings"]["steps"], None
        with ExitStack() as lock:
            with together(accelerator):
                if main:
                    lock.enter_context(locked(out))
                # others may have been here while the pictures were read
                before = earlier(out, resume)
                changed = compare(before, run, part, out) if before is not None else []
            part.to(accelerator.device)
            betas = (float(settings["beta1"]), 0.999)
            state = State(part, settings["optimiser"], betas, weight_decay)
            names = {"training": training.names(), "held_out": rest.names() if rest else {}}
            folder = RunFolder(out, run, names, lock)
            with together(accelerator):
                if before is not None:
                    folder.restore(state)
            if mean(state.step, accelerator) != state.step:
                raise UserError(
                    f"{out} has other saves for other processes: expected one folder of all"
                )
            if before is not None and settings["steps"] < state.step:
                raise UserError(
                    f"{out} has trained {state.step:,} steps already, and {settings['steps']:,} are asked "
                    f"for: give more --steps"
                )
            for line in changed:  # not before it is known that it goes on
                say(line, file=sys.stderr)
            if resume and before is None:
                told.say(f"{out} has nothing to resume: this training begins anew")
            learn(state, folder, training, rest, accelerator, run, told, minutes)
    state.put(state.ema)
    return part.eval()


def recorded(out: Path) -> dict[str, Any]:
    """The arguments of `train` that the run in `out` was begun with.

    Runs of earlier versions lack `data`: they did not record their folders.
    """
    run = read_run(out)
    known = signature(train).parameters
    given = {k: v for k, v in run["settings"].items() if k in known}
    given |= {k: v for k, v in run.get("folders", {}).items() if v is not None}
    if "method" in run and run["method"] is None:
        if not any((out / name).exists() for name in SAVES):
            raise UserError(f"{out} has no save, and the model that it began with is not in it")
        return given | {"method": build(run["model"])}
    model = {k: v for k, v in run["model"].items() if k not in ("is", *OF_DATA)}
    name = run.get("method") or named(str(run["model"].get("is")))
    old = {k: v for k, v in find(name).before.items() if k not in run["model"]}
    return given | {"method": name, "options": old | build(run.get("options", model))}


def in_order(data: sets.Dataset, names: Iterable[str], whose: str) -> sets.Dataset:
    """The domains of `data` in this order; pairs and unpaired folders as they are.

    Raises:
        UserError: if they are others.
    """
    if not isinstance(data, sets.Domains) or not (names := list(names)):
        return data
    if set(names) != set(data.parts):
        raise UserError(
            f"{whose} has the domains {', '.join(names)}, and the folders are {', '.join(data.parts)}: "
            f"name every domain's folder, as in {names[0]}=FOLDER"
        )
    return data.with_parts({name: data.parts[name] for name in names})


OF_DATA = "domains", "side"
"""Fields of methods that the pictures decide."""


def _others(training: sets.Dataset, rest: sets.Dataset) -> None:
    """Says if a whole folder of held-out pictures is one of the training's."""
    held = rest.describe()["digest"].values()
    for name, own in training.describe()["digest"].items():
        if own in held:
            warnings.warn(
                f"--validation names the training's own pictures of {name}: their loss does not tell "
                f"whether it learns by heart",
                stacklevel=4,
            )


def _check_part(part: Part, size: int, options: Mapping[str, Any] | None) -> None:
    if options:
        raise UserError(
            f"options ({', '.join(options)}) are for a method's name: a model has its own already"
        )
    if (side := getattr(part, "side", size)) != size:
        raise UserError(f"the model is made for pictures of {side} pixels: size={side}, not {size}")


def _make(
    cls: type[Part], options: Mapping[str, Any], data: sets.Dataset, size: int, seed: int
) -> Part:
    """The method with these options and what the pictures decide, with the seed's initial weights."""
    known = [f.name for f in fields(cls)]
    for name in options:
        choose(f"option of {name_of(cls)}", name, [k for k in known if k not in OF_DATA])
    given = dict(options)
    if isinstance(data, sets.Domains):
        given["domains"] = tuple(data.parts)
    if "side" in known:
        given["side"] = size
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return cls(**given)
