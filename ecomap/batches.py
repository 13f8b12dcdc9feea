"""Batches of a training: what a step or a validation reads, gathered from what is kept."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ecomap.climate_encoder import WITHHELD_GROUPS
from ecomap.conditions import EMPTY_PROMPT, TextEmbedding, TextIds, tokenize
from ecomap.flow import MODE_SCALE
from ecomap.learner import FlowBatch
from ecomap.model import Bundle
from ecomap.prompt import MASKS, Prompt, draw_prompt
from ecomap.samples import Samples, validation_prompt
from ecomap.schema import TileRecord
from ecomap.training_draws import DrawSettings, Sampler, StepDraw, draw_holes, draw_noise
from ecomap.transformer_config import TrainConfig
from ecomap.validation import HeldOutRows

VALIDATION_REFERENCE = 0.5
"""Held-out tiles always see the same of their references."""


def open_sampler(config: TrainConfig, records: Sequence[TileRecord]) -> Sampler:
    """What draws the steps of a training."""
    drop = config.drop
    learn = config.learn
    settings = DrawSettings(
        batch_size=config.batch_size,
        seed=config.seed,
        door_shares=(drop.text_and_tokens, drop.tokens_only, drop.text_only, drop.nothing),
        drop_group=drop.group,
        num_groups=len(WITHHELD_GROUPS),
        drop_control=learn.controlnet.drop if learn and learn.controlnet else 0.0,
        num_variants=config.variants,
        num_text_variants=max(1, config.text_variants),
        class_balance=config.class_balance,
        density=config.density,
        density_mean=config.density_mean,
        density_std=config.density_std,
        density_scale=MODE_SCALE if config.density_scale is None else config.density_scale,
        shift=config.shift,
    )
    classes = [-1 if record.land_cover is None else int(record.land_cover) for record in records]
    return Sampler(len(records), settings, classes=classes)


def training_batch(
    config: TrainConfig, bundle: Bundle, samples: Samples, drawn: StepDraw
) -> FlowBatch:
    """Batch of some rows of a step, on the CPU."""
    index = drawn.index.numpy()
    climate = samples.climate.rows(drawn.index)
    for place, group in enumerate(WITHHELD_GROUPS):
        climate = climate.withhold(group, drawn.withheld[:, place])
    # Texts that are encoded once have a few variants; others are new in every epoch.
    variants = drawn.text_variant.tolist() if config.text_variants else [drawn.epoch] * len(drawn)
    masks = MASKS[config.masks]
    prompts = [
        draw_prompt(samples.records[i], masks, seed=config.seed, sample_index=i, epoch=variant)
        if has_text
        else EMPTY_PROMPT
        for i, variant, has_text in zip(
            index.tolist(), variants, drawn.has_text.tolist(), strict=True
        )
    ]
    holes = None
    control = config.learn.controlnet if config.learn else None
    if control is not None and control.holes:
        cells = (samples.latents.shape[1], samples.latents.shape[2])
        holes = draw_holes(config.seed, drawn.step, drawn.row, cells, share=control.holes)
    null_tokens = ramped_null_tokens(bundle.card.t5_null_tokens, config.null_ramp, drawn.step)
    return _batch(
        bundle,
        samples,
        prompts,
        index=drawn.index,
        variant=drawn.variant,
        reference=drawn.reference,
        has_control=drawn.has_control,
        holes=holes,
        noise=draw_noise(config.seed, drawn.step, drawn.row, samples.latents.shape),
        sigma=drawn.sigma,
        climate=climate,
        has_tokens=drawn.has_tokens,
        null_tokens=null_tokens,
    )


def validation_batch(
    config: TrainConfig, bundle: Bundle, samples: Samples, rows: HeldOutRows
) -> FlowBatch:
    """Batch of held-out rows, both doors open, on the CPU."""
    count = len(rows.index)
    return _batch(
        bundle,
        samples,
        [validation_prompt(samples.records[i]) for i in rows.told.tolist()],
        index=rows.index,
        variant=torch.zeros_like(rows.index),
        reference=torch.full((count,), VALIDATION_REFERENCE, dtype=torch.float64),
        has_control=torch.ones(count, dtype=torch.bool),
        noise=rows.noise(config.seed, samples.latents.shape),
        sigma=rows.sigma,
        climate=samples.climate.rows(rows.told),
        has_tokens=torch.ones(count, dtype=torch.bool),
        null_tokens=bundle.card.t5_null_tokens,
    )


def _batch(
    bundle: Bundle,
    samples: Samples,
    prompts: Sequence[Prompt],
    *,
    index: Tensor,
    variant: Tensor,
    reference: Tensor,
    has_control: Tensor,
    null_tokens: float,
    holes: Tensor | None = None,
    **rest: Any,
) -> FlowBatch:
    """Gather what is kept of some samples."""
    where, kind = index.numpy(), variant.numpy()
    length = bundle.card.t5_null_tokens
    text: TextEmbedding | TextIds
    if samples.text is not None:
        text = samples.text.read(prompts)
    else:
        text = tokenize(prompts, bundle.tokenizers, bundle.tokenizer_3, t5_tokens=length)
    control = None
    if samples.control is not None:
        control = samples.control.read(
            where, reference.numpy(), kind, has_control.numpy(), holes=holes
        )
    return FlowBatch(
        clean=samples.latents.read(where, kind),
        weights=samples.latents.weights(where, kind),
        text=text,
        control=control,
        null_tokens=null_tokens,
        **rest,
    )


def ramped_null_tokens(full: int, ramp: tuple[int, int], step: int) -> float:
    """Number of zero tokens at a step: 1 before the ramp, geometric on it, all after it."""
    first, last = ramp
    progress = 1.0 if step >= last else max(0.0, (step - first) / max(1, last - first))
    return float(full**progress)
