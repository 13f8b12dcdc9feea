"""Climate series from NetCDF files and Zarr stores with CF metadata: ERA5-Land, CMIP, and others.

Nothing is read but the times, the grid, and the values of the cell that is asked for. Variables
and years may lie in several files. Where two files have the same step, they must agree.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from functools import cached_property
from pathlib import Path
from typing import Any, Self

from data_prep.cf_grid import Cell, km_between
from data_prep.cf_months import Monthly
from data_prep.cf_open import open_file
from data_prep.cf_variable import Part, Variable, parts_of
from data_prep.climate_series import ClimateSeries
from ecomap.errors import DataError, RequestError
from ecomap.schema import CLIMATE, unique

FACTS = {
    "model": ("source_id", "cmip6_source_id", "model_id"),
    "experiment": ("experiment_id", "scenario"),
    "member": ("variant_label",),
}
"""Global attributes of CMIP6, NEX-GDDP-CMIP6 and CMIP5 files."""


class NoMatchError(DataError):
    """A pattern of climate files matches none."""


class CfClimate:
    """Open files of a climate data set; made by `open_cf`."""

    def __init__(self, variables: dict[str, Variable], datasets: Sequence[Any]) -> None:
        """Take opened datasets and what was found in them."""
        self._variables = variables
        self._datasets = datasets

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the files."""
        for dataset in self._datasets:
            dataset.close()

    @property
    def names(self) -> tuple[str, ...]:
        """Climate variables that the files have, in the order of the contract."""
        return tuple(self._variables)

    @cached_property
    def facts(self) -> dict[str, tuple[str, ...]]:
        """What files say of themselves: ``model``, ``experiment`` and ``member``, each once."""
        return {key: tuple(self._attributes(names)) for key, names in FACTS.items()}

    def _attributes(self, names: Iterable[str]) -> list[str]:
        """Values of the first global attribute that each file has, without repeats."""
        found = (
            next((str(d.attrs[n]).strip() for n in names if d.attrs.get(n)), "")
            for d in self._datasets
        )
        return [text for text in unique(found) if text]

    def cell_of(self, lat: float, lon: float) -> tuple[str, float, float]:
        """Key and centre of the native cell nearest to a place.

        Args:
            lat: Degrees north.
            lon: Degrees east, -180 to 360.

        Returns:
            Key of the cell, for file names; latitude; longitude in [-180, 180). It is the cell of
            the first variable; others may have a coarser grid.

        Raises:
            RequestError: If the place is not on Earth.
            DataError: If it is farther from the grid than a cell.
        """
        cell = self._first_cell(lat, lon)
        return cell.cell_id, cell.lat, cell.lon

    def _first_cell(self, lat: float, lon: float) -> Cell:
        if not (-90 <= lat <= 90 and -180 <= lon <= 360):
            raise RequestError(
                f"The place ({lat:g}, {lon:g}) is not on Earth; latitude runs from -90 to 90 and "
                "longitude from -180 to 180 degrees."
            )
        return self._first.nearest(lat, lon)[0][1]

    def series(self, lat: float, lon: float) -> ClimateSeries:
        """Monthly means of the cell nearest to a place, in the units of the contract.

        The month of a monthly value is that of the middle of its bounds. Without bounds it is that
        of its stamp; if all stamps are 00:00 of a first day, they could also end the month before,
        and ``attributes`` say so (``assumed_month_of_stamp``).

        A month of which fewer than 90 % of the days (or steps) are known is None. Every variable
        that the files have is there; ``attributes`` tell what each was made from, and how many
        values were noise below zero, unphysical, or months incomplete.

        Where the cell has no values of the first variable, as of land models at a coast, those of
        the nearest cell that touches it are taken, and ``attributes`` say so
        (``nearest_known_cell``); place and key remain those of the cell.

        Raises:
            RequestError: If the place is not on Earth.
            DataError: If it is outside the grid, files contradict each other, the period of
                amounts cannot be told, or values cannot be read or be in their units.
        """
        cell = self._first_cell(lat, lon)
        known, first = self._known_cell(cell)
        results: dict[str, Monthly] = {}
        attributes: dict[str, str] = {}
        if known is not cell:
            away = f"{known.cell_id}, {km_between(cell, known):.1f} km away"
            attributes["nearest_known_cell"] = away
        for name, variable in self._variables.items():
            cells = variable.nearest(known.lat, known.lon)
            is_read = variable is self._first
            results[name], num_missing = first if is_read else variable.monthly(cells)
            attributes |= _describe(cells[0], results[name], cell, num_missing)
        numbers = [number for result in results.values() for number in result.values]
        if not numbers:
            raise DataError(
                f"{self._where} has no complete month with a value at ({cell.lat:g}, "
                f"{cell.lon:g}) or in a cell beside it; land models have none over the sea. Choose "
                "another data set there."
            )
        span = range(min(numbers), max(numbers) + 1)
        return ClimateSeries(
            lat=cell.lat,
            lon=cell.lon,
            cell_id=cell.cell_id,
            months=tuple(f"{n // 12:04d}-{n % 12 + 1:02d}" for n in span),
            values={k: tuple(r.values.get(n) for n in span) for k, r in results.items()},
            source=self._source,
            attribution="; ".join(self._attributes(("license", "institution")))[:1000],
            attributes=attributes,
        )

    def _known_cell(self, cell: Cell) -> tuple[Cell, tuple[Monthly, int]]:
        """A cell, or the nearest that touches it and has values, where it has none itself.

        Grids of land models have none in cells that are mostly sea, a coast's own among them. Cells
        of which chunks are missing are not replaced: they may have had values.

        Returns:
            Cell; its monthly means of the first variable, and how many chunks are missing.
        """
        variable = self._first
        here = variable.monthly(variable.nearest(cell.lat, cell.lon))
        if here[0].cleaned.is_known or here[1]:
            return cell, here
        for near in variable.parts[0].grid.around(cell):
            there = variable.monthly(variable.nearest(near.lat, near.lon))
            if there[0].cleaned.is_known:
                return near, there
        return cell, here

    @property
    def _first(self) -> Variable:
        return next(iter(self._variables.values()))

    @property
    def _where(self) -> str:
        return self._first.parts[0].axis.where

    @property
    def _source(self) -> str:
        """Model, experiment and member, or the title, or the name of the first file."""
        facts = [" ".join(values) for values in self.facts.values() if values]
        named = " ".join(facts) or "; ".join(self._attributes(("title",)))
        path = str(self._datasets[0].encoding.get("source", ""))
        return named[:200] or Path(path).name or "CF data set"


def _describe(
    first: tuple[Part, Cell], result: Monthly, main: Cell, num_missing: int
) -> dict[str, str]:
    """Facts about one variable, for the attributes of the series."""
    part, cell = first
    facts = {
        "variable": str(part.array.name),
        "units": str(part.array.attrs["units"]),
        "calendar": part.axis.calendar,
        "read_as": result.reading,
        "assumed_month_of_stamp": result.assumed,
        "cell": "" if cell.cell_id == main.cell_id else cell.cell_id,
    }
    counts = {
        "num_clipped": result.cleaned.num_clipped,
        "num_unphysical": result.cleaned.num_unphysical,
        "num_incomplete_months": result.num_incomplete,
        "num_missing_chunks": num_missing,
    }
    facts |= {key: str(count) for key, count in counts.items() if count}
    return {f"{part.name}.{key}": text for key, text in facts.items() if text}


def open_cf(
    paths: str | Path | Sequence[str | Path], *, variables: Mapping[str, str] | None = None
) -> CfClimate:
    """Open climate files; use the result as a context manager.

    Args:
        paths: NetCDF files, Zarr stores (folders or addresses) and patterns such as
            ``era5/*.nc``; together they hold all variables and years.
        variables: Climate variable -> name in the files, where names and standard names do not
            tell, or where a daily extreme is to stand for the mean.

    Raises:
        DataError: If a file is missing, of another format, or its units, calendar, times or
            coordinates are missing or not understood; if a file has no climate variable, or no
            file has one of `variables`.
        RequestError: If `variables` names a quantity that does not exist.
    """
    chosen = dict(variables or {})
    if unknown := [name for name in chosen if name not in CLIMATE]:
        raise RequestError(
            f"There is no climate variable {unknown[0]!r}; choose one of {', '.join(CLIMATE)}."
        )
    opened: list[Any] = []
    found: dict[str, Variable] = {}
    with ExitStack() as on_error:
        for path in _expand(paths):
            dataset, missing = open_file(path)
            on_error.callback(dataset.close)
            opened.append(dataset)
            parts = list(parts_of(path, dataset, missing, chosen))
            if not parts:
                raise DataError(_useless(path, dataset, chosen))
            for part in parts:
                found.setdefault(part.name, Variable(part.name)).parts.append(part)
        _check_found(found, chosen)
        on_error.pop_all()
    ordered = {name: found[name] for name in CLIMATE if name in found}
    return CfClimate(ordered, opened)


def _useless(path: str, dataset: Any, chosen: Mapping[str, str]) -> str:
    """Message about a file without any climate variable."""
    names = [str(name) for name in dataset.data_vars]
    sought = "".join(f" {name} is to be {variable}." for name, variable in chosen.items())
    return (
        f"{path} has no monthly mean of temperature, precipitation or radiation that its name or "
        f"standard name tells; its variables are {', '.join(names) or 'none'}.{sought} Leave the "
        "file out, or say in climate.variables (or variables of the scenario) what to take, such "
        f"as {{temperature_c: {names[0] if names else 'tas'}}}."
    )


def _check_found(found: dict[str, Variable], chosen: Mapping[str, str]) -> None:
    if lacking := [name for name in chosen if name not in found]:
        files = unique(part.axis.where for one in found.values() for part in one.parts)
        raise DataError(
            f"No file has {chosen[lacking[0]]!r}, which is to be {lacking[0]}; there are "
            f"{', '.join(files[:5])}. Correct climate.variables (or variables of the scenario)."
        )
    for variable in found.values():
        kinds = {part.measure.kind: part.axis.where for part in variable.parts}
        if len(kinds) > 1:
            raise DataError(
                f"{' and '.join(kinds.values())} state rates and amounts. Files of one variable "
                "must agree; leave out one of them."
            )


def _expand(paths: str | Path | Sequence[str | Path]) -> list[str]:
    """Paths with patterns replaced by the files that they match, sorted."""
    import glob

    given = [paths] if isinstance(paths, str | Path) else list(paths)
    found: list[str] = []
    for path in map(str, given):
        is_pattern = re.search(r"[*?[]", path) and "://" not in path and not Path(path).exists()
        matches = sorted(glob.glob(path, recursive=True)) if is_pattern else [path]
        if not matches:
            raise NoMatchError(f"No file matches {path}. Check the path.")
        found += matches
    if not found:
        raise DataError("No climate file is given; expected NetCDF files or Zarr stores.")
    return unique(found)
