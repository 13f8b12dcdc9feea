"""Skill of monthly series at each place, and gains over another system."""

from typing import NamedTuple

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray
from scores.continuous import additive_bias, nse, rmse
from scores.continuous.correlation import pearsonr

from ecomap import panel
from ecomap.panel import Codes, Values
from ecomap.schema import LandCover

BARE = {
    LandCover.URBAN_AND_BUILT_UP.label,
    LandCover.SNOW_AND_ICE.label,
    LandCover.BARREN.label,
    LandCover.WATER_BODIES.label,
}
"""Land covers left out: GreenEarthNet scores vegetation only."""

UNKNOWN = "land cover not known"
"""Places without a class are one class."""

GAINS: dict[str, float] = {"rmse": 0.01, "nnse": 0.05, "r2": 0.05, "bias": 0.01}
"""Gains over climatology from which a system is better."""

MIN_GAINS = 3
"""How many of `GAINS` make a system outperform at a place."""

MIN_STD = 1e-6
"""Observed months of a place that spread less are constant: no efficiency is defined."""


class PlaceSkill(NamedTuple):
    """Skill at each place, ``(P,)``."""

    r2: Values
    rmse: Values
    nnse: Values
    """``1 / (2 - NSE)``, in (0, 1]."""
    bias: Values
    """Absolute."""


class Months(NamedTuple):
    """Observed months of the vegetated places of a table."""

    real: pd.DataFrame
    """Rows of vegetated places."""
    observed: Values
    """``(P, T)``, NaN where a month is not known."""
    places: Codes
    """Place of each row."""
    columns: Codes
    """Month of each row."""
    covers: NDArray[np.str_]
    """Land cover of each place."""
    blocks: Codes
    """Block of each place."""
    min_months: int

    @classmethod
    def of(cls, real: pd.DataFrame, index: str, min_months: int) -> "Months":
        """Places of vegetated classes with their months."""
        rows = real[real["month"].notna() & ~real["land_cover"].isin(BARE)]
        places = panel.codes(rows["place"].astype(str))
        first = np.unique(places, return_index=True)[1]
        covers = rows["land_cover"].where(rows["land_cover"].notna(), UNKNOWN).astype(str)
        world = cls(
            rows,
            np.zeros((len(first), 0)),
            places,
            panel.codes(rows["month"].astype(str)),
            covers.to_numpy(str)[first],
            panel.codes(rows["block"].astype(str).to_numpy(str)[first]),
            min_months,
        )
        return world._replace(observed=world.grid(rows, index))

    def grid(self, table: pd.DataFrame, index: str) -> Values:
        """Index by place and month ``(P, T)``; several tiles of one month are averaged."""
        values = table[index].reindex(self.real.index).to_numpy(np.float64)
        known = np.isfinite(values)
        shape = (len(self.covers), int(self.columns.max(initial=-1)) + 1)
        sums, counts = np.zeros(shape), np.zeros(shape)
        np.add.at(sums, (self.places[known], self.columns[known]), values[known])
        np.add.at(counts, (self.places[known], self.columns[known]), 1)
        return np.asarray(np.where(counts > 0, sums / np.maximum(counts, 1), np.nan))

    def skill(self, forecast: Values, months: NDArray[np.bool_] | None = None) -> PlaceSkill:
        """Skill at each place, on the months that both sides (and ``months``) have.

        NaN at places with fewer than ``min_months`` of them, or whose observed months are constant.
        """
        known = np.isfinite(self.observed) & np.isfinite(forecast)
        if months is not None:
            known &= months
        skill = PlaceSkill(*(np.full(len(self.covers), np.nan) for _ in range(4)))
        enough = np.flatnonzero(known.sum(1) >= self.min_months)
        enough = enough[[_spread(self.observed[p][known[p]]) > MIN_STD for p in enough]]
        if not len(enough):
            return skill
        observed, made = (
            xr.DataArray(np.where(known, v, np.nan)[enough], dims=("place", "month"))
            for v in (self.observed, forecast)
        )
        constant = np.array([_spread(forecast[p][known[p]]) <= MIN_STD for p in enough])
        correlation = pearsonr(made, observed, preserve_dims="place").to_numpy()
        skill.r2[enough] = np.where(constant, 0.0, correlation**2)
        skill.rmse[enough] = rmse(made, observed, preserve_dims="place").to_numpy()
        efficiency = nse(made, observed, preserve_dims="place").to_numpy()
        skill.nnse[enough] = 1 / (2 - efficiency)
        skill.bias[enough] = np.abs(additive_bias(made, observed, preserve_dims="place"))
        return skill


def _spread(values: Values) -> float:
    """Standard deviation of a few months."""
    return float(values.std())


def gains_over(months: Months, forecast: Values, climatology_forecast: Values) -> PlaceSkill:
    """How much better a forecast is than the climatology, on months of both; above 0 is better."""
    both = np.isfinite(forecast) & np.isfinite(climatology_forecast)
    ours = months.skill(forecast, both)
    climatology = months.skill(climatology_forecast, both)
    return PlaceSkill(
        ours.r2 - climatology.r2,
        climatology.rmse - ours.rmse,
        ours.nnse - climatology.nnse,
        climatology.bias - ours.bias,
    )


def outperforms(gains: PlaceSkill) -> Values:
    """1 where at least `MIN_GAINS` of the gains exceed `GAINS`, 0 where not, NaN if not known."""
    wins = sum((getattr(gains, name) > least).astype(int) for name, least in GAINS.items())
    return np.asarray(np.where(np.isnan(gains.rmse), np.nan, wins >= MIN_GAINS))
