"""Generated beside observed: values by hand, ratios of slopes, what is not comparable."""

import numpy as np
import pandas as pd
import pytest

from ecomap import metrics
from ecomap.evaluate_config import EvaluateConfig
from ecomap.scores import OBSERVED, Score, find
from ecomap.vegetation_agreement import METRICS, agreement_scores, slope_ratio_scores
from ecomap.vegetation_tables import Group, usable_tables
from tests.panel_world import made_table, noise, with_index

QUICK = EvaluateConfig(num_draws=60)


def group_of(real: pd.DataFrame, **systems: pd.DataFrame) -> Group:
    return Group("all", "all", usable_tables(real, systems, 0.3)[0])


def agreement(real: pd.DataFrame, **systems: pd.DataFrame) -> dict[str, Score]:
    scores = agreement_scores(group_of(real, **systems), ["gcc"], QUICK)
    return {score.metric: score for score in scores if score.system == "a"}


def test_errors_by_hand() -> None:
    real = with_index(made_table(num_places=1), np.zeros(12))
    error = np.array([3.0, -1] + [0] * 10)
    found = agreement(real, a=with_index(real, error))
    assert found["index_rmse"].value == pytest.approx(np.sqrt(10 / 12))
    assert found["index_mae"].value == pytest.approx(4 / 12)
    assert found["index_bias"].value == pytest.approx(2 / 12)
    assert found["index_rmse"].flag == "one block: no interval"
    assert found["index_rmse"].low is None
    assert found["index_pearson"].value is None
    assert "0 places" in found["index_pearson"].flag


def test_intervals_of_errors_are_those_of_the_plain_bootstrap() -> None:
    real = made_table(num_places=9)
    real = with_index(real, noise(real, 1))
    made = with_index(real, noise(real, 2))
    found = agreement(real, a=made)
    pairs = real[["gcc"]].assign(made=made["gcc"])
    for metric, function in (
        ("index_rmse", metrics.rmse),
        ("index_mae", metrics.mean_absolute_error),
        ("index_bias", lambda b, a: float((b - a).mean())),
        ("index_pearson", metrics.pearson),
        ("index_spearman", metrics.spearman),
    ):
        low, high = metrics.bootstrap_interval(
            pairs,
            list(real["block"]),
            lambda rows, f=function: f(rows[:, 1], rows[:, 0]),
            num=60,
        )
        score = found[metric]
        assert score.value == pytest.approx(function(made["gcc"], real["gcc"]))
        assert (score.low, score.high) == (pytest.approx(low), pytest.approx(high))


def test_a_system_that_knows_places_and_months_only_has_no_anomaly() -> None:
    real = made_table(num_places=20, seed=3)
    of_place = np.repeat(np.random.default_rng(1).normal(size=20) * 5, 12)
    weather = noise(real, 2)
    season = 5 * np.cos(real["month_index"] * np.pi / 6)
    real = with_index(real, of_place + season + weather)
    climatology = agreement(real, a=with_index(real, of_place + season + 0.1 * noise(real, 4)))
    assert climatology["index_pearson"].value > 0.95
    assert climatology["anomaly_pearson"].value > 0.9
    for metric in ("anomaly_pearson_given_place_and_month", "anomaly_pearson_given_own_season"):
        score = climatology[metric]
        assert abs(score.value) < 0.2
        assert score.low < 0 < score.high
    follows = agreement(real, a=with_index(real, weather + noise(real, 4)))
    assert follows["anomaly_pearson_given_place_and_month"].low > 0.5


def test_only_several_years_tell_weather_from_season() -> None:
    """A season of any shape is no weather; one year alone cannot tell them apart."""
    real = made_table(num_places=20, years=4, seed=3)
    shape = np.random.default_rng(5).normal(size=(20, 12)) * 3  # each place has its own season
    of_place = real["place"].astype("category").cat.codes.to_numpy()
    season = shape[of_place, real["month_index"].astype(int)]
    weather = noise(real, 2)
    real = with_index(real, season + weather)
    climatology = agreement(real, a=with_index(real, season + 0.1 * noise(real, 11)))
    assert climatology["anomaly_pearson_given_own_season"].value > 0.8
    score = climatology["anomaly_pearson_deseasonalised"]
    assert abs(score.value) < 0.1
    assert score.low < 0 < score.high
    follows = agreement(real, a=with_index(real, season + weather + noise(real, 4)))
    assert 0.6 < follows["anomaly_pearson_deseasonalised"].value < 0.8


def test_anomalies_equal_pearson_of_group_anomalies() -> None:
    real = made_table(num_places=6)
    real, made = with_index(real, noise(real, 1)), with_index(real, noise(real, 2))
    places = list(real["place"])
    expected = metrics.pearson(
        metrics.group_anomaly(real["gcc"], places), metrics.group_anomaly(made["gcc"], places)
    )
    assert agreement(real, a=made)["anomaly_pearson"].value == pytest.approx(expected)


def test_only_tiles_that_both_know_are_compared() -> None:
    real = made_table(num_places=6)
    real = with_index(real, noise(real, 1))
    made = real.assign(gcc=real["gcc"] + 1).iloc[3:].copy()
    made.iloc[0, made.columns.get_loc("gcc")] = np.nan
    made = pd.concat([made, made.iloc[:1].rename(index=lambda key: "elsewhere").assign(gcc=99.0)])
    found = agreement(real, a=made.sample(frac=1, random_state=0))
    several_years = found.pop("anomaly_pearson_deseasonalised")
    assert (several_years.value, several_years.n) == (None, 0)
    assert {score.n for score in found.values()} == {68}
    assert found["index_bias"].value == pytest.approx(1)
    assert found["index_pearson"].value == pytest.approx(1)


def test_tiles_without_a_month_are_left_out_only_where_months_matter() -> None:
    real = made_table(num_places=6)
    real = with_index(real, noise(real, 1))
    undated = real.copy()
    undated.iloc[:4, undated.columns.get_loc("month")] = None
    undated.iloc[:4, undated.columns.get_loc("month_index")] = np.nan
    found = agreement(undated, a=with_index(real, noise(real, 2)))
    assert found["anomaly_pearson"].n == 72
    assert found["anomaly_pearson_given_place_and_month"].n == 68


def ratios(
    real: pd.DataFrame, config: EvaluateConfig = QUICK, **systems: pd.DataFrame
) -> list[Score]:
    scores = slope_ratio_scores(group_of(real, **systems), ["gcc"], config)
    return [s for s in scores if s.detail == "gcc ~ temperature_c lag 0 | within place"]


def test_half_the_response_has_a_slope_ratio_of_a_half() -> None:
    table = made_table(num_places=15, names=("temperature_c",))
    warmth = table["temperature_c"]
    real = with_index(table, 0.4 * warmth + 0.2 * noise(table, 1))
    half = with_index(table, 0.2 * warmth + 0.2 * noise(table, 2))
    half_score, exact = ratios(real, a=half, b=with_index(table, 0.5 * real["gcc"] + 7))
    assert half_score.value == pytest.approx(0.5, abs=0.03)
    assert 0.4 < half_score.low < half_score.value < half_score.high < 0.6
    # draws are shared: where one slope is half the other in each, the ratio does not spread
    assert (exact.value, exact.low, exact.high) == (pytest.approx(0.5),) * 3


def test_a_ratio_to_a_slope_that_may_be_zero_has_no_interval() -> None:
    table = made_table(num_places=15, names=("temperature_c",), seed=1)
    real = with_index(table, noise(table, 1))
    (score,) = ratios(real, a=with_index(table, table["temperature_c"]))
    assert score.value is not None
    assert (score.low, score.high) == (None, None)
    assert "does not differ from 0" in score.flag
    (score,) = ratios(real.assign(gcc=0.3), a=real)
    assert score.value is None
    assert "no slope" in score.flag


def test_a_system_is_held_to_the_climate_that_it_was_told() -> None:
    table = made_table(num_places=15, names=("temperature_c",))
    real = with_index(table, table["temperature_c"])
    warmer = table.assign(temperature_c=2 * table["temperature_c"] + 3)
    (score,) = ratios(real, a=with_index(warmer, warmer["temperature_c"]))
    assert score.value == pytest.approx(1)


def test_ratios_need_places_and_climate() -> None:
    table = made_table(num_places=4, names=("temperature_c",))
    real = with_index(table, table["temperature_c"])
    (score,) = ratios(real, a=real)
    assert (score.value, score.flag[:7]) == (None, "refused")
    assert ratios(real.assign(temperature_c=np.nan), a=real) == []


def test_every_metric_has_words_and_every_score_a_metric() -> None:
    real = made_table(num_places=6)
    real = with_index(real, noise(real, 1))
    group = group_of(real, a=with_index(real, noise(real, 2)))
    found = agreement_scores(group, ["gcc"], QUICK) + slope_ratio_scores(group, ["gcc"], QUICK)
    assert {score.metric for score in found} == set(METRICS)
    assert not find(found, system=OBSERVED)
