"""A made-up world of places and months, as tables of tiles."""

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ecomap.schema import LandCover
from ecomap.tiles import ScoredTile, tile_table

FIRST_YEAR = 2003


def memory(rng: np.random.Generator, shape: tuple[int, int], keep: float = 0.5) -> NDArray:
    """Noise ``(places, months)`` of unit variance that remembers the month before."""
    noise = rng.normal(size=shape)
    for month in range(1, shape[1]):
        noise[:, month] = keep * noise[:, month - 1] + np.sqrt(1 - keep**2) * noise[:, month]
    return noise


def made_table(
    *,
    num_places: int = 8,
    years: int = 1,
    seed: int = 0,
    names: tuple[str, ...] = ("temperature_c", "precipitation_mm_day"),
    season: float = 8.0,
    place_spread: float = 6.0,
    south: int = 0,
    covers: tuple[LandCover, ...] = (LandCover.GRASSLANDS,),
    places_per_block: int = 1,
) -> pd.DataFrame:
    """Tiles of every month, with climate and its history: place + season + weather with memory.

    The first ``south`` places lie in the south and have their summer in January.
    """
    rng = np.random.default_rng(seed)
    num_months = 12 * (years + 1)
    wave = -np.cos(2 * np.pi * np.arange(num_months) / 12)
    turned = np.where(np.arange(num_places)[:, None] < south, -wave, wave)
    climate = {
        name: 20
        + place_spread * rng.normal(size=(num_places, 1))
        + season * turned
        + 2 * memory(rng, (num_places, num_months))
        for name in names
    }
    tiles = [
        ScoredTile(
            key=f"p{place:02d}-{month:03d}",
            place=f"p{place:02d}",
            month=f"{FIRST_YEAR + month // 12}-{month % 12 + 1:02d}",
            lat=-25.0 if place < south else 45.0,
            lon=10.0 * (place // places_per_block) - 175.0,
            land_cover=covers[place % len(covers)],
            climate={name: float(values[place, month]) for name, values in climate.items()},
            history={
                name: tuple(map(float, values[place, month - 12 : month]))
                for name, values in climate.items()
            },
        )
        for place in range(num_places)
        for month in range(12, num_months)
    ]
    return tile_table(tiles)


def grid(table: pd.DataFrame, values: NDArray) -> NDArray:
    """Values ``(places, months)`` in the order of a table of `made_table`."""
    return np.broadcast_to(values, (table["place"].nunique(), values.shape[-1])).ravel()


def with_index(table: pd.DataFrame, values: NDArray, name: str = "gcc") -> pd.DataFrame:
    """The table with an index."""
    return table.assign(**{name: np.asarray(values, np.float64)})


def noise(table: pd.DataFrame, seed: int, keep: float = 0.5) -> NDArray:
    """`memory` in the order of a table."""
    num_places = table["place"].nunique()
    rng = np.random.default_rng(seed)
    return memory(rng, (num_places, len(table) // num_places), keep).ravel()
