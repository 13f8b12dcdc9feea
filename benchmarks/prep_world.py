"""A made-up country for `benchmarks.prep`: scenes of moving clouds, and a catalogue in a process.

Ground and clouds are smooth with noise on top, so that files compress as real ones do.
"""

import multiprocessing
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rasterio.warp import transform_bounds
from scipy.ndimage import gaussian_filter

from tests.fake_scenes import write_scene
from tests.stac_server import StacServer

LEVELS = {"B04": 1500, "B03": 1700, "B02": 1450, "B08": 3800}
"""Mean digital number of clear ground, with the offset still in."""
MONTHS = ("2023-07", "2023-08")
DAYS = (2, 7, 12, 17, 22, 27)
LEFT, TOP, CRS = 600_000, 5_100_000, "EPSG:32633"
OVERLAP_PX = 128
"""By which neighbouring scenes overlap; both show the same there."""
OFFSET = -1000
BLOCK_PX = 128
"""Of the COGs that `tests.fake_scenes` writes."""
CLOUD, SHADOW, WATER, BARE, GREEN = 9, 3, 6, 5, 4
"""Codes of the scene classification."""
SHADOW_PX = (24, 16)
MARGIN_DEG = 0.015
"""Centres of tiles lie at least so far inside the scenes."""

Field = NDArray[np.float32]
Counts = Callable[[], Counter[str]]


def write_country(folder: Path, *, scene_px: int, num_scenes: int, num_processes: int) -> None:
    """Write the scenes of all dates, side by side from west to east.

    Args:
        folder: Where items and COGs lie.
        scene_px: Width and height of a scene at 10 m, a multiple of 4.
        num_scenes: Scenes of a date, 1 to 3.
        num_processes: Processes that write.
    """
    write = partial(_write_date, folder, scene_px, num_scenes)
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(num_processes, mp_context=context) as pool:
        list(pool.map(write, range(len(MONTHS) * len(DAYS))))


def bounds_of_centres(scene_px: int, num_scenes: int) -> tuple[float, float, float, float]:
    """West, south, east, north of the country without its margin, degrees."""
    right, bottom = LEFT + 10 * _width_px(scene_px, num_scenes), TOP - 10 * scene_px
    west, south, east, north = transform_bounds(CRS, "EPSG:4326", LEFT, bottom, right, TOP)
    return west + MARGIN_DEG, south + MARGIN_DEG, east - MARGIN_DEG, north - MARGIN_DEG


@contextmanager
def serve(folder: Path, latency_s: float) -> Iterator[tuple[str, Counts]]:
    """A catalogue in its own process.

    Yields:
        Its address, and a function that tells by kind what was asked since its last call:
        ``search``, ``SCL``, ``bands`` and ``catalogue`` (all else).
    """
    context = multiprocessing.get_context("spawn")
    pipe, other = context.Pipe()
    process = context.Process(target=_serve, args=(folder, latency_s, other), daemon=True)
    process.start()
    url = pipe.recv()

    def counts() -> Counter[str]:
        pipe.send("counts")
        return Counter(pipe.recv())

    try:
        yield url, counts
    finally:
        pipe.send("stop")
        process.join()


def _serve(folder: Path, latency_s: float, pipe: Connection) -> None:
    with StacServer(folder, latency_s=latency_s) as server:
        pipe.send(server.url)
        while pipe.recv() != "stop":
            counts = Counter(_kind_of(request.kind, request.path) for request in server.requests)
            server.requests.clear()
            pipe.send(counts)


def _kind_of(kind: str, path: str) -> str:
    if kind != "data":
        return "search" if kind == "search" else "catalogue"
    return "SCL" if path.endswith("SCL.tif") else "bands"


def _width_px(scene_px: int, num_scenes: int) -> int:
    return num_scenes * (scene_px - OVERLAP_PX) + OVERLAP_PX


def _smooth(draw: np.random.Generator, height: int, width: int, scale_px: float) -> Field:
    """A random field that changes over a distance; mean 0, spread 1."""
    step = max(int(scale_px / 4), 1)
    coarse = draw.standard_normal((height // step + 2, width // step + 2))
    smoothed = gaussian_filter(coarse, scale_px / step, mode="wrap")
    field = np.kron(smoothed, np.ones((step, step)))[:height, :width]
    return np.asarray((field - field.mean()) / field.std(), np.float32)


def _ground(height: int, width: int) -> tuple[dict[str, Field], NDArray[np.uint8]]:
    """Digital numbers of each band, and classes, without cloud: the same on every date."""
    draw = np.random.default_rng(1)
    fields, relief = _smooth(draw, height, width, 24), _smooth(draw, height, width, 160)
    classes = np.where(relief < -1.2, WATER, np.where(fields > 0.6, BARE, GREEN)).astype(np.uint8)
    bands = {}
    for name, level in LEVELS.items():
        noise = draw.standard_normal((height, width), np.float32)
        bands[name] = level + 220 * fields + 130 * relief + 60 * noise
    return bands, classes


def _write_date(folder: Path, scene_px: int, num_scenes: int, number: int) -> None:
    """Write the scenes of one pass."""
    bands, ground = _ground(scene_px, _width_px(scene_px, num_scenes))
    draw = np.random.default_rng(100 + number)
    height, width = ground.shape
    cover = _smooth(draw, height, width, scene_px / 16) - draw.uniform(-0.3, 1.0)
    shadow = np.roll(cover > 0, SHADOW_PX, (0, 1))
    classes = np.where(cover > 0, CLOUD, np.where(shadow, SHADOW, ground)).astype(np.uint8)
    glow = np.clip(cover, 0, None) * 4000
    month, day = MONTHS[number // len(DAYS)], DAYS[number % len(DAYS)]
    start = f"{month.replace('-', '')}{day:02d}T100000"
    for column in range(num_scenes):
        first = column * (scene_px - OVERLAP_PX)
        part = np.s_[:, first : first + scene_px]
        mgrs = f"33TW{'LMN'[column]}"
        write_scene(
            folder,
            item_id=f"S2A_T{mgrs}_{start}_L2A",
            left=LEFT + 10 * first,
            top=TOP,
            crs=CRS,
            size_px=scene_px,
            acquired=f"{month}-{day:02d}T10:00:00.000000Z",
            provider_style="earth-search-c1",
            bands={
                name: np.clip(values[part] + glow[part], 1 - OFFSET, 20_000).astype(np.uint16)
                for name, values in bands.items()
            },
            scl=classes[part][::2, ::2],
            cloud_cover=round(100 * float(np.isin(classes[part], (CLOUD, SHADOW)).mean()), 2),
            raster_offset=OFFSET / 10_000,
            mgrs=mgrs,
            datatake=f"{start}_{42540 + number:06d}",
            datastrip=start,
        )
