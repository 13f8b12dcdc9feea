"""How far an asked climate lies from what a model was trained on, for its land cover and latitude.

A distance says nothing about how good an image is. It says whether the model has seen such a
climate at such a place, or must guess: outside means farther from every training climate of the
class than nearly all real places are from those away from them.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict
from scipy.spatial import cKDTree

from ecomap.schema import CLIMATE, LandCover, TileRecord
from ecomap.support_table import (
    ANY_COVER,
    FEATURES,
    LEVELS,
    PLACE_FEATURES,
    SupportTable,
    read_points,
    read_support,
)

OUTSIDE_PERCENTILE = 99.0
"""An asked climate is outside where it lies farther than this share of the months of real places,
percent."""

ANOMALIES = "anomalies"
"""Left out where a record has them and no training record had."""


class Deviation(BaseModel):
    """The quantity in which an asked climate is farthest from the nearest training climate."""

    model_config = ConfigDict(frozen=True)

    name: str
    """Key of `ecomap.support_table.FEATURES`."""
    label: str
    unit: str
    asked: float
    nearest: float
    """Of the nearest training climate, in the same unit."""
    spreads: float
    """The difference in spreads of the class."""

    @property
    def text(self) -> str:
        """In words."""
        difference = self.asked - self.nearest
        unit = self.unit if self.unit == "°" else f" {self.unit}"
        side = "above" if difference >= 0 else "below"
        return f"{self.label.lower()} is {abs(difference):.1f}{unit} {side} that"


class NearestPlace(BaseModel):
    """The training climate that is nearest."""

    model_config = ConfigDict(frozen=True)

    lat: float
    lon: float
    month: int
    """1 to 12."""
    land_cover: str | None


class SupportResult(BaseModel):
    """How far one asked month lies from what a model was trained on."""

    model_config = ConfigDict(frozen=True)

    month: str
    """``YYYY-MM`` of the record."""
    land_cover: str | None
    """Class whose training climates it was compared with; ``None`` for all classes."""
    is_known_land_cover: bool
    """False where the record's class has no training record; it is then outside."""
    distance: float
    """To the nearest training climate, in spreads of the class."""
    percentile: float
    """Share of the months of real places that lie nearer, each compared with places away from it,
    percent; 100 beyond the farthest."""
    threshold: float
    """Distance at `OUTSIDE_PERCENTILE`."""
    is_outside: bool
    nearest: NearestPlace
    worst: Deviation
    missing: tuple[str, ...] = ()
    """Features that the record does not know; the distance is made of the others."""
    left_out: tuple[str, ...] = ()
    """Variables that the record knows and the training did not: they count in no distance, and a
    model can have learnt nothing of them."""

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        return self.model_dump(mode="json")


class Support:
    """Training climates of a model, to be asked."""

    def __init__(self, table: SupportTable) -> None:
        """Take a table as it was built or read."""
        self.table = table
        self._coordinates = table.points.coordinates
        self._covers = set(np.unique(table.points.cover).tolist()) - {ANY_COVER}
        self._trees: dict[tuple[int, bytes], tuple[cKDTree, NDArray[np.int64]]] = {}

    @classmethod
    def open(cls, folder: Path) -> Self | None:
        """Training climates of a bundle or ControlNet; None where its folder holds no table.

        Raises:
            BundleError: If the table is damaged.
        """
        table = read_support(folder)
        return None if table is None else cls(table)

    def distance(self, record: TileRecord) -> SupportResult | None:
        """Measure one record.

        Args:
            record: A place and month under the climate that is asked for. Without a land cover it
                is compared with all classes.

        Returns:
            None where no climate is known that the training knew.
        """
        features, curves = self.table.features, self.table.curves
        coordinates = read_points([record], self.table.card.climate_features).coordinates[0]
        is_known = np.isfinite(coordinates)
        if not is_known[: -len(PLACE_FEATURES)].any():
            return None
        is_trained = record.land_cover is None or int(record.land_cover) in self._covers
        code = int(record.land_cover or ANY_COVER) if is_trained else ANY_COVER
        tree, rows = self._tree(code, is_known)
        spread = self.table.spreads[code].astype(np.float64)
        raw, found = tree.query((coordinates / spread)[is_known])
        # As if the unknown features differed as much as the known ones do.
        distance = float(raw * np.sqrt(len(features) / is_known.sum()))
        threshold = float(np.interp(OUTSIDE_PERCENTILE, LEVELS, curves[code]))
        return SupportResult(
            month=record.month,
            land_cover=LandCover(code).label if code else None,
            is_known_land_cover=is_trained,
            distance=round(distance, 4),
            percentile=round(float(np.interp(distance, curves[code], LEVELS)), 2),
            threshold=round(threshold, 4),
            is_outside=distance > threshold or not is_trained,
            nearest=self._place(int(rows[found])),
            worst=self._deviation(coordinates, int(rows[found]), spread),
            missing=tuple(n for n, known in zip(features, is_known, strict=True) if not known),
            left_out=self._left_out(record),
        )

    def farthest(self, records: Sequence[TileRecord]) -> SupportResult | None:
        """Measure several records of one month, such as windows of a scene, and keep the farthest.

        Returns:
            None where `distance` is for all of them.
        """
        found = [self.distance(record) for record in records]
        return max((result for result in found if result is not None), key=_farness, default=None)

    def _tree(self, code: int, is_known: NDArray[np.bool_]) -> tuple[cKDTree, NDArray[np.int64]]:
        """Tree of a class over the known features, and the row of each of its points."""
        key = (code, is_known.tobytes())
        if key not in self._trees:
            cover = self.table.points.cover
            rows = np.flatnonzero(cover == code if code else np.ones(len(cover), bool))
            scaled = self._coordinates[rows] / self.table.spreads[code]
            self._trees[key] = cKDTree(scaled[:, is_known]), rows
        return self._trees[key]

    def _place(self, row: int) -> NearestPlace:
        """A training row as a place."""
        points = self.table.points
        lat, lon = points.position[row].tolist()
        code, month = int(points.cover[row]), int(points.month[row])
        label = LandCover(code).label if code else None
        return NearestPlace(lat=lat, lon=lon, month=month, land_cover=label)

    def _deviation(
        self, coordinates: NDArray[np.float64], row: int, spread: NDArray[np.float64]
    ) -> Deviation:
        """The feature that adds most to a distance."""
        nearest = self._coordinates[row]
        difference = (coordinates - nearest) / spread
        worst = int(np.nanargmax(np.abs(difference)))
        name = self.table.features[worst]
        feature = FEATURES[name]
        return Deviation(
            name=name,
            label=feature.label,
            unit=feature.unit,
            asked=round(feature.unstretch(float(coordinates[worst])), 3),
            nearest=round(feature.unstretch(float(nearest[worst])), 3),
            spreads=round(float(difference[worst]), 3),
        )

    def _left_out(self, record: TileRecord) -> tuple[str, ...]:
        """What the record knows of its climate and no training record did."""
        card = self.table.card
        trained = {FEATURES[name].variable for name in card.climate_features}
        known = [n for n in CLIMATE if getattr(record, n) is not None and n not in trained]
        has_anomalies = record.climate_kind == "observed" and any(
            getattr(record, f"{name}_normals") is not None for name in trained
        )
        if has_anomalies and "observed" not in card.climate_kinds:
            known.append(ANOMALIES)
        return tuple(known)


def note_of(results: Sequence[SupportResult | None]) -> str:
    """What a reader must know of the months of one scenario, for the terminal.

    Args:
        results: One a month, in their order.
    """
    known = [result for result in results if result is not None]
    if not known:
        return "How far this climate lies from the training's is not known."
    outside = [result for result in known if result.is_outside]
    farthest = max(known, key=_farness)
    is_one, partly = len(known) == 1, _partly_words(known)
    if outside:
        place, verb = farthest.nearest, "lies" if len(outside) == 1 else "lie"
        text = (
            f"The month, {farthest.month}, lies outside the climates of the training{partly}. Its "
            if is_one
            else f"{len(outside)} of {len(known)} months {verb} outside the climates of the "
            f"training, first {outside[0].month}{partly}. The farthest is {farthest.month}: its "
        )
        text += (
            f"{farthest.worst.text} of the nearest training climate, month {place.month} at "
            f"({place.lat:g}, {place.lon:g})."
        )
    else:
        text = (
            f"The month, {farthest.month}, lies within the climates of the training{partly}. It"
            if is_one
            else f"All {len(known)} months lie within the climates of the training{partly}. The "
            f"farthest, {farthest.month},"
        )
        text += (
            f" is farther from them than {farthest.percentile:.0f} % of the months of real places, "
            "each compared with places away from it."
        )
    return " ".join([text, *_cautions(known, len(results) - len(known))])


def _partly_words(known: Sequence[SupportResult]) -> str:
    """That months were compared by a part of their climate."""
    partly = sum(bool(result.missing) for result in known)
    if not partly:
        return ""
    words = "its climate" if len(known) == 1 else "the climate"
    months = "" if len(known) == 1 else f"of {partly} month{'s' if partly > 1 else ''} "
    return f"; {months}only part of {words} is known and was compared"


def _farness(result: SupportResult) -> tuple[float, float]:
    """What is larger for a climate that lies farther."""
    return result.percentile, result.distance


def _cautions(known: Sequence[SupportResult], num_unknown: int) -> list[str]:
    """Sentences on what could not be compared."""
    found = []
    if any(not result.is_known_land_cover for result in known):
        found.append("Its land cover was never trained on; all classes were compared.")
    left_out = sorted({name for result in known for name in result.left_out})
    if left_out:
        found.append(f"The model was never told {', '.join(left_out)}: not compared.")
    missing = sorted({name for result in known for name in result.missing})
    if missing:
        found.append(f"Not known here, and not compared: {', '.join(missing)}.")
    if num_unknown:
        noun = "month" if num_unknown == 1 else "months"
        found.append(f"Of {num_unknown} {noun} no climate is known.")
    return found
