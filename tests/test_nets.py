"""The U-Net: shapes and sizes, what starts at zero, checkpointing."""

import pytest
import torch
from truth import lively

from sfumato.nets.sizes import SIZES, UNet, make_net


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("labels", "conditioning"), [(0, 0), (10, 0), (0, 3)])
def test_shapes(size, labels, conditioning):
    with torch.device("meta"):
        net = make_net(size, labels=labels, conditioning=conditioning)
    net = net.to_empty(device="cpu").eval()  # shapes do not need numbers
    label = torch.zeros(2, dtype=torch.long) if labels else None
    with torch.no_grad():
        y = net(torch.zeros(2, 3 + conditioning, 8, 16), torch.zeros(2), label)
    assert y.shape == (2, 3, 8, 16)


def resampling_blocks(widths):
    """What the thesis' settings have more: residual blocks that resample in place of convolutions."""
    embedding = 4 * widths[0]

    def more(c):
        block = 4 * c + 2 * (9 * c * c + c) + (embedding + 1) * 2 * c  # norms, convolutions, level
        return block - (9 * c * c + c)

    return sum(map(more, widths[:-1])) + sum(map(more, widths[1:]))  # down, up


def test_parameters(report):
    with torch.device("meta"):
        nets = {size: make_net(size) for size in SIZES}
        nets["thesis"] = make_net("thesis", conditioning=3)
    count = {size: sum(p.numel() for p in net.parameters()) for size, net in nets.items()}
    report("parameters", *(f"{size} {n:,}" for size, n in count.items()))
    assert 0.9e6 < count["small"] < 1.3e6
    # resblock_updown=False of the U-Net that the thesis used; by its own settings 62,641,347
    assert count["thesis"] == 58_073_091
    assert count["thesis"] + resampling_blocks((64, 128, 256, 512)) == 62_641_347
    assert sorted(count.values()) == [count[size] for size in SIZES]


@pytest.mark.parametrize("size", ["tiny", "small"])
def test_it_starts_as_zero_and_learns(size):
    """Output zero, yet the gradient reaches the head and, once that has moved, every parameter."""
    net, x = make_net(size, labels=2), torch.randn(2, 3, 16, 16)
    log_sigma, label = torch.tensor([-1.0, 1.0]), torch.tensor([0, 2])
    assert torch.equal(net(x, log_sigma, label), torch.zeros_like(x))
    lively(net)
    net(x, log_sigma, label).square().mean().backward()
    for name, p in net.named_parameters():
        assert p.grad.abs().sum() > 0, name


def test_noise_level_and_label_matter():
    net, x = lively(make_net("tiny", labels=2)), torch.randn(1, 3, 16, 16)
    y = [
        net(x, torch.tensor([s]), torch.tensor([k]))
        for s, k in ((0.0, 0), (0.1, 0), (0.0, 1), (0.0, 2))
    ]
    for i in range(4):
        for j in range(i):
            assert not torch.allclose(y[i], y[j], atol=1e-4)


@pytest.mark.parametrize("attention", [0, 2])
def test_checkpointing_changes_nothing(attention):
    options = {"width": 16, "multipliers": (1, 2), "blocks": 1, "labels": 2, "attention": attention}
    a, b = UNet(**options), UNet(**options, checkpointing=True)
    lively(a).train()
    b.load_state_dict(a.state_dict())
    x, log_sigma, label = torch.randn(2, 3, 8, 8), torch.randn(2), torch.tensor([0, 1])
    ya, yb = a(x, log_sigma, label), b(x, log_sigma, label)
    assert torch.equal(ya, yb)
    ya.square().mean().backward()
    yb.square().mean().backward()
    for (name, p), q in zip(a.named_parameters(), b.parameters(), strict=True):
        assert torch.equal(p.grad, q.grad), name


@pytest.mark.parametrize("patch", [1, 2])
def test_pictures_of_any_size_are_mirrored_for_the_network_and_cut_back(patch):
    net = lively(UNet(width=16, multipliers=(1, 2, 2), blocks=1, patch=patch))
    x, t = torch.randn(1, 3, 15, 11), torch.zeros(1)
    wide = 12 if patch == 1 else 16
    whole = torch.cat([x, x.flip(2)], 2)[..., :16, :]
    whole = torch.cat([whole, whole.flip(3)], 3)[..., :wide]
    assert torch.equal(net(x, t), net(whole, t)[..., :15, :11])


def test_unknown_size_and_ones_own_network():
    with pytest.raises(ValueError, match="unknown net 'smal': did you mean 'small'"):
        make_net("smal")
    net = torch.nn.Identity()
    assert make_net(net) is net


@pytest.mark.parametrize("size", ["tiny", "small"])
def test_a_smooth_network_sees_no_grid_and_no_frame(size):
    torch.manual_seed(0)  # of the colour and of the networks
    flat = torch.rand(1, 3, 1, 1).expand(2, 3, 32, 32).contiguous()
    spread = {}
    for smooth in (False, True):
        with torch.no_grad():
            y = lively(make_net(size, smooth=smooth))(flat, torch.zeros(2))
        assert y.shape == flat.shape
        spread[smooth] = ((y.amax((2, 3)) - y.amin((2, 3))) / y.abs().amax((2, 3))).max()
    assert spread[True] < 1e-4 < 1e-2 < spread[False]
