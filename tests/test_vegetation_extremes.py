"""Falls of greenness in extreme months, by hand."""

import numpy as np
import pandas as pd
import pytest

from ecomap.evaluate_config import EvaluateConfig
from ecomap.scores import OBSERVED, find
from ecomap.vegetation_extremes import METRICS, extreme_scores, falls, find_extremes
from tests.panel_world import made_table, noise, with_index

QUICK = EvaluateConfig(num_draws=50, groups=())


def julies(num_places: int = 5, rain: tuple[float, ...] = (1.0, 4, 5, 6)) -> pd.DataFrame:
    """July of as many years as there is rain, which is the same at every place."""
    table = made_table(num_places=num_places, years=len(rain))
    table = table[table["month_index"] == 6]
    return table.assign(temperature_c=15.0, precipitation_mm_day=np.tile(rain, num_places))


def test_a_month_is_extreme_one_standard_deviation_from_its_own_normal() -> None:
    # rain 1, 4, 5, 6: mean 4, standard deviation sqrt(14 / 3) = 2.16; -1.39, 0, 0.46, 0.93
    table = julies(1)
    dry = find_extremes(table, "precipitation_mm_day", -1)
    assert dry.extreme.tolist() == [True, False, False, False]
    assert dry.normal.tolist() == [False, True, True, True]
    assert not find_extremes(table, "precipitation_mm_day", 1).extreme.any()
    wet = find_extremes(julies(1, (-1.0, -4, -5, -6)), "precipitation_mm_day", 1)
    assert wet.extreme.tolist() == [True, False, False, False]


def test_two_years_have_no_standard_deviation_and_a_constant_has_no_extremes() -> None:
    for rain in ((1.0, 9.0), (2.0, 2.0, 2.0, 2.0)):
        found = find_extremes(julies(1, rain), "precipitation_mm_day", -1)
        assert not found.extreme.any()
        assert not found.normal.any()


def test_only_growing_months_count() -> None:
    table = julies(1).assign(temperature_c=4.9)
    assert not find_extremes(table, "precipitation_mm_day", -1).extreme.any()
    table = table.assign(temperature_c=5.0)
    assert find_extremes(table, "precipitation_mm_day", -1).extreme.sum() == 1


def test_a_fall_is_measured_from_the_normal_months() -> None:
    table = julies(2)
    extremes = find_extremes(table, "precipitation_mm_day", -1)
    values = np.array([0.30, 0.40, 0.42, 0.44, 0.5, 0.4, np.nan, 0.4])
    # normals 0.42 and 0.40
    found = falls(values, extremes)
    assert found[[0, 4]] == pytest.approx([0.12, -0.10])
    assert np.isnan(np.delete(found, [0, 4])).all()


def test_falls_and_their_error_by_hand() -> None:
    table = julies()
    real = with_index(table, np.tile([0.3, 0.4, 0.4, 0.4], 5))  # falls by 0.1
    # a system of another level that falls by half as much, at one place by nothing
    made = with_index(table, np.tile([0.55, 0.6, 0.6, 0.6], 5))
    made.iloc[0, made.columns.get_loc("gcc")] = 0.6
    detail = "gcc | precipitation_mm_day -1 sd"
    found = {s.metric: s for s in extreme_scores(real, {"a": made}, QUICK) if s.detail == detail}
    assert found["extreme_drop_observed"].system == OBSERVED
    assert found["extreme_drop_observed"].value == pytest.approx(0.1)
    assert found["extreme_drop_generated"].value == pytest.approx((0 + 4 * 0.05) / 5)
    error = found["extreme_drop_error"]
    assert error.value == pytest.approx((0.1 + 4 * 0.05) / 5)
    assert error.low <= error.value <= error.high
    assert (error.system, error.n, error.num_blocks) == ("a", 5, 5)
    assert set(found) == set(METRICS)


def test_a_planted_drought_response_is_found_and_a_climatology_has_none() -> None:
    table = made_table(num_places=12, years=5, season=4.0)
    real = with_index(table, 0.02 * table["precipitation_mm_day"] + 0.005 * noise(table, 1))
    mean = real.groupby(["place", "month_index"])["gcc"].transform("mean")
    scores = extreme_scores(real, {"climatology": real.assign(gcc=mean)}, QUICK)
    dry, wet = (
        find(
            scores, metric="extreme_drop_observed", detail=f"gcc | precipitation_mm_day {sign}1 sd"
        )[0]
        for sign in "-+"
    )
    assert dry.low > 0.02
    assert wet.high < -0.02
    (flat,) = find(scores, metric="extreme_drop_generated", detail=dry.detail)
    assert flat.value == pytest.approx(0, abs=1e-12)
    (error,) = find(scores, metric="extreme_drop_error", detail=dry.detail)
    assert error.value >= dry.value


def test_one_year_is_refused_in_a_row_a_metric_and_condition() -> None:
    table = made_table(num_places=6)
    real = with_index(table, noise(table, 1))
    scores = extreme_scores(real, {"a": real}, QUICK)
    assert len(scores) == 4 * 3
    assert all(score.value is None for score in scores)
    assert scores[0].flag == (
        "refused: no place has a calendar month in 3 years with temperature_c"
    )


def test_too_few_places_with_extremes_are_refused() -> None:
    table = julies(4)
    scores = extreme_scores(with_index(table, noise(table, 1)), {}, QUICK)
    assert [s.flag for s in scores if s.detail == "gcc | precipitation_mm_day -1 sd"] == [
        "refused: extreme months in 4 places, 5 needed"
    ]
