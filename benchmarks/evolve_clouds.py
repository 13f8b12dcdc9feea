"""How near a month is under its clouds: made up alone, from another month, or copied from that one.

    python -m benchmarks.evolve_clouds DATASET --bundle ecomap-tiny

Held-out months of a dataset lose patches such as clouds hide (those that training draws), and the
call that makes any other month completes them. Errors are of hidden pixels alone.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from ecomap.autoencoder import LATENT_FACTOR
from ecomap.errors import EcomapError, RequestError
from ecomap.evolution import evolve_images
from ecomap.imagery import FrameReader
from ecomap.paired import psnr
from ecomap.schema import TileRecord, read_dataset
from ecomap.sequence_frames import open_evolver
from ecomap.starts import Start, encode_starts, merge_starts
from ecomap.training_draws import draw_holes

MONTHS_BACK = (1, 3, 6)
"""How much earlier the other month is, on the calendar's circle."""


def hidden_patches(count: int, side_px: int, seed: int) -> NDArray[np.bool_]:
    """Patches that hide part of each of some frames ``(N, H, W)``."""
    cells = side_px // LATENT_FACTOR
    drawn = draw_holes(seed, 0, torch.arange(count), (cells, cells), share=1.0)[:, 0].numpy()
    return drawn.repeat(LATENT_FACTOR, 1).repeat(LATENT_FACTOR, 2)


def choose(records: Sequence[TileRecord], num_places: int) -> list[dict[int, TileRecord]]:
    """Months of the year by place, of places with all twelve, evenly over the list.

    Raises:
        RequestError: If there is none.
    """
    found: dict[str, dict[int, TileRecord]] = {}
    for record in records:
        found.setdefault(record.place_id, {})[record.month_index] = record
    whole = [months for _, months in sorted(found.items()) if len(months) == 12]
    if not whole:
        raise RequestError("No held-out place has all twelve months. Give such a dataset.")
    steps = np.linspace(0, len(whole) - 1, min(num_places, len(whole))).round()
    return [whole[int(step)] for step in steps]


def psnr_db(made: NDArray[np.uint8], real: NDArray[np.uint8], where: NDArray[np.bool_]) -> float:
    """Mean over frames of the peak signal-to-noise ratio of some pixels."""
    return float(np.mean([psnr(*one) for one in zip(real, made, where, strict=True)]))


def measure(arguments: argparse.Namespace) -> list[tuple[str, float]]:
    """Errors under clouds, by way."""
    bundle = open_evolver(arguments.bundle, device="cpu")
    reader = FrameReader(arguments.dataset)
    held_out = [r for r in read_dataset(arguments.dataset) if r.split == arguments.split]
    targets = [
        (months, (3 * turn) % 12)
        for turn, months in enumerate(choose(held_out, arguments.places))
    ]  # fmt: skip
    records = [months[month] for months, month in targets]
    real = np.stack([reader.read(record) for record in records])
    hidden = hidden_patches(len(real), real.shape[1], arguments.seed)
    seen = [
        Start(record=record, image=image, hidden=mask)
        for record, image, mask in zip(records, real, hidden, strict=True)
    ]
    seeds = list(range(len(real)))

    def complete(starts: Sequence[Start]) -> NDArray[np.uint8]:
        encoded = encode_starts(bundle, starts)
        return evolve_images(bundle, encoded, list(range(len(starts))), records, seeds=seeds)

    rows = [("made up", psnr_db(complete(seen), real, hidden))]
    for back in MONTHS_BACK:
        others = [months[(month - back) % 12] for months, month in targets]
        images = [reader.read(other) for other in others]
        starts = [
            merge_starts([start, Start(record=other, image=image)])
            for start, other, image in zip(seen, others, images, strict=True)
        ]
        rows.append((f"from {back} months before", psnr_db(complete(starts), real, hidden)))
        rows.append((f"copy of {back} months before", psnr_db(np.stack(images), real, hidden)))
    return rows


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--bundle", default="ecomap-tiny")
    parser.add_argument("--places", type=int, default=32)
    parser.add_argument("--split", default="test")
    parser.add_argument("--seed", type=int, default=0)
    try:
        for name, value in measure(parser.parse_args()):
            print(f"{name:<24} {value:5.2f} dB")
    except EcomapError as error:
        raise SystemExit(f"{type(error).__name__}: {error}") from None


if __name__ == "__main__":
    main()
