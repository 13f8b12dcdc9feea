"""One climate variable of a data set: in which files it lies, and its values at a cell."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np

from data_prep.cf_grid import Cell, Grid, grid_of
from data_prep.cf_months import Monthly, monthly_means
from data_prep.cf_open import MissingChunks
from data_prep.cf_time import Floats, Joined, TimeAxis, join_times, read_times
from data_prep.cf_units import Measure, find_variables, is_ecmwf_amount, measure_of
from ecomap.errors import DataError

SAME_CELL_DEG = 0.01
"""Centres as near as this are one cell: files round their coordinates differently."""
SAME_VALUE = 1e-3
"""Two files agree on a step if values differ by no more, relatively or in the contract's unit."""


@dataclass
class Part:
    """One climate variable in one file."""

    name: str
    array: Any
    """xarray variable over time and place, not read yet."""
    measure: Measure
    axis: TimeAxis
    grid: Grid
    missing: MissingChunks

    def read(self, cell: Cell) -> tuple[Floats, int]:
        """All steps at a cell, scaled, NaN where not known; and how many chunks are missing."""
        index = {dim: place for dim, place in cell.index.items() if dim in self.array.dims}
        try:
            raw, num_missing = self.missing.read(self.array, index, where=self.axis.where)
        except DataError:
            raise
        except (OSError, RuntimeError, ValueError) as error:
            raise DataError(
                f"{self.axis.where} cannot be read at ({cell.lat:g}, {cell.lon:g}): {error}. The "
                "file is damaged or the connection was lost."
            ) from None
        values = np.asarray(raw, np.float64) * self.measure.factor + self.measure.offset
        return values, num_missing


@dataclass
class Variable:
    """One climate variable over all its files."""

    name: str
    parts: list[Part] = field(default_factory=list)

    def nearest(self, lat: float, lon: float) -> list[tuple[Part, Cell]]:
        """Files that have the place, with its cell."""
        cells = [(part, part.grid.nearest(lat, lon)) for part in self.parts]
        found = [(part, cell) for part, cell in cells if cell is not None]
        if not found:
            raise DataError(
                f"The place ({lat:g}, {lon:g}) lies outside {self.parts[0].axis.where}, which has "
                f"{self.parts[0].grid.extent}. Give files of its region."
            )
        first = found[0][1]
        for part, cell in found:
            away = max(abs(cell.lat - first.lat), abs((cell.lon - first.lon + 180) % 360 - 180))
            if away > SAME_CELL_DEG:
                raise DataError(
                    f"{part.axis.where} has its cell at ({cell.lat:g}, {cell.lon:g}), but "
                    f"{found[0][0].axis.where} at ({first.lat:g}, {first.lon:g}). Files of one "
                    "variable must have one grid."
                )
        return found

    @cached_property
    def _joined(self) -> dict[tuple[int, ...], Joined]:
        return {}

    def monthly(self, cells: list[tuple[Part, Cell]]) -> tuple[Monthly, int]:
        """Monthly means at a cell, and how many chunks of its stores are missing."""
        key = tuple(id(part) for part, _ in cells)
        if key not in self._joined:
            self._joined[key] = join_times([part.axis for part, _ in cells])
        axis, positions = self._joined[key]
        values, num_missing = np.full(axis.days.size, np.nan), 0
        for (part, cell), place in zip(cells, positions, strict=True):
            new, lacking = part.read(cell)
            num_missing, old = num_missing + lacking, values[place]
            self._check_agree(old, new, part)
            values[place] = np.where(np.isnan(old), new, old)
        first = cells[0][0]
        means = monthly_means(
            self.name,
            values,
            first.measure.kind,
            axis=axis,
            methods=str(first.array.attrs.get("cell_methods", "")),
            is_ecmwf=is_ecmwf_amount(str(first.array.name), first.array.attrs),
        )
        axes = [replace(part.axis, step_days=axis.step_days) for part, _ in cells]
        if any(one.is_at_starts for one in axes):
            means = means._replace(assumed=_assumption(axis))
        return means, num_missing

    def _check_agree(self, old: Floats, new: Floats, part: Part) -> None:
        with np.errstate(invalid="ignore"):
            differs = np.abs(old - new) > SAME_VALUE * np.fmax(np.abs(old), 1.0)
        if differs.any():
            at = int(np.flatnonzero(differs)[0])
            raise DataError(
                f"{part.axis.where} has {new[at]:g} for a time of which another file has "
                f"{old[at]:g}. Leave one of the files out."
            )


def _assumption(axis: TimeAxis) -> str:
    """That stamps at 00:00 of a first day mean the month that begins, and whether it is odd."""
    months = axis.months() % 12
    text = "the month that begins at the stamp: stamps are 00:00 of first days, without bounds"
    if (months[0], months[-1]) == (1, 0):
        text += "; it makes years from February to January, as stamps at the end of months would"
    return text


def parts_of(
    path: str, dataset: Any, missing: MissingChunks, chosen: Mapping[str, str]
) -> Iterable[Part]:
    """Climate variables of a file."""
    for name, variable in find_variables(dataset, chosen).items():
        where = f"{variable} of {path}"
        array = dataset[variable]
        measure = measure_of(name, array.attrs.get("units"), where=where)
        time_dim = _time_dim(dataset, array, where=where)
        grid = grid_of(array, where=where)
        others = {d: n for d, n in array.sizes.items() if d not in grid.dims and d != time_dim}
        if any(size > 1 for size in others.values()):
            sizes = " and ".join(f"{dim} ({size})" for dim, size in others.items() if size > 1)
            raise DataError(
                f"{where} has more dimensions than time and place: {sizes}. Choose one of each "
                "first, for instance with xarray's isel or with ncks."
            )
        array = array.isel(dict.fromkeys(others, 0))
        axis = read_times(dataset, time_dim, where=where)
        yield Part(name, array, measure, axis, grid, missing)


def _time_dim(dataset: Any, array: Any, *, where: str) -> str:
    """Dimension of a variable that has times."""
    for dim in array.dims:
        if dim in dataset.variables and " since " in str(dataset[dim].attrs.get("units")):
            return str(dim)
    sizes = ", ".join(f"{dim} ({size})" for dim, size in array.sizes.items())
    raise DataError(
        f"{where} has no times; its dimensions are {sizes}. Expected one with units such as "
        "'days since 1850-01-01'."
    )
