"""Cells of the grid, and tiles: positions by hand, edges of the world, whole pixels."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from majortom_eg import MajorTomGrid
from pyproj import Transformer
from shapely.geometry import MultiPolygon, Point, Polygon, box

from data_prep.grid import cells_in, place_at, utm_crs
from ecomap.errors import RequestError

L_SHAPE = Polygon([(10, 45), (12, 45), (12, 45.5), (10.5, 45.5), (10.5, 47), (10, 47)])


def cells(region, spacing_km=10.0):
    return list(cells_in(region, spacing_km=spacing_km))


def place(lat, lon, size_px=512, resolution_m=10.0):
    return place_at("a", lat, lon, size_px=size_px, resolution_m=resolution_m)


def test_cells_are_those_of_the_package_whose_centre_lies_inside():
    grid = MajorTomGrid(10_000, overlap=False)
    expected = {}
    for cell in grid.generate_grid_cells(box(*L_SHAPE.bounds)):
        centre = cell.geom.centroid
        if L_SHAPE.contains(centre):
            expected[cell.id()] = (centre.y, centre.x)
    found = {name: (lat, lon) for name, lat, lon in cells(L_SHAPE)}
    assert found.keys() == expected.keys()
    for name, centre in expected.items():
        assert found[name] == pytest.approx(centre, abs=1e-9)


def test_cells_are_sorted_and_unique():
    names = [name for name, _, _ in cells(L_SHAPE)]
    assert names == sorted(set(names))


def test_cells_are_as_wide_as_the_spacing_at_every_latitude():
    for south in (-70, 0.5, 45, 80):
        found = np.array([cell[1:] for cell in cells(box(20, south, 30, south + 1), 25)])
        rows = np.unique(found[:, 0])
        assert np.diff(rows) * 111.2 == pytest.approx(25, rel=0.02)
        row = np.sort(found[found[:, 0] == rows[0], 1])
        assert np.diff(row) * 111.32 * np.cos(np.radians(rows[0])) == pytest.approx(25, rel=0.03)


def test_cells_cover_the_ground_that_the_region_has():
    # 2 x 0.5 degrees and 0.5 x 1.5 degrees at about 45 and 46 degrees, in cells of 25 km2.
    area = 2 * 0.5 * 111.2**2 * np.cos(np.radians(45.25))
    area += 0.5 * 1.5 * 111.2**2 * np.cos(np.radians(46.25))
    assert len(cells(L_SHAPE, 5)) == pytest.approx(area / 25, rel=0.02)


def test_cells_do_not_repeat_over_the_antimeridian():
    both = MultiPolygon([box(178, -20, 180, -15), box(-180, -20, -178, -15)])
    together = {name: (lat, lon) for name, lat, lon in cells(both)}
    west = {cell[0] for cell in cells(box(-180, -20, -178, -15))}
    east = {cell[0] for cell in cells(box(178, -20, 180, -15))}
    assert set(together) == west | east
    assert len({(round(a, 6), round(b, 6) % 360) for a, b in together.values()}) == len(together)
    assert all(-180 <= lon < 180 for _, lon in together.values())
    on_edge = [name for name, (_, lon) in together.items() if lon == -180]
    assert on_edge  # rows with an odd number of cells have one there
    assert set(on_edge) <= west & east


def test_the_whole_earth_has_each_cell_once():
    found = cells(box(-180, -90, 180, 90), 500)
    assert len(found) == pytest.approx(510e6 / 500**2, rel=0.1)
    assert len({name for name, _, _ in found}) == len(found)
    assert all(-90 <= lat <= 90 for _, lat, _ in found)


def test_a_region_smaller_than_a_cell_gets_a_tile_on_itself():
    tiny = box(10.001, 45.001, 10.003, 45.002)
    [(name, lat, lon)] = cells(tiny)
    assert tiny.contains(Point(lon, lat))
    assert name in {cell[0] for cell in cells(box(9, 44, 11, 46))}


def test_a_tiny_region_at_the_antimeridian_is_named_like_its_cell():
    row_lat, edge = next(
        (lat, name) for name, lat, lon in cells(box(-180, -50.3, -179, -49.7)) if lon == -180
    )
    for lon in (-179.97, 179.97):
        [(name, _, _)] = cells(Point(lon, row_lat).buffer(0.001))
        assert name == edge


def test_empty_regions_and_impossible_spacings_are_refused():
    with pytest.raises(RequestError, match="empty"):
        cells(Polygon())
    with pytest.raises(RequestError, match=r"spacing_km is 0\.0001"):
        cells(L_SHAPE, 0.0001)


@pytest.mark.parametrize(
    ("lat", "lon", "crs"),
    [
        (0, 0, "EPSG:32631"),
        (-0.1, -0.1, "EPSG:32730"),
        (-17, 180, "EPSG:32701"),
        (-17, -180, "EPSG:32701"),
        (-17, 179.99, "EPSG:32760"),
        (60, 2.9, "EPSG:32631"),
        (60, 3, "EPSG:32632"),  # south-west Norway belongs to zone 32
        (64, 3, "EPSG:32631"),
        (55.9, 3, "EPSG:32631"),
        (78, 8.9, "EPSG:32631"),  # Svalbard has the odd zones only
        (78, 9, "EPSG:32633"),
        (78, 20.9, "EPSG:32633"),
        (78, 21, "EPSG:32635"),
        (78, 41.9, "EPSG:32637"),
        (78, 42, "EPSG:32638"),
        (71.9, 9, "EPSG:32632"),
    ],
)
def test_zones_are_those_of_sentinel_2(lat, lon, crs):
    assert utm_crs(lat, lon) == crs


def test_a_tile_lies_around_its_point_by_hand():
    # On the equator at the central meridian of zone 37, x = 500,000 m and y = 0.
    found = place(0, 39)
    assert (found.crs, found.left, found.top) == ("EPSG:32637", 497_440, 2_560)
    assert (found.lat, found.lon) == (0, 39)
    odd = place(0, 39, size_px=255)  # 1,275 m to each side, onto multiples of 10 m
    assert (odd.left % 10, odd.top % 10) == (0, 0)
    assert odd.left == pytest.approx(498_725, abs=5)


@given(
    st.floats(-79.9, 83.9),
    st.floats(-180, 180),
    st.integers(16, 1024),
    st.sampled_from([10.0, 20.0, 60.0, 0.5]),
)
def test_a_tile_lies_on_whole_pixels_around_its_point(lat, lon, size_px, resolution_m):
    found = place(lat, lon, size_px, resolution_m)
    assert found.left / resolution_m == round(found.left / resolution_m)
    assert found.top / resolution_m == round(found.top / resolution_m)
    x, y = Transformer.from_crs("EPSG:4326", found.crs, always_xy=True).transform(lon, lat)
    half = size_px * resolution_m / 2
    assert abs(found.left + half - x) <= resolution_m / 2 + 1e-6
    assert abs(found.top - half - y) <= resolution_m / 2 + 1e-6
    assert -180 <= found.lon < 180
    back = Transformer.from_crs("EPSG:4326", found.crs, always_xy=True).transform(
        found.lon, found.lat
    )
    assert back == pytest.approx((found.left + half, found.top - half), abs=0.02)


def test_a_place_keeps_what_it_was_given():
    found = place_at("u0p-1_x", 46.5, 11.3, size_px=256, resolution_m=20)
    assert (found.location_id, found.size_px, found.resolution_m) == ("u0p-1_x", 256, 20)
    assert (found.split, found.stratum) == ("unassigned", "")


@pytest.mark.parametrize("lat", [84.1, -80.1, 90, float("nan")])
def test_places_beyond_utm_are_refused(lat):
    with pytest.raises(RequestError, match="outside the UTM system"):
        place(lat, 0)


@pytest.mark.parametrize("name", ["", "../a", "a/b", "a b", "é", "-a", ".a", "a.tif", "a" * 101])
def test_ids_that_cannot_be_names_of_files_are_refused(name):
    with pytest.raises(RequestError, match="cannot be the name of a file"):
        place_at(name, 0, 0, size_px=16, resolution_m=10)
