"""What a training leaves: bundle, adapter or ControlNet, and a card that says how it was made."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import nn

from ecomap.adapter import save_adapter
from ecomap.adapter_card import AdapterCard
from ecomap.autoencoder import load_vae
from ecomap.card import DOORS, BundleCard
from ecomap.checkpoint import best_checkpoint, load_averages
from ecomap.climate import known_variables, knows_anomalies
from ecomap.controlnet_files import save_controlnet
from ecomap.errors import DataError
from ecomap.learn_setup import WHOLE, open_base, whole_parameters
from ecomap.model import Bundle, save_bundle
from ecomap.places import places_digest
from ecomap.run_folder import CHECKPOINT_FOLDER
from ecomap.run_log import METRICS_FILE
from ecomap.run_metrics import read_lines
from ecomap.schema import TileRecord, read_dataset, unique
from ecomap.support_build import build_support
from ecomap.support_table import remove_support, write_support
from ecomap.training_state import learning_parameters
from ecomap.transformer_config import TrainConfig

METRICS = {
    "val_loss": "held-out loss",
    "val_loss_shuffled": "held-out loss, told another frame's text and climate",
}
"""Figures of the last validation that a card tells, in words."""


def size_px(config: TrainConfig, records: Sequence[TileRecord]) -> int:
    """Side of the images that are learnt."""
    return config.crop_px or records[0].width_px


def save_result(config: TrainConfig, base: Bundle, bundle: Bundle, output: Path) -> Path:
    """Write what was learnt: a ControlNet, an adapter, or a whole bundle.

    Args:
        config: Complete settings.
        base: What training started from.
        bundle: The same networks, trained, with the card of the result.
        output: Run folder.

    Returns:
        Folder of the result.
    """
    learn = config.learn
    bundle = replace(bundle, card=_with_metrics(bundle.card, output, config.result))
    if learn is not None and learn.controlnet is not None and bundle.controlnet is not None:
        folder = output / "controlnet"
        assert bundle.control is not None
        card = bundle.card.model_dump(mode="json") | {"base": base.identity}
        save_controlnet(
            bundle.controlnet, bundle.control, card, folder, base=bundle.transformer,
            edit_head=bundle.edit_head,
            climate_encoder=bundle.climate_encoder if learn.climate_encoder else None,
        )  # fmt: skip
        return folder
    if learn is not None and not learn.last_blocks and WHOLE not in learn.layers:
        folder = output / "adapter"
        save_adapter(
            folder,
            bundle.transformer,
            extra=whole_parameters(bundle.transformer),
            climate_encoder=bundle.climate_encoder if learn.climate_encoder else None,
            text_encoders=bundle.text_encoders if learn.text_encoders else None,
            card=AdapterCard.of(base, bundle.card, lora=learn.lora, shift=config.shift),
            dtype=torch.float16 if config.half_adapter else torch.float32,
        )
        return folder
    if config.base_bf16:
        _restore_frozen(config, bundle)
    shipped = bundle.vae if config.bundle_vae is None else load_vae(config.bundle_vae)
    save_bundle(replace(bundle, vae=shipped), output / "bundle")
    return output / "bundle"


def save_support(
    config: TrainConfig, training: Sequence[TileRecord], folder: Path, *, console: Console
) -> None:
    """Write the climates that were learnt from beside the result (`ecomap.support`).

    Where there are none, or no two places to compare, nothing is written.

    Args:
        config: Complete settings.
        training: Records that were learnt from.
        folder: Of the result.
        console: Where it is told why nothing was written.
    """
    held_out = [r for r in read_dataset(config.dataset) if r.split in ("val", "test")]
    try:
        table = build_support(training, held_out)
    except DataError as error:
        console.print(f"No table of training climates is written: {error}")
        remove_support(folder)
        return
    write_support(folder, table)


def make_card(
    config: TrainConfig, records: Sequence[TileRecord], start: BundleCard | None = None
) -> BundleCard:
    """Card of a bundle trained on some records.

    Args:
        config: Complete settings.
        records: The training side.
        start: Card of the bundle that training started from; its training is carried over.
    """
    first = records[0]
    has_encoder = config.learn is None or config.learn.climate_encoder
    doors = DOORS if start is None or has_encoder else start.doors
    hears = not config.drop.anomalies and (start is None or has_encoder or start.trained_anomalies)
    length = start.t5_null_tokens if start else BundleCard(name=config.name).t5_null_tokens
    return BundleCard(
        name=config.name,
        version=config.version,
        image_size_px=size_px(config, records),
        ground_sampling_distance_m=first.ground_sampling_distance_m,
        grid="geographic" if first.crs == "EPSG:4326" else "utm",
        doors=doors,
        trained_variables=known_variables(records),
        trained_anomalies=hears and knows_anomalies(records),
        imagery=config.imagery or ", ".join(unique(record.source for record in records)),
        limits=config.limits,
        min_land_frac=min((r.land_frac for r in records if r.land_frac is not None), default=0.0),
        t5_null_tokens=config.t5_tokens or length,
        uses_t5=config.use_t5 and (start is None or start.uses_t5),
        license=config.license or (start.license if start else "Apache-2.0"),
        attribution=(
            *(start.attribution if start else ()),
            *unique(record.attribution for record in records),
            *unique(record.climate_source for record in records if record.climate_source),
            *config.attribution,
        ),
        training={
            "tiles": len(records),
            "places": len({record.place_id for record in records}),
            "places_sha256": places_digest(records),
            "config": _told(config),
            **({} if start is None else {"started_from": start.training}),
        },
    )


def _restore_frozen(config: TrainConfig, bundle: Bundle) -> None:
    """Put back the bits of what did not learn: training held it in bfloat16."""
    whole = dict(open_base(config).transformer.named_parameters())
    for name, parameter in bundle.transformer.named_parameters():
        if not parameter.requires_grad:
            parameter.data = whole[name].data.to(parameter.device)


def _told(config: TrainConfig) -> dict[str, Any]:
    """Settings as a card tells them: without the folders of the machine that trained."""
    told = config.model_dump(mode="json", exclude={"cache", "vae", "bundle_vae", "cloud_masks"})
    base = config.base
    if base is not None and Path(base).exists():
        base = Path(base).name
    control = (told.get("learn") or {}).get("controlnet") or {}
    for name in ("start", "detector_weights"):
        if control.get(name) is not None:
            control[name] = Path(control[name]).name
    return told | {"dataset": config.dataset.name, "base": base}


def use_best(learner: nn.Module, output: Path) -> None:
    """Give a learner the averaged weights of the validation with the lowest held-out loss."""
    best = best_checkpoint(output / CHECKPOINT_FOLDER)
    if best is None:
        return
    averages = load_averages(best)
    with torch.no_grad():
        for name, parameter in learning_parameters(learner).items():
            parameter.copy_(averages[name])


def _with_metrics(card: BundleCard, output: Path, result: str) -> BundleCard:
    """Card with the figures of the validation whose weights a run leaves."""
    lines, _ = read_lines(output / METRICS_FILE)
    validations = [line for line in lines if "val_loss" in line]
    if not validations:
        return card
    chosen = validations[-1]
    if result == "best":
        chosen = min(validations, key=lambda line: line["val_loss"])
    figures = {words: round(chosen[key], 4) for key, words in METRICS.items() if key in chosen}
    return card.model_copy(update={"training": card.training | {"metrics": figures}})
