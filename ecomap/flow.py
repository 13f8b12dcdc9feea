"""Rectified flow: the straight line between data and noise, and how often each point is visited.

``sigma`` is the noise level in [0, 1]: 0 is data, 1 is noise. Along the line

    noisy = (1 - sigma) * clean + sigma * noise,    velocity = noise - clean,

so that ``velocity`` is the derivative of ``noisy`` by ``sigma``.

References:
    Esser et al. (2024), Scaling Rectified Flow Transformers for High-Resolution Image Synthesis,
    https://arxiv.org/abs/2403.03206 ("the paper" below; sections 2, 3 and 5.3.2).
"""

import math
from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor

from ecomap.errors import ConfigError

Density = Literal["uniform", "logit_normal", "mode", "cosmap"]
"""How training visits the noise levels."""

MODE_SCALE_MIN = -1.0
MODE_SCALE_MAX = 2 / (math.pi - 2)
MODE_SCALE = 1.29
"""Beyond the limits the paper's mode map is no longer monotone; the last was its best."""

BISECTIONS = 50
"""Halvings of [0, 1] that bring the mode map's inverse to the resolution of float64."""


def add_noise(clean: Tensor, noise: Tensor, sigma: Tensor) -> Tensor:
    """Move latents along the straight line from data to noise.

    Computes ``(1 - sigma) * clean + sigma * noise`` in float32 or wider.

    Args:
        clean: Latents ``(B, ...)`` after VAE shift and scale.
        noise: Standard normal sample, shaped like ``clean``.
        sigma: Noise level of each image, ``(B,)``, in [0, 1].

    Returns:
        Noisy latents, with the shape, dtype and device of ``clean``.

    Raises:
        ValueError: If a ``sigma`` lies outside [0, 1], or the shapes do not fit.

    Example:
        >>> clean, noise = torch.full((2, 1, 1, 1), 2.0), torch.full((2, 1, 1, 1), 10.0)
        >>> add_noise(clean, noise, torch.tensor([0.25, 1.0])).flatten().tolist()
        [4.0, 10.0]
    """
    # One host sync per training step on a GPU; it catches a timestep (0..1000) given as sigma.
    _require_in_range(sigma)
    _require_same_shape("noise", noise, clean)
    level = _per_pixel(sigma, clean)
    return ((1 - level) * _wide(clean) + level * _wide(noise)).to(clean.dtype)


def target_velocity(clean: Tensor, noise: Tensor) -> Tensor:
    """What the model learns to predict: ``noise - clean``.

    Takes latents ``(B, ...)`` and the noise that was mixed in, of the same shape (else
    ValueError). The result has the shape and dtype of ``clean``; float32 or wider in between.
    """
    _require_same_shape("noise", noise, clean)
    return (_wide(noise) - _wide(clean)).to(clean.dtype)


def denoise(noisy: Tensor, velocity: Tensor, sigma: Tensor) -> Tensor:
    """Clean estimate that a velocity implies: ``noisy - sigma * velocity``.

    With the true velocity this inverts `add_noise`.

    Args:
        noisy: Latents ``(B, ...)`` at ``sigma``.
        velocity: Velocity at ``noisy``, of the same shape.
        sigma: Noise level of each image, ``(B,)``; its range is not checked.

    Returns:
        Clean latents with the shape and dtype of ``noisy``; float32 or wider in between.

    Raises:
        ValueError: If the shapes do not fit.
    """
    _require_same_shape("velocity", velocity, noisy)
    return (_wide(noisy) - _per_pixel(sigma, noisy) * _wide(velocity)).to(noisy.dtype)


def shift_sigma(sigma: Tensor, shift: float) -> Tensor:
    """Move noise levels towards noise (``shift`` > 1) or towards data (``shift`` < 1).

    Computes ``shift * sigma / (1 + (shift - 1) * sigma)``, elementwise. On the logit of ``sigma``
    this adds ``log(shift)``, so shifts compose by multiplication; 0 and 1 stay where they are.

    Raises:
        ConfigError: If ``shift`` is not a positive number.
    """
    _require_positive("shift", shift)
    return shift * sigma / (1 + (shift - 1) * sigma)


def resolution_shift(size: float, base_size: float) -> float:
    """Shift that gives a larger image as much uncertainty as the base image had.

    The mean over m pixels is less noisy than that over n by ``sqrt(m / n)``, so the same
    ``sigma`` destroys less of a larger image. That ratio is the result, for `shift_sigma` (the
    paper, section 5.3.2).

    Args:
        size: Number of pixels (or tokens) of the images at hand.
        base_size: The same count for the images for which no shift is needed.

    Raises:
        ValueError: If a count is not a positive number.

    Example:
        >>> resolution_shift(size=1024 * 1024, base_size=512 * 512)
        2.0
    """
    if not (0 < size < math.inf and 0 < base_size < math.inf):
        raise ValueError(f"Sizes must be positive counts, got {size} and {base_size}.")
    return math.sqrt(size / base_size)


def sample_sigma(
    density: Density,
    shape: Sequence[int],
    generator: torch.Generator,
    *,
    mean: float = 0.0,
    std: float = 1.0,
    scale: float = MODE_SCALE,
    shift: float = 1.0,
) -> Tensor:
    """Draw noise levels for training.

    Density and settings are those of `sigma_from_uniform`, with the same errors. ``shape`` is
    that of the result, such as ``(B,)``; a generator in the same state gives the same levels.

    Returns:
        Float32 noise levels in [0, 1], on the generator's device.
    """
    u = torch.rand(tuple(shape), generator=generator, device=generator.device)
    return sigma_from_uniform(density, u, mean=mean, std=std, scale=scale, shift=shift)


def sigma_from_uniform(
    density: Density,
    u: Tensor,
    *,
    mean: float = 0.0,
    std: float = 1.0,
    scale: float = MODE_SCALE,
    shift: float = 1.0,
) -> Tensor:
    """Quantiles of a density: turns uniform numbers into noise levels, increasing in ``u``.

    For random, stratified or evenly spaced levels alike. The paper's mode map falls with its
    argument, so it is read at ``1 - u`` here, which leaves the distribution as it is.

    Args:
        density: ``uniform``: every level alike. ``logit_normal``: the logit of sigma is normal
            (``mean``, ``std``). ``mode``: heavy tails, bent by ``scale``. ``cosmap``: the
            log-SNR distribution of the cosine schedule.
        u: Numbers in [0, 1], of any shape.
        mean: For ``logit_normal``, with the paper's sign: negative visits data (small sigma)
            more often, positive noise.
        std: For ``logit_normal``; positive.
        scale: For ``mode``, -1 to about 1.75: positive prefers the middle, negative both ends,
            0 is uniform.
        shift: Applied last, by `shift_sigma`, for every density.

    Returns:
        Float32 noise levels in [0, 1], of the shape and on the device of ``u``.

    Raises:
        ConfigError: If the density is unknown or a setting is out of range.
        ValueError: If ``u`` leaves [0, 1].
    """
    _require_settings(density, std, scale)
    _require_in_range(u, "u")
    sigma = shift_sigma(_quantile(density, _wide(u), mean, std, scale), shift)
    return sigma.clamp(0, 1).to(torch.float32)  # cosmap leaves 1 by rounding


def sigma_density(
    density: Density,
    sigma: Tensor,
    *,
    mean: float = 0.0,
    std: float = 1.0,
    scale: float = MODE_SCALE,
    shift: float = 1.0,
) -> Tensor:
    """Probability density of what `sample_sigma` draws with the same density and settings.

    The paper, section 3.1: training with a density equals training uniformly with the loss
    weighted by it. Closed forms, but for the inverse of the mode map, found by bisection.

    Returns:
        Float64 densities, of the shape of ``sigma``; they integrate to 1 over [0, 1].

    Raises:
        ConfigError: As `sigma_from_uniform`.
        ValueError: If a ``sigma`` lies outside [0, 1].
    """
    _require_settings(density, std, scale)
    _require_positive("shift", shift)
    _require_in_range(sigma)
    level = sigma.to(torch.float64)
    slope = (1 / shift) / (1 + (1 / shift - 1) * level) ** 2  # d unshifted / d sigma
    return _density(density, shift_sigma(level, 1 / shift), mean, std, scale) * slope


def _quantile(density: Density, u: Tensor, mean: float, std: float, scale: float) -> Tensor:
    """Inverse cumulative distribution before the shift."""
    match density:
        case "uniform":
            return u
        case "logit_normal":
            return torch.sigmoid(mean + std * torch.special.ndtri(u))
        case "mode":
            return u + scale * (u - torch.sin(math.pi / 2 * u) ** 2)
        case "cosmap":  # 1 - 1 / (tan(pi u / 2) + 1), without the pole of tan at u = 1
            sine, cosine = torch.sin(math.pi / 2 * u), torch.cos(math.pi / 2 * u)
            return sine / (sine + cosine)


def _density(density: Density, sigma: Tensor, mean: float, std: float, scale: float) -> Tensor:
    """Probability density before the shift."""
    match density:
        case "uniform":
            return torch.ones_like(sigma)
        case "logit_normal":
            z = (torch.logit(sigma) - mean) / std
            pdf = torch.exp(-(z**2) / 2) / (std * math.sqrt(2 * math.pi) * sigma * (1 - sigma))
            return torch.where((sigma > 0) & (sigma < 1), pdf, 0.0)  # its limit at both ends
        case "mode":
            u = _mode_inverse(sigma, scale)
            return 1 / (1 + scale * (1 - math.pi / 2 * torch.sin(math.pi * u)))
        case "cosmap":
            return 2 / (math.pi * (1 - 2 * sigma + 2 * sigma**2))


def _mode_inverse(sigma: Tensor, scale: float) -> Tensor:
    """The ``u`` whose mode quantile is ``sigma``; the map increases, without a closed inverse."""
    low, high = torch.zeros_like(sigma), torch.ones_like(sigma)
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        is_below = _quantile("mode", middle, 0.0, 1.0, scale) < sigma
        low, high = torch.where(is_below, middle, low), torch.where(is_below, high, middle)
    return (low + high) / 2


def _wide(values: Tensor) -> Tensor:
    """At least float32: bfloat16 has 8 bits, too few to mix a little noise into data."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


def _per_pixel(sigma: Tensor, latents: Tensor) -> Tensor:
    """``(B,)`` as ``(B, 1, ..., 1)``: left as it is, it would broadcast along the width."""
    if sigma.shape != latents.shape[:1]:
        raise ValueError(
            f"sigma has shape {tuple(sigma.shape)}; expected one level for each of the "
            f"{latents.shape[0]} images, shape ({latents.shape[0]},)."
        )
    return _wide(sigma).reshape(-1, *[1] * (latents.ndim - 1))


def _require_same_shape(name: str, values: Tensor, latents: Tensor) -> None:
    if values.shape != latents.shape:
        shapes = f"{tuple(values.shape)}; expected that of the latents, {tuple(latents.shape)}"
        raise ValueError(f"{name} has shape {shapes}.")


def _require_in_range(values: Tensor, name: str = "sigma") -> None:
    """Written so that NaN fails as well."""
    is_inside = (values >= 0) & (values <= 1)
    if not is_inside.all():
        raise ValueError(f"{name} must lie in [0, 1], got {values[~is_inside][:8].tolist()}.")


def _require_positive(name: str, value: float) -> None:
    if not 0 < value < math.inf:
        raise ConfigError(f"{name} is {value}; choose a positive number.")


def _require_settings(density: str, std: float, scale: float) -> None:
    if density not in get_args(Density):
        raise ConfigError(f"Timestep density is {density!r}; choose one of {get_args(Density)}.")
    _require_positive("std", std)
    if not MODE_SCALE_MIN <= scale <= MODE_SCALE_MAX:
        raise ConfigError(
            f"scale is {scale}; choose a number from {MODE_SCALE_MIN} to {MODE_SCALE_MAX:.4f}, "
            "where the mode density exists."
        )
