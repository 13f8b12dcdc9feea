"""Images that `ecomap generate` wrote, found again with the records that they were made of."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ecomap.errors import DataError
from ecomap.image_files import plain_stem
from ecomap.imagery import GEOTIFF_SUFFIXES
from ecomap.outputs import SYNTHETIC_MARK, read_provenance
from ecomap.schema import TileRecord, make_record
from ecomap.tiles import ScoredTile, tile_of

Provenance = dict[str, Any]
"""What `ecomap.outputs.complete_provenance` gave."""


@dataclass(frozen=True, kw_only=True)
class GeneratedImages:
    """Generated images of a folder."""

    names: Sequence[str]
    """Path of each, relative to the folder."""
    tiles: Sequence[ScoredTile]
    left: Sequence[str]
    """Images without provenance, such as contact sheets."""
    notes: tuple[str, ...]


def find_generated(folder: Path, images: Sequence[str]) -> GeneratedImages | None:
    """Find the images of a folder that `ecomap generate` wrote; ``None`` if there are none.

    An image with the mark of generated ones is known by the JSON beside it, else by what it carries
    inside. A GeoTIFF beside a PNG of the same name is the same image. The first seed of a record
    has the key of the record, others have ``{key}#seed{seed}``; an image of a text alone has the
    key of its name.

    Args:
        folder: Folder.
        images: Paths of its images, relative to it.

    Raises:
        DataError: If a JSON file is damaged, or two requests are of one place and month, such as
            two climates: only one of them can be held against the real image.
        SchemaError: If a record breaks the contract.
    """
    found = {name: content for name in images if (content := _provenance(folder / name))}
    if not found:
        return None
    pngs = {plain_stem(name) for name in found if Path(name).suffix.lower() == ".png"}
    tifs = [name for name in found if Path(name).suffix.lower() in GEOTIFF_SUFFIXES]
    twins = {name for name in tifs if plain_stem(name) in pngs}
    names = [name for name in found if name not in twins]
    contents = {name: found[name] for name in names}
    records = {name: _record(folder / name, content) for name, content in contents.items()}
    keys = _keys(folder, contents, records)
    notes = []
    if twins:
        notes.append(f"{len(twins)} GeoTIFFs are the same images as the PNGs of their names.")
    if num_seeds := sum("#seed" in key for key in keys.values()):
        notes.append(
            f"{num_seeds} images are further seeds of a record: their keys end in #seed, and they "
            "pair with no real image."
        )
    return GeneratedImages(
        names=names,
        tiles=[_tile(keys[name], records[name], contents[name].get("prompt")) for name in names],
        left=[name for name in images if name not in found],
        notes=tuple(notes),
    )


def _provenance(path: Path) -> Provenance | None:
    """How a generated image was made, ``None`` where nothing says so."""
    if SYNTHETIC_MARK not in path.stem:
        return None
    beside = path.with_suffix(".json")
    if not beside.is_file():
        try:
            return read_provenance(path)
        except DataError:
            return None  # a contact sheet, or an image that another program saved anew
    try:
        content = json.loads(beside.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataError(
            f"{beside} is not readable JSON: {error}. Expected what 'ecomap generate' wrote; "
            "remove it, and the image's own copy is read."
        ) from None
    return content if isinstance(content, dict) and "record" in content else None


def _record(path: Path, content: Provenance) -> TileRecord | None:
    """Record of a generated image, ``None`` where it was made of a text alone."""
    fields = content["record"]
    if fields is None:
        return None
    return make_record({k: v for k, v in fields.items() if v is not None}, where=str(path))


def _keys(
    folder: Path,
    contents: Mapping[str, Provenance],
    records: Mapping[str, TileRecord | None],
) -> dict[str, str]:
    """Key of each image."""
    keys: dict[str, str] = {}
    first_of: dict[str, str] = {}
    for name in sorted(contents, key=lambda name: (contents[name].get("seed") or 0, name)):
        record = records[name]
        if record is None:
            keys[name] = plain_stem(name)
            continue
        first = first_of.setdefault(record.tile_id, name)
        if _request(contents[name]) != _request(contents[first]):
            raise DataError(
                f"{folder} has images of different requests for {record.tile_id}: {first} and "
                f"{name}. Expected one request for a place and month; move each climate to a "
                "folder of its own."
            )
        seed = "" if name == first else f"#seed{contents[name].get('seed')}"
        keys[name] = record.tile_id + seed
    return keys


def _request(content: Provenance) -> Provenance:
    """What was asked for, whatever the seed."""
    return {key: value for key, value in content.items() if key != "seed"}


def _tile(key: str, record: TileRecord | None, prompt: str | None) -> ScoredTile:
    """What is known of a generated image."""
    if record is None:
        return ScoredTile(key=key, caption=prompt)
    return replace(tile_of(record), key=key, caption=prompt)
