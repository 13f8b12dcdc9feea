"""Files onto the grid of a tile: exact copies where possible, honest interpolation elsewhere."""

from pathlib import Path

import numpy as np
import pytest
import rasterio
from hypothesis import given
from hypothesis import strategies as st
from odc.geo.geobox import GeoBox
from pyproj import Transformer
from rasterio.transform import Affine

from data_prep import tile_reader
from data_prep.remote import Access, NoSigner, ReadError
from tests.fake_scenes import ramp, write_cog

CRS = "EPSG:32633"
LEFT, TOP = 500_000.0, 5_000_000.0
ACCESS = Access(signer=NoSigner(), timeout_s=5, num_retries=0)


def grid(
    left: float = LEFT,
    top: float = TOP,
    *,
    width: int = 40,
    height: int = 30,
    resolution_m: float = 10,
    crs: str = CRS,
) -> GeoBox:
    return GeoBox((height, width), Affine(resolution_m, 0, left, 0, -resolution_m, top), crs)


def save(path: Path, values: np.ndarray, *, resolution_m: float = 10, crs: str = CRS) -> str:
    write_cog(path, values, crs=crs, left=LEFT, top=TOP, resolution_m=resolution_m)
    return str(path)


def band(address: str, geobox: GeoBox, *, offset: int = 0) -> np.ndarray:
    return tile_reader.read_band(address, geobox, offset=offset, collection="", access=ACCESS)


def classes(address: str, geobox: GeoBox) -> np.ndarray:
    return tile_reader.read_classes(address, geobox, collection="", access=ACCESS)


@pytest.mark.parametrize(("column", "row"), [(0, 0), (7, 3), (160, 170)])
def test_pixels_of_the_own_grid_are_copied(tmp_path: Path, column: int, row: int):
    values = ramp(200, 200)
    values[row + 1, column + 2] = 0
    found = band(save(tmp_path / "a.tif", values), grid(LEFT + 10 * column, TOP - 10 * row))
    np.testing.assert_array_equal(found, values[row : row + 30, column : column + 40])
    assert found.dtype == np.uint16


@pytest.mark.parametrize(("column", "row"), [(-5, -7), (190, 195), (-5, 195), (-10, 3)])
def test_beyond_the_file_there_is_nothing(tmp_path: Path, column: int, row: int):
    values = ramp(200, 200)
    found = band(save(tmp_path / "a.tif", values), grid(LEFT + 10 * column, TOP - 10 * row))
    expected = np.pad(values, 50)[row + 50 : row + 80, column + 50 : column + 90]
    np.testing.assert_array_equal(found, expected)


def test_a_file_elsewhere_gives_nothing(tmp_path: Path):
    address = save(tmp_path / "a.tif", ramp(200, 200))
    for left, top in ((LEFT + 2000, TOP), (LEFT - 400, TOP), (LEFT, TOP + 300)):
        assert not band(address, grid(left, top)).any()
    assert not classes(address.replace("a.tif", "a.tif"), grid(LEFT, TOP + 300)).any()


def test_the_offset_is_added_before_anything_else(tmp_path: Path):
    values = ramp(200, 200, base=900)
    values[0, 0] = 0
    found = band(save(tmp_path / "a.tif", values), grid(), offset=-1000)
    expected = np.maximum(values[:30, :40].astype(int) - 1000, 1)
    expected[0, 0] = 0
    np.testing.assert_array_equal(found, expected)


def test_classes_of_20_m_are_repeated_whatever_the_parity(tmp_path: Path):
    codes = (np.arange(100 * 100) % 11 + 1).reshape(100, 100).astype(np.uint8)
    codes[3, 4] = 0
    fine = codes.repeat(2, 0).repeat(2, 1)
    address = save(tmp_path / "scl.tif", codes, resolution_m=20)
    for column, row in ((0, 0), (1, 0), (7, 5)):
        found = classes(address, grid(LEFT + 10 * column, TOP - 10 * row))
        np.testing.assert_array_equal(found, fine[row : row + 30, column : column + 40])


def test_bands_of_20_m_are_interpolated_linearly(tmp_path: Path):
    values = ramp(100, 100, base=2000)  # + 3 a column of 20 m, + 7 a row
    found = band(save(tmp_path / "a.tif", values, resolution_m=20), grid(LEFT + 40, TOP - 60))
    y, x = np.mgrid[:30, :40]
    # centres of fine pixels lie at a quarter and three quarters of coarse ones
    exact = 2000 + 3 * (2 + (x - 0.5) / 2) + 7 * (3 + (y - 0.5) / 2)
    assert np.abs(found - exact).max() <= 0.5


def test_missing_pixels_do_not_bleed_and_none_are_made(tmp_path: Path):
    values = np.full((100, 100), 1000, np.uint16)
    values[:, 50:] = 0
    values[5, 5] = 1
    found = band(save(tmp_path / "a.tif", values, resolution_m=20), grid(LEFT, TOP, width=120))
    assert set(np.unique(found[20:, :])) == {0, 1000}
    assert (found[:, :100] > 0).all()
    assert not found[:, 101:].any()


def test_values_below_the_offset_stay_valid_when_interpolated(tmp_path: Path):
    values = np.full((100, 100), 900, np.uint16)
    found = band(save(tmp_path / "a.tif", values, resolution_m=20), grid(), offset=-1000)
    assert (found == 1).all()


def test_coarser_tiles_are_averaged_from_the_overview_that_suffices(tmp_path: Path):
    values = ramp(1024, 1024)
    address = save(tmp_path / "a.tif", values)
    with rasterio.open(address) as file:
        assert file.overviews(1) == [2, 4, 8]
    with rasterio.open(address, overview_level=1) as file:
        overview = file.read(1)
    found = band(address, grid(LEFT + 400, TOP - 800, resolution_m=40))
    np.testing.assert_array_equal(found, overview[20:50, 10:50])
    found = band(address, grid(LEFT + 800, TOP - 800, resolution_m=80, width=50))
    assert found.shape == (30, 50)
    # 60 m: averaged from 40 m, where each pixel stands for the upper left of sixteen
    found = band(address, grid(LEFT, TOP, resolution_m=60))
    assert abs(float(found[2, 3]) - (values[12:18, 18:24].mean() - 15)) <= 7


def near(geobox: GeoBox, crs: str, values: np.ndarray) -> np.ndarray:
    """Values at the centres of a grid, by the ramp's own formula, seen in another CRS."""
    x, y = np.meshgrid(
        geobox.affine.c + (np.arange(geobox.shape[1]) + 0.5) * geobox.affine.a,
        geobox.affine.f + (np.arange(geobox.shape[0]) + 0.5) * geobox.affine.e,
    )
    east, north = Transformer.from_crs(geobox.crs.to_epsg(), crs, always_xy=True).transform(x, y)
    column, row = (east - LEFT) / 10 - 0.5, (TOP - north) / 10 - 0.5
    return values[0, 0] + 3 * column + 7 * row


def test_another_zone_is_warped_to_within_an_eighth_of_a_pixel(tmp_path: Path):
    values = ramp(400, 400, base=3000)
    address = save(tmp_path / "a.tif", values, crs="EPSG:32633")
    to_zone_34 = Transformer.from_crs("EPSG:32633", "EPSG:32634", always_xy=True)
    x, y = to_zone_34.transform(LEFT + 2000, TOP - 2000)
    there = grid(round(x, -1), round(y, -1), crs="EPSG:32634")
    found = band(address, there)
    assert (found > 0).all()
    assert np.abs(found - near(there, "EPSG:32633", values)).max() <= 0.125 * 10 + 0.5


def test_the_other_side_of_the_antimeridian_is_read(tmp_path: Path):
    # A scene of zone 1 that begins west of 180 degrees, a tile of zone 60 upon the line.
    values = ramp(400, 400, base=3000)
    x, y = Transformer.from_crs(4326, 32601, always_xy=True).transform(-179.99, 45.0)
    left, top = round(x, -1) - 2000, round(y, -1) + 2000
    write_cog(tmp_path / "a.tif", values, crs="EPSG:32601", left=left, top=top, resolution_m=10)
    x, y = Transformer.from_crs(4326, 32660, always_xy=True).transform(180.0, 45.0)
    there = grid(round(x, -1) - 200, round(y, -1) + 150, crs="EPSG:32660")
    found = band(str(tmp_path / "a.tif"), there)
    assert (found > 0).all()
    x, y = there.affine.c + 20.5 * 10, there.affine.f - 15.5 * 10
    east, north = Transformer.from_crs(32660, 32601, always_xy=True).transform(x, y)
    exact = 3000 + 3 * ((east - left) / 10 - 0.5) + 7 * ((top - north) / 10 - 0.5)
    assert abs(found[15, 20] - exact) <= 1.75


def test_the_other_hemisphere_is_the_same_grid(tmp_path: Path):
    values = ramp(400, 400)
    write_cog(
        tmp_path / "s.tif", values, crs="EPSG:32733", left=LEFT, top=10_001_000.0, resolution_m=10
    )
    found = band(str(tmp_path / "s.tif"), grid(LEFT + 500, 500.0, crs="EPSG:32633"))
    np.testing.assert_array_equal(found, values[50:80, 50:90])


def test_files_that_are_no_maps_or_no_counts_are_refused(tmp_path: Path):
    profile = {"driver": "GTiff", "width": 50, "height": 50, "count": 1}
    with rasterio.open(
        tmp_path / "f.tif", "w", **profile, dtype="float32", crs=CRS, transform=grid().affine
    ) as file:
        file.write(np.ones((1, 50, 50), np.float32))
    with pytest.raises(ReadError, match=r"f\.tif holds float32") as raised:
        band(str(tmp_path / "f.tif"), grid())
    assert not raised.value.retryable


def test_zeros_beside_missing_ground_are_missing_in_all_bands():
    bands = np.full((2, 4, 8), 500, np.uint16)
    bands[:, :, 0] = 0  # beyond the swath
    bands[0, :, 1] = 0  # where the first band ends a pixel earlier
    bands[1, 2, 2] = 0  # beside that
    bands[1, 1, 5] = 0  # deep shadow
    found = tile_reader.fill_dark(bands)
    assert not found[:, :, :2].any()
    assert not found[:, 2, 2].any()
    assert found[:, 1, 5].tolist() == [500, 1]
    assert (found[:, :, 3:] > 0).all()
    assert (found > 0).sum() == 2 * (4 * 6 - 1)


@given(st.integers(0, 2**24 - 1))
def test_after_it_all_bands_lack_the_same_pixels(bits: int):
    flags = np.array([bits >> i & 1 for i in range(24)], np.uint16).reshape(2, 3, 4)
    found = tile_reader.fill_dark(flags * 700)
    assert ((found[0] == 0) == (found[1] == 0)).all()
    assert (found[:, (flags == 0).all(axis=0)] == 0).all()
    assert (found[:, (flags > 0).all(axis=0)] == 700).all()


def test_the_first_layer_wins_and_others_fill():
    first = np.array([[[1, 0, 0]], [[2, 0, 0]]], np.uint16)
    second = np.array([[[7, 8, 0]], [[9, 6, 0]]], np.uint16)
    third = np.full_like(first, 5)
    found = tile_reader.first_valid([first, second, third])
    assert found.tolist() == [[[1, 8, 5]], [[2, 6, 5]]]
    assert first.tolist() == [[[1, 0, 0]], [[2, 0, 0]]]
    with pytest.raises(ValueError, match="No layer"):
        tile_reader.first_valid([])


def test_coarser_tiles_are_means_where_there_is_no_overview(tmp_path: Path):
    values = ramp(96, 120)
    values[::3, ::3] += 90  # one pixel of nine
    address = save(tmp_path / "a.tif", values)
    with rasterio.open(address) as file:
        assert file.overviews(1) == []
    found = band(address, grid(resolution_m=30))
    np.testing.assert_array_equal(
        found, values[:90].reshape(30, 3, 40, 3).mean(axis=(1, 3)).round()
    )
