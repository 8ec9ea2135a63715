"""Low-pass filters: constant images, symmetry, how far from a projection, and the exact flow."""

import pytest
import torch
from truth import normal

from sfumato.diffusion.low_pass import LowPass, eighth

KERNELS = ("box", "linear", "cubic")


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize(
    ("n", "factor"), [(256, 32), (32, 4), (12, 3), (8, 8), (8, 4), (6, 1), (38, 8), (45, 8), (5, 2)]
)
def test_matrix(kernel, n, factor):
    phi = LowPass(factor, kernel).matrix(n)
    torch.testing.assert_close(phi.sum(1), torch.ones(n).double(), rtol=0, atol=1e-14)
    torch.testing.assert_close(phi, phi.mT, rtol=0, atol=0 if n % factor == 0 else 1e-15)
    values = torch.linalg.eigvalsh(phi)
    assert values.min() > -1e-14
    assert values.max() < 1 + 1e-14
    assert (values > 1e-9).sum() == round(n / factor)  # the size of the small image
    if kernel == "box":
        torch.testing.assert_close(phi @ phi, phi, rtol=0, atol=1e-14)


@pytest.mark.parametrize(("kernel", "far"), [("box", 0.0), ("linear", 0.242), ("cubic", 0.163)])
def test_distance_from_a_projection(kernel, far, report):
    phi = LowPass(32, kernel).matrix(256)
    got = ((phi @ phi - phi).norm() / phi.norm()).item()
    report(f"|phi phi - phi| / |phi|, 256 -> 8 -> 256, {kernel}", got)
    assert got == pytest.approx(far, abs=5e-4)


@pytest.mark.parametrize("kernel", KERNELS)
def test_images(kernel):
    phi, x = LowPass(4, kernel), normal(2, 3, 8, 12)
    rows, columns = phi.matrix(8), phi.matrix(12)
    torch.testing.assert_close(phi(x), torch.einsum("ij,bcjk,kl->bcil", rows, x, columns))
    constant = torch.full((1, 3, 8, 12), 0.37)
    torch.testing.assert_close(phi(constant), constant, rtol=0, atol=1e-6)
    assert torch.equal(LowPass(1, kernel)(x), x)
    assert phi(x.float()).dtype == torch.float32


def test_box_is_means_of_squares():
    x = normal(1, 1, 4, 6)
    squares = x.unfold(2, 2, 2).unfold(3, 2, 2).mean((-1, -2))
    want = squares.repeat_interleave(2, 2).repeat_interleave(2, 3)
    torch.testing.assert_close(LowPass(2, "box")(x), want)


@pytest.mark.parametrize("kernel", KERNELS)
def test_relax_is_the_flow_of_the_energy(kernel):
    phi, x = LowPass(2, kernel), normal(2, 1, 6, 4)
    square = torch.kron(phi.matrix(6), phi.matrix(4))
    for rate in (0.0, 0.3, 50.0):
        want = x.flatten(2) @ (torch.eye(24) - torch.matrix_exp(-rate * square @ square))
        torch.testing.assert_close(phi.relax(x, rate).flatten(2), want, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(phi.relax(x, 1e-6) / 1e-6, phi(phi(x)), rtol=1e-5, atol=1e-6)
    if kernel == "box":
        torch.testing.assert_close(phi.relax(x, 1e9), phi(x))


def test_an_eighth_divides_both_sides():
    sides = {(32, 32): 4, (64, 64): 8, (256, 256): 32, (28, 28): 2, (32, 48): 4, (48, 32): 4, (4, 6): 1,
             (16, 256): 2, (100, 100): 10, (97, 97): 1}  # fmt: skip
    assert {hw: eighth(*hw) for hw in sides} == sides


def test_bad_options():
    with pytest.raises(ValueError, match="factor 33 is larger than the images' side of 32: choose at"):
        LowPass(33)(torch.zeros(1, 3, 32, 32))
    with pytest.raises(ValueError, match="factor must be at least 1, not 0"):
        LowPass(0)
    with pytest.raises(ValueError, match="unknown kernel 'cubik': did you mean 'cubic'"):
        LowPass(2, "cubik")


@pytest.mark.parametrize("kernel", KERNELS)
def test_chroma_is_what_brightness_leaves(kernel):
    x, gray = normal(2, 3, 8, 8), normal(2, 1, 8, 8, seed=1)
    full, phi = LowPass(2, kernel), LowPass(2, kernel, "chroma")
    torch.testing.assert_close(phi(x + gray), phi(x))
    torch.testing.assert_close(phi(x), full(x) - full(x.mean(1, keepdim=True)))
    y = normal(2, 3, 8, 8, seed=2)
    torch.testing.assert_close((y * phi(x)).sum(), (phi(y) * x).sum())  # symmetric
    for rate in (0.3, 1e9):
        want = full.relax(x - x.mean(1, keepdim=True), rate)
        torch.testing.assert_close(phi.relax(x, rate), want)
    with pytest.raises(ValueError, match="gray images have no chroma"):
        phi(gray)
    with pytest.raises(ValueError, match="unknown content 'chrome': did you mean 'chroma'"):
        LowPass(2, kernel, "chrome")
