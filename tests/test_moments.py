"""Moments against direct computation, in every order and both forms."""

from functools import reduce

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ecomap.moments import Moments, merge


def features(num: int, width: int, seed: int, offset: float = 0.0) -> np.ndarray:
    """Correlated features of unequal spread."""
    rng = np.random.default_rng(seed)
    mixing = rng.normal(size=(width, width)) * np.arange(1, width + 1)
    return rng.normal(size=(num, width)) @ mixing + offset


def assert_same(moments: Moments, expected: np.ndarray) -> None:
    """Equal to what the features give directly, to 1e-10."""
    deviations = expected - expected.mean(0)
    scale = np.abs(deviations).max() ** 2 * len(expected)
    assert moments.count == len(expected)
    np.testing.assert_allclose(moments.mean, expected.mean(0), rtol=1e-10, atol=1e-10)
    np.testing.assert_allclose(
        moments.scatter, deviations.T @ deviations, rtol=1e-10, atol=1e-10 * scale
    )


def test_moments_by_hand() -> None:
    moments = Moments.of([[0.0, 1.0], [2.0, 1.0], [4.0, 4.0]])
    assert (moments.count, moments.width) == (3, 2)
    assert moments.mean.tolist() == [2, 2]
    # deviations (-2, -1), (0, -1), (2, 2)
    np.testing.assert_allclose(moments.scatter, [[8, 6], [6, 6]])
    np.testing.assert_allclose(moments.covariance, [[4, 3], [3, 3]])
    assert moments.trace == pytest.approx(14)


def test_rows_are_deviations_from_the_mean_before() -> None:
    rows = Moments.of([[1.0, 0, 0], [3.0, 0, 0], [8.0, 6.0, 0]]).rows
    # sqrt(1/2) (3 - 1); sqrt(2/3) (8 - 2) and sqrt(2/3) 6
    np.testing.assert_allclose(rows, [[2**0.5, 0, 0], [24**0.5, 24**0.5, 0]])


@pytest.mark.parametrize("num", [1, 2, 5, 6, 7, 8, 40])
def test_both_forms_give_the_direct_scatter(num: int) -> None:
    x = features(num, 6, seed=num)
    moments = Moments.of(x)
    assert_same(moments, x)
    assert (moments.rows is None) == (num - 1 > 6)
    assert moments.trace == pytest.approx(((x - x.mean(0)) ** 2).sum())


@settings(max_examples=25, deadline=None)
@given(
    sizes=st.lists(st.integers(0, 9), min_size=1, max_size=7),
    width=st.integers(1, 5),
    seed=st.integers(0, 99),
)
def test_batches_and_merges_of_any_sizes_give_the_whole(
    sizes: list[int], width: int, seed: int
) -> None:
    x = features(1 + sum(sizes), width, seed, offset=10)
    parts = np.split(x, 1 + np.cumsum(sizes)[:-1])
    running = Moments(width)
    for part in parts:
        running.add(part)
    merged = reduce(merge, [Moments.of(part) for part in parts])
    assert_same(running, x)
    assert_same(merged, x)
    other_way = reduce(merge, [Moments.of(part) for part in parts[::-1]])
    assert_same(other_way, x)


def test_classes_merge_to_the_total() -> None:
    x = features(90, 8, seed=3, offset=5)
    label = np.random.default_rng(4).choice(3, 90, p=[0.8, 0.15, 0.05])
    classes = [Moments.of(x[label == c]) for c in range(3)]
    assert {moments.rows is None for moments in classes} == {True, False}
    assert_same(reduce(merge, classes), x)
    assert_same(reduce(merge, classes[::-1]), x)


def test_merging_changes_neither_set() -> None:
    a, b = Moments.of(features(20, 3, 1)), Moments.of(features(9, 3, 2))
    before = a.scatter.copy(), b.scatter.copy(), a.mean.copy()
    merged = merge(a, b)
    merged.add(features(4, 3, 3))
    np.testing.assert_array_equal(a.scatter, before[0])
    np.testing.assert_array_equal(b.scatter, before[1])
    np.testing.assert_array_equal(a.mean, before[2])


def test_features_far_from_zero_lose_nothing() -> None:
    x = features(30, 4, seed=5)
    far = Moments.of(x + 1e7)
    np.testing.assert_allclose(far.scatter, Moments.of(x).scatter, rtol=1e-7)


def test_single_precision_is_summed_in_double() -> None:
    x = features(50, 3, seed=6, offset=1000).astype(np.float32)
    assert_same(Moments.of(x), x.astype(np.float64))


def test_memory_stops_growing_with_the_width() -> None:
    moments, sizes = Moments(8), []
    for seed in range(20):
        moments.add(features(3, 8, seed))
        sizes.append(moments.nbytes)
    assert sizes[0] == 8 * 8 * (1 + 2)  # the mean, and a row for each image but the first
    assert sizes[1] == 8 * 8 * (1 + 5)
    assert sizes[3:] == [8 * 8 * (1 + 8)] * 17


def test_an_empty_set_is_neutral() -> None:
    x = features(5, 3, seed=7)
    assert_same(merge(Moments(3), Moments.of(x)), x)
    assert_same(merge(Moments.of(x), Moments(3)), x)
    assert merge(Moments(3), Moments(3)).count == 0


def test_one_image_has_no_covariance() -> None:
    assert np.isnan(Moments.of([[1.0, 2.0]]).covariance).all()


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match=r"\(N, D\)"):
        Moments.of([1.0, 2.0])
    with pytest.raises(ValueError, match=r"\(n, 3\)"):
        Moments(3).add(np.zeros((2, 4)))
    with pytest.raises(ValueError, match="of 3 and of 4"):
        merge(Moments(3), Moments(4))
