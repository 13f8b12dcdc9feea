"""Pixels and latents: scaling by hand, exact round trips, and real (tiny) diffusers VAEs."""

import copy
import math

import pytest
import torch
from diffusers import AutoencoderKL, AutoencoderTiny

from ecomap import latents
from ecomap.errors import BundleError

SHIFT, SCALE = 0.0609, 1.5305


def make_vae(**changes):
    torch.manual_seed(7)
    settings = {
        "block_out_channels": (4, 8),
        "down_block_types": ("DownEncoderBlock2D",) * 2,
        "up_block_types": ("UpDecoderBlock2D",) * 2,
        "latent_channels": 4,
        "norm_num_groups": 1,
        "use_quant_conv": False,
        "use_post_quant_conv": False,
        "shift_factor": SHIFT,
        "scaling_factor": SCALE,
    }
    return AutoencoderKL(**settings | changes).eval().requires_grad_(False)


@pytest.fixture(scope="module")
def vae():
    return make_vae()


@pytest.fixture
def pixels():
    generator = torch.Generator().manual_seed(1)
    return torch.rand(2, 3, 8, 12, generator=generator) * 2 - 1


def test_encode_shifts_then_scales_the_mode_of_the_posterior(vae, pixels):
    z = vae.encode(pixels).latent_dist.mean
    encoded = latents.encode(vae, pixels)
    assert encoded.shape == (2, 4, 4, 6)
    torch.testing.assert_close(encoded, (z - 0.0609) * 1.5305)


def test_encode_is_deterministic_without_a_generator(vae, pixels):
    torch.manual_seed(1)
    first = latents.encode(vae, pixels)
    torch.manual_seed(2)
    assert torch.equal(first, latents.encode(vae, pixels))


def test_encode_draws_from_the_posterior_with_a_generator(vae, pixels):
    def draw(seed):
        return latents.encode(vae, pixels, generator=torch.Generator().manual_seed(seed))

    assert torch.equal(draw(3), draw(3))
    assert not torch.equal(draw(3), draw(4))
    posterior = vae.encode(pixels).latent_dist
    noise = torch.randn(posterior.mean.shape, generator=torch.Generator().manual_seed(3))
    expected = (posterior.mean + posterior.std * noise - SHIFT) * SCALE
    torch.testing.assert_close(draw(3), expected)


def test_decode_undoes_the_scaling_before_the_vae(vae):
    z = torch.randn(2, 4, 4, 6, generator=torch.Generator().manual_seed(2))
    decoded = latents.decode(vae, (z - SHIFT) * SCALE)
    assert decoded.shape == (2, 3, 8, 12)
    torch.testing.assert_close(decoded, vae.decode(z).sample.clamp(-1, 1))


def test_one_vae_with_and_without_scaling_gives_the_same_image(vae, pixels):
    unscaled = make_vae(shift_factor=0.0, scaling_factor=1.0)
    z = latents.encode(unscaled, pixels)
    scaled = latents.encode(vae, pixels)
    torch.testing.assert_close(scaled[1, 2, 3, 4], (z[1, 2, 3, 4] - 0.0609) * 1.5305)
    torch.testing.assert_close(latents.decode(vae, scaled), latents.decode(unscaled, z))


def test_decoded_pixels_are_clamped(vae):
    bright = copy.deepcopy(vae)
    bright.decoder.conv_out.bias.copy_(torch.tensor([9.0, -9.0, 0.0]))
    decoded = latents.decode(bright, torch.zeros(1, 4, 2, 3))
    assert decoded[:, 0].unique().tolist() == [1.0]
    assert decoded[:, 1].unique().tolist() == [-1.0]
    assert (decoded[:, 2].abs() < 1).all()


def test_half_precision_vae_takes_and_gives_float32(pixels):
    vae = make_vae().to(torch.bfloat16)
    encoded = latents.encode(vae, pixels)
    z = vae.encode(pixels.bfloat16()).latent_dist.mode()
    assert encoded.dtype == torch.float32
    # Exact: one more rounding to bfloat16 would show.
    assert torch.equal(encoded, (z.float() - SHIFT) * SCALE)
    decoded = latents.decode(vae, encoded.bfloat16())
    assert decoded.dtype == torch.float32


def test_vae_without_posterior_works_except_for_draws(pixels):
    torch.manual_seed(7)
    vae = AutoencoderTiny(
        encoder_block_out_channels=(4, 4),
        decoder_block_out_channels=(4, 4),
        num_encoder_blocks=(1, 1),
        num_decoder_blocks=(1, 1),
        scaling_factor=2.0,
        shift_factor=0.5,
    ).requires_grad_(False)
    encoded = latents.encode(vae, pixels)
    torch.testing.assert_close(encoded, (vae.encode(pixels).latents - 0.5) * 2)
    assert latents.decode(vae, encoded).shape == pixels.shape
    with pytest.raises(BundleError, match="AutoencoderTiny encodes without a posterior"):
        latents.encode(vae, pixels, generator=torch.Generator())


@pytest.mark.parametrize("name", ["shift_factor", "scaling_factor"])
def test_vae_that_does_not_state_a_factor_is_an_error(name, pixels):
    vae = make_vae(**{name: None})
    message = f"config of AutoencoderKL has no {name}; latents need both"
    with pytest.raises(BundleError, match=message):
        latents.encode(vae, pixels)
    with pytest.raises(BundleError, match=message):
        latents.decode(vae, torch.zeros(1, 4, 2, 3))


def test_shift_of_zero_is_a_shift(pixels):
    vae = make_vae(shift_factor=0.0)
    z = vae.encode(pixels).latent_dist.mode()
    torch.testing.assert_close(latents.encode(vae, pixels), z * SCALE)


@pytest.mark.parametrize("value", [255.0, -1.1, math.nan, math.inf])
def test_pixels_of_another_range_are_an_error(vae, pixels, value):
    pixels[1, 2, 3, 4] = value
    with pytest.raises(ValueError, match=r"pixels range from .*; expected \[-1, 1\]"):
        latents.encode(vae, pixels)


def test_pixels_may_overshoot_by_rounding(vae):
    assert latents.encode(vae, torch.full((1, 3, 4, 4), 1.0005)).isfinite().all()


def test_images_in_place_of_pixels_are_an_error(vae):
    with pytest.raises(ValueError, match=r"shape \(2, 8, 12, 3\); expected \(B, 3, H, W\)"):
        latents.encode(vae, torch.zeros(2, 8, 12, 3))
    with pytest.raises(ValueError, match=r"expected \(B, 3, H, W\)"):
        latents.to_image(torch.zeros(2, 8, 12, 3))


def test_all_256_levels_survive_the_round_trip():
    image = torch.arange(256, dtype=torch.uint8).repeat(3).reshape(1, 32, 8, 3)
    assert torch.equal(latents.to_image(latents.to_pixels(image)), image)


def test_all_256_levels_survive_bfloat16_pixels():
    image = torch.arange(256, dtype=torch.uint8).repeat(3).reshape(1, 32, 8, 3)
    assert torch.equal(latents.to_image(latents.to_pixels(image).bfloat16()), image)


def test_pixels_have_their_values_by_hand_and_channels_first():
    image = torch.zeros(1, 2, 3, 3, dtype=torch.uint8)
    image[0, 1, 2] = torch.tensor([0, 51, 255])
    pixels = latents.to_pixels(image)
    assert pixels.shape == (1, 3, 2, 3)
    assert pixels.dtype == torch.float32
    assert pixels[0, :, 1, 2].tolist() == pytest.approx([-1.0, -0.6, 1.0])
    assert pixels[0, :, 0, 2].tolist() == [-1.0, -1.0, -1.0]


def test_image_rounds_to_the_nearest_level_and_clips():
    pixels = torch.tensor([-1.5, -1 + 1.4 / 127.5, -1 + 1.6 / 127.5, 0.999, 7.0])
    image = latents.to_image(pixels.expand(1, 3, 2, 5))
    assert image.shape == (1, 2, 5, 3)
    assert image[0, 1, :, 2].tolist() == [0, 1, 2, 255, 255]


def test_results_are_contiguous():
    image = torch.zeros(2, 4, 6, 3, dtype=torch.uint8)
    pixels = latents.to_pixels(image)
    assert pixels.is_contiguous()
    assert latents.to_image(pixels).is_contiguous()


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_pixels_without_a_colour_are_an_error(value):
    pixels = torch.zeros(1, 3, 2, 4)
    pixels[0, 1, 1, 2] = value
    with pytest.raises(ValueError, match="1 of 24 pixel values are NaN or infinite"):
        latents.to_image(pixels)


@pytest.mark.parametrize(
    "image",
    [
        torch.zeros(2, 4, 6, 3),
        torch.zeros(2, 3, 4, 6, dtype=torch.uint8),
        torch.zeros(4, 6, 3, dtype=torch.uint8),
    ],
    ids=["float", "channels first", "no batch"],
)
def test_only_batches_of_uint8_channels_last_are_images(image):
    with pytest.raises(ValueError, match=r"expected torch.uint8 of shape \(B, H, W, 3\)"):
        latents.to_pixels(image)
