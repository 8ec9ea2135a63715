"""What runs on a device: the meta device has no values, so that whatever runs there asks it nothing.

Nor may anything there be float64, which Apple's GPUs do not know.
"""

from collections import Counter

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_leaves

import sfumato
from sfumato.data.image_folder import ImageFolder
from sfumato.diffusion.denoiser import Denoiser
from sfumato.diffusion.encode_decode import decode, encode
from sfumato.diffusion.energies import Reference, low_pass_distance
from sfumato.diffusion.guidance import ClassifierFree, Clipped, Conditioned, Guided
from sfumato.diffusion.integrate import STEPS, integrate
from sfumato.diffusion.low_pass import LowPass
from sfumato.diffusion.process import PROCESSES, Process
from sfumato.diffusion.sampler_gradients import integrate_flat
from sfumato.diffusion.time_grids import grid
from sfumato.evaluation.comparison import add_extras
from sfumato.evaluation.judge import Judge
from sfumato.evaluation.protocol import Protocol
from sfumato.evaluation.scores import Scores
from sfumato.nets.sizes import UNet

NET = {"width": 8, "multipliers": (1, 2), "blocks": 1, "attention": 1}


class NoDoubles(TorchDispatchMode):
    """Refuses float64 on the meta device."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for value in tree_leaves(out):
            if isinstance(value, torch.Tensor) and value.is_meta:
                assert value.dtype != torch.float64, f"{func} makes float64 on the device"
        return out


def denoiser(process="cosine", prediction="v", image=False):
    net = UNet(channels=3, conditioning=3 * image, labels=2, **NET)
    return (
        Denoiser(net=net, process=PROCESSES[process](), prediction=prediction, domains=("a", "b"))
        .to("meta")
        .eval()
    )


@pytest.fixture(autouse=True)
def derivatives_of_times(monkeypatch):
    """Are taken of numbers of the CPU; their tangents would call themselves meta."""
    sde = Process.sde

    def unwatched(self, t):
        assert t.device.type == "cpu"
        with _disable_current_modes():
            return sde(self, t)

    monkeypatch.setattr(Process, "sde", unwatched)


def meta(*shape):
    return torch.empty(*shape, device="meta")


@pytest.mark.parametrize("process", PROCESSES)
@pytest.mark.parametrize("solver", sorted(STEPS.keys() - {"dopri5"}))  # it chooses by what it sees
def test_solvers_ask_nothing_of_the_device(solver, process):
    f, x = Conditioned(denoiser=denoiser(process), domain="a"), meta(2, 3, 16, 16)
    with NoDoubles(), torch.no_grad():
        for clean in (False, True):
            times = grid(f.process, 4, clean=clean)
            assert integrate(solver, f, x, times, noise=torch.empty_like).is_meta


@pytest.mark.parametrize("prediction", ["eps", "x0", "v", "edm"])
def test_denoisers_ask_nothing_of_the_device(prediction):
    f, x = denoiser(prediction=prediction, image=True), meta(2, 3, 16, 16)
    t = torch.tensor([0.2, 0.7], dtype=torch.float64)
    with NoDoubles():
        assert f(x, 0.5, "a", x).is_meta
        assert f(x, t, torch.tensor([0, 1]), x).is_meta
        f.loss(x, t, x, "b", x).backward()


def test_guidance_asks_nothing_of_the_device():
    f, x = denoiser(), meta(2, 3, 16, 16)
    one = Conditioned(denoiser=f, domain="a")
    source = Reference(f.process, x, torch.empty_like)
    energy = low_pass_distance(LowPass(4), f.process)
    wrapped = Clipped(ClassifierFree(one, Conditioned(denoiser=f, domain="b"), 2.0))
    guided = Guided(wrapped, lambda y, t: energy(y, source(t), t), every=2)
    with NoDoubles():
        integrate("dpm2m", guided, x, grid(f.process, 4, clean=True))
        latents = encode(one, x, steps=3)
        integrate_flat("ddim", one, latents, grid(f.process, 3))
        assert decode(one, latents, steps=3).is_meta


class Fetched(NoDoubles):
    """A meta device that answers: yes, and with zeros where numbers are fetched; counts what runs where."""

    def __init__(self):
        super().__init__()
        self.ran = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs, aten, given = kwargs or {}, torch.ops.aten, tree_leaves((args, kwargs))
        there = any(isinstance(x, torch.Tensor) and x.is_meta for x in given)
        self.ran[str(func.overloadpacket).removeprefix("aten."), "meta" if there else "cpu"] += 1
        if there and func.overloadpacket in (aten.item, aten.is_nonzero, aten._local_scalar_dense):
            return 1
        fetched = func.overloadpacket in (aten.to, aten._to_copy)  # the former in inference mode
        if there and fetched and torch.device("cpu") in [x for x in given if isinstance(x, torch.device)]:
            kinds = [x for x in given if isinstance(x, torch.dtype)]
            return torch.zeros(args[0].shape, dtype=(*kinds, args[0].dtype)[0])
        return super().__torch_dispatch__(func, types, args, kwargs)


@pytest.mark.parametrize("features", ["lite0", "classifier"])
def test_an_evaluation_runs_on_its_device(tmp_path, monkeypatch, features):
    """Networks, pixels and nearest neighbours; sets of numbers and intervals are computed on the CPU."""
    for where in "judge", "memorisation":
        monkeypatch.setattr(f"sfumato.evaluation.{where}.device_of", torch.device)
    monkeypatch.setenv("SFUMATO_CACHE", str(tmp_path / "cache"))
    rng = np.random.default_rng(0)
    for role in ("source", "target", "train", "truth", "results"):
        (tmp_path / role).mkdir()
        for i, p in enumerate(rng.integers(0, 256, (9, 16, 16, 3), np.uint8)):
            Image.fromarray(p).save(tmp_path / role / f"{i}.png")
    if features == "classifier":
        sees = sfumato.find("domain_classifier")(net="tiny", domains=("a", "b"))
        sfumato.save(sees, features := str(tmp_path / "classifier"))
    own = torch.nn.Sequential(torch.nn.Conv2d(3, 1, 16), torch.nn.Flatten(0))
    results = ImageFolder.to_compare(tmp_path / "results")
    judge = Judge(
        tmp_path / "source", tmp_path / "target", results, truth=tmp_path / "truth", train=tmp_path / "train",
        protocol=Protocol("p", "", features=features), task="land_water", resamples=20, device="meta",
        classifier=own,
    )  # fmt: skip
    row = Scores(results=[results])
    with Fetched() as device, torch.no_grad():
        row.average(judge.scores(row.results, row.results))
        add_extras(row, judge)
        judge.real()
    assert {"truth/ssim", "source/hue", "kid", "task", "domain", "cycle"} <= row.numbers.keys()
    for name in ("conv2d", "topk", "angle"):
        assert device.ran[name, "meta"] > 0
        assert device.ran[name, "cpu"] == 0


def test_auto_is_whatever_accelerator_there_is(monkeypatch):
    from sfumato.core.devices import device_of

    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: torch.device("meta"))
    assert device_of("auto").type == "meta"
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    assert device_of("auto").type == "cpu"
