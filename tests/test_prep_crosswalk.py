"""From labels at 10 m to IGBP: each definition at its threshold, cells, and the coarse map."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_prep.crosswalk import (
    COVERS,
    DYNAMIC_WORLD,
    FORESTS,
    MODIS_CELL_M,
    SHRUBLANDS,
    WORLDCOVER,
    name_cells,
    nearest_class,
    summarise,
)
from ecomap.errors import DataError
from ecomap.normals import open_normals
from ecomap.schema import LandCover

IGBP = LandCover


def name(*, forest: LandCover = IGBP.MIXED_FORESTS, **percent: int) -> LandCover:
    """Class of one cell with so many percent of each cover."""
    assert sum(percent.values()) == 100
    shares = np.array([[percent.get(cover, 0) / 100 for cover in COVERS]])
    return LandCover(int(name_cells(shares, forest=forest, shrubland=IGBP.CLOSED_SHRUBLANDS)[0]))


@pytest.mark.parametrize(
    ("percent", "expected"),
    [
        # Water bodies: at least 60 %; what is less counts for nothing in the rest.
        ({"water": 60, "trees": 40}, IGBP.WATER_BODIES),
        ({"water": 59, "trees": 41}, IGBP.MIXED_FORESTS),
        ({"water": 100}, IGBP.WATER_BODIES),
        # Urban: at least 30 % of the land, whatever the rest.
        ({"built": 30, "trees": 70}, IGBP.URBAN_AND_BUILT_UP),
        ({"built": 29, "trees": 71}, IGBP.MIXED_FORESTS),
        ({"built": 16, "water": 50, "herbs": 34}, IGBP.URBAN_AND_BUILT_UP),
        # Snow: at least 60 %.
        ({"snow": 60, "herbs": 40}, IGBP.SNOW_AND_ICE),
        ({"snow": 59, "herbs": 41}, IGBP.GRASSLANDS),
        # Croplands from 60 %, mosaics from 40 %.
        ({"crops": 60, "trees": 40}, IGBP.CROPLANDS),
        ({"crops": 59, "trees": 41}, IGBP.CROPLAND_NATURAL_VEGETATION_MOSAICS),
        ({"crops": 40, "herbs": 60}, IGBP.CROPLAND_NATURAL_VEGETATION_MOSAICS),
        ({"crops": 39, "herbs": 61}, IGBP.GRASSLANDS),
        ({"crops": 30, "bare": 70}, IGBP.CROPLAND_NATURAL_VEGETATION_MOSAICS),
        # Forest: more than 60 % trees; woody savannas from 30 %, savannas from 10 %.
        ({"trees": 61, "herbs": 39}, IGBP.MIXED_FORESTS),
        ({"trees": 60, "herbs": 40}, IGBP.WOODY_SAVANNAS),
        ({"trees": 30, "herbs": 70}, IGBP.WOODY_SAVANNAS),
        ({"trees": 29, "herbs": 71}, IGBP.SAVANNAS),
        ({"trees": 10, "herbs": 90}, IGBP.SAVANNAS),
        ({"trees": 9, "herbs": 91}, IGBP.GRASSLANDS),
        # Shrubs: more than 60 %; else from 10 % where they are not fewer than herbs.
        ({"shrubs": 61, "herbs": 39}, IGBP.CLOSED_SHRUBLANDS),
        ({"shrubs": 60, "herbs": 40}, IGBP.OPEN_SHRUBLANDS),
        ({"shrubs": 10, "bare": 90}, IGBP.OPEN_SHRUBLANDS),
        ({"shrubs": 45, "herbs": 45, "bare": 10}, IGBP.OPEN_SHRUBLANDS),
        ({"shrubs": 44, "herbs": 46, "bare": 10}, IGBP.GRASSLANDS),
        ({"shrubs": 50, "trees": 10, "bare": 40}, IGBP.SAVANNAS),
        # Wetlands: from 30 % inundated, with more than 10 % of plants in water.
        ({"wetland": 11, "water": 19, "herbs": 70}, IGBP.PERMANENT_WETLANDS),
        ({"wetland": 11, "water": 18, "herbs": 71}, IGBP.GRASSLANDS),
        ({"wetland": 10, "water": 40, "herbs": 50}, IGBP.GRASSLANDS),
        ({"wetland": 100}, IGBP.PERMANENT_WETLANDS),
        ({"wetland": 35, "trees": 65}, IGBP.MIXED_FORESTS),
        # Barren: less than 10 % plants; then what covers more.
        ({"bare": 91, "herbs": 9}, IGBP.BARREN),
        ({"bare": 90, "herbs": 10}, IGBP.GRASSLANDS),
        ({"bare": 49, "snow": 51}, IGBP.SNOW_AND_ICE),
        ({"bare": 51, "snow": 49}, IGBP.BARREN),
        ({"bare": 75, "built": 25}, IGBP.BARREN),
    ],
)
def test_a_cell_is_named_by_the_definitions_of_the_legend(
    percent: dict[str, int], expected: LandCover
):
    assert name(**percent) == expected


def test_forest_has_the_leaf_type_that_is_given():
    dense = {"trees": 90, "herbs": 10}
    for forest in FORESTS:
        assert name(forest=forest, **dense) == forest


@given(st.lists(st.integers(0, 20), min_size=9, max_size=9).filter(any))
def test_every_mixture_has_a_name(parts: list[int]):
    shares = np.array([parts]) / sum(parts)
    (code,) = name_cells(shares, forest=IGBP.MIXED_FORESTS, shrubland=IGBP.OPEN_SHRUBLANDS)
    assert int(code) in set(LandCover)


def cover_of(codes: np.ndarray, *, num_cells: int, classes=WORLDCOVER, nodata: int = 0):
    return summarise(
        codes,
        classes,
        num_cells=num_cells,
        forest=IGBP.DECIDUOUS_BROADLEAF_FORESTS,
        shrubland=IGBP.OPEN_SHRUBLANDS,
        nodata=nodata,
    )


def test_cells_are_named_one_by_one_and_weighted_with_their_known_area():
    codes = np.array(
        [
            [10, 10, 30, 30],  # forest          | grass, one pixel unknown
            [10, 10, 30, 0],
            [80, 80, 10, 30],  # water           | half trees, a quarter grass, a quarter crops:
            [80, 80, 10, 40],  #                 | woody savanna
        ],
        np.uint8,
    )
    cover = cover_of(codes, num_cells=2)
    assert cover is not None
    assert cover.igbp == pytest.approx(
        {
            IGBP.DECIDUOUS_BROADLEAF_FORESTS: 4 / 16,
            IGBP.WOODY_SAVANNAS: 4 / 16,
            IGBP.GRASSLANDS: 3 / 16,
            IGBP.WATER_BODIES: 4 / 16,
        }
    )
    assert list(cover.igbp) == sorted(cover.igbp)
    assert cover.source == pytest.approx(
        {
            "Tree cover": 6 / 16,
            "Grassland": 4 / 16,
            "Cropland": 1 / 16,
            "Permanent water bodies": 4 / 16,
        }
    )
    assert cover.land_frac == pytest.approx(11 / 16)
    assert cover.nodata_frac == pytest.approx(1 / 16)


def test_one_cell_may_take_in_the_whole_tile():
    codes = np.array([[10, 30], [30, 30]], np.uint8)
    cover = cover_of(codes, num_cells=1)
    assert cover is not None
    assert cover.igbp == {IGBP.SAVANNAS: 1.0}  # a quarter of trees
    assert cover.nodata_frac == 0


def test_a_cell_without_data_has_no_name():
    codes = np.array([[0, 60], [60, 60]], np.uint8)
    cover = cover_of(codes, num_cells=2)
    assert cover is not None
    assert cover.igbp == {IGBP.BARREN: 0.75}
    assert cover.nodata_frac == 0.25


def test_a_tile_without_data_has_no_fractions():
    assert cover_of(np.zeros((4, 4), np.uint8), num_cells=2) is None


def test_pixels_that_do_not_divide_into_cells_are_all_counted():
    codes = np.full((5, 5), 30, np.uint8)
    codes[:, 2:] = 70  # three cells along 5 pixels: columns 0-1, 2-3, 4
    cover = cover_of(codes, num_cells=3)
    assert cover is not None
    assert cover.igbp == pytest.approx({IGBP.GRASSLANDS: 0.4, IGBP.SNOW_AND_ICE: 0.6})


def test_an_unknown_code_is_refused_with_the_known_ones():
    codes = np.array([[10, 33], [254, 30]], np.uint8)
    with pytest.raises(DataError, match=r"\[33, 254\] are unknown; expected 10, 20, .*0 for no"):
        cover_of(codes, num_cells=1)


def test_labels_of_dynamic_world_mean_what_its_makers_say():
    codes = np.array([[0, 1], [2, 3]], np.uint8)
    cover = cover_of(codes, num_cells=2, classes=DYNAMIC_WORLD, nodata=255)
    assert cover is not None
    assert cover.igbp == dict.fromkeys(
        (
            IGBP.DECIDUOUS_BROADLEAF_FORESTS,
            IGBP.GRASSLANDS,
            IGBP.PERMANENT_WETLANDS,
            IGBP.WATER_BODIES,
        ),
        0.25,
    )
    codes = np.array([[4, 5, 6], [7, 8, 255], [255] * 3], np.uint8)
    cover = cover_of(codes, num_cells=3, classes=DYNAMIC_WORLD, nodata=255)
    assert cover is not None
    assert list(cover.igbp) == [
        IGBP.OPEN_SHRUBLANDS,
        IGBP.CROPLANDS,
        IGBP.URBAN_AND_BUILT_UP,
        IGBP.SNOW_AND_ICE,
        IGBP.BARREN,
    ]


def test_worldcover_has_its_eleven_classes_and_published_colours():
    assert list(WORLDCOVER) == [10, 20, 30, 40, 50, 60, 70, 80, 90, 95, 100]
    published = "006400 ffbb22 ffff4c f096ff fa0000 b4b4b4 f0f0f0 0064c8 0096a0 00cf75 fae6a0"
    assert " ".join(entry.color[1:] for entry in WORLDCOVER.values()) == published
    # A pixel that is all of one class, alone in its cell.
    alone = {code: cover_of(np.array([[code]], np.uint8), num_cells=1) for code in WORLDCOVER}
    assert [next(iter(cover.igbp)) for cover in alone.values() if cover] == [
        IGBP.DECIDUOUS_BROADLEAF_FORESTS,
        IGBP.OPEN_SHRUBLANDS,
        IGBP.GRASSLANDS,
        IGBP.CROPLANDS,
        IGBP.URBAN_AND_BUILT_UP,
        IGBP.BARREN,
        IGBP.SNOW_AND_ICE,
        IGBP.WATER_BODIES,
        IGBP.PERMANENT_WETLANDS,
        IGBP.PERMANENT_WETLANDS,
        IGBP.GRASSLANDS,
    ]


def test_a_cell_has_the_size_of_modis():
    tile_m = 2 * np.pi * 6371007.181 / 36
    assert pytest.approx(tile_m / 2400, abs=1e-3) == MODIS_CELL_M


@pytest.mark.parametrize(
    ("lat", "lon", "expected"),
    [
        (-3.0, -62.0, IGBP.EVERGREEN_BROADLEAF_FORESTS),  # Amazon
        (62.0, 125.0, IGBP.DECIDUOUS_NEEDLELEAF_FORESTS),  # larches of Yakutia
        (38.0, -81.0, IGBP.DECIDUOUS_BROADLEAF_FORESTS),  # Appalachians
        (-18.0, 179.99, IGBP.EVERGREEN_BROADLEAF_FORESTS),  # at sea near Fiji
        (-18.0, -179.99, IGBP.EVERGREEN_BROADLEAF_FORESTS),
    ],
)
def test_trees_are_those_of_the_nearest_forest(lat: float, lon: float, expected: LandCover):
    assert nearest_class(lat, lon, FORESTS) == expected


def test_shrubs_of_dry_australia_are_open():
    assert nearest_class(-28.0, 125.0, SHRUBLANDS) == IGBP.OPEN_SHRUBLANDS


def test_a_forest_cell_of_the_coarse_map_has_its_own_class():
    table = open_normals()
    rows, columns = np.nonzero(np.isin(table.cover, FORESTS) & (table.land > 0))
    for row, column in list(zip(rows, columns, strict=True))[::997]:
        own = table.cover[row, column]
        assert nearest_class(table.lat[row], table.lon[column], FORESTS) == own
