"""Map of places: the region over the outlines of countries, in degrees of longitude and latitude.

Made from `matplotlib.figure.Figure` objects, so that nothing of pyplot's global state is read or
left behind, and the same places give the same bytes.
"""

import io
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import geopandas as gpd
import numpy as np
import shapely
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection, PolyCollection
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray
from shapely.affinity import translate
from shapely.geometry import box
from shapely.geometry.base import BaseGeometry

from data_prep.country_outlines import RESOURCE_PATH
from data_prep.place import Place
from ecomap.schema import LAND_COVER_LABELS

WIDTH_IN = 7.5
HEIGHT_RANGE_IN = (3.5, 8.5)
PAD_FRAC = 0.07
"""Free margin around what is shown."""
MIN_EXTENT_DEG = 0.1
FOOTPRINT_MIN_PT = 9.0
"""Tiles this wide on the map are drawn to scale; smaller ones as markers."""
MARKER_RANGE_PT = (2.0, 6.0)
SEA, LAND, BORDER, REGION = "#eef3f6", "#fbfbf8", "#b4bbb8", "#1d2327"

SPLIT_STYLES: dict[str, tuple[str, str]] = {
    "buffer": ("#8a8f93", "X"),
    "unassigned": ("#1d2327", "o"),
    "train": ("#0072b2", "o"),
    "val": ("#e69f00", "s"),
    "test": ("#d55e00", "^"),
}
"""Colour (Okabe & Ito, 2008) and marker of each side, in the order of drawing."""

_IGBP_COLOURS = (
    "#05450a", "#086a10", "#54a708", "#78d203", "#009900", "#c6b044", "#dcd159", "#dade48",
    "#fbff13", "#b6ff05", "#27ff87", "#c24f44", "#a5a5a5", "#ff6d4c", "#69fff8", "#f9ffa4",
    "#1c0dff",
)  # fmt: skip
STRATUM_STYLES: dict[str, tuple[str, str]] = {
    **{
        label: (colour, "os^Dv"[index % 5])
        for index, (label, colour) in enumerate(
            zip(LAND_COVER_LABELS.values(), _IGBP_COLOURS, strict=True)
        )
    },
    "": ("#1d2327", "o"),
}
"""Colour and marker of each class: the customary colours of MODIS land cover."""


@dataclass(frozen=True)
class _Frame:
    """Part of the Earth that a map shows. Longitudes below ``cut`` are drawn 360 degrees east."""

    cut: float
    west: float
    south: float
    east: float
    north: float

    def shift(self, shape: BaseGeometry) -> list[BaseGeometry]:
        """Parts of a shape where the map has them."""
        parts = shapely.get_parts(shape)
        return [
            translate(part, 360.0) if part.bounds[0] < self.cut - 1e-9 else part for part in parts
        ]


def draw_map(
    places: Sequence[Place],
    region: BaseGeometry | None,
    *,
    by: Literal["split", "stratum"] = "split",
) -> bytes:
    """Draw places on a map.

    Args:
        places: At least one.
        region: Polygons in EPSG:4326, split at +-180 degrees; None where places are the user's
            points.
        by: What colours and markers tell apart.

    Returns:
        PNG file.
    """
    frame = _frame(places, region)
    middle = np.cos(np.radians((frame.south + frame.north) / 2))
    shrink = max(float(middle), 0.2)
    ratio = (frame.north - frame.south) / ((frame.east - frame.west) * shrink)
    figure = Figure(figsize=(WIDTH_IN, float(np.clip(WIDTH_IN * ratio, *HEIGHT_RANGE_IN))))
    axes = figure.subplots()
    axes.set(xlim=(frame.west, frame.east), ylim=(frame.south, frame.north), aspect=1 / shrink)
    axes.set_facecolor(SEA)
    _draw_countries(axes, frame)
    if region is not None:
        outline = shapely.union_all(frame.shift(region))
        lines = [shapely.get_coordinates(ring) for ring in _rings(outline)]
        axes.add_collection(LineCollection(lines, colors=REGION, linewidths=1.1, zorder=3))
    size_pt = _draw_places(axes, frame, places, by)
    axes.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 2.5, 3, 5, 10]))
    axes.yaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 2.5, 3, 5, 10]))
    axes.xaxis.set_major_formatter(lambda x, _: degrees((x + 180) % 360 - 180, "EW"))
    axes.yaxis.set_major_formatter(lambda y, _: degrees(y, "NS"))
    axes.tick_params(labelsize=8, color=BORDER)
    axes.spines[:].set_color(BORDER)
    axes.legend(
        loc="upper center", bbox_to_anchor=(0.5, 0), borderaxespad=2.8, handletextpad=0.2,
        ncols=4 if by == "split" else 2, fontsize=8, frameon=False, markerscale=6 / size_pt,
    )  # fmt: skip
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=130, metadata={"Software": None}, bbox_inches="tight")
    return buffer.getvalue()


def degrees(value: float, letters: str) -> str:
    """A coordinate with its hemisphere.

    >>> degrees(-1.25, "NS"), degrees(-180, "EW"), degrees(0, "EW")
    ('1.25°S', '180°', '0°')
    """
    letter = "" if value == 0 or abs(value) == 180 else letters[int(value < 0)]
    return f"{abs(round(value, 6)):g}°{letter}"


def _frame(places: Sequence[Place], region: BaseGeometry | None) -> _Frame:
    """The smallest part of the Earth that shows everything, with a margin."""
    bounds = [(place.lon, place.lat, place.lon, place.lat) for place in places]
    if region is not None:
        bounds += [part.bounds for part in shapely.get_parts(region)]
    west, south, east, north = np.array(bounds).T
    cut = _cut(west, east)
    moved = np.where(west < cut - 1e-9, 360.0, 0.0)
    west, east = west + moved, east + moved
    tile_deg = places[0].size_px * places[0].resolution_m / 111_195
    pad_y = PAD_FRAC * (north.max() - south.min()) + tile_deg + MIN_EXTENT_DEG / 2
    shrink = max(float(np.cos(np.radians((south.min() + north.max()) / 2))), 0.2)
    pad_x = PAD_FRAC * (east.max() - west.min()) + (tile_deg + MIN_EXTENT_DEG / 2) / shrink
    x0, x1 = float(west.min() - pad_x), float(east.max() + pad_x)
    y0, y1 = float(south.min() - pad_y), float(north.max() + pad_y)
    # Long and thin regions get more of their surroundings.
    width, height = (x1 - x0) * shrink, y1 - y0
    low, high = (size / WIDTH_IN for size in HEIGHT_RANGE_IN)
    grow_x = max(0.0, height / high - width) / shrink / 2
    grow_y = max(0.0, width * low - height) / 2
    x0, x1 = x0 - grow_x, x1 + grow_x
    if x1 - x0 > 360:
        x0, x1 = (x0 + x1) / 2 - 180, (x0 + x1) / 2 + 180
    return _Frame(cut, x0, max(y0 - grow_y, -90.0), x1, min(y1 + grow_y, 90.0))


def _cut(west: NDArray[np.float64], east: NDArray[np.float64]) -> float:
    """Longitude at which the map is cut open: the end of the widest gap between extents."""
    order = np.argsort(west)
    west, reach = west[order], np.maximum.accumulate(east[order])
    gaps = west[1:] - reach[:-1]
    around = west[0] + 360 - reach[-1]
    if not len(gaps) or gaps.max() <= around:
        return -180.0
    return float(west[1:][gaps.argmax()])


@lru_cache(maxsize=1)
def _countries() -> gpd.GeoSeries:
    return gpd.read_parquet(RESOURCE_PATH).geometry.explode(ignore_index=True)


def _rings(shape: BaseGeometry) -> list[BaseGeometry]:
    """Outer and inner rings of all polygons of a shape."""
    return list(shapely.get_rings(shapely.get_parts(shape)))


def _draw_countries(axes: Axes, frame: _Frame) -> None:
    """Land and borders; the cuts at +-180 degrees are no borders."""
    view = box(frame.west, frame.south, frame.east, frame.north)
    fills, lines = [], []
    for shift in (-360.0, 0.0, 360.0):
        for shape in _countries():
            moved = translate(shape, shift)
            if not moved.intersects(view):
                continue
            fills.append(shapely.get_coordinates(moved.exterior))
            for ring in _rings(moved):
                points = shapely.get_coordinates(ring)
                pairs = np.stack([points[:-1], points[1:]], axis=1)
                is_cut = (np.abs(np.abs(pairs[..., 0] - shift) - 180) < 1e-6).all(axis=1)
                lines.append(pairs[~is_cut])
    axes.add_collection(PolyCollection(fills, facecolors=LAND, edgecolors="none", zorder=1))
    if lines:
        borders = np.concatenate(lines)
        axes.add_collection(LineCollection(list(borders), colors=BORDER, linewidths=0.6, zorder=2))


def _draw_places(
    axes: Axes, frame: _Frame, places: Sequence[Place], by: Literal["split", "stratum"]
) -> float:
    """Markers in groups with their counts; tiles to scale where the map shows their size.

    Returns:
        Size of the markers, points.
    """
    styles = SPLIT_STYLES if by == "split" else STRATUM_STYLES
    keys = [getattr(place, by) for place in places]
    counts = Counter(keys)
    width_pt = 72 * WIDTH_IN * 0.8
    tile_deg = places[0].size_px * places[0].resolution_m / 111_195
    shrink = 1 / float(axes.get_aspect())
    pt_per_deg = width_pt / ((frame.east - frame.west) * shrink)
    is_to_scale = tile_deg * pt_per_deg >= FOOTPRINT_MIN_PT
    area_pt = width_pt**2 * (frame.north - frame.south) / ((frame.east - frame.west) * shrink)
    size_pt = float(np.clip(0.33 * np.sqrt(area_pt / len(places)), *MARKER_RANGE_PT))
    lon = np.array([place.lon for place in places])
    lon = np.where(lon < frame.cut - 1e-9, lon + 360, lon)
    lat = np.array([place.lat for place in places])
    for key in [key for key in styles if key in counts]:
        colour, marker = styles[key]
        mine = np.array([other == key for other in keys])
        axes.scatter(
            lon[mine], lat[mine], s=size_pt**2, c=colour, marker=marker, zorder=5,
            linewidths=0.3 if size_pt > 3 else 0.1, edgecolors=REGION,
            label=f"{key or 'unknown'} ({counts[key]})",
        )  # fmt: skip
        if is_to_scale:
            tiles = [place for place, chosen in zip(places, mine, strict=True) if chosen]
            outlines = [
                shapely.get_coordinates(part.exterior)
                for tile in tiles
                for part in frame.shift(tile.footprint)
            ]
            axes.add_collection(
                PolyCollection(
                    outlines, facecolors=(colour, 0.25), edgecolors=colour, linewidths=1, zorder=4
                )
            )
    return size_pt
