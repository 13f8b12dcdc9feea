"""Curves of a run, whatever its numbers are called, as PNG bytes that depend on them alone.

Numbers of the loop have words and units here; others are drawn under their own name. A key that
begins with ``val_`` is of held-out data; ``val_K`` is drawn with ``K``.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, FuncFormatter, LogLocator, MaxNLocator, NullFormatter
from numpy.typing import NDArray

from ecomap.figures import (
    GREENNESS_COLOUR,
    QUIET_COLOUR,
    SNOW_COLOUR,
    TEMPERATURE_COLOUR,
    to_png,
)
from ecomap.run_metrics import HELD_OUT, Series
from ecomap.schema import CLIMATE

HELD_OUT_LOSS = "val_loss"
SHUFFLED = "_shuffled"
LONGEST = "norm_max"
LEVEL = re.compile(r"val_loss_sigma_(\d\.\d+)")

WORDS = {
    "loss": ("Loss", "loss"),
    "norm": ("Length of the gradient before clipping", "norm"),
    "learning_rate": ("Learning rate", "rate"),
    "data_wait": ("Waiting for data", "share of time"),
    "step_time": ("Time of a step, pauses for validation included", "s"),
}
"""Title and unit of the loop's own numbers."""
UNITS = {"psnr": "dB", "month_error": "months", "accuracy": "share right"}
"""Units of other numbers by a part of their key; those of climate are `CLIMATE`'s."""

LOGARITHMIC = ("loss", "norm")
LOG_RATIO = 3.0
"""Ratio of their largest to their smallest value from which these are drawn on such an axis."""
FROM_ZERO = ("learning_rate", "data_wait", "step_time")
"""Numbers whose axis begins at 0."""
MAX_MARKS = 40
WIDTH_IN, ROW_IN = 9.0, 2.5
PLAIN = FuncFormatter(lambda value, _: f"{value:g}")


@dataclass(frozen=True)
class Look:
    """How a kind of number is drawn: kinds differ in shape as well as in colour."""

    label: str
    colour: str
    style: str
    """Format string of matplotlib: shape and line."""


TRAINING = Look("training, running mean", SNOW_COLOUR, "-")
AVERAGED = Look("held out, averaged weights", GREENNESS_COLOUR, "o-")
SINGLE = Look("longest since the last point", QUIET_COLOUR, ".")
OF_OTHERS = Look("held out, told another frame's text and climate", TEMPERATURE_COLOUR, "^--")
FIRST, BEST, LAST = (
    Look("step {:,}", QUIET_COLOUR, "s-"),
    Look("step {:,}, lowest mean", GREENNESS_COLOUR, "o-"),
    Look("step {:,}", "#1d2327", "^-"),
)


def words_of(key: str) -> tuple[str, str]:
    """Title and unit of a number; an empty unit where none is known."""
    name = key.removeprefix(HELD_OUT).removesuffix(SHUFFLED)
    if name in WORDS:
        return WORDS[name]
    who = "Held out: " if key.startswith(HELD_OUT) else "Training: "
    unit = next((unit for part, unit in UNITS.items() if part in name), "")
    for climate, variable in CLIMATE.items():
        if climate in name:
            name, unit = name.replace(climate, variable.label.lower()), variable.unit
    return who + name.replace("_", " ").replace("psnr", "PSNR"), unit


def draw_curves(series: Mapping[str, Series]) -> bytes | None:
    """Draw all numbers over steps; ``None`` where there are none.

    Loss first, training and held out together; then held-out loss by noise level, other numbers,
    and how the work went.

    Args:
        series: By key.

    Returns:
        PNG file.
    """
    levels = {float(m[1]): s for key, s in series.items() if (m := LEVEL.fullmatch(key))}
    panels = _panels(series)
    if not panels and not levels:
        return None
    wide = panels[:1] if panels and panels[0][0].removeprefix(HELD_OUT) == "loss" else []
    narrow = panels[len(wide) :]
    rows = len(wide) + -(-(2 * bool(levels) + len(narrow)) // 2)
    figure = Figure(figsize=(WIDTH_IN, 0.3 + ROW_IN * rows), layout="constrained")
    grid = figure.add_gridspec(rows, 2)
    places = [grid[row, column] for row in range(len(wide), rows) for column in (0, 1)]
    if wide:
        _draw_panel(figure.add_subplot(grid[0, :]), wide[0], series)
    if levels:
        _draw_levels(figure.add_subplot(places.pop(0)), levels)
        beside = places.pop(0)
    for place, keys in zip(places, narrow, strict=False):
        _draw_panel(figure.add_subplot(place), keys, series)
    for axes in figure.axes:
        axes.set_xlim(0, 1.02 * max(int(one.steps[-1]) for one in series.values()))
    if levels:
        _draw_profile(figure.add_subplot(beside), levels)
    return to_png(figure)


def _panels(series: Mapping[str, Series]) -> list[tuple[str, ...]]:
    """Keys of each panel: loss first, then what is told of either side, and the work at last."""
    panels = []
    for key in series:
        name = "norm" if key == LONGEST else key.removeprefix(HELD_OUT).removesuffix(SHUFFLED)
        both = (name, HELD_OUT + name, HELD_OUT + name + SHUFFLED)
        own = tuple(k for k in ((LONGEST, "norm") if name == "norm" else both) if k in series)
        if not LEVEL.fullmatch(key) and own not in panels:
            panels.append(own)
    order = ["loss", *(key for key in WORDS if key != "loss")]

    def rank(keys: tuple[str, ...]) -> int:
        name = keys[-1].removeprefix(HELD_OUT).removesuffix(SHUFFLED)
        return -1 if name == "loss" else order.index(name) if name in order else 0

    return sorted(panels, key=rank)


def _draw_panel(axes: Axes, keys: Sequence[str], series: Mapping[str, Series]) -> None:
    """Numbers that share an axis: training, held out, and held out with another's climate."""
    drawn = {key: _finite(series[key]) for key in keys}
    for key, one in drawn.items():
        look = _look(key)
        every = _mark_every(one) if "-" in look.style else 1
        axes.plot(one.steps, one.values, look.style, color=look.colour, ms=4, lw=1.3,
                  markevery=every, label=look.label)  # fmt: skip
    title, unit = words_of(keys[-1])
    if len(keys) > 1:  # the legend says of which side each line is
        title = title.split(": ")[-1]
    gone = sum(len(series[key].steps) - len(one.steps) for key, one in drawn.items())
    _name_axes(axes, title + (f" ({gone} not finite, not drawn)" if gone else ""), unit)
    if keys[-1].removeprefix(HELD_OUT).removesuffix(SHUFFLED) in LOGARITHMIC:
        _use_logarithm(axes, np.concatenate([one.values for one in drawn.values()]))
    if keys[0] in FROM_ZERO:
        axes.set_ylim(bottom=0)
        axes.yaxis.set_major_formatter(PLAIN)
    if HELD_OUT_LOSS in keys and (lowest := series[HELD_OUT_LOSS].lowest):
        axes.plot(*lowest, "o", ms=10, mfc="none", mec=AVERAGED.colour, mew=1.5,
                  label=f"lowest held out: {lowest[1]:.4g} at step {lowest[0]:,}")  # fmt: skip
    if len(keys) > 1 or HELD_OUT_LOSS in keys:
        _add_legend(axes)


def _look(key: str) -> Look:
    """How a number is drawn."""
    if key.endswith(SHUFFLED):
        return OF_OTHERS
    if key == LONGEST:
        return SINGLE
    return AVERAGED if key.startswith(HELD_OUT) else TRAINING


def _draw_levels(axes: Axes, levels: Mapping[float, Series]) -> None:
    """Held-out loss at each noise level over steps."""
    colours = matplotlib.colormaps["viridis"](np.linspace(0, 0.88, len(levels)))
    finite = {sigma: _finite(levels[sigma]) for sigma in sorted(levels)}
    for colour, (sigma, one) in zip(colours, finite.items(), strict=True):
        axes.plot(one.steps, one.values, color=colour, marker="o", ms=2.5, lw=1.2,
                  markevery=_mark_every(one), label=f"{sigma:.2f}")  # fmt: skip
    _name_axes(axes, "Held-out loss at each noise level", "loss")
    _use_logarithm(axes, np.concatenate([one.values for one in finite.values()]))
    axes.legend(title="noise level", title_fontsize=7, fontsize=7, frameon=False,
                loc="center left", bbox_to_anchor=(1.0, 0.5))  # fmt: skip


def _draw_profile(axes: Axes, levels: Mapping[float, Series]) -> None:
    """Held-out loss against noise level, at the first, the best and the last validation."""
    table: dict[int, dict[float, float]] = {}
    for sigma in sorted(levels):
        one = _finite(levels[sigma])
        for step, value in zip(one.steps.tolist(), one.values.tolist(), strict=True):
            table.setdefault(step, {})[sigma] = value
    if table:
        best = min(table, key=lambda step: float(np.mean(list(table[step].values()))))
        named = {min(table): FIRST} | {max(table): LAST} | {best: BEST}
        for step, look in sorted(named.items(), key=lambda item: item[0]):
            axes.plot(list(table[step]), list(table[step].values()), look.style, ms=4, lw=1.3,
                      color=look.colour, label=look.label.format(step))  # fmt: skip
        _use_logarithm(axes, np.array([v for step in named for v in table[step].values()]))
        _add_legend(axes)
    _name_axes(axes, "Held-out loss by noise level", "loss")
    axes.set_xlabel("Noise level σ (0 image, 1 noise)", fontsize=9)
    axes.set_xlim(0, 1)
    axes.xaxis.set_major_formatter(PLAIN)


def _add_legend(axes: Axes) -> None:
    """A legend above all that is drawn."""
    low, high = axes.get_ylim()
    room = 0.3
    is_log = axes.get_yscale() == "log"
    axes.set_ylim(low, high * (high / low) ** room if is_log else high + room * (high - low))
    columns = 2 if len(axes.get_lines()) > 3 else 1
    axes.legend(fontsize=8, frameon=False, loc="upper right", ncols=columns)


def _mark_every(one: Series) -> int:
    """Distance of marks on a line, which would hide it where they touch."""
    return max(1, len(one.steps) // MAX_MARKS)


def _finite(one: Series) -> Series:
    """Only what can be drawn."""
    kept = np.isfinite(one.values)
    return Series(one.steps[kept], one.values[kept])


def _name_axes(axes: Axes, title: str, unit: str) -> None:
    """Title, labels and a quiet frame."""
    axes.set_title(title, fontsize=10, loc="left")
    axes.set_xlabel("Optimiser step", fontsize=9)
    axes.set_ylabel(unit or "value as logged", fontsize=9)
    axes.tick_params(labelsize=8)
    axes.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 2.5, 5, 10]))
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="#d9dcd6", linewidth=0.6)
    axes.set_axisbelow(True)


def _use_logarithm(axes: Axes, values: NDArray[np.float64]) -> None:
    """A logarithmic axis with plain numbers, for values above 0 of very different size."""
    if not len(values) or values.min() <= 0 or values.max() < LOG_RATIO * values.min():
        return
    axes.set_yscale("log")
    ratio = values.max() / values.min()
    subs = (1, 1.5, 2, 3, 4, 5, 7) if ratio < 10 else (1, 2, 5) if ratio < 1000 else (1,)
    axes.yaxis.set_major_locator(LogLocator(subs=subs))
    axes.yaxis.set_major_formatter(PLAIN)
    axes.yaxis.set_minor_formatter(NullFormatter())
