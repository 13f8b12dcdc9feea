"""Whether the spread of an ensemble tells how far the real month lies: CRPS and rank histogram.

The members of a pair differ in their noise alone. A point forecast such as persistence has its
absolute error for CRPS, so that both stand in one table.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray
from scores.probability import crps_for_ensemble, rank_histogram

from ecomap import panel, panel_draws
from ecomap.adherence import mean_score
from ecomap.claims import blocks_of
from ecomap.errors import RequestError
from ecomap.evaluate_config import EvaluateConfig
from ecomap.evaluation_steps import cautious
from ecomap.evolution_gains import GENERATED, INDICES, RIVALS
from ecomap.scores import Metric, Score

Values = NDArray[np.float64]

METRICS: dict[str, Metric] = {
    "crps": Metric(
        label="Continuous ranked probability score",
        unit="index",
        better="lower",
        formula="mean over pairs of mean|member - real| - sum|member - member'| / (2 M (M - 1)); "
        "|made - real| for a single image",
        reference="Ferro (2014), Fair scores for ensemble forecasts, "
        "https://doi.org/10.1002/qj.2270",
    ),
    "spread_over_error": Metric(
        label="Spread of the ensemble over its error",
        unit="",
        better="one",
        formula="sqrt((M + 1) / M * mean variance of members / mean squared error of their mean)",
        reference="Fortin et al. (2014), Why Should Ensemble Spread Match the RMSE of the "
        "Ensemble Mean?, https://doi.org/10.1175/JHM-D-14-0008.1",
    ),
}


@dataclass(frozen=True, kw_only=True)
class RankHistogram:
    """How often the real month has each rank among the members."""

    index: str
    frequencies: tuple[float, ...]
    """Of ranks 1 to members + 1; a flat one is calibrated. Equal values share their ranks."""
    n: int


def ensemble_scores(
    real: pd.DataFrame,
    members: Sequence[pd.DataFrame],
    others: Mapping[str, pd.DataFrame],
    config: EvaluateConfig,
) -> tuple[list[Score], list[RankHistogram]]:
    """CRPS, spread over error and rank histogram of both indices.

    Args:
        real: Table of the real targets.
        members: Measured table of each member, at least two.
        others: Tables of systems with one image a pair, for their CRPS.
        config: Draws, level and seed.

    Raises:
        RequestError: If there are fewer than two members.
    """
    if len(members) < 2:
        raise RequestError(
            f"An ensemble of {len(members)} has no spread. Make two members or more."
        )
    scores, histograms = [], []
    for index in INDICES:
        truth = real[index].to_numpy(np.float64)
        made = np.stack([m[index].reindex(real.index).to_numpy(np.float64) for m in members], 1)
        known = np.isfinite(made).all(1) & np.isfinite(truth)
        if not known.any():
            continue
        forecast = xr.DataArray(made[known], dims=("pair", "member"))
        outcome = xr.DataArray(truth[known], dims="pair")
        blocks = blocks_of(real)[known]
        crps = crps_for_ensemble(forecast, outcome, "member", method="fair", preserve_dims="pair")
        scores.append(_mean("ensemble", index, crps.to_numpy(), blocks, config))
        scores.append(_spread(index, made[known], truth[known], blocks, config))
        found = rank_histogram(forecast, outcome, "member")
        frequencies = tuple(float(value) for value in found.to_numpy())
        histograms.append(RankHistogram(index=index, frequencies=frequencies, n=int(known.sum())))
        for name, table in others.items():
            if name not in (GENERATED, *RIVALS):
                continue
            error = np.abs(table[index].reindex(real.index).to_numpy(np.float64) - truth)
            served = known & np.isfinite(error)
            if served.any():
                blocks = blocks_of(real)[served]
                scores.append(_mean(name, index, error[served], blocks, config))
    return [cautious(score) for score in scores], histograms


def _mean(
    system: str, index: str, values: Values, blocks: NDArray[np.str_], config: EvaluateConfig
) -> Score:
    """Mean CRPS of a system."""
    base = Score(
        system=system, section="forecast", metric="crps", detail=index, value=None, n=0
    )  # fmt: skip
    return mean_score(base, values, blocks.tolist(), config)


def _spread(
    index: str, made: Values, truth: Values, blocks: NDArray[np.str_], config: EvaluateConfig
) -> Score:
    """Root of mean variance over mean squared error, with its interval over blocks."""
    num = made.shape[1]
    variance = made.var(1, ddof=1) * (num + 1) / num
    squares = (made.mean(1) - truth) ** 2
    codes = panel.codes(blocks)
    num_blocks = int(codes.max()) + 1
    draws = panel_draws.block_draws(num_blocks, config.num_draws, config.seed)
    draws = np.vstack([np.ones((1, num_blocks)), draws])
    top, bottom = (panel_draws.drawn_means(one, codes, draws) for one in (variance, squares))
    ratio = np.sqrt(np.divide(top, bottom, out=np.full_like(top, np.nan), where=bottom > 0))
    low, high = panel_draws.interval(ratio[1:], num_blocks, config.level)
    return Score(
        system="ensemble", section="forecast", metric="spread_over_error", detail=index,
        value=float(ratio[0]), low=low, high=high, n=len(truth), num_blocks=num_blocks,
        flag="" if np.isfinite(ratio[0]) else "the mean of the ensemble has no error",
    )  # fmt: skip
