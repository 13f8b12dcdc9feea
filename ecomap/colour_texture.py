"""Features made by hand, which anyone can check by eye: where which colour is, and how rough."""

import numpy as np
from numpy.typing import NDArray

from ecomap.feature_space import MIN_SIZE_PX, Features, Images

BLOCKS = MIN_SIZE_PX
"""Colours are averaged over a grid of 8 x 8 blocks."""
LAGS_PX = (1, 2, 4)
"""Distances over which colour differences are taken."""
COLOUR_TEXTURE_SPREADS = (0.38, 0.13, 0.093, 3.4)
"""Spread of mean, deviation, difference and block features: square root of their summed variance
over 1,200 windows of 128 px of land in Blue Marble 2004 (January, April, July, October). Divided
by it, each of the four groups has the same weight in a distance."""

WIDTH = 3 + 3 + 2 * 3 * len(LAGS_PX) + 3 * BLOCKS**2
"""Number of features."""


def colour_texture(images: Images) -> Features:
    """Simple features that can be checked by eye: where which colour is, and how rough it is.

    Of display values divided by 255: mean of each channel (3); standard deviation of each channel
    (3); mean absolute difference of each channel over 1, 2 and 4 px, downwards and rightwards (18);
    mean of each channel in 8 x 8 blocks, row by row (192). Each of the four groups is divided by
    its value of `COLOUR_TEXTURE_SPREADS`.

    Args:
        images: uint8 ``(N, H, W, 3)``, H and W at least 8.

    Returns:
        float32 ``(N, 216)``.
    """
    values = images.astype(np.float64) / 255
    differences = [
        np.abs(below - above).mean((1, 2))
        for lag in LAGS_PX
        for above, below in (
            (values[:, :-lag], values[:, lag:]),
            (values[:, :, :-lag], values[:, :, lag:]),
        )
    ]
    groups = (
        values.mean((1, 2)),
        values.std((1, 2)),
        np.concatenate(differences, axis=1),
        _block_means(values).reshape(len(values), -1),
    )
    scaled = [part / spread for part, spread in zip(groups, COLOUR_TEXTURE_SPREADS, strict=True)]
    return np.concatenate(scaled, axis=1, dtype=np.float32)


def _block_means(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """``(N, H, W, 3)`` -> ``(N, 8, 8, 3)``; blocks differ by a pixel where 8 does not divide."""
    for axis in (1, 2):
        edges = np.linspace(0, values.shape[axis], BLOCKS + 1).astype(int)
        sizes = np.diff(edges).reshape([-1 if i == axis else 1 for i in range(4)])
        values = np.add.reduceat(values, edges[:-1], axis=axis) / sizes
    return values
