"""Times of the steps of climate files, in the files' own calendar.

A model year may have 360 or 365 days. Days are counted and months are filled in that calendar, and
only then is a month called ``YYYY-MM``: dates are never moved from one calendar to another.
"""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ecomap.errors import DataError

REFERENCE = "days since 1850-01-01"
"""Times are kept as days since then, in the calendar of the file."""

MONTH_DAYS = (27.0, 32.0)
"""Distance of two monthly steps, days."""

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class TimeAxis:
    """Times of the steps of one or several files."""

    days: Floats
    """Stamps: days since `REFERENCE`, ascending, each once."""
    bounds: Floats | None
    """Start and end of each step ``(N, 2)``, where the file has them."""
    calendar: str
    step_days: float
    """Length of a step: 30 for months, else 1 or less; NaN if there is one step alone."""
    where: str
    """Variable and file, for messages."""

    @property
    def is_monthly(self) -> bool:
        """Whether each step is a month."""
        return self.step_days > 1.5

    @property
    def is_daily(self) -> bool:
        """Whether each step is a day."""
        return 0.99 < self.step_days < 1.5

    @property
    def keys(self) -> Floats | Ints:
        """What tells steps apart in several files: month, day, or exact time."""
        if self.is_monthly:
            return self.months()
        return np.floor(self.days) if self.is_daily else self.days

    @cached_property
    def middles(self) -> Floats:
        """Times that decide to which month a step belongs: middle of its bounds, or its stamp."""
        return self.days if self.bounds is None else self.bounds.mean(axis=1)

    @property
    def is_at_starts(self) -> bool:
        """Whether months are stamped 00:00 of a first day alone: the first or the next month's."""
        import cftime

        if self.bounds is not None or not self.is_monthly:
            return False
        dates = cftime.num2date(self.days, REFERENCE, self.calendar)
        return all((d.day, d.hour, d.minute) == (1, 0, 0) for d in dates)

    def months(self, shift_days: float = 0.0) -> Ints:
        """Month of each step, ``12 * year + month - 1``, of times later by some days."""
        import cftime

        dates = cftime.num2date(self.middles + shift_days, REFERENCE, self.calendar)
        return np.array([12 * d.year + d.month - 1 for d in dates], np.int64)

    def days_in(self, months: Ints) -> Ints:
        """Days of months in the calendar."""
        import cftime

        lengths = {
            int(m): cftime.datetime(int(m) // 12, int(m) % 12 + 1, 1, calendar=self.calendar)
            for m in np.unique(months)
        }
        return np.array([lengths[int(m)].daysinmonth for m in months], np.int64)


def read_times(dataset: Any, name: str, *, where: str) -> TimeAxis:
    """Read the times of a dimension of a dataset that was opened without decoding times.

    Raises:
        DataError: If units or calendar are missing or unknown, times do not ascend, or steps are
            neither months nor days nor regular parts of a day.
    """
    stamps = dataset[name]
    if "climatology" in stamps.attrs:
        raise DataError(f"{where} is a climatology; a series with its years is needed.")
    calendar = str(stamps.attrs.get("calendar", ""))
    units = str(stamps.attrs.get("units"))
    days = _to_days(stamps.values, units, calendar, where=where)
    if days is None:
        raise DataError(f"{where} has times that are missing; the file is damaged.")
    if (np.diff(days) <= 0).any():
        raise DataError(f"{where} has times that do not ascend; sort it, and leave out repeats.")
    bounds, key = None, stamps.attrs.get("bounds")
    if key in dataset.variables and dataset[key].shape == (days.size, 2):
        units = str(dataset[key].attrs.get("units", units))
        bounds = _to_days(dataset[key].values, units, calendar, where=where)
    step = step_of(days, bounds, str(dataset.attrs.get("frequency")), where=where)
    return TimeAxis(days, bounds, calendar, step, where)


def _to_days(values: Any, units: str, calendar: str, *, where: str) -> Floats | None:
    """Days since `REFERENCE`; None where some are missing."""
    import cftime

    if not calendar:
        raise DataError(
            f"{where} does not say which calendar its times have; climate models differ in it. Set "
            "the attribute 'calendar' of the time variable, for instance 'ncatted -a "
            "calendar,time,c,c,standard FILE' for observations."
        )
    values = np.asarray(values, np.float64)
    if not np.isfinite(values).all():
        return None
    try:
        dates = cftime.num2date(values, units, calendar)
        return np.asarray(np.round(cftime.date2num(dates, REFERENCE, calendar), 8), np.float64)
    except (ValueError, OverflowError) as error:
        raise DataError(
            f"{where} has times of the units {units!r} in the calendar {calendar!r}, which cannot "
            f"be read: {error}."
        ) from None


def step_of(days: Floats, bounds: Floats | None, frequency: str, *, where: str) -> float:
    """Length of a step: distance of the stamps, else width of the bounds, else what is stated.

    Args:
        days: Stamps, ascending.
        bounds: Start and end of each step, where known.
        frequency: Attribute of CMIP files, such as ``mon``.
        where: Variable and file, for messages.

    Returns:
        Days: 30 for months, 1 or a part of it; NaN where one step stands alone and says nothing.

    Raises:
        DataError: If it is another length.
    """
    if days.size > 1:
        step = float(np.median(np.diff(days)))
    elif bounds is not None:
        step = float(bounds[0, 1] - bounds[0, 0])
    else:
        return {"mon": 30.0, "day": 1.0}.get(frequency, np.nan)
    if MONTH_DAYS[0] <= step <= MONTH_DAYS[1]:
        return 30.0
    parts = round(1 / step) if 0 < step < 1.5 else 0
    if not parts or abs(parts * step - 1) > 0.01:
        raise DataError(
            f"{where} has steps of {step:g} days; monthly and daily values and regular parts of a "
            "day are understood."
        )
    return 1 / parts


class Joined(NamedTuple):
    """The times of several files as one axis."""

    axis: TimeAxis
    positions: list[Ints]
    """Of each file: where its steps lie on the axis."""


def join_times(axes: list[TimeAxis]) -> Joined:
    """Put the times of files of one variable together; a step may occur in several files.

    Raises:
        DataError: If calendars or steps differ, or steps are irregular.
    """
    first = axes[0]
    _check_alike(axes)
    days = np.unique(np.concatenate([axis.days for axis in axes]))
    known = [axis.step_days for axis in axes if np.isfinite(axis.step_days)]
    step = known[0] if known else step_of(days, None, "", where=first.where)
    if not np.isfinite(step):
        raise DataError(f"{first.where} has a single time and no bounds; its step is not known.")
    axes = [replace(axis, step_days=step) for axis in axes]
    if any(axis.bounds is None for axis in axes) and axes[0].is_monthly:
        # Where not all have bounds, these are kept as stamps in the middle of their months.
        axes = [replace(axis, days=axis.middles, bounds=None) for axis in axes]
    keys = [axis.keys for axis in axes]
    for axis, key in zip(axes, keys, strict=True):
        if np.unique(key).size < key.size:
            raise DataError(
                f"{axis.where} has two values in one {'month' if axis.is_monthly else 'day'}; its "
                "steps are irregular."
            )
    _, chosen, place = np.unique(np.concatenate(keys), return_index=True, return_inverse=True)
    bounds = None
    if all(axis.bounds is not None for axis in axes):
        bounds = np.concatenate([axis.bounds for axis in axes if axis.bounds is not None])[chosen]
    stamps = np.concatenate([axis.days for axis in axes])[chosen]
    joined = replace(first, days=stamps, bounds=bounds, step_days=step)
    _check_regular(joined)
    ends = np.cumsum([key.size for key in keys])
    return Joined(joined, np.split(place.ravel(), ends[:-1]))


def _check_alike(axes: list[TimeAxis]) -> None:
    for what, found in (
        ("calendars", {_same_calendar(axis.calendar): axis.where for axis in axes}),
        ("steps", {f"{a.step_days:g} days": a.where for a in axes if np.isfinite(a.step_days)}),
    ):
        if len(found) > 1:
            (one, here), (two, there) = list(found.items())[:2]
            raise DataError(
                f"{here} and {there} have the {what} {one} and {two}; files of one variable must "
                "agree. Leave out one of them."
            )


def _same_calendar(calendar: str) -> str:
    """One name per calendar; the Gregorian ones differ only before 1582."""
    names = {"gregorian": "standard", "proleptic_gregorian": "standard", "365_day": "noleap"}
    return names.get(calendar.lower(), calendar.lower())


def _check_regular(axis: TimeAxis) -> None:
    """Refuse parts of a day that do not lie on one comb; months and days have their own check."""
    if axis.is_monthly or axis.is_daily:
        return
    gaps = np.diff(axis.days) / axis.step_days
    odd = np.abs(gaps - np.round(gaps)) > 0.01
    if odd.any():
        raise DataError(
            f"{axis.where} has steps of {24 * axis.step_days:g} hours, but one of "
            f"{24 * axis.step_days * gaps[odd][0]:g}; expected regular steps, apart from gaps."
        )
