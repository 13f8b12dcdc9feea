"""Which pixels of a frame count: those with data that no mask hides."""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ecomap.errors import DataError
from ecomap.image_decoding import Mask, decode_mask, read_header
from ecomap.image_files import plain_stem
from ecomap.imagery import has_data
from ecomap.schema import TileRecord


def find_masks(masks: Path, names: Sequence[str]) -> dict[str, Path]:
    """Masks of images.

    Args:
        masks: Folder of PNG files with the paths of the images, suffix apart.
        names: Paths of the images, relative to their folder.

    Returns:
        Mask by name of its image, of images that have one.

    Raises:
        DataError: If there is no such folder, or no mask in it for any image.
    """
    if not masks.is_dir():
        raise DataError(f"{masks} is not a folder. Expected masks with the paths of the images.")
    there = {
        file.relative_to(masks).with_suffix("").as_posix(): file
        for file in sorted(masks.rglob("*.png"))
    }
    found = {}
    for name in dict.fromkeys(names):
        mask = there.get(str(Path(name).with_suffix(""))) or there.get(plain_stem(name))
        if mask is not None:
            found[name] = mask
    if not found:
        raise DataError(
            f"{masks} has no mask for any of {len(names)} images. Expected PNG files with the "
            f"paths of the images, such as {Path(names[0]).with_suffix('.png')}."
        )
    return found


class ValidPixels:
    """Reads which pixels of the frames of a dataset count; the last masks stay decoded."""

    def __init__(self, folder: Path, masks: Mapping[str, Path]) -> None:
        """Remember where frames and masks are.

        Args:
            folder: Dataset folder.
            masks: Mask of a whole file by its path in the dataset; others have none.
        """
        self.folder, self.masks = folder, masks
        self._read = lru_cache(maxsize=2)(self._decode)

    def of(self, record: TileRecord, frame: NDArray[np.uint8]) -> Mask:
        """Valid pixels of a record: with data, and 0 in its mask if it has one.

        Args:
            record: The tile.
            frame: Its pixels ``(H, W, 3)``.

        Returns:
            bool ``(H, W)``.

        Raises:
            ImageError: If its mask cannot be read or has not the size of the file.
        """
        valid: Mask = has_data(frame)
        if record.image_path in self.masks:
            hidden = self._read(record.image_path)
            if record.window_px is not None:
                column, row, width, height = record.window_px
                hidden = hidden[row : row + height, column : column + width]
            valid = valid & ~hidden
        return valid

    def _decode(self, name: str) -> Mask:
        """Mask of a whole file."""
        header = read_header(self.folder / name)
        if header is None:
            raise DataError(f"{self.folder / name} is not a readable image. Restore it.")
        return decode_mask(self.masks[name], header.size)
