"""Makes the table of training climates (`ecomap.support_table`) from the records of a dataset."""

from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.distance import cdist

from ecomap.errors import DataError
from ecomap.schema import LandCover, TileRecord, unique
from ecomap.support_table import (
    ANY_COVER,
    FEATURES,
    LEVELS,
    PLACE_FEATURES,
    Points,
    SupportCard,
    SupportTable,
    kilometres,
    read_points,
)

MAX_BYTES = 270_000
"""Of the rows; beyond it, rows that lie close together are merged."""
ROW_BYTES = 6
"""Of a row's land cover, month and position; each climate feature takes two more."""
FIRST_CELL, CELL_GROWTH = 0.02, 1.3
"""Side of the cells in which rows are merged, in spreads, and by how much it grows until the rows
fit."""

MIN_PLACES = 50
"""Training places from which a class has spreads and a curve of its own; with fewer it has those of
all classes."""
MIN_SHARE = 0.5
"""Share of the training records that must know a climate feature for it to count."""

PLACE_KM = 2.0
"""Places nearer than this are one."""
MAX_REAL_PLACES = 2000
"""Real places whose distances are measured; of more, as many are drawn."""
DRAW_SEED = 0

TAILS = (0.05, 0.95)
NORMAL_WIDTH = 3.2897
"""Width of a normal distribution between its `TAILS`, in standard deviations."""


def build_support(
    training: Sequence[TileRecord], held_out: Sequence[TileRecord] = ()
) -> SupportTable:
    """Describe the climates that a model was trained on, and how far real ones lie from them.

    Args:
        training: Records that it learnt from.
        held_out: Real records that it did not learn from. They are measured beside the training
            places, and say how near to a training place a new one may be: without them a training
            place is compared with all others.

    Returns:
        At most about 300 kB when written. Same records, same table.

    Raises:
        DataError: If no climate is known, or there are no two places apart to be compared.
    """
    features = _known_features(training)
    points, groups, dropped = _complete(training, features)
    if not len(points):
        raise DataError(
            f"None of {len(training)} training records knows all of {', '.join(features)}. Prepare "
            "the dataset with the same climate for every record."
        )
    spreads, own = _spreads(points, groups, features)
    rows, merged_within = _thin(points, spreads, features, dropped)
    real, real_groups, _ = _complete(held_out, features)
    gap_km = _least_gap_km(rows, real)
    places = _places(points, groups, max(gap_km, PLACE_KM)) + _places(real, real_groups, PLACE_KM)
    curves, counts = _measure(rows, spreads, places, own)
    card = SupportCard(
        climate_features=features,
        climate_kinds=tuple(sorted({record.climate_kind for record in training})),
        num_records=len(training),
        num_rows=len(rows),
        dropped=dict(dropped),
        merged_within=merged_within,
        neighbours_km=round(gap_km, 1),
        own_scale=tuple(LandCover(code).label for code in own),
        num_distances=counts,
    )
    return SupportTable(rows, spreads, curves, card)


def spread_of(coordinates: NDArray[np.float64], floors: NDArray[np.float64]) -> NDArray[np.float64]:
    """Standard deviation of the normal distribution with the same `TAILS`, at least a floor.

    Args:
        coordinates: ``(N, D)``, N at least 1.
        floors: ``(D,)``.
    """
    low, high = np.quantile(coordinates, TAILS, axis=0)
    return np.asarray(np.maximum((high - low) / NORMAL_WIDTH, floors))


def _known_features(training: Sequence[TileRecord]) -> tuple[str, ...]:
    """Climate features that enough records know."""
    names = [name for name, feature in FEATURES.items() if feature.variable]
    climate = read_points(training, names).climate
    shares = np.isfinite(climate).mean(0) if len(climate) else np.zeros(len(names))
    found = tuple(n for n, share in zip(names, shares, strict=True) if share >= MIN_SHARE)
    if not found:
        raise DataError(
            f"None of {len(training)} training records knows a climate. Expected temperature or "
            "precipitation in most of them; prepare the dataset with climate."
        )
    return found


def _complete(
    records: Sequence[TileRecord], features: Sequence[str]
) -> tuple[Points, NDArray[np.int64], Counter[str]]:
    """Records that know all features, the place of each as a number, and counts of others."""
    points, dropped = read_points(records, features), Counter[str]()
    is_complete = np.all(np.isfinite(points.climate), axis=1)
    dropped["climate not known in full"] = int((~is_complete).sum())
    code = {place: number for number, place in enumerate(unique(r.place_id for r in records))}
    groups = np.array([code[record.place_id] for record in records], np.int64)
    return points.take(is_complete), groups[is_complete], +dropped


def _spreads(
    points: Points, groups: NDArray[np.int64], features: Sequence[str]
) -> tuple[NDArray[np.float32], list[int]]:
    """Spreads of each class ``(18, D)``, and the classes that have their own."""
    floors = np.array([FEATURES[name].floor for name in (*features, *PLACE_FEATURES)])
    coordinates = points.coordinates
    common = spread_of(coordinates, floors)
    spreads = np.tile(common, (len(LandCover) + 1, 1)).astype(np.float32)
    own = []
    for code in LandCover:
        is_class = points.cover == code
        if len(np.unique(groups[is_class])) >= MIN_PLACES:
            spreads[code] = spread_of(coordinates[is_class], floors)
            own.append(int(code))
    return spreads, own


def _thin(
    points: Points, spreads: NDArray[np.float32], features: Sequence[str], dropped: Counter[str]
) -> tuple[Points, float]:
    """Rows as they are stored, each once, merged until they fit; and the cell they were merged in.

    Counts what is left out in ``dropped``.
    """
    points = points.rounded(features)
    position = np.rint(points.position * 100)
    table = np.column_stack([points.cover, points.month, position, points.climate])
    _, first = np.unique(table, axis=0, return_index=True)
    kept, cell = points.take(np.sort(first)), 0.0
    dropped["equal to another"] += len(points) - len(kept)
    scaled = kept.coordinates / spreads[kept.cover]
    max_rows, size = MAX_BYTES // (ROW_BYTES + 2 * len(features)), FIRST_CELL
    index = np.arange(len(kept))
    while len(index) > max_rows:
        cells = np.column_stack([kept.cover, np.floor(scaled / size)])
        index, cell = np.sort(np.unique(cells, axis=0, return_index=True)[1]), size
        size *= CELL_GROWTH
    dropped["merged with one nearby"] += len(kept) - len(index)
    dropped += Counter()  # in place: reasons of nobody go
    return kept.take(index), round(cell, 4)


def _least_gap_km(rows: Points, held_out: Points) -> float:
    """How near the nearest held-out place is to a training place; 0 without any."""
    places = np.unique(held_out.position, axis=0)
    training = np.unique(rows.position, axis=0)
    return min((float(kilometres(training, place).min()) for place in places), default=0.0)


class _Rulers:
    """Training climates, scaled once for each class and once for all."""

    def __init__(self, rows: Points, spreads: NDArray[np.float32]) -> None:
        self.rows, self.spreads = rows, spreads.astype(np.float64)
        coordinates = rows.coordinates
        self.common = coordinates / self.spreads[ANY_COVER]
        self.members = {
            code: np.flatnonzero(rows.cover == code)
            for code in set(np.unique(rows.cover).tolist()) - {ANY_COVER}
        }
        self.own = {c: coordinates[m] / self.spreads[c] for c, m in self.members.items()}

    def measure(self, months: Points, km: float) -> dict[str, list[tuple[int, float]]]:
        """Distances of the months of one place to rows that are ``km`` or more from it.

        Returns:
            Class and distance of each month that has such a row: ``any`` to all rows and ``few`` to
            those of its class, both in the spreads of all; ``own`` likewise in those of its class.
        """
        is_far = kilometres(self.rows.position, months.position[0]) >= km
        coordinates = months.coordinates
        common = coordinates / self.spreads[ANY_COVER]
        found = {"any": _nearest(months.cover, common, self.common[is_far])}
        found |= {"few": [], "own": []}
        for code, members in self.members.items():
            mine = months.cover == code
            if mine.any() and (far := is_far[members]).any():
                cover, own = months.cover[mine], coordinates[mine] / self.spreads[code]
                found["few"] += _nearest(cover, common[mine], self.common[members[far]])
                found["own"] += _nearest(cover, own, self.own[code][far])
        return found


def _nearest(
    cover: NDArray[np.int64], months: NDArray[np.float64], rows: NDArray[np.float64]
) -> list[tuple[int, float]]:
    """Class and distance to the nearest row of each month; none where there is no row."""
    if not len(rows):
        return []
    return list(zip(cover.tolist(), cdist(months, rows).min(1).tolist(), strict=True))


_Place = tuple[Points, float]
"""Months of one place, and how near rows may lie to be left out of their distances, km."""


def _places(points: Points, groups: NDArray[np.int64], km: float) -> list[_Place]:
    """Real months, place by place."""
    order = np.argsort(groups, kind="stable")
    ends = np.flatnonzero(np.diff(groups[order])) + 1
    return [(points.take(part), km) for part in np.split(order, ends) if len(part)]


def _measure(
    rows: Points, spreads: NDArray[np.float32], places: Sequence[_Place], own: Sequence[int]
) -> tuple[NDArray[np.float32], dict[str, int]]:
    """Distances of real places to rows away from them, as curves over `LEVELS` ``(18, 201)``.

    Args:
        rows: Training climates.
        spreads: Of each class.
        places: Real places.
        own: Classes with a curve of their own.

    Returns:
        Curves by IGBP code, `ANY_COVER` first, and how many distances each was made of.
    """
    if len(places) > MAX_REAL_PLACES:
        order = np.random.default_rng(DRAW_SEED).permutation(len(places))
        places = [places[index] for index in np.sort(order[:MAX_REAL_PLACES])]
    rulers = _Rulers(rows, spreads)
    found: dict[str, list[tuple[int, float]]] = {"any": [], "few": [], "own": []}
    for months, km in places:
        for scale, distances in rulers.measure(months, km).items():
            found[scale] += distances
    any_cover = [distance for _, distance in found["any"]]
    few = [distance for _, distance in found["few"]] or any_cover
    if not few:
        raise DataError(
            f"The {len(places)} places with a climate cannot be compared: none has another away "
            "from it. Give more training places."
        )
    curves = np.tile(np.percentile(few, LEVELS), (len(spreads), 1)).astype(np.float32)
    curves[ANY_COVER] = np.percentile(any_cover, LEVELS)
    counts = {"any": len(any_cover), "few places": len(few)}
    for code in own:
        if of_class := [distance for cover, distance in found["own"] if cover == code]:
            curves[code] = np.percentile(of_class, LEVELS)
            counts[LandCover(code).label] = len(of_class)
    return curves, counts
