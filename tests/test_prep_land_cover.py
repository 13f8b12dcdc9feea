"""Land cover of tiles from made-up maps: seams, zones, the antimeridian, the sea, and faults."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import rasterio
import rasterio.shutil
from pyproj import Transformer
from pytest_httpserver import HTTPServer
from rasterio.enums import Resampling
from rasterio.io import MemoryFile
from rasterio.transform import Affine

from data_prep import remote, services, worldcover
from data_prep.grid import place_at
from data_prep.land_cover import LandCoverResult, fetch_land_cover
from data_prep.place import Place
from data_prep.prep_config import LandCoverConfig
from data_prep.remote import ReadError
from data_prep.services import ServiceError
from data_prep.worldcover import file_name, num_samples, squares_under
from ecomap.errors import DataError
from ecomap.normals import open_normals
from ecomap.schema import LandCover
from tests.stac_server import StacServer

IGBP = LandCover
PIXELS_PER_DEG = 1200
"""Ten times coarser than WorldCover; so is the tile of most tests."""

# odc-geo 0.5 reprojects outlines with a function that shapely 2.2 has deprecated.
pytestmark = pytest.mark.filterwarnings("ignore:The 'shapely.ops.transform:DeprecationWarning")

Pattern = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""Labels of pixels by row (from the north pole) and column (from 180 W) of the whole world."""


def blocks(rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Labels in blocks of 9 x 7 pixels, differing along both axes."""
    codes = np.array([10, 30, 40, 60, 80, 20, 90], np.uint8)
    return codes[(rows // 9 * 3 + columns // 7) % 7]


def trees(rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    return np.full(np.broadcast_shapes(rows.shape, columns.shape), 10, np.uint8)


def write_square(
    folder: Path, south: int, west: int, pattern: Pattern = blocks, *, year: int = 2021
) -> Path:
    """One file as WorldCover has them: a COG with 0 as nodata."""
    size = 3 * PIXELS_PER_DEG
    rows = (90 - south - 3) * PIXELS_PER_DEG + np.arange(size)
    columns = (west + 180) * PIXELS_PER_DEG + np.arange(size)
    path = folder / file_name(south, west, year=year)
    profile = {
        "driver": "GTiff",
        "width": size,
        "height": size,
        "count": 1,
        "dtype": "uint8",
        "nodata": 0,
        "crs": "EPSG:4326",
        "transform": Affine(1 / PIXELS_PER_DEG, 0.0, west, 0.0, -1 / PIXELS_PER_DEG, south + 3),
    }
    with MemoryFile() as memory:
        with memory.open(**profile) as raster:
            raster.write(pattern(rows[:, None], columns), 1)
        with memory.open() as raster:
            options = {"compress": "deflate", "level": 1, "overviews": "NONE"}
            rasterio.shutil.copy(raster, path, driver="COG", **options)
    return path


def write_labels(path: Path, labels: np.ndarray, place: Place, *, nodata: int | None) -> Path:
    """Labels of 10 m on a tile's own grid."""
    with rasterio.open(
        path,
        "w",
        driver="GTiff",
        width=labels.shape[1],
        height=labels.shape[0],
        count=1,
        dtype=labels.dtype,
        crs=place.crs,
        transform=Affine(*place.transform),
        nodata=nodata,
    ) as raster:
        raster.write(labels, 1)
    return path


def expected_labels(place: Place, pattern: Pattern) -> np.ndarray:
    """Labels at the samples, pixel by pixel and without GDAL."""
    num = num_samples(place)
    offsets = (np.arange(num) + 0.5) / num * place.size_px * place.resolution_m
    x, y = np.meshgrid(place.left + offsets, place.top - offsets)
    lon, lat = Transformer.from_crs(place.crs, "EPSG:4326", always_xy=True).transform(x, y)
    columns = np.floor((lon + 180) * PIXELS_PER_DEG).astype(int)
    return pattern(np.floor((90 - lat) * PIXELS_PER_DEG).astype(int), columns)


def tile_at(lat: float, lon: float, *, size_px: int = 512, resolution_m: float = 10) -> Place:
    return place_at("here", lat, lon, size_px=size_px, resolution_m=resolution_m)


def read(place: Place, folder: Path | str) -> tuple[np.ndarray, list[str]]:
    return worldcover.read_worldcover(place, year=2021, url=str(folder), timeout_s=5, num_retries=0)


def config(folder: Path | str, **settings: object) -> LandCoverConfig:
    return LandCoverConfig(**{"url": str(folder), "timeout_s": 5, "num_retries": 0} | settings)


# ---- which files, which samples


@pytest.mark.parametrize(
    ("lat", "lon", "corners"),
    [
        (46.5, 13.5, [(45, 12)]),
        (46.5, 15.0, [(45, 12), (45, 15)]),
        (46.5, 15.034, [(45, 12), (45, 15)]),  # begins 0.0005 degrees east of the edge
        (48.0, 15.0, [(45, 12), (45, 15), (48, 12), (48, 15)]),
        (-0.01, -0.01, [(-3, -3), (-3, 0), (0, -3), (0, 0)]),
        (-16.5, 179.99, [(-18, -180), (-18, 177)]),
        (-16.5, -179.99, [(-18, -180), (-18, 177)]),
        (-59.99, 20.5, [(-60, 18)]),  # its southern part is beyond the map
        (-70.0, 20.5, []),
        (83.98, 20.5, [(81, 18)]),
    ],
)
def test_a_tile_needs_the_files_that_it_touches(
    lat: float, lon: float, corners: list[tuple[int, int]]
):
    assert squares_under(tile_at(lat, lon)) == corners


@pytest.mark.parametrize(
    ("south", "west", "year", "expected"),
    [
        (45, 15, 2021, "ESA_WorldCover_10m_2021_v200_N45E015_Map.tif"),
        (-3, -180, 2020, "ESA_WorldCover_10m_2020_v100_S03W180_Map.tif"),
        (0, 0, 2021, "ESA_WorldCover_10m_2021_v200_N00E000_Map.tif"),
    ],
)
def test_files_are_named_after_their_south_west_corner(
    south: int, west: int, year: int, expected: str
):
    assert file_name(south, west, year=year) == expected


@pytest.mark.parametrize(
    ("size_px", "resolution_m", "expected"),
    [(512, 10, 512), (100, 60, 600), (256, 100, 2048), (16, 2.5, 4), (16, 0.1, 1)],
)
def test_samples_lie_10_m_apart_until_they_are_too_many(
    size_px: int, resolution_m: float, expected: int
):
    assert num_samples(tile_at(46.5, 13.5, size_px=size_px, resolution_m=resolution_m)) == expected


# ---- exact labels


@pytest.mark.parametrize(
    ("lat", "lon"),
    [
        (46.5, 13.51),  # zone 33
        (46.5, 15.0),  # seam of two files
        (48.0, 12.001),  # corner of four, and the border of zones 32 and 33
        (-33.0, -70.5),  # south and west
        (-0.01, 0.02),  # the equator and Greenwich
        (-16.5, 179.99),  # the antimeridian, zone 60
        (-16.5, -179.99),  # and zone 1
    ],
)
def test_labels_are_those_of_the_pixels_under_the_samples(tmp_path: Path, lat: float, lon: float):
    place = tile_at(lat, lon)
    for south, west in squares_under(place):
        write_square(tmp_path, south, west)
    labels, notes = read(place, tmp_path)
    expected = expected_labels(place, blocks)
    # GDAL places samples to an eighth of a pixel, of which blocks of 9 x 7 have few at their edges.
    assert (labels == expected).mean() > 0.99
    assert len(np.unique(expected)) == 7
    assert notes == []


def test_a_large_tile_is_sampled_without_bias(tmp_path: Path):
    place = tile_at(46.5, 13.5, size_px=256, resolution_m=400)  # 102 km, samples of 50 m
    write_square(tmp_path, 45, 12)
    labels, _ = read(place, tmp_path)
    assert labels.shape == (2048, 2048)
    assert (labels == expected_labels(place, blocks)).mean() > 0.99


def test_an_overview_is_read_where_its_pixels_are_no_coarser_than_samples(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    place = tile_at(46.5, 13.5, size_px=512, resolution_m=40)
    path = tmp_path / file_name(45, 12, year=2021)
    profile = {"width": 3600, "height": 3600, "count": 1, "dtype": "uint8", "nodata": 0}
    step = 1 / PIXELS_PER_DEG  # pixels of 93 m, overviews of 185 and 371 m
    transform = Affine(step, 0.0, 12, 0.0, -step, 48)
    with rasterio.open(path, "w", crs="EPSG:4326", transform=transform, **profile) as raster:
        raster.write(np.full((3600, 3600), 10, np.uint8), 1)
        raster.build_overviews([2, 4], Resampling.nearest)
    with rasterio.open(path, "r+") as raster:
        raster.write(np.full((3600, 3600), 30, np.uint8), 1)  # the overviews keep the trees
    for num, expected in ((2048, 30), (111, 30), (110, 10)):  # 10, 184 and 186 m apart
        monkeypatch.setattr(worldcover, "MAX_SAMPLES", num)
        assert (read(place, tmp_path)[0] == expected).all(), num


def test_of_several_overviews_the_coarsest_that_will_do_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    path = write_labels(
        tmp_path / "map.tif", np.full((512, 512), 10, np.uint8), tile_at(46.5, 13.5), nodata=0
    )
    with rasterio.open(path, "r+") as raster:
        raster.build_overviews([2, 4, 8], Resampling.nearest)
    place = tile_at(46.5, 13.5, size_px=128, resolution_m=40)
    options = []
    with rasterio.open(path) as raster:
        opened = rasterio.open
        monkeypatch.setattr(rasterio, "open", lambda *a, **k: [options.append(k), opened(*a)][1])
        for num in (257, 256, 129, 128, 64):
            monkeypatch.setattr(worldcover, "MAX_SAMPLES", num)
            worldcover.sample_labels(raster, place, nodata=0)
    assert [k.get("OVERVIEW_LEVEL") for k in options] == [None, 0, 0, 1, 2]


# ---- from labels to a result


def test_the_result_says_class_purity_fractions_and_origin(tmp_path: Path):
    middle = int((13.5 + 180) * PIXELS_PER_DEG)

    def half_forest(rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
        return np.where(columns + 0 * rows < middle + 6, 10, 80).astype(np.uint8)

    write_square(tmp_path, 45, 12, half_forest)
    result = fetch_land_cover(tile_at(46.5, 13.5), config(tmp_path))
    # Six of 1200 pixels a degree east of the centre: 0.005 degrees, 384 of the 5120 m.
    trees_frac = 0.5 + 384 / 5120
    assert result.source_fracs["Tree cover"] == pytest.approx(trees_frac, abs=0.02)
    assert result.land_frac == pytest.approx(result.source_fracs["Tree cover"])
    # Eleven cells across; the one that the shore cuts goes to one side.
    assert result.land_cover == IGBP.MIXED_FORESTS  # of the coarse map near Villach
    assert result.land_cover_frac == pytest.approx(trees_frac, abs=1 / 11)
    assert result.fracs == {
        IGBP.MIXED_FORESTS: result.land_cover_frac,
        IGBP.WATER_BODIES: pytest.approx(1 - (result.land_cover_frac or 0)),
    }
    assert (result.source, result.version, result.year) == ("worldcover", "v200", 2021)
    assert result.nodata_frac == 0
    assert "ESA WorldCover project" in result.attribution
    assert "(2021)" in result.attribution
    assert result.note == ""


def test_the_year_chooses_the_version(tmp_path: Path):
    write_square(tmp_path, 45, 12, trees, year=2020)
    result = fetch_land_cover(tile_at(46.5, 13.5), config(tmp_path, year=2020))
    assert (result.version, result.year) == ("v100", 2020)
    assert "(2020)" in result.attribution


def crops_east_of(lon: float, *, west: int = 0) -> Pattern:
    """Crops from a meridian on, no data (or another code) before it."""
    border = int((lon + 180) * PIXELS_PER_DEG)
    return lambda r, c: np.where(c + 0 * r < border, west, 40).astype(np.uint8)


def test_no_data_in_a_file_at_a_coast_is_open_sea(tmp_path: Path):
    place = tile_at(45.0, 14.2)  # Istria
    # 3072 of 5120 m west of the border: 0.039 degrees of longitude at this latitude.
    border = 14.2 + (3072 - 2560) / (111_320 * np.cos(np.radians(45.0)))
    write_square(tmp_path, 42, 12, crops_east_of(border))
    write_square(tmp_path, 45, 12, crops_east_of(border))
    result = fetch_land_cover(place, config(tmp_path))
    assert (result.land_cover, result.nodata_frac) == (IGBP.WATER_BODIES, 0)
    assert result.land_frac == pytest.approx(0.4, abs=0.02)
    assert result.source_fracs == {
        "Cropland": pytest.approx(0.4, abs=0.02),
        "Permanent water bodies": pytest.approx(0.6, abs=0.02),
    }
    assert result.land_cover_frac == pytest.approx(0.6, abs=1 / 11)
    assert sum(result.fracs.values()) == pytest.approx(1)
    assert result.note == (
        f"{1 - (result.land_frac or 0):.1%} of the tile is without data and taken as open sea"
    )


def test_no_data_far_from_the_sea_is_a_hole_in_the_map(tmp_path: Path):
    write_square(tmp_path, 45, 12, crops_east_of(13.5))  # Carinthia
    result = fetch_land_cover(tile_at(46.5, 13.5), config(tmp_path))
    assert result.nodata_frac == pytest.approx(0.5, abs=0.02)
    assert result.fracs == {IGBP.CROPLANDS: 1 - (result.nodata_frac or 0)}
    assert result.land_cover_frac == result.source_fracs["Cropland"] == result.fracs[IGBP.CROPLANDS]
    assert result.land_frac is None
    assert result.note == "a part is not known: it has no data, and no sea is near"


def test_what_lies_beyond_the_map_is_no_sea(tmp_path: Path):
    place = tile_at(-59.99, -45.5)  # 1112 m north of 60 degrees south; 1448 m are beyond
    write_square(tmp_path, -60, -48, crops_east_of(-45.5))
    labels, notes = read(place, tmp_path)
    assert (labels[-140:] == 0).all()
    assert 0 not in labels[: 512 - 160]
    assert set(np.unique(labels)) == {0, 40, 80}
    assert [note[-30:] for note in notes] == [
        "without data and taken as open sea"[-30:],
        "beyond 60° S and 84° N nothing is known"[-30:],
    ]
    result = fetch_land_cover(place, config(tmp_path))
    assert result.nodata_frac == pytest.approx(1448 / 5120, abs=0.02)
    assert sum(result.fracs.values()) == pytest.approx(1 - (result.nodata_frac or 0))
    assert result.land_frac is None


def test_land_is_told_where_little_is_unknown(tmp_path: Path):
    place = tile_at(46.5, 13.5, size_px=500)
    labels = np.full((500, 500), 4, np.uint8)
    labels[:300] = 0  # water
    labels[-100:] = 255  # a fifth: of the rest three quarters are water
    path = write_labels(tmp_path / "fifth.tif", labels, place, nodata=255)
    result = fetch_land_cover(place, dynamic_world(path))
    assert result.nodata_frac == pytest.approx(0.2)
    assert result.land_frac == pytest.approx(0.25)
    assert result.source_fracs["Water"] == pytest.approx(0.6)
    labels[-101] = 255
    path = write_labels(tmp_path / "more.tif", labels, place, nodata=255)
    assert fetch_land_cover(place, dynamic_world(path)).land_frac is None


# ---- the sea, and addresses that lead nowhere


def test_a_file_that_does_not_exist_in_the_ocean_is_sea(tmp_path: Path):
    result = fetch_land_cover(tile_at(1.5, -151.5), config(tmp_path))
    assert result.land_cover == IGBP.WATER_BODIES
    assert result.land_cover_frac == 1
    assert (result.land_frac, result.nodata_frac) == (0, 0)
    assert result.note == (
        "ESA_WorldCover_10m_2021_v200_N00W153_Map.tif does not exist: its part of the tile is "
        "taken as sea"
    )


@pytest.mark.parametrize("lon", [-150.01, -149.99])
def test_at_a_shore_of_files_only_the_missing_part_is_sea(tmp_path: Path, lon: float):
    write_square(tmp_path, 0, -150, trees)
    place = tile_at(1.5, lon)
    labels, notes = read(place, tmp_path)
    west = expected_labels(place, lambda r, c: np.where(c + 0 * r < 30 * PIXELS_PER_DEG, 80, 10))
    assert (labels == west).mean() > 0.99
    assert set(np.unique(labels)) == {10, 80}
    assert len(notes) == 1


def test_a_missing_file_under_land_is_an_error(tmp_path: Path):
    with pytest.raises(DataError, match=r"has no .*N45E012.*, though 8\d% .* check land_cover.url"):
        fetch_land_cover(tile_at(46.5, 13.5), config(tmp_path / "nowhere"))


def test_beyond_the_map_nothing_is_known(tmp_path: Path):
    result = fetch_land_cover(tile_at(-70.0, 20.0), config(tmp_path))
    assert result.land_cover is None
    assert result.land_cover_frac is None
    assert result.fracs == {}
    assert result.nodata_frac == 1
    assert result.note == "beyond 60° S and 84° N nothing is known"


def test_a_corrupt_file_is_an_error(tmp_path: Path):
    path = write_square(tmp_path, 45, 12)
    path.write_bytes(b"II*\0" + bytes(200))
    with pytest.raises(ReadError, match="N45E012"):
        fetch_land_cover(tile_at(46.5, 13.5), config(tmp_path))


def test_a_file_cut_short_is_an_error(tmp_path: Path):
    path = write_square(tmp_path, 45, 12)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 3])
    with pytest.raises(ReadError, match="N45E012"):
        fetch_land_cover(tile_at(46.5, 13.5), config(tmp_path))


def test_other_labels_are_refused(tmp_path: Path):
    write_square(tmp_path, 45, 12, lambda r, c: trees(r, c) + 1)
    with pytest.raises(DataError, match=r"\[11\] are unknown; expected 10, 20"):
        fetch_land_cover(tile_at(46.5, 13.5), config(tmp_path))


# ---- over the network


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(remote, "REQUEST_RETRY_DELAY_S", 0.01)
    monkeypatch.setattr(services, "FIRST_WAIT_S", 0.01)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[StacServer]:
    write_square(tmp_path, 45, 12)
    with StacServer(tmp_path) as running:
        yield running


def test_a_tile_is_read_in_few_ranges_and_its_neighbour_in_fewer(server: StacServer):
    settings = config(server.data_url(""))
    result = fetch_land_cover(tile_at(46.5, 13.51), settings)
    assert sum(result.fracs.values()) == pytest.approx(1)
    assert all(request.range for request in server.requests if request.method == "GET")
    assert len(server.requests) <= 4
    server.reset()
    fetch_land_cover(tile_at(46.6, 13.61), settings)
    assert len(server.requests) <= 2


@pytest.mark.parametrize("fault", [503, 429, "truncated"])
def test_faults_that_pass_do_not_show(server: StacServer, tmp_path: Path, fault: int | str):
    server.add_fault("N45E012", fault, hits=(1, 2))
    place = tile_at(46.5, 13.51)
    result = fetch_land_cover(place, config(server.data_url(""), num_retries=4))
    assert result == fetch_land_cover(place, config(tmp_path))


def test_a_server_that_stays_away_is_an_error_that_may_pass(server: StacServer):
    server.add_fault("N45E012", 503, hits=None)
    with pytest.raises(ReadError) as caught:
        fetch_land_cover(tile_at(46.5, 13.51), config(server.data_url("")))
    assert caught.value.retryable


def test_a_missing_file_on_a_server_in_trouble_is_no_sea(server: StacServer):
    server.add_fault("N00W153", 503, hits=None)  # asked for the size alone it says 404
    with pytest.raises(ReadError, match="503") as caught:
        fetch_land_cover(tile_at(1.5, -151.5), config(server.data_url("")))
    assert caught.value.retryable


def test_a_refused_file_is_no_sea(server: StacServer):
    server.add_fault("N00W153", 403, hits=None, methods=("GET", "HEAD"))
    with pytest.raises(ReadError, match="403"):
        fetch_land_cover(tile_at(1.5, -151.5), config(server.data_url("")))


def test_a_file_that_the_server_does_not_have_is_sea(server: StacServer):
    result = fetch_land_cover(tile_at(1.5, -151.5), config(server.data_url("")))
    assert result.land_cover == IGBP.WATER_BODIES


# ---- other sources


def dynamic_world(path: Path, year: int = 2021) -> LandCoverConfig:
    return LandCoverConfig(source="dynamicworld", path=path, year=year)


def test_dynamic_world_is_named_by_the_same_rules(tmp_path: Path):
    place = tile_at(46.5, 13.5)
    labels = np.full((512, 512), 4, np.uint8)  # crops; eleven cells a side
    labels[: 512 * 4 // 11 + 1] = 255
    labels[-47:, :46] = 8  # snow fills the south-western cell
    path = write_labels(tmp_path / "dw.tif", labels, place, nodata=255)
    result = fetch_land_cover(place, dynamic_world(path, year=2019))
    assert result.land_cover == IGBP.CROPLANDS
    known = 1 - 187 / 512
    assert result.fracs[IGBP.CROPLANDS] == pytest.approx(known - 46 * 46 / 512**2, rel=2e-3)
    assert list(result.fracs) == [IGBP.CROPLANDS, IGBP.SNOW_AND_ICE]
    assert result.source_fracs == {
        "Crops": pytest.approx(known - 47 * 46 / 512**2),
        "Snow and ice": pytest.approx(47 * 46 / 512**2),
    }
    assert result.nodata_frac == pytest.approx(187 / 512)
    assert (result.source, result.version, result.year) == ("dynamicworld", "V1", 2019)
    assert "Dynamic World" in result.attribution
    assert result.note == ""


def test_of_equal_parts_the_lowest_code_counts(tmp_path: Path):
    place = tile_at(46.5, 13.5, size_px=92)  # two cells a side
    labels = np.zeros((92, 92), np.uint8)  # water
    labels[46:] = 7  # bare
    path = write_labels(tmp_path / "dw.tif", labels, place, nodata=255)
    result = fetch_land_cover(place, dynamic_world(path))
    assert result.fracs == {IGBP.BARREN: 0.5, IGBP.WATER_BODIES: 0.5}
    assert (result.land_cover, result.land_cover_frac) == (IGBP.BARREN, 0.5)


def test_water_of_dynamic_world_may_be_what_was_masked(tmp_path: Path):
    place = tile_at(46.5, 13.5)
    labels = np.zeros((512, 512), np.uint8)
    path = write_labels(tmp_path / "dw.tif", labels, place, nodata=None)
    result = fetch_land_cover(place, dynamic_world(path))
    assert result.land_cover == IGBP.WATER_BODIES
    assert "masked pixels as 0" in result.note
    path = write_labels(tmp_path / "declared.tif", labels, place, nodata=255)
    assert fetch_land_cover(place, dynamic_world(path)).note == ""


def test_a_tile_outside_a_map_of_labels_is_refused(tmp_path: Path):
    labels = np.ones((512, 512), np.uint8)
    path = write_labels(tmp_path / "dw.tif", labels, tile_at(46.5, 13.5), nodata=255)
    with pytest.raises(DataError, match=r"no data under here at \(20\..* its bounds are"):
        fetch_land_cover(tile_at(20.0, 13.5), dynamic_world(path))


def test_a_map_of_something_else_is_refused(tmp_path: Path):
    place = tile_at(46.5, 13.5)
    probabilities = np.full((512, 512), 0.5, np.float32)
    path = write_labels(tmp_path / "dw.tif", probabilities, place, nodata=None)
    with pytest.raises(DataError, match="values of type float32; expected labels of type uint8"):
        fetch_land_cover(place, dynamic_world(path))
    with pytest.raises(DataError, match="does not exist"):
        fetch_land_cover(place, dynamic_world(tmp_path / "none.tif"))
    (tmp_path / "text.tif").write_text("no map")
    with pytest.raises(DataError, match="not a readable GeoTIFF"):
        fetch_land_cover(place, dynamic_world(tmp_path / "text.tif"))


def test_modis_from_a_file_needs_no_other_names(tmp_path: Path):
    place = tile_at(46.5, 13.5)
    codes = np.full((512, 512), 9, np.uint8)
    codes[:128] = 17
    codes[-64:] = 255
    path = write_labels(tmp_path / "modis.tif", codes, place, nodata=None)
    settings = LandCoverConfig(source="mcd12q1-geotiff", path=path, year=2015)
    result = fetch_land_cover(place, settings)
    assert result.land_cover == IGBP.SAVANNAS
    assert result.land_cover_frac == pytest.approx(320 / 512, abs=1e-4)
    assert sum(result.fracs.values()) == pytest.approx(448 / 512, abs=1e-4)
    assert result.land_frac == pytest.approx(320 / 448, abs=1e-4)  # an eighth is fill
    assert result.nodata_frac == pytest.approx(64 / 512, abs=1e-4)
    assert result.source_fracs == {}
    assert (result.source, result.version, result.year) == ("mcd12q1-geotiff", None, 2015)
    assert "MCD12Q1" in result.attribution
    assert result.note == ""


def test_modis_that_is_all_fill_is_not_known(tmp_path: Path):
    place = tile_at(46.5, 13.5)
    path = write_labels(tmp_path / "m.tif", np.full((512, 512), 255, np.uint8), place, nodata=None)
    result = fetch_land_cover(place, LandCoverConfig(source="mcd12q1-geotiff", path=path))
    assert (result.land_cover, result.land_frac, result.nodata_frac) == (None, None, 1)


def test_the_service_is_asked_where_the_config_says(httpserver: HTTPServer):
    httpserver.expect_request("/api/MCD12Q1/subset").respond_with_data("gone", status=404)
    settings = LandCoverConfig(
        source="mcd12q1-service", url=httpserver.url_for("/api/"), year=2003, num_retries=0
    )
    with pytest.raises(ServiceError, match="404") as caught:
        fetch_land_cover(tile_at(46.5, 13.5), settings)
    assert not caught.value.retryable
    (request, _) = httpserver.log[0]
    assert request.args["startDate"] == "A2003001"


def test_no_source_knows_nothing():
    result = fetch_land_cover(tile_at(46.5, 13.5), LandCoverConfig(source="none"))
    assert result == LandCoverResult(source="none")
    assert (result.land_cover, result.year, result.attribution) == (None, None, "")


def test_a_result_survives_json(tmp_path: Path):
    write_square(tmp_path, 45, 12)
    for result in (
        fetch_land_cover(tile_at(46.5, 13.51), config(tmp_path)),
        LandCoverResult(source="none"),
    ):
        content = json.loads(json.dumps(result.to_dict()))
        assert LandCoverResult.from_dict(content) == result
    assert content["land_cover"] is None


def test_classes_are_written_by_name():
    fracs = {IGBP.SNOW_AND_ICE: 0.75, IGBP.BARREN: 0.25}
    content = LandCoverResult(source="x", land_cover=IGBP.SNOW_AND_ICE, fracs=fracs).to_dict()
    assert content["land_cover"] == "Permanent Snow and Ice"
    assert content["fracs"] == {
        "Permanent Snow and Ice": 0.75,
        "Barren or Sparsely Vegetated": 0.25,
    }


def test_the_same_tile_gives_the_same_bytes(tmp_path: Path):
    write_square(tmp_path, 45, 12)
    texts = {
        json.dumps(fetch_land_cover(tile_at(46.5, 13.51), config(tmp_path)).to_dict())
        for _ in range(2)
    }
    assert len(texts) == 1


def test_land_of_squares_is_known_without_the_map():
    # The guard against wrong addresses rests on the coarse table.
    assert open_normals().land_frac(46.5, 13.5, (3, 3)) > 0.5
    assert open_normals().land_frac(1.5, -151.5, (3, 3)) == 0
