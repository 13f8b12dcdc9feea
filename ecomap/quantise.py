"""A frozen transformer in 8 or 4 bits a weight, so that its training fits into less memory.

Weights are stored in few bits and multiplied in bfloat16; gradients pass through, and whatever
learns beside them (a LoRA, whole layers, a ControlNet) keeps its float32.

References:
    Dettmers et al. (2023), QLoRA: Efficient Finetuning of Quantized LLMs (the 4 bits),
    https://arxiv.org/abs/2305.14314
"""

from importlib import import_module
from typing import Any, Literal

import torch
from diffusers import SD3Transformer2DModel
from torch import nn

from ecomap.errors import BundleError, ConfigError

Kind = Literal["int8", "int4"]

NF4_BLOCK = 64
"""Weights that share a scale in 4 bits."""
NF4_SCALER_BLOCK = 256
"""Scales that are quantised together."""

BYTES_PER_WEIGHT = {"int8": 1.0, "int4": 0.5 + 1 / NF4_BLOCK}
"""Bytes of a stored weight, scales included but for one number a row or block of scales."""


def quantise_transformer(transformer: SD3Transformer2DModel, kind: Kind) -> int:
    """Store the frozen matrices of a transformer's blocks in few bits.

    What else is frozen is then stored in bfloat16.

    Args:
        transformer: On the CPU or a GPU; changed in place. It can no longer be saved or merged.
        kind: ``int8``: a scale for each output. ``int4``: the 16 levels of NF4, a scale for 64
            weights; matrices whose size is no multiple of 16,384 stay as they are.

    Returns:
        Number of matrices that were quantised.

    Raises:
        BundleError: If torchao is not installed, or no matrix can be quantised.
        ConfigError: If the transformer has a DoRA, which needs its base's weights as numbers.
    """
    if any("lora_magnitude_vector" in name for name, _ in transformer.named_parameters()):
        raise ConfigError(
            f"quantise is {kind} and lora.dora is true; DoRA reads the base's weights. Set one of "
            "the two to its default."
        )
    torchao = _torchao(kind)
    for parameter in transformer.parameters():
        if not parameter.requires_grad and parameter.is_floating_point():
            parameter.data = parameter.data.to(torch.bfloat16)
    matrices = [m for m in transformer.transformer_blocks.modules() if _fits(m, kind)]
    for matrix in matrices:
        if kind == "int8":
            torchao.quantize_(matrix, torchao.Int8WeightOnlyConfig(set_inductor_config=False))
        else:
            levels = torchao.NF4Tensor.from_tensor(
                matrix.weight.detach(), NF4_BLOCK, NF4_SCALER_BLOCK
            )
            matrix.weight = nn.Parameter(levels, requires_grad=False)
    if not matrices:
        raise BundleError(
            f"quantise is {kind}, but no matrix of the transformer's blocks is frozen and large "
            "enough. Leave it out."
        )
    return len(matrices)


def _fits(module: nn.Module, kind: Kind) -> bool:
    """Whether a module is a frozen matrix of a size that can be quantised."""
    if not isinstance(module, nn.Linear) or module.weight.requires_grad:
        return False
    return kind == "int8" or module.weight.numel() % (NF4_BLOCK * NF4_SCALER_BLOCK) == 0


def _torchao(kind: Kind) -> Any:
    """The library's quantisation, or a message that says how to get it."""
    try:
        return import_module("torchao.quantization")
    except ImportError:
        raise BundleError(
            f"quantise is {kind}, which needs torchao, and that is not installed. Install it: "
            "pip install 'ecomap[quantised]'."
        ) from None
