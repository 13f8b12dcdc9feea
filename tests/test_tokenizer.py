import hashlib
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import (
    AutoencoderKL,
    FlowMatchEulerDiscreteScheduler,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import CLIPTextConfig, CLIPTextModelWithProjection, CLIPTokenizer

from ecomap.prompt import WORD_SCALES, PromptChoice, write_prompt
from ecomap.schema import LandCover, TileRecord
from ecomap.tokenizer import (
    SHORT_PROMPT_TOKENS,
    UNIT_TOKENS,
    _learn_merges,
    build_clip_tokenizer,
    grammar_texts,
)

SHORT = (
    "a satellite image of Grasslands in Kansas, United States on July 2004. "
    "21.4 C, 2.51 mm/day, 20.1 MJ/m2/day."
)


LONGER = build_clip_tokenizer(model_max_length=512)
"""Does not warn of long texts."""


@pytest.fixture(scope="module")
def tokenizer() -> CLIPTokenizer:
    return build_clip_tokenizer()


def pieces(tokenizer: CLIPTokenizer, text: str) -> list[str]:
    """Tokens of a text without start and end, as text."""
    ids = tokenizer(text).input_ids
    assert ids[0] == tokenizer.bos_token_id
    assert ids[-1] == tokenizer.eos_token_id
    return [token.removesuffix("</w>") for token in tokenizer.convert_ids_to_tokens(ids[1:-1])]


def test_a_short_prompt_has_a_token_for_each_grammar_word_digit_and_unit(tokenizer):
    assert pieces(tokenizer, SHORT.replace("Kansas", "Western Cape")) == [
        *("a", "satellite", "image", "of", "grasslands"),
        *("in", "western", "cape", ",", "united", "states"),
        *("on", "july", "2", "0", "0", "4", "."),
        *("2", "1", ".", "4", "c", ","),
        *("2", ".", "5", "1", "mm/day", ","),
        *("2", "0", ".", "1", "mj/m2/day", "."),
    ]


def test_every_grammar_word_is_one_token(tokenizer):
    text = " ".join(grammar_texts())
    words = "".join(c if c.isalpha() else " " for c in text).lower().split()
    assert len(words) > 100
    assert {word: pieces(tokenizer, word) for word in words} == {word: [word] for word in words}


def test_no_token_but_a_unit_holds_a_digit_beside_anything_else(tokenizer):
    with_digits = {
        token.removesuffix("</w>")
        for token in tokenizer.get_vocab()
        if any(character.isdigit() and character.isascii() for character in token)
    }
    assert with_digits == {*"0123456789", "mj/m2/day"}


def test_the_vocabulary_is_small_and_ends_with_units_start_and_end(tokenizer):
    vocabulary = tokenizer.get_vocab()
    assert sorted(vocabulary.values()) == list(range(len(tokenizer)))
    assert 1000 <= len(tokenizer) <= 2000
    last = sorted(vocabulary, key=vocabulary.__getitem__)[-4:]
    assert last == [*UNIT_TOKENS, "<|startoftext|>", "<|endoftext|>"]
    assert tokenizer.eos_token_id == tokenizer.pad_token_id == len(tokenizer) - 1
    assert tokenizer.bos_token_id == len(tokenizer) - 2


@settings(deadline=None)
@given(text=st.text(st.characters(codec="utf-8", exclude_characters="<|>")))
def test_any_text_is_encoded_without_unknown_tokens(text):
    ids = LONGER(text).input_ids
    assert LONGER.unk_token_id not in ids[1:-1]
    written = LONGER.backend_tokenizer.normalizer.normalize_str(text)
    decoded = LONGER.decode(ids, skip_special_tokens=True)
    assert "".join(decoded.split()) == "".join(written.split())


def test_nothing_is_start_and_end(tokenizer):
    assert tokenizer("").input_ids == [tokenizer.bos_token_id, tokenizer.eos_token_id]


def files(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


def test_two_builds_are_byte_identical_in_any_process(tmp_path):
    code = "from ecomap.tokenizer import build_clip_tokenizer as b; b().save_pretrained({!r})"
    here, there = tmp_path / "here", tmp_path / "there"
    build_clip_tokenizer().save_pretrained(here)
    root = Path(__file__).parents[1]
    subprocess.run([sys.executable, "-c", code.format(str(there))], check=True, cwd=root)
    assert set(files(here)) == {"tokenizer.json", "tokenizer_config.json"}
    assert files(here) == files(there)
    _learn_merges.cache_clear()
    build_clip_tokenizer().save_pretrained(there)
    assert files(here) == files(there)


def test_a_saved_tokenizer_loads_as_it_was(tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path)
    loaded = CLIPTokenizer.from_pretrained(tmp_path, local_files_only=True)
    assert loaded.backend_tokenizer.to_str() == tokenizer.backend_tokenizer.to_str()
    assert loaded.model_max_length == SHORT_PROMPT_TOKENS == 56
    assert loaded.special_tokens_map == tokenizer.special_tokens_map
    texts = [SHORT, "", "Łódź 12.50 °C <|endoftext|> 日本", "x" * 300]
    options = {"padding": "max_length", "max_length": 56, "truncation": True}
    assert loaded(texts, **options).input_ids == tokenizer(texts, **options).input_ids


def test_a_length_of_ones_own_is_kept():
    assert build_clip_tokenizer(model_max_length=40).model_max_length == 40
    assert build_clip_tokenizer().model_max_length == 56


def make_record(**fields: Any) -> TileRecord:
    """A record whose short prompt is as long as can be, but for its place."""
    known: dict[str, Any] = {
        "source": "made_up",
        "location_id": "7",
        "month": "2004-09",
        "lat": 0,
        "lon": 0,
        "ground_sampling_distance_m": 10,
        "width_px": 96,
        "height_px": 64,
        "license": "made up",
        "land_cover": LandCover.CROPLAND_NATURAL_VEGETATION_MOSAICS,
        "cloud_frac": 0.9,
        "temperature_c": -75.0,
        "precipitation_mm_day": 120.0,
        "solar_radiation_mj_m2_day": 45.0,
    }
    return TileRecord(**known | fields)


def lengths(*records: TileRecord, words: bool = False) -> list[int]:
    """Tokens of short prompts that tell all."""
    texts = [write_prompt(record, PromptChoice(words=words)).short for record in records]
    return [len(ids) for ids in LONGER(texts).input_ids]


PLACES = [
    *(("British Columbia", "Canada"), ("Chernivtsi Oblast", "Ukraine"), ("Salta", "Argentina")),
    *(("Tamanrasset", "Algeria"), ("Tshuapa", "Democratic Republic of the Congo")),
    *(("Krasnoyarsk Krai", "Russia"), ("Kansas", "United States"), ("Mato Grosso", "Brazil")),
    *(("Lower Saxony", "Germany"), ("Castile and León", "Spain"), ("Uttar Pradesh", "India")),
    *(("Provence-Alpes-Côte d'Azur", "France"), ("Newfoundland and Labrador", "Canada")),
    *(("Khabarovsk Krai", "Russia"), ("Antofagasta Region", "Chile"), ("Xinjiang", "China")),
    *(("Tillabéri Region", "Niger"), ("Vakaga", "Central African Republic")),
    *(("Northwest Territories", "Canada"), ("North Kalimantan", "Indonesia")),
    *((None, "South Georgia and South Sandwich"), (None, "Heard Island and McDonald")),
]


def test_the_default_length_is_the_least_that_holds_every_full_short_prompt():
    records = [make_record(state=state, country=country) for state, country in PLACES]
    assert SHORT_PROMPT_TOKENS == 56
    assert 48 < max(lengths(*records)) <= 56


def test_a_short_prompt_without_a_place_has_at_most_41_tokens():
    covers = [make_record(land_cover=cover) for cover in LandCover]
    assert max(lengths(*covers)) == 41
    # Words of most tokens: Severely Cold, Moderately Heavy, Somewhat High.
    wordy = {"temperature_c": -25.0, "precipitation_mm_day": 25.0, "solar_radiation_mj_m2_day": 17}
    in_words = [make_record(land_cover=cover, **wordy) for cover in LandCover]
    assert max(lengths(*in_words, words=True)) < 41


@settings(deadline=None)
@given(
    country=st.text(st.characters(codec="ascii"), max_size=40), state=st.text("qxz-'.", max_size=9)
)
def test_no_name_in_latin_letters_pushes_climate_beyond_what_clip_reads(country, state):
    assert max(lengths(make_record(state=state, country=country))) <= 77


def test_words_of_all_scales_are_told_apart(tokenizer):
    for scale in WORD_SCALES.values():
        ids = {tuple(tokenizer(word).input_ids) for word in scale.words}
        assert len(ids) == len(scale.words)


def text_encoder(tokenizer: CLIPTokenizer, width: int, eos_token_id: int):
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=width,
        num_hidden_layers=2,
        num_attention_heads=2,
        projection_dim=width,
        max_position_embeddings=SHORT_PROMPT_TOKENS,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    torch.manual_seed(width)
    return CLIPTextModelWithProjection(config).eval()


@pytest.mark.parametrize("eos_token_id", ["own", 2])
def test_a_text_encoder_pools_at_the_end_of_the_text(tokenizer, eos_token_id):
    own = tokenizer.eos_token_id if eos_token_id == "own" else eos_token_id
    encoder = text_encoder(tokenizer, 16, own)
    ids = tokenizer(SHORT, padding="max_length", truncation=True, return_tensors="pt").input_ids
    end = ids[0].tolist().index(tokenizer.eos_token_id)
    assert 0 < end < SHORT_PROMPT_TOKENS - 1
    with torch.no_grad():
        out = encoder(ids)
        at_end = encoder.text_projection(out.last_hidden_state[:, end])
    torch.testing.assert_close(out.text_embeds, at_end)


def test_the_stock_pipeline_saves_loads_and_encodes_prompts_with_it(tokenizer, tmp_path):
    pipeline = StableDiffusion3Pipeline(
        transformer=SD3Transformer2DModel(
            sample_size=4,
            patch_size=2,
            in_channels=4,
            out_channels=4,
            num_layers=1,
            attention_head_dim=4,
            num_attention_heads=2,
            caption_projection_dim=8,
            joint_attention_dim=40,
            pooled_projection_dim=40,
            pos_embed_max_size=4,
        ),
        scheduler=FlowMatchEulerDiscreteScheduler(),
        vae=AutoencoderKL(
            block_out_channels=(4,), latent_channels=4, norm_num_groups=1, shift_factor=0.1
        ),
        text_encoder=text_encoder(tokenizer, 16, tokenizer.eos_token_id),
        tokenizer=tokenizer,
        text_encoder_2=text_encoder(tokenizer, 24, tokenizer.eos_token_id),
        tokenizer_2=build_clip_tokenizer(),
        text_encoder_3=None,
        tokenizer_3=None,
    )
    pipeline.save_pretrained(tmp_path)
    no_t5 = {"text_encoder_3": None, "tokenizer_3": None}
    loaded = StableDiffusion3Pipeline.from_pretrained(tmp_path, local_files_only=True, **no_t5)
    assert loaded.tokenizer_max_length == 56
    prompts = {"prompt": [SHORT, SHORT + " and more" * 40], "prompt_2": None, "prompt_3": None}
    options = {"do_classifier_free_guidance": False, "max_sequence_length": 3}
    embeds, _, pooled, _ = loaded.encode_prompt(**prompts, **options)
    assert embeds.shape == (2, 56 + 3, 40)
    expected, _, expected_pooled, _ = pipeline.encode_prompt(**prompts, **options)
    torch.testing.assert_close(embeds, expected)
    torch.testing.assert_close(pooled, expected_pooled)
    ids = tokenizer(SHORT, return_tensors="pt").input_ids  # without padding
    encoders = (pipeline.text_encoder, pipeline.text_encoder_2)
    alone = torch.cat([encoder(ids).text_embeds for encoder in encoders], -1)
    torch.testing.assert_close(pooled[:1], alone)
