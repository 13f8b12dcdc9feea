"""Networks and tokenizers are told apart by what decides their answers, and by nothing else."""

import pytest
import torch
from transformers import CLIPTextConfig, CLIPTextModelWithProjection

from ecomap.autoencoder import load_vae
from ecomap.network_identity import network_digest, tokenizer_digest
from ecomap.tokenizer import build_clip_tokenizer
from tests.fakes import write_vae


@pytest.fixture(scope="module")
def vae_folder(tmp_path_factory):
    return write_vae(tmp_path_factory.mktemp("vae"))


def test_a_network_read_twice_is_the_same(vae_folder) -> None:
    vae = load_vae(vae_folder)
    assert network_digest(load_vae(vae_folder)) == network_digest(vae)
    assert network_digest(vae.to(memory_format=torch.channels_last)) == network_digest(vae)


def test_a_changed_weight_setting_or_type_is_another_network(vae_folder) -> None:
    digests = {network_digest(load_vae(vae_folder))}
    changed = load_vae(vae_folder)
    next(iter(changed.parameters())).data.view(-1)[-1] += 1e-6
    digests.add(network_digest(changed))
    scaled = load_vae(vae_folder)
    scaled.register_to_config(scaling_factor=1.25)
    digests.add(network_digest(scaled))
    digests.add(network_digest(load_vae(vae_folder).to(torch.bfloat16)))
    assert len(digests) == 4


def test_settings_of_transformers_count_and_where_it_was_read_does_not(tmp_path) -> None:
    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_attention_heads": 2, "vocab_size": 9}
    torch.manual_seed(0)
    encoder = CLIPTextModelWithProjection(CLIPTextConfig(**sizes, num_hidden_layers=1))
    encoder.save_pretrained(tmp_path)
    again = CLIPTextModelWithProjection.from_pretrained(tmp_path, local_files_only=True)
    assert network_digest(again) == network_digest(encoder)
    again.config.eos_token_id = 5
    assert network_digest(again) != network_digest(encoder)


def test_tokenizers_are_told_apart_by_rules_and_length_not_by_their_last_call() -> None:
    tokenizer = build_clip_tokenizer(model_max_length=40)
    digest = tokenizer_digest(tokenizer)
    tokenizer(["a satellite image"], padding="max_length", max_length=9, truncation=True)
    assert (
        tokenizer_digest(tokenizer)
        == digest
        == tokenizer_digest(build_clip_tokenizer(model_max_length=40))
    )
    assert tokenizer_digest(build_clip_tokenizer(model_max_length=41)) != digest
    tokenizer.add_tokens(["moonscape"])
    assert tokenizer_digest(tokenizer) != digest
