"""Asset names of the providers against items that they published."""

import json
from pathlib import Path
from typing import get_args

import pytest

from data_prep.prep_config import Band, ProviderName
from data_prep.providers import NATIVE_RESOLUTIONS_M, PROVIDERS, SCENE_CLASSES

ITEMS = {
    "earth-search": "stac_s2_mini/S2A_33TWM_20230815_0_L2A.json",
    "planetary-computer": "stac_items/odc-stac/S2B_MSIL2A_20190629T212529_R043_T06VVN_"
    "20201006T080531.json",
}
# The naming of Earth Search's Collection 1 and of stactools is the same.
STACTOOLS = (
    "stac_items/stactools-sentinel2/S2A_MSIL2A_20230625T234621_N0509_R073_T01WCP_"
    "20230626T022158.SAFE/expected_output.json"
)
EARTH_SEARCH_V0 = "stac_items/odc-stac/S2A_28QCH_20200714_0_L2A.json"


def assets_of(path: Path) -> dict:
    return json.loads(path.read_text())["assets"]


def test_every_provider_of_the_config_is_known_and_names_every_band():
    assert set(PROVIDERS) == set(get_args(ProviderName))
    for name, provider in PROVIDERS.items():
        assert provider.name == name
        assert set(provider.assets) == {*get_args(Band), SCENE_CLASSES}
        assert all(provider.assets.values())


def test_only_kinds_of_catalogue_have_no_address():
    without = {name for name, provider in PROVIDERS.items() if provider.url is None}
    assert without == {"stac-api", "static-catalog"}
    assert all(p.url.startswith("https://") for p in PROVIDERS.values() if p.url)


def test_only_planetary_computer_signs():
    assert {p.signs for n, p in PROVIDERS.items() if n != "planetary-computer"} == {None}
    assert PROVIDERS["planetary-computer"].signs == "planetary-computer"


def test_attribution_names_copernicus_and_takes_years():
    for provider in PROVIDERS.values():
        text = provider.attribution.format(years="2021-2022")
        assert text == "Contains modified Copernicus Sentinel data 2021-2022"
        assert "Copernicus" in provider.license


@pytest.mark.shared
@pytest.mark.parametrize("name", ITEMS)
def test_first_names_are_those_that_the_provider_publishes(name, shared_data):
    published = assets_of(shared_data / ITEMS[name])
    bands = ("B02", "B03", "B04", "B08", "SCL")
    for band in bands:
        asset = published[PROVIDERS[name].assets[band][0]]
        assert band in asset["href"]


@pytest.mark.shared
@pytest.mark.parametrize("path", [STACTOOLS, EARTH_SEARCH_V0, ITEMS["planetary-computer"]])
def test_generic_names_find_every_band_at_its_native_resolution(path, shared_data):
    published = assets_of(shared_data / path)
    for band, names in PROVIDERS["stac-api"].assets.items():
        found = next(published[name] for name in names if name in published)
        assert f"{band}_" in found["href"] or f"/{band}." in found["href"]
        if "proj:transform" in found:
            assert found["proj:transform"][0] == NATIVE_RESOLUTIONS_M[band]


@pytest.mark.shared
def test_collection_1_names_are_stactools_names(shared_data):
    published = assets_of(shared_data / STACTOOLS)
    assert all(name in published for (name,) in PROVIDERS["earth-search-c1"].assets.values())
