"""Conditions: texts and climate tokens joined, and what is absent."""

import math

import torch

from ecomap.conditions import TextEmbedding, join_condition


def embedding(t5=None):
    generator = torch.Generator().manual_seed(0)
    return TextEmbedding(
        torch.randn(2, 77, 6, generator=generator), torch.randn(2, 5, generator=generator), t5
    )


def test_clip_is_filled_with_zeros_and_one_weighted_zero_token_stands_for_t5():
    text = embedding()
    condition = join_condition(text, width=10, null_tokens=256)
    assert condition.context.shape == (2, 78, 10)
    assert torch.equal(condition.context[:, :77, :6], text.clip)
    assert not condition.context[:, :, 6:].any()
    assert not condition.context[:, 77].any()
    assert not condition.key_bias[:, :77].any()
    assert torch.allclose(condition.key_bias[:, 77], torch.tensor(math.log(256)))
    assert torch.equal(condition.pooled, text.pooled)


def test_without_null_tokens_nothing_stands_for_t5():
    assert join_condition(embedding(), width=10, null_tokens=0).context.shape == (2, 77, 10)


def test_t5_follows_clip_unweighted():
    t5 = torch.ones(2, 4, 10)
    condition = join_condition(embedding(t5), width=10, null_tokens=256)
    assert torch.equal(condition.context[:, 77:], t5)
    assert not condition.key_bias.any()


def test_absent_climate_tokens_are_masked_and_leave_the_pooled_embedding():
    text, tokens = embedding(), torch.ones(2, 3, 10)
    condition = join_condition(
        text, width=10, null_tokens=1, climate=(tokens, torch.full((2, 5), 7.0)),
        has_tokens=torch.tensor([True, False]),
    )  # fmt: skip
    assert torch.equal(condition.context[:, 78:], tokens)
    assert not condition.key_bias[0].any()
    assert torch.equal(condition.key_bias[1, 78:], torch.full((3,), -math.inf))
    assert torch.equal(condition.pooled, text.pooled + torch.tensor([[7.0], [0.0]]))
