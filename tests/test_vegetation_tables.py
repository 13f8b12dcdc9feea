"""Tables for vegetation statistics: what is left out, what stands in, what is grouped."""

import numpy as np
import pytest

from ecomap.errors import RequestError
from ecomap.evaluate_config import EvaluateConfig
from ecomap.schema import LandCover
from ecomap.scores import OBSERVED
from ecomap.vegetation_tables import (
    caution,
    estimates,
    groups_of,
    index_columns,
    known_variables,
    systems_without_climate,
    usable_tables,
)
from tests.panel_world import made_table, with_index


def test_cloudy_tiles_are_left_out_on_both_sides_and_counted() -> None:
    real = made_table(num_places=2).assign(cloud_frac=0.1)
    made = real.assign(cloud_frac=np.nan)
    real.iloc[[3, 5], real.columns.get_loc("cloud_frac")] = 0.31
    made.iloc[7, made.columns.get_loc("cloud_frac")] = 0.9
    tables, scores = usable_tables(real, {"a": made}, 0.3)
    assert list(tables) == [OBSERVED, "a"]
    assert real.index.difference(tables[OBSERVED].index).tolist() == real.index[[3, 5]].tolist()
    assert made.index.difference(tables["a"].index).tolist() == made.index[[3, 5, 7]].tolist()
    assert [(s.system, s.detail, s.value, s.n) for s in scores] == [
        (OBSERVED, "cloud_frac above 0.3", 2, 24),
        ("a", "cloud_frac above 0.3", 3, 24),
    ]


def test_tiles_without_month_or_observed_partner_are_counted() -> None:
    real = made_table(num_places=1)
    made = real.assign(month=None).rename(index={real.index[0]: "elsewhere"})
    _, scores = usable_tables(real, {"a": made}, 0.3)
    assert {s.detail.split(":")[0]: s.value for s in scores} == {
        "month not known": 12,
        "not an observed tile": 1,
    }


def test_a_tile_without_a_place_is_a_place_and_a_place_has_one_block() -> None:
    real = made_table(num_places=2)
    real.iloc[0, real.columns.get_loc("place")] = None
    real.iloc[0, real.columns.get_loc("block")] = None
    real.iloc[5, real.columns.get_loc("block")] = "another"
    table = usable_tables(real, {}, 0.3)[0][OBSERVED]
    assert table["place"].iloc[0] == table["block"].iloc[0] == real.index[0]
    assert table["block"].iloc[5] == table["block"].iloc[1]


@pytest.mark.parametrize("name", [OBSERVED, "place_only", "month_only"])
def test_a_system_with_a_name_that_is_taken_is_refused(name: str) -> None:
    real = made_table(num_places=1)
    with pytest.raises(RequestError, match=name):
        usable_tables(real, {name: real}, 0.3)


def test_keys_that_repeat_are_refused() -> None:
    real = made_table(num_places=1)
    twice = real.rename(index={real.index[1]: real.index[0]})
    with pytest.raises(RequestError, match=f"a has several tiles with key '{real.index[0]}'"):
        usable_tables(real, {"a": twice}, 0.3)


def test_systems_without_climate_are_means_of_places_and_of_months_of_a_hemisphere() -> None:
    real = made_table(num_places=3, south=1)
    of_place = np.repeat([1.0, 2.0, 4.0], 12)
    of_month = np.tile(np.arange(12.0), 3)
    real = with_index(real, of_place + of_month)
    systems = systems_without_climate(real, ["gcc"])
    assert systems["place_only"]["gcc"].tolist() == pytest.approx(of_place + 5.5)
    # the south has one place; in the north 2 and 4 give 3
    expected = np.repeat([1.0, 3.0, 3.0], 12) + of_month
    assert systems["month_only"]["gcc"].tolist() == pytest.approx(expected)
    undated = real.assign(month_index=np.nan)
    assert set(systems_without_climate(undated, ["gcc"])) == {"place_only"}
    alone = real.assign(place=real.index)
    assert set(systems_without_climate(alone, ["gcc"])) == {"month_only"}


def test_indices_that_are_known_for_no_tile_are_no_indices() -> None:
    real = made_table(num_places=1)
    table = with_index(with_index(real, np.full(12, np.nan), "ndvi"), np.arange(12.0), "vari")
    assert index_columns(table) == ["vari"]
    assert index_columns(table, ("gcc",)) == []


def test_a_climate_variable_known_for_less_than_half_of_the_tiles_is_left_out() -> None:
    table = made_table(num_places=1)
    table.iloc[:6, table.columns.get_loc("temperature_c")] = np.nan
    table.iloc[:7, table.columns.get_loc("precipitation_mm_day")] = np.nan
    assert known_variables(table, 0) == ("temperature_c",)
    assert known_variables(table, 1) == ("temperature_c", "precipitation_mm_day")
    assert known_variables(table.iloc[:0], 0) == ()


def test_groups_are_all_tiles_and_land_covers_where_the_config_wants_them() -> None:
    covers = (LandCover.GRASSLANDS, LandCover.CROPLANDS)
    real = made_table(num_places=3, covers=covers)
    made = real[real["land_cover"] == "Croplands"]
    groups = list(groups_of({OBSERVED: real, "a": made}, EvaluateConfig()))
    assert [(g.kind, g.name, g.num_places) for g in groups] == [
        ("all", "all", 3),
        ("land_cover", "Grasslands", 2),
        ("land_cover", "Croplands", 1),
    ]
    assert [list(g.tables) for g in groups[1:]] == [[OBSERVED], [OBSERVED, "a"]]
    assert len(list(groups_of({OBSERVED: real}, EvaluateConfig(groups=("month",))))) == 1


def test_numbers_come_with_a_caution_where_blocks_are_few() -> None:
    assert caution(0.5, 10) == ""
    assert "9 blocks" in caution(0.5, 9)
    assert caution(0.5, 1) == "one block: no interval"
    assert "constant" in caution(float("nan"), 30)


def test_an_undefined_value_has_no_interval() -> None:
    drawn = np.stack([np.arange(100.0), np.arange(100.0)], axis=1)
    rows = estimates(np.array([1.0, np.nan]), drawn, 5, 0.9, np.array([0.5, np.nan]))
    assert rows[0] == (1.0, pytest.approx(4.95), pytest.approx(94.05), 0.5)
    assert np.isnan(rows[1]).all()
