"""Sides of places before any tile exists, and what to know of them: gaps, buffers, overlaps."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from scipy.spatial import cKDTree

from data_prep.place import Place
from data_prep.prep_config import PrepConfig
from data_prep.splits import SplitConfig, assign_splits, leakage_report
from ecomap.normals import KM_PER_DEG
from ecomap.schema import TileRecord

OVERLAP = 0.98
"""Centres nearer than this share of a tile's width overlap for certain: distances on the sphere
and in UTM differ by less than 2 %, and cells of the grid by 1 % from their nominal size."""


def split_places(places: list[Place], config: PrepConfig) -> tuple[list[Place], list[str]]:
    """Give places their side by spatial block (`splits.assign_splits`).

    Returns:
        The places in their order, with ``split``; remarks on empty sides, gaps and buffers.

    Raises:
        RequestError: If the fractions make no sense.
    """
    settings = config.split
    split_config = SplitConfig(**settings.model_dump(), seed=config.seed)
    records = assign_splits([_record(place, config) for place in places], split_config)
    sided = [
        replace(place, split=record.split) for place, record in zip(places, records, strict=True)
    ]
    report = leakage_report(records)
    sides: Counter[str] = Counter(place.split for place in sided)
    notes = [
        f"No place fell to the side {side!r}: the region touches few blocks. Give split.block_deg "
        "(smaller blocks) or another seed."
        for side, frac in (("train", 1.0), ("val", settings.val_frac), ("test", settings.test_frac))
        if frac > 0 and not sides[side]
    ]
    for side, words in (("test", "Test"), ("val", "Validation")):
        found = report[f"train_{side}"]
        if found is not None:
            notes.append(
                f"{words} tiles are {found['edge_km']:g} km or more from training tiles, edge to "
                "edge."
            )
    if sides["buffer"]:
        notes.append(
            f"{sides['buffer']} places are set aside as buffer: they touch two sides or lie too "
            "near to a held-out tile."
        )
    return sided, notes


def _record(place: Place, config: PrepConfig) -> TileRecord:
    """What the split must know of a place."""
    return TileRecord(
        source=config.name,
        location_id=place.location_id,
        month=config.first_month,
        lat=place.lat,
        lon=place.lon,
        ground_sampling_distance_m=place.resolution_m,
        width_px=place.size_px,
        height_px=place.size_px,
        crs=place.crs,
        transform=place.transform,
        license="not asked for yet",
    )


def overlap_notes(places: Sequence[Place]) -> list[str]:
    """A remark if tiles share ground; nothing if none do."""
    if len(places) < 2:
        return []
    lat, lon = np.radians([(place.lat, place.lon) for place in places]).T
    points = np.stack([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)], -1)
    nearest, _ = cKDTree(points).query(points, k=[2])
    distance_km = np.degrees(2 * np.arcsin(np.minimum(nearest[:, 0] / 2, 1))) * KM_PER_DEG
    side_km = places[0].size_px * places[0].resolution_m / 1000
    num = int((distance_km < OVERLAP * side_km).sum())
    if not num:
        return []
    return [
        f"{num} of {len(places)} tiles overlap another: they are {side_km:g} km wide, and centres "
        f"are as near as {distance_km.min():.3g} km. Widen grid.spacing_km (or thin the points) to "
        "have each piece of ground once."
    ]
