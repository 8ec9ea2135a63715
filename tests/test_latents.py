"""Methods in the latents of a codec: the same as on pictures where the codec is a change of basis."""

import inspect
import json
import shutil

import pytest
import torch
from truth import lively

import sfumato
from sfumato.checkpoints.model_folder import describe_folder
from sfumato.diffusion.latents import InLatents, moments
from sfumato.diffusion.process import Cosine
from sfumato.evaluation.learned import Learned
from sfumato.explore.encode_pictures import decode_latents, encode_pictures
from sfumato.explore.latents import Latents
from sfumato.explore.trajectory import record
from sfumato.methods.registry import find, info, name_of, names
from sfumato.module import Part
from sfumato.nets.autoencoder import ConvCodec
from sfumato.translation.translator import options_of

X = torch.rand(8, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1


class Turned(Part):
    """An orthogonal codec: 2x2 pixels become 12 channels, in another basis; or they are only renamed."""

    turn: bool = True

    def __post_init__(self):
        self.channels, self.latent_channels, self.factor = 3, 12, 2
        z = torch.randn(12, 12, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        self.register_buffer("basis", torch.linalg.qr(z)[0])

    def encode(self, x):
        if not self.turn:
            return x.reshape(len(x), 12, x.shape[2] // 2, x.shape[3] // 2)
        return torch.einsum("ij,bjhw->bihw", self.basis.to(x), torch.pixel_unshuffle(x, 2))

    def decode(self, z):
        if not self.turn:
            return z.reshape(len(z), 3, z.shape[2] * 2, z.shape[3] * 2)
        return torch.pixel_shuffle(torch.einsum("ji,bjhw->bihw", self.basis.to(z), z), 2)


class Normal(Part):
    """E[x | x_t] of pixels from N(mean, std^2), or of a codec's latents of such pictures."""

    mean: float
    std: float
    codec_of_latents: Part | None = None
    process = Cosine()

    def forward(self, x_t, t):
        codec = self.codec_of_latents
        x = codec.decode(x_t) if codec else x_t
        alpha, sigma = self.process.at(t, x)
        gain = self.std**2 * alpha / (self.std**2 * alpha**2 + sigma**2)
        mean = self.mean + gain * (x - alpha * self.mean)
        return codec.encode(mean) if codec else mean


def both(method, codec, **roles):
    """A method on pictures, and the same in the latents of a codec that only turns them."""
    made = lambda c: find(method)(**{k: Normal(codec_of_latents=c, **v) for k, v in roles.items()})
    return made(None), InLatents(codec=codec, method=made(codec))


def networks(method="diffusion", **how):
    """A tiny method in the latents of a tiny codec; random weights."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        codec = ConvCodec(width=8, latent_channels=4, factor=4)
        domains = {"domains": ("a", "b")} if method == "diffusion" else {}
        part = InLatents(codec=codec, method=find(method)(net="tiny", channels=4, **domains, **how))
        return lively(part).eval()


@pytest.fixture(scope="module")
def runs(pngs, tmp_path_factory):
    """A folder with a codec `ae`, a model `model` in its latents, and pictures `a` and `b`."""
    root = tmp_path_factory.mktemp("latents")
    g = torch.Generator().manual_seed(0)
    for name in "ab":
        x = torch.randint(0, 256, (6, 4, 4, 3), generator=g, dtype=torch.uint8)
        x = x.repeat_interleave(4, 1).repeat_interleave(4, 2)
        shutil.copytree(pngs(x.numpy()), root / name)
    train(root, "autoencoder", "ae", options={"net": "tiny", "critic_after": 2}, steps=4)
    train(root, "diffusion", "model", codec=root / "ae")
    return root


def train(root, method, out, **how):
    how = {"options": {"net": "tiny"}, "steps": 4, **how}
    return sfumato.train(
        method, {n: root / n for n in "ab"}, root / out, size=16, batch=4, held_out=0.2, preview_every=0,
        quiet=True, flip=True, **how,
    )  # fmt: skip


def test_ddib_in_a_turned_basis_is_ddib():
    roles = {"source": {"mean": 0.1, "std": 0.5}, "target": {"mean": -0.4, "std": 0.3}}
    pixels, latents = both("ddib", Turned(), **roles)
    x = X.double()
    y = pixels.translate(x, as_is=True)
    assert (y - x).abs().mean() > 0.1
    torch.testing.assert_close(latents.translate(x, as_is=True), y, rtol=0, atol=1e-12)


def test_sdedit_of_renamed_pixels_meets_the_same_noise():
    pixels, latents = both("sdedit", Turned(turn=False), target={"mean": -0.4, "std": 0.3})
    y = pixels.translate(X, as_is=True, seed=3)
    assert torch.equal(latents.translate(X, as_is=True, seed=3), y)
    assert not torch.equal(latents.translate(X, as_is=True, seed=4), y)


@pytest.mark.parametrize("method", ["sdedit", "ilvr"])
def test_a_picture_meets_the_same_noise_in_any_batch(method):
    """Noise by latents would make results differ by as much as they are."""
    model = networks()
    part = model.around(find(method)(target=sfumato.Conditioned(denoiser=model.denoiser, domain="a")))
    how = {"as_is": True, "steps": 4} | ({"factor": 4} if method == "ilvr" else {})
    y = part.translate(X, **how)
    alone = torch.cat([part.translate(x[None], **how) for x in X])
    assert (alone - y).abs().max() / y.abs().max() < 2e-6


def test_noise_of_large_pictures_is_that_of_their_places():
    _, latents = both("sdedit", Turned(), target={"mean": -0.4, "std": 0.3})
    x = torch.rand(1, 3, 256, 16) * 2 - 1
    other = x.clone()
    other[..., 64:128, :] = 0
    y, changed = (latents.translate(one, as_is=True, steps=2) for one in (x, other))
    assert torch.equal(y[..., 128:, :], changed[..., 128:, :])
    assert not torch.equal(y[..., :64, :], changed[..., :64, :])


def test_latents_have_unit_deviation(runs):
    model = sfumato.load(runs / "model")
    found = moments([model.encode(sfumato.read(sorted((runs / n).glob("*")), like=model)) for n in "ab"])
    assert found["means"] == pytest.approx([0] * 4, abs=0.15)  # some are held out
    assert found["deviations"] == pytest.approx([1] * 4, abs=0.15)
    assert name_of(model) == "diffusion"
    assert info(model).trains_on == "domains"
    assert (model.domains, model.channels) == (("a", "b"), 3)


def test_models_that_were_trained_apart_go_together(runs, tmp_path):
    """Their scale is the codec's, whatever pictures each of them has seen."""
    parts = {}
    for name in "ab":
        folders = {name: runs / name}
        parts[name] = sfumato.train(
            "diffusion", folders, tmp_path / name, size=16, batch=2, steps=2, options={"net": "tiny"},
            codec=runs / "ae", preview_every=0, quiet=True, held_out=0.2,
        )  # fmt: skip
    recorded = describe_folder(runs / "ae")["info"]["latents"]
    assert [*parts["a"].means] == recorded["means"] == [*parts["b"].means]
    assert [*parts["a"].deviations] == recorded["deviations"]
    ddib = sfumato.translator("ddib", source=tmp_path / "a", target=tmp_path / "b")
    assert ddib.translate(X[:2], as_is=True, steps=2).shape == (2, 3, 16, 16)


def test_a_codec_that_records_no_scale_is_measured_and_said(runs, tmp_path, capsys):
    codec = sfumato.load(runs / "ae")
    sfumato.save(codec, tmp_path / "old", info={"size": 16})
    made = sfumato.train(
        "diffusion", {n: runs / n for n in "ab"}, tmp_path / "x", size=16, batch=4, steps=1,
        codec=tmp_path / "old", options={"net": "tiny"}, preview_every=0,
    )  # fmt: skip
    assert "old does not record this scale, which is measured on these pictures" in capsys.readouterr().err
    assert len(made.deviations) == 4
    text = (runs / "ae/model.json").read_text()
    zeros = {"means": [0.0] * 4, "deviations": [0.0] * 4}
    for bad in ({"means": [0.0]}, {"means": 1, "deviations": 1}, zeros):
        said = json.loads(text)
        said["info"]["latents"] = bad
        (tmp_path / "old/model.json").write_text(json.dumps(said))
        with pytest.raises(ValueError, match=r"its scale of latents is|must be above 0, not 0"):
            train(runs, "diffusion", tmp_path / "y", codec=tmp_path / "old", steps=1)


def test_a_killed_run_goes_on_without_the_codecs_folder(runs, tmp_path):
    for name in ("a", "b", "ae"):
        shutil.copytree(runs / name, tmp_path / name)
    train(tmp_path, "diffusion", "run", codec=tmp_path / "ae", steps=2)
    shutil.rmtree(tmp_path / "ae")
    train(tmp_path, "diffusion", "run", resume=True)
    train(runs, "diffusion", "straight", codec=runs / "ae", steps=2)
    train(runs, "diffusion", "straight", resume=True)
    resumed, straight, once = (
        (d / "weights.safetensors").read_bytes()
        for d in (tmp_path / "run", runs / "straight", runs / "model")
    )
    assert resumed == straight == once
    with pytest.raises(ValueError, match=r"run learns with codec \S*ae, not \S*model"):
        train(tmp_path, "diffusion", "run", codec=runs / "model", resume=True, steps=6)


def test_only_the_method_learns(runs):
    saved = sfumato.load(runs / "ae").codec.state_dict()
    model = sfumato.load(runs / "model")
    assert all(torch.equal(v, saved[k]) for k, v in model.codec.state_dict().items())
    assert not any(p.requires_grad for p in model.codec.parameters())


def test_a_picture_is_encoded_once():
    model, seen = networks().train(), []
    encode = model.codec.encode
    model.codec.encode = lambda x: seen.append(len(x)) or encode(x)
    shown = [X, X.flip(3), X, X[[1, 0, 2, 3, 5, 4, 7, 6]].flip(3)]
    batches = iter((x, torch.zeros(8, dtype=torch.long)) for x in shown)
    latents = [z for z, _ in model._latents(batches)]
    assert seen == [8, 8]
    assert not model.codec.training
    assert torch.equal(latents[2], latents[0])
    assert torch.equal(latents[3], model.encode(shown[3]))


def test_pixels_that_are_kept_come_out_as_they_went_in():
    model = networks()
    part = model.around(find("sdedit")(target=sfumato.Conditioned(denoiser=model.denoiser, domain="a")))
    mask = torch.zeros(1, 1, 16, 16)
    mask[..., :7] = 1
    y = part.translate(X, as_is=True, steps=2, mask=mask)
    assert torch.equal(y[..., :7], X[..., :7])
    assert not torch.equal(y[..., 7:], part.translate(X, as_is=True, steps=2)[..., 7:])
    odd = part.translate(X[..., :15, :13], as_is=True, steps=2, mask=mask[..., :15, :13])
    assert odd.shape == (8, 3, 15, 13)


def test_a_translator_of_two_domains(runs, tmp_path):
    model = runs / "model"
    sfumato.translate(
        runs / "a", tmp_path / "out", method="ddib", source=f"{model}:a", target=f"{model}:b",
        options={"steps": 2},
    )  # fmt: skip
    assert len([*(tmp_path / "out").glob("*.png")]) == 6
    ilvr = sfumato.translator("ilvr", target=f"{model}:b")
    assert options_of(ilvr, {})["clip"] is False
    assert "of 2 latents a side (8 pixels) is of latents" in ilvr.low_pass({"factor": 8})
    with pytest.raises(ValueError, match="factor 6 is in pixels, of which 4 a side are one latent: expected"):
        ilvr.translate(X, factor=6)
    with pytest.raises(ValueError, match="clip True is of colours in .-1, 1., and latents have none"):
        options_of(ilvr, {"clip": True})


def test_large_pictures_are_seen_by_windows_of_latents():
    model = networks()
    part = model.around(find("ddib")(*[], **{
        k: sfumato.Conditioned(denoiser=model.denoiser, domain="a") for k in ("source", "target")
    }))  # fmt: skip
    seen, net = [], sfumato.windowed(part, size=32)
    inner = net.method.source.denoiser.net
    assert (inner.size, inner.stride, inner.whole) == (8, 6, 8)
    net.translate(torch.rand(1, 3, 48, 32) * 2 - 1, steps=2, watch=lambda t, x, *_: seen.append(x.shape))
    assert {*seen} == {(1, 4, 12, 8)}


@pytest.mark.parametrize(
    ("method", "how", "said"),
    [
        ("diffusion", {"options": {"channels": 1}}, "codec of pictures of 3 channels, not 1: leave out --ch"),
        ("diffusion", {"size": 18}, "makes one latent of 4x4 pixels: expected a --size that is a multiple o"),
        ("diffusion", {"codec": "a"}, "is not a model folder"),
        ("autoencoder", {}, "makes 4 latents a side of 16 pixels, and Autoencoder needs 8: expected --s"),
        ("autoencoder", {"size": 64}, "has a codec of its own: use it without another"),
    ],
)
def test_what_is_refused(runs, tmp_path, method, how, said):
    how = {"codec": "ae", "size": 16, "upscale": True, "quiet": True, **how}
    folders = {n: runs / n for n in "ab"}
    with pytest.raises(ValueError, match=said) as error:
        sfumato.train(method, folders, tmp_path / "x", steps=1, **how | {"codec": runs / how["codec"]})
    assert "\n" not in str(error.value)


def test_no_codec_and_other_latents_are_refused(runs, tmp_path):
    sfumato.save(networks().method, tmp_path / "plain")
    with pytest.raises(ValueError, match="plain has no codec: expected a model of `sfumato train auto"):
        train(runs, "diffusion", tmp_path / "x", codec=tmp_path / "plain")
    sfumato.save(networks(), tmp_path / "other")
    for other in ("other", "plain"):
        with pytest.raises(ValueError, match=f"model and target {tmp_path / other} do not work in the same"):
            sfumato.translator("ddib", source=f"{runs / 'model'}:a", target=f"{tmp_path / other}:a")


def test_a_model_in_latents_is_begun_with(runs, tmp_path):
    for name in ("a", "b"):
        shutil.copytree(runs / name, tmp_path / name)
    old, net = sfumato.load(runs / "model"), {"options": {}, "start": runs / "model", "steps": 1, "lr": 1e-9}
    new = train(tmp_path, "diffusion", "new", **net)
    assert (new.means, new.deviations, new.channels) == (old.means, old.deviations, 3)
    wanted = old.state_dict()
    assert all(torch.allclose(v, wanted[k], atol=1e-6) for k, v in new.state_dict().items())
    train(tmp_path, "diffusion", "new", options={}, resume=True, steps=2)
    sfumato.save(networks(), tmp_path / "other")
    with pytest.raises(ValueError, match="model learned in the latents of another codec: leave out --codec"):
        train(tmp_path, "diffusion", "x", codec=tmp_path / "other", **net)
    sfumato.save(old.method, tmp_path / "plain", info={"size": 4})
    with pytest.raises(ValueError, match="plain learned from pictures, not from latents: leave out --codec"):
        train(tmp_path, "diffusion", "x", codec=runs / "ae", **net | {"start": tmp_path / "plain"})


def test_noise_and_steps_are_shown_as_pictures(runs, tmp_path):
    kept = encode_pictures(runs / "a", f"{runs / 'model'}:a", steps=3)
    assert (kept.latents.shape, kept.images.shape) == ((6, 4, 4, 4), (6, 3, 16, 16))
    kept.save(tmp_path / "z.safetensors")
    again = Latents.load(tmp_path / "z.safetensors")
    images = decode_latents(again, f"{runs / 'model'}:b", tmp_path / "out", steps=3)
    ddib = sfumato.translator("ddib", source=f"{runs / 'model'}:a", target=f"{runs / 'model'}:b")
    wanted = ddib.method.decode(ddib.method.encode(ddib.encode(kept.images), steps=3), steps=3)
    torch.testing.assert_close(images, ddib.decode(wanted), rtol=0, atol=2e-6)
    whole = sfumato.load(runs / "model")
    twice = tuple(2 * d for d in whole.deviations)
    other = InLatents(codec=whole.codec, method=whole.method, means=whole.means, deviations=twice)
    sfumato.save(other, tmp_path / "other")
    with pytest.raises(ValueError, match="not of the same codec and scale: train both with one --codec"):
        decode_latents(again, f"{tmp_path / 'other'}:b", tmp_path / "no", steps=3)
    seen = record(ddib, X[:1], options={"steps": 4})
    assert seen.states.shape == (4, 1, 4, 16, 16)
    assert seen.means.shape == (4, 1, 3, 16, 16)
    assert (seen.means[-1] - seen.result).abs().mean() < 0.1


@pytest.mark.parametrize("method", [n for n in names() if info(n).trains_on and n != "autoencoder"])
def test_every_method_works_in_latents(runs, method, tmp_path):
    """It is trained by `train --codec` on 8x8 latents, saved, loaded, and gives results of the right size."""
    folders = {n: runs / n for n in "ab"}
    part = sfumato.train(
        method, folders if info(method).trains_on == "domains" else [*folders.values()], tmp_path / "run",
        size=32, upscale=True, batch=2, steps=2, codec=runs / "ae", options={"net": "tiny"}, preview_every=0,
        held_out=0, quiet=True,
    )  # fmt: skip
    assert type(part) is InLatents
    part = sfumato.load(tmp_path / "run")
    if info(part).translates:
        takes = ("as_is", *inspect.signature(find(method).translate).parameters)
        how = {k: v for k, v in {"as_is": True, **options_of(part, {}), "steps": 2}.items() if k in takes}
        x = torch.nn.functional.interpolate(X[:2], (32, 29))
        made, alone = part.translate(x, **how), torch.cat([part.translate(one[None], **how) for one in x])
        assert made.shape == x.shape
        assert (alone - made).abs().max() / made.abs().max() < 1e-4  # instance norms add to it


@pytest.mark.parametrize("method", ["pix2pix", "cyclegan", "cut", "fastcut"])
def test_generators_answer_beyond_the_bounds_of_pictures(method):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        free, bounded = (find(method)(net="tiny", channels=4, side=8, bounded=b) for b in (False, True))
    free.load_state_dict(bounded.state_dict())
    z = 30 * torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    made = [part.eval().translate(z, as_is=True) for part in (free, bounded)]
    torch.testing.assert_close(made[0].tanh(), made[1])
    assert made[1].abs().max() <= 1
    with pytest.raises(ValueError, match="answers in .-1, 1., beyond which latents lie: make it with bo"):
        InLatents(codec=ConvCodec(width=8), method=bounded)


def test_a_classifier_of_latents_guides(runs):
    train(runs, "domain_classifier", "which", codec=runs / "ae", steps=1)
    roles = {"target": f"{runs / 'model'}:a", "classifier": runs / "which"}
    part = sfumato.translator("egsde", **roles)
    assert part.translate(X[:2], as_is=True, steps=2).shape == (2, 3, 16, 16)
    with pytest.raises(ValueError, match="which sees latents: expected a classifier of pictures, or lite0"):
        Learned(runs / "which")
