"""Pixels and place of an image that a user brings: red, green and blue, north up."""

from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from numpy.typing import NDArray
from pyproj import Geod, Transformer
from pyproj.exceptions import ProjError
from rasterio.errors import RasterioIOError

from ecomap.errors import DataError
from ecomap.imagery import GEOTIFF_SUFFIXES, read_picture
from ecomap.normals import KM_PER_DEG
from ecomap.outputs import unplaced

RGB = ("red", "green", "blue")
UNNAMED = {"gray", "undefined"}
"""Colour interpretations that GDAL gives bands of which nothing is known."""

MAX_STRETCH = 0.01
"""Difference between a pixel in the units of its CRS and on the ground up to which it has its
nominal size: within a UTM zone it is below 0.001."""

ELLIPSOID = Geod(ellps="WGS84")


def read_start_image(path: Path) -> tuple[NDArray[np.uint8], dict[str, Any] | None, list[str]]:
    """Read an image, and where it lies.

    Args:
        path: GeoTIFF, PNG or JPEG of 8-bit display values.

    Returns:
        uint8 ``(H, W, 3)``, 0 where it has no data or is transparent; the fields of a record that
        tell its place, ``None`` where it has none; and notes.

    Raises:
        DataError: If the file is missing or damaged, has other bands, or its grid is not north up.
    """
    if path.suffix.lower() in GEOTIFF_SUFFIXES:
        return *_of_geotiff(path), []
    image, is_grey = read_picture(path)
    return image, None, [f"{path.name} is grey; its three bands are equal."] if is_grey else []


def _of_geotiff(path: Path) -> tuple[NDArray[np.uint8], dict[str, Any] | None]:
    """Pixels and place of a GeoTIFF."""
    try:
        with unplaced(), rasterio.open(path) as file:
            if file.count not in (3, 4) or file.dtypes[0] != "uint8":
                raise DataError(
                    f"{path} has {file.count} bands of {file.dtypes[0]}. Expected red, green and "
                    "blue as 8-bit display values; tiles of digital numbers are read from their "
                    "dataset (--start FOLDER --tile ID)."
                )
            names = [band.name for band in file.colorinterp]
            image = np.moveaxis(file.read(_numbers(path, names)), 0, -1)
            image[file.dataset_mask() == 0] = 0
            if "alpha" in names:  # of which the mask knows where it is the last band
                image[file.read(names.index("alpha") + 1) == 0] = 0
            has_place = file.crs is not None and not file.transform.is_identity
            return image, _place(path, file) if has_place else None
    except RasterioIOError as error:
        if not path.exists() and not str(path).startswith("/vsi"):  # GDAL's own paths
            raise DataError(f"{path} does not exist. Check the path.") from None
        raise DataError(f"{path} cannot be read as a GeoTIFF: {error}. Restore the file.") from None


def _numbers(path: Path, names: list[str]) -> list[int]:
    """Numbers of red, green and blue among bands of some colours."""
    if sorted(names) in (sorted(RGB), sorted((*RGB, "alpha"))):
        return [names.index(name) + 1 for name in RGB]
    if len(names) == len(RGB) and set(names) <= UNNAMED:
        return [1, 2, 3]
    raise DataError(
        f"{path} has bands {', '.join(names)}. Expected red, green and blue, and none beside them "
        "but alpha; leave out the others (gdal_translate -b), or name what they are "
        "(-colorinterp_4 alpha)."
    )


def _place(path: Path, file: rasterio.DatasetReader) -> dict[str, Any]:
    """Where a georeferenced image lies, as fields of a record."""
    transform = file.transform
    if transform.b or transform.d or not transform.a > 0 > transform.e:
        raise DataError(
            f"{path} has the transform {tuple(transform)[:6]}: its grid is rotated, sheared or "
            "mirrored. Expected columns from west to east and rows from north to south; warp it "
            "north up (gdalwarp)."
        )
    x, y = transform @ (file.width / 2, file.height / 2)
    half = -transform.e / 2
    try:
        to_degrees = Transformer.from_crs(file.crs.to_wkt(), "EPSG:4326", always_xy=True)
        lons, lats = to_degrees.transform([x] * 3, [y, y + half, y - half], errcheck=True)
    except ProjError:
        raise DataError(
            f"{path} has its centre at {x:g}, {y:g}, which its CRS does not place on Earth. "
            "Give it the CRS that its coordinates are of (gdal_edit -a_srs)."
        ) from None
    _, factor = file.crs.units_factor
    unit_m = np.degrees(factor) * KM_PER_DEG * 1000 if file.crs.is_geographic else factor
    nominal_m = float(2 * half * unit_m)
    true_m = float(ELLIPSOID.inv(lons[1], lats[1], lons[2], lats[2])[2])
    is_nominal = abs(true_m / nominal_m - 1) <= MAX_STRETCH
    return {
        "lat": lats[0], "lon": lons[0], "crs": file.crs.to_string(),
        "transform": tuple(transform)[:6],
        "ground_sampling_distance_m": nominal_m if is_nominal else float(f"{true_m:.4g}"),
    }  # fmt: skip
