"""What is scored: sets of images, what is known of each, and the table that statistics read."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ecomap.schema import CLIMATE, HISTORY_MONTHS, ClimateKind, LandCover, Split, TileRecord

BLOCK_DEG = 10.0
"""Tiles whose centres share a cell of this size are drawn together in intervals: neighbouring
tiles overlap and share their weather, so they are not independent."""

EXTREMES: dict[str, tuple[str, Literal["<=", ">="], float]] = {
    "low temperature": ("temperature_c", "<=", -10.0),
    "high temperature": ("temperature_c", ">=", 30.0),
    "low precipitation": ("precipitation_mm_day", "<=", 0.01),
    "high precipitation": ("precipitation_mm_day", ">=", 10.0),
    "low solar radiation": ("solar_radiation_mj_m2_day", "<=", 5.0),
    "high solar radiation": ("solar_radiation_mj_m2_day", ">=", 25.0),
}
"""EcoMapper's thresholds of extreme climate (its Table 2), in units of `ecomap.schema.CLIMATE`."""

SEASONS = ("winter", "spring", "summer", "autumn")
"""Meteorological seasons from December, June in the south."""

GroupKind = Literal["land_cover", "month", "season", "year", "extreme"]
"""Ways to divide scores. A tile may be extreme in several ways; else it is in one group at most."""

MAX_LAG = 3
"""Months back to which climate stands in the table."""

SetKind = Literal["reference", "generated", "baseline", "floor", "null"]
"""``floor``: real images that lost only what no model can keep. ``null``: a model that was told
nothing, or the wrong thing."""


@dataclass(frozen=True, kw_only=True)
class ScoredTile:
    """What is known of one image; ``None`` and absent keys mean that it is not known."""

    key: str
    """Same in all sets for images of one place and month: it pairs them."""
    place: str | None = None
    """Key of the place, over all of its months."""
    month: str | None = None
    """``YYYY-MM``."""
    lat: float | None = None
    lon: float | None = None
    land_cover: LandCover | None = None
    land_frac: float | None = None
    cloud_frac: float | None = None
    climate: Mapping[str, float] = field(default_factory=dict)
    """Monthly mean by name in `ecomap.schema.CLIMATE`, in its unit."""
    history: Mapping[str, tuple[float | None, ...]] = field(default_factory=dict)
    """Likewise the `HISTORY_MONTHS` months before, oldest first."""
    normals: Mapping[str, tuple[float | None, ...]] = field(default_factory=dict)
    """Likewise long-term means of January to December."""
    climate_kind: ClimateKind = "observed"
    caption: str | None = None
    split: Split = "unassigned"
    record: TileRecord | None = None
    """The record itself where the set is a dataset."""
    region: str | None = None
    """Block in which the tile is drawn, where it was found (`ecomap.blocks.with_blocks`)."""

    @property
    def block(self) -> str | None:
        """Its region where it was found, else its cell."""
        return self.cell if self.region is None else self.region

    @property
    def cell(self) -> str | None:
        """Cell of `BLOCK_DEG` degrees, the place where its position is not known."""
        if self.lat is None or self.lon is None:
            return self.place
        return f"{self.lat // BLOCK_DEG:.0f},{self.lon // BLOCK_DEG:.0f}"

    @property
    def season(self) -> str | None:
        """One of `SEASONS`, by month and hemisphere."""
        if self.month is None or self.lat is None:
            return None
        turn = int(self.month[5:]) % 12 // 3
        return SEASONS[(turn + 2 * (self.lat < 0)) % 4]


def tile_of(record: TileRecord) -> ScoredTile:
    """What a record of a dataset knows of its image; its key is the record's ``tile_id``."""
    climate = {name: getattr(record, name) for name in CLIMATE}
    history = {name: getattr(record, f"{name}_history") for name in CLIMATE}
    normals = {name: getattr(record, f"{name}_normals") for name in CLIMATE}
    return ScoredTile(
        key=record.tile_id,
        place=record.place_id,
        month=record.month,
        lat=record.lat,
        lon=record.lon,
        land_cover=record.land_cover,
        land_frac=record.land_frac,
        cloud_frac=record.cloud_frac,
        climate={name: value for name, value in climate.items() if value is not None},
        history={name: value for name, value in history.items() if value is not None},
        normals={name: value for name, value in normals.items() if value is not None},
        climate_kind=record.climate_kind,
        split=record.split,
        record=record,
    )


@dataclass(frozen=True)
class Frame:
    """One image as it is measured."""

    rgb: NDArray[np.uint8]
    """Display values ``(H, W, 3)``, red first."""
    valid: NDArray[np.bool_]
    """``(H, W)``; False under a mask, under transparency, and where there is no data."""
    bands: Mapping[str, NDArray[np.float32]] = field(default_factory=dict)
    """Reflectance ``(H, W)`` by Sentinel-2 band, NaN without data; empty for 8-bit images."""


class ImageSet(Protocol):
    """Images that are scored together. Implementations can be pickled: workers read by index."""

    @property
    def name(self) -> str:
        """Unique in a report, such as "persistence"."""
        ...

    @property
    def kind(self) -> SetKind:
        """What the images are."""
        ...

    @property
    def description(self) -> str:
        """One sentence for the report."""
        ...

    @property
    def tiles(self) -> Sequence[ScoredTile]:
        """What is known of each image."""
        ...

    def read(self, index: int) -> Frame:
        """Image of ``tiles[index]``.

        Raises:
            ImageError: If it cannot be scored; its ``reason`` is counted.
        """
        ...


@dataclass(frozen=True)
class Measured:
    """All that was read off a set of images, in the order of its tiles that could be read."""

    name: str
    kind: SetKind
    description: str
    table: pd.DataFrame
    """`tile_table`, index ``key``, with a column for each measure."""
    features: Mapping[str, NDArray[np.float32]] = field(default_factory=dict)
    """``(N, D)`` by feature space, rows as in the table; may be a memory map."""
    probabilities: Mapping[str, NDArray[np.float32]] = field(default_factory=dict)
    """``(N, K)`` class probabilities by feature space, for those that classify."""
    problems: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """Keys of the images that could not be scored, by reason."""


def tile_table(tiles: Sequence[ScoredTile]) -> pd.DataFrame:
    """One row a tile: what statistics group by and correlate with.

    Returns:
        Index ``key``; columns ``place``, ``block``, ``month`` (``YYYY-MM``), ``month_index`` (0 to
        11), ``year``, ``season``, ``lat``, ``lon``, ``land_cover`` (label), ``cloud_frac``, and
        for each climate variable its name and ``{name}_lag1`` to ``_lag3``, months before. NaN or
        None where not known.
    """
    rows = []
    for tile in tiles:
        row: dict[str, object] = {
            "key": tile.key,
            "place": tile.place,
            "block": tile.block,
            "month": tile.month,
            "month_index": None if tile.month is None else int(tile.month[5:]) - 1,
            "year": None if tile.month is None else int(tile.month[:4]),
            "season": tile.season,
            "lat": tile.lat,
            "lon": tile.lon,
            "land_cover": None if tile.land_cover is None else tile.land_cover.label,
            "cloud_frac": tile.cloud_frac,
        }
        for name in CLIMATE:
            row[name] = tile.climate.get(name)
            past = tile.history.get(name, (None,) * HISTORY_MONTHS)
            row |= {f"{name}_lag{lag}": past[-lag] for lag in range(1, MAX_LAG + 1)}
        rows.append(row)
    table = pd.DataFrame(rows).set_index("key")
    texts = ("place", "block", "month", "season", "land_cover")
    numbers = [column for column in table.columns if column not in texts]
    return table.astype(dict.fromkeys(numbers, "float64") | dict.fromkeys(texts, "object"))


def group_masks(table: pd.DataFrame, kind: GroupKind) -> dict[str, NDArray[np.bool_]]:
    """Rows of each group that has any, by its name; classes and months in their usual order.

    Tiles for which the property is not known are in no group.
    """
    if kind == "extreme":
        masks = {
            name: np.asarray(
                table[column] <= bound if sign == "<=" else table[column] >= bound, bool
            )
            for name, (column, sign, bound) in EXTREMES.items()
        }
        return {name: mask for name, mask in masks.items() if mask.any()}
    if kind == "month":
        values = table["month_index"].map(lambda v: "" if np.isnan(v) else f"{int(v) + 1:02d}")
        order = [f"{month:02d}" for month in range(1, 13)]
    elif kind == "year":
        values = table["year"].map(lambda v: "" if np.isnan(v) else f"{int(v)}")
        order = sorted(set(values) - {""})
    elif kind == "season":
        values, order = table["season"], list(SEASONS)
    else:
        values, order = table["land_cover"], [cover.label for cover in LandCover]
    found = {name: np.asarray(values == name, bool) for name in order}
    return {name: mask for name, mask in found.items() if mask.any()}
