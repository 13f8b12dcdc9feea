"""A climate series from a file of a user: CSV, NASA POWER's JSON, or NetCDF and Zarr with CF.

All end in `data_prep.climate_series.ClimateSeries`: months without gaps, in the contract's units.
What a file does not say for certain (its units, which month a row is) is refused, not guessed.
"""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.cf_grid import distance_deg
from data_prep.cf_series import open_cf
from data_prep.climate_series import SERIES_VERSION, ClimateSeries
from data_prep.power import PARAMETERS, Step, cell_of, series_from_answer
from data_prep.prep_config import month_range
from data_prep.series_csv import read_csv_series
from ecomap.errors import DataError, RequestError
from ecomap.normals import KM_PER_DEG, open_normals
from ecomap.schema import CLIMATE

CSV_SUFFIXES = (".csv", ".tsv", ".txt")
CF_SUFFIXES = (".nc", ".nc4", ".cdf", ".netcdf", ".zarr")

FAR_MAX = {"temperature_c": 12.0, "precipitation_mm_day": 3.0}
"""Means that differ by more from the shipped normals are told: as much lies between a valley and a
peak of one cell, and between most units that are taken for each other."""
FAR_FACTOR = 4.0
"""Precipitation must also be this many times the normals."""

Paths = str | Path | Sequence[str | Path]


def read_climate_file(
    path: Paths, lat: float, lon: float, *, variables: dict[str, str] | None = None
) -> ClimateSeries:
    """Read the monthly climate of a place.

    Args:
        path: ``.csv`` (`data_prep.series_csv`); ``.json`` of NASA POWER's point service or of
            `data_prep.climate_series.write_series`; NetCDF files, Zarr stores and patterns such as
            ``tas_*.nc`` with CF metadata, one or several.
        lat: Degrees north, [-90, 90].
        lon: Degrees east, [-180, 180].
        variables: Climate variable -> name in NetCDF and Zarr files, where names and standard names
            do not tell.

    Returns:
        Months ascending without gaps; ``None`` where the file has no value. What a reader should
        know is in its attributes; `series_notes` puts it in words.

    Raises:
        RequestError: If the place is not on Earth, or several CSV or JSON files are given.
        DataError: If a file is missing, damaged, of another format, or says something impossible.
    """
    _check_place(lat, lon)
    paths = [path] if isinstance(path, str | Path) else list(path)
    suffixes = {Path(str(one)).suffix.lower() for one in paths}
    plain = suffixes & {*CSV_SUFFIXES, ".json"}
    if plain and len(paths) > 1:
        raise RequestError(
            f"{len(paths)} climate files are given, {paths[0]} among them; of CSV and JSON one can "
            "be read. Put all columns into one file."
        )
    if suffixes <= set(CSV_SUFFIXES) and paths:
        return read_csv_series(Path(paths[0]), lat, lon)
    if suffixes == {".json"}:
        return _read_json(Path(paths[0]), lat, lon)
    _check_is_cf(paths)
    with open_cf([str(one) for one in paths], variables=variables) as files:
        return files.series(lat, lon)


def series_notes(series: ClimateSeries, lat: float, lon: float) -> list[str]:
    """What a reader must know of a series that stands for a place.

    Args:
        series: Of a file.
        lat: Of the place, degrees north.
        lon: Degrees east.

    Returns:
        Sentences: values that are not known, the distance of the cell, what was assumed or left
        out, and means that are far from the shipped normals, as those in another unit are.
    """
    notes = []
    for name in CLIMATE:
        label = CLIMATE[name].label
        values = series.values.get(name)
        if values is None:
            notes.append(f"{label} is not in {series.source}.")
            continue
        unknown = [m for m, v in zip(series.months, values, strict=True) if v is None]
        if unknown:
            notes.append(
                f"{label} of {series.source} is unknown in {len(unknown)} of {len(values)} months, "
                f"the first {unknown[0]}."
            )
    away_km = distance_km(lat, lon, series.lat, series.lon)
    if away_km > 1:
        notes.append(
            f"{series.source} is of the cell at ({series.lat:g}, {series.lon:g}), {away_km:.0f} km "
            "from the place."
        )
    return [*notes, *_attribute_notes(series), *_far_notes(series, lat, lon)]


def distance_km(lat: float, lon: float, other_lat: float, other_lon: float) -> float:
    """Great-circle distance of two places, km."""
    away = distance_deg(lat, lon, np.array([other_lat]), np.array([other_lon]))
    return float(away[0]) * KM_PER_DEG


def _attribute_notes(series: ClimateSeries) -> list[str]:
    """What a reader of files assumed or left out."""
    notes = []
    if near := series.attributes.get("nearest_known_cell"):
        notes.append(f"The cell has no values; those of cell {near}, are taken.")
    for name, variable in CLIMATE.items():
        if assumed := series.attributes.get(f"{name}.assumed_month_of_stamp"):
            notes.append(f"{variable.label}: taken as {assumed}.")
        for key, words in (
            ("num_unphysical", "values that nature does not have were left out"),
            ("num_incomplete_months", "months of which more than a tenth is missing are unknown"),
            ("num_missing_chunks", "chunks of the store are missing"),
        ):
            if count := series.attributes.get(f"{name}.{key}"):
                notes.append(f"{variable.label}: {count} {words}.")
    return notes


def _far_notes(series: ClimateSeries, lat: float, lon: float) -> list[str]:
    """Means that are far from the shipped normals."""
    notes = []
    for name, normals in open_normals().climate(lat, lon).items():
        known = [
            (value, float(normals[int(month[5:]) - 1]))
            for month, value in zip(series.months, series.values.get(name, ()), strict=False)
            if value is not None
        ]
        if not known:
            continue
        mean, usual = np.mean(known, axis=0).tolist()
        is_far = abs(mean - usual) > FAR_MAX[name]
        if CLIMATE[name].is_ratio:
            is_far = is_far and not usual / FAR_FACTOR <= mean <= usual * FAR_FACTOR
        if is_far:
            unit, hint = CLIMATE[name].unit, CLIMATE[name].hint
            notes.append(
                f"{CLIMATE[name].label} of {series.source} is {mean:.1f} {unit} on average, and in "
                f"the shipped normals of the place {usual:.1f} {unit}: check its unit ({hint}) and "
                "its place."
            )
    return notes


def _check_place(lat: float, lon: float) -> None:
    if not (-90 <= lat <= 90 and -180 <= lon <= 180):
        raise RequestError(
            f"The place ({lat:g}, {lon:g}) is not on Earth; latitude runs from -90 to 90 and "
            "longitude from -180 to 180 degrees."
        )


def _check_is_cf(paths: Sequence[str | Path]) -> None:
    """Refuse what is certainly no climate file, before a reader of NetCDF says so less clearly."""
    if not paths:
        raise RequestError("No climate file is given; expected CSV, JSON, NetCDF or Zarr.")
    for path in map(str, paths):
        is_pattern = bool(re.search(r"[*?[]", path))
        if "://" in path or is_pattern or Path(path).is_dir():
            continue
        if Path(path).suffix.lower() not in CF_SUFFIXES:
            raise DataError(
                f"{path} is not of a format that is read. Expected .csv, .json (NASA POWER), .nc "
                "or .zarr; save a spreadsheet as CSV."
            )


def _read_json(path: Path, lat: float, lon: float) -> ClimateSeries:
    """A series that was written here, or the answer of NASA POWER's point service."""
    try:
        text = path.read_text(encoding="utf-8")
        content: Any = json.loads(text)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}.") from None
    except ValueError as error:
        raise DataError(f"{path} is not readable JSON: {error}.") from None
    if isinstance(content, dict) and content.get("version") == SERIES_VERSION:
        return ClimateSeries.from_json(text, where=str(path))
    found = _parameters(content)
    names = [name for name in PARAMETERS if name in found]
    days = sorted({key for name in names for key in found[name]})
    if not days or not all(re.fullmatch(r"\d{6}|\d{8}", key) for key in days):
        raise DataError(
            f"{path} holds no climate series. Expected the answer of NASA POWER's monthly or daily "
            f"point service with {', '.join(PARAMETERS)}, or a series that ecomap wrote."
        )
    step: Step = "monthly" if len(days[0]) == 6 else "daily"
    real = [key for key in days if step == "daily" or key[4:] != "13"]
    months = month_range(*(f"{key[:4]}-{key[4:6]}" for key in (real[0], real[-1])))
    return series_from_answer(
        content, cell_of(lat, lon), step=step, months=months, parameters=names
    )


def _parameters(content: Any) -> dict[str, dict[str, Any]]:
    """Values by parameter and date of an answer of NASA POWER; empty for anything else."""
    for key in ("properties", "parameter"):
        content = content.get(key) if isinstance(content, dict) else None
    if not isinstance(content, dict):
        return {}
    return {str(name): value for name, value in content.items() if isinstance(value, dict)}
