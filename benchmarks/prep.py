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
import math
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import odc.stac
import psutil
import pystac
import rasterio
from pystac_client import Client

from benchmarks.prep_world import (
    BLOCK_PX,
    DAYS,
    LEVELS,
    MONTHS,
    OFFSET,
    TOP,
    Counts,
    bounds_of_centres,
    serve,
    write_country,
)
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
POLL_S = 0.02
FETCH_GOAL, DASK_GOAL, RERUN_GOAL_S = 3.0, 1.7, 1.0

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
    clouds = {day_of(item): item.properties["eo:cloud_cover"] for item in items}
    days = [np.datetime64(moment, "D").item() for moment in classes.time.values]
    _, _, day = max(zip(clear, [-clouds[day] for day in days], days, strict=True))
    chosen = load([item for item in items if day_of(item) == day], bands=list(ASSETS))
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


def day_of(item: pystac.Item) -> date:
    """Day of an item in UTC."""
    return date.fromisoformat(item.properties["datetime"][:10])


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
        "least_requests_a_tile": least_requests(tiles),
    }


def least_requests(tiles: Sequence[Tile]) -> dict[str, float]:
    """Ranges that hold a tile's blocks: classes of all candidates and bands of the winner, a tile.

    Blocks that lie beside each other are one range, rows of blocks are not. Headers are left out.
    """
    rows = {
        scale: np.mean([num_block_rows(place, block_m=10 * scale * BLOCK_PX) for place, _ in tiles])
        for scale in (1, 2)
    }
    least = {"SCL": len(DAYS) * float(rows[2]), "bands": len(LEVELS) * float(rows[1])}
    return {"catalogue": 0.0, "search": 0.0, **least, "all": sum(least.values())}


def num_block_rows(place: Place, *, block_m: int) -> int:
    """Rows of a scene's blocks that a tile touches."""
    first, last = TOP - place.top, TOP - place.top + place.size_px * place.resolution_m
    return math.ceil(last / block_m) - math.floor(first / block_m)


def num_connections(config: PrepConfig) -> int:
    """Tiles that are read at once."""
    return config.engine.num_workers * config.engine.num_threads


def warm_rate(config: PrepConfig, output: Path) -> float:
    """Tiles per second of workers that have started."""
    output.mkdir()
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
    """Tiles of the loop that are ours pixel by pixel, that differ, and that show another day."""
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


def measure_memory(
    url: str, folder: Path, options: argparse.Namespace
) -> tuple[dict[str, Any], list[PrepConfig]]:
    """Largest resident memory of the main process and of a worker, MiB, and what was fetched.

    A worker keeps what it read of headers and blocks, up to `data_prep.remote.HEADER_CACHE_BYTES`.
    """
    peaks, configs = {}, []
    for num_tiles in (options.tiles // 10, options.tiles // 2, options.tiles):
        configs.append(plan(url, folder / f"memory{num_tiles}", num_tiles, options))
        peaks[num_tiles] = peak_memory(configs[-1])
    few, _, many = peaks.values()
    report = {
        "mib": {str(number): peak for number, peak in peaks.items()},
        "ratio": {name: many[name] / few[name] for name in few},
    }
    return report, configs


def peak_memory(config: PrepConfig) -> dict[str, float]:
    """Peaks while ``ecomap prep fetch`` runs, by watching it from outside."""
    command = [Path(sys.executable).with_name("ecomap"), "prep", "fetch"]
    with subprocess.Popen(
        [*map(str, command), str(config.output / "config.yaml")],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
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
        said = run.stdout.read().decode() if run.stdout else ""
    if run.returncode != 0:
        sys.exit(f"ecomap prep fetch ended with {run.returncode}: {said}")
    return {name: peak / 2**20 for name, peak in peaks.items()}


def measure_dask(folder: Path, config: PrepConfig, options: argparse.Namespace) -> dict[str, Any]:
    """Seconds of looking at frames, with one Dask worker and with two."""
    tiles: dict[str, list[tuple[str, str]]] = {}
    for found in read_manifest(config.output, kind="imagery"):
        if found.state == "done":
            tiles.setdefault(found.location_id, []).append((found.month, found.result["sha256"]))
    tasks = [
        Task(task.kind, f"{task.task_id}/{number}", task.inputs)
        for number in range(options.inspections)
        for task in steps.inspection_tasks(tiles, config)
    ]
    seconds = {}
    for num_workers in (1, 2):
        output = folder / f"dask{num_workers}"
        output.mkdir()
        settings = EngineConfig(scheduler="dask", num_workers=num_workers)
        begin = time.perf_counter()
        with Engine(settings) as workers:
            first, rest = tasks[:32], tasks[32:]
            workers.run(first, steps.do_inspection, output, num_tasks=len(first))
            started = time.perf_counter()
            states = workers.run(rest, steps.do_inspection, output, num_tasks=len(rest))
            end = time.perf_counter()
        if states["done"] != len(rest):
            sys.exit(f"Only {states} of {len(rest)} inspections went well.")
        seconds[num_workers] = {"work": end - started, "with_start": end - begin}
    one, two = seconds[1], seconds[2]
    return {
        "frames": options.inspections * sum(map(len, tiles.values())),
        "seconds": {str(number): value for number, value in seconds.items()},
        "ratio": {name: one[name] / two[name] for name in one},
    }


def measure_rerun(configs: Sequence[PrepConfig]) -> dict[str, Any]:
    """Seconds of fetching what is there already, in smaller and larger datasets; best of three.

    What a thousand tiles take is the difference of the largest and the smallest, so that what every
    run takes, however small, stands apart.
    """
    seconds = {}
    for config in configs:
        times = []
        for _ in range(3):
            begin = time.perf_counter()
            pipeline.fetch(config)
            times.append(time.perf_counter() - begin)
        seconds[len(tiles_of(config))] = min(times)
    few, many = min(seconds), max(seconds)
    slope = (seconds[many] - seconds[few]) / (many - few)
    return {
        "seconds": {str(number): value for number, value in seconds.items()},
        "s_per_1000_tiles": 1000 * slope,
        "s_of_none": seconds[few] - few * slope,
    }


# -- report


def lines(report: dict[str, Any]) -> Iterator[str]:
    """The report as a table."""
    fetch, dask, rerun = report["fetch"], report["dask"], report["rerun"]
    rates, threads = fetch["tiles_s"], f"loop in {fetch['num_threads']} threads"
    before, after = report["load"]
    yield f"{report['cores']} cores, load {before:.1f} before and {after:.1f} after"
    yield row(f"{fetch['tiles']} tiles, tiles a second", "at work", "with start")
    yield row("  ours", rates["ours"], rates["ours_with_start"])
    yield row("  loop", rates["loop"])
    yield row(f"  {threads}", rates["loop_in_threads"])
    yield row(f"  ours : loop (goal {FETCH_GOAL:g})", fetch["ratio"], fetch["ratio_with_start"])
    yield row(f"  ours : {threads}", fetch["ratio_to_threads"])
    compared = (f"{n} {name.replace('_', ' ')}" for name, n in fetch["agreement"].items())
    yield f"  tiles of both: {', '.join(compared)}"
    yield row("requests a tile", *fetch["requests_a_tile"])
    yield row("  ours", *fetch["requests_a_tile"].values())
    yield row("  loop", *fetch["loop_requests_a_tile"].values())
    yield row("  least, all candidates", *fetch["least_requests_a_tile"].values())
    yield row("largest memory, MiB", "main", "worker")
    for number, peak in report["memory"]["mib"].items():
        yield row(f"  {number} tiles", *peak.values())
    yield row("  ratio", *report["memory"]["ratio"].values())
    yield row(f"Dask, {dask['frames']} frames, s", "at work", "with start")
    for number, value in dask["seconds"].items():
        yield row(f"  {number} worker{'s' * (number != '1')}", *value.values())
    yield row(f"  ratio (goal {DASK_GOAL:g})", *dask["ratio"].values())
    yield "finished runs again, s"
    for number, value in rerun["seconds"].items():
        yield row(f"  {number} tiles", value)
    yield row(f"  1000 more tiles (goal {RERUN_GOAL_S:g})", rerun["s_per_1000_tiles"])


def row(label: str, *values: str | float) -> str:
    """A line of the table."""
    cells = (value if isinstance(value, str) else f"{value:.2f}" for value in values)
    return f"{label:30s}" + "".join(f"{cell:>12s}" for cell in cells)


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
    full = {"scene_px": 2560, "scenes": 2, "tiles": 500, "loop_tiles": 50, "inspections": 2}
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
        memory, fetched = measure_memory(url, folder, options)
        say("memory is measured")
        rerun = measure_rerun(fetched)
    dask = measure_dask(folder, fetched[-1], options)
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
