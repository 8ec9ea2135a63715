"""How long does a visitor of the studio wait for a picture, how often is it renewed, and what do fifty at
once cost?

Everything is measured by HTTP, as the page asks: from the press of the button to the last byte of an answer.
The server is a process of its own.
"""

import argparse
import signal
import statistics
import subprocess
import sys
import threading
import time
from itertools import pairwise
from pathlib import Path

import measure

sys.path.append(str(Path(__file__).parents[1] / "tests"))
from visitor import Visitor, gallery

EXAMPLE = next(Path(__file__).parents[1].glob("sfumato/studio/examples/digits/2/*.png"))
OPEN = "from sfumato.studio import studio; studio(port={port})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=7950)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--visitors", type=int, default=50)
    args = parser.parse_args()
    command = [sys.executable, "-c", OPEN.format(port=args.port)]
    began = time.perf_counter()
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert "is open" in (server.stdout.readline() if server.stdout else "")
        opening = time.perf_counter() - began
        url = f"http://127.0.0.1:{args.port}"
        first = [wait(url, server.pid) for _ in range(args.repeats)]
        shown = previews(url)
        crowd = many(url, server.pid, args.visitors)
    finally:
        server.send_signal(signal.SIGINT)  # as Ctrl-C: it removes what it made
        server.wait()
    report(opening, first, shown, crowd)


def cpu(pid):
    """Seconds of processor time that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / 100


def memory(pid, what="VmRSS"):
    """Megabytes of a process."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(what)).split()[1]) / 1024


def asked(visitor, **options):
    """What the page sends: one example and some options."""
    path = visitor.upload(EXAMPLE.name, EXAMPLE.read_bytes())
    return {"pictures to translate": gallery(path), **options}


def wait(url, pid):
    """(seconds to the first picture, to the result, processor seconds) of one translation by default."""
    visitor = Visitor(url)
    sent, used, began = asked(visitor), cpu(pid), time.perf_counter()
    visitor.press("translate", sent)
    seen = [(time.perf_counter() - began, a) for a in visitor.answers()]
    first = next(t for t, a in seen if "file=" in str(a.get("output", "")))
    return first, seen[-1][0], cpu(pid) - used


def previews(url):
    """Seconds between two previews, while 16 pictures are translated in 60 steps."""
    visitor = Visitor(url)
    sent = asked(visitor, steps=60)
    sent["pictures to translate"] *= 16
    visitor.press("translate", sent)
    times = [time.perf_counter() for a in visitor.answers() if a["msg"] == "process_generating"]
    return [b - a for a, b in pairwise(times[1:])]


def many(url, pid, visitors):
    """Presses at once: how many were served, refused, and the memory that the server took at most."""
    before, crowd = memory(pid), [Visitor(url) for _ in range(visitors)]
    sent = [asked(v) for v in crowd]
    outcomes, began = [], time.perf_counter()

    def press(visitor, what):
        answer = visitor.press("translate", what)
        if answer.status_code != 200:
            outcomes.append(("refused", time.perf_counter() - began))
            return
        last = list(visitor.answers())[-1]
        good = last.get("success") and "translated by" in str(last)
        outcomes.append(("served" if good else "failed", time.perf_counter() - began))

    threads = [threading.Thread(target=press, args=a) for a in zip(crowd, sent, strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    count = {kind: sum(k == kind for k, _ in outcomes) for kind in ("served", "refused", "failed")}
    last = max(t for _, t in outcomes)
    return count | {"seconds until the last": last, "MB before": before, "MB after": memory(pid),
                    "MB at most": memory(pid, "VmHWM")}  # fmt: skip


def report(opening, first, shown, crowd):
    spread = lambda values: (min(values), max(values))
    columns = list(zip(*first, strict=True))
    names = ("first picture", "result", "processor time of the server")
    rows = [
        {"what": name, "median s": statistics.median(values), "least - most": spread(values)}
        for name, values in zip(names, columns, strict=True)
    ]
    rows.append({"what": "opening, with imports and one translation", "median s": opening})
    rows.append({"what": "between previews, 16 pictures", "median s": statistics.median(shown),
                 "least - most": spread(shown)})  # fmt: skip
    measure.write_result(
        "studio", "The studio: waiting, previews, fifty visitors",
        "From the press of the button to the answer, by HTTP; one 32x32 digit by DDIB in 22 steps "
        f"(24 network evaluations), {len(first)} times, {len(shown) + 2} previews. "
        f"{measure.os.getloadavg()[0]:.1f} processes wanted the {measure.os.cpu_count()} cores meanwhile: "
        "on a quiet machine waiting is nearer to the processor time.",
        rows, "Presses at once, each by a visitor of its own; the queue holds 20:", [crowd],
    )  # fmt: skip


if __name__ == "__main__":
    main()
