"""Which places can be scored, how they are spread, and who swaps climate."""

from collections import Counter
from dataclasses import replace

import pytest

from ecomap.errors import RequestError
from ecomap.places import (
    Place,
    choose_cases,
    choose_targets,
    group_places,
    places_digest,
    shuffle_climate,
    spread_places,
)
from ecomap.tiles import ScoredTile
from tests.made_world import make_tile, scored


def make_place(name="a", months=range(1, 13), **fields) -> list[ScoredTile]:
    return [scored(name, month, **fields) for month in months]


def names_of(places: list[Place]) -> list[str]:
    return [place[0].place.removeprefix("made-up/") for place in places]


def choose(tiles, **options):
    defaults = {"num_places": 2, "months": (1, 12), "splits": ("test",), "seed": 0}
    return choose_targets(tiles, **(defaults | options))


def test_tiles_that_cannot_be_scored_are_counted_by_reason():
    tiles = [
        *make_place("good", split="test"),
        *make_place("fine", split="test", land_frac=None, land_cover=None, lat=9.0),
        *make_place("short", months=(1, 2), split="test"),
        *make_place("wet", land_frac=0.49, split="test"),
        *make_place("coast", land_frac=0.5, split="test", lat=50.0),
        *make_place("unknown", temperature_c=None, split="test"),
        *make_place("training", split="train"),
        replace(scored(split="test"), place=None),
        replace(scored(split="test"), lat=None),
    ]
    found = choose(tiles, num_places=3)
    assert {tile.place for tile in found.pool} == {"made-up/good", "made-up/fine", "made-up/coast"}
    assert {tile.month for tile in found.pool} == {"2004-01", "2004-12"}
    assert found.dropped == {
        "its place lacks a month": 1,
        "too little land": 12,
        "climate not known": 12,
        "split is train": 12,
        "place, position or month not known": 2,
    }


def test_a_dataset_without_normals_and_land_can_be_scored():
    gone = {f"{n}_normals": None for n in ("temperature_c", "precipitation_mm_day")}
    tiles = [t for name in "ab" for t in make_place(name, land_frac=None, split="test", **gone)]
    assert len(choose(tiles).chosen) == 4


def test_all_years_of_a_month_count_and_any_year_gives_a_place_its_month():
    tiles = [
        *(scored("a", 1, year=year, split="test") for year in (2003, 2004)),
        scored("a", 12, year=2002, split="test"),
        *make_place("b", (1, 12), split="test"),
    ]
    months = [tile.month for tile in choose(tiles).chosen if tile.place == "made-up/a"]
    assert months == ["2002-12", "2003-01", "2004-01"]


def test_without_named_months_each_place_has_its_own():
    tiles = [*make_place("a", (3,), split="test"), *make_place("b", (5, 6), split="test")]
    found = choose(tiles, months=None)
    assert sorted(tile.month for tile in found.chosen) == ["2004-03", "2004-05", "2004-06"]


def test_further_places_are_there_only_where_there_are_as_many_again():
    tiles = [t for i in range(5) for t in make_place(str(i), (1, 12), split="test", lat=9.0 * i)]
    found, all_of_them = choose(tiles), choose(tiles, num_places=3)
    assert len(found.chosen) == len(found.others) == 4
    assert not {t.place for t in found.chosen} & {t.place for t in found.others}
    assert all_of_them.others == []
    assert len(all_of_them.pool) == len(found.pool) == 10
    # the first places stay the same when more are asked for
    assert all_of_them.chosen[:4] == found.chosen


def test_splits_are_those_asked_for():
    tiles = [t for name in "ab" for t in make_place(name, (1, 12))]
    assert len(choose(tiles, splits=("test", "unassigned")).chosen) == 4
    with pytest.raises(RequestError, match=r"0 places of the splits test.*split is unassigned: 4"):
        choose(tiles)


@pytest.mark.parametrize("options", [{"months": ()}, {"months": (0, 5)}, {"num_places": 1}])
def test_impossible_settings_are_refused(options):
    with pytest.raises(RequestError, match="cannot be scored"):
        choose(make_place(split="test"), **options)


def test_places_are_grouped_with_their_earliest_month_first():
    early, late = scored("a", 12, year=2003), scored("a", 1)
    assert group_places([late, early, replace(early, place=None), replace(late, month=None)]) == {
        "made-up/a": [early, late]
    }


def test_spread_places_adds_the_farthest_from_those_chosen():
    lons = {"a": 0.0, "b": 10.0, "c": 100.0, "d": 180.0, "e": 104.0}
    places = [make_place(name, months=(1,), lon=lon) for name, lon in lons.items()]
    orders = set()
    for seed in range(40):
        names = names_of(spread_places(places, 9, seed=seed))
        assert sorted(names) == list("abcde")
        orders.add("".join(names[:3]))
        assert names_of(spread_places(places[::-1], 3, seed=seed)) == names[:3]
    assert orders == {"adc", "bdc", "cad", "dac", "ead"}


def test_places_at_one_spot_are_each_chosen_once():
    places = [make_place(name, months=(1,)) for name in "abc"]
    assert sorted(names_of(spread_places(places, 3, seed=0))) == list("abc")


def test_spread_places_measures_on_the_sphere():
    # 80 N: 170 degrees of longitude are 20 degrees of arc; the equator is farther
    spots = {"a": (80.0, 0.0), "b": (80.0, 170.0), "c": (40.0, 0.0)}
    places = [make_place(n, months=(1,), lat=lat, lon=lon) for n, (lat, lon) in spots.items()]
    orders = {tuple(names_of(spread_places(places, 2, seed=seed))) for seed in range(30)}
    assert orders == {("a", "c"), ("b", "c"), ("c", "b")}


def test_cases_are_chosen_place_by_place():
    tiles = [
        scored(place, month)
        for place, num in (("a", 1), ("b", 2), ("c", 5))
        for month in range(1, num + 1)
    ]
    chosen = choose_cases(tiles, 5, seed=3)
    assert Counter(tile.place[-1] for tile in chosen[:3]) == {"a": 1, "b": 1, "c": 1}
    assert Counter(tile.place[-1] for tile in chosen) == {"a": 1, "b": 2, "c": 2}
    assert choose_cases(tiles[::-1], 5, seed=3) == chosen
    assert choose_cases(tiles, 3, seed=3) == chosen[:3]
    assert sorted(t.key for t in choose_cases(tiles, 99, seed=0)) == sorted(t.key for t in tiles)
    assert len({choose_cases(tiles, 3, seed=seed)[0].key for seed in range(20)}) > 2
    assert choose_cases([], 4, seed=0) == []


def test_tiles_without_a_place_are_cases_of_their_own():
    tiles = [replace(scored("a", month), place=None) for month in (1, 2, 3)]
    assert len(choose_cases(tiles, 3, seed=0)) == 3


def test_shuffled_climate_is_that_of_another_place_and_nothing_else_is():
    tiles = [
        scored(
            name, month, lat=10.0 * index, temperature=[index + 0.1 * m for m in range(12)],
            precipitation=[1.0 + index] * 12, climate_source=name,
        )
        for index, name in enumerate("abcde") for month in (1, 7)
    ]  # fmt: skip
    donors = []
    for own, other in zip(tiles, shuffle_climate(tiles, seed=1), strict=True):
        donor = next(t for t in tiles if t.climate == other.climate and t.month == own.month)
        donors.append(donor.place)
        assert donor.place != own.place
        assert (other.history, other.normals) == (donor.history, donor.normals)
        same = ("climate", "history", "normals", "record", "climate_kind")
        assert replace(own, **{name: getattr(other, name) for name in same}) == other
        changed = {k for k, v in other.record if v != getattr(own.record, k)}
        assert changed == {
            *(f"temperature_c{suffix}" for suffix in ("", "_history", "_normals")),
            *(f"precipitation_mm_day{suffix}" for suffix in ("", "_history", "_normals")),
            "climate_source",
        }
        assert other.record.climate_source == donor.record.climate_source
    assert donors[::2] == donors[1::2]
    assert len(set(donors)) == 5


def test_shuffled_climate_comes_from_another_block_where_there_is_one():
    spots = [(5.0, 5.0)] * 3 + [(45.0, 5.0)] * 2 + [(-35.0, 25.0)] * 2
    tiles = [
        scored(str(index), 1, lat=lat + index / 10, lon=lon, temperature=[float(index)] * 12)
        for index, (lat, lon) in enumerate(spots)
    ]
    for seed in range(20):
        for own, other in zip(tiles, shuffle_climate(tiles, seed=seed), strict=True):
            assert tiles[int(other.climate["temperature_c"])].block != own.block


def test_a_donor_gives_the_same_month_or_else_the_nearest_of_the_year():
    warm = [float(month) for month in range(1, 13)]
    own = [scored("a", 1, year=2005), scored("a", 12, year=2005)]
    donor = [
        scored("b", 1, year=2004, temperature=warm, state="far"),
        scored("b", 1, year=2005, temperature=[x + 0.5 for x in warm]),
        scored("b", 10, year=2005, temperature=warm),
    ]
    found = shuffle_climate([*own, *donor], seed=0)
    # December: January is one month away, October two
    assert [tile.climate["temperature_c"] for tile in found[:2]] == [1.5, 1.5]
    winter = [scored("b", 12, year=2001, temperature=warm), scored("b", 3, temperature=warm)]
    found = shuffle_climate([own[0], *winter], seed=0)
    # January: December is one month away, whatever the year; March two
    assert found[0].climate["temperature_c"] == 12


def test_climate_cannot_be_shuffled_within_one_place_or_without_months():
    with pytest.raises(RequestError, match="12 tiles of 1 places"):
        shuffle_climate(make_place(), seed=0)
    bare = replace(scored("c"), month=None)
    with pytest.raises(RequestError, match="3 tiles of 2 places"):
        shuffle_climate([scored("a"), scored("b"), bare], seed=0)


def test_the_digest_of_places_depends_on_them_and_not_on_order_or_months():
    a, b = ([make_tile(name, month) for month in (1, 2)] for name in "ab")
    assert places_digest([*a, *b]) == places_digest([b[1], a[0]])
    assert places_digest(a) != places_digest(b)
