"""What reaches the terminal: every printed line goes through `plain`.

Names of files, folders and domains come from anywhere.  A terminal obeys the escape sequences in them,
and lone surrogates (bytes of a name that are no UTF-8) cannot be encoded: both are shown as `repr` does.
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO, TypeVar

if TYPE_CHECKING:
    from rich.console import Console

Item = TypeVar("Item")
_HIDDEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f"  # control characters, but for tabs and ends of lines
    "\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069"  # what breaks lines or turns their direction
    "\ud800-\udfff]"  # lone surrogates
)
LONGEST = 2000
"""Characters of a line that says what is wrong; what is cut out of longer ones is somebody's data."""


def plain(text: str) -> str:
    r"""The text with its control characters and lone surrogates as \x1b, \u202e, \udcff."""
    return _HIDDEN.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def one_line(text: str) -> str:
    """The text as one plain line of bounded length."""
    line = plain(re.sub(r"\s*[\n\r]+\s*", " ", text).strip())
    half = LONGEST // 2
    return line if len(line) <= LONGEST else f"{line[: half - 5]} ... {line[-half:]}"


def say(*values: object, file: TextIO | None = None) -> None:
    """Prints at once, as `print` does, whatever the values hold and whatever encoding the terminal has."""
    out = sys.stdout if file is None else file
    encoding = getattr(out, "encoding", None) or "utf-8"
    text = plain(" ".join(map(str, values))).encode(encoding, "backslashreplace").decode(encoding)
    print(text, file=out, flush=True)


@contextlib.contextmanager
def unheard() -> Iterator[None]:
    """What is said inside to stderr, warnings too, is dropped; errors go on."""
    with Path(os.devnull).open("w") as nowhere, contextlib.redirect_stderr(nowhere):
        yield


def count(number: int, noun: str) -> str:
    """The number with its noun: 1 picture, 2 pictures."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


@contextlib.contextmanager
def bar(task: str, total: int) -> Iterator[Callable[[int], None]]:
    """A progress bar on the terminal, if standard error is one: hands out what moves it on."""
    if not sys.stderr.isatty():
        yield lambda n: None
        return
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=screen(stderr=True)) as shown:
        work = shown.add_task(task, total=total)
        yield lambda n: shown.advance(work, n)


def tracked(task: str, items: Sequence[Item]) -> Iterator[Item]:
    """The items one by one, with a `bar` of how many are done."""
    with bar(task, len(items)) as advance:
        for item in items:
            yield item
            advance(1)


def screen(**given: Any) -> Console:
    """A rich console that shows names as they are: [brackets] and :colons: in them are no markup."""
    from rich.console import Console

    class Plain(Console):
        def render_str(self, text: str, **given: Any) -> Any:
            return super().render_str(plain(text), **given)

    return Plain(markup=False, emoji=False, **given)
