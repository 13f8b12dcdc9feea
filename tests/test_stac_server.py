"""The local catalogue answers as real ones do, counts, and fails on demand."""

from pathlib import Path

import numpy as np
import pytest
import rasterio
import requests
from pystac_client import Client
from rasterio.warp import transform_bounds

from tests.fake_scenes import ramp, write_scene
from tests.stac_server import StacServer

WEST, EAST = 560000.0, 562560.0
BOX_OF_WEST = [15.78, 46.4, 15.80, 46.6]  # of the western scene alone


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_scene(tmp_path, item_id="west", left=WEST, top=5160000, cloud_cover=10.0)
    write_scene(
        tmp_path, item_id="east", left=EAST, top=5160000, cloud_cover=60.0,
        acquired="2023-09-01T10:00:00Z",
    )  # fmt: skip
    write_scene(
        tmp_path, item_id="fiji", left=298000, top=8190000, crs="EPSG:32701", mgrs="01KAB",
        provider_style="planetary-computer", collection="other",
    )  # fmt: skip
    return tmp_path


@pytest.fixture
def server(folder):
    with StacServer(folder, max_page=2) as server:
        yield server


def ids(server, **wish) -> list[str]:
    return [i["id"] for i in Client.open(server.url).search(**wish).items_as_dicts()]


def test_search_filters_by_area_time_collection_and_cloud(server):
    assert sorted(ids(server)) == ["east", "fiji", "west"]
    assert ids(server, datetime="2023-08-01T00:00:00Z/2023-08-31T23:59:59Z") == ["fiji", "west"]
    assert ids(server, collections=["other"]) == ["fiji"]
    assert ids(server, query={"eo:cloud_cover": {"lte": 10}}, collections=["sentinel-2-l2a"]) == [
        "west"
    ]
    assert ids(server, bbox=BOX_OF_WEST) == ["west"]


def test_pages_follow_the_next_link_with_post_and_get(server):
    assert len(ids(server)) == 3
    assert server.count("search", method="POST") == 2
    assert len(ids(server, method="GET", datetime="2023-01-01/2024-01-01")) == 3
    assert server.count("search", method="GET") == 2


def test_assets_are_absolute_and_answer_ranges(server, folder):
    item = next(Client.open(server.url).search(ids=["west"]).items_as_dicts())
    href = item["assets"]["red"]["href"]
    content = (folder / "west/B04.tif").read_bytes()
    part = requests.get(href, headers={"Range": "bytes=10-19"}, timeout=5)
    assert (part.status_code, part.content) == (206, content[10:20])
    assert part.headers["Content-Range"] == f"bytes 10-19/{len(content)}"
    tail = requests.get(href, headers={"Range": "bytes=-5"}, timeout=5)
    assert tail.content == content[-5:]
    beyond = requests.get(href, headers={"Range": f"bytes={len(content)}-"}, timeout=5)
    assert beyond.status_code == 416
    head = requests.head(href, timeout=5)
    assert int(head.headers["Content-Length"]) == len(content)
    assert server.count("data", method="GET") == 3
    env = rasterio.Env(GDAL_DISABLE_READDIR_ON_OPEN="EMPTY_DIR", GDAL_HTTP_TIMEOUT=5)
    with env, rasterio.open(f"/vsicurl/{href}") as file:
        assert file.read(1)[3, 5] == 2000 + 3 * 5 + 7 * 3


def test_nothing_outside_the_folder_is_served(server):
    with requests.Session() as session:
        request = requests.Request("GET", server.url).prepare()
        request.url = server.url + "/data/../../../../etc/passwd"
        assert session.send(request, timeout=5).status_code == 404


def test_static_catalogue_links_every_item(server):
    links = requests.get(server.catalog_url, timeout=5).json()["links"]
    items = [link["href"] for link in links if link["rel"] == "item"]
    assert items == ["./items/fiji.json", "./items/east.json", "./items/west.json"]
    first = requests.get(f"{server.url}/{items[0]}", timeout=5).json()
    assert first["id"] == "fiji"


def test_faults_strike_at_their_hit_and_only_there(server):
    server.add_fault(r"B04\.tif$", 429, hits=(2,), retry_after_s=3)
    href = server.data_url("west/B04.tif")
    answers = [requests.get(href, timeout=5) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [200, 429, 200]
    assert answers[1].headers["Retry-After"] == "3"
    assert requests.get(server.data_url("west/B03.tif"), timeout=5).status_code == 200


def test_bodies_can_be_cut_stalled_and_senseless(server):
    href = server.data_url("west/B04.tif")
    server.add_fault("west", "truncated", hits=(1,))
    with pytest.raises(requests.exceptions.ChunkedEncodingError):
        requests.get(href, timeout=5)
    server.add_fault("west", "stall", hits=(1,), stall_s=5)
    with pytest.raises(requests.Timeout):
        requests.get(href, timeout=0.2)
    server.add_fault("search", "wrong-json", hits=(1,))
    with pytest.raises(requests.exceptions.JSONDecodeError):
        requests.post(f"{server.url}/search", json={}, timeout=5).json()
    assert requests.get(href, timeout=5).status_code == 200


def test_expired_tokens_are_refused_until_a_fresh_one_comes(server):
    server.add_fault(r"\.tif$", "expired-token", hits=None)
    href = server.data_url("west/B04.tif")
    assert requests.get(href, timeout=5).status_code == 403
    answer = requests.get(f"{server.token_url}/sentinel-2-l2a", timeout=5).json()
    assert set(answer) == {"msft:expiry", "token"}
    signed = f"{href}?{answer['token']}"
    assert requests.get(signed, timeout=5).status_code == 200
    server.expire_tokens()
    assert requests.get(signed, timeout=5).status_code == 403
    assert server.count("token") == 1


def test_a_server_without_the_query_extension_refuses_queries(folder):
    with StacServer(folder, has_query=False) as server:
        assert not Client.open(server.url).conforms_to("QUERY")
        body = {"query": {"eo:cloud_cover": {"lte": 1}}}
        assert requests.post(f"{server.url}/search", json=body, timeout=5).status_code == 400


def test_fake_scenes_lie_where_they_say(tmp_path):
    item = write_scene(
        tmp_path, item_id="a", left=600000, top=5200020, size_px=512,
        bands={"B04": ramp(512, 512), "B11": ramp(256, 256, base=1)},
        scl=np.tri(256, dtype=np.uint8) + 3, raster_offset=-0.1, boa_offset_applied=True,
    )  # fmt: skip
    with rasterio.open(item["assets"]["red"]["href"]) as file:
        assert file.bounds == (600000, 5194900, 605120, 5200020)
        assert file.overviews(1) == [2, 4]
        assert file.block_shapes == [(128, 128)]
        assert file.profile["tiled"]
        assert file.read(1)[7, 2] == 2000 + 3 * 2 + 7 * 7
        assert file.nodata == 0
    with rasterio.open(item["assets"]["scl"]["href"]) as file:
        assert (file.shape, file.res, file.overviews(1)) == ((256, 256), (20, 20), [2])
        assert (file.read(1)[9, 1], file.read(1)[1, 9]) == (4, 3)
    assert item["assets"]["red"]["raster:bands"][0]["offset"] == -0.1
    assert "offset" not in item["assets"]["scl"]["raster:bands"][0]
    degrees = transform_bounds("EPSG:32633", "EPSG:4326", 600000, 5194900, 605120, 5200020)
    assert item["bbox"] == pytest.approx(degrees, abs=1e-6)


def test_a_fake_scene_across_the_antimeridian_is_split(tmp_path):
    item = write_scene(
        tmp_path, item_id="a", left=179000, top=8190000, crs="EPSG:32701", mgrs="01KAB"
    )
    assert item["geometry"]["type"] == "MultiPolygon"
    west, _, east, _ = item["bbox"]
    assert (west > 179.9, east < -179.9) == (True, True)
