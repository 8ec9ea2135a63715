"""How results are written: formats, depths, transparency, and what they carry over from their sources."""

import json
import struct

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image, ImageCms, TiffImagePlugin
from PIL.TiffImagePlugin import IFDRational

import sfumato
from sfumato.core.errors import UserError
from sfumato.data.carried import MATRIX, SCALE, TIES, Carried, carried_by
from sfumato.data.open_data import measured_range
from sfumato.data.preparation import Preparation
from sfumato.data.read import header_of, read_file
from sfumato.data.resize import placed
from sfumato.data.write import FORMATS, is_whole, write_samples
from sfumato.translation.pictures import repeat, translate

RNG = np.random.default_rng(0)
DEEP = RNG.integers(0, 65536, (20, 24, 3)).astype(np.uint16)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A denoiser's model; SDEdit of strength 0 gives every picture back."""
    folder = tmp_path_factory.mktemp("results") / "model"
    torch.manual_seed(0)
    part = sfumato.find("diffusion")(net="tiny", domains=("a", "b"))
    sfumato.save(part, folder, info={"size": 16})
    return {"method": "sdedit", "target": f"{folder}:a", "options": {"strength": 0.0}}


def deep_pictures(folder, count=3):
    folder.mkdir(parents=True)
    for i in range(count):
        tifffile.imwrite(folder / f"{i}.tif", np.roll(DEEP, i, 0), photometric="rgb")
    return folder


def contents(folder):
    return {p.name: p.read_bytes() for p in sorted(folder.iterdir()) if p.name != "run.json"}


@pytest.mark.parametrize(("channels", "alpha"), [(1, False), (2, True), (3, False), (4, True)])
@pytest.mark.parametrize(
    ("ending", "dtype"),
    [(e, d) for holds in FORMATS.values() for e in holds.endings[:1] for d in holds.dtypes],
)
def test_what_is_written_is_read(ending, dtype, channels, alpha, tmp_path):
    file, top = tmp_path / f"x{ending}", 1 if dtype == "float32" else np.iinfo(dtype).max
    smooth = np.linspace(0, top, 16 * 12 * channels).reshape(channels, 16, 12).astype(dtype)
    if ending == ".jpg" and alpha:
        with pytest.raises(UserError, match=r"x.jpg: jpeg holds no transparency: choose"):
            write_samples(file, smooth, alpha=True)
        return
    write_samples(file, smooth, alpha=alpha)
    samples, lost = read_file(file, ranged=True)
    wanted = smooth.transpose(1, 2, 0)
    if ending == ".webp" and channels < 3:  # it has no gray
        wanted = wanted[..., [0, 0, 0, *range(1, channels)]]
    assert (samples.dtype, samples.shape, lost) == (dtype, wanted.shape, {})
    assert abs(samples.astype(float) - wanted).max() <= (8 if ending == ".jpg" else 0)
    assert header_of(file).dtype == dtype


def test_what_a_format_does_not_hold_is_said(tmp_path):
    deep = np.zeros((3, 4, 4), np.uint16)
    with pytest.raises(UserError, match="webp holds no samples of uint16: choose another format"):
        write_samples(tmp_path / "x.webp", deep)
    with pytest.raises(UserError, match="webp holds at most 16,383 pixels a side, not 16384x1"):
        write_samples(tmp_path / "x.webp", np.zeros((3, 1, 16384), np.uint8))
    with pytest.raises(UserError, match="ends in .png, .tif, .jpg, .webp, such as .*x.png"):
        write_samples(tmp_path / "x.gif", deep)
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize("ending", [".png", ".tif", ".jpg", ".webp"])
def test_a_cut_file_is_not_whole(ending, tmp_path):
    file = tmp_path / f"x{ending}"
    write_samples(file, RNG.integers(0, 256, (3, 20, 20)).astype(np.uint8))
    whole = file.read_bytes()
    assert is_whole(file)
    for n in (0, 1, 11, len(whole) // 2, len(whole) - 1):
        file.write_bytes(whole[:n])
        assert not is_whole(file), n


def test_results_have_their_sources_depth(model, tmp_path):
    source = deep_pictures(tmp_path / "in")
    Image.fromarray((DEEP >> 8).astype(np.uint8)).save(source / "flat.png")
    translate(source, tmp_path / "out", **model)
    depths = {p.name: header_of(p).dtype for p in (tmp_path / "out").glob("*.png")}
    assert depths == {"0.png": "uint16", "1.png": "uint16", "2.png": "uint16", "flat.png": "uint8"}
    made, seen = (sfumato.read(p, size=16) for p in (tmp_path / "out/0.png", source / "0.tif"))
    assert (made - seen).abs().max() < 1.1 / 65535
    translate(source, tmp_path / "eight", **model, depth=8)
    assert {header_of(p).dtype for p in (tmp_path / "eight").glob("*.png")} == {"uint8"}


@pytest.mark.parametrize(("format", "ending"), [("tiff", "tif"), ("jpeg", "jpg"), ("webp", "webp")])
@pytest.mark.filterwarnings("ignore:results of 16-bit")
def test_other_formats_restart_and_repeat(format, ending, model, tmp_path):
    source = deep_pictures(tmp_path / "in")
    out = tmp_path / "out"
    translate(source, out, **model, format=format)
    before = contents(out)
    assert [*before] == [f"{i}.{ending}" for i in range(3)]
    (out / f"0.{ending}").unlink()
    (out / f"1.{ending}").write_bytes(before[f"1.{ending}"][:-3])
    again = translate(source, out, **model, format=format)
    assert (again.written, again.kept, contents(out)) == (2, 1, before)
    repeat(out, tmp_path / "two")
    assert contents(tmp_path / "two") == before
    with pytest.raises(UserError, match=r"another run \(it differs in format\)"):
        translate(source, out, **model)


def test_what_a_format_loses_is_said(model, tmp_path):
    source = deep_pictures(tmp_path / "in")
    with pytest.warns(UserWarning, match="16-bit pictures have 8 bits, as jpeg holds no more"):
        translate(source, tmp_path / "out", **model, format="jpeg")
    for how, says in (
        ({"format": "jpeg", "depth": 16}, "--depth 16: jpeg holds no 16 bits: --format tiff"),
        ({"format": "jpeg", "alpha": "keep"}, "--alpha keep: jpeg holds no transparency"),
        ({"alpha": "kepe"}, "alpha 'kepe': expected a colour such as white"),
        ({"alpha": "#ff000080"}, "alpha '#ff000080': expected a colour such as white"),
        ({"depth": 12}, "depth must be one of 8, 16, 32 or None, not 12"),
    ):
        with pytest.raises(UserError, match=says):
            translate(source, tmp_path / "no", **model, **how)


def test_a_folder_of_earlier_results_goes_on_with_its_8_bits(model, tmp_path):
    source, out = deep_pictures(tmp_path / "in"), tmp_path / "out"
    translate(source, out, **model, depth=8)
    before, run = contents(out), json.loads((out / "run.json").read_text())
    for key in ("format", "depth", "alpha"):
        del run["run"][key]
    (out / "run.json").write_text(json.dumps(run))
    (out / "1.png").unlink()
    translate(source, out, **model)
    assert contents(out) == before
    repeat(out, tmp_path / "two")
    assert contents(tmp_path / "two") == before


# ---- transparency -------------------------------------------------------------------------------


@pytest.fixture
def sprites(tmp_path):
    folder = tmp_path / "sprites"
    folder.mkdir()
    y, x = np.mgrid[:32, :40]
    ball = np.clip(14.5 - np.hypot(y - 15.5, x - 19.5), 0, 1)
    colour = np.broadcast_to([200, 40, 90], (32, 40, 3))
    pixels = np.dstack([colour, 255 * ball]).round().astype(np.uint8)
    Image.fromarray(pixels).save(folder / "ball.png")
    return folder


@pytest.mark.parametrize("format", ["png", "tiff", "webp"])
def test_sprites_keep_their_alpha(format, sprites, model, tmp_path):
    translate(sprites, tmp_path / "out", **model, format=format, alpha="keep")
    (file,) = (tmp_path / "out").glob("ball.*")
    made, _ = read_file(file)
    with Image.open(sprites / "ball.png") as source:
        wanted = source.getchannel("A").resize((20, 16), Image.Resampling.BICUBIC)
    assert made.shape == (16, 20, 4)
    assert abs(made[..., 3].astype(int) - np.asarray(wanted).astype(int)).max() <= 6
    edge = (made[..., 3] > 40) & (made[..., 3] < 250)
    assert edge.sum() > 8
    assert abs(made[edge][:, :3].astype(int) - [200, 40, 90]).max() < 25  # no white mixed in
    repeat(tmp_path / "out", tmp_path / "two")
    assert contents(tmp_path / "out") == contents(tmp_path / "two")


def test_transparency_is_laid_on_the_colour_that_is_asked_for(sprites, model, tmp_path):
    for colour, corner in {None: (255, 255, 255), "black": (0, 0, 0), "#0080ff": (0, 128, 255)}.items():
        out = tmp_path / str(colour)
        translate(sprites, out, **model, alpha=colour)
        made, _ = read_file(out / "ball.png")
        assert made.shape == (16, 20, 3)
        assert tuple(made[0, 0]) == corner
        assert abs(made[8, 8].astype(int) - [200, 40, 90]).max() <= 2
    assert json.loads((out / "run.json").read_text())["run"]["preparation"]["transparency"] == "on #0080ff"
    repeat(out, tmp_path / "again")
    assert contents(out) == contents(tmp_path / "again")


def test_a_training_lays_transparency_on_its_colour(sprites, tmp_path):
    small = {"size": 16, "batch": 1, "held_out": 0, "preview_every": 0, "quiet": True, "steps": 1}
    part = sfumato.train(
        "diffusion", {"a": sprites}, tmp_path / "run", options={"net": "tiny"}, alpha="black", **small
    )
    saved = sfumato.load(tmp_path / "run").preparation
    assert part is not None
    assert saved.colour == (0, 0, 0)
    assert (saved.read(sprites / "ball.png").image[:, 0, 0] == -1).all()


def test_gray_on_a_colour_is_coloured(tmp_path):
    Image.new("LA", (4, 4), (0, 0)).save(tmp_path / "x.png")
    how = sfumato.data.preparation.Preparation(alpha="#ff0000")
    assert how.read(tmp_path / "x.png").image[:, 0, 0].tolist() == [1, -1, -1]
    assert sfumato.data.preparation.Preparation.from_json(how.to_json()) == how


# ---- what is carried over -----------------------------------------------------------------------


def photo(file):
    exif = Image.Exif()
    exif[0x0112], exif[271], exif[33432] = 6, "Maker", "Someone"
    exif.get_ifd(0x8769).update({36867: "2020:01:02 03:04:05", 0xA002: 99, 0x927C: b"secret"})
    exif.get_ifd(0x8825).update({1: "N", 2: (IFDRational(51), IFDRational(30), IFDRational(0))})
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    image = Image.fromarray(RNG.integers(0, 256, (30, 40, 3)).astype(np.uint8))
    if file.suffix == ".tif":  # whose tables Pillow writes from tags alone
        tags = TiffImagePlugin.ImageFileDirectory_v2()
        for tag in (0x0112, 271, 33432, 0x8769, 0x8825):
            tags[tag] = exif.get(tag) or dict(exif.get_ifd(tag))
        exif = {"tiffinfo": tags}
    else:
        exif = {"exif": exif}
    image.save(file, dpi=(300, 300), icc_profile=profile, **exif)


@pytest.mark.filterwarnings("ignore:.*profile|.*settings and GPS")
@pytest.mark.parametrize("format", ["png", "tiff", "jpeg", "webp"])
@pytest.mark.parametrize("kind", ["jpg", "png", "tif"])
def test_exif_and_resolution_are_carried_over(kind, format, model, tmp_path):
    (tmp_path / "in").mkdir()
    photo(tmp_path / f"in/x.{kind}")
    translate(tmp_path / "in", tmp_path / "out", **model, format=format)
    (file,) = (tmp_path / "out").glob("x.*")
    with Image.open(file) as made:
        exif = made.getexif()
        assert (exif[271], exif[33432]) == ("Maker", "Someone")
        assert 0x0112 not in exif  # it is upright
        if format != "tiff":
            details = exif.get_ifd(0x8769)
            assert details == {36867: "2020:01:02 03:04:05"}
            assert exif.get_ifd(0x8825)[1] == "N"
        assert "icc_profile" not in made.info  # it is sRGB
        dpi = made.info.get("dpi") or (exif[282], exif[283])
        assert np.allclose([float(n) for n in dpi], [160, 157.5], atol=0.6)  # 30x40 to 16x21


def test_deep_pictures_carry_it_too(model, tmp_path):
    (tmp_path / "in").mkdir()
    write_samples(
        tmp_path / "in/x.png", DEEP.transpose(2, 0, 1), Carried({271: "Scanner"}, (600.0, 600.0))
    )
    for format in ("png", "tiff"):
        translate(tmp_path / "in", tmp_path / format, **model, format=format)
        (file,) = (tmp_path / format).glob("x.*")
        found = carried_by(file.read_bytes())
        assert found.exif == {271: "Scanner"}
        assert np.allclose(found.dpi, [475, 480], atol=0.1)  # 24x20 to 19x16


def test_a_tiff_of_which_pillow_reads_nothing_keeps_its_texts(tmp_path, monkeypatch):
    photo(tmp_path / "x.tif")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)  # of which it refuses twice as many
    assert carried_by((tmp_path / "x.tif").read_bytes()).exif == {271: "Maker", 33432: "Someone"}


def test_broken_exif_is_not_carried(tmp_path):
    photo(tmp_path / "x.jpg")
    whole = (tmp_path / "x.jpg").read_bytes()
    at = whole.index(b"Exif\0\0")
    for i in range(at, at + 200):
        for value in (0, 255):
            hurt = bytearray(whole)
            hurt[i] = value
            carried = carried_by(bytes(hurt))
            Image.Exif().load(b"Exif\0\0" + carried.exif_bytes())


KEYED = (1, 1, 0, 1, 1024, 0, 1, 2)


def geo_tiff(file, *, point=False, matrix=False, **how):
    keys = (1, 1, 0, 2, 1024, 0, 1, 2, 1025, 0, 1, 2 if point else 1)
    placed = [(34264, 12, 16, (10.0, 1, 0, 5000, 2, -20, 0, 7000, 0, 0, 0, 0, 0, 0, 0, 1), True)]
    if not matrix:
        placed = [
            (33550, 12, 3, (10.0, 20.0, 0.0), True),
            (33922, 12, 6, (2.0, 3.0, 0.0, 5000.0, 7000.0, 0.0), True),
        ]
    tags = [*placed, (34735, 3, 12, keys, True), (34737, 2, None, "WGS 84|", True)]
    tifffile.imwrite(file, DEEP, photometric="rgb", extratags=tags, metadata=None, **how)


def places(file, pixels):
    """World (x, y) of the points (i, j), counted in pixels from the upper left corner's corner."""
    tags = tifffile.TiffFile(file).pages[0].tags
    ij = np.array(pixels, float) - (0.5 if tags[34735].value[-1] == 2 else 0)
    if MATRIX in tags:
        m = np.array(tags[MATRIX].value).reshape(4, 4)
        return ij @ m[:2, :2].T + m[:2, 3]
    (sx, sy, _), (i, j, _, x, y, _) = tags[SCALE].value, tags[TIES].value
    return np.stack([x + (ij[:, 0] - i) * sx, y - (ij[:, 1] - j) * sy], 1)


@pytest.mark.parametrize("point", [False, True])
@pytest.mark.parametrize("matrix", [False, True])
@pytest.mark.parametrize("resize", ["crop", "stretch", "none"])
def test_geotiffs_keep_their_place(resize, matrix, point, model, tmp_path):
    (tmp_path / "in").mkdir()
    geo_tiff(tmp_path / "in/x.tif", point=point, matrix=matrix)
    translate(tmp_path / "in", tmp_path / "out", **model, resize=resize, format="tiff")
    source, made = tmp_path / "in/x.tif", tmp_path / "out/x.tif"
    h, w, _ = tifffile.imread(made).shape
    corners = {"crop": [(2, 0), (22, 20)], "stretch": [(0, 0), (24, 20)], "none": [(0, 0), (24, 20)]}[resize]
    if resize == "crop":  # 24x20 to 19x16, of which one column is cut on the left
        scale = 19 / 24
        corners = [(1 / scale, 0), (17 / scale, 20)]
    assert np.allclose(places(made, [(0, 0), (w, h)]), places(source, corners))
    tags = tifffile.TiffFile(made).pages[0].tags
    assert (len(tags[34735].value), tags[34737].value) == (12, "WGS 84|")


def test_geotiffs_as_png_lose_their_place_and_that_is_said(model, tmp_path):
    (tmp_path / "in").mkdir()
    geo_tiff(tmp_path / "in/x.tif")
    with pytest.warns(UserWarning, match="GeoTIFFs lose their place on Earth, as png holds none"):
        translate(tmp_path / "in", tmp_path / "out", **model)


def test_where_pixels_lie():
    assert placed((20, 24), (16, 16), "crop", (32, 32)) == ((1.6, 2 * 19 / 24), (0, 2))


# ---- in Python ----------------------------------------------------------------------------------


def test_write_takes_the_format_of_the_name_and_the_depth_of_the_samples(tmp_path):
    for name in ("x.png", "x.tif", "x.TIFF"):
        sfumato.write(DEEP, tmp_path / name)
        assert np.array_equal(read_file(tmp_path / name)[0], DEEP)
    sfumato.write(torch.from_numpy(DEEP[None, ..., 0]), tmp_path / "gray.png")
    assert np.array_equal(read_file(tmp_path / "gray.png")[0][..., 0], DEEP[..., 0])
    sfumato.write(Image.open(tmp_path / "gray.png"), tmp_path / "pillow.png")
    assert np.array_equal(read_file(tmp_path / "pillow.png")[0][..., 0], DEEP[..., 0])
    flat = (DEEP >> 8).astype(np.uint8)
    for name in ("y.webp", "y.jpg"):
        sfumato.write(flat, tmp_path / name)
        assert read_file(tmp_path / name)[0].shape == (20, 24, 3)
    with pytest.raises(UserError, match="jpeg holds no samples of uint16"):
        sfumato.write(DEEP, tmp_path / "z.jpg")


# ---- pages --------------------------------------------------------------------------------------


@pytest.fixture
def stacks(tmp_path):
    folder = tmp_path / "stacks"
    folder.mkdir()
    pages = np.stack([np.roll(DEEP[..., 0], i, 1) for i in range(5)])
    tifffile.imwrite(folder / "deep.tif", pages, photometric="minisblack", metadata=None)
    flat = (pages >> 8).astype(np.uint8)
    with tifffile.TiffWriter(folder / "flat.tif") as writer:
        for page in flat:
            writer.write(page, photometric="minisblack", metadata=None, contiguous=False)
    tifffile.imwrite(folder / "one.tif", flat[0], photometric="minisblack")
    return folder


def test_stacks_are_translated_page_by_page(stacks, model, tmp_path):
    how = {**model, "resize": "none", "batch": 2, "pages": "all"}
    done = translate(stacks, tmp_path / "out", **how)
    assert (done.written, done.skipped, done.lost) == (3, {}, {})
    for name in ("deep.tif", "flat.tif", "one.tif"):
        with tifffile.TiffFile(tmp_path / "out" / name) as made:
            found = [page.asarray() for page in made.pages]
        source = tifffile.imread(stacks / name).reshape(-1, 20, 24)
        assert len(found) == len(source)
        for a, b in zip(found, source, strict=True):
            assert a.dtype == b.dtype
            assert np.array_equal(a[..., 1], b)
    before = contents(tmp_path / "out")
    (tmp_path / "out/deep.tif").write_bytes(before["deep.tif"][:-7])
    again = translate(stacks, tmp_path / "out", **how)
    assert (again.written, again.kept, contents(tmp_path / "out")) == (1, 2, before)
    repeat(tmp_path / "out", tmp_path / "two")
    assert contents(tmp_path / "two") == before


def test_without_pages_the_first_is_read_and_that_is_said(stacks, model, tmp_path):
    done = translate(stacks, tmp_path / "out", **model)
    assert [len(v) for k, v in done.lost.items() if "several pictures" in k] == [2]
    with pytest.raises(UserError, match="--pages all: png holds one picture: choose --format tiff"):
        translate(stacks / "deep.tif", tmp_path / "no", **model, pages="all", format="png")


def test_a_broken_page_leaves_its_file_out(stacks, model, tmp_path):
    data = bytearray((stacks / "flat.tif").read_bytes())
    with tifffile.TiffFile(stacks / "flat.tif") as tiff:
        at = tiff.pages[3].tags["StripOffsets"].valueoffset
    data[at : at + 4] = (10**8).to_bytes(4, "little")
    (stacks / "flat.tif").write_bytes(data)
    done = translate(stacks, tmp_path / "out", **model, batch=2, pages="all")
    assert [*done.skipped] == [str(stacks / "flat.tif")]
    assert sorted(contents(tmp_path / "out")) == ["deep.tif", "one.tif"]


@pytest.mark.parametrize("format", ["png", "tiff", "jpeg", "webp"])
@pytest.mark.parametrize("kind", ["tif", "jpg"])
@pytest.mark.parametrize("encoding", ["utf-8", "latin-1"])
def test_names_with_umlauts_are_carried_over(kind, format, encoding, model, tmp_path):
    name = "Jürgen Möller"
    (tmp_path / "in").mkdir()
    if kind == "tif":
        texts = [(315, 2, None, name.encode(encoding), True)]
        tifffile.imwrite(tmp_path / "in/0.tif", DEEP, photometric="rgb", extratags=texts)
    else:
        exif = Image.Exif()
        exif[315] = b"@" * len(name.encode(encoding))
        block = exif.tobytes().replace(b"@" * len(name.encode(encoding)), name.encode(encoding))
        Image.fromarray((DEEP >> 8).astype(np.uint8)).save(tmp_path / "in/0.jpg", exif=block)
    translate(tmp_path / "in", tmp_path / "out", format=format, depth=8, **model)
    (made,) = (p for p in (tmp_path / "out").iterdir() if p.name != "run.json")
    assert carried_by(made.read_bytes()).exif[315] == name


@pytest.mark.parametrize(
    "odd",
    [
        {33550: (12, (1.0, 2.0))}, {33550: (12, (1.0, 1.0, 0.0)), 33922: (12, (0.0, 0, 0, 5, 6))},
        {34264: (12, tuple(map(float, range(12))))}, {33550: (12, (1.0, 1.0, 0.0)), 34735: (3, (1, 1, 0))},
    ],
    ids=["scale", "ties", "matrix", "keys"],
)  # fmt: skip
def test_tags_that_say_no_place_end_no_run_and_are_said(odd, model, tmp_path):
    (tmp_path / "in").mkdir()
    tags = [(tag, kind, len(values), values, True) for tag, (kind, values) in odd.items()]
    tifffile.imwrite(tmp_path / "in/0.tif", DEEP, photometric="rgb", extratags=tags)
    with pytest.warns(UserWarning, match="tags of GeoTIFF that say no place on Earth"):
        done = translate(tmp_path / "in", tmp_path / "out", format="tiff", **model)
    assert done.written == 1


def test_a_place_is_kept_beside_a_resolution_of_nothing_and_a_number_for_no_data(model, tmp_path):
    (tmp_path / "in").mkdir()
    file = tmp_path / "in/0.tif"
    geo_tiff(file, resolution=(77, 77))
    file.write_bytes(file.read_bytes().replace(struct.pack("<II", 77, 1), bytes(8)))
    tags = carried_by(file.read_bytes()).geo
    more = [(SCALE, 12, 3, tags[SCALE], True), (TIES, 12, 6, tags[TIES], True), (42113, 12, 1, (-9.0,), True)]
    tifffile.imwrite(tmp_path / "in/1.tif", DEEP, photometric="rgb", extratags=more)
    with pytest.warns(UserWarning, match="results have no pixels without data: those of their GeoTIFFs"):
        translate(tmp_path / "in", tmp_path / "out", format="tiff", scale="native", **model)
    for name in ("0", "1"):
        assert carried_by((tmp_path / f"out/{name}.tif").read_bytes()).geo[TIES] == tags[TIES]
    assert carried_by((tmp_path / "in/1.tif").read_bytes()).geo[42113] == "-9.0"
    assert 42113 not in carried_by((tmp_path / "out/1.tif").read_bytes()).geo


def test_pages_keep_their_own_alpha_depth_and_range(model, tmp_path):
    deep, small = DEEP, (DEEP >> 8).astype(np.uint8)
    clear = np.concatenate([deep, RNG.integers(1, 65536, (*deep.shape[:2], 1)).astype(np.uint16)], 2)
    (tmp_path / "in").mkdir()
    with tifffile.TiffWriter(tmp_path / "in/0.tif") as tiff:
        tiff.write(clear, photometric="rgb", extrasamples=["unassalpha"])
        tiff.write(deep, photometric="rgb")
        tiff.write(small, photometric="rgb")
    translate(tmp_path / "in", tmp_path / "out", pages="all", alpha="keep", scale="native", **model)
    with tifffile.TiffFile(tmp_path / "out/0.tif") as tiff:
        shapes = [(page.shape[2], page.dtype.name) for page in tiff.pages]
        assert shapes == [(4, "uint16"), (3, "uint16"), (3, "uint8")]
        assert np.array_equal(tiff.pages[2].asarray(), small)
    with tifffile.TiffWriter(tmp_path / "in/0.tif") as tiff:
        tiff.write(np.full((16, 16), 10, np.uint16))
        tiff.write(np.full((16, 16), 2000, np.uint16))
    translate(tmp_path / "in", tmp_path / "auto", pages="all", range="auto", **model)
    pages = tifffile.imread(tmp_path / "auto/0.tif", key=[0, 1])
    assert (pages[0] == 10).all()
    assert (pages[1] == 2000).all()


@pytest.mark.parametrize("mode", ["P", "1", "CMYK", "RGB", "lzw"])
def test_pages_of_every_kind_are_read_as_single_ones_are(mode, model, tmp_path):
    pictures = [Image.fromarray(np.roll(DEEP >> 8, i, 0).astype(np.uint8)) for i in range(3)]
    pictures = [p if mode == "lzw" else p.convert(mode) for p in pictures]
    how = {"compression": "tiff_lzw"} if mode == "lzw" else {}
    (tmp_path / "in").mkdir()
    pictures[0].save(tmp_path / "in/0.tif", save_all=True, append_images=pictures[1:], **how)
    translate(tmp_path / "in", tmp_path / "out", pages="all", scale="native", **model)
    pages = tifffile.imread(tmp_path / "out/0.tif", key=range(3))
    for page, picture in zip(pages, pictures, strict=True):
        assert np.abs(page.astype(int) - np.asarray(picture.convert("RGB"))).max() <= 1


def test_a_tile_larger_than_its_picture_is_no_matter(tmp_path):
    small = (DEEP >> 8).astype(np.uint8)
    for name, pixels in (("a.tif", small), ("b.tif", DEEP)):
        tifffile.imwrite(tmp_path / name, pixels, photometric="rgb", tile=(64, 64))
        assert header_of(tmp_path / name)[1:3] == (24, 20)
        assert np.array_equal(read_file(tmp_path / name)[0], pixels)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_colours_that_were_multiplied_by_alpha_are_divided_again(dtype, tmp_path):
    top = np.iinfo(dtype).max
    alpha = np.full((8, 8, 1), top // 2 + 1, dtype)
    laid = (0.8 * alpha).astype(dtype).repeat(3, 2)
    file = tmp_path / "a.tif"
    pixels = np.concatenate([laid, alpha], 2)
    tifffile.imwrite(file, pixels, photometric="rgb", extrasamples=["assocalpha"])
    samples, _ = read_file(file)
    np.testing.assert_allclose(samples[..., :3] / top, 0.8, atol=1 / 100)
    assert np.array_equal(samples[..., 3:], alpha)


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ({"to_range": (-100, 100), "format": "png"}, "png holds no values from -100 to 100, or too"),
        ({"to_range": (0, 1000), "format": "jpeg"}, "jpeg holds no values from 0 to 1000, or too"),
        ({"to_range": (0, 1e6), "depth": 16}, "--depth 16 does not hold values from 0 to 1e"),
        ({"to_range": "auto"}, "--to-range auto: results cannot be measured"),
        ({"pages": "all", "format": "png"}, "--pages all: png holds one picture: choose"),
        ({"range": (0, 1e308)}, "range 0 1e.308: expected its two ends"),
        ({"range": "percentile 0 0.0001"}, "the values of the pictures for range go from"),
    ],
    ids=str,
)
def test_a_range_that_cannot_be_written_is_refused_before_the_work(how, says, model, tmp_path):
    (tmp_path / "in").mkdir()
    write_samples(tmp_path / "in/0.png", np.eye(16, dtype=np.uint8)[None].repeat(3, 0))
    with pytest.raises(UserError, match=says):
        translate(tmp_path / "in", tmp_path / "out", **how, **model)
    assert not (tmp_path / "out").exists() or not [*(tmp_path / "out").iterdir()]


def test_written_pictures_keep_alpha_bands_and_values(tmp_path):
    clear = Image.fromarray(RNG.integers(0, 256, (8, 6, 4), np.uint8))
    for mode in ("RGBA", "LA"):
        sfumato.write(clear.convert(mode), tmp_path / "a.png")
        assert np.array_equal(np.asarray(Image.open(tmp_path / "a.png")), np.asarray(clear.convert(mode)))
    with pytest.raises(UserError, match="jpeg holds no transparency"):
        sfumato.write(clear, tmp_path / "a.jpg")
    bands = RNG.uniform(-1, 1, (5, 8, 6)).astype(np.float32)
    sfumato.write(torch.from_numpy(bands), tmp_path / "b.tif", range=(-1000, 3000))
    values = tifffile.imread(tmp_path / "b.tif")
    np.testing.assert_allclose(values, (1000 + 2000 * bands).transpose(1, 2, 0), atol=1e-3)
    again = sfumato.read(tmp_path / "b.tif", channels=5, range=(-1000, 3000))
    torch.testing.assert_close(again, torch.from_numpy(bands), atol=1e-6, rtol=0)
    with pytest.raises(UserError, match="choose --format tiff|holds no samples of float32"):
        sfumato.write(bands[:3], tmp_path / "b.png", range=(0, 1))
    with pytest.raises(UserError, match="channels must be at least 1, not 0"):
        sfumato.read(tmp_path / "b.tif", channels=0)


def test_a_header_that_cannot_be_read_is_said_in_words(tmp_path):
    for file, why in ((tmp_path / "none.png", "No such file or directory"), (tmp_path, "it is not a file")):
        with pytest.raises(UserError) as error:
            header_of(file)
        assert str(error.value) == f"cannot read {file}: {why}"


def test_pages_are_found_once(model, tmp_path, monkeypatch):
    (tmp_path / "in").mkdir()
    with tifffile.TiffWriter(tmp_path / "in/0.tif") as tiff:
        for i in range(12):
            tiff.write(np.roll(DEEP, i, 0), photometric="rgb", contiguous=False)
    opened = []
    real = tifffile.TiffFile
    monkeypatch.setattr(tifffile, "TiffFile", lambda *a, **how: opened.append(1) or real(*a, **how))
    translate(tmp_path / "in", tmp_path / "few", pages="all", scale="native", **model)
    few = len(opened)
    with tifffile.TiffWriter(tmp_path / "in/0.tif") as tiff:
        for i in range(36):
            tiff.write(np.roll(DEEP, i, 0), photometric="rgb", contiguous=False)
    translate(tmp_path / "in", tmp_path / "many", pages="all", scale="native", **model)
    assert len(opened) - few < few + 5
    many = tifffile.imread(tmp_path / "many/0.tif", key=range(36))
    assert all(np.array_equal(page, np.roll(DEEP, i, 0)) for i, page in enumerate(many))


@pytest.mark.parametrize("top", [1, 255, 65535])
def test_alpha_of_floats_ends_where_it_does(top, tmp_path):
    values = RNG.uniform(0, 255, (8, 8, 3)).astype(np.float32)
    alpha = np.full((8, 8, 1), top, np.float32)
    alpha[:4] = 0
    file = tmp_path / "a.tif"
    tifffile.imwrite(file, np.concatenate([values, alpha], 2), photometric="rgb", extrasamples=["unassalpha"])
    how = Preparation(range=(0, 255))
    image = how.read(file).image.numpy()
    np.testing.assert_allclose(image[:, 4:], values[4:].transpose(2, 0, 1) / 127.5 - 1, atol=1e-5)
    np.testing.assert_allclose(image[:, :4], 1, atol=1e-5)  # white
    np.testing.assert_allclose(how.opacity(file), 2 * (alpha.transpose(2, 0, 1) > 0) - 1)


def test_pixels_without_data_are_not_measured(tmp_path):
    values = np.full((8, 8), 300.0, np.float32)
    values[0], values[1, 1], values[2, 2] = -9999, 100, 900
    tifffile.imwrite(tmp_path / "a.tif", values, extratags=[(42113, 2, None, "-9999", True)])
    assert measured_range("auto", [(tmp_path / "a.tif", "whole")], 1) == (100, 900)


def test_a_resolution_that_jpeg_does_not_hold_is_not_written(tmp_path):
    write_samples(tmp_path / "a.jpg", np.zeros((3, 8, 8), np.uint8), Carried(dpi=(100_000.0, 100_000.0)))
    assert "dpi" not in Image.open(tmp_path / "a.jpg").info
    write_samples(tmp_path / "b.jpg", np.zeros((3, 8, 8), np.uint8), Carried(dpi=(300.0, 300.0)))
    assert Image.open(tmp_path / "b.jpg").info["dpi"] == (300, 300)


def test_edges_of_gray_sprites_on_a_colour_are_taken_apart_by_its_luma(tmp_path):
    gray = np.full((16, 16, 2), 60, np.uint8)
    gray[..., 1] = 128
    (tmp_path / "in").mkdir()
    Image.fromarray(gray).save(tmp_path / "in/a.png")
    part = sfumato.find("diffusion")(net="tiny", domains=("a",), channels=1)
    how = Preparation(size=(16, 16), channels=1, alpha="#ff0000")
    sfumato.save(part, tmp_path / "m", info={"size": 16, "preparation": how.to_json()})
    told = {"method": "sdedit", "target": f"{tmp_path}/m:a", "options": {"strength": 0.0}}
    translate(tmp_path / "in", tmp_path / "out", alpha="keep", **told)
    made = np.asarray(Image.open(tmp_path / "out/a.png"))
    assert np.abs(made.astype(int) - gray).max() <= 2


def test_half_a_geotiff_has_no_place_and_that_is_said(model, tmp_path):
    (tmp_path / "in").mkdir()
    geo_tiff(tmp_path / "in/x.tif")
    wide = np.concatenate([DEEP, DEEP], 1)
    with tifffile.TiffFile(tmp_path / "in/x.tif") as tiff:
        tags = [(t.code, 12, t.count, t.value, True) for t in tiff.pages[0].tags if t.code in (SCALE, TIES)]
    tifffile.imwrite(tmp_path / "in/x.tif", wide, photometric="rgb", extratags=tags)
    with pytest.warns(UserWarning, match="lose their place on Earth, as half of a picture has none"):
        translate(tmp_path / "in", tmp_path / "out", **model, side="left", format="tiff", scale="native")
