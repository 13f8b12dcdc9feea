"""Look at frames and name what is wrong with them.

A flag is a reason for caution, not a verdict: importers keep flagged frames and drop only what
cannot be read, or what the user asks to drop. Each threshold stands here once with its reason;
"EcoMapper's example tiles" are 180 frames of 7 places, sorted by eye.

Longer than the budget because thresholds, seams and copies stand together: all reasons for a flag
can be read in one file.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple, TypeVar, get_args

import numpy as np
from numpy.typing import NDArray

from ecomap.indices import snow_mask

Flag = Literal[
    "black",
    "partial",
    "white",
    "saturated",
    "seam",
    "cloudy",
    "unlabelled_cloud",
    "duplicate",
    "blank",
    "hazy",
    "offset_suspect",
    "offset_uncertain",
    "mixed_offsets",
    "scene_unreadable",
]
FLAGS: tuple[Flag, ...] = get_args(Flag)
"""The last five are set where scenes are fetched (`data_prep.imagery_task`), not found here."""

NODATA_BLOCK_PX = 16
"""Black pixels are missing data if they hang together with a block of this size that is black
throughout. Shadow and dark forest are exactly black too (11 % of one clear winter frame), but
never over a whole block of 16 px; of 8 px they are."""
BLACK_NODATA_FRAC = 0.5
"""From here on more is missing than there. The example tiles have 0.98 once, else below 0.01."""
WHITE_FRAC = 0.8
"""Share of pixels at 255 in all bands: nothing can be seen there. Snow-covered fields with some
detail reach 0.68 in the example tiles, the three featureless ones 0.86 to 0.99."""
SATURATED_FRAC = 0.25
"""Share of values at 255 in single bands: a quarter has lost its radiometry. Sahara tiles, whose
red is clipped throughout, have 0.30 to 0.33."""
BLANK_RANGE = 3
"""Largest minus smallest value of each band of a frame of one colour; leaves room for JPEG."""
CLOUDY_FRAC = 0.3
"""EcoMapper calls a tile "partially cloudy" above it."""
SNOW_FREE_C = 12.0
"""In months as warm as this, bright grey pixels are cloud, not snow. A mountain tile with 28 % snow
has a mean of 10.2 °C; no tile above 12 °C has snow."""
UNLABELLED_CLOUD_FRAC = 0.002
"""Bright grey pixels of a warm month that contradict a label of no cloud. White roofs and clearings
of cloudless frames stay below 0.001."""
NO_CLOUD_FRAC = 0.001
"""Labels below it say that there is no cloud."""

SEAM_FRAC = 0.9
"""Share of a line across the frame along which there is a step. Clear seams of the example tiles
have 0.96 to 1.00, roads and field boundaries up to 0.55. Of 600 Blue Marble windows of 128 px,
which have no seams, straight coasts give one above 0.9 and five above 0.75."""
RECURRING_SEAM_FRAC = 0.35
"""Enough for a line on which another month of the same place has a seam: swaths repeat."""
SEAM_STEP = 5.0
"""Smallest step at a seam, display values; below it is noise."""
SEAM_CONTRAST = 1.5
"""How many times a seam's step exceeds every other step within `SEAM_REACH_PX`."""
SEAM_REACH_PX = 8
SEAM_MIN_LENGTH_PX = 64
"""Shorter cuts, at corners, are too easily made by chance."""
SEAM_MIN_TESTABLE = 0.5
"""Share of a line that must not be clipped alike on both sides; else too little can be seen."""
SEAM_NUM_LINES = 12
"""Lines with most steps that are examined exactly, per orientation."""

DUPLICATE_GRID = 16
"""Cells per side of the small picture in which near duplicates are sought."""
DUPLICATE_DISTANCE = 0.4
"""Mean difference of small pictures, display values, up to which frames are copies. The closest two
months of the example tiles (Sahara) differ by 0.61; a tile and its copy as JPEG of quality 95 by
0.09 to 0.38. At quality 75 a copy can be as different as another month, and is not found."""


_T = TypeVar("_T", bound=np.generic)


class Seam(NamedTuple):
    """A line across a frame: ``y = offset_px + slope * (x - centre)``."""

    frac: float
    """Share of the line along which there is a step, [0, 1]."""
    is_vertical: bool
    """Whether x and y change places in the equation."""
    slope: float
    offset_px: int

    def is_near(self, other: "Seam") -> bool:
        """Whether two lines are the same within the resampling of two dates."""
        return (
            self.is_vertical == other.is_vertical
            and abs(self.slope - other.slope) <= 0.02
            and abs(self.offset_px - other.offset_px) <= 4
        )


@dataclass(frozen=True, kw_only=True)
class FrameReport:
    """What a frame shows; fractions are of its pixels, [0, 1]."""

    nodata_frac: float
    white_frac: float
    """Pixels at 255 in all bands."""
    saturated_frac: float
    """Values at 255, of all bands."""
    snow_frac: float
    """Bright, nearly grey pixels: snow or cloud (`ecomap.indices.snow_mask`)."""
    lines: tuple[Seam, ...]
    """Lines that may be a seam (`find_lines`), the most likely first."""
    flags: tuple[Flag, ...]
    """Sorted."""

    @property
    def seam_frac(self) -> float:
        """Share of the most seam-like line along which there is a step; 0 if none comes near."""
        return self.lines[0].frac if self.lines else 0.0

    def with_flag(self, flag: Flag) -> "FrameReport":
        """The same report with one flag more."""
        return replace(self, flags=tuple(sorted({*self.flags, flag})))


def inspect_frame(
    image: NDArray[np.uint8],
    *,
    cloud_frac: float | None = None,
    temperature_c: float | None = None,
) -> FrameReport:
    """Measure a frame and flag it.

    Args:
        image: Display values ``(H, W, 3)``.
        cloud_frac: Cloud fraction that the source states; None for sources free of cloud, in whose
            frames bright pixels are never taken for it.
        temperature_c: Monthly mean, which tells cloud from snow; None if not known.

    Raises:
        TypeError: If the image is not ``uint8``.
        ValueError: If it is not ``(H, W, 3)``, or empty.
    """
    if image.ndim != 3 or image.shape[2] != 3 or image.size == 0:
        raise ValueError(f"A frame must have shape (height, width, 3); got {image.shape}.")
    smallest, _ = _extremes(image)
    snow_frac = float(snow_mask(image).mean())
    measured = FrameReport(
        nodata_frac=float(nodata_mask(image).mean()),
        white_frac=float((smallest == 255).mean()),
        saturated_frac=float((image == 255).mean()),
        snow_frac=snow_frac,
        lines=find_lines(image),
        flags=cloud_flags(snow_frac, cloud_frac=cloud_frac, temperature_c=temperature_c),
    )
    bands = image.reshape(-1, 3).T
    spread = [int(band.max()) - int(band.min()) for band in bands]
    found: dict[Flag, bool] = {
        "white": measured.white_frac >= WHITE_FRAC,
        "saturated": measured.saturated_frac >= SATURATED_FRAC,
        "seam": measured.seam_frac >= SEAM_FRAC,
        "blank": max(spread) <= BLANK_RANGE,
    }
    flags = {flag for flag, is_found in found.items() if is_found} | {*measured.flags}
    flags |= {*nodata_flags(measured.nodata_frac)}
    return replace(measured, flags=tuple(sorted(flags)))


def cloud_flags(
    snow_frac: float, *, cloud_frac: float | None, temperature_c: float | None
) -> tuple[Flag, ...]:
    """Flag cloud by its label, and where it is too warm for snow by bright grey pixels as well."""
    if cloud_frac is None:
        return ()
    is_warm = temperature_c is not None and temperature_c >= SNOW_FREE_C
    flags: list[Flag] = []
    if cloud_frac > CLOUDY_FRAC or (is_warm and snow_frac > CLOUDY_FRAC):
        flags.append("cloudy")
    if cloud_frac < NO_CLOUD_FRAC and is_warm and snow_frac >= UNLABELLED_CLOUD_FRAC:
        flags.append("unlabelled_cloud")
    return tuple(flags)


def nodata_flags(nodata_frac: float) -> tuple[Flag, ...]:
    """Flag missing data where its share is known."""
    if nodata_frac >= BLACK_NODATA_FRAC:
        return ("black",)
    return ("partial",) if nodata_frac > 0 else ()


def nodata_mask(image: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Find missing data: black pixels in or beside a block that is black throughout.

    Args:
        image: Display values ``(H, W, 3)``.

    Returns:
        ``(H, W)``. A frame smaller than a block has missing data only where all of it is black.
    """
    black = _extremes(image)[1] == 0
    height, width = black.shape
    size = min(NODATA_BLOCK_PX, height, width)
    rows, columns = -(-height // size), -(-width // size)
    padding = ((0, rows * size - height), (0, columns * size - width))
    blocks = np.pad(black, padding, constant_values=True).reshape(rows, size, columns, size)
    near = np.pad(blocks.all(axis=(1, 3)), 1)
    near = near[:-2] | near[1:-1] | near[2:]
    near = near[:, :-2] | near[:, 1:-1] | near[:, 2:]
    return np.asarray(black & near.repeat(size, 0).repeat(size, 1)[:height, :width])


def find_lines(image: NDArray[np.uint8]) -> tuple[Seam, ...]:
    """Find the straight lines from border to border that look like a cut between two dates.

    At a seam the step between neighbouring pixels exceeds all others near it, pixel after pixel,
    whatever the sign; a road or the edge of a field does so over a part of its length.

    Args:
        image: Display values ``(H, W, 3)``.

    Returns:
        Lines with a share of steps of `RECURRING_SEAM_FRAC` or more, the largest first. From
        `SEAM_FRAC` on a line is a seam by itself.
    """
    lines = []
    for is_vertical in (False, True):
        turned = np.ascontiguousarray(image.transpose(1, 0, 2)) if is_vertical else image
        if turned.shape[0] <= 4 * SEAM_REACH_PX:
            continue
        steps = _steps(turned)
        is_testable = ~_clipped_alike(turned)
        for slope, offset_px in _candidates(steps):
            frac = _step_frac(steps, is_testable, slope, offset_px)
            lines.append(Seam(frac, is_vertical, slope, offset_px))
    return tuple(sorted((s for s in lines if s.frac >= RECURRING_SEAM_FRAC), reverse=True))


def recurring_seams(reports: Mapping[str, FrameReport]) -> set[str]:
    """Find fainter seams of a place: lines on which another month has a certain one."""
    certain = [s for r in reports.values() for s in r.lines if s.frac >= SEAM_FRAC]
    return {
        key
        for key, report in reports.items()
        if any(line.is_near(seam) for line in report.lines for seam in certain)
    }


class Inspector:
    """Inspects the frames of a dataset, place by place, and finds copies among them."""

    def __init__(self) -> None:
        """Start with nothing seen."""
        self._digests: dict[bytes, str] = {}
        self._reports: dict[str, dict[str, FrameReport]] = {}
        self._pictures: dict[str, list[NDArray[np.float32]]] = {}

    def add(
        self,
        place_id: str,
        key: str,
        image: NDArray[np.uint8],
        *,
        cloud_frac: float | None = None,
        temperature_c: float | None = None,
    ) -> None:
        """Inspect a frame (`inspect_frame`). The first of several copies is not flagged."""
        report = inspect_frame(image, cloud_frac=cloud_frac, temperature_c=temperature_c)
        if self._is_copy(place_id, key, image) and "blank" not in report.flags:
            report = report.with_flag("duplicate")
        self._reports.setdefault(place_id, {})[key] = report

    def close(self, place_id: str) -> dict[str, FrameReport]:
        """Reports of a place by key of the frame; the memory that it took is given back."""
        reports = self._reports.pop(place_id, {})
        self._pictures.pop(place_id, None)
        seams = recurring_seams(reports)
        return {k: r.with_flag("seam") if k in seams else r for k, r in reports.items()}

    def _is_copy(self, place_id: str, key: str, image: NDArray[np.uint8]) -> bool:
        """Whether the very pixels were seen anywhere, or nearly the same at this place."""
        content = np.ascontiguousarray(image).tobytes() + repr(image.shape).encode()
        digest = hashlib.blake2b(content, digest_size=16).digest()
        is_exact = self._digests.setdefault(digest, key) != key
        picture = small_picture(image)
        others = self._pictures.setdefault(place_id, [])
        is_near = any(np.abs(picture - o).mean() <= DUPLICATE_DISTANCE for o in others)
        others.append(picture)
        return is_exact or is_near


def small_picture(image: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Means of an image ``(H, W, 3)`` over a grid of at most `DUPLICATE_GRID` cells per side."""
    result = image.astype(np.float32)
    for axis in (0, 1):
        length = result.shape[axis]
        starts = np.unique(np.linspace(0, length, DUPLICATE_GRID, endpoint=False).astype(int))
        widths = np.diff([*starts, length]).reshape((-1, 1, 1) if axis == 0 else (1, -1, 1))
        result = (np.add.reduceat(result, starts, axis=axis) / widths).astype(np.float32)
    return result


def _extremes(values: NDArray[_T]) -> tuple[NDArray[_T], NDArray[_T]]:
    """Smallest and largest of three bands ``(..., 3)``; several times as fast as over an axis."""
    first, second, third = values[..., 0], values[..., 1], values[..., 2]
    smallest = np.minimum(np.minimum(first, second), third)
    return smallest, np.maximum(np.maximum(first, second), third)


def _steps(image: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Where the step from a row to the next is a lasting one and the largest of its column.

    Returns:
        ``(H - 1, W)``, False within `SEAM_REACH_PX` of the upper and lower border.
    """
    reach = SEAM_REACH_PX
    values = image.astype(np.float32)
    step = _extremes(np.abs(np.diff(values, axis=0)))[1]
    num = step.shape[0]
    inner = step[reach : num - reach]
    others = np.zeros_like(inner)  # the next row is left out: resampling smears a seam over two
    for distance in range(2, reach + 1):
        np.maximum(others, step[reach - distance : num - reach - distance], out=others)
        np.maximum(others, step[reach + distance : num - reach + distance], out=others)
    sums = np.cumsum(np.pad(values, ((1, 0), (0, 0), (0, 0))), axis=0)
    middle = sums[reach + 1 : num - reach + 1]
    above, below = middle - sums[1 : num - 2 * reach + 1], sums[2 * reach + 1 : num + 1] - middle
    lasting = _extremes(np.abs(below - above))[1] / reach
    result = np.zeros(step.shape, bool)
    result[reach : num - reach] = (
        (inner >= SEAM_STEP) & (inner > SEAM_CONTRAST * others) & (lasting >= inner / 2)
    )
    return result


def _clipped_alike(image: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Where a row and the next are both white or both black, so that no step can be seen."""
    smallest, largest = _extremes(image)
    white, black = smallest == 255, largest == 0
    return np.asarray((white[:-1] & white[1:]) | (black[:-1] & black[1:]))


def _candidates(steps: NDArray[np.bool_]) -> list[tuple[float, int]]:
    """Slope and offset of the lines with the largest share of steps (a Hough transform)."""
    num, width = steps.shape
    slopes = np.linspace(-1, 1, width // 2 + 1)
    centre = (width - 1) / 2
    start = int(centre) + 2
    size = num + 2 * start
    y, x = np.nonzero(steps)
    votes = np.zeros((len(slopes), size), np.float32)
    for index, slope in enumerate(slopes):
        offsets = np.rint(y - slope * (x - centre)).astype(np.int64) + start
        votes[index] = np.bincount(offsets, minlength=size)
    hits = votes.copy()
    hits[:, 1:] += votes[:, :-1]
    hits[:, :-1] += votes[:, 1:]
    lengths = _lengths(slopes, np.arange(size) - start, num, centre)
    shares = np.where(lengths >= SEAM_MIN_LENGTH_PX, hits / np.maximum(lengths, 1), 0).ravel()
    best = np.argpartition(shares, -SEAM_NUM_LINES)[-SEAM_NUM_LINES:]
    return [(float(slopes[i // size]), int(i % size) - start) for i in best if shares[i] > 0]


def _lengths(
    slopes: NDArray[np.float64], offsets: NDArray[np.int64], num: int, centre: float
) -> NDArray[np.float64]:
    """Number of columns in which each line runs through the frame, `SEAM_REACH_PX` inside."""
    with np.errstate(divide="ignore", invalid="ignore"):
        enter = (SEAM_REACH_PX - offsets) / slopes[:, None]
        leave = (num - 1 - SEAM_REACH_PX - offsets) / slopes[:, None]
    first = np.fmax(np.fmin(enter, leave), -centre)
    last = np.fmin(np.fmax(enter, leave), centre)
    return np.asarray(np.maximum(last - first + 1, 0), np.float64)


def _step_frac(
    steps: NDArray[np.bool_], is_testable: NDArray[np.bool_], slope: float, offset_px: int
) -> float:
    """Share of a line with a step within a pixel of it; 0 if too little of it can be seen."""
    num, width = steps.shape
    x = np.arange(width)
    y = np.rint(offset_px + slope * (x - (width - 1) / 2)).astype(np.int64)
    inside = (y >= SEAM_REACH_PX) & (y < num - SEAM_REACH_PX)
    x, y = x[inside], y[inside]
    hits = steps[y, x] | steps[y - 1, x] | steps[y + 1, x]
    visible = int((is_testable[y, x] | hits).sum())
    if visible < max(SEAM_MIN_LENGTH_PX, SEAM_MIN_TESTABLE * len(x)):
        return 0.0
    return float(hits.sum() / visible)
