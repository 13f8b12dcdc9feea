"""Records of the windows of a scene, each with the climate of its own ground."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from ecomap.autoencoder import LATENT_FACTOR
from ecomap.climate import at_level
from ecomap.normals import footprint_of, open_normals
from ecomap.schema import TileRecord
from ecomap.windows import plan_windows

MAX_CLIMATES = 16
"""Windows that stand for all of a scene."""


def has_own_climates(scene: TileRecord) -> bool:
    """Whether a scene is wider than a cell of the table of normals, so that its windows differ."""
    return max(footprint_of(scene)) >= open_normals().cell_deg


def window_record(record: TileRecord, row_px: int, column_px: int, side_px: int) -> TileRecord:
    """Record of a window of a scene, with the climate of its own ground.

    Args:
        record: Of the scene.
        row_px: First row; a window that reaches beyond the scene is moved with it.
        column_px: First column.
        side_px: Side of the window.

    Returns:
        The scene's record with place, size and transform of the window. Where the scene is wider
        than a cell of the table of normals, its climate differs from the scene's as the normals
        of both do; land cover stays the scene's.
    """
    lat_deg, lon_deg = footprint_of(record)
    down = (row_px + side_px / 2) / record.height_px - 0.5
    right = (column_px + side_px / 2) / record.width_px - 0.5
    update: dict[str, Any] = {
        "lat": record.lat - down * lat_deg,
        "lon": (record.lon + right * lon_deg + 180) % 360 - 180,
        "width_px": side_px,
        "height_px": side_px,
    }
    if record.transform is not None:
        a, b, c, d, e, f = record.transform
        origin = (a * column_px + b * row_px + c, d * column_px + e * row_px + f)
        update["transform"] = (a, b, origin[0], d, e, origin[1])
    window = record.model_copy(update=update)
    return _with_own_climate(record, window) if has_own_climates(record) else window


def window_records(side_px: int, record: TileRecord, overlap: float) -> list[TileRecord]:
    """Records whose climates stand for those of all windows of a scene.

    Args:
        side_px: Side of the model's images.
        record: Of the scene.
        overlap: Share of a window that its neighbour covers.

    Returns:
        The record itself where it is of one window or of none, or all windows share its climate;
        else windows that are spread evenly, at most `MAX_CLIMATES`.
    """
    size = (record.height_px, record.width_px)
    if not min(size) >= side_px < max(size) or not has_own_climates(record):
        return [record]
    height, width = (-(-length // LATENT_FACTOR) for length in size)
    side = side_px // LATENT_FACTOR
    places = plan_windows(height, width, side, round(side * overlap))
    rows, columns = (sorted(set(along)) for along in zip(*places, strict=True))
    num_rows = min(len(rows), max(round(MAX_CLIMATES**0.5), MAX_CLIMATES // len(columns)))
    return [
        window_record(record, row * LATENT_FACTOR, column * LATENT_FACTOR, side_px)
        for row in _spread(rows, num_rows)
        for column in _spread(columns, MAX_CLIMATES // num_rows)
    ]


def _spread(values: Sequence[int], most: int) -> list[int]:
    """At most so many of some values, evenly from the first to the last."""
    index = np.linspace(0, len(values) - 1, min(len(values), most)).round()
    return [values[int(i)] for i in index]


def _with_own_climate(scene: TileRecord, window: TileRecord) -> TileRecord:
    """A window whose climate is moved from the scene's by the difference of their normals."""
    table, update = open_normals(), {}
    of_scene = table.climate(scene.lat, scene.lon, footprint_of(scene))
    of_window = table.climate(window.lat, window.lon, footprint_of(window))
    for name, own in of_window.items():
        for suffix in ("", "_history", "_normals"):
            old = getattr(scene, f"{name}{suffix}")
            if old is None:
                continue
            values = old if isinstance(old, tuple) else (old,)
            start = {"": scene.month_index, "_normals": 0, "_history": scene.month_index}[suffix]
            moved = [
                _moved(name, v, of_scene[name][(start + i) % 12], own[(start + i) % 12])
                for i, v in enumerate(values)
            ]
            update[f"{name}{suffix}"] = tuple(moved) if isinstance(old, tuple) else moved[0]
    land = table.land_frac(window.lat, window.lon, footprint_of(window))
    return window.model_copy(update=update | {"land_frac": land})


def _moved(name: str, value: float | None, level: float, own: float) -> float | None:
    """A value under another normal."""
    return None if value is None else float(at_level(name, value, level, own))
