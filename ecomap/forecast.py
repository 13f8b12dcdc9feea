"""Forecast skill in GreenEarthNet's manner, of monthly tile means: not comparable with its tables.

GreenEarthNet scores five-day NDVI of pixels. Here a place's months stand for a pixel's steps, of
any greenness index: squared correlation, root mean squared error, Nash-Sutcliffe efficiency and
absolute bias over the months of a place, averaged over the places of a land cover, then over land
covers, so that common classes do not drown rare ones. Efficiencies are averaged as
``1 / (2 - NSE)`` and turned back. A system outperforms the climatology at a place where at least
three of four gains exceed GreenEarthNet's thresholds, which are made for NDVI.

References:
    Benson et al. (2024), Multi-modal Learning for Geospatial Vegetation Forecasting,
    https://arxiv.org/abs/2303.16198
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from ecomap import panel, panel_draws
from ecomap.errors import RequestError
from ecomap.evaluate_config import EvaluateConfig
from ecomap.forecast_skill import Months, PlaceSkill, gains_over, outperforms
from ecomap.panel import Codes, Values
from ecomap.scores import OBSERVED, Metric, Score
from ecomap.vegetation_tables import (
    GREENNESS,
    PLACE_ONLY,
    caution,
    index_columns,
    systems_without_climate,
    usable_tables,
)

OWN_CLIMATOLOGY = "place_month_mean"
OTHER_PLACES = "the climatology is that of other places"
"""Flag where the place's own past years are not known: GreenEarthNet's climatology is the own."""

CLIMATOLOGIES = (OWN_CLIMATOLOGY, "class_month_mean")
"""Systems that stand for the climatology, the first that is there."""

_LABEL = "GreenEarthNet-style, monthly, tile means"
_PAPER = "Benson et al. (2024), https://arxiv.org/abs/2303.16198"
_P = "p: Wilcoxon signed-rank test of the gains over climatology, places taken as independent"

METRICS: dict[str, Metric] = {
    "forecast_r2": Metric(
        label=f"R² ({_LABEL})",
        unit="",
        better="higher",
        formula="squared Pearson correlation over a place's months, 0 for a constant forecast; "
        f"mean over places, then classes; {_P}",
        reference=_PAPER,
    ),
    "forecast_rmse": Metric(
        label=f"RMSE ({_LABEL})",
        unit="index",
        better="lower",
        formula=f"sqrt(mean((generated - observed)^2)) of a place; mean likewise; {_P}",
        reference=_PAPER,
    ),
    "forecast_nse": Metric(
        label=f"NSE ({_LABEL})",
        unit="",
        better="higher",
        formula="1 - sum((generated - observed)^2) / sum((observed - mean)^2) of a place; "
        f"2 - 1 / mean(1 / (2 - NSE)) likewise; {_P}",
        reference=f"{_PAPER}; Nash & Sutcliffe (1970), "
        "https://doi.org/10.1016/0022-1694(70)90255-6",
    ),
    "forecast_bias": Metric(
        label=f"|bias| ({_LABEL})",
        unit="index",
        better="lower",
        formula=f"|mean(generated - observed)| of a place; mean likewise; {_P}",
        reference=_PAPER,
    ),
    "forecast_outperformance": Metric(
        label=f"Outperformance over climatology ({_LABEL})",
        unit="",
        better="higher",
        formula="share of places with at least 3 of 4 gains: RMSE > 0.01, 1 / (2 - NSE) > 0.05, "
        "R² > 0.05, |bias| > 0.01; p: Wilcoxon signed-rank test of the gains of 1 / (2 - NSE)",
        reference=_PAPER,
    ),
}


def forecast_scores(
    observed: pd.DataFrame,
    systems: Mapping[str, pd.DataFrame],
    config: EvaluateConfig,
    *,
    climatology: str | None = None,
    progress: Callable[[str], None] | None = None,
) -> list[Score]:
    """Skill of each system as a forecast of the months of each place.

    Args:
        observed: As for `ecomap.vegetation.vegetation_scores`.
        systems: Likewise.
        config: Draws, level, seed, least number of places and of months, most cloud.
        climatology: System that others must outperform; by default the first of `CLIMATOLOGIES`
            that there is. It and a system are compared on months that both have.
        progress: Is told each system.

    Returns:
        Scores of each system, and of ``month_only``, over all places and by land cover.

    Raises:
        RequestError: If keys repeat in a table, a system has a name that is taken, or there is no
            such climatology.
    """
    tables, _ = usable_tables(observed, systems, config.max_cloud_frac)
    real = tables[OBSERVED]
    indices = index_columns(real, GREENNESS)
    tables |= systems_without_climate(real, indices)
    tables.pop(PLACE_ONLY, None)  # a constant at each place forecasts no month
    if climatology is not None and climatology not in systems:
        raise RequestError(
            f"There is no system {climatology!r} to take as climatology. Expected one of "
            f"{sorted(systems)}; name one of them, or none."
        )
    if climatology is None:
        climatology = next((name for name in CLIMATOLOGIES if name in tables), None)
    scores = []
    for system, table in tables.items():
        if system == OBSERVED:
            continue
        if progress is not None:
            progress(f"forecast skill: {system}")
        for index in (name for name in indices if name in table):
            base = tables.get(climatology or "")
            scores += _system_scores(system, index, real, table, base, config)
    is_own = climatology == OWN_CLIMATOLOGY
    return scores if is_own else [_of_other_places(score) for score in scores]


def _of_other_places(score: Score) -> Score:
    """Outperformance over a climatology that does not know the place says so."""
    if score.metric != "forecast_outperformance" or score.value is None:
        return score
    return replace(score, flag="; ".join(filter(None, (OTHER_PLACES, score.flag))))


def _system_scores(
    system: str,
    index: str,
    real: pd.DataFrame,
    table: pd.DataFrame,
    base: pd.DataFrame | None,
    config: EvaluateConfig,
) -> list[Score]:
    """Skill of one system, and its gains where there is a climatology."""
    months = Months.of(real, index, config.min_months)
    forecast = months.grid(table, index)
    gains = None
    if base is not None and index in base:
        gains = gains_over(months, forecast, months.grid(base, index))
    return _summary(system, index, months, months.skill(forecast), gains, config)


def _summary(
    system: str,
    index: str,
    months: Months,
    skill: PlaceSkill,
    gains: PlaceSkill | None,
    config: EvaluateConfig,
) -> list[Score]:
    """Scores of one system over classes, and of each class."""
    unknown = np.full(len(months.covers), np.nan)
    wins = unknown if gains is None else outperforms(gains)
    better = gains or PlaceSkill(unknown, unknown, unknown, unknown)
    columns = {
        "forecast_r2": (skill.r2, better.r2),
        "forecast_rmse": (skill.rmse, better.rmse),
        "forecast_nse": (skill.nnse, better.nnse),
        "forecast_bias": (skill.bias, better.bias),
        "forecast_outperformance": (wins, better.nnse),
    }
    groups = [("all", "all", np.ones(len(unknown), bool))]
    if "land_cover" in config.groups:
        covers = sorted(set(months.covers))
        groups += [("land_cover", cover, months.covers == cover) for cover in covers]
    return [
        _score(months, metric, rows, values, gain, config)(
            system=system, detail=index, group_kind=kind, group=name
        )
        for metric, (values, gain) in columns.items()
        for kind, name, rows in groups
    ]


def _score(
    months: Months,
    metric: str,
    rows: NDArray[np.bool_],
    values: Values,
    gain: Values,
    config: EvaluateConfig,
) -> Callable[..., Score]:
    """Average of some places with its interval and p value; who and what are still to be named."""
    known = rows & np.isfinite(values)
    score = partial(Score, section="forecast", metric=metric, n=int(known.sum()))
    left_out = f"{rows.sum() - known.sum()} of {rows.sum()} places left out: fewer than "
    left_out += f"{config.min_months} months, or constant"
    if metric == "forecast_outperformance" and np.isnan(values).all():
        return partial(score, value=None, flag="refused: no climatology on the same months")
    if known.sum() < config.min_places:
        why = f"refused: {known.sum()} places, {config.min_places} needed; {left_out}"
        return partial(score, value=None, flag=why)
    blocks = panel.codes(months.blocks[known])
    num_blocks = int(blocks.max()) + 1
    draws = panel_draws.block_draws(num_blocks, config.num_draws, config.seed)[:, blocks]
    everywhere = np.ones((1, int(known.sum())))
    # Outperformance is a share of places; the others are averaged by class first.
    covers = panel.codes(months.covers[known])
    classes = np.zeros_like(covers) if metric == "forecast_outperformance" else covers
    value, drawn = (_class_mean(values[known], classes, weights) for weights in (everywhere, draws))
    if metric == "forecast_nse":
        value, drawn = 2 - 1 / value, 2 - 1 / drawn
    low, high = panel_draws.interval(drawn, num_blocks, config.level)
    notes = [caution(float(value[0]), num_blocks), left_out if (rows & ~known).any() else ""]
    return partial(
        score,
        value=float(value[0]),
        low=low,
        high=high,
        p_value=_wilcoxon(gain[known]),
        num_blocks=num_blocks,
        flag="; ".join(filter(None, notes)),
    )


def _class_mean(values: Values, classes: Codes, weights: Values) -> Values:
    """Mean over the classes that are there of the weighted mean in each, ``(draws,)``."""
    members = np.eye(int(classes.max()) + 1)[classes]
    sums, counts = (weights * values) @ members, weights @ members
    means = np.where(counts > 0, sums / np.where(counts > 0, counts, 1), 0)
    return np.asarray(means.sum(1) / (counts > 0).sum(1))


def _wilcoxon(gains: Values) -> float | None:
    """Two-sided p value of the signed-rank test; None where no place differs."""
    moved = gains[np.isfinite(gains) & (gains != 0)]
    return float(stats.wilcoxon(moved).pvalue) if len(moved) else None
