"""Numbers of a dataset's report: what is there, what was lost and why, and where it comes from.

Longer than the budget because every number of the report is made, and explained, in this one file.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from data_prep.manifest import MANIFEST_FILE, Row, read_manifest
from data_prep.place import Place
from data_prep.splits import leakage_report
from data_prep.tasks import STATES
from ecomap.schema import CLIMATE, LandCover, TileRecord, unique

UNKNOWN_CLASS = "unknown"
FRACTIONS = ("cloud_frac", "nodata_frac", "snow_frac", "scene_snow_frac")
INDICES = ("spi", "sti")
PERCENTILES = {"minimum": 0, "p10": 10, "median": 50, "p90": 90, "maximum": 100}
PURE_FRAC = 0.5
"""A tile whose class covers less of it is another class for the most part."""
MAX_FAILURES = 200
"""Failed tasks in the JSON file; the manifest has all."""
DECIMALS = 4

Values = dict[str, float]
"""Numbers by their names."""


@dataclass(kw_only=True)
class Losses:
    """Tasks of a stratum or a month, by what became of them."""

    states: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    """Of empty and failed ones."""

    def add(self, row: Row) -> None:
        """Count one task."""
        self.states[row.state] += 1
        if row.state in ("empty", "failed"):
            self.reasons[row.reason or row.state] += 1

    @property
    def total(self) -> int:
        """All tasks."""
        return self.states.total()

    @property
    def num_lost(self) -> int:
        """Tasks that gave no tile for good, or did not yet."""
        return self.states["empty"] + self.states["failed"]

    @property
    def lost_frac(self) -> float:
        """Part that was lost, [0, 1]."""
        return self.num_lost / self.total if self.total else 0.0

    def sentence(self, name: str) -> str:
        """For example ``Croplands: 12 of 40 months lost (10 cloudy, 2 no_scene)``."""
        reasons = ", ".join(f"{count} {reason}" for reason, count in _by_count(self.reasons))
        return f"{name}: {self.num_lost} of {self.total} months lost ({reasons})"

    def to_dict(self) -> dict[str, Any]:
        """JSON form."""
        states = {state: self.states[state] for state in STATES}
        return states | {
            "lost_frac": round(self.lost_frac, DECIMALS),
            "reasons": dict(_by_count(self.reasons)),
        }


@dataclass(kw_only=True)
class TaskCounts:
    """What the manifest tells; empty for datasets without one."""

    states: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    """Kind of task -> number by state."""
    reasons: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    """Kind of task -> number by ``STATE: REASON``."""
    strata: dict[str, Losses] = field(default_factory=lambda: defaultdict(Losses))
    """Imagery by land cover of the place."""
    months: dict[str, Losses] = field(default_factory=lambda: defaultdict(Losses))
    """Imagery by month."""
    offsets: Counter[tuple[str, ...]] = field(default_factory=Counter)
    """Tiles by provider, baseline, offset, what told the offset, and with which confidence."""
    failures: list[dict[str, Any]] = field(default_factory=list)
    """The first failed tasks."""
    num_failures: int = 0

    def worst_strata(self) -> list[tuple[str, Losses]]:
        """Strata, the one that lost most first."""
        return sorted(self.strata.items(), key=lambda item: (-item[1].lost_frac, item[0]))

    def to_dict(self) -> dict[str, Any]:
        """JSON form, sorted."""
        return {
            "states": {kind: _sorted(counts) for kind, counts in sorted(self.states.items())},
            "reasons": {kind: _sorted(counts) for kind, counts in sorted(self.reasons.items())},
            "strata": {name: losses.to_dict() for name, losses in self.worst_strata()},
            "months": {month: losses.to_dict() for month, losses in sorted(self.months.items())},
            "num_failures": self.num_failures,
            "failures": self.failures,
        }


def count_tasks(folder: Path, strata: Mapping[str, str]) -> TaskCounts:
    """Count the tasks of the manifest, if there is one.

    Args:
        folder: Dataset folder.
        strata: Class of each place by ``location_id``.

    Raises:
        DataError: If the manifest is damaged.
    """
    counts = TaskCounts()
    if not (folder / MANIFEST_FILE).is_file():
        return counts
    provider = provider_of(folder)
    for row in read_manifest(folder):
        counts.states[row.kind][row.state] += 1
        if row.reason:
            counts.reasons[row.kind][f"{row.state}: {row.reason}"] += 1
        if row.state == "failed":
            counts.num_failures += 1
            if len(counts.failures) < MAX_FAILURES:
                counts.failures.append(
                    {name: getattr(row, name) for name in ("kind", "task_id", "reason")}
                    | {"retryable": row.retryable, "detail": row.detail}
                )
        if row.kind == "imagery":
            counts.strata[strata.get(row.location_id) or UNKNOWN_CLASS].add(row)
            counts.months[row.month].add(row)
            if row.state == "done":
                counts.offsets[(provider, *_offset_of(row.result))] += 1
    return counts


def provider_of(folder: Path) -> str:
    """Catalogue that the config of a dataset names; empty where there is none."""
    path = folder / "config.yaml"
    content = yaml.safe_load(path.read_text(encoding="utf-8")) if path.is_file() else None
    imagery = content.get("imagery") if isinstance(content, dict) else None
    return str((imagery or {}).get("provider", ""))


def _offset_of(result: Mapping[str, Any]) -> tuple[str, ...]:
    """Baseline, offset, its source and confidence, as text; empty where not known."""
    names = ("baseline", "offset", "offset_source", "offset_confidence")
    return tuple("" if result.get(name) is None else str(result[name]) for name in names)


@dataclass(frozen=True, kw_only=True)
class RecordCounts:
    """What the records tell."""

    tiles: int
    places: int
    months: tuple[str, ...]
    """Different months, sorted."""
    leakage: dict[str, Any]
    """`data_prep.splits.leakage_report`."""
    class_months: dict[str, tuple[int, ...]]
    """Class -> tiles in January to December, of all years; classes by code."""
    climate: dict[str, dict[str, Values]]
    """Climate variable -> class -> number known and percentiles."""
    fractions: dict[str, list[float]]
    """Fraction -> all known values."""
    indices: dict[str, list[float]]
    """Index -> all known values."""
    purity: dict[str, Values]
    """Class -> number known, percentiles, and how many lie below `PURE_FRAC`."""
    purities: list[float]
    """All known values."""
    flags: dict[str, int]
    unknown: dict[str, int]
    """Field -> tiles that lack it, where any does."""
    offsets: Counter[tuple[str, ...]]
    """As in `TaskCounts`, as far as records tell."""
    sources: dict[str, int]
    """Where land cover and climate come from -> tiles."""
    licenses: tuple[str, ...]
    attributions: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """JSON form: lists of values are told by their percentiles."""
        own = asdict(self)
        del own["offsets"], own["purities"]
        own["fractions"] = {name: summarise(values) for name, values in self.fractions.items()}
        own["indices"] = {name: summarise(values) for name, values in self.indices.items()}
        return own


def count_records(records: Sequence[TileRecord]) -> RecordCounts:
    """Count the records of a dataset."""
    labels = [LandCover(code).label for code in LandCover] + [UNKNOWN_CLASS]
    groups: dict[str, list[TileRecord]] = {label: [] for label in labels}
    for record in records:
        groups[class_of(record)].append(record)
    classes = {label: group for label, group in groups.items() if group}
    purity = {
        name: summarise(values) | {"below_half": sum(value < PURE_FRAC for value in values)}
        for name, group in classes.items()
        if (values := known(group, "land_cover_frac"))
    }
    return RecordCounts(
        tiles=len(records),
        places=len({record.place_id for record in records}),
        months=tuple(sorted({record.month for record in records})),
        leakage=_sorted_leakage(records),
        class_months={
            name: tuple(sum(r.month_index == month for r in group) for month in range(12))
            for name, group in classes.items()
        },
        climate={
            name: {
                label: summarise(values)
                for label, group in classes.items()
                if (values := known(group, name))
            }
            for name in CLIMATE
        },
        fractions={name: known(records, name) for name in FRACTIONS},
        indices={name: known(records, name) for name in INDICES},
        purity=purity,
        purities=known(records, "land_cover_frac"),
        flags=_sorted(Counter(flag for record in records for flag in record.flags)),
        unknown=_unknown(records),
        offsets=Counter(_record_offset(r) for r in records if r.processing_baseline is not None),
        sources=_sorted(_sources(records)),
        licenses=tuple(sorted(unique(record.license for record in records))),
        attributions=tuple(sorted(unique(r.attribution for r in records if r.attribution))),
    )


def class_of(record: TileRecord) -> str:
    """Name of a record's land cover."""
    return record.land_cover.label if record.land_cover else UNKNOWN_CLASS


def strata_of(records: Iterable[TileRecord], places: Iterable[Place]) -> dict[str, str]:
    """Class of each place: the one it was drawn by, else that of its records."""
    strata = {
        record.location_id: record.land_cover.label for record in records if record.land_cover
    }
    return strata | {place.location_id: place.stratum for place in places if place.stratum}


def known(records: Iterable[TileRecord], name: str) -> list[float]:
    """Values of a field that are known."""
    values = (getattr(record, name) for record in records)
    return [float(value) for value in values if value is not None]


def summarise(values: Sequence[float]) -> Values:
    """Number of values and, if there are any, their `PERCENTILES`."""
    if not values:
        return {"known": 0}
    found = np.percentile(values, list(PERCENTILES.values()))
    named = zip(PERCENTILES, found.tolist(), strict=True)
    return {"known": len(values)} | {name: round(value, DECIMALS) for name, value in named}


def _unknown(records: Sequence[TileRecord]) -> dict[str, int]:
    """Tiles that lack what a tile of data preparation has."""
    names = ("land_cover", *CLIMATE, *INDICES, "cloud_frac", "nodata_frac", "country", "crs")
    counts = {name: sum(getattr(record, name) is None for record in records) for name in names}
    return {name: count for name, count in counts.items() if count}


def _record_offset(record: TileRecord) -> tuple[str, ...]:
    """What a record tells of its offset."""
    offset = record.digital_number_offset
    told = "" if offset is None else str(offset)
    return (record.source, str(record.processing_baseline), told, "", "")


def _sources(records: Iterable[TileRecord]) -> Counter[str]:
    """Tiles by where their class and climate come from."""
    counts: Counter[str] = Counter()
    parts: tuple[tuple[str, Callable[[TileRecord], str | None]], ...] = (
        ("imagery", lambda record: "/".join(p for p in (record.source, record.batch) if p)),
        ("land cover", lambda record: record.land_cover_source),
        ("climate", lambda record: record.climate_source),
    )
    for record in records:
        for what, read in parts:
            counts[f"{what}: {read(record) or 'not stated'}"] += 1
    return counts


def _sorted_leakage(records: Sequence[TileRecord]) -> dict[str, Any]:
    """Leakage report with sides in one order."""
    if not records:
        return {"places": {}, "tiles": {}, "train_test": None, "train_val": None}
    report = leakage_report(records)
    return report | {name: _sorted(report[name]) for name in ("places", "tiles")}


def _by_count(counts: Counter[str]) -> list[tuple[str, int]]:
    """Counts, the largest first, equal ones by name."""
    return sorted(counts.items(), key=lambda item: (-item[1], item[0]))


def _sorted(counts: Mapping[str, int]) -> dict[str, int]:
    return dict(sorted(counts.items()))
