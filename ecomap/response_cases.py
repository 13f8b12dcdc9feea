"""Questions about the response to climate: which tiles, which changes, which index, which sign."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from ecomap.schema import LandCover
from ecomap.tiles import ScoredTile

DRY_CLASSES = frozenset(
    {
        LandCover.CLOSED_SHRUBLANDS,
        LandCover.OPEN_SHRUBLANDS,
        LandCover.SAVANNAS,
        LandCover.GRASSLANDS,
        LandCover.BARREN,
    }
)
DRY_MM_DAY = 600 / 365.25
"""600 mm a year."""
GROWING_C = 5.0
"""In a month below it hardly anything grows, whatever the rain."""
THAW_C = (-10.0, 5.0)
"""Monthly means at which a few degrees decide on snow."""


@dataclass(frozen=True, kw_only=True)
class Response:
    """One question about climate."""

    name: str
    index: Literal["gcc", "snow_frac"]
    variable: str
    changes: tuple[str, ...]
    """In the words of `ecomap.climate.parse_change`, from least to most."""
    expected_sign: Literal[-1, 1]
    level: Callable[[ScoredTile], float]
    """Climate that slopes of a sustained change are taken against."""
    level_words: str
    is_case: Callable[[ScoredTile], bool]
    rule: str
    tolerance: float
    """A case whose index moves by less over its images does not respond."""

    def fits(self, tile: ScoredTile) -> bool:
        """Whether a tile is a case: it fulfils the rule, and knows what will be changed."""
        return self.variable in tile.climate and self.is_case(tile)


def year_of(tile: ScoredTile, name: str) -> tuple[float | None, ...]:
    """Twelve months of a variable: its normals, or else the twelve months up to the tile's own."""
    if name in tile.normals:
        return tile.normals[name]
    return (*tile.history.get(name, (None,))[1:], tile.climate.get(name))


def annual_precipitation(tile: ScoredTile) -> float:
    """Mean of `year_of`, mm/day; NaN, which fulfils no rule, unless all twelve are known."""
    rain = [math.nan if v is None else v for v in year_of(tile, "precipitation_mm_day")]
    return float(np.mean(rain)) if len(rain) == 12 else math.nan


def month_temperature(tile: ScoredTile) -> float:
    """°C; NaN where it is not known."""
    return tile.climate.get("temperature_c", math.nan)


def is_dry_case(tile: ScoredTile) -> bool:
    """A growing month of a dry class, or of a place with less than 600 mm of rain a year.

    Rainless places are left out: a factor changes nothing there.
    """
    rain = annual_precipitation(tile)
    is_dry = tile.land_cover in DRY_CLASSES or rain < DRY_MM_DAY
    return is_dry and rain > 0 and month_temperature(tile) >= GROWING_C


def is_cold_case(tile: ScoredTile) -> bool:
    """A month near thaw of a place with frost; permanent ice is left out."""
    known = [value for value in year_of(tile, "temperature_c") if value is not None]
    has_frost = min(known, default=math.inf) < 0
    is_thaw = THAW_C[0] <= month_temperature(tile) <= THAW_C[1]
    return has_frost and is_thaw and tile.land_cover != LandCover.SNOW_AND_ICE


RESPONSES = (
    Response(
        name="greenness_to_precipitation",
        index="gcc",
        variable="precipitation_mm_day",
        changes=("x0.5", "x0.75", "x1", "x1.25", "x1.5"),
        expected_sign=1,
        level=annual_precipitation,
        level_words="mean precipitation of the year",
        is_case=is_dry_case,
        rule="months of 5 °C or more; shrublands, savannas, grasslands, barren land, or less than "
        "600 mm a year",
        tolerance=0.001,
    ),
    Response(
        name="snow_to_temperature",
        index="snow_frac",
        variable="temperature_c",
        changes=("-4", "-2", "+0", "+2", "+4"),
        expected_sign=-1,
        level=month_temperature,
        level_words="temperature of the month",
        is_case=is_cold_case,
        rule="months of -10 to 5 °C at places whose coldest month is below 0 °C; no permanent ice",
        tolerance=0.01,
    ),
)
