"""A bundle is what the stock pipeline loads, and conditions are what it would make of a prompt."""

import json
from dataclasses import replace

import pytest
import torch
from diffusers import StableDiffusion3Pipeline

from ecomap.card import DOORS, BundleCard
from ecomap.climate_encoder import climate_batch
from ecomap.conditions import EMPTY_PROMPT
from ecomap.errors import BundleError
from ecomap.model import (
    Bundle,
    encode_condition,
    load_bundle,
    predict_velocity,
    resolve_device,
    save_bundle,
)
from ecomap.prompt import Prompt
from ecomap.sample import generate_images
from ecomap.versions import fingerprint
from tests.fakes import TINY_SIZE_PX, make_tile, write_random_bundle
from tests.full_disk import assert_saved_whole_or_not, contents

PROMPT = Prompt("a satellite image of Savannas on July. 21.5 C, 3.20 mm/day.", "unused")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A random bundle on disk, its zero-initialised outputs filled so that conditions matter."""
    card = BundleCard(name="made", image_size_px=TINY_SIZE_PX, doors=DOORS)
    root = tmp_path_factory.mktemp("bundle")
    return write_random_bundle(root, card, dtype=torch.float32)


@pytest.fixture(scope="module")
def bundle(folder):
    return load_bundle(folder, device="cpu")


def test_the_stock_pipeline_and_ours_agree_on_text(folder, bundle):
    pipeline = StableDiffusion3Pipeline.from_pretrained(folder, local_files_only=True)
    pipeline.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(5)
    latents = torch.randn(1, 16, 2, 2, generator=generator)
    stock = pipeline(
        PROMPT.short, height=16, width=16, num_inference_steps=3, guidance_scale=2.5,
        latents=latents.clone(), output_type="latent", max_sequence_length=256,
    ).images  # fmt: skip
    condition = encode_condition(bundle, [PROMPT, EMPTY_PROMPT])
    assert condition.context.shape[1] == bundle.tokenizers[0].model_max_length + 1
    from ecomap.solver import guide, make_sigmas, sample_euler

    def pair(latents, sigma, *, need_uncond):
        levels = torch.full((2,), sigma)
        velocity = predict_velocity(
            bundle.transformer, torch.cat([latents, latents]), levels, condition
        )
        return velocity[:1], velocity[1:]

    with torch.no_grad():
        ours = sample_euler(guide(pair, 2.5), latents, make_sigmas(3))
    torch.testing.assert_close(ours, stock, rtol=1e-4, atol=1e-4)
    other = encode_condition(bundle, [Prompt("a satellite image of Barren.", ""), EMPTY_PROMPT])
    assert not torch.allclose(other.context, condition.context)


def test_withheld_tokens_leave_exactly_the_text(bundle):
    records = [make_tile(), make_tile(month="2021-08", temperature_c=22.0)]
    latents, sigma = torch.randn(2, 16, 2, 2), torch.tensor([0.3, 0.8])
    with torch.no_grad():
        text = predict_velocity(
            bundle.transformer, latents, sigma, encode_condition(bundle, [PROMPT, PROMPT])
        )
        mixed = predict_velocity(
            bundle.transformer,
            latents,
            sigma,
            encode_condition(
                bundle,
                [PROMPT, PROMPT],
                climate_batch(records),
                has_tokens=torch.tensor([True, False]),
            ),
        )
    torch.testing.assert_close(mixed[1], text[1])
    assert (mixed[0] - text[0]).abs().max() > 1e-3


def test_half_precision_on_disk_gives_nearly_the_same_velocity(bundle, tmp_path):
    save_bundle(bundle, tmp_path / "half")
    again = load_bundle(tmp_path / "half", device="cpu")
    assert again.transformer.dtype == torch.float32
    assert bundle.transformer.dtype == torch.float32
    latents, sigma = torch.randn(1, 16, 2, 2), torch.tensor([0.5])
    with torch.no_grad():
        first, second = (
            predict_velocity(b.transformer, latents, sigma, encode_condition(b, [PROMPT]))
            for b in (bundle, again)
        )
    torch.testing.assert_close(first, second, rtol=2e-2, atol=2e-2)


def test_a_full_disk_leaves_the_former_bundle_whole(bundle, tmp_path):
    card = bundle.card.model_copy(update={"version": "2"})

    def save_other(folder):
        save_bundle(replace(bundle, card=card), folder, dtype=torch.float32)

    assert_saved_whole_or_not(lambda f: save_bundle(bundle, f), save_other, tmp_path / "bundle")
    assert load_bundle(tmp_path / "bundle", device="cpu").card.version == "2"


def test_a_bundle_that_replaces_another_has_none_of_its_weights(bundle, tmp_path):
    folder, other = tmp_path / "bundle", tmp_path / "other"
    save_bundle(bundle, folder)
    for name in ("transformer/diffusion_pytorch_model-00001-of-00002.safetensors",
                 "transformer/diffusion_pytorch_model.safetensors.index.json",
                 "text_encoder/model.safetensors.index.json"):  # fmt: skip
        (folder / name).write_bytes(b"of a larger bundle")
    (folder / "feature_network").mkdir()
    (folder / "feature_network" / "model.safetensors").write_bytes(b"beside")
    bare = replace(bundle, climate_encoder=None)
    for _ in range(2):
        save_bundle(bare, folder)
    save_bundle(bare, other)
    assert contents(folder) == contents(other) | {"feature_network/model.safetensors": b"beside"}
    assert load_bundle(folder, device="cpu").climate_encoder is None
    assert not any(b".tmp_" in content for content in contents(folder).values())


def test_same_seed_gives_the_same_bytes_and_climate_changes_them(bundle):
    records = [make_tile(), make_tile(temperature_c=25.0), make_tile()]
    images = generate_images(bundle, records, seeds=[7, 7, 8], steps=2)
    again = generate_images(bundle, records, seeds=[7, 7, 8], steps=2)
    assert images.shape == (3, TINY_SIZE_PX, TINY_SIZE_PX, 3)
    assert (images == again).all()
    assert (images[0] != images[1]).any()
    assert (images[0] != images[2]).any()


def test_without_doors_the_record_does_not_matter(bundle):
    records = [make_tile(), make_tile(temperature_c=25.0, month="2021-11")]
    images = generate_images(bundle, records, seeds=[1, 1], steps=2, doors=())
    assert (images[0] == images[1]).all()


def test_variables_that_the_bundle_never_saw_do_not_matter(bundle):
    card = bundle.card.model_copy(update={"trained_variables": ("temperature_c",)})
    blind = replace(bundle, card=card)
    records = [make_tile(), make_tile(solar_radiation_mj_m2_day=20.0)]
    images = generate_images(blind, records, seeds=[1, 1], steps=2)
    assert (images[0] == images[1]).all()
    images = generate_images(bundle, records, seeds=[1, 1], steps=2)
    assert (images[0] != images[1]).any()


def test_a_bundle_without_climate_encoder_refuses_tokens(bundle):
    bare = replace(bundle, climate_encoder=None)
    with pytest.raises(BundleError, match="has no climate encoder"):
        encode_condition(bare, [PROMPT], climate_batch([make_tile()]))


def test_an_unknown_device_is_refused():
    with pytest.raises(BundleError, match="'tpu' is not available"):
        resolve_device("tpu")
    assert resolve_device("cpu").type == "cpu"


def test_a_climate_encoder_of_another_version_is_refused(folder, tmp_path):
    import shutil

    from safetensors.torch import load_file, save_file

    shutil.copytree(folder, tmp_path / "old")
    path = tmp_path / "old" / "climate_encoder" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(path)
    del tensors["null"]
    save_file(tensors, path, metadata={"format": "pt"})
    with pytest.raises(BundleError, match=r"1 weights, such as null, are missing"):
        load_bundle(tmp_path / "old", device="cpu")
    save_file(load_file(folder / path.relative_to(tmp_path / "old")) | {
        "place_in.weight": torch.zeros(24, 6)}, path, metadata={"format": "pt"})  # fmt: skip
    with pytest.raises(BundleError, match=r"place_in.weight"):
        load_bundle(tmp_path / "old", device="cpu")


def test_a_climate_encoder_that_reads_other_facts_is_refused(folder, tmp_path):
    import shutil

    shutil.copytree(folder, tmp_path / "old")
    path = tmp_path / "old" / "climate_encoder" / "config.json"
    config = json.loads(path.read_text())
    config["place_features"][0] = "altitude"
    path.write_text(json.dumps(config))
    with pytest.raises(BundleError, match="reads altitude, cos_month"):
        load_bundle(tmp_path / "old", device="cpu")


@pytest.mark.parametrize("part", ["climate_encoder", "text_encoder", "transformer", "vae"])
def test_a_truncated_part_is_refused(folder, tmp_path, part):
    import shutil

    shutil.copytree(folder, tmp_path / "cut")
    (path,) = (tmp_path / "cut" / part).glob("*.safetensors")
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(BundleError, match="cannot be loaded"):
        load_bundle(tmp_path / "cut", device="cpu")


def test_an_incomplete_bundle_is_refused(folder, tmp_path):
    import shutil

    broken = tmp_path / "broken"
    shutil.copytree(folder, broken)
    shutil.rmtree(broken / "transformer")
    with pytest.raises(BundleError, match="cannot be loaded"):
        load_bundle(broken, device="cpu")


def test_the_identity_of_a_bundle_changes_with_its_files_and_names_a_hub_revision(tmp_path):
    card = BundleCard(name="b", version="3")

    def identity(path):
        return Bundle(path, card, None, None, None, (None, None), (None, None)).identity

    (tmp_path / "weights").write_bytes(b"1")
    first = identity(tmp_path)
    assert first == {"name": "b", "version": "3", "sha256": fingerprint([tmp_path / "weights"])}
    (tmp_path / "weights").write_bytes(b"2")
    assert identity(tmp_path)["sha256"] != first["sha256"]
    hub = tmp_path / "snapshots" / "abc123"
    assert identity(hub) == {"name": "b", "version": "3", "revision": "abc123"}


def test_t5_can_be_left_out_and_other_parts_stay_as_they_are(folder):
    loaded = load_bundle(folder, device="cpu", half_t5=True, use_t5=False)
    for part in (loaded.transformer, loaded.vae, *loaded.text_encoders):
        assert part.dtype == torch.float32
    assert loaded.text_encoder_3 is None
