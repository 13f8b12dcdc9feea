"""Distances per class beside torchmetrics, and the memory of class statistics, in one run.

    python -m benchmarks.evaluate --quick
    python -m benchmarks.evaluate --output evaluate.json

Made-up features of 15 classes, in EcoMapper's shares and in equal ones, are scored twice: by one
torchmetrics FID and KID a class, and by ours, with the same subsets in KID. Look at the ratios:
whatever else runs takes its part of the same cores. Memory is that of child processes that pass
over N and over ten times N images; torch is imported where it is used, as they do without.
"""

import argparse
import json
import os
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ecomap.frechet import frechet_distance
from ecomap.kernels import kernel_distances
from ecomap.moments import Moments

Features = NDArray[np.float32]

SHARES = (
    *(23.7, 16.1, 12.0, 9.9, 9.9, 9.1, 9.0, 3.6, 2.1, 2.0, 1.1, 0.8, 0.7, 0.4, 0.2),
)  # fmt: skip
"""Shares of the 15 classes of EcoMapper's test images in per cent:
https://openreview.net/forum?id=YUtJsxQjv3, Table 7."""
SUBSETS = 100
SUBSET_SIZE = 100
"""Images of a side in a subset of KID, or all of a smaller class."""
SPEED_GOAL, AGREEMENT_GOAL, MEMORY_GOAL = 10.0, 1e-4, 1.1
BATCH = 256


# -- distances per class


def made_features(num: int, width: int, *, seed: int, shift: float) -> Features:
    """Correlated and never negative, as pooled activations are."""
    rng = np.random.default_rng(seed)
    mixing = np.random.default_rng(0).normal(size=(width // 16, width)).astype(np.float32)
    hidden = rng.normal(shift, 1, (num, width // 16)).astype(np.float32)
    noise = rng.normal(size=(num, width)).astype(np.float32)
    return np.maximum(hidden @ mixing / np.float32(width**0.5 / 4) + 0.3 * noise, 0)


def class_sizes(total: int, shares: Sequence[float]) -> list[int]:
    """Images of each class, at least 14 (EcoMapper's rarest class has about as many)."""
    return [max(14, round(total * share / sum(shares))) for share in shares]


def in_torchmetrics(real: Features, made: Features, seed: int) -> dict[str, float]:
    """Both distances of a class by metrics of its own, with the seconds that each takes."""
    import torch
    from torchmetrics.image.fid import FrechetInceptionDistance
    from torchmetrics.image.kid import KernelInceptionDistance

    identity = torch.nn.Flatten()
    identity.num_features = torch.tensor(real.shape[1])
    size = min(SUBSET_SIZE, len(real))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it warns that it keeps all features
        kernel = KernelInceptionDistance(
            feature=identity, subsets=SUBSETS, subset_size=size, normalize=False
        )
        metrics = {"fid": FrechetInceptionDistance(feature=identity), "kid": kernel}
    found: dict[str, float] = {}
    for name, metric in metrics.items():
        start = time.perf_counter()
        for features, is_real in ((real, True), (made, False)):
            for first in range(0, len(features), BATCH):
                batch = torch.from_numpy(features[first : first + BATCH])
                metric.update(batch[:, :, None, None], real=is_real)
        torch.manual_seed(seed)
        value = metric.compute()
        found[name] = float(value[0] if name == "kid" else value)
        found[f"{name}_s"] = time.perf_counter() - start
    return found


def in_ours(real: Features, made: Features, seed: int) -> dict[str, float]:
    """The same from one pass over the features of the class, with the same subsets."""
    found: dict[str, float] = {}
    start = time.perf_counter()
    moments = [Moments(real.shape[1]) for _ in range(2)]
    for features, own in zip((real, made), moments, strict=True):
        for first in range(0, len(features), BATCH):
            own.add(features[first : first + BATCH])
    found["fid"] = frechet_distance(*moments)
    found["fid_s"] = time.perf_counter() - start
    start = time.perf_counter()
    counts = subsets_of_torchmetrics(len(real), len(made), min(SUBSET_SIZE, len(real)), seed)
    found["kid"] = float(kernel_distances(real, made, *counts).mean())
    found["kid_s"] = time.perf_counter() - start
    return found


def subsets_of_torchmetrics(
    num_real: int, num_made: int, size: int, seed: int
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """The subsets that torchmetrics draws after this seed, as counts ``(S, N)``."""
    import torch

    torch.manual_seed(seed)
    counts = np.zeros((SUBSETS, num_real), np.intp), np.zeros((SUBSETS, num_made), np.intp)
    for draw in range(SUBSETS):
        for own in counts:
            own[draw, torch.randperm(own.shape[1])[:size].numpy()] = 1
    return counts


def measure_distances(sizes: Sequence[int], width: int) -> dict[str, Any]:
    """All classes both ways, one class after the other so that load falls on both alike."""
    rows: list[dict[str, Any]] = []
    for label, size in enumerate(sizes):
        real = made_features(size, width, seed=2 * label + 1, shift=0)
        made = made_features(size, width, seed=2 * label + 2, shift=0.3)
        theirs, ours = in_torchmetrics(real, made, label), in_ours(real, made, label)
        rows.append({"images": size, "torchmetrics": theirs, "ours": ours})
        say(f"class {label + 1} of {len(sizes)}, {size} images")

    def seconds(who: str, *names: str) -> float:
        return float(sum(row[who][name] for row in rows for name in names))

    ratios = {
        name: seconds("torchmetrics", *parts) / seconds("ours", *parts)
        for name, parts in {
            "fid": ["fid_s"],
            "kid": ["kid_s"],
            "both": ["fid_s", "kid_s"],
        }.items()
    }
    differences = {
        name: max(
            abs(row["ours"][name] - row["torchmetrics"][name]) / abs(row["torchmetrics"][name])
            for row in rows
        )
        for name in ("fid", "kid")
    }
    return {
        "width": width,
        "classes": rows,
        "torchmetrics_s": seconds("torchmetrics", "fid_s", "kid_s"),
        "ours_s": seconds("ours", "fid_s", "kid_s"),
        "ratio": ratios,
        "largest_relative_difference": differences,
        "passed": ratios["both"] >= SPEED_GOAL and max(differences.values()) <= AGREEMENT_GOAL,
    }


# -- memory of class statistics


def pass_over(num: int, width: int) -> dict[str, float]:
    """Class statistics of made-up images, a batch at a time, and what they took."""
    before = peak_mb()
    rng = np.random.default_rng(0)
    classes = [Moments(width) for _ in SHARES]
    for first in range(0, num, BATCH):
        features = rng.normal(size=(min(BATCH, num - first), width)).astype(np.float32)
        labels = rng.integers(0, len(classes), len(features))
        for label, moments in enumerate(classes):
            moments.add(features[labels == label])
    return {
        "images": sum(moments.count for moments in classes),
        "statistics_mb": sum(moments.nbytes for moments in classes) / 1e6,
        "start_mb": before,
        "peak_mb": peak_mb(),
    }


def peak_mb() -> float:
    """Most memory that this process has held; Linux's ``ru_maxrss`` would begin at its parent's."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return float(status.split("VmHWM:")[1].split()[0]) / 1e3


def measure_memory(num: int, width: int) -> dict[str, Any]:
    """Peak memory of processes that see N and 10 N images."""
    passes = []
    for count in (num, 10 * num):
        command = [
            sys.executable,
            "-m",
            "benchmarks.evaluate",
            "--pass-over",
            str(count),
            str(width),
        ]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        passes.append(json.loads(done.stdout))
        say(f"memory of {count} images")
    ratio = growth(passes[1]) / growth(passes[0])
    return {"width": width, "passes": passes, "ratio": ratio, "passed": ratio <= MEMORY_GOAL}


def growth(one: dict[str, float]) -> float:
    """Megabytes that a pass took beyond what the process had when it began."""
    return one["peak_mb"] - one["start_mb"]


# -- report


def parts(quick: bool) -> dict[str, Callable[[], dict[str, Any]]]:
    """Every measurement by its name."""
    total, width = (1500, 512) if quick else (7000, 2048)
    images, narrow = (8_000, 256) if quick else (32_000, 1024)
    return {
        "distances_ecomapper_shares": lambda: measure_distances(class_sizes(total, SHARES), width),
        "distances_equal_shares": lambda: measure_distances(class_sizes(total, [1] * 15), width),
        "memory": lambda: measure_memory(images, narrow),
    }


def line(name: str, part: dict[str, Any]) -> str:
    """A part as a row of a table."""
    verdict = "passed" if part["passed"] else "FAILED"
    if name == "memory":
        small, large = part["passes"]
        return (
            f"{name:<28} {small['images']:>7} images {growth(small):6.0f} MB"
            f" | {large['images']:>7} images {growth(large):6.0f} MB"
            f" | ratio {part['ratio']:.2f} (goal {MEMORY_GOAL}) {verdict}"
        )
    ratio, difference = part["ratio"], part["largest_relative_difference"]
    return (
        f"{name:<28} torchmetrics {part['torchmetrics_s']:7.1f} s | ours {part['ours_s']:6.1f} s"
        f" | ratio {ratio['both']:.1f} (FID {ratio['fid']:.1f}, KID {ratio['kid']:.1f};"
        f" goal {SPEED_GOAL:.0f}) | difference FID {difference['fid']:.0e},"
        f" KID {difference['kid']:.0e} (goal {AGREEMENT_GOAL:.0e}) {verdict}"
    )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="few images and features, a minute")
    parser.add_argument("--parts", nargs="+", choices=list(parts(True)), help="only these")
    parser.add_argument("--output", type=Path, help="JSON file for the figures, else printed")
    parser.add_argument("--pass-over", type=int, nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.pass_over:
        print(json.dumps(pass_over(*options.pass_over)))
        return
    report: dict[str, Any] = {
        "cores": os.cpu_count(),
        "threads": os.environ.get("OMP_NUM_THREADS", "all"),
        "quick": options.quick,
        "load": [os.getloadavg()[0]],
        "parts": {},
    }
    chosen = parts(options.quick)
    for name in options.parts or chosen:
        report["parts"][name] = chosen[name]()
        report["load"].append(os.getloadavg()[0])
        print(line(name, report["parts"][name]), flush=True)
        if options.output:  # after each part: a long run that is cut short leaves its figures
            options.output.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    if not options.output:
        print(json.dumps(report))


def say(text: str) -> None:
    """Tell how far it is."""
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
