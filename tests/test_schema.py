"""The dataset contract: what is possible is kept as it is, what is not is refused with a reason."""

import json
import math

import geopandas as gpd
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from ecomap import schema
from ecomap.errors import DataError, SchemaError
from ecomap.schema import (
    CLIMATE,
    HISTORY_MONTHS,
    LAND_COVER_LABELS,
    LandCover,
    TileRecord,
    make_record,
    months_between,
    parse_land_cover,
    read_dataset,
    read_summary,
    write_dataset,
)

REQUIRED = {
    "source": "ecomapper",
    "location_id": "17",
    "month": "2021-07",
    "lat": 60.5,
    "lon": -24.25,
    "ground_sampling_distance_m": 10.0,
    "width_px": 512,
    "height_px": 384,
    "license": "CC-BY-4.0",
}

FULL = REQUIRED | {
    "batch": "Batch-1",
    "crs": "EPSG:32627",
    "transform": (10.0, 0.0, 399960.0, 0.0, -10.0, 6700020.0),
    "land_cover": LandCover.GRASSLANDS,
    "land_frac": 0.75,
    "state": "Vesturland",
    "country": "Ísland",
    "climate_kind": "observed",
    "climate_source": "NASA POWER",
    "temperature_c": -3.5,
    "precipitation_mm_day": 2.25,
    "solar_radiation_mj_m2_day": 0.0,
    "temperature_c_history": (*range(11), None),
    "precipitation_mm_day_normals": tuple(month / 4 for month in range(12)),
    "cloud_frac": 0.125,
    "nodata_frac": 0.0,
    "snow_frac": 1.0,
    "flags": ("cloudy", "seam"),
    "image_path": "images/17/2021-07.png",
    "window_px": (0, 128, 512, 384),
    "attribution": "contains modified Copernicus Sentinel data",
    "split": "val",
}


def record(**changes):
    return make_record(REQUIRED | changes, where="records.csv row 3")


def refusal(**changes):
    with pytest.raises(SchemaError) as caught:
        record(**changes)
    message = str(caught.value)
    assert message.startswith("records.csv row 3: ")
    assert "\n" not in message
    return message.removeprefix("records.csv row 3: ")


# --- one record -----------------------------------------------------------------------------


def test_a_record_needs_only_place_month_size_source_and_license():
    required = {name for name, field in TileRecord.model_fields.items() if field.is_required()}
    assert required == set(REQUIRED)
    assert record().temperature_c is None
    assert record().split == "unassigned"


@pytest.mark.parametrize("name", sorted(REQUIRED))
def test_a_missing_field_is_named(name):
    with pytest.raises(SchemaError, match=f"^row 1: {name} is missing; every record needs it"):
        make_record({key: REQUIRED[key] for key in REQUIRED if key != name}, where="row 1")


@pytest.mark.parametrize(
    ("changes", "beginning"),
    [
        ({"month": "2021-13"}, "month is '2021-13'"),
        ({"month": "2021-00"}, "month is '2021-00'"),
        ({"month": "2021-7"}, "month is '2021-7'"),
        ({"month": "2021-07-01"}, "month is '2021-07-01'"),
        ({"lat": 95}, "lat is 95: expected less than or equal to 90"),
        ({"lat": -90.01}, "lat is -90.01"),
        ({"lon": 181}, "lon is 181"),
        ({"lat": math.nan}, "lat is nan: expected a finite number"),
        ({"lon": math.inf}, "lon is inf"),
        ({"lat": "north"}, "lat is 'north'"),
        ({"ground_sampling_distance_m": 0}, "ground_sampling_distance_m is 0"),
        ({"ground_sampling_distance_m": 100_001}, "ground_sampling_distance_m is 100001"),
        ({"width_px": 0}, "width_px is 0"),
        ({"height_px": 2.5}, "height_px is 2.5"),
        ({"cloud_frac": 1.01}, "cloud_frac is 1.01"),
        ({"land_frac": -0.1}, "land_frac is -0.1"),
        ({"nodata_frac": math.nan}, "nodata_frac is nan"),
        ({"snow_frac": 50}, "snow_frac is 50"),
        ({"split": "training"}, "split is 'training'"),
        ({"climate_kind": "modelled"}, "climate_kind is 'modelled'"),
        ({"source": ""}, "source is ''"),
        ({"license": ""}, "license is ''"),
        ({"window_px": (-1, 0, 8, 8)}, "window_px: (-1, 0, 8, 8) must have column, row >= 0"),
        ({"window_px": (0, 0, 8, 0)}, "window_px: (0, 0, 8, 0) must have"),
        ({"window_px": (0, 0, 8)}, "window_px"),
        ({"transform": (1.0, 0.0, math.nan, 0.0, -1.0, 0.0)}, "transform.2 is nan"),
        ({"land_cover": 18}, "land_cover is 18"),
        ({"land_cover": "Moor"}, "land_cover: Land cover 'Moor' is unknown."),
    ],
)
def test_an_impossible_value_is_refused_with_field_and_value(changes, beginning):
    assert refusal(**changes).startswith(beginning)


@pytest.mark.parametrize("lat", [-90, 0, 90])
@pytest.mark.parametrize("lon", [-180, 180])
def test_the_ends_of_the_earth_are_places(lat, lon):
    assert (record(lat=lat, lon=lon).lat, record(lat=lat, lon=lon).lon) == (lat, lon)


def test_an_unknown_field_gets_the_nearest_name():
    assert refusal(temprature_c=3.0) == "unknown key 'temprature_c'. Did you mean 'temperature_c'?"


def test_further_faults_of_a_record_are_counted():
    assert refusal(lat=95, lon=200, month="x").endswith("(2 more in the same record)")


def test_a_record_does_not_change():
    with pytest.raises(ValidationError, match="frozen"):
        record().lat = 3.0


# --- climate --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        (
            "temperature_c",
            293.0,
            "temperature_c is 293 °C, outside -75 to 55 °C; check the unit: kelvin must be "
            "converted by subtracting 273.15.",
        ),
        (
            "precipitation_mm_day",
            310.0,
            "precipitation_mm_day is 310 mm/day, outside 0 to 120 mm/day; check the unit: monthly "
            "totals must be divided by the days of the month.",
        ),
        (
            "solar_radiation_mj_m2_day",
            231.5,
            "solar_radiation_mj_m2_day is 231.5 MJ/m2/day, outside 0 to 45 MJ/m2/day; check the "
            "unit: W/m2 must be multiplied by 0.0864 and kWh/m2/day by 3.6.",
        ),
    ],
)
def test_a_value_in_another_unit_is_refused_with_the_way_to_convert_it(field, value, message):
    assert refusal(**{field: value}) == message


@pytest.mark.parametrize("variable", CLIMATE.values(), ids=list(CLIMATE))
def test_the_range_of_a_climate_variable_includes_its_ends_and_nothing_beyond(variable):
    for value in (variable.minimum, variable.maximum):
        assert getattr(record(**{variable.name: value}), variable.name) == value
    for value in (variable.minimum - 0.01, variable.maximum + 0.01):
        assert "outside" in refusal(**{variable.name: value})


@pytest.mark.parametrize("name", CLIMATE)
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_climate_that_is_no_number_is_refused_and_not_taken_for_missing(name, value):
    assert name in refusal(**{name: value})
    with pytest.raises(SchemaError, match=r"must be left empty \(None\)"):
        schema.check_climate(name, value)


@pytest.mark.parametrize("suffix", ["history", "normals"])
def test_a_series_is_checked_value_by_value_and_may_have_gaps(suffix):
    name = f"temperature_c_{suffix}"
    series = (1.0, None, *range(10))
    assert getattr(record(**{name: series}), name) == series
    message = refusal(**{name: (293.0, *series[1:])})
    assert message.startswith(f"{name} is 293 °C, outside")
    assert name in refusal(**{name: (math.nan, *series[1:])})


@pytest.mark.parametrize("suffix", ["history", "normals"])
@pytest.mark.parametrize("length", [0, 11, 13])
def test_a_series_has_twelve_values(suffix, length):
    name = f"precipitation_mm_day_{suffix}"
    assert refusal(**{name: (1.0,) * length}) == f"{name} has {length} values, not 12"
    assert HISTORY_MONTHS == 12


def test_climate_variables_carry_their_unit_in_their_name():
    assert list(CLIMATE) == ["temperature_c", "precipitation_mm_day", "solar_radiation_mj_m2_day"]
    assert [v.unit for v in CLIMATE.values()] == ["°C", "mm/day", "MJ/m2/day"]
    fields = {f"{name}{suffix}" for name in CLIMATE for suffix in ("", "_history", "_normals")}
    assert fields <= set(TileRecord.model_fields)


# --- keys and classes -----------------------------------------------------------------------


def test_keys_of_place_and_tile_are_made_of_the_parts_that_are_known():
    assert record(batch="b").place_id == "ecomapper/b/17"
    assert record().place_id == "ecomapper/17"
    assert record(batch="b").tile_id == "ecomapper/b/17/2021-07"


@pytest.mark.parametrize(("month", "index"), [("1999-01", 0), ("2021-07", 6), ("2024-12", 11)])
def test_months_are_counted_from_january(month, index):
    assert record(month=month).month_index == index


@pytest.mark.parametrize(
    ("first", "last", "months"),
    [("2020-01", "2020-01", 0), ("2019-11", "2020-02", 3), ("2020-02", "2018-12", -14)],
)
def test_months_between_crosses_years_in_both_directions(first, last, months):
    assert months_between(first, last) == months


@pytest.mark.parametrize("cover", LandCover, ids=lambda cover: cover.name)
def test_a_class_is_found_by_its_code_its_label_and_its_name(cover):
    upper = cover.label.upper()
    for text in (int(cover), str(int(cover)), f" {cover.label} ", upper, cover.name.lower()):
        assert parse_land_cover(text) is cover
    assert record(land_cover=cover.label).land_cover is cover


@pytest.mark.parametrize(
    ("text", "cover"),
    [
        ("Barren", LandCover.BARREN),
        ("barren_lands", LandCover.BARREN),
        ("Urban and Built-Up Lands", LandCover.URBAN_AND_BUILT_UP),
        ("snow and ice", LandCover.SNOW_AND_ICE),
        ("Cropland/Natural Vegetation Mosaic", LandCover.CROPLAND_NATURAL_VEGETATION_MOSAICS),
        ("Water", LandCover.WATER_BODIES),
    ],
)
def test_other_spellings_of_a_class_are_known(text, cover):
    assert parse_land_cover(text) is cover


@pytest.mark.parametrize("code", [0, 18, -1, 255, "0", "99"])
def test_an_unknown_code_is_refused_with_the_range(code):
    with pytest.raises(SchemaError, match="IGBP codes run from 1 to 17"):
        parse_land_cover(code)


def test_an_unknown_class_gets_the_nearest_name_and_the_choices():
    with pytest.raises(SchemaError, match="Did you mean 'Grasslands'") as caught:
        parse_land_cover("Graslands")
    assert all(label in str(caught.value) for label in LAND_COVER_LABELS.values())


@pytest.mark.parametrize("text", ["", " ", "moor", "²", "1.0", "1e1", "Savannas Grasslands"])
def test_any_other_text_is_refused_as_an_unknown_class(text):
    with pytest.raises(SchemaError, match="is unknown"):
        parse_land_cover(text)


# --- datasets on disk -----------------------------------------------------------------------


@pytest.fixture
def three(tmp_path):
    """A full record between two poor ones, so that every optional column has gaps."""
    records = [record(), make_record(FULL, where="full"), record(location_id="18")]
    write_dataset(tmp_path, records)
    return tmp_path, records


def test_records_read_back_as_they_were_written(three):
    folder, records = three
    assert read_dataset(folder) == records
    assert read_dataset(folder / "records.parquet") == records


def test_what_is_not_known_reads_back_as_none_and_zero_as_zero(three):
    folder, _ = three
    poor, full, _ = read_dataset(folder)
    assert poor.precipitation_mm_day is None
    assert poor.land_cover is None
    assert poor.transform is None
    assert full.solar_radiation_mj_m2_day == 0.0
    assert full.nodata_frac == 0.0
    assert full.temperature_c_history is not None
    assert full.temperature_c_history[-1] is None
    assert full.temperature_c_normals is None
    assert full.land_cover is LandCover.GRASSLANDS


def test_records_that_know_nothing_optional_read_back(tmp_path):
    write_dataset(tmp_path, [record()])
    assert read_dataset(tmp_path) == [record()]


def test_a_dataset_without_records_reads_back_empty(tmp_path):
    write_dataset(tmp_path, [])
    assert read_dataset(tmp_path) == []


def test_any_gis_opens_the_records_as_points_in_degrees(three):
    folder, _ = three
    frame = gpd.read_parquet(folder / "records.parquet")
    assert frame.crs.to_epsg() == 4326
    assert frame.geometry.x.tolist() == [-24.25] * 3
    assert frame.geometry.y.tolist() == [60.5] * 3
    assert frame["month"].tolist() == ["2021-07"] * 3
    assert set(frame.columns) == {*TileRecord.model_fields, "geometry"}


def test_the_summary_counts_records_and_keeps_what_it_is_given(tmp_path):
    write_dataset(tmp_path, [record()], summary={"dropped": {"white": 2}})
    assert read_summary(tmp_path) == {
        "schema_version": schema.SCHEMA_VERSION,
        "num_records": 1,
        "dropped": {"white": 2},
    }


def test_a_summary_is_readable_text_and_leaves_no_temporary_file(tmp_path):
    write_dataset(tmp_path / "new" / "folder", [record()], summary={"country": "Ísland"})
    folder = tmp_path / "new" / "folder"
    assert "Ísland" in (folder / "dataset.json").read_text(encoding="utf-8")
    assert sorted(path.name for path in folder.iterdir()) == ["dataset.json", "records.parquet"]


def test_two_records_of_one_key_are_refused_and_nothing_is_written(tmp_path):
    with pytest.raises(SchemaError, match="Two records have the key 'ecomapper/17/2021-07'"):
        write_dataset(tmp_path / "d", [record(), record(lat=3.0)])
    assert not (tmp_path / "d").exists()


def test_one_place_may_have_many_months_and_one_id_many_batches(tmp_path):
    records = [record(), record(month="2021-08"), record(batch="2"), record(source="bluemarble")]
    write_dataset(tmp_path, records)
    assert read_dataset(tmp_path) == records


def test_a_dataset_that_is_not_there_says_how_to_make_one(tmp_path):
    with pytest.raises(DataError, match=r"records\.parquet does not exist.*ecomap data import"):
        read_dataset(tmp_path)


@pytest.mark.parametrize("damage", ["cut", "text", "empty"])
def test_a_damaged_table_is_one_error_with_its_path(three, damage):
    folder, _ = three
    path = folder / "records.parquet"
    whole = path.read_bytes()
    path.write_bytes({"cut": whole[: len(whole) // 2], "text": b"lat,lon\n", "empty": b""}[damage])
    with pytest.raises(DataError, match=r"records\.parquet is not a readable Parquet file"):
        read_dataset(folder)


def rewrite(folder, change):
    frame = gpd.read_parquet(folder / "records.parquet")
    change(frame).to_parquet(folder / "records.parquet", index=False)


def test_a_column_that_the_contract_does_not_know_is_named(three):
    folder, _ = three
    rewrite(folder, lambda frame: frame.rename(columns={"lat": "latitude"}))
    with pytest.raises(SchemaError, match=r"missing \['lat'\], unknown \['latitude'\]"):
        read_dataset(folder)


def test_an_optional_column_may_be_absent(three):
    folder, records = three
    rewrite(folder, lambda frame: frame.drop(columns=["state", "snow_frac"]))
    full = read_dataset(folder)[1]
    assert full == records[1].model_copy(update={"state": None, "snow_frac": None})


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("lat", 95.0, "lat is 95.0"),
        ("temperature_c", 293.0, "temperature_c is 293 °C, outside"),
        ("month", "2021-13", "month is '2021-13'"),
        ("land_cover", 0.0, "land_cover is 0.0"),
        ("lon", math.nan, "lon is missing"),
    ],
)
def test_a_bad_row_of_a_table_is_named_with_file_and_row(three, column, value, message):
    folder, _ = three

    def spoil(frame):
        return frame.assign(**{column: [*frame[column][:1], value, *frame[column][2:]]})

    rewrite(folder, spoil)
    with pytest.raises(SchemaError, match=rf"records\.parquet row 1: {message}"):
        read_dataset(folder)


def test_a_plain_table_without_geometry_is_read_too(three):
    folder, records = three
    frame = pd.DataFrame(gpd.read_parquet(folder / "records.parquet").drop(columns="geometry"))
    frame.to_parquet(folder / "plain.parquet", index=False)
    assert "geometry" not in pq.read_table(folder / "plain.parquet").column_names
    assert read_dataset(folder / "plain.parquet") == records


def test_a_dataset_of_another_version_of_the_contract_is_refused(three):
    folder, _ = three
    schema.write_json(folder / "dataset.json", {"schema_version": schema.SCHEMA_VERSION + 1})
    with pytest.raises(SchemaError, match="keeps version 2 of the contract; this ecomap reads 1"):
        read_dataset(folder)


def test_a_dataset_without_summary_is_read(three):
    folder, records = three
    (folder / "dataset.json").unlink()
    assert read_summary(folder) == {}
    assert read_dataset(folder) == records


@pytest.mark.parametrize("text", ["{", "[1, 2]", ""])
def test_a_damaged_summary_is_one_error_with_its_path(three, text):
    folder, _ = three
    (folder / "dataset.json").write_text(text)
    with pytest.raises(DataError, match=r"dataset\.json"):
        read_summary(folder)


def test_json_is_written_whole_or_not_at_all(tmp_path):
    path = tmp_path / "numbers.json"
    schema.write_json(path, {"a": 1})
    with pytest.raises(TypeError):
        schema.write_json(path, {"a": np.float32(1)})
    assert json.loads(path.read_text()) == {"a": 1}


def test_distinct_items_keep_their_order():
    assert schema.unique(["b", "a", "b", "c", "a"]) == ["b", "a", "c"]
