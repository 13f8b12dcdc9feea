"""Spectra of waves and noise that are known beforehand, and edges laid by hand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage

from ecomap import spectra
from ecomap.spectra import edge_f1, radial_power, spectrum_error
from tests.fakes import made_image


def grey(values: np.ndarray) -> np.ndarray:
    return np.repeat(np.rint(values).astype(np.uint8)[..., None], 3, axis=2)


def noise(seed: int, height: int, width: int, spread: float = 1.0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, spread, (height, width))


def rings(height: int, width: int) -> np.ndarray:
    image = made_image(3, height, width).astype(float)
    return np.clip(image + noise(1, height, width, 20)[..., None], 0, 255).astype(np.uint8)


def bars(*columns: int, height: int = 20, width: int = 40) -> np.ndarray:
    """Bright lines of one pixel on black."""
    image = np.zeros((height, width))
    image[:, list(columns)] = 200
    return grey(image)


def test_luma_weighs_green_most():
    image = np.array([[[255, 0, 0], [0, 255, 0], [0, 0, 255], [100, 100, 100]]], np.uint8)
    np.testing.assert_allclose(spectra.luma(image), [[76.245, 149.685, 29.07, 100]])


def test_power_of_a_wave_stands_at_its_frequency_whatever_its_direction():
    y, x = np.mgrid[:48, :72]
    for wave in (np.cos(2 * np.pi * 6 * y / 48), np.cos(2 * np.pi * 9 * x / 72)):
        power = radial_power(10 + 5 * wave)  # 6 cycles over the shorter side: 6 of 48, or 9 of 72
        assert power.shape == (24,)
        assert power.argmax() == 5
        assert power[4:7].sum() / power.sum() > 0.99


def test_white_noise_has_its_variance_at_every_frequency():
    power = np.mean([radial_power(noise(i, 40, 56, 3.0)) for i in range(60)], axis=0)
    np.testing.assert_allclose(power[3:], 9, rtol=0.1)
    assert power.mean() == pytest.approx(9, rel=0.05)


def test_white_noise_keeps_its_variance_under_a_mask():
    valid = np.ones((40, 56), bool)
    valid[:, :25] = False
    power = np.mean([radial_power(noise(i, 40, 56, 3.0), valid) for i in range(60)], axis=0)
    assert power[3:].mean() == pytest.approx(9, rel=0.05)


def test_a_constant_added_to_an_image_changes_no_power():
    image = noise(5, 30, 44, 10)
    np.testing.assert_allclose(radial_power(image + 80), radial_power(image), atol=1e-9)
    assert np.allclose(radial_power(np.full((30, 44), 7.0)), 0)


def test_twice_the_contrast_is_six_decibels():
    image = noise(2, 64, 48, 20)
    weak, strong = (grey(128 + gain * image.clip(-60, 60)) for gain in (1, 2))
    assert spectrum_error(weak, strong) == pytest.approx(20 * np.log10(2), abs=0.02)


def test_a_flat_image_is_compared_with_the_power_of_rounding():
    image = grey(128 + noise(3, 64, 64, 10))
    flat = np.full_like(image, 128)
    power = radial_power(spectra.luma(image))
    expected = 10 * np.log10((power + 1 / 12) * 12)
    assert spectrum_error(image, flat) == pytest.approx(np.sqrt((expected**2).mean()))
    assert spectrum_error(flat, flat + np.uint8(9)) == 0


def test_spectrum_error_is_symmetric_and_zero_for_equal_images():
    a, b = rings(40, 56), made_image(4, 40, 56)
    assert spectrum_error(a, a) == 0
    assert spectrum_error(a, b) == pytest.approx(spectrum_error(b, a))


def test_a_blurred_image_loses_power_and_a_moved_one_hardly_any():
    image = rings(64, 64)
    blurred = ndimage.gaussian_filter(image, (1.5, 1.5, 0))
    moved = np.roll(image, (5, 9), (0, 1))
    assert spectrum_error(image, blurred) > 10 * spectrum_error(image, moved)


@pytest.mark.parametrize("measure", [spectrum_error, edge_f1])
@given(seed=st.integers(0, 50), turns=st.integers(0, 3), flip=st.booleans())
def test_fine_structure_does_not_depend_on_which_way_is_up(measure, seed, turns, flip):
    rng = np.random.default_rng(seed)
    pair = rng.integers(0, 255, (2, 24, 33, 3), np.uint8)
    valid = rng.random((24, 33)) < 0.98
    turned = [np.rot90(x, turns)[:, :: -1 if flip else 1] for x in (*pair, valid)]
    assert measure(*turned) == pytest.approx(measure(*pair, valid), nan_ok=True)


@pytest.mark.parametrize("measure", [spectrum_error, edge_f1])
@given(seed=st.integers(0, 50))
def test_what_lies_under_the_mask_changes_nothing(measure, seed):
    rng = np.random.default_rng(seed)
    first, second, junk = rng.integers(0, 255, (3, 24, 33, 3), np.uint8)
    valid = np.ones((24, 33), bool)
    valid[: rng.integers(1, 20), : rng.integers(1, 30)] = False
    spoiled = np.where(valid[..., None], second, junk)
    assert measure(first, spoiled, valid) == pytest.approx(measure(first, second, valid), abs=1e-12)
    spoiled = np.where(valid[..., None], first, junk)
    assert measure(spoiled, second, valid) == pytest.approx(
        measure(first, second, valid), abs=1e-12
    )


@pytest.mark.parametrize("measure", [spectrum_error, edge_f1])
def test_nothing_valid_means_no_value(measure):
    image = rings(24, 33)
    assert np.isnan(measure(image, image, np.zeros((24, 33), bool)))


def test_edges_within_a_pixel_are_found_and_beyond_it_are_not():
    # The Sobel gradient of a line at column c is steep at c - 1 and c + 1.
    reference = bars(10)
    assert edge_f1(reference, reference) == 1
    assert edge_f1(reference, bars(11)) == 1
    assert edge_f1(reference, bars(14)) == 0  # edges 13 and 15 against 9 and 11
    # edges 12 and 14 against 9 and 11: 12 touches 11, half are found both ways
    assert edge_f1(reference, bars(13)) == pytest.approx(0.5)


def test_edge_f1_is_the_harmonic_mean_of_precision_and_recall():
    # Of four generated edges two are right, of two real ones both are found: 2 * 0.5 * 1 / 1.5
    assert edge_f1(bars(10), bars(10, 20)) == pytest.approx(2 / 3)
    assert edge_f1(bars(10, 20), bars(10)) == pytest.approx(2 / 3)


def test_the_reference_sets_the_threshold_of_edges():
    strong = bars(5, 12, 19, 26, 33)  # a quarter of the pixels is steep: the threshold is theirs
    weak = (strong // 4).astype(np.uint8)
    assert edge_f1(strong, weak) == 0  # a quarter of the contrast: no edges where edges are wanted
    assert edge_f1(weak, strong) == 1


def test_the_threshold_is_the_steepest_tenth_of_the_reference():
    # Brightness c^2 in column c: gradient 2 c, and of 16 columns 13 and 14 reach the quantile, 26.
    reference = grey(np.arange(16)[None].repeat(30, 0) ** 2)
    step = np.full_like(reference, 100)
    step[:, 12:] = 240  # edges in columns 11 and 12: 12 touches 13, and 13 touches 12
    assert edge_f1(reference, step) == 0.5


def test_without_edges_on_one_side_nothing_agrees_and_on_both_there_is_no_value():
    flat = np.full((20, 40, 3), 90, np.uint8)
    nearly_flat = flat.copy()
    nearly_flat[:, 20:] += 3  # gradient 1.5: what JPEG makes
    assert edge_f1(flat, bars(10)) == 0
    assert edge_f1(bars(10), flat) == 0
    assert np.isnan(edge_f1(flat, nearly_flat))
    nearly_flat[:, 20:] += 2  # gradient 2.5
    assert edge_f1(flat, nearly_flat) == 0


def test_an_edge_beside_a_mask_is_not_read():
    valid = np.ones((20, 40), bool)
    valid[:, 20:] = False
    with_border = bars(10)
    with_border[:, 20:] = 255
    assert edge_f1(with_border, bars(10), valid) == 1


@pytest.mark.parametrize("measure", [spectrum_error, edge_f1])
def test_pairs_that_do_not_fit_are_refused(measure):
    image = np.zeros((8, 9, 3), np.uint8)
    with pytest.raises(ValueError, match="of one shape"):
        measure(image, image[:, :8])
    with pytest.raises(ValueError, match="mask has shape"):
        measure(image, image, np.ones((9, 8), bool))
    with pytest.raises(TypeError, match="float32"):
        measure(image, image.astype(np.float32))


def test_power_refuses_a_mask_of_another_shape():
    with pytest.raises(ValueError, match="mask has shape"):
        radial_power(np.zeros((8, 9)), np.ones((9, 8), bool))
