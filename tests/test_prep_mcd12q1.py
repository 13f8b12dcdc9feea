"""MODIS under a tile: areas by hand, projections, the antimeridian, and what is no IGBP map."""

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import shapely
from pyproj import CRS, Transformer
from pytest_httpserver import HTTPServer
from rasterio.transform import Affine
from werkzeug import Request, Response

from data_prep import services
from data_prep.crosswalk import MODIS_CELL_M
from data_prep.grid import place_at
from data_prep.mcd12q1 import SINUSOIDAL, ask_service, outline_in, read_geotiff
from data_prep.place import Place
from data_prep.services import ServiceError
from ecomap.errors import DataError, RequestError
from ecomap.schema import LandCover

IGBP = LandCover
UTM = "EPSG:32633"

# odc-geo 0.5 reprojects outlines with a function that shapely 2.2 has deprecated.
pytestmark = pytest.mark.filterwarnings("ignore:The 'shapely.ops.transform:DeprecationWarning")


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(services, "FIRST_WAIT_S", 0.01)


def tile(*, size_px: int = 100) -> Place:
    """One kilometre a side from (500000, 5000000) up and to the right."""
    return Place(
        location_id="here",
        lat=45.157,
        lon=15.006,
        crs=UTM,
        left=500_000.0,
        top=5_000_000.0 + size_px * 10,
        size_px=size_px,
        resolution_m=10.0,
    )


def write_map(
    path: Path,
    codes: Any,
    *,
    left: float,
    top: float,
    cell: float,
    crs: Any = UTM,
    nodata: float | None = 255,
    dtype: str = "uint8",
) -> Path:
    codes = np.asarray(codes)
    profile = {
        "driver": "GTiff",
        "height": codes.shape[0],
        "width": codes.shape[1],
        "count": 1,
        "dtype": dtype,
        "crs": crs,
        "nodata": nodata,
        "transform": Affine(cell, 0.0, left, 0.0, -cell, top),
    }
    with rasterio.open(path, "w", **profile) as raster:
        raster.write(codes.astype(dtype), 1)
    return path


def test_cells_count_with_the_part_that_the_tile_covers(tmp_path: Path):
    # Cells of 800 m from (499800, 5001400): the tile covers 600 + 400 m across, and down from its
    # top at 5001000: 400 m of the first row, 600 m of the second.
    path = write_map(
        tmp_path / "map.tif", [[4, 12, 3], [16, 4, 3]], left=499_800, top=5_001_400, cell=800
    )
    cover = read_geotiff(path, tile())
    assert list(cover.fracs) == [
        IGBP.DECIDUOUS_BROADLEAF_FORESTS,
        IGBP.CROPLANDS,
        IGBP.BARREN,
    ]
    assert list(cover.fracs.values()) == pytest.approx(
        [0.6 * 0.4 + 0.4 * 0.6, 0.4 * 0.4, 0.6 * 0.6], abs=1e-4
    )
    assert cover.nodata_frac == pytest.approx(0, abs=1e-4)
    assert not cover.has_zero


def test_fill_has_no_class_and_its_part_is_told(tmp_path: Path):
    path = write_map(
        tmp_path / "map.tif", [[255, 10], [10, 7]], left=499_600, top=5_001_400, cell=800
    )  # 400 + 600 m across, 400 + 600 m down
    cover = read_geotiff(path, tile())
    assert cover.nodata_frac == pytest.approx(0.4 * 0.4, abs=1e-4)
    assert cover.fracs[IGBP.OPEN_SHRUBLANDS] == pytest.approx(0.36, abs=1e-4)
    assert sum(cover.fracs.values()) == pytest.approx(0.84, abs=1e-4)


def test_fill_needs_no_declaration_and_another_declared_value_is_fill_too(tmp_path: Path):
    codes = [[255, 10], [0, 10]]
    place = {"left": 499_600, "top": 5_001_400, "cell": 800}
    plain = read_geotiff(write_map(tmp_path / "a.tif", codes, **place, nodata=None), tile())
    assert plain.nodata_frac == pytest.approx(0.16, abs=1e-4)
    assert plain.fracs[IGBP.WATER_BODIES] == pytest.approx(0.24, abs=1e-4)
    assert plain.has_zero
    zero = read_geotiff(write_map(tmp_path / "b.tif", codes, **place, nodata=0), tile())
    assert zero.nodata_frac == pytest.approx(0.4, abs=1e-4)
    assert zero.fracs == {IGBP.GRASSLANDS: pytest.approx(0.6, abs=1e-4)}
    assert not zero.has_zero


def test_zero_and_17_are_the_same_water(tmp_path: Path):
    path = write_map(
        tmp_path / "map.tif", [[0, 17], [17, 2]], left=499_600, top=5_001_400, cell=800
    )
    cover = read_geotiff(path, tile())
    assert cover.fracs[IGBP.WATER_BODIES] == pytest.approx(0.64, abs=1e-4)


def test_a_tile_of_fill_has_no_classes(tmp_path: Path):
    path = write_map(tmp_path / "map.tif", [[255]], left=499_000, top=5_002_000, cell=3000)
    cover = read_geotiff(path, tile())
    assert cover.fracs == {}
    assert cover.nodata_frac == 1


def test_what_lies_outside_the_map_is_not_known(tmp_path: Path):
    path = write_map(tmp_path / "map.tif", [[9, 9]], left=498_400, top=5_001_000, cell=1000)
    cover = read_geotiff(path, tile())  # the map ends 400 m into the tile
    assert cover.fracs == {IGBP.SAVANNAS: pytest.approx(0.4, abs=1e-4)}
    assert cover.nodata_frac == pytest.approx(0.6, abs=1e-4)


def test_a_tile_outside_the_map_is_refused_with_both_bounds(tmp_path: Path):
    path = write_map(tmp_path / "map.tif", [[9]], left=0, top=0, cell=1000)
    with pytest.raises(DataError, match=r"does not cover here at .*bounds .*\(0, -1000, 1000, 0\)"):
        read_geotiff(path, tile())


def test_floats_with_whole_codes_are_codes(tmp_path: Path):
    codes = [[1.0, np.nan], [8.0, 8.0]]
    path = write_map(
        tmp_path / "map.tif",
        codes,
        left=499_600,
        top=5_001_400,
        cell=800,
        dtype="float32",
        nodata=None,
    )
    cover = read_geotiff(path, tile())
    assert cover.fracs[IGBP.WOODY_SAVANNAS] == pytest.approx(0.6, abs=1e-4)
    assert cover.nodata_frac == pytest.approx(0.24, abs=1e-4)


@pytest.mark.parametrize(("code", "dtype"), [(18, "uint8"), (3.5, "float32"), (-1, "int16")])
def test_other_codes_are_refused(tmp_path: Path, code: float, dtype: str):
    path = write_map(
        tmp_path / "map.tif", [[code]], left=499_000, top=5_002_000, cell=3000, dtype=dtype
    )
    with pytest.raises(DataError, match=rf"codes \[{code:g}.*\] are not of IGBP; .*LC_Type1"):
        read_geotiff(path, tile())


def test_files_that_are_no_maps_are_refused(tmp_path: Path):
    with pytest.raises(DataError, match="does not exist"):
        read_geotiff(tmp_path / "none.tif", tile())
    (tmp_path / "text.tif").write_text("no map")
    with pytest.raises(DataError, match="not a readable GeoTIFF"):
        read_geotiff(tmp_path / "text.tif", tile())
    good = write_map(tmp_path / "a.tif", [[9]], left=499_000, top=5_002_000, cell=3000, crs=None)
    with pytest.raises(DataError, match="has no CRS"):
        read_geotiff(good, tile())
    turned = tmp_path / "turned.tif"
    with rasterio.open(
        turned,
        "w",
        driver="GTiff",
        width=2,
        height=2,
        count=1,
        dtype="uint8",
        crs=UTM,
        transform=Affine(1000, 0, 499_000, 0, 1000, 4_999_000),
    ) as raster:
        raster.write(np.full((2, 2), 9, np.uint8), 1)
    with pytest.raises(DataError, match="not a map with north up"):
        read_geotiff(turned, tile())


def test_a_damaged_file_is_refused(tmp_path: Path):
    noise = np.random.default_rng(0).integers(1, 18, (300, 300))
    path = write_map(tmp_path / "map.tif", noise, left=499_000, top=5_002_000, cell=100)
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(DataError, match=r"map\.tif is not a readable GeoTIFF"):
        read_geotiff(path, tile(size_px=900))


def by_samples(path: Path, place: Place, *, num: int = 600) -> dict[int, float]:
    """Shares of the codes at a fine grid of points of a tile: another way to the same."""
    offsets = (np.arange(num) + 0.5) / num * place.size_px * place.resolution_m
    x, y = np.meshgrid(place.left + offsets, place.top - offsets)
    with rasterio.open(path) as raster:
        crs = CRS.from_wkt(raster.crs.to_wkt())
        to_map = Transformer.from_crs(place.crs, crs, always_xy=True)
        x, y = to_map.transform(x, y)
        step = raster.transform
        codes = raster.read(1)
        found = codes[
            np.floor((y - step.f) / step.e).astype(int), np.floor((x - step.c) / step.a).astype(int)
        ]
    values, counts = np.unique(found, return_counts=True)
    return dict(zip(values.tolist(), (counts / counts.sum()).tolist(), strict=True))


def sinusoidal_map(path: Path, place: Place, *, seed: int = 1, margin: int = 6) -> Path:
    """Random codes on MODIS's own grid around the larger part of a tile."""
    left, bottom, right, top = max(outline_in(place, SINUSOIDAL).geoms, key=lambda p: p.area).bounds
    cell = MODIS_CELL_M
    left, top = (np.floor(left / cell) - margin) * cell, (np.ceil(top / cell) + margin) * cell
    shape = (int((top - bottom) / cell) + margin, int((right - left) / cell) + margin)
    codes = np.random.default_rng(seed).integers(1, 18, shape)
    return write_map(path, codes, left=left, top=top, cell=cell, crs=SINUSOIDAL.to_wkt())


@pytest.mark.parametrize(("lat", "lon"), [(48.1, 11.6), (-33.5, -70.7), (66.0, 161.0)])
def test_a_map_in_modis_projection_gives_what_its_samples_give(
    tmp_path: Path, lat: float, lon: float
):
    place = place_at("p", lat, lon, size_px=512, resolution_m=10)
    path = sinusoidal_map(tmp_path / "map.tif", place)
    cover = read_geotiff(path, place)
    expected = by_samples(path, place)
    assert {int(c): f for c, f in cover.fracs.items()} == pytest.approx(expected, abs=2e-3)
    assert cover.nodata_frac == pytest.approx(0, abs=2e-3)


@pytest.mark.parametrize("lon", [179.98, -179.98])
def test_a_tile_at_the_antimeridian_reads_both_ends_of_a_world_map(tmp_path: Path, lon: float):
    codes = np.full((180, 360), 255)
    codes[106, -1], codes[106, 0] = 8, 10  # 16 to 17 degrees south
    path = write_map(tmp_path / "world.tif", codes, left=-180, top=90, cell=1, crs="EPSG:4326")
    place = place_at("p", -16.5, lon, size_px=512, resolution_m=10)
    cover = read_geotiff(path, place)
    expected = by_samples(path, place)
    assert {int(c): f for c, f in cover.fracs.items()} == pytest.approx(expected, abs=2e-3)
    assert set(expected) == {8, 10}
    assert min(expected.values()) > 0.05
    assert cover.nodata_frac == pytest.approx(0, abs=2e-3)


def test_reading_gives_no_warning_of_projections(tmp_path: Path):
    path, place = sinusoidal_map(tmp_path / "map.tif", tile()), tile()
    assert place.footprint.is_valid
    with warnings.catch_warnings(record=True) as caught:
        read_geotiff(path, place)
    assert caught == []


# ---- service


class FakeModis:
    """Stand-in for the service: cells of a known pattern around the point that is asked for."""

    def __init__(self, server: HTTPServer) -> None:
        self.queries: list[dict[str, str]] = []
        self.changes: dict[str, Any] = {}
        self.has_east = True
        self.url = server.url_for("/rst/api/v1")
        server.expect_request("/rst/api/v1/MCD12Q1/subset").respond_with_handler(self.answer)

    def answer(self, request: Request) -> Response:
        query = dict(request.args)
        self.queries.append(query)
        to_grid = Transformer.from_crs("EPSG:4326", SINUSOIDAL, always_xy=True)
        x, y = to_grid.transform(float(query["longitude"]), float(query["latitude"]))
        column, row = int(x // MODIS_CELL_M), int(y // MODIS_CELL_M)  # rows count to the north
        reach = [
            round(float(query[n]) * 1000 / MODIS_CELL_M) for n in ("kmLeftRight", "kmAboveBelow")
        ]
        columns = np.arange(column - reach[0], column + reach[0] + 1)
        rows = np.arange(row + reach[1], row - reach[1] - 1, -1)  # north first
        data = pattern(rows[:, None], columns).ravel().astype(float)
        content = {
            "xllcorner": f"{columns[0] * MODIS_CELL_M:.2f}",
            "yllcorner": f"{rows[-1] * MODIS_CELL_M:.2f}",
            "cellsize": MODIS_CELL_M,
            "nrows": len(rows),
            "ncols": len(columns),
            "band": "LC_Type1",
            "units": "class",
            "scale": "1.0",
            "latitude": float(query["latitude"]),
            "longitude": float(query["longitude"]),
            "subset": [
                {
                    "modis_date": query["startDate"],
                    "calendar_date": "2021-01-01",
                    "band": query["band"],
                    "tile": "h18v04",
                    "proc_date": "2022203203221",
                    "data": (data if x < 0 or self.has_east else data * 0 + 255).tolist(),
                }
            ],
        } | self.changes
        return Response(json.dumps(content), mimetype="application/json")


def pattern(rows: Any, columns: Any) -> np.ndarray:
    """Code of a cell of the world's grid; differs along both axes."""
    return (np.asarray(rows) * 5 + np.asarray(columns) * 2) % 17 + 1


def by_service_pattern(place: Place, *, num: int = 600) -> dict[int, float]:
    offsets = (np.arange(num) + 0.5) / num * place.size_px * place.resolution_m
    x, y = np.meshgrid(place.left + offsets, place.top - offsets)
    x, y = Transformer.from_crs(place.crs, SINUSOIDAL, always_xy=True).transform(x, y)
    found = pattern(np.floor(y / MODIS_CELL_M).astype(int), np.floor(x / MODIS_CELL_M).astype(int))
    values, counts = np.unique(found, return_counts=True)
    return dict(zip(values.tolist(), (counts / counts.sum()).tolist(), strict=True))


@pytest.fixture
def service(httpserver: HTTPServer) -> FakeModis:
    return FakeModis(httpserver)


def ask(service: FakeModis, place: Place, **settings: Any):
    return ask_service(
        place, **{"year": 2021, "url": service.url, "timeout_s": 5, "num_retries": 0} | settings
    )


@pytest.mark.parametrize(("lat", "lon"), [(48.1, 11.6), (-33.5, -70.7), (66.0, 161.0)])
def test_the_service_gives_the_fractions_of_its_cells(service: FakeModis, lat: float, lon: float):
    place = place_at("p", lat, lon, size_px=512, resolution_m=10)
    cover = ask(service, place)
    expected = by_service_pattern(place)
    assert {int(c): f for c, f in cover.fracs.items()} == pytest.approx(expected, abs=2e-3)
    assert cover.nodata_frac == pytest.approx(0, abs=2e-3)
    (query,) = service.queries
    assert (query["band"], query["startDate"], query["endDate"]) == (
        "LC_Type1",
        "A2021001",
        "A2021001",
    )
    assert float(query["latitude"]) == pytest.approx(lat, abs=1e-3)
    # The sinusoidal grid leans over in the far east, so that the tile reaches farther there.
    assert (int(query["kmAboveBelow"]), int(query["kmLeftRight"])) == {
        48.1: (4, 4),
        -33.5: (4, 5),
        66.0: (4, 10),
    }[lat]


@pytest.mark.parametrize("lon", [179.98, -179.98])
def test_the_service_is_asked_on_both_sides_of_the_antimeridian(service: FakeModis, lon: float):
    place = place_at("p", -16.5, lon, size_px=512, resolution_m=10)
    cover = ask(service, place)
    assert {int(c): f for c, f in cover.fracs.items()} == pytest.approx(
        by_service_pattern(place), abs=2e-3
    )
    assert cover.nodata_frac == pytest.approx(0, abs=2e-3)
    assert sorted(float(q["longitude"]) > 0 for q in service.queries) == [False, True]


def test_fill_on_one_side_of_the_antimeridian_is_its_part_of_the_tile(service: FakeModis):
    service.has_east = False
    place = place_at("p", -16.5, 179.98, size_px=512, resolution_m=10)
    cover = ask(service, place)
    x = Transformer.from_crs("EPSG:4326", place.crs, always_xy=True).transform(180, -16.5)[0]
    assert cover.nodata_frac == pytest.approx((x - place.left) / 5120, abs=5e-3)
    assert 0.6 < cover.nodata_frac < 0.95


def test_faults_that_pass_are_tried_again(httpserver: HTTPServer):
    for status in (503, 429):
        httpserver.expect_oneshot_request("/rst/api/v1/MCD12Q1/subset").respond_with_data(
            "busy", status=status
        )
    cover = ask(FakeModis(httpserver), tile(), num_retries=2)
    assert sum(cover.fracs.values()) == pytest.approx(1)


def test_a_service_that_stays_away_is_an_error_that_may_pass(httpserver: HTTPServer):
    httpserver.expect_request("/MCD12Q1/subset").respond_with_data("busy", status=503)
    with pytest.raises(ServiceError, match="503") as caught:
        ask_service(tile(), year=2021, url=httpserver.url_for("/"), timeout_s=5, num_retries=1)
    assert caught.value.retryable


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"subset": []}, "has no LC_Type1. Choose another year"),
        ({"subset": None}, "is not a subset of cells"),
        ({"nrows": 3}, "expected 3 x"),
        ({"xllcorner": "east"}, "is not a subset of cells"),
        ({"subset": [{"band": "LC_Type1", "data": ["x"]}]}, "is not a subset of cells"),
    ],
)
def test_another_answer_is_refused(service: FakeModis, changes: dict[str, Any], message: str):
    service.changes = changes
    with pytest.raises(DataError, match=message):
        ask(service, tile())


def test_an_answer_with_other_codes_is_refused(service: FakeModis, httpserver: HTTPServer):
    codes = [99.0] * 4
    service.changes = {"nrows": 2, "ncols": 2, "subset": [{"band": "LC_Type1", "data": codes}]}
    with pytest.raises(DataError, match=r"codes \[99.0\] are not of IGBP"):
        ask(service, tile())


def test_a_tile_wider_than_the_service_is_refused(service: FakeModis):
    with pytest.raises(RequestError, match=r"reaches 1\d\d km .* looks 100 km far"):
        ask(service, place_at("p", 10.0, 20.0, size_px=512, resolution_m=480))
    assert service.queries == []


def test_an_outline_keeps_its_area_in_modis_grid():
    # The sinusoidal projection keeps areas, UTM nearly.
    outline = outline_in(tile(), SINUSOIDAL)
    assert outline.area == pytest.approx(1e6, rel=5e-3)
    assert shapely.get_num_geometries(outline) == 1


@pytest.mark.shared
def test_the_world_map_of_2019_names_known_places(shared_data: Path):
    path = shared_data / "landcover" / "igbp_mcd12c1_2019_0p05.tif"
    largest = {}
    for name, lat, lon in (
        ("amazon", -3.0, -62.0),
        ("sahara", 23.0, 10.0),
        ("iowa", 42.0, -94.5),
        ("paris", 48.85, 2.35),
        ("greenland", 72.0, -40.0),
        ("pacific", 0.0, -150.0),
    ):
        place = place_at(name, lat, lon, size_px=512, resolution_m=10)
        cover = read_geotiff(path, place)
        assert sum(cover.fracs.values()) == pytest.approx(1)
        assert cover.nodata_frac == pytest.approx(0, abs=1e-3)
        largest[name] = max(cover.fracs, key=lambda c: cover.fracs[c])
    assert largest == {
        "amazon": IGBP.EVERGREEN_BROADLEAF_FORESTS,
        "sahara": IGBP.BARREN,
        "iowa": IGBP.CROPLANDS,
        "paris": IGBP.URBAN_AND_BUILT_UP,
        "greenland": IGBP.SNOW_AND_ICE,
        "pacific": IGBP.WATER_BODIES,
    }
