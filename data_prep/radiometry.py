"""Digital numbers of Sentinel-2 Level-2A: which offset a scene needs, and whether it shows.

Since processing baseline 04.00 reflectance is ``(digital_number - 1000) / 10000``; before, it was
``digital_number / 10000``. What counts is the baseline, never the day of acquisition, for old days
are processed anew; and some providers subtract the 1000 before they publish.

When in doubt nothing is subtracted. Data that stay 1000 too high are recognised and mended later
without loss; subtracting twice would clip most of a green landscape to nothing. The doubt stays
visible in `Offset.confidence` and in the flags of `check_offset`, which compares the pixels with
what they can be and never changes them.
"""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from data_prep.scene import Scene
from data_prep.scl import SceneClass
from ecomap.errors import DataError
from ecomap.imagery import DIGITAL_NUMBERS_PER_REFLECTANCE

QUANTIFICATION = DIGITAL_NUMBERS_PER_REFLECTANCE
"""Digital numbers per unit of reflectance."""
BASELINE_OFFSET = -1000
"""BOA_ADD_OFFSET of processing baseline 04.00 and later, all bands."""
OFFSET_BASELINE = 4.0
COLLECTION_1 = "sentinel-2-c1-l2a"
APPLIED_HINT = "earthsearch:boa_offset_applied"

DARK_CLASSES = (
    SceneClass.DARK_AREA,
    SceneClass.CLOUD_SHADOW,
    SceneClass.VEGETATION,
    SceneClass.WATER,
)
"""Ground whose darkest pixels reflect far less than 10 % of visible light."""
MIN_DARK_PX = 400
"""Pixels of these classes from which their darkest hundredth tells anything."""
MAX_CLIPPED_FRAC = 0.2
"""Share of pixels at or below zero that no right offset gives in red, green and blue alike."""

Confidence = Literal["high", "medium", "low"]
OffsetFlag = Literal["offset_suspect", "offset_confirmed", "offset_uncertain"]


@dataclass(frozen=True, kw_only=True)
class Offset:
    """What is added to a scene's digital numbers."""

    value: int
    """0 or negative; -1000 is the one in use."""
    source: str
    """What said so."""
    confidence: Confidence
    """``high``: the rule has no known exceptions; ``medium``: exceptions are known but rare;
    ``low``: the metadata contradict themselves or are silent."""


def resolve_offset(scene: Scene) -> Offset:
    """Decide from provider and processing baseline which offset a scene needs.

    - Planetary Computer publishes what ESA made: the baseline decides.
    - Earth Search's Collection 1 (``sentinel-2-c1-l2a``) likewise, always from 05.00 on.
    - Earth Search's ``sentinel-2-l2a`` subtracts the offset itself, as a rule, and says so in
      ``earthsearch:boa_offset_applied``; its ``raster:bands`` offset of -0.1 stays and must not be
      applied again. Where the flag is false at 04.00 or later it is right for some scenes and wrong
      for others (Element84/earth-search issues 9, 66, 71): 0, low confidence.
    - Other catalogues: the flag above if they have it, else ``raster:bands``, else the baseline.

    Raises:
        DataError: If the bands of a scene state different offsets.
    """
    baseline = baseline_of(scene)
    is_shifted = None if baseline is None else baseline >= OFFSET_BASELINE
    by_baseline = BASELINE_OFFSET if is_shifted else 0
    source = f"processing baseline {scene.baseline}"
    if scene.provider == "earth-search-c1" or scene.collection == COLLECTION_1:
        if is_shifted is False:
            return Offset(value=0, source=f"{source} in Collection 1", confidence="low")
        return Offset(value=BASELINE_OFFSET, source="Collection 1", confidence="high")
    is_raw = scene.provider == "planetary-computer"
    if scene.provider == "earth-search" or (APPLIED_HINT in scene.offset_hints and not is_raw):
        return _earth_search_offset(scene.offset_hints.get(APPLIED_HINT), is_shifted, source)
    stated = _stated_offset(scene)
    if is_raw or stated is None:
        if is_shifted is None:
            return Offset(value=0, source="nothing", confidence="low")
        is_sure = is_raw or not is_shifted
        return Offset(value=by_baseline, source=source, confidence="high" if is_sure else "medium")
    agrees = is_shifted is not None and stated == by_baseline
    return Offset(value=stated, source="raster:bands", confidence="high" if agrees else "medium")


def _earth_search_offset(is_applied: Any, is_shifted: bool | None, source: str) -> Offset:
    """Offset of a scene of Earth Search's ``sentinel-2-l2a``."""
    if is_shifted is False:
        return Offset(value=0, source=source, confidence="high")
    if is_applied is True:
        return Offset(value=0, source=APPLIED_HINT, confidence="medium")
    said = "missing" if is_applied is None else "false"
    return Offset(value=0, source=f"{APPLIED_HINT} is {said}", confidence="low")


def baseline_of(scene: Scene) -> float | None:
    """Processing baseline as a number.

    Raises:
        DataError: If it is not one.
    """
    if scene.baseline is None:
        return None
    try:
        return float(scene.baseline)
    except ValueError:
        raise DataError(
            f"{scene.item_id}: processing baseline is {scene.baseline!r}; expected a number such "
            "as 05.09. Leave the scene out, or mend its item."
        ) from None


def _stated_offset(scene: Scene) -> int | None:
    """Offset in ``raster:bands``, in digital numbers; None where no spectral band has one."""
    found = {
        round(float(value) * QUANTIFICATION)
        for key, value in scene.offset_hints.items()
        if key.startswith("B") and value is not None
    }
    if len(found) > 1:
        raise DataError(
            f"{scene.item_id}: its bands state the offsets {sorted(found)}; expected one for all. "
            "Leave the scene out, or mend its item."
        )
    return found.pop() if found else None


def to_digital_number(raw: NDArray[np.uint16], offset: int) -> NDArray[np.uint16]:
    """Add an offset; 0 stays missing, and what is valid stays at least 1.

    Args:
        raw: Digital numbers as published, 0 = no data.
        offset: `Offset.value`.

    Example:
        >>> to_digital_number(np.array([0, 1, 999, 1001, 1500], np.uint16), -1000).tolist()
        [0, 1, 1, 1, 500]
    """
    shifted = np.clip(raw.astype(np.int32) + offset, 1, np.iinfo(np.uint16).max)
    return np.where(raw == 0, 0, shifted).astype(np.uint16)


def check_offset(
    visible: NDArray[np.uint16], classes: NDArray[np.uint8], offset: Offset
) -> tuple[OffsetFlag, ...]:
    """Compare corrected pixels of a scene with what they can be.

    Two signs are looked for in red, green and blue alike: more than `MAX_CLIPPED_FRAC` at or below
    zero (the offset was subtracted twice), and a darkest hundredth of vegetation, water and shadow
    that reflects 10 % or more (it was not subtracted). Bright ground without such classes, say
    desert or snow, hides the second sign.

    Args:
        visible: Red, green and blue after `to_digital_number`, ``(3, H, W)``, 0 = no data.
        classes: Scene classification on the same grid, ``(H, W)``.
        offset: What was added.

    Returns:
        ``offset_suspect`` where the pixels contradict the offset. At low confidence otherwise
        ``offset_confirmed`` where they also contradict the other choice, and ``offset_uncertain``
        where they do not tell.
    """
    has_data = (visible > 0).all(axis=0)
    dark = has_data & np.isin(classes, DARK_CLASSES)
    has_dark = int(dark.sum()) >= MIN_DARK_PX
    pixels = visible[:, dark if has_dark else has_data].astype(np.int32)
    if pixels.size and not _is_plausible(pixels, has_dark):
        return ("offset_suspect",)
    if offset.confidence != "low":
        return ()
    other = pixels + BASELINE_OFFSET if offset.value == 0 else pixels - offset.value
    is_told = pixels.size and not _is_plausible(other, has_dark)
    return ("offset_confirmed",) if is_told else ("offset_uncertain",)


def _is_plausible(pixels: NDArray[np.int32], has_dark: bool) -> bool:
    """Whether corrected values ``(3, N)`` can be reflectance."""
    if ((pixels <= 1).mean(axis=1) > MAX_CLIPPED_FRAC).all():
        return False
    darkest = np.percentile(pixels, 1, axis=1)
    return not (has_dark and bool((darkest >= -BASELINE_OFFSET).all()))
