"""Pixels of image files, strictly: 8-bit RGB, or 16-bit digital numbers with a display range.

`ecomap.imagery` reads what training may use and turns grey into colour. Scores must not: what is
not plainly an RGB image is refused here, under a reason by which such images are counted.
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from rasterio.enums import ColorInterp
from rasterio.errors import NotGeoreferencedWarning, RasterioError

from ecomap.errors import DataError, ImageError
from ecomap.imagery import (
    DIGITAL_NUMBERS_PER_REFLECTANCE,
    GEOTIFF_SUFFIXES,
    RGB_BANDS,
    read_digital_numbers,
    stretch,
)
from ecomap.page import PNG_SIGNATURE
from ecomap.tiles import Frame

IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg"}) | GEOTIFF_SUFFIXES
"""Files that can be scored."""

PIL_ERRORS = (
    UnidentifiedImageError,
    Image.DecompressionBombError,
    OSError,
    SyntaxError,
    ValueError,
)
"""What Pillow raises for files that it cannot read."""

FORMATS = ("PNG", "JPEG")
"""What a file that is no TIFF may hold, whatever its suffix says."""

Mask = NDArray[np.bool_]
Size = tuple[int, int]
"""Height and width, pixels."""

UNREADABLE = "unreadable"
NOT_RGB = "not RGB"
NO_RANGE = "16-bit without a reflectance range"
NOT_FINITE = "NaN or infinite pixels"
FLOAT = "float image"
UNUSABLE_MASK = "unusable mask"


@dataclass(frozen=True)
class Header:
    """What the head of a file says, without its pixels."""

    size: Size
    is_jpeg: bool
    has_alpha: bool


def read_header(path: Path) -> Header | None:
    """Read the head of an image file; ``None`` if it is no image."""
    try:
        if path.suffix.lower() in GEOTIFF_SUFFIXES:
            with _open_geotiff(path) as source:
                has_alpha = ColorInterp.alpha in source.colorinterp
                return Header((source.height, source.width), False, has_alpha)
        with Image.open(path, formats=FORMATS) as image:
            width, height = image.size
            is_jpeg = image.format in ("JPEG", "MPO")
            return Header((height, width), is_jpeg, image.has_transparency_data)
    except (RasterioError, *PIL_ERRORS):
        return None


def decode(
    path: Path, *, bands: tuple[str, ...] = (), reflectance_range: tuple[float, float] | None = None
) -> Frame:
    """Read a whole image file.

    Args:
        path: PNG, JPEG or TIFF.
        bands: Of a 16-bit GeoTIFF: bands to read beside `RGB_BANDS`.
        reflectance_range: Of a 16-bit GeoTIFF: reflectance shown as 0 and as 255.

    Returns:
        The image. Transparent pixels and pixels without data are 0 and not valid; partly
        transparent ones are valid. Arrays may be read-only.

    Raises:
        ImageError: If it is not readable, or neither three bands of 8 bits nor 16 bits with a
            reflectance range.
    """
    if not path.is_file():
        raise ImageError(UNREADABLE, f"{path} does not exist. Restore it.")
    if path.suffix.lower() not in GEOTIFF_SUFFIXES:
        return _read_picture(path)
    if reflectance_range is None:
        return _read_geotiff(path)
    return _read_reflectance(path, bands, reflectance_range)


def decode_mask(path: Path, size: Size) -> Mask:
    """Read where a PNG of one band is not 0; a JPEG is refused, for it blurs its values.

    Raises:
        ImageError: If it is not readable, or has several bands or another size.
    """
    try:
        with Image.open(path, formats=("PNG",)) as image:
            values, mode = np.asarray(image), image.mode
    except PIL_ERRORS as error:
        raise ImageError(UNUSABLE_MASK, f"{path} is not a readable mask: {error}.") from None
    if values.ndim != 2 or values.shape != size:
        raise ImageError(
            UNUSABLE_MASK,
            f"{path} has {values.shape[0]} x {values.shape[1]} px of mode {mode!r}. Expected one "
            f"band of {size[0]} x {size[1]} px, as its image has.",
        )
    return np.asarray(values != 0)


def _read_picture(path: Path) -> Frame:
    """Decode a PNG or JPEG."""
    try:
        with Image.open(path, formats=FORMATS) as image:
            _check_picture(path, image)
            if image.mode == "RGB" and not image.has_transparency_data:
                return _opaque(np.asarray(image))
            pixels = np.asarray(image.convert("RGBA"))
    except ImageError:
        raise
    except PIL_ERRORS as error:
        raise ImageError(UNREADABLE, f"{path} is not a readable image: {error}.") from None
    valid = pixels[..., 3] > 0
    return Frame(pixels[..., :3] * valid[..., None], valid)


def _check_picture(path: Path, image: Image.Image) -> None:
    """Refuse a picture that is not 8-bit RGB, with or without transparency."""
    # Pillow reads 16-bit RGB as 8-bit without a word; the ninth byte of IHDR's content tells.
    with path.open("rb") as file:
        head = file.read(25)
    if head.startswith(PNG_SIGNATURE) and head[24] == 16:
        raise _no_range(path, "16 bits a band")
    if image.mode not in ("RGB", "RGBA"):
        raise ImageError(
            NOT_RGB,
            f"{path} has pixel mode {image.mode!r}. Expected 8-bit RGB; convert it, so that you "
            "choose its colours.",
        )


def _read_geotiff(path: Path) -> Frame:
    """Decode a TIFF of display values; what its alpha, mask or nodata value hides is masked."""
    try:
        with _open_geotiff(path) as source:
            _check_geotiff(path, source)
            bands = [
                index
                for index, kind in enumerate(source.colorinterp, 1)
                if kind is not ColorInterp.alpha
            ]
            rgb = np.ascontiguousarray(np.moveaxis(source.read(bands), 0, -1))
            valid = source.dataset_mask() != 0
    except RasterioError as error:
        raise ImageError(UNREADABLE, f"{path} is not a readable TIFF: {error}.") from None
    return Frame(rgb * valid[..., None], valid)


def _check_geotiff(path: Path, source: Any) -> None:
    """Refuse a TIFF that is not 8-bit RGB, with or without alpha."""
    dtype = np.dtype(source.dtypes[0])
    if dtype.kind == "f":
        if not np.isfinite(source.read()).all():
            raise ImageError(
                NOT_FINITE,
                f"{path} has pixels that are NaN or infinite. Expected 8-bit RGB; write it as "
                "8-bit, with a mask where there is no data.",
            )
        raise ImageError(
            FLOAT, f"{path} has pixels of type {dtype}. Expected 8-bit RGB; convert it first."
        )
    if dtype.kind in "ui" and dtype.itemsize > 1:
        raise _no_range(path, f"pixels of type {dtype}")
    num_colours = source.count - (ColorInterp.alpha in source.colorinterp)
    if num_colours != 3 or dtype != np.uint8:
        raise ImageError(
            NOT_RGB,
            f"{path} has {num_colours} bands of type {dtype}. Expected red, green and blue of 8 "
            "bits; choose the bands to show and write them.",
        )


def _read_reflectance(
    path: Path, wanted: tuple[str, ...], reflectance_range: tuple[float, float]
) -> Frame:
    """Decode a 16-bit GeoTIFF: its picture, and the reflectance of its bands."""
    missing = [name for name in RGB_BANDS if wanted and name not in wanted]
    if missing:
        raise ImageError(
            NOT_RGB,
            f"{path} has the bands {', '.join(wanted)} and lacks {', '.join(missing)}. Expected "
            f"at least {', '.join(RGB_BANDS)}.",
        )
    names = tuple(dict.fromkeys((*RGB_BANDS, *wanted)))
    try:
        with _placed_or_not():
            numbers = read_digital_numbers(path, names)
    except DataError as error:
        raise ImageError(UNREADABLE, str(error)) from None
    known = numbers > 0
    reflectance = np.where(
        known, numbers / np.float32(DIGITAL_NUMBERS_PER_REFLECTANCE), np.float32(np.nan)
    )
    bands = {name: reflectance[..., index].copy() for index, name in enumerate(names)}
    valid = np.asarray(known[..., :3].all(-1))
    return Frame(stretch(numbers[..., :3], reflectance_range), valid, bands)


def _open_geotiff(path: Path) -> Any:
    """Open a TIFF."""
    with _placed_or_not():
        return rasterio.open(path)


@contextmanager
def _placed_or_not() -> Iterator[None]:
    """Silence rasterio's warning of files without a position, which is of no matter here."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        yield


def _opaque(rgb: NDArray[np.uint8]) -> Frame:
    """A picture without any mask; the array of ones takes no memory."""
    return Frame(rgb, np.broadcast_to(np.array(True), rgb.shape[:2]))


def _no_range(path: Path, what: str) -> ImageError:
    """The error of an image whose numbers have no known display range."""
    return ImageError(
        NO_RANGE,
        f"{path} has {what}. Expected 8-bit RGB, or a GeoTIFF of digital numbers with a "
        "reflectance_range in its records; convert it, or state the range.",
    )
