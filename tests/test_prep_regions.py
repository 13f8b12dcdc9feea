"""Regions from files, boxes and countries, and points: what is read, what is refused, and how."""

import json
from pathlib import Path

import geopandas as gpd
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from shapely.geometry import LineString, MultiPolygon, Point, Polygon, box

from data_prep import country_outlines
from data_prep.prep_config import RegionConfig
from data_prep.regions import SAFE_ID, read_points, read_region
from ecomap.errors import DataError, RequestError

# Not symmetric in any way: flips and swaps of axes show.
L_SHAPE = Polygon([(10, 45), (12, 45), (12, 45.5), (10.5, 45.5), (10.5, 47), (10, 47)])


def write(path: Path, shapes, crs="EPSG:4326", layer=None, **columns) -> Path:
    frame = gpd.GeoDataFrame(columns or {"n": range(len(shapes))}, geometry=shapes, crs=crs)
    frame.to_file(path, **({"layer": layer} if layer else {}))
    return path


def region(path: Path):
    return read_region(RegionConfig(path=path))


@pytest.mark.parametrize("name", ["a.geojson", "a.gpkg", "a.shp"])
def test_a_polygon_comes_back_as_it_was_written(tmp_path, name):
    assert region(write(tmp_path / name, [L_SHAPE])).symmetric_difference(L_SHAPE).area < 1e-9


def test_geoparquet_is_read_too(tmp_path):
    gpd.GeoDataFrame(geometry=[L_SHAPE], crs="EPSG:4326").to_parquet(tmp_path / "a.parquet")
    assert region(tmp_path / "a.parquet").equals(L_SHAPE)


def test_geojson_without_a_crs_is_in_degrees_as_its_standard_says(tmp_path):
    path = tmp_path / "a.geojson"
    path.write_text(json.dumps(L_SHAPE.__geo_interface__))
    assert region(path).equals(L_SHAPE)


def test_a_projected_polygon_keeps_its_straight_edges(tmp_path):
    square = box(300_000, 5_000_000, 500_000, 5_300_000)
    path = write(tmp_path / "a.gpkg", [square], crs="EPSG:32633")
    middle = gpd.GeoSeries([Point(400_000, 5_000_000)], crs="EPSG:32633").to_crs("EPSG:4326")[0]
    # Corners alone would leave the southern edge 800 m (0.007 degrees) off at its middle.
    assert region(path).exterior.distance(middle) < 1e-5


def test_features_and_layers_are_united(tmp_path):
    path = write(tmp_path / "a.gpkg", [box(0, 0, 1, 1), box(1, 0, 2, 1)], layer="one")
    write(path, [box(5, 5, 6, 7)], layer="two")
    found = region(path)
    assert isinstance(found, MultiPolygon)
    assert sorted(part.bounds for part in found.geoms) == [(0, 0, 2, 1), (5, 5, 6, 7)]


def test_a_projected_polygon_over_the_antimeridian_is_split(tmp_path):
    square = box(700_000, 8_000_000, 1_000_000, 8_100_000)  # zone 60 south, beyond its eastern edge
    found = region(write(tmp_path / "a.gpkg", [square], crs="EPSG:32760"))
    west, east = sorted(found.geoms, key=lambda part: part.bounds[0])
    assert west.bounds[0] == -180
    assert -179 < west.bounds[2] < -178
    assert east.bounds[2] == 180
    assert 178 < east.bounds[0] < 179
    assert found.is_valid


def test_a_polygon_around_the_pole_holds_the_pole(tmp_path):
    found = region(
        write(tmp_path / "a.gpkg", [Point(0, 0).buffer(2_000_000)], crs="EPSG:3031")
    )  # 2,000 km about the South Pole: to 71.6 degrees
    assert found.contains(Point(30, -89.5))
    assert found.contains(Point(-170, -75))
    assert not found.contains(Point(30, -70))
    assert found.bounds[1] == -90


def test_rounding_beyond_the_edge_of_the_map_is_clipped(tmp_path):
    found = region(write(tmp_path / "a.gpkg", [box(170, -90.0000001, 180.0000001, -80)]))
    assert found.bounds == (170, -90, 180, -80)


def refused(path: Path, *parts: str, error=DataError) -> None:
    with pytest.raises(error) as caught:
        region(path)
    for part in parts:
        assert part in str(caught.value)


def test_a_polygon_that_crosses_itself_is_refused_with_the_place(tmp_path):
    bow = Polygon([(0, 0), (4, 4), (4, 0), (0, 4)])
    path = write(tmp_path / "a.gpkg", [L_SHAPE, bow])
    refused(path, "feature 2", "Self-intersection[2 2]", "Fix geometries", "make_valid")


def test_lines_and_points_are_refused_with_what_to_do(tmp_path):
    refused(write(tmp_path / "a.gpkg", [LineString([(0, 0), (1, 1)])]), "LineString", "buffer")
    refused(write(tmp_path / "b.gpkg", [Point(0, 0)]), "Point", "region.points")


def test_a_missing_crs_is_refused_with_what_to_do(tmp_path):
    path = write(tmp_path / "a.shp", [L_SHAPE])
    path.with_suffix(".prj").unlink()
    refused(path, "does not say its CRS", "x 10 to 12, y 45 to 47", ".prj", "Assign projection")


def test_a_crs_that_its_coordinates_contradict_is_refused(tmp_path):
    metres = box(300_000, 5_000_000, 400_000, 5_100_000)
    degrees = tmp_path / "a.geojson"
    degrees.write_text(json.dumps(metres.__geo_interface__))
    refused(degrees, "wrong CRS", "WGS 84, in degrees", "x 300000 to 400000", "metres")
    path = write(tmp_path / "b.gpkg", [L_SHAPE], crs="EPSG:32633")
    refused(path, "wrong CRS", "looks like degrees", "EPSG:4326")
    far = write(tmp_path / "c.gpkg", [box(1e9, 1e9, 2e9, 2e9)], crs="EPSG:3035")
    refused(far, "wrong CRS", "outside the map")


def test_longitudes_beyond_180_are_refused_with_what_to_do(tmp_path):
    path = tmp_path / "a.geojson"
    path.write_text(json.dumps(box(170, -20, 190, -10).__geo_interface__))
    refused(path, "x 170 to 190", "split at 180")


def test_an_edge_more_than_half_around_the_earth_is_refused(tmp_path):
    across = Polygon([(177, -18), (-178, -18), (-178, -16), (177, -16)])
    path = tmp_path / "a.geojson"
    path.write_text(json.dumps(across.__geo_interface__))
    refused(path, "from longitude 177 to -178", "west > east")
    both = MultiPolygon([L_SHAPE, across])
    path.write_text(json.dumps(both.__geo_interface__))
    refused(path, "from longitude 177 to -178")


def test_the_whole_earth_is_a_region(tmp_path):
    assert region(write(tmp_path / "a.gpkg", [box(-180, -90, 180, 90)])).area == 360 * 180


def test_missing_damaged_and_empty_files_are_refused(tmp_path):
    refused(tmp_path / "no.gpkg", "does not exist")
    (tmp_path / "a.geojson").write_text("nonsense")
    refused(tmp_path / "a.geojson", "cannot be read", "QGIS")
    (tmp_path / "b.parquet").write_text("nonsense")
    refused(tmp_path / "b.parquet", "cannot be read")
    (tmp_path / "c.geojson").write_text('{"type": "FeatureCollection", "features": []}')
    refused(tmp_path / "c.geojson", "has no shapes")
    refused(write(tmp_path / "d.gpkg", [L_SHAPE, None]), "feature 2 has no shape", "1 of 2")


def bbox(*values):
    return read_region(RegionConfig(bbox=values))


def test_a_box_has_its_corners():
    assert bbox(10, 45, 12, 46.5).bounds == (10, 45, 12, 46.5)
    assert bbox(10, 45, 12, 46.5).area == 3


def test_a_box_with_west_above_east_crosses_the_antimeridian():
    found = bbox(170, -20, -175, -10)
    assert sorted(part.bounds for part in found.geoms) == [
        (-180, -20, -175, -10),
        (170, -20, 180, -10),
    ]
    assert bbox(180, -20, -175, -10).bounds == (-180, -20, -175, -10)
    assert bbox(170, -20, -180, -10).bounds == (170, -20, 180, -10)


@given(
    st.floats(-180, 180), st.floats(-90, 89), st.floats(-180, 180), st.floats(0.01, 1)
)  # fmt: skip
def test_a_box_is_as_wide_as_it_runs_eastwards(west, south, east, height):
    width = (east - west) % 360
    if 1e-6 < width < (360 - 1e-6 if west < east else 180):
        found = bbox(west, south, east, south + height)
        assert found.area == pytest.approx(width * ((south + height) - south), rel=1e-6)
        assert found.is_valid


@pytest.mark.parametrize(
    ("values", "parts"),
    [
        ((10, 46, 12, 45), ("inverted", "south 46 is not below north 45")),
        ((10, 45, 12, 45), ("inverted",)),
        ((10, 45, 10, 46), ("no width",)),
        ((10, 45, 190, 46), ("not on Earth", "-180 to 180")),
        ((45, -91, 46, 12), ("not on Earth",)),
        ((3e5, 5e6, 4e5, 5.1e6), ("not on Earth", "metres")),
    ],
)
def test_an_impossible_box_is_refused(values, parts):
    with pytest.raises(RequestError) as caught:
        bbox(*values)
    for part in parts:
        assert part in str(caught.value)


def country(name, **changes):
    return read_region(RegionConfig(country=name, **changes))


@pytest.mark.parametrize(
    ("names", "inside"),
    [
        (("Kenya", "KENYA", "KE", "ken"), (36.8, -1.3)),  # Nairobi
        (("Norway", "NOR", "no"), (9.5, 61.5)),  # the source has no code for it
        (("Côte d'Ivoire", "cote d ivoire", "Ivory Coast", "CI"), (-5.3, 6.8)),  # Yamoussoukro
        (("Bosnia and Herzegovina", "BA"), (18.0, 44.0)),
        (("UK", "United Kingdom", "GB"), (-1.5, 52.5)),
        (("USA", "United States of America", "us"), (-100.0, 40.0)),
    ],
)
def test_countries_are_found_by_their_names_and_codes(names, inside):
    for name in names:
        assert country(name).contains(Point(inside))


def test_congo_is_not_the_democratic_republic():
    assert not country("Congo").intersection(country("COD")).area > 0.01


def test_a_country_over_the_antimeridian_has_both_sides():
    found = country("Fiji")
    assert found.is_valid
    assert found.bounds[0] == -180
    assert found.bounds[2] == 180


def test_an_unknown_country_is_refused_with_a_suggestion():
    with pytest.raises(RequestError, match="Did you mean 'Croatia'"):
        country("Croatja")
    with pytest.raises(RequestError, match="leave out small countries: give countries_path"):
        country("Malta")


def test_outlines_of_the_user_need_a_column_of_names(tmp_path):
    path = write(tmp_path / "a.gpkg", [L_SHAPE, box(0, 0, 1, 1)], ADMIN=["Lland", "Box"])
    assert country("lland", countries_path=path).equals(L_SHAPE)
    bad = write(tmp_path / "b.gpkg", [L_SHAPE], title=["Lland"])
    with pytest.raises(DataError, match=r"Looked for admin, .*name.*it has title"):
        country("lland", countries_path=bad)
    with pytest.raises(RequestError, match=r"not in a.gpkg. Did you mean 'Lland'") as caught:
        country("lande", countries_path=path)
    assert "ship" not in str(caught.value)


def test_rows_of_one_country_are_united_and_countries_come_before_states(tmp_path):
    shapes = [box(0, 0, 1, 1), box(2, 0, 3, 1), box(8, 8, 9, 9)]
    columns = {
        "name": ["North", "South", "Georgia"],
        "admin": ["Georgia", "Georgia", "United States"],
        "sovereignt": ["Georgia", "Georgia", "United States"],
    }
    path = write(tmp_path / "a.gpkg", shapes, **columns)
    assert country("Georgia", countries_path=path).bounds == (0, 0, 3, 1)
    assert country("South", countries_path=path).bounds == (2, 0, 3, 1)


def test_only_the_country_asked_for_must_be_valid(tmp_path):
    bow = Polygon([(0, 0), (4, 4), (4, 0), (0, 4)])
    path = write(tmp_path / "a.gpkg", [bow, L_SHAPE], name=["Bow", "Lland"])
    assert country("Lland", countries_path=path).equals(L_SHAPE)
    with pytest.raises(DataError, match="feature 1"):
        country("Bow", countries_path=path)


def test_the_outlines_that_ship_say_what_they_are_and_are_small():
    path = country_outlines.RESOURCE_PATH
    about = pq.read_schema(path).metadata
    assert b"Natural Earth" in about[b"source"]
    assert about[b"license"] == b"Public domain"
    assert path.stat().st_size < 300_000
    frame = gpd.read_parquet(path)
    assert len(frame) == 177
    assert frame.geometry.is_valid.all()
    codes = [code for code in [*frame.iso_a3, *frame.iso_a2] if code]
    assert len(codes) == len(set(codes)) == 2 * 175
    assert set(frame.name[frame.iso_a3 == ""]) == {"Northern Cyprus", "Somaliland"}


def test_the_outlines_that_ship_are_made_by_their_script(tmp_path):
    source = country_outlines.fixture_path()
    if not source.is_file():
        pytest.skip("this build of pyogrio comes without its test files")
    country_outlines.write_outlines(
        country_outlines.make_outlines(source), tmp_path / "countries.parquet"
    )
    made = gpd.read_parquet(tmp_path / "countries.parquet")
    shipped = gpd.read_parquet(country_outlines.RESOURCE_PATH)
    assert made.drop(columns="geometry").equals(shipped.drop(columns="geometry"))
    assert made.geometry.geom_equals_exact(shipped.geometry, 1e-12).all()
    assert made.crs == shipped.crs


def test_the_script_refuses_other_files(tmp_path):
    with pytest.raises(DataError, match="does not exist"):
        country_outlines.make_outlines(tmp_path / "no.shp")
    with pytest.raises(DataError, match="Expected NAME and ISO_A3"):
        country_outlines.make_outlines(write(tmp_path / "a.gpkg", [L_SHAPE]))


def table(tmp_path: Path, text: str, name="points.csv") -> Path:
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    return path


def test_points_come_in_their_order_with_their_ids(tmp_path):
    path = table(tmp_path, "id,lat,lon,other\nb-2,-1.25,36.8,x\na_1,46.5,11.3,y\n")
    assert read_points(path) == [("b-2", -1.25, 36.8), ("a_1", 46.5, 11.3)]
    path = table(tmp_path, "\ufeffLongitude;Latitude;ID\n36.8;-1.25;7\n")
    assert read_points(path) == [("7", -1.25, 36.8)]


def test_points_without_ids_are_named_after_their_coordinates(tmp_path):
    path = table(tmp_path, "lat,lon\n-1.25,36.8\n46.5,-11.3\n")
    assert [name for name, _, _ in read_points(path)] == [
        "s01_25000_e036_80000",
        "n46_50000_w011_30000",
    ]


def test_points_of_a_vector_file_are_brought_to_degrees(tmp_path):
    path = write(tmp_path / "a.gpkg", [Point(500_000, 0)], crs="EPSG:32637", id=["x"])
    [(name, lat, lon)] = read_points(path)
    assert (name, lat, lon) == ("x", pytest.approx(0, abs=1e-9), pytest.approx(39))


def test_longitude_180_is_minus_180(tmp_path):
    assert read_points(table(tmp_path, "lat,lon,id\n-17,180,a\n")) == [("a", -17, -180)]


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("lat,lon\n", ("has no points",)),
        ("", ("Expected lat and lon",)),
        ("x,y\n1,2\n", ("columns ['x', 'y']", "Expected lat and lon")),
        ("lat,lon\n1,2\n100,20\n", ("line 3", "(100, 20)", "swapped")),
        ("lat,lon\n1,200\n", ("line 2", "Subtract 360", "-160")),
        ("lat,lon\n5000000,300000\n", ("line 2", "metres")),
        ("lat,lon\n1,nan\n", ("line 2", "not a place on Earth")),
        ("lat,lon\n1;5,2\n", ("line 2", "'1;5'", "decimal point")),
        ("lat,lon\n1\n", ("line 2", "lon is None")),
        ("lat,lon\n1,2\n3,4\n1,2\n", ("line 4 repeats the point (1, 2)", "line 2")),
        ("lat,lon\n1,180\n1,-180\n", ("line 3 repeats the point",)),
        ("id,lat,lon\nA,1,2\na,3,4\n", ("line 3 repeats the id 'a'", "line 2")),
        ("id,lat,lon\n../a,1,2\n", ("line 2", "'../a'", "name of a file")),
        ("id,lat,lon\na b,1,2\n", ("name of a file",)),
    ],
)
def test_bad_points_are_refused_by_row(tmp_path, text, parts):
    with pytest.raises(DataError) as caught:
        read_points(table(tmp_path, text))
    for part in parts:
        assert part in str(caught.value)


def test_bad_files_of_points_are_refused(tmp_path):
    with pytest.raises(DataError, match="does not exist"):
        read_points(tmp_path / "no.csv")
    (tmp_path / "a.csv").write_bytes("lat,lon,id\n1,2,é\n".encode("latin-1"))
    with pytest.raises(DataError, match="UTF-8"):
        read_points(tmp_path / "a.csv")
    with pytest.raises(DataError, match="feature 1 is a Polygon, not a point"):
        read_points(write(tmp_path / "a.gpkg", [L_SHAPE]))
    with pytest.raises(RequestError, match="Use read_points"):
        read_region(RegionConfig(points=tmp_path / "a.csv"))


@given(st.floats(-90, 90), st.floats(-180, 179.99))
def test_names_after_coordinates_can_be_names_of_files(tmp_path_factory, lat, lon):
    path = table(tmp_path_factory.mktemp("points"), f"lat,lon\n{lat!r},{lon!r}\n")
    [(name, found_lat, found_lon)] = read_points(path)
    assert SAFE_ID.fullmatch(name)
    assert (found_lat, found_lon) == (lat, lon)


def test_a_box_with_west_and_east_swapped_is_not_taken_for_the_rest_of_the_globe():
    with pytest.raises(RequestError, match=r"359\.8 degrees wide. Swap west and east"):
        read_region(RegionConfig(bbox=(15.7, 45.4, 15.5, 45.6)))
    assert read_region(RegionConfig(bbox=(170, -20, -170, -10))).area == pytest.approx(200)
