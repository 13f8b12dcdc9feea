"""Maps of a sequence: differences of scenarios, changes with the years, and spread of members.

Each figure has a row for a scenario and a column for the year and for each season that has frames,
with one colour bar. Crosses stand where members disagree on the sign of a difference.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

from ecomap.outputs import synthetic_name
from ecomap.page import Figure as Picture
from ecomap.sequence import SequenceFolder
from ecomap.sequence_measures import (
    FIRST_YEARS,
    GROUPS,
    LAST_YEARS,
    MIN_AGREEMENT,
    SEASONS,
    Map,
    SequenceMaps,
    members_agree,
    periods,
    year_map,
)
from ecomap.sequence_plots import INK, PLOTS_FOLDER, WIDTH_IN, save_plot, shorten

BLANK = "#c9cdca"
NUM_CROSSES = 24
"""Crosses along the longer side of a map on which all members disagree."""
MIN_MEMBERS_TO_AGREE = 3

YEAR = "All months"

LIMIT_PERCENTILE = 98.0
"""Values beyond this percentile have the colour at the end of the bar."""

NOTHING = "no month,\nor no land"


@dataclass(frozen=True)
class Quantity:
    """What is mapped, and how."""

    name: str
    """Field of `SequenceMaps`."""
    label: str
    difference_palette: str
    smallest_limit: float
    """Ends of the colour bar are at least this far from zero, so that noise stays pale."""
    words: str
    """What the colours of a difference mean."""


GREENNESS = Quantity(
    "greenness", "Greenness G/(R+G+B)", "BrBG", 0.02, "Green: greener. Brown: less."
)
SNOW = Quantity("snow", "Share of months with snow", "RdBu", 0.1, "Blue: more snow. Red: less.")


@dataclass(frozen=True)
class Row:
    """One row of maps."""

    words: str
    maps: Sequence[Map]
    agreement: Sequence[NDArray[np.bool_] | None]
    """For each map where members agree; ``None`` where there are too few."""


def difference_figures(folder: SequenceFolder, maps: SequenceMaps) -> Iterator[Picture]:
    """What each scenario has more than the first, for the same members."""
    first, *others = [timeline.title for timeline in folder.plan.timelines]
    columns = _columns(maps)
    for quantity in (GREENNESS, SNOW):
        values: Map = getattr(maps, quantity.name)
        rows = [
            _row(f"{title}", values[number] - values[0], columns)
            for number, title in enumerate(others, start=1)
        ]
        caption = f"{quantity.label}, less that of “{first}”. {quantity.words} {_crosses(folder)}"
        if rows and not _is_nothing(quantity, values):
            yield _differences(
                folder, f"{quantity.name}_difference", rows, columns, quantity, caption
            )


def change_figures(folder: SequenceFolder, maps: SequenceMaps) -> Iterator[Picture]:
    """What the last years have more than the first, in each scenario."""
    early, late = GROUPS.index(FIRST_YEARS), GROUPS.index(LAST_YEARS)
    titles = [timeline.title for timeline in folder.plan.timelines]
    for quantity in (GREENNESS, SNOW):
        values: Map = getattr(maps, quantity.name)
        changes = values[:, :, late] - values[:, :, early]
        if not np.isfinite(changes).any() or _is_nothing(quantity, values):
            continue
        row = Row("", [change.mean(axis=0) for change in changes], [_agree(c) for c in changes])
        caption = (
            f"{quantity.label}: last years less first years, in the same calendar months"
            f"{_years(folder)}. {quantity.words} {_crosses(folder)}"
        )
        columns = [shorten(title, 24) for title in titles]
        yield _differences(folder, f"{quantity.name}_change", [row], columns, quantity, caption)


def _years(folder: SequenceFolder) -> str:
    """Which years are first and last, where that is the same in all scenarios."""
    found = {
        tuple(
            " to ".join(sorted({min(months)[:4], max(months)[:4]}))
            for months in periods(timeline.months)
        )
        for timeline in folder.plan.timelines
        if periods(timeline.months)[0]
    }
    if len(found) > 1:
        return ""
    ((first, last),) = found
    return f" ({last} less {first})"


def spread_figures(folder: SequenceFolder, maps: SequenceMaps) -> Iterator[Picture]:
    """Where members differ; nothing for one member."""
    labels = {
        "greenness_spread": "Standard deviation of greenness",
        "colour_spread": "Standard deviation of colour (display values)",
    }
    columns = _columns(maps)
    for name, label in labels.items():
        values: Map = getattr(maps, name)
        if not np.isfinite(values).any():
            continue
        rows = [
            _row(timeline.title, values[number : number + 1], columns)
            for number, timeline in enumerate(folder.plan.timelines)
        ]
        shown = np.abs(values[np.isfinite(values)])
        limit = max(float(np.percentile(shown, LIMIT_PERCENTILE)), 1e-6)
        figure = draw_maps(rows, columns, label=label, palette="cividis", limits=(0, limit))
        caption = (
            f"{label} over the {folder.plan.members} members of a month, mean over months. Yellow: "
            "left to chance. Blue: the same whatever the noise."
        )
        yield _picture(folder, name, figure, caption)


def draw_maps(
    rows: Sequence[Row],
    columns: Sequence[str],
    *,
    label: str,
    palette: str,
    limits: tuple[float, float],
) -> Figure:
    """Draw maps in rows with one colour bar.

    Args:
        rows: At least one, each with a map ``(h, w)`` for each column; NaN is grey.
        columns: Words over the columns.
        label: Words at the colour bar, with the unit.
        palette: Name of matplotlib's colour map.
        limits: Values at the ends of the colour bar.
    """
    height_px, width_px = rows[0].maps[0].shape
    side = (WIDTH_IN - 1.6) / max(len(columns), 4)
    height = side * height_px / width_px
    size = (side * len(columns) + 1.6, (height + 0.09) * len(rows) + 0.35)
    figure = Figure(figsize=size, layout="constrained")
    grid = figure.subplots(len(rows), len(columns), squeeze=False)
    for cells, row in zip(grid, rows, strict=True):
        cells[0].set_ylabel(shorten(row.words, max(10, int(height * 14))), fontsize=9)
        for axes, values, agrees in zip(cells, row.maps, row.agreement, strict=True):
            axes.set_facecolor(BLANK)
            axes.set(xticks=[], yticks=[])
            drawn = axes.imshow(
                values, cmap=palette, vmin=limits[0], vmax=limits[1], interpolation="nearest"
            )
            _doubt(axes, values, agrees)
    for axes, words in zip(grid[0], columns, strict=True):
        axes.set_title(words, fontsize=9)
    bar = figure.colorbar(
        drawn, ax=list(grid.ravel()), shrink=0.5 + 0.5 / len(rows),
        extend="both" if limits[0] < 0 else "max",
    )  # fmt: skip
    bar.set_label(
        label if len(label) < 14 * side else label.replace(" of ", "\nof ", 1), fontsize=8.5
    )
    bar.ax.tick_params(labelsize=8)
    return figure


def _columns(maps: SequenceMaps) -> list[str]:
    """The year, then the seasons that have frames, where there are several."""
    present = [
        season
        for index, season in enumerate(SEASONS)
        if np.isfinite(maps.greenness[:, :, index]).any()
    ]
    return [YEAR, *present] if len(present) > 1 else [YEAR]


def _row(words: str, values: Map, columns: Sequence[str]) -> Row:
    """Maps of ``(members, groups, h, w)`` in the columns."""
    chosen = [
        year_map(values) if column == YEAR else values[:, GROUPS.index(column)]
        for column in columns
    ]
    return Row(words, [one.mean(axis=0) for one in chosen], [_agree(one) for one in chosen])


def _agree(differences: Map) -> NDArray[np.bool_] | None:
    """Where members agree, of ``(members, h, w)``; ``None`` where there are too few."""
    return members_agree(differences) if len(differences) >= MIN_MEMBERS_TO_AGREE else None


def _is_nothing(quantity: Quantity, values: Map) -> bool:
    """Whether a quantity is not worth a map: no snow anywhere."""
    return quantity is SNOW and not np.nan_to_num(values).any()


def _crosses(folder: SequenceFolder) -> str:
    """What crosses mean, or why there are none."""
    if folder.plan.members < MIN_MEMBERS_TO_AGREE:
        return "Too few members to say how much of it is chance."
    share = f"{MIN_AGREEMENT:.0%}".replace("%", " %")
    return f"Crosses: fewer than {share} of the members have the sign of the mean."


def _differences(
    folder: SequenceFolder,
    name: str,
    rows: Sequence[Row],
    columns: Sequence[str],
    quantity: Quantity,
    caption: str,
) -> Picture:
    """A figure of differences, on colours that are the same distance from zero on both sides."""
    values = np.concatenate([np.abs(one[np.isfinite(one)]) for row in rows for one in row.maps])
    robust = float(np.percentile(values, LIMIT_PERCENTILE)) if values.size else 0.0
    limit = max(robust, quantity.smallest_limit)
    figure = draw_maps(
        rows, columns, label=f"Difference of {quantity.label[0].lower()}{quantity.label[1:]}",
        palette=quantity.difference_palette, limits=(-limit, limit),
    )  # fmt: skip
    return _picture(folder, name, figure, caption)


def _picture(folder: SequenceFolder, name: str, figure: Figure, caption: str) -> Picture:
    """Save a figure beside the sequence."""
    path = folder.path / PLOTS_FOLDER / synthetic_name(name, ".png")
    save_plot(path, figure, is_synthetic=True, is_palette=True)
    return Picture(caption=caption, png=path, alt=f"Maps. {caption}")


def _doubt(axes: Axes, values: Map, agrees: NDArray[np.bool_] | None) -> None:
    """Words on a map without a value, and crosses where most pixels around disagree."""
    known = np.isfinite(values)
    if not known.any():
        middle: dict[str, Any] = {"ha": "center", "va": "center", "fontsize": 8}
        axes.text(0.5, 0.5, NOTHING, transform=axes.transAxes, **middle)
    if agrees is None:
        return
    disagree = (known & ~agrees).astype(np.float32)
    step = max(1, max(disagree.shape) // NUM_CROSSES)
    rows, columns = np.nonzero(np.asarray(Image.fromarray(disagree).reduce(step)) > 0.5)
    middle_px = (step - 1) / 2
    axes.plot(
        columns * step + middle_px, rows * step + middle_px, "x", color=INK, ms=2.4, mew=0.5,
        alpha=0.7,
    )  # fmt: skip
