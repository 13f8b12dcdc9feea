"""A sequence as a static STAC catalogue with relative links, which may move with its folder.

    stac/collection.json                     what the sequence is; cubes and films are its assets
    stac/start.json                          Item of the start tile
    stac/items/SCENARIO/MEMBER/NAME.json     Item of each frame, derived from the start

Without a CRS and a transform of the start nobody knows its outline: Items then have no geometry,
and the extent of the collection is the point that was asked for.
"""

import mimetypes
import os
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import antimeridian
from rasterio.transform import Affine, xy
from rasterio.warp import transform_geom

from ecomap.outputs import DIGITAL_SOURCE_TYPE, SYNTHETIC_MARK, SYNTHETIC_STATEMENT
from ecomap.schema import CLIMATE, TileRecord, write_json
from ecomap.sequence import SequenceFolder, SequencePlan, Timeline
from ecomap.sequence_cube import BANDS, month_span
from ecomap.whole_folders import written_whole

if TYPE_CHECKING:
    import pystac

CATALOGUE_FOLDER = "stac"
COLLECTION_FILE = "collection.json"
START_ITEM = "start.json"
ITEMS_FOLDER = "items"

DECIMALS = 7
"""Of degrees: about a centimetre."""

WITHOUT_PLACE = (
    "The start has no coordinate system: Items have no geometry, and the extent is the point that "
    "was asked for."
)

Fields = dict[str, Any]


def write_catalogue(folder: SequenceFolder, products: Iterable[Path] = ()) -> list[Path]:
    """Write the catalogue of a sequence.

    Args:
        folder: A finished sequence.
        products: Files and folders inside ``folder.path`` that were made of all frames, such as
            those of `write_cube` and `write_films`; they become assets of the collection.

    Returns:
        ``stac/collection.json``.

    Raises:
        DataError: If frames are missing.

    References:
        SpatioTemporal Asset Catalog 1.1.0, https://github.com/radiantearth/stac-spec, and its
        projection extension 2.0.0.
    """
    folder.require_complete()
    plan = folder.plan
    outline = tile_outline(plan.start)
    target = folder.path / CATALOGUE_FOLDER
    # What is written lies as deep as its target, so that relative links stay true.
    with written_whole(target, replaces=("*",)) as root:
        collection = _collection(plan, outline)
        for path in products:
            collection.add_asset(path.name, _product(path, root))
        collection.add_link(_link("root", f"./{COLLECTION_FILE}"))
        _write_item(root, START_ITEM, _start_item(plan, outline), folder.start_path)
        collection.add_link(_link("item", f"./{START_ITEM}"))
        for scenario, member, record in folder.frames():
            item = _frame_item(plan, plan.timeline(scenario), member, record, outline)
            name = f"{ITEMS_FOLDER}/{scenario}/{member:02d}/{item.id}.json"
            _write_item(root, name, item, folder.frame_path(scenario, member, record.month))
            collection.add_link(_link("item", f"./{name}"))
        write_json(root / COLLECTION_FILE, collection.to_dict(transform_hrefs=False))
    return [target / COLLECTION_FILE]


def _write_item(root: Path, name: str, item: "pystac.Item", image: Path) -> None:
    """Write an Item with its image and links."""
    inside = (root / name).parent
    item.assets = {"image": _image_asset(_relative(image, inside), item)}
    for relation in ("root", "parent", "collection"):
        item.add_link(_link(relation, _relative(root / COLLECTION_FILE, inside)))
    if name != START_ITEM:
        item.add_link(_link("derived_from", _relative(root / START_ITEM, inside)))
    inside.mkdir(parents=True, exist_ok=True)
    write_json(root / name, item.to_dict(transform_hrefs=False))


def _link(relation: str, reference: str) -> "pystac.Link":
    """A link to the collection or an Item."""
    import pystac

    is_item = relation in ("item", "derived_from")
    media_type = pystac.MediaType.GEOJSON if is_item else pystac.MediaType.JSON
    return pystac.Link(relation, reference, media_type)


def tile_outline(start: TileRecord) -> Fields | None:
    """Outline of a tile in longitude and latitude as GeoJSON; ``None`` where it is not known.

    A tile on both sides of the antimeridian has an outline of two parts.
    """
    if start.crs is None or start.transform is None:
        return None
    rows, columns = (0, start.height_px), (0, start.width_px)
    corners = [(rows[i], columns[j]) for i, j in ((0, 0), (1, 0), (1, 1), (0, 1), (0, 0))]
    x, y = xy(Affine(*start.transform), *zip(*corners, strict=True), offset="ul")
    ring = list(zip(map(float, x), map(float, y), strict=True))
    geometry = {"type": "Polygon", "coordinates": [ring]}
    outline: Fields = transform_geom(start.crs, "EPSG:4326", geometry, precision=DECIMALS)
    return outline


def _collection(plan: SequencePlan, outline: Fields | None) -> "pystac.Collection":
    """The collection without its Items."""
    import pystac

    spans = [_utc_span(record.month) for line in plan.timelines for record in line.records]
    spans.append(_utc_span(plan.start.month))
    first, last = min(span[0] for span in spans), max(span[1] for span in spans)
    point = [plan.start.lon, plan.start.lat] * 2
    box = point if outline is None else list(antimeridian.bbox(outline))
    lines = [
        SYNTHETIC_STATEMENT,
        *(f"Scenario {line.name}: {line.title}." for line in plan.timelines),
        f"Start: {plan.start_source}, licence {plan.start.license}. {plan.start.attribution}",
        *([] if outline else [WITHOUT_PLACE]),
        *plan.notes,
    ]
    collection = pystac.Collection(
        id=plan.name,
        title=f"{plan.name}: generated images of one place",
        description="\n\n".join(line.strip() for line in lines),
        extent=pystac.Extent(pystac.SpatialExtent([box]), pystac.TemporalExtent([[first, last]])),
        license="other",
        keywords=["synthetic", "climate", "ecomap"],
        extra_fields=_made(plan) | {"synthetic": True},
    )
    collection.summaries.add("ecomap:scenario", [line.name for line in plan.timelines])
    collection.summaries.add("ecomap:member", list(range(plan.members)))
    return collection


def _frame_item(
    plan: SequencePlan,
    timeline: Timeline,
    member: int,
    record: TileRecord,
    outline: Fields | None,
) -> "pystac.Item":
    """Item of a generated frame, without its asset and links."""
    climate = {f"ecomap:{name}": getattr(record, name) for name in CLIMATE}
    support = plan.support.get(timeline.name, ())
    index = timeline.months.index(record.month)
    properties = {
        "title": f"{record.month}, {timeline.title}, member {member}",
        "description": SYNTHETIC_STATEMENT,
        "synthetic": True,
        "ecomap:digital_source_type": DIGITAL_SOURCE_TYPE,
        "ecomap:scenario": timeline.name,
        "ecomap:scenario_title": timeline.title,
        "ecomap:scenario_kind": timeline.kind,
        "ecomap:scenario_facts": timeline.facts,
        "ecomap:member": member,
        "ecomap:seed": plan.seed + member,
        "ecomap:climate_source": record.climate_source,
        "ecomap:support": support[index] if index < len(support) else None,
        **climate,
        **_made(plan),
    }
    identity = f"{timeline.name}_{member:02d}_{record.month}{SYNTHETIC_MARK}"
    return _item(plan, identity, record, properties, outline)


def _start_item(plan: SequencePlan, outline: Fields | None) -> "pystac.Item":
    """Item of the start tile, without its asset and links."""
    start, is_generated = plan.start, plan.start_is_synthetic
    properties = {
        "title": f"Start of {start.month}",
        "description": SYNTHETIC_STATEMENT if is_generated else "The tile that was given.",
        "synthetic": is_generated,
        "license": "other",
        "ecomap:license": start.license,
        "ecomap:attribution": start.attribution,
        "ecomap:source": plan.start_source,
        "ecomap:months": list(plan.start_months),
        "ecomap:sha256": plan.start_sha256,
    }
    return _item(plan, "start", start, properties, outline)


def _item(
    plan: SequencePlan,
    identity: str,
    record: TileRecord,
    properties: Fields,
    outline: Fields | None,
) -> "pystac.Item":
    """An Item of a month, or of the moment at which it was acquired; values not known left out."""
    import pystac

    begin, end = _utc_span(record.month)
    acquired = None if record.acquired is None else datetime.fromisoformat(record.acquired)
    item = pystac.Item(
        id=identity,
        geometry=outline,
        bbox=None if outline is None else list(antimeridian.bbox(outline)),
        datetime=acquired,
        start_datetime=begin,
        end_datetime=end,
        properties={key: value for key, value in properties.items() if value is not None},
        collection=plan.name,
    )
    item.common_metadata.gsd = record.ground_sampling_distance_m
    if record.crs is not None and record.transform is not None:
        _add_projection(item, record.crs, record)
    return item


def _add_projection(item: "pystac.Item", crs: str, record: TileRecord) -> None:
    """Say on which grid the image lies: by a code, or by WKT where the CRS has none."""
    from pyproj import CRS
    from pystac.extensions.projection import ProjectionExtension

    found = CRS.from_user_input(crs)
    authority = found.to_authority()
    ProjectionExtension.ext(item, add_if_missing=True).apply(
        code=None if authority is None else ":".join(authority),
        wkt2=found.to_wkt() if authority is None else None,
        shape=[record.height_px, record.width_px],
        transform=list(record.transform or ()),
    )


def _image_asset(href: str, item: "pystac.Item") -> "pystac.Asset":
    """The GeoTIFF of an Item."""
    import pystac

    is_frame = item.id != "start"
    bands = [{"name": name} for name in BANDS]
    return pystac.Asset(
        href,
        title="Generated image" if item.properties["synthetic"] else "Given image",
        media_type=pystac.MediaType.COG if is_frame else pystac.MediaType.GEOTIFF,
        roles=["data", "visual"],
        extra_fields={"data_type": "uint8", "bands": bands},
    )


def _product(path: Path, root: Path) -> "pystac.Asset":
    """A file or folder that was made of all frames."""
    import pystac

    known = {".nc": pystac.MediaType.NETCDF, ".zarr": pystac.MediaType.VND_ZARR}
    media_type = known.get(path.suffix, mimetypes.guess_type(path.name)[0])
    role = "data" if path.suffix in known else "overview"
    return pystac.Asset(_relative(path, root), media_type=media_type, roles=[role])


def _made(plan: SequencePlan) -> Fields:
    """How frames were made."""
    return {
        "ecomap:model": plan.model,
        "ecomap:settings": plan.settings,
        "ecomap:software": plan.software,
    }


def _relative(path: Path, folder: Path) -> str:
    """A path as seen from a folder, as a relative reference."""
    reference = Path(os.path.relpath(path, folder)).as_posix()
    return reference if reference.startswith("..") else f"./{reference}"


def _utc_span(month: str) -> tuple[datetime, datetime]:
    """First and last second of a month."""
    begin, end = (moment.replace(tzinfo=UTC) for moment in month_span(month))
    return begin, end - timedelta(seconds=1)
