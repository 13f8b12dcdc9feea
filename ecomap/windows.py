"""Overlapping windows of a large latent map, and one map blended from what is made in each.

A model that was trained on windows of one size predicts a larger map window by window; where
windows overlap, the weighted mean of their predictions counts (MultiDiffusion, Bar-Tal et al.,
2023, https://arxiv.org/abs/2302.08113, equation 5). There all weights are 1 for a panorama. Here a
window counts less towards its edges, so that no edge shows: what enters or leaves the mean at an
edge has a weight near 0.

A solver's step is linear in the velocity, so that blended velocities give the step that blended
results of steps would give.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
import torch
from torch import Tensor

from ecomap.autoencoder import LATENT_FACTOR
from ecomap.errors import RequestError

Place = tuple[int, int]
"""Row and column of a window's first cell."""

PredictWindows = Callable[[Tensor, list[int], float], Tensor]
"""``(windows, indices, sigma) -> velocities``: windows ``(n, C, side, side)`` and their indices
among all places; velocities of the same shape."""


def plan_windows(height: int, width: int, side: int, overlap: int) -> list[Place]:
    """Places of windows that cover a map, row by row.

    Args:
        height: Of the map, in cells.
        width: Of the map, in cells.
        side: Of a window, in cells.
        overlap: Cells that neighbours share; the last of a row or column share more where the
            sizes do not fit.

    Raises:
        RequestError: If the map is smaller than a window, or ``overlap`` is not 0 to ``side - 1``.

    Example:
        >>> plan_windows(16, 30, side=16, overlap=4)
        [(0, 0), (0, 12), (0, 14)]
    """
    if not 0 <= overlap < side:
        raise RequestError(
            f"Windows of {side} cells overlap by {overlap}. Expected at least 0 and less than the "
            "window; choose a smaller overlap."
        )
    if min(height, width) < side:
        raise RequestError(
            f"The scene has {height} x {width} latent cells and a window {side} x {side}. Expected "
            "a scene of at least one window; give a larger tile or a model of smaller windows."
        )
    return [
        (row, column)
        for row in _starts(height, side, overlap)
        for column in _starts(width, side, overlap)
    ]


def feather(side: int, overlap: int) -> Tensor:
    """Weights of a window's cells, which fall towards its edges as squared sines.

    Where two neighbours overlap by ``overlap``, their weights sum to 1. The outermost cells weigh
    little but not nothing: the edge of a scene has no other window.

    Returns:
        Float32 ``(side, side)`` in (0, 1].
    """
    cells = torch.arange(side)
    distance = torch.minimum(cells, side - 1 - cells) + 0.5
    ramp = torch.sin(torch.pi / 2 * (distance / max(overlap, 0.5)).clamp(max=1)) ** 2
    return ramp[:, None] * ramp


def cut(full: Tensor, places: Sequence[Place], side: int) -> Tensor:
    """Windows ``(N, C, side, side)`` of a map ``(C, H, W)``, copied."""
    return torch.stack(
        [full[:, row : row + side, column : column + side] for row, column in places]
    )


def blend(values: Tensor, places: Sequence[Place], size: Place, weights: Tensor) -> Tensor:
    """Weighted mean of what windows hold.

    Args:
        values: ``(N, C, side, side)``.
        places: Of the windows.
        size: Height and width of the map.
        weights: ``(side, side)``, positive.

    Returns:
        ``(C, H, W)``, float32 or wider. A cell that windows agree on, or that only one covers, has
        their value bit for bit.

    Raises:
        ValueError: If values and places do not pair up, or windows leave a cell uncovered.
    """
    mean = _RunningMean(values[0], size, weights)
    for value, place in zip(values, places, strict=True):
        mean.add(value, place)
    return mean.result()


def blended_velocity(
    predict: PredictWindows,
    latents: Tensor,
    sigma: float,
    places: Sequence[Place],
    weights: Tensor,
    batch: int,
) -> Tensor:
    """Velocity of a large map, from what a model predicts in its windows.

    Args:
        predict: Velocities of some windows.
        latents: ``(C, H, W)`` at ``sigma``.
        sigma: Noise level.
        places: Windows that cover the map (`plan_windows`).
        weights: ``(side, side)``, positive (`feather`).
        batch: Windows at a time; beyond them only the map and its mean are held.

    Returns:
        ``(C, H, W)``, float32 or wider.

    Raises:
        ValueError: If windows leave a cell uncovered.
    """
    side = weights.shape[-1]
    mean = _RunningMean(latents, (latents.shape[1], latents.shape[2]), weights)
    for start in range(0, len(places), batch):
        part = places[start : start + batch]
        indices = list(range(start, start + len(part)))
        for value, place in zip(
            predict(cut(latents, part, side), indices, sigma), part, strict=True
        ):
            mean.add(value, place)
    return mean.result()


@dataclass(frozen=True)
class Block:
    """Part of a map that is worked on apart, as rows and columns of it."""

    core: tuple[slice, slice]
    """What the block answers for."""
    outer: tuple[slice, slice]
    """Core and halo: what the work on it sees."""

    def crop(self, values: Tensor) -> Tensor:
        """Core ``(..., h, w)`` of what was made of the whole block, at whatever resolution."""
        width = self.outer[1].stop - self.outer[1].start
        rows, columns = (
            slice(*((end - outer.start) * values.shape[-1] // width for end in (c.start, c.stop)))
            for c, outer in zip(self.core, self.outer, strict=True)
        )
        return values[..., rows, columns]


def plan_blocks(size: Place, side: int, halo: int) -> list[Block]:
    """Blocks whose cores tile a map of a size; halos end where the map ends."""
    along = [
        [
            (slice(first, last), slice(max(first - halo, 0), min(last + halo, length)))
            for first in range(0, length, side)
            for last in [min(first + side, length)]
        ]
        for length in size
    ]
    return [
        Block((row, column), (outer_row, outer_column))
        for (row, outer_row), (column, outer_column) in product(*along)
    ]


def noise_field(seed: int, channels: int, height: int, width: int, *, side: int = 16) -> Tensor:
    """Standard normal noise of a cell that depends on seed and place alone, not on the map's size.

    Drawn in blocks of ``side`` x ``side`` cells, each from a seed of its own. The first block is
    what `ecomap.sample` draws for the seed and a model whose images have that side.

    Args:
        seed: Fits into 64 bits.
        channels: Of a latent.
        height: In cells.
        width: In cells.
        side: Of a block.

    Returns:
        Float32 ``(channels, height, width)`` on the CPU.
    """
    rows, columns = range(-(-height // side)), range(-(-width // side))
    strips = [
        torch.cat([_noise_block(seed, (row, column), (channels, side)) for column in columns], 2)
        for row in rows
    ]
    return torch.cat(strips, 1)[:, :height, :width].clone()


def seam_ratio(
    image: np.ndarray, places_px: list[Place], side_px: int, *, grid_px: int = LATENT_FACTOR
) -> float:
    """How much brighter or darker neighbours are across window borders than elsewhere.

    Elsewhere means across lines of the grid that are no borders: a decoder may leave a trace of
    its cells everywhere, which is no seam.

    Args:
        image: ``(H, W, 3)``.
        places_px: Row and column of each window's first pixel, on the grid.
        side_px: Of a window, a multiple of the grid.
        grid_px: Distance of the grid's lines.

    Returns:
        Mean absolute difference across borders over that across the other lines: about 1 without
        a seam.

    Raises:
        ValueError: If no line is a border, or all are.
    """
    values = image.mean(-1, dtype=np.float64)
    across: list[float] = []
    elsewhere: list[float] = []
    for axis in (0, 1):
        steps = np.abs(np.diff(values, axis=axis)).mean(1 - axis)
        starts = {place[axis] for place in places_px}
        borders = starts | {start + side_px for start in starts}
        for line in range(grid_px, values.shape[axis], grid_px):
            (across if line in borders else elsewhere).append(steps[line - 1])
    if not across or not elsewhere:
        raise ValueError(
            f"{len(across)} lines are window borders and {len(elsewhere)} are not; a ratio needs "
            "both. Give a larger image, or its windows."
        )
    return float(np.mean(across) / np.mean(elsewhere))


class _RunningMean:
    """Weighted mean that grows window by window (West, 1979, doi:10.1145/359146.359153).

    Sums divided by sums of weights would round where this form is exact: in cells of one window,
    and in cells whose windows agree.
    """

    def __init__(self, like: Tensor, size: Place, weights: Tensor) -> None:
        """Start with nothing; channels, dtype and device are those of ``like`` ``(C, ...)``."""
        dtype = torch.promote_types(like.dtype, torch.float32)
        self.mean = torch.zeros(len(like), *size, dtype=dtype, device=like.device)
        self.total = torch.zeros(size, dtype=dtype, device=like.device)
        self.weights = weights.to(self.total)

    def add(self, value: Tensor, place: Place) -> None:
        """Take in a window ``(C, side, side)``."""
        rows, columns = (slice(first, first + len(self.weights)) for first in place)
        total, mean = self.total[rows, columns], self.mean[:, rows, columns]
        total += self.weights
        mean += self.weights / total * (value.to(mean) - mean)

    def result(self) -> Tensor:
        """Mean ``(C, H, W)``."""
        uncovered = int((self.total == 0).sum())
        if uncovered:
            raise ValueError(f"{uncovered} of {self.total.numel()} cells lie in no window.")
        return self.mean


def _starts(length: int, side: int, overlap: int) -> list[int]:
    """First cells of windows along one axis; the last is shifted inwards."""
    return [*range(0, length - side, side - overlap), length - side]


def _noise_block(seed: int, block: Place, shape: tuple[int, int]) -> Tensor:
    """Noise ``(C, side, side)`` of a block, by its row and column among blocks."""
    channels, side = shape
    if block != (0, 0):
        sequence = np.random.SeedSequence([seed % 2**64, *block])
        seed = int(sequence.generate_state(1, np.uint64)[0])
    return torch.randn(channels, side, side, generator=torch.Generator().manual_seed(seed))
