"""One tile of one month: the clearest pass over it, corrected, mosaicked and written.

Scenes of one pass belong together: neighbouring squares of the grid, and strips that were received
at different stations. Their classes are read first, for they are small, in the order of scene-wide
cloud, until a pass shows nothing but clear ground; the bands are read of the best pass alone. A
scene that is damaged for good is passed over and named in the result; a failure that may pass is
raised, so that another run does not choose differently.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray

from data_prep.cog import write_cog
from data_prep.passes import PassBands, PassClasses, PassReader
from data_prep.place import Place
from data_prep.prep_config import ImageryConfig
from data_prep.providers import PROVIDERS, SCENE_CLASSES
from data_prep.remote import gdal_env
from data_prep.scene import Scene
from data_prep.scl import HAZY_FRAC, TileStats, rank
from data_prep.second_look import SECOND_LOOK_BANDS, second_look

CONFIDENCES = ("high", "medium", "low")


@dataclass(frozen=True, kw_only=True)
class TileResult:
    """What became of a tile; fractions are in [0, 1], of its valid pixels unless said otherwise."""

    state: Literal["done", "empty"]
    reason: Literal["no_scene", "cloudy", "nodata"] | None = None
    """Why it is empty. The fractions then are those of the best pass, which was not good enough."""
    acquired: str | None = None
    """Sensing time of the first item."""
    items: tuple[str, ...] = ()
    """Scenes that gave pixels; each pixel is of the first that has it."""
    baseline: str | None = None
    """Of the first item."""
    offset: int | None = None
    """Added to the first item's digital numbers."""
    offset_source: str | None = None
    offset_confidence: Literal["high", "medium", "low"] | None = None
    """Lowest of all items."""
    cloud_frac: float | None = None
    """Cloud and its shadow; by the second look where there was one."""
    snow_frac: float | None = None
    nodata_frac: float | None = None
    """Of all pixels."""
    saturated_frac: float | None = None
    num_candidates: int = 0
    """Passes of the month over the tile."""
    flags: tuple[str, ...] = ()
    """``offset_suspect`` and the like (`data_prep.radiometry.check_offset`), ``mixed_offsets``
    where the items' offsets differ, ``scene_unreadable``, ``hazy`` where much of the ground is
    unclassified (`data_prep.scl.HAZY_FRAC`)."""
    problems: tuple[str, ...] = ()
    """What was wrong with scenes that were passed over, one sentence each."""
    bands: tuple[str, ...] = ()
    """What the file holds, in this order."""
    sha256: str | None = None
    """Of the file."""
    pixels_sha256: str | None = None
    """Of the values and their shape alone: the same in copies that lie or are called otherwise."""

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """The result that `to_dict` made plain."""
        fields: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value for key, value in values.items()
        }
        return cls(**fields)


def fetch_tile(
    place: Place, month: str, scenes: Sequence[Scene], *, path: Path, config: ImageryConfig
) -> TileResult:
    """Choose, read and write the clearest tile of a month.

    Args:
        place: Grid of the tile.
        month: ``YYYY-MM``.
        scenes: Scenes of that month whose footprints touch the tile.
        path: GeoTIFF to write; untouched where the month is empty.
        config: Bands, thresholds, access.

    Returns:
        What became of it. A month without a pass that keeps the thresholds is ``empty``.

    Raises:
        ReadError: If reading failed and may succeed later, or no scene can be read at all.
        RequestError: If the second look needs a package that is missing, or a larger tile.
        DataError: If a scene contradicts itself.
        OSError: If the tile cannot be written.
        ValueError: If a scene is of another month.
    """
    strangers = sorted(scene.item_id for scene in scenes if scene.month != month)
    if strangers:
        raise ValueError(f"{', '.join(strangers)} is not of {month}.")
    with gdal_env(timeout_s=config.timeout_s, num_retries=config.num_retries):
        return _Search(place, scenes, config).run(path)


class _Search:
    """The search for the best pass over one tile in one month."""

    def __init__(self, place: Place, scenes: Sequence[Scene], config: ImageryConfig) -> None:
        self.place = place
        self.config = config
        self.bands = _bands_to_read(config)
        self.reader = PassReader(place, self.bands, config)
        self.problems: list[str] = []
        passes = self._passes(scenes)
        self.num_candidates = len(passes)
        self.waiting = passes[: config.max_candidates]
        self.seen: list[PassClasses] = []
        self.refused: list[PassClasses] = []

    def run(self, path: Path) -> TileResult:
        """Take the best pass whose bands keep what its classes promise."""
        while best := self._best():
            bands = self.reader.read_bands(best)
            if bands is None:
                continue
            best = replace(best, stats=self._look_again(best.stats, bands.values))
            if self._reason(best.stats) is None:
                return self._write(best, bands, path)
            self.refused.append(best)
        return self._empty()

    def _passes(self, scenes: Sequence[Scene]) -> list[list[Scene]]:
        """Scenes by pass, least scene-wide cloud first; those that cannot serve are left out."""
        groups: dict[str, list[Scene]] = {}
        for scene in sorted(scenes, key=lambda scene: scene.item_id):
            missing = [b for b in (SCENE_CLASSES, *self.bands) if b not in scene.assets]
            if missing:
                self.problems.append(f"{scene.item_id} has no asset {', '.join(missing)}.")
            else:
                groups.setdefault(scene.pass_key, []).append(scene)
        limit = self.config.max_scene_cloud_frac
        clouds = {
            key: [limit if s.cloud_frac is None else s.cloud_frac for s in group]
            for key, group in groups.items()
        }
        kept = [key for key in groups if min(clouds[key]) <= limit]
        kept.sort(key=lambda key: (sum(clouds[key]) / len(clouds[key]), groups[key][0].item_id))
        return [groups[key] for key in kept]

    def _best(self) -> PassClasses | None:
        """Best pass of those that keep the thresholds; reads classes until none can be better."""
        fitting = [c for c in self.seen if self._reason(c.stats) is None]
        while self.waiting and not any(c.stats.is_perfect for c in fitting):
            candidate = self.reader.read_classes(self.waiting.pop(0))
            if candidate is not None:
                self.seen.append(candidate)
                fitting += [candidate] if self._reason(candidate.stats) is None else []
        if not fitting:
            return None
        best = max(fitting, key=lambda candidate: rank(candidate.stats))
        self.seen.remove(best)
        return best

    def _reason(self, stats: TileStats) -> Literal["cloudy", "nodata"] | None:
        """Which threshold a tile breaks."""
        if stats.valid_frac == 0 or stats.nodata_frac > self.config.max_nodata_frac:
            return "nodata"
        return "cloudy" if stats.cloud_frac > self.config.max_cloud_frac else None

    def _look_again(self, stats: TileStats, values: NDArray[np.uint16]) -> TileStats:
        """Count what the bands lack, and their cloud where a second look is asked for."""
        has_data = (values > 0).all(axis=0)
        stats = replace(stats, valid_frac=float(has_data.mean()))
        if self.config.cloud_mask == "scl":
            return stats
        picture = values[[self.bands.index(band) for band in SECOND_LOOK_BANDS]]
        cloud = second_look(picture)
        num_valid = int(has_data.sum())
        return replace(stats, cloud_frac=float(cloud[has_data].sum() / max(num_valid, 1)))

    def _empty(self) -> TileResult:
        """Result of a month without a good pass: what the best of them was like.

        Raises:
            ReadError: If no scene could be read.
        """
        passes = self.seen + self.refused
        if not passes and self.reader.errors:
            raise self.reader.errors[-1]
        blank = TileResult(
            state="empty",
            reason="no_scene",
            num_candidates=self.num_candidates,
            flags=self._flags(frozenset()),
            problems=self._all_problems(),
        )
        if not passes:
            return blank
        best = max(passes, key=lambda c: (self._reason(c.stats) != "nodata", rank(c.stats)))
        return replace(blank, reason=self._reason(best.stats), **_fractions(best.stats))

    def _flags(self, flags: frozenset[str]) -> tuple[str, ...]:
        return tuple(sorted(flags | ({"scene_unreadable"} if self._all_problems() else set())))

    def _all_problems(self) -> tuple[str, ...]:
        return (*self.problems, *self.reader.problems)

    def _write(self, best: PassClasses, bands: PassBands, path: Path) -> TileResult:
        """Write the tile; what the result says stands in the file too."""
        first = best.scenes[0]
        worst = max(bands.offsets, key=lambda offset: CONFIDENCES.index(offset.confidence))
        result = TileResult(
            state="done",
            acquired=first.acquired,
            items=tuple(scene.item_id for scene in best.scenes),
            baseline=first.baseline,
            offset=bands.offsets[0].value,
            offset_source=bands.offsets[0].source,
            offset_confidence=worst.confidence,
            num_candidates=self.num_candidates,
            flags=self._flags(bands.flags | _haze(best.stats)),
            problems=self._all_problems(),
            **_fractions(best.stats),
        )
        values = bands.values[: len(self.config.bands)]
        digest = write_cog(
            path,
            values,
            bands=self.config.bands,
            crs=self.place.crs,
            transform=self.place.transform,
            acquired=first.acquired,
            tags=_tags(self.place, first, result),
        )
        return replace(
            result,
            bands=self.config.bands,
            sha256=digest,
            pixels_sha256=_hash_of(values),
        )


def _bands_to_read(config: ImageryConfig) -> tuple[str, ...]:
    """Bands of the tile, and behind them what the second look needs."""
    extra = SECOND_LOOK_BANDS if config.cloud_mask == "omnicloudmask" else ()
    return (*config.bands, *(band for band in extra if band not in config.bands))


def _hash_of(values: NDArray[np.uint16]) -> str:
    """SHA-256 of values and shape."""
    return sha256(f"{values.shape}".encode() + values.astype("<u2").tobytes()).hexdigest()


def _haze(stats: TileStats) -> frozenset[str]:
    return frozenset({"hazy"} if stats.unclassified_frac > HAZY_FRAC else ())


def _fractions(stats: TileStats) -> dict[str, Any]:
    """The fractions of a result, rounded to a hundredth of a per cent."""
    return {
        "cloud_frac": round(stats.cloud_frac, 4),
        "snow_frac": round(stats.snow_frac, 4),
        "nodata_frac": round(stats.nodata_frac, 4),
        "saturated_frac": round(stats.saturated_frac, 4),
    }


def _tags(place: Place, first: Scene, result: TileResult) -> dict[str, str]:
    """What the file says of itself."""
    return {
        "location_id": place.location_id,
        "month": first.month,
        "source": f"{first.provider}/{first.collection}",
        "items": " ".join(result.items),
        "acquired": first.acquired,
        "baseline": first.baseline or "",
        "offset": str(result.offset),
        "offset_source": result.offset_source or "",
        "offset_confidence": result.offset_confidence or "",
        "cloud_frac": f"{result.cloud_frac:.4f}",
        "snow_frac": f"{result.snow_frac:.4f}",
        "nodata_frac": f"{result.nodata_frac:.4f}",
        "flags": " ".join(result.flags),
        "attribution": PROVIDERS[first.provider].attribution.format(years=first.acquired[:4]),
    }
