"""Data check: counts by hand on a made dataset and tree, and what it writes."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from data_prep import check
from data_prep.check import CheckReport, Entry, EvenSample, check_dataset
from data_prep.quality import FLAGS
from ecomap.errors import DataError
from ecomap.schema import LandCover, TileRecord, make_record, write_dataset


def record(location: str, month: str, **changes: Any) -> TileRecord:
    fields: dict[str, Any] = {
        "source": "made",
        "location_id": location,
        "month": month,
        "lat": 10.0,
        "lon": 20.0,
        "ground_sampling_distance_m": 10.0,
        "height_px": 48,
        "width_px": 64,
        "land_cover": LandCover.CROPLANDS,
        "image_path": f"images/{location}_{month}.png",
        "license": "none",
    }
    return make_record(fields | changes, where="test")


def draw(folder: Path, item: TileRecord, value: int | None = None) -> None:
    """Write the frame of a record: noise, or one value."""
    noise = np.random.default_rng([*item.tile_id.encode()]).integers(40, 80, (48, 64, 3))
    pixels = noise if value is None else np.full((48, 64, 3), value)
    path = folder / str(item.image_path)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels.astype(np.uint8)).save(path)


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    """Six records of three places: black, white, clean, cloudy by label, gone and damaged."""
    folder = tmp_path / "dataset"
    items = [
        record("a", "2017-01", temperature_c=-3.5),
        record("a", "2017-02", temperature_c=8.5, precipitation_mm_day=2.5),
        record("b", "2017-01", land_cover=LandCover.GRASSLANDS, cloud_frac=0.5),
        record("b", "2017-02", land_cover=None, flags=("seam",)),
        record("c", "2017-01"),
        record("c", "2017-03"),
    ]
    for item, value in zip(items[:4], (0, 255, None, None), strict=True):
        draw(folder, item, value)
    draw(folder, items[5])
    (folder / str(items[5].image_path)).write_bytes(b"broken")
    write_dataset(folder, items)
    return folder


def text_of(report: CheckReport) -> str:
    console = Console(width=200, file=io.StringIO())
    console.print(report.render())
    return str(console.file.getvalue())


def test_flags_and_classes_are_counted(dataset: Path):
    report = check_dataset(dataset)
    assert (report.frames, report.places, report.months, report.clean) == (4, 2, 2, 0)
    assert {flag: n for flag, n in report.flags.items() if n} == {
        "black": 1,
        "white": 1,
        "saturated": 1,
        "seam": 1,  # recorded, though not visible
        "cloudy": 1,
        "blank": 2,
    }
    assert tuple(report.flags) == FLAGS
    assert list(report.classes) == ["Croplands", "Grasslands", "unknown"]
    assert report.classes["Croplands"]["frames"] == 2
    assert report.classes["Croplands"]["blank"] == 2
    assert report.classes["Grasslands"]["cloudy"] == 1
    assert report.classes["Grasslands"]["blank"] == 0


def test_frames_that_cannot_be_read_are_listed_with_the_reason(dataset: Path):
    report = check_dataset(dataset)
    assert report.failures_by_reason == {"corrupt_image": 1, "missing_image": 1}
    assert {f.file: f.reason for f in report.failures} == {
        "made/c/2017-01": "missing_image",
        "made/c/2017-03": "corrupt_image",
    }
    assert report.sentence == "4 frames of 2 places: 0 without a flag; 2 unreadable"


def test_climate_has_its_range_and_the_number_of_known_values(dataset: Path):
    climate = check_dataset(dataset).climate
    assert climate["temperature_c"] == {
        "unit": "°C",
        "known": 2,
        "minimum": -3.5,
        "maximum": 8.5,
    }
    assert climate["precipitation_mm_day"]["known"] == 1
    assert climate["solar_radiation_mj_m2_day"] == {
        "unit": "MJ/m2/day",
        "known": 0,
        "minimum": None,
        "maximum": None,
    }


def test_the_tables_show_the_counts(dataset: Path):
    text = text_of(check_dataset(dataset))
    row = next(line for line in text.splitlines() if "all" in line)
    assert [cell.strip() for cell in row.split("│")[2:-1]] == [
        "4",
        "0",
        "1",
        "1",
        "1",
        "1",
        "1",
        "2",
    ]
    assert "missing_image" in text
    assert "-3.50" in text
    assert "n/a" in text
    assert "duplicate" not in text  # flags that no frame has take no column


def test_nothing_is_written_without_an_output(dataset: Path):
    before = sorted(dataset.parent.rglob("*"))
    assert check_dataset(dataset).output is None
    assert sorted(dataset.parent.rglob("*")) == before


def test_the_json_the_page_and_the_sheet_are_written(dataset: Path, tmp_path: Path):
    report = check_dataset(dataset, tmp_path / "new" / "out")
    stored = json.loads((tmp_path / "new" / "out" / "check.json").read_text())
    assert stored == json.loads(json.dumps(report.to_dict()))
    assert stored["flags"]["blank"] == 2
    html = (tmp_path / "new" / "out" / "index.html").read_text()
    assert "made/c/2017-03" in html
    assert "data:image/png;base64," in html
    with Image.open(tmp_path / "new" / "out" / "contact_sheet.png") as sheet:
        cell = check.THUMBNAIL_PX + 2 * check.FRAME_PX
        assert sheet.size == (4 * cell, cell + check.CAPTION_PX)
        assert sheet.getpixel((0, 0)) == (0x7F, 0x3F, 0xBF)  # a black frame's colour
        assert sheet.getpixel((cell, 0)) == (0xBF, 0x3F, 0xBF)  # blank
        assert sheet.getpixel((cell + 40, 40)) == (255, 255, 255)


def test_a_raw_tree_is_inspected_without_importing(tmp_path: Path):
    folder = tmp_path / "tree" / "b1" / "7"
    for month, value in (("2017-01", 0), ("2017-02", None)):
        draw(tmp_path, record("7", month, image_path=f"tree/b1/7/7_{month}.png"), value)
        label = {
            "type": "Savannas",
            "date": month,
            "center_coordinates": [1, 2],
            "cloud_coverage": 0.0,
            "country_code": "null",
        }
        (folder / f"7_{month}.json").write_text(json.dumps(label))
    (folder / "7_2017-03.json").write_text("{")
    before = sorted(tmp_path.rglob("*"))
    report = check_dataset(tmp_path / "tree")
    assert sorted(tmp_path.rglob("*")) == before
    assert (report.frames, report.clean, report.flags["black"]) == (2, 1, 1)
    assert report.classes["Savannas"]["frames"] == 2
    assert report.failures_by_reason == {"corrupt_label": 1}


def test_windows_of_one_mosaic_are_read_and_sand_of_a_cloud_free_source_is_not_cloud(
    tmp_path: Path,
):
    mosaic = np.random.default_rng(0).integers(40, 80, (48, 128, 3)).astype(np.uint8)
    mosaic[:, 64:] = 230  # bright and grey
    Image.fromarray(mosaic).save(tmp_path / "m.png")
    items = [
        record(
            f"c{column}",
            "2004-07",
            source=source,
            image_path="m.png",
            window_px=(column, 0, 64, 48),
            temperature_c=30.0,
            cloud_frac=0.0,
        )
        for source, column in (("bluemarble", 0), ("bluemarble", 64), ("made", 64))
    ]
    write_dataset(tmp_path, items)
    report = check_dataset(tmp_path)
    assert report.frames == 3
    assert report.flags["blank"] == 2
    assert report.flags["unlabelled_cloud"] == 1


def test_progress_counts_frames_of_a_dataset(dataset: Path):
    seen: list[tuple[int, int]] = []
    check_dataset(dataset, progress=lambda *pair: seen.append(pair))
    assert seen == [(n, 6) for n in range(1, 7)]


def test_what_is_neither_dataset_nor_tree_is_an_error(tmp_path: Path):
    with pytest.raises(DataError, match="does not exist"):
        check_dataset(tmp_path / "absent")
    with pytest.raises(DataError, match="has no tiles"):
        check_dataset(tmp_path)


def entries(num: int, flags: tuple[str, ...] = ()) -> list[Entry]:
    return [
        Entry(record=record(f"{n:05}", "2017-01"), flags=flags, read=lambda: np.zeros((2, 2, 3)))
        for n in range(num)
    ]


def ids(chosen: list[Entry]) -> list[int]:
    return [int(entry.record.location_id) for entry in chosen]


def test_a_sample_is_even_and_bounded():
    sample = EvenSample(4)
    for entry in entries(33):
        sample.add(entry)
        assert len(sample) < 8
    assert ids(sample.take(4)) == [0, 8, 16, 24]
    assert ids(sample.take(99)) == [0, 8, 16, 24, 32]


def test_a_short_stream_is_kept_whole():
    sample = EvenSample(4)
    for entry in entries(3):
        sample.add(entry)
    assert ids(sample.take(4)) == [0, 1, 2]


def test_the_sheet_keeps_a_quarter_for_frames_without_flags():
    flagged, clean = EvenSample(check.MAX_THUMBNAILS), EvenSample(check.MAX_THUMBNAILS)
    for entry in entries(300, ("seam",)):
        flagged.add(entry)
    for entry in entries(300):
        clean.add(entry)
    chosen = check.choose_entries(flagged, clean)
    assert len(chosen) == 192
    assert sum(not entry.flags for entry in chosen) == 48
    few = check.choose_entries(EvenSample(4), clean)
    assert len(few) == 192


def test_every_flag_has_a_colour_and_the_most_serious_wins():
    assert set(check.COLOURS) == set(FLAGS)
    assert check.flag_colour(("saturated", "seam")) == check.COLOURS["seam"]
    assert check.flag_colour(()) == check.CLEAN_COLOUR


@pytest.mark.shared
def test_faults_of_real_tiles_are_counted_by_class(shared_data: Path, tmp_path: Path):
    for batch, place in (("2017-2018", "1"), ("2017-2018", "3842")):
        target = tmp_path / "tree" / batch / place
        target.mkdir(parents=True)
        for path in (shared_data / "ecomapper" / batch / place).iterdir():
            target.joinpath(path.name).symlink_to(path)
    report = check_dataset(tmp_path / "tree", tmp_path / "out")
    assert report.failures == ()
    assert (report.frames, report.places, report.months) == (36, 2, 18)
    forest, fields = (
        report.classes[name] for name in ("Evergreen Needleleaf Forests", "Croplands")
    )
    assert (forest["black"], forest["partial"], forest["seam"], forest["white"]) == (1, 1, 8, 0)
    assert (fields["black"], fields["partial"], fields["seam"], fields["white"]) == (0, 0, 0, 3)
    assert report.climate["temperature_c"]["minimum"] == -14.73
