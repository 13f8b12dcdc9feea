"""What ships: whole, small, honest about itself, and aware of season and climate."""

import numpy as np
import pytest
import torch
from diffusers import StableDiffusion3Pipeline

from ecomap import bundle_path, generate_images, load_bundle, place_record
from ecomap.adapter import load_adapter
from ecomap.adapter_card import adapter_path
from ecomap.indices import land_indices

MEGABYTE = 1_000_000


@pytest.fixture(scope="module")
def bundle():
    return load_bundle("ecomap-tiny", device="cpu")


def test_it_is_small_holds_no_pickle_and_names_no_path_of_its_makers():
    files = [path for path in bundle_path("ecomap-tiny").rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 60 * MEGABYTE
    assert {path.suffix for path in files} <= {".json", ".safetensors", ".txt"}
    for path in files:
        if path.suffix == ".json":
            assert '"/' not in path.read_text().replace('"/</w>"', "").replace('"/"', ""), path


def test_its_card_says_what_it_is_and_where_it_comes_from(bundle):
    card = bundle.card
    assert "Not Sentinel-2" in card.imagery
    assert "no projection" in card.limits
    credits = " ".join(card.attribution)
    for name in ("NASA", "Copernicus", "MCD12C1", "EcoMapper", "TAESD3"):
        assert name in credits
    assert len(card.training["places_sha256"]) == 64
    assert card.trained_variables == ("temperature_c", "precipitation_mm_day")


def test_the_stock_pipeline_makes_an_image_of_a_prompt():
    path = bundle_path("ecomap-tiny")
    pipeline = StableDiffusion3Pipeline.from_pretrained(path, local_files_only=True)
    pipeline.set_progress_bar_config(disable=True)
    (image,) = pipeline(
        "a satellite image of Savannas on August.", height=128, width=128, num_inference_steps=2,
        generator=torch.Generator().manual_seed(0),
    ).images  # fmt: skip
    assert image.size == (128, 128)
    assert np.asarray(image).std() > 5


def test_siberia_is_white_in_january_and_green_in_july(bundle):
    records = [place_record(61.0, 100.0, month, bundle_card=bundle.card) for month in (1, 7)]
    winter, summer = map(land_indices, generate_images(bundle, records, seeds=[0, 0], steps=8))
    assert winter.snow_frac > 0.7
    assert summer.snow_frac < 0.1
    assert summer.greenness > winter.greenness + 0.03


def test_a_colder_april_has_more_snow_and_the_same_seed_the_same_bytes(bundle):
    records = [
        place_record(61.0, 25.0, 4, bundle_card=bundle.card, temperature=change)
        for change in ("-6", "+6", "+6")
    ]
    cold, warm, again = generate_images(bundle, records, seeds=[1, 1, 1], steps=8)
    assert land_indices(cold).snow_frac > land_indices(warm).snow_frac + 0.2
    assert (warm == again).all()


def test_the_adapter_is_small_and_says_what_it_is():
    folder = adapter_path("s2-10m")
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 6 * MEGABYTE
    assert {path.suffix for path in files} == {".json", ".safetensors", ".md"}
    assert '"/' not in (folder / "adapter.json").read_text()
    words = (folder / "README.md").read_text()
    for said in ("Six places", "no projection", "Copernicus Sentinel", "held-out loss"):
        assert said in words


def test_the_adapter_makes_a_cold_forest_white_in_winter_and_green_in_summer(bundle):
    adapted = load_adapter(bundle, "s2-10m")
    assert adapted.card.ground_sampling_distance_m == 10
    assert "solar_radiation_mj_m2_day" in adapted.card.trained_variables
    records = [place_record(56.4, 93.7, month, bundle_card=adapted.card) for month in (1, 7)]
    images = generate_images(adapted, [*records, *records], seeds=[0, 0, 1, 1], steps=8)
    winters, summers = images[::2], images[1::2]
    assert winters.mean() > summers.mean() + 30
    base = generate_images(bundle, records[:1], seeds=[0], steps=8)
    assert np.abs(images[0].astype(int) - base[0]).mean() > 5
