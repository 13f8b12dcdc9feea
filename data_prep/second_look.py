"""A second opinion on cloud in a tile, from a network instead of the provider's classes."""

import importlib

import numpy as np
from numpy.typing import NDArray

from ecomap.errors import RequestError

SECOND_LOOK_BANDS = ("B04", "B03", "B08")
"""Red, green and near infrared, as OmniCloudMask takes them."""
SECOND_LOOK_MIN_PX = 96


def second_look(picture: NDArray[np.uint16]) -> NDArray[np.bool_]:
    """Find cloud and its shadow with OmniCloudMask, a network that needs no level or sensor.

    Args:
        picture: Red, green and near infrared, ``(3, H, W)``, at 10 to 50 m.

    Raises:
        RequestError: If the package is missing, or the tile is too small for it.
    """
    if min(picture.shape[1:]) < SECOND_LOOK_MIN_PX:
        raise RequestError(
            f"A tile of {picture.shape[2]} x {picture.shape[1]} pixels is too small for "
            f"OmniCloudMask; it needs {SECOND_LOOK_MIN_PX}. Set imagery.cloud_mask to scl."
        )
    try:
        package = importlib.import_module("omnicloudmask")
    except ModuleNotFoundError:
        raise RequestError(
            "imagery.cloud_mask is omnicloudmask, and that package is not installed. Install it "
            "with 'pip install omnicloudmask', or set imagery.cloud_mask to scl."
        ) from None
    classes = np.asarray(package.predict_from_array(picture))
    return np.asarray(classes.reshape(picture.shape[1:]) > 0)
