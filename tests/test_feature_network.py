"""The feature network: arithmetic of its answers by hand, and files that keep it whole."""

import json

import numpy as np
import pytest
import torch

from ecomap.errors import BundleError
from ecomap.feature_network import (
    FeatureNetwork,
    FeatureNetworkConfig,
    Reading,
    Scale,
    load_feature_network,
    nearest_month,
    network_identity,
    predictions_of,
    save_feature_network,
    to_inputs,
)
from ecomap.feature_space import season_month
from tests.fakes import made_image

SCALES = {
    "temperature_c": Scale(log=False, mean=10.0, std=5.0),
    "precipitation_mm_day": Scale(log=True, mean=1.0, std=0.5),
}


def made_network(seed: int = 0) -> FeatureNetwork:
    torch.manual_seed(seed)
    sizes = FeatureNetworkConfig(
        input_size_px=32, widths=(8, 16, 24), blocks=(1, 2, 1), climate=SCALES, card={"name": "x"}
    )
    return FeatureNetwork(sizes).eval()


@pytest.fixture
def images() -> np.ndarray:
    return np.stack([made_image(seed, 32, 32) for seed in range(3)])


def test_the_south_has_its_seasons_half_a_year_apart_and_unknown_stays_unknown():
    np.testing.assert_array_equal(season_month([0, 0, 8, 11], [50, -50, -1, 0]), [0, 6, 2, 11])
    assert np.isnan(season_month([np.nan, 3], [10, np.nan])).all()


def test_scales_go_there_and_back_by_hand():
    assert SCALES["temperature_c"].standardise(np.array([20.0])) == 2.0
    rain = SCALES["precipitation_mm_day"]
    values = np.array([0.0, np.e**2 - 1, np.nan])
    np.testing.assert_allclose(rain.standardise(values), [-2.0, 2.0, np.nan], atol=1e-12)
    np.testing.assert_allclose(rain.restore(rain.standardise(values)), values, atol=1e-12)


def test_black_enters_as_minus_two_and_other_sizes_are_averaged_over_their_pixels():
    flat = np.zeros((1, 64, 96, 3), np.uint8)
    flat[:, :, ::2, 1] = 128  # every other column: 64 on average
    inputs = to_inputs(flat, 32)
    assert inputs.shape == (1, 3, 32, 32)
    assert (inputs[:, 0] == -2).all()
    assert inputs[0, 1, 8:24, 8:24].numpy() == pytest.approx(-1.0, abs=0.15)
    same = np.full((1, 32, 32, 3), 192, np.uint8)
    assert (to_inputs(same, 32) == 1).all()


def test_rows_and_columns_keep_their_order_and_red_stays_first():
    image = np.zeros((1, 32, 32, 3), np.uint8)
    image[0, 3, 20, 0] = 255
    found = to_inputs(image, 32)
    assert found[0, 0, 3, 20] == pytest.approx(255 / 64 - 2)
    assert (found > -2).sum() == 1


def test_the_month_with_the_least_expected_distance_is_chosen_across_the_turn_of_the_year():
    # Half of it on December and half on February: January is one month from both.
    share = torch.full((1, 12), 1e-9)
    share[0, 11] = share[0, 1] = 0.5
    assert nearest_month(share.log()).tolist() == [0]
    # June is likeliest with 0.4, but November, December and January have 0.2 each: from January
    # it is 0.4 * 5 + 0.2 * (2 + 1 + 0) = 2.6 months on average, from December 2.8, from June 3.2.
    share = torch.full((1, 12), 1e-9)
    share[0, 5], share[0, [10, 11, 0]] = 0.4, 0.2
    assert nearest_month(share.log()).tolist() == [0]


def test_answers_are_codes_months_and_climate_in_the_units_of_users():
    reading = Reading(
        torch.zeros(2, 4),
        torch.eye(17)[[0, 16]],
        20 * torch.eye(12)[[0, 11]],
        torch.tensor([[2.0, -2.0], [100.0, 2.0]]),
    )
    found = predictions_of(reading, SCALES)
    assert found["predicted_land_cover"].tolist() == [1, 17]
    assert found["predicted_season_month"].tolist() == [1, 12]
    # 10 + 2 * 5; 510 is no temperature and becomes the warmest that there is
    assert found["predicted_temperature_c"].tolist() == [20.0, 55.0]
    rain = found["predicted_precipitation_mm_day"]
    assert rain == pytest.approx([0.0, np.e**2 - 1], abs=1e-6)
    assert set(found) == {
        *("predicted_land_cover", "predicted_season_month"),
        *("predicted_temperature_c", "predicted_precipitation_mm_day"),
    }


def test_a_network_has_features_of_its_last_width_and_one_head_a_question(images):
    reading = made_network()(to_inputs(images, 32))
    assert reading.features.shape == (3, 24)
    assert (reading.features >= 0).all()
    assert reading.features.std(0).max() > 0
    assert reading.land_cover.shape == (3, 17)
    assert reading.season_month.shape == (3, 12)
    assert reading.climate.shape == (3, 2)


def test_an_image_is_read_alike_whatever_else_is_in_its_batch(images):
    network = made_network().train()
    whole = network(to_inputs(images, 32))
    for index in range(3):
        alone = network(to_inputs(images[index : index + 1], 32))
        for one, many in zip(alone, whole, strict=True):
            torch.testing.assert_close(one[0], many[index], rtol=1e-4, atol=1e-5)


def test_brightness_is_not_normalised_away():
    # A network that normalises each image alone cannot tell flat grey from flat white.
    network = made_network()
    flat = np.stack([np.full((32, 32, 3), value, np.uint8) for value in (160, 250)])
    dark, bright = network(to_inputs(flat, 32)).features
    assert (bright - dark).abs().max() > 0.1


def test_a_saved_network_reads_the_same_after_rounding_to_half(tmp_path, images):
    network = made_network()
    save_feature_network(network, tmp_path / "net")
    loaded = load_feature_network(tmp_path / "net")
    assert loaded.config == network.config
    assert not loaded.training
    assert not any(p.requires_grad or p.dtype != torch.float32 for p in loaded.parameters())
    for kept, was in zip(loaded.parameters(), network.parameters(), strict=True):
        assert torch.equal(kept, was.detach().half().float())
    inputs = to_inputs(images, 32)
    torch.testing.assert_close(
        loaded(inputs).features, network(inputs).features, rtol=0.02, atol=0.02
    )


def test_a_bundle_that_holds_a_network_is_as_good_as_its_folder(tmp_path, images):
    save_feature_network(made_network(), tmp_path / "bundle" / "feature_network")
    inputs = to_inputs(images, 32)
    found = [
        load_feature_network(folder)(inputs).features
        for folder in (tmp_path / "bundle", tmp_path / "bundle" / "feature_network")
    ]
    assert torch.equal(*found)


def test_the_identity_follows_weights_and_config(tmp_path):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        save_feature_network(made_network(seed), tmp_path / name)
    a, b, c = (network_identity(tmp_path / name) for name in "abc")
    assert a == b != c
    config = json.loads((tmp_path / "b" / "config.json").read_text())
    config["card"]["name"] = "other"
    (tmp_path / "b" / "config.json").write_text(json.dumps(config))
    assert network_identity(tmp_path / "b") != a


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda f: (f / "model.safetensors").unlink(), "model.safetensors"),
        (lambda f: (f / "model.safetensors").write_bytes(b"no weights"), "feature network"),
        (lambda f: (f / "config.json").write_text("{"), "Expecting property name"),
        (lambda f: change(f, widths=[8, 16, 32]), "size mismatch"),
        (lambda f: change(f, widths=[8, 12, 24]), "multiple of 8"),
        (lambda f: change(f, blocks=[1, 2]), r"3 widths need as many blocks, not \(1, 2\)"),
        (lambda f: change(f, climate={"rain": {"log": False, "mean": 0, "std": 1}}), "'rain'"),
        (lambda f: change(f, depth=3), "unknown key 'depth'"),
    ],
)
def test_a_damaged_network_is_refused_with_the_reason_and_the_way_out(tmp_path, damage, words):
    save_feature_network(made_network(), tmp_path)
    damage(tmp_path)
    with pytest.raises(BundleError, match=words) as caught:
        load_feature_network(tmp_path)
    assert "ecomap train configs/tiny/features.yaml" in str(caught.value)


def change(folder, **fields):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def test_a_folder_without_a_network_is_named(tmp_path):
    with pytest.raises(BundleError, match=f"{tmp_path} holds no feature network"):
        load_feature_network(tmp_path)
