"""Climate analogues: which tile of another place has the most similar climate."""

from collections.abc import Sequence
from typing import Literal

import numpy as np

from ecomap.places import NEEDED_CLIMATE, calendar_month
from ecomap.tiles import ScoredTile

Description = Literal["series", "normals", "month"]
"""What tells climates apart: the month and the twelve before; long-term means of January to
December; the month alone. The first tells most: it has the weather of the year."""


def nearest_analogues(
    targets: Sequence[ScoredTile], training: Sequence[ScoredTile]
) -> list[int | None]:
    """Find the training tile of another place with the most similar climate for each tile.

    Similar: smallest Euclidean distance of the numbers of `NEEDED_CLIMATE`, each standardised
    over the training tiles of the calendar month; among tiles of the same land cover where there
    are any. The numbers are those of the first `Description` that the tile and any training tile
    of its calendar month know.

    Args:
        targets: Tiles to find one for.
        training: Tiles to find it among.

    Returns:
        Position in ``training`` for each target; ``None`` where no training tile of the same
        calendar month can be compared with it.
    """
    found: list[int | None] = [None] * len(targets)
    for month in range(1, 13):
        wanted = [i for i, tile in enumerate(targets) if calendar_month(tile) == month]
        members = [i for i, tile in enumerate(training) if calendar_month(tile) == month]
        for description in ("series", "normals", "month") if wanted else ():
            pool = [i for i in members if _describe(training[i], description)]
            open_ones = [
                i for i in wanted if found[i] is None and _describe(targets[i], description)
            ]
            if pool and open_ones:
                nearest = _nearest(
                    [targets[i] for i in open_ones], [training[i] for i in pool], description
                )
                for index, place in zip(open_ones, nearest, strict=True):
                    found[index] = None if place is None else pool[place]
    return found


def _nearest(
    targets: Sequence[ScoredTile], pool: Sequence[ScoredTile], description: Description
) -> list[int | None]:
    """Position in the pool of the tile of another place that is nearest, if any."""
    numbers = np.array([_describe(tile, description) for tile in pool])
    spread = numbers.std(0)
    spread[spread == 0] = 1.0
    places = np.array([tile.place or tile.key for tile in pool], object)
    covers = np.array([tile.land_cover or 0 for tile in pool])
    found: list[int | None] = []
    for tile in targets:
        is_other = places != (tile.place or tile.key)
        is_same = is_other & (covers == tile.land_cover)
        counts = is_same if is_same.any() else is_other
        distance = np.linalg.norm(
            (numbers - np.array(_describe(tile, description))) / spread, axis=1
        )
        found.append(int(np.where(counts, distance, np.inf).argmin()) if counts.any() else None)
    return found


def _describe(tile: ScoredTile, description: Description) -> list[float] | None:
    """Numbers of temperature, then of precipitation; None unless all are known."""
    numbers: list[float | None] = []
    for name in NEEDED_CLIMATE:
        if description == "normals":
            numbers += tile.normals.get(name, (None,))
            continue
        if description == "series":
            numbers += tile.history.get(name, (None,))
        numbers.append(tile.climate.get(name))
    known = [number for number in numbers if number is not None]
    return known if len(known) == len(numbers) else None
