"""Places of a dataset: which can be scored, how they are spread, and who resembles whom."""

import hashlib
import math
from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from ecomap.schema import CLIMATE, TileRecord

Place = dict[int, TileRecord]
"""Records of one place by calendar month, 1 to 12."""

MIN_LAND_FRAC = 0.5
"""Places with less land are left out: what is left of them says little about vegetation."""
BLOCK_DEG = 10.0
"""Places whose centres share a cell of this size are drawn together in intervals: neighbouring
tiles overlap and share their weather, so they are not independent."""


def usable_places(
    records: Sequence[TileRecord], months: Sequence[int]
) -> tuple[dict[str, list[Place]], dict[str, int]]:
    """Group records by place and keep the places that can be scored.

    Args:
        records: Records of any splits.
        months: Calendar months that a place must have. Where it has a month in several years, the
            latest counts.

    Returns:
        Places by split (``buffer`` and ``unassigned`` left out), and the number of other places by
        reason.
    """
    grouped: dict[str, Place] = {}
    for record in sorted(records, key=lambda record: record.month):
        grouped.setdefault(record.place_id, {})[record.month_index + 1] = record
    kept: dict[str, list[Place]] = {}
    dropped: Counter[str] = Counter()
    for place in grouped.values():
        reason = _why_unusable(place, months)
        if reason is None:
            kept.setdefault(first_record(place).split, []).append(place)
        else:
            dropped[reason] += 1
    return kept, dict(dropped)


def _why_unusable(place: Place, months: Sequence[int]) -> str | None:
    """First reason against a place, if any."""
    first = first_record(place)
    names = ("temperature_c", "precipitation_mm_day")
    if first.split in ("buffer", "unassigned"):
        return f"split is {first.split}"
    if not set(months) <= set(place):
        return "a month is missing"
    if (first.land_frac or 0.0) < MIN_LAND_FRAC or first.land_cover is None:
        return "too little land, or land not known"
    for record in place.values():
        for name in names:
            normals = getattr(record, f"{name}_normals") or (None,)
            if None in normals or getattr(record, name) is None:
                return "climate not known"
    return None


def spread_places(places: Sequence[Place], num: int, *, seed: int = 0) -> list[Place]:
    """Choose places as far from each other as can be, the most spread first.

    Starts from a place drawn by the seed and adds, one by one, the place whose distance to the
    nearest chosen one is largest (Gonzalez 1985, https://doi.org/10.1016/0304-3975(85)90224-5).

    Args:
        places: At least one; their order does not matter.
        num: How many; all of them if there are fewer.
        seed: Decides the first place.
    """
    ordered = sorted(places, key=lambda place: first_record(place).place_id)
    lat = np.radians([first_record(place).lat for place in ordered])
    lon = np.radians([first_record(place).lon for place in ordered])
    points = np.stack([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)], axis=1)
    chosen = [int(np.random.default_rng(seed).integers(len(ordered)))]
    nearest = np.linalg.norm(points - points[chosen[0]], axis=1)
    while len(chosen) < min(num, len(ordered)):
        nearest[chosen] = -1.0
        chosen.append(int(nearest.argmax()))
        nearest = np.minimum(nearest, np.linalg.norm(points - points[chosen[-1]], axis=1))
    return [ordered[index] for index in chosen]


def choose_cases(records: Sequence[TileRecord], num: int, *, seed: int = 0) -> list[TileRecord]:
    """Choose records in rounds: each place gives one before any place gives a second.

    Args:
        records: Records to choose from; their order does not matter.
        num: How many; all of them if there are fewer.
        seed: Shuffles the places, and the records of each.
    """
    rng = np.random.default_rng(seed)
    by_place: dict[str, list[TileRecord]] = {}
    for record in sorted(records, key=lambda record: record.tile_id):
        by_place.setdefault(record.place_id, []).append(record)
    queues = [[own[i] for i in rng.permutation(len(own))] for own in by_place.values()]
    queues = [queues[i] for i in rng.permutation(len(queues))]
    longest = max((len(queue) for queue in queues), default=0)
    rounds = [queue[turn] for turn in range(longest) for queue in queues if turn < len(queue)]
    return rounds[:num]


def shuffle_climate(places: Sequence[Place], *, seed: int = 0) -> list[Place]:
    """Give every place the climate of another one, month by month; all else stays its own.

    The other one lies in another block (`block_of`), unless one block has more than half of all.

    Args:
        places: At least two, with the same calendar months.
        seed: Decides who gets whose.
    """
    rng = np.random.default_rng(seed)
    blocks = [block_of(first_record(place)) for place in places]
    rank = dict(zip(sorted(set(blocks)), rng.permutation(len(set(blocks))).tolist(), strict=True))
    order = sorted(rng.permutation(len(places)).tolist(), key=lambda index: rank[blocks[index]])
    donors = dict(zip(order, np.roll(order, len(order) // 2).tolist(), strict=True))
    names = [f"{name}{suffix}" for name in CLIMATE for suffix in ("", "_history", "_normals")]
    return [
        {
            month: record.model_copy(
                update={name: getattr(places[donors[index]][month], name) for name in names}
            )
            for month, record in place.items()
        }
        for index, place in enumerate(places)
    ]


def nearest_analogues(places: Sequence[Place], training: Sequence[Place]) -> list[Place]:
    """Find the training place with the most similar climate for each place.

    Similar: smallest Euclidean distance of the twelve normals of temperature and of precipitation,
    each standardised over the training places; among places of the same land cover where there
    are any.

    Args:
        places: Places to find one for.
        training: At least one.
    """
    pool = np.array([_normals(place) for place in training])
    spread = pool.std(0)
    spread[spread == 0] = 1.0
    covers = np.array([first_record(place).land_cover for place in training])
    found = []
    for place in places:
        distance = np.linalg.norm((pool - _normals(place)) / spread, axis=1)
        same = covers == first_record(place).land_cover
        distance[~same & same.any()] = np.inf
        found.append(training[int(distance.argmin())])
    return found


def places_digest(records: Iterable[TileRecord]) -> str:
    """SHA-256 over the keys of the places of records, whatever their order."""
    keys = sorted({record.place_id for record in records})
    return hashlib.sha256("\n".join(keys).encode()).hexdigest()


def first_record(place: Place) -> TileRecord:
    """Its earliest calendar month."""
    return place[min(place)]


def block_of(record: TileRecord) -> str:
    """Cell of `BLOCK_DEG` that a record's centre lies in."""
    return f"{math.floor(record.lat / BLOCK_DEG)}/{math.floor(record.lon / BLOCK_DEG)}"


def _normals(place: Place) -> NDArray[np.float64]:
    """Normals of temperature, then of precipitation, January to December each, ``(24,)``."""
    first = first_record(place)
    series = (first.temperature_c_normals or ()) + (first.precipitation_mm_day_normals or ())
    return np.array(series, np.float64)
