"""Distances to training climates: values by hand, order, files, and what is said of them."""

import json
import math

import numpy as np
import pytest

from ecomap import support_build
from ecomap.climate import apply_changes, parse_change
from ecomap.errors import BundleError, DataError
from ecomap.schema import CLIMATE, LandCover
from ecomap.support import ANOMALIES, Support, note_of
from ecomap.support_build import build_support, spread_of
from ecomap.support_table import (
    CARD_FILE,
    FEATURES,
    LEVELS,
    TENSORS_FILE,
    kilometres,
    read_points,
    read_support,
    sun_height_deg,
    write_support,
)
from tests.fakes import make_tile

T, P, S = CLIMATE


def climate_of(lat, *, warmer=0.0):
    """Twelve values of temperature and precipitation: colder and drier towards the poles.

    Drier in the south too, so that no place has the climate of another.
    """
    season = -np.cos(2 * np.pi * np.arange(12) / 12) * (1 if lat >= 0 else -1)
    warm = 27 - 0.45 * abs(lat) + 0.25 * abs(lat) * season + warmer
    wet = 5 - 0.05 * abs(lat) + season - (lat < 0)
    return tuple(warm.tolist()), tuple(wet.tolist())


def tile(lat, lon, month=7, *, warmer=0.0, **changes):
    """A month of a place under its normal climate."""
    warm, wet = climate_of(lat, warmer=warmer)
    before = np.roll(np.arange(12), 1 - month)
    fields = {
        "location_id": f"{lat},{lon}", "lat": lat, "lon": lon, "month": f"2004-{month:02d}",
        "climate_kind": "normal", T: warm[month - 1], P: wet[month - 1], f"{T}_normals": warm,
        f"{P}_normals": wet, f"{T}_history": tuple(warm[m] for m in before),
        f"{P}_history": tuple(wet[m] for m in before),
    }  # fmt: skip
    return make_tile(**fields | changes)


def world(lons, *, cover=LandCover.GRASSLANDS, months=(1, 4, 7, 10)):
    """Places on every tenth degree of latitude."""
    return [
        tile(lat, lon, month, land_cover=cover, warmer=0.1 * lon)
        for lat in range(-55, 60, 10)
        for lon in lons
        for month in months
    ]


@pytest.fixture(scope="module")
def support():
    return Support(build_support(world(range(0, 60, 10)), world([25, 35])))


def test_a_training_record_lies_at_nearly_no_distance(support):
    for record in world([20])[::5]:
        found = support.distance(record)
        assert found.distance < 0.02
        assert found.percentile < 5
        assert not found.is_outside
        assert (found.nearest.lat, found.nearest.lon) == (record.lat, record.lon)
        assert found.nearest.month == record.month_index + 1


def test_most_held_out_records_lie_inside(support):
    held_out = [support.distance(record) for record in world([25, 35])]
    assert np.mean([found.is_outside for found in held_out]) <= 0.02
    assert 5 < np.median([found.percentile for found in held_out]) < 99


def changed(record, **asked):
    changes = {name: parse_change(text, CLIMATE[name]) for name, text in asked.items()}
    return apply_changes(record, changes)


@pytest.mark.parametrize("lat", [5, -5])
def test_warmth_beyond_the_warmest_places_is_farther_the_more_it_is(support, lat):
    record = tile(lat, 50, warmer=5)
    found = [support.distance(changed(record, **{T: f"+{d}"})) for d in (0, 2, 5, 10, 20)]
    distances = [one.distance for one in found]
    assert distances == sorted(distances)
    assert len(set(distances)) == 5
    percentiles = [one.percentile for one in found]
    assert percentiles == sorted(percentiles)
    assert not found[0].is_outside
    assert found[-1].is_outside
    assert found[-1].percentile == 100
    assert found[-1].worst.name in (T, f"{T}_annual")


def test_what_was_seen_elsewhere_is_not_far(support):
    """Four degrees take one place to a climate that its neighbours have, the other beyond all."""
    cool, warm = tile(35, 0), tile(35, 50, warmer=5)
    assert support.distance(changed(cool, **{T: "+4"})).percentile < 5
    assert support.distance(changed(warm, **{T: "+4"})).percentile > 90


def test_the_worst_feature_is_told_in_its_unit(support):
    record = tile(5, 20)
    wet = record.precipitation_mm_day
    found = support.distance(record.model_copy(update={P: 40.0}))
    assert found.worst.name == P
    assert found.worst.unit == "mm/day"
    assert found.worst.asked == pytest.approx(40, abs=0.01)
    assert found.worst.nearest == pytest.approx(wet, abs=2)
    assert found.worst.spreads > 0
    assert "precipitation is 3" in found.worst.text
    assert found.worst.text.endswith("mm/day above that")


def test_a_summer_in_winter_is_far_though_its_temperature_is_common(support):
    summer, winter = tile(55, 20, 7), tile(55, 20, 1)
    found = support.distance(winter.model_copy(update={T: summer.temperature_c}))
    assert support.distance(winter).distance < 0.1
    assert found.distance > 10 * max(support.distance(summer).distance, 0.01)
    assert found.percentile > 50


def test_an_unknown_land_cover_is_compared_with_all_classes():
    forest = world([0, 10], cover=LandCover.MIXED_FORESTS)
    grass = [tile(lat, lon, warmer=15) for lat in range(-55, 60, 10) for lon in range(0, 60, 10)]
    both = Support(build_support([*forest, *grass]))
    record = grass[7]
    assert both.distance(record).land_cover == "Grasslands"
    unknown = both.distance(record.model_copy(update={"land_cover": None}))
    assert unknown.land_cover is None
    assert unknown.is_known_land_cover
    assert unknown.distance < 0.05
    as_forest = both.distance(record.model_copy(update={"land_cover": LandCover.MIXED_FORESTS}))
    assert as_forest.distance > 10 * unknown.distance


def test_a_class_that_was_never_trained_on_is_outside(support):
    record = world([20])[0].model_copy(update={"land_cover": LandCover.URBAN_AND_BUILT_UP})
    found = support.distance(record)
    assert found.is_outside
    assert not found.is_known_land_cover
    assert found.distance < 0.02
    assert "never trained on" in note_of([found])


def test_what_the_training_did_not_know_is_left_out_and_named(support):
    record = tile(5, 20, solar_radiation_mj_m2_day=20.0, climate_kind="observed")
    found = support.distance(record)
    assert found.left_out == (S, ANOMALIES)
    assert found.distance == support.distance(tile(5, 20)).distance
    assert "solar_radiation_mj_m2_day" in note_of([found])
    observed = [r.model_copy(update={"climate_kind": "observed"}) for r in world([0, 10, 20])]
    assert Support(build_support(observed)).distance(record).left_out == (S,)


def test_what_a_record_does_not_know_is_named_and_the_rest_counts(support):
    bare = dict.fromkeys([P, f"{P}_normals", f"{P}_history"])
    found = support.distance(changed(tile(5, 20), **{T: "+8"}).model_copy(update=bare))
    assert found.missing == (P, f"{P}_annual")
    whole = support.distance(changed(tile(5, 20), **{T: "+8"}))
    assert found.distance == pytest.approx(whole.distance * math.sqrt(6 / 4), rel=0.2)
    nothing = bare | dict.fromkeys([T, f"{T}_normals", f"{T}_history"])
    assert support.distance(tile(5, 20).model_copy(update=nothing)) is None


def test_annual_means_are_of_the_twelve_months_up_to_the_own():
    record = tile(
        5,
        20,
        month=3,
        **{f"{T}_history": (99.0 - 60, *range(11)), T: 12.0},
        climate_kind="observed",
    )
    values = read_points([record], [T, f"{T}_annual", f"{P}_annual"]).climate[0]
    assert values[0] == 12
    assert values[1] == pytest.approx((sum(range(11)) + 12) / 12)
    assert values[2] == pytest.approx(np.log1p(np.mean(climate_of(5)[1])))


def test_normals_stand_in_for_months_that_are_not_known():
    record = tile(5, 20, month=3, **{f"{T}_history": None, T: None})
    warm = climate_of(5)[0]
    values = read_points([record], [T, f"{T}_annual"]).climate[0]
    np.testing.assert_allclose(values, [warm[2], np.mean(warm)])


def test_distances_of_two_places_are_those_by_hand():
    """Each is the other's nearest, so every percentile is the distance between them."""
    pair = [tile(5, 0), tile(45, 60, warmer=4)]
    table = build_support(pair)
    values = read_points(pair, table.card.climate_features).coordinates
    floors = [FEATURES[name].floor for name in table.features]
    spread = np.maximum(np.abs(values[0] - values[1]) * 0.9 / 3.2897, floors)
    np.testing.assert_allclose(table.spreads[0], spread, rtol=1e-4)
    distance = np.linalg.norm((values[0] - values[1]) / spread)
    np.testing.assert_allclose(table.curves, distance, rtol=1e-3)
    assert table.curves.shape == (18, len(LEVELS))


def test_a_spread_is_that_of_a_normal_distribution_and_has_a_floor():
    values = np.random.default_rng(0).normal(3, 2, (20_000, 1))
    values = np.column_stack([values, np.full(len(values), 5.0)])
    np.testing.assert_allclose(spread_of(values, np.array([0.1, 0.25])), [2, 0.25], rtol=0.03)


def test_neighbours_nearer_than_held_out_places_are_left_out_when_training_is_measured():
    pairs = [tile(lat, lon, warmer=lat * lon % 7) for lat in (5, 25, 45) for lon in (0, 40)]
    twins = [tile(r.lat, r.lon + 1, warmer=r.lat * r.lon % 7) for r in pairs]
    near = build_support([*pairs, *twins])
    assert near.card.neighbours_km == 0
    far = build_support([*pairs, *twins], [tile(15, 0)])
    assert far.card.neighbours_km == pytest.approx(1111.95, abs=0.1)
    middle = len(LEVELS) // 2
    assert far.curves[0, middle] > 3 * near.curves[0, middle]


def test_classes_of_many_places_have_their_own_spreads():
    narrow = [
        tile(lat / 10, lon, land_cover=LandCover.SAVANNAS)
        for lat in range(5)
        for lon in range(0, 60, 4)
    ]
    table = build_support([*narrow, *world([0, 20])])
    assert table.card.own_scale == ("Savannas",)
    annual = table.features.index(f"{T}_annual")
    assert table.spreads[LandCover.SAVANNAS][annual] == FEATURES[f"{T}_annual"].floor
    assert table.spreads[0][annual] > 3
    np.testing.assert_array_equal(table.spreads[LandCover.GRASSLANDS], table.spreads[0])
    assert table.card.num_distances["Savannas"] == 75


def test_equal_and_incomplete_records_are_counted():
    records = world([0, 10, 20])
    twice = [r.model_copy(update={"month": f"2005{r.month[4:]}"}) for r in records[:5]]
    bare = dict.fromkeys([P, f"{P}_history", f"{P}_normals"])
    dry = [r.model_copy(update=bare) for r in records[-3:]]
    card = build_support([*records[:-3], *twice, *dry]).card
    assert card.num_records == len(records) + 5
    assert card.num_rows == len(records) - 3
    assert card.dropped == {"equal to another": 5, "climate not known in full": 3}


def test_rows_are_merged_until_they_fit(monkeypatch):
    training = world(range(0, 60, 5))
    full = Support(build_support(training))
    monkeypatch.setattr(support_build, "MAX_BYTES", 14 * 150)
    table = build_support(training)
    assert 50 < len(table.points) <= 150
    assert table.card.dropped == {"merged with one nearby": len(training) - len(table.points)}
    assert table.card.merged_within > 0
    reach = table.card.merged_within * math.sqrt(len(table.features))
    thinned = Support(table)
    for record in training[::7]:
        assert full.distance(record).distance < 0.02
        assert thinned.distance(record).distance <= reach


def test_of_many_places_as_many_as_allowed_are_measured(monkeypatch):
    training = world(range(0, 60, 10))
    monkeypatch.setattr(support_build, "MAX_REAL_PLACES", 10)
    tables = [build_support(training) for _ in range(2)]
    assert tables[0].card.num_distances["any"] == 40
    np.testing.assert_array_equal(tables[0].curves, tables[1].curves)


def test_a_table_without_climate_or_without_a_second_place_is_refused():
    fields = [*(f"{n}{s}" for n in (T, P) for s in ("", "_history", "_normals"))]
    bare = [record.model_copy(update=dict.fromkeys(fields)) for record in world([0])]
    with pytest.raises(DataError, match="None of 48 training records knows a climate"):
        build_support(bare)
    with pytest.raises(DataError, match="None of 0 training records"):
        build_support([])
    dry, cold = dict.fromkeys(fields[:3]), dict.fromkeys(fields[3:])
    halves = [tile(5, 0).model_copy(update=dry), tile(15, 0).model_copy(update=cold)]
    with pytest.raises(DataError, match="knows all of"):
        build_support(halves)
    with pytest.raises(DataError, match="none has another away from it"):
        build_support([tile(5, 0, month) for month in range(1, 13)])


def test_what_was_written_is_read_and_answers_alike(support, tmp_path):
    write_support(tmp_path / "bundle", support.table)
    opened = Support.open(tmp_path / "bundle")
    for record in [*world([20])[::9], *world([35])[::9], tile(5, 20, land_cover=None)]:
        assert opened.distance(record) == support.distance(record)
    names = {path.name for path in (tmp_path / "bundle").iterdir()}
    assert names == {CARD_FILE, TENSORS_FILE}
    write_support(tmp_path / "again", build_support(world(range(0, 60, 10)), world([25, 35])))
    for name in names:
        assert (tmp_path / "again" / name).read_bytes() == (tmp_path / "bundle" / name).read_bytes()


def test_a_folder_without_a_table_has_none(tmp_path):
    assert read_support(tmp_path) is None
    assert Support.open(tmp_path) is None


def test_damaged_files_are_named(support, tmp_path):
    write_support(tmp_path, support.table)
    tensors, card = tmp_path / TENSORS_FILE, tmp_path / CARD_FILE
    whole = tensors.read_bytes()
    tensors.write_bytes(whole[:-1] + b"x")
    with pytest.raises(BundleError, match=r"is not the table that support\.json"):
        read_support(tmp_path)
    tensors.unlink()
    with pytest.raises(BundleError, match="no readable table"):
        read_support(tmp_path)
    tensors.write_bytes(whole)
    content = json.loads(card.read_text())
    card.write_text(json.dumps(content | {"num_rowz": 1}))
    with pytest.raises(BundleError, match="num_rowz"):
        read_support(tmp_path)
    card.write_text(json.dumps(content | {"climate_features": ["wind"]}))
    with pytest.raises(BundleError, match="no readable table"):
        read_support(tmp_path)


def test_results_survive_json(support):
    found = support.distance(tile(5, 20)).to_dict()
    assert json.loads(json.dumps(found, allow_nan=False)) == found


def test_of_several_records_of_a_month_the_farthest_counts(support):
    near, far = tile(5, 20), changed(tile(5, 20), **{T: "+20"})
    unknown = make_tile(lat=5, lon=20, **dict.fromkeys((T, P)))
    assert support.distance(unknown) is None
    assert support.farthest([near, far, unknown]) == support.distance(far)
    assert support.farthest([unknown]) is None


def test_the_note_names_the_first_and_the_farthest_month_outside(support):
    inside = [support.distance(tile(5, 20, month, warmer=2)) for month in (4, 7)]
    text = note_of(inside)
    assert text.startswith("All 2 months lie within")
    assert "% of the months of real places, each compared with places away from it." in text
    hot = [support.distance(changed(tile(5, 20, m), **{T: f"+{d}"})) for m, d in ((7, 20), (8, 25))]
    text = note_of([*inside, *hot, None])
    assert "2 of 4 months lie outside" in text
    assert "first 2004-07" in text
    assert "farthest is 2004-08: its temperature" in text
    assert "Of 1 month no climate is known." in text
    assert note_of([*inside, hot[0]]).startswith("1 of 3 months lies outside")
    assert note_of(inside[:1]).startswith("The month, 2004-04, lies within the climates of the")
    assert "training. It is farther from them than" in note_of(inside[:1])
    assert note_of(hot[:1]).startswith("The month, 2004-07, lies outside the climates of the")
    assert "training. Its temperature" in note_of(hot[:1])
    assert "not known" in note_of([None, None])


def test_the_note_says_of_how_many_months_part_was_compared(support):
    bare = dict.fromkeys([P, f"{P}_normals", f"{P}_history"])
    whole, part = (tile(5, 20, 4, warmer=2, **fields) for fields in ({}, bare))
    found = [support.distance(record) for record in (whole, part)]
    only = "only part of {} climate is known and was compared."
    within = "within the climates of the training; "
    assert f"All 2 months lie {within}of 1 month {only.format('the')}" in note_of(found)
    assert f"of 2 months {only.format('the')}" in note_of([*found, found[1]])
    assert f"The month, 2004-04, lies {within}{only.format('its')}" in note_of(found[1:])


def test_the_sun_stands_as_it_should_and_alike_on_both_hemispheres():
    lats, months = np.array([0.0, 66.56, 66.56, -30.0]), np.array([3, 12, 6, 1])
    heights = sun_height_deg(lats, months)
    assert heights == pytest.approx([87, 0, 46.7, 81], abs=1.5)
    north, south = sun_height_deg(np.array([50.0, -50.0]), np.array([1, 7]))
    assert north == pytest.approx(south, abs=1)


def test_kilometres_go_around_the_antimeridian():
    position = np.array([[0.0, 179.5], [1.0, -179.5], [90.0, 0.0]])
    found = kilometres(position, np.array([0.0, -179.5]))
    assert found == pytest.approx([111.195, 111.195, 90 * 111.195], rel=1e-6)
