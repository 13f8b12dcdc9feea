"""Panels: estimators against values by hand, regressions with dummies, and planted confounds."""

import numpy as np
import pytest
import statsmodels.api as sm
from hypothesis import given
from hypothesis import strategies as st
from scipy import linalg, stats

from ecomap import panel
from ecomap.panel import Control
from tests.panel_world import made_table, noise

CONTROLS: tuple[Control, ...] = (
    "raw",
    "within place",
    "deseasonalised",
    "given place and month",
    "given each place's own season",
    "given place, month and the other climate",
)


def ragged(seed: int = 0) -> dict[str, np.ndarray]:
    """An unbalanced panel of 7 places, 2 years, both hemispheres, with a fifth of it missing."""
    rng = np.random.default_rng(seed)
    places, when = (a.ravel() for a in np.mgrid[0:7, 0:24])
    kept = rng.random(len(places)) < 0.8
    places, when = places[kept], when[kept]
    months = panel.season_codes(when % 12, np.where(places < 3, -20.0, 50.0))
    others = rng.normal(size=(len(places), 2)) * [1, 1000]
    x = rng.normal(size=len(places)) + places + np.cos(months) + others @ [0.5, 0.001]
    y = rng.normal(size=(len(places), 3)) + 0.3 * x[:, None] - places[:, None] + months[:, None]
    return {"places": places, "months": months, "others": others, "x": x, "y": y}


def dummies(control: Control, world: dict[str, np.ndarray]) -> np.ndarray:
    """Columns of an ordinary regression that hold the same fixed, written out."""
    places, months = world["places"], world["months"]
    of_place, of_month = np.eye(7)[places], np.eye(24)[months]
    if control == "raw":
        return np.ones((len(places), 1))
    if control == "within place":
        return of_place
    if control == "deseasonalised":
        return np.eye(7 * 24)[places * 24 + months]
    columns = [of_place, of_month]
    if control == "given each place's own season":
        angle = 2 * np.pi * (months % 12) / 12
        columns += [of_place * np.cos(angle)[:, None], of_place * np.sin(angle)[:, None]]
    if control == "given place, month and the other climate":
        columns.append(world["others"])
    return np.hstack(columns)


@pytest.mark.parametrize("control", CONTROLS)
def test_slope_and_correlation_equal_a_regression_with_dummies(control: Control) -> None:
    world = ragged()
    held = panel.hold(control, world["places"], world["months"], world["others"])
    correlation, slope = panel.correlations(held, world["x"], world["y"])
    fixed = dummies(control, world)
    fixed = linalg.orth(fixed)  # the same space without what is said twice
    for column in range(3):
        fit = sm.OLS(world["y"][:, column], np.column_stack([world["x"], fixed])).fit()
        t, left = fit.tvalues[0], fit.df_resid
        assert slope[column] == pytest.approx(fit.params[0], rel=1e-9)
        # the partial correlation of a coefficient, from its t value
        assert correlation[column] == pytest.approx(t / np.sqrt(t**2 + left), rel=1e-8)


def test_partial_correlation_equals_that_of_the_inverse_covariance() -> None:
    # The definition that packages of partial correlations use, dummies as further variables.
    world = ragged(1)
    fixed = dummies("given place and month", world)
    # first dummies of places and of months in each hemisphere are implied by the others
    kept = [i for i in range(1, fixed.shape[1]) if i not in (7, 19) and fixed[:, i].any()]
    everything = np.column_stack([world["x"], world["y"][:, 0], fixed[:, kept], world["others"]])
    precision = np.linalg.inv(np.cov(everything.T))
    expected = -precision[0, 1] / np.sqrt(precision[0, 0] * precision[1, 1])
    held = panel.hold(CONTROLS[-1], world["places"], world["months"], world["others"])
    found = panel.correlations(held, world["x"], world["y"][:, :1])[0]
    assert found[0] == pytest.approx(expected, rel=1e-8)


def test_raw_and_within_place_by_hand() -> None:
    places, months = np.array([0, 0, 1, 1]), np.zeros(4, np.intp)
    x, y = np.array([1.0, 3.0, 11.0, 13.0]), np.array([[2.0], [6.0], [1.0], [3.0]])
    # within: deviations of x (-1, 1, -1, 1) and of y (-2, 2, -1, 1): products 6, squares 4 and 10
    correlation, slope = panel.correlations(panel.hold("within place", places, months), x, y)
    assert correlation[0] == pytest.approx(6 / np.sqrt(40))
    assert slope[0] == pytest.approx(6 / 4)
    # raw: x - 7 is (-6, -4, 4, 6), y - 3 is (-1, 3, -2, 0): products 6 - 12 - 8 = -14
    correlation, slope = panel.correlations(panel.hold("raw", places, months), x, y)
    assert correlation[0] == pytest.approx(-14 / np.sqrt(104 * 14))
    assert slope[0] == pytest.approx(-14 / 104)


def test_deseasonalised_compares_a_calendar_month_with_itself_in_other_years() -> None:
    # Place 0 has January in three years and February in one; place 1 has each month once.
    places, months = np.array([0, 0, 0, 0, 1, 1]), np.array([0, 0, 0, 1, 0, 1])
    held = panel.hold("deseasonalised", places, months)
    assert held.rows.tolist() == [0, 1, 2]
    values = np.array([1.0, 2.0, 6.0, 100.0, 50.0, 60.0])
    assert held.residuals(values).tolist() == pytest.approx([-2, -1, 3])
    with_one_year = panel.hold("deseasonalised", places[3:], months[3:])
    assert with_one_year.rows.size == 0


def test_a_place_with_too_few_rows_says_nothing() -> None:
    places, months = np.array([0, 0, 1, *[2] * 6]), np.array([0, 1, 0, *range(6)])
    assert panel.hold("within place", places, months).rows.tolist() == [0, 1, *range(3, 9)]
    own = panel.hold("given each place's own season", places, months)
    assert own.rows.tolist() == list(range(3, 9))


def test_own_season_takes_out_a_wave_of_any_size_and_phase() -> None:
    places, months = (a.ravel() for a in np.mgrid[0:4, 0:12])
    wave = places * np.cos(2 * np.pi * (months - 3 * places) / 12) + 5 * places
    own = panel.hold("given each place's own season", places, months)
    assert own.residuals(wave) == pytest.approx(np.zeros(48), abs=1e-12)
    plain = panel.hold("given place and month", places, months)
    assert np.abs(plain.residuals(wave)).max() > 0.5


def test_months_of_the_south_are_months_of_their_own() -> None:
    assert panel.season_codes([0, 6, 0, 6], [10.0, 10, -10, np.nan]).tolist() == [0, 6, 12, 6]


def test_what_is_constant_once_controlled_has_no_correlation_and_no_slope() -> None:
    world = ragged()
    of_place, of_month = world["places"] * 0.1, np.sin(world["months"])
    y = np.column_stack([of_place, of_place + of_month, np.full(len(of_place), 0.1)])
    within = panel.hold("within place", world["places"], world["months"])
    correlation, slope = panel.correlations(within, world["x"], y)
    assert np.isnan(correlation).tolist() == [True, False, True]
    assert slope[0] == slope[2] == 0
    both = panel.hold("given place and month", world["places"], world["months"])
    correlation, slope = panel.correlations(both, world["x"], y)
    assert np.isnan(correlation).all()
    assert (slope == 0).all()
    correlation, slope = panel.correlations(both, of_place + of_month, world["y"])
    assert np.isnan(correlation).all()
    assert np.isnan(slope).all()


@given(st.integers(0, 1000), st.floats(0.01, 100), st.floats(-50, 50))
def test_effects_of_places_and_months_change_nothing(seed: int, scale: float, shift: float) -> None:
    world, rng = ragged(), np.random.default_rng(seed)
    held = panel.hold("given place and month", world["places"], world["months"])
    before = panel.correlations(held, world["x"], world["y"])
    of_place, of_month = rng.normal(size=7), rng.normal(size=24)
    effect = shift + of_place[world["places"]] + of_month[world["months"]]
    after = panel.correlations(held, scale * world["x"] + effect, world["y"] - effect[:, None])
    assert after[0] == pytest.approx(before[0], abs=1e-7)
    assert after[1] * scale == pytest.approx(before[1], abs=1e-7)


def test_spearman_equals_scipy_and_takes_rounding_for_ties() -> None:
    rng = np.random.default_rng(2)
    x, y = rng.integers(0, 6, 40).astype(float), rng.normal(size=(40, 2))
    expected = [stats.spearmanr(x, y[:, k]).statistic for k in range(2)]
    assert panel.spearman(x, y) == pytest.approx(expected)
    assert panel.spearman(x + 1e-13 * rng.normal(size=40), y) == pytest.approx(expected)
    assert np.isnan(panel.spearman(np.full(40, 0.1), y)).all()


def test_a_place_that_drives_both_is_found_raw_and_not_within() -> None:
    table = made_table(num_places=40, season=0.0, seed=3)
    x = table["temperature_c"].to_numpy()
    of_place = table.groupby("place")["temperature_c"].transform("mean").to_numpy()
    y = (of_place + noise(table, 4))[:, None]
    places, months = panel.codes(table["place"]), table["month_index"].to_numpy().astype(int)
    raw, within = (
        panel.correlations(panel.hold(control, places, months), x, y)[0][0]
        for control in ("raw", "within place")
    )
    assert raw > 0.8
    assert abs(within) < 0.1


def test_a_season_that_drives_both_is_found_within_places_and_not_given_the_month() -> None:
    table = made_table(num_places=40, south=20, place_spread=0.0, seed=5)
    x = table["temperature_c"].to_numpy()
    season = table.groupby(["month_index", "lat"])["temperature_c"].transform("mean").to_numpy()
    y = (season + noise(table, 6))[:, None]
    places = panel.codes(table["place"])
    months = panel.season_codes(table["month_index"], table["lat"])
    within, given_month = (
        panel.correlations(panel.hold(control, places, months), x, y)[0][0]
        for control in ("within place", "given place and month")
    )
    assert within > 0.8
    assert abs(given_month) < 0.1
    # one effect a month for the whole Earth would leave the season in
    global_months = table["month_index"].to_numpy().astype(int)
    held = panel.hold("given place and month", places, global_months)
    assert panel.correlations(held, x, y)[0][0] > 0.8


def test_seasons_that_differ_between_places_need_the_control_of_each_places_own() -> None:
    table = made_table(num_places=40, season=0.0, place_spread=0.0, seed=7)
    places = panel.codes(table["place"])
    months = table["month_index"].to_numpy().astype(int)
    strength = np.random.default_rng(8).normal(size=40)[places]
    wave = 5 * strength * np.cos(2 * np.pi * months / 12)
    x, y = table["temperature_c"].to_numpy() + wave, (noise(table, 9) + wave)[:, None]
    plain, own = (
        panel.correlations(panel.hold(control, places, months), x, y)[0][0]
        for control in ("given place and month", "given each place's own season")
    )
    assert plain > 0.6
    assert abs(own) < 0.1


@pytest.mark.parametrize("control", CONTROLS[:5])
def test_a_planted_response_is_found_under_every_control(control: Control) -> None:
    table = made_table(num_places=30, years=2, seed=10)
    x = table["temperature_c"].to_numpy()
    y = (0.5 * x + 0.3 * noise(table, 11))[:, None]
    places, months = panel.codes(table["place"]), table["month_index"].to_numpy().astype(int)
    correlation, slope = panel.correlations(panel.hold(control, places, months), x, y)
    assert correlation[0] > 0.9
    assert slope[0] == pytest.approx(0.5, abs=0.02)
