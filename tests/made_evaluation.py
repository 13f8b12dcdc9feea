"""Folders of real and generated images of the made-up world, to be evaluated."""

from pathlib import Path

import numpy as np
from PIL import Image

from ecomap.evaluate_config import EvaluateConfig
from ecomap.schema import write_dataset
from tests.made_world import made_up_world, picture

SHAPE = (24, 24)

QUICK = EvaluateConfig(
    features=("colour_texture",), equal_n=20, num_draws=40, num_distance_draws=20,
    num_permutations=40, min_places=3, groups=("land_cover", "season"), num_cases=0,
)  # fmt: skip


def write_real(folder: Path, *, num_places: int = 16) -> Path:
    """The made-up world as a dataset: three of four places for tests, the others for training."""
    world = made_up_world(num_places, SHAPE)
    (folder / "images").mkdir(parents=True)
    records = []
    for index, (tile, frame) in enumerate(zip(world.tiles, world.frames, strict=True)):
        path = f"images/{index:04d}.png"
        Image.fromarray(frame.rgb).save(folder / path)
        update = {"image_path": path, "height_px": SHAPE[0]}
        records.append(tile.record.model_copy(update=update))
    write_dataset(folder, records)
    return folder


def write_made(folder: Path, real: Path, *, gain: float = 1.0, shift_month: int = 0) -> Path:
    """Images for the test tiles by the law, with another noise: a model that knows it.

    Args:
        folder: Where they go, as a dataset.
        real: Of `write_real`.
        gain: What the model makes of the law's rain.
        shift_month: By how many months of the normals it is late.
    """
    from ecomap.schema import read_dataset

    (folder / "images").mkdir(parents=True)
    records = []
    for number, record in enumerate(read_dataset(real)):
        if record.split != "test":
            continue
        index = (record.month_index - shift_month) % 12
        climate = (
            record.temperature_c_normals[index],
            gain * record.precipitation_mm_day_normals[index],
        )
        path = f"images/{number:04d}.png"
        Image.fromarray(picture(*climate, 7000 + number, SHAPE)).save(folder / path)
        records.append(record.model_copy(update={"image_path": path}))
    write_dataset(folder, records)
    return folder


def write_plain(folder: Path, names: list[str], *, seed: int, side: int = 24) -> Path:
    """Images of which nothing but names is known."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    for name in names:
        coarse = rng.integers(0, 255, (4, 4, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize((side, side), Image.Resampling.BICUBIC).save(folder / name)
    return folder
