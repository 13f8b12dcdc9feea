"""Maps of labels at 10 m on the grid of a tile: ESA WorldCover, or the user's GeoTIFF.

WorldCover lies in files of 3 x 3 degrees that are named after their south-west corner. A label is
that of the nearest pixel: fractions of samples are unbiased, whereas the commonest label around a
sample would swallow what is rare.
"""

import math
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import rasterio
import requests
import shapely
from numpy.typing import NDArray
from pyproj import Transformer
from rasterio.enums import Resampling
from rasterio.errors import RasterioError
from rasterio.transform import Affine
from rasterio.warp import reproject

from data_prep import remote
from data_prep.place import Place
from ecomap.errors import DataError
from ecomap.normals import open_normals

URL = "https://esa-worldcover.s3.eu-central-1.amazonaws.com"
VERSIONS = {2020: "v100", 2021: "v200"}
"""By year. The two were made differently: a pixel that differs need not have changed."""
NODATA = 0
WATER = 80
SQUARE_DEG = 3
"""Side of a file."""
LAT_RANGE = (-60, 84)
"""Files lie between these latitudes. There, one that does not exist is open sea, and so is what a
file has no data of, some way off the coast; beyond, nothing is known."""
INLAND_LAND_MIN = 0.999
"""Around a place with this much land there is no open sea: no data is a hole in the map."""
INLAND_DEG = 1.0
"""Side of the surroundings that are looked at."""
LAND_MIN = 0.02
"""A square with a larger part of land has a file: if it is not found, the address is wrong."""
EDGE_DEG = 0.001
"""Files are opened that lie this near to a tile, whose outline has few points on each side."""
SAMPLE_M = 10.0
"""Distance of samples; that of the pixels."""
MAX_SAMPLES = 2048
"""Samples along a side at most: tiles of more than 20 km are looked at more coarsely."""
METRES_PER_DEG = 111_195

Labels = NDArray[np.uint8]


def read_worldcover(
    place: Place, *, year: int, url: str | None, timeout_s: float, num_retries: int
) -> tuple[Labels, list[str]]:
    """Read WorldCover at the samples of a tile.

    Args:
        place: Tile; it may touch several files.
        year: 2020 or 2021.
        url: Folder with the files of that year, on the web or not; by default the public one.
        timeout_s: Longest wait for an answer.
        num_retries: Further tries after what may pass.

    Returns:
        Labels, (samples, samples), north first, `NODATA` where nothing is known; and what was
        assumed.

    Raises:
        ReadError: If a file cannot be read.
        DataError: If a file is missing that must exist.
    """
    root = (url or f"{URL}/{VERSIONS[year]}/{year}/map").rstrip("/")
    access = remote.access_to(token_url=None, timeout_s=timeout_s, num_retries=num_retries)
    labels = np.full((num_samples(place),) * 2, NODATA, np.uint8)
    notes = []
    for south, west in squares_under(place):
        name = file_name(south, west, year=year)
        found = _read_file(f"{root}/{name}", place, access)
        if found is None:
            _refuse_if_land(south, west, root=root, name=name)
            notes.append(f"{name} does not exist: its part of the tile is taken as sea")
            found = _sea(place, south, west)
        labels = np.where(labels == NODATA, found, labels)
    return _with_open_sea(labels, place, notes)


def file_name(south: int, west: int, *, year: int) -> str:
    """File of the square with a south-west corner, degrees.

    >>> file_name(-3, 15, year=2021)
    'ESA_WorldCover_10m_2021_v200_S03E015_Map.tif'
    """
    corner = f"{'S' if south < 0 else 'N'}{abs(south):02d}{'W' if west < 0 else 'E'}{abs(west):03d}"
    return f"ESA_WorldCover_10m_{year}_{VERSIONS[year]}_{corner}_Map.tif"


def squares_under(place: Place) -> list[tuple[int, int]]:
    """South-west corners (south, west), degrees, of the squares that a tile touches, sorted."""
    corners: set[tuple[int, int]] = set()
    for part in shapely.get_parts(place.footprint):
        left, bottom, right, top = part.bounds
        for south in _multiples(bottom, top):
            if LAT_RANGE[0] <= south < LAT_RANGE[1]:
                corners |= {(south, (west + 180) % 360 - 180) for west in _multiples(left, right)}
    return sorted(corners)


def _multiples(first: float, last: float) -> range:
    """Edges of the squares between two coordinates and of the one around the first."""
    start = math.floor((first - EDGE_DEG) / SQUARE_DEG) * SQUARE_DEG
    return range(start, math.ceil(last + EDGE_DEG), SQUARE_DEG)


def num_samples(place: Place) -> int:
    """Samples along each side of a tile."""
    side_m = place.size_px * place.resolution_m
    return min(max(round(side_m / SAMPLE_M), 1), MAX_SAMPLES)


def sample_labels(raster: Any, place: Place, *, nodata: int) -> Labels:
    """Labels of a map at the samples of a tile; ``nodata`` where it has none.

    Args:
        raster: Open rasterio dataset, first band. Of its overviews the coarsest is read whose
            pixels are no larger than the distance of samples.
        place: Tile.
        nodata: What to write; also taken as the map's own where it declares none.

    Raises:
        DataError: If the map has no CRS or does not hold bytes.
    """
    if raster.crs is None or raster.dtypes[0] != "uint8":
        raise DataError(
            f"{raster.name} has CRS {raster.crs} and values of type {raster.dtypes[0]}; expected "
            "labels of type uint8 with a CRS."
        )
    transform = _sample_transform(place)
    pixel_m = raster.transform.a * (METRES_PER_DEG if raster.crs.is_geographic else 1)
    fitting = [factor for factor in raster.overviews(1) if factor * pixel_m <= transform.a]
    options = {"OVERVIEW_LEVEL": len(fitting) - 1} if fitting else {}
    labels = np.full((num_samples(place),) * 2, nodata, np.uint8)
    with rasterio.open(raster.name, **options) as level:
        reproject(
            rasterio.band(level, 1),
            labels,
            src_nodata=nodata if raster.nodata is None else raster.nodata,
            dst_transform=transform,
            dst_crs=place.crs,
            dst_nodata=nodata,
            resampling=Resampling.nearest,
        )
    return labels


def read_labels(path: Path, place: Place, *, nodata: int) -> tuple[Labels, float | None]:
    """Read the user's map of labels at the samples of a tile.

    Returns:
        Labels, and the value that the file declares as no data, if any.

    Raises:
        DataError: If the file is missing, damaged, or knows nothing of the tile.
    """
    if not path.is_file():
        raise DataError(f"{path} does not exist. Expected a GeoTIFF of labels.")
    try:
        with rasterio.open(path) as raster:
            labels = sample_labels(raster, place, nodata=nodata)
            declared, bounds = raster.nodata, tuple(raster.bounds)
    except RasterioError as error:
        raise DataError(f"{path} is not a readable GeoTIFF: {error}.") from None
    if (labels == nodata).all():
        raise DataError(
            f"{path} has no data under {place.location_id} at ({place.lat:.4f}, {place.lon:.4f}); "
            f"its bounds are {bounds} in its CRS. Give a map of the whole region."
        )
    return labels, declared


def _sample_transform(place: Place) -> Affine:
    step_m = place.size_px * place.resolution_m / num_samples(place)
    return Affine(step_m, 0.0, place.left, 0.0, -step_m, place.top)


def _read_file(address: str, place: Place, access: remote.Access) -> Labels | None:
    """Labels of one file, `NODATA` outside it; None if there is no such file."""
    try:
        with remote.gdal_env(timeout_s=access.timeout_s, num_retries=access.num_retries):
            return remote.read_raster(
                address,
                lambda raster: sample_labels(raster, place, nodata=NODATA),
                collection="",
                access=access,
            )
    except remote.ReadError as error:
        if error.retryable or not _is_missing(address, access.timeout_s):
            raise
        return None


def _is_missing(address: str, timeout_s: float) -> bool:
    """Whether a file certainly does not exist."""
    parts = urlsplit(address)
    if parts.scheme not in ("http", "https"):
        return not Path(parts.path if parts.scheme == "file" else address).exists()
    try:
        return requests.head(address, timeout=timeout_s).status_code == 404
    except requests.RequestException:
        return False


def _refuse_if_land(south: int, west: int, *, root: str, name: str) -> None:
    """A missing file is open sea; with land in its square, something else is wrong."""
    half = SQUARE_DEG / 2
    land = open_normals().land_frac(south + half, west + half, (SQUARE_DEG, SQUARE_DEG))
    if land > LAND_MIN:
        raise DataError(
            f"{root} has no {name}, though {land:.0%} of its square is land. Expected the maps of "
            "ESA WorldCover by their own names; check land_cover.url."
        )


def _with_open_sea(labels: Labels, place: Place, notes: list[str]) -> tuple[Labels, list[str]]:
    """Labels with water for no data where sea may be, and what was assumed."""
    rows, columns = np.nonzero(labels == NODATA)
    if not len(rows):
        return labels, notes
    step = _sample_transform(place)
    x, y = step.c + step.a * (columns + 0.5), step.f + step.e * (rows + 0.5)
    _, lat = Transformer.from_crs(place.crs, "EPSG:4326", always_xy=True).transform(x, y)
    is_mapped = (lat >= LAT_RANGE[0]) & (lat < LAT_RANGE[1])
    filled, notes = labels.copy(), [*notes]
    if is_mapped.any() and _is_inland(place):
        notes.append("a part is not known: it has no data, and no sea is near")
    elif is_mapped.any():
        filled[rows[is_mapped], columns[is_mapped]] = WATER
        part = is_mapped.sum() / labels.size
        notes.append(f"{part:.1%} of the tile is without data and taken as open sea")
    if not is_mapped.all():
        notes.append("beyond 60° S and 84° N nothing is known")
    return filled, notes


def _is_inland(place: Place) -> bool:
    """Whether a tile and its surroundings are land alone, as far as the coarse table knows."""
    height_deg = place.size_px * place.resolution_m / METRES_PER_DEG
    width_deg = height_deg / max(math.cos(math.radians(place.lat)), 0.01)
    extent = (max(height_deg, INLAND_DEG), max(width_deg, INLAND_DEG))
    return open_normals().land_frac(place.lat, place.lon, extent) >= INLAND_LAND_MIN


def _sea(place: Place, south: int, west: int) -> Labels:
    """Water where a tile lies in a square, `NODATA` elsewhere."""
    num = 300
    step_deg = SQUARE_DEG / num
    labels = np.full((num_samples(place),) * 2, NODATA, np.uint8)
    reproject(
        np.full((num, num), WATER, np.uint8),
        labels,
        src_transform=Affine(step_deg, 0.0, west, 0.0, -step_deg, south + SQUARE_DEG),
        src_crs="EPSG:4326",
        src_nodata=NODATA,
        dst_transform=_sample_transform(place),
        dst_crs=place.crs,
        resampling=Resampling.nearest,
    )
    return labels
