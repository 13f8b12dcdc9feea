"""Standardised indices of precipitation (SPI) and temperature (STI) of a climate series.

An index says how unusual the mean over the last months is for the time of year: it is the standard
normal quantile of the mean's probability in a reference period, 0 in an ordinary year, -2 in about
the driest (coldest) of forty. Each calendar month has its own distribution: a gamma distribution
with a share of zeros for precipitation, a normal one for temperature.

scipy fits them here. xclim's indices, to which the tests compare, give the same numbers to 1e-9,
but need ten times the time and 200 MB in each process, and fail on months without variation.

References:
    McKee, Doesken & Kleist (1993), The relationship of drought frequency and duration to time
    scales. 8th Conference on Applied Climatology.
    Stagge et al. (2015), Candidate distributions for climatological drought indices (SPI and
    SPEI), https://doi.org/10.1002/joc.4267 (centre of mass for zeros)
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from data_prep.climate_series import ClimateSeries
from ecomap.errors import RequestError

MIN_YEARS = 20
"""Fewer known years do not say what is usual."""
MIN_WET_YEARS = 10
"""Fewer years with rain do not give the two parameters of a gamma distribution."""
MIN_VARIATION = 1e-4
"""Standard deviation below which there is no distribution: of precipitation as a share of its mean,
of temperature in degrees."""
LIMIT = 8.21
"""Largest index: beyond it the probability is 0 or 1 in double precision. xclim has the same."""

Array = NDArray[np.float64]


def spi(
    series: ClimateSeries, month: str, *, window: int, first_year: int, last_year: int
) -> float | None:
    """Standardised precipitation index of one month; arguments as for `spi_series`."""
    indices = spi_series(series, window=window, first_year=first_year, last_year=last_year)
    return indices.get(month)


def sti(
    series: ClimateSeries, month: str, *, window: int, first_year: int, last_year: int
) -> float | None:
    """Standardised temperature index of one month; arguments as for `spi_series`."""
    indices = sti_series(series, window=window, first_year=first_year, last_year=last_year)
    return indices.get(month)


def spi_series(
    series: ClimateSeries, *, window: int, first_year: int, last_year: int
) -> dict[str, float | None]:
    """Standardised precipitation index of all months of a series.

    Args:
        series: Climate; years before the reference period and after it are welcome.
        window: Months over which to average, the month itself and those before it.
        first_year: First year of the reference period.
        last_year: Its last year, included.

    Returns:
        Month -> index in [-8.21, 8.21], standard deviations; ``None`` where a month of the window
        is not known, or where the reference period has fewer than `MIN_YEARS` known windows of that
        calendar month, fewer than `MIN_WET_YEARS` with rain, or no variation.

    Raises:
        RequestError: If the window is empty or the reference period not in order.
    """
    return _indices(
        series, "precipitation_mm_day", _spi_of, window=window, years=(first_year, last_year)
    )


def sti_series(
    series: ClimateSeries, *, window: int, first_year: int, last_year: int
) -> dict[str, float | None]:
    """Standardised temperature index of all months of a series.

    Arguments, result and errors are as for `spi_series`, without the condition on rain.
    """
    return _indices(series, "temperature_c", _sti_of, window=window, years=(first_year, last_year))


def _indices(
    series: ClimateSeries,
    name: str,
    index_of: Callable[[Array, Array], Array | None],
    *,
    window: int,
    years: tuple[int, int],
) -> dict[str, float | None]:
    """Index of every month, calendar month by calendar month."""
    if window < 1 or years[1] < years[0]:
        raise RequestError(
            f"A window of {window} months and a reference period of {years[0]} to {years[1]} are "
            "impossible; expected a month or more, and years in order."
        )
    means = _window_means(series, name, window)
    year = np.array([int(month[:4]) for month in series.months])
    calendar_month = np.array([int(month[5:]) for month in series.months])
    in_period = (year >= years[0]) & (year <= years[1])
    result = np.full(len(means), np.nan)
    for number in range(1, 13):
        mine = (calendar_month == number) & np.isfinite(means)
        reference = means[mine & in_period]
        found = index_of(means[mine], reference) if len(reference) >= MIN_YEARS else None
        if found is not None:
            result[mine] = np.clip(found, -LIMIT, LIMIT)
    return {
        month: float(value) if np.isfinite(value) else None
        for month, value in zip(series.months, result, strict=True)
    }


def _window_means(series: ClimateSeries, name: str, window: int) -> Array:
    """Mean of each month and the ones before it; NaN where one of them is not known."""
    known = series.values.get(name, (None,) * len(series.months))
    values = np.array([np.nan if value is None else value for value in known])
    means = np.full(len(values), np.nan)
    if window <= len(values):
        means[window - 1 :] = np.lib.stride_tricks.sliding_window_view(values, window).mean(axis=1)
    return means


def _spi_of(values: Array, reference: Array) -> Array | None:
    """Index of values under a gamma distribution with a share of zeros."""
    from scipy import stats

    wet = reference[reference > 0]
    if len(wet) < MIN_WET_YEARS or wet.std() <= MIN_VARIATION * wet.mean():
        return None
    shape, loc, scale = stats.gamma.fit(wet, floc=0)
    num_dry, num = len(reference) - len(wet), len(reference)
    above = num_dry / num + (1 - num_dry / num) * stats.gamma.cdf(values, shape, loc, scale)
    return np.asarray(stats.norm.ppf(np.where(values > 0, above, (num_dry + 1) / (2 * num))))


def _sti_of(values: Array, reference: Array) -> Array | None:
    """Index of values under a normal distribution fitted by maximum likelihood."""
    deviation = reference.std()
    if deviation <= MIN_VARIATION:
        return None
    return np.asarray((values - reference.mean()) / deviation)
