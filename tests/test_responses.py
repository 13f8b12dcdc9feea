"""Response to climate: planted in a made-up world, and found with its size."""

from dataclasses import replace

import numpy as np
import pytest

from ecomap import responses
from ecomap.evaluate_config import EvaluateConfig
from ecomap.response_cases import RESPONSES, annual_precipitation, is_cold_case, is_dry_case
from ecomap.response_statistics import Curves, Row, across_places, case_values, scatter_of
from ecomap.responses import CASE_SEEDS, METRICS, read_real, response_scores
from ecomap.schema import LandCover
from ecomap.scores import OBSERVED, find
from ecomap.tiles import Frame
from tests.made_world import Painter, made_up_world, painter_maker, picture, scored

CONFIG = EvaluateConfig(num_draws=200)
GREEN, SNOW = "gcc ~ precipitation_mm_day", "snow_frac ~ temperature_c"
RAIN, HEAT = RESPONSES


@pytest.fixture(scope="module")
def world():
    return made_up_world()


@pytest.fixture(scope="module")
def answered(world, tmp_path_factory):
    """One full run, shared by the tests that only read it."""
    painter, lines = Painter(), []
    maker = painter_maker(tmp_path_factory.mktemp("responses"), painter)
    pool = [tile for tile in world.tiles if tile.split == "test"]
    scores = response_scores(maker, pool, world, CONFIG, num_cases=9, progress=lines.append)
    return scores, painter, maker, lines


def one(scores, **fields):
    (score,) = find(scores, **({"group": "all"} | fields))
    return score


def test_generated_slopes_are_those_of_the_law(answered):
    snow = one(answered[0], metric="response_slope", detail=f"{SNOW} | sustained change")
    assert snow.value == pytest.approx(-0.05, abs=0.004)
    assert snow.low <= snow.value <= snow.high < 0
    assert (snow.system, snow.section, snow.n) == ("generated", "response", 9)
    green = one(answered[0], metric="response_slope", detail=f"{GREEN} | sustained change")
    # d/dP of (60 + 10 P) / (180 + 10 P) is 0.037 at P = 0 and 0.024 at 4.5, less where snow lies
    assert 0.01 < green.value < 0.05
    for detail in (f"{SNOW} | sustained change", f"{GREEN} | sustained change"):
        for metric, value in (("expected_sign", 1), ("opposite_sign", 0), ("monotonicity", 1)):
            assert one(answered[0], metric=f"response_{metric}", detail=detail).value == value
        assert one(answered[0], metric="response_rank", detail=detail).value > 0.95


def test_observed_slopes_stand_beside_them_and_their_ratio_is_one(answered):
    for end in ("across places of a class", "within places"):
        real = one(answered[0], system=OBSERVED, detail=f"{SNOW} | {end}")
        assert real.value == pytest.approx(-0.05, abs=0.004)
        assert real.low <= real.value <= real.high
    ratio = one(answered[0], metric="response_ratio", detail=f"{SNOW} | sustained change")
    assert ratio.value == pytest.approx(1, abs=0.08)
    assert ratio.low < ratio.value < ratio.high
    assert one(answered[0], system=OBSERVED, detail=f"{GREEN} | within places").value > 0


def test_the_curve_is_the_change_of_the_index_dose_by_dose(answered):
    doses = ("-4", "-2", "+0", "+2", "+4")
    curve = [
        one(answered[0], metric="response_curve", detail=f"{SNOW} | sustained change {dose}").value
        for dose in doses
    ]
    assert curve == pytest.approx([0.2, 0.1, 0, -0.1, -0.2], abs=0.02)
    assert curve[2] == 0


def test_the_model_is_asked_for_graded_changes_with_one_noise_a_case(answered):
    records = [r for call in answered[1].calls for r in call[0]]
    seeds = [s for call in answered[1].calls for s in call[1]]
    assert len(records) == 2 * 9 * 5
    for start in range(0, 90, 5):
        case = records[start : start + 5]
        assert len({record.tile_id for record in case}) == 1
        assert len(set(seeds[start : start + 5])) == 1
        if start < 45:
            rain = [record.precipitation_mm_day for record in case]
            assert rain == pytest.approx([rain[2] * x for x in (0.5, 0.75, 1, 1.25, 1.5)])
            normals = [np.mean(record.precipitation_mm_day_normals) for record in case]
            assert normals == pytest.approx([normals[2] * x for x in (0.5, 0.75, 1, 1.25, 1.5)])
        else:
            heat = [record.temperature_c for record in case]
            assert heat == pytest.approx([heat[2] + x for x in (-4, -2, 0, 2, 4)])
    assert sorted(set(seeds)) == list(range(CASE_SEEDS, CASE_SEEDS + 9))
    assert {record.split for record in records} == {"test"}
    assert answered[3] == ["response: greenness_to_precipitation", "response: snow_to_temperature"]


def test_each_land_cover_has_its_rows_and_their_cases_add_up(answered):
    for detail in (f"{SNOW} | sustained change", f"{GREEN} | sustained change"):
        rows = find(answered[0], metric="response_slope", detail=detail, group_kind="land_cover")
        assert sum(row.n for row in rows) == 9
        assert {row.group for row in rows} <= {"Grasslands", "Mixed Forests"}
    assert {score.metric for score in answered[0]} == set(METRICS)


def test_a_second_run_makes_nothing_and_gives_the_same(answered, world):
    painter = Painter()
    maker = replace(answered[2], make=painter)
    pool = [tile for tile in world.tiles if tile.split == "test"]
    assert response_scores(maker, pool, world, CONFIG, num_cases=9) == answered[0]
    assert not painter.calls


def test_a_model_that_pays_no_heed_does_not_respond(world, tmp_path):
    def deaf(records, seeds, doors):
        return np.stack([picture(0.0, 2.0, seed, (16, 16)) for seed in seeds])

    pool = [tile for tile in world.tiles if tile.split == "test"]
    scores = response_scores(painter_maker(tmp_path, deaf), pool, world, CONFIG, num_cases=5)
    for metric in ("slope", "expected_sign", "opposite_sign", "monotonicity", "rank", "ratio"):
        for row in find(scores, system="generated", metric=f"response_{metric}", group="all"):
            assert row.value == pytest.approx(0, abs=1e-12)


def test_cases_that_cannot_be_made_or_read_are_counted(world, tmp_path):
    hot = scored("hot", 3, temperature=[0.0] * 11 + [-74.0], land_cover=LandCover.GRASSLANDS)
    bare = replace(scored("bare", 3, temperature=[0.0] * 11 + [-1.0]), record=None)
    good = scored("good", 3, temperature=[0.0] * 11 + [-1.0])
    dark = scored("dark", 3, temperature=[0.0] * 11 + [-1.0])

    def make(records, seeds, doors):
        images = Painter()(records, seeds, doors)
        for image, record in zip(images, records, strict=True):
            is_dark = record.location_id == "dark" and record.precipitation_mm_day < 2
            image[:] = 0 if is_dark else image
        return images

    maker = painter_maker(tmp_path, make)
    curves = responses.make_curves(HEAT, [hot, bare, good, dark], maker, seed=0)
    assert [case.key for case in curves.cases] == [good.key, dark.key]
    assert curves.left_out == {
        "without a record": 1, "changed beyond what is possible on Earth": 1,
    }  # fmt: skip
    green = responses.make_curves(RAIN, [good, dark], maker, seed=0)
    assert [case.key for case in green.cases] == [good.key]
    assert green.left_out == {"with an image that cannot be read": 1}
    row = find(responses.generated_scores(RAIN, green, CONFIG), group="all")[0]
    assert "left out: 1 with an image that cannot be read" in row.flag


def test_real_tiles_are_read_clear_and_once_each(world, monkeypatch):
    tiles = [replace(tile, cloud_frac=0.5 if tile.month == "2004-07" else None)
             for tile in world.tiles]  # fmt: skip
    frames = [None if tile.month == "2004-06" else frame
              for tile, frame in zip(tiles, world.frames, strict=True)]  # fmt: skip
    album = replace(world, tiles=tiles, frames=frames)
    real = read_real(RAIN, album, CONFIG)
    fitting = [tile for tile in tiles if RAIN.fits(tile)]
    assert len(real.cases) + sum(real.left_out.values()) == len(fitting)
    assert set(real.left_out) == {"cloudy", "unreadable"}
    assert not {"2004-06", "2004-07"} & {case.month for case in real.cases}
    monkeypatch.setattr(responses, "MAX_OBSERVED", 7)
    few = read_real(RAIN, album, CONFIG)
    assert len(few.cases) + few.left_out["unreadable"] == 7
    assert few.left_out["beyond the 7 that are read"] > 0


def test_without_cases_the_rows_say_so(world, tmp_path):
    scores = response_scores(painter_maker(tmp_path), [], world, CONFIG, num_cases=5)
    rows = find(scores, system="generated")
    assert {row.metric for row in rows} == set(METRICS)
    for row in rows:
        assert (row.value, row.low, row.high, row.n) == (None, None, None, 0)
        assert "no tile fulfils the rule" in row.flag
    assert one(scores, system=OBSERVED, detail=f"{SNOW} | within places").value is not None


def case_of(name, block_lon=0.0, **fields):
    return scored(name, 1, lon=block_lon, **fields)


def test_slopes_are_taken_inside_strata_and_drawn_by_blocks():
    # slope 2 in both strata, whose levels lie the other way round
    cases = [case_of(n, lon) for n, lon in zip("abcdef", (0, 0, 0, 50, 50, 90), strict=True)]
    level = np.array([0.0, 1, 2, 10, 11, 5])[:, None]
    index = np.array([100.0, 102, 104, 0, 2, 7])[:, None]
    strata = list("aaabbc")
    exact = scatter_of(Curves(cases, level, index), strata)
    assert exact.slope == pytest.approx(2)
    noisy = Curves(cases, level, index + np.array([3.0, 0, 0, 0, 0, 0])[:, None])
    # deviations of x: -1 0 1 and -.5 .5; of the noise: 2 -1 -1; products add up to -3
    row = Row(OBSERVED, "d", "all", noisy, CONFIG).slope(scatter_of(noisy, strata))
    assert row.value == pytest.approx(2 - 3 / 2.5)
    assert (row.low, row.high) == (pytest.approx(0.5), pytest.approx(2))
    assert (row.n, row.num_blocks) == (6, 3)


def test_shares_have_intervals_over_blocks():
    cases = [case_of(n, lon) for n, lon in zip("abcd", (0, 0, 50, 90), strict=True)]
    empty = np.zeros((4, 1))
    row = Row("generated", "d", "all", Curves(cases, empty, empty), CONFIG)
    found = row.mean("response_expected_sign", np.array([1.0, 1, 0, 0]))
    assert found.value == 0.5
    assert (found.low, found.high) == (0, 1)
    assert found.flag == "few places: 4"
    alone = Row("generated", "d", "all", Curves(cases[:2], empty[:2], empty[:2]), CONFIG)
    found = alone.mean("response_expected_sign", np.array([1.0, 0]))
    assert (found.value, found.low, found.high) == (0.5, None, None)
    assert "no interval: one block" in found.flag


def test_intervals_have_the_level_that_is_asked_for():
    cases = [case_of(str(i), 10.0 * i) for i in range(16)]
    values = np.random.default_rng(0).normal(size=16)
    widths = []
    for level in (0.5, 0.95):
        config = EvaluateConfig(num_draws=2000, level=level)
        curves = Curves(cases, np.zeros((16, 1)), np.zeros((16, 1)))
        found = Row("generated", "d", "all", curves, config).mean("response_curve", values)
        widths.append(found.high - found.low)
    # a normal variable: 2 * 0.674 and 2 * 1.960 standard errors
    error = values.std() / 4
    assert widths == pytest.approx([1.349 * error, 3.92 * error], rel=0.1)


def test_signs_and_order_of_each_case_by_hand():
    level = np.tile([-4.0, -2, 0, 2, 4], (5, 1))
    index = np.array(
        [
            [0.8, 0.6, 0.4, 0.2, 0.0],  # as expected, in order
            [0.8, 0.4, 0.6, 0.2, 0.0],  # as expected, one step back
            [0.0, 0.2, 0.4, 0.6, 0.8],  # the other way
            [0.3, 0.3, 0.3, 0.3, 0.3],  # not at all
            [0.305, 0.3, 0.3, 0.3, 0.3],  # by less than the tolerance
        ]
    )
    cases = [case_of(name) for name in "abcde"]
    found = case_values(HEAT, Curves(cases, level, index))
    assert found["response_expected_sign"].tolist() == [1, 1, 0, 0, 0]
    assert found["response_opposite_sign"].tolist() == [0, 0, 1, 0, 0]
    assert found["response_monotonicity"].tolist() == [1, 0, 0, 0, 0]
    assert found["response_rank"][:4] == pytest.approx([1, 0.9, -1, 0])


def test_places_of_a_class_are_compared_within_a_month():
    cases = [
        scored("a", 1, land_cover=LandCover.GRASSLANDS),
        scored("b", 1, land_cover=LandCover.GRASSLANDS),
        scored("c", 1, land_cover=LandCover.MIXED_FORESTS),
        scored("d", 2, land_cover=LandCover.GRASSLANDS),
        scored("e", 1, land_cover=None),
        scored("f", 1, land_cover=None),
    ]
    level, index = np.array([0.0, 2, 50, 70, 1, 2]), np.array([1.0, 5, 9, 90, 0, 100])
    found = across_places(Curves(cases, level[:, None], index[:, None]))
    assert found.slope == pytest.approx(2)
    assert len(found.climate) == 4


def test_slopes_are_undefined_where_climate_does_not_vary():
    cases = [case_of("a"), case_of("b", 50.0)]
    same = Curves(cases, np.ones((2, 1)), np.array([[1.0], [2.0]]))
    row = Row(OBSERVED, "d", "all", same, CONFIG).slope(scatter_of(same, ["s", "s"]))
    assert row.value is None
    assert "climate does not vary" in row.flag


def test_the_ratio_draws_both_slopes_of_a_block_together(world):
    tiles = [tile for tile in world.tiles if tile.month == "2004-04"]
    level = np.array([tile.climate["temperature_c"] for tile in tiles])[:, None]
    index = -0.05 * level + np.random.default_rng(0).normal(0, 0.1, level.shape)
    real, doubled = (across_places(Curves(tiles, level, i)) for i in (index, 2 * index))
    row = Row("generated", "d", "all", Curves(tiles, level, index), CONFIG)
    slope, ratio = row.slope(real), row.ratio(doubled, real)
    assert slope.high - slope.low > 0.005
    # the slopes differ from draw to draw, their ratio does not
    assert (ratio.value, ratio.low, ratio.high) == pytest.approx((2, 2, 2))
    assert ratio.num_blocks == slope.num_blocks == len({tile.block for tile in tiles})


@pytest.mark.parametrize(
    ("fields", "is_case"),
    [
        ({"temperature": [5.0] * 12}, True),
        ({"temperature": [4.9] * 12}, False),
        ({"land_cover": LandCover.MIXED_FORESTS}, False),
        ({"land_cover": LandCover.MIXED_FORESTS, "precipitation": [1.64] * 12}, True),
        ({"land_cover": LandCover.MIXED_FORESTS, "precipitation": [1.65] * 12}, False),
        ({"land_cover": LandCover.WOODY_SAVANNAS}, False),
        ({"land_cover": LandCover.BARREN, "precipitation": [0.0] * 12}, False),
        ({"temperature_c": None}, False),
        ({"precipitation_mm_day_normals": None}, True),
        ({"precipitation_mm_day_normals": None, "precipitation_mm_day_history": None}, False),
    ],
)
def test_dry_cases(fields, is_case):
    assert is_dry_case(scored(**fields)) == is_case


@pytest.mark.parametrize(
    ("temperature", "cover", "is_case"),
    [
        ([-10.0] + [8.0] * 11, LandCover.GRASSLANDS, True),
        ([-10.1] + [8.0] * 11, LandCover.GRASSLANDS, False),
        ([5.0] * 11 + [-0.1], LandCover.GRASSLANDS, True),
        ([5.1] * 11 + [-0.1], LandCover.GRASSLANDS, False),
        ([3.0] * 12, LandCover.GRASSLANDS, False),
        ([-10.0] + [8.0] * 11, LandCover.SNOW_AND_ICE, False),
    ],
)
@pytest.mark.parametrize("known", [{}, {"temperature_c_normals": None}])
def test_cold_cases(temperature, cover, is_case, known):
    assert is_cold_case(scored(temperature=temperature, land_cover=cover, **known)) == is_case


def test_the_year_is_that_of_normals_or_the_twelve_months_up_to_the_tiles_own():
    rain = [float(month) for month in range(12)]
    assert annual_precipitation(scored(precipitation=rain)) == 5.5
    history = (100.0, *rain[1:])
    own = scored(precipitation_mm_day_normals=None, precipitation_mm_day_history=history,
                 precipitation_mm_day=24.0)  # fmt: skip
    assert annual_precipitation(own) == (sum(rain[1:]) + 24) / 12
    gap = (100.0, None, *rain[2:])
    unknown = scored(precipitation_mm_day_normals=None, precipitation_mm_day_history=gap)
    assert np.isnan(annual_precipitation(unknown))


def test_a_case_knows_what_will_be_changed():
    tile = scored(precipitation_mm_day=None)
    assert is_dry_case(tile)
    assert not RAIN.fits(tile)
    assert RAIN.fits(scored())


def test_masked_pixels_are_not_read(world):
    rgb = picture(-10.0, 1.0, 0)
    valid = np.ones(rgb.shape[:2], bool)
    rgb[:, :20] = (60, 200, 60)
    valid[:, :20] = False
    tile = scored("a", 1, temperature=[0.0] * 11 + [-1.0])
    album = replace(world, tiles=[tile], frames=[Frame(rgb=rgb, valid=valid)])
    assert read_real(HEAT, album, CONFIG).index[0, 0] == 1


def test_a_ratio_to_a_slope_that_may_be_zero_has_no_interval(world):
    tiles = [tile for tile in world.tiles if tile.month == "2004-04"]
    level = np.array([tile.climate["temperature_c"] for tile in tiles])[:, None]
    chance = np.random.default_rng(0).normal(0, 1, level.shape)
    made, seen = (across_places(Curves(tiles, level, i)) for i in (-0.05 * level, chance))
    ratio = Row("generated", "d", "all", Curves(tiles, level, chance), CONFIG).ratio(made, seen)
    assert (ratio.low, ratio.high) == (None, None)
    assert "does not differ from 0" in ratio.flag
