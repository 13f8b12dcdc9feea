"""From what a user says of a place to the record that a model is told. No torch here."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ecomap.card import BundleCard
from ecomap.climate import Change, apply_changes, parse_change, values_alone
from ecomap.errors import DataError, RequestError
from ecomap.normals import KM_PER_DEG, SOURCE, footprint_of, normal_fields, open_normals
from ecomap.schema import CLIMATE, TileRecord, make_record, parse_land_cover

NOMINAL_YEAR = 2012
"""Year of a request that names a month only: the middle of the normals' 26 years."""


def place_record(
    lat: float,
    lon: float,
    month: str | int,
    *,
    bundle_card: BundleCard,
    temperature: str | None = None,
    precipitation: str | None = None,
    solar: str | None = None,
    land_cover: str | int | None = None,
) -> TileRecord:
    """Describe a place in a month under its normal or a changed climate.

    Args:
        lat: Centre, degrees north.
        lon: Centre, degrees east.
        month: ``YYYY-MM``, or a calendar month from 1 to 12.
        bundle_card: Whose image size, pixel size and grid the tile gets.
        temperature: Change such as ``+2`` or ``=21.5`` (`ecomap.climate.parse_change`).
        precipitation: Likewise, also ``x0.5``.
        solar: Likewise.
        land_cover: IGBP class; by default that of the place.

    Raises:
        RequestError: If a change is malformed or the place is not on Earth.
        SchemaError: If the month or the changed climate is impossible.
    """
    fields: dict[str, Any] = {"lat": lat, "lon": lon, "month": _full_month(month)}
    bare = make_record(fields | _tile_fields(lat, lon, bundle_card), where="The request")
    where = (bare.lat, bare.lon, footprint_of(bare))
    cover = open_normals().land_cover(*where)
    fields = bare.model_dump() | {
        "land_cover": cover if land_cover is None else parse_land_cover(land_cover),
        "land_frac": open_normals().land_frac(*where),
        "climate_kind": "normal",
        "climate_source": SOURCE,
        "cloud_frac": 0.0,
    }
    fields |= normal_fields(open_normals().climate(*where), bare.month_index)
    asked = {"temperature": temperature, "precipitation": precipitation, "solar": solar}
    return apply_changes(make_record(fields, where="The request"), parse_changes(asked))


def parse_changes(asked: Mapping[str, str | None]) -> dict[str, Change]:
    """Changes by climate variable, from texts by the variables' short names.

    Raises:
        RequestError: If a text is no change.
    """
    texts = {name: asked.get(variable.short) for name, variable in CLIMATE.items()}
    return {
        name: parse_change(text, CLIMATE[name]) for name, text in texts.items() if text is not None
    }


def known_to(record: TileRecord | None, card: BundleCard) -> TileRecord | None:
    """A record without what of its climate the bundle never saw: variables, and anomalies."""
    if record is None:
        return None
    unknown = set(CLIMATE) - set(card.trained_variables)
    gone = {f"{n}{suffix}": None for n in unknown for suffix in ("", "_history", "_normals")}
    told = record if card.trained_anomalies else values_alone(record)
    return told.model_copy(update=gone)


def _full_month(month: str | int) -> str:
    """``YYYY-MM`` of a month that may lack its year."""
    text = str(month)
    return (
        f"{NOMINAL_YEAR}-{int(text):02d}"
        if text.isdecimal() and text.isascii() and len(text) <= 2
        else text
    )


def _tile_fields(lat: float, lon: float, card: BundleCard) -> dict[str, Any]:
    """Grid of a tile around a place."""
    size, metres = card.image_size_px, card.ground_sampling_distance_m
    fields: dict[str, Any] = {
        "source": "request",
        "location_id": f"{lat:+.4f}{lon:+.4f}",
        "ground_sampling_distance_m": metres,
        "width_px": size,
        "height_px": size,
        "license": card.license or "see the bundle's card",
    }
    if not (-90 <= lat <= 90 and -180 <= lon <= 180):
        return fields
    if card.grid == "geographic":
        pixel = metres / 1000 / KM_PER_DEG
        if abs(lat) + pixel * size / 2 > 90:
            raise RequestError(
                f"A tile of {pixel * size:.1f} degrees at latitude {lat:g} reaches beyond the "
                f"pole. Choose one within {90 - pixel * size / 2:.1f} degrees of the equator."
            )
        left, top = lon - pixel * size / 2, lat + pixel * size / 2
        crs = "EPSG:4326"
    else:
        pixel = metres
        crs, x, y = _utm(lat, lon)
        left, top = round(x) - pixel * size / 2, round(y) + pixel * size / 2
    return fields | {"crs": crs, "transform": (pixel, 0.0, left, 0.0, -pixel, top)}


def _utm(lat: float, lon: float) -> tuple[str, float, float]:
    """UTM zone of a place and its position there, metres."""
    from rasterio.warp import transform

    zone = min(60, int((lon + 180) // 6) + 1)
    crs = f"EPSG:{(32600 if lat >= 0 else 32700) + zone}"
    xs, ys = transform("EPSG:4326", crs, [lon], [lat])
    return crs, xs[0], ys[0]


def read_record(path: Path) -> TileRecord:
    """Read a JSON file with the fields of one record, or with the record inside a provenance.

    Raises:
        DataError: If the file is missing or no JSON.
        SchemaError: If the record breaks the contract.
    """
    try:
        content = json.loads(path.read_text())
    except FileNotFoundError:
        raise DataError(f"{path} does not exist. Check the path.") from None
    except (OSError, ValueError) as error:
        raise DataError(f"{path} is not a readable JSON file: {error}.") from None
    if not isinstance(content, dict):
        raise DataError(f"{path} holds no JSON object. Expected the fields of one record.")
    if "record" in content and content["record"] is None:
        raise DataError(f"{path} tells of an image of a text, not of a place. Use its prompt.")
    fields = content["record"] if isinstance(content.get("record"), dict) else content
    return make_record({k: v for k, v in fields.items() if v is not None}, where=str(path))
