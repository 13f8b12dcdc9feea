"""Plots of an evaluation: the numbers given are the numbers drawn, and nothing hides."""

import io

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from PIL import Image

from ecomap import evaluation_plots as plots
from ecomap.errors import RequestError
from ecomap.evaluation_plots import Change, Style
from ecomap.scores import OBSERVED
from tests.made_report import make_score, make_tables

LOOKS = plots.styles(["generated", "floor"])
TABLES = {name: make_tables()[name] for name in (OBSERVED, "generated")}


@pytest.fixture
def drawn(monkeypatch):
    """The figures that plots render, beside their bytes."""
    kept: list[Figure] = []
    render = plots.to_png
    monkeypatch.setattr(plots, "to_png", lambda figure: kept.append(figure) or render(figure))
    return kept


def lines_of(axes, colour):
    """Points of the lines of a colour that are drawn, legends left out."""
    lines = [line for line in axes.lines if line.get_color() == colour]
    return [line.get_xydata().tolist() for line in lines if len(line.get_xydata())]


def words(figure):
    return [text.get_text() for legend in figure.legends for text in legend.get_texts()]


def test_systems_differ_in_colour_or_shape_and_real_images_are_dark_circles():
    looks = plots.styles([f"s{i}" for i in range(20)] + [OBSERVED])
    assert len(set(looks.values())) == 21
    assert looks[OBSERVED] == Style(plots.INK, "o")
    assert plots.styles(["a"])["a"] == Style("#009e73", "s")


def group(name, value, low=None, high=None, **fields):
    return make_score(
        group_kind="land_cover", group=name, value=value, low=low, high=high, **fields
    )


def test_bars_marks_and_intervals_stand_at_their_groups(drawn):
    scores = {
        "generated": [group("Grass", 2.0, 1.5, 3.0, n=30), group("Sand", 4.0, n=31)],
        "floor": [group("Sand", 1.0, 0.5, 1.5), group("Sea", 9.0), group("Grass", 0.25)],
    }
    plots.group_bars(scores, "Distance", LOOKS)
    axes = drawn[0].axes[0]
    bars = [(bar.get_y() + bar.get_height() / 2, bar.get_width()) for bar in axes.patches]
    assert bars[:2] == [(pytest.approx(0), 2.0), (pytest.approx(1), 4.0)]
    assert [text.get_text() for text in axes.get_yticklabels()] == [
        "Grass (n = 30)", "Sand (n = 31)",
    ]  # fmt: skip
    assert lines_of(axes, plots.INK) == [[[1.5, -0.24], [3.0, -0.24]]]
    floor = lines_of(axes, LOOKS["floor"].colour)
    assert floor == [[[0.5, 1.24], [1.5, 1.24]], [[1.0, 1.24]], [[0.25, 0.24]]]
    assert axes.get_xlabel() == "Distance"
    assert axes.get_ylim()[0] > axes.get_ylim()[1]  # the first group is on top
    assert words(drawn[0]) == ["generated", "floor"]


def test_the_interval_of_a_lone_system_stands_in_the_middle_of_its_bar(drawn):
    plots.group_bars({"generated": [group("Grass", 2.0, 1.5, 3.0)]}, "Distance", LOOKS)
    assert lines_of(drawn[0].axes[0], plots.INK) == [[[1.5, 0], [3.0, 0]]]


def test_a_group_without_a_value_says_why(drawn):
    scores = {"generated": [group("Grass", None, flag="refused: 7 images"), group("Sand", None)]}
    plots.group_bars(scores, "Distance", LOOKS)
    assert [text.get_text().strip() for text in drawn[0].axes[0].texts] == [
        "refused: 7 images", "undefined",
    ]  # fmt: skip


def test_bars_need_a_group():
    with pytest.raises(RequestError, match="Distance of 'generated' has no group"):
        plots.group_bars({"generated": []}, "Distance", LOOKS)


def test_climate_panels_draw_means_of_bins_with_equal_numbers(drawn):
    plots.climate_panels(TABLES, "gcc", "Greenness", LOOKS)
    temperature, rain, _ = (axes for axes in drawn[0].axes if axes.get_visible())
    assert temperature.get_xlabel() == "Temperature (°C)"
    assert rain.get_xlabel() == "Precipitation (mm/day)"
    (points,) = lines_of(temperature, plots.INK)
    table = TABLES[OBSERVED].sort_values("temperature_c")
    parts = [table.iloc[start : start + 18] for start in range(0, 144, 18)]
    expected = [[part["temperature_c"].mean(), part["gcc"].mean()] for part in parts]
    np.testing.assert_allclose(points, expected)
    assert lines_of(temperature, LOOKS["generated"].colour) != [points]
    assert words(drawn[0]) == ["observed", "generated"]
    assert temperature.get_ylabel() == "Greenness"
    (low, high) = temperature.collections[0].get_segments()[0][:, 1]
    assert low < points[0][1] < high


def test_southern_months_are_moved_by_six(drawn):
    table = pd.DataFrame(
        {"month_index": [0.0, 6.0, 6.0], "lat": [50.0, -30.0, 50.0], "gcc": [0.3, 0.4, 0.5],
         "temperature_c": [0.0, 1.0, 2.0], "precipitation_mm_day": np.nan,
         "solar_radiation_mj_m2_day": np.nan, "block": ["a", "b", "c"]},
        index=["x", "y", "z"],
    )  # fmt: skip
    plots.climate_panels({OBSERVED: table}, "gcc", "Greenness", LOOKS)
    panels = [axes for axes in drawn[0].axes if axes.get_visible()]
    assert len(panels) == 2  # temperature and the year: what is unknown has no panel
    (points,) = lines_of(panels[1], plots.INK)
    np.testing.assert_allclose(points, [[1, 0.35], [7, 0.5]])
    labels = [text.get_text() for text in panels[1].get_xticklabels()]
    assert labels[0] == "J\nJ"
    assert labels[2] == "M\nS"  # March over September


def test_panels_need_an_observed_index():
    for table in (TABLES[OBSERVED].drop(columns="gcc"), TABLES[OBSERVED].assign(gcc=np.nan)):
        with pytest.raises(RequestError, match="No observed tile has 'gcc'"):
            plots.climate_panels({OBSERVED: table}, "gcc", "Greenness", LOOKS)


def test_a_map_shows_the_mean_error_of_each_place(drawn):
    table = pd.DataFrame(
        {"place": ["a", "a", "b", None], "lat": [10.0, 10.0, 20.0, 15.0],
         "lon": [5.0, 5.0, 9.0, 7.0], "error": [0.1, 0.3, -0.1, np.nan]},
        index=list("wxyz"),
    )  # fmt: skip
    plots.error_map(table, "Error of greenness")
    axes, bar = drawn[0].axes
    points = axes.collections[-1]
    shown = dict(zip(map(tuple, points.get_offsets()), points.get_array(), strict=True))
    assert shown == {(5.0, 10.0): pytest.approx(0.2), (9.0, 20.0): pytest.approx(-0.1)}
    low, high = points.get_clim()
    assert low == -high  # equal colours for equal errors of either sign
    assert points.get_cmap().name == "BrBG"  # brown below, green above
    assert bar.get_ylabel() == "Error of greenness"
    assert axes.get_title(loc="left") == "2 places"
    assert axes.get_xlim() == (3, 11)
    assert axes.get_ylim() == (8, 22)


def test_land_is_drawn_where_it_is(drawn):
    inland = {"place": ["a"], "lat": [15.0], "lon": [10.0], "error": [0.1]}
    plots.error_map(pd.DataFrame(inland, index=["k"]), "Error")
    png = Image.open(io.BytesIO(plots.to_png(drawn[0]))).convert("RGB")
    colours = {colour for _, colour in png.getcolors(10**6)}
    assert (0xE9, 0xEB, 0xE6) in colours  # land of the Sahara
    drawn.clear()
    sea = inland | {"lat": [-40.0], "lon": [-120.0]}
    plots.error_map(pd.DataFrame(sea, index=["k"]), "Error")
    png = Image.open(io.BytesIO(plots.to_png(drawn[0]))).convert("RGB")
    assert (0xE9, 0xEB, 0xE6) not in {colour for _, colour in png.getcolors(10**6)}


def test_a_map_needs_a_place():
    table = pd.DataFrame({"place": ["a"], "lat": [np.nan], "lon": [1.0], "error": [1.0]})
    with pytest.raises(RequestError, match="No image has both a position and Error"):
        plots.error_map(table, "Error")


def test_changes_are_drawn_in_percent_and_told_apart_by_colour_and_shape(drawn):
    changes = [
        Change("error", -0.1, -0.2, -0.05, True),
        Change("PSNR", -0.02, -0.03, -0.01, False),
        Change("SSIM", 0.01, None, None, None),
    ]
    plots.change_bars(changes)
    axes = drawn[0].axes[0]
    assert lines_of(axes, "#009e73") == [[[-20, 0], [-5, 0]], [[-10, 0]]]
    assert lines_of(axes, "#d55e00")[1] == [[-2, 1]]
    assert lines_of(axes, plots.QUIET)[0] == [[1, 2]]
    assert words(drawn[0]) == ["second better", "second worse", "not told apart"]
    assert [text.get_text() for text in axes.get_yticklabels()] == ["error", "PSNR", "SSIM"]
    with pytest.raises(RequestError, match="no difference to draw"):
        plots.change_bars([])


def test_equal_numbers_give_equal_bytes():
    def draw():
        return plots.climate_panels(TABLES, "gcc", "Greenness", LOOKS)

    assert draw() == draw()
