"""Train, validation and test sides by spatial block, and how far apart they really are.

A block's side is decided by a hash of its position, so it does not change when a dataset grows, as
long as the size of the blocks is given or the largest tile stays the same. All months of a place
are on one side. A tile that touches blocks of two sides, or lies nearer to a held-out tile than the
buffer, is set aside as ``buffer``.
"""

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.spatial import cKDTree

from ecomap.errors import RequestError
from ecomap.normals import KM_PER_DEG, footprint_of
from ecomap.schema import (
    Split,
    TileRecord,
    read_dataset,
    read_summary,
    write_dataset,
)

MAX_REACH_DEG = 10.0
"""Beyond it, degrees of longitude differ too much within reach to leave any pair out."""

HELD_OUT: tuple[Split, ...] = ("test", "val")


@dataclass(frozen=True, kw_only=True)
class SplitConfig:
    """How a dataset is divided."""

    block_deg: float | None = None
    """Side of a block; by default twice the largest tile, and at least 1 degree."""
    test_frac: float = 0.1
    """Fraction of blocks held out for testing."""
    val_frac: float = 0.05
    """Fraction of blocks held out for choosing between runs."""
    buffer_tiles: float = 1.0
    """Least gap between a training tile and a held-out one, in tile widths."""
    seed: int = 0


def check_fractions(test_frac: float, val_frac: float) -> None:
    """Refuse fractions that leave nothing to train on (RequestError)."""
    if not (min(test_frac, val_frac) >= 0 and test_frac + val_frac < 1):
        raise RequestError(
            f"test_frac {test_frac:g} + val_frac {val_frac:g} must stay below 1, and neither may "
            "be negative."
        )


def block_split(row: int, column: int, config: SplitConfig) -> Split:
    """Side of a block, from a hash of its position."""
    digest = hashlib.sha256(f"{config.seed}:{row}:{column}".encode()).digest()
    draw = int.from_bytes(digest[:8], "big") / 2**64
    if draw < config.test_frac:
        return "test"
    return "val" if draw < config.test_frac + config.val_frac else "train"


def assign_splits(
    records: Sequence[TileRecord], config: SplitConfig | None = None
) -> list[TileRecord]:
    """Give every record its side.

    Args:
        records: Records of any number of months a place.
        config: How to divide.

    Returns:
        The records in their order, with ``split`` set.

    Raises:
        RequestError: If the fractions or sizes make no sense.
    """
    config = config or SplitConfig()
    check_fractions(config.test_frac, config.val_frac)
    if not config.buffer_tiles >= 1:
        raise RequestError(f"buffer_tiles is {config.buffer_tiles:g}; it must be at least 1.")
    if config.block_deg is not None and not 0 < config.block_deg <= 180:
        raise RequestError(f"block_deg is {config.block_deg:g}; it must lie in (0, 180].")
    places = _Places(records)
    sides = places.block_sides(config)
    for held_out in HELD_OUT:
        near = places.within(sides == held_out, config.buffer_tiles)
        lower = {"test": ("train", "val"), "val": ("train",)}[held_out]
        sides[near & np.isin(sides, lower)] = "buffer"
    by_place = dict(zip(places.ids, sides.tolist(), strict=True))
    return [record.model_copy(update={"split": by_place[record.place_id]}) for record in records]


def leakage_report(records: Sequence[TileRecord]) -> dict[str, Any]:
    """Count places and tiles by side and measure how near training comes to the held-out tiles.

    Returns:
        ``places`` and ``tiles`` by split; ``shared_places``, whose months are on several sides
        and which count on each; ``train_test`` and ``train_val``, each with the smallest
        ``gap_tiles`` (between edges, in tile widths; 0 or less means overlap, -1 the same tile),
        ``edge_km`` and ``centre_km``, or ``None`` where a side is empty.
    """
    places = _Places(records)
    train, test, val = (places.on_side(side) for side in ("train", "test", "val"))
    return {
        "places": dict(Counter(side for sides in places.sides.values() for side in sorted(sides))),
        "shared_places": sum(len(sides) > 1 for sides in places.sides.values()),
        "tiles": dict(Counter(record.split for record in records)),
        "train_test": places.nearest(train, test),
        "train_val": places.nearest(train, val),
    }


def split_dataset(folder: Path, config: SplitConfig | None = None) -> dict[str, Any]:
    """Divide a dataset folder in place and return its leakage report."""
    config = config or SplitConfig()
    records = assign_splits(read_dataset(folder), config)
    report = leakage_report(records)
    summary = read_summary(folder) | {"split": asdict(config) | {"report": report}}
    write_dataset(folder, records, summary=summary)
    return report


class _Places:
    """Centres and extents of the distinct places of some records."""

    def __init__(self, records: Sequence[TileRecord]) -> None:
        first = {record.place_id: record for record in records}
        self.ids = list(first)
        self.sides: dict[str, set[Split]] = {place: set() for place in self.ids}
        for record in records:
            self.sides[record.place_id].add(record.split)
        self.lat = np.array([record.lat for record in first.values()])
        self.lon = np.array([record.lon for record in first.values()])
        extent = np.array([footprint_of(record) for record in first.values()]).reshape(-1, 2)
        self.lat_deg, self.lon_deg = extent[:, 0], extent[:, 1]

    def on_side(self, side: Split) -> np.ndarray:
        """Which places have tiles on a side, bool."""
        return np.array([side in sides for sides in self.sides.values()], dtype=bool)

    def block_sides(self, config: SplitConfig) -> np.ndarray:
        """Side of each place: that of the blocks it touches, ``buffer`` where they differ."""
        size = config.block_deg or max(1.0, 2 * float(self.lat_deg.max(initial=0.0)))
        num_columns = max(1, int(360 // size))
        sides = np.empty(len(self.ids), dtype=object)
        for index in range(len(self.ids)):
            touched = {
                block_split(
                    int((self.lat[index] + dy * self.lat_deg[index] + 90) // size),
                    int((self.lon[index] + dx * self.lon_deg[index] + 180) % 360 // size)
                    % num_columns,
                    config,
                )
                for dy in (-0.499, 0.499)
                for dx in (-0.499, 0.499)
            }
            sides[index] = touched.pop() if len(touched) == 1 else "buffer"
        return sides

    def within(self, held_out: np.ndarray, buffer_tiles: float) -> np.ndarray:
        """Which places lie nearer than the buffer to one of the held-out places."""
        near = np.zeros(len(self.ids), dtype=bool)
        for others, one in self._candidates(held_out, buffer_tiles):
            near[others] |= self.gap_tiles(others, one) < buffer_tiles - 1e-9
        return near

    def gap_tiles(self, others: np.ndarray, one: int) -> np.ndarray:
        """Gap between the edges of tiles, in widths of the larger tile; negative is overlap."""
        gaps = []
        for centre, extent, period in (
            (self.lat, self.lat_deg, None),
            (self.lon, self.lon_deg, 360.0),
        ):
            distance = np.abs(centre[others] - centre[one])
            if period is not None:
                distance = np.minimum(distance, period - distance)
            mean, larger = (
                (extent[others] + extent[one]) / 2,
                np.maximum(extent[others], extent[one]),
            )
            gaps.append((distance - mean) / larger)
        return np.asarray(np.maximum(gaps[0], gaps[1]))

    def nearest(self, side: np.ndarray, held_out: np.ndarray) -> dict[str, float] | None:
        """Smallest gap and distances between two sides; ``None`` where one is empty."""
        if not side.any() or not held_out.any():
            return None
        tree = cKDTree(self._on_sphere(np.flatnonzero(side)))
        chord, _ = tree.query(self._on_sphere(np.flatnonzero(held_out)))
        gap = np.inf
        for buffer_tiles in (1.0, 4.0, 16.0, 64.0, 1e6):
            for others, one in self._candidates(held_out, buffer_tiles):
                mine = others[side[others]]
                if len(mine):
                    gap = min(gap, float(self.gap_tiles(mine, one).min()))
            if gap <= buffer_tiles:
                break
        centre_deg = float(np.degrees(2 * np.arcsin(np.clip(chord.min() / 2, 0, 1))))
        return {
            "gap_tiles": round(gap, 4),
            "edge_km": round(self._edge_km(side, held_out, centre_deg), 1),
            "centre_km": round(centre_deg * KM_PER_DEG, 1),
        }

    def _edge_km(self, side: np.ndarray, held_out: np.ndarray, centre_deg: float) -> float:
        """Smallest distance between the edges of two sides, along the sphere.

        Pairs whose centres are much farther apart than the nearest two cannot be the ones: with
        ``centre_deg``, the distance of these, most are not looked at.
        """
        best = np.inf
        for mine, one in self._pairs(side, held_out, centre_deg):
            lat_gap = np.abs(self.lat[mine] - self.lat[one])
            lat_gap = np.maximum(lat_gap - (self.lat_deg[mine] + self.lat_deg[one]) / 2, 0)
            lon_gap = np.abs((self.lon[mine] - self.lon[one] + 180) % 360 - 180)
            lon_gap = np.maximum(lon_gap - (self.lon_deg[mine] + self.lon_deg[one]) / 2, 0)
            # The edges come nearest towards the poles, where a degree of longitude is short.
            polewards = np.minimum(
                np.maximum(
                    np.abs(self.lat[mine]) + self.lat_deg[mine] / 2,
                    abs(self.lat[one]) + self.lat_deg[one] / 2,
                ),
                90.0,
            )
            shrink = np.cos(np.radians(polewards))
            best = min(best, float(np.hypot(lat_gap, lon_gap * shrink).min()))
        return best * KM_PER_DEG

    def _pairs(
        self, side: np.ndarray, held_out: np.ndarray, centre_deg: float
    ) -> Iterator[tuple[np.ndarray, int]]:
        """For each held-out place, those of a side that may be the nearest by their edges."""
        mine = np.flatnonzero(side)
        extent = np.hypot(self.lat_deg.max(initial=0), self.lon_deg.max(initial=0))
        reach = 2 * (centre_deg + extent)
        if reach > MAX_REACH_DEG:
            yield from ((mine, int(one)) for one in np.flatnonzero(held_out))
            return
        tree = cKDTree(self._on_sphere(mine))
        chord = 2 * np.sin(np.radians(reach) / 2)
        for one in np.flatnonzero(held_out):
            near = tree.query_ball_point(self._on_sphere(np.array([one]))[0], chord)
            if near:
                yield mine[near], int(one)

    def _candidates(
        self, held_out: np.ndarray, buffer_tiles: float
    ) -> "list[tuple[np.ndarray, int]]":
        """For each held-out place, the places that may lie within the buffer of it."""
        everything = np.arange(len(self.ids))
        tree = cKDTree(self._on_sphere(everything))
        reach = np.hypot(self.lat_deg.max(initial=0), self.lon_deg.max(initial=0))
        angle = np.radians(min(180.0, reach * (1 + buffer_tiles)))
        chord = 2 * np.sin(angle / 2)
        chosen = np.flatnonzero(held_out)
        found = tree.query_ball_point(self._on_sphere(chosen), chord + 1e-9)
        return [(np.array(others), int(one)) for others, one in zip(found, chosen, strict=True)]

    def _on_sphere(self, index: np.ndarray) -> np.ndarray:
        """Unit vectors of the centres."""
        lat, lon = np.radians(self.lat[index]), np.radians(self.lon[index])
        return np.stack([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)], -1)
