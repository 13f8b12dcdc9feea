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
from data_prep.regrid import class_grid, first_valid
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
    return tile_reader.read_band(
        address, geobox, offset=offset, classes=None, collection="", access=ACCESS
    )


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


def noise(height: int, width: int) -> np.ndarray:
    """Digital numbers without any pattern."""
    return np.random.default_rng(3).integers(1, 9000, (height, width), dtype=np.uint16)


def save_with_overviews(path: Path, values: np.ndarray, kind: str, *, resolution_m: float) -> str:
    """A COG whose overviews are made as providers may make them."""
    with rasterio.open(
        path, "w", driver="COG", height=values.shape[0], width=values.shape[1], count=1,
        dtype=values.dtype.name, crs=CRS, nodata=0, blocksize=128, overview_resampling=kind,
        transform=Affine(resolution_m, 0, LEFT, 0, -resolution_m, TOP),
    ) as file:  # fmt: skip
        file.write(values, 1)
    with rasterio.open(path) as file:
        assert file.overviews(1)[:2] == [2, 4]
    return str(path)


def means(values: np.ndarray, num: int) -> np.ndarray:
    height, width = (length // num for length in values.shape)
    blocks = values[: height * num, : width * num].astype(float)
    return blocks.reshape(height, num, width, num).mean(axis=(1, 3))


@pytest.mark.parametrize("kind", ["nearest", "average", "cubic"])
@pytest.mark.parametrize("ratio", [2, 3, 6, 8])
def test_a_coarser_pixel_is_the_mean_of_all_pixels_under_it(tmp_path: Path, kind: str, ratio: int):
    values = noise(640, 768)
    address = save_with_overviews(tmp_path / "a.tif", values, kind, resolution_m=10)
    # from a pixel of the file that is no multiple of anything
    found = band(address, grid(LEFT + 70, TOP - 110, resolution_m=10 * ratio))
    exact = means(values[11:, 7:], ratio)[:30, :40]
    assert np.abs(found - exact).max() <= 0.5 + 1e-3


def test_the_mean_of_a_slope_is_not_moved(tmp_path: Path):
    values = ramp(640, 768)
    address = save_with_overviews(tmp_path / "a.tif", values, "nearest", resolution_m=10)
    found = band(address, grid(LEFT + 600, TOP - 300, resolution_m=60))
    y, x = np.mgrid[:30, :40]
    exact = 2000 + 3 * (60 + 6 * x + 2.5) + 7 * (30 + 6 * y + 2.5)
    np.testing.assert_array_equal(found, exact)


def test_pixels_that_a_coarser_one_cuts_count_by_their_share(tmp_path: Path):
    values = noise(100, 120)
    found = band(save(tmp_path / "a.tif", values), grid(resolution_m=25))
    fine = values.repeat(2, 0).repeat(2, 1)  # 5 m, of which 25 m is a multiple
    assert np.abs(found - means(fine, 5)[:30, :40]).max() <= 0.5 + 1e-3


def test_values_are_corrected_and_clipped_before_the_mean(tmp_path: Path):
    values = np.full((200, 256), 2501, np.uint16)
    values[::2] = 400  # 600 below zero
    found = band(save(tmp_path / "a.tif", values), grid(resolution_m=60), offset=-1000)
    assert (found == 751).all()  # of 1501 and 1, not of 1501 and -600


def test_a_mean_needs_data_in_half_of_its_pixels(tmp_path: Path):
    values = np.full((200, 256), 700, np.uint16)
    for tile, num_missing in enumerate((17, 18, 19, 36)):
        block = np.full(36, 900, np.uint16)
        block[:num_missing] = 0
        values[6:12, 6 * tile : 6 * tile + 6] = block.reshape(6, 6)
    found = band(save(tmp_path / "a.tif", values), grid(resolution_m=60))
    assert found[1, :4].tolist() == [900, 900, 0, 0]
    assert (found[2:] == 700).all()


def test_a_mean_half_beyond_the_file_needs_half_of_it(tmp_path: Path):
    address = save(tmp_path / "a.tif", np.full((200, 256), 700, np.uint16))
    for beyond_px, expected in ((2, 700), (3, 700), (4, 0)):
        found = band(address, grid(LEFT - 10 * beyond_px, TOP, resolution_m=60))
        assert (found[:, 0] == expected).all()
        assert (found[:, 1] == 700).all()


def test_far_coarser_tiles_are_means_of_an_overview_at_least_four_times_as_fine(tmp_path: Path):
    values = noise(1280, 1280)
    address = save_with_overviews(tmp_path / "a.tif", values, "average", resolution_m=10)
    for ratio, factor in ((9, 2), (16, 4)):
        with rasterio.open(address, overview_level={2: 0, 4: 1}[factor]) as file:
            overview = file.read(1)
        found = band(address, grid(resolution_m=10 * ratio))
        fine = overview.repeat(2, 0).repeat(2, 1)
        exact = means(fine, 2 * ratio // factor)[:30, :40]
        assert np.abs(found - exact).max() <= 0.5 + 1e-3


def test_a_coarser_tile_in_another_zone_is_averaged_without_a_shift(tmp_path: Path):
    values = ramp(800, 800, base=3000)
    address = save_with_overviews(tmp_path / "a.tif", values, "nearest", resolution_m=10)
    to_zone_34 = Transformer.from_crs("EPSG:32633", "EPSG:32634", always_xy=True)
    x, y = to_zone_34.transform(LEFT + 2000, TOP - 2000)
    there = grid(round(x, -1), round(y, -1), resolution_m=60, crs="EPSG:32634")
    found = band(address, there).astype(float)
    assert (found > 0).all()
    difference = found - near(there, "EPSG:32633", values)
    assert abs(difference.mean()) <= 0.5
    assert np.abs(difference).max() <= 5  # half a pixel of the file; the tile's is six of them


@pytest.mark.parametrize("kind", ["nearest", "average", "cubic"])
@pytest.mark.parametrize("resolution_m", [40, 60, 80, 160])
def test_classes_never_come_from_overviews(tmp_path: Path, kind: str, resolution_m: int):
    codes = np.random.default_rng(5).choice([4, 8], (512, 512)).astype(np.uint8)
    address = save_with_overviews(tmp_path / "scl.tif", codes, kind, resolution_m=20)
    tile = grid(LEFT + 60, TOP - 20, width=20, height=10, resolution_m=resolution_m)
    found = classes(address, class_grid(tile))
    num = resolution_m // 20
    np.testing.assert_array_equal(found, codes[1 : 1 + 10 * num, 3 : 3 + 20 * num])


def test_classes_of_far_coarser_tiles_are_a_sample_of_the_image_itself(tmp_path: Path):
    codes = np.random.default_rng(5).choice([4, 8], (512, 512)).astype(np.uint8)
    address = save_with_overviews(tmp_path / "scl.tif", codes, "average", resolution_m=20)
    fine = class_grid(grid(width=7, height=7, resolution_m=1440))
    found = classes(address, fine)
    assert found.shape == (56, 56)  # 180 m: the fifth of nine
    np.testing.assert_array_equal(found, codes[4::9, 4::9][:56, :56])


@pytest.mark.parametrize(
    ("resolution_m", "num"),
    [(5, 1), (10, 1), (20, 1), (21, 2), (30, 2), (60, 3), (160, 8), (500, 8)],
)
def test_classes_are_counted_on_pixels_of_20_m_at_most(resolution_m: float, num: int):
    fine = class_grid(grid(resolution_m=resolution_m))
    assert fine.shape == (30 * num, 40 * num)
    assert fine.boundingbox == grid(resolution_m=resolution_m).boundingbox


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


def keep_dark(values: np.ndarray, has_data: np.ndarray) -> np.ndarray:
    told = np.where(has_data, tile_reader.HAS_DATA, tile_reader.HAS_NONE)
    return tile_reader.keep_dark(values, told.astype(np.uint8))


def test_zeros_are_dark_where_the_classes_have_data():
    values = np.full((8, 20), 800, np.uint16)
    values[:, :3] = 0  # beyond the swath
    values[2:5, 12:18] = 0  # a lake
    has_data = np.ones((8, 20), bool)
    has_data[:, :3] = False
    has_data[6, 10] = False  # the classes lack a pixel that the band has
    found = keep_dark(values, has_data)
    assert not found[:, :3].any()
    assert (found[2:5, 12:18] == 1).all()
    assert (found == 800).sum() == 8 * 17 - 18


def test_one_missing_pixel_costs_a_lake_a_few_pixels_at_most():
    values = np.full((70, 70), 800, np.uint16)
    values[10:60, 10:60] = 0
    has_data = np.ones((70, 70), bool)
    has_data[30, 30] = False
    found = keep_dark(values, has_data)
    assert found[30, 30] == 0
    assert (found == 0).sum() == 41  # within four pixels
    has_data[:] = True
    assert (keep_dark(values, has_data) > 0).all()


def test_bands_may_end_a_few_pixels_before_the_classes_do():
    values = np.full((6, 20), 800, np.uint16)
    values[:, :9] = 0
    has_data = np.ones((6, 20), bool)
    has_data[:, :5] = False
    assert not keep_dark(values, has_data)[:, :9].any()


def scene(folder: Path, bands: dict[str, np.ndarray], codes: np.ndarray | None, geobox: GeoBox):
    assets = {name: save(folder / f"{name}.tif", values) for name, values in bands.items()}
    return tile_reader.read_scene(
        assets, list(bands), geobox, offset=0, classes=codes, collection="", access=ACCESS
    )


def test_a_pixel_missing_in_one_band_is_missing_in_all(tmp_path: Path):
    red, blue = ramp(128, 128), ramp(128, 128, base=5000)
    red[3, 4] = 0
    blue[7, 9] = 0
    found = scene(tmp_path, {"B04": red, "B02": blue}, None, grid())
    gone = {tuple(pixel) for pixel in np.argwhere(found[0] == 0).tolist()}
    assert gone == {(3, 4), (7, 9)}
    assert not found[:, [3, 7], [4, 9]].any()
    assert (found[1] == 0).sum() == 2


@pytest.mark.parametrize("resolution_m", [10, 60])
def test_dark_water_stays_at_any_pixel_size(tmp_path: Path, resolution_m: int):
    water = np.full((256, 256), 900, np.uint16)
    water[:, 24:180] = 0
    geobox = grid(resolution_m=resolution_m)
    codes = np.full(class_grid(geobox).shape, 6, np.uint8)
    found = scene(tmp_path, {"B04": water}, codes, geobox)[0]
    assert (found > 0).all()
    first, last = 240 // resolution_m, min(1800 // resolution_m, 40)
    assert (found[:, first:last] == 1).all()
    assert (found[:, :first] == 900).all()
    assert (found[:, last:] == 900).all()
    codes[:] = 0
    lost = scene(tmp_path, {"B04": water}, codes, geobox)[0]
    assert not lost[:, first:last].any()
    assert (lost[:, :first] == 900).all()


def test_classes_of_the_tile_are_found_in_a_scene_of_another_zone(tmp_path: Path):
    values = np.full((400, 400), 900, np.uint16)
    values[:, 200:] = 0
    save(tmp_path / "B04.tif", values)
    x, y = Transformer.from_crs(32633, 32634, always_xy=True).transform(LEFT + 1900, TOP - 2000)
    there = grid(round(x, -1), round(y, -1), crs="EPSG:32634")
    codes = np.full(there.shape, 6, np.uint8)
    found = scene(tmp_path, {"B04": values}, codes, there)[0]
    assert {1, 900} <= set(np.unique(found))
    assert (found > 0).all()
    codes[:] = 0
    assert (scene(tmp_path, {"B04": values}, codes, there)[0] == 0).sum() > 500


@given(st.integers(0, 2**24 - 1))
def test_only_zeros_are_ever_changed(bits: int):
    flags = np.array([bits >> i & 1 for i in range(24)], np.uint16).reshape(2, 3, 4)
    found = keep_dark(flags[0] * 700, flags[1] > 0)
    assert (found[flags[0] > 0] == 700).all()
    assert (found[(flags[0] == 0) & (flags[1] == 0)] == 0).all()
    assert set(np.unique(found)) <= {0, 1, 700}


def test_the_first_layer_wins_and_others_fill():
    first = np.array([[[1, 0, 0]], [[2, 0, 0]]], np.uint16)
    second = np.array([[[7, 8, 0]], [[9, 6, 0]]], np.uint16)
    third = np.full_like(first, 5)
    found = first_valid([first, second, third])
    assert found.tolist() == [[[1, 8, 5]], [[2, 6, 5]]]
    assert first.tolist() == [[[1, 0, 0]], [[2, 0, 0]]]
    with pytest.raises(ValueError, match="No layer"):
        first_valid([])
