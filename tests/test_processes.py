"""Two real processes that train together, over gloo: they end alike, and one speaks and writes for both."""

import json
import socket
from pathlib import Path

import pytest
import torch
from kills import program, saying, started
from test_train import pictures

from sfumato.checkpoints.model_folder import load
from sfumato.checkpoints.tensors import read_tensors

PROGRAM = """
import importlib, os, signal, sys
from multiprocessing.util import Finalize
import torch
fit = importlib.import_module("sfumato.training.fit")
from sfumato.cli.main import main
from sfumato.training.log import Journal
from sfumato.training.session import RunFolder
from sfumato.methods.diffusion import Diffusion

torch.set_num_threads(1)
fit.WORLD = ()  # a CPU will do for a test
rank, out = int(os.environ["RANK"]), os.environ["OUT"]

def watch(event, args):
    writes = event in ("os.rename", "os.mkdir", "os.remove") or (
        event == "open" and args[2] & (os.O_WRONLY | os.O_RDWR)
    )
    if writes and str(args[0]).startswith(out + os.sep):
        os.write(2, f"{event} {args}\\n".encode())

if rank:
    sys.addaudithook(watch)
"""
NAN = """
objectives = Diffusion.objectives
def spoiled(self, batches, rng):
    for player, loss in objectives(self, batches, rng):
        yield player, loss * (float("nan") if rank and os.path.exists(f"{out}/model.json") else 1)
Diffusion.objectives = spoiled
"""
SIGTERM = """
add = Journal.add
def press(self, update):
    if rank and update.step == 3:
        os.kill(os.getpid(), signal.SIGTERM)
    return add(self, update)
Journal.add = press
"""
FULL = """
def keep(self, state):
    raise OSError(28, "No space left on device", out)
RunFolder.keep = keep
"""
KEPT = """
begin = fit.State.__init__
def kept(self, *args, **given):
    begin(self, *args, **given)
    Finalize(None, lambda: torch.save(self.method.state_dict(), f"{out}.{rank}"), exitpriority=1)
fit.State.__init__ = kept
"""


@pytest.fixture
def data(tmp_path):
    for i, name in enumerate(("red", "green")):
        pictures(tmp_path / name, 8, i)
    (tmp_path / "red" / "broken.png").write_bytes(b"no picture")
    return [f"red={tmp_path / 'red'}", f"green={tmp_path / 'green'}"]


def two(out, words, before="", seconds=120):
    """Exit codes, and what the two processes say; they are killed if they have not ended by then."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        where = {"MASTER_ADDR": "localhost", "MASTER_PORT": str(free.getsockname()[1])}
    code, processes = f"{PROGRAM}{before}\nmain({['train', *words]!r})", []
    for rank in "01":
        mine = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": "2", "OUT": str(out), "OMP_NUM_THREADS": "1"}
        processes.append(started(saying, f"{out}.said{rank}", program, code, where | mine))
    for process in processes:
        process.join(seconds)
    late = [process for process in processes if process.exitcode is None]
    for process in late:
        process.kill()
        process.join()
    said = [Path(f"{out}.said{rank}").read_text() for rank in "01"]
    assert not late, said
    return [process.exitcode for process in processes], said


def typed(data, out, **more):
    how = {"net": "tiny", "size": 16, "batch": 4, "preview-every": 0, "device": "cpu"} | more
    return [*data, "--out", str(out), *(f"--{k}={v}" for k, v in how.items())]


def test_two_processes_end_with_equal_weights_and_one_speaks_and_writes(data, tmp_path):
    out, pairs = tmp_path / "run", [word.partition("=")[2] for word in data]
    (tmp_path / "red" / "broken.png").unlink()
    codes, said = two(out, ["pix2pix", *typed(pairs, out, steps=2)], KEPT)
    assert (codes, said[1]) == ([0, 0], "")
    assert "holds the trained pix2pix model" in said[0]
    mine, others = (torch.load(f"{out}.{rank}") for rank in "01")
    assert any("running_mean" in name for name in mine)
    for name, weights in mine.items():
        assert torch.equal(weights, others[name]), name


def test_a_loss_that_is_nan_in_one_process_ends_both_alike(data, tmp_path):
    out = tmp_path / "run"
    words = ["diffusion", *typed(data, out, steps=20, **{"save-every": 3})]
    codes, said = two(out, words, NAN)
    assert codes == [2, 2], said
    lines = [text.splitlines()[-1] for text in said]
    assert all(
        line.startswith("sfumato: the loss of denoiser became nan at step") for line in lines
    )
    assert said[1].count("\n") == 1
    load(out)
    assert f"holds step {int(read_tensors(out / 'training.safetensors')['step'])}" in lines[0]


def test_a_signal_to_one_process_stops_both_and_the_run_goes_on(data, tmp_path):
    out = tmp_path / "run"
    words = ["diffusion", *typed(data, out, steps=1000)]
    codes, said = two(out, words, SIGTERM)
    assert codes == [130, 143], said  # the second got it
    step = int(read_tensors(out / "training.safetensors")["step"])
    assert step < 10
    for text in said:
        assert f"stopped at step {step}, saved in {out}" in text
    assert said[1].strip().count("\n") == 0
    load(out)
    more = ["diffusion", *typed(data, out, steps=step + 2, lr=0.0005), "--resume"]
    codes, said = two(out, more)
    assert (codes, said[1]) == ([0, 0], "")
    assert "resuming with lr 0.0005" in said[0]
    logged = [json.loads(line)["step"] for line in (out / "log.jsonl").open()]
    assert logged == sorted(set(logged))
    assert logged[-1] == step + 2


def test_what_fails_in_the_process_that_writes_ends_the_other_in_a_line(data, tmp_path):
    out = tmp_path / "run"
    codes, said = two(out, ["diffusion", *typed(data, out, steps=3)], FULL)
    assert codes == [2, 2], said
    assert "No space left on device" in said[0]
    assert said[1] == "sfumato: another process of this training has failed, and says why\n"
