"""Places of a dataset: which can be scored, how they are spread, and who swaps climate."""

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ecomap.errors import RequestError
from ecomap.schema import CLIMATE, Split, TileRecord, months_between
from ecomap.tiles import ScoredTile

MIN_LAND_FRAC = 0.5
"""Tiles with less land are left out: what is left of them says little about vegetation."""

NEEDED_CLIMATE = ("temperature_c", "precipitation_mm_day")
"""Variables that a scored tile must know."""

Place = Sequence[ScoredTile]
"""Tiles of one place, earliest month first."""


@dataclass(frozen=True, kw_only=True)
class Targets:
    """Which tiles of a dataset are scored."""

    chosen: list[ScoredTile]
    """Place by place, the most spread first; months of a place in turn."""
    others: list[ScoredTile]
    """Tiles of as many further places, for what real images score against each other; empty
    where there are too few places."""
    pool: list[ScoredTile]
    """All that could have been chosen."""
    dropped: dict[str, int]
    """Number of tiles that cannot be scored, by reason."""


def choose_targets(
    tiles: Sequence[ScoredTile],
    *,
    num_places: int,
    months: Sequence[int] | None,
    splits: Sequence[Split],
    seed: int,
) -> Targets:
    """Choose the tiles that are scored: all wanted months of places far from each other.

    Land is asked for only where a tile knows how much it has, and normals are not needed.

    Args:
        tiles: All tiles of a dataset.
        num_places: How many places; all if there are fewer.
        months: Calendar months from 1 to 12 that a place must have, in whatever years; ``None``
            takes the months that each place has.
        splits: Sides of the split that may be scored.
        seed: Decides the first place.

    Raises:
        RequestError: If the settings are impossible, or fewer than two places can be scored.
    """
    wanted = set(range(1, 13) if months is None else months)
    if not wanted or not wanted <= set(range(1, 13)) or num_places < 2:
        raise RequestError(
            f"{num_places} places in the months {sorted(wanted)} cannot be scored. Ask for two or "
            "more places, and calendar months from 1 to 12."
        )
    reasons = [_why_unusable(tile, splits) for tile in tiles]
    dropped = Counter(reason for reason in reasons if reason is not None)
    usable = [
        tile
        for tile, reason in zip(tiles, reasons, strict=True)
        if reason is None and calendar_month(tile) in wanted
    ]
    places = []
    for place in group_places(usable).values():
        if months is None or {calendar_month(tile) for tile in place} == wanted:
            places.append(place)
        else:
            dropped["its place lacks a month"] += len(place)
    if len(places) < 2:
        told = ", ".join(f"{reason}: {num}" for reason, num in dropped.items()) or "none"
        raise RequestError(
            f"{len(places)} places of the splits {', '.join(splits)} can be scored (tiles left "
            f"out: {told}). Expected at least 2; name other months or splits, or divide the "
            "dataset with 'ecomap data split'."
        )
    order = spread_places(places, 2 * num_places, seed=seed)
    rest = order[num_places:] if len(order) == 2 * num_places else []
    return Targets(
        chosen=_flat(order[:num_places]), others=_flat(rest), pool=_flat(places),
        dropped=dict(dropped),
    )  # fmt: skip


def _flat(places: Iterable[Place]) -> list[ScoredTile]:
    return [tile for place in places for tile in place]


def _why_unusable(tile: ScoredTile, splits: Sequence[Split]) -> str | None:
    """First reason against a tile, if any."""
    if tile.split not in splits:
        return f"split is {tile.split}"
    if None in (tile.place, tile.month, tile.lat, tile.lon):
        return "place, position or month not known"
    if tile.land_frac is not None and tile.land_frac < MIN_LAND_FRAC:
        return "too little land"
    if not set(NEEDED_CLIMATE) <= set(tile.climate):
        return "climate not known"
    return None


def group_places(tiles: Iterable[ScoredTile]) -> dict[str, list[ScoredTile]]:
    """Tiles by place, earliest month first; tiles that know no place or month are left out."""
    grouped: dict[str, list[ScoredTile]] = {}
    for tile in tiles:
        if tile.place is not None and tile.month is not None:
            grouped.setdefault(tile.place, []).append(tile)
    return {
        name: sorted(place, key=lambda tile: (tile.month or "", tile.key))
        for name, place in grouped.items()
    }


def spread_places(places: Sequence[Place], num: int, *, seed: int) -> list[Place]:
    """Choose places as far from each other as can be, the most spread first.

    Starts from a place drawn by the seed and adds, one by one, the place whose distance to the
    nearest chosen one is largest (Gonzalez 1985, https://doi.org/10.1016/0304-3975(85)90224-5).

    Args:
        places: At least one, with positions; their order does not matter.
        num: How many; all of them if there are fewer.
        seed: Decides the first place.
    """
    ordered = sorted(places, key=lambda place: place[0].place or "")
    positions = np.array([(place[0].lat, place[0].lon) for place in ordered], np.float64)
    lat, lon = np.radians(positions).T
    points = np.stack([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)], axis=1)
    chosen = [int(np.random.default_rng(seed).integers(len(ordered)))]
    nearest = np.linalg.norm(points - points[chosen[0]], axis=1)
    while len(chosen) < min(num, len(ordered)):
        nearest[chosen] = -1.0
        chosen.append(int(nearest.argmax()))
        nearest = np.minimum(nearest, np.linalg.norm(points - points[chosen[-1]], axis=1))
    return [ordered[index] for index in chosen]


def choose_cases(tiles: Sequence[ScoredTile], num: int, *, seed: int) -> list[ScoredTile]:
    """Choose tiles in rounds: each place gives one before any place gives a second.

    Args:
        tiles: Tiles to choose from; their order does not matter. A tile that knows no place is
            one.
        num: How many; all of them if there are fewer.
        seed: Shuffles the places, and the tiles of each.
    """
    rng = np.random.default_rng(seed)
    by_place: dict[str, list[ScoredTile]] = {}
    for tile in sorted(tiles, key=lambda tile: tile.key):
        by_place.setdefault(tile.place or tile.key, []).append(tile)
    queues = [[own[i] for i in rng.permutation(len(own))] for own in by_place.values()]
    queues = [queues[i] for i in rng.permutation(len(queues))]
    longest = max((len(queue) for queue in queues), default=0)
    rounds = [queue[turn] for turn in range(longest) for queue in queues if turn < len(queue)]
    return rounds[:num]


def shuffle_climate(tiles: Sequence[ScoredTile], *, seed: int) -> list[ScoredTile]:
    """Give every place the climate of another one, month by month; all else stays its own.

    The other one lies in another cell (`ScoredTile.cell`), unless one cell has more than half of
    all. Its tile is that of the same month; where there is none, of the nearest calendar month,
    and of these the nearest in time.

    Args:
        tiles: Of two or more places, with months.
        seed: Decides who gets whose.

    Returns:
        One tile for each, in their order; the record, where there is one, changes likewise.

    Raises:
        RequestError: If there are fewer than two places, or a tile knows no place or month.
    """
    places = group_places(tiles)
    if len(places) < 2 or sum(map(len, places.values())) < len(tiles):
        raise RequestError(
            f"{len(tiles)} tiles of {len(places)} places cannot swap their climate. Expected tiles "
            "of two or more places, each with its place and month."
        )
    rng = np.random.default_rng(seed)
    names = sorted(places)
    cells = [places[name][0].cell or "" for name in names]
    rank = dict(zip(sorted(set(cells)), rng.permutation(len(set(cells))).tolist(), strict=True))
    order = sorted(rng.permutation(len(names)).tolist(), key=lambda index: rank[cells[index]])
    donors = dict(zip(order, np.roll(order, len(order) // 2).tolist(), strict=True))
    donor_of = {names[own]: places[names[other]] for own, other in donors.items()}
    return [_with_climate(tile, donor_of[tile.place or ""]) for tile in tiles]


def _with_climate(tile: ScoredTile, donor: Place) -> ScoredTile:
    """A tile under the climate that another place has in its month."""
    other = min(donor, key=lambda one: _months_apart(tile.month or "", one.month or ""))
    record = tile.record
    if record is not None and other.record is not None:
        names = [f"{name}{suffix}" for name in CLIMATE for suffix in ("", "_history", "_normals")]
        names += ["climate_kind", "climate_source", "spi", "sti"]
        record = record.model_copy(update={name: getattr(other.record, name) for name in names})
    return replace(
        tile,
        climate=other.climate,
        history=other.history,
        normals=other.normals,
        climate_kind=other.climate_kind,
        record=record,
    )


def _months_apart(a: str, b: str) -> tuple[int, int]:
    """Distance in the year's circle, then in time, months."""
    apart = months_between(a, b)
    return min(apart % 12, -apart % 12), abs(apart)


def places_digest(records: Iterable[TileRecord]) -> str:
    """SHA-256 over the keys of the places of records, whatever their order."""
    keys = sorted({record.place_id for record in records})
    return hashlib.sha256("\n".join(keys).encode()).hexdigest()


def calendar_month(tile: ScoredTile) -> int | None:
    """1 to 12, ``None`` where it is not known."""
    return None if tile.month is None else int(tile.month[5:])
