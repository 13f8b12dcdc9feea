"""Tables are read as their columns are meant, and a wrong value is named with its place."""

import json
from datetime import date, datetime

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ecomap.errors import DataError, SchemaError
from ecomap.record_cells import parser_of
from ecomap.record_tables import SPELLINGS, read_table
from ecomap.schema import CLIMATE, LandCover, TileRecord, months_between


def write(folder, text, name="records.csv"):
    (folder / name).write_text(text, encoding="utf-8")
    return folder / name


def only_row(folder, header, values):
    return read_table(write(folder, f"{header}\n{values}\n")).rows[0]


def test_fields_of_records_are_read_by_their_names(tmp_path):
    header = (
        "image_path,source,batch,location_id,month,lat,lon,land_cover,land_frac,cloud_frac,"
        "temperature_c,precipitation_mm_day,solar_radiation_mj_m2_day,climate_kind,split"
    )
    values = "a.png,made,b,007,2004-07,-12.5,30,Savannas,0.75,0.125,20.5,0.0,18.25,normal,test"
    row = only_row(tmp_path, header, values)
    tile = row.tile
    assert (row.number, row.image, row.key) == (1, "a.png", None)
    assert (tile.place, tile.month, tile.lat, tile.lon) == ("made/b/007", "2004-07", -12.5, 30.0)
    assert tile.land_cover is LandCover.SAVANNAS
    assert (tile.land_frac, tile.cloud_frac) == (0.75, 0.125)
    assert dict(tile.climate) == {
        "temperature_c": 20.5,
        "precipitation_mm_day": 0.0,
        "solar_radiation_mj_m2_day": 18.25,
    }
    assert (tile.climate_kind, tile.split, tile.record) == ("normal", "test", None)


def test_ecomappers_columns_are_read_in_their_true_units(tmp_path):
    header = (
        "location_id,date,latitude,longitude,type,location_address,cloud_coverage,average_temp,"
        "average_prep,average_rad,img_path,seed,prompt"
    )
    values = (
        '7,2017-04-01,48.1,11.5,Barren Lands,"Bavaria, Germany",0.25,8.5,2.25,14,'
        '7_2017-04.png,98,"a, b"'
    )
    table = read_table(write(tmp_path, f"{header}\n{values}\n"))
    tile = table.rows[0].tile
    assert (tile.place, tile.month, tile.lat, tile.lon) == ("7", "2017-04", 48.1, 11.5)
    assert (tile.land_cover, tile.cloud_frac) == (LandCover.BARREN, 0.25)
    assert tile.climate["precipitation_mm_day"] == 2.25
    assert tile.climate["solar_radiation_mj_m2_day"] == 14.0
    assert tile.caption == "a, b"
    assert table.rows[0].image == "7_2017-04.png"
    assert table.notes == (
        "records.csv: these columns are not used: location_address, seed.",
        "records.csv: read as EcoMapper's values are: average_temp as °C, average_prep as mm/day, "
        "average_rad as MJ/m2/day.",
    )


@pytest.mark.parametrize("header", ["Tile ID,FILE", " tile-id , File "])
def test_case_spaces_and_dashes_of_columns_do_not_matter(tmp_path, header):
    row = only_row(tmp_path, header, "k,a.png")
    assert (row.key, row.image) == ("k", "a.png")


def test_of_two_spellings_the_first_counts_and_the_other_is_told(tmp_path):
    table = read_table(write(tmp_path, "file,image_path,prompt,caption\na,b,c,d\n"))
    assert table.rows[0].image == "b"
    assert table.rows[0].tile.caption == "d"
    assert table.notes == ("records.csv: these columns are not used: file, prompt.",)


def test_every_spelling_belongs_to_one_field():
    spellings = [spelling for group in SPELLINGS.values() for spelling in group]
    assert len(spellings) == len(set(spellings))
    used = {"lat", "lon", "month", "split", *CLIMATE, *(f"{n}_history" for n in CLIMATE)}
    assert used <= set(TileRecord.model_fields) & set(SPELLINGS)


def test_parquet_keeps_types_lists_and_times(tmp_path):
    frame = pd.DataFrame(
        {
            "tile_id": ["k1", "k2"],
            "place": [3.0, float("nan")],
            "date": [datetime(2004, 7, 9, 12), pd.NaT],
            "land_cover": [10.0, float("nan")],
            "temperature_c": [1.5, float("nan")],
            "temperature_c_normals": [[*range(12)], None],
            "reflectance_range": [[0.0, 0.4], None],
            "window_px": [[1, 2, 3, 4], None],
        }
    )
    frame.to_parquet(tmp_path / "t.parquet")
    first, second = read_table(tmp_path / "t.parquet").rows
    assert (first.key, first.tile.place, first.tile.month) == ("k1", "3", "2004-07")
    assert first.tile.land_cover is LandCover.GRASSLANDS
    assert first.tile.normals["temperature_c"] == tuple(float(v) for v in range(12))
    assert (first.reflectance_range, first.window_px) == ((0.0, 0.4), (1, 2, 3, 4))
    assert (second.tile.place, second.tile.month, second.tile.land_cover) == (None, None, None)
    assert (dict(second.tile.climate), dict(second.tile.normals)) == ({}, {})
    assert (second.reflectance_range, second.window_px) == (None, None)


def test_lists_stand_in_a_csv_as_json(tmp_path):
    history = json.dumps([None, *range(11)])
    row = only_row(tmp_path, "key,temperature_c_history,window_px", f'k,"{history}","[1, 2, 3, 4]"')
    assert row.tile.history["temperature_c"] == (None, *(float(v) for v in range(11)))
    assert row.window_px == (1, 2, 3, 4)


def test_months_before_come_from_earlier_rows_of_the_place(tmp_path):
    text = """key,place,month,temperature_c,precipitation_mm_day
a,1,2004-01,1,
b,1,2003-12,2,0.5
c,1,2003-01,3,
d,1,2002-12,4,
e,2,2003-12,5,
f,1,2004-02,6,
"""
    table = read_table(write(tmp_path, text))
    rows = {row.key: row.tile for row in table.rows}
    assert rows["a"].history["temperature_c"] == (3.0, *(None,) * 10, 2.0)
    assert rows["a"].history["precipitation_mm_day"] == (*(None,) * 11, 0.5)
    assert rows["f"].history["temperature_c"] == (*(None,) * 10, 2.0, 1.0)
    assert "temperature_c" not in rows["d"].history
    assert "temperature_c" not in rows["e"].history
    # c sees d, b sees c and d (its twelfth month before), a sees b and c, f sees a and b
    assert any("for 4 rows" in note for note in table.notes)


def test_months_before_that_the_table_states_are_kept(tmp_path):
    series = json.dumps([9.0] * 12)
    text = f'key,place,month,temperature_c,temperature_c_history\na,1,2004-02,1,"{series}"\n'
    table = read_table(write(tmp_path, text + "b,1,2004-01,2,\n"))
    assert table.rows[0].tile.history["temperature_c"] == (9.0,) * 12
    assert not table.notes


def test_rows_that_disagree_and_other_kinds_of_climate_fill_nothing(tmp_path):
    text = """key,place,month,temperature_c,climate_kind
a,1,2004-02,0,observed
b,1,2004-01,1,observed
c,1,2004-01,2,observed
d,1,2004-01,1,observed
e,2,2004-02,1,observed
f,2,2004-01,1,normal
"""
    rows = {row.key: row.tile for row in read_table(write(tmp_path, text)).rows}
    assert not any(tile.history for tile in rows.values())


def test_rows_that_agree_fill(tmp_path):
    text = "key,place,month,temperature_c\na,1,2004-02,0\nb,1,2004-01,1\nc,1,2004-01,1\n"
    assert read_table(write(tmp_path, text)).rows[0].tile.history["temperature_c"][-1] == 1.0


@given(st.integers(1, 9998), st.integers(1, 12), st.integers(1, 12))
def test_months_before_are_counted_across_years(year, month, age):
    from ecomap.record_tables import _months_before

    later = f"{year + 1:04d}-{month:02d}"
    earlier = _months_before(later, age)
    assert months_between(earlier, later) == age
    assert 1 <= int(earlier[5:]) <= 12


BAD = [
    ("temperature_c", "293.1", "outside -75 to 55 °C; check the unit: kelvin"),
    ("average_prep", "700", "outside 0 to 120 mm/day"),
    ("temperature_c", "warm", "'warm' is not a number"),
    ("temperature_c", "inf", "not finite"),
    ("month", "2004-13", "expected YYYY-MM"),
    ("month", "7", "expected YYYY-MM"),
    ("date", "01/07/2004", "expected YYYY-MM"),
    ("lat", "90.5", "outside -90 to 90"),
    ("lon", "181", "outside -180 to 180"),
    ("land_cover", "Grassland", "Did you mean 'Grasslands'"),
    ("land_cover", "18", "IGBP codes run from 1 to 17"),
    ("land_cover", "1.5", "unknown"),
    ("type", "generated", "unknown"),
    ("cloud_frac", "40", "outside 0 to 1"),
    ("split", "training", "choose one of train, val"),
    ("climate_kind", "real", "choose one of observed, normal"),
    ("temperature_c_history", "5", "not a list of 12 numbers"),
    ("temperature_c_normals", '"[1, 2]"', "not a list of 12 numbers"),
    ("temperature_c_history", f'"{[300] * 12}"', "outside -75 to 55"),
    ("reflectance_range", '"[0.4, 0]"', "darker reflectance"),
    ("window_px", '"[0, 0, 0, 4]"', "width, height > 0"),
    ("window_px", '"[0, 0.5, 3, 4]"', "whole"),
]


@pytest.mark.parametrize(("column", "value", "message"), BAD)
def test_a_wrong_value_is_named_with_file_row_and_column(tmp_path, column, value, message):
    path = write(tmp_path, f"key,{column}\nfirst,\nsecond,{value}\n")
    with pytest.raises(SchemaError) as caught:
        read_table(path)
    assert f"{path} row 2, column '{column}': " in str(caught.value)
    assert message in str(caught.value)


@pytest.mark.parametrize("empty", ["", "nan", "NaN", "None", "null", "N/A"])
def test_empty_cells_are_not_known(tmp_path, empty):
    header = "key,month,lat,land_cover,temperature_c,temperature_c_history,caption"
    tile = only_row(tmp_path, header, f"k,{empty},{empty},{empty},{empty},{empty},").tile
    assert (tile.month, tile.lat, tile.land_cover, tile.caption) == (None, None, None, None)
    assert (dict(tile.climate), dict(tile.history)) == ({}, {})


def test_a_place_may_be_called_na(tmp_path):
    assert only_row(tmp_path, "key,place", "k,NA").tile.place == "NA"


@pytest.mark.parametrize("value", [date(2004, 7, 1), "2004-07-31T10:00:00Z", " 2004-07 "])
def test_months_are_read_of_days_and_times(value):
    assert parser_of("month")(value) == "2004-07"


@pytest.mark.parametrize("value", [10, 10.0, "10", "10.0", "Grasslands", " grasslands "])
def test_classes_are_read_of_codes_and_names(value):
    assert parser_of("land_cover")(value) is LandCover.GRASSLANDS


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "none of which names images"),
        ("lat,lon\n1,2\n", "has the columns lat, lon, none of which names images"),
        ("key;lat\n1;2\n", "has the columns key;lat, none of which names images"),
        ("key,lat\n", "has no rows"),
        ("key,lat\n1\n", "row 1 has 1 cells, the header 2"),
        ("key,lat\n1,2\n1,2,3\n", "row 2 has 3 cells, the header 2"),
        ("key,lat,lat\n1,2,3\n", "has the column 'lat' twice"),
        ('key,lat\n"1,2\n', "not a readable CSV"),
    ],
)
def test_a_table_that_cannot_be_used_is_refused(tmp_path, text, message):
    path = write(tmp_path, text)
    with pytest.raises(DataError, match=message) as caught:
        read_table(path)
    assert str(path) in str(caught.value)


def test_damaged_and_missing_tables_are_named(tmp_path):
    (tmp_path / "a.parquet").write_bytes(b"PAR1 rest")
    (tmp_path / "a.csv").write_bytes(b"key\n\xff\xfe\n")
    for name, message in (("a.parquet", "Parquet"), ("a.csv", "UTF-8"), ("b.csv", "not exist")):
        with pytest.raises(DataError, match=message):
            read_table(tmp_path / name)


def test_a_mark_of_byte_order_and_blank_lines_do_no_harm(tmp_path):
    path = tmp_path / "records.csv"
    path.write_bytes(b"\xef\xbb\xbfkey,lat\r\n\r\na,1\r\n")
    assert [(row.key, row.tile.lat) for row in read_table(path).rows] == [("a", 1.0)]
