"""Greenness and snow read off 8-bit RGB pictures, and off reflectance where there is some.

Functions of ``rgb`` take display values (0-255) of red, green and blue in the last axis. Display
values are not linear reflectance: Sentinel-2 tiles carry an unknown gain and clip at 255, Blue
Marble was colour-corrected by hand, and JPEG moves both by a few steps. Indices of pictures from
one source may be compared with each other; they are not the indices of a sensor. `ndvi`, `evi` and
`ndsi` are: they take reflectance, one array a band.

Longer than the budget because each index carries its formula, range and paper.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]
"""Display values, ``(..., 3)``."""
Mask = NDArray[np.bool_]
"""One truth value per pixel, ``(...)``."""
Reflectance = NDArray[np.float32]
"""Share of light that is reflected, dimensionless, ``(...)``; NaN without data."""

SNOW_MIN_BRIGHTNESS = 110
"""Smallest channel of a snow pixel, display value 0-255."""

SNOW_MAX_SATURATION = 0.2
"""Largest ``(max - min) / max`` of the channels of a snow pixel.

Evidence for both, as the fraction of Blue Marble 2004 pixels that they call snow, in January and
July: central Siberia (60-66 N, 100-115 E) 1.00 and 0.00; western Siberia (55-60 N, 65-80 E) 0.96
and 0.00; Sahara (20-28 N, 0-20 E) 0.00 and 0.00; Arabia (18-22 N, 46-54 E) 0.00 and 0.00; the
Amazon 0.00 and 0.00; Greenland 1.00 and 1.00. A threshold of 170 loses a quarter to four tenths of
Siberia's snow; the least saturated twentieth of the Sahara still has a saturation of 0.31. Sahara
tiles of Sentinel-2, clipped in red, score 0.00.
"""

MAX_DARK = 23
"""Pixels whose largest channel does not exceed it are water or deep shadow, and their colour is
noise of compression. Blue Marble paints the ocean (3, 6, 21); 0.2 % of its land is as dark."""
MAX_WATER = 60
MIN_WATER_BLUE = 8
"""Pixels up to `MAX_WATER` whose blue exceeds red and green by `MIN_WATER_BLUE` are water: lakes,
and oceans that a model or an autoencoder did not paint quite flat."""

MIN_LAND_PX_FRAC = 0.01
"""An image with less land than this is read as a whole."""


class LandIndices(NamedTuple):
    """What is read off the land of an image."""

    greenness: float
    """Mean green chromatic coordinate; NaN for a black image."""
    snow_frac: float
    has_land: bool
    """Whether there was land to read; otherwise the whole image was."""


def green_chromatic_coordinate(rgb: Pixels) -> NDArray[np.float32]:
    """Share of green in the brightness of each pixel: ``G / (R + G + B)``.

    Args:
        rgb: Display values ``(..., 3)``, red first.

    Returns:
        ``(...)`` in [0, 1]: 1/3 for grey, above it for green. A black pixel has no colour: NaN.

    Raises:
        ValueError: If the last axis is not red, green, blue.

    Example:
        >>> import numpy as np
        >>> green_chromatic_coordinate(np.array([[30, 60, 10], [90, 90, 90]], np.uint8)).round(3)
        array([0.6  , 0.333], dtype=float32)

    References:
        Sonnentag et al. (2012), Digital repeat photography for phenological research in forest
        ecosystems, https://doi.org/10.1016/j.agrformet.2011.09.009
    """
    red, green, blue = _channels(rgb)
    return _ratio(green, red + green + blue)


def vari(rgb: Pixels) -> NDArray[np.float32]:
    """Visible atmospherically resistant index: ``(G - R) / (G + R - B)``.

    Args:
        rgb: Display values ``(..., 3)``, red first.

    Returns:
        ``(...)``: above 0 where green exceeds red. NaN where ``G + R <= B``, as in deep water and
        in black pixels: the index has no meaning there and its sign would flip.

    Raises:
        ValueError: If the last axis is not red, green, blue.

    References:
        Gitelson et al. (2002), Novel algorithms for remote estimation of vegetation fraction,
        https://doi.org/10.1016/S0034-4257(01)00289-9
    """
    red, green, blue = _channels(rgb)
    return _ratio(green - red, green + red - blue)


def excess_green(rgb: Pixels) -> NDArray[np.float32]:
    """Excess green of display values: ``(2 G - R - B) / 255``.

    Brightness counts: a dark forest has less than a bright meadow of the same hue. The form with
    chromatic coordinates (Woebbecke et al. 1995, https://doi.org/10.13031/2013.27838) is
    ``3 GCC - 1`` and would say nothing beside `green_chromatic_coordinate`.

    Args:
        rgb: Display values ``(..., 3)``, red first.

    Returns:
        ``(...)`` in [-2, 2]: 0 for grey and for black.

    Raises:
        ValueError: If the last axis is not red, green, blue.

    References:
        Richardson et al. (2007), Use of digital webcam images to track spring green-up in a
        deciduous broadleaf forest, https://doi.org/10.1007/s00442-006-0657-z
    """
    red, green, blue = _channels(rgb)
    return np.asarray((2 * green - red - blue) / 255, np.float32)


def ndvi(near_infrared: Reflectance, red: Reflectance) -> Reflectance:
    """Normalised difference vegetation index: ``(NIR - R) / (NIR + R)``.

    Args:
        near_infrared: Reflectance of B08 or B8A.
        red: Reflectance of B04.

    Returns:
        In [-1, 1] where both are positive; NaN where a band is, or their sum is not positive.

    Raises:
        ValueError: If the shapes differ.

    References:
        Tucker (1979), Red and photographic infrared linear combinations for monitoring vegetation,
        https://doi.org/10.1016/0034-4257(79)90013-0
    """
    _same_shape(near_infrared, red)
    return _ratio(near_infrared - red, near_infrared + red)


def evi(near_infrared: Reflectance, red: Reflectance, blue: Reflectance) -> Reflectance:
    """Enhanced vegetation index: ``2.5 (NIR - R) / (NIR + 6 R - 7.5 B + 1)``.

    Over snow and cloud the correction by blue overshoots and the index loses its meaning: pixels
    where the divisor is not positive or the result lies outside [-1, 1] are undefined.

    Args:
        near_infrared: Reflectance of B08 or B8A; the index is not linear, digital numbers will not
            do.
        red: Reflectance of B04.
        blue: Reflectance of B02.

    Returns:
        In [-1, 1]; NaN where undefined or a band is NaN.

    Raises:
        ValueError: If the shapes differ.

    References:
        Huete et al. (2002), Overview of the radiometric and biophysical performance of the MODIS
        vegetation indices, https://doi.org/10.1016/S0034-4257(02)00096-2
    """
    _same_shape(near_infrared, red, blue)
    divisor = near_infrared + 6 * red - 7.5 * blue + 1
    result = _ratio(2.5 * (near_infrared - red), divisor)
    return np.where(np.abs(result) <= 1, result, np.float32(np.nan))


def ndsi(green: Reflectance, short_wave_infrared: Reflectance) -> Reflectance:
    """Normalised difference snow index: ``(G - SWIR) / (G + SWIR)``; snow lies above 0.4.

    Args:
        green: Reflectance of B03.
        short_wave_infrared: Reflectance of B11, on the pixels of green.

    Returns:
        In [-1, 1] where both are positive; NaN where a band is, or their sum is not positive.

    Raises:
        ValueError: If the shapes differ.

    References:
        Hall, Riggs & Salomonson (1995), Development of methods for mapping global snow cover using
        moderate resolution imaging spectroradiometer data,
        https://doi.org/10.1016/0034-4257(95)00137-P
    """
    _same_shape(green, short_wave_infrared)
    return _ratio(green - short_wave_infrared, green + short_wave_infrared)


def snow_mask(rgb: Pixels) -> Mask:
    """Find pixels that are bright and nearly grey, as snow is.

    Opaque cloud, salt and glare look the same in three visible bands: on frames that may be cloudy
    this is "snow or cloud".

    Args:
        rgb: Display values ``(..., 3)``, red first.

    Returns:
        ``(...)``, True where the smallest channel reaches `SNOW_MIN_BRIGHTNESS` and the saturation
        does not exceed `SNOW_MAX_SATURATION`.

    Raises:
        TypeError: If the values are not ``uint8``: the thresholds are display values.
        ValueError: If the last axis is not red, green, blue.
    """
    if rgb.dtype != np.uint8:
        raise TypeError(
            f"Snow is found on display values of type uint8, not {rgb.dtype}. Scale the image to "
            "0-255 first."
        )
    red, green, blue = _channels(rgb)
    smallest = np.minimum(np.minimum(red, green), blue)
    largest = np.maximum(np.maximum(red, green), blue)
    is_grey = largest - smallest <= SNOW_MAX_SATURATION * largest
    return np.asarray((smallest >= SNOW_MIN_BRIGHTNESS) & is_grey)


def land_mask(image: Pixels) -> Mask:
    """Pixels of an image ``(H, W, 3)`` that are neither as dark as deep water nor dark blue."""
    red, green, blue = np.moveaxis(image.astype(np.int16), -1, 0)
    largest = np.maximum(np.maximum(red, green), blue)
    is_blue = np.minimum(blue - red, blue - green) >= MIN_WATER_BLUE
    return np.asarray((largest > MAX_DARK) & ~(is_blue & (largest <= MAX_WATER)))


def greenness(rgb: Pixels, mask: Mask | None = None) -> float:
    """Mean green chromatic coordinate of an image.

    Args:
        rgb: Display values ``(..., 3)``, red first.
        mask: Pixels that count, ``(...)``; all by default. ``~snow_mask(rgb)`` leaves snow out,
            which otherwise counts as the grey that it is.

    Returns:
        Mean over the pixels that count and are not black; NaN if there are none.

    Raises:
        ValueError: If the last axis is not red, green, blue, or the mask has another shape.
    """
    return mean_over(green_chromatic_coordinate(rgb), mask)


def snow_fraction(rgb: Pixels, mask: Mask | None = None) -> float:
    """Fraction of an image's pixels that look like snow (`snow_mask`).

    Args:
        rgb: Display values ``(..., 3)``, red first.
        mask: Pixels that count, ``(...)``; all by default.

    Returns:
        Fraction in [0, 1] of the pixels that count, black ones among them; NaN if there are none.

    Raises:
        TypeError: If the values are not ``uint8``.
        ValueError: If the last axis is not red, green, blue, or the mask has another shape.
    """
    return mean_over(snow_mask(rgb).astype(np.float32), mask)


def land_indices(rgb: Pixels, valid: Mask | None = None) -> LandIndices:
    """Greenness and snow of the land pixels of an image (`read_land`).

    Snow counts in greenness as the grey that it is.

    Args:
        rgb: Display values ``(H, W, 3)``, red first.
        valid: Pixels that may be read, ``(H, W)``; all by default.

    Raises:
        ValueError: If the mask has another shape.
    """
    counts, has_land = read_land(rgb, valid)
    return LandIndices(greenness(rgb, counts), snow_fraction(rgb, counts), has_land)


def read_land(rgb: Pixels, valid: Mask | None = None) -> tuple[Mask, bool]:
    """Pixels over which the indices of an image are read: its own land.

    A model that is not told where the coast lies cannot be held to it pixel by pixel.

    Args:
        rgb: Display values ``(H, W, 3)``, red first.
        valid: Pixels that may be read, ``(H, W)``; all by default.

    Returns:
        Valid pixels of land, and True; all valid pixels, and False, where land (`land_mask`) is
        less than `MIN_LAND_PX_FRAC` of them.

    Raises:
        ValueError: If the mask has another shape.
    """
    readable = np.ones(rgb.shape[:-1], bool) if valid is None else valid
    if readable.shape != rgb.shape[:-1]:
        raise ValueError(f"The mask has shape {readable.shape}, the image {rgb.shape[:-1]}.")
    land = land_mask(rgb) & readable
    has_land = bool(land.sum() >= MIN_LAND_PX_FRAC * max(readable.sum(), 1))
    return (land if has_land else readable), has_land


def mean_over(values: NDArray[np.float32], mask: Mask | None = None) -> float:
    """Mean of the values that are defined (not NaN) and count; NaN if there are none.

    Raises:
        ValueError: If the mask has another shape.
    """
    counts = ~np.isnan(values)
    if mask is not None:
        if mask.shape != values.shape:
            raise ValueError(f"The mask has shape {mask.shape}, the image {values.shape}.")
        counts &= mask
    return float(values[counts].mean(dtype=np.float64)) if counts.any() else float("nan")


def _channels(rgb: Pixels) -> tuple[NDArray[np.float32], ...]:
    """Red, green and blue as float, so that differences and sums of bytes do not wrap."""
    if rgb.ndim == 0 or rgb.shape[-1] != 3:
        raise ValueError(f"The last axis must be red, green, blue; got shape {rgb.shape}.")
    values = rgb.astype(np.float32)
    return values[..., 0], values[..., 1], values[..., 2]


def _ratio(top: NDArray[np.float32], bottom: NDArray[np.float32]) -> NDArray[np.float32]:
    """Quotient where the divisor is positive, NaN elsewhere."""
    result = np.full(bottom.shape, np.nan, np.float32)
    np.divide(top, bottom, out=result, where=bottom > 0)
    return result


def _same_shape(*bands: Reflectance) -> None:
    """Bands must lie on the same pixels: numpy would stretch one over the other."""
    if len({band.shape for band in bands}) > 1:
        raise ValueError(f"Bands have shapes {[band.shape for band in bands]}; expected one shape.")
