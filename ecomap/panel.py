"""Panels of places and months: what is left of a variable once place, season or climate is fixed.

A tile is a row. A *place* has a series of months. `hold` says what a statistic holds fixed; the
residuals of two variables are then correlated, which is their partial correlation (theorem of
Frisch, Waugh and Lovell). `ecomap.panel_draws` has the intervals and p values.

Undefined numbers (the correlation of a constant) are NaN. All arithmetic is float64.

References:
    Frisch & Waugh (1933), Partial Time Regressions as Compared with Individual Trends,
    https://doi.org/10.2307/1907330
    Lovell (1963), Seasonal Adjustment of Economic Time Series,
    https://doi.org/10.1080/01621459.1963.10480682
    Wooldridge (2010), Econometric Analysis of Cross Section and Panel Data, ch. 10,
    https://mitpress.mit.edu/9780262232586
"""

from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

Values = NDArray[np.float64]
Codes = NDArray[np.intp]

Control = Literal[
    "raw",
    "within place",
    "deseasonalised",
    "given place and month",
    "given each place's own season",
    "given place, month and the other climate",
]

NEGLIGIBLE = 1e-12
"""Share of a variable's variance below which what is left of it is rounding: it is constant."""


MIN_SEASON_ROWS = 6
"""Rows of a place from which its own season is fitted: twice the numbers that are fitted."""


class Moments(NamedTuple):
    """Sums of products of residuals, by draw."""

    xx: Values
    """``(draws,)``"""
    xy: Values
    """``(draws, m)``"""
    yy: Values
    """``(draws, m)``"""


def codes(values: ArrayLike) -> Codes:
    """Number of each value among the sorted different values, ``(N,)`` from 0."""
    return np.unique(np.asarray(values), return_inverse=True)[1].astype(np.intp)


def season_codes(month_index: ArrayLike, lat: ArrayLike) -> Codes:
    """Calendar month of each hemisphere: 0 to 11 in the north, 12 to 23 in the south.

    One effect a calendar month for the whole Earth would leave half of the seasons in: July is
    summer here and winter there.

    Args:
        month_index: 0 to 11, ``(N,)``.
        lat: Degrees; what is not known counts as north.
    """
    south = np.asarray(lat, np.float64) < 0
    return np.asarray(month_index).astype(np.intp) + 12 * south


@dataclass(frozen=True)
class Held:
    """What a control holds fixed in one panel."""

    rows: Codes
    """Rows of the panel that can say anything: those of groups that are large enough."""
    groups: Codes
    """Group of each such row, which lies in one place."""
    local: Values
    """``(n, k)`` columns, orthonormal in each group, that are regressed out of each group."""
    nuisance: Values
    """``(n, r)`` orthonormal columns without local parts, regressed out of all rows at once."""

    def centred(self, values: Values) -> Values:
        """Values ``(N, ...)`` at the rows without what is local to groups, ``(n, ...)``."""
        return _without(values[self.rows], self.groups, self.local)

    def residuals(self, values: Values) -> Values:
        """What is left of values ``(N, ...)`` at the rows, ``(n, ...)``."""
        centred = self.centred(values)
        return np.asarray(centred - self.nuisance @ (self.nuisance.T @ centred))


def _without(values: Values, groups: Codes, local: Values) -> Values:
    """Values ``(n, ...)`` minus their projection on orthonormal columns of each group."""
    left = values
    for column in local.T:
        weights = column.reshape(-1, *[1] * (values.ndim - 1))
        sums = np.zeros((int(groups.max(initial=-1)) + 1, *values.shape[1:]))
        np.add.at(sums, groups, weights * values)
        left = left - weights * sums[groups]
    return np.asarray(left)


def hold(control: Control, places: Codes, months: Codes, others: Values | None = None) -> Held:
    """Prepare a control for the rows of a panel, balanced or not.

    ``raw``: the mean. ``within place``: the mean of each place. ``deseasonalised``: the mean of
    each place's calendar month, so only months that a place has in two or more years count.
    ``given place and month``: effects of places and of months, as dummies of both in a regression.
    ``given each place's own season``: these, and for each place a yearly wave of its own size and
    phase, so only places with `MIN_SEASON_ROWS` rows count.
    ``given place, month and the other climate``: effects of places and months, and ``others``.

    Args:
        control: What is held fixed.
        places: Place of each row, ``(N,)`` from 0.
        months: Calendar month of each row, ``(N,)`` from 0; see `season_codes`.
        others: Further variables held fixed by the last control, ``(N, k)``.
    """
    everything = np.arange(len(places))
    if control == "raw":
        local, groups = np.zeros((len(places), 0)), np.zeros(len(places), np.intp)
        return Held(
            everything, groups, local, np.full((len(places), 1), max(len(places), 1) ** -0.5)
        )
    cells = codes(places * 100 + months) if control == "deseasonalised" else places
    least = MIN_SEASON_ROWS if control == "given each place's own season" else 2
    sizes = np.bincount(cells, minlength=1)
    rows = everything[sizes[cells] >= least]
    groups = codes(cells[rows])
    local = 1 / np.sqrt(np.bincount(groups, minlength=1)[groups])[:, None]
    if control == "given each place's own season":
        local = _waves(groups, months[rows])
    if control in ("within place", "deseasonalised"):
        return Held(rows, groups, local, np.zeros((len(rows), 0)))
    columns = np.eye(int(months.max(initial=0)) + 1)[months[rows]]
    if control == "given place, month and the other climate" and others is not None:
        # Of unit variance, or the threshold of `_basis` would depend on their units.
        spread = others[rows].std(0) if len(rows) else np.ones(others.shape[1])
        columns = np.hstack([columns, others[rows] / np.where(spread > 0, spread, 1)])
    return Held(rows, groups, local, _basis(_without(columns, groups, local)))


def _waves(groups: Codes, months: Codes) -> Values:
    """Mean and yearly wave of each group as orthonormal columns ``(n, 3)``."""
    angle = 2 * np.pi * months / 12
    columns = np.column_stack([np.ones(len(groups)), np.cos(angle), np.sin(angle)])
    found = np.zeros_like(columns)
    for group in np.unique(groups):
        basis = _basis(columns[groups == group])
        found[groups == group, : basis.shape[1]] = basis
    return found


def _basis(columns: Values) -> Values:
    """Orthonormal columns ``(n, r)`` that span the given ones."""
    if not len(columns):
        return np.zeros((0, 0))
    left, scale, _ = np.linalg.svd(columns, full_matrices=False)
    return np.asarray(left[:, scale > 1e-9 * max(float(scale.max()), 1e-300)])


def correlations(held: Held, x: Values, y: Values) -> tuple[Values, Values]:
    """Partial Pearson correlations and slopes of columns ``y`` on ``x``.

    The slope equals the coefficient of ``x`` in ordinary least squares with dummies for all that is
    held fixed.

    Args:
        held: What is held fixed.
        x: ``(N,)``.
        y: ``(N, m)``.

    Returns:
        Correlations in [-1, 1], NaN where a side is constant once controlled, and slopes in units
        of y per unit of x, NaN where ``x`` is and 0 where only the column of ``y`` is; ``(m,)``.
    """
    left_x, left_y = held.residuals(x), held.residuals(y)
    return ratios(
        Moments((left_x**2).sum(0)[None], (left_x @ left_y)[None], (left_y**2).sum(0)[None]),
        total_x=scatter(x[held.rows]),
        total_y=scatter(y[held.rows]),
        negligible=NEGLIGIBLE,
    )


def spearman(x: Values, y: Values) -> Values:
    """Rank correlations of columns ``y`` ``(n, m)`` with ``x`` ``(n,)``; NaN for a constant.

    Differences of less than 1e-9 of the largest value are rounding of residuals: they are ties.
    """
    ranks_x, ranks_y = (stats.rankdata(rounded(v), axis=0) for v in (x, y))
    a, b = ranks_x - ranks_x.mean(), ranks_y - ranks_y.mean(0)
    scale = np.sqrt((a @ a) * (b**2).sum(0))
    return np.asarray((a @ b) / np.where(scale > 0, scale, np.nan))


def rounded(values: Values) -> Values:
    """Values in steps of 1e-9 of the largest, so that equal residuals are equal."""
    largest = np.abs(values).max(0, initial=0)
    return np.asarray(np.round(values / np.where(largest > 0, largest, 1), 9))


def scatter(values: Values) -> Values:
    """Sum of squares about the mean, along the first axis; never below 1e-14 of that about 0.

    The mean of equal numbers may differ from them by rounding, which is no variation.
    """
    if not len(values):
        return np.zeros(values.shape[1:])
    centred = values - values.mean(0)
    return np.asarray(np.maximum((centred**2).sum(0), 1e-14 * (values**2).sum(0)))


def ratios(
    moments: Moments, *, total_x: Values, total_y: Values, negligible: float
) -> tuple[Values, Values]:
    """Correlation and slope where both sides vary, NaN elsewhere; one leading axis of 1 goes."""
    xx = np.where(moments.xx > negligible * total_x, moments.xx, np.nan)[:, None]
    yy = np.where(moments.yy > negligible * total_y, moments.yy, np.nan)
    correlation = np.clip(moments.xy / np.sqrt(xx * yy), -1, 1)
    slope = np.where(np.isnan(yy) & ~np.isnan(xx), 0.0, moments.xy / xx)
    return (correlation[0], slope[0]) if len(correlation) == 1 else (correlation, slope)
