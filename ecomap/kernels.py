"""Maximum mean discrepancies between two sets of features: KID, and CMMD for CLIP embeddings.

Sums over pairs of images are made a block of rows at a time: memory grows with the number of
images, not with its square.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

Values = NDArray[np.float64]
Counts = NDArray[np.integer]
Kernel = Callable[[Values, Values], Values]
"""From ``(n, D)`` and ``(m, D)`` to ``(n, m)``."""

BLOCK_ROWS = 512
"""Rows of a kernel matrix that are held at a time."""
CMMD_SIGMA = 10.0
"""Width of CMMD's kernel (Jayasumana et al. 2024, sec. 4)."""
CMMD_SCALE = 1000.0
"""Factor that brings CMMD to readable numbers (the same)."""


class KernelDistance(NamedTuple):
    """Kernel distance over random subsets."""

    mean: float
    std: float
    """Standard deviation over subsets (ddof 0); subsets overlap, so this is no standard error."""


def polynomial_kernel(a: Values, b: Values) -> Values:
    """``(x . y / D + 1)^3`` of all pairs, the kernel of KID."""
    products = a @ b.T
    products /= a.shape[1]
    products += 1
    cubes = products * products  # `** 3` is many times slower
    cubes *= products
    return np.asarray(cubes)


def gaussian_kernel(a: Values, b: Values, *, sigma: float = CMMD_SIGMA) -> Values:
    """``exp(-|x - y|^2 / (2 sigma^2))`` of all pairs."""
    squares = (a**2).sum(1)[:, None] + (b**2).sum(1) - 2 * (a @ b.T)
    return np.asarray(np.exp(squares.clip(0) / (-2 * sigma**2)))


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
    counts_a = np.zeros((num_subsets, len(a)), np.intp)
    counts_b = np.zeros((num_subsets, len(b)), np.intp)
    for own_a, own_b in zip(counts_a, counts_b, strict=True):
        own_a[rng.choice(len(a), subset_size, replace=False)] = 1
        own_b[rng.choice(len(b), subset_size, replace=False)] = 1
    draws = kernel_distances(a, b, counts_a, counts_b)
    return KernelDistance(float(draws.mean()), float(draws.std()))


def unbiased_kernel_distance(features_a: ArrayLike, features_b: ArrayLike) -> float:
    """`kernel_distance` over all pairs of images at once, without subsets.

    Returns:
        The unbiased estimate of least variance; its expectation is that of any subset.

    Raises:
        ValueError: If a set has fewer than two rows or the widths differ.
    """
    a, b = _feature_pair(features_a, features_b)
    ones = np.ones((1, len(a)), np.intp), np.ones((1, len(b)), np.intp)
    return float(kernel_distances(a, b, *ones)[0])


def kernel_distances(
    features_a: ArrayLike,
    features_b: ArrayLike,
    counts_a: Counts,
    counts_b: Counts,
    *,
    kernel: Kernel = polynomial_kernel,
) -> Values:
    """Unbiased squared MMD of S weighted versions of two sets, from one pass over their pairs.

    Pairs of copies of one image do not count: they would say that the set is narrower than it is.

    Args:
        features_a: ``(N, D)``.
        features_b: ``(M, D)``.
        counts_a: Copies of each image of a, ``(S, N)``; 0 and 1 make subsets, more are bootstrap
            draws. At least two different images each.
        counts_b: Likewise of b, ``(S, M)``.
        kernel: Function of all pairs.

    Returns:
        ``(S,)``; NaN where a side has fewer than two different images.

    Raises:
        ValueError: If features or counts do not fit.
    """
    within_a, within_b, between = _means(features_a, features_b, counts_a, counts_b, kernel)
    return np.asarray(within_a + within_b - 2 * between)


def _means(
    features_a: ArrayLike,
    features_b: ArrayLike,
    counts_a: Counts,
    counts_b: Counts,
    kernel: Kernel,
) -> tuple[Values, Values, Values]:
    """Mean kernel within a, within b and between them, ``(S,)`` each."""
    a, b = _feature_pair(features_a, features_b)
    if counts_a.shape[1:] != (len(a),) or counts_b.shape != (len(counts_a), len(b)):
        raise ValueError(
            f"Counts of {len(a)} and {len(b)} images must have the shapes (S, {len(a)}) and "
            f"(S, {len(b)}), got {counts_a.shape} and {counts_b.shape}."
        )
    weights_a, weights_b = counts_a.astype(np.float64), counts_b.astype(np.float64)
    between = np.zeros(len(weights_a))
    for start in range(0, len(a), BLOCK_ROWS):
        rows = slice(start, start + BLOCK_ROWS)
        between += ((weights_a[:, rows] @ kernel(a[rows], b)) * weights_b).sum(1)
    between /= weights_a.sum(1) * weights_b.sum(1)
    return _mean_within(a, weights_a, kernel), _mean_within(b, weights_b, kernel), between


def _mean_within(features: Values, weights: Values, kernel: Kernel) -> Values:
    """Mean kernel over pairs of different images, ``(S,)``; each pair is looked at once."""
    sums = np.zeros(len(weights))
    for start in range(0, len(features), BLOCK_ROWS):
        rows, rest = slice(start, start + BLOCK_ROWS), slice(start + BLOCK_ROWS, None)
        own = weights[:, rows]
        square = kernel(features[rows], features[rows])
        np.fill_diagonal(square, 0)
        sums += ((own @ square) * own).sum(1)
        if start + BLOCK_ROWS < len(features):
            beyond = own @ kernel(features[rows], features[rest])
            sums += 2 * (beyond * weights[:, rest]).sum(1)
    num_pairs = weights.sum(1) ** 2 - (weights**2).sum(1)
    return np.asarray(sums / np.where(num_pairs > 0, num_pairs, np.nan))


def cmmd(embeddings_a: ArrayLike, embeddings_b: ArrayLike, *, sigma: float = CMMD_SIGMA) -> float:
    """CLIP maximum mean discrepancy: biased squared MMD with a Gaussian kernel, times 1000.

    ``1000 (mean_{i, j} k(a_i, a_j) + mean_{i, j} k(b_i, b_j) - 2 mean_{i, j} k(a_i, b_j))`` with
    ``k(x, y) = exp(-|x - y|^2 / (2 sigma^2))`` of embeddings scaled to length 1. The means hold the
    pairs of an image with itself, as in the authors' code.

    Args:
        embeddings_a: Image embeddings of a CLIP model ``(N, D)``, of any length but 0.
        embeddings_b: ``(M, D)``.
        sigma: Width of the kernel.

    Returns:
        >= 0; 0 for equal sets. Expected values of finite sets lie above that of infinite ones, by
        up to ``2000 / n`` times the mean of ``1 - k`` between different images.

    Raises:
        ValueError: If a set has fewer than two rows, the widths differ, or an embedding is 0.

    References:
        Jayasumana et al. (2024), Rethinking FID: Towards a Better Evaluation Metric for Image
        Generation, https://arxiv.org/abs/2401.09603
    """
    a, b = _feature_pair(embeddings_a, embeddings_b)
    ones = np.ones((1, len(a)), np.intp), np.ones((1, len(b)), np.intp)
    return max(0.0, float(cmmd_draws(a, b, *ones, sigma=sigma)[0]))


def cmmd_draws(
    embeddings_a: ArrayLike,
    embeddings_b: ArrayLike,
    counts_a: Counts,
    counts_b: Counts,
    *,
    sigma: float = CMMD_SIGMA,
) -> Values:
    """`cmmd` of S weighted versions of two sets, as `kernel_distances` takes them.

    Each of the n copies has one pair with itself, of kernel 1; other pairs of copies of one image
    do not count.

    Returns:
        ``(S,)``.

    Raises:
        ValueError: As `cmmd` and `kernel_distances`.
    """
    a, b = _feature_pair(embeddings_a, embeddings_b)
    within_a, within_b, between = _means(
        _unit_length(a), _unit_length(b), counts_a, counts_b, partial(gaussian_kernel, sigma=sigma)
    )
    within_a += (1 - within_a) / counts_a.sum(1)
    within_b += (1 - within_b) / counts_b.sum(1)
    return np.asarray(CMMD_SCALE * (within_a + within_b - 2 * between))


def _unit_length(embeddings: Values) -> Values:
    """Rows divided by their Euclidean norm."""
    norms = np.linalg.norm(embeddings, axis=1, keepdims=True)
    if (norms == 0).any():
        raise ValueError(f"Embedding {int(np.argmin(norms))} is 0 and has no direction.")
    return np.asarray(embeddings / norms)


def _feature_pair(a: ArrayLike, b: ArrayLike) -> tuple[Values, Values]:
    """Both as float64 matrices of one width, with at least two rows."""
    x, y = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1] or min(len(x), len(y)) < 2:
        raise ValueError(
            f"Need two feature matrices of one width and two or more rows, got {x.shape} and "
            f"{y.shape}."
        )
    return x, y
