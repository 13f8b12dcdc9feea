"""Measures of a sequence: counted by hand on small frames, in memory that months do not fill."""

import re
import shutil

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from ecomap.errors import DataError
from ecomap.outputs import write_geotiff
from ecomap.sequence import SequenceFolder
from ecomap.sequence_measures import (
    GROUPS,
    SEASONS,
    ensemble_table,
    measure_frame,
    measure_sequence,
    members_agree,
    paired_differences,
    periods,
    write_measures,
    year_map,
)
from tests.made_sequence import SIZE_PX, landscape, make_plan, write_sequence, write_start

GREEN, GREY, SNOW, SEA = (30, 60, 30), (90, 90, 90), (240, 240, 240), (3, 6, 21)


def flat(colour: tuple[int, int, int]) -> np.ndarray:
    return np.full((SIZE_PX, SIZE_PX, 3), colour, np.uint8)


def painted(folder, paint, *, start=None, **size) -> SequenceFolder:
    """A sequence whose frames are ``paint(scenario, member, month)``."""
    sequence = write_sequence(folder, with_frames=False, **size)
    if start is not None:
        Image.fromarray(start).save(sequence.start_path)
    for scenario, member, record in sequence.frames():
        path = sequence.frame_path(scenario, member, record.month)
        write_geotiff(path, paint(scenario, member, record.month), record, {})
    return sequence


def test_a_frame_is_read_over_its_land():
    image = flat(SEA)
    image[:8] = GREEN
    image[8:16] = SNOW
    found = measure_frame(image)
    assert found.greenness == pytest.approx((0.5 + 1 / 3) / 2)
    assert found.snow_frac == 0.5
    assert found.land_frac == 0.5
    assert found.has_land
    assert not measure_frame(flat(SEA)).has_land


def test_a_row_has_its_climate_its_measures_and_what_changed_since_the_start(tmp_path):
    sequence = painted(tmp_path, lambda *_: flat(GREEN), start=flat(GREY))
    measured = measure_sequence(sequence)
    assert len(measured.frames) == 2 * 2 * 3
    row = measured.frames.query("scenario == 'plus_2c' and member == 1").iloc[1]
    assert (row["month"], row["temperature_c"], row["precipitation_mm_day"]) == ("2030-04", 11, 2)
    assert np.isnan(row["solar_radiation_mj_m2_day"])
    support = sequence.plan.support["plus_2c"][1]
    assert row["is_outside"] == support["is_outside"]
    assert row["support_percentile"] == support["percentile"]
    assert row["greenness"] == pytest.approx(0.5)
    assert row["greenness_change"] == pytest.approx(0.5 - 1 / 3)
    assert row["snow_frac_change"] == 0
    assert row["colour_change"] == pytest.approx((60 + 30 + 60) / 3)
    assert measured.start.greenness == pytest.approx(1 / 3)


def test_changes_are_read_where_the_start_shows_its_place(tmp_path):
    sequence = painted(tmp_path, lambda *_: flat(GREY), members=1, months=2, scenarios=1)
    clouded = flat(GREY)
    clouded[:8], clouded[8:16] = SNOW, 0  # a cloud and its shadow, dark as water
    valid = np.ones((SIZE_PX, SIZE_PX), bool)
    valid[:16] = False
    sequence.write_start(clouded, valid)
    measured = measure_sequence(sequence)
    assert measured.start.snow_frac == 0
    row = measured.frames.iloc[0]
    assert (row["snow_frac_change"], row["greenness_change"], row["colour_change"]) == (0, 0, 0)
    assert np.isfinite(measured.maps.greenness[0, 0, 0]).all()  # what is hidden is mapped too


def test_months_without_a_support_are_not_known(tmp_path):
    plan = make_plan(georeferenced=True, scenarios=1, members=1, months=2)
    plan = plan.model_copy(update={"support": {"normal": (None, {"is_outside": True})}})
    sequence = SequenceFolder.create(tmp_path, plan)
    write_start(sequence.start_path, plan.start)
    for scenario, member, record in sequence.frames():
        write_geotiff(sequence.frame_path(scenario, member, record.month), flat(GREY), record, {})
    frames = measure_sequence(sequence).frames
    assert frames["is_outside"].tolist() == [None, True]
    assert frames["support_percentile"].isna().all()


def test_the_ensemble_is_the_mean_and_range_of_members(tmp_path):
    snowy = {0: 0, 1: 8, 2: 16, 3: 32}

    def paint(scenario, member, month):
        image = flat(GREY)
        image[: snowy[member]] = SNOW
        return image

    sequence = painted(tmp_path, paint, members=4, months=2, scenarios=1)
    table = ensemble_table(measure_sequence(sequence).frames)
    assert table.index.tolist() == [("normal", "2030-01"), ("normal", "2030-04")]
    row = table.iloc[1]
    fractions = [0, 0.25, 0.5, 1]
    assert row["snow_frac_mean"] == np.mean(fractions)
    assert row["snow_frac_std"] == pytest.approx(np.std(fractions, ddof=1))
    assert (row["snow_frac_min"], row["snow_frac_max"], row["members"]) == (0, 1, 4)


def test_one_member_has_no_spread(tmp_path):
    measured = measure_sequence(write_sequence(tmp_path, members=1))
    assert ensemble_table(measured.frames)["greenness_std"].isna().all()
    assert np.isnan(measured.maps.greenness_spread).all()


def test_differences_are_taken_of_the_same_member_and_calendar_month(tmp_path):
    def paint(scenario, member, month):
        image = flat(GREEN if scenario == "plus_2c" and month.endswith("-07") else GREY)
        image[: 8 * member] = SNOW
        return image

    frames = measure_sequence(painted(tmp_path, paint, months=4)).frames
    found = paired_differences(frames, "plus_2c", "normal")
    assert found["temperature_c"].tolist() == [2, 2]
    assert found["snow_frac"].tolist() == [0, 0]
    assert found["greenness"].tolist() == pytest.approx([1 / 24, 0.75 / 24])
    without_july = frames[~((frames["scenario"] == "normal") & frames["month"].str.endswith("07"))]
    found = paired_differences(without_july, "plus_2c", "normal")
    assert found["greenness"].tolist() == pytest.approx([0, 0])


def test_maps_are_means_of_each_season(tmp_path):
    def paint(scenario, member, month):
        image = flat(GREEN if month == "2031-01" else GREY)
        image[:, :8] = SNOW if month.endswith("-04") and member == 1 else GREY
        return image

    maps = measure_sequence(painted(tmp_path, paint, months=5, scenarios=1)).maps
    winter, spring = SEASONS.index("Dec–Feb"), SEASONS.index("Mar–May")
    assert maps.greenness.shape == (1, 2, len(GROUPS), SIZE_PX, SIZE_PX)
    assert maps.greenness[0, 0, winter, 3, 20] == pytest.approx((0.5 + 1 / 3) / 2)
    assert maps.snow[0, :, spring, 3, 2].tolist() == [0, 1]
    assert maps.snow[0, :, winter].max() == 0
    year = year_map(maps.snow)
    assert year.shape == (1, 2, SIZE_PX, SIZE_PX)
    assert year[0, 1, 3, 2] == 0.25  # one season of four, though January came twice


def test_a_season_without_months_is_unknown_and_does_not_count(tmp_path):
    maps = measure_sequence(painted(tmp_path, lambda *_: flat(GREEN), months=2)).maps
    summer = SEASONS.index("Jun–Aug")
    assert np.isnan(maps.greenness[:, :, summer]).all()
    np.testing.assert_allclose(year_map(maps.greenness), 0.5)


def test_the_spread_of_a_pixel_is_over_members_and_then_a_mean_over_months(tmp_path):
    levels = {"2030-01": (100, 110, 120), "2030-04": (100, 100, 100)}

    def paint(scenario, member, month):
        return flat((levels[month][member],) * 3)

    maps = measure_sequence(painted(tmp_path, paint, members=3, months=2, scenarios=1)).maps
    winter, spring = SEASONS.index("Dec–Feb"), SEASONS.index("Mar–May")
    np.testing.assert_allclose(maps.colour_spread[0, winter], 10, rtol=1e-5)
    np.testing.assert_allclose(maps.colour_spread[0, spring], 0)
    np.testing.assert_allclose(maps.greenness_spread[0, winter], 0, atol=1e-6)


def test_spread_matches_numpy_on_real_frames(tmp_path):
    sequence = write_sequence(tmp_path, members=4, months=1, scenarios=1)
    frames = [sequence.read("normal", member, "2030-01") for member in range(4)]
    variance = np.var(np.stack(frames).astype(float), axis=0, ddof=1).mean(axis=-1)
    found = measure_sequence(sequence).maps.colour_spread[0, 0]
    np.testing.assert_allclose(found, np.sqrt(variance), rtol=1e-4)


def test_water_of_the_start_and_black_frames_are_blank_on_maps(tmp_path):
    start = flat(GREY)
    start[:4] = SEA

    def paint(scenario, member, month):
        image = flat(GREY)
        image[-4:] = 0 if (member, month) == (1, "2030-01") else 90
        return image

    maps = measure_sequence(painted(tmp_path, paint, start=start, months=1, scenarios=1)).maps
    assert np.isnan(maps.snow[0, :, 0, :4]).all()
    assert np.isnan(maps.greenness[0, :, 0, :4]).all()
    assert np.isfinite(maps.greenness[0, 0, 0, 4:]).all()
    assert np.isnan(maps.greenness[0, 1, 0, -4:]).all()


def test_large_frames_are_averaged_over_blocks(tmp_path, monkeypatch):
    monkeypatch.setattr("ecomap.sequence_measures.MAP_SIDE", 16)

    def paint(scenario, member, month):
        image = flat(GREY)
        image[::2] = SNOW
        return image

    maps = measure_sequence(painted(tmp_path, paint, months=1, scenarios=1)).maps
    assert maps.block_px == 2
    np.testing.assert_allclose(maps.snow[0, :, 0], np.full((2, 16, 16), 0.5))


def test_first_and_last_years_have_the_same_calendar_months():
    months = [f"{year}-{month:02d}" for year in range(2030, 2035) for month in (1, 7)]
    first, last = periods(months[:-1])  # five Januaries, four Julies
    assert sorted(first) == ["2030-01", "2030-07", "2031-01", "2031-07"]
    assert sorted(last) == ["2032-07", "2033-01", "2033-07", "2034-01"]
    assert periods(["2030-01", "2030-02"]) == (frozenset(), frozenset())
    assert len(periods([f"{year}-01" for year in range(2000, 2100)])[0]) == 10


def test_members_agree_where_four_of_five_have_the_sign_of_the_mean():
    differences = np.array([[1, 1], [1, 1], [1, 1], [1, -1], [-1, -1]], np.float32)[:, None]
    assert members_agree(differences).tolist() == [[True, False]]
    assert members_agree(np.zeros((5, 1, 1), np.float32)).all()


def test_tables_are_written_whole_with_units_in_names_and_a_synthetic_column(tmp_path):
    sequence = write_sequence(tmp_path)
    measured = measure_sequence(sequence)
    paths = write_measures(sequence, measured)
    assert [path.name for path in paths] == ["metrics.csv", "ensemble.csv"]
    metrics, ensemble = (pd.read_csv(path) for path in paths)
    assert len(metrics) == 12
    assert metrics["synthetic"].all()
    assert {"temperature_c", "precipitation_mm_day", "is_outside"} <= set(metrics.columns)
    assert ensemble["members"].tolist() == [2] * 6
    before = [path.read_bytes() for path in paths]
    write_measures(sequence, measure_sequence(sequence))
    assert [path.read_bytes() for path in paths] == before


def test_an_unfinished_sequence_is_refused_with_the_number_of_its_missing_frames(tmp_path):
    sequence = write_sequence(tmp_path)
    shutil.rmtree(sequence.path / "images" / "plus_2c" / "01")
    with pytest.raises(DataError, match=re.escape("lacks 3 of 12 frames, the first")):
        measure_sequence(sequence)


def test_a_frame_of_another_size_is_refused(tmp_path):
    sequence = write_sequence(tmp_path, months=1)
    path = sequence.frame_path("normal", 1, "2030-01")
    Image.fromarray(landscape(5.0, 1)[:16]).save(path)
    with pytest.raises(DataError, match="has 16 x 32 px, the start tile 32 x 32 px"):
        measure_sequence(sequence)


def test_frames_are_held_one_at_a_time(tmp_path):
    import tracemalloc

    def peak(months: int) -> int:
        sequence = write_sequence(tmp_path / str(months), scenarios=1, members=1, months=months)
        tracemalloc.start()
        measure_sequence(sequence)
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found

    peak(1)  # imports
    frame_bytes = SIZE_PX * SIZE_PX * 3  # a row of numbers takes half of that
    assert peak(40) - peak(4) < 36 * frame_bytes
