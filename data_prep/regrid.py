"""Rasters in memory, from one grid of pixels onto another; 0 is missing in all of them.

On the same grid that is a copy: values are exact. Otherwise classes take the nearest pixel. Bands
are interpolated linearly, with missing pixels left out, so that no zero bleeds in and none is made;
cubic interpolation would overshoot at edges, down to the value that means missing. On a coarser
grid a pixel is the mean of the values under it, each weighted by the area that it shares, and is
missing if less than half of it has data.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox
from rasterio.crs import CRS
from rasterio.enums import Resampling
from rasterio.transform import Affine
from rasterio.warp import reproject

ALIGNED_PX = 1e-3
"""Grids that differ by less, in pixels, are the same."""
AVERAGE_RATIO = 1.5
"""From this ratio of pixel sizes on bands are averaged instead of interpolated."""
MIN_VALID_FRAC = 0.5
"""Share of an averaged pixel that must have data."""
CLASS_RESOLUTION_M = 20
"""Pixel size of scene classes."""
MAX_CLASS_RATIO = 8
"""Classes looked at along each side of a pixel of the tile, at most."""


@dataclass(frozen=True, kw_only=True)
class SourceWindow:
    """A part of a file, as stored."""

    values: NDArray[np.generic]
    """``(H, W)``."""
    transform: Affine
    crs: CRS


def class_grid(geobox: GeoBox) -> GeoBox:
    """Grid on which the classes of a tile are counted.

    The tile's own, or, where its pixels are coarser than classes, each divided into equal parts of
    at most `CLASS_RESOLUTION_M`: of 60 m into 3 x 3, the classes' own pixels. At most into
    `MAX_CLASS_RATIO` each way.
    """
    wanted = math.ceil(geobox.affine.a / CLASS_RESOLUTION_M - ALIGNED_PX)
    num = min(max(wanted, 1), MAX_CLASS_RATIO)
    height, width = geobox.shape
    own = geobox.affine
    finer = Affine(own.a / num, 0, own.c, 0, own.e / num, own.f)
    return GeoBox((height * num, width * num), finer, geobox.crs)


def onto_grid(window: SourceWindow, geobox: GeoBox, *, is_class: bool) -> NDArray[np.generic]:
    """Bring a window onto a grid; 0 is missing in both.

    Pixels that lie on the grid are copied. Otherwise classes are taken from the nearest pixel, and
    the values of bands are interpolated from valid pixels, so that they stay above 0. On a coarser
    grid they are the exact mean of the valid values, rounded; missing below `MIN_VALID_FRAC`.
    """
    result = np.zeros(geobox.shape, window.values.dtype)
    if is_aligned(window.transform, window.crs, geobox):
        corner = pixel_at(geobox.affine, window.transform.c, window.transform.f)
        column, row = round(corner[0]), round(corner[1])
        height, width = window.values.shape
        rows = slice(max(row, 0), min(row + height, result.shape[0]))
        columns = slice(max(column, 0), min(column + width, result.shape[1]))
        result[rows, columns] = window.values[
            rows.start - row : rows.stop - row, columns.start - column : columns.stop - column
        ]
        return result
    if is_class:
        return _warp(window, geobox, result, Resampling.nearest)
    ratio = abs(geobox.affine.a / window.transform.a)
    if ratio < AVERAGE_RATIO:
        return _warp(window, geobox, result, Resampling.bilinear)
    # missing around it, so that a pixel half beyond the file is half missing
    padded = with_rim(window, math.ceil(ratio) + 1)
    valid = replace(padded, values=(padded.values != 0).astype(np.uint8))
    share = _warp(valid, geobox, np.zeros(geobox.shape, np.float32), Resampling.average, None)
    result = _warp(padded, geobox, result, Resampling.average)
    result[share.astype(np.float32) < MIN_VALID_FRAC - ALIGNED_PX] = 0
    return result


def with_rim(window: SourceWindow, rim_px: int, *, repeat: bool = False) -> SourceWindow:
    """A window and a rim of missing pixels around it, or of repeated ones."""
    own = window.transform
    return SourceWindow(
        values=np.pad(window.values, rim_px, mode="edge" if repeat else "constant"),
        transform=Affine(own.a, 0, own.c - rim_px * own.a, 0, own.e, own.f - rim_px * own.e),
        crs=window.crs,
    )


def first_valid(layers: Sequence[NDArray[np.generic]]) -> NDArray[np.generic]:
    """Take each pixel from the first layer that has it.

    Args:
        layers: ``(..., H, W)``, all of one shape; 0 = missing, in all bands of a layer alike.

    Raises:
        ValueError: If there is no layer.
    """
    if not layers:
        raise ValueError("No layer to take pixels from.")
    result = layers[0].copy()
    for layer in layers[1:]:
        np.copyto(result, layer, where=result == 0)
    return result


def is_aligned(transform: Affine, crs: CRS, geobox: GeoBox) -> bool:
    """Whether pixels of a source are pixels of the grid."""
    if crs != crs_of(geobox):
        return False
    grid = geobox.affine
    growth = max(abs(transform.a / grid.a - 1), abs(transform.e / grid.e - 1))
    shift = pixel_at(grid, transform.c, transform.f)
    is_same_size = growth * max(geobox.shape) < ALIGNED_PX
    return is_same_size and all(abs(v - round(v)) < ALIGNED_PX for v in shift)


def pixel_at(transform: Affine, x: float, y: float) -> tuple[float, float]:
    """Column and row of a point, from the upper left corner of a grid that is not turned."""
    return (x - transform.c) / transform.a, (y - transform.f) / transform.e


def crs_of(geobox: GeoBox) -> CRS:
    """CRS of a grid, as rasterio has it."""
    return CRS.from_user_input(str(geobox.crs))


def _warp(
    window: SourceWindow,
    geobox: GeoBox,
    result: NDArray[np.generic],
    resampling: Resampling,
    nodata: int | None = 0,
) -> NDArray[np.generic]:
    """Resample a window into an array on a grid."""
    reproject(
        window.values,
        result,
        src_transform=window.transform,
        src_crs=window.crs,
        src_nodata=nodata,
        dst_transform=geobox.affine,
        dst_crs=crs_of(geobox),
        dst_nodata=nodata,
        resampling=resampling,
    )
    return result
