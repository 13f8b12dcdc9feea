"""Count, mean and scatter of features: built batch by batch, merged without loss.

What the Fréchet distance needs of a set. Statistics of classes merge to those of their union, so
one pass over the images serves every class and all of them together.
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import ArrayLike, NDArray

Values = NDArray[np.float64]


class Moments:
    """Running count, mean and scatter of feature vectors, in float64.

    The scatter is the sum of outer products of deviations from the mean. While it has fewer ranks
    than features it is held as rows whose Gram matrix it is, one row for each image but the first:
    ``sqrt(k / (k + 1)) (x - mean of the k before it)``, Welford's update written as a root. That
    form loses nothing to squaring and takes ``8 (count - 1) width`` bytes. From more rows
    than features on it is one matrix of ``8 width^2`` bytes (34 MB at 2048), however many images
    follow.

    Args:
        width: Features of an image, D.

    References:
        Welford (1962), Note on a Method for Calculating Corrected Sums of Squares and Products,
        https://doi.org/10.1080/00401706.1962.10490022; Chan, Golub & LeVeque (1983), Algorithms
        for Computing the Sample Variance, https://doi.org/10.1080/00031305.1983.10483115
    """

    def __init__(self, width: int) -> None:
        self.count = 0
        """Images seen."""
        self.mean: Values = np.zeros(width)
        """``(D,)``; 0 before the first image."""
        self._rows: list[Values] = []
        self._matrix: Values | None = None

    @classmethod
    def of(cls, features: ArrayLike) -> "Moments":
        """Moments of a whole set ``(N, D)``.

        Raises:
            ValueError: If the features are not a matrix.
        """
        array = np.asarray(features)
        if array.ndim != 2:
            raise ValueError(f"Need a feature matrix (N, D), got the shape {array.shape}.")
        moments = cls(array.shape[1])
        moments.add(array)
        return moments

    @property
    def width(self) -> int:
        """Features of an image, D."""
        return len(self.mean)

    @property
    def nbytes(self) -> int:
        """Memory of the statistics."""
        held = [self.mean, *self._rows] + ([] if self._matrix is None else [self._matrix])
        return sum(array.nbytes for array in held)

    @property
    def rows(self) -> Values | None:
        """``(count - 1, D)``, whose Gram matrix ``rows.T @ rows`` is the scatter.

        None once there are more of them than features.
        """
        if self._matrix is not None:
            return None
        self._rows = [np.concatenate([np.empty((0, self.width)), *self._rows])]
        return self._rows[0]

    @property
    def scatter(self) -> Values:
        """Sum of outer products of deviations from the mean, ``(D, D)``."""
        rows = self.rows
        if rows is not None:
            return np.asarray(rows.T @ rows)
        assert self._matrix is not None  # either rows or the matrix
        return self._matrix

    @property
    def covariance(self) -> Values:
        """Sample covariance (ddof 1), ``(D, D)``; NaN of fewer than two images."""
        return self.scatter / (self.count - 1 if self.count > 1 else np.nan)

    @property
    def trace(self) -> float:
        """Trace of the scatter: the sum of squared distances from the mean."""
        rows = self.rows
        return float(np.trace(self.scatter) if rows is None else (rows**2).sum())

    def add(self, features: ArrayLike) -> None:
        """Take in a batch ``(n, D)``; how images are divided into batches does not matter.

        Raises:
            ValueError: If the batch is not a matrix of this width.
        """
        array = np.asarray(features)
        if array.ndim != 2 or array.shape[1] != self.width:
            raise ValueError(f"Need features (n, {self.width}), got the shape {array.shape}.")
        for batch in _slices(array, self.width):
            if len(batch) and not self.count:
                self.count, self.mean, batch = 1, batch[0].copy(), batch[1:]
            shifted = batch - self.mean
            before = np.arange(self.count, self.count + len(batch))[:, None]
            sums = np.cumsum(shifted, axis=0)
            deviations = shifted - (sums - shifted) / before
            self._append(deviations * np.sqrt(before / (before + 1)))
            self.count += len(batch)
            if len(batch):
                self.mean = self.mean + sums[-1] / self.count

    def _append(self, rows: Values) -> None:
        """Add the outer products of rows."""
        if self._matrix is None:
            self._rows.append(rows)
            if sum(map(len, self._rows)) <= self.width:
                return
            held = self.rows
            assert held is not None  # as there was no matrix
            self._matrix, self._rows = held.T @ held, []
        else:
            self._matrix += rows.T @ rows


def merge(a: Moments, b: Moments) -> Moments:
    """Moments of the union of two sets, neither of which is changed.

    Adds both scatters and that of the two means, ``n_a n_b / (n_a + n_b)`` times the outer product
    of their difference (Chan et al. 1983).

    Raises:
        ValueError: If the widths differ.
    """
    if a.width != b.width:
        raise ValueError(f"Moments of {a.width} and of {b.width} features cannot be merged.")
    merged = Moments(a.width)
    merged.count = a.count + b.count
    if not merged.count:
        return merged
    shift = b.mean - a.mean
    merged.mean = a.mean + shift * (b.count / merged.count)
    # Matrices first: rows then go into one without being kept.
    for part in sorted((a, b), key=lambda part: part.rows is not None):
        rows = part.rows
        if rows is not None:
            merged._append(rows)
        elif merged._matrix is None:
            merged._matrix = part.scatter.copy()
        else:
            merged._matrix += part.scatter
    if a.count and b.count:
        merged._append(np.sqrt(a.count * b.count / merged.count) * shift[None])
    return merged


def _slices(array: NDArray[np.generic], num: int) -> Iterator[Values]:
    """Up to ``num`` rows at a time, as float64."""
    for start in range(0, len(array), num):
        yield np.asarray(array[start : start + num], np.float64)
