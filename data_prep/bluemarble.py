"""Import windows of NASA's Blue Marble Next Generation: a year of cloud-free months of all land.

The mosaics lie on a geographic grid (1/15 degree, 7.4 km north-south), so a window's ground width
shrinks with latitude. They are monthly MODIS composites of 2004, not Sentinel-2.
"""

import filecmp
import json
import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from data_prep.quality import FLAGS, Inspector
from data_prep.splits import SplitConfig, assign_splits, leakage_report
from ecomap.errors import DataError, RequestError
from ecomap.imagery import read_image
from ecomap.indices import snow_fraction
from ecomap.normals import KM_PER_DEG, SOURCE, normal_fields, open_normals
from ecomap.schema import CLIMATE, TileRecord, make_record, write_dataset

WINDOW_PX = 128
LICENSE = "public domain"
ATTRIBUTION = "NASA Earth Observatory, Blue Marble Next Generation (Reto Stöckli)"
VOID_FILE = "void_blocks.json"
NO_VOIDS = "{path} is not there: no window was left out for void blocks of the mosaics."
MONTHS = tuple(f"2004-{month:02d}" for month in range(1, 13))

Box = tuple[int, int, int, int]


@dataclass(frozen=True, kw_only=True)
class BlueMarbleConfig:
    """Which windows are taken."""

    stride_px: int = 32
    """Distance between neighbouring windows; below `WINDOW_PX` they overlap."""
    min_land_frac: float = 0.25
    """Windows with less land are left out."""
    min_lat: float = -60.0
    """Windows that reach further south are left out: Antarctica has no months in the mosaic."""
    max_lat: float = 80.0
    """Windows that reach further north are left out: a geographic grid says nothing at a pole."""
    split: SplitConfig = field(
        default_factory=lambda: SplitConfig(test_frac=0.08, val_frac=0.03, seed=3)
    )


@dataclass(frozen=True, kw_only=True)
class ImportSummary:
    """What an import kept and what it dropped, with reasons."""

    output: Path
    kept: int
    dropped: dict[str, int]
    failures: list[str]
    flags: dict[str, int]
    """Kept frames by flag (`data_prep.quality`)."""
    report: dict[str, Any]
    notes: list[str]
    """What the reader must know."""

    def to_dict(self) -> dict[str, Any]:
        """JSON form."""
        return asdict(self) | {"output": str(self.output)}


def import_bluemarble(
    root: Path,
    output: Path,
    *,
    config: BlueMarbleConfig | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> ImportSummary:
    """Cut monthly mosaics into windows with land cover, normals and a spatial split.

    Args:
        root: Folder with ``2004-01.jpg`` to ``2004-12.jpg`` and, where parts of the mosaics are
            void, ``void_blocks.json`` (a list of ``row0, row1, col0, col1``).
        output: Dataset folder; the mosaics are copied into it.
        config: Which windows are taken.
        progress: Called with (done, total) positions.

    Raises:
        DataError: If a mosaic is missing, damaged, or of another size than the first.
    """
    config = config or BlueMarbleConfig()
    if config.stride_px < 1 or not 0 <= config.min_land_frac <= 1:
        raise RequestError(
            f"stride_px is {config.stride_px} and min_land_frac {config.min_land_frac:g}; a stride "
            "of at least 1 px and a fraction from 0 to 1 are needed."
        )
    shape = _copy_mosaics(root, output / "images")
    voids = _read_voids(root / VOID_FILE)
    kept, dropped = _choose_windows(shape, voids or [], config, progress)
    records = assign_splits([r for place in kept for r in _records(place, shape)], config.split)
    records = _measure(records, output)
    report = leakage_report(records)
    counts = Counter(flag for record in records for flag in record.flags)
    summary = ImportSummary(
        output=output,
        kept=len(records),
        dropped=dict(dropped),
        failures=[],
        flags={flag: counts[flag] for flag in FLAGS},
        report=report,
        notes=[] if voids is not None else [NO_VOIDS.format(path=root / VOID_FILE)],
    )
    content = {
        "kept": summary.kept,
        "dropped": summary.dropped,
        "flags": summary.flags,
        "notes": summary.notes,
        "split": asdict(config.split) | {"report": report},
        "attribution": [ATTRIBUTION, open_normals().attribution],
    }
    write_dataset(output, records, summary=content)
    return summary


def _copy_mosaics(root: Path, images: Path) -> tuple[int, int]:
    """Copy the twelve mosaics and return their common (height, width)."""
    images.mkdir(parents=True, exist_ok=True)
    shapes = set()
    for month in MONTHS:
        source, target = root / f"{month}.jpg", images / f"{month}.jpg"
        shapes.add(read_image(source).shape[:2])
        if not target.exists() or not filecmp.cmp(source, target, shallow=False):
            temporary = target.with_suffix(".tmp")
            shutil.copyfile(source, temporary)
            temporary.replace(target)
    if len(shapes) != 1:
        raise DataError(
            f"The mosaics in {root} have sizes {sorted(shapes)}. Expected one size for all months."
        )
    height, width = shapes.pop()
    if width != 2 * height:
        raise DataError(
            f"The mosaics in {root} are {width} x {height} px. Expected a global grid, twice as "
            "wide as high."
        )
    return height, width


def _read_voids(path: Path) -> list[Box] | None:
    """Void rectangles as (row0, row1, col0, col1); None where no file says which."""
    if not path.exists():
        return None
    try:
        boxes = json.loads(path.read_text())
        return [(int(b["row0"]), int(b["row1"]), int(b["col0"]), int(b["col1"])) for b in boxes]
    except (ValueError, LookupError, TypeError) as error:
        raise DataError(
            f"{path} is damaged ({error!r}). Expected a list of row0, row1, col0, col1."
        ) from None


def _choose_windows(
    shape: tuple[int, int],
    voids: list[Box],
    config: BlueMarbleConfig,
    progress: Callable[[int, int], None] | None,
) -> tuple[list[dict[str, Any]], Counter[str]]:
    """Positions that are land and not void, and why the others are not taken."""
    height, width = shape
    pixel_deg = 360 / width
    extent = WINDOW_PX * pixel_deg
    kept: list[dict[str, Any]] = []
    dropped: Counter[str] = Counter()
    rows = range(0, height - WINDOW_PX + 1, config.stride_px)
    for row in rows:
        if progress:
            progress(row // config.stride_px + 1, len(rows))
        lat = 90 - (row + WINDOW_PX / 2) * pixel_deg
        for column in range(0, width - WINDOW_PX + 1, config.stride_px):
            lon = -180 + (column + WINDOW_PX / 2) * pixel_deg
            land = open_normals().land_frac(lat, lon, (extent, extent))
            if lat - extent / 2 < config.min_lat:
                dropped["south of min_lat"] += len(MONTHS)
            elif lat + extent / 2 > config.max_lat:
                dropped["north of max_lat"] += len(MONTHS)
            elif land < config.min_land_frac:
                dropped["too little land"] += len(MONTHS)
            elif any(_touches(row, column, box) for box in voids):
                dropped["touches a void block"] += len(MONTHS)
            else:
                kept.append({"row": row, "column": column, "lat": lat, "lon": lon, "land": land})
    return kept, dropped


def _touches(row: int, column: int, box: Box) -> bool:
    """Whether a window shares a pixel with a rectangle."""
    row0, row1, column0, column1 = box
    return (
        row < row1 and row + WINDOW_PX > row0 and column < column1 and column + WINDOW_PX > column0
    )


def _records(place: dict[str, Any], shape: tuple[int, int]) -> list[TileRecord]:
    """The twelve records of a position; their climate is the normals of its land."""
    pixel_deg = 360 / shape[1]
    footprint = (WINDOW_PX * pixel_deg, WINDOW_PX * pixel_deg)
    row, column = place["row"], place["column"]
    where = (place["lat"], place["lon"], footprint)
    normals = {
        name: [round(float(v), CLIMATE[name].decimals + 1) for v in values]
        for name, values in open_normals().climate(*where).items()
    }
    fixed = {
        "source": "bluemarble",
        "location_id": f"r{row:04d}c{column:04d}",
        "lat": round(place["lat"], 6),
        "lon": round(place["lon"], 6),
        "ground_sampling_distance_m": round(pixel_deg * KM_PER_DEG * 1000, 1),
        "width_px": WINDOW_PX,
        "height_px": WINDOW_PX,
        "crs": "EPSG:4326",
        "transform": (
            pixel_deg, 0.0, -180 + column * pixel_deg, 0.0, -pixel_deg, 90 - row * pixel_deg
        ),
        "land_cover": open_normals().land_cover(*where),
        "land_frac": round(place["land"], 4),
        "climate_kind": "normal",
        "climate_source": SOURCE,
        "cloud_frac": 0.0,
        "window_px": (column, row, WINDOW_PX, WINDOW_PX),
        "license": LICENSE,
        "attribution": ATTRIBUTION,
    }  # fmt: skip
    records = []
    for index, month in enumerate(MONTHS):
        climate = normal_fields(normals, index)
        records.append(
            make_record(
                fixed | climate | {"month": month, "image_path": f"images/{month}.jpg"},
                where=f"window {fixed['location_id']} {month}",
            )
        )
    return records


def _measure(records: list[TileRecord], output: Path) -> list[TileRecord]:
    """Add flags and the fractions of snow and black, reading each mosaic once.

    The mosaics are free of cloud, so bright pixels are never taken for it.
    """
    inspector, snow, black = Inspector(), {}, {}
    for month in MONTHS:
        mosaic = read_image(output / "images" / f"{month}.jpg")
        for record in records:
            if record.month == month and record.window_px is not None:
                column, row, width, height = record.window_px
                frame = mosaic[row : row + height, column : column + width]
                snow[record.tile_id] = round(snow_fraction(frame), 4)
                black[record.tile_id] = round(float((frame.max(axis=-1) == 0).mean()), 4)
                inspector.add(record.place_id, record.tile_id, frame)
    reports = {
        key: report
        for place_id in {record.place_id for record in records}
        for key, report in inspector.close(place_id).items()
    }
    return [
        record.model_copy(
            update={
                "snow_frac": snow[record.tile_id],
                "nodata_frac": black[record.tile_id],
                "flags": reports[record.tile_id].flags,
            }
        )
        for record in records
    ]
