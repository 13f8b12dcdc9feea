"""Adapters: low-rank updates of a base, and what was trained whole beside them.

An adapter is a folder: LoRA weights that the stock pipeline's ``load_lora_weights`` reads, layers
that were trained whole, other networks, a card. Applied, it is part of the weights of a new bundle.

References:
    Hu et al. (2021), LoRA: Low-Rank Adaptation of Large Language Models,
    https://arxiv.org/abs/2106.09685
"""

import json
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from diffusers import SD3ControlNetModel, SD3Transformer2DModel
from diffusers.loaders.lora_base import LORA_ADAPTER_METADATA_KEY
from diffusers.training_utils import cast_training_params
from peft import LoraConfig as PeftLoraConfig
from peft.utils import get_peft_model_state_dict
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import CLIPTextModelWithProjection

from ecomap.adapter_card import (
    LAYERS_FILE,
    LORA_FILE,
    AdapterCard,
    adapter_identity,
    adapter_path,
    adapter_readme,
    read_adapter_card,
    write_adapter_card,
)
from ecomap.adapter_weights import (
    PREFIX,
    TEXT_ENCODER_FOLDERS,
    adapt,
    between,
    check_fit,
    read_weights,
)
from ecomap.bundle_paths import ADAPTER_FILE
from ecomap.climate_encoder import ClimateEncoder
from ecomap.errors import BundleError, ConfigError
from ecomap.model import CLIMATE_ENCODER_FOLDER, Bundle
from ecomap.model_card import README_FILE
from ecomap.schema import write_json
from ecomap.transformer_config import LoraTarget
from ecomap.whole_folders import written_whole

TARGET_MODULES: dict[LoraTarget, tuple[str, ...]] = {
    "image": tuple(
        f"{attn}.{name}" for attn in ("attn", "attn2") for name in
        ("to_q", "to_k", "to_v", "to_out.0")
    ),
    "text": ("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj", "attn.to_add_out"),
    "image_mlp": ("ff.net.0.proj", "ff.net.2"),
    "text_mlp": ("ff_context.net.0.proj", "ff_context.net.2"),
}  # fmt: skip
"""Linear layers of a joint block by target. ``attn2`` is the second attention of SD3.5 medium."""

UNHEARD = ("attn.add_q_proj", "attn.to_add_out", "ff_context.net.0.proj", "ff_context.net.2")
"""Layers of the last block that make context tokens which nothing reads: they cannot learn."""


def lora_targets(
    model: SD3Transformer2DModel | SD3ControlNetModel, targets: Sequence[LoraTarget]
) -> list[str]:
    """Names of the linear layers that a LoRA adapts, in the order of blocks.

    Args:
        model: Transformer, or a ControlNet of its blocks.
        targets: Kinds of layers; those of a kind that a block lacks are passed over.

    Raises:
        ConfigError: If a target is unknown, or the model has no layer of any.
    """
    if unknown := [target for target in targets if target not in TARGET_MODULES]:
        raise ConfigError(
            f"lora.targets names {unknown[0]!r}; choose from {', '.join(TARGET_MODULES)}."
        )
    wanted = [name for target in targets for name in TARGET_MODULES[target]]
    last = len(model.transformer_blocks) - 1
    found = []
    for index, block in enumerate(model.transformer_blocks):
        layers = {name for name, m in block.named_modules() if isinstance(m, torch.nn.Linear)}
        heard = layers - set(UNHEARD) if index == last else layers
        found += [f"transformer_blocks.{index}.{name}" for name in wanted if name in heard]
    if not found:
        raise ConfigError(
            f"The model has no layers of the LoRA targets {', '.join(targets) or '(none)'}. "
            f"Choose from {', '.join(TARGET_MODULES)}."
        )
    return found


def add_lora(
    model: SD3Transformer2DModel | SD3ControlNetModel,
    *,
    rank: int,
    alpha: float,
    targets: Sequence[LoraTarget] = ("image",),
    rslora: bool = False,
    dora: bool = False,
    dropout: float = 0.0,
    gaussian: bool = True,
    seed: int = 0,
) -> None:
    """Add a LoRA that at first changes nothing, and let it alone learn.

    Its parameters are float32 whatever the model is stored in: steps of training are lost in the
    rounding of bfloat16.

    Args:
        model: Changed in place; all its other parameters are frozen.
        rank: Of the updates.
        alpha: Updates are multiplied by ``alpha / rank``, or ``alpha / sqrt(rank)``.
        targets: Kinds of layers (`TARGET_MODULES`).
        rslora: Whether to divide by the root of the rank.
        dora: Whether magnitudes learn apart from directions.
        dropout: Share of inputs that the update does not see in training.
        gaussian: Whether A starts Gaussian, else uniform.
        seed: Of the start.

    Raises:
        ConfigError: If the model has no layers of the targets.
    """
    config = PeftLoraConfig(
        r=rank,
        lora_alpha=alpha,  # type: ignore[arg-type]  # a factor; peft declares whole numbers only
        target_modules=lora_targets(model, targets),
        use_rslora=rslora,
        use_dora=dora,
        lora_dropout=dropout,
        init_lora_weights="gaussian" if gaussian else True,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model.add_adapter(config)
    cast_training_params(model, torch.float32)


def lora_metadata(transformer: SD3Transformer2DModel) -> dict[str, Any]:
    """Settings of a transformer's LoRA that differ from peft's defaults; always rank and alpha.

    Without them a reader takes the rank for alpha. Fewer of them are read by more versions of peft.
    """
    settings: dict[str, Any] = transformer.peft_config["default"].to_dict()
    default: dict[str, Any] = PeftLoraConfig().to_dict()  # type: ignore[no-untyped-call]
    kept = {k: v for k, v in settings.items() if k in ("r", "lora_alpha") or v != default.get(k)}
    kept.pop("base_model_name_or_path", None)
    return {k: sorted(v) if isinstance(v, set) else v for k, v in kept.items()}


def save_adapter(
    folder: Path,
    transformer: SD3Transformer2DModel,
    *,
    card: AdapterCard,
    extra: Mapping[str, Tensor] | None = None,
    climate_encoder: ClimateEncoder | None = None,
    text_encoders: tuple[CLIPTextModelWithProjection, CLIPTextModelWithProjection] | None = None,
    dtype: torch.dtype = torch.float32,
) -> None:
    """Write an adapter, whole or not at all.

    Args:
        folder: Where to; an adapter there is replaced, and what else lies with it stays.
        transformer: Its LoRA is saved, if it has one.
        card: Facts about it; ``parts`` is filled in.
        extra: Parameters of the transformer that were trained whole, by name.
        climate_encoder: If it was trained.
        text_encoders: If they were trained; always in float32, as transformers loads what is there.
        dtype: Of stored weights; half precision halves the folder, and loads as float32.

    Raises:
        BundleError: If there is nothing to save, or ``folder`` holds something else.
        DataError: If the disk has no room; ``folder`` is as it was.
    """
    if folder.exists() and not (folder / ADAPTER_FILE).is_file() and any(folder.iterdir()):
        raise BundleError(
            f"{folder} holds something that is no adapter. Give a folder that is new or empty."
        )
    own = (LORA_FILE, LAYERS_FILE, CLIMATE_ENCODER_FOLDER, *TEXT_ENCODER_FOLDERS)
    with written_whole(folder, replaces=own) as temporary:
        if getattr(transformer, "peft_config", None):
            _save_lora(transformer, temporary / LORA_FILE, dtype)
        if extra:
            save_file({n: _stored(t, dtype) for n, t in extra.items()}, temporary / LAYERS_FILE)
        if climate_encoder is not None:
            stored = deepcopy(climate_encoder)
            nn.Module.to(stored, dtype)  # diffusers' own warns of layers that it would not convert
            stored.save_pretrained(temporary / CLIMATE_ENCODER_FOLDER, safe_serialization=True)
        for name, encoder in zip(TEXT_ENCODER_FOLDERS, text_encoders or (), strict=False):
            encoder.save_pretrained(temporary / name)
        for path in temporary.glob("*/config.json"):
            # Where a part came from is a path of the machine that trained it.
            config = json.loads(path.read_text())
            write_json(path, {k: v for k, v in config.items() if k != "_name_or_path"})
        parts = tuple(sorted(path.name for path in temporary.iterdir()))
        if not parts:
            raise BundleError(
                f"The adapter {card.name!r} has no weights. Train something of it first."
            )
        card = card.model_copy(update={"parts": parts})
        write_adapter_card(temporary, card)
        (temporary / README_FILE).write_text(adapter_readme(card))


def load_adapter(bundle: Bundle, name_or_path: str | Path, *, scale: float = 1.0) -> Bundle:
    """Apply an adapter to a bundle.

    The result is a new bundle that shares all unchanged weights with the given one. Its card and
    its schedule are the adapter's; its identity names both.

    Args:
        bundle: The base; it stays as it is.
        name_or_path: Name of a shipped adapter, or a folder: with a card as `save_adapter` writes,
            or a bare LoRA of diffusers.
        scale: 0 is the base and 1 the adapter; between and beyond, weights lie on the line through
            both. A climate encoder that the base lacks, or has in another size, is taken whole.

    Raises:
        BundleError: If there is no such adapter, it is damaged, or it belongs to another base.
    """
    folder = adapter_path(name_or_path)
    card = read_adapter_card(folder)
    if card is not None:
        card.base.check(bundle, card.name)
    weights = read_weights(folder, card)
    check_fit(folder, bundle, weights)
    encoder = weights.climate_encoder
    if encoder is not None:
        encoder = between(bundle.climate_encoder, encoder, scale)
    text = tuple(
        between(own, other, scale)
        for own, other in zip(bundle.text_encoders, weights.text_encoders, strict=False)
    )
    changed = replace(
        bundle,
        transformer=adapt(bundle.transformer, weights, scale),
        climate_encoder=bundle.climate_encoder if encoder is None else encoder,
        text_encoders=text or bundle.text_encoders,
        texts=None if text else bundle.texts,
        adapter=adapter_identity(folder, card, bundle, scale=scale),
    )
    for module in changed.modules().values():
        module.to(bundle.device).eval().requires_grad_(False)
    if card is None:
        return changed
    if not card.bundle_card.uses_t5:
        changed = replace(changed, text_encoder_3=None, tokenizer_3=None, texts=None)
    scheduler = type(bundle.scheduler).from_config(bundle.scheduler.config, shift=card.shift)
    return replace(changed, card=card.bundle_card, scheduler=scheduler)


def merge_adapter(bundle: Bundle, name_or_path: str | Path, *, scale: float = 1.0) -> Bundle:
    """Make a bundle of a base and an adapter, for `ecomap.model.save_bundle` or more training.

    Args:
        bundle: The base; it stays as it is.
        name_or_path: As in `load_adapter`.
        scale: As in `load_adapter`.

    Returns:
        A bundle whose card says what was merged.
    """
    merged = load_adapter(bundle, name_or_path, scale=scale)
    said = {"merged": {"base": bundle.identity, "adapter": dict(merged.adapter)}}
    card = merged.card.model_copy(update={"training": merged.card.training | said})
    return replace(merged, card=card)


def _save_lora(transformer: SD3Transformer2DModel, path: Path, dtype: torch.dtype) -> None:
    """Write a transformer's LoRA as diffusers does, less its second key of metadata.

    safetensors stores several in random order.
    """
    layers = {
        PREFIX + name: _stored(tensor, dtype)
        for name, tensor in get_peft_model_state_dict(transformer).items()
    }
    settings = {PREFIX + name: value for name, value in lora_metadata(transformer).items()}
    text = json.dumps(settings, indent=2, sort_keys=True)
    save_file(layers, path, metadata={LORA_ADAPTER_METADATA_KEY: text})


def _stored(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """Tensor as it is written."""
    return tensor.detach().to(device="cpu", dtype=dtype).contiguous()
