"""What a plan will fetch, for a person to look at before it does: a map and a page of counts."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from shapely.geometry.base import BaseGeometry

from data_prep.country_outlines import LICENSE, SOURCE
from data_prep.place import Place
from data_prep.plan_map import STRATUM_STYLES, draw_map
from data_prep.sampling import REASONS
from ecomap.errors import RequestError
from ecomap.page import Cell, Figure, Section, Table, write_page

MAP_FILE = "map.png"
PAGE_FILE = "index.html"
SIDES = ("train", "val", "test", "buffer", "unassigned")


def write_plan_pages(
    folder: Path,
    *,
    places: Sequence[Place],
    region: BaseGeometry | None,
    dropped: Mapping[str, int],
    notes: Sequence[str],
    items_by_month: Mapping[str, int] | None,
    page_title: str,
) -> None:
    """Write ``map.png`` and ``index.html`` of a plan, each by an atomic rename.

    Args:
        folder: Folder of the plan; made if it is missing.
        places: All places, at least one.
        region: Polygons in EPSG:4326, split at +-180 degrees; None for points of the user.
        dropped: Cells left out by reason, as `sampling.choose_places` counts them.
        notes: Remarks for the reader.
        items_by_month: Scenes found by month, ``YYYY-MM``; None before the search.
        page_title: Heading.

    Raises:
        RequestError: If there is no place.
    """
    if not places:
        raise RequestError("A plan without places cannot be shown. Choose places first.")
    by_split = draw_map(places, region, by="split")
    folder.mkdir(parents=True, exist_ok=True)
    temporary = folder / (MAP_FILE + ".tmp")
    temporary.write_bytes(by_split)
    temporary.replace(folder / MAP_FILE)
    sections = [
        Section("Where the tiles lie", figures=[_figure(by_split, places, "side of the split")]),
        _places_section(places, region),
        _dropped_section(dropped),
        Section("Notes", text="\n\n".join(notes) or "Nothing to remark."),
        _scenes_section(items_by_month),
    ]
    footer = f"Outlines of countries: {SOURCE}. {LICENSE}. Cells: Major-TOM grid."
    write_page(folder / PAGE_FILE, page_title, sections, intro=_intro(places), footer=footer)


def _intro(places: Sequence[Place]) -> str:
    one = places[0]
    side_km = one.size_px * one.resolution_m / 1000
    count = "1 place" if len(places) == 1 else f"{len(places):,} places"
    return (
        f"{count}, each a tile of {one.size_px} by {one.size_px} pixels of {one.resolution_m:g} m "
        f"({side_km:g} km wide) in the UTM zone of its centre."
    )


def _figure(png: bytes, places: Sequence[Place], what: str) -> Figure:
    return Figure(
        caption=f"Places by {what}. Tiles are drawn to scale where the map shows their size.",
        png=png,
        alt=f"Map of {len(places)} places by {what}, with the region and outlines of countries",
    )


def _places_section(places: Sequence[Place], region: BaseGeometry | None) -> Section:
    """Counts by class and side, and a map by class where classes are known."""
    counts: Counter[tuple[str, str]] = Counter((p.stratum, p.split) for p in places)
    sides = [side for side in SIDES if any(key[1] == side for key in counts)]
    strata = [name for name in STRATUM_STYLES if any(key[0] == name for key in counts)]
    rows: list[list[Cell]] = [
        [name or "unknown", *(counts[name, side] for side in sides), _total(counts, name)]
        for name in strata
    ]
    if len(rows) > 1:
        sums = [sum(counts[name, side] for name in strata) for side in sides]
        rows.append(["all", *sums, len(places)])
    table = Table(["Land cover", *sides, "all"], rows, "Places by class and side of the split")
    figures = []
    if strata != [""]:
        figures.append(_figure(draw_map(places, region, by="stratum"), places, "land cover"))
    return Section("What is under them", tables=[table], figures=figures)


def _total(counts: Counter[tuple[str, str]], stratum: str) -> int:
    return sum(count for (name, _), count in counts.items() if name == stratum)


def _dropped_section(dropped: Mapping[str, int]) -> Section:
    """Why cells did not become places."""
    if not dropped:
        return Section("What was left out", text="Nothing.")
    rows: list[list[Cell]] = [
        [reason, REASONS.get(reason, ""), count] for reason, count in sorted(dropped.items())
    ]
    table = Table(["Reason", "Meaning", "Cells"], rows, "Cells of the region without a place")
    return Section("What was left out", tables=[table])


def _scenes_section(items_by_month: Mapping[str, int] | None) -> Section:
    """Scenes found, by month."""
    if items_by_month is None:
        return Section("Scenes", text="Catalogues have not been searched.")
    empty = [month for month, count in items_by_month.items() if count == 0]
    text = f"No scene in {', '.join(sorted(empty))}." if empty else ""
    table = Table(["Month", "Scenes"], sorted(items_by_month.items()), "Scenes found by month")
    return Section("Scenes", text=text, tables=[table])
