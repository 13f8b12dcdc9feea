"""Joint attention with a bias per key: what lets context tokens be absent or stand for many.

SD3's pipeline without a T5 encoder appends 256 zero tokens to the context. They carry no position,
so they stay identical through all blocks, and attention to n identical keys equals attention to one
of them with ``log n`` added to its logit. One token and a bias therefore give the same function at
a fraction of the cost. Where torch's fused attention takes the bias in bfloat16, log 256 is rounded
and the token stands for 252.5. A bias of minus infinity removes a token for one sample of a batch.
"""

import math

import torch
from diffusers import SD3Transformer2DModel
from diffusers.models.attention_processor import Attention
from torch import Tensor
from torch.nn import functional as F

ABSENT = float("-inf")
"""Bias of a token that a sample does not have."""


EXPLICIT_MAX_TOKENS = 512
"""Up to this length, plain matrix products beat torch's fused attention on a CPU (at 135 tokens in
bfloat16 four times, forward and backward, with torch 2.14); beyond it their memory would not."""


def repeat_bias(num_repeats: float) -> float:
    """Bias with which one token stands for ``num_repeats`` identical ones."""
    return math.log(num_repeats)


class BiasedJointAttention:
    """SD3's joint attention of image and context tokens, with a bias on the context's keys."""

    def __call__(
        self,
        attn: Attention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor,
        attention_mask: None = None,
        key_bias: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Attend over image and context tokens together.

        Args:
            attn: Projections and norms of the block.
            hidden_states: Image tokens ``(B, N, D)``.
            encoder_hidden_states: Context tokens ``(B, M, D)``.
            attention_mask: Always ``None``: SD3 has none, but diffusers passes it on.
            key_bias: Added to the logits of the context's keys, ``(B, M)``; none by default.

        Returns:
            Image tokens ``(B, N, D)`` and context tokens ``(B, M, D)``.
        """
        image = [attn.to_q(hidden_states), attn.to_k(hidden_states), attn.to_v(hidden_states)]
        context = [
            attn.add_q_proj(encoder_hidden_states),
            attn.add_k_proj(encoder_hidden_states),
            attn.add_v_proj(encoder_hidden_states),
        ]
        image = [_split_heads(tensor, attn.heads) for tensor in image]
        context = [_split_heads(tensor, attn.heads) for tensor in context]
        if attn.norm_q is not None:
            image[:2] = [attn.norm_q(image[0]), attn.norm_k(image[1])]
        if attn.norm_added_q is not None:
            context[:2] = [attn.norm_added_q(context[0]), attn.norm_added_k(context[1])]
        query, key, value = (torch.cat(pair, dim=2) for pair in zip(image, context, strict=True))
        num_image = hidden_states.shape[1]
        mask = None
        if key_bias is not None:
            mask = F.pad(key_bias, (num_image, 0))[:, None, None]
        joint = _attend(query, key, value, mask)
        joint = joint.transpose(1, 2).flatten(2).to(query.dtype)
        hidden_states, encoder_hidden_states = joint[:, :num_image], joint[:, num_image:]
        if not attn.context_pre_only:
            encoder_hidden_states = attn.to_add_out(encoder_hidden_states)
        return attn.to_out[1](attn.to_out[0](hidden_states)), encoder_hidden_states


class ImageAttention:
    """The second attention of SD3.5 medium's first blocks: image tokens among themselves.

    It is handed the bias of the context's keys as well, and has no use for it.
    """

    def __call__(
        self,
        attn: Attention,
        hidden_states: Tensor,
        encoder_hidden_states: None = None,
        attention_mask: None = None,
        key_bias: Tensor | None = None,
    ) -> Tensor:
        """Attend; image tokens ``(B, N, D)`` in and out, the rest as `BiasedJointAttention`."""
        image = [attn.to_q(hidden_states), attn.to_k(hidden_states), attn.to_v(hidden_states)]
        query, key, value = (_split_heads(tensor, attn.heads) for tensor in image)
        if attn.norm_q is not None:
            query, key = attn.norm_q(query), attn.norm_k(key)
        joint = _attend(query, key, value, None).transpose(1, 2).flatten(2).to(query.dtype)
        result: Tensor = attn.to_out[1](attn.to_out[0](joint))
        return result


def use_biased_attention(transformer: SD3Transformer2DModel) -> None:
    """Make every joint attention of a transformer accept ``key_bias``; weights stay as they are."""
    for block in transformer.transformer_blocks:
        block.attn.set_processor(BiasedJointAttention())
        if block.attn2 is not None:
            block.attn2.set_processor(ImageAttention())


def _attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
    """Scaled dot-product attention ``(B, H, T, d)``, by the faster way for the device and size."""
    if query.device.type != "cpu" or query.shape[2] > EXPLICIT_MAX_TOKENS:
        mask = None if mask is None else mask.to(query.dtype)
        return F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
    logits = (query @ key.transpose(-1, -2)).float() * query.shape[-1] ** -0.5
    if mask is not None:
        logits = logits + mask.float()
    joint: Tensor = logits.softmax(dim=-1).to(value.dtype) @ value
    return joint


def _split_heads(tensor: Tensor, heads: int) -> Tensor:
    """``(B, T, H * d)`` -> ``(B, H, T, d)``."""
    batch, length, width = tensor.shape
    return tensor.view(batch, length, heads, width // heads).transpose(1, 2)
