"""Height of the ground in every latent cell of a tile, from an elevation model of the user's.

`ecomap.climate_maps` lets temperature follow it: a valley is warmer than the ridges above it.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.crs import CRS
from rasterio.enums import Resampling
from rasterio.errors import CRSError, RasterioError
from rasterio.transform import Affine
from rasterio.vrt import WarpedVRT
from rasterio.warp import transform as transform_points

from ecomap.autoencoder import LATENT_FACTOR
from ecomap.errors import DataError, RequestError
from ecomap.schema import TileRecord

LOWEST_M, HIGHEST_M = -500.0, 9000.0
"""Heights of land on Earth: from the shore of the Dead Sea to Mount Everest, and some room."""

METRES = frozenset({"", "m", "metre", "metres", "meter", "meters"})
"""Names of the unit that a file may state, or none."""


@dataclass(frozen=True)
class Elevation:
    """Heights under a tile."""

    elevation_m: NDArray[np.float64]
    """Mean height of each latent cell ``(h, w)``, metres, all finite."""
    notes: tuple[str, ...] = ()
    """What the reader must know."""


def read_elevation(path: Path, tile: TileRecord) -> Elevation:
    """Lay an elevation model under the latent cells of a tile.

    A height is the mean over the area of its cell, which is `LATENT_FACTOR` pixels a side; where
    the tile is no multiple of that, the last cells reach beyond it. Cells without data get the mean
    of the others.

    Args:
        path: GeoTIFF or another raster of one band, in metres, with a CRS.
        tile: Whose ``crs``, ``transform`` and size say where the cells lie.

    Raises:
        RequestError: If the tile has no CRS or transform.
        DataError: If the file cannot be read, has no CRS, several bands or another unit, does not
            cover the tile, has no data there, or heights that no land has.
    """
    grid, crs = _cells(tile)
    with _opened(path) as source:
        _check(source, path)
        covered = _covered(source, grid, crs, tile)
        if not covered.all():
            raise DataError(
                f"{path} covers {covered.mean():.0%} of the tile at ({tile.lat:g}, {tile.lon:g}). "
                "Expected all of it; give an elevation model that reaches beyond its edges."
            )
        values, lowest, highest = (
            _warped(source, grid, crs, covered.shape, how)
            for how in (Resampling.average, Resampling.min, Resampling.max)
        )
        spacing = _spacing(source, grid, crs)
    _check_heights(np.stack([lowest, highest]), path)
    filled, notes = _filled(values, path)
    if spacing > 1:
        notes += (
            f"A pixel of {path.name} is {spacing:.1f} times as wide as a latent cell: neighbouring "
            "cells share heights.",
        )
    return Elevation(filled, notes)


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """An open raster; whatever cannot be read of it is one error."""
    if not path.is_file():
        raise DataError(f"{path} does not exist. Expected an elevation model as GeoTIFF.")
    try:
        with rasterio.open(path) as source:
            yield source
    except (RasterioError, CRSError) as error:
        raise DataError(
            f"{path} is not a readable elevation model: {error}. Expected a GeoTIFF with a CRS."
        ) from None


def _cells(tile: TileRecord) -> tuple[Affine, CRS]:
    """Grid of a tile's latent cells."""
    if tile.crs is None or tile.transform is None:
        raise RequestError(
            f"The tile at ({tile.lat:g}, {tile.lon:g}) has no CRS or transform, so no elevation "
            "can be laid under it. Start from a GeoTIFF, or leave the elevation out."
        )
    try:
        crs = CRS.from_user_input(tile.crs)
    except CRSError as error:
        raise RequestError(f"The tile's CRS {tile.crs!r} is not known: {error}.") from None
    across, shear_x, left, shear_y, down, top = tile.transform
    steps = [LATENT_FACTOR * step for step in (across, shear_x, shear_y, down)]
    return Affine(steps[0], steps[1], left, steps[2], steps[3], top), crs


def _check(source: Any, path: Path) -> None:
    """Refuse what is no elevation model on a map."""
    if source.crs is None:
        raise DataError(
            f"{path} has no CRS, so nobody knows where its heights are. State it, for instance "
            "with gdal_edit -a_srs EPSG:4326, or give another elevation model."
        )
    if source.count != 1:
        raise DataError(
            f"{path} has {source.count} bands. Expected one, of heights in metres; extract it."
        )
    unit = (source.units[0] or "").strip().lower()
    if unit not in METRES:
        raise DataError(f"{path} is in {unit!r}. Expected metres; convert it.")


def _at(
    transform: Affine, columns: NDArray[np.float64], rows: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Where a transform puts points; affine 2 and 3 differ in their operators."""
    a, b, c, d, e, f = transform[:6]
    return a * columns + b * rows + c, d * columns + e * rows + f


def _pixels_of(
    source: Any, crs: CRS, xs: NDArray[np.float64], ys: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Columns and rows of points on a raster."""
    there = transform_points(crs, source.crs, xs.tolist(), ys.tolist())
    return _at(~source.transform, *map(np.array, there))


def _covered(source: Any, grid: Affine, crs: CRS, tile: TileRecord) -> NDArray[np.bool_]:
    """Cells ``(h, w)`` whose centre, or the tile's edge before it, lies on a raster."""
    rows, columns = (
        np.minimum(np.arange(math.ceil(size)) + 0.5, size)
        for size in (tile.height_px / LATENT_FACTOR, tile.width_px / LATENT_FACTOR)
    )
    across, down = np.meshgrid(columns, rows)
    column, row = _pixels_of(source, crs, *_at(grid, across.ravel(), down.ravel()))
    is_inside = (column >= 0) & (column <= source.width) & (row >= 0) & (row <= source.height)
    return np.asarray(is_inside.reshape(across.shape))


def _warped(
    source: Any, grid: Affine, crs: CRS, shape: tuple[int, ...], how: Resampling
) -> NDArray[np.float64]:
    """A raster on a grid, NaN without data."""
    with WarpedVRT(
        source,
        crs=crs,
        transform=grid,
        height=shape[0],
        width=shape[1],
        resampling=how,
        dtype="float64",
        nodata=np.nan,
    ) as warped:
        values = warped.read(1)
    return np.asarray(values * source.scales[0] + source.offsets[0])


def _spacing(source: Any, grid: Affine, crs: CRS) -> float:
    """Width of a raster's pixels in latent cells, at the corner of a grid."""
    columns, rows = _pixels_of(
        source, crs, *_at(grid, np.array([0.0, 1.0, 0.0]), np.array([0.0, 0.0, 1.0]))
    )
    pixels_a_cell = np.hypot(columns[1:] - columns[0], rows[1:] - rows[0])
    return float(1 / pixels_a_cell.min())


def _check_heights(extremes: NDArray[np.float64], path: Path) -> None:
    """Refuse heights that no land has: most often undeclared nodata, or another unit."""
    lowest, highest = np.nanmin(extremes, initial=0.0), np.nanmax(extremes, initial=0.0)
    wrong = lowest if lowest < LOWEST_M else highest
    if not LOWEST_M <= wrong <= HIGHEST_M:
        raise DataError(
            f"{path} has the height {wrong:g} under the tile. Expected metres from {LOWEST_M:g} to "
            f"{HIGHEST_M:g}; if that value means no data, declare it, for instance with gdal_edit "
            f"-a_nodata {wrong:g}."
        )


def _filled(values: NDArray[np.float64], path: Path) -> tuple[NDArray[np.float64], tuple[str, ...]]:
    """Heights with the mean of the known ones where there are none, and a note that says so."""
    is_missing = np.isnan(values)
    if is_missing.all():
        raise DataError(
            f"{path} has no data anywhere under the tile. Expected heights; give another elevation "
            "model."
        )
    if not is_missing.any():
        return values, ()
    mean = float(values[~is_missing].mean())
    note = (
        f"{path.name} has no data in {is_missing.sum()} of {is_missing.size} cells of the tile "
        f"({is_missing.mean():.1%}); they got the mean of the others, {mean:.0f} m."
    )
    return np.where(is_missing, mean, values), (note,)
