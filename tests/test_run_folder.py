"""Folders of runs: what was asked for, on which data, by one run at a time."""

import json
import subprocess
import sys

import pytest

from ecomap.accelerators import open_accelerator
from ecomap.checkpoint import name_of
from ecomap.config import load_config
from ecomap.errors import ConfigError
from ecomap.run_folder import alone_in, open_run
from ecomap.versions import versions
from tests.second_run import elsewhere
from tests.small_training import settings


@pytest.fixture
def data(tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "records.parquet").write_bytes(b"one")
    return folder


def opened(*given, **options):
    with open_run(*given, **options):
        pass


def test_a_run_that_has_learnt_goes_on_only_as_it_began(tmp_path, data):
    run = tmp_path / "run"
    opened(run, settings(), [data], accelerator=open_accelerator(False, "cpu"))
    assert load_config(run / "config.yaml", type(settings())) == settings()
    assert json.loads((run / "versions.json").read_text()) == [versions()]
    opened(run, settings(steps=99), [data])
    assert load_config(run / "config.yaml", type(settings())).steps == 99, "nothing was learnt yet"
    (run / "checkpoints" / name_of(3)).mkdir(parents=True)
    opened(run, settings(steps=99), [data])
    before = {path.name: path.read_bytes() for path in run.iterdir() if path.is_file()}
    with pytest.raises(ConfigError, match="another config"):
        opened(run, settings(steps=98), [data])
    (data / "records.parquet").write_bytes(b"two")
    with pytest.raises(ConfigError, match="on other records"):
        opened(run, settings(steps=99), [data])
    assert {path.name: path.read_bytes() for path in run.iterdir() if path.is_file()} == before


def test_one_run_works_in_a_folder_and_clears_up_what_another_left(tmp_path):
    left = tmp_path / "checkpoints" / f".tmp_{name_of(3)}"
    left.mkdir(parents=True)
    (left / "state.safetensors").write_bytes(b"half")

    def second():
        with alone_in(tmp_path, is_main=True):
            pass

    with alone_in(tmp_path, is_main=True):
        assert not left.exists()
        with alone_in(tmp_path, is_main=False):
            pass
        with alone_in(tmp_path / ".", is_main=True):
            pass
        with pytest.raises(ConfigError, match=f"Another run works in {tmp_path}"):
            elsewhere(second)
    elsewhere(second)


def test_a_folder_is_its_runs_own_until_the_block_ends(tmp_path, data):
    run = tmp_path / "run"
    with open_run(run, settings(), [data]):
        with alone_in(run, is_main=True):  # as the loop does
            pass
        with pytest.raises(ConfigError, match=f"Another run works in {run}"):
            elsewhere(opened, run, settings(steps=99), [data])
        code = f"from filelock import FileLock; FileLock({str(run / '.lock')!r}).acquire(timeout=0)"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
        assert b"Timeout" in done.stderr, "nor does another process"
        assert load_config(run / "config.yaml", type(settings())) == settings()
    with pytest.raises(ValueError, match="odd"), open_run(run, settings(), [data]):
        raise ValueError("odd")
    elsewhere(opened, run, settings(steps=99), [data])
    assert load_config(run / "config.yaml", type(settings())).steps == 99
