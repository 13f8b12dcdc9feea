"""Scenes onto the pixel grid of a tile, each corrected before anything is mixed.

A window of the file is read as it is stored, corrected, and only then brought onto the tile's grid
in memory (`data_prep.regrid`): copied where pixels are the tile's own, the rule; else interpolated,
or averaged where the tile's are coarser.

Files carry smaller copies of themselves, overviews, made by a resampling that they do not name: of
classes they may be averages, of which cloud (8) and vegetation (4) make water (6); of bands single
pixels out of sixteen, half a pixel away. So classes are always read as they are, and bands too, up
to `FULL_RATIO` pixels of the file a pixel of the tile. Beyond that bands are averaged from at least
`OVERVIEW_RATIO` pixels each way of an overview, which shifts them by an eighth of a pixel at most.

odc-stac, which lays whole stacks of items onto a grid, is not used here: it knows no offsets, gives
up at the first failed request, and signs when a load is planned instead of when it is read. Tiles
are read in parallel, the files of one tile one after another, so that the number of threads is also
the number of connections and no file is read that an earlier one made needless.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import rasterio
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox
from rasterio.io import DatasetReader
from rasterio.transform import Affine
from rasterio.warp import transform_bounds
from rasterio.windows import Window
from scipy.ndimage import binary_dilation

from data_prep.radiometry import to_digital_number
from data_prep.regrid import (
    ALIGNED_PX,
    SourceWindow,
    class_grid,
    crs_of,
    is_aligned,
    onto_grid,
    pixel_at,
    with_rim,
)
from data_prep.remote import Access, ReadError, read_raster

MARGIN_PX = 2
"""Pixels read around a tile that must be interpolated."""
FULL_RATIO = 8
"""Up to this ratio bands are averaged from the image itself."""
OVERVIEW_RATIO = 4
"""Beyond, from an overview whose pixels are finer by this ratio at least."""
EDGE_PX = 4
"""Pixels by which the edges of bands lie apart."""
HAS_DATA, HAS_NONE = 1, 2
STRIP_PX = 512
"""Rows that are corrected at once; windows may be large, and threads are many."""


def read_classes(
    address: str, geobox: GeoBox, *, collection: str, access: Access
) -> NDArray[np.uint8]:
    """Read a class map onto a grid by nearest neighbour; 0 where the file has nothing.

    Args:
        address: See `data_prep.remote.read_raster`.
        geobox: `class_grid` of the tile.
        collection: Whose token the address takes.
        access: Signer, limits.

    Raises:
        ReadError: If it cannot be read.
    """
    window = read_window(address, geobox, is_class=True, collection=collection, access=access)
    if window is None:
        return np.zeros(geobox.shape, np.uint8)
    return onto_grid(window, geobox, is_class=True).astype(np.uint8)


def read_band(
    address: str,
    geobox: GeoBox,
    *,
    offset: int,
    classes: NDArray[np.uint8] | None,
    collection: str,
    access: Access,
) -> NDArray[np.uint16]:
    """Read a band onto a grid: digital numbers after the offset, 0 = no data.

    Args:
        address: See `data_prep.remote.read_raster`.
        geobox: Grid of the tile.
        offset: What is added, see `data_prep.radiometry`.
        classes: Classes of the same scene on the tile's `class_grid`, where zeros may be dark
            instead of missing, see `keep_dark`.
        collection: Whose token the address takes.
        access: Signer, limits.

    Raises:
        ReadError: If it cannot be read.
    """
    window = read_window(address, geobox, is_class=False, collection=collection, access=access)
    if window is None:
        return np.zeros(geobox.shape, np.uint16)
    values = window.values.astype(np.uint16)
    if classes is not None:
        grid = class_grid(geobox)
        told = np.where(classes > 0, HAS_DATA, HAS_NONE).astype(np.uint8)
        layer = SourceWindow(values=told, transform=grid.affine, crs=crs_of(grid))
        rim_px = math.ceil(MARGIN_PX * abs(window.transform.a / grid.affine.a)) + MARGIN_PX
        layer = with_rim(layer, rim_px, repeat=True)
        own = GeoBox(values.shape, window.transform, window.crs)
        values = keep_dark(values, onto_grid(layer, own, is_class=True).astype(np.uint8))
    for first in range(0, len(values), STRIP_PX):
        strip = slice(first, first + STRIP_PX)
        values[strip] = to_digital_number(values[strip], offset)
    return onto_grid(replace(window, values=values), geobox, is_class=False).astype(np.uint16)


def read_window(
    address: str, geobox: GeoBox, *, is_class: bool, collection: str, access: Access
) -> SourceWindow | None:
    """Read what a file holds under a grid: the image itself, or an overview of a far finer band.

    Returns:
        The window with a margin where it must be interpolated, or None without overlap.
    """

    def read(dataset: DatasetReader) -> SourceWindow | None:
        _check_kind(address, dataset)
        level = None if is_class else _overview_level(dataset, geobox)
        if level is None:
            return _read_part(dataset, geobox)
        with rasterio.open(dataset.name, overview_level=level) as overview:
            return _read_part(overview, geobox)

    return read_raster(address, read, collection=collection, access=access)


def keep_dark(values: NDArray[np.uint16], told: NDArray[np.uint8]) -> NDArray[np.uint16]:
    """Tell dark pixels from missing ones; dark ones become 1.

    Files whose offset was subtracted by the provider hold 0 in deep shadow and on water, the value
    of missing data. A zero is missing where the scene's classes know of no data either, and up to
    `EDGE_PX` beyond, for bands and classes end a few pixels apart at the edge of a swath.

    Args:
        values: Digital numbers as published, ``(H, W)``, 0 = missing or dark.
        told: What the classes tell, on the same grid: `HAS_DATA`, `HAS_NONE`, or 0 far beyond
            the tile, where zeros stay.
    """
    is_zero = (values == 0) & (told > 0)
    missing = is_zero & (told == HAS_NONE)
    if missing.any():
        missing = binary_dilation(missing, mask=is_zero, iterations=EDGE_PX)
    return np.where(is_zero & ~missing, 1, values).astype(np.uint16)


def read_scene(
    assets: Mapping[str, str],
    bands: Sequence[str],
    geobox: GeoBox,
    *,
    offset: int,
    classes: NDArray[np.uint8] | None,
    collection: str,
    access: Access,
) -> NDArray[np.uint16]:
    """Read bands of one scene onto a grid, ``(bands, H, W)``; missing in one is missing in all.

    Args:
        assets: Band -> address.
        bands: Which, in this order.
        geobox: Grid of the tile.
        offset: See `read_band`.
        classes: See `read_band`.
        collection: Whose token the addresses take.
        access: Signer, limits.

    Raises:
        ReadError: If one of them cannot be read.
        KeyError: If the scene has no such band.
    """
    layers = [
        read_band(
            assets[band],
            geobox,
            offset=offset,
            classes=classes,
            collection=collection,
            access=access,
        )
        for band in bands
    ]
    read = np.stack(layers)
    read[:, (read == 0).any(axis=0)] = 0
    return read


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


def _overview_level(dataset: DatasetReader, geobox: GeoBox) -> int | None:
    """Coarsest overview that is finer than the grid by far; None for the image itself."""
    ratio = abs(geobox.affine.a / dataset.transform.a)
    if ratio <= FULL_RATIO * (1 + ALIGNED_PX):
        return None
    limit = ratio / OVERVIEW_RATIO * (1 + ALIGNED_PX)
    levels = [i for i, factor in enumerate(dataset.overviews(1)) if factor <= limit]
    return levels[-1] if levels else None


def _read_part(dataset: DatasetReader, geobox: GeoBox) -> SourceWindow | None:
    """Read the pixels under a grid, with a margin unless they lie on it."""
    on_grid = is_aligned(dataset.transform, dataset.crs, geobox)
    margin = 0 if on_grid else MARGIN_PX
    bounds = geobox.boundingbox
    edges = (bounds.left, bounds.bottom, bounds.right, bounds.top)
    if dataset.crs != crs_of(geobox):
        edges = transform_bounds(crs_of(geobox), dataset.crs, *edges, densify_pts=21)
    own = dataset.transform
    left, top = pixel_at(own, edges[0], edges[3])
    right, bottom = pixel_at(own, edges[2], edges[1])
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
