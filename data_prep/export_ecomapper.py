"""Export to EcoMapper's tree: ``SET/PLACE/PLACE_YYYY-MM.png`` with a label of the same name.

Labels have all keys of EcoMapper's fullest generation (2017-2020), so that its readers and
`data_prep.ecomapper` read them. Sentences name the true units, mm/day and MJ/m2/day, and what
EcoMapper's labels have no place for stands under one key more, ``ecomap``. Three things differ in
meaning: climate is that of the calendar month everywhere, no climate zone is told, and the set is
the split, before the batch if the source has any.

Goktepe et al. (2025), EcoMapper: Generative Modeling for Climate-Aware Satellite Imagery, ICML
2025, PMLR 267.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from data_prep.ecomapper import NAME, TWIN_SUFFIX, Failure
from data_prep.export_files import (
    ExportResult,
    Frames,
    Journal,
    Progress,
    by_mosaic,
    caption_of,
    claim,
    encode_png,
    exported,
    json_text,
)
from ecomap.prompt import CLOUD_SCALE, MONTH_NAMES, WORD_SCALES, PromptChoice, write_prompt
from ecomap.schema import CLIMATE, TileRecord

NO_COUNTRY_CODE = "null"
"""What every label of EcoMapper has there, as text."""


def write_ecomapper(
    frames: Frames,
    records: Sequence[TileRecord],
    *,
    journal: Journal,
    progress: Progress | None = None,
) -> ExportResult:
    """Write every frame with its label.

    Tiles without land cover or cloud fraction, which every label must have, are left out
    (``no_land_cover``, ``no_cloud_frac``), and those with names that the tree cannot have
    (``bad_name``).

    Args:
        frames: Frames of the dataset.
        records: Tiles to export.
        journal: Finished files of the export's folder.
        progress: Called with (done, total) tiles.

    Raises:
        SchemaError: If two records would be the same file.
    """
    result = ExportResult()
    seen: dict[str, str] = {}
    for index, record in enumerate(by_mosaic(records)):
        path = tile_path(record)
        reason = _obstacle(record, path)
        if reason:
            result.dropped[reason] += 1
        else:
            claim(seen, path, record)
            _find_or_write(frames, record, path, journal=journal, result=result)
        if progress:
            progress(index + 1, len(records))
    return result


def tile_path(record: TileRecord) -> str:
    """Path of a frame in the tree: ``SPLIT/[BATCH/]PLACE/PLACE_YYYY-MM.png``."""
    name = f"{record.location_id}_{record.month}.png"
    return Path(record.split, record.batch, record.location_id, name).as_posix()


def _obstacle(record: TileRecord, path: str) -> str:
    """Why a record cannot be a tile of the tree; empty if it can."""
    match = NAME.fullmatch(Path(path).stem)
    folders = Path(path).parts[:-1]
    if (
        match is None
        or (match["id"], f"{match['year']}-{match['month']}") != (record.location_id, record.month)
        or any(part.endswith(TWIN_SUFFIX) or not re.fullmatch(r"[\w.-]+", part) for part in folders)
        or ".." in folders
    ):
        return "bad_name"
    if record.land_cover is None:
        return "no_land_cover"
    return "no_cloud_frac" if record.cloud_frac is None else ""


def _find_or_write(
    frames: Frames, record: TileRecord, path: str, *, journal: Journal, result: ExportResult
) -> None:
    """Write a frame and its label if they are not there; the label last."""
    digest = frames.digest(record)
    names = journal.find(path, digest)
    is_reused = names is not None
    if names is None:
        pixels = frames.read(record)
        if isinstance(pixels, Failure):
            result.fail(pixels)
            return
        label = json_text(make_label(record)) + "\n"
        contents = {
            path: encode_png(pixels, exported(record, path)),
            path.removesuffix(".png") + ".json": label.encode(),
        }
        names = journal.write(path, digest, contents)
    result.count(names, is_reused=is_reused)
    result.kept[record.split] += 1


def make_label(record: TileRecord) -> dict[str, Any]:
    """EcoMapper label of a record that has a land cover and a cloud fraction."""
    assert record.land_cover is not None
    head = write_prompt(record, PromptChoice(climate="none")).long
    sentence = caption_of(record).removeprefix(head).strip()
    short = write_prompt(record, PromptChoice()).short
    short_head = write_prompt(record, PromptChoice(climate="none")).short
    address = ", ".join(part for part in (record.state, record.country) if part)
    cloud_word = CLOUD_SCALE.word(record.cloud_frac or 0.0)
    words = {name: getattr(record, name) for name in CLIMATE}
    return {
        "type": record.land_cover.label,
        "country_code": NO_COUNTRY_CODE,
        "date": record.month,
        "center_coordinates": [record.lat, record.lon],
        "cloud_coverage": record.cloud_frac,
        "caption": caption_of(record),
        "spi": record.spi,
        "sti": record.sti,
        "caption_1": short,
        "caption_2": head,
        "caption_3": sentence,
        "caption_info": {
            "date": f"{MONTH_NAMES[record.month_index]}, {record.month[:4]}",
            "location_address": address if record.country else None,
            "landscape_type": record.land_cover.label,
            "cloud_info": cloud_word,
            "climate_str_1": sentence,
            "climate_str_2": short.removeprefix(short_head).strip(),
            "climate_str_3": [
                WORD_SCALES[name].word(value).lower()
                for name, value in words.items()
                if value is not None
            ],
        },
        "ecomap": _extra(record),
    }


def _extra(record: TileRecord) -> dict[str, Any]:
    """What EcoMapper's labels have no place for: exact values with units, and provenance."""
    own = record.model_dump(
        mode="json",
        include={
            *("source", "batch", "split", "state", "country", "climate_kind", "climate_source"),
            *("acquired", "scene_ids", "processing_baseline", "digital_number_offset"),
            *("ground_sampling_distance_m", "reflectance_range", "crs", "transform"),
            *("land_cover_frac", "land_cover_source", "flags", "license", "attribution"),
        },
    )
    return own | {
        "climate": {name: getattr(record, name) for name in CLIMATE},
        "climate_units": {name: variable.unit for name, variable in CLIMATE.items()},
        "climate_window": "calendar month",
    }
