"""Does measuring a set run at its networks' own speed, and in bounded memory?

    python -m benchmarks.evaluate_features [--quick] [--dataset data/bluemarble] [--spaces eo ...]

Times, in turn on the same images: the networks alone on images that lie in memory; reading and
networks one after the other; and `ecomap.measure.measure_set`, which reads ahead and computes
indices beside. Then the peak memory of child processes that measure N and 10 N images, features on
disk. Look at the ratios: whatever else runs takes its part of the same cores. Without ``--dataset``
it makes PNG files of noise, which decode slowly.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from PIL import Image, ImageFilter

from ecomap.evaluate_config import EvaluateConfig
from ecomap.features import open_space
from ecomap.image_sets import open_image_set
from ecomap.image_subsets import take
from ecomap.measure import index_measures, measure_set
from ecomap.tiles import ImageSet

CONFIG = EvaluateConfig()
SPEED_GOAL = 0.9
"""Speed of the whole pass over that of the networks alone."""
MEMORY_GOAL = 1.1
"""Peak memory with ten times the images."""
POLL_S = 0.02


def make_images(folder: Path, *, num: int, size_px: int) -> Path:
    """PNG files of blurred noise."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for index in range(num):
        image = Image.fromarray(rng.integers(0, 256, (size_px, size_px, 3), np.uint8))
        image.filter(ImageFilter.GaussianBlur(1)).save(folder / f"{index:05d}.png")
    return folder


def open_images(folder: Path, num: int) -> ImageSet:
    """The first images of a folder or dataset."""
    images = open_image_set(folder, name="images", kind="generated", max_masked_frac=1)
    if len(images.tiles) < num:
        sys.exit(f"{folder} has {len(images.tiles)} images; the benchmark needs {num}.")
    return take(images, range(num))


def networks_s(images: ImageSet, spaces: Sequence[str]) -> float:
    """Seconds of the networks on images that lie in memory."""
    batches = list(_batches(images))
    start = time.perf_counter()
    for batch in batches:
        for space in spaces:
            open_space(space).extract(batch)
    return time.perf_counter() - start


def in_turn_s(images: ImageSet, spaces: Sequence[str]) -> float:
    """Seconds of reading, indices and networks, one after the other."""
    start = time.perf_counter()
    size = CONFIG.batch_size
    for first in range(0, len(images.tiles), size):
        frames = [images.read(i) for i in range(first, min(first + size, len(images.tiles)))]
        for frame in frames:
            index_measures(frame)
        batch = np.stack([frame.rgb for frame in frames])
        for space in spaces:
            open_space(space).extract(batch)
    return time.perf_counter() - start


def one_pass_s(images: ImageSet, spaces: Sequence[str]) -> float:
    """Seconds of `measure_set`."""
    start = time.perf_counter()
    measure_set(images, spaces=spaces, reference=None, config=CONFIG)
    return time.perf_counter() - start


def compare_speed(images: ImageSet, spaces: Sequence[str], *, rounds: int) -> dict[str, float]:
    """Images per second of each way, the best of some rounds, and ratios to the networks alone."""
    ways: dict[str, Callable[[ImageSet, Sequence[str]], float]] = {
        "networks_alone": networks_s, "in_turn": in_turn_s, "one_pass": one_pass_s,
    }  # fmt: skip
    networks_s(take(images, range(CONFIG.batch_size)), spaces)  # weights are read, files are cached
    seconds = {
        name: min(taken)
        for name, taken in zip(
            ways,
            zip(
                *[[way(images, spaces) for way in ways.values()] for _ in range(rounds)],
                strict=True,
            ),
            strict=True,
        )
    }
    found = {f"{name}_per_s": len(images.tiles) / took for name, took in seconds.items()}
    for name in ("in_turn", "one_pass"):
        found[f"{name}_over_networks"] = seconds["networks_alone"] / seconds[name]
    return found


def peak_bytes(folder: Path, num: int, spaces: Sequence[str]) -> int:
    """Peak memory of a process that measures images, features on disk."""
    command = [sys.executable, "-m", "benchmarks.evaluate_features", "--measure", str(num)]
    command += ["--dataset", str(folder), "--spaces", *spaces]
    peak = 0
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as child:
        watched = psutil.Process(child.pid)
        while child.poll() is None:
            try:
                # What is mapped from a file is given back when memory is short: not counted.
                info = watched.memory_info()
                peak = max(peak, info.rss - info.shared)
            except psutil.NoSuchProcess:
                break
            time.sleep(POLL_S)
    if child.wait():
        sys.exit(f"The process that measured {num} images failed.")
    return peak


def _batches(images: ImageSet) -> Sequence[np.ndarray]:
    """Pixels of all images in batches."""
    pixels = [images.read(index).rgb for index in range(len(images.tiles))]
    size = CONFIG.batch_size
    return [np.stack(pixels[start : start + size]) for start in range(0, len(pixels), size)]


def measure_only(folder: Path, num: int, spaces: Sequence[str]) -> None:
    """What a child process does."""
    with tempfile.TemporaryDirectory() as temporary:
        measure_set(
            open_images(folder, num),
            spaces=spaces,
            reference=None,
            config=CONFIG,
            folder=Path(temporary),
        )


def run(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """All measurements."""
    images = open_images(folder, options.images)
    found: dict[str, Any] = {"images": options.images, "speed": {}}
    for space in options.spaces:
        found["speed"][space] = compare_speed(images, [space], rounds=options.rounds)
    few = max(CONFIG.batch_size * 4, options.images // 10)
    many = min(10 * few, options.images)
    memory = {str(num): peak_bytes(folder, num, options.spaces[-1:]) for num in (few, many)}
    found["peak_bytes"] = memory
    found["peak_ratio"] = memory[str(many)] / memory[str(few)]
    return found


def main() -> None:
    """Measure, and print a table and JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer images, one round")
    parser.add_argument("--dataset", type=Path, help="anything that an evaluation reads")
    parser.add_argument("--spaces", nargs="+", default=["efficientnet_lite0", "colour_texture"])
    parser.add_argument("--images", type=int)
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--measure", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.images = options.images or (640 if options.quick else 2560)
    options.rounds = options.rounds or (1 if options.quick else 3)
    if options.measure:
        measure_only(options.dataset, options.measure, options.spaces)
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.dataset or make_images(
            Path(temporary) / "images", num=options.images, size_px=128
        )
        found = run(folder, options)
    for space, speed in found["speed"].items():
        print(
            f"{space:20} networks alone {speed['networks_alone_per_s']:7.1f}/s, in turn "
            f"{speed['in_turn_over_networks']:.2f} of it, one pass "
            f"{speed['one_pass_over_networks']:.2f} (goal {SPEED_GOAL})"
        )
    sizes = ", ".join(
        f"{num} images {size / 2**20:.0f} MiB" for num, size in found["peak_bytes"].items()
    )
    print(f"memory: {sizes}, ratio {found['peak_ratio']:.2f} (goal {MEMORY_GOAL})")
    print(json.dumps(found))


if __name__ == "__main__":
    main()
