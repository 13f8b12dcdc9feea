"""Draws of panels: intervals from blocks of places, p values from exchanged series.

Intervals draw blocks of places with replacement, and each draw fits what is held fixed again: sums
of products by block are enough for that, so a draw costs no pass over the rows. P values exchange
whole series between places, which keeps season and autocorrelation.

References:
    Cameron, Gelbach & Miller (2008), Bootstrap-Based Improvements for Inference with Clustered
    Errors, https://doi.org/10.1162/rest.90.3.414
    Winkler et al. (2014), Permutation Inference for the General Linear Model,
    https://doi.org/10.1016/j.neuroimage.2014.01.060
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from ecomap.panel import Codes, Held, Moments, Values, ratios, rounded, scatter

NEGLIGIBLE_DRAWN = 1e-9
"""`ecomap.panel.NEGLIGIBLE` of a draw, whose sums of squares are differences of larger sums."""

RIDGE = 1e-12
"""Added to the unit diagonal of what is held fixed, so that a draw without some month is solved."""

MAX_ELEMENTS = 4_000_000
"""Draws times rows that are ranked at a time; it bounds memory to about 200 MB."""


def drawn_correlations(
    held: Held, x: Values, y: Values, blocks: Codes, draws: Values
) -> tuple[Values, Values]:
    """`correlations` of each bootstrap sample, all effects fitted again to it.

    A place that is drawn twice counts as two places with means of their own, which changes no mean
    within places; effects of months and of other climate change with each draw.

    Args:
        held: What is held fixed.
        x: ``(N,)``.
        y: ``(N, m)``.
        blocks: Block of each row, ``(N,)`` from 0; a place lies in one block.
        draws: How often each draw has each block, ``(draws, num_blocks)``.

    Returns:
        Correlations and slopes, each ``(draws, m)``.
    """
    moments = _drawn_moments(held, x, y, blocks[held.rows], draws)
    return ratios(
        moments,
        total_x=scatter(x[held.rows]),
        total_y=scatter(y[held.rows]),
        negligible=NEGLIGIBLE_DRAWN,
    )


def _drawn_moments(held: Held, x: Values, y: Values, blocks: Codes, draws: Values) -> Moments:
    """Sums of products of residuals, from sums of products by block (a Schur complement)."""
    both = held.centred(np.column_stack([x, y]))
    both = both - both.mean(0) if len(both) else both  # smaller numbers lose fewer digits
    num_fixed, num_columns = held.nuisance.shape[1], both.shape[1]
    fixed = np.zeros((draws.shape[1], num_fixed, num_fixed))
    mixed = np.zeros((draws.shape[1], num_fixed, num_columns))
    with_x = np.zeros((draws.shape[1], num_columns))
    squares = np.zeros((draws.shape[1], num_columns))
    for block in np.unique(blocks):
        nuisance, part = held.nuisance[blocks == block], both[blocks == block]
        fixed[block], mixed[block] = nuisance.T @ nuisance, nuisance.T @ part
        with_x[block], squares[block] = part[:, 0] @ part, (part**2).sum(0)
    with_x, squares = draws @ with_x, draws @ squares
    if num_fixed:
        fixed = (draws @ fixed.reshape(len(fixed), -1)).reshape(-1, num_fixed, num_fixed)
        mixed = (draws @ mixed.reshape(len(mixed), -1)).reshape(-1, num_fixed, num_columns)
        fitted = np.linalg.solve(fixed + RIDGE * np.eye(num_fixed), mixed)
        with_x = with_x - np.einsum("br,brm->bm", mixed[:, :, 0], fitted)
        squares = squares - np.einsum("brm,brm->bm", mixed, fitted)
    return Moments(squares[:, 0], with_x[:, 1:], squares[:, 1:])


def block_draws(num_blocks: int, num: int, seed: int) -> Values:
    """How often each bootstrap sample has each block, ``(num, num_blocks)``.

    The draws are those of `ecomap.metrics.bootstrap_interval` with the same seed.
    """
    drawn = np.random.default_rng(seed).integers(0, num_blocks, (num, num_blocks))
    flat = drawn + num_blocks * np.arange(num)[:, None]
    return np.bincount(flat.ravel(), minlength=num * num_blocks).reshape(num, -1).astype(float)


def interval(drawn: Values, num_blocks: int, level: float) -> tuple[float, float]:
    """Percentile interval of ``(draws,)``; NaN if no draw is defined, or there is but one block."""
    defined = drawn[np.isfinite(drawn)]
    if not len(defined) or num_blocks < 2:
        return float("nan"), float("nan")
    low, high = np.quantile(defined, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def drawn_means(values: Values, blocks: Codes, draws: Values) -> Values:
    """Mean of values ``(N,)`` in each draw, ``(draws,)``; NaN in a draw without any."""
    num_blocks = draws.shape[1]
    sums = draws @ np.bincount(blocks, values, num_blocks)
    counts = draws @ np.bincount(blocks, minlength=num_blocks)
    defined = counts > 0
    return np.where(defined, sums / np.where(defined, counts, 1), np.nan)


def drawn_spearman(x: Values, y: Values, blocks: Codes, draws: Values) -> Values:
    """`spearman` of each bootstrap sample ``(draws, m)``, ranked again in each.

    Residuals enter as they are: what was held fixed is not fitted again.
    """
    found = np.empty((len(draws), y.shape[1]))
    for part in _parts(len(draws), len(x)):
        weights = draws[part][:, blocks]
        ranks_x = _centred_ranks(x, weights)
        squares_x = (weights * ranks_x**2).sum(1)
        for column in range(y.shape[1]):
            ranks_y = _centred_ranks(y[:, column], weights)
            scale = np.sqrt(squares_x * (weights * ranks_y**2).sum(1))
            products = (weights * ranks_x * ranks_y).sum(1)
            found[part, column] = np.divide(
                products, scale, out=np.full(len(scale), np.nan), where=scale > 1e-9
            )
    return found


def drawn_medians(values: Values, blocks: Codes, draws: Values) -> Values:
    """Median of values ``(N,)`` in each draw, ``(draws,)``; NaN in a draw without any."""
    order = np.argsort(values, kind="stable")
    found = np.full(len(draws), np.nan)
    for part in _parts(len(draws), len(values)):
        counts = draws[part][:, blocks[order]].cumsum(1)
        half, defined = counts[:, -1:] / 2, counts[:, -1] > 0
        lower, upper = (counts < half).sum(1), (counts <= half).sum(1)
        last = len(values) - 1
        middle = (values[order][np.minimum(lower, last)], values[order][np.minimum(upper, last)])
        found[part] = np.where(defined, (middle[0] + middle[1]) / 2, np.nan)
    return found


def _parts(num_draws: int, num_rows: int) -> Iterator[slice]:
    """Slices of draws of bounded size."""
    step = max(1, MAX_ELEMENTS // max(num_rows, 1))
    return (slice(start, start + step) for start in range(0, num_draws, step))


def _centred_ranks(values: Values, weights: Values) -> Values:
    """Ranks of values ``(n,)`` with copies as ``weights`` ``(draws, n)`` say, centred.

    Ties and copies share their mean rank.
    """
    different, turn = np.unique(rounded(values), return_inverse=True)
    order = np.argsort(turn, kind="stable")
    starts = np.searchsorted(turn[order], np.arange(len(different)))
    copies = np.add.reduceat(weights[:, order], starts, axis=1)
    ranks = copies.cumsum(1) - (copies - 1) / 2
    return np.asarray(ranks[:, turn] - (weights.sum(1, keepdims=True) + 1) / 2)


def exchanges(strata: Codes, num: int, seed: int) -> NDArray[np.intp]:
    """Random permutations of places that stay in their stratum.

    Args:
        strata: Stratum of each place, ``(P,)``.
        num: Number of permutations.
        seed: Seed.

    Returns:
        ``(num, P)``: the place whose series each place gets.
    """
    rng = np.random.default_rng(seed)
    found = np.tile(np.arange(len(strata)), (num, 1))
    for stratum in np.unique(strata):
        members = np.flatnonzero(strata == stratum)
        found[:, members] = rng.permuted(np.tile(members, (num, 1)), axis=1)
    return found


def fill_series(series: Values) -> Values:
    """Complete monthly series ``(P, T)``, first month January: gaps get a mean.

    A gap takes the mean of the place's other years of that calendar month, or of all its months
    where it has none. Only donors of `exchanges` are filled: what a statistic is computed from
    is not.

    Raises:
        ValueError: If a series has no value at all.
    """
    known = np.isfinite(series)
    if not known.any(1).all():
        raise ValueError(f"Series {np.flatnonzero(~known.any(1)).tolist()} have no value at all.")
    plain = np.where(known, series, 0.0)
    whole = plain.sum(1) / known.sum(1)
    filled = series.copy()
    for month in range(12):
        own, count = plain[:, month::12].sum(1), known[:, month::12].sum(1)
        mean = np.where(count > 0, own / np.maximum(count, 1), whole)
        part = filled[:, month::12]
        filled[:, month::12] = np.where(np.isfinite(part), part, mean[:, None])
    return filled


def two_sided_p(value: Values, null: Values) -> Values:
    """Two-sided p values ``(m,)`` of values against draws of their null ``(num, m)``.

    Twice the smaller tail, the value itself counted as a draw: never 0, at most 1, and right for
    nulls that do not centre on 0, as those that keep the season. NaN where a value is.

    References:
        Phipson & Smyth (2010), Permutation P-values Should Never Be Zero,
        https://doi.org/10.2202/1544-6115.1585
    """
    # A draw that exchanges nothing differs from the value by rounding alone.
    above = (null >= value - 1e-12).sum(0)
    below = (null <= value + 1e-12).sum(0)
    p = np.minimum(1.0, 2 * (1 + np.minimum(above, below)) / (1 + len(null)))
    return np.where(np.isnan(value), np.nan, p)
