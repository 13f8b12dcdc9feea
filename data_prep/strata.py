"""Land cover of many tiles at once: the classes by which places are drawn."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import geopandas as gpd
import numpy as np
import rasterio
import shapely
from rasterio.crs import CRS
from rasterio.errors import RasterioIOError

from data_prep.place import Place
from ecomap.errors import DataError
from ecomap.normals import KM_PER_DEG, Footprint, open_normals
from ecomap.schema import LandCover

UNKNOWN_CODES = (254, 255)
"""Unclassified and fill value of MCD12Q1, where a file does not declare them."""
BATCH_SIZE = 2000
"""Tiles whose classes are read at once, to bound memory."""
EDGE_PARTS = 8
"""Pieces of a tile's edge, which is not straight in another CRS."""


@dataclass(frozen=True)
class Stratum:
    """Land cover under a tile."""

    land_cover: LandCover | None
    """Majority class of the land; water bodies where there is none, None where nothing is known."""
    land_frac: float
    """Fraction that is land, [0, 1], of what is known."""


def read_strata(places: Sequence[Place], path: Path | None) -> Iterator[Stratum]:
    """Land cover of each place, in their order.

    Args:
        places: Tiles.
        path: GeoTIFF of IGBP codes 1-17 in any CRS (0 counts as water); None takes the coarse
            table that ships, whose cells are half a degree wide.

    Raises:
        DataError: If the file is missing, damaged, without CRS, or has other codes than IGBP's.
    """
    if path is None:
        return (_from_table(place) for place in places)
    return _from_file(places, path)


def _from_table(place: Place) -> Stratum:
    table, extent = open_normals(), _extent(place)
    return Stratum(
        table.land_cover(place.lat, place.lon, extent),
        table.land_frac(place.lat, place.lon, extent),
    )


def _extent(place: Place) -> Footprint:
    """Extent of a tile in degrees of latitude and longitude."""
    side_deg = place.size_px * place.resolution_m / 1000 / KM_PER_DEG
    return side_deg, side_deg / float(np.cos(np.radians(place.lat)))


def _from_file(places: Sequence[Place], path: Path) -> Iterator[Stratum]:
    from exactextract import exact_extract

    crs = _check_file(path)
    for start in range(0, len(places), BATCH_SIZE):
        outlines = _outlines(places[start : start + BATCH_SIZE], crs)
        with rasterio.open(path) as raster:
            answers = exact_extract(raster, outlines, ["unique", "frac"])
        for answer in answers:
            found = answer["properties"]
            yield _stratum(found["unique"], found["frac"], path)


def _check_file(path: Path) -> CRS:
    """CRS of a GeoTIFF of codes."""
    try:
        with rasterio.open(path) as raster:
            crs, kinds = raster.crs, raster.dtypes
    except RasterioIOError as error:
        raise DataError(
            f"{path} cannot be read: {error}. Expected a GeoTIFF of IGBP codes for "
            "sampling.land_cover_path."
        ) from None
    if crs is None:
        raise DataError(f"{path} has no CRS. Assign it with 'gdal_edit.py -a_srs' or in QGIS.")
    if len(kinds) != 1 or not np.issubdtype(np.dtype(kinds[0]), np.integer):
        raise DataError(
            f"{path} has bands of {', '.join(kinds)}. Expected one band of whole numbers, the IGBP "
            "codes 1 to 17."
        )
    return crs


def _outlines(places: Sequence[Place], crs: CRS) -> gpd.GeoDataFrame:
    """Tiles as polygons in another CRS, in their order."""
    shapes = np.empty(len(places), dtype=object)
    order = sorted(range(len(places)), key=lambda index: places[index].crs)
    for zone, group in groupby(order, key=lambda index: places[index].crs):
        indices = list(group)
        if zone[-2:] in ("01", "60"):  # they may cross the antimeridian
            footprints = [places[index].footprint for index in indices]
            moved = gpd.GeoSeries(footprints, crs="EPSG:4326").to_crs(crs)
        else:
            corners = np.array([_bounds(places[index]) for index in indices])
            side = places[indices[0]].size_px * places[indices[0]].resolution_m
            squares = gpd.GeoSeries(shapely.box(*corners.T), crs=zone)
            moved = squares.segmentize(side / EDGE_PARTS).to_crs(crs)
        shapes[indices] = moved.to_numpy()
    return gpd.GeoDataFrame(geometry=shapes, crs=crs)


def _bounds(place: Place) -> tuple[float, float, float, float]:
    side = place.size_px * place.resolution_m
    return place.left, place.top - side, place.left + side, place.top


def _stratum(codes: np.ndarray, fracs: np.ndarray, path: Path) -> Stratum:
    """Majority class of the land among codes with their fractions of the known area."""
    areas = np.zeros(18)
    for code, frac in zip(codes, fracs, strict=True):
        if code in UNKNOWN_CODES:
            continue
        if not 0 <= code <= 17:
            raise DataError(
                f"{path} holds the code {int(code)}. Expected IGBP codes 1 to 17 (0 for water); "
                "WorldCover's and Dynamic World's codes must be translated first."
            )
        areas[int(code) or LandCover.WATER_BODIES] += frac
    if not areas.sum() > 0:
        return Stratum(None, 0.0)
    land = areas.copy()
    land[LandCover.WATER_BODIES] = 0
    if not land.sum() > 0:
        return Stratum(LandCover.WATER_BODIES, 0.0)
    return Stratum(LandCover(int(land.argmax())), float(land.sum() / areas.sum()))
