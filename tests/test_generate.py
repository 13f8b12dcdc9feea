"""Requests become records, and images become files that say how they were made."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from ecomap.card import DOORS, BundleCard
from ecomap.errors import DataError, EcomapError, RequestError, SchemaError
from ecomap.generate import generate
from ecomap.imagery import read_image
from ecomap.model import load_bundle
from ecomap.outputs import read_provenance
from ecomap.request import place_record
from ecomap.sample import generate_images
from ecomap.schema import LandCover, TileRecord
from tests.fakes import TINY_SIZE_PX, make_tile, write_random_bundle

CARD = BundleCard(
    name="made", image_size_px=TINY_SIZE_PX, doors=DOORS, grid="geographic",
    ground_sampling_distance_m=7413.0, trained_variables=("temperature_c", "precipitation_mm_day"),
    attribution=("somebody",),
)  # fmt: skip


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    folder = write_random_bundle(tmp_path_factory.mktemp("bundle"), CARD)
    return load_bundle(folder, device="cpu")


def test_a_place_gets_its_normals_and_the_grid_of_the_bundle():
    record = place_record(-3.0, -60.0, 7, bundle_card=CARD)
    assert record.month == "2012-07"
    assert record.land_cover == LandCover.EVERGREEN_BROADLEAF_FORESTS
    assert 24 < record.temperature_c < 28
    assert record.temperature_c == record.temperature_c_normals[6]
    assert record.temperature_c_history[-1] == record.temperature_c_normals[5]
    assert record.temperature_c_history[0] == record.temperature_c_normals[6]
    assert record.crs == "EPSG:4326"
    pixel = record.transform[0]
    assert pixel == pytest.approx(1 / 15, rel=1e-3)
    assert record.transform[2] + 8 * pixel == pytest.approx(-60.0)
    assert record.transform[5] - 8 * pixel == pytest.approx(-3.0)


def test_a_metric_bundle_lies_in_the_utm_zone_of_the_place():
    card = BundleCard(name="metric", image_size_px=512)
    record = place_record(48.1, 11.6, "2021-07", bundle_card=card)
    assert record.crs == "EPSG:32632"
    left, top = record.transform[2], record.transform[5]
    assert left + 2560 == pytest.approx(693_500, abs=1500)  # Munich
    assert top - 2560 == pytest.approx(5_330_500, abs=2500)
    assert place_record(-33.9, 18.4, 1, bundle_card=card).crs == "EPSG:32734"


def test_changes_and_land_cover_override_the_place():
    record = place_record(
        -3.0, -60.0, 7, bundle_card=CARD, temperature="+2", precipitation="x0.5",
        land_cover="barren",
    )  # fmt: skip
    plain = place_record(-3.0, -60.0, 7, bundle_card=CARD)
    assert record.temperature_c == pytest.approx(plain.temperature_c + 2)
    assert record.precipitation_mm_day == pytest.approx(plain.precipitation_mm_day / 2)
    assert record.land_cover == LandCover.BARREN


@pytest.mark.parametrize(
    ("lat", "lon", "month", "message"),
    [
        (95, 0, 7, "lat is 95"),
        (0, 200, 7, "lon is 200"),
        (0, 0, 13, "2012-13"),
        (0, 0, "July", "July"),
    ],
)
def test_impossible_requests_name_the_value(lat, lon, month, message):
    with pytest.raises(SchemaError, match=message):
        place_record(lat, lon, month, bundle_card=CARD)


def test_files_hold_pixels_place_and_provenance(bundle, tmp_path):
    result = generate(
        lat=61.0, lon=25.0, month=4, temperature="-4", number=2, seed=5, steps=2, bundle=bundle,
        output=tmp_path,
    )  # fmt: skip
    assert [image["seed"] for image in result.images] == [5, 6]
    record = place_record(61.0, 25.0, 4, bundle_card=CARD, temperature="-4")
    pixels = generate_images(bundle, [record] * 2, seeds=[5, 6], steps=2)
    for image, expected in zip(result.images, pixels, strict=True):
        assert (read_image(Path(image["png"])) == expected).all()
        for kind in ("png", "tif"):
            made = read_provenance(tmp_path / image[kind].split("/")[-1])
            assert made["synthetic"] is True
            assert made["changes"] == {"temperature": "-4"}
            assert made["seed"] == image["seed"]
            assert TileRecord(**made["record"]) == record
        beside = json.loads((tmp_path / image["json"].split("/")[-1]).read_text())
        assert "20" not in beside["prompt"]
        assert beside == made
        assert beside["bundle"] == bundle.identity
    assert "in April" not in result.images[0]["prompt"]
    assert "April" in result.images[0]["prompt"]
    for name in ("contact_sheet_synth.png", "index.html", "generate.json"):
        assert (tmp_path / name).is_file()


def test_another_request_does_not_replace_the_files_of_the_first(bundle, tmp_path):
    made = [
        generate(lat=61.0, lon=25.0, month=4, temperature=change, steps=1, bundle=bundle,
                 output=tmp_path)
        for change in ("-4", "+4", "-4")
    ]  # fmt: skip
    files = [result.images[0]["png"] for result in made]
    assert files[0] == files[2] != files[1]
    assert len(list(tmp_path.glob("*seed0_synth.png"))) == 2


def test_seeds_beyond_64_bits_and_tiles_beyond_the_pole_are_refused(bundle, tmp_path):
    for request in ({"lat": 61.0, "seed": 2**63}, {"lat": 61.0, "month": "²"}):
        with pytest.raises(EcomapError):
            generate(**({"lon": 25.0, "month": 4, "bundle": bundle, "output": tmp_path} | request))
    card = CARD.model_copy(update={"grid": "geographic", "ground_sampling_distance_m": 7421.0,
                                   "image_size_px": 128})  # fmt: skip
    with pytest.raises(RequestError, match=r"within 85\.7 degrees"):
        place_record(88.0, 25.0, 4, bundle_card=card)


def test_the_provenance_of_a_text_is_no_record(bundle, tmp_path):
    made = generate(prompt="snow", steps=1, bundle=bundle, output=tmp_path)
    with pytest.raises(DataError, match="image of a text"):
        generate(record=Path(made.images[0]["json"]), steps=1, bundle=bundle, output=tmp_path)


def test_a_record_file_can_be_asked_again(bundle, tmp_path):
    first = generate(lat=61.0, lon=25.0, month=4, steps=2, bundle=bundle, output=tmp_path / "a")
    second = generate(record=tmp_path / "a" / first.images[0]["json"].split("/")[-1], steps=2,
                      bundle=bundle, output=tmp_path / "b")  # fmt: skip
    images = [read_image(Path(result.images[0]["png"])) for result in (first, second)]
    assert (images[0] == images[1]).all()


def test_a_record_of_another_size_loses_its_grid(bundle, tmp_path):
    tile = make_tile(width_px=512, height_px=512, crs="EPSG:32632", transform=(10, 0, 0, 0, -10, 0))
    result = generate(record=tile, steps=2, bundle=bundle, output=tmp_path)
    made = read_provenance(tmp_path / result.images[0]["tif"].split("/")[-1])
    assert made["record"]["crs"] is None
    assert made["record"]["width_px"] == TINY_SIZE_PX


def test_a_prompt_alone_is_enough(bundle, tmp_path):
    result = generate(
        prompt="a satellite image of Barren.", steps=2, bundle=bundle, output=tmp_path
    )
    assert result.images[0]["prompt"] == "a satellite image of Barren."


def test_what_the_bundle_never_saw_is_said(bundle, tmp_path):
    result = generate(lat=61, lon=25, month=4, solar="=12", steps=2, bundle=bundle, output=tmp_path)
    assert any("--solar has no effect" in note for note in result.notes)


def test_what_a_place_does_not_know_is_said_of_a_model_that_learnt_it(bundle, tmp_path):
    variables = (*bundle.card.trained_variables, "solar_radiation_mj_m2_day")
    sunny = bundle.card.model_copy(update={"trained_variables": variables})
    asked = {"lat": 61, "lon": 25, "month": 4, "steps": 2, "output": tmp_path}
    result = generate(bundle=replace(bundle, card=sunny), **asked)
    assert any(note.startswith("Solar radiation is not known") for note in result.notes)
    assert generate(bundle=bundle, **asked).notes == []


def test_a_tile_of_sea_is_said_to_be_one(bundle, tmp_path):
    dry = replace(bundle, card=bundle.card.model_copy(update={"min_land_frac": 0.25}))
    result = generate(lat=0, lon=-140, month=4, steps=2, bundle=dry, output=tmp_path)
    assert result.notes == [
        "Only 0% of the tile is land; made was trained on tiles with at least 25%."
    ]


def test_a_bundle_without_a_climate_encoder_uses_its_text_door(bundle, tmp_path):
    card = bundle.card.model_copy(update={"doors": ("text",)})
    bare = replace(bundle, climate_encoder=None, card=card)
    assert generate(lat=61, lon=25, month=4, steps=2, bundle=bare, output=tmp_path).images


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        ({}, "Say what to show in one way"),
        ({"lat": 1, "lon": 2}, "missing: month"),
        ({"lat": 1, "lon": 2, "month": 3, "prompt": "x"}, "one way"),
        ({"prompt": "x", "temperature": "+2"}, "leave out changes"),
        ({"prompt": "x", "number": 0}, "at least one image"),
        ({"prompt": "x", "solver": "magic"}, "Solver 'magic' is unknown"),
        ({"prompt": "x", "steps": 0}, "steps is 0"),
    ],
)
def test_contradictory_requests_are_refused(bundle, tmp_path, request_, message):
    with pytest.raises(RequestError, match=message):
        generate(**request_, bundle=bundle, output=tmp_path)


def test_a_prompt_that_is_cut_says_how_much_has_no_effect(bundle, tmp_path):
    limit = bundle.tokenizers[0].model_max_length
    long = " ".join(["snow"] * (limit + 3))
    result = generate(prompt=long, steps=1, bundle=bundle, output=tmp_path / "long")
    (note,) = result.notes
    assert f"The last {len(bundle.tokenizers[0](long).input_ids) - limit} tokens" in note
    assert generate(prompt="snow", steps=1, bundle=bundle, output=tmp_path / "s").notes == []
