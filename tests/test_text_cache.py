"""Embeddings of prompts come back as the encoders gave them, without the encoders."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import T5Config, T5EncoderModel, T5TokenizerFast

from ecomap import text_cache
from ecomap.card import BundleCard
from ecomap.conditions import EMPTY_PROMPT, TextEmbedding, embed_text, tokenize
from ecomap.errors import BundleError, DataError
from ecomap.model import Bundle, load_bundle
from ecomap.prompt import MASKS, Prompt, draw_prompt
from ecomap.text_cache import kept_text, variant_prompts
from tests.fakes import make_tile, write_random_bundle

MASK = MASKS["ecomap"]
RECORDS = [
    make_tile(location_id=str(i), temperature_c=1.5 * i, country="Niger", state="Agadez")
    for i in range(6)
]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory) -> Bundle:
    card = BundleCard(
        name="made", version="1", image_size_px=16, ground_sampling_distance_m=10.0, grid="utm",
        doors=("text", "tokens"), imagery="made", limits="none", license="none",
    )  # fmt: skip
    return load_bundle(write_random_bundle(tmp_path_factory.mktemp("bundle"), card), device="cpu")


@pytest.fixture(scope="module")
def t5_bundle(bundle: Bundle) -> Bundle:
    """The same with a T5 of its own, whose dropout would show."""
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -1.0)]
    pieces += [
        (letter, -2.0) for letter in "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ.0"
    ]
    tokenizer = T5TokenizerFast(vocab=pieces, extra_ids=0, model_max_length=64)
    torch.manual_seed(5)
    sizes = {"d_model": 40, "d_kv": 8, "d_ff": 16, "num_layers": 1, "num_heads": 2}
    encoder = T5EncoderModel(T5Config(vocab_size=len(tokenizer), dropout_rate=0.5, **sizes))
    return replace(bundle, tokenizer_3=tokenizer, text_encoder_3=encoder.requires_grad_(False))


@torch.no_grad()
def direct(bundle: Bundle, prompt: Prompt, t5_tokens: int) -> TextEmbedding:
    """Embeddings of one prompt, with nothing kept."""
    t5 = bundle.text_encoder_3
    if t5 is not None:
        t5.eval()
    ids = tokenize([prompt], bundle.tokenizers, bundle.tokenizer_3, t5_tokens=t5_tokens)
    return embed_text(ids, bundle.text_encoders, t5)


def prompts_of(num_variants: int = 4) -> list[Prompt]:
    return [
        prompt
        for i, record in enumerate(RECORDS)
        for prompt in variant_prompts(record, MASK, 7, i, num_variants)
    ]


def assert_own(found: TextEmbedding, bundle: Bundle, prompts, t5_tokens: int) -> None:
    for row, prompt in enumerate(prompts):
        expected = direct(bundle, prompt, t5_tokens)
        for name in ("clip", "pooled", "t5"):
            one, other = getattr(found, name), getattr(expected, name)
            assert (one is None) == (other is None)
            if one is not None:
                assert one.dtype == torch.float32
                torch.testing.assert_close(one[row], other[0], atol=1e-4, rtol=2.0**-10)


def count_encoded(monkeypatch) -> list[Prompt]:
    encoded: list[Prompt] = []

    def counted(prompts, *rest, **options):
        encoded.extend(prompts)
        return tokenize(prompts, *rest, **options)

    monkeypatch.setattr(text_cache, "tokenize", counted)
    return encoded


@pytest.mark.parametrize("kind", ["bundle", "t5_bundle"])
def test_a_prompt_gets_its_own_embedding_in_any_order(request, tmp_path, kind: str) -> None:
    chosen = request.getfixturevalue(kind)
    prompts = [*prompts_of(), EMPTY_PROMPT]
    table = kept_text(chosen, prompts, tmp_path, t5_tokens=24, batch_size=5)
    for seed in range(2):
        order = np.random.default_rng(seed).integers(0, len(prompts), 9)
        batch = [prompts[i] for i in order]
        assert_own(table.read(batch), chosen, batch, 24)
    found = table.read(prompts)
    assert len({row.numpy().tobytes() for row in found.clip}) == len({p.short for p in prompts})


def test_each_text_is_encoded_once_and_found_again(bundle, tmp_path, monkeypatch) -> None:
    encoded = count_encoded(monkeypatch)
    prompts = prompts_of()
    kept_text(bundle, iter(prompts * 3), tmp_path, t5_tokens=None)
    assert sorted(encoded) == sorted(set(prompts))
    encoded.clear()
    more = variant_prompts(RECORDS[0], MASK, 8, 0, 3)
    table = kept_text(bundle, [*prompts[::-1], *more], tmp_path, t5_tokens=None)
    assert sorted(encoded) == sorted(set(more) - set(prompts))
    assert_own(table.read(more), bundle, more, 1)


def test_the_table_needs_no_encoder(bundle, tmp_path, monkeypatch) -> None:
    table = kept_text(bundle, prompts_of(), tmp_path, t5_tokens=None)

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("an encoder ran")

    monkeypatch.setattr(type(bundle.text_encoders[0]), "forward", refuse)
    assert len(table.read(prompts_of()).clip) == 24
    with pytest.raises(DataError, match=r"No embedding of 'the moon' is kept in .* name it there"):
        table.read([*prompts_of()[:2], Prompt("the moon", "the moon")])


def test_other_weights_or_lengths_have_their_own_rows(t5_bundle, tmp_path, monkeypatch) -> None:
    prompts = prompts_of(1)
    kept_text(t5_bundle, prompts, tmp_path, t5_tokens=24)
    encoded = count_encoded(monkeypatch)
    for tokens, use_t5 in ((16, True), (None, False)):
        table = kept_text(t5_bundle, prompts, tmp_path, t5_tokens=tokens, use_t5=use_t5)
        found = table.read(prompts)
        assert (found.t5.shape[1] if found.t5 is not None else None) == tokens
        assert len(encoded) == len(set(prompts))
        encoded.clear()
    weight = next(iter(t5_bundle.text_encoders[1].parameters()))
    weight.data.view(-1)[0] += 1
    table = kept_text(t5_bundle, prompts, tmp_path, t5_tokens=24)
    assert_own(table.read(prompts), t5_bundle, prompts, 24)
    weight.data.view(-1)[0] -= 1
    assert len(encoded) == len(set(prompts))


def test_the_long_text_counts_only_where_it_is_read(bundle, t5_bundle, tmp_path) -> None:
    one, other = Prompt("short", "long"), Prompt("short", "longer")
    table = kept_text(t5_bundle, [one, other], tmp_path, t5_tokens=24)
    found = table.read([one, other])
    assert torch.equal(found.clip[0], found.clip[1])
    assert not torch.equal(found.t5[0], found.t5[1])
    assert kept_text(bundle, [one], tmp_path, t5_tokens=None).read([other]).t5 is None


def test_dropout_is_off_while_texts_are_encoded_and_back_on_after(t5_bundle, tmp_path) -> None:
    prompts = prompts_of(1)
    t5_bundle.text_encoder_3.train()
    table = kept_text(t5_bundle, prompts, tmp_path, t5_tokens=24)
    assert t5_bundle.text_encoder_3.training
    assert not t5_bundle.text_encoders[0].training
    assert_own(table.read(prompts), t5_bundle, prompts, 24)


@pytest.mark.parametrize("value", [float("nan"), 1e6])
def test_embeddings_that_are_not_finite_name_the_prompt(bundle, tmp_path, value: float) -> None:
    weight = bundle.text_encoders[0].text_projection.weight
    before = weight[0].clone()
    weight[0] = value
    with pytest.raises(
        BundleError, match=r"'made' give values for 'a satellite image.*too large for"
    ):
        kept_text(bundle, prompts_of(1), tmp_path, t5_tokens=None)
    weight[0] = before
    assert list(tmp_path.rglob("*.npy")) == []


def test_variants_are_the_prompts_of_the_first_epochs() -> None:
    prompts = variant_prompts(RECORDS[2], MASK, 7, 2, 5)
    assert prompts == [
        draw_prompt(RECORDS[2], MASK, seed=7, sample_index=2, epoch=epoch) for epoch in range(5)
    ]
    assert len(set(prompts)) > 1
