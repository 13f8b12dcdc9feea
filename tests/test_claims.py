"""Claims: each verdict follows its stated criterion, and what is not known stays undecided."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from ecomap.claims import MIN_BLOCKS, blocks_of, claims, greenness_test, in_words, paired_test
from ecomap.errors import RequestError
from ecomap.scores import OBSERVED
from tests.made_report import CONFIG, NOISE, make_score, make_scores, make_tables

ANOMALY = "anomaly_pearson_given_place_and_month"
TABLES = make_tables()


def judge(key, scores=(), tables=None, system="generated"):
    found = claims(list(scores), tables or {}, CONFIG, system=system)
    (claim,) = [claim for claim in found if claim.key == key]
    return claim


def verdict(key, *scores, tables=None):
    return judge(key, scores, tables).verdict


def test_a_paired_test_by_hand():
    test = paired_test([1.0, 2.0, 3.0, 9.0], [2.0, 2.0, 5.0, np.nan], ["x", "x", "y", "y"])
    assert (test.mean_a, test.mean_b, test.difference) == (2.0, 3.0, 1.0)
    assert (test.n, test.num_blocks, test.num_left_out) == (3, 2, 1)
    # blocks hold mean differences 0.5 (two images) and 2 (one): draws give 0.5, 1 or 2
    assert (test.low, test.high) == (0.5, 2.0)
    assert test.p_value == 0.5  # both signed ranks positive: 2 / 2^2
    assert test.sign is None


@pytest.mark.parametrize(("num", "least"), [(5, 0.0625), (MIN_BLOCKS, 0.03125)])
def test_the_fewest_blocks_are_those_with_which_a_signed_rank_test_can_decide(num, least):
    change = np.arange(1.0, num + 1)
    test = paired_test(np.zeros(num), change, [f"b{i}" for i in range(num)])
    assert test.p_value == least
    assert test.sign == (1 if num == MIN_BLOCKS else None)


def test_the_signed_rank_test_sees_the_mean_of_each_block():
    rng = np.random.default_rng(1)
    sizes = [1, 9, 2, 8, 3, 7, 4, 6, 5, 12]
    parts = [rng.normal(0.2, 1, size) for size in sizes]
    blocks = np.repeat([f"b{i}" for i in range(10)], sizes)
    expected = stats.wilcoxon([part.mean() for part in parts]).pvalue
    assert expected != stats.wilcoxon([part.sum() for part in parts]).pvalue
    change = np.concatenate(parts)
    assert paired_test(np.zeros(len(change)), change, blocks).p_value == pytest.approx(expected)


def test_the_interval_draws_blocks_and_not_images():
    # Two kinds of block, each of 50 equal images: drawn one by one the interval would be narrow.
    change = np.repeat([0.0, 1.0] * 4, 50)
    blocks = np.repeat([f"b{i}" for i in range(8)], 50)
    test = paired_test(np.zeros(400), change, blocks)
    assert test.high - test.low > 0.5
    single = paired_test(np.zeros(400), change, [f"i{i}" for i in range(400)])
    assert single.high - single.low < 0.15


@settings(max_examples=25, deadline=None)
@given(st.lists(st.floats(-5, 5), min_size=14, max_size=14), st.integers(0, 5))
def test_exchanging_the_systems_turns_the_sign(values, seed):
    a, b = values[:7], values[7:]
    blocks = list("abcdefg")
    there = paired_test(a, b, blocks, num_draws=50, seed=seed)
    back = paired_test(b, a, blocks, num_draws=50, seed=seed)
    assert back.difference == pytest.approx(-there.difference)
    assert back.p_value == pytest.approx(there.p_value)
    assert (back.low, back.high) == pytest.approx((-there.high, -there.low))
    assert back.sign == -there.sign


def test_equal_values_have_no_difference_and_no_p_value():
    test = paired_test([1.0] * 7, [1.0] * 7, list("abcdefg"))
    assert (test.difference, test.low, test.high, test.p_value, test.sign) == (0, 0, 0, None, 0)


@pytest.mark.parametrize("a", [[np.nan], []])
def test_nothing_to_compare_is_no_error(a):
    test = paired_test(a, a, ["x"] * len(a))
    assert (test.n, test.difference, test.sign, test.num_left_out) == (0, None, None, len(a))


def test_one_block_has_no_interval():
    test = paired_test([1.0, 2.0], [2.0, 2.0], ["x", "x"])
    assert (test.difference, test.low, test.high, test.num_blocks) == (0.5, None, None, 1)


def test_draws_and_level_and_seed_decide_the_interval():
    rng = np.random.default_rng(0)
    a, b, blocks = np.zeros(40), rng.normal(size=40), [f"b{i}" for i in range(40)]
    wide, narrow = (paired_test(a, b, blocks, level=level) for level in (0.99, 0.5))
    assert wide.low < narrow.low < narrow.high < wide.high
    assert paired_test(a, b, blocks, seed=1) != paired_test(a, b, blocks)
    assert paired_test(a, b, blocks, num_draws=20) != paired_test(a, b, blocks)


def test_unequal_lengths_are_refused():
    with pytest.raises(RequestError, match=r"got \(2,\) and \(3,\) values in \(2,\) blocks"):
        paired_test([1, 2], [1, 2, 3], ["a", "b"])


def test_an_image_without_block_is_a_block_of_its_own():
    table = pd.DataFrame({"block": ["4,0", None, None]}, index=["k1", "k2", "k3"])
    assert blocks_of(table).tolist() == ["4,0", "image k2", "image k3"]


def test_numbers_in_words():
    assert in_words(0.0, -1.0, 1.0) == "0 [-1, 1]"
    assert in_words(1.23456, None, 2.0) == "1.23"
    assert in_words(None, 1.0, 2.0) == "n/a"
    assert in_words(-1.2e-18, -3e-13, 2e-12) == "0 [0, 2e-12]"


OWN = {"metric": ANOMALY, "value": 0.4, "low": 0.25, "high": 0.5}
NULL = {"system": "shuffled_climate", "metric": ANOMALY, "value": 0.0, "low": -0.1, "high": 0.1}


@pytest.mark.parametrize(
    ("own", "null", "expected"),
    [
        (OWN, NULL, "supported"),
        (OWN, NULL | {"high": 0.3}, "not supported"),
        (OWN, NULL | {"low": None, "high": None}, "supported"),
        (OWN, NULL | {"low": None, "high": None, "value": 0.3}, "not supported"),
        (OWN | {"low": -0.01}, NULL | {"value": -0.3, "high": -0.2}, "not supported"),
        (OWN | {"low": None, "value": None}, NULL, "undecided"),
        (OWN | {"p_value": 0.01}, None, "undecided"),
        (OWN | {"p_value": 0.01}, NULL | {"high": 0.3}, "not supported"),
        (OWN | {"num_blocks": 9}, NULL, "undecided"),
        (OWN, None, "undecided"),
        (OWN | {"low": -0.1}, None, "not supported"),
        (OWN | {"detail": "snow_frac"}, NULL, "undecided"),
        (OWN | {"group_kind": "land_cover", "group": "Grasslands"}, NULL, "undecided"),
        (None, NULL, "undecided"),
    ],
)
def test_following_the_climate_needs_an_interval_above_zero_and_above_the_null(own, null, expected):
    scores = [make_score(**fields) for fields in (own, null) if fields]
    assert verdict("follows_climate", *scores) == expected


def test_following_the_weather_is_judged_against_other_years_of_the_place():
    season = {"metric": "anomaly_pearson_deseasonalised"}
    scores = [make_score(**OWN | season), make_score(**NULL | season)]
    assert verdict("follows_weather", *scores) == "supported"
    assert verdict("follows_climate", *scores) == "undecided"
    assert "calendar month of several years" in judge("follows_weather").criterion


def test_evidence_names_the_numbers_and_what_is_missing():
    claim = judge("follows_climate", [make_score(**OWN, flag="5 blocks: too narrow")])
    assert claim.evidence == (
        "Correlation of the anomalies 0.4 [0.25, 0.5] (n = 144, 12 blocks; 5 blocks: too narrow)",
        "with another place's climate: not measured",
    )
    claim = judge("follows_climate", [make_score(**OWN | {"num_blocks": None})])
    assert claim.evidence[0] == "Correlation of the anomalies 0.4 [0.25, 0.5] (n = 144)"
    assert claim.evidence[-1] == "with another place's climate: not measured"


def test_greenness_is_better_than_that_of_a_worse_baseline_and_not_of_an_equal_one():
    assert verdict("better_than_copying", tables=TABLES) == "supported"
    assert verdict("better_than_climatology", tables=TABLES) == "supported"
    assert verdict("better_than_analogue", tables=TABLES) == "not supported"
    worse = make_tables(noise=NOISE | {"generated": 0.09})
    assert verdict("better_than_copying", tables=worse) == "not supported"


def test_every_baseline_that_could_be_made_must_be_beaten():
    strong = TABLES | {"previous_year": TABLES["autoencoder"]}
    claim = judge("better_than_copying", tables=strong)
    assert claim.verdict == "not supported"
    assert [line.split(":")[0] for line in claim.evidence] == ["persistence", "previous year"]
    weak = TABLES | {"previous_year": TABLES["shuffled_climate"]}
    assert verdict("better_than_copying", tables=weak) == "supported"
    few = weak["previous_year"][lambda table: table["place"].isin(["p0", "p1"])]
    assert verdict("better_than_copying", tables=weak | {"previous_year": few}) == "undecided"


@pytest.mark.parametrize("absent", ["generated", "persistence", OBSERVED])
def test_without_images_on_a_side_nothing_is_better(absent):
    claim = judge("better_than_copying", tables={k: v for k, v in TABLES.items() if k != absent})
    assert claim.verdict == "undecided"
    assert claim.evidence[0] == "persistence: no images to compare with"


def test_few_blocks_or_no_common_image_do_not_decide():
    few = {name: table[table["place"].isin(["p0", "p1", "p2"])] for name, table in TABLES.items()}
    assert verdict("better_than_copying", tables=few) == "undecided"
    apart = TABLES | {"persistence": TABLES["persistence"].rename("x{}".format)}
    claim = judge("better_than_copying", tables=apart)
    assert claim.verdict == "undecided"
    assert "error n/a against n/a, difference n/a on 0 images" in claim.evidence[0]


def test_the_greenness_test_by_hand():
    real, own = TABLES[OBSERVED]["gcc"], TABLES["generated"]["gcc"]
    copied = TABLES["persistence"]["gcc"]
    test = greenness_test(TABLES, "persistence", "generated", CONFIG)
    assert test.mean_a == pytest.approx((copied - real).abs().mean())
    assert test.mean_b == pytest.approx((own - real).abs().mean())
    assert (test.n, test.num_blocks) == (144, 12)


def test_rows_are_matched_by_key_and_cloudy_tiles_left_out():
    real = TABLES[OBSERVED].copy()
    real.loc[real.index[:3], "cloud_frac"] = [0.9, CONFIG.max_cloud_frac, 0.0]
    mixed = {name: table.sample(frac=1, random_state=1) for name, table in TABLES.items()}
    test = greenness_test(mixed | {OBSERVED: real}, "persistence", "generated", CONFIG)
    whole = greenness_test(TABLES, "persistence", "generated", CONFIG)
    assert test.n == 143
    assert test.mean_b == pytest.approx(whole.mean_b, rel=0.05)


PLACE_MONTH = "gcc ~ temperature_c lag 0 | given place and month"
WITHIN = "gcc ~ temperature_c lag 0 | within place"
RATIO = {"metric": "slope_ratio", "detail": WITHIN, "value": 0.9, "low": 0.7, "high": 1.2}
SLOPE = {"system": OBSERVED, "metric": "climate_slope", "detail": WITHIN, "value": 0.004}


@pytest.mark.parametrize(
    ("ratio", "observed", "expected"),
    [
        ({}, {"low": 0.003, "high": 0.005}, "supported"),
        ({}, None, "supported"),
        ({}, {"low": -0.001, "high": 0.005}, "undecided"),
        ({"low": 0.5, "high": 2.0}, None, "supported"),
        ({"low": 0.49}, None, "undecided"),
        ({"high": 2.01}, None, "undecided"),
        ({"low": -0.2}, None, "undecided"),
        ({"low": 0.1, "high": 0.49}, None, "not supported"),
        ({"low": 2.01, "high": 3.0}, None, "not supported"),
        ({"low": -3.0, "high": -0.6}, None, "not supported"),
        ({"low": None, "high": None}, None, "undecided"),
        ({"num_blocks": 9}, None, "undecided"),
        ({"num_blocks": 10}, None, "supported"),
    ],
)
def test_the_size_of_a_response_needs_a_ratio_within_a_factor_of_two(ratio, observed, expected):
    scores = [make_score(**RATIO | ratio)]
    scores += [make_score(**SLOPE | observed)] if observed else []
    assert verdict("response_size_temperature_c", *scores) == expected


def test_the_strictest_control_that_was_measured_decides():
    strict = RATIO | {"detail": PLACE_MONTH, "low": 0.1, "high": 0.4}
    both = [make_score(**RATIO), make_score(**strict)]
    claim = judge("response_size_temperature_c", both)
    assert claim.verdict == "not supported"
    assert "temperature of the month, given place and month, has" in claim.sentence
    refused = make_score(**strict | {"value": None, "low": None, "high": None, "flag": "refused"})
    claim = judge("response_size_temperature_c", [make_score(**RATIO), refused])
    assert claim.verdict == "supported"
    assert "within place" in claim.sentence
    assert verdict("response_size_temperature_c", refused) == "undecided"


def test_each_climate_variable_has_its_claim_and_other_indices_have_none():
    rain = RATIO | {"detail": "gcc ~ precipitation_mm_day lag 0 | within place"}
    snow = RATIO | {"detail": "snow_frac ~ temperature_c lag 0 | within place"}
    lagged = RATIO | {"detail": "gcc ~ temperature_c lag 1 | within place"}
    found = claims([make_score(**fields) for fields in (rain, snow, lagged)], {}, CONFIG)
    assert [c.key for c in found if c.key.startswith("response")] == [
        "response_size_precipitation_mm_day"
    ]
    assert verdict("response_size", make_score(**snow)) == "undecided"


def realism(space, distance, floor, *, n=144, floor_n=144):
    own, other = ({"value": v, "low": v - 8, "high": v + 8} for v in (distance, floor))
    row = {"section": "realism", "metric": "frechet_distance", "detail": space}
    return [make_score(**row, **own, n=n), make_score("real_vs_real", **row, **other, n=floor_n)]


@pytest.mark.parametrize(
    ("distance", "floor_n", "expected"),
    [
        (90.0, 144, "supported"),  # ends at 98, where the floor ends
        (90.1, 144, "undecided"),
        (106.0, 144, "undecided"),  # begins at 98
        (106.1, 144, "not supported"),
        (90.0, 72, "undecided"),  # the floor may be high because it has few images
        (106.1, 72, "not supported"),  # too far even from a floor that has few images
        (90.0, 288, "supported"),  # below even a floor with more images
        (106.1, 288, "undecided"),
    ],
)
def test_as_real_as_real_images_needs_the_floor_at_no_fewer_images(distance, floor_n, expected):
    assert verdict("looks_real", *realism("eo", distance, 90.0, floor_n=floor_n)) == expected


def test_every_feature_space_must_agree():
    near, far = realism("eo", 90.0, 90.0), realism("colour_texture", 200.0, 90.0)
    lonely = realism("clip", 90.0, 90.0)[:1]
    assert verdict("looks_real", *near, *far) == "not supported"
    assert verdict("looks_real", *near, *lonely) == "undecided"
    assert verdict("looks_real", *far, *lonely) == "not supported"
    assert verdict("looks_real") == "undecided"
    claim = judge("looks_real", [*near, *far])
    assert claim.evidence[1] == (
        "colour_texture: distance 200 [192, 208] (n = 144, 12 blocks); "
        "real against real 90 [82, 98] (n = 144, 12 blocks)"
    )


def test_a_refused_distance_or_a_floor_without_interval():
    own, floor = realism("eo", 90.0, 90.0)
    refused = make_score(**vars(own) | {"value": None, "low": None, "high": None})
    assert verdict("looks_real", refused, floor) == "undecided"
    bare = make_score(**vars(floor) | {"low": None, "high": None, "value": 81.9})
    assert verdict("looks_real", own, bare) == "not supported"


@pytest.mark.parametrize(
    ("low", "expected"), [(0.51, "supported"), (0.5, "not supported"), (None, "undecided")]
)
def test_forecast_skill_needs_more_than_half_of_the_places(low, expected):
    row = make_score(
        section="forecast", metric="forecast_outperformance", value=0.6, low=low, high=0.9
    )
    assert verdict("forecast_skill", row) == expected


def test_all_claims_of_a_report_in_their_order_and_only_of_the_system():
    found = claims(make_scores(), TABLES, CONFIG)
    assert [(claim.key, claim.verdict) for claim in found] == [
        ("follows_climate", "supported"),
        ("follows_weather", "undecided"),
        ("better_than_copying", "supported"),
        ("better_than_climatology", "supported"),
        ("better_than_analogue", "not supported"),
        ("response_size_temperature_c", "supported"),
        ("looks_real", "not supported"),
        ("forecast_skill", "undecided"),
    ]
    assert all(c.system == "generated" and c.evidence and c.criterion for c in found)
    other = claims(make_scores(), TABLES, CONFIG, system="mine")
    assert {claim.verdict for claim in other} == {"undecided"}
