from datetime import datetime, timedelta
from itertools import pairwise
from xml.etree import ElementTree

import pytest
import rasterio
from pyproj import CRS

from ecomap.errors import DataError, RequestError
from ecomap.outputs import SYNTHETIC_STATEMENT
from ecomap.sequence import SequenceFolder
from ecomap.sequence_qgis import write_layers
from tests.made_sequence import write_sequence


@pytest.fixture(scope="module")
def sequence(tmp_path_factory):
    folder = write_sequence(tmp_path_factory.mktemp("sequence"))
    assert write_layers(folder) == [folder.path / "sequence_synth.qlr"]
    return folder


@pytest.fixture(scope="module")
def definition(sequence):
    return ElementTree.parse(sequence.path / "sequence_synth.qlr").getroot()


def layers_of(definition):
    return {layer.findtext("id"): layer for layer in definition.find("maplayers")}


def moment(layer, end):
    text = layer.findtext(f"temporal/fixedRange/{end}")
    return datetime.strptime(text, "%Y-%m-%dT%H:%M:%SZ")


def test_the_file_is_a_layer_definition_of_relative_files(sequence, definition):
    text = (sequence.path / "sequence_synth.qlr").read_text()
    assert text.startswith("<!DOCTYPE qgis-layer-definition>")
    assert definition.tag == "qlr"
    for layer in layers_of(definition).values():
        source = layer.findtext("datasource")
        assert source.startswith("./")
        with rasterio.open(sequence.path / source) as image:
            assert image.count == 3


def test_each_month_of_each_scenario_is_a_layer_and_stands_in_the_tree_once(definition):
    layers = layers_of(definition)
    assert len(layers) == 2 * 3 + 1
    nodes = {node.get("id"): node for node in definition.iter("layer-tree-layer")}
    assert nodes.keys() == layers.keys()
    for identity, node in nodes.items():
        assert node.get("source") == layers[identity].findtext("datasource")
        assert node.get("name") == layers[identity].findtext("layername")
        assert node.get("providerKey") == layers[identity].findtext("provider") == "gdal"


def test_layers_show_in_their_month_alone_and_months_do_not_overlap(definition):
    layers = layers_of(definition)
    april = layers["normal_00_2030-04_synth"]
    temporal = april.find("temporal")
    assert temporal.attrib == {"enabled": "1", "mode": "0", "fetchMode": "0"}
    assert moment(april, "start") == datetime(2030, 4, 1)
    assert moment(april, "end") == datetime(2030, 5, 1) - timedelta(seconds=1)
    months = [layer for key, layer in layers.items() if key.startswith("normal")]
    for one, two in pairwise(months):
        assert moment(one, "end") < moment(two, "start")
    assert layers["start"].find("temporal") is None


def test_colours_are_those_of_the_file(definition):
    renderer = layers_of(definition)["plus_2c_00_2030-01_synth"].find("pipe/rasterrenderer")
    assert renderer.get("type") == "multibandcolor"
    assert [renderer.get(f"{name}Band") for name in ("red", "green", "blue")] == ["1", "2", "3"]
    assert not [child for child in renderer if "ContrastEnhancement" in child.tag]


def test_layers_know_their_place_and_that_they_are_synthetic(definition):
    layers = layers_of(definition)
    for identity, layer in layers.items():
        system = layer.find("srs/spatialrefsys")
        assert system.findtext("authid") == "EPSG:32633"
        assert CRS.from_wkt(system.findtext("wkt")) == CRS.from_epsg(32633)
        is_frame = identity != "start"
        assert ("synthetic" in layer.findtext("layername")) == is_frame
        abstract = layer.findtext("resourceMetadata/abstract")
        assert (abstract == SYNTHETIC_STATEMENT) == is_frame


def test_only_the_first_scenario_is_switched_on(definition):
    groups = {group.get("name"): group for group in definition.iter("layer-tree-group")}
    assert groups["Climate as it was"].get("checked") == "Qt::Checked"
    assert groups["2 °C warmer"].get("checked") == "Qt::Unchecked"
    # Its layers are on, so that one click shows them all.
    states = {node.get("checked") for node in groups["2 °C warmer"].iter("layer-tree-layer")}
    assert states == {"Qt::Checked"}


def test_members_that_are_asked_for_become_groups_the_first_switched_on(tmp_path):
    folder = write_sequence(tmp_path, scenarios=1, members=2, months=1)
    (path,) = write_layers(folder, members=(1, 0, 1))
    groups = ElementTree.parse(path).getroot().iter("layer-tree-group")
    states = {group.get("name"): group.get("checked") for group in groups}
    assert states["member 0"] == "Qt::Checked"
    assert states["member 1"] == "Qt::Unchecked"
    assert len(layers_of(ElementTree.parse(path).getroot())) == 2 + 1


def test_a_generated_start_is_named_synthetic(sequence, tmp_path):
    folder = write_sequence(tmp_path, scenarios=1, members=1, months=1)
    plan = folder.plan.model_copy(update={"start_source": "generated"})
    (path,) = write_layers(SequenceFolder(tmp_path, plan))
    start = layers_of(ElementTree.parse(path).getroot())["start"]
    assert start.findtext("layername") == "start 2021-07 (synthetic)"
    assert start.findtext("resourceMetadata/abstract") == SYNTHETIC_STATEMENT


def test_writing_again_gives_the_same_bytes(sequence):
    path = sequence.path / "sequence_synth.qlr"
    before = path.read_bytes()
    write_layers(sequence)
    assert path.read_bytes() == before


def test_a_start_without_crs_gives_no_layers_and_says_why(tmp_path):
    folder = write_sequence(tmp_path, georeferenced=False, scenarios=1, members=1, months=1)
    with pytest.raises(RequestError, match="no coordinate system"):
        write_layers(folder)
    assert not list(tmp_path.glob("*.qlr*"))


@pytest.mark.parametrize("members", [(), (2,), (-1, 0)])
def test_members_that_are_not_there_are_refused(sequence, members):
    with pytest.raises(RequestError, match="cannot become layers"):
        write_layers(sequence, members=members)


def test_missing_frames_are_counted(tmp_path):
    folder = write_sequence(tmp_path, with_frames=False)
    with pytest.raises(DataError, match="lacks 12 of 12 frames"):
        write_layers(folder)
