"""Folders of runs: what was asked for, on which data, by one run at a time."""

import json

import pytest

from ecomap.accelerators import open_accelerator
from ecomap.checkpoint import name_of
from ecomap.config import load_config
from ecomap.errors import ConfigError
from ecomap.run_folder import alone_in, open_run
from ecomap.versions import versions
from tests.small_training import settings


@pytest.fixture
def data(tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "records.parquet").write_bytes(b"one")
    return folder


def test_a_run_that_has_learnt_goes_on_only_as_it_began(tmp_path, data):
    run = tmp_path / "run"
    open_run(run, settings(), [data], accelerator=open_accelerator(False, "cpu"))
    assert load_config(run / "config.yaml", type(settings())) == settings()
    assert json.loads((run / "versions.json").read_text()) == [versions()]
    open_run(run, settings(steps=99), [data])
    assert load_config(run / "config.yaml", type(settings())).steps == 99, "nothing was learnt yet"
    (run / "checkpoints" / name_of(3)).mkdir(parents=True)
    open_run(run, settings(steps=99), [data])
    before = {path.name: path.read_bytes() for path in run.iterdir() if path.is_file()}
    with pytest.raises(ConfigError, match="another config"):
        open_run(run, settings(steps=98), [data])
    (data / "records.parquet").write_bytes(b"two")
    with pytest.raises(ConfigError, match="on other records"):
        open_run(run, settings(steps=99), [data])
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
        with pytest.raises(ConfigError, match=f"Another run works in {tmp_path}"):
            second()
        with alone_in(tmp_path, is_main=False):
            pass
    second()
