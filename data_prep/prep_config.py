"""Every setting of data preparation, with its default and its meaning.

Longer than the budget because the settings of all steps are read in one place.
"""

import re
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    PlainSerializer,
    field_validator,
    model_validator,
)

from ecomap.config import Config
from ecomap.imagery import RGB_BANDS
from ecomap.schema import CLIMATE, MONTH_PATTERN, months_between

Band = Literal["B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B11", "B12"]

HOW_TO_ASK = {"timeout_s", "num_retries"}
"""Settings of a section that decide no result."""
HOW_TO_SEARCH = HOW_TO_ASK | {"url", "cluster_deg"}
"""Likewise of imagery, whose scenes are frozen in the plan."""

ProviderName = Literal[
    "earth-search", "earth-search-c1", "planetary-computer", "stac-api", "static-catalog"
]
SamplingMode = Literal["all", "uniform", "proportional", "quota"]
CloudMask = Literal["scl", "omnicloudmask"]
ClimateSource = Literal["power", "power-daily", "cf", "none"]
LandCoverSource = Literal[
    "worldcover", "mcd12q1-geotiff", "mcd12q1-service", "dynamicworld", "none"
]


def _pairs(value: Any) -> Any:
    """A mapping of climate variables to names in files as sorted pairs, which can key a cache."""
    try:
        pairs = dict(value).items()
    except (TypeError, ValueError):
        raise ValueError("it must be a mapping such as {temperature_c: tasmax}") from None
    if unknown := [name for name, _ in pairs if name not in CLIMATE]:
        raise ValueError(f"{unknown[0]!r} is no climate variable; choose of {', '.join(CLIMATE)}")
    if not all(isinstance(variable, str) and variable for _, variable in pairs):
        raise ValueError("every climate variable needs the name that it has in the files")
    return tuple(sorted(pairs))


FileVariables = Annotated[
    tuple[tuple[str, str], ...],
    BeforeValidator(_pairs),
    PlainSerializer(dict, return_type=dict[str, str]),
]
"""In files a mapping, in memory the pairs of it: ``dict(config.variables)``."""


def _check_month(text: str) -> str:
    if not re.match(MONTH_PATTERN, text):
        raise ValueError("it must be written YYYY-MM, with a month from 01 to 12")
    return text


def _check_scheduler(text: str) -> str:
    if not re.match(r"^(serial|processes|dask|(tcp|tls)://.+)$", text):
        raise ValueError(
            "it must be serial, processes, dask, or an address such as tcp://host:8786"
        )
    return text


Month = Annotated[str, AfterValidator(_check_month)]
Scheduler = Annotated[str, AfterValidator(_check_scheduler)]


class RegionConfig(Config):
    """Where tiles may lie: exactly one of these."""

    path: Path | None = None
    """GeoJSON, GeoPackage or Shapefile of polygons, in any stated CRS."""
    bbox: tuple[float, float, float, float] | None = None
    """West, south, east, north in degrees; west > east crosses the antimeridian."""
    country: str | None = None
    """Name or ISO code, from the outlines that ship or from ``countries_path``."""
    countries_path: Path | None = None
    """Finer outlines than those that ship; needs a column of names."""
    points: Path | None = None
    """Table (CSV with ``lat`` and ``lon``, or vector file) of centres: no grid, no sampling."""

    @model_validator(mode="after")
    def _is_one_region(self) -> Self:
        given = [n for n in ("path", "bbox", "country", "points") if getattr(self, n) is not None]
        if len(given) != 1:
            raise ValueError(
                f"{' and '.join(given) or 'nothing'} is given; give exactly one of path, bbox, "
                "country and points"
            )
        return self


class GridConfig(Config):
    """What a tile is."""

    size_px: int = Field(default=512, ge=16, le=4096)
    """Width and height of a tile."""
    resolution_m: float = Field(default=10.0, gt=0, le=10_000)
    """Pixel size in the UTM zone of the tile's centre."""
    spacing_km: float = Field(default=10.0, gt=0, le=1000)
    """Cell of the Major-TOM grid; one tile a cell at most. Smaller than a tile, tiles overlap."""


class SamplingConfig(Config):
    """Which cells of the region become places."""

    mode: SamplingMode = "proportional"
    """``all``; ``uniform``: any; ``proportional`` to land cover; ``quota``: so many a class."""
    num_places: int | None = Field(default=100, ge=1)
    """Places to draw, where the mode draws."""
    quotas: dict[str, int] = Field(default_factory=dict)
    """For ``quota``: places by IGBP class (name or code); other classes get none."""
    min_land_frac: float = Field(default=0.25, ge=0, le=1)
    """Cells with less land are left out, and counted."""
    land_cover_path: Path | None = None
    """GeoTIFF of IGBP codes to stratify by; by default the coarse table that ships."""


class SplitSettings(Config):
    """Division into training, validation and test sides by spatial block."""

    test_frac: float = Field(default=0.1, ge=0, lt=1)
    val_frac: float = Field(default=0.05, ge=0, lt=1)
    block_deg: float | None = Field(default=None, gt=0, le=180)
    """Side of a block; by default twice the largest tile, and at least 1 degree."""
    buffer_tiles: float = Field(default=1.0, ge=1)
    """Least gap between a training tile and a held-out one, in tile widths."""


class ImageryConfig(Config):
    """Which scenes, which bands, and when a month counts as empty."""

    provider: ProviderName = "earth-search"
    url: str | None = None
    """Address (or path) of the catalogue, for ``stac-api`` and ``static-catalog``; elsewhere it
    replaces the provider's own, for mirrors and tests."""
    collection: str | None = None
    """Replaces the provider's collection."""
    bands: tuple[Band, ...] = ("B04", "B03", "B02", "B08")
    """Bands of a tile, in this order; red, green and blue must be among them."""
    max_scene_cloud_frac: float = Field(default=0.9, ge=0, le=1)
    """Prefilter on the cloud of whole scenes, by the clearest scene of a pass over a tile. The
    choice itself is made inside the tile."""
    max_cloud_frac: float = Field(default=0.3, ge=0, le=1)
    """A month whose least cloudy scene has more cloud in the tile is empty."""
    max_nodata_frac: float = Field(default=0.05, ge=0, le=1)
    """Likewise for pixels without data."""
    max_candidates: int = Field(default=12, ge=1)
    """Scenes of a month whose classes are read, least scene cloud first."""
    cloud_mask: CloudMask = "scl"
    """``omnicloudmask`` looks again at the winner; it needs the package of that name."""
    timeout_s: float = Field(default=60.0, gt=0)
    num_retries: int = Field(default=5, ge=0)
    """Further tries after an answer that may pass: 429, 5xx, cut bodies, stalls, expired tokens."""
    cluster_deg: float = Field(default=1.0, gt=0, le=30)
    """Side of the squares of places that are searched together."""

    @field_validator("bands")
    @classmethod
    def _has_rgb(cls, value: tuple[Band, ...]) -> tuple[Band, ...]:
        missing = [band for band in RGB_BANDS if band not in value]
        if missing or len(set(value)) != len(value):
            raise ValueError(f"every band once, and with {', '.join(RGB_BANDS)} among them")
        return value


class ClimateSettings(Config):
    """Where monthly climate comes from."""

    source: ClimateSource = "power"
    """NASA POWER's monthly service; its daily one, for years that are not complete; ``cf``:
    NetCDF or Zarr with CF metadata, such as ERA5-Land; or none."""
    url: str | None = None
    """Replaces the address of the service, for mirrors and tests."""
    paths: tuple[str, ...] = ()
    """Files or stores of ``cf``; together they hold all variables and years."""
    variables: FileVariables = ()
    """Climate variable -> variable of these files, such as ``{temperature_c: tasmax}``, where
    names and standard names do not tell; the others are found by these."""
    normals_first_year: int = Field(default=1991, ge=1850, le=2100)
    normals_last_year: int = Field(default=2020, ge=1850, le=2100)
    spi_months: int = Field(default=3, ge=1, le=24)
    """Months over which SPI and STI look back, the tile's own month included."""
    timeout_s: float = Field(default=60.0, gt=0)
    num_retries: int = Field(default=5, ge=0)

    @model_validator(mode="after")
    def _years_make_normals(self) -> Self:
        if self.normals_last_year <= self.normals_first_year:
            raise ValueError("normals_last_year must lie after normals_first_year")
        if self.source == "cf" and not self.paths:
            raise ValueError("paths is empty; source cf needs the NetCDF files or Zarr stores")
        return self


class ScenarioConfig(Config):
    """Change of climate between two periods of one climate model (delta method)."""

    name: str = Field(pattern=r"^[\w.-]+$")
    """Such as ``ssp585-2075``."""
    model: str
    """Such as ``CanESM5``."""
    experiment: str
    """Such as ``ssp585``."""
    member: str = "r1i1p1f1"
    historical_paths: tuple[str, ...]
    """NetCDF files or Zarr stores that hold the baseline years."""
    future_paths: tuple[str, ...]
    """Likewise for the horizon."""
    variables: FileVariables = ()
    """As `ClimateSettings.variables`, of the files of both periods."""
    baseline_years: tuple[int, int] = (1991, 2020)
    """First and last year, both included; 20 years or more."""
    horizon_years: tuple[int, int] = (2060, 2089)


class LandCoverConfig(Config):
    """Where the class of a tile comes from."""

    source: LandCoverSource = "worldcover"
    url: str | None = None
    """Address of WorldCover's folder or of the MODIS service; by default the public one."""
    path: Path | None = None
    """GeoTIFF, for ``mcd12q1-geotiff`` and ``dynamicworld``."""
    year: int = Field(default=2021, ge=2001, le=2100)
    timeout_s: float = Field(default=60.0, gt=0)
    num_retries: int = Field(default=5, ge=0)

    @model_validator(mode="after")
    def _has_its_file(self) -> Self:
        if self.source in ("mcd12q1-geotiff", "dynamicworld") and self.path is None:
            raise ValueError(f"path is empty; source {self.source} needs a GeoTIFF")
        if self.source == "worldcover" and self.year not in (2020, 2021):
            raise ValueError(f"year is {self.year}; WorldCover exists for 2020 and 2021")
        return self


class DisplayConfig(Config):
    """How reflectance becomes the 8-bit image that models and people see: a fixed straight line."""

    black: float = Field(default=0.0, ge=-0.2, le=1)
    """Reflectance shown as 0."""
    white: float = Field(default=0.4, gt=0, le=2)
    """Reflectance shown as 255; 0.4 is the gain of 2.5 that EcoMapper's frames have."""

    @model_validator(mode="after")
    def _is_a_range(self) -> Self:
        if self.white <= self.black:
            raise ValueError(f"white is {self.white:g}, not above black {self.black:g}")
        return self


class EngineConfig(Config):
    """Where tasks run."""

    scheduler: Scheduler = "processes"
    """``serial``, ``processes``, ``dask`` (a cluster on this machine), or the address of a Dask
    scheduler (``tcp://host:8786``) whose workers see the same folders."""
    num_workers: int = Field(default=2, ge=1, le=1024)
    """Processes of the machine; a cluster given by address has its own."""
    num_threads: int = Field(default=8, ge=1, le=64)
    """Tiles that one process reads at once: reading waits for the network."""
    batch_size: int = Field(default=32, ge=1)
    """Tiles a batch: neighbours share scenes, so that headers are read once."""


class PrepConfig(Config):
    """A dataset, from a region and months to records and frames."""

    output: Path
    """Dataset folder; everything lies in it, and the same config goes on in it."""
    region: RegionConfig
    first_month: Month
    last_month: Month
    seed: int = 0
    name: str = Field(default="sentinel-2", pattern=r"^[\w.-]+$")
    """``source`` of the records."""
    grid: GridConfig = GridConfig()
    sampling: SamplingConfig = SamplingConfig()
    split: SplitSettings = SplitSettings()
    imagery: ImageryConfig = ImageryConfig()
    climate: ClimateSettings = ClimateSettings()
    land_cover: LandCoverConfig = LandCoverConfig()
    scenarios: tuple[ScenarioConfig, ...] = ()
    place_names: bool = True
    """Name state and country of each place from a table that ships with a package."""
    display: DisplayConfig = DisplayConfig()
    engine: EngineConfig = EngineConfig()

    @model_validator(mode="after")
    def _months_are_in_order(self) -> Self:
        if months_between(self.first_month, self.last_month) < 0:
            raise ValueError(
                f"last_month {self.last_month} lies before first_month {self.first_month}"
            )
        return self

    @model_validator(mode="after")
    def _scenarios_have_cells(self) -> Self:
        names = [scenario.name for scenario in self.scenarios]
        if names and self.climate.source == "none":
            raise ValueError("scenarios need climate.source: they are changes of its cells")
        if len(set(names)) != len(names):
            raise ValueError(f"scenarios are named {', '.join(names)}; every name once")
        return self

    @property
    def months(self) -> tuple[str, ...]:
        """All months from the first to the last, ``YYYY-MM``."""
        return month_range(self.first_month, self.last_month)


def month_range(first: str, last: str) -> tuple[str, ...]:
    """Months from first to last, both included.

    >>> month_range("2020-11", "2021-02")
    ('2020-11', '2020-12', '2021-01', '2021-02')
    """
    start = 12 * int(first[:4]) + int(first[5:]) - 1
    numbers = range(start, start + months_between(first, last) + 1)
    return tuple(f"{number // 12:04d}-{number % 12 + 1:02d}" for number in numbers)


def resolved(config: PrepConfig) -> PrepConfig:
    """The same settings with whole paths, for workers whose current folder is another."""

    def whole(text: str) -> str:
        return text if "://" in text else str(Path(text).expanduser().absolute())

    climate, cover, imagery = config.climate, config.land_cover, config.imagery
    scenarios = tuple(
        scenario.model_copy(
            update={
                "historical_paths": tuple(map(whole, scenario.historical_paths)),
                "future_paths": tuple(map(whole, scenario.future_paths)),
            }
        )
        for scenario in config.scenarios
    )
    return config.model_copy(
        update={
            "output": config.output.expanduser().absolute(),
            "scenarios": scenarios,
            "climate": climate.model_copy(update={"paths": tuple(map(whole, climate.paths))}),
            "land_cover": cover.model_copy(
                update={
                    "path": cover.path and Path(whole(str(cover.path))),
                    "url": cover.url and whole(cover.url),
                }
            ),
            "imagery": imagery.model_copy(update={"url": imagery.url and whole(imagery.url)}),
        }
    )
