"""How far greenness falls in months of extreme climate, observed and generated.

A place-month is extreme where its climate lies a standard deviation or more from the place's mean
of that calendar month. The fall is measured from the place's own normal: the mean index of that
calendar month in its other years that are not extreme. A system is measured from its own normal,
so that a bias of its level does not count. A climatology does not fall at all.

The drop amplitude error follows EO-WM's, on tile means of single months.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ecomap import panel, panel_draws
from ecomap.evaluate_config import EvaluateConfig
from ecomap.panel import Codes, Values
from ecomap.scores import OBSERVED, Metric, Score
from ecomap.vegetation_tables import (
    GREENNESS,
    Estimate,
    Group,
    caution,
    groups_of,
    index_columns,
    usable_tables,
)

EXTREME = 1.0
"""Standard deviations from the mean that make a month extreme."""

MIN_YEARS = 3
"""Years of a calendar month at a place that a standard deviation needs. With three, no month can
lie further than 1.15 of them from the mean."""

GROWING_TEMPERATURE_C = 5.0
"""Calendar months whose mean temperature at a place reaches it are growing months, as in the
growing season length of the ETCCDI (Zhang et al. 2011, https://doi.org/10.1002/wcc.147)."""

CONDITIONS: tuple[tuple[str, int], ...] = (
    ("temperature_c", 1),
    ("temperature_c", -1),
    ("precipitation_mm_day", -1),
    ("precipitation_mm_day", 1),
)
"""Climate variable, and on which side of its normal."""

_SOURCE = "after EO-WM (2026), https://arxiv.org/abs/2606.27277"

METRICS: dict[str, Metric] = {
    "extreme_drop_observed": Metric(
        label="Observed fall of greenness in extreme months",
        unit="index",
        better="none",
        formula="mean over extreme growing months of (normal - index)",
        reference=_SOURCE,
    ),
    "extreme_drop_generated": Metric(
        label="Generated fall of greenness in the same months",
        unit="index",
        better="none",
        formula="mean over the same months of (the system's own normal - index)",
        reference=_SOURCE,
    ),
    "extreme_drop_error": Metric(
        label="Error of the fall",
        unit="index",
        better="lower",
        formula="mean over the months of |generated fall - observed fall|",
        reference=f"{_SOURCE} (DAE)",
    ),
}


class Extremes(NamedTuple):
    """Months of one table under one condition."""

    cells: Codes
    """Place and calendar month of each row."""
    extreme: NDArray[np.bool_]
    """Rows that are extreme and lie in growing months."""
    normal: NDArray[np.bool_]
    """Rows from which normals are made."""


def extreme_scores(
    observed: pd.DataFrame,
    systems: Mapping[str, pd.DataFrame],
    config: EvaluateConfig,
    *,
    progress: Callable[[str], None] | None = None,
) -> list[Score]:
    """Falls of greenness in extreme months.

    Args:
        observed: As for `ecomap.vegetation.vegetation_scores`.
        systems: Likewise.
        config: Draws, level, seed, least number of places, most cloud.
        progress: Is told each group.

    Returns:
        Scores of `OBSERVED` and of each system; one flagged row a metric where no place has a
        calendar month in `MIN_YEARS` years.

    Raises:
        RequestError: If keys repeat in a table, or a system has a name that is taken.
    """
    tables, _ = usable_tables(observed, systems, config.max_cloud_frac)
    indices = index_columns(tables[OBSERVED], GREENNESS)
    scores = []
    for group in groups_of(tables, config):
        if progress is not None:
            progress(f"extreme months: {group.name}")
        if group.kind != "all" and group.num_places < config.min_places:
            continue  # the other vegetation statistics say so of this group
        for variable, side in CONDITIONS:
            scores += _condition_scores(group, indices, variable, side, config)
    return scores


def find_extremes(table: pd.DataFrame, variable: str, side: int) -> Extremes:
    """Extreme and normal months of a table under one condition.

    Args:
        table: Rows with place, calendar month and climate.
        variable: Climate variable.
        side: 1 for far above the normal, -1 for far below.
    """
    names = table["place"].astype(str) + "\n" + table["month_index"].astype(str)
    cells = panel.codes(names)
    anomaly = _standardised(table[variable].to_numpy(np.float64), cells)
    temperature = _cell_means(table["temperature_c"].to_numpy(np.float64), cells)
    growing = temperature[cells] >= GROWING_TEMPERATURE_C
    dated = table["month_index"].notna().to_numpy()
    return Extremes(
        cells, dated & growing & (side * anomaly >= EXTREME), dated & (np.abs(anomaly) < EXTREME)
    )


def _cell_means(values: Values, cells: Codes) -> Values:
    """Mean of the known values of each cell, NaN where there is none."""
    known = np.isfinite(values)
    size = int(cells.max(initial=-1)) + 1
    counts = np.bincount(cells[known], minlength=size)
    sums = np.bincount(cells[known], values[known], size)
    return np.asarray(np.where(counts > 0, sums / np.maximum(counts, 1), np.nan))


def _standardised(values: Values, cells: Codes) -> Values:
    """Values minus the mean of their cell, in standard deviations (ddof 1) of it.

    NaN in cells of fewer than `MIN_YEARS` known values, and where all are equal.
    """
    mean = _cell_means(values, cells)
    squares = _cell_means((values - mean[cells]) ** 2, cells)
    counts = np.bincount(cells[np.isfinite(values)], minlength=len(mean))
    spread = np.sqrt(squares * counts / np.maximum(counts - 1, 1))
    usable = (counts >= MIN_YEARS) & (spread > 1e-9 * (1 + np.abs(mean)))
    return np.asarray((values - mean[cells]) / np.where(usable, spread, np.nan)[cells])


def falls(values: Values, extremes: Extremes) -> Values:
    """Normal minus value in extreme months, NaN elsewhere and where no normal is known."""
    normal = _cell_means(np.where(extremes.normal, values, np.nan), extremes.cells)
    return np.asarray(np.where(extremes.extreme, normal[extremes.cells] - values, np.nan))


def _condition_scores(
    group: Group, indices: Sequence[str], variable: str, side: int, config: EvaluateConfig
) -> list[Score]:
    """All systems and indices under one condition."""
    real = group.tables[OBSERVED]
    extremes = find_extremes(real, variable, side)
    condition = f"{variable} {'+-'[side < 0]}{EXTREME:g} sd"
    if not extremes.normal.any():
        flag = f"refused: no place has a calendar month in {MIN_YEARS} years with {variable}"
        return [
            group.score(system, metric, condition, n=0, flag=flag)
            for system in group.tables
            for metric in METRICS
            if (system == OBSERVED) == (metric == "extreme_drop_observed")
        ]
    scores = []
    for index in indices:
        observed = falls(real[index].to_numpy(np.float64), extremes)
        add = _Rows(group, f"{index} | {condition}", real, config)
        scores.append(add.score(OBSERVED, "extreme_drop_observed", observed))
        for system, table in group.tables.items():
            if system == OBSERVED or index not in table:
                continue
            values = table[index].reindex(real.index).to_numpy(np.float64)
            generated = falls(values, extremes)
            generated = np.where(np.isfinite(observed), generated, np.nan)
            scores.append(add.score(system, "extreme_drop_generated", generated))
            error = np.abs(generated - observed)
            scores.append(add.score(system, "extreme_drop_error", error))
    return scores


class _Rows(NamedTuple):
    """What the scores of one index and condition share."""

    group: Group
    detail: str
    table: pd.DataFrame
    config: EvaluateConfig

    def score(self, system: str, metric: str, values: Values) -> Score:
        """Mean of the defined values with its interval over blocks."""
        known = np.isfinite(values)
        places = self.table["place"].astype(str)[known].nunique()
        if places < self.config.min_places:
            flag = f"refused: extreme months in {places} places, {self.config.min_places} needed"
            return self.group.score(system, metric, self.detail, n=int(known.sum()), flag=flag)
        blocks = panel.codes(self.table["block"].astype(str)[known])
        num_blocks = int(blocks.max()) + 1
        draws = panel_draws.block_draws(num_blocks, self.config.num_draws, self.config.seed)
        drawn = panel_draws.drawn_means(values[known], blocks, draws)
        mean = float(values[known].mean())
        low, high = panel_draws.interval(drawn, num_blocks, self.config.level)
        estimate: Estimate = (mean, low, high, None)
        return self.group.score(
            system,
            metric,
            self.detail,
            estimate,
            n=int(known.sum()),
            num_blocks=num_blocks,
            flag=caution(mean, num_blocks),
        )
