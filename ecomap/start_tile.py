"""What a sequence begins with: a user's image, a tile of a dataset, or one that was generated.

A start needs a place and a month. A GeoTIFF brings its place, a record or a tile of a dataset both;
an image without georeferencing gets them from the user.
"""

import math
from collections.abc import Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ecomap.card import BundleCard
from ecomap.climate import known_variables
from ecomap.errors import DataError, RequestError
from ecomap.imagery import FrameReader, read_image
from ecomap.normals import SOURCE, footprint_of, normal_fields, open_normals
from ecomap.request import read_record
from ecomap.schema import CLIMATE, TileRecord, make_record, parse_land_cover, read_dataset, unique
from ecomap.sequence import USER_SOURCE
from ecomap.start_image import read_start_image
from ecomap.starts import Start, merge_starts

NO_MASK = Path("-")
"""Stands for no mask, where a later start has one."""

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
    """Read one month of a start, and say what was assumed of it.

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
        DataError: If a file is missing, damaged or has other bands, or a grid is not north up.
        RequestError: If place or month are missing, or contradict each other.
    """
    notes: list[str] = []
    if not source.suffix and not source.exists():
        raise DataError(
            f"{source} does not exist. Check the path; a dataset of Blue Marble is made by 'ecomap "
            "data import bluemarble'."
        )
    if source.is_dir():
        record, image = _of_dataset(source, tile_id)
    elif source.suffix.lower() == ".json":
        record = read_record(source)
        image = _of_record(source, record)
    else:
        image, fields, notes = read_start_image(source)
        record = _described(source, image, _placed(source, fields, lat, lon, card), month)
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
            f"from {card.ground_sampling_distance_m:g} m and will treat it as such. Use a model or "
            "an adapter (--adapter) of that scale; frames mean little otherwise."
        )
    return Start(record=record, image=image, hidden=_mask(hidden, image.shape[:2])), notes


def open_starts(
    sources: Sequence[Path],
    *,
    card: BundleCard,
    months: Sequence[str] = (),
    tiles: Sequence[str] = (),
    hidden: Sequence[Path | None] = (),
    lat: float | None = None,
    lon: float | None = None,
    land_cover: str | int | None = None,
) -> tuple[Start, list[str]]:
    """Read a start of one or several months: each shows what those before it do not.

    Args:
        sources: As of `open_start`, the preferred first; one folder may stand for all ``tiles``.
        card: Of the model.
        months: ``YYYY-MM`` of each, in their order; those that tell it themselves may come last.
        tiles: Tile of each that is a dataset.
        hidden: Mask of each; `NO_MASK` or ``None`` for none.
        lat: As of `open_start`; likewise below.
        lon: Degrees east.
        land_cover: IGBP class.

    Returns:
        The start and notes.

    Raises:
        DataError: As of `open_start`, or if nothing is shown.
        RequestError: If a start lacks its place or month, there are more words than starts, or the
            starts do not lie on one grid.
    """
    sources = [*sources] * (len(tiles) if len(sources) == 1 and tiles else 1)
    words = {"start-month": months, "tile": tiles, "hidden": hidden}
    for name, given in words.items():
        if len(given) > len(sources):
            raise RequestError(
                f"--{name} is given {len(given)} times and there are {len(sources)} starts. Give "
                "it once a start, in their order."
            )
    notes: list[str] = []
    starts = []
    rows = zip_longest(sources, months, tiles, (m if m != NO_MASK else None for m in hidden))
    for source, month, tile, mask in rows:
        start, told = open_start(
            source, card=card, month=month, lat=lat, lon=lon, land_cover=land_cover, tile_id=tile,
            hidden=mask,
        )  # fmt: skip
        starts.append(start)
        notes += told
    merged = merge_starts(starts)
    if not merged.valid.any():
        names = ", ".join(str(source) for source in sources)
        raise DataError(f"{names}: nothing is shown; all pixels are black or hidden.")
    for number, record in enumerate(merged.others, 1):
        share = float(merged.shows(number).mean())
        notes.append(f"{share:.0%} of the start are of {record.month}.")
    if (share := 1 - float(merged.valid.mean())) > 0:
        notes.append(f"{share:.0%} of the start are missing or hidden, and are made up.")
    return merged, unique(notes)


def with_normals(record: TileRecord) -> TileRecord:
    """A record that has the normals of its place where it knows no climate of a variable.

    One that knows another variable keeps the kind of its climate; its source names what is filled,
    which gets no normals: a month that equals them would count as one without an anomaly, and of
    that nothing is known.
    """
    where = (record.lat, record.lon, footprint_of(record))
    climate = open_normals().climate(*where)
    found = normal_fields(climate, record.month_index)
    lacking = [name for name in climate if getattr(record, name) is None]
    is_bare = not known_variables([record])
    suffixes = ("", "_history", "_normals") if is_bare else ("", "_history")
    update = {f"{n}{suffix}": found[f"{n}{suffix}"] for n in lacking for suffix in suffixes}
    if is_bare:
        update |= {"climate_kind": "normal", "climate_source": SOURCE}
    elif lacking:
        words = ", ".join(CLIMATE[name].short for name in lacking)
        own = record.climate_source or "not stated"
        update["climate_source"] = f"{own}; from {SOURCE}: {words}"
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


def _placed(
    path: Path,
    fields: dict[str, Any] | None,
    lat: float | None,
    lon: float | None,
    card: BundleCard,
) -> dict[str, Any]:
    """What a picture tells of its place, or the user in its stead."""
    if fields is not None:
        return fields
    if lat is None or lon is None:
        raise RequestError(
            f"{path} has no georeferencing that tells where it is. Give --lat and --lon of its "
            "centre."
        )
    metres = card.ground_sampling_distance_m
    return {"lat": lat, "lon": lon, "ground_sampling_distance_m": metres}


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
        "source": USER_SOURCE, "location_id": path.stem, "month": month, "width_px": width,
        "height_px": height, "license": "the owner's of the start image",
    }  # fmt: skip
    return make_record(about | fields, where=f"The start {path}")


def _mask(path: Path | None, size: tuple[int, ...]) -> NDArray[np.bool_] | None:
    """Hidden pixels of a mask file."""
    if path is None:
        return None
    if not path.exists():
        raise DataError(f"{path} does not exist. Check the path.")
    hidden = np.asarray(read_image(path).any(-1))
    if hidden.shape != tuple(size):
        raise DataError(
            f"{path} is {hidden.shape[1]} x {hidden.shape[0]} px and the start "
            f"{size[1]} x {size[0]}. Expected the same size."
        )
    return hidden
