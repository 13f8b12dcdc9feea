"""Score a bundle on held-out places: greenness, snow, realism, and response to climate.

Everything generated stands beside what it must beat (the nearest climate analogue in the training
data, the mean of the class and month, the same model under another place's climate or under none)
and beside what it cannot beat (the autoencoder's reconstruction, real against real).
"""

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import get_args

import numpy as np
import torch

from ecomap.card import Door
from ecomap.errors import RequestError
from ecomap.features import SPACE_NAMES
from ecomap.heldout_data import (
    SEED_STRIDE,
    ConditionName,
    Progress,
    Report,
    Sample,
    Settings,
    read_sample,
)
from ecomap.heldout_page import write_report_page
from ecomap.heldout_report import describe, made_by, plain, provenance
from ecomap.heldout_response import RESPONSES, respond
from ecomap.heldout_scores import score
from ecomap.image_store import ImageMaker, Images, MakeImages
from ecomap.latents import decode, encode, to_image, to_pixels
from ecomap.model import Bundle
from ecomap.places import shuffle_climate
from ecomap.sample import GUIDANCE, STEPS, generate_images
from ecomap.schema import TileRecord, write_json

REPORT_FILE = "report.json"
IMAGES_FOLDER = "images"


def evaluate_heldout(
    bundle: Bundle,
    dataset: Path,
    output: Path,
    *,
    num_places: int = 48,
    num_cases: int = 100,
    months: tuple[int, ...] = (1, 3, 5, 7, 9, 11),
    seed: int = 0,
    steps: int = STEPS,
    guidance: float = GUIDANCE,
    conditions: tuple[ConditionName, ...] = get_args(ConditionName),
    spaces: tuple[str, ...] = SPACE_NAMES,
    num_draws: int = 1000,
    make_images: MakeImages | None = None,
    reconstruct: Callable[[Images], Images] | None = None,
    progress: Progress | None = None,
) -> Report:
    """Score a bundle on the test split of a dataset and write a report with pictures.

    Args:
        bundle: Model to score.
        dataset: Dataset folder with a ``train`` and a ``test`` split.
        output: Folder for ``report.json``, ``index.html``, the picture, and the images made so far:
            a second run with the same settings takes them from there.
        num_places: Test places, as far from each other as can be; all if there are fewer.
        num_cases: Cases of each climate response, three images each; all if there are fewer.
        months: Calendar months, 1 to 12.
        seed: Decides places, cases, noise and the draws of intervals.
        steps: Solver steps.
        guidance: Guidance scale.
        conditions: Runs of the model to score; "conditional" must be among them.
        spaces: Feature spaces of distances, names in `ecomap.features.FEATURE_SPACES`.
        num_draws: Bootstrap draws of each interval.
        make_images: Stands in for the bundle's generator.
        reconstruct: Stands in for the bundle's autoencoder.
        progress: Called with one line about each stage.

    Returns:
        The content of ``report.json``. What is undefined is ``None``.

    Raises:
        RequestError: If a setting is impossible, or the dataset has too few places.
        DataError: If the dataset or a kept image file is damaged.
    """
    started, say = time.monotonic(), progress or (lambda _: None)
    settings = Settings(
        num_places=num_places,
        num_cases=num_cases,
        months=tuple(months),
        seed=seed,
        steps=steps,
        guidance=guidance,
        conditions=tuple(conditions),
        spaces=tuple(spaces),
        num_draws=num_draws,
    )
    _check(settings)
    sample = read_sample(dataset, settings, say)
    side = bundle.card.image_size_px
    if make_images is None and sample.images.shape[1:3] != (side, side):
        raise RequestError(
            f"The bundle makes images of {side} px, the dataset has frames of shape "
            f"{sample.images.shape[1:3]}. Score it on frames of its own size."
        )
    maker = ImageMaker(
        make=make_images or _generator(bundle, steps, guidance),
        folder=output / IMAGES_FOLDER,
        context={
            "bundle": bundle.identity,
            "steps": steps,
            "guidance": guidance,
            "made_by": made_by(bundle),
        },
        say=say,
    )
    doors = bundle.card.doors
    made = _make_conditions(sample, settings, maker, doors)
    say("comparing")
    report = provenance(bundle, dataset, output, settings) | describe(sample, bundle.card)
    report |= score(sample, settings, made, reconstruct or _autoencoder(bundle))
    report["response"] = {
        response.name: respond(response, sample, settings, made, maker, doors)
        for response in RESPONSES
    }
    report = dict(plain(report | {"seconds": round(time.monotonic() - started, 1)}))
    write_json(output / REPORT_FILE, report)
    write_report_page(output, report, sample, made)
    return report


def _check(settings: Settings) -> None:
    """Refuse settings before anything is read or made."""
    if not settings.months or not set(settings.months) <= set(range(1, 13)):
        raise RequestError(f"months are {settings.months}; expected calendar months 1 to 12.")
    if min(settings.num_places, settings.num_cases, settings.num_draws) < 2:
        raise RequestError(
            f"num_places {settings.num_places}, num_cases {settings.num_cases} and num_draws "
            f"{settings.num_draws} must each be at least 2."
        )
    unknown = set(settings.conditions) - set(get_args(ConditionName))
    if unknown or "conditional" not in settings.conditions:
        raise RequestError(
            f"conditions are {settings.conditions}; expected 'conditional' and any others of "
            f"{get_args(ConditionName)}."
        )
    if set(settings.spaces) - set(SPACE_NAMES):
        raise RequestError(f"spaces are {settings.spaces}; choose from {SPACE_NAMES}.")


def _generator(bundle: Bundle, steps: int, guidance: float) -> MakeImages:
    """The bundle's own generator."""

    def make(
        records: Sequence[TileRecord], seeds: Sequence[int], doors: tuple[Door, ...]
    ) -> Images:
        return generate_images(
            bundle, records, seeds=seeds, steps=steps, guidance=guidance, doors=doors
        )

    return make


def _autoencoder(bundle: Bundle, *, batch_size: int = 16) -> Callable[[Images], Images]:
    """Images through the bundle's autoencoder and back."""

    @torch.inference_mode()
    def reconstruct(images: Images) -> Images:
        batches = []
        for start in range(0, len(images), batch_size):
            batch = torch.from_numpy(images[start : start + batch_size])
            pixels = to_pixels(batch).to(bundle.vae.device)
            batches.append(to_image(decode(bundle.vae, encode(bundle.vae, pixels))).cpu().numpy())
        return np.concatenate(batches)

    return reconstruct


def _make_conditions(
    sample: Sample, settings: Settings, maker: ImageMaker, doors: tuple[Door, ...]
) -> dict[str, Images]:
    """Images of the scored records under each condition.

    All months of a place share their noise, except without any condition: its months would be one
    picture, and a sample of few pictures repeated would be held against it.
    """
    num_months = len(settings.months)
    shared = [settings.seed + index // num_months for index in range(len(sample.records))]
    own = [settings.seed + SEED_STRIDE + index for index in range(len(sample.records))]
    shuffled = shuffle_climate(sample.chosen, seed=settings.seed)
    others = [place[month] for place in shuffled for month in settings.months]
    plan: dict[str, tuple[list[TileRecord], list[int], tuple[Door, ...]]] = {
        "conditional": (sample.records, shared, doors),
        "shuffled_climate": (others, shared, doors),
        "unconditional": (sample.records, own, ()),
    }
    made = {str(name): maker(name, *plan[name]) for name in settings.conditions}
    for name, images in made.items():
        if images.shape != sample.images.shape:
            raise RequestError(
                f"The bundle makes images of shape {images.shape[1:]} ({name}), the dataset has "
                f"frames of shape {sample.images.shape[1:]}. Score it on frames of its own size."
            )
    return made
