"""Runs of data preparation that are killed, interrupted, or started twice in one folder."""

import os
import signal
import time

import pytest

from data_prep.manifest import read_manifest
from tests.kill_prep import (
    MOMENTS,
    contents,
    differences,
    finish,
    kill,
    kill_and_compare,
    start,
    wait_for,
)
from tests.local_world import LocalWorld

pytestmark = [pytest.mark.slow, pytest.mark.shared]
FEW = (MOMENTS[7], MOMENTS[15])
"""One among the tiles, one while the dataset is written."""


@pytest.fixture(scope="module")
def world(shared_data, tmp_path_factory):
    with LocalWorld(shared_data / "stac_s2_mini", tmp_path_factory.mktemp("world")) as world:
        yield world


@pytest.fixture(scope="module")
def whole(world, tmp_path_factory):
    output = tmp_path_factory.mktemp("whole") / "dataset"
    finish(start(output, world.overrides))
    names = set(contents(output))
    assert {"records.parquet", "dataset.json", "manifest.parquet", "report/report.json"} < names
    assert [name for name in names if ".tmp" in name] == []
    return output


def test_a_run_that_was_killed_again_and_again_leaves_what_a_run_in_peace_leaves(
    world, whole, tmp_path
):
    moments = MOMENTS if os.environ.get("ECOMAP_ALL_KILLS") == "1" else FEW
    kills, differing = kill_and_compare(
        moments, world.overrides, whole=whole, output=tmp_path / "dataset"
    )
    assert [one for one in kills if not one.is_hit] == []
    assert differing == []


@pytest.fixture
def slow_world(world, monkeypatch):
    monkeypatch.setattr(world.catalogue, "latency_s", 0.3)
    return world


def test_ctrl_c_during_the_fetch_says_so_and_leaves_what_can_be_gone_on_with(
    slow_world, whole, tmp_path, monkeypatch
):
    output = tmp_path / "dataset"
    run = start(output, [*slow_world.overrides, "engine.num_threads=1", "engine.batch_size=1"])
    wait_for(output, "tasks/imagery/*/*.json", run)
    begin = time.monotonic()
    os.killpg(run.pid, signal.SIGINT)  # as a terminal does: to the workers too
    _, complaints = run.communicate(timeout=60)
    assert time.monotonic() - begin < 30
    assert run.returncode == 130
    bars = "━╸╺"
    said = [line for line in complaints.splitlines() if line.strip() and not set(bars) & set(line)]
    assert "Traceback" not in complaints
    assert len(said) == 2, said
    assert said[0].startswith("stopping: tiles under way are finished")
    assert said[1].startswith("interrupted. The same command goes on")
    assert [p for p in output.rglob("*") if ".tmp" in p.name] == []
    states = {row.state for row in read_manifest(output)}
    assert "planned" in states
    assert "failed" not in states
    monkeypatch.setattr(slow_world.catalogue, "latency_s", 0.0)
    finish(start(output, slow_world.overrides))
    assert differences(whole, output) == []


def test_a_second_run_in_the_same_folder_is_refused(slow_world, tmp_path):
    output = tmp_path / "dataset"
    run = start(output, [*slow_world.overrides, "engine.num_threads=1"])
    try:
        wait_for(output, "plan/summary.json", run)
        other = start(output, slow_world.overrides, verb="fetch")
        said, complaints = other.communicate(timeout=60)
        assert other.returncode == 2
        assert complaints.strip().startswith(f"error: Another run works in {output}.")
        assert "Traceback" not in complaints
        assert said == ""
        assert run.poll() is None
    finally:
        kill(run)
