"""Words and tables in the page of a sequence: what it shows, how it was made, what to beware of."""

from collections.abc import Iterator, Mapping
from typing import Any

import pandas as pd

from ecomap.figures import GREENNESS_LABEL
from ecomap.normals import extent_km
from ecomap.outputs import SYNTHETIC_STATEMENT
from ecomap.page import UNKNOWN, Cell, Table
from ecomap.schema import CLIMATE, TileRecord
from ecomap.sequence import USER_SOURCE, SequencePlan, Timeline
from ecomap.sequence_measures import (
    ENSEMBLE_FILE,
    METRICS_FILE,
    Measured,
    ensemble_table,
    paired_differences,
    season_means,
)
from ecomap.sequence_plots import PLOTS_FOLDER, support_levels
from ecomap.support import OUTSIDE_PERCENTILE, SupportResult, note_of

MAX_TABLE_ROWS = 240

MEANING_OF_OUTSIDE = (
    "Outside means farther from every climate of the training, for this land cover, than "
    f"{OUTSIDE_PERCENTILE:g} % of the months of real places, each compared with places away from "
    "it. There the images extrapolate."
)

HOW_TO_READ = (
    f"Greenness is the green chromatic coordinate {GREENNESS_LABEL.split()[-1]} of display values, "
    "mean over the land of an image: 1/3 is grey, snow and sand lie near it, summer forest above "
    "0.45. It is an index of pictures, not NDVI, and compares only with pictures of the same kind. "
    "Snow is the share of land that is bright and nearly grey; cloud would look the same.\n\n"
    "Members of a month differ in their noise alone. Their range shows what the model leaves to "
    "chance. It does not show how wrong the model is, nor the uncertainty of the climate. The same "
    "member of two scenarios has the same noise: what differs comes of the climate that was asked "
    "for, as this model knows it."
)

READ_DIGITS = {"greenness": 3, "snow_frac": 2}
"""Decimals of what was read off images."""


def summary_table(plan: SequencePlan, measured: Measured) -> Table:
    """Means of each scenario and what they differ by from the first."""
    first, members = plan.timelines[0], plan.members
    names = [name for name in CLIMATE if measured.frames[name].notna().any()]
    means = season_means(measured.frames, [*names, "greenness", "snow_frac"])
    rows: list[list[Cell]] = []
    for timeline in plan.timelines:
        own = means.loc[timeline.name].groupby("member").mean()
        less = paired_differences(measured.frames, timeline.name, first.name)
        row: list[Cell] = [timeline.title, _months(timeline)]
        for name, digits in [*((n, CLIMATE[n].decimals) for n in names), *READ_DIGITS.items()]:
            change = "" if timeline is first else f" ({_range(less[name], digits)})"
            row.append(f"{_number(own[name].mean(), digits)}{change}")
        rows.append([*row, _outside_words(plan, measured, timeline.name)])
    units = [f"{CLIMATE[name].label}, {CLIMATE[name].unit}" for name in names]
    over = f", lowest to highest of {members} members" if members > 1 else ""
    return Table(
        ["scenario", "months", *units, "greenness", "snow fraction", "outside the training"],
        rows,
        f"Means over the months shown. In brackets: less “{first.title}”{over}.",
    )


def _months(timeline: Timeline) -> str:
    """First and last month, with hyphens at which no line breaks."""
    return f"{timeline.months[0]} to {timeline.months[-1]}".replace("-", "\u2011")


def _range(values: pd.Series, digits: int) -> str:
    """Lowest to highest with their signs, once where both look the same."""
    if values.isna().all():
        return UNKNOWN
    low, high = (_number(value, digits, "+") for value in (values.min(), values.max()))
    return low if low == high else f"{low} to {high}"


def _number(value: float, digits: int, sign: str = "") -> str:
    """A number with a true minus sign, and no sign where it is rounded to zero."""
    text = f"{value:{sign}.{digits}f}"
    return text.lstrip("+-") if float(text) == 0 else text.replace("-", "−")


def scenario_table(plan: SequencePlan) -> Table:
    """How the climate of each scenario was made."""
    rows: list[list[Cell]] = [
        [
            timeline.title,
            timeline.kind,
            timeline.records[0].climate_source or UNKNOWN,
            "; ".join(f"{key}: {value}" for key, value in _flat(timeline.facts)) or "none given",
            " ".join(timeline.notes) or "none",
        ]
        for timeline in plan.timelines
    ]
    return Table(
        ["scenario", "kind", "climate", "facts", "notes"], rows, "Where climate comes from"
    )


def provenance_table(plan: SequencePlan) -> Table:
    """All that decides the frames."""
    facts = {
        "start": {"source": plan.start_source, "sha256": plan.start_sha256}
        | {"license": plan.start.license, "attribution": plan.start.attribution},
        "seed of member 0": plan.seed,
        "settings": plan.settings,
        "model": plan.model,
        "software": plan.software,
    }
    rows: list[list[Cell]] = [[key, str(value)] for key, value in _flat(facts)]
    return Table(["what", "value"], rows, "Start, settings, model and software")


def file_table() -> Table:
    """What lies beside the page."""
    rows: list[list[Cell]] = [
        ["images/SCENARIO/MEMBER/YYYY-MM_synth.tif", "frames, on the grid of start.tif"],
        ["start.tif", "start tile"],
        ["plan.json", "all that decides the frames, with the climate of each"],
        [METRICS_FILE, "numbers of each frame"],
        [ENSEMBLE_FILE, "mean, standard deviation and range over the members of each month"],
        [f"{PLOTS_FOLDER}/", "the plots of this page"],
    ]  # fmt: skip
    return Table(["file", "what"], rows, "Files in the folder of this page")


def value_table(measured: Measured) -> Table | None:
    """Means over members as a table, where it is not too long."""
    table = ensemble_table(measured.frames)
    if len(table) > MAX_TABLE_ROWS:
        return None
    names = [name for name in CLIMATE if measured.frames[name].notna().any()]
    climate = measured.frames.groupby(["scenario", "month"], sort=False)[names].first()
    rows: list[list[Cell]] = []
    for row in table.join(climate).reset_index().to_dict("records"):
        asked = [_number(row[name], CLIMATE[name].decimals) for name in names]
        read = [
            f"{row[f'{name}_mean']:.3f} ({row[f'{name}_min']:.3f} to {row[f'{name}_max']:.3f})"
            for name in READ_DIGITS
        ]
        rows.append([f"{row['scenario']} {row['month']}", *asked, *read])
    units = [f"{CLIMATE[name].label}, {CLIMATE[name].unit}" for name in names]
    words = "Mean over members, and lowest to highest of them"
    return Table(["scenario and month", *units, "greenness", "snow fraction"], rows, words)


def support_warnings(plan: SequencePlan) -> Iterator[dict[str, Any]]:
    """How far each scenario lies from the training, in words; an alarm where months are outside."""
    found = {
        timeline.title: [
            None if result is None else SupportResult.model_validate(result)
            for result in plan.support.get(timeline.name, (None,) * len(timeline.records))
        ]
        for timeline in plan.timelines
    }
    results = [result for scenario in found.values() for result in scenario]
    lines = [f"{title}: {note_of(scenario)}" for title, scenario in found.items()]
    is_alarm = any(result is not None and result.is_outside for result in results)
    if is_alarm:
        heading = "Some months lie outside the climates of the training."
        lines.append(MEANING_OF_OUTSIDE)
    elif None in results:
        heading = "How far the climate lies from the training's is not known everywhere."
    elif any(result is not None and result.missing for result in results):
        heading = "All months lie within the climates of the training, as far as they are known."
    else:
        heading = "All months lie within the climates of the training."
    yield {"heading": heading, "lines": lines, "is_alarm": is_alarm}


def _outside_words(plan: SequencePlan, measured: Measured, scenario: str) -> str:
    """How many months of a scenario lie outside the training."""
    own = measured.frames.query("member == 0")
    levels = support_levels(own[own["scenario"] == scenario]).value_counts()
    known = int(levels.sum() - levels.get("not known", 0))
    if not known:
        return "not known"
    words = f"{levels.get('outside', 0)} of {count_words(known, 'month')} outside"
    edge = int(levels.get("near the edge", 0))
    unknown = int(levels.get("not known", 0))
    words += f", {edge} near the edge" if edge else ""
    return words + (f", {unknown} not known" if unknown else "")


def note_warnings(plan: SequencePlan) -> Iterator[dict[str, Any]]:
    """What the reader must know before looking."""
    lines = [*plan.notes]
    for timeline in plan.timelines:
        lines += [f"{timeline.title}: {note}" for note in timeline.notes]
        if all(record.climate_kind == "normal" for record in timeline.records):
            lines.append(
                f"{timeline.title}: climate is long-term means, so what a single year had more or "
                "less is not known to the model."
            )
    if lines:
        yield {"heading": "To know", "lines": lines, "is_alarm": False}


def facts_of(plan: SequencePlan, measured: Measured) -> list[tuple[str, str]]:
    """The sequence in a few figures."""
    start = plan.start
    months = sorted({month for timeline in plan.timelines for month in timeline.months})
    cover = "not known" if start.land_cover is None else start.land_cover.label
    return [
        ("Place", place_words(start)),
        ("Land cover", cover),
        ("Tile", f"{start.width_px} x {start.height_px} px, {_size_words(start)}"),
        ("Coordinates", start.crs or "none: the start had no coordinate system"),
        ("Start", f"{plan.start_words}: {plan.start_source}"),
        ("Months", f"{months[0]} to {months[-1]}, {len(months)} shown"),
        ("Members", f"{plan.members} a month"),
        ("Frames", str(len(measured.frames))),
    ]


def _size_words(start: TileRecord) -> str:
    """Width and height on the ground."""
    height, width = extent_km(start)
    size = " x ".join(f"{km:.0f}" if km >= 100 else f"{km:.3g}" for km in (width, height))
    is_assumed = start.crs is None and start.source == USER_SOURCE
    return f"about {size} km, if its pixels are of the model's size" if is_assumed else f"{size} km"


def start_words(plan: SequencePlan) -> str:
    """What the start is."""
    if plan.start_is_synthetic:
        return "The start tile is synthetic too: the whole place is made up from its climate."
    return "So is every picture here but the start tile, which is the image that was given."


def place_words(start: TileRecord) -> str:
    """Where it is."""
    north, east = "N" if start.lat >= 0 else "S", "E" if start.lon >= 0 else "W"
    point = f"{abs(start.lat):.2f}° {north}, {abs(start.lon):.2f}° {east}"
    return ", ".join([*(part for part in (start.state, start.country) if part), point])


def _flat(facts: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Nested facts as lines of key and value, without those that are not known or empty."""
    for key, value in facts.items():
        name = f"{prefix}{key}".replace("_", " ")
        if value is None or value in ("", [], ()):
            continue
        if isinstance(value, Mapping):
            yield from _flat(value, f"{name}, ")
        elif name.endswith("years") and isinstance(value, list | tuple) and len(value) == 2:
            yield name, f"{value[0]}-{value[1]}"
        elif isinstance(value, list | tuple):
            yield name, ", ".join(str(item) for item in value)
        else:
            yield name, value


def count_words(number: int, noun: str) -> str:
    """``1 month``, ``2 months``."""
    return f"{number} {noun}" + ("" if number == 1 else "s")


def footer_of(plan: SequencePlan) -> list[str]:
    """Sources and licences."""
    start = plan.start
    given = f"Start tile: {plan.start_source}. {start.attribution or 'Attribution not given'}. "
    return [
        SYNTHETIC_STATEMENT,
        f"{given}Licence: {start.license}.",
        f"Climate: {start.climate_source or 'source not given'} at the start; of the scenarios as "
        "in their table.",
    ]
