"""Plots of a dataset's report, as PNG bytes that depend on the numbers alone.

Colours are those of Okabe & Ito (2008, https://jfly.uni-koeln.de/color/), which differ for all
common kinds of colour vision.
"""

import io
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from data_prep.prep_report_counts import UNKNOWN_CLASS, Losses, Values
from ecomap.schema import CLIMATE, LAND_COVER_LABELS

WIDTH_IN = 7.5
INK, QUIET, LINE = "#1d2327", "#8a8f93", "#d9dcd6"
STATE_COLOURS = {"done": "#009e73", "empty": "#e69f00", "failed": "#d55e00", "planned": "#c9cdd0"}
CLIMATE_COLOURS = dict(zip(CLIMATE, ("#d55e00", "#0072b2", "#e69f00"), strict=True))
FRACTION_LABELS = {
    "cloud_frac": "Cloud, as the scene says",
    "nodata_frac": "No data in the frame",
    "snow_frac": "Snow or bright, in the frame",
    "scene_snow_frac": "Snow, as the scene says",
    "land_cover_frac": "Covered by the tile's class",
}
INDEX_LABELS = {"spi": "SPI, precipitation", "sti": "STI, temperature"}
INDEX_LIMIT = 3.0
"""Larger values, one in 370 of a normal distribution, are counted in the outermost bars."""
MAX_MONTH_LABELS = 24
MONTH_LETTERS = "JFMAMJJASOND"
CLASS_NAMES = {
    **{label: label for label in LAND_COVER_LABELS.values()},
    "Cropland/Natural Vegetation Mosaics": "Cropland/Natural Mosaics",
    UNKNOWN_CLASS: UNKNOWN_CLASS,
}
"""Names beside axes; one would take half a plot's width."""


def class_months(counts: Mapping[str, Sequence[int]]) -> bytes:
    """Draw tiles by class and calendar month as a heat map with the numbers in it.

    Args:
        counts: Class -> tiles in January to December; at least one class.
    """
    values = np.array(list(counts.values()))
    figure = Figure(figsize=(WIDTH_IN, 0.75 + 0.29 * len(counts)), layout="constrained")
    axes = figure.subplots()
    shown = np.ma.masked_equal(values, 0)
    axes.imshow(shown, cmap="YlGnBu", aspect="auto", vmin=0, vmax=max(values.max(), 1))
    for (row, column), count in np.ndenumerate(values):
        is_dark = count > 0.55 * values.max()
        colour = "white" if is_dark else (INK if count else QUIET)
        axes.text(column, row, f"{count}", ha="center", va="center", fontsize=8, color=colour)
    axes.set_xticks(range(12), list(MONTH_LETTERS))
    totals = [f"{CLASS_NAMES[name]} ({sum(months):,})" for name, months in counts.items()]
    axes.set_yticks(range(len(counts)), totals)
    axes.set_xticks(np.arange(13) - 0.5, minor=True)
    axes.set_yticks(np.arange(len(counts) + 1) - 0.5, minor=True)
    axes.grid(which="minor", color=LINE, linewidth=0.6)
    axes.tick_params(which="both", length=0, labelsize=8)
    axes.spines[:].set_visible(False)
    return _png(figure)


def months(losses: Mapping[str, Losses]) -> bytes:
    """Draw what became of each month's tiles as stacked bars.

    Args:
        losses: Month ``YYYY-MM`` -> counts; at least one.
    """
    names = sorted(losses)
    figure = Figure(figsize=(WIDTH_IN, 2.6), layout="constrained")
    axes = figure.subplots()
    bottom = np.zeros(len(names))
    for state, colour in STATE_COLOURS.items():
        heights = np.array([losses[name].states[state] for name in names])
        if heights.any():
            label = f"{state} ({heights.sum():,})"
            axes.bar(range(len(names)), heights, bottom=bottom, color=colour, label=label)
            bottom += heights
    _label_months(axes, names)
    axes.set_ylabel("Tiles", fontsize=8)
    axes.yaxis.set_major_locator(MaxNLocator(4, integer=True))
    axes.margins(x=0.01)
    _quieten(axes)
    figure.legend(loc="outside upper right", ncols=4, fontsize=8, frameon=False)
    return _png(figure)


def strata(losses: Sequence[tuple[str, Losses]]) -> bytes:
    """Draw the part of each stratum's months that became tiles, was empty, or failed.

    Args:
        losses: Stratum and its counts, from top to bottom; at least one.
    """
    figure = Figure(figsize=(WIDTH_IN, 0.75 + 0.27 * len(losses)), layout="constrained")
    axes = figure.subplots()
    left = np.zeros(len(losses))
    totals = np.array([max(counts.total, 1) for _, counts in losses])
    rows = range(len(losses))
    for state, colour in STATE_COLOURS.items():
        parts = np.array([counts.states[state] for _, counts in losses])
        if parts.any():
            axes.barh(rows, parts / totals, left=left, color=colour, label=state, height=0.7)
            left += parts / totals
    names = [f"{CLASS_NAMES.get(name, name)} ({counts.total:,})" for name, counts in losses]
    axes.set_yticks(rows, names)
    axes.invert_yaxis()
    axes.set_xlim(0, 1)
    axes.xaxis.set_major_formatter(lambda value, _: f"{100 * value:g} %")
    _quieten(axes)
    figure.legend(loc="outside upper right", ncols=4, fontsize=8, frameon=False)
    return _png(figure)


def climate_ranges(ranges: Mapping[str, Mapping[str, Values]]) -> bytes:
    """Draw ranges of monthly climate by class, a panel a variable.

    A thin line spans all values, a thick one the middle 80 %, and a dot is the median.

    Args:
        ranges: Climate variable -> class -> ``minimum``, ``p10``, ``median``, ``p90``,
            ``maximum``, in the variable's unit.
    """
    found = {name for classes in ranges.values() for name in classes}
    names = [name for name in CLASS_NAMES if name in found]
    figure = Figure(figsize=(WIDTH_IN, 0.95 + 0.27 * len(names)), layout="constrained")
    panels = figure.subplots(1, len(ranges), sharey=True, squeeze=False)[0]
    for axes, (variable, classes) in zip(panels, ranges.items(), strict=True):
        colour = CLIMATE_COLOURS[variable]
        for row, name in enumerate(names):
            if name in classes:
                v = classes[name]
                axes.hlines(row, v["minimum"], v["maximum"], color=colour, linewidth=1)
                axes.hlines(row, v["p10"], v["p90"], color=colour, linewidth=5, alpha=0.45)
                axes.plot(v["median"], row, "o", color=colour, markersize=4.5)
        axes.set_title(CLIMATE[variable].label, fontsize=9, loc="left")
        axes.set_xlabel(CLIMATE[variable].unit, fontsize=8)
        axes.xaxis.set_major_locator(MaxNLocator(4))
        axes.grid(axis="x", color=LINE, linewidth=0.6)
        if not classes:
            _say_unknown(axes)
        _quieten(axes)
    panels[0].set_yticks(range(len(names)), [CLASS_NAMES[name] for name in names])
    panels[0].set_ylim(len(names) - 0.5, -0.5)
    return _png(figure)


def index_histograms(indices: Mapping[str, Sequence[float]]) -> bytes:
    """Draw how often drought and heat indices take each value, beside a normal distribution.

    Args:
        indices: Name of `INDEX_LABELS` -> values, standard deviations.
    """
    figure = Figure(figsize=(WIDTH_IN, 2.3), layout="constrained")
    edges = np.arange(-INDEX_LIMIT, INDEX_LIMIT + 0.1, 0.5)
    middles = (edges[1:] + edges[:-1]) / 2
    panels = figure.subplots(1, len(indices), squeeze=False)[0]
    for axes, (name, values) in zip(panels, indices.items(), strict=True):
        axes.set_title(f"{INDEX_LABELS[name]} ({len(values):,} tiles)", fontsize=9, loc="left")
        axes.set_xlabel("standard deviations", fontsize=8)
        axes.set_xlim(-INDEX_LIMIT - 0.1, INDEX_LIMIT + 0.1)
        if values:
            heights, _ = np.histogram(np.clip(values, -INDEX_LIMIT, INDEX_LIMIT), edges)
            axes.bar(middles, heights, width=0.44, color="#0072b2" if name == "spi" else "#d55e00")
            normal = np.exp(-(middles**2) / 2) / np.sqrt(2 * np.pi) * 0.5 * len(values)
            axes.plot(middles, normal, "--", color=INK, linewidth=1, label="normal")
            axes.legend(fontsize=7, frameon=False, loc="upper right")
            axes.yaxis.set_major_locator(MaxNLocator(4, integer=True))
        else:
            _say_unknown(axes)
        _quieten(axes)
    panels[0].set_ylabel("Tiles", fontsize=8)
    return _png(figure)


def fraction_histograms(fractions: Mapping[str, Sequence[float]]) -> bytes:
    """Draw how many tiles have which fraction, a panel a quantity.

    Args:
        fractions: Name of `FRACTION_LABELS` -> values, [0, 1].
    """
    columns = min(3, len(fractions))
    rows = -(-len(fractions) // columns)
    figure = Figure(figsize=(WIDTH_IN, 1.9 * rows), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes, (name, values) in zip(panels, fractions.items(), strict=False):
        axes.set_title(FRACTION_LABELS[name], fontsize=9, loc="left")
        axes.set_xlim(0, 1)
        axes.xaxis.set_major_formatter(lambda value, _: f"{100 * value:g} %")
        if values:
            heights, edges = np.histogram(values, bins=20, range=(0, 1))
            axes.bar(edges[:-1], heights, width=0.046, align="edge", color="#0072b2")
            axes.yaxis.set_major_locator(MaxNLocator(4, integer=True))
        else:
            _say_unknown(axes)
        _quieten(axes)
    for axes in panels[len(fractions) :]:
        axes.set_visible(False)
    panels[0].set_ylabel("Tiles", fontsize=8)
    return _png(figure)


def _label_months(axes: Axes, names: Sequence[str]) -> None:
    """Every month's name, or of many months the first of each year."""
    if len(names) <= MAX_MONTH_LABELS:
        axes.set_xticks(range(len(names)), list(names), rotation=90 if len(names) > 8 else 0)
        return
    years = {name[:4]: index for index, name in reversed(list(enumerate(names)))}
    step = -(-len(years) // MAX_MONTH_LABELS)
    chosen = dict(sorted(years.items())[::step])
    axes.set_xticks(list(chosen.values()), list(chosen))


def _say_unknown(axes: Axes) -> None:
    """Say in an empty panel that there is nothing to show."""
    axes.text(0.5, 0.5, "not known", transform=axes.transAxes, ha="center", color=QUIET, fontsize=9)
    axes.set_xticks([])


def _quieten(axes: Axes) -> None:
    """Small labels, and no lines where there is no scale."""
    axes.tick_params(labelsize=8, length=2)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(QUIET)


def _png(figure: Figure) -> bytes:
    """Render a figure; without the version of matplotlib, so that bytes depend on content only."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=130, metadata={"Software": None})
    return buffer.getvalue()
