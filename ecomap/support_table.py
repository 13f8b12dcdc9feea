"""Climates that a model was trained on, as a small table that lies beside its weights.

Each row is a month of a training place: its land cover, its climate, its latitude and the height of
its sun. Distances between rows are measured in spreads of their class. What counts as far is
learnt from real places: how far each lies from the training places that are not its neighbours.

References:
    Meyer & Pebesma (2021), Predicting into unknown space? Estimating the area of applicability of
    spatial prediction models, https://doi.org/10.1111/2041-210X.13650 (nearest training distance,
    with a threshold from held-out distances); Milà et al. (2022), Nearest neighbour distance
    matching, https://doi.org/10.1111/2041-210X.13851 (neighbours left out as far as held-out
    places are away); Mahony et al. (2017), A closer look at novel climates,
    https://doi.org/10.1111/gcb.13645 (spreads of where one is, not of the whole Earth)
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError

from ecomap.climate import monthly_series
from ecomap.errors import BundleError
from ecomap.normals import KM_PER_DEG
from ecomap.schema import CLIMATE, TileRecord, describe_validation, write_json

TENSORS_FILE, CARD_FILE = "support.safetensors", "support.json"

LEVELS: NDArray[np.float64] = np.linspace(0.0, 100.0, 201)
"""Percentiles at which the distances of real places are kept."""

ANY_COVER = 0
"""Row of spreads and curves for a tile whose land cover is not known, or was never trained on."""


@dataclass(frozen=True)
class Feature:
    """One axis along which climates differ."""

    variable: str
    """Name in `ecomap.schema.CLIMATE`; empty for what follows from place and month."""
    label: str
    unit: str
    is_annual: bool
    """Whether it is the mean of the last twelve months, not the month's own value."""
    floor: float
    """Least spread: differences below it are weather, or the width of a tile."""
    step: float
    """Of stored values; precipitation as log(1 + mm/day)."""

    def stretch(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """From the unit to the axis."""
        return np.log1p(values) if self.is_logarithm else values

    def unstretch(self, value: float) -> float:
        """From the axis to the unit."""
        return float(np.expm1(value)) if self.is_logarithm else value

    @property
    def is_logarithm(self) -> bool:
        """Whether the axis is log(1 + value): a millimetre means more in a desert."""
        return self.variable == "precipitation_mm_day"


def _climate_feature(name: str, *, is_annual: bool) -> Feature:
    variable, is_rain = CLIMATE[name], name == "precipitation_mm_day"
    label = f"{variable.label}{' of the last 12 months' if is_annual else ''}"
    floor, step = (0.1, 0.001) if is_rain else (1.0, 0.01)
    return Feature(name, label, variable.unit, is_annual, floor, step)


FEATURES: dict[str, Feature] = {
    **{name: _climate_feature(name, is_annual=False) for name in CLIMATE},
    **{f"{name}_annual": _climate_feature(name, is_annual=True) for name in CLIMATE},
    "latitude_deg": Feature("", "Distance from the equator", "°", False, 2.0, 0.01),
    "sun_height_deg": Feature("", "Height of the sun at noon", "°", False, 5.0, 0.01),
}
PLACE_FEATURES = ("latitude_deg", "sun_height_deg")


class SupportCard(BaseModel):
    """What a table was made of."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: Literal[1] = 1
    tensors_sha256: str = ""
    """Of the file of tensors that it belongs to."""
    climate_features: tuple[str, ...]
    """Keys of `FEATURES`, in the order of the columns; `PLACE_FEATURES` follow."""
    climate_kinds: tuple[str, ...]
    """Kinds of climate among the training records."""
    num_records: int
    """Training records that were given."""
    num_rows: int
    """Rows that are kept."""
    dropped: dict[str, int] = {}
    """Records without a row of their own, by reason."""
    merged_within: float = 0.0
    """Side of the cells in which rows were merged, in spreads; 0 where only equal ones were."""
    neighbours_km: float
    """Training places nearer than this were left out when training places were measured."""
    own_scale: tuple[str, ...]
    """Classes with spreads and a curve of their own."""
    num_distances: dict[str, int]
    """Distances of real places behind each curve, by class, and ``any`` and ``few places``."""


@dataclass(frozen=True)
class Points:
    """Months of places."""

    cover: NDArray[np.int64]
    """IGBP code ``(N,)``, 0 where not known."""
    month: NDArray[np.int64]
    """1 to 12 ``(N,)``."""
    position: NDArray[np.float64]
    """Latitude and longitude ``(N, 2)``, degrees."""
    climate: NDArray[np.float64]
    """Stretched climate features ``(N, C)``, NaN where not known."""

    def __len__(self) -> int:
        """Number of rows."""
        return len(self.cover)

    def take(self, index: NDArray[np.int64] | NDArray[np.bool_]) -> "Points":
        """Some of the rows."""
        position, climate = self.position[index], self.climate[index]
        return Points(self.cover[index], self.month[index], position, climate)

    def rounded(self, features: Sequence[str]) -> "Points":
        """As they are stored: climate in steps of its features, positions in hundredths."""
        steps = _steps(features)
        climate = np.rint(self.climate / steps) * steps
        return Points(self.cover, self.month, np.rint(self.position * 100) / 100, climate)

    @property
    def coordinates(self) -> NDArray[np.float64]:
        """Climate, distance from the equator, and height of the sun ``(N, C + 2)``."""
        lat = self.position[:, 0]
        return np.column_stack([self.climate, np.abs(lat), sun_height_deg(lat, self.month)])


@dataclass(frozen=True)
class SupportTable:
    """Rows, scales and what real places are like."""

    points: Points
    spreads: NDArray[np.float32]
    """By IGBP code, `ANY_COVER` first ``(18, C + 2)``, on the axes of the coordinates."""
    curves: NDArray[np.float32]
    """Distance of real places at each of `LEVELS` ``(18, 201)``, in spreads."""
    card: SupportCard

    @property
    def features(self) -> tuple[str, ...]:
        """Names of the coordinates."""
        return (*self.card.climate_features, *PLACE_FEATURES)


def sun_height_deg(lat: NDArray[np.float64], month: NDArray[np.int64]) -> NDArray[np.float64]:
    """Height of the sun at noon in the middle of a month, degrees; negative in polar night.

    Args:
        lat: Degrees north ``(N,)``.
        month: 1 to 12 ``(N,)``.
    """
    day = 365.25 / 12 * (month - 0.5)
    declination = -23.44 * np.cos(2 * np.pi * (day + 10) / 365.25)
    return np.asarray(90.0 - np.abs(lat - declination))


def read_points(records: Sequence[TileRecord], features: Sequence[str]) -> Points:
    """Months of places, of whose climate some features are read."""
    months = np.array([record.month_index for record in records], np.int64)
    series = {
        name: _last_year(records, months, name)
        for name in {FEATURES[feature].variable for feature in features}
    }
    climate = np.empty((len(records), len(features)))
    for column, feature in enumerate(FEATURES[name] for name in features):
        year = series[feature.variable]
        climate[:, column] = feature.stretch(year.mean(1) if feature.is_annual else year[:, -1])
    return Points(
        np.array([record.land_cover or 0 for record in records], np.int64),
        months + 1,
        np.array([(record.lat, record.lon) for record in records], np.float64).reshape(-1, 2),
        climate,
    )


def _last_year(
    records: Sequence[TileRecord], months: NDArray[np.int64], name: str
) -> NDArray[np.float64]:
    """The twelve months up to each record's own ``(N, 12)``; normals stand in for unknown ones."""
    series = np.array([monthly_series(r, name)[1:] for r in records]).reshape(-1, 12)
    nothing = (None,) * 12
    normals = np.array(
        [getattr(r, f"{name}_normals") or nothing for r in records], np.float64
    ).reshape(-1, 12)
    calendar = (months[:, None] + np.arange(-11, 1)) % 12
    usual = np.take_along_axis(normals, calendar, axis=1)
    return np.where(np.isnan(series), usual, series)


def kilometres(position: NDArray[np.float64], place: NDArray[np.float64]) -> NDArray[np.float64]:
    """Great-circle distances of positions ``(N, 2)`` in degrees from one place ``(2,)``."""
    lat, lon = np.radians(position).T
    own_lat, own_lon = np.radians(place)
    half = np.sin((lat - own_lat) / 2) ** 2
    half += np.cos(lat) * np.cos(own_lat) * np.sin((lon - own_lon) / 2) ** 2
    return np.asarray(np.degrees(2 * np.arcsin(np.sqrt(np.clip(half, 0, 1)))) * KM_PER_DEG)


def _steps(features: Sequence[str]) -> NDArray[np.float64]:
    """Steps of stored climate features."""
    return np.array([FEATURES[name].step for name in features])


def write_support(folder: Path, table: SupportTable) -> None:
    """Write a table into the folder of a model, each of its two files by an atomic rename."""
    from safetensors.numpy import save

    points = table.points
    content = save({
        "cover": points.cover.astype(np.uint8),
        "month": points.month.astype(np.uint8),
        "position": np.rint(points.position * 100).astype(np.int16),
        "climate": np.rint(points.climate / _steps(table.card.climate_features)).astype(np.int16),
        "spreads": table.spreads,
        "curves": table.curves,
    })  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    temporary = folder / f"{TENSORS_FILE}.tmp"
    temporary.write_bytes(content)
    temporary.replace(folder / TENSORS_FILE)
    digest = hashlib.sha256(content).hexdigest()
    card = table.card.model_copy(update={"tensors_sha256": digest})
    write_json(folder / CARD_FILE, card.model_dump(mode="json"))


def remove_support(folder: Path) -> None:
    """Remove the table of a folder, if there is one."""
    for name in (CARD_FILE, TENSORS_FILE):
        (folder / name).unlink(missing_ok=True)


def read_support(folder: Path) -> SupportTable | None:
    """Read the table of a model; None where its folder holds none.

    Raises:
        BundleError: If it is damaged, or its two files do not belong together.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load

    if not (folder / CARD_FILE).is_file():
        return None
    try:
        card = SupportCard.model_validate_json((folder / CARD_FILE).read_bytes())
        content = (folder / TENSORS_FILE).read_bytes()
        if hashlib.sha256(content).hexdigest() != card.tensors_sha256:
            raise BundleError(
                f"{folder / TENSORS_FILE} is not the table that {CARD_FILE} beside it describes. "
                "Restore both from where the model came from."
            )
        tensors = load(content)
        points = Points(
            tensors["cover"].astype(np.int64),
            tensors["month"].astype(np.int64),
            tensors["position"] / 100,
            tensors["climate"] * _steps(card.climate_features),
        )
        return SupportTable(points, tensors["spreads"], tensors["curves"], card)
    except ValidationError as error:
        raise BundleError(
            f"{folder / CARD_FILE}: {describe_validation(error, SupportCard)}"
        ) from None
    except (OSError, KeyError, SafetensorError) as error:
        raise BundleError(
            f"{folder / TENSORS_FILE} is no readable table of training climates: {error!r}. "
            "Restore it, or make it again with ecomap.support_build.build_support."
        ) from None
