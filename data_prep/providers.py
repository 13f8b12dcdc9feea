"""Catalogues of Sentinel-2 Level-2A: where they are, what they call the bands, how they sign."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from data_prep.prep_config import ProviderName

SCENE_CLASSES = "SCL"
"""The band that holds the scene classification."""

COMMON_NAMES: dict[str, str] = {
    "B02": "blue",
    "B03": "green",
    "B04": "red",
    "B05": "rededge1",
    "B06": "rededge2",
    "B07": "rededge3",
    "B08": "nir",
    "B8A": "nir08",
    "B11": "swir16",
    "B12": "swir22",
    SCENE_CLASSES: "scl",
}
"""Band -> its asset key in the scheme of STAC's electro-optical extension."""

NATIVE_RESOLUTIONS_M: dict[str, int] = {
    band: 10 if band in ("B02", "B03", "B04", "B08") else 20 for band in COMMON_NAMES
}


@dataclass(frozen=True, kw_only=True)
class Provider:
    """One catalogue, or kind of catalogue."""

    name: ProviderName
    url: str | None
    """Root of its STAC API; None where the config must say."""
    collection: str | None
    """Collection of Sentinel-2 Level-2A; None: any, so long as its items are that."""
    assets: Mapping[str, tuple[str, ...]]
    """Band -> asset keys, tried in this order."""
    signs: Literal["planetary-computer"] | None
    """Who signs the addresses of assets: they need a token at the time of reading."""
    attribution: str
    """What a data card must say; ``{years}`` are those of the images."""
    license: str


ATTRIBUTION = "Contains modified Copernicus Sentinel data {years}"
LICENSE = "Copernicus Sentinel Data Terms (free, full and open access, with attribution)"

_COMMON = {band: (name,) for band, name in COMMON_NAMES.items()}
_NUMBERED = {band: (band,) for band in COMMON_NAMES}
# Earth Search's first version kept the numbers, and so do mirrors of it.
_COMMON_FIRST = {band: (name, band) for band, name in COMMON_NAMES.items()}
# The Copernicus Data Space names its assets by band and resolution.
_ANY = {
    band: (name, band, f"{band}_{NATIVE_RESOLUTIONS_M[band]}m")
    for band, name in COMMON_NAMES.items()
}


def _provider(
    name: ProviderName,
    assets: Mapping[str, tuple[str, ...]],
    *,
    url: str | None = None,
    collection: str | None = None,
    signs: Literal["planetary-computer"] | None = None,
) -> Provider:
    return Provider(
        name=name,
        url=url,
        collection=collection,
        assets=assets,
        signs=signs,
        attribution=ATTRIBUTION,
        license=LICENSE,
    )


PROVIDERS: dict[ProviderName, Provider] = {
    "earth-search": _provider(
        "earth-search",
        _COMMON_FIRST,
        url="https://earth-search.aws.element84.com/v1",
        collection="sentinel-2-l2a",
    ),
    "earth-search-c1": _provider(
        "earth-search-c1",
        _COMMON,
        url="https://earth-search.aws.element84.com/v1",
        collection="sentinel-2-c1-l2a",
    ),
    "planetary-computer": _provider(
        "planetary-computer",
        _NUMBERED,
        url="https://planetarycomputer.microsoft.com/api/stac/v1",
        collection="sentinel-2-l2a",
        signs="planetary-computer",
    ),
    "stac-api": _provider("stac-api", _ANY),
    "static-catalog": _provider("static-catalog", _ANY),
}
"""Every provider that a config can name."""
