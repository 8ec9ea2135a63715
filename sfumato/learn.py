"""The loop of a run: what is learnt, and when it is logged, saved, looked at and stopped."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from sfumato.data import sets
from sfumato.errors import UserError
from sfumato.fit import Diverged, State, check_losses, fit
from sfumato.folder import save
from sfumato.heldout import held_out_loss, preview, scores
from sfumato.journal import Journal, interrupts, progress
from sfumato.runfolder import RunFolder, typed_resume

if TYPE_CHECKING:
    from accelerate import Accelerator

LOG_EVERY = 50
"""Steps between lines of log.jsonl."""

FITTED = "seed", "accumulate", "lr", "schedule", "hold", "warmup", "clip", "ema"
"""Settings that `fit` takes."""


def learn(
    state: State, folder: RunFolder, training: sets.Dataset, rest: sets.Dataset | None,
    accelerator: Accelerator, run: Mapping[str, Any], quiet: bool,
) -> None:  # fmt: skip
    """Trains from the state's step to the last one, and leaves the folder with all that belongs to it.

    Args:
        state: what is trained, new or restored.
        folder: where it is saved.
        training: the pictures it learns from.
        rest: those it is scored on, if any.
        accelerator: see `machine`.
        run: run.json, whose settings hold.
        quiet: no progress bar.

    Raises:
        UserError: if the training diverges; says which save is good.
        KeyboardInterrupt: after a signal, when all is saved.
    """
    settings, out, main = run["settings"], folder.out, accelerator.is_main_process
    steps, save_every, preview_every = (
        settings[k] for k in ("steps", "save_every", "preview_every")
    )
    batch, accumulate, device = settings["batch"], settings["accumulate"], accelerator.device
    log = Journal(out / "log.jsonl", images=batch * accumulate, step=state.step)

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
            "data": run["data"], "settings": settings,
        }  # fmt: skip
        save(state.method, out, weights=state.ema, info=info)
        log.plot(out / "loss.png")

    def look() -> None:
        preview(state, rest or training, out / "previews", device)

    if state.step and main:  # a kill may have come between a save and what follows from it
        folder.stand()
        follow()
        if preview_every and (state.step % preview_every == 0 or state.step == steps):
            look()
    updates = fit(
        state, batches(state.step * accumulate), steps=steps, accelerator=accelerator,
        **{k: settings[k] for k in FITTED},
    )  # fmt: skip
    saved_at = time.monotonic()
    with progress(steps, state.step, quiet or not main) as show, interrupts() as interrupted:
        try:
            for update in updates:
                step, stopped = update.step, interrupted()
                last = step == steps or stopped
                minutes = (time.monotonic() - saved_at) / 60
                due = last or step % save_every == 0 or 0 < settings["save_minutes"] <= minutes
                due |= main and folder.stand()
                line = log.add(update)
                if step % LOG_EVERY == 0 or step == steps:
                    if rest and (step % save_every == 0 or step == steps):
                        line |= scores(state, rest, batch, device)
                    if main:
                        log.write(line)
                if due and main:
                    state.check()
                    folder.keep(state)
                    follow()
                    saved_at = time.monotonic()
                if main and preview_every and (step % preview_every == 0 or last):
                    look()
                show(line)
                if step == steps:  # no step follows whose loss could tell
                    check_losses(line.get("held_out") or _losses(state, training, batch, device))
                if stopped:
                    raise KeyboardInterrupt(
                        f"stopped at step {step}, saved in {out}; {typed_resume(out)} goes on"
                    )
        except Diverged as error:
            if main and folder.saved == state.step and folder.step_back(state):
                follow()  # a save counts when the loss after it was finite
            raise UserError(f"{error}; {_advice(folder, settings)}") from None
    if main:
        folder.before.unlink(missing_ok=True)


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
