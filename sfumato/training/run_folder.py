"""A run folder: what a training finds there when it resumes, and what it leaves there.

    training.safetensors         weights, EMA, optimisers and step, and of what model, pictures and settings
                                 they are, in one file that is replaced at once
    training.before.safetensors  the save before, until the training has ended
    run.json, split.json         what is trained, on which pictures and how; which were held out

Everything else there follows from training.safetensors: see `sfumato.training.train`.
"""

from __future__ import annotations

import json
import os
import shlex
import sys
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import MISSING
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sfumato.checkpoints.tensors import read_protocol, read_tensors, write_tensors
from sfumato.core.errors import UserError, choose
from sfumato.core.terminal import say
from sfumato.data.folders import for_folder, locked, parse_json, regular, write_text
from sfumato.data.own import GIVEN, folders_of
from sfumato.module import Part, describe, fields, short
from sfumato.training.bound import bound, changed, differences
from sfumato.training.fit import State
from sfumato.training.options import DEFAULTS, FIXED, SETTINGS, check

PLACES = {
    "previews": True, "checkpoints": True, "best": True, "README.md": False, "model.json": False,
    "weights.safetensors": False, "log.jsonl": False, "split.json": False, "training.safetensors": False,
}  # fmt: skip
"""What a training writes, and whether it is a folder."""
SAVES = "training.safetensors", "training.before.safetensors"

OF_PICTURES = "count", "skipped", "digest"
"""What of a description of data the pictures say, and no option."""

NOTHING_LOST = "run.json", "split.json", "log.jsonl", "loss.png", "previews"
"""What a run has before its first save."""


class RunFolder:
    """The folder of a run while it trains.

    Args:
        out: the folder; it is made by the first `stand`.
        run: for run.json; not to be changed when it is written.
        split: for split.json.
        lock: holds the lock of `out`, see `take`.
    """

    def __init__(self, out: Path, run: dict[str, Any], split: Mapping[str, Any], lock: ExitStack) -> None:
        self.out, self.run, self.split, self.lock = out, run, json.dumps(split) + "\n", lock
        self.training, self.before = (out / name for name in SAVES)
        self.begun = False
        self.saved: int | None = None
        """The step of the last save."""

    def take(self) -> None:
        """Locks the folder.

        Raises:
            UserError: another process has it, or what will be written there has no place.
        """
        self.lock.enter_context(locked(self.out))
        for name, folder in PLACES.items():
            if (place := self.out / name).exists() and place.is_dir() != folder:
                is_one = "a file" if folder else "a folder"
                raise UserError(f"{place} is {is_one}, where the training writes another: move it away")

    def stand(self) -> bool:
        """Is there with its run.json when this returns; True if it was gone and is written anew.

        Raises:
            UserError: if another run has taken its place, or is beginning there.
        """
        file, run = self.out / "run.json", json.dumps(self.run, indent=2) + "\n"
        gone = self.begun and not file.exists()
        if self.begun and not gone and regular(file).read_bytes() != run.encode():
            raise UserError(
                f"{self.out} was moved away while it trained, and another run began there: this "
                f"one has stopped; what was moved away can be resumed"
            )
        if gone:
            say(f"{self.out} was moved away while it trained: written anew", file=sys.stderr)
            self.lock.close()  # that went with the folder
            self.take()
        if gone or not self.begun:
            write_text(file, run)
            write_text(self.out / "split.json", self.split)
        self.begun = True
        return gone

    def restore(self, state: State) -> bool:
        """The state as it was last saved; False if it never was.

        Raises:
            UserError: if the file is damaged, or of another model, or run.json was changed since.
        """
        file = next((f for f in (self.training, self.before) if f.exists()), None)
        if file is None:
            return False
        try:
            tensors, made = read_protocol(file)
            step = tensors.pop("step", torch.empty(0))
            if step.numel() != 1 or step.is_floating_point() or step < 0:
                raise UserError(f"{file} is not a saved training: choose another --out")
        except UserError as error:
            raise UserError(f"{error}{self._beside(file)}") from None
        if other := changed(made, self.run):
            raise UserError(
                f"{self.out / 'run.json'} was changed since {file.name} was saved ({other}): change it "
                f"back, or choose another --out"
            )
        if not _fits(state, tensors):
            raise UserError("the saved training is of another model; choose another --out")
        state.restore(tensors, int(step))
        self.saved = state.step
        return True

    def _beside(self, damaged: Path) -> str:
        """What the save before can do for a save that is damaged, in words."""
        if damaged == self.before or not self.before.exists():
            return ""
        try:
            read_tensors(self.before)
        except UserError:
            return f"; {self.before.name} is damaged, too: nothing resumes, choose another --out"
        return f"; without it the run goes on from {self.before.name}"

    @property
    def good(self) -> str:
        """Which save is good, in words."""
        return f"{self.out} holds step {self.saved}, the last good save" if self.saved else "there is no save"

    def keep(self, state: State) -> None:
        """Saves the state, and keeps the save before."""
        tensors = state.tensors() | {"step": torch.tensor(state.step)}
        if self.training.exists():
            os.replace(self.training, self.before)  # a kill from here on leaves that one
        write_tensors(self.training, tensors, bound(self.run))
        self.saved = state.step

    def step_back(self, state: State) -> bool:
        """The save before takes the place of the last one; False if there is none."""
        if not self.before.exists():
            return False
        os.replace(self.before, self.training)
        return self.restore(state)


def _fits(state: State, tensors: Mapping[str, Tensor]) -> bool:
    """Whether a save's memory, and Adam's steps and moments, are of the parts that the state has."""
    for key, value in tensors.items():
        kind, _, rest = key.partition("/")
        try:
            if kind == "memory":
                state.method.get_submodule(rest.rpartition(".")[0])
            elif kind == "optimiser":
                player, i, name = rest.split("/")
                parameter = [*state.method.get_submodule(player).parameters()][int(i)]
                shapes = {"step": (), "exp_avg": parameter.shape, "exp_avg_sq": parameter.shape}
                if shapes[name] != value.shape:
                    return False
        except (AttributeError, ValueError, LookupError):  # a name that is none of ours
            return False
    return True


def earlier(out: Path, resume: bool) -> dict[str, Any] | None:
    """run.json of the run in `out`, if it is to be resumed and was ever saved.

    Raises:
        UserError: if `out` holds something that a new run would overwrite, or nothing to resume.
    """
    for_folder(out)
    names = {p.name for p in out.iterdir() if p.name[0] != "."} if out.exists() else set()
    if names.intersection(SAVES) and resume:
        return read_run(out)
    if "model.json" in names and resume:
        raise UserError(f"{out} holds a model but no training to resume; choose another --out")
    again = ("best", "checkpoints") if resume and "run.json" in names else ()
    if names.difference(NOTHING_LOST, again):
        run = f"go on with its run by {typed_resume(out)}, or " if names.intersection(SAVES) else ""
        raise UserError(f"{out} is not empty; {run}choose another --out")
    return None


def read_run(out: Path) -> dict[str, Any]:
    """run.json of a training.

    Raises:
        UserError: if there is none, or what there is cannot be that.
    """
    file = out / "run.json"
    if not file.is_file():
        raise UserError(f"{out} has no run.json, without which nothing resumes: is it a run folder?")
    try:
        run = parse_json(regular(file).read_text(encoding="utf-8"))
    except ValueError:
        run = None
    parts = dict(run) if isinstance(run, dict) else {}
    damaged = f"{file} is damaged, or not of a training: nothing resumes without it"
    needed = [parts.get(key) for key in ("model", "data", "settings")]
    newer = [parts.get(key, {}) for key in ("codec", "options", "folders", "start")]  # than some runs
    if not all(isinstance(part, dict) for part in (*needed, *newer)):
        raise UserError(damaged)
    settings, model = parts["settings"], parts["model"]
    if newer[2].get("validation"):  # runs of before wrote the default beside it
        settings["held_out"] = 0.0
    names = parts.get("method"), settings.get("without"), model.get("is"), newer[-1].get("model")
    if not all(name is None or isinstance(name, str) for name in names) or not all(
        folders is None or all(isinstance(folder, str) for folder in folders_in(folders))
        for folders in parts.get("folders", {}).values()
    ):
        raise UserError(damaged)
    numbers = settings | {"minutes": parts.get("minutes")}
    try:
        for key in settings:
            choose("setting", key, SETTINGS)
        check({key: value for key, value in numbers.items() if value is not None})
    except UserError as error:
        raise UserError(f"{file} is damaged, or was changed: {error}") from None
    return parts | short({key: parts[key] for key in ("model", "options") if key in parts})


def folders_in(folders: Any) -> Iterable[Any]:
    """The folders that run.json names by domains, in a list, or alone."""
    if isinstance(folders, dict):
        return folders.values()
    return folders if isinstance(folders, list) else [folders]


def typed_resume(out: str | Path, run: Mapping[str, Any] | None = None, lr: float | None = None) -> str:
    """What goes on with a run: a command, or a call if by its run.json its pictures are given in Python."""
    if any(GIVEN in folders_in(folders) for folders in (run or {}).get("folders", {}).values()):
        more = "" if lr is None else f", lr={lr:g}"
        return f"sfumato.train(method, data, {str(out)!r}, resume=True{more})"
    more = "" if lr is None else f" --lr {lr:g}"
    return f"sfumato train --resume --out {shlex.quote(str(out))}{more}"


def compare(before: Mapping[str, Any], run: Mapping[str, Any], part: Part, out: Path) -> list[str]:
    """Resuming needs the same model, data, batch, seed; other settings may change: in words, which.

    Args:
        before: run.json as it was.
        run: as it is going to be.
        part: what is trained.
        out: the run folder.

    Raises:
        UserError: that says what differs.
    """
    run, go = json.loads(json.dumps(run)), f"{typed_resume(out, before)} goes on as before"
    was, now = (one.get("start", {}).get("model", "new weights") for one in (before, run))
    if was != now:
        raise UserError(f"{out} began with {was}, not with {now}: {go}")
    was, now = (one.get("codec", {}).get("model", "none") for one in (before, run))
    if was != now:
        raise UserError(f"{out} learns with codec {was}, not {now}: {go}")
    told = {f.name: describe(f.default) for f in fields(part) if f.default is not MISSING}
    told |= describe(dict(part.before))
    model = told | before["model"]  # a field that is newer than the run: what it meant then
    settings = {k: (before["settings"].get(k, DEFAULTS.get(k, v)), v) for k, v in run["settings"].items()}
    for key, (was, now) in settings.items():
        if was != now and key in FIXED:
            raise UserError(f"{out} was trained with {key} {was}, not {now}: {go}")
    for key, was, now in (
        ("another model", model, run["model"]), ("other data", before["data"], run["data"])
    ):  # fmt: skip
        if differ := "; ".join(list(differences(was, now))[:3]):
            if key == "other data" and _changed_since(before, run):
                raise UserError(
                    f"the pictures of {out} have changed since it was trained ({differ}): put them back as "
                    f"they were, or choose a new --out"
                )
            raise UserError(f"{out} was trained with {key} ({differ}): {go}")
    return [f"resuming with {k} {now} (it was {was})" for k, (was, now) in settings.items() if was != now]


def _changed_since(before: Mapping[str, Any], run: Mapping[str, Any]) -> bool:
    """Whether the same folders, read in the same way, hold other pictures than they did."""
    ways = [{k: v for k, v in one["data"].items() if k not in OF_PICTURES} for one in (before, run)]
    folders = [[one.get("folders", {}).get(key) for key in ("data", "beside")] for one in (before, run)]
    same = [one["settings"].get("without") for one in (before, run)]
    return all(a == b for a, b in (ways, folders, same))


def absolute(data: Any) -> Any:
    """Paths as they can be found from anywhere, for JSON, and `GIVEN` for what has none."""
    if isinstance(data, Mapping):
        return {name: absolute(folder) for name, folder in data.items()}
    if data is None or isinstance(data, (str, Path)):
        return data and str(Path(data).absolute())
    return [absolute(folder) for folder in data] if folders_of(data) else GIVEN
