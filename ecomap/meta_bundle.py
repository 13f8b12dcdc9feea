"""A bundle without weights: the networks of a training at their sizes, in no memory.

Its networks lie on torch's ``meta`` device, which knows shapes only, so a model larger than this
computer can be counted, and set up for training, before it is downloaded.
"""

import json
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    AutoencoderTiny,
    FlowMatchEulerDiscreteScheduler,
    SD3Transformer2DModel,
)
from transformers import (
    CLIPTextConfig,
    CLIPTextModelWithProjection,
    T5Config,
    T5EncoderModel,
)

from ecomap.attention import use_biased_attention
from ecomap.build import build_bundle
from ecomap.bundle_paths import bundle_names, bundle_path
from ecomap.card import BundleCard, read_card
from ecomap.climate_encoder import ClimateEncoder
from ecomap.errors import BundleError, ConfigError
from ecomap.learn_setup import (
    frozen,
    make_learner,
    new_climate_encoder,
    set_learning,
    with_controlnet,
)
from ecomap.learner import FlowLearner
from ecomap.model import CLIMATE_ENCODER_FOLDER, Bundle
from ecomap.silent_t5 import is_silent_config
from ecomap.tokenizer import build_clip_tokenizer
from ecomap.transformer_config import ControlNetConfig, TrainConfig

Sizes = dict[str, dict[str, Any]]
"""Config of each network by folder name."""

META = torch.device("meta")


def known_sizes(model: str) -> Sizes | None:
    """Configs of the networks of a model on the hub, from the table that ships; None if unknown."""
    table = json.loads((files("ecomap") / "resources" / "sd3_sizes.json").read_text())
    if model not in table["models"]:
        return None
    parts: Sizes = table["parts"]
    return parts | {"transformer": parts["transformer"] | table["models"][model]["transformer"]}


def folder_sizes(folder: Path) -> Sizes:
    """Configs of the networks of a bundle's folder.

    Raises:
        BundleError: If one is missing or damaged.
    """
    names = ["transformer", "text_encoder", "text_encoder_2", "vae"]
    optional = ["text_encoder_3", CLIMATE_ENCODER_FOLDER]
    names += [name for name in optional if (folder / name / "config.json").is_file()]
    return {name: _read_config(folder / name) for name in names}


def meta_bundle(config: TrainConfig) -> Bundle:
    """The bundle that a training starts from, without weights.

    Args:
        config: Complete settings.

    Returns:
        Networks on the ``meta`` device, with what learns set up. Tokenizers are stand-ins.

    Raises:
        BundleError: If the base is a model whose sizes are not known here.
        ConfigError: If what learns names what the base does not have.
    """
    with META:
        bundle = _without_weights(config)
        if not config.use_t5:
            bundle = replace(bundle, text_encoder_3=None)
        if config.learn is not None and config.learn.controlnet is not None:
            bundle = with_controlnet(bundle, _from_base(config.learn.controlnet))
        set_learning(bundle, config.learn)
    return bundle


def meta_learner(bundle: Bundle, config: TrainConfig) -> FlowLearner:
    """What a training would bring to its device, neither quantised nor compiled."""
    plain = config.model_copy(update={"quantise": None, "compile": False})
    with META:
        return make_learner(bundle, plain, "meta")


def _without_weights(config: TrainConfig) -> Bundle:
    """Base of a training, or the networks that are trained from scratch."""
    if config.base is None:
        card = BundleCard(name=config.name)
        vae = _build("vae", _read_config(config.vae or Path()))
        return frozen(build_bundle(config.transformer, card, vae, config.shift))
    sizes = known_sizes(config.base)
    card = BundleCard(name=config.base)
    if sizes is None:
        if config.base not in bundle_names() and not Path(config.base).exists():
            raise BundleError(
                f"The sizes of {config.base!r} are not known here. Give a folder, or one of "
                f"{', '.join([*bundle_names(), *_hub_names()])}."
            )
        folder = bundle_path(config.base)
        sizes, card = folder_sizes(folder), read_card(folder)
    networks = {name: _build(name, values, config.base_bf16) for name, values in sizes.items()}
    transformer = networks["transformer"]
    use_biased_attention(transformer)
    if CLIMATE_ENCODER_FOLDER not in networks and config.learn and config.learn.climate_encoder:
        networks[CLIMATE_ENCODER_FOLDER] = new_climate_encoder(transformer, config.transformer)
    return frozen(
        Bundle(
            path=Path(),
            card=card,
            transformer=transformer,
            vae=networks["vae"],
            scheduler=FlowMatchEulerDiscreteScheduler(shift=config.shift),
            tokenizers=(build_clip_tokenizer(), build_clip_tokenizer()),
            text_encoders=(networks["text_encoder"], networks["text_encoder_2"]),
            text_encoder_3=networks.get("text_encoder_3"),
            climate_encoder=networks.get(CLIMATE_ENCODER_FOLDER),
        )
    )


def _hub_names() -> list[str]:
    """Models of the table that ships."""
    table = json.loads((files("ecomap") / "resources" / "sd3_sizes.json").read_text())
    return list(table["models"])


def _read_config(folder: Path) -> dict[str, Any]:
    """Config of one network.

    Raises:
        BundleError: If it is missing or damaged.
    """
    try:
        values: dict[str, Any] = json.loads((folder / "config.json").read_text())
    except (OSError, ValueError) as error:
        raise BundleError(
            f"{folder}/config.json cannot be read: {error}. Expected a network in the layout of "
            "diffusers. Restore it."
        ) from None
    return values


def _build(name: str, values: dict[str, Any], half_t5: bool = False) -> Any:
    """A network of a bundle by its folder's name, as `load_bundle` would hold it.

    None for a T5 that says nothing.

    Raises:
        BundleError: If the sizes make no network.
    """
    if name == "text_encoder_3" and is_silent_config(values):
        return None
    try:
        if name == "transformer":
            return SD3Transformer2DModel.from_config(values)
        if name == CLIMATE_ENCODER_FOLDER:
            return ClimateEncoder.from_config(values)
        if name == "vae":
            kinds = {"AutoencoderTiny": AutoencoderTiny}
            return kinds.get(values.get("_class_name", ""), AutoencoderKL).from_config(values)
        if name == "text_encoder_3":
            t5 = T5EncoderModel(T5Config(**(values | {"dtype": None})))
            return t5.to(torch.bfloat16 if half_t5 else torch.float32)
        return CLIPTextModelWithProjection._from_config(
            CLIPTextConfig(**(values | {"dtype": None})), attn_implementation="eager"
        ).float()
    except (TypeError, ValueError) as error:
        raise BundleError(
            f"The config of {name} makes no network: {error}. Restore the bundle."
        ) from None


def _from_base(config: ControlNetConfig) -> ControlNetConfig:
    """Settings of a ControlNet of the same sizes, copied from the base.

    Raises:
        ConfigError: If the ControlNet to start from states no number of blocks.
    """
    if config.start is None:
        return config
    values = _read_config(config.start)
    if "num_layers" not in values:
        raise ConfigError(f"{config.start}/config.json is no ControlNet's: it has no num_layers.")
    return config.model_copy(update={"start": None, "num_layers": values["num_layers"]})
