"""The loop of a run: what is learnt, and when it is logged, saved, looked at and stopped."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from sfumato.checkpoints.model_folder import write_model
from sfumato.core.errors import Stopped, UserError
from sfumato.data import sets
from sfumato.training.fit import Diverged, State, check_losses, fit
from sfumato.training.log import Journal, Progress, interrupts
from sfumato.training.processes import mean, together
from sfumato.training.run_folder import RunFolder, typed_resume
from sfumato.training.time_budget import steps_for
from sfumato.training.validation import Observer, held_out_loss

if TYPE_CHECKING:
    from accelerate import Accelerator

FITTED = "seed", "accumulate", "lr", "schedule", "hold", "warmup", "clip", "ema"
"""Settings that `fit` takes."""


def learn(
    state: State, folder: RunFolder, training: sets.Dataset, rest: sets.Dataset | None,
    accelerator: Accelerator, run: Mapping[str, Any], told: Progress, minutes: float | None = None,
) -> None:  # fmt: skip
    """Trains from the state's step to the last one, and leaves the folder with all that belongs to it.

    Args:
        state: what is trained, new or restored.
        folder: where it is saved.
        training: the pictures it learns from.
        rest: those it is scored on, if any.
        accelerator: see `machine`.
        run: run.json, whose settings hold.
        told: what the user sees; its clock began with the training.
        minutes: if given, the steps that fit into them take the place of those of the settings.

    Raises:
        UserError: if the training diverges; says which save is good.
        Stopped: after a signal, when all is saved.
    """
    settings, out, main = run["settings"], folder.out, accelerator.is_main_process
    save_every, preview_every = settings["save_every"], settings["preview_every"]
    batch, accumulate, device = settings["batch"], settings["accumulate"], accelerator.device
    log = Journal(out / "log.jsonl", images=batch * accumulate, step=state.step if main else None)
    observer = Observer(
        state, training, rest, out, batch, device, log, told, save_every, preview_every, main
    )

    def batches(start: int) -> Iterator[tuple[Tensor, Tensor]]:
        numbered = training.batches(
            batch, seed=settings["seed"], start=start, flip=settings["flip"],
            jitter=settings["jitter"], rank=accelerator.process_index, world=accelerator.num_processes,
        )  # fmt: skip
        for a, b in numbered:
            yield a.to(device), b.to(device)

    def follow() -> None:
        """Makes what follows from training.safetensors."""
        info = {
            "preparation": run["preparation"], "step": state.step,
            "data": run["data"], "settings": settings, "verdict": observer.verdict(),
        }  # fmt: skip
        write_model(state.method, out, weights=state.ema, info=info)
        log.plot(out / "loss.png")

    def store() -> None:
        state.check()
        folder.keep(state)
        follow()

    fitting = {"accelerator": accelerator} | {k: settings[k] for k in FITTED}
    observer.begin(f"{minutes:g} minutes" if minutes else f"{settings['steps']} steps")
    if minutes:
        with told.waiting("measuring how long a step takes"):
            settings["steps"] = steps_for(
                minutes, state, batches(0), observer.look, observer.score, save_every=save_every,
                preview_every=preview_every, began=told.began, **fitting,
            )  # fmt: skip
        folder.describe(run)
        told.say(f"{settings['steps']} steps fit into {minutes:g} minutes")
    steps = settings["steps"]
    observer.start(steps)
    with together(accelerator):
        if state.step and main:  # a kill may have come between a save and what follows from it
            folder.stand()
            follow()
            if preview_every and (state.step % preview_every == 0 or state.step == steps):
                observer.preview()
    updates = fit(state, batches(state.step * accumulate), steps=steps, **fitting)
    saved_at = time.monotonic()
    with told, interrupts() as interrupted:
        try:
            for update in updates:
                step, stopped = update.step, mean(interrupted(), accelerator) > 0
                last = step == steps or stopped
                unsaved = (time.monotonic() - saved_at) / 60
                due = last or step % save_every == 0 or 0 < settings["save_minutes"] <= unsaved
                with together(accelerator):
                    due |= main and folder.stand()
                    if stopped and main:  # before a word is said: the terminal may be gone
                        store()
                    line = observer(update)
                    if due and main and not stopped:
                        store()
                        saved_at = time.monotonic()
                    if step == steps:  # no step follows whose loss could tell
                        check_losses(
                            line.get("held_out") or _losses(state, training, batch, device)
                        )
                    if stopped:
                        told.say(observer.verdict())
                if stopped:  # all are, and the main process has saved
                    raise Stopped(
                        f"stopped at step {step}, saved in {out}; {typed_resume(out)} goes on",
                        interrupted() or signal.SIGINT,  # another process was told
                    )
        except Diverged as error:
            if not main:
                raise UserError(str(error)) from None
            if folder.saved == state.step and folder.step_back(state):
                follow()  # a save counts when the loss after it was finite
            raise UserError(f"{error}; {_advice(folder, settings)}") from None
    if main:
        if folder.stand():  # moved away during the last save
            store()
        folder.before.unlink(missing_ok=True)
        told.say(observer.verdict())


def _losses(state: State, data: sets.Dataset, batch: int, device: torch.device) -> dict[str, float]:
    return held_out_loss(state, data, batch, device, batches=1)


def _advice(folder: RunFolder, settings: Mapping[str, Any]) -> str:
    """What to do after a divergence."""
    good = (
        f"{folder.out} holds step {folder.saved}, the last good save" if folder.saved else "no save"
    )
    again = typed_resume(folder.out) if folder.begun else "the same command with"
    return (
        f"{good}. Lower --lr (it was {settings['lr']:g}) or --clip (it was {settings['clip']:g}): "
        f"{again} --lr {settings['lr'] / 10:g}"
    )
