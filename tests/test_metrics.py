"""Metrics against values by hand, closed forms and other implementations."""

import numpy as np
import pytest
import torch
from scipy import linalg
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.image.kid import KernelInceptionDistance

from ecomap import metrics


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


def test_frechet_distance_of_gaussians_is_the_closed_form() -> None:
    a = gaussian(40, [0, 0, 1], [1, 2, 3], seed=1)
    b = gaussian(25, [3, 0, 1], [4, 2, 1], seed=2)
    # |mean|^2 = 9; (1 - 4)^2 + (2 - 2)^2 + (3 - 1)^2 = 13 for axis-aligned covariances
    assert metrics.frechet_distance(a, b) == pytest.approx(22.0, rel=1e-10)


def test_frechet_distance_uses_sample_covariance() -> None:
    a, b = np.array([[0.0], [2.0]]), np.array([[10.0], [14.0]])
    # means 1 and 12; standard deviations with ddof 1: sqrt(2) and sqrt(8)
    assert metrics.frechet_distance(a, b) == pytest.approx(121 + 2)


@pytest.mark.parametrize("num", [4, 7, 60])
def test_frechet_distance_equals_the_matrix_root_below_and_above_full_rank(num: int) -> None:
    rng = np.random.default_rng(num)
    a, b = rng.normal(size=(num, 7)) @ rng.normal(size=(7, 7)), rng.normal(1, 2, (num + 3, 7))
    covariance_a, covariance_b = np.cov(a.T), np.cov(b.T)
    root_a = np.real(linalg.sqrtm(covariance_a + 0j))
    inner = np.linalg.eigvalsh(root_a @ covariance_b @ root_a).clip(0)
    expected = (
        ((a.mean(0) - b.mean(0)) ** 2).sum()
        + np.trace(covariance_a + covariance_b)
        - 2 * np.sqrt(inner).sum()
    )
    # the matrix root of a singular matrix is itself only good to 1e-6
    assert metrics.frechet_distance(a, b) == pytest.approx(expected, rel=1e-5)


def test_frechet_distance_agrees_with_torchmetrics() -> None:
    rng = np.random.default_rng(3)
    a = rng.integers(0, 256, (90, 5)).astype(np.uint8)
    b = rng.integers(0, 200, (70, 5)).astype(np.uint8)
    other = FrechetInceptionDistance(feature=Rows(), normalize=False).set_dtype(torch.float64)
    for rows, real in ((a, True), (b, False)):
        other.update(torch.from_numpy(rows)[:, :, None, None].double(), real=real)
    assert metrics.frechet_distance(a, b) == pytest.approx(float(other.compute()), rel=1e-6)


def test_frechet_distance_is_zero_for_equal_sets_and_symmetric() -> None:
    a, b = gaussian(6, [0] * 4, [1, 2, 3, 4], 4), gaussian(9, [1] * 4, [2, 2, 1, 1], 5)
    assert metrics.frechet_distance(a, a[::-1]) == pytest.approx(0, abs=1e-9)
    assert metrics.frechet_distance(a, b) == pytest.approx(metrics.frechet_distance(b, a))


def test_frechet_distance_of_one_distribution_shrinks_with_more_images() -> None:
    rng = np.random.default_rng(6)
    small, large = (
        metrics.frechet_distance(rng.normal(size=(n, 30)), rng.normal(size=(n, 30)))
        for n in (40, 1000)
    )
    assert small > 5 * large > 0


@pytest.mark.parametrize("shapes", [((1, 3), (5, 3)), ((5, 3), (5, 4)), ((5,), (5,))])
def test_feature_matrices_that_do_not_fit_are_refused(shapes: tuple[tuple[int, ...], ...]) -> None:
    a, b = (np.zeros(shape) for shape in shapes)
    with pytest.raises(ValueError, match="feature matrices of one width"):
        metrics.frechet_distance(a, b)


def test_kernel_distance_by_hand() -> None:
    # D = 2: k(x, y) = (x . y / 2 + 1)^3. Within a: k(a0, a1) = 1; within b: (4 / 2 + 1)^3 = 27;
    # between: a0 = 0 gives 1 and 1, a1 = (2, 0) gives (2 + 1)^3 = 27 twice, mean 14.
    a, b = np.array([[0.0, 0.0], [2.0, 0.0]]), np.array([[2.0, 0.0], [2.0, 3.0]])
    result = metrics.kernel_distance(a, b, subset_size=2, num_subsets=3)
    assert result.mean == pytest.approx(1 + 27 - 2 * 14)
    assert result.std == pytest.approx(0)


@pytest.mark.filterwarnings("ignore:Metric `Kernel Inception Distance` will save:UserWarning")
def test_kernel_distance_agrees_with_torchmetrics_on_the_whole_set() -> None:
    rng = np.random.default_rng(7)
    a, b = (rng.integers(0, high, (12, 5)).astype(np.uint8) for high in (9, 7))
    other = KernelInceptionDistance(feature=Rows(), subsets=2, subset_size=12, normalize=False)
    for rows, real in ((a, True), (b, False)):
        other.update(torch.from_numpy(rows)[:, :, None, None].double(), real=real)
    result = metrics.kernel_distance(a, b, subset_size=12, num_subsets=2)
    assert result.mean == pytest.approx(float(other.compute()[0]), rel=1e-4)


def test_kernel_distance_of_one_distribution_is_zero_on_average() -> None:
    rng = np.random.default_rng(8)
    pairs = [(rng.normal(size=(20, 4)), rng.normal(size=(20, 4))) for _ in range(200)]
    means = [metrics.kernel_distance(a, b, subset_size=20, num_subsets=1).mean for a, b in pairs]
    assert abs(np.mean(means)) < 3 * np.std(means) / np.sqrt(200)
    assert min(means) < 0  # unbiased: a biased estimate is never negative


def test_kernel_distance_draws_subsets_from_the_seed() -> None:
    rng = np.random.default_rng(9)
    a, b = rng.normal(size=(30, 3)), rng.normal(1, 1, (40, 3))
    first, again, other = (
        metrics.kernel_distance(a, b, subset_size=10, num_subsets=5, seed=seed)
        for seed in (1, 1, 2)
    )
    assert first == again != other
    assert first.std > 0


@pytest.mark.parametrize("size", [1, 31])
def test_kernel_distance_refuses_subsets_larger_than_a_set(size: int) -> None:
    with pytest.raises(ValueError, match=r"\[2, 30\]"):
        metrics.kernel_distance(np.zeros((30, 3)), np.zeros((40, 3)), subset_size=size)


def test_errors_by_hand() -> None:
    assert metrics.rmse([1, 2, 3], [1, 4, 7]) == pytest.approx(np.sqrt(20 / 3))
    assert metrics.mean_absolute_error([1, 2, 3], [1, 4, -1]) == pytest.approx(2)
    with pytest.raises(ValueError, match="one shape"):
        metrics.rmse([1, 2], [1, 2, 3])


def test_pearson_by_hand() -> None:
    # deviations (-1, 0, 1) and (-2, 1, 1): 3 / sqrt(2 * 6)
    assert metrics.pearson([1, 2, 3], [0, 3, 3]) == pytest.approx(3 / np.sqrt(12))
    assert metrics.pearson([1, 2, 4], [-1, -2, -4]) == pytest.approx(-1)


def test_spearman_shares_ranks_between_ties() -> None:
    # ranks (1, 2, 3, 4) and (2.5, 1, 2.5, 4): deviations give 3 / sqrt(5 * 4.5)
    assert metrics.spearman([1, 10, 11, 500], [7, 2, 7, 9]) == pytest.approx(3 / np.sqrt(22.5))


@pytest.mark.parametrize("function", [metrics.pearson, metrics.spearman])
def test_correlation_with_a_constant_is_undefined(function: type) -> None:
    # 0.1 is not a binary fraction: a mean subtracted carelessly leaves rounding, not zeros
    assert np.isnan(function([0.1] * 7, [1, 2, 3, 4, 5, 6, 7]))
    assert np.isnan(function([1, 2, 3, 4, 5, 6, 7], [0.1] * 7))


def test_psnr_by_hand() -> None:
    a = np.full((2, 5, 3), 100, np.uint8)
    assert metrics.psnr(a, a + np.uint8(10)) == pytest.approx(10 * np.log10(255**2 / 100))
    assert metrics.psnr(a + np.uint8(10), a) == metrics.psnr(a, a + np.uint8(10))
    assert metrics.psnr(np.zeros_like(a), np.full_like(a, 255)) == pytest.approx(0)
    assert metrics.psnr(a, a) == float("inf")
    with pytest.raises(TypeError, match="float32"):
        metrics.psnr(a.astype(np.float32), a)


def test_group_anomaly_subtracts_each_groups_own_mean() -> None:
    values, groups = [1.0, 10.0, 3.0, 20.0, 8.0], ["b", "a", "b", "a", "b"]
    assert metrics.group_anomaly(values, groups).tolist() == [-3, -5, -1, 5, 4]


def test_group_anomaly_of_equal_values_is_exactly_zero() -> None:
    anomaly = metrics.group_anomaly([0.1, 0.1, 0.1, 5, 7], ["x", "x", "x", "y", "y"])
    assert anomaly.tolist() == [0, 0, 0, -1, 1]


def test_bootstrap_interval_covers_a_mean_as_the_normal_law_says() -> None:
    values = np.random.default_rng(10).normal(5, 2, 400)
    groups = [str(i) for i in range(400)]
    low, high = metrics.bootstrap_interval(values, groups, lambda v: float(v.mean()), num=2000)
    half = 1.96 * values.std() / 20
    assert low == pytest.approx(values.mean() - half, abs=0.02)
    assert high == pytest.approx(values.mean() + half, abs=0.02)


def test_bootstrap_interval_draws_whole_groups() -> None:
    # 4 places of 100 equal observations: 4 independent values, not 400
    values = np.repeat([0.0, 0.0, 1.0, 1.0], 100)
    groups = np.repeat(["a", "b", "c", "d"], 100)
    seen: list[float] = []

    def mean(drawn: np.ndarray) -> float:
        seen.append(float(drawn.mean()))
        return seen[-1]

    low, high = metrics.bootstrap_interval(values, groups, mean, num=500)
    assert set(seen) == {0.0, 0.25, 0.5, 0.75, 1.0}
    assert (low, high) == (0.0, 1.0)


def test_bootstrap_interval_keeps_rows_together() -> None:
    values = np.stack([np.arange(30.0), 2 * np.arange(30.0)], axis=1)
    groups = [str(i % 7) for i in range(30)]
    low, high = metrics.bootstrap_interval(
        values, groups, lambda v: metrics.pearson(v[:, 0], v[:, 1]), num=50
    )
    assert (low, high) == (pytest.approx(1), pytest.approx(1))


def test_bootstrap_interval_follows_seed_and_level() -> None:
    values, groups = np.arange(12.0) ** 2, [str(i // 2) for i in range(12)]

    def run(seed: int, level: float) -> metrics.Interval:
        return metrics.bootstrap_interval(
            values, groups, lambda v: float(v.mean()), num=200, seed=seed, level=level
        )

    assert run(1, 0.95) == run(1, 0.95) != run(2, 0.95)
    assert run(1, 0.95).low < run(1, 0.5).low < run(1, 0.5).high < run(1, 0.95).high


def test_bootstrap_interval_leaves_undefined_draws_out() -> None:
    values = np.array([[1.0, 2.0], [2.0, 1.0], [3.0, 5.0]])
    correlation = lambda v: metrics.pearson(v[:, 0], v[:, 1])  # noqa: E731
    interval = metrics.bootstrap_interval(values, ["a", "b", "c"], correlation, num=100)
    assert -1 <= interval.low < interval.high <= 1
    constant = metrics.bootstrap_interval(values * [0, 1], ["a", "b", "c"], correlation, num=20)
    assert np.isnan(constant).all()


def test_one_group_says_nothing_about_spread() -> None:
    interval = metrics.bootstrap_interval([1, 2, 4], ["a"] * 3, lambda v: float(v.mean()))
    assert np.isnan(interval).all()


def test_slope_through_origin_by_hand() -> None:
    assert metrics.slope_through_origin([1, 2, -1], [3, 2, 0]) == pytest.approx(7 / 6)
    assert np.isnan(metrics.slope_through_origin([0, 0], [1, 2]))


def test_every_value_needs_a_group() -> None:
    with pytest.raises(ValueError, match="2 groups for 3 values"):
        metrics.group_anomaly([1, 2, 3], ["a", "b"])
    with pytest.raises(ValueError, match="0 values"):
        metrics.bootstrap_interval([], [], lambda v: 0.0)
