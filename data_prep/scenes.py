"""Items of a catalogue as scenes, each pass of the satellite once, found again by place and month.

Providers agree on little: two schemes of asset names, three of naming the MGRS tile, two versions
of the projection extension. What properties do not tell, the names of ESA's products do, which
stand in one property or another, or in the id.

Longer than the budget because every rule about what an item means stands in one place.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np
import shapely
from pyproj import CRS
from pyproj.exceptions import CRSError

from data_prep.footprints import footprint_of
from data_prep.place import Place
from data_prep.prep_config import ProviderName
from data_prep.providers import PROVIDERS, SCENE_CLASSES
from data_prep.remote import is_readable
from data_prep.scene import Scene
from ecomap.errors import DataError
from ecomap.imagery import RGB_BANDS

NEEDED_BANDS = (*RGB_BANDS, SCENE_CLASSES)
"""An item without one of these is of no use."""
DATASTRIP_HINT = "datastrip"
"""Key of `Scene.offset_hints` that holds the start of the datastrip, ``20230815T095630``."""
SAME_START_S = 3.0
"""Processed anew, a datastrip may start so much earlier or later; two of one pass start at least
one granule, 3.6 s, apart."""
SAME_AREA_FRAC = 0.5
"""Overlap (intersection over union) from which two scenes without datastrip show the same area."""

_PRODUCT_NAMES = (
    "s2:product_uri", "sentinel:product_id", "s2:datatake_id", "s2:granule_id", "s2:tile_id",
    "s2:datastrip_id",
)  # fmt: skip
_BASELINE = re.compile(r"_N(\d\d)\.?(\d\d)(?![\d.])")
_DATATAKE = re.compile(r"GS2([A-Z])_(\d{8}T\d{6})_")
_PRODUCT = re.compile(r"S2([A-Z])_MSIL\d\w_(\d{8}T\d{6})_")
_ORBIT = re.compile(r"S2([A-Z])_OPER_\w+?_A(\d{6})_")
_MGRS_TILE = r"(\d{1,2})([C-HJ-NP-X])([A-HJ-NP-Z][A-HJ-NP-V])(?=[_.]|$)"
_MGRS = re.compile(rf"(?:^|-){_MGRS_TILE}")
# In ESA's names a T comes first: without it S2C's processing centre "2CPS" would be a tile.
_MGRS_IN_NAME = re.compile(rf"_T{_MGRS_TILE}")
_MGRS_IN_ID = re.compile(rf"^S2[A-Z]_{_MGRS_TILE}")
_DATASTRIP = re.compile(r"_S(\d{8}T\d{6})")
_LEVEL_1 = re.compile(r"MSIL1C|S2MSI1C|_L1C|-l1c|MSI_L1C", re.IGNORECASE)


class SceneRefused(DataError):
    """An item that cannot be a scene.

    Attributes:
        reason: Short name, for counts: ``not_level_2a``, ``not_sentinel_2``, ``missing_bands``,
            ``unsupported_address``, ``no_time``, ``no_outline`` or ``unknown_crs``.
    """

    def __init__(self, message: str, *, reason: str) -> None:
        super().__init__(message)
        self.reason = reason


def scene_of(item: Mapping[str, Any], provider: ProviderName) -> Scene:
    """Reduce a STAC item to what reading it needs.

    Args:
        item: STAC 1.0 or 1.1, with absolute hrefs.
        provider: Whose asset names apply.

    Raises:
        SceneRefused: If the item is not Sentinel-2 Level-2A, or lacks bands, time or outline.
    """
    name, properties = str(item.get("id")), item.get("properties") or {}
    names = [*(str(properties[key]) for key in _PRODUCT_NAMES if properties.get(key)), name]
    mgrs, satellite = _granule_of(name, item, properties, names)
    acquired = _acquired(name, properties)
    bands = _assets_of(name, item, provider)
    crs = _crs_of(name, properties, bands.values())
    footprint = footprint_of(item, crs or _crs_of_mgrs(mgrs), bands.values())
    if footprint is None:
        raise SceneRefused(
            f"{name} has neither a geometry nor a pixel grid; expected one of them. "
            "Leave it out of the catalogue, or mend it.",
            reason="no_outline",
        )
    baseline = _baseline_of(properties, names)
    return Scene(
        item_id=name,
        provider=provider,
        collection=str(item.get("collection") or ""),
        acquired=acquired,
        pass_key=_pass_key(names, satellite, acquired),
        mgrs=mgrs,
        baseline=baseline,
        cloud_frac=_cloud_frac(properties),
        footprint=footprint,
        crs=crs,
        assets={band: asset["href"] for band, asset in bands.items()},
        offset_hints=dict(_hints(properties, names, bands, baseline)),
    )


def dedupe(scenes: Sequence[Scene]) -> tuple[list[Scene], dict[str, int]]:
    """Keep of each granule the latest processing.

    Scenes of one pass and one MGRS tile are the same granule if their datastrips start together.
    Two datastrips of one pass, whose seam may lie inside the tile, are both kept.

    Returns:
        Scenes sorted by item id; how many were dropped, by reason: ``duplicate_item`` (the same
        item twice) and ``reprocessed_twin`` (an older baseline, or, with the same one, an id that
        sorts lower).
    """
    unique = {(scene.collection, scene.item_id): scene for scene in scenes}
    granules: dict[tuple[str, str], list[list[Scene]]] = defaultdict(list)
    for scene in sorted(unique.values(), key=lambda scene: (_start(scene), scene.item_id)):
        known = granules[scene.pass_key, scene.mgrs]
        same = next((twins for twins in known if _is_twin(twins[0], scene)), None)
        if same is None:
            known.append([scene])
        else:
            same.append(scene)
    kept = [max(twins, key=_newness) for known in granules.values() for twins in known]
    dropped = Counter(
        duplicate_item=len(scenes) - len(unique), reprocessed_twin=len(unique) - len(kept)
    )
    return sorted(kept, key=lambda scene: scene.item_id), {k: n for k, n in dropped.items() if n}


class SceneIndex:
    """Scenes by month and place; made by `index_scenes`."""

    def __init__(self, scenes: Iterable[Scene]) -> None:
        months: dict[str, list[Scene]] = defaultdict(list)
        for scene in sorted(scenes, key=lambda scene: (_cloud(scene), scene.item_id)):
            months[scene.month].append(scene)
        self._scenes = dict(months)
        self._trees = {
            month: shapely.STRtree([scene.footprint for scene in scenes])
            for month, scenes in months.items()
        }

    def at(self, place: Place, month: str) -> list[Scene]:
        """Scenes of a month that share area with a place, least cloud first, then by item id.

        Scenes of unknown cloud cover count as overcast.

        Args:
            place: Where.
            month: Calendar month in UTC, ``YYYY-MM``.
        """
        tree = self._trees.get(month)
        if tree is None:
            return []
        near = np.sort(tree.query(place.footprint, predicate="intersects"))
        shares_area = shapely.relate_pattern(tree.geometries[near], place.footprint, "T********")
        return [self._scenes[month][number] for number in near[shares_area]]


def index_scenes(scenes: Iterable[Scene]) -> SceneIndex:
    """Index scenes by month and footprint."""
    return SceneIndex(scenes)


def _granule_of(
    name: str, item: Mapping[str, Any], properties: Mapping[str, Any], names: Sequence[str]
) -> tuple[str, str]:
    """MGRS tile and satellite of an item of Level-2A; others are refused."""
    level = [*names, str(properties.get("s2:product_type")), str(item.get("collection"))]
    if any(_LEVEL_1.search(text) for text in level):
        raise SceneRefused(
            f"{name} is Sentinel-2 Level-1C, not corrected for the atmosphere; expected Level-2A. "
            "Set imagery.collection to a collection of Level-2A.",
            reason="not_level_2a",
        )
    mgrs, satellite = _mgrs_of(properties, names), _satellite_of(properties, names)
    if mgrs is None or satellite is None:
        raise SceneRefused(
            f"{name} does not name an MGRS tile and a Sentinel-2 satellite; expected an item of "
            "Sentinel-2 Level-2A. Set imagery.collection to such a collection.",
            reason="not_sentinel_2",
        )
    return mgrs, satellite


def _mgrs_of(properties: Mapping[str, Any], names: Sequence[str]) -> str | None:
    """MGRS tile with a zone of two digits, from properties or the products' names."""
    stated = [str(properties[key]) for key in ("grid:code", "s2:mgrs_tile") if properties.get(key)]
    for prefix in ("mgrs", "sentinel"):
        keys = ("utm_zone", "latitude_band", "grid_square")
        parts = [properties.get(f"{prefix}:{key}") for key in keys]
        if all(parts):
            stated.append("".join(map(str, parts)))
    found = [_MGRS.search(text) for text in stated]
    found += [pattern.search(name) for pattern in (_MGRS_IN_NAME, _MGRS_IN_ID) for name in names]
    for tile in filter(None, found):
        return f"{int(tile[1]):02d}{tile[2]}{tile[3]}"
    return None


def _satellite_of(properties: Mapping[str, Any], names: Sequence[str]) -> str | None:
    """``S2A``, from the platform or the products' names."""
    platform = re.fullmatch(r"sentinel[-_ ]?2([a-z])", str(properties.get("platform")).lower())
    if platform:
        return f"S2{platform[1].upper()}"
    found = next(filter(None, (re.search(r"S2([A-Z])_", name) for name in names)), None)
    return f"S2{found[1]}" if found else None


def _acquired(name: str, properties: Mapping[str, Any]) -> str:
    """Sensing time, UTC, to the second."""
    text = properties.get("datetime") or properties.get("start_datetime")
    try:
        moment = datetime.fromisoformat(str(text))
    except ValueError:
        raise SceneRefused(
            f"{name}: its datetime is {text!r}; expected a time such as 2023-08-15T09:57:57Z. "
            "Leave it out of the catalogue, or mend it.",
            reason="no_time",
        ) from None
    moment = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def _assets_of(
    name: str, item: Mapping[str, Any], provider: ProviderName
) -> dict[str, Mapping[str, Any]]:
    """Band -> asset, red first: it is of the finest resolution."""
    assets = item.get("assets") or {}
    found = {}
    for band, keys in PROVIDERS[provider].assets.items():
        given = [assets[key] for key in keys if assets.get(key, {}).get("href")]
        if given:
            found[band] = next((a for a in given if is_readable(a["href"])), given[0])
    missing = [band for band in NEEDED_BANDS if band not in found]
    if missing:
        tried = ", ".join("/".join(PROVIDERS[provider].assets[band]) for band in missing)
        raise SceneRefused(
            f"{name} has no asset {tried}; it has {', '.join(sorted(assets)) or 'none'}. "
            f"Expected the names that provider {provider} uses: set imagery.provider to the one "
            "that made the catalogue.",
            reason="missing_bands",
        )
    hrefs = [str(found[band]["href"]) for band in NEEDED_BANDS]
    unknown = next((href for href in hrefs if not is_readable(href)), None)
    if unknown is not None:
        raise SceneRefused(
            f"{name}: {unknown} is an address of a kind that is not supported; expected https://, "
            "file:// or a path. Take a provider whose files are served over HTTP.",
            reason="unsupported_address",
        )
    return dict(sorted(found.items(), key=lambda entry: (entry[0] != RGB_BANDS[0], entry[0])))


def _crs_of(
    name: str, properties: Mapping[str, Any], assets: Iterable[Mapping[str, Any]]
) -> str | None:
    """``EPSG:...`` of the pixels, from ``proj:code`` or ``proj:epsg``."""
    for fields in (properties, *assets):
        code = fields.get("proj:code") or fields.get("proj:epsg")
        if code is None or str(code).removeprefix("EPSG:") in ("None", ""):
            continue
        text = str(code) if ":" in str(code) else f"EPSG:{code}"
        try:
            CRS.from_user_input(text)
        except CRSError:
            raise SceneRefused(
                f"{name}: its CRS is {text}, which PROJ does not know; expected a code such as "
                "EPSG:32633. Leave it out of the catalogue, or mend it.",
                reason="unknown_crs",
            ) from None
        return text
    return None


def _crs_of_mgrs(mgrs: str) -> str:
    """UTM zone of an MGRS tile, on whose grid ESA makes every granule."""
    return f"EPSG:32{6 if mgrs[2] >= 'N' else 7}{mgrs[:2]}"


def _baseline_of(properties: Mapping[str, Any], names: Sequence[str]) -> str | None:
    """Processing baseline, ``05.09``."""
    for key in ("s2:processing_baseline", "processing:version"):
        found = re.fullmatch(r"(\d{1,2})\.(\d{1,2})", str(properties.get(key)))
        if found:
            return f"{int(found[1]):02d}.{found[2].ljust(2, '0')}"
    found = next(filter(None, map(_BASELINE.search, names)), None)
    return f"{found[1]}.{found[2]}" if found else None


def _pass_key(names: Sequence[str], satellite: str, acquired: str) -> str:
    """Satellite and start of the datatake; what comes nearest to that where it is not told.

    Passes over one place lie 100 min apart or more, so satellite and hour tell them apart too.
    """
    for pattern, sign in ((_DATATAKE, ""), (_PRODUCT, ""), (_ORBIT, "A")):
        found = next(filter(None, map(pattern.search, names)), None)
        if found:
            return f"S2{found[1]}_{sign}{found[2]}"
    return f"{satellite}_{acquired[:13]}"


def _cloud_frac(properties: Mapping[str, Any]) -> float | None:
    percent = properties.get("eo:cloud_cover")
    if not isinstance(percent, int | float) or not 0 <= percent <= 100:
        return None
    return percent / 100


def _hints(
    properties: Mapping[str, Any],
    names: Sequence[str],
    bands: Mapping[str, Mapping[str, Any]],
    baseline: str | None,
) -> Iterator[tuple[str, Any]]:
    """Entries of `Scene.offset_hints`."""
    if baseline is not None:
        yield "baseline", baseline
    if properties.get("earthsearch:boa_offset_applied") is not None:
        yield "earthsearch:boa_offset_applied", properties["earthsearch:boa_offset_applied"]
    starts = [found[1] for found in map(_DATASTRIP.search, names) if found]
    if starts:
        yield DATASTRIP_HINT, starts[0]
    for band, asset in sorted(bands.items()):
        parts: list[Mapping[str, Any]] = asset.get("raster:bands") or asset.get("bands") or [{}]
        first = parts[0]
        stated = (asset.get("raster:offset"), first.get("raster:offset"), first.get("offset"))
        offset = next((value for value in stated if value is not None), None)
        if offset is not None and band != SCENE_CLASSES:
            yield band, offset


def _start(scene: Scene) -> datetime:
    """Start of the datastrip, else the sensing time."""
    return datetime.fromisoformat(scene.offset_hints.get(DATASTRIP_HINT) or scene.acquired[:-1])


def _is_twin(first: Scene, second: Scene) -> bool:
    """Whether two scenes of one pass and tile are the same granule."""
    if abs((_start(second) - _start(first)).total_seconds()) > SAME_START_S:
        return False
    if DATASTRIP_HINT in first.offset_hints and DATASTRIP_HINT in second.offset_hints:
        return True
    shared = first.footprint.intersection(second.footprint).area
    return bool(shared >= SAME_AREA_FRAC * first.footprint.union(second.footprint).area)


def _newness(scene: Scene) -> tuple[float, str]:
    return (float(scene.baseline or 0), scene.item_id)


def _cloud(scene: Scene) -> float:
    return 1.0 if scene.cloud_frac is None else scene.cloud_frac
