"""What learns: exactly what the config names, in float32, and nothing else."""

import pytest
import torch

from ecomap.card import DOORS, BundleCard
from ecomap.errors import BundleError, ConfigError
from ecomap.learn_setup import (
    make_learner,
    open_base,
    set_learning,
    whole_parameters,
    with_controlnet,
)
from ecomap.model import load_bundle
from ecomap.transformer_config import LearnConfig, TrainConfig
from tests.fakes import TINY_SIZE_PX, write_random_bundle, write_vae


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    card = BundleCard(name="small", image_size_px=TINY_SIZE_PX, doors=DOORS)
    return write_random_bundle(tmp_path_factory.mktemp("bundle"), card)


def settings(folder, **changes):
    return TrainConfig(dataset="data", base=str(folder), **changes)


def opened(folder, learn, **changes):
    config = settings(folder, learn=learn, **changes)
    bundle = open_base(config)
    if config.learn.controlnet:
        bundle = with_controlnet(bundle, config.learn.controlnet)
    set_learning(bundle, config.learn)
    return bundle, make_learner(bundle, config, "cpu")


def learning(learner):
    return {name for name, p in learner.named_parameters() if p.requires_grad}


def test_a_base_is_frozen_until_something_is_chosen(folder):
    bundle = open_base(settings(folder))
    assert not any(p.requires_grad for m in bundle.modules().values() for p in m.parameters())
    assert not any(p.requires_grad for p in bundle.vae.parameters())


def test_by_default_everything_learns_but_the_autoencoder(folder):
    bundle = open_base(settings(folder))
    set_learning(bundle, None)
    assert all(p.requires_grad for m in bundle.modules().values() for p in m.parameters())
    assert not any(p.requires_grad for p in bundle.vae.parameters())


def test_a_lora_learns_beside_named_layers_and_the_base_stays(folder):
    before = load_bundle(folder, device="cpu").transformer.state_dict()
    bundle, learner = opened(
        folder, {"lora": {"rank": 2, "targets": ["image", "text"]}, "layers": ["norm_out"]}
    )
    names = learning(learner)
    assert all("lora_" in name or ".norm_out." in name for name in names)
    assert any("add_k_proj" in name for name in names)
    assert any("to_out.0" in name for name in names)
    assert not any(name.startswith("text_encoder") for name in names)
    assert set(whole_parameters(bundle.transformer)) == {
        "norm_out.linear.weight",
        "norm_out.linear.bias",
    }
    after = {
        name.replace(".base_layer", ""): value
        for name, value in bundle.transformer.state_dict().items()
        if "lora_" not in name
    }
    assert before.keys() == after.keys()
    assert all(torch.equal(value, after[name]) for name, value in before.items())


def test_the_last_blocks_learn_and_no_others(folder):
    _, learner = opened(folder, {"last_blocks": 1, "layers": ["proj_out"]})
    names = learning(learner)
    assert {name.split(".")[1] for name in names} == {"transformer_blocks", "proj_out"}
    assert {name.split(".")[2] for name in names if "blocks" in name} == {"1"}


def test_the_climate_encoder_may_learn_alone(folder):
    _, learner = opened(folder, {"climate_encoder": True})
    assert {name.split(".")[0] for name in learning(learner)} == {"climate_encoder"}


def test_a_base_without_a_climate_encoder_gets_one_that_at_first_leaves_the_pooled_embedding(
    folder, tmp_path
):
    import shutil

    plain = tmp_path / "plain"
    shutil.copytree(folder, plain)
    shutil.rmtree(plain / "climate_encoder")
    bundle, _ = opened(plain, {"climate_encoder": True})
    assert not bundle.climate_encoder.pooled_out.weight.any()
    assert opened(plain, {"text_encoders": True})[0].climate_encoder is None


def test_what_learns_is_float32_and_what_is_frozen_may_be_bfloat16(folder):
    _, learner = opened(folder, {"lora": {"rank": 2}, "climate_encoder": True}, base_bf16=True)
    kinds = {(p.requires_grad, p.dtype) for p in learner.parameters()}
    assert kinds == {(True, torch.float32), (False, torch.bfloat16)}


def test_a_controlnet_learns_beside_a_frozen_base(folder):
    bundle, learner = opened(
        folder, {"controlnet": {"num_layers": 1, "channels": ["reference_valid"]}}
    )
    assert {name.split(".")[0] for name in learning(learner)} == {"controlnet"}
    assert bundle.control.num_extra == 1


def test_a_control_lora_trains_whole_what_starts_at_zero(folder):
    _, learner = opened(folder, {"controlnet": {"num_layers": 1, "lora": {"rank": 2}}})
    names = learning(learner)
    assert any("lora_" in name for name in names)
    whole = {name.split(".")[1] for name in names if "lora_" not in name}
    assert whole == {"controlnet_blocks", "pos_embed_input"}


def test_parts_outside_base_parts_start_untrained(folder):
    base = load_bundle(folder, device="cpu")
    bundle = open_base(settings(folder, base_parts=["transformer", "text_encoder"]))
    assert torch.equal(bundle.transformer.proj_out.weight, base.transformer.proj_out.weight)
    encoder = bundle.climate_encoder
    assert not torch.equal(encoder.month_in.weight, base.climate_encoder.month_in.weight)
    first = lambda e: next(e.parameters())  # noqa: E731
    assert torch.equal(first(bundle.text_encoders[0]), first(base.text_encoders[0]))
    assert not torch.equal(first(bundle.text_encoders[1]), first(base.text_encoders[1]))


def test_an_untrained_transformer_of_a_base_starts_at_zero_output(folder):
    bundle = open_base(settings(folder, base_parts=["text_encoder"]))
    assert not bundle.transformer.proj_out.weight.any()


@pytest.mark.parametrize(
    ("learn", "message"),
    [
        ({"layers": ["norm_in"]}, "norm_in"),
        ({"last_blocks": 3}, "has 2 blocks"),
        ({"controlnet": {"num_layers": 2}}, "2 blocks"),
    ],
)
def test_what_is_not_there_is_refused(folder, learn, message):
    with pytest.raises(ConfigError, match=message):
        opened(folder, learn)


def test_an_unknown_part_or_base_is_refused(folder, tmp_path):
    with pytest.raises(ConfigError, match="base_parts names 'vae'"):
        open_base(settings(folder, base_parts=["vae"]))
    with pytest.raises(BundleError, match="ecomap-tiny"):
        open_base(settings(tmp_path / "nowhere"))


def test_from_scratch_a_bundle_of_the_stated_sizes_is_made(tmp_path):
    config = TrainConfig(
        dataset="data", vae=write_vae(tmp_path / "vae"), transformer={"num_layers": 3}
    )
    bundle = open_base(config, BundleCard(name="new", image_size_px=TINY_SIZE_PX))
    assert len(bundle.transformer.transformer_blocks) == 3
    assert bundle.card.name == "new"


@pytest.mark.parametrize(
    ("learn", "message"),
    [
        ({}, "nothing would learn"),
        ({"lora": {}, "layers": ["all"]}, "choose one"),
        ({"lora": {}, "controlnet": {}}, "frozen base"),
        ({"lora": {"targets": []}}, "at least one"),
    ],
)
def test_contradictions_are_refused(learn, message):
    with pytest.raises(ValueError, match=message):
        LearnConfig(**learn)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"learn": {"climate_encoder": True}}, "set base"),
        ({}, "vae is missing"),
        ({"base": "a", "text_variants": 2}, "text_variants"),
        ({"base": "a", "crop_px": 100}, "multiple of 16"),
        ({"base": "a", "base_bf16": True, "bf16": False}, "autocast"),
        ({"base": "a", "config_version": 99}, "newer ecomap"),
    ],
)
def test_settings_that_do_not_fit_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        TrainConfig(dataset="data", **changes)
