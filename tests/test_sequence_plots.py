"""Plots of a sequence: the values measured are the values drawn, and what is synthetic says so."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex
from PIL import Image

from ecomap.outputs import SYNTHETIC_STATEMENT, XMP, XMP_KEYWORD
from ecomap.sequence_measures import ensemble_table, measure_sequence
from ecomap.sequence_plots import (
    MIN_GREENNESS_SPAN,
    SUPPORT_LOOKS,
    draw_curves,
    draw_seasons,
    draw_sheet,
    looks_of,
    save_plot,
    sheet_rows,
    shorten,
    support_levels,
)
from tests.made_sequence import NORMALS_C, RAIN_MM_DAY, make_plan, write_sequence


@pytest.fixture(scope="module")
def sequence(tmp_path_factory):
    return write_sequence(tmp_path_factory.mktemp("sequence"), members=3, months=5)


@pytest.fixture(scope="module")
def measured(sequence):
    return measure_sequence(sequence)


def by_label(figure, words: str):
    return next(axes for axes in figure.axes if words in axes.get_ylabel())


def test_each_scenario_has_its_own_colour_marker_and_width():
    looks = looks_of(make_plan(georeferenced=True, scenarios=3, members=1, months=1))
    assert list(looks) == ["normal", "plus_2c", "plus_5c"]
    for name in ("colour", "marker", "width"):
        assert len({getattr(look, name) for look in looks.values()}) == 3


def test_curves_draw_climate_and_the_mean_over_members(sequence, measured):
    figure = draw_curves(sequence, measured)
    table = ensemble_table(measured.frames)
    green = by_label(figure, "Greenness")
    np.testing.assert_allclose(
        green.lines[1].get_ydata(), table.loc["plus_2c", "greenness_mean"].to_numpy()
    )
    warm = by_label(figure, "Temperature\n(°C)")
    np.testing.assert_allclose(
        warm.lines[1].get_ydata(), [NORMALS_C[month] + 2 for month in (0, 3, 6, 9, 0)]
    )
    times = warm.lines[0].get_xdata()
    assert times[0] == pytest.approx(2030 + 0.5 / 12)
    assert "mm/day" in by_label(figure, "Precipitation").get_ylabel()
    assert all("Solar" not in axes.get_ylabel() for axes in figure.axes)


def test_the_band_reaches_from_the_lowest_to_the_highest_member(sequence, measured):
    figure = draw_curves(sequence, measured)
    table = ensemble_table(measured.frames).loc["normal"]
    (band, *_) = by_label(figure, "Greenness").collections
    edges = band.get_paths()[0].vertices[:, 1]
    assert edges.min() == pytest.approx(table["greenness_min"].min())
    assert edges.max() == pytest.approx(table["greenness_max"].max())
    titles = [axes.get_title(loc="left") for axes in figure.axes]
    assert "Synthetic images. Line: mean of 3 members. Band: lowest to highest of them." in titles


def test_the_start_tile_is_a_line_of_its_own(sequence, measured):
    figure = draw_curves(sequence, measured)
    line = by_label(figure, "Greenness").lines[-1]
    assert set(line.get_ydata()) == {measured.start.greenness}
    words = [text.get_text() for text in figure.legends[0].get_texts()]
    assert words == ["Climate as it was", "2 °C warmer", "start tile, 2021-07"]


def test_noise_is_not_magnified(tmp_path):
    sequence = write_sequence(tmp_path, months=1, scenarios=1)
    low, high = by_label(draw_curves(sequence, measure_sequence(sequence)), "Greenness").get_ylim()
    assert high - low >= MIN_GREENNESS_SPAN


def test_many_years_are_drawn_as_means_of_whole_years(tmp_path):
    sequence = write_sequence(tmp_path, scenarios=1, members=1, months=22)  # 5 years and a half
    measured = measure_sequence(sequence)
    figure = draw_curves(sequence, measured)
    rain = by_label(figure, "Precipitation").lines[0]
    np.testing.assert_allclose(rain.get_xdata(), [2030.5, 2031.5, 2032.5, 2033.5, 2034.5])
    np.testing.assert_allclose(rain.get_ydata(), np.mean([RAIN_MM_DAY[m] for m in (0, 3, 6, 9)]))
    assert figure.axes[0].get_title(loc="left") == "Asked climate. Means of calendar years."
    assert len(by_label(figure, "Greenness").lines) == 1  # one month of the start is no year


def test_support_has_four_levels():
    rows = pd.DataFrame(
        {"is_outside": [False, False, True, None], "support_percentile": [50, 95, 99.5, np.nan]}
    )
    assert support_levels(rows).tolist() == list(SUPPORT_LOOKS)


def test_months_outside_the_training_are_hatched(sequence, measured):
    frames = measured.frames.assign(is_outside=measured.frames["month"] == "2030-07")
    strips = draw_curves(sequence, replace(measured, frames=frames)).axes[-1]
    outside = [c for c in strips.collections if c.get_hatch()]
    assert [len(c.get_paths()) for c in outside if c.get_paths()] == [1, 1]
    assert to_hex(outside[0].get_facecolor()[0]) == SUPPORT_LOOKS["outside"]
    assert {text.get_text() for text in strips.get_legend().get_texts()} == set(SUPPORT_LOOKS)


def test_the_mean_year_stands_beside_the_normals_and_the_start(sequence, measured):
    figure = draw_seasons(sequence, measured)
    warm = by_label(figure, "Temperature")
    assert warm.lines[0].get_ydata().tolist() == list(NORMALS_C)
    assert warm.lines[1].get_xdata().tolist() == [1, 4, 7, 10]
    star = by_label(figure, "Greenness").lines[-1]
    assert star.get_xdata()[0] == 7
    assert star.get_ydata()[0] == measured.start.greenness
    words = [text.get_text() for text in figure.legends[0].get_texts()]
    assert words[-2:] == ["start tile, 2021-07", "normals of the place"]


@pytest.mark.parametrize(
    ("months", "expected"),
    [(5, [5]), (12, [12]), (13, [8])],
    ids=["all", "a full row", "first and last of each calendar month"],
)
def test_a_sheet_row_has_at_most_twelve_months(months, expected):
    plan = make_plan(georeferenced=True, scenarios=1, members=1, months=months)
    rows = sheet_rows(plan.timelines[0])
    assert [len(records) for _, records in rows] == expected
    if months == 13:
        assert [record.month for record in rows[0][1]][3:5] == ["2030-10", "2033-01"]


def test_a_sheet_shows_the_start_and_every_scenario_and_says_what_is_synthetic(sequence):
    figure = draw_sheet(sequence)
    assert len(figure.axes) == 1 + 2 * 5
    np.testing.assert_array_equal(figure.axes[0].images[0].get_array(), sequence.read_start())
    np.testing.assert_array_equal(
        figure.axes[-1].images[0].get_array(), sequence.read("plus_2c", 0, "2031-01")
    )
    words = [text.get_text() for text in figure.texts]
    assert words[::2] == ["as given", "synthetic", "synthetic"]
    assert words[3::2] == ["Climate as it was", "2 °C warmer"]


@pytest.mark.parametrize(
    ("source", "expected"),
    [("generated", True), ("a/niger_2004-07_synth.tif", True), ("meadow.tif", False)],
)
def test_a_generated_start_is_known_by_its_source(source, expected):
    plan = make_plan(georeferenced=True, scenarios=1, members=1, months=1)
    assert plan.model_copy(update={"start_source": source}).start_is_synthetic is expected


@pytest.mark.parametrize("is_palette", [False, True])
def test_a_saved_plot_says_that_it_is_synthetic_and_has_the_same_bytes_again(
    tmp_path, sequence, is_palette
):
    paths = [
        save_plot(
            tmp_path / "deep" / f"{name}.png", draw_sheet(sequence), is_synthetic=True,
            is_palette=is_palette,
        )
        for name in "ab"
    ]  # fmt: skip
    assert paths[0].read_bytes() == paths[1].read_bytes()
    with Image.open(paths[0]) as image:
        assert image.info["Description"] == SYNTHETIC_STATEMENT
        assert image.info[XMP_KEYWORD] == XMP
    assert sorted(path.name for path in paths[0].parent.iterdir()) == ["a.png", "b.png"]


def test_a_plot_of_numbers_has_no_such_mark(tmp_path, sequence, measured):
    path = save_plot(tmp_path / "a.png", draw_seasons(sequence, measured), is_synthetic=False)
    with Image.open(path) as image:
        assert "Synthetic" not in image.info


def test_long_words_are_cut_and_say_so():
    assert shorten("abcdef", 6) == "abcdef"
    assert shorten("abc defg", 5) == "abc…"
