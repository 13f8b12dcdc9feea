"""A made dataset of 16-bit tiles, such as data preparation leaves, for exports and reports."""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.transform import Affine

from ecomap.schema import LandCover, TileRecord, make_record, write_dataset

BANDS = ("B04", "B03", "B02", "B08")
SIZE_PX = (20, 24)
"""Height and width: not the same, so that a swap shows."""
RANGE = (0.0, 0.4)
ATTRIBUTION = "Contains modified Copernicus Sentinel data 2020"


def digital_numbers(item: TileRecord) -> NDArray[np.uint16]:
    """Bands of a tile: a ramp along x in red, along y in green, noise of the tile in the others."""
    height, width = item.height_px, item.width_px
    seed = [*hashlib.sha256(item.tile_id.encode()).digest()]
    pixels = np.random.default_rng(seed).integers(300, 900, (4, height, width))
    pixels[0] = 1000 + 100 * np.arange(width)
    pixels[1] = 500 + 50 * np.arange(height)[:, None]
    pixels[:, 0, 0] = 0  # one pixel without data
    return pixels.astype(np.uint16)


def tile(location: str, month: str, **changes: Any) -> TileRecord:
    """Record of a tile with everything known; a place's position follows from its name."""
    number = int(hashlib.sha256(location.encode()).hexdigest(), 16)
    fields: dict[str, Any] = {
        "source": "sentinel-2",
        "location_id": location,
        "month": month,
        "lat": 45.0 + number % 50 / 100,
        "lon": 11.0 + number // 50 % 50 / 100,
        "ground_sampling_distance_m": 10.0,
        "height_px": SIZE_PX[0],
        "width_px": SIZE_PX[1],
        "crs": "EPSG:32632",
        "transform": (10.0, 0.0, 650_000.0, 0.0, -10.0, 5_000_000.0),
        "acquired": f"{month}-15T10:05:59Z",
        "scene_ids": (f"S2A_32TPR_{month.replace('-', '')}15_0_L2A",),
        "processing_baseline": "05.09",
        "digital_number_offset": -1000,
        "bands": BANDS,
        "reflectance_range": RANGE,
        "land_cover": LandCover.CROPLANDS,
        "land_cover_frac": 0.75,
        "land_cover_source": "WorldCover 2021",
        "state": "Veneto",
        "country": "Italy",
        "climate_source": "NASA POWER",
        "temperature_c": 12.34,
        "precipitation_mm_day": 2.567,
        "solar_radiation_mj_m2_day": 17.89,
        "spi": -0.5,
        "sti": 1.25,
        "cloud_frac": 0.125,
        "nodata_frac": 0.0,
        "snow_frac": 0.0,
        "image_path": f"images/{location}/{location}_{month}.tif",
        "license": "Copernicus Sentinel data terms",
        "attribution": ATTRIBUTION,
        "split": "train",
    }
    return make_record(fields | changes, where="test")


def write_tile(folder: Path, item: TileRecord) -> Path:
    """Write the frame of a record as a GeoTIFF of digital numbers."""
    path = folder / str(item.image_path)
    path.parent.mkdir(parents=True, exist_ok=True)
    assert item.transform is not None
    with rasterio.open(
        path, "w", driver="GTiff", dtype="uint16", nodata=0, count=len(BANDS), crs=item.crs,
        width=item.width_px, height=item.height_px, transform=Affine(*item.transform),
    ) as file:  # fmt: skip
        file.write(digital_numbers(item))
        file.descriptions = BANDS
    return path


def write_made(folder: Path, items: list[TileRecord], **summary: Any) -> Path:
    """Write a dataset folder with the frames of all records."""
    for item in items:
        write_tile(folder, item)
    write_dataset(folder, items, summary=summary)
    return folder
