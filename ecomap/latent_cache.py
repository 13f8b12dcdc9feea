"""Latents of frames: encoded once, kept on disk, and found by what decided them.

A row is found by its sample, the content of its file and its window, never by its place in a list:
whatever the order of records and batches, a sample gets its own latents.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from rich.progress import Progress
from torch import Tensor

from ecomap.autoencoder import Vae
from ecomap.errors import DataError
from ecomap.frame_masks import ValidPixels, find_masks
from ecomap.frame_variants import Variants, cut
from ecomap.frame_windows import (
    SIZE_STEP_PX,
    Window,
    file_digests,
    file_order,
    list_windows,
)
from ecomap.imagery import FrameReader
from ecomap.kept_rows import KeptRows, Places, fill, key_of
from ecomap.latents import encode, to_pixels
from ecomap.network_identity import network_digest
from ecomap.schema import TileRecord

MAX_PIXELS = 1 << 20
"""Most pixels that are encoded at once, however many windows that is."""

CHUNK = 4096
"""Rows of which a mean is taken at a time."""

WHOLE_TILES = Variants()

Look = tuple[str, Callable[[NDArray[np.uint8]], NDArray[np.uint8]]]
"""A name, and what is done to a window before it is encoded; the name states all of it."""


class LatentTable:
    """Latents and weights of records on disk, by the numbers of record and variant."""

    def __init__(
        self,
        latents: tuple[KeptRows, Places],
        weights: tuple[KeptRows, Places],
        *,
        num_unmasked: int = 0,
    ) -> None:
        """Take rows as they are.

        Args:
            latents: Rows, and where in them each record's variants are ``(N, V)``.
            weights: Likewise.
            num_unmasked: Files without a mask where masks were asked for.
        """
        self._latents, self._latent_places = latents
        self._weights, self._weight_places = weights
        self.num_unmasked = num_unmasked

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one sample's latents ``(C, h, w)``."""
        return self._latents.shape

    @property
    def num_variants(self) -> int:
        """Variants of each record."""
        return int(self._latent_places.shape[1])

    def __len__(self) -> int:
        """Number of records."""
        return len(self._latent_places)

    def read(self, index: NDArray[np.int64], variant: NDArray[np.int64]) -> Tensor:
        """Latents of some samples.

        Args:
            index: Numbers of records ``(B,)``, in the order in which they were given.
            variant: Number of the variant of each ``(B,)``.

        Returns:
            float32 ``(B, C, h, w)``.
        """
        rows = self._latents.take(self._latent_places[index, variant])
        return torch.from_numpy(rows.astype(np.float32))

    def weights(self, index: NDArray[np.int64], variant: NDArray[np.int64]) -> Tensor:
        """Share of valid pixels in each latent cell, float32 ``(B, 1, h, w)`` in [0, 1]."""
        rows = self._weights.take(self._weight_places[index, variant])
        return torch.from_numpy(rows.astype(np.float32))

    @cached_property
    def mean_weight(self) -> float:
        """Mean of the weights of all records and variants."""
        places = self._weight_places.ravel()
        chunks = (places[start : start + CHUNK] for start in range(0, len(places), CHUNK))
        means = [self._weights.take(chunk).mean((1, 2, 3), dtype=np.float64) for chunk in chunks]
        return float(np.concatenate(means).mean())


def kept_latents(
    vae: Vae,
    records: Sequence[TileRecord],
    folder: Path,
    cache: Path,
    *,
    variants: Variants = WHOLE_TILES,
    cloud_masks: Path | None = None,
    look: Look | None = None,
    device: torch.device | str = "cpu",
    bf16: bool = False,
    batch_size: int = 32,
    progress: Progress | None = None,
) -> LatentTable:
    """Latents of records, and the weight of each cell: what is not kept yet is made and kept.

    Frames are read in the order of their files, so that each mosaic is decoded once. Interrupted
    work goes on, and records that come later are added.

    Args:
        vae: Frozen autoencoder.
        records: Records whose windows have one size.
        folder: Dataset folder.
        cache: Folder of all caches.
        variants: Windows and flips of each record.
        cloud_masks: Folder of masks (`ecomap.frame_masks.find_masks`). A pixel does not count
            where its mask is not 0, nor where the frame is black in all bands.
        look: Changes each window before it is encoded, such as to its edges.
        device: Where to encode.
        bf16: Encode under bfloat16 autocast: several times faster on a CPU that has it, and
            latents differ by about half a percent of their spread.
        batch_size: Most windows at a time.
        progress: Shows how far it is.

    Raises:
        DataError: If windows have several sizes or leave their tiles, a file is missing or
            damaged, or latents are not finite.
    """
    windows = list_windows(records, folder, variants, progress=progress)
    order, size = file_order(windows), windows[0].size
    ordered = [windows[i] for i in order]
    back = np.argsort(order).reshape(len(records), variants.count)
    names = list(dict.fromkeys(str(record.image_path) for record in records))
    masks = {} if cloud_masks is None else find_masks(cloud_masks, names)

    vae.to(device, memory_format=torch.channels_last)
    encoder = _Encoder(vae, FrameReader(folder), look, torch.device(device), bf16)
    shape = encoder.shape_of(size)
    latents = KeptRows(encoder.folder(cache, size), shape)
    weigher = _Weigher(FrameReader(folder), ValidPixels(folder, masks), size[0] // shape[1])
    weights = KeptRows(cache / "weights" / f"{size[0]}x{size[1]}_{weigher.cell}", (1, *shape[1:]))
    digests = dict(zip(masks, file_digests(masks.values()), strict=True))

    def keep(rows: KeptRows, keys: list[str], make: _Make, label: str) -> tuple[KeptRows, Places]:
        fill(
            rows,
            keys,
            lambda chosen: make([ordered[i] for i in chosen]),
            batch_size=max(1, min(batch_size, MAX_PIXELS // (size[0] * size[1]))),
            progress=progress,
            label=label,
        )
        return rows, rows.locate(keys)[back]

    keys = [window.key for window in ordered]
    hidden = [digests.get(str(window.record.image_path)) for window in ordered]
    weight_keys = [key_of(pair) for pair in zip(keys, hidden, strict=True)]
    return LatentTable(
        keep(latents, keys, encoder, "encoding frames"),
        keep(weights, weight_keys, weigher, "weighing pixels"),
        num_unmasked=0 if cloud_masks is None else len(names) - len(masks),
    )


_Make = Callable[[Sequence[Window]], np.ndarray]


@dataclass(frozen=True)
class _Encoder:
    """Windows to latents."""

    vae: Vae
    reader: FrameReader
    look: Look | None
    device: torch.device
    bf16: bool

    def shape_of(self, size: tuple[int, int]) -> tuple[int, ...]:
        """Shape of the latents of a window, found on a small black one."""
        side = 2 * SIZE_STEP_PX
        probe = self._encode(np.zeros((1, side, side, 3), np.uint8))[0]
        return (len(probe), *(px * probe.shape[1] // side for px in size))

    def folder(self, cache: Path, size: tuple[int, int]) -> Path:
        """Where latents of this autoencoder, look and size are kept."""
        look = None if self.look is None else self.look[0]
        digest = key_of([network_digest(self.vae), self.bf16, look, size])
        return cache / "latents" / f"{size[0]}x{size[1]}_{digest}"

    def __call__(self, windows: Sequence[Window]) -> np.ndarray:
        """Latents of some windows, float16 ``(B, C, h, w)``."""
        images = [window.read(self.reader) for window in windows]
        if self.look is not None:
            images = [self.look[1](image) for image in images]
        found = self._encode(np.stack(images))
        with np.errstate(over="ignore", invalid="ignore"):
            latents = found.astype(np.float16)
        is_good = np.isfinite(latents).reshape(len(latents), -1).all(1)
        if not is_good.all():
            record = windows[int(np.argmin(is_good))].record
            raise DataError(
                f"The latents of {record.tile_id} ({record.image_path}) are not finite in "
                f"float16, nor are those of {int((~is_good).sum()) - 1} more of its batch. "
                "Expected an autoencoder of Stable Diffusion's kind; encode in float32, or look "
                "at its weights."
            )
        return latents

    @torch.no_grad()
    def _encode(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Latents as they come."""
        pixels = to_pixels(torch.from_numpy(images))
        pixels = pixels.to(self.device, memory_format=torch.channels_last)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
            latents = encode(self.vae, pixels)
        found: NDArray[np.float32] = latents.float().cpu().numpy()
        return found


@dataclass(frozen=True)
class _Weigher:
    """Windows to the share of valid pixels in each latent cell."""

    reader: FrameReader
    valid: ValidPixels
    cell: int
    """Side of a latent cell, pixels."""

    def __call__(self, windows: Sequence[Window]) -> np.ndarray:
        """Weights of some windows ``(B, 1, h, w)``."""
        shares = []
        for window in windows:
            valid = self.valid.of(window.record, self.reader.read(window.record))
            rows, columns = (px // self.cell for px in window.size)
            cells = cut(valid, window.place, window.size)
            cells = cells.reshape(1, rows, self.cell, columns, self.cell)
            shares.append(cells.mean((2, 4), dtype=np.float32))
        return np.stack(shares)
