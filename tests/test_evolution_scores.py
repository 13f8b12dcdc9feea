"""Pairs of months and their scores, on a made-up world whose law of climate and colour is known."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from ecomap.baseline_sets import MeanFrame
from ecomap.errors import RequestError
from ecomap.evaluate_config import EvaluateConfig
from ecomap.evolution_climatology import CLASS_INDEX, class_month_indices
from ecomap.evolution_ensemble import ensemble_scores
from ecomap.evolution_gains import GENERATED, gains, goals
from ecomap.evolution_making import EvolutionMaker, check_size
from ecomap.evolution_pairs import ArrayImages, choose_pairs
from ecomap.evolution_scores import error_by_step, measure_pairs, score_pairs
from ecomap.evolution_structure import (
    EQUAL_DB,
    identity_scores,
    structure_correlation,
    structure_scores,
    structure_table,
)
from ecomap.evolution_sweeps import null_scores, ratio_scores, sweep_scores
from ecomap.image_subsets import take
from ecomap.imagery import read_image
from ecomap.indices import land_indices
from ecomap.response_cases import RESPONSES
from ecomap.response_statistics import Curves
from ecomap.schema import LandCover
from ecomap.scores import OBSERVED, Score, find
from ecomap.tiles import Frame
from tests.made_world import CARD, Album, blank, made_up_world, picture, scored

SIDE = 16
CONFIG = EvaluateConfig(
    num_places=12, months=(1, 4, 7, 10), num_draws=60, num_permutations=40, min_places=3,
    groups=("land_cover",), num_cases=4,
)  # fmt: skip
STARTS = (1, 7)
BRIGHTER = 2


def chosen(history=None, config=CONFIG, **changes):
    options = {"start_months": STARTS} | changes
    return choose_pairs(history or made_up_world(16, (SIDE, SIDE)), config, **options)


@pytest.fixture(scope="module")
def sets():
    return chosen()


@pytest.fixture(scope="module")
def measured(sets, tmp_path_factory):
    """A system whose images are the real ones, a little brighter, and all rivals."""
    real = sets.real()
    bright = np.stack([real.read(i).rgb for i in range(len(real.tiles))]) + np.uint8(BRIGHTER)
    system = ArrayImages(name=GENERATED, tiles=sets.tiles, images=bright)
    rivals, _ = sets.rivals(CONFIG)
    return measure_pairs(sets, [system], rivals, CONFIG, folder=tmp_path_factory.mktemp("measured"))


@pytest.fixture(scope="module")
def tables(measured):
    return {name: one.table for name, one in measured.items()}


@pytest.fixture(scope="module")
def scores(measured):
    return score_pairs(measured, CONFIG)


# -- pairs


def test_every_target_is_asked_for_once_from_each_start_month_but_its_own(sets):
    asked = [(p.tile.place, p.tile.month, p.series) for p in sets.pairs]
    assert len(asked) == len(set(asked)) == 12 * (4 * 2 - 2)
    tiles = sets.history.tiles
    for pair in sets.pairs:
        assert tiles[pair.start].place == tiles[pair.target].place == pair.tile.place
        assert tiles[pair.start].month[5:] in ("01", "07")
        assert tiles[pair.start].month != tiles[pair.target].month == pair.tile.month
        assert pair.tile.key == f"{tiles[pair.target].key} from {tiles[pair.start].month}"
    ahead = {(p.series[-2:], p.tile.month[5:]): p.months_ahead for p in sets.pairs}
    assert sets.dropped["pairs: the target is the start"] == 12 * 2
    assert ahead == {("01", "04"): 3, ("01", "07"): 6, ("01", "10"): 9,
                     ("07", "10"): 3, ("07", "01"): 6, ("07", "04"): 9}  # fmt: skip


def test_the_start_nearest_in_time_is_taken_and_clouds_are_counted():
    months = [("2003", 1, None), ("2004", 1, None), ("2006", 1, None), ("2005", 7, None),
              ("2006", 7, 0.9), ("2007", 1, 0.9)]  # fmt: skip
    tiles = [
        scored(place, month, year=int(year), lat=lat, cloud_frac=cloud, split="test")
        for place, lat in (("a", 0.0), ("b", 30.0))
        for year, month, cloud in months
    ]
    history = Album(tiles=tiles, frames=[blank((9, 90, 9))] * len(tiles))
    found = chosen(history, CONFIG.model_copy(update={"months": None}), start_months=[1])
    starts = {(p.tile.place, p.tile.month): history.tiles[p.start].month for p in found.pairs}
    # 18 months from 2004 and 6 from 2006; among 2004 and 2006 as far from 2005 the earlier one.
    assert starts["made-up/a", "2005-07"] == "2006-01"
    assert starts["made-up/a", "2003-01"] == "2004-01"
    assert starts["made-up/b", "2006-01"] == "2004-01"
    assert ("made-up/a", "2006-07") not in starts
    assert found.dropped["pairs: the target is cloudy"] == 4


def test_an_earlier_start_is_taken_of_two_that_are_as_near():
    tiles = [
        scored(place, 1, year=year, lat=lat, split="test")
        for place, lat in (("a", 0.0), ("b", 30.0))
        for year in (2003, 2004, 2005)
    ]
    history = Album(tiles=tiles, frames=[blank((9, 90, 9))] * len(tiles))
    found = chosen(history, CONFIG.model_copy(update={"months": None}), start_months=[1])
    starts = {p.tile.month: history.tiles[p.start].month for p in found.pairs}
    assert starts == {"2003-01": "2004-01", "2004-01": "2003-01", "2005-01": "2004-01"}


def test_one_per_block_leaves_out_places_that_overlap():
    def history(step):
        tiles = [
            scored(f"p{i}", month, lat=1.0 + step * i, split="test")
            for i in range(6) for month in (1, 7)
        ]  # fmt: skip
        return Album(tiles=tiles, frames=[blank((9, 90, 9))] * len(tiles))

    config = CONFIG.model_copy(update={"months": (1, 7)})
    crowded = chosen(history(4.0), config)
    apart = chosen(history(4.0), config, one_per_block=True)
    assert len({p.tile.place for p in crowded.pairs}) == 6
    assert len({p.tile.block for p in crowded.pairs}) == 3
    assert len({p.tile.place for p in apart.pairs}) == 3
    assert len({p.tile.block for p in apart.pairs}) == 3
    assert apart.dropped["its place is not among those chosen"] == 6


@pytest.mark.parametrize("months", [[], [0], [1, 13]])
def test_start_months_that_are_none_are_refused(months):
    with pytest.raises(RequestError, match="not calendar months"):
        chosen(start_months=months)


def test_a_dataset_without_another_month_has_no_pairs():
    tiles = [scored(name, 1, lat=lat, split="test") for name, lat in (("a", 0.0), ("b", 30.0))]
    history = Album(tiles=tiles, frames=[blank((9, 90, 9))] * 2)
    with pytest.raises(RequestError, match="the target is the start: 2"):
        chosen(history, CONFIG.model_copy(update={"months": None}), start_months=[1])


def test_arrays_that_are_not_one_image_a_tile_are_refused(sets):
    with pytest.raises(RequestError, match="float64 of shape"):
        ArrayImages(name="x", tiles=sets.tiles, images=np.zeros((1, 8, 8, 3)))


def test_persistence_is_the_start_and_the_reference_the_target(sets):
    history, pair = sets.history, sets.pairs[5]
    assert np.array_equal(sets.persistence().read(5).rgb, history.frames[pair.start].rgb)
    assert np.array_equal(sets.real().read(5).rgb, history.frames[pair.target].rgb)


def test_a_start_shows_black_where_it_is_not_valid(sets):
    pair = sets.pairs[0]
    frame = sets.history.frames[pair.start]
    valid = frame.valid.copy()
    valid[2, 3] = False
    frames = list(sets.history.frames)
    frames[pair.start] = Frame(frame.rgb, valid)
    record, image = replace(sets, history=replace(sets.history, frames=frames)).start_of(pair)
    assert record == sets.history.tiles[pair.start].record
    assert image[2, 3].tolist() == [0, 0, 0]
    assert np.array_equal(image[3], frame.rgb[3])


# -- scores


def test_an_image_two_levels_brighter_has_its_psnr_and_persistence_that_of_the_change(
    sets, scores, tables
):
    own = find(scores, system=GENERATED, metric="psnr_db", group="all")[0]
    assert own.value == pytest.approx(20 * np.log10(255 / BRIGHTER))
    assert (own.n, own.num_blocks) == (72, 12)
    pair = sets.pairs[0]
    frames = [sets.history.frames[i].rgb.astype(float) for i in (pair.start, pair.target)]
    error = 10 * np.log10(255**2 / ((frames[0] - frames[1]) ** 2).mean())
    assert tables["persistence"].loc[pair.tile.key, "psnr_db"] == pytest.approx(error)


def test_what_does_not_know_the_start_is_the_same_from_every_start(tables, sets):
    for name in ("class_month_mean", "climate_analogue", CLASS_INDEX):
        rows = tables[name].assign(target=[k.split(" from ")[0] for k in tables[name].index])
        spread = rows.groupby("target")[["gcc", "snow_frac"]].std(ddof=0)
        assert len(rows) == 72
        assert (spread < 1e-12).to_numpy().all()


def test_starts_stand_beside_their_targets(tables, sets):
    real = tables[OBSERVED]
    pair = sets.pairs[7]
    start = land_indices(sets.history.frames[pair.start].rgb)
    assert real.loc[pair.tile.key, "start_snow_frac"] == pytest.approx(start.snow_frac)
    copied = tables["persistence"]
    assert np.allclose(copied["gcc"], real.loc[copied.index, "start_gcc"])


def test_greenness_errors_are_those_of_a_table(tables, scores):
    error = tables["persistence"]["gcc"] - tables[OBSERVED]["gcc"]
    row = find(scores, system="persistence", metric="index_rmse", detail="gcc", group="all")[0]
    assert row.value == pytest.approx(np.sqrt((error**2).mean()))
    assert row.low < row.value < row.high


def test_within_places_the_copied_start_says_nothing_and_the_truth_all(scores):
    rows = {s.system: s for s in find(scores, metric="anomaly_pearson", detail="gcc", group="all")}
    assert rows[GENERATED].value > 0.99
    assert rows["persistence"].value is None
    assert "undefined" in rows["persistence"].flag
    slopes = find(scores, metric="slope_ratio", system=GENERATED, group="all")
    assert slopes
    assert all(one.value == pytest.approx(1, abs=0.1) for one in slopes if one.value is not None)


def test_directions_are_right_for_the_truth_and_never_for_a_copy(scores, tables):
    rows = {
        s.system: s.value
        for s in find(scores, metric="change_direction", detail="snow_frac", group="all")
    }
    assert rows[GENERATED] == 1
    assert rows["persistence"] == 0
    real = tables[OBSERVED]
    mean = real["snow_frac"].copy()
    moved = real["snow_frac"] - real["start_snow_frac"]
    # Snow of a month is that of its hemisphere.
    north = real["lat"] >= 0
    for side in (north, ~north):
        mean[side] = real[side].groupby("month")["snow_frac"].transform("mean")
    is_right = np.sign(mean - real["start_snow_frac"]) == np.sign(moved)
    assert rows["month_only"] == pytest.approx(is_right[moved.abs() > 0.02].mean())
    assert 0 < rows["month_only"] < 1


def test_real_targets_are_needed(measured):
    with pytest.raises(RequestError, match="observed"):
        score_pairs({GENERATED: measured[GENERATED]}, CONFIG)


def test_the_mean_of_indices_is_that_of_training_frames(sets):
    rivals, _ = sets.rivals(CONFIG)
    mean = next(one for one in rivals if one.name == "class_month_mean")
    assert isinstance(mean, MeanFrame)
    found = class_month_indices(mean).table
    tile = next(tile for tile in mean.tiles if tile.land_cover == LandCover.GRASSLANDS)
    wanted = [
        land_indices(sets.history.frames[i].rgb).snow_frac
        for i, other in enumerate(sets.history.tiles)
        if other.split == "train"
        and other.month == tile.month
        and other.land_cover == tile.land_cover
        and (other.lat < 0) == (tile.lat < 0)
    ]
    assert len(wanted) in (1, 2)
    assert found.loc[tile.key, "snow_frac"] == pytest.approx(np.mean(wanted))


def test_errors_by_step_are_those_of_pairs_so_far_ahead(tables):
    rows = error_by_step(tables, [GENERATED, "persistence"], CONFIG)
    assert {row.group for row in rows} == {"3", "6", "9"}
    found = find(rows, system="persistence", metric="psnr_db", group="6")[0]
    real = tables[OBSERVED]
    keys = real.index[real["months_ahead"] == 6]
    assert found.value == pytest.approx(tables["persistence"].loc[keys, "psnr_db"].mean())
    assert found.n == 24


# -- gains and goals


def test_a_gain_is_the_difference_of_means_and_its_share_that_of_the_error(tables):
    found = {(one.measure, one.rival): one for one in gains(tables, CONFIG)}
    psnr = found["psnr_db", "persistence"]
    assert psnr.gain == pytest.approx(
        (tables[GENERATED]["psnr_db"] - tables["persistence"]["psnr_db"]).mean()
    )
    assert psnr.low < psnr.gain < psnr.high
    assert psnr.verdict == "better"
    assert psnr.share is None
    rmse = found["index_rmse gcc", "persistence"]
    assert rmse.share == pytest.approx(1 - rmse.own / rmse.other)
    assert rmse.gain == pytest.approx(rmse.other - rmse.own)


def test_the_best_rival_has_the_least_error_of_all(tables):
    found = [one for one in gains(tables, CONFIG) if one.measure == "index_mae gcc"]
    best = found[-1]
    others = {one.rival: one.other for one in found[:-1]}
    assert set(others) == {"persistence", "class_month_mean", CLASS_INDEX, "climate_analogue"}
    assert best.other == min(others.values())
    assert best.rival == f"best rival: {min(others, key=others.get)}"


def test_a_system_that_is_worse_than_its_rivals_is_told_so(tables):
    swapped = tables | {GENERATED: tables["climate_analogue"]}
    found = {(one.measure, one.rival): one for one in gains(swapped, CONFIG)}
    one = found["ssim", "persistence"]
    assert one.gain == pytest.approx(
        (tables["climate_analogue"]["ssim"] - tables["persistence"]["ssim"]).mean()
    )
    assert found["ssim", "climate_analogue"].gain == 0
    assert found["ssim", "climate_analogue"].verdict == "undecided"


def test_few_blocks_decide_nothing(tables):
    few = {
        name: table[table["block"].isin(sorted(set(table["block"]))[:9])]
        for name, table in tables.items()
    }
    found = gains(few, CONFIG)
    assert {one.num_blocks for one in found} == {9}
    assert {one.verdict for one in found} == {"undecided"}
    assert {claim.verdict for claim in goals(found, [])} == {"undecided"}


def test_without_the_judged_system_there_are_no_gains(tables):
    assert gains({n: t for n, t in tables.items() if n != GENERATED}, CONFIG) == []


def test_goals_are_reached_by_the_truth_and_not_by_a_copy(tables):
    kept = Score(system=GENERATED, section="response", metric="structure_share", value=0.97,
                 low=0.96, high=0.99, n=72, num_blocks=12)  # fmt: skip
    lost = replace(kept, section="paired", metric="identity_gain_db", value=-2, low=-3, high=-1.5)
    verdicts = {one.key: one.verdict for one in goals(gains(tables, CONFIG), [kept, lost])}
    assert verdicts == {
        "greenness_goal": "supported", "snow_goal": "supported", "psnr_goal": "supported",
        "image_metrics_goal": "undecided",  # 16 px have no perceptual distance
        "structure_share_goal": "supported", "identity_gain_db_goal": "not supported",
    }  # fmt: skip
    copy = tables | {GENERATED: tables["persistence"]}
    verdicts = {one.key: one.verdict for one in goals(gains(copy, CONFIG), [])}
    assert verdicts["greenness_goal"] == "not supported"
    assert verdicts["psnr_goal"] == "not supported"


# -- structure and identity


def test_structure_does_not_see_brightness_contrast_or_wide_shades():
    rng = np.random.default_rng(0)
    fine = rng.integers(90, 110, (40, 40, 1)).repeat(3, -1)
    start = fine.astype(np.uint8)
    ramp = np.linspace(0, 60, 40).round().astype(int)[:, None, None]
    assert structure_correlation(start, (fine + 50).astype(np.uint8)) == pytest.approx(1)
    assert structure_correlation(start, (fine + ramp).astype(np.uint8)) > 0.98
    other = rng.integers(90, 110, (40, 40, 1)).repeat(3, -1).astype(np.uint8)
    assert abs(structure_correlation(start, other)) < 0.1
    assert structure_correlation(start, np.roll(start, 3, axis=0)) < 0.1


def test_structure_under_a_mask_does_not_count():
    rng = np.random.default_rng(1)
    start = rng.integers(0, 255, (30, 30, 3), np.uint8)
    spoilt = start.copy()
    spoilt[:10] = 255
    valid = np.ones((30, 30), bool)
    valid[:10] = False
    assert structure_correlation(start, spoilt, valid) == pytest.approx(1)
    assert structure_correlation(start, spoilt) < 0.95
    assert np.isnan(structure_correlation(start, start, np.zeros((30, 30), bool)))


def test_structure_is_read_in_snow_free_months_and_shared_with_the_real_ones(sets, tables):
    real = tables[OBSERVED]
    free = real.index[(real["snow_frac"] <= 0.05) & (real["start_snow_frac"] <= 0.05)]
    table = structure_table(sets, [sets.persistence()], real)
    assert set(table.index) == set(free)
    assert 0 < len(free) < len(real)
    scores = structure_scores(table, real, CONFIG)
    copied = find(scores, system="persistence", metric="structure")[0]
    assert copied.value == pytest.approx(1)
    share = find(scores, system="persistence", metric="structure_share")[0]
    assert share.value == pytest.approx(1 / table[OBSERVED].mean())


def test_identity_is_measured_against_the_autoencoder_and_equal_images_are_capped(sets):
    starts = take(sets.history, range(24))
    same = ArrayImages(name="identity", tiles=starts.tiles, images=lambda i: starts.read(i).rgb)
    worse = ArrayImages(
        name="autoencoder", tiles=starts.tiles,
        images=lambda i: starts.read(i).rgb + np.uint8(BRIGHTER),
    )  # fmt: skip
    scores = identity_scores(starts, same, worse, CONFIG, system=GENERATED)
    floor = 20 * np.log10(255 / BRIGHTER)
    assert find(scores, system=GENERATED, metric="identity_psnr_db")[0].value == (
        pytest.approx(EQUAL_DB)
    )
    assert find(scores, system="autoencoder")[0].value == pytest.approx(floor)
    assert find(scores, metric="identity_gain_db")[0].value == pytest.approx(EQUAL_DB - floor)
    assert pytest.approx(20 * np.log10(255 * 12**0.5), abs=0.01) == EQUAL_DB


# -- ensembles


def index_table(values, **more):
    keys = pd.Index([f"k{i}" for i in range(len(values))], name="key")
    blocks = [f"b{i}" for i in range(len(values))]
    columns = {"gcc": values, "snow_frac": values, "block": blocks} | more
    return pd.DataFrame(columns, index=keys)


def test_crps_and_ranks_by_hand():
    real = index_table([0.5, 0.0])
    members = [index_table([0.0, 0.2]), index_table([1.0, 0.4])]
    scores, histograms = ensemble_scores(
        real, members, {"persistence": index_table([0.1, 0.1])}, CONFIG
    )
    # Fair CRPS: 0.5 - 1 / 2, and 0.3 - 0.2 / 2; the copy: 0.4 and 0.1.
    found = {s.system: s.value for s in find(scores, metric="crps", detail="gcc")}
    assert found == {"ensemble": pytest.approx(0.1), "persistence": pytest.approx(0.25)}
    assert histograms[0].frequencies == (0.5, 0.5, 0.0)
    assert (histograms[0].index, histograms[0].n) == ("gcc", 2)


def test_a_calibrated_ensemble_spreads_as_it_errs():
    rng = np.random.default_rng(0)
    draw = rng.normal(0.4, 0.02, (5, 3000))
    scores, histograms = ensemble_scores(
        index_table(draw[0]), [index_table(row) for row in draw[1:]], {}, CONFIG
    )
    ratio = find(scores, metric="spread_over_error", detail="gcc")[0]
    assert ratio.value == pytest.approx(1, abs=0.03)
    assert max(histograms[0].frequencies) < 0.23
    assert sum(histograms[0].frequencies) == pytest.approx(1)


def test_one_member_is_no_ensemble():
    with pytest.raises(RequestError, match="no spread"):
        ensemble_scores(index_table([0.5]), [index_table([0.5])], {}, CONFIG)


# -- making


class Darkener:
    """A model that makes each start a level darker, and notes what it was asked for."""

    def __init__(self):
        self.calls = []

    def __call__(self, starts, targets, seeds):
        self.calls += list(zip([r for r, _ in starts], targets, seeds, strict=True))
        return np.stack([image - np.uint8(1) for _, image in starts])


def maker_of(sets, folder, evolve):
    return EvolutionMaker(
        sets=sets, evolve=evolve, card=CARD, folder=folder, settings={"steps": 1}, seed=5
    )


@pytest.fixture(scope="module")
def small():
    """Three places, so that few files are written."""
    config = CONFIG.model_copy(update={"num_places": 3})
    return choose_pairs(made_up_world(16, (SIDE, SIDE)), config, start_months=[1, 7])


def test_each_pair_begins_at_its_own_start_and_asks_for_its_target(small, tmp_path):
    model = Darkener()
    images = maker_of(small, tmp_path, model).generated()
    tiles = small.history.tiles
    for number, pair in enumerate(small.pairs):
        start = small.history.frames[pair.start].rgb
        assert np.array_equal(images.read(number).rgb, start - 1)
    asked = {(a.tile_id, b.tile_id) for a, b, _ in model.calls}
    assert asked == {(tiles[p.start].key, tiles[p.target].key) for p in small.pairs}
    seeds = {}
    for start, _, seed in model.calls:
        seeds.setdefault((start.place_id, start.month), set()).add(seed)
    assert all(len(own) == 1 for own in seeds.values())  # months of a series share their noise
    assert len({seed for own in seeds.values() for seed in own}) == 6


def test_members_differ_in_their_seeds_and_what_is_there_is_not_made_again(small, tmp_path):
    model = Darkener()
    maker = maker_of(small, tmp_path, model)
    maker.generated()
    first = {seed for *_, seed in model.calls}
    model.calls.clear()
    assert maker.generated(1).name == "generated_1"
    assert not first & {seed for *_, seed in model.calls}
    model.calls.clear()
    maker.generated()
    assert model.calls == []


def test_a_shuffled_climate_is_that_of_another_place_in_the_same_month(small, tmp_path):
    model = Darkener()
    maker_of(small, tmp_path, model).shuffled()
    for start, target, _ in model.calls:
        assert start.place_id == target.place_id
        own = next(t for t in small.history.tiles if t.key == target.tile_id).record
        assert target.temperature_c_normals != own.temperature_c_normals


def test_chains_go_on_from_what_was_made(small, tmp_path):
    images = maker_of(small, tmp_path, Darkener()).chained()
    steps = {3: 1, 6: 2, 9: 3}
    for number, pair in enumerate(small.pairs):
        start = small.history.frames[pair.start].rgb
        assert np.array_equal(images.read(number).rgb, start - steps[pair.months_ahead])


def test_identity_asks_for_each_start_once(small, tmp_path):
    model = Darkener()
    starts, returned = maker_of(small, tmp_path, model).identity()
    assert len(starts.tiles) == len(returned.tiles) == 6
    assert all(start.tile_id == target.tile_id for start, target, _ in model.calls)
    for index in range(6):
        assert np.array_equal(returned.read(index).rgb, starts.read(index).rgb - 1)
    assert {tile.block for tile in starts.tiles} == {p.tile.block for p in small.pairs}


def test_generated_files_say_what_they_are(small, tmp_path):
    images = maker_of(small, tmp_path, Darkener()).generated()
    assert all("_synth" in path.name for path in images.paths)
    assert np.array_equal(read_image(images.paths[0]), images.read(0).rgb)


def test_starts_of_another_size_are_refused(small):
    with pytest.raises(RequestError, match="64 px, the starts have 16 x 16"):
        check_size(small, CARD.model_copy(update={"image_size_px": 64}))


# -- sweeps


def law(starts, targets, seeds):
    """A model that knows the law of the world."""
    return np.stack([
        picture(t.temperature_c, t.precipitation_mm_day, seed, (SIDE, SIDE))
        for t, seed in zip(targets, seeds, strict=True)
    ])  # fmt: skip


def test_sweeps_of_a_model_that_knows_the_law_have_its_signs_and_slopes(sets, tmp_path):
    pool = [tile for tile in sets.history.tiles if tile.split == "test"]
    scores = sweep_scores(
        maker_of(sets, tmp_path, law).sweeps(pool), pool, sets.history, CONFIG, num_cases=4
    )
    signs = find(scores, metric="response_expected_sign", group="all")
    for detail in dict.fromkeys(s.detail for s in signs):
        own = {s.system: s.value for s in signs if s.detail == detail}
        assert own["generated"] == 1
        assert own["place_only"] == 0
        assert own["shuffled_doses"] < 0.8
    ratios = [s for s in find(scores, metric="response_ratio") if "snow" in s.detail]
    assert ratios[0].value == pytest.approx(1, abs=0.25)


def test_each_class_has_a_ratio_of_its_own():
    response = RESPONSES[1]
    rng = np.random.default_rng(0)
    cases, seen = [], []
    for cover, slope in ((1, -0.1), (10, -0.02)):
        for place in range(8):
            tile = scored(
                f"{cover}-{place}", 4, lat=float(10 * place), lon=float(cover), land_cover=cover,
                temperature=[-2.0] * 12,
            )  # fmt: skip
            cases.append((tile, slope))
            seen.append((tile, -0.05))
    level = np.tile(np.array([-4.0, -2, 0, 2, 4]), (16, 1))
    made = Curves([t for t, _ in cases], level, level * np.array([[s] for _, s in cases]) + 0.5)
    own = rng.uniform(-5, 5, (16, 1))
    real = Curves([t for t, _ in seen], own, -0.05 * own + 0.5)
    found = {s.group: s.value for s in ratio_scores(response, made, real, CONFIG)}
    assert found["Evergreen Needleleaf Forests"] == pytest.approx(2)
    assert found["Grasslands"] == pytest.approx(0.4)


def test_shuffled_doses_have_either_sign_about_as_often():
    response = RESPONSES[1]
    rng = np.random.default_rng(0)
    level = np.tile(np.array([-4.0, -2, 0, 2, 4]), (40, 1))
    tiles = [scored(f"p{i}", 4, lat=0.0, lon=float(4 * i)) for i in range(40)]
    curves = Curves(tiles, level, 0.5 - 0.1 * level + rng.normal(0, 0.01, level.shape))
    found = {(s.system, s.metric): s.value for s in null_scores(response, curves, CONFIG)}
    assert found["shuffled_doses", "response_expected_sign"] == pytest.approx(0.5, abs=0.05)
    assert found["shuffled_doses", "response_opposite_sign"] == pytest.approx(0.5, abs=0.05)
    assert found["place_only", "response_expected_sign"] == 0
    assert null_scores(response, curves.select(np.zeros(40, bool)), CONFIG) == []
