"""Train a transformer and what conditions it: from scratch, whole, by LoRA, or by a ControlNet.

The loop is `ecomap.loop.optimise`, what is learnt is `ecomap.learner.FlowLearner`, what learns is
`ecomap.learn_setup`. Here they meet: samples are read, the learner is made, and what it learnt is
saved as a bundle, an adapter or a ControlNet.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from diffusers import FlowMatchEulerDiscreteScheduler
from rich.console import Console
from torch import Tensor, nn

from ecomap.accelerators import open_accelerator
from ecomap.batches import (
    VALIDATION_REFERENCE,
    open_sampler,
    training_batch,
    validation_batch,
)
from ecomap.card import BundleCard
from ecomap.control_table import references_of
from ecomap.controls import look_of
from ecomap.errors import ConfigError
from ecomap.frame_variants import Variants, cut, place_of, window_size
from ecomap.imagery import FrameReader
from ecomap.learn_setup import (
    frozen_hashes,
    make_learner,
    open_base,
    set_learning,
    with_controlnet,
)
from ecomap.learner import FlowBatch
from ecomap.loop import optimise
from ecomap.model import Bundle
from ecomap.progress import open_console
from ecomap.prompt import MASKS
from ecomap.references import NONE
from ecomap.run_folder import open_run
from ecomap.sample_grid import (
    SampleGrid,
    check_show,
    choose_tiles,
    make_pictures,
    plan_grid,
    write_grid,
)
from ecomap.samples import Samples, open_samples, read_sides
from ecomap.schema import TileRecord
from ecomap.training_draws import Part
from ecomap.training_report import RunReport, card_facts
from ecomap.training_results import make_card, save_result, save_support, size_px, use_best
from ecomap.transformer_config import TrainConfig
from ecomap.validation import HeldOutRows, validation_loss


def train(
    config: TrainConfig, output: Path, *, device: str = "cpu", console: Console | None = None
) -> Path:
    """Train what a config says and save it.

    Args:
        config: Complete settings.
        output: Run folder; resumed if it holds the same run.
        device: Torch device.
        console: Where progress is shown.

    Returns:
        Folder of the averaged weights: ``output/bundle``, ``output/adapter`` (what was learnt
        beside an unchanged base) or ``output/controlnet``.

    Raises:
        ConfigError: If settings contradict each other or the base, or the folder holds another
            run.
        BundleError: If the base cannot be loaded.
        DataError: If the dataset has too few tiles on a side of its split.
    """
    console = console or open_console()
    if config.masks not in MASKS:
        raise ConfigError(f"masks is {config.masks!r}; choose one of {', '.join(MASKS)}.")
    check_show(config.show)
    frozen = frozen_hashes(config)
    accelerator = open_accelerator(config.bf16, device)
    sides = read_sides(config, console)
    with open_run(output, config, [config.dataset], accelerator=accelerator, frozen=frozen):
        return _train(config, output, sides, accelerator=accelerator, console=console)


def _train(
    config: TrainConfig,
    output: Path,
    sides: tuple[list[TileRecord], list[TileRecord], list[TileRecord]],
    *,
    accelerator: Accelerator,
    console: Console,
) -> Path:
    """Train on what was read, in a folder that no other run gets into."""
    device = str(accelerator.device)
    training, held_out, pool = sides
    base, bundle = open_bundles(config, training)
    pictures = plan_pictures(config, bundle, held_out, pool)
    with accelerator.main_process_first():  # the others then find what it kept
        samples, validation = open_samples(
            config, bundle, sides, prompts=pictures.grid.prompts(), device=device, console=console
        )
    set_learning(bundle, config.learn, seed=config.seed)
    learner = make_learner(bundle, config, device)
    pictured = replace(bundle, texts=samples.text, vae=bundle.vae.to(device))
    sampler = open_sampler(config, training)
    report = RunReport(output, facts=card_facts(bundle.card))

    def draw(step: int, part: Part) -> FlowBatch:
        rows = sampler.draw(step).rows(part.rows(config.batch_size))
        return training_batch(config, bundle, samples, rows).to(device)

    def loss(learner: nn.Module, batch: FlowBatch) -> tuple[Tensor, dict[str, float]]:
        return learner(batch).mean() / samples.latents.mean_weight, {}

    def held_out_batch(rows: HeldOutRows) -> FlowBatch:
        return validation_batch(config, bundle, validation, rows).to(device)

    def validate(learner: nn.Module) -> dict[str, float]:
        with accelerator.autocast():
            return validation_loss(
                learner, held_out_batch, num_frames=len(held_out), seed=config.seed,
                batch_size=config.batch_size,
            )  # fmt: skip

    def show(learner: nn.Module, step: int) -> None:
        images = make_pictures(pictured, pictures.grid, controls=pictures.controls(validation))
        if accelerator.is_main_process:
            write_grid(output, pictures.grid, images, step)
            report.update()

    optimise(
        learner, draw, loss, config.optim, output, accelerator=accelerator, validate=validate,
        console=console, show=show, show_every=config.show.every, seed=config.seed,
    )  # fmt: skip
    if not accelerator.is_main_process:
        return output
    report.close()
    if config.result == "best":
        use_best(learner, output)
    folder = save_result(config, base, bundle, output)
    if bundle.control is not None:
        save_support(config, training, folder, console=console)
    return folder


@dataclass(frozen=True)
class Pictures:
    """What is shown of the held-out side as training goes on."""

    grid: SampleGrid
    tiles: list[int]
    """Positions of the shown tiles among the held-out ones."""

    def controls(self, samples: Samples) -> Tensor | None:
        """What a ControlNet is shown of each tile."""
        if samples.control is None or not self.tiles:
            return None
        index = np.array(self.tiles)
        every = np.ones(len(index), dtype=bool)
        return samples.control.read(
            index, np.full(len(index), VALIDATION_REFERENCE), np.zeros_like(index), every
        )


def plan_pictures(
    config: TrainConfig, bundle: Bundle, held_out: list[TileRecord], pool: list[TileRecord]
) -> Pictures:
    """Choose what to show.

    Args:
        config: Complete settings.
        bundle: What will be shown.
        held_out: Records of the held-out side.
        pool: Records that references may be.
    """
    tiles = choose_tiles(held_out, config.show.num_tiles)
    records = [held_out[tile] for tile in tiles]
    reader, window = FrameReader(config.dataset), Variants(config.crop_px)

    def frame(record: TileRecord) -> np.ndarray:
        place = place_of(record, 0, window)
        return cut(reader.read(record), place, window_size(record, window))

    shown = []
    learn = config.learn
    if records and bundle.control is not None and learn is not None and learn.controlnet:
        spec, look = bundle.control, look_of(bundle.control, learn.controlnet.detector_weights)
        references = references_of(spec, records, pool)
        index = np.arange(len(records))
        found, _ = references.choose(index, np.full(len(records), VALIDATION_REFERENCE))
        for record, place in zip(records, found.tolist(), strict=True):
            source = record if place == NONE else pool[place]
            picture = np.zeros_like(frame(record)) if place == NONE else frame(source)
            words = "none" if place == NONE else f"{spec.image}, {source.month}"
            picture = look[1](picture) if look is not None else picture
            shown.append((words, picture, look is None and place != NONE))
    frames = [frame(record) for record in records]
    grid = plan_grid(records, frames, bundle.card, config.show, seed=config.seed, references=shown)
    return Pictures(grid, tiles)


def open_bundles(config: TrainConfig, records: Sequence[TileRecord]) -> tuple[Bundle, Bundle]:
    """What a training starts from, and what it makes of it: not trained yet, with its card.

    Raises:
        BundleError: If the base cannot be loaded.
        ConfigError: If the settings do not fit it.
    """
    torch.manual_seed(config.seed)
    base = open_base(config, BundleCard(name=config.name, image_size_px=size_px(config, records)))
    card = make_card(config, records, base.card if config.base else None)
    bundle = replace(base, card=card, scheduler=FlowMatchEulerDiscreteScheduler(shift=config.shift))
    if config.learn is not None and config.learn.controlnet is not None:
        bundle = with_controlnet(bundle, config.learn.controlnet, seed=config.seed)
    return base, bundle
