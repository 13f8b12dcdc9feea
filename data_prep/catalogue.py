"""Search of catalogues, once for many places and months, and the frozen result.

Services count requests, so neighbouring places are searched together, a year at a time, and never
twice: what was found is written to a file, from which everything after starts.

What services return is looked at again here: at the antimeridian their own filter goes by outlines
that are torn or missing. They are not asked to leave out cloudy scenes: of a pass that is clear
over a place all granules are needed, and one of them may be cloudy elsewhere.

Longer than the budget because what a search finds and what its file gives back are the same items.
"""

import calendar
import json
import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

import antimeridian
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import shapely
import stac_geoparquet.arrow
from numpy.typing import NDArray
from pystac.utils import make_absolute_href
from pystac_client.exceptions import APIError
from shapely.geometry import box, mapping
from shapely.geometry.base import BaseGeometry

from data_prep.footprints import footprint_of
from data_prep.place import Place
from data_prep.prep_config import ImageryConfig
from data_prep.providers import PROVIDERS
from data_prep.scenes import SceneRefused, scene_of
from data_prep.stac_io import Item, PatientIO, brief, open_api, walk, with_absolute_hrefs
from ecomap.errors import DataError, RequestError

Progress = Callable[[int, int], None]
Span = tuple[str, str]

PAGE_SIZE = 200
ITEM_COLUMN = "ecomap:item"
"""Column of `write_items` that holds each item as it was found, as JSON."""
ANYWHERE = box(-180, -90, 180, 90)
"""Outline in the column of geometries of an item that states none; the format asks for one."""
COLUMN_PROPERTIES: dict[str, type] = {
    "platform": str,
    "eo:cloud_cover": float,
    "grid:code": str,
    "s2:mgrs_tile": str,
    "s2:processing_baseline": str,
    "s2:datatake_id": str,
    "s2:product_uri": str,
}
"""Properties that are columns of their own, for other programs."""


def search(
    places: Sequence[Place],
    months: Iterable[str],
    config: ImageryConfig,
    *,
    progress: Progress | None = None,
) -> list[Item]:
    """Find the items of a catalogue that show a place in one of the months.

    Args:
        places: Where.
        months: Calendar months in UTC, ``YYYY-MM``.
        config: Catalogue, collection, limit of cloud, retries.
        progress: Called with (searches done, searches in all).

    Returns:
        STAC items with absolute hrefs, each once, sorted by id. A pass with more cloud in all its
        scenes over a place than the config allows is left out. Items that are no Sentinel-2
        Level-2A scenes are among them if the catalogue returns them.

    Raises:
        DataError: If the catalogue cannot be reached, or is not one.
        RequestError: If the config names no catalogue.
    """
    wanted = sorted(set(months))
    if not places or not wanted:
        return []
    url = config.url or PROVIDERS[config.provider].url
    if url is None:
        raise RequestError(
            f"imagery.url is empty; provider {config.provider} needs the address of a catalogue. "
            "Set it, or choose a provider that has one."
        )
    stac_io = PatientIO(num_retries=config.num_retries, timeout_s=config.timeout_s)
    try:
        if config.provider == "static-catalog":
            found = walk(url, stac_io)
        else:
            found = _search_api(places, wanted, config, url, stac_io, progress)
        kept = _Sieve(places, wanted, config)
        for item in found:
            kept.add(item)
    except APIError as error:
        raise DataError(
            f"{url}: the catalogue gave no usable answer ({brief(error)}); failures that may pass "
            f"were tried {config.num_retries + 1} times. Expected STAC items. Run again later, or "
            "set imagery.url or imagery.provider to another catalogue."
        ) from None
    if config.provider == "static-catalog" and progress is not None:
        progress(1, 1)
    return kept.items()


def no_items_message(places: Sequence[Place], months: Sequence[str], config: ImageryConfig) -> str:
    """What to say where a search found nothing."""
    url = config.url or PROVIDERS[config.provider].url
    collection = config.collection or PROVIDERS[config.provider].collection or "any collection"
    return (
        f"{url} has no scene of {collection} with at most {config.max_scene_cloud_frac:.0%} cloud "
        f"over any of {len(places)} places from {min(months)} to {max(months)}. Sentinel-2 "
        "Level-2A begins in 2017 (outside Europe in December 2018) and has no open ocean. Check "
        "region and months, or raise imagery.max_scene_cloud_frac."
    )


def write_items(path: Path, items: Sequence[Item]) -> None:
    """Write items as stac-geoparquet, by an atomic rename; the same items give the same bytes.

    The columns of the format hold what other programs need. They cannot hold items of different
    shape without loss (absent becomes null, times change their form), so `ITEM_COLUMN` has each
    item whole.

    Raises:
        RequestError: If there are no items.
    """
    if not items:
        raise RequestError(f"{path}: there are no items to write; expected one at least.")
    reader = stac_geoparquet.arrow.parse_stac_items_to_arrow([_columns_of(item) for item in items])
    whole = [json.dumps(item, sort_keys=True, allow_nan=False) for item in items]
    table = reader.read_all().append_column(ITEM_COLUMN, pa.array(whole, pa.string()))
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    stac_geoparquet.arrow.to_parquet(table, temporary, compression="zstd")
    temporary.replace(path)


def read_items(path: Path) -> list[Item]:
    """Read items in the order in which they were written.

    Files of other programs are read too, with what the format keeps.

    Raises:
        DataError: If the file is missing or damaged.
    """
    if not path.is_file():
        raise DataError(f"{path} does not exist. Make it with 'ecomap prep plan CONFIG'.")
    try:
        table = pq.read_table(path)
        if ITEM_COLUMN in table.column_names:
            return [json.loads(text) for text in table.column(ITEM_COLUMN).to_pylist()]
        return list(stac_geoparquet.arrow.stac_table_to_items(table))
    except (pa.ArrowException, OSError, ValueError, KeyError) as error:
        raise DataError(
            f"{path} is not a table of STAC items: {error}. Delete it and plan anew."
        ) from None


def _columns_of(item: Item) -> Item:
    """The part of an item that goes into columns: of one shape, whatever the catalogue."""
    properties = item.get("properties") or {}
    kept = {name: properties.get(name) for name in COLUMN_PROPERTIES}
    outline = footprint_of(item, None, ()) or ANYWHERE
    return {
        "type": "Feature",
        "stac_version": "1.0.0",
        "stac_extensions": [],
        "id": str(item.get("id")),
        "collection": item.get("collection"),
        "geometry": mapping(outline),
        "bbox": list(antimeridian.bbox(outline)),
        "links": [],
        "properties": {
            "datetime": _instant(properties.get("datetime")),
            **{n: None if v is None else COLUMN_PROPERTIES[n](v) for n, v in kept.items()},
        },
        "assets": {
            key: {name: asset.get(name) for name in ("href", "type", "title")}
            for key, asset in item.get("assets", {}).items()
        },
    }


def _instant(text: object) -> str | None:
    """A time in the one form that the format takes; None where it is none."""
    try:
        moment = datetime.fromisoformat(str(text))
    except ValueError:
        return None
    moment = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    return moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ")


class _Sieve:
    """Items that show one of the places in one of the months, in passes that are not too cloudy."""

    def __init__(
        self, places: Sequence[Place], months: Sequence[str], config: ImageryConfig
    ) -> None:
        self._tree = shapely.STRtree([place.footprint for place in places])
        self._months = frozenset(months)
        self._config = config
        self._items: dict[tuple[str, str], Item] = {}
        self._cloudy: dict[tuple[str, str], tuple[str, NDArray[np.intp]]] = {}
        self._clear: dict[str, set[int]] = defaultdict(set)  # pass -> places

    def add(self, item: Item) -> None:
        """Keep an item, for the time being."""
        key = (str(item.get("id")), item.get("collection") or "")
        if self._config.collection not in (None, item.get("collection")) or key in self._items:
            return
        try:
            scene = scene_of(item, self._config.provider)
        except SceneRefused:  # kept where it may be meant, so that it is refused and counted later
            if self._may_be_meant(item):
                self._items[key] = item
            return
        shown = self._shown(scene.footprint)
        if scene.month not in self._months or not shown.size:
            return
        self._items[key] = item
        if (scene.cloud_frac or 0.0) > self._config.max_scene_cloud_frac:
            self._cloudy[key] = (scene.pass_key, shown)
        else:
            self._clear[scene.pass_key].update(shown.tolist())

    def items(self) -> list[Item]:
        """Items of passes that are clear enough over a place that they show, sorted by id."""
        dropped = {
            key
            for key, (pass_key, shown) in self._cloudy.items()
            if self._clear[pass_key].isdisjoint(shown.tolist())
        }
        return [self._items[key] for key in sorted(self._items.keys() - dropped)]

    def _may_be_meant(self, item: Item) -> bool:
        when = (item.get("properties") or {}).get("datetime") or min(self._months)
        outline = footprint_of(item, None, ())
        return str(when)[:7] in self._months and (outline is None or self._shown(outline).size > 0)

    def _shown(self, outline: BaseGeometry) -> NDArray[np.intp]:
        """Numbers of the places that share area with an outline."""
        near = self._tree.query(outline, predicate="intersects")
        shares = shapely.relate_pattern(self._tree.geometries[near], outline, "T********")
        return np.asarray(near[shares])


def _search_api(
    places: Sequence[Place],
    months: Sequence[str],
    config: ImageryConfig,
    url: str,
    stac_io: PatientIO,
    progress: Progress | None,
) -> Iterator[Item]:
    """Items of all clusters of places and spans of months."""
    client = open_api(url, stac_io)
    provider = PROVIDERS[config.provider]
    collection = config.collection or provider.collection
    areas, spans = _clusters(places, config.cluster_deg), _spans(months)
    jobs = [(area, span) for area in areas for span in spans]
    for number, (area, span) in enumerate(jobs):
        found = client.search(
            collections=None if collection is None else [collection],
            intersects=mapping(area),
            datetime="/".join(span),
            limit=PAGE_SIZE,
        )
        for item in found.items_as_dicts():
            own = [link["href"] for link in item.get("links", []) if link.get("rel") == "self"]
            yield with_absolute_hrefs(item, make_absolute_href(own[0], url) if own else url)
        if progress is not None:
            progress(number + 1, len(jobs))


def _clusters(places: Sequence[Place], cluster_deg: float) -> list[BaseGeometry]:
    """Areas to search: the boxes around the places of each square of the globe."""
    squares: dict[tuple[int, int], list[BaseGeometry]] = defaultdict(list)
    for place in places:
        square = (math.floor(place.lat / cluster_deg), math.floor(place.lon / cluster_deg))
        squares[square].extend(shapely.get_parts(place.footprint))
    return [_boxes(squares[square]) for square in sorted(squares)]


def _boxes(parts: Sequence[BaseGeometry]) -> BaseGeometry:
    """Box around outlines; two where they lie on both sides of the antimeridian."""
    west, _, east, _ = shapely.total_bounds(parts)
    if east - west <= 180:
        return box(*shapely.total_bounds(parts))
    sides = ([p for p in parts if p.bounds[0] < 0], [p for p in parts if p.bounds[0] >= 0])
    return shapely.MultiPolygon([box(*shapely.total_bounds(side)) for side in sides])


def _spans(months: Sequence[str]) -> list[Span]:
    """Unbroken runs of months within a year, as first and last instant."""
    runs: list[list[str]] = []
    for month in months:
        last = runs[-1][-1] if runs else ""
        if last[:4] == month[:4] and int(month[5:]) == int(last[5:]) + 1:
            runs[-1].append(month)
        else:
            runs.append([month])
    return [(f"{run[0]}-01T00:00:00Z", f"{_last_day(run[-1])}T23:59:59.999Z") for run in runs]


def _last_day(month: str) -> str:
    return f"{month}-{calendar.monthrange(int(month[:4]), int(month[5:]))[1]:02d}"
