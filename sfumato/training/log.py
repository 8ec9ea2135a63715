"""What a training shows and writes while it runs: log.jsonl, loss.png, progress bar, Ctrl-C."""

from __future__ import annotations

import contextlib
import json
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from sfumato.core.errors import Stopped
from sfumato.core.terminal import count, say, screen
from sfumato.data.folders import regular, replacing, write_text
from sfumato.training.fit import Update
from sfumato.training.time_budget import gap, round_number, spoken

LOG_EVERY = 50
"""Steps between lines of log.jsonl, after the first few."""


def logged(step: int) -> bool:
    """Has log.jsonl a line of this step?  Of 1, 2, 5, 10, 20, and of every 50th."""
    return step % LOG_EVERY == 0 or (step < LOG_EVERY and round_number(step))


class Journal:
    """log.jsonl, a line for every so many steps: mean losses since the last line, images a second.

    Args:
        path: of log.jsonl.
        images: images a step.
        step: lines later than this step are dropped; they were written by a run that was killed.  None
            leaves all as it is.
    """

    def __init__(self, path: Path, images: int, step: int | None = 0) -> None:
        self.path, self.images = path, images
        self.since, self.clock, self.sums = 0, time.perf_counter(), dict[str, tuple[float, int]]()
        if step and not path.exists():
            say(f"{path} is missing: curves begin at step {step}", file=sys.stderr)
        if step is not None and path.exists():
            entries = self.entries()
            if lost := len(_lines(path)) - len(entries):
                say(f"{path}: left out {count(lost, 'damaged line')}", file=sys.stderr)
            write_text(path, "".join(json.dumps(e) + "\n" for e in entries if e["step"] <= step))

    def add(self, update: Update) -> dict[str, Any]:
        """Counts a step; the line as it stands."""
        self.since += 1
        for player, loss in update.losses.items():
            total, steps = self.sums.get(player, (0.0, 0))  # a player may rest in some steps
            self.sums[player] = total + loss, steps + 1
        seconds = time.perf_counter() - self.clock
        return {
            "step": update.step,
            "loss": {k: round(total / steps, 6) for k, (total, steps) in self.sums.items()},
            "lr": update.lr,
            "images_per_s": round(self.since * self.images / seconds, 1),
        }

    def write(self, line: dict[str, Any]) -> None:
        """Writes a line and begins the next."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        self.since, self.clock, self.sums = 0, time.perf_counter(), {}

    def entries(self) -> list[dict[str, Any]]:
        """The lines written so far, without any that a kill cut short or that are damaged."""
        entries = []
        for line in _lines(self.path):
            with contextlib.suppress(json.JSONDecodeError, RecursionError):
                if _whole(entry := json.loads(line)):
                    entries.append(entry)
        return entries

    def plot(self, out: Path) -> None:
        """Draws each player's training loss and held-out loss, and what else was measured."""
        from matplotlib.figure import Figure
        from matplotlib.ticker import LogFormatter

        if not (entries := self.entries()):
            return
        losses, held_out, measured = (_curves(entries, k) for k in ("loss", "held_out", "measures"))
        rows, inch = (2, 0.06) if measured else (1, 0.12)
        figure = Figure(figsize=(7, 4 * rows))  # margins by hand: to measure them takes twice the time
        edges = {"left": 0.14, "right": 0.98, "bottom": inch, "top": 1 - inch / 4, "hspace": 0.16}
        axes, *rest = figure.subplots(rows, squeeze=False, gridspec_kw=edges)[:, 0]
        for player, curve in losses.items():
            (line,) = axes.plot(*curve, label=player)
            if player in held_out:
                of = {"color": line.get_color(), "label": f"{player}, held out"}
                axes.plot(*held_out[player], "--", **of)
        shown = [v for _, values in (*losses.values(), *held_out.values()) for v in values]
        axes.set(xlabel="step", ylabel="loss")
        if all(v > 0 for v in shown):
            axes.set_yscale("log")  # numbers as plain text: as formulas they take most of the drawing's time
            axes.yaxis.set(major_formatter=LogFormatter(), minor_formatter=LogFormatter())
        for other in rest:
            for name, curve in measured.items():
                other.plot(*curve, ".-", label=name)
            other.set(xlabel="step", ylabel="held out")
        for panel in (axes, *rest):
            panel.legend()
            panel.grid(alpha=0.3)
        try:
            with replacing(out) as temporary:
                figure.savefig(temporary, dpi=100, format="png")
        except OSError as error:  # a drawing ends no training
            say(f"{out} is not drawn: {error.strerror}", file=sys.stderr)


def _lines(path: Path) -> list[str]:
    """The lines of a file that may be missing, but for empty ones."""
    text = regular(path).read_text(encoding="utf-8", errors="replace") if path.exists() else ""
    return [line for line in text.splitlines() if line.strip()]


def _whole(entry: Any) -> bool:
    """Is it a line of a log?"""
    if not isinstance(entry, dict) or not isinstance(entry.get("step"), int):
        return False
    numbers = [entry.get(key, {}) for key in ("loss", "held_out", "measures")]
    return all(isinstance(n, dict) and all(isinstance(v, (int, float)) for v in n.values()) for n in numbers)


def _curves(entries: list[dict[str, Any]], key: str) -> dict[str, tuple[list[int], list[float]]]:
    """Steps and values of every name that any line has under `key`: players rest, and join late."""
    curves: dict[str, tuple[list[int], list[float]]] = {}
    for entry in entries:
        for name, value in entry.get(key, {}).items():
            steps, values = curves.setdefault(name, ([], []))
            steps.append(entry["step"])
            values.append(value)
    return curves


class Progress:
    """What a training says while it runs: a bar in a terminal, lines in a file, pipe or notebook.

    Lines come at steps 1, 2, 5, 10, 20, ..., and half a minute after the last one (see `time_budget.gap`).

    Args:
        steps: steps of the training.
        done: steps that are done already.
        quiet: say nothing.
    """

    def __init__(self, steps: int = 0, done: int = 0, quiet: bool = False) -> None:
        self.steps, self.done, self.quiet, self.console = steps, done, quiet, screen(stderr=True)
        self.bar: Any = None
        self.began = self.spoke = time.perf_counter()
        self.first: tuple[int, float] | None = None  # the first step shown, and when
        self.shown = False  # has a preview been spoken of?

    def __enter__(self) -> Progress:
        from rich import progress as rich

        if self.console.is_interactive and not self.quiet:
            text = rich.TextColumn("loss {task.fields[loss]}  {task.fields[speed]:.0f} images/s")
            columns = (rich.BarColumn(), rich.MofNCompleteColumn(), text, rich.TimeRemainingColumn())
            self.bar = rich.Progress(*columns, console=self.console)
            self.bar.start()
            self.bar.add_task("train", total=self.steps, completed=self.done, loss="", speed=0.0)
        return self

    def __exit__(self, *_: object) -> None:
        if self.bar:
            self.bar.stop()
            self.bar = None

    def say(self, text: str) -> None:
        """A line of text, above the bar if there is one."""
        if self.quiet:
            return
        if self.bar:
            self.console.print(text, soft_wrap=True, highlight=False)
        else:  # a notebook shows what goes to stderr as a fault
            say(text, file=sys.stdout if self.console.is_jupyter else sys.stderr)

    @contextlib.contextmanager
    def waiting(self, text: str, seconds: float = 2.0) -> Iterator[None]:
        """Says a line if what is done inside takes longer than this."""
        timer = threading.Timer(seconds, self.say, [text])
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()

    def previewed(self, folder: Path) -> None:
        """Says where previews are, once."""
        if not self.shown:
            self.say(f"previews are in {folder}")
        self.shown = True

    def show(self, line: dict[str, Any]) -> None:
        """A step, by its line of the log."""
        if self.quiet:
            return
        now, step = time.perf_counter(), line["step"]
        self.first = self.first or (step, now)
        loss = _named(line["loss"])
        if self.bar:
            self.bar.update(self.bar.task_ids[0], completed=step, loss=loss, speed=line["images_per_s"])
        scored = "  ".join(f"{k} {v:.2f}" for k, v in line.get("measures", {}).items())
        due = round_number(step) or step == self.steps or now - self.spoke >= gap(now - self.began)
        if scored or (due and not self.bar):
            words = [f"step {step}/{self.steps}", f"loss {loss}"]
            if held_out := line.get("held_out"):
                words.append(f"held out {_named(held_out)}")
            words += [scored, f"{line['images_per_s']:.0f} images/s", self._left(step, now)]
            self.say("  ".join(w for w in words if w))
            self.spoke = now
        if "warning" in line:
            self.say(line["warning"])

    def _left(self, step: int, now: float) -> str:
        since, when = self.first or (step, now)
        if step == since or step == self.steps:
            return ""
        return f"{spoken((now - when) / (step - since) * (self.steps - step))} left"


def _named(losses: dict[str, float]) -> str:
    """Losses with their players' names, if there are several."""
    if len(losses) == 1:
        return f"{next(iter(losses.values())):.4f}"
    return " ".join(f"{player.rpartition('.')[2]} {v:.4f}" for player, v in losses.items())


@contextlib.contextmanager
def interrupts(good: Callable[[], str]) -> Iterator[Callable[[], int]]:
    """Ctrl-C, SIGTERM and SIGHUP end training after the step in hand; a second one ends it at once.

    A signal that is ignored stays so: `nohup` means it.  Hands out what tells which signal came, 0 if none.

    Args:
        good: says in words which save is good.
    """
    hit: list[int] = []

    def handler(number: int, _: Any) -> None:
        if hit:
            raise Stopped(f"stopped at once; {good()}", hit[0])
        hit.append(number)

    names = [n for n in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, n)]  # Windows lacks one
    ends = [s for s in map(signal.Signals.__getitem__, names) if signal.getsignal(s) != signal.SIG_IGN]
    try:
        previous = {s: signal.signal(s, handler) for s in ends}
    except ValueError:  # not the main thread: the caller handles its own signals
        yield lambda: 0
        return
    try:
        yield lambda: hit[0] if hit else 0
    finally:
        for number, old in previous.items():
            signal.signal(number, old)
