"""Image files to arrays (C,H,W) in [-1,1] and back.

The value range of a file is never guessed: 8-bit samples are divided by 255, 16-bit ones by
65535, everything else is refused. Transparent pixels are laid on white. Of a file with several
pictures (animations, multi-page TIFF) the first is read.
"""

import io
import re
import struct
import zlib
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from torch import Tensor
from torch.nn.functional import interpolate

from sfumato.errors import UserError

from .folders import replacing

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")
Resize = Literal["crop", "stretch", "none"]
LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R BT.601


def natural(name: str) -> list[Any]:
    """Sort key under which 2 comes before 10."""
    parts = re.split(r"([0-9]+)", name.lower())
    return [*(int(p) if i % 2 else p for i, p in enumerate(parts)), name]


def find_images(folder: str | Path) -> list[Path]:
    """Every image file below `folder`, sorted naturally (1, 2, 10); hidden ones are left out.

    Raises:
        UserError: `folder` is missing, is a file or holds no image.
    """
    folder = Path(folder)
    if not folder.is_dir():
        what = "is a file" if folder.exists() else "does not exist"
        raise UserError(f"{folder} {what}: expected a folder of images")
    found = [
        p.relative_to(folder)
        for p in folder.rglob("*")
        if p.suffix.lower() in SUFFIXES and p.is_file()
    ]
    shown = [p for p in found if not any(part.startswith(".") for part in p.parts)]
    if not shown:
        raise UserError(f"{folder} holds no images: files are read that end in {list(SUFFIXES)}")
    return [folder / p for p in sorted(shown, key=lambda p: [natural(part) for part in p.parts])]


def read_image(path: str | Path, channels: int = 3) -> NDArray[np.float32]:
    """Read an image as float32 (channels,H,W) in [-1,1]; 16-bit files keep all their levels.

    Args:
        path: A PNG, JPEG, WebP, BMP or TIFF file: gray, palette, RGB or CMYK, with or without
            transparency. It is turned upright as its EXIF orientation says.
        channels: 3 repeats gray; 1 takes the luma 0.299 R + 0.587 G + 0.114 B.

    Raises:
        UserError: the file is missing, empty, broken, no image, or of a kind without a range.
    """
    return to_float(_read(path, channels))


def to_float(samples: NDArray[Any]) -> NDArray[np.float32]:
    """uint8 or uint16 samples of any shape to float32 in [-1,1]."""
    return samples.astype(np.float32) * np.float32(2 / np.iinfo(samples.dtype).max) - np.float32(1)


def to_samples(images: Tensor | NDArray[Any], dtype: Any = np.uint8) -> NDArray[Any]:
    """Values of any shape to the nearest uint8 (or uint16) samples: -1 to 0, 1 to the largest.

    Raises:
        UserError: a value is not a number.
    """
    values = images.detach().float().cpu().numpy() if isinstance(images, Tensor) else images
    if not np.isfinite(values).all():
        raise UserError("the image has values that are no numbers: the model diverged; lower --lr")
    top = np.iinfo(dtype).max
    return np.floor((values.clip(-1, 1) + 1) * (top / 2) + 0.5).astype(dtype)


def fit_image(
    image: NDArray[np.float32],
    size: int | tuple[int, int],
    resize: Resize = "crop",
    upscale: bool = False,
    name: str | Path = "the image",
) -> NDArray[np.float32]:
    """Bring an image (C,H,W) to (C,h,w) with an antialiased bicubic filter.

    Args:
        image: Values in [-1,1].
        size: Side in pixels, or (height, width).
        resize: "crop" scales until the image just covers the size and cuts the centre, "stretch"
            ignores the proportions, "none" asks for images of exactly this size.
        upscale: Allow images to be enlarged.
        name: What an error calls the image.

    Raises:
        UserError: the image would be enlarged, or has another size and `resize` is "none".
    """
    h, w = (size, size) if isinstance(size, int) else size
    old_h, old_w = image.shape[1:]
    if (old_h, old_w) == (h, w):
        return image
    if resize == "none":
        raise UserError(
            f"{name} is {old_w}x{old_h} pixels, expected {w}x{h}: use --resize crop or stretch"
        )
    if resize not in ("crop", "stretch"):
        raise UserError(f"resize {resize!r} is unknown: use crop, stretch or none")
    if (old_h < h or old_w < w) and not upscale:
        raise UserError(
            f"{name} is {old_w}x{old_h} pixels, smaller than the {w}x{h} asked for: "
            f"use a smaller --size, or --upscale to enlarge it"
        )
    new_h, new_w = h, w
    if resize == "crop":
        scale = max(h / old_h, w / old_w)
        new_h, new_w = max(h, round(old_h * scale)), max(w, round(old_w * scale))
    batch = torch.from_numpy(np.ascontiguousarray(image))[None]
    if (new_h, new_w) != (old_h, old_w):
        batch = interpolate(batch, (new_h, new_w), mode="bicubic", antialias=True).clamp(-1, 1)
    top, left = (new_h - h) // 2, (new_w - w) // 2
    return np.ascontiguousarray(batch[0, :, top : top + h, left : left + w].numpy())


def write_png(path: str | Path, image: Float[Tensor, "c h w"] | NDArray[Any]) -> None:
    """Write an image (3,H,W) or (1,H,W) in [-1,1] as 8-bit PNG, atomically; values are rounded.

    Raises:
        UserError: the shape is another, or a value is not a number.
        OSError: the disk is full or the folder cannot be written; nothing is left behind.
    """
    shown = picture(image)
    with replacing(path) as temporary:
        shown.save(temporary, "PNG")


def picture(image: Float[Tensor, "c h w"] | NDArray[Any]) -> Image.Image:
    """An image (3,H,W) or (1,H,W) in [-1,1] as an 8-bit Pillow picture."""
    if image.ndim != 3 or image.shape[0] not in (1, 3):
        raise UserError(f"cannot write shape {tuple(image.shape)}: expected (3,H,W) or (1,H,W)")
    pixels = to_samples(image).transpose(1, 2, 0)
    return Image.fromarray(pixels.squeeze(2) if len(image) == 1 else pixels)


def _read(path: str | Path, channels: int = 3) -> NDArray[Any]:
    """Samples (channels,H,W), uint8 or uint16."""
    path = Path(path)
    if channels not in (1, 3):
        raise UserError(f"channels {channels}: expected 1 or 3")
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None
    if not data:
        raise UserError(f"{path} is an empty file")
    try:
        samples = _decode(data)
    except Image.DecompressionBombError:
        raise UserError(f"{path} is too large to decode safely: make it smaller first") from None
    except _Refused as error:
        raise UserError(f"{path} {error}") from None
    except UnidentifiedImageError:
        raise UserError(f"{path} is no image, or its header is broken") from None
    except Exception as error:  # decoders raise almost anything on broken data
        raise UserError(f"{path} is broken ({' '.join(str(error).split())})") from None
    return np.ascontiguousarray(_plain(samples, channels).transpose(2, 0, 1))


class _Refused(Exception):
    """A sound file of a kind that is not read; the text follows the file's name."""


def _decode(data: bytes) -> NDArray[Any]:
    """Upright samples (H,W,1 to 4) of gray, gray + alpha, RGB or RGB + alpha."""
    if data[:8] == b"\x89PNG\r\n\x1a\n" and data[24:25] == b"\x10":
        return _deep_png(data)
    if data[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        deep = _deep_tiff(data)
        if deep is not None:
            return deep
    return _pillow(data)


def _pillow(data: bytes) -> NDArray[np.uint8]:
    with Image.open(io.BytesIO(data)) as image:
        image.load()  # orientation may be known only after the pixels
        turn = image.getexif().get(0x0112, 1)
        if image.mode[0] in "IF":
            raise _Refused(f"has samples of mode {image.mode}, expected 8 or 16 bits: convert it")
        gray = image.mode in ("1", "L", "LA", "La")
        alpha = "transparency" in image.info or image.mode in ("LA", "La", "PA", "RGBA", "RGBa")
        mode = ("LA" if gray else "RGBA") if alpha else ("L" if gray else "RGB")
        pixels = np.asarray(image.convert(mode))
    return _upright(pixels.reshape(*pixels.shape[:2], -1), turn)


def _deep_png(data: bytes) -> NDArray[np.uint16]:
    """A 16-bit PNG, read as two 8-bit ones since Pillow would drop the low bytes of its colours.

    PNG's filters act on each byte of a sample by itself: the high bytes alone, and the low bytes
    alone, are valid pixels of an 8-bit PNG with the same filters.
    """
    chunks: list[tuple[bytes, bytes]] = []
    at = 8
    while at < len(data) and (not chunks or chunks[-1][0] != b"IEND"):
        (length,) = struct.unpack(">I", data[at : at + 4])
        chunks.append((data[at + 4 : at + 8], data[at + 8 : at + 8 + length]))
        at += 12 + length
    width, height, _, colour, _, _, interlace = struct.unpack(">IIBBBBB", chunks[0][1])
    if interlace:
        raise _Refused("is an interlaced 16-bit PNG: save it without interlacing")
    samples = {0: 1, 2: 3, 4: 2, 6: 4}.get(colour, 1)
    size = height * (1 + 2 * samples * width)
    if size > 16 * (Image.MAX_IMAGE_PIXELS or size):  # as Pillow, who refuses twice its pixels
        raise Image.DecompressionBombError
    # no more than the header says: a small file may unpack to anything
    body = b"".join(body for kind, body in chunks if kind == b"IDAT")
    raw = zlib.decompressobj().decompress(body, size)
    lines = np.frombuffer(raw, np.uint8).reshape(height, -1)
    exif = [(kind, body) for kind, body in chunks if kind == b"eXIf"]

    def half(first: int) -> NDArray[np.uint16]:
        body = np.hstack([lines[:, :1], lines[:, first::2]]).tobytes()
        header = struct.pack(">IIBBBBB", width, height, 8, colour, 0, 0, 0)
        parts = [(b"IHDR", header), *exif, (b"IDAT", zlib.compress(body, 0)), (b"IEND", b"")]
        return _pillow(data[:8] + b"".join(map(_chunk, parts))).astype(np.uint16)

    return half(1) * np.uint16(256) + half(2)


def _chunk(part: tuple[bytes, bytes]) -> bytes:
    kind, body = part
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def _deep_tiff(data: bytes) -> NDArray[np.uint16] | None:
    """A 16-bit TIFF; None if its samples are 8-bit ones, which Pillow reads."""
    import tifffile

    with tifffile.TiffFile(io.BytesIO(data)) as tiff:
        page: Any = tiff.pages[0]
        if page.dtype is None or page.dtype in (np.uint8, np.bool_):
            return None
        if page.dtype != np.uint16 or page.photometric > 2:
            raise _Refused(
                f"has {page.dtype} samples of kind {page.photometric.name}, whose range is not "
                f"known: save it as gray or RGB of 8 or 16 bits"
            )
        try:
            samples = page.asarray()
        except ValueError as error:
            if "imagecodecs" in str(error):
                raise _Refused("is compressed in a rare way: pip install imagecodecs") from None
            raise
        if page.axes.startswith("S"):  # one plane after the other
            samples = np.moveaxis(samples, 0, -1)
        samples = samples.reshape(page.imagelength, page.imagewidth, -1)
        colours = 3 if page.photometric == 2 else 1
        alpha = 2 in page.extrasamples  # other extra samples are no transparency
        turn = page.tags.valueof("Orientation", 1)
        inverse = page.photometric == 0
    samples = samples[..., : colours + alpha].astype(np.uint16)
    return _upright(65535 - samples if inverse else samples, int(turn))


def _upright(samples: NDArray[Any], turn: int) -> NDArray[Any]:
    """Undo an EXIF orientation 1 to 8 of (H,W,C)."""
    if turn in (5, 6, 7, 8):
        samples = samples.swapaxes(0, 1)
    if turn in (2, 3, 6, 7):
        samples = samples[:, ::-1]
    return samples[::-1] if turn in (3, 4, 7, 8) else samples


def _plain(samples: NDArray[Any], channels: int) -> NDArray[Any]:
    """(H,W,1 to 4) to (H,W,channels) without alpha, in the same dtype."""
    top, dtype = np.iinfo(samples.dtype).max, samples.dtype
    if samples.shape[2] in (2, 4):
        alpha = samples[..., -1:].astype(np.float32) / top
        on_white = top + alpha * (samples[..., :-1].astype(np.float32) - top)
        samples = np.floor(on_white + 0.5).astype(dtype)
    if samples.shape[2] == channels:
        return samples
    if channels == 3:
        return samples.repeat(3, axis=2)
    return np.floor(samples.astype(np.float32) @ LUMA + 0.5).astype(dtype)[..., None]
