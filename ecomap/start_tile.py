"""What a sequence begins with: a user's image, a tile of a dataset, or one that was generated.

A start needs a place and a month. A GeoTIFF brings its place, a record or a tile of a dataset both;
an image without georeferencing gets them from the user.
"""

import math
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.errors import RasterioIOError
from rasterio.warp import transform as warp

from ecomap.card import BundleCard
from ecomap.errors import DataError, RequestError
from ecomap.imagery import GEOTIFF_SUFFIXES, FrameReader, read_image
from ecomap.normals import KM_PER_DEG, footprint_of, open_normals
from ecomap.outputs import unplaced
from ecomap.request import place_record, read_record
from ecomap.schema import TileRecord, make_record, parse_land_cover, read_dataset
from ecomap.starts import Start

SIZE_TOLERANCE = 1.5
"""Ratio of pixel sizes from which on a start is said to be of another scale than the model's."""


def open_start(
    source: Path,
    *,
    card: BundleCard,
    month: str | None = None,
    lat: float | None = None,
    lon: float | None = None,
    land_cover: str | int | None = None,
    tile_id: str | None = None,
    hidden: Path | None = None,
) -> tuple[Start, list[str]]:
    """Read a start, and say what was assumed of it.

    Args:
        source: GeoTIFF, PNG or JPEG; JSON of a record; or the folder of a dataset.
        card: Of the model, for notes on scale.
        month: ``YYYY-MM`` of the image; needed where no record tells it.
        lat: Degrees north of its centre; needed where neither file nor record tells it.
        lon: Degrees east.
        land_cover: IGBP class; by default the record's, or that of the place.
        tile_id: Tile of a dataset.
        hidden: Image of one band, not 0 where the start is not to be believed, such as clouds.

    Returns:
        The start, whose record has normals of the place where it had no climate, and notes.

    Raises:
        DataError: If a file is missing, damaged or has other bands.
        RequestError: If place or month are missing, or contradict each other.
    """
    if source.is_dir():
        record, image = _of_dataset(source, tile_id)
    elif source.suffix.lower() == ".json":
        record = read_record(source)
        image = _of_record(source, record)
    else:
        image, fields = _of_file(source, lat, lon, card)
        record = _described(source, image, fields, month)
    notes = []
    given = {"month": month, "lat": lat, "lon": lon}
    for name, value in given.items():
        if value is not None and not _same(getattr(record, name), value):
            raise RequestError(
                f"{source} is of {name} {getattr(record, name)}, not {value}. Leave out --"
                f"{'start-month' if name == 'month' else name}, or give another start."
            )
    if land_cover is not None:
        record = record.model_copy(update={"land_cover": parse_land_cover(land_cover)})
    record = with_normals(record)
    ratio = record.ground_sampling_distance_m / card.ground_sampling_distance_m
    if not 1 / SIZE_TOLERANCE < ratio < SIZE_TOLERANCE:
        notes.append(
            f"The start has pixels of {record.ground_sampling_distance_m:g} m; {card.name} learnt "
            f"from {card.ground_sampling_distance_m:g} m and will treat it as such."
        )
    start = Start(record=record, image=image, hidden=_mask(hidden, image.shape[:2]))
    if not start.valid.any():
        raise DataError(f"{source} shows nothing: all of its pixels are black or hidden.")
    if (share := 1 - float(start.valid.mean())) > 0:
        notes.append(f"{share:.0%} of the start are missing or hidden, and are made up.")
    return start, notes


def generated_record(
    lat: float, lon: float, month: str, card: BundleCard, land_cover: str | int | None = None
) -> TileRecord:
    """Record of a start that is to be generated, under the normals of its place."""
    return place_record(lat, lon, month, bundle_card=card, land_cover=land_cover)


def with_normals(record: TileRecord) -> TileRecord:
    """A record that has the normals of its place where it knows no climate of a variable."""
    where = (record.lat, record.lon, footprint_of(record))
    update: dict[str, Any] = {}
    for name, values in open_normals().climate(*where).items():
        if getattr(record, name) is None:
            update[name] = float(values[record.month_index])
            update[f"{name}_history"] = tuple(np.roll(values, -record.month_index).tolist())
            update["climate_kind"] = "normal"
            update["climate_source"] = record.climate_source or open_normals().attribution
        if getattr(record, f"{name}_normals") is None:
            update[f"{name}_normals"] = tuple(values.tolist())
    if record.land_cover is None:
        update["land_cover"] = open_normals().land_cover(*where)
    if record.land_frac is None:
        update["land_frac"] = open_normals().land_frac(*where)
    return record.model_copy(update=update)


def _same(own: Any, given: Any) -> bool:
    """Whether a user's word agrees with a record's."""
    if isinstance(own, float):
        return math.isclose(own, float(given), abs_tol=0.05)
    return bool(own == given)


def _of_dataset(folder: Path, tile_id: str | None) -> tuple[TileRecord, NDArray[np.uint8]]:
    """A tile of a dataset by its name."""
    records = {record.tile_id: record for record in read_dataset(folder)}
    if tile_id is None or tile_id not in records:
        some = ", ".join(list(records)[:3])
        raise RequestError(
            f"{folder} is a dataset of {len(records)} tiles and has no tile {tile_id!r}. Name one "
            f"of them with --tile, such as {some}."
        )
    return records[tile_id], FrameReader(folder).read(records[tile_id])


def _of_record(path: Path, record: TileRecord) -> NDArray[np.uint8]:
    """The image that a record names, beside its file."""
    if record.image_path is None:
        raise DataError(
            f"{path} names no image (image_path). Give the image itself, or a dataset and --tile."
        )
    image = FrameReader(path.parent).read(record)
    return np.asarray(image)


def _of_file(
    path: Path, lat: float | None, lon: float | None, card: BundleCard
) -> tuple[NDArray[np.uint8], dict[str, Any]]:
    """Pixels of a picture and what it says of its place."""
    if path.suffix.lower() in GEOTIFF_SUFFIXES:
        found = _of_geotiff(path)
        if found is not None:
            return found
    image = read_image(path)
    if lat is None or lon is None:
        raise RequestError(
            f"{path} has no georeferencing that tells where it is. Give --lat and --lon of its "
            "centre."
        )
    metres = card.ground_sampling_distance_m
    return image, {"lat": lat, "lon": lon, "ground_sampling_distance_m": metres}


def _of_geotiff(path: Path) -> tuple[NDArray[np.uint8], dict[str, Any]] | None:
    """Pixels and place of a GeoTIFF; ``None`` where it has no place."""
    try:
        with unplaced(), rasterio.open(path) as file:
            if file.count not in (3, 4) or file.dtypes[0] != "uint8":
                raise DataError(
                    f"{path} has {file.count} bands of {file.dtypes[0]}. Expected red, green and "
                    "blue as 8-bit display values; tiles of digital numbers are read from their "
                    "dataset (--start FOLDER --tile ID)."
                )
            if file.crs is None or file.transform.is_identity:
                return None
            image = np.moveaxis(file.read((1, 2, 3)), 0, -1)
            image[file.dataset_mask() == 0] = 0
            x, y = file.transform @ (file.width / 2, file.height / 2)
            (lon,), (lat,) = warp(file.crs, "EPSG:4326", [x], [y])
            in_degrees = file.crs.is_geographic
            metres = abs(file.transform.e) * (KM_PER_DEG * 1000 if in_degrees else 1.0)
            placed = file.crs.to_string(), tuple(file.transform)[:6]
    except RasterioIOError as error:
        raise DataError(f"{path} cannot be read as a GeoTIFF: {error}. Restore the file.") from None
    crs, transform = placed
    return image, {
        "lat": lat, "lon": lon, "ground_sampling_distance_m": metres, "crs": crs,
        "transform": transform,
    }  # fmt: skip


def _described(
    path: Path, image: NDArray[np.uint8], fields: dict[str, Any], month: str | None
) -> TileRecord:
    """Record of a picture."""
    if month is None:
        raise RequestError(
            f"{path} does not tell the month that it shows. Give it (--start-month YYYY-MM)."
        )
    height, width = image.shape[:2]
    about = {
        "source": "user", "location_id": path.stem, "month": month, "width_px": width,
        "height_px": height, "license": "the owner's of the start image",
    }  # fmt: skip
    return make_record(about | fields, where=f"The start {path}")


def _mask(path: Path | None, size: tuple[int, ...]) -> NDArray[np.bool_] | None:
    """Hidden pixels of a mask file."""
    if path is None:
        return None
    hidden = np.asarray(read_image(path).any(-1))
    if hidden.shape != tuple(size):
        raise DataError(
            f"{path} is {hidden.shape[1]} x {hidden.shape[0]} px and the start "
            f"{size[1]} x {size[0]}. Expected the same size."
        )
    return hidden
