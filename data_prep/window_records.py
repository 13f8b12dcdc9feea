"""Where the windows of a tile lie, and what of the tile's record holds for them."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

from pyproj import Transformer

from ecomap.errors import RequestError
from ecomap.normals import KM_PER_DEG
from ecomap.schema import TileRecord

OF_THE_SCENE = frozenset(
    {"hazy", "offset_suspect", "offset_uncertain", "mixed_offsets", "scene_unreadable"}
)
"""Flags that a window keeps from its tile; all others are found again on its own pixels."""

FRACTIONS = ("land_cover_frac", "land_frac", "cloud_frac", "scene_snow_frac")
"""Fractions of a tile that hold for its windows only where they are 0 or 1."""


@dataclass(frozen=True)
class WindowGrid:
    """Windows of a tile, in rows and columns from its upper left corner."""

    size_px: int
    stride_px: int

    def __post_init__(self) -> None:
        """Refuse windows that are not there."""
        if self.size_px < 1 or self.stride_px < 1:
            raise RequestError(
                f"size_px is {self.size_px} and stride_px {self.stride_px}; both must be at least "
                "1."
            )

    def count(self, length_px: int) -> int:
        """Number of windows along a side."""
        return max(0, (length_px - self.size_px) // self.stride_px + 1)

    def covered(self, length_px: int) -> int:
        """Pixels of a side that lie in a window."""
        step = min(self.size_px, self.stride_px)
        return (self.count(length_px) - 1) * step + self.size_px

    def cells(self, record: TileRecord) -> Iterator[tuple[int, int]]:
        """Row and column of each window in the grid."""
        for row in range(self.count(record.height_px)):
            for column in range(self.count(record.width_px)):
                yield row, column


def window_of(record: TileRecord, row: int, column: int, grid: WindowGrid) -> TileRecord:
    """Record of a window, but for what its pixels show.

    Args:
        record: The tile.
        row: Of the window in the grid.
        column: Of the window in the grid.
        grid: Size and spacing of windows.
    """
    top, left = row * grid.stride_px, column * grid.stride_px
    lat, lon = _centre(record, left + grid.size_px / 2, top + grid.size_px / 2)
    frame_left, frame_top = record.window_px[:2] if record.window_px else (0, 0)
    fractions = {name: getattr(record, name) for name in FRACTIONS}
    by_class = record.land_cover_fracs
    transform = record.transform
    if transform is not None:
        a, b, c, d, e, f = transform
        transform = (a, b, c + a * left + b * top, d, e, f + d * left + e * top)
    update = {
        "location_id": f"{record.location_id}_r{row}c{column}",
        "lat": round(lat, 7),
        "lon": round(lon, 7),
        "width_px": grid.size_px,
        "height_px": grid.size_px,
        "transform": transform,
        "window_px": (frame_left + left, frame_top + top, grid.size_px, grid.size_px),
        "land_cover_fracs": by_class if by_class and max(by_class) == 1 else None,
        "flags": tuple(flag for flag in record.flags if flag in OF_THE_SCENE),
    }
    update |= {name: value if value in (0, 1) else None for name, value in fractions.items()}
    return record.model_copy(update=update)


def _centre(record: TileRecord, x_px: float, y_px: float) -> tuple[float, float]:
    """Latitude and longitude of a point of a tile.

    Exact where the grid of the tile is known; else rows are taken to run from west to east.
    """
    if record.crs is not None and record.transform is not None:
        a, b, c, d, e, f = record.transform
        x, y = a * x_px + b * y_px + c, d * x_px + e * y_px + f
        lon, lat = _to_degrees(record.crs).transform(x, y)
    else:
        pixel_deg = record.ground_sampling_distance_m / 1000 / KM_PER_DEG
        shrink = max(math.cos(math.radians(record.lat)), 0.01)
        lat = record.lat - (y_px - record.height_px / 2) * pixel_deg
        lon = record.lon + (x_px - record.width_px / 2) * pixel_deg / shrink
    return min(max(lat, -90.0), 90.0), (lon + 180) % 360 - 180


@lru_cache(maxsize=256)
def _to_degrees(crs: str) -> Transformer:
    """From a grid to longitude and latitude."""
    return Transformer.from_crs(crs, "EPSG:4326", always_xy=True)
