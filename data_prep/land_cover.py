"""IGBP class, purity and fractions of a tile, from the map that the config names.

    worldcover         ESA WorldCover, 10 m, files of 3 x 3 degrees on the web or in a folder
    dynamicworld       the user's GeoTIFF of Dynamic World labels
    mcd12q1-geotiff    the user's GeoTIFF of MODIS classes
    mcd12q1-service    the same from ORNL DAAC's service
    none               not known

The first two are put in IGBP's words by `data_prep.crosswalk`. The class of a tile is that of the
largest part of it (of equal parts, that of the lowest code), and purity is the fraction of that
part. A map is of one year: `LandCoverResult.year` lets the reader judge how that fits an image.

All fractions are of the whole tile: where the map does not know a part, they add up to less. How
much land a tile has is told only where that part is small (`LAND_UNKNOWN_MAX`).
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from data_prep import mcd12q1, worldcover
from data_prep.crosswalk import (
    DYNAMIC_WORLD,
    FORESTS,
    MODIS_CELL_M,
    SHRUBLANDS,
    WORLDCOVER,
    SourceClass,
    nearest_class,
    summarise,
)
from data_prep.place import Place
from data_prep.prep_config import LandCoverConfig
from ecomap.schema import LandCover, parse_land_cover

WORLDCOVER_ATTRIBUTION = (
    "© ESA WorldCover project / Contains modified Copernicus Sentinel data ({year}) processed by "
    "ESA WorldCover consortium, CC BY 4.0; kinds of forest and shrubland: MODIS MCD12C1, NASA LP "
    "DAAC"
)
DYNAMIC_WORLD_ATTRIBUTION = (
    "Dynamic World (Google, World Resources Institute, National Geographic Society), CC BY 4.0; "
    "kinds of forest and shrubland: MODIS MCD12C1, NASA LP DAAC"
)
DYNAMIC_WORLD_NODATA = 255
LAND_UNKNOWN_MAX = 0.2
"""Unknown part of a tile up to which its land is told: that part is taken to be like the rest, so
that the error is no larger."""


@dataclass(frozen=True, kw_only=True)
class LandCoverResult:
    """Land cover of a tile."""

    land_cover: LandCover | None = None
    """Class of the largest part; None where nothing is known."""
    land_cover_frac: float | None = None
    """Purity: fraction of the tile that has this class, (0, 1]."""
    fracs: dict[LandCover, float] = field(default_factory=dict)
    """IGBP class -> fraction of the tile, ascending codes, adding up to 1 - `nodata_frac`."""
    source_fracs: dict[str, float] = field(default_factory=dict)
    """The same in the map's own classes, where they are others."""
    land_frac: float | None = None
    """Fraction of the tile that is not water, [0, 1]: the share of the known part. None where more
    than `LAND_UNKNOWN_MAX` is unknown."""
    nodata_frac: float | None = None
    """Part of the tile that the map does not know, [0, 1]."""
    source: str
    version: str | None = None
    """Of the map, where it is known."""
    year: int | None = None
    """Of the map; of a user's file, what the config says."""
    attribution: str = ""
    note: str = ""
    """What was assumed; empty where nothing was."""

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; classes by name."""
        content = asdict(self)
        content["land_cover"] = None if self.land_cover is None else self.land_cover.label
        content["fracs"] = {cover.label: frac for cover, frac in self.fracs.items()}
        return content

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> "LandCoverResult":
        """Take back what `to_dict` gave.

        Raises:
            SchemaError: If a class has no such name.
        """
        name = content["land_cover"]
        return cls(
            **{
                **content,
                "land_cover": None if name is None else parse_land_cover(name),
                "fracs": {parse_land_cover(key): frac for key, frac in content["fracs"].items()},
            }
        )


def fetch_land_cover(place: Place, config: LandCoverConfig) -> LandCoverResult:
    """Find what covers a tile.

    Args:
        place: Tile.
        config: Source of the map.

    Raises:
        ReadError: If a file of WorldCover cannot be read (`retryable` says whether later it may).
        ServiceError: If the service of MODIS does not answer, likewise.
        DataError: If the user's file is missing, damaged, holds other codes, or does not cover the
            tile.
        RequestError: If the tile is too large for the service.
    """
    sources: dict[str, Callable[[Place, LandCoverConfig], LandCoverResult]] = {
        "worldcover": _from_worldcover,
        "dynamicworld": _from_dynamic_world,
        "mcd12q1-geotiff": _from_modis_file,
        "mcd12q1-service": _from_modis_service,
        "none": lambda place, config: LandCoverResult(source=config.source),
    }
    return sources[config.source](place, config)


def _from_worldcover(place: Place, config: LandCoverConfig) -> LandCoverResult:
    labels, notes = worldcover.read_worldcover(
        place,
        year=config.year,
        url=config.url,
        timeout_s=config.timeout_s,
        num_retries=config.num_retries,
    )
    blank = LandCoverResult(
        source=config.source,
        version=worldcover.VERSIONS[config.year],
        year=config.year,
        attribution=WORLDCOVER_ATTRIBUTION.format(year=config.year),
    )
    return _named(blank, labels, WORLDCOVER, place=place, nodata=worldcover.NODATA, notes=notes)


def _from_dynamic_world(place: Place, config: LandCoverConfig) -> LandCoverResult:
    labels, declared = worldcover.read_labels(
        config.path or Path(), place, nodata=DYNAMIC_WORLD_NODATA
    )
    blank = LandCoverResult(
        source=config.source,
        version="V1",
        year=config.year,
        attribution=DYNAMIC_WORLD_ATTRIBUTION,
    )
    notes = []
    if declared is None and (labels == 0).any():
        notes.append("label 0 is taken as water; Earth Engine also writes masked pixels as 0")
    return _named(
        blank, labels, DYNAMIC_WORLD, place=place, nodata=DYNAMIC_WORLD_NODATA, notes=notes
    )


def _named(
    blank: LandCoverResult,
    labels: worldcover.Labels,
    classes: Mapping[int, SourceClass],
    *,
    place: Place,
    nodata: int,
    notes: list[str],
) -> LandCoverResult:
    """Fill in what labels at 10 m say."""
    side_m = place.size_px * place.resolution_m
    cover = summarise(
        labels,
        classes,
        num_cells=min(max(round(side_m / MODIS_CELL_M), 1), len(labels)),
        forest=nearest_class(place.lat, place.lon, FORESTS),
        shrubland=nearest_class(place.lat, place.lon, SHRUBLANDS),
        nodata=nodata,
    )
    note = "; ".join(notes)
    if cover is None:
        return replace(blank, nodata_frac=1.0, note=note)
    return replace(
        blank,
        **_largest(cover.igbp),
        fracs=cover.igbp,
        source_fracs=cover.source,
        land_frac=_land_of(cover.land_frac, cover.nodata_frac),
        nodata_frac=cover.nodata_frac,
        note=note,
    )


def _from_modis_file(place: Place, config: LandCoverConfig) -> LandCoverResult:
    return _from_modis(mcd12q1.read_geotiff(config.path or Path(), place), config)


def _from_modis_service(place: Place, config: LandCoverConfig) -> LandCoverResult:
    cover = mcd12q1.ask_service(
        place,
        year=config.year,
        url=config.url or mcd12q1.SERVICE_URL,
        timeout_s=config.timeout_s,
        num_retries=config.num_retries,
    )
    return _from_modis(cover, config)


def _from_modis(cover: mcd12q1.ModisCover, config: LandCoverConfig) -> LandCoverResult:
    blank = LandCoverResult(
        source=config.source,
        year=config.year,
        attribution=mcd12q1.ATTRIBUTION,
        nodata_frac=cover.nodata_frac,
        note="code 0 is taken as water" if cover.has_zero else "",
    )
    if not cover.fracs:
        return blank
    return replace(
        blank,
        **_largest(cover.fracs),
        fracs=cover.fracs,
        land_frac=_land_of(
            math.fsum(f for c, f in cover.fracs.items() if c != LandCover.WATER_BODIES),
            cover.nodata_frac,
        ),
    )


def _land_of(known_land_frac: float, nodata_frac: float) -> float | None:
    """Land of a tile from the part of it that is known to be land."""
    if nodata_frac > LAND_UNKNOWN_MAX:
        return None
    return min(known_land_frac / (1 - nodata_frac), 1.0)


def _largest(fracs: Mapping[LandCover, float]) -> dict[str, Any]:
    """Class of the largest part and its fraction, as fields of the result."""
    largest = max(fracs, key=lambda cover: (fracs[cover], -cover))
    return {"land_cover": largest, "land_cover_frac": fracs[largest]}
