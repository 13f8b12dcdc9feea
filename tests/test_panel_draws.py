"""Draws of panels: equal to samples written out, nominal coverage, exact nulls."""

from itertools import permutations

import numpy as np
import pytest
from scipy import stats

from ecomap import metrics, panel, panel_draws
from ecomap.panel import Control
from tests.panel_world import made_table, noise
from tests.test_panel import CONTROLS, ragged

BLOCK_OF_PLACE = np.array([0, 0, 1, 2, 2, 3, 3])


def written_out(blocks: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows of a drawn sample, and which copy of its block each is."""
    rows, copies = [], []
    for block, count in enumerate(counts.astype(int)):
        members = np.flatnonzero(blocks == block)
        rows += [members] * count
        copies += [np.full(len(members), copy) for copy in range(count)]
    return np.concatenate(rows), np.concatenate(copies)


@pytest.mark.parametrize("control", CONTROLS)
def test_a_draw_equals_the_sample_written_out_and_fitted_again(control: Control) -> None:
    world = ragged(2)
    blocks = BLOCK_OF_PLACE[world["places"]]
    draws = np.array([[2, 0, 1, 3], [1, 1, 1, 1], [0, 3, 0, 2], [2, 2, 0, 0]], float)
    held = panel.hold(control, world["places"], world["months"], world["others"])
    found = panel_draws.drawn_correlations(held, world["x"], world["y"], blocks, draws)
    for number, counts in enumerate(draws):
        rows, copies = written_out(blocks, counts)
        places = panel.codes(world["places"][rows] * 10 + copies)
        sample = panel.hold(control, places, world["months"][rows], world["others"][rows])
        expected = panel.correlations(sample, world["x"][rows], world["y"][rows])
        assert found[0][number] == pytest.approx(expected[0], abs=1e-8)
        assert found[1][number] == pytest.approx(expected[1], abs=1e-8)


def test_ranks_medians_and_means_of_a_draw_equal_those_of_the_sample_written_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rng = np.random.default_rng(0)
    blocks = rng.integers(0, 6, 50)
    x, y = rng.integers(0, 9, 50).astype(float), rng.normal(size=(50, 2)).round(1)
    draws = panel_draws.block_draws(6, 30, seed=1)
    monkeypatch.setattr(panel_draws, "MAX_ELEMENTS", 350)  # seven draws at a time
    spearman = panel_draws.drawn_spearman(x, y, blocks, draws)
    medians = panel_draws.drawn_medians(y[:, 0], blocks, draws)
    means = panel_draws.drawn_means(y[:, 0], blocks, draws)
    for number, counts in enumerate(draws):
        rows, _ = written_out(blocks, counts)
        for column in range(2):
            expected = stats.spearmanr(x[rows], y[rows, column]).statistic
            assert spearman[number, column] == pytest.approx(expected)
        assert medians[number] == pytest.approx(np.median(y[rows, 0]))
        assert means[number] == pytest.approx(y[rows, 0].mean())


def test_a_draw_without_rows_has_no_mean_and_no_median() -> None:
    values, blocks, draws = np.array([1.0, 2.0]), np.array([0, 0]), np.array([[0.0, 2], [1, 1]])
    for function in (panel_draws.drawn_means, panel_draws.drawn_medians):
        assert function(values, blocks, draws) == pytest.approx([np.nan, 1.5], nan_ok=True)


def test_a_draw_in_which_a_side_is_constant_has_no_correlation() -> None:
    places, months = np.array([0, 0, 1, 1, 2, 2]), np.array([0, 1] * 3)
    x, y = np.array([0.0, 1, 0, 2, 0, 3]), np.array([[1.0], [1], [0], [5], [2], [3]])
    held = panel.hold("within place", places, months)
    draws = np.array([[3.0, 0, 0], [1, 1, 1]])
    found = panel_draws.drawn_correlations(held, x, y, places, draws)
    assert np.isnan(found[0][:, 0]).tolist() == [True, False]
    assert found[1][0, 0] == 0


def test_draws_are_those_of_the_plain_bootstrap() -> None:
    rng = np.random.default_rng(3)
    values, groups = rng.normal(size=40), rng.integers(0, 7, 40).astype(str)
    expected = metrics.bootstrap_interval(values, groups, lambda v: v.mean(), num=200, seed=5)
    draws = panel_draws.block_draws(7, 200, seed=5)
    assert (draws.sum(1) == 7).all()
    drawn = panel_draws.drawn_means(values, panel.codes(groups), draws)
    assert panel_draws.interval(drawn, 7, 0.95) == pytest.approx(expected)


def test_an_interval_leaves_undefined_draws_out_and_needs_two_blocks() -> None:
    drawn = np.array([np.nan, *np.arange(101.0), np.inf])
    assert panel_draws.interval(drawn, 2, 0.9) == pytest.approx((5, 95))
    assert np.isnan(panel_draws.interval(drawn, 1, 0.9)).all()
    assert np.isnan(panel_draws.interval(np.full(3, np.nan), 5, 0.9)).all()


@pytest.mark.parametrize("control", ["within place", "given place and month"])
def test_intervals_of_slopes_cover_the_truth_about_as_often_as_they_say(control: Control) -> None:
    covered = []
    for seed in range(20):
        table = made_table(num_places=30, seed=seed)
        places, months = panel.codes(table["place"]), table["month_index"].to_numpy().astype(int)
        x = table["temperature_c"].to_numpy()
        y = 0.2 * x[:, None] + np.stack([noise(table, 100 * seed + k) for k in range(10)], axis=1)
        held = panel.hold(control, places, months)
        draws = panel_draws.block_draws(30, 300, seed)
        drawn = panel_draws.drawn_correlations(held, x, y, places, draws)[1]
        for column in drawn.T:
            low, high = panel_draws.interval(column, 30, 0.95)
            covered.append(low <= 0.2 <= high)
    # 200 intervals of 95 %: 0.90 to 0.99 is three standard errors, and few blocks narrow them
    assert 0.88 <= np.mean(covered) <= 0.99


def test_exchanges_are_permutations_inside_strata() -> None:
    strata = np.array([0, 1, 0, 0, 1])
    found = panel_draws.exchanges(strata, 600, seed=0)
    assert (np.sort(found, axis=1) == np.arange(5)).all()
    assert (strata[found] == strata).all()
    seen = {tuple(row) for row in found}
    assert len(seen) == len(list(permutations(range(3)))) * 2
    assert (found == panel_draws.exchanges(strata, 600, seed=0)).all()
    assert (found != panel_draws.exchanges(strata, 600, seed=1)).any()


def test_a_gap_takes_the_mean_of_its_calendar_month_or_else_of_the_place() -> None:
    series = np.full((2, 36), np.nan)
    series[0, [0, 12, 2]] = 1, 3, 8  # two Januaries and a March
    series[1, :] = 5
    filled = panel_draws.fill_series(series)
    assert filled[0, [0, 12, 24]].tolist() == [1, 3, 2]
    assert filled[0, [2, 14]].tolist() == [8, 8]
    assert filled[0, 1] == 4
    assert (filled[1] == 5).all()
    with pytest.raises(ValueError, match=r"\[1\]"):
        panel_draws.fill_series(np.array([[1.0] * 12, [np.nan] * 12]))


def test_p_values_by_hand() -> None:
    null = np.arange(19.0)[:, None] - 9  # -9 to 9
    assert panel_draws.two_sided_p(np.array([20.0]), null) == pytest.approx([2 / 20])
    assert panel_draws.two_sided_p(np.array([-20.0]), null) == pytest.approx([2 / 20])
    # two draws reach 8: 2 * (1 + 2) / 20
    assert panel_draws.two_sided_p(np.array([8.0]), null) == pytest.approx([0.3])
    assert panel_draws.two_sided_p(np.array([0.0]), null) == [1]
    assert np.isnan(panel_draws.two_sided_p(np.array([np.nan]), null)).all()
    # a null that does not centre on zero: a correlation of 0 is far from it
    assert panel_draws.two_sided_p(np.array([0.0]), null + 50) == pytest.approx([2 / 20])
