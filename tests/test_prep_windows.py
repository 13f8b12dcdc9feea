"""Windows of frames: the very pixels, at the right place, with only what still holds of a tile."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image
from rasterio.transform import Affine
from rasterio.warp import transform as to_crs
from typer.testing import CliRunner

from data_prep import windows as windows_module
from data_prep.check import check_dataset
from data_prep.cog import write_cog
from data_prep.window_records import WindowGrid, window_of
from data_prep.windows import cut_windows
from ecomap import cli
from ecomap.errors import DataError, RequestError
from ecomap.imagery import FrameReader, read_image
from ecomap.schema import read_dataset, read_summary, write_dataset
from tests.fakes import made_image, make_tile

SIZE_PX, WIDTH_PX, HEIGHT_PX = 32, 96, 70


def frame(seed=0):
    """A frame with detail, so that no window is like another."""
    noise = np.random.default_rng(seed).integers(0, 12, (HEIGHT_PX, WIDTH_PX, 3), dtype=np.uint8)
    return made_image(seed, HEIGHT_PX, WIDTH_PX) // 2 + 40 + noise


def write_source(folder, frames, **changes):
    """A dataset of one place; each frame is a month."""
    (folder / "images" / "a").mkdir(parents=True, exist_ok=True)
    records = []
    for month, image in frames.items():
        name = f"images/a/{month}.png"
        if image is not None:
            Image.fromarray(image).save(folder / name)
        fields = {"width_px": WIDTH_PX, "height_px": HEIGHT_PX, "image_path": name, "month": month}
        records.append(make_tile(**(fields | changes)))
    write_dataset(folder, records, summary={"license": "CC0", "attribution": ["someone"]})
    return folder


@pytest.fixture
def source(tmp_path):
    frames = {"2021-03": frame(1), "2021-04": frame(2)}
    return write_source(tmp_path / "source", frames, split="val")


# --- pixels and places ---


def test_windows_hold_the_very_pixels_of_their_frame(source, tmp_path):
    summary = cut_windows(source, tmp_path / "out", size_px=SIZE_PX)
    records = read_dataset(tmp_path / "out")
    assert (summary.tiles, summary.kept, summary.places, len(records)) == (2, 12, 6, 12)
    reader = FrameReader(tmp_path / "out")
    for record in records:
        row, column = map(int, record.location_id.removeprefix("1_r").split("c"))
        whole = read_image(source / "images" / "a" / f"{record.month}.png")
        part = whole[row * SIZE_PX :, column * SIZE_PX :][:SIZE_PX, :SIZE_PX]
        np.testing.assert_array_equal(reader.read(record), part)
    assert {record.location_id for record in records} == {
        f"1_r{row}c{column}" for row in range(2) for column in range(3)
    }


def test_the_new_folder_needs_nothing_of_the_old_one(source, tmp_path):
    cut_windows(source, tmp_path / "out", size_px=SIZE_PX)
    shutil.rmtree(source)
    shutil.move(tmp_path / "out", tmp_path / "moved")
    reader = FrameReader(tmp_path / "moved")
    assert all(reader.read(record).any() for record in read_dataset(tmp_path / "moved"))


@pytest.mark.parametrize("can_link", [True, False])
def test_frames_are_linked_or_else_copied_and_a_second_run_changes_nothing(
    source, tmp_path, monkeypatch, can_link
):
    def refuse(*_):
        raise OSError("links are not supported here")

    if not can_link:
        monkeypatch.setattr(windows_module.os, "link", refuse)
    cut_windows(source, tmp_path / "out", size_px=SIZE_PX)
    first, image = read_dataset(tmp_path / "out"), tmp_path / "out" / "images" / "a" / "2021-03.png"
    assert image.samefile(source / "images" / "a" / "2021-03.png") is can_link
    assert image.read_bytes() == (source / "images" / "a" / "2021-03.png").read_bytes()
    cut_windows(source, tmp_path / "out", size_px=SIZE_PX)
    assert read_dataset(tmp_path / "out") == first
    assert not list(tmp_path.rglob("*.tmp"))


def test_windows_may_overlap_or_lie_apart_and_say_what_is_left_out(source, tmp_path):
    overlapping = cut_windows(source, tmp_path / "near", size_px=SIZE_PX, stride_px=16)
    assert overlapping.kept == 2 * 3 * 5  # 64 of 70 rows are reached, all columns
    assert any(note.startswith("8.6% of the pixels") for note in overlapping.notes)
    apart = cut_windows(source, tmp_path / "apart", size_px=16, stride_px=32)
    assert apart.kept == 2 * 2 * 3
    covered = (2 * 16 * 3 * 16) / (HEIGHT_PX * WIDTH_PX)
    assert any(note.startswith(f"{1 - covered:.1%} of the pixels") for note in apart.notes)
    assert read_summary(tmp_path / "near")["windows"] == {"size_px": SIZE_PX, "stride_px": 16}


def test_centres_of_frames_without_a_grid_go_by_the_size_of_a_pixel():
    tile = make_tile(lat=60.0, lon=20.0, width_px=512, height_px=512)
    grid = WindowGrid(128, 128)
    upper_left, lower_right = window_of(tile, 0, 0, grid), window_of(tile, 3, 3, grid)
    metres = 192 * 10.0
    assert (upper_left.lat - 60) * 111_195 == pytest.approx(metres, abs=1)
    assert (20 - upper_left.lon) * 111_195 * 0.5 == pytest.approx(metres, abs=1)  # cos 60°
    assert upper_left.lat - 60 == pytest.approx(60 - lower_right.lat)
    assert upper_left.lon - 20 == pytest.approx(20 - lower_right.lon)


def test_centres_and_transforms_on_a_known_grid_are_exact():
    transform = (10.0, 0.0, 500_000.0, 0.0, -10.0, 5_800_000.0)
    tile = make_tile(
        lat=52.3, lon=15.0, crs="EPSG:32632", transform=transform, width_px=512, height_px=512
    )
    window = window_of(tile, 1, 2, WindowGrid(128, 100))
    assert window.transform == (10.0, 0.0, 502_000.0, 0.0, -10.0, 5_799_000.0)
    x, y = Affine(*window.transform) @ (64, 64)
    lon, lat = to_crs("EPSG:32632", "EPSG:4326", [x], [y])
    assert (window.lat, window.lon) == (pytest.approx(lat[0], abs=1e-6), pytest.approx(lon[0]))


def test_windows_over_the_antimeridian_have_a_longitude():
    tile = make_tile(lat=0.0, lon=179.999, width_px=512, height_px=512)
    assert window_of(tile, 0, 3, WindowGrid(128, 128)).lon == pytest.approx(-179.98374, abs=1e-4)


def test_windows_of_windows_are_cut_from_the_same_file():
    tile = make_tile(width_px=64, height_px=64, window_px=(200, 100, 64, 64))
    assert window_of(tile, 1, 0, WindowGrid(32, 32)).window_px == (200, 132, 32, 32)


def test_tiles_of_a_mosaic_are_cut_too(tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    fields = {"width_px": 40, "height_px": 40}
    records = []
    for month in ("2021-03", "2021-04"):
        Image.fromarray(made_image(int(month[-1]), 80, 120)).save(source / f"{month}.png")
        records += [
            make_tile(
                **fields, location_id=f"x{left}", month=month, image_path=f"{month}.png",
                window_px=(left, 20, 40, 40), lon=float(left),
            )
            for left in (0, 50)
        ]  # fmt: skip
    write_dataset(source, records)
    summary = cut_windows(source, tmp_path / "out", size_px=20)
    assert (summary.kept, summary.places) == (16, 8)
    found = {r.tile_id: r for r in read_dataset(tmp_path / "out")}
    window = found["made/a/x50_r1c0/2021-04"]
    mosaic = read_image(source / "2021-04.png")
    pixels = FrameReader(tmp_path / "out").read(window)
    np.testing.assert_array_equal(pixels, mosaic[40:60, 50:70])


# --- what holds of the tile, and what does not ---


def test_climate_class_and_side_are_those_of_the_tile(source, tmp_path):
    cut_windows(source, tmp_path / "out", size_px=SIZE_PX)
    tiles = {record.month: record for record in read_dataset(source)}
    changed = {
        "location_id", "lat", "lon", "width_px", "height_px", "window_px", "nodata_frac",
        "snow_frac", "flags",
    }  # fmt: skip
    for window in read_dataset(tmp_path / "out"):
        assert window.model_dump(exclude=changed) == tiles[window.month].model_dump(exclude=changed)


def test_fractions_of_a_tile_hold_for_its_windows_only_where_all_or_nothing_has_them():
    pure = (0.0,) * 9 + (1.0,) + (0.0,) * 7
    mixed = (0.5,) + (0.0,) * 8 + (0.5,) + (0.0,) * 7
    grid = WindowGrid(8, 8)
    kept = {"land_cover_frac": 1.0, "land_frac": 1.0, "cloud_frac": 0.0, "scene_snow_frac": 0.0}
    window = window_of(make_tile(**kept, land_cover_fracs=pure), 0, 0, grid)
    assert {name: getattr(window, name) for name in kept} == kept
    assert window.land_cover_fracs == pure
    window = window_of(make_tile(**dict.fromkeys(kept, 0.5), land_cover_fracs=mixed), 0, 0, grid)
    assert [getattr(window, name) for name in (*kept, "land_cover_fracs")] == [None] * 5


def test_missing_data_and_flags_are_those_of_the_window(tmp_path):
    image = frame(3)
    image[:SIZE_PX, :SIZE_PX] = 0
    image[SIZE_PX : SIZE_PX + 16, SIZE_PX : 2 * SIZE_PX] = 0
    image[SIZE_PX : 2 * SIZE_PX, :SIZE_PX] = 255
    source = write_source(
        tmp_path / "source", {"2021-03": image}, flags=("hazy", "partial", "seam"), cloud_frac=0.1
    )
    summary = cut_windows(source, tmp_path / "out", size_px=SIZE_PX)
    found = {r.location_id: r for r in read_dataset(tmp_path / "out")}
    assert found["1_r0c0"].nodata_frac == 1
    assert found["1_r0c0"].flags == ("black", "blank", "hazy")
    assert found["1_r1c1"].nodata_frac == 0.5
    assert "black" in found["1_r1c1"].flags
    assert found["1_r1c0"].flags == ("blank", "hazy", "saturated", "white")
    assert found["1_r1c0"].snow_frac == 1
    assert found["1_r0c2"].flags == ("hazy",)
    assert found["1_r0c2"].nodata_frac == found["1_r0c2"].snow_frac == 0
    assert all(record.cloud_frac is None for record in found.values())
    assert (summary.kept, summary.flags["black"], summary.flags["hazy"]) == (6, 2, 6)
    assert any("no cloud fraction of their own" in note for note in summary.notes)


def test_windows_of_a_cloudy_tile_stay_cloudy(tmp_path):
    frames = {"2021-03": frame(1)}
    cloudy = write_source(tmp_path / "cloudy", frames, cloud_frac=0.4)
    clear = write_source(tmp_path / "clear", frames, cloud_frac=0.2)
    assert cut_windows(cloudy, tmp_path / "a", size_px=SIZE_PX).flags["cloudy"] == 6
    assert cut_windows(clear, tmp_path / "b", size_px=SIZE_PX).flags["cloudy"] == 0


def test_missing_data_of_16_bit_tiles_is_counted_and_not_guessed(tmp_path):
    values = np.full((3, 64, 64), 800, np.uint16)
    values[:, 3:5, 40:50] = 0  # too small a patch for a guess
    values[:, 40:, :10] = 1  # as dark as data can be, and not missing
    source = tmp_path / "source"
    write_cog(
        source / "a.tif", values, bands=("B04", "B03", "B02"), crs="EPSG:32632",
        transform=(10, 0, 5e5, 0, -10, 5.8e6), acquired="2021-03-02T10:00:00Z", tags={},
    )  # fmt: skip
    record = make_tile(
        width_px=64, height_px=64, image_path="a.tif", bands=("B04", "B03", "B02"),
        reflectance_range=(0.0, 0.4), crs="EPSG:32632", transform=(10, 0, 5e5, 0, -10, 5.8e6),
    )  # fmt: skip
    write_dataset(source, [record])
    cut_windows(source, tmp_path / "out", size_px=32)
    found = {r.location_id: r for r in read_dataset(tmp_path / "out")}
    assert found["1_r0c1"].nodata_frac == pytest.approx(20 / 1024, abs=1e-4)
    assert "partial" in found["1_r0c1"].flags
    assert found["1_r1c0"].nodata_frac == 0
    assert not {"partial", "black"} & {*found["1_r1c0"].flags}
    assert FrameReader(tmp_path / "out").read(found["1_r0c1"]).shape == (32, 32, 3)


# --- failures and refusals ---


def test_tiles_that_give_no_window_are_counted_by_reason(source, tmp_path):
    write_source(source, {"2021-05": None, "2021-06": frame(3)})
    (source / "images" / "a" / "2021-06.png").write_bytes(b"no image")
    small = make_tile(month="2021-07", width_px=20, height_px=90, image_path="images/a/x.png")
    images = write_source(tmp_path / "extra", {"2021-03": frame(1)})
    shutil.copytree(images / "images", source / "images", dirs_exist_ok=True)
    write_dataset(source, [*read_dataset(source), *read_dataset(images), small])
    summary = cut_windows(source, tmp_path / "out", size_px=SIZE_PX)
    assert (summary.tiles, summary.kept) == (1, 6)
    assert summary.dropped == {"corrupt_image": 1, "missing_image": 1, "smaller_than_a_window": 1}
    assert [failure.file for failure in summary.failures] == [
        "made/a/1/2021-05",
        "made/a/1/2021-06",
    ]
    assert read_summary(tmp_path / "out")["dropped"] == summary.dropped


def test_a_dataset_that_gives_no_window_is_refused(source, tmp_path):
    with pytest.raises(DataError, match=r"None of the 2 tiles .* window of 80 px: 2 are smaller"):
        cut_windows(source, tmp_path / "out", size_px=80)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("size_px", "stride_px"), [(0, None), (8, 0), (-8, 8)])
def test_sizes_that_make_no_sense_are_refused(source, tmp_path, size_px, stride_px):
    with pytest.raises(RequestError, match="both must be at least 1"):
        cut_windows(source, tmp_path / "out", size_px=size_px, stride_px=stride_px)


def test_a_dataset_is_not_cut_into_itself(source):
    with pytest.raises(RequestError, match="is the dataset itself"):
        cut_windows(source, source / "images" / "..", size_px=SIZE_PX)


def test_a_frame_outside_its_dataset_is_refused(tmp_path):
    Image.fromarray(frame(1)).save(tmp_path / "out.png")
    fields = {"width_px": WIDTH_PX, "height_px": HEIGHT_PX, "image_path": "../out.png"}
    write_dataset(tmp_path / "source", [make_tile(**fields)])
    with pytest.raises(DataError, match=r"frame \.\./out\.png lies outside"):
        cut_windows(tmp_path / "source", tmp_path / "out", size_px=SIZE_PX)


# --- with the rest ---


def test_the_verb_writes_a_dataset_that_check_reads(source, tmp_path):
    words = ["data", "windows", str(source), "--output", str(tmp_path / "out"), "--size-px", "32"]
    done = CliRunner().invoke(cli.app, [*words, "--json"])
    assert done.exit_code == 0
    summary = json.loads(done.stdout)
    assert (summary["kept"], summary["report"]["tiles"]) == (12, {"val": 12})
    report = check_dataset(tmp_path / "out")
    assert (report.frames, report.places, report.failures) == (12, 6, ())
    written = read_summary(tmp_path / "out")
    assert (written["license"], written["attribution"]) == ("CC0", ["someone"])
