"""The dataset contract: what a tile is, in which units, and which values are possible.

Classes, units and ranges are stated here and nowhere else. `data_prep` writes records, `ecomap`
learns from them; a dataset on disk is one folder:

    records.parquet   GeoParquet, one row per `TileRecord`, geometry = centre point, EPSG:4326
    dataset.json      counts of kept and dropped tiles by reason, sources, licences
    images/...        the frames that `TileRecord.image_path` names

Longer than the budget because the contract is read in one place.
"""

import json
import math
from collections.abc import Iterable, Sequence
from enum import IntEnum
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from ecomap.errors import DataError, SchemaError

SCHEMA_VERSION = 1
"""Raised whenever a reader of an older dataset would misunderstand a newer one."""

HISTORY_MONTHS = 12
"""Months before a tile's own month whose climate a record carries."""

SERIES_MONTHS = HISTORY_MONTHS + 1
"""Length of a climate series: the months before, oldest first, then the tile's own month."""

RECORDS_FILE = "records.parquet"
SUMMARY_FILE = "dataset.json"

Split = Literal["train", "val", "test", "buffer", "unassigned"]
"""``buffer`` tiles lie too near to a held-out block to be used on either side."""

ClimateKind = Literal["observed", "normal"]
"""``observed``: values of that very month. ``normal``: long-term means; anomalies are unknown."""

MONTH_PATTERN = r"^\d{4}-(0[1-9]|1[0-2])$"
ACQUIRED_PATTERN = r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$"


class ClimateVariable(BaseModel):
    """One climate quantity, its unit and the range of monthly means found on Earth."""

    model_config = ConfigDict(frozen=True)

    name: str
    """Field name, which ends in the unit."""
    short: str
    """Name on the command line."""
    label: str
    """Words for axes and tables, without the unit."""
    unit: str
    standard_name: str
    """CF standard name."""
    minimum: float
    maximum: float
    is_ratio: bool
    """Whether scenarios scale it (precipitation, radiation) or shift it (temperature)."""
    decimals: int
    """Decimals of the numeric prompt: about the precision of a monthly mean."""
    hint: str
    """What a value outside the range most likely is."""


CLIMATE: dict[str, ClimateVariable] = {
    v.name: v
    for v in (
        ClimateVariable(
            name="temperature_c",
            short="temperature",
            label="Temperature",
            unit="°C",
            standard_name="air_temperature",
            minimum=-75,
            maximum=55,
            is_ratio=False,
            decimals=1,
            hint="kelvin must be converted by subtracting 273.15",
        ),
        ClimateVariable(
            name="precipitation_mm_day",
            short="precipitation",
            label="Precipitation",
            unit="mm/day",
            standard_name="lwe_precipitation_rate",
            minimum=0,
            maximum=120,
            is_ratio=True,
            decimals=2,
            hint="monthly totals must be divided by the days of the month",
        ),
        ClimateVariable(
            name="solar_radiation_mj_m2_day",
            short="solar",
            label="Solar radiation",
            unit="MJ/m2/day",
            standard_name="surface_downwelling_shortwave_flux_in_air",
            minimum=0,
            maximum=45,
            is_ratio=True,
            decimals=1,
            hint="W/m2 must be multiplied by 0.0864 and kWh/m2/day by 3.6",
        ),
    )
}
"""Climate quantities in the order in which they enter models. EcoMapper labels precipitation as
"mm" and radiation as "kWh/m2" or "W/m2"; its values are in the units above."""


class LandCover(IntEnum):
    """MODIS IGBP classes (Friedl & Sulla-Menashe, MCD12Q1 LC_Type1), by their codes."""

    EVERGREEN_NEEDLELEAF_FORESTS = 1
    EVERGREEN_BROADLEAF_FORESTS = 2
    DECIDUOUS_NEEDLELEAF_FORESTS = 3
    DECIDUOUS_BROADLEAF_FORESTS = 4
    MIXED_FORESTS = 5
    CLOSED_SHRUBLANDS = 6
    OPEN_SHRUBLANDS = 7
    WOODY_SAVANNAS = 8
    SAVANNAS = 9
    GRASSLANDS = 10
    PERMANENT_WETLANDS = 11
    CROPLANDS = 12
    URBAN_AND_BUILT_UP = 13
    CROPLAND_NATURAL_VEGETATION_MOSAICS = 14
    SNOW_AND_ICE = 15
    BARREN = 16
    WATER_BODIES = 17

    @property
    def label(self) -> str:
        """Class name with the spelling that EcoMapper's prompts use where it has the class."""
        return LAND_COVER_LABELS[self]


LAND_COVER_LABELS: dict[LandCover, str] = {
    LandCover.EVERGREEN_NEEDLELEAF_FORESTS: "Evergreen Needleleaf Forests",
    LandCover.EVERGREEN_BROADLEAF_FORESTS: "Evergreen Broadleaf Forests",
    LandCover.DECIDUOUS_NEEDLELEAF_FORESTS: "Deciduous Needleleaf Forests",
    LandCover.DECIDUOUS_BROADLEAF_FORESTS: "Deciduous Broadleaf Forests",
    LandCover.MIXED_FORESTS: "Mixed Forests",
    LandCover.CLOSED_SHRUBLANDS: "Closed Shrublands",
    LandCover.OPEN_SHRUBLANDS: "Open Shrublands",
    LandCover.WOODY_SAVANNAS: "Woody Savannas",
    LandCover.SAVANNAS: "Savannas",
    LandCover.GRASSLANDS: "Grasslands",
    LandCover.PERMANENT_WETLANDS: "Permanent Wetlands",
    LandCover.CROPLANDS: "Croplands",
    LandCover.URBAN_AND_BUILT_UP: "Urban and Built-Up",
    LandCover.CROPLAND_NATURAL_VEGETATION_MOSAICS: "Cropland/Natural Vegetation Mosaics",
    LandCover.SNOW_AND_ICE: "Permanent Snow and Ice",
    LandCover.BARREN: "Barren or Sparsely Vegetated",
    LandCover.WATER_BODIES: "Water Bodies",
}
"""EcoMapper's 15 classes are these without permanent snow and ice and water bodies."""

LAND_COVER_ALIASES: dict[str, LandCover] = {
    "barren": LandCover.BARREN,
    "barren lands": LandCover.BARREN,
    "urban and built-up lands": LandCover.URBAN_AND_BUILT_UP,
    "snow and ice": LandCover.SNOW_AND_ICE,
    "cropland/natural vegetation mosaic": LandCover.CROPLAND_NATURAL_VEGETATION_MOSAICS,
    "water": LandCover.WATER_BODIES,
}


def parse_land_cover(text: str | int) -> LandCover:
    """Find the IGBP class of a code or a name in any of its known spellings.

    Args:
        text: IGBP code 1-17, a class name (case and ``_`` v space do not matter) or an alias.

    Raises:
        SchemaError: If no class has that code or name.
    """
    if isinstance(text, int) or text.strip().isdecimal():
        code = int(text)
        if code in LAND_COVER_LABELS:
            return LandCover(code)
        raise SchemaError(f"Land cover code {code} is unknown. IGBP codes run from 1 to 17.")
    key = text.strip().lower().replace("_", " ")
    names = {label.lower(): cover for cover, label in LAND_COVER_LABELS.items()}
    names |= {cover.name.lower().replace("_", " "): cover for cover in LandCover}
    names |= LAND_COVER_ALIASES
    if key in names:
        return names[key]
    from difflib import get_close_matches

    near = get_close_matches(key, names, n=1)
    guess = f" Did you mean {names[near[0]].label!r}?" if near else ""
    choices = ", ".join(repr(label) for label in LAND_COVER_LABELS.values())
    raise SchemaError(f"Land cover {text!r} is unknown.{guess} Choose one of {choices}.")


Values = tuple[float | None, ...]


class TileRecord(BaseModel):
    """One image of one place in one month, with everything a model or a reader may ask of it.

    Climate fields are monthly means; ``None`` means that the value is not known. The key of a
    record is ``(source, batch, location_id, month)``: EcoMapper's ids repeat between batches.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    source: str = Field(min_length=1)
    """Dataset the frame comes from, such as ``ecomapper`` or ``bluemarble``."""
    batch: str = ""
    """Part of the source in which ``location_id`` is unique."""
    location_id: str = Field(min_length=1)
    """Key of the place inside its batch."""
    month: str = Field(pattern=MONTH_PATTERN)
    """Calendar month, ``YYYY-MM``."""
    lat: float = Field(ge=-90, le=90)
    """Latitude of the tile's centre, degrees north."""
    lon: float = Field(ge=-180, le=180)
    """Longitude of the tile's centre, degrees east."""
    ground_sampling_distance_m: float = Field(gt=0, le=100_000)
    """Nominal size of a pixel on the ground, metres (for geographic grids: north-south)."""
    width_px: int = Field(gt=0)
    height_px: int = Field(gt=0)
    crs: str | None = None
    """Coordinate reference system of the frame, such as ``EPSG:32632``, where known."""
    transform: tuple[float, float, float, float, float, float] | None = None
    """Affine coefficients a-f (rasterio order) of the frame, in units of ``crs``."""

    acquired: str | None = Field(default=None, pattern=ACQUIRED_PATTERN)
    """When the satellite saw the tile, UTC, ISO 8601 to the second; None for composites."""
    scene_ids: tuple[str, ...] = ()
    """Items of the catalogue that the frame was made of, the one on top first."""
    processing_baseline: str | None = None
    """Version of the agency's processing, such as ``05.09``."""
    digital_number_offset: int | None = None
    """What was added to the scene's digital numbers, already applied in the frame."""
    digital_number_offset_confidence: Literal["high", "medium", "low"] | None = None
    """How far the source can be trusted to need that offset."""
    bands: tuple[str, ...] = ()
    """Bands of a 16-bit frame in their order, such as ``B04``; empty for 8-bit RGB."""
    reflectance_range: tuple[float, float] | None = None
    """Reflectance shown as 0 and as 255 where a 16-bit frame is read as 8-bit RGB."""

    land_cover: LandCover | None = None
    """Majority IGBP class of the tile."""
    land_cover_frac: float | None = Field(default=None, ge=0, le=1)
    """Fraction of the tile that has this class (purity), [0, 1]."""
    land_cover_fracs: tuple[float, ...] | None = None
    """Fractions of the tile by IGBP code 1 to 17; what is missing to 1 is not known."""
    land_cover_source: str | None = None
    """Map and year that the class comes from."""
    land_frac: float | None = Field(default=None, ge=0, le=1)
    """Fraction of the tile that is land, [0, 1]."""
    state: str | None = None
    country: str | None = None

    climate_kind: ClimateKind = "observed"
    climate_source: str | None = None
    temperature_c: float | None = None
    precipitation_mm_day: float | None = None
    solar_radiation_mj_m2_day: float | None = None
    temperature_c_history: Values | None = None
    """Values of the `HISTORY_MONTHS` months before, oldest first; likewise below."""
    precipitation_mm_day_history: Values | None = None
    solar_radiation_mj_m2_day_history: Values | None = None
    temperature_c_normals: Values | None = None
    """Long-term means of January to December; likewise below."""
    precipitation_mm_day_normals: Values | None = None
    solar_radiation_mj_m2_day_normals: Values | None = None

    spi: float | None = None
    """Standardised precipitation index of the months up to this one, standard deviations."""
    sti: float | None = None
    """Likewise for temperature."""

    cloud_frac: float | None = Field(default=None, ge=0, le=1)
    """Fraction of the tile under cloud as its source says, [0, 1]."""
    nodata_frac: float | None = Field(default=None, ge=0, le=1)
    """Fraction of pixels without data, measured on the frame, [0, 1]."""
    snow_frac: float | None = Field(default=None, ge=0, le=1)
    """Fraction of pixels that look like snow (`ecomap.indices.snow_fraction`), [0, 1]."""
    scene_snow_frac: float | None = Field(default=None, ge=0, le=1)
    """Fraction of the tile under snow as its source says, [0, 1]."""
    flags: tuple[str, ...] = ()
    """Reasons for caution found on the frame (`data_prep.quality`), sorted."""

    image_path: str | None = None
    """Frame, relative to the dataset's folder."""
    window_px: tuple[int, int, int, int] | None = None
    """Part of the frame that is the tile: column, row, width, height; ``None`` is all of it."""
    license: str = Field(min_length=1)
    attribution: str = ""
    split: Split = "unassigned"

    @property
    def place_id(self) -> str:
        """Key of the place over all sources."""
        return "/".join(part for part in (self.source, self.batch, self.location_id) if part)

    @property
    def tile_id(self) -> str:
        """Key of the record over all sources."""
        return f"{self.place_id}/{self.month}"

    @property
    def month_index(self) -> int:
        """Calendar month, 0 for January to 11 for December."""
        return int(self.month[5:]) - 1

    @field_validator("land_cover", mode="before")
    @classmethod
    def _name_to_class(cls, value: Any) -> Any:
        return parse_land_cover(value) if isinstance(value, str) else value

    @field_validator("window_px")
    @classmethod
    def _window_is_positive(
        cls, value: tuple[int, int, int, int] | None
    ) -> tuple[int, int, int, int] | None:
        if value is not None and (min(value[:2]) < 0 or min(value[2:]) <= 0):
            raise ValueError(f"{value} must have column, row >= 0 and width, height > 0")
        return value

    @field_validator("land_cover_fracs")
    @classmethod
    def _one_fraction_a_class(cls, value: tuple[float, ...] | None) -> tuple[float, ...] | None:
        if value is not None and (len(value) != len(LandCover) or not 0 <= sum(value) <= 1.001):
            raise ValueError(
                f"{len(value)} fractions with the sum {sum(value):g}; expected {len(LandCover)}, "
                "by IGBP code, with a sum of at most 1"
            )
        return value

    @field_validator("reflectance_range")
    @classmethod
    def _range_has_a_length(cls, value: tuple[float, float] | None) -> tuple[float, float] | None:
        if value is not None and not value[0] < value[1]:
            raise ValueError(f"{value} must hold the darker reflectance first")
        return value

    @model_validator(mode="after")
    def _climate_in_range(self) -> Self:
        for name in CLIMATE:
            check_climate(name, getattr(self, name))
            for suffix, length in (("history", HISTORY_MONTHS), ("normals", 12)):
                series = getattr(self, f"{name}_{suffix}")
                if series is None:
                    continue
                if len(series) != length:
                    raise ValueError(f"{name}_{suffix} has {len(series)} values, not {length}")
                for value in series:
                    check_climate(f"{name}_{suffix}", value, variable=CLIMATE[name])
        return self


def check_climate(
    name: str, value: float | None, *, variable: ClimateVariable | None = None
) -> None:
    """Refuse a climate value that no place on Earth has.

    Args:
        name: Field to name in the message.
        value: Monthly mean in the unit of the variable; ``None`` (not known) passes.
        variable: Quantity; by default ``CLIMATE[name]``.

    Raises:
        SchemaError: If the value is not finite or outside the variable's range.
    """
    variable = variable or CLIMATE[name]
    if value is None:
        return
    if not math.isfinite(value):
        raise SchemaError(
            f"{name} is {value}; a missing value must be left empty (None), not {value}."
        )
    if not variable.minimum <= value <= variable.maximum:
        raise SchemaError(
            f"{name} is {value:g} {variable.unit}, outside {variable.minimum:g} to "
            f"{variable.maximum:g} {variable.unit}; check the unit: {variable.hint}."
        )


def make_record(fields: dict[str, Any], *, where: str) -> TileRecord:
    """Build a record and turn any broken rule into one readable error.

    Args:
        fields: Values by field name.
        where: File or row that the values come from, for the message.

    Raises:
        SchemaError: If a field is missing, unknown, or breaks its unit or range.
    """
    try:
        return TileRecord(**fields)
    except ValidationError as error:
        raise SchemaError(f"{where}: {describe_validation(error, TileRecord)}") from None


def describe_validation(error: ValidationError, model: type[BaseModel]) -> str:
    """Say in one line what the first broken rule is, and how many more there are."""
    first = error.errors(include_url=False)[0]
    field = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        from difflib import get_close_matches

        near = get_close_matches(str(first["loc"][-1]), model.model_fields, n=1)
        text = f"unknown key {field!r}." + (f" Did you mean {near[0]!r}?" if near else "")
    elif first["type"] == "missing":
        text = f"{field} is missing; every record needs it."
    else:
        reason = first["msg"].removeprefix("Value error, ").replace("Input should be", "expected")
        if first["type"] == "string_pattern_mismatch":
            reason = "expected YYYY-MM with a month from 01 to 12"
        value = "" if first["type"] == "value_error" else f" is {first['input']!r}"
        text = f"{field}{value}: {reason}" if field else reason
    more = error.error_count() - 1
    return text + (f" ({more} more in the same record)" if more else "")


def write_dataset(
    folder: Path, records: Sequence[TileRecord], *, summary: dict[str, Any] | None = None
) -> None:
    """Write ``records.parquet`` and ``dataset.json``, each by an atomic rename.

    Args:
        folder: Dataset folder; made if absent.
        records: Validated records.
        summary: What to keep beside them: counts by reason, sources, licences.

    Raises:
        SchemaError: If two records have the same key.
    """
    import geopandas as gpd

    seen: set[str] = set()
    for record in records:
        if record.tile_id in seen:
            raise SchemaError(
                f"Two records have the key {record.tile_id!r}; (source, batch, location_id, month) "
                "must be unique. Give each part of the source its own batch name."
            )
        seen.add(record.tile_id)
    folder.mkdir(parents=True, exist_ok=True)
    rows = [record.model_dump(mode="python") for record in records]
    columns = {name: [_plain(row[name]) for row in rows] for name in TileRecord.model_fields}
    frame = gpd.GeoDataFrame(
        columns,
        geometry=gpd.points_from_xy(
            [record.lon for record in records], [record.lat for record in records]
        ),
        crs="EPSG:4326",
    )
    path = folder / RECORDS_FILE
    temporary = path.with_suffix(".tmp")
    frame.to_parquet(temporary, index=False)
    temporary.replace(path)
    content = {"schema_version": SCHEMA_VERSION, "num_records": len(records)} | (summary or {})
    write_json(folder / SUMMARY_FILE, content)


def read_dataset(folder: Path) -> list[TileRecord]:
    """Read and validate the records of a dataset folder (or of one ``.parquet`` file).

    Raises:
        DataError: If there is no dataset, or its file is damaged.
        SchemaError: If a record breaks the contract (the message names the row), or they
            keep another `SCHEMA_VERSION`.
    """
    import pyarrow.parquet as pq
    from pyarrow import ArrowException

    path = folder if folder.suffix == ".parquet" else folder / RECORDS_FILE
    if not path.is_file():
        raise DataError(
            f"{path} does not exist. Expected a dataset folder with {RECORDS_FILE}; make one with "
            "'ecomap data import' or 'ecomap prep build'."
        )
    version = read_summary(path.parent).get("schema_version", SCHEMA_VERSION)
    if version != SCHEMA_VERSION:
        raise SchemaError(
            f"{path} keeps version {version} of the contract; this ecomap reads {SCHEMA_VERSION}. "
            "Import it again, or use the ecomap that wrote it."
        )
    try:
        table = pq.read_table(path)
    except (ArrowException, OSError) as error:
        raise DataError(f"{path} is not a readable Parquet file: {error}.") from None
    unknown = set(table.column_names) - set(TileRecord.model_fields) - {"geometry"}
    required = {n for n, f in TileRecord.model_fields.items() if f.is_required()}
    missing = required - set(table.column_names)
    if unknown or missing:
        raise SchemaError(
            f"{path}: columns do not match the contract: missing {sorted(missing)}, unknown "
            f"{sorted(unknown)}. Write it with ecomap.schema.write_dataset."
        )
    rows = table.drop_columns(["geometry"] if "geometry" in table.column_names else []).to_pylist()
    return [
        make_record(
            {key: value for key, value in row.items() if value is not None},
            where=f"{path} row {index}",
        )
        for index, row in enumerate(rows)
    ]


def read_summary(folder: Path) -> dict[str, Any]:
    """Read ``dataset.json``; empty where the dataset has none.

    Raises:
        DataError: If the file is damaged.
    """
    path = folder / SUMMARY_FILE
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataError(f"{path} is not readable JSON: {error}.") from None
    if not isinstance(content, dict):
        raise DataError(f"{path} holds {content!r:.60}; expected an object.")
    return content


def write_json(path: Path, content: Any) -> None:
    """Write JSON by an atomic rename, so that a reader never sees half a file."""
    temporary = path.with_name(path.name + ".tmp")
    text = json.dumps(content, indent=2, ensure_ascii=False)
    temporary.write_text(text + "\n", encoding="utf-8")
    temporary.replace(path)


def months_between(first: str, last: str) -> int:
    """Number of months from ``first`` to ``last`` (``YYYY-MM``), negative if it is earlier."""
    years = int(last[:4]) - int(first[:4])
    return 12 * years + int(last[5:]) - int(first[5:])


def _plain(value: Any) -> Any:
    """Arrow-friendly form: tuples as lists, enums as their codes."""
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return int(value) if isinstance(value, IntEnum) else value


def unique(items: Iterable[str]) -> list[str]:
    """Distinct items in order of first appearance."""
    return list(dict.fromkeys(items))
