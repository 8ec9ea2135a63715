"""Weights of the public repositories, in files made on the spot by networks of their keys and layout."""

import contextlib
import random
import re
import time
import warnings
import zipfile

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from sfumato.checkpoints import foreign
from sfumato.checkpoints.foreign import read_generator
from sfumato.checkpoints.model_folder import load, save
from sfumato.cli import main as cli
from sfumato.core.errors import UserError
from sfumato.module import describe

PICTURES = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1


class Named(nn.Module):
    """Layers under a name, as in `model.1.weight`."""

    def __init__(self, name, layers):
        super().__init__()
        self.name = name
        setattr(self, name, nn.Sequential(*layers))

    def forward(self, x):
        return getattr(self, self.name)(x)


def affine(channels):
    return nn.InstanceNorm2d(channels, affine=True)


class Block(Named):
    def forward(self, x):
        return x + self.conv_block(x)


class Blur(nn.Module):
    """A fixed filter kept as a buffer, one copy a channel: (1, 2, 1) down, (1, 3, 3, 1) up."""

    def __init__(self, channels, taps):
        super().__init__()
        k = torch.tensor(taps, dtype=torch.float32)
        k = torch.outer(k, k) / k.sum() ** 2
        self.register_buffer("filt", k[None, None].repeat(channels, 1, 1, 1))

    def forward(self, x):
        if len(self.filt[0, 0]) == 3:
            return F.conv2d(
                F.pad(x, (1,) * 4, mode="reflect"), self.filt, stride=2, groups=x.shape[1]
            )
        y = F.pad(x, (1,) * 4, mode="replicate")
        y = F.conv_transpose2d(y, 4 * self.filt, stride=2, padding=2, groups=x.shape[1])
        return y[:, :, 1:-1, 1:-1]


def resnet(ngf, blocks, *, blur=False, norm=nn.InstanceNorm2d, dropout=False, channels=3):
    bias, c, stride = norm is not nn.BatchNorm2d, ngf, 1 if blur else 2
    layers = [nn.ReflectionPad2d(3), nn.Conv2d(channels, c, 7, bias=bias), norm(c), nn.ReLU(True)]
    for _ in range(2):
        layers += [nn.Conv2d(c, 2 * c, 3, stride, 1, bias=bias), norm(2 * c), nn.ReLU(True)]
        c *= 2
        layers += [Blur(c, (1, 2, 1))] * blur
    for _ in range(blocks):
        half = [nn.ReflectionPad2d(1), nn.Conv2d(c, c, 3, bias=bias), norm(c)]
        other = [nn.ReflectionPad2d(1), nn.Conv2d(c, c, 3, bias=bias), norm(c)]
        middle = [nn.ReLU(True), *[nn.Dropout(0.5)] * dropout]
        layers.append(Block("conv_block", [*half, *middle, *other]))
    for _ in range(2):
        up = nn.ConvTranspose2d(c, c // 2, 3, 2, 1, output_padding=1, bias=bias)
        if blur:
            layers += [Blur(c, (1, 3, 3, 1)), nn.Conv2d(c, c // 2, 3, 1, 1, bias=bias)]
        else:
            layers.append(up)
        c //= 2
        layers += [norm(c), nn.ReLU(True)]
    layers += [nn.ReflectionPad2d(3), nn.Conv2d(c, channels, 7), nn.Tanh()]
    return shaken(Named("model", layers))


class Level(Named):
    """A level of the U-Net around the next; all but the outermost pass their input on beside it."""

    def forward(self, x):
        y = self.model(x)
        return y if isinstance(self.model[-1], nn.Tanh) else torch.cat([x, y], 1)


def unet(ngf, downs, norm=nn.BatchNorm2d, dropouts=0):
    widths = [ngf * min(2**i, 8) for i in range(downs)]
    bias, inner = norm is not nn.BatchNorm2d, None
    for i in reversed(range(downs)):
        c_in, c = widths[i - 1] if i else 3, widths[i]
        down = nn.Conv2d(c_in, c, 4, 2, 1, bias=bias)
        c_mid = c if inner is None else 2 * c
        if i == 0:
            up = nn.ConvTranspose2d(c_mid, 3, 4, 2, 1)
            layers = [down, inner, nn.ReLU(True), up, nn.Tanh()]
        else:
            up = [nn.ReLU(True), nn.ConvTranspose2d(c_mid, c_in, 4, 2, 1, bias=bias), norm(c_in)]
            middle = [] if inner is None else [norm(c), inner]
            drop = [nn.Dropout(0.5)] * (inner is not None and i >= downs - 1 - dropouts)
            layers = [nn.LeakyReLU(0.2, True), down, *middle, *up, *drop]
        inner = Level("model", layers)
    return shaken(Outer(inner))


class Outer(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, x):
        return self.model(x)


def shaken(net):
    """Random numbers everywhere, the running averages included."""
    g = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for k, v in net.state_dict().items():
            if v.is_floating_point() and not k.endswith("filt"):
                v.add_(0.4 * (torch.rand(v.shape, generator=g) - 0.5))
    return net.eval()


def written(net, file, **changes):
    torch.save({k: v for k, v in (net.state_dict() | changes).items() if v is not None}, file)
    return file


@pytest.mark.parametrize(
    ("net", "method", "said"),
    [
        (resnet(4, 2), "cyclegan", "ResNet-2 of 4 channels, instance norm, strided sampling"),
        (resnet(6, 3, norm=nn.BatchNorm2d), "cyclegan", "ResNet-3 of 6 channels, batch norm, strided"),
        (resnet(4, 2, dropout=True), "cyclegan", "ResNet-2 of 4 channels"),
        (resnet(4, 3, blur=True), "cut", "ResNet-3 of 4 channels, instance norm, blurred sampling"),
        (resnet(4, 2, norm=affine), "cyclegan", "ResNet-2 of 4 channels, affine norm, strided"),
        (unet(4, 3, norm=affine), "pix2pix", "U-Net of 3 levels and 4 channels, affine norm"),
        (unet(4, 5), "pix2pix", "U-Net of 5 levels and 4 channels, batch norm"),
        (unet(4, 3, norm=nn.InstanceNorm2d), "pix2pix", "U-Net of 3 levels and 4 channels, instance"),
    ],
)  # fmt: skip
def test_a_file_translates_as_the_network_it_came_from(net, method, said, tmp_path, report):
    part, found = read_generator(written(net, tmp_path / "latest_net_G.pth"))
    assert found.startswith(f"a {method} generator, a {said}")
    save(part, tmp_path / "m")
    with torch.no_grad():
        want, mine = net(PICTURES), load(tmp_path / "m").translate(PICTURES)
    assert want.std() > 0.05
    error = (mine - want).abs().max().item()
    report(f"imported {said}, largest difference", error)
    assert error < 2e-5


def test_the_published_sizes_are_told_from_the_shapes(tmp_path):
    file = tmp_path / "G.pth"
    for net, norm in ((resnet(64, 9), "instance"), (unet(64, 8), "batch")):
        part, _ = read_generator(written(net, file))
        made = describe(part)["net"]
        assert made["norm"] == norm
        assert {"ngf": 64, "n_blocks": 9}.items() <= made.items() or (
            {"ngf": 64, "downs": 8, "dropouts": 3}.items() <= made.items()
        )


def test_old_files_other_names_and_those_of_several_gpus(tmp_path):
    net, batch = resnet(4, 2), unet(4, 4)
    old = {"model.2.running_mean": torch.zeros(4), "model.2.running_var": torch.ones(4)}
    a, _ = read_generator(written(net, tmp_path / "a.pth", **old))
    torch.save({f"module.{k}".replace("conv_block", "block"): v for k, v in net.state_dict().items()},
               tmp_path / "b.pth")  # fmt: skip
    b, _ = read_generator(tmp_path / "b.pth")
    assert torch.equal(a.translate(PICTURES), b.translate(PICTURES))
    uncounted = {k: None for k in batch.state_dict() if k.endswith("num_batches_tracked")}
    part, _ = read_generator(written(batch, tmp_path / "c.pth", **uncounted))
    with torch.no_grad():
        torch.testing.assert_close(part.translate(PICTURES), batch(PICTURES), rtol=0, atol=2e-5)


def test_both_ways_of_a_cyclegan_and_one(tmp_path):
    there, back = resnet(4, 2), resnet(4, 2)
    with torch.no_grad():
        back.model[1].weight.mul_(-0.5)
    files = written(there, tmp_path / "G_A.pth"), written(back, tmp_path / "G_B.pth")
    part, _ = read_generator(*files)
    with torch.no_grad():
        for net, direction in ((there, "source-to-target"), (back, "target-to-source")):
            y = part.translate(PICTURES, direction=direction)
            torch.testing.assert_close(y, net(PICTURES), rtol=0, atol=2e-5)
    one, _ = read_generator(files[0])
    with pytest.raises(ValueError, match="one direction; import the generator of the way back"):
        one.translate(PICTURES, direction="target-to-source")
    with pytest.raises(ValueError, match="trained in both directions"):
        next(one.objectives(iter([(PICTURES, PICTURES)]), torch.Generator()))
    with pytest.raises(UserError, match="hold the same generator: expected one for each way"):
        read_generator(files[0], files[0])
    other = written(resnet(4, 3), tmp_path / "other.pth")
    with pytest.raises(ValueError, match="they are not a pair"):
        read_generator(files[0], other)
    cut = written(resnet(4, 3, blur=True), tmp_path / "cut.pth")
    with pytest.raises(ValueError, match="cut generator, which has no way back"):
        read_generator(cut, other)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model.4.weight": None}, r"model\.4\.weight is missing, expected \(8, 4, 3, 3\)"),
        ({"model.7.weight": torch.zeros(16, 8, 5, 5)}, r"model\.7\.weight is \(16, 8, 5, 5\), expected"),
        ({"model.99.weight": torch.zeros(1)}, r"holds model\.99\.weight, which a ResNet-2 of 4"),
        ({"model.1.weight": None}, r"not a generator of a ResNet .* begins with model\.1\.bias"),
        ({"model.1.weight": torch.zeros(3)}, "not a generator of a ResNet"),
        ({"model.1.weight": "text"}, "not a state dict"),
    ],
)  # fmt: skip
def test_other_keys_are_named(change, message, tmp_path):
    file = written(resnet(4, 2), tmp_path / "G.pth", **change)
    with pytest.raises(ValueError, match=message) as error:
        read_generator(file)
    assert "\n" not in str(error.value)


class Dangerous:
    def __reduce__(self):
        return print, ("this ran",)


def test_what_is_no_file_of_tensors(tmp_path, capsys):
    torch.save({"model.1.weight": Dangerous()}, tmp_path / "bad.pth")
    (tmp_path / "text.pth").write_text("hello")
    (tmp_path / "empty.pth").touch()
    for name, message in (
        ("bad.pth", "other things than tensors"), ("text.pth", "or is damaged"), ("no.pth", "no file"),
        ("empty.pth", "empty.pth is empty; expected a .pth file"),
    ):  # fmt: skip
        with pytest.raises(UserError, match=message) as error:
            read_generator(tmp_path / name)
        assert "weights_only" not in str(error.value)  # torch advises to run what is in the file
    assert "this ran" not in capsys.readouterr().out


def test_rotten_bits_are_not_imported(tmp_path, capsys):
    file = written(resnet(4, 2), tmp_path / "G.pth")
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 0x10
    file.write_bytes(data)
    with pytest.raises(UserError, match="G.pth is damaged: its contents"):
        read_generator(file)


def test_torch_says_nothing_beside_our_line(tmp_path, monkeypatch):
    def noisy(*_, **__):
        warnings.warn("advice of torch's", stacklevel=1)
        raise RuntimeError

    monkeypatch.setattr(torch, "load", noisy)
    (tmp_path / "bad.pth").write_text("hello")
    with pytest.raises(UserError, match="or is damaged"):
        read_generator(tmp_path / "bad.pth")  # pytest makes errors of warnings


def refused(file, message):
    """Import says so in one line, and has not built a network."""
    made = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(foreign, "build", made.append, raising=False)
        with pytest.raises(UserError, match=message) as error:
            read_generator(file)
    assert "\n" not in str(error.value)
    assert not made


def claimed(shape, **how):
    """A tensor of one stored number that claims to be of a shape."""
    return torch.zeros(1, **how).expand(shape)


STRANGE = {
    "sparse": lambda zeros: zeros.to_sparse(),
    "compressed sparse": lambda zeros: zeros.flatten(1).to_sparse_csr(),
    "meta": lambda zeros: zeros.to("meta"),
    "quantised": lambda zeros: torch.quantize_per_tensor(zeros, 0.1, 0, torch.qint8),
    "nested": lambda zeros: torch.nested.nested_tensor([zeros[0], zeros[1, :2]]),
    **{str(d): lambda zeros, d=d: zeros.to(d) for d in (
        torch.complex64, torch.int64, torch.bool, torch.float8_e4m3fn
    )},
}  # fmt: skip


@pytest.mark.parametrize("kind", STRANGE)
@pytest.mark.filterwarnings("ignore")
def test_only_dense_floats_are_imported(kind, tmp_path):
    strange = STRANGE[kind](torch.zeros(4, 3, 7, 7))
    file = written(resnet(4, 2), tmp_path / "G.pth", **{"model.1.weight": strange})
    refused(file, "expected dense floating-point|other things than tensors")


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, 1e300])
def test_weights_that_are_no_numbers_are_not_imported(bad, tmp_path):
    weight = torch.zeros(8, 4, 3, 3, dtype=torch.float64)
    weight[1, 2, 1, 1] = bad
    file = written(resnet(4, 2), tmp_path / "G.pth", **{"model.4.weight": weight})
    refused(file, r"model\.4\.weight has values that are not numbers")


@pytest.mark.parametrize("stored", [True, False], ids=["stored", "claimed"])
@pytest.mark.parametrize("first", ["model.1.weight", "model.model.0.weight"])
def test_no_network_is_built_before_its_shapes_are_compared(first, stored, tmp_path):
    """A first layer of 10,000 channels promises a network of 57 GB."""
    wide = (10_000, 3, 1, 1)
    net = resnet(4, 2) if first == "model.1.weight" else unet(4, 4)
    weight = torch.zeros(wide) if stored else claimed(wide)
    refused(written(net, tmp_path / "G.pth", **{first: weight}), "expected|claim to be larger")


@pytest.mark.parametrize("kind", ["blocks", "levels"])
def test_no_network_is_built_of_any_number_of_blocks(kind, tmp_path):
    if kind == "blocks":
        state = {f"model.{10 + i}.conv_block.1.weight": torch.zeros(1) for i in range(500)}
        state["model.1.weight"] = torch.zeros(4, 3, 7, 7)
    else:
        state = {foreign._level(3000) + "1.weight": torch.zeros(1)}
        state["model.model.0.weight"] = torch.zeros(4, 3, 4, 4)
    torch.save(state, tmp_path / "G.pth")
    began = time.perf_counter()
    refused(tmp_path / "G.pth", "is not a generator")
    assert time.perf_counter() - began < 2


def test_packed_files_are_not_unpacked(tmp_path):
    """A few kilobytes of a zip may be gigabytes of zeros."""
    written(resnet(4, 2), tmp_path / "G.pth", **{"model.4.weight": torch.zeros(1000, 1000)})
    packed = tmp_path / "packed.pth"
    with (
        zipfile.ZipFile(tmp_path / "G.pth") as a,
        zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as b,
    ):
        for entry in a.infolist():
            b.writestr(entry.filename, a.read(entry))
    assert packed.stat().st_size < 1e5
    refused(packed, "it is compressed")


def test_a_generator_that_no_picture_fits_is_not_imported(tmp_path):
    for channels in (2, 4):
        refused(written(resnet(4, 2, channels=channels), tmp_path / "G.pth"), "expected 1 or 3")


def test_damaged_generators_are_refused_in_one_line(tmp_path):
    """40 files with bytes changed, cut, or moved: a UserError, or a generator."""
    rng = random.Random(0)
    good = written(resnet(4, 1), tmp_path / "G.pth").read_bytes()
    for _ in range(40):
        data = bytearray(good)
        for _ in range(rng.choice((1, 3, 30))):
            at = rng.randrange(len(data)) if rng.random() < 0.5 else rng.randrange(2000)
            data[at] = rng.choice((0, 255, data[at] ^ 1 << rng.randrange(8)))
        (tmp_path / "bad.pth").write_bytes(
            data[: rng.choice((None, None, rng.randrange(len(data))))]
        )
        with warnings.catch_warnings(action="ignore"), contextlib.suppress(UserError):
            read_generator(tmp_path / "bad.pth")


def test_on_the_command_line(tmp_path, capsys):
    def run(*words):
        with pytest.raises(SystemExit) as end:
            cli.main([str(w) for w in words])
        return end.value.code, capsys.readouterr()

    file = written(resnet(4, 2), tmp_path / "latest_net_G_A.pth")
    code, said = run("import", file, "--out", tmp_path / "m", "--size", 32)
    assert code == 0
    assert re.search(
        r"holds a cyclegan generator, a ResNet-2 of 4 channels, instance norm", said.out
    )
    assert run("import", file, "--out", tmp_path / "m")[0] == 2
    code, said = run("translate", "--model", tmp_path / "m", "--help")
    assert "--direction" in said.out
    code, said = run("info", tmp_path / "m")
    assert "latest_net_G_A.pth" in said.out
