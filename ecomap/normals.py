"""Offline climate normals and land cover of any place, from the table that ships with the package.

Temperature and precipitation are ERA5 means of 2000-2025; land cover is MODIS IGBP of 2019. Solar
radiation is not in the table: it is not known, and stays so.
"""

import math
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from ecomap.errors import RequestError
from ecomap.schema import CLIMATE, LandCover, TileRecord

TABLE_PATH = Path(__file__).parent / "resources" / "normals.nc"
SOURCE = "ERA5 monthly normals 2000-2025"
KM_PER_DEG = 111.195
"""Length of a degree of latitude on a sphere of 6,371 km."""

Footprint = tuple[float, float]
"""Extent of a tile in degrees: (latitude, longitude)."""


class Normals:
    """Monthly normals and land cover on a regular grid of latitude and longitude."""

    def __init__(self, path: Path = TABLE_PATH) -> None:
        """Read the whole table (about 30 MB in memory)."""
        import xarray as xr

        with xr.open_dataset(path, engine="h5netcdf") as table:
            self.attribution = str(table.attrs["source"])
            self.monthly = {
                name: table[name].values.astype(np.float64) for name in CLIMATE if name in table
            }
            self.cover = table["land_cover"].values
            self.land = table["land_percent"].values / 100.0
            self.lat = table["lat"].values
            self.lon = table["lon"].values
        self.cell_deg = float(abs(self.lat[1] - self.lat[0]))

    def climate(
        self, lat: float, lon: float, footprint: Footprint = (0.0, 0.0)
    ) -> dict[str, np.ndarray]:
        """Normals of January to December over the land of a footprint.

        Args:
            lat: Centre, degrees north.
            lon: Centre, degrees east.
            footprint: Extent in degrees (latitude, longitude); below a cell, the nearest cell.

        Returns:
            Climate variable -> 12 values in its unit: the mean over cells, weighted with the area
            of their land (of everything, where there is no land). Variables that the table lacks
            are absent.
        """
        rows, columns = self._cells(lat, lon, footprint)
        weights = self._weights(rows, columns)
        return {
            name: (values[:, rows][:, :, columns] * weights).sum((1, 2)) / weights.sum()
            for name, values in self.monthly.items()
        }

    def land_cover(self, lat: float, lon: float, footprint: Footprint = (0.0, 0.0)) -> LandCover:
        """Majority IGBP class of the land of a footprint; water bodies where there is none."""
        rows, columns = self._cells(lat, lon, footprint)
        weights = self._weights(rows, columns)
        codes = self.cover[np.ix_(rows, columns)]
        totals = np.bincount(codes.ravel(), weights=weights.ravel(), minlength=18)
        return LandCover(int(totals.argmax()))

    def land_frac(self, lat: float, lon: float, footprint: Footprint = (0.0, 0.0)) -> float:
        """Fraction of a footprint that is land, [0, 1]."""
        rows, columns = self._cells(lat, lon, footprint)
        area = np.cos(np.radians(self.lat[rows]))[:, None] * np.ones(len(columns))
        return float((self.land[np.ix_(rows, columns)] * area).sum() / area.sum())

    def interpolate(self, name: str, lats: np.ndarray, lons: np.ndarray) -> np.ndarray:
        """Normals of January to December on a grid, linear between the table's cell centres.

        Args:
            name: A climate variable of the table.
            lats: Rows of the grid ``(h,)``, degrees north; beyond the table's ends they stay there.
            lons: Columns ``(w,)``, degrees east, around the globe.

        Returns:
            ``(12, h, w)`` in the variable's unit.
        """
        step = (self.lat[-1] - self.lat[0]) / (len(self.lat) - 1)
        row = np.clip((np.asarray(lats) - self.lat[0]) / step, 0, len(self.lat) - 1)
        column = (np.asarray(lons) - self.lon[0]) / self.cell_deg % len(self.lon)
        rows = np.minimum(row.astype(int), len(self.lat) - 2)
        columns = column.astype(int) % len(self.lon)
        down, right = (row - rows)[:, None], column - np.floor(column)
        values = self.monthly[name]
        at_rows = values[:, rows] * (1 - down) + values[:, rows + 1] * down
        beyond = (columns + 1) % len(self.lon)
        return np.asarray(at_rows[:, :, columns] * (1 - right) + at_rows[:, :, beyond] * right)

    def _weights(self, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
        """Land area of cells; their area where no cell has land."""
        area = np.cos(np.radians(self.lat[rows]))[:, None] * np.ones(len(columns))
        land = self.land[np.ix_(rows, columns)] * area
        return np.asarray(land if land.sum() > 0 else area)

    def _cells(self, lat: float, lon: float, footprint: Footprint) -> tuple[np.ndarray, np.ndarray]:
        """Rows and columns of the cells whose centres lie in a footprint (at least the nearest)."""
        if not -90 <= lat <= 90 or not -180 <= lon <= 180:
            raise RequestError(
                f"The place ({lat:g}, {lon:g}) is not on Earth; latitude runs from -90 to 90 and "
                "longitude from -180 to 180 degrees."
            )
        rows = np.flatnonzero(np.abs(self.lat - lat) <= footprint[0] / 2)
        distance = np.abs((self.lon - lon + 180) % 360 - 180)
        columns = np.flatnonzero(distance <= footprint[1] / 2)
        rows = rows if len(rows) else np.array([np.abs(self.lat - lat).argmin()])
        columns = columns if len(columns) else np.array([distance.argmin()])
        return rows, columns


@lru_cache(maxsize=1)
def open_normals() -> Normals:
    """The shipped table, read once."""
    return Normals()


def normal_fields(
    climate: Mapping[str, Sequence[float] | np.ndarray], month_index: int
) -> dict[str, Any]:
    """Climate of a record that stands under its normals.

    Args:
        climate: Climate variable -> normals of January to December, as `Normals.climate` gives.
        month_index: Own month of the record, 0 to 11.

    Returns:
        Field -> value: of each variable its own month, the months before it and the normals.
    """
    fields: dict[str, Any] = {}
    for name, normals in climate.items():
        values = np.asarray(normals, dtype=float)
        fields[name] = float(values[month_index])
        fields[f"{name}_history"] = tuple(np.roll(values, -month_index).tolist())
        fields[f"{name}_normals"] = tuple(values.tolist())
    return fields


def footprint_of(record: TileRecord) -> Footprint:
    """Extent of a record's tile in degrees (latitude, longitude).

    Exact on a geographic grid; elsewhere from the ground sampling distance at the centre.
    """
    if record.crs == "EPSG:4326" and record.transform is not None:
        return (
            abs(record.transform[4]) * record.height_px,
            abs(record.transform[0]) * record.width_px,
        )
    metres = record.ground_sampling_distance_m
    lat_deg = metres * record.height_px / 1000 / KM_PER_DEG
    shrink = max(math.cos(math.radians(record.lat)), 0.01)
    return lat_deg, min(360.0, metres * record.width_px / 1000 / KM_PER_DEG / shrink)


def extent_km(record: TileRecord) -> tuple[float, float]:
    """Height of a record's tile, and its width at the latitude of its centre, km."""
    lat_deg, lon_deg = footprint_of(record)
    shrink = max(math.cos(math.radians(record.lat)), 0.01)
    return lat_deg * KM_PER_DEG, lon_deg * KM_PER_DEG * shrink
