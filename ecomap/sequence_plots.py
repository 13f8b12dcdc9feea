"""Plots of a sequence, as PNG files that depend on its frames alone.

Curves and sheets of scenarios that share colours: the first scenario is dark grey, the others
have colours of Okabe & Ito (`ecomap.figures`), and each has its own line and marker too. What shows
generated pixels, or is a statistic of them, carries the marks of synthetic images.

Longer than the budget because all plots share their colours, axes and marks.
"""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from ecomap.figures import GREENNESS_LABEL, MONTH_LETTERS, QUIET_COLOUR, axis_label, to_png
from ecomap.outputs import LABELS, Pixels, replacing, synthetic_chunks
from ecomap.schema import CLIMATE, TileRecord
from ecomap.sequence import SequenceFolder, SequencePlan, Timeline
from ecomap.sequence_measures import Measured, season_means

WIDTH_IN = 8.6
INK, LINE = "#1d2327", "#d9dcd6"
COLOURS = ("#3b454b", "#d55e00", "#0072b2", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
MARKERS = ("o", "^", "s", "D", "v", "P", "X")
DASHES = ("-", "--", "-.", ":")

MAX_MONTHLY_YEARS = 4
"""Longer sequences are drawn as means of calendar years; months would be a band of ink."""
MIN_GREENNESS_SPAN = 0.06
"""Least height of an axis of greenness, so that noise does not look like change."""
EDGE_PERCENTILE = 90.0
"""From here on a climate is drawn as near the edge of what was trained on."""
SUPPORT_LOOKS = {
    "well inside": "#dfe9e3",
    "near the edge": "#f2c14e",
    "outside": "#b3261e",
    "not known": "#ffffff",
}

PLOTS_FOLDER = "plots"
"""Where plots lie in the folder of a sequence."""

SHEET_COLUMNS = 12
THUMB_PX = 160

BAND = "Line: mean of {members} members. Band: lowest to highest of them."


@dataclass(frozen=True)
class Look:
    """How a scenario looks in all plots."""

    title: str
    colour: str
    marker: str
    dash: str
    width: float
    """Earlier lines are wider, so that they show under later ones that hide them."""


def looks_of(plan: SequencePlan) -> dict[str, Look]:
    """A look for each scenario by its name."""
    num = len(COLOURS)
    return {
        timeline.name: Look(
            title=timeline.title,
            colour=COLOURS[n % num],
            marker=MARKERS[n % num],
            dash=DASHES[n // num % len(DASHES)],
            width=max(2.8 - 0.5 * n, 1.3),
        )
        for n, timeline in enumerate(plan.timelines)
    }


def draw_curves(folder: SequenceFolder, measured: Measured) -> Figure:
    """Climate over the greenness and snow of the images made for it, along time."""
    frames, looks = measured.frames, looks_of(folder.plan)
    is_yearly = _span_years(frames) > MAX_MONTHLY_YEARS
    known = [name for name in CLIMATE if frames[name].notna().any()]
    names = [*known, "greenness", "snow_frac"]
    ratios = [*[1.0] * len(known), 1.25, 1.0, 0.16 + 0.12 * len(looks)]
    figure = Figure(figsize=(WIDTH_IN, 1.55 * sum(ratios) + 0.9), layout="constrained")
    panels = figure.subplots(len(ratios), 1, sharex=True, height_ratios=ratios)
    drawn = _yearly(frames) if is_yearly else frames.assign(time=_times(frames["month"]))
    for axes, name in zip(panels, names, strict=False):
        for scenario, look in looks.items():
            _curve(axes, drawn[drawn["scenario"] == scenario], name, look)
        _finish_axis(axes, name)
        if not is_yearly and hasattr(measured.start, name):
            axes.axhline(getattr(measured.start, name), color=QUIET_COLOUR, lw=1.4, ls=":")
            _show_all_greenness(axes, name)
    _draw_support(panels[-1], frames, looks)
    panels[-1].xaxis.set_major_locator(MaxNLocator(9, integer=True))
    if not is_yearly:
        _month_ticks(panels[-1], sorted(set(frames["month"])))
    step = "Means of calendar years" if is_yearly else "Months"
    panels[0].set_title(f"Asked climate. {step}.", fontsize=10, loc="left")
    told = " " + BAND.format(members=folder.plan.members) if folder.plan.members > 1 else ""
    panels[len(known)].set_title(f"Synthetic images.{told}", fontsize=10, loc="left")
    start = folder.plan.start.month
    _legend(figure, looks, [] if is_yearly else [("⋯", f"start tile, {start}")])
    return figure


def draw_seasons(folder: SequenceFolder, measured: Measured) -> Figure:
    """The mean year of climate, greenness and snow of each scenario, beside today's normals."""
    looks, start = looks_of(folder.plan), folder.plan.start
    known = [name for name in CLIMATE if measured.frames[name].notna().any()]
    names = [*known, "greenness", "snow_frac"]
    means = season_means(measured.frames, names).reset_index().rename(columns={"calendar": "time"})
    rows = -(-len(names) // 2)
    figure = Figure(figsize=(WIDTH_IN, 2.3 * rows + 0.7), layout="constrained")
    panels = figure.subplots(rows, 2, sharex=True, squeeze=False).ravel()
    for axes, name in zip(panels, names, strict=False):
        if (normals := getattr(start, f"{name}_normals", None)) is not None:
            values = [np.nan if value is None else value for value in normals]
            axes.plot(range(1, 13), values, ":", color=QUIET_COLOUR, lw=1.6)
        for scenario, look in looks.items():
            _curve(axes, means[means["scenario"] == scenario], name, look)
        _finish_axis(axes, name)
        if hasattr(measured.start, name):
            at = start.month_index + 1, getattr(measured.start, name)
            axes.plot(*at, "*", color=INK, ms=11, mfc="white", zorder=5, clip_on=False)
            _show_all_greenness(axes, name)
        axes.set_xticks(range(1, 13), list(MONTH_LETTERS))
        axes.set_xlim(0.5, 12.5)
        axes.tick_params(labelbottom=True)
    for axes in panels[len(names) :]:
        axes.set_visible(False)
    extra = [("☆", f"start tile, {start.month}")]
    if any(getattr(start, f"{name}_normals") is not None for name in known):
        extra += [("⋯", "normals of the place")]
    _legend(figure, looks, extra)
    return figure


def draw_sheet(folder: SequenceFolder) -> Figure:
    """The start tile, and under it member 0 of each scenario in up to twelve months a row."""
    rows = [
        (f"{shorten(timeline.title, 80)}{words}", timeline.name, records)
        for timeline in folder.plan.timelines
        for words, records in sheet_rows(timeline)
    ]
    start, num = folder.read_start(), max(6, *(len(records) for *_, records in rows))
    height = WIDTH_IN / num * start.shape[0] / start.shape[1]
    figure = Figure(figsize=(WIDTH_IN, (height + 0.42) * (len(rows) + 1)))
    word, colour = (
        LABELS[False] if folder.plan.start_is_synthetic else ("as given", LABELS[True][1])
    )
    heads = [(word, colour, f"Start tile, {folder.plan.start.place_id}")]
    heads += [(*LABELS[False], words) for words, *_ in rows]
    step, inch = 1 / (len(rows) + 1), 1 / figure.get_figheight()
    for row, (mark, tint, words) in enumerate(heads):
        top = 1 - row * step - 0.06 * inch
        figure.text(0.003, top, mark, fontsize=8.5, color=tint, weight="bold", va="top")
        figure.text(0.085, top, words, fontsize=8.5, color=INK, va="top")
    shown = [(0, 0, folder.plan.start_words, _thumb(start))]
    for row, (_, scenario, records) in enumerate(rows, start=1):
        for column, record in enumerate(records):
            image = _thumb(folder.read(scenario, 0, record.month))
            shown.append((row, column, record.month, image))
    for row, column, month, image in shown:
        bottom = 1 - row * step - (0.36 + height) * inch
        axes = figure.add_axes((column / num + 0.003, bottom, 1 / num - 0.006, height * inch))
        axes.imshow(image, interpolation="nearest", aspect="auto")
        axes.set_axis_off()
        axes.set_title(month, fontsize=7, pad=2)
    return figure


def sheet_rows(timeline: Timeline) -> list[tuple[str, list[TileRecord]]]:
    """Which months stand on a sheet: all up to twelve, else the first and the last of each name."""
    records = timeline.records
    if len(records) <= SHEET_COLUMNS:
        return [("", list(records))]
    first = {record.month_index: record for record in reversed(records)}
    last = {record.month_index: record for record in records}
    early, late = ([found[index] for index in sorted(found)] for found in (first, last))
    if len(early) + len(late) <= SHEET_COLUMNS:
        return [(": first and last of each calendar month", [*early, *late])]
    return [(f": {w} of each calendar month", f) for w, f in (("first", early), ("last", late))]


def save_plot(path: Path, figure: Figure, *, is_synthetic: bool, is_palette: bool = False) -> Path:
    """Write a plot as PNG by an atomic rename, with the marks of synthetic images where it is one.

    Args:
        path: PNG file; missing folders are made.
        figure: What to draw.
        is_synthetic: Whether it shows generated pixels or maps made of them.
        is_palette: Whether 256 colours do for it, as for maps, in a third of the bytes.
    """
    chunks = synthetic_chunks({}) if is_synthetic else PngInfo()
    with replacing(path) as temporary, Image.open(io.BytesIO(to_png(figure))) as image:
        picture = image.convert("RGB")
        if is_palette:  # by the range of colours, not by how often each comes: bars stay smooth
            picture = picture.quantize(256, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
        picture.save(temporary, "PNG", pnginfo=chunks, optimize=True)
    return path


def shorten(words: str, length: int) -> str:
    """At most that many letters, the last of which says that there were more."""
    return words if len(words) <= length else words[: length - 1].rstrip() + "…"


def _curve(axes: Axes, rows: pd.DataFrame, name: str, look: Look) -> None:
    """Mean over members along time, and their range as a band."""
    over = rows.groupby("time")[name].agg(["mean", "min", "max"])
    size = 3.5 if len(over) <= 40 else 0
    style: dict[str, Any] = {"ls": look.dash, "marker": look.marker, "color": look.colour}
    axes.plot(over.index, over["mean"], ms=size, lw=look.width, **style)
    axes.fill_between(over.index, over["min"], over["max"], color=look.colour, alpha=0.22, lw=0)


def _finish_axis(axes: Axes, name: str) -> None:
    """Label, range and grid."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color=LINE, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=8)
    axes.yaxis.set_major_locator(MaxNLocator(5))
    if name in CLIMATE:
        axes.set_ylabel(axis_label(name).replace(" (", "\n("), fontsize=9)
        if CLIMATE[name].is_ratio:
            axes.set_ylim(bottom=0)
    elif name == "snow_frac":
        axes.set_ylabel("Snow fraction\nof land", fontsize=9)
        axes.set_ylim(-0.03, 1.03)
    else:
        axes.set_ylabel(GREENNESS_LABEL.replace(" ", "\n"), fontsize=9)
        _show_all_greenness(axes, name)


def _show_all_greenness(axes: Axes, name: str) -> None:
    """Give an axis of greenness its least height."""
    if name == "greenness":
        axes.autoscale(axis="y")
        low, high = axes.get_ylim()
        missing = max(MIN_GREENNESS_SPAN - (high - low), 0) / 2
        axes.set_ylim(low - missing, high + missing)


def _draw_support(axes: Axes, frames: pd.DataFrame, looks: Mapping[str, Look]) -> None:
    """A strip for each scenario: how far each month's climate is from what was trained on."""
    table = frames[frames["member"] == 0]
    gaps = np.diff(np.unique(_times(frames["month"])))
    width = min(float(np.median(gaps)), 0.5) if len(gaps) else 1 / 12
    for row, scenario in enumerate(looks):
        own = table[table["scenario"] == scenario]
        levels = support_levels(own)
        for level, colour in SUPPORT_LOOKS.items():
            times = _times(own["month"])[(levels == level).to_numpy()]
            axes.broken_barh(
                [(float(time) - width / 2, width) for time in times], (row - 0.38, 0.76),
                facecolor=colour, lw=0, hatch="////" if level == "outside" else None,
                edgecolor="white" if level == "outside" else None,
            )  # fmt: skip
    axes.set_ylim(len(looks) - 0.5, -0.5)
    axes.set_yticks(range(len(looks)), [shorten(look.title, 24) for look in looks.values()])
    axes.tick_params(labelsize=7.5)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_title("How far the asked climate lies from the training's", fontsize=10, loc="left")
    handles = [
        Patch(facecolor=colour, label=level, edgecolor="white" if level == "outside" else LINE,
              hatch="////" if level == "outside" else None)
        for level, colour in SUPPORT_LOOKS.items()
    ]  # fmt: skip
    below = -0.9 / (0.5 + 0.4 * len(looks))
    axes.legend(
        handles=handles, loc="upper center", bbox_to_anchor=(0.5, below), ncols=4, fontsize=8,
        frameon=False,
    )  # fmt: skip


def support_levels(rows: pd.DataFrame) -> pd.Series:
    """Level of `SUPPORT_LOOKS` for each row of the measured frames."""
    levels = pd.Series("not known", index=rows.index)
    known = rows["is_outside"].notna()
    percentile = pd.to_numeric(rows["support_percentile"])
    levels[known] = "well inside"
    levels[known & (percentile >= EDGE_PERCENTILE)] = "near the edge"
    levels[known & (rows["is_outside"] == True)] = "outside"  # noqa: E712 (an object column)
    return levels


def _legend(
    figure: Figure, looks: Mapping[str, Look], extra: Sequence[tuple[str, str]] = ()
) -> None:
    """Names of the scenarios over a figure."""
    handles: list[Any] = [
        figure.axes[0].plot([], [], look.dash, marker=look.marker, ms=4, color=look.colour,
                            label=shorten(look.title, 60))[0]
        for look in looks.values()
    ]  # fmt: skip
    for sign, words in extra:
        style: dict[str, Any] = {"ls": ":", "color": QUIET_COLOUR}
        if sign == "☆":
            style = {"ls": "", "marker": "*", "ms": 10, "mfc": "white", "color": INK}
        handles += figure.axes[0].plot([], [], label=words, **style)
    longest = max(len(str(handle.get_label())) for handle in handles)
    figure.legend(
        handles=handles, loc="outside upper left", ncols=max(1, min(5, 110 // (longest + 8))),
        fontsize=8.5, frameon=False,
    )  # fmt: skip


def _yearly(frames: pd.DataFrame) -> pd.DataFrame:
    """Means of each scenario, member and calendar year that has all the months of a full one."""
    year = frames["month"].str[:4].astype(int).rename("year")
    names = [*CLIMATE, "greenness", "snow_frac"]
    groups = frames.groupby(["scenario", "member", year], sort=False)
    size = groups.size()
    full = size == size.groupby("scenario").transform("max")
    means = groups[names].mean()[full].reset_index()
    return means.assign(time=means["year"] + 0.5)


def _times(months: pd.Series) -> NDArray[np.float64]:
    """Middle of each month in years."""
    years, calendar = months.str[:4].astype(int), months.str[5:].astype(int)
    return np.asarray(years + (calendar - 0.5) / 12, np.float64)


def _span_years(frames: pd.DataFrame) -> float:
    """Years from the first to the last month of any scenario."""
    times = _times(frames["month"])
    return float(times.max() - times.min())


def _month_ticks(axes: Axes, months: Sequence[str]) -> None:
    """At most twelve months by name."""
    chosen = months[:: -(-len(months) // SHEET_COLUMNS)]
    axes.set_xticks(_times(pd.Series(chosen)), chosen, rotation=30, ha="right")


def _thumb(image: Pixels) -> Pixels:
    """A small copy; mean over blocks of pixels."""
    factor = max(1, max(image.shape[:2]) // THUMB_PX)
    return np.asarray(Image.fromarray(image).reduce(factor))
