"""Precision, recall, density, coverage and Inception Score: is it real, and is all of it there."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Values = NDArray[np.float64]

BLOCK_ROWS = 1024
"""Rows of a distance matrix that are held at a time."""
ROUNDING = 1e-12
"""Squared distances that differ by less, in units of the largest squared length, are equal."""


@dataclass(frozen=True)
class Manifold:
    """What each image says about the manifolds of two sets; the metrics are means over images.

    A manifold is the union of balls around the images of a set, each with the distance to the k-th
    nearest other image of the set as its radius; an image on the surface is inside.

    References:
        Kynkäänniemi et al. (2019), Improved Precision and Recall Metric for Assessing Generative
        Models, https://arxiv.org/abs/1904.06991; Naeem et al. (2020), Reliable Fidelity and
        Diversity Metrics for Generative Models, https://arxiv.org/abs/2002.09797
    """

    precise: Values
    """``(M,)``: 1 for a generated image inside the manifold of the real ones."""
    recalled: Values
    """``(N,)``: 1 for a real image inside the manifold of the generated ones."""
    dense: Values
    """``(M,)``: number of balls around real images that a generated image lies in, divided by k."""
    covered: Values
    """``(N,)``: 1 for a real image whose ball holds a generated one."""

    @property
    def precision(self) -> float:
        """Share of generated images that look real, in [0, 1]."""
        return float(self.precise.mean())

    @property
    def recall(self) -> float:
        """Share of real images that could have been generated, in [0, 1].

        Outliers among the generated ones have large balls and raise it.
        """
        return float(self.recalled.mean())

    @property
    def density(self) -> float:
        """Precision that counts balls, so that one real outlier counts little; >= 0, near 1 for
        sets of one distribution, and above 1 where generated images crowd about the usual.
        """  # noqa: D205
        return float(self.dense.mean())

    @property
    def coverage(self) -> float:
        """Share of real images with a generated one near, in [0, 1].

        Expected for two sets of n images of one distribution:
        ``1 - (n - 1) ... (n - k) / ((2 n - 1) ... (2 n - k))``, about ``1 - 2^-k``.
        """
        return float(self.covered.mean())


def compare_manifolds(real: ArrayLike, generated: ArrayLike, *, num_neighbours: int) -> Manifold:
    """Precision, recall, density and coverage of generated images.

    Distances are made a block of rows at a time: memory grows with the number of images, not with
    its square.

    Args:
        real: Features ``(N, D)``.
        generated: Features ``(M, D)``.
        num_neighbours: k, below N and M. All four depend on it and on N and M: compare only values
            of equal k and n.

    Returns:
        Values of each image, and their means.

    Raises:
        ValueError: If a set has k images or fewer, or the widths differ.
    """
    a, b = np.asarray(real, np.float64), np.asarray(generated, np.float64)
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1]:
        raise ValueError(f"Need feature matrices of one width, got {a.shape} and {b.shape}.")
    if not 1 <= num_neighbours < min(len(a), len(b)):
        raise ValueError(
            f"num_neighbours must lie in [1, {min(len(a), len(b)) - 1}], below the number of "
            f"images; got {num_neighbours}."
        )
    origin = np.concatenate([a, b]).mean(0)  # near the data, squared distances lose no digits
    a, b = a - origin, b - origin
    slack = ROUNDING * float(max((a**2).sum(1).max(), (b**2).sum(1).max()))
    radii_a = _squared_radii(a, num_neighbours) + slack
    radii_b = _squared_radii(b, num_neighbours) + slack
    balls = np.zeros(len(b))
    recalled, covered = np.zeros(len(a)), np.zeros(len(a))
    for rows, squares in _squared_distances(a, b):
        inside = squares <= radii_a[rows, None]
        balls += inside.sum(0)
        covered[rows] = inside.any(1)
        recalled[rows] = (squares <= radii_b).any(1)
    return Manifold(
        precise=(balls > 0).astype(np.float64),
        recalled=recalled,
        dense=balls / num_neighbours,
        covered=covered,
    )


def _squared_radii(features: Values, num_neighbours: int) -> Values:
    """Squared distance of each row to its k-th nearest other row."""
    radii = np.empty(len(features))
    for rows, squares in _squared_distances(features, features):
        squares[np.arange(len(squares)), np.arange(rows.start, rows.stop)] = -1.0  # itself is first
        radii[rows] = np.partition(squares, num_neighbours, axis=1)[:, num_neighbours]
    return radii


def _squared_distances(a: Values, b: Values) -> Iterator[tuple[slice, Values]]:
    """Squared Euclidean distances of some rows of a to all rows of b."""
    lengths_a, lengths_b = (a**2).sum(1), (b**2).sum(1)
    for start in range(0, len(a), BLOCK_ROWS):
        rows = slice(start, min(start + BLOCK_ROWS, len(a)))
        squares = a[rows] @ b.T
        squares *= -2
        squares += lengths_a[rows, None]
        squares += lengths_b
        yield rows, squares.clip(0, out=squares)


def inception_score(probabilities: ArrayLike, *, num_splits: int = 1) -> tuple[float, float]:
    """Inception Score: ``exp(mean KL(p(y | x) || p(y)))``, sharp classes and many of them.

    It knows nothing of real images, and says little where the classes are not those of the images.

    Args:
        probabilities: Class probabilities of each image ``(N, K)``, rows that sum to 1.
        num_splits: Parts of nearly equal size, in the order of the rows, over which the score is
            averaged; it is biased downwards at small n, so compare only values of equal n and
            splits. The custom is 10 splits of 50,000 images in random order.

    Returns:
        Mean and standard deviation (ddof 0) over splits; in [1, K].

    Raises:
        ValueError: If rows are no probabilities, or there are fewer rows than splits.

    References:
        Salimans et al. (2016), Improved Techniques for Training GANs,
        https://arxiv.org/abs/1606.03498; Barratt & Sharma (2018), A Note on the Inception Score,
        https://arxiv.org/abs/1801.01973
    """
    array = np.asarray(probabilities)
    if not 1 <= num_splits <= len(array):
        raise ValueError(f"num_splits must lie in [1, {len(array)}], got {num_splits}.")
    parts = np.array_split(np.arange(len(array)), num_splits)
    counts = np.array([np.isin(np.arange(len(array)), part) for part in parts], np.intp)
    scores = inception_scores(array, counts)
    return float(scores.mean()), float(scores.std())


def inception_scores(probabilities: ArrayLike, counts: NDArray[np.integer]) -> Values:
    """`inception_score` of S weighted versions of a set.

    Args:
        probabilities: ``(N, K)``.
        counts: Copies of each image, ``(S, N)``, at least one each.

    Returns:
        ``(S,)``.

    Raises:
        ValueError: If rows are no probabilities.
    """
    values = np.asarray(probabilities, np.float64)
    if values.ndim != 2 or (values < 0).any() or not np.allclose(values.sum(1), 1, atol=1e-3):
        raise ValueError("Need class probabilities (N, K) with rows that sum to 1.")
    weights = counts / counts.sum(1, keepdims=True)
    mean_entropy = weights @ _entropies(values)
    return np.asarray(np.exp(_entropies(weights @ values) - mean_entropy))


def _entropies(probabilities: Values) -> Values:
    """``-sum p log p`` of each row; 0 log 0 is 0."""
    logs = np.log(probabilities, out=np.zeros_like(probabilities), where=probabilities > 0)
    return np.asarray(-(probabilities * logs).sum(1))
