"""The steps of an evaluation: make images, measure them, score what was measured."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from ecomap.adherence import adherence_scores
from ecomap.clip_score import clip_scores
from ecomap.errors import DataError, RequestError
from ecomap.evaluate_config import EvaluateConfig
from ecomap.evaluation_inputs import Inputs
from ecomap.features import embed_texts
from ecomap.forecast import forecast_scores
from ecomap.measured_store import measure_kept
from ecomap.paired import paired_scores
from ecomap.realism import realism_scores
from ecomap.scores import FEW_BLOCKS, OBSERVED, Score
from ecomap.tiles import ImageSet, Measured
from ecomap.vegetation import vegetation_scores
from ecomap.vegetation_extremes import extreme_scores
from ecomap.vegetation_pairs import pair_scores

GENERATED_FOLDER, MEASURED_FOLDER = "generated", "measured"
"""Folders of a report in which images and measures are kept."""

Progress = Callable[[str, int, int], None]
"""Called with (step, done, total)."""


@dataclass
class Run:
    """One evaluation: its settings, and what is noted on the way."""

    config: EvaluateConfig
    output: Path
    executor: Executor | None
    say: Progress
    notes: list[str] = field(default_factory=list)
    not_made: dict[str, str] = field(default_factory=dict)
    generation: dict[str, object] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def step(self, name: str) -> Iterator[Callable[[str], None]]:
        """Time a step, and show that it runs; gives a function that tells of its parts."""
        started, parts = time.monotonic(), 0
        self.say(name, 0, 1)

        def tell(_: str) -> None:
            nonlocal parts
            parts += 1
            self.say(name, parts, parts + 1)

        yield tell
        self.say(name, parts + 1, parts + 1)
        self.seconds[name] = round(time.monotonic() - started, 1)

    def use_bundle(
        self, name: str, inputs: Inputs, device: str, *, makes_images: bool
    ) -> tuple[list[ImageSet], list[Score]]:
        """What a bundle adds: its images where it makes them, its floor, its responses."""
        from ecomap.evaluate_bundle import (
            autoencoder_floor,
            generate_systems,
            open_maker,
            training_note,
        )
        from ecomap.model import load_bundle
        from ecomap.responses import response_scores
        from ecomap.sample import GUIDANCE, STEPS

        bundle = load_bundle(name, device=device)
        floor = autoencoder_floor(bundle, inputs.reference)
        self.generation = {"bundle": dict(bundle.identity)}
        if not makes_images:
            return [floor], []
        side, real = bundle.card.image_size_px, inputs.given[0].images.size
        if real != (side, side):
            raise RequestError(
                f"The bundle makes images of {side} px, the real ones have {real[0]} x {real[1]} "
                f"px. Expected one size; bring the real ones to it with size_px={side}."
            )
        if note := training_note(bundle.card, inputs.given[0].images.tiles):
            self.notes.append(note)
        config = self.config
        steps = STEPS if config.steps is None else config.steps
        guidance = GUIDANCE if config.guidance is None else config.guidance
        self.generation |= {"steps": steps, "guidance": guidance, "seed": config.seed}
        with self.step("make images") as tell:
            maker = open_maker(
                bundle, self.output / GENERATED_FOLDER, steps=steps, guidance=guidance,
                progress=tell,
            )  # fmt: skip
            made = generate_systems(maker, inputs.reference.tiles, seed=config.seed)
        scores: list[Score] = []
        if config.num_cases:
            with self.step("responses") as tell:
                scores = response_scores(
                    maker, inputs.pool, inputs.history, config, num_cases=config.num_cases,
                    progress=tell,
                )  # fmt: skip
        return [*made, floor], scores

    def measure(self, inputs: Inputs, sets: Sequence[ImageSet]) -> dict[str, Measured]:
        """Measures of the reference, of the other real images, and of all sets."""
        clip = () if self.config.clip is None else (self.config.clip,)
        config = self.config.model_copy(
            update={"features": tuple(dict.fromkeys((*self.config.features, *clip)))}
        )
        found = {}
        for images in (inputs.reference, *([inputs.others] if inputs.others else []), *sets):
            is_real = images is inputs.reference or images is inputs.others
            is_paired = not is_real and images.name not in inputs.unpaired
            label = f"measure {images.name.replace('_', ' ')}"
            with self.step(label):
                found[images.name] = measure_kept(
                    images,
                    self.output / MEASURED_FOLDER / images.name,
                    reference=inputs.reference if is_paired else None,
                    config=config,
                    executor=self.executor,
                    progress=lambda done, total, label=label: self.say(label, done, total),  # type: ignore[misc]
                )
            _check_any(found[images.name])
        return found

    def score(
        self, inputs: Inputs, sets: Sequence[ImageSet], measured: Mapping[str, Measured]
    ) -> list[Score]:
        """All scores of what was measured."""
        config, real = self.config, measured[OBSERVED]
        systems = [one for one in measured.values() if one.name not in (OBSERVED, "others")]
        paired = {one.name: one.table for one in systems if one.name not in inputs.unpaired}
        scores: list[Score] = []
        with self.step("realism") as tell:
            scores += realism_scores(
                _in_spaces(real, config.features),
                [_in_spaces(one, config.features) for one in systems],
                measured.get("others"),
                config,
                progress=tell,
            )
        with self.step("pairs"):
            scores += paired_scores([one for one in systems if one.name in paired], config)
            scores += adherence_scores(real, systems, config)
            if config.clip is not None:
                tiles = {images.name: images.tiles for images in (inputs.reference, *sets)}
                scores += clip_scores(
                    [real, *systems],
                    tiles,
                    lambda texts: embed_texts(config.clip or "", texts),
                    config,
                )
        with self.step("vegetation") as tell:
            scores += vegetation_scores(real.table, paired, config, progress=tell)
            scores += pair_scores(real.table, paired, config, progress=tell)
            scores += extreme_scores(real.table, paired, config, progress=tell)
        with self.step("forecast"):
            scores += forecast_scores(real.table, paired, config)
        return scores


def cautious(score: Score) -> Score:
    """A score whose interval rests on few blocks says so."""
    if score.low is None or score.num_blocks is None or score.num_blocks >= FEW_BLOCKS:
        return score
    caution = f"{score.num_blocks} blocks: the interval is too narrow"
    if caution in score.flag:
        return score
    return replace(score, flag="; ".join(filter(None, (score.flag, caution))))


def _check_any(measured: Measured) -> None:
    """Without a single image there is nothing to say."""
    if measured.kind in ("reference", "generated") and not len(measured.table):
        told = ", ".join(f"{reason}: {len(keys)}" for reason, keys in measured.problems.items())
        raise DataError(
            f"No image of {measured.name!r} can be scored ({told}). Expected 8-bit RGB images of "
            "one size with some content; mend them, or, where sizes differ, name one with "
            "size_px=N."
        )


def _in_spaces(measured: Measured, spaces: Sequence[str]) -> Measured:
    """Without the features of a space that serves captions only."""
    features = {name: measured.features[name] for name in spaces}
    return replace(measured, features=features)
