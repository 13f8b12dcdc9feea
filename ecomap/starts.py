"""Starts of sequences as a ControlNet sees them: encoded once, whatever is made of them."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from ecomap.climate_maps import climate_maps
from ecomap.controls import EDGE_CHANNELS, ControlSpec, cell_means, edge_cells, prepare_control
from ecomap.errors import RequestError
from ecomap.latents import decode, encode, to_pixels
from ecomap.model import Bundle
from ecomap.schema import TileRecord, months_between

ENCODED_AT_ONCE = 16
"""Images that the autoencoder sees at a time."""

FILLED_PX = 0
"""Value of pixels without data."""


@dataclass(frozen=True, kw_only=True)
class Start:
    """What a place looked like in one month."""

    record: TileRecord
    image: NDArray[np.uint8]
    """``(H, W, 3)``; black in all bands is missing data."""
    hidden: NDArray[np.bool_] | None = None
    """Pixels that are not to be believed, such as clouds ``(H, W)``."""

    @property
    def valid(self) -> NDArray[np.bool_]:
        """Pixels that show the place ``(H, W)``."""
        has_data = np.asarray((self.image != FILLED_PX).any(-1))
        return has_data if self.hidden is None else has_data & ~self.hidden


@dataclass(frozen=True)
class EncodedStarts:
    """Starts as a ControlNet sees them; encoded once, whatever is made of them."""

    starts: Sequence[Start]
    latents: Tensor
    """``(S, C, h, w)``."""
    valid: Tensor
    """Share of valid pixels in each cell ``(S, 1, h, w)``."""
    lost: Tensor
    """What the autoencoder loses: pixels minus their round trip ``(S, 3, H, W)``; 0 where the start
    has no data."""
    seen: Tensor
    """Pixels of the round trip ``(S, 3, H, W)``."""
    edges: dict[str, Tensor]
    """Edge channels of the control by name, each ``(S, 1, h, w)``."""


@torch.inference_mode()
def encode_starts(bundle: Bundle, starts: Sequence[Start]) -> EncodedStarts:
    """Encode starts of one size, missing pixels filled from the nearest.

    Raises:
        RequestError: If the bundle has no ControlNet that reads references.
    """
    spec = control_spec(bundle)
    filled = np.stack([fill_missing(start.image, start.valid) for start in starts])
    valid = np.stack([start.valid for start in starts])
    pixels = to_pixels(torch.from_numpy(filled)).to(bundle.device)
    parts = [pixels[i : i + ENCODED_AT_ONCE] for i in range(0, len(pixels), ENCODED_AT_ONCE)]
    latents = torch.cat([encode(bundle.vae, part) for part in parts])
    seen = torch.cat([
        decode(bundle.vae, latents[i : i + ENCODED_AT_ONCE])
        for i in range(0, len(latents), ENCODED_AT_ONCE)
    ])  # fmt: skip
    is_there = torch.from_numpy(valid)[:, None].to(pixels.device)
    names: list[str] = [name for name in spec.channels if name in EDGE_CHANNELS]
    edges = {name: edge_cells(name, filled).to(pixels) for name in names}
    return EncodedStarts(
        starts=starts,
        latents=latents,
        valid=cell_means(valid).to(pixels),
        lost=(pixels - seen) * is_there,
        seen=seen,
        edges=edges,
    )


def control_spec(bundle: Bundle) -> ControlSpec:
    """What the bundle's ControlNet reads.

    Raises:
        RequestError: If it has none that reads another month of a place.
    """
    if bundle.control is None or bundle.control.image != "reference":
        raise RequestError(
            f"Bundle {bundle.name!r} has no ControlNet that reads another month of a place. Use "
            "ecomap-tiny, or give one that was trained on references (--controlnet FOLDER)."
        )
    return bundle.control


def fill_missing(image: NDArray[np.uint8], valid: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """An image whose missing pixels look like the nearest valid ones ``(H, W, 3)``."""
    if valid.all() or not valid.any():
        return image
    nearest = ndimage.distance_transform_edt(~valid, return_distances=False, return_indices=True)
    return np.asarray(image[tuple(nearest)])


def control_of(
    spec: ControlSpec,
    encoded: EncodedStarts,
    index: Sequence[int],
    targets: Sequence[TileRecord],
    *,
    height_m: NDArray[np.float64] | None = None,
) -> Tensor:
    """Control of some targets, as training makes it.

    Args:
        spec: What the ControlNet reads.
        encoded: Starts.
        index: Start of each target ``(B,)``.
        targets: Months and climates, without what the model does not know.
        height_m: Height of each latent cell above that of the place's climate ``(h, w)``, metres.

    Returns:
        float32 ``(B, C + extra, h, w)`` on the device of the starts.
    """
    rows = list(index)
    references = [encoded.starts[i].record for i in rows]
    latents = encoded.latents[rows]
    cells = (latents.shape[2], latents.shape[3])
    maps = climate_maps(spec.channels, targets, references, cells, height_m=height_m)
    device = latents.device
    gaps = [gap_months(r, t, spec) for r, t in zip(references, targets, strict=True)]
    return prepare_control(
        spec,
        latents,
        valid=encoded.valid[rows],
        gap_months=torch.tensor(gaps, device=device),
        reference_month=torch.tensor([r.month_index + 1 for r in references], device=device),
        maps={name: torch.from_numpy(values).to(device) for name, values in maps.items()}
        | {name: values[rows] for name, values in encoded.edges.items()},
    )


def gap_months(reference: TileRecord, target: TileRecord, spec: ControlSpec) -> int:
    """Months from a reference to its target, as far as the ControlNet knows such gaps."""
    gap = months_between(reference.month, target.month)
    if spec.wrap_year:
        return gap % 12
    return int(np.clip(gap, spec.min_gap_months, spec.max_gap_months))
