"""Bytes of a picture file to samples: the one decoder, which also decides what is refused.

The value range of a file is never guessed: 8-bit samples stay uint8, 16-bit ones uint16, everything
else is refused unless a range is stated.  What a file holds besides is not dropped without a word:
`Decoded.lost` says it.
"""

from __future__ import annotations

import contextlib
import io
import re
import struct
import threading
import warnings
import zlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from sfumato.core.terminal import count
from sfumato.data.arrays import array_header, kind_of, read_array
from sfumato.data.header import LIMITS, PAGED, Header, Limits, Refused, upright
from sfumato.data.metadata import in_srgb, is_srgb, turn_of, without_broken
from sfumato.data.png import check_rows, png_chunk, png_chunks
from sfumato.data.tiff import frame_of, is_tiff, read_tiff, tiff_header

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "DIB", "TIFF", "GIF", "AVIF")
"""What Pillow may take a file for; of its others some start programs, such as Ghostscript."""
LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R BT.601
T = TypeVar("T")
BROKEN = "Corrupt EXIF data|Truncated File Read|Image appears to be a malformed MPO"
PILLOW = r"PIL\.(Tiff|Jpeg)ImagePlugin"
QUIET = "ignore", re.compile(BROKEN, re.IGNORECASE), UserWarning, re.compile(PILLOW), 0
"""Pillow's warnings of metadata that are broken, which name no file."""
LARGE = 16_000_000
"""Pixels from which on files are decoded one at a time, whatever the number of cores."""
_one_at_a_time = threading.RLock()


class Decoded(NamedTuple):
    """Upright samples, and what of the file is not in them."""

    samples: NDArray[Any]
    """(H, W, 1 to 4), uint8 or uint16: gray, gray and alpha, RGB, RGB and alpha; or as was asked for."""
    header: Header
    lost: dict[str, str]
    """{kind: detail}, such as {"pages": "12 pictures"}; the kinds are those of `LOST`."""


def decode(
    data: bytes,
    limits: Limits = LIMITS,
    ranged: bool = False,
    bands: int | None = None,
    page: int | None = None,
) -> Decoded:
    """The first picture of a file, upright, in sRGB where it has a colour profile.

    Args:
        data: the file.
        limits: what it may ask of the machine.
        ranged: whether the range of its values is known: then TIFFs and arrays may have samples of any type.
        bands: how many it must have, which are taken as they are.
        page: of a format that has pages, from 0 on; by default the first.

    Raises:
        Refused: for anything else than a sound file of `FORMATS`, or an array, inside the limits.
    """
    if not data:
        raise Refused("is an empty file")
    with _refusing():
        header = inspect(data, limits, page or 0)
        with _one_at_a_time if header.width * header.height > LARGE else contextlib.nullcontext():
            if kind := kind_of(data):
                samples, lost = read_array(data, kind, ranged, bands, page), {}
            elif header.kind == "TIFF":
                with _one_at_a_time if page else contextlib.nullcontext():  # further pages have one reader
                    read = read_tiff(data, ranged, bands, page)
                samples, lost = read or _pillow(data, header, frame_of(data, page) if page else 0)
            elif header.kind == "PNG" and data[24] == 16:
                samples, lost = _deep_png(data)
            else:
                if header.kind == "PNG":
                    check_rows(data)
                samples, lost = _pillow(data, header)
        if bands is not None and samples.shape[2] != bands:
            found = count(samples.shape[2], "band")
            raise Refused(f"has {found}, expected {bands}, as a model or --channels says")
        if header.pages > 1 and (page is None or header.kind not in PAGED):
            lost = {"beside" if header.kind == "JPEG" else "pages": f"{header.pages} pictures"} | lost
    return Decoded(samples, header, lost)


def inspect(data: bytes, limits: Limits = LIMITS, page: int = 0) -> Header:
    """The header of a file, or of one of its pages, which is also what `decode` goes by.

    Raises:
        Refused: for a file that is none of the formats, has a broken header, or is beyond the limits.
    """
    with _refusing():
        if kind := kind_of(data):
            header = array_header(data, kind, page)
        else:
            header = tiff_header(data, page, limits) if is_tiff(data) else _pillow_header(data)
    w, h = header.width, header.height
    if w * h > limits.pixels or max(w, h) > limits.side:
        raise Refused(
            f"has {w}x{h} pixels: expected at most {limits.pixels:,}, and {limits.side:,} a side; "
            f"make it smaller first, or cut it into tiles"
        )
    if header.kind == "JPEG" and data.count(b"\xff\xda") > limits.scans:
        raise Refused(f"is drawn over more than {limits.scans} times: save it anew as PNG")
    return header


def plain(
    samples: NDArray[Any], channels: int, colour: tuple[int, int, int] = (255, 255, 255)
) -> NDArray[Any]:
    """(H, W, 1 to 4) to (H, W, channels) without alpha, which is laid on a colour, in the same dtype.

    Floats lie in [0, 1].
    """
    if samples.shape[2] == channels:
        return samples
    if channels not in (1, 3):
        raise Refused(f"has {count(samples.shape[2], 'band')}, expected {channels}")
    dtype, whole = samples.dtype, samples.dtype.kind != "f"
    top = np.iinfo(dtype).max if whole else 1.0

    def nearest(x: NDArray[Any]) -> NDArray[Any]:
        return np.floor(x + 0.5).astype(dtype) if whole else x.astype(dtype)

    if samples.shape[2] in (2, 4):
        if samples.shape[2] == 2 and len(set(colour)) > 1:  # gray on a colour is coloured
            samples = samples[..., [0, 0, 0, 1]]
        on = np.array(colour[: samples.shape[2] - 1], np.float32) * (top / 255)
        alpha = samples[..., -1:].astype(np.float32) / top
        laid = on + alpha * (samples[..., :-1].astype(np.float32) - on)
        samples = nearest(laid)
    if samples.shape[2] == channels:
        return samples
    if channels == 3:
        return samples.repeat(3, axis=2)
    return nearest(samples.astype(np.float32) @ LUMA)[..., None]


@contextlib.contextmanager
def _refusing() -> Iterator[None]:
    """Decoders raise almost anything on broken data."""
    try:
        yield
    except Refused:
        raise
    except Image.DecompressionBombError:
        raise Refused(
            f"has too many pixels: expected at most {LIMITS.pixels:,}; make it smaller first"
        ) from None
    except UnidentifiedImageError:
        raise Refused("is not an image, or its header is broken") from None
    except Exception as error:
        raise Refused(f"is broken ({' '.join(str(error).split())})") from None


# ---- everything with 8 bits, but TIFF ------------------------------------------------------------


def seen(data: bytes, look: Callable[[Image.Image], T]) -> tuple[T, dict[str, str]]:
    """What is seen in a file as Pillow's picture, not yet decoded, of `FORMATS`; and what is lost of it.

    Where the file is broken beside its pixels, it is seen without what is broken.
    """
    Image.init()
    if QUIET not in warnings.filters:  # said by `lost`, with the file's name; threads share filters
        warnings.filterwarnings("ignore", BROKEN, UserWarning, PILLOW)
    known = [kind for kind in FORMATS if kind in Image.OPEN]  # an older Pillow has no AVIF
    first: Exception | None = None
    for kept, lost in without_broken(data):
        try:
            with Image.open(io.BytesIO(kept), formats=known) as image:
                return look(image), lost
        except (Refused, Image.DecompressionBombError):
            raise
        except Exception as error:  # decoders raise almost anything on broken data
            first = first or error
    raise first or Refused("is not an image")


def _pillow_header(data: bytes) -> Header:
    if data[:8] == b"\x89PNG\r\n\x1a\n":
        kinds = [kind for kind, _ in png_chunks(data)]
        if kinds[:1] != [b"IHDR"] or kinds.count(b"IHDR") > 1:
            raise Refused("is broken (its header is not the first part, or not the only one)")

    def look(image: Image.Image) -> Header:
        kind = {"MPO": "JPEG", "DIB": "BMP"}.get(str(image.format), str(image.format))
        deep = kind == "PNG" and data[24:25] == b"\x10"
        return Header(kind, *image.size, getattr(image, "n_frames", 1), "uint16" if deep else "uint8")

    return seen(data, look)[0]


def _pillow(data: bytes, header: Header, frame: int = 0) -> tuple[NDArray[np.uint8], dict[str, str]]:
    def look(image: Image.Image) -> tuple[NDArray[Any], dict[str, str]]:
        if frame:
            image.seek(frame)
        image.load()  # orientation may be known only after the pixels
        if sorted(image.size) != sorted((header.width, header.height)):  # a TIFF may be turned already
            raise Refused("is broken (its header says another size)")
        return _samples_of(image)

    (samples, lost), more = seen(data, look)
    return samples, lost | more


def samples_of(image: Image.Image) -> tuple[NDArray[Any], dict[str, str]]:
    """Upright samples (H, W, 1 to 4) of a picture of Pillow, in sRGB, and what of it is lost.

    Raises:
        Refused: its samples have no known range, or it is empty, closed or broken.
    """
    with _refusing():
        return _samples_of(image)


def _samples_of(image: Image.Image) -> tuple[NDArray[Any], dict[str, str]]:
    if not all(image.size):
        raise Refused("is empty")
    turn = turn_of(image)
    unknown = {"orientation": ""} if turn is None else {}
    if image.mode.startswith("I;16"):
        return upright(np.asarray(image).astype(np.uint16)[..., None], turn or 1), unknown
    if image.mode[0] in "IF":
        raise Refused(f"has samples of mode {image.mode}, expected 8 or 16 bits: convert it")
    gray = image.mode in ("1", "L", "LA", "La")
    alpha = "transparency" in image.info or image.mode in ("LA", "La", "PA", "RGBA", "RGBa")
    profile = image.info.get("icc_profile", b"")
    kept = image.convert(("LA" if gray else "RGBA") if alpha else ("L" if gray else "RGB"))
    shown, lost = _to_srgb(image if image.mode == "CMYK" else kept, profile)
    if shown is not None:
        bands = [*shown.split(), *([kept.getchannel("A")] if alpha else [])]
        kept = Image.merge("RGBA" if alpha else "RGB", bands)
    pixels = np.asarray(kept)
    return upright(pixels.reshape(*pixels.shape[:2], -1), turn or 1), unknown | lost


def _to_srgb(image: Any, profile: bytes | None) -> tuple[Any, dict[str, str]]:
    """The picture in RGB by its colour profile, if it has another than sRGB; None is one that is no zlib."""
    from PIL import ImageCms

    if profile is None:
        return None, {"profile": "it is broken"}
    if not profile or is_srgb(profile):
        return None, {}
    try:
        opaque = image if image.mode == "CMYK" else image.convert(image.mode[:3].rstrip("A"))
        return in_srgb(opaque, profile), {}
    except (ImageCms.PyCMSError, OSError, ValueError) as error:
        return None, {"profile": " ".join(str(error).split()) or "it is broken"}


# ---- PNG with 16 bits ----------------------------------------------------------------------------


def _deep_png(data: bytes) -> tuple[NDArray[np.uint16], dict[str, str]]:
    """A 16-bit PNG, read as two 8-bit ones since Pillow would drop the low bytes of its colours.

    PNG's filters act on each byte of a sample by itself: the high bytes alone, and the low bytes
    alone, are valid pixels of an 8-bit PNG with the same filters.
    """
    chunks = list(png_chunks(data))
    width, height, _, colour, _, _, interlace = struct.unpack(">IIBBBBB", chunks[0][1])
    if interlace:
        raise Refused("is an interlaced 16-bit PNG: save it without interlacing")
    samples = {0: 1, 2: 3, 4: 2, 6: 4}.get(colour, 1)
    # no more than the header says: a small file may unpack to anything
    body = b"".join(body for kind, body in chunks if kind == b"IDAT")
    raw = zlib.decompressobj().decompress(body, height * (1 + 2 * samples * width))
    lines = np.frombuffer(raw, np.uint8).reshape(height, -1)
    exif = [(kind, body) for kind, body in chunks if kind == b"eXIf"]
    header = struct.pack(">IIBBBBB", width, height, 8, colour, 0, 0, 0)

    def half(first: int) -> tuple[NDArray[np.uint16], dict[str, str]]:
        body = np.hstack([lines[:, :1], lines[:, first::2]]).tobytes()
        parts = [(b"IHDR", header), *exif, (b"IDAT", zlib.compress(body, 0)), (b"IEND", b"")]
        png = data[:8] + b"".join(map(png_chunk, parts))
        pixels, lost = _pillow(png, Header("PNG", width, height, 1))
        return pixels.astype(np.uint16), lost

    profile = next((body for kind, body in chunks if kind == b"iCCP"), b"")
    name = profile.partition(b"\0")[0].decode("latin1")
    lost = {"profile": f"{name}, of 16 bits"} if profile and "srgb" not in name.lower() else {}
    (high, broken), (low, _) = half(1), half(2)
    deep, lost = high * np.uint16(256) + low, lost | broken
    clear = next((body for kind, body in chunks if kind == b"tRNS"), b"")
    if clear and samples in (1, 3):  # one colour is transparent
        opaque = (deep != np.frombuffer(clear[: 2 * samples], ">u2")).any(2, keepdims=True)
        deep = np.concatenate([deep, opaque * np.uint16(65535)], axis=2)
    return deep, lost
