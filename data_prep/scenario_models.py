"""Scenarios of climate models: a change that is put on the normals, or the model's own months.

The change of one period against another says what the climate becomes, alike for all years shown.
The model's own months run on in time; their bias against the normals, one per calendar month, is
removed (linear scaling), and the normals of a month are those of the 30 years around it, so that
its anomaly is weather and not the warming since the baseline.

References:
    Maraun & Widmann (2018), Statistical Downscaling and Bias Correction for Climate Research,
    ch. 12, https://doi.org/10.1017/9781107588783
"""

import json
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

from data_prep.cf_series import NoMatchError, open_cf
from data_prep.climate_delta import (
    FACTOR_FLOOR,
    MIN_YEARS,
    Change,
    Delta,
    DeltaModel,
    change_of,
    cut_notes,
)
from data_prep.climate_series import ClimateSeries
from data_prep.prep_config import ScenarioConfig
from data_prep.scenario_base import WMO_YEARS, Base, Normals, base_facts
from data_prep.scenario_courses import Ask, Course, check_covers, normal_course, part_of
from data_prep.series_files import distance_km, series_notes
from ecomap.errors import DataError, RequestError
from ecomap.schema import CLIMATE

RUNNING_YEARS = 30
"""Length of the period whose means are the normals of a projected month."""


def model_course(ask: Ask) -> Course:
    """The climate that a climate model projects.

    Raises:
        RequestError: If a period is too short, or months lie outside the model's files.
        DataError: If files cannot be read, are of another model or experiment, or lack years.
    """
    config = ask.scenario.model_config_of(ask.base.years or WMO_YEARS)
    try:
        course = _direct_course(ask, config) if ask.scenario.direct else _delta_course(ask, config)
    except NoMatchError as error:
        raise DataError(
            f"{error} Files of climate models are yours to download; the comments of the "
            "scenario's file say which."
        ) from None
    notes = list(course.notes)
    if ask.base.years is None and ask.scenario.baseline_years is None:
        notes.append(
            f"The period of the normals ({ask.base.source}) is not known; the model's baseline is "
            f"{_years(config.baseline_years)}."
        )
    elif ask.base.years not in (None, config.baseline_years):
        notes.append(
            f"The model's baseline is {_years(config.baseline_years)} and the normals are of "
            f"{_years(ask.base.years or ())}: the warming between the two is counted twice or not "
            "at all."
        )
    facts = {
        "model": config.model,
        "experiment": config.experiment,
        "member": config.member,
        "baseline_years": list(config.baseline_years),
        "historical_paths": list(ask.scenario.historical_paths),
        "future_paths": list(ask.scenario.future_paths),
    }
    return replace(course, facts=course.facts | facts, notes=tuple(notes))


def _delta_course(ask: Ask, config: ScenarioConfig) -> Course:
    """Normals under the change between two periods of a model."""
    with DeltaModel(config) as model:
        delta = model.delta_at(ask.start.lat, ask.start.lon)
    known = {n: v for n, v in ask.base.normals.items() if delta.changes.get(n) is not None}
    if not known:
        raise RequestError(
            f"{ask.name}: {config.model} has none of the variables of {ask.base.source}. Give "
            "files of temperature (tas) or precipitation (pr)."
        )
    said = (
        f"change of {config.model} {config.experiment} {config.member}, "
        f"{_years(config.horizon_years)} against {_years(config.baseline_years)}"
    )
    source = f"{ask.base.source}; {said}"
    course = normal_course(ask, Base(normals=delta.apply(known), source=source, years=None))
    notes = [*ask.base.notes, *delta.notes, *_cell_notes(ask, config, delta.lat, delta.lon)]
    notes += _outside_notes(ask, config.horizon_years)
    facts = base_facts(ask.base) | {
        "horizon_years": list(config.horizon_years),
        "model_cell": delta.cell_id,
        "model_changes": _plain_changes(delta),
    }
    return replace(course, facts=facts, notes=tuple(notes))


def _outside_notes(ask: Ask, years: tuple[int, int]) -> list[str]:
    """That months shown lie outside the period whose climate they have."""
    outside = [month for month in ask.months if not years[0] <= int(month[:4]) <= years[1]]
    if not outside:
        return []
    return [
        f"{len(outside)} of {len(ask.months)} months shown, the first {outside[0]}, lie outside "
        f"{_years(years)}, the period whose climate all of them have."
    ]


def _direct_course(ask: Ask, config: ScenarioConfig) -> Course:
    """Months of a model with its bias removed."""
    with DeltaModel(config):  # opening checks that the files are of the model and experiment
        pass
    with open_cf(config.historical_paths, variables=dict(config.variables)) as files:
        model = files.series(ask.start.lat, ask.start.lon)
    check_covers(ask, model, ask.months, "Give files of these months, or take a horizon.")
    bias = _bias(ask, config, model)
    values = {name: model.values[name] for name in bias.changes if name in model.values}
    first_month = int(model.months[0][5:])
    moved = replace(model, values=bias.apply(values, first_month=first_month))
    # What has no normals keeps its bias: it is not known.
    known = {name: v for name, v in moved.values.items() if bias.changes[name] is not None}
    series = replace(moved, values=known)
    facts = base_facts(ask.base) | {
        "climate_period": [series.months[0], series.months[-1]],
        "model_cell": series.cell_id,
        "bias": _plain_changes(bias),
    }
    notes = [
        *_bias_notes(bias),
        f"Normals of a month are the means of {RUNNING_YEARS} years around it.",
        *ask.base.notes,
        *series_notes(series, ask.start.lat, ask.start.lon),
    ]
    return Course(
        series=part_of(series, ask.span),
        normals=_running_normals(series),
        kind="observed",
        source=f"{series.source}, bias against {ask.base.source} removed",
        facts=facts,
        notes=tuple(notes),
    )


def _bias(ask: Ask, config: ScenarioConfig, model: ClimateSeries) -> Delta:
    """What makes the model's means of its baseline the normals, as far as factors may go."""
    first, last = config.baseline_years
    changes: dict[str, Change | None] = {}
    for name in model.values:
        normals = [value for value in ask.base.normals.get(name, ()) if value is not None]
        means = [value for value in model.normals(name, first, last) if value is not None]
        if len(means) < 12 or min(model.count_years(name, first, last)) < MIN_YEARS:
            raise DataError(
                f"{ask.name}: {name} of {model.source} is known in fewer than {MIN_YEARS} of the "
                f"years {first} to {last}; its files hold {model.months[0]} to {model.months[-1]}. "
                "Give files of all baseline years, or set baseline_years."
            )
        changes[name] = change_of(name, means, normals) if len(normals) == 12 else None
    if not any(changes.values()):
        raise RequestError(
            f"{ask.name}: {config.model} has none of the variables of {ask.base.source}. Give "
            "files of temperature (tas) or precipitation (pr)."
        )
    return Delta(
        name=config.name,
        model=config.model,
        experiment=config.experiment,
        member=config.member,
        baseline_years=config.baseline_years,
        horizon_years=config.baseline_years,
        cell_id=model.cell_id,
        lat=model.lat,
        lon=model.lon,
        changes=changes,
    )


def _bias_notes(bias: Delta) -> list[str]:
    """What was done to a model's months, and where it does not reach the normals."""
    known = {name: change for name, change in bias.changes.items() if change is not None}
    limits = {
        "a factor was cut": any(change.capped_months for change in known.values()),
        f"a mean is below {FACTOR_FLOOR}": any(change.floored_months for change in known.values()),
    }
    but = " or ".join(words for words, is_met in limits.items() if is_met)
    return [
        f"Months are the model's own, moved so that its means of {_years(bias.baseline_years)} are "
        f"the normals{but and f', except where {but}'}.",
        *(note for name, change in known.items() for note in cut_notes(name, change)),
    ]


def _running_normals(series: ClimateSeries) -> Callable[[str], Normals]:
    """Function of a month: means of the years around it that the series has."""
    earliest, latest = int(series.months[0][:4]), int(series.months[-1][:4])

    @cache
    def of_year(year: int) -> Normals:
        first = max(min(year - RUNNING_YEARS // 2, latest - RUNNING_YEARS + 1), earliest)
        last = min(first + RUNNING_YEARS - 1, latest)
        return {name: series.normals(name, first, last) for name in series.values}

    def normals(month: str) -> Normals:
        return of_year(int(month[:4]))

    return normals


def _cell_notes(ask: Ask, config: ScenarioConfig, lat: float, lon: float) -> list[str]:
    away_km = distance_km(ask.start.lat, ask.start.lon, lat, lon)
    return [
        f"The change is that of the cell of {config.model} at ({lat:.2f}, {lon:.2f}), "
        f"{away_km:.0f} km from the place."
    ]


def _plain_changes(delta: Delta) -> Any:
    """Changes by variable as JSON has them: they are compared with those of a file."""
    changes = json.loads(delta.to_json())["changes"]
    return {CLIMATE[name].short: changes[name] for name in CLIMATE if name in changes}


def _years(years: tuple[int, ...]) -> str:
    return "-".join(map(str, years))
