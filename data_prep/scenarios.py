"""From scenarios to timelines: the climate of a place in each month that a sequence shows.

    observed   a series as it is, or the start's own months
    normal     long-term means, every year
    delta      either of them, warmer or drier, for good or in some months
    analogue   a year of a series again and again, or the normals of another place
    cmip6      the change that a climate model projects, or the model's own months

Months that are thinned out are not shown, yet belong to the year before others.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from data_prep.climate_series import ClimateSeries
from data_prep.scenario_base import Normals, base_of, source_of
from data_prep.scenario_changes import changed
from data_prep.scenario_config import Scenario, read_scenario
from data_prep.scenario_courses import (
    Ask,
    Course,
    analogue_course,
    has_months,
    normal_course,
    observed_course,
)
from data_prep.scenario_models import model_course
from data_prep.scenario_months import MAX_MONTHS, check_months, parse_months
from data_prep.series_files import read_climate_file
from ecomap.errors import DataError, RequestError
from ecomap.schema import CLIMATE, TileRecord, make_record, unique
from ecomap.sequence import Timeline

__all__ = [
    "MAX_MONTHS",
    "Scenario",
    "build_timelines",
    "default_scenario",
    "parse_months",
    "read_climate_file",
    "read_scenario",
    "start_under",
]

OF_THE_FRAME: dict[str, Any] = {
    "acquired": None, "scene_ids": (), "processing_baseline": None, "digital_number_offset": None,
    "digital_number_offset_confidence": None, "bands": (), "reflectance_range": None, "spi": None,
    "sti": None, "cloud_frac": None, "nodata_frac": None, "snow_frac": None,
    "scene_snow_frac": None, "flags": (), "image_path": None, "window_px": None,
}  # fmt: skip
"""What was found on the start's frame, or is of its month: not so of a month to come."""


def default_scenario(series: ClimateSeries | None) -> Scenario:
    """What is shown where no scenario is given: the series, or without one the normals."""
    if series is None:
        return Scenario(name="normal", title="Long-term means", kind="normal")
    return Scenario(name="observed", title=f"As in {series.source}", kind="observed")


def build_timelines(
    start: TileRecord,
    scenarios: Sequence[Scenario],
    months: Sequence[str],
    *,
    series: ClimateSeries | None = None,
) -> list[Timeline]:
    """Put a place under the climate of each scenario.

    Args:
        start: The place, with the climate that the start tile is known to have.
        scenarios: Of distinct names; none for `default_scenario`.
        months: Shown, ``YYYY-MM``, ascending (`parse_months`).
        series: Climate of the place, for scenarios that name no file of their own.

    Returns:
        One timeline a scenario, in their order. Each record is the start in that month, with what
        is of its frame alone left out. What is not known is ``None``, and told in the notes.

    Raises:
        RequestError: If months are none, too many, repeated or out of order; a scenario comes
            twice, needs months or variables that are not there, or leaves what Earth has.
        DataError: If a file of a scenario cannot be read.
    """
    check_months(months)
    scenarios = list(scenarios) or [default_scenario(series)]
    names = [scenario.name for scenario in scenarios]
    if twice := [name for name in names if names.count(name) > 1]:
        raise RequestError(
            f"The scenario {twice[0]!r} is given twice. Give each its own name, by name: in its "
            "file."
        )
    files: dict[Any, ClimateSeries] = {}
    return [_timeline(_ask(start, one, tuple(months), series, files)) for one in scenarios]


def start_under(start: TileRecord, series: ClimateSeries) -> TileRecord:
    """The start under the climate that a series has in its month, where it has that month.

    A change from the start to a month is then one of climate, and not of products: the climate is
    that of an observed record of this month. Variables that the series does not have are unknown,
    whatever the start knew of them; their normals stay.

    Args:
        start: The start tile.
        series: Climate of its place.
    """
    if all(series.value(name, start.month) is None for name in series.values):
        return start
    base = base_of(start, series)
    fields = _climate(series, base.normals, start.month)
    told = {"climate_kind": "observed", "climate_source": source_of(series, base)}
    return make_record(start.model_dump() | fields | told, where="The start")


def _ask(
    start: TileRecord,
    scenario: Scenario,
    months: tuple[str, ...],
    series: ClimateSeries | None,
    files: dict[Any, ClimateSeries],
) -> Ask:
    """What a scenario is asked for, its own file read once for all scenarios that name it."""
    if scenario.climate is not None:
        key = (scenario.climate, scenario.variables)
        if key not in files:
            files[key] = read_climate_file(
                scenario.climate, start.lat, start.lon, variables=dict(scenario.variables)
            )
        series = files[key]
    base = base_of(start, series)
    return Ask(scenario=scenario, start=start, months=months, series=series, base=base)


def _timeline(ask: Ask) -> Timeline:
    """One scenario."""
    try:
        course = changed(ask, _course(ask))
    except DataError as error:  # of a file, which does not know whose it is
        told = str(error)
        raise DataError(told if told.startswith("Scenario ") else f"{ask.name}: {told}") from None
    notes = [*course.notes, *_unknown_notes(ask, course)]
    return Timeline(
        name=ask.scenario.name,
        title=ask.scenario.label,
        kind=ask.scenario.kind,
        records=tuple(_record(ask, course, month) for month in ask.months),
        facts={"source": course.source} | course.facts,
        notes=tuple(unique(notes)),
    )


def _course(ask: Ask) -> Course:
    """Climate of a scenario before the user's changes."""
    kind = ask.scenario.kind
    if kind == "delta":
        return _changed_base(ask)
    courses = {
        "observed": observed_course,
        "normal": normal_course,
        "analogue": analogue_course,
        "cmip6": model_course,
    }
    return courses[kind](ask)


def _changed_base(ask: Ask) -> Course:
    """What a delta changes: the months of a series, or normals."""
    base, series = ask.scenario.base, ask.series
    is_own = ask.scenario.climate is not None
    has_all = series is not None and has_months(series, ask.months)
    if base == "series" or (base is None and (is_own or has_all)):
        return observed_course(ask)
    course = normal_course(ask)
    if base is None and series is not None:
        said = (
            f"{series.source} has {series.months[0]} to {series.months[-1]}, not all months shown: "
            "the change is put on long-term means."
        )
        course = replace(course, notes=(said, *course.notes))
    return course


def _record(ask: Ask, course: Course, month: str) -> TileRecord:
    """The start's place in a month."""
    fields = _climate(course.series, course.normals(month), month)
    told = {"month": month, "climate_kind": course.kind, "climate_source": course.source}
    return make_record(
        ask.start.model_dump() | OF_THE_FRAME | fields | told, where=f"{ask.name}, {month}"
    )


def _climate(series: ClimateSeries, normals: Normals, month: str) -> dict[str, Any]:
    """Climate of a month as fields of a record; ``None`` for what is not known."""
    fields: dict[str, Any] = {}
    for name in CLIMATE:
        fields[name] = series.value(name, month)
        fields[f"{name}_history"] = _known(series.history(name, month))
        fields[f"{name}_normals"] = _known(normals.get(name, ()))
    return fields


def _known(values: Iterable[float | None]) -> tuple[float | None, ...] | None:
    """A series, or ``None`` where nothing of it is known."""
    kept = tuple(values)
    return kept if any(value is not None for value in kept) else None


def _unknown_notes(ask: Ask, course: Course) -> list[str]:
    """Which values of the months shown and of the years before them are not known.

    Raises:
        RequestError: If nothing is known of any month shown.
    """
    series, notes = course.series, []
    for name in series.values:
        unknown = [month for month in ask.months if series.value(name, month) is None]
        if unknown:
            notes.append(
                f"{CLIMATE[name].label} is unknown in {len(unknown)} of {len(ask.months)} months "
                f"shown, the first {unknown[0]}."
            )
    if not any(series.value(n, month) is not None for n in series.values for month in ask.months):
        raise RequestError(
            f"{ask.name}: {series.source} knows no value in any month shown. Give another series."
        )
    short = [m for m in ask.months if any(None in series.history(n, m) for n in series.values)]
    if short:
        begins = f": the series begins {series.months[0]}" * (series.months[0] > ask.span[0])
        notes.append(
            f"Of the year before, not all is known for {len(short)} of {len(ask.months)} months "
            f"shown, the first {short[0]}{begins}."
        )
    return notes
