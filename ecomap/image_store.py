"""Images made once and kept as PNG that say how they were made, so that a run goes on."""

import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ecomap.card import BundleCard, Door
from ecomap.errors import DataError, ImageError, RequestError
from ecomap.imagery import read_image
from ecomap.outputs import read_provenance, synthetic_name, write_png
from ecomap.schema import TileRecord
from ecomap.tiles import Frame, ScoredTile, SetKind

Images = NDArray[np.uint8]
"""Display values ``(N, H, W, 3)``."""

BATCH = 16
"""Images made at a time; at most so many are lost when a run is interrupted."""

IMAGES_FOLDER = "images"

HASH_KEY = "request_sha256"
"""Entry of the provenance with the hash of all that decided the image."""

OF_THE_FRAME = (
    *("image_path", "window_px", "reflectance_range", "acquired", "processing_baseline"),
    *("digital_number_offset", "digital_number_offset_confidence"),
    *("snow_frac", "scene_snow_frac", "nodata_frac"),
)
"""Fields of a record that say something of a real frame and nothing of an image made for it."""


class MakeImages(Protocol):
    """What is asked of a generator."""

    def __call__(
        self, records: Sequence[TileRecord], seeds: Sequence[int], doors: tuple[Door, ...]
    ) -> Images:
        """One uint8 image ``(H, W, 3)`` a record; the same seed gives the same noise."""


@dataclass(frozen=True, kw_only=True)
class ImageRequest:
    """One image to make."""

    key: str
    """Unique among the images of a folder."""
    record: TileRecord
    """What the model is told, of the size that it makes."""
    seed: int
    doors: tuple[Door, ...]
    """Ways by which the climate reaches the model; none is the unconditional model."""


@dataclass(frozen=True, kw_only=True)
class ImageMaker:
    """Makes images, and keeps each under a hash of all that decides it."""

    make: MakeImages
    card: BundleCard
    """Of the model behind ``make``."""
    folder: Path
    settings: Mapping[str, Any]
    """What decides images beside their requests; plain JSON."""
    notes: Mapping[str, Any] = field(default_factory=dict)
    """What else the provenance tells."""
    describe: Callable[[ImageRequest], Mapping[str, Any]] = lambda _: {}
    """What the provenance tells of one request, such as its prompt."""
    say: Callable[[str], None] = lambda _: None

    def __call__(self, name: str, requests: Sequence[ImageRequest]) -> list[Path]:
        """Make the images that are not there yet, in ``folder / name / "images"``.

        Returns:
            The file of each request.

        Raises:
            RequestError: If two requests have one key, or the generator gives another number, kind
                or size of images.
        """
        folder = self.folder / name / IMAGES_FOLDER
        paths = [folder / synthetic_name(_stem(request.key), ".png") for request in requests]
        if len(set(paths)) < len(paths):
            raise RequestError(f"Two of the {len(paths)} images of {name} have the same key.")
        hashes = [self._hash(request) for request in requests]
        todo = [i for i, path in enumerate(paths) if _kept_hash(path) != hashes[i]]
        # One call of the generator has one set of doors.
        todo.sort(key=lambda index: requests[index].doors)
        done = len(paths) - len(todo)
        self.say(f"{name}: {done} of {len(paths)} images are there")
        while todo:
            doors = requests[todo[0]].doors
            batch = [index for index in todo[:BATCH] if requests[index].doors == doors]
            todo = todo[len(batch) :]
            images = self._make([requests[index] for index in batch])
            for index, image in zip(batch, images, strict=True):
                told = {**self.settings, **self.notes, **self.describe(requests[index])}
                told |= {"doors": list(doors), "seed": requests[index].seed}
                told |= {HASH_KEY: hashes[index]}
                write_png(paths[index], image, requests[index].record, told)
            done += len(batch)
            self.say(f"{name}: {done} of {len(paths)} images")
        return paths

    def _make(self, requests: Sequence[ImageRequest]) -> Images:
        """Images of requests with the same doors."""
        records, seeds = [r.record for r in requests], [r.seed for r in requests]
        images = self.make(records, seeds, requests[0].doors)
        if images.dtype != np.uint8 or images.ndim != 4 or len(images) != len(requests):
            raise RequestError(
                f"The generator gave {images.dtype} of shape {images.shape} for {len(requests)} "
                "records. Expected one uint8 image (H, W, 3) each."
            )
        return images

    def _hash(self, request: ImageRequest) -> str:
        """Hash of all that decides an image."""
        asked = [dict(self.settings), request.record.model_dump(mode="json")]
        text = json.dumps([*asked, request.seed, request.doors], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()


@dataclass(kw_only=True)
class KeptImages:
    """Images of an `ImageMaker` as an `ecomap.tiles.ImageSet`."""

    name: str
    kind: SetKind
    description: str
    tiles: Sequence[ScoredTile]
    paths: Sequence[Path]
    """File of each tile."""

    def read(self, index: int) -> Frame:
        """Image of ``tiles[index]``.

        Raises:
            ImageError: If its file is missing or damaged.
        """
        try:
            rgb = read_image(self.paths[index])
        except DataError as error:
            raise ImageError("unreadable", f"{error} Delete it; it will be made again.") from None
        return Frame(rgb=rgb, valid=np.ones(rgb.shape[:2], bool))

    def signature(self, index: int) -> str | None:
        """Hash of all that decided the image; ``None`` where its file does not tell it."""
        return _kept_hash(self.paths[index])


def as_made(record: TileRecord, card: BundleCard) -> TileRecord:
    """A record of the image that a bundle makes for it, without what is true of the frame only.

    The key stays, so that the image is scored against the frame. Where the bundle makes images of
    another size or scale, the record's grid does not describe them and is left out.
    """
    update: dict[str, Any] = dict.fromkeys(OF_THE_FRAME)
    update |= {"flags": (), "bands": (), "scene_ids": ()}
    if card.license:
        update |= {"license": card.license, "attribution": "; ".join(card.attribution)}
    side, metres = card.image_size_px, card.ground_sampling_distance_m
    is_same_size = (record.height_px, record.width_px) == (side, side)
    if not is_same_size or abs(record.ground_sampling_distance_m / metres - 1) > 0.01:
        update |= {"height_px": side, "width_px": side, "ground_sampling_distance_m": metres}
        update |= {"crs": None, "transform": None}
    return record.model_copy(update=update)


def _stem(key: str) -> str:
    """Name of a file for a key: readable, and another one for every other key."""
    digest = hashlib.sha256(key.encode()).hexdigest()[:8]
    return f"{re.sub(r'[^A-Za-z0-9+.-]+', '_', key)[:100]}_{digest}"


def _kept_hash(path: Path) -> str | None:
    """Hash in the provenance of a file; None where there is no such file or it tells none."""
    try:
        found = read_provenance(path).get(HASH_KEY)
    except DataError:
        return None
    return found if isinstance(found, str) else None
