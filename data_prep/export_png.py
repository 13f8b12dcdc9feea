"""Export to 8-bit PNG: pictures that any viewer shows, with what they show written inside.

The result is a dataset folder of its own. Where a frame lies on the ground is told twice beside
it: in a world file (``.pgw``), and with the CRS in ``.png.aux.xml``, which GDAL and QGIS read.
"""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree

from data_prep.ecomapper import Failure
from data_prep.export_files import (
    ExportResult,
    Frames,
    Journal,
    Progress,
    by_mosaic,
    claim,
    encode_png,
    exported,
    plain_name,
    rights_of,
)
from ecomap.errors import DataError
from ecomap.schema import TileRecord, write_dataset

Transform = tuple[float, float, float, float, float, float]


def write_png(
    frames: Frames,
    records: Sequence[TileRecord],
    *,
    journal: Journal,
    progress: Progress | None = None,
) -> ExportResult:
    """Write every frame as PNG, with georeference where it is known, and the records of all.

    Args:
        frames: Frames of the dataset.
        records: Tiles to export.
        journal: Finished files of the export's folder.
        progress: Called with (done, total) tiles.

    Raises:
        DataError: If a record's CRS does not exist.
        SchemaError: If two records would be the same file.
    """
    result = ExportResult()
    kept: list[TileRecord] = []
    seen: dict[str, str] = {}
    for index, record in enumerate(by_mosaic(records)):
        inside = exported(record, png_path(record))
        claim(seen, str(inside.image_path), record)
        names = _find_or_write(frames, record, inside, journal=journal, result=result)
        if names:
            kept.append(inside)
        if progress:
            progress(index + 1, len(records))
    result.kept = Counter(record.split for record in kept)
    kept.sort(key=lambda record: record.tile_id)
    write_dataset(journal.output, kept, summary={"exported_as": "png"} | rights_of(kept))
    result.files.update([".parquet", ".json"])
    return result


def png_path(record: TileRecord) -> str:
    """Path of a frame in the export: ``images/[SOURCE/BATCH/]PLACE/PLACE_YYYY-MM.png``.

    Source and batch stand there only where there is a batch, in which places are numbered. Odd
    letters of names become ``-``.
    """
    parts = (record.source, record.batch) if record.batch else ()
    place = plain_name(record.location_id)
    folder = Path("images", *(plain_name(part) for part in parts), place)
    return (folder / f"{place}_{record.month}.png").as_posix()


def _find_or_write(
    frames: Frames,
    record: TileRecord,
    inside: TileRecord,
    *,
    journal: Journal,
    result: ExportResult,
) -> list[str]:
    """Names of a tile's files, made if they are not there; empty if its frame cannot be read."""
    unit = str(inside.image_path)
    digest = frames.digest(record)
    names = journal.find(unit, digest)
    if names:
        result.count(names, is_reused=True)
        return names
    pixels = frames.read(record)
    if isinstance(pixels, Failure):
        result.fail(pixels)
        return []
    contents = {unit: encode_png(pixels, inside)}
    if record.crs is not None and record.transform is not None:
        contents[unit.removesuffix(".png") + ".pgw"] = world_file(record.transform).encode()
        contents[unit + ".aux.xml"] = aux_xml(record.crs, record.transform)
    names = journal.write(unit, digest, contents)
    result.count(names, is_reused=False)
    return names


def world_file(transform: Transform) -> str:
    """Six lines of a world file: steps along columns and rows, then the first pixel's centre.

    Args:
        transform: Affine coefficients a-f, rasterio order.

    Example:
        >>> world_file((10.0, 0.0, 500000.0, 0.0, -10.0, 5200000.0)).split()
        ['10.0', '0.0', '0.0', '-10.0', '500005.0', '5199995.0']
    """
    a, b, c, d, e, f = (float(value) for value in transform)
    lines = (a, d, b, e, c + (a + b) / 2, f + (d + e) / 2)
    return "".join(f"{value!r}\n" for value in lines)


def aux_xml(crs: str, transform: Transform) -> bytes:
    """GDAL's file of a raster's CRS and position.

    Raises:
        DataError: If the CRS does not exist.
    """
    from rasterio.crs import CRS
    from rasterio.errors import CRSError

    try:
        wkt = CRS.from_user_input(crs).to_wkt()
    except CRSError as error:
        raise DataError(
            f"{crs!r} is no coordinate reference system ({error}). Expected such as 'EPSG:32632'; "
            "mend the records."
        ) from None
    a, b, c, d, e, f = (float(value) for value in transform)
    root = ElementTree.Element("PAMDataset")
    ElementTree.SubElement(root, "SRS").text = wkt
    numbers = ", ".join(repr(value) for value in (c, a, b, f, d, e))
    ElementTree.SubElement(root, "GeoTransform").text = numbers
    ElementTree.indent(root)
    return bytes(ElementTree.tostring(root, encoding="utf-8"))
