"""Processes that are killed in the middle of their work, at moments that a seed decides."""

import itertools
import os
import signal
import threading

# what a server imports once for all that it forks: modules of sfumato, and what torch imports late
TRAINING = ["sfumato.training.train", "accelerate", "torch._dynamo", "test_train"]


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
