"""Starts of sequences as a ControlNet sees them: encoded once, whatever is made of them.

A start may be made of several months of a place: where one does not show the ground, the next one
does. Each cell then tells its own month, gap and change of climate.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from ecomap.card import BundleCard
from ecomap.climate_maps import climate_maps
from ecomap.controls import EDGE_CHANNELS, ControlSpec, cell_means, edge_cells, prepare_control
from ecomap.errors import RequestError
from ecomap.imagery import has_data
from ecomap.latents import decode, encode, to_pixels
from ecomap.model import Bundle
from ecomap.request import known_to
from ecomap.schema import TileRecord, months_between, unique

ENCODED_AT_ONCE = 16
"""Images that the autoencoder sees at a time."""

MAX_MONTHS = 24
"""Most months of a place that one start is made of."""


@dataclass(frozen=True, kw_only=True)
class Start:
    """What a place looked like in one month, or pixel by pixel in one of several."""

    record: TileRecord
    image: NDArray[np.uint8]
    """``(H, W, 3)``; missing where it is black (`ecomap.imagery.has_data`)."""
    hidden: NDArray[np.bool_] | None = None
    """Pixels that are not to be believed, such as clouds ``(H, W)``."""
    others: tuple[TileRecord, ...] = ()
    """Further months, which some pixels show (`merge_starts`)."""
    source: NDArray[np.uint8] | None = None
    """Place in ``records`` of the month that a pixel shows ``(H, W)``; by default the first."""

    @property
    def records(self) -> tuple[TileRecord, ...]:
        """All months that pixels may show."""
        return (self.record, *self.others)

    @property
    def valid(self) -> NDArray[np.bool_]:
        """Pixels that show the place ``(H, W)``."""
        there = has_data(self.image)
        return there if self.hidden is None else there & ~self.hidden

    def shows(self, number: int) -> NDArray[np.bool_]:
        """Pixels that show the place in ``records[number]`` ``(H, W)``."""
        if self.source is None:
            return self.valid if number == 0 else np.zeros_like(self.valid)
        return np.asarray(self.valid & (self.source == number))


def merge_starts(starts: Sequence[Start]) -> Start:
    """One start of several months of a place: each shows what those before it do not.

    Args:
        starts: On one grid, the preferred first; its record becomes that of the whole, with the
            licences and attributions of all.

    Raises:
        RequestError: If they are on different grids, or too many.
    """
    first, *rest = starts
    if not rest:
        return first
    if len(starts) > MAX_MONTHS:
        raise RequestError(
            f"{len(starts)} starts are given; one can be made of {MAX_MONTHS} months at most. "
            "Leave out the worst."
        )
    image, shown = first.image.copy(), first.valid
    source = np.zeros(shown.shape, np.uint8)
    for number, other in enumerate(rest, 1):
        _check_same_grid(first, other)
        filled = other.valid & ~shown
        image[filled] = other.image[filled]
        source[filled] = number
        shown = shown | filled
    thanks = {
        name: "; ".join(unique(getattr(s.record, name) for s in starts if getattr(s.record, name)))
        for name in ("license", "attribution")
    }
    return Start(
        record=first.record.model_copy(update=thanks), image=image, hidden=~shown,
        others=tuple(other.record for other in rest), source=source,
    )  # fmt: skip


def _check_same_grid(one: Start, two: Start) -> None:
    """Refuse starts whose pixels do not show the same ground."""
    sizes = [f"{start.image.shape[1]} x {start.image.shape[0]} px" for start in (one, two)]
    crs, transforms = zip(*((s.record.crs, s.record.transform) for s in (one, two)), strict=True)
    months = f"{one.record.month} and {two.record.month}"
    if sizes[0] != sizes[1]:
        raise RequestError(
            f"The starts of {months} are of {sizes[0]} and {sizes[1]}. Expected one grid; warp one "
            "onto the other (gdalwarp)."
        )
    if None not in transforms and not (crs[0] == crs[1] and np.allclose(*transforms)):
        raise RequestError(
            f"The starts of {months} lie on different ground: {crs[0]} {transforms[0]} and "
            f"{crs[1]} {transforms[1]}. Expected one grid; warp one onto the other (gdalwarp)."
        )


@dataclass(frozen=True)
class EncodedStarts:
    """Starts as a ControlNet sees them; encoded once, whatever is made of them."""

    records: Sequence[tuple[TileRecord, ...]]
    """Months of each start, without what the model does not know."""
    latents: Tensor
    """``(S, C, h, w)``."""
    valid: Tensor
    """Share of valid pixels in each cell ``(S, 1, h, w)``."""
    source: Tensor
    """Which of a start's months a cell shows, int64 ``(S, 1, h, w)``."""
    lost: Tensor
    """What the autoencoder loses: pixels minus their round trip ``(S, 3, H, W)``; 0 where the start
    has no data."""
    seen: Tensor
    """Pixels of the round trip ``(S, 3, H, W)``."""
    there: Tensor
    """Where a start shows its place, bool ``(S, 1, H, W)``."""
    edges: dict[str, Tensor]
    """Edge channels of the control by name, each ``(S, 1, h, w)``."""

    def numbers(self, rows: Sequence[int]) -> range:
        """Places of all months that some starts are made of."""
        return range(max(len(self.records[row]) for row in rows))

    def month(self, row: int, number: int) -> TileRecord:
        """A month of a start; its last one for numbers that it does not have."""
        return self.records[row][min(number, len(self.records[row]) - 1)]


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
        records=[known_months(start, bundle.card) for start in starts],
        latents=latents,
        valid=cell_means(valid).to(pixels),
        source=torch.cat([source_cells(start) for start in starts]).to(pixels.device),
        lost=(pixels - seen) * is_there,
        seen=seen,
        there=is_there,
        edges=edges,
    )


def known_months(start: Start, card: BundleCard) -> tuple[TileRecord, ...]:
    """Months of a start, without what a model does not know."""
    return tuple(known_to(record, card) or record for record in start.records)


def source_cells(start: Start) -> Tensor:
    """Which month most pixels of a cell show, int64 ``(1, 1, h, w)``."""
    shares = [cell_means(start.shows(number)[None]) for number in range(len(start.records))]
    return torch.cat(shares, 1).argmax(1, keepdim=True)


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
    values: dict[str, Tensor] = {}
    for number in encoded.numbers(rows):
        references = [encoded.month(row, number) for row in rows]
        of_month = _seen_from(spec, encoded, references, targets, height_m)
        is_its = encoded.source[rows] == number
        values = {
            name: torch.where(is_its, value, values[name]) if values else value
            for name, value in of_month.items()
        }
    return prepare_control(
        spec,
        encoded.latents[rows],
        valid=encoded.valid[rows],
        gap_months=values.pop("gap"),
        reference_month=values.pop("month"),
        maps=values | {name: edges[rows] for name, edges in encoded.edges.items()},
    )


def _seen_from(
    spec: ControlSpec,
    encoded: EncodedStarts,
    references: Sequence[TileRecord],
    targets: Sequence[TileRecord],
    height_m: NDArray[np.float64] | None,
) -> dict[str, Tensor]:
    """Gap, month and climate maps of targets beside a reference each, ``(B, 1, h, w)``."""
    device, cells = encoded.latents.device, encoded.latents.shape[2:]
    shape = (len(targets), 1, *cells)
    gaps = [gap_months(r, t, spec) for r, t in zip(references, targets, strict=True)]
    numbers = {"gap": gaps, "month": [r.month_index + 1 for r in references]}
    maps = climate_maps(spec.channels, targets, references, (cells[0], cells[1]), height_m=height_m)
    found = {name: torch.from_numpy(values).to(device) for name, values in maps.items()}
    for name, values in numbers.items():
        column = torch.tensor(values, dtype=torch.float32, device=device)
        found[name] = column[:, None, None, None].expand(shape)
    return found


def gap_months(reference: TileRecord, target: TileRecord, spec: ControlSpec) -> int:
    """Months from a reference to its target, as far as the ControlNet knows such gaps."""
    gap = months_between(reference.month, target.month)
    if spec.wrap_year:
        return gap % 12
    return int(np.clip(gap, spec.min_gap_months, spec.max_gap_months))
