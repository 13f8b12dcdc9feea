"""What a bundle makes of the tiles of a dataset, as sets of images that can be scored.

Beside the images of the true conditions stand those of a wrong climate and of none, and what the
bundle's autoencoder keeps of real images.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from diffusers import AutoencoderKL

from ecomap.autoencoder import LATENT_FACTOR
from ecomap.card import BundleCard, Door, training_digests
from ecomap.denoiser import computing
from ecomap.errors import RequestError
from ecomap.image_store import (
    IMAGES_FOLDER,
    ImageMaker,
    ImageRequest,
    Images,
    KeptImages,
    as_made,
)
from ecomap.image_subsets import signature_of
from ecomap.latents import decode, encode, to_image, to_pixels
from ecomap.model import Bundle
from ecomap.outputs import SYNTHETIC_STATEMENT
from ecomap.places import places_digest, shuffle_climate
from ecomap.request import known_to
from ecomap.sample import SOLVER, generate_images, prompt_of
from ecomap.schema import TileRecord, write_dataset
from ecomap.tiles import Frame, ImageSet, ScoredTile, SetKind
from ecomap.versions import versions

ConditionName = Literal["generated", "shuffled_climate", "unconditional"]

CONDITIONS: dict[ConditionName, tuple[SetKind, str]] = {
    "generated": ("generated", "Images for the place, month and climate of each tile."),
    "shuffled_climate": ("null", "Images for each tile under the climate of another place."),
    "unconditional": ("null", "Images of the model when it is told nothing."),
}
"""Kind and description of the images of each condition."""

SEED_STRIDE = 1_000_000
"""Keeps the seeds of places and of unconditional images apart."""

UNSURE_NOTE = (
    "The bundle's card does not name the training side of this dataset as what it learnt from: it "
    "is not known whether the bundle has seen the scored places, and the scores may flatter it."
)

SHARED_NOTE = (
    "{count} held-out places were trained on in other months: scores tell how well other months of "
    "known places are met, not other places."
)


def open_maker(
    bundle: Bundle,
    folder: Path,
    *,
    steps: int,
    guidance: float,
    progress: Callable[[str], None] | None = None,
) -> ImageMaker:
    """A bundle's own generator, whose images are kept in a folder.

    What decides an image is hashed with its request: the bundle's files, steps, guidance, solver,
    device, precision, and the versions of packages. Our own code is only noted.

    Args:
        bundle: Model.
        folder: Where images go; those that are there already are not made again.
        steps: Solver steps.
        guidance: Guidance scale.
        progress: Called with one line about each batch.
    """

    def make(
        records: Sequence[TileRecord], seeds: Sequence[int], doors: tuple[Door, ...]
    ) -> Images:
        return generate_images(
            bundle, records, seeds=seeds, steps=steps, guidance=guidance, doors=doors
        )

    def describe(request: ImageRequest) -> dict[str, Any]:
        told = known_to(request.record, bundle.card)
        return {"prompt": prompt_of(told).long if told and "text" in request.doors else None}

    found = versions()
    code = found.pop("ecomap_code")
    settings = {
        "bundle": bundle.identity,
        "steps": steps,
        "guidance": guidance,
        "solver": SOLVER,
        **computing(bundle.device),
        "versions": found,
    }
    notes = {"code": code, "attribution": list(bundle.card.attribution)}
    return ImageMaker(
        make=make, card=bundle.card, folder=folder, settings=settings, notes=notes,
        describe=describe, say=progress or (lambda _: None),
    )  # fmt: skip


def generate_systems(
    maker: ImageMaker,
    targets: Sequence[ScoredTile],
    *,
    conditions: Sequence[ConditionName] = get_args(ConditionName),
    seed: int,
) -> list[KeptImages]:
    """Images of tiles under each condition; each folder ``maker.folder / condition`` is a dataset.

    All months of a place share their noise, except without any condition: its months would be one
    picture, and a sample of few pictures repeated would be held against it. The records of the
    dataset are those of the targets, whatever the model was told: a null is scored as if its images
    showed them. What it was told stands in each file.

    Args:
        maker: Of `open_maker`.
        targets: Tiles with records.
        conditions: Keys of `CONDITIONS`.
        seed: Decides noise, and whose climate is whose in ``shuffled_climate``.

    Returns:
        A set for each condition, under the keys of the targets.

    Raises:
        RequestError: If there are no targets, one has no record, or a condition is unknown.
    """
    if unknown := set(conditions) - set(CONDITIONS):
        raise RequestError(
            f"Conditions {sorted(unknown)} are unknown; choose from {[*CONDITIONS]}."
        )
    bare = [target.key for target in targets if target.record is None]
    if bare or not targets:
        raise RequestError(
            f"{len(bare)} of {len(targets)} tiles{f', such as {bare[0]},' if bare else ''} have no "
            "record to make an image of. Expected tiles of an ecomap dataset."
        )
    names = dict.fromkeys(target.place for target in targets)
    turn = {place: index for index, place in enumerate(names)}
    made = []
    for name in conditions:
        told = shuffle_climate(targets, seed=seed) if name == "shuffled_climate" else targets
        is_free = name == "unconditional"
        requests = [
            ImageRequest(
                key=target.key,
                record=as_made(one.record, maker.card),
                seed=seed + (SEED_STRIDE + index if is_free else turn[target.place]),
                doors=() if is_free else maker.card.doors,
            )
            for index, (target, one) in enumerate(zip(targets, told, strict=True))
            if one.record is not None
        ]
        made.append(_as_dataset(maker, name, targets, maker(name, requests)))
    return made


def _as_dataset(
    maker: ImageMaker, name: ConditionName, targets: Sequence[ScoredTile], paths: Sequence[Path]
) -> KeptImages:
    """Write the records beside the images of a condition."""
    kind, description = CONDITIONS[name]
    tiles = []
    for target, path in zip(targets, paths, strict=True):
        assert target.record is not None
        update = {"image_path": f"{IMAGES_FOLDER}/{path.name}"}
        record = as_made(target.record, maker.card).model_copy(update=update)
        tiles.append(replace(target, record=record))
    write_dataset(
        maker.folder / name,
        [tile.record for tile in tiles if tile.record is not None],
        summary={
            "synthetic": True,
            "statement": SYNTHETIC_STATEMENT,
            "condition": name,
            "description": description,
            "settings": dict(maker.settings),
        },
    )
    return KeptImages(name=name, kind=kind, description=description, tiles=tiles, paths=paths)


@dataclass(kw_only=True)
class Reconstructed:
    """Images through an autoencoder and back, one at a time."""

    source: ImageSet
    vae: AutoencoderKL
    identity: str
    """Of the bundle."""
    tiles: Sequence[ScoredTile]
    name: str = "autoencoder"
    kind: SetKind = "floor"
    description: str = (
        "Real images through the bundle's autoencoder and back: what no model of its latents keeps."
    )

    @torch.inference_mode()
    def read(self, index: int) -> Frame:
        """Reconstruction of ``tiles[index]``; edges are repeated up to whole latents.

        Raises:
            ImageError: If the real image cannot be scored.
        """
        frame = self.source.read(index)
        height, width = frame.rgb.shape[:2]
        margins = [(0, -side % LATENT_FACTOR) for side in (height, width)]
        padded = np.pad(frame.rgb, [*margins, (0, 0)], mode="edge")
        pixels = to_pixels(torch.from_numpy(padded)[None]).to(self.vae.device)
        image = to_image(decode(self.vae, encode(self.vae, pixels)))[0].cpu().numpy()
        return Frame(rgb=image[:height, :width], valid=frame.valid)

    def signature(self, index: int) -> str | None:
        """What tells the reconstruction from others; ``None`` where that is not known."""
        source = signature_of(self.source, index)
        return None if source is None else f"{self.identity} {source}"


def autoencoder_floor(bundle: Bundle, targets: ImageSet) -> ImageSet:
    """Real images through a bundle's autoencoder and back."""
    identity = json.dumps([bundle.identity, computing(bundle.device)])
    return Reconstructed(source=targets, vae=bundle.vae, identity=identity, tiles=targets.tiles)


def training_note(card: BundleCard, tiles: Sequence[ScoredTile]) -> str | None:
    """What must be known of a bundle's training before its scores are read; ``None`` for nothing.

    That is `SHARED_NOTE` where months, not places, are held out; else `UNSURE_NOTE`, unless the
    bundle and all it started from learnt from the dataset's training side.

    Args:
        card: Of the bundle.
        tiles: All tiles of the dataset.
    """
    training = [tile.record for tile in tiles if tile.split == "train" and tile.record is not None]
    learnt = {record.place_id for record in training}
    if shared := learnt & {tile.place for tile in tiles if tile.split in ("val", "test")}:
        return SHARED_NOTE.format(count=len(shared))
    is_known = bool(training) and training_digests(card) == {places_digest(training)}
    return None if is_known else UNSURE_NOTE
