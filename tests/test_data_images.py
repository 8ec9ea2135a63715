import errno
import os
import struct
import zlib

import numpy as np
import pytest
import tifffile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from sfumato.data import find_images, fit_image, read_image, tile, write_png, write_text

RGB = np.random.default_rng(0).integers(0, 256, (6, 5, 3), np.uint8)
DEEP = np.random.default_rng(1).integers(0, 65536, (6, 5, 4)).astype(np.uint16)


def floats(samples):
    samples = samples[..., None] if samples.ndim == 2 else samples
    top = np.iinfo(samples.dtype).max
    image = samples.transpose(2, 0, 1).astype(np.float64) * 2 / top - 1
    return image.repeat(3, 0) if len(image) == 1 else image


def deep_png(path, samples, colour, extra=b"", interlace=0):
    """A 16-bit PNG; the lines use filters 0 (none), 1 (sub) and 2 (up) in turn."""
    height, width = samples.shape[:2]
    raw = samples.astype(">u2").reshape(height, -1).view(np.uint8)
    bpp = raw.shape[1] // width
    lines = []
    for y, line in enumerate(raw):
        left = np.concatenate([np.zeros(bpp, np.uint8), line[:-bpp]])
        up = raw[y - 1] if y else np.zeros_like(line)
        lines.append(bytes([y % 3]) + (line - [0 * line, left, up][y % 3]).tobytes())

    def chunk(kind, body):
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    header = struct.pack(">IIBBBBB", width, height, 16, colour, 0, 0, interlace)
    packed = zlib.compress(b"".join(lines))
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + extra
        + chunk(b"IDAT", packed[:20]) + chunk(b"IDAT", packed[20:]) + chunk(b"IEND", b"")
    )  # fmt: skip
    return path


def test_find_images_sorts_naturally_and_hides(tmp_path):
    for name in ("10.png", "2.PNG", "1.jpg", ".hidden.png", "note.txt", "b/3.Tiff", ".git/4.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "folder.png").mkdir()
    names = [p.relative_to(tmp_path).as_posix() for p in find_images(tmp_path)]
    assert names == ["1.jpg", "2.PNG", "10.png", "b/3.Tiff"]


def test_find_images_errors(tmp_path):
    (tmp_path / "file").write_text("x")
    (tmp_path / "empty").mkdir()
    for name, words in {"no": "does not exist", "file": "is a file", "empty": "webp"}.items():
        with pytest.raises(ValueError, match=words) as caught:
            find_images(tmp_path / name)
        assert "\n" not in str(caught.value)
        assert name in str(caught.value)


@pytest.mark.parametrize("suffix", ["png", "bmp", "tif", "webp"])
def test_lossless_rgb(tmp_path, suffix):
    path = tmp_path / f"x.{suffix}"
    Image.fromarray(RGB).save(path, **({"lossless": True} if suffix == "webp" else {}))
    image = read_image(path)
    assert image.dtype == np.float32
    np.testing.assert_allclose(image, floats(RGB), atol=1e-6)


def test_gray_is_repeated_and_colour_becomes_luma(tmp_path):
    Image.fromarray(RGB[..., 0]).save(tmp_path / "g.png")
    np.testing.assert_allclose(read_image(tmp_path / "g.png"), floats(RGB[..., 0]), atol=1e-6)
    Image.fromarray(RGB).save(tmp_path / "c.png")
    luma = RGB @ [0.299, 0.587, 0.114] / 127.5 - 1
    gray = read_image(tmp_path / "c.png", channels=1)
    assert gray.shape == (1, 6, 5)
    np.testing.assert_allclose(gray[0], luma, atol=1.01 / 255)
    Image.fromarray(RGB[..., 0] > 127).save(tmp_path / "1.png")
    assert set(np.unique(read_image(tmp_path / "1.png"))) == {-1, 1}
    with pytest.raises(ValueError, match="has 3 bands, expected 4"):
        read_image(tmp_path / "c.png", channels=4)


def test_transparency_is_laid_on_white(tmp_path):
    rgba = np.dstack([RGB, np.full((6, 5), 255, np.uint8)])
    rgba[0, 0, 3], rgba[0, 1] = 0, (0, 0, 0, 128)
    Image.fromarray(rgba).save(tmp_path / "a.png")
    image = read_image(tmp_path / "a.png")
    assert (image[:, 0, 0] == 1).all()
    np.testing.assert_allclose(image[:, 0, 1], 127 / 127.5 - 1, atol=1e-6)
    np.testing.assert_allclose(image[:, 1:], floats(RGB)[:, 1:], atol=1e-6)


def test_palette_with_a_transparent_colour(tmp_path):
    palette = Image.fromarray(np.array([[0, 1, 2]], np.uint8), mode=None).convert("P")
    palette.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255])
    palette.save(tmp_path / "plain.png")
    palette.save(tmp_path / "clear.png", transparency=1)
    image = read_image(tmp_path / "plain.png")
    assert image[:, 0].T.tolist() == [[1, -1, -1], [-1, 1, -1], [-1, -1, 1]]
    assert read_image(tmp_path / "clear.png")[:, 0].T.tolist()[1] == [1, 1, 1]


def test_cmyk_jpeg(tmp_path):
    Image.new("CMYK", (16, 16), (0, 255, 255, 0)).save(tmp_path / "x.jpg", quality=95)
    image = read_image(tmp_path / "x.jpg")
    assert image[0].min() > 0.9
    assert image[1:].max() < -0.9


@pytest.mark.parametrize(("colour", "channels"), [(0, 1), (2, 3), (4, 2), (6, 4)])
def test_deep_png_keeps_all_levels(tmp_path, colour, channels):
    samples = DEEP[..., :channels].copy()
    if channels in (2, 4):
        samples[..., -1] = 65535
    image = read_image(deep_png(tmp_path / "x.png", samples, colour))
    opaque = samples[..., :-1] if channels in (2, 4) else samples
    np.testing.assert_allclose(image, floats(opaque), atol=1e-6)  # 8 bits would be off by 4e-3


def test_deep_png_of_pillow_and_interlaced(tmp_path):
    Image.fromarray(DEEP[..., 0]).save(tmp_path / "x.png")
    np.testing.assert_allclose(read_image(tmp_path / "x.png"), floats(DEEP[..., 0]), atol=1e-6)
    deep_png(tmp_path / "i.png", DEEP[..., :3], 2, interlace=1)
    with pytest.raises(ValueError, match="interlaced"):
        read_image(tmp_path / "i.png")


@pytest.mark.parametrize("planar", ["contig", "separate"])
@pytest.mark.parametrize("compression", [None, "deflate"])
def test_deep_tiff(tmp_path, planar, compression):
    samples = DEEP[..., :3]
    data = samples.transpose(2, 0, 1) if planar == "separate" else samples
    tifffile.imwrite(
        tmp_path / "x.tif", data, photometric="rgb", planarconfig=planar, compression=compression
    )
    np.testing.assert_allclose(read_image(tmp_path / "x.tif"), floats(samples), atol=1e-6)


def test_deep_tiff_with_alpha_is_laid_on_white(tmp_path):
    samples = DEEP.copy()
    samples[..., 3] = 65535
    samples[0, 0, 3] = 0
    tifffile.imwrite(tmp_path / "x.tif", samples, photometric="rgb", extrasamples=["unassalpha"])
    image = read_image(tmp_path / "x.tif")
    assert (image[:, 0, 0] == 1).all()
    np.testing.assert_allclose(image[:, 1:], floats(samples[..., :3])[:, 1:], atol=1e-6)


def test_gray_inverted_and_float_tiff(tmp_path):
    tifffile.imwrite(tmp_path / "g.tif", DEEP[..., 0])
    np.testing.assert_allclose(read_image(tmp_path / "g.tif"), floats(DEEP[..., 0]), atol=1e-6)
    tifffile.imwrite(tmp_path / "w.tif", DEEP[..., 0], photometric="miniswhite")
    np.testing.assert_allclose(read_image(tmp_path / "w.tif"), -floats(DEEP[..., 0]), atol=1e-6)
    for dtype in (np.float32, np.int32):
        tifffile.imwrite(tmp_path / "f.tif", DEEP[..., 0].astype(dtype))
        with pytest.raises(ValueError, match=r"f\.tif has .*32 samples .* range is not known"):
            read_image(tmp_path / "f.tif")


@pytest.mark.parametrize("turn", range(1, 9))
def test_exif_orientation(tmp_path, turn):
    blocks = np.zeros((16, 32, 3), np.uint8)
    blocks[:8, :8] = 255  # a white corner: its place and the shape tell all
    exif = Image.Exif()
    exif[0x0112] = turn
    Image.fromarray(blocks).save(tmp_path / "x.jpg", exif=exif, quality=95)
    Image.fromarray(blocks).save(tmp_path / "x.png", exif=exif)
    chunk = (tmp_path / "x.png").read_bytes().split(b"eXIf")
    exif_chunk = chunk[0][-4:] + b"eXIf" + chunk[1][: int.from_bytes(chunk[0][-4:]) + 4]
    deep_png(tmp_path / "d.png", blocks.astype(np.uint16) * 257, 2, extra=exif_chunk)
    corner = {1: "tl", 2: "tr", 3: "br", 4: "bl", 5: "tl", 6: "tr", 7: "br", 8: "bl"}[turn]
    tag = [(0x0112, "H", 1, turn, True)]
    tifffile.imwrite(tmp_path / "x.tif", blocks, photometric="rgb", extratags=tag)
    tifffile.imwrite(
        tmp_path / "d.tif", blocks.astype(np.uint16) * 257, photometric="rgb", extratags=tag
    )
    for name in ("x.jpg", "x.png", "d.png", "x.tif", "d.tif"):
        image = read_image(tmp_path / name)
        assert image.shape == ((3, 16, 32) if turn < 5 else (3, 32, 16)), name
        y = slice(0, 8) if corner[0] == "t" else slice(-8, None)
        x = slice(0, 8) if corner[1] == "l" else slice(-8, None)
        assert image[:, y, x].min() > 0.9, name
        assert image.mean() < -0.7, name


def test_broken_files_are_named(tmp_path):
    Image.fromarray(RGB.repeat(20, 0).repeat(20, 1)).save(tmp_path / "whole.jpg")
    Image.fromarray(RGB).save(tmp_path / "whole.png")
    half_deep = deep_png(tmp_path / "deep.png", DEEP[..., :3], 2).read_bytes()[:80]
    tifffile.imwrite(tmp_path / "whole.tif", DEEP)
    files = {
        "zero.png": b"",
        "text.png": b"hello",
        "half.jpg": (tmp_path / "whole.jpg").read_bytes()[:900],
        "half.png": (tmp_path / "whole.png").read_bytes()[:60],
        "deep.png": half_deep,
        "half.tif": (tmp_path / "whole.tif").read_bytes()[:150],
        "head.tif": b"II*\0",
        "head.png": b"\x89PNG\r\n\x1a\n" + bytes(16) + b"\x10",
    }
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(ValueError, match=name) as caught:
            read_image(tmp_path / name)
        assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match="No such file"):
        read_image(tmp_path / "missing.png")


def test_fit_image_crops_the_centre():
    image = np.linspace(-1, 1, 8, dtype=np.float32)[None, None].repeat(4, 1)  # (1,4,8), a ramp
    np.testing.assert_allclose(fit_image(image, 4), image[..., 2:6])
    assert fit_image(image, 4) is not image
    stretched = fit_image(image, 4, "stretch")
    assert stretched.shape == (1, 4, 4)
    np.testing.assert_allclose(stretched[0, 0], -stretched[0, 0, ::-1], atol=1e-6)
    assert fit_image(image, (2, 3)).shape == (1, 2, 3)
    assert fit_image(image, (4, 8), "none") is image


def test_fit_image_is_antialiased():
    noise = np.random.default_rng(0).uniform(-1, 1, (1, 256, 256)).astype(np.float32)
    small = fit_image(noise, 16)
    assert small.std() < 0.1 * noise.std()  # an average of 256 pixels, not a pick of 16
    assert fit_image(noise, 16, "stretch").std() < 0.1 * noise.std()


def test_fit_image_errors():
    image = np.zeros((3, 10, 20), np.float32)
    with pytest.raises(ValueError, match=r"cat\.png is 20x10 .* 16x16 .*smaller --size, or enlarge"):
        fit_image(image, 16, name="cat.png")
    assert fit_image(image, 16, upscale=True).shape == (3, 16, 16)
    with pytest.raises(ValueError, match="expected 8x8"):
        fit_image(image, 8, "none")
    with pytest.raises(ValueError, match="unknown"):
        fit_image(image, 8, "squash")


@settings(derandomize=True, max_examples=30, deadline=None)
@given(pixels=arrays(np.uint8, st.tuples(st.just(3), st.integers(1, 9), st.integers(1, 9))))
def test_write_then_read_is_the_identity(tmp_path_factory, pixels):
    path = tmp_path_factory.mktemp("law") / "x.png"
    image = floats(pixels.transpose(1, 2, 0)).astype(np.float32)
    write_png(path, image)
    np.testing.assert_array_equal(np.asarray(Image.open(path)), pixels.transpose(1, 2, 0))
    np.testing.assert_allclose(read_image(path), image, atol=1e-6)


def test_write_png_rounds_and_clips(tmp_path):
    values = torch.tensor([-9.0, -1.0, 0.49 / 127.5 - 1, 0.51 / 127.5 - 1, 1.0, 9.0])
    write_png(tmp_path / "x.png", values.view(1, 1, 6))
    assert np.asarray(Image.open(tmp_path / "x.png")).tolist() == [[0, 0, 0, 1, 255, 255]]
    with pytest.raises(ValueError, match="not numbers"):
        write_png(tmp_path / "y.png", torch.full((3, 2, 2), torch.nan))
    with pytest.raises(ValueError, match=r"expected \(3,H,W\)"):
        write_png(tmp_path / "y.png", torch.zeros(2, 2))
    assert os.listdir(tmp_path) == ["x.png"]


def test_a_failing_write_leaves_nothing(tmp_path, monkeypatch):
    write_text(tmp_path / "old.json", "old")

    def full(*_args, **_kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", full)
        with pytest.raises(OSError, match="No space left") as caught:
            write_png(tmp_path / "x.png", torch.zeros(3, 2, 2))
        assert "x.png" in str(caught.value)
        assert caught.value.errno == errno.ENOSPC
        with pytest.raises(OSError, match="nothing written"):
            write_text(tmp_path / "old.json", "new")
    with monkeypatch.context() as patch:
        patch.setattr(Image.Image, "save", full)
        with pytest.raises(OSError, match="No space left"):
            write_png(tmp_path / "x.png", torch.zeros(3, 2, 2))
    assert os.listdir(tmp_path) == ["old.json"]
    assert (tmp_path / "old.json").read_text() == "old"
    write_text(tmp_path / "old.json", "new é")
    assert (tmp_path / "old.json").read_text(encoding="utf-8") == "new é"


def test_tile():
    images = torch.stack([torch.full((3, 4, 5), v) for v in (-1.0, -0.5, 0.0)])
    sheet = tile(images, 2)
    assert sheet.shape == (3, 10, 12)
    assert (sheet[:, :4, :5] == -1).all()
    assert (sheet[:, :4, 7:] == -0.5).all()
    assert (sheet[:, 6:, :5] == 0).all()
    assert (sheet[:, 4:6] == 1).all()
    assert (sheet[:, 6:, 5:] == 1).all()


def test_the_middle_is_cut_out():
    tall = np.linspace(-1, 1, 3 * 13 * 4, dtype=np.float32).reshape(3, 13, 4)
    np.testing.assert_array_equal(fit_image(tall, 4), tall[:, 4:8])
    wide = np.ascontiguousarray(tall.swapaxes(1, 2))
    np.testing.assert_array_equal(fit_image(wide, 4), wide[..., 4:8])


@pytest.mark.parametrize("colour", [0, 2])
def test_the_transparent_colour_of_a_deep_picture_is_laid_on_white(tmp_path, colour):
    samples = DEEP[..., : colour + 1].copy()
    samples[2, 3] = samples[4, 1] = key = np.array([7, 300, 65_000][: colour + 1], np.uint16)
    body = b"tRNS" + key.astype(">u2").tobytes()
    chunk = struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))
    image = read_image(deep_png(tmp_path / "a.png", samples, colour, extra=chunk))
    samples[2, 3] = samples[4, 1] = 65_535
    np.testing.assert_allclose(image, floats(samples), atol=1e-6)
