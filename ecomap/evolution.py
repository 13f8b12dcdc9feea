"""A place taken to other months and climates: its start image stays, what climate decides changes.

Every frame is made from the start itself, not from the frame before it, so that errors do not add
up. The ControlNet sees the start's latents, where they are valid, how many months lie between, and
climate as maps; the transformer is told the target's climate series. A target of the start's own
month and climate gives back the start.
"""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ecomap.card import BundleCard, Door
from ecomap.climate import monthly_series, transform
from ecomap.controls import MIN_VALID
from ecomap.denoiser import ControlBranch
from ecomap.errors import RequestError
from ecomap.kept_detail import kept_pixels, put_back, restore_detail
from ecomap.latents import decode, to_image
from ecomap.model import Bundle
from ecomap.request import known_to
from ecomap.sample import Progress, sample_latents
from ecomap.schema import CLIMATE, TileRecord
from ecomap.solver import SOLVERS, SolverName
from ecomap.starts import EncodedStarts, Start, control_of, control_spec, encode_starts

STEPS = 2
"""Two steps show what is to be expected."""
ENSEMBLE_STEPS = 8
"""More steps draw one of the possibilities: at two, the members of an ensemble hardly differ."""
GUIDANCE = 1.0
SOLVER: SolverName = "euler"
OVERLAP = 0.5
"""Share of a window that its neighbour covers, in scenes larger than the model's images."""
MAX_OVERLAP = 0.9
BATCH_SIZE = 16

SMALL_CHANGE = 0.02
"""Change of climate, in the units of `ecomap.climate.transform`, from which on all may change:
0.3 °C in every month, or 1.4 % of 1 mm/day."""


@dataclass(frozen=True, kw_only=True)
class EvolveSettings:
    """How frames are made."""

    steps: int = STEPS
    guidance: float = GUIDANCE
    solver: SolverName = SOLVER
    doors: tuple[Door, ...] | None = None
    """Ways by which the climate is told beside the control; by default all of the bundle."""
    control_scale: float = 1.0
    batch_size: int = BATCH_SIZE
    overlap: float = OVERLAP
    keep_detail: bool = True
    """Whether what the autoencoder loses of the start is put back where nothing changed."""

    def __post_init__(self) -> None:
        """Refuse what no frame can be made with.

        Raises:
            RequestError: If a setting is out of its range.
        """
        if self.solver not in SOLVERS:
            raise RequestError(
                f"Solver {self.solver!r} is unknown. Choose from {', '.join(SOLVERS)}."
            )
        if self.steps < 1 or self.batch_size < 1:
            name = "steps" if self.steps < 1 else "batch_size"
            raise RequestError(f"{name} is {getattr(self, name)}; choose a number from 1.")
        if not 0 <= self.overlap <= MAX_OVERLAP:
            raise RequestError(
                f"overlap is {self.overlap:g}; choose a share from 0 to {MAX_OVERLAP:g}."
            )
        for name in ("guidance", "control_scale"):
            if not 0 <= getattr(self, name) < math.inf:
                raise RequestError(f"{name} is {getattr(self, name):g}; choose a number from 0.")

    def require_doors(self, card: BundleCard) -> None:
        """Refuse ways of the climate that a bundle does not have.

        Raises:
            RequestError: If there is one.
        """
        if unknown := set(self.doors or ()) - set(card.doors):
            raise RequestError(
                f"{card.name} has no door {min(unknown)!r}. Choose from {', '.join(card.doors)}, "
                "or none."
            )


def change_share(start: TileRecord, target: TileRecord) -> float:
    """How much of a start may change: 0 in its own month and climate, 1 from a small change on.

    Args:
        start: Where a sequence begins.
        target: What is asked for.

    Returns:
        In [0, 1]: 1 in another calendar month or under another land cover; else it rises with the
        largest difference of a month's climate up to `SMALL_CHANGE`. Years do not count: the same
        month of another year with the same climate is the start itself.
    """
    if start.month_index != target.month_index or start.land_cover != target.land_cover:
        return 1.0
    largest = 0.0
    for name in CLIMATE:
        own, asked = (transform(name, monthly_series(r, name)) for r in (start, target))
        if (np.isnan(own) != np.isnan(asked)).any():
            return 1.0
        differences = np.abs(own - asked)
        largest = max(largest, float(np.nanmax(differences, initial=0.0)))
    return min(1.0, largest / SMALL_CHANGE)


def change_cells(
    encoded: EncodedStarts, index: Sequence[int], targets: Sequence[TileRecord]
) -> Tensor:
    """How much of each cell of some starts may change (`change_share`).

    Args:
        encoded: Starts; a cell's month is the one that it shows.
        index: Start of each target ``(B,)``.
        targets: Without what the model does not know.

    Returns:
        ``(B, 1, h, w)`` in [0, 1]; 1 where a start shows nothing.
    """
    rows = list(index)
    change = torch.ones_like(encoded.valid[rows])
    for number in encoded.numbers(rows):
        pairs = zip(rows, targets, strict=True)
        share = [change_share(encoded.month(row, number), target) for row, target in pairs]
        column = torch.tensor(share).to(change)[:, None, None, None]
        change = torch.where(encoded.source[rows] == number, column, change)
    return torch.where(encoded.valid[rows] >= MIN_VALID, change, 1.0)


def evolve_images(
    bundle: Bundle,
    encoded: EncodedStarts,
    index: Sequence[int],
    targets: Sequence[TileRecord],
    *,
    seeds: Sequence[int],
    settings: EvolveSettings | None = None,
    height_m: NDArray[np.float64] | None = None,
    progress: Progress | None = None,
) -> NDArray[np.uint8]:
    """Take starts of the model's size to other months and climates.

    Args:
        bundle: With a ControlNet that reads references.
        encoded: From `encode_starts`.
        index: Start of each target ``(N,)``.
        targets: Month and climate of each frame.
        seeds: One a frame; the same seed gives the same noise in every month.
        settings: How.
        height_m: Height of each latent cell above that of the place's climate ``(h, w)``, metres.
        progress: Called with (done, total).

    Returns:
        uint8 ``(N, H, W, 3)``.

    Raises:
        RequestError: If the bundle has no ControlNet for it, or seeds and targets do not pair up.
    """
    settings = settings or EvolveSettings()
    spec = control_spec(bundle)
    known = [known_to(target, bundle.card) or target for target in targets]
    frames = []
    for first in range(0, len(targets), settings.batch_size):
        part = slice(first, first + settings.batch_size)
        rows = list(index[part])
        # Without control the start has no say.
        change = change_cells(encoded, rows, known[part]) if settings.control_scale else None
        latents = sample_latents(
            bundle,
            known[part],
            seeds=seeds[part],
            steps=settings.steps,
            guidance=settings.guidance,
            solver=settings.solver,
            doors=settings.doors,
            branch=ControlBranch(
                control=control_of(spec, encoded, rows, known[part], height_m=height_m),
                scale=settings.control_scale,
                change=change,
            ),
        )
        pixels = decode(bundle.vae, latents)
        if change is not None and settings.keep_detail:
            seen, lost = encoded.seen[rows], encoded.lost[rows]
            pixels = restore_detail(pixels, seen, lost)
            keep = kept_pixels(change, encoded.there[rows])
            pixels = put_back(pixels, seen + lost, keep)
        frames.append(to_image(pixels).cpu().numpy())
        if progress:
            progress(min(first + settings.batch_size, len(targets)), len(targets))
    return np.concatenate(frames)


def evolve_pairs(
    bundle: Bundle,
    starts: Sequence[tuple[TileRecord, NDArray[np.uint8]]],
    targets: Sequence[TileRecord],
    *,
    seeds: Sequence[int],
    steps: int = STEPS,
    guidance: float = GUIDANCE,
    batch_size: int = BATCH_SIZE,
    progress: Progress | None = None,
    **rest: Any,
) -> NDArray[np.uint8]:
    """Take each start to the month and climate of its target.

    Args:
        bundle: With a ControlNet that reads references.
        starts: Record and image of each start ``(N,)``; the same pair may come many times.
        targets: One a start.
        seeds: One a start.
        steps: Solver steps.
        guidance: Guidance scale.
        batch_size: Frames at a time.
        progress: Called with (done, total).
        **rest: Further fields of `EvolveSettings`.

    Returns:
        uint8 ``(N, H, W, 3)``.
    """
    keys = [(record.tile_id, hashlib.sha256(image.tobytes()).digest()) for record, image in starts]
    begins = {
        key: Start(record=record, image=image)
        for key, (record, image) in zip(keys, starts, strict=True)
    }
    encoded = encode_starts(bundle, list(begins.values()))
    places = {key: place for place, key in enumerate(begins)}
    settings = EvolveSettings(steps=steps, guidance=guidance, batch_size=batch_size, **rest)
    index = [places[key] for key in keys]
    return evolve_images(
        bundle, encoded, index, targets, seeds=seeds, settings=settings, progress=progress
    )
