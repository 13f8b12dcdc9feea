"""What a feature space gives for images, and the names and meanings of what it predicts."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ecomap.errors import RequestError
from ecomap.schema import CLIMATE

Images = NDArray[np.uint8]
"""Display values ``(N, H, W, 3)``, red first."""
Features = NDArray[np.float32]
"""``(N, D)``."""

MIN_SIZE_PX = 8
"""Least side of an image that is described by features."""

PREDICTED_LAND_COVER = "predicted_land_cover"
"""Column of the most probable IGBP code, 1 to 17."""
PREDICTED_SEASON_MONTH = "predicted_season_month"
"""Column of the month as seen from the north, 1 to 12 (`season_month`)."""
PREDICTED_CLIMATE = {name: f"predicted_{name}" for name in CLIMATE}
"""Columns of predicted climate by variable, in its unit."""


@dataclass(frozen=True)
class Extracted:
    """What a space says of a batch of images."""

    features: Features
    """float32 ``(N, D)``."""
    probabilities: NDArray[np.float32] | None = None
    """``(N, K)``, rows add up to 1, for spaces that classify."""
    predictions: Mapping[str, NDArray[np.generic]] = field(default_factory=dict)
    """Column -> ``(N,)``: what the space reads off each image."""


@dataclass(frozen=True, kw_only=True)
class FeatureSpace:
    """A function from images to features, with the words a report needs."""

    name: str
    """As reports state it; without paths of the machine."""
    width: int
    """Number of features D."""
    description: str
    extract: Callable[[Images], Extracted]
    """Description of one batch, on the CPU."""
    identity: str = ""
    """SHA-256 over the files of the weights; empty where nothing was learnt."""
    embed_texts: Callable[[Sequence[str]], Features] | None = None
    """``(N, D)`` of texts in the space of the images, where the space has texts."""


def check_images(images: Images) -> None:
    """Refuse what is not a batch of 8-bit RGB images.

    Raises:
        RequestError: If type, shape or size are others.
    """
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[-1] != 3:
        raise RequestError(
            f"Features need uint8 images (N, H, W, 3), got {images.dtype} of shape {images.shape}."
        )
    if min(images.shape[1:3]) < MIN_SIZE_PX:
        raise RequestError(
            f"Images of {images.shape[1]} x {images.shape[2]} px are too small for features; they "
            f"need {MIN_SIZE_PX} px a side."
        )


def season_month(month_index: ArrayLike, lat: ArrayLike) -> NDArray[np.float64]:
    """Calendar month as seen from the north: in the south, January stands for July.

    An image shows a season; which hemisphere it lies in is often not to be seen. Rain of the
    tropics follows the sun as well, so that the rule holds there too.

    Args:
        month_index: 0 for January to 11 for December; NaN where not known.
        lat: Degrees north; NaN where not known. The equator counts as north.

    Returns:
        0 to 11, NaN where either is not known.

    Example:
        >>> season_month([0, 0, 8], [50.0, -50.0, -1.0])
        array([0., 6., 2.])
    """
    month, latitude = np.asarray(month_index, np.float64), np.asarray(lat, np.float64)
    turned = (month + np.where(latitude < 0, 6.0, 0.0)) % 12
    return np.where(np.isnan(latitude), np.nan, turned)
