"""What a training costs on this machine: a few real steps, measured in a process of their own."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from inspect import signature
from pathlib import Path
from typing import Any

from sfumato.terminal import say

SECONDS = 5.0
"""Steps are measured for about this long, after one that is not counted."""
STEPS = (2, 6)
"""But at least and at most this many."""
BUSY = 0.8
"""Share of its threads' time from which others keep a training waiting: alone it gets 0.99, beside
two busy programs on two cores 0.5, and takes four times as long."""


def training_cost(method: str, size: int, domains: int) -> dict[str, Any]:
    """Estimated time and memory of `sfumato train METHOD` with the default network and options.

    The steps are `fit`'s own, on random images: their content changes no time. A process of its own
    makes the peak memory that of a training, and survives one that is too large.

    Args:
        method: a trainable method's name.
        size: side of the images in pixels.
        domains: how many domains, for models of domains.

    Returns:
        method, size, batch, steps (the default), device, seconds_per_step (median), hours (of all
        steps), cpu_share (of its threads' time that it got), memory_gb (peak of the process) and
        gpu_memory_gb; with only `error` besides method and size if it failed.
    """
    code = "import sys; from sfumato.doctor.cost import _steps; _steps(*sys.argv[1:])"
    words = [sys.executable, "-c", code, method, str(size), str(domains)]
    done = subprocess.run(words, capture_output=True, text=True)
    if done.returncode == 0:
        return dict(json.loads(done.stdout.splitlines()[-1]))
    killed = done.returncode < 0 or "allocate memory" in done.stderr or "OutOfMem" in done.stderr
    why = (done.stderr.strip().splitlines() or ["it stopped without a word"])[-1]
    why = "too much for the memory: use a smaller --size" if killed else why
    return {"method": method, "size": size, "error": why}


def _steps(method: str, size: str, domains: str) -> None:
    """Runs in the other process, and prints what it measured."""
    import torch
    from accelerate import Accelerator

    from sfumato.fit import State, fit
    from sfumato.method import find
    from sfumato.part import fields
    from sfumato.train import defaults, train

    cls: Any = find(method)
    default = {p.name: p.default for p in signature(train).parameters.values()} | defaults(cls)
    batch, side, count = default["batch"], int(size), int(domains)
    accelerator = Accelerator(cpu=not torch.cuda.is_available())
    device = accelerator.device
    known = {"domains": tuple(map(str, range(count))), "side": side}
    part = cls(**{f.name: known[f.name] for f in fields(cls) if f.name in known})
    x = torch.rand(batch, 3, side, side, device=device) * 2 - 1
    y = torch.arange(batch, device=device) % count if cls.data == "domains" else x.flip(0)
    state = State(part.to(device), default["optimiser"])
    updates = fit(state, iter(lambda: (x, y), None), steps=STEPS[1] + 1, accelerator=accelerator)
    seconds: list[float] = []
    next(updates)  # makes the optimiser's buffers
    began = last = time.perf_counter()
    cpu = time.process_time()
    for _ in updates:
        if device.type == "cuda":
            torch.cuda.synchronize()
        now = time.perf_counter()
        seconds, last = [*seconds, now - last], now
        if now - began > SECONDS and len(seconds) >= STEPS[0]:
            break
    share = (time.process_time() - cpu) / (last - began) / torch.get_num_threads()
    each = statistics.median(seconds)
    gpu = torch.cuda.max_memory_allocated() / 1e9 if device.type == "cuda" else None
    say(json.dumps({
        "method": method, "size": side, "batch": batch, "steps": default["steps"],
        "device": torch.cuda.get_device_name() if gpu else f"cpu, {torch.get_num_threads()} threads",
        "seconds_per_step": each, "hours": each * default["steps"] / 3600,
        "cpu_share": share if gpu is None else 1.0, "memory_gb": _peak(), "gpu_memory_gb": gpu,
    }))  # fmt: skip


def _peak() -> float | None:
    """Highest resident memory of this process in GB; None where the system does not say."""
    status = Path("/proc/self/status")
    if status.exists():  # ru_maxrss would include the parent's, from before the exec
        line = next(x for x in status.read_text().splitlines() if x.startswith("VmHWM"))
        return int(line.split()[1]) * 1024 / 1e9
    try:
        import resource
    except ImportError:  # Windows
        return None
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e9  # bytes on macOS
