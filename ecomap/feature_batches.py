"""What a step of the feature network's training reads: altered crops, and what is known of them."""

import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from ecomap.errors import DataError
from ecomap.feature_network import Scale
from ecomap.feature_space import Images, season_month
from ecomap.schema import CLIMATE, TileRecord
from ecomap.train_autoencoder import Frames
from ecomap.train_config import FeatureTrainConfig

LOG_VARIABLES = frozenset({"precipitation_mm_day"})
"""Standardised as ``log(1 + value)``: most months are dry, and a few very wet."""

UNKNOWN_CLASS = -100
"""Land-cover target of a tile whose class is not known."""

JPEG_QUALITIES = (40, 96)
"""Range of JPEG's quality in training crops."""


@dataclass(frozen=True)
class Targets:
    """What is known of the images of a batch."""

    land_cover: Tensor
    """int64 ``(B,)``: IGBP code less one, or `UNKNOWN_CLASS`."""
    season_month: Tensor
    """int64 ``(B,)``, 0 to 11."""
    climate: Tensor
    """float32 ``(B, V)``, standardised; NaN where not known."""


def climate_scales(records: Sequence[TileRecord]) -> dict[str, Scale]:
    """Mean and spread of each climate variable that any record knows.

    Raises:
        DataError: If no variable is known, or one has the same value everywhere.
    """
    scales = {}
    for name in CLIMATE:
        known = [value for r in records if (value := getattr(r, name)) is not None]
        if not known:
            continue
        log = name in LOG_VARIABLES
        values = np.log1p(known) if log else np.array(known, np.float64)
        if not values.std() > 0:
            raise DataError(
                f"{name} is {known[0]} in all training records that know it; nothing can be learnt "
                "of it. Use tiles of several climates."
            )
        scales[name] = Scale(log=log, mean=float(values.mean()), std=float(values.std()))
    if not scales:
        raise DataError(
            f"None of {len(records)} training records knows its climate. Expected values of "
            f"{', '.join(CLIMATE)}; import the dataset with a climate source."
        )
    return scales


def make_targets(records: Sequence[TileRecord], scales: dict[str, Scale]) -> Targets:
    """What the network should say of the frames of records."""
    covers = [UNKNOWN_CLASS if r.land_cover is None else int(r.land_cover) - 1 for r in records]
    months = season_month([r.month_index for r in records], [r.lat for r in records])
    climate = [
        scale.standardise(
            np.array([or_nan(getattr(record, name)) for record in records], np.float64)
        )
        for name, scale in scales.items()
    ]
    return Targets(
        torch.tensor(covers, dtype=torch.int64),
        torch.from_numpy(months.astype(np.int64)),
        torch.from_numpy(np.stack(climate, axis=1).astype(np.float32)),
    )


def or_nan(value: float | None) -> float:
    """NaN for what is not known."""
    return float("nan") if value is None else value


def draw_batch(
    sources: Sequence[Frames], config: FeatureTrainConfig, step: int
) -> tuple[Images, list[TileRecord]]:
    """Altered crops uint8 ``(B, S, S, 3)`` of a step, and their records.

    The same step always gives the same batch. Crops are turned and flipped (none of the answers
    depends on which way is up), brightened, noised, and now and then compressed.
    """
    rng = np.random.default_rng([config.seed, step])
    weights = np.array(config.dataset_weights, float)
    chosen = rng.choice(len(sources), size=config.batch_size, p=weights / weights.sum())
    records, crops = [], []
    for index in chosen:
        frames = sources[index]
        record = frames.records[int(rng.integers(len(frames.records)))]
        crop = draw_crop(frames.reader.read(record), config, rng)
        records.append(record)
        crops.append(alter(crop, config, rng))
    return np.stack(crops), records


def draw_crop(
    image: NDArray[np.uint8], config: FeatureTrainConfig, rng: np.random.Generator
) -> NDArray[np.uint8]:
    """A random square of at least ``min_crop_frac`` of an image, resized, turned and flipped."""
    height, width = image.shape[:2]
    side = max(1, round(min(height, width) * rng.uniform(config.min_crop_frac, 1)))
    row, column = (int(rng.integers(length - side + 1)) for length in (height, width))
    square = Image.fromarray(image[row : row + side, column : column + side])
    size = (config.input_size_px, config.input_size_px)
    resized = np.asarray(square.resize(size, Image.Resampling.BILINEAR))
    turned = np.rot90(resized, int(rng.integers(4)))
    return turned[:, ::-1] if rng.random() < 0.5 else turned


def alter(
    image: NDArray[np.uint8], config: FeatureTrainConfig, rng: np.random.Generator
) -> NDArray[np.uint8]:
    """Gain, noise and now and then JPEG: what differs between products and is not the ground."""
    log_gain = rng.uniform(-1, 1) * np.log(config.max_gain)
    log_gain = log_gain + rng.uniform(-1, 1, 3) * np.log(config.max_tint)
    noise = rng.standard_normal(image.shape, np.float32) * rng.uniform(0, config.max_noise)
    values = image * np.exp(log_gain).astype(np.float32) + noise
    altered = np.clip(np.rint(values), 0, 255).astype(np.uint8)
    quality = int(rng.integers(*JPEG_QUALITIES))
    return through_jpeg(altered, quality) if rng.random() < config.jpeg_probability else altered


def through_jpeg(image: NDArray[np.uint8], quality: int) -> NDArray[np.uint8]:
    """An image after JPEG of a quality from 1 to 95."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=quality)
    return np.asarray(Image.open(buffer))
