"""Train the feature network: land cover, season and climate, read off single images.

Each image answers three questions at once, so that its features must hold what it shows of the
ground, of the time of year, and of the climate. Which of these a tile does not know, it does not
teach. Everything random in a step comes from (seed, step).
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from PIL import Image
from rich.console import Console
from torch import Tensor, nn
from torch.nn import functional as F

from ecomap.accelerators import open_accelerator, require_one_process
from ecomap.feature_batches import (
    UNKNOWN_CLASS,
    Targets,
    climate_scales,
    draw_batch,
    make_targets,
    or_nan,
)
from ecomap.feature_network import (
    FOLDER,
    FeatureNetwork,
    FeatureNetworkConfig,
    Reading,
    Scale,
    load_feature_network,
    predictions_of,
    save_feature_network,
    to_inputs,
)
from ecomap.feature_space import (
    PREDICTED_CLIMATE,
    PREDICTED_LAND_COVER,
    PREDICTED_SEASON_MONTH,
    Images,
    season_month,
)
from ecomap.loop import optimise
from ecomap.places import places_digest
from ecomap.progress import open_console
from ecomap.run_folder import open_run
from ecomap.schema import TileRecord, unique
from ecomap.train_autoencoder import Frames, open_frames
from ecomap.train_config import FeatureTrainConfig
from ecomap.training_draws import Part
from ecomap.training_report import write_training_page


def feature_loss(
    reading: Reading, targets: Targets, climate_weight: float
) -> tuple[Tensor, dict[str, float]]:
    """Cross-entropy of land cover and of season, and absolute error of known climate.

    Returns:
        Their weighted sum, and each of them. A question that no image of the batch can answer
        counts as 0.
    """
    month = F.cross_entropy(reading.season_month.float(), targets.season_month)
    has_cover = (targets.land_cover != UNKNOWN_CLASS).any()
    cover = reading.land_cover.float().sum() * 0
    if has_cover:
        cover = F.cross_entropy(
            reading.land_cover.float(), targets.land_cover, ignore_index=UNKNOWN_CLASS
        )
    known = ~targets.climate.isnan()
    errors = (reading.climate.float() - targets.climate.nan_to_num()).abs() * known
    climate = errors.sum() / known.sum().clamp(min=1)
    parts = {"land_cover": cover, "season_month": month, "climate": climate}
    loss = cover + month + climate_weight * climate
    return loss, {name: value.item() for name, value in parts.items()}


@torch.no_grad()
def held_out_figures(
    network: FeatureNetwork, images: Images, records: Sequence[TileRecord], batch_size: int = 64
) -> dict[str, float]:
    """How well the network answers for unaltered images, in the units of users.

    Returns:
        ``land_cover_accuracy`` (share right), ``month_error`` (mean circular distance, months) and
        ``{variable}_error`` (mean absolute error); what no record knows is absent.
    """
    device = next(network.parameters()).device
    size_px, scales = network.config.input_size_px, network.config.climate
    parts = []
    for start in range(0, len(images), batch_size):
        inputs = to_inputs(images[start : start + batch_size], size_px).to(device)
        parts.append(predictions_of(network(inputs), scales))
    said = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    covers = np.array([r.land_cover or 0 for r in records])
    months = season_month([r.month_index for r in records], [r.lat for r in records]) + 1
    apart = np.abs(said[PREDICTED_SEASON_MONTH] - months)
    figures = {"month_error": float(np.minimum(apart, 12 - apart).mean())}
    if covers.any():
        right = said[PREDICTED_LAND_COVER] == covers
        figures["land_cover_accuracy"] = float(right[covers > 0].mean())
    for name in scales:
        values = np.array([or_nan(getattr(record, name)) for record in records], np.float64)
        if not np.isnan(values).all():
            error = np.abs(np.asarray(said[PREDICTED_CLIMATE[name]], np.float64) - values)
            figures[f"{name}_error"] = float(np.nanmean(error))
    return figures


def held_out_images(frames: Frames, num: int, size_px: int) -> tuple[Images, list[TileRecord]]:
    """Whole frames evenly spread over the records, as the network takes them in."""
    index = np.unique(np.linspace(0, len(frames.records) - 1, num).round().astype(int))
    records = [frames.records[i] for i in index]
    images = [
        np.asarray(
            Image.fromarray(frames.reader.read(record)).resize(
                (size_px, size_px), Image.Resampling.BILINEAR
            )
        )
        for record in records
    ]
    return np.stack(images), records


def make_card(config: FeatureTrainConfig, sources: Sequence[Frames]) -> dict[str, Any]:
    """What the network is and what it was trained on; its figures are added after training."""
    records = [record for frames in sources for record in frames.records]
    settings = config.model_dump(mode="json")
    return {
        "name": config.name,
        "version": config.version,
        "imagery": config.imagery or ", ".join(unique(record.source for record in records)),
        "limits": config.limits,
        "license": "Apache-2.0",
        "attribution": [
            *unique(record.attribution for record in records if record.attribution),
            *unique(record.climate_source for record in records if record.climate_source),
            *config.attribution,
        ],
        "training": {
            "tiles": len(records),
            "places": len({record.place_id for record in records}),
            "places_sha256": places_digest(records),
            "config": settings | {"datasets": [folder.name for folder in config.datasets]},
        },
    }


def train(
    config: FeatureTrainConfig,
    output: Path,
    *,
    device: str = "cpu",
    console: Console | None = None,
) -> Path:
    """Train a feature network and save it.

    Args:
        config: Complete settings.
        output: Run folder; resumed if it holds the same run.
        device: Torch device.
        console: Where progress is shown.

    Returns:
        Folder of the averaged weights, ``output/feature_network``.

    Raises:
        ConfigError: If the folder holds another run, or several processes were launched.
        DataError: If a dataset lacks a side of its split, or knows no climate.
    """
    console = console or open_console()
    accelerator = open_accelerator(config.bf16, device)
    require_one_process(accelerator, config.task, config.optim.micro_batches)
    sources = open_frames(config.datasets, "train")
    held_out = {
        frames.name: held_out_images(frames, config.num_validation, config.input_size_px)
        for frames in open_frames(config.datasets, "val")
    }
    scales = climate_scales([record for frames in sources for record in frames.records])
    with open_run(output, config, config.datasets):
        return _train(
            config, output, sources=sources, held_out=held_out, scales=scales,
            accelerator=accelerator, console=console,
        )  # fmt: skip


def _train(
    config: FeatureTrainConfig,
    output: Path,
    *,
    sources: Sequence[Frames],
    held_out: Mapping[str, tuple[Images, list[TileRecord]]],
    scales: dict[str, Scale],
    accelerator: Accelerator,
    console: Console,
) -> Path:
    """Train on what was read, in a folder that no other run gets into."""
    device = accelerator.device
    torch.manual_seed(config.seed)
    sizes = FeatureNetworkConfig(
        input_size_px=config.input_size_px,
        widths=config.widths,
        blocks=config.blocks,
        climate=scales,
        card=make_card(config, sources),
    )
    network = FeatureNetwork(sizes).to(memory_format=torch.channels_last).to(device)

    def draw(step: int, _: Part) -> tuple[Tensor, Targets]:
        images, records = draw_batch(sources, config, step)
        targets = make_targets(records, scales)
        targets = replace(targets, **{k: v.to(device) for k, v in vars(targets).items()})
        return to_inputs(images, config.input_size_px).to(device), targets

    def loss(learner: nn.Module, batch: tuple[Tensor, Targets]) -> tuple[Tensor, dict[str, float]]:
        inputs, targets = batch
        return feature_loss(learner(inputs), targets, config.climate_weight)

    def validate(_: nn.Module) -> dict[str, float]:
        return {
            f"val_{key}_{name}": value
            for name, (images, records) in held_out.items()
            for key, value in held_out_figures(network, images, records).items()
        }

    optimise(
        network, draw, loss, config.optim, output, accelerator=accelerator, validate=validate,
        console=console, seed=config.seed,
    )  # fmt: skip
    write_training_page(output)
    folder = output / FOLDER
    save_feature_network(network, folder)
    saved = load_feature_network(folder)  # figures of what is kept, after its rounding
    figures = {
        name: {key: round(value, 4) for key, value in held_out_figures(saved, *pairs).items()}
        | {"tiles": len(pairs[1]), "places": len({record.place_id for record in pairs[1]})}
        for name, pairs in held_out.items()
    }
    saved.config = sizes.model_copy(update={"card": sizes.card | {"validation": figures}})
    save_feature_network(saved, folder)
    return folder
