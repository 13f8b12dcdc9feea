"""Metrics as plain functions of arrays: formula, unit, range and source in each docstring.

Feature networks and index maps come in as arrays; nothing here knows what an image shows. All
arithmetic is float64. A statistic that is not defined (the correlation of a constant) is NaN.

Longer than the budget because each function carries its formula, units and paper.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

Values = NDArray[np.float64]
Groups = Sequence[str] | NDArray[np.str_]


class KernelDistance(NamedTuple):
    """Kernel distance over random subsets."""

    mean: float
    std: float
    """Standard deviation over subsets (ddof 0); subsets overlap, so this is no standard error."""


class Interval(NamedTuple):
    """A percentile interval."""

    low: float
    high: float


def frechet_distance(features_a: ArrayLike, features_b: ArrayLike) -> float:
    """Fréchet distance between Gaussians fitted to two sets of features.

    Computes ``|mu_a - mu_b|^2 + tr(S_a + S_b - 2 (S_a S_b)^(1/2))`` with sample covariances
    (ddof 1). With centred features A and B, ``S_a S_b`` has the non-zero eigenvalues of
    ``(A B^T)(A B^T)^T / ((n_a - 1)(n_b - 1))``, so the trace of its root is the sum of singular
    values of ``A B^T``: no matrix root, and exact where there are fewer images than features.

    The estimate is biased upwards at small n, more so with more features: compare only values
    of equal n (Chong & Forsyth 2020, https://arxiv.org/abs/1911.07023).

    Args:
        features_a: ``(N, D)``.
        features_b: ``(M, D)``.

    Returns:
        Squared distance, >= 0, in squared units of the features; 0 for equal means and covariances.

    Raises:
        ValueError: If a set has fewer than two rows or the widths differ.

    References:
        Heusel et al. (2017), GANs Trained by a Two Time-Scale Update Rule Converge to a Local Nash
        Equilibrium, https://arxiv.org/abs/1706.08500
    """
    a, b = _feature_pair(features_a, features_b)
    mean_a, mean_b = a.mean(0), b.mean(0)
    root_a, root_b = _covariance_root(a - mean_a), _covariance_root(b - mean_b)
    cross = np.linalg.svd(root_a @ root_b.T, compute_uv=False).sum()
    distance = ((mean_a - mean_b) ** 2).sum() + (root_a**2).sum() + (root_b**2).sum() - 2 * cross
    return max(0.0, float(distance))


def _covariance_root(centred: Values) -> Values:
    """R with ``R^T R`` the sample covariance; at most as many rows as features."""
    scaled = centred / np.sqrt(len(centred) - 1)
    return np.asarray(np.linalg.qr(scaled, mode="r")) if len(scaled) > scaled.shape[1] else scaled


def kernel_distance(
    features_a: ArrayLike,
    features_b: ArrayLike,
    *,
    subset_size: int = 100,
    num_subsets: int = 100,
    seed: int = 0,
) -> KernelDistance:
    """Kernel distance (KID): unbiased squared MMD with kernel ``(x . y / D + 1)^3``.

    ``mean_{i != j} k(a_i, a_j) + mean_{i != j} k(b_i, b_j) - 2 mean_{i, j} k(a_i, b_j)`` of
    ``subset_size`` rows drawn from each set without replacement, over ``num_subsets`` draws.

    Args:
        features_a: ``(N, D)``.
        features_b: ``(M, D)``.
        subset_size: Rows drawn from each set, 2 to min(N, M).
        num_subsets: Number of draws.
        seed: Seed of the draws.

    Returns:
        Mean and standard deviation over draws. The expected mean is 0 for samples of one
        distribution, so it may be slightly negative; it does not depend on the number of images.

    Raises:
        ValueError: If a set has fewer rows than ``subset_size`` or the widths differ.

    References:
        Binkowski et al. (2018), Demystifying MMD GANs, https://arxiv.org/abs/1801.01401
    """
    a, b = _feature_pair(features_a, features_b)
    if not 2 <= subset_size <= min(len(a), len(b)):
        raise ValueError(
            f"subset_size must lie in [2, {min(len(a), len(b))}], the smaller set; got "
            f"{subset_size}."
        )
    rng = np.random.default_rng(seed)
    draws = [
        _squared_mmd(
            a[rng.choice(len(a), subset_size, replace=False)],
            b[rng.choice(len(b), subset_size, replace=False)],
        )
        for _ in range(num_subsets)
    ]
    return KernelDistance(float(np.mean(draws)), float(np.std(draws)))


def _squared_mmd(a: Values, b: Values) -> float:
    """Unbiased squared maximum mean discrepancy, polynomial kernel of degree 3."""
    num, width = a.shape
    within_a, within_b, between = ((x @ y.T / width + 1) ** 3 for x, y in ((a, a), (b, b), (a, b)))
    within = within_a.sum() - np.trace(within_a) + within_b.sum() - np.trace(within_b)
    return float(within / (num * (num - 1)) - 2 * between.mean())


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


def _feature_pair(a: ArrayLike, b: ArrayLike) -> tuple[Values, Values]:
    """Both as float64 matrices of one width, with at least two rows."""
    x, y = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1] or min(len(x), len(y)) < 2:
        raise ValueError(
            f"Need two feature matrices of one width and two or more rows, got {x.shape} and "
            f"{y.shape}."
        )
    return x, y
