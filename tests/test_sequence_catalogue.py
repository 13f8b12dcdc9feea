import json
from pathlib import Path

import antimeridian
import pystac
import pytest
import rasterio
from pystac.extensions.projection import ProjectionExtension
from pystac.validation import validate_dict
from rasterio.warp import transform

from ecomap.errors import DataError
from ecomap.outputs import SYNTHETIC_STATEMENT
from ecomap.sequence import SequenceFolder
from ecomap.sequence_catalogue import tile_outline, write_catalogue
from tests.made_sequence import make_plan, make_start, write_sequence


@pytest.fixture(scope="module")
def sequence(tmp_path_factory):
    """A catalogue in a folder that was moved after it was written."""
    folder = write_sequence(tmp_path_factory.mktemp("before") / "sequence")
    products = [folder.path / "sequence_synth.zarr", folder.path / "films" / "normal_synth.mp4"]
    assert write_catalogue(folder, products) == [folder.path / "stac" / "collection.json"]
    moved = folder.path.rename(tmp_path_factory.mktemp("after") / "sequence")
    return SequenceFolder.open(moved)


@pytest.fixture(scope="module")
def collection(sequence):
    return pystac.Collection.from_file(sequence.path / "stac" / "collection.json")


def frames_of(collection):
    return [item for item in collection.get_items() if item.id != "start"]


def contents(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*.json")}


def test_all_files_keep_the_schemas_of_stac(sequence):
    paths = [*(sequence.path / "stac").rglob("*.json")]
    assert len(paths) == 1 + 1 + 12
    for path in paths:
        # Schemas of the core come with pystac; those of extensions lie on the internet.
        validate_dict(json.loads(path.read_text()), extensions=[])


def test_every_frame_has_an_item_whose_image_is_there(sequence, collection):
    expected = {
        (scenario, member, record.month): sequence.frame_path(scenario, member, record.month)
        for scenario, member, record in sequence.frames()
    }
    found = {}
    for item in frames_of(collection):
        key = (item.properties["ecomap:scenario"], item.properties["ecomap:member"])
        path = Path(item.assets["image"].get_absolute_href())
        found[*key, item.properties["start_datetime"][:7]] = path
    assert found == expected
    assert all(path.is_file() for path in found.values())


def test_items_say_what_they_are_and_how_they_were_made(sequence, collection):
    item = collection.get_item("plus_2c_01_2030-04_synth")
    properties = item.properties
    assert properties["synthetic"] is True
    assert properties["description"] == SYNTHETIC_STATEMENT
    assert properties["ecomap:model"] == sequence.plan.model
    assert properties["ecomap:settings"] == sequence.plan.settings
    assert properties["ecomap:scenario_kind"] == "delta"
    assert properties["ecomap:seed"] == 8
    assert properties["ecomap:temperature_c"] == 11
    assert "ecomap:solar_radiation_mj_m2_day" not in properties  # not known
    assert properties["ecomap:support"] == sequence.plan.support["plus_2c"][1]
    assert item.assets["image"].to_dict()["bands"][0] == {"name": "red"}


def test_items_last_a_month_and_have_no_moment(collection):
    item = collection.get_item("normal_00_2030-04_synth")
    assert item.datetime is None
    assert item.properties["datetime"] is None
    assert item.properties["start_datetime"] == "2030-04-01T00:00:00Z"
    assert item.properties["end_datetime"] == "2030-04-30T23:59:59Z"


def test_frames_are_derived_from_the_start_which_is_real(sequence, collection):
    starts = set()
    for item in frames_of(collection):
        (link,) = item.get_links("derived_from")
        starts.add(link.resolve_stac_object(root=collection).target.id)
    assert starts == {"start"}
    start = collection.get_item("start")
    assert start.properties["synthetic"] is False
    assert start.properties["ecomap:license"] == "CC0-1.0"
    assert start.properties["ecomap:sha256"] == sequence.plan.start_sha256
    assert not start.get_links("derived_from")
    assert Path(start.assets["image"].get_absolute_href()) == sequence.start_path


def test_the_grid_is_that_of_the_image(collection):
    item = collection.get_item("normal_00_2030-01_synth")
    grid = ProjectionExtension.ext(item)
    with rasterio.open(item.assets["image"].get_absolute_href()) as image:
        assert grid.code == f"EPSG:{image.crs.to_epsg()}"
        assert grid.shape == [image.height, image.width]
        assert grid.transform == list(image.transform[:6])
        x, y = transform(
            image.crs, "EPSG:4326",
            [image.bounds.left, image.bounds.right], [image.bounds.bottom, image.bounds.top],
        )  # fmt: skip
    west, south, east, north = item.bbox
    assert [west, east] == pytest.approx(x, abs=1e-5)
    assert [south, north] == pytest.approx(y, abs=1e-5)
    assert item.geometry["type"] == "Polygon"


def test_the_collection_spans_all_items_and_names_its_products(collection):
    interval = collection.extent.to_dict()["temporal"]["interval"]
    assert interval == [["2021-07-01T00:00:00Z", "2030-07-31T23:59:59Z"]]
    assert collection.extent.spatial.bboxes == [frames_of(collection)[0].bbox]
    assert collection.summaries.get_list("ecomap:scenario") == ["normal", "plus_2c"]
    assert collection.description.startswith(SYNTHETIC_STATEMENT)
    assert collection.extra_fields["synthetic"] is True
    zarr, film = (collection.assets[n] for n in ("sequence_synth.zarr", "normal_synth.mp4"))
    assert (zarr.href, zarr.media_type) == ("../sequence_synth.zarr", "application/vnd.zarr")
    assert (film.href, film.media_type) == ("../films/normal_synth.mp4", "video/mp4")


def test_all_links_are_relative(sequence):
    for path in (sequence.path / "stac").rglob("*.json"):
        content = json.loads(path.read_text())
        hrefs = [link["href"] for link in content["links"]]
        hrefs += [asset["href"] for asset in content.get("assets", {}).values()]
        assert all(href.startswith(("./", "../")) for href in hrefs)
        assert all((path.parent / link["href"]).is_file() for link in content["links"])


def test_a_start_without_crs_gives_items_without_geometry(tmp_path):
    folder = write_sequence(tmp_path, georeferenced=False, scenarios=1, members=1, months=1)
    (path,) = write_catalogue(folder)
    collection = pystac.Collection.from_file(path)
    assert "no coordinate system" in collection.description
    assert collection.extent.spatial.bboxes == [[15.01, 47.0, 15.01, 47.0]]
    item = collection.get_item("normal_00_2030-01_synth")
    assert item.geometry is None
    assert item.bbox is None
    assert item.stac_extensions == []
    validate_dict(item.to_dict(include_self_link=False), extensions=[])


def test_a_generated_start_is_synthetic(tmp_path):
    plan = make_plan(georeferenced=True, scenarios=1, members=1, months=1)
    folder = write_sequence(tmp_path, scenarios=1, members=1, months=1)
    plan = plan.model_copy(update={"start_source": "generated"})
    (path,) = write_catalogue(SequenceFolder(folder.path, plan))
    assert pystac.Collection.from_file(path).get_item("start").properties["synthetic"] is True


def test_a_start_that_was_acquired_keeps_its_moment(tmp_path):
    folder = write_sequence(tmp_path, scenarios=1, members=1, months=1)
    start = folder.plan.start.model_copy(update={"acquired": "2021-07-09T10:03:21Z"})
    plan = folder.plan.model_copy(update={"start": start})
    (path,) = write_catalogue(SequenceFolder(folder.path, plan))
    item = pystac.Collection.from_file(path).get_item("start")
    assert item.to_dict()["properties"]["datetime"] == "2021-07-09T10:03:21Z"


def test_a_tile_on_both_sides_of_the_antimeridian_has_an_outline_of_two_parts():
    transform = (1000.0, 0.0, 250_000.0, 0.0, -1000.0, 5_000_000.0)
    start = make_start().model_copy(update={"crs": "EPSG:32601", "transform": transform})
    outline = tile_outline(start)
    assert outline["type"] == "MultiPolygon"
    west, _, east, _ = antimeridian.bbox(outline)
    assert 179 < west <= 180
    assert -180 <= east < -179


def test_a_crs_without_a_code_is_told_in_words(tmp_path):
    folder = write_sequence(tmp_path, scenarios=1, members=1, months=1)
    sphere = "+proj=laea +lat_0=47 +lon_0=15 +R=6371000 +units=m"
    changes = {"crs": sphere, "transform": (10.0, 0.0, 0.0, 0.0, -10.0, 0.0)}
    plan = folder.plan
    records = tuple(r.model_copy(update=changes) for r in plan.timelines[0].records)
    line = plan.timelines[0].model_copy(update={"records": records})
    start = plan.start.model_copy(update=changes)
    plan = plan.model_copy(update={"start": start, "timelines": (line,)})
    (path,) = write_catalogue(SequenceFolder(folder.path, plan))
    item = pystac.Collection.from_file(path).get_item("normal_00_2030-01_synth")
    grid = ProjectionExtension.ext(item)
    assert grid.code is None
    assert "Lambert Azimuthal Equal Area" in grid.wkt2
    assert item.bbox[0] == pytest.approx(15.0, abs=1e-5)


def test_writing_again_gives_the_same_bytes_and_drops_what_is_no_more(tmp_path):
    folder = write_sequence(tmp_path, scenarios=1, members=1, months=2)
    write_catalogue(folder)
    before = contents(tmp_path / "stac")
    (tmp_path / "stac" / "items" / "normal" / "00" / "old.json").write_text("{}")
    write_catalogue(folder)
    assert contents(tmp_path / "stac") == before


def test_missing_frames_are_counted(tmp_path):
    folder = write_sequence(tmp_path, with_frames=False)
    with pytest.raises(DataError, match="lacks 12 of 12 frames"):
        write_catalogue(folder)
    assert not (tmp_path / "stac").exists()
