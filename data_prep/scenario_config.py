"""What a scenario file may say: one climate of the months that a sequence shows.

    kind: delta              kind: analogue      kind: cmip6
    temperature: +2          year: 2018          model: CanESM5
    precipitation: x0.8                          experiment: ssp585
    months: 05..09                               horizon: 2050
                                                 historical_paths: [data/*_historical_*.nc]
                                                 future_paths: [data/*_ssp585_*.nc]

A key that the kind does not read is refused, so that nothing is ignored.
"""

import re
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, ValidationInfo, field_validator, model_validator

from data_prep.prep_config import FileVariables, ScenarioConfig
from data_prep.scenario_months import ChangeMonths, parse_change_months
from ecomap.climate import Change, parse_change
from ecomap.config import Config, load_config, read_yaml
from ecomap.errors import RequestError
from ecomap.schema import CLIMATE

HORIZON_HALF_YEARS = 10
"""Years before and after a horizon that make its climate."""
LAST_YEAR = 2100
"""Projections end here: later horizons take the last years before it."""
MIN_HORIZON_YEARS = 20

Kind = Literal["observed", "delta", "analogue", "cmip6", "normal"]

ALWAYS = ("name", "title", "kind")
CHANGES = ("temperature", "precipitation", "solar", "months")
READS: dict[str, tuple[str, ...]] = {
    "observed": (*CHANGES, "climate", "variables"),
    "delta": (*CHANGES, "climate", "variables", "base"),
    "analogue": (*CHANGES, "climate", "variables", "year", "place"),
    "cmip6": (
        *(*CHANGES, "variables", "model", "experiment", "member", "historical_paths"),
        *("future_paths", "baseline_years", "horizon", "horizon_years", "direct"),
    ),
    "normal": ("climate", "variables"),
}
"""Kind -> keys that mean something to it."""

BY_SHORT = {variable.short: name for name, variable in CLIMATE.items()}


class PlaceConfig(Config):
    """A place whose climate another one gets."""

    lat: float = Field(ge=-90, le=90)
    """Degrees north."""
    lon: float = Field(ge=-180, le=180)
    """Degrees east."""


class Scenario(Config):
    """A climate of the months that are shown."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._+-]*$")
    """Short, for names of files; by default that of the scenario's file."""
    title: str = ""
    """In words, for pages; by default the name."""
    kind: Kind
    """``normal``: long-term means. ``observed``: a series. ``delta``: either of them, changed.
    ``analogue``: a year of a series, or the normals of another place. ``cmip6``: the change that a
    climate model projects, or its own series."""

    climate: str | tuple[str, ...] | None = None
    """Series of this scenario: CSV, JSON of NASA POWER, NetCDF, Zarr; by default that of the
    sequence (--climate)."""
    variables: FileVariables = ()
    """Climate variable -> name in NetCDF and Zarr files, where names do not tell."""

    temperature: str | None = None
    """Change on top, such as ``+2`` (°C)."""
    precipitation: str | None = None
    """Likewise: ``x0.8``, ``-20%``, or ``"+0.5"`` (mm/day, in quotes)."""
    solar: str | None = None
    """Likewise, in MJ/m2/day."""
    months: str | None = None
    """When the changes hold: ``2031-04..2031-09``, or ``05..09`` for these months of every year. By
    default always: the place has another climate then, and its normals change too."""

    base: Literal["normal", "series"] | None = None
    """What a ``delta`` changes: long-term means or the months of a series. By default the series if
    it has all months shown, else the means."""

    year: int | None = Field(default=None, ge=1, le=9999)
    """Year of the series that every year shown repeats. The months before the first year shown are
    those before this year, where the series has them."""
    place: PlaceConfig | None = None
    """Place whose normals are taken; shifted by six months where it lies on the other hemisphere,
    so that summer stays summer."""

    model: str | None = None
    """Such as ``CanESM5``; files that say they are of another are refused."""
    experiment: str | None = None
    """Such as ``ssp585``."""
    member: str = "r1i1p1f1"
    historical_paths: tuple[str, ...] = ()
    """NetCDF files, Zarr stores or patterns of the historical run."""
    future_paths: tuple[str, ...] = ()
    """Likewise of the projection. The baseline may reach into it."""
    baseline_years: tuple[int, int] | None = None
    """Years of the model that the present is; by default those of the normals in use."""
    horizon: int | None = Field(default=None, ge=1900, le=LAST_YEAR)
    """Year whose climate is taken, as the mean from ten years before to ten after."""
    horizon_years: tuple[int, int] | None = None
    """First and last year in place of ``horizon``; 20 years or more."""
    direct: bool = False
    """Take the model's own months, with its bias against the normals removed, in place of one
    change for all years."""

    @field_validator("temperature", "precipitation", "solar", mode="before")
    @classmethod
    def _is_a_change(cls, value: Any, info: ValidationInfo) -> str | None:
        return None if value is None else _change_text(value, BY_SHORT[info.field_name or ""])

    @field_validator("months", mode="before")
    @classmethod
    def _are_months(cls, value: Any) -> str | None:
        if value is None:
            return None
        text = f"{value:02d}" if type(value) is int else str(value)
        parse_change_months(text)
        return text

    @model_validator(mode="after")
    def _says_what_its_kind_reads(self) -> Self:
        known = (*ALWAYS, *READS[self.kind])
        if unread := [key for key in self.model_fields_set if key not in known]:
            raise ValueError(
                f"kind {self.kind} does not read {min(unread)}; it reads {', '.join(known[3:])}"
            )
        if self.months is not None and not self.changes:
            raise ValueError(
                "months says when a change holds, and none is given; add precipitation: x0.3"
            )
        _CHECKS[self.kind](self)
        return self

    @property
    def label(self) -> str:
        """Title, or the name where there is none."""
        return self.title or self.name

    @property
    def changes(self) -> dict[str, Change]:
        """Change by climate variable, without those that change nothing."""
        texts = {name: getattr(self, short) for short, name in BY_SHORT.items()}
        parsed = {n: parse_change(t, CLIMATE[n]) for n, t in texts.items() if t is not None}
        return {name: change for name, change in parsed.items() if not change.is_none}

    @property
    def change_months(self) -> ChangeMonths | None:
        """When the changes hold; ``None`` for always."""
        return None if self.months is None else parse_change_months(self.months)

    @property
    def change_words(self) -> str:
        """Changes as a reader reads them, such as ``temperature +2, precipitation x0.8``."""
        words = ", ".join(f"{CLIMATE[n].short} {c.text}" for n, c in self.changes.items())
        return f"{words} in {self.months}" if words and self.months else words

    def model_config_of(self, baseline_years: tuple[int, int]) -> ScenarioConfig:
        """The climate model's files and periods, as `data_prep.climate_delta` takes them.

        Args:
            baseline_years: Where the scenario states none.
        """
        # The baseline often ends after the historical run (2014 in CMIP6): it may read both.
        return ScenarioConfig(
            name=re.sub(r"[^\w.-]", "_", self.name),
            model=self.model or "",
            experiment=self.experiment or "",
            member=self.member,
            historical_paths=(*self.historical_paths, *self.future_paths),
            future_paths=self.future_paths,
            variables=self.variables,
            baseline_years=self.baseline_years or baseline_years,
            horizon_years=self.horizon_years or years_of_horizon(self.horizon or LAST_YEAR),
        )


def read_scenario(path: Path) -> Scenario:
    """Read a scenario file.

    Raises:
        ConfigError: If the file is missing or no YAML, or, one line for each, a key is unknown or
            missing or its value not allowed.
    """
    name = re.sub(r"[^A-Za-z0-9._+-]+", "-", path.stem).lstrip("._+-") or "scenario"
    return load_config(path, Scenario, [] if "name" in read_yaml(path) else [f'name="{name}"'])


def years_of_horizon(horizon: int) -> tuple[int, int]:
    """First and last of the years around a horizon.

    >>> years_of_horizon(2050), years_of_horizon(2100)
    ((2040, 2060), (2081, 2100))
    """
    last = min(horizon + HORIZON_HALF_YEARS, LAST_YEAR)
    return min(horizon - HORIZON_HALF_YEARS, last - MIN_HORIZON_YEARS + 1), last


def _change_text(value: Any, name: str) -> str:
    """A change as `ecomap.climate.parse_change` reads it."""
    variable = CLIMATE[name]
    expected = (
        'an offset in quotes such as "+0.5" (mm/day), a factor such as x0.8, or -20%'
        if variable.is_ratio
        else "an offset such as +2 or -1.5 (°C)"
    ).replace("mm/day", variable.unit)
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if is_number and variable.is_ratio:
        # In YAML +0.5 and 0.5 are one number: an offset and a factor look alike.
        raise ValueError(f"a number alone may be an offset or a factor; it must be {expected}")
    text = f"{value:+g}" if is_number else str(value).strip()
    if variable.is_ratio and (percent := re.fullmatch(r"([+-]\d+(?:\.\d+)?)\s*%", text)):
        text = f"x{1 + float(percent[1]) / 100:g}"
    try:
        change = parse_change(text, variable)
    except RequestError:
        raise ValueError(f"it must be {expected}") from None
    if change.kind == "absolute":
        raise ValueError(f"one value for all months leaves no seasons; it must be {expected}")
    return text


def _check_delta(scenario: Scenario) -> None:
    if not scenario.changes:
        raise ValueError(
            "kind delta changes nothing; add temperature: +2 or precipitation: x0.8, or take "
            "kind normal"
        )


def _check_analogue(scenario: Scenario) -> None:
    if (scenario.year is None) == (scenario.place is None):
        state = "nothing" if scenario.year is None else "year and place"
        raise ValueError(
            f"{state} is given; kind analogue needs year: 2018 (of the series) or place: {{lat: "
            "36.8, lon: 10.2}, one of them"
        )
    if scenario.place is not None and scenario.climate is not None:
        raise ValueError(
            "climate and place are given; a place has the shipped normals, so leave climate out"
        )


def _check_cmip6(scenario: Scenario) -> None:
    needed = ("model", "experiment", "historical_paths", "future_paths")
    if lacking := [key for key in needed if not getattr(scenario, key)]:
        raise ValueError(f"kind cmip6 needs {' and '.join(lacking)}")
    horizons = [key for key in ("horizon", "horizon_years") if getattr(scenario, key) is not None]
    if scenario.direct and horizons:
        raise ValueError(f"direct shows the model's own months, so {horizons[0]} says nothing")
    if not scenario.direct and len(horizons) != 1:
        raise ValueError(
            f"{' and '.join(horizons) or 'nothing'} is given; kind cmip6 needs horizon: 2050, or "
            "horizon_years: [2036, 2065], or direct: true, one of them"
        )


_CHECKS = {
    "observed": lambda scenario: None,
    "normal": lambda scenario: None,
    "delta": _check_delta,
    "analogue": _check_analogue,
    "cmip6": _check_cmip6,
}
