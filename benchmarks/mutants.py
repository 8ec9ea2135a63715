"""Would the tests notice?  Puts plausible mistakes into a copy of the package, one at a time.

    nice python benchmarks/mutants.py --out benchmarks/results/mutants.md
    python benchmarks/mutants.py --only lowpass.py --only solve/sde.py:3

`mutants.toml` lists the mistakes: a text that stands exactly once in a file, what is put in its place,
and the test files that are to fail.  A mistake survives if they all pass; tests that hang have noticed,
and so have tests that cannot even import the package.
"""

from __future__ import annotations

import argparse
import contextlib
import multiprocessing
import os
import platform
import re
import resource
import shutil
import signal
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from multiprocessing.process import BaseProcess
from pathlib import Path
from queue import Queue
from typing import NamedTuple

HERE = Path(__file__).resolve().parent
HEAVY = ["accelerate", "beartype", "hypothesis", "jaxtyping", "matplotlib.pyplot", "PIL.Image", "pytest",
         "safetensors.torch", "scipy.stats", "torch"]  # fmt: skip
"""Imported once, before the processes of all mutants are forked."""

SURVIVED = "**survived**"


class Mutant(NamedTuple):
    """One mistake: of `name` (a file and a number in it) `old` reads `new`, as `tests` should notice."""

    name: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]


def mutants(listed: Path = HERE / "mutants.toml") -> Iterator[Mutant]:
    """All that are listed."""
    for file, entry in tomllib.loads(listed.read_text()).items():
        for number, (old, new, *others) in enumerate(entry["mistakes"], 1):
            tests = (others[0] if others else entry["tests"]).split()
            names = tuple(f"tests/test_{test}.py" for test in tests)
            yield Mutant(f"{file}:{number}", f"sfumato/{file}", old, new, names)


def stale(tree: Path) -> list[str]:
    """Names of the mutants that cannot be made there, are no Python, or have no tests."""
    return [m.name for m in mutants() if not _sound(m, tree)]


def _sound(mutant: Mutant, tree: Path) -> bool:
    file, old, new = tree / mutant.file, mutant.old, mutant.new
    if not file.is_file() or (text := file.read_text()).count(old) != 1:
        return False
    try:
        compile(text.replace(old, new), file.name, "exec", dont_inherit=True)
    except SyntaxError:
        return False
    return old != new and all((tree / test).is_file() for test in mutant.tests)


def run(tree: Path, tests: tuple[str, ...], limit: float) -> str:
    """The test that fails first in the tree, "hangs", or "" if all pass.

    They hang after `limit` seconds of work, or twenty times that of waiting, for the machine may be busy.
    """
    log = tree / "log"
    process = multiprocessing.get_context("forkserver").Process(
        target=_test, args=(tree, tests, int(limit), log)
    )
    process.start()
    process.join(20 * limit)
    if process.exitcode is None:
        _end(process)
    if process.exitcode in (-signal.SIGKILL, -signal.SIGXCPU):
        return "hangs"
    if process.exitcode == 0:
        return ""
    failed = re.search(r"^(?:FAILED|ERROR) (?:tests/)?(\S+)", log.read_text(), re.MULTILINE)
    return failed[1] if failed else f"exit status {process.exitcode}"


def _test(tree: Path, tests: tuple[str, ...], limit: int, log: Path) -> None:
    import pytest

    os.setpgid(0, 0)  # its own group, so that what tests start ends with it
    resource.setrlimit(resource.RLIMIT_CPU, (limit, limit + 1))
    for stream in (1, 2):
        os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND), stream)
    os.ftruncate(1, 0)
    os.chdir(tree)
    sys.path.insert(0, str(tree))
    os.environ["PYTHONPATH"] = str(tree)
    sys.dont_write_bytecode = False  # a file's time tells whether its bytecode is of this mutant
    sys.exit(pytest.main(["-x", "-q", "-rfE", "--tb=no", *tests]))


def _end(process: BaseProcess) -> None:
    assert process.pid is not None
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, 9)
    process.join()


def copy(tree: Path, to: Path) -> Path:
    """What tests need of the tree, to be changed."""
    for name in ("sfumato", "tests", "benchmarks", "docs"):  # some tests read a page
        shutil.copytree(
            tree / name, to / name, ignore=shutil.ignore_patterns("__pycache__", "results")
        )
    shutil.copy2(tree / "pyproject.toml", to)
    return to


@contextlib.contextmanager
def made(mutant: Mutant, tree: Path) -> Iterator[None]:
    """Inside, the mistake stands in the tree."""
    file = tree / mutant.file
    sound, times = file.read_text(), file.stat()
    if sound.count(mutant.old) != 1:
        raise SystemExit(f"{mutant.name}: its old text stands {sound.count(mutant.old)} times")
    file.write_text(sound.replace(mutant.old, mutant.new))
    try:
        yield
    finally:
        file.write_text(sound)
        os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))


def main() -> None:
    """Runs all mutants, or some, and prints which survive."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--only", action="append", default=[], help="FILE or FILE:NUMBER")
    parser.add_argument("--tree", type=Path, default=HERE.parent, help="of package and tests")
    parser.add_argument("--jobs", type=int, default=1, help="mutants at once")
    parser.add_argument("--limit", type=float, default=300, help="seconds of work for one")
    parser.add_argument("--sure", action="store_true", help="see all tests pass unchanged, first")
    parser.add_argument("--out", type=Path, help="write the table there")
    args = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    multiprocessing.set_forkserver_preload(HEAVY)
    chosen = [
        m for m in mutants() if not args.only or {m.name, m.name.partition(":")[0]} & {*args.only}
    ]
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(args.jobs) as pool:
        trees: Queue[Path] = Queue()
        for number in range(args.jobs):
            trees.put(copy(args.tree, Path(folder) / str(number)))

        def judge(mutant: Mutant) -> str:
            tree, begun = trees.get(), time.monotonic()
            try:
                with made(mutant, tree):
                    noticed = run(tree, mutant.tests, args.limit)
            finally:
                trees.put(tree)
            line = f"| {mutant.name} | `{_short(mutant)}` | {noticed or SURVIVED} |"
            print(f"{line} {time.monotonic() - begun:.0f} s", flush=True)
            return line

        if args.sure:
            first, tests = trees.queue[0], tuple({test for m in chosen for test in m.tests})
            if broken := run(first, tests, 10 * args.limit):
                raise SystemExit(f"{broken} fails without a mutant")
        rows = dict(zip((m.name for m in chosen), pool.map(judge, chosen), strict=True))
    print(share(rows))
    if args.out:
        write(args.out, rows)


def share(rows: dict[str, str]) -> str:
    """How many were noticed."""
    noticed = sum(SURVIVED not in row for row in rows.values())
    return f"{noticed} of {len(rows)} mistakes are noticed ({noticed / len(rows):.0%})."


def write(file: Path, rows: dict[str, str]) -> None:
    """The table; rows of an earlier one stay where theirs were not run again."""
    written = file.read_text().splitlines() if file.exists() else []
    known = {m.name: m for m in mutants()}
    rows = {row.split()[1]: row for row in written if row.split()[1:2] and row[:2] == "| "} | rows
    rows = {name: rows[name] for name in known if name in rows}
    command = " ".join(["python", "benchmarks/mutants.py", *sys.argv[1:]])
    table = "\n".join(["| mistake | what | noticed by |", "|---|---|---|", *rows.values()])
    file.write_text(
        f"# Would the tests notice?\n\n{share(rows)}\n\n{table}\n\n"
        f"`{command}`\n{date.today()}, {platform.machine()}, one thread a mistake\n"
    )


def _short(mutant: Mutant) -> str:
    def one_line(text: str) -> str:
        return " ".join(text.replace("|", "\\|").split())

    return f"{one_line(mutant.old)}` → `{one_line(mutant.new)}"


if __name__ == "__main__":
    main()
