import json
from datetime import datetime

import netCDF4
import numpy as np
import pytest
import rasterio
import xarray as xr
from pyproj import CRS

from ecomap.errors import DataError, RequestError
from ecomap.outputs import DIGITAL_SOURCE_TYPE, SYNTHETIC_STATEMENT, write_geotiff
from ecomap.sequence import SequenceFolder
from ecomap.sequence_cube import month_span, open_cube, write_cube
from tests.made_sequence import SIZE_PX, make_plan, make_start, write_sequence


@pytest.fixture(scope="module")
def sequence(tmp_path_factory):
    folder = write_sequence(tmp_path_factory.mktemp("sequence"))
    write_cube(folder)
    return folder


@pytest.fixture(scope="module")
def netcdf(sequence):
    with xr.open_dataset(sequence.path / "sequence_synth.nc", decode_coords="all") as dataset:
        yield dataset.load()


@pytest.fixture(scope="module")
def pixel_cube(tmp_path_factory):
    folder = write_sequence(
        tmp_path_factory.mktemp("png"), georeferenced=False, scenarios=1, members=1, months=1
    )
    write_cube(folder)
    with xr.open_dataset(folder.path / "sequence_synth.nc", decode_coords="all") as dataset:
        yield dataset.load()


def files_of(path):
    found = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file())
    return {p.relative_to(path.parent).as_posix(): p.read_bytes() for p in found}


def test_every_frame_lies_at_its_scenario_member_and_month(sequence, netcdf):
    assert netcdf.image.dims == ("scenario", "member", "band", "time", "y", "x")
    assert netcdf.image.dtype == np.uint8
    for scenario, member, record in sequence.frames():
        found = netcdf.image.sel(scenario=scenario, member=member).sel(time=record.month)
        frame = sequence.read(scenario, member, record.month)
        assert (found.squeeze("time").transpose("y", "x", "band").values == frame).all()


def test_months_have_bounds_and_lie_in_the_middle_of_them(netcdf):
    assert netcdf.time.values[1] == np.datetime64("2030-04-16T00:00:00")
    bounds = netcdf[netcdf.time.encoding["bounds"]].values
    assert (bounds[1] == np.array(["2030-04-01", "2030-05-01"], "datetime64[ns]")).all()


def test_members_are_realizations_with_their_seeds(netcdf):
    assert netcdf.member.attrs["standard_name"] == "realization"
    assert netcdf.seed.values.tolist() == [7, 8]


def test_pixels_lie_where_those_of_the_frames_do(sequence, netcdf):
    scenario, member, record = next(sequence.frames())
    with rasterio.open(sequence.frame_path(scenario, member, record.month)) as frame:
        x, y = frame.xy(3, 5)
        assert CRS.from_cf(netcdf.crs.attrs) == CRS.from_user_input(frame.crs)
    assert (float(netcdf.x[5]), float(netcdf.y[3])) == (x, y)
    assert netcdf.crs.attrs["grid_mapping_name"] == "transverse_mercator"
    assert netcdf.image.encoding["grid_mapping"] == "crs"
    assert netcdf.x.attrs["standard_name"] == "projection_x_coordinate"
    assert netcdf.y.attrs["axis"] == "Y"


def test_gdal_finds_the_place_of_the_netcdf(sequence):
    with rasterio.open(f"netcdf:{sequence.path / 'sequence_synth.nc'}:image") as image:
        assert image.crs.to_epsg() == 32633
        assert image.transform[:6] == make_start().transform


def test_the_file_is_plain_netcdf4_with_attributes_of_cf(sequence):
    with netCDF4.Dataset(sequence.path / "sequence_synth.nc") as file:
        assert file.Conventions == "CF-1.11"
        image = file["image"]
        assert image.dtype == np.uint8
        assert set(image.coordinates.split()) == {"scenario", "band"}
        assert image.chunking() == [1, 1, 3, 1, SIZE_PX, SIZE_PX]
        assert file["time"].units == "days since 1970-01-01"
        assert file["temperature_c"].units == "degC"
        assert file["temperature_c"].cell_methods == "time: mean"
        # Coordinates may not say that values are missing (CF 2.5.1), bounds neither (7.1).
        for name in ("time", "time_bnds", "x", "y", "member"):
            assert "_FillValue" not in file[name].ncattrs()


def test_the_file_says_that_its_images_are_synthetic_and_how_they_were_made(sequence, netcdf):
    for attributes in (netcdf.attrs, netcdf.image.attrs):
        assert attributes["synthetic"] == "true"
        assert attributes["comment"] == SYNTHETIC_STATEMENT
        assert attributes["digital_source_type"] == DIGITAL_SOURCE_TYPE
    assert netcdf.start_image.attrs["synthetic"] == "false"
    plan = json.loads(netcdf.attrs["ecomap_plan"])
    assert plan["model"] == sequence.plan.model
    assert plan["seed"] == 7
    assert json.loads(netcdf.attrs["ecomap_scenarios"])["plus_2c"]["facts"] == {"temperature_c": 2}


def test_climate_and_support_stand_beside_the_images(netcdf):
    assert netcdf.temperature_c.sel(scenario="plus_2c").values.tolist() == [-1, 11, 21]
    assert "solar_radiation_mj_m2_day" not in netcdf
    assert netcdf.outside_support.values.tolist() == [[0, 0, 1], [0, 0, 1]]
    assert netcdf.outside_support.attrs["flag_meanings"] == "not_known inside outside"


def test_support_that_is_not_known_is_not_inside(tmp_path):
    plan = make_plan(georeferenced=True, scenarios=1, members=1, months=1)
    folder = SequenceFolder(tmp_path, plan.model_copy(update={"support": {}}))
    write_sequence(tmp_path, scenarios=1, members=1, months=1, with_frames=False)
    cube = open_cube(folder)
    assert cube.outside_support.values.tolist() == [[-1]]
    assert cube.attrs["title"] == "made: generated images of one place under 1 scenario"


def test_zarr_holds_the_same_dataset_in_version_3(sequence, netcdf):
    path = sequence.path / "sequence_synth.zarr"
    assert json.loads((path / "zarr.json").read_text())["zarr_format"] == 3
    with xr.open_zarr(path, decode_coords="all") as dataset:
        loaded = dataset.load()
    texts = ("scenario", "scenario_title", "band")
    for name in texts:
        assert loaded[name].values.tolist() == netcdf[name].values.tolist()
    # Names of scenarios are text of another kind, which `identical` holds for a difference.
    assert loaded.drop_vars(texts).drop_attrs().identical(netcdf.drop_vars(texts).drop_attrs())
    assert loaded.attrs == netcdf.attrs


def test_a_start_without_crs_gives_pixel_coordinates_around_a_point(pixel_cube):
    assert pixel_cube.x.values.tolist() == list(range(SIZE_PX))
    assert "no coordinate system" in pixel_cube.x.attrs["comment"]
    assert "crs" not in pixel_cube.variables
    assert (float(pixel_cube.lat), float(pixel_cube.lon)) == (47.0, 15.01)
    assert set(pixel_cube.image.encoding["coordinates"].split()) >= {"lat", "lon"}


@pytest.mark.parametrize(
    ("crs", "transform", "names"),
    [
        ("EPSG:4326", (0.1, 0, 15, 0, -0.1, 48), ("longitude", "latitude")),
        # CF has no name for this projection: WKT says it, and the centre is given.
        ("EPSG:3857", (10, 0, 1.67e6, 0, -10, 5.94e6), ("projection_x_coordinate",)),
        ("EPSG:32633", (10, 1, 500600, 1, -10, 5205300), ()),  # rotated: no axis is its own
    ],
)
def test_other_grids(tmp_path, crs, transform, names):
    folder = write_sequence(tmp_path, scenarios=1, members=1, months=1, with_frames=False)
    start = folder.plan.start.model_copy(update={"crs": crs, "transform": transform})
    cube = open_cube(SequenceFolder(tmp_path, folder.plan.model_copy(update={"start": start})))
    found = [cube[axis].attrs.get("standard_name") for axis in ("x", "y")]
    assert found[: len(names)] == list(names)
    assert ("crs" in cube) == bool(names)
    assert ("lat" in cube.coords) == (crs != "EPSG:4326")
    if "crs" in cube:
        assert CRS.from_wkt(cube.crs.attrs["crs_wkt"]) == CRS.from_user_input(crs)


def test_writing_again_gives_the_same_bytes_and_leaves_nothing_else(sequence):
    before = {path: files_of(sequence.path / path) for path in listing(sequence.path)}
    stale = sequence.path / "sequence_synth.zarr" / "stale"
    stale.write_text("of an older run")
    write_cube(sequence)
    assert {path: files_of(sequence.path / path) for path in listing(sequence.path)} == before


def listing(folder):
    return sorted(path.name for path in folder.iterdir())


def test_missing_frames_are_counted_and_nothing_is_written(tmp_path):
    folder = write_sequence(tmp_path, scenarios=2, members=1, months=1)
    folder.frame_path("plus_2c", 0, "2030-01").unlink()
    with pytest.raises(DataError, match="lacks 1 of 2 frames"):
        write_cube(folder)
    assert not list(tmp_path.glob("*sequence*"))


def test_a_frame_of_another_size_is_named_and_leaves_no_half_file(tmp_path):
    folder = write_sequence(tmp_path, scenarios=1, members=1, months=1)
    path = folder.frame_path("normal", 0, "2030-01")
    write_geotiff(path, np.zeros((16, 16, 3), np.uint8), None, {})
    with pytest.raises(DataError, match=r"2030-01_synth\.tif has 16 x 16 px\. Expected 32 x 32"):
        write_cube(folder)
    assert not list(tmp_path.glob("*sequence*"))


def test_scenarios_with_other_months_do_not_become_one_cube(tmp_path):
    folder = write_sequence(tmp_path, scenarios=2, members=1, months=2)
    first, second = folder.plan.timelines
    shorter = second.model_copy(update={"records": second.records[:1]})
    plan = folder.plan.model_copy(update={"timelines": (first, shorter)})
    with pytest.raises(RequestError, match="'plus_2c' shows 1 months"):
        write_cube(SequenceFolder(tmp_path, plan))


def test_frames_are_read_only_when_they_are_asked_for(tmp_path):
    folder = write_sequence(tmp_path, scenarios=1, members=1, months=2)
    folder.frame_path("normal", 0, "2030-04").unlink()
    cube = open_cube(folder)
    assert cube.image.isel(time=0).values.any()
    with pytest.raises(DataError, match=r"2030-04_synth\.tif does not exist"):
        cube.image.isel(time=1).load()


@pytest.mark.parametrize(
    ("month", "end"),
    [("2030-01", (2030, 2, 1)), ("2028-02", (2028, 3, 1)), ("2030-12", (2031, 1, 1))],
)
def test_a_month_ends_where_the_next_begins(month, end):
    assert month_span(month) == (datetime.strptime(month, "%Y-%m"), datetime(*end))
