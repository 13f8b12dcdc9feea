"""What is read off the frames of a sequence: numbers of each frame, and maps over many of them.

Frames are read once, one at a time. Memory grows with scenarios and members and not with months:
maps are sums over months, on blocks of pixels that are at most `MAP_SIDE` to a side.

Longer than the budget because numbers and maps come of the same pass.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image

from ecomap.errors import DataError
from ecomap.indices import green_chromatic_coordinate, land_indices, land_mask, snow_mask
from ecomap.outputs import Pixels, replacing
from ecomap.schema import CLIMATE, TileRecord
from ecomap.sequence import SequenceFolder, SequencePlan

METRICS_FILE = "metrics.csv"
ENSEMBLE_FILE = "ensemble.csv"

MAP_SIDE = 256
"""Largest side of a map; larger frames are averaged over square blocks of pixels."""

SEASONS = ("Dec–Feb", "Mar–May", "Jun–Aug", "Sep–Nov")
FIRST_YEARS, LAST_YEARS = "first years", "last years"
GROUPS = (*SEASONS, FIRST_YEARS, LAST_YEARS)
"""Which frames a map is a mean of."""
MAX_PERIOD_YEARS = 10
"""Most years at either end whose means are compared."""

MIN_AGREEMENT = 0.8
"""Share of members that must have the sign of their mean: the simple method of IPCC AR6 WGI,
Cross-Chapter Box Atlas.1, https://doi.org/10.1017/9781009157896.021."""

MEASURED = ("greenness", "snow_frac", "colour_change")
"""Columns whose mean and spread over members are written."""

Map = NDArray[np.float32]


@dataclass(frozen=True)
class FrameMeasures:
    """Numbers of one image."""

    greenness: float
    """Mean green chromatic coordinate of its land, [0, 1]; NaN for a black image."""
    snow_frac: float
    """Fraction of its land that looks like snow, [0, 1]."""
    land_frac: float
    """Fraction of its pixels that is neither water nor as dark as deep water, [0, 1]."""
    has_land: bool
    """Whether there was land to read; otherwise all pixels were read."""


@dataclass(frozen=True)
class SequenceMaps:
    """Means over the frames of a scenario, a member and a group of `GROUPS`.

    NaN where the start tile shows water, where a frame is black, and where a group has no frame.
    """

    scenarios: tuple[str, ...]
    greenness: Map
    """Green chromatic coordinate ``(scenarios, members, groups, h, w)``."""
    snow: Map
    """Share of months with snow, of the same shape."""
    greenness_spread: Map
    """Standard deviation over members in a month, mean over months, ``(scenarios, groups, h, w)``;
    NaN with one member."""
    colour_spread: Map
    """Likewise of red, green and blue together (root of their mean variance), display values."""
    block_px: int
    """Side of a map's pixel, in pixels of the frames."""


@dataclass(frozen=True)
class Measured:
    """All that was read off a sequence."""

    start: FrameMeasures
    frames: pd.DataFrame
    """One row a frame: scenario, member, month, its climate, and what was measured."""
    maps: SequenceMaps


def measure_frame(image: Pixels, valid: NDArray[np.bool_] | None = None) -> FrameMeasures:
    """Read an image, uint8 ``(H, W, 3)``, or the valid pixels of it."""
    found = land_indices(image, valid)
    land_frac = float(land_mask(image)[... if valid is None else valid].mean())
    return FrameMeasures(found.greenness, found.snow_frac, land_frac, found.has_land)


def measure_sequence(folder: SequenceFolder) -> Measured:
    """Read every frame of a sequence.

    Raises:
        DataError: If frames are missing or damaged, or differ in size from the start tile.
    """
    folder.require_complete()
    image, valid = folder.read_start(), folder.read_start_valid()
    start, totals = measure_frame(image, valid), _Totals(folder.plan, image, valid)
    rows = [
        {"scenario": timeline.name, "member": member, "month": record.month}
        | _climate(folder.plan, timeline.name, position)
        | _measures(frame, image, valid, start)
        for number, timeline in enumerate(folder.plan.timelines)
        for position, record in enumerate(timeline.records)
        for member, frame in totals.add_month(folder, number, record)
    ]
    return Measured(start, pd.DataFrame(rows), totals.means())


def ensemble_table(frames: pd.DataFrame) -> pd.DataFrame:
    """Mean and spread over the members of each scenario and month.

    Returns:
        Index ``(scenario, month)`` in the order of the frames; for each of `MEASURED` the columns
        ``_mean``, ``_std`` (NaN for one member), ``_min`` and ``_max``, and ``members``.
    """
    groups = frames.groupby(["scenario", "month"], sort=False)
    table = groups[list(MEASURED)].agg(["mean", "std", "min", "max"])
    table.columns = ["_".join(pair) for pair in table.columns]
    return table.assign(members=groups.size())


def season_means(frames: pd.DataFrame, columns: Sequence[str]) -> pd.DataFrame:
    """Mean of each scenario, member and calendar month (1 to 12), over years."""
    calendar = frames["month"].str[5:].astype(int).rename("calendar")
    return frames.groupby(["scenario", "member", calendar], sort=False)[list(columns)].mean()


def paired_differences(frames: pd.DataFrame, scenario: str, reference: str) -> pd.DataFrame:
    """Scenario less reference for each member: same noise, calendar months that both have.

    Returns:
        Index ``member``; columns of the climate variables, greenness and snow_frac.
    """
    means = season_means(frames, [*CLIMATE, "greenness", "snow_frac"])
    difference = pd.DataFrame(means.loc[scenario] - means.loc[reference])
    return difference.groupby("member").mean()


def write_measures(folder: SequenceFolder, measured: Measured) -> list[Path]:
    """Write `METRICS_FILE` and `ENSEMBLE_FILE`, each by an atomic rename."""
    told = measured.frames.assign(synthetic=True)
    tables = {METRICS_FILE: told, ENSEMBLE_FILE: ensemble_table(measured.frames).reset_index()}
    for name, table in tables.items():
        with replacing(folder.path / name) as temporary:
            table.to_csv(temporary, index=False, float_format="%.6g", lineterminator="\n")
    return [folder.path / name for name in tables]


def year_map(maps: Map) -> Map:
    """Mean over the seasons that there are: ``(..., groups, h, w)`` to ``(..., h, w)``.

    Seasons count alike, however many frames each has.
    """
    seasons = maps[..., : len(SEASONS), :, :]
    has_frames = np.isfinite(seasons).any(axis=(-2, -1), keepdims=True)
    total = np.where(has_frames, seasons, np.float32(0)).sum(axis=-3)
    num = has_frames.sum(axis=-3)
    return np.asarray(np.where(num > 0, total / np.maximum(num, 1), np.nan), np.float32)


def members_agree(differences: Map) -> NDArray[np.bool_]:
    """Where members agree on the sign of a difference.

    Args:
        differences: ``(members, h, w)``.

    Returns:
        ``(h, w)``: True where at least `MIN_AGREEMENT` of them have the sign of the mean.
    """
    sign = np.sign(differences.mean(axis=0))
    return np.asarray((np.sign(differences) == sign).mean(axis=0) >= MIN_AGREEMENT)


def periods(months: Sequence[str]) -> tuple[frozenset[str], frozenset[str]]:
    """Months of the first and of the last years, with the same calendar months in both.

    Args:
        months: ``YYYY-MM``, ascending.

    Returns:
        Of each calendar month as many from either end: half of its years, at most
        `MAX_PERIOD_YEARS`. Both are empty where no calendar month comes twice.
    """
    first: set[str] = set()
    last: set[str] = set()
    for calendar in {month[5:] for month in months}:
        own = [month for month in months if month[5:] == calendar]
        num = min(MAX_PERIOD_YEARS, len(own) // 2)
        first |= set(own[:num])
        last |= set(own[len(own) - num :])
    return frozenset(first), frozenset(last)


class _Totals:
    """Sums of maps while frames go by."""

    def __init__(self, plan: SequencePlan, start: Pixels, valid: NDArray[np.bool_]) -> None:
        height, width = start.shape[:2]
        self.plan, self.start_shape = plan, start.shape
        self.block_px = -(-max(height, width) // MAP_SIDE)
        self.blank = np.where(land_mask(start) | ~valid, 0, np.nan).astype(np.float32)
        shape = (len(plan.timelines), plan.members, len(GROUPS), *self._reduce(self.blank).shape)
        self.greenness, self.snow = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
        self.spreads = np.zeros((2, shape[0], *shape[2:]), np.float32)
        self.num = np.zeros((shape[0], len(GROUPS)), np.float32)
        self.periods = [periods(timeline.months) for timeline in plan.timelines]

    def add_month(
        self, folder: SequenceFolder, scenario: int, record: TileRecord
    ) -> Iterator[tuple[int, Pixels]]:
        """Read the members of a month, give each, and add all of them to the sums."""
        groups = self._groups(scenario, record)
        name = self.plan.timelines[scenario].name
        spread = _Spread(), _Spread()
        for member in range(self.plan.members):
            frame = folder.read(name, member, record.month)
            if frame.shape != self.start_shape:
                raise DataError(
                    f"{folder.frame_path(name, member, record.month)} has {frame.shape[0]} x "
                    f"{frame.shape[1]} px, the start tile {self.start_shape[0]} x "
                    f"{self.start_shape[1]} px. Remove it and make it again."
                )
            green = green_chromatic_coordinate(frame) + self.blank
            snow = snow_mask(frame) + self.blank
            self.greenness[scenario, member, groups] += self._reduce(green)
            self.snow[scenario, member, groups] += self._reduce(snow)
            spread[0].add(green)
            spread[1].add(frame.astype(np.float32))
            yield member, frame
        self.num[scenario, groups] += 1
        colour = np.sqrt(spread[1].variance().mean(axis=-1)) + self.blank
        for kind, values in enumerate((np.sqrt(spread[0].variance()), colour)):
            self.spreads[kind, scenario, groups] += self._reduce(values)

    def means(self) -> SequenceMaps:
        """Sums over their numbers of months."""
        num = np.where(self.num == 0, np.float32(np.nan), self.num)[..., None, None]
        names = tuple(timeline.name for timeline in self.plan.timelines)
        spreads = self.spreads / num
        return SequenceMaps(
            scenarios=names,
            greenness=np.asarray(self.greenness / num[:, None], np.float32),
            snow=np.asarray(self.snow / num[:, None], np.float32),
            greenness_spread=spreads[0],
            colour_spread=spreads[1],
            block_px=self.block_px,
        )

    def _groups(self, scenario: int, record: TileRecord) -> list[int]:
        """Positions in `GROUPS` that a month counts in."""
        first, last = self.periods[scenario]
        found = [(record.month_index + 1) % 12 // 3]
        found += [len(SEASONS)] if record.month in first else []
        return found + ([len(SEASONS) + 1] if record.month in last else [])

    def _reduce(self, values: Map) -> Map:
        """Mean over blocks of pixels; NaN where one of them is."""
        return np.asarray(Image.fromarray(np.float32(values)).reduce(self.block_px))


class _Spread:
    """Variance over arrays that come one after another, by sums of what differs from the first."""

    def __init__(self) -> None:
        self.num = 0

    def add(self, values: Map) -> None:
        """Take one more array."""
        if not self.num:
            self.first, self.sum, self.squares = values, *np.zeros((2, *values.shape), np.float32)
        difference = values - self.first
        self.sum += difference
        self.squares += difference**2
        self.num += 1

    def variance(self) -> Map:
        """Unbiased variance; NaN of a single array."""
        if self.num < 2:
            return np.full_like(self.first, np.nan)
        centred = self.squares - self.sum**2 / self.num
        return np.asarray(np.maximum(centred, 0) / (self.num - 1))


def _climate(plan: SequencePlan, scenario: str, position: int) -> dict[str, Any]:
    """Climate of a month, and how far it lies from what was trained on."""
    record = plan.timeline(scenario).records[position]
    supports = plan.support.get(scenario, ())
    support = (supports[position] if position < len(supports) else None) or {}
    climate = {name: getattr(record, name) for name in CLIMATE}
    return {name: np.nan if value is None else value for name, value in climate.items()} | {
        "is_outside": support.get("is_outside"),
        "support_percentile": support.get("percentile"),
    }


def _measures(
    frame: Pixels, start_image: Pixels, valid: NDArray[np.bool_], start: FrameMeasures
) -> dict[str, Any]:
    """Numbers of a frame, and what changed where the start tile shows its place."""
    seen = measure_frame(frame, valid)
    difference = np.abs(frame.astype(np.int16) - start_image)[valid]
    return vars(measure_frame(frame)) | {
        "greenness_change": seen.greenness - start.greenness,
        "snow_frac_change": seen.snow_frac - start.snow_frac,
        "colour_change": float(difference.mean()),
    }
