"""What reaches the terminal: every printed line goes through `escaped`, to a stream that is `steady`.

Names of files, folders and domains come from anywhere.  A terminal obeys the escape sequences in them,
line breaks in them look like lines of ours, and lone surrogates (bytes of a name that are no UTF-8) cannot
be encoded: all are shown as `repr` does.
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO, TypeVar, cast

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


def escaped(name: object) -> str:
    r"""A name in a line: its control characters and lone surrogates as \n, \x1b, \u202e, \udcff."""
    return plain(str(name)).replace("\n", "\\n").replace("\t", "\\t")


def plain(text: str) -> str:
    """The same of a text, whose tabs and ends of lines stay."""
    return _HIDDEN.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def one_line(text: str) -> str:
    """The text as one plain line of bounded length."""
    line = plain(re.sub(r"\s*[\n\r]+\s*", " ", text).strip())
    half = LONGEST // 2
    return line if len(line) <= LONGEST else f"{line[: half - 5]} ... {line[-half:]}"


def say(*values: object, file: TextIO | None = None, lines: bool = False) -> None:
    """Prints a line at once, as `print` does, whatever the values hold and whoever reads it, see `Steady`.

    Args:
        values: what to print; names in it may hold anything.
        file: where to, by default stdout.
        lines: it is a text of several lines, whose names are `escaped`.
    """
    out, text = steady(sys.stdout if file is None else file), " ".join(map(str, values))
    print(plain(text) if lines else escaped(text), file=out, flush=True)


class Steady:
    """A text stream that never ends the work that speaks.

    What its encoding lacks is escaped.  Where it cannot write any more, all else goes to os.devnull.

    Args:
        stream: the stream, of which it is a part in all else.
    """

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream
        self.fault: OSError | None = None
        """Why it could not write, if not because its reader went away."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)

    def write(self, text: str) -> int:
        encoding = getattr(self.stream, "encoding", None) or "utf-8"
        with self._going_on():
            self.stream.write(text.encode(encoding, "backslashreplace").decode(encoding))
        return len(text)

    def flush(self) -> None:
        with self._going_on():
            self.stream.flush()

    @contextlib.contextmanager
    def _going_on(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if not isinstance(error, BrokenPipeError):
                self.fault = error
            with Path(os.devnull).open("w") as nowhere, contextlib.suppress(OSError):
                os.dup2(nowhere.fileno(), self.stream.fileno())  # what is buffered goes there, too


def steady(stream: TextIO) -> TextIO:
    """The stream as one that is `Steady`."""
    return stream if isinstance(stream, Steady) else cast(TextIO, Steady(stream))


def open_streams() -> None:
    """Makes stdout and stderr steady, and those of the three streams that are closed os.devnull."""
    while (spare := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass  # or a file that is opened later would get a closed stream's number
    os.close(spare)
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open(mode))
    sys.stdout, sys.stderr = steady(sys.stdout), steady(sys.stderr)


def unwritten() -> str:
    """Why some of what was said reached neither file nor terminal, if so."""
    for out in (sys.stdout, sys.stderr):
        out.flush()
    faults = [getattr(out, "fault", None) for out in (sys.stdout, sys.stderr)]
    return next((error.strerror or str(error) for error in faults if error is not None), "")


@contextlib.contextmanager
def unheard() -> Iterator[None]:
    """What is said inside to stderr, warnings too, is dropped; errors go on."""
    with Path(os.devnull).open("w") as nowhere, contextlib.redirect_stderr(nowhere):
        yield


def count(number: float, noun: str) -> str:
    """The number with its noun: 1 picture, 2 pictures, 0.5 minutes."""
    return f"{number:,}".removesuffix(".0") + f" {noun}{'s' * (number != 1)}"


def an(noun: str) -> str:
    """A noun with its article: a picture, an array, a U-Net, an unpaired_sde."""
    vowel = re.match(r"[aeioAEIO]|[uU](?!-|[A-Z]|int|ni[tqv])", noun)
    return f"{'an' if vowel else 'a'} {noun}"


def verb(number: float, many: str) -> str:
    """The form of a verb that goes with so many: 2 differ, 1 differs; 2 have, 1 has."""
    return many if number != 1 else ODD.get(many, f"{many}s")


ODD = {"are": "is", "have": "has", "do": "does", "were": "was"}
"""Verbs of one, by those of many."""


@contextlib.contextmanager
def bar(task: str, total: int) -> Iterator[Callable[[int], None]]:
    """A progress bar on the terminal, if standard error is one: hands out what moves it on."""
    if not sys.stderr.isatty():
        yield lambda n: None
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
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
            return super().render_str(escaped(text), **given)

    given.setdefault("file", steady(sys.stderr if given.get("stderr") else sys.stdout))
    return Plain(markup=False, emoji=False, **given)
