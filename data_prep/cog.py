"""Tiles on disk: cloud-optimized GeoTIFF of digital numbers that says what it is.

The file is put together in memory and written by the operating system, so that a full disk is an
`OSError` and nothing half-written is left. The same tile gives the same bytes.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.crs import CRS
from rasterio.enums import ColorInterp
from rasterio.errors import RasterioError
from rasterio.io import MemoryFile
from rasterio.transform import Affine

from data_prep.radiometry import QUANTIFICATION
from ecomap.errors import DataError

LARGE_PX = 1024
"""Tiles larger than this have blocks of 512 pixels, others of 256."""
COLOURS = {
    "B04": ColorInterp.red,
    "B03": ColorInterp.green,
    "B02": ColorInterp.blue,
}
"""What viewers show a band as."""
TAG_PREFIX = "ECOMAP_"


@dataclass(frozen=True, kw_only=True)
class CogTile:
    """What a tile's file holds."""

    values: NDArray[np.uint16]
    """Digital numbers ``(bands, H, W)``, reflectance x 10000, 0 = no data."""
    bands: tuple[str, ...]
    crs: str
    """``EPSG:32633``."""
    transform: tuple[float, float, float, float, float, float]
    """Affine coefficients a-f, rasterio order."""
    tags: dict[str, str]
    """Tags of ours without their prefix, lower case: ``items``, ``acquired``, ``offset`` ..."""


def write_cog(
    path: Path,
    values: NDArray[np.uint16],
    *,
    bands: Sequence[str],
    crs: str,
    transform: Sequence[float],
    acquired: str,
    tags: Mapping[str, str],
) -> str:
    """Write a tile by an atomic rename.

    DEFLATE with horizontal differences, blocks of 256 or 512 pixels, averaged overviews where the
    tile is larger than a block, nodata 0, scale 1e-4, bands named.

    Args:
        path: File; its folder is made.
        values: Digital numbers ``(bands, H, W)``, 0 = no data.
        bands: Name of each, such as ``B04``.
        crs: Such as ``EPSG:32633``.
        transform: Affine coefficients a-f.
        acquired: ISO 8601 in UTC, to the second; becomes TIFFTAG_DATETIME.
        tags: Written with `TAG_PREFIX`, upper case; ``attribution`` as TIFFTAG_COPYRIGHT too.

    Returns:
        SHA-256 of the file, hexadecimal.

    Raises:
        ValueError: If bands and values do not fit, or values are not ``uint16``.
        OSError: If the file cannot be written, for want of space above all.
    """
    if values.dtype != np.uint16 or values.ndim != 3 or values.shape[0] != len(bands):
        raise ValueError(
            f"values are {values.dtype} {values.shape}; expected uint16 ({len(bands)}, H, W)."
        )
    content = _encode(values, bands, crs=crs, transform=transform, tags=_all_tags(acquired, tags))
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{uuid4().hex}.tmp")  # a task may run twice
    try:
        temporary.write_bytes(content)
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    return hashlib.sha256(content).hexdigest()


def read_cog(path: Path) -> CogTile:
    """Read a tile that `write_cog` wrote.

    Raises:
        DataError: If the file is missing, damaged, or not such a tile.
    """
    if not path.is_file():
        raise DataError(f"{path} does not exist. Fetch it with 'ecomap prep run'.")
    try:
        with rasterio.open(path) as dataset:
            values = dataset.read()
            bands = dataset.descriptions
            crs, transform, tags = dataset.crs, tuple(dataset.transform)[:6], dataset.tags()
    except RasterioError as error:
        raise DataError(
            f"{path} cannot be read: {error}. Delete it and run 'ecomap prep run' again."
        ) from None
    if values.dtype != np.uint16 or None in bands or crs is None:
        raise DataError(
            f"{path} holds {values.dtype} bands {bands} with CRS {crs}; expected uint16, named "
            "bands and a CRS. It is not a tile of this dataset."
        )
    ours = {
        key.removeprefix(TAG_PREFIX).lower(): value
        for key, value in sorted(tags.items())
        if key.startswith(TAG_PREFIX)
    }
    return CogTile(values=values, bands=bands, crs=str(crs), transform=transform, tags=ours)


def _all_tags(acquired: str, tags: Mapping[str, str]) -> dict[str, str]:
    """Tags as they stand in the file."""
    result = {TAG_PREFIX + key.upper(): value for key, value in tags.items()}
    result["TIFFTAG_DATETIME"] = acquired[:19].replace("-", ":").replace("T", " ")
    result["TIFFTAG_SOFTWARE"] = "ecomap"
    if "attribution" in tags:
        result["TIFFTAG_COPYRIGHT"] = tags["attribution"]
    return dict(sorted(result.items()))


def _encode(
    values: NDArray[np.uint16],
    bands: Sequence[str],
    *,
    crs: str,
    transform: Sequence[float],
    tags: Mapping[str, str],
) -> bytes:
    """The file's bytes."""
    count, height, width = values.shape
    options = {
        "driver": "COG",
        "compress": "DEFLATE",
        "predictor": "2",
        "blocksize": 512 if max(height, width) > LARGE_PX else 256,
        "overviews": "AUTO",
        "overview_resampling": "AVERAGE",
        "bigtiff": "NO",
        "num_threads": "1",
    }
    with MemoryFile() as memory:
        with memory.open(
            **options,
            width=width,
            height=height,
            count=count,
            dtype="uint16",
            nodata=0,
            crs=CRS.from_user_input(crs),
            transform=Affine(*transform),
        ) as dataset:
            dataset.write(values)
            dataset.descriptions = tuple(bands)
            dataset.colorinterp = [COLOURS.get(band, ColorInterp.undefined) for band in bands]
            dataset.scales = (1 / QUANTIFICATION,) * count
            dataset.update_tags(**tags)
        return bytes(memory.getbuffer())
