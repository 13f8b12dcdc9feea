"""A stand-in for T5 that says nothing, so that the stock pipeline loads a bundle without T5.

``StableDiffusion3Pipeline.from_pretrained`` insists on a third text encoder. This one's last norm
has zero weight: whatever it reads, it answers with the zero tokens that the pipeline itself
appends where it is given none.
"""

from collections.abc import Mapping
from typing import Any

import torch
from transformers import T5Config, T5EncoderModel, T5TokenizerFast

SILENT_SIZES = {"d_kv": 1, "d_ff": 1, "num_layers": 1, "num_heads": 1}
"""Smaller than any T5 that has something to say."""


def build_silent_t5(width: int) -> tuple[T5TokenizerFast, T5EncoderModel]:
    """Tokenizer and encoder whose output is exactly zero.

    Args:
        width: Width of the tokens: the joint attention dimension of the transformer they feed.
    """
    tokenizer = T5TokenizerFast(
        vocab=[("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -1.0)],
        extra_ids=0,
        model_max_length=256,
    )
    config = T5Config(vocab_size=len(tokenizer), d_model=width, **SILENT_SIZES)
    encoder = T5EncoderModel(config)
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.zero_()
    return tokenizer, encoder.eval()


def is_silent_config(values: Mapping[str, Any]) -> bool:
    """Whether a config, as a mapping, is one of the stand-in."""
    return all(values.get(name) == size for name, size in SILENT_SIZES.items())


def is_silent(encoder: T5EncoderModel) -> bool:
    """Whether a T5 answers nothing but zeros."""
    return not bool(encoder.encoder.final_layer_norm.weight.any())
