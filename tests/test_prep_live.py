"""A few questions to the real services, to see that they still answer as we think.

Run with ``python -m pytest -m live tests/test_prep_live.py``; they need the internet.
"""

from pathlib import Path

import pytest

from data_prep.catalogue import search
from data_prep.grid import place_at
from data_prep.imagery_task import fetch_tile
from data_prep.land_cover import fetch_land_cover
from data_prep.power import cell_of, fetch_power
from data_prep.prep_config import ClimateSettings, ImageryConfig, LandCoverConfig
from data_prep.scenes import dedupe, index_scenes, scene_of
from ecomap.schema import CLIMATE

pytestmark = [pytest.mark.live, pytest.mark.slow]
ZAGREB = place_at("zagreb", 45.81, 15.98, size_px=128, resolution_m=10)


@pytest.mark.parametrize("provider", ["earth-search", "earth-search-c1", "planetary-computer"])
def test_a_provider_gives_a_clear_tile_of_a_summer_month(tmp_path: Path, provider):
    config = ImageryConfig(provider=provider, max_cloud_frac=0.5)
    items = search([ZAGREB], ["2023-08"], config)
    scenes, _ = dedupe([scene_of(item, provider) for item in items])
    candidates = index_scenes(scenes).at(ZAGREB, "2023-08")
    result = fetch_tile(ZAGREB, "2023-08", candidates, path=tmp_path / "zagreb.tif", config=config)
    assert result.state == "done"
    assert "offset_suspect" not in result.flags


def test_the_climate_service_knows_three_variables_in_units_that_we_know():
    cell = cell_of(ZAGREB.lat, ZAGREB.lon)
    series = fetch_power(cell, first_year=2019, last_year=2020, config=ClimateSettings())
    assert len(series.months) == 24
    assert all(series.value(name, "2020-07") is not None for name in CLIMATE)
    assert 15 < (series.value("temperature_c", "2020-07") or 0) < 30


@pytest.mark.parametrize("source", ["worldcover", "mcd12q1-service"])
def test_a_map_knows_the_class_of_a_town(source):
    found = fetch_land_cover(ZAGREB, LandCoverConfig(source=source))
    assert found.land_cover is not None
    assert sum(found.fracs.values()) == pytest.approx(1)
