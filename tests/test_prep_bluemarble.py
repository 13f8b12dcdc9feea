"""Blue Marble windows: positions, climate of the month, and nothing from void blocks."""

import json
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from data_prep.bluemarble import BlueMarbleConfig, import_bluemarble
from data_prep.splits import SplitConfig
from ecomap.errors import DataError
from ecomap.imagery import FrameReader, read_image
from ecomap.normals import open_normals
from ecomap.schema import HISTORY_MONTHS, read_dataset
from tests.fakes import write_mosaics

CONFIG = BlueMarbleConfig(
    stride_px=16, min_land_frac=0.5, split=SplitConfig(block_deg=60, test_frac=0.2, val_frac=0.1)
)


@pytest.fixture(scope="module")
def imported(tmp_path_factory):
    root = write_mosaics(tmp_path_factory.mktemp("mosaics"))
    output = tmp_path_factory.mktemp("dataset")
    return root, output, import_bluemarble(root, output, config=CONFIG)


def test_kept_and_dropped_windows_add_up_to_all_positions(imported):
    _, output, summary = imported
    rows, columns = (384 - 128) // 16 + 1, (768 - 128) // 16 + 1
    assert summary.kept + sum(summary.dropped.values()) == 12 * rows * columns
    assert summary.dropped["touches a void block"] > 0
    assert len(read_dataset(output)) == summary.kept > 0


def test_no_window_shares_a_pixel_with_a_void_block(imported):
    for record in read_dataset(imported[1]):
        column, row, width, height = record.window_px
        assert row >= 60 or row + height <= 40 or column >= 540 or column + width <= 500


def test_a_window_is_the_part_of_the_mosaic_that_its_coordinates_say(imported):
    root, output, _ = imported
    record = read_dataset(output)[7]
    column, row, *_ = record.window_px
    assert record.location_id == f"r{row:04d}c{column:04d}"
    assert record.transform[2] == pytest.approx(-180 + column * 360 / 768)
    assert record.transform[5] == pytest.approx(90 - row * 180 / 384)
    assert record.lat == pytest.approx(record.transform[5] - 64 * 180 / 384, abs=1e-5)
    expected = read_image(root / f"{record.month}.jpg")[row : row + 128, column : column + 128]
    assert (FrameReader(output).read(record) == expected).all()


def test_climate_is_the_normal_of_the_month_and_its_history_ends_before_it(imported):
    records = [r for r in read_dataset(imported[1]) if r.month == "2004-03"]
    record = records[len(records) // 2]
    extent = 128 * 360 / 768
    normals = open_normals().climate(record.lat, record.lon, (extent, extent))["temperature_c"]
    assert record.temperature_c == pytest.approx(normals[2], abs=0.01)
    assert len(record.temperature_c_history) == HISTORY_MONTHS
    # March of the year before, ..., February.
    np.testing.assert_allclose(
        record.temperature_c_history, normals[[2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 0, 1]], atol=0.01
    )
    assert record.climate_kind == "normal"
    assert record.solar_radiation_mj_m2_day is None


def test_a_second_import_gives_the_same_dataset(imported):
    root, output, summary = imported
    before = (output / "records.parquet").read_bytes()
    assert import_bluemarble(root, output, config=CONFIG) == summary
    assert (output / "records.parquet").read_bytes() == before


def test_every_place_has_twelve_months(imported):
    months = Counter(record.place_id for record in read_dataset(imported[1]))
    assert set(months.values()) == {12}


def test_a_missing_a_damaged_and_a_wrong_mosaic_are_named(tmp_path):
    root = write_mosaics(tmp_path / "in")
    (root / "void_blocks.json").write_text("{")
    with pytest.raises(DataError, match=r"void_blocks.json is damaged"):
        import_bluemarble(root, tmp_path / "out", config=CONFIG)
    Image.new("RGB", (100, 60)).save(root / "2004-02.jpg")
    with pytest.raises(DataError, match="Expected one size"):
        import_bluemarble(root, tmp_path / "out", config=CONFIG)
    (root / "2004-02.jpg").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"2004-02.jpg is not a readable image"):
        import_bluemarble(root, tmp_path / "out", config=CONFIG)
    (root / "2004-02.jpg").unlink()
    with pytest.raises(DataError, match=r"2004-02.jpg does not exist"):
        import_bluemarble(root, tmp_path / "out", config=CONFIG)


@pytest.mark.shared
def test_no_window_of_the_real_mosaics_holds_void_pixels(shared_data, tmp_path):
    config = BlueMarbleConfig(stride_px=128)
    import_bluemarble(shared_data / "bluemarble", tmp_path, config=config)
    reader = FrameReader(tmp_path)
    july = [r for r in read_dataset(tmp_path) if r.month == "2004-07"]
    assert len(july) > 100
    assert all((reader.read(record).max(-1) == 0).mean() < 0.01 for record in july)


def test_frames_are_inspected_and_counted_by_flag(tmp_path):
    root = write_mosaics(tmp_path / "mosaics")
    white = np.full((384, 768, 3), 255, np.uint8)
    for month in ("2004-05", "2004-06"):
        Image.fromarray(white).save(root / f"{month}.jpg", quality=95)
    summary = import_bluemarble(root, tmp_path / "data", config=CONFIG)
    records = read_dataset(tmp_path / "data")
    flags = {m: {r.flags for r in records if r.month == f"2004-{m}"} for m in ("05", "06")}
    assert flags == {m: {("blank", "saturated", "white")} for m in flags}
    places = len(records) // 12
    assert summary.flags["white"] == 2 * places
    assert summary.flags["cloudy"] == summary.flags["unlabelled_cloud"] == 0
    assert json.loads((tmp_path / "data" / "dataset.json").read_text())["flags"] == summary.flags


def test_mosaics_without_a_list_of_void_blocks_say_so(imported, tmp_path):
    assert imported[2].notes == []
    root = write_mosaics(tmp_path / "mosaics")
    (root / "void_blocks.json").unlink()
    (note,) = import_bluemarble(root, tmp_path / "data", config=CONFIG).notes
    assert "void_blocks.json is not there" in note
