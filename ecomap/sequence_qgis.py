"""A sequence as a QGIS layer definition: a layer for each month, shown in that month alone.

Drag ``sequence_synth.qlr`` into QGIS (3.14 or newer) and play the Temporal Controller: every layer
has a fixed temporal range, its month. Paths are relative, so that the file may move with its
folder. The group of the first scenario is switched on; those of the others and the start are off.

QGIS publishes no schema. Elements and attributes are those that its classes QgsLayerDefinition,
QgsRasterLayer, QgsMultiBandColorRenderer and QgsRasterLayerTemporalProperties read
(https://api.qgis.org/api/).
"""

from collections.abc import Iterable
from datetime import timedelta
from functools import lru_cache
from pathlib import Path
from xml.etree.ElementTree import Element, ElementTree, SubElement, indent

from ecomap.errors import RequestError
from ecomap.outputs import LABELS, SYNTHETIC_MARK, SYNTHETIC_STATEMENT, replacing
from ecomap.schema import TileRecord
from ecomap.sequence import SequenceFolder
from ecomap.sequence_cube import month_span

LAYERS_FILE = f"sequence{SYNTHETIC_MARK}.qlr"

DOCTYPE = b"<!DOCTYPE qgis-layer-definition>\n"
FIXED_RANGE = "0"
"""``Qgis::RasterTemporalMode::FixedTemporalRange``."""


def write_layers(folder: SequenceFolder, *, members: Iterable[int] = (0,)) -> list[Path]:
    """Write ``sequence_synth.qlr`` into the folder of a sequence.

    Args:
        folder: A finished sequence.
        members: Members of the ensemble that become layers; QGIS opens every one of their files.

    Returns:
        The file.

    Raises:
        DataError: If frames are missing.
        RequestError: If the start has no CRS and transform, or there is no such member.
    """
    plan, shown = folder.plan, sorted(set(members))
    if not shown or shown[0] < 0 or shown[-1] >= plan.members:
        raise RequestError(
            f"Members {shown} of the ensemble cannot become layers. Ask for one or more from 0 to "
            f"{plan.members - 1}."
        )
    folder.require_complete()
    if plan.start.crs is None or plan.start.transform is None:
        raise RequestError(
            "The start has no coordinate system, so that no map can show the sequence. Begin with "
            "a georeferenced tile to have layers."
        )
    root = Element("qlr")
    tree = _add_group(root, "", is_on=True)
    layers = SubElement(root, "maplayers")
    _add_frames(_add_group(tree, f"{plan.name} (synthetic)", is_on=True), layers, folder, shown)
    _add_start(tree, layers, folder)
    indent(root)
    path = folder.path / LAYERS_FILE
    with replacing(path) as temporary, temporary.open("wb") as file:
        file.write(DOCTYPE)
        ElementTree(root).write(file, encoding="utf-8")
    return [path]


def _add_frames(group: Element, layers: Element, folder: SequenceFolder, shown: list[int]) -> None:
    """Groups of scenarios and members with a layer for every month."""
    plan = folder.plan
    for line in plan.timelines:
        is_first = line is plan.timelines[0]
        scenario = _add_group(group, line.title, is_on=is_first)
        for member in shown:
            inside = _add_group(scenario, f"member {member}", is_on=member == shown[0])
            for record in line.records:
                path = folder.frame_path(line.name, member, record.month)
                layer = {
                    "id": f"{line.name}_{member:02d}_{record.month}{SYNTHETIC_MARK}",
                    "name": f"{record.month} {line.title} (synthetic)",
                    "source": _reference(path, folder),
                }
                definition = _add_layer(inside, layers, layer, is_on=True)
                definition.append(_temporal(record))
                definition.append(_reference_system(str(plan.start.crs)))
                definition.append(_metadata(layer["name"], SYNTHETIC_STATEMENT))


def _add_start(group: Element, layers: Element, folder: SequenceFolder) -> None:
    """The start, which is shown at all times when it is switched on."""
    is_synthetic, start = folder.plan.start_is_synthetic, folder.plan.start
    layer = {
        "id": "start",
        "name": f"start {start.month} ({LABELS[not is_synthetic][0]})",
        "source": _reference(folder.start_path, folder),
    }
    definition = _add_layer(group, layers, layer, is_on=False)
    statement = SYNTHETIC_STATEMENT if is_synthetic else "The tile that was given."
    definition.append(_reference_system(str(start.crs)))
    definition.append(_metadata(layer["name"], statement))


def _add_group(parent: Element, name: str, *, is_on: bool) -> Element:
    """Add a group to the tree of layers."""
    state = "Qt::Checked" if is_on else "Qt::Unchecked"
    return SubElement(parent, "layer-tree-group", name=name, checked=state, expanded="1")


def _add_layer(group: Element, layers: Element, layer: dict[str, str], *, is_on: bool) -> Element:
    """Add a raster layer to a group, and its definition, which is returned, to all layers."""
    state = "Qt::Checked" if is_on else "Qt::Unchecked"
    SubElement(group, "layer-tree-layer", layer, providerKey="gdal", checked=state, expanded="0")
    definition = SubElement(layers, "maplayer", type="raster", styleCategories="AllStyleCategories")
    SubElement(definition, "id").text = layer["id"]
    SubElement(definition, "datasource").text = layer["source"]
    SubElement(definition, "layername").text = layer["name"]
    SubElement(definition, "provider").text = "gdal"
    pipe = SubElement(definition, "pipe")
    bands = {"redBand": "1", "greenBand": "2", "blueBand": "3", "alphaBand": "-1", "opacity": "1"}
    renderer = SubElement(pipe, "rasterrenderer", bands, type="multibandcolor")
    SubElement(renderer, "rasterTransparency")  # and no stretch: months compare
    return definition


def _temporal(record: TileRecord) -> Element:
    """The month of a frame, from its first to its last second (QGIS counts both in)."""
    begin, end = month_span(record.month)
    temporal = Element("temporal", enabled="1", mode=FIXED_RANGE, fetchMode="0")
    fixed = SubElement(temporal, "fixedRange")
    SubElement(fixed, "start").text = f"{begin.isoformat()}Z"
    SubElement(fixed, "end").text = f"{(end - timedelta(seconds=1)).isoformat()}Z"
    return temporal


def _reference_system(name: str) -> Element:
    """Coordinate system of a layer."""
    wkt, code = _describe_crs(name)
    srs = Element("srs")
    system = SubElement(srs, "spatialrefsys", nativeFormat="Wkt")
    SubElement(system, "wkt").text = wkt
    SubElement(system, "authid").text = code
    return srs


@lru_cache
def _describe_crs(name: str) -> tuple[str, str]:
    """WKT of a coordinate system, and its code, empty where it has none."""
    from pyproj import CRS

    crs = CRS.from_user_input(name)
    return crs.to_wkt(), ":".join(crs.to_authority() or ())


def _metadata(title: str, statement: str) -> Element:
    """Description of a layer."""
    metadata = Element("resourceMetadata")
    SubElement(metadata, "type").text = "dataset"
    SubElement(metadata, "title").text = title
    SubElement(metadata, "abstract").text = statement
    return metadata


def _reference(path: Path, folder: SequenceFolder) -> str:
    """A file of a sequence as seen from its folder."""
    return f"./{path.relative_to(folder.path).as_posix()}"
