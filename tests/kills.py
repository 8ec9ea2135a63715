"""Processes that are killed in the middle of their work, at moments that a seed decides."""

import itertools
import multiprocessing
import os
import signal
import threading
from pathlib import Path


def moments(dice, n, files):
    """`n` moments for `die`, spread over a run that puts so many `files` in their places.

    Half of them are just before a file is there, half a moment later, whatever is being done then.
    """
    return [
        (dice.randint(1, files), dice.choice([0.0, dice.uniform(0.001, 0.05)])) for _ in range(n)
    ]


def die(at, after, by=signal.SIGKILL):
    """A signal for this process, `after` seconds after it begins to put its at-th file (from 1) in place."""
    replace, begun = os.replace, itertools.count(1)

    def kill():
        os.kill(os.getpid(), by)

    def counted(*args, **kwargs):
        if next(begun) == at:
            threading.Timer(after, kill).start() if after else kill()
        return replace(*args, **kwargs)

    os.replace = counted


def started(function, *args):
    """A process that calls the function: a server forks it that has imported what takes seconds."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["imported"])
    process = context.Process(target=function, args=args)
    before, here = os.environ.get("PYTHONPATH"), Path(__file__).parent
    os.environ["PYTHONPATH"] = f"{here}{os.pathsep}{here.parent}"  # the server begins at the first start
    try:
        process.start()
    finally:
        os.environ.pop("PYTHONPATH")
        os.environ |= {} if before is None else {"PYTHONPATH": before}
    return process


def ended(function, *args):
    """The exit code of a process that called the function."""
    process = started(function, *args)
    process.join()
    return process.exitcode


def saying(where, function, *args):
    """Calls the function; all that it says goes into a file."""
    with open(where, "wb") as file:
        for stream in (1, 2):
            os.dup2(file.fileno(), stream)
    function(*args)


def program(code, environment):
    """Runs Python with these variables of the environment."""
    os.environ |= environment
    exec(code, {})
