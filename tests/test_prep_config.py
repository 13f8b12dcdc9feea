from pathlib import Path

import pytest

from data_prep.prep_config import PrepConfig, month_range, resolved
from ecomap.config import dump_config, load_config
from ecomap.errors import ConfigError

CONFIGS = Path(__file__).parent.parent / "configs"
BASE = ["output=x", "region.country=Kenya", "first_month=2020-11", "last_month=2021-02"]


def config_of(*changes: str) -> PrepConfig:
    return load_config(None, PrepConfig, [*BASE, *changes])


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("prep_*.yaml")), ids=lambda p: p.name)
def test_every_shipped_config_loads(path):
    assert load_config(path, PrepConfig).months


def test_months_run_over_the_turn_of_a_year():
    assert config_of().months == ("2020-11", "2020-12", "2021-01", "2021-02")
    assert month_range("2021-01", "2021-01") == ("2021-01",)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("region.bbox=[1, 2, 3, 4]", "bbox and country is given; give exactly one"),
        ("region.country=null", "nothing is given"),
        ("last_month=2020-10", "lies before first_month"),
        ("imagery.bands=[B08]", "B04, B03, B02 among them"),
        ("imagery.bands=[B04, B03, B02, B02]", "every band once"),
        ("climate.normals_last_year=1991", "must lie after"),
        ("climate.source=cf", "paths is empty"),
        ("land_cover.source=dynamicworld", "path is empty"),
        ("land_cover.year=2019", "WorldCover exists for 2020 and 2021"),
        ("display.white=0", "white"),
        ("display.black=0.5", "not above black"),
        ("engine.scheduler=ray", "it must be serial, processes, dask, or an address"),
        ("first_month=2023-13", "it must be written YYYY-MM"),
        ("imagery.provider=earth-serch", r"did you mean 'earth-search'"),
        ("region.bbox=[1, 2, 3]", r"region\.bbox has 3 values; it needs more"),
        ("region.bbox=1,2,3,4", r"must be a list, \[a, b"),
        ("grid.size_px=8", "size_px"),
        ("imagrey.provider=x", "Did you mean 'imagery'"),
    ],
)
def test_impossible_settings_are_refused_by_name(change, message):
    with pytest.raises(ConfigError, match=message):
        config_of(change)


def scenario(name="a"):
    return (
        f"{{name: {name}, model: M, experiment: ssp585, historical_paths: [h.nc], "
        "future_paths: [f.nc]}"
    )


def test_scenarios_need_cells_and_names_of_their_own():
    assert len(config_of(f"scenarios=[{scenario()}, {scenario('b')}]").scenarios) == 2
    with pytest.raises(ConfigError, match="every name once"):
        config_of(f"scenarios=[{scenario()}, {scenario()}]")
    with pytest.raises(ConfigError, match=r"scenarios need climate\.source"):
        config_of(f"scenarios=[{scenario()}]", "climate.source=none")


CHOSEN = "{temperature_c: tasmax, precipitation_mm_day: rain}"


def test_variables_of_climate_files_are_a_mapping_that_can_key_a_cache(tmp_path):
    first = config_of(f"climate.variables={CHOSEN}")
    again = config_of("climate.variables.precipitation_mm_day=rain",
                      "climate.variables.temperature_c=tasmax")  # fmt: skip
    assert first.climate == again.climate
    assert hash(first.climate) == hash(again.climate)
    assert first.climate != config_of().climate
    assert dict(first.climate.variables) == {
        "temperature_c": "tasmax",
        "precipitation_mm_day": "rain",
    }
    assert dict(config_of().climate.variables) == {}
    dump_config(first, tmp_path / "c.yaml")
    assert "  variables:\n    precipitation_mm_day: rain\n" in (tmp_path / "c.yaml").read_text()
    assert load_config(tmp_path / "c.yaml", PrepConfig) == first
    assert PrepConfig.model_validate(first.model_dump()) == first
    dump_config(config_of(), tmp_path / "d.yaml")
    assert load_config(tmp_path / "d.yaml", PrepConfig) == config_of()


def test_variables_of_scenarios_too_are_hashed_and_dumped(tmp_path):
    text = f"scenarios=[{scenario()[:-1]}, variables: {{temperature_c: tasmax}}}}]"
    config = config_of(text)
    assert dict(config.scenarios[0].variables) == {"temperature_c": "tasmax"}
    assert hash(config.scenarios[0]) == hash(config_of(text).scenarios[0])
    assert config.model_dump(mode="json")["scenarios"][0]["variables"] == {
        "temperature_c": "tasmax"
    }


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("{tas: tas}", r"climate\.variables is .*'tas' is no climate variable; choose of temp"),
        ("{temperature_c: 5}", "needs the name that it has in the files"),
        ("{temperature_c: ''}", "needs the name"),
        ("{temperature_c: null}", "needs the name"),
        ("tas", "must be a mapping such as"),
        ("null", "must be a mapping such as"),
    ],
)
def test_variables_that_cannot_be_are_refused(value, message):
    with pytest.raises(ConfigError, match=message):
        config_of(f"climate.variables={value}")


def test_settings_can_key_a_cache():
    for section in ("climate", "imagery", "land_cover", "engine"):
        assert hash(getattr(config_of(), section)) == hash(getattr(config_of(), section))


def test_whole_paths_are_made_of_local_ones_alone():
    config = resolved(config_of("climate.source=cf", "climate.paths=[a.nc, s3://b/c.zarr]"))
    assert config.output == Path.cwd() / "x"
    assert config.climate.paths == (str(Path.cwd() / "a.nc"), "s3://b/c.zarr")
    assert (config.imagery.url, config.land_cover.path) == (None, None)
    assert resolved(config_of("imagery.url=https://x.org")).imagery.url == "https://x.org"
