"""A made-up sequence for tests: a landscape that greens with warmth and whitens with frost."""

import hashlib
import warnings
from pathlib import Path

import numpy as np
import rasterio
from rasterio.errors import NotGeoreferencedWarning
from rasterio.transform import Affine

from ecomap.outputs import write_geotiff
from ecomap.schema import LandCover, TileRecord, make_record
from ecomap.sequence import SequenceFolder, SequencePlan, Timeline

SIZE_PX = 32
NORMALS_C = (-3.0, -1.0, 4.0, 9.0, 14.0, 17.0, 19.0, 18.5, 14.0, 9.0, 3.0, -2.0)
RAIN_MM_DAY = (1.0, 1.1, 1.6, 2.0, 2.9, 3.9, 3.7, 3.5, 2.6, 1.9, 1.8, 1.2)
SCENARIOS = (("normal", "Climate as it was", 0.0), ("plus_2c", "2 °C warmer", 2.0),
             ("plus_5c", "5 °C warmer", 5.0))  # fmt: skip
FIRST_MONTH = "2030-01"
STEP_MONTHS = 3


def write_sequence(
    folder: Path,
    *,
    georeferenced: bool = True,
    scenarios: int = 2,
    members: int = 2,
    months: int = 3,
    with_frames: bool = True,
) -> SequenceFolder:
    """A whole sequence: January, April, July ... of 32 x 32 px at 10 m in UTM zone 33 N.

    Without ``georeferenced`` the start has neither CRS nor transform, as a PNG has; without
    ``with_frames`` only the plan and the start are there.
    """
    plan = make_plan(
        georeferenced=georeferenced, scenarios=scenarios, members=members, months=months
    )
    sequence = SequenceFolder.create(folder, plan)
    write_start(sequence.start_path, plan.start)
    if with_frames:
        for scenario, member, record in sequence.frames():
            path = sequence.frame_path(scenario, member, record.month)
            provenance = {"scenario": scenario, "member": member, "bundle": {"name": "made"}}
            write_geotiff(path, landscape(record.temperature_c, member), record, provenance)
    return sequence


def make_plan(*, georeferenced: bool, scenarios: int, members: int, months: int) -> SequencePlan:
    """The plan of `write_sequence`."""
    start = make_start(georeferenced=georeferenced)
    asked = [month_after(FIRST_MONTH, STEP_MONTHS * step) for step in range(months)]
    timelines = tuple(
        Timeline(
            name=name,
            title=title,
            kind="delta" if change else "normal",
            records=tuple(make_month(start, month, change) for month in asked),
            facts={"temperature_c": change},
        )
        for name, title, change in SCENARIOS[:scenarios]
    )
    return SequencePlan(
        name="made",
        start=start,
        start_source="made.tif",
        start_sha256=hashlib.sha256(landscape(start.temperature_c, None).tobytes()).hexdigest(),
        timelines=timelines,
        members=members,
        seed=7,
        settings={"steps": 4, "guidance": 2.0, "chained": False},
        model={"bundle": {"name": "made", "sha256": "0" * 64, "license": "Apache-2.0"}},
        software={"ecomap": "0.1.0"},
        support={
            timeline.name: tuple(
                made_support(record, distance=0.5 + index)
                for index, record in enumerate(timeline.records)
            )
            for timeline in timelines
        },
        notes=("Made by a test.",),
    )


def make_start(*, georeferenced: bool = True) -> TileRecord:
    """Record of the start tile: July 2021 of a meadow in Styria."""
    place = {"crs": "EPSG:32633", "transform": (10.0, 0.0, 500600.0, 0.0, -10.0, 5205300.0)}
    fields = {
        "source": "made", "location_id": "meadow", "month": "2021-07", "lat": 47.0, "lon": 15.01,
        "ground_sampling_distance_m": 10.0, "width_px": SIZE_PX, "height_px": SIZE_PX,
        "land_cover": LandCover.GRASSLANDS, "temperature_c": 19.0, "precipitation_mm_day": 3.7,
        "temperature_c_normals": NORMALS_C, "precipitation_mm_day_normals": RAIN_MM_DAY,
        "climate_source": "made", "license": "CC0-1.0", "attribution": "nobody",
    }  # fmt: skip
    return make_record(fields | (place if georeferenced else {}), where="test")


def make_month(start: TileRecord, month: str, change_c: float) -> TileRecord:
    """The start's place in another month, so much warmer than its normals."""
    index = int(month[5:]) - 1
    before = [(index + step) % 12 for step in range(12)]
    climate = {
        "month": month,
        "climate_kind": "observed",
        "temperature_c": NORMALS_C[index] + change_c,
        "precipitation_mm_day": RAIN_MM_DAY[index],
        "temperature_c_history": tuple(NORMALS_C[i] + change_c for i in before),
        "precipitation_mm_day_history": tuple(RAIN_MM_DAY[i] for i in before),
        "climate_source": f"normals {change_c:+g} °C",
    }
    return make_record(start.model_dump(mode="python") | climate, where="test")


def landscape(temperature_c: float, member: int | None) -> np.ndarray:
    """Image of that warmth, uint8 ``(32, 32, 3)``: greener when warm, snow from the north in frost.

    Members differ by a few grey levels; ``None`` is the start, which is no member.
    """
    rows, columns = np.mgrid[0:SIZE_PX, 0:SIZE_PX] / SIZE_PX
    relief = 0.5 + 0.3 * np.sin(7 * columns + 3 * rows**2) + 0.2 * np.cos(11 * rows)
    green = np.clip(temperature_c / 20, 0, 1)
    bare, meadow = np.array([150.0, 120.0, 90.0]), np.array([60.0, 115.0, 45.0])
    image = ((1 - green) * bare + green * meadow) * (0.7 + 0.4 * relief[..., None])
    image[rows < -temperature_c / 6] = (235, 238, 242)
    if member is not None:
        image += np.random.default_rng(member).normal(0, 2, image.shape)
    return np.clip(np.rint(image), 1, 255).astype(np.uint8)


def made_support(record: TileRecord, *, distance: float) -> dict:
    """`ecomap.support.SupportResult.to_dict` of a month; outside beyond 2 spreads."""
    return {
        "month": record.month, "land_cover": "Grasslands", "is_known_land_cover": True,
        "distance": distance, "percentile": min(100.0, 40 * distance), "threshold": 2.0,
        "is_outside": distance > 2,
        "nearest": {"lat": 46.0, "lon": 14.0, "month": 7, "land_cover": "Grasslands"},
        "worst": {
            "name": "temperature_c", "label": "Temperature", "unit": "°C",
            "asked": record.temperature_c, "nearest": record.temperature_c - 4 * distance,
            "spreads": distance,
        },
        "missing": [], "left_out": [],
    }  # fmt: skip


def write_start(path: Path, record: TileRecord) -> None:
    """The start tile: a real image, hence without the marks of generated ones."""
    image = np.moveaxis(landscape(record.temperature_c, None), -1, 0)
    place = (
        {}
        if record.crs is None or record.transform is None
        else {"crs": record.crs, "transform": Affine(*record.transform)}
    )
    profile = {"driver": "GTiff", "count": 3, "dtype": "uint8", "photometric": "RGB"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        with rasterio.open(path, "w", width=SIZE_PX, height=SIZE_PX, **profile, **place) as file:
            file.write(image)


def month_after(month: str, count: int) -> str:
    """``YYYY-MM`` that many months later."""
    total = 12 * int(month[:4]) + int(month[5:]) - 1 + count
    return f"{total // 12:04d}-{total % 12 + 1:02d}"
