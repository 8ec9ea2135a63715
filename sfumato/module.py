"""Parts: networks, denoisers and methods that describe themselves.

A part's fields are its constructor arguments, its JSON, its command-line flags and its docs table.
There are no configuration classes: `describe` turns a part into plain JSON and `build` turns it back.
JSON knows a part of this package by its class's name, wherever its file lies.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import importlib
import pkgutil
import threading
from collections.abc import Callable, Iterator, Mapping
from inspect import signature
from typing import Any, ClassVar, ParamSpec, Self, TypeVar, dataclass_transform

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules import module as registry

from sfumato.core.arguments import Checked, Seed, check_value, checked_values, described, hints_of
from sfumato.core.devices import with_torch_defaults
from sfumato.core.errors import RENAMED, UserError, choose
from sfumato.core.terminal import an
from sfumato.data.in_memory import check_tensor, translated
from sfumato.data.preparation import Preparation
from sfumato.windows import for_pictures

P = ParamSpec("P")
R = TypeVar("R")
MOST = 10**7
"""The largest whole number in a description: of channels, layers, pixels, batches."""


KINDS: dict[str, type[Described]] = {}
"""What of this package has been imported and can be described, by its name."""


class Described(Checked):
    """What is described in JSON: its kind, and the fields of its constructor."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if kind_of(cls) == cls.__name__:
            KINDS[cls.__name__] = cls


def kind_of(cls: type) -> str:
    """How JSON calls a class: NAME in this package, which no moved file changes, elsewhere MODULE:NAME."""
    ours = cls.__module__.split(".")[0] == __name__.split(".")[0]
    return cls.__name__ if ours else f"{cls.__module__}:{cls.__qualname__}"


GONE = {"channel_order": "noisy, image"}
"""Fields that descriptions had when they could have this value only."""


ADDED: dict[str, dict[str, Any]] = {
    "UNet": {"detail": 0}, "Denoiser": {"any_domain": True}, "ResNet": {"bounded": True},
    "UNetGenerator": {"bounded": True},
}  # fmt: skip
"""Fields that descriptions of these kinds did not have while they could have this value only."""


def short(description: Any) -> Any:
    """A description, or options, as of today: format 1 had MODULE:NAME for kinds, 2 other names of fields."""
    if isinstance(description, list):
        return [short(v) for v in description]
    if not isinstance(description, dict):
        return description
    found = {k: short(v) for k, v in description.items() if (k, v) not in GONE.items()}
    if str(found.get("is")).startswith("sfumato."):
        found["is"] = found["is"].rpartition(":")[2]
    found |= {k: v for k, v in ADDED.get(str(found.get("is")), {}).items() if k not in found}
    if found.get("is") in (None, "UnpairedSDE", "UnitDDPM"):  # or options of a method
        found = {RENAMED.get(k, k): v for k, v in found.items()}
    if found.get("units") in RENAMED:
        found["units"] = RENAMED[found["units"]]
    return found


class NoTranslator(UserError, AttributeError):
    """A mistake of the user's; an AttributeError, too, so that `hasattr` says no."""


@dataclass_transform(kw_only_default=True, eq_default=False)
class Part(Described, nn.Module):
    """An `nn.Module` whose annotated fields are its keyword-only constructor.

    Sub-modules are made in `__post_init__`.  A class states all of its fields, or only other defaults of
    those of the class it extends.  Its
    `translate`, if it has one, takes images (B, C, H, W); callers may give pictures of any kind, which
    `sfumato.data.in_memory.take` checks in this one place, and get results in [-1, 1]; see `of_any_kind`.
    """

    before: ClassVar[Mapping[str, Any]] = {}
    """Fields that are newer than descriptions without them, with what those descriptions meant."""
    only_with: ClassVar[Mapping[str, tuple[str, str]]] = {}
    """Fields that act only where another has a certain value: {field: (the other, its value)}."""
    by_domain: ClassVar[tuple[str, ...]] = ()
    """Tensors of its state with a row for each domain, in their order; rows behind them are of none."""
    generators_at: ClassVar[tuple[str, ...]] = ()
    """Where the networks lie that see its pictures, besides those of its parts."""
    preparation: Preparation | None = None
    """How the training brought pictures to the network, if the part comes out of a model folder."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "translate" in vars(cls):
            cls.translate = of_any_kind(vars(cls)["translate"])  # type: ignore[attr-defined]
        dataclasses.dataclass(eq=False, kw_only=True, repr=False)(cls)
        for f in fields(cls):  # a default left on the class would hide a sub-module
            if f.name in vars(cls):
                delattr(cls, f.name)

    def __getattr__(self, name: str) -> Any:
        if name == "translate":
            raise NoTranslator(
                f"{an(type(self).__name__)} is not a translator by itself: a method translates with it, as "
                f"in sfumato.translator('ddib', source='FOLDER:A', target='FOLDER:B').translate(pictures)"
            )
        return super().__getattr__(name)

    def forward(self, *_: Any, **__: Any) -> Any:
        raise UserError(f"{an(type(self).__name__)} is not called: use .translate(pictures)")

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        self = super().__new__(cls, *args, **kwargs)
        nn.Module.__init__(self)  # before the dataclass' __init__ assigns sub-modules
        return self


def of_any_kind(translate: Callable[..., Tensor]) -> Callable[..., Any]:
    """A method's `translate` for pictures of any kind, whose results lie in [-1, 1].

    `as_is=True` gives it a tensor of any numbers, and gives back the numbers that the networks made.
    Options are of the types that the method annotates, see `sfumato.core.arguments`.
    """
    takes = signature(translate).parameters
    offered = [*list(takes)[2:], "as_is"]
    any_name = any(p.kind is p.VAR_KEYWORD for p in takes.values())

    @functools.wraps(translate)
    def checked(self: Part, source: Any, *, as_is: bool = False, **options: Any) -> Any:
        for name in [] if any_name else options:
            choose(f"option of {type(self).__name__}.translate", name, offered)
        options = checked_values(translate, options, seed=Seed)
        check_value("as_is", as_is, bool)
        pictures = any(hasattr(m, "channels") for m in self.modules())
        like = next(self.parameters(), None)  # of the networks' device and type
        if pictures:
            _check_given(source, as_is, like)
        if as_is or not pictures:  # exact denoisers take anything
            return translate(self, source, **options)

        def run(images: Tensor) -> Tensor:
            part = for_pictures(self, (images.shape[2], images.shape[3]))
            with torch.set_grad_enabled(images.requires_grad):
                return translate(part, images if like is None else images.to(like), **options)

        how, direction = self.preparation, options.get("direction")
        how = how.other_side if how and direction == "target-to-source" else how
        return translated(run, source, channels_of(self, direction), how)

    return with_torch_defaults(checked)


def _check_given(source: Any, as_is: bool, like: Tensor | None) -> None:
    """Sees that networks, whose values are `like` this one, can be given a source.

    Raises:
        UserError: they have no values, or it is none as it is.
    """
    if like is not None and like.is_meta:
        raise UserError(
            "the model is on the meta device, without values: expected one of sfumato.load, or .to_empty("
            "device='cpu') and its weights loaded"
        )
    if not as_is:
        return  # `take` says
    if not isinstance(source, Tensor) or source.ndim not in (2, 4):
        raise UserError(
            f"as_is=True takes a tensor (B, C, H, W), or points (B, D), not {described(source)}: "
            f"leave it out, or make such a tensor, as by torch.from_numpy"
        )
    check_tensor(source, "what as_is=True takes")


def raw(part: Any) -> Callable[..., Tensor]:
    """A translator's `translate` of tensors, unchecked and unclamped: what metrics and maps are made of."""
    return functools.partial(part.translate, as_is=True) if isinstance(part, Part) else part.translate


def channels_of(part: nn.Module, direction: Any = None) -> int:
    """Channels of the images that the part's networks take, in this direction."""
    own: Any = next((m.channels for m in part.modules() if hasattr(m, "channels")), 3)
    return int((direction == "target-to-source" and getattr(part, "to_channels", 0)) or own)


def fields(part: Any) -> list[dataclasses.Field[Any]]:
    """The constructor fields of what is described (class or instance)."""
    return [f for f in dataclasses.fields(part) if f.init]


def describe(value: Any, path: str = "", seen: dict[int, str] | None = None) -> Any:
    """A part as plain JSON; a part that occurs twice is described once and referred to by its path."""
    seen = {} if seen is None else seen
    if isinstance(value, Described):
        if isinstance(value, Part) and seen.setdefault(id(value), path) != path:
            return {"same as": seen[id(value)]}
        prefix = f"{path}." if path else ""
        inner = {f.name: getattr(value, f.name) for f in fields(value)}
        return {"is": kind_of(type(value))} | {k: describe(v, prefix + k, seen) for k, v in inner.items()}
    if isinstance(value, (list, tuple)):
        return [describe(v, f"{path}.{i}", seen) for i, v in enumerate(value)]
    if isinstance(value, dict):
        return {str(k): describe(v, f"{path}.{k}", seen) for k, v in value.items()}
    if isinstance(value, np.generic):  # a notebook's number
        return value.item()
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise TypeError(f"{path or 'value'}: {an(type(value).__name__)} has no description in JSON")


def build(
    description: Any,
    allow: tuple[str, ...] = ("sfumato",),
    path: str = "",
    made: dict[str, Any] | None = None,
) -> Any:
    """The inverse of `describe`.  Only parts and processes of the packages in `allow` are made.

    Raises:
        UserError: if the description names anything else, or fields that the part does not have, or
            values that are not of the fields' types.
    """
    made = {} if made is None else made
    if isinstance(description, list):
        return tuple(build(v, allow, f"{path}.{i}", made) for i, v in enumerate(description))
    if not isinstance(description, dict):
        return description
    if "same as" in description:
        if str(description["same as"]) not in made:
            raise UserError(f"{path or 'the part'} is the same as {description['same as']!r}: there is none")
        return made[description["same as"]]
    prefix = f"{path}." if path else ""
    inner = {k: build(v, allow, prefix + k, made) for k, v in description.items() if k != "is"}
    if "is" not in description:
        return inner
    cls = _class(str(description["is"]), allow)
    known = {f.name for f in fields(cls)}
    if unknown := sorted(inner.keys() - known):
        raise UserError(f"{description['is']} has no field {unknown[0]!r}; it has {sorted(known)}")
    for name, hint in hints_of(cls).items():
        if name in inner:
            check_value(prefix + name, inner[name], hint, MOST)
    made[path] = cls(**{**getattr(cls, "before", {}), **inner})
    return made[path]


@contextlib.contextmanager
def at_most(tensors: int, file: str = "model.json") -> Iterator[None]:
    """Ends the building of a model that has far more modules and parameters than there are tensors.

    A number in the file that describes it may ask for any number of layers, and each of them costs time
    and memory even on the meta device.  Models have up to 5 modules and parameters a tensor.
    """
    here, most, made = threading.get_ident(), 1000 + 10 * tensors, 0

    def count(*_: Any) -> None:
        nonlocal made
        made += threading.get_ident() == here  # the hooks are those of all threads
        if made > most:
            raise UserError(f"{file} describes a model of more than its {tensors} tensors")

    hooks = [
        registry.register_module_parameter_registration_hook(count),
        registry.register_module_buffer_registration_hook(count),
        registry.register_module_module_registration_hook(count),
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _class(name: str, allow: tuple[str, ...]) -> Any:
    module, _, own = name.rpartition(":")
    package = module.split(".")[0] or "sfumato"
    if package not in allow:
        raise UserError(
            f"the model is {an(repr(name))}, which is not part of {' or '.join(allow)}; if you trust "
            f"it, import it and pass allow=(..., {package!r})"
        )
    if package == "sfumato":
        cls = KINDS.get(own) or _all_kinds().get(own)
        if cls is None:
            raise UserError(f"this version of sfumato has no {name!r}")
        return cls
    try:
        cls = getattr(importlib.import_module(module), own)
    except (ImportError, AttributeError):
        raise UserError(f"there is no {name!r} here") from None
    if not (isinstance(cls, type) and issubclass(cls, Described)):
        raise UserError(f"{name!r} is not a part that a model may be made of")
    return cls


@functools.cache
def _all_kinds() -> Mapping[str, type[Described]]:
    """`KINDS` when networks, processes and methods are imported, and with them all that they are made of."""
    for room in "sfumato.nets", "sfumato.diffusion", "sfumato.methods":
        for module in pkgutil.walk_packages(importlib.import_module(room).__path__, f"{room}."):
            importlib.import_module(module.name)
    return KINDS
