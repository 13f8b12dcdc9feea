"""The tokens door: what is withheld has no effect, what is told has one."""

import pytest
import torch

from ecomap.climate_encoder import (
    UNKNOWN_COVER,
    WITHHELD_GROUPS,
    ClimateEncoder,
    climate_batch,
)
from ecomap.schema import CLIMATE, SERIES_MONTHS, LandCover
from tests.fakes import make_tile

NORMALS = tuple(float(v) for v in range(12))


@pytest.fixture
def encoder():
    torch.manual_seed(0)
    made = ClimateEncoder(width=24, num_layers=1, context_dim=40, pooled_dim=10).eval()
    torch.nn.init.normal_(made.pooled_out.weight)
    return made


def encode(encoder, *records):
    with torch.no_grad():
        return encoder(climate_batch(records))


def test_one_token_a_month_and_one_for_the_place(encoder):
    tokens, pooled = encode(encoder, make_tile(), make_tile())
    assert tokens.shape == (2, SERIES_MONTHS + 1, 40)
    assert pooled.shape == (2, 10)


def test_a_new_encoder_leaves_the_pooled_embedding_alone():
    _, pooled = encode(ClimateEncoder(width=24, context_dim=40, pooled_dim=10), make_tile())
    assert not pooled.any()


@pytest.mark.parametrize(
    "change",
    [
        {"temperature_c_normals": NORMALS},
        {"precipitation_mm_day_normals": NORMALS},
        {"solar_radiation_mj_m2_day_normals": NORMALS},
        {"month": "2021-04"},
        {"lat": -10.0},
        {"ground_sampling_distance_m": 20.0},
        {"land_cover": LandCover.BARREN},
    ],
)
def test_every_fact_changes_the_tokens(encoder, change):
    tokens, _ = encode(encoder, make_tile(), make_tile(**change))
    assert (tokens[0] - tokens[1]).abs().max() > 1e-4


@pytest.mark.parametrize(
    ("group", "change"),
    [
        ("temperature_c", {"temperature_c_normals": NORMALS, "temperature_c": 9.0}),
        ("precipitation_mm_day", {"precipitation_mm_day_normals": NORMALS}),
        ("solar_radiation_mj_m2_day", {"solar_radiation_mj_m2_day_normals": NORMALS}),
        ("land_cover", {"land_cover": LandCover.BARREN}),
        ("place", {"lat": -30.0, "ground_sampling_distance_m": 50.0}),
        ("land", {"land_frac": 0.25}),
    ],
)
def test_a_withheld_group_has_no_effect_where_it_is_withheld(encoder, group, change):
    batch = climate_batch([make_tile(), make_tile(**change), make_tile(**change)])
    with torch.no_grad():
        tokens, _ = encoder(batch.withhold(group, torch.tensor([True, True, False])))
    torch.testing.assert_close(tokens[0], tokens[1])
    assert (tokens[1] - tokens[2]).abs().max() > 1e-4


def test_the_share_of_land_is_told_and_an_unknown_one_is_not_zero():
    batch = climate_batch([make_tile(land_frac=0.25), make_tile(land_frac=0.0), make_tile()])
    assert batch.place[:, -2:].tolist() == [[0.25, 1.0], [0.0, 1.0], [0.0, 0.0]]
    hidden = batch.withhold("place", torch.tensor([True, False, False])).place
    assert hidden[0].tolist() == [0.0] * 6 + [0.25, 1.0]
    assert torch.equal(hidden[1:], batch.place[1:])


def test_the_groups_are_all_that_the_encoder_reads():
    batch = climate_batch([make_tile(temperature_c_normals=NORMALS)])
    for group in WITHHELD_GROUPS:
        batch = batch.withhold(group, torch.tensor([True]))
    assert not batch.known.any()
    assert not batch.values.any()
    assert not batch.place.any()
    assert batch.land_cover.tolist() == [UNKNOWN_COVER]
    assert set(CLIMATE) < set(WITHHELD_GROUPS)


def test_withholding_does_not_touch_the_batch_it_came_from():
    batch = climate_batch([make_tile(temperature_c_normals=NORMALS)])
    before = batch.known.clone()
    batch.withhold("temperature_c", torch.tensor([True]))
    assert torch.equal(batch.known, before)


def test_values_that_are_not_known_may_be_anything(encoder):
    batch = climate_batch([make_tile()])
    poisoned = climate_batch([make_tile()])
    poisoned.values[~poisoned.known] = 1e6
    with torch.no_grad():
        torch.testing.assert_close(encoder(batch)[0], encoder(poisoned)[0])


def test_it_survives_a_round_trip_to_disk(encoder, tmp_path):
    encoder.save_pretrained(tmp_path)
    again = ClimateEncoder.from_pretrained(tmp_path)
    torch.testing.assert_close(encode(again, make_tile())[0], encode(encoder, make_tile())[0])
    assert (tmp_path / "diffusion_pytorch_model.safetensors").exists()
