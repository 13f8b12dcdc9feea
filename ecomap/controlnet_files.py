"""ControlNets on disk: diffusers' layout, what their control is, and the base they belong to."""

import json
from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from diffusers import SD3ControlNetModel, SD3Transformer2DModel
from pydantic import ValidationError
from safetensors import SafetensorError
from torch import nn

from ecomap.bundle_paths import ADAPTER_FILE
from ecomap.climate_encoder import ClimateEncoder
from ecomap.controlnet import make_ready
from ecomap.controls import ControlSpec
from ecomap.edit import EditHead
from ecomap.errors import BundleError
from ecomap.model import CLIMATE_ENCODER_FOLDER
from ecomap.schema import describe_validation, write_json
from ecomap.whole_folders import written_whole

EDIT_FOLDER = "edit_head"

CONTROL_FILE = "ecomap_control.json"
"""What the control's channels are, and the base that the ControlNet stands beside."""

SHARED_SIZES = (
    "patch_size", "in_channels", "attention_head_dim", "num_attention_heads", "joint_attention_dim",
    "caption_projection_dim", "pooled_projection_dim", "pos_embed_max_size", "qk_norm",
)  # fmt: skip
"""Sizes that a ControlNet has in common with its base."""

NUM_MARKS, MIN_MARK_CORRELATION = 64, 0.9
"""Weights of a base by which it is known again, through rounding and further training."""


def save_controlnet(
    controlnet: SD3ControlNetModel,
    spec: ControlSpec,
    card: Mapping[str, Any],
    folder: Path,
    *,
    base: SD3Transformer2DModel,
    edit_head: EditHead | None = None,
    climate_encoder: ClimateEncoder | None = None,
    dtype: torch.dtype = torch.float16,
) -> None:
    """Write a ControlNet so that diffusers and `load_controlnet` read it, whole or not at all.

    Args:
        controlnet: A LoRA on it is merged into what is written.
        spec: What it was trained on.
        card: Facts for readers, as JSON: name, version, base, training, licence.
        folder: Where to; a former ControlNet there is replaced, and what else lies with it stays.
        base: The transformer that it stands beside.
        edit_head: Where ``spec.edit`` says so.
        climate_encoder: If it was trained too.
        dtype: Of the stored weights.

    Raises:
        DataError: If the disk has no room; ``folder`` is as it was.
    """
    # The method of diffusers warns of every change of precision.
    whole = nn.Module.to(deepcopy(controlnet), torch.float32)
    if getattr(whole, "peft_config", None):
        whole.fuse_lora()
        whole.unload_lora()
    described = {"control": spec.model_dump(mode="json"), "base_marks": _marks(base)}
    beside = {CLIMATE_ENCODER_FOLDER: climate_encoder, EDIT_FOLDER: edit_head}
    with written_whole(folder, replaces=("diffusion_pytorch_model*", *beside)) as temporary:
        nn.Module.to(whole, dtype).save_pretrained(temporary, safe_serialization=True)
        for name, network in beside.items():
            if network is not None:
                part = nn.Module.to(deepcopy(network), dtype)
                part.save_pretrained(temporary / name, safe_serialization=True)
        for path in temporary.rglob("config.json"):
            # Where a part was loaded from is a path of the machine that trained it.
            config = json.loads(path.read_text())
            write_json(path, {k: v for k, v in config.items() if k != "_name_or_path"})
        write_json(temporary / CONTROL_FILE, described | {"card": dict(card)})


def load_controlnet(
    folder: Path, transformer: SD3Transformer2DModel
) -> tuple[SD3ControlNetModel, ControlSpec]:
    """Load a ControlNet for a transformer.

    Returns:
        The ControlNet in float32 on the transformer's device, and what its control is.

    Raises:
        BundleError: If the folder holds none of ours, parts of it are missing or damaged, or it
            was trained beside another base.
    """
    spec, marks, _ = _read_description(folder)
    try:
        controlnet, found = SD3ControlNetModel.from_pretrained(
            folder, local_files_only=True, output_loading_info=True
        )
    except (OSError, ValueError, TypeError, RuntimeError, SafetensorError) as error:
        raise BundleError(
            f"{folder} cannot be loaded as a ControlNet: {error}. Restore it, or train it again."
        ) from None
    if strays := [*found["missing_keys"], *found["unexpected_keys"]]:
        raise BundleError(
            f"{folder} lacks or does not know {len(strays)} weights, such as {strays[0]}. Expected "
            "a whole ControlNet; restore it, or train it again."
        )
    wanted = int(transformer.config.in_channels) + spec.num_extra
    if (channels := controlnet.pos_embed_input.proj.in_channels) != wanted:
        raise BundleError(
            f"The ControlNet {folder} reads {channels} channels, but {CONTROL_FILE} describes "
            f"{wanted}. Restore the file that was saved with it."
        )
    _check_base(folder, controlnet, transformer, marks)
    return make_ready(controlnet.to(transformer.device)), spec


def load_edit_head(folder: Path) -> EditHead:
    """The edit head of a ControlNet that was saved with one, in float32 on the CPU.

    Raises:
        BundleError: If there is none, or it is damaged.
    """
    try:
        head, found = EditHead.from_pretrained(
            folder / EDIT_FOLDER, local_files_only=True, output_loading_info=True
        )
        if strays := [*found["missing_keys"], *found["unexpected_keys"]]:
            raise ValueError(f"weights {strays[0]} missing or unknown")
    except (OSError, ValueError, TypeError, RuntimeError, SafetensorError) as error:
        raise BundleError(
            f"{folder / EDIT_FOLDER} cannot be loaded as an edit head: {error}. Restore it, or "
            "train the ControlNet again."
        ) from None
    whole: EditHead = head
    return whole


def read_control_spec(folder: Path) -> ControlSpec:
    """What the control of a saved ControlNet is (raises `BundleError` without one)."""
    return _read_description(folder)[0]


def read_controlnet_card(folder: Path) -> dict[str, Any]:
    """Facts for readers that a ControlNet was saved with (raises `BundleError` without one)."""
    return _read_description(folder)[2]


def _marks(transformer: SD3Transformer2DModel) -> list[float]:
    """Weights that no LoRA changes, spread over the transformer's inlet."""
    weights = transformer.pos_embed.proj.weight.detach().float().flatten()
    spread = torch.linspace(0, len(weights) - 1, min(NUM_MARKS, len(weights))).round().long()
    return [round(value, 6) for value in weights[spread.to(weights.device)].tolist()]


def _read_description(folder: Path) -> tuple[ControlSpec, list[float], dict[str, Any]]:
    """Control, marks of the base, and card of a saved ControlNet."""
    if (folder / ADAPTER_FILE).is_file():
        raise BundleError(f"{folder} is an adapter, not a ControlNet. Give it as --adapter.")
    try:
        described = json.loads((folder / CONTROL_FILE).read_text())
        marks = [float(value) for value in described["base_marks"]]
        return ControlSpec(**described["control"]), marks, dict(described["card"])
    except ValidationError as error:
        what = describe_validation(error, ControlSpec)
        raise BundleError(f"{folder / CONTROL_FILE}: {what}") from None
    except (OSError, ValueError, TypeError, LookupError) as error:
        raise BundleError(
            f"{folder} holds no ControlNet of ecomap ({error!r}). Expected a folder that "
            f"'ecomap train' wrote, with {CONTROL_FILE}."
        ) from None


def _check_base(
    folder: Path,
    controlnet: SD3ControlNetModel,
    transformer: SD3Transformer2DModel,
    marks: list[float],
) -> None:
    """Refuse a ControlNet that was trained beside another base."""
    pairs = {name: (controlnet.config[name], transformer.config[name]) for name in SHARED_SIZES}
    if other := [name for name, (own, base) in pairs.items() if own != base]:
        own, base = pairs[other[0]]
        raise BundleError(
            f"The ControlNet {folder} has {other[0]} {own}, the model {base}. Use the model that "
            "it was trained beside."
        )
    likeness = torch.corrcoef(torch.tensor([marks, _marks(transformer)]))[0, 1]
    if float(likeness) < MIN_MARK_CORRELATION:
        fault = f"The ControlNet {folder} was trained beside another model of the same size."
        raise BundleError(f"{fault} Use the model that its card names.")
