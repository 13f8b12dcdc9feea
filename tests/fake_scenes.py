"""Made-up Sentinel-2 scenes: tiled COGs with overviews, and STAC items as the catalogues give.

Content is asymmetric in x and y, geometry is true, everything else is what the caller says.
"""

import copy
import json
from pathlib import Path
from typing import Any, Literal

import antimeridian
import numpy as np
import rasterio
import shapely
from pyproj import Transformer
from rasterio.crs import CRS
from rasterio.transform import Affine
from shapely.geometry import Polygon, box, mapping
from shapely.geometry.base import BaseGeometry

ProviderStyle = Literal["earth-search", "earth-search-c1", "planetary-computer"]
COMMON_NAMES = {
    "B02": "blue", "B03": "green", "B04": "red", "B05": "rededge1", "B06": "rededge2",
    "B07": "rededge3", "B08": "nir", "B8A": "nir08", "B11": "swir16", "B12": "swir22",
    "SCL": "scl",
}  # fmt: skip
COARSE_BANDS = ("B05", "B06", "B07", "B8A", "B11", "B12", "SCL")
"""Bands whose pixels are twice as large."""
COLLECTIONS: dict[ProviderStyle, str] = {
    "earth-search": "sentinel-2-l2a",
    "earth-search-c1": "sentinel-2-c1-l2a",
    "planetary-computer": "sentinel-2-l2a",
}
VEGETATION = 4
"""Class of the scene classification that counts as clear."""


def ramp(height_px: int, width_px: int, *, base: int = 2000) -> np.ndarray:
    """Digital numbers that grow by 3 a column and 7 a row from ``base``: uint16, no symmetry."""
    y, x = np.mgrid[:height_px, :width_px]
    return (base + 3 * x + 7 * y).astype(np.uint16)


def write_cog(
    path: Path, array: np.ndarray, *, crs: str, left: float, top: float, resolution_m: float
) -> None:
    """One band as a COG: 128 px blocks, nearest-neighbour overviews, nodata 0."""
    path.parent.mkdir(parents=True, exist_ok=True)
    profile = {
        "driver": "COG", "height": array.shape[0], "width": array.shape[1], "count": 1,
        "dtype": array.dtype.name, "crs": crs, "nodata": 0, "compress": "deflate",
        "blocksize": 128, "overview_resampling": "nearest",
        "transform": Affine(resolution_m, 0, left, 0, -resolution_m, top),
    }  # fmt: skip
    with rasterio.open(path, "w", **profile) as file:
        file.write(array, 1)


def write_scene(
    folder: Path,
    *,
    item_id: str,
    left: float,
    top: float,
    crs: str = "EPSG:32633",
    size_px: int = 256,
    resolution_m: float = 10.0,
    acquired: str = "2023-08-15T09:57:57.246000Z",
    baseline: str | None = "05.09",
    provider_style: ProviderStyle = "earth-search",
    bands: dict[str, np.ndarray | int] | None = None,
    scl: np.ndarray | int = VEGETATION,
    cloud_cover: float | None = 0.0,
    boa_offset_applied: bool | None = None,
    raster_offset: float | None = None,
    mgrs: str = "33TWM",
    platform: str = "sentinel-2a",
    datatake: str | None = "20230815T095031_042547",
    datastrip: str = "20230815T095630",
    product_type: str = "S2MSI2A",
    collection: str | None = None,
    geometry: BaseGeometry | None = None,
    drop: tuple[str, ...] = (),
) -> dict[str, Any]:
    """Write one scene; ``folder/item_id.json`` has relative hrefs, the item returned absolute.

    Args:
        folder: Where the item lies; its COGs lie in ``folder/item_id``.
        item_id: Name of the item.
        left: West edge, metres in ``crs``.
        top: North edge.
        crs: CRS of the pixels.
        size_px: Width and height of the fine bands, even; the coarse ones (20 m) have half.
        resolution_m: Pixel size of the fine bands.
        acquired: Sensing time.
        baseline: Processing baseline; None leaves it out of every property.
        provider_style: Whose asset names and properties.
        bands: Band -> digital numbers as stored, or one number; ``ramp`` of a base that differs
            by band for red, green, blue and near infrared where None.
        scl: Scene classification, likewise.
        cloud_cover: Percent, as ``eo:cloud_cover``.
        boa_offset_applied: ``earthsearch:boa_offset_applied``, where not None.
        raster_offset: ``offset`` of ``raster:bands`` (of the asset in STAC 1.1), where not None.
        mgrs: MGRS tile.
        platform: Satellite.
        datatake: Start and orbit of the pass; None leaves the datatake out.
        datastrip: Start of the datastrip.
        product_type: ``S2MSI2A`` or ``S2MSI1C``.
        collection: Replaces the style's own.
        geometry: Footprint in degrees that the item claims; by default that of its pixels.
        drop: Properties and asset keys to take out in the end, such as ``proj:epsg``.
    """
    if bands is None:
        names = ("B04", "B03", "B02", "B08")
        bands = {n: ramp(size_px, size_px, base=2000 + 500 * i) for i, n in enumerate(names)}
    assets = {}
    for band, values in {**bands, "SCL": scl}.items():
        scale = 2 if band in COARSE_BANDS else 1
        shape = (size_px // scale, size_px // scale)
        dtype = np.uint8 if band == "SCL" else np.uint16
        array = np.broadcast_to(np.asarray(values, dtype), shape).copy()
        path = folder / item_id / f"{band}.tif"
        cell_m = resolution_m * scale
        write_cog(path, array, crs=crs, left=left, top=top, resolution_m=cell_m)
        transform = [cell_m, 0.0, left, 0.0, -cell_m, top]
        key = band if provider_style == "planetary-computer" else COMMON_NAMES[band]
        assets[key] = _asset(band, f"./{item_id}/{band}.tif", shape, transform, provider_style)
        if raster_offset is not None and band != "SCL":
            _state_offset(assets[key], raster_offset, provider_style)

    span_m = size_px * resolution_m
    square = box(left, top - span_m, left + span_m, top)
    geometry = _in_degrees(square, crs) if geometry is None else geometry
    generated = datastrip[:8] + "T155057"
    start = (datatake or datastrip)[:15]
    version = "NXXXX" if baseline is None else "N" + baseline.replace(".", "")
    orbit = "" if datatake is None else f"G{_mission(platform)}_{datatake}_N{baseline or 'XX.XX'}"
    properties = {
        "datetime": acquired,
        "platform": platform if provider_style != "planetary-computer" else platform.title(),
        "eo:cloud_cover": cloud_cover,
        "s2:product_type": product_type,
        "s2:processing_baseline": baseline,
        "s2:datatake_id": orbit or None,
        "s2:datastrip_id": f"{_mission(platform)}_OPER_MSI_L{product_type[-2:]}_DS_2APS_"
        f"{generated}_S{datastrip}_N{baseline or 'XX.XX'}",
        "s2:product_uri": f"{_mission(platform)}_MSIL{product_type[-2:]}_{start}_{version}_"
        f"R079_T{mgrs}_{generated}.SAFE",
        "earthsearch:boa_offset_applied": boa_offset_applied,
        **_place_properties(provider_style, mgrs, crs),
    }
    item = {
        "type": "Feature",
        "stac_version": "1.1.0" if provider_style == "earth-search-c1" else "1.0.0",
        "stac_extensions": _extensions(provider_style),
        "id": item_id,
        "collection": collection or COLLECTIONS[provider_style],
        "geometry": mapping(geometry),
        "bbox": list(antimeridian.bbox(geometry)),
        "properties": {k: v for k, v in properties.items() if v is not None and k not in drop},
        "assets": {k: v for k, v in assets.items() if k not in drop},
        "links": [],
    }
    item = json.loads(json.dumps(item))  # tuples become lists, as in a file
    (folder / f"{item_id}.json").write_text(json.dumps(item), encoding="utf-8")
    absolute = copy.deepcopy(item)
    for asset in absolute["assets"].values():
        asset["href"] = str((folder / asset["href"]).resolve())
    return absolute


def _asset(
    band: str, href: str, shape: tuple[int, int], transform: list[float], style: ProviderStyle
) -> dict[str, Any]:
    asset: dict[str, Any] = {
        "href": href,
        "type": "image/tiff; application=geotiff; profile=cloud-optimized",
        "roles": ["data"],
        "proj:shape": list(shape),
        "proj:transform": transform,
    }
    if style == "planetary-computer":
        cell_m, _, left, _, _, top = transform
        asset["proj:bbox"] = [left, top - shape[0] * cell_m, left + shape[1] * cell_m, top]
    elif style == "earth-search":
        kind = "uint8" if band == "SCL" else "uint16"
        asset["raster:bands"] = [{"nodata": 0, "data_type": kind}]
    else:
        asset["bands"] = [{"name": COMMON_NAMES[band]}]
    return asset


def _state_offset(asset: dict[str, Any], offset: float, style: ProviderStyle) -> None:
    if style == "earth-search-c1":
        asset |= {"raster:scale": 0.0001, "raster:offset": offset}
    else:
        asset.setdefault("raster:bands", [{}])[0] |= {"scale": 0.0001, "offset": offset}


def _place_properties(style: ProviderStyle, mgrs: str, crs: str) -> dict[str, Any]:
    epsg = CRS.from_string(crs).to_epsg()
    if style == "planetary-computer":
        return {"s2:mgrs_tile": mgrs, "proj:epsg": epsg}
    if style == "earth-search":
        return {"grid:code": f"MGRS-{mgrs}", "proj:epsg": epsg}
    return {"grid:code": f"MGRS-{mgrs}", "proj:code": f"EPSG:{epsg}"}


def _extensions(style: ProviderStyle) -> list[str]:
    version = "v2.0.0" if style == "earth-search-c1" else "v1.1.0"
    return [
        f"https://stac-extensions.github.io/projection/{version}/schema.json",
        "https://stac-extensions.github.io/eo/v1.1.0/schema.json",
    ]


def _mission(platform: str) -> str:
    return "S2" + platform[-1].upper()


def _in_degrees(square: Polygon, crs: str) -> BaseGeometry:
    """Outline of a square in degrees, points along its edges, split at +-180."""
    project = Transformer.from_crs(crs, "EPSG:4326", always_xy=True).transform
    dense = shapely.segmentize(square, square.length / 64)
    outline = shapely.transform(dense, project, interleaved=False)
    west, _, east, _ = outline.bounds
    return antimeridian.fix_polygon(outline) if east - west > 180 else outline
