"""Items as scenes: what each provider's items mean, which are refused, twins, and the index."""

import copy
import json
import time
from dataclasses import replace

import antimeridian
import pytest
import shapely
from hypothesis import given
from hypothesis import strategies as st
from shapely.geometry import box, mapping

from data_prep.footprints import footprint_of, mend, to_degrees
from data_prep.place import Place
from data_prep.scene import Scene
from data_prep.scenes import SceneRefused, dedupe, index_scenes, scene_of
from tests.fake_scenes import write_scene

pytestmark = pytest.mark.filterwarnings(  # odc-geo 0.5 still calls it
    "ignore:The 'shapely.ops.transform:DeprecationWarning"
)


@pytest.fixture(scope="module")
def plain_item(tmp_path_factory):
    return write_scene(
        tmp_path_factory.mktemp("scene"), item_id="S2A_33TWM_20230815_0_L2A", left=560000,
        top=5160000, size_px=16, cloud_cover=12.5, raster_offset=-0.1, boa_offset_applied=True,
    )  # fmt: skip


@pytest.fixture
def item(plain_item):
    return copy.deepcopy(plain_item)


def make_scene(**changes) -> Scene:
    fields = {
        "item_id": "a", "provider": "earth-search", "collection": "sentinel-2-l2a",
        "acquired": "2023-08-15T09:57:57Z", "pass_key": "S2A_20230815T095031", "mgrs": "33TWM",
        "baseline": "05.09", "cloud_frac": 0.1, "footprint": box(15, 46, 16, 47),
        "crs": "EPSG:32633", "assets": {}, "offset_hints": {"datastrip": "20230815T095630"},
    }  # fmt: skip
    return Scene(**(fields | changes))


def make_place(left=560000.0, top=5160000.0, crs="EPSG:32633", size_px=64) -> Place:
    return Place(
        location_id="p", lat=46.6, lon=15.8, crs=crs, left=left, top=top, size_px=size_px,
        resolution_m=10,
    )  # fmt: skip


# -- one item


def test_an_earth_search_item_becomes_a_scene(item):
    scene = scene_of(item, "earth-search")
    assert scene.item_id == "S2A_33TWM_20230815_0_L2A"
    assert scene.collection == "sentinel-2-l2a"
    assert scene.acquired == "2023-08-15T09:57:57Z"
    assert scene.month == "2023-08"
    assert scene.pass_key == "S2A_20230815T095031"
    assert scene.mgrs == "33TWM"
    assert scene.baseline == "05.09"
    assert scene.cloud_frac == 0.125
    assert scene.crs == "EPSG:32633"
    assert set(scene.assets) == {"B02", "B03", "B04", "B08", "SCL"}
    assert scene.assets["B04"].endswith("/S2A_33TWM_20230815_0_L2A/B04.tif")
    assert scene.offset_hints == {
        "baseline": "05.09", "earthsearch:boa_offset_applied": True,
        "datastrip": "20230815T095630", "B02": -0.1, "B03": -0.1, "B04": -0.1, "B08": -0.1,
    }  # fmt: skip


def test_a_stated_offset_of_zero_is_a_hint_too(item):
    for asset in item["assets"].values():
        asset["raster:bands"] = [{"offset": 0}]
    hints = scene_of(item, "earth-search").offset_hints
    assert {band for band, offset in hints.items() if offset == 0} == {"B02", "B03", "B04", "B08"}


@pytest.mark.parametrize("style", ["earth-search", "earth-search-c1", "planetary-computer"])
def test_all_styles_mean_the_same_scene(style, tmp_path):
    item = write_scene(
        tmp_path, item_id="x", left=560000, top=5160000, size_px=16, provider_style=style,
        raster_offset=None if style == "planetary-computer" else -0.1,
    )  # fmt: skip
    scene = scene_of(item, style)
    assert scene.pass_key == "S2A_20230815T095031"
    assert (scene.mgrs, scene.crs, scene.baseline) == ("33TWM", "EPSG:32633", "05.09")
    assert scene.offset_hints.get("B04") == (None if style == "planetary-computer" else -0.1)
    assert "SCL" not in scene.offset_hints
    assert replace(scene_of(item, "stac-api"), provider=style) == scene


@pytest.mark.parametrize(
    ("stated", "expected"),
    [
        ("2023-08-15T09:57:57.999Z", "2023-08-15T09:57:57Z"),
        ("2023-09-01T01:30:00+02:00", "2023-08-31T23:30:00Z"),  # another month in UTC
        ("2023-08-15T09:57:57", "2023-08-15T09:57:57Z"),
    ],
)
def test_sensing_time_is_utc_to_the_second(stated, expected, item):
    item["properties"]["datetime"] = stated
    assert scene_of(item, "earth-search").acquired == expected


def test_a_null_datetime_gives_way_to_the_start(item):
    item["properties"] |= {"datetime": None, "start_datetime": "2023-08-15T09:00:00Z"}
    assert scene_of(item, "earth-search").acquired == "2023-08-15T09:00:00Z"


@pytest.mark.parametrize("baseline", ["05.09", "5.09"])
def test_baseline_has_two_digits_each(baseline, item):
    item["properties"]["s2:processing_baseline"] = baseline
    assert scene_of(item, "earth-search").baseline == "05.09"


def test_baseline_comes_from_the_product_name_if_no_property_has_it(item):
    properties = item["properties"]
    for name in ("s2:processing_baseline", "s2:datatake_id", "s2:datastrip_id"):
        del properties[name]
    assert scene_of(item, "earth-search").baseline == "05.09"
    del properties["s2:product_uri"]
    assert scene_of(item, "earth-search").baseline is None
    item["id"] = "S2B_MSIL2A_20190629T212529_N0212_R043_T06VVN_20201006T080531.SAFE"
    del properties["grid:code"]
    scene = scene_of(item, "earth-search")
    assert (scene.baseline, scene.mgrs) == ("02.12", "06VVN")


@pytest.mark.parametrize("cloud", [None, -1, 101, "unknown"])
def test_senseless_cloud_cover_is_unknown(cloud, item):
    item["properties"]["eo:cloud_cover"] = cloud
    assert scene_of(item, "earth-search").cloud_frac is None


@pytest.mark.parametrize(
    ("properties", "item_id", "expected"),
    [
        ({"grid:code": "MGRS-1WCP"}, "x", "01WCP"),
        ({"s2:mgrs_tile": "06VVN"}, "x", "06VVN"),
        ({"mgrs:utm_zone": 5, "mgrs:latitude_band": "Q", "mgrs:grid_square": "KB"}, "x", "05QKB"),
        ({}, "S2A_5QKB_20230815_0_L2A", "05QKB"),
        ({}, "S2A_T05QKB_20230815T095031_L2A", "05QKB"),
        # "2CPS" is a processing centre, and looks like a tile of zone 2
        (
            {"s2:granule_id": "S2C_OPER_MSI_L2A_TL_2CPS_20250815T155057_A004254_T33TWM_N05.11"},
            "S2C_33TWM_20250815_0_L2A",
            "33TWM",
        ),
    ],
)
def test_mgrs_tile_is_found_wherever_it_is_named(properties, item_id, expected, item):
    for name in ("grid:code", "s2:product_uri", "s2:datastrip_id"):
        del item["properties"][name]
    item["properties"] |= properties
    item["id"] = item_id
    assert scene_of(item, "earth-search").mgrs == expected


def test_pass_key_does_not_depend_on_the_baseline(item):
    keys = set()
    for baseline in ("N05.09", "N05.10"):
        item["properties"]["s2:datatake_id"] = f"GS2A_20230815T095031_042547_{baseline}"
        keys.add(scene_of(item, "earth-search").pass_key)
    assert keys == {"S2A_20230815T095031"}


def test_pass_key_falls_back_to_product_orbit_and_hour(item):
    properties = item["properties"]
    del properties["s2:datatake_id"]
    assert scene_of(item, "earth-search").pass_key == "S2A_20230815T095031"  # product name
    properties["s2:product_uri"] = None
    properties["s2:granule_id"] = "S2A_OPER_MSI_L2A_TL_2APS_20230815T155057_A042547_T33TWM_N05.09"
    assert scene_of(item, "earth-search").pass_key == "S2A_A042547"
    del properties["s2:granule_id"], properties["s2:datastrip_id"]
    assert scene_of(item, "earth-search").pass_key == "S2A_2023-08-15T09"


@pytest.mark.parametrize("code", [None, "EPSG:None", "None"])
def test_a_crs_that_is_none_leaves_the_grid_of_the_tile(code, item):
    whole = scene_of(item, "earth-search").footprint
    item["properties"]["proj:epsg"] = None
    item["properties"]["proj:code"] = code
    item["geometry"] = None
    scene = scene_of(item, "earth-search")
    assert scene.crs is None
    assert scene.footprint.symmetric_difference(whole).area < 1e-6 * whole.area


def test_an_unknown_crs_is_refused(item):
    item["properties"]["proj:epsg"] = 999999
    with pytest.raises(SceneRefused, match="EPSG:999999") as caught:
        scene_of(item, "earth-search")
    assert caught.value.reason == "unknown_crs"


def test_level_1c_is_refused(tmp_path):
    item = write_scene(
        tmp_path, item_id="x", left=560000, top=5160000, size_px=16, product_type="S2MSI1C"
    )
    with pytest.raises(SceneRefused, match="Level-1C") as caught:
        scene_of(item, "earth-search")
    assert caught.value.reason == "not_level_2a"


@pytest.mark.parametrize("key", ["red", "green", "blue", "scl"])
def test_an_item_without_a_needed_band_is_refused(key, item):
    del item["assets"][key]
    with pytest.raises(SceneRefused, match=f"no asset {key}") as caught:
        scene_of(item, "earth-search")
    assert caught.value.reason == "missing_bands"


def test_assets_of_another_scheme_are_refused_with_both_names(item):
    with pytest.raises(SceneRefused, match=r"no asset B04.*it has blue.*planetary-computer"):
        scene_of(item, "planetary-computer")


def test_an_item_without_time_or_place_is_refused(item):
    item["properties"]["datetime"] = "yesterday"
    with pytest.raises(SceneRefused, match="yesterday") as caught:
        scene_of(item, "earth-search")
    assert caught.value.reason == "no_time"
    item["properties"] |= {"datetime": "2023-08-15T09:57:57Z", "platform": "landsat-8"}
    item["properties"] |= dict.fromkeys(("grid:code", "s2:product_uri"))
    item["id"] = "LC08"
    with pytest.raises(SceneRefused) as caught:
        scene_of(item, "earth-search")
    assert caught.value.reason == "not_sentinel_2"


def test_an_item_without_any_outline_is_refused(item):
    item |= {"geometry": None, "bbox": None}
    for asset in item["assets"].values():
        asset |= {"proj:transform": None, "proj:shape": None}
    with pytest.raises(SceneRefused) as caught:
        scene_of(item, "earth-search")
    assert caught.value.reason == "no_outline"


# -- outlines


def test_footprint_is_the_pixel_grid_where_the_geometry_is_wrong(item):
    right = scene_of(item, "earth-search").footprint
    for wrong in (box(0, 0, 1, 1), box(-179, 46, 179, 47), None):
        item["geometry"] = None if wrong is None else mapping(wrong)
        found = scene_of(item, "earth-search").footprint
        assert found.symmetric_difference(right).area < 1e-6 * right.area


def test_footprint_is_narrowed_to_what_the_satellite_saw():
    grid = {"proj:bbox": [500000, 5100000, 600000, 5200000]}
    whole = footprint_of({}, "EPSG:32633", [grid])
    half = whole.intersection(box(15.7, 40, 20, 50))  # the swath ends inside the tile
    found = footprint_of({"geometry": mapping(half)}, "EPSG:32633", [grid])
    assert found.bounds[0] == pytest.approx(15.69)  # and the slack
    assert found.area < 0.6 * whole.area
    assert found.contains(half.buffer(-1e-9))


@pytest.mark.parametrize(
    "fields",
    [
        {"proj:bbox": [560000, 5157440, 562560, 5160000]},
        {"proj:transform": [10, 0, 560000, 0, -10, 5160000], "proj:shape": [256, 256]},
        {"proj:transform": [10, 0, 560000, 0, -10, 5160000, 0, 0, 1], "proj:shape": [256, 256]},
        {"proj:geometry": mapping(box(560000, 5157440, 562560, 5160000))},
    ],
)
def test_every_way_of_stating_the_grid_gives_the_same_outline(fields):
    expected = to_degrees(box(560000, 5157440, 562560, 5160000), "EPSG:32633")
    for properties, assets in (({}, [fields]), (fields, []), (fields, [dict.fromkeys(fields)])):
        found = footprint_of({"properties": properties}, "EPSG:32633", assets)
        assert found.symmetric_difference(expected).area < 1e-12


def test_a_grid_wider_than_high_keeps_its_shape():
    fields = {"proj:transform": [10, 0, 560000, 0, -10, 5160000], "proj:shape": [100, 400]}
    west, south, east, north = footprint_of({"properties": fields}, "EPSG:32633", []).bounds
    assert (east - west) * 0.687 == pytest.approx(4 * (north - south), rel=0.06)  # cos 46.6


def test_an_asset_takes_what_it_lacks_from_the_item():
    asset = {"proj:transform": [10, 0, 560000, 0, -10, 5160000], "proj:shape": None}
    found = footprint_of({"properties": {"proj:shape": [100, 400]}}, "EPSG:32633", [asset])
    expected = to_degrees(box(560000, 5159000, 564000, 5160000), "EPSG:32633")
    assert found.symmetric_difference(expected).area < 1e-12


def test_a_bbox_stands_in_for_geometry_and_may_cross_the_antimeridian():
    flat = footprint_of({"bbox": [179, -17, -179, -16]}, None, ())
    deep = footprint_of({"bbox": [179, -17, 0, -179, -16, 500]}, None, ())
    assert flat.equals(deep)
    assert flat.area == pytest.approx(2, rel=1e-3)  # its parallels are cut as great circles
    assert flat.bounds == pytest.approx((-180, -17, 180, -16), abs=0.01)


def test_an_outline_cut_at_the_antimeridian_does_not_cut_the_grid():
    grid = {"proj:bbox": [170000, 8180000, 190000, 8200000]}  # across 180 in zone 1
    whole = footprint_of({}, "EPSG:32701", [grid])
    east_part = whole.intersection(box(-180, -90, 0, 90))
    found = footprint_of({"geometry": mapping(east_part)}, "EPSG:32701", [grid])
    assert found.equals(whole)


@given(
    west=st.floats(175, 179.5), width=st.floats(1, 8), south=st.floats(-80, 79),
    height=st.floats(0.1, 1), is_clockwise=st.booleans(), is_torn=st.booleans(),
)  # fmt: skip
def test_torn_and_overlong_outlines_keep_their_area(
    west, width, south, height, is_clockwise, is_torn
):
    east = max(west + width, 180.1)
    corners = [(west, south), (east, south), (east, south + height), (west, south + height)]
    if is_torn:
        corners = [(lon - 360 if lon > 180 else lon, lat) for lon, lat in corners]
    outline = shapely.Polygon(corners[::-1] if is_clockwise else corners)
    mended = mend(outline)
    assert mended.is_valid
    assert mended.area == pytest.approx((east - west) * height, rel=0.02)  # great circles bulge
    assert mended.bounds[0] == -180
    assert mended.bounds[2] == 180


def test_a_bow_tie_becomes_valid():
    mended = mend(shapely.Polygon([(0, 0), (2, 2), (2, 0), (0, 2)]))
    assert mended.is_valid
    assert mended.area == pytest.approx(2)
    assert mend(shapely.LineString([(0, 0), (1, 1)])) is None


# -- twins


def test_a_reprocessed_twin_gives_way_to_the_higher_baseline():
    old = make_scene(item_id="b", baseline="02.14")
    new = make_scene(item_id="a", baseline="05.00", acquired="2023-08-15T09:57:58Z")
    assert dedupe([old, new]) == ([new], {"reprocessed_twin": 1})
    assert dedupe([new, old]) == ([new], {"reprocessed_twin": 1})


def test_baselines_are_compared_as_numbers_and_unknown_is_lowest():
    nine, ten = make_scene(item_id="b", baseline="9.99"), make_scene(item_id="a", baseline="10.00")
    assert dedupe([nine, ten])[0] == [ten]
    assert dedupe([replace(nine, baseline=None), nine])[0] == [nine]
    unknown = make_scene(item_id="z", baseline=None)
    assert dedupe([unknown, nine])[0] == [nine]


def test_of_equal_baselines_the_newest_id_is_kept():
    first, second = make_scene(item_id="S2A_0_L2A"), make_scene(item_id="S2A_1_L2A")
    assert dedupe([second, first])[0] == [second]


def test_two_datastrips_of_one_pass_are_both_kept():
    first = make_scene(item_id="a")
    later = make_scene(item_id="b", offset_hints={"datastrip": "20230815T095645"})
    assert dedupe([later, first]) == ([first, later], {})


def test_datastrips_that_start_a_moment_apart_are_the_same():
    first = make_scene(item_id="a", baseline="05.00")
    again = make_scene(item_id="b", offset_hints={"datastrip": "20230815T095632"})
    assert dedupe([first, again])[0] == [again]


def test_other_tiles_other_passes_and_other_satellites_are_no_twins():
    scenes = [
        make_scene(item_id="a"),
        make_scene(item_id="b", mgrs="33TWL"),
        make_scene(item_id="c", pass_key="S2B_20230815T095031"),
    ]
    assert dedupe(scenes) == (scenes, {})


def test_without_datastrips_the_area_decides():
    north = make_scene(item_id="a", offset_hints={}, footprint=box(15, 46.5, 16, 47))
    south = make_scene(item_id="b", offset_hints={}, footprint=box(15, 46, 16, 46.55))
    twin = make_scene(item_id="c", offset_hints={}, footprint=box(15, 46.01, 16, 46.55))
    assert dedupe([north, south, twin]) == ([north, twin], {"reprocessed_twin": 1})


def test_the_same_item_twice_is_counted_as_such():
    scene = make_scene()
    assert dedupe([scene, scene]) == ([scene], {"duplicate_item": 1})


# -- index


def test_index_gives_the_month_by_cloud_then_id_and_the_unknown_last():
    scenes = [
        make_scene(item_id="b", cloud_frac=0.2),
        make_scene(item_id="a", cloud_frac=0.2),
        make_scene(item_id="c", cloud_frac=0.0),
        make_scene(item_id="d", cloud_frac=None),
        make_scene(item_id="e", acquired="2023-09-01T00:00:00Z"),
        make_scene(item_id="f", footprint=box(20, 46, 21, 47)),
    ]
    index = index_scenes(scenes)
    assert [scene.item_id for scene in index.at(make_place(), "2023-08")] == ["c", "a", "b", "d"]
    assert [scene.item_id for scene in index.at(make_place(), "2023-09")] == ["e"]
    assert index.at(make_place(), "2024-08") == []


def test_scenes_that_only_touch_a_place_do_not_count():
    place = make_place()
    west, south, east, north = place.footprint.bounds
    beside = make_scene(item_id="a", footprint=box(east, south, east + 1, north))
    over = make_scene(item_id="b", footprint=box(west + 1e-4, south, east + 1, north))
    assert index_scenes([beside, over]).at(place, "2023-08") == [over]


def test_places_across_the_antimeridian_find_scenes_of_both_sides():
    place = make_place(left=179000, top=8190000, crs="EPSG:32701", size_px=512)
    assert place.footprint.bounds == pytest.approx((-180, -16.4, 180, -16.3), abs=0.1)
    east = make_scene(item_id="e", footprint=box(-180, -17, -179.99, -16))
    west = make_scene(item_id="w", footprint=box(179.99, -17, 180, -16))
    far = make_scene(item_id="f", footprint=box(-10, -17, 10, -16))
    assert index_scenes([east, west, far]).at(place, "2023-08") == [east, west]


def test_ten_thousand_scenes_are_asked_for_a_thousand_places_and_a_year_in_seconds():
    scenes = [
        make_scene(
            item_id=f"{n:05d}", acquired=f"2023-{n % 12 + 1:02d}-10T10:00:00Z",
            footprint=box(lon := 10 + n // 12 % 30, lat := 40 + n // 360, lon + 1.2, lat + 1.2),
        )
        for n in range(10_000)
    ]  # fmt: skip
    places = [make_place(left=400000 + 150 * n, top=4.5e6 + 1000.0 * n) for n in range(1000)]
    for place in places:
        assert place.footprint.area > 0  # cached by the place: not the index's time
    index = index_scenes(scenes)
    start = time.perf_counter()
    found = sum(
        len(index.at(place, f"2023-{month:02d}")) for place in places for month in range(1, 13)
    )
    assert time.perf_counter() - start < 10
    assert found > 10_000


# -- real items


@pytest.mark.shared
def test_every_real_item_is_a_scene_or_refused_for_a_stated_reason(shared_data):
    scenes, reasons = {}, {}
    for path in sorted((shared_data / "stac_items").rglob("*json")):
        content = json.loads(path.read_text())
        features = content.get("features", [content]) if isinstance(content, dict) else []
        for item in (f for f in features if f.get("type") == "Feature" and "assets" in f):
            try:
                scene = scene_of(item, "static-catalog")
                scenes[scene.item_id] = scene
            except SceneRefused as refused:
                reasons.setdefault(refused.reason, []).append(str(refused))
    assert {reason: len(texts) for reason, texts in reasons.items()} == {
        "not_level_2a": 4, "not_sentinel_2": 21, "missing_bands": 1,
    }  # fmt: skip
    assert len(scenes) == 36
    for scene in scenes.values():
        assert scene.footprint.is_valid
        assert scene.footprint.area < 5  # no outline is torn across the globe
        zone, is_north = int(scene.mgrs[:2]), scene.mgrs[2] >= "N"
        assert scene.crs == f"EPSG:{32600 if is_north else 32700}"[:-2] + f"{zone:02d}"
    across = {s.mgrs for s in scenes.values() if s.footprint.bounds[0] == -180}
    assert across == {"01WCP", "01WCS", "01KAB", "01VCG", "60CWS"}
    assert scenes["S2A_28QCH_20200714_0_L2A"].baseline == "02.14"  # told by its product only


@pytest.mark.shared
def test_a_real_outline_torn_at_the_antimeridian_is_mended_the_same(shared_data):
    name = "S2A_MSIL2A_20230625T234621_N0509_R073_T01WCP_20230626T022158.SAFE"
    path = shared_data / "stac_items/stactools-sentinel2" / name / "expected_output.json"
    item = json.loads(path.read_text())
    right = scene_of(item, "static-catalog").footprint
    torn = [(178.65, 65.67), (-178.97, 65.72), (-179.04, 66.71), (178.47, 66.65)]
    item["geometry"] = mapping(shapely.Polygon(torn))
    mended = scene_of(item, "static-catalog").footprint
    assert mended.symmetric_difference(right).area < 0.02 * right.area
    assert antimeridian.bbox(mended)[0] > 178


@pytest.mark.shared
def test_real_scenes_of_the_small_catalogue_make_five_dates_a_tile(shared_data):
    content = json.loads((shared_data / "stac_s2_mini/search_response.json").read_text())
    scenes = [scene_of(item, "earth-search") for item in content["features"]]
    kept, dropped = dedupe(scenes)
    assert (len(kept), dropped) == (10, {})
    assert len({scene.pass_key for scene in kept}) == 5
    place = make_place(left=545000, top=5150000)
    found = index_scenes(kept).at(place, "2023-08")
    clouds = [scene.cloud_frac for scene in found]
    assert clouds == sorted(clouds)
    assert {scene.mgrs for scene in found} == {"33TWM"}
    assert len(found) == 5
