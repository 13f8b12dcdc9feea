from dataclasses import replace
from functools import partial
from io import StringIO
from pathlib import Path

import pytest
import torch
from rich.console import Console
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from ecomap.card import BundleCard
from ecomap.errors import BundleError, ConfigError, DataError
from ecomap.learn_setup import make_learner, open_base, set_learning
from ecomap.meta_bundle import META, known_sizes, meta_bundle, meta_learner
from ecomap.schema import read_dataset, write_dataset
from ecomap.step_cost import FLOPS_OF_ATTENTION_ON_CPU, _blank_batch, _Meter, measure_step
from ecomap.train import train_settings
from ecomap.train_config import OptimConfig
from ecomap.train_estimate import batch_sizes, estimate, optimizer_bytes
from ecomap.transformer_config import ControlNetConfig, LearnConfig, LoraConfig, TrainConfig
from tests.fakes import write_random_bundle, write_tiles

CONFIGS = Path(__file__).parents[1] / "configs"
SD3 = "stabilityai/stable-diffusion-3-medium-diffusers"


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    card = BundleCard(name="made", image_size_px=16, t5_null_tokens=5)
    return write_random_bundle(tmp_path_factory.mktemp("bundle"), card)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return write_tiles(tmp_path_factory.mktemp("tiles"))


def make_config(dataset=Path("none"), base=SD3, **changes):
    values = {
        "dataset": dataset, "base": str(base), "text_variants": 2, "batch_size": 4,
        "learn": LearnConfig(lora=LoraConfig(rank=4)),
    }  # fmt: skip
    return TrainConfig(**(values | changes))


def num_parameters(module, *, learning=False):
    return sum(p.numel() for p in module.parameters() if p.requires_grad or not learning)


# -- sizes of the published models


@pytest.mark.parametrize(
    ("model", "billions"),
    [
        (SD3, 2.028),
        ("stabilityai/stable-diffusion-3.5-medium", 2.243),
        ("stabilityai/stable-diffusion-3.5-large", 8.057),
    ],
)
def test_published_models_have_their_published_sizes_and_no_weights(model, billions):
    found = meta_bundle(make_config(base=model, learn=LearnConfig(layers=("proj_out",))))
    assert num_parameters(found.transformer) / 1e9 == pytest.approx(billions, abs=0.001)
    assert num_parameters(found.text_encoders[0]) == 123_650_304
    assert num_parameters(found.text_encoders[1]) == 694_659_840
    assert num_parameters(found.text_encoder_3) == 4_762_310_656
    assert num_parameters(found.vae) == 83_819_683
    networks = [*found.modules().values(), found.vae, found.text_encoder_3]
    assert all(p.is_meta for network in networks for p in network.parameters())


@pytest.mark.parametrize(
    ("learn", "count"),
    [
        (LearnConfig(lora=LoraConfig(rank=16)), 4_718_592),
        (LearnConfig(lora=LoraConfig(rank=64)), 18_874_368),
        (LearnConfig(lora=LoraConfig(rank=64), layers=("norm_out", "proj_out")), 23_694_400),
        (LearnConfig(last_blocks=16), 1_329_005_568),
    ],
)
def test_what_learns_of_sd3_medium_has_the_known_size(learn, count):
    assert num_parameters(meta_bundle(make_config(learn=learn)).transformer, learning=True) == count


def test_controlnet_of_sd3_medium_has_the_known_size():
    learn = LearnConfig(controlnet=ControlNetConfig(num_layers=12, channels=("months_gap",)))
    found = meta_bundle(make_config(learn=learn))
    assert num_parameters(found.controlnet) / 1e9 == pytest.approx(1.063, abs=0.001)
    assert found.controlnet.pos_embed_input.proj.in_channels == 17
    assert all(p.is_meta for p in found.controlnet.parameters())
    assert num_parameters(found.transformer, learning=True) == 0


def test_edit_controlnet_of_sd3_medium_fits_together():
    changes = ["learn.climate_encoder=true", "base_bf16=false"]
    _, config = train_settings(CONFIGS / "sd3_evolve.yaml", changes)
    found = meta_bundle(config)
    learner = meta_learner(found, config)
    with META, torch.no_grad():
        batch = _blank_batch(batch_sizes(config, found, (16, 64, 64), 2))
        condition = learner.condition(batch)
        velocity = learner.velocity(batch.clean, batch.sigma, condition, batch.control)
    assert velocity.shape == (2, 16, 64, 64)
    assert condition.context.shape == (2, 77 + 1 + 13 + 1, 4096)  # texts, no T5, months, place
    assert batch.control.shape == (2, 16 + 13, 64, 64)
    assert len(found.controlnet.transformer_blocks) == 12
    assert found.edit_head.proj_out.weight.shape == (2 * 2 * (1 + 16), 1536)
    assert found.edit_head.config.valid_channel == 16
    assert num_parameters(found.transformer, learning=True) == 0
    assert num_parameters(learner, learning=True) / 1e9 == pytest.approx(1.046, abs=0.001)


def test_climate_encoder_is_added_to_a_base_without_one_and_t5_left_out_where_unused():
    found = meta_bundle(make_config(learn=LearnConfig(climate_encoder=True), use_t5=False))
    assert num_parameters(found.climate_encoder, learning=True) > 1e6
    assert found.text_encoder_3 is None


def test_sizes_of_a_folder_are_those_of_the_loaded_bundle(bundle):
    config = make_config(base=bundle)
    loaded, counted = open_base(config), meta_bundle(config)
    set_learning(loaded, config.learn)
    for name, network in loaded.modules().items():
        for learning in (False, True):
            expected = num_parameters(network, learning=learning)
            assert num_parameters(counted.modules()[name], learning=learning) == expected


def test_unknown_model_is_refused_with_the_known_ones():
    assert known_sizes("owner/unknown") is None
    with pytest.raises(BundleError, match=f"'owner/unknown' are not known.*{SD3}"):
        meta_bundle(make_config(base="owner/unknown"))


# -- cost of a step


def measured(bundle, *, samples=2, **changes):
    config = make_config(base=bundle, **changes)
    found = meta_bundle(config)
    sizes = batch_sizes(config, found, (16, 4, 4), samples)
    return measure_step(meta_learner(found, config), sizes, bf16=config.bf16, on_gpu=False)


@pytest.mark.parametrize("text_variants", [0, 2])
def test_operations_are_those_that_torch_counts_in_a_real_step(bundle, text_variants):
    config = make_config(base=bundle, text_variants=text_variants)
    real = open_base(config)
    set_learning(real, config.learn)
    learner = make_learner(real, config, "cpu")
    batch = _blank_batch(batch_sizes(config, real, (16, 4, 4), 2))
    formulas = {op: partial(formula) for op, formula in FLOPS_OF_ATTENTION_ON_CPU.items()}
    for formula in formulas.values():
        formula._get_raw = True
    counter = FlopCounterMode(display=False, custom_mapping=formulas)
    with counter, torch.autocast("cpu", torch.bfloat16):
        learner(batch).mean().backward()
    cost = measured(bundle, text_variants=text_variants)
    assert cost.flops == counter.get_total_flops() > 0


def test_fused_attention_of_a_gpu_has_the_operations_of_the_explicit_one(bundle):
    config = make_config(base=bundle)
    costs = []
    for on_gpu in (False, True):
        found = meta_bundle(config)
        sizes = batch_sizes(config, found, (16, 4, 4), 4)
        learner = meta_learner(found, config)
        costs.append(measure_step(learner, sizes, bf16=True, on_gpu=on_gpu))
    assert costs[1].activation_bytes < costs[0].activation_bytes
    # The backward pass computes the logits a second time.
    assert costs[0].flops < costs[1].flops < 1.1 * costs[0].flops


def test_activations_grow_with_samples_and_shrink_with_checkpointing(bundle):
    one, four = (measured(bundle, samples=count).activation_bytes for count in (1, 4))
    assert 3.5 < four / one < 4.5
    plain, again = measured(bundle), measured(bundle, gradient_checkpointing=True)
    assert again.activation_bytes < 0.8 * plain.activation_bytes
    assert 1.2 * plain.flops < again.flops < 1.5 * plain.flops


def test_memory_is_followed_until_it_is_given_back():
    start = torch.zeros(1000)
    with _Meter([start]) as meter:
        doubled = start * 2
        assert (meter.live, meter.peak) == (4000, 4000)
        view = doubled[:10]
        assert meter.live == 4000
        start += 1
        squared = doubled.square()
        assert (meter.live, meter.peak) == (8000, 8000)
        del doubled
        assert meter.live == 8000
        del view
        assert meter.live == 4000
        del squared
    assert (meter.live, meter.peak) == (0, 8000)


@pytest.mark.parametrize("optimizer", ["adamw", "adafactor"])
def test_state_of_optimizers_is_counted_as_torch_keeps_it(optimizer):
    layer = nn.Sequential(nn.Linear(30, 50), nn.Conv2d(4, 6, 3))
    made = {"adamw": torch.optim.AdamW, "adafactor": torch.optim.Adafactor}[optimizer]
    stepped = made(layer.parameters())
    for parameter in layer.parameters():
        parameter.grad = torch.ones_like(parameter)
    stepped.step()
    kept = sum(
        value.nbytes
        for state in stepped.state.values()
        for name, value in state.items()
        if name != "step"
    )
    shapes = [tuple(p.shape) for p in layer.parameters()]
    assert optimizer_bytes(shapes, OptimConfig(optimizer=optimizer)) == kept


# -- the estimate


def test_estimate_adds_up(bundle, dataset):
    config = make_config(dataset, bundle, learn=LearnConfig(lora=LoraConfig(rank=4)))
    found = estimate(config, device="cpu")
    learning = found.parts["transformer"].learning
    assert set(found.parts) == {"transformer", "climate_encoder"}
    assert found.memory["weights that learn"] == found.memory["gradients"] == 4 * learning
    assert found.memory["state of adamw"] == 8 * learning
    assert found.memory["averages"] == 4 * learning
    stored = sum(part.bytes for part in found.parts.values())
    assert found.memory["frozen weights"] == stored - 4 * learning
    assert found.total_bytes == sum(found.memory.values()) == found.to_dict()["total_bytes"]
    networks = [*open_base(config).modules().values(), open_base(config).vae]
    assert found.loading_bytes == sum(p.nbytes for one in networks for p in one.parameters())
    assert found.image_px == (16, 16)
    assert found.samples == 24
    assert found.latent_bytes == 2 * 17 * 2 * 2
    assert found.text_bytes == 2 * (56 * 32 + 32)
    assert found.disk_bytes == 24 * (found.latent_bytes + 2 * found.text_bytes)
    assert found.step_seconds == pytest.approx(found.step_flops / found.device_flops, rel=1)


def test_settings_change_what_they_should(bundle, dataset):
    config = make_config(dataset, bundle)
    plain = estimate(config)
    halved = estimate(config.model_copy(update={"base_bf16": True}))
    frozen = "frozen weights"
    assert halved.memory[frozen] == pytest.approx(plain.memory[frozen] / 2, rel=0.01)
    optim = OptimConfig(micro_batches=2, ema_decay=0.0, optimizer="adafactor")
    parted = estimate(config.model_copy(update={"optim": optim}))
    assert (plain.pass_samples, parted.pass_samples) == (4, 2)
    assert parted.step_flops == pytest.approx(plain.step_flops, rel=0.02)
    assert parted.memory["averages"] == 0
    assert parted.memory["state of adafactor"] < 0.5 * plain.memory["state of adamw"]
    quantised = estimate(config.model_copy(update={"quantise": "int8"}))
    sizes = [one.parts["transformer"].bytes for one in (quantised, halved)]
    assert sizes[0] < 0.8 * sizes[1]
    encoding = estimate(config.model_copy(update={"text_variants": 0}))
    assert {"text_encoder", "text_encoder_2"} <= set(encoding.parts)
    assert encoding.text_bytes == 0


def test_estimate_is_told_in_words(bundle, dataset):
    found = estimate(make_config(dataset, bundle))
    console = Console(width=100, record=True, file=StringIO())
    console.print(found.render())
    text = console.export_text()
    assert "fit into the" in text
    assert f"{found.steps:,} steps of 4" in text
    console.print(replace(found, available_bytes=1000).render())
    assert "gradient_checkpointing=true" in console.export_text()


def test_batches_that_cannot_be_divided_are_refused(bundle, dataset):
    with pytest.raises(ConfigError, match="no multiple of 3 processes"):
        estimate(make_config(dataset, bundle), processes=3)


def test_dataset_without_training_tiles_is_refused(bundle, dataset, tmp_path):
    records = [record for record in read_dataset(dataset) if record.split != "train"]
    write_dataset(tmp_path, records)
    with pytest.raises(DataError, match="no training tiles"):
        estimate(make_config(tmp_path, bundle))


def test_tiles_larger_than_the_positions_of_the_base_are_refused(bundle, tmp_path):
    tiles = write_tiles(tmp_path, size_px=80)
    with pytest.raises(ConfigError, match=r"80 x 80 px are larger than the 64 px.*crop_px"):
        estimate(make_config(tiles, bundle))
    assert estimate(make_config(tiles, bundle, crop_px=32)).image_px == (32, 32)
