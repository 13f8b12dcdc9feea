"""Plots of an evaluation, as PNG bytes that depend on the numbers alone.

Colours are those of Okabe & Ito (2008, https://jfly.uni-koeln.de/color/), which differ for all
common kinds of colour vision; systems differ in shape as well.

Longer than the budget because all plots of the page share their colours, shapes and legends.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from ecomap.claims import blocks_of
from ecomap.errors import RequestError
from ecomap.figures import MONTH_LETTERS, axis_label, to_png
from ecomap.metrics import bootstrap_interval
from ecomap.normals import open_normals
from ecomap.schema import CLIMATE
from ecomap.scores import OBSERVED, Score

WIDTH_IN = 7.5
INK, QUIET, LINE = "#1d2327", "#8a8f93", "#d9dcd6"
COLOURS = ("#009e73", "#d55e00", "#0072b2", "#e69f00", "#cc79a7", "#56b4e9")
SHAPES = ("s", "^", "D", "v", "P", "X", "*")
OBSERVED_STYLE = (INK, "o")
NUM_BINS = 8
"""Bins of climate, each with the same number of observed tiles."""
NUM_DRAWS = 200
"""Bootstrap draws of an interval in a plot; none is printed as a number."""
OUTLINE_STEP = 3
"""Every so many cells of the land grid are drawn: enough for a map of this size."""


@dataclass(frozen=True)
class Style:
    """How a system looks in all plots of a page."""

    colour: str
    shape: str


def styles(systems: Sequence[str]) -> dict[str, Style]:
    """A colour and a shape for each system: dark circles for `OBSERVED`, then in turn."""
    others = [name for name in systems if name != OBSERVED]
    found = {OBSERVED: Style(*OBSERVED_STYLE)}
    for number, name in enumerate(others):
        found[name] = Style(COLOURS[number % len(COLOURS)], SHAPES[number % len(SHAPES)])
    return found


def group_bars(
    scores: Mapping[str, Sequence[Score]], label: str, looks: Mapping[str, Style]
) -> bytes:
    """Draw one metric by group: bars for the first system, marks for the others, with intervals.

    A group without a value says why.

    Args:
        scores: System -> its scores of one metric and detail; groups in the order of the first
            system, of which there must be at least one.
        label: Name of the metric, with its unit.
        looks: Style of each system.

    Raises:
        RequestError: If the first system has no score.
    """
    first, *others = scores
    if not scores[first]:
        raise RequestError(f"{label} of {first!r} has no group to draw. Score a system by group.")
    groups = [score.group for score in scores[first]]
    rows = {group: row for row, group in enumerate(groups)}
    figure = Figure(figsize=(WIDTH_IN, 1.3 + 0.36 * len(groups)), layout="constrained")
    axes = figure.subplots()
    shifts = np.linspace(-0.24, 0.24, len(scores)) if others else [0.0]
    for score in scores[first]:
        row = rows[score.group]
        if score.value is None:
            axes.text(
                0, row, f"  {score.flag or 'undefined'}", va="center", fontsize=8, color=QUIET
            )
            continue
        axes.barh(row, score.value, height=0.62, color=looks[first].colour, alpha=0.55)
        _whisker(axes, score, row + shifts[0], INK)
    for name, shift in zip(others, shifts[1:], strict=True):
        for score in scores[name]:
            if score.value is not None and score.group in rows:
                row_at = rows[score.group] + shift
                _whisker(axes, score, row_at, looks[name].colour)
                axes.plot(score.value, row_at, looks[name].shape, color=looks[name].colour, ms=5)
    axes.set_yticks(range(len(groups)), [f"{s.group} (n = {s.n})" for s in scores[first]])
    axes.tick_params(labelsize=8)
    axes.set_ylim(len(groups) - 0.4, -0.6)
    axes.axvline(0, color=QUIET, linewidth=0.8)
    axes.set_xlabel(label, fontsize=9)
    _quiet(axes)
    axes.barh([0], [0], color=looks[first].colour, alpha=0.55, label=_plain(first))
    for name in others:
        axes.plot([], [], looks[name].shape, color=looks[name].colour, ms=5, label=_plain(name))
    handles, words = axes.get_legend_handles_labels()
    ordered = sorted(zip(words, handles, strict=True), key=lambda pair: pair[0] != _plain(first))
    figure.legend(
        [handle for _, handle in ordered], [word for word, _ in ordered],
        loc="outside upper left", ncols=4, fontsize=8, frameon=False,
    )  # fmt: skip
    return to_png(figure)


def _whisker(axes: Axes, score: Score, row: float, colour: str) -> None:
    """The interval of a score."""
    if score.low is not None and score.high is not None:
        axes.plot([score.low, score.high], [row, row], color=colour, linewidth=1.3)


def climate_panels(
    tables: Mapping[str, pd.DataFrame], index: str, label: str, looks: Mapping[str, Style]
) -> bytes:
    """Plot an index against each climate variable of the month, and over the year.

    Points are means of bins that hold equally many observed tiles; bars are 95 % intervals over
    blocks of places. Months of the southern hemisphere are moved by six, so that summers meet.

    Args:
        tables: Measured tables by system, `OBSERVED` among them.
        index: Column of the index.
        label: Its name.
        looks: Style of each system.

    Raises:
        RequestError: If no observed tile has the index.
    """
    observed = tables[OBSERVED]
    if index not in observed or not observed[index].notna().any():
        raise RequestError(f"No observed tile has {index!r}. Plot an index that was measured.")
    known = [name for name in CLIMATE if observed[name].nunique() > 1]
    figure = Figure(figsize=(WIDTH_IN, 2.9 * (1 + len(known) // 2)), layout="constrained")
    panels = figure.subplots(1 + len(known) // 2, 2, sharey=True, squeeze=False).ravel()
    for axes, name in zip(panels, known, strict=False):
        inner = np.linspace(0, 1, NUM_BINS + 1)[1:-1]
        edges = np.unique(observed[name].dropna().quantile(inner))
        for system, table in tables.items():
            rows = table[table[name].notna() & table[index].notna()]
            bins = np.searchsorted(edges, rows[name], side="right")
            _draw_means(axes, rows, rows[name], bins, index, looks[system], _plain(system))
        axes.set_xlabel(axis_label(name), fontsize=9)
    year = panels[len(known)]
    for system, table in tables.items():
        rows = table[table["month_index"].notna() & table[index].notna()]
        months = (rows["month_index"] + 6 * (rows["lat"] < 0)) % 12
        _draw_means(year, rows, months + 1, months, index, looks[system], _plain(system))
    year.set_xticks(range(1, 13), [f"{a}\n{b}" for a, b in zip(MONTH_LETTERS, SOUTH, strict=True)])
    year.set_xlabel("Month, north over south", fontsize=9)
    for axes in panels[len(known) + 1 :]:
        axes.set_visible(False)
    for axes in panels[: len(known) + 1]:
        axes.tick_params(labelsize=8)
        _quiet(axes)
    for axes in panels[::2]:
        axes.set_ylabel(label, fontsize=9)
    handles, words = year.get_legend_handles_labels()
    figure.legend(handles, words, loc="outside upper left", ncols=4, fontsize=8, frameon=False)
    return to_png(figure)


SOUTH = MONTH_LETTERS[6:] + MONTH_LETTERS[:6]
"""Months of the south under those of the north with the same season."""


def _draw_means(
    axes: Axes,
    rows: pd.DataFrame,
    x: pd.Series,
    bins: ArrayLike,
    index: str,
    look: Style,
    label: str,
) -> None:
    """Mean of an index in each bin with its interval, at the bin's mean x."""
    codes = np.asarray(bins)
    middles, means, lows, highs = [], [], [], []
    for code in np.unique(codes):
        own = rows[codes == code]
        values = own[index].to_numpy(np.float64)
        interval = bootstrap_interval(
            values, blocks_of(own), lambda drawn: float(drawn.mean()), num=NUM_DRAWS
        )
        middles.append(float(x[codes == code].mean()))
        means.append(float(values.mean()))
        lows.append(interval.low)
        highs.append(interval.high)
    axes.vlines(middles, lows, highs, color=look.colour, linewidth=1.2, alpha=0.6)
    axes.plot(middles, means, f"{look.shape}-", color=look.colour, ms=4.5, lw=1.3, label=label)


def error_map(table: pd.DataFrame, label: str) -> bytes:
    """Map places by their mean error, brown below and green above the observed value.

    Args:
        table: One row an image with ``place``, ``lat``, ``lon`` and ``error``.
        label: What the error is, with its unit.

    Raises:
        RequestError: If no row has a position and an error.
    """
    known = table.dropna(subset=["lat", "lon", "error"])
    if known.empty:
        raise RequestError(f"No image has both a position and {label}. Nothing can be mapped.")
    names = known["place"].where(known["place"].notna(), known.index.to_series())
    places = known.groupby(names)[["lat", "lon", "error"]].mean()
    limit = max(float(places["error"].abs().quantile(0.98)), 1e-9)
    figure = Figure(layout="constrained")
    axes = figure.subplots()
    _draw_land(axes)
    order = places["error"].abs().sort_values().index
    drawn = axes.scatter(
        places.loc[order, "lon"], places.loc[order, "lat"], c=places.loc[order, "error"],
        cmap="BrBG", vmin=-limit, vmax=limit, s=26, edgecolors=INK, linewidths=0.4, zorder=3,
    )  # fmt: skip
    ratio = _frame_map(axes, places)
    figure.set_size_inches(WIDTH_IN, float(np.clip(0.8 * WIDTH_IN * ratio + 0.9, 2.6, WIDTH_IN)))
    bar = figure.colorbar(drawn, ax=axes, shrink=0.8, pad=0.02, extend="both")
    bar.set_label(label, fontsize=9)
    bar.ax.tick_params(labelsize=8)
    axes.set_title(f"{len(places)} places", fontsize=10, loc="left")
    return to_png(figure)


def _draw_land(axes: Axes) -> None:
    """Land of the grid of normals, in grey."""
    normals = open_normals()
    grid = slice(None, None, OUTLINE_STEP)
    axes.contourf(
        normals.lon[grid], normals.lat[grid], normals.land[grid, grid], levels=[0.5, 1.01],
        colors=["#e9ebe6"], zorder=1,
    )  # fmt: skip


def _frame_map(axes: Axes, places: pd.DataFrame) -> float:
    """Show all places with a margin, in degrees of equal length in the middle; height to width."""
    reach = {}
    for name, bound in (("lon", 180.0), ("lat", 90.0)):
        low, high = float(places[name].min()), float(places[name].max())
        margin = max(0.08 * (high - low), 2.0)
        reach[name] = (max(low - margin, -bound), min(high + margin, bound))
    middle = np.radians(np.clip(np.mean(reach["lat"]), -60, 60))
    axes.set(xlim=reach["lon"], ylim=reach["lat"], aspect=1 / np.cos(middle))
    axes.set_xlabel("Longitude (°)", fontsize=9)
    axes.set_ylabel("Latitude (°)", fontsize=9)
    axes.tick_params(labelsize=8)
    height, width = (reach[name][1] - reach[name][0] for name in ("lat", "lon"))
    return float(height / width / np.cos(middle))


@dataclass(frozen=True)
class Change:
    """A difference between two runs, relative to the first."""

    label: str
    value: float
    """As a fraction of the first run's value."""
    low: float | None
    high: float | None
    is_better: bool | None
    """Whether the second run is better; None where the two are not told apart."""


def change_bars(changes: Sequence[Change]) -> bytes:
    """Plot relative differences with intervals, coloured where runs are told apart.

    Args:
        changes: At least one.

    Raises:
        RequestError: If there are none.
    """
    if not changes:
        raise RequestError("There is no difference to draw. Give at least one measure.")
    colours = {True: COLOURS[0], False: COLOURS[1], None: QUIET}
    shapes = {True: "^", False: "v", None: "o"}
    words = {True: "second better", False: "second worse", None: "not told apart"}
    figure = Figure(figsize=(WIDTH_IN, 1.2 + 0.32 * len(changes)), layout="constrained")
    axes = figure.subplots()
    for row, change in enumerate(changes):
        colour = colours[change.is_better]
        if change.low is not None and change.high is not None:
            axes.plot([100 * change.low, 100 * change.high], [row, row], color=colour, lw=1.6)
        axes.plot(100 * change.value, row, shapes[change.is_better], color=colour, ms=6)
    for verdict, word in words.items():
        if any(change.is_better is verdict for change in changes):
            axes.plot([], [], shapes[verdict], color=colours[verdict], label=word)
    axes.axvline(0, color=QUIET, linewidth=0.8)
    axes.set_yticks(range(len(changes)), [change.label for change in changes])
    axes.set_ylim(len(changes) - 0.5, -0.5)
    axes.tick_params(labelsize=8)
    axes.set_xlabel("Second run less first run, % of the first", fontsize=9)
    _quiet(axes)
    figure.legend(loc="outside upper left", ncols=3, fontsize=8, frameon=False)
    return to_png(figure)


def _quiet(axes: Axes) -> None:
    """Draw the frame and the grid so that they do not compete with the data."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color=LINE, linewidth=0.6)
    axes.set_axisbelow(True)


def _plain(name: str) -> str:
    """A system's name as words."""
    return name.replace("_", " ")
