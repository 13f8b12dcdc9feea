"""A ControlNet beside the frozen transformer: copied blocks that read a control and add to its own.

diffusers' class with three repairs. Its constructor from a transformer changes that transformer's
config; its forward pass drops the bias of attention keys, without which absent tokens count; and it
leaves parameters trainable that reach no output. What is saved is the stock class in its layout.

References:
    Zhang et al. (2023), Adding Conditional Control to Text-to-Image Diffusion Models,
    https://arxiv.org/abs/2302.05543
"""

import inspect
import json
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import SD3ControlNetModel, SD3Transformer2DModel
from pydantic import ValidationError
from safetensors import SafetensorError
from torch import Tensor, nn

from ecomap.attention import use_biased_attention
from ecomap.bundle_paths import ADAPTER_FILE
from ecomap.climate_encoder import ClimateEncoder
from ecomap.conditions import Condition
from ecomap.controls import ControlSpec
from ecomap.edit import EditHead
from ecomap.errors import BundleError, ConfigError
from ecomap.model import CLIMATE_ENCODER_FOLDER
from ecomap.schema import describe_validation, write_json
from ecomap.solver import NUM_TRAIN_TIMESTEPS
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


def build_controlnet(
    transformer: SD3Transformer2DModel, *, num_layers: int | None = None, extra_channels: int = 0
) -> SD3ControlNetModel:
    """Build a ControlNet from a transformer's first blocks; at first it changes nothing.

    Args:
        transformer: The base, without adapters beside its weights.
        num_layers: Copied blocks, fewer than the base has; by default half of them.
        extra_channels: Control channels beside the latents.

    Returns:
        In float32, on the base's device. Its inlet and outlets are zero; parameters that reach no
        outlet do not learn.

    Raises:
        ConfigError: If ``num_layers`` does not leave the base a block more.
        BundleError: If the base has weights that are no plain copy, such as unmerged adapters.
    """
    total = int(transformer.config.num_layers)
    num_layers = max(1, total // 2) if num_layers is None else num_layers
    if not 0 < num_layers < total:
        raise ConfigError(
            f"controlnet.num_layers is {num_layers}; the base has {total} blocks, the last of "
            f"which cannot be copied. Choose 1 to {total - 1}."
        )
    controlnet = SD3ControlNetModel(
        **_copied_config(transformer, num_layers),
        extra_conditioning_channels=extra_channels,
        force_zeros_for_pooled_projection=False,
    )
    blocks = (f"transformer_blocks.{i}." for i in range(num_layers))
    copied = ("pos_embed.", "time_text_embed.", "context_embedder.", *blocks)
    weights = {n: w for n, w in transformer.state_dict().items() if n.startswith(copied)}
    missing, unknown = controlnet.load_state_dict(weights, strict=False)
    missing = [n for n in missing if not n.startswith(("controlnet_blocks.", "pos_embed_input."))]
    if strays := [*missing, *unknown]:
        raise BundleError(
            f"{len(strays)} weights of the base, such as {strays[0]}, have no place in a "
            "ControlNet. Merge adapters into the base before copying it."
        )
    return _ready(controlnet.to(transformer.device))


@dataclass(frozen=True)
class ControlOutput:
    """What a ControlNet says of noisy latents."""

    residuals: list[Tensor]
    """What it adds after the blocks of its base: image tokens ``(B, N, D)``, one tensor a block."""
    tokens: Tensor
    """Image tokens after its last block ``(B, N, D)``."""
    embedding: Tensor
    """Of noise level and pooled condition ``(B, D)``."""


def run_controlnet(
    controlnet: SD3ControlNetModel,
    noisy: Tensor,
    control: Tensor,
    sigma: Tensor,
    condition: Condition,
    *,
    scale: float = 1.0,
) -> ControlOutput:
    """What a ControlNet adds after the blocks of its base.

    The stock forward pass, but attention hears of absent tokens and of tokens that stand for many.

    Args:
        controlnet: With biased attention.
        noisy: Noisy latents ``(B, C, h, w)``.
        control: ``(B, C + extra, h, w)`` of `ecomap.controls.prepare_control`.
        sigma: Noise level of each sample ``(B,)``.
        condition: What the transformer is told.
        scale: Factor of the residuals.

    Raises:
        BundleError: If the control has other channels or another size than the ControlNet reads.
    """
    channels = controlnet.pos_embed_input.proj.in_channels
    if control.shape[1] != channels or control.shape[2:] != noisy.shape[2:]:
        raise BundleError(
            f"The control has shape {tuple(control.shape)} beside latents {tuple(noisy.shape)}; "
            f"expected {channels} channels of the latents' size. Make it by the ControlNet's own "
            "ControlSpec."
        )
    image = controlnet.pos_embed(noisy) + controlnet.pos_embed_input(control)
    context = controlnet.context_embedder(condition.context)
    embedding = controlnet.time_text_embed(sigma * NUM_TRAIN_TIMESTEPS, condition.pooled)
    arguments = {"key_bias": condition.key_bias}
    blocks = zip(controlnet.transformer_blocks, controlnet.controlnet_blocks, strict=True)
    residuals = []
    for block, outlet in blocks:
        if torch.is_grad_enabled() and controlnet.gradient_checkpointing:
            context, image = controlnet._gradient_checkpointing_func(
                block, image, context, embedding, arguments
            )
        else:
            context, image = block(image, context, embedding, joint_attention_kwargs=arguments)
        residuals.append(outlet(image) * scale)
    return ControlOutput(residuals, image, embedding)


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
    return _ready(controlnet.to(transformer.device)), spec


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


def read_controlnet_card(folder: Path) -> dict[str, Any]:
    """Facts for readers that a ControlNet was saved with (raises `BundleError` without one)."""
    return _read_description(folder)[2]


def freeze_unused(controlnet: SD3ControlNetModel) -> None:
    """Let nothing learn that reaches no outlet, nor a LoRA that was added to it since.

    Of the last block only image tokens are used: what makes its context tokens gets no gradient.
    """
    last = controlnet.transformer_blocks[-1]
    unused = (last.ff_context, last.attn.to_add_out, last.attn.add_q_proj, last.attn.norm_added_q)
    for module in unused:
        if module is not None:
            module.requires_grad_(False)


def _ready(controlnet: SD3ControlNetModel) -> SD3ControlNetModel:
    """Accept key biases, and let all learn that reaches an outlet."""
    use_biased_attention(controlnet)
    controlnet.requires_grad_(True)
    freeze_unused(controlnet)
    return controlnet


def _copied_config(transformer: SD3Transformer2DModel, num_layers: int) -> dict[str, Any]:
    """Sizes of a transformer that a ControlNet takes over, as a copy."""
    known = inspect.signature(SD3ControlNetModel.__init__).parameters
    config = {name: value for name, value in transformer.config.items() if name in known}
    dual = tuple(i for i in config["dual_attention_layers"] if i < num_layers)
    return config | {"num_layers": num_layers, "dual_attention_layers": dual}


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
