"""The course of a scenario's climate over the months that are shown and the year before them.

Every kind of scenario ends in a `Course`: monthly values, normals, and what must be said of them.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from data_prep.climate_series import ClimateSeries
from data_prep.prep_config import month_range
from data_prep.scenario_base import NORMALS_OF, Base, Normals, base_facts, source_of
from data_prep.scenario_config import PlaceConfig, Scenario
from data_prep.series_files import series_notes
from ecomap.errors import RequestError
from ecomap.normals import SOURCE, footprint_of, open_normals
from ecomap.schema import CLIMATE, HISTORY_MONTHS, ClimateKind, TileRecord


@dataclass(frozen=True, kw_only=True)
class Ask:
    """What a scenario is asked for."""

    scenario: Scenario
    start: TileRecord
    months: tuple[str, ...]
    """Shown, ascending."""
    series: ClimateSeries | None
    base: Base

    @property
    def name(self) -> str:
        """Scenario, for messages."""
        return f"Scenario {self.scenario.name}"

    @property
    def span(self) -> tuple[str, ...]:
        """All months from the year before the first shown to the last shown."""
        first = self.months[0]
        return month_range(f"{int(first[:4]) - 1:04d}{first[4:]}", self.months[-1])


@dataclass(frozen=True, kw_only=True)
class Course:
    """A climate over time."""

    series: ClimateSeries
    normals: Callable[[str], Normals]
    """Month -> normals of its time."""
    kind: ClimateKind
    source: str
    """Where it comes from, as records state it."""
    facts: dict[str, Any] = field(default_factory=dict)
    """JSON values alone."""
    notes: tuple[str, ...] = ()


def normal_course(ask: Ask, base: Base | None = None) -> Course:
    """Long-term means, every year.

    Args:
        ask: What is asked.
        base: Whose normals; by default those of the place.
    """
    base = base or ask.base
    months = ask.span
    series = ClimateSeries(
        lat=ask.start.lat,
        lon=ask.start.lon,
        cell_id="normals",
        months=months,
        values={
            name: tuple(values[int(month[5:]) - 1] for month in months)
            for name, values in base.normals.items()
        },
        source=base.source,
    )
    return Course(
        series=series,
        normals=lambda month: base.normals,
        kind="normal",
        source=base.source,
        facts=base_facts(base),
        notes=tuple(
            f"{CLIMATE[name].label} has no normals here and is not known."
            for name in CLIMATE
            if name not in base.normals
        ),
    )


def observed_course(ask: Ask) -> Course:
    """A series as it is, or the start's own months where none is given.

    Raises:
        RequestError: If months are asked for that it does not have.
    """
    series = ask.series or _own_series(ask)
    hint = "Ask for months inside it, or take a scenario of kind normal, analogue or cmip6."
    check_covers(ask, series, ask.months, hint)
    return Course(
        series=part_of(series, ask.span),
        normals=lambda month: ask.base.normals,
        kind="observed",
        source=source_of(series, ask.base),
        facts=series_facts(series) | base_facts(ask.base),
        notes=(*_notes_of(ask, series), *ask.base.notes),
    )


def series_facts(series: ClimateSeries) -> dict[str, Any]:
    """What a series is, for provenance."""
    return {
        "climate": series.source,
        "climate_period": [series.months[0], series.months[-1]],
        "climate_place": [series.lat, series.lon],
        "climate_attribution": series.attribution,
        "climate_attributes": dict(series.attributes),
    }


def _notes_of(ask: Ask, series: ClimateSeries) -> list[str]:
    """Of a series; and that the start's own climate is another product's."""
    notes = series_notes(series, ask.start.lat, ask.start.lon)
    told = (ask.start.climate_source or "a source not stated").partition(NORMALS_OF)[0]
    if series.source != told:
        notes.append(
            f"The climate of the start is of {told}, that of the months of {series.source}: a part "
            "of the change is one of products."
        )
    return notes


def _own_series(ask: Ask) -> ClimateSeries:
    """The start's month and the year before it, as its record knows them."""
    start = ask.start
    values = {
        name: (*(getattr(start, f"{name}_history") or (None,) * HISTORY_MONTHS), here)
        for name in CLIMATE
        if (here := getattr(start, name)) is not None
    }
    if start.climate_kind != "observed" or not values:
        raise RequestError(
            f"{ask.name} needs a series of months, and the start knows long-term means alone. Give "
            "one with --climate or as climate: in the scenario, or take kind: normal."
        )
    first = f"{int(start.month[:4]) - 1:04d}{start.month[4:]}"
    return ClimateSeries(
        lat=start.lat,
        lon=start.lon,
        cell_id="start",
        months=month_range(first, start.month),
        values=values,
        source=(start.climate_source or "the start's record").partition(NORMALS_OF)[0],
    )


def part_of(series: ClimateSeries, months: tuple[str, ...]) -> ClimateSeries:
    """Those of some ascending months that a series has."""
    kept = tuple(m for m in months if series.months[0] <= m <= series.months[-1])
    values = {name: tuple(series.value(name, m) for m in kept) for name in series.values}
    return replace(series, months=kept, values=values)


def has_months(series: ClimateSeries, months: tuple[str, ...]) -> bool:
    """Whether all of some ascending months lie in a series."""
    return series.months[0] <= months[0] and months[-1] <= series.months[-1]


def check_covers(ask: Ask, series: ClimateSeries, months: tuple[str, ...], hint: str) -> None:
    """Refuse months outside a series.

    Args:
        ask: What is asked.
        series: Must have the months.
        months: Ascending.
        hint: What to do, one sentence.

    Raises:
        RequestError: With the range of the series.
    """
    if not has_months(series, months):
        outside = [m for m in months if not series.months[0] <= m <= series.months[-1]]
        more = f" and {len(outside) - 1} more months" if outside[1:] else ""
        raise RequestError(
            f"{ask.name} needs {outside[0]}{more}, and {series.source} has {series.months[0]} to "
            f"{series.months[-1]}. {hint}"
        )


def analogue_course(ask: Ask) -> Course:
    """A year of a series again and again, or the normals of another place.

    Normals of the other hemisphere are shifted by six months, so that summer stays summer.

    Raises:
        RequestError: If there is no series, or it lacks the year.
    """
    place, year = ask.scenario.place, ask.scenario.year
    if place is not None:
        return _place_course(ask, place)
    if ask.series is None or year is None:
        raise RequestError(
            f"{ask.name} repeats {year} of a series, and none is given. Give one with --climate or "
            "as climate: in the scenario, or place: {lat, lon} in place of year."
        )
    series, first_year = ask.series, int(ask.months[0][:4])
    whole_year = month_range(f"{year:04d}-01", f"{year:04d}-12")
    check_covers(ask, series, whole_year, "Choose a year that it has in full.")
    # The year before the first one shown is the one before the analogue: it carried its drought.
    years = {month: year - (int(month[:4]) < first_year) for month in ask.span}
    values = {
        name: tuple(series.value(name, f"{years[m]:04d}{m[4:]}") for m in ask.span)
        for name in series.values
    }
    return Course(
        series=replace(series, months=ask.span, values=values),
        normals=lambda month: ask.base.normals,
        kind="observed",
        source=source_of(series, ask.base, f", months of {year}"),
        facts=series_facts(series) | base_facts(ask.base) | {"analogue_year": year},
        notes=(*_notes_of(ask, series), *ask.base.notes),
    )


def _place_course(ask: Ask, place: PlaceConfig) -> Course:
    """Normals of another place, with the seasons of the start."""
    moved = ask.start.model_copy(update={"lat": place.lat, "lon": place.lon})
    found = open_normals().climate(place.lat, place.lon, footprint_of(moved))
    where = f"({place.lat:g}, {place.lon:g})"
    shift = 6 if place.lat * ask.start.lat < 0 else 0
    normals = {name: tuple(np.roll(values, shift).tolist()) for name, values in found.items()}
    source = f"{SOURCE} of {where}" + ", shifted by six months" * bool(shift)
    course = normal_course(ask, Base(normals=normals, source=source, years=None))
    notes = course.notes
    if shift:
        said = (
            f"{where} lies on the other hemisphere: its normals are shifted by six months, so that "
            "summer stays summer."
        )
        notes = (said, *notes)
    facts = course.facts | {"place": [place.lat, place.lon], "place_shift_months": shift}
    return replace(course, facts=facts, notes=notes)
