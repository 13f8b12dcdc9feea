"""Correlations with climate: a planted response is found, chance is found at its nominal rate."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from ecomap import panel
from ecomap.evaluate_config import EvaluateConfig
from ecomap.scores import OBSERVED, Score, find
from ecomap.vegetation_climate import (
    CONTROLS,
    PEARSON,
    SLOPE,
    SLOPE_CONTROLS,
    SPEARMAN,
    climate_scores,
    filled_series,
    month_numbers,
)
from ecomap.vegetation_tables import Batch, Group, usable_tables
from tests.panel_world import made_table, noise, with_index

QUICK = EvaluateConfig(num_draws=40, num_permutations=59)


def scored(
    tables: dict[str, pd.DataFrame], lag: int = 0, config: EvaluateConfig = QUICK, kind: str = "all"
) -> list[Score]:
    observed = tables.pop(OBSERVED)
    ready, _ = usable_tables(observed, tables, config.max_cloud_frac)
    return climate_scores(Group(kind, kind, ready), ["gcc"], lag, config)


def one(scores: list[Score], metric: str = PEARSON, system: str = OBSERVED, **detail: str) -> Score:
    control = detail.get("control", "raw")
    variable = detail.get("variable", "temperature_c")
    lag = detail.get("lag", "0")
    name = f"gcc ~ {variable} lag {lag} | {control}"
    (score,) = find(scores, metric=metric, system=system, detail=name)
    return score


def test_a_planted_response_to_the_weather_is_found_under_every_control() -> None:
    table = made_table(num_places=12, years=2)
    table = with_index(table, 0.02 * table["temperature_c"] + 0.01 * noise(table, 1))
    scores = scored({OBSERVED: table})
    for control in CONTROLS:
        score = one(scores, control=control)
        assert score.value is not None
        assert score.value > 0.9
        assert score.p_value == pytest.approx(2 / 60)
        assert score.low is not None
        assert 0.8 < score.low < score.value
    for control in SLOPE_CONTROLS:
        slope = one(scores, SLOPE, control=control)
        assert slope.value == pytest.approx(0.02, abs=0.001)
        assert (slope.n, slope.num_blocks, slope.p_value) == (288, 12, None)


def test_a_planted_confound_is_found_raw_and_not_under_its_control() -> None:
    # The index knows place and season, to which climate is tied, and no weather.
    table = made_table(num_places=30, seed=2)
    of_place = table.groupby("place")["temperature_c"].transform("mean")
    of_month = table.groupby("month_index")["temperature_c"].transform("mean")
    table = with_index(table, of_place + of_month + noise(table, 3))
    scores = scored({OBSERVED: table})
    raw, given = (one(scores, control=c) for c in ("raw", "given place and month"))
    assert raw.value is not None
    assert raw.value > 0.8
    assert given.value is not None
    assert given.low is not None
    assert given.high is not None
    assert abs(given.value) < 0.15
    assert given.low < 0 < given.high
    assert given.p_value is not None
    assert given.p_value > 0.05


def test_other_climate_that_drives_both_is_held_fixed() -> None:
    table = made_table(num_places=20, seed=4)
    rain = table["precipitation_mm_day"]
    table["temperature_c"] += 2 * rain  # and its history does not matter at lag 0
    table = with_index(table, rain + noise(table, 5))
    scores = scored({OBSERVED: table})
    assert one(scores, control="given place and month").value > 0.6
    given = one(scores, control=CONTROLS[-1])
    assert abs(given.value) < 0.2
    assert given.p_value > 0.05


@pytest.mark.parametrize(("missing", "kind"), [(0.0, "all"), (0.15, "land_cover")])
def test_chance_is_called_significant_one_time_in_twenty(missing: float, kind: str) -> None:
    # Ten indices a world that know their own season and weather, none that of the climate.
    config = EvaluateConfig(num_draws=20, num_permutations=99, min_places=4)
    hits: dict[tuple[str, str], list[bool]] = {}
    for seed in range(20):
        table = made_table(num_places=10, south=5, seed=seed, names=("temperature_c",))
        rng = np.random.default_rng(1000 + seed)
        kept = rng.random(len(table)) >= missing
        tables = {}
        for k in range(10):
            wave = np.where(table["lat"] < 0, -1, 1) * np.cos(table["month_index"] * np.pi / 6)
            place = np.repeat(rng.normal(size=10), 12)
            values = place - 3 * wave + noise(table, 100 * seed + k)
            tables[OBSERVED if k == 0 else f"s{k}"] = with_index(table, values)[kept]
        for score in scored(tables, config=config, kind=kind):
            if score.p_value is not None:
                control = score.detail.split("| ")[1]
                hits.setdefault((score.metric, control), []).append(score.p_value < 0.05)
    assert {control for _, control in hits} == {*CONTROLS} - {"deseasonalised", CONTROLS[-1]}
    for found in hits.values():
        assert len(found) == 200
        # a p value below 0.05 needs 2 (1 + k) / 100: the nominal rate is 0.04
        low, high = stats.binom.ppf([0.001, 0.999], 200, 0.04)
        assert low <= sum(found) <= high


def test_the_series_of_a_place_has_its_own_values_and_those_its_records_remember() -> None:
    table = made_table(num_places=3).drop(index=["p01-014", "p01-015"])
    batch = Batch(table, ("temperature_c", "precipitation_mm_day"))
    for lag, column in ((0, "temperature_c"), (2, "temperature_c_lag2")):
        series = filled_series(batch, lag)
        assert series.shape == (2, 3, 24)
        own = series[0][batch.places, month_numbers(table) - lag]
        assert own.tolist() == table[column].tolist()
    # March and April are missing, and May remembers both
    may = table.loc["p01-016"]
    series = filled_series(batch, 0)[0]
    assert series[1, [14, 15]].tolist() == [may["temperature_c_lag2"], may["temperature_c_lag1"]]
    # nobody remembers September of the year before: that of the year stands in
    assert series[0, 8] == series[0, 20]


def test_rank_correlations_are_those_of_residuals() -> None:
    table = made_table(num_places=6)
    table = with_index(table, np.exp(table["temperature_c"] / 10) + noise(table, 7))
    score = one(scored({OBSERVED: table}), SPEARMAN, control="within place")
    places = panel.codes(table["place"])
    held = panel.hold("within place", places, places)
    left = [held.residuals(table[name].to_numpy()) for name in ("temperature_c", "gcc")]
    assert score.value == pytest.approx(stats.spearmanr(*left).statistic)
    assert score.low <= score.value <= score.high


def test_lags_read_the_climate_of_months_before() -> None:
    table = made_table(num_places=8)
    table = with_index(table, table["temperature_c_lag2"])
    scores = scored({OBSERVED: table}, lag=2)
    assert one(scores, lag="2").value == pytest.approx(1)
    assert {score.metric for score in scores} == {PEARSON}


def test_land_covers_have_no_rank_correlations() -> None:
    table = with_index(made_table(num_places=8), noise(made_table(num_places=8), 1))
    metrics = {score.metric for score in scored({OBSERVED: table}, kind="land_cover")}
    assert metrics == {PEARSON, SLOPE}


def test_a_score_does_not_depend_on_the_systems_beside_it() -> None:
    table = made_table(num_places=7, seed=8)
    first, second, part = (with_index(table, noise(table, seed)) for seed in (1, 2, 3))
    together = scored({OBSERVED: first, "a": second, "b": part.iloc[5:]})
    alone = scored({OBSERVED: first, "a": second})
    swapped = scored({OBSERVED: second})
    assert find(together, system="a") == find(alone, system="a")
    values = [score.value for score in find(together, system="a")]
    assert values == pytest.approx([score.value for score in swapped], nan_ok=True)
    assert {score.n for score in find(together, system="b")} == {0, 79}


def test_the_same_seed_gives_the_same_scores_and_another_seed_others() -> None:
    table = made_table(num_places=7)
    table = with_index(table, noise(table, 1))
    first, again = scored({OBSERVED: table}), scored({OBSERVED: table})
    assert first == again
    other = scored({OBSERVED: table}, config=QUICK.model_copy(update={"seed": 1}))
    assert one(first).value == one(other).value
    assert one(first).low != one(other).low
    assert one(first).p_value != one(other).p_value


def test_what_cannot_be_said_is_refused_with_the_reason() -> None:
    table = made_table(num_places=6)
    table = with_index(table, noise(table, 1))
    scores = scored({OBSERVED: table, "flat": table.assign(gcc=0.3)})
    refused = one(scores, control="deseasonalised")
    assert (refused.value, refused.n) == (None, 0)
    assert refused.flag == "refused: no place has a calendar month in two years"
    assert "constant" in one(scores, system="flat").flag
    few = scored({OBSERVED: table[table["place"] < "p04"]})
    assert one(few).flag == "refused: climate varies in 4 places once controlled, 5 needed"
    # one place in the south has no other of its months: it cannot say anything given the month
    mixed = made_table(num_places=5, south=1)
    mixed = with_index(mixed, noise(mixed, 1))
    assert "in 4 places" in one(scored({OBSERVED: mixed}), control="given place and month").flag
    unknown = table.assign(temperature_c=np.nan, precipitation_mm_day=np.nan)
    (score,) = scored({OBSERVED: unknown})
    assert "no climate variable is known" in score.flag
    (score,) = scored({OBSERVED: table.assign(gcc=np.nan)})
    assert score.flag == "no tile has index, month and climate"


def test_one_climate_variable_leaves_no_other_climate_to_hold_fixed() -> None:
    table = made_table(num_places=6, names=("temperature_c",))
    scores = scored({OBSERVED: with_index(table, noise(table, 1))})
    assert not [score for score in scores if CONTROLS[-1] in score.detail]


def test_neighbours_that_are_exchanged_as_if_independent_are_flagged() -> None:
    table = made_table(num_places=24, places_per_block=2)
    flag = one(scored({OBSERVED: with_index(table, noise(table, 1))})).flag
    assert flag == "24 places in 12 blocks: p takes neighbours as independent"
