"""What a training costs on this machine: a few real steps, measured in a process of their own.

The first steps are small: 2 pictures, then 4, 8, ... up to the batch.  Memory m grows with the pictures
b in a straight line, so that two steps say what comes next,

    m(b) = m(b_1) + (b - b_1) (m(b_1) - m(b_0)) / (b_1 - b_0),

and a step that would need more than `SHARE` of the free memory, or more than `SECONDS`, is not taken:
the line (and seconds in proportion to pictures) gives its cost.  Who started the process watches its
memory all the while, and ends it beyond the same limit.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from sfumato.core.errors import out_of_memory
from sfumato.core.terminal import say

SHARE = 0.5
"""Of the free memory: what a measurement may take. The rest belongs to what else runs here."""
SECONDS = 15.0
"""Steps are taken for about this long."""
PATIENCE = 120.0
"""Seconds after which a measurement ends whatever it has; loading torch on a busy machine takes 30."""
STEPS = 5
"""Full steps that are counted, at most; the first is not."""
BUSY = 0.8
"""Share of its threads' time from which others keep a training waiting: alone it gets 0.99."""


def new(method: str, side: int, domains: int, options: Mapping[str, Any]) -> Any:
    """A method as it begins: its networks are made for pictures of so many pixels.

    Raises:
        UserError: it cannot be made for them.
    """
    from sfumato.methods.registry import find
    from sfumato.module import fields

    cls: Any = find(method)
    known = {"domains": tuple(map(str, range(domains))), "side": side, **options}
    return cls(**{f.name: known[f.name] for f in fields(cls) if f.name in known})


def training_cost(
    method: str, size: int, domains: int, options: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Estimated time and memory of `sfumato train METHOD` with the default network and options.

    The steps are `fit`'s own, on random images: their content changes no time.

    Args:
        method: a trainable method's name.
        size: side of the images in pixels.
        domains: how many domains, for models of domains.
        options: other than the defaults: the method's own, and batch.

    Returns:
        method, size, batch, steps (the default), device, measured (pictures of the largest step that was
        taken), seconds_per_step (median), hours (of all steps), cpu_share (of its threads' time that it
        got), hours_alone (if it had got all), memory_gb (peak of the process) and gpu_memory_gb; without
        the times if it would take more than `limit_gb`; with only `error` besides method, size if it failed.
    """
    limit = SHARE * free_memory() / 1e9  # GB that the measurement may take
    words = json.dumps([method, size, domains, dict(options or {}), limit])
    code = "import sys; from sfumato.checkup.cost import _steps; _steps(sys.argv[1])"
    # threads that wait for one another by spinning would count as work, and take four times as long
    # on a machine that is busy
    environment = os.environ | {"OMP_WAIT_POLICY": "PASSIVE"}
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        child = subprocess.Popen([sys.executable, "-c", code, words], stdout=out, stderr=err, env=environment)
        ended = _watch(child, limit)
        out.seek(0)
        err.seek(0)
        lines = [json.loads(line) for line in out.read().splitlines() if line[:1] == "{"]
        why = (err.read().strip().splitlines() or ["it stopped without a word"])[-1]
    cost = {"method": method, "size": size}
    if len(lines) > 3 and (ended or child.returncode == 0):
        return cost | _estimate(lines[0], lines[2:], limit)  # lines[1] made the optimiser's buffers
    if ended == "memory" or out_of_memory(why) or child.returncode < 0:
        why = f"it takes more than {limit:.1f} GB: use a smaller --size or --batch"
    return cost | {"error": why if ended != "time" else "its first steps take too long"}


def free_memory() -> float:
    """Bytes that a program may take here: of the machine, or of the container that it runs in."""
    import psutil

    free = float(psutil.virtual_memory().available)
    group = Path("/sys/fs/cgroup")
    try:
        cached = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
        used = int((group / "memory.current").read_text()) - int(cached["inactive_file"])
        return min(free, int((group / "memory.max").read_text()) - used)
    except (OSError, ValueError, KeyError):  # no container, or one without a limit
        return free


def _watch(child: subprocess.Popen[Any], limit: float) -> str:
    """Waits for the process, and ends it beyond the limit or `PATIENCE`: says which, or nothing."""
    import psutil

    began = time.monotonic()
    try:
        seen = psutil.Process(child.pid)
        while child.poll() is None:
            if seen.memory_info().rss > limit * 1e9:
                return "memory"
            if time.monotonic() - began > PATIENCE:
                return "time"
            time.sleep(0.02)
    except psutil.NoSuchProcess:  # it has just ended
        pass
    finally:
        if child.poll() is None:
            child.kill()
        child.wait()
    return ""


def _estimate(about: Mapping[str, Any], steps: Sequence[Mapping[str, Any]], limit: float) -> dict[str, Any]:
    """The cost of a training from its first steps."""
    batch, last = about["batch"], steps[-1]
    memory = _line(steps, "memory_gb", batch)
    out = dict(about) | {
        "measured": last["batch"], "memory_gb": memory, "limit_gb": limit,
        "gpu_memory_gb": _line(steps, "gpu_memory_gb", batch),
    }  # fmt: skip
    if last["batch"] < batch and memory is not None and memory > limit:
        return out
    full = [one for one in steps if one["batch"] == batch][1:] or [last]
    each, cpu = (
        statistics.median(one[k] for one in full) * batch / full[0]["batch"]
        for k in ("seconds", "cpu_seconds")
    )
    share = min(1.0, cpu / each / about["threads"])
    hours = each * about["steps"] / 3600
    return out | {
        "seconds_per_step": each, "hours": hours, "cpu_share": share, "hours_alone": hours * share,
    }  # fmt: skip


def _line(steps: Sequence[Mapping[str, Any]], key: str, batch: int) -> float | None:
    """The value at `batch` pictures, on the line through the two largest steps that were taken."""
    seen = {one["batch"]: one[key] for one in steps}
    if None in seen.values() or batch in seen or len(seen) < 2:
        return steps[-1][key] if steps else None
    (b0, m0), (b1, m1) = list(seen.items())[-2:]
    return float(m1 + (batch - b1) * (m1 - m0) / (b1 - b0))


def _steps(words: str) -> None:
    """Runs in the other process: one line about the training, then one for each step."""
    import torch
    from accelerate import Accelerator

    from sfumato.methods.registry import find, info
    from sfumato.training.fit import State, fit
    from sfumato.training.options import defaults

    method, side, count, options, limit = json.loads(words)
    cls: Any = find(method)
    kind = info(cls).trains_on
    default = defaults(cls)
    batch, own = int(options.get("batch", default["batch"])), options.get("channels", 3)
    channels = own, options.get("to_channels", own)
    accelerator = Accelerator(cpu=not torch.cuda.is_available())
    device = accelerator.device
    gpu = device.type == "cuda"
    threads = torch.get_num_threads()
    part = new(method, side, count, options)
    say(json.dumps({
        "batch": batch, "steps": default["steps"], "threads": 1 if gpu else threads,
        "device": torch.cuda.get_device_name() if gpu else f"cpu, {threads} threads",
    }))  # fmt: skip
    sizes = [2] if batch > 2 else []
    while sizes and sizes[-1] * 2 < batch:
        sizes.append(2 * sizes[-1])
    sizes = [*sizes[:1], *sizes, *[batch] * (STEPS + 1)]  # the first one makes buffers

    def batches() -> Iterator[tuple[Any, Any]]:
        for b in sizes:
            x, y = (torch.rand(b, n, side, side, device=device) * 2 - 1 for n in channels)
            yield x, torch.arange(b, device=device) % count if kind == "domains" else y

    updates = fit(
        State(part.to(device), default["optimiser"]), batches(), steps=len(sizes),
        accelerator=accelerator,
    )  # fmt: skip
    began, seen = time.perf_counter(), list[dict[str, Any]]()
    for b, following in zip(sizes, [*sizes[1:], batch], strict=True):
        last, cpu = time.perf_counter(), time.process_time()
        next(updates)
        if gpu:
            torch.cuda.synchronize()
        seconds = time.perf_counter() - last
        seen.append({
            "batch": b, "seconds": seconds, "memory_gb": _peak(),
            "cpu_seconds": seconds if gpu else time.process_time() - cpu,
            "gpu_memory_gb": torch.cuda.max_memory_allocated() / 1e9 if gpu else None,
        })  # fmt: skip
        say(json.dumps(seen[-1]))
        if len(seen) < 3:
            continue
        needs = [(_line(seen[1:], "memory_gb", following), limit)]
        if gpu:
            free = (torch.cuda.mem_get_info()[0] + torch.cuda.memory_reserved()) / 1e9
            needs.append((_line(seen[1:], "gpu_memory_gb", following), free))
        elapsed = time.perf_counter() - began
        if elapsed + seconds * following / b > SECONDS or any(n and n > most for n, most in needs):
            break


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
