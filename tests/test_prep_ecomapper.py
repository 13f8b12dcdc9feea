"""Import of EcoMapper trees: every generation of labels, and every way to be wrong."""

import csv
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from data_prep import ecomapper
from data_prep.ecomapper import CSV_COLUMNS, import_ecomapper, scan_ecomapper
from ecomap.climate import climate_features
from ecomap.errors import DataError, SchemaError
from ecomap.schema import CLIMATE, LandCover, TileRecord, read_dataset, read_summary

SENTENCE = (
    "The average temperature over the last month was {} C with an average precipitation of {} mm "
    "and an average daily solar radiation of {} kWh/m2"
)


def test_label(month: str, **changes: Any) -> dict[str, Any]:
    """Label of the test batch: five keys."""
    return {
        "type": "Open Shrublands",
        "country_code": "null",
        "date": month,
        "center_coordinates": [36.25, -117.75],
        "cloud_coverage": 0.125,
    } | changes


test_label.__test__ = False  # type: ignore[attr-defined]


def middle_label(month: str, climate: tuple[Any, Any, Any], **changes: Any) -> dict[str, Any]:
    """Label of 2021-2022: the climate of a trailing window only."""
    info = {"location_address": "Salta, Argentina", "climate_str_1": SENTENCE.format(*climate)}
    return test_label(month) | {"caption_info": info} | changes


def full_label(month: str, climate: tuple[Any, Any, Any], **changes: Any) -> dict[str, Any]:
    """Label of 2017-2020: the calendar month in caption_3 as well."""
    label = middle_label(month, (99, 99, 9))
    return label | {"caption_3": SENTENCE.format(*climate), "spi": 0.5} | changes


def write_tile(
    root: Path, label: dict[str, Any] | str | None, *, name: str, batch: str = "b1", seed: int = 0
) -> Path:
    """Write a frame with its label; None leaves the label out."""
    folder = root / batch / name.rpartition("_")[0]
    folder.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng([seed, *name.encode()]).integers(40, 80, (48, 64, 3))
    Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{name}.png")
    if label is not None:
        text = label if isinstance(label, str) else json.dumps(label)
        (folder / f"{name}.json").write_text(text)
    return folder / f"{name}.png"


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A tree with two good months of one place."""
    root = tmp_path / "tree"
    write_tile(root, full_label("2017-01", (-5.5, 1.25, 3.5)), name="7_2017-01")
    write_tile(root, full_label("2017-03", (4.5, 2.25, 9.5)), name="7_2017-03")
    return root


def import_one(
    tree: Path, label: dict[str, Any] | str | None, name: str
) -> ecomapper.ImportSummary:
    write_tile(tree, label, name=name)
    return import_ecomapper(tree, tree.parent / "out")


def records_of(output: Path) -> dict[str, TileRecord]:
    return {record.month: record for record in read_dataset(output)}


def test_a_label_of_2017_to_2020_gives_the_calendar_month(tree: Path):
    summary = import_ecomapper(tree, tree.parent / "out")
    record = records_of(tree.parent / "out")["2017-01"]
    assert summary.sentence == "kept 2 of 2 frames"
    assert summary.failures == ()
    assert record.temperature_c == -5.5
    assert record.precipitation_mm_day == 1.25
    assert record.solar_radiation_mj_m2_day == 3.5
    assert "calendar month" in str(record.climate_source)
    assert (record.lat, record.lon, record.cloud_frac) == (36.25, -117.75, 0.125)
    assert (record.state, record.country) == ("Salta", "Argentina")
    assert record.land_cover is LandCover.OPEN_SHRUBLANDS
    assert (record.height_px, record.width_px) == (48, 64)
    assert record.ground_sampling_distance_m == 10
    assert (record.crs, record.transform) == (None, None)
    assert record.license == "CC-BY-4.0"


def test_a_label_of_2021_to_2022_gives_the_trailing_month_and_says_so(tree: Path):
    import_one(tree, middle_label("2017-04", (8.5, 0.5, 20.5)), "7_2017-04")
    record = records_of(tree.parent / "out")["2017-04"]
    assert (record.temperature_c, record.solar_radiation_mj_m2_day) == (8.5, 20.5)
    assert "30 days before" in str(record.climate_source)


def test_a_label_of_the_test_batch_has_no_climate(tree: Path):
    import_one(tree, test_label("2017-04"), "7_2017-04")
    record = records_of(tree.parent / "out")["2017-04"]
    assert record.temperature_c is None
    assert record.climate_source is None
    assert (record.state, record.country) == (None, None)


def test_history_holds_the_months_before_of_the_same_place(tree: Path):
    write_tile(tree, full_label("2017-02", (99, 1, 1)), name="7_2017-02")  # impossible
    write_tile(tree, full_label("2017-02", (1.5, 1, 1)), name="8_2017-02")
    write_tile(tree, full_label("2018-01", (0.5, 1, 1)), name="7_2018-01")
    write_tile(tree, full_label("2018-02", (2.5, 1, 1)), name="7_2018-02")
    import_ecomapper(tree, tree.parent / "out")
    records = {(r.location_id, r.month): r for r in read_dataset(tree.parent / "out")}
    unknown = (None,) * 12
    assert records["7", "2017-01"].temperature_c_history is None
    assert records["7", "2017-03"].temperature_c_history == (*unknown[:10], -5.5, None)
    assert records["7", "2018-01"].temperature_c_history == (-5.5, None, 4.5, *unknown[:9])
    assert records["7", "2018-02"].temperature_c_history == (None, 4.5, *unknown[:9], 0.5)
    assert records["7", "2018-01"].precipitation_mm_day_history == (1.25, None, 2.25, *unknown[:9])


def test_a_frame_that_cannot_be_read_still_gives_its_climate_to_later_months(tree: Path):
    (tree / "b1" / "7" / "7_2017-01.png").write_bytes(b"not a picture")
    import_ecomapper(tree, tree.parent / "out")
    history = records_of(tree.parent / "out")["2017-03"].temperature_c_history
    assert history is not None
    assert history[10] == -5.5


def test_no_other_products_normals_stand_beside_observed_values(tree: Path):
    import_ecomapper(tree, tree.parent / "out")
    record = records_of(tree.parent / "out")["2017-01"]
    assert all(getattr(record, f"{name}_normals") is None for name in CLIMATE)
    assert not climate_features(record).known[:, :, 1:].any(), "its anomalies are unknown"


def test_the_same_id_in_two_batches_is_two_places(tree: Path):
    write_tile(tree, full_label("2017-01", (20.5, 1, 1)), name="7_2017-01", batch="b2", seed=1)
    import_ecomapper(tree, tree.parent / "out")
    records = [r for r in read_dataset(tree.parent / "out") if r.month == "2017-01"]
    assert {r.tile_id: r.temperature_c for r in records} == {
        "ecomapper/b1/7/2017-01": -5.5,
        "ecomapper/b2/7/2017-01": 20.5,
    }


@pytest.mark.parametrize("part", [".", "b1", "b1/7"])
def test_a_tile_has_the_same_key_whichever_part_of_the_tree_is_given(tree: Path, part: str):
    import_ecomapper(tree / part, tree.parent / "out")
    assert {r.tile_id for r in read_dataset(tree.parent / "out")} == {
        "ecomapper/b1/7/2017-01",
        "ecomapper/b1/7/2017-03",
    }


BROKEN: dict[str, tuple[Callable[[str], dict[str, Any] | str | None], str]] = {
    "no label": (lambda m: None, "missing_label"),
    "half a file": (lambda m: '{"type": "Open', "corrupt_label"),
    "a list": (lambda m: "[1, 2]", "corrupt_label"),
    "no type": (lambda m: json.dumps({"date": m, "center_coordinates": [1, 2]}), "corrupt_label"),
    "one coordinate": (lambda m: test_label(m, center_coordinates=[4]), "corrupt_label"),
    "text for info": (lambda m: test_label(m, caption_info="none"), "corrupt_label"),
    "another month": (lambda m: test_label("2017-12"), "contradicting_month"),
    "month 13": (lambda m: test_label("2017-13"), "bad_month"),
    "latitude 95": (lambda m: test_label(m, center_coordinates=[95, 10]), "bad_coordinates"),
    "longitude 190": (lambda m: test_label(m, center_coordinates=[5, 190]), "bad_coordinates"),
    "NaN longitude": (
        lambda m: test_label(m, center_coordinates=[5, float("nan")]),
        "bad_coordinates",
    ),
    "cloud in percent": (lambda m: test_label(m, cloud_coverage=15), "bad_cloud_coverage"),
    "no cloud": (lambda m: test_label(m, cloud_coverage=None), "bad_cloud_coverage"),
    "kelvin": (lambda m: full_label(m, (293, 1, 1)), "bad_climate"),
    "NaN temperature": (lambda m: full_label(m, ("nan", 1, 1)), "bad_climate"),
    "negative rain": (lambda m: middle_label(m, (3, -1, 1)), "bad_climate"),
    "radiation in W/m2": (lambda m: full_label(m, (3, 1, 250)), "bad_climate"),
    "another class": (lambda m: test_label(m, type="Moon"), "unknown_land_cover"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_wrong_label_drops_its_frame_with_the_reason(tree: Path, case: str):
    make, reason = BROKEN[case]
    summary = import_one(tree, make("2017-04"), "7_2017-04")
    assert summary.sentence == f"kept 2 of 3 frames: 1 {reason}"
    (failure,) = summary.failures
    assert (failure.file, failure.reason) == ("b1/7/7_2017-04.png", reason)
    assert failure.detail
    assert set(records_of(tree.parent / "out")) == {"2017-01", "2017-03"}


def test_a_month_13_in_the_name_drops_the_frame(tree: Path):
    summary = import_one(tree, test_label("2017-13"), "7_2017-13")
    assert summary.dropped == {"bad_month": 1}


@pytest.mark.parametrize("content", [b"", b"\x89PNG\r\n\x1a\n", None])
def test_a_damaged_frame_is_dropped(tree: Path, content: bytes | None):
    path = write_tile(tree, full_label("2017-04", (1, 1, 1)), name="7_2017-04")
    path.write_bytes(path.read_bytes()[:-2000] if content is None else content)
    summary = import_ecomapper(tree, tree.parent / "out")
    assert summary.dropped == {"corrupt_image": 1}
    assert not (tree.parent / "out" / "images" / "b1" / "7" / "7_2017-04.png").exists()


def test_a_label_without_a_frame_is_counted(tree: Path):
    (tree / "b1" / "7" / "7_2017-03.png").unlink()
    summary = import_ecomapper(tree, tree.parent / "out")
    assert summary.dropped == {"missing_image": 1}
    assert summary.failures[0].file == "b1/7/7_2017-03.json"


def test_a_file_with_another_name_is_counted_and_a_twin_name_too(tree: Path):
    folder = tree / "b1" / "7"
    shutil.copy(folder / "7_2017-03.png", folder / "preview.png")
    shutil.copy(folder / "7_2017-03.png", folder / "7_2017_03_01.png")
    summary = import_ecomapper(tree, tree.parent / "out")
    assert summary.dropped == {"bad_name": 1, "repeated_key": 1}
    assert summary.kept == 2


def test_names_with_a_day_as_in_the_dataset_card_are_read(tree: Path):
    summary = import_one(tree, full_label("2017-05", (1, 1, 1)), "7_2017_05_01")
    assert summary.sentence == "kept 3 of 3 frames"
    assert records_of(tree.parent / "out")["2017-05"].location_id == "7"


def test_folders_with_other_bands_are_passed_over(tree: Path):
    write_tile(tree, None, name="7_2017-01", batch="b1-ms")
    assert import_ecomapper(tree, tree.parent / "out").sentence == "kept 2 of 2 frames"


def test_the_summary_stands_beside_the_records(tree: Path):
    summary = import_one(tree, None, "7_2017-04")
    stored = read_summary(tree.parent / "out")
    assert stored["kept"] == stored["num_records"] == 2
    assert stored["dropped"] == {"missing_label": 1}
    assert stored["failures"][0]["file"] == "b1/7/7_2017-04.png"
    assert json.loads(json.dumps(summary.to_dict(), allow_nan=False))["kept"] == 2
    assert "b1/7/7_2017-04.png: missing_label" in summary.render()


def test_flags_stay_on_the_record_and_drop_only_if_asked(tree: Path):
    path = write_tile(tree, full_label("2017-04", (1, 1, 1)), name="7_2017-04")
    Image.fromarray(np.zeros((48, 64, 3), np.uint8)).save(path)
    assert import_ecomapper(tree, tree.parent / "out").flags["black"] == 1
    record = records_of(tree.parent / "out")["2017-04"]
    assert record.flags == ("black", "blank")
    assert (record.nodata_frac, record.snow_frac) == (1.0, 0.0)
    summary = import_ecomapper(tree, tree.parent / "less", drop_flags=["black"])
    assert summary.sentence == "kept 2 of 3 frames: 1 black"
    assert summary.failures == ()
    assert "2017-04" not in records_of(tree.parent / "less")


def test_the_climate_of_the_month_tells_cloud_from_snow(tree: Path):
    for month, temperature in (("2017-04", 20.5), ("2017-05", -2.5)):
        label = full_label(month, (temperature, 1, 1), cloud_coverage=0.0)
        path = write_tile(tree, label, name=f"7_{month}")
        pixels = np.asarray(Image.open(path)).copy()
        pixels[:8, : 8 + (month == "2017-05")] = 200
        Image.fromarray(pixels).save(path)
    import_ecomapper(tree, tree.parent / "out")
    records = records_of(tree.parent / "out")
    assert records["2017-04"].flags == ("unlabelled_cloud",)
    assert records["2017-05"].flags == ()


def test_a_flag_that_does_not_exist_is_refused(tree: Path):
    with pytest.raises(SchemaError, match=r"\['blurred'\] do not exist. Choose among black"):
        import_ecomapper(tree, tree.parent / "out", drop_flags=["blurred"])


def test_frames_are_copied_byte_by_byte(tree: Path):
    import_ecomapper(tree, tree.parent / "out")
    record = records_of(tree.parent / "out")["2017-03"]
    copy = tree.parent / "out" / str(record.image_path)
    assert record.image_path == "images/b1/7/7_2017-03.png"
    assert copy.read_bytes() == (tree / "b1" / "7" / "7_2017-03.png").read_bytes()


def contents(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*.*")}


def test_an_interrupted_import_goes_on_to_the_same_result(tree: Path, tmp_path: Path):
    write_tile(tree, full_label("2017-01", (3, 1, 1)), name="8_2017-01")
    import_ecomapper(tree, tmp_path / "whole")

    def interrupt(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        import_ecomapper(tree, tmp_path / "out", progress=interrupt)
    first = tmp_path / "out" / "images" / "b1" / "7" / "7_2017-01.png"
    inode = first.stat().st_ino
    assert not (tmp_path / "out" / "records.parquet").exists()
    import_ecomapper(tree, tmp_path / "out")
    assert first.stat().st_ino == inode  # not copied again
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_a_frame_that_changed_is_copied_again(tree: Path):
    import_ecomapper(tree, tree.parent / "out")
    path = tree / "b1" / "7" / "7_2017-03.png"
    path.write_bytes(path.read_bytes())
    os.utime(path, ns=(1, 1))
    before = (tree.parent / "out" / "images" / "b1" / "7" / "7_2017-03.png").stat().st_ino
    import_ecomapper(tree, tree.parent / "out")
    assert (tree.parent / "out" / "images" / "b1" / "7" / "7_2017-03.png").stat().st_ino != before


def test_progress_counts_frames(tree: Path):
    write_tile(tree, full_label("2017-01", (3, 1, 1)), name="8_2017-01")
    seen: list[tuple[int, int]] = []
    import_ecomapper(tree, tree.parent / "out", progress=lambda *pair: seen.append(pair))
    assert seen == [(2, 3), (3, 3)]


def test_a_tree_without_tiles_is_an_error(tmp_path: Path):
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "notes.png").write_bytes(b"")
    with pytest.raises(DataError, match="has no tiles"):
        import_ecomapper(tmp_path / "tree", tmp_path / "out")
    with pytest.raises(DataError, match="is not a folder"):
        import_ecomapper(tmp_path / "absent", tmp_path / "out")


def test_an_output_inside_the_tree_is_refused(tree: Path):
    with pytest.raises(DataError, match="lies inside the tree"):
        import_ecomapper(tree, tree / "b1" / "out")


def test_a_tree_of_nothing_but_failures_gives_an_empty_dataset(tmp_path: Path):
    write_tile(tmp_path / "tree", None, name="7_2017-01")
    summary = import_ecomapper(tmp_path / "tree", tmp_path / "out")
    assert summary.sentence == "kept 0 of 1 frames: 1 missing_label"
    assert read_dataset(tmp_path / "out") == []


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("Salta, Argentina", ("Salta", "Argentina")),
        (
            "Thompson-Nicola, British Columbia, Canada",
            ("Thompson-Nicola, British Columbia", "Canada"),
        ),
        ("Algeria", (None, "Algeria")),
        ("null", (None, None)),
        ("", (None, None)),
        (None, (None, None)),
    ],
)
def test_the_country_follows_the_last_comma(
    address: str | None, expected: tuple[str | None, str | None]
):
    assert ecomapper.split_address(address) == expected


def csv_row(**changes: str) -> dict[str, str]:
    """A row as the dataset's documentation describes it."""
    return {
        "location_id": "9",
        "date": "2018-02",
        "latitude": "63.0",
        "longitude": "43.5",
        "type": "Mixed Forests",
        "location_address": "Arkhangelsk Oblast, Russia",
        "cloud_coverage": "0.25",
        "average_temp": "-10.52",
        "average_prep": "1.84",
        "average_rad": "1.61",
        "img_path": "9_2018-02.png",
        "seed": "14",
    } | changes


def write_csv(
    path: Path, rows: list[dict[str, str]], columns: tuple[str, ...] = CSV_COLUMNS
) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, columns, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)


def test_a_csv_row_labels_a_frame_without_json(tmp_path: Path):
    batch = "proportional_sampled_points_seed_14"
    write_tile(tmp_path / "tree", None, name="9_2018-02", batch=batch)
    write_csv(tmp_path / "tree" / "seed_14.csv", [csv_row()])
    import_ecomapper(tmp_path / "tree", tmp_path / "out")
    (record,) = read_dataset(tmp_path / "out")
    assert record.tile_id == f"ecomapper/{batch}/9/2018-02"
    assert record.temperature_c == -10.52
    assert record.precipitation_mm_day == 1.84
    assert record.solar_radiation_mj_m2_day == 1.61
    assert (record.lat, record.lon, record.cloud_frac) == (63.0, 43.5, 0.25)
    assert (record.state, record.country) == ("Arkhangelsk Oblast", "Russia")
    assert "not stated" in str(record.climate_source)


@pytest.mark.parametrize("changes", [{"date": "2018-03"}, {"location_id": "8"}])
def test_a_csv_row_whose_frame_is_of_another_month_or_place_is_dropped(
    tmp_path: Path, changes: dict[str, str]
):
    batch = "proportional_sampled_points_seed_14"
    write_tile(tmp_path / "tree", None, name="9_2018-02", batch=batch)
    row = csv_row(img_path=f"{batch}/9/9_2018-02.png", **changes)
    write_csv(tmp_path / "tree" / "seed_14.csv", [row, csv_row()])
    summary = import_ecomapper(tmp_path / "tree", tmp_path / "out")
    assert [record.month for record in read_dataset(tmp_path / "out")] == ["2018-02"]
    assert summary.dropped == {"contradicting_month": 1}


def test_a_table_with_a_field_beyond_reason_is_passed_over(tmp_path: Path):
    write_tile(tmp_path / "tree", test_label("2018-02"), name="9_2018-02")
    (tmp_path / "tree" / "huge.csv").write_text("x" * 200_000)
    assert import_ecomapper(tmp_path / "tree", tmp_path / "out").sentence == "kept 1 of 1 frames"


@pytest.mark.parametrize("table", ["b1.csv", "b1/rows.csv"])
def test_a_csv_row_finds_its_frame_beside_the_table(tmp_path: Path, table: str):
    write_tile(tmp_path / "tree", None, name="9_2018-02")
    write_csv(tmp_path / "tree" / table, [csv_row()])
    summary = import_ecomapper(tmp_path / "tree", tmp_path / "out")
    assert summary.sentence == "kept 1 of 1 frames"
    assert read_dataset(tmp_path / "out")[0].batch == "b1"


def test_json_goes_before_a_csv_row_because_it_knows_the_calendar_month(tmp_path: Path):
    write_tile(tmp_path / "tree", full_label("2018-02", (-3.5, 1, 1)), name="9_2018-02")
    write_csv(tmp_path / "tree" / "b1.csv", [csv_row()])
    import_ecomapper(tmp_path / "tree", tmp_path / "out")
    assert [r.temperature_c for r in read_dataset(tmp_path / "out")] == [-3.5]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"img_path": "gone.png"}, "missing_image"),
        ({"date": "2018-13"}, "bad_month"),
        ({"average_temp": "nan"}, "bad_climate"),
        ({"average_temp": "293"}, "bad_climate"),
        ({"latitude": ""}, "bad_coordinates"),
        ({"location_id": "../9", "img_path": "../b1/9/9_2018-02.png"}, "bad_name"),
    ],
)
def test_a_wrong_csv_row_drops_its_frame(tmp_path: Path, changes: dict[str, str], reason: str):
    folder = tmp_path / "tree" / "b1"
    write_tile(tmp_path / "tree", full_label("2018-01", (1, 1, 1)), name="9_2018-01")
    frame = write_tile(tmp_path / "tree", None, name="9_2018-02")
    if reason == "missing_image":
        frame.unlink()
    write_csv(folder / "rows.csv", [csv_row(**changes)])
    summary = import_ecomapper(tmp_path / "tree", tmp_path / "out")
    assert summary.kept == 1
    assert summary.dropped[reason] == 1


def test_an_empty_climate_cell_is_not_known(tmp_path: Path):
    write_tile(tmp_path / "tree", None, name="9_2018-02")
    write_csv(tmp_path / "tree" / "b1.csv", [csv_row(average_temp="")])
    import_ecomapper(tmp_path / "tree", tmp_path / "out")
    (record,) = read_dataset(tmp_path / "out")
    assert (record.temperature_c, record.precipitation_mm_day) == (None, 1.84)


def test_a_repeated_csv_row_is_counted(tmp_path: Path):
    write_tile(tmp_path / "tree", None, name="9_2018-02")
    write_csv(tmp_path / "tree" / "b1.csv", [csv_row(), csv_row(average_temp="5")])
    summary = import_ecomapper(tmp_path / "tree", tmp_path / "out")
    assert summary.dropped == {"repeated_key": 1}
    assert read_dataset(tmp_path / "out")[0].temperature_c == -10.52


def test_a_csv_without_a_column_is_an_error_and_another_table_is_not(tmp_path: Path):
    write_tile(tmp_path / "tree", None, name="9_2018-02")
    (tmp_path / "tree" / "other.csv").write_text("a,b\n1,2\n")
    write_csv(tmp_path / "tree" / "b1.csv", [csv_row()], CSV_COLUMNS[:7] + CSV_COLUMNS[8:])
    with pytest.raises(DataError, match=r"b1.csv lacks the columns average_temp. Expected"):
        import_ecomapper(tmp_path / "tree", tmp_path / "out")


def test_a_table_in_another_encoding_is_passed_over(tmp_path: Path):
    (tmp_path / "prices.csv").write_bytes("id,caf\u00e9\n1,2\n".encode("latin-1"))
    with pytest.raises(DataError, match=r"(?i)no .*tile|no .*frame"):
        import_ecomapper(tmp_path, tmp_path.parent / "passed_over")


@pytest.mark.shared
def test_two_real_places_of_different_generations(shared_data: Path, tmp_path: Path):
    for batch, place in (("2017-2018", "1"), ("Test-Batch", "4024")):
        target = tmp_path / "tree" / batch / place
        target.mkdir(parents=True)
        for path in (shared_data / "ecomapper" / batch / place).glob("*_2017-*"):
            target.joinpath(path.name).symlink_to(path)
    (tmp_path / "tree" / "2017-2018" / "1" / "1_2017-02.json").unlink()
    scans = list(scan_ecomapper(tmp_path / "tree"))
    records = {f.record.tile_id: f.record for scan in scans for f in scan.frames}
    failures = [failure.reason for scan in scans for failure in scan.failures]
    assert (len(records), failures) == (23, ["missing_label"])
    april = records["ecomapper/2017-2018/1/2017-04"]
    assert april.temperature_c == -1.54  # caption_3; the trailing window says -2.83
    assert april.precipitation_mm_day == 3.27
    assert april.solar_radiation_mj_m2_day == 12.69
    assert (april.state, april.country) == ("British Columbia", "Canada")
    assert april.temperature_c_history is not None
    assert april.temperature_c_history[-3:] == (-14.43, None, -4.87)
    assert {"black", "seam", "cloudy"} == set(april.flags)
    assert records["ecomapper/Test-Batch/4024/2017-04"].temperature_c is None
