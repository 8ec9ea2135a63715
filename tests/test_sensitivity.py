"""Spread over seeds and occlusion maps, of translators whose dependence is known."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

import sfumato
from sfumato.checkpoints.tensors import read_protocol
from sfumato.diffusion.exact import Gaussian
from sfumato.diffusion.noise import Noise
from sfumato.diffusion.process import Cosine
from sfumato.explore import mean_and_spread, occlusion, show_sensitivity
from sfumato.explore.sensitivity import Sensitivity, samples
from sfumato.methods.ddib import DDIB
from sfumato.methods.sdedit import SDEdit
from sfumato.translation.one_picture import OnePicture

G = torch.Generator().manual_seed(0)
X = torch.rand(1, 3, 12, 10, generator=G) * 2 - 1


class Linear:
    """result_i = sum_j A_ij source_j for each channel, plus noise of a deviation for each pixel."""

    def __init__(self, matrix, deviation=0.0):
        self.matrix, self.deviation = matrix, deviation

    def translate(self, source, *, seed=0, watch=None):
        y = (source.flatten(2) @ self.matrix.T).reshape(source.shape)
        return y + self.deviation * Noise.of(source, seed)(source)


def rolled(n=120, by=37):
    """Every pixel of the result is another pixel of the source."""
    return torch.eye(n).roll(by, 0)


@pytest.mark.parametrize("deviation", [0.0, 0.8])
@pytest.mark.parametrize("cell", [1, 4, 5])
def test_occlusion_of_a_linear_translator(cell, deviation):
    """The change is A (cover - x) on the cell, whatever the noise."""
    matrix = rolled() * torch.linspace(0, 2, 120)  # pixel j has the weight w_j, wherever it goes
    part = Linear(matrix, deviation)
    got = occlusion(part, X, cell=cell, fill=-1)
    squares = (torch.linspace(0, 2, 120).reshape(12, 10) * (-1 - X[0])).square().mean(0)
    want = torch.zeros(-(-12 // cell), -(-10 // cell))
    for i in range(12):
        for j in range(10):
            want[i // cell, j // cell] += squares[i, j] / 120
    torch.testing.assert_close(got, want.sqrt(), rtol=1e-4, atol=1e-5)


def test_pixels_that_do_not_matter():
    """What only the upper half goes into depends on it alone; by the mean colour, too."""
    upper = torch.eye(120) * (torch.arange(120) < 60)
    got = occlusion(Linear(upper), X, cell=2)
    assert (got[:3] > 0.01).all()
    assert (got[3:] == 0).all()


def test_of_a_part_of_the_result():
    """Pixel (2, 3) of the result is pixel (2, 3) - 37 of the source, and depends on no other cell."""
    place = torch.zeros(12, 10)
    place[5, 3] = 1
    got = occlusion(Linear(rolled(), 0.5), X, cell=1, fill=1, of=place)
    row, column = divmod(53 - 37, 10)
    want = torch.zeros(12, 10)
    want[row, column] = (1 - X[0, :, row, column]).square().mean().sqrt()
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)


def test_large_pictures_have_the_same_noise_with_and_without_a_cover():
    """Noise of more than 64 pixels a side is seeded in blocks, which methods take."""
    part = SDEdit(target=Gaussian(torch.zeros(8 * 72 * 3), torch.ones(8 * 72 * 3), Cosine()))
    left = torch.zeros(8, 72)
    left[:, :36] = 1
    x = torch.rand(1, 3, 8, 72, generator=G) * 2 - 1
    changes = occlusion(part, x, cell=36, fill=0, of=left, options={"steps": 2})
    assert changes[0, 0] > 0.01
    assert changes[0, 1] == 0


def test_spread_is_the_noises():
    deviation = torch.linspace(0, 1, 120).reshape(12, 10)
    _, spread = mean_and_spread(samples(Linear(torch.eye(120), deviation), X, 400))
    torch.testing.assert_close(spread[0], deviation, rtol=0.12, atol=1e-6)
    assert (mean_and_spread(samples(Linear(torch.eye(120)), X, 3))[1] == 0).all()


class Pixels(torch.nn.Module):
    """E[x | x_t] of independent pixels N(m, v)."""

    def __init__(self, m, v):
        super().__init__()
        self.process, self.m, self.v = Cosine(), m, v

    def forward(self, x_t, t):
        a, s = self.process.at(t, x_t)
        return self.m + a * self.v / (a**2 * self.v + s**2) * (x_t - a * self.m)


def test_an_exact_bridge_depends_on_its_own_pixel():
    """DDIB of independent Gaussian pixels: y = m' + sqrt(v'/v) (x - m), at its place."""
    v = torch.linspace(0.2, 2, 120).reshape(12, 10)
    part = DDIB(source=Pixels(torch.tensor(0.3), torch.tensor(0.5)), target=Pixels(0 * v, v))
    got = occlusion(part, X, cell=1, fill=0, options={"steps": 60})
    want = ((v / 0.5).sqrt() * X[0]).square().mean(0).sqrt() / 120**0.5
    torch.testing.assert_close(got, want, rtol=0.02, atol=1e-4)


def test_a_seed_for_each_image():
    one, other = X, X + 0.1
    seeds = Noise.of(one, 5).seeds
    assert not torch.equal(Noise.of(other, 5)(other), Noise.of(one, 5)(one))
    assert torch.equal(Noise.of(other, seeds)(other), Noise.of(one, 5)(one))
    with pytest.raises(ValueError, match="of 1 image was given"):
        Noise.of(one, seeds)(torch.cat([one, one]))


@pytest.mark.parametrize(("how", "says"), [({"cell": 0}, "at least 1"), ({"fill": 2.0}, "-1")])
def test_mistakes(how, says):
    with pytest.raises(ValueError, match=says):
        occlusion(Linear(torch.eye(120)), X, **how)


def test_files(tmp_path):
    part = sfumato.find("diffusion")(domains=("cat", "dog"), net="tiny")
    sfumato.save(part, tmp_path / "model", info={"size": 16})
    pixels = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "one.png")
    given = OnePicture.read(
        tmp_path / "one.png", method="sdedit", target=f"{tmp_path}/model:dog", options={"steps": 2}
    )
    with pytest.raises(ValueError, match="at least 2"):
        show_sensitivity(given, tmp_path / "out", seeds=1)
    found = show_sensitivity(given, tmp_path / "out", seeds=2)
    assert found.spread.shape == (16, 16)
    assert found.depends.shape == (4, 4)
    tensors, protocol = read_protocol(tmp_path / "out" / "maps.safetensors")
    assert torch.equal(tensors["depends"], found.depends)
    assert protocol["run"]["cell"] == 4
    facts = json.loads((tmp_path / "out" / "sensitivity.json").read_text())
    assert facts["largest"]["spread"] == pytest.approx(found.spread.max().item())
    with Image.open(tmp_path / "out" / "sensitivity.png") as sheet:
        assert sheet.size[0] == (5 * 16 + 4 * 2) * 9


@pytest.mark.parametrize(("h", "w", "cell"), [(32, 32, 20), (32, 48, 12), (8, 8, 3)])
def test_the_map_lies_where_the_cells_were(h, w, cell):
    rows, columns = -(-h // cell), -(-w // cell)
    depends = torch.zeros(rows, columns)
    depends[0, 1] = 1.0
    x = torch.zeros(3, h, w)
    sheet = Sensitivity(x, x, x, torch.zeros(h, w), depends, cell).sheet()
    place = sheet[..., -w:]
    assert (place[:, : min(cell, h), cell : 2 * cell] == place[:, :1, cell : cell + 1]).all()
    assert not torch.equal(place[:, 0, cell], place[:, 0, cell - 1])
