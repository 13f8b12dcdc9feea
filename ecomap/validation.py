"""Loss on held-out frames, at fixed noise levels with fixed noise: comparable between steps.

The mean over levels tells how well held-out frames are predicted, the levels which part of the way
from noise to image that is, and frames that are told another frame's text and climate, whether a
model uses them at all.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ecomap.errors import DataError, DivergenceError
from ecomap.learner import FlowBatch
from ecomap.rows import Rows
from ecomap.training_draws import draw_noise

NUM_LEVELS = 8
"""Equally spaced noise levels of the held-out loss (Esser et al., 2024,
https://arxiv.org/abs/2403.03206, section 5.1)."""

MIN_FRAMES_PER_LEVEL = 8
"""Each level is seen by so many frames, or by all where there are fewer."""

NOISE_STEP = 2**32 - 1
"""Step number of the noise of held-out frames, which no training reaches."""


@dataclass(frozen=True)
class HeldOutRows(Rows):
    """Held-out frames at noise levels, as `validation_loss` asks for them."""

    index: Tensor
    """int64 ``(B,)``: the frame."""
    told: Tensor
    """int64 ``(B,)``: the frame whose text and climate are told; another one where shuffled."""
    level: Tensor
    """int64 ``(B,)``, in [0, `NUM_LEVELS`)."""

    @property
    def sigma(self) -> Tensor:
        """Noise level of each row, float32 ``(B,)`` in (0, 1)."""
        return (self.level + 0.5) / NUM_LEVELS

    def noise(self, seed: int, shape: Sequence[int]) -> Tensor:
        """Noise of each row: the same for a frame and level in whichever batch they come.

        Args:
            seed: Seed of the run.
            shape: Of one frame's latents.

        Returns:
            float32 ``(B, *shape)`` on the CPU.
        """
        return draw_noise(seed, NOISE_STEP, self.index * NUM_LEVELS + self.level, shape)


def held_out_rows(num_frames: int, *, seed: int) -> HeldOutRows:
    """Which frame is seen at which level, each frame told its own text and climate.

    Levels get equally many frames, up to one. Frames are dealt to them in an order drawn from the
    seed, since records lie in an order of their own, such as twelve months of each place.

    Args:
        num_frames: Held-out frames, at least 1.
        seed: Seed of the run.
    """
    per_frame = min(NUM_LEVELS, -(-NUM_LEVELS * MIN_FRAMES_PER_LEVEL // num_frames))
    order = torch.randperm(num_frames, generator=torch.Generator().manual_seed(seed))
    index = order.repeat_interleave(per_frame)
    return HeldOutRows(index, index, torch.arange(len(index)) % NUM_LEVELS)


def shuffled(rows: HeldOutRows, num_frames: int) -> HeldOutRows:
    """The same frames, levels and noise, each told the text and climate of another frame.

    Half of all frames lie between the two, so that they seldom show one place.
    """
    told = (rows.told + max(1, num_frames // 2)) % num_frames
    return HeldOutRows(rows.index, told, rows.level)


@torch.no_grad()
def validation_loss(
    learner: nn.Module,
    make_batch: Callable[[HeldOutRows], FlowBatch],
    *,
    num_frames: int,
    seed: int,
    batch_size: int,
) -> dict[str, float]:
    """Loss of held-out frames, told their own text and climate and those of another frame.

    All cells with data count the same at a level, and all levels the same in their mean.

    Args:
        learner: Gives the loss of each sample of a batch (`ecomap.learner.FlowLearner`). Dropout
            is off meanwhile.
        make_batch: Batch of some rows on the learner's device, as the rows say; nothing withheld.
        num_frames: Held-out frames, at least 1.
        seed: Seed of the run.
        batch_size: Rows at a time; of no influence but by rounding.

    Returns:
        ``val_loss``, ``val_loss_sigma_0.0625`` and so on for each level, and
        ``val_loss_shuffled``, which is left out where there is no other frame.

    Raises:
        DataError: If there are no frames, or no cell of a level's frames has data.
        DivergenceError: If a loss is not finite.
    """
    if num_frames < 1:
        raise DataError(
            "There are no frames held out. Expected at least 1; run 'ecomap data split'."
        )
    rows = held_out_rows(num_frames, seed=seed)
    with evaluating(learner):
        levels = _level_losses(learner, make_batch, rows, batch_size)
        found = {"val_loss": _mean(levels.values())}
        if num_frames > 1:
            others = _level_losses(learner, make_batch, shuffled(rows, num_frames), batch_size)
            found["val_loss_shuffled"] = _mean(others.values())
    return found | {f"val_loss_sigma_{sigma:.4f}": loss for sigma, loss in levels.items()}


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Switch a module and all in it to evaluation, and each back to what it was before."""
    were_training = [part for part in module.modules() if part.training]
    module.eval()
    try:
        yield
    finally:
        for part in were_training:
            part.training = True


def _level_losses(
    learner: nn.Module,
    make_batch: Callable[[HeldOutRows], FlowBatch],
    rows: HeldOutRows,
    batch_size: int,
) -> dict[float, float]:
    """Loss of each noise level over all cells with data: the learner's mean counts them all."""
    losses, weights = defaultdict[float, float](float), defaultdict[float, float](float)
    for start in range(0, len(rows.index), batch_size):
        part = rows.rows(slice(start, start + batch_size))
        batch = make_batch(part)
        found = learner(batch).float().tolist()
        valid = [1.0] * len(found)
        if batch.weights is not None:
            valid = batch.weights.float().mean((1, 2, 3)).tolist()
        for sigma, loss, weight in zip(part.sigma.tolist(), found, valid, strict=True):
            losses[sigma] += loss
            weights[sigma] += weight
    for sigma, loss in losses.items():
        _check(sigma, loss, weights[sigma])
    return {sigma: losses[sigma] / weights[sigma] for sigma in sorted(losses)}


def _check(sigma: float, loss: float, weight: float) -> None:
    """Refuse a level without data, or with a loss that is no number."""
    if not weight:
        raise DataError(
            f"All held-out frames of the noise level {sigma:g} are masked whole. Expected frames "
            "with data; check cloud_masks, or split the dataset again."
        )
    if not abs(loss) < float("inf"):
        raise DivergenceError(
            f"The held-out loss at the noise level {sigma:g} is {loss}. Expected a number; start "
            "another --output with a lower optim.learning_rate."
        )


def _mean(values: Iterable[float]) -> float:
    """Mean of levels."""
    numbers = list(values)
    return sum(numbers) / len(numbers)
