"""Kernel distances by hand, against torchmetrics, and against sums over pairs written out."""

from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchmetrics.image.kid import KernelInceptionDistance

from ecomap import kernels


class Rows(torch.nn.Module):
    """Passes made-up features through torchmetrics' image interface."""

    num_features = 5

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images.flatten(1)


def mean_over(pairs: list, kernel: kernels.Kernel) -> float:
    """Mean kernel of pairs of vectors, one by one."""
    return float(np.mean([kernel(x[None], y[None])[0, 0] for x, y in pairs]))


def written_out(a: np.ndarray, b: np.ndarray, counts_a: np.ndarray, counts_b: np.ndarray) -> float:
    """Squared MMD over pairs of copies of different images, pair by pair."""
    copies_a, copies_b = (np.repeat(np.arange(len(c)), c) for c in (counts_a, counts_b))
    kernel = kernels.polynomial_kernel
    within = [
        mean_over([(x[i], x[j]) for i, j in product(own, own) if i != j], kernel)
        for x, own in ((a, copies_a), (b, copies_b))
    ]
    between = mean_over([(a[i], b[j]) for i, j in product(copies_a, copies_b)], kernel)
    return sum(within) - 2 * between


def test_kernel_distance_by_hand() -> None:
    # D = 2: k(x, y) = (x . y / 2 + 1)^3. Within a: k(a0, a1) = 1; within b: (4 / 2 + 1)^3 = 27;
    # between: a0 = 0 gives 1 and 1, a1 = (2, 0) gives (2 + 1)^3 = 27 twice, mean 14.
    a, b = np.array([[0.0, 0.0], [2.0, 0.0]]), np.array([[2.0, 0.0], [2.0, 3.0]])
    result = kernels.kernel_distance(a, b, subset_size=2, num_subsets=3)
    assert result.mean == pytest.approx(1 + 27 - 2 * 14)
    assert result.std == pytest.approx(0)
    assert kernels.unbiased_kernel_distance(a, b) == pytest.approx(1 + 27 - 2 * 14)


@pytest.mark.filterwarnings("ignore:Metric `Kernel Inception Distance` will save:UserWarning")
def test_kernel_distance_agrees_with_torchmetrics_on_the_whole_set() -> None:
    rng = np.random.default_rng(7)
    a, b = (rng.integers(0, high, (12, 5)).astype(np.uint8) for high in (9, 7))
    other = KernelInceptionDistance(feature=Rows(), subsets=2, subset_size=12, normalize=False)
    for rows, real in ((a, True), (b, False)):
        other.update(torch.from_numpy(rows)[:, :, None, None].double(), real=real)
    expected = pytest.approx(float(other.compute()[0]), rel=1e-4)
    assert kernels.kernel_distance(a, b, subset_size=12, num_subsets=2).mean == expected
    assert kernels.unbiased_kernel_distance(a, b) == expected


def test_kernel_distance_of_one_distribution_is_zero_on_average() -> None:
    rng = np.random.default_rng(8)
    values = [
        kernels.unbiased_kernel_distance(rng.normal(size=(20, 4)), rng.normal(size=(20, 4)))
        for _ in range(200)
    ]
    assert abs(np.mean(values)) < 3 * np.std(values) / np.sqrt(200)
    assert min(values) < 0  # unbiased: a biased estimate is never negative


def test_all_pairs_give_what_subsets_give_on_average() -> None:
    rng = np.random.default_rng(9)
    a, b = rng.normal(size=(30, 3)), rng.normal(0.5, 1, (40, 3))
    subsets = kernels.kernel_distance(a, b, subset_size=10, num_subsets=4000)
    error = subsets.std / np.sqrt(4000)
    assert subsets.mean == pytest.approx(kernels.unbiased_kernel_distance(a, b), abs=4 * error)


def test_kernel_distance_draws_subsets_from_the_seed() -> None:
    rng = np.random.default_rng(9)
    a, b = rng.normal(size=(30, 3)), rng.normal(1, 1, (40, 3))
    first, again, other = (
        kernels.kernel_distance(a, b, subset_size=10, num_subsets=5, seed=seed)
        for seed in (1, 1, 2)
    )
    assert first == again != other
    assert first.std > 0


@pytest.mark.parametrize("size", [1, 31])
def test_subsets_larger_than_a_set_are_refused(size: int) -> None:
    with pytest.raises(ValueError, match=r"\[2, 30\]"):
        kernels.kernel_distance(np.zeros((30, 3)), np.zeros((40, 3)), subset_size=size)


def test_pairs_of_copies_of_one_image_do_not_count() -> None:
    rng = np.random.default_rng(10)
    a, b = rng.normal(size=(5, 3)), rng.normal(1, 1, (4, 3))
    counts_a = np.array([[1, 1, 1, 1, 1], [2, 0, 3, 0, 0], [0, 1, 0, 0, 4]])
    counts_b = np.array([[1, 1, 1, 1], [0, 1, 1, 2], [3, 1, 0, 0]])
    expected = [written_out(a, b, *own) for own in zip(counts_a, counts_b, strict=True)]
    np.testing.assert_allclose(kernels.kernel_distances(a, b, counts_a, counts_b), expected)


def test_weightings_of_one_set_against_itself_are_kept_apart() -> None:
    a = np.random.default_rng(11).normal(size=(6, 3))
    counts_a, counts_b = np.array([[1, 1, 1, 0, 0, 0]]), np.array([[0, 0, 0, 1, 1, 1]])
    expected = kernels.unbiased_kernel_distance(a[:3], a[3:])
    assert kernels.kernel_distances(a, a, counts_a, counts_b)[0] == pytest.approx(expected)


def test_blocks_of_rows_change_nothing() -> None:
    rng = np.random.default_rng(12)
    num = kernels.BLOCK_ROWS + 70
    a, b = rng.normal(size=(num, 2)), rng.normal(1, 1, (num - 9, 2))
    counts_a, counts_b = (rng.integers(0, 3, (2, len(x))) for x in (a, b))
    found = kernels.kernel_distances(a, b, counts_a, counts_b)
    for value, own_a, own_b in zip(found, counts_a, counts_b, strict=True):
        within = []
        for x, own in ((a, own_a), (b, own_b)):
            pairs = np.outer(own, own) * (1 - np.eye(len(x)))
            within.append((pairs * (x @ x.T / 2 + 1) ** 3).sum() / pairs.sum())
        between = np.outer(own_a, own_b) * (a @ b.T / 2 + 1) ** 3
        expected = sum(within) - 2 * between.sum() / (own_a.sum() * own_b.sum())
        assert value == pytest.approx(expected, rel=1e-9)


def test_one_image_and_its_copies_have_no_distance() -> None:
    a = np.random.default_rng(13).normal(size=(3, 2))
    ones = np.ones((1, 3), int)
    assert np.isnan(kernels.kernel_distances(a, a, np.array([[3, 0, 0]]), ones)[0])


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 999), num=st.integers(2, 12), width=st.integers(1, 6))
def test_order_and_sides_change_nothing(seed: int, num: int, width: int) -> None:
    rng = np.random.default_rng(seed)
    a, b = rng.normal(size=(num, width)), rng.normal(1, 2, (num + 2, width))
    for distance in (kernels.unbiased_kernel_distance, kernels.cmmd):
        expected = pytest.approx(distance(a, b), rel=1e-9, abs=1e-9)
        assert distance(b, a) == expected
        assert distance(a[::-1], b[rng.permutation(num + 2)]) == expected


def test_cmmd_by_hand() -> None:
    # unit vectors along x and y: |x - y|^2 = 2, k = exp(-0.01); a = {x, y}, b = {x, x}
    a, b = np.array([[3.0, 0], [0, 0.5]]), np.array([[1.0, 0], [2.0, 0]])
    k = np.exp(-2 / 200)
    expected = 1000 * ((2 + 2 * k) / 4 + 1 - 2 * (2 + 2 * k) / 4)
    assert kernels.cmmd(a, b) == pytest.approx(expected)
    wide = np.exp(-2 / 2)
    assert kernels.cmmd(a, b, sigma=1) == pytest.approx(1000 * (1 - (2 + 2 * wide) / 4))


def test_cmmd_of_equal_sets_is_zero_and_lengths_do_not_count() -> None:
    rng = np.random.default_rng(14)
    a, b = rng.normal(size=(9, 4)), rng.normal(1, 1, (7, 4))
    assert kernels.cmmd(a, a) == pytest.approx(0, abs=1e-9)
    stretched = b * rng.uniform(0.5, 2, (7, 1))
    assert kernels.cmmd(a, stretched) == pytest.approx(kernels.cmmd(a, b))
    assert kernels.cmmd(a, b) > 0


def test_cmmd_lies_above_its_limit_by_what_pairs_with_itself_add() -> None:
    rng = np.random.default_rng(15)
    a, b = rng.normal(size=(8, 3)), rng.normal(size=(8, 3))
    a, b = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (a, b))
    ones = np.ones((1, 8), int)
    unbiased = kernels.kernel_distances(a, b, ones, ones, kernel=kernels.gaussian_kernel)[0]
    different = [kernels.gaussian_kernel(x, x)[~np.eye(8, dtype=bool)].mean() for x in (a, b)]
    excess = kernels.cmmd(a, b) - 1000 * unbiased
    assert excess == pytest.approx(2000 / 8 * (1 - np.mean(different)), rel=1e-6)


def test_copies_have_one_pair_with_themselves_in_cmmd() -> None:
    rng = np.random.default_rng(16)
    a, b = rng.normal(size=(3, 2)), rng.normal(size=(2, 2))
    a, b = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (a, b))
    k = kernels.gaussian_kernel
    counts_a, counts_b = np.array([[2, 0, 1]]), np.array([[1, 1]])
    # a: pairs of different images have k02; a third of the nine pairs of copies are with itself
    within_a = (3 * 1 + 6 * k(a[:1], a[2:])[0, 0]) / 9
    within_b = (2 * 1 + 2 * k(b[:1], b[1:])[0, 0]) / 4
    between = (2 * k(a[:1], b).sum() + k(a[2:], b).sum()) / 6
    found = kernels.cmmd_draws(a, b, counts_a, counts_b)[0]
    assert found == pytest.approx(1000 * (within_a + within_b - 2 * between))


def test_what_does_not_fit_is_refused() -> None:
    a = np.ones((4, 2))
    with pytest.raises(ValueError, match="feature matrices of one width"):
        kernels.unbiased_kernel_distance(a, np.ones((4, 3)))
    with pytest.raises(ValueError, match="feature matrices of one width"):
        kernels.kernel_distance(a[:1], a)
    with pytest.raises(ValueError, match=r"\(S, 4\), got \(2, 4\) and \(1, 4\)"):
        kernels.kernel_distances(a, a.copy(), np.ones((2, 4), int), np.ones((1, 4), int))
    with pytest.raises(ValueError, match="Embedding 2 is 0"):
        kernels.cmmd(a, np.array([[1.0, 1], [2, 2], [0, 0]]))
