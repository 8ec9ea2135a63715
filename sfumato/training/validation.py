"""What a training looks at besides its loss: held-out losses, a method's own measures, previews."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import torch
from torch import Tensor

from sfumato.core.terminal import count, one_line
from sfumato.data import sets, tile
from sfumato.data.folders import replacing
from sfumato.data.images import picture
from sfumato.data.resize import as_many, centre, said_size
from sfumato.data.show import shown
from sfumato.diffusion.watch import ending
from sfumato.methods.registry import Trainable, info, name_of
from sfumato.module import raw
from sfumato.training import verdict
from sfumato.training.fit import State, Update
from sfumato.training.log import Journal, Progress, logged
from sfumato.training.options import TrainOptions
from sfumato.training.pictures import Pictures
from sfumato.training.time_budget import Doubling, scored_every

if TYPE_CHECKING:
    from PIL import Image

REFERENCE = 64
"""Pictures that previews are compared with."""


def scores(state: State, data: sets.Dataset, batch: int, device: torch.device) -> dict[str, Any]:
    """Losses ("held_out"), the method's "measures" if it has any, and its "warning" of them."""
    out: dict[str, Any] = {"held_out": held_out_loss(state, data, batch, device)}
    method = cast("Any", state.method)
    if hasattr(method, "measures"):
        out["measures"] = measures(state, data, batch, device)
        if hasattr(method, "warning") and (text := method.warning(out["measures"])):
            out["warning"] = text
    return out


def held_out_loss(
    state: State, data: sets.Dataset, batch: int, device: torch.device, batches: int = 4
) -> dict[str, float]:
    """Mean held-out loss of each player with the averaged weights; the same noise every time."""
    total: dict[str, float] = {}
    with state.averaged() as part, torch.no_grad():
        stream = ((a.to(device), b.to(device)) for a, b in data.batches(batch, seed=0))
        method: Trainable = part
        for i in range(batches):
            for player, loss in method.objectives(stream, torch.Generator().manual_seed(i)):
                total[player] = total.get(player, 0.0) + loss.item() / batches
    return total


def measures(
    state: State, data: sets.Dataset, batch: int, device: torch.device, batches: int = 16
) -> dict[str, float]:
    """What the method itself measures on held-out data (accuracies, ...), mean over batches."""
    total: dict[str, float] = {}
    stream, part = data.batches(batch, seed=0), cast("Any", state.method)
    with state.averaged():
        for i in range(batches):
            a, b = next(stream)
            found = part.measures(a.to(device), b.to(device), torch.Generator().manual_seed(i))
            total = {k: total.get(k, 0.0) + v / batches for k, v in found.items()}
    return {k: round(v, 4) for k, v in total.items()}


@dataclass
class Observer:
    """Looks at a training after its steps: scores it, shows what it makes, writes the log, tells the user.

    Args:
        asked: options of the training.
        state: state of the training.
        pictures: that it learns from, and that it is scored on.
        device: device of the model.
        log: log.jsonl, in the run folder.
        told: what the user sees.
        main: is this the process that writes?
    """

    asked: TrainOptions
    state: State
    pictures: Pictures
    device: torch.device
    log: Journal
    told: Progress
    main: bool = True

    def begin(self, long: str) -> None:
        """Says what the training begins with: its pictures, how long it takes, where it writes."""

        def counted(data: sets.Dataset) -> str:
            return ", ".join(f"{len(part):,} {name}" for name, part in data.parts.items())

        training, rest = self.pictures.training, self.pictures.held_out
        about = "about " * bool(buckets := training.buckets.said())
        self.told.say(
            f"{name_of(self.state.method)} learns from {counted(training)} pictures of {about}"
            f"{said_size(self.asked.sides)} pixels, {counted(rest) if rest else 'none'} held out; {long}, "
            f"{count(self.log.images, 'picture')} a step, on {self.device}; writes to {self.asked.out}"
        )
        for note in (*buckets, *getattr(self.state.method, "notes", [])):
            self.told.say(note)

    def start(self, steps: int) -> None:
        """Starts the clocks of a training of so many steps."""
        self.steps = self.told.steps = steps
        self.told.done, self.log.clock = self.state.step, perf_counter()
        self.clock = Doubling(self.told.began)

    def __call__(self, update: Update) -> dict[str, Any]:
        """After a step; its line of the log.

        Raises:
            Ended: from what the caller's `watch` raised.
        """
        line, step, done = self.log.add(update), update.step, update.step == self.steps
        if done or step % scored_every(self.steps, self.asked.save_every) == 0:
            line |= self.score(self.state)
        if self.main and self.asked.preview_every:
            if done or step % self.asked.preview_every == 0 or self.clock.due():
                line |= self.preview()
        if self.main and (done or logged(step) or "held_out" in line or "pictures" in line):
            self.log.write(line)
            if watched := ending(self.asked.watch):
                watched(copy.deepcopy(line))
        self.told.show(line)
        return line

    def score(self, state: State) -> dict[str, Any]:
        """What `scores` says of this state; nothing if nothing is held out."""
        rest = self.pictures.held_out
        return scores(state, rest, self.asked.batch, self.device) if rest else {}

    def preview(self) -> dict[str, Any]:
        """Writes previews/step_NNNNNN.png; as "pictures", how far they are from the targets."""
        seen, step, folder = (self.look(self.state), self.state.step, self.log.path.parent / "previews")
        if seen is not None:
            title = f"step {step}" + ("" if "result" in seen.rows else ": samples of each domain")
            with replacing(folder / f"step_{step:06d}.png") as temporary:
                labelled(seen.rows, title).save(temporary, format="PNG")
            self.told.previewed(folder)
        self.clock.done()
        return {} if seen is None else {"pictures": seen.far}

    def look(self, state: State) -> Look | None:
        """What a preview of this state would show."""
        shown = self.pictures.held_out or self.pictures.training
        return look(state, shown, self.pictures.training, self.device)

    def verdict(self) -> str:
        """Where the training stands, in words."""
        steady = info(self.state.method).steady
        return verdict.verdict(self.log.entries(), steady, self.pictures.held_out is not None, self.steps)


class Look(NamedTuple):
    """What a preview shows, and how far it is from the targets (see `sfumato.training.verdict`)."""

    rows: dict[str, Tensor]
    """Images (n, C, H, W) by what they are."""
    far: dict[str, float]


def look(
    state: State, data: sets.Dataset, reference: sets.Dataset, device: torch.device, n: int = 8
) -> Look | None:
    """Source, result and target of the first n pictures, or samples; None of what makes no pictures.

    In buckets n is of the largest, which alone is compared; of the others there are fewer.

    Args:
        state: its averaged weights are used.
        data: held-out pictures, if there are any.
        reference: many pictures, to be compared with.
        device: device of the model.
        n: pictures in a row.
    """
    first, *others = data.groups
    known = reference.of_size(first).first(REFERENCE)
    part: Any
    with state.averaged() as part:
        if not info(part).translates and not hasattr(part, "preview"):
            return None
        seen = [_rows(part, one, device, many) for one, many in ((first, n), *((one, 2) for one in others))]
        if info(part).translates:
            x, y, b = seen[0].values()
            sources, targets = known[0], known[1] if data.kind != "domains" else known[0]
            copies = [as_many(x, b.shape[1]) for x in (x, sources)]
            far = verdict.translated(copies[0], y, b, copies[1], targets, paired=data.kind != "unpaired")
        else:
            far = verdict.sampled([*seen[0].values()], *known)
    return Look({name: on_white([rows[name] for rows in seen]) for name in seen[0]}, far)


def _rows(part: Any, data: sets.Dataset, device: torch.device, n: int) -> dict[str, Tensor]:
    """Images (n, C, H, W) of a preview by what they are, of pictures of one size."""
    a, b = data.first(n)
    if info(part).translates:
        b = a if data.kind == "domains" else b  # what gives pictures back
        return {"source": a, "result": raw(part)(a.to(device)).float().cpu().clamp(-1, 1), "target": b}
    made = [r.float().cpu().clamp(-1, 1) for r in part.preview(a.to(device))]
    return dict(zip(data.parts, made, strict=True))


def on_white(sheets: Sequence[Tensor]) -> Tensor:
    """Images (n, C, H, W) of several sizes as one tensor, each in the middle of white."""
    h, w = (max(x.shape[axis] for x in sheets) for axis in (2, 3))
    shown = [x.new_ones(*x.shape[:2], h, w) for x in sheets]
    for page, x in zip(shown, sheets, strict=True):
        centre(page, *x.shape[2:]).copy_(x)
    return torch.cat(shown)


def labelled(rows: Mapping[str, Tensor], title: str) -> Image.Image:
    """Rows of images (n, C, H, W) in [-1, 1] as one picture, a title above and names at the left.

    Small images are enlarged to about 64 pixels, every pixel a square.
    """
    from PIL import Image, ImageDraw, ImageFont

    font = ImageFont.load_default(13)
    sheets = [picture(tile(enlarged_all(shown(r)), len(r))).convert("RGB") for r in rows.values()]
    names = [n if len(n) <= 24 else f"{n[:11]}...{n[-10:]}" for n in map(one_line, rows)]
    left = 12 + round(max(map(font.getlength, names)))
    high = max(s.height for s in sheets) + 2
    wide = max(left + max(s.width for s in sheets), 24 + round(font.getlength(title)))
    page = Image.new("RGB", (wide, 24 + high * len(sheets)), "white")
    draw = ImageDraw.Draw(page)
    draw.text((6, 12), title, "black", font, anchor="lm")
    for i, (name, sheet) in enumerate(zip(names, sheets, strict=True)):
        page.paste(sheet, (left, 24 + high * i))
        draw.text((6, 24 + high * i + sheet.height // 2), name, "black", font, anchor="lm")
    return page


def enlarged_all(x: Tensor) -> Tensor:
    """Images (n, C, H, W) with every pixel a square, so that they have about 64 pixels or more."""
    times = max(1, 64 // max(x.shape[2:]))
    return x.repeat_interleave(times, 2).repeat_interleave(times, 3)
