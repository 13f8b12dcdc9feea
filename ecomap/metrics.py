"""Metrics as plain functions of arrays: formula, unit, range and source in each docstring.

Index maps come in as arrays; nothing here knows what an image shows. Distances between sets of
features are in `ecomap.frechet`, `ecomap.kernels` and `ecomap.manifold`. All arithmetic is float64.
A statistic that is not defined (the correlation of a constant) is NaN.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

Values = NDArray[np.float64]
Groups = Sequence[str] | NDArray[np.str_]


class Interval(NamedTuple):
    """A percentile interval."""

    low: float
    high: float


def rmse(a: ArrayLike, b: ArrayLike) -> float:
    """Root mean squared error ``sqrt(mean((a - b)^2))``: unit of the values, >= 0."""
    x, y = _value_pair(a, b)
    return float(np.sqrt(((x - y) ** 2).mean()))


def mean_absolute_error(a: ArrayLike, b: ArrayLike) -> float:
    """Mean absolute error ``mean(|a - b|)``: unit of the values, >= 0."""
    x, y = _value_pair(a, b)
    return float(np.abs(x - y).mean())


def pearson(a: ArrayLike, b: ArrayLike) -> float:
    """Product-moment correlation in [-1, 1]; NaN if either side is constant.

    References:
        Pearson (1895), Note on Regression and Inheritance in the Case of Two Parents,
        https://doi.org/10.1098/rspl.1895.0041
    """
    x, y = (_centred(values) for values in _value_pair(a, b))
    scale = np.linalg.norm(x) * np.linalg.norm(y)
    return float(np.clip(x @ y / scale, -1, 1)) if scale > 0 else float("nan")


def spearman(a: ArrayLike, b: ArrayLike) -> float:
    """Rank correlation in [-1, 1]: `pearson` of ranks, ties sharing their mean rank.

    NaN if either side is constant.

    References:
        Spearman (1904), The Proof and Measurement of Association between Two Things,
        https://doi.org/10.2307/1412159
    """
    x, y = _value_pair(a, b)
    return pearson(stats.rankdata(x), stats.rankdata(y))


def psnr(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> float:
    """Peak signal-to-noise ratio of two 8-bit images: ``10 log10(255^2 / mean((a - b)^2))``.

    Returns:
        Decibels; infinite for equal images, 0 for black against white.

    Raises:
        TypeError: If an image is not ``uint8``: the peak would not be 255.
        ValueError: If the shapes differ.
    """
    for image in (a, b):
        if image.dtype != np.uint8:
            raise TypeError(f"PSNR with peak 255 needs uint8 images, got {image.dtype}.")
    error = rmse(a, b)
    return float(20 * np.log10(255 / error)) if error > 0 else float("inf")


def group_anomaly(values: ArrayLike, groups: Groups) -> Values:
    """Each value minus the mean of its group, such as a month minus the place's own mean.

    Args:
        values: ``(N,)``.
        groups: Group of each value, ``(N,)``.

    Returns:
        ``(N,)`` in the unit of the values; exactly 0 in a group of equal values.

    Raises:
        ValueError: If the lengths differ.
    """
    x = np.asarray(values, np.float64)
    members = _members(groups, len(x))
    anomaly = np.empty_like(x)
    for index in members:
        anomaly[index] = _centred(x[index])
    return anomaly


def slope_through_origin(x: ArrayLike, y: ArrayLike) -> float:
    """Least-squares slope without an intercept: ``sum(x y) / sum(x x)``.

    Of `group_anomaly` values it is the slope within groups (the fixed-effects estimator): what
    differs between groups for any reason does not enter.

    Returns:
        Units of y per unit of x; NaN if ``x`` is zero everywhere.

    References:
        Wooldridge (2010), Econometric Analysis of Cross Section and Panel Data, sec. 10.5,
        https://mitpress.mit.edu/9780262232586
    """
    a, b = _value_pair(x, y)
    scale = float(a @ a)
    return float(a @ b) / scale if scale > 0 else float("nan")


def bootstrap_interval(
    values: ArrayLike,
    groups: Groups,
    statistic: Callable[[Values], float],
    *,
    num: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> Interval:
    """Percentile interval of a statistic when whole groups are drawn with replacement.

    Observations of one place are not independent of each other, so places are drawn, not
    observations. A draw whose statistic is undefined (NaN) is left out.

    Args:
        values: Observations along the first axis, ``(N, ...)``.
        groups: Group of each observation, ``(N,)``.
        statistic: Function of the drawn observations ``(n, ...)``.
        num: Number of draws.
        seed: Seed of the draws.
        level: Probability of the interval, in (0, 1).

    Returns:
        Quantiles ``(1 - level) / 2`` and ``(1 + level) / 2`` over draws, unit of the statistic;
        NaN if it is undefined in every draw, or there is but one group to draw.

    Raises:
        ValueError: If there are no observations, or the lengths differ.

    References:
        Efron & Tibshirani (1993), An Introduction to the Bootstrap, ch. 13,
        https://doi.org/10.1201/9780429246593
    """
    array = np.asarray(values, np.float64)
    members = _members(groups, len(array))
    rng = np.random.default_rng(seed)
    draws = np.array(
        [
            statistic(array[np.concatenate([members[i] for i in drawn])])
            for drawn in rng.integers(0, len(members), (num, len(members)))
        ]
    )
    defined = draws[~np.isnan(draws)]
    if not len(defined) or len(members) < 2:
        return Interval(float("nan"), float("nan"))
    low, high = np.quantile(defined, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(low), float(high))


def mean_interval(
    values: ArrayLike, groups: Groups, *, num: int = 1000, seed: int = 0, level: float = 0.95
) -> Interval:
    """`bootstrap_interval` of the mean, from sums of groups: the same law, many times faster.

    Args:
        values: ``(N,)``.
        groups: Group of each value, ``(N,)``.
        num: Number of draws.
        seed: Seed of the draws.
        level: Probability of the interval, in (0, 1).

    Returns:
        Unit of the values; NaN if there is but one group.

    Raises:
        ValueError: If there are no values, or the lengths differ.
    """
    array = np.asarray(values, np.float64)
    members = _members(groups, len(array))
    if len(members) < 2:
        return Interval(float("nan"), float("nan"))
    sums = np.array([array[index].sum() for index in members])
    sizes = np.array([len(index) for index in members])
    rng = np.random.default_rng(seed)
    drawn = rng.integers(0, len(members), (num, len(members)))
    means = sums[drawn].sum(1) / sizes[drawn].sum(1)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(low), float(high))


def recentred_interval(
    value: float, draws: ArrayLike, *, level: float = 0.95, minimum: float = -np.inf
) -> Interval:
    """Interval around an estimate from the scatter of bootstrap draws around their own mean.

    For statistics that bootstrap draws misplace: a distance between sets grows when some images
    are missing and others stand twice, so that draws lie above the estimate, often all of them. How
    they scatter still tells how the estimate does; the interval is
    ``value + quantiles(draws - mean(draws))``.

    Args:
        value: The estimate.
        draws: The statistic in bootstrap draws, ``(S,)``; undefined ones (NaN) are left out.
        level: Probability of the interval, in (0, 1).
        minimum: Smallest value that the statistic can have.

    Returns:
        Unit of the value; NaN if fewer than two draws are defined.

    References:
        Efron & Tibshirani (1993), An Introduction to the Bootstrap, ch. 10,
        https://doi.org/10.1201/9780429246593
    """
    array = np.asarray(draws, np.float64)
    defined = array[~np.isnan(array)]
    if len(defined) < 2:
        return Interval(float("nan"), float("nan"))
    low, high = np.quantile(defined - defined.mean(), [(1 - level) / 2, (1 + level) / 2])
    return Interval(max(minimum, value + float(low)), max(minimum, value + float(high)))


def _centred(values: Values) -> Values:
    """Values minus their mean; exactly 0 where all are equal, whatever the rounding."""
    shifted = values - values[0]
    return np.asarray(shifted - shifted.mean())


def _members(groups: Groups, num: int) -> list[NDArray[np.intp]]:
    """Indices of the observations of each group, groups in sorted order."""
    if len(groups) != num or num == 0:
        raise ValueError(
            f"Need one group for each of at least one value; got {len(groups)} groups "
            f"for {num} values."
        )
    _, codes = np.unique(np.asarray(groups), return_inverse=True)
    order = np.argsort(codes, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(codes[order])) + 1)


def _value_pair(a: ArrayLike, b: ArrayLike) -> tuple[Values, Values]:
    """Both as float64 of one shape, not empty."""
    x, y = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if x.shape != y.shape or x.size == 0:
        raise ValueError(f"Need two non-empty arrays of one shape, got {x.shape} and {y.shape}.")
    return x, y
