"""Page and map of a plan: counts as given, regions over the antimeridian in one piece."""

import io
import re

import numpy as np
import pytest
from PIL import Image
from shapely.geometry import MultiPolygon, box

from data_prep.grid import place_at
from data_prep.plan_map import LAND, SEA, _frame, degrees, draw_map
from data_prep.plan_pages import write_plan_pages
from ecomap.errors import RequestError

# odc-geo 0.5.3 calls a function that shapely 2.2 has deprecated, to make a tile's footprint.
pytestmark = pytest.mark.filterwarnings("ignore:The 'shapely.ops.transform:DeprecationWarning")

FIJI = MultiPolygon([box(176, -20, 180, -16), box(-180, -20, -178, -16)])


def tile(lat, lon, name="a", split="train", stratum="Croplands"):
    from dataclasses import replace

    place = place_at(name, lat, lon, size_px=512, resolution_m=10)
    return replace(place, split=split, stratum=stratum)


PLACES = [
    tile(45.2, 10.2, "a"),
    tile(45.4, 10.4, "b"),
    tile(45.6, 10.6, "c", "test"),
    tile(45.8, 11.6, "d", "buffer", "Savannas"),
]


def write(folder, **changes):
    arguments = {
        "places": PLACES,
        "region": box(10, 45, 12, 46),
        "dropped": {"water": 17, "not_drawn": 1234},
        "notes": ["Quota not met: <Savannas>.", "Second note."],
        "items_by_month": {"2021-02": 0, "2021-01": 321},
        "page_title": "Plan of Lland",
    }
    write_plan_pages(folder, **arguments | changes)
    return (folder / "index.html").read_text(encoding="utf-8")


def rows(html):
    found = re.findall(r"<tr>(.*?)</tr>", html, re.DOTALL)
    return [re.findall(r"<t[dh][^>]*>\s*(.*?)\s*</t[dh]>", row, re.DOTALL) for row in found]


def pixels(png):
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))


def share(image, colour):
    value = [int(colour[start : start + 2], 16) for start in (1, 3, 5)]
    return (np.abs(image.astype(int) - value).max(axis=-1) <= 2).mean()


def test_the_page_has_the_counts(tmp_path):
    html = write(tmp_path / "plan")
    assert "Plan of Lland" in html
    assert "4 places, each a tile of 512 by 512 pixels of 10 m (5.12 km wide)" in html
    found = rows(html)
    assert ["Land cover", "train", "test", "buffer", "all"] in found
    assert ["Croplands", "2", "1", "0", "3"] in found
    assert ["Savannas", "0", "0", "1", "1"] in found
    assert ["all", "2", "1", "1", "4"] in found
    assert ["water", "No land", "17"] in found
    assert ["2021-01", "321"] in found
    assert found.index(["2021-01", "321"]) < found.index(["2021-02", "0"])
    assert "No scene in 2021-02." in html
    assert "&lt;Savannas&gt;" in html
    assert "Natural Earth" in html


def test_the_map_stands_beside_the_page_and_in_it(tmp_path):
    html = write(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"index.html", "map.png"}
    assert pixels((tmp_path / "map.png").read_bytes()).shape[1] > 500
    assert html.count("data:image/png") == 2  # by side and by class
    assert write(tmp_path, places=[tile(0, 39, stratum="")]).count("data:image/png") == 1


def test_what_is_not_known_is_said(tmp_path):
    html = write(tmp_path, dropped={}, notes=[], items_by_month=None)
    assert "Catalogues have not been searched." in html
    assert "Nothing to remark." in html
    assert "Nothing." in html


def test_the_same_plan_gives_the_same_bytes(tmp_path):
    assert write(tmp_path / "one") == write(tmp_path / "two")
    one, two = ((tmp_path / name / "map.png").read_bytes() for name in ("one", "two"))
    assert one == two


def test_a_plan_without_places_is_refused(tmp_path):
    with pytest.raises(RequestError, match="without places"):
        write(tmp_path, places=[])


def test_a_region_over_the_antimeridian_is_shown_in_one_piece():
    places = [tile(-17, 179, "a"), tile(-17, -179, "b")]
    frame = _frame(places, FIJI)
    assert 170 < frame.west < 176
    assert 182 < frame.east < 188
    [east, west] = sorted(frame.shift(FIJI), key=lambda part: part.bounds[0])
    assert east.bounds == (176, -20, 180, -16)
    assert west.bounds == (180, -20, 182, -16)
    image = pixels(draw_map(places, FIJI))
    # The outline runs on through 180 degrees: no dark line from north to south at the cut.
    dark = (image.max(axis=-1) < 80)[: len(image) // 2].mean(axis=0) > 0.5
    assert (np.diff(dark.astype(int)) == 1).sum() == 2  # the two sides of the region


def test_each_part_of_a_region_has_its_outline():
    parts = MultiPolygon([box(3, 23, 4, 25), box(5, 23, 6, 25)])
    image = pixels(draw_map([tile(24, 3.5)], parts))
    dark = (image.max(axis=-1) < 80)[: len(image) // 2].mean(axis=0) > 0.5
    assert (np.diff(dark.astype(int)) == 1).sum() == 4  # two sides of two parts


def test_a_region_on_one_side_is_not_moved():
    frame = _frame(PLACES, box(10, 45, 12, 46))
    assert frame.west < 10 < 12 < frame.east
    assert frame.south < 45 < 46 < frame.north
    assert frame.east - frame.west < 4


def test_the_whole_earth_fits():
    frame = _frame([tile(0, -179.9, "a"), tile(0, 179.9, "b")], box(-180, -90, 180, 90))
    assert (frame.east - frame.west, frame.south, frame.north) == (pytest.approx(360), -90, 90)


def test_land_and_sea_are_drawn():
    places = [tile(45.2, 15.5)]
    inland = pixels(draw_map([tile(25, 5)], None))
    assert share(inland, LAND) > 0.7
    ocean = pixels(draw_map([tile(30, -45)], None))
    assert share(ocean, SEA) > 0.7
    assert share(ocean, LAND) < 0.01
    coast = pixels(draw_map(places, box(12, 42, 19, 47)))
    assert share(coast, SEA) > 0.05
    assert share(coast, LAND) > 0.3


def test_few_tiles_are_drawn_to_scale_and_many_as_markers():
    one = pixels(draw_map([tile(25, 5, split="test")], None))
    tinted = (one[..., 0].astype(int) - one[..., 2] > 40).mean()
    assert tinted > 0.03  # the square of one tile fills a part of the map
    many = [tile(20 + i % 50 / 5, 5 + i // 50 / 5, f"p{i}") for i in range(2000)]
    image = pixels(draw_map(many, None))
    blue = (image[..., 2].astype(int) - image[..., 0] > 100).mean()
    assert 0.02 < blue < 0.4


@pytest.mark.parametrize(
    ("value", "letters", "text"),
    [(46.5, "NS", "46.5°N"), (-0.25, "NS", "0.25°S"), (0.0, "EW", "0°"), (-180.0, "EW", "180°")],
)
def test_axes_name_the_hemisphere(value, letters, text):
    assert degrees(np.float64(value), letters) == text
