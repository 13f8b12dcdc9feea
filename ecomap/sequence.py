"""A sequence on disk: what was asked, and the frames that are there so far.

    plan.json                                  what is made, from what, and how
    start.tif                                  the tile that everything begins with
    images/SCENARIO/MEMBER/YYYY-MM_synth.tif   one frame a month, georeferenced like the start

Frames appear whole or not at all, so an interrupted sequence goes on where it stopped. All other
files of the folder (cubes, films, catalogue, page) are made from these and can be made again.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import numpy as np
import rasterio
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from rasterio.errors import RasterioIOError

from ecomap.errors import DataError
from ecomap.imagery import read_image
from ecomap.outputs import SYNTHETIC_MARK, SYNTHETIC_STATEMENT, replacing, unplaced
from ecomap.schema import TileRecord, describe_validation, write_json

PLAN_FILE = "plan.json"
START_FILE = "start.tif"
IMAGES_FOLDER = "images"
GENERATED = "generated"
"""`SequencePlan.start_source` of a start tile that is no observation."""

USER_SOURCE = "user"
"""`TileRecord.source` of a start that somebody brings without a record."""


class Timeline(BaseModel):
    """One scenario: the months that are shown and their climate."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._+-]*$")
    """Short name, used in file names."""
    title: str
    """In words, for pages."""
    kind: str
    """``observed``, ``delta``, ``analogue``, ``cmip6`` or ``normal``."""
    records: tuple[TileRecord, ...] = Field(min_length=1)
    """One a month, ascending: the start's place in that month under this climate, with the months
    before it and its normals."""
    facts: dict[str, Any] = {}
    """How the climate was made: files, model, experiment (ssp), periods, changes."""
    notes: tuple[str, ...] = ()
    """What the reader must know."""

    @property
    def months(self) -> tuple[str, ...]:
        """``YYYY-MM`` of each record."""
        return tuple(record.month for record in self.records)


class SequencePlan(BaseModel):
    """What a sequence is; stored beside its frames."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    start: TileRecord
    """The start tile: its place, month, size, CRS and transform, and its climate."""
    start_source: str
    """File or record that it came from, or ``generated``."""
    start_months: tuple[str, ...] = ()
    """``YYYY-MM`` that its pixels show, the preferred one first."""
    start_sha256: str
    """Of its pixels."""
    timelines: tuple[Timeline, ...] = Field(min_length=1)
    members: int = Field(ge=1)
    """Frames of one month and scenario that differ in their noise alone. The same member of two
    scenarios has the same noise."""
    seed: int
    """Of member 0; the next ones count on from it."""
    settings: dict[str, Any]
    """Sampler, steps, guidance, doors, control scale, chained or direct, window overlap."""
    model: dict[str, Any]
    """Bundle, ControlNet and adapter with hashes, licences and attributions."""
    software: dict[str, str]
    """Versions of packages."""
    support: dict[str, tuple[dict[str, Any] | None, ...]] = {}
    """Scenario -> for each month how far its climate lies from what was trained on
    (`ecomap.support.SupportResult.to_dict`); ``None`` where that is not known. Where windows of a
    scene have climates of their own, it is that of the farthest
    (`ecomap.scene_records.window_records`)."""
    notes: tuple[str, ...] = ()

    @property
    def start_is_synthetic(self) -> bool:
        """Whether the start tile is generated, as its source or the mark in its name says."""
        name = Path(self.start_source).name
        return self.start_source == GENERATED or SYNTHETIC_MARK in name

    @property
    def start_words(self) -> str:
        """Months that the start tile shows, in words."""
        return ", ".join(self.start_months) or self.start.month

    def timeline(self, name: str) -> Timeline:
        """Scenario of a name."""
        return next(timeline for timeline in self.timelines if timeline.name == name)


class SequenceFolder:
    """A sequence and its folder."""

    def __init__(self, path: Path, plan: SequencePlan) -> None:
        """Take both as they are; see `open` and `create`."""
        self.path = path
        self.plan = plan

    @classmethod
    def create(cls, path: Path, plan: SequencePlan) -> Self:
        """Begin a sequence, or go on with the same one.

        Raises:
            DataError: If the folder holds another sequence.
        """
        if (path / PLAN_FILE).exists():
            found = cls.open(path)
            if found.plan != plan:
                raise DataError(
                    f"{path} holds another sequence (other {differences(found.plan, plan)}). "
                    "Choose another folder (--output), or remove this one."
                )
            return found
        path.mkdir(parents=True, exist_ok=True)
        write_json(path / PLAN_FILE, plan.model_dump(mode="json"))
        return cls(path, plan)

    @classmethod
    def open(cls, path: Path) -> Self:
        """Open a sequence that was made or begun.

        Raises:
            DataError: If the folder has no readable plan.
        """
        try:
            text = (path / PLAN_FILE).read_text(encoding="utf-8")
            return cls(path, SequencePlan.model_validate_json(text))
        except OSError as error:
            raise DataError(
                f"{path} holds no sequence ({error.strerror or error}). Expected a folder that "
                "'ecomap evolve' wrote."
            ) from None
        except ValidationError as error:
            raise DataError(
                f"{path / PLAN_FILE} is damaged: {describe_validation(error, SequencePlan)}"
            ) from None

    @property
    def start_path(self) -> Path:
        """The start tile as GeoTIFF."""
        return self.path / START_FILE

    def frame_path(self, scenario: str, member: int, month: str) -> Path:
        """File of a frame, there or not."""
        name = f"{month}{SYNTHETIC_MARK}.tif"
        return self.path / IMAGES_FOLDER / scenario / f"{member:02d}" / name

    def frames(self) -> Iterator[tuple[str, int, TileRecord]]:
        """All frames: scenario, member and record, months last."""
        for timeline in self.plan.timelines:
            for member in range(self.plan.members):
                for record in timeline.records:
                    yield timeline.name, member, record

    def missing(self) -> list[tuple[str, int, TileRecord]]:
        """Frames that are not there yet."""
        return [
            (scenario, member, record)
            for scenario, member, record in self.frames()
            if not self.frame_path(scenario, member, record.month).exists()
        ]

    def require_complete(self) -> None:
        """Refuse a sequence that is not finished.

        Raises:
            DataError: If frames are missing; names their number and the first.
        """
        if missing := self.missing():
            scenario, member, record = missing[0]
            total = sum(1 for _ in self.frames())
            raise DataError(
                f"{self.path} lacks {len(missing)} of {total} frames, the first of them "
                f"{self.frame_path(scenario, member, record.month)}. Expected a finished sequence; "
                "run the same 'ecomap evolve' again, which goes on where it stopped."
            )

    def read(self, scenario: str, member: int, month: str) -> np.ndarray:
        """Pixels of a frame, uint8 ``(H, W, 3)``.

        Raises:
            DataError: If it is missing or damaged.
        """
        return read_image(self.frame_path(scenario, member, month))

    def write_start(self, image: NDArray[np.uint8], valid: NDArray[np.bool_]) -> None:
        """Write the start as a GeoTIFF that says whether it is synthetic; what is hidden is masked.

        Args:
            image: Pixels ``(H, W, 3)``.
            valid: Where it shows the place ``(H, W)``.
        """
        record, is_made = self.plan.start, self.plan.start_is_synthetic
        place: dict[str, Any] = {}
        if record.crs is not None and record.transform is not None:
            place = {"crs": record.crs, "transform": rasterio.Affine(*record.transform)}
        height, width = image.shape[:2]
        # The mask lies in the file: one beside it would not move with it.
        inside = rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True)
        with inside, replacing(self.start_path) as temporary, unplaced(), rasterio.open(
            temporary, "w", driver="GTiff", count=3, dtype="uint8", height=height, width=width,
            compress="deflate", photometric="rgb", **place,
        ) as file:  # fmt: skip
            file.write(np.moveaxis(image, -1, 0))
            if not valid.all():
                file.write_mask(valid)
            file.update_tags(
                IMAGEDESCRIPTION=SYNTHETIC_STATEMENT if is_made else "Start of a sequence.",
                SYNTHETIC=str(is_made).lower(), SOURCE=self.plan.start_source,
                MONTH=self.plan.start_words, LICENSE=record.license, ATTRIBUTION=record.attribution,
            )  # fmt: skip

    def read_start(self) -> np.ndarray:
        """Pixels of the start tile, uint8 ``(H, W, 3)``."""
        return read_image(self.start_path)

    def read_start_valid(self) -> np.ndarray:
        """Where the start tile shows its place, bool ``(H, W)``.

        Raises:
            DataError: If it is missing or damaged.
        """
        try:
            with unplaced(), rasterio.open(self.start_path) as file:
                return np.asarray(file.dataset_mask() != 0)
        except RasterioIOError as error:
            raise DataError(
                f"{self.start_path} cannot be read as a GeoTIFF: {error}. Restore the file."
            ) from None


def differences(one: SequencePlan, two: SequencePlan) -> str:
    """Names of the fields in which two plans differ."""
    names = SequencePlan.model_fields
    return ", ".join(name for name in names if getattr(one, name) != getattr(two, name))
