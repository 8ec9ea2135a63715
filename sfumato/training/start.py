"""The model that a training begins with: of new weights by its seed, or with those of a model that learnt."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from sfumato.checkpoints.hub import recorded_name, spelled
from sfumato.checkpoints.model_folder import ModelFolder, open_model, resolve
from sfumato.core.arguments import checked_values
from sfumato.core.devices import without_values
from sfumato.core.errors import UserError, choose
from sfumato.core.terminal import an, count
from sfumato.data import sets
from sfumato.diffusion.denoiser import LEARNING
from sfumato.diffusion.latents import InLatents
from sfumato.methods.registry import find, info, inner, name_of
from sfumato.module import Part, build, describe, fields
from sfumato.nets.sizes import UNet
from sfumato.training.fit import seeded
from sfumato.training.latents import Latents
from sfumato.training.options import DEFAULTS, TrainOptions
from sfumato.training.pictures import Pictures

OF_DATA = "domains", "side", "bounded"
"""Fields of methods that the pictures decide, or their latents."""
READ = "range", "to_range", "alpha"
"""Options by which pictures are read as a model's were, if they are not given."""


def make(asked: TrainOptions, pictures: Pictures, latents: Latents | None, device: torch.device) -> Part:
    """The method with its options and what the pictures decide, with the seed's initial weights."""
    given, cls = _decided(asked, pictures) | _given(asked), find(str(asked.method))
    given |= latents.decided(cls, given, pictures) if latents else {}
    with seeded(asked.seed):
        part = cls(**given)
    return latents.around(part, asked, pictures, device) if latents else part


def check_part(part: Part, asked: TrainOptions) -> None:
    """A model that is trained itself brings all that it needs, and fits the pictures.

    Raises:
        UserError: if not.
    """
    if asked.options:
        raise UserError(
            f"options ({', '.join(asked.options)}) are for a method's name: a model has its own already"
        )
    if asked.start is not None:
        raise UserError(f"start={str(asked.start)!r} is for a method's name: a model has its own weights")
    if asked.codec is not None:
        raise UserError(f"codec={str(asked.codec)!r} is for a method's name: give InLatents(codec, model)")
    if (side := getattr(part, "side", asked.size)) != asked.size:
        raise UserError(f"the model is made for pictures of {side} pixels: size={side}, not {asked.size}")


def begun(asked: TrainOptions, before: Mapping[str, Any] | None) -> tuple[Start | None, TrainOptions]:
    """The model whose weights a training begins with, and the options by which its pictures are read.

    Channels, ranges and the colour under transparent pictures are the model's where none are given.  A run
    that goes on needs it no more: run.json has its options.
    """
    if asked.start is None:
        if before is None and isinstance(asked.method, str):
            _check_acting(asked)
        return None, asked
    start = Start.of(asked) if before is None else None
    if start is None:
        assert before is not None
        known, how = build(before.get("options", {})), before["settings"]
    else:
        own, to = _channels(start.found.part)
        known = ({} if asked.further else {"channels": own}) | ({"to_channels": to} if to != own else {})
        how = vars(start.found.preparation)
        ends = {layer.range for layer in start.found.preparation.layers}
        if asked.range is None and len(ends) > 1:
            raise UserError(
                f"{asked.start} has a range for each folder of its sources, which are measured anew: "
                f"add --range auto"
            )
    known = known | dict(asked.options or {})
    ways = [w for w in READ if w != "to_range" or info(asked.method).trains_on != "domains"]
    read = {w: how.get(w, DEFAULTS.get(w)) for w in ways if getattr(asked, w) is None}
    return start, replace(asked, options=known, **read)


def _check_acting(asked: TrainOptions) -> None:
    """Sees that every option that is given acts with the others.

    Raises:
        UserError: one does not; says with what it does.
    """
    cls: Any = find(str(asked.method))
    values = {f.name: f.default for f in fields(cls)} | dict(asked.options or {})
    for name, (other, value) in cls.only_with.items():
        if name in (asked.options or {}) and values[other] != value:
            flag, needed = (n.replace("_", "-") for n in (name, other))
            raise UserError(
                f"--{flag} {values[name]} acts only with --{needed} {value}, and {other} is {values[other]}: "
                f"add it, or leave out --{flag}"
            )


@dataclass(frozen=True)
class Start:
    """A model whose weights a training begins with.

    Args:
        name: what it is called in run.json.
        found: the model.
    """

    name: str
    found: ModelFolder

    @classmethod
    def of(cls, asked: TrainOptions) -> Start:
        """The one that is asked for.

        Raises:
            UserError: it is one domain of a model, or of another method.
        """
        path, domain = resolve(str(asked.start))
        if domain is not None:
            raise UserError(
                f"{asked.start} is one domain: a training begins with all, as in --from {spelled(path)}"
            )
        found, wanted = open_model(path, None), name_of(asked.method)
        if (kind := name_of(found.part)) != wanted:
            trained = info(found.part).trains_on is not None
            instead = (
                f"sfumato train {kind} DATA... --from {asked.start}" if trained else f"{an(wanted)} model"
            )
            raise UserError(f"{asked.start} is {an(kind)} model, not {an(wanted)} model: expected {instead}")
        return cls(recorded_name(str(asked.start)), found)

    def told(self, asked: TrainOptions, pictures: Pictures) -> TrainOptions:
        """The same; the method's options that are not given are the model's.

        Raises:
            UserError: one that is given makes another network of it.
        """
        whole, part, decided = self.found.part, inner(self.found.part), _decided(asked, pictures)
        was = _channels(part)
        now = was if isinstance(whole, InLatents) else _channels(asked)  # of latents they are the codec's
        kept = {f.name: getattr(part, f.name) for f in fields(part) if f.name != "domains"}
        with seeded(asked.seed):
            kept |= {k: _again(v, now[0], decided) for k, v in kept.items() if isinstance(v, Part)}
            if now != was:
                if len({*was}) + len({*now}) > 2:  # networks that are not alike
                    raise self._keeps(asked)
                kept |= {"channels": now[0], "net": _again(self._unet(), now[0], decided)}
                kept |= {"to_channels": 0} if "to_channels" in kept else {}
        other = {k: v for k, v in _given(asked).items() if describe(v) != describe(getattr(part, k))}
        other.pop("channels", None)
        with without_values():
            if now != was and _made(type(part), decided | kept) is None:
                raise self._keeps(asked)
            networks = _networks(type(part)(**(decided | kept)))
            for name, value in other.items():
                if (made := _made(type(part), decided | kept | {name: value})) is None:
                    type(part)(**(decided | {name: value}))  # says what is wrong with the value itself
                if made != networks:
                    flag, own = f"--{name.replace('_', '-')}", getattr(part, name)
                    before = f"{flag} {own}" if isinstance(own, str | int | float) else "another"
                    raise UserError(
                        f"{flag} {value} is not for the weights of {asked.start}, which were trained with "
                        f"{before}: leave {flag} out"
                    )
        if isinstance(whole, InLatents):
            kept |= {name: getattr(whole, name) for name in ("channels", "side") if name in kept}
        return replace(asked, options=kept | {k: v for k, v in other.items() if not isinstance(v, Part)})

    def give(self, part: Part) -> None:
        """Its weights become the part's: of domains by their names, of other channels by their mean.

        Raises:
            UserError: a network of other channels cannot have them.
        """
        was, state = self.found.part, dict(self.found.part.state_dict())
        own, modules = part.state_dict(keep_vars=True), dict(was.named_modules(remove_duplicate=False))
        for path, module in part.named_modules(remove_duplicate=False):
            inside, before = f"{path}." if path else "", getattr(modules.get(path), "channels", 0)
            if isinstance(module, UNet) and f"{inside}stem.weight" in state and module.channels != before:
                theirs = {k.removeprefix(inside): v for k, v in state.items() if k.startswith(inside)}
                state |= {inside + k: v for k, v in module.adapted(theirs, before).items()}
            for name in module.by_domain if isinstance(module, Part) and hasattr(part, "domains") else ():
                if (key := inside + name) in state:
                    state[key] = self._rows(state[key], own[key], part)
        shared = own.keys() & state.keys()
        if any(own[k].shape != state[k].shape for k in shared):
            raise self._keeps()
        given = {id(own[k]) for k in shared}
        templates = {f.name for f in fields(part)}  # networks that a method copies
        assert all(id(v) in given or k.split(".")[0] in templates for k, v in own.items())
        with torch.no_grad():
            for key in shared:
                own[key].copy_(state[key])

    def facts(self, part: Part) -> dict[str, Any]:
        """What run.json and the model's card say of it."""
        return {"model": self.name, "sha256": self.found.sha256} | self._domains(part)

    def said(self, part: Part, asked: TrainOptions, pictures: Pictures) -> str:
        """What the training begins with, in words."""
        words = [f"begins with the weights of {asked.start}"]
        words += [f"{way}: {', '.join(names)}" for way, names in self._domains(part).items() if names]
        if (channels := getattr(self.found.part, "channels", asked.channels)) != asked.channels:
            words.append(
                f"its first and last layers are adapted from {count(channels, 'channel')} to {asked.channels}"
            )
        before, now = self.found.preparation, pictures.everything.preparation
        if before.size is not None and str(before) != str(now):
            words.append(f"it learnt from pictures {before}, not {now}")
        return "; ".join(words)

    def _domains(self, part: Any) -> dict[str, list[str]]:
        """Those of the training and of the model, by what becomes of them; nothing of other methods."""
        was, now = (list(getattr(one, "domains", ())) for one in (self.found.part, part))
        ways = {
            "domains taken on": [name for name in now if name in was],
            "new": [name for name in now if name not in was],
            "dropped": [name for name in was if name not in now],
        }
        return ways if now else {}

    def _rows(self, theirs: Tensor, own: Tensor, part: Any) -> Tensor:
        """Rows of the domains by their names; a new domain keeps its own, which the seed made."""
        was, rows = list(getattr(self.found.part, "domains", ())), own.detach().clone()
        for i, name in enumerate(part.domains):
            if name in was:
                rows[i] = theirs[was.index(name)]
        rows[len(part.domains) :] = theirs[len(was) :]
        return rows

    def _unet(self) -> UNet:
        found = next((m for m in self.found.part.modules() if isinstance(m, UNet)), None)
        if found is None:
            raise self._keeps()
        return found

    def _keeps(self, asked: TrainOptions | None = None) -> UserError:
        part, (own, to) = self.found.part, _channels(self.found.part)
        flag = "--beside" if asked and asked.further else "--channels"
        more = (
            (f" and the {to} of its targets", " and --to-channels")
            if hasattr(part, "to_channels")
            else ("", "")
        )
        return UserError(
            f"{an(name_of(part))} model keeps its {count(own, 'channel')}{more[0]}: leave out {flag}"
            f"{more[1]}, and its pictures are read with as many"
        )


def _given(asked: TrainOptions) -> dict[str, Any]:
    """The method's options that are given; a model that is begun with brings its side among them.

    Folders of models that they name are these models.
    """
    cls = find(str(asked.method))
    given = checked_values(cls, asked.options or {})
    decided = OF_DATA if asked.start is None else ("domains",)
    for name in given:
        choose(f"option of {asked.method}", name, [f.name for f in fields(cls) if f.name not in decided])
    names = getattr(cls, "folders", {})
    named = {k: v for k, v in given.items() if k in names and isinstance(v, str) and v not in names[k]}
    return given | {k: inner(open_model(*resolve(v)).part) for k, v in named.items()}


def _decided(asked: TrainOptions, pictures: Pictures) -> dict[str, Any]:
    """What the pictures decide of a model."""
    decided: dict[str, Any] = {}
    known = [f.name for f in fields(find(str(asked.method)))]
    if isinstance(pictures.everything, sets.Domains) and "domains" in known:
        decided["domains"] = tuple(pictures.everything.parts)
    if "side" in known:
        decided["side"] = min(asked.sides)
    return decided


def _again(net: Part, channels: int, decided: Mapping[str, Any]) -> Any:
    """A network like this one, of new weights, for the channels and the domains of the training."""
    said, now = describe(net), {"channels": channels, "conditioning": channels}
    now |= {"labels": len(decided["domains"])} if "domains" in decided else {}
    detail = {"detail": net.detail or 4 * net.channels} if isinstance(net, UNet) else {}
    return build(_renewed(said, now) | detail)


def _renewed(said: Any, now: Mapping[str, Any]) -> Any:
    """A description, and those in it, with these values of the fields that they have and use."""
    if not isinstance(said, dict):
        return said
    return {k: now[k] if k in now and v else _renewed(v, now) for k, v in said.items()}


def _channels(of: Any) -> tuple[int, int]:
    """Those of the sources and of the targets, of a model or as options ask for them."""
    own = getattr(of, "channels", 3)
    return own, getattr(of, "to_channels", None) or own


def _made(cls: type[Part], given: Mapping[str, Any]) -> dict[str, Any] | None:
    """What the networks of a model are that is made so; None if there is no such model."""
    try:
        return _networks(cls(**given))
    except UserError:
        return None


def _networks(part: Part) -> dict[str, Any]:
    """What a model's networks are, by their names, but for how they learn."""
    parts = {name: m for name, m in part.named_modules() if isinstance(m, Part) and m is not part}
    return {n: {k: v for k, v in describe(m).items() if k not in LEARNING} for n, m in parts.items()}
