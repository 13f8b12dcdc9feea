"""Correlations and slopes of indices with climate, with nulls in which climate is another place's.

The null exchanges whole climate series between places of a hemisphere, so it keeps the season and
the memory of the weather, and breaks only the tie of a place to its own weather. What other
climate explains is taken out before the exchange and again after it, where it is held fixed.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from ecomap import panel, panel_draws
from ecomap.evaluate_config import EvaluateConfig
from ecomap.panel import Codes, Control, Held, Values
from ecomap.scores import Metric, Score
from ecomap.tiles import MAX_LAG
from ecomap.vegetation_tables import (
    REFUSED,
    Batch,
    Estimate,
    Group,
    caution,
    climate_column,
    climate_values,
    estimates,
    known_variables,
    num_varying_places,
)

CONTROLS: tuple[Control, ...] = (
    "raw",
    "within place",
    "deseasonalised",
    "given place and month",
    "given each place's own season",
    "given place, month and the other climate",
)
SLOPE_CONTROLS: tuple[Control, ...] = (
    "within place",
    "deseasonalised",
    "given place and month",
    "given each place's own season",
)

MAX_PLACES_PER_BLOCK = 1.5
"""With more, neighbours that share weather are exchanged as if they were independent."""

PEARSON, SPEARMAN, SLOPE = (
    "climate_correlation_pearson",
    "climate_correlation_spearman",
    "climate_slope",
)

METRICS: dict[str, Metric] = {
    PEARSON: Metric(
        label="Correlation of index and climate",
        unit="",
        better="none",
        formula="corr(residual index, residual climate) once the control is regressed out of both; "
        "p: whole climate series exchanged between places of a hemisphere",
        reference="Lovell (1963), https://doi.org/10.1080/01621459.1963.10480682; null: Winkler "
        "et al. (2014), https://doi.org/10.1016/j.neuroimage.2014.01.060",
    ),
    SPEARMAN: Metric(
        label="Rank correlation of index and climate",
        unit="",
        better="none",
        formula="corr(rank of residual index, rank of residual climate)",
        reference="Spearman (1904), https://doi.org/10.2307/1412159",
    ),
    SLOPE: Metric(
        label="Slope of index on climate",
        unit="index per unit of climate",
        better="none",
        formula="sum(residual climate * residual index) / sum(residual climate^2)",
        reference="Wooldridge (2010), ch. 10, https://mitpress.mit.edu/9780262232586",
    ),
}


class Question(NamedTuple):
    """What an index is set against, and given what."""

    variable: str
    lag: int
    control: Control

    def detail(self, index: str) -> str:
        """As scores name it."""
        return f"{index} ~ {self.variable} lag {self.lag} | {self.control}"

    def metrics(self, group: Group) -> list[str]:
        """Lags beyond 0 have Pearson correlations only, land covers no rank correlations."""
        ranks = [SPEARMAN] if self.lag == 0 and group.kind == "all" else []
        slopes = [SLOPE] if self.lag == 0 and self.control in SLOPE_CONTROLS else []
        return [PEARSON, *ranks, *slopes]


def climate_scores(
    group: Group, indices: Sequence[str], lag: int, config: EvaluateConfig
) -> list[Score]:
    """Every system's indices against climate ``lag`` months before."""
    batches: dict[Any, Batch] = {}
    scores = []
    for system, table in group.tables.items():
        variables = known_variables(table, lag)
        if not variables:
            flag = f"no climate variable is known for half of the tiles at lag {lag}"
            scores.append(group.score(system, PEARSON, "", n=len(table), flag=flag))
            continue
        climate = climate_values(table, variables, lag)
        usable = np.isfinite(climate).all(1) & table["month_index"].notna().to_numpy()
        for index in (name for name in indices if name in table):
            values = table[index].to_numpy(np.float64)
            rows = usable & np.isfinite(values)
            if not rows.any():
                flag = "no tile has index, month and climate"
                scores.append(group.score(system, PEARSON, index, n=0, flag=flag))
                continue
            signature = (variables, tuple(table.index[rows]), climate[rows].tobytes())
            batch = batches.setdefault(signature, Batch(table[rows], variables))
            batch.columns.append((system, index))
            batch.values.append(values[rows])
    for batch in batches.values():
        scores += _batch_scores(group, batch, lag, config)
    return scores


def _batch_scores(group: Group, batch: Batch, lag: int, config: EvaluateConfig) -> list[Score]:
    """Every variable and control for one batch."""
    places, months, climate = batch.places, batch.months, batch.climate(lag)
    first = np.unique(places, return_index=True)[1]
    south = (batch.table["lat"].to_numpy(np.float64) < 0)[first]
    donors = panel_draws.exchanges(panel.codes(south), config.num_permutations, config.seed)
    series = filled_series(batch, lag)
    scores = []
    for number, variable in enumerate(batch.variables):
        x, others = climate[:, number], np.delete(climate, number, axis=1)
        for control in CONTROLS:
            if control == CONTROLS[-1] and not others.shape[1]:
                continue
            held = panel.hold(control, places, months, others)
            own = series[number]
            if control == CONTROLS[-1]:
                weights = _explained_by(batch, x, others)
                own = own - np.tensordot(weights, np.delete(series, number, axis=0), axes=1)
            exchanged = held.residuals(own[donors[:, places], month_numbers(batch.table) - lag].T)
            question = Question(variable, lag, control)
            scores += _question_scores(group, batch, question, x, held, exchanged, config)
    return scores


def _explained_by(batch: Batch, x: Values, others: Values) -> Values:
    """Coefficients of other climate for ``x``, given place and month."""
    held = panel.hold("given place and month", batch.places, batch.months)
    found = np.linalg.lstsq(held.residuals(others), held.residuals(x), rcond=None)[0]
    return np.asarray(found)


def _question_scores(
    group: Group,
    batch: Batch,
    question: Question,
    x: Values,
    held: Held,
    exchanged: Values,
    config: EvaluateConfig,
) -> list[Score]:
    """Correlations, and slopes where they are wanted, under one control."""
    metrics = question.metrics(group)
    refusal = why_refused(batch, held, x, question.control, config)
    found = {} if refusal else _estimates(batch, x, held, exchanged, metrics, config)
    num_blocks = len(np.unique(batch.blocks[held.rows]))
    crowding = _crowding(batch, num_blocks)
    scores = []
    for number, (system, index) in enumerate(batch.columns):
        for metric in metrics:
            estimate = found[metric][number] if found else REFUSED
            notes = [caution(estimate[0], num_blocks), crowding if estimate[3] is not None else ""]
            scores.append(
                group.score(
                    system,
                    metric,
                    question.detail(index),
                    estimate,
                    n=len(held.rows),
                    num_blocks=num_blocks,
                    flag=refusal or "; ".join(filter(None, notes)),
                )
            )
    return scores


def why_refused(
    batch: Batch, held: Held, x: Values, control: Control, config: EvaluateConfig
) -> str:
    """Why a control leaves too little, if it does."""
    if control == "deseasonalised" and not len(held.rows):
        return "refused: no place has a calendar month in two years"
    found = num_varying_places(batch, held, x)
    if found >= config.min_places:
        return ""
    return f"refused: climate varies in {found} places once controlled, {config.min_places} needed"


def _crowding(batch: Batch, num_blocks: int) -> str:
    """Whether exchanged places are far from independent."""
    num_places = batch.table["place"].nunique()
    if num_places <= MAX_PLACES_PER_BLOCK * num_blocks:
        return ""
    return f"{num_places} places in {num_blocks} blocks: p takes neighbours as independent"


def _estimates(
    batch: Batch,
    x: Values,
    held: Held,
    exchanged: Values,
    metrics: Sequence[str],
    config: EvaluateConfig,
) -> dict[str, list[Estimate]]:
    """Values of the metrics with intervals and p values, in the order of the columns."""
    y, blocks, draws = np.column_stack(batch.values), batch.blocks, batch.draws(config)
    num_blocks = len(np.unique(blocks[held.rows]))
    value, slope = panel.correlations(held, x, y)
    drawn, drawn_slope = panel_draws.drawn_correlations(held, x, y, blocks, draws)
    left_x, left_y = held.residuals(x), held.residuals(y)
    p = panel_draws.two_sided_p(value, _column_correlations(exchanged, left_y))
    found = {
        PEARSON: estimates(value, drawn, num_blocks, config.level, p),
        SLOPE: estimates(slope, drawn_slope, num_blocks, config.level),
    }
    if SPEARMAN in metrics:
        ranked = np.where(np.isnan(value), np.nan, panel.spearman(left_x, left_y))
        drawn = panel_draws.drawn_spearman(left_x, left_y, blocks[held.rows], draws)
        ranks = [stats.rankdata(panel.rounded(v), axis=0) for v in (exchanged, left_y)]
        p = panel_draws.two_sided_p(ranked, _column_correlations(*ranks))
        found[SPEARMAN] = estimates(ranked, drawn, num_blocks, config.level, p)
    return found


def _column_correlations(a: Values, b: Values) -> Values:
    """Pearson correlation of each column of ``a`` ``(n, k)`` with each of ``b``: ``(k, m)``.

    A constant correlates with nothing: 0.
    """
    a, b = a - a.mean(0), b - b.mean(0)
    scale = np.sqrt((a**2).sum(0)[:, None] * (b**2).sum(0))
    return np.asarray(np.where(scale > 0, a.T @ b / np.where(scale > 0, scale, 1), 0))


def filled_series(batch: Batch, lag: int) -> NDArray[np.float64]:
    """Monthly series ``(num_variables, P, T)`` of each place, from January, without gaps.

    A record knows the months before its own too, so few gaps are left to fill. What the records
    say of ``lag`` months before goes first, so that a place's own series gives its own values.
    """
    when, places = month_numbers(batch.table), batch.places
    shape = (int(places.max()) + 1, int(when.max()) + 1)
    found = []
    for variable in batch.variables:
        series = np.full(shape, np.nan)
        for back in [*(k for k in range(MAX_LAG, -1, -1) if k != lag), lag]:
            column = climate_column(variable, back)
            if column in batch.table:
                values = batch.table[column].to_numpy(np.float64)
                known = np.isfinite(values)
                series[places[known], when[known] - back] = values[known]
        found.append(panel_draws.fill_series(series))
    return np.stack(found)


def month_numbers(table: pd.DataFrame) -> Codes:
    """Month of each row, counted from the January of the year before the first row's."""
    year = table["year"].to_numpy(np.float64)
    month = table["month_index"].to_numpy(np.float64)
    return np.asarray(12 * (year - year.min() + 1) + month, np.intp)
