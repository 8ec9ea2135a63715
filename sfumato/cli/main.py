"""The command line.  Flags are the signatures of the functions and methods they reach.

Nothing heavy is imported before it is needed: `sfumato --help` answers without torch.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import sys
import threading
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from inspect import Parameter, cleandoc, signature
from pathlib import Path
from typing import Annotated, Any, NoReturn

import cyclopts
from cyclopts import App

from sfumato.cli import evaluate as cli_evaluate
from sfumato.cli import explore as cli_explore
from sfumato.cli import studio as cli_studio
from sfumato.cli import train as cli_train
from sfumato.cli.flags import at_home, command, convert, flag, flags, method_flags, value_of
from sfumato.cli.models import EXPORT, PUSH, export, import_, info, push
from sfumato.core.errors import RENAMED, UserError, choose, enough_memory
from sfumato.core.ranges import Count
from sfumato.core.terminal import count, escaped, one_line, open_streams, say, unwritten
from sfumato.core.versions import version
from sfumato.methods.outline import outlines

HELP = """Translate pictures from one domain to another with diffusion models.

Begin with `sfumato demo`. If you have two folders of pictures:

  sfumato doctor photos/cats photos/dogs
  sfumato train cyclegan photos/cats photos/dogs --out runs/pets --minutes 30
  sfumato translate photos/cats --out results --model runs/pets
"""


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Runs a command and exits: 0, 2 after a user's error (one line), 128 + number after a signal.

    1 says that some pictures, which are named, or some of what was said could not be written, and all
    else was; or it is a bug, which shows its traceback.  A reader that goes away, as `head`, stops nothing.
    """
    words = [at_home(word) for word in (sys.argv[1:] if argv is None else argv)]
    open_streams()
    warnings.formatwarning = lambda message, *_, **__: f"sfumato: {one_line(str(message))}\n"
    sys.excepthook = lambda *bug: say(*traceback.format_exception(*bug), file=sys.stderr, lines=True)
    code = _run(words)
    if why := unwritten():
        say(f"sfumato: all is done, but not all that it said is written: {why}", file=sys.stderr)
    sys.exit(code or int(bool(why)))


def _run(words: list[str]) -> int:
    """Runs a command; its exit code."""
    try:
        with _ctrl_c():
            make_app(words)(words)
    except cyclopts.CycloptsError as error:
        return _fail(_wrong(error, words) + _typeset(words))
    except UserError as error:
        return _fail(str(error) + _typeset(words))
    except OSError as error:
        if error.filename is None:  # the system refuses a file that it names: a full disk, no permission
            raise
        return _fail(f"{error.strerror}: {escaped(error.filename)}")
    except KeyboardInterrupt as error:
        say("", file=sys.stderr)  # the terminal shows ^C
        say(str(error) or "stopped; the same command goes on", file=sys.stderr)
        return 128 + getattr(error, "number", signal.SIGINT)
    except SystemExit as end:
        return int(end.code or 0)
    return 0


@contextlib.contextmanager
def _ctrl_c() -> Iterator[None]:
    """Ctrl-C stays a KeyboardInterrupt where an import that it broke off raises something else."""
    before, came = signal.getsignal(signal.SIGINT), list[int]()

    def handler(number: int, _: Any) -> None:
        came.append(number)
        raise KeyboardInterrupt

    own = before is signal.default_int_handler and threading.current_thread() is threading.main_thread()
    if own:
        signal.signal(signal.SIGINT, handler)
    try:
        yield
    except Exception:
        if came:
            raise KeyboardInterrupt from None
        raise
    finally:
        if own:
            signal.signal(signal.SIGINT, before)


def _typeset(words: list[str]) -> str:
    """What to say of words that begin with a quote or a dash of a typeset page."""
    odd = next((w[0] for w in words if w[:1] and w[0] in "“”„‘’–—−" and not os.path.exists(w)), "")
    return f" ({odd} is of a typeset page: type {'-' if odd in '–—−' else chr(39)} instead)" if odd else ""


def _fail(text: str) -> int:
    say("sfumato:", one_line(text), file=sys.stderr)
    return 2


def _wrong(error: cyclopts.CycloptsError, words: list[str]) -> str:
    """What is wrong with the words, and what they could be."""
    if isinstance(error, cyclopts.UnknownCommandError):
        known = [name for name in error.app or () if not name.startswith("-")]
        try:
            choose("command", (error.unused_tokens or [""])[0], known)
        except UserError as unknown:
            return str(unknown)
    too_much = cyclopts.UnknownOptionError, cyclopts.UnusedCliTokensError
    if words[:1] == ["translate"] and _repeats(words) and isinstance(error, too_much):
        return (
            f"a repetition takes only --out and --device besides, not all of {shlex.join(words[1:])}: to "
            f"translate anew, name pictures and options in place of --repeat-from"
        )
    typed = [word.partition("=")[0] for word in words]
    now = {word: RENAMED.get(word[2:].replace("-", "_")) for word in typed if word.startswith("--")}
    if isinstance(error, cyclopts.UnknownOptionError):
        for word in filter(now.get, now):
            return f"{word} is called --{str(now[word]).replace('_', '-')} now"
    text, groups = str(error), ("train", "data", "explore")
    if isinstance(error, cyclopts.UnknownOptionError) and words[0] in ("translate", "explore"):
        own, named = (method_flags(words, ""), value_of(words, "--method") or value_of(words, "--model"))
        takes = ", ".join(f"--{p.name.replace('_', '-')}" for p in own[0]) or "none"
        text += f" The options of {named} itself: {takes}." if named else ""
    see = f" See `sfumato {' '.join(words[: 1 + (words[0] in groups)])} --help`."
    return text + ("" if "Did you mean" in text else see)


def make_app(words: Sequence[str]) -> App:
    """The commands, with the flags of the method or data set that `words` name."""
    words = [*words, "", ""]
    app = App(
        name="sfumato", help=HELP, version=version, help_format="plaintext",
        print_error=False, exit_on_error=False,
        result_action="return_value", suppress_keyboard_interrupt=False,
        default_parameter=cyclopts.Parameter(converter=convert),
    )  # fmt: skip
    own = flags(demo) if words[0] == "demo" else []
    app.command(command(demo, cleandoc(demo.__doc__ or ""), own), name="demo")
    app.command(_data(words[0] == "data"), name="data")
    app.command(cli_train.train(words if words[0] == "train" else ["", ""]), name="train")
    app.command(_translate(words if words[0] == "translate" else []), name="translate")
    chosen = words[1] if words[0] == "explore" else ""
    app.command(cli_explore.explore(chosen, words), name="explore")
    made = cli_studio.studio() if words[0] == "studio" else command(lambda: None, cli_studio.STUDIO, [])
    app.command(made, name="studio")
    for name, (make, text) in cli_evaluate.COMMANDS.items():
        made = make() if words[0] == name else command(lambda: None, text, [])
        app.command(made, name=name)
    for function in (info, methods, cite):
        app.command(function)
    app.command(import_, name="import")
    made = export() if words[0] == "export" else command(lambda: None, EXPORT, [])
    app.command(made, name="export")
    app.command(push() if words[0] == "push" else command(lambda: None, PUSH, []), name="push")
    return app


# ---- the commands -------------------------------------------------------------------------------


def demo(out: Path = Path("out/demo"), *, count: Count = 10, seed: int = 0) -> None:
    """Translate held-out pictures with every method and write one page that shows them.

    Args:
        out: folder for the page.
        count: pictures in a row.
        seed: seed of the noise.
    """
    from sfumato.cli.demo import main as run

    run(out, count=count, seed=seed)


def _data(chosen: bool) -> App:
    """`sfumato data NAME OUT`: a command for each writer."""
    app = App(help="Write a small data set as folders of pictures; nothing is downloaded.")
    if chosen:
        from sfumato.data import WRITERS

        for name, writer in dict[str, Any](WRITERS).items():
            own = flags(writer, keyword=list(signature(writer).parameters)[1:])
            app.command(command(_said(writer), cleandoc(writer.__doc__), own), name=name)
    return app


def _said(writer: Callable[..., None]) -> Callable[..., None]:
    def run(out: str, *args: Any, **given: Any) -> None:
        with enough_memory("choose a smaller --size, or fewer copies"):
            writer(out, *args, **given)
        train, test = (sum(1 for _ in Path(out, p).rglob("*.png")) for p in ("train", "test"))
        say(f"{out} holds {count(train, 'picture')} to train on and {test} to test on")

    return run


def _translate(words: Sequence[str]) -> Callable[..., None]:
    """`sfumato translate`: flags of the function, and of the method that the words name."""
    text = "Translate pictures and folders of pictures."
    if not words:
        return command(lambda: None, text, [])
    from sfumato.data.listing import said
    from sfumato.translation.pictures import repeat, translate
    from sfumato.translation.run_file import Summary
    from sfumato.translation.watch_folder import watch_folder as watching

    def report(summary: Summary, out: str, hint: str = "", ends: bool = True) -> None:
        if summary.lost:
            say(said("", summary.lost), file=sys.stderr)
        for name, why in summary.skipped.items():
            say(f"skipped: {why if escaped(name) in why else f'{name}: {why}'}", file=sys.stderr)
        n = summary.written
        cost = f" ({summary.nfe:g} NFE, {summary.seconds:.2g} s each)" if n else ""
        cost += f", {summary.by_windows} of them by windows" * (summary.by_windows > 0)
        kept = f", {summary.kept} already there" if summary.kept else ""
        skipped = f", {len(summary.skipped)} skipped" if summary.skipped else ""
        say(f"{count(n, 'picture')} written to {out}{cost}{kept}{skipped}")
        for line in summary.resized():
            say(line + hint)
        if summary.skipped and ends:
            sys.exit(1)

    def again(*, repeat_from: str, out: str, **given: Any) -> None:
        report(repeat(repeat_from, out, **given), out)

    what = "the run.json of a run to repeat exactly; it takes only --out and --device besides."
    recorded = flag("repeat_from", str, Parameter.KEYWORD_ONLY, what)
    if _repeats(words):
        return command(again, text, [recorded, *flags(repeat, skip=("run",), keyword=("out",))])

    if (scale := value_of(words, "--scale")) not in (None, "native"):
        raise UserError(f"--scale {scale}: expected native; the weight of guidance is --guidance-scale now")
    mask = (
        "a picture of black and white, or a folder with one for each picture, of its name: white keeps the "
        "source; gray counts as the nearer of both."
    )
    own, more = method_flags(words, "translate", {"mask": (str | None, mask)})
    text += more
    options = {p.name for p in own}

    def run(*paths: str, out: str, watch_folder: bool = False, **given: Any) -> None:
        chosen = {k: given.pop(k) for k in list(given) if k in options}
        as_trained = not any(given.get(k) for k in ("size", "resize", "scale", "resize_back"))
        hint = ", as in training; --scale native works at full size by windows" * as_trained
        if watch_folder:
            say(f"watching {', '.join(paths)} until it is stopped (Ctrl-C)", file=sys.stderr)
            for summary in watching(paths, out, options=chosen, **given):
                report(summary, out, hint, ends=False)
        else:
            report(translate(paths, out, options=chosen, **given), out, hint)

    common = flags(translate, skip=("options", "expect", "paths", "loaded", "one_of_each"), keyword=("out",))
    paths = flag(
        "paths",
        str,
        Parameter.VAR_POSITIONAL,
        "pictures, or folders of pictures, whose trees and names are kept.",
    )
    grows = "go on with pictures that come into the folders, or change, until it is stopped."
    goes_on = flag("watch_folder", bool, Parameter.KEYWORD_ONLY, grows, False)
    shown = recorded.replace(annotation=Annotated[str | None, recorded.annotation.__metadata__[0]])
    return command(run, text, [paths, *common, goes_on, *own, shown.replace(default=None)])


def _repeats(words: Sequence[str]) -> bool:
    return any(w.split("=")[0] == "--repeat-from" for w in words)


def methods() -> None:
    """List the methods: what each is, what it is trained on, and what it translates with."""
    for name, outline in outlines().items():
        say(name)
        say(f"  {outline.summary}")
        if outline.trains_on:
            say(f"  trained on: {cli_train.DATA[outline.trains_on]}")
        if outline.translates:
            what = {"classifier": "FOLDER"}
            needs = " ".join(f"--{n} {what.get(n, 'FOLDER:DOMAIN')}" for n in outline.needs)
            needs = needs or "--model FOLDER"
            say(f"  translates with: {needs}")


def cite(method: str) -> None:
    """Print a method's paper as BibTeX.

    Args:
        method: a method's name, see `sfumato methods`.
    """
    from sfumato.methods.registry import cite as bibtex

    say(bibtex(method), lines=True)
