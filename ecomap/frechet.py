"""Fréchet distance between Gaussians fitted to two sets of features, and what it is at infinity."""

from collections.abc import Iterable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ecomap.moments import Moments

Values = NDArray[np.float64]
Counts = NDArray[np.integer]

NUM_LEVELS = 5
"""Numbers of images, from half of a set to all of it, through which the line in 1/n is laid."""
EXACT_ROWS = 512
"""Images up to which singular values are computed as such."""
MIN_EXTRAPOLATED = 6
"""Images a side that such a line needs: half of them still have a covariance."""


def frechet_distance(a: ArrayLike | Moments, b: ArrayLike | Moments) -> float:
    """Fréchet distance (FID for Inception features) of two sets.

    Computes ``|mu_a - mu_b|^2 + tr(S_a + S_b - 2 (S_a S_b)^(1/2))`` with sample covariances
    (ddof 1). Where images are fewer than features, ``S_a = A^T A`` and ``S_b = B^T B`` with few
    rows, and the trace of the root is the sum of singular values of ``A B^T``, as small as the
    sets, and exact up to `EXACT_ROWS`. Else it is the sum of roots of the eigenvalues of
    ``A S_b A^T``, A then being the Cholesky factor of ``S_a``: much faster, and good to about 1e-8
    of the traces where a set hardly varies in some direction.

    The estimate is biased upwards at small n, more so with more features: compare only values
    of equal n (Chong & Forsyth 2020, https://arxiv.org/abs/1911.07023).

    Args:
        a: Features ``(N, D)`` or their `Moments`.
        b: Features ``(M, D)`` or their `Moments`.

    Returns:
        Squared distance, >= 0, in squared units of the features; 0 for equal means and covariances.

    Raises:
        ValueError: If a set has fewer than two images or the widths differ.

    References:
        Heusel et al. (2017), GANs Trained by a Two Time-Scale Update Rule Converge to a Local Nash
        Equilibrium, https://arxiv.org/abs/1706.08500
    """
    first, second = (x if isinstance(x, Moments) else Moments.of(x) for x in (a, b))
    if first.width != second.width or min(first.count, second.count) < 2:
        raise ValueError(
            "Need two sets of one width and two or more images, got "
            f"{(first.count, first.width)} and {(second.count, second.width)}."
        )
    degrees = first.count - 1, second.count - 1
    cross = _trace_of_root(first, second) / np.sqrt(degrees[0] * degrees[1])
    traces = first.trace / degrees[0] + second.trace / degrees[1]
    return max(0.0, float(((first.mean - second.mean) ** 2).sum() + traces - 2 * cross))


def _trace_of_root(a: Moments, b: Moments) -> float:
    """``tr (C_a C_b)^(1/2)`` of two scatters, from the rows of those that have them."""
    rows_a, rows_b = a.rows, b.rows
    if rows_a is not None and rows_b is not None:
        return _sum_of_singular_values(rows_a @ rows_b.T)
    if rows_a is None and rows_b is not None:
        a, b, rows_a = b, a, rows_b
    root = _factor(a.scatter) if rows_a is None else rows_a
    return _sum_of_roots(root @ b.scatter @ root.T)


def _sum_of_singular_values(matrix: Values) -> float:
    """Exact for a matrix of few rows or columns, several times faster for a large one."""
    if min(matrix.shape) <= EXACT_ROWS:
        return float(np.linalg.svd(matrix, compute_uv=False).sum())
    narrow = matrix if len(matrix) <= matrix.shape[1] else matrix.T
    return _sum_of_roots(narrow @ narrow.T)


def _factor(scatter: Values) -> Values:
    """R with ``R^T R`` the scatter."""
    try:
        return np.asarray(np.linalg.cholesky(scatter).T)
    except np.linalg.LinAlgError:  # a direction without any spread
        values, vectors = np.linalg.eigh(scatter)
        return np.asarray(np.sqrt(values.clip(0))[:, None] * vectors.T)


def _sum_of_roots(matrix: Values) -> float:
    """Sum of the roots of the eigenvalues of a positive semidefinite matrix."""
    return float(np.sqrt(np.linalg.eigvalsh(matrix).clip(0)).sum())


class FrechetPair:
    """Two sets between whose weighted versions many Fréchet distances are wanted.

    An image with count c stands for c copies of itself, as in bootstrap draws; images with count 0
    cost nothing. The matrix of inner products is made once where it is the cheaper way (n below
    about twice the width), so that a distance costs ``min(n, D)^3`` with n its different images.
    Distances are good to about 1e-8 of the traces.

    Args:
        features_a: ``(N, D)``.
        features_b: ``(M, D)``.

    Raises:
        ValueError: If the widths differ or the features are no matrices.
    """

    def __init__(self, features_a: ArrayLike, features_b: ArrayLike) -> None:
        a, b = np.asarray(features_a, np.float64), np.asarray(features_b, np.float64)
        if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1]:
            raise ValueError(f"Need feature matrices of one width, got {a.shape} and {b.shape}.")
        # Distances do not change with the origin; near the data nothing cancels.
        origin = (a.sum(0) + b.sum(0)) / max(len(a) + len(b), 1)
        self._a, self._b = a - origin, b - origin
        few = max(len(a), len(b)) <= 2 * a.shape[1]
        self._products = self._a @ self._b.T if few else None

    def distances(self, counts_a: Counts, counts_b: Counts) -> Values:
        """Fréchet distance of each of S weightings.

        Args:
            counts_a: Copies of each image of a, ``(S, N)``, at least two in all.
            counts_b: Likewise of b, ``(S, M)``.

        Returns:
            ``(S,)``: `frechet_distance` of the sets with copies.

        Raises:
            ValueError: If the counts do not fit the sets or one another.
        """
        shapes = (len(counts_a), len(self._a)), (len(counts_a), len(self._b))
        if (counts_a.shape, counts_b.shape) != shapes:
            raise ValueError(
                f"Counts must have the shapes {shapes[0]} and {shapes[1]}, got "
                f"{counts_a.shape} and {counts_b.shape}."
            )
        means_a, spread_a = _mean_and_trace(self._a, counts_a)
        means_b, spread_b = _mean_and_trace(self._b, counts_b)
        centred = ((means_a - means_b) ** 2).sum(1) + spread_a + spread_b
        cross = np.empty(len(counts_a))
        for draw, (own_a, own_b) in enumerate(zip(counts_a, counts_b, strict=True)):
            cross[draw] = self._cross(own_a, own_b, means_a[draw], means_b[draw])
        return np.asarray((centred - 2 * cross).clip(0))

    def extrapolated(self, orders_a: Counts, orders_b: Counts) -> float:
        """`frechet_extrapolated` from given orders of the images.

        Args:
            orders_a: Rows of a in order, ``(R, n)``; a row may return, as in bootstrap draws.
            orders_b: Rows of b, ``(R, n)``.

        Returns:
            Intercept of the line in 1/n through the distances of the first images of each order.
        """
        num = orders_a.shape[1]
        levels = np.unique(np.linspace((num + 1) // 2, num, NUM_LEVELS).round().astype(int))
        starts_a = [order[:level] for order in orders_a for level in levels]
        starts_b = [order[:level] for order in orders_b for level in levels]
        distances = self.distances(
            count_rows(starts_a, len(self._a)), count_rows(starts_b, len(self._b))
        )
        inverse = np.tile(1 / levels, len(orders_a))
        return float(np.polynomial.polynomial.polyfit(inverse, distances, 1)[0])

    def _cross(self, counts_a: Counts, counts_b: Counts, mean_a: Values, mean_b: Values) -> float:
        """``tr (S_a S_b)^(1/2)`` of one weighting."""
        rows_a, rows_b = np.flatnonzero(counts_a), np.flatnonzero(counts_b)
        root_a = np.sqrt(counts_a[rows_a] / (counts_a.sum() - 1))[:, None]
        root_b = np.sqrt(counts_b[rows_b] / (counts_b.sum() - 1))[:, None]
        width = self._a.shape[1]
        if self._products is not None and max(len(rows_a), len(rows_b)) <= width:
            half = self._products[np.ix_(rows_a, rows_b)]
            half -= (self._a @ mean_b)[rows_a, None]
            half += mean_a @ mean_b - (self._b @ mean_a)[rows_b]
            half *= root_a * root_b.T
        else:
            scaled_a = root_a * (self._a[rows_a] - mean_a)
            scaled_b = root_b * (self._b[rows_b] - mean_b)
            if len(rows_a) > width:
                scaled_a = _factor(scaled_a.T @ scaled_a)
            if len(rows_b) > width:
                scaled_b = _factor(scaled_b.T @ scaled_b)
            half = scaled_a @ scaled_b.T
        if len(half) > half.shape[1]:
            half = half.T
        return _sum_of_roots(half @ half.T)


def count_rows(draws: Iterable[Counts], num: int) -> Counts:
    """How often each of ``num`` rows stands in each draw, ``(len(draws), num)``."""
    return np.array([np.bincount(draw, minlength=num) for draw in draws]).reshape(-1, num)


def _mean_and_trace(features: Values, counts: Counts) -> tuple[Values, Values]:
    """Means ``(S, D)`` and traces of the covariance ``(S,)`` of weighted versions of a set."""
    totals = counts.sum(1)
    means = counts.astype(np.float64) @ features / totals[:, None]
    squares = counts @ (features**2).sum(1)
    return means, (squares - totals * (means**2).sum(1)) / (totals - 1)


def frechet_extrapolated(
    features_a: ArrayLike, features_b: ArrayLike, *, num_orders: int = 5, seed: int = 0
) -> float:
    """Fréchet distance extrapolated to infinitely many images (FID-infinity).

    The expected distance of n images a side lies on a line in 1/n to first order. Distances of the
    first n images of random orders are fitted by ``intercept + slope / n`` at `NUM_LEVELS` values
    of n from half of the smaller set to all of it.

    It needs more images than features: below that the curve bends, and the intercept is still too
    high or, for sets of one distribution, below 0.

    Args:
        features_a: ``(N, D)``, N at least 6.
        features_b: ``(M, D)``, M at least 6.
        num_orders: Random orders of both sets.
        seed: Seed of the orders.

    Returns:
        The intercept in squared units of the features; it may be negative.

    Raises:
        ValueError: If a set has fewer than 6 images or the widths differ.

    References:
        Chong & Forsyth (2020), Effectively Unbiased FID and Inception Score and Where to Find Them,
        https://arxiv.org/abs/1911.07023
    """
    pair = FrechetPair(features_a, features_b)
    sizes = np.shape(features_a)[0], np.shape(features_b)[0]
    if min(sizes) < MIN_EXTRAPOLATED:
        raise ValueError(f"A line in 1/n needs {MIN_EXTRAPOLATED} images a side, got {sizes}.")
    rng = np.random.default_rng(seed)
    orders = [
        np.stack([rng.permutation(size)[: min(sizes)] for _ in range(num_orders)]) for size in sizes
    ]
    return pair.extrapolated(orders[0], orders[1])
