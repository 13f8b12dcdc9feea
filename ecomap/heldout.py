"""Score a bundle on held-out places: greenness, snow, realism, and response to climate.

Everything generated stands beside what it must beat (the nearest climate analogue in the training
data, the mean of the class and month, the same model under another place's climate or under none)
and beside what it cannot beat (the autoencoder's reconstruction, real against real).

Longer than the budget because the evaluation is one story told once: the sample, the images (kept
on disk, so that an interrupted run goes on), the indices, the scores, the response, the report.
"""

import hashlib
import json
import math
import shlex
import time
import zipfile
from calendar import month_abbr
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol, get_args

import numpy as np
import torch
from numpy.typing import NDArray

from ecomap import metrics
from ecomap.card import Door
from ecomap.climate import apply_changes, parse_change
from ecomap.errors import DataError, RequestError
from ecomap.features import FEATURE_SPACES, SPACE_NAMES, Features, extract_features
from ecomap.figures import observed_versus_generated, response_sweep
from ecomap.imagery import FrameReader
from ecomap.indices import greenness, snow_fraction
from ecomap.latents import decode, encode, to_image, to_pixels
from ecomap.model import Bundle
from ecomap.outputs import contact_sheet
from ecomap.page import Cell, Figure, Section, Table, write_page
from ecomap.sample import GUIDANCE, STEPS, generate_images
from ecomap.schema import (
    CLIMATE,
    RECORDS_FILE,
    LandCover,
    TileRecord,
    read_dataset,
    write_json,
)
from ecomap.versions import versions

Images = NDArray[np.uint8]
"""Display values ``(N, H, W, 3)``."""
Values = NDArray[np.float64]
Report = dict[str, Any]
Place = dict[int, TileRecord]
"""Records of one place by calendar month, 1 to 12."""
ConditionName = Literal["conditional", "shuffled_climate", "unconditional"]
IndexName = Literal["greenness", "snow"]
Progress = Callable[[str], None]

REPORT_FILE = "report.json"
PAGE_FILE = "index.html"
PICTURE_FILE = "real_beside_generated.png"
IMAGES_FOLDER = "images"

MIN_LAND_FRAC = 0.5
"""Places with less land are left out: what is left of them says little about vegetation."""
BLOCK_DEG = 10.0
"""Places whose centres share a cell of this size are drawn together in intervals: neighbouring
tiles overlap and share their weather, so they are not independent."""
MAX_DARK = 23
"""Pixels whose largest channel does not exceed it are water or deep shadow, and their colour is
noise of compression. Blue Marble paints the ocean (3, 6, 21); 0.2 % of its land is as dark."""
MAX_WATER = 60
MIN_WATER_BLUE = 8
"""Pixels up to `MAX_WATER` whose blue exceeds red and green by `MIN_WATER_BLUE` are water: lakes,
and oceans that a model or an autoencoder did not paint quite flat."""
MIN_LAND_PX_FRAC = 0.01
"""An image with less land than this is read as a whole, and counted."""
CHUNK = 48
"""Images to a file; at most so many are lost when a run is interrupted."""
NUM_PICTURED = 8
"""Places in the picture of real beside generated."""
KERNEL_SUBSET = 100
"""Images to a draw of the kernel distance; all of them where there are fewer."""
SEED_STRIDE = 1_000_000
"""Keeps the seeds of places, of unconditional images and of climate cases apart."""

DRY_CLASSES = frozenset(
    {
        LandCover.CLOSED_SHRUBLANDS,
        LandCover.OPEN_SHRUBLANDS,
        LandCover.SAVANNAS,
        LandCover.GRASSLANDS,
        LandCover.BARREN,
    }
)
DRY_MM_DAY = 600 / 365.25
"""600 mm a year."""
GROWING_C = 5.0
"""In a month below it hardly anything grows, whatever the rain."""
THAW_C = (-10.0, 5.0)
"""Monthly means at which a few degrees decide on snow."""


class MakeImages(Protocol):
    """What the evaluation asks of a generator."""

    def __call__(
        self, records: Sequence[TileRecord], seeds: Sequence[int], doors: tuple[Door, ...]
    ) -> Images:
        """One uint8 image ``(H, W, 3)`` a record; the same seed gives the same noise."""


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


def evaluate_heldout(
    bundle: Bundle,
    dataset: Path,
    output: Path,
    *,
    num_places: int = 48,
    num_cases: int = 100,
    months: tuple[int, ...] = (1, 3, 5, 7, 9, 11),
    seed: int = 0,
    steps: int = STEPS,
    guidance: float = GUIDANCE,
    conditions: tuple[ConditionName, ...] = get_args(ConditionName),
    spaces: tuple[str, ...] = SPACE_NAMES,
    num_draws: int = 1000,
    make_images: MakeImages | None = None,
    reconstruct: Callable[[Images], Images] | None = None,
    progress: Progress | None = None,
) -> Report:
    """Score a bundle on the test split of a dataset and write a report with pictures.

    Args:
        bundle: Model to score.
        dataset: Dataset folder with a ``train`` and a ``test`` split.
        output: Folder for ``report.json``, ``index.html``, the picture, and the images made so far:
            a second run with the same settings takes them from there.
        num_places: Test places, as far from each other as can be; all if there are fewer.
        num_cases: Cases of each climate response, three images each; all if there are fewer.
        months: Calendar months, 1 to 12.
        seed: Decides places, cases, noise and the draws of intervals.
        steps: Solver steps.
        guidance: Guidance scale.
        conditions: Runs of the model to score; "conditional" must be among them.
        spaces: Feature spaces of distances, names in `ecomap.features.FEATURE_SPACES`.
        num_draws: Bootstrap draws of each interval.
        make_images: Stands in for the bundle's generator.
        reconstruct: Stands in for the bundle's autoencoder.
        progress: Called with one line about each stage.

    Returns:
        The content of ``report.json``. What is undefined is ``None``.

    Raises:
        RequestError: If a setting is impossible, or the dataset has too few places.
        DataError: If the dataset or a kept image file is damaged.
    """
    started, say = time.monotonic(), progress or (lambda _: None)
    settings = Settings(
        num_places=num_places,
        num_cases=num_cases,
        months=tuple(months),
        seed=seed,
        steps=steps,
        guidance=guidance,
        conditions=tuple(conditions),
        spaces=tuple(spaces),
        num_draws=num_draws,
    )
    _check(settings)
    sample = read_sample(dataset, settings, say)
    weights = fingerprint(sorted(Path(bundle.path).rglob("*")))
    maker = ImageMaker(
        make=make_images or _generator(bundle, steps, guidance),
        folder=output / IMAGES_FOLDER,
        context={"bundle": weights, "steps": steps, "guidance": guidance},
        say=say,
    )
    doors = bundle.card.doors
    made = _make_conditions(sample, settings, maker, doors)
    say("comparing")
    report = _provenance(bundle, dataset, output, settings, weights) | _describe(sample)
    report |= _score(sample, settings, made, reconstruct or _autoencoder(bundle))
    report["response"] = {
        response.name: _respond(response, sample, settings, made, maker, doors)
        for response in RESPONSES
    }
    report = dict(_plain(report | {"seconds": round(time.monotonic() - started, 1)}))
    write_json(output / REPORT_FILE, report)
    _write_page(output, report, sample, made)
    return report


def _check(settings: Settings) -> None:
    """Refuse settings before anything is read or made."""
    if not settings.months or not set(settings.months) <= set(range(1, 13)):
        raise RequestError(f"months are {settings.months}; expected calendar months 1 to 12.")
    if min(settings.num_places, settings.num_cases, settings.num_draws) < 2:
        raise RequestError(
            f"num_places {settings.num_places}, num_cases {settings.num_cases} and num_draws "
            f"{settings.num_draws} must each be at least 2."
        )
    unknown = set(settings.conditions) - set(get_args(ConditionName))
    if unknown or "conditional" not in settings.conditions:
        raise RequestError(
            f"conditions are {settings.conditions}; expected 'conditional' and any others of "
            f"{get_args(ConditionName)}."
        )
    if set(settings.spaces) - set(SPACE_NAMES):
        raise RequestError(f"spaces are {settings.spaces}; choose from {SPACE_NAMES}.")


# The sample: which places, which cases, which baselines.


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
    places, dropped = usable_places(read_dataset(dataset), settings.months)
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
    )


def usable_places(
    records: Sequence[TileRecord], months: Sequence[int]
) -> tuple[dict[str, list[Place]], dict[str, int]]:
    """Group records by place and keep the places that can be scored.

    Args:
        records: Records of any splits.
        months: Calendar months that a place must have. Where it has a month in several years, the
            latest counts.

    Returns:
        Places by split (``buffer`` and ``unassigned`` left out), and the number of other places by
        reason.
    """
    grouped: dict[str, Place] = {}
    for record in sorted(records, key=lambda record: record.month):
        grouped.setdefault(record.place_id, {})[record.month_index + 1] = record
    kept: dict[str, list[Place]] = {}
    dropped: Counter[str] = Counter()
    for place in grouped.values():
        reason = _why_unusable(place, months)
        if reason is None:
            kept.setdefault(_first(place).split, []).append(place)
        else:
            dropped[reason] += 1
    return kept, dict(dropped)


def _why_unusable(place: Place, months: Sequence[int]) -> str | None:
    """First reason against a place, if any."""
    first = _first(place)
    names = ("temperature_c", "precipitation_mm_day")
    if first.split in ("buffer", "unassigned"):
        return f"split is {first.split}"
    if not set(months) <= set(place):
        return "a month is missing"
    if (first.land_frac or 0.0) < MIN_LAND_FRAC or first.land_cover is None:
        return "too little land, or land not known"
    for record in place.values():
        for name in names:
            normals = getattr(record, f"{name}_normals") or (None,)
            if None in normals or getattr(record, name) is None:
                return "climate not known"
    return None


def spread_places(places: Sequence[Place], num: int, *, seed: int = 0) -> list[Place]:
    """Choose places as far from each other as can be, the most spread first.

    Starts from a place drawn by the seed and adds, one by one, the place whose distance to the
    nearest chosen one is largest (Gonzalez 1985, https://doi.org/10.1016/0304-3975(85)90224-5).

    Args:
        places: At least one; their order does not matter.
        num: How many; all of them if there are fewer.
        seed: Decides the first place.
    """
    ordered = sorted(places, key=lambda place: _first(place).place_id)
    lat = np.radians([_first(place).lat for place in ordered])
    lon = np.radians([_first(place).lon for place in ordered])
    points = np.stack([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)], axis=1)
    chosen = [int(np.random.default_rng(seed).integers(len(ordered)))]
    nearest = np.linalg.norm(points - points[chosen[0]], axis=1)
    while len(chosen) < min(num, len(ordered)):
        nearest[chosen] = -1.0
        chosen.append(int(nearest.argmax()))
        nearest = np.minimum(nearest, np.linalg.norm(points - points[chosen[-1]], axis=1))
    return [ordered[index] for index in chosen]


def choose_cases(records: Sequence[TileRecord], num: int, *, seed: int = 0) -> list[TileRecord]:
    """Choose records in rounds: each place gives one before any place gives a second.

    Args:
        records: Records to choose from; their order does not matter.
        num: How many; all of them if there are fewer.
        seed: Shuffles the places, and the records of each.
    """
    rng = np.random.default_rng(seed)
    by_place: dict[str, list[TileRecord]] = {}
    for record in sorted(records, key=lambda record: record.tile_id):
        by_place.setdefault(record.place_id, []).append(record)
    queues = [[own[i] for i in rng.permutation(len(own))] for own in by_place.values()]
    queues = [queues[i] for i in rng.permutation(len(queues))]
    longest = max((len(queue) for queue in queues), default=0)
    rounds = [queue[turn] for turn in range(longest) for queue in queues if turn < len(queue)]
    return rounds[:num]


def shuffle_climate(places: Sequence[Place], *, seed: int = 0) -> list[Place]:
    """Give every place the climate of another one, month by month; all else stays its own.

    Args:
        places: At least two, with the same calendar months.
        seed: Decides who gets whose.
    """
    order = np.random.default_rng(seed).permutation(len(places))
    donors = dict(zip(order.tolist(), np.roll(order, -1).tolist(), strict=True))
    names = [f"{name}{suffix}" for name in CLIMATE for suffix in ("", "_history", "_normals")]
    return [
        {
            month: record.model_copy(
                update={name: getattr(places[donors[index]][month], name) for name in names}
            )
            for month, record in place.items()
        }
        for index, place in enumerate(places)
    ]


def nearest_analogues(places: Sequence[Place], training: Sequence[Place]) -> list[Place]:
    """Find the training place with the most similar climate for each place.

    Similar: smallest Euclidean distance of the twelve normals of temperature and of precipitation,
    each standardised over the training places; among places of the same land cover where there
    are any.

    Args:
        places: Places to find one for.
        training: At least one.
    """
    pool = np.array([_normals(place) for place in training])
    spread = pool.std(0)
    spread[spread == 0] = 1.0
    covers = np.array([_first(place).land_cover for place in training])
    found = []
    for place in places:
        distance = np.linalg.norm((pool - _normals(place)) / spread, axis=1)
        same = covers == _first(place).land_cover
        distance[~same & same.any()] = np.inf
        found.append(training[int(distance.argmin())])
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


def _first(place: Place) -> TileRecord:
    return place[min(place)]


def _normals(place: Place) -> Values:
    """Normals of temperature, then of precipitation, January to December each, ``(24,)``."""
    first = _first(place)
    series = (first.temperature_c_normals or ()) + (first.precipitation_mm_day_normals or ())
    return np.array(series, np.float64)


def _block(record: TileRecord) -> str:
    """Cell of `BLOCK_DEG` that a record's centre lies in."""
    return f"{math.floor(record.lat / BLOCK_DEG)}/{math.floor(record.lon / BLOCK_DEG)}"


# Images: made once, kept in chunks; and the real ones.


@dataclass(frozen=True, kw_only=True)
class ImageMaker:
    """Makes images in chunks and keeps each chunk on disk under a key of all that decides it."""

    make: MakeImages
    folder: Path
    context: Mapping[str, object]
    """What images depend on beside records, seeds and doors."""
    say: Progress = field(default=lambda _: None)

    def __call__(
        self,
        name: str,
        records: Sequence[TileRecord],
        seeds: Sequence[int],
        doors: tuple[Door, ...],
    ) -> Images:
        """Images of records, from disk where they are there.

        Args:
            name: Beginning of the files' names.
            records: At least one.
            seeds: One a record.
            doors: Ways by which the climate reaches the model.

        Raises:
            DataError: If a kept file is damaged.
            RequestError: If the generator gives another number or kind of images.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        chunks = []
        for start in range(0, len(records), CHUNK):
            part = slice(start, start + CHUNK)
            chunks.append(self._chunk(f"{name}-{start:05d}", records[part], seeds[part], doors))
            self.say(f"{name}: {min(start + CHUNK, len(records))} of {len(records)} images")
        return np.concatenate(chunks)

    def _chunk(
        self,
        name: str,
        records: Sequence[TileRecord],
        seeds: Sequence[int],
        doors: tuple[Door, ...],
    ) -> Images:
        """One chunk, made only if it is not there."""
        wanted = [record.model_dump(mode="json") for record in records]
        request = json.dumps([self.context, wanted, list(seeds), doors], sort_keys=True)
        path = self.folder / f"{name}-{hashlib.sha256(request.encode()).hexdigest()[:16]}.npz"
        if path.is_file():
            return _read_chunk(path)
        images = self.make(records, seeds, doors)
        if images.dtype != np.uint8 or images.ndim != 4 or len(images) != len(records):
            raise RequestError(
                f"The generator gave {images.dtype} of shape {images.shape} for {len(records)} "
                "records. Expected one uint8 image (H, W, 3) each."
            )
        temporary = path.with_suffix(".tmp")
        with temporary.open("wb") as file:
            np.savez_compressed(file, images=images)
        temporary.replace(path)
        return images


def _read_chunk(path: Path) -> Images:
    try:
        # np.load leaves a file that it opened itself open when it is damaged.
        with path.open("rb") as file, np.load(file, allow_pickle=False) as content:
            return np.asarray(content["images"], np.uint8)
    except (zipfile.BadZipFile, OSError, ValueError, KeyError, EOFError) as error:
        raise DataError(f"{path} is damaged: {error}. Delete it; it will be made again.") from None


def fingerprint(paths: Sequence[Path]) -> str:
    """SHA-256 over names and contents of files, in their order; folders are passed over."""
    digest = hashlib.sha256()
    for path in paths:
        if path.is_file():
            digest.update(path.name.encode() + b"\0")
            with path.open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


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


def _generator(bundle: Bundle, steps: int, guidance: float) -> MakeImages:
    """The bundle's own generator."""

    def make(
        records: Sequence[TileRecord], seeds: Sequence[int], doors: tuple[Door, ...]
    ) -> Images:
        return generate_images(
            bundle, records, seeds=seeds, steps=steps, guidance=guidance, doors=doors
        )

    return make


def _autoencoder(bundle: Bundle, *, batch_size: int = 16) -> Callable[[Images], Images]:
    """Images through the bundle's autoencoder and back."""

    @torch.inference_mode()
    def reconstruct(images: Images) -> Images:
        batches = []
        for start in range(0, len(images), batch_size):
            batch = torch.from_numpy(images[start : start + batch_size])
            pixels = to_pixels(batch).to(bundle.vae.device)
            batches.append(to_image(decode(bundle.vae, encode(bundle.vae, pixels))).cpu().numpy())
        return np.concatenate(batches)

    return reconstruct


def _make_conditions(
    sample: Sample, settings: Settings, maker: ImageMaker, doors: tuple[Door, ...]
) -> dict[str, Images]:
    """Images of the scored records under each condition.

    All months of a place share their noise, except without any condition: its months would be one
    picture, and a sample of few pictures repeated would be held against it.
    """
    num_months = len(settings.months)
    shared = [settings.seed + index // num_months for index in range(len(sample.records))]
    own = [settings.seed + SEED_STRIDE + index for index in range(len(sample.records))]
    shuffled = shuffle_climate(sample.chosen, seed=settings.seed)
    others = [place[month] for place in shuffled for month in settings.months]
    plan: dict[str, tuple[list[TileRecord], list[int], tuple[Door, ...]]] = {
        "conditional": (sample.records, shared, doors),
        "shuffled_climate": (others, shared, doors),
        "unconditional": (sample.records, own, ()),
    }
    made = {str(name): maker(name, *plan[name]) for name in settings.conditions}
    for name, images in made.items():
        if images.shape != sample.images.shape:
            raise RequestError(
                f"The bundle makes images of shape {images.shape[1:]} ({name}), the dataset has "
                f"frames of shape {sample.images.shape[1:]}. Score it on frames of its own size."
            )
    return made


# Indices: what is read off an image, real or generated.


@dataclass(frozen=True)
class Readings:
    """Indices of some images, in their order."""

    greenness: Values
    """Mean green chromatic coordinate of the land pixels."""
    snow: Values
    """Fraction of the land pixels that look like snow."""
    num_without_land: int = 0


def land_mask(image: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Pixels of an image ``(H, W, 3)`` that are neither as dark as deep water nor dark blue."""
    red, green, blue = np.moveaxis(image.astype(np.int16), -1, 0)
    largest = np.maximum(np.maximum(red, green), blue)
    is_blue = np.minimum(blue - red, blue - green) >= MIN_WATER_BLUE
    return np.asarray((largest > MAX_DARK) & ~(is_blue & (largest <= MAX_WATER)))


def read_indices(images: Sequence[NDArray[np.uint8]] | Images) -> Readings:
    """Mean greenness and snow fraction of the land pixels of each image.

    Each image is read over its own land: a model that is not told where the coast lies cannot be
    held to it pixel by pixel. Snow counts in greenness as the grey that it is.

    Returns:
        One value an image; an image without land is read as a whole and counted. A black one has no
        greenness (NaN).
    """
    green, snow, without = [], [], 0
    for image in images:
        mask = land_mask(image)
        if mask.mean() < MIN_LAND_PX_FRAC:
            mask, without = np.ones_like(mask), without + 1
        green.append(greenness(image, mask))
        snow.append(snow_fraction(image, mask))
    return Readings(np.array(green), np.array(snow), without)


# Scores: what is generated against what is real.


def _score(
    sample: Sample,
    settings: Settings,
    made: Mapping[str, Images],
    reconstruct: Callable[[Images], Images],
) -> Report:
    """Conditions, baselines and floors against the real images."""
    truth = _Truth(sample, settings)
    analogues = nearest_analogues(sample.chosen, sample.places["train"])
    retrieved = [place[month] for place in analogues for month in settings.months]
    training = [place[m] for place in sample.places["train"] for m in settings.months]
    means, missing = class_month_means(sample.records, training, sample.real(training))
    return {
        "conditions": {name: truth.score(images) for name, images in made.items()},
        "baselines": {
            "nearest_analogue": truth.score(read_frames(sample.reader, retrieved)),
            "class_month_mean": truth.score_readings(means) | {"num_without_class": missing},
        },
        "floors": {
            "autoencoder": truth.score(reconstruct(sample.images)),
            "real_vs_real": truth.score_real(),
        },
    }


class _Truth:
    """The real images, and what others score against them."""

    def __init__(self, sample: Sample, settings: Settings) -> None:
        self.sample, self.settings = sample, settings
        self.readings = sample.real(sample.records)
        self.places = [record.place_id for record in sample.records]
        self.blocks = [_block(record) for record in sample.records]
        self.features = {name: extract_features(sample.images, name) for name in settings.spaces}

    def score(self, images: Images) -> Report:
        """Indices, distances and PSNR of as many images as are real."""
        readings = read_indices(images)
        values = [metrics.psnr(a, b) for a, b in zip(self.sample.images, images, strict=True)]
        return {
            "num_images": len(images),
            "num_without_land": readings.num_without_land,
            **self.score_readings(readings),
            "psnr_db": float(np.mean(values)),
            "distances": {
                name: _distances(real, extract_features(images, name), self.settings.seed)
                for name, real in self.features.items()
            },
        }

    def score_readings(self, readings: Readings) -> Report:
        """Errors and correlations of indices, over places and months and within places."""
        report: Report = {}
        for name in ("greenness", "snow"):
            real, made = getattr(self.readings, name), getattr(readings, name)
            pairs = np.stack([real, made], axis=1)
            anomalies = np.stack(
                [metrics.group_anomaly(values, self.places) for values in (real, made)], axis=1
            )
            report[name] = {
                "rmse": self._estimate(metrics.rmse, pairs),
                "mean_absolute_error": self._estimate(metrics.mean_absolute_error, pairs),
                "pearson": self._estimate(metrics.pearson, pairs),
                "spearman": self._estimate(metrics.spearman, pairs),
                "anomaly_pearson": self._estimate(metrics.pearson, anomalies),
                "anomaly_spearman": self._estimate(metrics.spearman, anomalies),
            }
        return report

    def _estimate(self, statistic: Callable[[Values, Values], float], pairs: Values) -> Report:
        """A statistic of two columns with its 95 % interval over blocks."""
        low, high = metrics.bootstrap_interval(
            pairs,
            self.blocks,
            lambda drawn: statistic(drawn[:, 0], drawn[:, 1]),
            num=self.settings.num_draws,
            seed=self.settings.seed,
        )
        return {"value": statistic(pairs[:, 0], pairs[:, 1]), "low": low, "high": high}

    def score_real(self) -> Report:
        """Distances between real images of different places, of equal number on both sides."""
        num_months = len(self.settings.months)
        if self.sample.others:
            records = [p[m] for p in self.sample.others for m in self.settings.months]
            frames = read_frames(self.sample.reader, records)
            sides = {s: (f, extract_features(frames, s)) for s, f in self.features.items()}
        else:
            turn = np.arange(len(self.sample.records)) // num_months
            num = len(self.sample.chosen) // 2
            even, odd = (turn % 2 == 0) & (turn < 2 * num), turn % 2 == 1
            sides = {s: (f[even], f[odd & (turn < 2 * num)]) for s, f in self.features.items()}
        return {
            "num_images": len(next(iter(sides.values()))[0]) if sides else 0,
            "distances": {s: _distances(a, b, self.settings.seed) for s, (a, b) in sides.items()},
        }


def _distances(real: Features, made: Features, seed: int) -> Report:
    """Both distances between two equally large sets of features."""
    size = min(KERNEL_SUBSET, len(real))
    kernel = metrics.kernel_distance(real, made, subset_size=size, seed=seed)
    return {
        "frechet": metrics.frechet_distance(real, made),
        "kernel": {"mean": kernel.mean, "std": kernel.std, "subset_size": size},
    }


# Response: what changes when only the climate does.


@dataclass(frozen=True, kw_only=True)
class Response:
    """One question about climate: which records, which change, which index, which sign."""

    name: str
    index: IndexName
    variable: str
    changes: tuple[str, ...]
    """In the words of `ecomap.climate.parse_change`, from least to most."""
    expected_sign: Literal[-1, 1]
    unit: str
    level: Callable[[TileRecord], float]
    """Climate that slopes of a sustained change are taken against."""
    level_words: str
    is_case: Callable[[TileRecord], bool]
    rule: str
    tolerance: float
    """A case whose index moves by less over its images does not respond."""


def annual_precipitation(record: TileRecord) -> float:
    """Mean of the twelve normals of precipitation, mm/day."""
    return float(np.mean(np.array(record.precipitation_mm_day_normals, np.float64)))


def _month_temperature(record: TileRecord) -> float:
    """°C; NaN, which fulfils no rule, where it is not known."""
    return float("nan") if record.temperature_c is None else record.temperature_c


def is_dry_case(record: TileRecord) -> bool:
    """A growing month of a dry class, or of a place with less than 600 mm of rain a year.

    Rainless places are left out: a factor changes nothing there.
    """
    rain = annual_precipitation(record)
    is_dry = record.land_cover in DRY_CLASSES or rain < DRY_MM_DAY
    return is_dry and rain > 0 and _month_temperature(record) >= GROWING_C


def is_cold_case(record: TileRecord) -> bool:
    """A month near thaw of a place with frost; permanent ice is left out."""
    coldest = min(value for value in record.temperature_c_normals or () if value is not None)
    is_thaw = THAW_C[0] <= _month_temperature(record) <= THAW_C[1]
    return coldest < 0 and is_thaw and record.land_cover != LandCover.SNOW_AND_ICE


RESPONSES = (
    Response(
        name="greenness_to_precipitation",
        index="greenness",
        variable="precipitation_mm_day",
        changes=("x0.5", "x1", "x1.5"),
        expected_sign=1,
        unit="GCC per mm/day",
        level=annual_precipitation,
        level_words="annual mean precipitation",
        is_case=is_dry_case,
        rule="months of 5 °C or more; shrublands, savannas, grasslands, barren land, or less than "
        "600 mm a year",
        tolerance=0.001,
    ),
    Response(
        name="snow_to_temperature",
        index="snow",
        variable="temperature_c",
        changes=("-4", "+0", "+4"),
        expected_sign=-1,
        unit="land fraction per °C",
        level=_month_temperature,
        level_words="temperature of the month",
        is_case=is_cold_case,
        rule="months of -10 to 5 °C at places whose coldest month is below 0 °C; no permanent ice",
        tolerance=0.01,
    ),
)


def _respond(
    response: Response,
    sample: Sample,
    settings: Settings,
    made: Mapping[str, Images],
    maker: ImageMaker,
    doors: tuple[Door, ...],
) -> Report:
    """Generated and observed response to one climate variable."""
    pool = [r for place in sample.places["test"] for r in place.values() if response.is_case(r)]
    cases = choose_cases(pool, settings.num_cases, seed=settings.seed)
    report: Report = {
        "variable": response.variable,
        "index": response.index,
        "unit": response.unit,
        "changes": list(response.changes),
        "expected_sign": response.expected_sign,
        "rule": response.rule,
        "level": response.level_words,
        "num_possible_cases": len(pool),
        "observed": _observed_response(response, sample, settings),
        "seasonal": _seasonal_response(response, sample, settings, made),
    }
    if not cases:
        return report | {"generated": None}
    variable = CLIMATE[response.variable]
    changes = [{variable.name: parse_change(text, variable)} for text in response.changes]
    changed = [apply_changes(case, change) for case in cases for change in changes]
    first_seed = settings.seed + 2 * SEED_STRIDE
    seeds = [first_seed + index // len(changes) for index in range(len(changed))]
    readings = read_indices(maker(response.name, changed, seeds, doors))
    shape = (len(cases), len(changes))
    x = np.array([response.level(record) for record in changed]).reshape(shape)
    y = getattr(readings, response.index).reshape(shape)
    return report | {"generated": _generated_response(response, settings, cases, x, y)}


def _generated_response(
    response: Response, settings: Settings, cases: Sequence[TileRecord], x: Values, y: Values
) -> Report:
    """Slope and sign over cases ``(cases, changes)``, of all and of each land cover."""
    centred = (values - values.mean(axis=1, keepdims=True) for values in (x, y))
    slopes = np.array([metrics.slope_through_origin(*case) for case in zip(*centred, strict=True)])
    responds = np.ptp(y, axis=1) >= response.tolerance
    expected = responds & (np.sign(slopes) == response.expected_sign)
    blocks = [_block(case) for case in cases]
    low, high = metrics.bootstrap_interval(
        expected, blocks, lambda drawn: float(drawn.mean()), num=settings.num_draws,
        seed=settings.seed,
    )  # fmt: skip
    labels = np.array([case.land_cover.label if case.land_cover else "" for case in cases])

    def slope_of(chosen: NDArray[np.bool_]) -> Report:
        index = np.flatnonzero(chosen)
        strata = [str(i) for i in index for _ in response.changes]
        repeated = [blocks[i] for i in index for _ in response.changes]
        return slope_within(x[chosen].ravel(), y[chosen].ravel(), strata, repeated, settings)

    return {
        "num_cases": len(cases),
        "num_images": y.size,
        "mean_index": y.mean(0).tolist(),
        **slope_of(np.ones(len(cases), bool)),
        "median_case_slope": float(np.median(slopes)),
        "expected_sign": {"fraction": float(expected.mean()), "low": low, "high": high},
        "opposite_sign_fraction": float((responds & ~expected).mean()),
        "no_response_fraction": float((~responds).mean()),
        "by_land_cover": {
            label: slope_of(labels == label)
            | {
                "num_cases": int((labels == label).sum()),
                "expected_sign_fraction": float(expected[labels == label].mean()),
            }
            for label in sorted(set(labels.tolist()))
        },
    }


def _observed_response(response: Response, sample: Sample, settings: Settings) -> Report:
    """Slopes of real frames: over months within held-out places, and across places of a class."""
    test = [r for place in sample.places["test"] for r in place.values() if response.is_case(r)]
    everywhere = [
        record
        for group in sample.places.values()
        for place in group
        for record in place.values()
        if response.is_case(record)
    ]
    return {
        "across_places_of_a_class": slope_within(
            np.array([response.level(record) for record in everywhere]),
            getattr(sample.real(everywhere), response.index),
            [f"{record.land_cover}/{record.month_index}" for record in everywhere],
            [_block(record) for record in everywhere],
            settings,
        ),
        "over_months_within_places": _slope_over_months(
            response, test, sample.real(test), settings
        ),
    }


def _seasonal_response(
    response: Response, sample: Sample, settings: Settings, made: Mapping[str, Images]
) -> Report:
    """Slope over months within the scored places, real and under each condition."""
    is_case = np.array([response.is_case(record) for record in sample.records])
    records = [r for r, counts in zip(sample.records, is_case, strict=True) if counts]
    readings = {"real": sample.real(records)}
    readings |= {name: read_indices(images[is_case]) for name, images in made.items()}
    return {
        name: _slope_over_months(response, records, reading, settings)
        for name, reading in readings.items()
    }


def _slope_over_months(
    response: Response, records: Sequence[TileRecord], readings: Readings, settings: Settings
) -> Report:
    """Slope of an index against the month's own climate, inside places."""
    return slope_within(
        np.array([getattr(record, response.variable) for record in records], np.float64),
        getattr(readings, response.index),
        [record.place_id for record in records],
        [_block(record) for record in records],
        settings,
    )


def slope_within(
    x: Values, y: Values, strata: Sequence[str], blocks: Sequence[str], settings: Settings
) -> Report:
    """Slope inside strata with its 95 % interval over blocks and the numbers behind it.

    What differs between strata for any reason does not enter: `ecomap.metrics.slope_through_origin`
    of each value minus the mean of its stratum.

    Returns:
        ``slope``, ``low``, ``high`` in units of y per unit of x (``None`` without observations);
        ``num`` observations, ``num_strata`` of two or more observations, ``num_blocks``.
    """
    counts = {
        "num": len(x),
        "num_strata": sum(size > 1 for size in Counter(strata).values()),
        "num_blocks": len(set(blocks)),
    }
    if not len(x):
        return {"slope": None, "low": None, "high": None, **counts}
    pairs = np.stack([metrics.group_anomaly(x, strata), metrics.group_anomaly(y, strata)], axis=1)

    low, high = metrics.bootstrap_interval(
        pairs,
        blocks,
        lambda drawn: metrics.slope_through_origin(drawn[:, 0], drawn[:, 1]),
        num=settings.num_draws,
        seed=settings.seed,
    )
    slope = metrics.slope_through_origin(pairs[:, 0], pairs[:, 1])
    return {"slope": slope, "low": low, "high": high, **counts}


# The report: numbers with their provenance, and a page to read them on.


def _provenance(
    bundle: Bundle, dataset: Path, output: Path, settings: Settings, weights: str
) -> Report:
    """Everything that is needed to get the same numbers again."""
    words = ["python", "benchmarks/heldout.py", "--bundle", bundle.name]
    words += ["--dataset", str(dataset), "--output", str(output)]
    for name, value in asdict(settings).items():
        flag = f"--{name.removeprefix('num_').replace('_', '-')}"
        words += [flag, *map(str, value if isinstance(value, tuple) else (value,))]
    return {
        "command": shlex.join(words),
        "settings": asdict(settings),
        "bundle": {"name": bundle.name, "sha256": weights},
        "dataset": {"folder": str(dataset), "sha256": fingerprint([dataset / RECORDS_FILE])},
        "versions": versions(),
    }


def _describe(sample: Sample) -> Report:
    """What was scored, what was left out, and how to read the numbers."""
    places = [_first(place) for place in sample.chosen]
    blocks = {_block(place) for place in places}
    notes = [NOTES["intervals"].format(num=len(blocks)), *list(NOTES.values())[1:]]
    if any(place.climate_kind == "normal" for place in places):
        notes.insert(0, NORMALS_NOTE)
    if any(place.source == "bluemarble" for place in places):
        notes.insert(0, BLUE_MARBLE_NOTE)
    return {
        "sample": {
            "num_places": len(places),
            "num_images": len(sample.records),
            "num_blocks": len(blocks),
            "usable_places": {split: len(group) for split, group in sample.places.items()},
            "left_out_places": sample.dropped,
            "land_covers": Counter(p.land_cover.label for p in places if p.land_cover),
            "places": [
                {"place_id": place.place_id, "lat": place.lat, "lon": place.lon} for place in places
            ],
        },
        "notes": notes,
        "feature_spaces": {name: space.description for name, space in FEATURE_SPACES.items()},
    }


BLUE_MARBLE_NOTE = (
    "The frames are Blue Marble: cloud-free, colour-corrected monthly composites of 2004 at about "
    "7.4 km a pixel. They are not Sentinel-2 tiles, and no number here may be set beside one that "
    "was measured on 10 m imagery."
)
NORMALS_NOTE = (
    "The climate given to the model is a long-term mean, the frames show one year: the weather of "
    "that year is part of every error."
)
NOTES = {
    "intervals": "Intervals are 95 % percentile intervals of a bootstrap over cells of 10 degrees; "
    "the scored places lie in {num} cells, and few cells make wide and rough intervals.",
    "land": "Greenness is the mean of G/(R+G+B) over land pixels, snow the fraction of land pixels "
    "that are bright and grey. Each image is read over its own land (pixels that are neither as "
    "dark as deep water nor dark blue), because no condition says where the coast runs.",
    "anomaly": "An anomaly is a value minus the mean of its place over the scored months. It is "
    "undefined where a method gives a place the same value in all months.",
    "noise": "All months of a place share their noise, except without conditions, where each image "
    "has its own: its months would otherwise be one picture repeated.",
    "psnr": "PSNR to the real month is no target: noise decides where things lie in a generated "
    "image, and a blurred picture would score higher.",
    "frechet": "Every distance compares equal numbers of images. The Fréchet distance is biased "
    "upwards at small numbers, so that it can be compared only inside this table; the kernel "
    "distance is not biased, and its deviation is that of overlapping random subsets.",
    "real": "Real against real compares the scored test places with other test places, or one half "
    "of them with the other where there are too few. Windows of neighbours overlap, which flatters "
    "this floor; where halves are compared, its number of images is smaller than the others'.",
    "analogue": "The nearest climate analogue is a real frame of a training place, in the same "
    "month: it is real by construction and cannot follow a climate that no place has.",
    "response": "Observed slopes are not effects: across places and over months, radiation, soils "
    "and people differ along with the climate. The generated slope is the model's effect of a "
    "change sustained over all months that it sees; its nearest observed kin is the slope across "
    "places of a class in the same month.",
}
"""How to read the report, in the order in which it is told."""


def _plain(value: Any) -> Any:
    """JSON without NaN or infinity, which JSON does not know: they become null."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    return value


def _write_page(output: Path, report: Report, sample: Sample, made: Mapping[str, Images]) -> None:
    """Write the picture and the page."""
    picture = output / PICTURE_FILE
    _draw_picture(picture, sample, made["conditional"])
    size = report["sample"]
    intro = (
        f"{report['bundle']['name']}: {size['num_places']} test places, {size['num_images']} "
        f"images a condition, {report['settings']['steps']} steps, guidance "
        f"{report['settings']['guidance']:g}.\n\n{report['command']}"
    )
    beside = Figure(
        caption="Each real row stands over the images generated for the same places and months.",
        png=picture,
        alt="Real frames beside generated images",
    )
    sections = [
        Section(heading="How to read this", text="\n\n".join(report["notes"])),
        Section(
            heading="Greenness and snow of held-out places",
            tables=[_index_table(report, "greenness"), _index_table(report, "snow")],
            figures=_scatters(sample, made["conditional"], report),
        ),
        Section(heading="Realism", tables=[_distance_table(report)]),
        Section(heading="Real beside generated", figures=[beside]),
        Section(
            heading="Response to climate",
            tables=[_response_table(answer) for answer in report["response"].values()],
            figures=_response_figures(report["response"]),
        ),
    ]
    footer = " ".join(dict.fromkeys(record.attribution for record in sample.records))
    write_page(output / PAGE_FILE, "Held-out evaluation", sections, intro=intro, footer=footer)


def _draw_picture(path: Path, sample: Sample, images: Images) -> None:
    """Real months of a place over the generated ones, place under place."""
    num = len(sample.months)
    pictures, captions, flags = [], [], []
    for start in range(0, min(NUM_PICTURED, len(sample.chosen)) * num, num):
        for source, is_real in ((sample.images, True), (images, False)):
            for index in range(start, start + num):
                record = sample.records[index]
                cover = record.land_cover.label if record.land_cover else ""
                pictures.append(source[index])
                captions.append(
                    f"{month_abbr[record.month_index + 1]}, {record.temperature_c:.0f} °C, "
                    f"{record.precipitation_mm_day:.1f} mm/day. {record.lat:.1f}, "
                    f"{record.lon:.1f}. {cover}"
                )
                flags.append(is_real)
    contact_sheet(path, pictures, captions, num, "Real over generated", is_real=flags)


def _scored(report: Report) -> dict[str, Report]:
    """Everything that was scored, by name, in the order of the tables."""
    floors = {name: report["floors"][name] for name in ("autoencoder", "real_vs_real")}
    return {**report["conditions"], **report["baselines"], **floors}


def _index_table(report: Report, index: IndexName) -> Table:
    """Scores of one index, each with its interval."""
    names = ("rmse", "mean_absolute_error", "pearson", "spearman", "anomaly_pearson",
             "anomaly_spearman")  # fmt: skip
    rows: list[list[Cell]] = [
        [name.replace("_", " "), *(_with_interval(scores[index][key]) for key in names)]
        for name, scores in _scored(report).items()
        if index in scores
    ]
    return Table(
        columns=["", *(name.replace("_", " ") for name in names)],
        rows=rows,
        caption=f"{index.capitalize()} against the real month, with 95 % intervals",
    )


def _with_interval(estimate: Mapping[str, float | None], key: str = "value") -> str | None:
    """A value with its interval in brackets."""
    value, low, high = (estimate[name] for name in (key, "low", "high"))
    if value is None:
        return None
    reach = "" if low is None or high is None else f" [{low:.3g}, {high:.3g}]"
    return f"{value:.3g}{reach}"


def _distance_table(report: Report) -> Table:
    """Distances to the real images in each feature space, and PSNR."""
    spaces = report["settings"]["spaces"]
    rows: list[list[Cell]] = []
    for name, scores in _scored(report).items():
        row: list[Cell] = [name.replace("_", " "), scores.get("num_images")]
        for space in spaces:
            found = scores.get("distances", {}).get(space)
            row.append(found and found["frechet"])
            row.append(found and f"{found['kernel']['mean']:.3g} ± {found['kernel']['std']:.2g}")
        rows.append([*row, scores.get("psnr_db")])
    heads = [f"{kind}, {space}" for space in spaces for kind in ("Fréchet", "kernel")]
    spoken = "; ".join(f"{space}: {report['feature_spaces'][space]}" for space in spaces)
    return Table(
        columns=["", "images", *heads, "PSNR (dB)"],
        rows=rows,
        caption=f"Distance to the real images. {spoken}.",
    )


def _response_table(answer: Report) -> Table:
    """Generated slope beside the observed ones."""
    generated, observed, seasonal = answer["generated"], answer["observed"], answer["seasonal"]
    lines = {"observed across places of a class": observed["across_places_of_a_class"]}
    lines |= {"observed over months within test places": observed["over_months_within_places"]}
    lines |= {f"over months within scored places, {k}": v for k, v in seasonal.items()}
    rows: list[list[Cell]] = []
    if generated:
        sign = generated["expected_sign"]
        for name, found in {"all": generated, **generated["by_land_cover"]}.items():
            share = found.get("expected_sign_fraction", sign["fraction"])
            rows.append([f"generated, {name}", _with_interval(found, "slope"), share,
                         found["num_cases"], found["num_blocks"]])  # fmt: skip
    rows += [
        [name, _with_interval(found, "slope"), None, found["num"], found["num_blocks"]]
        for name, found in lines.items()
    ]
    return Table(
        columns=["", answer["unit"], "share of expected sign", "cases or records", "cells"],
        rows=rows,
        caption=f"{answer['index'].capitalize()} against {answer['level']} "
        f"({', '.join(answer['changes'])}): {answer['rule']}. Over months: against the month's own "
        "value.",
    )


def _scatters(sample: Sample, images: Images, report: Report) -> list[Figure]:
    """Generated against real indices."""
    real, made = sample.real(sample.records), read_indices(images)
    figures = []
    for index in ("greenness", "snow"):
        scores = report["conditions"]["conditional"][index]
        note = f"Spearman {_with_interval(scores['spearman']) or 'undefined'}"
        png = observed_versus_generated(
            getattr(real, index), getattr(made, index), index.capitalize(), note=note
        )
        figures.append(Figure(caption=index.capitalize(), png=png, alt=f"Scatter of {index}"))
    return figures


def _response_figures(answers: Mapping[str, Report]) -> list[Figure]:
    """Mean index of the cases under each change; nothing where a response has no case."""
    rain, heat = (answers[response.name]["generated"] for response in RESPONSES)
    if not rain or not heat:
        return []
    factors, offsets = (
        [parse_change(text, CLIMATE[response.variable]).value for text in response.changes]
        for response in RESPONSES
    )
    png = response_sweep(
        precipitation_place=f"Mean of {rain['num_cases']} dry cases",
        precipitation_factors=factors,
        greenness=rain["mean_index"],
        temperature_place=f"Mean of {heat['num_cases']} cold cases",
        temperature_offsets_c=offsets,
        snow_frac=heat["mean_index"],
    )
    return [Figure(caption="Mean over cases, same noise for each", png=png, alt="Responses")]
