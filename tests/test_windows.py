"""Windows: exact where networks look at single pixels, one field for all, and seams that are none."""

import copy
import math

import pytest
import torch
from torch import nn
from truth import normal

import sfumato
from sfumato.core.errors import UserError
from sfumato.data.preparation import Preparation
from sfumato.diffusion.denoiser import Denoiser
from sfumato.diffusion.integrate import STEPS, integrate
from sfumato.diffusion.noise import Noise
from sfumato.diffusion.process import Cosine
from sfumato.diffusion.time_grids import grid
from sfumato.nets.unet_generator import UNetGenerator
from sfumato.windows import Windowed, for_pictures, networks, placed, seen_whole, windowed


class Near(nn.Module):
    """Sees `reach` pixels to each side: a box blur of what it is given, scaled by the noise level."""

    def __init__(self, reach):
        super().__init__()
        self.reach, self.seen = reach, []

    def forward(self, x, log_sigma, label=None):
        self.seen.append(x.shape)
        side = 2 * self.reach + 1
        blur = nn.functional.avg_pool2d(x, side, 1, self.reach, count_include_pad=False)
        return blur * torch.as_tensor(log_sigma).reshape(-1, 1, 1, 1).sigmoid().to(x)


def large(reach=0, size=16, stride=12, batch=5):
    return Denoiser(net=Windowed(Near(reach), size, stride, batch), process=Cosine(), prediction="x0")


@pytest.mark.parametrize(("h", "w"), [(16, 16), (16, 40), (33, 57), (8, 40)])
def test_windows_cover_a_picture_and_weigh_one(h, w):
    x = normal(2, 3, h, w)
    net = Windowed(Near(0), 16, 12, 5)
    torch.testing.assert_close(net(x, torch.zeros(2)), Near(0)(x, torch.zeros(2)))
    assert all(shape[-2:] == (16, 16) or (h, w) == (16, 16) for shape in net.net.seen)
    assert max(shape[0] for shape in net.net.seen) <= 5


@pytest.mark.parametrize("solver", STEPS)
def test_what_sees_single_pixels_is_the_same_by_windows(solver):
    x, times = normal(2, 1, 30, 41), grid(Cosine(), 4, clean=True)
    both = [Denoiser(net=Near(0), process=Cosine(), prediction="x0"), large()]
    one, two = (integrate(solver, f, x, times, noise=Noise([1, 2])) for f in both)
    torch.testing.assert_close(one, two)


def test_each_window_gets_the_level_and_label_of_its_picture():
    class Told(nn.Module):
        def forward(self, x, level, label):
            return torch.zeros_like(x) + (level + 10 * label).reshape(-1, 1, 1, 1)

    made = Windowed(Told(), 8, 6, 3)(normal(2, 1, 8, 30), torch.tensor([0.5, 2.0]), torch.tensor([1, 4]))
    torch.testing.assert_close(made[:, 0, 0], torch.tensor([[10.5], [42.0]]).double().expand(2, 30))


def test_a_part_with_its_field_is_that_part_of_the_whole():
    """Windows 24 and more apart know nothing of each other in three steps of one evaluation each."""
    x, times = normal(1, 1, 16, 160), grid(Cosine(), 3, clean=True)
    whole = integrate("ddim", large(reach=2), x, times)
    part = integrate("ddim", large(reach=2), x[..., :83], times)
    reach = 3 * 16  # of a step: a window's width
    assert torch.equal(whole[..., : 83 - reach], part[..., : 83 - reach])
    assert not torch.equal(whole[..., :83], part)


def test_a_map_that_grows_keeps_what_was_made_of_it():
    """Noise and windows are functions of the place, so far from the new part nothing changes."""
    model = windowed(sfumato.load("sfumato/earth_pairs"), size=16)
    x = normal(1, 3, 16, 200).float().clamp(-1, 1)
    whole, part = (model.translate(each, steps=2, solver="ancestral") for each in (x, x[..., :150]))
    reach = 64 + 2 * 16  # the last block of noise is another, and a window's width for each step
    torch.testing.assert_close(whole[..., : 150 - reach], part[..., : 150 - reach])
    assert (whole[..., :150] - part).abs().max() > 0.1


class Away(Near):
    """Weights on a device of their own, which stands for a GPU: what is seen there must lie there."""

    def __init__(self):
        super().__init__(0)
        self.weight = nn.Parameter(torch.zeros(1, device="meta"))

    def forward(self, x, *given):
        assert {t.device.type for t in (x, *given) if t is not None} == {"meta"}
        self.seen.append(x.shape)
        return torch.zeros(x.shape)


def test_a_large_state_stays_on_the_host_and_windows_travel():
    net = Away()
    f = Denoiser(net=Windowed(net, 16, 12, 5), process=Cosine(), prediction="x0")
    x = normal(1, 1, 16, 40).float()
    assert torch.equal(f(x, 0.5), torch.zeros_like(x))  # a mean of zeros
    assert {shape[2:] for shape in net.seen} == {(16, 16)}
    with pytest.raises(UserError, match="the network is on meta, x_t on cpu"):
        Denoiser(net=net, process=Cosine(), prediction="x0")(x, 0.5)


@pytest.mark.parametrize("method", ["paired_sde", "cut"])
def test_pictures_stay_on_the_host_if_all_that_a_model_has_sees_windows(method):
    part, there = sfumato.find(method)(net="tiny"), torch.device("meta")
    assert placed(copy.deepcopy(part), there)[1] == there
    joint, home = placed(windowed(part, size=8), there)
    assert home == torch.device("cpu" if method == "paired_sde" else "meta")  # one has a discriminator
    assert {p.device for p in joint.parameters()} == {there}


def test_windows_blend_without_seams():
    """A network that answers by its window's own corner: tiles jump, windows pass over."""

    class Corner(nn.Module):
        def forward(self, x):
            return torch.zeros_like(x) + x[..., :1, :1]

    x = torch.arange(64.0).expand(1, 1, 8, 64).clone()
    tiles, joint = (Windowed(Corner(), 8, stride, 9)(x)[0, 0, 4].diff().abs().max() for stride in (8, 2))
    assert tiles == 8
    assert joint < 2


def test_a_model_is_windowed_beside_itself(tmp_path):
    model = sfumato.load("sfumato/earth_pairs")
    x = normal(1, 3, 40, 72).float().clamp(-1, 1)
    joint = windowed(model)
    assert {id(p) for p in joint.parameters()} == {id(p) for p in model.parameters()}
    small = x[..., :32, :32]
    assert torch.equal(joint.translate(small, steps=2), model.translate(small, steps=2))
    made = joint.translate(x, steps=2)
    assert made.shape == x.shape
    assert torch.equal(made, model.translate(x, steps=2))  # as pictures are that are more than twice as large
    assert not torch.equal(made, model.translate(x, steps=2, as_is=True).clamp(-1, 1))


class Pixelwise(nn.Module):
    """As any generator, or drift: of each pixel by itself, at most `seen` pixels a side."""

    def __init__(self, seen=10**6):
        super().__init__()
        self.seen = seen

    def forward(self, x, *_):
        assert max(x.shape[2:]) <= self.seen
        return x[:, :3].sin()


@pytest.mark.parametrize("method", ["cut", "cyclegan", "pix2pix", "neural_ot", "entropic_ot", "paired_sde"])
def test_every_network_of_pictures_sees_windows(method):
    part = sfumato.find(method)(net="tiny")
    places = networks(part)
    assert places
    for place in places:
        part.set_submodule(place, Pixelwise())
    x = normal(2, 3, 20, 30).float()
    whole = part.translate(x, as_is=True)
    for place in places:
        part.get_submodule(place).seen = 8
    torch.testing.assert_close(windowed(part, size=8).translate(x, as_is=True), whole)
    with pytest.raises(AssertionError):
        part.translate(x, as_is=True)


def test_dropout_draws_for_each_window():
    part = sfumato.find("pix2pix")(net="paper", side=256).eval()
    part.generator = UNetGenerator(ngf=4, downs=6, dropouts=2).eval()
    x = normal(2, 3, 64, 96).float()
    made, again, other = (windowed(part, size=64).translate(x, as_is=True, seed=s) for s in (0, 0, 1))
    assert torch.equal(made, again)
    assert made.shape == x.shape
    assert not torch.equal(made, other)


def test_what_cannot_be_windowed_is_told():
    with pytest.raises(UserError, match="^a DomainClassifier translates with no network, which"):
        windowed(sfumato.find("domain_classifier")(net="tiny", domains=("a", "b")), size=32)
    with pytest.raises(UserError, match="^windowed takes a model, as of sfumato.load, not a str$"):
        windowed("sfumato/earth_pairs")
    with pytest.raises(UserError, match="not known: give size=, in pixels"):
        windowed(sfumato.find("diffusion")(net="tiny", domains=("a",)))
    with pytest.raises(UserError, match=r"overlap must be in \[0, 0.9\], not 1"):
        windowed(sfumato.load("sfumato/earth_pairs"), overlap=1)


def test_windows_are_not_saved_and_not_seen_through_windows(tmp_path):
    model, bound = sfumato.load("sfumato/earth_pairs"), sfumato.load("sfumato/earth:relief")
    sfumato.save(model, tmp_path / "m")
    before = (tmp_path / "m/weights.safetensors").read_bytes()
    for joint in (windowed(model), windowed(bound)):  # whose size is that of its model's training
        with pytest.raises(UserError, match="not saved: save the model that it was made of"):
            sfumato.save(joint, tmp_path / "m")
    assert (tmp_path / "m/weights.safetensors").read_bytes() == before
    again = [m for m in windowed(windowed(model, size=16)).modules() if isinstance(m, Windowed)]
    assert {m.size for m in again} == {32}
    assert not any(isinstance(m.net, Windowed) for m in again)


def test_pictures_up_to_twice_the_trainings_are_seen_whole():
    part = sfumato.find("diffusion")(net=Near(0), domains=("a",))
    part.preparation = Preparation(size=(16, 12))
    assert [seen_whole(part, windows) for windows in (None, True, False)] == [32, 16, math.inf]
    for side, by in ((32, False), (33, True)):
        seen = for_pictures(part, (side, side))
        assert any(isinstance(m, Windowed) for m in seen.modules()) == by
    part.preparation = None
    assert [seen_whole(part, windows) for windows in (None, False)] == [math.inf, math.inf]
