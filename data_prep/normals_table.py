"""Build the table of climate normals and land cover that ships inside the package.

Sources: ERA5 monthly climatology (Copernicus Climate Change Service) on a 0.25 degree point grid
and MODIS MCD12C1 land cover (NASA LP DAAC) on a 0.05 degree cell grid. Result: one NetCDF file
on a 0.5 degree cell grid, read by `ecomap.normals`.
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import xarray as xr

from ecomap.errors import DataError
from ecomap.schema import CLIMATE, LandCover

CELL_DEG = 0.5
DAYS_PER_MONTH = np.array([31, 28.25, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31])
"""Mean lengths of January to December over leap and common years."""

ATTRIBUTION = (
    "Contains modified Copernicus Climate Change Service information (ERA5); land cover: MODIS "
    "MCD12C1, NASA LP DAAC (Friedl & Sulla-Menashe)."
)


def points_to_cells(points: np.ndarray) -> np.ndarray:
    """Average a 0.25 degree point grid over the 0.5 degree cells that it spans.

    Args:
        points: ``(..., 721, 1440)``: 90 to -90 degrees north, -180 to 179.75 degrees east.

    Returns:
        ``(..., 360, 720)``: area means by the trapezoidal rule in both directions.
    """
    wrapped = np.concatenate([points, points[..., :1]], axis=-1)
    rows = (
        0.25 * wrapped[..., :-2:2, :] + 0.5 * wrapped[..., 1::2, :] + 0.25 * wrapped[..., 2::2, :]
    )
    return np.asarray(0.25 * rows[..., :-2:2] + 0.5 * rows[..., 1::2] + 0.25 * rows[..., 2::2])


def majority_cover(classes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Majority land class and land fraction of every 0.5 degree cell.

    Args:
        classes: ``(3600, 7200)`` IGBP codes at 0.05 degrees with 0 for water and 255 for no data.

    Returns:
        Codes ``(360, 720)`` (`LandCover.WATER_BODIES` where there is no land) and land fraction
        in percent ``(360, 720)``.
    """
    size = round(CELL_DEG / 0.05)
    rows, columns = classes.shape[0] // size, classes.shape[1] // size
    blocks = classes.reshape(rows, size, columns, size).swapaxes(1, 2).reshape(rows, columns, -1)
    counts = np.stack([(blocks == code).sum(-1) for code in range(1, 17)], axis=-1)
    land = counts.sum(-1)
    cover = np.where(land > 0, counts.argmax(-1) + 1, int(LandCover.WATER_BODIES))
    return cover.astype(np.uint8), np.round(100 * land / size**2).astype(np.uint8)


def build_normals(era5_path: Path, land_cover_path: Path, output: Path) -> None:
    """Write the shipped table.

    Args:
        era5_path: NetCDF with ``t2m`` (degC) and ``tp`` (mm per month), ``(month, lat, lon)``.
        land_cover_path: MCD12C1 majority classes as a GeoTIFF.
        output: NetCDF file to write.

    Raises:
        DataError: If the ERA5 file is not on the expected grid or in the expected units.
    """
    with xr.open_dataset(era5_path) as era5:
        units = (era5["t2m"].attrs["units"], era5["tp"].attrs["units"])
        if units != ("degC", "mm month-1") or era5["t2m"].shape != (12, 721, 1440):
            raise DataError(
                f"{era5_path}: t2m, tp are {units} with shape {era5['t2m'].shape}. Expected degC, "
                "mm month-1 on (12, 721, 1440)."
            )
        temperature = points_to_cells(era5["t2m"].values)
        precipitation = points_to_cells(era5["tp"].values) / DAYS_PER_MONTH[:, None, None]
    with rasterio.open(land_cover_path) as source:
        cover, land_percent = majority_cover(source.read(1))
    table = _dataset(temperature, precipitation, cover, land_percent)
    packed = {"dtype": "int16", "zlib": True, "complevel": 9, "shuffle": True}
    temporary = output.with_name(f".{output.name}.tmp")
    table.to_netcdf(
        temporary,
        engine="h5netcdf",
        encoding={
            "temperature_c": packed | {"scale_factor": 0.1, "_FillValue": -32768},
            "precipitation_mm_day": packed | {"scale_factor": 0.02, "_FillValue": -32768},
            "land_cover": {"zlib": True, "complevel": 9},
            "land_percent": {"zlib": True, "complevel": 9},
        },
    )
    temporary.replace(output)


def _dataset(
    temperature: np.ndarray, precipitation: np.ndarray, cover: np.ndarray, land: np.ndarray
) -> xr.Dataset:
    """CF dataset of the four fields."""
    monthly, fixed = ("month", "lat", "lon"), ("lat", "lon")
    climate = {"temperature_c": temperature, "precipitation_mm_day": precipitation}
    variables: dict[str, Any] = {
        name: (
            monthly,
            values.astype(np.float32),
            {"units": CLIMATE[name].unit, "standard_name": CLIMATE[name].standard_name},
        )
        for name, values in climate.items()
    }
    variables["land_cover"] = (fixed, cover, {"long_name": "majority IGBP class of the land"})
    variables["land_percent"] = (fixed, land, {"units": "%", "standard_name": "land_area_fraction"})
    half = CELL_DEG / 2
    coordinates = {
        "month": np.arange(1, 13, dtype=np.int16),
        "lat": ("lat", np.arange(90 - half, -90, -CELL_DEG), {"units": "degrees_north"}),
        "lon": ("lon", np.arange(-180 + half, 180, CELL_DEG), {"units": "degrees_east"}),
    }
    attributes = {
        "Conventions": "CF-1.11",
        "title": "Monthly climate normals 2000-2025 and land cover, 0.5 degree cells",
        "source": ATTRIBUTION,
    }
    return xr.Dataset(variables, coordinates, attributes)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("era5", type=Path)
    parser.add_argument("land_cover", type=Path)
    parser.add_argument("output", type=Path)
    arguments = parser.parse_args()
    build_normals(arguments.era5, arguments.land_cover, arguments.output)
