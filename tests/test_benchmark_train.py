"""The usual loops of the benchmark do what their scripts do, and ours is measured whole."""

from argparse import Namespace

import pytest
import torch

from benchmarks.train import (
    T5_SHARE,
    USUAL,
    TileFiles,
    UsualLoop,
    measure_data,
    ours,
    with_t5,
    write_world,
)
from ecomap.card import BundleCard
from ecomap.model import load_bundle
from tests.fakes import write_random_bundle, write_tiles


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    card = BundleCard(name="made", image_size_px=16, t5_null_tokens=5)
    return write_random_bundle(tmp_path_factory.mktemp("bundle"), card)


@pytest.fixture(scope="module")
def world(bundle, tmp_path_factory):
    dataset = write_tiles(tmp_path_factory.mktemp("tiles"))
    options = Namespace(base=str(bundle), tiles=12, batch_size=4, steps=12, t5_layers=1)
    return write_world(dataset, tmp_path_factory.mktemp("world"), options)


def test_t5_is_to_the_transformer_what_it_is_in_sd3():
    bundle = with_t5(load_bundle("ecomap-tiny", device="cpu"), None)
    sizes = [
        sum(p.numel() for p in network.parameters())
        for network in (bundle.text_encoder_3, bundle.transformer)
    ]
    assert sizes[0] / sizes[1] == pytest.approx(T5_SHARE, rel=0.05)


def test_shuffled_tiles_keep_their_own_latents_and_texts(world):
    loop, files = UsualLoop(world, USUAL["all_kept"]), TileFiles(world)
    assert set(loop.latents) == set(range(len(files)))
    for number in (3, 7):
        _, pixels, prompt = files[number]
        mean = loop.bundle.vae.encode(pixels[None]).latent_dist.mean
        config = loop.bundle.vae.config
        own = (mean[0] - config.shift_factor) * config.scaling_factor
        distances = {i: float((kept - own).norm()) for i, kept in loop.latents.items()}
        assert min(distances, key=distances.get) == number
        context, _ = loop.encode_texts([prompt])
        torch.testing.assert_close(loop.texts[number][0], context[0], rtol=0.05, atol=0.05)


@pytest.mark.parametrize("name", list(USUAL))
def test_usual_loops_train_the_lora_alone(world, name):
    loop = UsualLoop(world, USUAL[name])
    before = {n: p.detach().clone() for n, p in loop.transformer.named_parameters()}
    assert loop()["rate"] > 0
    moved = {n for n, p in loop.transformer.named_parameters() if not p.equal(before[n])}
    assert moved
    assert all("lora_" in n for n in moved)
    encodes = [not USUAL[name].keep_latents, not USUAL[name].keep_texts]
    assert [not loop.latents, not loop.texts] == encodes


def test_ours_is_measured_on_kept_latents_and_texts(world):
    data = measure_data(world)
    assert data["fill_s"] > data["batch_s"] > 0
    taken = ours(world, 0)
    assert taken["rate"] > 0
    assert 0 <= taken["data_wait"] < 1
