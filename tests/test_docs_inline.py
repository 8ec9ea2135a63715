"""Commands that texts name in passing, `sfumato ...`: in pages, docstrings, help texts and messages.

Such a command may be a part of one: what it lacks is filled in, and so are placeholders (words in capitals,
dots, and what a message computes). Then it parses, and its values lie in their ranges. By rule none is left
out but those that offer a choice, `a | b`, of which each is taken.
"""

import ast
import functools
import re
import shlex
import typing

import cyclopts
import pytest
from test_docs import PAGES, ROOT, check_ranges

from sfumato.cli import main as cli
from sfumato.core.errors import UserError
from sfumato.methods import outline

INLINE = re.compile(r"`sfumato\s([^`]+)`")
COMPUTED = "COMPUTED"
"""What stands for a value that a message computes."""
FILLED = {"METHOD": "diffusion", "NAME": "digits", "N": "1", "ENTRY": "sdedit target=A:b", "CHAIN": "blur",
          "mymethod": "diffusion"}  # fmt: skip
"""Placeholders that must be something known; any other may be any word. The last is what a page writes."""
WORDS = {"train": "diffusion", "data": "digits", "sweep": "sdedit", "cite": "ddib"}
"""Commands whose flags are those of what they name first."""


def texts(file):
    """The strings of a file, parts that stand beside each other as one, and comments as they are."""
    if file.suffix == ".md":
        return [re.sub(r"^```.*?^```", "", file.read_text(), flags=re.M | re.S)]
    found, inside = [], set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.JoinedStr):
            inside |= set(map(id, ast.walk(node)))
            found.append("".join(v.value if isinstance(v, ast.Constant) else COMPUTED for v in node.values))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in inside:
            found.append(node.value)
    return found


def named_in(file):
    """The commands that a file names in passing, a list of words each."""
    for text in texts(file):
        for one in INLINE.findall(text):
            ways = one.split("|") if "|" in one else [one]
            first = ways[0].split()
            for k, way in enumerate(ways):  # `explore encode | decode`
                yield shlex.split(way) if k == 0 else [*first[:-1], *shlex.split(way)]


def filled(words):
    """The words with something in the place of what is left open."""
    words = [w.strip("[]").removesuffix("...") for w in words if w != "--help"]
    words = [w for w in words if w]
    if words[0] in (COMPUTED, "COMMAND"):
        words[0] = "translate"
    if words[:2] == ["explore", "COMMAND"]:
        words[1] = "report"
    if words[0] in WORDS and (len(words) == 1 or words[1][:1] == "-") and "--resume" not in words:
        words[1:1] = [WORDS[words[0]]]
    if words[0] in WORDS and words[1:] and words[1] in (COMPUTED, "METHOD", "NAME"):
        words[1] = WORDS[words[0]]
    if "--model" in words[:-1]:
        at = words.index("--model") + 1
        words[at] = "sfumato/digits:3" if words[0] == "explore" else "sfumato/earth_pairs"
    if "--method" in words[:-1] and words[words.index("--method") + 1] in (COMPUTED, "METHOD"):
        words[words.index("--method") + 1] = "ddib"
    if words[:1] == ["train"] and "--resume" in words and words[1][0] == "-":  # flags are those of the run
        words[1:1] = ["diffusion"]
        words.remove("--resume")
    return [FILLED.get(w, w) for w in words]


def parsed(words):
    """The words as the command line takes them, with what it lacks.

    Raises:
        cyclopts.CycloptsError, UserError: it takes no such words, or their values lie out of range.
    """
    if words == ["--help"]:
        return words
    words = filled(words)
    app = cli.make_app(words)
    for _ in range(9):
        if len(words) == 1 and any(not name.startswith("-") for name in app[words[0]]):
            return words  # the name of a group of commands
        try:
            _, bound, _ = app.parse_args(words, print_error=False, exit_on_error=False)
        except cyclopts.MissingArgumentError as error:
            words = completed(words, error.argument)
            continue
        check_ranges([*words, ""], bound)
        return words
    raise AssertionError(words)


def completed(words, argument):
    """The words with a value for this argument."""
    hint, name = argument.hint, argument.name
    kinds = typing.get_args(hint) or (hint,)
    value = (
        "blur"
        if "CHAIN" in name.upper()
        else next((str(k) for k in kinds if isinstance(k, str)), "1" if {int, float} & {*kinds} else "x")
    )
    if name in words:
        at = words.index(name) + 1
        return [*words[:at], value, *words[at:]]
    if name.startswith("--"):
        return [*words, name, value]
    return [*words[:1], value, *words[1:]]


FILES = [*PAGES, *sorted((ROOT / "sfumato").rglob("*.py"))]


def test_commands_that_are_named_in_passing_can_be_typed(monkeypatch):
    monkeypatch.setattr(outline, "_parsed", functools.cache(outline._parsed))  # once for all commands
    wrong, where = [], {tuple(words): file for file in FILES for words in named_in(file)}
    for words, file in where.items():
        try:
            parsed(list(words))
        except (cyclopts.CycloptsError, UserError, AssertionError, ValueError) as error:
            wrong.append(f"{file.relative_to(ROOT)}: {' '.join(words)}: {error}")
    assert not wrong, "\n".join(wrong)
    assert len(where) > 70


@pytest.mark.parametrize(
    "text",
    ["trian diffusion", "train --nothing 1", "train diffusion a=A --lr -1", "translate --resize pieces",
     "explore nothing", "data numbers"],
)  # fmt: skip
def test_a_command_that_cannot_be_typed_is_seen(text):
    with pytest.raises((cyclopts.CycloptsError, UserError, AssertionError)):
        parsed(text.split())


def test_none_is_missed(tmp_path):
    text = """x = ("type `sfumato train "\n     f"cut {x} B` now")\ny = 'a `sfumato\\n  info RUN`'\n"""
    (tmp_path / "a.py").write_text(text)
    assert sorted(named_in(tmp_path / "a.py")) == [["info", "RUN"], ["train", "cut", COMPUTED, "B"]]
    (tmp_path / "a.md").write_text(
        "`sfumato info A`\n```sh\nx `sfumato no`\n```\nor `sfumato explore encode | decode`\n"
    )
    assert list(named_in(tmp_path / "a.md")) == [["info", "A"], ["explore", "encode"], ["explore", "decode"]]
