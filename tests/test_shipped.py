"""What ships: whole, small, honest about itself, and aware of season and climate."""

import numpy as np
import pytest
import torch
from diffusers import StableDiffusion3Pipeline

from ecomap import bundle_path, generate_images, load_bundle, place_record
from ecomap.adapter import load_adapter
from ecomap.adapter_card import adapter_path
from ecomap.bundle_paths import CONTROLNET_FOLDER
from ecomap.card import read_card
from ecomap.evolution import evolve_images, evolve_pairs
from ecomap.indices import land_indices
from ecomap.kept_detail import KEPT_EDGE_PX
from ecomap.sequence_frames import open_evolver
from ecomap.starts import Start, encode_starts
from ecomap.support import Support

MEGABYTE = 1_000_000


@pytest.fixture(scope="module")
def bundle():
    return load_bundle("ecomap-tiny", device="cpu")


def test_it_is_small_holds_no_pickle_and_names_no_path_of_its_makers():
    folder = bundle_path("ecomap-tiny")
    files = [path for path in folder.rglob("*") if path.is_file()]
    controlnet = [path for path in files if folder / CONTROLNET_FOLDER in path.parents]
    others = set(files) - set(controlnet)
    assert sum(path.stat().st_size for path in others) < 60 * MEGABYTE
    assert 0 < sum(path.stat().st_size for path in controlnet) < 27 * MEGABYTE
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


def test_it_takes_a_place_to_another_month_and_back():
    """A July of Siberia whitens in January, greens again, and comes back as it was."""
    evolver = open_evolver("ecomap-tiny", device="cpu")
    july, january = (
        place_record(56.0, 97.0, month, bundle_card=evolver.card)
        for month in ("2012-07", "2012-01")
    )
    image = generate_images(evolver, [july], seeds=[3], steps=12)[0]
    made = evolve_pairs(
        evolver, [(july, image)] * 2, [january, july], seeds=[1, 1], steps=2, batch_size=2
    )
    assert np.array_equal(made[1], image)
    before, after = land_indices(image), land_indices(made[0])
    assert before.snow_frac < 0.1
    assert after.snow_frac > 0.7
    assert after.greenness < before.greenness - 0.05


def test_what_clouds_leave_of_a_month_stays_and_the_rest_is_made_up():
    evolver = open_evolver("ecomap-tiny", device="cpu")
    july = place_record(56.0, 97.0, "2012-07", bundle_card=evolver.card)
    image = generate_images(evolver, [july], seeds=[3], steps=12)[0]
    hidden = np.zeros(image.shape[:2], bool)
    hidden[:, :48] = True
    clouds = np.where(hidden[..., None], np.uint8(250), image)
    encoded = encode_starts(evolver, [Start(record=july, image=clouds, hidden=hidden)])
    (made,) = evolve_images(evolver, encoded, [0], [july], seeds=[1])
    assert np.array_equal(made[:, 48 + 2 * KEPT_EDGE_PX :], image[:, 48 + 2 * KEPT_EDGE_PX :])
    at_edge = np.abs(made.astype(int) - image)[:, 48:52]
    assert at_edge.mean() < 20
    assert land_indices(made[:, :48]).snow_frac < 0.1
    assert np.abs(made[:, :48].astype(int) - image[:, :48]).mean() < 25


def test_it_knows_the_climates_that_it_learnt_from():
    support = Support.open(bundle_path("ecomap-tiny") / CONTROLNET_FOLDER)
    card = read_card(bundle_path("ecomap-tiny"))
    mild = support.distance(place_record(52.5, 13.4, 7, bundle_card=card))
    hot = support.distance(place_record(-3.1, -60.0, 7, bundle_card=card, temperature="+8"))
    assert not mild.is_outside
    assert hot.is_outside
