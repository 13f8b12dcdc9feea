"""Precision, recall, density, coverage and Inception Score by hand and against sums written out."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from scipy.spatial.distance import cdist

from ecomap import manifold
from ecomap.manifold import compare_manifolds, inception_score, inception_scores


def written_out(real: np.ndarray, made: np.ndarray, k: int) -> tuple[float, ...]:
    """The four definitions on whole distance matrices."""
    radii_real = np.sort(cdist(real, real), axis=1)[:, k]
    radii_made = np.sort(cdist(made, made), axis=1)[:, k]
    between = cdist(real, made)
    inside = between <= radii_real[:, None]
    return (
        float(inside.any(0).mean()),
        float((between <= radii_made).any(1).mean()),
        float(inside.sum(0).mean() / k),
        float(inside.any(1).mean()),
    )


def four(real: np.ndarray, made: np.ndarray, k: int) -> tuple[float, ...]:
    found = compare_manifolds(real, made, num_neighbours=k)
    return found.precision, found.recall, found.density, found.coverage


def test_four_measures_by_hand() -> None:
    # k = 1. Radii of the real 0, 1, 3, 10: 1, 1, 2, 7; of the generated 0.5, 2, 30: 1.5, 1.5, 28.
    real, made = np.array([[0.0], [1], [3], [10]]), np.array([[0.5], [2], [30]])
    found = compare_manifolds(real, made, num_neighbours=1)
    # 0.5 lies in [-1, 1], [0, 2]; 2 in [0, 2] (its edge), [1, 5]; neither in [3, 17]; 30 in none.
    assert found.dense.tolist() == [2, 2, 0]
    assert found.precise.tolist() == [1, 1, 0]
    # 0 and 1 in [-1, 2]; 3 in [0.5, 3.5] and [2, 58]; 10 in [2, 58].
    assert found.recalled.tolist() == [1, 1, 1, 1]
    assert found.covered.tolist() == [1, 1, 1, 0]
    assert (found.precision, found.recall) == (pytest.approx(2 / 3), 1)
    assert (found.density, found.coverage) == (pytest.approx(4 / 3), 0.75)


def test_more_neighbours_divide_density() -> None:
    # k = 2. Radii of the real 0, 1, 3: 3, 2, 3; the generated 1 lies in all three balls, 9 in none.
    real, made = np.array([[0.0], [1], [3]]), np.array([[1.0], [9], [9]])
    found = compare_manifolds(real, made, num_neighbours=2)
    assert found.dense.tolist() == [1.5, 0, 0]


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 999), k=st.integers(1, 4), width=st.integers(1, 5))
def test_four_measures_equal_the_definitions(seed: int, k: int, width: int) -> None:
    rng = np.random.default_rng(seed)
    real, made = rng.normal(size=(13, width)), rng.normal(0.5, 1.5, (9, width))
    assert four(real, made, k) == pytest.approx(written_out(real, made, k))


def test_blocks_of_rows_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(1)
    real, made = rng.normal(size=(23, 3)), rng.normal(0.5, 1, (17, 3))
    whole = four(real, made, 3)
    monkeypatch.setattr(manifold, "BLOCK_ROWS", 4)
    assert four(real, made, 3) == whole == pytest.approx(written_out(real, made, 3))


def test_rotation_shift_scale_and_order_change_nothing() -> None:
    rng = np.random.default_rng(2)
    real, made = rng.normal(size=(20, 4)), rng.normal(0.5, 1, (25, 4))
    turned = 7 * stats.ortho_group.rvs(4, random_state=rng)
    expected = four(real, made, 3)
    assert four(real @ turned + 100, made @ turned + 100, 3) == pytest.approx(expected)
    assert four(real[::-1], made[rng.permutation(25)], 3) == expected


def test_copies_are_precise_and_cover() -> None:
    real = np.random.default_rng(3).normal(size=(12, 3))
    assert four(real, real, 2)[0] == four(real, real, 2)[1] == four(real, real, 2)[3] == 1


def test_equal_images_far_from_zero_lie_in_each_others_balls() -> None:
    # radii are 0 and rounding must not push a copy out
    real = np.full((6, 40), 1e4 / 3) + np.array([[1.0], [1], [1], [1], [1], [0]])
    assert four(real, real[:5], 2) == (1, pytest.approx(5 / 6), pytest.approx(5 * 6 / (5 * 2)), 1)


def test_one_colour_is_precise_and_recalls_nothing() -> None:
    real = np.random.default_rng(4).normal(size=(30, 2))
    precision, recall, density, coverage = four(real, np.repeat(real[:1], 30, 0), 3)
    assert (precision, recall) == (1, pytest.approx(1 / 30))
    assert coverage < 0.5 < density


def test_expected_values_of_one_distribution() -> None:
    k, num = 5, 60
    rng = np.random.default_rng(5)
    runs = [four(rng.normal(size=(num, 2)), rng.normal(size=(num, 2)), k) for _ in range(150)]
    density, coverage = np.mean(runs, axis=0)[2:]
    ratio = np.prod(num - np.arange(1, k + 1)) / np.prod(2 * num - np.arange(1.0, k + 1))
    assert coverage == pytest.approx(1 - ratio, abs=0.005)
    assert coverage == pytest.approx(1 - 2**-k, abs=0.01)
    assert density == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize("k", [0, 4])
def test_neighbours_that_do_not_exist_are_refused(k: int) -> None:
    with pytest.raises(ValueError, match=rf"\[1, 3\], below the number of images; got {k}"):
        compare_manifolds(np.zeros((4, 2)), np.zeros((9, 2)), num_neighbours=k)
    with pytest.raises(ValueError, match="one width"):
        compare_manifolds(np.zeros((4, 2)), np.zeros((9, 3)), num_neighbours=1)


def test_inception_score_by_hand() -> None:
    sharp = np.eye(3)[[0, 1, 2, 0, 1, 2]]
    assert inception_score(sharp) == (pytest.approx(3), 0)
    assert inception_score(np.full((5, 4), 0.25))[0] == pytest.approx(1)
    assert inception_score(np.eye(3)[[1, 1, 1]])[0] == pytest.approx(1)
    # p = (1, 0) and (1/2, 1/2), mean (3/4, 1/4)
    kl = (np.log(4 / 3) + 0.5 * np.log(2 / 3) + 0.5 * np.log(2)) / 2
    assert inception_score(np.array([[1, 0], [0.5, 0.5]]))[0] == pytest.approx(np.exp(kl))


def test_inception_score_averages_splits_in_order() -> None:
    rows = np.eye(4)[[0, 0, 0, 1, 1, 2, 3]]
    # parts of 3, 2, 2 rows: one class, one class, two classes
    mean, std = inception_score(rows, num_splits=3)
    assert (mean, std) == (pytest.approx(4 / 3), pytest.approx(np.std([1, 1, 2])))


def test_inception_scores_of_copies() -> None:
    rng = np.random.default_rng(6)
    rows = rng.dirichlet(np.ones(5), 8)
    counts = rng.integers(0, 3, (4, 8))
    expected = [inception_score(np.repeat(rows, own, 0))[0] for own in counts]
    np.testing.assert_allclose(inception_scores(rows, counts), expected)


def test_inception_score_is_biased_downwards_in_small_sets() -> None:
    rng = np.random.default_rng(7)
    rows = rng.dirichlet(np.full(50, 0.05), 4000)
    small = np.mean([inception_score(part)[0] for part in np.split(rows, 200)])
    assert small < 0.8 * inception_score(rows)[0]


def test_what_are_no_probabilities_is_refused() -> None:
    for rows in (np.ones((3, 2)), np.array([[1.5, -0.5]]), np.ones(3)):
        with pytest.raises(ValueError, match="sum to 1"):
            inception_score(rows)
    with pytest.raises(ValueError, match=r"\[1, 2\], got 3"):
        inception_score(np.eye(2), num_splits=3)
