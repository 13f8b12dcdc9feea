"""Climate as maps: a value in every latent cell of a tile, which a ControlNet reads as channels.

A tile of many kilometres has no single climate: its mountains are colder than its plains. The
pattern inside a tile is that of the shipped normals, or of its elevation where that is given; the
level is the record's own value, so that a map says nothing else on average than the tokens do.
"""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from ecomap.climate import at_level, monthly_series, transform
from ecomap.normals import Footprint, footprint_of, open_normals
from ecomap.schema import CLIMATE, SERIES_MONTHS, TileRecord

MAP_KINDS = ("now", "season", "change")
"""The month itself; the mean of it and the two months before; its difference to the reference."""

SEASON_MONTHS = 3

LAPSE_RATE_C_PER_M = -0.0065
"""Change of temperature with height in the standard atmosphere (ISO 2533)."""

KEPT_FIELDS = 256
"""Places whose normals stay in memory."""

MAP_CHANNELS = {
    f"{variable.short}_{kind}": (name, kind)
    for name, variable in CLIMATE.items()
    for kind in MAP_KINDS
}
"""Control channel -> climate variable and kind of map."""


def climate_maps(
    channels: Sequence[str],
    records: Sequence[TileRecord],
    references: Sequence[TileRecord | None],
    shape: tuple[int, int],
    *,
    height_m: NDArray[np.float64] | None = None,
) -> dict[str, NDArray[np.float32]]:
    """Maps of some records beside their references.

    Args:
        channels: Names in `MAP_CHANNELS`; others are left out.
        records: Targets ``(B,)``.
        references: What each target is compared with; ``None`` for nothing.
        shape: Latent cells ``(h, w)`` of a tile.
        height_m: Height of each cell above that of the records' climate ``(h, w)``, metres.
            Temperature then follows it within a tile, not the normals.

    Returns:
        Channel -> float32 ``(B, 1, h, w)`` in the units of `ecomap.climate.transform`: about unit
        spread. 0 where a value is not known.
    """
    wanted = {name: MAP_CHANNELS[name] for name in channels if name in MAP_CHANNELS}
    found = {name: np.zeros((len(records), 1, *shape), np.float32) for name in wanted}
    for row, (record, reference) in enumerate(zip(records, references, strict=True)):
        for channel, (name, kind) in wanted.items():
            months = SEASON_MONTHS if kind == "season" else 1
            value = _mean_map(record, name, months, shape, height_m)
            if kind == "change":
                value = value - (
                    np.nan
                    if reference is None
                    else _mean_map(reference, name, months, shape, height_m)
                )
            found[channel][row, 0] = np.nan_to_num(value)
    return found


def _mean_map(
    record: TileRecord,
    name: str,
    months: int,
    shape: tuple[int, int],
    height_m: NDArray[np.float64] | None,
) -> NDArray[np.float64]:
    """Mean of the last months up to a record's own, transformed; NaN where none is known."""
    series = monthly_series(record, name)[SERIES_MONTHS - months :]
    calendar = (record.month_index + np.arange(-months + 1, 1)) % 12
    fields, levels = _pattern(record, name, shape, height_m)
    maps = [
        transform(name, at_level(name, fields[month], levels[month], value))
        for month, value in zip(calendar, series, strict=True)
        if np.isfinite(value)
    ]
    return np.mean(maps, axis=0) if maps else np.full(shape, np.nan)


def _pattern(
    record: TileRecord,
    name: str,
    shape: tuple[int, int],
    height_m: NDArray[np.float64] | None,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Fields of January to December ``(12, h, w)``, and their level on the tile ``(12,)``."""
    if height_m is not None and name == "temperature_c":
        field = LAPSE_RATE_C_PER_M * height_m
        return np.broadcast_to(field, (12, *shape)), np.zeros(12)
    return _normal_fields(record.lat, record.lon, footprint_of(record), shape, name)


@lru_cache(maxsize=KEPT_FIELDS)
def _normal_fields(
    lat: float, lon: float, footprint: Footprint, shape: tuple[int, int], name: str
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Normals at the centres of a tile's cells, north up, and their level.

    A record's climate is that of the land of its tile; a tile below a cell of the table is all
    land.
    """
    table = open_normals()
    if name not in table.monthly:
        return np.zeros((12, *shape)), np.zeros(12)
    offsets = [(np.arange(size) + 0.5) / size - 0.5 for size in shape]
    lats, lons = lat - offsets[0] * footprint[0], lon + offsets[1] * footprint[1]
    fields = table.interpolate(name, lats, lons)
    if min(footprint) < table.cell_deg:
        return fields, fields.mean((1, 2))
    return fields, table.climate(lat, lon, footprint)[name]
