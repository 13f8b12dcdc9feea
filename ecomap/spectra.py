"""Fine structure of image pairs: power spectra, and edges.

Pixel errors reward blur. A spectrum does not care where things lie, only how much of each size
there is; edges care, and forgive a pixel.
"""

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Pixels = NDArray[np.uint8]
"""Display values ``(H, W, 3)``, red first."""
Mask = NDArray[np.bool_]
"""``(H, W)``; True where both images may be read."""

LUMA = (0.299, 0.587, 0.114)
"""Weights of red, green and blue in brightness (ITU-R BT.601, https://www.itu.int/rec/R-REC-BT.601)."""
ROUNDING_POWER = 1 / 12
"""Variance of rounding to whole display values. It is added to every power, so that a flat image
has a spectrum and noise below a display value counts little."""
EDGE_QUANTILE = 0.9
"""The reference's steepest tenth of pixels are its edges."""
MIN_EDGE_GRADIENT = 2.0
"""Display values a pixel; what is flatter is no edge in any image, as JPEG alone makes it."""
EDGE_TOLERANCE_PX = 1


def luma(rgb: Pixels) -> NDArray[np.float64]:
    """Brightness ``(H, W)`` in display values."""
    return np.asarray(rgb.astype(np.float64) @ LUMA)


def radial_power(image: NDArray[np.float64], valid: Mask | None = None) -> NDArray[np.float64]:
    """Power of an image by spatial frequency, averaged over directions.

    The image, its mean subtracted, is multiplied by a Hann window (frames do not wrap around) that
    is 0 where it is not valid. Power is divided by the sum of the squared window, so that white
    noise has its variance at every frequency.

    Args:
        image: ``(H, W)``, at least 4 px a side.
        valid: Pixels that count, ``(H, W)``; all by default.

    Returns:
        ``(min(H, W) // 2,)`` in squared units of the image, `ROUNDING_POWER` not added: mean power
        at 1, 2, ... cycles over the shorter side, each ring one cycle wide. NaN if nothing is
        valid inside the window.

    Raises:
        ValueError: If the mask has another shape.

    References:
        Durall et al. (2020), Watch your Up-Convolution: CNN Based Generative Deep Neural Networks
        are Failing to Reproduce Spectral Distributions, https://arxiv.org/abs/2003.01826
    """
    height, width = image.shape
    shorter = min(height, width)
    window = np.outer(np.hanning(height), np.hanning(width))
    if valid is not None:
        _check_mask(valid, image.shape)
        window = window * valid
    total = window.sum()
    if total <= 0:
        return np.full(shorter // 2, np.nan)
    centred = (image - (window * image).sum() / total) * window
    power = np.abs(np.fft.fft2(centred)) ** 2 / (window**2).sum()
    cycles = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width)[None]) * shorter
    ring = np.rint(cycles).astype(int).ravel()
    sums = np.bincount(ring, power.ravel(), shorter // 2 + 1)
    counts = np.bincount(ring, minlength=shorter // 2 + 1)
    inside = slice(1, shorter // 2 + 1)
    return np.asarray(sums[inside] / counts[inside])


def spectrum_error(reference: Pixels, generated: Pixels, valid: Mask | None = None) -> float:
    """How far the radial spectra of two images lie apart, as a ratio of powers.

    Root mean square over spatial frequencies of ``10 log10((P_generated + 1/12) / (P_reference +
    1/12))``, power P of `luma` by `radial_power`. Where things lie does not enter.

    Args:
        reference: Display values ``(H, W, 3)``.
        generated: The same shape.
        valid: Pixels that count in both, ``(H, W)``; all by default.

    Returns:
        Decibels, >= 0; symmetric. 6.02 for twice the contrast at every frequency. NaN if nothing
        is valid.

    Raises:
        ValueError: If the shapes differ.
    """
    check_pair(reference, generated, valid)
    first, second = (
        10 * np.log10(radial_power(luma(image), valid) + ROUNDING_POWER)
        for image in (reference, generated)
    )
    return float(np.sqrt(np.mean((second - first) ** 2)))


def edge_f1(reference: Pixels, generated: Pixels, valid: Mask | None = None) -> float:
    """Agreement of edges, with a pixel of tolerance: harmonic mean of precision and recall.

    Edges of both images are pixels whose Sobel gradient of `luma` reaches one threshold, the
    reference's quantile `EDGE_QUANTILE` or `MIN_EDGE_GRADIENT` where that is higher. A blurred
    image thus has few edges, and a noisy one too many. Precision is the share of generated edges
    with an edge of the reference among the 3 x 3 pixels around, recall the share of the
    reference's edges with a generated one. Pixels whose gradient needs a pixel that is not valid
    are left out. Chance is not 0: where a tenth of an image is edges, edges laid out at random find
    one nearby most of the time.

    Args:
        reference: Display values ``(H, W, 3)``; it sets the threshold, so order matters.
        generated: The same shape.
        valid: Pixels that count in both, ``(H, W)``; all by default.

    Returns:
        In [0, 1]; 0 if one image has edges and the other none, NaN if neither has, or nothing is
        valid.

    Raises:
        ValueError: If the shapes differ.

    References:
        Martin, Fowlkes & Malik (2004), Learning to Detect Natural Image Boundaries Using Local
        Brightness, Color, and Texture Cues, https://doi.org/10.1109/TPAMI.2004.1273918
    """
    check_pair(reference, generated, valid)
    counts = np.ones(reference.shape[:2], bool) if valid is None else valid
    counts = ndimage.minimum_filter(counts, 3, mode="nearest")
    if not counts.any():
        return float("nan")
    steepness = [_gradient(luma(image)) for image in (reference, generated)]
    threshold = max(MIN_EDGE_GRADIENT, float(np.quantile(steepness[0][counts], EDGE_QUANTILE)))
    wanted, found = ((one >= threshold) & counts for one in steepness)
    if not wanted.any() and not found.any():
        return float("nan")
    if not wanted.any() or not found.any():
        return 0.0
    near = ndimage.maximum_filter
    size = 2 * EDGE_TOLERANCE_PX + 1
    precision = near(wanted, size, mode="constant")[found].mean()
    recall = near(found, size, mode="constant")[wanted].mean()
    return float(2 * precision * recall / (precision + recall)) if precision + recall else 0.0


def check_pair(reference: Pixels, generated: Pixels, valid: Mask | None) -> None:
    """Refuse images that do not lie on the same pixels.

    Raises:
        ValueError: If they are not two ``(H, W, 3)`` of one shape, or the mask has another.
        TypeError: If an image is not ``uint8``.
    """
    for image in (reference, generated):
        if image.dtype != np.uint8:
            raise TypeError(f"Pairs are compared as uint8 display values, not {image.dtype}.")
    if reference.shape != generated.shape or reference.ndim != 3 or reference.shape[-1] != 3:
        raise ValueError(
            f"Need two images (H, W, 3) of one shape, got {reference.shape} and {generated.shape}."
        )
    if valid is not None:
        _check_mask(valid, reference.shape[:2])


def _check_mask(valid: Mask, shape: tuple[int, ...]) -> None:
    if valid.shape != shape:
        raise ValueError(f"The mask has shape {valid.shape}, the image {shape}.")


def _gradient(image: NDArray[np.float64]) -> NDArray[np.float64]:
    """Length of the Sobel gradient, in display values a pixel."""
    along = [ndimage.sobel(image, axis, mode="nearest") / 8 for axis in (0, 1)]
    return np.asarray(np.hypot(*along))
