"""The small autoencoder for SD3's latent space, and the teacher that it learns the space from."""

import json
from pathlib import Path
from typing import TypeAlias

import torch
from diffusers import AutoencoderKL, AutoencoderTiny
from safetensors import SafetensorError
from torch import Tensor, nn

from ecomap.errors import BundleError

Vae: TypeAlias = "AutoencoderKL | AutoencoderTiny"

LATENT_CHANNELS = 16
LATENT_FACTOR = 8
"""Pixels a side of a latent cell."""
SHIFT_FACTOR = 0.0609
SCALING_FACTOR = 1.5305
"""SD3's latents are ``(z - SHIFT_FACTOR) * SCALING_FACTOR`` (Stability-AI/sd3.5, sd3_impls.py)."""

LOG_VARIANCE = -30.0
"""Constant log-variance of the posterior: the encoder is deterministic, sampling adds nothing."""


def build_autoencoder(channels: tuple[int, ...], *, image_size_px: int) -> AutoencoderKL:
    """Build an untrained autoencoder of SD3's latent geometry.

    Args:
        channels: Width of each of the four resolutions; multiples of 8.
        image_size_px: Size it is trained for; it is convolutional and takes others.
    """
    levels = len(channels)
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        block_out_channels=channels,
        layers_per_block=1,
        latent_channels=LATENT_CHANNELS,
        norm_num_groups=8,
        use_quant_conv=False,
        use_post_quant_conv=False,
        mid_block_add_attention=False,
        shift_factor=SHIFT_FACTOR,
        scaling_factor=SCALING_FACTOR,
        sample_size=image_size_px,
    )
    last = vae.encoder.conv_out
    with torch.no_grad():
        last.weight[LATENT_CHANNELS:].zero_()
        last.bias[LATENT_CHANNELS:].fill_(LOG_VARIANCE)
    return vae


class Teacher(nn.Module):
    """TAESD3 (Ollin Boer Bohan, MIT): a tiny autoencoder of SD3's latent space."""

    def __init__(self, folder: Path) -> None:
        """Load frozen weights from a folder in diffusers layout.

        Raises:
            BundleError: If the folder is not there.
        """
        super().__init__()
        if not folder.is_dir():
            raise BundleError(
                f"Teacher folder {folder} does not exist. Point 'teacher' at TAESD3 in diffusers "
                "layout."
            )
        try:
            loaded = AutoencoderTiny.from_pretrained(folder, local_files_only=True)
        except (OSError, ValueError) as error:
            raise BundleError(
                f"Teacher folder {folder} cannot be loaded: {error}. Expected TAESD3 in diffusers "
                "layout."
            ) from None
        self.network: AutoencoderTiny = loaded.float().eval().requires_grad_(False)

    @torch.no_grad()
    def encode(self, pixels: Tensor) -> Tensor:
        """Pixels ``(B, 3, H, W)`` in [-1, 1] -> scaled latents ``(B, 16, H/8, W/8)``."""
        latents: Tensor = self.network.encode(pixels).latents
        return latents

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Latents ``(B, 16, h, w)`` -> pixels ``(B, 3, 8h, 8w)`` clamped to [-1, 1]."""
        pixels: Tensor = self.network.decode(latents).sample
        return pixels.clamp(-1, 1)


def load_vae(folder: Path) -> Vae:
    """Load a frozen autoencoder in diffusers layout, whichever of the two kinds it is.

    Raises:
        BundleError: If the folder holds none.
    """
    try:
        kind = json.loads((folder / "config.json").read_text())["_class_name"]
        classes = {"AutoencoderKL": AutoencoderKL, "AutoencoderTiny": AutoencoderTiny}
        vae: Vae = classes[kind].from_pretrained(folder, local_files_only=True)
    except (OSError, LookupError, TypeError, ValueError, SafetensorError) as error:
        raise BundleError(
            f"{folder} holds no autoencoder ({error!r}). Expected AutoencoderKL or AutoencoderTiny "
            "in diffusers layout."
        ) from None
    return vae.eval().requires_grad_(False)
