"""The small autoencoder: SD3's geometry, a teacher's space, exact resume."""

import numpy as np
import pytest
import torch
from diffusers import AutoencoderTiny
from rich.console import Console
from safetensors.torch import load_file

from ecomap import train_autoencoder as training
from ecomap.autoencoder import Teacher, build_autoencoder
from ecomap.errors import BundleError, ConfigError, DataError
from ecomap.latents import encode
from ecomap.schema import read_dataset, write_dataset
from ecomap.train_autoencoder import draw_batch, open_frames, reconstruction_psnr, train
from ecomap.train_config import AutoencoderTrainConfig
from tests.fakes import write_tiles
from tests.second_run import refused_during

QUIET = Console(quiet=True)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    root = tmp_path_factory.mktemp("world")
    write_tiles(root / "tiles", size_px=32)
    torch.manual_seed(0)
    AutoencoderTiny(
        encoder_block_out_channels=(4, 4, 4, 4), decoder_block_out_channels=(4, 4, 4, 4),
        num_encoder_blocks=(1, 1, 1, 1), num_decoder_blocks=(1, 1, 1, 1), latent_channels=16,
        shift_factor=0.0,
    ).save_pretrained(root / "teacher")  # fmt: skip
    return root


def config(world, steps=4, **changes):
    fields = {
        "datasets": (world / "tiles",), "dataset_weights": (1.0,), "teacher": world / "teacher",
        "channels": (8, 8, 8, 8), "image_size_px": 32, "crop_px": 16, "batch_size": 8,
        "bf16": False,
        "optim": {"steps": steps, "warmup_steps": 1, "checkpoint_every": 2, "log_every": 1},
    }  # fmt: skip
    return AutoencoderTrainConfig(**(fields | changes))


def test_latents_have_sd3_geometry_and_the_posterior_is_a_point():
    vae = build_autoencoder((8, 8, 8, 8), image_size_px=32)
    pixels = torch.rand(2, 3, 32, 24) * 2 - 1
    with torch.no_grad():
        latents = encode(vae, pixels)
        drawn = encode(vae, pixels, generator=torch.Generator().manual_seed(0))
        mode = vae.encode(pixels).latent_dist.mode()
    assert latents.shape == (2, 16, 4, 3)
    torch.testing.assert_close(drawn, latents, atol=1e-4, rtol=0)
    torch.testing.assert_close(latents, (mode - 0.0609) * 1.5305)


def test_batches_depend_on_the_step_only_and_mix_sizes(world):
    sources = open_frames(config(world).datasets, "train")
    batches = [draw_batch(sources, config(world), step) for step in range(20)]
    assert {tuple(b.shape) for b in batches} == {(8, 3, 16, 16), (2, 3, 32, 32)}
    assert torch.equal(batches[4], draw_batch(sources, config(world), 4))
    assert not torch.equal(batches[4], batches[5])
    assert -1 <= min(b.min() for b in batches) < max(b.max() for b in batches) <= 1


def test_crops_that_do_not_fit_and_datasets_of_one_name_are_refused(world, tmp_path):
    sources = open_frames([world / "tiles"], "val")
    with pytest.raises(DataError, match="smaller than crops of 40 px"):
        training.validation_pixels(sources, 4, 40)
    with pytest.raises(DataError, match="smaller than crops"):
        train(config(world, crop_px=40), tmp_path, console=QUIET)
    with pytest.raises(ConfigError, match="told apart"):
        open_frames([world / "tiles", tmp_path / "tiles"], "val")


@pytest.mark.parametrize(
    "wrong", [{"channels": (30, 32, 32, 32)}, {"channels": (8, 8, 8)}, {"dataset_weights": (0.0,)},
              {"crop_px": 0}],
)  # fmt: skip
def test_impossible_settings_are_refused(world, wrong):
    with pytest.raises(ValueError, match=r"channels|dataset_weights|crop_px"):
        config(world, **wrong)


def test_a_folder_that_holds_no_teacher_is_refused(tmp_path):
    with pytest.raises(BundleError, match="cannot be loaded"):
        Teacher(tmp_path)


def test_gains_tint_some_crops_and_clip_as_stretched_products_do():
    crops = np.tile(np.array([200, 100, 50], np.uint8), (400, 2, 3, 1))
    gained = training._with_gains(crops, 0.5, np.random.default_rng(0))
    assert gained.dtype == np.uint8
    assert (gained == gained[:, :1, :1]).all(), "a crop has one gain a channel"
    untouched = (gained[:, 0, 0] == [200, 100, 50]).all(-1)
    assert 0.4 < untouched.mean() < 0.6
    factors = gained[~untouched, 0, 0, 1:] / np.array([100, 50])
    largest = training.MAX_GAIN * training.MAX_TINT
    assert 1 / largest - 0.02 < factors.min() < 0.5 < 2 < factors.max() < largest + 0.02
    assert factors.std(axis=1).max() > 0.3, "channels have gains of their own"
    assert (gained[:, 0, 0, 0] == 255).any()
    assert (training._with_gains(crops, 0.0, np.random.default_rng(0)) == crops).all()


def test_frames_of_other_sides_and_empty_frames_are_left_out(world, tmp_path):
    records = read_dataset(world / "tiles")
    flagged = [r.model_copy(update={"flags": ("black",)}) for r in records]
    write_dataset(tmp_path, flagged)
    with pytest.raises(DataError, match="no usable frame with split 'train'"):
        open_frames([tmp_path], "train")
    frames = open_frames([world / "tiles"], "val")[0]
    assert {record.split for record in frames.records} == {"val"}


def test_an_interrupted_run_resumes_to_the_same_weights(world, tmp_path, monkeypatch):
    straight = train(config(world), tmp_path / "straight", console=QUIET)
    original = training.draw_batch

    def interrupted(sources, settings, step):
        if step == 3:
            raise KeyboardInterrupt
        return original(sources, settings, step)

    monkeypatch.setattr(training, "draw_batch", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train(config(world), tmp_path / "halting", console=QUIET)
    monkeypatch.setattr(training, "draw_batch", original)
    resumed = train(config(world), tmp_path / "halting", console=QUIET)
    name = "diffusion_pytorch_model.safetensors"
    first, second = load_file(straight / name), load_file(resumed / name)
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_no_other_run_gets_in_before_the_first_step(world, tmp_path, monkeypatch):
    seen = refused_during(
        monkeypatch, training, ("validation_pixels",), folder=tmp_path,
        other=config(world, steps=99), dataset=world / "tiles",
    )  # fmt: skip
    train(config(world, steps=1), tmp_path, console=QUIET)
    assert seen == ["validation_pixels"]


def test_reconstruction_improves_and_latents_approach_the_teacher(world, tmp_path):
    from ecomap.autoencoder import load_vae

    settings = config(
        world, steps=150, latent_weight=1.0,
        optim={"steps": 150, "learning_rate": 5e-3, "warmup_steps": 5, "ema_decay": 0.9,
               "validate_every": 1000, "checkpoint_every": 1000},
    )  # fmt: skip
    folder = train(settings, tmp_path, console=QUIET)
    pixels = draw_batch(open_frames(settings.datasets, "val"), settings, 0)
    torch.manual_seed(settings.seed)
    untrained = build_autoencoder(settings.channels, image_size_px=32)
    trained, teacher = load_vae(folder), Teacher(settings.teacher)
    before, after = (reconstruction_psnr(vae, pixels).mean() for vae in (untrained, trained))
    assert after > before + 1
    with torch.no_grad():
        distance = [
            (encode(v, pixels) - teacher.encode(pixels)).abs().mean() for v in (untrained, trained)
        ]
    assert distance[1] < 0.5 * distance[0]


def test_training_starts_from_a_trained_autoencoder_of_the_same_widths(world, tmp_path):
    first = train(config(world, steps=2), tmp_path / "first", console=QUIET)
    optim = {"steps": 1, "learning_rate": 1e-12, "ema_decay": 0}
    second = train(
        config(world, start=first, seed=3, optim=optim), tmp_path / "second", console=QUIET
    )
    name = "diffusion_pytorch_model.safetensors"
    before, after = load_file(first / name), load_file(second / name)
    for key, value in before.items():
        torch.testing.assert_close(after[key], value, atol=1e-6, rtol=0)
    with pytest.raises(ConfigError, match=r"has widths \(8, 8, 8, 8\), not \(8, 8, 8, 16\)"):
        train(config(world, start=first, channels=(8, 8, 8, 16)), tmp_path / "third", console=QUIET)


def test_psnr_is_that_of_the_levels(world, monkeypatch):
    pixels = torch.zeros(1, 3, 8, 8)
    monkeypatch.setattr(training, "encode", lambda vae, x: x)
    monkeypatch.setattr(training, "decode", lambda vae, x: x + 10 / 127.5)
    assert reconstruction_psnr(None, pixels).item() == pytest.approx(
        20 * np.log10(255 / 10), abs=1e-4
    )


def test_a_missing_teacher_and_a_crop_off_the_grid_are_refused(world, tmp_path):
    with pytest.raises(BundleError, match="does not exist"):
        train(config(world, teacher=tmp_path / "none"), tmp_path / "a", console=QUIET)
    with pytest.raises(ConfigError, match="multiples of 8"):
        train(config(world, crop_px=12), tmp_path / "b", console=QUIET)
    with pytest.raises(ConfigError, match="2 weights for 1 datasets"):
        train(config(world, dataset_weights=(1, 2)), tmp_path / "c", console=QUIET)
