"""Rows of realism: which there are, at which n, and what their numbers are."""

from collections.abc import Sequence

import numpy as np
import pytest

from ecomap.errors import DataError, RequestError
from ecomap.evaluate_config import EvaluateConfig
from ecomap.frechet import frechet_distance
from ecomap.kernels import cmmd, unbiased_kernel_distance
from ecomap.manifold import compare_manifolds
from ecomap.realism import HELD_FIXED, METRICS, POOL, REAL, realism_scores
from ecomap.schema import LandCover
from ecomap.scores import OBSERVED, Score, find
from ecomap.tiles import Measured, ScoredTile, tile_table

FORESTS, CROPS = LandCover.MIXED_FORESTS, LandCover.CROPLANDS
QUICK = {"num_distance_draws": 20, "num_draws": 50}


def config(**changes) -> EvaluateConfig:
    return EvaluateConfig(**{"groups": ("land_cover",), "equal_n": 10, **QUICK, **changes})


def measured(
    name: str,
    features: np.ndarray,
    *,
    covers: Sequence[LandCover] | None = None,
    spaces: Sequence[str] = ("eo",),
    prefix: str = "",
    per_block: int = 1,
    probabilities: np.ndarray | None = None,
    located: bool = True,
) -> Measured:
    """A set with the same features in each space; blocks are filled one after the other."""
    tiles = [
        ScoredTile(
            key=f"{prefix}{index}",
            place=f"{prefix}{index}" if located else None,
            month="2020-07",
            lat=-85 + 10.0 * (index // per_block % 17) if located else None,
            lon=-175 + 10.0 * (index // per_block // 17) if located else None,
            land_cover=covers[index] if covers else None,
        )
        for index in range(len(features))
    ]
    values = features.astype(np.float32)
    return Measured(
        name=name,
        kind="generated",
        description="made",
        table=tile_table(tiles),
        features=dict.fromkeys(spaces, values),
        probabilities={} if probabilities is None else {"eo": probabilities.astype(np.float32)},
    )


def normal(num: int, width: int = 3, *, seed: int, shift: float = 0.0) -> np.ndarray:
    return np.random.default_rng(seed).normal(shift, 1, (num, width)).astype(np.float32)


def run(
    reference: Measured, *systems: Measured, others: Measured | None = None, **changes
) -> list[Score]:
    return realism_scores(reference, systems, others, config(**changes), progress=lambda line: None)


def one(scores: list[Score], metric: str, system: str = "made", **fields) -> Score:
    """The only row that fits; of all images unless told."""
    found = find(scores, metric=metric, system=system, **{"group": "all", **fields})
    assert len(found) == 1
    return found[0]


def test_all_images_have_the_distances_of_whole_sets() -> None:
    space = "transformers=clip"
    a, b = normal(30, seed=1), normal(30, seed=2, shift=0.7)
    scores = run(measured("real", a, spaces=[space]), measured("made", b, spaces=[space]))
    expected = {
        "frechet_distance": frechet_distance(a, b),
        "kernel_distance": unbiased_kernel_distance(a, b),
        "cmmd": cmmd(a, b),
    }
    manifold = compare_manifolds(a, b, num_neighbours=5)
    expected |= {n: getattr(manifold, n) for n in ("precision", "recall", "density", "coverage")}
    for metric, value in expected.items():
        row = one(scores, metric, detail=space)
        assert row.value == pytest.approx(value, rel=1e-6), metric
        assert row.low is not None
        assert row.high is not None
        assert row.low <= row.value <= row.high
        flag = HELD_FIXED if hasattr(manifold, metric) else ""
        assert (row.section, row.n, row.num_blocks, row.flag) == ("realism", 30, 30, flag)


def test_every_row_has_its_words() -> None:
    a = normal(30, seed=1)
    one_hot = np.eye(4)[np.arange(30) % 4]
    sets = [
        measured(name, a, spaces=["eo", "open_clip=x"], probabilities=one_hot, covers=[CROPS] * 30)
        for name in ("real", "made")
    ]
    scores = run(*sets)
    assert {score.metric for score in scores} == set(METRICS)
    assert {score.system for score in scores} == {"made", REAL, OBSERVED}
    assert len(scores) == len({(s.system, s.metric, s.detail, s.group) for s in scores})


def test_cmmd_is_for_clip_embeddings_alone() -> None:
    a = normal(20, seed=1)
    spaces = ["eo", "transformers=x", "open_clip=RN50:y"]
    scores = run(measured("real", a, spaces=spaces), measured("made", a, spaces=spaces))
    found = {score.detail for score in find(scores, metric="cmmd")}
    assert found == {"transformers=x", "open_clip=RN50:y"}


def test_a_classs_share_of_the_images_does_not_set_its_score() -> None:
    covers = [FORESTS] * 20 + [CROPS] * 300
    a, b = normal(320, 16, seed=3), normal(320, 16, seed=4)
    naive = [frechet_distance(a[rows], b[rows]) for rows in (slice(20), slice(20, None))]
    assert naive[0] > 8 * naive[1]
    scores = run(measured("real", a, covers=covers), measured("made", b, covers=covers), equal_n=20)
    rare, common = (
        one(scores, "frechet_distance", group=cover.label) for cover in (FORESTS, CROPS)
    )
    assert rare.n == common.n == 20
    assert rare.value == pytest.approx(common.value, rel=0.35)


def test_a_group_takes_different_images_up_to_its_n() -> None:
    # of one-hot rows, the score is the number of different images
    own = {"covers": [FORESTS] * 25, "probabilities": np.eye(25)}
    sets = [measured(name, normal(25, seed=5), **own) for name in ("real", "made")]
    scores = run(*sets)
    for system in ("made", OBSERVED):
        assert one(scores, "inception_score", system, group="all").value == pytest.approx(25)
        row = one(scores, "inception_score", system, group=FORESTS.label)
        assert (row.value, row.n) == (pytest.approx(10), 10)


def test_sets_of_unequal_size_are_compared_at_the_smaller_n() -> None:
    a, b = normal(40, 6, seed=6), normal(15, 6, seed=7)
    scores = run(measured("real", a), measured("made", b))
    row = one(scores, "frechet_distance")
    assert row.n == 15
    assert row.value > 1.2 * frechet_distance(a, b)  # that of 40 against 15 is less biased
    assert row.num_blocks == 40


def test_groups_with_few_images_are_refused_and_say_so() -> None:
    covers = [FORESTS] * 9 + [CROPS] * 21
    scores = run(
        measured("real", normal(30, seed=8), covers=covers),
        measured("made", normal(30, seed=9), covers=covers),
    )
    for metric in ("frechet_distance", "kernel_distance", "precision", "coverage"):
        row = one(scores, metric, group=FORESTS.label)
        assert (row.value, row.low, row.n) == (None, None, 9)
        assert row.flag == "refused: 9 images, 10 needed"
        assert one(scores, metric, group=CROPS.label).value is not None


def test_a_group_that_one_set_lacks_is_refused() -> None:
    scores = run(
        measured("real", normal(20, seed=8), covers=[FORESTS] * 20),
        measured("made", normal(20, seed=9), covers=[CROPS] * 20),
    )
    for cover in (FORESTS, CROPS):
        row = one(scores, "frechet_distance", group=cover.label)
        assert (row.value, row.flag) == (None, "refused: 0 images, 10 needed")


def test_few_neighbours_refuse_manifolds_only() -> None:
    scores = run(
        measured("real", normal(20, seed=8), covers=[CROPS] * 20),
        measured("made", normal(20, seed=9), covers=[CROPS] * 20),
        equal_n=5,
    )
    row = one(scores, "recall", group=CROPS.label)
    assert (row.value, row.flag) == (None, "refused: 5 images, 6 needed")
    assert one(scores, "frechet_distance", group=CROPS.label).value is not None


def test_distances_with_fewer_images_than_features_are_flagged() -> None:
    wide = [measured(name, normal(12, 12, seed=8)) for name in ("real", "made")]
    scores = run(*wide)
    assert one(scores, "frechet_distance").flag == "biased upwards: n = 12 for 12 features"
    row = one(scores, "frechet_distance_extrapolated")
    assert (row.value, row.flag) == (None, "refused: 12 images, 13 needed")
    narrow = [measured(name, normal(13, 12, seed=8)) for name in ("real", "made")]
    assert one(run(*narrow), "frechet_distance").flag == ""


def test_extrapolation_is_for_all_images_and_lies_lower() -> None:
    sets = [
        measured(name, normal(60, 5, seed=seed), covers=[CROPS] * 60)
        for name, seed in (("real", 1), ("made", 2))
    ]
    scores = run(*sets)
    assert len(find(scores, metric="frechet_distance_extrapolated", system="made")) == 1
    row = one(scores, "frechet_distance_extrapolated")
    assert row.value < one(scores, "frechet_distance").value
    assert row.low < row.value < row.high
    few = run(*sets, equal_n=4)
    assert one(few, "frechet_distance_extrapolated").value is not None


def test_extrapolation_of_very_few_images_is_refused() -> None:
    sets = [measured(name, normal(5, 2, seed=1)) for name in ("real", "made")]
    row = one(run(*sets, equal_n=4), "frechet_distance_extrapolated")
    assert (row.value, row.flag) == (None, "refused: 5 images, 6 needed")


def test_both_sides_draw_the_same_blocks() -> None:
    a = normal(30, 4, seed=10)
    same = one(run(measured("real", a), measured("made", a)), "frechet_distance")
    assert same.value == pytest.approx(0, abs=1e-5)
    assert same.high == pytest.approx(0, abs=1e-5)  # every draw has the same images twice
    elsewhere = measured("made", a, prefix="x", located=False)
    other = one(run(measured("real", a, located=False), elsewhere), "frechet_distance")
    assert other.high > 0.1
    assert other.num_blocks == 60


def test_images_of_unknown_place_are_drawn_by_their_keys() -> None:
    a = normal(30, 4, seed=10)
    scores = run(measured("real", a, located=False), measured("made", a, located=False))
    row = one(scores, "frechet_distance")
    assert (row.num_blocks, row.high) == (30, pytest.approx(0, abs=1e-5))


def test_blocks_of_like_images_widen_the_interval() -> None:
    rng = np.random.default_rng(11)
    a, b = (
        np.repeat(0.3 * rng.normal(size=(6, 2)), 10, 0) + 0.1 * rng.normal(size=(60, 2))
        for _ in "ab"
    )
    single, blocks = (
        run(
            measured("real", a, per_block=per),
            measured("made", b, per_block=per, prefix="x"),
            num_distance_draws=60,
            num_draws=300,
        )
        for per in (1, 10)
    )
    for metric in ("frechet_distance", "kernel_distance", "density"):
        few, many = one(blocks, metric), one(single, metric)
        assert few.value == many.value
        assert (few.num_blocks, many.num_blocks) == (6, 60)
        assert few.high - few.low > 1.5 * (many.high - many.low), metric


def test_copies_are_equal_in_small_groups_and_in_large_ones() -> None:
    # else a class's share of the images would set the score of whatever copies
    covers = [FORESTS] * 10 + [CROPS] * 35
    a = normal(45, 6, seed=16)
    scores = run(
        measured("real", a, covers=covers, per_block=4),
        measured("made", a, covers=covers, per_block=4),
    )
    rows = [one(scores, "frechet_distance", group=g) for g in ("all", FORESTS.label, CROPS.label)]
    for row in [*rows, one(scores, "frechet_distance_extrapolated")]:
        assert (row.value, row.high) == (pytest.approx(0, abs=1e-5), pytest.approx(0, abs=1e-5))


def test_one_block_has_no_interval() -> None:
    sets = [
        measured(name, normal(20, seed=s), per_block=20) for name, s in (("real", 1), ("made", 2))
    ]
    scores = run(*sets)
    for metric in ("frechet_distance", "kernel_distance", "precision"):
        row = one(scores, metric)
        assert (row.low, row.high, row.num_blocks) == (None, None, 1)
        assert row.value is not None
        assert row.flag == "one block: no interval"
    assert one(scores, "frechet_distance", REAL).flag.startswith("refused: 0 images")


def test_large_groups_are_pooled() -> None:
    num = 4 * POOL + 20
    covers = [CROPS] * num
    sets = [measured(name, normal(num, 2, seed=1), covers=covers) for name in ("real", "made")]
    scores = run(*sets, equal_n=4, num_neighbours=2)
    assert one(scores, "frechet_distance", group=CROPS.label).num_blocks == 4 * POOL
    assert one(scores, "frechet_distance").num_blocks == num


def test_floor_compares_the_reference_with_other_places() -> None:
    a, b = normal(30, seed=12), normal(30, seed=13)
    scores = run(measured("real", a), others=measured("others", b, prefix="x"))
    row = one(scores, "frechet_distance", REAL)
    assert row.value == pytest.approx(frechet_distance(a, b), rel=1e-6)
    assert (row.n, row.flag) == (30, "")


def test_floor_without_other_places_compares_halves_that_share_no_block() -> None:
    # blocks of 4 equal images: halves that shared a block would be nearer than these
    a = np.repeat(100 * np.eye(8), 4, 0) + normal(32, 8, seed=14)
    scores = run(measured("real", a, per_block=4), num_neighbours=2)
    row = one(scores, "precision", REAL)
    assert (row.value, row.n, row.num_blocks) == (0, 16, 8)
    assert "n = 16, systems have up to 32" in one(scores, "frechet_distance", REAL).flag


def test_floor_of_a_group_says_its_smaller_n() -> None:
    covers = [FORESTS] * 12 + [CROPS] * 24 + [LandCover.SAVANNAS] * 6
    scores = run(measured("real", normal(42, 2, seed=15), covers=covers))
    forests, crops = (one(scores, "kernel_distance", REAL, group=c.label) for c in (FORESTS, CROPS))
    assert (forests.n, forests.flag) == (6, "n = 6, systems have up to 10")
    assert (crops.n, crops.flag) == (10, "")
    few = one(scores, "kernel_distance", REAL, group=LandCover.SAVANNAS.label)
    assert (few.value, few.flag) == (None, "refused: 3 images, 10 needed")


def test_the_same_seed_gives_the_same_rows() -> None:
    covers = [CROPS] * 30
    sets = [
        measured(name, normal(30, seed=s), covers=covers) for name, s in (("real", 1), ("made", 2))
    ]
    assert run(*sets) == run(*sets)
    first, second = run(*sets), run(*sets, seed=1)
    for group in ("all", CROPS.label):
        assert (
            one(first, "frechet_distance", group=group).low
            != one(second, "frechet_distance", group=group).low
        )


def test_every_set_is_announced() -> None:
    lines: list[str] = []
    a = measured("real", normal(12, 2, seed=1))
    systems = [measured(name, normal(12, 2, seed=2)) for name in ("one", "two")]
    realism_scores(a, systems, None, config(), progress=lines.append)
    assert lines == ["realism of one", "realism of two", "realism of real images"]


def test_a_set_measured_in_other_spaces_is_refused() -> None:
    with pytest.raises(RequestError, match="'made' has no features in the space 'eo'"):
        run(
            measured("real", normal(12, seed=1), spaces=["eo"]),
            measured("made", normal(12, seed=1), spaces=["colour"]),
        )


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_features_that_are_not_finite_are_refused(value: float) -> None:
    broken = normal(12, seed=1)
    broken[[2, 2, 7], [0, 1, 1]] = value
    with pytest.raises(DataError, match="2 of 12 images of 'made' have features in 'eo'"):
        run(measured("real", normal(12, seed=1)), measured("made", broken))
