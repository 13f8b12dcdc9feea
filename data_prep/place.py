"""A place: one tile's position on the ground, the same in every month."""

from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from odc.geo.geobox import GeoBox
from pyarrow import ArrowException
from rasterio.transform import Affine
from shapely.geometry.base import BaseGeometry

from ecomap.errors import DataError
from ecomap.schema import Split


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where the tiles of one location lie."""

    location_id: str
    """Key of the place: file names are made from it (letters, digits, ``_`` and ``-`` only)."""
    lat: float
    """Centre, degrees north."""
    lon: float
    """Centre, degrees east, [-180, 180)."""
    crs: str
    """UTM zone of the centre, ``EPSG:326xx`` or ``EPSG:327xx``."""
    left: float
    """West edge, metres in ``crs``; a multiple of the pixel size."""
    top: float
    """North edge, likewise."""
    size_px: int
    """Width and height."""
    resolution_m: float
    stratum: str = ""
    """Land-cover class by which the place was drawn; empty where none was known."""
    split: Split = "unassigned"

    @property
    def transform(self) -> tuple[float, float, float, float, float, float]:
        """Affine coefficients a-f, rasterio order."""
        return (self.resolution_m, 0.0, self.left, 0.0, -self.resolution_m, self.top)

    @cached_property
    def geobox(self) -> GeoBox:
        """Pixel grid of the tile."""
        return GeoBox((self.size_px, self.size_px), Affine(*self.transform), self.crs)

    @cached_property
    def footprint(self) -> BaseGeometry:
        """Outline in degrees (EPSG:4326), with points along its edges; split at +-180 degrees."""
        import antimeridian

        outline = self.geobox.extent.to_crs("EPSG:4326", resolution=self._edge_step_m()).geom
        return antimeridian.fix_polygon(outline) if _is_torn(outline) else outline

    def _edge_step_m(self) -> float:
        return self.size_px * self.resolution_m / 4

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as `Place(**values)` takes them back."""
        return asdict(self)


def _is_torn(outline: BaseGeometry) -> bool:
    """Whether an outline in degrees jumps from one side of the antimeridian to the other."""
    west, _, east, _ = outline.bounds
    return bool(east - west > 180)


def write_places(path: Path, places: list[Place]) -> None:
    """Write places as GeoParquet, geometry = footprint in EPSG:4326, by an atomic rename."""
    import geopandas as gpd  # takes long to load, and workers never write places

    frame = gpd.GeoDataFrame(
        [place.to_dict() for place in places],
        columns=[*Place.__dataclass_fields__],
        geometry=[place.footprint for place in places],
        crs="EPSG:4326",
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    frame.to_parquet(temporary, index=False)
    temporary.replace(path)


def read_places(path: Path) -> list[Place]:
    """Read places in the order in which they were written.

    Raises:
        DataError: If the file is missing or damaged.
    """
    if not path.is_file():
        raise DataError(f"{path} does not exist. Make it with 'ecomap prep plan CONFIG'.")
    try:
        table = pq.read_table(path, columns=[*Place.__dataclass_fields__])
    except (ArrowException, OSError) as error:
        raise DataError(f"{path} is not a table of places: {error}.") from None
    return [Place(**row) for row in table.to_pylist()]
