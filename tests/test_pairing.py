"""Generated images find their real ones, and know of them what they may know."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ecomap.errors import RequestError
from ecomap.pairing import complete, contradictions, file_stem, pair
from ecomap.schema import LandCover
from ecomap.tiles import ScoredTile, tile_of
from tests.fakes import make_tile

HISTORY = tuple(float(v) for v in range(12))
NORMALS = tuple(float(v) for v in range(12, 24))
REAL = ScoredTile(
    key="src/1/2004-07", place="src/1", month="2004-07", lat=10.0, lon=20.0,
    land_cover=LandCover.SAVANNAS, land_frac=0.75, cloud_frac=0.5,
    climate={"temperature_c": 25.0, "precipitation_mm_day": 3.0},
    history={"temperature_c": HISTORY, "precipitation_mm_day": HISTORY},
    normals={"temperature_c": NORMALS}, climate_kind="normal", caption="savanna", split="test",
    record=make_tile(),
)  # fmt: skip


def named(*keys):
    return [ScoredTile(key=key) for key in keys]


def test_tiles_pair_by_key_in_the_generated_order():
    pairing = pair(named("a", "b", "c"), named("c", "x", "a"))
    assert (pairing.paired_by, pairing.pairs) == ("key", ((2, 0), (0, 2)))
    assert (pairing.only_reference, pairing.only_generated) == (("b",), ("x",))
    assert [tile.key for tile in pairing.tiles] == ["c", "x", "a"]
    assert pairing.is_paired
    assert pairing.notes == (
        "2 generated images pair with their real ones by key; 1 generated and 1 real ones have no "
        "partner.",
    )


def test_tiles_pair_by_file_stem_where_keys_do_not():
    real = [
        tile_of(make_tile(location_id=str(number), image_path=f"images/{number}/{name}.png"))
        for number, name in enumerate(("p_2004-01", "q_2004-01", "same", "same"))
    ]
    pairing = pair(real, named("run/q_2004-01_synth", "other", "same"))
    assert (pairing.paired_by, pairing.pairs) == ("file stem", ((1, 0),))
    assert pairing.tiles[0].key == real[1].key
    assert pairing.tiles[0].record == real[1].record
    assert (pairing.only_generated, len(pairing.only_reference)) == (("other", "same"), 3)


def test_the_name_that_pairs_more_counts():
    real = [tile_of(make_tile(location_id=n, image_path=f"{n}.png")) for n in "abc"]
    pairing = pair(real, [real[0], *named("b", "c")])
    assert (pairing.paired_by, pairing.pairs) == ("file stem", ((0, 0), (1, 1), (2, 2)))


def test_keys_count_where_stems_pair_as_many():
    assert pair(named("x/a"), named("x/a")).paired_by == "key"


def test_names_without_anything_in_common_do_not_pair():
    pairing = pair(named("a"), generated := named("b", "c"))
    assert (pairing.paired_by, pairing.pairs) == ("nothing", ())
    assert not pairing.is_paired
    assert list(pairing.tiles) == generated
    assert (pairing.only_reference, pairing.only_generated) == (("a",), ("b", "c"))
    assert "only distributions are compared" in pairing.notes[0]


def test_a_key_that_stands_twice_is_refused():
    with pytest.raises(RequestError, match="'a' stands for several images"):
        pair(named("a", "a"), named("a"))
    with pytest.raises(RequestError, match="'b' stands for several images"):
        pair(named("a"), named("b", "b"))


@given(st.permutations(range(6)), st.integers(0, 6))
def test_every_tile_is_paired_once_or_told(order, num):
    generated = [ScoredTile(key=f"k{index}") for index in order[:num]]
    pairing = pair(named("k0", "k1", "k2", "other"), generated)
    assert len(pairing.pairs) + len(pairing.only_generated) == num
    assert len(pairing.pairs) + len(pairing.only_reference) == 4
    for real, made in pairing.pairs:
        assert ("k0", "k1", "k2", "other")[real] == generated[made].key


@pytest.mark.parametrize(
    ("tile", "stem"),
    [
        (ScoredTile(key="a/b/c_synth"), "c"),
        (ScoredTile(key="a/c.png"), "c"),
        (tile_of(make_tile(image_path="i/d.v2.tif")), "d.v2"),
        (tile_of(make_tile()), "2021-03"),
        (tile_of(make_tile(image_path="m.jpg", window_px=(0, 0, 16, 16))), None),
    ],
)
def test_file_stems_are_of_the_file_else_of_the_key(tile, stem):
    assert file_stem(tile) == stem


def test_an_unknown_tile_takes_all_but_the_cloud():
    made = complete(ScoredTile(key="x"), REAL)
    assert made == replace(REAL, cloud_frac=None)


def test_a_scenario_keeps_its_climate_and_takes_no_months_before_of_another():
    own = ScoredTile(key="x", climate={"temperature_c": 29.0})
    made = complete(own, REAL)
    assert made.climate == {"temperature_c": 29.0, "precipitation_mm_day": 3.0}
    assert made.history == {"precipitation_mm_day": HISTORY}
    assert made.normals == {}
    assert made.climate_kind == "observed"
    assert (made.record, made.caption) == (None, None)
    assert (made.place, made.month, made.land_cover) == ("src/1", "2004-07", LandCover.SAVANNAS)


@pytest.mark.parametrize(("value", "is_same"), [(25.04, True), (24.96, True), (25.06, False)])
def test_a_climate_that_is_rounded_is_the_same(value, is_same):
    made = complete(ScoredTile(key="x", climate={"temperature_c": value}), REAL)
    assert made.climate["temperature_c"] == value
    assert ("temperature_c" in made.history) == is_same
    assert (made.record is not None) == is_same


def test_what_the_generated_tile_knows_stays():
    own = ScoredTile(
        key="x", place="1", month="2004-07", lat=10.001, lon=20.0, land_frac=0.5, cloud_frac=0.1,
        land_cover=LandCover.SAVANNAS, history={"temperature_c": NORMALS}, caption="mine",
        split="val",
    )  # fmt: skip
    made = complete(own, REAL)
    assert (made.key, made.place) == (REAL.key, "src/1")  # statistics by place see one place
    assert (made.lat, made.land_frac, made.cloud_frac) == (10.001, 0.5, 0.1)
    assert (made.history["temperature_c"], made.caption, made.split) == (NORMALS, "mine", "val")


def test_of_another_month_or_position_no_climate_is_taken():
    for own in (ScoredTile(key="x", month="2004-08"), ScoredTile(key="x", lat=11.0)):
        made = complete(own, REAL)
        assert (made.climate, made.history, made.normals) == ({}, {}, {})
        assert (made.record, made.caption) == (None, None)
        assert made.land_cover is LandCover.SAVANNAS


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({}, []),
        ({"month": "2005-07"}, ["month"]),
        ({"land_cover": LandCover.BARREN}, ["land cover"]),
        ({"lat": 10.02, "lon": 20.02}, ["position"]),
        ({"lat": 10.009}, []),
        ({"lon": -340.0}, []),
        ({"month": None, "land_cover": None, "lat": None}, []),
        ({"month": "2004-08", "lon": 19.0}, ["month", "position"]),
    ],
)
def test_contradictions_are_what_both_know_and_differ_in(changes, found):
    assert contradictions(REAL, replace(REAL, **changes)) == found


def test_contradictions_are_counted_and_kept():
    real = [replace(REAL, key=key) for key in "abc"]
    made = [
        replace(real[0], month="2004-08"), replace(real[1], land_cover=LandCover.BARREN),
        replace(real[2], month="2004-09", climate={"temperature_c": 0.0}),
    ]  # fmt: skip
    pairing = pair(real, made)
    assert pairing.notes[1:] == (
        "2 of 3 pairs differ in month: the generated images keep their own.",
        "1 of 3 pairs differ in land cover: the generated images keep their own.",
    )
    assert [tile.month for tile in pairing.tiles] == ["2004-08", "2004-07", "2004-09"]
    assert pairing.tiles[1].land_cover is LandCover.BARREN
