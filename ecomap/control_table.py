"""Controls of a training, gathered from what is kept: latents of references, and edges on them."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ecomap.autoencoder import LATENT_FACTOR
from ecomap.climate_maps import MAP_CHANNELS, climate_maps
from ecomap.controls import EDGE_CHANNELS, ControlSpec, edge_cells, look_of, prepare_control
from ecomap.detectors import open_detector
from ecomap.frame_variants import Place, Variants, cut, place_of, window_size
from ecomap.frame_windows import file_order, list_windows
from ecomap.imagery import FrameReader
from ecomap.kept_rows import KeptRows, fill
from ecomap.latent_cache import WHOLE_TILES, LatentTable
from ecomap.references import NONE, References
from ecomap.schema import TileRecord

Cells = Callable[[NDArray[np.int64], NDArray[np.int64]], Tensor]
"""Positions in a pool of frames and their variants -> a channel ``(B, 1, h, w)``."""


class ControlTable:
    """The control of every record, whichever of its references is drawn."""

    def __init__(
        self,
        spec: ControlSpec,
        references: References,
        latents: LatentTable,
        *,
        variants: Variants = WHOLE_TILES,
        edges: Mapping[str, Cells] | None = None,
    ) -> None:
        """Take what is kept of the frames that may be references.

        Args:
            spec: What the ControlNet sees.
            references: Of the records that are trained on.
            latents: Of the pool of references, as the control image shows them.
            variants: Windows and flips of records.
            edges: Edge channels of the pool by name.
        """
        self.spec = spec
        self.references = references
        self._latents = latents
        self._variants = variants
        self._edges = dict(edges or {})

    def read(
        self,
        index: NDArray[np.int64],
        reference: NDArray[np.float64],
        variant: NDArray[np.int64],
        has_control: NDArray[np.bool_],
        *,
        holes: Tensor | None = None,
    ) -> Tensor:
        """Controls of some samples.

        Args:
            index: Positions of records ``(B,)``.
            reference: Draws in [0, 1) that choose among a record's references ``(B,)``.
            variant: Windows and flips ``(B,)``; a reference gets that of its target.
            has_control: Where it is false ``(B,)``, and for records without a reference, the
                control is empty.
            holes: Cells of each reference that are hidden, bool ``(B, 1, h, w)``.

        Returns:
            float32 ``(B, C + extra, h, w)``.
        """
        position, gap = self.references.choose(index, reference)
        has_any = has_control & (position != NONE)
        position = np.where(has_any, position, 0)
        latents = self._latents.read(position, variant)
        valid = self._latents.weights(position, variant)
        shown = [self.references.pool[i] for i in position.tolist()]
        maps = self._climate(index, shown, variant)
        return prepare_control(
            self.spec,
            latents,
            valid=valid if holes is None else valid.masked_fill(holes, 0.0),
            gap_months=torch.from_numpy(gap),
            reference_month=torch.tensor([record.month_index + 1 for record in shown]),
            maps=maps | {name: cells(position, variant) for name, cells in self._edges.items()},
            has_control=torch.from_numpy(has_any),
        )

    def _climate(
        self, index: NDArray[np.int64], shown: Sequence[TileRecord], variant: NDArray[np.int64]
    ) -> dict[str, Tensor]:
        """Climate maps of some samples, in the windows and flips of their images."""
        names = [name for name in self.spec.channels if name in MAP_CHANNELS]
        found: dict[str, list[np.ndarray]] = {name: [] for name in names}
        for i, reference, kind in zip(index.tolist(), shown, variant.tolist(), strict=True):
            record = self.references.records[i]
            cells = (record.height_px // LATENT_FACTOR, record.width_px // LATENT_FACTOR)
            row, column, flip = place_of(record, kind, self._variants)
            place = Place(row // LATENT_FACTOR, column // LATENT_FACTOR, flip)
            height, width = window_size(record, self._variants)
            size = (height // LATENT_FACTOR, width // LATENT_FACTOR)
            for name, values in climate_maps(names, [record], [reference], cells).items():
                found[name].append(cut(values[0, 0], place, size))
        return {
            name: torch.from_numpy(np.stack(each)[:, None].copy()) for name, each in found.items()
        }


def references_of(
    spec: ControlSpec, records: Sequence[TileRecord], pool: Sequence[TileRecord] | None = None
) -> References:
    """References that a spec allows.

    Args:
        spec: What the ControlNet sees.
        records: Targets.
        pool: Frames that may be references; by default the targets themselves.
    """
    return References(
        records,
        max_gap_months=spec.max_gap_months,
        min_gap_months=spec.min_gap_months,
        wrap_year=spec.wrap_year,
        max_cloud_frac=spec.max_reference_cloud_frac,
        pool=pool,
    )


def open_control(
    spec: ControlSpec,
    references: References,
    *,
    keep: Callable[..., LatentTable],
    variants: Variants,
    folder: Path,
    cache: Path,
    weights: Path | None = None,
) -> ControlTable:
    """Encode what is not kept yet of all references, and open their controls.

    Args:
        spec: What the ControlNet sees.
        references: Of the records that are trained on.
        keep: `ecomap.latent_cache.kept_latents` with all but its records, ``variants`` and
            ``look``.
        variants: Windows and flips of the targets.
        folder: Dataset folder.
        cache: Folder of all caches.
        weights: Folder of the detector's weights, for detectors that have any.

    Raises:
        ConfigError: If a detector lacks its weights.
        DataError: If a frame cannot be read.
    """
    pool = references.pool
    latents = keep(pool, variants=variants, look=look_of(spec, weights))
    names: list[str] = [name for name in spec.channels if name in EDGE_CHANNELS]
    edges = {name: kept_edges(name, pool, folder, cache, variants=variants) for name in names}
    return ControlTable(spec, references, latents, variants=variants, edges=edges)


def kept_edges(
    name: str, records: Sequence[TileRecord], folder: Path, cache: Path, *, variants: Variants
) -> Cells:
    """Edges of frames per latent cell, from disk where they are there already.

    Args:
        name: One of `ecomap.controls.EDGE_CHANNELS`.
        records: Records of one size.
        folder: Dataset folder.
        cache: Folder of all caches.
        variants: Windows and flips.

    Returns:
        Function of positions in ``records`` and variants.

    Raises:
        DataError: If a frame cannot be read.
    """
    windows = list_windows(records, folder, variants)
    order, size = file_order(windows), windows[0].size
    ordered = [windows[i] for i in order]
    label, _ = open_detector(name)
    shape = (1, size[0] // LATENT_FACTOR, size[1] // LATENT_FACTOR)
    rows = KeptRows(cache / "edges" / f"{size[0]}x{size[1]}_{label}", shape)
    reader = FrameReader(folder)

    def make(positions: list[int]) -> np.ndarray:
        return edge_cells(name, np.stack([ordered[i].read(reader) for i in positions])).numpy()

    fill(rows, [window.key for window in ordered], make, label=f"{name} edges")
    places = rows.locate([window.key for window in windows]).reshape(len(records), variants.count)

    def read(index: NDArray[np.int64], variant: NDArray[np.int64]) -> Tensor:
        return torch.from_numpy(rows.take(places[index, variant]).astype(np.float32))

    return read
