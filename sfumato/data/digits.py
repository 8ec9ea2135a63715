"""Handwritten digits in random colours: ten domains, with the colour to be kept by a translation.

scikit-learn carries 1,797 real 8x8 digits; each is drawn again as a smooth stroke. The idx files
of MNIST, if the user has them, are coloured in the same way.
"""

import colorsys
import csv
import gzip
import json
import zlib
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from sfumato.core.arguments import checked
from sfumato.core.errors import UserError, not_installed
from sfumato.core.ranges import Count, PictureSide, Whole
from sfumato.core.terminal import count
from sfumato.data.folders import check_splits, new_folder, regular, save_pixels


@checked
def write_digits(out: str | Path, size: PictureSide = 32, seed: Whole = 0, copies: Count = 7) -> None:
    """Write coloured digits as `out/{train,test}/{0..9}/*.png` from scikit-learn's 8x8 images.

    A fifth of the source images goes to test, where each appears twice; no source image is in
    both. Copies differ by a small rotation, shift and scale, and by colour. `out/digits.csv` gives
    each file's path, split, label, source index and colour (0 to 255).

    Args:
        out: Folder to make; it must not exist or be empty.
        size: side of an image in pixels.
        seed: Seed of the split, the distortions and the colours.
        copies: Copies of each source image in train; 7 make about 1,000 per digit.

    Raises:
        UserError: a parameter is out of range, `out` is not empty, or scikit-learn is missing.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise not_installed("scikit-learn", "data") from error
    with new_folder(out) as folder:
        bunch = load_digits()
        sources, labels = torch.from_numpy(bunch.images).float() / 16, bunch.target
        rng = np.random.default_rng(seed)
        train, test = _split(len(labels), rng)
        index = {"train": np.repeat(train, copies), "test": np.repeat(test, 2)}
        strokes = {split: _redraw(sources[chosen], size, rng) for split, chosen in index.items()}
        _write(folder, strokes, {s: labels[i] for s, i in index.items()}, index, rng, {
            "source": "scikit-learn load_digits", "size": size, "seed": seed, "copies": copies,
        })  # fmt: skip


@checked
def write_mnist(out: str | Path, source_folder: str | Path, size: PictureSide = 32, seed: Whole = 0) -> None:
    """Write coloured MNIST digits as `out/{train,test}/{0..9}/*.png` from idx files.

    The files are known by their magic numbers. If `source_folder` has both the `train` and the
    `t10k` set they are the splits; of a single set a seeded fifth is held out for test.

    Args:
        out: Folder to make; it must not exist or be empty.
        source_folder: Folder with idx files of images and labels, plain or .gz.
        size: side of an image in pixels; 32 pads the 28 pixels without resampling.
        seed: Seed of the split and of the colours.

    Raises:
        UserError: files are missing, broken or do not match, or `out` is not empty.
    """
    sets = _idx_sets(Path(source_folder))
    rng = np.random.default_rng(seed)
    if len(sets) == 2:
        splits = {"train": sets["train"], "test": sets["t10k"]}
        index = {split: np.arange(len(labels)) for split, (_, labels) in splits.items()}
    else:
        ((images, labels),) = sets.values()
        train, test = _split(len(labels), rng)
        index = {"train": train, "test": test}
        splits = {split: (images[i], labels[i]) for split, i in index.items()}
    counts = {split: len(labels) for split, (_, labels) in splits.items()}
    check_splits(counts, f"{source_folder} holds too few images", "name the whole MNIST")
    with new_folder(out) as folder:
        strokes = {s: _pad(torch.from_numpy(images), size) for s, (images, _) in splits.items()}
        _write(folder, strokes, {s: labels for s, (_, labels) in splits.items()}, index, rng, {
            "source": "MNIST " + ", ".join(sets), "size": size, "seed": seed,
        })  # fmt: skip


def _split(count: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    order = rng.permutation(count)
    return np.sort(order[count // 5 :]), np.sort(order[: count // 5])


def _redraw(cells: Tensor, size: int, rng: np.random.Generator) -> Tensor:
    """Smooth strokes (N,size,size) in [0,1] from (N,8,8) ink densities, slightly distorted.

    The cubic interpolation is taken at four times the size, cut where the ink exceeds its
    surroundings and averaged down. A plain upsampling would be a blur; a fixed cut would open
    the thin strokes of a 0 or fill the holes of an 8.
    """
    count = len(cells)
    angle = np.radians(rng.uniform(-10, 10, count))
    scale = rng.uniform(1.12, 1.35, count)  # output pixels reach beyond the 8 cells: a border
    shift = rng.uniform(-0.1, 0.1, (count, 2))
    cos, sin = scale * np.cos(angle), scale * np.sin(angle)
    rows = [[cos, -sin, shift[:, 0]], [sin, cos, shift[:, 1]]]
    theta = torch.from_numpy(np.array(rows).transpose(2, 0, 1)).float()
    drawn = []
    for start in range(0, count, 256):
        ink, matrix = cells[start : start + 256], theta[start : start + 256]
        grid = F.affine_grid(matrix, [len(ink), 1, 4 * size, 4 * size], align_corners=False)
        fine = F.grid_sample(ink[:, None], grid, mode="bicubic", align_corners=False)
        fine = fine / fine.amax((2, 3), keepdim=True)
        around = F.avg_pool2d(fine, 4)
        for _ in range(2):  # two box filters, on the small grid for speed
            r = size // 6
            around = F.avg_pool2d(around, 2 * r + 1, 1, r, count_include_pad=False)
        around = F.interpolate(around.clamp(min=0.2), scale_factor=4, mode="bilinear")
        drawn.append(F.avg_pool2d(((fine - 0.12 - 0.6 * around) * 8 + 0.5).clamp(0, 1), 4)[:, 0])
    return torch.cat(drawn)


def _pad(images: Tensor, size: int) -> Tensor:
    """(N,28,28) bytes to (N,size,size) in [0,1] with a border of 2 pixels of 32."""
    padded = F.pad(images.float() / 255, [2, 2, 2, 2])[:, None]
    if size != 32:
        padded = F.interpolate(padded, (size, size), mode="bicubic", antialias=True).clamp(0, 1)
    return padded[:, 0]


def _write(
    folder: Path,
    strokes: dict[str, Tensor],
    labels: dict[str, np.ndarray],
    index: dict[str, np.ndarray],
    rng: np.random.Generator,
    record: dict[str, object],
) -> None:
    """Colour strokes (N,H,W) in [0,1] at random and write them with their list."""
    rows: list[tuple[object, ...]] = [("name", "split", "label", "source", "r", "g", "b")]
    for split, ink in strokes.items():
        for label in range(10):
            (folder / split / str(label)).mkdir(parents=True)
        for i, mask in enumerate(ink):
            label, source = int(labels[split][i]), int(index[split][i])
            # not fully saturated: pure blue is too dark on black
            hue = colorsys.hsv_to_rgb(rng.random(), 0.85, 1.0)
            colour = np.round(255 * np.array(hue))
            name = f"{i:05d}.png"
            mask = mask / mask.max().clamp(min=1e-6)  # the recorded colour is really reached
            pixels = np.round(mask.numpy()[..., None] * colour).astype(np.uint8)
            save_pixels(folder / split / str(label) / name, pixels)
            rows.append((f"{split}/{label}/{name}", split, label, source, *colour.astype(int)))
    with (folder / "digits.csv").open("w", newline="") as table:
        csv.writer(table).writerows(rows)
    record = {**record, "counts": {split: len(ink) for split, ink in strokes.items()}}
    (folder / "split.json").write_text(json.dumps(record, indent=1) + "\n")


def _idx_sets(folder: Path) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """{"train" or "t10k" or "all": (images (N,H,W) uint8, labels (N,) uint8)} found in `folder`."""
    found: dict[str, dict[int, tuple[Path, np.ndarray]]] = {}
    for path in sorted(folder.iterdir()) if folder.is_dir() else []:
        data = None if path.name.startswith(".") or path.is_dir() else _read_idx(path)
        if data is not None:
            kind = next((k for k in ("train", "t10k") if path.name.startswith(k)), "all")
            found.setdefault(kind, {})[data.ndim] = (path, data)
    sets = {k: (v[3][1], v[1][1]) for k, v in found.items() if set(v) == {1, 3}}
    if not sets or ("all" in sets and len(sets) > 1):
        raise UserError(
            f"{folder} has no matching idx files: expected images and labels such as "
            f"train-images-idx3-ubyte.gz and train-labels-idx1-ubyte.gz"
        )
    for kind, (images, labels) in sets.items():
        if len(images) != len(labels) or images.shape[1:] != (28, 28) or labels.max(initial=0) > 9:
            raise UserError(
                f"{found[kind][3][0]} does not match its labels: {count(len(images), 'image')} of "
                f"{images.shape[1:]} and {count(len(labels), 'label')}; expected equal numbers of 28x28 "
                f"images and labels 0 to 9"
            )
    return sets


def _read_idx(path: Path) -> np.ndarray | None:
    """The array in an idx file of bytes; None if `path` is some other kind of file."""
    try:
        data = regular(path).read_bytes()
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}): expected an idx file") from None
    try:
        if data[:2] == b"\x1f\x8b":
            data = gzip.decompress(data)
    except (EOFError, OSError, zlib.error) as error:
        raise UserError(f"{path} is a broken gzip file ({error}): download it again") from None
    if data[:4] not in (b"\0\0\x08\x01", b"\0\0\x08\x03"):
        if "idx" in path.name:
            raise UserError(f"{path} is not an idx file of bytes (it starts {data[:4]!r})")
        return None
    start = 4 + 4 * data[3]
    shape = [int(n) for n in np.frombuffer(data[4:start].ljust(start - 4, b"\0"), ">u4")]
    if len(data) - start != np.prod(shape):
        raise UserError(
            f"{path} is truncated: its header says {shape} bytes after it, "
            f"found {max(0, len(data) - start)}: download it again"
        )
    return np.frombuffer(data, np.uint8, offset=start).reshape(shape).copy()
