"""Read the frame of a record as uint8 RGB: 8-bit pictures as they are, 16-bit tiles stretched."""

from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from ecomap.errors import DataError
from ecomap.schema import TileRecord

Image.MAX_IMAGE_PIXELS = 400_000_000  # mosaics are larger than Pillow's guard against bombs

RGB_BANDS = ("B04", "B03", "B02")
"""Sentinel-2 bands of a display image, red first."""
DIGITAL_NUMBERS_PER_REFLECTANCE = 10_000
GEOTIFF_SUFFIXES = frozenset({".tif", ".tiff"})
PICTURE_MODES = ("RGB", "RGBA", "L", "P")
"""Pixel modes of 8-bit pictures, in Pillow's words."""


def has_data(frames: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Pixels with data of frames: what is black in all bands is missing.

    Args:
        frames: ``(..., bands)``.

    Returns:
        bool ``(...)``.

    Example:
        >>> has_data(np.array([[0, 0, 0], [0, 0, 1]], np.uint8)).tolist()
        [False, True]
    """
    return np.asarray(frames.any(-1))


def read_image(path: Path, reflectance_range: tuple[float, float] | None = None) -> np.ndarray:
    """Read an image file as uint8 RGB ``(H, W, 3)``.

    Args:
        path: 8-bit picture, or GeoTIFF of digital numbers with bands named as `RGB_BANDS`.
        reflectance_range: For a GeoTIFF of digital numbers: what is shown as 0 and as 255.

    Raises:
        DataError: If the file is missing or damaged, or has neither form.
    """
    if reflectance_range is not None and path.suffix.lower() in GEOTIFF_SUFFIXES:
        return stretch(read_digital_numbers(path, RGB_BANDS), reflectance_range)
    with _opened(path, PICTURE_MODES) as image:
        return np.asarray(image.convert("RGB"))


def read_picture(path: Path) -> tuple[NDArray[np.uint8], bool]:
    """Read a picture that somebody brings, in which what is transparent is missing.

    Args:
        path: 8-bit picture, with or without transparency.

    Returns:
        uint8 RGB ``(H, W, 3)``, black where it is missing; and whether it is grey: of one band
        beside its transparency.

    Raises:
        DataError: If the file is missing or damaged, or is not 8-bit.
    """
    with _opened(path, (*PICTURE_MODES, "LA"), lacking="Check the path.") as image:
        pixels = np.array(image.convert("RGBA"))
        is_grey = image.mode in ("L", "LA")
    pixels[pixels[..., 3] == 0] = 0
    return np.ascontiguousarray(pixels[..., :3]), is_grey


@contextmanager
def _opened(
    path: Path,
    modes: tuple[str, ...],
    *,
    lacking: str = "The dataset names it; restore it or import again.",
) -> Iterator[Image.Image]:
    """A picture of one of some pixel modes, while it is read; ``lacking`` is what to do without."""
    try:
        with Image.open(path) as image:
            if image.mode not in modes:
                raise DataError(
                    f"{path} has pixel mode {image.mode!r}. Expected 8-bit RGB; convert it first."
                )
            yield image
    except FileNotFoundError:
        raise DataError(f"{path} does not exist. {lacking}") from None
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{path} is not a readable image: {error}.") from None


def read_digital_numbers(path: Path, bands: tuple[str, ...]) -> NDArray[np.uint16]:
    """Read bands of a 16-bit tile by their names.

    Returns:
        ``(H, W, len(bands))``: reflectance times 10,000, and 0 for missing data.

    Raises:
        DataError: If the file is missing or damaged, lacks a band, or is not 16-bit.
    """
    import rasterio
    from rasterio.errors import RasterioError

    if not path.is_file():
        raise DataError(f"{path} does not exist. The dataset names it; restore it or fetch again.")
    try:
        with rasterio.open(path) as source:
            names = list(source.descriptions)
            missing = [band for band in bands if band not in names]
            if missing or source.dtypes[0] != "uint16":
                raise DataError(
                    f"{path} has bands {names} of type {source.dtypes[0]}. Expected uint16 with "
                    f"bands named {', '.join(bands)}; fetch it again."
                )
            values = source.read([names.index(band) + 1 for band in bands])
    except RasterioError as error:
        raise DataError(f"{path} is not a readable GeoTIFF: {error}.") from None
    return np.ascontiguousarray(values.transpose(1, 2, 0))


def stretch(
    digital_numbers: NDArray[np.uint16], reflectance_range: tuple[float, float]
) -> NDArray[np.uint8]:
    """Show digital numbers as 8-bit values along a straight line.

    Args:
        digital_numbers: ``(H, W, C)``; reflectance times 10,000, 0 for missing data.
        reflectance_range: Reflectance shown as 0 and as 255.

    Returns:
        The same shape. Missing data is 0 in all bands, and nothing else is: the darkest data is 1.

    Example:
        >>> stretch(np.array([[[0, 1, 2000, 4000, 9000]]], np.uint16), (0.0, 0.4)).ravel().tolist()
        [0, 1, 128, 255, 255]
    """
    black, white = (value * DIGITAL_NUMBERS_PER_REFLECTANCE for value in reflectance_range)
    shown = (digital_numbers.astype(np.float32) - black) * (255 / (white - black))
    result = np.clip(np.rint(shown), 1, 255).astype(np.uint8)
    return np.where(digital_numbers == 0, np.uint8(0), result)


class FrameReader:
    """Reads frames of one dataset folder and keeps the last few mosaics open."""

    def __init__(self, folder: Path, *, num_cached: int = 2) -> None:
        """Remember the dataset's folder and how many decoded files to keep."""
        self.folder = folder
        self.num_cached = num_cached
        self._cache: OrderedDict[tuple[str, tuple[float, float] | None], np.ndarray] = OrderedDict()

    def read(self, record: TileRecord) -> np.ndarray:
        """Read the frame of a record.

        Returns:
            uint8 RGB ``(height_px, width_px, 3)``.

        Raises:
            DataError: If the record has no frame, or the frame has another size than it says.
        """
        if record.image_path is None:
            raise DataError(f"{record.tile_id} has no image_path; there is no frame to read.")
        image = self._load(record.image_path, record.reflectance_range)
        if record.window_px is not None:
            column, row, width, height = record.window_px
            image = image[row : row + height, column : column + width]
        if image.shape[:2] != (record.height_px, record.width_px):
            raise DataError(
                f"{self.folder / record.image_path} gives {image.shape[0]} x {image.shape[1]} px "
                f"for {record.tile_id}. Expected {record.height_px} x {record.width_px} px."
            )
        return image

    def _load(
        self, image_path: str, reflectance_range: tuple[float, float] | None = None
    ) -> np.ndarray:
        """Decoded file, from the cache where possible."""
        key = (image_path, reflectance_range)
        if key in self._cache:
            self._cache.move_to_end(key)
            return self._cache[key]
        image = read_image(self.folder / image_path, reflectance_range)
        self._cache[key] = image
        while len(self._cache) > self.num_cached:
            self._cache.popitem(last=False)
        return image
