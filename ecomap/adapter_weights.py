"""Weights of an adapter: read from its folder, checked against a base, and added to it."""

import json
from collections.abc import Iterable, Mapping
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from diffusers import SD3Transformer2DModel
from diffusers.loaders.lora_base import LORA_ADAPTER_METADATA_KEY
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import CLIPTextModelWithProjection

from ecomap.adapter_card import LAYERS_FILE, LORA_FILE, AdapterCard
from ecomap.climate_encoder import ClimateEncoder
from ecomap.errors import BundleError
from ecomap.model import CLIMATE_ENCODER_FOLDER, Bundle, load_climate_encoder

TEXT_ENCODER_FOLDERS = ("text_encoder", "text_encoder_2")

PREFIX = "transformer."
"""Of names in a LoRA file: the pipeline's part that they belong to."""

Network = TypeVar("Network", bound=nn.Module)


@dataclass(frozen=True)
class AdapterWeights:
    """Weights of an adapter, as they lie in its folder."""

    lora: dict[str, Tensor]
    """By names in the transformer, in peft's form; empty for none."""
    metadata: dict[str, Any] | None
    """Settings of the LoRA; ``None`` where the file says none."""
    layers: dict[str, Tensor]
    climate_encoder: ClimateEncoder | None
    text_encoders: tuple[CLIPTextModelWithProjection, ...]


def read_weights(folder: Path, card: AdapterCard | None = None) -> AdapterWeights:
    """Read the weights of an adapter.

    Raises:
        BundleError: If parts that the card names are missing, or anything is damaged.
    """
    names = {path.name for path in folder.iterdir()}
    if missing := [part for part in (card.parts if card else ()) if part not in names]:
        raise BundleError(
            f"{folder} lacks {missing[0]}, which its card names. Restore the adapter."
        )
    try:
        lora, metadata = _read_lora(folder / LORA_FILE) if LORA_FILE in names else ({}, None)
        layers = load_file(folder / LAYERS_FILE) if LAYERS_FILE in names else {}
        encoder = None
        if CLIMATE_ENCODER_FOLDER in names:
            encoder = load_climate_encoder(folder / CLIMATE_ENCODER_FOLDER)
        text = tuple(
            CLIPTextModelWithProjection.from_pretrained(folder / name, local_files_only=True)
            for name in TEXT_ENCODER_FOLDERS if name in names
        )  # fmt: skip
    except BundleError:
        raise
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise BundleError(f"{folder} cannot be read: {error}. Restore the adapter.") from None
    if lora and card is not None and metadata is None:
        raise BundleError(
            f"{folder / LORA_FILE} lacks the metadata that states alpha. Restore the adapter, or "
            "save its LoRA with metadata."
        )
    return AdapterWeights(lora, metadata, layers, encoder, text)


def adapt(
    transformer: SD3Transformer2DModel, weights: AdapterWeights, scale: float = 1.0
) -> SD3Transformer2DModel:
    """Transformer with an adapter in its weights; what does not change is shared.

    Sums are taken in float32 and rounded once, to the precision of the base.
    """
    layers = {f"{name}.weight" for name in _adapted_layers(weights.lora)}
    changed = {*layers, *weights.layers}
    adapted = _copy_of(transformer, changed)
    for name in layers:
        parameter = adapted.get_parameter(name)
        parameter.data = parameter.data.float()
    for name, tensor in weights.layers.items():
        parameter = adapted.get_parameter(name)
        parameter.data = tensor.to(device=parameter.device, dtype=torch.float32)
    if weights.lora:
        adapted.load_lora_adapter(
            {PREFIX + name: tensor for name, tensor in weights.lora.items()},
            metadata=_prefixed(weights.metadata),
            adapter_name="default",
        )
        adapted.fuse_lora()
        adapted.unload_lora()
    _blend(transformer, adapted, changed, scale)
    return adapted


def between(own: Network | None, other: Network, scale: float) -> Network:
    """Network on the line from the base's own to the adapter's; the latter if they differ."""
    mine = {} if own is None else {n: p.shape for n, p in own.named_parameters()}
    if own is None or mine != {n: p.shape for n, p in other.named_parameters()}:
        return other
    other.to(next(own.parameters()).device)
    _blend(own, other, mine, scale)
    return other


@torch.no_grad()
def _blend(base: nn.Module, adapted: nn.Module, names: Iterable[str], scale: float) -> None:
    """Set parameters to ``base + scale * (adapted - base)`` in the precision of the base."""
    for name in names:
        own, parameter = base.get_parameter(name), adapted.get_parameter(name)
        if scale != 1:
            parameter.data = own.float() + scale * (parameter.float() - own.float())
        parameter.data = parameter.data.to(own.dtype)


def _copy_of(transformer: SD3Transformer2DModel, names: Iterable[str]) -> SD3Transformer2DModel:
    """Copy of a transformer that shares all parameters but some."""
    own = set(names)
    tensors = (*transformer.named_parameters(), *transformer.named_buffers())
    shared = {id(tensor): tensor for name, tensor in tensors if name not in own}
    return deepcopy(transformer, shared)


def _read_lora(path: Path) -> tuple[dict[str, Tensor], dict[str, Any] | None]:
    """Weights of a LoRA file by names in the transformer, and its settings."""
    tensors = load_file(path)
    if strays := [name for name in tensors if not name.startswith(PREFIX) or ".lora_" not in name]:
        raise BundleError(
            f"{path} names {strays[0]}. Expected a LoRA of diffusers on the transformer alone, "
            "such as transformer.transformer_blocks.0.attn.to_q.lora_A.weight; save it by "
            "StableDiffusion3Pipeline.save_lora_weights."
        )
    with safe_open(path, framework="pt") as file:
        text = (file.metadata() or {}).get(LORA_ADAPTER_METADATA_KEY)
    found = None if text is None else json.loads(text)
    metadata = found and {k.removeprefix(PREFIX): v for k, v in found.items()}
    return {name.removeprefix(PREFIX): tensor for name, tensor in tensors.items()}, metadata


def _adapted_layers(lora: Mapping[str, Tensor]) -> list[str]:
    """Names of the layers that a LoRA adapts."""
    return sorted({name.split(".lora_")[0] for name in lora})


def check_fit(folder: Path, bundle: Bundle, weights: AdapterWeights) -> None:
    """Refuse weights that have no place in a bundle."""
    parameters = {n: tuple(p.shape) for n, p in bundle.transformer.named_parameters()}
    misfits = [n for n, t in weights.layers.items() if parameters.get(n) != tuple(t.shape)]
    for layer in _adapted_layers(weights.lora):
        down, up = (weights.lora.get(f"{layer}.lora_{side}.weight") for side in "AB")
        whole = parameters.get(f"{layer}.weight")
        if down is None or up is None or whole != (up.shape[0], down.shape[1]):
            misfits.append(layer)
    encoder, config = weights.climate_encoder, bundle.transformer.config
    if encoder is not None and (encoder.config.context_dim, encoder.config.pooled_dim) != (
        config.joint_attention_dim, config.pooled_projection_dim
    ):  # fmt: skip
        misfits.append(CLIMATE_ENCODER_FOLDER)
    if misfits:
        raise BundleError(
            f"{folder} does not fit {bundle.name}: {len(misfits)} of its weights, such as "
            f"{misfits[0]}, are of a model of other sizes. Give --bundle the base that it was "
            "trained on."
        )


def _prefixed(metadata: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Settings as diffusers takes them."""
    return None if metadata is None else {PREFIX + k: v for k, v in metadata.items()}
