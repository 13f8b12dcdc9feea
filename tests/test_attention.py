"""Biased joint attention is diffusers' own, and its biases mean what they say."""

import math

import pytest
import torch
from diffusers import SD3Transformer2DModel

from ecomap import attention
from ecomap.attention import ABSENT, repeat_bias, use_biased_attention


@pytest.fixture
def transformer():
    torch.manual_seed(0)
    return SD3Transformer2DModel(
        sample_size=8, patch_size=2, in_channels=4, out_channels=4, num_layers=2,
        attention_head_dim=8, num_attention_heads=3, joint_attention_dim=12,
        caption_projection_dim=24, pooled_projection_dim=10, pos_embed_max_size=8,
        qk_norm="rms_norm",
    ).eval()  # fmt: skip


def run(transformer, context, key_bias=None):
    torch.manual_seed(1)
    batch = len(context)
    arguments = {} if key_bias is None else {"key_bias": key_bias}
    with torch.no_grad():
        return transformer(
            hidden_states=torch.randn(1, 4, 8, 6).expand(batch, -1, -1, -1),
            timestep=torch.full((batch,), 500.0),
            encoder_hidden_states=context,
            pooled_projections=torch.randn(1, 10).expand(batch, -1),
            joint_attention_kwargs=arguments,
        ).sample


def context_of(tokens, batch=1):
    generator = torch.Generator().manual_seed(2)
    return torch.randn(batch, tokens, 12, generator=generator)


@pytest.mark.parametrize("limit", [512, 0])
def test_without_bias_the_output_is_that_of_the_stock_processor(transformer, limit, monkeypatch):
    monkeypatch.setattr(attention, "EXPLICIT_MAX_TOKENS", limit)
    context = context_of(5)
    stock = run(transformer, context)
    use_biased_attention(transformer)
    torch.testing.assert_close(run(transformer, context), stock)


@pytest.mark.parametrize("limit", [512, 0])
def test_one_zero_token_with_a_bias_stands_for_256(transformer, limit, monkeypatch):
    monkeypatch.setattr(attention, "EXPLICIT_MAX_TOKENS", limit)
    context = context_of(5)
    full = run(transformer, torch.cat([context, torch.zeros(1, 256, 12)], dim=1))
    use_biased_attention(transformer)
    bias = torch.tensor([[0.0] * 5 + [repeat_bias(256)]])
    one = run(transformer, torch.cat([context, torch.zeros(1, 1, 12)], dim=1), bias)
    torch.testing.assert_close(one, full, rtol=1e-5, atol=1e-6)
    unweighted = run(transformer, torch.cat([context, torch.zeros(1, 1, 12)], dim=1))
    assert (unweighted - full).abs().max() > 1e-4


def test_an_absent_token_changes_nothing_for_its_sample_only(transformer):
    use_biased_attention(transformer)
    context = context_of(6, batch=2)
    bias = torch.zeros(2, 6)
    bias[1, 4:] = ABSENT
    both = run(transformer, context, bias)
    torch.testing.assert_close(both[1:], run(transformer, context[1:, :4]))
    torch.testing.assert_close(both[:1], run(transformer, context[:1]))


def test_repeat_bias_is_the_logarithm():
    assert repeat_bias(1) == 0.0
    assert repeat_bias(256) == pytest.approx(8 * math.log(2))


def test_the_second_attention_of_a_dual_block_takes_the_bias_and_pays_no_heed_to_it():
    torch.manual_seed(0)
    dual = SD3Transformer2DModel(
        sample_size=8, patch_size=2, in_channels=4, out_channels=4, num_layers=2,
        attention_head_dim=8, num_attention_heads=3, joint_attention_dim=12,
        caption_projection_dim=24, pooled_projection_dim=10, pos_embed_max_size=8,
        qk_norm="rms_norm", dual_attention_layers=(0,),
    ).eval()  # fmt: skip
    context = context_of(5)
    stock = run(dual, context)
    use_biased_attention(dual)
    torch.testing.assert_close(run(dual, context, torch.zeros(1, 5)), stock)
    changed = run(dual, context, torch.tensor([[3.0, 0, 0, 0, 0]]))
    assert (changed - stock).abs().max() > 1e-5
