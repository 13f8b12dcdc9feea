"""Settings of the loop, the autoencoder and the feature network; YAML holds only what differs."""

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from ecomap.config import Config


class OptimConfig(Config):
    """AdamW with warm-up, a constant stretch and a linear fall to zero."""

    steps: int = Field(default=1000, gt=0)
    """Optimiser steps in total."""
    learning_rate: float = Field(default=1e-4, gt=0)
    """Rate of the constant stretch."""
    warmup_steps: int = Field(default=100, ge=0)
    """Steps over which the rate rises from zero."""
    decay_steps: int = Field(default=0, ge=0)
    """Last steps, over which the rate falls to zero."""
    optimizer: Literal["adamw", "adafactor"] = "adamw"
    """Adafactor keeps nearly no state: for networks whose AdamW does not fit into memory. Its rate
    is relative to each parameter's size, so it needs one far above AdamW's; not under FSDP."""
    beta2: float = Field(default=0.99, gt=0, lt=1)
    """Decay of AdamW's second moment."""
    weight_decay: float = Field(default=0.01, ge=0)
    """AdamW's decoupled weight decay."""
    max_grad_norm: float = Field(default=1.0, gt=0)
    """Gradients are scaled down to this norm."""
    ema_decay: float = Field(default=0.999, ge=0, lt=1)
    """Decay of the averaged weights, which are the ones that are shipped; 0 averages nothing."""
    micro_batches: int = Field(default=1, gt=0)
    """Parts into which each process divides its share of a batch, one after the other: less memory,
    the same gradient."""
    keep_checkpoints: int = Field(default=2, gt=0)
    """Newest checkpoints that stay, beside the best one."""
    log_every: int = Field(default=20, gt=0)
    """Steps between lines of numbers."""
    validate_every: int = Field(default=500, gt=0)
    """Steps between validations of the averaged weights."""
    checkpoint_every: int = Field(default=500, gt=0)
    """Steps between checkpoints."""


class AutoencoderTrainConfig(Config):
    """Training of the small autoencoder in SD3's latent space."""

    task: Literal["autoencoder"] = "autoencoder"
    datasets: tuple[Path, ...]
    """Dataset folders with splits."""
    dataset_weights: tuple[float, ...]
    """Share of each dataset in a batch, in their order."""
    teacher: Path
    """Folder of TAESD3 in diffusers layout."""
    start: Path | None = None
    """Trained autoencoder of the same widths to start from; by default it starts untrained."""
    channels: tuple[int, int, int, int] = (24, 48, 96, 128)
    """Width of each of the four resolutions; multiples of 8."""
    image_size_px: int = Field(default=128, gt=0)
    """Size of large crops and of validation images."""
    crop_px: int = Field(default=64, gt=0)
    """Size of ordinary crops: a step costs in proportion to pixels."""
    large_crop_probability: float = Field(default=0.25, ge=0, le=1)
    """Share of the steps whose batch has few large crops in place of many ordinary ones."""
    batch_size: int = Field(default=16, gt=0)
    """Ordinary crops a step."""
    gain_probability: float = Field(default=0.5, ge=0, le=1)
    """Share of crops whose channels are brightened or darkened at random. Products are stretched
    in different ways; without it, a desert clipped in red that no training frame resembled was
    reconstructed 14 dB behind the teacher."""
    own_frac: float = Field(default=0.25, gt=0, le=1)
    """Part of a batch that is also decoded from the autoencoder's own latents, and its weight."""
    latent_weight: float = Field(default=0.1, ge=0)
    """Weight of the distance to the teacher's latents."""
    squared_weight: float = Field(default=4.0, ge=0)
    """Weight of the squared difference beside the absolute one, in pixels and in latents."""
    bf16: bool = True
    """Whether the networks run under bfloat16 autocast."""
    seed: int = Field(default=0, ge=0)
    optim: OptimConfig = OptimConfig()

    @model_validator(mode="after")
    def _can_be_built(self) -> Self:
        if min(self.channels) <= 0 or any(width % 8 for width in self.channels):
            raise ValueError(f"channels {self.channels} must be positive multiples of 8")
        if min(self.dataset_weights, default=0) < 0 or sum(self.dataset_weights) <= 0:
            raise ValueError(
                f"dataset_weights {self.dataset_weights} must not be negative or all 0"
            )
        return self


class FeatureTrainConfig(Config):
    """Training of the feature network: land cover, season and climate read off images."""

    task: Literal["features"] = "features"
    datasets: tuple[Path, ...]
    """Dataset folders with splits."""
    dataset_weights: tuple[float, ...]
    """Share of each dataset in a batch, in their order."""
    name: str = "ecomap-eo"
    """Name on the network's card; likewise the four below."""
    version: str = "0"
    imagery: str = ""
    """What the training images are, in words; by default the datasets' sources."""
    limits: str = ""
    """What the network must not be used for, in words."""
    attribution: tuple[str, ...] = ()
    """Whom the card thanks beside the datasets' own sources."""
    input_size_px: int = Field(default=128, ge=32)
    """Side to which images are brought."""
    widths: tuple[int, ...] = (32, 64, 128, 256)
    """Channels of each stage, multiples of 8; the last is the number of features."""
    blocks: tuple[int, ...] = (1, 2, 2, 1)
    """Residual blocks of each stage."""
    batch_size: int = Field(default=64, gt=0)
    min_crop_frac: float = Field(default=0.8, gt=0, le=1)
    """Least side of a training crop, as a fraction of the tile's."""
    max_gain: float = Field(default=1.1, ge=1)
    """Largest factor (and smallest, inverted) of all channels of a crop. Small, since colour is
    what tells one season from another."""
    max_tint: float = Field(default=1.02, ge=1)
    """Likewise of each channel on top of it."""
    max_noise: float = Field(default=4.0, ge=0)
    """Largest standard deviation of noise, display values."""
    jpeg_probability: float = Field(default=0.3, ge=0, le=1)
    """Share of crops that go through JPEG, so that its traces do not pass for a land cover."""
    climate_weight: float = Field(default=2.0, ge=0)
    """Weight of the mean absolute error of standardised climate beside both cross-entropies."""
    num_validation: int = Field(default=512, gt=0)
    """Held-out tiles of each dataset that are followed."""
    bf16: bool = True
    """Whether the network runs under bfloat16 autocast."""
    seed: int = Field(default=0, ge=0)
    optim: OptimConfig = OptimConfig()

    @model_validator(mode="after")
    def _can_be_built(self) -> Self:
        if len(self.datasets) != len(self.dataset_weights):
            raise ValueError(
                f"dataset_weights {self.dataset_weights} must have one weight for each of "
                f"{len(self.datasets)} datasets"
            )
        if min(self.dataset_weights, default=0) < 0 or sum(self.dataset_weights) <= 0:
            raise ValueError(
                f"dataset_weights {self.dataset_weights} must not be negative or all 0"
            )
        if len(self.widths) != len(self.blocks) or min(*self.blocks, 1) < 1:
            raise ValueError(f"blocks {self.blocks} must be 1 or more for each of {self.widths}")
        if not self.widths or min(self.widths) <= 0 or any(width % 8 for width in self.widths):
            raise ValueError(f"widths {self.widths} must be positive multiples of 8")
        return self
