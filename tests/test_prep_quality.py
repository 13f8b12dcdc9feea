"""Flags of frames: made frames with one fault each, then the faults of real ones."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data_prep import quality
from data_prep.quality import FrameReport, Inspector, Seam, inspect_frame
from ecomap.imagery import read_image


def texture(height: int = 160, width: int = 192, *, seed: int = 0) -> np.ndarray:
    """Noise in mid-tones, green enough not to be snow."""
    noise = np.random.default_rng(seed).integers(-8, 8, (height, width, 1))
    return (np.array([60, 100, 40]) + noise).astype(np.uint8)


def cut(image: np.ndarray, *, slope: float = 0.1, offset: int = 70, step: int = 60) -> np.ndarray:
    """The image, brighter below the line y = offset + slope * (x - centre)."""
    height, width, _ = image.shape
    y, x = np.mgrid[:height, :width]
    below = y > offset + slope * (x - (width - 1) / 2)
    return np.where(below[..., None], image.astype(int) + step, image).astype(np.uint8)


def report(*, lines: tuple[Seam, ...] = ()) -> FrameReport:
    return FrameReport(
        nodata_frac=0, white_frac=0, saturated_frac=0, snow_frac=0, lines=lines, flags=()
    )


def test_a_clean_frame_has_no_flag():
    assert inspect_frame(texture(), cloud_frac=0.0, temperature_c=20.0).flags == ()


def test_fractions_are_of_pixels_and_of_values():
    image = texture(160, 192)
    image[:40] = 255  # a quarter of the pixels
    image[80:120, :, 0] = 255  # a quarter of one of three bands
    result = inspect_frame(image)
    assert result.white_frac == 0.25
    assert result.saturated_frac == pytest.approx(0.25 + 0.25 / 3)
    assert result.snow_frac == 0.25
    assert "saturated" in result.flags
    assert "white" not in result.flags


def test_missing_data_is_a_black_block_with_its_ragged_edge():
    image = texture()
    image[:50, :192] = 0  # blocks are 16 px: three full rows of them and two pixels more
    image[100, 100] = 0  # shadow
    mask = quality.nodata_mask(image)
    assert mask.sum() == 50 * 192
    assert not mask[100, 100]


def test_scattered_black_pixels_are_not_missing_data():
    image = texture()
    image[np.random.default_rng(1).random(image.shape[:2]) < 0.3] = 0
    assert inspect_frame(image).nodata_frac == 0


@pytest.mark.parametrize(
    ("black_rows", "expected"), [(0, set()), (16, {"partial"}), (79, {"partial"}), (80, {"black"})]
)
def test_half_without_data_is_black_and_less_is_partial(black_rows: int, expected: set[str]):
    image = texture(160, 192)
    image[:black_rows] = 0
    assert set(inspect_frame(image).flags) & {"black", "partial"} == expected


def test_a_frame_of_one_colour_is_blank_whatever_the_colour():
    for colour, others in ((0, {"black"}), (255, {"white", "saturated"}), (90, set())):
        image = np.full((64, 80, 3), colour, np.uint8)
        image[3, 5] = abs(colour - quality.BLANK_RANGE)
        assert set(inspect_frame(image).flags) == {"blank"} | others, colour
    image[3, 5] = 90 - quality.BLANK_RANGE - 1
    assert inspect_frame(image).flags == ()


def test_mostly_white_pixels_are_white():
    image = texture(100, 192)
    image[:80] = 255
    assert "white" in inspect_frame(image).flags
    image[79] = 254
    assert "white" not in inspect_frame(image).flags


@pytest.mark.parametrize(
    ("cloud", "temperature", "snow", "expected"),
    [
        (0.3, None, 0.0, ()),
        (0.31, None, 0.0, ("cloudy",)),
        (0.2, 12.0, 0.31, ("cloudy",)),
        (0.2, 11.9, 0.31, ()),
        (0.2, None, 0.9, ()),
        (0.0, 12.0, 0.002, ("unlabelled_cloud",)),
        (0.0, 11.9, 0.002, ()),
        (0.0, 12.0, 0.0019, ()),
        (0.001, 12.0, 0.1, ()),
        (0.0, 20.0, 0.5, ("cloudy", "unlabelled_cloud")),
        (None, 20.0, 0.9, ()),
    ],
)
def test_cloud_is_what_the_label_says_or_what_is_too_warm_to_be_snow(
    cloud: float | None, temperature: float | None, snow: float, expected: tuple[str, ...]
):
    flags = quality.cloud_flags(snow, cloud_frac=cloud, temperature_c=temperature)
    assert flags == expected


def test_the_cloud_label_reaches_the_flags_of_the_frame():
    assert inspect_frame(texture(), cloud_frac=0.5).flags == ("cloudy",)


@pytest.mark.parametrize("slope", [-0.6, 0.0, 0.1, 0.9])
def test_a_slanted_cut_is_a_seam_with_its_position(slope: float):
    image = cut(texture(), slope=slope, offset=75)
    found = inspect_frame(image)
    assert "seam" in found.flags
    line = found.lines[0]
    assert not line.is_vertical
    assert line.slope == pytest.approx(slope, abs=0.03)
    assert line.offset_px == pytest.approx(75, abs=2)


def test_a_vertical_cut_is_a_seam():
    image = np.ascontiguousarray(cut(texture(192, 160), slope=0.2).transpose(1, 0, 2))
    found = inspect_frame(image)
    assert found.lines[0].is_vertical
    assert found.flags == ("seam",)


def test_a_cut_whose_step_changes_sign_is_a_seam():
    # The step falls from +60 to -60 over ten columns, too gently for an upright edge.
    step = np.clip((90 - np.arange(192)) * 12, -60, 60)[:, None]
    image = texture().astype(int) + 60
    image[71:] += step
    found = inspect_frame(image.astype(np.uint8))
    assert found.flags == ("seam",)
    assert not found.lines[0].is_vertical


def test_a_cut_across_a_corner_is_a_seam():
    assert inspect_frame(cut(texture(), slope=0.9, offset=140)).flags == ("seam",)


@pytest.mark.parametrize("width", [1, 2, 5])
def test_a_road_is_not_a_seam(width: int):
    image = texture()
    image[70 : 70 + width] += 100
    assert inspect_frame(image).flags == ()


def test_the_edge_of_a_field_is_not_a_seam():
    image = texture()
    image[70:, 40:150] += 60  # 110 of 192 columns
    assert "seam" not in inspect_frame(image).flags


def white_left(image: np.ndarray, num_columns: int) -> np.ndarray:
    """The image, white on the left up to a ragged edge near a column."""
    edge = num_columns + np.random.default_rng(3).integers(-6, 7, image.shape[0])
    return np.where((np.arange(image.shape[1]) < edge[:, None])[..., None], 255, image).astype(
        np.uint8
    )


def test_a_cut_that_is_mostly_white_on_white_proves_nothing():
    image = white_left(cut(texture(), slope=0.0), 110)  # 82 of 192 columns can be seen
    assert "seam" not in inspect_frame(image).flags


def test_a_cut_that_is_partly_white_on_white_is_a_seam():
    image = white_left(cut(texture(), slope=0.0), 80)
    assert "seam" in inspect_frame(image).flags


def test_a_fainter_line_is_a_seam_where_another_month_has_one():
    certain = Seam(0.95, False, 0.1, 70)
    reports = {
        "certain": report(lines=(certain,)),
        "same": report(lines=(Seam(0.6, True, 0.5, 9), Seam(0.4, False, 0.11, 73))),
        "turned": report(lines=(Seam(0.4, True, 0.1, 70),)),
        "moved": report(lines=(Seam(0.4, False, 0.1, 75),)),
        "tilted": report(lines=(Seam(0.4, False, 0.13, 70),)),
        "none": report(),
    }
    assert quality.recurring_seams(reports) == {"certain", "same"}
    del reports["certain"]
    assert quality.recurring_seams(reports) == set()


def test_the_inspector_flags_recurring_seams_of_one_place_only():
    faint = texture()
    faint[:, :90] = cut(faint)[:, :90]
    inspector = Inspector()
    for place, key, image in (
        ("a", "1", cut(texture(seed=1))),
        ("a", "2", faint),
        ("b", "3", faint),
    ):
        inspector.add(place, key, image)
    assert "seam" in inspector.close("a")["2"].flags
    assert "seam" not in inspector.close("b")["3"].flags


def test_copies_are_found_and_the_first_is_not_flagged():
    first, other = texture(seed=1), texture(seed=2)
    buffer = io.BytesIO()
    Image.fromarray(other).save(buffer, "JPEG", quality=95)
    again = np.asarray(Image.open(buffer))
    inspector = Inspector()
    inspector.add("a", "1", first)
    inspector.add("a", "2", other)
    inspector.add("a", "3", again)
    assert np.abs(again.astype(int) - other).max() > 0
    inspector.add("b", "4", first)  # the very pixels, at another place
    inspector.add("b", "5", again + 1)  # nearly those of place a
    flagged = {k for p in "ab" for k, r in inspector.close(p).items() if "duplicate" in r.flags}
    assert flagged == {"3", "4"}


def test_blank_frames_are_alike_without_being_copies():
    inspector = Inspector()
    for key in ("1", "2"):
        inspector.add("a", key, np.zeros((32, 40, 3), np.uint8))
    assert all("duplicate" not in r.flags for r in inspector.close("a").values())


def test_closing_a_place_forgets_it():
    inspector = Inspector()
    inspector.add("a", "1", texture())
    assert list(inspector.close("a")) == ["1"]
    assert inspector.close("a") == {}
    again = texture()
    again[0, 0] += 1
    inspector.add("a", "2", again)  # nearly the first, which is gone
    assert inspector.close("a")["2"].flags == ()


def test_a_small_picture_holds_the_means_of_its_cells():
    image = np.zeros((32, 48, 3), np.uint8)
    image[:2, :3, 0] = 60
    image[0, 3, 1] = 12
    small = quality.small_picture(image)
    assert small.shape == (16, 16, 3)
    assert small[0, 0].tolist() == [60, 0, 0]
    assert small[0, 1].tolist() == [0, 2, 0]
    assert quality.small_picture(image[:5, :7]).shape == (5, 7, 3)


@pytest.mark.parametrize("shape", [(4, 4), (4, 4, 4), (0, 4, 3)])
def test_something_else_than_a_frame_is_refused(shape: tuple[int, ...]):
    with pytest.raises(ValueError, match="must have shape"):
        inspect_frame(np.zeros(shape, np.uint8))


@pytest.mark.parametrize("size", [1, 5, 33])
def test_small_frames_can_be_inspected(size: int):
    assert inspect_frame(np.full((size, size + 2, 3), 80, np.uint8)).flags == ("blank",)


SEAMS = {"2017-04", "2017-05", "2017-06", "2017-07", "2017-08", "2017-09", "2017-11", "2018-02"}
"""Months of place 1 with a cut that the eye sees, without two faint ones (2018-01, 2018-03)."""


@pytest.mark.shared
def test_the_cuts_of_a_real_place_are_found_and_no_others(shared_data: Path):
    inspector = Inspector()
    for path in sorted((shared_data / "ecomapper" / "2017-2018" / "1").glob("*.png")):
        inspector.add("1", path.stem.removeprefix("1_"), read_image(path))
    reports = inspector.close("1")
    assert len(reports) == 18
    assert {month for month, r in reports.items() if "seam" in r.flags} == SEAMS
    assert {month for month, r in reports.items() if "black" in r.flags} == {"2017-04"}


@pytest.mark.shared
def test_fields_with_straight_borders_have_no_cuts_and_snow_is_white(shared_data: Path):
    white = set()
    for path in sorted((shared_data / "ecomapper" / "2017-2018" / "3842").glob("*.png")):
        found = inspect_frame(read_image(path))
        assert "seam" not in found.flags, path.name
        white |= {path.stem for flag in found.flags if flag == "white"}
    assert white == {"3842_2018-01", "3842_2018-02", "3842_2018-03"}
