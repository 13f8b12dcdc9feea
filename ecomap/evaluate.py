"""Score images against real ones: realism, vegetation and climate, skill, and what they must beat.

Images come from folders, or a bundle makes them for a dataset's held-out tiles. Each set, with the
baselines, floors and nulls beside it, is read once; all scores follow from what was read.
"""

import hashlib
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ecomap.claims import claims
from ecomap.errors import ImageError, RequestError
from ecomap.evaluate_config import EvaluateConfig
from ecomap.evaluation_inputs import (
    Given,
    Inputs,
    baselines_of,
    choose_from_dataset,
    gather_folders,
    parse_generated,
)
from ecomap.evaluation_metrics import METRICS
from ecomap.evaluation_notes import reading_notes
from ecomap.evaluation_page import write_page_of
from ecomap.evaluation_report import Input, Report, Space, System, write_report
from ecomap.evaluation_result import EvaluateResult
from ecomap.evaluation_steps import Progress, Run, cautious
from ecomap.features import open_space
from ecomap.image_sets import FileImageSet
from ecomap.published import published_scores
from ecomap.scores import Score
from ecomap.tiles import BLOCK_DEG, ImageSet, Measured
from ecomap.versions import fingerprint, versions


def evaluate(
    reference: Path | None,
    *,
    generated: Sequence[str] = (),
    bundle: str | None = None,
    training: Path | None = None,
    masks: Path | None = None,
    output: Path = Path("runs/evaluate"),
    config: EvaluateConfig | None = None,
    device: str = "auto",
    executor: Executor | None = None,
    progress: Progress | None = None,
) -> EvaluateResult:
    """Score images and write a report, tables and a page.

    Args:
        reference: Real images: an ecomap dataset, or any folder that
            `ecomap.image_sets.open_image_set` reads.
        generated: ``NAME=FOLDER`` or ``FOLDER`` of images to score; without any, a bundle makes
            them.
        bundle: Name or folder of a bundle. It makes images where none are given; else only its
            autoencoder is a floor.
        training: Real images from which baselines may learn, beside the reference's training side.
        masks: Folder of masks of the real images.
        output: Folder of the report. Images and measures are kept there: an interrupted run goes
            on.
        config: Settings.
        device: Where a bundle works: ``auto``, ``cpu``, ``cuda``, ``mps``.
        executor: Where images are measured: processes or a cluster; this process by default.
        progress: Called with (step, done, total).

    Raises:
        RequestError: If the request is incomplete, or sets cannot be compared.
        DataError: If a folder cannot be used.
    """
    config = config or EvaluateConfig()
    run = Run(config, output, executor, progress or (lambda *_: None))
    if reference is None:
        raise RequestError(
            "No real images are named. Give --reference FOLDER, an ecomap dataset or any folder of "
            "images."
        )
    if not generated and bundle is None:
        raise RequestError(
            "No images to score are named. Give --generated FOLDER, or --bundle to make them."
        )
    for space in (*config.features, *([config.clip] if config.clip else [])):
        open_space(space)
    output.mkdir(parents=True, exist_ok=True)
    with run.step("read"):
        inputs = (
            gather_folders(
                reference, parse_generated(generated), training=training, masks=masks, config=config
            )
            if generated
            else choose_from_dataset(reference, masks=masks, training=training, config=config)
        )
        baselines, run.not_made = baselines_of(inputs, config)
    sets: list[ImageSet] = [*inputs.systems, *baselines]
    if bundle is not None:
        made, responses = run.use_bundle(bundle, inputs, device, makes_images=not generated)
        sets = [*made, *sets]
    else:
        responses = []
    measured = run.measure(inputs, sets)
    scores = [cautious(one) for one in (*run.score(inputs, sets, measured), *responses)]
    report = _report(run, reference, inputs, sets, measured, scores)
    tables = {one.name: one.table for one in measured.values()}
    write_report(output, report, tables)
    with run.step("page"):
        write_page_of(output, report, tables, _pictures([inputs.reference, *sets]))
    return EvaluateResult(output=output, report=report)


def _report(
    run: Run,
    reference: Path,
    inputs: Inputs,
    sets: Sequence[ImageSet],
    measured: Mapping[str, Measured],
    scores: Sequence[Score],
) -> Report:
    """Everything that was found, in its written form."""
    tables = {name: one.table for name, one in measured.items()}
    judged = [images.name for images in sets if images.kind == "generated"]
    level = run.config.level
    return Report(
        command=shlex.join(["ecomap", *sys.argv[1:]]),
        config=run.config,
        generation=run.generation,
        versions=versions(),
        inputs=[_input(given) for given in inputs.given],
        spaces={name: _space(name) for name in run.config.features},
        systems=[
            System(
                name=one.name, kind=one.kind, description=one.description, n=len(one.table),
                problems={reason: list(keys) for reason, keys in one.problems.items()},
            )
            for one in measured.values()
        ],
        not_made=run.not_made,
        notes=[
            *run.notes,
            *reading_notes(
                inputs.reference.tiles,
                level=level,
                block_deg=BLOCK_DEG,
                equal_n=run.config.equal_n,
            ),
        ],
        metrics={name: METRICS[name] for name in METRICS if _is_used(name, scores)},
        claims=[
            claim
            for name in judged
            for claim in claims(scores, tables, run.config, system=name)
        ],
        scores=list(scores),
        published=list(published_scores()),
        seconds=run.seconds,
    )  # fmt: skip


def _is_used(metric: str, scores: Sequence[Score]) -> bool:
    return any(score.metric == metric for score in scores)


def _space(name: str) -> Space:
    space = open_space(name)
    return Space(description=space.description, identity=space.identity, width=space.width)


def _input(given: Given) -> Input:
    """An input with a hash over the files of its images."""
    return Input(
        name=given.name,
        path=str(given.path),
        sha256=_contents(given.images),
        kept=given.num_scored,
        dropped=dict(given.dropped),
        notes=list(given.notes),
    )


def _contents(images: FileImageSet) -> str:
    """Hash over keys of tiles, and names and contents of their files and masks."""
    found = {path for file in images.files for path in (file.path, file.mask) if path is not None}
    paths = sorted(found, key=lambda path: path.parts)
    keys = "\n".join(tile.key for tile in images.tiles)
    return hashlib.sha256(f"{fingerprint(paths)}\n{keys}".encode()).hexdigest()


def _pictures(sets: Sequence[ImageSet]) -> Callable[[str, str], NDArray[np.uint8]]:
    """Pictures of sets by name and key."""
    by_name = {images.name: images for images in sets}
    places: dict[str, dict[str, int]] = {}

    def picture(name: str, key: str) -> NDArray[np.uint8]:
        if name not in places:
            tiles = by_name[name].tiles
            places[name] = {tile.key: index for index, tile in enumerate(tiles)}
        if key not in places[name]:
            raise ImageError("no image", f"{name} has no image of {key}.")
        return by_name[name].read(places[name][key]).rgb

    return picture
