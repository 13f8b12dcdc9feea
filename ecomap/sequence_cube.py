"""A sequence as one array: CF-1.11 NetCDF, and the same Dataset as Zarr v3.

    image(scenario, member, band, time, y, x)   uint8, every generated frame
    start_image(band, y, x)                     uint8, the tile that everything begins with
    temperature_c(scenario, time) ...           the climate that was asked for
    outside_support(scenario, time)             whether that climate lies outside what was trained

Frames are read one at a time while the files are written, so that memory grows with the size of a
frame and not with the number of months.

Longer than the budget because the attributes that CF asks for stand beside what they describe.
"""

import json
import warnings
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ecomap.errors import DataError, RequestError
from ecomap.outputs import DIGITAL_SOURCE_TYPE, SYNTHETIC_MARK, SYNTHETIC_STATEMENT, replacing
from ecomap.schema import CLIMATE, TileRecord
from ecomap.sequence import SequenceFolder, SequencePlan
from ecomap.whole_folders import written_whole

if TYPE_CHECKING:
    import xarray as xr
    from pyproj import CRS

NETCDF_FILE = f"sequence{SYNTHETIC_MARK}.nc"
ZARR_FOLDER = f"sequence{SYNTHETIC_MARK}.zarr"

CONVENTIONS = "CF-1.11"
BANDS = ("red", "green", "blue")
IMAGE_DIMENSIONS = ("scenario", "member", "band", "time", "y", "x")
"""CF recommends that time, y and x come last."""
EPOCH = datetime(1970, 1, 1)
CHUNK_PX = 512
"""Largest side of a stored chunk."""

UDUNITS = {
    "temperature_c": "degC",
    "precipitation_mm_day": "mm day-1",
    "solar_radiation_mj_m2_day": "MJ m-2 day-1",
}
"""Units of `ecomap.schema.CLIMATE` as the UDUNITS library spells them."""


def write_cube(folder: SequenceFolder) -> list[Path]:
    """Write ``sequence_synth.nc`` and ``sequence_synth.zarr`` into the folder of a sequence.

    Where the start has no CRS and transform, or a rotated one, the axes count pixels and the
    tile's centre is given by latitude and longitude.

    Returns:
        The NetCDF file and the Zarr folder.

    Raises:
        DataError: If frames are missing, damaged or of another size than the start.
        RequestError: If the scenarios show different months.

    References:
        NetCDF Climate and Forecast (CF) Metadata Conventions 1.11, https://cfconventions.org
    """
    import dask

    folder.require_complete()
    require_same_months(folder.plan)
    dataset = open_cube(folder)
    stored = {name: {"zlib": True, "complevel": 4} for name in ("image", "start_image")}
    for name, encoding in stored.items():
        encoding["chunksizes"] = dataset[name].encoding["chunks"]
    netcdf, zarr = folder.path / NETCDF_FILE, folder.path / ZARR_FOLDER
    with dask.config.set(scheduler="synchronous"):  # one frame in memory at a time
        with replacing(netcdf) as temporary:
            dataset.to_netcdf(temporary, engine="h5netcdf", encoding=stored)
        with written_whole(zarr, replaces=("*",)) as temporary, warnings.catch_warnings():
            # Readers of Zarr v3 pass over the consolidated metadata if they do not know them.
            warnings.filterwarnings("ignore", message="Consolidated metadata is currently not")
            dataset.to_zarr(temporary, zarr_format=3, consolidated=True)
    return [netcdf, zarr]


def open_cube(folder: SequenceFolder) -> "xr.Dataset":
    """The Dataset of a whole sequence; frames are read when they are asked for.

    Returns:
        The variables that the module names, with the attributes that CF asks for.

    Raises:
        DataError: If the start tile is damaged or not of the size that the plan says.
    """
    import xarray as xr

    plan = folder.plan
    mapping = _grid_mapping(plan.start)
    place = {"grid_mapping": "crs"} if mapping else {}
    # A mapping that CF has no name for leaves it to latitude and longitude to say where this is.
    is_mapped = "grid_mapping_name" in mapping
    labels = "band" if is_mapped else "band lat lon"
    start = _checked(folder.read_start(), plan.start, folder.start_path)
    chunks = (min(CHUNK_PX, start.shape[0]), min(CHUNK_PX, start.shape[1]))
    dataset = xr.Dataset(attrs=_facts(plan))
    dataset["image"] = IMAGE_DIMENSIONS, _lazy_frames(folder), _image_attributes() | place
    dataset["start_image"] = ("band", "y", "x"), np.moveaxis(start, -1, 0), _start(plan) | place
    dataset["image"].encoding |= {
        "coordinates": f"scenario {labels}",
        "chunks": (1, 1, len(BANDS), 1, *chunks),
    }
    dataset["start_image"].encoding |= {"coordinates": labels, "chunks": (len(BANDS), *chunks)}
    if mapping:
        dataset["crs"] = (), np.int32(0), mapping
    dataset = dataset.assign(_climate(plan) | _support(plan))
    coordinates = _axes(plan) | _positions(plan.start)
    if not is_mapped:
        coordinates |= _centre(plan.start)
    dataset = dataset.assign_coords(coordinates)
    for name in dataset.coords:
        dataset[name].encoding["_FillValue"] = None  # coordinates have no gaps
    return dataset


def require_same_months(plan: SequencePlan) -> None:
    """Refuse scenarios that cannot stand side by side.

    Raises:
        RequestError: If they show different months.
    """
    first = plan.timelines[0]
    for other in plan.timelines[1:]:
        if other.months != first.months:
            raise RequestError(
                f"Scenario {other.name!r} shows {len(other.months)} months from "
                f"{other.months[0]}, {first.name!r} {len(first.months)} from {first.months[0]}. "
                "Expected the same months in all; make one sequence of each."
            )


def month_span(month: str) -> tuple[datetime, datetime]:
    """First moments (UTC) of a month and of the next one.

    Example:
        >>> [str(moment) for moment in month_span("2030-12")]
        ['2030-12-01 00:00:00', '2031-01-01 00:00:00']
    """
    start = datetime.strptime(month, "%Y-%m")
    return start, (start + timedelta(days=31)).replace(day=1)


def _lazy_frames(folder: SequenceFolder) -> Any:
    """All frames as a dask array ``(scenario, member, band, time, y, x)``, a block each."""
    import dask.array as da

    plan = folder.plan

    def read(block_id: tuple[int, ...]) -> NDArray[np.uint8]:
        timeline, member = plan.timelines[block_id[0]], block_id[1]
        month = timeline.months[block_id[3]]
        path = folder.frame_path(timeline.name, member, month)
        image = _checked(folder.read(timeline.name, member, month), plan.start, path)
        return np.moveaxis(image, -1, 0)[None, None, :, None]

    chunks = (
        *((1,) * count for count in (len(plan.timelines), plan.members)),
        (len(BANDS),),
        (1,) * len(plan.timelines[0].months),
        (plan.start.height_px,),
        (plan.start.width_px,),
    )
    meta = np.empty((0,) * len(chunks), np.uint8)
    frames: Callable[..., Any] = da.map_blocks  # dask does not type it
    return frames(read, chunks=chunks, dtype=np.uint8, meta=meta, name="frames")


def _checked(image: NDArray[np.uint8], start: TileRecord, path: Path) -> NDArray[np.uint8]:
    """An image that has the size of the start."""
    if image.shape[:2] != (start.height_px, start.width_px):
        raise DataError(
            f"{path} has {image.shape[0]} x {image.shape[1]} px. Expected {start.height_px} x "
            f"{start.width_px} px like the start; remove it and make it again."
        )
    return image


def _axes(plan: SequencePlan) -> dict[str, Any]:
    """Coordinates of scenario, member, time and band."""
    spans = [month_span(month) for month in plan.timelines[0].months]
    days = np.array([[(end - EPOCH) / timedelta(days=1) for end in span] for span in spans])
    time = {
        "standard_name": "time",
        "long_name": "middle of the month",
        "units": f"days since {EPOCH:%Y-%m-%d}",
        "units_metadata": "leap_seconds: none",
        "calendar": "standard",
        "axis": "T",
        "bounds": "time_bnds",
    }
    member = {
        "standard_name": "realization",
        "long_name": "member of the ensemble: the noise that an image begins with",
        "units": "1",
    }
    names = np.array([timeline.name for timeline in plan.timelines], dtype=object)
    titles = np.array([timeline.title for timeline in plan.timelines], dtype=object)
    seeds = plan.seed + np.arange(plan.members)
    return {
        "scenario": ("scenario", names, {"long_name": "climate scenario"}),
        "scenario_title": ("scenario", titles, {"long_name": "climate scenario in words"}),
        "member": ("member", np.arange(plan.members, dtype=np.int32), member),
        "seed": ("member", seeds, {"long_name": "seed of the noise"}),
        "time": ("time", days.mean(axis=1), time),
        "time_bnds": (("time", "bnds"), days),
        "band": ("band", np.array(BANDS, dtype=object), {"long_name": "display colour"}),
    }


def _positions(start: TileRecord) -> dict[str, Any]:
    """Centres of columns and rows in the start's CRS; their numbers where it has none."""
    columns, rows = np.arange(start.width_px), np.arange(start.height_px)
    crs = grid_crs(start)
    if crs is None or start.transform is None:
        words = {"units": "1", "comment": "The start has no coordinate system along its axes."}
        return {
            "y": ("y", rows, {"long_name": "row from the top"} | words),
            "x": ("x", columns, {"long_name": "column from the left"} | words),
        }
    a, _, c, _, e, f = start.transform
    attributes = {axis["axis"].lower(): axis for axis in crs.cs_to_cf()}
    return {
        "y": ("y", f + e * (rows + 0.5), attributes["y"]),
        "x": ("x", c + a * (columns + 0.5), attributes["x"]),
    }


def _centre(start: TileRecord) -> dict[str, Any]:
    """Latitude and longitude of the tile's centre as scalar coordinates."""
    return {
        "lat": ((), start.lat, {"standard_name": "latitude", "units": "degrees_north"}),
        "lon": ((), start.lon, {"standard_name": "longitude", "units": "degrees_east"}),
    }


def grid_crs(start: TileRecord) -> "CRS | None":
    """Coordinate system along whose axes a tile lies; ``None`` where that is not known."""
    from pyproj import CRS

    if start.crs is None or start.transform is None or start.transform[1] or start.transform[3]:
        return None
    return CRS.from_user_input(start.crs)


def _grid_mapping(start: TileRecord) -> dict[str, Any]:
    """Attributes of the grid mapping, for CF and (the last two) for GDAL; empty without a CRS."""
    crs = grid_crs(start)
    if crs is None or start.transform is None:
        return {}
    a, b, c, d, e, f = start.transform
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # what CF cannot say, crs_wkt does
        mapping = dict(crs.to_cf())
    wkt = {"crs_wkt": crs.to_wkt(), "spatial_ref": crs.to_wkt("WKT1_GDAL")}
    return mapping | wkt | {"GeoTransform": " ".join(f"{value!r}" for value in (c, a, b, f, d, e))}


def _climate(plan: SequencePlan) -> dict[str, Any]:
    """The climate that was asked for; a variable that no record has is left out."""
    found = {}
    for name, variable in CLIMATE.items():
        rows = [[getattr(record, name) for record in line.records] for line in plan.timelines]
        values = np.array(rows, dtype=np.float64)
        if np.isfinite(values).any():
            attributes = {
                "standard_name": variable.standard_name,
                "long_name": f"{variable.label} that was asked for",
                "units": UDUNITS[name],
                "cell_methods": "time: mean",
                "coordinates": "scenario",
            }
            if variable.unit == "°C":
                attributes["units_metadata"] = "temperature: on_scale"
            found[name] = (("scenario", "time"), values, attributes)
    return found


def _support(plan: SequencePlan) -> dict[str, Any]:
    """Whether the climate of each month lies outside what the model was trained on."""
    lines = [plan.support.get(line.name, (None,) * len(line.months)) for line in plan.timelines]
    flags = [[-1 if fact is None else int(fact["is_outside"]) for fact in line] for line in lines]
    attributes = {
        "long_name": "whether the climate lies outside what the model was trained on",
        "flag_values": np.array([-1, 0, 1], np.int8),
        "flag_meanings": "not_known inside outside",
        "coordinates": "scenario",
    }
    return {"outside_support": (("scenario", "time"), np.array(flags, np.int8), attributes)}


def _image_attributes() -> dict[str, Any]:
    """What the generated frames say about themselves."""
    return {
        "long_name": "generated image in display values",
        "units": "1",
        "valid_range": np.array([0, 255], np.uint8),
        "comment": SYNTHETIC_STATEMENT,
        "synthetic": "true",
        "digital_source_type": DIGITAL_SOURCE_TYPE,
        "ancillary_variables": "outside_support",
    }


def _start(plan: SequencePlan) -> dict[str, Any]:
    """What the start tile says about itself."""
    return {
        "long_name": f"start tile of {plan.start_words} in display values",
        "units": "1",
        "source": plan.start_source,
        "synthetic": str(plan.start_is_synthetic).lower(),
        "license": plan.start.license,
        "sha256": plan.start_sha256,
    }


def _facts(plan: SequencePlan) -> dict[str, Any]:
    """Global attributes: what CF asks for, the marks of generated images, and how it was made."""
    made = plan.model_dump(mode="json", exclude={"timelines", "support"})
    scenarios = {
        line.name: line.model_dump(mode="json", exclude={"records", "name"})
        for line in plan.timelines
    }
    return {
        "Conventions": CONVENTIONS,
        "title": f"{plan.name}: generated images of one place under {len(scenarios)} "
        f"scenario{'' if len(scenarios) == 1 else 's'}",
        "source": f"generated by ecomap {plan.software.get('ecomap', '')}".strip(),
        "history": "Written by ecomap evolve.",
        "comment": SYNTHETIC_STATEMENT,
        "synthetic": "true",
        "digital_source_type": DIGITAL_SOURCE_TYPE,
        "start_license": plan.start.license,
        "start_attribution": plan.start.attribution,
        "ecomap_plan": json.dumps(made, ensure_ascii=False),
        "ecomap_scenarios": json.dumps(scenarios, ensure_ascii=False),
    }
