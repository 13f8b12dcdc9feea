"""Which offset a scene needs, and whether its pixels agree."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from shapely import box

from data_prep import radiometry
from data_prep.radiometry import Offset, check_offset, resolve_offset, to_digital_number
from data_prep.scene import Scene
from ecomap.errors import DataError

APPLIED = "earthsearch:boa_offset_applied"
RIGHT = Offset(value=0, source="", confidence="high")
LOW = Offset(value=0, source="", confidence="low")


def scene(provider: str, baseline: str | None, collection: str = "sentinel-2-l2a", **hints: Any):
    return Scene(
        item_id="S2B_33TWL_20230813_0_L2A",
        provider=provider,
        collection=collection,
        acquired="2023-08-13T10:08:07Z",
        pass_key="S2B_20230813T095559",
        mgrs="33TWL",
        baseline=baseline,
        cloud_frac=0.0,
        footprint=box(15, 45, 16, 46),
        crs="EPSG:32633",
        assets={},
        offset_hints={"baseline": baseline, **hints},
    )


@pytest.mark.parametrize(
    ("baseline", "value"), [("02.08", 0), ("03.01", 0), ("04.00", -1000), ("05.10", -1000)]
)
def test_planetary_computer_goes_by_the_baseline(baseline: str, value: int):
    offset = resolve_offset(scene("planetary-computer", baseline))
    assert (offset.value, offset.confidence) == (value, "high")
    assert baseline in offset.source


def test_planetary_computer_ignores_what_raster_bands_say():
    assert resolve_offset(scene("planetary-computer", "05.09", B04=0.0)).value == -1000


@pytest.mark.parametrize(
    ("baseline", "applied", "confidence"),
    [
        ("05.09", True, "medium"),
        (None, True, "medium"),
        ("04.00", False, "low"),
        ("05.11", None, "low"),
        (None, False, "low"),
        ("03.01", False, "high"),
        ("03.01", None, "high"),
    ],
)
def test_earth_search_has_subtracted_the_offset_or_is_taken_to_have(
    baseline: str | None, applied: bool | None, confidence: str
):
    hints: dict[str, Any] = {"B04": -0.1} if applied is None else {"B04": -0.1, APPLIED: applied}
    offset = resolve_offset(scene("earth-search", baseline, **hints))
    assert (offset.value, offset.confidence) == (0, confidence)


@pytest.mark.parametrize("provider", ["earth-search-c1", "stac-api"])
def test_collection_1_never_has_it_subtracted(provider: str):
    found = scene(provider, "05.00", "sentinel-2-c1-l2a", B04=-0.1)
    assert resolve_offset(found) == Offset(value=-1000, source="Collection 1", confidence="high")
    odd = resolve_offset(scene(provider, "02.14", "sentinel-2-c1-l2a"))
    assert (odd.value, odd.confidence) == (0, "low")


@pytest.mark.parametrize(
    ("baseline", "hints", "value", "confidence"),
    [
        ("05.09", {APPLIED: True, "B04": -0.1}, 0, "medium"),  # a mirror of Earth Search
        ("05.09", {"B04": -0.1, "B08": -0.1}, -1000, "high"),
        ("05.09", {"B04": 0.0, "B08": 0.0}, 0, "medium"),
        (None, {"B04": -0.1}, -1000, "medium"),
        ("05.09", {}, -1000, "medium"),
        ("03.00", {"B04": None}, 0, "high"),
        (None, {}, 0, "low"),
    ],
)
def test_other_catalogues_go_by_what_they_state(
    baseline: str | None, hints: dict[str, Any], value: int, confidence: str
):
    offset = resolve_offset(scene("static-catalog", baseline, **hints))
    assert (offset.value, offset.confidence) == (value, confidence)


def test_bands_that_contradict_each_other_are_refused():
    with pytest.raises(DataError, match=r"S2B_33TWL.*\[-1000, 0\]"):
        resolve_offset(scene("stac-api", "05.09", B04=-0.1, B08=0.0))


def test_a_baseline_that_is_no_number_is_refused():
    with pytest.raises(DataError, match="'new'"):
        resolve_offset(scene("stac-api", "new"))


def test_the_day_does_not_matter():
    old = scene("planetary-computer", "05.00")
    old = Scene(**{**vars(old), "acquired": "2016-05-01T10:00:00Z"})
    assert resolve_offset(old).value == -1000


def test_valid_values_stay_valid_and_nothing_wraps():
    raw = np.array([0, 1, 999, 1000, 1001, 65535], np.uint16)
    assert to_digital_number(raw, -1000).tolist() == [0, 1, 1, 1, 1, 64535]
    assert to_digital_number(raw, 0).tolist() == [0, 1, 999, 1000, 1001, 65535]
    assert to_digital_number(raw, 10).tolist() == [0, 11, 1009, 1010, 1011, 65535]
    assert to_digital_number(raw, -1000).dtype == np.uint16


@given(arrays(np.uint16, 40), st.integers(-2000, 0))
def test_only_missing_is_missing_and_order_is_kept(raw: np.ndarray, offset: int):
    shifted = to_digital_number(raw, offset)
    assert ((shifted == 0) == (raw == 0)).all()
    order = np.argsort(raw, kind="stable")
    assert (np.diff(shifted[order].astype(int)) >= 0).all()
    assert (shifted <= raw).all()


def field(red: int, green: int, blue: int, *, spread: int = 200) -> np.ndarray:
    """Visible bands that grow from the given values by ``spread`` over 40 x 50 pixels."""
    grown = np.linspace(0, spread, 2000).reshape(40, 50)
    return np.stack([grown + base for base in (red, green, blue)]).astype(np.uint16)


VEGETATION = np.full((40, 50), 4, np.uint8)
SOIL = np.full((40, 50), 5, np.uint8)
MEADOW = field(300, 500, 250)


def test_a_green_landscape_is_plausible():
    assert check_offset(MEADOW, VEGETATION, RIGHT) == ()
    offset = Offset(value=-1000, source="", confidence="medium")
    assert check_offset(to_digital_number(MEADOW + 1000, -1000), VEGETATION, offset) == ()


@pytest.mark.parametrize("confidence", ["high", "low"])
def test_an_offset_that_was_not_subtracted_is_suspect(confidence: str):
    offset = Offset(value=0, source="", confidence=confidence)
    assert check_offset(MEADOW + 1000, VEGETATION, offset) == ("offset_suspect",)


@pytest.mark.parametrize("classes", [VEGETATION, SOIL])
def test_an_offset_that_was_subtracted_twice_is_suspect(classes: np.ndarray):
    twice = to_digital_number(MEADOW, -1000)
    assert check_offset(twice, classes, RIGHT) == ("offset_suspect",)


def test_bright_ground_hides_an_offset_that_was_not_subtracted():
    assert check_offset(field(3000, 2500, 1800), SOIL, RIGHT) == ()
    assert check_offset(field(3000, 2500, 1800), SOIL, LOW) == ("offset_uncertain",)


def test_one_band_below_zero_is_no_sign():
    bands = MEADOW.copy()
    bands[0] = 1
    assert check_offset(bands, VEGETATION, RIGHT) == ()


def test_one_dark_band_is_enough_to_be_plausible():
    assert check_offset(field(1300, 1500, 990), VEGETATION, RIGHT) == ()
    assert check_offset(field(1300, 1500, 1000), VEGETATION, RIGHT) == ("offset_suspect",)


@pytest.mark.parametrize(("share", "expected"), [(0.19, ()), (0.21, ("offset_suspect",))])
def test_a_fifth_at_or_below_zero_is_too_much(share: float, expected: tuple[str, ...]):
    bands = MEADOW.copy().reshape(3, -1)
    bands[:, : int(2000 * share)] = 1
    assert check_offset(bands.reshape(3, 40, 50), VEGETATION, RIGHT) == expected


def test_low_confidence_is_settled_by_dark_ground():
    assert check_offset(MEADOW, VEGETATION, LOW) == ("offset_confirmed",)
    subtracted = Offset(value=-1000, source="", confidence="low")
    assert check_offset(MEADOW, VEGETATION, subtracted) == ("offset_confirmed",)


def test_too_little_dark_ground_tells_nothing():
    classes = SOIL.copy()
    classes.ravel()[: radiometry.MIN_DARK_PX - 1] = 4
    assert check_offset(MEADOW + 1000, classes, RIGHT) == ()
    classes.ravel()[: radiometry.MIN_DARK_PX] = 4
    assert check_offset(MEADOW + 1000, classes, RIGHT) == ("offset_suspect",)


def test_missing_pixels_do_not_count():
    bands = MEADOW.copy()
    bands[:, :20] = 0
    assert check_offset(bands, VEGETATION, RIGHT) == ()
    nothing = np.zeros_like(MEADOW)
    assert check_offset(nothing, VEGETATION, RIGHT) == ()
    assert check_offset(nothing, VEGETATION, LOW) == ("offset_uncertain",)
