"""Drought indices: by hand, against xclim, and on a climate model's years."""

import math
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_prep.climate_series import ClimateSeries
from data_prep.drought import LIMIT, spi, spi_series, sti, sti_series
from data_prep.prep_config import month_range
from ecomap.errors import RequestError

T, P = "temperature_c", "precipitation_mm_day"
PERIOD = {"first_year": 1991, "last_year": 2020}


def series(
    rain: Any = None, temperature: Any = None, *, first_month: str = "1985-01"
) -> ClimateSeries:
    values = {P: rain, T: temperature}
    known = {
        name: tuple(None if v is None or math.isnan(v) else float(v) for v in found)
        for name, found in values.items()
        if found is not None
    }
    year, number = int(first_month[:4]), int(first_month[5:])
    end = 12 * year + number - 1 + len(next(iter(known.values()))) - 1
    months = month_range(first_month, f"{end // 12}-{end % 12 + 1:02d}")
    return ClimateSeries(lat=0, lon=0, cell_id="a", months=months, values=known, source="Made up")


def rain(num_years: int = 40, *, dry_share: float = 0.15, seed: int = 0) -> np.ndarray:
    """Rain with a season; some months have none."""
    rng = np.random.default_rng(seed)
    season = np.tile(1.2 + np.sin(np.arange(12) / 12 * 2 * np.pi), num_years)
    values = season * rng.gamma(2.0, 1.0, 12 * num_years)
    values[rng.random(len(values)) < dry_share] = 0
    return values


def warmth(num_years: int = 40, *, seed: int = 0) -> np.ndarray:
    season = np.tile(-12 * np.cos(np.arange(12) / 12 * 2 * np.pi), num_years)
    return season + np.random.default_rng(seed).normal(5, 2, 12 * num_years)


def test_sti_by_hand():
    # Julys of 1991 to 2020 are 1 to 30: mean 15.5, variance (30 x 30 - 1) / 12.
    temperature = np.zeros(40 * 12)
    temperature[6::12] = [*range(100 - 6, 100), *range(1, 31), 50, 51, 52, 53]
    temperature[6:72:12] = 20  # before the period: must not count
    made = series(temperature=temperature)
    deviation = math.sqrt(899 / 12)
    assert sti(made, "1991-07", window=1, **PERIOD) == pytest.approx((1 - 15.5) / deviation)
    assert sti(made, "2020-07", window=1, **PERIOD) == pytest.approx((30 - 15.5) / deviation)
    assert sti(made, "2024-07", window=1, **PERIOD) == pytest.approx((53 - 15.5) / deviation)
    assert sti(made, "2024-06", window=1, **PERIOD) is None  # all Junes are 0 °C
    # With two months, Julys are half of it, and so is their deviation.
    assert sti(made, "1991-07", window=2, **PERIOD) == pytest.approx((1 - 15.5) / deviation)
    # Augusts of two months hold the Julys before them.
    assert sti(made, "1992-08", window=2, **PERIOD) == pytest.approx((2 - 15.5) / deviation)


def test_a_month_without_rain_stands_in_the_middle_of_those_without():
    # 12 of 30 Januaries are dry: ranks 1 to 12, whose middle is 6.5 of 30.
    values = rain(dry_share=0)
    values[72:432:12] = [0.0] * 12 + [1.0, 2.0, 3.0] * 6
    made = series(rain=values)
    expected = NormalDist().inv_cdf(6.5 / 30)
    assert spi(made, "1991-01", window=1, **PERIOD) == pytest.approx(expected)
    # 1.0 is above all dry ones; its own place is by the gamma distribution.
    assert spi(made, "2003-01", window=1, **PERIOD) > NormalDist().inv_cdf(12 / 30)


def test_the_wettest_month_has_the_largest_index_and_order_is_kept():
    values = rain(dry_share=0)
    found = spi_series(series(rain=values), window=1, **PERIOD)
    januaries = values[0::12]
    indices = np.array([found[f"{1985 + year}-01"] for year in range(40)])
    assert (np.argsort(januaries) == np.argsort(indices)).all()


# xclim reads a name that pandas 3 has renamed.
XCLIM = pytest.mark.filterwarnings("ignore:The 'name' property is deprecated")


def as_xarray(values: np.ndarray, unit: str) -> Any:
    import pandas as pd
    import xarray as xr

    time = pd.date_range("1985-01-01", periods=len(values), freq="MS")
    return xr.DataArray(values, dims="time", coords={"time": time}, attrs={"units": unit})


def assert_same(found: dict[str, float | None], expected: Any) -> None:
    ours = np.array([np.nan if value is None else value for value in found.values()])
    np.testing.assert_allclose(ours, expected.values, atol=1e-9)
    assert np.isfinite(ours).sum() > 400


@XCLIM
@pytest.mark.parametrize("window", [1, 3, 12])
def test_spi_is_that_of_xclim(window: int):
    from xclim.indices import standardized_precipitation_index

    values = rain(dry_share=0.3 if window == 1 else 0.6)
    values[200] = np.nan
    found = spi_series(series(rain=values), window=window, **PERIOD)
    expected = standardized_precipitation_index(
        as_xarray(values, "mm/day"),
        freq="MS",
        window=window,
        dist="gamma",
        method="ML",
        fitkwargs={"floc": 0},
        cal_start="1991-01-01",
        cal_end="2020-12-31",
        prob_zero_interpolation="center",
    )
    assert_same(found, expected)


@XCLIM
@pytest.mark.parametrize("window", [1, 6])
def test_sti_is_xclims_index_with_a_normal_distribution(window: int):
    from scipy.stats import norm
    from xclim.indices.stats import standardized_index

    values = warmth()
    expected = standardized_index(
        as_xarray(values, "degC"),
        freq="MS",
        window=window,
        dist=norm,
        method="ML",
        zero_inflated=False,
        fitkwargs={},
        cal_start="1991-01-01",
        cal_end="2020-12-31",
    )
    assert_same(sti_series(series(temperature=values), window=window, **PERIOD), expected)


def test_single_months_are_those_of_the_whole_series():
    made = series(rain=rain(), temperature=warmth())
    for one, all_of in ((spi, spi_series), (sti, sti_series)):
        found = all_of(made, window=3, **PERIOD)
        assert list(found) == list(made.months)
        for month in ("1985-02", "1999-12", "2024-12"):
            assert one(made, month, window=3, **PERIOD) == found[month]
        assert found["1985-02"] is None
        assert found["1985-03"] is not None
        assert one(made, "2025-01", window=3, **PERIOD) is None
        assert one(made, "1984-12", window=3, **PERIOD) is None


def test_an_unknown_month_blanks_the_windows_that_hold_it():
    values, warm = rain(), warmth()
    values[300], warm[300] = np.nan, np.nan  # 2010-01
    made = series(rain=values, temperature=warm)
    for index in (spi_series, sti_series):
        found = index(made, window=3, **PERIOD)
        assert [month for month, value in found.items() if value is None] == [
            "1985-01", "1985-02", "2010-01", "2010-02", "2010-03"
        ]  # fmt: skip


@pytest.mark.parametrize("index", [spi_series, sti_series])
def test_fewer_than_twenty_known_years_say_nothing(index: Any):
    values, warm = rain(dry_share=0), warmth()
    # Marches of 1991 to 2001 are unknown: 19 are left. Of Aprils 20 are left.
    for number, last in ((2, 2001), (3, 2000)):
        values[72 + number : 12 * (last - 1985) + 12 : 12] = np.nan
        warm[72 + number : 12 * (last - 1985) + 12 : 12] = np.nan
    found = index(series(rain=values, temperature=warm), window=1, **PERIOD)
    assert all(found[f"{year}-03"] is None for year in range(1985, 2025))
    assert found["2010-04"] is not None
    short = index(series(rain=values, temperature=warm), window=1, first_year=2004, last_year=2022)
    assert set(short.values()) == {None}


@pytest.mark.parametrize("value", [0.0, 2.0, 1e-9])
def test_a_climate_without_variation_has_no_index(value: float):
    made = series(rain=[value] * 480, temperature=[value] * 480)
    assert set(spi_series(made, window=3, **PERIOD).values()) == {None}
    assert set(sti_series(made, window=3, **PERIOD).values()) == {None}


def test_fewer_than_ten_years_with_rain_have_no_index():
    values = rain(dry_share=0)
    values[72 + 6 : 432 : 12] = [0.0] * 21 + [float(number) for number in range(1, 10)]
    values[72 + 7 : 432 : 12] = [0.0] * 20 + [float(number) for number in range(1, 11)]
    found = spi_series(series(rain=values), window=1, **PERIOD)
    assert found["2015-07"] is None
    assert found["2015-08"] is not None


def test_a_deluge_reaches_the_limit_and_not_infinity():
    values, warm = rain(dry_share=0), warmth()
    values[-12], warm[-12], warm[-11] = 119.0, 54.0, -74.0
    values[-11] = 1e-300
    made = series(rain=values, temperature=warm)
    found = spi_series(made, window=1, **PERIOD)
    assert found["2024-01"] == LIMIT
    assert found["2024-02"] == -LIMIT
    found = sti_series(made, window=1, **PERIOD)
    assert found["2024-01"] == LIMIT
    assert found["2024-02"] == -LIMIT


def test_a_variable_that_the_source_lacks_has_no_index():
    made = series(temperature=warmth())
    assert set(spi_series(made, window=3, **PERIOD).values()) == {None}


def test_a_window_longer_than_the_series_has_no_index():
    made = series(temperature=[1.0, 2.0])
    assert sti_series(made, window=3, **PERIOD) == {"1985-01": None, "1985-02": None}


@pytest.mark.parametrize("bad", [{"window": 0}, {"window": 1, "last_year": 1990}])
def test_an_impossible_request_is_refused(bad: dict[str, int]):
    with pytest.raises(RequestError, match="impossible"):
        spi(series(rain=rain()), "2000-01", **(PERIOD | bad))


@given(
    st.lists(
        st.one_of(st.just(0.0), st.floats(min_value=0, max_value=120)), min_size=30, max_size=30
    )
)
def test_any_rain_gives_an_index_within_the_limits_or_none(years: list[float]):
    values = np.repeat(years, 12)  # every month of a year alike
    found = spi_series(series(rain=values, first_month="1991-01"), window=1, **PERIOD)
    known = [value for value in found.values() if value is not None]
    assert all(abs(value) <= LIMIT for value in known)


@pytest.mark.shared
def test_the_indices_of_a_climate_model_are_standardised_over_the_reference(shared_data: Path):
    import xarray as xr

    path = shared_data / "climate_samples" / "xclim-testdata" / "sdba" / "CanESM2_1950-2100.nc"
    with xr.open_dataset(path) as model:
        assert model.time.dt.calendar == "noleap"
        daily = {
            name: model[name].transpose("location", "time").values for name in ("pr", "tasmax")
        }
    lengths = np.tile([31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31], 151)
    starts = np.cumsum(lengths) - lengths
    means = {name: np.add.reduceat(v, starts, axis=1) / lengths for name, v in daily.items()}
    for rain_kg, warmth_k in zip(means["pr"], means["tasmax"], strict=True):
        made = series(rain=rain_kg * 86_400, temperature=warmth_k - 273.15, first_month="1950-01")
        for index in (spi_series, sti_series):
            found = index(made, window=3, first_year=1981, last_year=2010)
            values = np.array([v for m, v in found.items() if "1981" <= m[:4] <= "2010"])
            assert abs(values.mean()) < 0.03, index.__name__
            assert abs(values.std() - 1) < 0.06, index.__name__
        # RCP8.5 warms every place by far more than a standard deviation.
        warmed = [v for month, v in found.items() if month[:4] >= "2071"]
        assert np.mean(warmed) > 1.5
