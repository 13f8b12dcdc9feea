"""Fréchet distances against closed forms, the matrix root and torchmetrics."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import linalg, stats
from torchmetrics.image.fid import FrechetInceptionDistance

from ecomap.frechet import FrechetPair, count_rows, frechet_distance, frechet_extrapolated
from ecomap.metrics import recentred_interval
from ecomap.moments import Moments, merge


class Rows(torch.nn.Module):
    """Passes made-up features through torchmetrics' image interface."""

    num_features = 5

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images.flatten(1)


def gaussian(num: int, mean: list[float], std: list[float], seed: int) -> np.ndarray:
    """Features whose sample mean and sample covariance (ddof 1) are exactly as asked."""
    raw = np.random.default_rng(seed).normal(size=(num, len(mean)))
    raw -= raw.mean(0)
    white = raw @ np.linalg.inv(np.linalg.cholesky(np.cov(raw.T))).T
    return white * std + mean


def by_matrix_root(a: np.ndarray, b: np.ndarray) -> float:
    """The textbook's formula."""
    covariance_a, covariance_b = np.cov(a.T), np.cov(b.T)
    root_a = np.real(linalg.sqrtm(covariance_a + 0j))
    inner = np.linalg.eigvalsh(root_a @ covariance_b @ root_a).clip(0)
    shift = ((a.mean(0) - b.mean(0)) ** 2).sum()
    return float(shift + np.trace(covariance_a + covariance_b) - 2 * np.sqrt(inner).sum())


def between_copies(a: np.ndarray, b: np.ndarray, counts_a: list, counts_b: list) -> float:
    """`frechet_distance` of sets in which images stand several times."""
    return frechet_distance(np.repeat(a, counts_a, 0), np.repeat(b, counts_b, 0))


@pytest.mark.parametrize(("num_a", "num_b"), [(40, 25), (4, 25), (25, 4)])
def test_distance_of_gaussians_is_the_closed_form(num_a: int, num_b: int) -> None:
    a = gaussian(num_a, [0, 0, 1], [1, 2, 3], seed=1)
    b = gaussian(num_b, [3, 0, 1], [4, 2, 1], seed=2)
    # |mean|^2 = 9; (1 - 4)^2 + (2 - 2)^2 + (3 - 1)^2 = 13 for axis-aligned covariances
    assert frechet_distance(a, b) == pytest.approx(22.0, rel=1e-10)


def test_distance_uses_sample_covariance() -> None:
    a, b = np.array([[0.0], [2.0]]), np.array([[10.0], [14.0]])
    # means 1 and 12; standard deviations with ddof 1: sqrt(2) and sqrt(8)
    assert frechet_distance(a, b) == pytest.approx(121 + 2)


@pytest.mark.parametrize("num_a", [4, 7, 60])
@pytest.mark.parametrize("num_b", [5, 8, 50])
def test_distance_equals_the_matrix_root_in_every_form(num_a: int, num_b: int) -> None:
    rng = np.random.default_rng(num_a)
    a = rng.normal(size=(num_a, 7)) @ rng.normal(size=(7, 7))
    b = rng.normal(1, 2, (num_b, 7))
    # the matrix root of a singular matrix is itself only good to 1e-6
    assert frechet_distance(a, b) == pytest.approx(by_matrix_root(a, b), rel=1e-5)


@pytest.mark.parametrize(("num_a", "num_b"), [(300, 530), (520, 514), (514, 520)])
def test_large_sets_have_the_sum_of_singular_values_too(num_a: int, num_b: int) -> None:
    rng = np.random.default_rng(num_a)
    a, b = rng.normal(size=(num_a, 540)), rng.normal(0.1, 1, (num_b, 540))
    centred = [(x - x.mean(0)) / np.sqrt(len(x) - 1) for x in (a, b)]
    cross = np.linalg.svd(centred[0] @ centred[1].T, compute_uv=False).sum()
    spread = sum((x**2).sum() for x in centred)
    expected = ((a.mean(0) - b.mean(0)) ** 2).sum() + spread - 2 * cross
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-6)


def test_distance_agrees_with_torchmetrics() -> None:
    rng = np.random.default_rng(3)
    a = rng.integers(0, 256, (90, 5)).astype(np.uint8)
    b = rng.integers(0, 200, (70, 5)).astype(np.uint8)
    other = FrechetInceptionDistance(feature=Rows(), normalize=False).set_dtype(torch.float64)
    for rows, real in ((a, True), (b, False)):
        other.update(torch.from_numpy(rows)[:, :, None, None].double(), real=real)
    assert frechet_distance(a, b) == pytest.approx(float(other.compute()), rel=1e-6)


def test_distance_of_merged_moments_is_that_of_the_features() -> None:
    rng = np.random.default_rng(4)
    a, b = rng.normal(size=(30, 6)), rng.normal(1, 2, (5, 6))
    moments = merge(Moments.of(a[:11]), Moments.of(a[11:]))
    expected = frechet_distance(a, b)
    assert frechet_distance(moments, b) == pytest.approx(expected, rel=1e-10)
    assert frechet_distance(b, moments) == pytest.approx(expected, rel=1e-10)
    assert frechet_distance(Moments.of(b), moments) == pytest.approx(expected, rel=1e-10)


def test_distance_is_zero_for_equal_sets_and_symmetric() -> None:
    a, b = gaussian(6, [0] * 4, [1, 2, 3, 4], 4), gaussian(9, [1] * 4, [2, 2, 1, 1], 5)
    assert frechet_distance(a, a[::-1]) == pytest.approx(0, abs=1e-9)
    assert frechet_distance(a, b) == pytest.approx(frechet_distance(b, a))


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 999), num=st.integers(2, 20), width=st.integers(1, 8))
def test_rotation_shift_and_order_change_nothing(seed: int, num: int, width: int) -> None:
    rng = np.random.default_rng(seed)
    a, b = rng.normal(size=(num, width)), rng.normal(1, 2, (num + 3, width))
    turned = stats.ortho_group.rvs(width, random_state=rng) if width > 1 else -np.eye(1)
    expected = pytest.approx(frechet_distance(a, b), rel=1e-6, abs=1e-6)
    assert frechet_distance(a @ turned + 3, b @ turned + 3) == expected
    assert frechet_distance(a[rng.permutation(num)], b) == expected
    assert frechet_distance(2 * a, 2 * b) == pytest.approx(4 * frechet_distance(a, b), abs=1e-6)


def test_features_without_spread_are_no_obstacle() -> None:
    rng = np.random.default_rng(5)
    a, b = rng.normal(size=(20, 3)), rng.normal(2, 1, (30, 3))
    dead = np.ones((30, 2))
    padded = frechet_distance(np.hstack([a, dead[:20]]), np.hstack([b, dead]))
    assert padded == pytest.approx(frechet_distance(a, b), rel=1e-6)


def test_distance_of_one_distribution_shrinks_with_more_images() -> None:
    rng = np.random.default_rng(6)
    small, large = (
        frechet_distance(rng.normal(size=(n, 30)), rng.normal(size=(n, 30))) for n in (40, 1000)
    )
    assert small > 5 * large > 0


@pytest.mark.parametrize("shapes", [((1, 3), (5, 3)), ((5, 3), (5, 4))])
def test_sets_that_do_not_fit_are_refused(shapes: tuple[tuple[int, ...], ...]) -> None:
    a, b = (np.zeros(shape) for shape in shapes)
    with pytest.raises(ValueError, match="of one width and two or more images"):
        frechet_distance(a, b)


# Widths on either side of the numbers of images: stored products, reduced sides, and neither.
@pytest.mark.parametrize("width", [2, 3, 5, 9, 30])
def test_weights_are_copies_of_images(width: int) -> None:
    rng = np.random.default_rng(width)
    a, b = rng.normal(5, 1, (10, width)), rng.normal(6, 2, (7, width))
    counts_a = rng.multinomial(10, [0.1] * 10, size=4)
    counts_b = rng.multinomial(9, [1 / 7] * 7, size=4)
    counts_a[0], counts_b[0] = 1, 1
    found = FrechetPair(a, b).distances(counts_a, counts_b)
    expected = [between_copies(a, b, *counts) for counts in zip(counts_a, counts_b, strict=True)]
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6)


def test_a_pair_of_sets_far_from_zero_loses_nothing() -> None:
    rng = np.random.default_rng(7)
    a, b, ones = rng.normal(size=(12, 9)), rng.normal(1, 1, (12, 9)), np.ones((1, 12), int)
    far = FrechetPair(a + 1e6, b + 1e6).distances(ones, ones)
    assert far[0] == pytest.approx(frechet_distance(a, b), rel=1e-6)


def test_counts_and_pairs_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="one width"):
        FrechetPair(np.zeros((4, 2)), np.zeros((4, 3)))
    pair = FrechetPair(np.zeros((4, 2)), np.zeros((5, 2)))
    with pytest.raises(ValueError, match=r"\(3, 4\) and \(3, 5\), got \(3, 4\) and \(2, 5\)"):
        pair.distances(np.ones((3, 4), int), np.ones((2, 5), int))


def test_rows_are_counted() -> None:
    assert count_rows([np.array([0, 2, 2]), np.array([3, 0, 1])], 4).tolist() == [
        [1, 0, 2, 0],
        [1, 1, 0, 1],
    ]


def test_extrapolation_is_the_intercept_of_the_line() -> None:
    rng = np.random.default_rng(8)
    a, b = rng.normal(size=(41, 3)), rng.normal(1, 1, (41, 3))
    levels = [21, 26, 31, 36, 41]  # from half of the images, upwards in five steps
    values = [frechet_distance(a[:n], b[:n]) for n in levels]
    order = np.arange(41)[None]
    found = FrechetPair(a, b).extrapolated(order, order)
    line = stats.linregress(1 / np.array(levels), values)
    assert found == pytest.approx(line.intercept, rel=1e-6)


def test_extrapolation_of_one_distribution_is_near_zero() -> None:
    finite, infinite = [], []
    for seed in range(12):
        rng = np.random.default_rng(seed)
        a, b = rng.normal(size=(120, 8)), rng.normal(size=(150, 8))
        finite.append(frechet_distance(a, b))
        infinite.append(frechet_extrapolated(a, b, seed=seed))
    assert np.mean(finite) > 0.2
    assert abs(np.mean(infinite)) < 0.25 * np.mean(finite)
    assert min(infinite) < 0


def test_extrapolation_follows_its_seed_and_needs_six_images() -> None:
    rng = np.random.default_rng(9)
    a, b = rng.normal(size=(20, 3)), rng.normal(size=(30, 3))
    assert frechet_extrapolated(a, b, seed=1) == frechet_extrapolated(a, b, seed=1)
    assert frechet_extrapolated(a, b, seed=1) != frechet_extrapolated(a, b, seed=2)
    assert np.isfinite(frechet_extrapolated(a[:6], b[:6]))
    with pytest.raises(ValueError, match=r"needs 6 images a side, got \(5, 30\)"):
        frechet_extrapolated(a[:5], b)


@pytest.mark.parametrize(
    ("width", "shift"), [(3, 1.0), (3, 0.0), (40, 0.5)], ids=["apart", "equal", "few images"]
)
def test_recentred_draws_cover_the_expected_distance(width: int, shift: float) -> None:
    num, runs = 30, 80
    draw: Callable[[int], tuple[np.ndarray, np.ndarray]] = lambda seed: (  # noqa: E731
        np.random.default_rng(seed).normal(size=(num, width)),
        np.random.default_rng(seed + 10**6).normal(shift, 1.2, (num, width)),
    )
    expected = np.mean([frechet_distance(*draw(seed)) for seed in range(1000, 1400)])
    hits = plain = 0
    for seed in range(runs):
        a, b = draw(seed)
        rng = np.random.default_rng(seed + 2 * 10**6)
        counts = rng.multinomial(num, [1 / num] * num, size=(2, 60))
        draws = FrechetPair(a, b).distances(counts[0], counts[1])
        low, high = recentred_interval(frechet_distance(a, b), draws)
        hits += low <= expected <= high
        plain += np.quantile(draws, 0.025) <= expected <= np.quantile(draws, 0.975)
    # 95 % asked for; 60 draws and a skew of the estimate cost some, a standard error is 2.4 %
    assert hits >= 0.86 * runs
    if width == 40:
        assert plain < 0.2 * runs  # as they are, draws lie above the truth
