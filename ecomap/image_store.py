"""Images made once and kept on disk in chunks, so that an interrupted evaluation goes on."""

import hashlib
import json
import zipfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ecomap.card import Door
from ecomap.errors import DataError, RequestError
from ecomap.schema import TileRecord

Images = NDArray[np.uint8]
"""Display values ``(N, H, W, 3)``."""

CHUNK = 48
"""Images to a file; at most so many are lost when a run is interrupted."""


class MakeImages(Protocol):
    """What the evaluation asks of a generator."""

    def __call__(
        self, records: Sequence[TileRecord], seeds: Sequence[int], doors: tuple[Door, ...]
    ) -> Images:
        """One uint8 image ``(H, W, 3)`` a record; the same seed gives the same noise."""


@dataclass(frozen=True, kw_only=True)
class ImageMaker:
    """Makes images in chunks and keeps each chunk on disk under a key of all that decides it."""

    make: MakeImages
    folder: Path
    context: Mapping[str, object]
    """What images depend on beside records, seeds and doors."""
    say: Callable[[str], None] = field(default=lambda _: None)

    def __call__(
        self,
        name: str,
        records: Sequence[TileRecord],
        seeds: Sequence[int],
        doors: tuple[Door, ...],
    ) -> Images:
        """Images of records, from disk where they are there.

        Args:
            name: Beginning of the files' names.
            records: At least one.
            seeds: One a record.
            doors: Ways by which the climate reaches the model.

        Raises:
            DataError: If a kept file is damaged.
            RequestError: If the generator gives another number or kind of images.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        chunks = []
        for start in range(0, len(records), CHUNK):
            part = slice(start, start + CHUNK)
            chunks.append(self._chunk(f"{name}-{start:05d}", records[part], seeds[part], doors))
            self.say(f"{name}: {min(start + CHUNK, len(records))} of {len(records)} images")
        return np.concatenate(chunks)

    def _chunk(
        self,
        name: str,
        records: Sequence[TileRecord],
        seeds: Sequence[int],
        doors: tuple[Door, ...],
    ) -> Images:
        """One chunk, made only if it is not there."""
        wanted = [record.model_dump(mode="json") for record in records]
        request = json.dumps([self.context, wanted, list(seeds), doors], sort_keys=True)
        path = self.folder / f"{name}-{hashlib.sha256(request.encode()).hexdigest()[:16]}.npz"
        if path.is_file():
            return _read_chunk(path)
        images = self.make(records, seeds, doors)
        if images.dtype != np.uint8 or images.ndim != 4 or len(images) != len(records):
            raise RequestError(
                f"The generator gave {images.dtype} of shape {images.shape} for {len(records)} "
                "records. Expected one uint8 image (H, W, 3) each."
            )
        temporary = path.with_suffix(".tmp")
        with temporary.open("wb") as file:
            np.savez_compressed(file, images=images)
        temporary.replace(path)
        return images


def _read_chunk(path: Path) -> Images:
    try:
        # np.load leaves a file that it opened itself open when it is damaged.
        with path.open("rb") as file, np.load(file, allow_pickle=False) as content:
            return np.asarray(content["images"], np.uint8)
    except (zipfile.BadZipFile, zlib.error, OSError, ValueError, KeyError, EOFError) as error:
        raise DataError(f"{path} is damaged: {error}. Delete it; it will be made again.") from None
