"""What the transformer is told: texts as embeddings, climate as tokens, both as one condition.

Three steps, so that each can be done once and kept: texts to token ids (`tokenize`), ids to
embeddings (`embed_text`), embeddings and climate tokens to a condition (`join_condition`).
Training and sampling go through the same functions.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import (
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    PreTrainedTokenizerBase,
    T5EncoderModel,
)

from ecomap.attention import ABSENT, repeat_bias
from ecomap.prompt import Prompt
from ecomap.rows import Rows

EMPTY_PROMPT = Prompt(short="", long="")


@dataclass(frozen=True)
class TextIds(Rows):
    """Token ids of a batch of prompts."""

    clip_l: Tensor
    """int64 ``(B, 77)``: the short prompt for the first CLIP encoder."""
    clip_g: Tensor
    """Likewise for the second."""
    t5: Tensor | None = None
    """int64 ``(B, L)``: the long prompt; ``None`` where there is no T5."""


@dataclass(frozen=True)
class TextEmbedding(Rows):
    """What the text encoders make of a batch of prompts."""

    clip: Tensor
    """``(B, 77, D)``: second last layers of both CLIP encoders, side by side."""
    pooled: Tensor
    """``(B, pooled_projection_dim)``."""
    t5: Tensor | None = None
    """``(B, L, joint_attention_dim)``; ``None`` where there is no T5."""


@dataclass(frozen=True)
class Condition(Rows):
    """What the transformer is told about each image of a batch."""

    context: Tensor
    """Context tokens ``(B, M, joint_attention_dim)``."""
    key_bias: Tensor
    """Logit bias of each context token ``(B, M)``."""
    pooled: Tensor
    """``(B, pooled_projection_dim)``."""


class KeptTexts(Protocol):
    """Embeddings of texts that were encoded before."""

    def read(self, prompts: Sequence[Prompt], /) -> TextEmbedding:
        """Embeddings of prompts, on the CPU."""


def tokenize(
    prompts: Sequence[Prompt],
    tokenizers: tuple[CLIPTokenizer, CLIPTokenizer],
    tokenizer_3: PreTrainedTokenizerBase | None = None,
    *,
    t5_tokens: int = 256,
) -> TextIds:
    """Token ids of prompts, padded and cut as the stock pipeline does.

    Args:
        prompts: One a sample.
        tokenizers: Of both CLIP encoders, which read the short text.
        tokenizer_3: Of T5, which reads the long one; ``None`` for no T5.
        t5_tokens: Length of T5's sequence.
    """
    short, long = [p.short for p in prompts], [p.long for p in prompts]
    clip = [_ids(tokenizer, short, int(tokenizer.model_max_length)) for tokenizer in tokenizers]
    t5 = None if tokenizer_3 is None else _ids(tokenizer_3, long, t5_tokens)
    return TextIds(clip[0], clip[1], t5)


def embed_text(
    ids: TextIds,
    text_encoders: tuple[CLIPTextModelWithProjection, CLIPTextModelWithProjection],
    text_encoder_3: T5EncoderModel | None = None,
) -> TextEmbedding:
    """Encode token ids as the stock pipeline does.

    Args:
        ids: On the device of the encoders.
        text_encoders: Both CLIP encoders.
        text_encoder_3: T5; ``None`` for none.
    """
    parts, pooled = [], []
    for encoder, tokens in zip(text_encoders, (ids.clip_l, ids.clip_g), strict=True):
        output = encoder(tokens, output_hidden_states=True)
        parts.append(output.hidden_states[-2])
        pooled.append(output.text_embeds)
    t5 = None
    if text_encoder_3 is not None and ids.t5 is not None:
        t5 = text_encoder_3(ids.t5)[0]
    return TextEmbedding(torch.cat(parts, dim=-1), torch.cat(pooled, dim=-1), t5)


def join_condition(
    text: TextEmbedding,
    *,
    width: int,
    null_tokens: float,
    climate: tuple[Tensor, Tensor] | None = None,
    has_tokens: Tensor | None = None,
) -> Condition:
    """Text embeddings and climate tokens as one condition.

    Args:
        text: Embeddings of the prompts.
        width: ``joint_attention_dim``; CLIP's embeddings are filled up to it with zeros.
        null_tokens: How many zero tokens stand for an absent T5; one token with a bias does it.
        climate: Tokens ``(B, T, width)`` and pooled contribution of the climate encoder.
        has_tokens: bool ``(B,)``: whose climate tokens are there; all by default.
    """
    clip = F.pad(text.clip, (0, width - text.clip.shape[-1]))
    long = text.t5
    if long is None:
        long = clip.new_zeros(len(clip), 1 if null_tokens else 0, width)
        long_bias = clip.new_full(long.shape[:2], repeat_bias(null_tokens or 1))
    else:
        long_bias = clip.new_zeros(long.shape[:2])
    context = torch.cat([clip, long.to(clip.dtype)], dim=1)
    bias = torch.cat([clip.new_zeros(clip.shape[:2]), long_bias], dim=1).float()
    if climate is None:
        return Condition(context, bias, text.pooled)
    tokens, pooled_climate = climate
    if has_tokens is None:
        has_tokens = torch.ones(len(tokens), dtype=torch.bool, device=tokens.device)
    token_bias = bias.new_zeros(tokens.shape[:2]).masked_fill(~has_tokens[:, None], ABSENT)
    return Condition(
        torch.cat([context, tokens], dim=1),
        torch.cat([bias, token_bias], dim=1),
        text.pooled + pooled_climate * has_tokens[:, None],
    )


def _ids(tokenizer: Any, texts: list[str], length: int) -> Tensor:
    """Ids of one tokenizer, ``(B, length)``."""
    ids: Tensor = tokenizer(
        texts, padding="max_length", max_length=length, truncation=True, return_tensors="pt"
    ).input_ids
    return ids
