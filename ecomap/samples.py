"""Samples of a training: records with latents, texts and controls that are encoded once."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from rich.console import Console
from rich.progress import Progress

from ecomap.card import BundleCard
from ecomap.climate import values_alone
from ecomap.climate_encoder import ClimateBatch, climate_batch
from ecomap.conditions import EMPTY_PROMPT
from ecomap.control_table import ControlTable, open_control, references_of
from ecomap.errors import DataError
from ecomap.frame_variants import Variants
from ecomap.latent_cache import LatentTable, kept_latents
from ecomap.model import Bundle
from ecomap.progress import progress_bar
from ecomap.prompt import MASKS, Prompt, draw_prompt
from ecomap.schema import CLIMATE, TileRecord, read_dataset
from ecomap.text_cache import TextTable, kept_text, variant_prompts
from ecomap.transformer_config import TrainConfig

VALIDATION_MASKS = MASKS["fixed_caption"]
"""Held-out tiles are told everything that is known of them."""


@dataclass(frozen=True)
class Samples:
    """One side of a split: its records and what is kept of each."""

    records: list[TileRecord]
    latents: LatentTable
    climate: ClimateBatch
    text: TextTable | None
    """``None`` where text encoders run in the loop."""
    control: ControlTable | None


def read_sides(
    config: TrainConfig, console: Console
) -> tuple[list[TileRecord], list[TileRecord], list[TileRecord]]:
    """Training records, a fixed choice of validation records, and all that references may be.

    Raises:
        DataError: If a side has too few usable tiles; the reasons are counted.
    """
    records = read_dataset(config.dataset)
    left_out: Counter[str] = Counter()
    usable = []
    for record in records:
        if reason := _unusable(record, config):
            left_out[reason] += 1
        else:
            usable.append(record)
    sides = {side: [r for r in usable if r.split == side] for side in ("train", "val")}
    training = spread(sides["train"], config.max_tiles or len(usable))
    held_out = spread(sides["val"], config.num_validation)
    counts = ", ".join(f"{count} {reason}" for reason, count in sorted(left_out.items()))
    counts = f"; left out of all {len(records)}: {counts}" if counts else ""
    if len(training) < config.batch_size or not held_out:
        raise DataError(
            f"{config.dataset} gives {len(training)} training and {len(held_out)} validation tiles"
            f"{counts}. Expected at least batch_size ({config.batch_size}) and 1; run 'ecomap data "
            "split' on it, or choose other settings."
        )
    console.print(f"{len(training)} training and {len(held_out)} validation tiles{counts}.")
    return training, held_out, [*training, *sides["val"]]


def spread(records: list[TileRecord], count: int) -> list[TileRecord]:
    """So many of some records, evenly over the list."""
    if count >= len(records):
        return records
    return [records[i] for i in np.linspace(0, len(records) - 1, count).round().astype(int)]


def _unusable(record: TileRecord, config: TrainConfig) -> str:
    """Why a record cannot be learnt from; empty if it can."""
    if record.image_path is None:
        return "without a frame"
    if config.require_climate and all(getattr(record, name) is None for name in CLIMATE):
        return "without climate"
    if flags := set(config.leave_out_flags) & set(record.flags):
        return f"flagged {min(flags)}"
    if config.crop_px and min(record.width_px, record.height_px) < config.crop_px:
        return f"smaller than crop_px {config.crop_px}"
    return ""


def open_samples(
    config: TrainConfig,
    bundle: Bundle,
    sides: tuple[list[TileRecord], list[TileRecord], list[TileRecord]],
    *,
    prompts: Sequence[Prompt] = (),
    device: str,
    console: Console,
) -> tuple[Samples, Samples]:
    """Encode what is not kept yet, and open both sides.

    Args:
        config: Complete settings.
        bundle: Its autoencoder and text encoders encode.
        sides: From `read_sides`.
        prompts: Texts that pictures will need beside those of the records.
        device: Where to encode.
        console: Where progress is shown.

    Returns:
        Training and validation samples.
    """
    training, held_out, known = sides
    with progress_bar(console, has_loss=False) as progress:
        keep = partial(
            kept_latents, bundle.vae, folder=config.dataset, cache=config.cache,
            cloud_masks=config.cloud_masks, device=device, bf16=config.bf16, progress=progress,
        )  # fmt: skip
        variants = Variants(config.crop_px, config.variants, config.flips)
        whole = Variants(config.crop_px)
        latents = [keep(training, variants=variants), keep(held_out, variants=whole)]
        controls = [
            _open_control(config, bundle, side, pool, keep, kinds, console)
            for side, pool, kinds in ((training, training, variants), (held_out, known, whole))
        ]
        text = None
        if config.text_variants:
            texts = [EMPTY_PROMPT, *prompts]
            for i, record in enumerate(training):
                texts += variant_prompts(
                    record, MASKS[config.masks], config.seed, i, config.text_variants
                )
            texts += [validation_prompt(record) for record in held_out]
            text = _keep_text(config, bundle, texts, device, progress)
    if latents[0].num_unmasked:
        console.print(
            f"{latents[0].num_unmasked} training frames have no mask: all of them counts."
        )
    return (
        Samples(training, latents[0], _climate(bundle.card, training), text, controls[0]),
        Samples(held_out, latents[1], _climate(bundle.card, held_out), text, controls[1]),
    )


def _climate(card: BundleCard, records: Sequence[TileRecord]) -> ClimateBatch:
    """What the climate encoder is told of a side: what the result will be told in sampling."""
    return climate_batch(records if card.trained_anomalies else [values_alone(r) for r in records])


def _open_control(
    config: TrainConfig,
    bundle: Bundle,
    side: list[TileRecord],
    pool: list[TileRecord],
    keep: Callable[..., LatentTable],
    variants: Variants,
    console: Console,
) -> ControlTable | None:
    """Controls of a side, whose references are of the pool."""
    learn, spec = config.learn, bundle.control
    if spec is None or learn is None or learn.controlnet is None:
        return None
    references = references_of(spec, side, pool)
    console.print(references.render())
    return open_control(
        spec,
        references,
        keep=partial(keep, cloud_masks=None),  # a user's reference comes without a mask
        variants=variants,
        folder=config.dataset,
        cache=config.cache,
        weights=learn.controlnet.detector_weights,
    )


def _keep_text(
    config: TrainConfig, bundle: Bundle, texts: Sequence[Prompt], device: str, progress: Progress
) -> TextTable:
    """Embeddings of all texts; encoders are on the device only meanwhile."""
    encoders = [*bundle.text_encoders, bundle.text_encoder_3]
    present = [encoder for encoder in encoders if encoder is not None]
    for encoder in present:
        encoder.to(device)
    table = kept_text(
        bundle, texts, config.cache, t5_tokens=bundle.card.t5_null_tokens, use_t5=config.use_t5,
        progress=progress,
    )  # fmt: skip
    for encoder in present:
        encoder.to("cpu")
    return table


def validation_prompt(record: TileRecord) -> Prompt:
    """What a held-out tile is told: all that is known of it, always the same."""
    return draw_prompt(record, VALIDATION_MASKS, seed=0, sample_index=0, epoch=0)
