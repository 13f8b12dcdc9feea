"""Where the cells of a climate file lie, and which is nearest to a place."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ecomap.errors import DataError
from ecomap.normals import KM_PER_DEG

STATION_REACH_KM = 100.0
"""How far from a station a place may lie: about a cell of a global climate model."""

_NAMES = {
    "latitude": ("lat", "latitude", "nav_lat", "XLAT"),
    "longitude": ("lon", "longitude", "nav_lon", "XLONG", "long"),
}

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Cell:
    """One cell of a grid, or one station."""

    lat: float
    lon: float
    """Centre, degrees, longitude in [-180, 180)."""
    index: dict[str, int]
    """Dimension -> position."""

    @property
    def cell_id(self) -> str:
        """Key of the cell, for file names: ``n52.1250_w106.6500``."""
        north = "s" if self.lat < 0 else "n"
        east = "w" if self.lon < 0 else "e"
        return f"{north}{abs(self.lat):07.4f}_{east}{abs(self.lon):08.4f}"


@dataclass(frozen=True)
class Grid:
    """Centres of cells.

    A regular grid has `lat` and `lon` of one dimension each. Of stations, a single point and a
    curvilinear grid, both depend on the same dimensions.
    """

    lat: Floats
    lon: Floats
    """Degrees, as the file has them."""
    lat_dims: tuple[str, ...]
    lon_dims: tuple[str, ...]
    where: str
    """Variable and file, for messages."""

    @property
    def dims(self) -> set[str]:
        """Dimensions of place."""
        return {*self.lat_dims, *self.lon_dims}

    @cached_property
    def _is_regular(self) -> bool:
        return self.lat_dims != self.lon_dims

    def nearest(self, lat: float, lon: float) -> Cell | None:
        """Cell whose centre is nearest on the sphere; None if the place is outside the grid.

        Outside means farther from the centre than to the next cell (a station: than
        `STATION_REACH_KM`).
        """
        return self._nearest_cell(lat, lon) if self._is_regular else self._nearest_point(lat, lon)

    def around(self, cell: Cell) -> list[Cell]:
        """Cells that touch a cell of a regular grid, nearest first; none of other grids."""
        if not self._is_regular:
            return []
        lat_step = spacing(self.lat, cell.index[self.lat_dims[0]])
        lon_step = spacing(np.unique(self.lon % 360), None)
        found = {}
        for rows, columns in ((r, c) for r in (-1, 0, 1) for c in (-1, 0, 1)):
            lat, lon = cell.lat + rows * lat_step, cell.lon + columns * lon_step
            near = self.nearest(lat, lon) if abs(lat) <= 90 else None
            if near is not None and near.index != cell.index:
                found[near.cell_id] = near
        away = {key: km_between(cell, near) for key, near in found.items()}
        return [found[key] for key in sorted(found, key=lambda key: (round(away[key], 3), key))]

    def _nearest_cell(self, lat: float, lon: float) -> Cell | None:
        away = np.abs(wrap(self.lon - lon))
        column = int(away.argmin())
        row = int(distance_deg(lat, lon, self.lat, self.lon[column]).argmin())
        lat_step, lon_step = spacing(self.lat, row), spacing(np.unique(self.lon % 360), None)
        lat_step = lat_step or lon_step
        lon_step = lon_step or lat_step
        if not lat_step or not lon_step:
            lat_step = lon_step = STATION_REACH_KM / KM_PER_DEG
        if abs(self.lat[row] - lat) > lat_step + 1e-6 or away[column] > lon_step + 1e-6:
            return None
        index = {self.lat_dims[0]: row, self.lon_dims[0]: column}
        return self._cell(self.lat[row], self.lon[column], index)

    def _nearest_point(self, lat: float, lon: float) -> Cell | None:
        away = np.where(np.isfinite(self.lat + self.lon), 0.0, np.inf)
        away = away + distance_deg(lat, lon, self.lat, self.lon)
        away = np.where(np.isnan(away), np.inf, away)
        place = np.unravel_index(int(away.argmin()), away.shape)
        reach = STATION_REACH_KM / KM_PER_DEG
        if self.lat.ndim == 2:
            reach = max(self._gaps(place))
        if not away[place] <= reach + 1e-6:
            return None
        index = {dim: int(i) for dim, i in zip(self.lat_dims, place, strict=True)}
        return self._cell(self.lat[place], self.lon[place], index)

    def _gaps(self, place: tuple[Any, ...]) -> list[float]:
        """Distances from a cell of a curvilinear grid to its neighbours, degrees."""
        gaps = []
        for axis, size in enumerate(self.lat.shape):
            for step in (-1, 1):
                near = list(place)
                near[axis] += step
                if 0 <= near[axis] < size:
                    lat, lon = self.lat[tuple(near)], self.lon[tuple(near)]
                    gaps.append(float(distance_deg(self.lat[place], self.lon[place], lat, lon)))
        return [gap for gap in gaps if np.isfinite(gap)] or [0.0]

    def _cell(self, lat: float, lon: float, index: dict[str, int]) -> Cell:
        return Cell(float(lat) + 0.0, float(wrap(np.asarray(lon))) + 0.0, index)

    @property
    def extent(self) -> str:
        """Range of centres, in words."""
        lon = wrap(self.lon) if np.nanmax(np.abs(self.lon)) > 180 else self.lon
        return (
            f"latitude {np.nanmin(self.lat):g} to {np.nanmax(self.lat):g} and longitude "
            f"{np.nanmin(lon):g} to {np.nanmax(lon):g}"
        )


def grid_of(variable: Any, *, where: str) -> Grid:
    """Find the latitudes and longitudes of a variable.

    Args:
        variable: xarray variable with its coordinates.
        where: Variable and file, for messages.

    Raises:
        DataError: If there are none, or they are not latitudes and longitudes.
    """
    lat = _coordinate(variable, "latitude", where=where)
    lon = _coordinate(variable, "longitude", where=where)
    lat_values, lon_values = (np.asarray(c.values, np.float64) for c in (lat, lon))
    grid = Grid(lat_values, lon_values, tuple(lat.dims), tuple(lon.dims), where)
    is_regular = lat_values.ndim == lon_values.ndim == 1 and lat.dims != lon.dims
    if not is_regular and (lat.dims != lon.dims or lat_values.ndim > 2):
        raise DataError(
            f"{where} has latitudes over {lat.dims} and longitudes over {lon.dims}; expected one "
            "dimension each, or the same ones for both."
        )
    if (
        not lat_values.size
        or not np.isfinite(lat_values).any()
        or not np.isfinite(lon_values).any()
    ):
        raise DataError(f"{where} has no latitudes and longitudes that are numbers.")
    if np.nanmax(np.abs(lat_values)) > 90 or np.nanmax(np.abs(lon_values)) > 540:
        raise DataError(
            f"{where} lies at {grid.extent}, which are not degrees. Expected geographic "
            "coordinates; reproject it, or add 2-D latitudes and longitudes."
        )
    if is_regular and any(len(np.unique(v)) < len(v) for v in (lat_values, lon_values)):
        raise DataError(f"{where} has the same latitude or longitude twice; its grid is damaged.")
    return grid


def _coordinate(variable: Any, key: str, *, where: str) -> Any:
    """The coordinate of a variable that is a latitude or longitude, by attributes, then by name."""
    import cf_xarray  # noqa: F401  (adds the accessor .cf)

    named = variable.cf.coordinates.get(key, [])
    named = named or [n for n in _NAMES[key] if n in variable.coords]
    if len(named) != 1:
        found = " and ".join(sorted(map(str, named))) or "none"
        raise DataError(
            f"{where} has {found} as {key}; expected one coordinate with standard_name {key!r} or "
            f"the name {_NAMES[key][0]!r}. Coordinates: {', '.join(map(str, variable.coords))}."
        )
    return variable.coords[named[0]]


def km_between(one: Cell, two: Cell) -> float:
    """Distance of the centres of two cells, km."""
    away = distance_deg(one.lat, one.lon, np.array([two.lat]), np.array([two.lon]))
    return float(away[0]) * KM_PER_DEG


def wrap(lon: Floats) -> Floats:
    """Longitudes in [-180, 180)."""
    return np.asarray((lon + 180) % 360 - 180)


def spacing(values: Floats, index: int | None) -> float:
    """Larger distance to the next value beside one (all of them for None); 0 if it is alone."""
    gaps = np.abs(np.diff(values))
    if index is not None:
        gaps = gaps[max(index - 1, 0) : index + 1]
    elif len(gaps):  # the gap where a regional grid ends is not one between cells
        gaps = gaps[gaps <= 1.5 * np.median(gaps)]
    return float(gaps.max()) if len(gaps) else 0.0


def distance_deg(lat: float, lon: float, lats: Floats, lons: Floats) -> Floats:
    """Great-circle distances, degrees of arc (haversine formula)."""
    one, two = np.radians(lat), np.radians(lats)
    half = np.sin((two - one) / 2) ** 2
    half = half + np.cos(one) * np.cos(two) * np.sin(np.radians(lons - lon) / 2) ** 2
    return np.asarray(np.degrees(2 * np.arcsin(np.sqrt(np.clip(half, 0, 1)))))
