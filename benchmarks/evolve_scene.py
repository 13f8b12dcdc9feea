"""Whether windows show in an evolved scene: steps between neighbours along their borders.

    python -m benchmarks.evolve_scene SCENE.tif 2004-07 --months 2004-01..2004-12 --every 3

The ratio is that of `ecomap.windows.seam_ratio`: 1 where steps along the borders of windows are as
large as elsewhere. The same windows made one by one and set side by side stand beside it.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from data_prep.scenarios import parse_months
from data_prep.timelines import open_timelines
from ecomap.autoencoder import LATENT_FACTOR
from ecomap.errors import EcomapError
from ecomap.evolution import EvolveSettings
from ecomap.model import Bundle
from ecomap.scene import evolve_scene
from ecomap.scene_records import window_record
from ecomap.schema import TileRecord
from ecomap.sequence_frames import open_evolver
from ecomap.start_tile import open_starts
from ecomap.starts import Start
from ecomap.windows import plan_windows, seam_ratio


def side_by_side(bundle: Bundle, start: Start, target: TileRecord, side_px: int) -> np.ndarray:
    """A frame of windows that know nothing of each other ``(H, W, 3)``."""
    frame = start.image.copy()
    height, width = frame.shape[:2]
    for row in range(0, height - side_px + 1, side_px):
        for column in range(0, width - side_px + 1, side_px):
            part = np.s_[row : row + side_px, column : column + side_px]
            begin = Start(
                record=window_record(start.record, row, column, side_px), image=start.image[part]
            )
            own = window_record(target, row, column, side_px)
            made = evolve_scene(
                bundle, begin, [own], seeds=[row * width + column], settings=EvolveSettings()
            )
            frame[part] = next(made)
    return frame


def measure(arguments: argparse.Namespace) -> list[tuple[str, float, float, float]]:
    """Ratios of the start, of the scene and of windows side by side, by month."""
    bundle = open_evolver(arguments.bundle, device="cpu")
    start, _ = open_starts([arguments.scene], card=bundle.card, months=[arguments.month])
    months = parse_months(arguments.months, every=arguments.every)
    _, (timeline,) = open_timelines(months)(start.records)
    side_px = bundle.card.image_size_px
    cells = [-(-size // LATENT_FACTOR) for size in start.image.shape[:2]]
    side = side_px // LATENT_FACTOR
    places = plan_windows(cells[0], cells[1], side, round(side * EvolveSettings().overlap))
    corners = [(row * LATENT_FACTOR, column * LATENT_FACTOR) for row, column in places]
    tiled = [
        (row, column)
        for row in range(0, start.image.shape[0] - side_px + 1, side_px)
        for column in range(0, start.image.shape[1] - side_px + 1, side_px)
    ]
    seeds = [0] * len(timeline.records)
    frames = evolve_scene(bundle, start, timeline.records, seeds=seeds, settings=EvolveSettings())
    return [
        (
            record.month,
            seam_ratio(start.image, corners, side_px),
            seam_ratio(frame, corners, side_px),
            seam_ratio(side_by_side(bundle, start, record, side_px), tiled, side_px),
        )
        for record, frame in zip(timeline.records, frames, strict=True)
    ]


def main(words: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("scene", type=Path, help="GeoTIFF larger than the model's images")
    parser.add_argument("month", help="YYYY-MM that it shows")
    parser.add_argument("--months", required=True, help="what is made of it")
    parser.add_argument("--every", type=int, default=1)
    parser.add_argument("--bundle", default="ecomap-tiny")
    try:
        for month, own, scene, tiles in measure(parser.parse_args(words)):
            print(f"{month}  start {own:.2f}  scene {scene:.2f}  side by side {tiles:.2f}")
    except EcomapError as error:
        raise SystemExit(f"{type(error).__name__}: {error}") from None


if __name__ == "__main__":
    main()
