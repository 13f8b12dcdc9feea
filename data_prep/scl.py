"""Scene classification (SCL) of Sentinel-2 Level-2A: what a tile shows, and which pass is best.

The classes are counted inside the tile, as the product has them (20 m), however coarse the tile.
They err, as a village and its fields in Belgium show over 118 dates: ice cloud in September is 99 %
snow, thick haze in October neither cloud nor ground but 95 % unclassified, while roofs under the
winter sun are unclassified too, up to 38 %. Hence mostly unclassified ground counts as cloud,
shares are compared in whole per cent, and scene-wide cloud breaks ties: of two tiles that look
equally clear the one from the clearer sky is trusted.
"""

from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray


class SceneClass(IntEnum):
    """Classes of Sen2Cor, by their codes."""

    NO_DATA = 0
    SATURATED_OR_DEFECTIVE = 1
    DARK_AREA = 2
    CLOUD_SHADOW = 3
    VEGETATION = 4
    NOT_VEGETATED = 5
    WATER = 6
    UNCLASSIFIED = 7
    CLOUD_MEDIUM_PROBABILITY = 8
    CLOUD_HIGH_PROBABILITY = 9
    THIN_CIRRUS = 10
    SNOW_OR_ICE = 11


CLOUD_CLASSES = (
    SceneClass.CLOUD_SHADOW,
    SceneClass.CLOUD_MEDIUM_PROBABILITY,
    SceneClass.CLOUD_HIGH_PROBABILITY,
    SceneClass.THIN_CIRRUS,
)
"""What counts as cloud: also its shadow, and cirrus, for both change the picture of the ground."""

CLEAR_CLASSES = (
    SceneClass.VEGETATION,
    SceneClass.NOT_VEGETATED,
    SceneClass.WATER,
    SceneClass.SNOW_OR_ICE,
)
"""What is ground for certain. Dark areas and unclassified pixels are neither clear nor cloud."""

UNCLASSIFIED_CLOUD_FRAC = 0.8
"""Where more is unclassified, it counts as cloud; no town is so bright throughout."""
HAZY_FRAC = 0.4
"""Where more is unclassified, haze is likely."""


@dataclass(frozen=True, kw_only=True)
class TileStats:
    """Shares of a tile, [0, 1]; all but the first are of the valid pixels, 0 where there are none.

    Snow is not cloud.
    """

    valid_frac: float
    """Pixels with data, of all."""
    clear_frac: float
    """`CLEAR_CLASSES`."""
    cloud_frac: float
    """`CLOUD_CLASSES`, and unclassified pixels beyond `UNCLASSIFIED_CLOUD_FRAC`."""
    unclassified_frac: float
    snow_frac: float
    water_frac: float
    saturated_frac: float
    """Saturated or defective."""

    @property
    def nodata_frac(self) -> float:
        """Pixels without data, of all."""
        return 1 - self.valid_frac

    @property
    def is_perfect(self) -> bool:
        """Whether no other pass can rank above this one by its classes."""
        return rank(self) == (100, 100)


def tile_stats(classes: NDArray[np.uint8], mask: NDArray[np.bool_] | None = None) -> TileStats:
    """Count the classes of a tile.

    Args:
        classes: Codes of `SceneClass`, ``(H, W)``. Codes above 11 count as valid, nothing else.
        mask: Pixels to count; all by default.

    Raises:
        ValueError: If there is nothing to count.
    """
    counted = classes if mask is None else classes[mask]
    if counted.size == 0:
        raise ValueError("No pixel to count: the tile is empty or masked throughout.")
    counts = np.bincount(counted.ravel(), minlength=256)
    num_valid = int(counts[1:].sum())

    def share(*codes: int) -> float:
        return float(counts[list(codes)].sum() / num_valid) if num_valid else 0.0

    unclassified_frac = share(SceneClass.UNCLASSIFIED)
    is_haze = unclassified_frac > UNCLASSIFIED_CLOUD_FRAC
    return TileStats(
        valid_frac=num_valid / counted.size,
        clear_frac=share(*CLEAR_CLASSES),
        cloud_frac=share(*CLOUD_CLASSES, *([SceneClass.UNCLASSIFIED] if is_haze else [])),
        unclassified_frac=unclassified_frac,
        snow_frac=share(SceneClass.SNOW_OR_ICE),
        water_frac=share(SceneClass.WATER),
        saturated_frac=share(SceneClass.SATURATED_OR_DEFECTIVE),
    )


def shared_class(classes: NDArray[np.uint8], num: int) -> NDArray[np.uint8]:
    """Class of each block of ``num`` x ``num`` pixels; unclassified where they differ.

    Args:
        classes: Codes, ``(H, W)``, both multiples of ``num``.
        num: Pixels along each side of a block.
    """
    height, width = classes.shape
    blocks = classes.reshape(height // num, num, width // num, num)
    lowest, highest = blocks.min(axis=(1, 3)), blocks.max(axis=(1, 3))
    return np.where(lowest == highest, lowest, np.uint8(SceneClass.UNCLASSIFIED))


def rank(stats: TileStats) -> tuple[int, int]:
    """Key by which the best of several passes is the largest: clear among valid, then valid.

    Whole per cent. Snow is ground like any other: to prefer bare ground would make snow rarer in
    the dataset than it is. (Ice cloud that passes for snow is found later, by the warmth of its
    month: `data_prep.quality.cloud_flags`.) Of equals the first is taken, in the order of
    scene-wide cloud, then name.
    """
    return _percent(stats.clear_frac), _percent(stats.valid_frac)


def _percent(frac: float) -> int:
    """Nearest whole per cent, halves up."""
    return int(frac * 100 + 0.5)
