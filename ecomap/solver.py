"""Samplers and guidance: from noise to latents along a learned velocity field.

Each sampler integrates ``d latents / d sigma = velocity`` from ``sigmas[0]`` down to
``sigmas[-1]``. It is a plain function of (predict_velocity, noise, sigmas) and knows no model:
timesteps, prompts and autocast are the business of ``predict_velocity``. Sigma is 0 for data, 1
for noise. No sampler evaluates the velocity at ``sigma`` 0, where training hardly ever looked.
"""

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Literal, Protocol

import numpy as np
import torch
from torch import Tensor

from ecomap.errors import RequestError

NUM_TRAIN_TIMESTEPS = 1000
"""Levels of the discrete table from which diffusers takes its smallest sigma."""

SolverName = Literal["euler", "heun", "dpmpp_2m"]

PredictVelocity = Callable[[Tensor, float], Tensor]
"""``(latents, sigma) -> velocity``; one sigma for the whole batch, velocity shaped like latents."""

Callback = Callable[[int, float, Tensor], None]
"""``(step_index, sigma, clean_estimate)``, called once per step for progress and previews.

``sigma`` is the level at which the step begins; the estimate is made there.
"""


class PredictPair(Protocol):
    """Velocities with and without the condition, which a model can make in one batch."""

    def __call__(
        self, latents: Tensor, sigma: float, *, need_uncond: bool
    ) -> tuple[Tensor, Tensor | None]:
        """Predict ``(cond, uncond)``, each shaped like ``latents``.

        Where ``need_uncond`` is false, guidance is off at this sigma: only the conditional
        velocity is used, and the second may be ``None``.
        """


class Solver(Protocol):
    """A sampler, as `SOLVERS` names them."""

    def __call__(
        self,
        predict_velocity: PredictVelocity,
        noise: Tensor,
        sigmas: Tensor,
        *,
        callback: Callback | None = None,
    ) -> Tensor:
        """Integrate from ``sigmas[0]`` to ``sigmas[-1]``; see `sample_euler`."""


def make_sigmas(steps: int, shift: float = 1.0, *, shift_end_twice: bool = True) -> Tensor:
    """Noise levels of a sampling run: the schedule of diffusers.

    ``FlowMatchEulerDiscreteScheduler.set_timesteps`` spaces ``steps`` levels evenly between 1 and
    its smallest level, and shifts them. That smallest level, 0.001, has been shifted before, so
    the last level above 0 is shifted twice: 0.0089 instead of 0.0030 at shift 3. Checkpoints are
    published with this schedule, so it is the default.

    At shift 1 and from 2 to 12 the levels equal the scheduler's bit for bit. At some shifts in
    between and below 1 its own first level is rounded to just beside 1 and its table differs by
    up to 3e-6; here a run always starts at 1.

    Args:
        steps: Number of steps; one more level comes back.
        shift: Resolution shift (`ecomap.flow.shift_sigma`); 1 is none.
        shift_end_twice: ``False`` shifts the last level once, as all the others.

    Returns:
        Float32 ``(steps + 1,)``, strictly descending, from 1 to 0.

    Raises:
        RequestError: If ``steps`` is below 1 or ``shift`` is not positive.
    """
    if steps < 1:
        raise RequestError(f"steps is {steps}; choose at least 1.")
    if not 0 < shift < math.inf:
        raise RequestError(f"shift is {shift}; choose a positive number.")
    # float32 for the table's last level and float64 for the rest, as in diffusers: the results
    # are equal, not merely close.
    smallest = torch.tensor(1.0) / NUM_TRAIN_TIMESTEPS
    if shift_end_twice:
        smallest = shift * smallest / (1 + (shift - 1) * smallest)
    timesteps = np.linspace(
        NUM_TRAIN_TIMESTEPS, smallest.item() * NUM_TRAIN_TIMESTEPS, steps, dtype=np.float64
    )
    levels = timesteps / NUM_TRAIN_TIMESTEPS
    levels = shift * levels / (1 + (shift - 1) * levels)
    return torch.from_numpy(np.append(levels, 0.0).astype(np.float32))


def sample_euler(
    predict_velocity: PredictVelocity,
    noise: Tensor,
    sigmas: Tensor,
    *,
    callback: Callback | None = None,
) -> Tensor:
    """Integrate by Euler steps: first order, one velocity per step.

    Args:
        predict_velocity: Velocity of ``(latents, sigma)``.
        noise: Latents ``(B, C, H, W)`` at ``sigmas[0]``: standard normal noise where that is 1.
        sigmas: Noise levels ``(steps + 1,)`` in [0, 1], strictly descending (`make_sigmas`).
        callback: Called once per step.

    Returns:
        Latents at ``sigmas[-1]``, in the dtype of ``noise``. In between, latents are float32 or
        wider, also where ``predict_velocity`` gets them.

    Raises:
        ValueError: If ``sigmas`` is not a descending series of at least two levels in [0, 1].
    """
    latents, levels = _begin(noise, sigmas)
    for index, (sigma, next_sigma) in enumerate(pairwise(levels)):
        velocity = _evaluate(predict_velocity, latents, sigma)
        if callback is not None:
            callback(index, sigma, latents - sigma * velocity)
        latents = latents + (next_sigma - sigma) * velocity
    return latents.to(noise.dtype)


def sample_heun(
    predict_velocity: PredictVelocity,
    noise: Tensor,
    sigmas: Tensor,
    *,
    callback: Callback | None = None,
) -> Tensor:
    """Integrate by Heun steps: second order, two velocities per step and one for a step to 0.

    Takes the mean of the velocities at both ends of a step (Karras et al., 2022,
    https://arxiv.org/abs/2206.00364, algorithm 1).

    Args:
        predict_velocity: As for `sample_euler`.
        noise: As for `sample_euler`.
        sigmas: As for `sample_euler`.
        callback: As for `sample_euler`; its estimate is that of the step's first velocity.

    Returns:
        As `sample_euler`.

    Raises:
        ValueError: As `sample_euler`.
    """
    latents, levels = _begin(noise, sigmas)
    for index, (sigma, next_sigma) in enumerate(pairwise(levels)):
        velocity = _evaluate(predict_velocity, latents, sigma)
        if callback is not None:
            callback(index, sigma, latents - sigma * velocity)
        if next_sigma > 0:
            ahead = latents + (next_sigma - sigma) * velocity
            velocity = (velocity + _evaluate(predict_velocity, ahead, next_sigma)) / 2
        latents = latents + (next_sigma - sigma) * velocity
    return latents.to(noise.dtype)


def sample_dpmpp_2m(
    predict_velocity: PredictVelocity,
    noise: Tensor,
    sigmas: Tensor,
    *,
    callback: Callback | None = None,
) -> Tensor:
    """Integrate by DPM-Solver++(2M): second order, one velocity per step.

    Extrapolates the clean estimate from the last two steps, linearly in the half log
    signal-to-noise ratio ``log((1 - sigma) / sigma)`` (Lu et al., 2022,
    https://arxiv.org/abs/2211.01095, algorithm 2). That ratio is infinite at sigma 1 and 0, where
    the limit of the formula is the first-order step; the first step has no predecessor and is
    first order too. With even steps h from 1 to 0 the error therefore falls as h^2 log(1 / h).

    Args:
        predict_velocity: As for `sample_euler`.
        noise: As for `sample_euler`.
        sigmas: As for `sample_euler`.
        callback: As for `sample_euler`.

    Returns:
        As `sample_euler`.

    Raises:
        ValueError: As `sample_euler`.
    """
    latents, levels = _begin(noise, sigmas)
    previous: tuple[float, Tensor] | None = None
    for index, (sigma, next_sigma) in enumerate(pairwise(levels)):
        clean = latents - sigma * _evaluate(predict_velocity, latents, sigma)
        if callback is not None:
            callback(index, sigma, clean)
        estimate = clean
        if previous is not None and previous[0] < 1 and next_sigma > 0:
            last_step = _half_log_snr(sigma) - _half_log_snr(previous[0])
            ratio = (_half_log_snr(next_sigma) - _half_log_snr(sigma)) / last_step
            estimate = clean + ratio / 2 * (clean - previous[1])
        kept = next_sigma / sigma
        latents = kept * latents + (1 - kept) * estimate
        previous = (sigma, clean)
    return latents.to(noise.dtype)


SOLVERS: dict[SolverName, Solver] = {
    "euler": sample_euler,
    "heun": sample_heun,
    "dpmpp_2m": sample_dpmpp_2m,
}
"""Samplers by name, as configs and the command line spell them."""


def guide(
    predict_pair: PredictPair, scale: float, interval: tuple[float, float] = (0.0, 1.0)
) -> PredictVelocity:
    """Classifier-free guidance inside an interval of noise levels.

    Gives ``uncond + scale * (cond - uncond)`` where ``sigma`` lies in ``interval``, and ``cond``
    elsewhere. Guidance at high noise costs diversity and at low noise does nothing, so leaving
    both out saves time and improves samples (Kynkäänniemi et al., 2024,
    https://arxiv.org/abs/2404.07724; guidance itself: Ho & Salimans, 2022,
    https://arxiv.org/abs/2207.12598).

    Args:
        predict_pair: Velocities with and without the condition. ``need_uncond`` is false outside
            the interval, and always where ``scale`` is 1.
        scale: 1 is no guidance, more follows the condition more strictly, 0 ignores it.
        interval: Lowest and highest guided sigma, both included.

    Returns:
        A velocity function for the samplers of this module.

    Raises:
        RequestError: If the scale is not finite, or the interval is not ``0 <= low <= high <= 1``.
        ValueError: When called, if ``predict_pair`` withholds a velocity that it was asked for.
    """
    low, high = interval
    if not math.isfinite(scale):
        raise RequestError(f"Guidance scale is {scale}; choose a finite number.")
    if not 0 <= low <= high <= 1:
        raise RequestError(
            f"Guidance interval is ({low}, {high}); choose sigmas with 0 <= low <= high <= 1."
        )

    def predict_velocity(latents: Tensor, sigma: float) -> Tensor:
        need_uncond = scale != 1 and low <= sigma <= high
        cond, uncond = predict_pair(latents, sigma, need_uncond=need_uncond)
        if not need_uncond:
            return cond
        if uncond is None:
            raise ValueError(f"predict_pair gave no unconditional velocity at sigma {sigma:.4g}.")
        return uncond + scale * (cond - uncond)

    return predict_velocity


def _begin(noise: Tensor, sigmas: Tensor) -> tuple[Tensor, list[float]]:
    """Latents in float32 or wider, and the checked levels as numbers: no syncs in the loop."""
    levels: list[float] = sigmas.tolist() if sigmas.ndim == 1 else []
    is_descending = all(high > low for high, low in pairwise(levels))
    if len(levels) < 2 or not is_descending or levels[0] > 1 or levels[-1] < 0:
        raise ValueError(
            f"sigmas is {sigmas.tolist()}; expected at least two levels in [0, 1], strictly "
            "descending. Make them with ecomap.solver.make_sigmas."
        )
    return noise.to(torch.promote_types(noise.dtype, torch.float32)), levels


def _evaluate(predict_velocity: PredictVelocity, latents: Tensor, sigma: float) -> Tensor:
    """Velocity in the dtype of the latents: products with sigma must not be rounded to bfloat16."""
    return predict_velocity(latents, sigma).to(latents.dtype)


def _half_log_snr(sigma: float) -> float:
    return math.log((1 - sigma) / sigma)
