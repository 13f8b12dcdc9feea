"""The parts of a dataset's report page: sentences, tables, and which pictures stand where."""

from collections.abc import Mapping, Sequence
from typing import Any

from data_prep.ecomapper import Failure
from data_prep.place import Place
from data_prep.prep_report_counts import RecordCounts, TaskCounts
from data_prep.quality import FLAGS
from data_prep.splits import HELD_OUT
from data_prep.tasks import STATES
from ecomap.page import Cell, Figure, Section, Table
from ecomap.schema import CLIMATE

MAX_ROWS = 40
"""Rows of a long table; the JSON file has more."""
MAX_WORST = 3
"""Strata that the text names."""
PROVENANCE = ("provider", "baseline", "offset", "offset_source", "offset_confidence")


def intro_text(counts: RecordCounts, tasks: TaskCounts) -> str:
    """What there is, in one sentence, and what was lost, in another."""
    if not counts.tiles:
        return "The dataset has no tile." + _lost_text(tasks)
    first, last = counts.months[0], counts.months[-1]
    span = first if first == last else f"{len(counts.months)} months from {first} to {last}"
    text = f"{_number(counts.tiles, 'tile')} of {_number(counts.places, 'place')}, {span}."
    return text + _lost_text(tasks)


def _lost_text(tasks: TaskCounts) -> str:
    """How many of the planned tiles are there, and which strata lost most."""
    imagery = tasks.states.get("imagery")
    if not imagery:
        return ""
    others = ", ".join(f"{imagery[s]:,} {s}" for s in ("empty", "failed", "planned") if imagery[s])
    text = f" Of {imagery.total():,} months of places, {imagery['done']:,} gave a tile"
    text += f" ({others})." if others else "."
    worst = [(name, losses) for name, losses in tasks.worst_strata() if losses.num_lost]
    if worst:
        listed = ". ".join(losses.sentence(name) for name, losses in worst[:MAX_WORST])
        text += f"\n\nMost was lost of {listed}."
    return text


def make_sections(
    counts: RecordCounts,
    tasks: TaskCounts,
    pictures: Mapping[str, bytes],
    *,
    failures: Sequence[Failure],
    summary: Mapping[str, Any],
    places: Sequence[Place],
) -> list[Section]:
    """Parts of the page; those without content are left out."""
    sections = [
        _split_section(counts, pictures, places),
        _tiles_section(counts, pictures),
        _losses_section(tasks, pictures),
        _frames_section(pictures, failures),
        _climate_section(counts, pictures),
        _quality_section(counts, pictures),
        _provenance_section(counts, tasks),
        _rights_section(counts, summary),
    ]
    return [part for part in sections if part.text or part.tables or part.figures]


def _split_section(
    counts: RecordCounts, pictures: Mapping[str, bytes], places: Sequence[Place]
) -> Section:
    """Where the places are and how far the sides of the split keep apart."""
    leakage = counts.leakage
    sides: list[list[Cell]] = [
        [side, leakage["places"][side], leakage["tiles"].get(side, 0)] for side in leakage["places"]
    ]
    tables = [Table(["Side", "Places", "Tiles"], sides, "Sides of the split")] if sides else []
    gaps: list[list[Cell]] = [
        [f"train to {side}", gap["edge_km"], gap["centre_km"], gap["gap_tiles"]]
        for side in HELD_OUT
        if (gap := leakage[f"train_{side}"]) is not None
    ]
    if gaps:
        columns = ["Nearest tiles", "Edges, km", "Centres, km", "Gap, tile widths"]
        tables.append(Table(columns, gaps, "How near training comes to held-out tiles"))
    empty = len({place.location_id for place in places}) - counts.places
    text = "" if gaps or not counts.tiles else "Nothing is held out to be kept apart from training."
    if places and empty > 0:
        text += f" {_number(empty, 'planned place')} without a tile: not on the map."
    caption = "Places with tiles, by side of the split."
    figures = _figures(pictures, ("map", caption, "Map of the places by side of the split"))
    return Section("Where", text=text.strip(), tables=tables, figures=figures)


def _tiles_section(counts: RecordCounts, pictures: Mapping[str, bytes]) -> Section:
    """Tiles by class and month, and how pure they are."""
    tables = []
    if counts.purity:
        rows: list[list[Cell]] = [
            [name, int(v["known"]), *(_percent(v[p]) for p in ("minimum", "median", "maximum")),
             int(v["below_half"])]
            for name, v in counts.purity.items()
        ]  # fmt: skip
        columns = ["Land cover", "Tiles", "Least", "Median", "Most", "Below half"]
        tables.append(Table(columns, rows, "Part of the tile that its class covers"))
    caption = "Tiles by land cover and calendar month, of all years."
    alt = "Heat map of the number of tiles by land cover and calendar month"
    figures = _figures(pictures, ("class_months", caption, alt))
    return Section("What is in it", tables=tables, figures=figures)


def _losses_section(tasks: TaskCounts, pictures: Mapping[str, bytes]) -> Section:
    """What became of the tasks, and why."""
    rows: list[list[Cell]] = [
        [kind.replace("_", " "), *(states[state] for state in STATES)]
        for kind, states in sorted(tasks.states.items())
    ]
    tables = [Table(["Step", *STATES], rows, "Tasks by what became of them")] if rows else []
    reasons: list[list[Cell]] = [
        [kind.replace("_", " "), *reason.split(": ", 1), count]
        for kind, found in sorted(tasks.reasons.items())
        for reason, count in sorted(found.items(), key=lambda item: (-item[1], item[0]))
    ]
    if reasons:
        columns = ["Step", "State", "Reason", "Tasks"]
        tables.append(_long_table(columns, reasons, "Reasons", len(reasons)))
    if tasks.failures:
        failed: list[list[Cell]] = [
            [f["task_id"], f["reason"], "yes" if f["retryable"] else "no", f["detail"]]
            for f in tasks.failures
        ]
        columns = ["Task", "Reason", "Tried again", "Detail"]
        tables.append(_long_table(columns, failed, "Failed tasks", tasks.num_failures))
    figures = _figures(
        pictures,
        ("months", "What became of each month's tiles.", "Bars of tiles by month and state"),
        (
            "strata",
            "What became of the months of each land cover, the one that lost most first.",
            "Bars of the part of tiles by land cover and state",
        ),
    )
    return Section("What was lost", tables=tables, figures=figures)


def _frames_section(pictures: Mapping[str, bytes], failures: Sequence[Failure]) -> Section:
    """The contact sheet, and frames that could not be put on it."""
    tables = []
    if failures:
        rows: list[list[Cell]] = [[f.file, f.detail] for f in failures]
        tables.append(_long_table(["Frame", "Detail"], rows, "Unreadable frames", len(rows)))
    caption = "An even choice of each land cover, in its order. A coloured frame marks a flag."
    figures = _figures(pictures, ("contact_sheet", caption, "Thumbnails of frames"))
    return Section("What it looks like", tables=tables, figures=figures)


def _climate_section(counts: RecordCounts, pictures: Mapping[str, bytes]) -> Section:
    """Climate by class, and how unusual it was."""
    if not counts.tiles:
        return Section("Climate")
    missing = [
        f"{CLIMATE[name].label}: {counts.unknown[name]:,} of {counts.tiles:,} tiles"
        for name in CLIMATE
        if name in counts.unknown
    ]
    text = f"Not known: {'; '.join(missing)}." if missing else ""
    figures = _figures(
        pictures,
        (
            "climate",
            "Monthly means by land cover: a thin line spans all values, a thick one the middle "
            "80 %, a dot is the median.",
            "Ranges of temperature, precipitation and solar radiation by land cover",
        ),
        (
            "indices",
            "How unusual the months were for their place and season. The outermost bars hold "
            "what lies beyond them.",
            "Histograms of SPI and STI",
        ),
    )
    return Section("Climate", text=text, figures=figures)


def _quality_section(counts: RecordCounts, pictures: Mapping[str, bytes]) -> Section:
    """Fractions and flags."""
    order: list[str] = [flag for flag in FLAGS if flag in counts.flags]
    order += [flag for flag in counts.flags if flag not in order]
    rows: list[list[Cell]] = [
        [flag.replace("_", " "), counts.flags[flag], _percent(counts.flags[flag] / counts.tiles)]
        for flag in order
    ]
    tables = [Table(["Flag", "Tiles", "Part"], rows, "Reasons for caution")] if rows else []
    text = "" if rows or not counts.tiles else "No tile has a flag."
    caption = "How many tiles have how much of each."
    figures = _figures(pictures, ("fractions", caption, "Histograms of fractions"))
    return Section("Quality", text=text, tables=tables, figures=figures)


def _provenance_section(counts: RecordCounts, tasks: TaskCounts) -> Section:
    """Where frames and labels come from, and what was added to digital numbers."""
    tables = []
    rows: list[list[Cell]] = [
        [*(p[name] or None for name in PROVENANCE), p["tiles"]]
        for p in provenance_of(counts, tasks)
    ]
    if rows:
        columns = ["Provider", "Baseline", "Offset", "Told by", "Confidence", "Tiles"]
        caption = "Processing baselines and the offsets that were applied"
        tables.append(_long_table(columns, rows, caption, len(rows)))
    sources: list[list[Cell]] = [
        [*source.split(": ", 1), count] for source, count in counts.sources.items()
    ]
    if sources:
        columns = ["What", "Source", "Tiles"]
        tables.append(_long_table(columns, sources, "Sources", len(sources)))
    return Section("Where it comes from", tables=tables)


def provenance_of(counts: RecordCounts, tasks: TaskCounts) -> list[dict[str, Any]]:
    """Tiles by provider, baseline and offset, the most first; by the manifest if there is one."""
    found = tasks.offsets or counts.offsets
    order = sorted(found.items(), key=lambda item: (-item[1], item[0]))
    return [dict(zip(PROVENANCE, key, strict=True)) | {"tiles": count} for key, count in order]


def rights_of_dataset(counts: RecordCounts, summary: Mapping[str, Any]) -> dict[str, list[str]]:
    """Licences and attributions of records and of the dataset, each once and sorted."""
    return {
        "licenses": sorted({*counts.licenses, *_texts(summary.get("license"))}),
        "attributions": sorted({*counts.attributions, *_texts(summary.get("attribution"))}),
    }


def _rights_section(counts: RecordCounts, summary: Mapping[str, Any]) -> Section:
    """Whom it belongs to and what must be said of it."""
    rights = rights_of_dataset(counts, summary)
    rows: list[list[Cell]] = [["Licence", text] for text in rights["licenses"]]
    rows += [["Attribution", text] for text in rights["attributions"]]
    tables = [_long_table(["What", "Text"], rows, "", len(rows))] if rows else []
    return Section("Licence and attribution", tables=tables)


def _texts(value: Any) -> list[str]:
    """Texts of a summary: one, or a list of them."""
    return [str(text) for text in (value if isinstance(value, list) else [value]) if text]


def _long_table(
    columns: Sequence[str], rows: Sequence[Sequence[Cell]], caption: str, total: int
) -> Table:
    """A table of the first rows that says how many there are."""
    if total > MAX_ROWS:
        caption = f"{caption}: the first {min(MAX_ROWS, len(rows))} of {total:,}"
    return Table(columns, rows[:MAX_ROWS], caption)


def _figures(pictures: Mapping[str, bytes], *wanted: tuple[str, str, str]) -> list[Figure]:
    """Figures of those pictures that there are; each is named with its caption and its text."""
    return [
        Figure(caption=caption, png=pictures[name], alt=alt)
        for name, caption, alt in wanted
        if name in pictures
    ]


def _number(count: int, noun: str) -> str:
    """A count with its noun.

    >>> _number(1, "tile"), _number(2000, "place")
    ('1 tile', '2,000 places')
    """
    return f"{count:,} {noun}" + ("" if count == 1 else "s")


def _percent(frac: float) -> str:
    """A fraction in percent, for people."""
    return f"{100 * frac:.3g} %"
