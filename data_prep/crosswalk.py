"""Names of maps of 10 m pixels in MODIS's words: WorldCover and Dynamic World to IGBP classes.

A pixel of 10 m is trees, grass or roof; an IGBP class such as savanna says how these mix. So the
classes of a map are counted in cells of the size of MODIS's own (`MODIS_CELL_M`), and each cell is
named by the definitions of the IGBP legend from the shares in it: Sulla-Menashe & Friedl (2018),
User Guide to Collection 6 MODIS Land Cover, table 3; Strahler et al. (1999), MODIS Land Cover ATBD,
table 1. Every constant below that ends in ``_MIN`` is a number of that table.

What such maps cannot tell is taken from the coarse MODIS map that ships with ecomap: the leaf type
of forest, and whether shrubland is closed or open, are those of the nearest cell of that map with a
class of the same family (`nearest_class`).

Limits, in words: WorldCover calls a pixel tree cover or shrubland from 10 % cover on, so that open
woodland comes out as forest. Moss and lichen count as herbs, and tundra so as grassland; MODIS has
much of it as open shrubland.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from ecomap.errors import DataError
from ecomap.normals import open_normals
from ecomap.schema import LandCover

MODIS_CELL_M = 463.3127
"""Side of a cell of MCD12Q1: a 10-degree tile of the sinusoidal grid, 1,111,950.5 m, has 2,400."""

Cover = Literal["trees", "shrubs", "herbs", "crops", "built", "bare", "snow", "water", "wetland"]
"""What a pixel is, of all maps."""
COVERS: tuple[Cover, ...] = get_args(Cover)


@dataclass(frozen=True)
class SourceClass:
    """A class of a map: its name, the colour that its makers give it, and what it is."""

    name: str
    color: str
    cover: Cover


WORLDCOVER: dict[int, SourceClass] = {
    10: SourceClass("Tree cover", "#006400", "trees"),
    20: SourceClass("Shrubland", "#ffbb22", "shrubs"),
    30: SourceClass("Grassland", "#ffff4c", "herbs"),
    40: SourceClass("Cropland", "#f096ff", "crops"),
    50: SourceClass("Built-up", "#fa0000", "built"),
    60: SourceClass("Bare / sparse vegetation", "#b4b4b4", "bare"),
    70: SourceClass("Snow and ice", "#f0f0f0", "snow"),
    80: SourceClass("Permanent water bodies", "#0064c8", "water"),
    90: SourceClass("Herbaceous wetland", "#0096a0", "wetland"),
    95: SourceClass("Mangroves", "#00cf75", "wetland"),
    100: SourceClass("Moss and lichen", "#fae6a0", "herbs"),
}
"""ESA WorldCover, by code; Zanaga et al. (2022), https://doi.org/10.5281/zenodo.7254221."""

DYNAMIC_WORLD: dict[int, SourceClass] = {
    0: SourceClass("Water", "#419bdf", "water"),
    1: SourceClass("Trees", "#397d49", "trees"),
    2: SourceClass("Grass", "#88b053", "herbs"),
    3: SourceClass("Flooded vegetation", "#7a87c6", "wetland"),
    4: SourceClass("Crops", "#e49635", "crops"),
    5: SourceClass("Shrub and scrub", "#dfc35a", "shrubs"),
    6: SourceClass("Built", "#c4281b", "built"),
    7: SourceClass("Bare", "#a59b8f", "bare"),
    8: SourceClass("Snow and ice", "#b39fe1", "snow"),
}
"""Dynamic World, by label; Brown et al. (2022), https://doi.org/10.1038/s41597-022-01307-4."""

FORESTS = tuple(LandCover(code) for code in range(1, 6))
SHRUBLANDS = (LandCover.CLOSED_SHRUBLANDS, LandCover.OPEN_SHRUBLANDS)

WATER_MIN = 0.6
"""Water bodies: at least 60 % of the area is permanent water."""
URBAN_MIN = 0.3
"""Urban and built-up: at least 30 % impervious surface."""
SNOW_MIN = 0.6
"""Permanent snow and ice: at least 60 % of the area."""
CROPLAND_MIN = 0.6
"""Croplands: at least 60 % of the area is cultivated."""
MOSAIC_MIN = 0.4
"""Cropland/natural vegetation mosaics: 40-60 % cultivation with natural vegetation."""
FOREST_MIN = 0.6
"""Forests: more than 60 % tree cover."""
WOODY_SAVANNA_MIN = 0.3
"""Woody savannas: 30-60 % tree cover."""
SAVANNA_MIN = 0.1
"""Savannas: 10-30 % tree cover."""
DENSE_SHRUB_MIN = 0.6
"""Closed shrublands: more than 60 % cover. Pixels of shrubland are not all covered, so that beyond
it the coarse map decides between closed and open."""
SHRUB_MIN = 0.1
"""Open shrublands: 10-60 % cover, dominated by woody plants: not less of them than of herbs."""
INUNDATED_MIN = 0.3
"""Permanent wetlands: permanently inundated lands with 30-60 % water ..."""
WETLAND_PLANTS_MIN = 0.1
"""... and more than 10 % vegetated cover, here of plants that stand in water: else every lake
shore were one."""
VEGETATED_MIN = 0.1
"""Barren: less than 10 % vegetation."""


@dataclass(frozen=True)
class TileCover:
    """What the pixels of a tile are: fractions of all of it, each set and `nodata_frac` make 1."""

    igbp: dict[LandCover, float]
    """By IGBP class of the cells, ascending codes, classes that occur."""
    source: dict[str, float]
    """By class of the map, in its order, classes that occur."""
    land_frac: float
    """Part that is known not to be water."""
    nodata_frac: float
    """Part that the map does not know, [0, 1]."""


def summarise(
    codes: NDArray[np.integer],
    classes: Mapping[int, SourceClass],
    *,
    num_cells: int,
    forest: LandCover,
    shrubland: LandCover,
    nodata: int,
) -> TileCover | None:
    """Count the classes of a square tile and name its cells.

    Args:
        codes: Classes of the map, (rows, columns), as many of one as of the other.
        classes: What they mean.
        num_cells: Cells along a side: the side over `MODIS_CELL_M`.
        forest: Class of cells that are forest.
        shrubland: Class of cells that are dense shrubland.
        nodata: Code of pixels that the map does not know; they have no class.

    Returns:
        Fractions, cells weighted with their known area; None where the map knows nothing.

    Raises:
        DataError: If a code has no meaning.
    """
    present = set(np.unique(codes).tolist()) - {nodata}
    if not present:
        return None
    if present - set(classes):
        raise DataError(
            f"Land cover codes {sorted(present - set(classes))} are unknown; expected "
            f"{', '.join(str(code) for code in classes)}, and {nodata} for no data."
        )
    counts = _count_in_cells(codes, list(classes), num_cells)
    known = counts.sum(1)
    member = np.array([[entry.cover == cover for cover in COVERS] for entry in classes.values()])
    cells = known > 0
    shares = (counts[cells] @ member) / known[cells, None]
    names = name_cells(shares, forest=forest, shrubland=shrubland)
    areas = np.bincount(names, weights=known[cells], minlength=len(LandCover) + 1) / codes.size
    totals = counts.sum(0)
    is_land = ~member[:, COVERS.index("water")]
    return TileCover(
        igbp={cover: float(areas[cover]) for cover in LandCover if areas[cover] > 0},
        source={
            entry.name: float(total / codes.size)
            for entry, total in zip(classes.values(), totals, strict=True)
            if total > 0
        },
        land_frac=float(totals[is_land].sum() / codes.size),
        nodata_frac=float(1 - known.sum() / codes.size),
    )


def _count_in_cells(
    codes: NDArray[np.integer], classes: list[int], num_cells: int
) -> NDArray[np.int64]:
    """Pixels by cell (row by row) and class; pixels of other codes are not counted."""
    lookup = np.full(int(max(int(codes.max()), *classes)) + 1, len(classes))
    lookup[classes] = np.arange(len(classes))
    cell = np.arange(len(codes)) * num_cells // len(codes)
    index = (cell[:, None] * num_cells + cell) * (len(classes) + 1) + lookup[codes]
    counts = np.bincount(index.ravel(), minlength=num_cells**2 * (len(classes) + 1))
    return counts.reshape(num_cells**2, -1)[:, :-1]


def name_cells(
    shares: NDArray[np.float64], *, forest: LandCover, shrubland: LandCover
) -> NDArray[np.int64]:
    """Name cells by the definitions of the IGBP legend.

    Water is told first. The rest is judged on the land of the cell: half a lake does not thin out
    the forest beside it. Of definitions that overlap, the earlier of the code counts: those that
    ask for most of the area, then wetlands, then what is not vegetated, then the mixtures.

    Args:
        shares: Fractions of the cell's known area, (cells, `COVERS`), each row adding up to 1.
        forest: Class of forest, where the legend needs a leaf type.
        shrubland: Class of dense shrubland, closed or open.

    Returns:
        IGBP codes, one a cell.
    """
    whole = dict(zip(COVERS, shares.T, strict=True))
    land = np.where(whole["water"] < 1, 1 - whole["water"], 1.0)
    on_land = {cover: share / land for cover, share in whole.items()}
    trees, shrubs, herbs, crops = (on_land[c] for c in ("trees", "shrubs", "herbs", "crops"))
    plants = trees + shrubs + herbs + crops + on_land["wetland"]
    is_inundated = whole["water"] + whole["wetland"] >= INUNDATED_MIN
    rules = [
        (whole["water"] >= WATER_MIN, LandCover.WATER_BODIES),
        (on_land["built"] >= URBAN_MIN, LandCover.URBAN_AND_BUILT_UP),
        (on_land["snow"] >= SNOW_MIN, LandCover.SNOW_AND_ICE),
        (crops >= CROPLAND_MIN, LandCover.CROPLANDS),
        (trees > FOREST_MIN, forest),
        (shrubs > DENSE_SHRUB_MIN, shrubland),
        (is_inundated & (whole["wetland"] > WETLAND_PLANTS_MIN), LandCover.PERMANENT_WETLANDS),
        ((plants < VEGETATED_MIN) & (on_land["snow"] > on_land["bare"]), LandCover.SNOW_AND_ICE),
        (plants < VEGETATED_MIN, LandCover.BARREN),
        (crops >= MOSAIC_MIN, LandCover.CROPLAND_NATURAL_VEGETATION_MOSAICS),
        (trees >= WOODY_SAVANNA_MIN, LandCover.WOODY_SAVANNAS),
        (trees >= SAVANNA_MIN, LandCover.SAVANNAS),
        ((shrubs >= SHRUB_MIN) & (shrubs >= herbs), LandCover.OPEN_SHRUBLANDS),
        (crops > herbs, LandCover.CROPLAND_NATURAL_VEGETATION_MOSAICS),
    ]
    conditions, classes = zip(*rules, strict=True)
    return np.select(conditions, [int(c) for c in classes], int(LandCover.GRASSLANDS))


def nearest_class(lat: float, lon: float, family: tuple[LandCover, ...]) -> LandCover:
    """Class of the nearest cell of the coarse map that has one of a family.

    Left out of the map one by one, 93 % of its forest cells are named like the nearest forest cell
    that remains, and 99 % of its shrublands; beyond 100 km it is 88 % and 98 %. A rule on climate
    (Koeppen's groups, each with its commonest forest) gets 73 % of the forests.

    Args:
        lat: Degrees north.
        lon: Degrees east.
        family: Classes to choose from.
    """
    tree, covers = _cells_of(family)
    _, index = tree.query(on_sphere(np.array([lat]), np.array([lon])))
    return LandCover(int(covers[index[0]]))


@lru_cache(maxsize=4)
def _cells_of(family: tuple[LandCover, ...]) -> tuple[cKDTree, NDArray[np.integer]]:
    """Cells of the coarse map with land and a class of the family, for search by distance."""
    table = open_normals()
    rows, columns = np.nonzero(np.isin(table.cover, family) & (table.land > 0))
    return cKDTree(on_sphere(table.lat[rows], table.lon[columns])), table.cover[rows, columns]


def on_sphere(lat: NDArray[np.floating], lon: NDArray[np.floating]) -> NDArray[np.float64]:
    """Points of the unit sphere, (points, 3), whose straight distances sort like those on Earth."""
    lat, lon = np.radians(lat), np.radians(lon)
    return np.stack([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)], axis=-1)
