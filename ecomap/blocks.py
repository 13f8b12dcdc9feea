"""Blocks of places that can be drawn as if they were independent.

Neighbouring tiles share their weather and, where they overlap, their pixels. A block is a cell of
`ecomap.tiles.BLOCK_DEG` degrees, or several cells whose tiles overlap.
"""

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from ecomap.schema import TileRecord
from ecomap.tiles import ScoredTile

DEGREE_M = 111_320.0
"""Length of a degree of latitude; IUGG mean radius 6,371,009 m."""


def with_blocks(*parts: Sequence[ScoredTile]) -> list[list[ScoredTile]]:
    """Tiles that know their block, found over all parts together.

    Args:
        parts: Tiles that are scored together. A tile without a position keeps its place as block.
    """
    tiles = [tile for part in parts for tile in part]
    names = sorted({tile.block for tile in tiles if tile.block is not None})
    code = {name: number for number, name in enumerate(names)}
    placed = {tile.place or tile.key: tile for tile in tiles if tile.lat is not None}
    firsts = [tile for tile in placed.values() if tile.lon is not None]
    pairs = _overlaps(firsts)
    ends = [[code[firsts[i].block or ""] for i in side] for side in pairs]
    links = coo_array((np.ones(len(ends[0])), (ends[0], ends[1])), shape=(len(names), len(names)))
    _, group = connected_components(links, directed=False)
    leader: dict[int, str] = {}
    for name, number in zip(names, group.tolist(), strict=True):
        leader.setdefault(number, name)
    block = {name: leader[number] for name, number in zip(names, group.tolist(), strict=True)}
    return [
        [tile if tile.block is None else replace(tile, region=block[tile.block]) for tile in part]
        for part in parts
    ]


def extent_deg(record: TileRecord) -> tuple[float, float]:
    """Height and width of a tile in degrees of latitude and longitude."""
    if record.crs == "EPSG:4326" and record.transform is not None:
        across, _, _, _, down, _ = record.transform
        return abs(down) * record.height_px, abs(across) * record.width_px
    metres = record.ground_sampling_distance_m
    height = metres * record.height_px / DEGREE_M
    shrink = max(math.cos(math.radians(record.lat)), 0.01)
    return height, metres * record.width_px / DEGREE_M / shrink


def _overlaps(tiles: Sequence[ScoredTile]) -> tuple[list[int], list[int]]:
    """Pairs of tiles whose footprints overlap; a tile without a record is a point."""
    position = np.array([(tile.lat, tile.lon) for tile in tiles], np.float64).reshape(-1, 2)
    sizes = [extent_deg(tile.record) if tile.record else (0.0, 0.0) for tile in tiles]
    half = np.array(sizes).reshape(-1, 2) / 2
    first, second = list[int](), list[int]()
    for index in range(len(tiles)):
        apart = np.abs(position[index + 1 :] - position[index])
        apart[:, 1] = np.minimum(apart[:, 1], 360 - apart[:, 1])
        near = (apart < half[index + 1 :] + half[index]).all(1)
        others = (np.flatnonzero(near) + index + 1).tolist()
        first += [index] * len(others)
        second += others
    return first, second
