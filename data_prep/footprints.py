"""Outlines of scenes on the globe: from the pixel grid where an item states it, and mended.

Catalogues are at their worst at the antimeridian, where footprints are missing, torn across the
whole globe, or shifted. The pixel grid, which the projection extension states in metres, is right
there as elsewhere. It is larger than what the satellite saw, though: a scene at the edge of the
swath is mostly empty. So the item's own outline narrows the grid, wherever the two agree.
"""

import math
from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any

import antimeridian
import shapely
from pyproj import Transformer
from shapely.errors import GEOSException
from shapely.geometry import MultiPolygon, Polygon, box, shape
from shapely.geometry.base import BaseGeometry

EDGE_PARTS = 16
"""Parts in which each edge of a pixel grid is projected: UTM lines are curved in degrees."""
MIN_AGREEMENT_FRAC = 0.95
"""Share of an item's outline that lies on its pixel grid, where the two agree."""
SLACK_DEG = 0.01
"""An item's outline is grown by this (1 km northwards) before it narrows the pixel grid:
catalogues simplify outlines and draw the curved edges of tiles straight."""


def footprint_of(
    item: Mapping[str, Any], crs: str | None, assets: Iterable[Mapping[str, Any]]
) -> BaseGeometry | None:
    """Outline of an item's pixels in EPSG:4326: valid polygons, split at +-180 degrees.

    Args:
        item: STAC item.
        crs: CRS of its pixels, where known.
        assets: Assets whose projection metadata count, the finest first.

    Returns:
        The pixel grid, narrowed to the item's own outline if that agrees with it; the item's
        outline where there is no grid; None where there is neither.
    """
    stated = _stated_outline(item)
    grid = None if crs is None else grid_outline(item.get("properties", {}), assets)
    if grid is None or crs is None:
        return stated
    extent = to_degrees(grid, crs)
    if extent is None or stated is None:
        return extent or stated
    agrees = extent.intersection(stated).area >= MIN_AGREEMENT_FRAC * stated.area
    if not agrees or (_crosses(extent) and _is_cut(stated)):
        return extent
    return _polygons(extent.intersection(mend(stated.buffer(SLACK_DEG)) or stated))


def grid_outline(
    properties: Mapping[str, Any], assets: Iterable[Mapping[str, Any]]
) -> Polygon | None:
    """Outline of the pixel grid in metres; None where neither assets nor item state one.

    An asset's ``proj:geometry``, ``proj:bbox``, or ``proj:transform`` with ``proj:shape`` count,
    in this order; what an asset lacks it takes from the item.
    """
    for asset in (*assets, {}):
        fields = {**properties, **{k: v for k, v in asset.items() if v is not None}}
        outline = _outline_of(fields)
        if outline is not None and outline.is_valid and outline.area > 0:
            return outline
    return None


def to_degrees(outline: Polygon, crs: str) -> BaseGeometry | None:
    """Project an outline to EPSG:4326, split at +-180 degrees; None where it has no image there.

    Args:
        outline: In the units of ``crs``.
        crs: Known to PROJ, such as ``EPSG:32633``.
    """
    west, south, east, north = outline.bounds
    dense = shapely.segmentize(outline, max(east - west, north - south) / EDGE_PARTS)
    degrees = shapely.transform(dense, _to_degrees(crs).transform, interleaved=False)
    return mend(degrees) if all(math.isfinite(edge) for edge in degrees.bounds) else None


def mend(outline: BaseGeometry) -> BaseGeometry | None:
    """Make an outline in degrees valid: polygons within +-180 degrees; None if nothing is left.

    An outline that is wider than half the globe is taken for one torn at the antimeridian, and one
    that goes on beyond 180 degrees is cut there.
    """
    parts = [
        _split(part) if _is_torn(part) else part
        for part in shapely.get_parts(shapely.force_2d(outline))
        if isinstance(part, Polygon)
    ]
    return _polygons(shapely.union_all([shapely.make_valid(part) for part in parts]))


def _crosses(outline: BaseGeometry) -> bool:
    """Whether an outline lies on both sides of the antimeridian."""
    west, _, east, _ = outline.bounds
    return bool(east - west > 180)


def _is_cut(outline: BaseGeometry) -> bool:
    """Whether an outline ends at the antimeridian: some catalogues lose what lies beyond."""
    west, _, east, _ = outline.bounds
    return not _crosses(outline) and bool(west <= SLACK_DEG - 180 or east >= 180 - SLACK_DEG)


def _is_torn(part: Polygon) -> bool:
    west, _, east, _ = part.bounds
    return bool(east - west > 180 or west < -180 or east > 180)


def _split(part: Polygon) -> BaseGeometry:
    """Cut a torn outline at +-180 degrees."""
    west, _, east, _ = part.bounds
    if west >= -180 and east <= 180:  # torn: its western half lies at the eastern edge of the map
        part = shapely.transform(part, lambda at: at + (at[:, :1] < 0) * (360.0, 0.0))
    return antimeridian.fix_polygon(part, fix_winding=True)


def _polygons(outline: BaseGeometry) -> BaseGeometry | None:
    """The areas of an outline, without the lines and points of a repair."""
    parts = [part for part in shapely.get_parts(outline) if isinstance(part, Polygon)]
    parts = [part for part in parts if part.area > 0]
    if len(parts) <= 1:
        return parts[0] if parts else None
    return MultiPolygon(parts)


def _stated_outline(item: Mapping[str, Any]) -> BaseGeometry | None:
    """The item's ``geometry``, else its ``bbox``."""
    try:
        if item.get("geometry"):
            return mend(shape(item["geometry"]))
        bbox = item.get("bbox")
        if not bbox or len(bbox) not in (4, 6):
            return None
        half = len(bbox) // 2  # 3 where heights are among the numbers
        west, south, east, north = (float(edge) for edge in (*bbox[:2], *bbox[half : half + 2]))
        return mend(box(west, south, east if west <= east else east + 360, north))
    except (GEOSException, ValueError, TypeError, AttributeError):
        return None  # not a geometry at all: the pixel grid has to do


def _outline_of(fields: Mapping[str, Any]) -> Polygon | None:
    if fields.get("proj:geometry"):
        hull = shape(fields["proj:geometry"]).convex_hull
        return hull if isinstance(hull, Polygon) else None
    bbox = fields.get("proj:bbox")
    if bbox and len(bbox) == 4:
        return box(*bbox)
    size_px, transform = fields.get("proj:shape"), fields.get("proj:transform")
    if not size_px or not transform or len(size_px) != 2 or len(transform) < 6:
        return None
    height, width = size_px
    a, b, c, d, e, f = transform[:6]
    corners = ((0, 0), (width, 0), (width, height), (0, height))
    return Polygon([(a * x + b * y + c, d * x + e * y + f) for x, y in corners])


@cache
def _to_degrees(crs: str) -> Transformer:
    return Transformer.from_crs(crs, "EPSG:4326", always_xy=True)
