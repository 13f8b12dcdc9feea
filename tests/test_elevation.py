"""Elevation under latent cells: means by hand, other grids, and what is refused."""

import numpy as np
import pytest
import rasterio
from rasterio.transform import Affine
from rasterio.warp import transform as transform_points

from ecomap.climate_maps import LAPSE_RATE_C_PER_M, climate_maps
from ecomap.elevation import read_elevation
from ecomap.errors import DataError, RequestError
from tests.fakes import make_tile

UTM = "EPSG:32632"
LEFT, TOP = 500_000.0, 5_000_000.0
HEIGHT_PX, WIDTH_PX = 32, 40
"""Four by five cells."""


def tile(**changes):
    fields = {
        "lat": 45.15, "lon": 9.0, "height_px": HEIGHT_PX, "width_px": WIDTH_PX, "crs": UTM,
        "transform": (10.0, 0.0, LEFT, 0.0, -10.0, TOP),
    }  # fmt: skip
    return make_tile(**fields | changes)


def hills(dtype="int16"):
    """Heights on the tile's own pixels, alike nowhere."""
    return np.random.default_rng(0).integers(0, 1000, (HEIGHT_PX, WIDTH_PX)).astype(dtype)


def write(path, heights, *, transform=None, crs=UTM, nodata=None, **tags):
    profile = {
        "driver": "GTiff", "height": heights.shape[0], "width": heights.shape[1], "count": 1,
        "dtype": heights.dtype, "crs": crs, "nodata": nodata,
        "transform": transform or Affine(10, 0, LEFT, 0, -10, TOP),
    }  # fmt: skip
    with rasterio.open(path, "w", **profile) as file:
        file.write(heights, 1)
        for name, value in tags.items():
            setattr(file, name, (value,))
    return path


def test_heights_are_means_over_the_area_of_a_cell(tmp_path):
    heights = hills()
    found = read_elevation(write(tmp_path / "dem.tif", heights), tile())
    expected = heights.reshape(4, 8, 5, 8).mean((1, 3))
    assert found.elevation_m.dtype == np.float64
    np.testing.assert_allclose(found.elevation_m, expected, rtol=1e-9)
    assert found.notes == ()


def test_a_model_in_degrees_lies_where_it_should(tmp_path):
    """A plane that rises to the east and falls to the south, far beyond the tile's edges."""
    step = 0.0001
    transform = Affine(step, 0, 8.95, 0, -step, 45.2)
    rows, columns = np.indices((1000, 1000)) + 0.5
    lons, lats = 8.95 + step * columns, 45.2 - step * rows
    plane = ((lons - 9) * 50_000 + (lats - 45.15) * 80_000 + 500).astype("float32")
    path = write(tmp_path / "dem.tif", plane, transform=transform, crs="EPSG:4326")
    found = read_elevation(path, tile()).elevation_m
    row, column = np.indices((4, 5)) + 0.5
    xs, ys = LEFT + 80 * column.ravel(), TOP - 80 * row.ravel()
    lons, lats = map(np.array, transform_points(UTM, "EPSG:4326", xs.tolist(), ys.tolist()))
    expected = (lons - 9) * 50_000 + (lats - 45.15) * 80_000 + 500
    np.testing.assert_allclose(found.ravel(), expected, atol=2)
    assert np.ptp(expected) > 300


def test_a_tile_that_is_no_multiple_of_a_cell_gets_cells_beyond_it(tmp_path):
    heights = hills()
    path = write(tmp_path / "dem.tif", heights)
    found = read_elevation(path, tile(height_px=30, width_px=33))
    expected = heights.reshape(4, 8, 5, 8).mean((1, 3))
    np.testing.assert_allclose(found.elevation_m, expected, rtol=1e-9)


def test_a_model_that_ends_with_the_tile_covers_its_last_cells(tmp_path):
    heights = hills()[:26, :33]
    found = read_elevation(write(tmp_path / "dem.tif", heights), tile(height_px=26, width_px=33))
    assert found.elevation_m.shape == (4, 5)
    rest = heights[24:, 32:]  # GDAL weighs pixels at the edge of a file in its own way
    assert rest.min() <= found.elevation_m[3, 4] <= rest.max()
    expected = heights[:24, :32].reshape(3, 8, 4, 8).mean((1, 3))
    np.testing.assert_allclose(found.elevation_m[:3, :4], expected, rtol=1e-9)
    assert found.notes == ()


def test_cells_without_data_get_the_mean_of_the_others_and_are_counted(tmp_path):
    heights = hills()
    heights[:8, :8] = -9999
    heights[8:12, :8] = -9999
    path = write(tmp_path / "dem.tif", heights, nodata=-9999)
    found = read_elevation(path, tile())
    expected = hills().reshape(4, 8, 5, 8).mean((1, 3))
    expected[1, 0] = heights[12:16, :8].mean()
    expected[0, 0] = np.delete(expected.ravel(), 0).mean()
    np.testing.assert_allclose(found.elevation_m, expected, rtol=1e-9)
    assert len(found.notes) == 1
    assert "dem.tif has no data in 1 of 20 cells of the tile (5.0%)" in found.notes[0]
    assert f"{expected[0, 0]:.0f} m" in found.notes[0]


def test_nan_is_no_data_too(tmp_path):
    heights = hills("float32")
    heights[24:, 32:] = np.nan
    found = read_elevation(write(tmp_path / "dem.tif", heights, nodata=np.nan), tile())
    assert "1 of 20 cells" in found.notes[0]
    assert np.isfinite(found.elevation_m).all()


def test_scale_and_offset_of_a_file_are_applied(tmp_path):
    heights = hills()
    path = write(tmp_path / "dem.tif", heights, scales=0.1, offsets=50.0)
    expected = heights.reshape(4, 8, 5, 8).mean((1, 3)) * 0.1 + 50
    np.testing.assert_allclose(read_elevation(path, tile()).elevation_m, expected, rtol=1e-9)


def test_a_coarse_model_is_noted(tmp_path):
    coarse = np.arange(9, dtype="float32").reshape(3, 3) * 100
    path = write(
        tmp_path / "dem.tif", coarse, transform=Affine(400, 0, LEFT - 400, 0, -400, TOP + 400)
    )
    found = read_elevation(path, tile())
    np.testing.assert_allclose(found.elevation_m, 400)
    assert found.notes == (
        "A pixel of dem.tif is 5.0 times as wide as a latent cell: neighbouring cells share "
        "heights.",
    )


@pytest.mark.parametrize(
    ("transform", "share"),
    [
        (Affine(10, 0, LEFT + 80, 0, -10, TOP), "80%"),
        (Affine(10, 0, LEFT, 0, -10, TOP - 160), "50%"),
        (Affine(10, 0, LEFT - 80, 0, -10, TOP + 80), "60%"),
        (Affine(10, 0, LEFT + 9000, 0, -10, TOP), "0%"),
    ],
)
def test_a_model_that_does_not_cover_the_tile_is_refused(tmp_path, transform, share):
    path = write(tmp_path / "dem.tif", hills(), transform=transform)
    with pytest.raises(DataError, match=f"dem.tif covers {share} of the tile"):
        read_elevation(path, tile())


def test_a_model_without_a_crs_or_without_data_is_refused(tmp_path):
    with pytest.raises(DataError, match="has no CRS"):
        read_elevation(write(tmp_path / "a.tif", hills(), crs=None), tile())
    empty = np.full((HEIGHT_PX, WIDTH_PX), -1, "int16")
    with pytest.raises(DataError, match="has no data anywhere under the tile"):
        read_elevation(write(tmp_path / "b.tif", empty, nodata=-1), tile())


@pytest.mark.parametrize("wrong", [-9999, 32767])
def test_heights_that_no_land_has_are_refused(tmp_path, wrong):
    """One pixel suffices: averaged with its neighbours it would look like a height."""
    heights = hills()
    heights[3, 4] = wrong
    with pytest.raises(DataError, match=f"the height {wrong} under the tile.*-a_nodata {wrong}"):
        read_elevation(write(tmp_path / "dem.tif", heights), tile())


def test_other_units_bands_and_files_are_refused(tmp_path):
    with pytest.raises(DataError, match="is in 'feet'"):
        read_elevation(write(tmp_path / "feet.tif", hills(), units="Feet"), tile())
    read_elevation(write(tmp_path / "metres.tif", hills(), units="metre"), tile())
    with (
        rasterio.open(
            tmp_path / "two.tif", "w", driver="GTiff", height=8, width=8, count=2, dtype="int16",
            crs=UTM, transform=Affine(10, 0, LEFT, 0, -10, TOP),
        ) as file
    ):  # fmt: skip
        file.write(np.ones((2, 8, 8), "int16"))
    with pytest.raises(DataError, match="has 2 bands"):
        read_elevation(tmp_path / "two.tif", tile())
    (tmp_path / "words.tif").write_text("no raster")
    with pytest.raises(DataError, match="not a readable elevation model"):
        read_elevation(tmp_path / "words.tif", tile())
    with pytest.raises(DataError, match="does not exist"):
        read_elevation(tmp_path / "none.tif", tile())


def test_a_tile_without_a_place_on_a_map_is_refused(tmp_path):
    path = write(tmp_path / "dem.tif", hills())
    with pytest.raises(RequestError, match="has no CRS or transform"):
        read_elevation(path, tile(crs=None))
    with pytest.raises(RequestError, match="CRS 'EPSG:0' is not known"):
        read_elevation(path, tile(crs="EPSG:0"))


def test_temperature_follows_the_heights(tmp_path):
    elevation = read_elevation(write(tmp_path / "dem.tif", hills()), tile()).elevation_m
    height = elevation - elevation.mean()
    warm = tile(temperature_c=10.0)
    maps = climate_maps(["temperature_now"], [warm], [None], (4, 5), height_m=height)
    degrees = maps["temperature_now"][0, 0] * 15 + 10  # as `ecomap.climate.transform` scales it
    np.testing.assert_allclose(degrees, 10 + LAPSE_RATE_C_PER_M * height, atol=1e-4)
    assert np.ptp(degrees) > 0.3
