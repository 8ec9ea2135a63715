"""Training a method on folders of pictures: what `sfumato train` does.

A run folder is a model folder from its first save on.  Beside the model it holds

    training.safetensors, run.json, split.json    what is resumed, see `sfumato.training.run_folder`
    log.jsonl, loss.png    losses, learning rate and images/s as training goes
    previews/              a picture of what the model does, after a minute and every so often
    README.md, model.json  say where the training stands, see `sfumato.training.verdict`
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from contextlib import ExitStack, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sfumato.checkpoints.hub import recorded_name
from sfumato.core.devices import with_torch_defaults
from sfumato.core.errors import UserError, enough_memory
from sfumato.core.options import told_by
from sfumato.core.terminal import count, say, unheard, verb
from sfumato.data.open_data import outside
from sfumato.data.own import GIVEN, folders_of
from sfumato.diffusion.latents import InLatents
from sfumato.methods._shared.memory import Replay
from sfumato.methods.registry import find, info, name_of, named, said
from sfumato.module import Part, build, describe
from sfumato.training.fit import State, machine
from sfumato.training.latents import Latents
from sfumato.training.log import Progress
from sfumato.training.options import SETTINGS, TrainOptions
from sfumato.training.pictures import Pictures, read_pictures, with_channels
from sfumato.training.processes import mean, together
from sfumato.training.run_folder import SAVES, RunFolder, absolute, compare, earlier, folders_in, read_run
from sfumato.training.session import Session
from sfumato.training.start import OF_DATA, Start, begun, check_part, make

if TYPE_CHECKING:
    from accelerate import Accelerator


@told_by(TrainOptions)
@with_torch_defaults
@enough_memory("use a smaller --batch or --size")
def train(asked: TrainOptions) -> Part:
    """Trains a method and returns it with its averaged weights, in evaluation mode.

    Raises:
        UserError: for anything wrong with the data, the options or the run folder, in one line.
    """
    out, name = Path(asked.out), name_of(asked.method)
    if info(asked.method).trains_on is None:
        raise UserError(
            f"{name} is not trained itself: train `diffusion` on your folders, then "
            f"sfumato translate --method {name} --source RUN:A --target RUN:B ..."
        )
    if isinstance(asked.method, Part):
        check_part(asked.method, asked)
    accelerator = machine(asked.device, asked.precision)
    main = accelerator.is_main_process
    with nullcontext() if main else unheard(), ExitStack() as lock:
        told = Progress(quiet=asked.quiet or not main)
        before = earlier(out, asked.resume)
        was = before or _unsaved(asked, out)
        asked = _timed(asked if was is None else _as_it_began(asked, out), was)
        outside(out, [*folders_of(asked.data), *asked.further])
        start, asked = begun(asked, before)
        latents = Latents.of(asked, before, start.found if start else None)
        asked = asked if latents is None else latents.told(asked)
        with told.waiting("reading the pictures"):
            pictures = read_pictures(asked)
            asked = with_channels(asked, pictures)
        asked = asked if start is None else start.told(asked, pictures)
        part = asked.method
        if not isinstance(part, Part):
            part = make(asked, pictures, latents, accelerator.device)
        if start is not None:
            start.give(part)
        folder = RunFolder(out, _run(asked, part, pictures, before, start, latents), pictures.names(), lock)
        with together(accelerator):
            if main:
                folder.take()
            # others may have been here while the pictures were read
            before = earlier(out, asked.resume)
            changed = compare(before, folder.run, part, out) if before is not None else []
        part.to(accelerator.device)
        state = State(part, asked.optimiser, (asked.beta1, 0.999), asked.weight_decay)
        if before is not None:
            with together(accelerator):
                folder.restore(state)
            if accelerator.num_processes > 1 and any(isinstance(m, Replay) for m in part.modules()):
                told.say("all processes go on with the made images that the first one remembered")
        _check_steps(asked, state, accelerator)
        for line in changed:  # not before it is known that it goes on
            say(line, file=sys.stderr)
        if asked.resume and before is None:
            told.say(f"{out} has nothing to resume: this training starts from the beginning")
        if start is not None and before is None:
            told.say(start.said(part, asked, pictures))
        if isinstance(part, InLatents) and latents is not None and before is None:
            told.say(latents.said(part))
        Session(asked, state, folder, pictures, accelerator, told).learn()
    trained = state.finish()
    trained.preparation = pictures.everything.preparation
    return trained


def _timed(asked: TrainOptions, before: Mapping[str, Any] | None) -> TrainOptions:
    """As many minutes are as many steps in a run that goes on; those of a new one will be measured."""
    if asked.minutes is None:
        return asked
    planned: Any = before["settings"].get("steps") if before else None
    if asked.steps not in (None, planned):
        raise UserError(f"say --steps {asked.steps} or --minutes {asked.minutes:g}, not both")
    if before and before.get("minutes") != asked.minutes:
        raise UserError(
            f"{asked.out} was planned as {count(planned, 'step')}: a run that goes on takes --steps, all in "
            f"all; --minutes is for a new one"
        )
    return asked if planned is None else replace(asked, steps=planned)


def _run(
    asked: TrainOptions, part: Part, pictures: Pictures, before: Mapping[str, Any] | None,
    start: Start | None, latents: Latents | None,
) -> dict[str, Any]:  # fmt: skip
    """What run.json says; digests of the same pictures in an earlier one stay."""
    run = {
        "model": describe(part),
        "data": pictures.everything.describe(before and before["data"].get("digest")),
        "settings": asked.settings(),
        "method": asked.method if isinstance(asked.method, str) else None,
        "options": describe(dict(asked.options or {})),
        "folders": {"data": absolute(asked.data), "validation": absolute(asked.validation)},
        "preparation": pictures.everything.preparation.to_json(),
    }
    if asked.further:
        run["folders"] |= {"beside": absolute(asked.further)}
    if start is not None:
        run["start"] = start.facts(part)
    elif asked.start is not None:  # it goes on, and needs the model no more
        run["start"] = (before or {}).get("start", {}) | {"model": recorded_name(asked.start)}
    if latents is not None:
        run["codec"] = latents.facts()
    return run if asked.minutes is None else run | {"minutes": asked.minutes}


def _check_steps(asked: TrainOptions, state: State, accelerator: Accelerator) -> None:
    if mean(state.step, accelerator) != state.step:
        raise UserError(f"{asked.out} has other saves for other processes: expected one folder of all")
    if asked.steps is not None and asked.steps < state.step:
        raise UserError(
            f"{asked.out} has trained {count(state.step, 'step')} already, and {asked.steps:,} "
            f"{verb(asked.steps, 'are')} asked "
            f"for: give more --steps"
        )


def _unsaved(asked: TrainOptions, out: Path) -> dict[str, Any] | None:
    """run.json of the run that is to go on if it stopped before its first save: it begins again."""
    run = read_run(out) if asked.resume and (out / "run.json").exists() else {}
    return run if isinstance(asked.method, str) and run.get("method") == asked.method else None


def _as_it_began(asked: TrainOptions, out: Path) -> TrainOptions:
    """What a run that goes on is not told anew is as it was when it began; its pictures are given again."""
    run = {k: v for k, v in recorded(out).items() if k not in ("method", "data")}
    if GIVEN in folders_in(run.get("validation")):
        del run["validation"]
    options = run.pop("options", {}) | dict(asked.options or {})
    run = {k: v for k, v in run.items() if k not in asked.said}
    return replace(asked, **run, options=options if isinstance(asked.method, str) else asked.options)


def recorded(out: Path) -> dict[str, Any]:
    """The arguments of `train` that the run in `out` was begun with.

    Runs of earlier versions lack `data`: they did not record their folders.
    """
    run = read_run(out)
    given = {k: v for k, v in run["settings"].items() if k in SETTINGS}
    given |= {k: v for k, v in run.get("folders", {}).items() if v is not None}
    given |= {key: run[key].get("model") for key in ("start", "codec") if key in run}
    if "method" in run and run["method"] is None:
        if not any((out / name).exists() for name in SAVES):
            raise UserError(f"{out} has no save, and the model that it began with is not in it")
        return given | {"method": build(run["model"])}
    own = said(run["model"])
    model = {k: v for k, v in own.items() if k not in ("is", *OF_DATA)}
    name = run.get("method") or named(str(own.get("is")))
    old = {k: v for k, v in find(name).before.items() if k not in run["model"]}
    return given | {"method": name, "options": old | build(run.get("options", model))}
