"""Choice of places: strata by hand, draws that stay, quotas, sides, and what is refused."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import rasterio
from hypothesis import given
from hypothesis import strategies as st
from rasterio.transform import Affine

from data_prep import sampling
from data_prep.grid import place_at
from data_prep.place_splits import overlap_notes, split_places
from data_prep.prep_config import PrepConfig, RegionConfig
from data_prep.sampling import choose_places, draw, share_out
from data_prep.strata import read_strata
from ecomap.errors import DataError, RequestError, SchemaError
from ecomap.schema import LandCover

# odc-geo 0.5.3 calls a function that shapely 2.2 has deprecated, to make a tile's footprint.
pytestmark = pytest.mark.filterwarnings("ignore:The 'shapely.ops.transform:DeprecationWarning")

ALPS = (10.0, 45.0, 12.0, 46.0)


def config(**changes) -> PrepConfig:
    defaults = {"region": {"bbox": ALPS}, "first_month": "2021-01", "last_month": "2021-02"}
    return PrepConfig(output=Path("unused"), **defaults | changes)


def choose(**changes):
    return choose_places(config(**changes))


def ids(places):
    return [place.location_id for place in places]


def codes_file(
    path: Path, codes, *, west=10.0, north=46.0, cell=0.5, crs="EPSG:4326", nodata=255
) -> Path:
    codes = np.asarray(codes)
    with rasterio.open(
        path, "w", driver="GTiff", width=codes.shape[1], height=codes.shape[0], count=1,
        dtype=codes.dtype, crs=crs, transform=Affine(cell, 0, west, 0, -cell, north), nodata=nodata,
    ) as raster:  # fmt: skip
        raster.write(codes, 1)
    return path


# Rows from north: croplands and forest; savannas, water, fill. Two degrees by one.
CODES = np.array([[12, 12, 5, 5], [9, 17, 255, 12]], np.uint8)


@pytest.fixture
def codes(tmp_path):
    return codes_file(tmp_path / "codes.tif", CODES)


def everywhere(codes, **changes):
    return {"mode": "all", "land_cover_path": codes, **changes}


def test_all_cells_with_land_become_places(codes):
    places, dropped, _ = choose(sampling=everywhere(codes))
    assert ids(places) == sorted(set(ids(places)))
    for place in places:
        column, row = int((place.lon - 10) // 0.5), int((46 - place.lat) // 0.5)
        inside = min((place.lon - 10) % 0.5, (46 - place.lat) % 0.5) > 0.05
        if inside and (place.lon - 10) % 0.5 < 0.45 and (46 - place.lat) % 0.5 < 0.45:
            assert place.stratum == LandCover(CODES[row, column]).label
    assert set(dropped) == {"water", "little_land", "no_land_cover"}
    total, _, _ = choose(sampling={"mode": "all", "min_land_frac": 0.0})
    assert len(places) + sum(dropped.values()) == len(total)
    # An eighth of the region is water and an eighth fill; tiles reach over their edges.
    assert dropped["water"] + dropped["little_land"] == pytest.approx(len(total) / 8, rel=0.35)
    assert dropped["no_land_cover"] == pytest.approx(len(total) / 8, rel=0.35)


def tile(lat, lon, name="a"):
    return place_at(name, lat, lon, size_px=512, resolution_m=10)


def strata(path, *places):
    return list(read_strata(places, path))


def test_the_class_is_the_majority_of_the_land(tmp_path):
    # At the equator a tile is 0.046 degrees wide; cells of 0.01 degrees, centre on a corner.
    codes = np.full((10, 10), 17, np.uint8)
    codes[:, 6:8] = 12
    codes[:4, 6] = 9
    path = codes_file(tmp_path / "a.tif", codes, west=38.95, north=0.05, cell=0.01)
    [found] = strata(path, tile(0, 39))
    half = 2.56 / 111.32  # degrees of longitude
    land = (half - 0.01) / (2 * half)  # columns 6 and what is in reach of 7, from 39.01 eastwards
    assert found.land_cover is LandCover.CROPLANDS
    assert found.land_frac == pytest.approx(land, rel=0.01)


def test_zero_is_water_and_unknown_codes_do_not_count(tmp_path):
    codes = np.array([[0, 254], [255, 10]], np.uint8)
    path = codes_file(tmp_path / "a.tif", codes, west=38.5, north=0.5, cell=0.5, nodata=None)
    water, unclassified, fill, grass, mixed = strata(
        path, tile(0.25, 38.75), tile(0.25, 39.25), tile(-0.25, 38.75), tile(-0.25, 39.25),
        tile(0, 39),
    )  # fmt: skip
    assert (water.land_cover, water.land_frac) == (LandCover.WATER_BODIES, 0)
    assert unclassified.land_cover is None
    assert fill.land_cover is None
    assert (grass.land_cover, grass.land_frac) == (LandCover.GRASSLANDS, 1)
    assert mixed.land_cover is LandCover.GRASSLANDS
    assert mixed.land_frac == pytest.approx(0.5, abs=0.01)  # of what is known


def test_outside_the_file_nothing_is_known(codes):
    [found] = strata(codes, tile(-30, 20))
    assert found.land_cover is None


@pytest.mark.parametrize("crs", ["EPSG:3857", "EPSG:32637", "+proj=sinu +R=6371007.181"])
def test_files_of_any_crs_give_the_class_under_the_tile(tmp_path, crs):
    from pyproj import Transformer

    x, y = Transformer.from_crs("EPSG:4326", crs, always_xy=True).transform(36.8, -1.3)
    codes = np.array([[1, 2, 3], [4, 13, 6], [7, 8, 9]], np.uint8)
    path = codes_file(
        tmp_path / "a.tif", codes, west=x - 15_000, north=y + 15_000, cell=10_000, crs=crs
    )
    [middle, east] = strata(path, tile(-1.3, 36.8), tile(-1.3, 36.8 + 10_000 / 111_320))
    assert (middle.land_cover, middle.land_frac) == (LandCover.URBAN_AND_BUILT_UP, 1)
    assert east.land_cover is LandCover.CLOSED_SHRUBLANDS


def test_a_tile_over_the_antimeridian_is_read_on_both_sides(tmp_path):
    codes = np.full((1, 72), 17, np.uint8)
    codes[0, 0], codes[0, -1] = 10, 12  # 5 degrees on each side; rows cover the Earth's girdle
    path = codes_file(tmp_path / "a.tif", codes, west=-180, north=2.5, cell=5)
    found = strata(path, tile(0, 179.99), tile(0, -179.99))
    assert [one.land_cover for one in found] == [LandCover.CROPLANDS, LandCover.GRASSLANDS]
    assert [one.land_frac for one in found] == [pytest.approx(1), pytest.approx(1)]


def test_the_order_of_places_of_several_zones_is_kept(tmp_path):
    codes = np.arange(1, 17, dtype=np.uint8)[None]
    path = codes_file(tmp_path / "a.tif", codes, west=0, north=3, cell=6)
    lons = [3 + 6 * number for number in (5, 2, 9, 0, 5, 2)]
    found = strata(path, *(tile(0, lon) for lon in lons))
    assert [one.land_cover for one in found] == [6, 3, 10, 1, 6, 3]


def test_many_tiles_are_read_in_batches(codes, monkeypatch):
    whole, _, _ = choose(sampling=everywhere(codes))
    monkeypatch.setattr("data_prep.strata.BATCH_SIZE", 7)
    parts, _, _ = choose(sampling=everywhere(codes))
    assert parts == whole


def test_files_that_are_not_igbp_codes_are_refused(tmp_path):
    worldcover = codes_file(tmp_path / "a.tif", np.array([[10, 50]], np.uint8))
    with pytest.raises(DataError, match=r"code 50.*WorldCover"):
        strata(worldcover, tile(45.75, 10.5), tile(45.75, 10.75))
    floats = codes_file(tmp_path / "b.tif", np.array([[1.5]], np.float32))
    with pytest.raises(DataError, match="bands of float32"):
        strata(floats, tile(45.75, 10.25))
    no_crs = codes_file(tmp_path / "c.tif", CODES, crs=None)
    with pytest.raises(DataError, match="has no CRS"):
        strata(no_crs, tile(45.75, 10.25))
    (tmp_path / "d.tif").write_text("nonsense")
    with pytest.raises(DataError, match="cannot be read"):
        strata(tmp_path / "d.tif", tile(45.75, 10.25))


def test_the_table_that_ships_knows_the_sahara_and_the_ocean():
    sahara, atlantic = strata(None, tile(25, 5), tile(30, -45))
    assert (sahara.land_cover, sahara.land_frac) == (LandCover.BARREN, 1)
    assert (atlantic.land_cover, atlantic.land_frac) == (LandCover.WATER_BODIES, 0)


@pytest.mark.shared
def test_the_table_that_ships_agrees_with_the_finer_map(shared_data):
    fine = {"land_cover_path": shared_data / "landcover" / "igbp_mcd12c1_2019_0p05.tif"}
    region = {"bbox": (34.0, -2.0, 37.0, 1.0)}  # lakes, fields and savannas of Kenya
    by_file, _, _ = choose(region=region, sampling={"mode": "all", **fine})
    by_table, _, _ = choose(region=region, sampling={"mode": "all"})
    table = {place.location_id: place.stratum for place in by_table}
    same = [table[p.location_id] == p.stratum for p in by_file if p.location_id in table]
    assert np.mean(same) > 0.5


def test_uniform_draws_the_number_asked_from_all(codes):
    everything, _, _ = choose(sampling=everywhere(codes))
    places, dropped, _ = choose(sampling=everywhere(codes, mode="uniform", num_places=20))
    assert len(places) == 20
    assert set(ids(places)) < set(ids(everything))
    assert dropped["not_drawn"] == len(everything) - 20


def test_proportional_draws_the_shares_of_the_classes(codes):
    everything, _, _ = choose(sampling=everywhere(codes))
    places, _, _ = choose(sampling=everywhere(codes, mode="proportional", num_places=40))
    counts = Counter(place.stratum for place in everything)
    found = Counter(place.stratum for place in places)
    assert sum(found.values()) == 40
    for stratum, count in counts.items():
        assert abs(found[stratum] - 40 * count / len(everything)) < 1


def test_quotas_are_met_by_class_and_others_get_none(codes):
    quotas = {"croplands": 7, "9": 3}
    places, _, notes = choose(sampling=everywhere(codes, mode="quota", quotas=quotas))
    assert Counter(place.stratum for place in places) == {"Croplands": 7, "Savannas": 3}
    assert not any("Quota" in note for note in notes)


def test_a_quota_that_cannot_be_met_is_noted(codes):
    quotas = {"croplands": 5, "savannas": 5000, "urban and built-up": 4}
    places, _, notes = choose(sampling=everywhere(codes, mode="quota", quotas=quotas))
    savannas = sum(place.stratum == "Savannas" for place in places)
    assert f"Quota not met: Savannas: 5000 places wanted, {savannas} found." in notes
    assert "Quota not met: Urban and Built-Up: 4 places wanted, 0 found." in notes
    assert len(places) == 5 + savannas


def test_the_same_settings_give_the_same_places_and_another_seed_others(codes):
    sampling = everywhere(codes, mode="proportional", num_places=20)
    one, two = choose(sampling=sampling), choose(sampling=sampling)
    assert one == two
    other, _, _ = choose(sampling=sampling, seed=1)
    assert ids(other) != ids(one[0])


def test_places_drawn_stay_when_the_number_grows(codes):
    few, _, _ = choose(sampling=everywhere(codes, mode="uniform", num_places=10))
    many, _, _ = choose(sampling=everywhere(codes, mode="uniform", num_places=30))
    assert set(ids(few)) < set(ids(many))


def test_cells_added_elsewhere_do_not_reorder_the_rest():
    here = [tile(45, 10 + number / 10, f"here-{number}") for number in range(40)]
    there = [tile(50, 10 + number / 10, f"there-{number}") for number in range(40)]
    alone = draw(here, {"": 40}, seed=3)
    together = [p for p in draw([*there, *here], {"": 80}, seed=3) if p in here]
    assert together == alone
    assert ids(alone) != ids(here)
    assert draw(here[::-1], {"": 5}, seed=3) == alone[:5]
    assert draw(here, {"": 5}, seed=4) != alone[:5]


def test_shares_by_largest_remainder_by_hand():
    # 10 x 47/100 = 4.7, 1.6, 1.58, 1.2, 0.92: floors 4+1+1+1+0 = 7; the rest to .92, .7, .6.
    counts = {"a": 470, "b": 160, "c": 158, "d": 120, "e": 92}
    assert share_out(10, counts) == {"a": 5, "b": 2, "c": 1, "d": 1, "e": 1}
    assert share_out(5000, counts) == counts


@given(
    st.dictionaries(st.text(max_size=3), st.integers(1, 1000), min_size=1, max_size=17),
    st.integers(1, 5000),
)
def test_shares_add_up_and_none_exceeds_what_there_is(counts, total):
    shares = share_out(total, counts)
    available = sum(counts.values())
    assert sum(shares.values()) == min(total, available)
    for name, count in counts.items():
        assert 0 <= shares[name] <= count
        assert abs(shares[name] - min(1, total / available) * count) < 1


def test_too_few_cells_and_too_rare_classes_are_noted(codes):
    _, _, notes = choose(sampling=everywhere(codes, mode="uniform", num_places=100_000))
    assert any(note.startswith("100000 places wanted, ") for note in notes)
    _, _, notes = choose(sampling=everywhere(codes, mode="proportional", num_places=2))
    assert any("Too rare for a place among 2: Savannas" in note for note in notes)


@pytest.mark.parametrize(
    ("changes", "error", "parts"),
    [
        ({"mode": "quota", "quotas": {"cropands": 3}}, SchemaError, ("'Croplands'",)),
        ({"mode": "quota"}, RequestError, ("quotas is empty",)),
        ({"mode": "quota", "quotas": {"12": 0}}, RequestError, ("'Croplands' is 0",)),
        (
            {"mode": "quota", "quotas": {"12": 1, "croplands": 2}},
            RequestError,
            ("'Croplands' is given twice",),
        ),
        ({"quotas": {"12": 1}}, RequestError, ("mode is proportional",)),
        (
            {"mode": "quota", "quotas": {"permanent snow and ice": 2}},
            RequestError,
            ("none of the classes", "Croplands (", "Savannas ("),
        ),
    ],
)
def test_impossible_samplings_are_refused(codes, changes, error, parts):
    with pytest.raises(error) as caught:
        choose(sampling={"land_cover_path": codes, **changes})
    for part in parts:
        assert part in str(caught.value)


def test_a_region_in_the_ocean_is_refused_with_counts():
    with pytest.raises(RequestError) as caught:
        choose(region={"bbox": (-150, 0, -149, 1)})
    sampling = {"mode": "all", "min_land_frac": 0.0}
    places, _, _ = choose(region={"bbox": (-150, 0, -149, 1)}, sampling=sampling)
    assert {place.stratum for place in places} == {"Water Bodies"}
    for part in (f"({len(places)} water;", "ocean", "swapped", "min_land_frac"):
        assert part in str(caught.value)


def test_cells_beyond_utm_are_counted():
    places, dropped, notes = choose(
        region={"bbox": (30, -81, 31, -79)}, sampling={"mode": "all"}, grid={"spacing_km": 20}
    )
    assert dropped["outside_utm"] > 0
    assert all(place.lat >= -80 for place in places)
    assert any("UTM" in note for note in notes)
    with pytest.raises(RequestError, match="outside_utm: Nearer to a pole"):
        choose(region={"bbox": (0, -90, 10, -85)})


def points(tmp_path, *rows):
    path = tmp_path / "points.csv"
    path.write_text("\n".join(["id,lat,lon", *rows]))
    return {"points": path}


def test_points_all_become_places_with_their_class(tmp_path, codes):
    region = points(tmp_path, "sea,30,-45", "field,45.75,10.25", "forest,45.75,11.5")
    places, dropped, notes = choose(region=region, sampling=everywhere(codes, mode="uniform"))
    assert [(p.location_id, p.stratum) for p in places] == [
        ("field", "Croplands"),
        ("forest", "Mixed Forests"),
        ("sea", ""),
    ]
    assert not dropped
    assert not any("wanted" in note for note in notes)


def test_points_beyond_utm_are_counted(tmp_path):
    places, dropped, notes = choose(region=points(tmp_path, "pole,89,0", "field,45.75,10.25"))
    assert ids(places) == ["field"]
    assert dropped == {"outside_utm": 1}
    assert any(note.startswith("1 points were left out") for note in notes)


def test_sides_follow_blocks_and_gaps_are_told():
    split = {"block_deg": 0.5, "test_frac": 0.3, "val_frac": 0.2}
    places, _, notes = choose(sampling={"mode": "all"}, split=split, seed=2)
    sides = Counter(place.split for place in places)
    assert set(sides) == {"train", "val", "test", "buffer"}
    assert any(note.startswith("Test tiles are ") for note in notes)
    assert any(note.startswith("Validation tiles are ") for note in notes)
    assert any(note.startswith(f"{sides['buffer']} places are set aside") for note in notes)
    blocks = {}
    for place in places:
        if place.split != "buffer":
            key = (place.lat // 0.5, place.lon // 0.5)
            blocks.setdefault(key, set()).add(place.split)
    assert all(len(found) == 1 for found in blocks.values())


def test_the_seed_moves_the_sides():
    split = {"block_deg": 0.5, "test_frac": 0.3, "val_frac": 0.2}
    sides = [
        {place.location_id: place.split for place in choose(split=split, seed=seed)[0]}
        for seed in (0, 1)
    ]
    assert any(sides[0][name] != side for name, side in sides[1].items() if name in sides[0])


def test_a_side_without_places_is_noted():
    _, notes = split_places([tile(45.5, 10.5)], config(split={"test_frac": 0.2, "val_frac": 0.0}))
    assert any("No place fell to the side 'test'" in note for note in notes) or any(
        "No place fell to the side 'train'" in note for note in notes
    )
    assert not any("'val'" in note for note in notes)


def test_tiles_that_overlap_are_noted():
    _, _, notes = choose(grid={"spacing_km": 2}, sampling={"mode": "all"})
    [note] = [note for note in notes if "overlap" in note]
    assert "5.12 km wide" in note
    assert "as near as 1.99 km" in note
    assert not any("overlap" in note for note in choose()[2])
    apart = [tile(0, 39, "a"), tile(0, 39.05, "b"), tile(0, 50, "c"), tile(0.04, 50, "d")]
    [note] = overlap_notes(apart)  # 5.6 km and 4.4 km
    assert note.startswith("2 of 4 tiles overlap")


def test_the_coarse_table_is_told():
    assert any("cells of 0.5 degrees" in note for note in choose()[2])


def test_every_reason_is_explained(codes):
    _, dropped, _ = choose(sampling=everywhere(codes, mode="uniform", num_places=3))
    assert set(dropped) <= set(sampling.REASONS)
    assert list(dropped) == sorted(dropped)


def test_points_on_the_same_pixels_become_one_place(tmp_path: Path):
    path = tmp_path / "points.csv"
    path.write_text("id,lat,lon\na,45.5,15.0\nb,45.50001,15.00001\nc,45.6,15.0\n")
    config = PrepConfig(
        output=tmp_path,
        region=RegionConfig(points=path),
        first_month="2023-01",
        last_month="2023-01",
    )
    places, dropped, _ = choose_places(config)
    assert [place.location_id for place in places] == ["a", "c"]
    assert dropped == {"same_tile": 1}
