"""Controls of a training, gathered from what is kept: latents of references, and edges on them."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ecomap.autoencoder import LATENT_FACTOR
from ecomap.controls import EDGE_CHANNELS, ControlSpec, edge_cells, look_of, prepare_control
from ecomap.detectors import open_detector
from ecomap.frame_variants import Variants
from ecomap.frame_windows import file_order, list_windows
from ecomap.imagery import FrameReader
from ecomap.kept_rows import KeptRows, fill
from ecomap.latent_cache import LatentTable
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
        edges: Mapping[str, Cells] | None = None,
    ) -> None:
        """Take what is kept of the frames that may be references.

        Args:
            spec: What the ControlNet sees.
            references: Of the records that are trained on.
            latents: Of the pool of references, as the control image shows them.
            edges: Edge channels of the pool by name.
        """
        self.spec = spec
        self.references = references
        self._latents = latents
        self._edges = dict(edges or {})

    def read(
        self,
        index: NDArray[np.int64],
        reference: NDArray[np.float64],
        variant: NDArray[np.int64],
        has_control: NDArray[np.bool_],
    ) -> Tensor:
        """Controls of some samples.

        Args:
            index: Positions of records ``(B,)``.
            reference: Draws in [0, 1) that choose among a record's references ``(B,)``.
            variant: Windows and flips ``(B,)``; a reference gets that of its target.
            has_control: Where it is false ``(B,)``, and for records without a reference, the
                control is empty.

        Returns:
            float32 ``(B, C + extra, h, w)``.
        """
        position, gap = self.references.choose(index, reference)
        has_any = has_control & (position != NONE)
        position = np.where(has_any, position, 0)
        return prepare_control(
            self.spec,
            self._latents.read(position, variant),
            valid=self._latents.weights(position, variant),
            gap_months=torch.from_numpy(gap),
            maps={name: cells(position, variant) for name, cells in self._edges.items()},
            has_control=torch.from_numpy(has_any),
        )


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
    return ControlTable(spec, references, latents, edges=edges)


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
