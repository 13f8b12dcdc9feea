"""Join what was fetched to records: frame, climate, land cover, names, flags, prompts."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from data_prep import steps
from data_prep.engine import Engine, Progress
from data_prep.land_cover import LandCoverResult
from data_prep.manifest import Row, check_settings, failures_of, read_manifest
from data_prep.place import Place
from data_prep.place_names import ATTRIBUTION as NAMES_ATTRIBUTION
from data_prep.place_names import name_places
from data_prep.power import Cell
from data_prep.prep_config import PrepConfig
from data_prep.providers import PROVIDERS
from data_prep.quality import FLAGS, cloud_flags, nodata_flags
from data_prep.record_fields import CellClimate, cover_fields, frame_fields
from data_prep.side_tables import write_prompts, write_scenarios
from data_prep.splits import leakage_report
from data_prep.tasks import read_outcome
from ecomap.errors import DataError
from ecomap.schema import CLIMATE, TileRecord, make_record, unique, write_dataset

DAMAGED = (
    "it was changed on disk after it was fetched, and is removed; run 'ecomap prep fetch' again."
)


@dataclass(frozen=True, kw_only=True)
class BuildSummary:
    """What became records and what did not."""

    output: Path
    kept: int
    dropped: dict[str, int]
    """Tiles without a record, by reason."""
    without: dict[str, int]
    """Records that lack something, by what: a climate variable, land_cover."""
    flags: dict[str, int]
    report: dict[str, Any]
    """Leakage between the sides of the split."""
    failures: list[str]
    notes: list[str]
    """What the reader must know."""

    def to_dict(self) -> dict[str, Any]:
        """JSON form."""
        return asdict(self) | {"output": str(self.output)}


@dataclass(frozen=True)
class _Found:
    """What is known of the places, besides their frames."""

    places: dict[str, Place]
    names: dict[str, tuple[str | None, str | None]]
    land_cover: dict[str, LandCoverResult]
    cells: dict[str, Cell]


def build_dataset(
    places: Sequence[Place],
    config: PrepConfig,
    workers: Engine,
    *,
    progress: Progress | None = None,
) -> BuildSummary:
    """Write ``records.parquet``, ``dataset.json``, ``prompts.parquet`` and scenarios.

    Args:
        places: Of the plan.
        config: Whose folder holds the manifest.
        workers: They look at the frames.
        progress: Called with (done, total) places.

    Raises:
        DataError: If there is no manifest, it is one of other settings, a tile is not the one that
            was fetched, or none was.
    """
    check_settings(config.output, config)
    rows = list(read_manifest(config.output, kind="imagery"))
    reports = _inspect(rows, config, workers, progress)
    found = _gather(places, config)
    counts: Counter[str] = Counter()
    records = list(_records(rows, reports, found, config, counts))
    if not records:
        raise DataError(nothing_text(rows))
    damaged = [r for r in rows if r.state == "done" and r.task_id not in reports]
    sources = unique(r.climate_source for r in records if r.climate_source)
    report = leakage_report(records)
    flags = Counter(flag for record in records for flag in record.flags)
    summary = BuildSummary(
        output=config.output,
        kept=len(records),
        dropped=dict(
            sorted(Counter(_why(row) for row in rows if row.task_id not in reports).items())
        ),
        without=dict(sorted(counts.items())),
        flags={flag: flags[flag] for flag in FLAGS},
        report=report,
        failures=[
            *failures_of(read_manifest(config.output)),
            *(f"{row.task_id}: {DAMAGED}" for row in damaged),
        ],
        notes=_notes(records, found),
    )
    provider = PROVIDERS[config.imagery.provider]
    content = {key: value for key, value in summary.to_dict().items() if key != "output"}
    content |= {
        "units": {name: variable.unit for name, variable in CLIMATE.items()},
        "display": config.display.model_dump(mode="json"),
        "split": config.split.model_dump(mode="json") | {"seed": config.seed, "report": report},
        "climate_sources": sources,
        "license": provider.license,
        "attribution": _attributions(records, found, config),
    }
    write_prompts(config.output, records)
    write_scenarios(config.output)
    write_dataset(config.output, records, summary=content)
    return summary


def _inspect(
    rows: Sequence[Row], config: PrepConfig, workers: Engine, progress: Progress | None
) -> dict[str, dict[str, Any]]:
    """What the frames of each tile look like, by ``PLACE/MONTH``; copies between places found."""
    tiles: dict[str, list[tuple[str, str]]] = {}
    for row in rows:
        if row.state == "done":
            tiles.setdefault(row.location_id, []).append((row.month, row.result["sha256"]))
    tasks = list(steps.inspection_tasks(tiles, config))
    workers.run(tasks, steps.do_inspection, config.output, num_tasks=len(tasks), progress=progress)
    reports = {}
    for task in tasks:
        outcome = read_outcome(config.output, task)
        if outcome is None or outcome.state != "done":
            detail = outcome.detail if outcome else "it was not inspected"
            raise DataError(f"The frames of {task.task_id} cannot be used: {detail}")
        for month, report in outcome.result["months"].items():
            reports[f"{task.task_id}/{month}"] = report
        for month in outcome.result["damaged"]:  # the next fetch gets it again
            (config.output / steps.image_path(task.task_id, month)).unlink(missing_ok=True)
    seen: set[str] = set()
    for row in rows:
        if row.task_id in reports:
            report = reports[row.task_id]
            pixels = row.result["pixels_sha256"]  # files differ by their tags
            if pixels in seen and "blank" not in report["flags"]:
                report["flags"] = sorted({*report["flags"], "duplicate"})
            seen.add(pixels)
    return reports


def _gather(places: Sequence[Place], config: PrepConfig) -> _Found:
    """Names, land cover and climate cells of the places."""
    names = name_places(places) if config.place_names else [(None, None)] * len(places)
    done = [r for r in read_manifest(config.output, kind="land_cover") if r.state == "done"]
    return _Found(
        places={place.location_id: place for place in places},
        names={p.location_id: name for p, name in zip(places, names, strict=True)},
        land_cover={row.location_id: LandCoverResult.from_dict(row.result) for row in done},
        cells=steps.climate_cells(places, config),
    )


def _records(
    rows: Sequence[Row],
    reports: Mapping[str, dict[str, Any]],
    found: _Found,
    config: PrepConfig,
    counts: Counter[str],
) -> Iterator[TileRecord]:
    """Records of the tiles that are there; ``counts`` learns what they lack."""
    done = (r for r in read_manifest(config.output, kind="climate") if r.state == "done")
    fetched = {row.task_id for row in done}

    @lru_cache(maxsize=64)  # neighbours share cells
    def climate_of(cell_id: str) -> CellClimate | None:
        series = steps.read_climate(config.output, cell_id) if cell_id in fetched else None
        return CellClimate(series, config) if series else None

    for row in rows:
        if row.task_id not in reports:
            continue
        place = found.places[row.location_id]
        cell = found.cells.get(row.location_id)
        climate = climate_of(cell.cell_id) if cell else None
        cover = found.land_cover.get(row.location_id)
        fields = (
            frame_fields(row, place, config)
            | cover_fields(cover)
            | dict(zip(("state", "country"), found.names[row.location_id], strict=True))
            | (climate.fields(row.month) if climate else {})
        )
        counts.update(name for name in (*CLIMATE, "land_cover") if fields.get(name) is None)
        report = reports[row.task_id]
        marks = cloud_flags(
            report["snow_frac"],
            cloud_frac=row.result["cloud_frac"],
            temperature_c=fields.get("temperature_c"),
        )
        seen = {*report["flags"]} - {"black", "partial"}  # guesses where there are numbers
        missing = nodata_flags(row.result["nodata_frac"])
        flags = {*seen, *missing, *marks, *row.result["flags"]} & set(FLAGS)
        fields |= {"snow_frac": report["snow_frac"], "flags": tuple(sorted(flags))}
        yield make_record(fields, where=row.task_id)


def _notes(records: Sequence[TileRecord], found: _Found) -> list[str]:
    """What the reader must know of where classes come from."""
    years = {cover.year for cover in found.land_cover.values() if cover.year}
    taken = {int(record.month[:4]) for record in records}
    notes = []
    if years and taken - years:
        listed = [", ".join(map(str, sorted(some))) for some in (years, taken)]
        notes.append(f"Land cover is of {listed[0]}, imagery of {listed[1]}: it may have changed.")
    for name, variable in CLIMATE.items():
        known = [r for r in records if r.climate_source]
        months = sorted({record.month for record in known if getattr(record, name) is None})
        if months:
            listed_months = ", ".join(months[:6]) + (" ..." if months[6:] else "")
            notes.append(
                f"{variable.label} of {listed_months} is not known to {known[0].climate_source}. "
                "The next run asks again; NASA POWER's current year needs climate.source="
                "power-daily."
            )
    told = Counter(note for c in found.land_cover.values() for note in [c.note] if note)
    return notes + [f"Land cover of {count} places: {note}" for note, count in told.most_common(5)]


def _why(row: Row) -> str:
    """Why a tile has no record."""
    if row.state == "done":
        return "damaged"
    return f"{row.state}: {row.reason}" if row.reason else row.state


def nothing_text(rows: Iterable[Row]) -> str:
    """Message for a dataset without a tile."""
    reasons = Counter(_why(row) for row in rows)
    listed = ", ".join(f"{count} {reason}" for reason, count in reasons.most_common(4))
    advice = "Choose other months, another region or another provider."
    if reasons["empty: cloudy"]:
        advice = "Allow more cloud (imagery.max_cloud_frac), or choose other months."
    if any(reason.startswith("failed") for reason in reasons):
        advice = "Mend what 'ecomap prep fetch' lists as failures; it tries those tiles again."
    return f"No tile could be made ({listed or 'nothing was planned'}). {advice}"


def _attributions(records: Sequence[TileRecord], found: _Found, config: PrepConfig) -> list[str]:
    """Texts that must go with the dataset."""
    climate = [
        series.attribution
        for cell in sorted({cell.cell_id for cell in found.cells.values()})[:1]
        if (series := steps.read_climate(config.output, cell)) is not None
    ]
    covers = [cover.attribution for cover in found.land_cover.values()]
    names = [NAMES_ATTRIBUTION] if config.place_names else []
    frames = [record.attribution for record in records]
    return [text for text in unique([*frames, *climate, *covers, *names]) if text]
