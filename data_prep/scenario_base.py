"""Long-term climate of a place, on which scenarios stand.

Values and normals of a scenario come from one product where that can be: a difference of products
looks like an anomaly, and is none. Hence the order in which normals are sought.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from data_prep.climate_delta import MIN_YEARS
from data_prep.climate_series import ClimateSeries, Values
from ecomap.normals import SOURCE, footprint_of, open_normals
from ecomap.schema import CLIMATE, TileRecord, unique

WMO_YEARS = (1991, 2020)
"""Present reference period: WMO Guidelines on the Calculation of Climate Normals (WMO-No. 1203,
2017)."""

NORMALS_OF = "; normals: "
"""Stands in the source of a climate before that of its normals, where the two differ."""

Normals = Mapping[str, Values]
"""Climate variable -> 12 long-term means, January to December, in its unit."""


@dataclass(frozen=True, kw_only=True)
class Base:
    """Long-term climate of a place, on which scenarios stand."""

    normals: Normals
    """Variables that nothing tells of are absent."""
    source: str
    years: tuple[int, int] | None
    """Period of the means, where it is known and one."""
    notes: tuple[str, ...] = ()


def base_of(start: TileRecord, series: ClimateSeries | None) -> Base:
    """Normals of the series, else of the start's record, else of the table that ships.

    Args:
        start: The place.
        series: Gives normals of the variables of which it has `MIN_YEARS` years: of `WMO_YEARS`
            where it has these, else of all its years.
    """
    normals: dict[str, Values] = {}
    sources: dict[str, str] = {}
    lacking: dict[str, list[str]] = {}
    table = open_normals().climate(start.lat, start.lon, footprint_of(start))
    for name in CLIMATE:
        own = getattr(start, f"{name}_normals")
        found = None if series is None else _series_normals(series, name)
        if series is not None and found is not None:
            years, normals[name] = found
            sources[name] = f"{series.source}, normals {years[0]}-{years[1]}"
        elif own is not None and any(value is not None for value in own):
            normals[name] = own
            told = (start.climate_source or "not stated").rpartition(NORMALS_OF)[2]
            sources[name] = told if told == SOURCE else f"normals of the start ({told})"
        elif name in table:
            normals[name], sources[name] = tuple(table[name].tolist()), SOURCE
        if found is None and series is not None and name in series.values:
            lacking.setdefault(sources.get(name, ""), []).append(name)
    source = "; ".join(unique(sources.values()))
    periods = [re.search(r"(\d{4})-(\d{4})\)?$", text) for text in unique(sources.values())]
    years_found = {(int(p[1]), int(p[2])) for p in periods if p}
    is_one = len(years_found) == 1 and None not in periods
    return Base(
        normals=normals,
        source=source,
        years=years_found.pop() if is_one else None,
        notes=tuple(_short_series(series, *one) for one in lacking.items() if series is not None),
    )


def _series_normals(series: ClimateSeries, name: str) -> tuple[tuple[int, int], Values] | None:
    """Period and normals of a series; ``None`` where it has too few years."""
    if name not in series.values:
        return None
    whole = (int(series.months[0][:4]), int(series.months[-1][:4]))
    for years in (WMO_YEARS, whole):
        means = series.normals(name, *years)
        is_known = all(mean is not None for mean in means)
        if is_known and min(series.count_years(name, *years)) >= MIN_YEARS:
            return years, means
    return None


def _short_series(series: ClimateSeries, source: str, names: list[str]) -> str:
    """That a series makes no normals of some variables, and what stands in."""
    first, last = int(series.months[0][:4]), int(series.months[-1][:4])
    num = min(min(series.count_years(name, first, last)) for name in names)
    words = " and ".join(CLIMATE[name].label.lower() for name in names)
    instead = (
        f"those of {source} stand in, so that anomalies also hold the difference of the two"
        if source
        else "no others are known, so that anomalies are not"
    )
    return f"{series.source} has {num} years of {words}, and {MIN_YEARS} make normals: {instead}."


def source_of(series: ClimateSeries, base: Base, words: str = "") -> str:
    """Source of a climate whose months are of a series, as records state it.

    Args:
        series: Gives the months.
        base: Gives the normals.
        words: What else is to be said of the months.
    """
    is_same = all(part.startswith(series.source) for part in base.source.split("; "))
    return f"{series.source}{words}" + ("" if is_same else f"{NORMALS_OF}{base.source}")


def base_facts(base: Base) -> dict[str, Any]:
    """What normals are."""
    return {"normals": base.source, "normals_years": base.years and list(base.years)}
