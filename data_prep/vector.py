"""Vector files of any CRS, as valid shapes in degrees; what is wrong with them is said, not mended.

A polygon that crosses itself has no certain inside, so it is refused with the place of the
crossing. Only what reprojection itself breaks (rounding, tears at the antimeridian) is put right.
"""

from collections.abc import Sequence
from pathlib import Path

import geopandas as gpd
import numpy as np
import shapely
from pyproj.exceptions import ProjError
from shapely.geometry import MultiPolygon, Point, Polygon
from shapely.geometry.base import BaseGeometry

from ecomap.errors import DataError

POLYGONS = ("Polygon", "MultiPolygon")
ROUNDING_DEG = 1e-6
"""Coordinates this far beyond the edge of the map (10 cm) are taken as lying on it."""
EDGE_PARTS = 100
"""Straight edges of a projected file are divided into pieces of at most this part of its extent, so
that they are where the file has them also in degrees."""


def read_layers(path: Path) -> list[gpd.GeoDataFrame]:
    """Read all layers of a vector file that have shapes, each in its own CRS.

    Raises:
        DataError: If the file is missing, damaged, empty, or does not say its CRS, or if a shape is
            missing or its coordinates cannot be of that CRS.
    """
    import pyogrio
    from pyogrio.errors import DataLayerError, DataSourceError

    if not path.exists():
        raise DataError(f"{path} does not exist. Check the path; it is relative to where you run.")
    try:
        if path.suffix in (".parquet", ".geoparquet"):
            frames = [gpd.read_parquet(path)]
        else:
            names = [name for name, kind in pyogrio.list_layers(path) if kind is not None]
            frames = [gpd.read_file(path, layer=name) for name in names]
    except (DataSourceError, DataLayerError, ValueError, OSError) as error:
        raise DataError(
            f"{path} cannot be read as a vector file: {error} Expected GeoJSON, GeoPackage, "
            "Shapefile or GeoParquet; open it in QGIS to see whether it is whole."
        ) from None
    frames = [
        frame.reset_index(drop=True)
        for frame in frames
        if isinstance(frame, gpd.GeoDataFrame) and len(frame)
    ]
    if not frames:
        raise DataError(f"{path} has no shapes. Save the layer again with at least one feature.")
    for frame in frames:
        _check_frame(frame, path)
    return frames


def read_polygons(path: Path) -> Polygon | MultiPolygon:
    """Read a vector file as one shape: the union of all polygons of all layers.

    Returns:
        Valid, EPSG:4326, split at +-180 degrees.

    Raises:
        DataError: If `read_layers` refuses the file, a shape is not a polygon or crosses itself.
    """
    return as_region([shape_in_degrees(frame, path) for frame in read_layers(path)])


def as_region(shapes: Sequence[BaseGeometry]) -> Polygon | MultiPolygon:
    """Union of polygons in degrees, without lines and points that a union may leave."""
    union = shapely.union_all([shapely.make_valid(shape) for shape in shapes])
    parts = [part for part in shapely.get_parts(union) if part.geom_type == "Polygon"]
    return parts[0] if len(parts) == 1 else MultiPolygon(parts)


def shape_in_degrees(frame: gpd.GeoDataFrame, path: Path) -> BaseGeometry:
    """Union of the polygons of one layer, EPSG:4326, split at +-180 degrees.

    Args:
        frame: Layer that `read_layers` gave, or rows of it.
        path: File, for messages.

    Raises:
        DataError: If a shape is not a polygon or crosses itself.
    """
    for number, shape in zip(frame.index + 1, frame.geometry, strict=True):
        if shape.geom_type not in POLYGONS:
            hint = " Give points as region.points." if "Point" in shape.geom_type else ""
            raise DataError(
                f"{path}: feature {number} is a {shape.geom_type}. A region is made of polygons; "
                f"buffer or polygonise it first.{hint}"
            )
        if not shape.is_valid:
            raise DataError(
                f"{path}: the polygon of feature {number} is not valid: "
                f"{shapely.is_valid_reason(shape)} (x y in the file's CRS). Mend it in QGIS with "
                "'Fix geometries', or in Python with shapely.make_valid, and look at the result: "
                "where a polygon crosses itself, its inside is not certain."
            )
    flat = gpd.GeoSeries(
        shapely.force_2d(frame.geometry.to_numpy()), index=frame.index, crs=frame.crs
    )
    return _from_degrees(flat, path) if frame.crs.is_geographic else _from_projected(flat, path)


def _check_frame(frame: gpd.GeoDataFrame, path: Path) -> None:
    """Refuse a layer without CRS, with missing shapes, or with coordinates of another CRS."""
    missing = np.flatnonzero(frame.geometry.isna() | frame.geometry.is_empty)
    if len(missing):
        raise DataError(
            f"{path}: feature {missing[0] + 1} has no shape ({len(missing)} of {len(frame)} have "
            "none). Delete such rows from the layer."
        )
    west, south, east, north = (float(value) for value in frame.total_bounds)
    extent = f"x {west:g} to {east:g}, y {south:g} to {north:g}"
    if frame.crs is None:
        raise DataError(
            f"{path} does not say its CRS (its coordinates: {extent}). In QGIS, set it with 'Assign"
            " projection' and save the layer as GeoPackage; of a Shapefile, keep the .prj file "
            "beside it."
        )
    largest_x, largest_y = max(abs(west), abs(east)), max(abs(south), abs(north))
    fits_degrees = largest_x <= 180 + ROUNDING_DEG and largest_y <= 90 + ROUNDING_DEG
    wrong = f"{path} has the wrong CRS: it says {frame.crs.name}"
    if not np.isfinite([west, south, east, north]).all():
        raise DataError(f"{path} has coordinates that are not numbers ({extent}). Save it again.")
    if frame.crs.is_geographic and not fits_degrees:
        raise DataError(
            f"{wrong}, in degrees, but its coordinates run over {extent}. Expected -180 to 180 and "
            "-90 to 90. Values in the thousands are metres: set the CRS that they are in. "
            "Longitudes of 180 to 360 must be brought to -180 to 180, and shapes split at 180."
        )
    if frame.crs.is_projected and fits_degrees:
        raise DataError(
            f"{wrong}, in metres or feet, but its coordinates run over {extent}, which looks like "
            "degrees. Set the CRS that they are in, probably EPSG:4326; do not reproject."
        )


def _from_degrees(series: gpd.GeoSeries, path: Path) -> BaseGeometry:
    """Shapes of a geographic CRS, none of whose edges may be taken in two ways."""
    for number, shape in zip(series.index + 1, series, strict=True):
        for ring in shapely.get_rings(shapely.get_parts(shape)):
            lon = shapely.get_coordinates(ring)[:, 0]
            step = np.abs(np.diff(lon))
            torn = np.flatnonzero((step > 180) & (step < 360 - ROUNDING_DEG))
            if len(torn):
                raise DataError(
                    f"{path}: an edge of feature {number} runs from longitude {lon[torn[0]]:g} to "
                    f"{lon[torn[0] + 1]:g}, more than half around the Earth. If it crosses the "
                    "antimeridian, split the polygon at 180 degrees (RFC 7946) or give "
                    "region.bbox with west > east; if not, add a vertex between the two."
                )
    shapes = series.to_crs("EPSG:4326").to_numpy()
    return as_region([shapely.transform(shape, _clip) for shape in shapes])


def _from_projected(series: gpd.GeoSeries, path: Path) -> BaseGeometry:
    """Shapes of a projected CRS, split where the antimeridian cuts them."""
    west, south, east, north = series.total_bounds
    pieces = series.segmentize(max(east - west, north - south, 1e-9) / EDGE_PARTS)
    try:
        degrees = pieces.to_crs("EPSG:4326")
    except ProjError as error:
        raise DataError(f"{path} cannot be brought to degrees: {error}. Check its CRS.") from None
    if not np.isfinite(degrees.total_bounds).all() or degrees.is_empty.any():
        raise DataError(
            f"{path} has the wrong CRS: x {west:g} to {east:g}, y {south:g} to {north:g} lie "
            f"outside the map of {series.crs.name}. Set the CRS that the coordinates are in."
        )
    poles = _poles(series.crs)
    shapes = []
    for flat, shape in zip(series, degrees, strict=True):
        holds = {name: pole is not None and flat.contains(pole) for name, pole in poles.items()}
        for part in shapely.get_parts(shape):
            shapes.append(_split(part, holds) if _is_torn(part) else part)
    return as_region([shapely.transform(shape, _clip) for shape in shapes])


def _split(part: Polygon, holds: dict[str, bool]) -> BaseGeometry:
    """A polygon that jumps over the antimeridian, in parts; with the poles that it holds."""
    import antimeridian

    return antimeridian.fix_polygon(
        part,
        fix_winding=True,
        force_north_pole=holds["north"],
        force_south_pole=holds["south"],
        great_circle=False,
    )


def _poles(crs: object) -> dict[str, Point | None]:
    """Where the poles lie on the map of a CRS; None where it does not show them."""
    found: dict[str, Point | None] = {}
    for name, lat in (("north", 90.0), ("south", -90.0)):
        x, y = gpd.GeoSeries([Point(0, lat)], crs="EPSG:4326").to_crs(crs).total_bounds[:2]
        found[name] = Point(x, y) if np.isfinite([x, y]).all() else None
    return found


def _is_torn(part: Polygon) -> bool:
    """Whether an edge jumps over the antimeridian; edges are short after `segmentize`."""
    return any(
        (np.abs(np.diff(shapely.get_coordinates(ring)[:, 0])) > 180).any()
        for ring in shapely.get_rings(part)
    )


def _clip(coordinates: np.ndarray) -> np.ndarray:
    """Coordinates on the map: rounding may have brought them a little beyond its edge."""
    return np.asarray(np.clip(coordinates, [-180, -90], [180, 90]))
