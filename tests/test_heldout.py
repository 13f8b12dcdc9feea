"""The held-out evaluation on a made-up world whose law of climate and colour is known."""

import importlib.util
import json
import shlex
from collections import Counter
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from ecomap import heldout, image_store
from ecomap import places as places_module
from ecomap.autoencoder import build_autoencoder
from ecomap.card import DOORS, BundleCard
from ecomap.errors import DataError, RequestError
from ecomap.heldout_data import Readings, Settings, class_month_means, read_frames, read_indices
from ecomap.heldout_response import is_cold_case, is_dry_case, slope_within
from ecomap.image_store import ImageMaker
from ecomap.imagery import FrameReader
from ecomap.latents import decode, encode, to_image, to_pixels
from ecomap.model import Bundle, load_bundle
from ecomap.places import (
    Place,
    block_of,
    choose_cases,
    first_record,
    nearest_analogues,
    places_digest,
    shuffle_climate,
    spread_places,
    usable_places,
)
from ecomap.sample import generate_images
from ecomap.schema import LandCover, TileRecord, read_dataset, write_dataset
from ecomap.versions import fingerprint
from tests.fakes import write_random_bundle

HEIGHT_PX, WIDTH_PX = 16, 40
MONTHS = (2, 5, 9)


def make_tile(location_id="a", month=1, **fields) -> TileRecord:
    temperature = fields.pop("temperature", [5.0] * 12)
    precipitation = fields.pop("precipitation", [2.0] * 12)
    index = month - 1
    values = {
        "source": "made-up",
        "location_id": location_id,
        "month": f"2004-{month:02d}",
        "lat": 0.0,
        "lon": 0.0,
        "ground_sampling_distance_m": 1000.0,
        "width_px": WIDTH_PX,
        "height_px": HEIGHT_PX,
        "land_cover": LandCover.GRASSLANDS,
        "land_frac": 1.0,
        "climate_kind": "normal",
        "temperature_c": temperature[index],
        "precipitation_mm_day": precipitation[index],
        "temperature_c_normals": tuple(temperature),
        "precipitation_mm_day_normals": tuple(precipitation),
        "temperature_c_history": tuple(np.roll(temperature, -index).tolist()),
        "license": "CC0-1.0",
    }
    return TileRecord(**(values | fields))


def make_place(location_id="a", months=range(1, 13), **fields) -> Place:
    return {month: make_tile(location_id, month, **fields) for month in months}


def picture(temperature: float, precipitation: float, seed: int, width_px=WIDTH_PX) -> np.ndarray:
    """The law: 5 % less snow a degree, 10 levels more green a millimetre, rough by the seed."""
    image = np.full((HEIGHT_PX, width_px, 3), 60.0)
    image[..., 1] += 10 * precipitation
    image[:, : round(width_px * np.clip(0.5 - 0.05 * temperature, 0, 1))] = 220
    rough = np.random.default_rng(seed).uniform(-3, 3, (HEIGHT_PX, width_px, 1))
    return (image + rough).round().astype(np.uint8)


class Painter:
    """A model that knows the law, and counts what it was asked for."""

    def __init__(self) -> None:
        self.calls: list[tuple[list[TileRecord], list[int], tuple[str, ...]]] = []

    def __call__(self, records, seeds, doors):
        self.calls.append((list(records), list(seeds), doors))
        images = []
        for record, seed in zip(records, seeds, strict=True):
            chance = np.random.default_rng(seed)
            climate = (record.temperature_c, record.precipitation_mm_day)
            unknown = (chance.uniform(-10, 25), chance.uniform(0, 5))
            images.append(picture(*(climate if doors else unknown), seed=seed))
        return np.stack(images)


def write_world(folder: Path, *, width_px: int = WIDTH_PX) -> Path:
    """22 places of 12 months: 15 for testing (one is sea), 6 for training, 1 between."""
    splits = ["test"] * 14 + ["train"] * 6 + ["buffer", "test"]
    covers = [LandCover.GRASSLANDS, LandCover.MIXED_FORESTS]
    swing = np.cos(2 * np.pi * (np.arange(12) - 6) / 12)
    records = []
    (folder / "images").mkdir()
    for index, split in enumerate(splits):
        place = make_place(
            f"p{index:02d}",
            lat=-60.0 + 8 * (index % 14),
            lon=-170.0 + 15 * index,
            split=split,
            land_cover=covers[index % 2],
            land_frac=0.2 if index == 21 else 1.0,
            width_px=width_px,
            temperature=(4.0 * (index % 5) - 4 + 8 * swing).round(3).tolist(),
            precipitation=((0.5 + (index * 7 % 11) * 0.4) * (1 + 0.6 * swing)).round(3).tolist(),
        )
        for record in place.values():
            path = f"images/{record.location_id}-{record.month}.png"
            climate = (record.temperature_c, record.precipitation_mm_day)
            image = picture(*climate, seed=1000 + index, width_px=width_px)
            Image.fromarray(image).save(folder / path)
            records.append(record.model_copy(update={"image_path": path}))
    write_dataset(folder, records)
    return folder


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> Path:
    return write_world(tmp_path_factory.mktemp("made-up"))


@pytest.fixture
def bundle(tmp_path) -> Bundle:
    return write_bundle(tmp_path / "bundle")


def write_bundle(folder, weights=b"weights", **training) -> Bundle:
    """A bundle without networks: what stands in for its generator and autoencoder needs none."""
    folder.mkdir(exist_ok=True)
    (folder / "weights.safetensors").write_bytes(weights)
    card = BundleCard(name="painter", doors=("text", "tokens"), training=training)
    network, none = SimpleNamespace(device="cpu"), (None, None)
    return Bundle(folder, card, network, None, None, none, none)


def run(bundle, dataset, output, painter, **options):
    options = {
        "num_places": 6,
        "num_cases": 9,
        "months": MONTHS,
        "num_draws": 40,
        "spaces": ("colour_texture",),
        "reconstruct": lambda images: np.clip(images, 64, 190),
    } | options
    return heldout.evaluate_heldout(bundle, dataset, output, make_images=painter, **options)


@pytest.fixture(scope="module")
def evaluated(dataset, tmp_path_factory):
    """One full run, shared by the tests that only read it."""
    folder = tmp_path_factory.mktemp("evaluated")
    bundle, painter = write_bundle(folder / "bundle"), Painter()
    return run(bundle, dataset, folder / "out", painter), painter, folder / "out"


def test_a_model_that_knows_the_law_scores_as_it_should(evaluated):
    conditions = evaluated[0]["conditions"]
    for index in ("greenness", "snow"):
        known, shuffled = conditions["conditional"][index], conditions["shuffled_climate"][index]
        assert known["rmse"]["value"] < 0.005 < shuffled["rmse"]["value"]
        assert known["spearman"]["value"] > 0.98 > shuffled["spearman"]["value"]
        assert known["anomaly_pearson"]["value"] > 0.99
        assert known["mean_absolute_error"]["value"] < 0.005
        estimate = shuffled["rmse"]
        assert estimate["low"] < estimate["value"] < estimate["high"]
    chance = conditions["unconditional"]["greenness"]
    assert abs(chance["anomaly_pearson"]["value"]) < 0.6
    assert conditions["conditional"]["num_without_land"] == 0


def test_distances_order_the_conditions_and_compare_equal_numbers(evaluated):
    report = evaluated[0]
    scored = {**report["conditions"], **report["baselines"], **report["floors"]}
    distances = {
        name: scores["distances"]["colour_texture"]
        for name, scores in scored.items()
        if "distances" in scores
    }
    assert set(distances) == {*scored} - {"class_month_mean"}
    assert {scored[name]["num_images"] for name in distances} == {18}
    for kind in (lambda found: found["frechet"], lambda found: found["kernel"]["mean"]):
        assert kind(distances["conditional"]) < kind(distances["unconditional"])
    assert distances["conditional"]["kernel"]["subset_size"] == 18


def test_floors_and_baselines_are_what_they_say(evaluated, dataset):
    report = evaluated[0]
    # 220 and 60 are clipped to 190 and 64: near 30 levels off under snow, 4 elsewhere
    assert 18 < report["floors"]["autoencoder"]["psnr_db"] < 37
    analogue = report["baselines"]["nearest_analogue"]
    assert analogue["snow"]["pearson"]["value"] > 0.7
    assert analogue["greenness"]["rmse"]["value"] > 0.005
    assert report["baselines"]["class_month_mean"]["num_without_class"] == 0
    assert report["floors"]["real_vs_real"]["num_images"] == 18


def test_the_class_month_mean_comes_from_training_places(evaluated, dataset):
    places, _ = usable_places(read_dataset(dataset), MONTHS)
    training = [place[month] for place in places["train"] for month in MONTHS]
    wanted = [p[month] for p in spread_places(places["test"], 6) for month in MONTHS]
    reader = FrameReader(dataset)
    found, _ = class_month_means(wanted, training, read_indices(read_frames(reader, training)))
    real = read_indices(read_frames(reader, wanted))
    scores = evaluated[0]["baselines"]["class_month_mean"]["snow"]
    error = np.abs(found.snow - real.snow).mean()
    assert scores["mean_absolute_error"]["value"] == pytest.approx(error)


def test_generated_slopes_are_those_of_the_law(evaluated):
    rain, heat = evaluated[0]["response"].values()
    snow = heat["generated"]
    assert snow["slope"] == pytest.approx(-0.05, abs=0.003)
    assert snow["low"] < snow["slope"] < snow["high"] < 0
    assert snow["expected_sign"]["fraction"] == 1
    assert (snow["num_cases"], snow["num_images"]) == (9, 27)
    assert np.diff(snow["mean_index"]) == pytest.approx([-0.2, -0.2], abs=0.01)
    assert heat["observed"]["over_months_within_places"]["slope"] == pytest.approx(-0.05, abs=0.004)
    assert heat["observed"]["across_places_of_a_class"]["slope"] == pytest.approx(-0.05, abs=0.004)
    green = rain["generated"]
    # d/dP of (60 + 10 P) / (180 + 10 P) is 0.037 at P = 0 and 0.024 at 4.5, less where snow lies
    assert 0.01 < green["slope"] < 0.05
    assert green["expected_sign"]["fraction"] == 1
    assert green["opposite_sign_fraction"] == green["no_response_fraction"] == 0
    assert sum(found["num_cases"] for found in green["by_land_cover"].values()) == 9
    assert rain["observed"]["over_months_within_places"]["slope"] > 0


def test_seasonal_slopes_stand_beside_each_other(evaluated):
    rain, heat = (answer["seasonal"] for answer in evaluated[0]["response"].values())
    assert set(heat) == {"real", "conditional", "shuffled_climate", "unconditional"}
    assert rain["conditional"]["slope"] == pytest.approx(rain["real"]["slope"], rel=0.05)
    assert heat["conditional"]["slope"] == pytest.approx(heat["real"]["slope"], abs=0.004)
    assert heat["conditional"]["num"] == heat["real"]["num"]
    assert heat["shuffled_climate"]["slope"] != pytest.approx(heat["real"]["slope"], abs=0.004)


def test_the_model_is_asked_for_what_the_conditions_say(evaluated):
    calls = evaluated[1].calls
    conditional, shuffled, unconditional, rain, heat = calls
    assert [call[2] for call in calls] == [("text", "tokens")] * 2 + [()] + [("text", "tokens")] * 2
    assert conditional[1] == shuffled[1] == np.repeat(range(6), 3).tolist()
    assert len(set(unconditional[1])) == 18
    assert not set(unconditional[1]) & set(conditional[1])
    assert {record.split for call in calls for record in call[0]} == {"test"}
    for own, other in zip(conditional[0], shuffled[0], strict=True):
        assert own.tile_id == other.tile_id
        assert own.precipitation_mm_day_normals != other.precipitation_mm_day_normals
    for records, seeds, _ in (rain, heat):
        assert seeds[0] == seeds[1] == seeds[2] != seeds[3]
        assert records[0].tile_id == records[2].tile_id != records[3].tile_id
    low, same, high = (record.precipitation_mm_day for record in rain[0][:3])
    assert (low, high) == (pytest.approx(0.5 * same), pytest.approx(1.5 * same))
    cold, same, warm = (record.temperature_c for record in heat[0][:3])
    assert (cold, warm) == (pytest.approx(same - 4), pytest.approx(same + 4))


def test_the_report_is_plain_json_with_its_provenance(evaluated):
    report, _, output = evaluated
    assert json.loads((output / "report.json").read_text(), parse_constant=pytest.fail) == report
    assert report["sample"]["num_places"] == 6
    assert report["sample"]["usable_places"] == {"test": 14, "train": 6}
    assert report["sample"]["left_out_places"] == {
        "split is buffer": 1,
        "too little land, or land not known": 1,
    }
    assert report["bundle"]["name"] == "painter"
    assert len(report["bundle"]["sha256"]) == len(report["dataset"]["sha256"]) == 64
    assert report["sample"]["num_blocks"] == 6
    assert any("lie in 6 cells" in note for note in report["notes"])
    assert "long-term mean" in report["notes"][0]
    page = (output / "index.html").read_text()
    assert "nearest analogue" in page
    assert report["notes"][2] in page


def test_the_picture_shows_real_months_over_generated_ones(evaluated):
    with Image.open(evaluated[2] / "real_beside_generated.png") as sheet:
        assert sheet.width > 3 * 256 * WIDTH_PX / HEIGHT_PX
        assert sheet.info["Synthetic"] == "true"


def test_the_command_in_the_report_asks_for_the_same_settings(evaluated):
    report = evaluated[0]
    path = Path(__file__).parents[1] / "benchmarks" / "heldout.py"
    spec = importlib.util.spec_from_file_location("heldout_command", path)
    command = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(command)
    options = vars(command.parse_arguments(shlex.split(report["command"])[2:]))
    given = {name: value for name, value in options.items() if name in report["settings"]}
    assert given == report["settings"]
    assert options["bundle"] == "painter"
    assert set(options) - set(given) == {"bundle", "device", "dataset", "output"}


def test_an_interrupted_run_goes_on_where_it_stopped(bundle, dataset, tmp_path, evaluated):
    class Interrupted(Painter):
        def __call__(self, records, seeds, doors):
            if len(self.calls) == 2:
                raise KeyboardInterrupt
            return super().__call__(records, seeds, doors)

    with pytest.raises(KeyboardInterrupt):
        run(bundle, dataset, tmp_path / "out", Interrupted())
    rest, again = Painter(), Painter()
    report = run(bundle, dataset, tmp_path / "out", rest)
    assert len(rest.calls) == 3
    for part in ("conditions", "baselines", "floors", "response", "sample"):
        assert report[part] == evaluated[0][part]
    run(bundle, dataset, tmp_path / "out", again)
    assert not again.calls
    run(bundle, dataset, tmp_path / "out", again, steps=7)
    assert len(again.calls) == 5
    run(write_bundle(bundle.path, b"other weights"), dataset, tmp_path / "out", again)
    assert len(again.calls) == 10


def test_halves_are_compared_where_test_places_are_few(bundle, dataset, tmp_path):
    report = run(
        bundle, dataset, tmp_path / "out", Painter(), num_places=9, conditions=("conditional",)
    )
    assert report["conditions"]["conditional"]["num_images"] == 27
    assert report["floors"]["real_vs_real"]["num_images"] == 12  # 4 of 9 places on either side
    assert set(report["conditions"]) == {"conditional"}


def test_cells_decide_intervals_and_nothing_else(bundle, dataset, tmp_path, evaluated, monkeypatch):
    monkeypatch.setattr(places_module, "BLOCK_DEG", 400.0)
    report = run(bundle, dataset, tmp_path / "out", Painter(), conditions=("conditional",))
    for name in ("anomaly_pearson", "rmse"):
        found, before = (
            r["conditions"]["conditional"]["greenness"][name] for r in (report, evaluated[0])
        )
        # south and north of the equator, east and west of Greenwich are cells of their own
        assert found["value"] == before["value"]
        assert (found["low"], found["high"]) != (before["low"], before["high"])
    assert report["sample"]["num_blocks"] < evaluated[0]["sample"]["num_blocks"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"months": (0, 5)}, "calendar months 1 to 12"),
        ({"months": ()}, "calendar months 1 to 12"),
        ({"num_places": 1}, "at least 2"),
        ({"conditions": ("shuffled_climate",)}, "expected 'conditional'"),
        ({"conditions": ("conditional", "other")}, "expected 'conditional'"),
        ({"spaces": ("inception",)}, "choose from"),
    ],
)
def test_impossible_settings_are_refused_before_anything_is_made(
    bundle, dataset, tmp_path, options, words
):
    painter = Painter()
    with pytest.raises(RequestError, match=words):
        run(bundle, dataset, tmp_path / "out", painter, **options)
    assert not painter.calls
    assert not (tmp_path / "out").exists()


def test_images_of_another_size_than_the_frames_are_refused(bundle, dataset, tmp_path):
    def small(records, seeds, doors):
        return np.zeros((len(records), 8, 8, 3), np.uint8)

    with pytest.raises(RequestError, match=r"\(8, 8, 3\) \(conditional\).*\(16, 40, 3\)"):
        run(bundle, dataset, tmp_path / "out", small)


def test_a_dataset_without_test_places_is_refused(bundle, tmp_path):
    write_dataset(tmp_path / "data", list(make_place(split="train").values()))
    with pytest.raises(RequestError, match="0 test and 1 training places"):
        run(bundle, tmp_path / "data", tmp_path / "out", Painter())


def test_places_that_cannot_be_scored_are_counted_by_reason():
    places = {
        "good": make_place("good", split="test"),
        "short": make_place("short", months=(1, 2), split="test"),
        "wet": make_place("wet", land_frac=0.49, split="test"),
        "unknown": make_place("unknown", temperature_c=None, split="train"),
        "none": make_place("none", precipitation_mm_day_normals=None, split="train"),
        "unsplit": make_place("unsplit"),
    }
    records = [record for place in places.values() for record in place.values()]
    kept, dropped = usable_places(records, (1, 12))
    assert {
        split: [first_record(p).location_id for p in group] for split, group in kept.items()
    } == {"test": ["good"]}
    assert dropped == {
        "a month is missing": 1,
        "too little land, or land not known": 1,
        "climate not known": 2,
        "split is unassigned": 1,
    }


def test_the_latest_year_of_a_month_counts():
    late = make_tile("a", 1, split="test", state="late")
    early = late.model_copy(update={"month": "2003-01", "state": "early"})
    kept, _ = usable_places([late, early], (1,))
    assert kept["test"][0][1].state == "late"


def test_spread_places_adds_the_farthest_from_those_chosen():
    lons = {"a": 0.0, "b": 10.0, "c": 100.0, "d": 180.0, "e": 104.0}
    places = [make_place(name, months=(1,), lon=lon) for name, lon in lons.items()]
    orders = set()
    for seed in range(40):
        names = [first_record(p).location_id for p in spread_places(places, 9, seed=seed)]
        assert sorted(names) == list("abcde")
        orders.add("".join(names[:3]))
        rest = spread_places(places[::-1], 3, seed=seed)
        assert [first_record(p).location_id for p in rest] == names[:3]
    assert orders == {"adc", "bdc", "cad", "dac", "ead"}


def test_places_at_one_spot_are_each_chosen_once():
    places = [make_place(name, months=(1,)) for name in "abc"]
    chosen = spread_places(places, 3)
    assert sorted(first_record(place).location_id for place in chosen) == list("abc")


def test_spread_places_measures_on_the_sphere():
    # 80 N: 170 degrees of longitude are 20 degrees of arc; the equator is farther
    spots = {"a": (80.0, 0.0), "b": (80.0, 170.0), "c": (40.0, 0.0)}
    places = [make_place(n, months=(1,), lat=lat, lon=lon) for n, (lat, lon) in spots.items()]
    orders = {
        tuple(first_record(p).location_id for p in spread_places(places, 2, seed=seed))
        for seed in range(30)
    }
    assert orders == {("a", "c"), ("b", "c"), ("c", "b")}


def test_cases_are_chosen_place_by_place():
    records = [
        make_tile(place, month)
        for place, num in (("a", 1), ("b", 2), ("c", 5))
        for month in range(1, num + 1)
    ]
    chosen = choose_cases(records, 5, seed=3)
    assert Counter(record.location_id for record in chosen[:3]) == {"a": 1, "b": 1, "c": 1}
    assert Counter(record.location_id for record in chosen) == {"a": 1, "b": 2, "c": 2}
    assert choose_cases(records[::-1], 5, seed=3) == chosen
    assert sorted(r.tile_id for r in choose_cases(records, 99)) == sorted(
        r.tile_id for r in records
    )
    assert len({choose_cases(records, 3, seed=seed)[0].tile_id for seed in range(20)}) > 2
    assert choose_cases([], 4) == []


def test_shuffled_climate_is_that_of_another_place_and_nothing_else_is():
    places = [
        make_place(
            name, months=(1, 7), lat=10.0 * index, temperature=[index + 0.1 * m for m in range(12)],
            precipitation=[1.0 + index] * 12,
        )
        for index, name in enumerate("abcde")
    ]  # fmt: skip
    shuffled = shuffle_climate(places, seed=1)
    donors = []
    for own, other in zip(places, shuffled, strict=True):
        (donor,) = [
            place for place in places
            if place[1].temperature_c_normals == other[1].temperature_c_normals
        ]  # fmt: skip
        donors.append(donor[1].location_id)
        for month in (1, 7):
            changed = {k for k, v in other[month] if v != getattr(own[month], k)}
            assert changed == {
                f"{name}{suffix}"
                for name, suffixes in (
                    ("temperature_c", ("", "_history", "_normals")),
                    ("precipitation_mm_day", ("", "_normals")),
                )
                for suffix in suffixes
            }
            assert other[month].temperature_c == donor[month].temperature_c
            assert other[month].temperature_c_history == donor[month].temperature_c_history
    assert sorted(donors) == list("abcde")
    assert all(donor != name for donor, name in zip(donors, "abcde", strict=True))


def test_the_nearest_analogue_is_of_the_same_land_cover_where_there_is_one():
    forest, grass, ice = LandCover.MIXED_FORESTS, LandCover.GRASSLANDS, LandCover.SNOW_AND_ICE
    training = [
        make_place("warm grass", (1,), temperature=[20.0] * 12, land_cover=grass),
        make_place("cold grass", (1,), temperature=[-5.0] * 12, land_cover=grass),
        make_place("mild forest", (1,), temperature=[9.0] * 12, land_cover=forest),
    ]
    wanted = [
        make_place("x", (1,), temperature=[10.0] * 12, land_cover=c) for c in (grass, forest, ice)
    ]
    found = [first_record(p).location_id for p in nearest_analogues(wanted, training)]
    assert found == ["warm grass", "mild forest", "mild forest"]


def test_analogues_weigh_temperature_and_precipitation_alike():
    # spreads: 5 degrees and 0.5 mm/day. Off by 6 degrees is nearer than off by 4 and 1 mm/day.
    training = [
        make_place("far in warmth", (1,), temperature=[0.0] * 12, precipitation=[1.0] * 12),
        make_place("far in rain", (1,), temperature=[10.0] * 12, precipitation=[2.0] * 12),
    ]
    wanted = make_place("x", (1,), temperature=[6.0] * 12, precipitation=[1.0] * 12)
    (found,) = nearest_analogues([wanted], training)
    assert first_record(found).location_id == "far in warmth"
    wanted = make_place("x", (1,), temperature=[3.0] * 12, precipitation=[1.9] * 12)
    (found,) = nearest_analogues([wanted], training)
    assert first_record(found).location_id == "far in rain"


def test_the_class_month_mean_by_hand():
    forest, grass, ice = LandCover.MIXED_FORESTS, LandCover.GRASSLANDS, LandCover.SNOW_AND_ICE
    training = [
        make_tile("a", 1, land_cover=grass), make_tile("b", 1, land_cover=grass),
        make_tile("c", 1, land_cover=forest), make_tile("a", 2, land_cover=grass),
    ]  # fmt: skip
    real = Readings(np.array([0.3, 0.4, 0.5, 0.9]), np.array([0.0, 0.1, 0.5, 0.7]))
    wanted = [make_tile("x", 1, land_cover=cover) for cover in (grass, forest, ice)]
    found, missing = class_month_means(wanted, training, real)
    assert found.greenness == pytest.approx([0.35, 0.5, 0.4])
    assert found.snow == pytest.approx([0.05, 0.5, 0.2])
    assert missing == 1


def test_readings_are_in_the_order_of_the_images_and_count_those_without_land():
    sea, snow = (np.full((4, 10, 3), colour, np.uint8) for colour in ((3, 6, 21), (200, 200, 200)))
    readings = read_indices([sea, snow, sea])
    assert readings.greenness == pytest.approx([0.2, 1 / 3, 0.2], rel=1e-6)
    assert readings.snow.tolist() == [0, 1, 0]
    assert readings.num_without_land == 2


def test_slopes_are_taken_inside_strata():
    # slope 2 in both strata, whose levels lie the other way round
    x, y = np.array([0.0, 1, 2, 10, 11, 5]), np.array([100.0, 102, 104, 0, 2, 7])
    strata, blocks = list("aaabbc"), list("uuuvvw")
    settings = Settings(
        num_places=2, num_cases=2, months=(1,), seed=0, steps=1, guidance=1.0,
        conditions=("conditional",), spaces=(), num_draws=20,
    )  # fmt: skip
    found = slope_within(x, y, strata, blocks, settings)
    assert found == {
        "slope": pytest.approx(2), "low": pytest.approx(2), "high": pytest.approx(2),
        "num": 6, "num_strata": 2, "num_blocks": 3,
    }  # fmt: skip
    noisy = y + np.array([3.0, 0, 0, 0, 0, 0])
    # deviations of x: -1 0 1 and -.5 .5; of the noise: 2 -1 -1; products add up to -3
    found = slope_within(x, noisy, strata, blocks, replace(settings, num_draws=200))
    assert found["slope"] == pytest.approx(2 - 3 / 2.5)
    assert (found["low"], found["high"]) == (pytest.approx(0.5), pytest.approx(2))
    empty = np.array([])
    assert slope_within(empty, empty, [], [], settings)["slope"] is None


@pytest.mark.parametrize(
    ("fields", "is_case"),
    [
        ({"temperature": [5.0] * 12}, True),
        ({"temperature": [4.9] * 12}, False),
        ({"land_cover": LandCover.MIXED_FORESTS}, False),
        ({"land_cover": LandCover.MIXED_FORESTS, "precipitation": [1.64] * 12}, True),
        ({"land_cover": LandCover.MIXED_FORESTS, "precipitation": [1.65] * 12}, False),
        ({"land_cover": LandCover.WOODY_SAVANNAS}, False),
        ({"land_cover": LandCover.BARREN, "precipitation": [0.0] * 12}, False),
        ({"temperature_c": None}, False),
    ],
)
def test_dry_cases(fields, is_case):
    assert is_dry_case(make_tile(**fields)) == is_case


@pytest.mark.parametrize(
    ("temperature", "cover", "is_case"),
    [
        ([-10.0] + [8.0] * 11, LandCover.GRASSLANDS, True),
        ([-10.1] + [8.0] * 11, LandCover.GRASSLANDS, False),
        ([5.0] * 11 + [-0.1], LandCover.GRASSLANDS, True),
        ([5.1] * 11 + [-0.1], LandCover.GRASSLANDS, False),
        ([3.0] * 12, LandCover.GRASSLANDS, False),
        ([-10.0] + [8.0] * 11, LandCover.SNOW_AND_ICE, False),
    ],
)
def test_cold_cases(temperature, cover, is_case):
    assert is_cold_case(make_tile(temperature=temperature, land_cover=cover)) == is_case


def test_images_are_made_again_only_if_what_decides_them_changes(tmp_path):
    painter, records = Painter(), list(make_place().values())
    maker = ImageMaker(make=painter, folder=tmp_path, context={"steps": 20})
    first = maker("x", records, list(range(12)), ("text",))
    np.testing.assert_array_equal(maker("x", records, list(range(12)), ("text",)), first)
    assert len(painter.calls) == 1
    maker("x", records, list(range(1, 13)), ("text",))
    maker("x", records, list(range(12)), ())
    maker("x", records[::-1], list(range(12)), ("text",))
    replace(maker, context={"steps": 21})("x", records, list(range(12)), ("text",))
    assert len(painter.calls) == 5
    assert len(list(tmp_path.glob("*.npz"))) == 5


def test_images_come_in_chunks_in_order(tmp_path, monkeypatch):
    monkeypatch.setattr(image_store, "CHUNK", 5)
    painter, records, lines = Painter(), list(make_place().values()), []
    maker = ImageMaker(make=painter, folder=tmp_path, context={}, say=lines.append)
    images = maker("x", records, list(range(12)), ("text",))
    assert [call[1] for call in painter.calls] == [[0, 1, 2, 3, 4], [5, 6, 7, 8, 9], [10, 11]]
    np.testing.assert_array_equal(images, Painter()(records, list(range(12)), ("text",)))
    assert lines[-1] == "x: 12 of 12 images"


def test_a_damaged_image_file_is_named(tmp_path):
    maker = ImageMaker(make=Painter(), folder=tmp_path, context={})
    maker("x", [make_tile()], [0], ())
    (path,) = tmp_path.glob("*.npz")
    for content in (b"", b"PK\x03\x04 nonsense", path.read_bytes()[:-30]):
        path.write_bytes(content)
        with pytest.raises(DataError, match=rf"{path.name} is damaged.*Delete it"):
            maker("x", [make_tile()], [0], ())


def test_a_generator_of_other_things_than_images_is_refused(tmp_path):
    for wrong in (np.zeros((1, 8, 8, 3)), np.zeros((2, 8, 8, 3), np.uint8)):
        maker = ImageMaker(make=lambda *_, wrong=wrong: wrong, folder=tmp_path, context={})
        with pytest.raises(RequestError, match="Expected one uint8 image"):
            maker("x", [make_tile()], [0], ())
    assert not list(tmp_path.glob("*.npz"))


def test_frames_come_in_the_order_of_the_records(dataset):
    places, _ = usable_places(read_dataset(dataset), MONTHS)
    records = [place[month] for place in places["test"][:3] for month in (9, 2)]
    frames = read_frames(FrameReader(dataset), records)
    for record, frame in zip(records, frames, strict=True):
        with Image.open(dataset / record.image_path) as image:
            np.testing.assert_array_equal(frame, np.asarray(image))


def test_the_autoencoder_floor_is_the_bundles_autoencoder():
    torch.manual_seed(0)
    vae = build_autoencoder((8, 8, 8, 8), image_size_px=16).eval()
    images = np.random.default_rng(0).integers(0, 256, (3, 16, 24, 3)).astype(np.uint8)
    found = heldout._autoencoder(SimpleNamespace(vae=vae), batch_size=2)(images)
    with torch.no_grad():
        pixels = to_pixels(torch.from_numpy(images))
        expected = to_image(decode(vae, encode(vae, pixels))).numpy()
    assert found.dtype == np.uint8
    assert np.abs(found.astype(int) - expected).max() <= 1


def test_a_bundle_is_scored_by_its_own_generator_and_autoencoder(tmp_path):
    card = BundleCard(
        name="untrained", image_size_px=HEIGHT_PX, doors=DOORS, grid="geographic",
        trained_variables=("temperature_c", "precipitation_mm_day"),
    )  # fmt: skip
    bundle = load_bundle(write_random_bundle(tmp_path, card), device="cpu")
    folder = tmp_path / "data"
    folder.mkdir()
    report = heldout.evaluate_heldout(
        bundle, write_world(folder, width_px=HEIGHT_PX), tmp_path / "out",
        num_places=2, num_cases=2, months=(2, 9), steps=2, guidance=1.5, num_draws=5,
        spaces=("colour_texture",),
    )  # fmt: skip
    assert report["bundle"]["name"] == "untrained"
    assert report["floors"]["autoencoder"]["psnr_db"] > 0
    (kept,) = (tmp_path / "out" / "images").glob("conditional-*.npz")
    places, _ = usable_places(read_dataset(folder), (2, 9))
    chosen = spread_places(places["test"], 2)
    records = [place[month] for place in chosen for month in (2, 9)]
    expected = generate_images(bundle, records, seeds=[0, 0, 1, 1], steps=2, guidance=1.5)
    with np.load(kept) as content:
        assert np.abs(content["images"].astype(int) - expected).max() <= 1


def test_a_fingerprint_tells_names_contents_and_order_apart(tmp_path):
    a, b, same = (tmp_path / name for name in ("a", "b", "same"))
    a.write_bytes(b"1")
    b.write_bytes(b"2")
    same.write_bytes(b"1")
    prints = [fingerprint(p) for p in ([a], [b], [same], [a, b], [b, a], [])]
    assert len(set(prints)) == 6
    assert fingerprint([tmp_path, a]) == prints[0]
    b.write_bytes(b"3")
    assert fingerprint([a, b]) != prints[3]


def test_the_report_says_whether_the_bundle_learnt_from_the_training_side(dataset, tmp_path):
    places = usable_places(read_dataset(dataset), MONTHS)[0]["train"]
    digest = places_digest(place[month] for place in places for month in place)
    answers = {}
    for name, training in (("same", {"places_sha256": digest}), ("other", {"places_sha256": "0"}),
                           ("silent", {})):  # fmt: skip
        bundle = write_bundle(tmp_path / name, **training)
        report = run(bundle, dataset, tmp_path / f"{name}_out", Painter(),
                     conditions=("conditional",))  # fmt: skip
        is_unsure = any("whether it has seen" in note for note in report["notes"])
        answers[name] = (report["sample"]["training_places_are_the_bundles"], is_unsure)
    assert answers == {"same": (True, False), "other": (False, True), "silent": (None, True)}


def test_the_digest_of_places_depends_on_them_and_not_on_order_or_months():
    a, b = (list(make_place(name, (1, 2)).values()) for name in "ab")
    assert places_digest([*a, *b]) == places_digest([b[1], a[0]])
    assert places_digest(a) != places_digest(b)


def test_shuffled_climate_comes_from_another_block_where_there_is_one():
    spots = [(5.0, 5.0)] * 3 + [(45.0, 5.0)] * 2 + [(-35.0, 25.0)] * 2
    places = [
        make_place(str(index), (1,), lat=lat + index / 10, lon=lon, temperature=[float(index)] * 12)
        for index, (lat, lon) in enumerate(spots)
    ]
    for seed in range(20):
        for own, other in zip(places, shuffle_climate(places, seed=seed), strict=True):
            donor = places[int(other[1].temperature_c)]
            assert block_of(donor[1]) != block_of(own[1])
