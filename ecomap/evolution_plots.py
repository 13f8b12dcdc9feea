"""Plots of an evaluation of evolution: systems side by side, errors by step, ranks."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from matplotlib.figure import Figure

from ecomap.errors import RequestError
from ecomap.evaluation_plots import LINE, QUIET, WIDTH_IN, Style, group_bars
from ecomap.evolution_ensemble import RankHistogram
from ecomap.figures import SNOW_COLOUR, to_png
from ecomap.scores import Score

RANK_LABELS = {"gcc": "greenness", "snow_frac": "snow"}


def system_bars(scores: Sequence[Score], label: str, looks: Mapping[str, Style]) -> bytes:
    """Draw one metric of several systems as bars with intervals.

    Args:
        scores: One a system, at least one.
        label: Name of the metric, with its unit.
        looks: Style of each system.

    Raises:
        RequestError: If there are no scores.
    """
    if not scores:
        raise RequestError(f"No system has {label}. Give at least one score.")
    name = "interval over blocks"
    rows = [replace(score, group=score.system.replace("_", " ")) for score in scores]
    return group_bars({name: rows}, label, {name: looks[scores[0].system]})


def step_lines(scores: Sequence[Score], label: str, looks: Mapping[str, Style]) -> bytes:
    """Draw one metric of several systems against months from the start.

    Args:
        scores: Of the group kind ``months_ahead``, whose groups are whole numbers.
        label: Name of the metric, with its unit.
        looks: Style of each system.

    Raises:
        RequestError: If there are no scores.
    """
    if not scores:
        raise RequestError(f"No months ahead have {label}. Give at least one score.")
    figure = Figure(figsize=(WIDTH_IN, 3.4), layout="constrained")
    axes = figure.subplots()
    for name in dict.fromkeys(score.system for score in scores):
        rows = sorted(
            (one for one in scores if one.system == name and one.value is not None),
            key=lambda one: int(one.group),
        )
        steps = [int(one.group) for one in rows]
        values = np.array([one.value for one in rows], np.float64)
        lows, highs = (
            [np.nan if end is None else end for end in ends]
            for ends in ([one.low for one in rows], [one.high for one in rows])
        )
        look = looks[name]
        axes.fill_between(steps, lows, highs, color=look.colour, alpha=0.15, linewidth=0)
        axes.plot(
            steps, values, f"{look.shape}-", color=look.colour, ms=4.5, lw=1.3,
            label=name.replace("_", " "),
        )  # fmt: skip
    axes.set_xlabel("Months from the start", fontsize=9)
    axes.set_ylabel(label, fontsize=9)
    _finish(figure)
    figure.legend(loc="outside upper left", ncols=4, fontsize=8, frameon=False)
    return to_png(figure)


def rank_bars(histogram: RankHistogram) -> bytes:
    """Draw a rank histogram with the frequency of a calibrated ensemble."""
    figure = Figure(figsize=(WIDTH_IN, 2.8), layout="constrained")
    axes = figure.subplots()
    ranks = np.arange(1, len(histogram.frequencies) + 1)
    axes.bar(ranks, histogram.frequencies, color=SNOW_COLOUR, width=0.85)
    axes.axhline(1 / len(ranks), color=QUIET, linestyle="--", linewidth=1)
    axes.set_xticks(ranks)
    word = RANK_LABELS.get(histogram.index, histogram.index)
    axes.set_xlabel(f"Rank of the real month's {word} among the members", fontsize=9)
    axes.set_ylabel("Share of pairs", fontsize=9)
    axes.set_title(f"{histogram.n} pairs; dashed: a calibrated ensemble", fontsize=10, loc="left")
    _finish(figure)
    return to_png(figure)


def _finish(figure: Figure) -> None:
    """Draw frame and grid so that they do not compete with the data."""
    for axes in figure.axes:
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(color=LINE, linewidth=0.6)
        axes.set_axisbelow(True)
        axes.tick_params(labelsize=8)
