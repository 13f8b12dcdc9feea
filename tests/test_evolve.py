"""The verb: from what a user types to a sequence with all of its products."""

import json
import shlex
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import rasterio
from PIL import Image
from typer.main import get_command
from typer.testing import CliRunner

from data_prep.scenarios import parse_months
from data_prep.timelines import open_timelines
from ecomap.cli import app
from ecomap.evolve import evolve
from ecomap.outputs import read_provenance
from ecomap.scene_records import window_records
from ecomap.sequence import SequenceFolder
from ecomap.sequence_frames import open_evolver
from ecomap.start_tile import with_normals
from ecomap.support import Support
from ecomap.support_build import build_support
from ecomap.support_table import write_support
from tests.fakes import TINY_SIZE_PX, made_image, make_tile
from tests.made_evolver import write_evolver


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    path = write_evolver(tmp_path_factory.mktemp("bundle"))
    records = [
        make_tile(
            location_id=str(place), month=f"2004-{month:02d}", lat=-50 + 10 * place,
            lon=12.0 * place, temperature_c=float(place + month), precipitation_mm_day=1.0,
        )
        for place in range(10) for month in range(1, 13)
    ]  # fmt: skip
    write_support(path / "controlnet", build_support(records))
    return path


@pytest.fixture
def start(tmp_path):
    path = tmp_path / "start.png"
    Image.fromarray(made_image(1, TINY_SIZE_PX, TINY_SIZE_PX)).save(path)
    return path


def run(*words):
    result = CliRunner().invoke(app, ["evolve", *map(str, words)])
    return result.exit_code, result.stdout, result.stderr


def ask(bundle, start, output, *more, months="2021-01..2021-12"):
    return run(
        "--start", start, "--lat", 46.5, "--lon", 9.8, "--start-month", "2021-07", "--bundle",
        bundle, "--device", "cpu", "--months", months, "--output", output, *more,
    )  # fmt: skip


def test_a_picture_becomes_a_year_with_all_products(bundle, start, tmp_path):
    code, out, err = ask(bundle, start, tmp_path / "a", "--every", 3, "--members", 2, "--json")
    assert code == 0, err
    told = json.loads(out)
    assert (told["frames"], told["made"]) == (8, 8)
    folder = SequenceFolder.open(tmp_path / "a")
    assert folder.plan.timelines[0].months == ("2021-01", "2021-04", "2021-07", "2021-10")
    assert np.array_equal(
        folder.read("normal", 1, "2021-07"), made_image(1, TINY_SIZE_PX, TINY_SIZE_PX)
    )
    for name in ("index.html", "metrics.csv", "sequence_synth.nc", "stac/collection.json",
                 "films/normal_synth.gif", "films/normal_synth.mp4"):  # fmt: skip
        assert (tmp_path / "a" / name).is_file(), name
    assert any("No layers for QGIS" in note for note in told["notes"])  # a picture has no place
    assert any(note.startswith("normal: ") and "training" in note for note in told["notes"])
    assert set(folder.plan.support) == {"normal"}
    told = read_provenance(folder.frame_path("normal", 1, "2021-10"))
    assert told["seed"] == 1


def test_the_same_command_goes_on_and_another_is_refused(bundle, start, tmp_path):
    words = (bundle, start, tmp_path / "a")
    assert ask(*words, months="2021-01..2021-02")[0] == 0
    folder = SequenceFolder.open(tmp_path / "a")
    folder.frame_path("normal", 0, "2021-02").unlink()
    code, out, _ = ask(*words, "--json", months="2021-01..2021-02")
    assert code == 0
    assert json.loads(out)["made"] == 1
    code, _, err = ask(*words, months="2021-01..2021-03")
    assert code == 2
    assert "holds another sequence (other timelines, support)" in err


def test_scenarios_and_a_series_come_from_files(bundle, start, tmp_path):
    series = tmp_path / "series.csv"
    rows = [f"{2019 + m // 12}-{m % 12 + 1:02d},{10 + m % 12},2.5" for m in range(48)]
    series.write_text("\n".join(["month,temperature_c,precipitation_mm_day", *rows]))
    (tmp_path / "warm.yaml").write_text("kind: delta\ntitle: Warmer\ntemperature: +3\n")
    (tmp_path / "as_is.yaml").write_text("kind: observed\ntitle: As it was\n")
    code, _, err = ask(
        bundle, start, tmp_path / "a", "--climate", series, "--scenario", tmp_path / "as_is.yaml",
        "--scenario", tmp_path / "warm.yaml", months="2021-06..2021-07",
    )  # fmt: skip
    assert code == 0, err
    plan = SequenceFolder.open(tmp_path / "a").plan
    assert plan.start.temperature_c == 16
    as_is, warm = (plan.timeline(name).records[1] for name in ("as_is", "warm"))
    assert (as_is.temperature_c, warm.temperature_c) == (16, 19)
    assert as_is.precipitation_mm_day == 2.5
    assert as_is.temperature_c_history[-1] == 15


def test_a_cloudy_month_is_completed_from_another_one(bundle, start, tmp_path):
    june = tmp_path / "june.png"
    Image.fromarray(made_image(2, TINY_SIZE_PX, TINY_SIZE_PX)).save(june)
    clouds = np.zeros((TINY_SIZE_PX, TINY_SIZE_PX), np.uint8)
    clouds[:, :8] = 255
    Image.fromarray(clouds).save(tmp_path / "clouds.png")
    code, out, err = ask(
        bundle, start, tmp_path / "a", "--hidden", tmp_path / "clouds.png", "--start", june,
        "--start-month", "2021-06", "--json", months="2021-07",
    )  # fmt: skip
    assert code == 0, err
    assert "50% of the start are of 2021-06." in json.loads(out)["notes"]
    folder = SequenceFolder.open(tmp_path / "a")
    assert folder.plan.start_months == ("2021-07", "2021-06")
    assert folder.plan.start_source == "start.png, june.png"
    assert read_provenance(folder.frame_path("normal", 0, "2021-07"))["start"]["months"] == [
        "2021-07", "2021-06",
    ]  # fmt: skip
    shown = folder.read_start()
    assert np.array_equal(shown[:, :8], made_image(2, TINY_SIZE_PX, TINY_SIZE_PX)[:, :8])
    assert np.array_equal(shown[:, 8:], made_image(1, TINY_SIZE_PX, TINY_SIZE_PX)[:, 8:])
    other = tmp_path / "b"
    code, _, err = ask(
        bundle, start, other, "--start", june, "--start-month", "2021-06",
        "--start-month", "2021-05", months="2021-07",
    )  # fmt: skip
    assert code == 2
    assert "--start-month is given 3 times and there are 2 starts" in err
    assert not other.exists()


def test_the_farthest_ground_of_a_scene_says_how_far_its_climate_lies(bundle, tmp_path):
    size, path = 2 * TINY_SIZE_PX, tmp_path / "scene.tif"
    with rasterio.open(
        path, "w", driver="GTiff", count=3, dtype="uint8", height=size, width=size,
        crs="EPSG:4326", transform=rasterio.Affine(0.5, 0, 2, 0, -0.5, 54),
    ) as file:  # fmt: skip
        file.write(np.moveaxis(made_image(1, size, size), -1, 0))
    code, _, err = run(
        "--start", path, "--start-month", "2021-07", "--bundle", bundle, "--device", "cpu",
        "--months", "2021-07", "--steps", 1, "--overlap", 0, "--output", tmp_path / "a",
    )  # fmt: skip
    assert code == 0, err
    plan = SequenceFolder.open(tmp_path / "a").plan
    support, record = Support.open(bundle / "controlnet"), plan.timelines[0].records[0]
    windows = [support.distance(w) for w in window_records(TINY_SIZE_PX, record, 0)]
    assert len(windows) == 4
    distances = [found.distance for found in windows]
    told = plan.support["normal"][0]["distance"]
    assert told == max(distances) > support.distance(record).distance


def examples():
    """Words of the commands that README shows."""
    text = (Path(__file__).parents[1] / "README.md").read_text().replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line.startswith("ecomap evolve ")]
    return [shlex.split(line, comments=True)[2:] for line in lines]


@pytest.mark.parametrize("words", examples(), ids=lambda words: words[-1])
def test_examples_of_the_readme_are_understood_and_their_scenarios_have_their_months(words):
    options = get_command(app).commands["evolve"].make_context("evolve", list(words)).params
    months = parse_months(options["months"], every=options["every"])
    scenarios = [Path(__file__).parents[1] / path for path in options["scenario"] or ()]
    _, found = open_timelines(months, scenarios=scenarios)([with_normals(make_tile())])
    assert len(found) == max(1, len(scenarios))
    changed = {tuple(record.precipitation_mm_day for record in line.records) for line in found}
    assert len(changed) == len({path.name for path in scenarios if "drought" in path.name}) + 1


def test_a_start_is_compared_with_the_scale_of_the_adapter(bundle, start, tmp_path, monkeypatch):
    loaded = open_evolver(bundle, device="cpu")
    card = loaded.card.model_copy(update={"ground_sampling_distance_m": 500.0})
    adapted = replace(loaded, card=card)
    monkeypatch.setattr(sys.modules["ecomap.evolve"], "open_evolver", lambda *_, **__: adapted)
    path = tmp_path / "place.tif"
    place = {"crs": "EPSG:32632", "transform": rasterio.Affine(10, 0, 5e5, 0, -10, 5.15e6)}
    size = {"width": TINY_SIZE_PX, "height": TINY_SIZE_PX, "count": 3, "dtype": "uint8"}
    with rasterio.open(path, "w", driver="GTiff", **size, **place) as file:
        file.write(np.moveaxis(made_image(1, TINY_SIZE_PX, TINY_SIZE_PX), -1, 0))
    result = evolve(
        open_timelines(["2021-07"]), start=path, start_month="2021-07", adapter="some",
        bundle=str(bundle), device="cpu", output=tmp_path / "a",
    )  # fmt: skip
    assert any("learnt from 500 m" in note for note in result.notes)


def test_without_a_start_one_is_generated_and_says_so(bundle, tmp_path):
    code, out, err = run(
        "--lat", 46.5, "--lon", 9.8, "--start-month", "2021-07", "--bundle", bundle, "--device",
        "cpu", "--months", "2021-08", "--output", tmp_path / "a", "--json",
    )  # fmt: skip
    assert code == 0, err
    assert "The start itself is generated." in json.loads(out)["notes"]
    folder = SequenceFolder.open(tmp_path / "a")
    assert folder.plan.start_is_synthetic
    assert (tmp_path / "a" / "sequence_synth.qlr").is_file()


@pytest.mark.parametrize(
    ("words", "fault"),
    [
        (["--months", "2021-13"], "2021-13"),
        (["--months", "0001-01..9999-12"], "a sequence has 1,200 at most"),
        (["--months", "2021-08"], "There is no start and no lat, lon, start-month"),
        (["--months", "2021-08", "--tile", "x", "--lat", "1", "--lon", "2", "--start-month",
          "2021-07"], "--tile is of a start, and none is given"),
        (["--months", "2021-08", "--scenario", "none.yaml"], "none.yaml"),
        (["--months", "2021-08", "--start", "none.tif", "--start-month", "2021-07"], "none.tif"),
        (["--months", "2021-08", "--doors", "window", "--lat", "1", "--lon", "2",
          "--start-month", "2021-07"], "Door 'window' is unknown"),
    ],
)  # fmt: skip
def test_bad_requests_are_told_in_a_sentence(tmp_path, bundle, words, fault):
    code, out, err = run(*words, "--bundle", bundle, "--output", tmp_path / "a")
    assert code == 2
    assert fault in err
    assert "Traceback" not in err + out
    assert not (tmp_path / "a").exists()


def test_a_series_outside_the_months_is_refused_before_anything_is_made(bundle, start, tmp_path):
    series = tmp_path / "series.csv"
    series.write_text("month,temperature_c\n2019-01,4.5\n2019-02,5.5\n")
    code, _, err = ask(bundle, start, tmp_path / "a", "--climate", series, months="2030-01")
    assert code == 2
    assert "2030-01" in err
    assert "2019-01" in err
    assert not (tmp_path / "a").exists()
