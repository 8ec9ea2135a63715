"""A method, the models it translates with, and its options, as controls."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from inspect import signature
from pathlib import Path
from typing import Any

from sfumato.checkpoints.model_folder import preparation_in
from sfumato.core.terminal import count
from sfumato.data.preparation import Preparation
from sfumato.data.resize import UNCUT
from sfumato.methods.outline import names
from sfumato.methods.registry import find, info
from sfumato.studio import limits
from sfumato.studio.choices import Given
from sfumato.studio.controls import NONE, Control, controls
from sfumato.studio.page import Form, choice, helps
from sfumato.studio.uploads import admit, place
from sfumato.translation.pictures import translate
from sfumato.translation.run_file import Summary
from sfumato.translation.translator import preparation_of

ROLES = ("model", "source", "target", "classifier")
RUN = ("seed", "size", "resize", "upscale", "side")


def available(given: Given) -> list[str]:
    """The methods that can translate with the models there are."""
    found = []
    for name in (name for name in names() if info(name).translates):
        needs = info(name).needs
        parts = given.denoisers() if needs else given.trained(name)
        if parts and (given.classifiers() or "classifier" not in needs):
            found.append(name)
    return found


def options(method: str) -> list[Control]:
    """The controls of a method's own options."""
    part: Any = find(method)
    return controls(part.translate, skip=("source", "seed", "watch"))


def run_options() -> list[Control]:
    """The controls of what all translations have."""
    others = [name for name in signature(translate).parameters if name not in RUN]
    made = {c.name: c for c in controls(translate, skip=others)}
    made["size"] = replace(
        made["size"], kind="number", low=1, high=limits.SIZE, whole=True, text="short side in pixels; by "
        "default as in the model's training, and at most as large as the studio makes them.",
    )  # fmt: skip
    made["resize"] = replace(made["resize"], choices=(*UNCUT, "crop", "stretch"))
    return [*made.values()]


class Roles:
    """Which models a translation is made with.

    Args:
        given: what there is to choose from.
        form: gets the controls.
        shown: the roles that are visible at first.
    """

    def __init__(self, given: Given, form: Form, shown: tuple[str, ...] = ROLES) -> None:
        offered: dict[str, Callable[[], list[str]]] = {
            "model": lambda: [m.name for m in given.models.values() if m.translates],
            "source": given.denoisers, "target": given.denoisers,
            "classifier": lambda: [NONE, *given.classifiers()],
        }  # fmt: skip
        texts, start = helps(translate), given.start()
        first = {"model": next(iter(offered["model"]()), None), **start._asdict()}
        for name in ROLES:
            form.add(name, choice(
                given, offered[name], value=first[name] or NONE, label=name, info=texts[name],
                visible=name in shown,
            ))  # fmt: skip


def uses(method: str) -> tuple[str, ...]:
    """The roles that a method needs filled."""
    return tuple(info(method).needs) or ("model",)


def ask(given: Given, method: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """What `sfumato.translate` is called with, besides pictures and folder.

    Args:
        given: models to choose from.
        method: a method's name.
        values: what the controls hold: roles, what all translations have, and METHOD.OPTION.

    Raises:
        UserError: for an option that is missing.
    """
    roles = {r: values[r] for r in uses(method) if values.get(r) not in (None, NONE)}
    common = {c.name: c.value(values.get(c.name, c.default)) for c in run_options()}
    own = {c.name: c.value(values.get(f"{method}.{c.name}", c.default)) for c in options(method)}
    return {"method": method, **roles, **common, "options": own}


def steps_of(asked: Mapping[str, Any]) -> int | None:
    """Solver steps in all, where the method has such an option."""
    own = asked["options"]
    return own["steps"] * own.get("repeats", 1) if own.get("steps") else None


def make(asked: Mapping[str, Any], pictures: list[str], folder: Path, watch: Any) -> Summary:
    """Translates pictures from outside: `folder` gets them in `in`, results and run.json in `out`."""
    placed = place(pictures, folder / "in")
    own = dict(asked["options"])
    if own.get("mask"):
        (mask,) = place([own["mask"]], folder / "mask")
        own["mask"] = str(mask)
    options = {**admitted(asked, pictures), "options": own}
    return translate([str(p) for p in placed], folder / "out", watch=watch, **options)


def about(method: str) -> str:
    """What a method is, in a line or two."""
    return info(method).summary


def admitted(asked: Mapping[str, Any], pictures: Sequence[str]) -> dict[str, Any]:
    """The same with a size, where models take pictures at their own that are too large for the studio."""
    if preparation(asked)[0].size is not None:
        return {**asked}
    sides = [side for file in pictures for side in admit(Path(file))]
    return {**asked, "size": min(limits.SIZE, *sides)} if max(sides, default=0) > limits.SIZE else {**asked}


def preparation(asked: Mapping[str, Any]) -> tuple[Preparation, list[str]]:
    """How pictures are brought to the models that are asked for, see `preparation_of`."""
    trained = {role: preparation_in(asked[role]) for role in ROLES if role in asked}
    own = {name: asked[name] for name in ("size", "resize", "upscale", "side")}
    return preparation_of(trained, **own, direction=asked["options"].get("direction"), whole=True)


def told(given: Given, method: str, values: Mapping[str, Any], pictures: list[str]) -> str:
    """What the models were trained on, and how these pictures are brought to them.

    Raises:
        UserError: for pictures that are not admitted, and models that do not go together.
    """
    asked = admitted(ask(given, method, values), pictures)
    names = [asked[role] for role in ROLES if role in asked]
    lines = []
    for name in dict.fromkeys(n if n in given.models else n.rpartition(":")[0] for n in names):
        info = given.models[name].info if name in given.models else {}
        learnt = (info.get("data") or {}).get("count") or {}
        if learnt:
            shown = ", ".join(list(learnt)[:12]) + ", ..." * (len(learnt) > 12)
            lines.append(f"{name} was trained on {count(sum(learnt.values()), 'picture')} of {shown}.")
    prepare, notes = preparation(asked)
    for file in pictures[:3]:
        width, height = admit(Path(file))
        lines.append(f"{Path(file).name} is {width}x{height}: {prepare}.")
    return " ".join([*lines, *notes])
