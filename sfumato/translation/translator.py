"""Translators ready to use: a trained one, or a method filled with diffusion models."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple, get_args

import torch
from torch import Tensor

from sfumato.checkpoints.model_folder import MODELS, ModelFolder, describe_folder, open_model, resolve
from sfumato.checkpoints.seen import said_far
from sfumato.core.arguments import check_value, checked, hints_of, plain
from sfumato.core.devices import with_torch_defaults
from sfumato.core.errors import UserError, choose, out_of_memory
from sfumato.core.terminal import an
from sfumato.data.joined import check_folders
from sfumato.data.pictures import ImageSet
from sfumato.data.preparation import Preparation, Side
from sfumato.data.resize import Resize, said_size
from sfumato.data.value_range import ValueRange
from sfumato.diffusion.latents import ONE_CODEC, InLatents
from sfumato.diffusion.watch import Evaluations, Watch
from sfumato.methods.registry import find, info, inner, name_of, named, said
from sfumato.module import Part, channels_of, raw
from sfumato.training.verdict import FOG


@checked
@with_torch_defaults
def translator(
    method: str | None = None,
    model: str | Path | None = None,
    source: str | Path | None = None,
    target: str | Path | None = None,
    classifier: str | Path | None = None,
) -> Part:
    """A method ready to translate: a trained one, or one made of diffusion models.

    Args:
        method: a method's name; not needed with model.
        model: folder of a trained translator.
        source: denoiser of the source domain, FOLDER:DOMAIN.
        target: denoiser of the target domain, FOLDER:DOMAIN.
        classifier: folder of a domain classifier, for methods that are guided by one.

    Raises:
        UserError: for what is missing, or given but of no use, and what to type instead.
    """
    return assembled(method, model, source, target, classifier).part


class Assembled(NamedTuple):
    """A translator, and the models that it is made of by their roles, each read once."""

    part: Part
    models: dict[str, ModelFolder]

    @property
    def weights(self) -> dict[str, str]:
        """sha256 of each role's weights."""
        return {role: model.sha256 for role, model in self.models.items()}

    @property
    def foggy(self) -> list[str]:
        """What the trainings say of models whose results are no pictures yet."""
        told = {model.name: str(model.info.get("verdict")) for model in self.models.values()}
        return [f"{folder}: {text}" for folder, text in told.items() if FOG in text]

    def far(self, pictures: ImageSet, direction: str | None) -> list[str]:
        """What is to be said of pictures that are unlike all that the model of their domain has seen."""
        seen = [m for role, m in self.models.items() if role in ("model", "source")]
        seen = [] if direction == "target-to-source" else seen
        named = [(m, f"sfumato/{m.folder.name}" if m.folder.parent == MODELS else m.name) for m in seen]
        return [line for m, name in named for line in said_far(m.folder, name, pictures)]

    def notes(self, options: Mapping[str, Any]) -> list[str]:
        """What is to be said of these options."""
        said = self.part.low_pass(options) if isinstance(self.part, InLatents) else None
        return [said] if said else []

    def preparation(self, **given: Any) -> tuple[Preparation, list[str]]:
        """How pictures are brought to it, see `preparation_of`."""
        trained = {role: model.preparation for role, model in self.models.items()}
        number = channels_of(self.part, given.get("direction"))
        return preparation_of(trained, channels=number, **given)


def assembled(
    method: str | None = None,
    model: str | Path | None = None,
    source: str | Path | None = None,
    target: str | Path | None = None,
    classifier: str | Path | None = None,
    loaded: dict[Path, ModelFolder] | None = None,
) -> Assembled:
    """`translator`, with the models it is made of; those of `loaded` are not read again, others put in."""
    offered = {"source": source, "target": target, "classifier": classifier}
    given = {role: name for role, name in offered.items() if name is not None}
    # one folder, one network: its domains share the denoiser
    read = {} if loaded is None else loaded
    if model is not None:
        folder, domain = resolve(model)
        own = replace(read.get(folder) or open_model(folder, domain), domain=domain)
        read[folder] = own
        name, part = name_of(own.part), own.part if own.domain is None else own.denoiser
        if not info(part).translates:
            raise used_by_others(name, own.name)
        if method not in (None, name):
            raise UserError(f"{own.name} is {an(name)} model, not {method}; leave out --method")
        if given:
            raise UserError(f"{own.name} translates by itself; leave out --{next(iter(given))}")
        return Assembled(part, {"model": own})
    if method is None:
        raise UserError(
            "say how to translate: --model FOLDER of a trained translator, or --method NAME "
            "(`sfumato methods` lists them) with --source FOLDER:DOMAIN --target FOLDER:DOMAIN"
        )
    cls, roles = find(method), info(method).needs
    if not info(method).translates:
        raise used_by_others(method)
    if not roles:
        raise UserError(
            f"{method} translates with a model of its own: --model FOLDER, made by `sfumato train {method}`"
        )
    for role in given.keys() - roles.keys():
        raise UserError(f"{method} has no use for --{role}; leave it out")
    for role, needed in roles.items():
        if needed and role not in given:
            raise UserError(
                f"{method} needs a classifier: --classifier FOLDER, made by `sfumato train domain_classifier`"
                if role == "classifier"
                else f"{method} needs {an(role)} domain: --{role} FOLDER:DOMAIN"
            )
    models: dict[str, ModelFolder] = {}
    made: dict[str, Part] = {}
    for role, where in given.items():
        folder, domain = resolve(where)
        one = read.get(folder) or open_model(folder, domain)
        read[folder] = models[role] = one = replace(one, domain=domain)
        if role == "classifier" and domain is not None:
            raise UserError(f"a classifier knows all its domains: --classifier {one.name}, without :{domain}")
        made[role] = inner(one.part) if role == "classifier" else one.denoiser
    if len(channels := {channels_of(part) for part in made.values()}) > 1:
        raise UserError(
            f"{' and '.join(made)} differ in channels ({channels}); choose models with the same channels"
        )
    part = cls(**made).eval()
    part.preparation = next(iter(models.values())).part.preparation
    return Assembled(_in_latents(part, models), models)


def _in_latents(part: Part, models: Mapping[str, ModelFolder]) -> Part:
    """The method in the latents of its models, if they work in some.

    Raises:
        UserError: they work in others, or one on pictures.
    """
    (role, first), *rest = models.items()
    for other, model in rest:
        one, two = first.part, model.part
        works = isinstance(one, InLatents) and one.same_latents(two)
        if not works and InLatents in (type(one), type(two)):
            raise UserError(
                f"{role} {first.name} and {other} {model.name} do not work in the same latents: {ONE_CODEC}"
            )
    return first.part.around(part) if isinstance(first.part, InLatents) else part


USES = {
    "diffusion": "--method ddib --source {0}:DOMAIN --target {0}:DOMAIN",
    "domain_classifier": "--method classifier_guidance --target FOLDER:DOMAIN --classifier {0}",
}
"""Which methods translate with what does not translate by itself."""


def method_in(folder: Path) -> str:
    """The name of the method whose model a folder holds."""
    return named(said(describe_folder(folder)["model"])["is"])


def used_by_others(method: str, folder: str | None = None) -> UserError:
    """What to type for models of a method that does not translate by itself, or for one of them."""
    said = f"{method} does not translate by itself, other methods translate with its models"
    if folder is not None:
        said = f"{folder} is {an(method)} model, which other methods translate with"
    return UserError(f"{said}: {USES[method].format(folder or 'FOLDER')}")


def options_of(part: Any, given: Mapping[str, Any]) -> dict[str, Any]:
    """All options of the method's `translate`, defaults included.

    Raises:
        UserError: for an unknown one, naming the nearest, or a value that is not of its annotated type
            or that JSON cannot hold.
    """
    parameters = inspect.signature(inner(part).translate).parameters
    known = {k: p.default for k, p in parameters.items() if k not in ("source", "seed", "watch")}
    hints, given = hints_of(inner(part).translate), plain(given)
    for name, value in given.items():
        choose(f"option of {name_of(part)}", name, known)
        if not isinstance(value, (str, int, float, Path, type(None))):
            raise UserError(f"{name}={value!r} cannot be written into run.json; give its name")
        members = get_args(hint := hints.get(name, Any)) or (hint,)
        pictures = Tensor in members  # which are given by their paths
        check_value(name, value, str | Path | None if pictures else hint)
    return part.options(known | given, given) if isinstance(part, InLatents) else known | given


def preparation_of(
    trained: Mapping[str, Preparation],
    *,
    channels: int = 3,
    size: int | str | None = None,
    resize: Resize | None = None,
    upscale: bool = False,
    side: Side | None = None,
    alpha: str | None = None,
    to_range: ValueRange | None = None,
    beside: int | None = 0,
    direction: str | None = None,
    contradicted: bool = True,
    whole: bool = False,
) -> tuple[Preparation, list[str]]:
    """How pictures are brought to these models, and what contradicts their training, in words.

    The model of the source, or the only one, decides; what is given besides decides before it.

    Args:
        trained: {role: how its model's training prepared them}.
        channels: channels of the networks.
        size: side in pixels, or WIDTHxHEIGHT.
        resize: crop, short, stretch or none; none without a size takes every picture as it is.
        upscale: enlarge pictures that are smaller.
        side: left, right or whole.
        alpha: the colour that transparent pictures are laid on.
        to_range: of the results' values.
        beside: folders that pictures are read from beside the first; None if each holds all channels.
        direction: in which the models are used; back takes the targets' side of side by side pictures.
        contradicted: say what contradicts the training's size.
        whole: take all of what training cut, and leave at its scale what training left there.

    Raises:
        UserError: the models were trained at several sizes and none is given, or at none; or on sources of
            other folders.
    """
    order = [role for role in ("model", "source", "target", "classifier") if role in trained]
    own = trained[order[0]] if order else Preparation()
    sizes = {p.size for p in trained.values() if p.size}
    if size is None and resize != "none" and len(sizes) > 1:
        shown = ", ".join(sorted(map(said_size, sizes)))
        raise UserError(f"the models were trained at sizes {shown}: choose one by --size")
    if direction == "target-to-source":
        own = own.other_side
    if beside is not None:
        check_folders(beside, own.layers)
    own = replace(own, size=own.size or next(iter(sizes), None)).at(size, resize, whole)
    own = replace(own, channels=channels, side=side or own.side, alpha=alpha or own.alpha)
    made = replace(own, upscale=upscale or own.upscale)
    learnt = (own if "model" in trained else trained.get("target", own)).to_range
    made = replace(made, to_range=to_range or learnt)
    notes = []
    for key in ("size", "resize") if contradicted else ():
        now = getattr(made, key)
        taken = {p: (getattr(p, key), getattr(p.at(whole=whole), key)) for p in trained.values()}
        before = {own for own, full in taken.values() if now not in (own, full)} - {None}
        if before:
            words = " and ".join(sorted(map(_said, before)))
            notes.append(f"trained with {key} {words}; pictures are taken with {key} {_said(now)}")
    if made.side != "whole" and side is None:
        notes.append(
            f"{made.side} halves are read, as in training; if these are not pictures of two side by side, "
            f"use --side whole"
        )
    return made, notes


def _said(value: Any) -> str:
    return said_size(value) if isinstance(value, tuple) else "as they are" if value is None else str(value)


def run_translator(
    part: Any, x: Tensor, *, seed: int = 0, options: Mapping[str, Any] | None = None,
    watch: Watch | None = None,
) -> tuple[Tensor, int]:  # fmt: skip
    """Results for images (B, C, H, W) in [-1, 1], and the network evaluations each took.

    Works in halves where there is too little memory for all at once; `watch` (see `integrate`) is called
    for each.
    """
    counted = Evaluations(watch)
    try:
        with torch.no_grad():  # no inference_mode: guidance differentiates
            # files are checked where they are read
            return raw(part)(x, seed=seed, watch=counted, **(options or {})), counted.nfe
    except (MemoryError, RuntimeError) as error:
        if not out_of_memory(error):
            raise
    if len(x) == 1:
        h, w = x.shape[-2:]
        raise UserError(f"one picture of {w}x{h} is too much for the memory: use a smaller --size")
    cut = len(x) // 2
    one, nfe = run_translator(part, x[:cut], seed=seed, options=options, watch=watch)
    two, _ = run_translator(part, x[cut:], seed=seed, options=options, watch=watch)
    return torch.cat([one, two]), nfe
