"""Response of images to climate: what changes when nothing else does, beside what is observed."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ecomap import metrics
from ecomap.card import Door
from ecomap.climate import apply_changes, parse_change
from ecomap.heldout_data import (
    SEED_STRIDE,
    IndexName,
    Readings,
    Report,
    Sample,
    Settings,
    Values,
    read_indices,
)
from ecomap.image_store import ImageMaker, Images
from ecomap.places import block_of, choose_cases
from ecomap.schema import CLIMATE, LandCover, TileRecord

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
    """One question about climate: which records, which change, which index, which sign."""

    name: str
    index: IndexName
    variable: str
    changes: tuple[str, ...]
    """In the words of `ecomap.climate.parse_change`, from least to most."""
    expected_sign: Literal[-1, 1]
    unit: str
    level: Callable[[TileRecord], float]
    """Climate that slopes of a sustained change are taken against."""
    level_words: str
    is_case: Callable[[TileRecord], bool]
    rule: str
    tolerance: float
    """A case whose index moves by less over its images does not respond."""


def annual_precipitation(record: TileRecord) -> float:
    """Mean of the twelve normals of precipitation, mm/day."""
    return float(np.mean(np.array(record.precipitation_mm_day_normals, np.float64)))


def _month_temperature(record: TileRecord) -> float:
    """°C; NaN, which fulfils no rule, where it is not known."""
    return float("nan") if record.temperature_c is None else record.temperature_c


def is_dry_case(record: TileRecord) -> bool:
    """A growing month of a dry class, or of a place with less than 600 mm of rain a year.

    Rainless places are left out: a factor changes nothing there.
    """
    rain = annual_precipitation(record)
    is_dry = record.land_cover in DRY_CLASSES or rain < DRY_MM_DAY
    return is_dry and rain > 0 and _month_temperature(record) >= GROWING_C


def is_cold_case(record: TileRecord) -> bool:
    """A month near thaw of a place with frost; permanent ice is left out."""
    coldest = min(value for value in record.temperature_c_normals or () if value is not None)
    is_thaw = THAW_C[0] <= _month_temperature(record) <= THAW_C[1]
    return coldest < 0 and is_thaw and record.land_cover != LandCover.SNOW_AND_ICE


RESPONSES = (
    Response(
        name="greenness_to_precipitation",
        index="greenness",
        variable="precipitation_mm_day",
        changes=("x0.5", "x1", "x1.5"),
        expected_sign=1,
        unit="GCC per mm/day",
        level=annual_precipitation,
        level_words="annual mean precipitation",
        is_case=is_dry_case,
        rule="months of 5 °C or more; shrublands, savannas, grasslands, barren land, or less than "
        "600 mm a year",
        tolerance=0.001,
    ),
    Response(
        name="snow_to_temperature",
        index="snow",
        variable="temperature_c",
        changes=("-4", "+0", "+4"),
        expected_sign=-1,
        unit="land fraction per °C",
        level=_month_temperature,
        level_words="temperature of the month",
        is_case=is_cold_case,
        rule="months of -10 to 5 °C at places whose coldest month is below 0 °C; no permanent ice",
        tolerance=0.01,
    ),
)


def respond(
    response: Response,
    sample: Sample,
    settings: Settings,
    made: Mapping[str, Images],
    maker: ImageMaker,
    doors: tuple[Door, ...],
) -> Report:
    """Generated and observed response to one climate variable."""
    pool = [r for place in sample.places["test"] for r in place.values() if response.is_case(r)]
    cases = choose_cases(pool, settings.num_cases, seed=settings.seed)
    report: Report = {
        "variable": response.variable,
        "index": response.index,
        "unit": response.unit,
        "changes": list(response.changes),
        "expected_sign": response.expected_sign,
        "rule": response.rule,
        "level": response.level_words,
        "num_possible_cases": len(pool),
        "observed": _observed_response(response, sample, settings),
        "seasonal": _seasonal_response(response, sample, settings, made),
    }
    if not cases:
        return report | {"generated": None}
    variable = CLIMATE[response.variable]
    changes = [{variable.name: parse_change(text, variable)} for text in response.changes]
    changed = [apply_changes(case, change) for case in cases for change in changes]
    first_seed = settings.seed + 2 * SEED_STRIDE
    seeds = [first_seed + index // len(changes) for index in range(len(changed))]
    readings = read_indices(maker(response.name, changed, seeds, doors))
    shape = (len(cases), len(changes))
    x = np.array([response.level(record) for record in changed]).reshape(shape)
    y = getattr(readings, response.index).reshape(shape)
    return report | {"generated": _generated_response(response, settings, cases, x, y)}


def _generated_response(
    response: Response, settings: Settings, cases: Sequence[TileRecord], x: Values, y: Values
) -> Report:
    """Slope and sign over cases ``(cases, changes)``, of all and of each land cover."""
    centred = (values - values.mean(axis=1, keepdims=True) for values in (x, y))
    slopes = np.array([metrics.slope_through_origin(*case) for case in zip(*centred, strict=True)])
    responds = np.ptp(y, axis=1) >= response.tolerance
    expected = responds & (np.sign(slopes) == response.expected_sign)
    blocks = [block_of(case) for case in cases]
    low, high = metrics.bootstrap_interval(
        expected, blocks, lambda drawn: float(drawn.mean()), num=settings.num_draws,
        seed=settings.seed,
    )  # fmt: skip
    labels = np.array([case.land_cover.label if case.land_cover else "" for case in cases])

    def slope_of(chosen: NDArray[np.bool_]) -> Report:
        index = np.flatnonzero(chosen)
        strata = [str(i) for i in index for _ in response.changes]
        repeated = [blocks[i] for i in index for _ in response.changes]
        return slope_within(x[chosen].ravel(), y[chosen].ravel(), strata, repeated, settings)

    return {
        "num_cases": len(cases),
        "num_images": y.size,
        "mean_index": y.mean(0).tolist(),
        **slope_of(np.ones(len(cases), bool)),
        "median_case_slope": float(np.median(slopes)),
        "expected_sign": {"fraction": float(expected.mean()), "low": low, "high": high},
        "opposite_sign_fraction": float((responds & ~expected).mean()),
        "no_response_fraction": float((~responds).mean()),
        "by_land_cover": {
            label: slope_of(labels == label)
            | {
                "num_cases": int((labels == label).sum()),
                "expected_sign_fraction": float(expected[labels == label].mean()),
            }
            for label in sorted(set(labels.tolist()))
        },
    }


def _observed_response(response: Response, sample: Sample, settings: Settings) -> Report:
    """Slopes of real frames: over months within held-out places, and across places of a class."""
    test = [r for place in sample.places["test"] for r in place.values() if response.is_case(r)]
    everywhere = [
        record
        for group in sample.places.values()
        for place in group
        for record in place.values()
        if response.is_case(record)
    ]
    return {
        "across_places_of_a_class": slope_within(
            np.array([response.level(record) for record in everywhere]),
            getattr(sample.real(everywhere), response.index),
            [f"{record.land_cover}/{record.month_index}" for record in everywhere],
            [block_of(record) for record in everywhere],
            settings,
        ),
        "over_months_within_places": _slope_over_months(
            response, test, sample.real(test), settings
        ),
    }


def _seasonal_response(
    response: Response, sample: Sample, settings: Settings, made: Mapping[str, Images]
) -> Report:
    """Slope over months within the scored places, real and under each condition."""
    is_case = np.array([response.is_case(record) for record in sample.records])
    records = [r for r, counts in zip(sample.records, is_case, strict=True) if counts]
    readings = {"real": sample.real(records)}
    readings |= {name: read_indices(images[is_case]) for name, images in made.items()}
    return {
        name: _slope_over_months(response, records, reading, settings)
        for name, reading in readings.items()
    }


def _slope_over_months(
    response: Response, records: Sequence[TileRecord], readings: Readings, settings: Settings
) -> Report:
    """Slope of an index against the month's own climate, inside places."""
    return slope_within(
        np.array([getattr(record, response.variable) for record in records], np.float64),
        getattr(readings, response.index),
        [record.place_id for record in records],
        [block_of(record) for record in records],
        settings,
    )


def slope_within(
    x: Values, y: Values, strata: Sequence[str], blocks: Sequence[str], settings: Settings
) -> Report:
    """Slope inside strata with its 95 % interval over blocks and the numbers behind it.

    What differs between strata for any reason does not enter: `ecomap.metrics.slope_through_origin`
    of each value minus the mean of its stratum.

    Returns:
        ``slope``, ``low``, ``high`` in units of y per unit of x (``None`` without observations);
        ``num`` observations, ``num_strata`` of two or more observations, ``num_blocks``.
    """
    counts = {
        "num": len(x),
        "num_strata": sum(size > 1 for size in Counter(strata).values()),
        "num_blocks": len(set(blocks)),
    }
    if not len(x):
        return {"slope": None, "low": None, "high": None, **counts}
    pairs = np.stack([metrics.group_anomaly(x, strata), metrics.group_anomaly(y, strata)], axis=1)

    low, high = metrics.bootstrap_interval(
        pairs,
        blocks,
        lambda drawn: metrics.slope_through_origin(drawn[:, 0], drawn[:, 1]),
        num=settings.num_draws,
        seed=settings.seed,
    )
    slope = metrics.slope_through_origin(pairs[:, 0], pairs[:, 1])
    return {"slope": slope, "low": low, "high": high, **counts}
