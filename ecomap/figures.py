"""Drawings: plots of climate against imagery as PNG bytes, and sheets of pictures.

Plots are made from `matplotlib.figure.Figure` objects, so nothing of pyplot's global state is
read or left behind, and the same numbers give the same bytes. Colours are those of Okabe & Ito
(2008, https://jfly.uni-koeln.de/color/), which differ for all common kinds of colour vision; lines
and points differ in shape as well.

Longer than the budget because the plots of all pages share their axes and colours.
"""

import io
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
from matplotlib import get_data_path
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike, NDArray
from PIL import Image, ImageDraw, ImageFont

from ecomap.errors import RequestError
from ecomap.schema import CLIMATE

TEMPERATURE_COLOUR = "#d55e00"
PRECIPITATION_COLOUR = "#56b4e9"
GREENNESS_COLOUR = "#009e73"
SNOW_COLOUR = "#0072b2"
QUIET_COLOUR = "#8a8f93"

GREENNESS_LABEL = "Greenness G/(R+G+B)"
SNOW_LABEL = "Snow fraction"
MONTH_LETTERS = "JFMAMJJASOND"

TEMPERATURE_RANGE_C = (-35.0, 40.0)
PRECIPITATION_RANGE_MM_DAY = (0.0, 12.0)
GREENNESS_RANGE = (0.30, 0.56)
"""Axes of all plots, wider where values lie outside, so that places compare. The greenness of Blue
Marble land lies inside: Spain in summer 0.33, snow and sand 0.33 to 0.35, taiga in July 0.53."""

SHEET_PICTURE_MIN_PX = 256
"""Smallest side of a picture on a sheet; smaller ones are enlarged by a whole factor."""
SHEET_GAP_PX = 16
SHEET_FONT_PX = 18
SHEET_TITLE_PX = 26
SHEET_INK = "#1d2327"

Label = tuple[str, str]
"""A word and its colour."""


def climate_response(
    place: str,
    *,
    temperature_c: Sequence[float],
    precipitation_mm_day: Sequence[float],
    months: Sequence[int],
    greenness: Sequence[float],
    snow_frac: Sequence[float],
) -> bytes:
    """Plot a place's observed normals over greenness and snow of the images made for it.

    Args:
        place: Title.
        temperature_c: Normals of January to December, °C; drawn as a line.
        precipitation_mm_day: Normals of January to December, mm/day; drawn as bars.
        months: Calendar months of the images, 1 to 12.
        greenness: Mean green chromatic coordinate of each image; NaN where it has none.
        snow_frac: Snow fraction of each image, [0, 1].

    Returns:
        PNG file.

    Raises:
        RequestError: If the normals are not twelve each, the images' values are not one for each
            month, or a month is not in 1 to 12.
    """
    _require_length(12, "month of the year", temperature_c=temperature_c)
    _require_length(12, "month of the year", precipitation_mm_day=precipitation_mm_day)
    _require_length(len(months), "image", greenness=greenness, snow_frac=snow_frac)
    if any(not 1 <= month <= 12 for month in months):
        raise RequestError(f"Months {list(months)} are not all calendar months. Use 1 to 12.")
    figure = Figure(figsize=(5.6, 4.0))
    climate, images = figure.subplots(2, 1, sharex=True)
    figure.subplots_adjust(left=0.12, right=0.88, bottom=0.07, top=0.93, hspace=0.25)
    calendar = np.arange(1, 13)
    rain = climate.twinx()
    rain.bar(calendar, precipitation_mm_day, color=PRECIPITATION_COLOUR, width=0.7)
    _include(rain, PRECIPITATION_RANGE_MM_DAY, precipitation_mm_day)
    climate.plot(calendar, temperature_c, color=TEMPERATURE_COLOUR, marker="o", markersize=4)
    _include(climate, TEMPERATURE_RANGE_C, temperature_c)
    _put_in_front(climate, rain)
    _name_axis(climate, "━ " + axis_label("temperature_c"), TEMPERATURE_COLOUR)
    _name_axis(rain, "▮ " + axis_label("precipitation_mm_day"), SNOW_COLOUR)
    climate.set_title(f"{place}: observed normals", fontsize=10, loc="left")
    snow = images.twinx()
    snow.plot(months, snow_frac, "s", color=SNOW_COLOUR, markersize=8, fillstyle="none", mew=1.8)
    images.plot(months, greenness, "o", color=GREENNESS_COLOUR, markersize=7)
    _put_in_front(images, snow)
    _set_greenness_axis(images, "● ", greenness)
    _set_snow_axis(snow, "□ ")
    images.set_title("Generated images", fontsize=10, loc="left")
    images.set_xticks(calendar, list(MONTH_LETTERS))
    images.set_xlim(0.4, 12.6)
    return to_png(figure)


def response_sweep(
    *,
    precipitation_place: str,
    precipitation_factors: Sequence[float],
    greenness: Sequence[float],
    temperature_place: str,
    temperature_offsets_c: Sequence[float],
    snow_frac: Sequence[float],
) -> bytes:
    """Plot greenness against scaled precipitation, and snow against shifted temperature.

    Args:
        precipitation_place: Title of the left plot.
        precipitation_factors: What the precipitation of each image was multiplied by.
        greenness: Mean green chromatic coordinate of each of these images.
        temperature_place: Title of the right plot.
        temperature_offsets_c: What was added to the temperature of each image, °C.
        snow_frac: Snow fraction of each of these images, [0, 1].

    Returns:
        PNG file.

    Raises:
        RequestError: If a response has not one value for each step.
    """
    _require_length(len(precipitation_factors), "precipitation factor", greenness=greenness)
    _require_length(len(temperature_offsets_c), "temperature offset", snow_frac=snow_frac)
    figure = Figure(figsize=(5.6, 3.0))
    wet, warm = figure.subplots(1, 2)
    figure.subplots_adjust(left=0.12, right=0.97, bottom=0.15, top=0.9, wspace=0.36)
    wet.plot(precipitation_factors, greenness, "o-", color=GREENNESS_COLOUR, markersize=7)
    wet.set_xticks(precipitation_factors, [f"x{factor:g}" for factor in precipitation_factors])
    wet.set_xlabel("Precipitation relative to normal", fontsize=9)
    _set_greenness_axis(wet, "", greenness)
    wet.set_title(precipitation_place, fontsize=10, loc="left")
    warm.plot(temperature_offsets_c, snow_frac, "s-", color=SNOW_COLOUR, markersize=7)
    warm.set_xticks(temperature_offsets_c, [_signed(offset) for offset in temperature_offsets_c])
    warm.set_xlabel(f"Temperature change ({CLIMATE['temperature_c'].unit})", fontsize=9)
    _set_snow_axis(warm, "")
    warm.set_title(temperature_place, fontsize=10, loc="left")
    return to_png(figure)


def observed_versus_generated(
    observed: ArrayLike, generated: ArrayLike, label: str, *, note: str = ""
) -> bytes:
    """Scatter a quantity of generated images against the same quantity of the real ones.

    Both axes have one range, and equality is a dashed line. Pairs with a value that is not finite
    cannot be drawn; the title counts them.

    Args:
        observed: Values of the real images.
        generated: Values of the generated images, in the same order.
        label: Name of the quantity, with its unit if it has one.
        note: Line in the corner, such as a correlation.

    Returns:
        PNG file.

    Raises:
        RequestError: If the two have different lengths, or no pair can be drawn.
    """
    x, y = np.asarray(observed, dtype=float).ravel(), np.asarray(generated, dtype=float).ravel()
    _require_length(len(x), "observed value", generated=y)
    drawn = np.isfinite(x) & np.isfinite(y)
    if not drawn.any():
        raise RequestError(f"No pair of finite values of {label!r} among {len(x)} can be drawn.")
    figure = Figure(figsize=(4.6, 4.6))
    axes = figure.subplots()
    figure.subplots_adjust(left=0.16, right=0.97, bottom=0.12, top=0.93)
    limits = _common_limits(np.concatenate([x[drawn], y[drawn]]))
    axes.plot(limits, limits, "--", color=QUIET_COLOUR, linewidth=1)
    axes.plot(x[drawn], y[drawn], "o", color=SNOW_COLOUR, markersize=4, alpha=0.5, mew=0)
    axes.set(xlim=limits, ylim=limits, aspect="equal")
    axes.tick_params(labelsize=8)
    axes.set_xlabel(f"{label}, observed", fontsize=9)
    axes.set_ylabel(f"{label}, generated", fontsize=9)
    missing = len(x) - int(drawn.sum())
    left_out = f", {missing} not finite" if missing else ""
    axes.set_title(f"{int(drawn.sum())} pairs{left_out}", fontsize=10, loc="left")
    axes.text(0.03, 0.97, note, transform=axes.transAxes, va="top", fontsize=9)
    return to_png(figure)


def axis_label(name: str) -> str:
    """Words and unit of a climate variable, such as ``Temperature (°C)``."""
    return f"{CLIMATE[name].label} ({CLIMATE[name].unit})"


def draw_sheet(
    images: Sequence[NDArray[np.uint8]],
    texts: Sequence[tuple[Label, str]],
    *,
    columns: int,
    title: str = "",
) -> Image.Image:
    """Draw pictures in rows on white, each over a coloured label and a caption.

    Small pictures are enlarged by repeating pixels: nothing is interpolated.

    Args:
        images: uint8 RGB ``(H, W, 3)``, all of one size; at least one.
        texts: Label and caption of each image; long captions are wrapped.
        columns: Pictures in a row, at least 1.
        title: Heading.
    """
    cells = [_cell(image, *text) for image, text in zip(images, texts, strict=True)]
    rows = [cells[start : start + columns] for start in range(0, len(cells), columns)]
    heights = [max(cell.height for cell in row) for row in rows]
    step_x = cells[0].width + SHEET_GAP_PX
    inner = len(rows[0]) * step_x - SHEET_GAP_PX
    heads = _text_lines(
        [(line, SHEET_INK) for line in _wrap(title, SHEET_TITLE_PX, inner)], inner, SHEET_TITLE_PX
    )
    top = SHEET_GAP_PX + heads.height
    height = top + sum(heights) + SHEET_GAP_PX * len(rows)
    sheet = Image.new("RGB", (inner + 2 * SHEET_GAP_PX, height), "white")
    sheet.paste(heads, (SHEET_GAP_PX, SHEET_GAP_PX // 2))
    for row, row_height in zip(rows, heights, strict=True):
        for number, cell in enumerate(row):
            sheet.paste(cell, (SHEET_GAP_PX + number * step_x, top))
        top += row_height + SHEET_GAP_PX
    return sheet


def _cell(image: NDArray[np.uint8], label: Label, caption: str) -> Image.Image:
    """One picture over its label and caption."""
    factor = -(-SHEET_PICTURE_MIN_PX // min(image.shape[:2]))
    picture = Image.fromarray(image.repeat(factor, axis=0).repeat(factor, axis=1))
    captions = [(line, SHEET_INK) for line in _wrap(caption, SHEET_FONT_PX, picture.width)]
    words = _text_lines([label, *captions], picture.width, SHEET_FONT_PX)
    cell = Image.new("RGB", (picture.width, picture.height + words.height), "white")
    cell.paste(picture)
    cell.paste(words, (0, picture.height))
    return cell


def _text_lines(lines: Sequence[Label], width_px: int, size_px: int) -> Image.Image:
    """Lines of text, each in its colour, on white."""
    step = size_px * 4 // 3
    block = Image.new("RGB", (width_px, step * len(lines)), "white")
    draw = ImageDraw.Draw(block)
    for number, (text, colour) in enumerate(lines):
        draw.text((0, number * step + size_px // 6), text, fill=colour, font=_font(size_px))
    return block


@lru_cache
def _font(size_px: int) -> ImageFont.FreeTypeFont:
    """DejaVu Sans, which comes with matplotlib and has every sign that climate needs."""
    return ImageFont.truetype(Path(get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf", size_px)


def _wrap(text: str, size_px: int, width_px: int) -> list[str]:
    """Break a text into lines that fit a width: at spaces, or inside a word that is too long."""
    font, lines = _font(size_px), []
    for paragraph in text.splitlines():
        rest = " ".join(paragraph.split())
        while rest:
            lengths = range(1, len(rest) + 1)
            cut = max((n for n in lengths if font.getlength(rest[:n]) <= width_px), default=1)
            if cut < len(rest) and " " in rest[: cut + 1]:
                cut = rest.rindex(" ", 0, cut + 1)
            lines.append(rest[:cut])
            rest = rest[cut:].lstrip()
    return lines


def _set_greenness_axis(axes: Axes, mark: str, greenness: Sequence[float]) -> None:
    """Name an axis of greenness and give it the common range, or a wider one that holds all."""
    _name_axis(axes, mark + GREENNESS_LABEL, GREENNESS_COLOUR)
    _include(axes, GREENNESS_RANGE, greenness)


def _set_snow_axis(axes: Axes, mark: str) -> None:
    """Name an axis of snow and show all that is possible."""
    _name_axis(axes, mark + SNOW_LABEL, SNOW_COLOUR)
    axes.set_ylim(-0.05, 1.05)


def _include(axes: Axes, limits: tuple[float, float], values: Sequence[float]) -> None:
    """Give a vertical axis its common range, or a wider one that holds all finite values."""
    finite = [value for value in values if np.isfinite(value)]
    margin = 0.04 * (limits[1] - limits[0])
    low = min([limits[0], *(value - margin for value in finite if value < limits[0])])
    high = max([limits[1], *(value + margin for value in finite if value > limits[1])])
    axes.set_ylim(low, high)


def _signed(value: float) -> str:
    """Number with its sign, none for zero."""
    return f"{value:+g}" if value else "0"


def _name_axis(axes: Axes, label: str, colour: str) -> None:
    """Label a vertical axis in the colour of what it measures."""
    axes.set_ylabel(label, color=colour, fontsize=9)
    axes.tick_params(axis="y", labelcolor=colour)
    axes.tick_params(labelsize=8)
    axes.yaxis.set_major_locator(MaxNLocator(5))


def _put_in_front(front: Axes, behind: Axes) -> None:
    """Draw one of two axes that share a place over the other."""
    front.set_zorder(behind.get_zorder() + 1)
    front.patch.set_visible(False)


def _common_limits(values: NDArray[np.float64]) -> tuple[float, float]:
    """Range of values with a margin, also where all are equal."""
    low, high = float(values.min()), float(values.max())
    margin = 0.05 * (high - low) or 0.05 * abs(high) or 0.5
    return low - margin, high + margin


def _require_length(
    length: int, each: str, **series: Sequence[float] | NDArray[np.float64]
) -> None:
    """Refuse series that would put values at the wrong place."""
    for name, values in series.items():
        if len(values) != length:
            raise RequestError(
                f"{name} has {len(values)} values. Expected {length}, one for each {each}."
            )


def to_png(figure: Figure) -> bytes:
    """Render a figure; without the version of matplotlib, so that bytes depend on content only."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=130, metadata={"Software": None})
    return buffer.getvalue()
