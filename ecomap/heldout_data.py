"""What a held-out evaluation looks at: its settings, its places, and indices of their frames."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ecomap.errors import RequestError
from ecomap.image_store import Images
from ecomap.imagery import FrameReader
from ecomap.indices import land_indices
from ecomap.places import Place, places_digest, spread_places, usable_places
from ecomap.schema import TileRecord, read_dataset

Values = NDArray[np.float64]
Report = dict[str, Any]
ConditionName = Literal["conditional", "shuffled_climate", "unconditional"]
IndexName = Literal["greenness", "snow"]
Progress = Callable[[str], None]

SEED_STRIDE = 1_000_000
"""Keeps the seeds of places, of unconditional images and of climate cases apart."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What decides the numbers of an evaluation; see `evaluate_heldout`."""

    num_places: int
    num_cases: int
    months: tuple[int, ...]
    seed: int
    steps: int
    guidance: float
    conditions: tuple[ConditionName, ...]
    spaces: tuple[str, ...]
    num_draws: int


@dataclass(frozen=True, kw_only=True)
class Sample:
    """The dataset as the evaluation sees it."""

    places: dict[str, list[Place]]
    """Usable places by split."""
    dropped: dict[str, int]
    """Number of other places by reason."""
    chosen: list[Place]
    """Scored test places, the most spread first."""
    others: list[Place]
    """As many further test places, for the real-against-real floor; empty if there are too few."""
    records: list[TileRecord]
    """Scored records: the months of each chosen place in turn."""
    images: Images
    """Their real frames."""
    readings: dict[str, tuple[float, float]]
    """Greenness and snow of the real frame of every usable record, by its key."""
    reader: FrameReader
    training_digest: str
    """`ecomap.places.places_digest` of all training places, usable or not."""

    @property
    def months(self) -> list[int]:
        """Calendar months of the first chosen place's records."""
        num = len(self.records) // len(self.chosen)
        return [record.month_index + 1 for record in self.records[:num]]

    def real(self, records: Sequence[TileRecord]) -> "Readings":
        """Indices of the real frames of records."""
        pairs = np.array([self.readings[record.tile_id] for record in records]).reshape(-1, 2)
        return Readings(pairs[:, 0], pairs[:, 1])


def read_sample(dataset: Path, settings: Settings, say: Progress) -> Sample:
    """Read a dataset, choose its places and read the indices of its real frames.

    Raises:
        RequestError: If fewer than two test places or no training place can be used.
        DataError: If a frame is missing or damaged.
    """
    found = read_dataset(dataset)
    places, dropped = usable_places(found, settings.months)
    num_test, num_train = len(places.get("test", [])), len(places.get("train", []))
    if num_test < 2 or not num_train:
        raise RequestError(
            f"{dataset} has {num_test} test and {num_train} training places that can be used "
            f"(left out: {dropped}). Expected at least 2 and 1; split it with 'ecomap data split'."
        )
    order = spread_places(places["test"], 2 * settings.num_places, seed=settings.seed)
    has_others = len(order) == 2 * settings.num_places
    chosen = order[: settings.num_places]
    records = [place[month] for place in chosen for month in settings.months]
    reader = FrameReader(dataset)
    usable = [r for group in places.values() for place in group for r in place.values()]
    say(f"reading {len(usable)} real frames")
    return Sample(
        places=places,
        dropped=dropped,
        chosen=chosen,
        others=order[settings.num_places :] if has_others else [],
        records=records,
        images=read_frames(reader, records),
        readings=_read_real(reader, usable),
        reader=reader,
        training_digest=places_digest(r for r in found if r.split == "train"),
    )


@dataclass(frozen=True)
class Readings:
    """Indices of some images, in their order."""

    greenness: Values
    """Mean green chromatic coordinate of the land pixels."""
    snow: Values
    """Fraction of the land pixels that look like snow."""
    num_without_land: int = 0


def read_indices(images: Sequence[NDArray[np.uint8]] | Images) -> Readings:
    """What `ecomap.indices.land_indices` reads off each image."""
    found = [land_indices(image) for image in images]
    return Readings(
        np.array([one.greenness for one in found]),
        np.array([one.snow_frac for one in found]),
        sum(not one.has_land for one in found),
    )


def read_frames(reader: FrameReader, records: Sequence[TileRecord]) -> Images:
    """Real frames in the order of the records, each file decoded as seldom as possible.

    Raises:
        DataError: If a frame is missing or damaged.
        RequestError: If frames differ in size.
    """
    frames: dict[int, NDArray[np.uint8]] = {}
    for index in sorted(range(len(records)), key=lambda i: records[i].image_path or ""):
        frames[index] = reader.read(records[index])
    sizes = {frame.shape for frame in frames.values()}
    if len(sizes) > 1:
        raise RequestError(f"Frames have sizes {sorted(sizes)}; score places of one size together.")
    return np.stack([frames[index] for index in range(len(records))])


def _read_real(
    reader: FrameReader, records: Sequence[TileRecord]
) -> dict[str, tuple[float, float]]:
    """Greenness and snow of real frames by key, without holding the frames."""
    found = {}
    for record in sorted(records, key=lambda record: record.image_path or ""):
        reading = read_indices([reader.read(record)])
        found[record.tile_id] = (float(reading.greenness[0]), float(reading.snow[0]))
    return found


def class_month_means(
    records: Sequence[TileRecord], training: Sequence[TileRecord], real: "Readings"
) -> tuple["Readings", int]:
    """Predict the mean index of the training records of the same land cover and calendar month.

    Args:
        records: Records to predict.
        training: Training records, among them one at least of each calendar month.
        real: Their indices.

    Returns:
        The predictions, and for how many records the class is not among the training records: for
        these, the mean of the month over all classes.
    """
    months = np.array([record.month_index for record in training])
    covers = np.array([record.land_cover for record in training])
    means, missing = [], 0
    for record in records:
        of_month = months == record.month_index
        of_both = of_month & (covers == record.land_cover)
        missing += not of_both.any()
        members = of_both if of_both.any() else of_month
        means.append((np.nanmean(real.greenness[members]), real.snow[members].mean()))
    pairs = np.array(means)
    return Readings(pairs[:, 0], pairs[:, 1]), missing
