"""Plots: the values given are the values drawn, with their units; sheets repeat pixels exactly."""

import io
import subprocess
import sys

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from ecomap import figures
from ecomap.errors import RequestError

NORMALS = {
    "temperature_c": [-26.0, -22.0, -12.0, -2.0, 6.0, 14.0, 18.0, 15.0, 7.0, -3.0, -18.0, -25.0],
    "precipitation_mm_day": [0.6, 0.5, 0.6, 1.1, 1.5, 2.0, 1.9, 2.2, 1.8, 1.4, 1.0, 0.8],
}
IMAGES = {"months": [1, 4, 10], "greenness": [0.33, 0.4, 0.37], "snow_frac": [0.9, 0.8, 0.1]}
SWEEP = {
    "precipitation_place": "Niger",
    "precipitation_factors": [0.5, 1.0, 1.5],
    "greenness": [0.34, 0.39, 0.45],
    "temperature_place": "Siberia",
    "temperature_offsets_c": [-4.0, 0.0, 4.0],
    "snow_frac": [0.9, 0.5, 0.1],
}


@pytest.fixture
def drawn(monkeypatch):
    """The figure that a plot renders, beside its bytes."""
    kept: list[Figure] = []
    render = figures.to_png
    monkeypatch.setattr(figures, "to_png", lambda figure: kept.append(figure) or render(figure))
    return kept


def points(axes, index: int = 0) -> list[tuple[float, float]]:
    return [tuple(pair) for pair in axes.lines[index].get_xydata().tolist()]


def by_label(figure: Figure, words: str):
    return next(axes for axes in figure.axes if words in axes.get_ylabel())


def test_climate_response_draws_the_normals_with_their_units(drawn):
    figures.climate_response("Siberia", **NORMALS, **IMAGES)
    temperature = by_label(drawn[0], "Temperature (°C)")
    assert points(temperature) == list(zip(range(1, 13), NORMALS["temperature_c"], strict=True))
    rain = by_label(drawn[0], "Precipitation (mm/day)")
    bars = [(bar.get_x() + bar.get_width() / 2, bar.get_height()) for bar in rain.patches]
    np.testing.assert_allclose(
        bars, list(zip(range(1, 13), NORMALS["precipitation_mm_day"], strict=True))
    )
    assert rain.get_ylim() == (0, 12)
    assert temperature.get_ylim() == (-35, 40)
    assert temperature.get_title(loc="left") == "Siberia: observed normals"


def test_climate_response_draws_each_image_in_its_month(drawn):
    figures.climate_response("Siberia", **NORMALS, **IMAGES)
    assert points(by_label(drawn[0], "Greenness G/(R+G+B)")) == [(1, 0.33), (4, 0.4), (10, 0.37)]
    assert points(by_label(drawn[0], "Snow fraction")) == [(1, 0.9), (4, 0.8), (10, 0.1)]
    assert by_label(drawn[0], "Greenness").get_title(loc="left") == "Generated images"


def test_both_halves_share_the_months(drawn):
    figures.climate_response("Siberia", **NORMALS, **IMAGES)
    assert len({axes.get_xlim() for axes in drawn[0].axes}) == 1
    images = by_label(drawn[0], "Greenness")
    assert "".join(tick.get_text() for tick in images.get_xticklabels()) == "JFMAMJJASOND"


@pytest.mark.parametrize(
    ("greenness", "expected"),
    [
        ([0.33, 0.4, 0.37], (0.30, 0.56)),
        ([0.21, float("nan"), 0.64], (0.21 - 0.26 / 25, 0.64 + 0.26 / 25)),
    ],
    ids=["common range", "wider"],
)
def test_places_share_an_axis_of_greenness_that_hides_no_value(drawn, greenness, expected):
    figures.climate_response("Siberia", **NORMALS, **(IMAGES | {"greenness": greenness}))
    assert by_label(drawn[0], "Greenness").get_ylim() == pytest.approx(expected)
    assert by_label(drawn[0], "Snow").get_ylim() == pytest.approx((-0.05, 1.05))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"temperature_c": [1.0] * 11}, "temperature_c has 11 values. Expected 12"),
        ({"precipitation_mm_day": [1.0] * 13}, "precipitation_mm_day has 13 values. Expected 12"),
        ({"greenness": [0.3]}, "greenness has 1 values. Expected 3, one for each image"),
        ({"snow_frac": [0.3]}, "snow_frac has 1 values. Expected 3, one for each image"),
        ({"months": [1, 4, 13]}, r"Months \[1, 4, 13\] are not all calendar months"),
        ({"months": [0, 4, 10]}, r"Months \[0, 4, 10\] are not all calendar months"),
    ],
)
def test_climate_response_refuses_values_without_a_place(change, message):
    with pytest.raises(RequestError, match=message):
        figures.climate_response("Siberia", **(NORMALS | IMAGES | change))


def test_response_sweep_draws_each_response_against_its_cause(drawn):
    figures.response_sweep(**SWEEP)
    wet, warm = drawn[0].axes
    assert points(wet) == [(0.5, 0.34), (1.0, 0.39), (1.5, 0.45)]
    assert points(warm) == [(-4.0, 0.9), (0.0, 0.5), (4.0, 0.1)]
    assert (wet.get_title(loc="left"), warm.get_title(loc="left")) == ("Niger", "Siberia")
    assert wet.get_xlabel() == "Precipitation relative to normal"
    assert [tick.get_text() for tick in wet.get_xticklabels()] == ["x0.5", "x1", "x1.5"]
    assert warm.get_xlabel() == "Temperature change (°C)"
    assert [tick.get_text() for tick in warm.get_xticklabels()] == ["-4", "0", "+4"]
    assert wet.get_ylabel() == "Greenness G/(R+G+B)"
    assert warm.get_ylabel() == "Snow fraction"


def test_response_sweep_does_not_magnify_small_differences(drawn):
    figures.response_sweep(**(SWEEP | {"greenness": [0.340, 0.341, 0.342]}))
    assert drawn[0].axes[0].get_ylim() == (0.30, 0.56)


@pytest.mark.parametrize("name", ["greenness", "snow_frac"])
def test_response_sweep_refuses_a_response_without_a_cause(name):
    with pytest.raises(RequestError, match=f"{name} has 2 values. Expected 3"):
        figures.response_sweep(**(SWEEP | {name: [0.1, 0.2]}))


def test_observed_versus_generated_shows_pairs_on_equal_axes(drawn):
    figures.observed_versus_generated([0.1, 0.2, 0.5], [0.2, 0.1, 0.3], "Snow", note="r = 0.7")
    axes = drawn[0].axes[0]
    assert points(axes, 1) == [(0.1, 0.2), (0.2, 0.1), (0.5, 0.3)]
    assert axes.get_xlim() == axes.get_ylim() == pytest.approx((0.08, 0.52))
    assert [start == end for start, end in points(axes, 0)] == [True, True]
    assert axes.get_xlabel() == "Snow, observed"
    assert axes.get_ylabel() == "Snow, generated"
    assert axes.get_title(loc="left") == "3 pairs"
    assert [text.get_text() for text in axes.texts] == ["r = 0.7"]


def test_pairs_that_cannot_be_drawn_are_counted(drawn):
    nan = float("nan")
    figures.observed_versus_generated([0.1, nan, 0.5, 0.4], [0.2, 0.1, np.inf, 0.4], "Snow")
    axes = drawn[0].axes[0]
    assert points(axes, 1) == [(0.1, 0.2), (0.4, 0.4)]
    assert axes.get_title(loc="left") == "2 pairs, 2 not finite"


@pytest.mark.parametrize(
    ("value", "expected"), [(0.4, (0.38, 0.42)), (0.0, (-0.5, 0.5))], ids=["one value", "zero"]
)
def test_equal_values_still_have_an_axis(drawn, value, expected):
    figures.observed_versus_generated([value], [value], "Snow")
    assert drawn[0].axes[0].get_xlim() == pytest.approx(expected)


@pytest.mark.parametrize(
    ("observed", "generated", "message"),
    [
        ([1, 2, 3], [1, 2], "generated has 2 values. Expected 3"),
        ([float("nan")], [1.0], "No pair of finite values of 'Snow' among 1"),
        ([], [], "No pair of finite values of 'Snow' among 0"),
    ],
)
def test_observed_versus_generated_refuses_what_has_no_pairs(observed, generated, message):
    with pytest.raises(RequestError, match=message):
        figures.observed_versus_generated(observed, generated, "Snow")


def test_equal_numbers_give_equal_bytes_of_a_png():
    first, second = figures.response_sweep(**SWEEP), figures.response_sweep(**SWEEP)
    assert first == second
    with Image.open(io.BytesIO(first)) as image:
        assert image.format == "PNG"
        assert "Software" not in image.info
    assert first != figures.response_sweep(**(SWEEP | {"snow_frac": [0.9, 0.4, 0.1]}))


def test_pyplot_is_never_touched():
    code = (
        "import sys; from ecomap import figures; figures.observed_versus_generated([1], [2], 'a'); "
        "print('matplotlib.pyplot' in sys.modules)"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "False"


LABEL = ("word", "#9e4b00")
GAP = figures.SHEET_GAP_PX


def make_picture(seed: int, height: int = 100, width: int = 130) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def sheet_of(count: int, columns: int, caption: str = "", title: str = "") -> np.ndarray:
    pictures = [make_picture(seed) for seed in range(count)]
    texts = [(LABEL, caption)] * count
    return np.asarray(figures.draw_sheet(pictures, texts, columns=columns, title=title))


def large(seed: int) -> np.ndarray:
    return make_picture(seed).repeat(3, axis=0).repeat(3, axis=1)


def test_a_sheet_repeats_pixels_in_rows_from_the_left():
    sheet = sheet_of(3, 2)
    below = GAP + 300 + figures.SHEET_FONT_PX * 4 // 3 + GAP
    for seed, (top, left) in enumerate([(GAP, GAP), (GAP, 2 * GAP + 390), (below, GAP)]):
        np.testing.assert_array_equal(sheet[top : top + 300, left : left + 390], large(seed))
    assert (sheet[below:, 2 * GAP + 390 :] == 255).all()


def test_a_picture_is_enlarged_no_more_than_it_must():
    sheet = figures.draw_sheet([make_picture(0, 130, 128)], [(LABEL, "")], columns=1)
    assert sheet.width == 2 * 128 + 2 * GAP


def test_the_title_stands_above_the_pictures():
    titled, plain = sheet_of(1, 1, title="Title"), sheet_of(1, 1)
    added = len(titled) - len(plain)
    assert (titled[: GAP + added] < 128).any()
    np.testing.assert_array_equal(titled[GAP + added :], plain[GAP:])


def test_a_large_picture_keeps_its_size():
    picture = make_picture(0, 260, 300)
    sheet = np.asarray(figures.draw_sheet([picture], [(LABEL, "")], columns=4))
    np.testing.assert_array_equal(sheet[GAP : GAP + 260, GAP : GAP + 300], picture)
    assert sheet.shape[1] == 300 + 2 * GAP


def test_the_label_has_its_colour_and_the_caption_its_own():
    text = sheet_of(1, 1, caption="caption")[GAP + 300 :]
    has_colour = {
        colour: bool((text == [int(colour[i : i + 2], 16) for i in (1, 3, 5)]).all(-1).any())
        for colour in (LABEL[1], figures.SHEET_INK, "#0072b2")
    }
    assert has_colour == {LABEL[1]: True, figures.SHEET_INK: True, "#0072b2": False}


def test_longer_words_make_the_sheet_higher_not_wider():
    short, tall = sheet_of(2, 2, caption="a"), sheet_of(2, 2, caption="several words " * 9)
    assert tall.shape[1] == short.shape[1]
    assert tall.shape[0] > short.shape[0]
    assert sheet_of(2, 2, title="Title").shape[0] > sheet_of(2, 2).shape[0]


def test_wrapped_lines_fit_and_lose_nothing():
    text = "Central Siberia: -2.0 °C and Donaudampfschifffahrtsgesellschaftskapitän\nnext"
    lines = figures._wrap(text, 18, 200)
    font = figures._font(18)
    assert all(font.getlength(line) <= 200 for line in lines)
    assert lines[-1] == "next"
    assert "".join("".join(lines).split()) == "".join(text.split())
    assert lines[0] == "Central Siberia: -2.0"


def test_a_character_wider_than_the_line_still_ends():
    assert figures._wrap("WW W", 18, 1) == ["W", "W", "W"]


def test_an_empty_text_has_no_lines():
    assert figures._wrap("", 18, 200) == []
