"""Pictures as people hold them in Python, in and out."""

import copy
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import sfumato
from sfumato.checkpoints.model_folder import denoiser_of
from sfumato.core.devices import device_of
from sfumato.core.errors import UserError
from sfumato.data.header import LOST


@pytest.fixture(scope="module")
def model():
    """Gives its source back: SDEdit of strength 0, with a network of 3 channels."""
    part = sfumato.find("diffusion")(net="tiny", domains=("a",))
    return sfumato.find("sdedit")(target=denoiser_of(part, "a")).eval()


def same(model, given):
    return model.translate(given, strength=0.0)


RNG = np.random.default_rng(0)
U8 = RNG.integers(0, 256, (6, 8, 3), np.uint8)


@pytest.mark.parametrize(
    "given",
    [
        U8, U8[None].repeat(2, 0), U8.transpose(2, 0, 1).copy(), U8.astype(np.uint16) * 257,
        (U8 / 127.5 - 1).astype(np.float32), U8 / 127.5 - 1, (U8 / 127.5 - 1).astype(np.float16),
        (U8 / 127.5 - 1).transpose(2, 0, 1)[None], U8.astype(np.int64), U8.astype(np.int32),
    ],
    ids=lambda x: f"{x.dtype}{x.shape}",
)  # fmt: skip
def test_arrays_come_back_as_they_were(model, given):
    out = same(model, given)
    assert isinstance(out, np.ndarray)
    assert (out.dtype, out.shape) == (given.dtype, given.shape)
    np.testing.assert_allclose(
        out.astype(float), given.astype(float), atol=2e-3 if given.dtype == np.float16 else 1e-6
    )


@pytest.mark.parametrize(
    "dtype",
    [
        torch.float32,
        torch.float64,
        torch.float16,
        torch.bfloat16,
        torch.uint8,
        torch.uint16,
        torch.int64,
    ],
)
@pytest.mark.parametrize("many", [True, False])
def test_tensors_come_back_as_they_were(model, dtype, many):
    samples = torch.from_numpy(U8.transpose(2, 0, 1).copy())
    scale = 257 if dtype == torch.uint16 else 1
    given = (
        (samples / 127.5 - 1).to(dtype)
        if dtype.is_floating_point
        else (samples.int() * scale).to(dtype)
    )
    given = given[None].repeat(2, 1, 1, 1) if many else given
    out = same(model, given)
    assert (out.dtype, out.shape) == (dtype, given.shape)
    assert torch.equal(out.double(), given.double())


def test_gray_arrays_and_gray_models(model):
    assert same(model, U8[..., 0]).shape == (6, 8, 3)
    assert (same(model, U8[..., :1]) == U8[..., :1]).all()
    part = sfumato.find("diffusion")(net="tiny", domains=("a",), channels=1)
    gray = sfumato.find("sdedit")(target=denoiser_of(part, "a")).eval()
    luma = same(gray, U8)[..., 0]
    np.testing.assert_allclose(luma, U8 @ [0.299, 0.587, 0.114], atol=0.51)


def test_pillow_pictures_are_prepared_and_come_back(model, tmp_path):
    photo = Image.fromarray(U8).resize((300, 200))
    assert same(model, photo).size == (300, 200)
    sfumato.save(
        sfumato.find("pix2pix")(net="tiny"), tmp_path / "m", info={"size": 16, "resize": "stretch"}
    )
    loaded = sfumato.load(tmp_path / "m")
    assert str(loaded.preparation) == "stretched to 16x16"
    out = loaded.translate(photo)
    assert isinstance(out, Image.Image)
    assert (out.size, out.mode) == ((16, 16), "RGB")
    many = loaded.translate([photo, photo.convert("L"), photo.convert("RGBA")])
    assert [p.size for p in many] == [(16, 16)] * 3
    assert list(many[0].getdata()) == list(out.getdata())


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (torch.rand(2, 3, 8, 8), r"values in \[0, 1\]: expected \[-1, 1\]; type 2 \* x - 1"),
        (torch.rand(2, 3, 8, 8) * 255, r"type x / 127.5 - 1"),
        (np.random.default_rng(0).random((8, 8, 3)), r"type 2 \* x - 1"),
        (torch.randn(2, 3, 8, 8) * 2, r"type x.clip\(-1, 1\)"),
        (torch.full((3, 8, 8), torch.nan), "not numbers"),
        (torch.full((3, 8, 8), torch.inf), "not numbers"),
        (1 / torch.eye(8).expand(3, 8, 8), "not numbers"),
        (torch.zeros(8, 8), r"expected \(C, H, W\)"),
        (torch.zeros(1, 2, 8, 8), "with C 1 or 3"),
        (torch.zeros(0, 3, 8, 8), "empty"),
        (torch.full((3, 8, 8), 300), "samples from 0 to 255"),
        (torch.zeros(3, 8, 8, dtype=torch.complex64), "complex64"),
        (torch.zeros(3, 8, 8, dtype=torch.bool), "bool"),
        (np.zeros((2, 2, 2, 2, 2)), "an array of shape"),
        ("cat.jpg", "is a path"),
        (None, "a NoneType is not a picture"),
        ([torch.zeros(3, 8, 8), None], "a NoneType is not a picture"),
        (Image.new("F", (8, 8)), "mode F"),
    ],
)
def test_what_is_no_picture_is_refused_with_what_to_type(model, given, says):
    with pytest.raises(UserError, match=says) as error:
        same(model, given)
    assert "\n" not in str(error.value)


def test_bright_pictures_and_other_numbers_go_as_they_are(model):
    x = torch.rand(2, 3, 8, 8)
    assert model.translate(x, strength=0.0, as_is=True) is x


def test_read_and_write_are_inverse(tmp_path):
    sfumato.write(U8, tmp_path / "x.png")
    image = sfumato.read(tmp_path / "x.png")
    assert image.shape == (3, 6, 8)
    torch.testing.assert_close(
        image, torch.from_numpy(U8.transpose(2, 0, 1) / np.float32(127.5) - 1)
    )
    sfumato.write(torch.stack([image, image]), [tmp_path / "a.png", tmp_path / "b.png"])
    assert torch.equal(sfumato.read([tmp_path / "a.png", tmp_path / "b.png"])[1], image)
    sfumato.write(Image.fromarray(U8[..., 0]), tmp_path / "g.png")
    assert Image.open(tmp_path / "g.png").mode == "L"
    assert sfumato.read(tmp_path / "g.png", channels=1).shape == (1, 6, 8)
    assert sfumato.read(tmp_path / "x.png", size=4).shape == (3, 4, 4)
    for bad, says in (
        ((U8, tmp_path / "x.gif"), "expected .*x.png"),
        ((torch.stack([image, image]), tmp_path / "x.png"), "2 pictures and 1 file:"),
    ):
        with pytest.raises(UserError, match=says):
            sfumato.write(*bad)
    assert not (tmp_path / "y.png").exists()
    with pytest.raises(UserError, match="like= takes a model"):
        sfumato.read(tmp_path / "x.png", like=3)


def test_files_are_read_as_a_model_takes_them(tmp_path):
    sfumato.save(
        sfumato.find("pix2pix")(net="tiny"), tmp_path / "m", info={"size": 16, "resize": "stretch"}
    )
    Image.fromarray(U8).resize((300, 200)).save(tmp_path / "x.png")
    assert sfumato.read(tmp_path / "x.png", like=sfumato.load(tmp_path / "m")).shape == (3, 16, 16)


ODD = {
    "sparse": torch.zeros(1, 3, 8, 8).to_sparse(), "meta device": torch.zeros(1, 3, 8, 8, device="meta"),
    "nested": torch.nested.nested_tensor([torch.zeros(3, 8, 8)]),
    "of torch.float8_e4m3fn": torch.zeros(1, 3, 8, 8).to(torch.float8_e4m3fn),
    "quantised": torch.quantize_per_tensor(torch.zeros(1, 3, 8, 8), 1.0, 0, torch.quint8),
}  # fmt: skip


@pytest.mark.parametrize("what", ODD)
@pytest.mark.parametrize("as_is", [False, True])
def test_odd_tensors_are_named(model, what, as_is, tmp_path):
    with pytest.raises(UserError, match=f"is a tensor that is .*{what}.*: expected a dense one"):
        model.translate(ODD[what], strength=0.0, as_is=as_is)
    name, own = next(iter(model.state_dict().items()))
    odd = {"sparse": own.to_sparse(), "meta device": own.to("meta")}.get(what, own.to(torch.float8_e5m2))
    with pytest.raises(UserError, match=f"^{name} is a tensor that is .*: expected a dense one"):
        sfumato.save(model, tmp_path, weights={name: odd})
    assert not list(tmp_path.iterdir())


def test_a_model_without_values_is_named(model, tmp_path):
    without = copy.deepcopy(model).to("meta")
    for how in ({"given": U8}, {"given": torch.zeros(1, 3, 8, 8), "as_is": True}):
        with pytest.raises(UserError, match="the model is on the meta device, without values"):
            without.translate(how.pop("given"), **how)
    with pytest.raises(UserError, match="is a tensor that is on the meta device"):
        sfumato.save(without, tmp_path)
    with pytest.raises(UserError, match="there is no device 'cpu:3' here"):
        device_of("cpu:3")
    with pytest.raises(UserError, match="there is no device 'meta' here"):
        device_of("meta")


def test_channels_are_counted_as_they_are_given(model):
    pairs = sfumato.find("paired_sde")(net="tiny").eval()
    for part in (model, pairs):
        with pytest.raises(UserError, match=r"network takes a batch \(B, 3, H, W\), not .* \(2, 5, 8, 8\)$"):
            part.translate(torch.zeros(2, 5, 8, 8), as_is=True, steps=2)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (Image.new("RGB", (0, 0)), "empty"),
        (torch.zeros(3, 8, 8).to_sparse(), "sparse"),
        (torch.zeros(3, 8, 8, device="meta"), "meta device"),
        (np.array([["a"]], object), "an array of object"),
        (np.ma.masked_array(U8), "a masked array"),
    ],
)
def test_odd_kinds_are_refused_in_one_line(model, given, says):
    with pytest.raises(UserError, match=says):
        same(model, given)


def test_closed_and_broken_pictures_of_pillow_are_refused(model, tmp_path):
    sfumato.write(RNG.integers(0, 256, (64, 64, 3), np.uint8), tmp_path / "x.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "x.png").read_bytes()[:5000])
    closed = Image.open(tmp_path / "x.png")
    closed.close()
    for given in (closed, Image.open(tmp_path / "cut.png")):
        with pytest.raises(UserError, match="the picture is broken"):
            same(model, given)


def test_sixteen_bits_of_pillow_keep_their_levels_and_dark_ones_are_said(model):
    levels = RNG.integers(0, 65536, (8, 8)).astype(np.uint16)
    deep = Image.fromarray(levels)
    assert deep.mode == "I;16"
    shown = np.asarray(same(model, deep))
    np.testing.assert_allclose(shown, levels[..., None].repeat(3, 2) / 257, atol=0.51)
    with pytest.warns(UserWarning, match=r"reach 2\d\d of 65,535 and come out dark"):
        same(model, U8.astype(np.uint16))


def test_what_is_given_beside_a_model_wins_and_what_is_lost_is_said(tmp_path):
    folder = tmp_path / "m"
    sfumato.save(
        sfumato.find("pix2pix")(net="tiny"), folder, info={"size": 16, "resize": "stretch"}
    )
    frames = [Image.new("RGB", (40, 20), c) for c in ("red", "lime")]
    frames[0].save(tmp_path / "film.gif", save_all=True, append_images=frames[1:])
    loaded = sfumato.load(folder)
    with pytest.warns(
        UserWarning, match=r"film\.gif is of those that hold several pictures.*: 2 pictures"
    ):
        assert sfumato.read(tmp_path / "film.gif", like=loaded, size=8).shape == (3, 8, 8)


@pytest.mark.parametrize("given", [None, b"path", 3, [], [None], "a\0b"])
def test_what_is_no_path_is_refused(given):
    with pytest.raises(UserError, match="must be a path|an empty list was given"):
        sfumato.read(given)


def test_one_file_is_not_written_twice_under_any_of_its_names(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "w").mkdir()
    (tmp_path / "link").symlink_to("w")
    for names in (
        ["d.png", "d.png"], ["w/a.png", "w/./a.png"], ["w/a.png", "w/../w/a.png"],
        ["w/a.png", tmp_path / "w/a.png"], ["link/a.png", "w/a.png"],
    ):  # fmt: skip
        with pytest.raises(UserError, match=r"[ad]\.png is given twice"):
            sfumato.write([U8, U8], names)
    assert not [*tmp_path.rglob("*.png")]


def test_results_are_written_as_the_documented_example_writes_them(tmp_path):
    model = sfumato.load("sfumato/earth_pairs")
    picture = Path(sfumato.__file__).parent / "studio/examples/earth/satellite/0600_2264.png"
    images = sfumato.read([picture], like=model)
    raw, result = (model.translate(images, as_is=one) for one in (True, False))
    assert raw.max() > 1.02
    assert torch.equal(result, raw.clamp(-1, 1))
    sfumato.write(result, [tmp_path / "relief.png"])
    assert sfumato.read(tmp_path / "relief.png").shape == (3, 32, 32)


@pytest.mark.parametrize("name", ["paired_sde", "cyclegan", "neural_ot"])
def test_models_of_64_bits_translate(name):
    torch.manual_seed(0)
    part = sfumato.find(name)(net="tiny").eval()
    few = {"steps": 2} if name == "paired_sde" else {}
    x = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    wanted = part.translate(x, **few)
    got = part.double().translate(x, **few)
    assert got.dtype == torch.float32
    torch.testing.assert_close(got, wanted, rtol=0, atol=1e-4)


def test_small_pictures_keep_their_size():
    model = sfumato.load("sfumato/earth_pairs")
    for given in (torch.zeros(1, 3, 1, 1), np.zeros((3, 32, 3), np.uint8)):
        assert model.translate(given, steps=1).shape == given.shape


@pytest.mark.parametrize("size", [0, -1, 2.5, "32", float("nan"), 40_000])
def test_sizes_that_make_no_sense_are_refused(tmp_path, size):
    sfumato.write(U8, tmp_path / "x.png")
    with pytest.raises(UserError, match="size .*(expected|must be a whole number)"):
        sfumato.read(tmp_path / "x.png", size=size, upscale=True)


def test_folders_and_models_are_given_by_name(tmp_path):
    model = sfumato.find("pix2pix")(net="tiny")
    sfumato.write(U8, tmp_path / "x.png")
    for paths, how, says in (
        (None, {}, "paths must be a path"),
        (U8, {}, "paths must be a path .* not a ndarray"),
        ([None], {}, r"paths\[0\] must be"),
        (tmp_path / "x.png", {"out": ""}, "out must be"),
        (tmp_path / "x.png", {"model": model}, "model .*must be .* not a Pix2Pix"),
    ):
        with pytest.raises(UserError, match=says):
            sfumato.translate(
                paths, **{"out": tmp_path / "out", "model": "sfumato/earth_pairs"} | how
            )


def test_a_model_of_domains_says_what_translates_with_it():
    with pytest.raises(AttributeError, match=r"sfumato.translator\('ddib', source='FOLDER:A'"):
        _ = sfumato.load("sfumato/digits").translate
    assert not hasattr(sfumato.load("sfumato/digits"), "translate")


def test_bytes_in_another_order_are_numbers_and_int8_is_no_sample(model):
    deep = (U8.astype(np.uint16) * 257).astype(">u2")
    assert (same(model, deep) == deep).all()
    with pytest.raises(UserError, match="int8"):
        same(model, U8.astype(np.int8))


def test_read_only_arrays_are_taken_without_a_word(model):
    frozen = np.asarray(Image.fromarray(U8))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert (same(model, frozen) == frozen).all()


@pytest.mark.parametrize("given", [bytearray(b"xy"), memoryview(U8)])
def test_bytes_are_no_list_of_pictures(model, given):
    with pytest.raises(UserError, match=f"a {type(given).__name__}.* is not a picture: expected"):
        same(model, given)


def test_floats_of_more_bits_than_tensors_have_are_refused(model):
    with pytest.raises(UserError, match="floats of up to 64 bits"):
        same(model, np.zeros((8, 8, 3), np.longdouble))


def test_pictures_that_gradients_flow_to_are_taken_without_a_word(model):
    given = torch.zeros(1, 3, 8, 8, requires_grad=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        same(model, given)


@pytest.mark.parametrize("kind", ["jpeg", "png", "webp"])
def test_a_broken_exif_block_is_said_with_the_files_name_or_not_at_all(kind, tmp_path):
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "a long description"  # turned; behind its table
    whole = exif.tobytes()
    blocks = (("whole", whole, True), ("end", whole[:-8], True), ("cut", whole[:20], False))
    for name, block, turned in blocks:
        file = tmp_path / f"{name}.{kind}"
        Image.fromarray(U8).save(file, exif=block)
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            image = sfumato.read(file)
        assert image.shape == ((3, 8, 6) if turned else (3, 6, 8))
        said = [] if turned else [f"{file} is of those that {LOST['orientation']}"]
        assert [str(w.message) for w in seen] == said


def test_a_bright_picture_is_written_as_it_was_read_and_said(tmp_path):
    bright = np.random.default_rng(0).integers(160, 220, (8, 8, 3), np.uint8)
    Image.fromarray(bright).save(tmp_path / "bright.png")
    picture = sfumato.read(tmp_path / "bright.png")
    with pytest.warns(UserWarning, match=r"\[0, 1\] are taken for a bright picture") as told:
        sfumato.write(picture, tmp_path / "again.png")
    assert told[0].filename == __file__
    assert np.array_equal(np.asarray(Image.open(tmp_path / "again.png")), bright)


@pytest.mark.parametrize(
    "given", [U8, U8.astype(np.uint16) * 257, U8 / 127.5 - 1, torch.zeros(3, 8, 8), Image.fromarray(U8)],
    ids=lambda x: str(getattr(x, "dtype", "Pillow")),
)  # fmt: skip
def test_results_that_are_no_numbers_are_refused_in_every_kind(given):
    part = sfumato.find("cyclegan")(net="tiny")
    next(part.parameters()).data.fill_(float("nan"))
    with pytest.raises(UserError, match="the result has values that are not numbers: the model diverged"):
        part.eval().translate(given)
