"""Searches against a local catalogue with faults, static catalogues, and the frozen file."""

import copy
import json
import shutil
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import stac_geoparquet.arrow
from hypothesis import given
from hypothesis import strategies as st
from shapely.geometry import box, mapping, shape

from data_prep import stac_io
from data_prep.catalogue import (
    ITEM_COLUMN,
    no_items_message,
    read_items,
    search,
    write_items,
)
from data_prep.place import Place
from data_prep.prep_config import ImageryConfig, month_range
from data_prep.scenes import SceneRefused, scene_of
from ecomap.errors import DataError, RequestError
from tests.fake_scenes import write_scene
from tests.stac_server import StacServer

pytestmark = pytest.mark.filterwarnings(  # odc-geo 0.5 still calls it
    "ignore:The 'shapely.ops.transform:DeprecationWarning"
)

AUGUST = ["2023-08"]


@pytest.fixture(autouse=True)
def _no_long_waits(monkeypatch):
    monkeypatch.setattr(stac_io, "FIRST_WAIT_S", 0.01)


def make_place(name="p", left=560500.0, top=5159500.0, crs="EPSG:32633", **changes) -> Place:
    fields = {"lat": 46.6, "lon": 15.8, "size_px": 64, "resolution_m": 10}
    return Place(location_id=name, left=left, top=top, crs=crs, **(fields | changes))


def make_config(server: StacServer, **changes) -> ImageryConfig:
    fields = {"provider": "earth-search", "url": server.url, "num_retries": 2, "timeout_s": 5}
    return ImageryConfig(**(fields | changes))


def ids(items) -> list[str]:
    return [item["id"] for item in items]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("catalogue")
    common = {"left": 560000, "top": 5160000, "size_px": 256}
    write_scene(folder, item_id="clear", cloud_cover=5.0, **common)
    write_scene(folder, item_id="hazy", cloud_cover=60.0, **common)
    write_scene(folder, item_id="untold", cloud_cover=None, **common)
    write_scene(folder, item_id="july", acquired="2023-07-31T23:59:59.9Z", **common)
    write_scene(folder, item_id="later", acquired="2024-08-01T00:00:00Z", **common)
    write_scene(folder, item_id="beside", **common | {"left": 562560})
    return folder


@pytest.fixture
def server(folder):
    with StacServer(folder, max_page=2) as server:
        yield server


# -- what is found


def test_items_show_a_place_in_a_month_and_are_sorted(server):
    config = make_config(server)
    found = search([make_place()], AUGUST, config)
    assert ids(found) == ["clear", "hazy", "untold"]
    assert found[0]["assets"]["red"]["href"] == server.data_url("clear/B04.tif")
    assert ids(search([make_place()], ["2023-07"], config)) == ["july"]
    assert ids(search([make_place(left=563000.0)], AUGUST, config)) == ["beside"]
    assert search([make_place(left=800000.0)], AUGUST, config) == []
    assert search([], AUGUST, config) == search([make_place()], [], config) == []


PASSES = {
    f"202308{day:02d}": {
        "acquired": f"2023-08-{day:02d}T09:57:57Z",
        "datatake": f"202308{day:02d}T095031_042547",
        "datastrip": f"202308{day:02d}T095630",
    }
    for day in (1, 11)
}


@pytest.fixture(scope="module")
def seam(tmp_path_factory) -> Path:
    """Two squares side by side in two passes; three of the four are cloudy."""
    folder = tmp_path_factory.mktemp("seam")
    cloud = {("20230801", "W"): 20.0, ("20230801", "E"): 95.0}
    for day, changes in PASSES.items():
        for side, left in (("W", 560000), ("E", 562560)):
            write_scene(folder, item_id=f"{day}{side}", left=left, top=5160000, size_px=256,
                        mgrs=f"33T{side}M", cloud_cover=cloud.get((day, side), 95.0),
                        **changes)  # fmt: skip
    return folder


@pytest.mark.parametrize("kind", ["earth-search", "stac-api", "static-catalog"])
def test_cloud_is_judged_by_pass_and_place(kind, seam):
    on_the_seam, in_the_east = make_place("s", left=562300.0), make_place("e", left=563500.0)
    with StacServer(seam, max_page=2) as server:
        url = server.catalog_url if kind == "static-catalog" else server.url
        config = make_config(server, provider=kind, url=url, max_scene_cloud_frac=0.9)
        both = ["20230801E", "20230801W"]
        assert ids(search([on_the_seam], AUGUST, config)) == both
        assert ids(search([on_the_seam, in_the_east], AUGUST, config)) == both
        assert search([in_the_east], AUGUST, config) == []
        elsewhere = make_place("w", left=560500.0)
        assert ids(search([in_the_east, elsewhere], AUGUST, config)) == ["20230801W"]
        anything = config.model_copy(update={"max_scene_cloud_frac": 0.95})
        assert ids(search([in_the_east], AUGUST, anything)) == ["20230801E", "20230811E"]
        assert all("query" not in (r.body or {}) for r in server.requests)


def test_scenes_of_unknown_cloud_are_kept(server):
    strict = make_config(server, max_scene_cloud_frac=0)
    assert ids(search([make_place(left=563000.0)], AUGUST, strict)) == ["beside"]
    assert ids(search([make_place()], AUGUST, strict)) == ["clear", "hazy", "untold"]  # one pass


def test_items_whose_files_lie_in_a_bucket_are_refused_by_name(tmp_path):
    item = write_scene(tmp_path, item_id="a", left=560000, top=5160000)
    scene_of(item, "earth-search")
    item["assets"]["scl"]["href"] = "s3://eodata/a/SCL.jp2"
    with pytest.raises(SceneRefused, match=r"s3://eodata/a/SCL\.jp2.*not supported") as raised:
        scene_of(item, "earth-search")
    assert raised.value.reason == "unsupported_address"
    item["assets"]["SCL"] = {"href": "https://mirror/a/SCL.tif"}  # another name of the band
    assert scene_of(item, "earth-search").assets["SCL"] == "https://mirror/a/SCL.tif"
    item["assets"]["nir"]["href"] = "s3://eodata/a/B08.jp2"  # not every tile needs it
    assert scene_of(item, "earth-search").assets["B08"] == "s3://eodata/a/B08.jp2"


def test_neighbours_share_a_search_and_years_do_not(server):
    places = [make_place(f"p{n}", left=560500.0 + 100 * n) for n in range(9)]
    calls = []
    config = make_config(server)
    months = month_range("2023-07", "2024-08")
    search(places, months, config, progress=lambda *done: calls.append(done))
    spans = [r.body["datetime"] for r in server.requests if "token" not in (r.body or {"token": 1})]
    assert spans == [
        "2023-07-01T00:00:00Z/2023-12-31T23:59:59.999Z",
        "2024-01-01T00:00:00Z/2024-08-31T23:59:59.999Z",
    ]
    assert calls == [(1, 2), (2, 2)]


def test_a_gap_between_months_is_not_searched(server):
    search([make_place()], ["2023-10", "2023-02", "2023-03", "2023-03"], make_config(server))
    spans = [r.body["datetime"][:10] for r in server.requests if r.kind == "search"]
    assert spans == ["2023-02-01", "2023-10-01"]


def test_clusters_are_squares_of_the_configured_side(server):
    places = [make_place("a", lat=46.6, lon=15.8), make_place("b", lat=46.6, lon=16.1)]
    search(places, AUGUST, make_config(server, cluster_deg=1))
    assert len({json.dumps(r.body["intersects"]) for r in server.requests if r.body}) == 1
    assert server.count("search") == 2 * 2  # of two pages each
    server.reset()
    search(places, AUGUST, make_config(server, cluster_deg=20))
    assert server.count("search") == 2


def test_the_searched_area_is_the_box_around_the_places(server):
    places = [make_place("a"), make_place("b", left=570000.0, top=5150000.0)]
    search(places, AUGUST, make_config(server, cluster_deg=5))
    area = shape(next(r.body["intersects"] for r in server.requests if r.kind == "search"))
    both = places[0].footprint.union(places[1].footprint)
    assert area.bounds == pytest.approx(both.bounds)
    assert area.equals(box(*area.bounds))


def test_a_place_across_the_antimeridian_is_searched_on_both_sides(tmp_path):
    common = {"crs": "EPSG:32701", "mgrs": "01KAB", "top": 8190000, "size_px": 256}
    write_scene(tmp_path, item_id="across", left=179000, **common)
    write_scene(tmp_path, item_id="west", left=174000, **common)
    write_scene(tmp_path, item_id="far", left=300000, **common)
    torn = write_scene(tmp_path, item_id="torn", left=400000, **common)
    torn["geometry"] = mapping(box(-179.9, -17, 179.9, -16))  # covers half the globe by mistake
    (tmp_path / "torn.json").write_text(json.dumps(torn))
    place = make_place(left=176000.0, top=8189000.0, crs="EPSG:32701", lat=-16.3, lon=180,
                       size_px=512)  # fmt: skip
    with StacServer(tmp_path) as server:
        found = search([place], AUGUST, make_config(server))
        area = shape(server.requests[-1].body["intersects"])
    assert ids(found) == ["across", "west"]
    assert area.geom_type == "MultiPolygon"
    assert area.bounds[0::2] == (-180, 180)
    assert area.area < 0.1


def test_collection_of_the_config_replaces_the_providers_own(server):
    assert ids(search([make_place()], AUGUST, make_config(server))) == ["clear", "hazy", "untold"]
    assert server.requests[-1].body["collections"] == ["sentinel-2-l2a"]
    assert search([make_place()], AUGUST, make_config(server, collection="other")) == []
    assert server.requests[-1].body["collections"] == ["other"]
    search([make_place()], AUGUST, make_config(server, provider="stac-api"))
    assert "collections" not in server.requests[-1].body


def test_items_that_are_no_scenes_are_returned_to_be_counted(tmp_path):
    write_scene(tmp_path, item_id="a", left=560000, top=5160000, product_type="S2MSI1C")
    write_scene(tmp_path, item_id="b", left=570000, top=5160000, product_type="S2MSI1C")
    config = ImageryConfig(provider="static-catalog", url=str(tmp_path / "a.json"))
    assert ids(search([make_place()], AUGUST, config)) == ["a"]
    config = ImageryConfig(provider="static-catalog", url=str(tmp_path / "b.json"))
    assert search([make_place()], AUGUST, config) == []


# -- faults


@pytest.mark.parametrize("kind", [429, 500, 502, 503, 504, "truncated", "wrong-json"])
def test_what_may_pass_is_tried_again(kind, server):
    server.add_fault("/search", kind, hits=(1, 3), retry_after_s=0)
    found = search([make_place()], AUGUST, make_config(server, max_scene_cloud_frac=1))
    assert ids(found) == ["clear", "hazy", "untold"]
    assert server.count("search") == 4


def test_a_stall_is_given_up_and_tried_again(server):
    server.add_fault("/search", "stall", stall_s=20)
    start = time.perf_counter()
    found = search([make_place()], AUGUST, make_config(server, timeout_s=2))
    assert time.perf_counter() - start < 10
    assert ids(found) == ["clear", "hazy", "untold"]
    assert server.count("search") == 3  # one more for the second page


def test_endless_stalls_are_not_tried_more_often_than_asked(server):
    server.add_fault("/search", "stall", hits=None, stall_s=20)
    with pytest.raises(DataError, match="timed out"):
        search([make_place()], AUGUST, make_config(server, timeout_s=0.2, num_retries=1))
    assert server.count("search") == 2


def test_the_root_is_tried_again_too(server):
    server.add_fault("^/$", 503)
    found = search([make_place()], AUGUST, make_config(server))
    assert ids(found) == ["clear", "hazy", "untold"]


@pytest.mark.parametrize(
    ("kind", "said"), [(503, "503"), ("wrong-json", "not STAC JSON"), ("truncated", "broken")]
)
def test_a_catalogue_that_always_fails_is_named(kind, said, server):
    server.add_fault("/search", kind, hits=None)
    with pytest.raises(DataError, match=rf"{server.url}: .*{said}.*3 times.*Run again later"):
        search([make_place()], AUGUST, make_config(server))
    assert server.count("search") == 3


def test_a_refusal_is_not_repeated(server):
    server.add_fault("/search", 403, hits=None)
    with pytest.raises(DataError, match="status 403"):
        search([make_place()], AUGUST, make_config(server))
    assert server.count("search") == 1


def test_an_error_of_a_gateway_with_status_200_is_no_empty_result(server, monkeypatch):
    monkeypatch.setattr(StacServer, "page_of", lambda *_, **__: {"message": "quota exceeded"})
    with pytest.raises(DataError, match="quota exceeded"):
        search([make_place()], AUGUST, make_config(server, num_retries=0))


def test_a_pause_asked_for_is_bounded():
    from urllib3.response import HTTPResponse

    retry = stac_io._BoundedRetry()
    assert retry.get_retry_after(HTTPResponse(headers={"Retry-After": "7"})) == 7
    assert retry.get_retry_after(HTTPResponse(headers={"Retry-After": "86400"})) == 120
    assert retry.get_retry_after(HTTPResponse()) is None


def test_a_static_catalogue_given_as_an_api_is_explained(server):
    config = make_config(server, provider="stac-api", url=server.catalog_url)
    with pytest.raises(DataError, match=r"not a STAC API.*static-catalog"):
        search([make_place()], AUGUST, config)


@pytest.mark.parametrize("provider", ["stac-api", "static-catalog"])
def test_a_provider_without_address_is_explained(provider):
    with pytest.raises(RequestError, match=f"imagery.url is empty; provider {provider}"):
        search([make_place()], AUGUST, ImageryConfig(provider=provider))


# -- static catalogues


def static(url, **changes) -> ImageryConfig:
    return ImageryConfig(provider="static-catalog", url=str(url), num_retries=0, **changes)


def write_tree(folder: Path, source: Path) -> Path:
    """A catalogue, a collection in it, an item in that; links relative, one back to the root."""
    (folder / "c/i").mkdir(parents=True)
    shutil.copytree(source / "clear", folder / "c/i/clear")
    shutil.copy(source / "clear.json", folder / "c/i/clear.json")
    base = {"stac_version": "1.0.0", "description": "", "id": "x"}
    links = [{"rel": "child", "href": "./c/collection.json"}]
    (folder / "catalog.json").write_text(json.dumps(base | {"type": "Catalog", "links": links}))
    links = [
        {"rel": "item", "href": "i/clear.json"},
        {"rel": "child", "href": "../catalog.json"},
        {"rel": "parent", "href": "../catalog.json"},
    ]
    collection = base | {"type": "Collection", "links": links, "license": "x", "extent": {}}
    (folder / "c/collection.json").write_text(json.dumps(collection))
    return folder / "catalog.json"


def test_a_tree_of_files_is_walked_once_and_hrefs_are_absolute(tmp_path, folder):
    catalog = write_tree(tmp_path, folder)
    calls = []
    found = search(
        [make_place()], AUGUST, static(catalog), progress=lambda *done: calls.append(done)
    )
    assert ids(found) == ["clear"]
    assert found[0]["assets"]["red"]["href"] == str(tmp_path / "c/i/clear/B04.tif")
    assert calls == [(1, 1)]
    assert ids(search([make_place()], AUGUST, static(tmp_path / "c/collection.json"))) == ["clear"]


def test_static_catalogues_are_read_over_http(server):
    config = static(server.catalog_url)
    assert ids(search([make_place()], AUGUST, config)) == ["clear", "hazy", "untold"]
    assert server.counts == {"catalog": 1, "items": 6}
    server.add_fault("/items/", 503, hits=None)
    with pytest.raises(DataError, match="503"):
        search([make_place()], AUGUST, config)


def test_a_relative_path_is_taken_from_the_working_folder(folder, monkeypatch):
    monkeypatch.chdir(folder)
    found = search([make_place()], AUGUST, static("clear.json"))
    assert found[0]["assets"]["scl"]["href"] == str(folder / "clear/SCL.tif")


def test_one_page_of_a_search_is_not_taken_for_all(tmp_path):
    page = {"type": "FeatureCollection", "features": [], "links": [{"rel": "next", "href": "x"}]}
    (tmp_path / "page.json").write_text(json.dumps(page))
    with pytest.raises(DataError, match="one page of a search"):
        search([make_place()], AUGUST, static(tmp_path / "page.json"))


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", '{"type": "Point"}', '{"type": "Catalog"}', '{"type": "Feature"}']
)
def test_files_that_are_no_catalogue_are_named(content, tmp_path):
    path = tmp_path / "x.json"
    path.write_text(content)
    with pytest.raises(DataError, match=r"x\.json is not a STAC file"):
        search([make_place()], AUGUST, static(path))
    with pytest.raises(DataError, match=r"missing\.json is not a STAC file"):
        search([make_place()], AUGUST, static(tmp_path / "missing.json"))


def test_message_for_nothing_found_says_what_was_asked(server):
    text = no_items_message(
        [make_place()], ["2023-09", "2023-08"], make_config(server, max_scene_cloud_frac=0.25)
    )
    assert server.url in text
    assert "25% cloud" in text
    assert "1 places from 2023-08 to 2023-09" in text
    assert "sentinel-2-l2a" in text


# -- the frozen file


def test_items_come_back_as_they_were(tmp_path, folder):
    items = [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]
    items[0]["properties"]["proj:epsg"] = "EPSG:None"  # a text where others have a number
    items[1]["properties"]["eo:cloud_cover"] = 7  # an integer where others have a float
    items[2]["assets"]["red"]["proj:shape"] = None
    items[3]["geometry"], items[3]["bbox"] = mapping(box(0, 0, 1, 1)), [0.0, 0.0, 1.0, 1.0]
    items.append(copy.deepcopy(items[0]) | {"id": "other", "assets": {"B04": {"href": "/x.tif"}}})
    items = json.loads(json.dumps(items))  # lists, as in a file
    path = tmp_path / "new/items.parquet"
    write_items(path, items)
    assert read_items(path) == items
    assert [p.name for p in path.parent.iterdir()] == ["items.parquet"]


def test_the_same_items_give_the_same_bytes(tmp_path, folder):
    items = [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]
    write_items(tmp_path / "a.parquet", items)
    shuffled = [dict(reversed(item.items())) for item in items]  # other order of keys
    write_items(tmp_path / "b.parquet", shuffled)
    assert (tmp_path / "a.parquet").read_bytes() == (tmp_path / "b.parquet").read_bytes()


def test_other_programs_read_the_file_as_stac_geoparquet(tmp_path, folder):
    items = [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]
    write_items(tmp_path / "items.parquet", items)
    table = pq.read_table(tmp_path / "items.parquet")
    assert b"geo" in table.schema.metadata
    found = list(stac_geoparquet.arrow.stac_table_to_items(table.drop_columns([ITEM_COLUMN])))
    assert [item["id"] for item in found] == [item["id"] for item in items]
    assert shape(found[0]["geometry"]).equals(shape(items[0]["geometry"]))
    assert found[0]["assets"]["red"]["href"] == items[0]["assets"]["red"]["href"]
    assert found[1]["properties"]["eo:cloud_cover"] == 5.0
    assert found[1]["properties"]["datetime"][:19] == "2023-08-15T09:57:57"


def test_a_file_of_another_program_is_read(tmp_path, folder):
    items = [json.loads((folder / "clear.json").read_text())]
    reader = stac_geoparquet.arrow.parse_stac_items_to_arrow(items)
    stac_geoparquet.arrow.to_parquet(reader.read_all(), tmp_path / "foreign.parquet")
    (found,) = read_items(tmp_path / "foreign.parquet")
    assert found["id"] == "clear"
    assert found["assets"]["red"]["proj:transform"] == items[0]["assets"]["red"]["proj:transform"]


@pytest.mark.parametrize("lost", [{"geometry"}, {"bbox"}, {"geometry", "bbox"}, {"properties"}])
def test_poor_items_are_kept_whole_too(lost, tmp_path, folder):
    items = [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]
    items[1] |= dict.fromkeys(lost)
    for some in (items, items[1:2]):
        write_items(tmp_path / "items.parquet", some)
        assert read_items(tmp_path / "items.parquet") == some


def test_a_missing_or_damaged_file_is_named(tmp_path):
    with pytest.raises(DataError, match="does not exist"):
        read_items(tmp_path / "items.parquet")
    (tmp_path / "items.parquet").write_bytes(b"PAR1 not")
    with pytest.raises(DataError, match="not a table of STAC items"):
        read_items(tmp_path / "items.parquet")
    with pytest.raises(RequestError, match="no items"):
        write_items(tmp_path / "items.parquet", [])


@given(
    months=st.lists(
        st.builds("{}-{:02d}".format, st.integers(2017, 2019), st.integers(1, 12)), min_size=1
    )
)
def test_spans_cover_every_month_once_and_no_other(months):
    from data_prep.catalogue import _spans

    covered = []
    for first, last in _spans(sorted(set(months))):
        assert first[:4] == last[:4]
        covered += month_range(first[:7], last[:7])
    assert covered == sorted(set(months))


# -- real items


@pytest.mark.shared
def test_real_items_of_all_providers_come_back_from_one_file(tmp_path, shared_data):
    items = []
    for path in sorted((shared_data / "stac_items").rglob("*json")):
        content = json.loads(path.read_text())
        features = content.get("features", [content]) if isinstance(content, dict) else []
        items += [f for f in features if f.get("type") == "Feature" and "assets" in f]
    items += json.loads((shared_data / "stac_s2_mini/search_response.json").read_text())["features"]
    write_items(tmp_path / "items.parquet", items)
    assert read_items(tmp_path / "items.parquet") == items


@pytest.mark.shared
def test_the_small_real_catalogue_takes_three_requests(shared_data):
    places = [
        make_place("a", left=540000.0, top=5060000.0, lat=45.7, lon=15.5),
        make_place("b", left=550000.0, top=5055000.0, lat=45.6, lon=15.6),
    ]
    with StacServer(shared_data / "stac_s2_mini") as server:
        found = search(places, month_range("2023-01", "2023-12"), make_config(server))
        assert server.counts == {"root": 2, "search": 1}
    assert len(found) == 5
    assert {item["properties"]["grid:code"] for item in found} == {"MGRS-33TWL"}
    path = shared_data / "stac_s2_mini/search_response.json"
    offline = search(places, AUGUST, static(path))
    assert ids(offline) == ids(found)
    assert all(Path(item["assets"]["red"]["href"]).is_file() for item in offline)
