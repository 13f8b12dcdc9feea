"""Months as users write them: those that a sequence shows, and those in which a change holds."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from data_prep.prep_config import month_range
from ecomap.errors import RequestError
from ecomap.schema import MONTH_PATTERN, months_between

MAX_MONTHS = 1200
"""Months of one sequence: a century."""
FIRST_MONTH = "0100-01"
"""Earlier ones are slips; the year before the first month must exist too."""


@dataclass(frozen=True)
class ChangeMonths:
    """Months in which a change holds: a period, or calendar months of every year."""

    first: str
    """``YYYY-MM``, or ``MM`` of every year."""
    last: str
    """Likewise, included; of calendar months it may lie before the first, across the new year."""

    def __contains__(self, month: object) -> bool:
        """Whether a month ``YYYY-MM`` is one of them."""
        text = str(month)[-len(self.first) :]
        if self.first <= self.last:
            return self.first <= text <= self.last
        return text >= self.first or text <= self.last


def parse_months(text: str, *, every: int = 1) -> list[str]:
    """Months that are shown.

    Args:
        text: ``2030-01..2060-12`` (both included), ``2030..2060`` (whole years), one month, or
            several of these with commas between.
        every: Of each period, every so-many-th month, the first included.

    Raises:
        RequestError: If the text has none of these forms, a period is empty, months are out of
            order or repeated, or there are more than `MAX_MONTHS`.

    Example:
        >>> parse_months("2030-01..2030-12", every=3)
        ['2030-01', '2030-04', '2030-07', '2030-10']
    """
    if every < 1:
        raise RequestError(f"every is {every}; expected 1 or more months from one to the next.")
    periods = [_period(part.strip(), text) for part in text.split(",")]
    count = sum(months_between(first, last) // every + 1 for first, last in periods)
    _check_count(count)
    months = [month for first, last in periods for month in month_range(first, last)[::every]]
    check_months(months)
    return months


def check_months(months: Sequence[str]) -> None:
    """Refuse months that are none, out of order, repeated, or too many.

    Raises:
        RequestError: Which of these.
    """
    if not months:
        raise RequestError("No months are asked for; expected one or more, such as 2030-01.")
    _check_count(len(months))
    if broken := [month for month in months if not re.fullmatch(MONTH_PATTERN, month)]:
        raise RequestError(f"{broken[0]!r} is no month; expected YYYY-MM.")
    if min(months) < FIRST_MONTH:
        raise RequestError(f"{min(months)!r} lies before {FIRST_MONTH}; expected a year of now.")
    for before, month in pairwise(months):
        if months_between(before, month) < 1:
            raise RequestError(
                f"The month {month} is asked for after {before}. Expected months in order, each "
                "once."
            )


def _check_count(count: int) -> None:
    if count > MAX_MONTHS:
        raise RequestError(
            f"{count:,} months are asked for; a sequence has {MAX_MONTHS:,} at most. Ask for a "
            "shorter period, or for every third month."
        )


def _period(part: str, text: str) -> tuple[str, str]:
    """First and last month of a part of a text."""
    first, dots, last = part.partition("..")
    last = last if dots else first
    year = r"\d{4}"
    if re.fullmatch(year, first.strip()) and re.fullmatch(year, last.strip()):
        first, last = f"{first.strip()}-01", f"{last.strip()}-12"
    first, last = first.strip(), last.strip()
    if not (re.fullmatch(MONTH_PATTERN, first) and re.fullmatch(MONTH_PATTERN, last)):
        raise RequestError(
            f"The months {text!r} are not understood. Expected 2030-01..2060-12, 2030..2060, or a "
            "month such as 2030-07."
        )
    if months_between(first, last) < 0:
        raise RequestError(f"The period {first}..{last} is empty; its last month lies first.")
    return first, last


def parse_change_months(text: str) -> ChangeMonths:
    """Read ``2031-04..2031-09``, ``2031-04``, ``05..09`` or ``07``.

    Raises:
        ValueError: If the text has none of these forms.
    """
    first, dots, last = (part.strip() for part in text.partition(".."))
    last = last if dots else first
    calendar = r"0?[1-9]|1[0-2]"
    if re.fullmatch(calendar, first) and re.fullmatch(calendar, last):
        return ChangeMonths(f"{int(first):02d}", f"{int(last):02d}")
    whole = all(re.fullmatch(MONTH_PATTERN, month) for month in (first, last))
    if not whole or months_between(first, last) < 0:
        raise ValueError(
            "it must be a period such as 2031-04..2031-09, or months of every year such as 05..09"
        )
    return ChangeMonths(first, last)
