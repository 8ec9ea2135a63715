"""ILVR: what the low-pass leaves free and what it keeps."""

import pytest
import torch
from truth import gaussian, tiny_denoiser

from sfumato.diffusion.guidance import Conditioned
from sfumato.diffusion.integrate import integrate
from sfumato.diffusion.low_pass import LowPass
from sfumato.diffusion.noise import Noise
from sfumato.diffusion.process import DDPM, VE, VP, Cosine, Flow
from sfumato.diffusion.time_grids import grid
from sfumato.methods.ilvr import ILVR

PICTURES = torch.rand(3, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1
PROCESSES = pytest.mark.parametrize("process", [VP(), DDPM(), Cosine(), VE(), Flow()], ids=str)


def tiny(**options):
    return ILVR(target=Conditioned(denoiser=tiny_denoiser(**options), domain="b"))


@pytest.mark.parametrize("kernel", ["box", "linear", "cubic"])
@PROCESSES
def test_factor_one_returns_the_reference_to_the_bit(kernel, process):
    how = {"factor": 1, "kernel": kernel, "keep_down_to": 0, "steps": 3}
    y = tiny(process=process).translate(PICTURES, as_is=True, **how)
    assert torch.equal(y, PICTURES)


@pytest.mark.parametrize("solver", ["ancestral", "ddim", "dpm2m", "euler_maruyama", "heun"])
def test_box_keeps_the_low_pass(solver, report):
    phi, spacing = LowPass(4, "box"), "time" if solver == "euler_maruyama" else "karras"
    options = {"factor": 4, "kernel": "box", "keep_down_to": 0, "steps": 4, "spacing": spacing}
    y = tiny().translate(PICTURES, as_is=True, solver=solver, **options)
    far = (phi(y) - phi(PICTURES)).abs().max().item()
    report(f"ILVR, box: low-pass of result and reference, {solver}", far)
    assert far < 1e-6 * y.abs().max().clamp(min=1)
    assert (y - PICTURES).abs().max() > 0.1


@pytest.mark.parametrize("kernel", ["linear", "cubic"])
def test_other_kernels_keep_it_nearly(kernel):
    """Phi x = phi y + (phi - phi^2) (y - x'): as far as phi is from a projection."""
    f = gaussian([0.0] * 192, [1.0] * 192, Cosine())
    y = PICTURES.double()
    x = ILVR(target=f).translate(y, as_is=True, factor=4, kernel=kernel, keep_down_to=0, steps=5, clip=False)
    phi = LowPass(4, kernel)
    how = {"factor": 4, "kernel": kernel, "steps": 5, "clip": False}
    free = ILVR(target=f).translate(y, as_is=True, keep_down_to=1, **how)
    assert 1e-3 < (phi(x) - phi(y)).norm() < 0.5 * (phi(free) - phi(y)).norm()


def test_never_is_plain_sampling():
    part = tiny()
    y = part.translate(PICTURES, as_is=True, keep_down_to=1, steps=4, factor=2, clip=False)
    f, noise = part.target, Noise.of(PICTURES, 0)
    times = grid(f.process, 4, clean=True)
    start = f.process.perturb(torch.zeros_like(PICTURES), times[0], noise(PICTURES))
    plain = integrate("ancestral", f, start, times, noise=noise.stream("steps"))
    assert torch.equal(y, plain)


def test_until_is_a_noise_level():
    """The low-pass of a flat reference at each level that is kept, and at none below."""
    kept, source = [], torch.full((1, 3, 64, 64), 0.6)
    process = Cosine()

    class Zero(torch.nn.Module):
        def forward(self, x, t):
            alpha, _ = process.at(t, x)
            kept.append(((x.mean() - 0.6 * alpha).abs() < 0.05).item())
            return torch.zeros_like(x)

    f = Zero()
    f.process = process
    ILVR(target=f).translate(source, as_is=True, factor=4, keep_down_to=0.25, steps=10, spacing="log_snr")
    levels = grid(process, 10, "log_snr", clean=True)[1:-1]
    above = [bool(s >= process.time(DDPM().log_snr(torch.tensor(0.25)))) for s in levels]
    assert any(above)
    assert not all(above)
    assert kept[1:] == above


@PROCESSES
def test_until_the_first_level_of_the_chain_leaves_the_last_step_alone(process):
    moved, how = [], {"steps": 4, "spacing": "chain", "keep_down_to": 1 / 1000}
    tiny(process=process).translate(
        PICTURES, as_is=True, factor=4, **how, watch=lambda t, x, mean, extras: moved.append(extras["moved"])
    )
    assert [bool(m.max() > 0) for m in moved] == [True, True, True, False]


def test_seed():
    part = tiny()
    y = part.translate(PICTURES, as_is=True, steps=3, seed=1)
    assert torch.equal(y, part.translate(PICTURES, as_is=True, steps=3, seed=1))
    assert not torch.equal(y, part.translate(PICTURES, as_is=True, steps=3, seed=2))


def test_bad_options():
    with pytest.raises(ValueError, match="factor 9 is larger than the images' side of 8"):
        tiny().translate(PICTURES, as_is=True, factor=9)
    with pytest.raises(ValueError, match="factor 9 is larger than the images' side of 8"):
        tiny().translate(PICTURES, as_is=True, factor=9, keep_down_to=1, steps=2)
    with pytest.raises(ValueError, match=r"keep_down_to must be in \[0, 1\], not 2"):
        tiny().translate(PICTURES, as_is=True, keep_down_to=2)
    with pytest.raises(ValueError, match="unknown kernel 'lanczos'"):
        tiny().translate(PICTURES, as_is=True, kernel="lanczos")
