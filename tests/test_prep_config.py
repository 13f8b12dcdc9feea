from pathlib import Path

import pytest

from data_prep.prep_config import PrepConfig, month_range
from ecomap.config import load_config
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
        ("engine.scheduler=ray", "scheduler"),
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


def test_settings_can_key_a_cache():
    for section in ("climate", "imagery", "land_cover", "engine"):
        assert hash(getattr(config_of(), section)) == hash(getattr(config_of(), section))
