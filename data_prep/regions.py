"""Where tiles may lie: a file, a box, a country or points, as shapes in degrees.

Every region is a valid polygon in EPSG:4326 that is split at +-180 degrees. What cannot be
understood with certainty is refused with what to do about it. The outlines of countries that ship
are Natural Earth's at 1:110 million: good for a plan of a country, a few kilometres off at borders.
"""

import csv
import math
import re
import unicodedata
from difflib import get_close_matches
from pathlib import Path

import geopandas as gpd
import shapely
from shapely.geometry import MultiPolygon, Polygon, box

from data_prep.country_outlines import RESOURCE_PATH
from data_prep.prep_config import RegionConfig
from data_prep.vector import as_region, read_layers, read_polygons, shape_in_degrees
from ecomap.errors import DataError, RequestError

Point = tuple[str, float, float]
"""Id, degrees north, degrees east."""

NAME_COLUMNS = (
    "admin", "country", "country_name", "name_0", "cntry_name", "name_engl", "shapename",
    "name", "name_en", "name_long", "geounit", "other_names", "sovereignt",
)  # fmt: skip
"""Columns of names, in small letters: Natural Earth, GADM, Eurostat, geoBoundaries, Esri. The first
column that has the name decides: "Georgia" is a country before it is a state."""
CODE_COLUMNS = (
    "iso_a2", "iso_a3", "iso_a2_eh", "iso_a3_eh", "adm0_a3", "iso2", "iso3", "gid_0", "cntr_id",
    "iso3_code", "iso_cc", "shapegroup", "shapeiso",
)  # fmt: skip
LAT_COLUMNS = ("lat", "latitude")
LON_COLUMNS = ("lon", "lng", "long", "longitude")
ID_COLUMNS = ("id", "location_id")
SAFE_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,99}")
"""Names of files on every system; compared without regard to case, as some systems do."""


def read_region(config: RegionConfig) -> Polygon | MultiPolygon:
    """Shape of a region, EPSG:4326, valid, split at +-180 degrees.

    Args:
        config: A region by file, box or country; points have no shape, see `read_points`.

    Raises:
        DataError: If a file is missing or is not what it says.
        RequestError: If the box is impossible or the country is unknown.
    """
    if config.path is not None:
        return read_polygons(config.path)
    if config.bbox is not None:
        return _box(*config.bbox)
    if config.country is not None:
        return _country(config.country, config.countries_path or RESOURCE_PATH)
    raise RequestError(f"{config.points} holds points, which have no area. Use read_points.")


def read_points(path: Path) -> list[Point]:
    """Read centres of tiles.

    Args:
        path: CSV with columns ``lat`` and ``lon`` (degrees, EPSG:4326) and optionally ``id``, or a
            vector file of points in any stated CRS with an optional column ``id``. Without ids,
            places are named after their coordinates, so that further rows change no name.

    Returns:
        Id, latitude and longitude [-180, 180) of each point, in the order of the file.

    Raises:
        DataError: If the file is missing or damaged, or a row is out of range, a repetition, or has
            an id that cannot be the name of a file; the message names the row.
    """
    rows = _csv_rows(path) if path.suffix.lower() in (".csv", ".tsv", ".txt") else _shape_rows(path)
    points: list[Point] = []
    seen_ids: dict[str, str] = {}
    seen_places: dict[tuple[float, float], str] = {}
    for where, given_id, lat, lon in rows:
        _check_position(lat, lon, where)
        lon = -180.0 if lon == 180 else lon
        name = given_id or _name_of(lat, lon)
        if not SAFE_ID.fullmatch(name):
            raise DataError(
                f"{where}: the id {name!r} cannot be the name of a file. Use up to 100 letters, "
                "digits, '_' and '-', the first a letter or digit."
            )
        position = (round(lat, 5), round(lon, 5))
        earlier = seen_places.setdefault(position, where)
        if earlier is not where:
            raise DataError(
                f"{where} repeats the point ({lat:g}, {lon:g}) of {earlier}. Delete it."
            )
        earlier = seen_ids.setdefault(name.casefold(), where)
        if earlier is not where:
            raise DataError(f"{where} repeats the id {name!r} of {earlier}. Give each its own.")
        points.append((name, lat, lon))
    if not points:
        raise DataError(f"{path} has no points. Expected at least one row below the header.")
    return points


def _box(west: float, south: float, east: float, north: float) -> Polygon | MultiPolygon:
    """A box in degrees; west > east crosses the antimeridian."""
    text = f"bbox {west:g}, {south:g}, {east:g}, {north:g} (west, south, east, north)"
    if not (max(abs(west), abs(east)) <= 180 and max(abs(south), abs(north)) <= 90):
        raise RequestError(
            f"The {text} is not on Earth. Expected degrees, longitude from -180 to 180 and latitude"
            " from -90 to 90; coordinates in metres belong into a file with its CRS."
        )
    if south >= north:
        raise RequestError(
            f"The {text} is inverted: south {south:g} is not below north {north:g}. Swap them."
        )
    if west == east:
        raise RequestError(f"The {text} has no width. Give west and east that differ.")
    if west < east:
        return box(west, south, east, north)
    if east + 360 - west > 180:
        raise RequestError(
            f"The {text} has its west east of its east, and across the antimeridian it is "
            f"{east + 360 - west:g} degrees wide. Swap west and east."
        )
    halves = [(west, 180.0), (-180.0, east)]
    return as_region([box(a, south, b, north) for a, b in halves if a < b])


def _country(asked: str, path: Path) -> Polygon | MultiPolygon:
    """Outline of the country that has a name or code, in the shipped or the user's file."""
    names: dict[str, str] = {}
    found = []
    for layer in read_layers(path):
        columns = {str(name).lower(): name for name in layer.columns}
        if not set(columns) & set(NAME_COLUMNS):
            raise DataError(
                f"{path} has no column of names. Looked for {', '.join(NAME_COLUMNS)} (in any "
                f"case); it has {', '.join(map(str, layer.columns))}. Rename the right one to name."
            )
        for column in [name for name in (*NAME_COLUMNS, *CODE_COLUMNS) if name in columns]:
            cells = [_parts(cell) for cell in layer[columns[column]]]
            if column in NAME_COLUMNS:
                names |= {_key(part): part for parts in cells for part in parts}
            hits = [_key(asked) in map(_key, parts) for parts in cells]
            if any(hits):
                found.append(shape_in_degrees(layer[hits], path))
                break
    if found:
        return as_region(found)
    near = [names[key] for key in get_close_matches(_key(asked), names, n=3, cutoff=0.7)]
    guess = f" Did you mean {' or '.join(repr(name) for name in near)}?" if near else ""
    advice = "Give its English name or ISO code"
    if path == RESOURCE_PATH:
        advice += "; the outlines that ship leave out small countries: give countries_path then"
    raise RequestError(f"The country {asked!r} is not in {path.name}.{guess} {advice}.")


def _parts(cell: object) -> list[str]:
    """Names in a cell: several are separated by ``;``; -99 is Natural Earth's 'none'."""
    parts = cell.split(";") if isinstance(cell, str) else []
    return [part.strip() for part in parts if part.strip() and part.strip() != "-99"]


def _key(name: str) -> str:
    """A name without case, accents and punctuation.

    >>> _key("Côte d'Ivoire") == _key("cote d ivoire")
    True
    """
    plain = unicodedata.normalize("NFKD", name.casefold())
    letters = "".join(c if c.isalnum() else " " for c in plain if not unicodedata.combining(c))
    return " ".join(letters.split())


def _csv_rows(path: Path) -> list[tuple[str, str, float, float]]:
    """Where each row stands, its id (may be empty), latitude and longitude."""
    if not path.is_file():
        raise DataError(f"{path} does not exist. Expected a table with columns lat and lon.")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise DataError(f"{path} is not text in UTF-8. Save the table as 'CSV UTF-8'.") from None
    header, *lines = text.splitlines() or [""]
    delimiter = max(",;\t", key=header.count)
    reader = csv.DictReader([header, *lines], delimiter=delimiter)
    columns = {(name or "").strip().lower(): name for name in reader.fieldnames or ()}
    lat = next((columns[name] for name in LAT_COLUMNS if name in columns), None)
    lon = next((columns[name] for name in LON_COLUMNS if name in columns), None)
    if lat is None or lon is None:
        raise DataError(
            f"{path} has columns {list(columns)}. Expected lat and lon (or latitude and longitude),"
            " in degrees."
        )
    named = next((columns[name] for name in ID_COLUMNS if name in columns), None)
    rows = []
    for row in reader:
        where = f"{path}, line {reader.line_num}"
        place = (_number(row[lat], "lat", where), _number(row[lon], "lon", where))
        rows.append((where, (row[named] or "").strip() if named else "", *place))
    return rows


def _number(text: str | None, column: str, where: str) -> float:
    try:
        return float(text or "")
    except ValueError:
        raise DataError(
            f"{where}: {column} is {text!r}. Expected degrees as a number with a decimal point."
        ) from None


def _shape_rows(path: Path) -> list[tuple[str, str, float, float]]:
    """The same of a vector file of points."""
    rows = []
    for layer in read_layers(path):
        columns = {str(name).lower(): name for name in layer.columns}
        named = next((columns[name] for name in ID_COLUMNS if name in columns), None)
        ids = layer[named] if named else [""] * len(layer)
        degrees: gpd.GeoSeries = layer.geometry.to_crs("EPSG:4326")
        for number, (name, shape) in enumerate(zip(ids, degrees, strict=True), start=1):
            where = f"{path}, feature {number}"
            if shape.geom_type != "Point":
                raise DataError(
                    f"{where} is a {shape.geom_type}, not a point. Give areas as region.path, and "
                    "split multipoints into points."
                )
            lon, lat = shapely.get_coordinates(shape)[0]
            rows.append((where, "" if name is None else str(name), float(lat), float(lon)))
    return rows


def _check_position(lat: float, lon: float, where: str) -> None:
    if math.isfinite(lat) and math.isfinite(lon) and abs(lat) <= 90 and abs(lon) <= 180:
        return
    hint = "Expected latitude from -90 to 90 and longitude from -180 to 180 degrees."
    if 90 < abs(lat) <= 180 and abs(lon) <= 90:
        hint = "Latitude and longitude look swapped: swap the two columns."
    elif abs(lat) > 360 or abs(lon) > 360:
        hint += " These look like metres: reproject to EPSG:4326, or give a file with its CRS."
    elif abs(lat) <= 90 and 180 < lon <= 360:
        hint += f" Subtract 360 from longitudes above 180: {lon - 360:g}."
    raise DataError(f"{where}: ({lat:g}, {lon:g}) is not a place on Earth. {hint}")


def _name_of(lat: float, lon: float) -> str:
    """Name of a point after its coordinates, to about a metre.

    >>> _name_of(-1.25, 36.8)
    's01_25000_e036_80000'
    """
    south, east = f"{abs(lat):08.5f}", f"{abs(lon):09.5f}"
    return (
        f"{'s' if lat < 0 else 'n'}{south.replace('.', '_')}_"
        f"{'w' if lon < 0 else 'e'}{east.replace('.', '_')}"
    )
