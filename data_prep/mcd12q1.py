"""MODIS land cover (MCD12Q1, IGBP) under a tile: from the user's GeoTIFF or ORNL DAAC's service.

Cells of 500 m are weighted with the part of them that the tile covers, in the map's own projection:
nothing is resampled. The service is described on https://modis.ornl.gov/data/modis_webservice.html.

Codes are those of the layer ``LC_Type1``: 1 to 17 and 255 for fill; 0 is taken as water, which is
what MCD12C1 and collection 5 mean by it. A file of ``LC_Type2`` (University of Maryland, 0 to 15)
cannot be told from it; its codes mean the same but for 15, land without vegetation.
"""

import math
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import shapely
from exactextract import exact_extract
from exactextract.raster import NumPyRasterSource
from numpy.typing import NDArray
from pyproj import CRS, Transformer
from rasterio.errors import RasterioError
from rasterio.windows import Window
from shapely.geometry import MultiPolygon, Polygon, box, mapping

from data_prep.crosswalk import MODIS_CELL_M
from data_prep.place import Place
from data_prep.services import get_json
from ecomap.errors import DataError, RequestError
from ecomap.schema import LandCover

SERVICE_URL = "https://modis.ornl.gov/rst/api/v1"
ATTRIBUTION = (
    "MODIS MCD12Q1 land cover (Friedl & Sulla-Menashe, https://doi.org/10.5067/MODIS/MCD12Q1.061), "
    "NASA LP DAAC"
)
SINUSOIDAL = CRS.from_proj4("+proj=sinu +R=6371007.181 +units=m +no_defs")
"""Grid of MODIS's land products."""
FILL = 255
LONGEST_KM = 100
"""Farthest that the service looks to each side of a point."""

Bounds = tuple[float, float, float, float]


@dataclass(frozen=True)
class ModisCover:
    """What MODIS says of a tile."""

    fracs: dict[LandCover, float]
    """Fractions of the tile, ascending codes, adding up to 1 - `nodata_frac`; empty if nothing is
    known."""
    nodata_frac: float
    """Part of the tile that is fill or outside the map, [0, 1]."""
    has_zero: bool
    """Whether code 0 was met, and taken as water."""


def read_geotiff(path: Path, place: Place) -> ModisCover:
    """Read the classes under a tile from a map in any projection with north up.

    Raises:
        DataError: If the file is missing, damaged, or no map of IGBP codes, or if the tile lies
            outside it.
    """
    if not path.is_file():
        raise DataError(f"{path} does not exist. Expected a GeoTIFF of MCD12Q1 LC_Type1.")
    try:
        with rasterio.open(path) as raster:
            _check_grid(raster, path)
            outline = outline_in(place, CRS.from_wkt(raster.crs.to_wkt()))
            window, bounds = _window_under(outline, raster, path=path, place=place)
            codes = raster.read(1, window=window)
            nodata = raster.nodata
    except RasterioError as error:
        raise DataError(f"{path} is not a readable GeoTIFF: {error}.") from None
    if nodata is not None:
        codes = np.where(codes == nodata, FILL, codes)
    counts = count_cells(codes, bounds, outline, where=f"{path} at {place.location_id}")
    cell_area = (bounds[2] - bounds[0]) * (bounds[3] - bounds[1]) / codes.size
    return _cover_of(counts, outline.area / cell_area)


def ask_service(
    place: Place, *, year: int, url: str = SERVICE_URL, timeout_s: float, num_retries: int
) -> ModisCover:
    """Ask the service for the cells under a tile: one request, two at the antimeridian.

    Args:
        place: Tile of at most about 100 km.
        year: From 2001 on.
        url: Address of the service, without the product.
        timeout_s: Longest wait for an answer.
        num_retries: Further tries after what may pass.

    Raises:
        ServiceError: If no answer came, or the service refuses.
        DataError: If the answer is not what was asked for.
        RequestError: If the tile is too large for the service.
    """
    outline = outline_in(place, SINUSOIDAL)
    counts: Counter[int] = Counter()
    num_cells = 0.0
    address = f"{url.rstrip('/')}/MCD12Q1/subset"
    for part in outline.geoms:
        answer = get_json(
            address,
            _query(part, place, year),
            timeout_s=timeout_s,
            num_retries=num_retries,
        )
        codes, bounds = _grid_of(answer, where=f"{address} for {place.location_id} in {year}")
        counts.update(count_cells(codes, bounds, part, where=f"{address} at {place.location_id}"))
        num_cells += part.area * codes.size / box(*bounds).area
    return _cover_of(counts, num_cells)


def outline_in(place: Place, crs: CRS) -> MultiPolygon:
    """Outline of a tile in the CRS of a map, in two parts where it crosses the antimeridian."""
    to_map = Transformer.from_crs("EPSG:4326", crs, always_xy=True)
    parts = shapely.get_parts(place.footprint)
    moved = shapely.transform(parts, lambda xy: np.column_stack(to_map.transform(*xy.T)))
    return MultiPolygon(list(moved))


def count_cells(
    codes: NDArray[Any], bounds: Bounds, outline: Polygon | MultiPolygon, *, where: str
) -> Counter[int]:
    """Cells of each code under an outline, cut cells in part; fill is left out.

    Args:
        codes: Codes of a map with north up.
        bounds: Left, bottom, right, top of the codes.
        outline: In the CRS of the bounds.
        where: For the message.

    Raises:
        DataError: If a code is not one of IGBP.
    """
    codes = np.where(np.isfinite(codes), codes, FILL)
    unknown = np.setdiff1d(codes, [*range(18), FILL])
    if len(unknown):
        raise DataError(
            f"{where}: codes {unknown[:8].tolist()} are not of IGBP; expected 1 to 17, 0 for water "
            f"and {FILL} for no data. Give the layer LC_Type1 of MCD12Q1."
        )
    raster = NumPyRasterSource(codes.astype(np.uint8), *bounds, nodata=FILL)
    feature = {"type": "Feature", "geometry": mapping(outline), "properties": {}}
    found = exact_extract(raster, feature, ["unique", "frac", "count"])[0]["properties"]
    # The order of `frac` is that of `unique`, which is not sorted.
    shares = zip(found["unique"], found["frac"], strict=True)
    return Counter({int(code): float(share * found["count"]) for code, share in shares})


def _cover_of(counts: Counter[int], num_cells: float) -> ModisCover:
    """Fractions from counts of cells, of as many cells as the whole tile covers."""
    known = sum(counts.values())
    whole = max(num_cells, known)
    area = counts.copy()
    area[LandCover.WATER_BODIES] += area.pop(0, 0)
    return ModisCover(
        fracs={cover: area[cover] / whole for cover in LandCover if area[cover] > 0},
        nodata_frac=1 - known / whole,
        has_zero=counts[0] > 0,
    )


def _check_grid(raster: Any, path: Path) -> None:
    if raster.crs is None:
        raise DataError(f"{path} has no CRS. Give it one, such as with gdal_edit.py -a_srs.")
    step = raster.transform
    if step.b != 0 or step.d != 0 or step.a <= 0 or step.e >= 0:
        raise DataError(f"{path} is not a map with north up ({step!r}). Warp it with gdalwarp.")


def _window_under(
    outline: MultiPolygon, raster: Any, *, path: Path, place: Place
) -> tuple[Window, Bounds]:
    """Cells that an outline touches, and their bounds."""
    covered = outline.intersection(box(*raster.bounds))
    if covered.area == 0:
        raise DataError(
            f"{path} does not cover {place.location_id} at ({place.lat:.4f}, {place.lon:.4f}): the "
            f"tile has bounds {_shown(outline.bounds)} and the map {_shown(raster.bounds)} in its "
            "CRS. Give a map of the whole region."
        )
    step = raster.transform
    left, bottom, right, top = covered.bounds
    first_row = max(math.floor((top - step.f) / step.e), 0)
    last_row = min(math.ceil((bottom - step.f) / step.e), raster.height)
    first_column = max(math.floor((left - step.c) / step.a), 0)
    last_column = min(math.ceil((right - step.c) / step.a), raster.width)
    window = Window.from_slices((first_row, last_row), (first_column, last_column))
    return window, (
        step.c + first_column * step.a,
        step.f + last_row * step.e,
        step.c + last_column * step.a,
        step.f + first_row * step.e,
    )


def _shown(bounds: Bounds) -> str:
    return "(" + ", ".join(f"{value:.6g}" for value in bounds) + ")"


def _query(part: Polygon, place: Place, year: int) -> dict[str, str]:
    """Query for a square around the middle of an outline in the sinusoidal grid."""
    middle = part.centroid
    to_degrees = Transformer.from_crs(SINUSOIDAL, "EPSG:4326", always_xy=True)
    lon, lat = to_degrees.transform(middle.x, middle.y)
    left, bottom, right, top = part.bounds
    # The square is centred on a cell, whose centre is at most one cell from the point.
    reach_m = [max(top - middle.y, middle.y - bottom), max(right - middle.x, middle.x - left)]
    above_km, beside_km = (math.ceil((reach + MODIS_CELL_M) / 1000) for reach in reach_m)
    if max(above_km, beside_km) > LONGEST_KM:
        raise RequestError(
            f"{place.location_id} reaches {max(above_km, beside_km)} km from its middle in MODIS's "
            f"grid; the service looks {LONGEST_KM} km far. Use source mcd12q1-geotiff or "
            "worldcover, or smaller tiles."
        )
    return {
        "latitude": f"{lat:.6f}",
        "longitude": f"{lon:.6f}",
        "band": "LC_Type1",
        "startDate": f"A{year}001",
        "endDate": f"A{year}001",
        "kmAboveBelow": str(above_km),
        "kmLeftRight": str(beside_km),
    }


def _grid_of(answer: Any, *, where: str) -> tuple[NDArray[np.float64], Bounds]:
    """Codes of an answer, north first, and their bounds."""
    try:
        left, bottom = float(answer["xllcorner"]), float(answer["yllcorner"])
        cell = float(answer["cellsize"])
        num_rows, num_columns = int(answer["nrows"]), int(answer["ncols"])
        layers = [layer for layer in answer["subset"] if layer["band"] == "LC_Type1"]
        data = [np.array(layer["data"], dtype=np.float64) for layer in layers]
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(
            f"{where}: the answer {str(answer)!r:.120} is not a subset of cells ({error!r}). "
            "Expected xllcorner, yllcorner, cellsize, nrows, ncols and subset."
        ) from None
    if not data:
        raise DataError(f"{where}: the answer has no LC_Type1. Choose another year.")
    if data[0].shape != (num_rows * num_columns,) or cell <= 0:
        raise DataError(
            f"{where}: the answer has {data[0].size} cells of {cell:g} m, expected {num_rows} x "
            f"{num_columns}."
        )
    bounds = (left, bottom, left + num_columns * cell, bottom + num_rows * cell)
    return data[0].reshape(num_rows, num_columns), bounds
