"""EcoMapper's tree, there and back."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data_prep.ecomapper import import_ecomapper, scan_ecomapper
from data_prep.export import export_dataset
from data_prep.export_ecomapper import make_label, tile_path
from ecomap.imagery import FrameReader
from ecomap.schema import CLIMATE, LandCover, TileRecord, read_dataset
from tests.made_dataset import tile, write_made

HALF_UNIT = {name: 0.5 * 10**-variable.decimals for name, variable in CLIMATE.items()}


def back_from(folder: Path, tmp_path: Path) -> dict[str, TileRecord]:
    """Export a dataset, import the tree, and return its records by place and month."""
    export_dataset(folder, tmp_path / "tree", kind="ecomapper")
    summary = import_ecomapper(tmp_path / "tree", tmp_path / "back")
    assert summary.failures == ()
    records = read_dataset(tmp_path / "back")
    return {f"{r.batch}/{r.location_id}/{r.month}": r for r in records}


def test_a_tile_comes_back_as_it_was_within_rounding(tmp_path: Path):
    items = [
        tile("a_1", "2020-01", temperature_c=-0.04, split="test", cloud_frac=0.4321),
        tile("a_1", "2020-02", land_cover=LandCover.SNOW_AND_ICE, split="test"),
        tile("b", "2019-12", state=None, country="Chad", lat=-12.345678, lon=-179.98765),
        tile("c", "2019-12", state=None, country=None),
    ]
    folder = write_made(tmp_path / "d", items)
    back = back_from(folder, tmp_path)
    assert set(back) == {
        "test/a_1/2020-01",
        "test/a_1/2020-02",
        "train/b/2019-12",
        "train/c/2019-12",
    }
    for item in items:
        record = back[f"{item.split}/{item.location_id}/{item.month}"]
        for name in ("lat", "lon", "month", "land_cover", "cloud_frac", "state", "country"):
            assert getattr(record, name) == getattr(item, name), name
        for name, tolerance in HALF_UNIT.items():
            assert getattr(record, name) == pytest.approx(getattr(item, name), abs=tolerance)
        for name in ("license", "attribution", "climate_source", "ground_sampling_distance_m"):
            assert getattr(record, name) == getattr(item, name), name  # not EcoMapper's own
        assert (record.crs, record.transform) == (item.crs, item.transform)
        mine, theirs = FrameReader(folder).read(item), FrameReader(tmp_path / "back").read(record)
        assert np.array_equal(mine, theirs)
    history = back["test/a_1/2020-02"].temperature_c_history
    assert history is not None
    assert history[-1] == 0.0


@pytest.mark.parametrize("known", [(), *((name,) for name in CLIMATE), tuple(CLIMATE)])
def test_climate_that_is_not_known_comes_back_unknown(tmp_path: Path, known: tuple[str, ...]):
    unknown = dict.fromkeys(set(CLIMATE) - set(known))
    folder = write_made(tmp_path / "d", [tile("a", "2020-01", **unknown)])
    record = back_from(folder, tmp_path)["train/a/2020-01"]
    assert {name for name in CLIMATE if getattr(record, name) is not None} == set(known)


@pytest.mark.shared
def test_labels_have_every_key_of_the_real_ones(shared_data: Path):
    path = shared_data / "ecomapper/2017-2018/3842/3842_2017-06.json"
    real = json.loads(path.read_text())
    label = make_label(tile("a", "2020-01"))
    assert list(real) == [key for key in label if key != "ecomap"]
    assert list(real["caption_info"]) == list(label["caption_info"])
    for key, value in [*real.items(), *real["caption_info"].items()]:
        mine = label["caption_info"].get(key) if key in real["caption_info"] else label[key]
        if key != "date":
            assert type(mine) is type(value), key


@pytest.mark.shared
def test_a_real_tree_comes_back_from_a_round_trip(shared_data: Path, tmp_path: Path):
    for name in ("5284_2019-01", "5284_2019-06", "8719_2019-06", "8719_2020-02"):
        folder = Path("2019-2020", name.split("_")[0])
        (tmp_path / "real" / folder).mkdir(parents=True, exist_ok=True)
        for suffix in (".png", ".json"):
            file = (folder / name).with_suffix(suffix)
            shutil.copy(shared_data / "ecomapper" / file, tmp_path / "real" / file)
    import_ecomapper(tmp_path / "real", tmp_path / "d")
    before = {r.tile_id.split("/", 2)[2]: r for r in read_dataset(tmp_path / "d")}
    after = back_from(tmp_path / "d", tmp_path)
    assert {f"unassigned/2019-2020/{key}" for key in before} == set(after)
    for key, record in before.items():
        other = after[f"unassigned/2019-2020/{key}"]
        ours = record.model_dump(exclude={"batch", "image_path", "attribution", *_series(record)})
        theirs = other.model_dump(exclude={"batch", "image_path", "attribution", *_series(other)})
        assert ours == theirs
        for name, tolerance in HALF_UNIT.items():
            assert getattr(other, name) == pytest.approx(
                getattr(record, name), abs=tolerance + 1e-9
            )


def _series(record: TileRecord) -> set[str]:
    """Climate fields, which come back rounded."""
    return {name for name in TileRecord.model_fields if name.startswith(tuple(CLIMATE))}


def test_a_label_tells_the_true_units():
    label = make_label(tile("a", "2020-01"))
    assert label["caption_3"] == (
        "The average temperature over the last month was 12.3 C, with an average precipitation of "
        "2.57 mm/day, and an average daily solar radiation of 17.9 MJ/m2/day."
    )
    assert label["caption_info"]["climate_str_1"] == label["caption_3"]
    assert label["caption_info"]["climate_str_2"] == "12.3 C, 2.57 mm/day, 17.9 MJ/m2/day."
    assert label["caption_info"]["climate_str_3"] == ["mild", "light", "somewhat high"]
    assert label["caption_2"] == "a satellite image of Croplands in Veneto, Italy on January 2020."
    assert label["caption"] == f"{label['caption_2']} {label['caption_3']}"
    assert label["caption_1"] == f"{label['caption_2']} {label['caption_info']['climate_str_2']}"
    assert label["center_coordinates"] == [tile("a", "2020-01").lat, tile("a", "2020-01").lon]
    assert (label["spi"], label["sti"], label["date"]) == (-0.5, 1.25, "2020-01")
    extra = label["ecomap"]
    assert extra["climate"]["precipitation_mm_day"] == 2.567
    assert extra["climate_units"] == {
        "temperature_c": "°C",
        "precipitation_mm_day": "mm/day",
        "solar_radiation_mj_m2_day": "MJ/m2/day",
    }
    assert extra["reflectance_range"] == [0.0, 0.4]
    assert extra["license"] == "Copernicus Sentinel data terms"


def test_a_label_of_little_is_finite_json():
    unknown: dict[str, Any] = dict.fromkeys(
        [*CLIMATE, "spi", "sti", "state", "country", "crs", "transform", "acquired"]
    )
    label = make_label(tile("a", "2020-01", cloud_frac=0.6, **unknown))
    assert label["caption_3"] == label["caption_info"]["climate_str_2"] == ""
    assert label["caption_info"]["location_address"] is None
    assert label["caption_info"]["cloud_info"] == "cloudy"
    json.dumps(label, allow_nan=False)


def test_a_state_without_a_country_is_not_told_as_one(tmp_path: Path):
    folder = write_made(tmp_path / "d", [tile("a", "2020-01", country=None)])
    assert back_from(folder, tmp_path)["train/a/2020-01"].country is None
    assert make_label(tile("a", "2020-01", country=None))["ecomap"]["state"] == "Veneto"


def test_tiles_that_no_label_can_describe_are_counted(tmp_path: Path):
    folder = write_made(
        tmp_path / "d",
        [
            tile("a", "2020-01", land_cover=None),
            tile("b", "2020-01", cloud_frac=None),
            tile("c-ms", "2020-01"),
            tile("d e", "2020-01"),
            tile("f", "2020-01"),
        ],
    )
    summary = export_dataset(folder, tmp_path / "tree", kind="ecomapper")
    assert summary.kept == 1
    assert summary.dropped == {"bad_name": 2, "no_cloud_frac": 1, "no_land_cover": 1}
    frames = [frame for place in scan_ecomapper(tmp_path / "tree") for frame in place.frames]
    assert [frame.record.location_id for frame in frames] == ["f"]


def test_the_set_is_the_split_before_the_batch():
    item = tile("7", "2020-01", batch="2017-2018", split="test")
    assert tile_path(item) == "test/2017-2018/7/7_2020-01.png"
    assert tile_path(tile("7", "2020-01")) == "train/7/7_2020-01.png"
