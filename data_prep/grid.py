"""Cells of the Major-TOM grid over a region, and the pixel grid of a tile.

The Major-TOM grid divides the Earth into cells of about equal size in rows of latitude; a cell is
named by the geohash of its centre, so that a place has the same name in every dataset of the same
spacing. Tiles lie on the centres of cells.
"""

from collections.abc import Iterator
from functools import lru_cache

import numpy as np
import shapely
from majortom_eg import MajorTomGrid
from numpy.typing import NDArray
from pyproj import Transformer
from shapely.geometry import box
from shapely.geometry.base import BaseGeometry

from data_prep.place import Place
from data_prep.regions import SAFE_ID
from ecomap.errors import RequestError

UTM_SOUTH_DEG, UTM_NORTH_DEG = -80.0, 84.0
"""Latitudes of the UTM system. Sentinel-2 images no land beyond 84° north and takes UTM up to it;
inner Antarctica is not in its plan of acquisitions."""

ROUNDING_DEG = 1e-9
"""Centres this near to the antimeridian (0.1 mm) lie on it."""

Cell = tuple[str, float, float]
"""Id, latitude and longitude [-180, 180) of the centre, degrees."""


def cells_in(region: BaseGeometry, *, spacing_km: float) -> Iterator[Cell]:
    """Cells whose centre lies in a region, sorted by id.

    A region that holds no centre, because it is smaller than a cell, gets one: the cell that holds
    its representative point, with that point instead of the cell's centre, so that the tile lies
    on the region.

    Args:
        region: Polygons in EPSG:4326, split at +-180 degrees (`regions.read_region`).
        spacing_km: Side of a cell.

    Raises:
        RequestError: If the spacing is below a metre or the region is empty.
    """
    if not spacing_km >= 0.001:
        raise RequestError(f"spacing_km is {spacing_km:g}. Cells must be at least a metre wide.")
    if region.is_empty:
        raise RequestError("The region is empty: it has no area. Give another.")
    grid = MajorTomGrid(round(1000 * spacing_km), overlap=False)
    lat, lon = _centres(region, grid)
    if not len(lat):
        point = region.representative_point()
        yield _cell_id(grid, point.y, point.x), point.y, _wrap(point.x)
        return
    ids = np.array([_cell_id(grid, *centre) for centre in zip(lat, lon, strict=True)])
    for index in np.argsort(ids):
        yield str(ids[index]), float(lat[index]), float(lon[index])


def place_at(
    location_id: str, lat: float, lon: float, *, size_px: int, resolution_m: float
) -> Place:
    """Tile around a point, in the UTM zone that Sentinel-2 uses there.

    Args:
        location_id: Letters, digits, ``_`` and ``-``: file names are made from it.
        lat: Degrees north, [-80, 84].
        lon: Degrees east, [-180, 180].
        size_px: Width and height.
        resolution_m: Pixel size; all edges are multiples of it.

    Returns:
        The tile whose centre is nearest to the point; ``lat`` and ``lon`` are those of the centre,
        to 1e-7 degrees.

    Raises:
        RequestError: If the id cannot be the name of a file, or the point is outside UTM.
    """
    if not SAFE_ID.fullmatch(location_id):
        raise RequestError(
            f"The location_id {location_id!r} cannot be the name of a file. Use up to 100 letters, "
            "digits, '_' and '-', the first a letter or digit."
        )
    if not is_in_utm(lat):
        raise RequestError(
            f"The place {location_id} at latitude {lat:g} is outside the UTM system. Tiles lie "
            f"between {UTM_SOUTH_DEG:g} and {UTM_NORTH_DEG:g} degrees."
        )
    crs = utm_crs(lat, lon)
    x, y = _to_utm(crs).transform(lon, lat)
    side = size_px * resolution_m
    left = round((x - side / 2) / resolution_m) * resolution_m
    top = round((y + side / 2) / resolution_m) * resolution_m
    centre_lon, centre_lat = _to_utm(crs).transform(
        left + side / 2, top - side / 2, direction="INVERSE"
    )
    return Place(
        location_id=location_id,
        lat=round(float(centre_lat), 7),
        lon=_wrap(round(float(centre_lon), 7)),
        crs=crs,
        left=float(left),
        top=float(top),
        size_px=size_px,
        resolution_m=resolution_m,
    )


def is_in_utm(lat: float) -> bool:
    """Whether a latitude has UTM zones."""
    return UTM_SOUTH_DEG <= lat <= UTM_NORTH_DEG


def utm_crs(lat: float, lon: float) -> str:
    """UTM zone of a point, with the wider zones of Norway and Svalbard, as Sentinel-2 has them.

    >>> utm_crs(-1.3, 36.8), utm_crs(60.4, 5.3)
    ('EPSG:32737', 'EPSG:32632')
    """
    lon = _wrap(lon)
    zone = int((lon + 180) // 6) + 1
    if 56 <= lat < 64 and 3 <= lon < 12:
        zone = 32
    elif lat >= 72 and 0 <= lon < 42:
        zone = 31 + 2 * int(np.searchsorted([9, 21, 33], lon, side="right"))
    return f"EPSG:{327 if lat < 0 else 326}{zone:02d}"


@lru_cache(maxsize=256)
def _to_utm(crs: str) -> Transformer:
    """From longitude and latitude to a zone."""
    return Transformer.from_crs("EPSG:4326", crs, always_xy=True)


def _centres(
    region: BaseGeometry, grid: MajorTomGrid
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Latitude and longitude of the cell centres in a region, one row of the grid at a time."""
    shapely.prepare(region)
    _, south, _, north = region.bounds
    half = grid.get_lat_spacing() / 2
    first = max(0, int((south + 90) // grid.get_lat_spacing()) - 1)
    found = []
    for row in range(first, grid.row_count):
        bottom = grid.get_row_lat(row)
        lat = bottom + half
        if lat > min(north, 90.0):
            break
        width = grid.get_lon_spacing(bottom)
        start = grid.get_col_lon(0, width, grid.get_lon_offset(width)) + width / 2
        lon = (start + 180 + width * np.arange(round(360 / width))) % 360 - 180
        lon[lon > 180 - ROUNDING_DEG] = -180
        inside = shapely.contains_xy(region, lon, lat)
        # A centre on the antimeridian lies on the edge of the region's two halves.
        edges = shapely.intersects_xy(region, [-180.0, 180.0], lat)
        inside |= (lon < -180 + ROUNDING_DEG) & edges.any()
        found.append(np.stack([np.full(inside.sum(), lat), lon[inside]]))
    return tuple(np.concatenate(found, axis=1)) if found else (np.empty(0), np.empty(0))


def _cell_id(grid: MajorTomGrid, lat: float, lon: float) -> str:
    """Id of the cell that holds a point.

    The package gives a cell that lies across the antimeridian twice, under two ids; ours is the one
    on the western hemisphere.
    """
    spot = box(lon - ROUNDING_DEG, lat - ROUNDING_DEG, lon + ROUNDING_DEG, lat + ROUNDING_DEG)
    cells = {str(cell.id()): cell.geom.centroid for cell in grid.generate_grid_cells(spot)}
    nearest = min(cells, key=lambda name: abs(cells[name].y - lat) + abs(cells[name].x - lon))
    centre = cells[nearest]
    if centre.x > 180 - ROUNDING_DEG:
        return _cell_id(grid, centre.y, max(-180.0, centre.x - 360))
    return nearest


def _wrap(lon: float) -> float:
    """A longitude brought to [-180, 180)."""
    return (lon + 180) % 360 - 180
