"""A latent for the page: encoded, changed by operations, decoded by the target and by its own model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from inspect import getdoc
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sfumato.checkpoints.model_folder import resolve
from sfumato.core.arguments import checked
from sfumato.core.errors import UserError, check_numbers, choose
from sfumato.core.ranges import Steps
from sfumato.data.images import picture
from sfumato.data.show import shown
from sfumato.diffusion.latents import squares
from sfumato.explore import OPERATIONS, Operation, apply, parse, report
from sfumato.explore.chain import parameters
from sfumato.explore.encode_pictures import DomainModel
from sfumato.module import channels_of
from sfumato.studio import limits
from sfumato.studio.choices import HERE
from sfumato.studio.controls import Control, controls
from sfumato.studio.jobs import Shelf
from sfumato.studio.uploads import place
from sfumato.translation.translator import preparation_of

RANGES: dict[str, tuple[float, float]] = {
    "scale.c": (-2, 3), "add.c": (0, 1), "checkerboard.cell": (1, 16),
    "blur.sigma": (0, 8), "rotate.angle": (-180, 180), "rotate.fill": (-1, 1),
    "translate.right": (-16, 16), "translate.down": (-16, 16), "translate.fill": (-1, 1),
    "slerp.t": (0, 1), "swap.factor": (1, 16),
}  # fmt: skip
"""What is offered of the operations' numbers where their signatures do not say it."""
OTHERS = {f.relative_to(HERE).as_posix(): f for f in sorted(HERE.rglob("*.png"))}
"""Pictures whose latents `slerp` and `swap` mix in."""
SEED = 0
LONGEST = 8
"""Operations in a chain."""


@dataclass
class Encoded:
    """A picture (1, C, H, W), its latent, and the model that made it.

    Attributes:
        image: the picture in [-1, 1].
        code: what of it was carried to noise: its codec's latents, or the picture itself.
        latent: the noise.
        source: FOLDER:DOMAIN.
        steps: of the solver.
    """

    image: Tensor
    code: Tensor
    latent: Tensor
    source: str
    steps: int


@dataclass
class Changed:
    """What a changed latent looks like and decodes to, its statistics, and whether it is noise.

    Attributes:
        pictures: the latent / 3, what it decodes to by the target and by the source, and, of a model in
            latents, the codec's code of the picture / 3; latents are squares of their pixels.
        rows: statistics before and after.
        verdict: in words.
    """

    pictures: list[Any]
    rows: list[list[str]]
    verdict: str


@checked
def encode(pictures: list[str], source: str, steps: Steps, shelf: Shelf) -> Encoded:
    """The latent of a picture.

    Args:
        pictures: the first is encoded.
        source: model of the picture's domain, FOLDER:DOMAIN; it encodes, and decodes the control.
        steps: solver steps each way.
        shelf: where copies go.

    Raises:
        UserError: for a picture that is not admitted, or a model that has no such domain.
    """
    (file, *_) = place(pictures[:1], shelf.new())
    return _encoded(file, source, steps)


def _encoded(file: Path, source: str, steps: int) -> Encoded:
    model = _model(source)
    prepare, _ = preparation_of({"source": model.preparation}, channels=channels_of(model.part), upscale=True)
    if max(prepare.size or (limits.SIZE + 1,)) > limits.SIZE:
        prepare = replace(prepare, size=(limits.SIZE, limits.SIZE))
    image = prepare.read(file).image[None]
    with torch.no_grad():
        return Encoded(image, model.code(image), model.encode(image, steps=steps), source, steps)


def _other(name: str, source: str, steps: int) -> Tensor:
    return _other_latent(name, source, steps, _saved(source))


@lru_cache(maxsize=32)
def _other_latent(name: str, source: str, steps: int, saved: int) -> Tensor:
    return _encoded(OTHERS[choose("picture", name, OTHERS)], source, steps).latent


def _model(name: str) -> DomainModel:
    return _loaded(name, _saved(name))


@lru_cache(maxsize=4)
def _loaded(name: str, saved: int) -> DomainModel:
    return DomainModel.of(name)


def _saved(name: str) -> int:
    """When a model was saved: one that has been trained further is another."""
    file = resolve(name)[0] / "weights.safetensors"
    return file.stat().st_mtime_ns if file.is_file() else 0


def change(
    encoded: Encoded, operation: str, held: Mapping[str, Any], first: str, target: str, other: str
) -> Changed:
    """A latent after some operations, and what it decodes to.

    Args:
        encoded: the latent.
        operation: what is done to the latent last; its parameters are below.
        held: its parameters, as OPERATION.PARAMETER.
        first: operations before it, from left to right, as "rotate angle=60, blur sigma=2".
        target: model of the result's domain, FOLDER:DOMAIN.
        other: a picture whose latent is mixed in.

    Raises:
        UserError: for operations and values that are not known, or a target in other latents.
    """
    source, to = _model(encoded.source), _model(target)
    to.check_codec(source.facts.get("codec"))
    chain = [*_chain(first), _operation(operation, held)]
    for one in chain:
        if any(kind is Tensor for kind, _ in parameters(one.name).values()):
            one.parameters["other"] = _other(other, encoded.source, encoded.steps)
    latent, log = apply(chain, encoded.latent, encoded.code, SEED)
    with torch.no_grad():
        decoded = [model.decode(latent, steps=encoded.steps) for model in (to, source)]
    check_numbers({"what the models make of this": torch.cat(decoded)}, ": use smaller coefficients")
    seen = [squares(latent / 3, source.factor)]
    codes = [squares(encoded.code / 3, source.factor)] if source.factor > 1 else []
    before, after = log[0]["before"], log[-1]["after"]
    rows = [[name, f"{before[name]:.4g}", f"{after[name]:.4g}"] for name in before]
    return Changed(
        [picture(shown(x[0])) for x in (*seen, *decoded, *codes)], rows, report(latent[0]).verdict()
    )


def operations() -> dict[str, str]:
    """The operations a visitor can choose, and what each does."""
    names = (n for n in OPERATIONS if n != "attribute")  # which needs two groups of latents
    return {n: " ".join((getdoc(OPERATIONS[n]) or "").split("\n\n")[0].split()) for n in names}


def operation_controls(name: str) -> list[Control]:
    """The controls of an operation."""
    made = []
    for control in controls(OPERATIONS[name], skip=("z", "given")):
        if control.kind == "picture":  # latents of another picture: chosen beside
            continue
        if ends := RANGES.get(f"{name}.{control.name}"):
            control = replace(control, kind="slider", low=ends[0], high=ends[1])
        made.append(control)
    return made


def spelled(name: str, held: Mapping[str, Any]) -> str:
    """An operation as text, to be one of a chain.

    Raises:
        UserError: for one that mixes in another latent.
    """
    if any(kind is Tensor for kind, _ in parameters(name).values()):
        raise UserError(f"{name} mixes in another latent: it can only be the last")
    return str(_operation(name, held))


def _operation(name: str, held: Mapping[str, Any]) -> Operation:
    choose("operation", name, operations())
    values = {c.name: c.value(held[f"{name}.{c.name}"]) for c in operation_controls(name)}
    return Operation(name, values)


def _chain(text: str) -> list[Operation]:
    """The operations of a text; none of them may read a file."""
    chain = parse(text) if text.strip() else []
    if len(chain) > LONGEST:
        raise UserError(f"{len(chain)} operations: expected at most {LONGEST} before the last")
    for one in chain:
        if any(kind is Tensor for kind, _ in parameters(one.name).values()):
            raise UserError(f"{one.name} mixes in another latent: choose it as the operation")
    return chain
