"""The tasks of a dataset: what each step does, for which places, and what decides its result.

Functions named ``do_...`` run on workers; they write files and return JSON values.
"""

import hashlib
import json
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from glob import glob
from pathlib import Path
from typing import Any

from data_prep import quality
from data_prep.cf_series import CfClimate, open_cf
from data_prep.climate_delta import DeltaModel
from data_prep.climate_series import read_series, write_series
from data_prep.imagery_task import fetch_tile
from data_prep.land_cover import fetch_land_cover
from data_prep.place import Place
from data_prep.power import Cell, cell_of, fetch_power
from data_prep.prep_config import (
    HOW_TO_ASK,
    HOW_TO_SEARCH,
    ClimateSettings,
    ImageryConfig,
    LandCoverConfig,
    PrepConfig,
    ScenarioConfig,
)
from data_prep.scene import Scene
from data_prep.scenes import SceneIndex
from data_prep.tasks import State, Task, digest_of, file_mark
from ecomap.imagery import read_image
from ecomap.schema import HISTORY_MONTHS

Result = tuple[State, str, dict[str, Any]]

IMAGES_FOLDER, CLIMATE_FOLDER = "images", "climate"
_opening = threading.Lock()
RULES = {"imagery": 1, "land_cover": 1, "climate": 1, "scenario": 1, "inspection": 1}
"""Raised for a step whenever the same inputs would give another result: old ones are made anew."""


def image_path(location_id: str, month: str) -> str:
    """Tile of a place and month, relative to the dataset's folder."""
    return f"{IMAGES_FOLDER}/{location_id}/{location_id}_{month}.tif"


def imagery_tasks(
    places: Sequence[Place], scenes: SceneIndex, config: PrepConfig
) -> Iterator[Task]:
    """One task a tile: a place in a month."""
    settings = config.imagery.model_dump(mode="json", exclude=HOW_TO_SEARCH)
    for place in places:
        for month in config.months:
            candidates = scenes.at(place, month)
            yield Task(
                "imagery",
                f"{place.location_id}/{month}",
                {
                    "place": place,
                    "month": month,
                    "scenes": candidates,
                    "folder": config.output,
                    "config": config.imagery,
                },
                [
                    RULES["imagery"],
                    position_of(place),
                    month,
                    [scene.item_id for scene in candidates],
                    settings,
                ],
            )


def do_imagery(
    *, place: Place, month: str, scenes: Sequence[Scene], folder: Path, config: ImageryConfig
) -> Result:
    """Choose the clearest scene of a month inside the tile, and write its bands."""
    path = image_path(place.location_id, month)
    found = fetch_tile(place, month, scenes, path=folder / path, config=config)
    result = found.to_dict()
    if found.state == "done":
        result |= {"path": path, "num_bytes": (folder / path).stat().st_size}
    return found.state, found.reason or "", result


def land_cover_tasks(places: Sequence[Place], config: PrepConfig) -> Iterator[Task]:
    """One task a place."""
    if config.land_cover.source == "none":
        return
    settings = config.land_cover.model_dump(mode="json", exclude=HOW_TO_ASK)
    marks = _marks(path for path in (config.land_cover.path, config.land_cover.url) if path)
    for place in places:
        inputs = {"place": place, "config": config.land_cover}
        decisive = [RULES["land_cover"], position_of(place), settings, marks]
        yield Task("land_cover", place.location_id, inputs, decisive)


def do_land_cover(*, place: Place, config: LandCoverConfig) -> Result:
    """Find what covers a tile."""
    found = fetch_land_cover(place, config)
    if config.url is not None:
        found = replace(found, source=f"{found.source} at {config.url}")
    state: State = "empty" if found.land_cover is None else "done"
    return state, "unknown" if state == "empty" else "", found.to_dict()


def climate_cells(places: Sequence[Place], config: PrepConfig) -> dict[str, Cell]:
    """Cell of the climate's own grid that each place lies in, by the place's id."""
    if config.climate.source == "none":
        return {}
    if config.climate.source == "cf":
        climate = _open_cf(config.climate, _key(config.climate.paths))
        found = [climate.cell_of(place.lat, place.lon) for place in places]
        cells = [Cell(cell_id=name, lat=lat, lon=lon) for name, lat, lon in found]
    else:
        cells = [cell_of(place.lat, place.lon) for place in places]
    return {place.location_id: cell for place, cell in zip(places, cells, strict=True)}


def climate_years(config: PrepConfig) -> tuple[int, int]:
    """First and last year of climate that records, their normals and their indices need."""
    window = max(HISTORY_MONTHS, config.climate.spi_months)
    year, month = int(config.first_month[:4]), int(config.first_month[5:])
    first = (12 * year + month - 1 - window) // 12
    last = max(config.climate.normals_last_year, int(config.last_month[:4]))
    before = -(-(config.climate.spi_months - 1) // 12)  # the first window of the reference period
    return min(config.climate.normals_first_year - before, first), last


def climate_tasks(cells: Mapping[str, Cell], config: PrepConfig) -> Iterator[Task]:
    """One task a cell: places that share one ask once."""
    years = climate_years(config)
    months = (config.first_month, config.last_month)
    settings = config.climate.model_dump(
        mode="json",
        exclude=HOW_TO_ASK | {"spi_months", "normals_first_year", "normals_last_year"},
    )
    decisive = [RULES["climate"], years, months, settings, _marks(config.climate.paths)]
    for name, cell in sorted({cell.cell_id: cell for cell in cells.values()}.items()):
        inputs = {"cell": cell, "years": years, "months": months}
        inputs |= {"folder": config.output, "config": config.climate}
        yield Task("climate", name, inputs, decisive)


def do_climate(
    *,
    cell: Cell,
    years: tuple[int, int],
    months: tuple[str, str],
    folder: Path,
    config: ClimateSettings,
) -> Result:
    """Fetch the series of a cell; it is whole when it knows every month that has imagery."""
    if config.source == "cf":
        with _opening:  # threads that come at once would each open the files
            climate = _open_cf(config, _key(config.paths))
        series = climate.series(cell.lat, cell.lon)
    else:
        series = fetch_power(cell, first_year=years[0], last_year=years[1], config=config)
        if config.url is not None:  # a mirror, or a stand-in for tests: records must say so
            series = replace(series, source=f"{series.source} at {config.url}")
    path = f"{CLIMATE_FOLDER}/{cell.cell_id}.json"
    (folder / CLIMATE_FOLDER).mkdir(exist_ok=True)
    write_series(folder / path, series)
    unknown = {name: list(some) for name, some in series.unknown_months(*months).items() if some}
    result = {"path": path, "num_bytes": (folder / path).stat().st_size}
    return "done", "", result | {"unknown_months": unknown, "is_whole": not unknown}


def scenario_tasks(cells: Mapping[str, Cell], config: PrepConfig) -> Iterator[Task]:
    """One task a scenario and cell."""
    distinct = sorted({cell.cell_id: cell for cell in cells.values()}.items())
    for scenario in config.scenarios:
        for name, cell in distinct:
            inputs = {"cell": cell, "scenario": scenario}
            marks = _marks([*scenario.historical_paths, *scenario.future_paths])
            decisive = [RULES["scenario"], scenario.model_dump(mode="json"), marks]
            yield Task("scenario", f"{scenario.name}/{name}", inputs, decisive)


def do_scenario(*, cell: Cell, scenario: ScenarioConfig) -> Result:
    """Monthly changes of climate of a cell between two periods of a climate model."""
    with _opening:
        key = _key([*scenario.historical_paths, *scenario.future_paths])
        model = _open_model(scenario, key)
        delta = model.delta_at(cell.lat, cell.lon)
    return "done", "", json.loads(delta.to_json())


def inspection_tasks(
    tiles: Mapping[str, Sequence[tuple[str, str]]], config: PrepConfig
) -> Iterator[Task]:
    """One task a place.

    Args:
        tiles: Place's id -> (month, SHA-256) of each of its tiles.
        config: Whose display range the frames are judged in.
    """
    shown = (config.display.black, config.display.white)
    for location_id, months in tiles.items():
        inputs = {
            "location_id": location_id,
            "months": list(months),
            "reflectance_range": shown,
            "folder": config.output,
        }
        decisive = [RULES["inspection"], list(map(list, months)), list(shown)]
        yield Task("inspection", location_id, inputs, decisive)


def do_inspection(
    *,
    location_id: str,
    months: Sequence[tuple[str, str]],
    reflectance_range: tuple[float, float],
    folder: Path,
) -> Result:
    """Look at the frames of a place as people and models will see them.

    A file that is not the one that was fetched, by its SHA-256, is listed as damaged.
    """
    inspector, damaged = quality.Inspector(), []
    for month, digest in months:
        path = folder / image_path(location_id, month)
        if not path.is_file() or hashlib.sha256(path.read_bytes()).hexdigest() != digest:
            damaged.append(month)
            continue
        image = read_image(path, reflectance_range)
        inspector.add(location_id, month, image)
    reports = inspector.close(location_id)
    measured = {
        month: {
            "flags": list(report.flags),
            "snow_frac": report.snow_frac,
        }
        for month, report in reports.items()
    }
    return "done", "", {"months": measured, "damaged": damaged, "is_whole": not damaged}


def position_of(place: Place) -> list[Any]:
    """What of a place decides its pixels."""
    return [place.crs, place.left, place.top, place.size_px, place.resolution_m]


def _marks(paths: Iterable[str | Path]) -> list[Any]:
    """Marks of those that are files or folders of this machine; patterns name several."""
    found = []
    for path in paths:
        if "://" not in str(path):
            matches = sorted(glob(str(path))) or [str(path)]
            found += [file_mark(Path(match)) for match in matches]
    return found


def _key(paths: Iterable[str]) -> str:
    """Tells opened files from those that replaced them."""
    return digest_of(_marks(paths))


@lru_cache(maxsize=1)
def _open_cf(config: ClimateSettings, key: str) -> CfClimate:
    """Climate files, opened once a process, and again when they changed."""
    return open_cf(config.paths, variables=dict(config.variables))


@lru_cache(maxsize=2)
def _open_model(scenario: ScenarioConfig, key: str) -> DeltaModel:
    """Files of a climate model, likewise."""
    return DeltaModel(scenario, variables=dict(scenario.variables))


def read_climate(folder: Path, cell_id: str) -> Any:
    """Series of a cell, or None where it was not fetched."""
    path = folder / CLIMATE_FOLDER / f"{cell_id}.json"
    return read_series(path) if path.is_file() else None
