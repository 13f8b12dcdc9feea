"""What the numbers of a climate file are: names of variables, units, and limits of nature.

A file states a *rate* (W m-2, mm/day, and temperature, which needs no time), an *amount* over a
period that the units do not name (m, J m-2), or the *total of a month* (mm month-1). `cf_months`
makes rates of all three.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from tokenize import TokenError
from typing import Any, Literal, cast

import numpy as np
from numpy.typing import NDArray

from ecomap.errors import DataError
from ecomap.schema import CLIMATE

Kind = Literal["rate", "amount", "month_total"]

STANDARD_NAMES: dict[str, tuple[str, ...]] = {
    "temperature_c": ("air_temperature",),
    "precipitation_mm_day": (
        "precipitation_flux",
        "lwe_precipitation_rate",
        "precipitation_amount",
        "lwe_thickness_of_precipitation_amount",
    ),
    "solar_radiation_mj_m2_day": (
        "surface_downwelling_shortwave_flux_in_air",
        "surface_downwelling_shortwave_flux",
        "integral_wrt_time_of_surface_downwelling_shortwave_flux_in_air",
    ),
}
"""CF standard names, and one spelling that older files have."""

EOBS_PRECIPITATION = ("rr", "thickness_of_rainfall_amount")
"""Name and standard name of E-OBS's precipitation, snow included. Elsewhere rainfall leaves snow
out, so that neither alone will do."""

USUAL_NAMES: dict[str, tuple[str, ...]] = {
    "temperature_c": ("tas", "t2m", "2t", "2m_temperature", "temperature_2m", "T2M", "tg", "tavg"),
    "precipitation_mm_day": (
        "pr",
        "tp",
        "total_precipitation",
        "mtpr",
        "avg_tprate",
        "PRECTOTCORR",
        "mean_total_precipitation_rate",
        "precip",
    ),
    "solar_radiation_mj_m2_day": (
        "rsds",
        "ssrd",
        "surface_solar_radiation_downwards",
        "msdwswrf",
        "avg_sdswrf",
        "ALLSKY_SFC_SW_DWN",
        "mean_surface_downward_short_wave_radiation_flux",
    ),
}
"""Names in CMIP, ERA5 (old and new), ARCO-ERA5, E-OBS and NASA POWER, tried in this order."""

ECMWF_AMOUNTS = ("tp", "total_precipitation", "ssrd", "surface_solar_radiation_downwards")
"""Amounts whose period depends on the product: the hour (ERA5), the day so far (ERA5-Land), or a
day (monthly means). https://confluence.ecmwf.int/pages/viewpage.action?pageId=197702790"""

UNDERSTOOD = {
    "temperature_c": "K, degC and degF",
    "precipitation_mm_day": "kg m-2 s-1, mm day-1, mm month-1, and amounts (mm, m, kg m-2)",
    "solar_radiation_mj_m2_day": "W m-2, MJ m-2 day-1, kWh m-2 day-1, and amounts (J m-2)",
}

# Unit of a rate and of an amount, by dimension; a kilogram of water per m2 is a millimetre deep.
_TARGETS: dict[str, tuple[tuple[str, Kind], ...]] = {
    "temperature_c": (("degC", "rate"),),
    "precipitation_mm_day": (
        ("mm/day", "rate"),
        ("kg m-2 day-1", "rate"),
        ("mm", "amount"),
        ("kg m-2", "amount"),
    ),
    "solar_radiation_mj_m2_day": (("MJ m-2 day-1", "rate"), ("MJ m-2", "amount")),
}

_SPELLINGS = (
    (r"\s+of\s+water(\s+equivalent)?", ""),  # ECMWF: m of water equivalent
    (r"(?i)kW-hr?", "kWh"),  # NASA POWER
    (r"−", "-"),
    (r"\bmon\b|\bmonths\b", "month"),
)

STEP_LIMITS: dict[str, tuple[float, float, float]] = {
    "temperature_c": (-95.0, 60.0, 60.0),
    "precipitation_mm_day": (0.0, 2000.0, 10_000.0),
    "solar_radiation_mj_m2_day": (0.0, 50.0, 150.0),
}
"""Least value of a step, largest of a day, largest of a shorter step (as a rate per day). WMO
records: -89.2 and 56.7 °C, 1825 mm in 24 hours, 401 mm in one hour; the sun gives 48.3 MJ m-2 in
a polar summer day above the atmosphere, and clouds at noon at most 1.7 kW m-2."""

NOISE: dict[str, float] = {"precipitation_mm_day": 0.1, "solar_radiation_mj_m2_day": 0.5}
"""Values below zero by no more than this are packing noise and become 0: mm in one step, and
MJ m-2 day-1 (6 W m-2, the night offset of pyranometers)."""


@dataclass(frozen=True)
class Measure:
    """How stored numbers become those of the contract: ``value * factor + offset``."""

    kind: Kind
    factor: float
    offset: float = 0.0


def measure_of(name: str, units: Any, *, where: str) -> Measure:
    """Find out what numbers are from their units.

    Args:
        name: Climate variable of `ecomap.schema.CLIMATE`.
        units: Attribute ``units`` of the file; None where it is missing.
        where: Variable and file, for the message.

    Returns:
        Rates in the unit of the contract; amounts and totals of a month in mm or MJ m-2.

    Raises:
        DataError: If the units are missing, unknown, or of another quantity.
    """
    found = _measure(name, units.strip()) if isinstance(units, str) and units.strip() else None
    if found is None:
        state = "has no units" if units in (None, "") else f"has the units {units!r}"
        raise DataError(
            f"{where} {state}; as {name}, {UNDERSTOOD[name]} are understood. Correct the attribute "
            "'units' in the file, for instance with ncatted."
        )
    return found


@lru_cache(maxsize=64)
def _measure(name: str, units: str) -> Measure | None:
    from cf_xarray.units import units as registry
    from pint import PintError

    text = units
    for pattern, replacement in _SPELLINGS:
        text = re.sub(pattern, replacement, text)
    try:
        unit = registry.Unit(text)
        is_month = "month" in str(unit)
        unit = unit * registry.Unit("month") if is_month else unit
        for target, kind in _TARGETS[name]:
            if unit.dimensionality == registry.Unit(target).dimensionality:
                zero, one = (
                    float(registry.Quantity(v, unit).to(target).magnitude) for v in (0.0, 1.0)
                )
                if is_month and kind == "rate":
                    return None  # mm month-2
                return Measure("month_total" if is_month else kind, one - zero, zero)
    except (PintError, TokenError, ValueError, TypeError, AssertionError, AttributeError):
        return None  # what pint raises for text that is no unit is of many kinds
    return None


def find_variables(dataset: Any, chosen: Mapping[str, str]) -> dict[str, str]:
    """Find the climate variables of an xarray dataset: by choice, standard name, usual name.

    A mean over time is sought: daily extremes, which have the same standard name, are left out
    unless chosen.

    Args:
        dataset: Dataset.
        chosen: Climate variable -> variable of the file, where the caller knows; those that the
            file lacks are passed over.

    Returns:
        Climate variable -> variable of the file; absent where there is none.

    Raises:
        DataError: If several variables are equally good.
    """
    found = {}
    for name in CLIMATE:
        if name in chosen:
            if chosen[name] in dataset.data_vars:
                found[name] = chosen[name]
            continue
        means = [str(v) for v in dataset.data_vars if _is_mean(str(v), dataset[v].attrs)]
        standard = [
            v for v in means if dataset[v].attrs.get("standard_name") in STANDARD_NAMES[name]
        ]
        usual = [v for v in USUAL_NAMES[name] if v in means]
        rain, rain_standard = EOBS_PRECIPITATION
        if name == "precipitation_mm_day" and rain in means:
            usual += [rain] * (dataset[rain].attrs.get("standard_name") == rain_standard)
        best = [v for v in usual if v in standard] or standard or usual
        if len(best) > 1 and best[0] not in usual:
            raise DataError(
                f"{dataset.encoding.get('source', 'The dataset')} has {' and '.join(best)}, all "
                f"with the standard name {dataset[best[0]].attrs['standard_name']!r}. Say which is "
                f"{name}, such as variables: {{{name}: {best[0]}}} beside the paths."
            )
        if best:
            found[name] = best[0]
    return found


def _is_mean(name: str, attributes: dict[str, Any]) -> bool:
    """Whether a variable is not the extreme of each day."""
    if re.fullmatch(r"(?i)tas(max|min)|t(max|min|x|n)|mx2t|mn2t", name):
        return False
    methods = str(attributes.get("cell_methods", ""))
    return not re.search(r"\btime:\s*(maximum|minimum|range|variance|standard_deviation)", methods)


def is_ecmwf_amount(variable: str, attributes: dict[str, Any]) -> bool:
    """Whether a variable is one whose period ECMWF's products differ in (`ECMWF_AMOUNTS`)."""
    short = attributes.get("GRIB_shortName")
    return variable in ECMWF_AMOUNTS or short in ECMWF_AMOUNTS or "GRIB_stepType" in attributes


@dataclass(frozen=True)
class Cleaned:
    """Values without noise and without what nature does not do (NaN)."""

    values: NDArray[np.float64]
    num_clipped: int
    num_unphysical: int
    lowest: float
    """Smallest value before cleaning; NaN if there was none."""
    highest: float
    """Largest."""

    @property
    def is_known(self) -> bool:
        """Whether there is any value."""
        return bool(np.isfinite(self.values).any())


def clean(name: str, rates: NDArray[np.float64], *, step_days: float) -> Cleaned:
    """Set noise below zero to 0, and values that nature does not have to NaN.

    Args:
        name: Climate variable.
        rates: Values in its unit; NaN where not known.
        step_days: Length of a step, days; about 30 for monthly means.
    """
    variable = CLIMATE[name]
    lowest, largest_day, largest_step = STEP_LIMITS[name]
    highest = largest_day if step_days > 0.99 else largest_step
    if step_days > 20:
        lowest, highest = variable.minimum, variable.maximum
    noise = NOISE.get(name, 0.0) / (min(step_days, 1.0) if variable.short != "solar" else 1.0)
    is_noise = (rates < 0) & (rates >= -noise) if noise else np.zeros(rates.shape, bool)
    values = np.where(is_noise, 0.0, rates)
    is_bad = (values < lowest) | (values > highest)
    is_any = bool(np.isfinite(rates).any())
    return Cleaned(
        np.where(is_bad | ~np.isfinite(values), np.nan, values),
        int(is_noise.sum()),
        int(is_bad.sum()),
        cast(float, np.nanmin(rates)) if is_any else float("nan"),
        cast(float, np.nanmax(rates)) if is_any else float("nan"),
    )
