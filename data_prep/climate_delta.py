"""Change of climate that a climate model projects, per calendar month (delta method).

A model is not right about a place, but its change may be believed: the difference of two periods of
the model is put on top of what was observed. Temperature is shifted; precipitation and radiation
are scaled, so that they stay positive.

Longer than the budget because what a change is, and how it is found, are read together.
"""

import json
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, Self

from data_prep.cf_series import CfClimate, open_cf
from data_prep.climate_series import ClimateSeries
from data_prep.prep_config import ScenarioConfig
from ecomap.errors import DataError, RequestError
from ecomap.schema import CLIMATE, unique

MIN_YEARS = 20
"""Shortest period: below it the weather of single years is taken for climate. IPCC AR6 WGI
(2021) compares periods of 20 years (Atlas, sec. Atlas.1.3.1)."""
FACTOR_RANGE = (0.2, 5.0)
"""Factors beyond are cut: of dry months, a drop more can be a multiple."""
FACTOR_FLOOR = 0.1
"""Means below it (mm/day, MJ m-2 day-1) count as this much, in both periods: a desert that stays
dry, and a polar night, have the factor 1."""

Kind = Literal["offset", "factor"]
Values = tuple[float | None, ...]


@dataclass(frozen=True, kw_only=True)
class Change:
    """Change of one climate variable, January to December."""

    kind: Kind
    """``offset``: added, in `unit`. ``factor``: multiplied."""
    unit: str
    """``°C``; ``1`` for factors."""
    values: tuple[float, ...]
    baseline: tuple[float, ...]
    """Means of the model in the baseline years, in the unit of the variable."""
    horizon: tuple[float, ...]
    """Likewise in the horizon years."""
    capped_months: tuple[int, ...] = ()
    """Months (1 to 12) whose factor was cut to `FACTOR_RANGE`."""
    floored_months: tuple[int, ...] = ()
    """Months with a mean below `FACTOR_FLOOR`."""


@dataclass(frozen=True, kw_only=True)
class Delta:
    """Change of climate at one cell of a climate model."""

    name: str
    """Scenario, such as ``ssp585-2075``."""
    model: str
    experiment: str
    member: str
    baseline_years: tuple[int, int]
    horizon_years: tuple[int, int]
    cell_id: str
    lat: float
    """Centre of the cell, degrees north."""
    lon: float
    """Degrees east, [-180, 180)."""
    changes: Mapping[str, Change | None]
    """Every climate variable; None where the model does not have it."""
    notes: tuple[str, ...] = field(default=())
    """What a reader should know: variables that lack, factors that were cut."""

    def apply(
        self, values: Mapping[str, Sequence[float | None]], *, first_month: int = 1
    ) -> dict[str, Values]:
        """Put the change on top of monthly values.

        Args:
            values: Climate variable -> values of consecutive months in its unit: normals, or a
                history; None where not known.
            first_month: Calendar month of the first value, 1 to 12.

        Returns:
            New values, kept inside the variable's range. Values whose change is not known are
            None: the scenario does not say what they become.

        Raises:
            RequestError: If there is no such climate variable or month.
        """
        if not 1 <= first_month <= 12:
            raise RequestError(f"first_month is {first_month}; expected 1 to 12.")
        unknown = [name for name in values if name not in CLIMATE]
        if unknown:
            raise RequestError(
                f"There is no climate variable {unknown[0]!r}; choose one of {', '.join(CLIMATE)}."
            )
        return {
            name: tuple(
                self._applied(name, value, (first_month - 1 + index) % 12)
                for index, value in enumerate(series)
            )
            for name, series in values.items()
        }

    def _applied(self, name: str, value: float | None, month_index: int) -> float | None:
        change, variable = self.changes.get(name), CLIMATE[name]
        if change is None or value is None:
            return None
        amount = change.values[month_index]
        new = value + amount if change.kind == "offset" else value * amount
        return min(max(new, variable.minimum), variable.maximum)

    def to_json(self) -> str:
        """The change as one line of JSON: the same change gives the same text."""
        return json.dumps(asdict(self), sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n"

    @classmethod
    def from_json(cls, text: str, *, where: str) -> Self:
        """Read what `to_json` wrote.

        Args:
            text: JSON.
            where: File that the text comes from, for the message.

        Raises:
            DataError: If the text is not a change of climate.
        """
        try:
            content: Any = json.loads(text)
            changes = {
                name: None if change is None else Change(**_tuples(change))
                for name, change in content["changes"].items()
            }
            return cls(**_tuples(content) | {"changes": changes})
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise DataError(
                f"{where} is not a change of climate: {error!r}. Delete it; the next run makes it "
                "again."
            ) from None


def _tuples(content: dict[str, Any]) -> dict[str, Any]:
    return {k: tuple(v) if isinstance(v, list) else v for k, v in content.items()}


class DeltaModel:
    """A scenario's files, opened once; use it as a context manager.

    Raises:
        RequestError: If a period has fewer than `MIN_YEARS` years.
        DataError: If files cannot be read, or say that they are of another model or experiment.
    """

    def __init__(
        self, config: ScenarioConfig, *, variables: Mapping[str, str] | None = None
    ) -> None:
        """Open the files of a scenario.

        Args:
            config: The scenario.
            variables: Names in the files, as for `data_prep.cf_series.open_cf`; by default those
                of the scenario.
        """
        for key in ("baseline_years", "horizon_years"):
            first, last = getattr(config, key)
            if last - first + 1 < MIN_YEARS:
                raise RequestError(
                    f"{key} of scenario {config.name} are {first} to {last}, "
                    f"{max(last - first + 1, 0)} years; a climate needs {MIN_YEARS} or more."
                )
        variables = dict(config.variables) if variables is None else variables
        self._config = config
        self._deltas: dict[str, Delta] = {}
        with ExitStack() as on_error:
            opened = []
            for paths in (config.historical_paths, config.future_paths):
                opened.append(on_error.enter_context(open_cf(paths, variables=variables)))
                _check_facts(config, opened[-1], experiments=("historical", config.experiment))
            self._historical, self._future = opened
            on_error.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the files."""
        self._historical.close()
        self._future.close()

    def delta_at(self, lat: float, lon: float) -> Delta:
        """Change at the cell nearest to a place; a cell is read once.

        Args:
            lat: Degrees north.
            lon: Degrees east.

        Raises:
            RequestError: If the place is not on Earth.
            DataError: If it is outside the grid, if the two periods have other grids, if years
                are missing (the message names those found), or if no variable is in both.
        """
        cell_id, *centre = self._historical.cell_of(lat, lon)
        if cell_id not in self._deltas:
            self._deltas[cell_id] = self._compute(*centre)
        return self._deltas[cell_id]

    def _compute(self, lat: float, lon: float) -> Delta:
        config = self._config
        historical, future = self._historical.series(lat, lon), self._future.series(lat, lon)
        if abs(historical.lat - future.lat) > 0.01 or abs(historical.lon - future.lon) > 0.01:
            raise DataError(
                f"Scenario {config.name}: the nearest cell to ({lat:g}, {lon:g}) is "
                f"{historical.cell_id} in the baseline and {future.cell_id} in the horizon. Both "
                "must be of one model on one grid."
            )
        changes = {name: self._change(name, historical, future) for name in CLIMATE}
        if not any(changes.values()):
            raise DataError(f"Scenario {config.name} has no variable in both periods.")
        return Delta(
            name=config.name,
            model=config.model,
            experiment=config.experiment,
            member=config.member,
            baseline_years=config.baseline_years,
            horizon_years=config.horizon_years,
            cell_id=historical.cell_id,
            lat=historical.lat,
            lon=historical.lon,
            changes=changes,
            notes=(
                *(note for name in CLIMATE for note in _notes(name, changes[name])),
                *unique(note for series in (historical, future) for note in _cell_notes(series)),
            ),
        )

    def _change(self, name: str, historical: ClimateSeries, future: ClimateSeries) -> Change | None:
        if name not in historical.values or name not in future.values:
            return None
        return change_of(
            name,
            _normals(self._config, historical, name, "baseline_years"),
            _normals(self._config, future, name, "horizon_years"),
        )


def compute_delta(config: ScenarioConfig, lat: float, lon: float) -> Delta:
    """Change at one place; for many places, keep a `DeltaModel` open.

    Raises:
        RequestError: As `DeltaModel`.
        DataError: As `DeltaModel` and `DeltaModel.delta_at`.
    """
    with DeltaModel(config) as model:
        return model.delta_at(lat, lon)


def change_of(name: str, baseline: Sequence[float], horizon: Sequence[float]) -> Change:
    """Change between two sets of monthly means.

    Args:
        name: Climate variable.
        baseline: Means of January to December, in its unit.
        horizon: Likewise, later.
    """
    variable = CLIMATE[name]
    pairs = list(zip(baseline, horizon, strict=True))
    if not variable.is_ratio:
        return Change(
            kind="offset",
            unit=variable.unit,
            values=tuple(after - before for before, after in pairs),
            baseline=tuple(baseline),
            horizon=tuple(horizon),
        )
    lowest, highest = FACTOR_RANGE
    factors = [max(after, FACTOR_FLOOR) / max(before, FACTOR_FLOOR) for before, after in pairs]
    return Change(
        kind="factor",
        unit="1",
        values=tuple(min(max(factor, lowest), highest) for factor in factors),
        baseline=tuple(baseline),
        horizon=tuple(horizon),
        capped_months=tuple(
            month for month, f in enumerate(factors, start=1) if not lowest <= f <= highest
        ),
        floored_months=tuple(
            month for month, pair in enumerate(pairs, start=1) if min(pair) < FACTOR_FLOOR
        ),
    )


def _notes(name: str, change: Change | None) -> list[str]:
    if change is None:
        label = CLIMATE[name].label
        return [f"{label} is not in the files of both periods; its change is not known."]
    return cut_notes(name, change)


def cut_notes(name: str, change: Change) -> list[str]:
    """That factors of a climate variable were cut, and in which months."""
    if not change.capped_months:
        return []
    months = ", ".join(map(str, change.capped_months))
    return [f"{CLIMATE[name].label}: the factor was cut to {FACTOR_RANGE} in month {months}."]


def _cell_notes(series: ClimateSeries) -> list[str]:
    """That a neighbour speaks for the cell."""
    near = series.attributes.get("nearest_known_cell")
    return [f"The cell has no values; those of cell {near}, are taken."] if near else []


def _normals(
    config: ScenarioConfig, series: ClimateSeries, name: str, key: str
) -> tuple[float, ...]:
    """Means of a period; every calendar month needs `MIN_YEARS` known years and 80 % of all."""
    first, last = getattr(config, key)
    means = series.normals(name, first, last)
    counts = series.count_years(name, first, last)
    known = [mean for mean in means if mean is not None]
    if len(known) < 12 or min(counts) < MIN_YEARS:
        month = counts.index(min(counts)) + 1
        raise DataError(
            f"Scenario {config.name}: {name} of {series.source} has {min(counts)} of the years "
            f"{first} to {last} in month {month}; its files hold {series.months[0]} to "
            f"{series.months[-1]}. Give files of all {key.replace('_', ' ')}."
        )
    return tuple(known)


def _check_facts(config: ScenarioConfig, files: CfClimate, *, experiments: Sequence[str]) -> None:
    """Refuse files that say of themselves that they are something else."""
    for key, expected in (
        ("model", (config.model,)),
        ("experiment", experiments),
        ("member", (config.member,)),
    ):
        for found in files.facts[key]:
            if _plain(found) not in {_plain(text) for text in expected}:
                raise DataError(
                    f"Scenario {config.name} is of {key} {expected[-1]}, but its files say "
                    f"{found}. Correct the {key} of the scenario or its paths."
                )


def _plain(text: str) -> str:
    """Letters and digits alone: ``RCP8.5`` is ``rcp85``."""
    return "".join(character for character in text.casefold() if character.isalnum())
