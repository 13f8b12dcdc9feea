"""The report of a dataset: one page that says what it holds, what it lacks, and why.

``report/index.html`` needs no other file; its pictures lie beside it for other uses, and all
numbers stand in ``report.json``. Of the frames only a few are read, however many there are.
"""

from collections.abc import Sequence
from pathlib import Path

from data_prep import prep_report_plots as plots
from data_prep.check import Entry
from data_prep.ecomapper import Progress
from data_prep.export_files import replacing
from data_prep.place import Place, read_places
from data_prep.plan_map import draw_map
from data_prep.plan_store import PLACES_FILE, PLAN_FOLDER
from data_prep.prep_report_counts import (
    RecordCounts,
    TaskCounts,
    count_records,
    count_tasks,
    strata_of,
)
from data_prep.prep_report_sections import (
    intro_text,
    make_sections,
    provenance_of,
    rights_of_dataset,
)
from data_prep.prep_report_sheet import draw_rows, read_entries
from ecomap.page import write_page
from ecomap.schema import TileRecord, read_dataset, read_summary, write_json

REPORT_FOLDER, PAGE_FILE, JSON_FILE = "report", "index.html", "report.json"
PICTURES = (
    *("map", "class_months", "months", "strata", "climate", "indices", "fractions"),
    "contact_sheet",
)


def write_report(
    folder: Path, output: Path | None = None, *, progress: Progress | None = None
) -> Path:
    """Write the report of a dataset.

    Args:
        folder: Dataset folder.
        output: Folder of the report; by default ``report`` in the dataset folder.
        progress: Called with (done, total) of the frames that are shown.

    Returns:
        The page.

    Raises:
        DataError: If there is no dataset, or one of its tables is damaged.
        SchemaError: If a record breaks the contract.
    """
    output = output or folder / REPORT_FOLDER
    records = read_dataset(folder)
    places = _planned_places(folder)
    counts = count_records(records)
    tasks = count_tasks(folder, strata_of(records, places))
    entries, failures = read_entries(folder, records, progress)
    pictures = draw_pictures(records, places, counts, tasks=tasks, entries=entries)
    output.mkdir(parents=True, exist_ok=True)
    for name in PICTURES:
        path = output / f"{name}.png"
        if name in pictures:
            with replacing(path) as temporary:
                temporary.write_bytes(pictures[name])
        else:
            path.unlink(missing_ok=True)
    summary = read_summary(folder)
    sections = make_sections(
        counts, tasks, pictures, failures=failures, summary=summary, places=places
    )
    title = f"Dataset: {folder.resolve().name}"
    write_page(output / PAGE_FILE, title, sections, intro=intro_text(counts, tasks))
    content = counts.to_dict() | {
        "tasks": tasks.to_dict(),
        "provenance": provenance_of(counts, tasks),
        "unreadable": [vars(failure) for failure in failures],
        "rights": rights_of_dataset(counts, summary),
    }
    write_json(output / JSON_FILE, content)
    return output / PAGE_FILE


def _planned_places(folder: Path) -> list[Place]:
    """Places of the plan; none for a dataset that was imported."""
    path = folder / PLAN_FOLDER / PLACES_FILE
    return read_places(path) if path.is_file() else []


def draw_pictures(
    records: Sequence[TileRecord],
    places: Sequence[Place],
    counts: RecordCounts,
    *,
    tasks: TaskCounts,
    entries: Sequence[Entry],
) -> dict[str, bytes]:
    """Draw all pictures for which there is something to show.

    Args:
        records: Of the dataset.
        places: Of its plan; none for a dataset that was imported.
        counts: Of the records.
        tasks: Of the manifest.
        entries: Frames for the contact sheet.

    Returns:
        PNG by name, of `PICTURES`.
    """
    fractions = counts.fractions | {"land_cover_frac": counts.purities}
    shown = {name: values for name, values in fractions.items() if values}
    pictures: dict[str, bytes] = {}
    if drawn := _drawn_places(records, places):
        pictures["map"] = draw_map(drawn, None)
    if counts.class_months:
        pictures["class_months"] = plots.class_months(counts.class_months)
    if tasks.months:
        pictures["months"] = plots.months(tasks.months)
        pictures["strata"] = plots.strata(tasks.worst_strata())
    if any(counts.climate.values()):
        pictures["climate"] = plots.climate_ranges(counts.climate)
    if any(counts.indices.values()):
        pictures["indices"] = plots.index_histograms(counts.indices)
    if shown:
        pictures["fractions"] = plots.fraction_histograms(shown)
    if entries:
        pictures["contact_sheet"] = draw_rows(entries)
    return pictures


def _drawn_places(records: Sequence[TileRecord], places: Sequence[Place]) -> list[Place]:
    """Places that have tiles; of imported datasets, whose grids may be anything, as mere points."""
    have_tiles = {record.location_id for record in records}
    if places:
        return [place for place in places if not records or place.location_id in have_tiles]
    first = {record.place_id: record for record in records}
    return [
        Place(
            location_id=record.location_id, lat=record.lat, lon=record.lon, split=record.split,
            crs="EPSG:4326", left=record.lon, top=record.lat, size_px=1, resolution_m=1.0,
        )
        for record in first.values()
    ]  # fmt: skip
