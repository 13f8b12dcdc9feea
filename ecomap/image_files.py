"""Images as they are measured: cut from their files, masked, checked, and brought to a size."""

import threading
from collections import OrderedDict
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from ecomap.errors import ImageError
from ecomap.image_decoding import IMAGE_SUFFIXES, Mask, decode, decode_mask
from ecomap.imagery import has_data
from ecomap.outputs import SYNTHETIC_MARK
from ecomap.tiles import Frame

OTHER_SIZE = "other size"
MOSTLY_MASKED = "mostly masked"
BLANK = "blank"


@dataclass(frozen=True, kw_only=True)
class ImageFile:
    """Where the pixels of one image stand, and how they are read."""

    path: Path
    bands: tuple[str, ...] = ()
    """Bands of a 16-bit GeoTIFF to read beside its picture; red, green and blue are always read."""
    reflectance_range: tuple[float, float] | None = None
    """For a 16-bit GeoTIFF: reflectance shown as 0 and as 255."""
    window_px: tuple[int, int, int, int] | None = None
    """Part of the file that is the image: column, row, width, height; ``None`` is all of it."""
    mask: Path | None = None
    """Picture of the whole file's size; where it is not 0 the image is masked."""
    black_is_nodata: bool = False
    """Whether pixels of an 8-bit file that are 0 in all bands lack data."""


class FrameCache:
    """Whole files that many images are cut from, the last few kept decoded; safe for threads.

    A pickled cache arrives empty.
    """

    def __init__(self, num_kept: int) -> None:
        """Keep at most ``num_kept`` files."""
        self.num_kept = num_kept
        self._frames: OrderedDict[ImageFile, Frame] = OrderedDict()
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[type["FrameCache"], tuple[int]]:
        return FrameCache, (self.num_kept,)

    def read(self, whole: ImageFile) -> Frame:
        """Decode a file, or find it decoded.

        Raises:
            ImageError: As `read_whole`.
        """
        with self._lock:  # also while decoding: two threads that want one mosaic decode it once
            if whole not in self._frames:
                self._frames[whole] = read_whole(whole)
            self._frames.move_to_end(whole)
            frame = self._frames[whole]
            while len(self._frames) > self.num_kept:
                self._frames.popitem(last=False)
            return frame


def plain_stem(name: str) -> str:
    """Name of an image, with its folders, without suffix and mark of generated images.

    Example:
        >>> plain_stem("a/niger_2004-07_synth.png"), plain_stem("v1.5/x"), plain_stem("b.JPG")
        ('a/niger_2004-07', 'v1.5/x', 'b')
    """
    path = PurePosixPath(name)
    stem = path.with_suffix("") if path.suffix.lower() in IMAGE_SUFFIXES else path
    plain = stem.name.removesuffix(SYNTHETIC_MARK)
    return stem.as_posix() if not plain else stem.with_name(plain).as_posix()


def read_frame(file: ImageFile, cache: FrameCache) -> Frame:
    """Read an image in its own size.

    Args:
        file: What to read.
        cache: Keeps files that have several windows.

    Returns:
        The image, in arrays of its own. Display values under a mask stay as they are in the file;
        transparent pixels and pixels without data are 0.

    Raises:
        ImageError: If the file, its window or its mask cannot be used.
    """
    if file.window_px is None:
        return _copy(read_whole(file))
    frame = cache.read(replace(file, window_px=None))
    column, row, width, height = file.window_px
    part = np.s_[row : row + height, column : column + width]
    bands = {name: values[part] for name, values in frame.bands.items()}
    if frame.valid[part].shape != (height, width):
        raise ImageError(
            OTHER_SIZE,
            f"{file.path} has {frame.rgb.shape[0]} x {frame.rgb.shape[1]} px, and the window "
            f"{file.window_px} leaves it. Mend the record.",
        )
    return _copy(Frame(frame.rgb[part], frame.valid[part], bands))


def read_whole(file: ImageFile) -> Frame:
    """Read and mask a whole file, whatever the window.

    Raises:
        ImageError: As `ecomap.image_decoding.decode`, or if the mask cannot be used.
    """
    frame = decode(file.path, bands=file.bands, reflectance_range=file.reflectance_range)
    if file.black_is_nodata and not frame.bands:
        frame = replace(frame, valid=frame.valid & has_data(frame.rgb))
    if file.mask is not None:
        frame = replace(frame, valid=frame.valid & ~decode_mask(file.mask, frame.valid.shape))
    return frame


def check_content(frame: Frame, path: Path, *, max_masked_frac: float) -> None:
    """Refuse an image that shows nothing.

    Raises:
        ImageError: If more than ``max_masked_frac`` of it is masked, or all of it, or all pixels
            that are left are equal.
    """
    valid_frac = float(frame.valid.mean())
    if valid_frac < 1 - max_masked_frac or valid_frac == 0:
        raise ImageError(
            MOSTLY_MASKED,
            f"{path} is masked or without data on {1 - valid_frac:.0%} of its pixels. Expected at "
            f"most {max_masked_frac:.0%}; leave it out, or raise max_masked_frac.",
        )
    pixels = frame.rgb.reshape(-1, 3) if valid_frac == 1 else frame.rgb[frame.valid]
    if (pixels == pixels[0]).all():
        raise ImageError(
            BLANK,
            f"{path} has the colour {tuple(pixels[0].tolist())} in all of its {len(pixels)} "
            "pixels. Expected an image; leave it out.",
        )


def resize(frame: Frame, size_px: int) -> Frame:
    """Bring a square image to a side of ``size_px``.

    Shrinks by the mean over the area of each new pixel, enlarges by bicubic interpolation. A new
    pixel is valid where the old pixel under its centre is (nearest neighbour), and the values of
    valid pixels take nothing from masked ones: these count as their nearest valid neighbours.
    """
    if frame.rgb.shape[:2] == (size_px, size_px):
        return frame
    valid = _nearest(frame.valid, size_px)
    rgb = _resample(frame.rgb, size_px)
    if not frame.valid.all() and frame.valid.any():
        filled = _resample(_fill(frame.rgb, frame.valid), size_px)
        rgb = np.where(valid[..., None], filled, rgb)
    bands = {name: _resize_band(band, size_px) for name, band in frame.bands.items()}
    return Frame(rgb, valid, bands)


def _resize_band(band: NDArray[np.float32], size_px: int) -> NDArray[np.float32]:
    """Likewise one band of reflectance, whose masked pixels are NaN."""
    known = np.isfinite(band)
    if not known.any():
        return np.full((size_px, size_px), np.nan, np.float32)
    values = _resample(_fill(band, known), size_px)
    return np.where(_nearest(known, size_px), values, np.float32(np.nan))


def _resample(values: NDArray[Any], size_px: int) -> NDArray[Any]:
    """``(H, H)`` float32 or ``(H, H, 3)`` uint8 at another size, in the same type."""
    if size_px > len(values):
        image = Image.fromarray(values)
        return np.array(image.resize((size_px, size_px), Image.Resampling.BICUBIC))
    weights = _area_weights(len(values), size_px)
    rows = np.tensordot(weights, values.astype(np.float32), (1, 0))
    mean = np.moveaxis(np.tensordot(weights, rows, (1, 1)), 0, 1)
    if values.dtype == np.uint8:
        mean = np.clip(np.rint(mean), 0, 255)
    return np.ascontiguousarray(mean.astype(values.dtype))


@lru_cache
def _area_weights(num_old: int, num_new: int) -> NDArray[np.float32]:
    """Share of each old pixel in each new one, ``(num_new, num_old)``, rows with the sum 1.

    Pillow's box filter takes whole pixels only, and rounds between rows and columns.
    """
    edges = np.linspace(0, num_old, num_new + 1)
    old = np.arange(num_old)
    covered = np.minimum(edges[1:, None], old + 1) - np.maximum(edges[:-1, None], old)
    return np.asarray(np.maximum(covered, 0) * (num_new / num_old), np.float32)


def _nearest(mask: Mask, size_px: int) -> Mask:
    """A mask at another size, by nearest neighbour."""
    image = Image.fromarray(mask.astype(np.uint8))
    return np.asarray(image.resize((size_px, size_px), Image.Resampling.NEAREST)) > 0


def _fill(values: NDArray[Any], known: Mask) -> NDArray[Any]:
    """Values where known, elsewhere that of the nearest known pixel; at least one is."""
    nearest = ndimage.distance_transform_edt(~known, return_distances=False, return_indices=True)
    return np.asarray(values[tuple(nearest)])


def _copy(frame: Frame) -> Frame:
    """The same in arrays that may be written."""
    bands = {name: values.copy() for name, values in frame.bands.items()}
    return Frame(frame.rgb.copy(), frame.valid.copy(), bands)
