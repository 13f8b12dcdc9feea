"""One pass over a set of images: indices, features, predictions, and pairs with the real images.

Each image is read once, and its real one beside it. A thread reads ahead, so that networks never
wait for disks; with an executor whole batches are done elsewhere. Memory holds a few batches of
images and what is kept of each image; with a folder even features lie on disk.

Longer than the budget because reading, measuring and collecting share the form of a batch.
"""

import pickle
import re
import tempfile
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from functools import lru_cache
from hashlib import sha256
from itertools import islice
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ecomap import indices
from ecomap.errors import ImageError, RequestError
from ecomap.evaluate_config import EvaluateConfig
from ecomap.features import open_space
from ecomap.paired import LpipsNet, lpips_from_weights, pair_measures
from ecomap.tiles import Frame, ImageSet, Measured, ScoredTile, tile_table

READ_AHEAD = 2
"""Batches that are read while another is measured."""
IN_FLIGHT = 64
"""Batches that an executor knows of at a time."""
COPIED_ROWS = 4096
"""Rows of features copied at a time."""
MAX_VARI = 1.0
"""VARI beyond it has a divisor near 0. It is half a per cent of Blue Marble's land pixels, and
moves the mean of a tile by up to 0.4."""

Pair = tuple[int, int | None]
"""Position of an image, and of its real one."""
_READING = threading.Lock()
"""Sets keep files open and need not be safe to read from several threads."""


def measure_set(
    images: ImageSet,
    *,
    spaces: Sequence[str],
    reference: ImageSet | None,
    config: EvaluateConfig,
    folder: Path | None = None,
    executor: Executor | None = None,
    progress: Callable[[int, int], None] | None = None,
    lpips: tuple[LpipsNet, Path] | None = None,
) -> Measured:
    """Read every image of a set once and keep what statistics need of it.

    Images are read in the order of their files, and the result is in the order of the tiles.
    Features describe the picture as it is, masked pixels too; all other measures are of valid
    pixels alone.

    Args:
        images: Set to measure.
        spaces: Names of feature spaces (`ecomap.features.open_space`).
        reference: Real images; those of the same key are paired. None: nothing is paired.
        config: Its ``batch_size``, which decides no result beyond float32 rounding.
        folder: Where features and probabilities are written, one ``.npy`` file each, and then
            mapped; by default they are kept in memory. Sets may share a folder if their names
            differ.
        executor: Where batches are measured, such as a pool of processes or Dask's
            (``Client.get_executor``), by default this process. Workers must see the images' files,
            and ``folder`` or the folder for temporary files. Give each worker one torch thread.
        progress: Called with (done, total) images after each batch.
        lpips: Arguments of `ecomap.paired.lpips_from_weights`, for a column "lpips".

    Returns:
        Columns of the table beside those of `tile_table`: those of `index_measures`; with a
        reference those of `ecomap.paired.pair_measures`, NaN where there is no real image or it
        cannot be read; and predictions of the spaces. Where two spaces predict the same, the column
        of the later has its name added in brackets. Images that raise `ImageError` are left out and
        listed in ``problems``; where all are, the table and the features have no rows.

    Raises:
        RequestError: If the set is empty, images differ in size, or a space cannot be opened.
    """
    if not images.tiles:
        raise RequestError(f"{images.name} has no images. Expected at least one to measure.")
    real = {} if reference is None else {t.key: i for i, t in enumerate(reference.tiles)}
    pairs = [(index, real.get(tile.key)) for index, tile in enumerate(images.tiles)]
    pairs.sort(key=lambda pair: _file_order(pair, images, reference))
    size = config.batch_size
    batches = [pairs[start : start + size] for start in range(0, len(pairs), size)]
    job = _Job(images, reference, tuple(spaces), lpips)
    collected = _Collected(images, folder)
    parts = _here(job, batches) if executor is None else _elsewhere(job, batches, executor, folder)
    done = 0
    for part in parts:
        collected.add(part)
        done += part.num_read
        if progress is not None:
            progress(done, len(pairs))
    if not collected.any:
        collected.add_names(_measure(job, _blank(is_pair=reference is not None)))
    return collected.result()


def index_measures(frame: Frame) -> dict[str, float]:
    """Indices of one image.

    Returns:
        ``gcc``, ``vari`` (pixels beyond +-`MAX_VARI` left out), ``exg``, ``snow_frac``, ``ndvi``,
        ``evi`` and ``ndsi``: means over the valid pixels of land (`ecomap.indices.read_land`; over
        all valid pixels where there is less land than it asks for). ``land_px_frac``,
        ``brightness`` (mean of the channels, 0-255) and ``saturation_frac`` (share of pixels with
        a channel at 255): over valid pixels. ``valid_frac``: share of pixels that are valid. NaN
        where undefined, as ``ndvi`` without bands.
    """
    rgb, valid = frame.rgb, frame.valid
    land, has_land = indices.read_land(rgb, valid)
    all_land = land if has_land else indices.land_mask(rgb) & valid
    vari = indices.vari(rgb)
    vari[np.abs(vari) > MAX_VARI] = np.nan
    maps = {
        "gcc": indices.green_chromatic_coordinate(rgb),
        "vari": vari,
        "exg": indices.excess_green(rgb),
        "snow_frac": indices.snow_mask(rgb).astype(np.float32),
        **_band_maps(frame.bands, valid.shape),
    }
    found = {name: indices.mean_over(values, land) for name, values in maps.items()}
    red, green, blue = (rgb[..., channel] for channel in range(3))
    is_saturated = np.maximum(np.maximum(red, green), blue) == 255
    return found | {
        "land_px_frac": indices.mean_over(all_land.astype(np.float32), valid),
        "brightness": float(rgb[valid].mean()) if valid.any() else float("nan"),
        "saturation_frac": indices.mean_over(is_saturated.astype(np.float32), valid),
        "valid_frac": float(valid.mean()),
    }


def _band_maps(
    bands: Mapping[str, NDArray[np.float32]], shape: tuple[int, ...]
) -> dict[str, NDArray[np.float32]]:
    """Indices of reflectance; NaN where a band is missing."""
    nothing = np.full(shape, np.nan, np.float32)
    if not bands:
        return dict.fromkeys(("ndvi", "evi", "ndsi"), nothing)
    near_infrared = bands.get("B08", bands.get("B8A", nothing))
    blue, green, red, short_wave = (bands.get(b, nothing) for b in ("B02", "B03", "B04", "B11"))
    return {
        "ndvi": indices.ndvi(near_infrared, red),
        "evi": indices.evi(near_infrared, red, blue),
        "ndsi": indices.ndsi(green, short_wave),
    }


@dataclass(frozen=True)
class _Job:
    """What is done to every batch."""

    images: ImageSet
    reference: ImageSet | None
    spaces: tuple[str, ...]
    lpips: tuple[LpipsNet, Path] | None


@dataclass(frozen=True)
class _Batch:
    """Images that could be read, and those that could not."""

    indices: list[int] = field(default_factory=list)
    frames: list[Frame] = field(default_factory=list)
    rows: list[dict[str, float]] = field(default_factory=list)
    """`index_measures` of each."""
    real: dict[int, Frame] = field(default_factory=dict)
    """Real images by position in ``frames``."""
    problems: list[tuple[int, str]] = field(default_factory=list)
    """Position in the set, and reason."""


@dataclass(frozen=True)
class _Part:
    """What is kept of a batch."""

    indices: list[int]
    table: pd.DataFrame
    arrays: Mapping[tuple[str, str], NDArray[np.float32]]
    """Features and probabilities by kind and space."""
    problems: list[tuple[int, str]]

    @property
    def num_read(self) -> int:
        """Images of the batch, also those that could not be read."""
        return len(self.indices) + len(self.problems)


def _file_order(pair: Pair, images: ImageSet, reference: ImageSet | None) -> tuple[str, str, int]:
    """Frames of one mosaic one after the other: decoding it again would cost seconds."""

    def path(tile: ScoredTile) -> str:
        return (tile.record.image_path if tile.record is not None else None) or ""

    index, real = pair
    theirs = "" if reference is None or real is None else path(reference.tiles[real])
    return theirs, path(images.tiles[index]), index


def _here(job: _Job, batches: Sequence[Sequence[Pair]]) -> Iterator[_Part]:
    """Measure batches in this process while a thread reads the next ones."""
    upcoming = iter(batches)
    with ThreadPoolExecutor(1, thread_name_prefix="read") as reader:
        waiting = deque(reader.submit(_read, job, b) for b in islice(upcoming, READ_AHEAD))
        while waiting:
            batch = waiting.popleft().result()
            waiting.extend(reader.submit(_read, job, b) for b in islice(upcoming, 1))
            yield _measure(job, batch)


def _elsewhere(
    job: _Job, batches: Sequence[Sequence[Pair]], executor: Executor, folder: Path | None
) -> Iterator[_Part]:
    """Measure batches by an executor, in the order in which it finishes them.

    The sets are written once and read once a worker process: sent with every batch they would
    outweigh it.
    """
    upcoming = iter(batches)
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".measure-", dir=folder) as temporary:
        path = str(Path(temporary) / "sets.pickle")
        Path(path).write_bytes(pickle.dumps(job))
        waiting: set[Future[_Part]] = set()
        try:
            waiting |= {executor.submit(_work, path, b) for b in islice(upcoming, IN_FLIGHT)}
            while waiting:
                done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
                waiting |= {executor.submit(_work, path, b) for b in islice(upcoming, len(done))}
                yield from (future.result() for future in done)
        finally:
            for future in waiting:
                future.cancel()


def _work(path: str, batch: Sequence[Pair]) -> _Part:
    """Task of a worker."""
    job = _load_job(path)
    return _measure(job, _read(job, batch))


@lru_cache(maxsize=2)
def _load_job(path: str) -> _Job:
    """Sets of a task; their path is never used twice."""
    job = pickle.loads(Path(path).read_bytes())
    assert isinstance(job, _Job)
    return job


def _read(job: _Job, pairs: Sequence[Pair]) -> _Batch:
    """Read images with their real ones, and indices while they are at hand."""
    batch = _Batch()
    for index, real in pairs:
        try:
            with _READING:
                frame = job.images.read(index)
        except ImageError as error:
            batch.problems.append((index, error.reason))
            continue
        if job.reference is not None and real is not None:
            try:
                with _READING:
                    batch.real[len(batch.frames)] = job.reference.read(real)
            except ImageError:
                pass  # counted where the reference itself is measured; here it makes no pair
        batch.indices.append(index)
        batch.frames.append(frame)
        batch.rows.append(index_measures(frame))
    return batch


def _measure(job: _Job, batch: _Batch) -> _Part:
    """Features, predictions and paired measures of images that were read."""
    table = pd.DataFrame(batch.rows)
    arrays: dict[tuple[str, str], NDArray[np.float32]] = {}
    if batch.frames:
        _check_sizes(job, batch)
        images = np.stack([frame.rgb for frame in batch.frames])
        for spec in job.spaces:
            found = open_space(spec).extract(images)
            arrays["features", spec] = found.features
            if found.probabilities is not None:
                arrays["probabilities", spec] = found.probabilities
            for name, values in found.predictions.items():
                column = name if name not in table else f"{name} ({spec})"
                table[column] = np.asarray(values, np.float64)
    if batch.real:
        lpips = None if job.lpips is None else lpips_from_weights(*job.lpips)
        made = [batch.frames[position] for position in batch.real]
        measures = pair_measures(list(batch.real.values()), made, lpips=lpips)
        table = table.join(measures.set_axis(list(batch.real), axis=0))
    return _Part(batch.indices, table, arrays, batch.problems)


def _check_sizes(job: _Job, batch: _Batch) -> None:
    """Features and pairs need images of one size.

    Raises:
        RequestError: If sizes differ.
    """
    first = batch.frames[0].rgb.shape[:2]
    named = [(job.images.name, frame) for frame in batch.frames]
    named += [("the reference", frame) for frame in batch.real.values()]
    for name, frame in named:
        if frame.rgb.shape[:2] != first:
            height, width = frame.rgb.shape[:2]
            raise RequestError(
                f"{name} has an image of {height} x {width} px, and {job.images.name} one of "
                f"{first[0]} x {first[1]} px. Images are scored at one size; give it with --size."
            )


def _blank(*, is_pair: bool) -> _Batch:
    """A black image, to learn the names and widths of what is measured."""
    frame = Frame(np.zeros((64, 64, 3), np.uint8), np.ones((64, 64), bool))
    return _Batch([0], [frame], [index_measures(frame)], {0: frame} if is_pair else {})


class _Collected:
    """Parts as they come, in the order of the tiles in the end."""

    def __init__(self, images: ImageSet, folder: Path | None) -> None:
        self._images, self._folder = images, folder
        self._columns: dict[str, NDArray[np.float64]] = {}
        self._stores: dict[tuple[str, str], _RowStore] = {}
        self._is_kept = np.zeros(len(images.tiles), bool)
        self._problems: list[tuple[int, str]] = []

    @property
    def any(self) -> bool:
        """Whether there was an image that could be measured."""
        return bool(self._is_kept.any())

    def add(self, part: _Part) -> None:
        """Put the rows of a part in their places."""
        self._problems += part.problems
        self._is_kept[part.indices] = True
        self.add_names(part)
        for name in part.table:
            self._columns[str(name)][part.indices] = part.table[name]
        for key, rows in part.arrays.items():
            self._stores[key].put(part.indices, rows)

    def add_names(self, part: _Part) -> None:
        """Make room for what a part has, without its rows."""
        num = len(self._images.tiles)
        for name in part.table:
            self._columns.setdefault(str(name), np.full(num, np.nan))
        for key, rows in part.arrays.items():
            if key not in self._stores:
                path = None if self._folder is None else self._path(*key)
                self._stores[key] = _RowStore(num, rows.shape[1], path)

    def result(self) -> Measured:
        """All that was put."""
        kept, tiles = np.flatnonzero(self._is_kept), self._images.tiles
        table = tile_table([tiles[index] for index in kept.tolist()] or tiles[:1])
        table = table.iloc[: len(kept)]
        values = {name: column[kept] for name, column in self._columns.items()}
        arrays = {key: store.finish(kept) for key, store in self._stores.items()}
        problems: dict[str, list[str]] = {}
        for index, reason in sorted(self._problems):
            problems.setdefault(reason, []).append(tiles[index].key)
        by_kind = {
            kind: {space: rows for (other, space), rows in arrays.items() if other == kind}
            for kind in ("features", "probabilities")
        }
        return Measured(
            self._images.name,
            self._images.kind,
            self._images.description,
            pd.concat([table, pd.DataFrame(values, index=table.index)], axis=1),
            **by_kind,
            problems=problems,
        )

    def _path(self, kind: str, space: str) -> Path:
        """File of an array; what no file name can hold is replaced, and told apart by a hash."""
        assert self._folder is not None
        self._folder.mkdir(parents=True, exist_ok=True)
        name = f"{self._images.name}-{space}"
        safe = re.sub(r"[^A-Za-z0-9_.-]+", "_", name)[:80]
        mark = "" if safe == name else f"-{sha256(name.encode()).hexdigest()[:8]}"
        return self._folder / f"{kind}-{safe}{mark}.npy"


class _RowStore:
    """float32 rows, put in any order, in memory or on disk."""

    def __init__(self, num: int, width: int, path: Path | None) -> None:
        self._path, self._width = path, width
        self._rows: NDArray[np.float32] = (
            np.empty((num, width), np.float32)
            if path is None
            else np.lib.format.open_memmap(_partial(path), "w+", np.float32, (num, width))
        )

    def put(self, positions: Sequence[int], rows: NDArray[np.float32]) -> None:
        """Keep rows at their positions."""
        self._rows[positions] = rows

    def finish(self, kept: NDArray[np.intp]) -> NDArray[np.float32]:
        """Rows at ``kept`` alone; on disk under their final name, mapped read-only."""
        rows, path = self._rows, self._path
        is_whole = len(kept) == len(rows)
        if path is None:
            return rows if is_whole else rows[kept]
        if is_whole:
            _partial(path).replace(path)  # what is mapped stays mapped, and reaches the disk
        else:
            if len(kept):  # no file maps to an empty array
                target = np.lib.format.open_memmap(path, "w+", np.float32, (len(kept), self._width))
                for start in range(0, len(kept), COPIED_ROWS):
                    chosen = slice(start, start + COPIED_ROWS)
                    target[chosen] = rows[kept[chosen]]
                target.flush()
            _partial(path).unlink()
        if not len(kept):
            return np.empty((0, self._width), np.float32)
        mapped: NDArray[np.float32] = np.load(path, mmap_mode="r")
        return mapped


def _partial(path: Path) -> Path:
    """Name of a file that is not finished."""
    return path.with_name(path.name + ".partial")
