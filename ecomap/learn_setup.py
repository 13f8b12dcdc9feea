"""What a training starts from, and what of it learns: before the first step."""

from dataclasses import replace
from pathlib import Path

import torch
from diffusers import SD3ControlNetModel, SD3Transformer2DModel
from torch import nn
from transformers import CLIPTextModelWithProjection

from ecomap.adapter import add_lora, merge_adapter
from ecomap.adapter_card import adapter_path
from ecomap.attention import use_biased_attention
from ecomap.autoencoder import load_vae
from ecomap.build import build_bundle, initialise
from ecomap.bundle_paths import bundle_path
from ecomap.card import BundleCard
from ecomap.climate_encoder import ClimateEncoder
from ecomap.controlnet import build_controlnet, freeze_unused
from ecomap.controlnet_files import load_controlnet, load_edit_head
from ecomap.controls import ControlSpec
from ecomap.edit import EditHead
from ecomap.errors import ConfigError
from ecomap.learner import FlowLearner
from ecomap.model import CLIMATE_ENCODER_FOLDER, Bundle, is_hub_id, load_bundle
from ecomap.quantise import quantise_transformer
from ecomap.transformer_config import (
    ControlNetConfig,
    LearnConfig,
    LoraConfig,
    TrainConfig,
    TransformerConfig,
)
from ecomap.versions import fingerprint

WHOLE = "all"
"""Name in ``learn.layers`` of the whole transformer."""


def open_base(config: TrainConfig, card: BundleCard | None = None) -> Bundle:
    """The bundle that a training starts from, on the CPU and frozen.

    Args:
        config: Complete settings.
        card: Card of a bundle that is built from scratch.

    Raises:
        BundleError: If the base cannot be loaded.
        ConfigError: If ``base_parts`` names what it does not have.
    """
    if config.base is None:
        vae = load_vae(config.vae or Path())
        bundle = build_bundle(
            config.transformer, card or BundleCard(name=config.name), vae, config.shift
        )
        return frozen(bundle)
    bundle = load_bundle(config.base, device="cpu", use_t5=config.use_t5, half_t5=config.base_bf16)
    if config.adapter is not None:
        bundle = merge_adapter(bundle, config.adapter)
    if config.learn is not None and config.learn.climate_encoder and not bundle.climate_encoder:
        torch.manual_seed(config.seed)
        encoder = new_climate_encoder(bundle.transformer, config.transformer)
        bundle = replace(bundle, climate_encoder=encoder)
    if config.vae is not None:
        bundle = replace(bundle, vae=load_vae(config.vae))
    return frozen(_with_fresh_parts(bundle, config))


def frozen_hashes(config: TrainConfig) -> dict[str, str]:
    """Hashes of all weights that a training starts from and leaves out of its checkpoints.

    A model on a hub stands for itself by its name.
    """
    learn = config.learn
    control = learn.controlnet if learn is not None else None
    folders: dict[str, Path | None] = {
        "vae": config.vae,
        "adapter": adapter_path(config.adapter) if config.adapter else None,
        "controlnet": control.start if control else None,
        "detector": control.detector_weights if control else None,
    }
    found = {} if config.base is None else {"base": config.base}
    if config.base is not None and not is_hub_id(config.base):
        folders["base"] = bundle_path(config.base)
    given = {name: folder for name, folder in folders.items() if folder is not None}
    return found | {name: fingerprint(sorted(folder.rglob("*"))) for name, folder in given.items()}


def set_learning(bundle: Bundle, learn: LearnConfig | None, *, seed: int = 0) -> None:
    """Choose what of a frozen bundle learns, and add a LoRA where one is asked for.

    Args:
        bundle: Its networks are changed in place.
        learn: What learns; everything by default.
        seed: Of the LoRA's start.

    Raises:
        ConfigError: If a layer or a part is not there.
    """
    transformer = bundle.transformer
    if learn is None:
        for module in bundle.modules().values():
            module.requires_grad_(True)
        return
    if learn.lora is not None:
        _adapt(transformer, learn.lora, seed)
    for name in learn.layers:
        _layer(transformer, name).requires_grad_(True)
    if learn.last_blocks > len(transformer.transformer_blocks):
        raise ConfigError(
            f"learn.last_blocks is {learn.last_blocks}; {bundle.name} has "
            f"{len(transformer.transformer_blocks)} blocks. Choose fewer."
        )
    for block in list(transformer.transformer_blocks)[::-1][: learn.last_blocks]:
        block.requires_grad_(True)
    if learn.text_encoders:
        for encoder in bundle.text_encoders:
            encoder.requires_grad_(True)
    if learn.climate_encoder and bundle.climate_encoder is not None:
        bundle.climate_encoder.requires_grad_(True)


def with_controlnet(bundle: Bundle, config: ControlNetConfig, *, seed: int = 0) -> Bundle:
    """A bundle with a ControlNet that learns: a trained one, or blocks copied from the base.

    Raises:
        ConfigError: If its settings are not those of the ControlNet to start from.
    """
    spec = ControlSpec.from_config(config)
    head = None
    if config.start is not None:
        net, started = load_controlnet(config.start, bundle.transformer)
        same = ("image", "channels", "edit")
        found, wanted = ({name: getattr(s, name) for name in same} for s in (started, spec))
        if found != wanted:
            raise ConfigError(
                f"{config.start} has {found}; the config says {wanted}. Give both the same."
            )
        head = load_edit_head(config.start) if spec.edit else None
    else:
        net = build_controlnet(
            bundle.transformer, num_layers=config.num_layers, extra_channels=spec.num_extra
        )
    if spec.edit and head is None:
        head = EditHead.beside(net, int(net.config.in_channels) + spec.valid_channel)
    if config.lora is not None:
        zero_parts = {
            name: parameter
            for name, parameter in net.named_parameters()
            if name.split(".")[0] in ("controlnet_blocks", "pos_embed_input")
        }
        net.requires_grad_(False)
        _adapt(net, config.lora, seed)
        for parameter in zero_parts.values():
            parameter.requires_grad_(True)
        freeze_unused(net)
    return replace(bundle, controlnet=net, control=spec, edit_head=head)


def make_learner(bundle: Bundle, config: TrainConfig, device: str) -> FlowLearner:
    """Bring what is trained to the device, in the right precision, as one module.

    Parameters that learn are float32; what is frozen may be bfloat16 or quantised.
    """
    text_in_loop = config.text_variants == 0
    learner = FlowLearner(
        bundle.transformer,
        text_encoders=bundle.text_encoders if text_in_loop else None,
        text_encoder_3=bundle.text_encoder_3 if text_in_loop else None,
        climate_encoder=bundle.climate_encoder,
        controlnet=bundle.controlnet,
        edit_head=bundle.edit_head,
    )
    if config.quantise is not None:
        quantise_transformer(bundle.transformer, config.quantise)
    for parameter in learner.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
        elif config.base_bf16 and parameter.is_floating_point() and config.quantise is None:
            parameter.data = parameter.data.to(torch.bfloat16)
    for network in (bundle.transformer, bundle.controlnet):
        if network is None:
            continue
        if config.gradient_checkpointing:
            network.enable_gradient_checkpointing()
        if config.compile:
            for block in network.transformer_blocks:
                block.compile()
    learner.train()
    if learner.text_encoder_3 is not None:
        learner.text_encoder_3.eval()
    return learner.to(device)


def _adapt(model: SD3Transformer2DModel | SD3ControlNetModel, lora: LoraConfig, seed: int) -> None:
    """Add a LoRA as a config says."""
    alpha = float(lora.rank) if lora.alpha is None else lora.alpha
    add_lora(model, **(lora.model_dump() | {"alpha": alpha}), seed=seed)


def whole_parameters(transformer: SD3Transformer2DModel) -> dict[str, torch.Tensor]:
    """Parameters of a transformer that were trained whole beside a LoRA, by name."""
    return {
        name.replace(".base_layer", ""): parameter
        for name, parameter in transformer.named_parameters()
        if parameter.requires_grad and "lora_" not in name
    }


def _layer(transformer: SD3Transformer2DModel, name: str) -> nn.Module:
    """A part of the transformer by its name."""
    if name == WHOLE:
        whole: nn.Module = transformer
        return whole
    try:
        part: nn.Module = transformer.get_submodule(name)
    except AttributeError:
        names = [n for n, _ in transformer.named_children()]
        raise ConfigError(
            f"learn.layers names {name!r}, which the transformer does not have. Choose {WHOLE}, "
            f"{', '.join(names)}, or a module inside one."
        ) from None
    return part


def new_climate_encoder(
    transformer: SD3Transformer2DModel, sizes: TransformerConfig
) -> ClimateEncoder:
    """An untrained climate encoder for a base that has none."""
    base = transformer.config
    encoder: ClimateEncoder = ClimateEncoder(
        width=sizes.climate_width,
        num_layers=sizes.climate_layers,
        num_heads=sizes.climate_heads,
        context_dim=int(base.joint_attention_dim),
        pooled_dim=int(base.pooled_projection_dim),
    )
    return encoder


def _with_fresh_parts(bundle: Bundle, config: TrainConfig) -> Bundle:
    """A bundle whose networks outside ``base_parts`` start untrained, with the base's sizes."""
    known = ("transformer", "text_encoder", "text_encoder_2", CLIMATE_ENCODER_FOLDER)
    if unknown := set(config.base_parts) - set(known):
        raise ConfigError(
            f"base_parts names {sorted(unknown)[0]!r}; choose from {', '.join(known)}."
        )
    torch.manual_seed(config.seed)
    parts = set(known) - set(config.base_parts)
    transformer, encoder = bundle.transformer, bundle.climate_encoder
    if "transformer" in parts:
        transformer = SD3Transformer2DModel.from_config(transformer.config)
        initialise(transformer)
        use_biased_attention(transformer)
    if CLIMATE_ENCODER_FOLDER in parts and encoder is not None:
        encoder = ClimateEncoder.from_config(encoder.config)
        nn.init.xavier_uniform_(encoder.pooled_out.weight)
    first, second = bundle.text_encoders
    if "text_encoder" in parts:
        first = CLIPTextModelWithProjection._from_config(first.config)
    if "text_encoder_2" in parts:
        second = CLIPTextModelWithProjection._from_config(second.config)
    return replace(
        bundle, transformer=transformer, text_encoders=(first, second), climate_encoder=encoder
    )


def frozen(bundle: Bundle) -> Bundle:
    """The bundle with nothing that learns."""
    for network in (*bundle.modules().values(), bundle.vae, bundle.text_encoder_3):
        if network is not None:
            network.requires_grad_(False)
    return bundle
