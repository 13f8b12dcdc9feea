"""Data preparation beside the straightforward loop, in one run on one machine.

    python -m benchmarks.prep --quick
    python -m benchmarks.prep --output prep.json

Makes scenes, serves them from a process of their own with a delay, and measures tiles per second,
requests, memory, workers, and what it costs to run a finished dataset again. Look at the ratios:
the server, and whatever else runs, takes its part of the same cores.

Longer than the budget because each measurement is a function, and all share the same scenes.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import redirect_stdout
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import odc.stac
import psutil
import rasterio
from pystac_client import Client

from benchmarks.prep_world import DAYS, LEVELS, MONTHS, OFFSET, Counts, bounds_of_centres, serve
from benchmarks.prep_world import write_country
from data_prep import pipeline, steps
from data_prep.catalogue import read_items
from data_prep.engine import Engine
from data_prep.imagery_task import TileResult
from data_prep.manifest import read_manifest
from data_prep.place import Place, read_places
from data_prep.plan_store import ITEMS_FILE, PLACES_FILE, PLAN_FOLDER
from data_prep.prep_config import EngineConfig, PrepConfig
from data_prep.scenes import index_scenes, scene_of
from data_prep.tasks import Task

COLLECTION = "sentinel-2-c1-l2a"
ASSETS = ("red", "green", "blue", "nir")
CLEAR = (4, 5, 6, 11)
FEW_TILES = 50
POLL_S = 0.02
GOALS = {"fetch": 3.0, "dask": 1.7, "rerun_s": 1.0}

Tile = tuple[Place, str]


# -- ours


def plan(url: str, output: Path, num_tiles: int, options: argparse.Namespace) -> PrepConfig:
    """Settings by default but for the size of a tile, with their plan made."""
    num_places = num_tiles // len(MONTHS)
    config = PrepConfig.model_validate(
        {
            "output": output,
            "region": {"bbox": bounds_of_centres(options.scene_px, options.scenes)},
            "first_month": MONTHS[0],
            "last_month": MONTHS[-1],
            "grid": {"size_px": options.tile_px, "spacing_km": options.tile_px / 100},
            "sampling": {"mode": "uniform", "num_places": num_places, "min_land_frac": 0},
            "imagery": {"provider": "earth-search-c1", "url": url, "max_cloud_frac": 1.0},
            "climate": {"source": "none"},
            "land_cover": {"source": "none"},
            "place_names": False,
        }
    )
    summary = pipeline.plan(config)
    if summary.places != num_places:
        sys.exit(f"{summary.places} of {num_places} places fit; choose a larger --scene-px.")
    return config


def tiles_of(config: PrepConfig) -> list[Tile]:
    """Places and months of a plan, in the order in which they are fetched."""
    places = read_places(config.output / PLAN_FOLDER / PLACES_FILE)
    return [(place, month) for place in places for month in config.months]


def imagery_tasks(config: PrepConfig, output: Path) -> list[Task]:
    """Imagery of a plan, to be written to another folder."""
    items = read_items(config.output / PLAN_FOLDER / ITEMS_FILE)
    scenes = [scene_of(item, config.imagery.provider) for item in items]
    places = read_places(config.output / PLAN_FOLDER / PLACES_FILE)
    elsewhere = config.model_copy(update={"output": output})
    return list(steps.imagery_tasks(places, index_scenes(scenes), elsewhere))


# -- the straightforward loop


def fetch_plainly(client: Client, folder: Path, tile: Tile) -> None:
    """Search a place and month, choose the clearest day by its classes, load its bands, write."""
    place, month = tile
    found = client.search(collections=[COLLECTION], bbox=place.footprint.bounds, datetime=month)
    items = list(found.items())
    load = partial(odc.stac.load, geobox=place.geobox, groupby="solar_day")
    classes = load(items, bands=["scl"])["scl"]
    clear = np.isin(classes.values, CLEAR).mean(axis=(1, 2)).round(2)
    clouds = {item.datetime.date(): item.properties["eo:cloud_cover"] for item in items}
    days = [np.datetime64(moment, "D").item() for moment in classes.time.values]
    _, _, day = max(zip(clear, [-clouds[day] for day in days], days, strict=True))
    chosen = load([item for item in items if item.datetime.date() == day], bands=list(ASSETS))
    raw = np.stack([chosen[name].values[0] for name in ASSETS]).astype(np.int32)
    values = np.where(raw == 0, 0, np.clip(raw + OFFSET, 1, None)).astype(np.uint16)
    profile = {
        "driver": "GTiff", "dtype": "uint16", "count": len(ASSETS), "nodata": 0,
        "width": place.size_px, "height": place.size_px, "compress": "deflate", "predictor": 2,
        "crs": place.crs, "transform": place.geobox.affine,
    }  # fmt: skip
    with rasterio.open(folder / f"{place.location_id}_{month}.tif", "w", **profile) as file:
        file.write(values)
        file.update_tags(day=day.isoformat())


def loop_s(url: str, tiles: Sequence[Tile], folder: Path, *, num_threads: int) -> float:
    """Seconds that the loop takes, in one thread or in several."""
    odc.stac.configure_rio(cloud_defaults=True)
    folder.mkdir()
    fetch = partial(fetch_plainly, Client.open(url), folder)
    begin = time.perf_counter()
    if num_threads == 1:
        for tile in tiles:
            fetch(tile)
    else:
        with ThreadPoolExecutor(num_threads) as threads:
            list(threads.map(fetch, tiles))
    return time.perf_counter() - begin


# -- measurements


def measure_fetch(
    url: str, counts: Counts, folder: Path, options: argparse.Namespace
) -> dict[str, Any]:
    """Tiles per second and requests of both, and whether their tiles are the same."""
    config = plan(url, folder / "ours", options.tiles, options)
    tiles = tiles_of(config)
    counts()
    begin = time.perf_counter()
    states = pipeline.fetch(config).states["imagery"]
    rate_with_start = len(tiles) / (time.perf_counter() - begin)
    requests = per_tile(counts(), len(tiles))
    rate = warm_rate(config, folder / "warm")
    few, num_threads = tiles[:: max(1, len(tiles) // options.loop_tiles)], num_connections(config)
    counts()
    loop = len(few) / loop_s(url, few, folder / "loop", num_threads=1)
    loop_requests = per_tile(counts(), len(few))
    threads = len(tiles) / loop_s(url, tiles, folder / "threads", num_threads=num_threads)
    return {
        "tiles": len(tiles),
        "states": states,
        "tiles_s": {
            "ours": rate,
            "ours_with_start": rate_with_start,
            "loop": loop,
            "loop_in_threads": threads,
        },
        "num_threads": num_threads,
        "ratio": rate / loop,
        "ratio_with_start": rate_with_start / loop,
        "ratio_to_threads": rate / threads,
        "agreement": agreement(config, folder / "threads", tiles),
        "requests_a_tile": requests,
        "loop_requests_a_tile": loop_requests,
        "minimum_a_tile": {"SCL": len(DAYS), "bands": len(LEVELS)},
        "classes_read_a_tile": None,
    }


def num_connections(config: PrepConfig) -> int:
    """Tiles that are read at once."""
    return config.engine.num_workers * config.engine.num_threads


def warm_rate(config: PrepConfig, output: Path) -> float:
    """Tiles per second of workers that have started."""
    tasks = imagery_tasks(config, output)
    first, rest = tasks[: 2 * num_connections(config)], tasks[2 * num_connections(config) :]
    with Engine(config.engine) as workers:
        workers.run(first, steps.do_imagery, output, num_tasks=len(first))
        begin = time.perf_counter()
        workers.run(rest, steps.do_imagery, output, num_tasks=len(rest))
        return len(rest) / (time.perf_counter() - begin)


def per_tile(counts: Counter[str], num_tiles: int) -> dict[str, float]:
    """Requests by kind, per tile."""
    return {
        **{kind: counts[kind] / num_tiles for kind in ("catalogue", "search", "SCL", "bands")},
        "all": counts.total() / num_tiles,
    }


def agreement(config: PrepConfig, folder: Path, tiles: Sequence[Tile]) -> dict[str, int]:
    """Tiles of the loop that are ours pixel by pixel, those that differ, and those of other days."""
    days = {
        row.task_id: TileResult.from_dict(
            {k: v for k, v in row.result.items() if k not in ("path", "num_bytes")}
        ).acquired
        for row in read_manifest(config.output, kind="imagery")
    }
    found = Counter(same=0, different=0, another_day=0)
    for place, month in tiles:
        own = config.output / steps.image_path(place.location_id, month)
        with (
            rasterio.open(folder / f"{place.location_id}_{month}.tif") as theirs,
            rasterio.open(own) as ours,
        ):
            is_same_day = (days[f"{place.location_id}/{month}"] or "")[:10] == theirs.tags()["day"]
            is_same_grid = (ours.crs, ours.transform) == (theirs.crs, theirs.transform)
            is_same = is_same_grid and np.array_equal(ours.read(), theirs.read())
        found["another_day" if not is_same_day else "same" if is_same else "different"] += 1
    return dict(found)


def measure_memory(url: str, folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Largest resident memory of the main process and of a worker, MiB, for few and many tiles."""
    peaks = {}
    for num_tiles in (min(FEW_TILES, options.tiles // 4), options.tiles):
        config = plan(url, folder / f"memory{num_tiles}", num_tiles, options)
        peaks[num_tiles] = peak_memory(config)
    few, many = peaks.values()
    return {
        "mib": {str(number): peak for number, peak in peaks.items()},
        "ratio": {name: many[name] / few[name] for name in few},
    }


def peak_memory(config: PrepConfig) -> dict[str, float]:
    """Peaks while ``ecomap prep fetch`` runs, by watching it from outside."""
    command = [Path(sys.executable).with_name("ecomap"), "prep", "fetch"]
    with subprocess.Popen(
        [*map(str, command), str(config.output / "config.yaml")],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    ) as run:
        main, peaks = psutil.Process(run.pid), {"main": 0.0, "worker": 0.0}
        while run.poll() is None:
            try:
                workers = [child.memory_info().rss for child in main.children()]
                peaks["worker"] = max(peaks["worker"], *workers, 0)
                peaks["main"] = max(peaks["main"], main.memory_info().rss)
            except psutil.NoSuchProcess:
                continue
            time.sleep(POLL_S)
        complaints = run.stderr.read().decode() if run.stderr else ""
    if run.returncode != 0:
        sys.exit(f"ecomap prep fetch failed: {complaints}")
    return {name: peak / 2**20 for name, peak in peaks.items()}


def measure_dask(folder: Path, config: PrepConfig, options: argparse.Namespace) -> dict[str, Any]:
    """Seconds of looking at frames, with one Dask worker and with two."""
    tasks = [
        Task(
            "inspection",
            f"{place.location_id}/{number}",
            {
                "location_id": place.location_id,
                "months": config.months,
                "reflectance_range": (0.0, 0.4),
                "folder": config.output,
            },
        )
        for number in range(options.inspections)
        for place in read_places(config.output / PLAN_FOLDER / PLACES_FILE)
    ]
    seconds = {}
    for num_workers in (1, 2):
        output = folder / f"dask{num_workers}"
        settings = EngineConfig(scheduler="dask", num_workers=num_workers)
        begin = time.perf_counter()
        with Engine(settings) as workers:
            first, rest = tasks[:32], tasks[32:]
            workers.run(first, steps.do_inspection, output, num_tasks=len(first))
            started = time.perf_counter()
            workers.run(rest, steps.do_inspection, output, num_tasks=len(rest))
            end = time.perf_counter()
        seconds[num_workers] = {"work": end - started, "with_start": end - begin}
    one, two = seconds[1], seconds[2]
    return {
        "frames": len(tasks) * len(config.months),
        "seconds": {str(number): value for number, value in seconds.items()},
        "ratio": {name: one[name] / two[name] for name in one},
    }


def measure_rerun(config: PrepConfig, options: argparse.Namespace) -> dict[str, Any]:
    """Seconds of fetching what is there already; the best of three."""
    seconds = []
    for _ in range(3):
        begin = time.perf_counter()
        pipeline.fetch(config)
        seconds.append(time.perf_counter() - begin)
    num_tiles = len(tiles_of(config))
    return {
        "tiles": num_tiles,
        "seconds": min(seconds),
        "s_per_1000_tiles": 1000 * min(seconds) / num_tiles,
    }


# -- report


def lines(report: dict[str, Any]) -> Iterator[str]:
    """The report as a table."""
    fetch, dask, rerun = report["fetch"], report["dask"], report["rerun"]
    rates = fetch["tiles_s"]
    yield f"{report['cores']} cores, load {report['load'][0]:.1f} before and {report['load'][1]:.1f} after"
    yield ""
    yield f"tiles per second ({fetch['tiles']} tiles, {report['latency_ms']:g} ms a request)"
    yield f"  ours                     {rates['ours']:8.1f}   with start-up {rates['ours_with_start']:.1f}"
    yield f"  loop                     {rates['loop']:8.1f}"
    yield f"  loop in {fetch['num_threads']:2d} threads       {rates['loop_in_threads']:8.1f}"
    yield (
        f"  ratio to the loop        {fetch['ratio']:8.1f}   with start-up "
        f"{fetch['ratio_with_start']:.1f}; goal {GOALS['fetch']:g}"
    )
    yield f"  ratio to its threads     {fetch['ratio_to_threads']:8.1f}"
    yield "  tiles compared           " + ", ".join(
        f"{number} {name.replace('_', ' ')}" for name, number in fetch["agreement"].items()
    )
    yield "requests a tile           catalogue   search      SCL    bands      all"
    least = fetch["minimum_a_tile"]
    for name, row in (
        ("ours", fetch["requests_a_tile"]),
        ("loop", fetch["loop_requests_a_tile"]),
        ("all candidates, no header", {"catalogue": 0, "search": 0, **least, "all": sum(least.values())}),
    ):
        yield f"  {name:24s}" + "".join(f"{value:9.2f}" for value in row.values())
    yield "memory, MiB                    main   worker"
    for number, peak in report["memory"]["mib"].items():
        yield f"  {number + ' tiles':24s}{peak['main']:9.0f}{peak['worker']:9.0f}"
    ratio = report["memory"]["ratio"]
    yield f"  {'ratio':24s}{ratio['main']:9.2f}{ratio['worker']:9.2f}"
    yield f"Dask, {dask['frames']} frames            work  with start-up, s"
    for number, value in dask["seconds"].items():
        yield f"  {number + ' workers':24s}{value['work']:9.1f}{value['with_start']:9.1f}"
    yield (
        f"  {'ratio':24s}{dask['ratio']['work']:9.2f}{dask['ratio']['with_start']:9.2f}"
        f"   goal {GOALS['dask']:g}"
    )
    yield (
        f"fetch of what is there   {rerun['s_per_1000_tiles']:9.2f}   s per 1000 tiles; goal less "
        f"than {GOALS['rerun_s']:g}"
    )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="small scenes, few tiles, a minute")
    parser.add_argument("--output", type=Path, help="JSON file for the figures")
    parser.add_argument("--latency-ms", type=float, default=20.0)
    parser.add_argument("--scene-px", type=int, help="side of a scene")
    parser.add_argument("--scenes", type=int, help="scenes of a date, side by side")
    parser.add_argument("--tile-px", type=int, default=128)
    parser.add_argument("--tiles", type=int)
    parser.add_argument("--loop-tiles", type=int, help="tiles of the loop in one thread")
    parser.add_argument("--inspections", type=int, help="times that each frame is looked at")
    quick = {"scene_px": 1280, "scenes": 1, "tiles": 100, "loop_tiles": 10, "inspections": 4}
    full = {"scene_px": 2560, "scenes": 2, "tiles": 500, "loop_tiles": 50, "inspections": 4}
    options = parser.parse_args()
    for name, value in (quick if options.quick else full).items():
        if getattr(options, name) is None:
            setattr(options, name, value)
    folder = Path(tempfile.mkdtemp(prefix="ecomap-bench-"))
    try:
        report = measure(folder, options)
    finally:
        shutil.rmtree(folder)
    print("\n".join(lines(report)))
    if options.output:
        options.output.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


def measure(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """All measurements."""
    load = [os.getloadavg()[0]]
    write_country(
        folder / "scenes", scene_px=options.scene_px, num_scenes=options.scenes, num_processes=2
    )
    say("scenes are written")
    with serve(folder / "scenes", options.latency_ms / 1000) as (url, counts):
        fetch = measure_fetch(url, counts, folder, options)
        say("tiles are fetched")
        memory = measure_memory(url, folder, options)
        say("memory is measured")
        config = plan(url, folder / "ours", options.tiles, options)
        rerun = measure_rerun(config, options)
    dask = measure_dask(folder, config, options)
    load.append(os.getloadavg()[0])
    return {
        "cores": os.cpu_count(),
        "load": load,
        "latency_ms": options.latency_ms,
        "options": {k: v for k, v in vars(options).items() if k != "output"},
        "fetch": fetch,
        "memory": memory,
        "rerun": rerun,
        "dask": dask,
    }


def say(text: str) -> None:
    """Tell how far it is."""
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
