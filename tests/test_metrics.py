"""Metrics against values by hand, closed forms."""

import numpy as np
import pytest

from ecomap import metrics


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


def test_mean_interval_is_the_bootstrap_interval_of_the_mean() -> None:
    rng = np.random.default_rng(11)
    values, groups = rng.normal(size=40), [str(i) for i in rng.integers(0, 9, 40)]
    for level in (0.95, 0.6):
        expected = metrics.bootstrap_interval(
            values, groups, lambda v: float(v.mean()), num=150, seed=3, level=level
        )
        found = metrics.mean_interval(values, groups, num=150, seed=3, level=level)
        assert found == pytest.approx(expected)
    assert np.isnan(metrics.mean_interval([1, 2], ["a", "a"])).all()
    with pytest.raises(ValueError, match="1 groups for 2 values"):
        metrics.mean_interval([1, 2], ["a"])


def test_recentred_interval_by_hand() -> None:
    # draws 12, 14, ..., 20 lie 6 above the value on average; deviations -4 to 4
    draws = [12.0, 14, 16, 18, 20, np.nan]
    assert metrics.recentred_interval(10, draws, level=0.5) == pytest.approx((8, 12))
    assert metrics.recentred_interval(10, draws, level=1 - 1e-9) == pytest.approx((6, 14))
    assert metrics.recentred_interval(1, draws, level=0.5, minimum=0) == pytest.approx((0, 3))
    assert metrics.recentred_interval(-9, draws, level=0.5, minimum=0) == (0, 0)


def test_one_draw_says_nothing_about_spread() -> None:
    assert np.isnan(metrics.recentred_interval(10, [12.0, np.nan])).all()
    assert np.isnan(metrics.recentred_interval(10, [])).all()


def test_slope_through_origin_by_hand() -> None:
    assert metrics.slope_through_origin([1, 2, -1], [3, 2, 0]) == pytest.approx(7 / 6)
    assert np.isnan(metrics.slope_through_origin([0, 0], [1, 2]))


def test_every_value_needs_a_group() -> None:
    with pytest.raises(ValueError, match="2 groups for 3 values"):
        metrics.group_anomaly([1, 2, 3], ["a", "b"])
    with pytest.raises(ValueError, match="0 values"):
        metrics.bootstrap_interval([], [], lambda v: 0.0)
