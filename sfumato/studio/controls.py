"""A function's parameters as controls: kind and range from its signature, help from its docstring."""

from __future__ import annotations

import types
import typing
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from inspect import Parameter, signature
from math import inf, isfinite
from typing import Any, Literal, get_args, get_origin

from torch import Tensor

from sfumato.core.errors import UserError
from sfumato.core.options import args_of
from sfumato.core.ranges import Interval, interval_of, names_of, with_range, without
from sfumato.studio import limits

NONE, DEFAULT = "(none)", "(by default)"


@dataclass(frozen=True)
class Control:
    """A parameter as it is asked for.

    Attributes:
        name: name of the parameter.
        kind: kind of the control; a picture is an upload.
        default: its value at first.
        text: help.
        choices: what can be chosen.
        low: least number, if there is one.
        high: largest number, if there is one.
        whole: a whole number.
        optional: may be left empty, which is None.
    """

    name: str
    kind: Literal["number", "slider", "choice", "switch", "text", "picture"]
    default: Any
    text: str
    choices: tuple[str, ...] = ()
    low: float | None = None
    high: float | None = None
    whole: bool = False
    optional: bool = False

    def component(self) -> Any:
        """The control, for the page."""
        import gradio as gr

        if self.kind == "picture":
            label = f"{self.name}: {self.text}"
            return gr.File(label=label, file_types=["image"], type="filepath", height=90)
        shown: dict[str, Any] = {"label": self.name, "info": self.text, "value": self.default}
        if self.kind == "switch":
            return gr.Checkbox(**shown)
        if self.kind == "choice":
            offered = [*([DEFAULT] if self.optional else []), *self.choices]
            shown["value"] = DEFAULT if self.default is None else self.default
            return gr.Dropdown(offered, **shown)
        if self.kind == "text":
            return gr.Textbox(**{**shown, "value": self.default or ""}, max_length=200)
        if self.kind == "slider":
            assert self.low is not None
            assert self.high is not None
            return gr.Slider(self.low, self.high, step=1 if self.whole else 0.01, **shown)
        if self.optional:  # an empty number field is a 0 to gradio
            shown |= {"label": f"{self.name} (0: by default)", "value": self.default or 0}
        return gr.Number(
            minimum=0 if self.optional else self.low, maximum=self.high, precision=0 if self.whole else None,
            step=1 if self.whole else 0.05, **shown,
        )  # fmt: skip

    def value(self, given: Any) -> Any:
        """What the function gets for what the control holds.

        Raises:
            UserError: for a number that is missing.
        """
        if self.kind in ("choice", "text", "picture"):
            return None if given in (NONE, DEFAULT, "", None) else given
        if self.kind != "switch" and self.optional and not given:
            return None
        if given is None:
            raise UserError(f"{self.name} is empty: expected a number, such as {self.default}")
        return int(given) if self.whole else given


def controls(function: Callable[..., Any], doc: str | None = None, skip: Sequence[str] = ()) -> list[Control]:
    """A control for every parameter that can be asked for.

    Args:
        function: whose parameters.
        doc: another docstring.
        skip: parameters to leave out.
    """
    helps, out = args_of(doc or function.__doc__ or ""), []
    for p in signature(function, eval_str=True).parameters.values():
        if p.name in ("self", *skip):
            continue
        default = None if p.default is Parameter.empty else p.default
        made = _control(p.name, p.annotation, default, helps.get(p.name, ""))
        if made is not None:
            out.append(made)
    return out


def _control(name: str, hint: Any, default: Any, text: str) -> Control | None:
    interval, names, text = interval_of(hint), names_of(hint), with_range(text, hint)
    hint = without(hint)
    members = get_args(hint) if get_origin(hint) in (typing.Union, types.UnionType) else (hint,)
    optional = type(None) in members
    kinds = [m for m in members if m is not type(None)]
    if names:
        return Control(name, "choice", default, text, tuple(names), optional=optional)
    if Tensor in kinds:
        return Control(name, "picture", None, text, optional=True)
    if literals := [c for k in kinds if get_origin(k) is Literal for c in get_args(k)]:
        return Control(name, "choice", default, text, tuple(literals), optional=optional)
    if bool in kinds:
        return Control(name, "switch", bool(default), text)
    if str in kinds:
        return Control(name, "text", default, text, optional=optional)
    if int in kinds or float in kinds:
        low, high = _ends(interval, 1 if int in kinds else 0.01)
        if int in kinds:
            low = 1.0 if low is None and optional else low
            most = high if low is None else min(float(limits.STEPS), inf if high is None else high)
            return Control(name, "number", default, text, (), low, most, True, optional)
        kind: Literal["slider", "number"] = "number" if low is None or high is None else "slider"
        return Control(name, kind, default, text, (), low, high, False, optional)
    return None


def _ends(interval: Interval | None, step: float) -> tuple[float | None, float | None]:
    """The least and the largest number that a control offers, a step inside of open ends."""
    if interval is None:
        return None, None
    low = interval.low + step * (interval.ends[0] == "(")
    high = interval.high - step * (interval.ends[1] == ")")
    return (low if isfinite(low) else None), (high if isfinite(high) else None)
