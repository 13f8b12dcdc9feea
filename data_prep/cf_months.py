"""From the time steps of one cell of a climate file to monthly means in the contract's units."""

import re
from typing import NamedTuple

import numpy as np

from data_prep.cf_time import Floats, Ints, TimeAxis
from data_prep.cf_units import Cleaned, Kind, clean
from ecomap.errors import DataError

MONTH_COMPLETE_FRAC = 0.9
"""Share of a month's steps that must be known for its mean."""
UNPHYSICAL_MAX_FRAC = 0.1
"""More values than these outside the limits of nature are no outliers: the units are wrong."""
WET_MIN = 0.02
"""Days whose largest amount is smaller (mm, MJ m-2) say nothing: packing noise reaches 0.005."""
FALL_FRAC = 0.02
"""A value below the one before by more than this share of the day's largest is a fall. What has
accumulated since 00 UTC does not fall, but for packing noise."""
ACCUMULATED_MAX_FRAC = 0.02
"""Share of wet days with a fall up to which values are taken to accumulate since 00 UTC."""
SEPARATE_MIN_FRAC = 0.5
"""Share from which on each value is of its own step. Between the two, neither is believed."""


class Monthly(NamedTuple):
    """Monthly means of one variable at one cell."""

    values: dict[int, float]
    """``12 * year + month - 1`` -> mean in the unit of the contract."""
    cleaned: Cleaned
    num_incomplete: int
    """Months of which steps are there, but fewer than `MONTH_COMPLETE_FRAC`."""
    reading: str
    """How amounts were read, in words; empty for rates."""
    assumed: str = ""
    """What was assumed of stamps that leave open which month they mean; else empty."""


def monthly_means(
    name: str, values: Floats, kind: Kind, *, axis: TimeAxis, methods: str, is_ecmwf: bool
) -> Monthly:
    """Make monthly means of the steps of one cell.

    Args:
        name: Climate variable.
        values: One per step, scaled by `cf_units.Measure`; NaN where not known.
        kind: What they are.
        axis: Times of the steps.
        methods: Attribute ``cell_methods``.
        is_ecmwf: Whether the variable is one whose period differs between ECMWF's products.

    Raises:
        DataError: If the period of amounts cannot be told, or too many values are unphysical.
    """
    rates, months, reading = _to_rates(values, kind, axis, methods, is_ecmwf)
    step = axis.step_days
    cleaned = clean(name, rates, step_days=step)
    num_known = int(np.isfinite(rates).sum())
    if cleaned.num_unphysical > UNPHYSICAL_MAX_FRAC * num_known:
        raise DataError(
            f"{axis.where} has {cleaned.num_unphysical} of {num_known} values that nature does not "
            f"have ({cleaned.lowest:g} to {cleaned.highest:g} as {name}); its units are not what "
            "they say. Correct the attribute 'units' in the file."
        )
    is_known = np.isfinite(cleaned.values)
    labels, place = np.unique(months, return_inverse=True)
    counts = np.bincount(place[is_known], minlength=labels.size)
    sums = np.bincount(place[is_known], cleaned.values[is_known], minlength=labels.size)
    needed = MONTH_COMPLETE_FRAC * axis.days_in(labels) / step - 1e-6
    is_full = counts >= needed
    means = {int(m): float(s / n) for m, s, n in zip(labels, sums, counts, strict=True) if n}
    full = {int(m): means[int(m)] for m in labels[is_full]}
    return Monthly(full, cleaned, int((~is_full).sum()), reading)


def _to_rates(
    values: Floats, kind: Kind, axis: TimeAxis, methods: str, is_ecmwf: bool
) -> tuple[Floats, Ints, str]:
    """Rates per day, the month of each, and how the values were read."""
    if kind == "rate":
        return values, axis.months(), ""
    if kind == "month_total":
        months = axis.months()
        return values / axis.days_in(months), months, "totals of the month"
    is_sum = bool(re.search(r"\btime:\s*sum\b", methods))
    if re.search(r"\btime:\s*mean\b", methods) and not (axis.is_monthly and is_ecmwf):
        raise DataError(
            f"{axis.where} has means of amounts (cell_methods {methods!r}), and not over which "
            "period each is. State a rate in its units, such as 'mm day-1'."
        )
    if axis.is_monthly:
        return _monthly_amounts(values, axis, is_sum, is_ecmwf)
    if axis.is_daily:
        if is_ecmwf and not is_sum and axis.bounds is None:
            raise DataError(
                f"{axis.where} has one amount a day, and not over which period: an hour (ERA5), or "
                "the day before (ERA5-Land at 00 UTC). Set its units to 'm day-1' or 'J m-2 day-1' "
                "if it is of the whole day."
            )
        return values, axis.months(), "totals of the day"
    return _part_day_amounts(values, axis, is_ecmwf)


def _monthly_amounts(
    values: Floats, axis: TimeAxis, is_sum: bool, is_ecmwf: bool
) -> tuple[Floats, Ints, str]:
    months = axis.months()
    if is_ecmwf and not is_sum:
        return values, months, "means per day (ECMWF monthly means)"
    if not is_sum and axis.bounds is None:
        raise DataError(
            f"{axis.where} has one amount a month, and not over which period: the month or a day. "
            "Set its units, such as 'mm month-1' or 'mm day-1'."
        )
    return values / axis.days_in(months), months, "totals of the month"


def _part_day_amounts(values: Floats, axis: TimeAxis, is_ecmwf: bool) -> tuple[Floats, Ints, str]:
    """Rates of amounts of each step, or since 00 UTC; both are stamped at their end."""
    step = axis.step_days
    if axis.bounds is not None:
        widths = axis.bounds[:, 1] - axis.bounds[:, 0]
        if np.ptp(widths) <= 0.01 * step:
            return values / float(np.median(widths)), axis.months(), "amounts of each step"
        axis = TimeAxis(axis.bounds[:, 1], None, axis.calendar, step, axis.where)
        is_accumulated = True
    else:
        is_accumulated = _is_accumulated(values, axis)
    if is_accumulated:
        added = _increments(values, axis)
        return added / step, axis.months(-step / 2), "accumulated since 00 UTC"
    if is_ecmwf and step > 1.01 / 24:
        raise DataError(
            f"{axis.where} has an amount every {24 * step:g} hours, and not over how many of them "
            "each is. Use hourly values, or a file with time bounds."
        )
    return values / step, axis.months(-step / 2), "amounts of each step"


def _day_of(axis: TimeAxis) -> Ints:
    """Day in which each step ends; midnight ends a day."""
    return np.ceil(axis.days - 1e-4).astype(np.int64)


def _is_accumulated(values: Floats, axis: TimeAxis) -> bool:
    """Whether values grow within each day, as sums since 00 UTC do."""
    day = _day_of(axis)
    starts = np.flatnonzero(np.diff(day, prepend=day[0] - 1))
    peaks = np.fmax.reduceat(values, starts)
    largest = np.repeat(peaks, np.diff([*starts, day.size]))
    change = np.diff(values, prepend=np.nan)
    change[starts] = np.nan
    is_fall = change < -FALL_FRAC * largest
    is_wet = peaks >= WET_MIN
    if not is_wet.any():
        return True
    share = float(np.logical_or.reduceat(is_fall, starts)[is_wet].mean())
    if ACCUMULATED_MAX_FRAC < share < SEPARATE_MIN_FRAC:
        raise DataError(
            f"{axis.where} has amounts of which it cannot be told whether each is of its own step "
            f"or since 00 UTC: they fall in {share:.0%} of the days. State a rate, such as 'mm "
            "day-1', or give time bounds."
        )
    return share <= ACCUMULATED_MAX_FRAC


def _increments(values: Floats, axis: TimeAxis) -> Floats:
    """What was added in each step to sums since 00 UTC; NaN after a gap."""
    step, day = axis.step_days or 1.0, _day_of(axis)
    is_first = np.abs(axis.days - (day - 1) - step) < 0.01 * step
    is_next = np.abs(np.diff(axis.days, prepend=np.nan) - step) < 0.01 * step
    added = np.where(is_next, np.diff(values, prepend=np.nan), np.nan)
    return np.where(is_first, values, added)
