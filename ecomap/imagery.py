"""Read the frame of a record: uint8 RGB from disk, nothing else."""

from collections import OrderedDict
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from ecomap.errors import DataError
from ecomap.schema import TileRecord

Image.MAX_IMAGE_PIXELS = 400_000_000  # mosaics are larger than Pillow's guard against bombs


def read_image(path: Path) -> np.ndarray:
    """Read an image file as uint8 RGB ``(H, W, 3)``.

    Raises:
        DataError: If the file is missing or damaged, or is not 8-bit.
    """
    try:
        with Image.open(path) as image:
            if image.mode not in ("RGB", "RGBA", "L", "P"):
                raise DataError(
                    f"{path} has pixel mode {image.mode!r}. Expected 8-bit RGB; convert it first."
                )
            return np.asarray(image.convert("RGB"))
    except FileNotFoundError:
        raise DataError(
            f"{path} does not exist. The dataset names it; restore it or import again."
        ) from None
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{path} is not a readable image: {error}.") from None


class FrameReader:
    """Reads frames of one dataset folder and keeps the last few mosaics open."""

    def __init__(self, folder: Path, *, num_cached: int = 2) -> None:
        """Remember the dataset's folder and how many decoded files to keep."""
        self.folder = folder
        self.num_cached = num_cached
        self._cache: OrderedDict[str, np.ndarray] = OrderedDict()

    def read(self, record: TileRecord) -> np.ndarray:
        """Read the frame of a record.

        Returns:
            uint8 RGB ``(height_px, width_px, 3)``.

        Raises:
            DataError: If the record has no frame, or the frame has another size than it says.
        """
        if record.image_path is None:
            raise DataError(f"{record.tile_id} has no image_path; there is no frame to read.")
        image = self._load(record.image_path)
        if record.window_px is not None:
            column, row, width, height = record.window_px
            image = image[row : row + height, column : column + width]
        if image.shape[:2] != (record.height_px, record.width_px):
            raise DataError(
                f"{self.folder / record.image_path} gives {image.shape[0]} x {image.shape[1]} px "
                f"for {record.tile_id}. Expected {record.height_px} x {record.width_px} px."
            )
        return image

    def _load(self, image_path: str) -> np.ndarray:
        """Decoded file, from the cache where possible."""
        if image_path in self._cache:
            self._cache.move_to_end(image_path)
            return self._cache[image_path]
        image = read_image(self.folder / image_path)
        self._cache[image_path] = image
        while len(self._cache) > self.num_cached:
            self._cache.popitem(last=False)
        return image
