"""Scenes onto the pixel grid of a tile, each corrected before anything is mixed.

A window of the file is read as it is stored, corrected, and only then brought onto the tile's grid
in memory. On the scene's own grid, the rule, that is a copy: values are exact. Otherwise classes
take the nearest pixel, bands are interpolated linearly (averaged where tiles are coarser) with
missing pixels left out, so that no zero bleeds in and none is made. Cubic interpolation would
overshoot at edges, down to the value that means missing.

odc-stac, which lays whole stacks of items onto a grid, is not used here: it knows no offsets, gives
up at the first failed request, and signs when a load is planned instead of when it is read. Tiles
are read in parallel, the files of one tile one after another, so that the number of threads is also
the number of connections and no file is read that an earlier one made needless.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import rasterio
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox
from rasterio.crs import CRS
from rasterio.enums import Resampling
from rasterio.io import DatasetReader
from rasterio.transform import Affine
from rasterio.warp import reproject, transform_bounds
from rasterio.windows import Window
from scipy.ndimage import binary_propagation

from data_prep.radiometry import to_digital_number
from data_prep.remote import Access, ReadError, read_raster

MARGIN_PX = 2
"""Pixels read around a tile that must be interpolated."""
ALIGNED_PX = 1e-3
"""Grids that differ by less, in pixels, are the same."""
AVERAGE_RATIO = 1.5
"""From this ratio of pixel sizes on bands are averaged instead of interpolated."""


@dataclass(frozen=True, kw_only=True)
class SourceWindow:
    """A part of a file, as stored."""

    values: NDArray[np.generic]
    """``(H, W)``."""
    transform: Affine
    crs: CRS


def read_classes(
    address: str, geobox: GeoBox, *, collection: str, access: Access
) -> NDArray[np.uint8]:
    """Read a class map onto a grid by nearest neighbour; 0 where the file has nothing.

    Raises:
        ReadError: If it cannot be read.
    """
    window = read_window(address, geobox, collection=collection, access=access)
    if window is None:
        return np.zeros(geobox.shape, np.uint8)
    return onto_grid(window, geobox, is_class=True).astype(np.uint8)


def read_band(
    address: str, geobox: GeoBox, *, offset: int, collection: str, access: Access
) -> NDArray[np.uint16]:
    """Read a band onto a grid: digital numbers after the offset, 0 = no data.

    Args:
        address: See `data_prep.remote.read_raster`.
        geobox: Grid of the tile.
        offset: What is added, see `data_prep.radiometry`.
        collection: Whose token the address takes.
        access: Signer, limits.

    Raises:
        ReadError: If it cannot be read.
    """
    window = read_window(address, geobox, collection=collection, access=access)
    if window is None:
        return np.zeros(geobox.shape, np.uint16)
    corrected = SourceWindow(
        values=to_digital_number(window.values.astype(np.uint16), offset),
        transform=window.transform,
        crs=window.crs,
    )
    return onto_grid(corrected, geobox, is_class=False).astype(np.uint16)


def read_window(
    address: str, geobox: GeoBox, *, collection: str, access: Access
) -> SourceWindow | None:
    """Read what a file holds under a grid, at full resolution or the overview that suffices.

    Returns:
        The window with a margin where it must be interpolated, or None without overlap.
    """

    def read(dataset: DatasetReader) -> SourceWindow | None:
        _check_kind(address, dataset)
        level = _overview_level(dataset, geobox)
        if level is None:
            return _read_part(dataset, geobox)
        with rasterio.open(dataset.name, overview_level=level) as overview:
            return _read_part(overview, geobox)

    return read_raster(address, read, collection=collection, access=access)


def onto_grid(window: SourceWindow, geobox: GeoBox, *, is_class: bool) -> NDArray[np.generic]:
    """Bring a window onto a grid; 0 is missing in both.

    Pixels that lie on the grid are copied. Otherwise classes are taken from the nearest pixel, and
    the values of bands are interpolated from valid pixels, so that they stay above 0.
    """
    result = np.zeros(geobox.shape, window.values.dtype)
    if _is_aligned(window.transform, window.crs, geobox):
        corner = _pixel_at(geobox.affine, window.transform.c, window.transform.f)
        column, row = round(corner[0]), round(corner[1])
        height, width = window.values.shape
        rows = slice(max(row, 0), min(row + height, result.shape[0]))
        columns = slice(max(column, 0), min(column + width, result.shape[1]))
        result[rows, columns] = window.values[
            rows.start - row : rows.stop - row, columns.start - column : columns.stop - column
        ]
        return result
    ratio = abs(geobox.affine.a / window.transform.a)
    smooth = Resampling.average if ratio >= AVERAGE_RATIO else Resampling.bilinear
    reproject(
        window.values,
        result,
        src_transform=window.transform,
        src_crs=window.crs,
        src_nodata=0,
        dst_transform=geobox.affine,
        dst_crs=_crs_of(geobox),
        dst_nodata=0,
        resampling=Resampling.nearest if is_class else smooth,
    )
    return result


def fill_dark(bands: NDArray[np.uint16]) -> NDArray[np.uint16]:
    """Tell dark pixels from missing ones, all bands alike.

    Files whose offset was subtracted by the provider hold 0 in deep shadow and on water, the value
    of missing data. A zero is missing where it hangs together with pixels that are 0 in all bands,
    as at the edge of a swath, where bands end a few pixels apart; such pixels become 0 in all
    bands. Other zeros are dark, and become 1.

    Args:
        bands: ``(bands, H, W)``, 0 = missing or dark.
    """
    is_zero = bands == 0
    missing = binary_propagation(is_zero.all(axis=0), mask=is_zero.any(axis=0))
    return np.where(missing, 0, np.maximum(bands, 1)).astype(np.uint16)


def read_scene(
    assets: Mapping[str, str],
    bands: Sequence[str],
    geobox: GeoBox,
    *,
    offset: int,
    collection: str,
    access: Access,
) -> NDArray[np.uint16]:
    """Read bands of one scene onto a grid, ``(bands, H, W)``; missing in one is missing in all.

    Raises:
        ReadError: If one of them cannot be read.
        KeyError: If the scene has no such band.
    """
    read = [
        read_band(assets[band], geobox, offset=offset, collection=collection, access=access)
        for band in bands
    ]
    return fill_dark(np.stack(read))


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


def _crs_of(geobox: GeoBox) -> CRS:
    """CRS of a grid, as rasterio has it."""
    return CRS.from_user_input(str(geobox.crs))


def _check_kind(address: str, dataset: DatasetReader) -> None:
    """Refuse files that cannot be digital numbers or classes on a map.

    Raises:
        ReadError: If it has no CRS, is turned, or holds other numbers.
    """
    is_turned = dataset.transform.b != 0 or dataset.transform.d != 0
    if dataset.crs is None or is_turned or dataset.dtypes[0] not in ("uint8", "uint16"):
        raise ReadError(
            f"{address} holds {dataset.dtypes[0]} with CRS {dataset.crs}, transform "
            f"{tuple(dataset.transform)[:6]}; expected uint8 or uint16 on a map with north up. "
            "Leave the scene out, or take it from another provider."
        )


def _is_aligned(transform: Affine, crs: CRS, geobox: GeoBox) -> bool:
    """Whether pixels of a source are pixels of the grid."""
    if crs != _crs_of(geobox):
        return False
    grid = geobox.affine
    growth = max(abs(transform.a / grid.a - 1), abs(transform.e / grid.e - 1))
    shift = _pixel_at(grid, transform.c, transform.f)
    is_same_size = growth * max(geobox.shape) < ALIGNED_PX
    return is_same_size and all(abs(v - round(v)) < ALIGNED_PX for v in shift)


def _pixel_at(transform: Affine, x: float, y: float) -> tuple[float, float]:
    """Column and row of a point, from the upper left corner of a grid that is not turned."""
    return (x - transform.c) / transform.a, (y - transform.f) / transform.e


def _overview_level(dataset: DatasetReader, geobox: GeoBox) -> int | None:
    """Coarsest overview that is at least as fine as the grid; None for the image itself."""
    ratio = abs(geobox.affine.a / dataset.transform.a) * (1 + ALIGNED_PX)
    levels = [i for i, factor in enumerate(dataset.overviews(1)) if factor <= ratio]
    return levels[-1] if levels else None


def _read_part(dataset: DatasetReader, geobox: GeoBox) -> SourceWindow | None:
    """Read the pixels under a grid, with a margin unless they lie on it."""
    is_aligned = _is_aligned(dataset.transform, dataset.crs, geobox)
    margin = 0 if is_aligned else MARGIN_PX
    bounds = geobox.boundingbox
    edges = (bounds.left, bounds.bottom, bounds.right, bounds.top)
    if dataset.crs != _crs_of(geobox):
        edges = transform_bounds(_crs_of(geobox), dataset.crs, *edges, densify_pts=21)
    own = dataset.transform
    left, top = _pixel_at(own, edges[0], edges[3])
    right, bottom = _pixel_at(own, edges[2], edges[1])
    first_column = max(int(np.floor(left + ALIGNED_PX)) - margin, 0)
    first_row = max(int(np.floor(top + ALIGNED_PX)) - margin, 0)
    last_column = min(int(np.ceil(right - ALIGNED_PX)) + margin, dataset.width)
    last_row = min(int(np.ceil(bottom - ALIGNED_PX)) + margin, dataset.height)
    if last_column <= first_column or last_row <= first_row:
        return None
    window = Window(first_column, first_row, last_column - first_column, last_row - first_row)
    west, north = own.c + first_column * own.a, own.f + first_row * own.e
    return SourceWindow(
        values=dataset.read(1, window=window),
        transform=Affine(own.a, 0, west, 0, own.e, north),
        crs=dataset.crs,
    )
