"""Matched pairs: by hand, and whether a climatology can pass for a response."""

import numpy as np
import pandas as pd
import pytest

from ecomap import vegetation_pairs
from ecomap.evaluate_config import EvaluateConfig
from ecomap.scores import OBSERVED, Score, find
from ecomap.vegetation_pairs import OTHER_MONTHS, SAME_MONTH, find_pairs, pair_scores
from tests.panel_world import made_table, noise, with_index

QUICK = EvaluateConfig(num_draws=50, groups=())


def scored(real: pd.DataFrame, made: pd.DataFrame, config: EvaluateConfig = QUICK) -> list[Score]:
    return find(pair_scores(real, {"a": made}, config), system="a")


def test_pairs_are_of_one_place_and_month_in_two_years_the_earlier_first() -> None:
    table = made_table(num_places=2, years=3).sample(frac=1, random_state=1)
    pairs = find_pairs(table, min_places=2, seed=0)
    first, second = table.iloc[pairs.earlier], table.iloc[pairs.later]
    assert pairs.kind == SAME_MONTH
    assert pairs.num_found == len(first) == 2 * 12 * 3
    assert (first["place"].to_numpy() == second["place"].to_numpy()).all()
    assert (first["month_index"].to_numpy() == second["month_index"].to_numpy()).all()
    assert (first["year"].to_numpy() < second["year"].to_numpy()).all()
    assert len(set(zip(pairs.earlier, pairs.later, strict=True))) == len(first)


def test_where_too_few_places_have_two_years_pairs_are_of_two_months() -> None:
    table = made_table(num_places=3, years=2)
    table = table[(table["year"] == 2004) | (table["place"] == "p00")]
    assert find_pairs(table, min_places=1, seed=0).kind == SAME_MONTH
    pairs = find_pairs(table, min_places=2, seed=0)
    assert pairs.kind == OTHER_MONTHS
    first, second = table.iloc[pairs.earlier], table.iloc[pairs.later]
    assert (first["month_index"].to_numpy() != second["month_index"].to_numpy()).all()
    assert (first["month"].to_numpy() < second["month"].to_numpy()).all()
    # 24 months at one place without the 12 of one calendar month, 12 months at two others
    assert pairs.num_found == 24 * 23 // 2 - 12 + 2 * 66


def test_tiles_without_a_month_are_in_no_pair() -> None:
    table = made_table(num_places=1).assign(month=None, month_index=np.nan)
    assert find_pairs(table, min_places=1, seed=0).num_found == 0


def test_more_pairs_than_can_be_afforded_are_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vegetation_pairs, "MAX_PAIRS", 50)
    table = made_table(num_places=6)
    pairs = find_pairs(table, min_places=5, seed=0)
    assert (len(pairs.earlier), pairs.num_found) == (50, 6 * 66)
    table = with_index(table, noise(table, 1))
    assert "50 of 396 pairs drawn" in scored(table, table)[2].flag


def changes_by_hand() -> tuple[pd.DataFrame, pd.DataFrame]:
    """Five places with January in two years, and observed and generated changes."""
    table = made_table(num_places=5, years=2)
    table = table[table["month_index"] == 0]
    observed = np.array([0.10, -0.10, 0.20, 0.30, 0.004])
    generated = np.array([0.05, 0.10, 0.40, 0.0, -1.0])
    flat = np.zeros(5)
    real, made = (
        with_index(table, np.stack([flat, change], axis=1).ravel())
        for change in (observed, generated)
    )
    return real, made


def test_scores_by_hand() -> None:
    real, made = changes_by_hand()
    config = QUICK.model_copy(update={"min_places": 4})
    direction, ratio, rank = scored(real, made, config)
    # the last change is within the noise of 0.005; the fourth did not move, which is a miss
    assert (direction.metric, direction.value, direction.n) == ("pair_direction", 2 / 4, 4)
    # ratios 0.5, 1, 2 and 0
    assert (ratio.metric, ratio.value, ratio.n) == ("pair_magnitude_ratio", 0.75, 4)
    # sizes 0.1, 0.1, 0.2, 0.3, 0.004 have ranks 2.5, 2.5, 4, 5, 1; those of generated 2, 3, 4, 1, 5
    expected = np.corrcoef([2.5, 2.5, 4, 5, 1], [2, 3, 4, 1, 5])[0, 1]
    assert (rank.metric, rank.n) == ("pair_rank", 5)
    assert rank.value == pytest.approx(expected)
    assert direction.detail == f"gcc | {SAME_MONTH}"
    assert all(score.low <= score.value <= score.high for score in (direction, ratio, rank))


def test_each_index_has_a_noise_of_its_own() -> None:
    # Of changes of 0.1, 0.1, 0.2, 0.3 and 0.004 four exceed 0.005; of a tenth of them one 0.02.
    real, made = changes_by_hand()
    real, made = (t.assign(snow_frac=t["gcc"] / 10.001) for t in (real, made))
    numbers = {s.detail.split()[0]: s.n for s in scored(real, made)[::3]}
    assert numbers == {"gcc": 4, "snow_frac": 1}


def test_too_few_places_with_a_change_are_refused() -> None:
    real, made = changes_by_hand()
    direction, _, rank = scored(real, made)
    assert direction.value is None
    assert direction.flag == "refused: pairs of 4 places, 5 needed"
    assert rank.value is not None


def test_a_copy_is_perfect_and_a_climatology_of_years_has_no_direction() -> None:
    table = made_table(num_places=8, years=3)
    real = with_index(table, 0.1 * noise(table, 1) + np.cos(table["month_index"]))
    scores = pair_scores(real, {"a": real}, QUICK)
    assert [score.value for score in find(scores, system="a")] == pytest.approx([1, 1, 1])
    direction, ratio, rank = find(scores, system="month_only")
    assert (direction.value, ratio.value) == (0, 0)
    assert rank.value is None
    assert "constant" in rank.flag
    assert not find(scores, system=OBSERVED)


def test_months_of_a_year_are_easy_for_a_climatology() -> None:
    table = made_table(num_places=8)
    real = with_index(table, 0.05 * noise(table, 1) + np.cos(table["month_index"] * np.pi / 6))
    direction = find(pair_scores(real, {}, QUICK), system="month_only")[0]
    assert direction.detail == f"gcc | {OTHER_MONTHS}"
    assert direction.value > 0.9


def test_only_pairs_that_both_sides_have_count() -> None:
    table = made_table(num_places=6)
    real = with_index(table, noise(table, 1))
    made = real.iloc[12:].copy()
    made.iloc[0, made.columns.get_loc("gcc")] = np.nan
    assert scored(real, made.sample(frac=1, random_state=0))[2].n == 4 * 66 + 55


def test_land_covers_with_too_few_places_are_refused_in_one_row_a_metric() -> None:
    table = made_table(num_places=6)
    table.loc[table["place"] == "p05", "land_cover"] = "Croplands"
    real = with_index(table, noise(table, 1))
    scores = scored(real, real, EvaluateConfig(num_draws=20))
    small = find(scores, group="Croplands")
    assert {score.metric for score in small} == set(vegetation_pairs.METRICS)
    assert {score.flag for score in small} == {"refused: 1 places, 5 needed"}
