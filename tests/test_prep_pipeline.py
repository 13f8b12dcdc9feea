"""The whole way from a region to a dataset, against services of this machine."""

import errno
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import rasterio
import xarray as xr
from typer.testing import CliRunner

from data_prep import pipeline, steps
from data_prep.check import check_dataset
from data_prep.manifest import read_manifest
from data_prep.place import write_places
from data_prep.prep_config import PrepConfig
from ecomap.cli import app
from ecomap.config import load_config
from ecomap.errors import DataError, RequestError
from ecomap.imagery import FrameReader, read_digital_numbers
from ecomap.schema import CLIMATE, HISTORY_MONTHS, read_dataset, read_summary
from tests.fake_scenes import ramp, write_scene
from tests.local_world import LocalWorld
from tests.power_server import true_value

EXAMPLE = Path(__file__).parent.parent / "configs" / "prep_example.yaml"
LEFT, TOP = 500_000.0, 5_050_020.0
SIZE_PX = 768
CLOUD, GRASS, SNOW = 9, 4, 11


def write_scenes(folder: Path) -> None:
    """Two months over one square: June half under cloud, July clear on its second day."""
    west = np.full((SIZE_PX // 2, SIZE_PX // 2), GRASS)
    west[:, : SIZE_PX // 4] = CLOUD
    snow = np.full((SIZE_PX // 2, SIZE_PX // 2), GRASS)
    snow[: SIZE_PX // 4] = SNOW
    base = ramp(SIZE_PX, SIZE_PX, base=1200)
    days = {"20230610": (west, 300), "20230705": (CLOUD, 0), "20230720": (snow, 600)}
    for day, (scl, shift) in days.items():
        write_scene(
            folder,
            item_id=f"S2A_33TWL_{day}_0_L2A",
            left=LEFT,
            top=TOP,
            size_px=SIZE_PX,
            acquired=f"{day[:4]}-{day[4:6]}-{day[6:]}T09:57:57Z",
            provider_style="earth-search-c1",
            bands={b: base + shift + 100 * i for i, b in enumerate(("B04", "B03", "B02", "B08"))},
            scl=scl,
            cloud_cover=5.0,
            mgrs="33TWL",
            datatake=f"{day}T095031_042547",
            datastrip=f"{day}T095630",
            raster_offset=-0.1,
        )


SETTINGS = [
    "region.bbox=[15.005, 45.53, 15.09, 45.60]",
    "first_month=2023-06",
    "last_month=2023-08",
    "seed=0",
    "grid.size_px=128",
    "grid.resolution_m=10",
    "grid.spacing_km=2",
    "imagery.max_cloud_frac=0.3",
    "engine.scheduler=serial",
    "engine.num_threads=4",
]


PROVIDER = "imagery.provider=earth-search-c1"


def config_of(output, world, *more):
    changes = [f"output={output}", *SETTINGS, *world.overrides, PROVIDER]
    return load_config(EXAMPLE, PrepConfig, [*changes, *more])


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("items")
    write_scenes(folder)
    with LocalWorld(folder, tmp_path_factory.mktemp("world")) as world:
        yield world


@pytest.fixture(scope="module")
def made(world, tmp_path_factory):
    """A dataset, its config, and what its making said."""
    config = config_of(tmp_path_factory.mktemp("made") / "data", world)
    steps = []
    summary = pipeline.run(config, progress=lambda *counts: steps.append(counts))
    return config, summary, steps


def rows_of(config, kind):
    return {row.task_id: row for row in read_manifest(config.output, kind=kind)}


def test_every_tile_has_a_state_and_the_counts_add_up(made):
    _config, summary, _ = made
    num_places = summary.plan.places
    assert num_places >= 6
    states = summary.fetch.states["imagery"]
    assert sum(states.values()) == 3 * num_places == summary.plan.tiles
    assert summary.build.kept == states["done"]
    assert states["empty"] == sum(summary.fetch.reasons["imagery"].values())
    assert summary.fetch.reasons["imagery"]["no_scene"] >= num_places  # August has no scene
    assert summary.fetch.reasons["imagery"]["cloudy"] >= 1  # the cloudy half of June
    assert summary.build.dropped["empty: no_scene"] == summary.fetch.reasons["imagery"]["no_scene"]
    assert not summary.fetch.failures
    assert summary.fetch.states["land_cover"] == {"done": num_places}


def test_the_clear_day_inside_the_tile_is_chosen_and_snow_is_no_cloud(made):
    config, _, _ = made
    july = [row for name, row in rows_of(config, "imagery").items() if name.endswith("2023-07")]
    done = [row for row in july if row.state == "done"]
    assert done
    assert {tuple(row.result["items"]) for row in done} == {("S2A_33TWL_20230720_0_L2A",)}
    assert all(row.result["cloud_frac"] == 0 for row in done)
    assert max(row.result["snow_frac"] for row in done) == 1.0


def test_tiles_lie_where_they_say_with_the_values_of_the_scene(made):
    config, _, _ = made
    records = [r for r in read_dataset(config.output) if r.month == "2023-07"]
    base = ramp(SIZE_PX, SIZE_PX, base=1200).astype(int) + 600
    for record in records:
        path = config.output / record.image_path
        with rasterio.open(path) as tile:
            assert tile.crs == record.crs == "EPSG:32633"
            assert tuple(tile.transform)[:6] == record.transform
            assert tile.descriptions == ("B04", "B03", "B02", "B08") == record.bands
        column, row = (record.transform[2] - LEFT) / 10, (TOP - record.transform[5]) / 10
        window = base[int(row) : int(row) + 128, int(column) : int(column) + 128]
        if window.shape != (128, 128):
            continue
        values = read_digital_numbers(path, ("B04", "B08"))
        np.testing.assert_array_equal(values[..., 0], window - 1000)  # baseline 05.09
        np.testing.assert_array_equal(values[..., 1], window + 300 - 1000)
        shown = FrameReader(config.output).read(record)
        assert shown[0, 0, 0] == np.clip(round(int(values[0, 0, 0]) * 255 / 4000), 1, 255)
        break
    else:
        pytest.fail("no tile lies inside the scene")


def test_a_record_says_where_everything_comes_from(made):
    config, _, _ = made
    record = next(r for r in read_dataset(config.output) if r.month == "2023-07")
    assert record.acquired == "2023-07-20T09:57:57Z"
    assert record.scene_ids == ("S2A_33TWL_20230720_0_L2A",)
    assert (record.processing_baseline, record.digital_number_offset) == ("05.09", -1000)
    assert record.reflectance_range == (0.0, 0.4)
    assert "Copernicus Sentinel data 2023" in record.attribution
    assert record.country in {"Slovenia", "Croatia"}
    assert record.land_cover is not None
    assert sum(record.land_cover_fracs) == pytest.approx(1)
    assert record.land_cover_fracs[record.land_cover - 1] == record.land_cover_frac
    assert "2021" in record.land_cover_source
    assert str(config.land_cover.url) in record.land_cover_source  # another's map is named
    assert record.climate_source == f"NASA POWER monthly at {config.climate.url}"
    summary = read_summary(config.output)
    assert {text.split(":")[0] for text in summary["attribution"]} >= {"Place names"}
    assert any("Land cover" in note and "2021" in note for note in summary["notes"])


def test_climate_is_that_of_the_cell_with_history_normals_and_indices(made):
    config, _, _ = made
    record = next(r for r in read_dataset(config.output) if r.month == "2023-07")
    lat, lon = 45.5, 15.0
    for name, tolerance in (("temperature_c", 0.01), ("solar_radiation_mj_m2_day", 0.02)):
        expected = true_value(name, lat, lon, "2023-07")
        assert getattr(record, name) == pytest.approx(expected, abs=tolerance)
    history = record.precipitation_mm_day_history
    assert len(history) == HISTORY_MONTHS
    assert history[0] == pytest.approx(
        true_value("precipitation_mm_day", lat, lon, "2022-07"), abs=0.01
    )
    julys = [true_value("temperature_c", lat, lon, f"{year}-07") for year in range(1991, 2021)]
    assert record.temperature_c_normals[6] == pytest.approx(np.mean(julys), abs=0.01)
    assert -4 < record.spi < 4
    assert -4 < record.sti < 4
    assert record.climate_kind == "observed"


def test_neighbours_ask_for_climate_once(made, world):
    config, summary, _ = made
    assert summary.fetch.states["climate"] == {"done": 1}
    assert len(list((config.output / "climate").iterdir())) == 1


def test_prompts_stand_beside_the_records(made):
    config, summary, _ = made
    prompts = pq.read_table(config.output / "prompts.parquet").to_pylist()
    assert len(prompts) == summary.build.kept
    assert prompts[0]["long"].startswith("a ")
    assert "satellite image" in prompts[0]["short"]


def test_the_dataset_passes_its_check(made):
    config, summary, _ = made
    report = check_dataset(config.output)
    assert report.frames == summary.build.kept
    assert not report.failures


def test_pages_are_there(made):
    config, summary, _ = made
    plan = (config.output / "plan" / "index.html").read_text()
    rows = re.findall(r"<td[^>]*>(2023-0\d)</td>\s*<td[^>]*>(\d+)</td>", plan)
    assert rows == [("2023-06", "1"), ("2023-07", "2"), ("2023-08", "0")]  # none is none too
    assert summary.report.stat().st_size > 1000


def test_progress_names_its_steps(made):
    _, summary, steps = made
    assert ("imagery", summary.plan.tiles, summary.plan.tiles) in steps
    assert list(dict.fromkeys(step for step, _, _ in steps))[-1] == "inspection"


def contents(folder: Path) -> dict[str, bytes]:
    files = (p for p in folder.rglob("*") if p.is_file() and p.name not in (".lock", "config.yaml"))
    return {str(p.relative_to(folder)): p.read_bytes() for p in files}


def test_running_again_asks_nobody_and_changes_nothing(made, world):
    config, _, _ = made
    before = contents(config.output)
    asked = len(world.catalogue.requests), world.power.num_requests
    times = {p: p.stat().st_mtime_ns for p in (config.output / "images").rglob("*.tif")}
    pipeline.run(config)
    assert (len(world.catalogue.requests), world.power.num_requests) == asked
    assert contents(config.output) == before
    assert all(p.stat().st_mtime_ns == time for p, time in times.items())


def test_other_workers_give_the_same_bytes(made, world, tmp_path):
    config, _, _ = made
    other = config_of(tmp_path / "data", world, "engine.scheduler=processes")
    pipeline.run(other)
    assert contents(other.output) == contents(config.output)


def test_a_changed_threshold_does_again_only_what_it_decides(made, world, tmp_path):
    config = config_of(tmp_path / "data", world)
    pipeline.run(config)
    asked = world.power.num_requests
    stricter = config_of(tmp_path / "data", world, "imagery.max_cloud_frac=1")
    summary = pipeline.run(stricter)
    assert "cloudy" not in summary.fetch.reasons["imagery"]
    assert world.power.num_requests == asked


def test_a_build_of_other_settings_than_were_fetched_is_refused(made, world):
    config, _, _ = made
    changes = {"imagery.max_cloud_frac=0.1": "imagery", "climate.url=http://x.org": "climate"}
    for change, section in changes.items():
        with pytest.raises(DataError, match=rf"{section} changed.*prep fetch"):
            pipeline.build(config_of(config.output, world, change))
    pipeline.build(config_of(config.output, world, "climate.timeout_s=9", "imagery.url=http://x"))


def test_what_the_user_mended_is_tried_again_and_what_he_replaced_is_read_again(world, tmp_path):
    path = tmp_path / "igbp.tif"
    settings = ["land_cover.source=mcd12q1-geotiff", f"land_cover.path={path}"]
    config = config_of(tmp_path / "data", world, *settings)
    summary = pipeline.run(config)
    assert set(summary.fetch.states["land_cover"]) == {"failed"}
    for code in (5, 12):
        write_map(path, code)
        assert not pipeline.run(config).fetch.failures
        covers = {record.land_cover for record in read_dataset(config.output)}
        assert covers == {code}


def write_map(path: Path, code: int) -> None:
    profile = {"driver": "GTiff", "dtype": "uint8", "count": 1, "width": 40, "height": 40}
    transform = rasterio.Affine(0.01, 0, 14.9, 0, -0.01, 45.8)
    with rasterio.open(path, "w", crs="EPSG:4326", transform=transform, **profile) as target:
        target.write(np.full((40, 40), code, np.uint8), 1)


def test_the_same_ground_under_two_names_is_found(world, tmp_path):
    points = tmp_path / "points.csv"
    points.write_text("id,lat,lon\na,45.588,15.02\nb,45.56,15.04\n")
    region = ["region.bbox=null", f"region.points={points}"]
    config = config_of(tmp_path / "data", world, *region)
    pipeline.plan(config)
    first, second = pipeline._places(config)
    twin = replace(first, location_id="c")
    write_places(config.output / "plan" / "places.parquet", [first, second, twin])
    pipeline.fetch(config)
    pipeline.build(config)
    flagged = {r.location_id for r in read_dataset(config.output) if "duplicate" in r.flags}
    assert flagged == {"c"}


def test_a_tile_that_was_changed_on_disk_is_listed_and_fetched_again(world, tmp_path):
    config = config_of(tmp_path / "data", world)
    summary = pipeline.run(config)
    path = sorted((config.output / "images").rglob("*.tif"))[0]
    intact = path.read_bytes()
    path.write_bytes(intact[:-40] + bytes(40))
    shutil.rmtree(config.output / "tasks" / "inspection")
    damaged = pipeline.build(config)
    assert damaged.kept == summary.build.kept - 1
    assert damaged.dropped["damaged"] == 1
    assert any(path.stem.split("_")[0] in failure for failure in damaged.failures)
    healed = pipeline.run(config)
    assert healed.build.kept == summary.build.kept
    assert path.read_bytes() == intact


def test_a_provider_that_always_fails_is_told_with_its_reason(world, tmp_path):
    changes = [f"output={tmp_path / 'data'}", *SETTINGS, *world.overrides, PROVIDER]
    changes += ["imagery.num_retries=0", "--json"]
    world.catalogue.add_fault(r"\.tif$", 503, hits=None)
    try:
        result = CliRunner().invoke(app, ["prep", "run", str(EXAMPLE), *changes])
    finally:
        world.catalogue.faults.clear()
    assert result.exit_code == 1, result.stderr
    content = json.loads(result.stdout)
    assert content["build"] is None
    assert "503" in content["failures"][0]


def test_bands_that_no_scene_has_are_refused_before_anything_is_fetched(world, tmp_path):
    config = config_of(tmp_path / "data", world, "imagery.bands=[B04, B03, B02, B11]")
    with pytest.raises(RequestError, match="No scene of the catalogue has B11; there are B02"):
        pipeline.plan(config)


def test_a_damaged_plan_says_how_to_go_on(world, tmp_path):
    config = config_of(tmp_path / "data", world)
    summary = pipeline.plan(config)
    assert summary.tiles_without_scene == summary.places  # those of August
    (config.output / "plan" / "summary.json").write_text("{")
    with pytest.raises(DataError, match=r"is damaged\. Delete"):
        pipeline.plan(config)


def test_months_whose_climate_is_not_there_yet_are_counted_and_asked_for_again(
    world, tmp_path, monkeypatch
):
    monkeypatch.setattr(world.power, "gaps", frozenset({"202307"}))
    config = config_of(tmp_path / "data", world)
    summary = pipeline.run(config)
    julys = sum(record.month == "2023-07" for record in read_dataset(config.output))
    assert summary.build.without == dict.fromkeys(sorted(CLIMATE), julys)
    assert any("2023-07" in note and "power-daily" in note for note in summary.build.notes)
    monkeypatch.undo()
    assert not pipeline.run(config).build.without


def test_a_changed_plan_is_refused_and_named(made, world):
    config, _, _ = made
    with pytest.raises(RequestError, match=r"last_month.*Choose another output"):
        pipeline.plan(config_of(config.output, world, "last_month=2023-07"))


def test_two_runs_do_not_share_a_folder(made):
    config, _, _ = made
    with pipeline._locked(config), pytest.raises(RequestError, match="Another run works"):
        pipeline.fetch(config)


def test_verbs_say_which_one_comes_before_them(world, tmp_path):
    config = config_of(tmp_path / "data", world)
    with pytest.raises(DataError, match="ecomap prep plan"):
        pipeline.fetch(config)
    pipeline.plan(config)
    with pytest.raises(DataError, match="ecomap prep fetch"):
        pipeline.build(config)


def test_what_fails_is_kept_apart_listed_and_tried_again(world, tmp_path, monkeypatch):
    config = config_of(tmp_path / "data", world, "climate.num_retries=0")
    monkeypatch.setattr(world.power, "always", "422")  # no passing fault
    summary = pipeline.run(config)
    assert summary.fetch.states["climate"] == {"failed": 1}
    assert world.power.url in summary.fetch.failures[0]
    assert "tries again" in summary.fetch.failures[0]
    kept = summary.build.kept
    assert summary.build.without == dict.fromkeys(sorted(CLIMATE), kept)
    assert all(r.temperature_c is None for r in read_dataset(config.output))
    monkeypatch.undo()
    healed = pipeline.run(config)
    assert not healed.fetch.failures
    assert all(r.temperature_c is not None for r in read_dataset(config.output))


def test_the_command_exits_with_1_when_something_failed(world, tmp_path):
    changes = [f"output={tmp_path / 'data'}", *SETTINGS, *world.overrides, PROVIDER]
    changes += ["climate.url=http://127.0.0.1:9", "climate.num_retries=0"]
    result = CliRunner().invoke(app, ["prep", "run", str(EXAMPLE), *changes, "--json"])
    assert result.exit_code == 1, result.stderr
    content = json.loads(result.stdout)
    assert len(content["failures"]) == 1
    assert content["build"]["kept"] > 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("region.bbox=[15.09, 45.60, 15.005, 45.53]", "south"),
        ("region.bbox=[-40, 20, -39, 21]", r"(?i)water|sea|ocean|no land"),
        ("imagery.collection=sentinel-9", "has no scene of sentinel-9"),
        ("imagery.url=http://127.0.0.1:9", r"127\.0\.0\.1:9"),
        ("region.country=Slovenia", "exactly one"),
        ("first_month=2023-13", "first_month"),
    ],
)
def test_the_command_exits_with_2_on_bad_input_without_a_traceback(
    world, tmp_path, change, message
):
    changes = [f"output={tmp_path / 'data'}", *SETTINGS, *world.overrides, PROVIDER]
    changes.append("imagery.num_retries=0")
    result = CliRunner().invoke(app, ["prep", "plan", str(EXAMPLE), *changes, change])
    assert result.exit_code == 2, result.output
    assert "Traceback" not in result.output
    assert re.search(message, result.stderr), result.stderr


def test_a_full_disk_stops_with_what_was_done_kept(world, tmp_path, monkeypatch):
    config = config_of(tmp_path / "data", world, "engine.num_threads=1")
    pipeline.plan(config)
    fetch_tile, calls = steps.fetch_tile, []

    def fill_up(*args, **options):
        calls.append(args)
        if len(calls) == 5:
            raise OSError(errno.ENOSPC, "No space left on device", "tile.tif")
        return fetch_tile(*args, **options)

    monkeypatch.setattr(steps, "fetch_tile", fill_up)
    with pytest.raises(OSError, match="No space left"):
        pipeline.fetch(config)
    states = [row.state for row in rows_of(config, "imagery").values()]
    assert states.count("planned") == len(states) - 4
    monkeypatch.undo()
    assert not pipeline.fetch(config).failures


def test_a_full_disk_is_one_sentence_on_the_command_line(tmp_path, monkeypatch):
    def fail(*args, **options):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(pipeline, "run", fail)
    changes = [f"output={tmp_path / 'data'}", *SETTINGS]
    result = CliRunner().invoke(app, ["prep", "run", str(EXAMPLE), *changes])
    assert result.exit_code == 2
    assert "No space left on device. Free space; the same command goes on." in result.stderr


def test_scenarios_become_changes_of_the_cells(world, tmp_path):
    times = pd.date_range("1991-01", "2080-12", freq="MS")
    warm = 280 + 0.05 * (times.year - 1991) + 10 * np.sin(2 * np.pi * times.month / 12)
    values = np.broadcast_to(np.asarray(warm)[:, None, None], (len(times), 2, 2))
    dataset = xr.Dataset(
        {"tas": (("time", "lat", "lon"), values.copy(), {"units": "K"})},
        {"time": times, "lat": [45.0, 46.0], "lon": [15.0, 16.0]},
        {"source_id": "FakeESM", "experiment_id": "ssp585"},
    )
    dataset.tas.attrs["standard_name"] = "air_temperature"
    dataset.lat.attrs = {"units": "degrees_north", "standard_name": "latitude"}
    dataset.lon.attrs = {"units": "degrees_east", "standard_name": "longitude"}
    path = tmp_path / "tas.nc"
    dataset.to_netcdf(path, engine="h5netcdf")
    scenario = {
        "name": "ssp585-2065",
        "model": "FakeESM",
        "experiment": "ssp585",
        "historical_paths": [str(path)],
        "future_paths": [str(path)],
        "baseline_years": [1991, 2020],
        "horizon_years": [2051, 2080],
    }
    config = config_of(tmp_path / "data", world, f"scenarios={json.dumps([scenario])}")
    summary = pipeline.run(config)
    assert summary.fetch.states["scenario"] == {"done": 1}
    rows = pq.read_table(config.output / "scenarios.parquet").to_pylist()
    assert [row["month"] for row in rows] == list(range(1, 13))
    assert {(r["scenario"], r["variable"], r["kind"]) for r in rows} == {
        ("ssp585-2065", "temperature_c", "offset")
    }
    assert rows[0]["value"] == pytest.approx(0.05 * 60, abs=1e-6)


@pytest.mark.shared
def test_the_example_makes_a_dataset_of_real_scenes(shared_data, tmp_path):
    with LocalWorld(shared_data / "stac_s2_mini", tmp_path / "world") as world:
        changes = [f"output={tmp_path / 'data'}", *world.overrides]
        config = load_config(EXAMPLE, PrepConfig, changes)
        summary = pipeline.run(config)
    assert not summary.fetch.failures
    records = read_dataset(config.output)
    assert summary.build.kept == len(records) >= 20
    assert {r.month for r in records} == {"2023-08"}
    assert {"train", "val", "test"} <= {r.split for r in records}
    assert all(r.cloud_frac < 0.2 for r in records)
    assert summary.build.report["train_test"]["gap_tiles"] >= 1
    means = [FrameReader(config.output).read(r).mean() for r in records[:5]]
    assert all(20 < mean < 120 for mean in means)  # neither dark with an offset twice, nor white
