"""The loop of a run: what is learnt, and when it is logged, saved, looked at and stopped."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from torch import Tensor

from sfumato.checkpoints.model_folder import write_model
from sfumato.checkpoints.seen import remember
from sfumato.core.errors import Stopped, UserError
from sfumato.core.terminal import count
from sfumato.diffusion.watch import Ended
from sfumato.methods.registry import info
from sfumato.training.checkpoints import Checkpoints
from sfumato.training.fit import Diverged, State, Update, check_losses, fit
from sfumato.training.latents import measured
from sfumato.training.log import Journal, Progress, interrupts
from sfumato.training.options import TrainOptions
from sfumato.training.pictures import Pictures
from sfumato.training.processes import mean, together
from sfumato.training.run_folder import RunFolder, typed_resume
from sfumato.training.time_budget import steps_for
from sfumato.training.validation import Observer, held_out_loss
from sfumato.training.verdict import loss

if TYPE_CHECKING:
    from accelerate import Accelerator


@dataclass
class Session:
    """A training that runs.

    Args:
        asked: its options; without steps, those that fit into its minutes are measured.
        state: what is trained, new or restored.
        folder: where it is saved.
        pictures: what it learns from, and what it is scored on.
        accelerator: see `machine`.
        told: what the user sees; its clock began with the training.
    """

    asked: TrainOptions
    state: State
    folder: RunFolder
    pictures: Pictures
    accelerator: Accelerator
    told: Progress

    def __post_init__(self) -> None:
        asked, self.main = self.asked, self.accelerator.is_main_process
        self.log = Journal(
            self.folder.out / "log.jsonl", images=asked.batch * asked.accumulate,
            step=self.state.step if self.main else None,
        )  # fmt: skip
        self.observer = Observer(
            asked, self.state, self.pictures, self.accelerator.device, self.log, self.told, self.main
        )  # fmt: skip
        keeps = asked.keep > 0 and self.main
        self.kept = Checkpoints(self.folder.out, asked.keep, self.state.step) if keeps else None
        self.unranked = (
            "none are held out" if self.pictures.held_out is None else
            "" if info(self.state.method).steady else "that of players does not say which is"
        )  # fmt: skip

    def learn(self) -> None:
        """Trains from the state's step to the last one; the folder then has all that belongs to it.

        Raises:
            UserError: if the training diverges; says which save is good.
            Stopped: after a signal, when all is saved.
        """
        self.plan()
        self.catch_up()
        start = self.state.step * self.asked.accumulate
        updates = fit(self.state, self.batches(start), accelerator=self.accelerator, **self.asked.loop())
        self.saved_at = self.drawn_at = time.monotonic()
        with self.told, interrupts(lambda: self.folder.good) as interrupted:
            try:
                for update in updates:
                    self.after(update, interrupted)
            except Diverged as error:
                raise self.diverged(error) from None
        if self.main:
            if self.folder.stand():  # moved away during the last save
                self.store()
            self.folder.before.unlink(missing_ok=True)
            with self.told.waiting("recording what its pictures are like"):
                remember(self.folder.out, self.pictures.sources)
            self.told.say(self.observer.verdict())
            if self.kept and self.kept.best.exists():
                self.told.say(f"{self.kept.best} has the lowest held-out loss, {self.kept.lowest:.4g}")

    def plan(self) -> None:
        """Says what begins, and measures how many steps fit into the minutes if they are not known yet."""
        asked = self.asked
        if asked.steps is not None:
            self.observer.begin(count(asked.steps, "step"))
        else:
            assert asked.minutes is not None
            self.observer.begin(count(asked.minutes, "minute"))
            with self.told.waiting("measuring how long a step takes"):
                steps = steps_for(
                    asked.minutes, self.state, self.batches(0), self.observer.look, self.observer.score,
                    save_every=asked.save_every, preview_every=asked.preview_every, keep=asked.keep,
                    began=self.told.began, accelerator=self.accelerator, **asked.loop(),
                )  # fmt: skip
            self.asked = replace(asked, steps=steps)
            self.folder.run["settings"] = self.asked.settings()
            self.told.say(f"{count(steps, 'step')} fit into {count(asked.minutes, 'minute')}")
        if self.kept and self.unranked:
            self.told.say(f"no best model is kept, for want of a held-out loss: {self.unranked}")
        self.observer.start(self.asked.steps)

    def batches(self, start: int) -> Iterator[tuple[Tensor, Tensor]]:
        """The batches from this number on, on the device."""
        asked, device = self.asked, self.accelerator.device
        numbered = self.pictures.training.batches(
            asked.batch, seed=asked.seed, start=start, flip=asked.flip, jitter=asked.jitter,
            scale=asked.scale, rank=self.accelerator.process_index, world=self.accelerator.num_processes,
        )  # fmt: skip
        for a, b in numbered:
            yield a.to(device), b.to(device)

    def catch_up(self) -> None:
        """Makes what follows from a save: a kill may have come in between."""
        step, every = self.state.step, self.asked.preview_every
        with together(self.accelerator):
            if self.kept:
                self.kept.forget(step)
            if step and self.main:
                self.folder.stand()
                self.follow()
                self.rank(next((e for e in self.log.entries() if e["step"] == step), {}))
                if every and (step % every == 0 or step == self.asked.steps):
                    self.observer.preview()

    def after(self, update: Update, interrupted: Callable[[], int]) -> None:
        """Looks, saves and stops after a step, where that is due."""
        step, stopped = update.step, mean(interrupted(), self.accelerator) > 0
        last = step == self.asked.steps or stopped
        unsaved = (time.monotonic() - self.saved_at) / 60
        due = last or step % self.asked.save_every == 0 or 0 < self.asked.save_minutes <= unsaved
        with together(self.accelerator):
            due |= self.main and self.folder.stand()
            if stopped and self.main:  # before a word is said: the terminal may be gone
                self.store()
            try:
                line = self.observer(update)
            except Ended as ended:
                self.store()
                raise ended.__cause__ or ended from None
            self.rank(line)
            if due and self.main and not stopped:
                self.store(last)
                self.saved_at = time.monotonic()
            if step == self.asked.steps:  # no step follows whose loss could tell
                check_losses(line.get("held_out") or self.losses(), "after the last step")
            if stopped:
                self.told.say(self.observer.verdict())
        if stopped:  # all are, and the main process has saved
            again = typed_resume(self.folder.out, self.folder.run)
            raise Stopped(
                f"stopped at step {step}, saved in {self.folder.out}; {again} goes on",
                interrupted() or signal.SIGINT,  # another process was told
            )

    def store(self, last: bool = True) -> None:
        """Saves the training, and what follows from it."""
        self.state.check()
        self.folder.keep(self.state)
        self.follow(last)

    def follow(self, last: bool = True) -> None:
        """Makes what follows from training.safetensors; the losses are drawn once a minute, and at last."""
        step, facts = self.state.step, self.facts()
        write_model(self.state.method, self.folder.out, weights=self.state.ema, info=facts)
        if self.kept and (step % self.asked.save_every == 0 or step == self.asked.steps):
            self.kept.add(self.state, facts)
        if last or time.monotonic() - self.drawn_at > 60:
            self.log.plot(self.folder.out / "loss.png")
            self.drawn_at = time.monotonic()

    def rank(self, line: Mapping[str, Any]) -> None:
        """Keeps the model if it is the best so far, by a line of the log that has its held-out loss."""
        if self.kept and "held_out" in line and not self.unranked:
            self.kept.rank(self.state, self.facts(), loss(line))

    def facts(self) -> dict[str, Any]:
        """What a model folder says of the training as it stands."""
        run = self.folder.run
        with self.state.averaged() as part:
            scale = measured(part, self.pictures, self.accelerator.device)
        return {
            "preparation": run["preparation"], "step": self.state.step, "data": run["data"],
            "settings": run["settings"], "verdict": self.observer.verdict(),
            **{key: run[key] for key in ("start", "codec") if key in run}, **scale,
        }  # fmt: skip

    def losses(self) -> dict[str, float]:
        """Those of one batch of the training."""
        batch, device = self.asked.batch, self.accelerator.device
        return held_out_loss(self.state, self.pictures.training, batch, device, batches=1)

    def diverged(self, error: Diverged) -> UserError:
        """Goes back to the last good save; what to say and to do."""
        if not self.main:
            return UserError(str(error))
        folder, asked = self.folder, self.asked
        if folder.saved == self.state.step and folder.step_back(self.state):
            self.follow()  # a save counts when the loss after it was finite
        lr = asked.lr / 10
        begun = typed_resume(folder.out, folder.run, lr)
        again = begun if folder.begun else f"the same command with --lr {lr:g}"
        clip = f" or --clip (it was {asked.clip:g})" if asked.clip else ", or clip by --clip 1"
        return UserError(f"{error}; {folder.good}. Lower --lr (it was {asked.lr:g}){clip}: {again}")
