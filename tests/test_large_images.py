"""Large images give what they would give at once, from blocks."""

from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, AutoencoderTiny
from diffusers.models.attention_processor import Attention
from diffusers.models.resnet import ResnetBlock2D
from torch import nn

import ecomap
from ecomap import large_images
from ecomap.autoencoder import build_autoencoder, load_vae
from ecomap.errors import BundleError, DataError
from ecomap.large_images import decode_large, encode_large
from ecomap.latents import decode, encode, to_image, to_pixels
from ecomap.windows import seam_ratio

SHIPPED = Path(ecomap.__file__).parent / "bundles" / "ecomap-tiny" / "vae"


def shake(vae):
    """Norms start as 1 and 0: other values let a lost weight be noticed."""
    generator = torch.Generator().manual_seed(1)
    for module in vae.modules():
        if isinstance(module, nn.GroupNorm):
            module.weight.data += 0.2 * torch.randn(module.weight.shape, generator=generator)
            module.bias.data += 0.2 * torch.randn(module.bias.shape, generator=generator)
    return vae.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def vae():
    torch.manual_seed(0)
    return shake(build_autoencoder((8, 8, 16, 16), image_size_px=32))


@pytest.fixture(scope="module")
def sd3_like_vae():
    """Two residual blocks a level, attention in the middle, and convolutions at both ends."""
    torch.manual_seed(0)
    return shake(AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(8, 8, 8, 16), layers_per_block=2, latent_channels=4, norm_num_groups=4,
        shift_factor=0.1, scaling_factor=1.2,
    ))  # fmt: skip


def picture(height, width, seed=0):
    """A scene with a bright and a dark half, so that blocks differ in their moments."""
    generator = np.random.default_rng(seed)
    level = np.where(np.arange(width) < width / 2, 40, 170)[None, :, None]
    return (level + generator.integers(0, 80, (height, width, 3))).astype(np.uint8)


def encode_at_once(vae, image):
    with torch.no_grad():
        return encode(vae, to_pixels(torch.from_numpy(image)[None]))[0]


def decode_at_once(vae, latents):
    with torch.no_grad():
        return to_image(decode(vae, latents[None]))[0].numpy()


def levels_apart(first, second):
    return np.abs(first.astype(int) - second)


@pytest.mark.parametrize(("name", "side"), [("vae", 16), ("vae", 40), ("sd3_like_vae", 24)])
def test_blocks_give_what_the_whole_gives(name, side, request):
    vae, image = request.getfixturevalue(name), picture(48, 64)
    latents = encode_at_once(vae, image)
    torch.testing.assert_close(encode_large(vae, image, side_px=side), latents, atol=2e-5, rtol=0)
    apart = levels_apart(decode_large(vae, latents, side_px=side), decode_at_once(vae, latents))
    assert apart.max() <= 1
    assert apart.mean() < 1e-3, "only values halfway between two levels are rounded the other way"


def test_an_image_of_one_block_is_the_whole_bit_for_bit(vae):
    image = picture(64, 96)
    latents = encode_at_once(vae, image)
    assert torch.equal(encode_large(vae, image), latents)
    assert (decode_large(vae, latents) == decode_at_once(vae, latents)).all()


def test_halos_alone_would_not_do(vae, monkeypatch):
    """Moments of each block in place of the image's: the difference that the stages remove."""
    image = picture(64, 96)
    latents = encode_at_once(vae, image)
    monkeypatch.setattr(large_images, "_normalise_by", lambda moments: lambda *call: None)
    assert (encode_large(vae, image, side_px=16) - latents).abs().max() > 0.1


@pytest.mark.parametrize("name", ["vae", "sd3_like_vae"])
def test_no_stage_sees_farther_than_the_halo(name, request):
    """Not-a-number spreads to all that depends on it."""
    vae = request.getfixturevalue(name)
    for stages, channels in (
        (large_images._encoder_stages(vae), 3),
        (large_images._decoder_stages(vae), vae.config.latent_channels),
    ):
        for stage in stages:
            if any(isinstance(module, Attention) for module in stage):
                channels = stage[0].group_norm.num_channels
                continue
            length = 4 * large_images.HALO_PX
            values = torch.zeros(1, channels, 2, length)
            middle = length // 2
            values[..., middle : middle + 2] = torch.nan
            norms = [m for part in stage for m in part.modules() if isinstance(m, nn.GroupNorm)]
            hooks = [n.register_forward_hook(lambda m, x, y: x[0]) for n in norms]
            for module in stage:
                is_residual = isinstance(module, ResnetBlock2D)
                values = module(values, None) if is_residual else module(values)
            for hook in hooks:
                hook.remove()
            channels = values.shape[1]
            touched = values.isnan().any(1).any(1)[0].nonzero()[:, 0] * length / values.shape[-1]
            reach = max(middle - touched.min(), touched.max() - middle - 1)
            assert 0 < reach < large_images.HALO_PX


def test_no_layer_sees_more_than_a_block(vae):
    side, sizes = 24, []

    def record(module, inputs):
        sizes.append(inputs[0].shape[-2] * inputs[0].shape[-1])

    latents = torch.randn(16, 18, 14, generator=torch.Generator().manual_seed(0))
    convolutions = [m for m in vae.decoder.modules() if isinstance(m, nn.Conv2d)]
    hooks = [m.register_forward_pre_hook(record) for m in convolutions]
    decode_large(vae, latents, side_px=side)
    for hook in hooks:
        hook.remove()
    largest = 2 * (side + 2 * large_images.HALO_PX)
    assert max(sizes) <= largest**2 < 144 * 112 / 2


def test_sides_that_are_no_multiples_of_eight_are_continued_by_reflection(vae):
    image = picture(61, 90)
    continued = np.pad(image, [(0, 3), (0, 6), (0, 0)], mode="reflect")
    latents = encode_large(vae, image, side_px=24)
    assert latents.shape == (16, 8, 12)
    torch.testing.assert_close(latents, encode_at_once(vae, continued), atol=2e-5, rtol=0)
    decoded = decode_large(vae, latents, size_px=(61, 90), side_px=24)
    assert decoded.shape == image.shape
    assert levels_apart(decoded, decode_at_once(vae, latents)[:61, :90]).max() <= 1


def test_an_image_smaller_than_a_latent_cell_is_encoded_too(vae):
    image = picture(3, 5)
    latents = encode_large(vae, image)
    assert latents.shape == (16, 1, 1)
    assert decode_large(vae, latents, size_px=(3, 5)).shape == (3, 5, 3)


def test_half_precision_gives_what_the_whole_gives(vae):
    torch.manual_seed(0)
    half = shake(build_autoencoder((8, 8, 16, 16), image_size_px=32)).bfloat16()
    image = picture(48, 64)
    found, whole = encode_large(half, image, side_px=24), encode_at_once(half, image)
    exact = encode_at_once(vae, image)
    assert found.dtype == torch.float32
    assert (found - exact).std() < 1.5 * (whole - exact).std()


def test_nothing_stays_on_disk_or_in_the_autoencoder(vae, tmp_path):
    latents = torch.randn(16, 6, 5, generator=torch.Generator().manual_seed(0))
    before = decode_at_once(vae, latents)
    decode_large(vae, latents, side_px=16, scratch=tmp_path)
    assert not list(tmp_path.iterdir())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in vae.modules())
    assert (decode_at_once(vae, latents) == before).all()


def test_a_failure_leaves_nothing_behind(vae, tmp_path):
    latents = torch.full((16, 6, 5), torch.nan)
    with pytest.raises(ValueError, match="NaN"):
        decode_large(vae, latents, side_px=16, scratch=tmp_path)
    assert not list(tmp_path.iterdir())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in vae.modules())


def test_a_disk_without_room_other_autoencoders_and_odd_blocks_are_refused(vae, monkeypatch):
    tiny = AutoencoderTiny(
        encoder_block_out_channels=(4,) * 4, decoder_block_out_channels=(4,) * 4,
        num_encoder_blocks=(1,) * 4, num_decoder_blocks=(1,) * 4, latent_channels=16,
    )  # fmt: skip
    with pytest.raises(BundleError, match="AutoencoderTiny cannot work block by block"):
        encode_large(tiny, picture(16, 16))
    with pytest.raises(ValueError, match="side of 15 px"):
        encode_large(vae, picture(16, 16), side_px=15)
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(large_images.shutil, "disk_usage", lambda folder: usage(1, 1, 100))
    with pytest.raises(DataError, match=r"has 0.0 GB free; .* Free space"):
        encode_large(vae, picture(16, 16))


def test_the_shipped_autoencoder_leaves_no_seam_where_blocks_of_their_own_do():
    vae = load_vae(SHIPPED)
    rows, columns = np.mgrid[:128, :256] / 256
    channels = [120 + 100 * np.sin(3 * columns + k) * np.cos(4 * rows) for k in range(3)]
    texture = np.random.default_rng(0).normal(0, 6, (128, 256, 1))
    image = (np.stack(channels, -1) + texture).clip(0, 255).astype(np.uint8)
    latents = encode_at_once(vae, image)
    decoded = decode_large(vae, latents, side_px=64)
    assert levels_apart(decoded, decode_at_once(vae, latents)).max() <= 1
    places = [(row, column) for row in (0, 64) for column in (0, 64, 128, 192)]
    alone = np.zeros_like(image)
    for row, column in places:
        cells = latents[:, row // 8 : row // 8 + 8, column // 8 : column // 8 + 8]
        alone[row : row + 64, column : column + 64] = decode_at_once(vae, cells)
    assert seam_ratio(decoded, places, 64) < 1.2
    assert seam_ratio(alone, places, 64) > 1.5
