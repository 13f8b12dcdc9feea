"""Adherence: scores worked by hand, nulls that know nothing, and planted faults."""

import numpy as np
import pandas as pd
import pytest

from ecomap.adherence import (
    METRICS,
    SHUFFLED,
    adherence_scores,
    mean_score,
    shuffle_conditions,
    shuffled_means,
    two_sided_p,
)
from ecomap.evaluate_config import EvaluateConfig
from ecomap.schema import LandCover
from ecomap.scores import Score, find
from ecomap.tiles import Measured, ScoredTile, tile_table

CONFIG = EvaluateConfig(num_draws=50, num_permutations=99, groups=("land_cover",))
SAVANNAS, BARREN = LandCover.SAVANNAS, LandCover.BARREN


def tile(where: int, number: int, **changes) -> ScoredTile:
    fields = {
        "key": f"p{where}/{number:02d}", "place": f"p{where}", "month": f"2004-{number:02d}",
        "lat": 20.0 * where - 30.0, "lon": 15.0 * where,
        "land_cover": SAVANNAS if where % 2 else BARREN,
        "climate": {"temperature_c": 10.0 * where, "precipitation_mm_day": float(number)},
    }  # fmt: skip
    return ScoredTile(**(fields | changes))


def measured(tiles, name="generated", **columns) -> Measured:
    table = tile_table(tiles).assign(**columns)
    return Measured(name=name, kind="generated", description="", table=table)


def truthful(tiles, name="generated", **changes) -> Measured:
    """A set of whose images all is read off rightly, up to the changes."""
    months = [int(t.month[5:]) for t in tiles]
    columns = {
        "predicted_land_cover": [int(t.land_cover) for t in tiles],
        "predicted_season_month": [
            (m + (6 if t.lat < 0 else 0) - 1) % 12 + 1 for m, t in zip(months, tiles, strict=True)
        ],
        "predicted_temperature_c": [t.climate["temperature_c"] for t in tiles],
        "predicted_precipitation_mm_day": [t.climate["precipitation_mm_day"] for t in tiles],
    }
    return measured(tiles, name, **(columns | changes))


def one(scores, **fields) -> Score:
    (found,) = find(scores, **fields)
    return found


FOUR = [tile(p, m) for p in range(4) for m in (1, 4, 7, 10)]


def test_every_metric_by_hand():
    tiles = [tile(0, 1), tile(1, 4, lat=-5.0), tile(2, 7), tile(3, 12)]
    system = measured(
        tiles,
        predicted_land_cover=[16, 9, 9, 16],  # barren, savannas; wrong, wrong
        # January at 30 S is July seen from the north: 1 month; April at 5 S is October: 0;
        # July: 6 months; December against January: 1 month
        predicted_season_month=[8, 10, 1, 1],
        predicted_temperature_c=[1.0, 8.0, 20.0, 25.0],  # true: 0, 10, 20, 30
        predicted_precipitation_mm_day=[1.0, 5.0, 7.0, 9.0],  # true: 1, 4, 7, 12
    )
    scores = adherence_scores(system, [system], CONFIG)
    expected = {
        "land_cover_accuracy": 0.5,
        "month_error": (1 + 0 + 6 + 1) / 4,
        "temperature_error": (1 + 2 + 0 + 5) / 4,
        "precipitation_error": (0 + 1 + 0 + 3) / 4,
    }
    for metric, value in expected.items():
        for name in ("observed", "generated"):
            score = one(scores, metric=metric, system=name, group_kind="all", detail="")
            assert score.value == pytest.approx(value), metric
            assert score.n == 4
            assert score.section == "adherence"
            assert score.flag == ""
    assert not find(scores, metric="solar_radiation_error")


def test_a_season_error_is_at_most_half_a_year_and_three_months_by_chance():
    tiles = [tile(1, month) for month in range(1, 13)]
    for said in (1, 6, 12):
        system = measured(tiles, predicted_season_month=[said] * 12)
        score = one(
            adherence_scores(system, [], CONFIG), metric="month_error", detail="", group="all"
        )
        assert score.value == pytest.approx(3.0)


def test_images_that_show_what_was_asked_differ_from_their_null_and_constant_ones_do_not():
    tiles = [tile(p, m, land_cover=LandCover(1 + p)) for p in range(8) for m in (1, 4, 7, 10)]
    right = truthful(tiles)
    constant = truthful(
        tiles,
        "constant",
        predicted_land_cover=3,
        predicted_season_month=5,
        predicted_temperature_c=30.0,
        predicted_precipitation_mm_day=2.0,
    )
    scores = adherence_scores(right, [right, constant], CONFIG)
    for metric in ("land_cover_accuracy", "month_error", "temperature_error"):
        score = one(scores, system="generated", metric=metric, group="all", detail="")
        null = one(scores, system="generated", metric=metric, detail=SHUFFLED)
        assert score.value == (1.0 if metric == "land_cover_accuracy" else 0.0)
        assert score.p_value < 0.05
        assert not null.low <= score.value <= null.high
        blind = one(scores, system="constant", metric=metric, group="all", detail="")
        null = one(scores, system="constant", metric=metric, detail=SHUFFLED)
        assert blind.p_value > 0.5, metric
        assert null.value == pytest.approx(blind.value, rel=0.25)


def test_scores_by_land_cover_are_means_of_their_own_tiles():
    errors = np.arange(16.0)
    truth = np.array([t.climate["temperature_c"] for t in FOUR])
    system = truthful(FOUR, predicted_temperature_c=truth + errors)
    scores = find(adherence_scores(system, [system], CONFIG), metric="temperature_error")
    is_barren = np.array([t.land_cover == BARREN for t in FOUR])
    for label, mask in ((BARREN.label, is_barren), (SAVANNAS.label, ~is_barren)):
        score = one(scores, system="generated", group=label)
        assert score.group_kind == "land_cover"
        assert score.value == pytest.approx(errors[mask].mean())
        assert score.n == 8
        assert score.p_value is None
    bare = CONFIG.model_copy(update={"groups": ("month",)})
    assert {s.group for s in adherence_scores(system, [system], bare)} == {"all"}


def test_intervals_draw_blocks_and_one_block_has_none():
    truth = np.array([t.climate["temperature_c"] for t in FOUR])
    by_place = np.repeat([0.0, 1.0, 2.0, 3.0], 4)
    system = truthful(FOUR, predicted_temperature_c=truth + by_place)
    score = one(
        adherence_scores(system, [], CONFIG), metric="temperature_error", group="all", detail=""
    )
    assert score.num_blocks == 4
    assert 0 <= score.low < 1.5 < score.high <= 3
    system = truthful([tile(1, m) for m in (1, 5)], predicted_temperature_c=0.0)
    score = one(
        adherence_scores(system, [], CONFIG), metric="temperature_error", group="all", detail=""
    )
    assert score.value == 10.0
    assert score.low is score.high is None
    assert "one block" in score.flag


def test_tiles_that_do_not_know_their_own_value_are_left_out_and_counted():
    tiles = [tile(0, 1), tile(1, 1, lat=None), tile(2, 1, month=None, climate={}),
             tile(3, 1, land_cover=None)]  # fmt: skip
    system = measured(
        tiles, predicted_season_month=[7] * 4, predicted_temperature_c=[1.0] * 4,
        predicted_land_cover=[16] * 4, predicted_precipitation_mm_day=[1.0] * 4,
    )  # fmt: skip
    scores = adherence_scores(system, [], CONFIG)
    month = one(scores, metric="month_error", detail="", group="all")
    assert (month.n, month.value) == (2, 3.0)  # July seen from 30 S; January at 30 N is 6 away
    assert "2 tiles that do not know theirs left out" in month.flag
    assert one(scores, metric="temperature_error", detail="", group="all").n == 3
    assert one(scores, metric="land_cover_accuracy", detail="", group="all").n == 3


def test_where_nothing_is_known_or_predicted_nothing_is_made_up():
    unknown = measured([tile(1, 1, climate={})], predicted_temperature_c=[3.0])
    (score,) = adherence_scores(unknown, [], CONFIG)
    assert score.value is None
    assert score.flag == "no tile knows its own value"
    assert adherence_scores(measured(FOUR), [measured(FOUR)], CONFIG) == []


def test_solar_radiation_is_scored_where_it_was_trained():
    tiles = [tile(1, 1, climate={"solar_radiation_mj_m2_day": 20.0}), tile(2, 2)]
    system = measured(tiles, predicted_solar_radiation_mj_m2_day=[17.0, 5.0])
    score = one(adherence_scores(system, [], CONFIG), detail="", group="all")
    assert (score.metric, score.value, score.n) == ("solar_radiation_error", 3.0, 1)


def test_shuffling_moves_whole_places_and_keeps_neighbouring_months_together():
    tiles = [tile(p, m) for p in range(5) for m in (2, 5, 8, 11)]
    order = np.random.default_rng(0).permutation(20)
    table = tile_table([tiles[i] for i in order])
    rng = np.random.default_rng(1)
    turned = set()
    for donors in shuffle_conditions(table, rng, 20):
        assert sorted(donors) == list(range(20))
        given = pd.DataFrame(
            {
                "place": table["place"].to_numpy(),
                "month": table["month_index"].to_numpy(),
                "donor": table["place"].to_numpy()[donors],
                "donor_month": table["month_index"].to_numpy()[donors],
            }
        )
        assert given.groupby("place")["donor"].nunique().eq(1).all()
        assert given.drop_duplicates("place")["donor"].nunique() == 5
        shift = (given["donor_month"] - given["month"]) % 12
        assert shift.groupby(given["place"]).nunique().eq(1).all()
        turned |= set(shift)
    assert turned == {0, 3, 6, 9}


def test_places_of_different_sizes_and_tiles_without_a_place_can_be_shuffled():
    tiles = [tile(0, m) for m in (1, 2, 3)] + [tile(1, 1), tile(2, 1, place=None)]
    table = tile_table(tiles)
    seen = {tuple(donors) for donors in shuffle_conditions(table, np.random.default_rng(0), 40)}
    assert len(seen) > 10
    assert all(set(found) <= set(range(5)) for found in seen)
    assert any(found[4] != 4 for found in seen)


def test_p_values_are_two_sided_and_never_zero():
    null = np.arange(1.0, 100.0)
    assert two_sided_p(0.0, null) == pytest.approx(2 * 1 / 100)
    assert two_sided_p(200.0, null) == pytest.approx(2 * 1 / 100)
    assert two_sided_p(3.0, null) == pytest.approx(2 * 4 / 100)
    assert two_sided_p(50.0, null) == 1.0
    assert two_sided_p(1.0 + 1e-12, np.ones(9)) == 1.0
    assert two_sided_p(None, null) is None


def test_p_values_of_images_that_ignore_their_conditions_are_even():
    # Places whose images lean one way together: 200 small worlds, of which about 5 % have p < 0.05.
    config = CONFIG.model_copy(update={"num_permutations": 59})
    table = tile_table([tile(p, m) for p in range(10) for m in (1, 4, 7, 10)])
    own = table["temperature_c"].to_numpy()
    low = 0
    for seed in range(200):
        rng = np.random.default_rng(seed)
        read = np.repeat(rng.normal(50, 40, 10), 4) + rng.normal(0, 5, 40)
        null = shuffled_means(table, lambda donors, read=read: np.abs(read - own[donors]), config)
        low += two_sided_p(np.abs(read - own).mean(), null) < 0.05
    assert low <= 20  # 10 expected; binomial, above 20 in 0.1 % of the cases


def test_the_same_seed_gives_the_same_scores_and_all_metrics_are_described():
    system = truthful(FOUR)
    assert adherence_scores(system, [system], CONFIG) == adherence_scores(system, [system], CONFIG)
    assert {s.metric for s in adherence_scores(system, [], CONFIG)} <= set(METRICS)
    assert METRICS["land_cover_accuracy"].better == "higher"
    assert METRICS["temperature_error"].unit == "°C"


def test_a_mean_keeps_what_is_known_already():
    base = Score(system="a", section="adherence", metric="m", detail="d", value=None, n=0)
    score = mean_score(base, [1.0, 3.0], ["x", "y"], CONFIG)
    assert (score.value, score.n, score.num_blocks, score.detail) == (2.0, 2, 2, "d")
