"""Generated beside observed, tile by tile: errors and correlations of indices, slope ratios."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from ecomap import panel, panel_draws
from ecomap.evaluate_config import EvaluateConfig
from ecomap.panel import Control, Held, Values
from ecomap.scores import OBSERVED, Metric, Score
from ecomap.vegetation_climate import SLOPE_CONTROLS, Question, why_refused
from ecomap.vegetation_tables import (
    REFUSED,
    Batch,
    Estimate,
    Group,
    caution,
    climate_values,
    estimates,
    known_variables,
    num_varying_places,
)

_FWL = "Wooldridge (2010), ch. 10, https://mitpress.mit.edu/9780262232586"
_ERRORS = "Wilks (2019), Statistical Methods in the Atmospheric Sciences, ch. 9, "
_ERRORS += "https://doi.org/10.1016/C2017-0-03921-6"

METRICS: dict[str, Metric] = {
    "slope_ratio": Metric(
        label="Slope, generated over observed",
        unit="",
        better="one",
        formula="climate_slope of the system / climate_slope observed, on tiles of both",
        reference=f"{_FWL}; Fieller (1954), https://doi.org/10.1111/j.2517-6161.1954.tb00159.x",
    ),
    "index_rmse": Metric(
        label="Root mean squared error of the index",
        unit="index",
        better="lower",
        formula="sqrt(mean((generated - observed)^2))",
        reference=_ERRORS,
    ),
    "index_mae": Metric(
        label="Mean absolute error of the index",
        unit="index",
        better="lower",
        formula="mean(|generated - observed|)",
        reference=_ERRORS,
    ),
    "index_bias": Metric(
        label="Bias of the index",
        unit="index",
        better="zero",
        formula="mean(generated - observed)",
        reference=_ERRORS,
    ),
    "index_pearson": Metric(
        label="Correlation with the observed index",
        unit="",
        better="higher",
        formula="corr(generated, observed)",
        reference="Pearson (1895), https://doi.org/10.1098/rspl.1895.0041",
    ),
    "index_spearman": Metric(
        label="Rank correlation with the observed index",
        unit="",
        better="higher",
        formula="corr(rank of generated, rank of observed)",
        reference="Spearman (1904), https://doi.org/10.2307/1412159",
    ),
    "anomaly_pearson": Metric(
        label="Correlation with the observed index within places",
        unit="",
        better="higher",
        formula="corr(generated - its mean at the place, observed - its mean at the place)",
        reference=_FWL,
    ),
    "anomaly_pearson_given_place_and_month": Metric(
        label="Correlation with the observed index given place and month",
        unit="",
        better="higher",
        formula="corr of both residuals once dummies of place and month are regressed out",
        reference=_FWL,
    ),
    "anomaly_pearson_given_own_season": Metric(
        label="Correlation with the observed index given each place's own season",
        unit="",
        better="higher",
        formula="corr of both residuals once dummies of place and month and a yearly wave of each "
        "place are regressed out",
        reference=_FWL,
    ),
    "anomaly_pearson_deseasonalised": Metric(
        label="Correlation with the observed index, deseasonalised",
        unit="",
        better="higher",
        formula="corr(generated, observed), each less its mean of the place and calendar month; "
        "needs several years",
        reference=_FWL,
    ),
}


DATED: dict[str, Control] = {
    "anomaly_pearson_given_place_and_month": "given place and month",
    "anomaly_pearson_given_own_season": "given each place's own season",
    "anomaly_pearson_deseasonalised": "deseasonalised",
}
"""Correlations for which the month must be known."""


def compared(group: Group, indices: Sequence[str], *, with_climate: bool) -> list[Batch]:
    """Systems beside the observed images, on tiles where both are known.

    Args:
        group: Tiles.
        indices: What is compared.
        with_climate: Whether climate must be known too. Batches then share rows and climate, else
            rows and index.
    """
    real = group.tables[OBSERVED]
    variables = known_variables(real, 0) if with_climate else ()
    batches: dict[Any, Batch] = {}
    for system, table in group.tables.items():
        if system == OBSERVED or (with_climate and not variables):
            continue
        keys = real.index[real.index.isin(table.index)]
        ours, theirs = real.loc[keys], table.loc[keys]
        climate, told = (climate_values(t, variables, 0) for t in (ours, theirs))
        usable = np.isfinite(np.column_stack([climate, told])).all(1)
        if with_climate:
            usable &= ours["month_index"].notna().to_numpy()
        for index in (name for name in indices if name in table):
            y, observed = theirs[index].to_numpy(np.float64), ours[index].to_numpy(np.float64)
            rows = usable & np.isfinite(y) & np.isfinite(observed)
            if not rows.any():
                continue
            signature = (tuple(keys[rows]), told[rows].tobytes(), "" if with_climate else index)
            batch = batches.setdefault(signature, Batch(ours[rows], variables))
            batch.columns.append((system, index))
            batch.values.append(y[rows])
            batch.observed.append(observed[rows])
            batch.told.append(told[rows])
    return list(batches.values())


def slope_ratio_scores(group: Group, indices: Sequence[str], config: EvaluateConfig) -> list[Score]:
    """Slope of each system over that of the observed images on the same tiles."""
    scores = []
    for batch in compared(group, indices, with_climate=True):
        blocks = batch.blocks
        for number, variable in enumerate(batch.variables):
            for control in SLOPE_CONTROLS:
                held = panel.hold(control, batch.places, batch.months)
                climate = batch.climate()[:, number], batch.told[0][:, number]
                flags = [why_refused(batch, held, x, control, config) for x in climate]
                refusal = flags[0] or flags[1]
                ratios = None if refusal else _ratios(batch, held, *climate, config)
                detail = Question(variable, 0, control).detail
                for k, (system, index) in enumerate(batch.columns):
                    estimate, flag = ratios[k] if ratios else (REFUSED, refusal)
                    scores.append(
                        group.score(
                            system,
                            "slope_ratio",
                            detail(index),
                            estimate,
                            n=len(held.rows),
                            num_blocks=len(np.unique(blocks[held.rows])),
                            flag=flag,
                        )
                    )
    return scores


def _ratios(
    batch: Batch, held: Held, climate: Values, told: Values, config: EvaluateConfig
) -> list[tuple[Estimate, str]]:
    """Ratios of slopes, with intervals from draws that both slopes share."""
    blocks, draws = batch.blocks, batch.draws(config)
    num_blocks = len(np.unique(blocks[held.rows]))
    (base, drawn_base), (slope, drawn_slope) = (
        (
            panel.correlations(held, x, np.column_stack(y))[1],
            panel_draws.drawn_correlations(held, x, np.column_stack(y), blocks, draws)[1],
        )
        for x, y in ((climate, batch.observed), (told, batch.values))
    )
    found = []
    for k in range(len(base)):
        low, high = panel_draws.interval(drawn_base[:, k], num_blocks, config.level)
        if np.isnan(base[k]) or base[k] == 0:
            found.append((REFUSED, "undefined: the observed index has no slope"))
        elif not (low > 0 or high < 0):
            why = "the observed slope does not differ from 0: no bounded interval"
            found.append(((slope[k] / base[k] + 0.0, None, None, None), why))
        else:
            divisor = np.where(drawn_base[:, k] == 0, np.nan, drawn_base[:, k])
            low, high = panel_draws.interval(drawn_slope[:, k] / divisor, num_blocks, config.level)
            found.append(((slope[k] / base[k] + 0.0, low, high, None), caution(1.0, num_blocks)))
    return found


def agreement_scores(group: Group, indices: Sequence[str], config: EvaluateConfig) -> list[Score]:
    """Errors and correlations of each index against the observed one of the same tile."""
    scores = []
    for batch in compared(group, indices, with_climate=False):
        scores += _error_scores(group, batch, config)
        places = batch.places
        for metric, held in (
            ("index_pearson", panel.hold("raw", places, places)),
            ("index_spearman", panel.hold("raw", places, places)),
            ("anomaly_pearson", panel.hold("within place", places, places)),
        ):
            scores += _correlation_scores(group, batch, metric, held, config)
        known = np.flatnonzero(batch.table["month_index"].notna())
        if len(known):
            dated = batch.at(known)
            for metric, control in DATED.items():
                held = panel.hold(control, dated.places, dated.months)
                scores += _correlation_scores(group, dated, metric, held, config)
    return scores


def _error_scores(group: Group, batch: Batch, config: EvaluateConfig) -> list[Score]:
    """Root mean squared and mean absolute error and bias of each system of a batch."""
    blocks, draws = batch.blocks, batch.draws(config)
    num_blocks = draws.shape[1]
    scores = []
    for number, (system, index) in enumerate(batch.columns):
        error = batch.values[number] - batch.observed[number]
        squares, sizes = error**2, np.abs(error)
        for metric, value, drawn in (
            (
                "index_rmse",
                np.sqrt(squares.mean()),
                np.sqrt(panel_draws.drawn_means(squares, blocks, draws)),
            ),
            ("index_mae", sizes.mean(), panel_draws.drawn_means(sizes, blocks, draws)),
            ("index_bias", error.mean(), panel_draws.drawn_means(error, blocks, draws)),
        ):
            interval = panel_draws.interval(drawn, num_blocks, config.level)
            scores.append(
                group.score(
                    system,
                    metric,
                    index,
                    (value, *interval, None),
                    n=len(error),
                    num_blocks=num_blocks,
                    flag=caution(value, num_blocks),
                )
            )
    return scores


def _correlation_scores(
    group: Group, batch: Batch, metric: str, held: Held, config: EvaluateConfig
) -> list[Score]:
    """One correlation with the observed index for every system of a batch."""
    x, y, blocks = batch.observed[0], np.column_stack(batch.values), batch.blocks
    num_blocks = len(np.unique(blocks[held.rows]))
    found = num_varying_places(batch, held, x)
    refusal = f"refused: the index varies in {found} places once controlled, "
    refusal += f"{config.min_places} needed"
    rows: list[Estimate] = []
    if found >= config.min_places:
        draws = batch.draws(config)
        if metric == "index_spearman":
            value, drawn = panel.spearman(x, y), panel_draws.drawn_spearman(x, y, blocks, draws)
        else:
            value = panel.correlations(held, x, y)[0]
            drawn = panel_draws.drawn_correlations(held, x, y, blocks, draws)[0]
        rows = estimates(value, drawn, num_blocks, config.level)
    return [
        group.score(
            system,
            metric,
            index,
            rows[number] if rows else REFUSED,
            n=len(held.rows),
            num_blocks=num_blocks,
            flag=caution(rows[number][0], num_blocks) if rows else refusal,
        )
        for number, (system, index) in enumerate(batch.columns)
    ]
