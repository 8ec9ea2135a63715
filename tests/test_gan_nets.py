"""Generators, discriminator and patch heads: published sizes, what each layer sees, bad sizes."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from truth import normal

from sfumato.methods._shared import adversarial as gan
from sfumato.nets.layers import BatchNorm, BlurDown, BlurUp, drop, initialise, make_norm
from sfumato.nets.patch_discriminator import PatchGAN, layers_for, patch_size
from sfumato.nets.patch_projection import PatchHead
from sfumato.nets.resnet_generator import ResNet
from sfumato.nets.transport_unet import TransportUNet
from sfumato.nets.unet_generator import UNetGenerator


def count(net):
    return sum(p.numel() for p in net.parameters())


@pytest.mark.parametrize(
    ("make", "parameters"),
    [
        (ResNet, 11_378_179),
        (lambda: ResNet(antialias=True), 11_378_179),
        (UNetGenerator, 54_413_955),
        (PatchGAN, 2_764_737),
        (lambda: PatchGAN(antialias=True), 2_764_737),
        (lambda: PatchGAN(channels=6, norm="batch"), 2_768_705),
        (lambda: PatchHead(widths=(3, 128, 256, 256, 256)), 560_384),
    ],
)
def test_the_published_networks_have_the_published_sizes(make, parameters, report):
    with torch.device("meta"):
        net = make()
    report(type(net).__name__, f"{count(net):,} parameters")
    assert count(net) == parameters


@pytest.mark.parametrize("norm", ["instance", "batch"])
def test_shapes_and_range(norm):
    x = torch.rand(2, 3, 16, 24) * 2 - 1
    for net in (
        ResNet(ngf=4, n_blocks=1, norm=norm), ResNet(ngf=4, n_blocks=1, norm=norm, antialias=True),
        ResNet(ngf=4, n_blocks=1, norm=norm, downs=1),
        UNetGenerator(ngf=4, downs=3, norm=norm), UNetGenerator(ngf=4, downs=3, norm=norm, stem=2),
    ):  # fmt: skip
        y = net(x)
        assert y.shape == x.shape
        assert y.abs().max() < 1
    sides = {False: (6, 10), True: (6, 10)}
    for antialias, side in sides.items():
        y = PatchGAN(ndf=4, n_layers=1, norm=norm, antialias=antialias)(x)
        assert y.shape == (2, 1, *side)


@pytest.mark.parametrize("n_layers", [0, 1, 2, 3])
def test_a_score_sees_its_patch_and_nothing_else(n_layers):
    """The gradient of one score covers exactly patch_size pixels; without norms, which see all."""
    net = PatchGAN(ndf=2, n_layers=n_layers)
    for i, module in enumerate(net.model):
        if isinstance(module, nn.InstanceNorm2d):
            net.model[i] = nn.Identity()
    initialise(net, "normal", 1.0)
    side = patch_size(n_layers)
    x = torch.zeros(1, 3, 3 * side, 3 * side, requires_grad=True)
    scores = net(x)
    middle = scores.shape[-1] // 2
    scores[0, 0, middle, middle].backward()
    rows = x.grad.abs().sum((0, 1, 3)).nonzero()
    assert rows.max() - rows.min() + 1 == side == {0: 7, 1: 16, 2: 34, 3: 70}[n_layers]


def test_the_discriminator_is_no_deeper_than_the_images():
    assert [layers_for(s) for s in (7, 15, 16, 32, 33, 34, 64, 69, 70, 256)] == [0, 0, 1, 1, 1, 2, 2, 2, 3, 3]
    assert layers_for(256, most=2) == 2
    for side in (7, 8, 16, 32, 64, 70, 128):
        PatchGAN(ndf=2, n_layers=layers_for(side))(torch.zeros(1, 3, side, side))
    with pytest.raises(ValueError, match="images of 7 pixels or more, not 6"):
        layers_for(6)
    with pytest.raises(
        ValueError, match=r"images of 23x64 are too small .* 3 layers, which needs 24"
    ):
        PatchGAN(ndf=2)(torch.zeros(1, 3, 23, 64))
    for n in (0, 1, 2, 3):
        least = 3 * 2**n
        assert PatchGAN(ndf=2, n_layers=n)(torch.zeros(1, 3, least, least)).shape[2:] == (1, 1)
    critic = gan.make_critic("small", 3, 32, 3, "instance", False, "normal", 0.02)
    (said,) = gan.notes(critic, 3, 32)
    assert "1 layer, not 3" in said
    assert "patches of 16, not 70" in said
    assert gan.notes(critic, 1, 32) == []


@pytest.mark.parametrize("shape", [(1, 4), (2, 1)])
def test_batch_norm_of_one_value_is_refused_with_advice(shape):
    net = make_norm("batch", 4).train()
    x = torch.zeros(shape[0], 4, 1, shape[1])
    if shape == (2, 1):
        assert net(x).shape == x.shape  # two values
        x = x[:1]
        with pytest.raises(
            ValueError, match=r"batch of one at 1x1 features: use --batch 2 .*--norm"
        ):
            net(x)
        assert net.eval()(x).shape == x.shape
    else:
        assert net(x).shape == x.shape
    with pytest.raises(ValueError, match="1x1 features: use a larger --size"):
        make_norm("instance", 4)(torch.zeros(2, 4, 1, 1))
    with pytest.raises(ValueError, match="unknown norm 'group': known: instance, batch"):
        make_norm("group", 4)


def test_batch_norm_by_each_images_own_statistics_is_a_batch_of_one():
    norm = BatchNorm(4)
    initialise(norm, "normal", 0.02)
    x = torch.randn(3, 4, 5, 6) * 3 + 1
    alone = torch.cat([norm.train()(one[None]) for one in x])
    norm.eval().own = True
    torch.testing.assert_close(norm(x), alone, rtol=0, atol=1e-5)


def test_blurs_keep_a_constant_and_stop_the_finest_stripes():
    flat, stripes = torch.ones(1, 2, 8, 8), torch.tensor([1.0, -1.0]).repeat(4).expand(1, 2, 8, 8)
    assert torch.equal(BlurDown()(flat), torch.ones(1, 2, 4, 4))
    assert torch.equal(BlurUp()(flat), torch.ones(1, 2, 16, 16))
    assert BlurDown()(stripes).abs().max() == 0  # (1 - 2 + 1) / 4
    assert F.avg_pool2d(stripes, 1, stride=2).abs().min() == 1  # which a stride would alias
    edge = torch.zeros(1, 1, 1, 4).index_fill(3, torch.tensor([1]), 1.0)
    assert torch.equal(BlurUp()(edge)[0, 0, 0], torch.tensor([0, 0.25, 0.75, 0.75, 0.25, 0, 0, 0]))


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_dropout_by_normal_numbers(p):
    z = torch.randn(200_000, generator=torch.Generator().manual_seed(0))
    y = drop(torch.ones_like(z), p, z)
    assert (y == 0).float().mean().item() == pytest.approx(p, abs=0.005)
    assert y.max().item() == pytest.approx(1 / (1 - p))
    assert y.mean().item() == pytest.approx(1, abs=0.03)


def test_dropout_is_in_the_three_inner_levels_of_the_way_up_only():
    asked, net = [], UNetGenerator(ngf=2, downs=8)

    def draw(like):
        asked.append(tuple(like.shape[1:]))
        return torch.ones_like(like)

    net.eval()(torch.zeros(1, 3, 256, 256), draw)
    assert asked == [(16, 4, 4), (16, 8, 8), (16, 16, 16)]
    asked.clear()
    UNetGenerator(ngf=2, downs=3).eval()(torch.zeros(1, 3, 16, 16), draw)
    assert asked == [(2, 8, 8)]  # neither the lowest level nor the image


def test_the_layers_that_cut_compares():
    assert ResNet(ngf=2, antialias=True).paper_layers() == (0, 4, 8, 12, 16)
    assert ResNet(ngf=2).paper_layers() == (0, 4, 7, 10, 14)
    assert ResNet(ngf=2, n_blocks=6, downs=1, antialias=True).paper_layers() == (0, 4, 8, 11)
    assert ResNet(ngf=2, n_blocks=1).paper_layers() == (0, 4, 7, 10)


def test_features_of_cut_are_the_papers_layers():
    net, layers = ResNet(ngf=4, n_blocks=5, antialias=True), (0, 4, 8, 12, 16)
    x = torch.randn(2, 3, 16, 16)
    found = net.features(x, layers)
    assert [tuple(f.shape[1:]) for f in found] == [
        (3, 22, 22), (8, 16, 16), (16, 8, 8), (16, 4, 4), (16, 4, 4),
    ]  # fmt: skip
    assert torch.equal(found[0], F.pad(x, (3, 3, 3, 3), mode="reflect"))
    assert net.widths(layers) == (3, 8, 16, 16, 16)
    assert torch.equal(net.features(x, (16,))[0], found[-1])
    with pytest.raises(ValueError, match="layers 0 to 16, not 17"):
        net.widths((0, 17))


@pytest.mark.parametrize(
    ("net", "sides"),
    [
        (ResNet(ngf=2, n_blocks=1), (20, 8)),
        (ResNet(ngf=2, n_blocks=1, antialias=True, downs=3), (24, 16)),
        (UNetGenerator(ngf=2, downs=3), (24, 8)),
        (TransportUNet(base=4, levels=3), (24, 8)),
    ],
)
def test_pictures_of_any_size_are_mirrored_for_the_network_and_cut_back(net, sides):
    net, x = net.eval(), normal(2, 3, 17, 5).float()
    rows, columns = (torch.arange(n) % (2 * m) for n, m in zip(sides, (17, 5), strict=True))
    whole = x[..., torch.where(rows < 17, rows, 33 - rows), :]
    whole = whole[..., torch.where(columns < 5, columns, 9 - columns)]
    assert torch.equal(net(x), net(whole)[..., :17, :5])
    if isinstance(net, ResNet):
        assert [f.shape for f in net.features(x, (0, 4))] == [f.shape for f in net.features(whole, (0, 4))]


def test_a_unet_goes_as_deep_as_the_images_can_be_halved():
    made = lambda side: gan.make_unet("paper", 1, side, "batch", "normal", 0.02).downs
    with torch.device("meta"):
        assert [made(s) for s in (256, 128, 32, 48, 512)] == [8, 7, 5, 4, 8]
        with pytest.raises(ValueError, match="2 to 16 levels, not 1; choose a --size"):
            made(34)


@pytest.mark.parametrize(("kind", "std"), [("normal", 0.02), ("xavier", 0.02 * (2 / 1024) ** 0.5)])
def test_initialisation(kind, std):
    net = nn.Sequential(nn.Linear(512, 512), BatchNorm(512))
    torch.manual_seed(0)
    initialise(net, kind, 0.02)
    assert net[0].weight.std().item() == pytest.approx(std, rel=0.02)
    assert net[0].bias.abs().max() == 0
    assert net[1].weight.mean().item() == pytest.approx(1, abs=0.005)
    assert net[1].weight.std().item() == pytest.approx(0.02, rel=0.1)
    with pytest.raises(ValueError, match="unknown init 'xavir': did you mean 'xavier'"):
        initialise(net, "xavir", 0.02)


def test_projections_have_unit_length_at_the_places_asked_for():
    head = PatchHead(widths=(3, 5), nc=7)
    features = [torch.randn(2, 3, 4, 4), torch.randn(2, 5, 2, 2)]
    places = [torch.tensor([0, 5, 15]), torch.tensor([3])]
    a, b = head(features, places)
    assert (a.shape, b.shape) == ((2, 3, 7), (2, 1, 7))
    torch.testing.assert_close(a.norm(dim=2), torch.ones(2, 3))
    v = head.mlps[0](features[0][:, :, 1, 1])
    torch.testing.assert_close(a[:, 1], v / v.norm(dim=1, keepdim=True))


def test_a_critic_has_no_more_layers_than_asked_for_and_than_its_size_has():
    how = "instance", False, "normal", 0.02
    assert gan.make_critic("small", 3, 256, 1, *how).n_layers == 1
    assert gan.make_critic("tiny", 3, 256, 3, *how).n_layers == 1
    assert gan.make_critic("small", 3, 256, 3, *how).n_layers == 3


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("antialias", [True, False])
def test_the_gradient_through_instance_norm_is_that_of_finite_differences(
    batch, antialias, float64
):
    """At batch 1 torch 2.13's CPU kernel fails for a channels_last cotangent; our networks make none."""
    torch.manual_seed(0)
    net, x = ResNet(ngf=4, n_blocks=1, antialias=antialias), torch.randn(batch, 3, 16, 16)
    way, cotangent, h = torch.randn_like(x), torch.randn_like(x), 1e-5
    value = lambda x: (net(x) * cotangent).sum()
    with torch.no_grad():
        want = (value(x + h * way) - value(x - h * way)) / (2 * h)
    (slope,) = torch.autograd.grad(value(x.requires_grad_()), x)
    assert (slope * way).sum().item() == pytest.approx(want.item(), rel=1e-5)
