"""Ranges that annotations state: what is outside of them is refused, by every function, class and method."""

import functools
import importlib
import math
import pkgutil
import re
import types
import typing
from typing import Annotated

import pytest
from torch import Tensor

import sfumato
from sfumato.core.arguments import check_value, checked, hints_of
from sfumato.core.errors import UserError
from sfumato.core.options import args_of
from sfumato.core.ranges import Count, Interval, OneOf, Share, Whole, interval_of, with_range, without
from sfumato.module import Part, build, describe

MODULES = [
    importlib.import_module(m.name)
    for m in pkgutil.walk_packages(sfumato.__path__, "sfumato.")
    if not m.name.endswith("__main__")
]


def callables():
    """Every function and class of the package and every method of those: name, what to call, type hints."""
    for module in MODULES:
        for name, value in vars(module).items():
            if getattr(value, "__module__", None) != module.__name__ or not callable(value):
                continue
            own = vars(value) if isinstance(value, type) else {}
            yield f"{module.__name__}.{name}", value, hints_of(own.get("__init__", 0)) | hints_of(value)
            for key, method in own.items():
                if isinstance(method, types.FunctionType) and not key.startswith("__"):
                    unmade = functools.partial(method, object.__new__(Unmade))
                    call = functools.partial(unmade, None) if key == "translate" else unmade
                    yield f"{module.__name__}.{name}.{key}", call, hints_of(method)


class Unmade:
    """What checks come before."""


def ranged(hint):
    """(interval, type it belongs to, how a value of it is packed) for each interval in an annotation."""
    if typing.get_origin(hint) is Annotated:
        kind = typing.get_args(hint)[0]
        yield from ((m, kind, lambda v: v) for m in hint.__metadata__ if isinstance(m, Interval))
    origin = typing.get_origin(hint)
    for inner in typing.get_args(hint)[: None if origin is not Annotated else 0]:
        for interval, kind, pack in ranged(inner):
            alone = origin in (typing.Union, types.UnionType)
            yield interval, kind, pack if alone else lambda v, p=pack: (p(v),)


def ends(interval, kind):
    """Values on the closed ends, and values just outside of both."""
    inside, outside = [], []
    for end, sign, closed in (
        (interval.low, -1, interval.ends[0] == "["),
        (interval.high, 1, interval.ends[1] == "]"),
    ):
        if math.isinf(end):
            continue
        beyond = int(end) + sign if kind is int else math.nextafter(end, sign * math.inf)
        inside += [kind(end)] if closed else []
        outside.append(beyond if closed else kind(end))
    return inside, outside


def stated():
    for name, call, hints in callables():
        for parameter, hint in hints.items():
            for interval, kind, pack in ranged(hint):
                yield pytest.param(call, parameter, hint, interval, kind, pack, id=f"{name}-{parameter}")


STATED = list(stated())


@pytest.mark.parametrize(("call", "parameter", "hint", "interval", "kind", "pack"), STATED)
def test_what_is_outside_of_a_stated_range_is_refused(call, parameter, hint, interval, kind, pack):
    inside, outside = ends(interval, kind)
    for value in inside:
        check_value(parameter, pack(value), hint)
    for value in outside + ([math.nan, math.inf] if kind is float else []):
        with pytest.raises(UserError, match=rf"^{parameter}\S* must be ") as error:
            call(**{parameter: pack(value)})
        assert "\n" not in str(error.value)
        if math.isfinite(value):
            assert str(error.value).endswith(f"must be {interval}, not {value!r}")


def test_ranges_are_stated_where_they_are_known_to_be():
    names = {p.id for p in STATED}
    assert len(names) > 80
    assert {n for n in names if n.startswith("sfumato.methods.sdedit.SDEdit.translate")} == {
        f"sfumato.methods.sdedit.SDEdit.translate-{k}"
        for k in ("strength", "steps", "repeats", "classifier_free")
    }  # fmt: skip


PROSE = re.compile(r"\bin [\[(]-?\d|\bat (least|most) \d|[<>]=? ?-?\d|\d or more\b")
EFFECT = re.compile(r"\b(above|below) \d")  # may say what a number does, once its range is stated


def test_no_docstring_states_the_range_of_a_parameter():
    """Its annotation does, for the check, the help, the studio and the reader alike."""
    found = []
    for name, call, hints in callables():
        for parameter, text in args_of(getattr(call, "func", call).__doc__ or "").items():
            members = (hint := without(hints.get(parameter)), *typing.get_args(hint))
            number = (int in members or float in members) and Tensor not in members
            text = text.partition(";")[0] if (said := interval_of(hints.get(parameter))) else text
            if number and (PROSE.search(text) or (not said and EFFECT.search(text))):
                found.append(f"{name}: {parameter}: {text}")
    assert not found, "\n".join(found)


def test_a_range_in_words():
    said = [Interval(0, 1), Interval(0, 1, "(]"), Interval(1), Interval(0, ends="(]"), Interval(high=2),
            Interval(high=2, ends="[)"), Interval(-1, 0.5)]  # fmt: skip
    assert [str(i) for i in said] == [
        "in [0, 1]", "in (0, 1]", "at least 1", "above 0", "at most 2", "below 2", "in [-1, 0.5]",
    ]  # fmt: skip
    assert with_range("share of it.", Share | None) == "share of it. In [0, 1]."
    assert with_range("any.", float | None) == "any."
    assert with_range("how.", Annotated[str, OneOf(("a", "b"))] | None) == "how. One of a, b."
    assert with_range("how.", Annotated[str, OneOf(("a",), others=True)]) == "how. For instance a."


def test_none_lists_and_other_types_beside_a_range():
    @checked
    def f(n: Count | None = None, many: tuple[Count, ...] = (), how: Share | str = 1.0) -> None:
        """Nothing."""

    f(None, (), "x")
    f(1, [1, 2], 0)
    for given, says in (
        ({"n": 0}, "n must be at least 1, not 0"),
        ({"n": 1.5}, "n must be a whole number or None, not 1.5"),
        ({"n": 10**30}, "n must be at most 1,000,000,000"),
        ({"many": (1, 0)}, r"many\[1\] must be at least 1, not 0"),
        ({"how": 2}, r"how must be in \[0, 1\], not 2"),
        ({"how": math.nan}, "how must be a finite number or a name, not nan"),
    ):
        with pytest.raises(UserError, match=f"^{says}"):
            f(**given)


class Ranged(Part):
    few: Whole = 0
    share: Share | None = None


def test_fields_of_parts_and_of_model_json_keep_their_ranges():
    assert build(describe(Ranged(few=3, share=0.0)), ("sfumato", __name__)).few == 3
    for given, says in (
        ({"few": -1}, "few must be at least 0, not -1"),
        ({"share": 1.5}, r"share must be in \[0, 1\], not 1.5"),
    ):
        with pytest.raises(UserError, match=says):
            Ranged(**given)
        with pytest.raises(UserError, match=says):
            build({"is": f"{__name__}:Ranged"} | given, ("sfumato", __name__))
