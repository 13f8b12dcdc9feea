"""A ControlNet beside the frozen transformer: copied blocks that read a control and add to its own.

diffusers' class with three repairs. Its constructor from a transformer changes that transformer's
config; its forward pass drops the bias of attention keys, without which absent tokens count; and it
leaves parameters trainable that reach no output. What is saved is the stock class in its layout.

References:
    Zhang et al. (2023), Adding Conditional Control to Text-to-Image Diffusion Models,
    https://arxiv.org/abs/2302.05543
"""

import inspect
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import SD3ControlNetModel, SD3Transformer2DModel
from torch import Tensor

from ecomap.attention import use_biased_attention
from ecomap.conditions import Condition
from ecomap.errors import BundleError, ConfigError
from ecomap.solver import NUM_TRAIN_TIMESTEPS


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
    return make_ready(controlnet.to(transformer.device))


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


def freeze_unused(controlnet: SD3ControlNetModel) -> None:
    """Let nothing learn that reaches no outlet, nor a LoRA that was added to it since.

    Of the last block only image tokens are used: what makes its context tokens gets no gradient.
    """
    last = controlnet.transformer_blocks[-1]
    unused = (last.ff_context, last.attn.to_add_out, last.attn.add_q_proj, last.attn.norm_added_q)
    for module in unused:
        if module is not None:
            module.requires_grad_(False)


def make_ready(controlnet: SD3ControlNetModel) -> SD3ControlNetModel:
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
