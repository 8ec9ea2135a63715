"""The one decoder: what of a file is read, what is said to be lost, what is refused, within bounds."""

import contextlib
import io
import logging
import os
import shutil
import struct
import threading
import time
import tracemalloc
import warnings
import zlib

import numpy as np
import pytest
import tifffile
from PIL import Image, ImageCms
from test_data_images import DEEP, RGB, deep_png, floats

from sfumato.checkpoints.model_folder import save
from sfumato.checkup import doctor
from sfumato.core.errors import UserError
from sfumato.data import decode as decoding
from sfumato.data import open_images, read_image
from sfumato.data.decode import decode, inspect
from sfumato.data.header import Limits, Refused
from sfumato.data.read import carried_of, read_samples
from sfumato.methods.registry import find
from sfumato.translation.pictures import translate


def png(*chunks):
    """A PNG of these chunks (name, content)."""
    crc = lambda kind, body: struct.pack(">I", zlib.crc32(kind + body))
    parts = (struct.pack(">I", len(b)) + k + b + crc(k, b) for k, b in chunks)
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def header(width, height, bits=8, colour=2):
    return b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)


def saved(image, kind="PNG", **how):
    buffer = io.BytesIO()
    image.save(buffer, kind, **how)
    return buffer.getvalue()


# ---- nothing is lost without a word --------------------------------------------------------------


@pytest.mark.parametrize("turn", [0, 9, 65535])
@pytest.mark.parametrize("kind", ["uint8", "uint16"])
def test_an_orientation_of_no_meaning_is_upright_and_no_noise(turn, kind, tmp_path):
    """tifffile speaks of it through `logging`, which prints where nobody has asked for its words."""
    tags = [(274, 3, 1, turn, True)]
    tifffile.imwrite(tmp_path / "a.tif", RGB.astype(kind), photometric="rgb", extratags=tags, metadata=None,
                     resolution=(100, 50), resolutionunit=2)  # fmt: skip
    assert np.array_equal(read_samples(tmp_path / "a.tif")[0], RGB.transpose(2, 0, 1))
    assert "rotated" not in {one.kind for one in doctor(tmp_path, measure=False).findings}
    assert carried_of(tmp_path / "a.tif").dpi == (100, 50)
    assert any(isinstance(h, logging.NullHandler) for h in logging.getLogger("tifffile").handlers)


def test_twelve_bits_in_sixteen_are_said(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", (DEEP[..., 0] % 4096).astype(np.uint16))
    deep_png(tmp_path / "b.png", DEEP[..., :3] % 1024, 2)
    tifffile.imwrite(tmp_path / "c.tif", DEEP[..., 0])
    lost = {name: read_samples(tmp_path / name)[1] for name in ("a.tif", "b.png", "c.tif")}
    assert lost["a.tif"]["depth"].startswith("up to 4,0")
    assert "depth" in lost["b.png"]
    assert lost["c.tif"] == {}
    with pytest.warns(
        UserWarning, match=r"2 that use a small part of their 16 .*up to 4,0\d\d of 65,535"
    ):
        open_images(tmp_path, 5)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_bands_beyond_red_green_and_blue_are_said(tmp_path, dtype):
    top = np.iinfo(dtype).max
    five = np.random.default_rng(0).integers(0, top, (6, 5, 5)).astype(dtype)
    tifffile.imwrite(
        tmp_path / "x.tif", five, photometric="rgb", extrasamples=["unspecified", "unspecified"]
    )
    samples, lost = read_samples(tmp_path / "x.tif")
    assert (samples == five[..., :3].transpose(2, 0, 1)).all()
    assert lost["bands"] == "5 bands, the first 3 are read"


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("planar", ["contig", "separate"])
def test_bands_without_names_are_not_taken_for_gray(tmp_path, dtype, planar):
    four = np.zeros((6, 5, 4) if planar == "contig" else (4, 6, 5), dtype)
    tifffile.imwrite(tmp_path / "x.tif", four, photometric="minisblack", planarconfig=planar)
    with pytest.raises(
        UserError, match=r"x\.tif has 4 bands and does not say which are red, green and blue"
    ):
        read_image(tmp_path / "x.tif")


def test_stacks_animations_and_pages_are_counted(tmp_path):
    frames = [Image.new("RGB", (8, 8), c) for c in ("red", "lime", "blue")]
    for name, kind in (("a.gif", "GIF"), ("b.png", "PNG"), ("c.webp", "WEBP"), ("d.tif", "TIFF")):
        frames[0].save(tmp_path / name, kind, save_all=True, append_images=frames[1:])
        samples, lost = read_samples(tmp_path / name)
        assert lost == {"pages": "3 pictures"}, name
        assert samples[0].min() > 240, name
    tifffile.imwrite(tmp_path / "stack.tif", np.zeros((7, 16, 16), np.uint16) + 30000)
    assert read_samples(tmp_path / "stack.tif")[1] == {"pages": "7 pictures"}


@pytest.mark.filterwarnings("ignore:.*others beside the picture")
def test_what_a_phone_adds_to_a_photo_is_said_and_strictness_takes_the_photo(tmp_path):
    frames = [Image.new("RGB", (8, 8), c) for c in ("red", "lime")]
    frames[0].save(tmp_path / "x.jpg", "MPO", save_all=True, append_images=frames[1:])
    samples, lost = read_samples(tmp_path / "x.jpg")
    assert samples[0].min() > 240
    assert lost == {"beside": "2 pictures"}
    with pytest.warns(UserWarning, match=r"1 that hold others beside .* \(x.jpg: 2 pictures\)"):
        assert len(open_images(tmp_path, 8, strict=True)) == 1
    how = {"model": tmp_path / "m", "options": {"steps": 1}}
    save(find("paired_sde")(net="tiny"), tmp_path / "m", info={"size": 8})
    done = translate(tmp_path / "x.jpg", tmp_path / "out", strict=True, **how)
    assert [*done.lost.values()] == [[f"{tmp_path}/x.jpg: 2 pictures"]]
    (tmp_path / "photos").mkdir()
    shutil.copy(tmp_path / "x.jpg", tmp_path / "photos")
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        done = translate(tmp_path / "photos", tmp_path / "two", strict=True, **how)
    assert done.lost  # which the command line says
    assert not [str(one.message) for one in heard if "others beside" in str(one.message)]
    frames[0].save(tmp_path / "y.gif", save_all=True, append_images=frames[1:])
    with pytest.raises(UserError, match="y.gif"):
        translate(tmp_path / "y.gif", tmp_path / "no", strict=True, **how)


def profile(gamma):
    """An RGB profile as ICC has it, of sRGB's name and primaries, and another tone curve."""
    made = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    count = struct.unpack(">I", made[128:132])[0]
    for i in range(count):
        kind, at, size = struct.unpack(">4sII", made[132 + 12 * i : 144 + 12 * i])
        if kind[1:] == b"TRC":
            curve = b"curv" + bytes(4) + struct.pack(">IH", 1, int(gamma * 256))
            made[at : at + size] = curve.ljust(size, b"\0")
    return bytes(made)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P"])
def test_colour_profiles_are_applied(tmp_path, mode):
    image = Image.new("RGB", (8, 8), (51, 102, 204)).convert(mode)
    image.save(tmp_path / "x.png", icc_profile=profile(1.0))  # linear light
    samples, lost = read_samples(tmp_path / "x.png")
    linear = np.array([51, 102, 204]) / 255
    srgb = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055) * 255
    np.testing.assert_allclose(samples[:, 0, 0], srgb, atol=2)
    assert lost == {}
    image.save(
        tmp_path / "s.png",
        icc_profile=ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes(),
    )
    assert read_samples(tmp_path / "s.png")[0][:, 0, 0].tolist() == [51, 102, 204]


def test_a_profile_that_cannot_be_applied_is_said(tmp_path):
    Image.new("RGB", (8, 8), "red").save(tmp_path / "x.png", icc_profile=b"nonsense")
    assert "profile" in read_samples(tmp_path / "x.png")[1]
    packed = b"Display P3\0\0" + zlib.compress(profile(2.2))
    chunk = (
        struct.pack(">I", len(packed))
        + b"iCCP"
        + packed
        + struct.pack(">I", zlib.crc32(b"iCCP" + packed))
    )
    path = deep_png(tmp_path / "d.png", DEEP[..., :3], 2, extra=chunk)
    assert read_samples(path)[1] == {"profile": "Display P3, of 16 bits"}


def test_in_memory_of_files_that_are_read(tmp_path):
    for name, kind in (("a.jfif", "JPEG"), ("b.gif", "GIF"), ("c.avif", "AVIF")):
        if kind not in Image.SAVE:
            continue
        Image.new("RGB", (16, 16), (200, 40, 90)).save(tmp_path / name, kind)
        image = read_image(tmp_path / name)
        assert np.abs((image[:, 8, 8] + 1) * 127.5 - [200, 40, 90]).max() < 12, name
    assert len(open_images(tmp_path, 16)) >= 2


def test_a_compressed_tiff_says_what_reads_it(tmp_path, monkeypatch):
    data = bytearray(io.BytesIO().getvalue())
    tifffile.imwrite(tmp_path / "x.tif", DEEP[..., :3], photometric="rgb")
    data = bytearray((tmp_path / "x.tif").read_bytes())
    with tifffile.TiffFile(tmp_path / "x.tif") as tiff:
        at = tiff.pages[0].tags["Compression"].valueoffset
    data[at : at + 2] = struct.pack("<H", 5)  # LZW
    (tmp_path / "x.tif").write_bytes(data)
    with pytest.raises(
        UserError, match=r"x\.tif is compressed by LZW.*pip install imagecodecs|is broken"
    ):
        read_image(tmp_path / "x.tif")


# ---- one decoder decides, and refuses ------------------------------------------------------------


def test_a_png_with_two_headers_is_refused(tmp_path):
    rows = zlib.compress(b"".join(b"\0" + bytes(3 * 16) for _ in range(16)))
    end, body = (b"IEND", b""), (b"IDAT", rows)
    sound = png(header(16, 16), body, end)
    assert decode(sound).samples.shape == (16, 16, 3)
    for chunks in (
        [(b"tEXt", b"x"), header(9000, 9000), body, end], [header(16, 16), header(9000, 9000), body, end],
        [header(9000, 9000), body, header(16, 16), end], [body, end],
    ):  # fmt: skip
        data = png(*chunks)
        for act in (inspect, decode):
            with pytest.raises(Refused, match="broken|header|no image"):
                act(data)


def test_what_starts_programs_is_no_picture(tmp_path):
    (tmp_path / "x.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EOF\n")
    with pytest.raises(UserError, match=r"x\.png is not an image"):
        read_image(tmp_path / "x.png")
    for kind in ("PPM", "TGA", "ICO", "PCX", "SGI"):
        data = saved(Image.new("RGB", (16, 16)), kind)
        with pytest.raises(Refused, match="not an image"):
            decode(data)


def test_a_small_file_cannot_ask_for_much(tmp_path):
    huge = png(header(60000, 60000), (b"IDAT", zlib.compress(bytes(10**6))), (b"IEND", b""))
    wide = saved(Image.new("L", (66000, 1)))
    tifffile.imwrite(tmp_path / "t.tif", DEEP[..., 0], compression="deflate")
    claims = bytearray((tmp_path / "t.tif").read_bytes())
    with tifffile.TiffFile(tmp_path / "t.tif") as tiff:
        for tag in ("ImageWidth", "ImageLength"):
            at = tiff.pages[0].tags[tag].valueoffset
            claims[at : at + 2] = struct.pack("<H", 50000)
    tracemalloc.start()
    for data in (huge, wide, bytes(claims)):
        with pytest.raises(Refused, match=r"expected at most 100,000,000"):
            decode(data)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 50e6
    with pytest.raises(Refused, match="has 16x16 pixels: expected at most 100"):
        inspect(saved(Image.new("L", (16, 16))), Limits(pixels=100))


def test_a_jpeg_is_not_drawn_over_without_end():
    data = saved(Image.new("RGB", (64, 64)), "JPEG", progressive=True)
    assert decode(data).header.kind == "JPEG"
    at = data.index(b"\xff\xda")
    scan = data[at : data.index(b"\xff", at + 2)]
    with pytest.raises(Refused, match="drawn over more than 100 times"):
        decode(data[:at] + scan * 200 + data[at:])


def test_strips_that_are_missing_or_unpack_to_more_are_refused(tmp_path):
    tifffile.imwrite(tmp_path / "x.tif", DEEP[..., 0], compression="deflate")
    data = (tmp_path / "x.tif").read_bytes()
    with tifffile.TiffFile(tmp_path / "x.tif") as tiff:
        page = tiff.pages[0]
        start, size = page.dataoffsets[0], page.databytecounts[0]
        counts, offsets = (page.tags[n].valueoffset for n in ("StripByteCounts", "StripOffsets"))
    missing = bytearray(data)
    missing[counts : counts + 4] = bytes(4)
    beyond = bytearray(data)
    beyond[offsets : offsets + 4] = struct.pack("<I", len(data) + 100)
    for broken in (missing, beyond):
        with pytest.raises(Refused, match="a part of its pixels is missing"):
            decode(bytes(broken))
    bomb = zlib.compress(bytes(10**6), 9)
    bigger = bytearray(data + bomb)
    bigger[offsets : offsets + 4] = struct.pack("<I", len(data))
    bigger[counts : counts + 4] = struct.pack("<I", len(bomb))
    with pytest.raises(Refused, match="unpacks to more than its size"):
        decode(bytes(bigger))
    assert start
    assert size


def test_large_pictures_are_decoded_one_at_a_time(monkeypatch):
    monkeypatch.setattr(decoding, "LARGE", 100)
    running, most = 0, 0
    real = decoding._pillow

    def slow(data, found):
        nonlocal running, most
        running += 1
        most = max(most, running)
        time.sleep(0.02)
        running -= 1
        return real(data, found)

    monkeypatch.setattr(decoding, "_pillow", slow)
    data = saved(Image.new("RGB", (16, 16)))
    threads = [threading.Thread(target=decode, args=(data,)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 1


def test_any_damage_is_refused_or_read(tmp_path):
    tifffile.imwrite(tmp_path / "t.tif", DEEP[..., :3], photometric="rgb", compression="deflate")
    deep_png(tmp_path / "d.png", DEEP[..., :3], 2)
    whole = [
        saved(Image.fromarray(RGB)), saved(Image.fromarray(RGB), "JPEG"), saved(Image.fromarray(RGB), "GIF"),
        saved(Image.fromarray(RGB), "WEBP"), saved(Image.fromarray(RGB), "BMP"),
        (tmp_path / "t.tif").read_bytes(), (tmp_path / "d.png").read_bytes(),
    ]  # fmt: skip
    rng = np.random.default_rng(0)
    for data in whole:
        for _ in range(60):
            broken = bytearray(data[: rng.integers(1, len(data) + 1)])
            for at in rng.integers(0, len(broken), rng.integers(1, 6)):
                broken[at] = rng.integers(256)
            with contextlib.suppress(Refused):  # anything else is a bug
                decode(bytes(broken))


def test_samples_are_those_of_before(tmp_path):
    deep_png(tmp_path / "d.png", DEEP[..., :3], 2)
    np.testing.assert_allclose(read_image(tmp_path / "d.png"), floats(DEEP[..., :3]), atol=1e-6)


@pytest.mark.parametrize("interlace", [0, 1])
@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA"])
def test_a_png_that_lacks_rows_is_refused(tmp_path, interlace, mode):
    """Its stream is sound and short: Pillow leaves the rest black."""
    whole = Image.fromarray(
        np.random.default_rng(0).integers(0, 256, (33, 17, 3), np.uint8)
    ).convert(mode)
    data = saved(whole)
    assert decode(data).samples.shape[:2] == (33, 17)
    if interlace:  # Pillow writes none: only what is missing is looked at
        data = data[:28] + b"\1" + struct.pack(">I", zlib.crc32(data[12:28] + b"\1")) + data[33:]
    at = data.index(b"IDAT")
    rows = zlib.decompress(data[at + 4 : at + 4 + struct.unpack(">I", data[at - 4 : at])[0]])
    palette = [(b"PLTE", bytes(whole.getpalette()))] if mode == "P" else []
    half = (b"IDAT", zlib.compress(rows[: len(rows) // 2]))
    short = png((b"IHDR", data[16:29]), *palette, half, (b"IEND", b""))
    with pytest.raises(Refused, match="some of its rows are missing"):
        decode(short)


def test_a_damaged_strip_of_a_tiff_is_refused(tmp_path):
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8))
    image.save(tmp_path / "x.tif", compression="tiff_deflate")
    with tifffile.TiffFile(tmp_path / "x.tif") as tiff:
        at, size = tiff.pages[0].dataoffsets[-1], tiff.pages[0].databytecounts[-1]
    data = bytearray((tmp_path / "x.tif").read_bytes())
    assert decode(bytes(data)).samples.shape == (64, 64, 3)
    data[at + size // 2 : at + size] = bytes(size - size // 2)
    with pytest.raises(Refused, match="is broken"):
        decode(bytes(data))


def test_pipes_and_devices_are_no_pictures(tmp_path):
    os.mkfifo(tmp_path / "x.png")
    for path in (tmp_path / "x.png", "/dev/zero"):
        with pytest.raises(UserError, match="is not a file"):
            read_image(path)
