"""The table of normals: real places, and how it was made."""

import numpy as np
import pytest
import xarray as xr

from data_prep.normals_table import build_normals, majority_cover, points_to_cells
from ecomap.errors import DataError, RequestError
from ecomap.normals import footprint_of, normal_fields, open_normals
from ecomap.schema import LandCover
from tests.fakes import make_tile


def test_known_places_have_their_climate():
    normals = open_normals()
    amazon = normals.climate(-3, -60)
    assert 25 < amazon["temperature_c"].mean() < 28
    assert 1800 < (amazon["precipitation_mm_day"] * 30.4).sum() < 3200
    siberia = normals.climate(62, 129.7)["temperature_c"]  # Yakutsk
    assert siberia[0] < -33
    assert 15 < siberia[6] < 22
    assert normals.land_cover(23, 10) == LandCover.BARREN
    assert normals.land_cover(-3, -60, (2, 2)) == LandCover.EVERGREEN_BROADLEAF_FORESTS


def test_a_footprint_averages_its_land_and_a_point_takes_its_cell():
    normals = open_normals()
    coast = normals.climate(44.0, -125.0, (8, 8))["temperature_c"]  # half ocean
    inland = normals.climate(44.0, -122.5, (8, 3))["temperature_c"]
    assert np.abs(coast - inland).max() < 1.5
    assert 0.3 < normals.land_frac(44.0, -125.0, (8, 8)) < 0.7
    row, column = 92, 380  # cell centred on 43.75 N, 10.25 E
    assert (normals.lat[row], normals.lon[column]) == (43.75, 10.25)
    values = normals.climate(43.8, 10.3)["temperature_c"]
    np.testing.assert_allclose(values, normals.monthly["temperature_c"][:, row, column])


def test_a_record_under_its_normals_carries_the_year_before_its_month():
    year = [float(month) for month in range(1, 13)]
    for normals in (year, np.array(year)):
        fields = normal_fields({"temperature_c": normals}, 2)
        assert fields == {
            "temperature_c": 3.0,
            "temperature_c_history": (*year[2:], *year[:2]),
            "temperature_c_normals": tuple(year),
        }
        assert type(fields["temperature_c"]) is float
    assert normal_fields({"temperature_c": year}, 0)["temperature_c_history"] == tuple(year)
    assert normal_fields({}, 5) == {}


def test_the_antimeridian_is_no_border():
    normals = open_normals()
    over = normals.climate(66.5, 180.0, (2, 4))["temperature_c"]
    west, east = (normals.climate(66.5, lon, (2, 4))["temperature_c"] for lon in (177.5, -177.5))
    assert min(west[0], east[0]) - 2 < over[0] < max(west[0], east[0]) + 2
    assert normals.land_cover(0, -150) == LandCover.WATER_BODIES


def test_a_place_off_the_earth_is_refused():
    with pytest.raises(RequestError, match=r"\(95, 0\) is not on Earth"):
        open_normals().climate(95, 0)


def test_footprints_follow_the_grid():
    assert footprint_of(make_tile(crs="EPSG:4326", transform=(0.5, 0, 0, 0, -0.25, 0))) == (
        4.0,
        8.0,
    )
    lat_deg, lon_deg = footprint_of(make_tile(lat=60.0, width_px=32))
    assert lat_deg == pytest.approx(160 / 111195, rel=1e-6)
    assert lon_deg == pytest.approx(2 * 2 * lat_deg, rel=1e-6)


def test_points_are_averaged_over_the_cells_that_they_span():
    points = np.zeros((721, 1440))
    points[1, 1] = 4.0  # inside the first cell only
    points[2, 3] = 8.0  # on the border of the first and second row, inside the second column
    points[3, 0] = 16.0  # on the border of the last and the first column
    cells = points_to_cells(points)
    assert cells.shape == (360, 720)
    assert cells[0, 0] == pytest.approx(4 / 4)
    assert cells[0, 1] == cells[1, 1] == pytest.approx(8 / 8)
    assert cells[1, 0] == cells[1, 719] == pytest.approx(16 / 8)
    assert cells.sum() == pytest.approx(4 / 4 + 8 / 4 + 16 / 4)


def test_majority_counts_land_only():
    classes = np.zeros((3600, 7200), np.uint8)
    classes[:10, :3] = 10
    classes[:10, 3:5] = 16
    cover, land = majority_cover(classes)
    assert (cover[0, 0], land[0, 0]) == (10, 50)
    assert (cover[0, 1], land[0, 1]) == (int(LandCover.WATER_BODIES), 0)


def test_a_source_in_other_units_is_refused(tmp_path):
    era5 = xr.Dataset(
        {name: (("month", "lat", "lon"), np.zeros((12, 2, 2)), {"units": "K"})
         for name in ("t2m", "tp")}
    )  # fmt: skip
    era5.to_netcdf(tmp_path / "era5.nc", engine="h5netcdf")
    with pytest.raises(DataError, match=r"\('K', 'K'\)"):
        build_normals(tmp_path / "era5.nc", tmp_path / "none.tif", tmp_path / "out.nc")


@pytest.mark.shared
def test_the_shipped_table_is_what_the_script_makes(shared_data, tmp_path):
    build_normals(
        shared_data / "climatology" / "era5_monthly_climatology_0p25.nc",
        shared_data / "landcover" / "igbp_mcd12c1_2019_0p05.tif",
        tmp_path / "normals.nc",
    )
    from ecomap.normals import TABLE_PATH

    with xr.open_dataset(tmp_path / "normals.nc") as made, xr.open_dataset(TABLE_PATH) as shipped:
        xr.testing.assert_allclose(made, shipped)
