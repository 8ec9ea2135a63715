"""A picture whose metadata are broken is read, whatever its format, and what is lost of it is said."""

import io
import struct
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image, ImageCms, PngImagePlugin
from test_data_images import DEEP, RGB, deep_png
from test_decode import profile, saved

from sfumato.checkup import doctor
from sfumato.data import open_images
from sfumato.data.carried import carried_by
from sfumato.data.decode import decode, inspect, samples_of
from sfumato.data.header import LOST
from sfumato.data.metadata import without_broken
from sfumato.data.png import png_chunk

EXIF = Image.Exif()
EXIF[0x0112], EXIF[271] = 6, "maker"
TURNED = EXIF.tobytes()
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
XMP = b"<x:xmpmeta xmlns:x='adobe:ns:meta/'/>"
BLOCKS = {
    "noise": b"Exif\0\0" + bytes(range(40, 90)), "zeros": b"Exif\0\0" + bytes(40), "cut": TURNED[:17],
    "no table": b"Exif\0\0II*\0\xff\xff\xff\x7f", "nothing": b"Exif\0\0",
}  # fmt: skip
"""EXIF blocks that are none."""
KINDS = [kind for kind in ("PNG", "JPEG", "WEBP", "AVIF") if kind in Image.SAVE]
LOSSLESS = {"WEBP": {"lossless": True}, "AVIF": {"quality": 100}}


def picture(kind, **how):
    return saved(Image.fromarray(RGB), kind, **LOSSLESS.get(kind, {}), **how)


def read(data):
    """Samples of a file and what is lost; nothing may be said of it but that."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        inspect(data)
        carried_by(data)
        return decode(data)


@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_broken_exif_block_is_said_and_the_picture_read(kind, block):
    whole, (samples, _, lost) = read(picture(kind)), read(_with_exif(kind, BLOCKS[block]))
    assert np.array_equal(samples, whole.samples)
    assert set(lost) <= {"orientation"}
    assert lost or block in ("zeros", "nothing")


def _with_exif(kind, block):
    """A file with this block; encoders refuse some, which take its place then."""
    if kind != "AVIF":
        return picture(kind, exif=block)
    place = picture(kind, exif=TURNED.ljust(99 + len(block)))
    body = TURNED.removeprefix(b"Exif\0\0")
    return place.replace(body, block.removeprefix(b"Exif\0\0").ljust(len(body), b"\x07"))


@pytest.mark.parametrize("kind", KINDS)
def test_a_sound_orientation_outlives_what_is_broken_beside_it(kind):
    whole = read(picture(kind, exif=TURNED))
    assert not whole.lost
    assert whole.samples.shape != read(picture(kind)).samples.shape
    if kind == "AVIF":  # which says it in a property of its own
        return
    for data in _broken(kind, exif=TURNED, icc_profile=SRGB):
        got = read(data)
        assert np.array_equal(got.samples, whole.samples) or "orientation" in got.lost
    assert any("orientation" not in read(data).lost for data in _broken(kind, exif=TURNED))


def _broken(kind, **how):
    """Files of which something is broken that no pixel needs."""
    data = picture(kind, **how)
    if kind == "PNG":
        for part in (
            (b"iCCP", b"name\0\7" + zlib.compress(SRGB)), (b"iCCP", b"name"), (b"pHYs", b"\0\1"),
            (b"pHYs", b""), (b"zTXt", b"key\0\7text"), (b"iTXt", b"key\0\1\0\0\0nonsense"), (b"gAMA", b""),
            (b"cHRM", b"\0"), (b"sRGB", b""), (b"zTXt", b"key\0\0" + zlib.compress(bytes(2**24))),
            (b"tEXt", b""), (b"tIME", b"\0"),
        ):  # fmt: skip
            for at in (33, len(data) - 12):  # before the pixels, and after them
                yield data[:at] + png_chunk(part) + data[at:]
        sound = png_chunk((b"tEXt", b"key\0text"))
        yield data[:33] + sound[:-4] + b"CRC?" + data[33:]
    elif kind == "JPEG":
        for marker, body in (
            (0xE0, b"JFIF\0"), (0xE0, b"JFIF"), (0xE2, b"ICC_PROFILE\0"), (0xE2, b"ICC_PROFILE\0\2\1" + SRGB),
            (0xE2, b"MPF\0MM\0*" + bytes(9)), (0xE2, b"MPF\0" + bytes(60)), (0xE1, b"http://ns.adobe.com/xap/1.0/\0<"),
            (0xED, b"Photoshop 3.0\08BIM\4\4"), (0xEE, b"Adobe"), (0xFE, b""),
        ):  # fmt: skip
            yield data[:2] + struct.pack(">BBH", 0xFF, marker, 2 + len(body)) + body + data[2:]
    elif kind == "WEBP":
        for name, body in ((b"EXIF", b""), (b"XMP ", b"\xff"), (b"ICCP", b"\0"), (b"none", b"\1\2\3")):
            more = data + struct.pack("<4sI", name, len(body)) + body + b"\0" * (len(body) % 2)
            yield more[:4] + struct.pack("<I", len(more) - 8) + more[8:]
        with_xmp = picture(kind, xmp=XMP, **how)
        at = with_xmp.index(b"XMP ")
        yield with_xmp[: at + 4] + struct.pack("<I", 9999) + with_xmp[at + 8 :]


def test_a_table_of_nonsense_and_a_profile_that_does_not_unpack_are_said():
    trash = b"Exif\0\0MM\0*\0\0\0\x08\0\2" + b"\xff" * 60
    assert read(picture("JPEG", exif=trash)).lost == {"orientation": ""}
    data = picture("PNG")
    body = b"iCCPname\0\0no zlib"
    chunk = struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))
    assert read(data[:33] + chunk + data[33:]).lost.keys() == {"profile"}


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_nothing_that_pixels_do_not_need_loses_a_picture(kind):
    whole = read(picture(kind))
    for i, data in enumerate(_broken(kind)):
        got = read(data)
        assert np.array_equal(got.samples, whole.samples), i
        assert set(got.lost) <= set(LOST), i


def test_what_is_left_out_is_said():
    data = saved(Image.fromarray(RGB))
    assert read(data[:33] + png_chunk((b"pHYs", b"")) + data[33:]).lost == {"metadata": ""}
    assert read(data[:33] + png_chunk((b"iCCP", b"x\0\7")) + data[33:]).lost == {"profile": ""}


def test_broken_pixels_are_refused_all_the_same():
    """Only what no pixel needs is left out, and never a checksum of what is needed."""
    for kind in ("PNG", "JPEG", "WEBP"):
        data = picture(kind, exif=TURNED)
        for kept, _ in without_broken(data):
            with Image.open(io.BytesIO(kept)) as image:
                assert np.array_equal(np.asarray(image), np.asarray(Image.open(io.BytesIO(data))))
    data = saved(Image.fromarray(RGB))
    at = data.index(b"IDAT") + 12
    for broken in (data[:at] + b"!" + data[at + 1 :], data[:29] + b"CRC?" + data[33:]):
        with pytest.raises(Exception, match=r"broken|not an image"):
            decode(broken)


def test_deep_pngs_and_pictures_of_pillow_alike(tmp_path):
    whole = decode(deep_png(tmp_path / "a.png", DEEP[..., :3], 2).read_bytes()).samples
    extra = png_chunk((b"eXIf", BLOCKS["noise"])) + png_chunk((b"pHYs", b""))
    got = decode(deep_png(tmp_path / "b.png", DEEP[..., :3], 2, extra=extra).read_bytes())
    assert np.array_equal(got.samples, whole)
    assert "orientation" in got.lost
    for kind in KINDS:
        with Image.open(io.BytesIO(_with_exif(kind, BLOCKS["noise"]))) as image:
            assert samples_of(image)[0].shape == (*RGB.shape[:2], 3), kind


def test_a_folder_of_them_is_trained_on_and_looked_at(tmp_path):
    for i, kind in enumerate(KINDS):
        (tmp_path / "a").mkdir(exist_ok=True)
        data = saved(Image.fromarray(np.roll(RGB, i)).resize((32, 32)), kind, exif=BLOCKS["noise"])
        (tmp_path / f"a/{i}.{kind.lower()}").write_bytes(data)
    with pytest.warns(UserWarning, match="broken EXIF"):
        assert len(open_images(tmp_path / "a", 8, strict=False)) == len(KINDS)
    report = doctor(tmp_path / "a", measure=False)
    assert report.domains["a"]["train"]["unreadable"] == 0


def test_a_resolution_outlives_a_broken_exif_block():
    assert carried_by(picture("JPEG", exif=BLOCKS["noise"], dpi=(300, 300))).dpi == (300, 300)
    info = PngImagePlugin.PngInfo()
    info.add_text("key", "text")
    assert carried_by(
        picture("PNG", exif=BLOCKS["noise"], dpi=(300, 300), pnginfo=info)
    ).dpi == pytest.approx((300, 300), abs=1)


def test_a_profile_of_another_space_outlives_a_broken_text():
    data = picture("PNG", icc_profile=profile(1.0))
    broken = data[:-12] + png_chunk((b"zTXt", b"key\0\7text")) + data[-12:]
    assert np.array_equal(read(broken).samples, read(data).samples)
