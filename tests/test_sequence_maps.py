"""Maps of a sequence: what is drawn is what was measured, and doubt is drawn too."""

import numpy as np
import pytest
from PIL import Image

from ecomap import sequence_maps
from ecomap.outputs import SYNTHETIC_STATEMENT
from ecomap.sequence_maps import (
    NOTHING,
    Row,
    change_figures,
    difference_figures,
    draw_maps,
    spread_figures,
)
from ecomap.sequence_measures import SEASONS, measure_sequence, year_map
from tests.made_sequence import write_sequence


@pytest.fixture
def drawn(monkeypatch):
    """Rows, columns and options of every figure of maps."""
    kept = []
    draw = sequence_maps.draw_maps

    def spy(rows, columns, **options):
        kept.append((rows, columns, options))
        return draw(rows, columns, **options)

    monkeypatch.setattr(sequence_maps, "draw_maps", spy)
    return kept


@pytest.fixture(scope="module")
def sequence(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sequence")
    return write_sequence(folder, scenarios=3, members=3, months=8)


@pytest.fixture(scope="module")
def maps(sequence):
    return measure_sequence(sequence).maps


def test_differences_are_of_each_scenario_from_the_first(sequence, maps, drawn):
    pictures = list(difference_figures(sequence, maps))
    assert [picture.png.name for picture in pictures] == [
        "greenness_difference_synth.png", "snow_difference_synth.png",
    ]  # fmt: skip
    rows, columns, options = drawn[0]
    assert columns == ["All months", *SEASONS]
    assert [row.words for row in rows] == ["2 °C warmer", "5 °C warmer"]
    expected = (maps.greenness[2] - maps.greenness[0]).mean(axis=0)
    np.testing.assert_allclose(rows[1].maps[2], expected[1])
    np.testing.assert_allclose(rows[1].maps[0], year_map(expected), atol=1e-6)
    assert options["limits"][0] == -options["limits"][1] <= -0.02
    assert "less that of “Climate as it was”" in pictures[0].caption
    with Image.open(pictures[0].png) as image:
        assert image.info["Description"] == SYNTHETIC_STATEMENT


def test_changes_are_of_the_last_years_from_the_first(sequence, maps, drawn):
    pictures = list(change_figures(sequence, maps))
    ((row,), columns, _), *_ = drawn
    assert columns == ["Climate as it was", "2 °C warmer", "5 °C warmer"]
    assert np.abs(row.maps[0]).max() < 1e-6  # the same climate in both years
    words = "in the same calendar months (2031 less 2030)"
    assert words in pictures[0].caption


def test_a_sequence_of_less_than_two_years_has_no_change(tmp_path):
    sequence = write_sequence(tmp_path, months=4, members=1, scenarios=1)
    maps = measure_sequence(sequence).maps
    assert list(change_figures(sequence, maps)) == []
    assert list(difference_figures(sequence, maps)) == []
    assert list(spread_figures(sequence, maps)) == []


def test_snow_that_is_nowhere_has_no_map(sequence, maps):
    without = vars(maps) | {"snow": np.zeros_like(maps.snow)}
    names = [p.png.name for p in difference_figures(sequence, type(maps)(**without))]
    assert names == ["greenness_difference_synth.png"]


def test_spread_has_a_row_for_each_scenario(sequence, maps, drawn):
    pictures = list(spread_figures(sequence, maps))
    assert [p.png.name for p in pictures] == [
        "greenness_spread_synth.png", "colour_spread_synth.png",
    ]  # fmt: skip
    rows, _, options = drawn[1]
    assert len(rows) == 3
    np.testing.assert_allclose(rows[2].maps[1], maps.colour_spread[2, 0])
    assert options["limits"][0] == 0
    assert "display values" in options["label"]
    assert "over the 3 members" in pictures[0].caption


def test_few_members_are_not_said_to_agree(tmp_path, drawn):
    sequence = write_sequence(tmp_path, months=1, members=2)
    pictures = list(difference_figures(sequence, measure_sequence(sequence).maps))
    assert drawn[0][0][0].agreement == [None]
    assert "Too few members" in pictures[0].caption


def test_crosses_stand_where_members_disagree():
    agrees = np.ones((8, 8), bool)
    agrees[2, 5] = False
    figure = draw_maps(
        [Row("a", [np.zeros((8, 8), np.float32)], [agrees])], ["b"], label="c", palette="BrBG",
        limits=(-1, 1),
    )  # fmt: skip
    assert figure.axes[0].lines[0].get_xydata().tolist() == [[5, 2]]


def test_unknown_pixels_are_grey_and_have_no_cross():
    values = np.full((8, 8), np.nan, np.float32)
    row = Row("a", [values], [np.zeros((8, 8), bool)])
    figure = draw_maps([row], ["b"], label="c", palette="BrBG", limits=(-1, 1))
    assert len(figure.axes[0].lines[0].get_xydata()) == 0
    assert figure.axes[0].texts[0].get_text() == NOTHING


def test_a_tile_of_water_has_maps_that_say_so(tmp_path):
    sequence = write_sequence(tmp_path, months=1, members=3)
    Image.new("RGB", (32, 32), (3, 6, 21)).save(sequence.start_path)
    pictures = list(difference_figures(sequence, measure_sequence(sequence).maps))
    assert [picture.png.name for picture in pictures] == ["greenness_difference_synth.png"]
