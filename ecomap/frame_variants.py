"""Variants of a tile: which window of it is learnt from, and how that is mirrored and turned.

They follow from the place and the number of the variant alone, so that all months of a place show
the same ground in the same variant, in every run and process.
"""

import hashlib
import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from ecomap.errors import ConfigError, DataError
from ecomap.schema import TileRecord

WINDOW_STEP_PX = 8
"""Windows begin at multiples of a latent cell, as the cells of whole tiles do."""

NUM_FLIPS = 8
"""Symmetries of a square: four quarter turns, each with and without a mirror."""


@dataclass(frozen=True)
class Variants:
    """How many variants tiles have, and what they may be."""

    crop_px: int | None = None
    """Side of the square windows, pixels; ``None`` for whole tiles."""
    count: int = 1
    flips: bool = False
    """Whether variants but the first are mirrored and turned."""

    def __post_init__(self) -> None:
        """Refuse variants that would all be the same.

        Raises:
            ConfigError: If there are several whole tiles without flips, or more than flips.
        """
        if self.count < 1:
            raise ConfigError(f"variants is {self.count}. Expected at least 1; raise it.")
        most = NUM_FLIPS if self.flips else 1
        if self.crop_px is None and self.count > most:
            raise ConfigError(
                f"variants is {self.count}, but whole tiles have {most} with flips {self.flips}. "
                "Set crop_px or flips, or lower variants."
            )


class Place(NamedTuple):
    """Where a variant lies in its tile."""

    row: int
    """First row of the window; likewise below."""
    column: int
    flip: int
    """Twice the number of quarter turns, and 1 more if it is mirrored before them."""


def window_size(record: TileRecord, variants: Variants) -> tuple[int, int]:
    """Height and width of a record's variants, pixels.

    Raises:
        DataError: If the tile is smaller than a window.
    """
    height, width = record.height_px, record.width_px
    if variants.crop_px is None:
        return height, width
    if min(height, width) < variants.crop_px:
        raise DataError(
            f"{record.tile_id} has {height} x {width} px, and crop_px is {variants.crop_px}. "
            "Expected tiles at least that large; lower crop_px, or leave the tile out."
        )
    return variants.crop_px, variants.crop_px


def place_of(record: TileRecord, variant: int, variants: Variants) -> Place:
    """Window and flip of a variant, drawn by a hash of the place.

    Variants of a place differ as long as there are windows, or flips, to choose from. The first is
    never flipped.

    Args:
        record: The tile.
        variant: From 0 to ``variants.count - 1``.
        variants: What there is.

    Raises:
        DataError: If the tile is smaller than a window.
    """
    height, width = window_size(record, variants)
    digest = hashlib.sha256(record.place_id.encode()).digest()
    first, *numbers = np.frombuffer(digest, "<u4").tolist()
    num_rows = (record.height_px - height) // WINDOW_STEP_PX + 1
    num_columns = (record.width_px - width) // WINDOW_STEP_PX + 1
    window = _visit(variant, first, num_rows * num_columns)
    flip = 0
    if variants.flips:
        # Quarter turns of what is no square would have another size.
        others = range(1, NUM_FLIPS) if height == width else (1, 4, 5)
        order = [0, *sorted(others, key=lambda code: numbers[code - 1])]
        flip = order[variant % len(order)]
    row, column = divmod(window, num_columns)
    return Place(row * WINDOW_STEP_PX, column * WINDOW_STEP_PX, flip)


def cut(image: np.ndarray, place: Place, size: tuple[int, int]) -> np.ndarray:
    """A window of an image, mirrored and turned.

    Args:
        image: ``(H, W, ...)``.
        place: From `place_of`.
        size: Height and width of the window.

    Returns:
        ``(*size, ...)``, a view of the image.

    Example:
        >>> cut(np.arange(12).reshape(3, 4), Place(1, 2, flip=3), (2, 2)).tolist()
        [[6, 10], [7, 11]]
    """
    window = image[place.row : place.row + size[0], place.column : place.column + size[1]]
    if place.flip % 2:
        window = window[:, ::-1]
    return np.rot90(window, place.flip // 2)


def _visit(step: int, first: int, count: int) -> int:
    """Item of a walk over ``count`` items that comes to each before it comes back to one.

    A stride is near the golden section of the way round, so that few of them spread evenly.
    """
    stride = round(count * 0.618)
    while math.gcd(stride, count) > 1:
        stride += 1
    return (first + step * stride) % count
