"""Greenness and snow: values by hand, then what the thresholds promise on real scenes."""

import math
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ecomap import indices
from ecomap.indices import land_indices, land_mask


def picture(*pixels: tuple[int, int, int]) -> np.ndarray:
    return np.array([pixels], np.uint8)


def test_gcc_is_green_over_the_sum():
    gcc = indices.green_chromatic_coordinate(picture((30, 60, 10), (200, 250, 50)))
    np.testing.assert_allclose(gcc, [[0.6, 0.5]], rtol=1e-6)


def test_gcc_of_a_black_pixel_is_undefined():
    assert np.isnan(indices.green_chromatic_coordinate(picture((0, 0, 0)))).all()


def test_vari_is_green_minus_red_over_green_plus_red_minus_blue():
    result = indices.vari(picture((20, 60, 30), (60, 20, 30)))
    np.testing.assert_allclose(result, [[0.8, -0.8]], rtol=1e-6)


def test_vari_is_undefined_where_blue_outweighs_red_and_green():
    assert np.isnan(indices.vari(picture((5, 10, 40), (10, 10, 20), (0, 0, 0)))).all()


def test_snow_is_bright_and_nearly_grey():
    pixels = picture(
        (255, 255, 255),
        (110, 110, 110),
        (125, 100, 125),  # exactly 0.2, but too dark
        (150, 120, 150),  # saturation exactly 0.2
        (151, 120, 150),
        (109, 255, 255),
        (255, 220, 150),  # desert, clipped in red
    )
    expected = [[True, True, False, True, False, False, False]]
    assert indices.snow_mask(pixels).tolist() == expected


def test_snow_refuses_values_that_are_not_display_values():
    with pytest.raises(TypeError, match="uint8, not float32"):
        indices.snow_mask(np.ones((2, 3, 3), np.float32))


def test_greenness_leaves_black_pixels_out_of_the_mean():
    assert indices.greenness(picture((30, 60, 10), (0, 0, 0), (1, 2, 1))) == pytest.approx(0.55)


def test_greenness_counts_only_the_masked_pixels():
    image = picture((30, 60, 10), (255, 255, 255))
    assert indices.greenness(image) == pytest.approx((0.6 + 1 / 3) / 2)
    assert indices.greenness(image, ~indices.snow_mask(image)) == pytest.approx(0.6)


def test_snow_fraction_counts_only_the_masked_pixels_and_keeps_black_ones():
    image = picture((250, 250, 250), (0, 0, 0), (10, 20, 10), (10, 20, 10))
    assert indices.snow_fraction(image) == 0.25
    assert indices.snow_fraction(image, np.array([[True, True, False, False]])) == 0.5


def test_an_image_without_pixels_that_count_has_no_mean():
    image = picture((0, 0, 0), (0, 0, 0))
    nothing = np.zeros((1, 2), bool)
    assert math.isnan(indices.greenness(image))
    assert math.isnan(indices.greenness(image, nothing))
    assert math.isnan(indices.snow_fraction(image, nothing))


def test_batches_keep_their_leading_axes():
    images = np.zeros((2, 4, 5, 3), np.uint8)
    assert indices.green_chromatic_coordinate(images).shape == (2, 4, 5)


@pytest.mark.parametrize("shape", [(3, 4), (3, 4, 4), ()])
def test_another_number_of_channels_is_refused(shape: tuple[int, ...]):
    with pytest.raises(ValueError, match="must be red, green, blue"):
        indices.green_chromatic_coordinate(np.zeros(shape, np.uint8))


def test_a_mask_of_another_shape_is_refused():
    with pytest.raises(ValueError, match=r"mask has shape \(2, 1\), the image \(1, 2\)"):
        indices.greenness(picture((1, 2, 3), (1, 2, 3)), np.ones((2, 1), bool))


def blue_marble(folder: Path, month: str, south: float, west: float, size_deg: float) -> np.ndarray:
    """A square of the 1/15 degree global picture."""
    with Image.open(folder / "bluemarble" / f"2004-{month}.jpg") as image:
        left, top = round((west + 180) * 15), round((90 - south - size_deg) * 15)
        size = round(size_deg * 15)
        return np.asarray(image.crop((left, top, left + size, top + size)))


@pytest.mark.shared
@pytest.mark.parametrize(
    ("place", "south", "west", "january", "july"),
    [("Siberia", 60, 100, 1, 0), ("Sahara", 21, 5, 0, 0), ("Greenland", 70, -42, 1, 1)],
)
def test_snow_comes_and_goes_where_it_should(
    shared_data: Path, place: str, south: float, west: float, january: float, july: float
):
    for month, expected in (("01", january), ("07", july)):
        image = blue_marble(shared_data, month, south, west, 6)
        assert indices.snow_fraction(image) == pytest.approx(expected, abs=0.02), (place, month)


@pytest.mark.shared
def test_clipped_sahara_tiles_of_sentinel_2_are_not_snow(shared_data: Path):
    path = shared_data / "ecomapper" / "2019-2020" / "5284" / "5284_2019-05.png"
    with Image.open(path) as image:
        pixels = np.asarray(image)
    assert indices.snow_fraction(pixels) < 0.01


@pytest.mark.parametrize(
    ("colour", "is_land"),
    [
        ((3, 6, 21), False),  # Blue Marble's ocean
        ((5, 14, 30), False),  # ocean after an autoencoder
        ((30, 40, 55), False),  # lake
        ((30, 48, 55), True),  # blue exceeds green by 7 only
        ((2, 23, 1), False),  # as dark as the fringe of a coast
        ((2, 24, 1), True),
        ((24, 37, 12), True),  # Amazon
        ((240, 245, 255), True),  # snow in the shade is blue but bright
        ((40, 50, 61), True),
    ],
)
def test_water_is_dark_or_dark_blue(colour, is_land):
    image = np.full((2, 3, 3), colour, np.uint8)
    assert (land_mask(image) == is_land).all()


def test_indices_are_read_over_land_by_hand():
    image = np.full((4, 10, 3), (3, 6, 21), np.uint8)
    image[:, :3] = (60, 80, 60)  # greenness 0.4
    image[:, 3] = (200, 200, 200)  # snow: a quarter of the land
    assert land_indices(image) == (pytest.approx((3 * 0.4 + 1 / 3) / 4, rel=1e-6), 0.25, True)


def test_an_image_without_land_is_read_as_a_whole_and_says_so():
    sea = land_indices(np.full((4, 10, 3), (3, 6, 21), np.uint8))
    assert sea == (pytest.approx(0.2), 0.0, False)
    black = land_indices(np.zeros((4, 10, 3), np.uint8))
    assert np.isnan(black.greenness)
    assert not black.has_land


def band(*values: float) -> np.ndarray:
    return np.array([values], np.float32)


def test_excess_green_is_twice_green_minus_red_and_blue():
    result = indices.excess_green(
        picture((10, 100, 20), (255, 0, 255), (0, 255, 0), (9, 9, 9), (0, 0, 0))
    )
    np.testing.assert_allclose(result, [[170 / 255, -2, 2, 0, 0]], rtol=1e-6)
    assert result.dtype == np.float32


def test_excess_green_counts_brightness_which_the_chromatic_coordinate_does_not():
    dark, bright = picture((10, 20, 10)), picture((100, 200, 100))
    assert indices.excess_green(bright) == pytest.approx(10 * indices.excess_green(dark))
    gcc = [indices.green_chromatic_coordinate(image) for image in (dark, bright)]
    np.testing.assert_array_equal(*gcc)


def test_ndvi_by_hand_and_where_it_is_undefined():
    near_infrared, red = band(0.5, 0.1, 0.0, -0.1, np.nan, 0.3), band(0.1, 0.1, 0.0, 0.05, 0.2, 0.0)
    expected = [[0.4 / 0.6, 0, np.nan, np.nan, np.nan, 1]]
    np.testing.assert_allclose(indices.ndvi(near_infrared, red), expected, rtol=1e-6)


def test_evi_by_hand_for_a_meadow_and_undefined_over_snow_and_cloud():
    # 2.5 * 0.4 / (0.5 + 0.6 - 0.375 + 1); snow: divisor 0.9 + 5.4 - 7.125 + 1 > 0, result 0.0;
    # bright blue: divisor -1; blue that nearly cancels: result 2.5 * 0.2 / 0.1 = 5
    near_infrared, red = band(0.5, 0.9, 0.5, 0.4), band(0.1, 0.9, 0.5, 0.2)
    blue = band(0.05, 0.95, 0.75, 2.5 / 7.5)
    expected = [[1 / 1.725, 0, np.nan, np.nan]]
    np.testing.assert_allclose(indices.evi(near_infrared, red, blue), expected, rtol=1e-5)
    assert indices.evi(near_infrared, red, blue).dtype == np.float32
    assert np.isnan(indices.evi(band(0.5), band(0.1), band(np.nan))).all()


def test_ndsi_of_snow_lies_above_that_of_a_meadow():
    result = indices.ndsi(band(0.8, 0.1, 0.0), band(0.1, 0.3, 0.0))
    np.testing.assert_allclose(result, [[0.7 / 0.9, -0.5, np.nan]], rtol=1e-6)


@pytest.mark.parametrize("index", [indices.ndvi, indices.ndsi])
def test_bands_of_other_pixels_are_refused(index):
    with pytest.raises(ValueError, match="expected one shape"):
        index(np.zeros((2, 3), np.float32), np.zeros((1, 3), np.float32))


def test_evi_refuses_a_blue_band_of_other_pixels():
    with pytest.raises(ValueError, match="expected one shape"):
        indices.evi(band(0.1, 0.2), band(0.1, 0.2), band(0.1))


def test_land_is_read_among_valid_pixels_only():
    image = np.full((4, 10, 3), (3, 6, 21), np.uint8)
    image[:, :3] = (60, 80, 60)  # greenness 0.4
    image[:, 3] = (200, 200, 200)  # snow
    valid = np.ones((4, 10), bool)
    valid[:, 3] = False
    assert land_indices(image, valid) == (pytest.approx(0.4), 0.0, True)
    land, has_land = indices.read_land(image, valid)
    assert has_land
    assert land.sum() == 12
    assert not land[:, 3:].any()


def test_without_valid_land_all_valid_pixels_are_read():
    image = np.full((10, 20, 3), (3, 6, 21), np.uint8)
    image[0, 0] = (60, 80, 60)
    valid = np.ones((10, 20), bool)
    valid[5:] = False
    land, has_land = indices.read_land(image, valid)  # one of 100 valid pixels is enough
    assert (land.sum(), has_land) == (1, True)
    valid[:6] = True  # one of 120 is not
    land, has_land = indices.read_land(image, valid)
    assert not has_land
    np.testing.assert_array_equal(land, valid)


def test_an_image_without_valid_pixels_has_no_indices():
    nothing = np.zeros((2, 3), bool)
    found = land_indices(np.full((2, 3, 3), 90, np.uint8), nothing)
    assert np.isnan([found.greenness, found.snow_frac]).all()


def test_land_refuses_a_mask_of_another_shape():
    with pytest.raises(ValueError, match=r"mask has shape \(3, 2\), the image \(2, 3\)"):
        land_indices(np.zeros((2, 3, 3), np.uint8), np.ones((3, 2), bool))


def test_a_mean_leaves_out_what_is_undefined_and_what_does_not_count():
    values = np.array([[1, 2, np.nan, 9]], np.float32)
    assert indices.mean_over(values) == 4
    assert indices.mean_over(values, np.array([[True, True, True, False]])) == 1.5
    assert np.isnan(indices.mean_over(values, np.array([[False, False, True, False]])))
