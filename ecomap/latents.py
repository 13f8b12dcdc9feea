"""Pixels to latents and back, for any diffusers VAE that states its latent shift and scale.

Image: uint8 ``(B, H, W, 3)``, as files hold it. Pixels: float ``(B, 3, H, W)`` in [-1, 1].
Latents: ``(B, C, H/f, W/f)`` after shift and scale, about unit variance (SD3: C 16, f 8,
``(z - 0.0609) * 1.5305``). Nothing else in ecomap sees unscaled VAE output.
"""

from typing import Any, Protocol

import torch
from torch import Tensor

from ecomap.errors import BundleError

RANGE_TOLERANCE = 1e-3
"""How far pixels may leave [-1, 1]: resampling and bfloat16 round, a wrong range is far off."""


class Vae(Protocol):
    """What is used of diffusers' ``AutoencoderKL`` or ``AutoencoderTiny``."""

    @property
    def config(self) -> Any:
        """Holds ``shift_factor`` and ``scaling_factor``."""

    @property
    def dtype(self) -> torch.dtype:
        """Of the weights; inputs are cast to it."""

    def encode(self, x: Tensor, /) -> Any:
        """Pixels to an output with ``latent_dist``, or with ``latents`` if deterministic."""

    def decode(self, z: Tensor, /) -> Any:
        """Unscaled latents to an output with ``sample``."""


def encode(vae: Vae, pixels: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
    """Encode pixels to scaled latents, ``(z - shift_factor) * scaling_factor``.

    ``z`` is the mode of the posterior, so the same pixels always give the same latents.

    Args:
        vae: Autoencoder; pixels are cast to its dtype.
        pixels: ``(B, 3, H, W)`` in [-1, 1], on the VAE's device.
        generator: Draw ``z`` from the posterior with it instead of taking the mode.

    Returns:
        Latents ``(B, C, H/f, W/f)``, float32 or wider.

    Raises:
        BundleError: If the VAE's config lacks a factor, or a draw is asked of a VAE that has no
            posterior.
        ValueError: If the shape is not ``(B, 3, H, W)`` or a value leaves [-1, 1].
    """
    shift, scale = _factors(vae)
    _require_pixels(pixels)
    output = vae.encode(pixels.to(vae.dtype))
    if hasattr(output, "latent_dist"):
        posterior = output.latent_dist
        z = posterior.mode() if generator is None else posterior.sample(generator)
    elif generator is None:
        z = output.latents
    else:
        raise BundleError(
            f"{type(vae).__name__} encodes without a posterior, so nothing can be drawn from it. "
            "Leave out the generator."
        )
    return (_wide(z) - shift) * scale


def decode(vae: Vae, latents: Tensor) -> Tensor:
    """Decode scaled latents to pixels; inverts the scaling of `encode`.

    Args:
        vae: Autoencoder; unscaled latents are cast to its dtype.
        latents: ``(B, C, h, w)``, on the VAE's device.

    Returns:
        Pixels ``(B, 3, h * f, w * f)`` clamped to [-1, 1], float32 or wider.

    Raises:
        BundleError: If the VAE's config lacks a factor.
    """
    shift, scale = _factors(vae)
    z = (_wide(latents) / scale + shift).to(vae.dtype)
    return _wide(vae.decode(z).sample).clamp(-1, 1)


def to_pixels(image: Tensor) -> Tensor:
    """Turn a batch of images into pixels: 0 becomes -1, 255 becomes 1.

    Args:
        image: uint8 ``(B, H, W, 3)``.

    Returns:
        Contiguous float32 ``(B, 3, H, W)`` in [-1, 1].

    Raises:
        ValueError: If dtype or shape differ; a float image has an unknown range.
    """
    if image.dtype != torch.uint8 or image.ndim != 4 or image.shape[-1] != 3:
        raise ValueError(
            f"image is {image.dtype} of shape {tuple(image.shape)}; expected torch.uint8 of shape "
            "(B, H, W, 3)."
        )
    return (image.permute(0, 3, 1, 2).to(torch.float32) / 127.5 - 1).contiguous()


def to_image(pixels: Tensor) -> Tensor:
    """Turn pixels into a batch of images, rounded to the nearest level; inverts `to_pixels`.

    Args:
        pixels: Float ``(B, 3, H, W)``; values beyond [-1, 1] become 0 or 255.

    Returns:
        Contiguous uint8 ``(B, H, W, 3)``.

    Raises:
        ValueError: If the shape differs, or a pixel is NaN or infinite and thus has no colour.
    """
    _require_shape(pixels)
    if not pixels.isfinite().all():
        raise ValueError(
            f"{int((~pixels.isfinite()).sum())} of {pixels.numel()} pixel values are NaN or "
            "infinite; expected finite ones. Run the VAE in float32 or bfloat16."
        )
    levels = ((_wide(pixels) + 1) * 127.5).round().clamp(0, 255)
    return levels.to(torch.uint8).permute(0, 2, 3, 1).contiguous()


def _factors(vae: Vae) -> tuple[float, float]:
    """Shift and scale; a VAE that leaves one out would silently get latents of another space."""
    shift: float | None = getattr(vae.config, "shift_factor", None)
    scale: float | None = getattr(vae.config, "scaling_factor", None)
    if shift is None or scale is None:
        factors = {"shift_factor": shift, "scaling_factor": scale}
        missing = [name for name, value in factors.items() if value is None]
        raise BundleError(
            f"The config of {type(vae).__name__} has no {' and no '.join(missing)}; latents need "
            "both. Add them to the VAE's config.json (SD3: shift_factor 0.0609, scaling_factor "
            "1.5305; a VAE without shift: 0.0)."
        )
    return shift, scale


def _require_shape(pixels: Tensor) -> None:
    if pixels.ndim != 4 or pixels.shape[1] != 3:
        raise ValueError(f"pixels have shape {tuple(pixels.shape)}; expected (B, 3, H, W).")


def _require_pixels(pixels: Tensor) -> None:
    """Written so that NaN fails as well."""
    _require_shape(pixels)
    low, high = (float(value) for value in pixels.aminmax())
    if not (low >= -1 - RANGE_TOLERANCE and high <= 1 + RANGE_TOLERANCE):
        raise ValueError(
            f"pixels range from {low:.4g} to {high:.4g}; expected [-1, 1]. Make them with "
            "ecomap.latents.to_pixels."
        )


def _wide(values: Tensor) -> Tensor:
    """At least float32, so that scaling does not round bfloat16 a second time."""
    return values.to(torch.promote_types(values.dtype, torch.float32))
