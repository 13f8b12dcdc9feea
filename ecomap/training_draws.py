"""Everything random in a training step, from (seed, step, row) alone.

A step is drawn whole, on the CPU, and then divided: whoever computes a row of the global batch gets
the same record, noise level, closed doors and noise. So a run that is resumed equals one that was
not, and a batch may be divided among processes and micro-batches in any way.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor
from torch.nn import functional as F

from ecomap.balanced_order import balanced_order, class_members
from ecomap.errors import ConfigError
from ecomap.flow import MODE_SCALE, Density, sigma_from_uniform
from ecomap.rows import Rows

ORDER_STREAM, ROW_STREAM, NOISE_STREAM, HOLE_STREAM = 1, 2, 3, 4
"""Second number of every random stream, so that no two uses share one."""

CLOUD_PATCHES = 4
"""Independent patches of holes along a side."""

SHARED_COLUMNS = 6
"""Uniform numbers of a row before those of its groups: doors, control, sigma, reference, variant
and text variant."""


@dataclass(frozen=True)
class Part:
    """One of several equal parts of a batch."""

    index: int
    """0 for the first part."""
    count: int
    """Number of parts: processes times micro-batches."""

    def __post_init__(self) -> None:
        """Refuse a part that is not there."""
        if not 0 <= self.index < self.count:
            raise ConfigError(
                f"Part {self.index} of {self.count} does not exist; parts are counted from 0."
            )

    def rows(self, total: int) -> slice:
        """Rows of this part in a batch of ``total``.

        Raises:
            ConfigError: If the parts cannot be equal.
        """
        if total % self.count:
            raise ConfigError(
                f"batch_size {total} cannot be divided into {self.count} equal parts (processes x "
                "micro_batches). Choose a batch_size that is a multiple of them."
            )
        size = total // self.count
        return slice(self.index * size, (self.index + 1) * size)


WHOLE = Part(0, 1)
"""A batch that is not divided."""


@dataclass(frozen=True)
class StepDraw(Rows):
    """What chance decides of some rows of a step, on the CPU."""

    index: Tensor
    """int64 ``(B,)``: record of each row."""
    variant: Tensor
    """int64 ``(B,)``: window and flip of the record."""
    text_variant: Tensor
    """int64 ``(B,)``: which of the record's prompts."""
    has_text: Tensor
    """bool ``(B,)``: whose prompt is there; likewise below."""
    has_tokens: Tensor
    has_control: Tensor
    withheld: Tensor
    """bool ``(B, G)``: groups of facts that a row's tokens do not tell."""
    sigma: Tensor
    """float32 ``(B,)``: noise level, in [0, 1]."""
    reference: Tensor
    """float64 ``(B,)`` in [0, 1): chooses among a record's reference months."""
    row: Tensor
    """int64 ``(B,)``: place in the whole batch, whoever computes it."""
    step: int
    epoch: int

    def __len__(self) -> int:
        """Number of rows."""
        return len(self.index)


@dataclass(frozen=True, kw_only=True)
class DrawSettings:
    """How chance is distributed in every step of a run."""

    batch_size: int
    """Rows of a step, over all processes and micro-batches."""
    seed: int = 0
    door_shares: tuple[float, float, float, float] = (1.0, 0.0, 0.0, 0.0)
    """Weights of rows with text and tokens, tokens alone, text alone, neither."""
    drop_group: float = 0.0
    """Probability of withholding each group of facts, each on its own."""
    num_groups: int = 0
    drop_control: float = 0.0
    """Probability of an empty control."""
    num_variants: int = 1
    num_text_variants: int = 1
    class_balance: float = 0.0
    """``b`` in [0, 1]: a record of a class of n comes with probability proportional to n ** -b. 0
    draws every record equally often, 1 every class."""
    density: Density = "logit_normal"
    """Density of noise levels with its settings (`ecomap.flow.sigma_from_uniform`)."""
    density_mean: float = 0.0
    """With the paper's sign: above 0 prefers noise."""
    density_std: float = 1.0
    density_scale: float = MODE_SCALE
    shift: float = 1.0
    """Resolution shift, applied to the drawn level."""


class Sampler:
    """Draws the steps of a run; thread-safe, and the same whatever was drawn before."""

    def __init__(
        self, num_records: int, settings: DrawSettings, *, classes: ArrayLike | None = None
    ) -> None:
        """Check that every step can be filled.

        Args:
            num_records: Number of training records.
            settings: How to draw.
            classes: Class code of each record, for ``class_balance`` above 0. What is unknown has
                a code too, and so is a class of its own.

        Raises:
            ConfigError: If there are fewer records than a batch has rows, classes are missing, or
                a setting is out of its range.
        """
        if not 0 < settings.batch_size <= num_records:
            raise ConfigError(
                f"batch_size is {settings.batch_size} and there are {num_records} training tiles. "
                f"Choose a batch_size from 1 to {num_records}."
            )
        if not 0 <= settings.class_balance <= 1:
            raise ConfigError(
                f"class_balance is {settings.class_balance:g}; choose a number from 0 (as often as "
                "the data has them) to 1 (every class equally often)."
            )
        if min(settings.door_shares) < 0 or sum(settings.door_shares) <= 0:
            raise ConfigError(
                f"The shares of open doors are {settings.door_shares}; none may be negative and "
                "one must be above 0."
            )
        self.num_records = num_records
        self.settings = settings
        self._members = None
        if settings.class_balance:
            self._members = class_members(classes, num_records)
        self._order: tuple[int, NDArray[np.int64]] = (-1, np.empty(0, np.int64))
        self._levels(np.array([0.5]))

    @property
    def steps_per_epoch(self) -> int:
        """Steps from one order of the records to the next."""
        return self.num_records // self.settings.batch_size

    def draw(self, step: int) -> StepDraw:
        """Draw a whole step, counted from 0."""
        settings = self.settings
        index, epoch = self.index(step)
        columns = SHARED_COLUMNS + settings.num_groups
        # Row-major: the numbers of a row do not depend on how many rows follow it.
        uniform = _stream(settings.seed, ROW_STREAM, step).random((settings.batch_size, columns))
        doors, control, level, reference, variant, text_variant = uniform[:, :SHARED_COLUMNS].T
        has_text, has_tokens = open_doors(doors, settings.door_shares)
        return StepDraw(
            index=torch.from_numpy(index),
            variant=_choice(variant, settings.num_variants),
            text_variant=_choice(text_variant, settings.num_text_variants),
            has_text=has_text,
            has_tokens=has_tokens,
            has_control=torch.from_numpy(control >= settings.drop_control),
            withheld=torch.from_numpy(uniform[:, SHARED_COLUMNS:] < settings.drop_group),
            sigma=self._levels(level),
            reference=torch.from_numpy(reference.copy()),
            row=torch.arange(settings.batch_size),
            step=step,
            epoch=epoch,
        )

    def index(self, step: int) -> tuple[NDArray[np.int64], int]:
        """Records of a step ``(B,)``, and its epoch.

        Without balance every record comes once an epoch, in a new order; what does not fill a
        batch at its end waits for the next one. With balance the records of an epoch are drawn as
        `balanced_order` says.
        """
        size = self.settings.batch_size
        epoch, position = divmod(step, self.steps_per_epoch)
        known, order = self._order
        if known != epoch:
            generator = _stream(self.settings.seed, ORDER_STREAM, epoch)
            if self._members is None:
                order = generator.permutation(self.num_records)
            else:
                total = self.steps_per_epoch * size
                order = balanced_order(self._members, total, self.settings.class_balance, generator)
            self._order = (epoch, order)
        return order[position * size : (position + 1) * size].copy(), epoch

    def _levels(self, uniform: NDArray[np.float64]) -> Tensor:
        """Noise levels of uniform numbers."""
        settings = self.settings
        return sigma_from_uniform(
            settings.density,
            torch.from_numpy(uniform.copy()),
            mean=settings.density_mean,
            std=settings.density_std,
            scale=settings.density_scale,
            shift=settings.shift,
        )


def open_doors(
    uniform: ArrayLike, shares: tuple[float, float, float, float]
) -> tuple[Tensor, Tensor]:
    """Which rows have text and which have tokens, bool ``(B,)`` each.

    Args:
        uniform: Numbers in [0, 1), ``(B,)``.
        shares: Weights of text and tokens, tokens alone, text alone, neither.
    """
    edges = np.cumsum(np.asarray(shares, np.float64))
    case = torch.from_numpy(np.searchsorted(edges / edges[-1], uniform, side="right"))
    return (case == 0) | (case == 2), (case == 0) | (case == 1)


def draw_noise(seed: int, step: int, rows: Tensor, shape: Sequence[int]) -> Tensor:
    """Standard normal noise of some rows of a step.

    Args:
        seed: Seed of the run.
        step: Counted from 0.
        rows: int64 ``(B,)``: places in the whole batch. Each has its own stream, so that rows can
            be drawn apart.
        shape: Of one row.

    Returns:
        float32 ``(B, *shape)`` on the CPU.
    """
    noise = np.empty((len(rows), *shape), np.float32)
    for place, row in enumerate(rows.tolist()):
        _stream(seed, NOISE_STREAM, step, row).standard_normal(dtype=np.float32, out=noise[place])
    return torch.from_numpy(noise)


def draw_holes(
    seed: int, step: int, rows: Tensor, cells: tuple[int, int], *, share: float
) -> Tensor:
    """Holes in the references of some rows of a step, in patches like those of clouds.

    Args:
        seed: Seed of the run.
        step: Counted from 0.
        rows: int64 ``(B,)``: places in the whole batch.
        cells: Latent cells ``(h, w)``.
        share: Share of rows with holes. They cover any part of a reference, all alike often.

    Returns:
        bool ``(B, 1, h, w)`` on the CPU.
    """
    holes = np.zeros((len(rows), 1, *cells), bool)
    for place, row in enumerate(rows.tolist()):
        stream = _stream(seed, HOLE_STREAM, step, row)
        if stream.random() < share:
            coarse = stream.standard_normal((1, 1, CLOUD_PATCHES, CLOUD_PATCHES), dtype=np.float32)
            field = F.interpolate(torch.from_numpy(coarse), cells, mode="bicubic")[0, 0].numpy()
            holes[place, 0] = field < np.quantile(field, stream.random())
    return torch.from_numpy(holes)


def _stream(seed: int, *numbers: int) -> np.random.Generator:
    """Random stream of a seed and up to three numbers."""
    return np.random.default_rng([seed, *numbers])


def _choice(uniform: NDArray[np.float64], count: int) -> Tensor:
    """One of ``count`` for each number in [0, 1)."""
    return torch.from_numpy((uniform * count).astype(np.int64))
