"""Train the transformer, its text encoders and the climate encoder on cached latents.

The loop is `ecomap.loop.optimise`; here is what a step learns: rectified flow on latents, with
a prompt drawn for every sample and epoch, and both doors and single facts withheld at random.
Everything random in a step comes from (seed, step).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from torch import Tensor, nn
from torch.nn import functional as F

from ecomap.build import build_bundle
from ecomap.card import DOORS, BundleCard
from ecomap.climate import known_variables
from ecomap.climate_encoder import WITHHELD_GROUPS, ClimateBatch, climate_batch
from ecomap.dataset import Vae, cached_latents, gather, load_vae
from ecomap.errors import ConfigError, DataError
from ecomap.flow import MODE_SCALE, add_noise, sample_sigma, target_velocity
from ecomap.loop import open_run, optimise, progress_bar
from ecomap.model import (
    EMPTY_PROMPT,
    Bundle,
    encode_condition,
    load_bundle,
    predict_velocity,
    save_bundle,
)
from ecomap.places import places_digest
from ecomap.prompt import MASKS, draw_prompt
from ecomap.schema import TileRecord, read_dataset, unique
from ecomap.train_config import DropConfig, TrainConfig

VALIDATION_LEVELS = 8
"""Equally spaced noise levels of the held-out loss (Esser et al., 2024, sec. 5.1)."""


@dataclass(frozen=True)
class Samples:
    """Records of one side of a split with their latents and climate inputs."""

    records: list[TileRecord]
    latents: np.ndarray
    climate: ClimateBatch


def draw_index(num_records: int, batch_size: int, seed: int, step: int) -> tuple[np.ndarray, int]:
    """Records of a step, from a new shuffle every epoch; and the epoch.

    Every record comes once an epoch; what does not fill a batch at its end waits for the next one.
    """
    per_epoch = num_records // batch_size
    epoch, position = divmod(step, per_epoch)
    order = np.random.default_rng([seed, 1, epoch]).permutation(num_records)
    return order[position * batch_size : (position + 1) * batch_size], epoch


def draw_doors(
    num_samples: int, drop: DropConfig, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Which samples have text and which have tokens, bool ``(B,)`` each."""
    shares = [drop.text_and_tokens, drop.tokens_only, drop.text_only, drop.nothing]
    edges = torch.tensor(shares).cumsum(0) / sum(shares)
    case = torch.searchsorted(edges, torch.rand(num_samples, generator=generator))
    return (case == 0) | (case == 2), (case == 0) | (case == 1)


def ramped_null_tokens(full: int, ramp: tuple[int, int], step: int) -> float:
    """Number of zero tokens at a step: 1 before the ramp, geometric on it, all after it."""
    first, last = ramp
    progress = 1.0 if step >= last else max(0.0, (step - first) / max(1, last - first))
    return float(full**progress)


def flow_loss(
    bundle: Bundle,
    samples: Samples,
    index: np.ndarray,
    config: TrainConfig,
    *,
    step: int,
    epoch: int,
) -> Tensor:
    """Rectified-flow loss of a training step: mean squared error of the velocity."""
    generator = torch.Generator().manual_seed(config.seed * 1_000_003 + step)
    chosen, device = torch.from_numpy(index), bundle.device
    has_text, has_tokens = draw_doors(len(index), config.drop, generator)
    climate = samples.climate.select(chosen)
    for group in WITHHELD_GROUPS:
        where = torch.rand(len(index), generator=generator) < config.drop.group
        climate = climate.withhold(group, where)
    masks = MASKS[config.masks]
    prompts = [
        draw_prompt(samples.records[i], masks, seed=config.seed, sample_index=int(i), epoch=epoch)
        if has_text[place]
        else EMPTY_PROMPT
        for place, i in enumerate(index)
    ]
    clean = gather(samples.latents, chosen).to(device)
    noise = torch.randn(clean.shape, generator=generator).to(device)
    sigma = sample_sigma(
        config.density,
        (len(index),),
        generator,
        mean=config.density_mean,
        std=config.density_std,
        scale=MODE_SCALE if config.density_scale is None else config.density_scale,
        shift=config.shift,
    ).to(device)
    condition = encode_condition(
        bundle,
        prompts,
        climate.to(device),
        has_tokens=has_tokens.to(device),
        null_tokens=ramped_null_tokens(bundle.card.t5_null_tokens, config.null_ramp, step),
    )
    velocity = predict_velocity(
        bundle.transformer, add_noise(clean, noise, sigma), sigma, condition
    )
    return F.mse_loss(velocity.float(), target_velocity(clean, noise))


@torch.no_grad()
def validation_loss(bundle: Bundle, samples: Samples, config: TrainConfig) -> dict[str, float]:
    """Loss on held-out frames at fixed noise levels with fixed noise, both doors open.

    Also with the climate series of other frames, whose excess shows that the climate is used.
    """
    generator = torch.Generator().manual_seed(config.seed)
    count = len(samples.records)
    noise = torch.randn(samples.latents.shape, generator=generator)
    levels = (torch.arange(count) % VALIDATION_LEVELS + 0.5) / VALIDATION_LEVELS
    masks = MASKS["fixed_caption"]
    losses: dict[str, list[float]] = {"val_loss": [], "val_loss_shuffled": []}
    shuffled = torch.roll(torch.arange(count), count // 2 + 1)
    for start in range(0, count, config.batch_size):
        index = torch.arange(start, min(start + config.batch_size, count))
        clean = gather(samples.latents, index).to(bundle.device)
        sigma, step_noise = levels[index].to(bundle.device), noise[index].to(bundle.device)
        noisy = add_noise(clean, step_noise, sigma)
        for name, source in (("val_loss", index), ("val_loss_shuffled", shuffled[index])):
            prompts = [
                draw_prompt(samples.records[i], masks, seed=0, sample_index=i, epoch=0)
                for i in source.tolist()
            ]
            climate = samples.climate.select(source).to(bundle.device)
            condition = encode_condition(bundle, prompts, climate)
            velocity = predict_velocity(bundle.transformer, noisy, sigma, condition)
            error = (velocity.float() - target_velocity(clean, step_noise)).square()
            losses[name] += error.mean((1, 2, 3)).tolist()
    return {name: float(np.mean(values)) for name, values in losses.items()}


def train(
    config: TrainConfig, output: Path, *, device: str = "cpu", console: Console | None = None
) -> Path:
    """Train a bundle and save it.

    Args:
        config: Complete settings.
        output: Run folder; resumed if it holds the same run.
        device: Torch device.
        console: Where progress is shown.

    Returns:
        Folder of the bundle with averaged weights, ``output/bundle``.

    Raises:
        ConfigError: If the masks are unknown or the folder holds another run.
        DataError: If the dataset has too few tiles on a side of its split.
    """
    console = console or Console(stderr=True)
    if config.masks not in MASKS:
        raise ConfigError(f"masks is {config.masks!r}; choose one of {', '.join(MASKS)}.")
    vae, shipped_vae = load_vae(config.vae), load_vae(config.bundle_vae or config.vae)
    training, held_out = load_samples(config, vae, device, console)
    open_run(output, config, [config.dataset])
    torch.manual_seed(config.seed)
    start = None if config.start is None else load_bundle(config.start.bundle, device="cpu")
    card = make_card(config, training.records, start.card if start else None)
    bundle = build_bundle(config.transformer, card, vae, config.shift)
    modules = bundle.modules()
    if config.start is not None and start is not None:
        take_weights(modules, start, config.start.parts)
    for module in modules.values():
        module.to(device).train()

    kind = torch.device(device).type

    def step_loss(step: int) -> tuple[Tensor, dict[str, float]]:
        index, epoch = draw_index(len(training.records), config.batch_size, config.seed, step)
        with torch.autocast(kind, torch.bfloat16, enabled=config.bf16):
            return flow_loss(bundle, training, index, config, step=step, epoch=epoch), {}

    def validate() -> dict[str, float]:
        with torch.autocast(kind, torch.bfloat16, enabled=config.bf16):
            return validation_loss(bundle, held_out, config)

    ema = optimise(step_loss, modules, config.optim, output, validate=validate, console=console)
    ema.copy_to([p for m in modules.values() for p in m.parameters() if p.requires_grad])
    save_bundle(replace(bundle, vae=shipped_vae), output / "bundle")
    return output / "bundle"


def take_weights(modules: Mapping[str, nn.Module], start: Bundle, parts: Sequence[str]) -> None:
    """Copy the weights of some networks from a bundle.

    Raises:
        ConfigError: If a part is unknown or has another shape there.
    """
    given = start.modules()
    for part in parts:
        if part not in modules or part not in given:
            raise ConfigError(
                f"start.parts names {part!r}; choose from "
                f"{', '.join(sorted(modules.keys() & given.keys()))}."
            )
        try:
            modules[part].load_state_dict(given[part].state_dict())
        except RuntimeError as error:
            raise ConfigError(
                f"{part} of {start.path} does not fit: {str(error).splitlines()[-1].strip()} "
                "Leave it out of start.parts, or give the sizes of the bundle."
            ) from None


def load_samples(
    config: TrainConfig, vae: Vae, device: str, console: Console
) -> tuple[Samples, Samples]:
    """Training samples, and a fixed choice of validation samples.

    Raises:
        DataError: If a side of the split has too few tiles.
    """
    records = read_dataset(config.dataset)
    training = [record for record in records if record.split == "train"]
    held_out = [record for record in records if record.split == "val"]
    if len(training) < config.batch_size or not held_out:
        raise DataError(
            f"{config.dataset} has {len(training)} training and {len(held_out)} validation tiles. "
            f"Expected at least {config.batch_size} and 1; run 'ecomap data split' on it."
        )
    spread = np.linspace(0, len(held_out) - 1, min(config.num_validation, len(held_out)))
    held_out = [held_out[i] for i in spread.round().astype(int)]
    samples = []
    with progress_bar(console) as progress:
        for side in (training, held_out):
            latents = cached_latents(
                vae, side, config.dataset, config.cache, device=device, bf16=config.bf16,
                progress=progress,
            )  # fmt: skip
            samples.append(Samples(side, latents, climate_batch(side)))
    return samples[0], samples[1]


def make_card(
    config: TrainConfig, records: Sequence[TileRecord], start: BundleCard | None = None
) -> BundleCard:
    """Card of a bundle trained on some records.

    Args:
        config: Complete settings.
        records: The training side.
        start: Card of the bundle that training started from; its training is carried over.
    """
    first = records[0]
    return BundleCard(
        name=config.name,
        version=config.version,
        image_size_px=first.width_px,
        ground_sampling_distance_m=first.ground_sampling_distance_m,
        grid="geographic" if first.crs == "EPSG:4326" else "utm",
        doors=DOORS,
        trained_variables=known_variables(records),
        imagery=config.imagery or ", ".join(unique(record.source for record in records)),
        limits=config.limits,
        min_land_frac=min((r.land_frac for r in records if r.land_frac is not None), default=0.0),
        license="Apache-2.0",
        attribution=(
            *unique(record.attribution for record in records),
            *unique(record.climate_source for record in records if record.climate_source),
            *config.attribution,
        ),
        training={
            "tiles": len(records),
            "places": len({record.place_id for record in records}),
            "places_sha256": places_digest(records),
            "config": config.model_dump(mode="json"),
            **({} if start is None else {"started_from": start.training}),
        },
    )
