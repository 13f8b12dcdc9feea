"""What a ControlNet sees: one function from latents and channels to a control.

A control is latents of an image of the place (another month of it, or the edges in that month) and
extra channels with a value per latent cell. Training and sampling make it by `prepare_control`.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Self, get_args

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor
from torch.nn import functional as F

from ecomap.autoencoder import LATENT_FACTOR
from ecomap.detectors import DETECTORS, Look, open_detector
from ecomap.errors import RequestError
from ecomap.imagery import has_data
from ecomap.latents import Vae, encode, to_pixels
from ecomap.transformer_config import ControlChannel, ControlImage, ControlNetConfig

EDGE_CHANNELS = tuple(name for name in get_args(ControlChannel) if name in DETECTORS)
"""Channels that a detector makes."""

MIN_VALID = 0.5
"""Share of valid pixels below which a cell of a reference is not shown."""


class ControlSpec(BaseModel):
    """What the channels of a control are; saved beside the ControlNet that was trained on it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    image: ControlImage = "reference"
    """What the latent channels show."""
    channels: tuple[ControlChannel, ...] = ()
    """Channels beside them, in their order."""
    max_gap_months: int = Field(default=6, gt=0)
    """Most months between a reference and its target."""
    min_gap_months: int = Field(default=1, ge=0)
    """Fewest months between them; at 0 a month may be its own reference."""
    wrap_year: bool = False
    """Whether months form a circle; else a reference is earlier than its target."""
    max_reference_cloud_frac: float = Field(default=1.0, gt=0, le=1)
    """Most cloud of a reference in training."""
    edit: bool = False
    """Whether the ControlNet changes its reference in place of making an image anew."""

    @classmethod
    def from_config(cls, config: ControlNetConfig) -> Self:
        """Spec that a training's settings state."""
        return cls(**{name: getattr(config, name) for name in cls.model_fields})

    @property
    def num_extra(self) -> int:
        """Number of channels beside the latents."""
        return len(self.channels)

    @property
    def valid_channel(self) -> int:
        """Place of reference_valid among the extra channels."""
        return self.channels.index("reference_valid")


def prepare_control(
    spec: ControlSpec,
    image_latents: Tensor,
    *,
    valid: Tensor | None = None,
    gap_months: Tensor | None = None,
    reference_month: Tensor | None = None,
    maps: Mapping[str, Tensor] | None = None,
    has_control: Tensor | None = None,
) -> Tensor:
    """Join what a ControlNet sees, in training and in sampling.

    Args:
        spec: Which channels there are.
        image_latents: Latents of the control image ``(B, C, h, w)``: the mode, after shift and
            scale (`ecomap.latents.encode`).
        valid: Share of valid pixels of each cell of the reference ``(B, 1, h, w)``, in [0, 1].
            Where the channel reference_valid is read, cells of less than half are seen as zero.
        gap_months: Months from the reference to its target ``(B,)``, or of each cell
            ``(B, 1, h, w)``.
        reference_month: Calendar month of the reference, 1 to 12, shaped likewise.
        maps: Values by channel, each ``(B, 1, h, w)``: edges in [0, 1] (`cell_means`), climate in
            the units of `ecomap.climate_maps`.
        has_control: bool ``(B,)``: whose control is there; by default all. An empty control is
            zero throughout.

    Returns:
        float32 ``(B, C + extra, h, w)``.

    Raises:
        RequestError: If a channel of the spec is not given, or has another size.
    """
    count, _, height, width = image_latents.shape
    cells = (count, 1, height, width)
    given = dict(maps or {})
    if valid is not None:
        given["reference_valid"] = valid
    if gap_months is not None:
        given["months_gap"] = _per_cell(gap_months, cells) / spec.max_gap_months
    if reference_month is not None:
        season = _per_cell(reference_month, cells) * (2 * torch.pi / 12)
        given |= {"reference_sin": season.sin(), "reference_cos": season.cos()}
    parts = [image_latents]
    for name in spec.channels:
        if name not in given or given[name].shape != cells:
            found = "is missing" if name not in given else f"has shape {tuple(given[name].shape)}"
            raise RequestError(
                f"Control channel {name} {found}; expected shape {cells}. Give all channels "
                f"that the ControlNet was trained on: {', '.join(spec.channels)}."
            )
        parts.append(given[name])
    if valid is not None and "reference_valid" in spec.channels:
        parts[0] = image_latents.masked_fill(valid.to(image_latents) < MIN_VALID, 0.0)
    control = torch.cat([part.float().to(image_latents.device) for part in parts], dim=1)
    if has_control is None:
        return control
    # Not a product with 0, which would keep what is not finite.
    return control.masked_fill(~has_control.to(control.device)[:, None, None, None], 0.0)


def _per_cell(values: Tensor, cells: tuple[int, int, int, int]) -> Tensor:
    """A value a sample ``(B,)`` for all of its cells; values a cell as they are."""
    values = values.float()
    return (values[:, None, None, None] if values.ndim == 1 else values).expand(cells)


@torch.no_grad()
def encode_control(
    spec: ControlSpec,
    vae: Vae,
    frames: np.ndarray,
    *,
    gap_months: int | None = None,
    weights: Path | None = None,
) -> Tensor:
    """Control that images give, as training gives it for the frames of a dataset.

    Args:
        spec: What the ControlNet reads.
        vae: Autoencoder, on the device of the result.
        frames: uint8 ``(B, H, W, 3)``; missing where black (`ecomap.imagery.has_data`).
        gap_months: Months from these images to their targets.
        weights: Folder of the detector's weights, for detectors that have any.

    Returns:
        float32 ``(B, C + extra, h, w)``.

    Raises:
        ConfigError: If a detector lacks its weights.
        RequestError: If the ControlNet must know the gap and it is not given.
    """
    if "months_gap" in spec.channels and gap_months is None:
        raise RequestError(
            "The ControlNet must know how many months lie between its image and the target. Give "
            "the image's month (--control-month)."
        )
    look = look_of(spec, weights)
    shown = np.array(frames) if look is None else np.stack([look[1](frame) for frame in frames])
    device = next(vae.parameters()).device  # type: ignore[attr-defined]
    gaps = None if gap_months is None else torch.full((len(frames),), float(gap_months))
    return prepare_control(
        spec,
        encode(vae, to_pixels(torch.from_numpy(shown)).to(device)),
        valid=cell_means(has_data(frames)),
        gap_months=gaps,
        maps={name: edge_cells(name, frames) for name in spec.channels if name in EDGE_CHANNELS},
    )


def look_of(spec: ControlSpec, weights: Path | None = None) -> Look | None:
    """What is done to a frame before it is encoded; ``None`` where it is shown as it is.

    Args:
        spec: What the ControlNet reads.
        weights: Folder of the detector's weights, for detectors that have any.

    Raises:
        ConfigError: If a detector lacks its weights.
    """
    return None if spec.image == "reference" else open_detector(spec.image, weights)


def edge_cells(name: str, frames: np.ndarray) -> Tensor:
    """Edges of images as a control channel.

    Args:
        name: One of `EDGE_CHANNELS`.
        frames: uint8 ``(B, H, W, 3)``.

    Returns:
        Mean strength of the edges in each latent cell, float32 ``(B, 1, h, w)`` in [0, 1].
    """
    _, look = open_detector(name)
    return cell_means(np.stack([look(frame)[..., 0] for frame in frames]) / np.float32(255))


def cell_means(values: np.ndarray) -> Tensor:
    """Mean of pixels ``(B, H, W)`` over each latent cell, float32 ``(B, 1, h, w)``.

    Example:
        >>> cell_means(np.eye(8, dtype=bool)[None]).tolist()
        [[[[0.125]]]]
    """
    pixels = torch.from_numpy(np.asarray(values, dtype=np.float32))
    return F.avg_pool2d(pixels[:, None], LATENT_FACTOR)
