"""Skill at places, by hand."""

import numpy as np
import pytest

from ecomap.forecast_skill import Months, PlaceSkill, gains_over, outperforms
from ecomap.schema import LandCover
from tests.panel_world import made_table, noise, with_index


def months_of(values: np.ndarray, min_months: int = 3) -> Months:
    table = with_index(made_table(num_places=len(values) // 12), values)
    return Months.of(table, "gcc", min_months)


def test_skill_by_hand() -> None:
    nothing = np.full(8, np.nan)
    months = months_of(np.r_[1.0, 2, 3, 6, nothing])
    skill = months.skill(np.r_[2.0, 2, 5, 5, nothing][None])
    # errors 1, 0, 2, -1: squares 6; observed deviations -2, -1, 0, 3: squares 14
    assert skill.rmse[0] == pytest.approx(np.sqrt(6 / 4))
    assert skill.bias[0] == pytest.approx(0.5)
    assert skill.nnse[0] == pytest.approx(1 / (2 - (1 - 6 / 14)))
    # forecast deviations -1.5, -1.5, 1.5, 1.5: products 3 + 1.5 + 0 + 4.5 = 9, squares 9
    assert skill.r2[0] == pytest.approx(9**2 / (14 * 9))


def test_months_that_a_side_lacks_do_not_count() -> None:
    values, forecast = np.arange(12.0), np.arange(12.0) ** 1.5
    values[3], forecast[7] = np.nan, np.nan
    kept = np.delete(np.arange(12), [3, 7])
    skill = months_of(values).skill(forecast[None])
    error = forecast[kept] - values[kept]
    assert skill.rmse[0] == pytest.approx(np.sqrt((error**2).mean()))
    expected = np.corrcoef(values[kept], forecast[kept])[0, 1] ** 2
    assert skill.r2[0] == pytest.approx(expected)


def test_places_with_few_or_constant_months_have_no_skill_and_constants_explain_nothing() -> None:
    values = np.r_[np.arange(12.0), np.full(12, 0.1), np.arange(12.0)]
    forecast = values.reshape(3, 12).copy()
    forecast[0] = 5.5
    forecast[2, 5:] = np.nan
    skill = months_of(values, min_months=6).skill(forecast)
    assert skill.r2[0] == 0
    assert skill.nnse[0] == pytest.approx(1 / 2)  # the mean itself: NSE 0
    assert np.isnan([part[1:] for part in skill]).all()


def test_bare_places_are_left_out_and_places_without_a_class_are_one_class() -> None:
    covers = (LandCover.BARREN, LandCover.GRASSLANDS, LandCover.WATER_BODIES, LandCover.CROPLANDS)
    table = made_table(num_places=4, covers=covers)
    table.loc[table["place"] == "p03", "land_cover"] = None
    months = Months.of(with_index(table, noise(table, 1)), "gcc", 6)
    assert months.covers.tolist() == ["Grasslands", "land cover not known"]
    assert months.observed.shape == (2, 12)


def test_tiles_of_one_month_are_averaged_and_rows_may_come_in_any_order() -> None:
    table = with_index(made_table(num_places=2), np.arange(24.0))
    months = Months.of(table, "gcc", 6)
    assert months.grid(table.sample(frac=1, random_state=0), "gcc").ravel().tolist() == list(
        range(24)
    )
    table.iloc[1, table.columns.get_loc("month")] = table["month"].iloc[0]
    twice = Months.of(table, "gcc", 6)
    assert twice.observed[0, 0] == 0.5
    assert np.isnan(twice.observed[0, 1])


def test_gains_are_on_months_of_both_and_positive_where_better() -> None:
    values = np.arange(12.0)
    months = months_of(values)
    mine, climatology = (values + 1)[None], (values + np.tile([3.0, -5], 6))[None]
    climatology[0, :4] = np.nan
    gains = gains_over(months, mine, climatology)
    assert gains.rmse[0] == pytest.approx(np.sqrt(17) - 1)
    assert gains.bias[0] == pytest.approx(1 - 1)
    part = values[4:]
    efficiency = 1 - len(part) / ((part - part.mean()) ** 2).sum()
    theirs = 1 - 17 * len(part) / ((part - part.mean()) ** 2).sum()
    assert gains.nnse[0] == pytest.approx(1 / (2 - efficiency) - 1 / (2 - theirs))
    assert gains.r2[0] > 0


def test_three_of_four_gains_outperform() -> None:
    def gains(r2: float, rmse: float, nnse: float, bias: float) -> PlaceSkill:
        return PlaceSkill(*(np.array([value]) for value in (r2, rmse, nnse, bias)))

    assert outperforms(gains(0.06, 0.02, 0.06, -9))[0] == 1
    assert outperforms(gains(-9, 0.02, 0.06, 0.011))[0] == 1
    assert outperforms(gains(0.05, 0.02, 0.06, 0.01))[0] == 0  # thresholds must be exceeded
    assert outperforms(gains(0.06, 0.01, 0.05, 0.02))[0] == 0
    assert np.isnan(outperforms(gains(*[np.nan] * 4))[0])
